//! The ranking: which configuration is best, as far as is known, and who cannot be best and why.

use serde::Serialize;

use crate::money::Usd;
use crate::stats;
use crate::stats::racing::Line;
use crate::stats::racing::assess::{Evidence, indifferent, standings};
use crate::stats::racing::costs::{Bill, SURE};
use crate::study::trial::{Trial, short};
use crate::task::Objective;

/// What stands between a trial and being best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing.
    Eligible,
    /// It may be over the inference budget, and others surely are not.
    Unsure,
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
    /// The probability that it is the best of those that nothing stands against, on further instances like these.
    pub probability: Option<f64>,
}

/// The seed of the draws that probabilities of being best are counted in.
const DRAWS_SEED: u64 = 0;

/// Ranks trials by the posterior mean of the objective over all `instances` tuning instances, by the race's model
/// ([`stats::racing`]): raw means where every trial was judged on every instance, and elsewhere with what relatives, the
/// difficulty of instances and prices say. Equals by production cost, then by the order of trying.
pub fn rank(trials: &[Trial], objective: &Objective, instances: usize, inference_budget: Option<Usd>) -> Vec<Ranked> {
    let gain = |value: f64| objective.direction.gain(value);
    let mut lines: Vec<Line> = vec![Vec::new(); instances];
    for (row, trial) in trials.iter().enumerate() {
        for (instance, value) in trial.scores(&objective.metric) {
            if let Some(line) = lines.get_mut(instance).filter(|_| value.is_finite()) {
                line.push((row as u32, gain(value)));
            }
        }
    }
    let configurations: Vec<_> = trials.iter().map(|trial| &trial.configuration.0).collect();
    let production: Vec<_> = trials
        .iter()
        .map(|trial| trial.production().map_or_else(Bill::default, |production| production.bill()))
        .collect();
    let reasons: Vec<Option<String>> = trials.iter().map(|trial| trial.barred(inference_budget)).collect();
    // The best is one that production can afford almost surely, if there is such a one.
    let affordable: Vec<f64> = trials
        .iter()
        .map(|trial| inference_budget.and_then(|budget| trial.affordable(budget)).unwrap_or(1.0))
        .collect();
    let judged = |trial: usize| trials[trial].scores(&objective.metric).next().is_some();
    let sure = (0..trials.len()).any(|at| reasons[at].is_none() && affordable[at] >= SURE && judged(at));
    let unsure: Vec<bool> =
        (0..trials.len()).map(|at| sure && reasons[at].is_none() && affordable[at] < SURE).collect();
    let reasons: Vec<Option<String>> = reasons
        .into_iter()
        .enumerate()
        .map(|(at, reason)| match unsure[at] {
            true => Some(doubt(&trials[at], affordable[at], inference_budget)),
            false => reason,
        })
        .collect();
    let eligible: Vec<bool> = reasons.iter().map(Option::is_none).collect();
    let evidence = Evidence {
        configurations: &configurations,
        lines: &lines,
        production: &production,
        inputs: &vec![None; trials.len()],
        instances,
    };
    let standings = standings(&evidence, &eligible, DRAWS_SEED);
    let mut ranking: Vec<(Ranked, f64, Option<Usd>)> = trials
        .iter()
        .enumerate()
        .map(|(index, trial)| {
            let standing_of = standings[index];
            let mean = standing_of.map(|standing| standing.mean);
            let reason = reasons[index].clone();
            let over = trial.dropped.is_some() || affordable[index] < 0.5;
            let standing = match (&reason, mean) {
                (Some(_), _) if over => Standing::Infeasible,
                (Some(_), Some(_)) if unsure[index] => Standing::Unsure,
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
                posterior: standing_of.map(|standing| (gain(standing.mean), standing.sd)),
                probability: standing_of.map(|standing| standing.best),
            };
            (row, mean.unwrap_or(f64::NEG_INFINITY), trial.production_cost())
        })
        .collect();
    ranking.sort_by(|(a, mean_a, cost_a), (b, mean_b, cost_b)| {
        a.standing.cmp(&b.standing).then(mean_b.total_cmp(mean_a)).then(cost_a.cmp(cost_b)).then(a.trial.cmp(&b.trial))
    });
    // Of those as good as the best, the cheapest in production.
    if let Some((_, top, _)) = ranking.first().filter(|(row, ..)| row.standing == Standing::Eligible) {
        let least = top - indifferent(&lines);
        let as_good =
            |(row, mean, _): &&(Ranked, f64, Option<Usd>)| row.standing == Standing::Eligible && *mean >= least;
        let cost = |(_, _, cost): &(Ranked, f64, Option<Usd>)| cost.unwrap_or(Usd::MAX);
        let count = ranking.iter().take_while(as_good).count();
        let cheapest = (0..count).min_by_key(|&at| (cost(&ranking[at]), at)).unwrap_or(0);
        ranking[..=cheapest].rotate_right(1);
    }
    let numbered = |(place, (row, ..)): (usize, (Ranked, _, _))| Ranked { rank: place + 1, ..row };
    ranking.into_iter().enumerate().map(numbered).collect()
}

fn doubt(trial: &Trial, affordable: f64, inference_budget: Option<Usd>) -> String {
    let about = trial.production().map_or(String::new(), |production| short(production.mean));
    let budget = inference_budget.map_or(String::new(), |budget| budget.to_string());
    format!(
        "about ${about} an instance in production: only {:.0} % sure to be within the inference budget of ${budget}",
        100.0 * affordable
    )
}

/// The probability of each of so many trials that it is the best; `None` for those that something stands against.
pub fn p_best(ranking: &[Ranked], trials: usize) -> Vec<Option<f64>> {
    let mut all = vec![None; trials];
    let eligible = ranking.iter().filter(|row| row.standing == Standing::Eligible);
    eligible.for_each(|row| all[row.trial] = Some(row.probability.unwrap_or(0.0)));
    all
}

/// The best configuration: the first that nothing stands against.
pub fn best(ranking: &[Ranked]) -> Option<&Ranked> {
    ranking.first().filter(|row| row.standing == Standing::Eligible)
}
