//! What was used: really, and as if nothing had been stored.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Completion;
use crate::money::Usd;

/// The sums of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelUsage {
    /// Completed calls.
    pub calls: u64,
    /// Those of them that the store answered alone.
    pub cache_hits: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Requests sent, those that failed too.
    pub requests: u64,
    /// Input tokens as if nothing had been stored.
    pub prompt_tokens: u64,
    /// Output tokens as if nothing had been stored.
    pub completion_tokens: u64,
    /// Dollars paid.
    pub actual: Usd,
    /// Dollars as if nothing had been stored.
    pub uncached: Usd,
}

/// What a client used, by model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsageSummary {
    /// The sums by model.
    pub models: BTreeMap<String, ModelUsage>,
}

impl UsageSummary {
    pub(super) fn add(&mut self, done: &Completion) {
        let sums = self.models.entry(done.model.clone()).or_default();
        sums.calls += 1;
        sums.cache_hits += u64::from(done.cached);
        sums.requests += done.requests;
        sums.prompt_tokens = sums.prompt_tokens.saturating_add(done.prompt_tokens);
        sums.completion_tokens = sums.completion_tokens.saturating_add(done.completion_tokens);
        sums.actual += done.cost;
        sums.uncached += done.full_cost;
    }

    pub(super) fn add_failure(&mut self, model: &str, paid: Usd, requests: u64) {
        let sums = self.models.entry(model.to_owned()).or_default();
        sums.failed += 1;
        sums.requests += requests;
        sums.actual += paid;
        sums.uncached += paid;
    }

    /// Dollars paid, over all models.
    pub fn actual(&self) -> Usd {
        self.models.values().map(|sums| sums.actual).sum()
    }

    /// Dollars as if nothing had been stored, over all models.
    pub fn uncached(&self) -> Usd {
        self.models.values().map(|sums| sums.uncached).sum()
    }
}

impl fmt::Display for UsageSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "${} paid; ${} without the store", self.actual(), self.uncached())?;
        for (model, sums) in &self.models {
            writeln!(
                f,
                "  {model}: {} calls ({} from the store, {} failed), {} + {} tokens, ${} paid of ${}",
                sums.calls,
                sums.cache_hits,
                sums.failed,
                sums.prompt_tokens,
                sums.completion_tokens,
                sums.actual,
                sums.uncached
            )?;
        }
        Ok(())
    }
}
