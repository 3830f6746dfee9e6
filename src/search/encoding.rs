//! Configurations as points, for methods that model a space.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::space::Configuration;
use crate::space::configuration::canonical;

/// What one parameter is to a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Dimension {
    /// The parameter.
    pub name: String,
    /// What it takes.
    pub kind: Kind,
}

/// What a dimension takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// So many unordered choices. The coordinate of the choice at place `i` is `(i + 1/2) / choices`: a label, to be
    /// compared for equality ([`cell`]) and nothing else.
    Choices(usize),
    /// A number; coordinate 0 is the low end, 1 the high end.
    Number {
        /// The least.
        low: f64,
        /// The greatest.
        high: f64,
        /// The coordinate goes with the logarithm.
        log: bool,
        /// How many evenly spaced values there are, each with a cell of the same width, where it is so.
        cells: Option<u64>,
    },
}

/// A coordinate from 0 to 1 for each dimension; `None` where the parameter is not active.
pub type Point = Vec<Option<f64>>;

/// Which of so many cells of equal width a coordinate is in.
pub fn cell(at: f64, cells: u64) -> u64 {
    // A float goes to the nearest whole number in range; NaN goes to 0.
    ((at * cells as f64) as u64).min(cells.saturating_sub(1))
}

/// The coordinate in the middle of a cell.
pub fn cell_middle(at: u64, cells: u64) -> f64 {
    (at as f64 + 0.5) / cells.max(1) as f64
}

/// The squared distance of two points: numbers by their coordinates; choices that differ, and parameters that only one
/// of them has, count 1.
pub fn distance(dimensions: &[Dimension], a: &[Option<f64>], b: &[Option<f64>]) -> f64 {
    dimensions.iter().zip(a.iter().zip(b)).map(|(dimension, (a, b))| gap(&dimension.kind, *a, *b)).sum()
}

/// The same from a place with all coordinates; parameters that the point has not do not count.
pub fn reach(dimensions: &[Dimension], place: &[f64], point: &[Option<f64>]) -> f64 {
    let gaps = dimensions.iter().zip(place.iter().zip(point));
    gaps.map(|(dimension, (place, at))| gap(&dimension.kind, at.and(Some(*place)), *at)).sum()
}

/// One dimension's part of the squared distance.
fn gap(kind: &Kind, a: Option<f64>, b: Option<f64>) -> f64 {
    match (a, b, kind) {
        (None, None, _) => 0.0,
        (Some(a), Some(b), Kind::Number { .. }) => (a - b).powi(2),
        (Some(a), Some(b), Kind::Choices(choices)) => f64::from(cell(a, *choices as u64) != cell(b, *choices as u64)),
        _ => 1.0,
    }
}

/// From this ratio of the greatest to the least value on, numbers are taken on the scale of logarithms.
const WIDE: f64 = 20.0;

/// An encoding made from configurations alone, for domains that do not describe their parameters, like recorded tables:
/// parameters with numbers only are numbers, all others unordered choices.
#[derive(Clone, Debug, Default)]
pub struct Derived {
    /// What varies, by name.
    pub dimensions: Vec<Dimension>,
    /// Of each dimension the choices as canonical JSON, sorted; empty for numbers.
    choices: Vec<Vec<String>>,
}

impl Derived {
    /// Looks at all values that occur.
    pub fn new<'a>(configurations: impl IntoIterator<Item = &'a Configuration>) -> Derived {
        let mut values: BTreeMap<&str, BTreeMap<String, Option<f64>>> = BTreeMap::new();
        for configuration in configurations {
            for (name, value) in &configuration.0 {
                values.entry(name).or_default().insert(canonical(value).to_string(), value.as_f64());
            }
        }
        let mut derived = Derived::default();
        for (name, values) in values.into_iter().filter(|(_, values)| values.len() > 1) {
            let numbers: Option<Vec<f64>> = values.values().copied().collect();
            let kind = match &numbers {
                Some(numbers) => {
                    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
                    let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    Kind::Number { low, high, log: low > 0.0 && high / low >= WIDE, cells: None }
                }
                None => Kind::Choices(values.len()),
            };
            derived.dimensions.push(Dimension { name: name.to_owned(), kind });
            let choices: BTreeSet<String> =
                if numbers.is_some() { BTreeSet::new() } else { values.into_keys().collect() };
            derived.choices.push(choices.into_iter().collect());
        }
        derived
    }

    /// The point of a configuration; a value that was not there when the encoding was made counts as not active.
    pub fn encode(&self, configuration: &Configuration) -> Point {
        let place = |dimension: &Dimension, choices: &[String]| -> Option<f64> {
            let value: &Value = configuration.get(&dimension.name)?;
            match dimension.kind {
                Kind::Choices(count) => {
                    let at = choices.binary_search(&canonical(value).to_string()).ok()?;
                    Some(cell_middle(at as u64, count as u64))
                }
                Kind::Number { low, high, log, .. } => {
                    let scale = |value: f64| if log { value.max(f64::MIN_POSITIVE).ln() } else { value };
                    let share = (scale(value.as_f64()?) - scale(low)) / (scale(high) - scale(low));
                    Some(if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 })
                }
            }
        };
        self.dimensions.iter().zip(&self.choices).map(|(dimension, choices)| place(dimension, choices)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn configuration(value: Value) -> Configuration {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_table_is_encoded_by_its_values() {
        let rows = [
            configuration(json!({"model": "a", "n": 1, "stop": ["x"], "max_tokens": 10, "same": 1})),
            configuration(json!({"model": "b", "n": 3, "stop": null, "max_tokens": 1000, "same": 1.0})),
            configuration(json!({"model": "b", "n": 5, "max_tokens": 100, "same": 1, "flag": true})),
        ];
        let derived = Derived::new(&rows);
        let names: Vec<&str> = derived.dimensions.iter().map(|dimension| dimension.name.as_str()).collect();
        assert_eq!(names, ["max_tokens", "model", "n", "stop"]);
        assert_eq!(derived.encode(&rows[0]), [Some(0.0), Some(0.25), Some(0.0), Some(0.25)]);
        let third = derived.encode(&rows[2]);
        assert!(third[0].is_some_and(|at| (at - 0.5).abs() < 1e-12), "{third:?}");
        assert_eq!(third[1..], [Some(0.75), Some(1.0), None]);
        assert_eq!(derived.encode(&configuration(json!({"model": "c"}))), [None; 4]);
    }

    #[test]
    fn choices_have_no_order() {
        let dimensions = [Dimension { name: "model".into(), kind: Kind::Choices(5) }];
        let at = |place: u64| [Some(cell_middle(place, 5))];
        assert_eq!(distance(&dimensions, &at(0), &at(1)), distance(&dimensions, &at(0), &at(4)));
        assert_eq!(distance(&dimensions, &at(3), &at(3)), 0.0);
        assert_eq!(distance(&dimensions, &at(3), &[None]), 1.0);
        assert_eq!((0..5).map(|place| cell(cell_middle(place, 5), 5)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!((cell(1.0, 5), cell(f64::NAN, 5), cell(0.5, 0)), (4, 0, 0));
    }
}
