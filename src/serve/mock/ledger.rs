//! The mock endpoint's own book: what was asked, what was answered, what is billed. It shares no code with farthing's
//! budget, so that each can be held against the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::money::{ParseUsdError, Usd, per_million};
use crate::provider::Response;

/// What a model's tokens cost at the mock endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// One input token.
    pub input: Usd,
    /// One input token that was cached.
    pub cached_input: Usd,
    /// One output token.
    pub output: Usd,
    /// The most output tokens of one completion: what [`Usage::Worst`] bills without `max_tokens`.
    pub max_output_tokens: u64,
}

impl Price {
    /// Nothing costs anything.
    pub const FREE: Price =
        Price { input: Usd::ZERO, cached_input: Usd::ZERO, output: Usd::ZERO, max_output_tokens: 4096 };

    /// Prices in dollars per million tokens, as decimals; cached input at half the price, 4096 output tokens at most.
    pub fn per_million(input: &str, output: &str) -> Result<Price, ParseUsdError> {
        let (input, output) = (per_million(input)?, per_million(output)?);
        Ok(Price { input, cached_input: input.share(0.5), output, max_output_tokens: 4096 })
    }
}

/// What the endpoint says about tokens, and bills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    /// The tokens there were.
    #[default]
    Truthful,
    /// All output tokens that the request allowed: `max_tokens` for each of n completions.
    Worst,
    /// That many times what the request allowed: a faulty endpoint.
    Above(u64),
    /// One input and one output token.
    FarBelow,
    /// Bills the tokens there were, but does not say so: a reply without `usage`.
    None,
}

/// Tokens of one request, as billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Input, cached included.
    pub prompt: u64,
    /// Input that was cached.
    pub cached: u64,
    /// Output.
    pub completion: u64,
}

impl Usage {
    /// The tokens that are billed for an answer. `allowed` is `max_tokens` times n.
    pub fn tokens(self, answer: &Response, cached: bool, allowed: u64) -> Tokens {
        let prompt = answer.prompt_tokens;
        let cached = if cached { prompt } else { answer.cached_tokens };
        match self {
            Usage::Truthful | Usage::None => Tokens { prompt, cached, completion: answer.completion_tokens() },
            Usage::Worst => Tokens { prompt, cached, completion: allowed },
            Usage::Above(times) => Tokens { prompt, cached, completion: allowed.saturating_mul(times) },
            Usage::FarBelow => Tokens { prompt: 1, cached: 0, completion: 1 },
        }
    }
}

impl Price {
    /// What tokens cost.
    pub fn bill(&self, tokens: Tokens) -> Usd {
        self.input.times(tokens.prompt - tokens.cached.min(tokens.prompt))
            + self.cached_input.times(tokens.cached.min(tokens.prompt))
            + self.output.times(tokens.completion)
    }
}

/// What one model was asked and billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelLedger {
    /// Bills.
    pub bills: u64,
    /// Input tokens billed.
    pub prompt_tokens: u64,
    /// Output tokens billed.
    pub completion_tokens: u64,
    /// Dollars billed.
    #[serde(rename = "billed_usd")]
    pub billed: Usd,
}

/// What the endpoint saw and billed since its start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Requests for completions that arrived, whatever became of them.
    pub requests: u64,
    /// Those that were given a good answer, all choices of it.
    pub answered: u64,
    /// Dollars billed, for answers and for faults that bill.
    #[serde(rename = "billed_usd")]
    pub billed: Usd,
    /// The most requests that were open at a time.
    pub max_concurrent: u64,
    /// How often the most frequent body arrived: 1 means that nothing was asked twice.
    pub identical_max: u64,
    /// The bills by model.
    pub by_model: BTreeMap<String, ModelLedger>,
}

/// The ledger and what is needed to keep it.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) ledger: Ledger,
    /// Requests open now; a reset leaves them.
    open: u64,
    identical: BTreeMap<[u8; 32], u64>,
    /// Samples given, by fingerprint.
    given: BTreeMap<[u8; 32], usize>,
    prompts: BTreeSet<[u8; 32]>,
}

/// The hash of a JSON text.
pub(super) fn hash(value: &serde_json::Value) -> [u8; 32] {
    *blake3::hash(value.to_string().as_bytes()).as_bytes()
}

impl Book {
    /// A request arrived.
    pub(super) fn enter(&mut self) -> u64 {
        self.ledger.requests += 1;
        self.open += 1;
        self.ledger.max_concurrent = self.ledger.max_concurrent.max(self.open);
        self.ledger.requests
    }

    /// A request ended, one way or another.
    pub(super) fn leave(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Counts a body.
    pub(super) fn seen(&mut self, body: [u8; 32]) {
        let count = self.identical.entry(body).or_default();
        *count += 1;
        self.ledger.identical_max = self.ledger.identical_max.max(*count);
    }

    /// How many samples of a fingerprint were given.
    pub(super) fn given(&mut self, fingerprint: [u8; 32]) -> &mut usize {
        self.given.entry(fingerprint).or_default()
    }

    /// True where this prompt was billed before, so that it is cached.
    pub(super) fn cached(&mut self, prompt: [u8; 32]) -> bool {
        !self.prompts.insert(prompt)
    }

    /// Bills tokens of a model.
    pub(super) fn bill(&mut self, model: &str, price: &Price, tokens: Tokens) {
        let amount = price.bill(tokens);
        self.ledger.billed += amount;
        let line = self.ledger.by_model.entry(model.to_owned()).or_default();
        line.bills += 1;
        line.prompt_tokens += tokens.prompt;
        line.completion_tokens += tokens.completion;
        line.billed += amount;
    }

    /// Forgets everything but the requests that are open.
    pub(super) fn reset(&mut self) {
        *self = Book { open: self.open, ..Book::default() };
    }
}
