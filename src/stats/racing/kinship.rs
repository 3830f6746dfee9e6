//! How alike configurations are, by their parameters: what the covariances of the race's model are made of.

use std::collections::BTreeMap;

use serde_json::Value;

/// Length of the Gaussian kernel of a number, as a share of its range.
const NUMBER_LENGTH: f64 = 0.25;
/// Length of the Gaussian kernel of the number of samples, in natural logarithms.
const SAMPLES_LENGTH: f64 = 1.2;
/// The parameter that is the number of samples.
const SAMPLES: &str = "n";

/// One parameter's value for every configuration.
#[derive(Clone, Debug)]
enum Column {
    /// Codes of values that are alike only if equal.
    Kinds(Vec<usize>),
    /// Numbers as shares of their range, or none where the parameter is inactive.
    Numbers(Vec<Option<f64>>),
}

/// Configurations by their parameters.
#[derive(Clone, Debug, Default)]
pub struct Kinship {
    /// The parameters that differ between configurations, `n` apart, by name.
    pub parameters: Vec<String>,
    columns: Vec<Column>,
    /// Of each configuration, its family: those that differ in nothing but `n`. Numbered in the order of appearance.
    pub family: Vec<usize>,
    /// Of each configuration, its number of samples; at least 1.
    pub samples: Vec<f64>,
}

impl Kinship {
    /// Compares configurations.
    pub fn new(configurations: &[&BTreeMap<String, Value>]) -> Kinship {
        let mut names: Vec<&String> = configurations.iter().flat_map(|values| values.keys()).collect();
        names.sort();
        names.dedup();
        let mut kinship = Kinship::default();
        for name in names.into_iter().filter(|name| *name != SAMPLES) {
            let values: Vec<Option<&Value>> = configurations.iter().map(|values| values.get(name)).collect();
            let (column, distinct) = column(&values);
            if distinct > 1 {
                kinship.parameters.push(name.clone());
                kinship.columns.push(column);
            }
        }
        let mut families = BTreeMap::new();
        for at in 0..configurations.len() {
            let key: Vec<u64> = kinship.columns.iter().map(|column| column.code(at)).collect();
            let next = families.len();
            kinship.family.push(*families.entry(key).or_insert(next));
        }
        let samples = |values: &&BTreeMap<String, Value>| values.get(SAMPLES).and_then(Value::as_f64).unwrap_or(1.0);
        kinship.samples = configurations.iter().map(samples).map(|n| if n > 1.0 { n } else { 1.0 }).collect();
        kinship
    }

    /// How many configurations there are.
    pub fn len(&self) -> usize {
        self.family.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.family.is_empty()
    }

    /// How alike two configurations are in a parameter, from 0 to 1.
    pub fn alike(&self, parameter: usize, a: usize, b: usize) -> f64 {
        match &self.columns[parameter] {
            Column::Kinds(codes) => f64::from(u8::from(codes[a] == codes[b])),
            Column::Numbers(numbers) => match (numbers[a], numbers[b]) {
                (Some(a), Some(b)) => (-0.5 * ((a - b) / NUMBER_LENGTH).powi(2)).exp(),
                (None, None) => 1.0,
                _ => 0.0,
            },
        }
    }

    /// How near two configurations' numbers of samples are, from 0 to 1.
    pub fn near(&self, a: usize, b: usize) -> f64 {
        (-0.5 * ((self.samples[a] / self.samples[b]).ln() / SAMPLES_LENGTH).powi(2)).exp()
    }

    /// The codes of a parameter's values, where it is one of few kinds that several families share; else none.
    pub fn shared_kinds(&self, parameter: usize, most: usize) -> Option<&[usize]> {
        let Column::Kinds(codes) = &self.columns[parameter] else { return None };
        let kinds = codes.iter().max().map_or(0, |code| code + 1);
        let families = self.family.iter().max().map_or(0, |family| family + 1);
        (kinds <= most && kinds < families).then_some(codes)
    }
}

impl Column {
    /// A number that is equal exactly for equal values.
    fn code(&self, at: usize) -> u64 {
        match self {
            Column::Kinds(codes) => codes[at] as u64,
            Column::Numbers(numbers) => numbers[at].map_or(u64::MAX, f64::to_bits),
        }
    }
}

/// A parameter's values as a column, and how many distinct ones there are.
fn column(values: &[Option<&Value>]) -> (Column, usize) {
    let mut codes = BTreeMap::new();
    let kinds: Vec<usize> = values
        .iter()
        .map(|value| {
            let text = match value.and_then(|value| value.as_f64()) {
                Some(number) => number.to_string(),
                None => value.map_or(String::new(), Value::to_string),
            };
            let next = codes.len();
            *codes.entry(text).or_insert(next)
        })
        .collect();
    let numbers: Vec<Option<f64>> = values.iter().map(|value| value.and_then(Value::as_f64)).collect();
    let numeric = values.iter().zip(&numbers).all(|(value, number)| value.is_none() || number.is_some());
    if !numeric || codes.len() < 3 {
        return (Column::Kinds(kinds), codes.len());
    }
    let least = numbers.iter().flatten().copied().fold(f64::MAX, f64::min);
    let most = numbers.iter().flatten().copied().fold(f64::MIN, f64::max);
    // What spans several powers of ten is compared by its logarithm.
    let scale = |number: f64| if least > 0.0 && most / least > 50.0 { number.ln() } else { number };
    let (low, range) = (scale(least), (scale(most) - scale(least)).max(f64::MIN_POSITIVE));
    let shares = numbers.iter().map(|number| number.map(|number| ((scale(number) - low) / range).clamp(0.0, 1.0)));
    (Column::Numbers(shares.collect()), codes.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kinship(values: &[Value]) -> Kinship {
        let maps: Vec<BTreeMap<String, Value>> =
            values.iter().map(|value| serde_json::from_value(value.clone()).unwrap()).collect();
        Kinship::new(&maps.iter().collect::<Vec<_>>())
    }

    #[test]
    fn families_differ_in_nothing_but_n() {
        let kinship = kinship(&[
            json!({"model": "a", "t": 0.0, "n": 1}),
            json!({"model": "a", "t": 0, "n": 8}),
            json!({"model": "b", "t": 0.5, "n": 1}),
            json!({"model": "b", "t": 1.0}),
        ]);
        assert_eq!(kinship.family, [0, 0, 1, 2]);
        assert_eq!(kinship.samples, [1.0, 8.0, 1.0, 1.0]);
        assert_eq!(kinship.parameters, ["model", "t"]);
        assert_eq!((kinship.alike(0, 0, 1), kinship.alike(0, 0, 2)), (1.0, 0.0));
        assert!(kinship.alike(1, 0, 2) > kinship.alike(1, 0, 3));
        assert!(kinship.near(0, 1) < 1.0 && kinship.near(0, 2) == 1.0);
        assert!(kinship.shared_kinds(0, 8).is_some() && kinship.shared_kinds(1, 8).is_none());
    }

    #[test]
    fn inactive_parameters_and_one_configuration_work() {
        let some = kinship(&[json!({"a": "x"}), json!({}), json!({"a": "x", "b": [1]})]);
        assert_eq!(some.parameters, ["a", "b"]);
        assert_eq!(some.family, [0, 1, 2]);
        assert_eq!(kinship(&[json!({"a": "x", "n": 3})]).family, [0]);
        assert!(kinship(&[]).is_empty());
    }
}
