//! Results of a batch that is over become answers in the store, each once: what a line's outcome is, is written down in
//! the same transaction as the answer and its bill.

use std::collections::{HashMap, HashSet};

use super::Inner;
use super::dialect::{self, Wrong};
use super::drive::{PAGE, line_of, request_of};
use super::link::{Link, unusable};
use super::plan::{self, Notes};
use super::state::{Phase, State};
use crate::diagnostic::Result;
use crate::price::Price;
use crate::provider::{Failure, FailureKind};
use crate::runner::Service;
use crate::store::batches::{BatchLine, BatchRecord, LineFailure, Outcome, Progress, Stage};
use crate::store::{Closing, fresh_name, now};

/// How often results that are not whole are read anew at one look.
const READINGS: u32 = 5;
/// How many looks find them so before what is missing is given up.
const LOOKS: u32 = 12;
/// How often a batch that was refused is submitted again, without what was wrong with it.
const REFUSALS: u32 = 4;

/// What is said of a request that the batch did not come to.
const EXPIRED: &str = "the batch expired before this was worked on";
const CANCELLED: &str = "the batch was cancelled before this was worked on";

/// Sent again, a request that failed so may be answered: the reason was not its own.
pub(super) fn retryable(kind: FailureKind) -> bool {
    kind.transient() || kind.fatal() || kind == FailureKind::Interrupted
}

fn failed(failure: Failure, closing: Closing) -> Outcome {
    let retryable = retryable(failure.kind);
    Outcome::Failed(LineFailure { failure, retryable }, closing)
}

/// What one reading of a batch's results brought.
#[derive(Default)]
struct Reading {
    /// Lines that say what became of a request, ours or not, and those that cannot be read.
    lines: u64,
    ours: u64,
    /// Those that cannot be read.
    unreadable: u64,
    /// What is to be written down when all were read.
    outcomes: Vec<(u32, Outcome)>,
    /// A file is not there any more, so that nothing is to be had by reading again.
    gone: bool,
    /// Why a file broke off.
    torn: Option<Failure>,
}

impl Reading {
    /// Why these are not all results: a proxy's error page, half a file or an empty one come with status 200, too.
    fn incomplete(&self, expected: u64) -> Option<String> {
        if let Some(failure) = &self.torn {
            return Some(failure.to_string());
        }
        if self.unreadable > 0 && self.unreadable == self.lines {
            return Some("what came is no list of results".to_owned());
        }
        (self.lines < expected && !self.gone)
            .then(|| format!("{} lines of {expected} that the provider counts", self.lines))
    }
}

/// At least so many lines the results of a batch have: as many as the provider counts, else all that it was sent, where it
/// says that it is through with them. One that was refused has none, whatever is counted; nor has one that is not known
/// any more.
fn expected(phase: Phase, record: &BatchRecord, [total, completed, failed]: [u64; 3]) -> u64 {
    match phase {
        Phase::Failed | Phase::Lost => 0,
        Phase::Completed if total == 0 => record.lines[0] - record.lines[1] - record.lines[2],
        _ => completed + failed,
    }
}

impl Inner {
    /// Takes in what a batch that is over has brought.
    pub(super) async fn land(&self, mut record: BatchRecord) -> Result<BatchRecord> {
        let (link, service) = (self.link(&record.endpoint)?, self.service(&record.model)?);
        let mut notes = Notes::read(&record.progress.notes);
        let phase = State::of(Stage::Ended, &record.progress.word).phase;
        let price = plan::price(&service.model).unwrap_or(Price::FREE);
        let remote = record.progress.remote.clone().unwrap_or_default();
        let expected = expected(phase, &record, notes.counts);
        let mut readings = 1;
        // Why not all results could be had, though that is all there will be.
        let mut given_up = None;
        let Reading { lines, ours, unreadable, outcomes, .. } = loop {
            let mut reading = match self.read_results(&link, &service, &price, &record, &notes).await {
                Ok(reading) => reading?,
                Err(failure) if failure.kind.transient() => {
                    tracing::warn!(batch = remote, %failure, "the results cannot be read now");
                    return Ok(record);
                }
                Err(failure) => return Err(unusable(&record.endpoint, &failure)),
            };
            if phase == Phase::Failed {
                // Nothing in it was worked on, so nothing that its files do not say is missed.
                (reading.torn, reading.unreadable) = (None, 0);
            }
            let why = reading.incomplete(expected);
            // A line may be unreadable because it came so; where it comes so again and again, it is so.
            let whole = why.is_none() && reading.unreadable == 0;
            if !whole && readings < READINGS {
                readings += 1;
                continue;
            }
            let Some(why) = why else { break reading };
            notes.looks += 1;
            if notes.looks >= LOOKS {
                tracing::warn!(batch = remote, "the results are not whole after {LOOKS} looks: {why}");
                given_up = Some(why);
                break reading;
            }
            // What was read is kept, nothing is closed or deleted, and the next look reads them again.
            tracing::warn!(batch = remote, "the results are not whole, and stay where they are: {why}");
            let whole = self.whole_requests(&record, reading.outcomes)?;
            self.write_outcomes(&record, whole).await?;
            let to = Progress { notes: notes.write(), ..record.progress.clone() };
            return self.step(record, to).await;
        };
        // What nobody could read does not say whose it is.
        if notes.tentative && ours == 0 && (given_up.is_none() || lines > unreadable) {
            // Another program's batch of the same size: ours was not made, or is another one.
            (notes.tentative, notes.results) = (false, Vec::new());
            notes.foreign.push(remote);
            let to = Progress {
                stage: Stage::Submitting,
                word: String::new(),
                remote: None,
                notes: notes.write(),
                ..record.progress.clone()
            };
            return self.step(record, to).await;
        }
        self.write_outcomes(&record, outcomes).await?;
        if phase == Phase::Failed {
            match self.refused(&link, record, notes.clone()).await? {
                (again, true) => return Ok(again),
                (rest, false) => record = rest,
            }
        }
        let rest = match (&given_up, unreadable) {
            (None, 0) => self.unfinished(&link, phase, &record, &remote),
            (why, unreadable) => unread(why.as_deref(), unreadable),
        };
        self.close_open(&record, &rest.0, rest.1).await?;
        // The rest may still be got out of them by other means.
        notes.keep = given_up.is_some() || unreadable > 0;
        record.progress.notes = notes.write();
        let to = Progress { stage: Stage::Landed, ..record.progress.clone() };
        self.step(record, to).await
    }

    /// Reads all results of a batch once. The inner error is an endpoint that does not give them.
    async fn read_results(
        &self,
        link: &Link,
        service: &Service,
        price: &Price,
        record: &BatchRecord,
        notes: &Notes,
    ) -> std::result::Result<Result<Reading>, Failure> {
        let remote = record.progress.remote.as_deref().unwrap_or_default();
        let mut reading = Reading::default();
        for file in &notes.results {
            let Some(mut lines) = link.results(remote, file).await? else {
                tracing::warn!(batch = remote, file, "these results are gone");
                reading.gone = true;
                continue;
            };
            let mut ended = false;
            while !ended {
                let mut page = Vec::with_capacity(PAGE);
                while !ended && page.len() < PAGE {
                    match lines.next().await {
                        Ok(Some(line)) => match link.dialect.result(&line) {
                            Ok((custom_id, result)) => {
                                reading.lines += 1;
                                match line_of(&record.progress.intent, &custom_id) {
                                    Some(number) => page.push((number, result)),
                                    None => tracing::debug!(custom_id, "a result that is not ours"),
                                }
                            }
                            Err(_) => (reading.lines, reading.unreadable) = (reading.lines + 1, reading.unreadable + 1),
                        },
                        Ok(None) => ended = true,
                        Err(error) => (reading.torn, ended) = (Some(error.error.failure), true),
                    }
                }
                reading.ours += page.len() as u64;
                match self.outcomes(link, service, price, record, page) {
                    Ok(outcomes) if notes.grouped => reading.outcomes.extend(outcomes),
                    Ok(outcomes) => {
                        if let Err(error) = self.store.land_lines(record.id, outcomes).await {
                            return Ok(Err(error));
                        }
                    }
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
        Ok(Ok(reading))
    }

    /// Those outcomes whose requests have one for each of their lines: the samples of one request are recorded in the
    /// order of its lines, so they are written down together.
    fn whole_requests(&self, record: &BatchRecord, mut outcomes: Vec<(u32, Outcome)>) -> Result<Vec<(u32, Outcome)>> {
        if outcomes.is_empty() {
            return Ok(outcomes);
        }
        let known: HashSet<u32> = outcomes.iter().map(|(number, _)| *number).collect();
        let (mut requests, mut lacking) = (HashMap::new(), HashSet::new());
        for page in self.open_pages(record.id) {
            for line in page? {
                match known.contains(&line.number) {
                    true => drop(requests.insert(line.number, line.fingerprint)),
                    false => drop(lacking.insert(line.fingerprint)),
                }
            }
        }
        outcomes.retain(|(number, _)| requests.get(number).is_some_and(|print| !lacking.contains(print)));
        Ok(outcomes)
    }

    /// Writes outcomes down: samples of one request in the order of its lines, whichever came first.
    async fn write_outcomes(&self, record: &BatchRecord, mut outcomes: Vec<(u32, Outcome)>) -> Result<()> {
        outcomes.sort_by_key(|(number, _)| *number);
        outcomes.dedup_by_key(|(number, _)| *number);
        while !outcomes.is_empty() {
            let rest = outcomes.split_off(PAGE.min(outcomes.len()));
            self.store.land_lines(record.id, std::mem::replace(&mut outcomes, rest)).await?;
        }
        Ok(())
    }

    /// What lines without a result are told.
    fn unfinished(&self, link: &Link, phase: Phase, record: &BatchRecord, remote: &str) -> (LineFailure, Closing) {
        let line = |kind, message: String, retryable, closing| {
            (LineFailure { failure: Failure::new(kind, message), retryable }, closing)
        };
        match phase {
            Phase::Expired => line(FailureKind::Timeout, EXPIRED.into(), true, Closing::Released),
            Phase::Cancelled => line(FailureKind::Interrupted, CANCELLED.into(), true, Closing::Released),
            Phase::Failed => {
                let errors = Notes::read(&record.progress.notes).errors;
                let first = errors.first().cloned().unwrap_or_default();
                let kind = if first.no_model() { FailureKind::UnknownModel } else { FailureKind::BadRequest };
                line(
                    kind,
                    format!("the batch was refused: {}", shown(link, &first)),
                    retryable(kind),
                    Closing::Released,
                )
            }
            Phase::Lost => line(
                FailureKind::Connection,
                format!("the provider does not know the batch {remote} any more; what it did with this is not known"),
                false,
                Closing::Lost,
            ),
            _ => line(FailureKind::Server, "the batch ended without a result for this".into(), true, Closing::Lost),
        }
    }

    /// A batch that failed in validation: what was wrong is told to those whose fault it is, and the rest goes again.
    /// True where it does.
    async fn refused(&self, link: &Link, record: BatchRecord, mut notes: Notes) -> Result<(BatchRecord, bool)> {
        let errors = std::mem::take(&mut notes.errors);
        let full = errors.iter().find(|error| error.full());
        notes.refusals += 1;
        if let Some(full) = full {
            notes.limit = dialect::queue_limit(&full.message).or(notes.limit).or(Some(notes.tokens / 2));
            // Soon where others of ours are out, for they make room; else it is somebody else who fills the queue.
            let wait = 2_i64.saturating_pow(notes.refusals.min(9)).min(600);
            notes.not_before = now() + self.options.poll.map_or(wait, |poll| wait.min(poll.as_secs() as i64));
            tracing::info!(model = record.model, "the queue of the batch API is full: {}", full.message);
        } else {
            let lines = self.wrong_lines(&record, &errors)?;
            let open = record.lines[0] - record.lines[1] - record.lines[2];
            if lines.is_empty() || lines.len() as u64 >= open || notes.refusals > REFUSALS {
                return Ok((record, false));
            }
            let outcome = |(line, error): (BatchLine, &Wrong)| {
                let failure = Failure::new(FailureKind::BadRequest, shown(link, error));
                (line.number, Outcome::Failed(LineFailure { failure, retryable: false }, Closing::Released))
            };
            let outcomes = lines.into_iter().map(outcome).collect();
            self.store.land_lines(record.id, outcomes).await?;
            tracing::warn!(model = record.model, "a batch was refused for some of its lines; the others go again");
        }
        if let Some(input) = notes.input.take().filter(|_| !self.options.keep_files)
            && let Err(failure) = link.delete(&input).await
        {
            tracing::warn!(file = input, %failure, "a file stays at the provider");
        }
        notes.uploading = false;
        let to = Progress {
            stage: Stage::Planned,
            // A new name, or the one that failed would be found in its place.
            intent: fresh_name("frth"),
            word: record.progress.word.clone(),
            remote: None,
            notes: notes.write(),
        };
        Ok((self.step(record, to).await?, true))
    }

    /// The open lines that validation found something wrong with.
    fn wrong_lines<'e>(&self, record: &BatchRecord, errors: &'e [Wrong]) -> Result<Vec<(BatchLine, &'e Wrong)>> {
        // What is wrong with the batch as such is told of some line, too.
        let own = |error: &&Wrong| !error.of_all();
        let mut wrong: Vec<(u64, &Wrong)> =
            errors.iter().filter(own).filter_map(|error| Some((error.line?.checked_sub(1)?, error))).collect();
        wrong.sort_by_key(|(line, _)| *line);
        wrong.dedup_by_key(|(line, _)| *line);
        let (mut found, mut place) = (Vec::new(), 0);
        let mut wrong = wrong.into_iter().peekable();
        // The provider counts the lines that were sent: the open ones.
        for page in self.open_pages(record.id) {
            if wrong.peek().is_none() {
                break;
            }
            for line in page? {
                if let Some((_, error)) = wrong.next_if(|(at, _)| *at == place) {
                    found.push((line, error));
                }
                place += 1;
            }
        }
        Ok(found)
    }

    /// What became of lines, from what the provider says.
    fn outcomes(
        &self,
        link: &Link,
        service: &Service,
        price: &Price,
        record: &BatchRecord,
        page: Vec<(u32, dialect::Result)>,
    ) -> Result<Vec<(u32, Outcome)>> {
        let numbers: Vec<u32> = page.iter().map(|(number, _)| *number).collect();
        let lines = self.store.batch_lines(record.id, &numbers)?;
        let mut results: HashMap<u32, dialect::Result> = page.into_iter().collect();
        let open = lines.into_iter().filter(|line| !line.closed);
        let outcome = |line: BatchLine| {
            let result = results.remove(&line.number)?;
            Some((line.number, one(link, service, price, &line, result)))
        };
        Ok(open.filter_map(outcome).collect())
    }
}

/// What validation says, without any key.
fn shown(link: &Link, error: &Wrong) -> String {
    let line = error.line.map_or(String::new(), |line| format!(" (line {line} of the file)"));
    let [code, message] = [&error.code, &error.message].map(|words| link.http.scrub(words.clone()));
    format!("{code}: {message}{line}")
}

/// What lines are told whose results may be there and cannot be read: they may have been billed.
fn unread(given_up: Option<&str>, unreadable: u64) -> (LineFailure, Closing) {
    let line =
        |kind, message, retryable| (LineFailure { failure: Failure::new(kind, message), retryable }, Closing::Lost);
    match given_up {
        Some(why) => line(
            FailureKind::Server,
            format!("its result could not be had: {why}; the provider's files were not deleted"),
            false,
        ),
        None => line(
            FailureKind::MalformedReply,
            format!(
                "{unreadable} of the batch's results cannot be read, and this has no other; the provider's files were not deleted"
            ),
            true,
        ),
    }
}

/// What became of one line. Whatever is said of it is shown and kept without any key.
fn one(link: &Link, service: &Service, price: &Price, line: &BatchLine, result: dialect::Result) -> Outcome {
    let failed =
        |failure: Failure, closing| failed(Failure { message: link.http.scrub(failure.message), ..failure }, closing);
    let request = match request_of(line) {
        Ok(request) => request,
        Err(failure) => return failed(failure, Closing::Lost),
    };
    let (wire, sent) = (link.http.wire(), link.http.sendable(&request));
    match result {
        dialect::Result::Reply(200, body) => match wire.decode(&sent, line.n, &body) {
            Ok(response) => {
                let mut response = link.http.scrub_response(response);
                let bill = service.take_in(price, &request, line.n, &link.endpoint.name, &mut response);
                Outcome::Answered(response, bill)
            }
            Err(refusal) => failed(refusal.failure, if refusal.billed { Closing::Lost } else { Closing::Released }),
        },
        dialect::Result::Reply(status, body) => {
            let asked = wire.encode(&sent, line.n).map(|call| call.body).unwrap_or_default();
            failed(wire.decode_error(status, &asked, &body).failure, Closing::Released)
        }
        dialect::Result::Expired => failed(Failure::new(FailureKind::Timeout, EXPIRED), Closing::Released),
        dialect::Result::Cancelled => failed(Failure::new(FailureKind::Interrupted, CANCELLED), Closing::Released),
        dialect::Result::None(code, message) => {
            let words = [code, message].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(": ");
            let words = if words.is_empty() { "no reply and no reason".to_owned() } else { words };
            failed(Failure::new(FailureKind::Server, words), Closing::Lost)
        }
    }
}
