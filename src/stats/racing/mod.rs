//! The model that the race decides by: configurations as relatives, instances as shared difficulty, samples as shared
//! between several n of one configuration. Gaussian throughout, its variances learnt from the data at hand.
//!
//! The value of configuration c on instance i is `f(c) + u(c, i) + e(c, i)`.
//!
//! * `f` is a Gaussian process over parameters ([`kinship`]): main effects of every parameter, an effect of the
//!   combination, one of its near n, and lines in the logarithms of price and of n whose slopes are expected to be a
//!   little above 0 (dearer models and more votes are usually a little better), with room for the contrary. The variances
//!   maximize the posterior: marginal likelihood times log-normal priors, which are the floor under each.
//! * `u` is what makes an instance hard: for all, and for those that share a value (a model's own blind spots). It
//!   cancels in comparisons on the same instances, which is what pairing is.
//! * `e` is noise, correlated between several n of one configuration on one instance (they share samples): an
//!   Ornstein-Uhlenbeck process in log n, so nested looks are not taken for new evidence.
//!
//! What is asked for is the mean of a configuration over all tuning instances: what was observed counts as it is, the rest
//! as predicted. Work: O(observations) + O(groups of instances seen by the same configurations × configurations²) +
//! O(configurations³). Method: empirical Bayes and Gaussian process regression are textbook (Rasmussen & Williams 2006);
//! the composition is ours.

pub mod assess;
pub mod costs;
pub mod kinship;
mod learn;
pub mod outlook;
pub mod promise;

use std::collections::BTreeMap;

use farthing_kernels::linear::{Square, dot, posterior};

use super::Running;
use kinship::Kinship;
use outlook::{Outlook, Seen};

/// Values observed on one instance: (configuration, value), sorted by configuration.
pub type Line = Vec<(u32, f64)>;

/// The variances of the model, in squared units of the objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Variances {
    /// Of all that was observed: the scale of everything else.
    pub total: f64,
    /// Of the main effect of each parameter.
    pub main: Vec<f64>,
    /// Of the effect of a combination of parameters.
    pub family: f64,
    /// Of a combination's own way with n.
    pub near: f64,
    /// Of what an instance has for all.
    pub difficulty: f64,
    /// Of what an instance has for those that share a value of each parameter; 0 where that is not modelled.
    pub own: Vec<f64>,
    /// Of the noise.
    pub noise: f64,
}

/// A configuration's place on the lines of the prior mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// The logarithm to base 2 of the price of one answer, centred.
    pub price: f64,
    /// The logarithm to base 2 of n.
    pub samples: f64,
}

/// Knobs.
#[derive(Clone, Debug)]
pub struct Prior {
    /// Expected gain per doubling of the price, and of the samples voted on as far as these differ, in standard deviations of
    /// a single value. Both from published results: GPT-4 against GPT-3.5 and GPT-4o against GPT-4o mini on MMLU, GSM8K, MATH
    /// and GPQA gain 2 to 8 points of accuracy a doubling of the price (OpenAI 2023, 2024), voting on 40 samples gains 1
    /// to 3 points a doubling (Wang et al. 2023, self-consistency). Less is taken: prompts differ in price too.
    pub slopes: (f64, f64),
    /// Standard deviations of these slopes.
    pub slope_sds: (f64, f64),
    /// Shares of the total variance: of all main effects together, of combinations, of their near n.
    pub shares: (f64, f64, f64),
    /// Standard deviation of the logarithm of variances around what `shares` says.
    pub spread: f64,
    /// Share of the total variance that is difficulty, and noise.
    pub instance: (f64, f64),
    /// How fast samples' correlation falls with n: correlation of n and m is (n/m)^decay.
    pub decay: f64,
}

impl Default for Prior {
    fn default() -> Prior {
        Prior {
            slopes: (0.044, 0.033),
            slope_sds: (0.03, 0.03),
            shares: (0.012, 0.012, 0.001),
            spread: 1.0,
            instance: (0.25, 0.6),
            decay: 0.15,
        }
    }
}

/// How many values a parameter may have for its instances' own difficulty to be modelled.
const FEW: usize = 12;

/// What is believed of configurations.
#[derive(Clone, Debug)]
pub struct Belief {
    /// Of each configuration, the expected mean over all instances.
    pub mean: Vec<f64>,
    /// The covariance of these means.
    pub covariance: Square,
    /// The expected mean over instances without end, and its covariance.
    pub effect: Vec<f64>,
    /// The covariance of the effects, and what more observations would teach.
    pub outlook: Outlook,
    /// How many instances each was observed on.
    pub count: Vec<usize>,
    /// The variance of the noise.
    pub noise: f64,
}

impl Belief {
    /// The standard deviation of a configuration's mean.
    pub fn sd(&self, row: usize) -> f64 {
        self.covariance.at(row, row).max(0.0).sqrt()
    }

    /// The standard deviation of the difference of two means, a little above 0 at least.
    pub fn sd_of_difference(&self, one: usize, other: usize) -> f64 {
        let variance = &self.covariance;
        let sum = variance.at(one, one) + variance.at(other, other) - 2.0 * variance.at(one, other);
        sum.max(1e-12).sqrt()
    }
}

/// What was observed, put together by instances that the same configurations were observed on.
pub struct Sheet<'a> {
    lines: &'a [Line],
    groups: Vec<Group>,
    /// Instances there are in all.
    instances: usize,
    count: Vec<usize>,
    sum: Vec<f64>,
    /// Of everything observed.
    pub mean: f64,
    /// Of everything observed.
    pub variance: f64,
}

struct Group {
    /// Sorted by family and n.
    rows: Vec<usize>,
    lines: Vec<usize>,
}

impl<'a> Sheet<'a> {
    /// Sorts observations: `lines[i]` are those on instance i; finite values, each configuration once.
    pub fn new(kinship: &Kinship, lines: &'a [Line], instances: usize) -> Sheet<'a> {
        let mut by_rows: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
        let mut groups: Vec<Group> = Vec::new();
        let mut latest: Option<usize> = None;
        let (mut count, mut sum) = (vec![0; kinship.len()], vec![0.0; kinship.len()]);
        let mut values = Running::default();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
            for &(row, value) in line {
                count[row as usize] += 1;
                sum[row as usize] += value;
                values.add(value);
            }
            let same = |group: &Group| {
                let first = &lines[group.lines[0]];
                first.len() == line.len() && first.iter().zip(line).all(|(a, b)| a.0 == b.0)
            };
            let group = match latest.filter(|&group| same(&groups[group])) {
                Some(group) => group,
                None => *by_rows.entry(line.iter().map(|(row, _)| *row).collect()).or_insert_with(|| {
                    groups.push(Group { rows: Vec::new(), lines: Vec::new() });
                    groups.len() - 1
                }),
            };
            groups[group].lines.push(at);
            latest = Some(group);
        }
        for group in &mut groups {
            group.rows = lines[group.lines[0]].iter().map(|(row, _)| *row as usize).collect();
            group.rows.sort_by(|&a, &b| {
                let samples = kinship.samples[a].total_cmp(&kinship.samples[b]);
                kinship.family[a].cmp(&kinship.family[b]).then(samples).then(a.cmp(&b))
            });
        }
        let variance = if values.count > 1.0 { values.squares / values.count } else { 0.0 };
        Sheet { lines, groups, instances, count, sum, mean: values.mean, variance }
    }
}

/// The information of a sheet on the effects: a precision matrix, and the precision-weighted sum of observations.
struct Information {
    precision: Square,
    sum: Vec<f64>,
    groups: Vec<Prepared>,
}

/// A group's noise, inverted: R⁻¹ F and the factor of 1 + Fᵀ R⁻¹ F.
struct Prepared {
    weighted: Vec<Vec<f64>>,
    middle: Square,
}

/// Precisions of the noise along a group's rows: own, and with the row before (which is of the same family, else 0).
fn noise_precision(rows: &[usize], kinship: &Kinship, noise: f64, decay: f64) -> (Vec<f64>, Vec<f64>) {
    let (mut own, mut before) = (vec![0.0; rows.len()], vec![0.0; rows.len()]);
    for at in 0..rows.len() {
        let kin = at > 0 && kinship.family[rows[at]] == kinship.family[rows[at - 1]];
        let correlation = match kin {
            true => (kinship.samples[rows[at - 1]] / kinship.samples[rows[at]]).powf(decay).min(0.999),
            false => 0.0,
        };
        let precision = 1.0 / (noise * (1.0 - correlation * correlation));
        own[at] += precision;
        if kin {
            own[at - 1] += precision * correlation * correlation;
            before[at] = -precision * correlation;
        }
    }
    (own, before)
}

fn tridiagonal(own: &[f64], before: &[f64], vector: &[f64]) -> Vec<f64> {
    let mut result: Vec<f64> = own.iter().zip(vector).map(|(own, value)| own * value).collect();
    for at in 1..own.len() {
        result[at] += before[at] * vector[at - 1];
        result[at - 1] += before[at] * vector[at];
    }
    result
}

/// A model of some configurations, before anything is looked up in it.
pub struct Model<'a> {
    kinship: &'a Kinship,
    places: &'a [Place],
    prior: &'a Prior,
}

impl<'a> Model<'a> {
    /// A model of configurations, at their places.
    pub fn new(kinship: &'a Kinship, places: &'a [Place], prior: &'a Prior) -> Model<'a> {
        Model { kinship, places, prior }
    }

    /// The variances that are taken before anything is learnt.
    pub fn start(&self, total: f64) -> Variances {
        let prior = self.prior;
        let count = self.kinship.parameters.len();
        let modelled = |at: usize| self.kinship.shared_kinds(at, FEW).is_some();
        let shares: Vec<f64> = (0..count).map(|at| if modelled(at) { 1.0 } else { 0.0 }).collect();
        let sum = shares.iter().sum::<f64>();
        Variances {
            total,
            main: vec![prior.shares.0 * total / count.max(1) as f64; count],
            family: prior.shares.1 * total,
            near: prior.shares.2 * total,
            difficulty: prior.instance.0 * total,
            own: shares.iter().map(|share| if sum > 0.0 { 0.1 * total * share / sum } else { 0.0 }).collect(),
            noise: prior.instance.1 * total,
        }
    }

    /// The prior covariance of the effects.
    fn covariance(&self, variances: &Variances) -> Square {
        Square::symmetric(self.kinship.len(), |a, b| self.shared(variances, a, b))
    }

    /// The prior covariance of two effects.
    fn shared(&self, variances: &Variances, a: usize, b: usize) -> f64 {
        let (price, samples) = self.prior.slope_sds;
        let mut sum = variances.total
            * (1.0
                + price * price * self.places[a].price * self.places[b].price
                + samples * samples * self.places[a].samples * self.places[b].samples);
        let mut all = 1.0;
        for (parameter, variance) in variances.main.iter().enumerate() {
            let alike = self.kinship.alike(parameter, a, b);
            sum += variance * alike;
            all *= alike;
        }
        sum += all * (variances.family + variances.near * self.kinship.near(a, b));
        if a == b { sum * (1.0 + 1e-9) } else { sum }
    }

    /// The prior means of the effects.
    fn means(&self, variances: &Variances, level: f64) -> Vec<f64> {
        let sd = variances.total.sqrt();
        let (price, samples) = self.prior.slopes;
        self.places.iter().map(|place| level + sd * (price * place.price + samples * place.samples)).collect()
    }

    fn information(&self, sheet: &Sheet, variances: &Variances) -> Information {
        let size = self.kinship.len();
        let mut information = Information { precision: Square::zeros(size), sum: vec![0.0; size], groups: Vec::new() };
        for group in &sheet.groups {
            let rows = &group.rows;
            let (own, before) = noise_precision(rows, self.kinship, variances.noise, self.prior.decay);
            let factors = self.factors(rows, variances);
            let weighted: Vec<Vec<f64>> = factors.iter().map(|factor| tridiagonal(&own, &before, factor)).collect();
            let middle = Square::symmetric(factors.len(), |a, b| {
                dot(&factors[a], &weighted[b]) + if a == b { 1.0 } else { 0.0 }
            })
            .cholesky();
            // Λ = R⁻¹ - W M⁻¹ Wᵀ, by the columns of L⁻¹ Wᵀ.
            let shared: Vec<Vec<f64>> = (0..rows.len())
                .map(|at| {
                    let mut column: Vec<f64> = weighted.iter().map(|factor| factor[at]).collect();
                    middle.forward(&mut column);
                    column
                })
                .collect();
            let count = group.lines.len() as f64;
            for (a, &row) in rows.iter().enumerate() {
                information.precision.add(row, row, count * own[a]);
                if a > 0 && before[a] != 0.0 {
                    information.precision.add(row, rows[a - 1], count * before[a]);
                    information.precision.add(rows[a - 1], row, count * before[a]);
                }
                let line = information.precision.row_mut(row);
                for (b, &other) in rows.iter().enumerate() {
                    line[other] -= count * dot(&shared[a], &shared[b]);
                }
            }
            // Sums of observations over the group's instances.
            let mut sums = vec![0.0; size];
            for &at in &group.lines {
                sheet.lines[at].iter().for_each(|&(row, value)| sums[row as usize] += value - sheet.mean);
            }
            let values: Vec<f64> = rows.iter().map(|&row| sums[row]).collect();
            let plain = tridiagonal(&own, &before, &values);
            let mut difficulty: Vec<f64> = weighted.iter().map(|factor| dot(factor, &values)).collect();
            middle.forward(&mut difficulty);
            for (a, &row) in rows.iter().enumerate() {
                information.sum[row] += plain[a] - dot(&shared[a], &difficulty);
            }
            information.groups.push(Prepared { weighted, middle });
        }
        information
    }

    /// The correlation of the noise of two rows of a family on an instance.
    fn correlation(&self, a: usize, b: usize) -> f64 {
        let (a, b) = (self.kinship.samples[a], self.kinship.samples[b]);
        (a.min(b) / a.max(b)).powf(self.prior.decay)
    }

    /// The columns of what instances have in common: all rows, and those that share a value.
    fn factors(&self, rows: &[usize], variances: &Variances) -> Vec<Vec<f64>> {
        let mut factors = vec![vec![variances.difficulty.sqrt(); rows.len()]];
        for (parameter, variance) in variances.own.iter().enumerate().filter(|(_, variance)| **variance > 0.0) {
            let Some(codes) = self.kinship.shared_kinds(parameter, FEW) else { continue };
            for code in 0..=codes.iter().copied().max().unwrap_or(0) {
                let factor: Vec<f64> =
                    rows.iter().map(|&row| if codes[row] == code { variance.sqrt() } else { 0.0 }).collect();
                factors.push(factor);
            }
        }
        factors
    }

    /// What is believed, given variances.
    pub fn fit(&self, sheet: &Sheet, variances: &Variances) -> Belief {
        let size = self.kinship.len();
        let information = self.information(sheet, variances);
        let start = self.means(variances, 0.0);
        let effect_covariance = posterior(&self.covariance(variances), &information.precision);
        let expected = information.precision.times(&start);
        let surprise: Vec<f64> = information.sum.iter().zip(&expected).map(|(sum, expected)| sum - expected).collect();
        let gain = effect_covariance.times(&surprise);
        let effect: Vec<f64> = start.iter().zip(&gain).map(|(start, gain)| start + gain).collect();

        // Difficulties, to predict what was not observed: their sums over all instances, and over those each row saw.
        let all_rows: Vec<usize> = (0..size).collect();
        let all_factors = self.factors(&all_rows, variances);
        let mut total = vec![0.0; all_factors.len()];
        let mut seen = vec![vec![0.0; all_factors.len()]; size];
        // What siblings showed of the noise, where a row itself was not observed: they share samples.
        let mut inherited = vec![0.0; size];
        let mut families: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        (0..size).for_each(|row| families.entry(self.kinship.family[row]).or_default().push(row));
        for (group, prepared) in sheet.groups.iter().zip(&information.groups) {
            let mut values = vec![0.0; size];
            let mut left = vec![0.0; group.rows.len()];
            for &at in &group.lines {
                sheet.lines[at]
                    .iter()
                    .for_each(|&(row, value)| values[row as usize] = value - sheet.mean - effect[row as usize]);
                let line: Vec<f64> = group.rows.iter().map(|&row| values[row]).collect();
                let mut difficulty: Vec<f64> = prepared.weighted.iter().map(|factor| dot(factor, &line)).collect();
                prepared.middle.forward(&mut difficulty);
                prepared.middle.backward(&mut difficulty);
                total.iter_mut().zip(&difficulty).for_each(|(sum, value)| *sum += value);
                for ((left, value), &row) in left.iter_mut().zip(&line).zip(&group.rows) {
                    *left += value - (0..difficulty.len()).map(|at| all_factors[at][row] * difficulty[at]).sum::<f64>();
                }
                for &row in &group.rows {
                    seen[row].iter_mut().zip(&difficulty).for_each(|(sum, value)| *sum += value);
                }
            }
            // Rows of a family stand together, by n: the nearest in n speaks for those that are missing.
            for part in group.rows.chunk_by(|&a, &b| self.kinship.family[a] == self.kinship.family[b]) {
                let from = group.rows.partition_point(|&row| self.kinship.family[row] < self.kinship.family[part[0]]);
                let missing = families[&self.kinship.family[part[0]]].iter().filter(|row| !part.contains(row));
                for &row in missing {
                    let shared = |at: &usize| self.correlation(part[*at], row);
                    let near = (0..part.len()).rev().max_by(|a, b| shared(a).total_cmp(&shared(b)));
                    inherited[row] += near.map_or(0.0, |at| shared(&at) * left[from + at]);
                }
            }
        }
        let instances = sheet.instances.max(1) as f64;
        let mean: Vec<f64> = (0..size)
            .map(|row| {
                let count = sheet.count[row] as f64;
                let unseen: f64 = (0..total.len()).map(|at| all_factors[at][row] * (total[at] - seen[row][at])).sum();
                let rest = (instances - count) * (effect[row] + sheet.mean);
                if count >= instances {
                    sheet.sum[row] / count
                } else {
                    (sheet.sum[row] + rest + unseen + inherited[row]) / instances
                }
            })
            .collect();
        let left: Vec<f64> = sheet.count.iter().map(|&count| (1.0 - count as f64 / instances).max(0.0)).collect();
        let covariance = Square::symmetric(size, |a, b| {
            let own = if a == b { left[a] / instances * variances.noise } else { 0.0 };
            left[a] * left[b] * effect_covariance.at(a, b) + own
        });
        let effect = effect.iter().map(|effect| effect + sheet.mean).collect();
        let mut group = vec![None; sheet.lines.len()];
        for (at, seen) in sheet.groups.iter().enumerate() {
            seen.lines.iter().for_each(|&line| group[line] = Some(at));
        }
        let groups = sheet.groups.iter().zip(information.groups).map(|(group, prepared)| Seen {
            rows: group.rows.clone(),
            weighted: prepared.weighted,
            middle: prepared.middle,
            reach: None,
        });
        let outlook = Outlook {
            covariance: effect_covariance,
            factors: all_factors,
            groups: groups.collect(),
            group,
            family: self.kinship.family.clone(),
            samples: self.kinship.samples.clone(),
            noise: variances.noise,
            decay: self.prior.decay,
        };
        Belief { mean, covariance, effect, outlook, count: sheet.count.clone(), noise: variances.noise }
    }
}
