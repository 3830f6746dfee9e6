//! One row asked: its requests, one after the other where it has several turns; its answer, judged; and its record.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::Value;

use super::apis;
use super::chain::{self, Evaluated, Step};
use super::fields::{Fields, Row, append, is_outcome};
use super::input::{Input, Place};
use super::row::{self, Ask, Asked, Defaults, Fault};
use crate::backend::Endpoints;
use crate::diagnostic::Result;
use crate::money::Usd;
use crate::provider::{Failure, FailureKind, FinishReason, Input as Asking, Message, Request, Sample};
use crate::runner::{self, Hold, Purse, Runner, Service, Wish};

/// Where a row stands and who answers it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where it stands in the input.
    pub place: Place,
    /// Its queue.
    pub queue: u32,
    /// Its service.
    pub service: u32,
}

/// What all rows share while they are asked.
pub struct Shared {
    /// The rows.
    pub input: Input,
    /// Where each stands; those that are wrong have no service that can be used.
    pub entries: Vec<Entry>,
    /// Which of several rows that ask the same one is, where each has an answer of its own.
    pub repeats: HashMap<u32, u32>,
    /// What rows do not say.
    pub defaults: Defaults,
    /// Who there is.
    pub endpoints: Endpoints,
    /// Who answers.
    pub services: Vec<Arc<Service>>,
    /// The runner.
    pub runner: Runner,
    /// The cap.
    pub purse: Arc<Purse>,
    /// There is one.
    pub capped: bool,
    /// The name in the ledger.
    pub scope: String,
    /// What is done with answers.
    pub steps: Vec<Step>,
}

/// A row ready to be asked.
pub struct Prepared {
    /// What it asks for.
    pub asked: Asked,
    /// The row.
    pub row: Row,
    /// Its first request.
    pub request: Request,
}

/// How a row's attempt ended.
pub struct Landed {
    /// Its number from 0.
    pub row: u32,
    /// Why there is no answer.
    pub failure: Option<Failure>,
    /// The part of its record that lasts.
    pub lasting: String,
    /// What was paid in this attempt.
    pub paid: Usd,
    /// Requests that were sent.
    pub requests: u64,
    /// It came from the store.
    pub cached: bool,
    /// Seconds that it took, with all waits.
    pub seconds: f64,
    /// When it began.
    pub began: SystemTime,
    /// The endpoint that answered, where there are several.
    pub endpoint: Option<String>,
}

/// What a row's answer is.
#[derive(Default)]
struct Answered {
    /// The completions of each turn.
    turns: Vec<Vec<Sample>>,
    prompt_tokens: u64,
    full_cost: Usd,
    requests: u64,
    endpoint: Option<String>,
}

/// Reads what a row asks for, checked against what its model takes.
pub fn prepare(
    row: Row,
    number: usize,
    defaults: &Defaults,
    endpoints: &Endpoints,
    service: &Service,
) -> Result<Prepared, (Fault, Row)> {
    let asked = match row::read(&row, number, defaults) {
        Ok(asked) => asked,
        Err(fault) => return Err((fault, row)),
    };
    match request(&asked, &row, endpoints, service) {
        Ok(request) => Ok(Prepared { asked, row, request }),
        Err(fault) => Err((fault, row)),
    }
}

/// A row's first request.
pub fn request(asked: &Asked, row: &Row, endpoints: &Endpoints, service: &Service) -> Result<Request, Fault> {
    let params = apis::parameters(asked, row.fields.filled("safety_filter"), &service.model, endpoints)?;
    if asked.completion && service.chat {
        return Err(Fault::new(format!("`{}` is a chat model, and `mode` says completion", service.model.name))
            .help(format!("set [models.\"{}\"] kind = \"text\"", service.model.name)));
    }
    let input = asked.ask.input(service.chat)?;
    Ok(Request { model: service.model.id.clone(), input, params, n: asked.n })
}

impl Shared {
    /// A row, ready. What is wrong with it was found before, unless its file has changed.
    pub fn prepare(&self, row: u32) -> Result<Result<Prepared, (Fault, Row)>> {
        let entry = self.entries[row as usize];
        let read = match self.input.read(entry.place)? {
            Ok(read) => read,
            Err(fault) => return Ok(Err((fault, unread(entry.place)))),
        };
        let service = &self.services[entry.service as usize];
        Ok(prepare(read, row as usize + 1, &self.defaults, &self.endpoints, service))
    }

    /// The samples `first..` that a row takes of a request.
    fn first(&self, row: u32, n: u32) -> usize {
        self.repeats.get(&row).map_or(0, |repeat| *repeat as usize * n as usize)
    }

    /// What a row may cost in money at worst now, for its first request; nothing where the store has it.
    pub fn worst(&self, row: u32, prepared: &Prepared, tight: bool) -> Result<Usd> {
        let service = &self.services[self.entries[row as usize].service as usize];
        let first = self.first(row, prepared.request.n);
        let whole = Request { n: prepared.request.n.saturating_add(first as u32), ..prepared.request.clone() };
        let stored = self.runner.store().stored(&service.fingerprint(&whole))?;
        Ok(service.worst(&whole, stored.len(), tight))
    }

    /// Asks a row. `hold` is its money, where that was held before.
    pub async fn ask(self: Arc<Shared>, row: u32, hold: Option<Hold>) -> Result<Landed> {
        let (begin, began) = (Instant::now(), SystemTime::now());
        let prepared = match self.prepare(row)? {
            Ok(prepared) => prepared,
            Err((fault, read)) => return Ok(wrong(row, &fault, &read)),
        };
        let mut hold = match hold {
            Some(hold) => hold,
            None => match self.purse.admit_in_time(Usd::ZERO, Usd::ZERO).await {
                Some(hold) => hold,
                None => return Err(crate::Error::internal("a purse refused what costs nothing")),
            },
        };
        let mut answered = Answered::default();
        let outcome = self.converse(row, &prepared, &mut hold, &mut answered).await?;
        let paid = hold.paid();
        hold.settle(Usd::ZERO);
        let seconds = begin.elapsed().as_secs_f64();
        let failure = outcome.err().or_else(|| withheld(&answered));
        let (requests, endpoint) = (answered.requests, answered.endpoint.clone());
        let last = answered.turns.last().cloned().unwrap_or_default();
        let response = response(&prepared.asked, &answered);
        let mut evaluated = Evaluated::default();
        let Prepared { asked, row: read, .. } = prepared;
        let lasting = if failure.is_none() && !self.steps.is_empty() {
            let shared = self.clone();
            let judge = move || {
                let mut fields = Cow::Borrowed(&read.fields);
                if !asked.added.is_empty() {
                    asked.added.iter().for_each(|(name, value)| fields.to_mut().set(name, value.clone()));
                }
                let evaluated = chain::evaluate(&shared.steps, &asked.id, &fields, &last, &response);
                drop(fields);
                lasting(&read, &asked, None, response, &answered, evaluated)
            };
            // Metrics may be programs, or slow.
            tokio::task::spawn_blocking(judge).await.map_err(|error| crate::Error::internal(error.to_string()))?
        } else {
            lasting(&read, &asked, failure.as_ref(), response, &answered, std::mem::take(&mut evaluated))
        };
        let cached = failure.is_none() && requests == 0;
        Ok(Landed { row, failure, lasting, paid, requests, cached, seconds, began, endpoint })
    }

    /// Asks all turns of a row.
    async fn converse(
        &self,
        row: u32,
        prepared: &Prepared,
        hold: &mut Hold,
        answered: &mut Answered,
    ) -> Result<Result<(), Failure>> {
        let entry = self.entries[row as usize];
        let service = &self.services[entry.service as usize];
        let more: &[String] = match &prepared.asked.ask {
            Ask::Turns(turns) => turns.get(1..).unwrap_or_default(),
            _ => &[],
        };
        let mut request = prepared.request.clone();
        let mut next = more.iter();
        loop {
            if let Err(failure) = self.one(row, service, &request, hold, answered).await? {
                return Ok(Err(failure));
            }
            let Some(turn) = next.next() else { return Ok(Ok(())) };
            let said = answered.turns.last().and_then(|samples| samples.first()).map(|sample| sample.text.clone());
            let Asking::Messages(messages) = &mut request.input else { return Ok(Ok(())) };
            messages.push(Message { role: "assistant".to_owned(), content: said.unwrap_or_default() });
            messages.push(Message { role: "user".to_owned(), content: turn.clone() });
        }
    }

    /// Answers one request: from the store as far as it has samples, else by an endpoint.
    async fn one(
        &self,
        row: u32,
        service: &Service,
        request: &Request,
        hold: &mut Hold,
        answered: &mut Answered,
    ) -> Result<Result<(), Failure>> {
        let print = service.fingerprint(request);
        let look = self.runner.look();
        let mut stored = self.runner.store().stored(&print)?;
        // Later turns hang on the answers before them, which are this row's own.
        let first = if answered.turns.is_empty() { self.first(row, request.n) } else { 0 };
        let wanted = first + request.n as usize;
        if stored.len() < wanted {
            let whole = Request { n: u32::try_from(wanted).unwrap_or(u32::MAX), ..request.clone() };
            let worst = |tight| service.worst(&whole, stored.len(), tight);
            if !hold.top_up_within(worst).await {
                return Ok(Err(Failure::new(FailureKind::Budget, service.no_room(&whole, worst(true)))));
            }
            let wish = Wish { missed: stored.is_empty().then_some(look), retries: Some(0), ..Wish::default() };
            let ask = runner::Ask { service, request: &whole, fingerprint: &print, scope: &self.scope, wish };
            let bought = self.runner.answer(ask, hold).await?;
            answered.requests += bought.requests;
            match bought.outcome {
                Ok(all) => stored = all,
                Err(failure) => return Ok(Err(failure)),
            }
        }
        let block = service.block(request, &stored, first);
        answered.prompt_tokens += block.prompt_tokens;
        answered.full_cost += block.full_cost;
        answered.endpoint = block.response.and_then(|response| response.endpoint.clone());
        answered.turns.push(block.samples);
        Ok(Ok(()))
    }
}

/// Nothing is left of an answer that its endpoint withheld.
fn withheld(answered: &Answered) -> Option<Failure> {
    let samples = answered.turns.last()?;
    let all = |reason: &FinishReason| samples.iter().all(|sample| sample.finish_reason == *reason);
    let empty = samples.iter().all(|sample| sample.text.is_empty());
    match samples.is_empty() {
        false if all(&FinishReason::CONTENT_FILTER) && empty => {
            Some(Failure::new(FailureKind::ContentFilter, "the endpoint's content filter took every completion"))
        }
        false if all(&FinishReason::REFUSAL) => Some(Failure::new(FailureKind::Refused, "the model refused")),
        _ => None,
    }
}

/// A line that could not be read, as a row.
fn unread(place: Place) -> Row {
    Row::new(Fields(vec![("line".to_owned(), Value::from(place.line))]))
}

/// The record of a row that is wrong in itself.
pub fn wrong(row: u32, fault: &Fault, read: &Row) -> Landed {
    let mut further = Vec::new();
    if read.fields.filled("id").is_none() {
        further.push(("id", Value::from((row + 1).to_string())));
    }
    further.extend([
        ("status", Value::from("failed")),
        ("response", Value::Null),
        ("error_kind", Value::from("wrong_row")),
        ("error", Value::from(fault.to_string())),
    ]);
    Landed {
        row,
        failure: Some(Failure::new(FailureKind::BadRequest, fault.to_string())),
        lasting: read.extended(&further),
        paid: Usd::ZERO,
        requests: 0,
        cached: false,
        seconds: 0.0,
        began: SystemTime::now(),
        endpoint: None,
    }
}

/// The record of a row that is not asked.
pub fn unasked(row: u32, failure: Failure, asked: &Asked, read: &Row) -> Landed {
    let lasting = lasting(read, asked, Some(&failure), Value::Null, &Answered::default(), Evaluated::default());
    let (paid, requests, cached, seconds) = (Usd::ZERO, 0, false, 0.0);
    Landed {
        row,
        failure: Some(failure),
        lasting,
        paid,
        requests,
        cached,
        seconds,
        began: SystemTime::now(),
        endpoint: None,
    }
}

/// The response as the record has it: a text, a list where n or the turns are several.
fn response(asked: &Asked, answered: &Answered) -> Value {
    let text = |sample: &Sample| match (&sample.tool_calls, sample.text.is_empty()) {
        (Some(calls), true) => calls.clone(),
        _ => Value::from(sample.text.as_str()),
    };
    let turn = |samples: &Vec<Sample>| match samples.as_slice() {
        [] => Value::Null,
        [one] if asked.n == 1 => text(one),
        several => several.iter().map(text).collect(),
    };
    match &asked.ask {
        _ if answered.turns.is_empty() => Value::Null,
        Ask::Turns(_) => answered.turns.iter().map(turn).collect(),
        _ => answered.turns.last().map_or(Value::Null, turn),
    }
}

/// The part of a row's record that does not depend on how the run went.
fn lasting(
    read: &Row,
    asked: &Asked,
    failure: Option<&Failure>,
    response: Value,
    answered: &Answered,
    evaluated: Evaluated,
) -> String {
    let mut further = asked.added.clone();
    further.push(("status", Value::from(if failure.is_none() { "ok" } else { "failed" })));
    further.push(("response", response));
    if let Some(failure) = failure {
        further.push(("error_kind", Value::from(failure.kind.word())));
        further.push(("error", Value::from(failure.message.as_str())));
    }
    if let Some(last) = answered.turns.last() {
        let reason = |sample: &Sample| Value::from(sample.finish_reason.0.as_ref());
        further.push((
            "finish_reason",
            match last.as_slice() {
                [one] if asked.n == 1 => reason(one),
                several => several.iter().map(reason).collect(),
            },
        ));
        let tokens: u64 = answered.turns.iter().flatten().map(|sample| sample.completion_tokens).sum();
        further.push(("prompt_tokens", answered.prompt_tokens.into()));
        further.push(("completion_tokens", tokens.into()));
        further.push(("cost_usd", Value::from(answered.full_cost.to_string())));
    }
    if !evaluated.scores.is_empty() {
        further.push((
            "scores",
            evaluated
                .scores
                .into_iter()
                .map(|(name, value)| (name, Value::from(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        ));
    }
    if !evaluated.errors.is_empty() {
        further.push(("score_errors", serde_json::to_value(&evaluated.errors).unwrap_or_default()));
    }
    let columns: Vec<(String, Value)> = evaluated.columns.into_iter().collect();
    let mut text = read.extended(&further);
    // Columns of the program's own functions come last; one that is there already is not written twice, and none is read
    // as an outcome.
    let renamed = if columns.is_empty() { Vec::new() } else { read.renamed(&further) };
    for (name, value) in &columns {
        let taken = is_outcome(name)
            || read.fields.get(name).is_some()
            || further.iter().any(|(known, _)| known == name)
            || renamed.iter().any(|(_, known)| known == name);
        let shown = if taken { format!("function-{name}") } else { name.clone() };
        append(&mut text, false, &[(shown.as_str(), value.clone())]);
    }
    text
}

/// The part of a record that depends on how the run went; `"row"`, its number from 1, comes first.
pub fn run_part(landed: &Landed, attempts: u32, again: bool) -> String {
    let mut further = vec![("row", Value::from(landed.row + 1))];
    if again {
        further.push(("again", Value::from(true)));
    }
    further.push(("attempts", attempts.into()));
    further.push(("requests", landed.requests.into()));
    further.push(("cached", landed.cached.into()));
    further.push(("paid_usd", Value::from(landed.paid.to_string())));
    further.push(("seconds", Value::from((landed.seconds * 1e6).round() / 1e6)));
    further.push(("timestamp_sent", Value::from(humantime::format_rfc3339_millis(landed.began).to_string())));
    if let Some(endpoint) = &landed.endpoint {
        further.push(("endpoint", Value::from(endpoint.as_str())));
    }
    let mut text = String::new();
    append(&mut text, true, &further);
    text
}
