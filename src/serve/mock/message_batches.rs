//! Anthropic's message batches.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Response as HttpResponse, Uri};
use serde_json::{Value, json};

use super::clock::rfc3339;
use super::files::{Shelf, answered, number_of, page};
use super::flow::{refuse, reply};
use super::wire::{Family, Format, Refusal, parameter};
use super::work::{Outcome, Work};
use super::{Desk, Payer};

/// The most requests of a batch.
const MOST_REQUESTS: usize = 100_000;
const PREFIX: &str = "msgbatch_mock_";

/// A batch. Times in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct MessageBatch {
    created: u64,
    total: usize,
    work: Work,
    results: Option<Results>,
}

#[derive(Debug, Default)]
struct Results {
    lines: String,
    succeeded: u64,
    errored: u64,
    canceled: u64,
    expired: u64,
}

impl MessageBatch {
    pub(super) fn take(&mut self, now: u64) -> Vec<(usize, Value)> {
        self.work.take(now)
    }

    pub(super) fn work(&mut self) -> &mut Work {
        &mut self.work
    }

    fn ended_at(&self, tenth: u64) -> u64 {
        let wait = if self.work.cancelled.is_some() { tenth } else { 0 };
        self.work.end().saturating_add(wait)
    }

    /// The results, once all is over.
    fn over(&self, now: u64, tenth: u64) -> Option<&Results> {
        self.results.as_ref().filter(|_| now >= self.ended_at(tenth))
    }

    fn object(&self, desk: &Desk, number: u64, now: u64) -> Value {
        let tenth = desk.options.batches.tenth();
        let (id, over) = (format!("{PREFIX}{number}"), self.over(now, tenth));
        let status = match (over, self.work.cancelled) {
            (Some(_), _) => "ended",
            (None, Some(_)) => "canceling",
            (None, None) => "in_progress",
        };
        let none = Results::default();
        let counts = over.unwrap_or(&none);
        let time = |at: u64| rfc3339(at / 1000);
        json!({
            "id": id,
            "type": "message_batch",
            "processing_status": status,
            // Before the end all are counted as processing.
            "request_counts": {
                "processing": if over.is_some() { 0 } else { self.total },
                "succeeded": counts.succeeded,
                "errored": counts.errored,
                "canceled": counts.canceled,
                "expired": counts.expired,
            },
            "ended_at": over.map(|_| time(self.ended_at(tenth))),
            "created_at": time(self.created),
            "expires_at": time(self.work.expires),
            "archived_at": null,
            "cancel_initiated_at": self.work.cancelled.map(time),
            "results_url": over.map(|_| format!("http://{}/v1/messages/batches/{id}/results", desk.address)),
        })
    }
}

/// Writes the results of every batch whose work has ended.
pub(super) fn write(shelf: &mut Shelf, now: u64) {
    for batch in shelf.message_batches.values_mut() {
        if batch.results.is_some() || !batch.work.ended(now) {
            continue;
        }
        let mut results = Results::default();
        for (custom_id, outcome) in batch.work.close() {
            let (count, result) = match outcome {
                Outcome::Http(200, message) => {
                    (&mut results.succeeded, json!({"type": "succeeded", "message": message}))
                }
                Outcome::Http(_, error) => (&mut results.errored, json!({"type": "errored", "error": error})),
                Outcome::Broken("batch_expired", _) => (&mut results.expired, json!({"type": "expired"})),
                Outcome::Broken("batch_cancelled", _) => (&mut results.canceled, json!({"type": "canceled"})),
                Outcome::Broken(_, message) => {
                    let error = Family::Anthropic.error(&Refusal::new(500, None, message));
                    (&mut results.errored, json!({"type": "errored", "error": error}))
                }
            };
            *count += 1;
            let line = json!({"custom_id": custom_id, "result": result});
            results.lines.push_str(&format!("{line}\n"));
        }
        batch.results = Some(results);
    }
}

/// `POST /v1/messages/batches`
pub(super) async fn create(
    State(desk): State<Arc<Desk>>,
    Extension(Payer(key)): Extension<Payer>,
    body: Bytes,
) -> HttpResponse<Body> {
    answered(Family::Anthropic, opened(&desk, key, &body))
}

fn opened(desk: &Desk, key: String, body: &[u8]) -> Result<Value, Refusal> {
    let bad = |message: String| Refusal::bad(None, message);
    let mut body: Value = serde_json::from_slice(body).map_err(|_| bad("The request body is not valid JSON".into()))?;
    let requests = body.get_mut("requests").and_then(Value::as_array_mut).map(std::mem::take);
    let requests = requests.filter(|requests| !requests.is_empty());
    let requests = requests.ok_or_else(|| bad("requests: at least one request is required".into()))?;
    if requests.len() > MOST_REQUESTS {
        return Err(Refusal::new(413, None, format!("requests: at most {MOST_REQUESTS}")));
    }
    let mut seen = HashSet::new();
    let mut lines = Vec::with_capacity(requests.len());
    for (at, mut request) in requests.into_iter().enumerate() {
        let custom_id = request["custom_id"].as_str().unwrap_or_default().to_owned();
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !(1..=64).contains(&custom_id.len()) || !custom_id.chars().all(fine) {
            let message = "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'";
            return Err(bad(format!("requests.{at}.custom_id: {message}")));
        }
        if !seen.insert(custom_id.clone()) {
            return Err(bad(format!("requests.{at}.custom_id: '{custom_id}' is not unique")));
        }
        let params = request.get_mut("params").map(Value::take).filter(Value::is_object);
        let params = params.ok_or_else(|| bad(format!("requests.{at}.params: Field required")))?;
        lines.push((custom_id, params));
    }
    let total = lines.len();
    let now = desk.clock.now();
    let batch =
        MessageBatch { created: now, total, work: Work::new(desk, Format::Messages, key, lines, 0), results: None };
    let mut shelf = desk.store.shelf();
    let number = shelf.number();
    let object = batch.object(desk, number, now);
    shelf.message_batches.insert(number, batch);
    Ok(object)
}

fn missing(id: &str) -> Refusal {
    Refusal::new(404, None, format!("There is no message batch {id}"))
}

fn found(desk: &Desk, id: &str) -> Result<Value, Refusal> {
    let shelf = desk.store.shelf();
    let batch = number_of(id, PREFIX).and_then(|number| Some((number, shelf.message_batches.get(&number)?)));
    let (number, batch) = batch.ok_or_else(|| missing(id))?;
    Ok(batch.object(desk, number, desk.clock.now()))
}

/// `GET /v1/messages/batches/{id}`
pub(super) async fn get(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    desk.settle();
    answered(Family::Anthropic, found(&desk, &id))
}

/// `GET /v1/messages/batches/{id}/results`
pub(super) async fn results(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    desk.settle();
    let (now, tenth) = (desk.clock.now(), desk.options.batches.tenth());
    let shelf = desk.store.shelf();
    let batch = number_of(&id, PREFIX).and_then(|number| shelf.message_batches.get(&number));
    match batch.and_then(|batch| batch.over(now, tenth)) {
        Some(results) => reply(200, "application/x-jsonl", results.lines.clone()),
        None => refuse(Family::Anthropic, &Refusal::new(404, None, format!("There are no results of {id}"))),
    }
}

/// `POST /v1/messages/batches/{id}/cancel`
pub(super) async fn cancel(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    desk.settle();
    let now = desk.clock.now();
    let result = match number_of(&id, PREFIX).and_then(|number| {
        desk.store.shelf().message_batches.get_mut(&number).map(|batch| {
            let open = now < batch.work.end();
            if open {
                batch.work.cancelled = Some(now);
            }
            open || batch.work.cancelled.is_some()
        })
    }) {
        None => Err(missing(&id)),
        Some(false) => Err(Refusal::bad(None, format!("Batch {id} has ended and cannot be canceled."))),
        Some(true) => found(&desk, &id),
    };
    answered(Family::Anthropic, result)
}

/// `DELETE /v1/messages/batches/{id}`
pub(super) async fn delete(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    desk.settle();
    let (now, tenth) = (desk.clock.now(), desk.options.batches.tenth());
    let mut shelf = desk.store.shelf();
    let number = number_of(&id, PREFIX).unwrap_or_default();
    let result = match shelf.message_batches.get(&number).map(|batch| batch.over(now, tenth).is_some()) {
        None => Err(missing(&id)),
        Some(false) => Err(Refusal::bad(None, format!("Batch {id} is in progress: cancel it before deleting it."))),
        Some(true) => {
            shelf.message_batches.remove(&number);
            Ok(json!({"id": id, "type": "message_batch_deleted"}))
        }
    };
    answered(Family::Anthropic, result)
}

/// `GET /v1/messages/batches`
pub(super) async fn list(State(desk): State<Arc<Desk>>, uri: Uri) -> HttpResponse<Body> {
    desk.settle();
    let query = uri.query().unwrap_or_default();
    let shelf = desk.store.shelf();
    let number = |name: &str| parameter(query, name).and_then(|id| number_of(id, PREFIX));
    let after = number("after_id");
    let before = number("before_id").unwrap_or(0);
    let (all, now) = (&shelf.message_batches, desk.clock.now());
    let limit = parameter(query, "limit");
    let result = match before {
        0 => page(all, after, limit, 1000, |_| true),
        // The page before: the nearest newer ones.
        _ => {
            let limit = limit.and_then(|limit| limit.parse().ok()).unwrap_or(20_usize).clamp(1, 1000);
            let mut newer: Vec<u64> =
                all.range(before.saturating_add(1)..).map(|(number, _)| *number).take(limit + 1).collect();
            let more = newer.len() > limit;
            newer.truncate(limit);
            newer.reverse();
            Ok((newer, more))
        }
    };
    let result = result.map(|(numbers, more)| {
        let batches: Vec<Value> =
            numbers.iter().filter_map(|number| Some(all.get(number)?.object(&desk, *number, now))).collect();
        let id = |batch: Option<&Value>| batch.map_or(Value::Null, |batch| batch["id"].clone());
        let (first, last) = (id(batches.first()), id(batches.last()));
        json!({"data": batches, "has_more": more, "first_id": first, "last_id": last})
    });
    answered(Family::Anthropic, result)
}
