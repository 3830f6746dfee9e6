//! Two systems compared on the same instances.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use statrs::distribution::{Binomial, DiscreteCDF};

use super::interval::{is_binary, normal_quantile, t_interval};
use super::{finite, mean_of, scale_of};

/// Up to so many pairs that differ, all their signs are gone through.
const EXACT: usize = 13;
/// With more, so many draws of them are.
const DRAWS: usize = 10_000;
/// Up to so many pairs that differ, the ways to choose of them are numbers that a float can hold.
const COUNTED: u64 = 1000;
/// Where the p-value is greater, nothing is claimed; a permutation test's interval then holds 0.
pub const LEVEL: f64 = 0.05;

/// What is known of the difference between two systems.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The mean of the first less the mean of the second.
    pub difference: f64,
    /// Its 95 % confidence interval, which contains it: Tango's score interval for 0/1 pairs, else Student's t, widened
    /// to 0 where the test does not exclude 0.
    pub ci95: (f64, f64),
    /// Two-sided, in `(0, 1]`: how likely so great a difference is where the systems are equally good.
    pub p_value: f64,
    /// `mcnemar_exact` where every value is 0 or 1, else `paired_permutation`.
    pub test: &'static str,
    /// How many pairs there are.
    pub pairs: usize,
}

/// Compares two systems by their values on the same instances, in the same order; `seed` is the draws'.
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
    let difference = mean_of(&differences);
    let p_value = sign_flips(&differences, seed);
    let (mut low, mut high) = t_interval(&differences, 0.95)?;
    if p_value > LEVEL {
        (low, high) = (low.min(0.0), high.max(0.0));
    }
    let scaled = |value: f64| finite(value * scale);
    Some(Comparison {
        difference: scaled(difference),
        ci95: (scaled(low), scaled(high)),
        p_value,
        test: "paired_permutation",
        pairs,
    })
}

/// The exact test of McNemar (1947): two-sided binomial on the pairs that differ, `better` one way and `worse` the other.
pub fn mcnemar_exact(better: u64, worse: u64) -> f64 {
    let (discordant, fewer) = (better.saturating_add(worse), better.min(worse));
    if better == worse {
        return 1.0;
    }
    if discordant <= COUNTED {
        // The ways to choose 0, 1, 2 ... of them, out of two to their number: nothing is rounded below some fifty pairs.
        let (mut ways, mut sum) = (1.0, 1.0);
        for chosen in 1..=fewer {
            ways = ways * (discordant - chosen + 1) as f64 / chosen as f64;
            sum += ways;
        }
        return (sum * 2.0_f64.powi(1 - discordant as i32)).min(1.0);
    }
    let tail = Binomial::new(0.5, discordant).map_or(0.5, |binomial| binomial.cdf(fewer));
    (2.0 * tail).clamp(f64::MIN_POSITIVE, 1.0)
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

/// The permutation test of paired values (Fisher 1935): where the systems are equally good, either of a pair's values
/// could have been the other's, so every difference could as well have had the other sign. The p-value is the share of
/// all signs that give a sum as far from 0 as the data's: exact for any number of pairs, so with fewer than six that
/// differ it is never below 0.05. With many pairs signs are drawn, and 1 is added to both counts, so it is never 0.
fn sign_flips(differences: &[f64], seed: u64) -> f64 {
    let sizes: Vec<f64> = differences.iter().map(|value| value.abs()).filter(|size| *size > 0.0).collect();
    let all: f64 = sizes.iter().sum();
    // Rounding must not make signs that equal the data's count as nearer. The values are at most 1.
    let slack = 1e-12 * all + 4.0 * f64::EPSILON * sizes.len() as f64;
    let seen = differences.iter().sum::<f64>().abs() - slack;
    if sizes.len() <= EXACT {
        // The first sign stays: the mirror image is as far from 0.
        let mut sums = vec![sizes.first().copied().unwrap_or(0.0)];
        for size in sizes.iter().skip(1) {
            sums = sums.iter().flat_map(|sum| [sum + size, sum - size]).collect();
        }
        return sums.iter().filter(|sum| sum.abs() >= seen).count() as f64 / sums.len() as f64;
    }
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut drawn = || {
        let mut positive = 0.0;
        for sizes in sizes.chunks(64) {
            let signs: u64 = rng.random();
            positive +=
                sizes.iter().enumerate().filter(|(at, _)| signs >> at & 1 == 1).map(|(_, size)| size).sum::<f64>();
        }
        2.0 * positive - all
    };
    let as_far = (0..DRAWS).filter(|_| drawn().abs() >= seen).count();
    (as_far + 1) as f64 / (DRAWS + 1) as f64
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

    #[test]
    fn mcnemar_is_exact_where_floats_are() {
        let p = |better, worse| mcnemar_exact(better, worse);
        assert_eq!([p(1, 0), p(2, 0), p(3, 0), p(0, 6), p(12, 2)], [1.0, 0.5, 0.25, 0.03125, 0.012939453125]);
        assert_eq!(p(50, 0), 2.0_f64.powi(-49));
        // The middle one of an odd number and its mirror image are everything there is.
        assert_eq!(p(25, 24), 1.0);
        assert!(p(501, 500) <= 1.0 && p(501, 500) > 1.0 - 1e-9, "{}", p(501, 500));
        // Where counting ends, the two ways to work it out meet.
        for (better, worse) in [(520, 480), (560, 440), (700, 300)] {
            let tail = Binomial::new(0.5, 1000).unwrap().cdf(worse);
            assert!((p(better, worse) / (2.0 * tail) - 1.0).abs() < 1e-9, "{better} {worse}");
        }
        assert_eq!(p(1000, 0), 2.0_f64.powi(-999));
        assert!(p(u64::MAX, 0) > 0.0);
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

    // Reference values: scipy 1.17 `permutation_test(permutation_type="samples")` on all signs.
    #[test]
    fn few_pairs_are_tested_by_all_signs() {
        for (differences, p) in [
            (vec![1.0, 1.01, 1.02], 0.25),
            (vec![0.3, -0.1, 0.2, 0.4, 0.5, 0.6, 0.05], 0.046875),
            // 0.1 + 0.2 is as far out as 0.3, whatever the rounding; what does not differ says nothing.
            (vec![0.1, 0.2, 0.0, -0.3, 0.0], 1.0),
        ] {
            let zeros = vec![0.0; differences.len()];
            let comparison = compare(&differences, &zeros, 1).unwrap();
            assert_eq!((comparison.test, comparison.p_value), ("paired_permutation", p), "{differences:?}");
            assert_eq!(comparison, compare(&differences, &zeros, 2).unwrap(), "nothing is drawn");
            assert_eq!(compare(&zeros, &differences, 1).unwrap().p_value, p);
        }
        // So close together that t alone would be sure of three pairs: the interval says what the test says.
        assert_eq!(compare(&[1.0, 1.01, 1.02], &[0.0; 3], 1).unwrap().ci95.0, 0.0);
    }

    #[test]
    fn many_pairs_have_the_t_interval_and_drawn_signs() {
        let mut rng = ChaCha12Rng::seed_from_u64(5);
        let mut differences: Vec<f64> = (0..200).map(|at| f64::from(at) / 199.0 - 0.44).collect();
        differences.shuffle(&mut rng);
        let zeros = vec![0.0; 200];
        let comparison = compare(&differences, &zeros, 7).unwrap();
        let (low, high) = t_interval(&differences, 0.95).unwrap();
        assert!((comparison.ci95.0 - low).abs() < 1e-12 && (comparison.ci95.1 - high).abs() < 1e-12, "{comparison:?}");
        // Student's t: 2.92 standard errors, p = 0.0039.
        assert!((0.0015..0.0075).contains(&comparison.p_value), "{comparison:?}");
        assert_eq!(comparison, compare(&differences, &zeros, 7).unwrap());
        let plain: Vec<f64> = (0..200).map(|at| f64::from(at) / 199.0).collect();
        assert_eq!(compare(&plain, &zeros, 7).unwrap().p_value, 1.0 / 10_001.0);
    }

    /// A difference that is as likely to be positive as negative, with a few that are much larger than the rest.
    fn difference(rng: &mut ChaCha12Rng) -> f64 {
        let value = |rng: &mut ChaCha12Rng| super::super::normal(rng).exp();
        value(rng) - value(rng)
    }

    #[test]
    fn equal_systems_are_told_apart_in_one_of_twenty_at_most() {
        let mut rng = ChaCha12Rng::seed_from_u64(11);
        for (pairs, studies) in [(2, 2_000), (3, 2_000), (5, 2_000), (8, 2_000), (20, 300)] {
            let (mut wrong, mut excluded) = (0, 0);
            for study in 0..studies {
                let a: Vec<f64> = (0..pairs).map(|_| difference(&mut rng)).collect();
                let comparison = compare(&a, &vec![0.0; pairs], study).unwrap();
                wrong += u64::from(comparison.p_value <= 0.05);
                excluded += u64::from(comparison.ci95.0 > 0.0 || comparison.ci95.1 < 0.0);
            }
            // Three standard errors above 5 %.
            let most = 0.05 * studies as f64 + 3.0 * (0.05 * 0.95 * studies as f64).sqrt();
            println!("{pairs} pairs: p <= 0.05 in {wrong}, 0 excluded in {excluded} of {studies}");
            assert!((wrong as f64) < most && excluded <= wrong, "{pairs} pairs: {wrong} and {excluded} of {studies}");
            assert!(pairs > 5 || wrong == 0, "{pairs} pairs: {wrong}");
        }
    }

    #[test]
    fn what_is_better_is_found_on_thirty_pairs() {
        let mut rng = ChaCha12Rng::seed_from_u64(12);
        // Better by 0.7 standard deviations of a difference: Student's t finds 96 % of that.
        let found = (0..100).filter(|&study| {
            let a: Vec<f64> = (0..30).map(|_| 0.7 + super::super::normal(&mut rng)).collect();
            let comparison = compare(&a, &[0.0; 30], study).unwrap();
            comparison.p_value <= 0.05 && comparison.ci95.0 > 0.0
        });
        assert!(found.count() >= 88);
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
