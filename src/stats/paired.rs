//! Two systems compared on the same instances.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use statrs::distribution::{Binomial, DiscreteCDF};

use super::interval::{is_binary, normal_quantile};
use super::{finite, mean_of, scale_of};

/// How often the pairs are drawn anew.
const RESAMPLES: usize = 10_000;

/// What is known of the difference between two systems.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The mean of the first less the mean of the second.
    pub difference: f64,
    /// Its 95 % confidence interval, which contains it: Tango's score interval for 0/1 pairs, else the percentiles of
    /// the paired bootstrap.
    pub ci95: (f64, f64),
    /// Two-sided, in `(0, 1]`: how likely so great a difference is where the systems are equally good.
    pub p_value: f64,
    /// `mcnemar_exact` where every value is 0 or 1, else `paired_bootstrap`.
    pub test: &'static str,
    /// How many pairs there are.
    pub pairs: usize,
}

/// Compares two systems by their values on the same instances, in the same order; `seed` is the bootstrap's.
///
/// `None` where the lengths differ, a value is not finite, or there is no pair (for values other than 0 and 1: fewer
/// than two).
pub fn compare(a: &[f64], b: &[f64], seed: u64) -> Option<Comparison> {
    let pairs = a.len();
    if pairs == 0 || pairs != b.len() || !a.iter().chain(b).all(|value| value.is_finite()) {
        return None;
    }
    if is_binary(a) && is_binary(b) {
        let better = a.iter().zip(b).filter(|(a, b)| a > b).count() as u64;
        let worse = a.iter().zip(b).filter(|(a, b)| a < b).count() as u64;
        let difference = (better as f64 - worse as f64) / pairs as f64;
        let (ci95, p_value) = (tango(better, worse, pairs as u64, 0.95)?, mcnemar_exact(better, worse));
        return Some(Comparison { difference, ci95, p_value, test: "mcnemar_exact", pairs });
    }
    if pairs < 2 {
        return None;
    }
    let scale = scale_of(a.iter().chain(b).copied());
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / scale - b / scale).collect();
    let (difference, (low, high), p_value) = bootstrap(&differences, seed);
    let scaled = |value: f64| finite(value * scale);
    Some(Comparison {
        difference: scaled(difference),
        ci95: (scaled(low), scaled(high)),
        p_value,
        test: "paired_bootstrap",
        pairs,
    })
}

/// The exact test of McNemar (1947): two-sided binomial on the pairs that differ, `better` one way and `worse` the other.
pub fn mcnemar_exact(better: u64, worse: u64) -> f64 {
    let discordant = better.saturating_add(worse);
    match Binomial::new(0.5, discordant) {
        Ok(binomial) if better != worse => (2.0 * binomial.cdf(better.min(worse))).clamp(f64::MIN_POSITIVE, 1.0),
        _ => 1.0,
    }
}

/// The score interval of the difference of two paired proportions (Tango 1998): `better` pairs are (1, 0), `worse`
/// are (0, 1), out of `pairs`. It has a width even where no pair differs.
///
/// `None` without pairs, with more that differ than there are, or where `level` is not between 0 and 1.
pub fn tango(better: u64, worse: u64, pairs: u64, level: f64) -> Option<(f64, f64)> {
    if pairs == 0 || better.checked_add(worse)? > pairs {
        return None;
    }
    let z = normal_quantile(level)?;
    let (b, c, n) = (better as f64, worse as f64, pairs as f64);
    let estimate = (b - c) / n;
    // Falls as `delta` rises: the interval is where it lies within -z..z.
    let statistic = |delta: f64| {
        // The likeliest share of (0, 1) pairs where the difference is `delta`: the root of a quadratic.
        let linear = (2.0 * n - b + c) * delta - b - c;
        let constant = -c * delta * (1.0 - delta);
        let share = ((linear * linear - 8.0 * n * constant).max(0.0).sqrt() - linear) / (4.0 * n);
        let variance = n * (2.0 * share + delta * (1.0 - delta));
        let distance = b - c - n * delta;
        if distance == 0.0 { 0.0 } else { distance / variance.max(f64::MIN_POSITIVE).sqrt() }
    };
    let bound = |mut inside: f64, mut outside: f64, reached: &dyn Fn(f64) -> bool| {
        for _ in 0..100 {
            let middle = inside + (outside - inside) / 2.0;
            if reached(statistic(middle)) {
                outside = middle;
            } else {
                inside = middle;
            }
        }
        inside
    };
    let low = bound(estimate, -1.0, &|statistic| statistic > z);
    let high = bound(estimate, 1.0, &|statistic| statistic < -z);
    Some((low.min(estimate), high.max(estimate)))
}

/// The mean difference, its 95 % percentile interval and the two-sided p-value, from resampled pairs
/// (Efron & Tibshirani 1993). The p-value is the share of resamples, moved to a mean of 0, that lie as far out as the
/// data, with 1 added to both counts (Davison & Hinkley 1997), so it is never 0.
fn bootstrap(differences: &[f64], seed: u64) -> (f64, (f64, f64), f64) {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let count = differences.len();
    let mean = mean_of(differences);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..count).map(|_| differences[rng.random_range(0..count)]).sum::<f64>() / count as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    // Rounding must not make a resample that equals the data count as nearer.
    let slack = 1e-12 * scale_of(differences.iter().copied());
    let extreme = means.iter().filter(|resample| (*resample - mean).abs() >= mean.abs() - slack).count();
    let p_value = (extreme + 1) as f64 / (RESAMPLES + 1) as f64;
    let tail = RESAMPLES / 40;
    let interval = (means[tail].min(mean), means[RESAMPLES - 1 - tail].max(mean));
    (mean, interval, p_value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::seq::SliceRandom;

    // Reference values: scipy 1.17 `binomtest`, statsmodels 0.15 `mcnemar(exact=True)`.
    #[test]
    fn mcnemar_agrees_with_statsmodels() {
        for (better, worse, p) in [
            (12, 2, 0.012939453125),
            (5, 5, 1.0),
            (0, 6, 0.03125),
            (30, 14, 0.022628841205914796),
            (1, 0, 1.0),
            (0, 0, 1.0),
        ] {
            assert!(
                (mcnemar_exact(better, worse) - p).abs() < 1e-12,
                "{better} {worse} {}",
                mcnemar_exact(better, worse)
            );
            assert_eq!(mcnemar_exact(better, worse), mcnemar_exact(worse, better));
        }
    }

    // Reference values: the multinomial likelihood maximized under the difference by scipy's `brentq`, and the score
    // statistic from it, solved for the bounds by `brentq` again.
    #[test]
    fn tango_agrees_with_a_numerical_score_interval() {
        for (better, worse, pairs, low, high) in [
            (12, 2, 50, 0.06111240618634395, 0.3447087482821487),
            (5, 5, 20, -0.3058483894108038, 0.30584838941080383),
            (30, 14, 249, 0.01252592104249091, 0.11833909796060847),
            (0, 0, 30, -0.11351339317416877, 0.11351339317416875),
            (6, 0, 10, 0.15594752021937733, 0.8318196702938707),
            (9, 1, 44, 0.05033274034445879, 0.3283412711182442),
        ] {
            let interval = tango(better, worse, pairs, 0.95).unwrap();
            assert!((interval.0 - low).abs() < 1e-7 && (interval.1 - high).abs() < 1e-7, "{interval:?} {low} {high}");
        }
        assert_eq!(tango(1, 1, 1, 0.95), None);
        assert_eq!(tango(0, 0, 0, 0.95), None);
    }

    #[test]
    fn binary_pairs_are_tested_exactly() {
        let a = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
        let comparison = compare(&a, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1).unwrap();
        assert_eq!((comparison.test, comparison.pairs), ("mcnemar_exact", 6));
        assert!((comparison.p_value - 0.0625).abs() < 1e-12);
        assert!((comparison.difference - 5.0 / 6.0).abs() < 1e-12);
        assert_eq!(compare(&a, &a, 1).unwrap().p_value, 1.0);
    }

    #[test]
    fn the_bootstrap_is_close_to_the_t_interval_on_plain_data() {
        // 200 values spread evenly over 0..=1: both intervals nearly agree for so many pairs.
        let mut rng = ChaCha12Rng::seed_from_u64(5);
        let mut differences: Vec<f64> = (0..200).map(|at| f64::from(at) / 199.0).collect();
        differences.shuffle(&mut rng);
        let zeros = vec![0.0; 200];
        let comparison = compare(&differences, &zeros, 7).unwrap();
        let (low, high) = super::super::t_interval(&differences, 0.95).unwrap();
        assert!((comparison.ci95.0 - low).abs() < 0.005 && (comparison.ci95.1 - high).abs() < 0.005, "{comparison:?}");
        assert_eq!(comparison.p_value, 1.0 / 10_001.0);
        assert_eq!(comparison, compare(&differences, &zeros, 7).unwrap());
        assert_ne!(comparison.ci95, compare(&differences, &zeros, 8).unwrap().ci95);
    }

    #[test]
    fn equal_systems_are_not_told_apart() {
        let a: Vec<f64> = (0..40).map(|at| f64::from(at % 7) * 0.3).collect();
        let b: Vec<f64> = (0..40).map(|at| f64::from((at + 3) % 7) * 0.3).collect();
        assert!(compare(&a, &b, 1).unwrap().p_value > 0.3);
        assert_eq!(compare(&a, &a, 1).unwrap().p_value, 1.0);
    }

    #[test]
    fn what_cannot_be_compared_is_not() {
        assert_eq!(compare(&[], &[], 1), None);
        assert_eq!(compare(&[1.0], &[1.0, 0.0], 1), None);
        assert_eq!(compare(&[0.5], &[0.1], 1), None);
        assert_eq!(compare(&[0.5, f64::NAN], &[0.1, 0.2], 1), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_comparison_is_finite_and_contains_its_difference(
            pairs in prop::collection::vec((prop::num::f64::NORMAL, prop::num::f64::NORMAL | prop::num::f64::ZERO), 2..12),
            seed: u64,
        ) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let comparison = compare(&a, &b, seed).unwrap();
            prop_assert!(comparison.difference.is_finite() && comparison.ci95.0.is_finite() && comparison.ci95.1.is_finite());
            prop_assert!(comparison.ci95.0 <= comparison.difference && comparison.difference <= comparison.ci95.1);
            prop_assert!(comparison.p_value > 0.0 && comparison.p_value <= 1.0);
        }

        #[test]
        fn every_tango_interval_contains_its_estimate(counts: (u8, u8, u8), level in 0.5_f64..0.999) {
            let (better, worse, same) = (u64::from(counts.0), u64::from(counts.1), u64::from(counts.2) + 1);
            let pairs = better + worse + same;
            let (low, high) = tango(better, worse, pairs, level).unwrap();
            let estimate = (better as f64 - worse as f64) / pairs as f64;
            prop_assert!(-1.0 <= low && low <= estimate && estimate <= high && high <= 1.0 && low < high);
            // The other way round it is the mirror image.
            let mirrored = tango(worse, better, pairs, level).unwrap();
            prop_assert!((mirrored.0 + high).abs() < 1e-9 && (mirrored.1 + low).abs() < 1e-9);
        }
    }
}
