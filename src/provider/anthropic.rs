//! Anthropic's Messages API. One completion a call; input tokens read from and written to the prompt cache are reported
//! apart from the others and are added here.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::provider::openai::no_text;
use crate::provider::read::{self, Count, Draft, Loose, Objects, Usage, Word};
use crate::provider::wire::{self, Call, Choice, Format, Item, Object, Place, Wire, inexpressible, nowhere};
use crate::provider::{Failure, FinishReason, Input, Refusal, Request, Response, refusal};

/// The version of the API that is asked for where none is given.
const VERSION: &str = "2023-06-01";

/// Asks Anthropic.
#[derive(Clone, Debug)]
pub struct Anthropic {
    /// The `anthropic-version`.
    pub version: Option<String>,
    /// Most output tokens of models, by their id: the API wants max_tokens, and this is what stands for it where a request
    /// has none.
    pub outputs: BTreeMap<String, u64>,
    /// The same of models that are not among them.
    pub most: fn(&str) -> Option<u64>,
}

impl Default for Anthropic {
    fn default() -> Self {
        Anthropic { version: None, outputs: BTreeMap::new(), most: |_| None }
    }
}

const NONE: Place = Place::Nowhere("the Messages API has no such thing");

const PLACES: &[(&str, Place)] = &[
    ("temperature", Place::At("temperature")),
    ("top_p", Place::At("top_p")),
    ("stop", Place::At("stop_sequences")),
    ("max_tokens", Place::At("max_tokens")),
    ("max_completion_tokens", Place::At("max_tokens")),
    ("presence_penalty", NONE),
    ("frequency_penalty", NONE),
    ("logit_bias", NONE),
    ("seed", NONE),
    ("logprobs", NONE),
    ("top_logprobs", NONE),
    ("response_format", Place::At("output_config.format")),
    ("tools", Place::At("tools")),
    ("tool_choice", Place::At("tool_choice")),
    ("parallel_tool_calls", Place::At("tool_choice.disable_parallel_tool_use")),
    ("reasoning_effort", Place::At("thinking")),
    ("user", Place::At("metadata.user_id")),
];

/// Fields that the OpenAI API has no name for.
pub const FIELDS: &[&str] = &["metadata", "thinking", "stop_sequences", "cache_control"];

/// The version in a model's name, like (4, 6) of `claude-sonnet-4-6` or (3, 7) of `claude-3-7-sonnet-20250219`.
fn generation(model: &str) -> (u32, u32) {
    let model = model.rsplit(['/', '.']).find(|piece| piece.contains("claude")).unwrap_or(model);
    let mut numbers =
        model.split(['-', '@']).filter_map(|piece| piece.parse::<u32>().ok()).filter(|number| *number < 1000);
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl Anthropic {
    /// How a model of this name is told to think so much (Anthropic's pages on extended thinking and effort): by an effort
    /// from 4.6 on, by a budget of tokens before.
    fn think<'a>(&self, body: &mut Object<'a>, request: &'a Request, effort: &'a Value) -> Result<(), Failure> {
        let generation = generation(&request.model);
        let word = effort.as_str().unwrap_or_default();
        let wrong = |why: &str| nowhere(self, "reasoning_effort", why);
        if !matches!(word, "none" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max") {
            return Err(wrong("it is none, minimal, low, medium, high, xhigh or max"));
        }
        if word == "none" {
            body.put("thinking", json!({"type": "disabled"}));
            return Ok(());
        }
        if generation < (3, 7) {
            return Err(wrong("this model does not think"));
        }
        if generation >= (4, 6) {
            body.put("thinking", json!({"type": "adaptive"}));
            body.object("output_config").put("effort", if word == "minimal" { "low" } else { word });
            return Ok(());
        }
        let budget = match word {
            "minimal" | "low" => 1024,
            "medium" => 4096,
            "high" => 16_384,
            _ => return Err(wrong("xhigh and max need a model from 4.6 on")),
        };
        if self.limit(request)?.as_f64().is_some_and(|limit| limit <= f64::from(budget)) {
            return Err(wrong(&format!("thinking so much takes max_tokens above {budget}")));
        }
        body.put("thinking", json!({"type": "enabled", "budget_tokens": budget}));
        Ok(())
    }

    /// What is sent as max_tokens.
    fn limit<'a>(&self, request: &'a Request) -> Result<Cow<'a, Value>, Failure> {
        let said = |name: &str| request.params.get(name).filter(|value| !value.is_null());
        if let Some(said) = said("max_tokens").or_else(|| said("max_completion_tokens")) {
            return Ok(Cow::Borrowed(said));
        }
        let most = self.outputs.get(&request.model).copied().or_else(|| (self.most)(&request.model));
        most.map(|limit| Cow::Owned(Value::from(limit))).ok_or_else(|| {
            inexpressible(format!(
                "anthropic wants max_tokens: set it in the space, or in farthing.toml [models.\"{}\"] max_output_tokens",
                request.model
            ))
        })
    }
}

/// The system prompt and the turns. System messages stand before everything else in this API.
fn split<'a>(wire: &dyn Wire, request: &'a Request) -> Result<(Vec<&'a str>, Vec<Item<'a>>), Failure> {
    let Input::Messages(messages) = &request.input else { return Err(no_text(wire)) };
    let mut system = Vec::new();
    let mut turns = Vec::new();
    for message in messages {
        match message.role.as_str() {
            "system" | "developer" if turns.is_empty() => system.push(message.content.as_str()),
            "system" | "developer" => {
                return Err(inexpressible("anthropic takes system messages only before all others"));
            }
            role @ ("user" | "assistant") => {
                let mut turn = Object::new();
                turn.put("role", role);
                turn.put("content", message.content.as_str());
                turns.push(Item::Object(turn));
            }
            role => return Err(inexpressible(format!("anthropic knows no messages of the role `{role}`"))),
        }
    }
    match turns.is_empty() {
        true => Err(inexpressible("anthropic wants at least one message of the user")),
        false => Ok((system, turns)),
    }
}

impl Wire for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn places(&self, _request: &Request) -> &'static [(&'static str, Place)] {
        PLACES
    }

    fn encode(&self, request: &Request, _n: u32) -> Result<Call, Failure> {
        let (system, turns) = split(self, request)?;
        let mut body = Object::new();
        body.put("model", request.model.as_str());
        match self.limit(request)? {
            Cow::Borrowed(limit) => body.put("max_tokens", limit),
            Cow::Owned(limit) => body.put("max_tokens", limit),
        }
        match system[..] {
            [] => {}
            [one] => body.put("system", one),
            _ => {
                let blocks: Vec<Value> = system.iter().map(|text| json!({"type": "text", "text": text})).collect();
                body.put("system", Value::Array(blocks));
            }
        }
        body.put("messages", turns);
        for (name, value) in wire::sent(self, request)? {
            match name {
                "max_tokens" | "max_completion_tokens" => {}
                "temperature" if value.as_f64().is_some_and(|warmth| warmth > 1.0) => {
                    return Err(nowhere(self, name, "it goes from 0 to 1 there"));
                }
                "stop" => body.put("stop_sequences", wire::stops(value)),
                "user" => body.object("metadata").put("user_id", value),
                "reasoning_effort" => self.think(&mut body, request, value)?,
                "response_format" => match wire::format(self, value)? {
                    Format::Text => {}
                    Format::Json => return Err(nowhere(self, name, "it takes a JSON schema, not json_object")),
                    Format::Schema(schema, _) => {
                        let mut format = Object::new();
                        format.put("type", "json_schema");
                        format.put("schema", schema);
                        body.object("output_config").put("format", format);
                    }
                },
                "tools" => body.put("tools", tools(self, value)?),
                "tool_choice" => match wire::choice(self, value)? {
                    Choice::Auto => body.object("tool_choice").put("type", "auto"),
                    Choice::None => body.object("tool_choice").put("type", "none"),
                    Choice::Required => body.object("tool_choice").put("type", "any"),
                    Choice::Named(name) => {
                        body.object("tool_choice").put("type", "tool");
                        body.object("tool_choice").put("name", name);
                    }
                },
                "parallel_tool_calls" => {
                    let choice = body.object("tool_choice");
                    choice.put("disable_parallel_tool_use", Value::Bool(*value == Value::Bool(false)));
                    // The field needs the kind beside it; tool_choice, which comes later, says another.
                    choice.put("type", "auto");
                }
                _ => body.put(name, value),
            }
        }
        Ok(Call::post("/messages", body.bytes()))
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

    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![("anthropic-version", self.version.clone().unwrap_or_else(|| VERSION.to_owned()))]
    }

    fn listing(&self) -> Call {
        Call::get("/models")
    }
}

fn tools<'a>(wire: &dyn Wire, value: &'a Value) -> Result<Vec<Item<'a>>, Failure> {
    let tool = |function: wire::Function<'a>| {
        let mut tool = Object::new();
        tool.put("name", function.name);
        if let Some(description) = function.description {
            tool.put("description", description);
        }
        let none = || Item::Owned(json!({"type": "object", "properties": {}}));
        tool.put("input_schema", function.parameters.map_or_else(none, Item::Value));
        if let Some(strict) = function.strict {
            tool.put("strict", strict);
        }
        Item::Object(tool)
    };
    Ok(wire::functions(wire, value)?.into_iter().map(tool).collect())
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    model: Word<'a>,
    #[serde(borrow, default)]
    content: Option<Objects<Block<'a>>>,
    #[serde(borrow, default)]
    stop_reason: Word<'a>,
    #[serde(default)]
    usage: Loose<Billed>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Word<'a>,
    #[serde(borrow, default)]
    text: Word<'a>,
    #[serde(borrow, default)]
    thinking: Word<'a>,
    #[serde(borrow, default)]
    data: Word<'a>,
    #[serde(borrow, default)]
    id: Word<'a>,
    #[serde(borrow, default)]
    name: Word<'a>,
    #[serde(default)]
    input: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Billed {
    #[serde(default)]
    input_tokens: Count,
    #[serde(default)]
    cache_creation_input_tokens: Count,
    #[serde(default)]
    cache_read_input_tokens: Count,
    #[serde(default)]
    output_tokens: Count,
}

fn decode(request: &Request, body: &[u8]) -> Result<Response, Refusal> {
    let mut spare = Vec::new();
    let reply: Reply = read::json(body, &mut spare)?;
    let Some(blocks) = reply.content else {
        return Err(match reply.error.filter(|error| !error.is_null()) {
            Some(error) => refusal::within(&error, body),
            None => read::malformed("the reply has no content"),
        });
    };
    let finish = match reply.stop_reason.text() {
        Some("end_turn" | "stop_sequence") => FinishReason::STOP,
        Some("max_tokens" | "model_context_window_exceeded") => FinishReason::LENGTH,
        Some("tool_use") => read::finish(Some("tool_calls")),
        word => read::finish(word),
    };
    // An empty list is an answer that says nothing, unless nothing says that it ended.
    if blocks.0.is_empty() && finish == FinishReason::UNKNOWN {
        return Err(read::malformed("the reply has no content"));
    }
    let mut draft = Draft::new("", finish);
    let mut calls = Vec::new();
    let mut thoughts = 0;
    for block in blocks.0 {
        match block.kind.text() {
            Some("tool_use") => calls.push(json!({
                "id": block.id.text().unwrap_or_default(),
                "type": "function",
                "function": {
                    "name": block.name.text().unwrap_or_default(),
                    "arguments": block.input.unwrap_or_else(|| json!({})).to_string(),
                },
            })),
            Some("thinking" | "redacted_thinking") => {
                thoughts +=
                    [&block.thinking, &block.data].iter().filter_map(|text| text.text()).map(str::len).sum::<usize>();
            }
            _ => draft.text.push_str(block.text.text().unwrap_or_default()),
        }
    }
    draft.thought = thoughts;
    draft.tool_calls = (!calls.is_empty()).then_some(Value::Array(calls));
    let billed = reply.usage.0.unwrap_or_default();
    let (cached, written) =
        (billed.cache_read_input_tokens.0.unwrap_or(0), billed.cache_creation_input_tokens.0.unwrap_or(0));
    let usage = Usage {
        input: billed.input_tokens.0.map(|input| input + cached + written),
        cached,
        written,
        output: billed.output_tokens.0,
        // Part of the output; how much of it is not said.
        reasoning: 0,
    };
    read::settle(request, 1, vec![draft], usage, reply.model.text(), false)
}

/// The status that an error of this type comes with (Anthropic's page of errors), for errors that come without one.
pub fn status_of(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => 500,
    }
}
