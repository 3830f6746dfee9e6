//! Dollars as integers: [`Usd`] counts picodollars, so a price per token is exact and sums never drift.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One dollar in picodollars.
const PICO: i128 = 1_000_000_000_000;

/// An amount of money in picodollars (10⁻¹² dollars): $0.15 per million tokens is exactly 150,000 picodollars a token.
///
/// Holds up to about 9.2 million dollars. Sums and products saturate there rather than wrap: an amount that large
/// never fits a budget, so saturation can only refuse, never overspend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(i64);

impl Usd {
    /// No money.
    pub const ZERO: Usd = Usd(0);
    /// The largest amount.
    pub const MAX: Usd = Usd(i64::MAX);

    /// An amount of picodollars.
    pub const fn from_pico(pico: i64) -> Usd {
        Usd(pico)
    }

    /// The amount in picodollars.
    pub const fn pico(self) -> i64 {
        self.0
    }

    /// `self` times a count (tokens, completions), saturating.
    pub fn times(self, count: u64) -> Usd {
        clamp(i128::from(self.0) * i128::from(count))
    }

    /// The amount as a floating point number of dollars: for models and plots, never for accounts.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / PICO as f64
    }

    /// The mean of a sum over `count` things, rounded half to even at one picodollar (12 decimals).
    pub fn mean(sum: Usd, count: u64) -> Usd {
        if count == 0 {
            return Usd::ZERO;
        }
        let (sum, count) = (i128::from(sum.0), i128::from(count));
        let (quotient, rest) = (sum.div_euclid(count), sum.rem_euclid(count));
        let up = match (rest * 2).cmp(&count) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => quotient % 2 != 0,
        };
        clamp(quotient + i128::from(up))
    }

    /// `self * numerator / denominator`, rounded up: how a reservation grows.
    pub fn scale_up(self, numerator: u64, denominator: u64) -> Usd {
        let (n, d) = (i128::from(numerator), i128::from(denominator.max(1)));
        clamp((i128::from(self.0) * n + d - 1).div_euclid(d))
    }

    /// The share `0..=1` of this amount, rounded down.
    pub fn share(self, share: f64) -> Usd {
        let parts = (share.clamp(0.0, 1.0) * 1e9).round() as i128;
        clamp(i128::from(self.0) * parts / 1_000_000_000)
    }

    /// What is left of `self` after `other`, never below zero.
    pub fn saturating_left(self, other: Usd) -> Usd {
        if other >= self { Usd::ZERO } else { self - other }
    }
}

fn clamp(pico: i128) -> Usd {
    Usd(pico.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

impl Add for Usd {
    type Output = Usd;
    fn add(self, other: Usd) -> Usd {
        Usd(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Usd) {
        *self = *self + other;
    }
}

impl Sub for Usd {
    type Output = Usd;
    fn sub(self, other: Usd) -> Usd {
        Usd(self.0.saturating_sub(other.0))
    }
}

impl SubAssign for Usd {
    fn sub_assign(&mut self, other: Usd) {
        *self = *self - other;
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Usd>>(amounts: I) -> Usd {
        amounts.fold(Usd::ZERO, Add::add)
    }
}

impl fmt::Display for Usd {
    /// The exact decimal, without trailing zeros: `4.93`, `0.000000075`, `5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pico = i128::from(self.0);
        let sign = if pico < 0 { "-" } else { "" };
        let (whole, rest) = (pico.abs() / PICO, pico.abs() % PICO);
        if rest == 0 {
            return f.pad(&format!("{sign}{whole}"));
        }
        let digits = format!("{rest:012}");
        f.pad(&format!("{sign}{whole}.{}", digits.trim_end_matches('0')))
    }
}

/// Why a text is no amount of dollars.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseUsdError {
    /// Not a decimal number.
    #[error("`{0}` is no amount of dollars: write a decimal like 5 or 0.002")]
    NotDecimal(String),
    /// More decimals than are counted.
    #[error("`{0}` is finer than farthing counts: at most {1} decimals")]
    TooFine(String, i32),
    /// More than a `Usd` holds.
    #[error("`{0}` is more than farthing counts (about 9.2 million dollars)")]
    TooLarge(String),
}

/// Reads `text` as a decimal scaled by `10^places`, exactly. Exponents are accepted, since TOML floats print with them.
fn scaled(text: &str, places: i32) -> Result<i64, ParseUsdError> {
    let shown = || crate::diagnostic::shortened(text, 40).into_owned();
    let not_decimal = || ParseUsdError::NotDecimal(shown());
    let too_large = || ParseUsdError::TooLarge(shown());
    let body = text.trim();
    let body = body.strip_prefix('$').unwrap_or(body);
    let (negative, body) = match body.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, body.strip_prefix('+').unwrap_or(body)),
    };
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| not_decimal())?),
        None => (body, 0),
    };
    if !(-400..=400).contains(&exponent) {
        return Err(not_decimal());
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(not_decimal());
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    let kept = digits.trim_end_matches('0');
    let shift = places + exponent - fraction.len() as i32 + (digits.len() - kept.len()) as i32;
    if shift < 0 {
        return Err(ParseUsdError::TooFine(shown(), places));
    }
    if kept.len() as i32 + shift > 20 {
        return Err(too_large());
    }
    let value = kept.parse::<i128>().map_err(|_| too_large())? * 10_i128.pow(shift as u32);
    let value = if negative { -value } else { value };
    i64::try_from(value).map_err(|_| too_large())
}

impl FromStr for Usd {
    type Err = ParseUsdError;
    /// Reads a decimal amount of dollars exactly: `5`, `0.002`, `$4.93`, `1e-6`.
    fn from_str(text: &str) -> Result<Usd, ParseUsdError> {
        scaled(text, 12).map(Usd)
    }
}

/// Reads a price in dollars per million tokens as the exact price of one token.
pub fn per_million(text: &str) -> Result<Usd, ParseUsdError> {
    scaled(text, 6).map(Usd)
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Usd, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_prints_decimals_exactly() {
        for (text, pico, printed) in [
            ("5", 5_000_000_000_000, "5"),
            ("0.002", 2_000_000_000, "0.002"),
            ("$4.93", 4_930_000_000_000, "4.93"),
            ("1e-6", 1_000_000, "0.000001"),
            (".5", 500_000_000_000, "0.5"),
            ("-0.25", -250_000_000_000, "-0.25"),
            ("0.000000000001", 1, "0.000000000001"),
            ("1.5e1", 15_000_000_000_000, "15"),
            ("0", 0, "0"),
        ] {
            let usd: Usd = text.parse().unwrap();
            assert_eq!((usd.pico(), usd.to_string().as_str()), (pico, printed), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_amount() {
        for text in ["", ".", "five", "1,5", "0x10", "1e", "nan", "inf", "--1", "5 5", "1e999"] {
            assert_eq!(text.parse::<Usd>(), Err(ParseUsdError::NotDecimal(text.into())), "{text}");
        }
        assert!(matches!("0.0000000000001".parse::<Usd>(), Err(ParseUsdError::TooFine(_, 12))));
        assert!(matches!("10000000".parse::<Usd>(), Err(ParseUsdError::TooLarge(_))));
        assert!(matches!("1e300".parse::<Usd>(), Err(ParseUsdError::TooLarge(_))));
    }

    #[test]
    fn prices_per_million_tokens_are_exact() {
        assert_eq!(per_million("0.075").unwrap(), Usd::from_pico(75_000));
        assert_eq!(per_million("30.0").unwrap(), Usd::from_pico(30_000_000));
        assert!(per_million("0.0000001").is_err());
    }

    #[test]
    fn means_round_half_to_even() {
        let mean = |sum, count| Usd::mean(Usd::from_pico(sum), count).pico();
        assert_eq!((mean(5, 2), mean(7, 2), mean(-5, 2), mean(10, 3), mean(11, 3)), (2, 4, -2, 3, 4));
        assert_eq!(mean(5, 0), 0);
    }

    #[test]
    fn large_amounts_saturate() {
        assert_eq!(Usd::MAX + Usd::from_pico(1), Usd::MAX);
        assert_eq!(Usd::from_pico(i64::MAX / 2).times(u64::MAX), Usd::MAX);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(pico: i64) {
            let usd = Usd::from_pico(pico.max(-i64::MAX));
            prop_assert_eq!(usd.to_string().parse::<Usd>().unwrap(), usd);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = text.parse::<Usd>();
        }

        #[test]
        fn a_mean_is_within_half_a_picodollar(sum in -1_000_000_i64..1_000_000, count in 1_u64..1000) {
            let mean = Usd::mean(Usd::from_pico(sum), count).pico();
            prop_assert!((i128::from(mean) * i128::from(count) - i128::from(sum)).abs() * 2 <= i128::from(count));
        }
    }
}
