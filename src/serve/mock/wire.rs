//! OpenAI's wire format, written down a second time: from a body to a request, from an answer to a reply.

use serde_json::{Value, json};

use super::ledger::Tokens;
use crate::provider::{Failure, FailureKind, Input, Message, Request, Response};

/// Every reply is "created" at this moment, plus its number: the mock endpoint has no clock.
const CREATED: u64 = 1_700_000_000;

/// Why a request is not answered: the status, and OpenAI's words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The sentence.
    pub message: String,
    /// OpenAI's error code, if there is one.
    pub code: Option<&'static str>,
    /// The parameter that is wrong.
    pub param: Option<&'static str>,
}

impl Refusal {
    pub(super) fn bad(param: Option<&'static str>, message: impl Into<String>) -> Refusal {
        Refusal { status: 400, message: message.into(), code: None, param }
    }

    pub(super) fn unknown_model(model: &str) -> Refusal {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Refusal { status: 404, message, code: Some("model_not_found"), param: None }
    }

    pub(super) fn no_route() -> Refusal {
        let message = "There is no such route at the mock endpoint.".to_owned();
        Refusal { status: 404, message, code: None, param: None }
    }

    pub(super) fn not_recorded(message: &str) -> Refusal {
        Refusal { status: 404, message: message.to_owned(), code: Some("not_recorded"), param: None }
    }

    pub(super) fn unauthorized() -> Refusal {
        let message = "Incorrect API key provided.".to_owned();
        Refusal { status: 401, message, code: Some("invalid_api_key"), param: None }
    }

    /// The body.
    pub fn body(&self) -> Value {
        error(&self.message, "invalid_request_error", self.param, self.code)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let (status, code, param) = match failure.kind {
            FailureKind::UnknownModel => (404, Some("model_not_found"), None),
            FailureKind::ContextTooLong => (400, Some("context_length_exceeded"), Some("messages")),
            _ => (400, None, None),
        };
        Refusal { status, message: failure.message, code, param }
    }
}

/// OpenAI's error body.
pub fn error(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

/// Reads the body of a request.
pub(super) fn request(body: &Value, chat: bool) -> Result<Request, Refusal> {
    let fields = body.as_object().ok_or_else(|| Refusal::bad(None, "The body is no JSON object."))?;
    let missing = |name: &'static str| Refusal::bad(Some(name), format!("Missing required parameter: '{name}'."));
    let model = fields.get("model").and_then(Value::as_str).ok_or_else(|| missing("model"))?;
    let input = if chat {
        let messages = fields.get("messages").and_then(Value::as_array).ok_or_else(|| missing("messages"))?;
        if messages.is_empty() {
            return Err(Refusal::bad(Some("messages"), "Invalid 'messages': empty array."));
        }
        let message = |message: &Value| {
            let role = message["role"].as_str()?.to_owned();
            Some(Message { role, content: content(&message["content"])? })
        };
        let messages: Option<Vec<_>> = messages.iter().map(message).collect();
        Input::Messages(messages.ok_or_else(|| Refusal::bad(Some("messages"), "Invalid message."))?)
    } else {
        let text = match fields.get("prompt") {
            Some(Value::Array(list)) if list.len() == 1 => list[0].as_str(),
            prompt => prompt.and_then(Value::as_str),
        };
        Input::Text(text.ok_or_else(|| missing("prompt"))?.to_owned())
    };
    if fields.get("stream").and_then(Value::as_bool) == Some(true) {
        return Err(Refusal::bad(Some("stream"), "The mock endpoint does not stream."));
    }
    let n = match fields.get("n") {
        None | Some(Value::Null) => Some(1),
        Some(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| (1..=128).contains(&n)),
    };
    let n = n.ok_or_else(|| Refusal::bad(Some("n"), "Invalid 'n': must be an integer from 1 to 128."))?;
    let apart = ["model", "messages", "prompt", "n", "stream", "user"];
    let params = fields.iter().filter(|(name, _)| !apart.contains(&name.as_str()));
    let params = params.map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(Request { model: model.to_owned(), input, params, n })
}

/// A message's content: a text, or a list of text parts.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(|part| part["text"].as_str()).collect(),
        _ => None,
    }
}

/// The reply to a request. `tokens` are left out where the endpoint does not say what it bills.
pub(super) fn reply(number: u64, model: &str, chat: bool, answer: &Response, tokens: Option<Tokens>) -> Value {
    let choice = |(index, sample): (usize, &crate::provider::Sample)| {
        let reason = if sample.finish_reason.0 == "unknown" { "stop" } else { &sample.finish_reason.0 };
        if chat {
            let message = json!({"role": "assistant", "content": sample.text, "refusal": null});
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason})
        } else {
            json!({"index": index, "text": sample.text, "logprobs": null, "finish_reason": reason})
        }
    };
    let choices: Vec<Value> = answer.samples.iter().enumerate().map(choice).collect();
    let (id, object) = if chat { ("chatcmpl", "chat.completion") } else { ("cmpl", "text_completion") };
    let mut reply = json!({
        "id": format!("{id}-mock-{number}"),
        "object": object,
        "created": CREATED + number,
        "model": answer.model.as_deref().unwrap_or(model),
        "choices": choices,
    });
    if let Some(Tokens { prompt, cached, completion }) = tokens {
        reply["usage"] = json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        });
    }
    reply
}

/// The list of models.
pub(super) fn models<'a>(names: impl Iterator<Item = &'a String>) -> Value {
    let model =
        |name| json!({"id": name, "object": "model", "created": CREATED, "owned_by": "farthing mock (made up)"});
    json!({"object": "list", "data": names.map(model).collect::<Vec<_>>()})
}
