//! OpenAI's chat and text completions, the list of models, and streams of them.

use serde_json::{Map, Value, json};

use super::ledger::Tokens;
use super::wire::{Answered, Asked, CREATED, Refusal, messages};
use crate::backend::mock::tokens;
use crate::provider::{FinishReason, Input, Request, Sample};

/// OpenAI's error body.
pub(super) fn error(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

/// The error body of a refusal.
pub(super) fn refused(refusal: &Refusal) -> Value {
    let kind = match (refusal.status, refusal.code.as_deref()) {
        (429, Some("insufficient_quota")) => "insufficient_quota",
        (429, _) => "requests",
        (500.., _) => "server_error",
        _ => "invalid_request_error",
    };
    error(&refusal.message, kind, refusal.param, refusal.code.as_deref())
}

/// Reads the body of a request.
pub(super) fn read(fields: &Map<String, Value>, model: Option<&str>, chat: bool) -> Result<Asked, Refusal> {
    let model = model.or_else(|| fields.get("model").and_then(Value::as_str));
    let model = model.ok_or_else(|| Refusal::missing("model"))?;
    let input = if chat {
        let list = fields.get("messages").and_then(Value::as_array).ok_or_else(|| Refusal::missing("messages"))?;
        Input::Messages(messages(list)?)
    } else {
        let text = match fields.get("prompt") {
            Some(Value::Array(list)) if list.len() == 1 => list[0].as_str(),
            prompt => prompt.and_then(Value::as_str),
        };
        Input::Text(text.ok_or_else(|| Refusal::missing("prompt"))?.to_owned())
    };
    let n = match fields.get("n") {
        None | Some(Value::Null) => Some(1),
        Some(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| (1..=128).contains(&n)),
    };
    let n = n.ok_or_else(|| Refusal::bad(Some("n"), "Invalid 'n': must be an integer from 1 to 128."))?;
    let apart = ["model", "messages", "prompt", "n", "stream", "stream_options", "user"];
    let params = fields.iter().filter(|(name, _)| !apart.contains(&name.as_str()));
    let params = params.map(|(name, value)| (name.clone(), value.clone())).collect();
    let told = |value: Option<&Value>| value.and_then(Value::as_bool) == Some(true);
    let stream = told(fields.get("stream"));
    let usage = stream && told(fields.get("stream_options").and_then(|options| options.get("include_usage")));
    Ok(Asked { request: Request { model: model.to_owned(), input, params, n }, stream, usage })
}

/// The word for how a completion ended.
pub(super) fn finish(sample: &Sample) -> &str {
    match &*sample.finish_reason.0 {
        // A refusal is an ordinary end with a field of its own; a cassette does not know.
        "unknown" | "refusal" => "stop",
        word => word,
    }
}

/// The reply to a request.
pub(super) fn reply(answered: &Answered, chat: bool) -> Value {
    let choice = |(index, sample): (usize, &Sample)| {
        let reason = finish(sample);
        if !chat {
            return json!({"index": index, "text": sample.text, "logprobs": sample.logprobs, "finish_reason": reason});
        }
        let message = match sample.finish_reason == FinishReason::REFUSAL {
            true => json!({"role": "assistant", "content": null, "refusal": sample.text}),
            false => json!({"role": "assistant", "content": sample.text, "refusal": null}),
        };
        json!({"index": index, "message": message, "logprobs": sample.logprobs, "finish_reason": reason})
    };
    let choices: Vec<Value> = answered.response.samples.iter().enumerate().map(choice).collect();
    let (id, object) = if chat { ("chatcmpl", "chat.completion") } else { ("cmpl", "text_completion") };
    let mut reply = json!({
        "id": format!("{id}-mock-{}", answered.number),
        "object": object,
        "created": CREATED + answered.number,
        "model": answered.model(),
        "choices": choices,
    });
    if let Some(Tokens { prompt, cached, completion }) = answered.tokens {
        reply["usage"] = json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt.saturating_add(completion),
            "prompt_tokens_details": {"cached_tokens": cached},
        });
    }
    reply
}

/// A finished reply as server-sent events.
pub(super) fn events(reply: &Value, usage: bool) -> String {
    let chat = reply["object"] == "chat.completion";
    let object = if chat { "chat.completion.chunk" } else { "text_completion" };
    let mut text = String::new();
    let mut event = |choices: Value, told: Option<&Value>| {
        let mut chunk = json!({
            "id": reply["id"], "object": object, "created": reply["created"], "model": reply["model"], "choices": choices
        });
        if usage {
            chunk["usage"] = told.cloned().unwrap_or_default();
        }
        text.push_str(&format!("data: {chunk}\n\n"));
    };
    let piece = |index: &Value, chat_delta: Value, said: &str, reason: Value| match chat {
        true => json!([{"index": index, "delta": chat_delta, "logprobs": null, "finish_reason": reason}]),
        false => json!([{"index": index, "text": said, "logprobs": null, "finish_reason": reason}]),
    };
    for choice in reply["choices"].as_array().map_or(&[][..], Vec::as_slice) {
        let (index, message) = (&choice["index"], &choice["message"]);
        let (field, said) = match message["refusal"].as_str() {
            Some(refusal) => ("refusal", refusal),
            None => ("content", message["content"].as_str().or(choice["text"].as_str()).unwrap_or_default()),
        };
        if chat {
            event(piece(index, json!({"role": "assistant", "content": "", "refusal": null}), "", Value::Null), None);
        }
        for token in tokens::tokens(said) {
            event(piece(index, json!({field: token}), token, Value::Null), None);
        }
        event(piece(index, json!({}), "", choice["finish_reason"].clone()), None);
    }
    if usage {
        event(json!([]), reply.get("usage"));
    }
    text + "data: [DONE]\n\n"
}

/// One model of the list.
pub(super) fn model(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": CREATED, "owned_by": "farthing mock (made up)"})
}

/// The list of models.
pub(super) fn models(names: &[String]) -> Value {
    json!({"object": "list", "data": names.iter().map(|name| model(name)).collect::<Vec<_>>()})
}
