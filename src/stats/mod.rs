//! Statistics as pure functions: intervals of a mean, paired comparisons, and the model that the race ranks by.
//!
//! Every function gives finite numbers for finite inputs, and `None` where the inputs do not determine an answer.

pub mod additive;
pub mod eprocess;
pub mod importance;
pub mod interval;
pub mod paired;
pub mod racing;
pub mod selection;

pub use interval::{Estimate, estimate, mean_interval, t_interval, wilson};
pub use paired::{Comparison, compare, mcnemar_exact, tango};

use rand::RngExt;

/// Missing a greater share of its instances than this, a configuration cannot be best.
pub const TOLERATED_MISSING: f64 = 0.05;

/// True where more than the tolerated share is missing.
pub fn too_much_missing(missing: usize, asked: usize) -> bool {
    missing as f64 > TOLERATED_MISSING * asked as f64
}

/// A standard normal number (Box & Muller 1958).
pub(crate) fn normal(rng: &mut impl RngExt) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    // 1 - u is never 0.
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Values as they come: how many, their mean, and the sum of their squared differences from it (Welford 1962).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Running {
    pub count: f64,
    pub mean: f64,
    pub squares: f64,
}

impl Running {
    /// One value more.
    pub fn add(&mut self, value: f64) {
        self.count += 1.0;
        let step = value - self.mean;
        self.mean += step / self.count;
        self.squares += step * (value - self.mean);
    }
}

/// The power of two just above the largest magnitude: dividing by it is exact and keeps squares from overflowing.
/// 1 where every value is 0.
fn scale_of(values: impl Iterator<Item = f64>) -> f64 {
    let largest = values.fold(0.0_f64, |largest, value| largest.max(value.abs()));
    if largest == 0.0 {
        return 1.0;
    }
    // 2^1023 is the largest power that is finite; 2^-1022 the smallest whose inverse is.
    let exponent = (largest.log2().floor() + 1.0).clamp(-1022.0, 1023.0);
    2.0_f64.powi(exponent as i32)
}

/// The expected improvement of a normal value, given by its mean and standard deviation, on the best.
pub fn improvement((mean, sd): (f64, f64), best: f64) -> f64 {
    let gap = mean - best;
    if sd <= 1e-12 {
        return gap.max(0.0);
    }
    let z = gap / sd;
    let chance = 0.5 * (1.0 + statrs::function::erf::erf(z * std::f64::consts::FRAC_1_SQRT_2));
    // Where nothing promises to improve, the likeliest does: a little of the mean decides between zeros.
    gap * chance + sd * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt() + 1e-9 * z
}

/// A number forced into the finite range.
fn finite(value: f64) -> f64 {
    value.clamp(f64::MIN, f64::MAX)
}

/// The mean, which lies between the least and the greatest value. Needs at least one value, all finite.
fn mean_of(values: &[f64]) -> f64 {
    let scale = scale_of(values.iter().copied());
    let mean = values.iter().map(|value| value / scale).sum::<f64>() / values.len() as f64;
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    let greatest = values.iter().copied().fold(f64::MIN, f64::max);
    (mean * scale).clamp(least, greatest)
}
