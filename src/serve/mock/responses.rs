//! OpenAI's Responses API, without tools and without streams.

use serde_json::{Map, Value, json};

use super::ledger::Tokens;
use super::wire::{Answered, Asked, CREATED, Refusal, content, renamed};
use crate::provider::{FinishReason, Input, Message, Request};

/// Parameters that the Responses API does not know although chat completions do.
const UNKNOWN: [&str; 9] = [
    "messages",
    "n",
    "stop",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
];

/// Reads the body of a request.
pub(super) fn read(fields: &Map<String, Value>) -> Result<Asked, Refusal> {
    if let Some(name) = UNKNOWN.into_iter().find(|name| fields.contains_key(*name)) {
        let message = format!("Unsupported parameter: '{name}' is not supported by the Responses API.");
        let refusal = Refusal::new(400, Some("unsupported_parameter"), message);
        return Err(Refusal { param: Some(name), ..refusal });
    }
    if fields.get("stream").and_then(Value::as_bool) == Some(true) {
        return Err(Refusal::bad(Some("stream"), "The mock endpoint does not stream responses."));
    }
    let model = fields.get("model").and_then(Value::as_str).ok_or_else(|| Refusal::missing("model"))?;
    let mut messages = Vec::new();
    if let Some(text) = fields.get("instructions").and_then(Value::as_str) {
        messages.push(Message { role: "system".into(), content: text.to_owned() });
    }
    match fields.get("input") {
        Some(Value::String(text)) => messages.push(Message { role: "user".into(), content: text.clone() }),
        Some(Value::Array(items)) if !items.is_empty() => {
            for item in items {
                let role = item["role"].as_str().filter(|_| item["type"].as_str().is_none_or(|kind| kind == "message"));
                let message = role.and_then(|role| Some((role, content(&item["content"])?)));
                let (role, content) = message.ok_or_else(|| Refusal::bad(Some("input"), "Invalid item in 'input'."))?;
                messages.push(Message { role: role.to_owned(), content });
            }
        }
        _ => return Err(Refusal::missing("input")),
    }
    let names = [("max_output_tokens", "max_tokens"), ("temperature", "temperature"), ("top_p", "top_p")];
    let params = renamed(fields, &names).into_iter().collect();
    Ok(Asked::whole(Request { model: model.to_owned(), input: Input::Messages(messages), params, n: 1 }))
}

/// The reply to a request.
pub(super) fn reply(answered: &Answered) -> Value {
    let number = answered.number;
    let (mut status, mut details, mut output) = ("completed", Value::Null, Vec::new());
    for sample in &answered.response.samples {
        let incomplete = match &sample.finish_reason {
            reason if *reason == FinishReason::LENGTH => Some("max_output_tokens"),
            reason if *reason == FinishReason::CONTENT_FILTER => Some("content_filter"),
            _ => None,
        };
        if let Some(reason) = incomplete {
            (status, details) = ("incomplete", json!({"reason": reason}));
        }
        let part = match sample.finish_reason == FinishReason::REFUSAL {
            true => json!({"type": "refusal", "refusal": sample.text}),
            false => json!({"type": "output_text", "text": sample.text, "annotations": [], "logprobs": []}),
        };
        output.push(json!({
            "type": "message", "id": format!("msg_mock_{number}"), "status": status, "role": "assistant", "content": [part]
        }));
    }
    let param = |name: &str, default: Value| answered.request.params.get(name).cloned().unwrap_or(default);
    let mut reply = json!({
        "id": format!("resp_mock_{number}"),
        "object": "response",
        "created_at": CREATED + number,
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": details,
        "instructions": null,
        "max_output_tokens": param("max_tokens", Value::Null),
        "metadata": {},
        "model": answered.model(),
        "output": output,
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "store": false,
        "temperature": param("temperature", json!(1.0)),
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": param("top_p", json!(1.0)),
        "truncation": "disabled",
    });
    if let Some(Tokens { prompt, cached, completion }) = answered.tokens {
        reply["usage"] = json!({
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt.saturating_add(completion),
        });
    }
    reply
}
