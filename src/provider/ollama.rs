//! Ollama's own API: sampling parameters under `options`, tokens as evaluation counts, one completion a call.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::provider::read::{self, Count, Draft, Loose, Objects, Usage, Word};
use crate::provider::wire::{self, Call, Format, Item, Object, Place, Wire, nowhere};
use crate::provider::{Failure, FailureKind, FinishReason, Input, Refusal, Request, Response, refusal};

/// Asks Ollama.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ollama;

const NONE: Place = Place::Nowhere("Ollama has no such thing");

const PLACES: &[(&str, Place)] = &[
    ("temperature", Place::At("options.temperature")),
    ("top_p", Place::At("options.top_p")),
    ("stop", Place::At("options.stop")),
    ("max_tokens", Place::At("options.num_predict")),
    ("max_completion_tokens", Place::At("options.num_predict")),
    ("presence_penalty", Place::At("options.presence_penalty")),
    ("frequency_penalty", Place::At("options.frequency_penalty")),
    ("logit_bias", NONE),
    ("seed", Place::At("options.seed")),
    ("logprobs", Place::At("logprobs")),
    ("top_logprobs", Place::At("top_logprobs")),
    ("response_format", Place::At("format")),
    ("tools", Place::At("tools")),
    ("tool_choice", Place::Nowhere("Ollama's models choose for themselves")),
    ("parallel_tool_calls", NONE),
    ("reasoning_effort", Place::At("think")),
    ("user", NONE),
];

/// Options of Ollama that the OpenAI API has no name for (Ollama's page on the Modelfile).
pub const OPTIONS: &[&str] = &[
    "num_ctx",
    "num_batch",
    "num_gpu",
    "num_keep",
    "num_thread",
    "top_k",
    "min_p",
    "tfs_z",
    "typical_p",
    "repeat_last_n",
    "repeat_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "penalize_newline",
    "draft_num_predict",
];

/// Fields of a body that the OpenAI API has no name for.
pub const FIELDS: &[&str] = &["keep_alive", "think", "format"];

impl Wire for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn places(&self, _request: &Request) -> &'static [(&'static str, Place)] {
        PLACES
    }

    fn encode(&self, request: &Request, _n: u32) -> Result<Call, Failure> {
        let mut body = Object::new();
        body.put("model", request.model.as_str());
        let path = match &request.input {
            Input::Messages(messages) => {
                body.put("messages", Item::Turns(messages));
                "/api/chat"
            }
            Input::Text(text) => {
                body.put("prompt", text.as_str());
                // The text as it is: no template of the model's around it.
                body.put("raw", Value::Bool(true));
                "/api/generate"
            }
        };
        body.put("stream", Value::Bool(false));
        for (name, value) in wire::sent(self, request)? {
            match name {
                "stop" => body.object("options").put("stop", wire::stops(value)),
                "max_tokens" | "max_completion_tokens" => body.object("options").put("num_predict", value),
                "temperature" | "top_p" | "presence_penalty" | "frequency_penalty" | "seed" => {
                    body.object("options").put(name, value);
                }
                "options" => {
                    if !body.object("options").put_all(value) {
                        return Err(nowhere(self, name, "it must be a table"));
                    }
                }
                _ if OPTIONS.contains(&name) => body.object("options").put(name, value),
                "reasoning_effort" => match value.as_str() {
                    Some("none") => body.put("think", Value::Bool(false)),
                    Some("minimal") => body.put("think", "low"),
                    Some("low" | "medium" | "high") => body.put("think", value),
                    _ => return Err(nowhere(self, name, "it is none, minimal, low, medium or high there")),
                },
                "response_format" => match wire::format(self, value)? {
                    Format::Text => {}
                    Format::Json => body.put("format", "json"),
                    Format::Schema(schema, _) => body.put("format", schema),
                },
                "tools" => {
                    wire::functions(self, value)?;
                    body.put("tools", value);
                }
                _ => body.put(name, value),
            }
        }
        Ok(Call::post(path, body.bytes()))
    }

    fn decode(&self, request: &Request, _n: u32, body: &[u8]) -> Result<Response, Refusal> {
        decode(request, body)
    }

    fn several(&self, _request: &Request) -> bool {
        false
    }

    fn key_header(&self) -> &'static str {
        "x-api-key"
    }

    /// Ollama itself wants no key; a proxy before it, and ollama.com, want a token.
    fn bearer(&self) -> bool {
        true
    }

    fn listing(&self) -> Call {
        Call::get("/api/tags")
    }
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    model: Word<'a>,
    #[serde(borrow, default)]
    message: Loose<ReplyMessage<'a>>,
    #[serde(borrow, default)]
    response: Word<'a>,
    #[serde(borrow, default)]
    thinking: Word<'a>,
    #[serde(default)]
    done: Option<Value>,
    #[serde(borrow, default)]
    done_reason: Word<'a>,
    #[serde(default)]
    prompt_eval_count: Count,
    #[serde(default)]
    eval_count: Count,
    #[serde(default)]
    logprobs: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ReplyMessage<'a> {
    #[serde(borrow, default)]
    content: Word<'a>,
    #[serde(borrow, default)]
    thinking: Word<'a>,
    #[serde(borrow, default)]
    tool_calls: Objects<Called<'a>>,
}

#[derive(Deserialize)]
struct Called<'a> {
    #[serde(borrow, default)]
    id: Word<'a>,
    #[serde(borrow, default)]
    function: Loose<CalledFunction<'a>>,
}

#[derive(Deserialize)]
struct CalledFunction<'a> {
    #[serde(borrow, default)]
    name: Word<'a>,
    #[serde(default)]
    arguments: Option<Value>,
}

fn decode(request: &Request, body: &[u8]) -> Result<Response, Refusal> {
    let mut spare = Vec::new();
    let reply: Reply = read::json(body, &mut spare)?;
    if let Some(error) = reply.error.filter(|error| !error.is_null()) {
        return Err(refusal::within(&error, body));
    }
    if reply.message.0.is_none() && reply.response.0.is_none() {
        return Err(read::malformed("the reply has no message"));
    }
    if reply.done == Some(Value::Bool(false)) {
        return Err(read::malformed("the reply is a piece of a stream"));
    }
    if reply.done_reason.text() == Some("load") {
        let loaded = Failure::new(FailureKind::Server, "the model was loaded, but did not answer yet");
        return Err(Refusal::of(loaded, false));
    }
    let finish = match reply.done_reason.text() {
        // Servers from before 2024-08 give no reason.
        None if reply.done == Some(Value::Bool(true)) => FinishReason::STOP,
        word => read::finish(word),
    };
    let mut draft = Draft::new("", finish);
    let mut thoughts = reply.thinking.text().map_or(0, str::len);
    match reply.message.0 {
        Some(message) => {
            thoughts += message.thinking.text().map_or(0, str::len);
            draft.text = message.content.0.unwrap_or_default().into_owned();
            let call = |(at, call): (usize, Called)| {
                let function = call.function.0?;
                // Arguments are an object here and a text in OpenAI's form.
                let arguments = match function.arguments {
                    Some(Value::String(text)) => text,
                    Some(Value::Null) | None => Value::Object(Map::new()).to_string(),
                    Some(other) => other.to_string(),
                };
                let id = call.id.0.map_or_else(|| format!("call_{at}"), |id| id.into_owned());
                let name = function.name.text().unwrap_or_default();
                Some(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
            };
            let calls: Vec<Value> = message.tool_calls.0.into_iter().enumerate().filter_map(call).collect();
            if !calls.is_empty() {
                draft.tool_calls = Some(Value::Array(calls));
                draft.finish_reason = read::finish(Some("tool_calls"));
            }
        }
        None => draft.text = reply.response.0.unwrap_or_default().into_owned(),
    }
    draft.thought = thoughts;
    draft.logprobs = reply.logprobs.filter(Value::is_array).map(|list| json!({"content": list}));
    // A prompt whose evaluation was cached had no count before 2024-09: then it is bounded.
    let usage = Usage { input: reply.prompt_eval_count.0, output: reply.eval_count.0, ..Usage::default() };
    read::settle(request, 1, vec![draft], usage, reply.model.text(), false)
}
