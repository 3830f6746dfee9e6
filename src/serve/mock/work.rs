//! Work that is done in the background: the lines of batches, evenly over the time that batches take. Nothing runs by
//! itself; whoever looks brings everything up to now, in the order in which it was due.

use serde_json::Value;

use super::Desk;
use super::clock::millis;
use super::faults::Kind;
use super::flow::{self, Caller, as_refusal};
use super::wire::Format;

/// What became of a line.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// A status and a body, good or bad.
    Http(u16, Value),
    /// No reply at all: a code and a sentence.
    Broken(&'static str, &'static str),
}

/// What expired lines are told.
pub(super) const EXPIRED: Outcome =
    Outcome::Broken("batch_expired", "This request could not be executed before the completion window expired.");
/// What cancelled lines are told.
pub(super) const CANCELLED: Outcome =
    Outcome::Broken("batch_cancelled", "This request was not executed before the batch was cancelled.");

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) custom_id: String,
    /// Taken when work on it begins.
    pub(super) body: Option<Value>,
    /// There when work on it has ended.
    pub(super) outcome: Option<Outcome>,
}

/// The lines of a batch, and when they are due. Times in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) format: Format,
    /// Who pays.
    pub(super) key: String,
    pub(super) lines: Vec<Line>,
    /// When work begins.
    pub(super) start: u64,
    /// When all would be done.
    pub(super) done: u64,
    /// When the window closes.
    pub(super) expires: u64,
    /// When it was cancelled, if it was.
    pub(super) cancelled: Option<u64>,
}

impl Work {
    /// Work that begins after validation, now or a moment later.
    pub(super) fn new(desk: &Desk, format: Format, key: String, lines: Vec<(String, Value)>, wait: u64) -> Work {
        let now = desk.clock.now();
        let line = |(custom_id, body)| Line { custom_id, body: Some(body), outcome: None };
        let start = now.saturating_add(wait);
        Work {
            format,
            key,
            lines: lines.into_iter().map(line).collect(),
            start,
            done: start.saturating_add(millis(desk.options.batches.duration)),
            expires: now.saturating_add(millis(desk.options.batches.window)),
            cancelled: None,
        }
    }

    /// When work ends: done, expired or cancelled, whichever is first.
    pub(super) fn end(&self) -> u64 {
        self.done.min(self.expires).min(self.cancelled.unwrap_or(u64::MAX))
    }

    /// How many lines are due by now.
    fn due(&self, now: u64) -> usize {
        let at = now.min(self.end());
        if at < self.start {
            return 0;
        }
        let (passed, whole) = (u128::from(at - self.start), u128::from(self.done.saturating_sub(self.start)));
        let all = self.lines.len();
        (passed * all as u128).checked_div(whole).map_or(all, |due| (due as usize).min(all))
    }

    /// Lines that are due and that nobody works on yet.
    pub(super) fn take(&mut self, now: u64) -> Vec<(usize, Value)> {
        let due = self.due(now);
        let lines = self.lines.iter_mut().take(due).enumerate();
        lines.filter_map(|(at, line)| Some((at, line.body.take()?))).collect()
    }

    /// True where work has ended and nobody works on a line any more.
    pub(super) fn ended(&self, now: u64) -> bool {
        now >= self.end() && self.lines.iter().take(self.due(now)).all(|line| line.outcome.is_some())
    }

    /// Lines that were answered well, and others that have an outcome.
    pub(super) fn counts(&self) -> (u64, u64) {
        let count = |good: bool| {
            let outcomes = self.lines.iter().filter_map(|line| line.outcome.as_ref());
            outcomes.filter(|outcome| matches!(outcome, Outcome::Http(200, _)) == good).count() as u64
        };
        (count(true), count(false))
    }

    /// Ends it: lines that were not reached get an outcome too. Lines in any order, always the same one.
    pub(super) fn close(&mut self) -> Vec<(String, Outcome)> {
        let rest = if self.cancelled.is_some_and(|at| at <= self.end()) { CANCELLED } else { EXPIRED };
        let lines = std::mem::take(&mut self.lines).into_iter();
        let mut lines: Vec<_> =
            lines.map(|line| (line.custom_id, line.outcome.unwrap_or_else(|| rest.clone()))).collect();
        lines.sort_by_cached_key(|(custom_id, _)| *blake3::hash(custom_id.as_bytes()).as_bytes());
        lines
    }
}

/// Answers one line.
pub(super) fn answer(desk: &Desk, format: Format, key: &str, body: Value) -> Outcome {
    let number = {
        let ledger = &mut desk.book().ledger;
        ledger.batch_lines += 1;
        ledger.batch_lines
    };
    let caller = Caller { desk, format, key: key.to_owned(), number, model: None, demanded: None, batch: true };
    let refused = |refusal| {
        let body = format.family().error(&refusal);
        Outcome::Http(refusal.status, body)
    };
    let plan = match flow::plan(caller, body) {
        Ok(plan) => plan,
        Err(refusal) => return refused(refusal),
    };
    match plan.fault.map(|fault| fault.kind) {
        None | Some(Kind::NoChoices) => Outcome::Http(200, plan.reply),
        Some(kind) if kind.reaches() => Outcome::Http(200, plan.reply),
        Some(kind) => match as_refusal(&kind, desk.clock.now()) {
            Some(refusal) => refused(refusal),
            None => Outcome::Broken("request_timeout", "The request could not be completed in time."),
        },
    }
}
