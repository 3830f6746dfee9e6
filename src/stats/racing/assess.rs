//! From what a study knows to what is believed: costs, places, variances and beliefs in one go.

use std::collections::{BTreeMap, BTreeSet};

use farthing_kernels::linear::{Square, dot};
use rand_chacha::ChaCha12Rng;
use serde_json::Value;

use super::costs::{Bill, Costs, Input, within};
use super::kinship::Kinship;
use super::{Belief, Line, Model, Place, Prior, Sheet, Variances};
use crate::stats::additive::{self, Observation};
use crate::stats::selection::{self, Beliefs};
use crate::stats::{Running, normal};

/// How many configurations the model takes; of more, the rest is left to the additive model.
const MOST: usize = 128;
/// Rounds of learning where the model is fitted once.
const ROUNDS: usize = 6;

/// What values are divided by before the model sees them: 1, except where squares would overflow or vanish; then a power of
/// two, which is exact.
pub fn scale(lines: &[Line]) -> f64 {
    let scale = super::super::scale_of(lines.iter().flatten().map(|(_, value)| *value));
    if (1e-60..1e60).contains(&scale) { 1.0 } else { scale }
}

/// So small a difference of expected scores, in standard deviations of a single value, is none: 0.05 points of accuracy.
const INDIFFERENT: f64 = 0.001;

/// The difference of expected scores up to which the cheaper one is the better one.
pub fn indifferent(lines: &[Line]) -> f64 {
    let values = || lines.iter().flatten().map(|(_, value)| *value);
    let count = values().count().max(1) as f64;
    let mean = values().map(|value| value / count).sum::<f64>();
    let sum: f64 = values().map(|value| (value - mean).powi(2) / count).sum();
    if sum.is_finite() { INDIFFERENT * sum.sqrt() } else { 0.0 }
}

/// One that may be recommended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eligible<C> {
    /// Its expected score.
    pub mean: f64,
    /// Its production cost.
    pub cost: C,
    /// The probability that it is the best.
    pub best: f64,
}

/// The probability with which those that may be best hold the best one.
pub const CREDIBLE: f64 = 0.95;

/// Of some that may be recommended, the best first, the place of the one that is: of those as good as the first that may be
/// best, the cheapest; of equals the first. Where no probabilities are given, all may be best.
pub fn recommended<C: PartialOrd + Copy>(best_first: &[Eligible<C>], indifferent: f64) -> Option<usize> {
    let sum: f64 = best_first.iter().map(|row| row.best).sum();
    let shares: Vec<f64> = best_first.iter().map(|row| if sum > 0.0 { row.best / sum } else { 1.0 }).collect();
    let may: BTreeSet<usize> = match sum > 0.0 {
        true => selection::credible(&shares, CREDIBLE).into_iter().collect(),
        false => (0..best_first.len()).collect(),
    };
    let top = best_first[*may.first()?].mean;
    let as_good = may.into_iter().take_while(|&at| best_first[at].mean >= top - indifferent);
    as_good.reduce(|chosen, at| if best_first[at].cost < best_first[chosen].cost { at } else { chosen })
}

/// What is known of some configurations.
pub struct Evidence<'a> {
    /// Their parameters.
    pub configurations: &'a [&'a BTreeMap<String, Value>],
    /// Of each instance that was looked at, what was observed on it: (configuration, value), larger is better, finite.
    pub lines: &'a [Line],
    /// Of each configuration, what production would pay for what it was looked at on.
    pub production: &'a [Bill],
    /// Of each configuration, what its input costs an instance, where that is known without asking.
    pub inputs: &'a [Option<Input>],
    /// How many instances there are.
    pub instances: usize,
}

impl Evidence<'_> {
    /// Every one that was observed was observed on every instance: then nothing is to be made up for.
    pub fn complete(&self) -> bool {
        let mut count = vec![0; self.configurations.len()];
        self.lines.iter().flatten().for_each(|(row, _)| count[*row as usize] += 1);
        count.into_iter().all(|count| count == 0 || count >= self.instances)
    }

    /// The probability that production can afford a configuration, by what is believed of costs; 1 without a budget.
    pub fn within(&self, row: usize, costs: Option<&Costs>, inference_budget: Option<f64>) -> f64 {
        match (inference_budget, costs) {
            (Some(budget), _) if self.inputs[row].is_some_and(|input| input.over(budget)) => 0.0,
            (Some(budget), Some(costs)) => costs.within(row, budget),
            _ => 1.0,
        }
    }
}

/// What is believed of them.
pub struct Assessment {
    /// Scores.
    pub belief: Belief,
    /// Production costs, where any is known.
    pub costs: Option<Costs>,
    /// What was learnt, to begin with the next time.
    pub variances: Variances,
}

/// Fits the model. `known` are variances learnt before; `rounds` how often they are improved.
pub fn assess(evidence: &Evidence, prior: &Prior, known: Option<Variances>, rounds: usize) -> Assessment {
    let (kinship, costs, places) = ground(evidence, prior);
    let sheet = Sheet::new(&kinship, evidence.lines, evidence.instances);
    let model = Model::new(&kinship, &places, prior);
    let total = if sheet.variance > 0.0 { sheet.variance } else { 1.0 };
    let mut variances = match known {
        Some(known) if known.main.len() == kinship.parameters.len() => Variances { total, ..known },
        _ => model.start(total),
    };
    for _ in 0..rounds {
        variances = model.learn(&sheet, &variances);
    }
    let belief = model.fit(&sheet, &variances);
    Assessment { belief, costs, variances }
}

/// Who is alike, what production would pay, and where each stands on the lines of the prior mean.
pub(super) fn ground(evidence: &Evidence, prior: &Prior) -> (Kinship, Option<Costs>, Vec<Place>) {
    let mut kinship = Kinship::new(evidence.configurations);
    let costs = Costs::fit(&kinship, evidence.production, evidence.inputs);
    kinship.samples = effective_samples(&kinship, evidence, prior);
    let places = places(&kinship, costs.as_ref());
    (kinship, costs, places)
}

/// How many instances with samples of one and of ten what is expected of the agreement of samples weighs.
const AGREEMENT: f64 = 12.0;
/// The least and the most that samples are taken to differ.
const DIVERSITY: (f64, f64) = (0.005, 2.0);

/// The numbers of samples as far as samples differ: n to the power of how much a family's values change with n on the same
/// instance, as a share of what independent samples would make them change. At temperature 0, all samples are one.
fn effective_samples(kinship: &Kinship, evidence: &Evidence, prior: &Prior) -> Vec<f64> {
    let setting = |row: usize, name: &str| evidence.configurations[row].get(name).and_then(Value::as_f64);
    let expected = |row: usize| {
        (setting(row, "temperature").unwrap_or(1.0).min(1.0) * setting(row, "top_p").unwrap_or(1.0)).clamp(0.0, 1.0)
    };
    let mut values = Running::default();
    evidence.lines.iter().flatten().for_each(|(_, value)| values.add(*value));
    let Running { count, squares, .. } = values;
    let noise = prior.instance.1 * if count > 1.0 && squares > 0.0 { squares / count } else { 1.0 };
    let differ = |few: f64, many: f64| 2.0 * noise * (1.0 - (few / many).powf(prior.decay));
    // By family: how much values changed, and how much independent samples would have made them.
    let families = kinship.family.iter().max().map_or(0, |most| most + 1);
    let mut changes = vec![(0.0, 0.0); families];
    let mut seen: Vec<(usize, f64, f64)> = Vec::new();
    for line in evidence.lines {
        seen.clear();
        seen.extend(
            line.iter().map(|&(row, value)| (kinship.family[row as usize], kinship.samples[row as usize], value)),
        );
        seen.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        for pair in seen.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let (change, independent) = &mut changes[pair[0].0];
            *change += (pair[1].2 - pair[0].2).powi(2);
            *independent += differ(pair[0].1, pair[1].1);
        }
    }
    let weight = AGREEMENT * differ(1.0, 10.0);
    (0..kinship.len())
        .map(|row| {
            let (change, independent) = changes[kinship.family[row]];
            let share = (change + weight * expected(row)) / (independent + weight);
            kinship.samples[row].powf(share.clamp(DIVERSITY.0, DIVERSITY.1))
        })
        .collect()
}

/// Places on the lines of the prior mean.
fn places(kinship: &Kinship, costs: Option<&Costs>) -> Vec<Place> {
    // The price of one answer: of the smallest n of each family.
    let mut first: BTreeMap<usize, usize> = BTreeMap::new();
    for row in 0..kinship.len() {
        let least = first.entry(kinship.family[row]).or_insert(row);
        if kinship.samples[row] < kinship.samples[*least] {
            *least = row;
        }
    }
    let price = |row: usize| costs.map_or(0.0, |costs| costs.log[first[&kinship.family[row]]] / std::f64::consts::LN_2);
    let mean = (0..kinship.len()).map(price).sum::<f64>() / kinship.len().max(1) as f64;
    (0..kinship.len()).map(|row| Place { price: price(row) - mean, samples: kinship.samples[row].log2() }).collect()
}

/// One configuration of a ranking.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// The expected mean over all instances and as many further ones like these; the raw mean where every one was observed on
    /// every instance.
    pub mean: f64,
    /// Its standard deviation.
    pub sd: f64,
    /// The probability of being the best of those that may be chosen (`eligible`) on further instances like these, by seeded
    /// draws; 0 for others.
    pub best: f64,
    /// Expected production cost in dollars an instance, where any is known.
    pub dollars: Option<f64>,
    /// The standard deviation of its logarithm.
    pub dollars_log_sd: f64,
}

impl Standing {
    /// The probability that production can afford it on the average.
    pub fn affordable(&self, budget: f64) -> f64 {
        let log = self.dollars.map(|dollars| dollars.max(f64::MIN_POSITIVE).ln());
        log.map_or(1.0, |log| within(log, self.dollars_log_sd, budget))
    }
}

/// What is believed of each configuration at the end; `None` for one without an observation.
///
/// Of more than a few hundred configurations, the best by the additive model are taken up, and the others keep what that
/// model says.
pub fn standings(evidence: &Evidence, eligible: &[bool], seed: u64) -> Vec<Option<Standing>> {
    let size = evidence.configurations.len();
    let additive = additive::fit(&observations(evidence.lines), size, evidence.instances);
    let mut standings: Vec<Option<Standing>> = (0..size)
        .map(|row| {
            let (mean, sd) = (additive.mean[row]?, additive.sd[row]?);
            let (further, further_sd) = additive.beyond[row]?;
            let (mean, sd) = (f64::midpoint(mean, further), f64::midpoint(sd, further_sd));
            let bill = &evidence.production[row];
            let dollars = (bill.count > 0).then_some(bill.mean);
            Some(Standing { mean, sd, best: 0.0, dollars, dollars_log_sd: 0.0 })
        })
        .collect();
    let mut rows: Vec<usize> = (0..size).filter(|&row| standings[row].is_some()).collect();
    if rows.is_empty() {
        return standings;
    }
    let reach = |row: usize| standings[row].map_or(f64::MIN, |standing| standing.mean + 2.0 * standing.sd);
    if rows.len() > MOST {
        rows.sort_by(|&a, &b| eligible[b].cmp(&eligible[a]).then(reach(b).total_cmp(&reach(a))).then(a.cmp(&b)));
        rows.truncate(MOST);
        rows.sort_unstable();
    }
    let mut place = vec![u32::MAX; size];
    rows.iter().enumerate().for_each(|(at, &row)| place[row] = at as u32);
    let scale = scale(evidence.lines);
    let lines: Vec<Line> = evidence.lines.iter().map(|line| select(line, &place, scale)).collect();
    let configurations: Vec<_> = rows.iter().map(|&row| evidence.configurations[row]).collect();
    let production: Vec<_> = rows.iter().map(|&row| evidence.production[row].clone()).collect();
    let inputs: Vec<_> = rows.iter().map(|&row| evidence.inputs[row]).collect();
    let part = Evidence {
        configurations: &configurations,
        lines: &lines,
        production: &production,
        inputs: &inputs,
        instances: evidence.instances,
    };
    let Assessment { belief, costs, .. } = assess(&part, &Prior::default(), None, ROUNDS);
    // No mean is above or below everything that was seen.
    let values = || evidence.lines.iter().flatten().map(|(_, value)| *value);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    // Who was looked at on everything, as others were not, is not thereby the better one, for luck is in what was seen: as many further instances count as much, where it falls back towards its
    // relatives. (These alone count less on small tables: 60 instances are most of what is known of them.)
    let complete = evidence.complete();
    for (at, &row) in rows.iter().enumerate() {
        if let Some(standing) = &mut standings[row] {
            let mean = if complete { belief.mean[at] } else { f64::midpoint(belief.mean[at], belief.effect[at]) };
            let left = (1.0 - belief.count[at] as f64 / evidence.instances.max(1) as f64).max(0.0);
            let own = left / evidence.instances.max(1) as f64 * belief.noise;
            let variance = f64::midpoint(left, 1.0).powi(2) * belief.outlook.covariance().at(at, at) + own / 4.0;
            // Of values whose squares vanish beside others' the additive model says more.
            if mean.is_finite() && variance.is_finite() {
                standing.mean = super::super::finite(mean * scale).clamp(low, high);
                standing.sd = super::super::finite(variance.max(0.0).sqrt() * scale);
            }
            standing.dollars = costs.as_ref().map(|costs| costs.dollars(at));
            standing.dollars_log_sd = costs.as_ref().map_or(0.0, |costs| costs.sd[at]);
        }
    }
    let allowed: Vec<usize> = (0..rows.len()).filter(|&at| eligible[rows[at]]).collect();
    let price = |at: usize| costs.as_ref().map_or(0.0, |costs| costs.dollars(at));
    for (at, share) in best_shares(&belief, &allowed, price, indifferent(evidence.lines) / scale, seed) {
        if let Some(standing) = &mut standings[rows[at]] {
            standing.best = share;
        }
    }
    standings
}

/// Lines as the additive model takes them: a row a configuration, a column a line.
pub fn observations(lines: &[Line]) -> Vec<Observation> {
    let of = |(column, line): (usize, &Line)| -> Vec<Observation> {
        line.iter().map(|&(row, value)| Observation { row: row as usize, column, value }).collect()
    };
    lines.iter().enumerate().flat_map(of).collect()
}

/// The observations of a line that have a place in a smaller table, divided by `scale`, sorted; the first counts where a
/// configuration was observed twice.
pub fn select(line: &Line, place: &[u32], scale: f64) -> Line {
    let kept = line.iter().filter(|(row, _)| place[*row as usize] != u32::MAX);
    let mut line: Line = kept.map(|&(row, value)| (place[row as usize], value / scale)).collect();
    line.sort_by_key(|(row, _)| *row);
    line.dedup_by_key(|(row, _)| *row);
    line
}

/// The effects of some rows, as joint draws: what their means would be over instances without end, like those seen.
struct Joint {
    mean: Vec<f64>,
    factor: Square,
}

impl Beliefs for Joint {
    fn candidates(&self) -> usize {
        self.mean.len()
    }

    fn mean(&self, candidate: usize) -> f64 {
        self.mean.get(candidate).copied().unwrap_or(0.0)
    }

    fn draw(&self, rng: &mut ChaCha12Rng, into: &mut [f64]) {
        let normals: Vec<f64> = self.mean.iter().map(|_| normal(rng)).collect();
        for (row, place) in into.iter_mut().enumerate() {
            *place = self.mean[row] + dot(&self.factor.row(row)[..=row], &normals[..=row]);
        }
    }
}

/// The probability of each of some rows that it is the best of them. Who is five standard deviations below where the
/// leader surely is never wins a draw.
fn best_shares(
    belief: &Belief,
    rows: &[usize],
    price: impl Fn(usize) -> f64,
    near_enough: f64,
    seed: u64,
) -> Vec<(usize, f64)> {
    let covariance = belief.outlook.covariance();
    let sd = |row: usize| covariance.at(row, row).max(0.0).sqrt();
    let sure = rows.iter().map(|&row| belief.effect[row] - 5.0 * sd(row)).fold(f64::MIN, f64::max);
    let near: Vec<usize> = rows.iter().copied().filter(|&row| belief.effect[row] + 5.0 * sd(row) >= sure).collect();
    let joint = Joint {
        mean: near.iter().map(|&row| belief.effect[row]).collect(),
        factor: Square::symmetric(near.len(), |a, b| covariance.at(near[a], near[b])).cholesky(),
    };
    let prices: Vec<f64> = near.iter().map(|&row| price(row)).collect();
    near.iter().copied().zip(selection::p_best(&joint, &prices, near_enough, seed)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn maps(values: &[Value]) -> Vec<BTreeMap<String, Value>> {
        values.iter().map(|value| serde_json::from_value(value.clone()).unwrap()).collect()
    }

    fn prompts(count: usize) -> Vec<BTreeMap<String, Value>> {
        maps(&(0..count).map(|at| json!({"prompt": format!("p{at}")})).collect::<Vec<_>>())
    }

    fn judge(configurations: &[BTreeMap<String, Value>], lines: &[Line], instances: usize) -> Vec<Option<Standing>> {
        let configurations: Vec<_> = configurations.iter().collect();
        let production = vec![Bill::default(); configurations.len()];
        let inputs = vec![None; configurations.len()];
        let evidence =
            Evidence { configurations: &configurations, lines, production: &production, inputs: &inputs, instances };
        standings(&evidence, &vec![true; configurations.len()], 1)
    }

    #[test]
    fn of_those_as_good_as_the_best_the_cheapest_is_recommended_and_of_equals_the_first() {
        let rows = |all: &[(f64, i32, f64)]| -> Vec<Eligible<i32>> {
            all.iter().map(|&(mean, cost, best)| Eligible { mean, cost, best }).collect()
        };
        let four = rows(&[(0.9, 5, 0.3), (0.9, 3, 0.3), (0.8995, 3, 0.2), (0.89, 1, 0.2)]);
        assert_eq!(recommended(&four, 0.001), Some(1));
        assert_eq!(recommended(&four, 0.0), Some(1));
        assert_eq!(recommended(&four, 0.1), Some(3));
        assert_eq!(recommended(&rows(&[(0.9, 5, 0.5), (0.8, 1, 0.5)]), 0.001), Some(0));
        assert_eq!(recommended::<i32>(&[], 1.0), None);
        // Who was lucky and is not among those that may be best is not recommended.
        let lucky = rows(&[(0.9, 1, 0.01), (0.89, 3, 0.6), (0.88, 2, 0.39)]);
        assert_eq!(recommended(&lucky, 0.001), Some(1));
        assert_eq!(recommended(&rows(&[(0.9, 5, 0.0), (0.8, 1, 0.0)]), 0.001), Some(0), "nobody knows");
    }

    #[test]
    fn complete_data_give_raw_means() {
        let value = |row: usize, at: usize| f64::from(u8::from((row * 5 + at * 3) % 7 < 3 + row / 2));
        let lines: Vec<Line> = (0..12).map(|at| (0..6).map(|row| (row as u32, value(row, at))).collect()).collect();
        for (row, standing) in judge(&prompts(6), &lines, 12).iter().enumerate() {
            let mean = (0..12).map(|at| value(row, at)).sum::<f64>() / 12.0;
            let standing = standing.unwrap();
            assert!((standing.mean - mean).abs() < 1e-12 && standing.sd > 0.01, "{standing:?} {mean}");
        }
    }

    #[test]
    fn relatives_speak_for_one_another() {
        // Model a is good with every prompt but the one that was looked at once only, on an instance that it failed.
        let mut all = Vec::new();
        for model in ["a", "b"] {
            (0..5).for_each(|prompt| all.push(json!({"model": model, "prompt": format!("p{prompt}")})));
        }
        let mut lines: Vec<Line> = Vec::new();
        for at in 0..40_usize {
            let rows = (0..10_usize).filter(|&row| at == 0 || (row != 4 && row != 9));
            let value = |row: usize| {
                if row == 4 { 0.0 } else { f64::from(u8::from((at * 7 + row) % 10 < if row < 5 { 9 } else { 3 })) }
            };
            lines.push(rows.map(|row| (row as u32, value(row))).collect());
        }
        let standings = judge(&maps(&all), &lines, 200);
        let mean = |row: usize| standings[row].unwrap().mean;
        assert!(mean(4) > mean(9) + 0.1, "{} {}", mean(4), mean(9));
        let best: f64 = standings.iter().map(|standing| standing.unwrap().best).sum();
        assert!((best - 1.0).abs() < 1e-9);
    }

    #[test]
    fn costs_of_relatives_are_foreseen() {
        let mut all = Vec::new();
        for (model, prompt, n) in [("a", "x", 1), ("a", "y", 1), ("b", "x", 1), ("b", "y", 1), ("a", "x", 10)] {
            all.push(json!({"model": model, "prompt": prompt, "n": n}));
        }
        let all = maps(&all);
        let kinship = Kinship::new(&all.iter().collect::<Vec<_>>());
        let bill = |mean: f64, count: usize| Bill { count, mean, input: None, squares: 0.05 * mean * mean * 19.0 };
        let seen = [bill(1e-4, 20), bill(3e-4, 20), bill(1e-2, 20), Bill::default(), Bill::default()];
        let costs = Costs::fit(&kinship, &seen, &[None; 5]).unwrap();
        assert!((costs.dollars(3) / 3e-2).ln().abs() < 0.5, "{}", costs.dollars(3));
        assert!(costs.dollars(4) > 2e-4 && costs.dollars(4) < 1e-3, "{}", costs.dollars(4));
        assert!(costs.sd[3] > costs.sd[2] && costs.within(0, 1.2e-4) > 0.9 && costs.within(0, 0.8e-4) < 0.1);
        assert!(Costs::fit(&kinship, &vec![Bill::default(); 5], &[None; 5]).is_none());
        // With the inputs known, the costs of a sibling follow: 6e-5 for the prompt and ten completions of 4e-5 each.
        let inputs = [6e-5, 1e-4, 6e-3, 1e-2, 6e-5].map(|dollars| Some(Input { dollars, counted: 20, error: 0.0 }));
        let seen = [0, 1, 2].map(|at| Bill { input: Some(inputs[at].unwrap().dollars), ..seen[at].clone() });
        let seen = [&seen[..], &vec![Bill::default(); 2]].concat();
        let costs = Costs::fit(&kinship, &seen, &inputs).unwrap();
        assert!((costs.dollars(4) / 4.6e-4 - 1.0).abs() < 0.05, "{}", costs.dollars(4));
        assert!(costs.dollars(3) > 1e-2 && costs.within(3, 0.99e-2) < 0.3);
        // Guessed inputs are corrected by what was billed: half of the guess.
        let twice = inputs.map(|input| Some(Input { dollars: 2.0 * input.unwrap().dollars, counted: 0, error: 0.0 }));
        let guessed = Costs::fit(&kinship, &seen, &twice).unwrap();
        assert!((guessed.dollars(4) / costs.dollars(4) - 1.0).abs() < 0.05, "{}", guessed.dollars(4));
        assert!(guessed.sd[4] > costs.sd[4]);
    }

    #[test]
    fn samples_that_agree_count_for_one() {
        let of = |temperature: f64, n: usize| json!({"temperature": temperature, "n": n});
        let all = maps(&[of(0.0, 1), of(0.0, 9), of(1.0, 1), of(1.0, 9)]);
        let configurations: Vec<_> = all.iter().collect();
        let kinship = Kinship::new(&configurations);
        let effective = |lines: &[Line]| {
            let evidence = Evidence {
                configurations: &configurations,
                lines,
                production: &vec![Bill::default(); 4],
                inputs: &[None; 4],
                instances: 40,
            };
            effective_samples(&kinship, &evidence, &Prior::default())
        };
        let before = effective(&[]);
        assert!(before[1] < 1.1 && (before[3] - 9.0).abs() < 1e-9, "{before:?}");
        // Votes change nothing at temperature 1 either, as is seen on 40 instances; then they differ much at 0.
        let line = |at: usize, same: bool| {
            let value = |vote: usize| f64::from(u8::from((at + if same { 0 } else { vote }).is_multiple_of(2)));
            (0..4_u32).map(|row| (row, value(row as usize % 2))).collect::<Line>()
        };
        let agreed = effective(&(0..40).map(|at| line(at, true)).collect::<Vec<_>>());
        assert!(agreed[3] < 4.0 && agreed[1] < 1.1, "{agreed:?}");
        let differing = effective(&(0..40).map(|at| line(at, false)).collect::<Vec<_>>());
        assert!(differing[1] > 9.0, "{differing:?}");
    }

    #[test]
    fn nothing_is_expected_beyond_what_was_seen() {
        // The dear one was seen once, and everything is right.
        let all = maps(&[json!({"model": "cheap"}), json!({"model": "dear"})]);
        let mut lines: Vec<Line> = (0..30).map(|_| vec![(0, 1.0)]).collect();
        lines[0].push((1, 1.0));
        assert!(judge(&all, &lines, 30).iter().all(|standing| standing.unwrap().mean == 1.0));
    }

    #[test]
    fn values_that_differ_beyond_measure_give_numbers() {
        // Found by the property test below.
        let lines = vec![vec![(0, 1.0)], vec![(3, f64::MIN_POSITIVE), (3, 3.5228061660097e156)]];
        for standing in judge(&prompts(6), &lines, 8).into_iter().flatten() {
            assert!(standing.mean.is_finite() && standing.sd.is_finite() && standing.sd >= 0.0, "{standing:?}");
            assert!((0.0..=1.0).contains(&standing.best), "{standing:?}");
        }
    }

    proptest! {
        #[test]
        fn finite_in_finite_out(
            cells in prop::collection::vec((0_u32..6, 0_usize..8, prop_oneof![
                Just(0.0), Just(1.0), -1.0..1.0, prop::num::f64::NORMAL, Just(f64::MAX), Just(-1e300), Just(f64::MIN_POSITIVE)
            ]), 0..40),
        ) {
            let mut lines: Vec<Line> = vec![Vec::new(); 8];
            cells.iter().for_each(|&(row, at, value)| lines[at].push((row, value)));
            let standings = judge(&prompts(6), &lines, 8);
            for (row, standing) in standings.iter().enumerate() {
                prop_assert_eq!(standing.is_some(), cells.iter().any(|cell| cell.0 as usize == row));
                if let Some(standing) = standing {
                    prop_assert!(standing.mean.is_finite() && standing.sd.is_finite() && standing.sd >= 0.0, "{:?}", standing);
                    prop_assert!((0.0..=1.0).contains(&standing.best));
                }
            }
        }
    }
}
