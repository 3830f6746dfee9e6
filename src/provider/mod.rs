//! Wire formats as pure functions: a [`Request`] becomes an HTTP call, an HTTP reply becomes a [`Response`] or a
//! [`Failure`]. One file a provider; no I/O here, so recorded replies are enough to test them.

pub mod anthropic;
pub mod azure;
pub mod conformance;
pub mod gemini;
pub mod message;
pub mod ollama;
pub mod openai;
mod read;
pub mod refusal;
pub(crate) mod responses;
pub mod tokens;
pub mod wire;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use message::{Message, ROLES};
pub use wire::{Call, Method, Place, Refusal, Wire};

/// What a model is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Input {
    /// A conversation, for chat models.
    #[serde(rename = "messages")]
    Messages(Vec<Message>),
    /// A text to go on from, for completion models.
    #[serde(rename = "prompt")]
    Text(String),
}

/// A request as rendered: what is sent and changes what a model may answer, and how many completions are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The model's name, as the endpoint knows it.
    pub model: String,
    /// The rendered prompt.
    pub input: Input,
    /// Every API parameter that was set, by its name in the OpenAI API, except `model`, `messages`, `prompt` and `n`.
    pub params: BTreeMap<String, Value>,
    /// How many completions, at least 1.
    pub n: u32,
}

/// Why a completion ended. Servers invent their own words, so any text is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FinishReason(pub Cow<'static, str>);

impl FinishReason {
    /// The model stopped by itself or at a stop sequence.
    pub const STOP: FinishReason = FinishReason(Cow::Borrowed("stop"));
    /// max_tokens or the context ended it.
    pub const LENGTH: FinishReason = FinishReason(Cow::Borrowed("length"));
    /// The endpoint's content filter cut it.
    pub const CONTENT_FILTER: FinishReason = FinishReason(Cow::Borrowed("content_filter"));
    /// The model refused; the text is what it said instead.
    pub const REFUSAL: FinishReason = FinishReason(Cow::Borrowed("refusal"));
    /// The source does not say (a cassette).
    pub const UNKNOWN: FinishReason = FinishReason(Cow::Borrowed("unknown"));
}

/// One completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The text; empty where the model said nothing.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// This completion's share of the output tokens that were billed.
    pub completion_tokens: u64,
    /// The tools that the model wants called, as a list in the form of OpenAI's chat API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Value>,
    /// Log-probabilities of the tokens, as the endpoint gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Value>,
}

impl Sample {
    /// A completion that is a text and nothing else.
    pub fn new(text: impl Into<String>, finish_reason: FinishReason, completion_tokens: u64) -> Sample {
        Sample { text: text.into(), finish_reason, completion_tokens, tool_calls: None, logprobs: None }
    }
}

/// What an endpoint answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The completions, in the endpoint's order.
    pub samples: Vec<Sample>,
    /// Input tokens billed (once for all completions).
    pub prompt_tokens: u64,
    /// Those of them that were billed at the cached-input price.
    #[serde(default)]
    pub cached_tokens: u64,
    /// Those of them that were written to the endpoint's prompt cache, which some bill above other input.
    #[serde(default)]
    pub cache_write_tokens: u64,
    /// Output tokens, of all completions together, that the model thought with: part of what was billed as output.
    #[serde(default)]
    pub reasoning_tokens: u64,
    /// The model that the reply names, where it differs from the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The endpoint that answered, by the user's name for it, where several could have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How many completions were asked for, where fewer came: then the rest costs the prompt again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u32>,
    /// True where a share of the tokens, or all of them, was estimated rather than billed by the sample.
    #[serde(default)]
    pub estimated: bool,
    /// True where the reply does not say how many output tokens are billed, so that they are bounded by bytes. Not kept.
    #[serde(skip)]
    pub output_unsaid: bool,
}

impl Response {
    /// Output tokens of all completions.
    pub fn completion_tokens(&self) -> u64 {
        self.samples.iter().map(|sample| sample.completion_tokens).sum()
    }

    /// A completion has at most so many tokens. Where the endpoint did not say how many it billed, bytes bound them more
    /// loosely than that: what is booked would pass what was held for the request.
    pub fn limit_unsaid(&mut self, most: u64) {
        if self.output_unsaid {
            for sample in &mut self.samples {
                sample.completion_tokens = sample.completion_tokens.min(most);
            }
            self.reasoning_tokens = self.reasoning_tokens.min(self.completion_tokens());
        }
    }

    /// Puts the bound in place of a count that cannot be, and marks the response as estimated: far above the bound on the
    /// input, or above what so many (`drawn`) completions of at most `limit` tokens may be. What was counted, in words.
    pub fn bound_absurd(&mut self, input: u64, limit: Option<u64>, drawn: u64) -> Option<String> {
        let mut absurd = None;
        if self.prompt_tokens > input.saturating_mul(BEYOND_ALLOWED).saturating_add(ADDED_INPUT) {
            absurd = Some(format!("{} input tokens for a prompt of at most {input}", self.prompt_tokens));
            (self.prompt_tokens, self.cached_tokens, self.cache_write_tokens) = (input, 0, 0);
        }
        let written =
            |sample: &Sample| sample.text.len() + sample.tool_calls.as_ref().map_or(0, |calls| calls.to_string().len());
        if let Some(limit) = limit {
            let drawn = drawn.max(self.samples.len() as u64);
            let output = self.completion_tokens();
            let text: usize = self.samples.iter().map(written).sum();
            let most = limit.max(LEAST_ALLOWED).saturating_mul(drawn).saturating_mul(BEYOND_ALLOWED).max(text as u64);
            let thoughts = self.reasoning_tokens.min(MOST_THOUGHTS.saturating_mul(drawn));
            if output.saturating_sub(thoughts) > most {
                let bound = limit.saturating_mul(drawn);
                let input = absurd.map_or(String::new(), |input| format!("{input}, and "));
                absurd = Some(format!("{input}{output} output tokens where at most {bound} were asked for"));
                let came = self.samples.len() as u64;
                let (share, rest) = (bound / came.max(1), bound % came.max(1));
                for (at, sample) in self.samples.iter_mut().enumerate() {
                    sample.completion_tokens = share + u64::from((at as u64) < rest);
                }
                self.reasoning_tokens = 0;
            }
        }
        self.estimated |= absurd.is_some();
        absurd
    }
}

/// How often a count may pass what a request allows before it is taken for a mistake: servers add prompts of their own, and
/// some do not count what a model thinks.
const BEYOND_ALLOWED: u64 = 10;
/// Input tokens that a server may add whatever it is asked: a system prompt, tools.
const ADDED_INPUT: u64 = 1 << 15;
/// The least that a completion may be billed, whatever it was allowed: some servers think outside of the limit, unsaid.
const LEAST_ALLOWED: u64 = 1 << 10;
/// Thoughts that are counted as such may pass the limit of a completion by so much: some servers limit the answer alone.
const MOST_THOUGHTS: u64 = 1 << 17;

/// Why there is no answer, as a class that is kept, counted and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The prompt does not fit the model's context window, or what the endpoint takes at once (HTTP 413).
    ContextTooLong,
    /// A content filter refused the prompt or every completion.
    ContentFilter,
    /// The model refused.
    Refused,
    /// The request as such is wrong (HTTP 400, 422), or the provider cannot express it: it would fail for every instance.
    BadRequest,
    /// The key was not accepted (HTTP 401, 403).
    Authentication,
    /// The endpoint does not know the model (HTTP 404).
    UnknownModel,
    /// The account has no money left.
    QuotaExceeded,
    /// Too many requests (HTTP 429).
    RateLimit,
    /// The endpoint failed (HTTP 5xx, 408, 409).
    Server,
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// An answer that cannot be read.
    MalformedReply,
    /// A cassette does not hold this request, or not enough samples of it.
    NotRecorded,
    /// The answer was there but the metric failed on it.
    Metric,
    /// The prompt could not be rendered for this instance.
    Render,
    /// It did not fit the budget any more.
    Budget,
    /// The run was stopped before it was sent.
    Interrupted,
}

impl FailureKind {
    /// True where the configuration itself is the reason, so that missing instances count against it.
    pub fn own(self) -> bool {
        use FailureKind::{BadRequest, ContentFilter, ContextTooLong, Refused};
        matches!(self, ContextTooLong | ContentFilter | Refused | BadRequest)
    }

    /// True where trying again, later, may help.
    pub fn transient(self) -> bool {
        use FailureKind::{Connection, MalformedReply, RateLimit, Server, Timeout};
        matches!(self, RateLimit | Server | Connection | Timeout | MalformedReply)
    }

    /// True where no other request to this endpoint can succeed either.
    pub fn fatal(self) -> bool {
        use FailureKind::{Authentication, QuotaExceeded, UnknownModel};
        matches!(self, Authentication | UnknownModel | QuotaExceeded)
    }

    /// The word used in files, like `context_too_long`.
    pub fn word(self) -> &'static str {
        match self {
            FailureKind::ContextTooLong => "context_too_long",
            FailureKind::ContentFilter => "content_filter",
            FailureKind::Refused => "refused",
            FailureKind::BadRequest => "bad_request",
            FailureKind::Authentication => "authentication",
            FailureKind::UnknownModel => "unknown_model",
            FailureKind::QuotaExceeded => "quota_exceeded",
            FailureKind::RateLimit => "rate_limit",
            FailureKind::Server => "server",
            FailureKind::Connection => "connection",
            FailureKind::Timeout => "timeout",
            FailureKind::MalformedReply => "malformed_reply",
            FailureKind::NotRecorded => "not_recorded",
            FailureKind::Metric => "metric",
            FailureKind::Render => "render",
            FailureKind::Budget => "budget",
            FailureKind::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.word().replace('_', " "))
    }
}

/// Why an evaluation or a request came to nothing: its class, and the particular words. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The class.
    pub kind: FailureKind,
    /// What exactly, in words.
    pub message: String,
}

impl Failure {
    /// A failure of a class with its message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    /// Nobody was reached at all: what a connection that broke on the way is not.
    pub fn unreached(&self) -> bool {
        self.kind == FailureKind::Connection && !self.message.contains(BROKE)
    }
}

/// The words for a connection that broke after the request was on its way.
pub(crate) const BROKE: &str = "the connection broke";

#[cfg(test)]
mod tests;
