//! OpenAI's Responses API: one completion a call, with its parameters under names of its own.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::provider::openai::Openai;
use crate::provider::read::{self, Count, Draft, Loose, Objects, Parts, Usage, Word};
use crate::provider::wire::{self, Choice, Format, Item, Object, Place};
use crate::provider::{Failure, FinishReason, Input, Refusal, Request, Response, refusal};

const NONE: Place = Place::Nowhere("the Responses API has no such thing");

pub(super) const PLACES: &[(&str, Place)] = &[
    ("temperature", Place::At("temperature")),
    ("top_p", Place::At("top_p")),
    ("stop", NONE),
    ("max_tokens", Place::At("max_output_tokens")),
    ("max_completion_tokens", Place::At("max_output_tokens")),
    ("presence_penalty", NONE),
    ("frequency_penalty", NONE),
    ("logit_bias", NONE),
    ("seed", NONE),
    ("logprobs", Place::At("include")),
    ("top_logprobs", Place::At("top_logprobs")),
    ("response_format", Place::At("text.format")),
    ("tools", Place::At("tools")),
    ("tool_choice", Place::At("tool_choice")),
    ("parallel_tool_calls", Place::At("parallel_tool_calls")),
    ("reasoning_effort", Place::At("reasoning.effort")),
    ("user", Place::At("user")),
];

/// A body of this API under the names of OpenAI's chat API, for files that hold one. The error says what it lacks.
pub(crate) fn as_chat(body: &mut Map<String, Value>) -> Result<(), String> {
    let turn = |role: &str, content: Value| json!({"role": role, "content": content});
    let mut messages = match body.remove("instructions") {
        Some(Value::String(text)) => vec![turn("system", text.into())],
        _ => Vec::new(),
    };
    match body.remove("input") {
        Some(Value::String(text)) => messages.push(turn("user", text.into())),
        Some(Value::Array(turns)) => messages.extend(turns),
        _ => return Err("a body for /v1/responses needs `input`".to_owned()),
    }
    body.insert("messages".to_owned(), Value::Array(messages));
    if let Some(most) = body.remove("max_output_tokens") {
        body.insert("max_tokens".to_owned(), most);
    }
    // Ours says it by itself.
    body.remove("store");
    Ok(())
}

pub(super) fn body<'a>(wire: &Openai, request: &'a Request) -> Result<Object<'a>, Failure> {
    let mut body = Object::new();
    body.put("model", request.model.as_str());
    match &request.input {
        Input::Messages(messages) => body.put("input", Item::Turns(messages)),
        Input::Text(text) => body.put("input", text.as_str()),
    }
    // Kept for thirty days unless told otherwise.
    body.put("store", Value::Bool(false));
    for (name, value) in wire::sent(wire, request)? {
        match name {
            "max_tokens" | "max_completion_tokens" => body.put("max_output_tokens", value),
            "reasoning_effort" => body.object("reasoning").put("effort", value),
            "verbosity" => body.object("text").put("verbosity", value),
            "logprobs" if *value == Value::Bool(true) => {
                body.put("include", json!(["message.output_text.logprobs"]));
            }
            "logprobs" => {}
            "response_format" => match wire::format(wire, value)? {
                Format::Text => {}
                Format::Json => body.object("text").put("format", json!({"type": "json_object"})),
                Format::Schema(schema, about) => {
                    let mut format = Object::new();
                    format.put("type", "json_schema");
                    format.put("name", about.get("name").and_then(Value::as_str).unwrap_or("answer"));
                    format.put("schema", schema);
                    if let Some(strict) = about.get("strict") {
                        format.put("strict", strict);
                    }
                    body.object("text").put("format", format);
                }
            },
            "tools" => {
                let tool = |function: wire::Function<'a>| {
                    let mut tool = Object::new();
                    tool.put("type", "function");
                    tool.put("name", function.name);
                    if let Some(description) = function.description {
                        tool.put("description", description);
                    }
                    tool.put("parameters", function.parameters.map_or_else(no_parameters, Item::Value));
                    // Chat takes a schema as it is unless told otherwise; this API would change it.
                    tool.put("strict", function.strict.map_or(Item::Owned(Value::Bool(false)), Item::Value));
                    Item::Object(tool)
                };
                body.put("tools", wire::functions(wire, value)?.into_iter().map(tool).collect::<Vec<_>>());
            }
            "tool_choice" => match wire::choice(wire, value)? {
                Choice::Named(name) => body.put("tool_choice", json!({"type": "function", "name": name})),
                _ => body.put("tool_choice", value),
            },
            _ => body.put(name, value),
        }
    }
    Ok(body)
}

fn no_parameters<'a>() -> Item<'a> {
    Item::Owned(json!({"type": "object", "properties": {}}))
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    model: Word<'a>,
    #[serde(borrow, default)]
    status: Word<'a>,
    #[serde(borrow, default)]
    incomplete_details: Loose<Incomplete<'a>>,
    #[serde(borrow, default)]
    output: Objects<Output<'a>>,
    #[serde(default)]
    usage: Loose<Billed>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Incomplete<'a> {
    #[serde(borrow, default)]
    reason: Word<'a>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Word<'a>,
    #[serde(borrow, default)]
    content: Objects<Content<'a>>,
    #[serde(borrow, default)]
    summary: Parts<'a>,
    #[serde(borrow, default)]
    call_id: Word<'a>,
    #[serde(borrow, default)]
    name: Word<'a>,
    #[serde(borrow, default)]
    arguments: Word<'a>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    text: Word<'a>,
    #[serde(borrow, default)]
    refusal: Word<'a>,
    #[serde(default)]
    logprobs: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Billed {
    #[serde(default)]
    input_tokens: Count,
    #[serde(default)]
    output_tokens: Count,
    #[serde(default)]
    input_tokens_details: Loose<Details>,
    #[serde(default)]
    output_tokens_details: Loose<Details>,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Count,
    #[serde(default)]
    reasoning_tokens: Count,
}

pub(super) fn decode(request: &Request, body: &[u8], exact: bool) -> Result<Response, Refusal> {
    let mut spare = Vec::new();
    let reply: Reply = read::json(body, &mut spare)?;
    let error = reply.error.filter(|error| !error.is_null());
    if let Some(error) = error.filter(|_| reply.output.0.is_empty()) {
        return Err(refusal::within(&error, body));
    }
    let reason = reply.incomplete_details.0.and_then(|details| details.reason.0);
    let finish = match (reply.status.text(), reason.as_deref()) {
        (_, Some("max_output_tokens")) => FinishReason::LENGTH,
        (_, Some(other)) => read::finish(Some(other)),
        (Some("completed"), None) => FinishReason::STOP,
        (word, None) => read::finish(word),
    };
    // Nothing but an empty list and no word of why: that is no answer. A cut one may have had thoughts alone.
    if reply.output.0.is_empty() && finish != FinishReason::LENGTH && finish != FinishReason::CONTENT_FILTER {
        return Err(read::malformed("the reply has no output"));
    }
    let mut draft = Draft::new("", finish);
    let mut calls = Vec::new();
    let mut logprobs = Vec::new();
    let mut refused = String::new();
    for item in reply.output.0 {
        match item.kind.text() {
            Some("function_call") => calls.push(json!({
                "id": item.call_id.text().unwrap_or_default(),
                "type": "function",
                "function": {"name": item.name.text().unwrap_or_default(), "arguments": item.arguments.text().unwrap_or("{}")},
            })),
            Some("reasoning") => {
                let content = item.content.0.iter().filter_map(|part| part.text.text());
                draft.thought += item.summary.0.map_or(0, |text| text.len()) + content.map(str::len).sum::<usize>();
            }
            _ => {
                for part in item.content.0 {
                    draft.text.push_str(part.text.text().unwrap_or_default());
                    refused.push_str(part.refusal.text().unwrap_or_default());
                    match part.logprobs {
                        Some(Value::Array(list)) => logprobs.extend(list),
                        Some(Value::Null) | None => {}
                        Some(other) => logprobs.push(other),
                    }
                }
            }
        }
    }
    if draft.text.is_empty() && !refused.is_empty() {
        draft.text = refused;
        draft.finish_reason = FinishReason::REFUSAL;
    }
    if !calls.is_empty() {
        draft.tool_calls = Some(Value::Array(calls));
        if draft.finish_reason == FinishReason::STOP {
            draft.finish_reason = FinishReason(Cow::Borrowed("tool_calls"));
        }
    }
    if !logprobs.is_empty() {
        draft.logprobs = Some(json!({"content": logprobs}));
    }
    let billed = reply.usage.0.unwrap_or_default();
    let usage = Usage {
        input: billed.input_tokens.0,
        cached: billed.input_tokens_details.0.and_then(|details| details.cached_tokens.0).unwrap_or(0),
        written: 0,
        output: billed.output_tokens.0,
        reasoning: billed.output_tokens_details.0.and_then(|details| details.reasoning_tokens.0).unwrap_or(0),
    };
    read::settle(request, 1, vec![draft], usage, reply.model.text(), exact)
}
