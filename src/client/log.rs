//! A log of every call, switched on and off as wanted: in full, or compact by conversation. Requests never hold a key, so
//! neither does the log.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Completion;
use crate::money::Usd;
use crate::provider::{Failure, Input, Request};

/// How calls are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// Each call with its request, its response, its cost.
    #[default]
    Full,
    /// Each conversation once (a request and its first reply, or why there is none), with the cost of every call that led
    /// to it.
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

    /// A call that ended, and what was `paid` for it: a failed one may have cost something, too.
    pub(super) fn add(&mut self, request: &Request, outcome: Result<&Completion, &Failure>, paid: Usd) {
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
                    Err(failure) => json!({"request": body, "cost_usd": paid.to_string(), "error": failure}),
                });
            }
            (LogForm::Compact, outcome) => {
                let (end, what, cached) = match outcome {
                    Ok(done) => ("replies", json!(done.extract_text()), done.cached),
                    Err(failure) => ("error", json!(failure), false),
                };
                let key = format!("{}\n{body}\n{end} {what}", request.model);
                let call = json!({"cost_usd": paid.to_string(), "cached": cached});
                match self.places.get(&key) {
                    Some(&place) => {
                        if let Some(calls) = self.entries[place]["calls"].as_array_mut() {
                            calls.push(call);
                        }
                    }
                    None => {
                        body["model"] = json!(request.model);
                        body[end] = what;
                        body["calls"] = json!([call]);
                        self.places.insert(key, self.entries.len());
                        self.entries.push(body);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::FailureKind;

    #[test]
    fn failed_calls_are_logged_with_what_they_cost() {
        let request =
            Request { model: "m".into(), input: Input::Text("once".into()), params: Default::default(), n: 1 };
        let failure = |words: &str| Failure::new(FailureKind::Timeout, words);
        let paid = "0.25".parse().unwrap();
        let mut full = Log::new(LogForm::Full);
        full.add(&request, Err(&failure("late")), paid);
        assert_eq!(
            full.entries(),
            [json!({
                "request": {"prompt": "once", "model": "m", "n": 1, "params": {}},
                "cost_usd": "0.25", "error": {"kind": "timeout", "message": "late"},
            })]
        );
        let mut compact = Log::new(LogForm::Compact);
        for words in ["late", "later", "late"] {
            compact.add(&request, Err(&failure(words)), paid);
        }
        let call = json!({"cost_usd": "0.25", "cached": false});
        let entry = |words: &str, calls: &[Value]| json!({"prompt": "once", "model": "m", "error": {"kind": "timeout", "message": words}, "calls": calls});
        assert_eq!(compact.entries(), [entry("late", &[call.clone(), call.clone()]), entry("later", &[call])]);
    }
}
