//! What Azure adds to OpenAI's formats: the deployment in the path, another header for the key, and the findings of its
//! content filter in replies and errors.

use serde_json::{Value, json};

use super::openai;
use super::wire::{Answered, Refusal};
use crate::provider::FinishReason;

/// What the filter says of one text.
fn findings(filtered: bool) -> Value {
    let safe = json!({"filtered": false, "severity": "safe"});
    let violence = if filtered { json!({"filtered": true, "severity": "high"}) } else { safe.clone() };
    json!({"hate": safe, "self_harm": safe, "sexual": safe, "violence": violence})
}

/// The reply to a request.
pub(super) fn reply(answered: &Answered, chat: bool) -> Value {
    let mut reply = openai::reply(answered, chat);
    reply["prompt_filter_results"] = json!([{"prompt_index": 0, "content_filter_results": findings(false)}]);
    let choices = reply["choices"].as_array_mut().map_or(&mut [][..], Vec::as_mut_slice);
    for (choice, sample) in choices.iter_mut().zip(&answered.response.samples) {
        let filtered = sample.finish_reason == FinishReason::CONTENT_FILTER;
        choice["content_filter_results"] = findings(filtered);
        if let (true, true, Some(message)) = (filtered, sample.text.is_empty(), choice["message"].as_object_mut()) {
            // Where all is filtered there is no content at all.
            message.remove("content");
        }
    }
    reply
}

/// The error body of a refusal.
pub(super) fn refused(refusal: &Refusal) -> Value {
    match refusal.code.as_deref() {
        Some("content_filter") => json!({"error": {
            "message": refusal.message,
            "type": null,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": findings(true)},
        }}),
        Some("model_not_found") => json!({"error": {
            "code": "DeploymentNotFound",
            "message": "The API deployment for this resource does not exist.",
        }}),
        Some("invalid_api_key") | None if matches!(refusal.status, 401 | 404) => {
            json!({"error": {"code": refusal.status.to_string(), "message": refusal.message}})
        }
        Some("rate_limit_exceeded") => json!({"error": {"code": "429", "message": refusal.message}}),
        _ => openai::refused(refusal),
    }
}
