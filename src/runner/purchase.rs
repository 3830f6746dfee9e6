//! Buying the samples of a request that the store does not have: reserved in the ledger before anything is sent, recorded
//! with its bill before anything uses it, tried again or elsewhere where it fails.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::limits::Ended;
use super::routes::{Next, Seat, Tries};
use super::{Answered, Ask, Hold, Runner};
use crate::backend::CallError;
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::provider::tokens;
use crate::provider::{Failure, FailureKind, Input, Request, Response};
use crate::store::{Closing, Stored};

/// One request of an evaluation, or of anything else that wants samples.
pub(super) struct Buyer<'a> {
    pub runner: &'a Runner,
    pub ask: Ask<'a>,
    /// Requests that were sent, those that failed too.
    pub sent: AtomicU64,
}

/// Why an attempt brought no answer.
enum Unanswered {
    /// The endpoint went away while this waited there: it is looked anew who is asked, and when. Nobody is told of it.
    Elsewhere,
    /// What it may cost is not held, and does not fit now.
    NoMoney,
    /// The run was stopped before it was sent.
    Stopped,
    /// It failed.
    Failed(CallError),
}

fn timeout(message: &str, may_be_billed: bool) -> CallError {
    CallError { may_be_billed, ..CallError::unbilled(Failure::new(FailureKind::Timeout, message)) }
}

fn no_money(worst: Usd) -> Failure {
    let words = format!("another attempt ({worst} dollars at worst) does not fit the budget");
    Failure::new(FailureKind::Budget, words)
}

fn stopped() -> Failure {
    Failure::new(FailureKind::Interrupted, "the run was stopped before this was sent")
}

/// Waits for a moment; for ever where there is none.
pub(crate) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Counts a request at its endpoint.
struct Busy<'a>(&'a Seat);

impl<'a> Busy<'a> {
    fn new(seat: &'a Seat) -> Busy<'a> {
        seat.busy.fetch_add(1, Ordering::Relaxed);
        Busy(seat)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of one of several requests for the samples of one evaluation: what they bring is recorded in the order of
/// asking, whichever is answered first. Else the first samples would be the fastest ones, which are the shortest.
struct Turn {
    before: Option<oneshot::Receiver<()>>,
    /// Dropped when this one is done.
    _after: oneshot::Sender<()>,
}

impl Turn {
    /// The places of so many.
    fn queue(length: u32) -> Vec<Turn> {
        let mut before = None;
        let mut next = || {
            let (after, done) = oneshot::channel();
            Turn { before: before.replace(done), _after: after }
        };
        (0..length).map(|_| next()).collect()
    }

    /// Waits until all before it are done.
    async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // It is never sent: the end of the other one is what counts.
            let _ = before.await;
        }
    }
}

impl Buyer<'_> {
    /// Buys what is missing.
    pub async fn buy(&self, hold: &mut Hold) -> Result<Answered> {
        let outcome = self.fill(hold).await?;
        Ok(Answered { outcome, requests: self.sent.load(Ordering::Relaxed) })
    }

    async fn fill(&self, hold: &mut Hold) -> Result<Result<Stored, Failure>> {
        let Ask { service, request, fingerprint, wish, .. } = self.ask;
        let mut stored = match self.runner.still_missing(wish.missed, fingerprint) {
            true => Stored::default(),
            false => self.runner.store.stored(fingerprint)?,
        };
        let n = request.n as usize;
        if stored.len() < n {
            self.warn_of_zero();
            if let Some(failure) = service.beyond_context(request) {
                return Ok(Err(failure));
            }
        }
        while stored.len() < n {
            let missing = n - stored.len();
            let bought = if missing == 1 || service.several(request) {
                self.obtain(request, stored.len(), hold, None).await?
            } else {
                self.one_by_one(stored.len(), hold).await?
            };
            match bought {
                Ok(all) => stored = all,
                Err(failure) => return Ok(Err(failure)),
            }
        }
        Ok(Ok(stored))
    }

    /// The endpoint gives one completion a request: as many requests as are missing, side by side.
    async fn one_by_one(&self, first: usize, hold: &mut Hold) -> Result<Result<Stored, Failure>> {
        let Ask { request, fingerprint, .. } = self.ask;
        let missing = request.n.saturating_sub(first as u32);
        let turns = Turn::queue(missing).into_iter().enumerate();
        let parts = hold.divide(missing).into_iter().zip(turns).map(|(mut part, (number, mut turn))| async move {
            let at = first + number;
            let single = Request { n: at as u32 + 1, ..request.clone() };
            let bought = self.obtain(&single, at, &mut part, Some(&mut turn)).await;
            let paid = part.paid();
            // Others may need its money to get done; and those behind it must not come before those ahead of it.
            drop(part);
            turn.come().await;
            (bought, paid)
        });
        let bought = join_all(parts).await;
        hold.gather(bought.iter().map(|(_, paid)| *paid).sum());
        for (one, _) in bought {
            if let Err(failure) = one? {
                return Ok(Err(failure));
            }
        }
        Ok(Ok(self.runner.store.stored(fingerprint)?))
    }

    /// Gets samples from `first` on by one request, with as many attempts as it may take.
    async fn obtain(
        &self,
        request: &Request,
        first: usize,
        hold: &mut Hold,
        mut turn: Option<&mut Turn>,
    ) -> Result<Result<Stored, Failure>> {
        let service = self.ask.service;
        let mut tries = Tries::new(service, self.ask.wish.retries);
        loop {
            let at = match tries.next(Instant::now()) {
                Next::Ask(at) => at,
                Next::GiveUp(failure) => return Ok(Err(failure)),
                Next::Wait(moment) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(moment) => continue,
                        () = service.woken() => continue,
                        () = self.runner.until_stopped() => return Ok(Err(stopped())),
                    }
                }
            };
            let seat = &service.seats[at];
            let before = match self.attempt(request, first, (seat, at), &mut tries, hold, turn.as_deref_mut()).await? {
                Ok(stored) => return Ok(Ok(stored)),
                Err(Unanswered::Stopped) => return Ok(Err(stopped())),
                Err(Unanswered::Elsewhere | Unanswered::NoMoney) => None,
                Err(Unanswered::Failed(error)) => {
                    tries.failed(at, &error, Instant::now());
                    if let Next::GiveUp(failure) = tries.next(Instant::now()) {
                        return Ok(Err(failure));
                    }
                    Some(error.failure)
                }
            };
            // What was lost must be held anew, and before others that were asked later take it.
            if let Err(failure) = self.afford(request, first, hold).await {
                return Ok(Err(match before {
                    None => failure,
                    Some(before) => Failure::new(failure.kind, format!("{failure}; it failed before: {before}")),
                }));
            }
        }
    }

    /// Holds what another attempt may cost, waiting for others to settle where it does not fit yet.
    async fn afford(&self, request: &Request, first: usize, hold: &mut Hold) -> Result<(), Failure> {
        let crowded = |hold: &Hold| self.crowded(hold, self.ask.service.attempt_bound(request, first, hold.real()));
        tokio::select! {
            () = hold.wait_while(crowded) => {}
            () = self.runner.until_stopped() => return Err(stopped()),
        }
        let worst = self.ask.service.attempt_bound(request, first, hold.real());
        if worst <= hold.real() {
            return Ok(());
        }
        tokio::select! {
            fits = hold.top_up_in_time(worst) => if fits { Ok(()) } else { Err(no_money(worst)) },
            () = self.runner.until_stopped() => Err(stopped()),
        }
    }

    /// What is under way may be billed more than is held for it, and that leaves no room for this one.
    fn crowded(&self, hold: &Hold, worst: Usd) -> bool {
        let beyond = self.ask.service.beyond();
        beyond > Usd::ZERO && !hold.fits_beside(beyond + worst.saturating_left(hold.real()))
    }

    /// One attempt at one endpoint, with its place in the ledger. The outer error is the store's.
    async fn attempt(
        &self,
        request: &Request,
        first: usize,
        (seat, at): (&Seat, usize),
        tries: &mut Tries<'_>,
        hold: &mut Hold,
        turn: Option<&mut Turn>,
    ) -> Result<Result<Stored, Unanswered>> {
        let (runner, Ask { service, fingerprint, scope, wish, .. }) = (self.runner, self.ask);
        let wanted = request.n.saturating_sub(first as u32);
        let output = service.output_limit(request).unwrap_or(1024).saturating_mul(wanted.into());
        let tokens = (tokens::input_bound(request) / 3).saturating_add(output);
        let Some(pass) = seat.health.pass(Instant::now()) else { return Ok(Err(Unanswered::Elsewhere)) };
        let _busy = Busy::new(seat);
        let slot = tokio::select! {
            biased;
            slot = runner.throttle.enter(seat.lane, wish.priority, tokens) => slot,
            () = runner.until_stopped() => return Ok(Err(Unanswered::Stopped)),
            () = until(tries.ends(at)) => {
                let late = timeout("its turn did not come before the deadline", false);
                if !seat.alone {
                    seat.health.rest(&late, Instant::now());
                }
                return Ok(Err(Unanswered::Failed(late)));
            }
        };
        if runner.stopping() {
            return Ok(Err(Unanswered::Stopped));
        }
        if !tries.stands(at, Instant::now()) || !pass.stands() {
            slot.forfeit();
            return Ok(Err(Unanswered::Elsewhere));
        }
        // Bounded only now: what was billed while this one waited for its turn may have taught more.
        let worst = service.attempt_bound(request, first, hold.real());
        // Before more is held for it: what is held is not looked at again.
        if self.crowded(hold, worst) {
            slot.forfeit();
            return Ok(Err(Unanswered::Elsewhere));
        }
        if worst > hold.real() && !hold.top_up(worst) {
            return Ok(Err(Unanswered::NoMoney));
        }
        let entry = match seat.backend.in_process() {
            true => None,
            false => Some(runner.store.reserve(scope, fingerprint, worst).await?),
        };
        let wire = runner.wire.acquire().await.map_err(|_| Error::internal("the runner was closed"))?;
        if runner.stopping() || !pass.stands() {
            if let Some(entry) = entry {
                runner.store.close(entry, Closing::Released).await?;
            }
            return Ok(Err(if runner.stopping() { Unanswered::Stopped } else { Unanswered::Elsewhere }));
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        let begin = Instant::now();
        let end = tries.begin(at, begin);
        let span = self.span(request, seat);
        let under_way = service.send(worst);
        if entry.is_some() {
            hold.risk(worst);
        }
        let call = seat.backend.call(request, first);
        let outcome = async {
            tokio::select! {
                biased;
                outcome = call => outcome,
                () = until(end) => Err(timeout("no answer within the deadline", true)),
            }
        };
        let outcome = outcome.instrument(span.clone()).await.map_err(|error| pass.meaning(error));
        drop(wire);
        note(&span, request, &outcome);
        match outcome {
            Ok(mut response) => {
                pass.answered();
                let bill = service.take_in(&service.price, request, wanted, &seat.name, &mut response);
                let used = response.prompt_tokens.saturating_add(response.completion_tokens());
                slot.end(Ended::Answered(begin.elapsed()), used);
                hold.spend(bill);
                drop(under_way);
                if service.overbilled() {
                    hold.wake();
                }
                if let Some(turn) = turn {
                    hold.rest(turn.come()).await;
                }
                let record = service.record(self.ask.request);
                // Before as well: who asked may go, and the write goes on.
                runner.bought.add(fingerprint);
                let stored = runner.store.record(scope, fingerprint, &record, response, bill, entry).await?;
                runner.bought.add(fingerprint);
                Ok(Ok(stored))
            }
            Err(error) => {
                let ended = if error.too_much { Ended::TooMuch } else { Ended::Otherwise };
                slot.end(ended, 0);
                pass.failed(&error, seat.alone, Instant::now());
                drop(under_way);
                if !error.may_be_billed {
                    hold.unbilled();
                }
                hold.wake();
                if let Some(entry) = entry {
                    let closing = if error.may_be_billed { Closing::Lost } else { Closing::Released };
                    runner.store.close(entry, closing).await?;
                    if error.may_be_billed {
                        hold.lose(worst);
                    }
                }
                Ok(Err(Unanswered::Failed(error)))
            }
        }
    }

    /// The span of an attempt, in the words of OpenTelemetry's conventions for generative AI.
    fn span(&self, request: &Request, seat: &Seat) -> tracing::Span {
        let operation = if matches!(request.input, Input::Text(_)) { "text_completion" } else { "chat" };
        tracing::debug_span!(
            "attempt",
            // These three are read by tracing-opentelemetry.
            otel.name = %format_args!("{operation} {}", request.model),
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            gen_ai.operation.name = operation,
            gen_ai.provider.name = seat.provider,
            gen_ai.request.model = %request.model,
            gen_ai.request.choice.count = request.n,
            server.address = %seat.address,
            server.port = seat.port,
            gen_ai.response.model = tracing::field::Empty,
            gen_ai.response.finish_reasons = tracing::field::Empty,
            gen_ai.usage.input_tokens = tracing::field::Empty,
            gen_ai.usage.output_tokens = tracing::field::Empty,
            gen_ai.usage.cache_read.input_tokens = tracing::field::Empty,
            error.type = tracing::field::Empty,
        )
    }

    fn warn_of_zero(&self) {
        let Ask { service, request, .. } = self.ask;
        let zero = request.params.get("temperature").and_then(Value::as_f64) == Some(0.0);
        if zero && request.n > 1 && !service.warned.swap(true, Ordering::Relaxed) {
            let (n, model) = (request.n, &service.model.name);
            tracing::warn!("{n} completions of `{model}` at temperature 0 are mostly the same one, paid {n} times");
        }
    }
}

/// Writes down how an attempt ended, where anyone looks.
fn note(span: &tracing::Span, request: &Request, outcome: &Result<Response, CallError>) {
    if span.is_disabled() {
        return;
    }
    match outcome {
        Ok(response) => {
            let reasons: Vec<&str> = response.samples.iter().map(|sample| sample.finish_reason.0.as_ref()).collect();
            span.record("gen_ai.response.model", response.model.as_ref().unwrap_or(&request.model).as_str());
            span.record("gen_ai.response.finish_reasons", reasons.join(","));
            span.record("gen_ai.usage.input_tokens", response.prompt_tokens);
            span.record("gen_ai.usage.output_tokens", response.completion_tokens());
            span.record("gen_ai.usage.cache_read.input_tokens", response.cached_tokens);
        }
        Err(error) => {
            span.record("error.type", error.failure.kind.word());
            span.record("otel.status_code", "ERROR");
        }
    }
    tracing::debug!(parent: span, "attempt ended");
}
