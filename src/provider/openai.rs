//! The OpenAI wire format: chat completions and legacy completions, as spoken by OpenAI, vLLM, llama.cpp, Ollama's
//! compatible address, OpenRouter, LiteLLM proxies and many more.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::prompt::tokens;
use crate::provider::{Failure, FailureKind, FinishReason, Input, Request, Response, Sample};

/// An HTTP call without its address and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Appended to the endpoint's base URL.
    pub path: &'static str,
    /// The JSON body.
    pub body: Value,
}

/// The call that asks for `n` completions of a request.
pub fn encode(request: &Request, n: u32) -> Call {
    let mut body = Map::new();
    body.insert("model".to_owned(), Value::from(request.model.as_str()));
    let path = match &request.input {
        Input::Messages(messages) => {
            body.insert("messages".to_owned(), json!(messages));
            "/chat/completions"
        }
        Input::Text(text) => {
            body.insert("prompt".to_owned(), Value::from(text.as_str()));
            "/completions"
        }
    };
    for (name, value) in &request.params {
        // Endpoints refuse an empty list of stop sequences; leaving it out says the same.
        let empty = value.is_null() || (name == "stop" && value.as_array().is_some_and(Vec::is_empty));
        if !empty {
            body.insert(name.clone(), value.clone());
        }
    }
    // Left out, n is 1 everywhere; some servers refuse the field.
    if n > 1 {
        body.insert("n".to_owned(), Value::from(n));
    }
    Call { path, body: Value::Object(body) }
}

#[derive(Deserialize)]
struct Reply {
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Value>,
}

/// Fields that a server may send in a form of its own are read leniently: an answer that was paid for is not thrown away
/// for an odd index.
#[derive(Deserialize)]
struct Choice {
    index: Option<Value>,
    message: Option<ReplyMessage>,
    text: Option<String>,
    finish_reason: Option<Value>,
}

#[derive(Deserialize)]
struct ReplyMessage {
    content: Option<Value>,
    refusal: Option<Value>,
}

/// A text, or the texts of a list of parts.
fn text_of(content: Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text),
        Value::Array(parts) => {
            Some(parts.iter().filter_map(|part| part.get("text").unwrap_or(part).as_str()).collect::<Vec<_>>().concat())
        }
        _ => None,
    }
}

/// A count of tokens; `None` where it is absent or none.
fn tokens_in(usage: Option<&Value>, name: &str) -> Option<u64> {
    let value = usage?.get(name)?;
    let float = |float: f64| (float >= 0.0 && float.fract() == 0.0 && float < 9e15).then_some(float as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(float))
}

/// Reads a reply with status 200 to a call for `n` completions. What its usage does not say is bounded by bytes, and the
/// response is marked. Refusals and filtered completions are answers like any other: they are billed.
pub fn decode(request: &Request, n: u32, body: &[u8]) -> Result<Response, Failure> {
    let malformed = |what: String| Failure::new(FailureKind::MalformedReply, what);
    let reply: Reply = serde_json::from_slice(body).map_err(|error| {
        malformed(format!("the reply is not the JSON of a completion ({error}): {}", excerpt(body)))
    })?;
    let mut choices = reply.choices;
    if choices.is_empty() {
        return Err(malformed("the reply has no choices".to_owned()));
    }
    choices.sort_by_key(|choice| choice.index.as_ref().and_then(Value::as_u64).unwrap_or(0));
    let mut samples = Vec::with_capacity(choices.len());
    for choice in choices {
        let mut finish_reason = match choice.finish_reason {
            Some(Value::String(word)) => FinishReason(Cow::Owned(word)),
            _ => FinishReason::UNKNOWN,
        };
        let text = match (choice.message, choice.text) {
            (Some(message), _) => match (message.content.and_then(text_of), message.refusal.and_then(text_of)) {
                (Some(content), _) if !content.is_empty() => content,
                (_, Some(refusal)) => {
                    finish_reason = FinishReason::REFUSAL;
                    refusal
                }
                (content, None) => content.unwrap_or_default(),
            },
            (None, Some(text)) => text,
            (None, None) => String::new(),
        };
        samples.push(Sample::new(text, finish_reason, 0));
    }
    // More than was asked would be billed to no one's request.
    samples.truncate(n as usize);
    let texts: Vec<&str> = samples.iter().map(|sample| sample.text.as_str()).collect();
    let several = texts.len() > 1;
    let said = |name: &str| tokens_in(reply.usage.as_ref(), name);
    let cached = reply.usage.as_ref().and_then(|usage| usage.get("prompt_tokens_details"));
    let cached_tokens = tokens_in(cached, "cached_tokens").unwrap_or(0);
    let bound = || texts.iter().map(|text| text.len() as u64 + 1).sum();
    let guessed = said("prompt_tokens").is_none() || said("completion_tokens").is_none();
    let prompt_tokens = said("prompt_tokens").unwrap_or_else(|| tokens::input_bound(request));
    let output = said("completion_tokens").unwrap_or_else(bound);
    let shares = tokens::shares(&request.model, &texts, output);
    for (sample, share) in samples.iter_mut().zip(shares) {
        sample.completion_tokens = share;
    }
    let model = reply.model.filter(|model| *model != request.model);
    Ok(Response { samples, prompt_tokens, cached_tokens, model, estimated: several || guessed, ..Response::default() })
}

/// Reads a reply with another status: what class of failure it is, in the endpoint's own words.
pub fn decode_error(status: u16, body: &[u8]) -> Failure {
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = json.get("error").unwrap_or(&json);
    let field = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let code = field("code");
    let words = match field("message") {
        "" => excerpt(body),
        message => clip(message),
    };
    let lower = words.to_lowercase();
    let kind = match status {
        400 | 413 | 422
            if code == "context_length_exceeded"
                || lower.contains("context length")
                || lower.contains("context window") =>
        {
            FailureKind::ContextTooLong
        }
        400 | 403
            if code == "content_filter"
                || code == "content_policy_violation"
                || lower.contains("content management policy") =>
        {
            FailureKind::ContentFilter
        }
        402 => FailureKind::QuotaExceeded,
        401 | 403 => FailureKind::Authentication,
        404 => FailureKind::UnknownModel,
        429 if code == "insufficient_quota" || field("type") == "insufficient_quota" => FailureKind::QuotaExceeded,
        429 => FailureKind::RateLimit,
        408 | 409 | 425 | 500..=599 => FailureKind::Server,
        _ => FailureKind::BadRequest,
    };
    Failure::new(kind, format!("HTTP {status}: {words}"))
}

/// The beginning of a reply that could not be read, for the message.
fn excerpt(body: &[u8]) -> String {
    match body.is_empty() {
        true => "(empty reply)".to_owned(),
        false => clip(&String::from_utf8_lossy(&body[..body.len().min(400)])),
    }
}

/// One line of at most 200 characters.
fn clip(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Message;

    fn request(n: u32) -> Request {
        let message = Message { role: "user".into(), content: "hi".into() };
        let params = [("temperature".to_owned(), json!(0.5)), ("stop".to_owned(), json!([]))].into_iter().collect();
        Request { model: "gpt-4o-mini".into(), input: Input::Messages(vec![message]), params, n }
    }

    #[test]
    fn a_request_is_encoded() {
        assert_eq!(
            encode(&request(1), 1),
            Call {
                path: "/chat/completions",
                body: json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}),
            }
        );
        let text = Request { input: Input::Text("once".into()), ..request(3) };
        assert_eq!(
            encode(&text, 3),
            Call {
                path: "/completions",
                body: json!({"model": "gpt-4o-mini", "prompt": "once", "temperature": 0.5, "n": 3}),
            }
        );
    }

    #[test]
    fn choices_come_in_order_and_share_the_bill() {
        let body = json!({"model": "gpt-4o-mini-2024-07-18", "choices": [
            {"index": 1, "message": {"content": "b b b b"}, "finish_reason": "length"},
            {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
        ], "usage": {"prompt_tokens": 8, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}});
        let response = decode(&request(2), 2, body.to_string().as_bytes()).unwrap();
        assert_eq!(
            response.samples.iter().map(|s| (s.text.as_str(), s.completion_tokens)).collect::<Vec<_>>(),
            [("a", 2), ("b b b b", 5)]
        );
        assert_eq!((response.prompt_tokens, response.cached_tokens, response.estimated), (8, 4, true));
        assert_eq!(response.model.as_deref(), Some("gpt-4o-mini-2024-07-18"));
        assert_eq!(response.samples[1].finish_reason, FinishReason::LENGTH);
    }

    #[test]
    fn replies_that_are_none_are_failures() {
        let kind = |body: Value| decode(&request(1), 1, body.to_string().as_bytes()).unwrap_err().kind;
        assert_eq!(kind(json!({"choices": []})), FailureKind::MalformedReply);
        assert_eq!(kind(json!("x")), FailureKind::MalformedReply);
        assert_eq!(decode(&request(1), 1, b"<html>").unwrap_err().kind, FailureKind::MalformedReply);
        let unbilled = decode(&request(1), 1, br#"{"choices": [{"message": {"content": "a b"}}]}"#).unwrap();
        assert!(unbilled.estimated && unbilled.prompt_tokens > 0 && unbilled.samples[0].completion_tokens == 4);
    }

    #[test]
    fn what_is_withheld_is_billed_like_any_answer() {
        let read = |choice: Value| {
            let body = json!({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 4}});
            decode(&request(1), 1, body.to_string().as_bytes()).unwrap()
        };
        let refused = read(json!({"message": {"content": null, "refusal": "no"}, "finish_reason": "stop"}));
        assert_eq!((refused.samples[0].finish_reason.clone(), refused.completion_tokens()), (FinishReason::REFUSAL, 4));
        let filtered = read(json!({"message": {"content": null}, "finish_reason": "content_filter"}));
        assert_eq!(filtered.samples[0].finish_reason, FinishReason::CONTENT_FILTER);
    }

    #[test]
    fn odd_forms_are_read_and_what_usage_leaves_out_is_bounded() {
        for usage in [json!({"total_tokens": 60}), json!({}), json!(null), json!({"prompt_tokens": -1}), json!("none")]
        {
            let body = json!({"choices": [{"index": null, "message": {"content": [{"type": "text", "text": "abc"}]}}], "usage": usage});
            let response = decode(&request(1), 1, body.to_string().as_bytes()).unwrap();
            assert_eq!(response.samples[0].text, "abc");
            assert!(response.estimated && response.prompt_tokens >= 66 && response.completion_tokens() == 4, "{usage}");
        }
        let float = json!({"choices": [{"text": "a"}], "usage": {"prompt_tokens": 12.0, "completion_tokens": 3}});
        assert_eq!(decode(&request(1), 1, float.to_string().as_bytes()).unwrap().prompt_tokens, 12);
    }

    #[test]
    fn errors_are_classed() {
        for (status, body, kind) in [
            (
                400,
                json!({"error": {"code": "context_length_exceeded", "message": "too long"}}),
                FailureKind::ContextTooLong,
            ),
            (
                400,
                json!({"error": {"message": "This model's maximum context length is 8192 tokens"}}),
                FailureKind::ContextTooLong,
            ),
            (400, json!({"error": {"message": "bad temperature"}}), FailureKind::BadRequest),
            (400, json!({"error": {"code": "content_filter", "message": "x"}}), FailureKind::ContentFilter),
            (401, json!({"error": {"message": "bad key"}}), FailureKind::Authentication),
            (404, json!({"error": {"message": "no model"}}), FailureKind::UnknownModel),
            (429, json!({"error": {"code": "insufficient_quota", "message": "x"}}), FailureKind::QuotaExceeded),
            (429, json!({"error": {"message": "slow down"}}), FailureKind::RateLimit),
            (503, json!("x"), FailureKind::Server),
        ] {
            assert_eq!(decode_error(status, body.to_string().as_bytes()).kind, kind, "{body}");
        }
        assert_eq!(decode_error(500, b"").message, "HTTP 500: (empty reply)");
    }

    proptest::proptest! {
        #[test]
        fn any_reply_is_read_or_refused(body: Vec<u8>, status: u16) {
            let _ = decode(&request(2), 2, &body);
            let _ = decode_error(status, &body);
        }
    }
}
