//! Tests that stay valid however often one looks and whenever one stops: betting on a mean (Waudby-Smith & Ramdas,
//! "Estimating means of bounded random variables by betting", JRSS B 2024; Ville's inequality, 1939).
//!
//! A player bets against "the mean is at most m" with a share of the wealth on every observation. Where the claim is
//! true the wealth is a supermartingale, so it is ever above 1/alpha with a chance of at most alpha: at any time, under
//! any rule of stopping that does not look at what comes next. The wealth is an *e-value*. Wealth is spread over a fixed
//! set of shares (a mixture), so nothing is tuned to the data.

/// The shares of what may be lost at most that are bet, all with the same weight: small ones win on long series of small
/// differences, large ones on short series of large ones.
const SHARES: [f64; 12] = [0.01, 0.02, 0.04, 0.07, 0.11, 0.17, 0.25, 0.35, 0.48, 0.63, 0.8, 0.95];

/// How surely something is claimed: an e-value of 20 is 95 %.
pub const CLAIM: f64 = 20.0;

/// What is known of the mean of paired differences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sequential {
    /// The mean of the differences seen.
    pub difference: f64,
    /// Holds the mean at all times together with the level that was asked for.
    pub confidence_sequence: (f64, f64),
    /// The evidence against "the mean is 0", for a look at both sides and with the weight of this question among others:
    /// from [`CLAIM`] on, 0 is outside of the 95 % sequence.
    pub e_value: f64,
    /// How many differences there are.
    pub pairs: usize,
}

/// Tests whether the mean of differences is 0, in the order in which they were seen.
///
/// `range` is how far apart two scores can be (1 for scores of 0 to 1), known beforehand: differences lie within
/// `-range..=range`. `weight` in `0..=1` is this question's share of the error that all questions may make together:
/// weights that sum to at most 1 make all answers hold at once. `None` without differences, with one outside of the
/// range, or where range or weight are no positive numbers.
pub fn paired(differences: &[f64], range: f64, weight: f64) -> Option<Sequential> {
    let sound = |value: f64| value.is_finite() && value > 0.0;
    if differences.is_empty() || !sound(range) || !sound(weight) || weight > 1.0 {
        return None;
    }
    // Rounding of a sum of weights may leave a difference 1e-16 outside.
    let within = |x: &f64| (-1.0 - 1e-9..=1.0 + 1e-9).contains(x);
    let scaled: Vec<f64> = differences.iter().map(|difference| difference / range).collect();
    if !scaled.iter().all(within) {
        return None;
    }
    let scaled: Vec<f64> = scaled.into_iter().map(|x| x.clamp(-1.0, 1.0)).collect();
    let mirrored: Vec<f64> = scaled.iter().map(|x| -x).collect();
    // Each side has half of the error.
    let side = weight / 2.0;
    let e_value = side * log_wealth(&scaled, 0.0, 1.0).max(log_wealth(&mirrored, 0.0, 1.0)).min(690.0).exp();
    let threshold = (CLAIM / side).ln();
    let low = lower(&scaled, threshold);
    let high = -lower(&mirrored, threshold);
    let mean = scaled.iter().sum::<f64>() / scaled.len() as f64;
    Some(Sequential {
        difference: mean * range,
        confidence_sequence: (low.min(mean) * range, high.max(mean) * range),
        e_value,
        pairs: differences.len(),
    })
}

/// The logarithm of the wealth of betting that the mean is above `mean`, of values that are never below `-floor`: a share
/// c stakes `c / (floor + mean)`, so no value can ruin it.
fn log_wealth(values: &[f64], mean: f64, floor: f64) -> f64 {
    let room = (floor + mean).max(f64::MIN_POSITIVE);
    let of = |share: &f64| values.iter().map(|value| (share * (value - mean) / room).ln_1p()).sum::<f64>();
    let logs = SHARES.each_ref().map(of);
    let most = logs.iter().copied().fold(f64::MIN, f64::max);
    most + (logs.iter().map(|log| (log - most).exp()).sum::<f64>() / SHARES.len() as f64).ln()
}

/// The least mean within -1..=1 that the wealth does not refute: it falls as the mean rises.
fn lower(values: &[f64], threshold: f64) -> f64 {
    let (mut out, mut within) = (-1.0, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(out, within);
        match log_wealth(values, middle, 1.0) >= threshold {
            true => out = middle,
            false => within = middle,
        }
    }
    out
}

/// The logarithm of the evidence that the mean of values is above `mean`, where the values have no upper bound but are
/// never negative, like prices. 0 without values, or where one is negative or not finite; infinite where `mean` is not
/// above 0 and a value is.
pub fn above(values: &[f64], mean: f64) -> f64 {
    if values.is_empty() || !values.iter().all(|value| value.is_finite() && *value >= 0.0) || mean.is_nan() {
        return 0.0;
    }
    if mean <= 0.0 {
        return if values.iter().any(|value| *value > 0.0) { f64::INFINITY } else { 0.0 };
    }
    log_wealth(values, mean, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha12Rng;

    /// Differences of two 0/1 scores: better with this chance, worse with that one.
    fn pairs(rng: &mut ChaCha12Rng, count: usize, better: f64, worse: f64) -> Vec<f64> {
        let one = |rng: &mut ChaCha12Rng| match rng.random::<f64>() {
            u if u < better => 1.0,
            u if u < better + worse => -1.0,
            _ => 0.0,
        };
        (0..count).map(|_| one(rng)).collect()
    }

    /// The share of series in which 0 is ever refuted, looking after every tenth pair.
    fn ever_refuted(better: f64, worse: f64, count: usize, series: usize) -> f64 {
        let mut rng = ChaCha12Rng::seed_from_u64(5);
        let refuted = (0..series).filter(|_| {
            let values = pairs(&mut rng, count, better, worse);
            let mirrored: Vec<f64> = values.iter().map(|value| -value).collect();
            let e_value =
                |n: usize| log_wealth(&values[..n], 0.0, 1.0).max(log_wealth(&mirrored[..n], 0.0, 1.0)).exp() / 2.0;
            (20..=count).step_by(20).any(|n| e_value(n) >= CLAIM)
        });
        refuted.count() as f64 / series as f64
    }

    #[test]
    fn no_rule_of_stopping_raises_the_error() {
        for (chance, count) in [(0.5, 100), (0.25, 300), (0.05, 300)] {
            let error = ever_refuted(chance / 2.0, chance / 2.0, count, 200);
            assert!(error <= 0.05, "{chance}: {error}");
        }
    }

    #[test]
    fn differences_are_found() {
        // 12 points better with a quarter of the pairs apart: most series of 300 show it. 30 points: nearly all of 100.
        let small = ever_refuted(0.19, 0.07, 300, 60);
        let large = ever_refuted(0.36, 0.06, 100, 60);
        assert!(small > 0.7 && large > 0.85, "{small} {large}");
    }

    #[test]
    fn the_sequence_covers_at_all_times() {
        let mut rng = ChaCha12Rng::seed_from_u64(9);
        let missed = (0..60).filter(|_| {
            let values: Vec<f64> = (0..200).map(|_| rng.random::<f64>().powi(3) - 0.1).collect();
            (5..=200).step_by(39).any(|n| {
                let (low, high) = paired(&values[..n], 1.0, 1.0).unwrap().confidence_sequence;
                !(low..=high).contains(&0.15)
            })
        });
        assert!(missed.count() <= 3);
    }

    #[test]
    fn prices_above_a_mean_are_found_and_others_are_not() {
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        // Prices with a long tail: mean 1, variance about 2.
        let mut series = |mean: f64| -> Vec<f64> {
            (0..200)
                .map(|_| {
                    let u: f64 = rng.random();
                    mean * 0.5 * (1.0 - u).powf(-0.5).min(30.0) / 0.983
                })
                .collect()
        };
        let ever = |values: &[f64]| (1..=values.len()).step_by(3).any(|n| above(&values[..n], 1.0) >= 40.0_f64.ln());
        let wrong = (0..200).filter(|_| ever(&series(1.0))).count();
        assert!(wrong as f64 <= 0.025 * 200.0, "{wrong}");
        let found = (0..50).filter(|_| ever(&series(3.0)[..40])).count();
        assert!(found >= 48, "{found}");
        assert_eq!((above(&[], 1.0), above(&[-1.0], 1.0), above(&[1.0], 0.0)), (0.0, 0.0, f64::INFINITY));
    }

    #[test]
    fn what_is_no_question_has_no_answer() {
        assert_eq!(paired(&[], 1.0, 1.0), None);
        assert_eq!(paired(&[2.0], 1.0, 1.0), None);
        assert_eq!(paired(&[f64::NAN], 1.0, 1.0), None);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!((paired(&[0.5], bad, 1.0), paired(&[0.5], 1.0, bad)), (None, None));
        }
        let all = paired(&[1.0; 1000], 1.0, 1.0).unwrap();
        assert!(all.e_value.is_finite() && all.e_value > 1e100 && all.confidence_sequence.0 > 0.9, "{all:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn answers_agree_with_each_other(
            values in prop::collection::vec(-1.0_f64..=1.0, 1..60),
            range in 1e-3_f64..1e3,
            weight in 1e-4_f64..=1.0,
        ) {
            let scaled: Vec<f64> = values.iter().map(|value| value * range).collect();
            let answer = paired(&scaled, range, weight).unwrap();
            let (low, high) = answer.confidence_sequence;
            prop_assert!(low <= answer.difference && answer.difference <= high && low >= -range * 1.0001 && high <= range * 1.0001);
            // 0 is refuted exactly where it lies outside.
            let outside = low > 1e-9 * range || high < -1e-9 * range;
            prop_assert!(!outside || answer.e_value >= CLAIM * 0.999);
            prop_assert!(answer.e_value < CLAIM * 1.001 || low >= -1e-9 * range || high <= 1e-9 * range);
            // The other way round it is the mirror image.
            let mirrored: Vec<f64> = scaled.iter().map(|value| -value).collect();
            let mirror = paired(&mirrored, range, weight).unwrap();
            prop_assert!((mirror.confidence_sequence.0 + high).abs() < 1e-9 * range && (mirror.e_value / answer.e_value - 1.0).abs() < 1e-9);
            // Less weight claims less.
            prop_assert!(paired(&scaled, range, weight / 2.0).unwrap().e_value <= answer.e_value);
        }
    }
}
