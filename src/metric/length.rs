//! `length`: how long an answer is, or whether it keeps to a limit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::Vote;
use super::declare::Building;
use super::text::{Judge, Normalize};
use crate::diagnostic::Result;
use crate::provider::Sample;
use crate::task::Instance;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Unicode characters (scalar values).
    Characters,
    /// What white space sets apart.
    Words,
    /// Lines; a line break at the end begins no new one.
    Lines,
    /// The output tokens that were billed for the response, whatever was extracted from it.
    Tokens,
}

/// Options of `length`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LengthOptions {
    /// What is counted.
    #[serde(default = "characters")]
    #[schemars(extend("default" = "characters"))]
    unit: Unit,
    /// The fewest that are allowed. With `min` or `max` the value is 1 within the limits, else 0.
    #[schemars(with = "Option<u64>")]
    min: Option<Spanned<u64>>,
    /// The most that are allowed. With `min` or `max` the value is 1 within the limits, else 0.
    #[schemars(with = "Option<u64>")]
    max: Option<Spanned<u64>>,
}

fn characters() -> Unit {
    Unit::Characters
}

/// `length`.
pub struct Length {
    unit: Unit,
    limits: Option<(u64, u64)>,
}

impl Judge for Length {
    const NAME: &'static str = "length";
    const SUMMARY: &'static str = "how long the answer is; with min or max, 1 where it keeps to them, else 0";
    const RANGE: (f64, f64) = (0.0, f64::INFINITY);
    const VOTES: &'static [Vote] = Vote::BINARY;
    type Options = LengthOptions;
    type Expected = ();
    type Answer = u64;

    fn new(options: LengthOptions, building: &mut Building<'_>) -> Result<Length> {
        let (min, max) =
            (options.min.as_ref().map(|min| *min.get_ref()), options.max.as_ref().map(|max| *max.get_ref()));
        if let Some(span) = options.max.as_ref().map(Spanned::span)
            && min > max
        {
            return Err(building.error("`max` is below `min`", span, "too low"));
        }
        let limits = (min.is_some() || max.is_some()).then(|| (min.unwrap_or(0), max.unwrap_or(u64::MAX)));
        Ok(Length { unit: options.unit, limits })
    }

    fn expect(&self, _: &Instance, _: &Normalize) -> Result<(), String> {
        Ok(())
    }

    fn read(&self, text: &str, sample: &Sample, normalize: &Normalize) -> Option<u64> {
        let text = normalize.apply(text);
        Some(match self.unit {
            Unit::Characters => text.chars().count() as u64,
            Unit::Words => text.split_whitespace().count() as u64,
            Unit::Lines => text.lines().count() as u64,
            Unit::Tokens => sample.completion_tokens,
        })
    }

    fn score(&self, (): &(), length: &u64) -> f64 {
        match self.limits {
            Some((min, max)) => f64::from(u8::from((min..=max).contains(length))),
            None => *length as f64,
        }
    }

    fn range(&self) -> (f64, f64) {
        if self.limits.is_some() { (0.0, 1.0) } else { Self::RANGE }
    }

    fn votes(&self) -> &'static [Vote] {
        if self.limits.is_some() { Vote::BINARY } else { Vote::GRADED }
    }
}

#[cfg(test)]
mod tests {
    use crate::metric::text::tests::{built, refused, score};
    use serde_json::json;

    fn length(lines: &str, texts: &[&str]) -> f64 {
        score(&format!("type = \"length\"\n{lines}"), json!({}), texts)
    }

    #[test]
    fn lengths() {
        assert_eq!(length("", &["Zürich\n"]), 7.0);
        assert_eq!(length("unit = \"words\"", &[" one  two\nthree "]), 3.0);
        assert_eq!(length("unit = \"lines\"", &["one\n\ntwo\n"]), 3.0);
        assert_eq!(length("unit = \"tokens\"", &["x"]), 7.0);
        assert_eq!(length("", &[""]), 0.0);
        assert_eq!(length("vote = \"mean\"", &["a", "bcd"]), 2.0);
        assert_eq!(length("vote = \"any\"", &["a", "bcd"]), 3.0);
        assert_eq!(length("normalize = [\"trim\"]\nextract = \"=(.*)\"", &["x= ab "]), 2.0);
        assert_eq!(length("extract = \"=(.*)\"", &["x"]), 0.0);
    }

    #[test]
    fn limits() {
        assert_eq!(length("max = 3", &["abc"]), 1.0);
        assert_eq!(length("max = 3", &["abcd"]), 0.0);
        assert_eq!(length("min = 1", &[""]), 0.0);
        assert_eq!(length("max = 3\nvote = \"expected_success\"", &["abcd", "a"]), 0.75);
        assert_eq!(built("type = \"length\"\nmax = 3").range, Some((0.0, 1.0)));
        assert_eq!(built("type = \"length\"").range, Some((0.0, f64::INFINITY)));
        assert_eq!(refused("type = \"length\"\nmin = 4\nmax = 3").location().as_deref(), Some("task.toml:4:7"));
        assert_eq!(
            refused("type = \"length\"\nvote = \"expected_success\"").location().as_deref(),
            Some("task.toml:3:8")
        );
        refused("type = \"length\"\nmax = -1");
    }
}
