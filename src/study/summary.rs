//! What a study came to, as `summary.json` says it.

use serde::{Deserialize, Serialize};

use crate::money::Usd;
use crate::space::Configuration;
use crate::stats::Estimate;
use crate::study::claims::{Claims, FrontierPoint};
use crate::study::compare::Verdict;
use crate::study::trial::Trial;
use crate::task::Direction;

/// Why a study ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// What was left of the budget bought nothing more that the strategy wanted.
    Budget,
    /// No further look could change the answer.
    Converged,
    /// Everything there is was evaluated.
    Exhausted,
    /// As many configurations as allowed were tried.
    MaxTrials,
    /// The user stopped it.
    Interrupted,
}

impl StopReason {
    /// The word in files.
    pub fn word(self) -> &'static str {
        match self {
            StopReason::Budget => "budget",
            StopReason::Converged => "converged",
            StopReason::Exhausted => "exhausted",
            StopReason::MaxTrials => "max_trials",
            StopReason::Interrupted => "interrupted",
        }
    }
}

/// One configuration and what it came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Its trial's number.
    pub trial: usize,
    /// Its short name, the same in every run.
    pub id: String,
    /// The parameters.
    pub config: Configuration,
    /// The mean of the objective; absent where nothing was judged.
    pub score: Option<f64>,
    /// Its 95 % interval.
    pub ci95: Option<[f64; 2]>,
    /// Instances that were judged.
    pub instances: usize,
    /// Instances that are missing.
    pub missing: usize,
    /// What production would pay an instance, on the average.
    pub production_cost_usd_per_instance: Option<Usd>,
}

impl Scored {
    /// What a trial came to.
    pub fn of(trial: &Trial, estimate: Option<&Estimate>) -> Scored {
        Scored {
            trial: trial.number,
            id: trial.configuration.short_id(),
            config: trial.configuration.clone(),
            score: estimate.map(|estimate| estimate.mean),
            ci95: estimate.and_then(|estimate| estimate.ci95).map(|(low, high)| [low, high]),
            instances: estimate.map_or(0, |estimate| estimate.count),
            missing: trial.missing(),
            production_cost_usd_per_instance: trial.production_cost(),
        }
    }
}

/// The winner against the baseline on the same held-out instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versus {
    /// Winner less baseline.
    pub difference: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// Two-sided.
    pub p_value: f64,
    /// `mcnemar_exact` or `paired_permutation`.
    pub test: String,
    /// Instances that both answered.
    pub pairs: usize,
    /// The baseline's mean on the instances it answered.
    pub baseline_score: f64,
}

impl Versus {
    /// What that says of the winner.
    pub fn verdict(&self, direction: Direction) -> Verdict {
        Verdict::of(self.difference, self.ci95, self.p_value, direction)
    }
}

/// The winner on instances that did not choose it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holdout {
    /// The mean of the objective.
    pub score: Option<f64>,
    /// Its 95 % interval.
    pub ci95: Option<[f64; 2]>,
    /// Instances that were judged.
    pub instances: usize,
    /// Instances that were asked and are missing.
    pub missing: usize,
    /// Instances of the test split that the budget did not reach.
    pub not_reached: usize,
    /// What production would pay an instance.
    pub production_cost_usd_per_instance: Option<Usd>,
    /// Against the baseline, where there is one.
    pub versus_baseline: Option<Versus>,
}

impl Summary {
    /// Keeps the test of the winner that an earlier part of this run came to, where it won again.
    pub fn keep_test(&mut self, before: Summary) {
        let winner = |summary: &Summary| summary.best.as_ref().map(|best| best.config.key());
        if let (None, Some(holdout)) = (&self.holdout, before.holdout.clone())
            && winner(self) == winner(&before)
        {
            self.claims.hold_out(&holdout);
            (self.holdout, self.holdout_cost_usd) = (Some(holdout), before.holdout_cost_usd);
        }
    }

    /// How many configurations the winner was chosen among: what was drawn and never judged is no part of it.
    pub fn chosen_among(&self) -> u64 {
        if self.judged_trials > 0 { self.judged_trials as u64 } else { self.trials as u64 }
    }

    /// What the held-out test within the budget cost the study.
    pub fn test_within(&self) -> Usd {
        self.study_cost_usd.saturating_left(self.search_cost_usd)
    }

    /// What a held-out test after the study cost: it is no part of the study's cost, nor of its budget.
    pub fn later_test(&self) -> Option<Usd> {
        Some(self.holdout_cost_usd).filter(|cost| self.holdout.is_some() && *cost != self.test_within())
    }
}

/// `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The task's name.
    pub task: String,
    /// The objective's metric.
    pub metric: String,
    /// `maximize` or `minimize`.
    pub direction: Direction,
    /// The strategy.
    pub strategy: String,
    /// The seed.
    pub seed: u64,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The optimization budget.
    pub budget_usd: Option<Usd>,
    /// The inference budget.
    pub inference_budget_usd: Option<Usd>,
    /// What endpoints billed, over all parts of the study; lost requests at their worst case.
    pub spent_usd: Usd,
    /// Of that, requests whose answer was lost, at their worst case.
    pub lost_usd: Usd,
    /// What it would have cost with an empty store: what the budget limits.
    pub study_cost_usd: Usd,
    /// The part of it that went into searching.
    pub search_cost_usd: Usd,
    /// The part of it that went into the test split.
    pub holdout_cost_usd: Usd,
    /// Configurations tried.
    pub trials: usize,
    /// Those of them that were judged on an instance at least; 0 in runs of earlier versions.
    #[serde(default)]
    pub judged_trials: usize,
    /// Evaluations that ended, with or without a result.
    pub evaluations: u64,
    /// Requests sent, over all parts of the study.
    pub requests: u64,
    /// Evaluations that the store had in full.
    pub cache_hits: u64,
    /// Evaluations without a result.
    pub failed_evaluations: u64,
    /// Evaluations that did not fit the budget any more.
    pub refused_evaluations: u64,
    /// Tuning instances.
    pub tuning_instances: usize,
    /// The winner.
    pub best: Option<Scored>,
    /// Where further metrics decide: whom the first alone would choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_expected: Option<Scored>,
    /// The user's baseline.
    pub baseline: Option<Scored>,
    /// The winner on the test split.
    pub holdout: Option<Holdout>,
    /// The margin below which further looks do not pay, where the user set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// What may be claimed.
    #[serde(default)]
    pub claims: Claims,
    /// The configurations that no other beats in both expected score and production cost, the cheapest first.
    #[serde(default)]
    pub pareto: Vec<FrontierPoint>,
    /// What the user should know.
    pub notes: Vec<String>,
}
