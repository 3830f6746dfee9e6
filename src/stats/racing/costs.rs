//! What an instance costs in production, learnt as it goes: relatives predict what was not looked at yet.

use super::kinship::Kinship;
use super::linear::{Square, posterior};

/// Prior variances of the logarithm of a cost: the level, the main effect of each parameter, a combination, its near n.
const LEVEL: f64 = 50.0;
const MAIN: f64 = 3.0;
const FAMILY: f64 = 0.04;
const NEAR: f64 = 0.05;
/// The growth with n: the expected exponent and its standard deviation.
const EXPONENT: (f64, f64) = (0.6, 0.25);
/// Variance of the logarithm of one instance's cost around its configuration's, and what stays however many are seen.
const INSTANCE: f64 = 0.05;
const LEAST: f64 = 1e-4;

/// Costs as logarithms of dollars per instance.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Expected logarithms.
    pub log: Vec<f64>,
    /// Their standard deviations.
    pub sd: Vec<f64>,
}

impl Costs {
    /// Learns from the mean costs that were seen: (dollars per instance, instances), `None` for what was not looked at.
    /// `None` where nothing above 0 was seen.
    pub fn fit(kinship: &Kinship, seen: &[Option<(f64, usize)>]) -> Option<Costs> {
        let logs: Vec<Option<(f64, f64)>> = seen
            .iter()
            .map(|seen| {
                seen.filter(|(cost, _)| *cost > 0.0)
                    .map(|(cost, count)| (cost.ln(), LEAST + INSTANCE / count.max(1) as f64))
            })
            .collect();
        let known = logs.iter().flatten().count() as f64;
        if known == 0.0 {
            return None;
        }
        let size = kinship.len();
        let line = |row: usize| kinship.samples[row].ln();
        let rest = |row: usize| logs[row].map(|(log, noise)| (log - EXPONENT.0 * line(row), noise));
        let centre = (0..size).filter_map(rest).map(|(rest, _)| rest).sum::<f64>() / known;
        let prior = Square::symmetric(size, |a, b| {
            let mut all = 1.0;
            let mut sum = LEVEL + EXPONENT.1 * EXPONENT.1 * line(a) * line(b);
            for parameter in 0..kinship.parameters.len() {
                let alike = kinship.alike(parameter, a, b);
                all *= alike;
                sum += MAIN * alike;
            }
            sum += all * (FAMILY + NEAR * kinship.near(a, b));
            if a == b { sum + 1e-6 } else { sum }
        });
        let precision = Square::symmetric(size, |a, b| match rest(a) {
            Some((_, noise)) if a == b => 1.0 / noise,
            _ => 0.0,
        });
        let covariance = posterior(&prior, &precision);
        let information: Vec<f64> =
            (0..size).map(|row| rest(row).map_or(0.0, |(rest, noise)| (rest - centre) / noise)).collect();
        let log = covariance.times(&information);
        Some(Costs {
            log: log.iter().enumerate().map(|(row, log)| log + centre + EXPONENT.0 * line(row)).collect(),
            sd: (0..size).map(|row| covariance.at(row, row).max(0.0).sqrt()).collect(),
        })
    }

    /// Expected dollars per instance.
    pub fn dollars(&self, row: usize) -> f64 {
        self.log[row].exp()
    }

    /// The probability that a configuration's mean cost is within an inference budget.
    pub fn within(&self, row: usize, budget: f64) -> f64 {
        let z = (budget.max(f64::MIN_POSITIVE).ln() - self.log[row]) / self.sd[row].max(1e-9);
        normal_cdf(z)
    }
}

/// The standard normal distribution function.
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * statrs::function::erf::erfc(-z / std::f64::consts::SQRT_2)
}
