//! How a model does at an endpoint, for whoever asks it there. One that refuses the key or the model is asked no more; one that
//! failed is passed over for a while, where another can be asked; and one whose failures may be billed is not asked on and on:
//! after some in a row everything is held back, and one request at a time tries whether it answers again. So a dead gateway
//! costs a handful of worst cases, not the budget.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backend::CallError;
use crate::provider::{Failure, FailureKind};

/// So many failures in a row that may be billed, with no answer between, hold everything back.
const MOST: u32 = 8;

/// The wait before the first request that tries it; each later one waits twice as long.
const FIRST: Duration = Duration::from_secs(1);

/// What may be billed counts as spent at its worst case: where another can be asked, it is not risked again before this.
const RISKED: Duration = Duration::from_secs(30);

/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// Held back for so long, and failing still, it is an outage: what waits for the endpoint fails.
const OUTAGE: Duration = Duration::from_secs(30);

/// While one tries it the others look again so often, if nobody wakes them.
const LOOK: Duration = Duration::from_secs(1);

/// Whether a model at an endpoint is asked by everyone, by one at a time, or by nobody.
#[derive(Debug)]
pub(super) struct Health {
    endpoint: String,
    model: String,
    /// Failures in a row that may be billed.
    failures: AtomicU32,
    /// There is something in the state: else it need not be looked at.
    ill: AtomicBool,
    /// It answered in this run: the model is there.
    answered: AtomicBool,
    state: Mutex<State>,
    /// A try ended, or everything goes on.
    pub woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// It cannot be used in this run: why.
    out: Option<Failure>,
    /// It failed, and is passed over where there is another.
    rest: Pause,
    /// Everything is held back.
    held: Option<Held>,
    /// That was said.
    said: bool,
}

#[derive(Debug)]
struct Held {
    since: Instant,
    /// Until it is tried next.
    pause: Pause,
    trying: bool,
    /// It is an outage: what it failed with.
    outage: Option<Failure>,
}

/// A pause that is twice as long every time.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    times: u32,
    until: Option<Instant>,
}

impl Pause {
    /// How long the next one is.
    fn longer(&mut self, first: Duration) -> Duration {
        self.times = self.times.saturating_add(1);
        (first * 2_u32.saturating_pow(self.times.min(7) - 1)).min(LONGEST)
    }

    fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

/// What a request finds.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// It may go.
    Go,
    /// It may go, but another endpoint is better.
    Rests,
    /// It may look again at this moment.
    Later(Instant),
    /// Nothing is sent here: it is refused for good, or away for longer than anything waits.
    Out,
}

/// Leave to send one request. Where it is the one that tries, others wait until it is dropped or ended.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    health: &'a Health,
    tries: bool,
}

impl Health {
    /// Nothing is known of it yet.
    pub fn new(endpoint: &str, model: &str) -> Health {
        Health {
            endpoint: endpoint.to_owned(),
            model: model.to_owned(),
            failures: AtomicU32::new(0),
            ill: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            state: Mutex::default(),
            woken: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a few assignments that cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything goes.
    pub fn well(&self) -> bool {
        !self.ill.load(Ordering::Relaxed)
    }

    /// What a request finds now; `alone` says that there is no other endpoint for it.
    pub fn look(&self, now: Instant, alone: bool) -> Found {
        if self.well() {
            return Found::Go;
        }
        let state = self.state();
        if !alone && state.out.is_some() {
            return Found::Out;
        }
        if let Some(held) = &state.held {
            match (held.pause.until(now), held.trying, &held.outage) {
                (None, false, _) => {}
                (_, _, Some(_)) => return Found::Out,
                (_, true, None) => return Found::Later(now + LOOK),
                (Some(until), false, None) => return Found::Later(until),
            }
        }
        if !alone && state.rest.until(now).is_some() { Found::Rests } else { Found::Go }
    }

    /// It is passed over, where there is another.
    pub fn rests(&self, now: Instant) -> bool {
        !self.well() && self.state().rest.until(now).is_some()
    }

    /// Why nothing is sent, where it is an outage.
    pub fn outage(&self) -> Option<Failure> {
        if self.well() { None } else { self.state().held.as_ref()?.outage.clone() }
    }

    /// Why it cannot be used in this run.
    pub fn out(&self) -> Option<Failure> {
        if self.well() { None } else { self.state().out.clone() }
    }

    /// Leave to send, where there is any now.
    pub fn pass(&self, now: Instant) -> Option<Pass<'_>> {
        if self.well() {
            return Some(Pass { health: self, tries: false });
        }
        let mut state = self.state();
        let Some(held) = &mut state.held else { return Some(Pass { health: self, tries: false }) };
        if held.trying || held.pause.until(now).is_some() {
            return None;
        }
        held.trying = true;
        Some(Pass { health: self, tries: true })
    }

    /// It is passed over for a while.
    pub fn rest(&self, error: &CallError, now: Instant) {
        let mut state = self.state();
        let pause = state.rest.longer(if error.may_be_billed { RISKED } else { FIRST });
        state.rest.until = Some(now + error.retry_after.unwrap_or(pause).min(LONGEST));
        self.ill.store(true, Ordering::Relaxed);
    }
}

impl Pass<'_> {
    /// It may still be sent: nothing was held back meanwhile.
    pub fn stands(&self) -> bool {
        self.tries || self.health.well() || self.health.state().held.is_none()
    }

    /// The endpoint answered.
    pub fn answered(mut self) {
        self.tries = false;
        let health = self.health;
        if !health.answered.load(Ordering::Relaxed) {
            health.answered.store(true, Ordering::Relaxed);
        }
        if health.well() && health.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = health.state();
        health.failures.store(0, Ordering::Relaxed);
        state.rest = Pause::default();
        let held = state.held.take();
        health.ill.store(state.out.is_some(), Ordering::Relaxed);
        drop(state);
        if held.is_some() {
            health.woken.notify_waiters();
        }
    }

    /// What a failure means here. A model that answered is there: that none is found for this request (OpenRouter: "No
    /// endpoints found that support tool use") is the request's own fault, as any other wrong form is.
    pub fn meaning(&self, mut error: CallError) -> CallError {
        if error.failure.kind == FailureKind::UnknownModel && self.health.answered.load(Ordering::Relaxed) {
            error.failure.kind = FailureKind::BadRequest;
        }
        error
    }

    /// The request failed; `alone` says that there is no other endpoint for it.
    pub fn failed(mut self, error: &CallError, alone: bool, now: Instant) {
        let kind = error.failure.kind;
        if !kind.transient() && !kind.fatal() {
            // Refused for what it says: nothing is learnt of the endpoint, and another one may try at once.
            return;
        }
        let health = self.health;
        // The only one there is may be asked again: what sends requests decides whether it does.
        if !alone && kind.fatal() {
            health.put_out(&error.failure);
        } else if !alone {
            health.rest(error, now);
        }
        if error.may_be_billed {
            health.hold_back(error, now);
        }
        if std::mem::take(&mut self.tries) {
            health.tried(error, now);
        }
    }
}

impl Health {
    /// An endpoint that refuses the key, the model or the account will refuse every other request of this model too.
    fn put_out(&self, failure: &Failure) {
        let mut state = self.state();
        if state.out.is_none() {
            state.out = Some(failure.clone());
            self.ill.store(true, Ordering::Relaxed);
            drop(state);
            tracing::warn!("the endpoint `{}` is not asked for `{}` any more: {failure}", self.endpoint, self.model);
        }
    }

    /// A failure that may be billed: after some in a row everything is held back.
    fn hold_back(&self, error: &CallError, now: Instant) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let mut state = self.state();
        if failures < MOST || state.held.is_some() {
            return;
        }
        let mut pause = Pause::default();
        pause.until = Some(now + pause.longer(FIRST));
        state.held = Some(Held { since: now, pause, trying: false, outage: None });
        self.ill.store(true, Ordering::Relaxed);
        if !std::mem::replace(&mut state.said, true) {
            tracing::warn!(
                "the endpoint `{}` failed {failures} times in a row, and each may be billed: one request at a time is sent \
                 until it answers ({})",
                self.endpoint,
                error.failure
            );
        }
    }

    /// The request that tried whether it answers again failed.
    fn tried(&self, error: &CallError, now: Instant) {
        let mut state = self.state();
        let Some(held) = &mut state.held else { return };
        held.trying = false;
        let long = now.saturating_duration_since(held.since);
        let wait = match error.failure.kind {
            // It is there, and says when.
            FailureKind::RateLimit => error.retry_after.unwrap_or(FIRST).clamp(FIRST, LONGEST),
            kind if long >= OUTAGE => {
                let words = format!("{} (no answer for {} s, so nothing more is sent)", error.failure, long.as_secs());
                held.outage = Some(Failure::new(kind, words));
                LONGEST
            }
            _ => held.pause.longer(FIRST),
        };
        held.pause.until = Some(now + wait);
        drop(state);
        self.woken.notify_waiters();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.tries {
            // It was not sent after all: another one may try.
            if let Some(held) = &mut self.health.state().held {
                held.trying = false;
            }
            self.health.woken.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: FailureKind, may_be_billed: bool) -> CallError {
        CallError { may_be_billed, ..CallError::unbilled(Failure::new(kind, "x")) }
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_tries_what_fails_and_may_bill_it() {
        let (health, begin) = (Health::new("e", "m"), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let lost = error(FailureKind::Server, true);
        for _ in 0..MOST {
            assert_eq!(health.look(begin, true), Found::Go);
            health.pass(begin).unwrap().failed(&lost, true, begin);
        }
        assert_eq!(health.look(begin, true), Found::Later(at(1)));
        assert!(health.pass(begin).is_none());
        // The waits are 1, 2, 4, 8, 16 seconds; then it is an outage.
        let mut now = 0;
        for wait in [1, 2, 4, 8, 16] {
            now += wait;
            let pass = health.pass(at(now)).unwrap();
            assert_eq!(health.look(at(now), true), Found::Later(at(now) + LOOK), "one tries it already");
            assert!(pass.stands() && health.pass(at(now)).is_none());
            pass.failed(&lost, true, at(now));
        }
        assert_eq!((health.look(at(now), true), health.outage().unwrap().kind), (Found::Out, FailureKind::Server));
        drop(health.pass(at(now + 60)).unwrap());
        assert_eq!(health.look(at(now + 60), true), Found::Go, "one that was not sent leaves the try to another");
        health.pass(at(now + 60)).unwrap().answered();
        assert!(health.well() && health.outage().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_another_who_failed_rests_and_who_refuses_is_out() {
        let (health, now) = (Health::new("e", "m"), Instant::now());
        health.pass(now).unwrap().failed(&error(FailureKind::BadRequest, false), false, now);
        health.pass(now).unwrap().failed(&error(FailureKind::Server, false), true, now);
        assert!(health.well(), "alone, or for what a request says, nothing is learnt");
        health.pass(now).unwrap().failed(&error(FailureKind::Server, false), false, now);
        assert_eq!((health.look(now, false), health.look(now, true)), (Found::Rests, Found::Go));
        assert_eq!((health.look(now + FIRST, false), health.rests(now)), (Found::Go, true));
        health.pass(now).unwrap().answered();
        assert_eq!((health.look(now, false), health.rests(now)), (Found::Go, false));
        health.pass(now).unwrap().failed(&error(FailureKind::Authentication, false), false, now);
        assert_eq!((health.look(now, false), health.out().is_some()), (Found::Out, true));
        assert_eq!(health.look(now, true), Found::Go, "the only one there is may be asked again");
        health.pass(now).unwrap().answered();
        assert_eq!(health.look(now, false), Found::Out, "an answer to one that was under way");
    }
}
