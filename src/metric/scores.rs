//! Results of evaluations that are kept: a study keeps every one of them, so they share what they have in common.

use std::sync::Arc;

use super::Metrics;

/// The [`Metrics`] of one evaluation, kept in a few bytes: evaluations of one study share the names (see [`Names`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    names: Arc<Vec<String>>,
    values: Values,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    One(f64),
    Many(Box<[f64]>),
}

impl Scores {
    fn values(&self) -> &[f64] {
        match &self.values {
            Values::One(value) => std::slice::from_ref(value),
            Values::Many(values) => values,
        }
    }

    /// The value of a metric.
    pub fn get(&self, name: &str) -> Option<&f64> {
        self.values().get(self.names.iter().position(|known| known == name)?)
    }

    /// The names, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.names.iter()
    }

    /// Names and values, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, f64)> {
        self.names.iter().zip(self.values().iter().copied())
    }
}

impl From<Metrics> for Scores {
    fn from(metrics: Metrics) -> Scores {
        Names::default().share(metrics)
    }
}

impl From<&Scores> for Metrics {
    fn from(scores: &Scores) -> Metrics {
        scores.iter().map(|(name, value)| (name.clone(), value)).collect()
    }
}

/// Names that results were given under, each set of them once.
#[derive(Debug, Default)]
pub struct Names(Vec<Arc<Vec<String>>>);

/// Most evaluations have the same metrics. A metric that makes up names for every instance shares nothing.
const KEPT: usize = 16;

impl Names {
    /// The same results, with names that are shared.
    pub fn share(&mut self, metrics: Metrics) -> Scores {
        let values = match metrics.len() {
            1 => metrics.values().next().map_or_else(|| Values::Many(Box::default()), |value| Values::One(*value)),
            _ => Values::Many(metrics.values().copied().collect()),
        };
        let names = match self.0.iter().find(|known| known.iter().eq(metrics.keys())) {
            Some(known) => known.clone(),
            None => {
                let names = Arc::new(metrics.into_keys().collect());
                if self.0.len() < KEPT {
                    self.0.push(Arc::clone(&names));
                }
                names
            }
        };
        Scores { names, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_given() {
        let mut names = Names::default();
        for given in [&[][..], &[("m", 0.5)], &[("b", 1.0), ("a", -2.0)], &[("m", 0.25)]] {
            let metrics: Metrics = given.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            let scores = names.share(metrics.clone());
            assert_eq!(Metrics::from(&scores), metrics);
            assert!(scores.keys().eq(metrics.keys()));
            assert_eq!(scores, Scores::from(metrics.clone()));
            for name in ["m", "a", "b", "none"] {
                assert_eq!(scores.get(name), metrics.get(name));
            }
        }
        assert_eq!(names.0.len(), 3, "the names of two of them are the same");
        assert!(size_of::<Scores>() <= 24);
    }
}
