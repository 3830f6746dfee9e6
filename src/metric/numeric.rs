//! `numeric`: the number in an answer. How numbers are found in text is the larger part.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::Vote;
use super::declare::Building;
use super::text::{Judge, Normalize, Take, render};
use crate::diagnostic::Result;
use crate::prompt::Template;
use crate::provider::Sample;
use crate::task::Instance;

/// Options of `numeric`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NumericOptions {
    /// The right number: a template over the instance; of several numbers in it, `take` decides.
    #[schemars(with = "String")]
    expected: Spanned<String>,
    /// How far off the answer may be.
    #[schemars(with = "Option<f64>", extend("default" = 0))]
    tolerance: Option<Spanned<f64>>,
    /// How far off it may be as a share of the expected number, like 0.01. The wider of the two tolerances counts.
    #[schemars(with = "Option<f64>", extend("default" = 0))]
    relative_tolerance: Option<Spanned<f64>>,
    /// Whether the first or the last number of the text is the answer.
    #[serde(default = "last")]
    #[schemars(extend("default" = "last"))]
    take: Take,
}

fn last() -> Take {
    Take::Last
}

/// `numeric`.
pub struct Numeric {
    expected: Template,
    tolerance: f64,
    relative: f64,
    take: Take,
}

impl Judge for Numeric {
    const NAME: &'static str = "numeric";
    const SUMMARY: &'static str = "1 where the number in the answer is the expected one or near enough, else 0";
    const VOTES: &'static [Vote] = Vote::ALL;
    type Options = NumericOptions;
    type Expected = Number;
    type Answer = Number;

    fn new(options: NumericOptions, building: &mut Building<'_>) -> Result<Numeric> {
        Ok(Numeric {
            tolerance: building.not_negative("tolerance", &options.tolerance, 0.0)?,
            relative: building.not_negative("relative_tolerance", &options.relative_tolerance, 0.0)?,
            expected: building.template(&options.expected)?,
            take: options.take,
        })
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<Number, String> {
        let text = render(&self.expected, instance)?;
        find(&normalize.apply(&text), self.take).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            format!("what is expected, `{shown}`, holds no number")
        })
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<Number> {
        find(&normalize.apply(text), self.take)
    }

    fn score(&self, expected: &Number, answer: &Number) -> f64 {
        let wanted = expected.value();
        let near = || (answer.value() - wanted).abs() <= self.tolerance.max(self.relative * wanted.abs());
        // Without a tolerance the comparison is exact, also where an f64 is not.
        let loose = self.tolerance > 0.0 || self.relative > 0.0;
        f64::from(u8::from(answer == expected || loose && near()))
    }
}

/// A number as written.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// Numerator and denominator, which is above 0, in lowest terms.
    Exact(i128, i128),
    /// Too long for that: the nearest finite f64.
    Rounded(f64),
}

impl Number {
    fn ratio(numerator: i128, denominator: i128) -> Option<Number> {
        if denominator <= 0 {
            return None;
        }
        let (mut a, mut b) = (numerator.unsigned_abs(), denominator.unsigned_abs());
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let divisor = i128::try_from(a).ok()?;
        Some(Number::Exact(numerator / divisor, denominator / divisor))
    }

    /// The value, finite, rounded where need be.
    pub fn value(self) -> f64 {
        match self {
            Number::Exact(numerator, denominator) => numerator as f64 / denominator as f64,
            Number::Rounded(value) => value,
        }
    }

    /// The value of a sign, digits, an optional point with digits, an optional exponent (all ASCII).
    fn decimal(text: &str) -> Option<Number> {
        let exact = || {
            let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
            let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
            let decimals = decimals.trim_end_matches('0');
            let digits: i128 = format!("{whole}{decimals}").parse().ok()?;
            let power = exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(decimals.len()).ok()?)?;
            let scale = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { Number::ratio(digits, scale) } else { Number::ratio(digits.checked_mul(scale)?, 1) }
        };
        exact().or_else(|| text.parse().ok().filter(|value: &f64| value.is_finite()).map(Number::Rounded))
    }

    fn divided_by(self, other: Number) -> Option<Number> {
        if other.value() == 0.0 {
            return None;
        }
        if let (Number::Exact(a, b), Number::Exact(c, d)) = (self, other)
            && let (Some(above), Some(below)) = (a.checked_mul(d), b.checked_mul(c))
        {
            return Number::ratio(above, below);
        }
        Some(self.value() / other.value()).filter(|value| value.is_finite()).map(Number::Rounded)
    }

    fn plus(self, other: Number) -> Option<Number> {
        if let (Number::Exact(a, b), Number::Exact(c, d)) = (self, other)
            && let (Some(left), Some(right), Some(below)) = (a.checked_mul(d), c.checked_mul(b), b.checked_mul(d))
            && let Some(sum) = left.checked_add(right)
        {
            return Number::ratio(sum, below);
        }
        Some(self.value() + other.value()).filter(|value| value.is_finite()).map(Number::Rounded)
    }

    fn negated(self) -> Number {
        match self {
            Number::Exact(numerator, denominator) => Number::Exact(-numerator, denominator),
            Number::Rounded(value) => Number::Rounded(-value),
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        match (self, other) {
            (Number::Exact(a, b), Number::Exact(c, d)) => a == c && b == d,
            (a, b) => a.value() == b.value(),
        }
    }
}

/// The first or the last number of a text.
///
/// Numbers have an optional sign, thousands separators (`,` `_` `'` and narrow spaces, in threes), a decimal point, an
/// exponent (`1.5e3`, `1.5 × 10^3`); fractions (`3/4`, `½`, `\frac{3}{4}`) and mixed numbers (`1 1/2`) are one number. A
/// hyphen after a letter, a digit or a bracket is no sign (`3-4`). Currency and percent signs do not matter.
pub fn find(text: &str, take: Take) -> Option<Number> {
    let text = simplify(text);
    let mut scanner = Scanner { chars: &text, at: 0 };
    match take {
        Take::First => scanner.next(),
        Take::Last => scanner.last(),
    }
}

/// LaTeX, full-width characters and powers of ten written as plain numbers are.
fn simplify(text: &str) -> Vec<char> {
    static FRACTION: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\\[dt]?frac\s*\{\s*([^{}]{1,40}?)\s*\}\s*\{\s*([^{}]{1,40}?)\s*\}").expect("a valid regex")
    });
    static POWER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"([0-9])\s*(?:×|·|⋅|\*|x|\\times|\\cdot)\s*10\s*\^\s*\{?\s*([+-]?[0-9]{1,4})\b\s*\}?")
            .expect("a valid regex")
    });
    let plain: String = text
        .chars()
        .map(|c| match c {
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
            '\u{2212}' | '\u{2013}' | '\u{fe63}' => '-',
            '\u{2044}' | '\u{2215}' => '/',
            other => other,
        })
        .collect();
    let plain = if plain.contains('\\') {
        let plain = FRACTION.replace_all(&plain, " $1/$2 ");
        plain.replace("\\!", "").replace("\\,", "").replace("\\$", "$").replace("\\%", "%")
    } else {
        plain
    };
    let plain = plain.replace("{,}", ",");
    POWER.replace_all(&plain, "${1}e${2}").chars().collect()
}

/// A fraction that is one character.
fn vulgar(c: char) -> Option<Number> {
    let (numerator, denominator) = match c {
        '½' => (1, 2),
        '⅓' => (1, 3),
        '⅔' => (2, 3),
        '¼' => (1, 4),
        '¾' => (3, 4),
        '⅕' => (1, 5),
        '⅖' => (2, 5),
        '⅗' => (3, 5),
        '⅘' => (4, 5),
        '⅙' => (1, 6),
        '⅚' => (5, 6),
        '⅛' => (1, 8),
        '⅜' => (3, 8),
        '⅝' => (5, 8),
        '⅞' => (7, 8),
        _ => return None,
    };
    Number::ratio(numerator, denominator)
}

fn is_separator(c: char) -> bool {
    matches!(c, ',' | '_' | '\'' | '’' | '\u{a0}' | '\u{202f}' | '\u{2009}')
}

fn is_currency(c: char) -> bool {
    matches!(c, '$' | '€' | '£' | '¥' | '₹' | '₩' | '₽' | '¢')
}

struct Scanner<'a> {
    chars: &'a [char],
    at: usize,
}

/// A number without its sign, and where it ends.
struct Unsigned {
    /// `None` where it is too large for an f64.
    number: Option<Number>,
    end: usize,
    whole: bool,
}

impl Scanner<'_> {
    fn peek(&self, at: usize) -> Option<char> {
        self.chars.get(at).copied()
    }

    fn digits(&self, at: usize) -> usize {
        self.chars[at.min(self.chars.len())..].iter().take_while(|c| c.is_ascii_digit()).count()
    }

    fn spaces(&self, at: usize) -> usize {
        self.chars[at.min(self.chars.len())..].iter().take_while(|c| matches!(c, ' ' | '\u{a0}')).count()
    }

    /// Digits with separators, decimals and exponent that begin here.
    fn unsigned(&self, from: usize) -> Option<Unsigned> {
        let first = self.digits(from);
        let mut text: String = self.chars[from..from + first].iter().collect();
        let mut end = from + first;
        let mut whole = true;
        // Groups of exactly three digits behind one kind of separator.
        if (1..=3).contains(&first)
            && let Some(separator) = self.peek(end).filter(|&c| is_separator(c))
        {
            let mut to = end;
            let mut grouped = text.clone();
            while self.peek(to) == Some(separator) && self.digits(to + 1) == 3 {
                grouped.extend(&self.chars[to + 1..to + 4]);
                to += 4;
            }
            // A group of another length says that these were no separators.
            if !(self.peek(to) == Some(separator) && self.digits(to + 1) > 3) {
                (text, end) = (grouped, to);
            }
        }
        if self.peek(end) == Some('.') && self.digits(end + 1) > 0 {
            let decimals = self.digits(end + 1);
            if text.is_empty() {
                text.push('0');
            }
            text.extend(&self.chars[end..=end + decimals]);
            (end, whole) = (end + 1 + decimals, false);
        }
        if text.is_empty() {
            return None;
        }
        if matches!(self.peek(end), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek(end + 1), Some('+' | '-')));
            let power = self.digits(end + 1 + sign);
            let word = self.peek(end + 1 + sign + power).is_some_and(char::is_alphabetic);
            if power > 0 && !word {
                text.push('e');
                text.extend(&self.chars[end + 1..end + 1 + sign + power]);
                (end, whole) = (end + 1 + sign + power, false);
            }
        }
        Some(Unsigned { number: Number::decimal(&text), end, whole })
    }

    /// `/ 4` behind a number: the number to divide by. `1/2/2024` is no fraction.
    fn divisor(&self, from: usize) -> Option<Unsigned> {
        let slash = from + self.spaces(from);
        if self.peek(slash) != Some('/') {
            return None;
        }
        let start = slash + 1 + self.spaces(slash + 1);
        let divisor = self.unsigned(start)?;
        (self.peek(divisor.end) != Some('/')).then_some(divisor)
    }

    /// ` 1/2` or `½` behind a whole number: the fraction and where it ends.
    fn mixed(&self, from: usize) -> Option<(Number, usize)> {
        let start = from + self.spaces(from);
        if let Some(fraction) = self.peek(start).and_then(vulgar) {
            return Some((fraction, start + 1));
        }
        if start == from {
            return None;
        }
        let above = self.unsigned(start)?;
        let below = self.divisor(above.end)?;
        let fraction = above.number?.divided_by(below.number?)?;
        (above.whole && below.whole && fraction.value() < 1.0).then_some((fraction, below.end))
    }

    /// A whole number, decimal or fraction that begins here, and where it ends. `Err`: it is none, go on from there.
    fn number(&self, from: usize) -> Result<(Number, usize), usize> {
        if let Some(fraction) = self.peek(from).and_then(vulgar) {
            return Ok((fraction, from + 1));
        }
        let Some(first) = self.unsigned(from) else {
            return Err(from + 1);
        };
        let Some(number) = first.number else {
            return Err(first.end);
        };
        // The 2 of 1/2/2024 begins no fraction either.
        let chained = from >= 2 && self.chars[from - 1] == '/' && self.chars[from - 2].is_ascii_digit();
        if let Some(below) = self.divisor(first.end).filter(|_| !chained) {
            let fraction = below.number.and_then(|below| number.divided_by(below));
            return fraction.map(|fraction| (fraction, below.end)).ok_or(below.end);
        }
        if first.whole
            && let Some((fraction, end)) = self.mixed(first.end)
            && let Some(sum) = number.plus(fraction)
        {
            return Ok((sum, end));
        }
        Ok((number, first.end))
    }

    /// True where a hyphen before `at` belongs to the number that begins there.
    fn negative(&self, at: usize) -> bool {
        let before = |at: usize| at.checked_sub(1).and_then(|at| self.peek(at));
        let mut at = at;
        if before(at).is_some_and(is_currency) {
            at -= 1;
        }
        before(at) == Some('-')
            && !before(at - 1).is_some_and(|c| c.is_alphanumeric() || matches!(c, ')' | ']' | '}' | '-'))
    }
}

impl Iterator for Scanner<'_> {
    type Item = Number;

    fn next(&mut self) -> Option<Number> {
        while self.at < self.chars.len() {
            let from = self.at;
            let c = self.chars[from];
            let point = c == '.'
                && self.digits(from + 1) > 0
                && !from.checked_sub(1).and_then(|at| self.peek(at)).is_some_and(|c| c.is_ascii_digit());
            if !c.is_ascii_digit() && !point && vulgar(c).is_none() {
                self.at += 1;
                continue;
            }
            match self.number(from) {
                Ok((number, end)) => {
                    self.at = end;
                    return Some(if self.negative(from) { number.negated() } else { number });
                }
                Err(next) => self.at = next,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::text::tests::{refused, score, try_score};
    use proptest::prelude::*;
    use serde_json::json;

    fn all(text: &str) -> Vec<f64> {
        let chars = simplify(text);
        Scanner { chars: &chars, at: 0 }.map(Number::value).collect()
    }

    #[test]
    fn numbers_in_text() {
        for (text, numbers) in [
            ("", vec![]),
            ("none at all.", vec![]),
            ("It is 42.", vec![42.0]),
            ("1,234,567.5 and 12", vec![1_234_567.5, 12.0]),
            ("1,2,3", vec![1.0, 2.0, 3.0]),
            ("1,2345", vec![1.0, 2345.0]),
            ("1234,567", vec![1234.0, 567.0]),
            ("10\u{202f}000 or 1_000 or 1'000", vec![10_000.0, 1000.0, 1000.0]),
            ("-3, +4, −5, – 6", vec![-3.0, 4.0, -5.0, 6.0]),
            ("3-4 and A-7 and x = -7", vec![3.0, 4.0, 7.0, -7.0]),
            ("-$1,200.50 or $-3", vec![-1200.5, -3.0]),
            (".5 and -.25 and 1.", vec![0.5, -0.25, 1.0]),
            ("50% of €3", vec![50.0, 3.0]),
            ("1.5e3 2E-2 3em", vec![1500.0, 0.02, 3.0]),
            ("6.02 × 10^{23}, 2 x 10^-3", vec![6.02e23, 0.002]),
            ("3/4, 3 / 4, -1/2", vec![0.75, 0.75, -0.5]),
            ("1 1/2 and -2 3/4 and 1½", vec![1.5, -2.75, 1.5]),
            ("½ ⅔", vec![0.5, 2.0 / 3.0]),
            ("on 1/2/2024", vec![1.0, 2.0, 2024.0]),
            ("2024-01-05", vec![2024.0, 1.0, 5.0]),
            ("5/0 and 7", vec![7.0]),
            ("\\frac{3}{4} and 2\\dfrac{1}{2} and $1{,}000$ and 1,\\!000", vec![0.75, 2.5, 1000.0, 1000.0]),
            ("\\boxed{-12}", vec![-12.0]),
            ("１２３", vec![123.0]),
            ("version 1.2.3", vec![1.2, 3.0]),
            ("**7**", vec![7.0]),
            ("1e999 2", vec![2.0]),
        ] {
            assert_eq!(all(text), numbers, "{text}");
        }
    }

    #[test]
    fn equal_values_are_equal_and_long_ones_are_told_apart() {
        let number = |text: &str| find(text, Take::Last).unwrap();
        assert_eq!(number("0.50"), number("1/2"));
        assert_eq!(number("1e3"), number("1,000"));
        assert_eq!(number("-0"), number("0"));
        assert_ne!(number("1/3"), number("0.3333333333"));
        assert_ne!(number("9007199254740993"), number("9007199254740992"));
        let long = "1".repeat(60);
        assert_eq!(number(&long), number(&long));
        assert_ne!(
            number("170141183460469231731687303715884105727"),
            number("-170141183460469231731687303715884105727")
        );
    }

    const LINES: &str = "type = \"numeric\"\nexpected = \"{{ n }}\"\n";

    #[test]
    fn scores() {
        assert_eq!(score(LINES, json!({"n": "so #### 1,000"}), &["2 and then $1000.00"]), 1.0);
        assert_eq!(score(LINES, json!({"n": 3}), &["3 or 4"]), 0.0);
        assert_eq!(score(&format!("{LINES}take = \"first\""), json!({"n": 3}), &["3 or 4"]), 1.0);
        assert_eq!(score(&format!("{LINES}tolerance = 0.1"), json!({"n": 3}), &["3.05"]), 1.0);
        assert_eq!(score(&format!("{LINES}tolerance = 0.1"), json!({"n": 3}), &["3.2"]), 0.0);
        assert_eq!(score(&format!("{LINES}relative_tolerance = 0.1"), json!({"n": -300}), &["-329"]), 1.0);
        assert_eq!(score(LINES, json!({"n": 3}), &["three"]), 0.0);
        let majority = format!("{LINES}vote = \"majority\"\ntolerance = 1");
        assert_eq!(score(&majority, json!({"n": 3}), &["9", "1/2", "x", "0.5", "9.0", "9"]), 0.0);
        assert_eq!(score(&majority, json!({"n": 3}), &["?", "3.5", "9", "7/2"]), 1.0);
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        assert!(try_score(LINES, json!({"n": "abc"}), &["3"]).unwrap_err().contains("`abc`, holds no number"));
        let error = refused(&format!("{LINES}tolerance = -1"));
        assert_eq!(
            (error.message(), error.location().as_deref()),
            ("`tolerance` is a number from 0 up", Some("task.toml:4:13"))
        );
        refused(&format!("{LINES}tolerance = nan"));
        refused(&format!("{LINES}take = \"middle\""));
    }

    proptest! {
        #[test]
        fn a_written_number_is_read_back(whole in -1_000_000_000i64..1_000_000_000, cents in 0u32..100, before in "[a-zA-Z ]{0,9}") {
            let text = format!("{before} {whole}.{cents:02} units");
            let value: f64 = format!("{whole}.{cents:02}").parse().unwrap();
            prop_assert_eq!(all(&text), vec![value]);
        }

        #[test]
        fn any_text_gives_finite_numbers(text in "[-+0-9.,/eE½ $×^{}\\\\x_' ]{0,40}") {
            prop_assert!(all(&text).iter().all(|value| value.is_finite()));
        }
    }
}
