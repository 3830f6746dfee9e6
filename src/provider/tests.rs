//! Every wire on the battery, and replies as the providers write them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::anthropic::Anthropic;
use super::azure::Azure;
use super::conformance::{Said, Subject};
use super::gemini::Gemini;
use super::ollama::Ollama;
use super::openai::Openai;
use super::*;

fn chat_reply(said: &Said) -> Value {
    let choice = |(at, text): (usize, &&str)| {
        json!({"index": at, "message": {"role": "assistant", "content": text}, "logprobs": null,
               "finish_reason": if said.cut { "length" } else { "stop" }})
    };
    json!({"id": "x", "object": "chat.completion", "model": "m", "choices": said.texts.iter().enumerate().map(choice).collect::<Vec<_>>(),
        "usage": {"prompt_tokens": said.input, "completion_tokens": said.output, "total_tokens": said.input + said.output,
            "prompt_tokens_details": {"cached_tokens": said.cached}, "completion_tokens_details": {"reasoning_tokens": said.thought}}})
}

fn text_reply(said: &Said) -> Value {
    let mut reply = chat_reply(said);
    for (choice, text) in reply["choices"].as_array_mut().unwrap().iter_mut().zip(&said.texts) {
        choice.as_object_mut().unwrap().remove("message");
        choice["text"] = json!(text);
    }
    reply
}

fn responses_reply(said: &Said) -> Value {
    json!({"id": "x", "object": "response", "model": "m", "error": null, "status": if said.cut { "incomplete" } else { "completed" },
        "incomplete_details": if said.cut { json!({"reason": "max_output_tokens"}) } else { json!(null) },
        "output": [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant",
            "content": [{"type": "output_text", "text": said.texts[0], "annotations": []}]}],
        "usage": {"input_tokens": said.input, "input_tokens_details": {"cached_tokens": said.cached},
            "output_tokens": said.output, "output_tokens_details": {"reasoning_tokens": said.thought}}})
}

fn anthropic_reply(said: &Said) -> Value {
    json!({"id": "x", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": said.texts[0]}],
        "stop_reason": if said.cut { "max_tokens" } else { "end_turn" }, "stop_sequence": null,
        "usage": {"input_tokens": said.input - said.cached, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": said.cached, "output_tokens": said.output}})
}

fn ollama_reply(said: &Said) -> Value {
    json!({"model": "m", "created_at": "2025-01-01T00:00:00Z", "message": {"role": "assistant", "content": said.texts[0]},
        "done": true, "done_reason": if said.cut { "length" } else { "stop" },
        "prompt_eval_count": said.input, "eval_count": said.output})
}

fn ollama_text_reply(said: &Said) -> Value {
    let mut reply = ollama_reply(said);
    reply.as_object_mut().unwrap().remove("message");
    reply["response"] = json!(said.texts[0]);
    reply
}

fn gemini_reply(said: &Said) -> Value {
    let candidate = |(at, text): (usize, &&str)| {
        json!({"index": at, "content": {"role": "model", "parts": [{"text": "hm", "thought": true}, {"text": text}]},
               "finishReason": if said.cut { "MAX_TOKENS" } else { "STOP" }})
    };
    json!({"candidates": said.texts.iter().enumerate().map(candidate).collect::<Vec<_>>(), "modelVersion": "m",
        "usageMetadata": {"promptTokenCount": said.input, "cachedContentTokenCount": said.cached,
            "candidatesTokenCount": said.output - said.thought, "thoughtsTokenCount": said.thought}})
}

fn asks_responses() -> Openai {
    Openai { vendor: true, responses: ["gpt-5".to_owned()].into(), ..Openai::default() }
}

/// Runs a check on every wire.
fn all(check: impl Fn(&Subject)) {
    let openai = Openai::default();
    let vendor = Openai { vendor: true, ..Openai::default() };
    let responses = asks_responses();
    let azure = Azure { openai: vendor.clone(), ..Azure::default() };
    let azure_responses = Azure { openai: asks_responses(), version: Some("v1".into()), ..Azure::default() };
    let anthropic = Anthropic::default();
    let subject = |wire, model, text, reply, details| check(&Subject { wire, model, text, reply, details });
    subject(&openai, "some/model", false, &chat_reply, (true, true));
    subject(&openai, "some/model", true, &text_reply, (true, true));
    subject(&vendor, "gpt-4o-mini", false, &chat_reply, (true, true));
    subject(&vendor, "gpt-3.5-turbo-instruct", true, &text_reply, (true, true));
    subject(&vendor, "o3", false, &chat_reply, (true, true));
    subject(&responses, "gpt-5", false, &responses_reply, (true, true));
    subject(&azure, "gpt-4o", false, &chat_reply, (true, true));
    subject(&azure_responses, "gpt-5", false, &responses_reply, (true, true));
    subject(&anthropic, "claude-sonnet-4-6", false, &anthropic_reply, (true, false));
    subject(&anthropic, "claude-sonnet-4-20250514", false, &anthropic_reply, (true, false));
    subject(&Ollama, "llama3.2", false, &ollama_reply, (false, false));
    subject(&Ollama, "llama3.2", true, &ollama_text_reply, (false, false));
    subject(&Gemini, "gemini-2.5-flash", false, &gemini_reply, (true, true));
    subject(&Gemini, "gemini-3-pro-preview", false, &gemini_reply, (true, true));
}

#[test]
fn every_wire_conforms() {
    all(|subject| subject.conforms());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_read_or_refused(body: Vec<u8>, status: u16) {
        all(|subject| subject.any_bytes(&body, status));
    }

    /// Well-formed JSON of the right names and the wrong kinds.
    #[test]
    fn any_fields_are_read_or_refused(seed in 0_u64.., status in 200_u16..600) {
        let said = conformance::said();
        all(|subject| {
            let mut state = seed;
            let spoilt = spoil(&(subject.reply)(&said), &mut state);
            subject.any_bytes(spoilt.to_string().as_bytes(), status);
        });
    }

    #[test]
    fn any_text_survives(text in "\\PC{0,80}") {
        all(|subject| subject.texts_survive(&text));
    }
}

/// A value with some of its pieces replaced by others.
fn spoil(value: &Value, state: &mut u64) -> Value {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    match *state >> 33 & 15 {
        0 => json!(null),
        1 => json!(-1.5),
        2 => json!("x"),
        3 => json!([{}, []]),
        4 => json!({"text": {}, "error": "x"}),
        _ => match value {
            Value::Array(list) => list.iter().map(|value| spoil(value, state)).collect(),
            Value::Object(map) => {
                Value::Object(map.iter().map(|(name, value)| (name.clone(), spoil(value, state))).collect())
            }
            other => other.clone(),
        },
    }
}

fn ask(model: &str, params: Value) -> Request {
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let input = Input::Messages(vec![message("system", "be brief"), message("user", "hi")]);
    let params = params.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Request { model: model.into(), input, params, n: 1 }
}

fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).unwrap()
}

fn read(wire: &dyn Wire, model: &str, n: u32, reply: Value) -> Result<Response, Failure> {
    wire.decode(&ask(model, json!({})), n, reply.to_string().as_bytes()).map_err(|refusal| refusal.failure)
}

mod anthropics;
mod azures;
mod geminis;
mod ollamas;
mod openais;
mod refusals;
