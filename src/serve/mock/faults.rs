//! What the mock endpoint does wrong on demand, and whether it bills for it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::openai;

/// One request for completions, as those see it who decide what becomes of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number in the order of arrival, from 1, since the start or the last reset.
    pub number: u64,
    /// The index of the first sample that it will get: how many equal requests (n apart) were given before.
    pub first: usize,
    /// The body, as JSON.
    pub body: Value,
    /// The model that is asked.
    pub model: String,
    /// The key it came with, shortened as in the [`Ledger`](super::Ledger); empty without one.
    pub key: String,
    /// True for a line of a batch: `number` then counts lines of batches.
    pub batch: bool,
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
    /// 429 with a Retry-After header that is a date, so many seconds from now.
    RetryDate {
        /// How far the date is from now.
        seconds: u64,
    },
    /// Never any answer.
    Hang,
    /// The connection is reset after the request was read.
    Reset,
    /// The connection is closed in an orderly way, but without an answer.
    Close,
    /// The connection ends in the middle of the body of a good answer.
    Cut,
    /// The connection is reset in the middle of the body of a good answer.
    ResetBody,
    /// Status 200 with JSON that breaks off.
    Malformed,
    /// Status 200 with something that is no JSON although it has the right length.
    Garbled,
    /// Status 200 with an HTML page.
    Html,
    /// A good answer with one choice less than asked for.
    Fewer,
    /// An answer without choices.
    NoChoices,
    /// A good answer that does not say what is billed.
    NoUsage,
    /// A good answer with numbers of tokens that cannot be.
    BadUsage(Lie),
    /// A good answer from a model of another name.
    OtherModel(String),
    /// A good answer whose body takes this long.
    Slow(Duration),
    /// An answer that the content filter cut short.
    ContentFilter,
    /// The content filter does not let the prompt in.
    PromptFiltered,
    /// The model refuses to answer.
    Refusal,
}

/// How numbers of tokens are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Below zero.
    Negative,
    /// Larger than any integer.
    Huge,
    /// Texts.
    Text,
}

impl Kind {
    /// True where the client gets something that it can use.
    pub(super) fn reaches(&self) -> bool {
        let whole = matches!(self, Kind::NoUsage | Kind::BadUsage(_) | Kind::OtherModel(_) | Kind::Slow(_));
        whole || matches!(self, Kind::Fewer | Kind::ContentFilter | Kind::Refusal)
    }

    /// True where all that was asked for is answered.
    pub(super) fn answers(&self) -> bool {
        self.reaches() && !matches!(self, Kind::Fewer | Kind::ContentFilter | Kind::Refusal)
    }
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

    /// An error status with OpenAI's error body, not billed. Other formats say it in their own words.
    pub fn status(code: u16) -> Fault {
        let (kind, word, message) = match code {
            400 => ("invalid_request_error", None, "This request is wrong, says the mock endpoint."),
            401 => ("invalid_request_error", Some("invalid_api_key"), "Incorrect API key provided."),
            403 => ("invalid_request_error", Some("permission_denied"), "This key may not use the model."),
            404 => {
                ("invalid_request_error", Some("model_not_found"), "The model does not exist, says the mock endpoint.")
            }
            408 => ("server_error", Some("request_timeout"), "The request took too long."),
            409 => ("invalid_request_error", Some("conflict"), "The resource is being changed by another request."),
            413 => ("invalid_request_error", Some("request_too_large"), "The request is too large."),
            422 => ("invalid_request_error", None, "The request cannot be processed."),
            429 => ("requests", Some("rate_limit_exceeded"), "Rate limit reached for requests."),
            529 => ("server_error", Some("overloaded"), "Overloaded"),
            _ => ("server_error", None, "The mock endpoint was told to fail."),
        };
        let body = openai::error(message, kind, None, word).to_string();
        Fault::new(Kind::Status { code, headers: Vec::new(), body }, false)
    }

    /// 429 with a Retry-After header (seconds, or a date), not billed.
    pub fn rate_limited(retry_after: &str) -> Fault {
        Fault::status(429).with_header("retry-after", retry_after)
    }

    /// 429 with a Retry-After header that is a date so many seconds from now, not billed.
    pub fn rate_limited_until(seconds: u64) -> Fault {
        Fault::new(Kind::RetryDate { seconds }, false)
    }

    /// 429 that says only in OpenAI's x-ratelimit headers when it may be tried again, not billed.
    pub fn rate_limited_by_headers(seconds: u64) -> Fault {
        Fault::status(429)
            .with_header("x-ratelimit-limit-requests", "60")
            .with_header("x-ratelimit-remaining-requests", "0")
            .with_header("x-ratelimit-reset-requests", &super::limits::span(seconds.saturating_mul(1000)))
            .with_header("x-ratelimit-limit-tokens", "60000")
            .with_header("x-ratelimit-remaining-tokens", "59000")
            .with_header("x-ratelimit-reset-tokens", "1s")
    }

    /// 307 to another address, not billed. Who follows it must not bring the key along.
    pub fn redirect(location: &str) -> Fault {
        let kind = Kind::Status { code: 307, headers: Vec::new(), body: String::new() };
        Fault::new(kind, false).with_header("location", location)
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

    /// A connection that is closed without an answer; not billed.
    pub fn close() -> Fault {
        Fault::new(Kind::Close, false)
    }

    /// A connection that is reset in the middle of the body; billed.
    pub fn reset_body() -> Fault {
        Fault::new(Kind::ResetBody, true)
    }

    /// A body that ends early; billed.
    pub fn cut() -> Fault {
        Fault::new(Kind::Cut, true)
    }

    /// Broken JSON; billed.
    pub fn malformed() -> Fault {
        Fault::new(Kind::Malformed, true)
    }

    /// A body of the right length that is no JSON; billed.
    pub fn garbled() -> Fault {
        Fault::new(Kind::Garbled, true)
    }

    /// A good answer, billed, without a word on usage.
    pub fn no_usage() -> Fault {
        Fault::new(Kind::NoUsage, true)
    }

    /// A good answer, billed truthfully, with impossible numbers of tokens.
    pub fn bad_usage(lie: Lie) -> Fault {
        Fault::new(Kind::BadUsage(lie), true)
    }

    /// A good answer, billed, that names another model.
    pub fn other_model(name: &str) -> Fault {
        Fault::new(Kind::OtherModel(name.to_owned()), true)
    }

    /// A good answer, billed, whose body takes that long.
    pub fn slow(duration: Duration) -> Fault {
        Fault::new(Kind::Slow(duration), true)
    }

    /// An answer cut short by the content filter; billed.
    pub fn content_filter() -> Fault {
        Fault::new(Kind::ContentFilter, true)
    }

    /// A prompt that the content filter does not let in: status 400 at OpenAI, Azure and Anthropic, a reply without
    /// candidates at Gemini; not billed.
    pub fn prompt_filtered() -> Fault {
        Fault::new(Kind::PromptFiltered, false)
    }

    /// A model that refuses; billed.
    pub fn refusal() -> Fault {
        Fault::new(Kind::Refusal, true)
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
            *body = openai::error(message, "invalid_request_error", None, Some(word)).to_string();
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
