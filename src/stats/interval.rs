//! Confidence intervals of a mean.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use super::{finite, mean_of, scale_of};

/// A mean with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean of the values; finite.
    pub mean: f64,
    /// The lower and the upper bound; they contain the mean. `None` where one value that is neither 0 nor 1 says
    /// nothing of the spread. What the values can be is not known here: see [`Estimate::within`].
    pub ci95: Option<(f64, f64)>,
    /// How many values there are, at least 1.
    pub count: usize,
}

impl Estimate {
    /// The same with its interval cut at the ends of the range that the values can have, which no mean can lie outside of.
    /// Where the mean does all the same, since a range that a user gave is left, the interval still contains it.
    #[must_use]
    pub fn within(self, (least, greatest): (f64, f64)) -> Estimate {
        let cut = |(low, high): (f64, f64)| (low.max(least).min(self.mean), high.min(greatest).max(self.mean));
        Estimate { ci95: self.ci95.map(cut), ..self }
    }
}

/// The score interval of a proportion (Wilson 1927), within `0..=1` and around `successes / trials`.
///
/// `None` without trials, with more successes than trials, or where `level` is not between 0 and 1.
pub fn wilson(successes: u64, trials: u64, level: f64) -> Option<(f64, f64)> {
    if trials == 0 || successes > trials {
        return None;
    }
    let z = normal_quantile(level)?;
    let n = trials as f64;
    let p = successes as f64 / n;
    let denominator = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / denominator;
    let half = z / denominator * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    // Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    let low = if successes == 0 { 0.0 } else { (centre - half).clamp(0.0, p) };
    let high = if successes == trials { 1.0 } else { (centre + half).clamp(p, 1.0) };
    Some((low, high))
}

/// Student's t interval of the mean. `None` for fewer than 2 values, for a value that is not finite, or where `level`
/// is not between 0 and 1.
pub fn t_interval(values: &[f64], level: f64) -> Option<(f64, f64)> {
    if values.len() < 2 || !values.iter().all(|value| value.is_finite()) || !is_level(level) {
        return None;
    }
    let n = values.len() as f64;
    let mean = mean_of(values);
    let scale = scale_of(values.iter().copied());
    let squares: f64 = values.iter().map(|value| (value / scale - mean / scale).powi(2)).sum();
    let error = (squares / (n - 1.0) / n).sqrt();
    let t = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.5 + level / 2.0);
    if !t.is_finite() {
        return None;
    }
    let half = finite(t * error * scale);
    Some((finite(mean - half), finite(mean + half)))
}

/// The mean and its interval: Wilson's where every value is exactly 0 or 1, else Student's t.
///
/// `None` without values or with one that is not finite. The interval is `None` where its method has none.
pub fn mean_interval(values: &[f64], level: f64) -> Option<(f64, Option<(f64, f64)>)> {
    if values.is_empty() || !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    let interval = if is_binary(values) {
        let successes = values.iter().filter(|value| **value == 1.0).count();
        wilson(successes as u64, values.len() as u64, level)
    } else {
        t_interval(values, level)
    };
    Some((mean_of(values), interval))
}

/// [`mean_interval`] at 95 %, as reports and summaries show it.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let (mean, ci95) = mean_interval(values, 0.95)?;
    Some(Estimate { mean, ci95, count: values.len() })
}

/// True where every value is exactly 0 or 1.
pub(super) fn is_binary(values: &[f64]) -> bool {
    values.iter().all(|value| *value == 0.0 || *value == 1.0)
}

/// The standard normal quantile that leaves `1 - level` outside, half on each side.
pub(super) fn normal_quantile(level: f64) -> Option<f64> {
    let z = is_level(level).then(|| Normal::standard().inverse_cdf(0.5 + level / 2.0))?;
    z.is_finite().then_some(z)
}

fn is_level(level: f64) -> bool {
    level > 0.0 && level < 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: (f64, f64), b: (f64, f64)) {
        assert!((a.0 - b.0).abs() < 1e-7 && (a.1 - b.1).abs() < 1e-7, "{a:?} {b:?}");
    }

    #[test]
    fn an_interval_keeps_to_the_range_of_its_values() {
        let of = |values: &[f64], range| estimate(values).unwrap().within(range).ci95.unwrap();
        let (low, high) = t_interval(&[0.9, 0.6, 1.0], 0.95).unwrap();
        assert!(low > 0.0 && high > 1.0, "{low} {high}");
        assert_eq!(of(&[0.9, 0.6, 1.0], (0.0, 1.0)), (low, 1.0));
        assert_eq!(of(&[4.0, 0.0], (0.0, f64::INFINITY)).0, 0.0);
        assert_eq!(of(&[4.0, 0.0], (0.0, f64::INFINITY)).1, t_interval(&[4.0, 0.0], 0.95).unwrap().1);
        assert_eq!(of(&[4.0, 6.0], (0.0, 1.0)).1, 5.0, "the range was left");
        assert_eq!(estimate(&[0.5]).unwrap().within((0.0, 1.0)).ci95, None);
    }

    // Reference values: statsmodels 0.15 `proportion_confint(method="wilson")`, scipy 1.17 `stats.t.interval`.
    #[test]
    fn wilson_agrees_with_statsmodels() {
        close(wilson(7, 10, 0.95).unwrap(), (0.39677814746114537, 0.8922087325936989));
        close(wilson(0, 20, 0.95).unwrap(), (0.0, 0.16112515805281938));
        close(wilson(199, 250, 0.9).unwrap(), (0.7510149531200998, 0.834646912373898));
        assert_eq!(wilson(20, 20, 0.95).unwrap().1, 1.0);
    }

    #[test]
    fn t_agrees_with_scipy() {
        close(t_interval(&[1.0, 2.0, 4.0, 4.5], 0.95).unwrap(), (0.2462691714244971, 5.503730828575502));
        close(t_interval(&[-3.0, 3.5], 0.99).unwrap(), (-206.63440877933243, 207.13440877933243));
    }

    #[test]
    fn t_is_right_for_many_values() {
        // Alternating -1 and 1: the standard error is 1 / sqrt(n - 1), and scipy has the quantiles. statrs is off by 3e-6
        // of the value at 200,000.
        for (count, quantile) in [(100, 1.9842169515864174), (5_000, 1.9604386466615247), (200_000, 1.9599758460260759)]
        {
            let values: Vec<f64> = (0..count).map(|at| f64::from(at % 2) * 2.0 - 1.0).collect();
            let (low, high) = t_interval(&values, 0.95).unwrap();
            let half = quantile / f64::from(count - 1).sqrt();
            assert!(
                (high / half - 1.0).abs() < 1e-5 && (low / half + 1.0).abs() < 1e-5,
                "{count}: {low} {high} {half}"
            );
        }
    }

    #[test]
    fn what_has_no_interval_says_so() {
        assert_eq!(wilson(0, 0, 0.95), None);
        assert_eq!(wilson(3, 2, 0.95), None);
        assert_eq!(t_interval(&[1.0], 0.95), None);
        assert_eq!(t_interval(&[1.0, f64::NAN], 0.95), None);
        for level in [0.0, 1.0, -1.0, f64::NAN] {
            assert_eq!((wilson(1, 2, level), t_interval(&[1.0, 2.0], level)), (None, None));
        }
        assert_eq!(estimate(&[]), None);
        assert_eq!(estimate(&[0.5]), Some(Estimate { mean: 0.5, ci95: None, count: 1 }));
        assert!(estimate(&[1.0]).unwrap().ci95.unwrap().0 < 0.3);
        assert_eq!(estimate(&[2.5, 2.5, 2.5]).unwrap().ci95, Some((2.5, 2.5)));
    }

    proptest! {
        #[test]
        fn bounds_contain_the_mean_and_are_finite(
            values in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL, 1..40),
            level in 0.01_f64..0.999,
        ) {
            let (mean, interval) = mean_interval(&values, level).unwrap();
            prop_assert!(mean.is_finite());
            prop_assert_eq!(interval.is_some(), values.len() > 1 || is_binary(&values));
            if let Some((low, high)) = interval {
                prop_assert!(low.is_finite() && high.is_finite() && low <= mean && mean <= high, "{} {} {}", low, mean, high);
            }
        }

        #[test]
        fn a_wilson_interval_is_within_0_and_1(trials in 1_u64..5000, share in 0.0_f64..=1.0, level in 0.01_f64..0.9999) {
            let successes = (share * trials as f64) as u64;
            let (low, high) = wilson(successes, trials, level).unwrap();
            let p = successes as f64 / trials as f64;
            prop_assert!(0.0 <= low && low <= p && p <= high && high <= 1.0 && low < high);
        }
    }
}
