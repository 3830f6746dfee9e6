//! Rate limits of an endpoint: requests and tokens in any minute, requests in flight.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::backend::Endpoint;

/// The limits of one endpoint.
#[derive(Debug)]
pub struct Limits {
    concurrency: Option<Semaphore>,
    requests: Option<Pace>,
    tokens: Option<Pace>,
}

impl Limits {
    /// The limits that an endpoint was given.
    pub fn new(endpoint: &Endpoint) -> Limits {
        Limits {
            concurrency: endpoint.rates.max_concurrency.map(|most| Semaphore::new(most as usize)),
            requests: endpoint.rates.requests_per_minute.map(|most| Pace::per_minute(f64::from(most))),
            tokens: endpoint.rates.tokens_per_minute.map(|most| Pace::per_minute(most as f64)),
        }
    }

    /// Waits until a request of so many tokens may be sent; it is in flight while the permit is held.
    pub async fn enter(&self, tokens: u64) -> Option<SemaphorePermit<'_>> {
        if let Some(pace) = &self.requests {
            pace.take(1.0).await;
        }
        if let Some(pace) = &self.tokens {
            pace.take(tokens as f64).await;
        }
        match &self.concurrency {
            // The semaphore is never closed.
            Some(semaphore) => semaphore.acquire().await.ok(),
            None => None,
        }
    }

    /// Gives back what was asked for and not used.
    pub fn refund(&self, tokens: u64) {
        if let Some(pace) = &self.tokens {
            pace.give(tokens as f64);
        }
    }
}

/// A token bucket that holds one second of the rate (at least one request) and fills evenly.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Pace {
    fn per_minute(rate: f64) -> Pace {
        let burst = (rate / 60.0).max(1.0);
        Pace { per_second: rate / 60.0, burst, state: Mutex::new((burst, Instant::now())) }
    }

    /// Takes `amount`, on credit if need be, and waits until the credit is paid.
    async fn take(&self, amount: f64) {
        let wait = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let filled = (state.0 + now.duration_since(state.1).as_secs_f64() * self.per_second).min(self.burst);
            *state = (filled - amount, now);
            Duration::try_from_secs_f64((-state.0 / self.per_second).max(0.0)).unwrap_or_default()
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn give(&self, amount: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = (state.0 + amount).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds() {
        let mut endpoint = Endpoint::at("x", "http://127.0.0.1:1/v1");
        endpoint.rates.requests_per_minute = Some(120);
        let limits = Limits::new(&endpoint);
        let start = Instant::now();
        for _ in 0..22 {
            limits.enter(0).await;
        }
        let took = start.elapsed().as_secs_f64();
        assert!((9.9..10.2).contains(&took), "2 at once, then 2 a second: {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_not_used_are_given_back() {
        let mut endpoint = Endpoint::at("x", "http://127.0.0.1:1/v1");
        endpoint.rates.tokens_per_minute = Some(60_000);
        let limits = Limits::new(&endpoint);
        let start = Instant::now();
        limits.enter(1_000).await;
        limits.refund(500);
        limits.enter(1_000).await;
        let took = start.elapsed().as_secs_f64();
        assert!((0.45..0.55).contains(&took), "{took}");
    }
}
