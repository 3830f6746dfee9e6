//! Anthropic's Messages API, without tools and without streams.

use serde_json::{Map, Value, json};

use super::clock;
use super::ledger::Tokens;
use super::wire::{Answered, Asked, CREATED, Refusal, content, renamed};
use crate::provider::{FinishReason, Input, Message, Request};

/// The fields that the API knows; any other is refused, as there.
const FIELDS: [&str; 17] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "stream",
    "metadata",
    "service_tier",
    "thinking",
    "tools",
    "tool_choice",
    "container",
    "mcp_servers",
    "output_config",
];

/// The error body of a refusal.
pub(super) fn refused(refusal: &Refusal) -> Value {
    let kind = match refusal.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": refusal.message}})
}

/// Reads the body of a request.
pub(super) fn read(fields: &Map<String, Value>) -> Result<Asked, Refusal> {
    let bad = |message: String| Err(Refusal::bad(None, message));
    if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return bad(format!("{name}: Extra inputs are not permitted"));
    }
    let Some(model) = fields.get("model").and_then(Value::as_str) else {
        return bad("model: Field required".into());
    };
    match fields.get("max_tokens") {
        None => return bad("max_tokens: Field required".into()),
        Some(most) if most.as_u64().is_none_or(|most| most == 0) => {
            return bad("max_tokens: Input should be greater than or equal to 1".into());
        }
        Some(_) => {}
    }
    if fields.get("temperature").is_some_and(|value| !value.as_f64().is_some_and(|t| (0.0..=1.0).contains(&t))) {
        return bad("temperature: range: 0..1".into());
    }
    if fields.get("stream").and_then(Value::as_bool) == Some(true) {
        return bad("The mock endpoint does not stream messages.".into());
    }
    let mut messages = Vec::new();
    if let Some(system) = fields.get("system") {
        let Some(content) = content(system) else { return bad("system: Input should be a valid string".into()) };
        messages.push(Message { role: "system".into(), content });
    }
    let turns = fields.get("messages").and_then(Value::as_array).filter(|turns| !turns.is_empty());
    let Some(turns) = turns else { return bad("messages: at least one message is required".into()) };
    for turn in turns {
        match (turn["role"].as_str(), content(&turn["content"])) {
            (Some(role @ ("user" | "assistant")), Some(content)) if !content.is_empty() => {
                messages.push(Message { role: role.to_owned(), content });
            }
            (Some("user" | "assistant"), _) => return bad("messages: text content blocks must be non-empty".into()),
            (role, _) => return bad(format!("messages: Unexpected role \"{}\"", role.unwrap_or_default())),
        }
    }
    let names = [
        ("max_tokens", "max_tokens"),
        ("stop_sequences", "stop"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
    ];
    let params = renamed(fields, &names).into_iter().collect();
    Ok(Asked::whole(Request { model: model.to_owned(), input: Input::Messages(messages), params, n: 1 }))
}

/// The reply to a request.
pub(super) fn reply(answered: &Answered) -> Value {
    let sample = answered.response.samples.first();
    let reason = sample.map_or("end_turn", |sample| match &sample.finish_reason {
        reason if *reason == FinishReason::LENGTH => "max_tokens",
        reason if [FinishReason::CONTENT_FILTER, FinishReason::REFUSAL].contains(reason) => "refusal",
        _ if answered.stopped_by.is_some() => "stop_sequence",
        _ => "end_turn",
    });
    // A model that says nothing sends no block at all.
    let said = sample.filter(|sample| !sample.text.is_empty());
    let blocks: Vec<Value> = said.iter().map(|sample| json!({"type": "text", "text": sample.text})).collect();
    let mut reply = json!({
        "id": format!("msg_mock_{}", answered.number),
        "type": "message",
        "role": "assistant",
        "model": answered.model(),
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": answered.stopped_by,
    });
    if let Some(Tokens { prompt, cached, completion }) = answered.tokens {
        reply["usage"] = json!({
            // Unlike at OpenAI, what was cached is not part of this.
            "input_tokens": prompt.saturating_sub(cached),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": completion,
            "service_tier": "standard",
        });
    }
    reply
}

/// One model of the list.
pub(super) fn model(name: &str) -> Value {
    json!({"type": "model", "id": name, "display_name": name, "created_at": clock::rfc3339(CREATED)})
}

/// The list of models.
pub(super) fn models(names: &[String]) -> Value {
    let data: Vec<Value> = names.iter().map(|name| model(name)).collect();
    json!({"data": data, "has_more": false, "first_id": names.first(), "last_id": names.last()})
}
