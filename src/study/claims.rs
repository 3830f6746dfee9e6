//! What a study may claim, beside its ranking: who may still be best, the winner's score without what it owes to having
//! been chosen, the winner against the baseline at any time of looking, and whether anything differs at all.
//!
//! All of it is worked out when the search has ended and decides nothing, except [`Evidence::expected_gain`], which a
//! margin stops by, and [`settle`], which lets further metrics decide among equals.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::evaluate::Workload;
use crate::money::Usd;
use crate::space::Configuration;
use crate::stats;
use crate::stats::additive::{self, Observation, Posterior};
use crate::stats::eprocess;
use crate::stats::racing::assess::CREDIBLE;
use crate::stats::selection::{self, Beliefs as _, Fitted, Independent};
use crate::study::ranking::{self, Ranked, Standing};
use crate::study::summary::{Holdout, Scored};
use crate::study::trial::Trial;
use crate::task::Objective;

/// More than this, and what was seen of differences is what chance gives.
const CHANCE: f64 = 0.05;

/// Nobody reads a longer list of those that may be best; ranking.csv has P(best) of all.
const MOST_LISTED: usize = 100;

/// What a study claims.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// Those that may still be best, the likeliest first: together they hold the best one with 95 %. At most 100 are listed.
    pub may_be_best: Vec<Candidate>,
    /// How many may still be best.
    pub may_be_best_count: usize,
    /// The winner's probability of being the best of those tried.
    pub p_best: Option<f64>,
    /// The winner's score corrected for having been chosen; absent on fewer than 5 instances, and where a further metric
    /// of the objective chose another than the first one would.
    pub corrected_score: Option<f64>,
    /// Its 95 % interval.
    pub corrected_ci95: Option<[f64; 2]>,
    /// How it was corrected: `bootstrap_oob` on the tuning instances, or `held_out`.
    pub method: Option<String>,
    /// The winner against the baseline on tuning instances, valid at any time of looking and for having been chosen.
    /// Absent where the winner is the baseline, there is none, or the range of the metric is not known.
    pub versus_baseline: Option<Against>,
    /// True where the configurations are no further apart than chance puts them, and none is shown to differ from the baseline.
    pub nothing_differs: bool,
    /// How likely so much difference is where nothing differs; absent where no difference was seen, or nothing compared.
    pub difference_p_value: Option<f64>,
    /// What further looks are expected to gain, in units of the metric; where the margin stopped the study, as worked out
    /// at that moment: what was in flight still landed.
    pub expected_gain: Option<f64>,
}

/// A configuration that may still be best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its trial's number.
    pub trial: usize,
    /// Its short name.
    pub id: String,
    /// The parameters.
    pub config: Configuration,
    /// The probability that it is the best of those tried.
    pub p_best: f64,
    /// The mean of the objective.
    pub score: Option<f64>,
    /// Its 95 % interval.
    pub ci95: Option<[f64; 2]>,
}

/// One configuration against another on the same instances, valid at any time of looking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Winner less baseline.
    pub difference: f64,
    /// Holds the difference with 95 %, at all times and for all configurations tried at once.
    pub confidence_sequence: [f64; 2],
    /// The evidence that there is a difference; 20 is needed for a claim.
    pub e_value: f64,
    /// Instances that both were judged on.
    pub pairs: usize,
    /// `better`, `worse` or `not shown`.
    pub claim: String,
}

/// A configuration on the frontier of score against production cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontierPoint {
    /// Its trial's number.
    pub trial: usize,
    /// Its short name.
    pub id: String,
    /// The parameters.
    pub config: Configuration,
    /// What its score over the tuning instances and as many further ones is expected to be.
    pub posterior_mean: f64,
    /// The mean of the objective.
    pub score: Option<f64>,
    /// What production would pay an instance.
    pub production_cost_usd_per_instance: Usd,
}

/// What the scores of a study say of its trials by the additive model: what a margin stops by, and what choosing among
/// bootstrapped instances needs. Who may be best is the ranking's to say, by the race's model.
pub struct Evidence {
    cells: Vec<Observation>,
    posterior: Posterior,
    /// Trials that nothing stands against, in their order.
    eligible: Vec<usize>,
    /// How far apart two values can be: as known, else as seen. `None` where that is nothing.
    scale: Option<f64>,
    instances: usize,
}

impl Evidence {
    /// Of these trials; `eligible` says against which nothing stands.
    pub fn of(trials: &[Trial], workload: &Workload, eligible: impl Fn(&Trial) -> bool) -> Evidence {
        let (objective, instances) = (&workload.task.objective, workload.task.tune.len());
        let cells = cells(trials, objective);
        let posterior = additive::fit(&cells, trials.len(), instances);
        let eligible: Vec<usize> =
            (0..trials.len()).filter(|&row| posterior.mean[row].is_some() && eligible(&trials[row])).collect();
        let seen = cells.iter().map(|cell| cell.value);
        let apart = seen.clone().fold(f64::MIN, f64::max) - seen.fold(f64::MAX, f64::min);
        let scale = workload.range().map(|(low, high)| high - low).or((apart > 0.0).then_some(apart));
        Evidence { cells, posterior, eligible, scale, instances }
    }

    /// What looking on could gain at most: what the best of all is expected to have over all tuning instances, less what the
    /// present best has. `open` where a new configuration could still be drawn. `None` where nothing is known yet.
    pub fn expected_gain(&self, open: bool, seed: u64) -> Option<f64> {
        let scale = self.scale?;
        let belief = |&row: &usize| {
            let (mean, sd) = (self.posterior.mean[row].unwrap_or(0.0), self.posterior.sd[row].unwrap_or(0.0));
            let seen = self.posterior.count[row] as f64;
            let unseen = (1.0 - seen / self.instances.max(1) as f64).max(0.0);
            // A few equal values say little: as unsure as of a chance that never came up in so many (rule of succession).
            (mean, sd.max(scale * unseen.sqrt() / (seen + 2.0)))
        };
        let mut beliefs: Vec<(f64, f64)> = self.eligible.iter().map(belief).collect();
        // Who is five standard deviations behind adds nothing.
        let lead = beliefs.iter().map(|(mean, _)| *mean).fold(f64::MIN, f64::max);
        beliefs.retain(|(mean, sd)| mean + 5.0 * sd >= lead);
        let beliefs = Independent(beliefs);
        let best = (0..beliefs.candidates()).rev().max_by(|&a, &b| beliefs.mean(a).total_cmp(&beliefs.mean(b)))?;
        let new = open.then_some((self.posterior.level, self.posterior.row_sd));
        Some(selection::expected_loss(&beliefs, best, new, seed)).filter(|loss| loss.is_finite())
    }
}

/// Those that may still be best, the likeliest first, equals in the order of trying: (trial, the probability that it is).
fn may_be_best(ranking: &[Ranked]) -> Vec<(usize, f64)> {
    let eligible = ranking.iter().filter(|row| row.standing == Standing::Eligible);
    let mut all: Vec<(usize, f64)> = eligible.map(|row| (row.trial, row.probability.unwrap_or(0.0))).collect();
    all.sort_by_key(|(trial, _)| *trial);
    let p_best: Vec<f64> = all.iter().map(|(_, p_best)| *p_best).collect();
    selection::credible(&p_best, CREDIBLE).into_iter().map(|at| all[at]).collect()
}

/// The objective of every judged evaluation as a gain.
fn cells(trials: &[Trial], objective: &Objective) -> Vec<Observation> {
    let row = |(row, trial): (usize, &Trial)| -> Vec<Observation> {
        let cell = |(column, value)| Observation { row, column, value: objective.direction.gain(value) };
        trial.scores(&objective.metric).map(cell).collect()
    };
    trials.iter().enumerate().flat_map(row).collect()
}

/// A finished search, as claims are made of it.
#[derive(Clone, Copy)]
pub struct Search<'a> {
    /// Its trials.
    pub trials: &'a [Trial],
    /// The trials, best first.
    pub ranking: &'a [Ranked],
    /// The task.
    pub workload: &'a Workload,
    /// The study's order of instances.
    pub order: &'a [usize],
    /// How many configurations could have been tried at most, where that was known when it began.
    pub most: Option<usize>,
    /// The objective's first metric chose the winner: only of such a choice its score can be corrected.
    pub by_first_metric: bool,
}

/// What a finished search claims.
pub fn claims(evidence: &Evidence, search: Search<'_>, seed: u64) -> Claims {
    let Search { trials, ranking, workload, order, most, by_first_metric } = search;
    let open = most.is_none_or(|most| trials.len() < most);
    let gain = |value: f64| workload.task.objective.direction.gain(value);
    let all = may_be_best(ranking);
    let candidate = |&(row, p_best): &(usize, f64)| {
        let scored = Scored::of(&trials[row], trials[row].estimate(&workload.task.objective.metric).as_ref());
        Candidate {
            trial: scored.trial,
            id: scored.id,
            config: scored.config,
            p_best,
            score: scored.score,
            ci95: scored.ci95,
        }
    };
    let mut claims = Claims {
        may_be_best: all.iter().take(MOST_LISTED).map(candidate).collect(),
        may_be_best_count: all.len(),
        expected_gain: evidence.expected_gain(open, seed),
        ..Claims::default()
    };
    if evidence.eligible.len() > 1 {
        let among = |cell: &&Observation| evidence.eligible.binary_search(&cell.row).is_ok();
        let cells: Vec<Observation> = evidence.cells.iter().filter(among).copied().collect();
        claims.difference_p_value = selection::difference_p_value(&cells, trials.len(), seed);
        claims.nothing_differs = claims.difference_p_value.is_none_or(|p| p > CHANCE);
    }
    let Some(best) = ranking::best(ranking) else { return claims };
    claims.p_best = best.probability;
    let mut chosen_from = vec![false; trials.len()];
    evidence.eligible.iter().for_each(|&row| chosen_from[row] = true);
    let fitted = Fitted::of(&evidence.posterior, &evidence.cells);
    let metric = &workload.task.objective.metric;
    let corrected = by_first_metric.then(|| selection::corrected(&evidence.cells, &chosen_from, &fitted, seed));
    if let Some(corrected) = corrected.flatten() {
        let ends = [gain(corrected.ci95.0), gain(corrected.ci95.1)];
        let (mut low, mut high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
        let score = gain(corrected.score);
        // Never surer than the winner's own values: the bootstrap knows nothing of what was not seen.
        let values: Vec<f64> = trials[best.trial].scores(metric).map(|(_, value)| value).collect();
        if let Some((mean, (least, greatest))) = stats::estimate(&values).and_then(|of| Some((of.mean, of.ci95?))) {
            (low, high) = (low.min(score - (mean - least)), high.max(score + (greatest - mean)));
        }
        let (least, greatest) = workload.ranges().of_metric(metric);
        (low, high) = (low.max(least).min(score), high.min(greatest).max(score));
        let finite = |value: f64| value.clamp(f64::MIN, f64::MAX);
        claims.corrected_score = Some(score);
        claims.corrected_ci95 = Some([finite(low), finite(high)]);
        claims.method = Some("bootstrap_oob".to_owned());
    }
    claims.versus_baseline = against(&trials[best.trial], trials, workload, order, most);
    // What is shown of two of them is a difference.
    let shown = claims.versus_baseline.as_ref().is_some_and(|against| against.e_value >= eprocess::CLAIM);
    claims.nothing_differs &= !shown;
    claims
}

impl Claims {
    /// Takes the winner's score on held-out instances, which did not choose it, for the corrected one.
    pub fn hold_out(&mut self, holdout: &Holdout) {
        if let Some(score) = holdout.score {
            self.corrected_score = Some(score);
            self.corrected_ci95 = holdout.ci95;
            self.method = Some("held_out".to_owned());
        }
    }
}

/// The winner against the baseline, on the instances that both were judged on, in the study's order.
///
/// Any of the configurations could have become the winner, so all of them share the error: the k-th challenger has half of
/// `1 / (k (k + 1))`, which sums to 1 over any number of them, and half of an equal share where their number was bounded
/// beforehand. What is looked at next may depend on all that was seen, but not on how these two do on what comes next.
fn against(
    winner: &Trial,
    trials: &[Trial],
    workload: &Workload,
    order: &[usize],
    most: Option<usize>,
) -> Option<Against> {
    let objective = &workload.task.objective;
    let baseline = trials.iter().find(|trial| trial.is_baseline && trial.number != winner.number)?;
    let challenger = trials.iter().filter(|trial| !trial.is_baseline && trial.number <= winner.number).count() as f64;
    let pairs = winner.pairs(baseline, &objective.metric).into_iter();
    let paired: HashMap<usize, f64> = pairs.map(|(instance, own, known)| (instance, own - known)).collect();
    let differences: Vec<f64> = order.iter().filter_map(|instance| paired.get(instance).copied()).collect();
    // A program's values may leave a range that a user gave: then nothing can be said.
    let within = |(low, high): &(f64, f64)| {
        let mut values = [winner, baseline].into_iter().flat_map(|trial| trial.scores(&objective.metric));
        values.all(|(_, value)| (*low..=*high).contains(&value))
    };
    let (low, high) = range(workload, trials).filter(within)?;
    let equal = most.map(|most| most.saturating_sub(1).max(1) as f64).filter(|most| challenger <= *most);
    let weight = 0.5 / (challenger * (challenger + 1.0)) + equal.map_or(0.0, |most| 0.5 / most);
    let test = eprocess::paired(&differences, high - low, weight)?;
    let better = objective.direction.gain(test.difference) > 0.0;
    let claim = match (test.e_value >= eprocess::CLAIM, better) {
        (false, _) => "not shown",
        (true, true) => "better",
        (true, false) => "worse",
    };
    Some(Against {
        difference: test.difference,
        confidence_sequence: [test.confidence_sequence.0, test.confidence_sequence.1],
        e_value: test.e_value,
        pairs: test.pairs,
        claim: claim.to_owned(),
    })
}

/// The range of the objective: as known beforehand, else 0 to 1 for a function whose every value in the whole study is
/// exactly 0 or 1, which is taken for a yes or no.
pub fn range(workload: &Workload, trials: &[Trial]) -> Option<(f64, f64)> {
    let metric = &workload.task.objective.metric;
    let yes_or_no = || {
        let mut values = trials.iter().flat_map(|trial| trial.scores(metric)).map(|(_, value)| value);
        values.all(|value| value == 0.0 || value == 1.0)
    };
    workload.range().or_else(|| yes_or_no().then_some((0.0, 1.0)))
}

/// The configurations that no other beats in both expected score and production cost, the cheapest first, among those that
/// nothing stands against.
pub fn frontier(trials: &[Trial], ranking: &[Ranked], objective: &Objective) -> Vec<FrontierPoint> {
    let point = |row: &Ranked| {
        let trial = &trials[row.trial];
        let (posterior_mean, cost) = (row.posterior?.0, trial.production_cost()?);
        (row.standing == Standing::Eligible).then(|| FrontierPoint {
            trial: trial.number,
            id: trial.configuration.short_id(),
            config: trial.configuration.clone(),
            posterior_mean,
            score: row.estimate.as_ref().map(|estimate| estimate.mean),
            production_cost_usd_per_instance: cost,
        })
    };
    let gain = |point: &FrontierPoint| objective.direction.gain(point.posterior_mean);
    let points: Vec<FrontierPoint> = ranking.iter().filter_map(point).collect();
    let places: Vec<(Usd, f64)> =
        points.iter().map(|point| (point.production_cost_usd_per_instance, gain(point))).collect();
    ranking::frontier(&places).into_iter().map(|at| points[at].clone()).collect()
}

/// Lets the further metrics of a lexicographic objective decide: among the configurations within the tolerance of the
/// best expected score, or, without a tolerance, among those that may still be best, the one with the best mean of the
/// next metric, and so on. It moves to the first place; the others keep their order. `mean` is a trial's mean of a metric.
pub fn settle(ranking: &mut [Ranked], objective: &Objective, mean: impl Fn(usize, &str) -> Option<f64>) {
    if objective.then.is_empty() || ranking::best(ranking).is_none() {
        return;
    }
    let gain =
        |row: &Ranked| objective.direction.gain(row.posterior.map_or(f64::NEG_INFINITY, |posterior| posterior.0));
    let may = may_be_best(ranking);
    let top = gain(&ranking[0]);
    let equal = |row: &Ranked| match objective.tolerance {
        Some(tolerance) => gain(row) >= top - tolerance,
        None => may.iter().any(|(trial, _)| *trial == row.trial),
    };
    let eligible = ranking.iter().filter(|row| row.standing == Standing::Eligible);
    let mut left: Vec<usize> = eligible.filter(|row| equal(row)).map(|row| row.rank - 1).collect();
    for next in &objective.then {
        let mean = |&at: &usize| mean(ranking[at].trial, &next.metric).map(|mean| next.direction.gain(mean));
        let Some(best) = left.iter().filter_map(mean).max_by(f64::total_cmp) else { continue };
        left.retain(|at| mean(at).is_some_and(|mean| mean.total_cmp(&(best - next.tolerance)) != Ordering::Less));
    }
    if let Some(&winner) = left.first() {
        ranking[..=winner].rotate_right(1);
        ranking.iter_mut().enumerate().for_each(|(at, row)| row.rank = at + 1);
    }
}
