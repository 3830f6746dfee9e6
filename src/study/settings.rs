//! How a study is run: what decides, and what changes no decision.

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Error, Result, suggestion};
use crate::money::Usd;
use crate::search;
use crate::space::Configuration;
use crate::store::Cache;
use crate::study::control::BudgetChange;

/// The settings of a study, as `study.toml` keeps them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The strategy.
    pub strategy: String,
    /// The seed.
    pub seed: u64,
    /// The optimization budget.
    #[serde(rename = "budget_usd", default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Usd>,
    /// The inference budget.
    #[serde(rename = "inference_budget_usd", default, skip_serializing_if = "Option::is_none")]
    pub inference_budget: Option<Usd>,
    /// How many configurations may be tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_trials: Option<usize>,
    /// The share of the budget for the test split.
    pub test_share: f64,
    /// What the store gives is free (`--reuse-savings`).
    pub reuse_savings: bool,
    /// Where responses and the ledger are kept.
    pub store: String,
    /// What is done with samples that the store has already (`--no-cache`, `--refresh`).
    #[serde(default, skip_serializing_if = "Cache::is_use")]
    pub cache: Cache,
    /// Requests are bought in rounds through the providers' batch APIs (`--batch`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub batch: bool,
    /// How long a round may take before the rest of it is asked for in the ordinary way. Changes no decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_wait_seconds: Option<u64>,
    /// How often the provider is asked how batches are, else ever less often. Changes no decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_poll_seconds: Option<f64>,
    /// Requests in flight at once. Changes no decision.
    pub concurrency: usize,
    /// The search ends when going on is expected to gain less than this, in units of the objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// A configuration file for each point of the frontier of score against production cost. Changes no decision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pareto: bool,
    /// How the user changed the budget while it ran; decisions follow these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budget_changes: Vec<BudgetChange>,
    /// Configurations to try first, after the baseline: the user's, then those of earlier runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<Configuration>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            strategy: search::DEFAULT.to_owned(),
            seed: 1,
            budget: None,
            inference_budget: None,
            max_trials: None,
            test_share: 0.0,
            reuse_savings: false,
            store: ".farthing/store.db".to_owned(),
            cache: Cache::Use,
            batch: false,
            batch_wait_seconds: None,
            batch_poll_seconds: None,
            concurrency: 32,
            margin: None,
            pareto: false,
            budget_changes: Vec::new(),
            first: Vec::new(),
        }
    }
}

impl Settings {
    /// The budget as it was changed last.
    pub fn budget_now(&self) -> Option<Usd> {
        self.budget_changes.last().map(|change| change.budget).or(self.budget)
    }

    /// Of a budget in all, what the search's own cost and the money spent while searching may come to: the test's share is
    /// kept back from both, since what is lost is spent, too. What a resumed study spent on its test before counts as spent;
    /// to search the same again it needs no money.
    pub fn limits(&self, budget: Usd) -> (Usd, Usd) {
        let search = budget - budget.share(self.test_share);
        (search, search)
    }

    /// What is wrong with them.
    pub fn check(&self) -> Result<()> {
        let names: Vec<&str> = search::STRATEGIES.iter().map(|strategy| strategy.name).collect();
        if search::strategy(&self.strategy).is_none() {
            return Err(Error::usage(format!("there is no strategy `{}`", self.strategy))
                .help(suggestion(&self.strategy, names.iter().copied())));
        }
        for (budget, what) in [(self.budget, "budget"), (self.inference_budget, "inference budget")] {
            if budget.is_some_and(|budget| budget <= Usd::ZERO) {
                return Err(Error::usage(format!("the {what} must be above 0")));
            }
        }
        if !(0.0..1.0).contains(&self.test_share) {
            return Err(Error::usage(format!(
                "the test share is {}, and must be at least 0 and below 1",
                self.test_share
            )));
        }
        if self.test_share > 0.0 && self.budget.is_none() {
            return Err(Error::usage("a test share is a share of the budget, and there is none"));
        }
        if self.margin.is_some_and(|margin| !(margin > 0.0 && margin.is_finite())) {
            return Err(Error::usage("the margin must be a number above 0, in units of the objective"));
        }
        if self.max_trials == Some(0) {
            return Err(Error::usage("at least one configuration must be tried"));
        }
        if self.batch && !self.cache.is_use() {
            return Err(Error::usage("--batch goes with neither --no-cache nor --refresh")
                .help("batches that are out are known by what they ask, and every run finds what they bring"));
        }
        if self.batch && crate::store::Place::of(&self.store).is_memory() {
            return Err(Error::usage("a store in memory keeps no batches, and they take hours").help("name a file"));
        }
        if self.concurrency == 0 {
            return Err(Error::usage("the concurrency must be at least 1"));
        }
        Ok(())
    }
}

/// The seed of one purpose: streams of different purposes have nothing to do with each other.
pub fn stream(seed: u64, purpose: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(purpose.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    // Seeds are kept in TOML, whose integers are signed.
    u64::from_le_bytes(first) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_test_is_kept_back_from_both_sums() {
        let usd = |text: &str| text.parse::<Usd>().unwrap();
        for reuse_savings in [false, true] {
            let settings = Settings { test_share: 0.3, reuse_savings, ..Settings::default() };
            assert_eq!(settings.limits(usd("10")), (usd("7"), usd("7")));
        }
        assert_eq!(Settings::default().limits(usd("10")), (usd("10"), usd("10")));
    }
}
