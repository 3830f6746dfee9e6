//! The OpenAI wire format: chat completions and legacy completions, as spoken by OpenAI, vLLM, llama.cpp, TGI, LM Studio,
//! OpenRouter, Groq, Together, LiteLLM proxies and many more; and, for models that need it, OpenAI's Responses API.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::provider::read::{self, Count, Draft, Loose, Objects, Parts, Usage, Word};
use crate::provider::wire::{self, Call, Item, Object, Place, Wire};
use crate::provider::{Failure, FailureKind, FinishReason, Input, Refusal, Request, Response, refusal, responses};

/// Asks in OpenAI's own form.
#[derive(Clone, Debug)]
pub struct Openai {
    /// The endpoint is OpenAI itself: names of models say which parameters they take and which tokenizer bills them.
    pub vendor: bool,
    /// Models, by their id, that are asked through the Responses API.
    pub responses: BTreeSet<String>,
    /// Models, by their id, that are not, whatever their name says.
    pub chat: BTreeSet<String>,
    /// Whether a model of OpenAI's that is in neither is asked through the Responses API, where that is known.
    pub known: fn(&str) -> Option<bool>,
}

impl Default for Openai {
    fn default() -> Self {
        Openai { vendor: false, responses: BTreeSet::new(), chat: BTreeSet::new(), known: |_| None }
    }
}

const CHAT: &[(&str, Place)] = &[
    ("temperature", Place::At("temperature")),
    ("top_p", Place::At("top_p")),
    ("stop", Place::At("stop")),
    ("max_tokens", Place::At("max_tokens")),
    ("max_completion_tokens", Place::At("max_completion_tokens")),
    ("presence_penalty", Place::At("presence_penalty")),
    ("frequency_penalty", Place::At("frequency_penalty")),
    ("logit_bias", Place::At("logit_bias")),
    ("seed", Place::At("seed")),
    ("logprobs", Place::At("logprobs")),
    ("top_logprobs", Place::At("top_logprobs")),
    ("response_format", Place::At("response_format")),
    ("tools", Place::At("tools")),
    ("tool_choice", Place::At("tool_choice")),
    ("parallel_tool_calls", Place::At("parallel_tool_calls")),
    ("reasoning_effort", Place::At("reasoning_effort")),
    ("user", Place::At("user")),
];

/// OpenAI's reasoning models: max_tokens is max_completion_tokens there.
const REASONING: &[(&str, Place)] = &[
    ("temperature", Place::At("temperature")),
    ("top_p", Place::At("top_p")),
    ("stop", Place::At("stop")),
    ("max_tokens", Place::At("max_completion_tokens")),
    ("max_completion_tokens", Place::At("max_completion_tokens")),
    ("presence_penalty", Place::At("presence_penalty")),
    ("frequency_penalty", Place::At("frequency_penalty")),
    ("logit_bias", Place::At("logit_bias")),
    ("seed", Place::At("seed")),
    ("logprobs", Place::At("logprobs")),
    ("top_logprobs", Place::At("top_logprobs")),
    ("response_format", Place::At("response_format")),
    ("tools", Place::At("tools")),
    ("tool_choice", Place::At("tool_choice")),
    ("parallel_tool_calls", Place::At("parallel_tool_calls")),
    ("reasoning_effort", Place::At("reasoning_effort")),
    ("user", Place::At("user")),
];

const CHAT_ONLY: Place = Place::Nowhere("a model that goes on from a text has no such thing");

/// Completions of a text. Servers of other makers take response_format there too.
const TEXT: &[(&str, Place)] = &[
    ("temperature", Place::At("temperature")),
    ("top_p", Place::At("top_p")),
    ("stop", Place::At("stop")),
    ("max_tokens", Place::At("max_tokens")),
    ("max_completion_tokens", Place::At("max_tokens")),
    ("presence_penalty", Place::At("presence_penalty")),
    ("frequency_penalty", Place::At("frequency_penalty")),
    ("logit_bias", Place::At("logit_bias")),
    ("seed", Place::At("seed")),
    ("logprobs", Place::At("logprobs")),
    ("top_logprobs", Place::At("logprobs")),
    ("response_format", Place::At("response_format")),
    ("tools", CHAT_ONLY),
    ("tool_choice", CHAT_ONLY),
    ("parallel_tool_calls", CHAT_ONLY),
    ("reasoning_effort", CHAT_ONLY),
    ("user", Place::At("user")),
];

/// A model of OpenAI's that thinks: o1, o3, o4-mini, gpt-5 and their kin.
fn reasons(model: &str) -> bool {
    let model = model.rsplit('/').next().unwrap_or(model);
    let digit = |rest: Option<&str>| rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    digit(model.strip_prefix('o'))
        || model.strip_prefix("gpt-").is_some_and(|rest| !rest.starts_with(['3', '4']) && digit(Some(rest)))
}

/// A model of OpenAI's that only the Responses API serves (OpenAI's pages of models, 2025).
fn only_responses(model: &str) -> bool {
    reasons(model) && (model.contains("-pro") || model.contains("-codex") || model.contains("deep-research"))
        || model.starts_with("computer-use")
        || model.starts_with("codex-")
}

impl Openai {
    /// This request goes through the Responses API.
    fn responds(&self, request: &Request) -> bool {
        let model = request.model.as_str();
        matches!(request.input, Input::Messages(_))
            && !self.chat.contains(model)
            && (self.responses.contains(model)
                || (self.vendor && (self.known)(model).unwrap_or_else(|| only_responses(model))))
    }

    /// The fields of a body for a request that does not go through the Responses API, and the path.
    fn body<'a>(&self, request: &'a Request, n: u32) -> Result<(&'static str, Object<'a>), Failure> {
        let mut body = Object::new();
        body.put("model", request.model.as_str());
        let (path, text) = match &request.input {
            Input::Messages(messages) => {
                body.put("messages", Item::Turns(messages));
                ("/chat/completions", false)
            }
            Input::Text(text) => {
                body.put("prompt", text.as_str());
                ("/completions", true)
            }
        };
        let set = |name: &str| request.params.get(name).is_some_and(|value| !value.is_null());
        let renamed = !text && self.vendor && reasons(&request.model) && !set("max_completion_tokens");
        for (name, value) in wire::sent(self, request)? {
            match name {
                "max_tokens" if renamed => body.put("max_completion_tokens", value),
                "max_completion_tokens" if text => body.put("max_tokens", value),
                // For texts the API has one number where chat has two fields; as a number it is that already.
                "logprobs" if text && value.is_boolean() => {
                    if *value == Value::Bool(true) && !set("top_logprobs") {
                        body.put("logprobs", Value::from(0));
                    }
                }
                "top_logprobs" if text => body.put("logprobs", value),
                _ => body.put(name, value),
            }
        }
        // Left out, n is 1 everywhere; some servers refuse the field.
        if n > 1 {
            body.put("n", Value::from(n));
        }
        Ok((path, body))
    }
}

/// Most output tokens of a text completion that does not say: OpenAI's own default, which other servers do not have.
pub const TEXT_TOKENS: u64 = 16;

/// Fields of less use, and of servers that speak this format (vLLM's sampling, for one).
pub const FIELDS: &[&str] = &[
    "metadata",
    "store",
    "prediction",
    "modalities",
    "safety_identifier",
    "prompt_cache_key",
    "logprob_token_ids",
    "echo",
    "suffix",
    "min_tokens",
    "length_penalty",
    "ignore_eos",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "chat_template_kwargs",
    "typical_p",
    "truncation",
];

impl Wire for Openai {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn places(&self, request: &Request) -> &'static [(&'static str, Place)] {
        match request.input {
            _ if self.responds(request) => responses::PLACES,
            Input::Text(_) => TEXT,
            Input::Messages(_) if self.vendor && reasons(&request.model) => REASONING,
            Input::Messages(_) => CHAT,
        }
    }

    fn encode(&self, request: &Request, n: u32) -> Result<Call, Failure> {
        if self.responds(request) {
            return Ok(Call::post("/responses", responses::body(self, request)?.bytes()));
        }
        let (path, body) = self.body(request, n)?;
        Ok(Call::post(path, body.bytes()))
    }

    fn decode(&self, request: &Request, n: u32, body: &[u8]) -> Result<Response, Refusal> {
        match self.responds(request) {
            true => responses::decode(request, body, self.vendor),
            false => decode(request, n, body, self.vendor),
        }
    }

    fn several(&self, request: &Request) -> bool {
        !self.responds(request)
    }

    fn key_header(&self) -> &'static str {
        "api-key"
    }

    fn bearer(&self) -> bool {
        true
    }

    fn listing(&self) -> Call {
        Call::get("/models")
    }
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    model: Word<'a>,
    #[serde(borrow, default)]
    choices: Objects<Choice<'a>>,
    #[serde(default)]
    usage: Loose<Billed>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Count,
    #[serde(borrow, default)]
    message: Loose<ReplyMessage<'a>>,
    #[serde(borrow, default)]
    text: Word<'a>,
    #[serde(borrow, default)]
    finish_reason: Word<'a>,
    #[serde(default)]
    logprobs: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Default, Deserialize)]
struct ReplyMessage<'a> {
    #[serde(borrow, default)]
    content: Parts<'a>,
    #[serde(borrow, default)]
    refusal: Parts<'a>,
    #[serde(default)]
    tool_calls: Option<Value>,
    /// Thoughts, as vLLM, DeepSeek and OpenRouter name them.
    #[serde(borrow, default)]
    reasoning_content: Parts<'a>,
    #[serde(borrow, default)]
    reasoning: Parts<'a>,
}

#[derive(Default, Deserialize)]
struct Billed {
    #[serde(default)]
    prompt_tokens: Count,
    #[serde(default)]
    completion_tokens: Count,
    #[serde(default)]
    total_tokens: Count,
    #[serde(default)]
    prompt_tokens_details: Loose<InputDetails>,
    #[serde(default)]
    completion_tokens_details: Loose<OutputDetails>,
    /// DeepSeek's name of cached tokens.
    #[serde(default)]
    prompt_cache_hit_tokens: Count,
    /// LiteLLM's names, for Anthropic's models.
    #[serde(default)]
    cache_read_input_tokens: Count,
    #[serde(default)]
    cache_creation_input_tokens: Count,
    #[serde(default)]
    reasoning_tokens: Count,
}

#[derive(Default, Deserialize)]
struct InputDetails {
    #[serde(default)]
    cached_tokens: Count,
    #[serde(default)]
    cache_write_tokens: Count,
}

#[derive(Default, Deserialize)]
struct OutputDetails {
    #[serde(default)]
    reasoning_tokens: Count,
}

impl Billed {
    fn usage(self) -> Usage {
        let input = self.prompt_tokens_details.0.unwrap_or_default();
        let cached = [input.cached_tokens, self.prompt_cache_hit_tokens, self.cache_read_input_tokens];
        let written = input.cache_write_tokens.0.or(self.cache_creation_input_tokens.0).unwrap_or(0);
        let details = self.completion_tokens_details.0.unwrap_or_default();
        let reasoning = details.reasoning_tokens.0.or(self.reasoning_tokens.0).unwrap_or(0);
        // xAI and Gemini's compatible address count thoughts apart: then the total tells.
        let (prompt, said) = (self.prompt_tokens.0, self.completion_tokens.0);
        let apart = match (prompt, said, self.total_tokens.0) {
            (Some(prompt), Some(said), Some(total)) => {
                let rest = total.saturating_sub(prompt + said);
                if rest > 0 && (reasoning == 0 || rest == reasoning) { rest } else { 0 }
            }
            _ => 0,
        };
        Usage {
            input: prompt,
            cached: cached.iter().find_map(|count| count.0).unwrap_or(0),
            written,
            output: said.map(|said| said + apart),
            reasoning: reasoning.max(apart),
        }
    }
}

/// Reads a reply of chat or legacy completions. `exact`: the model's name tells the tokenizer that bills it.
pub(super) fn decode(request: &Request, n: u32, body: &[u8], exact: bool) -> Result<Response, Refusal> {
    let mut spare = Vec::new();
    let reply: Reply = read::json(body, &mut spare)?;
    if let (true, Some(error)) = (reply.choices.0.is_empty(), &reply.error) {
        return Err(refusal::within(error, body));
    }
    let mut choices = reply.choices.0;
    choices.sort_by_key(|choice| choice.index.0.unwrap_or(0));
    let (mut failed, mut empty) = (None, false);
    let mut drafts = Vec::with_capacity(choices.len());
    for choice in choices {
        if let (Some("error"), Some(error)) = (choice.finish_reason.text(), choice.error) {
            failed = Some(error);
            continue;
        }
        let filtered = choice.finish_reason.text() == Some("content_filter");
        if choice.message.0.is_none() && choice.text.0.is_none() && !filtered {
            empty = true;
            continue;
        }
        drafts.push(draft(choice.message.0, choice.text, choice.finish_reason, choice.logprobs));
    }
    match failed {
        // It broke off while it wrote, whatever the reason.
        Some(error) if drafts.is_empty() => {
            Err(Refusal { billed: true, ..refusal::within(&error, error.to_string().as_bytes()) })
        }
        None if drafts.is_empty() && empty => Err(malformed(body, "has no message and no text")),
        _ if drafts.iter().any(|draft| draft.text.is_empty() && draft.tool_calls.is_none()) && no_text_at_all(body) => {
            Err(malformed(body, "has a content that is no text"))
        }
        _ => {
            let usage = reply.usage.0.unwrap_or_default().usage();
            read::settle(request, n, drafts, usage, reply.model.text(), exact)
        }
    }
}

fn malformed(body: &[u8], what: &str) -> Refusal {
    read::malformed(format!("a choice of the reply {what}: {}", refusal::excerpt(body)))
}

/// The content of some choice is a number or a truth value: not an answer of nothing, but nothing that could be read.
fn no_text_at_all(body: &[u8]) -> bool {
    let reply: Value = serde_json::from_slice(body).unwrap_or_default();
    let choices = reply.get("choices").and_then(Value::as_array);
    let content = |choice: &Value| choice.get("message").and_then(|message| message.get("content")).cloned();
    choices.is_some_and(|all| all.iter().filter_map(content).any(|content| content.is_number() || content.is_boolean()))
}

fn draft(message: Option<ReplyMessage>, text: Word, finish: Word, logprobs: Option<Value>) -> Draft {
    let mut draft = Draft::new("", read::finish(finish.text()));
    draft.logprobs = logprobs;
    match message {
        Some(message) => {
            let thoughts = message.reasoning_content.0.or(message.reasoning.0);
            draft.thought = thoughts.map_or(0, |thoughts| thoughts.len());
            draft.tool_calls = message.tool_calls;
            match (message.content.0, message.refusal.0) {
                (Some(content), _) if !content.is_empty() => draft.text = content.into_owned(),
                (_, Some(refusal)) if !refusal.is_empty() => {
                    draft.finish_reason = FinishReason::REFUSAL;
                    draft.text = refusal.into_owned();
                }
                _ => {}
            }
        }
        None => draft.text = text.0.unwrap_or_default().into_owned(),
    }
    draft
}

/// What a wire in OpenAI's form shares with this one.
pub(super) fn body<'a>(wire: &Openai, request: &'a Request, n: u32) -> Result<(&'static str, Object<'a>), Failure> {
    if wire.responds(request) {
        return Ok(("/responses", responses::body(wire, request)?));
    }
    wire.body(request, n)
}

/// A failure that names what a model of this kind cannot be asked.
pub(super) fn no_text(wire: &dyn Wire) -> Failure {
    Failure::new(
        FailureKind::BadRequest,
        format!("{} has chat models only: give the prompt as messages or a template, not as a text", wire.name()),
    )
}
