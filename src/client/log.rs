//! A log of every call, switched on and off as wanted: in full, or compact by conversation. Requests never hold a key, so
//! neither does the log.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Completion;
use crate::provider::{Failure, Input, Request};

/// How calls are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// Each call with its request, its response, its cost.
    #[default]
    Full,
    /// Each conversation once (a request and its first reply), with the cost of every call that led to it.
    Compact,
}

/// The calls so far, in the order in which they ended.
#[derive(Debug)]
pub(super) struct Log {
    form: LogForm,
    entries: Vec<Value>,
    /// Where a conversation stands among the entries.
    places: HashMap<String, usize>,
}

impl Log {
    pub(super) fn new(form: LogForm) -> Log {
        Log { form, entries: Vec::new(), places: HashMap::new() }
    }

    pub(super) fn entries(&self) -> &[Value] {
        &self.entries
    }

    pub(super) fn add(&mut self, request: &Request, outcome: Result<&Completion, &Failure>) {
        let mut body = match &request.input {
            Input::Messages(messages) => json!({"messages": messages}),
            Input::Text(text) => json!({"prompt": text}),
        };
        match (self.form, outcome) {
            (LogForm::Full, outcome) => {
                body["model"] = json!(request.model);
                body["n"] = json!(request.n);
                body["params"] = json!(request.params);
                self.entries.push(match outcome {
                    Ok(done) => json!({
                        "request": body, "cost_usd": done.cost.to_string(), "full_cost_usd": done.full_cost.to_string(),
                        "cached": done.cached,
                        "response": {"samples": done.samples, "model": done.replied_model, "endpoint": done.endpoint,
                            "usage": {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}},
                    }),
                    Err(failure) => json!({"request": body, "error": failure}),
                });
            }
            (LogForm::Compact, Ok(done)) => {
                let reply = done.extract_text();
                let key = format!("{}\n{body}\n{reply:?}", request.model);
                let call = json!({"cost_usd": done.cost.to_string(), "cached": done.cached});
                match self.places.get(&key) {
                    Some(&place) => {
                        if let Some(calls) = self.entries[place]["calls"].as_array_mut() {
                            calls.push(call);
                        }
                    }
                    None => {
                        body["model"] = json!(request.model);
                        body["replies"] = json!(reply);
                        body["calls"] = json!([call]);
                        self.places.insert(key, self.entries.len());
                        self.entries.push(body);
                    }
                }
            }
            (LogForm::Compact, Err(_)) => {}
        }
    }
}
