//! The ranking: which configuration is best, as far as is known, and who cannot be best and why.

use serde::Serialize;

use crate::money::Usd;
use crate::stats::{self, additive};
use crate::study::trial::Trial;
use crate::task::Objective;

/// What stands between a trial and being best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing.
    Eligible,
    /// Too much is missing for reasons of its own.
    Unreliable,
    /// Over the inference budget.
    Infeasible,
    /// No instance was judged.
    Unjudged,
}

/// One row of the ranking.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// Its place, from 1; eligible ones first.
    pub rank: usize,
    /// The trial, by its index.
    pub trial: usize,
    /// What stands between it and being best.
    pub standing: Standing,
    /// Why it cannot be best.
    pub reason: Option<String>,
    /// The mean of the objective with its interval.
    pub estimate: Option<stats::Estimate>,
    /// What its mean over all tuning instances is expected to be, and how sure that is: (mean, standard deviation). The
    /// order is by it: it makes up for some having seen harder instances than others, and for luck on a few.
    pub posterior: Option<(f64, f64)>,
}

/// Ranks trials by the posterior mean of the objective over all `instances` tuning instances; equals by production cost, then
/// by the order of trying.
pub fn rank(trials: &[Trial], objective: &Objective, instances: usize, inference_budget: Option<Usd>) -> Vec<Ranked> {
    let gain = |value: f64| objective.direction.gain(value);
    let observations: Vec<additive::Observation> = trials
        .iter()
        .enumerate()
        .flat_map(|(row, trial)| {
            trial.scores(&objective.metric).map(move |(column, value)| additive::Observation {
                row,
                column,
                value: gain(value),
            })
        })
        .collect();
    let posterior = additive::fit(&observations, trials.len(), instances);
    let mut ranking: Vec<(Ranked, f64, Option<Usd>)> = trials
        .iter()
        .enumerate()
        .map(|(index, trial)| {
            let mean = posterior.mean[index];
            let reason = trial.barred(inference_budget);
            let over =
                trial.dropped.is_some() || inference_budget.is_some_and(|budget| trial.feasible(budget) == Some(false));
            let standing = match (&reason, mean) {
                (Some(_), _) if over => Standing::Infeasible,
                (_, None) => Standing::Unjudged,
                (Some(_), _) => Standing::Unreliable,
                (None, Some(_)) => Standing::Eligible,
            };
            let row = Ranked {
                rank: 0,
                trial: index,
                standing,
                reason,
                estimate: trial.estimate(&objective.metric),
                posterior: mean.map(|mean| (gain(mean), posterior.sd[index].unwrap_or(0.0))),
            };
            (row, mean.unwrap_or(f64::NEG_INFINITY), trial.production_cost())
        })
        .collect();
    ranking.sort_by(|(a, mean_a, cost_a), (b, mean_b, cost_b)| {
        a.standing.cmp(&b.standing).then(mean_b.total_cmp(mean_a)).then(cost_a.cmp(cost_b)).then(a.trial.cmp(&b.trial))
    });
    let numbered = |(place, (row, ..)): (usize, (Ranked, _, _))| Ranked { rank: place + 1, ..row };
    ranking.into_iter().enumerate().map(numbered).collect()
}

/// The best configuration: the first that nothing stands against.
pub fn best(ranking: &[Ranked]) -> Option<&Ranked> {
    ranking.first().filter(|row| row.standing == Standing::Eligible)
}
