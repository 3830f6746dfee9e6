//! OpenAI's batches: validated, worked on, finished, or failed, expired and cancelled on the way.
//!
//! The codes of validation errors are those in OpenAI's documentation as quoted at
//! <https://github.com/stdapi-ai/stdapi.ai/issues/240>; the sentences are ours.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Response as HttpResponse, Uri};
use serde_json::{Value, json};

use super::clock::millis;
use super::files::{File, Shelf, answered, listed, number_of, page};
use super::flow::price;
use super::wire::{Family, Format, Refusal, parameter};
use super::work::{Outcome, Work};
use super::{Desk, Payer};
use crate::backend::mock::tokens;

/// How batches go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// How long work on a batch takes; a tenth of it more for validating, finalizing and cancelling each.
    pub duration: Duration,
    /// After this an unfinished batch expires.
    pub window: Duration,
    /// The most prompt tokens of one model in batches that are not finished; a batch above it fails
    /// (`token_limit_exceeded`).
    pub enqueued_tokens: Option<u64>,
    /// A line of a batch with this text in its body fails validation, and the whole batch with it.
    pub refused_text: Option<String>,
}

impl Default for BatchOptions {
    /// A second, a day, no limit.
    fn default() -> BatchOptions {
        let day = Duration::from_secs(24 * 3600);
        BatchOptions { duration: Duration::from_secs(1), window: day, enqueued_tokens: None, refused_text: None }
    }
}

impl BatchOptions {
    /// A tenth of the duration, in milliseconds.
    pub(super) fn tenth(&self) -> u64 {
        millis(self.duration) / 10
    }
}

/// The most lines of a batch.
const MOST_LINES: usize = 50_000;
/// The most validation errors that are told.
const MOST_ERRORS: usize = 100;
const PREFIX: &str = "batch_mock_";

/// A batch. Times in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Batch {
    endpoint: String,
    input: String,
    metadata: Value,
    model: Option<String>,
    /// The prompts' tokens.
    tokens: u64,
    created: u64,
    /// What validation found.
    errors: Vec<Value>,
    work: Work,
    total: usize,
    /// When all is written, and what: the files of results and errors, how many good and bad lines, the usage.
    written: Option<Written>,
}

#[derive(Debug)]
struct Written {
    output: Option<String>,
    error: Option<String>,
    counts: (u64, u64),
    usage: [u64; 3],
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Validating => "validating",
            Status::Failed => "failed",
            Status::InProgress => "in_progress",
            Status::Finalizing => "finalizing",
            Status::Completed => "completed",
            Status::Expired => "expired",
            Status::Cancelling => "cancelling",
            Status::Cancelled => "cancelled",
        }
    }

    fn over(self) -> bool {
        matches!(self, Status::Failed | Status::Completed | Status::Expired | Status::Cancelled)
    }
}

impl Batch {
    /// Lines to answer by now.
    pub(super) fn take(&mut self, now: u64) -> Vec<(usize, Value)> {
        if self.errors.is_empty() { self.work.take(now) } else { Vec::new() }
    }

    pub(super) fn work(&mut self) -> &mut Work {
        &mut self.work
    }

    /// When its last word is said, if nothing changes.
    fn over_at(&self, tenth: u64) -> u64 {
        let end = self.work.end();
        match self.work.cancelled {
            Some(at) if at <= end => at.saturating_add(tenth),
            _ if self.work.done <= self.work.expires => end.saturating_add(tenth),
            _ => end,
        }
    }

    fn status(&self, now: u64, tenth: u64) -> Status {
        let cancelled = self.work.cancelled.is_some_and(|at| at <= self.work.end());
        let over = self.written.is_some() && now >= self.over_at(tenth);
        match () {
            _ if !self.errors.is_empty() && now >= self.work.start => Status::Failed,
            _ if cancelled && over => Status::Cancelled,
            _ if cancelled => Status::Cancelling,
            _ if now < self.work.start => Status::Validating,
            _ if now < self.work.end() => Status::InProgress,
            _ if !over => Status::Finalizing,
            _ if self.work.done <= self.work.expires => Status::Completed,
            _ => Status::Expired,
        }
    }

    fn object(&self, number: u64, now: u64, tenth: u64) -> Value {
        let status = self.status(now, tenth);
        let at = |is: bool, time: u64| if is { json!(time / 1000) } else { Value::Null };
        let (started, end) = (now >= self.work.start && self.errors.is_empty(), self.work.end());
        let written = self.written.as_ref().filter(|_| status.over());
        let (good, bad) = self.written.as_ref().map_or_else(|| self.work.counts(), |written| written.counts);
        let total = if now >= self.work.start && status != Status::Failed { self.total } else { 0 };
        let file = |id: fn(&Written) -> &Option<String>| written.and_then(|written| id(written).clone());
        let errors = match status {
            Status::Failed => json!({"object": "list", "data": self.errors}),
            _ => Value::Null,
        };
        let mut object = json!({
            "id": format!("{PREFIX}{number}"),
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": errors,
            "input_file_id": self.input,
            "completion_window": "24h",
            "status": status.word(),
            "output_file_id": file(|written| &written.output),
            "error_file_id": file(|written| &written.error),
            "created_at": self.created / 1000,
            "in_progress_at": at(started && self.work.cancelled.is_none_or(|at| at > self.work.start), self.work.start),
            "expires_at": self.work.expires / 1000,
            "finalizing_at": at(matches!(status, Status::Finalizing | Status::Completed), end),
            "completed_at": at(status == Status::Completed, self.over_at(tenth)),
            "failed_at": at(status == Status::Failed, self.work.start),
            "expired_at": at(status == Status::Expired, end),
            "cancelling_at": at(matches!(status, Status::Cancelling | Status::Cancelled), end),
            "cancelled_at": at(status == Status::Cancelled, self.over_at(tenth)),
            "request_counts": {"total": total, "completed": good, "failed": bad},
            "metadata": self.metadata,
            "model": self.model,
        });
        if let Some(Written { usage: [prompt, cached, completion], .. }) = written {
            object["usage"] = json!({
                "input_tokens": prompt, "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": completion, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt.saturating_add(*completion)
            });
        }
        object
    }
}

/// Writes the files of every batch whose work has ended.
pub(super) fn write(shelf: &mut Shelf, now: u64) {
    let ended = |batch: &Batch| batch.written.is_none() && batch.errors.is_empty() && batch.work.ended(now);
    let numbers: Vec<u64> = shelf.batches.iter().filter(|(_, batch)| ended(batch)).map(|(number, _)| *number).collect();
    for number in numbers {
        let Some(batch) = shelf.batches.get_mut(&number) else { continue };
        let created = batch.work.end() / 1000;
        let (mut good, mut bad) = ((String::new(), 0), (String::new(), 0));
        let mut usage = [0_u64; 3];
        for (at, (custom_id, outcome)) in batch.work.close().into_iter().enumerate() {
            let (response, error) = match outcome {
                Outcome::Http(status, body) => {
                    add(&mut usage, &body["usage"]);
                    let request = format!("req_mock_{number}_{at}");
                    (json!({"status_code": status, "request_id": request, "body": body}), Value::Null)
                }
                Outcome::Broken(code, message) => (Value::Null, json!({"code": code, "message": message})),
            };
            let (lines, count) = if response["status_code"] == 200 { &mut good } else { &mut bad };
            *count += 1;
            let id = format!("batch_req_mock_{number}_{at}");
            let line = json!({"id": id, "custom_id": custom_id, "response": response, "error": error});
            lines.push_str(&format!("{line}\n"));
        }
        let counts = (good.1, bad.1);
        let mut keep = |(lines, _): (String, u64), what: &str| {
            let name = format!("{PREFIX}{number}_{what}.jsonl");
            let file = File { name, purpose: "batch_output".into(), bytes: Bytes::from(lines), created };
            (!file.bytes.is_empty()).then(|| shelf.keep(file))
        };
        let written = Written { output: keep(good, "output"), error: keep(bad, "error"), counts, usage };
        if let Some(batch) = shelf.batches.get_mut(&number) {
            batch.written = Some(written);
        }
    }
}

/// Adds the usage of a reply of either of OpenAI's kinds: prompt, cached, completion.
fn add(sum: &mut [u64; 3], usage: &Value) {
    let number = |names: [&Value; 2]| names.into_iter().find_map(Value::as_u64).unwrap_or(0);
    let parts = [
        number([&usage["prompt_tokens"], &usage["input_tokens"]]),
        number([&usage["prompt_tokens_details"]["cached_tokens"], &usage["input_tokens_details"]["cached_tokens"]]),
        number([&usage["completion_tokens"], &usage["output_tokens"]]),
    ];
    for (sum, part) in sum.iter_mut().zip(parts) {
        *sum = sum.saturating_add(part);
    }
}

fn format_of(endpoint: &str) -> Option<Format> {
    match endpoint {
        "/v1/chat/completions" | "/chat/completions" => Some(Format::Chat),
        "/v1/completions" => Some(Format::Text),
        "/v1/responses" => Some(Format::Responses),
        _ => None,
    }
}

/// What validation finds: errors, or the lines, their model and their tokens.
struct Checked {
    errors: Vec<Value>,
    lines: Vec<(String, Value)>,
    model: Option<String>,
    tokens: u64,
}

fn check(desk: &Desk, bytes: &[u8], endpoint: &str, format: Format) -> Checked {
    let mut checked = Checked { errors: Vec::new(), lines: Vec::new(), model: None, tokens: 0 };
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let mut wrong = |code: &str, param: Value, message: String| {
            if found.len() < MOST_ERRORS {
                found.push(json!({"code": code, "message": message, "param": param, "line": at + 1}));
            }
        };
        let Ok(Value::Object(mut line)) = serde_json::from_slice::<Value>(line) else {
            wrong("invalid_json_line", Value::Null, "This line is not a valid JSON object.".into());
            continue;
        };
        let body = line.remove("body");
        let text = |name: &str| line.get(name).and_then(Value::as_str);
        let (Some(custom_id), Some(method), Some(url), Some(Value::Object(body))) =
            (text("custom_id"), text("method"), text("url"), body)
        else {
            let names = "custom_id, method, url and body";
            wrong("missing_required_parameter", Value::Null, format!("Every line must have {names}."));
            continue;
        };
        if method != "POST" {
            wrong("invalid_method", json!("method"), format!("The method must be POST, but it is {method}."));
        }
        if url != endpoint {
            let message = format!("The URL {url} is not the endpoint of the batch, {endpoint}.");
            wrong("url_mismatch", json!("url"), message);
        }
        if !seen.insert(custom_id.to_owned()) {
            let message = format!("The custom_id '{custom_id}' was used for an earlier line already.");
            wrong("duplicate_custom_id", json!("custom_id"), message);
        }
        let refused = desk.options.batches.refused_text.as_ref();
        if refused.is_some_and(|text| body.values().any(|value| value.to_string().contains(text))) {
            wrong("invalid_request", json!("body"), "The body of this line is not valid.".into());
        }
        let model = body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
        match &checked.model {
            Some(first) if *first != model => {
                let message = format!("The model '{model}' is not that of the first line, '{first}'.");
                wrong("model_mismatch", json!("body.model"), message);
            }
            Some(_) => {}
            None => {
                if price(&desk.options, &model).is_err() {
                    wrong("model_not_found", json!("body.model"), format!("The model '{model}' does not exist."));
                }
                checked.model = Some(model);
            }
        }
        let body = Value::Object(body);
        // A body that cannot be read fails when its turn comes, not here.
        if let Ok(asked) = format.read(&body, None) {
            checked.tokens = checked.tokens.saturating_add(tokens::prompt(&asked.request.input));
        }
        checked.lines.push((custom_id.to_owned(), body));
    }
    checked.errors = found;
    let whole = |code: &str, message: String| json!({"code": code, "message": message, "param": null, "line": null});
    if checked.lines.is_empty() && checked.errors.is_empty() {
        checked.errors.push(whole("empty_file", "The input file has no lines.".into()));
    }
    if checked.lines.len() > MOST_LINES {
        checked.errors.push(whole("too_many_tasks", format!("A batch has {MOST_LINES} lines at most.")));
    }
    checked
}

/// `POST /v1/batches`
pub(super) async fn create(
    State(desk): State<Arc<Desk>>,
    Extension(Payer(key)): Extension<Payer>,
    body: Bytes,
) -> HttpResponse<Body> {
    answered(Family::OpenAi, opened(&desk, key, &body))
}

fn opened(desk: &Desk, key: String, body: &[u8]) -> Result<Value, Refusal> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Refusal::bad(None, "The body is no JSON."))?;
    let text = |name: &'static str| body[name].as_str().ok_or_else(|| Refusal::missing(name));
    let (input, endpoint, window) = (text("input_file_id")?, text("endpoint")?, text("completion_window")?);
    if window != "24h" {
        return Err(Refusal::bad(Some("completion_window"), "Invalid value: 'completion_window' must be '24h'."));
    }
    let format = format_of(endpoint).ok_or_else(|| {
        Refusal::bad(Some("endpoint"), "The mock endpoint has batches of chat completions, completions and responses.")
    })?;
    let metadata = body.get("metadata").cloned().unwrap_or_default();
    let long = |(name, value): (&String, &Value)| {
        name.chars().count() > 64 || value.as_str().is_none_or(|value| value.chars().count() > 512)
    };
    let bad = match &metadata {
        Value::Null => false,
        Value::Object(pairs) => pairs.len() > 16 || pairs.iter().any(long),
        _ => true,
    };
    if bad {
        let message = "Invalid 'metadata': at most 16 pairs of texts of at most 64 and 512 characters.";
        return Err(Refusal::bad(Some("metadata"), message));
    }
    desk.settle();
    let file = desk.store.shelf().file(input).cloned();
    let file = file.ok_or_else(|| {
        let refusal = Refusal::not_found("File object", input);
        Refusal { param: Some("input_file_id"), ..refusal }
    })?;
    if file.purpose != "batch" {
        return Err(Refusal::bad(Some("input_file_id"), "The purpose of the file must be 'batch'."));
    }
    let Checked { mut errors, lines, model, tokens } = check(desk, &file.bytes, endpoint, format);
    let (now, tenth) = (desk.clock.now(), desk.options.batches.tenth());
    let mut shelf = desk.store.shelf();
    if let (Some(limit), Some(model), true) = (desk.options.batches.enqueued_tokens, &model, errors.is_empty()) {
        let others = shelf.batches.values().filter(|batch| {
            batch.model.as_ref() == Some(model) && batch.errors.is_empty() && !batch.status(now, tenth).over()
        });
        if others.map(|batch| batch.tokens).fold(tokens, u64::saturating_add) > limit {
            let message = format!(
                "Enqueued token limit reached for {model} in organization mock. Limit: {limit} enqueued tokens. \
                 Please try again once some in_progress batches have been completed."
            );
            errors.push(json!({"code": "token_limit_exceeded", "message": message, "param": null, "line": null}));
        }
    }
    let total = lines.len();
    let lines = if errors.is_empty() { lines } else { Vec::new() };
    let batch = Batch {
        endpoint: endpoint.to_owned(),
        input: input.to_owned(),
        metadata,
        model,
        tokens,
        created: now,
        errors,
        work: Work::new(desk, format, key, lines, tenth),
        total,
        written: None,
    };
    let number = shelf.number();
    let object = batch.object(number, now, tenth);
    shelf.batches.insert(number, batch);
    Ok(object)
}

/// `GET /v1/batches/{id}`
pub(super) async fn get(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    desk.settle();
    answered(Family::OpenAi, found(&desk, &id))
}

fn found(desk: &Desk, id: &str) -> Result<Value, Refusal> {
    let (shelf, now) = (desk.store.shelf(), desk.clock.now());
    let batch = number_of(id, PREFIX).and_then(|number| Some((number, shelf.batches.get(&number)?)));
    let (number, batch) = batch.ok_or_else(|| Refusal::not_found("batch", id))?;
    Ok(batch.object(number, now, desk.options.batches.tenth()))
}

/// `POST /v1/batches/{id}/cancel`
pub(super) async fn cancel(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    desk.settle();
    let (now, tenth) = (desk.clock.now(), desk.options.batches.tenth());
    let result = {
        let mut shelf = desk.store.shelf();
        match number_of(&id, PREFIX).and_then(|number| shelf.batches.get_mut(&number)) {
            None => Err(Refusal::not_found("batch", &id)),
            Some(batch) => match batch.status(now, tenth) {
                Status::Validating | Status::InProgress if batch.errors.is_empty() => {
                    batch.work.cancelled = Some(now);
                    Ok(())
                }
                Status::Cancelling => Ok(()),
                status => {
                    let message = format!("Cannot cancel a batch with status '{}'.", status.word());
                    Err(Refusal::new(409, None, message))
                }
            },
        }
    };
    answered(Family::OpenAi, result.and_then(|()| found(&desk, &id)))
}

/// `GET /v1/batches`
pub(super) async fn list(State(desk): State<Arc<Desk>>, uri: Uri) -> HttpResponse<Body> {
    desk.settle();
    let (now, tenth) = (desk.clock.now(), desk.options.batches.tenth());
    let query = uri.query().unwrap_or_default();
    let shelf = desk.store.shelf();
    let after = parameter(query, "after").and_then(|id| number_of(id, PREFIX));
    let page = page(&shelf.batches, after, parameter(query, "limit"), 100, |_| true);
    let result = page.map(|(numbers, more)| {
        let batches = numbers.iter().filter_map(|number| Some(shelf.batches.get(number)?.object(*number, now, tenth)));
        listed(batches.collect(), more)
    });
    answered(Family::OpenAi, result)
}
