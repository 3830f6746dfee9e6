//! `[objective]` of a `task.toml`: one metric, a weighted sum of several, and what decides among equals.

use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use toml::Spanned;

use crate::diagnostic::{Error, Result, Source};
use crate::task::{Direction, MetricTable, Objective, Then};

/// What a weighted sum is called where the file does not say.
const SUM: &str = "objective";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectiveSection {
    /// The metric that decides; with `weights`, what their sum is called (default "objective").
    #[schemars(with = "Option<String>")]
    metric: Option<Spanned<String>>,
    /// Whether more of it is better (default) or less.
    #[serde(default)]
    direction: Direction,
    /// A weighted sum of these metrics decides, like { accuracy = 1.0, length = -0.001 }.
    #[schemars(with = "Option<BTreeMap<String, f64>>")]
    weights: Option<Spanned<BTreeMap<String, Spanned<f64>>>>,
    /// The metrics that decide, one after the other, among configurations that the first does not tell apart: names, or
    /// tables with `metric`, `direction` and `tolerance`.
    #[serde(default)]
    #[schemars(with = "Vec<ThenSection>")]
    then: Vec<Spanned<ThenSection>>,
    /// How much of the metric may be given up for what comes in `then`. Without it, only what cannot be told apart counts as equal.
    #[schemars(with = "Option<f64>")]
    tolerance: Option<Spanned<f64>>,
    /// The lowest and the highest value that the metric can have, where that is not known of itself (a program's).
    #[schemars(with = "Option<[f64; 2]>")]
    range: Option<Spanned<[f64; 2]>>,
}

/// A metric that decides among equals: a name, or a table.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
enum ThenSection {
    /// Its name; more is better.
    Name(String),
    /// With a direction and a tolerance.
    Table(ThenTable),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ThenTable {
    /// The metric.
    metric: String,
    /// Whether more of it is better (default) or less.
    #[serde(default)]
    direction: Direction,
    /// How far from the best of it counts as equal, for what comes after it (default 0).
    #[serde(default)]
    tolerance: f64,
}

impl<'de> Deserialize<'de> for ThenSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ThenSection, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ThenSection;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a metric's name or a table with `metric`")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ThenSection, E> {
                Ok(ThenSection::Name(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ThenSection, A::Error> {
                ThenTable::deserialize(MapAccessDeserializer::new(map)).map(ThenSection::Table)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The objective, where its metric is named, and every metric that it needs with where it is named.
type Read = (Objective, Range<usize>, Vec<(String, Range<usize>)>);

impl ObjectiveSection {
    /// Checks it against the task's metrics as far as their names are known here.
    pub(super) fn read(self, source: &Source, metrics: &[MetricTable]) -> Result<Read> {
        let wrong = |message: String, span: Range<usize>| Err(Error::usage(message).at(source, span, "here"));
        let mut names = Vec::new();
        let mut weights = BTreeMap::new();
        if let Some(given) = &self.weights {
            for (name, weight) in given.get_ref() {
                if !weight.get_ref().is_finite() {
                    return wrong(format!("the weight of `{name}` is not finite"), weight.span());
                }
                names.push((name.clone(), weight.span()));
                weights.insert(name.clone(), *weight.get_ref());
            }
            if weights.values().all(|weight| *weight == 0.0) {
                return wrong("a weighted sum needs a weight that is not 0".to_owned(), given.span());
            }
        }
        let (metric, span) = match (&self.metric, &self.weights) {
            (Some(metric), None) => {
                names.push((metric.get_ref().clone(), metric.span()));
                (metric.get_ref().clone(), metric.span())
            }
            (Some(sum), Some(_)) => (sum.get_ref().clone(), sum.span()),
            (None, Some(weights)) => (SUM.to_owned(), weights.span()),
            (None, None) => {
                return Err(Error::usage("the objective names neither a `metric` nor `weights`")
                    .help("write metric = \"NAME\" under [objective], or weights = { NAME = 1.0, OTHER = -0.5 }"));
            }
        };
        if self.weights.is_some() && metrics.iter().any(|table| table.name == metric) {
            return wrong(format!("`{metric}` is a metric, so the weighted sum needs another name"), span);
        }
        let mut then = Vec::new();
        for next in self.then {
            let span = next.span();
            let of = match next.into_inner() {
                ThenSection::Name(metric) => Then { metric, direction: Direction::Maximize, tolerance: 0.0 },
                ThenSection::Table(ThenTable { metric, direction, tolerance }) => Then { metric, direction, tolerance },
            };
            if !(of.tolerance >= 0.0 && of.tolerance.is_finite()) {
                return wrong(format!("the tolerance of `{}` must be a number of at least 0", of.metric), span);
            }
            if of.metric == metric || then.iter().any(|other: &Then| other.metric == of.metric) {
                return wrong(format!("`{}` decides already", of.metric), span);
            }
            names.push((of.metric.clone(), span));
            then.push(of);
        }
        if let Some(tolerance) = &self.tolerance {
            if !(*tolerance.get_ref() >= 0.0 && tolerance.get_ref().is_finite()) {
                return wrong("the tolerance must be a number of at least 0".to_owned(), tolerance.span());
            }
            if then.is_empty() {
                return wrong("a tolerance has no meaning without `then`".to_owned(), tolerance.span());
            }
        }
        if let Some(range) = &self.range {
            let [low, high] = *range.get_ref();
            if !(low < high && low.is_finite() && high.is_finite()) {
                return wrong("a range is [lowest, highest]".to_owned(), range.span());
            }
        }
        let objective = Objective {
            metric,
            direction: self.direction,
            weights,
            then,
            tolerance: self.tolerance.map(Spanned::into_inner),
            range: self.range.map(Spanned::into_inner),
        };
        Ok((objective, span, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Read> {
        let source = Source::new("task.toml", text);
        let section: ObjectiveSection = crate::declaration::read(&source, crate::declaration::parse(&source)?)?;
        section.read(&source, &[])
    }

    #[test]
    fn several_metrics_may_decide() {
        let (objective, _, names) = read("weights = { accuracy = 1, length = -0.25 }\n").unwrap();
        assert_eq!((objective.metric.as_str(), objective.weights["length"]), ("objective", -0.25));
        assert_eq!(names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["accuracy", "length"]);
        let text =
            "metric = 'a'\ntolerance = 0.01\nthen = ['b', { metric = 'c', direction = 'minimize', tolerance = 2 }]\n";
        let (objective, _, _) = read(text).unwrap();
        assert_eq!(objective.tolerance, Some(0.01));
        assert_eq!(
            objective.then,
            [
                Then { metric: "b".into(), direction: Direction::Maximize, tolerance: 0.0 },
                Then { metric: "c".into(), direction: Direction::Minimize, tolerance: 2.0 }
            ]
        );
    }

    #[test]
    fn faults_point_at_their_place() {
        for (text, wanted) in [
            ("direction = 'minimize'\n", " | the objective names neither"),
            ("metric = 'a'\nthen = ['a']\n", "task.toml:2:9 | `a` decides already"),
            ("metric = 'a'\nthen = [{ metrc = 'b' }]\n", "task.toml:2:11 | unknown key `metrc`"),
            ("metric = 'a'\nthen = [3]\n", "task.toml:2:9 | wrong type"),
            ("metric = 'a'\ntolerance = 0.1\n", "task.toml:2:13 | a tolerance has no meaning"),
            ("metric = 'a'\nrange = [1.0, 0.0]\n", "task.toml:2:9 | a range is"),
            ("weights = { a = 0.0 }\n", "task.toml:1:11 | a weighted sum needs"),
            ("weights = { a = inf }\n", "task.toml:1:17 | the weight of `a` is not finite"),
        ] {
            let error = read(text).unwrap_err();
            let shown = format!("{} | {error}", error.location().unwrap_or_default());
            assert!(shown.starts_with(wanted), "{shown}");
        }
    }
}
