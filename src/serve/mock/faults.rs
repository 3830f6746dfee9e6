//! What the mock endpoint does wrong on demand, and whether it bills for it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::wire;

/// One request for completions, as those see it who decide what becomes of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number in the order of arrival, from 1, since the start or the last reset.
    pub number: u64,
    /// The index of the first sample that it will get: how many equal requests (n apart) were given before.
    pub first: usize,
    /// The body, as JSON.
    pub body: Value,
}

/// What happens instead of a good answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// This status, with these headers and this body.
    Status {
        /// The HTTP status code.
        code: u16,
        /// More headers.
        headers: Vec<(String, String)>,
        /// The body as it is.
        body: String,
    },
    /// Never any answer.
    Hang,
    /// The connection is reset after the request was read.
    Reset,
    /// The connection ends in the middle of the body of a good answer.
    Cut,
    /// Status 200 with JSON that breaks off.
    Malformed,
    /// Status 200 with an HTML page.
    Html,
    /// A good answer with one choice less than asked for.
    Fewer,
    /// An answer without choices.
    NoChoices,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Whether it is billed like the answer that it stands for.
    pub billed: bool,
    /// Whether it comes after the latency (as an overloaded server's would) or at once.
    pub late: bool,
}

impl Fault {
    fn new(kind: Kind, billed: bool) -> Fault {
        Fault { kind, billed, late: true }
    }

    /// An error status with OpenAI's error body, not billed.
    pub fn status(code: u16) -> Fault {
        let (kind, word, message) = match code {
            400 => ("invalid_request_error", None, "This request is wrong, says the mock endpoint."),
            401 => ("invalid_request_error", Some("invalid_api_key"), "Incorrect API key provided."),
            404 => {
                ("invalid_request_error", Some("model_not_found"), "The model does not exist, says the mock endpoint.")
            }
            429 => ("requests", Some("rate_limit_exceeded"), "Rate limit reached for requests."),
            _ => ("server_error", None, "The mock endpoint was told to fail."),
        };
        let body = wire::error(message, kind, None, word).to_string();
        Fault::new(Kind::Status { code, headers: Vec::new(), body }, false)
    }

    /// 429 with a Retry-After header (seconds, or a date), not billed.
    pub fn rate_limited(retry_after: &str) -> Fault {
        Fault::status(429).with_header("retry-after", retry_after)
    }

    /// 429 because the account is empty, not billed.
    pub fn quota() -> Fault {
        Fault::status(429).with_error("insufficient_quota", "You exceeded your current quota.")
    }

    /// 400 because the prompt is too long for the context window, not billed.
    pub fn context_too_long() -> Fault {
        let message = "This model's maximum context length is 10 tokens. Your messages have more.";
        Fault::status(400).with_error("context_length_exceeded", message)
    }

    /// Never any answer; billed.
    pub fn hang() -> Fault {
        Fault::new(Kind::Hang, true)
    }

    /// A reset connection; not billed.
    pub fn reset() -> Fault {
        Fault::new(Kind::Reset, false)
    }

    /// A body that ends early; billed.
    pub fn cut() -> Fault {
        Fault::new(Kind::Cut, true)
    }

    /// Broken JSON; billed.
    pub fn malformed() -> Fault {
        Fault::new(Kind::Malformed, true)
    }

    /// An HTML page, as of a proxy; not billed.
    pub fn html() -> Fault {
        Fault::new(Kind::Html, false)
    }

    /// One choice too few; what is there is billed.
    pub fn fewer() -> Fault {
        Fault::new(Kind::Fewer, true)
    }

    /// No choices, but a bill.
    pub fn no_choices() -> Fault {
        Fault::new(Kind::NoChoices, true)
    }

    /// The same, billed or not.
    pub fn billed(mut self, billed: bool) -> Fault {
        self.billed = billed;
        self
    }

    /// The same without waiting for the latency.
    pub fn at_once(mut self) -> Fault {
        self.late = false;
        self
    }

    /// The same status with a header more.
    pub fn with_header(mut self, name: &str, value: &str) -> Fault {
        if let Kind::Status { headers, .. } = &mut self.kind {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The same status with another error code and message in OpenAI's error body.
    pub fn with_error(mut self, word: &str, message: &str) -> Fault {
        if let Kind::Status { body, .. } = &mut self.kind {
            *body = wire::error(message, "invalid_request_error", None, Some(word)).to_string();
        }
        self
    }
}

/// Decides for each request whether something goes wrong with it.
pub type Faults = Arc<dyn Fn(&Call) -> Option<Fault> + Send + Sync>;

/// Nothing goes wrong.
pub fn none() -> Faults {
    Arc::new(|_| None)
}

/// Something goes wrong with the requests of these numbers (from 1).
pub fn at(faults: impl IntoIterator<Item = (u64, Fault)>) -> Faults {
    let faults: Vec<(u64, Fault)> = faults.into_iter().collect();
    Arc::new(move |call| faults.iter().find(|(number, _)| *number == call.number).map(|(_, fault)| fault.clone()))
}

/// The same goes wrong with every request whose number divides by `period`.
pub fn every(period: u64, fault: Fault) -> Faults {
    Arc::new(move |call| call.number.is_multiple_of(period.max(1)).then(|| fault.clone()))
}

/// How long an answer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Latency {
    /// No longer than it must.
    #[default]
    None,
    /// The same for each request.
    Fixed(Duration),
    /// Evenly between the two, by a hash of the seed and the request's number.
    Random {
        /// The shortest.
        low: Duration,
        /// The longest.
        high: Duration,
        /// Another seed, other latencies.
        seed: u64,
    },
}

impl Latency {
    /// The latency of a request.
    pub fn of(self, number: u64) -> Duration {
        match self {
            Latency::None => Duration::ZERO,
            Latency::Fixed(latency) => latency,
            Latency::Random { low, high, seed } => {
                let hash = blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat());
                let share =
                    f64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) / f64::from(u16::MAX);
                low + high.saturating_sub(low).mul_f64(share)
            }
        }
    }
}
