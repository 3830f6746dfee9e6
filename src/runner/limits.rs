//! What may be sent to a place: requests and tokens in any minute, requests in flight, and how many of those an endpoint
//! bears. Plain values and a clock that is handed in; [`super::throttle`] makes requests wait for them.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Rates;

/// The limits of one place: a run, an endpoint, a model, or a group of them.
#[derive(Debug)]
pub(super) struct Limit {
    /// What it is the limit of, for messages.
    pub name: String,
    /// Most requests in flight.
    pub most: usize,
    /// Requests in flight now.
    pub running: usize,
    /// Requests in any minute.
    pub requests: Option<Bucket>,
    /// Tokens in any minute.
    pub tokens: Option<Bucket>,
    /// How much an endpoint bears, as it shows.
    pub window: Option<Window>,
    /// It was said that a single request has more tokens than a minute allows.
    pub warned: bool,
}

/// Why a request cannot go yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Short {
    /// Until another one ends.
    Place,
    /// Until this moment, if nothing is given back before.
    Time(Instant),
}

impl Limit {
    /// The limits of a place as they were given.
    pub fn new(name: impl Into<String>, rates: &Rates, now: Instant) -> Limit {
        let bucket = |rate: Option<f64>| rate.map(|rate| Bucket::per_minute(rate, now));
        Limit {
            name: name.into(),
            most: rates.max_concurrency.map_or(usize::MAX, |most| most as usize),
            running: 0,
            requests: bucket(rates.requests_per_minute.map(f64::from)),
            tokens: bucket(rates.tokens_per_minute.map(|most| most as f64)),
            window: None,
            warned: false,
        }
    }

    /// What keeps a request of so many tokens from going now.
    pub fn short(&mut self, tokens: u64, now: Instant) -> Option<Short> {
        let bears = self.window.as_ref().map_or(usize::MAX, Window::bears);
        if self.running >= self.most.min(bears) {
            return Some(Short::Place);
        }
        let requests = self.requests.as_mut().and_then(|bucket| bucket.ready(1.0, now));
        let tokens = self.tokens.as_mut().and_then(|bucket| bucket.ready(tokens as f64, now));
        requests.max(tokens).map(Short::Time)
    }

    /// A request of so many tokens goes.
    pub fn take(&mut self, tokens: u64, now: Instant) {
        self.running += 1;
        if let Some(bucket) = &mut self.requests {
            bucket.take(1.0, now);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens as f64, now);
            if !self.warned && tokens as f64 > bucket.rate * 60.0 {
                self.warned = true;
                let (name, limit) = (&self.name, bucket.rate * 60.0);
                tracing::warn!(
                    "a request of up to {tokens} tokens is more than {name} allows in a minute ({limit:.0}): \
                     such requests go one by one, each when the limit was not used for long enough"
                );
            }
        }
    }

    /// A request ended: it used so many tokens of those that were taken for it.
    pub fn end(&mut self, taken: u64, used: u64, now: Instant) {
        self.running = self.running.saturating_sub(1);
        if let Some(bucket) = &mut self.tokens {
            bucket.take(used as f64 - taken as f64, now);
        }
    }

    /// It does not go after all.
    pub fn undo(&mut self, tokens: u64, now: Instant) {
        self.end(tokens, 0, now);
        if let Some(bucket) = &mut self.requests {
            bucket.take(-1.0, now);
        }
    }
}

/// A token bucket that holds one second of its rate (at least one) and fills evenly. What is larger than the bucket goes
/// when it is full, and leaves a debt that is paid before anything else goes: so the rate holds for any size.
#[derive(Debug)]
pub(super) struct Bucket {
    /// By the second.
    rate: f64,
    burst: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn per_minute(rate: f64, now: Instant) -> Bucket {
        let burst = (rate / 60.0).max(1.0);
        Bucket { rate: rate / 60.0, burst, level: burst, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level, self.at) = ((self.level + passed * self.rate).min(self.burst), now);
    }

    /// `None` where so much can be taken now, else when.
    fn ready(&mut self, amount: f64, now: Instant) -> Option<Instant> {
        self.fill(now);
        let missing = amount.min(self.burst) - self.level;
        // A billionth is a rounding error.
        (missing > 1e-9 * self.burst).then(|| {
            let wait = Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::from_secs(3600));
            now + wait.max(Duration::from_millis(1))
        })
    }

    fn take(&mut self, amount: f64, now: Instant) {
        self.fill(now);
        self.level = (self.level - amount).min(self.burst);
    }
}

/// How an attempt ended, for the window of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    /// Answered after so long.
    Answered(Duration),
    /// The endpoint said that it is too much for it.
    TooMuch,
    /// Anything else: it says nothing of how much the endpoint bears.
    Otherwise,
}

/// Requests in flight when an endpoint is first asked; a quarter of what the run allows, where that is more.
const FIRST: f64 = 8.0;

/// A smoothed latency of so many times the lowest says that requests queue up at the endpoint.
const QUEUEING: f64 = 2.0;

/// How many requests an endpoint bears in flight: a congestion window. Slow start (one more for every answer, so it doubles
/// by the round trip), halved where the endpoint says that it is too much, then one more by the round trip (AIMD, as in TCP:
/// RFC 5681). While latencies are well above what they were it does not grow.
#[derive(Debug)]
pub(super) struct Window {
    size: f64,
    most: f64,
    slow_start: bool,
    /// Requests sent so far when it was cut last: what was sent before belongs to the same episode.
    cut_at: u64,
}

impl Window {
    /// For a run that has at most so many requests in flight.
    pub fn new(most: usize) -> Window {
        let most = (most as f64).max(1.0);
        Window { size: FIRST.max((most / 4.0).floor()).min(most), most, slow_start: true, cut_at: 0 }
    }

    /// How many requests may be in flight.
    pub fn bears(&self) -> usize {
        self.size as usize
    }

    /// A request ended that was the `number`-th to be sent, of `sent` in all by now; `running` were in flight with it, and
    /// latencies show whether requests queue up.
    pub fn learn(&mut self, ended: Ended, number: u64, sent: u64, running: usize, queueing: bool) {
        match ended {
            Ended::TooMuch if number > self.cut_at => {
                self.size = (self.size / 2.0).max(1.0);
                (self.slow_start, self.cut_at) = (false, sent);
            }
            // A window that is not used teaches nothing.
            Ended::Answered(_) if running as f64 >= self.size / 2.0 && number > self.cut_at => {
                if queueing {
                    self.slow_start = false;
                } else {
                    let step = if self.slow_start { 1.0 } else { 1.0 / self.size };
                    self.size = (self.size + step).min(self.most);
                }
            }
            _ => {}
        }
    }
}

/// The latencies of a model at an endpoint: smoothed, and the lowest that this average was. The lowest follows a rise
/// slowly, for prompts that take longer are no sign of trouble for ever.
#[derive(Debug, Default)]
pub(super) struct Latency {
    seen: u32,
    smoothed: f64,
    lowest: f64,
}

impl Latency {
    /// Takes note of one more; true where requests seem to queue up.
    pub fn note(&mut self, latency: Duration) -> bool {
        let latency = latency.as_secs_f64();
        self.seen = self.seen.saturating_add(1);
        self.smoothed += (latency - self.smoothed) / f64::from(self.seen.min(16));
        if self.seen <= 16 || self.smoothed < self.lowest {
            self.lowest = self.smoothed;
        } else {
            self.lowest += (self.smoothed - self.lowest) / 256.0;
        }
        // Differences of a few milliseconds are the client's own.
        self.smoothed > QUEUEING * self.lowest + 0.005
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answered(window: &mut Window, times: usize, number: u64) {
        for _ in 0..times {
            let running = window.bears();
            window.learn(Ended::Answered(Duration::ZERO), number, number, running, false);
        }
    }

    #[test]
    fn a_window_doubles_by_the_round_until_the_endpoint_says_no() {
        assert_eq!([1, 5, 32, 40, 400].map(|most| Window::new(most).bears()), [1, 5, 8, 10, 100]);
        let mut window = Window::new(64);
        for size in [16, 32, 64, 64] {
            assert_eq!(window.bears(), size);
            answered(&mut window, size, 1);
        }
        // 64 in flight (numbers up to 100): their refusals are one episode.
        for number in 37..=100 {
            window.learn(Ended::TooMuch, number, 100, 64, false);
        }
        assert_eq!(window.bears(), 32);
        answered(&mut window, 40, 90);
        assert_eq!(window.bears(), 32, "sent before the cut");
        window.learn(Ended::TooMuch, 101, 132, 32, false);
        assert_eq!(window.bears(), 16, "sent after it: another episode");
        answered(&mut window, 17, 133);
        assert_eq!(window.bears(), 17, "one more by the round");
        for number in 200..400 {
            window.learn(Ended::TooMuch, number, number, 1, false);
        }
        assert_eq!(window.bears(), 1, "never none");
    }

    #[test]
    fn a_window_grows_only_where_it_is_used_and_nothing_queues() {
        let mut window = Window::new(64);
        for _ in 0..100 {
            window.learn(Ended::Answered(Duration::ZERO), 1, 1, 7, false);
            window.learn(Ended::Answered(Duration::ZERO), 1, 1, 16, true);
            window.learn(Ended::Otherwise, 1, 1, 16, false);
        }
        assert_eq!(window.bears(), 16);
    }

    #[test]
    fn latencies_that_rise_well_above_the_lowest_are_seen_and_forgotten() {
        let mut latency = Latency::default();
        let mut note = |ms: u64| latency.note(Duration::from_millis(ms));
        assert!((0..100).all(|i| !note(90 + i % 20)), "they vary");
        assert!(!note(1000), "one slow answer is nothing");
        assert!((0..50).all(|_| !note(100)), "and what follows it");
        assert!((0..40).map(|_| note(400)).last().unwrap());
        assert!((0..400).map(|_| note(400)).any(|queueing| !queueing), "that is how long it takes now");
    }

    proptest! {
        /// Whatever is asked for and given back, what a bucket lets go in a time is no more than its rate and one burst.
        #[test]
        fn a_bucket_keeps_its_rate(steps in prop::collection::vec((0_u64..3000, 0_u64..3000, 0_u64..2500), 1..60)) {
            let start = Instant::now();
            let (mut now, mut used_in_all) = (start, 0.0);
            let mut bucket = Bucket::per_minute(60_000.0, start);
            for (wait, taken, used) in steps {
                now += Duration::from_millis(wait);
                while let Some(at) = bucket.ready(taken as f64, now) {
                    prop_assert!(at > now);
                    now = at;
                }
                bucket.take(taken as f64, now);
                bucket.take(used.min(taken) as f64 - taken as f64, now);
                used_in_all += used.min(taken) as f64;
                let most = 1000.0 * (now - start).as_secs_f64() + 1000.0 + 3000.0;
                prop_assert!(used_in_all <= most, "{used_in_all} of {most}");
            }
        }
    }
}
