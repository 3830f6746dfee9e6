//! Ollama's native API: chat and generate, the local models.

use serde_json::{Map, Value, json};

use super::clock;
use super::ledger::Tokens;
use super::wire::{Answered, Asked, CREATED, Refusal, messages, renamed};
use crate::backend::mock;
use crate::backend::mock::tokens;
use crate::provider::{FinishReason, Input, Message, Request};

/// Reads the body of a request.
pub(super) fn read(fields: &Map<String, Value>, chat: bool) -> Result<Asked, Refusal> {
    let model = fields.get("model").and_then(Value::as_str).filter(|model| !model.is_empty());
    let model = model.ok_or_else(|| Refusal::bad(Some("model"), "model is required"))?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let raw = fields.get("raw").and_then(Value::as_bool) == Some(true);
    let input = if chat {
        let list = fields.get("messages").and_then(Value::as_array);
        Input::Messages(messages(list.ok_or_else(|| Refusal::missing("messages"))?)?)
    } else {
        let prompt = text("prompt").ok_or_else(|| Refusal::missing("prompt"))?.to_owned();
        let system = text("system").map(|content| Message { role: "system".into(), content: content.to_owned() });
        match raw {
            true => Input::Text(prompt),
            // The model's own template makes a conversation of it.
            false => {
                let user = Message { role: "user".into(), content: prompt };
                Input::Messages(system.into_iter().chain([user]).collect())
            }
        }
    };
    let empty = Map::new();
    let options = match fields.get("options") {
        None | Some(Value::Null) => &empty,
        Some(options) => options.as_object().ok_or_else(|| Refusal::bad(Some("options"), "options is no object"))?,
    };
    let names = [
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("num_predict", "max_tokens"),
        ("stop", "stop"),
        ("seed", "seed"),
        ("presence_penalty", "presence_penalty"),
        ("frequency_penalty", "frequency_penalty"),
    ];
    let params = renamed(options, &names).into_iter();
    // Below zero: as many as there are.
    let params = params.filter(|(name, value)| name != "max_tokens" || value.as_i64().is_none_or(|most| most >= 0));
    let model = model.strip_suffix(":latest").unwrap_or(model).to_owned();
    let request = Request { model, input, params: params.collect(), n: 1 };
    // Here streaming is the default.
    let stream = fields.get("stream").and_then(Value::as_bool) != Some(false);
    Ok(Asked { request, stream, usage: stream })
}

/// The reply to a request.
pub(super) fn reply(answered: &Answered, chat: bool) -> Value {
    let sample = answered.response.samples.first();
    let reason = sample.map_or("stop", |sample| match &sample.finish_reason {
        reason if *reason == FinishReason::LENGTH => "length",
        _ => "stop",
    });
    let mut reply = json!({
        "model": answered.model(),
        "created_at": clock::rfc3339(CREATED + answered.number),
        "done": true,
        "done_reason": reason,
        "total_duration": 1_000_000,
        "load_duration": 1_000,
    });
    if let Some(sample) = sample {
        match chat {
            true => reply["message"] = json!({"role": "assistant", "content": sample.text}),
            false => reply["response"] = json!(sample.text),
        }
    }
    if let Some(Tokens { prompt, completion, .. }) = answered.tokens {
        reply["prompt_eval_count"] = json!(prompt);
        reply["prompt_eval_duration"] = json!(1_000);
        reply["eval_count"] = json!(completion);
        reply["eval_duration"] = json!(1_000);
    }
    reply
}

/// A finished reply as lines: its text in tokens, then what there is to say at the end.
pub(super) fn lines(reply: &Value) -> String {
    let said = reply["message"]["content"].as_str().or(reply["response"].as_str()).unwrap_or_default();
    let chat = reply.get("message").is_some();
    let part = |text: &str| match chat {
        true => ("message", json!({"role": "assistant", "content": text})),
        false => ("response", json!(text)),
    };
    let mut lines = String::new();
    for token in tokens::tokens(said) {
        let (name, value) = part(token);
        let line = json!({"model": reply["model"], "created_at": reply["created_at"], name: value, "done": false});
        lines.push_str(&format!("{line}\n"));
    }
    let mut last = reply.clone();
    let (name, value) = part("");
    last[name] = value;
    lines + &format!("{last}\n")
}

fn details() -> Value {
    json!({
        "parent_model": "", "format": "none", "family": "mock", "families": ["mock"],
        "parameter_size": "0", "quantization_level": "none"
    })
}

/// The models at hand.
pub(super) fn tags(names: &[String]) -> Value {
    let model = |name: &String| {
        let tagged = format!("{name}:latest");
        let digest = blake3::hash(name.as_bytes()).to_hex().to_string();
        json!({
            "name": tagged, "model": tagged, "modified_at": clock::rfc3339(CREATED), "size": 0, "digest": digest,
            "details": details()
        })
    };
    json!({"models": names.iter().map(model).collect::<Vec<_>>()})
}

/// What is known of a model.
pub(super) fn show(name: &str) -> Value {
    let context = mock::model(name).map_or(4096, |model| model.context_window);
    json!({
        "modelfile": format!("FROM {name}"), "parameters": "", "template": "{{ .Prompt }}", "license": "",
        "modified_at": clock::rfc3339(CREATED), "details": details(), "capabilities": ["completion"],
        "model_info": {"general.architecture": "mock", "mock.context_length": context}
    })
}
