//! Limits by key that are told truthfully: each bucket fills evenly over a minute, a request that does not fit is
//! answered 429 with the time after which it will, and what is refused takes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clock::rfc3339;
use super::wire::{Family, Refusal};

/// What one key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a minute, evenly; as many at once after a minute of rest.
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute: a request counts its prompt and `max_tokens` for each of n completions.
    pub tokens_per_minute: Option<u64>,
    /// Requests that are open at a time. Who is refused for this is not told when to come back: nobody knows.
    pub max_concurrency: Option<u64>,
}

/// Keys that are remembered; more than that, and those at rest are forgotten.
const MOST_KEYS: usize = 10_000;
const MINUTE: u64 = 60_000;

/// What is left of an allowance, in 60,000ths, so that a millisecond adds a whole number.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    limit: u64,
    left: u128,
}

impl Bucket {
    fn new(limit: u64) -> Bucket {
        Bucket { limit, left: u128::from(limit) * u128::from(MINUTE) }
    }

    fn full(self) -> u128 {
        Bucket::new(self.limit).left
    }

    fn fill(&mut self, millis: u64) {
        self.left = (self.left + u128::from(self.limit) * u128::from(millis)).min(self.full());
    }

    /// Milliseconds until so much is there: 0 now, `None` never.
    fn wait(self, amount: u64) -> Option<u64> {
        self.until(u128::from(amount) * u128::from(MINUTE))
    }

    fn until(self, wanted: u128) -> Option<u64> {
        match wanted.checked_sub(self.left) {
            None | Some(0) => Some(0),
            Some(_) if wanted > self.full() => None,
            Some(missing) => u64::try_from(missing.div_ceil(u128::from(self.limit.max(1)))).ok(),
        }
    }

    fn take(&mut self, amount: u64) {
        self.left = self.left.saturating_sub(u128::from(amount) * u128::from(MINUTE));
    }
}

#[derive(Debug)]
struct Account {
    /// When the buckets were filled, in milliseconds.
    at: u64,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    open: u64,
}

/// All keys' accounts.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    limits: Limits,
    accounts: Mutex<HashMap<String, Account>>,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Limiter {
        Limiter { limits, accounts: Mutex::default() }
    }

    /// True where there is nothing to keep.
    pub(super) fn unlimited(&self) -> bool {
        self.limits == Limits::default()
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<String, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was used; requests that are open stay open.
    pub(super) fn reset(&self) {
        self.accounts().retain(|_, account| {
            account.requests = self.limits.requests_per_minute.map(Bucket::new);
            account.tokens = self.limits.tokens_per_minute.map(Bucket::new);
            account.open > 0
        });
    }

    /// A request of this key came to its end.
    pub(super) fn leave(&self, key: &str) {
        if let Some(account) = self.accounts().get_mut(key) {
            account.open = account.open.saturating_sub(1);
        }
    }

    /// Lets a request in, which [`leave`](Limiter::leave) must end, or refuses it. Both bring the headers that say how
    /// things stand.
    ///
    /// `now` in milliseconds since 1970.
    pub(super) fn enter(
        &self,
        key: &str,
        tokens: u64,
        family: Family,
        now: u64,
    ) -> Result<Vec<(&'static str, String)>, Refusal> {
        let mut accounts = self.accounts();
        if accounts.len() >= MOST_KEYS && !accounts.contains_key(key) {
            accounts.retain(|_, account| account.open > 0 || now.saturating_sub(account.at) < MINUTE);
        }
        let account = accounts.entry(key.to_owned()).or_insert_with(|| Account {
            at: now,
            requests: self.limits.requests_per_minute.map(Bucket::new),
            tokens: self.limits.tokens_per_minute.map(Bucket::new),
            open: 0,
        });
        let passed = now.saturating_sub(account.at);
        account.at = account.at.max(now);
        for bucket in [&mut account.requests, &mut account.tokens].into_iter().flatten() {
            bucket.fill(passed);
        }
        let refuse = |message: String, wait: Option<u64>, account: &Account| {
            let mut headers = account.headers(family, now);
            if let Some(wait) = wait {
                headers.push(("retry-after", wait.div_ceil(1000).to_string()));
                if matches!(family, Family::OpenAi | Family::Azure) {
                    headers.push(("retry-after-ms", wait.to_string()));
                }
            }
            Err(Refusal { headers, ..Refusal::new(429, Some("rate_limit_exceeded"), message) })
        };
        if let Some(most) = self.limits.max_concurrency.filter(|&most| account.open >= most) {
            return refuse(format!("Too many requests at a time: limit {most}."), None, account);
        }
        let requests = account.requests.map_or(Some(0), |bucket| bucket.wait(1));
        let Some(for_tokens) = account.tokens.map_or(Some(0), |bucket| bucket.wait(tokens)) else {
            let limit = account.tokens.map_or(0, |bucket| bucket.limit);
            let message = format!("Request too large on tokens per min (TPM): Limit {limit}, Requested {tokens}.");
            return refuse(message, None, account);
        };
        let wait = requests.map_or(for_tokens, |requests| requests.max(for_tokens));
        if wait > 0 || requests.is_none() {
            let what = if for_tokens > 0 { "tokens per min (TPM)" } else { "requests per min (RPM)" };
            let message = format!("Rate limit reached on {what}. Please try again in {}.", span(wait));
            return refuse(message, requests.map(|_| wait), account);
        }
        if let Some(bucket) = &mut account.requests {
            bucket.take(1);
        }
        if let Some(bucket) = &mut account.tokens {
            bucket.take(tokens);
        }
        account.open += 1;
        Ok(account.headers(family, now))
    }
}

impl Account {
    /// How things stand, in the words of the family.
    fn headers(&self, family: Family, now: u64) -> Vec<(&'static str, String)> {
        type Names = [&'static str; 3];
        let (requests, tokens): (Names, Names) = match family {
            Family::OpenAi | Family::Azure => (
                ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
                ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
            ),
            Family::Anthropic => (
                [
                    "anthropic-ratelimit-requests-limit",
                    "anthropic-ratelimit-requests-remaining",
                    "anthropic-ratelimit-requests-reset",
                ],
                [
                    "anthropic-ratelimit-tokens-limit",
                    "anthropic-ratelimit-tokens-remaining",
                    "anthropic-ratelimit-tokens-reset",
                ],
            ),
            // They say nothing.
            Family::Ollama | Family::Gemini => return Vec::new(),
        };
        let mut headers = Vec::new();
        for (names, bucket) in [(requests, self.requests), (tokens, self.tokens)] {
            let Some(bucket) = bucket else { continue };
            let reset = bucket.until(bucket.full()).unwrap_or_default();
            headers.push((names[0], bucket.limit.to_string()));
            headers.push((names[1], (bucket.left / u128::from(MINUTE)).to_string()));
            headers.push((
                names[2],
                match family {
                    Family::Anthropic => rfc3339(now.saturating_add(reset).div_ceil(1000)),
                    _ => span(reset),
                },
            ));
        }
        headers
    }
}

/// A span of milliseconds as OpenAI writes it: `20ms`, `1.5s`, `6m0s`, `1h0m0s`.
pub(super) fn span(millis: u64) -> String {
    let (seconds, rest) = (millis / 1000, millis % 1000);
    let fraction = match rest {
        0 => String::new(),
        _ => format!(".{rest:03}").trim_end_matches('0').to_owned(),
    };
    match seconds {
        0 if rest > 0 => format!("{rest}ms"),
        0..60 => format!("{seconds}{fraction}s"),
        60..3600 => format!("{}m{}{fraction}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m{}{fraction}s", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(headers: &'a [(&'static str, String)], name: &str) -> Option<&'a str> {
        headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn spans_are_written_as_openai_writes_them() {
        let spans = [0, 20, 1000, 1500, 59_999, 360_000, 3_600_001].map(span);
        assert_eq!(spans, ["0s", "20ms", "1s", "1.5s", "59.999s", "6m0s", "1h0m0.001s"]);
    }

    #[test]
    fn what_is_said_about_when_to_come_back_is_true() {
        let limiter = Limiter::new(Limits { requests_per_minute: Some(3), ..Limits::default() });
        let enter = |now| limiter.enter("a", 10, Family::OpenAi, now);
        for left in ["2", "1", "0"] {
            assert_eq!(header(&enter(0).unwrap(), "x-ratelimit-remaining-requests"), Some(left));
        }
        let refused = enter(500).unwrap_err();
        assert_eq!((refused.status, header(&refused.headers, "retry-after-ms")), (429, Some("19500")));
        assert_eq!(header(&refused.headers, "retry-after"), Some("20"));
        assert_eq!(header(&refused.headers, "x-ratelimit-reset-requests"), Some("59.5s"));
        assert!(enter(500 + 19_499).is_err());
        assert!(enter(500 + 19_500).is_ok(), "as was said");
        assert!(limiter.enter("b", 10, Family::OpenAi, 0).is_ok(), "another key");
    }

    #[test]
    fn tokens_and_open_requests_are_limited_too() {
        let limits = Limits { tokens_per_minute: Some(600), max_concurrency: Some(2), ..Limits::default() };
        let limiter = Limiter::new(limits);
        let enter = |tokens, now| limiter.enter("", tokens, Family::Anthropic, now);
        assert_eq!(header(&enter(500, 0).unwrap(), "anthropic-ratelimit-tokens-remaining"), Some("100"));
        assert_eq!(header(&enter(200, 0).unwrap_err().headers, "retry-after"), Some("10"));
        let too_large = enter(601, 0).unwrap_err();
        assert_eq!((header(&too_large.headers, "retry-after"), too_large.status), (None, 429));
        assert!(enter(200, 10_000).is_ok());
        let busy = enter(1, 60_000).unwrap_err();
        assert!(busy.message.contains("at a time") && header(&busy.headers, "retry-after").is_none());
        limiter.leave("");
        assert!(enter(1, 60_000).is_ok());
        limiter.reset();
        assert!(enter(1, 60_000).is_err(), "two are still open");
        let none = Limiter::new(Limits { requests_per_minute: Some(0), ..Limits::default() });
        assert!(none.enter("", 1, Family::OpenAi, 0).is_err());
    }
}
