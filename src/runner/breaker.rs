//! An endpoint whose failures may be billed is not asked on and on: after some in a row everything is held back, and one
//! request at a time tries whether it answers again. So a dead gateway costs a handful of worst cases, not the budget.

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

/// Longest such wait.
const LONGEST: Duration = Duration::from_secs(60);

/// Held back for so long, and failing still, it is an outage: what waits for the endpoint fails.
const OUTAGE: Duration = Duration::from_secs(30);

/// While one tries it the others look again so often, if nobody wakes them.
const LOOK: Duration = Duration::from_secs(1);

/// Whether an endpoint is asked by everyone, by one at a time, or by nobody.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Failures in a row that may be billed.
    failures: AtomicU32,
    /// Everything is held back.
    open: AtomicBool,
    state: Mutex<State>,
    /// A try ended, or everything goes on.
    pub woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Since when everything is held back.
    since: Option<Instant>,
    /// When it is tried next.
    until: Option<Instant>,
    wait: Duration,
    trying: bool,
    /// It is an outage: what it failed with.
    outage: Option<Failure>,
    said: bool,
}

/// What a request finds.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// It may go.
    Go,
    /// It may look again at this moment.
    Later(Instant),
    /// The endpoint is away for longer than anything waits.
    Out,
}

/// Leave to send one request. Where it is the one that tries, others wait until it is dropped or ended.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    tries: bool,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a few assignments that cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything goes.
    pub fn closed(&self) -> bool {
        !self.open.load(Ordering::Relaxed)
    }

    /// What a request finds now.
    pub fn look(&self, now: Instant) -> Found {
        if self.closed() {
            return Found::Go;
        }
        let state = self.state();
        let until = state.until.filter(|until| *until > now);
        match (until, state.trying, &state.outage) {
            (None, false, _) => Found::Go,
            (_, _, Some(_)) => Found::Out,
            (_, true, None) => Found::Later(now + LOOK),
            (Some(until), false, None) => Found::Later(until),
        }
    }

    /// Why nothing is sent, where it is an outage.
    pub fn outage(&self) -> Option<Failure> {
        if self.closed() { None } else { self.state().outage.clone() }
    }

    /// Leave to send, where there is any now.
    pub fn pass(&self, now: Instant) -> Option<Pass<'_>> {
        if self.closed() {
            return Some(Pass { breaker: self, tries: false });
        }
        let mut state = self.state();
        let tries = self.open.load(Ordering::Relaxed);
        if tries && (state.trying || state.until.is_some_and(|until| until > now)) {
            return None;
        }
        state.trying = tries;
        Some(Pass { breaker: self, tries })
    }

    fn close(&self) {
        self.failures.store(0, Ordering::Relaxed);
        if self.open.swap(false, Ordering::Relaxed) {
            let mut state = self.state();
            *state = State { said: state.said, ..State::default() };
            drop(state);
            self.woken.notify_waiters();
        }
    }
}

impl Pass<'_> {
    /// It may still be sent: nothing was held back meanwhile.
    pub fn stands(&self) -> bool {
        self.tries || self.breaker.closed()
    }

    /// The endpoint answered.
    pub fn answered(mut self) {
        self.tries = false;
        if self.breaker.failures.load(Ordering::Relaxed) > 0 {
            self.breaker.close();
        }
    }

    /// The request failed, at the endpoint of that name.
    pub fn failed(mut self, error: &CallError, name: &str, now: Instant) {
        let kind = error.failure.kind;
        if !kind.transient() && !kind.fatal() {
            // Refused for what it says: nothing is learnt of the endpoint, and another one may try at once.
            return;
        }
        let breaker = self.breaker;
        if error.may_be_billed {
            let failures = breaker.failures.fetch_add(1, Ordering::Relaxed) + 1;
            if failures >= MOST && breaker.closed() {
                let mut state = breaker.state();
                breaker.open.store(true, Ordering::Relaxed);
                (state.since, state.until, state.wait) = (Some(now), Some(now + FIRST), FIRST);
                if !std::mem::replace(&mut state.said, true) {
                    tracing::warn!(
                        "the endpoint `{name}` failed {failures} times in a row, and each may be billed: one request at a \
                         time is sent until it answers ({})",
                        error.failure
                    );
                }
            }
        }
        if !std::mem::take(&mut self.tries) {
            return;
        }
        let mut state = breaker.state();
        state.trying = false;
        let long = state.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if kind == FailureKind::RateLimit {
            // It is there, and says when.
            state.until = Some(now + error.retry_after.unwrap_or(FIRST).clamp(FIRST, LONGEST));
        } else {
            state.wait = (state.wait * 2).clamp(FIRST, LONGEST);
            if long >= OUTAGE {
                let words = format!("{} (no answer for {} s, so nothing more is sent)", error.failure, long.as_secs());
                (state.outage, state.wait) = (Some(Failure::new(kind, words)), LONGEST);
            }
            state.until = Some(now + state.wait);
        }
        drop(state);
        breaker.woken.notify_waiters();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.tries {
            // It was not sent after all: another one may try.
            self.breaker.state().trying = false;
            self.breaker.woken.notify_waiters();
        }
    }
}
