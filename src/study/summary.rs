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

/// The winner on the test split, or on other instances than those that chose it.
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
    /// Those of the judged instances that are among the tuning instances, on which the winner may have been chosen.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tuned: usize,
    /// The hash of the instances that were to be tested on, in whatever order; empty in runs of earlier versions.
    #[serde(default)]
    pub data_hash: String,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Holdout {
    /// Rows that are in a data set twice fall into both splits now and then. Up to this share of them a test is still one
    /// on held-out instances.
    pub const TUNED: f64 = 0.05;

    /// True where the instances did not choose the winner, but for a few.
    pub fn held_out(&self) -> bool {
        self.tuned as f64 <= Holdout::TUNED * self.instances as f64
    }

    /// What is to be noted of a test on tuning instances.
    pub fn note(&self) -> Option<String> {
        let of = match self.tuned {
            0 => return None,
            1 => "1 of".to_owned(),
            all if all == self.instances => "All of".to_owned(),
            some => format!("{some} of"),
        };
        let so = match self.held_out() {
            true => "they are few, but flatter the winner where they chose it",
            false => {
                "the winner may have been chosen on them and looks better there than it is, so this is no held-out score"
            }
        };
        Some(format!(
            "{of} the {} instances that the test judged are among the tuning instances: {so}.",
            self.instances
        ))
    }

    /// Why a later test of the same winner should not take the place of this one, where it should not.
    pub fn outlasts(&self, later: &Holdout) -> Option<&'static str> {
        let same = self.data_hash == later.data_hash || self.data_hash.is_empty();
        match () {
            () if self.score.is_none() => None,
            () if later.score.is_none() => Some("this one judged nothing"),
            () if self.held_out() && !later.held_out() => Some("this one is on instances that it was tuned on"),
            () if same && later.instances < self.instances => Some("this one judged fewer of the same instances"),
            () => None,
        }
    }
}

impl Summary {
    /// Keeps the test of the winner that an earlier part of this run came to, where it won again.
    pub fn keep_test(&mut self, before: Summary) {
        let winner = |summary: &Summary| summary.best.as_ref().map(|best| best.config.key());
        if let (None, Some(holdout)) = (&self.holdout, before.holdout.clone())
            && winner(self) == winner(&before)
        {
            self.take_test(holdout, before.holdout_cost_usd);
        }
    }

    /// Takes a test of the winner, and what it cost, for the run's. It corrects the winner's score where it is on held-out
    /// instances; where it is not, a note says so.
    pub fn take_test(&mut self, holdout: Holdout, cost: Usd) {
        let before = self.holdout.as_ref().and_then(Holdout::note);
        self.notes.retain(|note| Some(note) != before.as_ref());
        self.notes.extend(holdout.note());
        if holdout.held_out() {
            self.claims.hold_out(&holdout);
        }
        (self.holdout, self.holdout_cost_usd) = (Some(holdout), cost);
    }

    /// The winner on instances that did not choose it, where it was tested on such.
    pub fn held_out(&self) -> Option<&Holdout> {
        self.holdout.as_ref().filter(|holdout| holdout.held_out())
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
    /// Evaluations that ended, with or without a result: of the search, and of the held-out test that the study paid for.
    pub evaluations: u64,
    /// Requests sent, over all parts of the study.
    pub requests: u64,
    /// Of the evaluations, those that the store had in full.
    pub cache_hits: u64,
    /// Of the evaluations, those without a result.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;

    fn holdout(score: Option<f64>, instances: usize, tuned: usize, data: &str) -> Holdout {
        Holdout {
            score,
            ci95: None,
            instances,
            missing: 0,
            not_reached: 0,
            production_cost_usd_per_instance: None,
            versus_baseline: None,
            tuned,
            data_hash: data.to_owned(),
        }
    }

    #[test]
    fn a_test_that_says_less_does_not_take_the_place_of_one_that_says_more() {
        let known = holdout(Some(1.0), 12, 0, "a");
        let why = |later: Holdout| known.outlasts(&later);
        assert_eq!(why(holdout(None, 0, 0, "a")), Some("this one judged nothing"));
        assert_eq!(why(holdout(None, 0, 0, "b")), Some("this one judged nothing"));
        assert_eq!(why(holdout(Some(0.9), 60, 48, "b")), Some("this one is on instances that it was tuned on"));
        assert_eq!(why(holdout(Some(0.9), 11, 0, "a")), Some("this one judged fewer of the same instances"));
        assert_eq!(why(holdout(Some(0.9), 11, 0, "b")), None, "other instances were asked for");
        assert_eq!(why(holdout(Some(0.9), 12, 0, "a")), None);
        assert_eq!(why(holdout(Some(0.9), 100, 5, "b")), None, "a few rows are twice in the data");
        let (nothing, tuned) = (holdout(None, 0, 0, "a"), holdout(Some(1.0), 60, 48, "b"));
        assert_eq!(nothing.outlasts(&holdout(None, 0, 0, "a")), None);
        assert_eq!(tuned.outlasts(&holdout(Some(0.5), 2, 0, "a")), None);
    }

    #[test]
    fn only_a_held_out_test_corrects_the_score() {
        let mut summary = testing::shared().summary.clone();
        let (cost, notes) = (Usd::from_pico(7), summary.notes.clone());
        summary.holdout = None;
        (summary.claims.corrected_score, summary.claims.method) = (Some(0.25), Some("bootstrap_oob".to_owned()));
        let corrected = |summary: &Summary| (summary.claims.corrected_score, summary.claims.method.clone().unwrap());
        summary.take_test(holdout(Some(1.0), 60, 48, "b"), cost);
        assert_eq!(corrected(&summary), (Some(0.25), "bootstrap_oob".to_owned()));
        assert!(summary.held_out().is_none() && summary.holdout.is_some());
        let note = summary.notes.last().unwrap();
        assert!(note.starts_with("48 of the 60 instances that the test judged are among the tuning"), "{note}");
        summary.take_test(holdout(Some(0.75), 12, 0, "a"), cost);
        assert_eq!(corrected(&summary), (Some(0.75), "held_out".to_owned()));
        assert_eq!(
            (&summary.notes, summary.holdout_cost_usd),
            (&notes, cost),
            "what was said of the other test is gone"
        );
    }
}
