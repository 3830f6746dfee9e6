//! Gemini's generateContent, without tools and without streams.

use serde_json::{Map, Value, json};

use super::ledger::Tokens;
use super::wire::{Answered, Asked, Refusal, renamed};
use crate::provider::{FinishReason, Input, Message, Request, Sample};

/// The error body of a refusal.
pub(super) fn refused(refusal: &Refusal) -> Value {
    let status = match refusal.status {
        400 | 413 | 422 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        408 | 504 => "DEADLINE_EXCEEDED",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    let mut details = Vec::new();
    if refusal.code.as_deref() == Some("invalid_api_key") {
        let kind = "type.googleapis.com/google.rpc.ErrorInfo";
        details.push(json!({"@type": kind, "reason": "API_KEY_INVALID", "domain": "googleapis.com"}));
    }
    let wait = refusal.headers.iter().find(|(name, _)| *name == "retry-after");
    if let Some(seconds) = wait.and_then(|(_, value)| value.parse::<u64>().ok()) {
        let kind = "type.googleapis.com/google.rpc.RetryInfo";
        details.push(json!({"@type": kind, "retryDelay": format!("{seconds}s")}));
    }
    let mut error = json!({"code": refusal.status, "message": refusal.message, "status": status});
    if !details.is_empty() {
        error["details"] = json!(details);
    }
    json!({ "error": error })
}

/// Reads the body of a request.
pub(super) fn read(fields: &Map<String, Value>, model: &str) -> Result<Asked, Refusal> {
    // Protocol buffers read both spellings.
    let either = |camel: &str, snake: &str| fields.get(camel).or_else(|| fields.get(snake));
    let parts = |content: &Value| -> Option<String> {
        content["parts"].as_array()?.iter().map(|part| part["text"].as_str()).collect()
    };
    let mut messages = Vec::new();
    if let Some(system) = either("systemInstruction", "system_instruction") {
        let content = parts(system).ok_or_else(|| Refusal::bad(None, "Invalid value at 'system_instruction'"))?;
        messages.push(Message { role: "system".into(), content });
    }
    let contents = fields.get("contents").and_then(Value::as_array).filter(|contents| !contents.is_empty());
    let contents = contents.ok_or_else(|| Refusal::bad(None, "contents is not specified"))?;
    for content in contents {
        let role = match content["role"].as_str() {
            None | Some("user") => "user",
            Some("model") => "assistant",
            Some(_) => return Err(Refusal::bad(None, "Please use a valid role: user, model.")),
        };
        let text = parts(content).ok_or_else(|| Refusal::bad(None, "Invalid value at 'contents'"))?;
        messages.push(Message { role: role.into(), content: text });
    }
    let empty = Map::new();
    let config = either("generationConfig", "generation_config").and_then(Value::as_object).unwrap_or(&empty);
    let n = match config.get("candidateCount") {
        None | Some(Value::Null) => Some(1),
        Some(n) => n.as_u64().filter(|n| (1..=8).contains(n)).and_then(|n| u32::try_from(n).ok()),
    };
    let n = n.ok_or_else(|| Refusal::bad(None, "candidateCount must be within the range from 1 to 8."))?;
    let names = [
        ("temperature", "temperature"),
        ("topP", "top_p"),
        ("topK", "top_k"),
        ("maxOutputTokens", "max_tokens"),
        ("stopSequences", "stop"),
        ("seed", "seed"),
        ("presencePenalty", "presence_penalty"),
        ("frequencyPenalty", "frequency_penalty"),
    ];
    let params = renamed(config, &names).into_iter().collect();
    Ok(Asked::whole(Request { model: model.to_owned(), input: Input::Messages(messages), params, n }))
}

/// The reply to a request.
pub(super) fn reply(answered: &Answered) -> Value {
    let candidate = |(index, sample): (usize, &Sample)| {
        let reason = match &sample.finish_reason {
            reason if *reason == FinishReason::LENGTH => "MAX_TOKENS",
            reason if *reason == FinishReason::CONTENT_FILTER => "SAFETY",
            reason if *reason == FinishReason::REFUSAL => "PROHIBITED_CONTENT",
            _ => "STOP",
        };
        // A candidate that says nothing has no parts.
        let content = match sample.text.is_empty() {
            true => json!({"role": "model"}),
            false => json!({"role": "model", "parts": [{"text": sample.text}]}),
        };
        json!({"content": content, "finishReason": reason, "index": index})
    };
    let candidates: Vec<Value> = answered.response.samples.iter().enumerate().map(candidate).collect();
    let mut reply = json!({
        "candidates": candidates,
        "modelVersion": answered.model(),
        "responseId": format!("mock-{}", answered.number),
    });
    if let Some(Tokens { prompt, cached, completion }) = answered.tokens {
        reply["usageMetadata"] = json!({
            "promptTokenCount": prompt,
            "candidatesTokenCount": completion,
            "totalTokenCount": prompt.saturating_add(completion),
        });
        if cached > 0 {
            reply["usageMetadata"]["cachedContentTokenCount"] = json!(cached);
        }
    }
    reply
}

/// The reply to a prompt that the filter does not let in: status 200, and no candidates.
pub(super) fn blocked(answered: &Answered) -> Value {
    let mut reply = reply(answered);
    if let Some(fields) = reply.as_object_mut() {
        fields.remove("candidates");
        fields.insert("promptFeedback".into(), json!({"blockReason": "SAFETY"}));
    }
    reply
}

/// One model of the list.
pub(super) fn model(name: &str) -> Value {
    json!({
        "name": format!("models/{name}"), "version": "1", "displayName": name,
        "supportedGenerationMethods": ["generateContent"]
    })
}

/// The list of models.
pub(super) fn models(names: &[String]) -> Value {
    json!({"models": names.iter().map(|name| model(name)).collect::<Vec<_>>()})
}
