//! Which endpoint of a model is asked, and when: the first that does not fail, or all in turn; who failed is left for the
//! next at once, and only where all have failed is anything waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use super::health::{Found, Health};
use super::service::Service;
use super::throttle::Lane;
use crate::backend::{Backend, CallError, Routing};
use crate::provider::{Failure, FailureKind};

/// A rate limit passes by itself: it is waited for so many times longer than other failures.
const PATIENCE: usize = 5;

/// Longest that an endpoint's own wish to wait is honoured: then it is asked again.
const LONGEST_WISH: Duration = Duration::from_secs(300);

/// One that asks for a longer wait than this is away.
const AWAY: Duration = Duration::from_secs(3600);

/// A wait of so long is said, once.
const WORTH_SAYING: Duration = Duration::from_secs(60);

/// An endpoint as one of those that serve a model.
pub(super) struct Seat {
    /// The user's name for it.
    pub name: String,
    /// Its provider in OpenTelemetry's words, for traces.
    pub provider: &'static str,
    /// Its host, for traces.
    pub address: String,
    /// Its port, for traces.
    pub port: Option<u16>,
    pub backend: Arc<dyn Backend>,
    /// Parameters that it is not sent: they bound nothing.
    pub drops: Vec<String>,
    /// The limits that its requests pass.
    pub lane: Lane,
    pub max_retries: u32,
    pub max_timeout_retries: u32,
    pub deadline: Option<Duration>,
    /// Requests that wait or are under way here.
    pub busy: AtomicUsize,
    /// When it was chosen last, as a number.
    turn: AtomicU64,
    /// How the model does here.
    pub health: Arc<Health>,
    /// There is no other for this model.
    pub alone: bool,
    /// It was said that it asks to wait.
    said_wait: AtomicBool,
}

impl Seat {
    pub fn new(
        endpoint: &crate::backend::Endpoint,
        backend: Arc<dyn Backend>,
        lane: Lane,
        health: Arc<Health>,
        alone: bool,
    ) -> Seat {
        let url = reqwest::Url::parse(&endpoint.base_url).ok();
        Seat {
            name: endpoint.name.clone(),
            provider: endpoint.provider.telemetry_name(),
            address: url.as_ref().and_then(|url| url.host_str()).unwrap_or_default().to_owned(),
            port: url.as_ref().and_then(reqwest::Url::port_or_known_default),
            backend,
            drops: endpoint.drop_params.clone(),
            lane,
            max_retries: endpoint.max_retries,
            max_timeout_retries: endpoint.max_timeout_retries,
            deadline: endpoint.deadline,
            busy: AtomicUsize::new(0),
            turn: AtomicU64::new(0),
            health,
            alone,
            said_wait: AtomicBool::new(false),
        }
    }

    /// It is not sent this parameter.
    pub(super) fn drops(&self, name: &str) -> bool {
        self.drops.iter().any(|dropped| dropped == name)
    }

    /// Says once that it asks for a long wait.
    fn say_wait(&self, wish: Duration) {
        if wish >= WORTH_SAYING && !self.said_wait.swap(true, Ordering::Relaxed) {
            let again = if wish > LONGEST_WISH {
                format!("; it is asked again in {}", span(LONGEST_WISH))
            } else {
                String::new()
            };
            tracing::warn!("the endpoint `{}` asks to wait {}{again}", self.name, span(wish));
        }
    }
}

/// A span of time, for people.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds @ ..172_800 => format!("{} h", (seconds + 1800) / 3600),
        seconds => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

/// The waits between attempts: from a quarter of a second on, doubled up to 20 seconds, with jitter.
fn backoff(times: usize) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(20))
        .with_max_times(times)
        .build()
}

/// What one request has tried.
pub(super) struct Tries<'a> {
    service: &'a Service,
    /// In place of the endpoints' own `max_retries`.
    retries: Option<u32>,
    /// When it was sent first.
    began: Option<Instant>,
    /// One for each endpoint once anything has failed.
    tried: Vec<Tried>,
    attempts: u32,
}

#[derive(Default)]
struct Tried {
    /// For rate limits, and for everything else.
    delays: Option<(ExponentialBackoff, ExponentialBackoff)>,
    failures: u32,
    timeouts: u32,
    next: Option<Instant>,
    /// It is not asked again for this request.
    over: bool,
    failure: Option<Failure>,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Ask this one.
    Ask(usize),
    /// Look again at this moment.
    Wait(Instant),
    /// Give up.
    GiveUp(Failure),
}

impl<'a> Tries<'a> {
    pub fn new(service: &'a Service, retries: Option<u32>) -> Tries<'a> {
        Tries { service, retries, began: None, tried: Vec::new(), attempts: 0 }
    }

    /// It is sent now; gives the moment when its time is up.
    pub fn begin(&mut self, seat: usize, now: Instant) -> Option<Instant> {
        let began = *self.began.get_or_insert(now);
        self.attempts += 1;
        self.deadline(seat, began)
    }

    /// The moment when its time is up, where it was sent before.
    pub fn ends(&self, seat: usize) -> Option<Instant> {
        self.deadline(seat, self.began?)
    }

    fn deadline(&self, seat: usize, began: Instant) -> Option<Instant> {
        Some(began + self.service.seats[seat].deadline?)
    }

    /// What to do next.
    pub fn next(&self, now: Instant) -> Next {
        let seats = &self.service.seats;
        if seats.len() == 1 && self.tried.is_empty() && seats[0].health.well() {
            return Next::Ask(0);
        }
        let mut best: Option<((u32, bool, usize, u64), usize)> = None;
        let mut soonest: Option<Instant> = None;
        for at in (0..seats.len()).filter(|at| self.usable(*at)) {
            let own = self.tried.get(at).and_then(|tried| tried.next).unwrap_or(now);
            // One that rests is asked where there is no other, as soon as this request's own wait is over.
            let (next, rests) = match seats[at].health.look(now, seats[at].alone) {
                Found::Go => (own, false),
                Found::Rests => (own, true),
                Found::Later(moment) => (own.max(moment), false),
                Found::Out => continue,
            };
            if next > now {
                if self.ends(at).is_none_or(|end| next < end) {
                    soonest = Some(soonest.map_or(next, |soonest| soonest.min(next)));
                }
                continue;
            }
            if self.ends(at).is_some_and(|end| now >= end) {
                continue;
            }
            // Whoever has not failed this request yet comes before another round.
            let failures = self.failures(at);
            let key = match self.service.model.routing {
                Routing::Failover => (failures, rests, at, 0),
                Routing::Balance => {
                    (failures, rests, seats[at].busy.load(Ordering::Relaxed), seats[at].turn.load(Ordering::Relaxed))
                }
            };
            if best.is_none_or(|(other, _)| key < other) {
                best = Some((key, at));
            }
        }
        match (best, soonest) {
            (Some((_, at)), _) => {
                if self.service.model.routing == Routing::Balance {
                    seats[at].turn.store(self.service.turns.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
                Next::Ask(at)
            }
            (None, Some(soonest)) => Next::Wait(soonest),
            (None, None) => Next::GiveUp(self.verdict()),
        }
    }

    fn usable(&self, at: usize) -> bool {
        self.tried.get(at).is_none_or(|tried| !tried.over)
    }

    fn failures(&self, at: usize) -> u32 {
        self.tried.get(at).map_or(0, |tried| tried.failures)
    }

    /// False where the one that was chosen failed others while this request waited there, and another has not.
    pub fn stands(&self, at: usize, now: Instant) -> bool {
        let seats = &self.service.seats;
        if seats.len() == 1 {
            return true;
        }
        let better = |other: usize| {
            let next = self.tried.get(other).and_then(|tried| tried.next);
            other != at
                && self.usable(other)
                && self.failures(other) <= self.failures(at)
                && next.is_none_or(|next| next <= now)
                && seats[other].health.look(now, false) == Found::Go
        };
        let health = &seats[at].health;
        self.usable(at) && health.out().is_none() && (!health.rests(now) || !(0..seats.len()).any(better))
    }

    /// An attempt failed: who is asked next, and when, follows from that.
    pub fn failed(&mut self, at: usize, error: &CallError, now: Instant) {
        let seats = &self.service.seats;
        self.tried.resize_with(seats.len(), Tried::default);
        let (seat, tried) = (&seats[at], &mut self.tried[at]);
        let failure = &error.failure;
        tried.failure = Some(failure.clone());
        tried.failures += 1;
        if failure.kind.fatal() {
            tried.over = true;
        } else if failure.kind.transient() {
            let timed_out = failure.kind == FailureKind::Timeout && error.may_be_billed;
            tried.timeouts += u32::from(timed_out);
            let retries = seat.max_retries as usize;
            let others = self.retries.map_or(retries, |retries| retries as usize);
            let (patient, delays) = tried.delays.get_or_insert_with(|| (backoff(retries * PATIENCE), backoff(others)));
            let delay = if failure.kind == FailureKind::RateLimit { patient.next() } else { delays.next() };
            match delay {
                _ if error.retry_after.is_some_and(|wish| wish > AWAY) => {
                    let wish = span(error.retry_after.unwrap_or_default());
                    let words = format!("{}: it asks to wait {wish}", failure.message.trim_end_matches('.'));
                    (tried.failure, tried.over) = (Some(Failure::new(failure.kind, words)), true);
                }
                Some(delay) if tried.timeouts <= seat.max_timeout_retries => {
                    let wish = error.retry_after.inspect(|wish| seat.say_wait(*wish));
                    // The endpoint's own wish counts; but one that says "at once" again and again is not believed for ever.
                    let wait = wish.map_or(delay, |wish| wish.min(LONGEST_WISH).max(delay / 4));
                    tracing::info!(model = %self.service.model.name, endpoint = %seat.name, reason = %failure, ?wait, "failed; it may be asked again");
                    tried.next = Some(now + wait);
                }
                _ => tried.over = true,
            }
        } else {
            tried.over = true;
        }
    }

    /// Why there is no answer: of several reasons the one that another run may overcome first, and that of each other endpoint.
    fn verdict(&self) -> Failure {
        let seats = &self.service.seats;
        let failure = |at: usize| {
            // Where all are held back, that is the reason, whatever this request itself came to.
            let away = seats[at].health.outage();
            let own = away.or_else(|| self.tried.get(at)?.failure.clone());
            Some((at, own.or_else(|| seats[at].health.out())?))
        };
        let rank = |(_, failure): &(usize, Failure)| (failure.kind.transient(), !failure.kind.fatal());
        let all: Vec<(usize, Failure)> = (0..seats.len()).filter_map(failure).collect();
        let Some((at, failure)) = all.iter().max_by_key(|one| rank(one)).cloned() else {
            return Failure::new(FailureKind::Server, "no endpoint could be asked");
        };
        let name = |at: usize| if seats.len() > 1 { format!("endpoint `{}`: ", seats[at].name) } else { String::new() };
        let others = all.iter().filter(|(other, _)| *other != at);
        let others: String = others.map(|(other, failure)| format!("; {}{}", name(*other), failure.message)).collect();
        let late = self.ends(at).is_some_and(|end| self.tried.get(at).is_some_and(|tried| tried.next >= Some(end)));
        let attempts = match failure.kind.transient() {
            _ if seats[at].health.outage().is_some() => String::new(),
            true if late => format!(" (given up at the deadline, after {} attempts)", self.attempts),
            true => format!(" (given up after {} attempts)", self.attempts),
            false => String::new(),
        };
        Failure::new(failure.kind, format!("{}{}{attempts}{others}", name(at), failure.message))
    }
}
