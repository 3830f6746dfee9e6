//! The mock endpoint's own book: what was asked, what was answered, what is billed. It shares no code with farthing's
//! budget, so that each can be held against the other.

use std::collections::{BTreeMap, HashMap};

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
    /// What batches pay.
    pub fn half(self) -> Price {
        let half = |price: Usd| price.share(0.5);
        let (input, cached_input, output) = (half(self.input), half(self.cached_input), half(self.output));
        Price { input, cached_input, output, ..self }
    }

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
    /// Those of them that were cached.
    pub cached_tokens: u64,
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
    /// Requests that were refused, for being wrong, without a key, or above a limit; faults do not count.
    pub refused: u64,
    /// Those of them that were above a limit.
    pub limited: u64,
    /// Requests that something went wrong with on demand.
    pub faults: u64,
    /// What was billed although the client got no usable answer, or went away before it came; part of the rest.
    pub unanswered: Bills,
    /// Lines of batches that were worked on.
    pub batch_lines: u64,
    /// What lines of batches were billed, at half the price; part of the rest.
    pub batches: Bills,
    /// The bills by model.
    pub by_model: BTreeMap<String, ModelLedger>,
    /// The bills by key; a long key shows its last four characters and its hash. Without a key the name is empty.
    pub by_key: BTreeMap<String, ModelLedger>,
}

/// Bills, and what they come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bills {
    /// How many.
    pub bills: u64,
    /// Dollars.
    #[serde(rename = "billed_usd")]
    pub billed: Usd,
}

impl Bills {
    fn add(&mut self, amount: Usd) {
        self.bills += 1;
        self.billed += amount;
    }
}

impl ModelLedger {
    fn add(&mut self, tokens: Tokens, amount: Usd) {
        self.bills += 1;
        self.prompt_tokens = self.prompt_tokens.saturating_add(tokens.prompt);
        self.cached_tokens = self.cached_tokens.saturating_add(tokens.cached);
        self.completion_tokens = self.completion_tokens.saturating_add(tokens.completion);
        self.billed += amount;
    }
}

/// The line of a name; beyond a thousand names they share one.
fn line<'a>(lines: &'a mut BTreeMap<String, ModelLedger>, name: &str) -> &'a mut ModelLedger {
    let name = if lines.len() < 1000 || lines.contains_key(name) { name } else { "(others)" };
    lines.entry(name.to_owned()).or_default()
}

/// A key as it may be shown: a short one as it is, of a long one the last four characters and a hash.
pub(super) fn label(key: &str) -> String {
    let count = key.chars().count();
    if count <= 8 {
        return key.to_owned();
    }
    let last: String = key.chars().skip(count - 4).collect();
    format!("...{last}#{}", &blake3::hash(key.as_bytes()).to_hex()[..6])
}

/// What was seen lately, in bounded memory: at least the last [`KEPT`] things, at most twice as many.
#[derive(Debug)]
struct Recent<T> {
    young: HashMap<u128, T>,
    old: HashMap<u128, T>,
}

/// How many different requests are remembered at least.
const KEPT: usize = 1 << 18;

impl<T> Default for Recent<T> {
    fn default() -> Recent<T> {
        Recent { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<T: Default> Recent<T> {
    fn of(&mut self, hash: [u8; 32]) -> &mut T {
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        let key = u128::from_le_bytes(half);
        if self.young.len() >= KEPT && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young.entry(key).or_insert_with(|| old.remove(&key).unwrap_or_default())
    }
}

/// The ledger and what is needed to keep it.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) ledger: Ledger,
    /// Requests open now; a reset leaves them.
    open: u64,
    identical: Recent<u64>,
    /// Samples given, by fingerprint.
    given: Recent<usize>,
    /// Whether a prompt was billed.
    prompts: Recent<bool>,
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
        let count = self.identical.of(body);
        *count += 1;
        self.ledger.identical_max = self.ledger.identical_max.max(*count);
    }

    /// How many samples of a fingerprint were given.
    pub(super) fn given(&mut self, fingerprint: [u8; 32]) -> &mut usize {
        self.given.of(fingerprint)
    }

    /// True where this prompt was billed before, so that it is cached.
    pub(super) fn cached(&mut self, prompt: [u8; 32]) -> bool {
        std::mem::replace(self.prompts.of(prompt), true)
    }

    /// Bills tokens of a model to a key; a batch's at half the price. Returns what they come to.
    pub(super) fn bill(&mut self, model: &str, key: &str, price: &Price, tokens: Tokens, batch: bool) -> Usd {
        let amount = if batch { price.half().bill(tokens) } else { price.bill(tokens) };
        self.ledger.billed += amount;
        line(&mut self.ledger.by_model, model).add(tokens, amount);
        line(&mut self.ledger.by_key, key).add(tokens, amount);
        if batch {
            self.ledger.batches.add(amount);
        }
        amount
    }

    /// What was billed reached nobody.
    pub(super) fn lost(&mut self, amount: Usd) {
        self.ledger.unanswered.add(amount);
    }

    /// Forgets everything but the requests that are open.
    pub(super) fn reset(&mut self) {
        *self = Book { open: self.open, ..Book::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_are_not_shown() {
        assert_eq!(label("key-a"), "key-a");
        let shown = label("sk-very-secret-1234");
        assert!(shown.starts_with("...1234#") && !shown.contains("secret"));
        assert_ne!(shown, label("sk-very-public-1234"));
        assert_eq!(label("ключ-за-замком").chars().take(7).collect::<String>(), "...мком");
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut recent = Recent::<u64>::default();
        let hash = |number: usize| *blake3::hash(&number.to_le_bytes()).as_bytes();
        for number in 0..3 * KEPT {
            *recent.of(hash(number)) += 1;
            if number % 1000 == 0 {
                *recent.of(hash(0)) += 1;
            }
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * KEPT);
        assert!(*recent.of(hash(0)) > 700 && *recent.of(hash(3 * KEPT - 1)) == 1);
    }
}
