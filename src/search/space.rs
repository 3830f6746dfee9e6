//! A search space as what strategies search, and as their models see it: configurations as points of a unit cube, and back.
//!
//! Every parameter with more than one value is a dimension, in the order of declaration. A number's coordinate is its
//! place in its range (on the scale of logarithms where it is drawn so); values on a grid have cells of equal width, so
//! that an even coordinate is an even draw. A choice's coordinate is only a label: the middle of its cell, see
//! [`Kind::Choices`]. A parameter that is not active has no coordinate.

use std::collections::BTreeMap;

use serde_json::Value;

use rand_chacha::ChaCha12Rng;

use super::Domain;
use super::encoding::{Dimension, Kind, Point, cell, cell_middle};
use crate::space::parameter::{log_ends, same, steps};
use crate::space::{Configuration, Parameter, Space, Values};

/// Parameters that cost money: the less, the cheaper.
pub(super) const COSTLY: [&str; 4] = ["n", "best_of", "max_tokens", "max_completion_tokens"];

/// The parameter that is the number of samples.
const SAMPLES: &str = "n";

impl Domain for Space {
    fn sample(&self, rng: &mut ChaCha12Rng) -> Option<Configuration> {
        self.sample(rng)
    }

    fn enumerate(&self, limit: usize) -> Result<Vec<Configuration>, String> {
        self.enumerate(limit)
    }

    fn size(&self) -> Option<u128> {
        self.size()
    }

    fn dimensions(&self) -> Vec<Dimension> {
        dimensions(self)
    }

    fn encode(&self, configuration: &Configuration) -> Point {
        encode(self, configuration)
    }

    fn decode(&self, place: &[f64]) -> Option<Configuration> {
        decode(self, place)
    }

    fn siblings(&self, configuration: &Configuration) -> Vec<Configuration> {
        siblings(self, configuration)
    }

    fn low_cost(&self) -> Option<Configuration> {
        low_cost(self)
    }
}

/// The parameters that vary.
fn varying(space: &Space) -> impl Iterator<Item = &Parameter> {
    space.parameters.iter().filter(|parameter| parameter.values.count() != Some(1))
}

/// The dimensions of a space.
fn dimensions(space: &Space) -> Vec<Dimension> {
    let kind = |values: &Values| match values {
        Values::Constant(_) => Kind::Choices(1),
        Values::Choices(choices) => Kind::Choices(choices.len()),
        Values::Float { low, high, step, log } => Kind::Number {
            low: *low,
            high: *high,
            log: *log,
            cells: step.filter(|_| !log).map(|step| steps(*low, *high, step) + 1),
        },
        Values::Int { low, high, log, .. } => Kind::Number {
            low: *low as f64,
            high: *high as f64,
            log: *log,
            cells: values.count().filter(|_| !log).map(|count| count.min(1 << 53) as u64),
        },
    };
    varying(space).map(|parameter| Dimension { name: parameter.name.clone(), kind: kind(&parameter.values) }).collect()
}

/// The point of a configuration. A value outside its range is taken to the nearest end; a choice that is none of the
/// choices has no coordinate.
fn encode(space: &Space, configuration: &Configuration) -> Point {
    varying(space).map(|parameter| place_of(&parameter.values, configuration.get(&parameter.name)?)).collect()
}

/// The configuration at a place; `None` where it breaks a constraint or the place has not a coordinate for each dimension.
fn decode(space: &Space, place: &[f64]) -> Option<Configuration> {
    let mut coordinates = place.iter();
    let mut values = BTreeMap::new();
    for parameter in &space.parameters {
        let value = match parameter.values.count() {
            Some(1) => parameter.values.first(),
            _ => value_at(&parameter.values, *coordinates.next()?),
        };
        values.insert(parameter.name.clone(), value);
    }
    let configuration = space.settle(&values);
    space.broken(&configuration).is_none().then_some(configuration)
}

/// The fewest samples and tokens; everything else as the baseline has it where it is not said.
fn low_cost(space: &Space) -> Option<Configuration> {
    let least = |values: &Values| match values {
        Values::Choices(choices) => choices
            .iter()
            .filter(|choice| choice.is_number())
            .min_by(|a, b| a.as_f64().unwrap_or(f64::MAX).total_cmp(&b.as_f64().unwrap_or(f64::MAX)))
            .cloned(),
        values => Some(values.first()),
    };
    let settings = space.parameters.iter().filter(|parameter| COSTLY.contains(&parameter.name.as_str()));
    let settings = settings.filter_map(|parameter| Some((parameter.name.clone(), least(&parameter.values)?))).collect();
    space.complete(&settings).ok()
}

/// The same configuration with other numbers of samples. Of a range, each about twice the one before, and odd where the
/// least is: an even vote may be a draw.
fn siblings(space: &Space, configuration: &Configuration) -> Vec<Configuration> {
    let own = configuration.get(SAMPLES);
    let Some(parameter) = space.parameters.iter().find(|parameter| parameter.name == SAMPLES && own.is_some()) else {
        return Vec::new();
    };
    let ladder: Vec<Value> = match &parameter.values {
        Values::Constant(_) | Values::Float { .. } => Vec::new(),
        Values::Choices(choices) => choices.clone(),
        Values::Int { low, high, step, .. } => {
            let on_grid = |at: i64| low + (at - low) / step * step;
            let next = |at: &i64| {
                let next = on_grid(at.saturating_mul(2).saturating_add(1)).max(at.saturating_add(*step));
                (*at < on_grid(*high)).then(|| next.min(on_grid(*high)))
            };
            std::iter::successors(Some(*low), next).map(Value::from).collect()
        }
    };
    let with = |n: Value| {
        let settings = configuration.0.iter().map(|(name, value)| (name.clone(), value.clone()));
        let settings = settings.chain([(SAMPLES.to_owned(), n)]).collect();
        let sibling = space.complete(&settings).ok()?;
        // Where n decides what else is set, it is no sibling.
        let rest = |one: &Configuration| one.0.iter().filter(|(name, _)| *name != SAMPLES).count();
        let alike = |(name, value): (&String, &Value)| name == SAMPLES || configuration.get(name) == Some(value);
        (rest(&sibling) == rest(configuration) && sibling.0.iter().all(alike)).then_some(sibling)
    };
    ladder.into_iter().filter(|n| Some(n) != own).filter_map(with).collect()
}

fn place_of(values: &Values, value: &Value) -> Option<f64> {
    let share = |at: f64, from: f64, to: f64| {
        let share = (at - from) / (to - from);
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 }
    };
    match values {
        Values::Constant(_) => None,
        Values::Choices(choices) => {
            let at = choices.iter().position(|choice| same(choice, value))?;
            Some(cell_middle(at as u64, choices.len() as u64))
        }
        Values::Float { low, high, log: true, .. } => {
            Some(share(value.as_f64()?.max(f64::MIN_POSITIVE).ln(), low.ln(), high.ln()))
        }
        Values::Float { low, high, step: None, .. } => Some(share(value.as_f64()?, *low, *high)),
        Values::Float { low, high, step: Some(step), .. } => {
            let count = steps(*low, *high, *step) + 1;
            let at = ((value.as_f64()? - low) / step).round().clamp(0.0, (count - 1) as f64);
            Some(cell_middle(at as u64, count))
        }
        Values::Int { low, high, log: true, .. } => {
            let (from, to) = log_ends(*low, *high);
            Some(share(value.as_f64()?.max(0.5).ln(), from, to))
        }
        Values::Int { low, step, .. } => {
            let count = values.count()?.min(1 << 53) as u64;
            let at = ((value.as_f64()? - *low as f64) / *step as f64).round().clamp(0.0, (count - 1) as f64);
            Some(cell_middle(at as u64, count))
        }
    }
}

fn value_at(values: &Values, unit: f64) -> Value {
    let unit = if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 0.5 };
    values.along(|| unit).unwrap_or_else(|| match values.count() {
        Some(count) if count > 1 => values.nth(u128::from(cell(unit, count.min(1 << 53) as u64))),
        _ => values.first(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn space() -> Space {
        Space::builder("s")
            .template("direct", "{{ q }}")
            .template("cot", "{{ q }} {{ trigger }}")
            .choices("model", ["a", "b"])
            .choices("trigger", ["think", "plan", "check"])
            .choices("sampling", ["temperature", "top_p"])
            .float("temperature", 0.0..=1.0)
            .when("sampling", "temperature")
            .float("top_p", 0.5..=1.0)
            .step(0.25)
            .when("sampling", "top_p")
            .int("n", 2..=9)
            .int("max_tokens", 20..=2000)
            .log()
            .constant("seed", 3)
            .constraint("n * max_tokens <= 4000")
            .build()
            .unwrap()
    }

    #[test]
    fn dimensions_are_what_varies() {
        let names: Vec<String> = space().dimensions().into_iter().map(|dimension| dimension.name).collect();
        assert_eq!(names, ["prompt", "model", "trigger", "sampling", "temperature", "top_p", "n", "max_tokens"]);
        assert_eq!(space().dimensions()[6].kind, Kind::Number { low: 2.0, high: 9.0, log: false, cells: Some(8) });
    }

    #[test]
    fn inactive_parameters_have_no_coordinate() {
        let space = space();
        let configuration = space.decode(&[0.1, 0.9, 0.5, 0.9, 0.3, 0.5, 0.0, 0.0]).unwrap();
        let expected = "max_tokens=20 model=b n=2 prompt=direct sampling=top_p seed=3 top_p=0.75";
        assert_eq!(configuration.to_string(), expected);
        let point = space.encode(&configuration);
        assert_eq!((point[2], point[4], point[5]), (None, None, Some(0.5)));
    }

    #[test]
    fn a_broken_constraint_or_a_short_place_is_no_configuration() {
        let space = space();
        assert_eq!(space.decode(&[0.1, 0.9, 0.5, 0.9, 0.3, 0.5, 0.99, 1.0]), None);
        assert_eq!(space.decode(&[0.1, 0.9]), None);
        assert!(space.decode(&[f64::NAN, -3.0, 7.0, 0.9, 0.3, 0.5, 0.0, 0.0]).is_some());
    }

    #[test]
    fn the_cheap_start_has_the_fewest_samples_and_tokens() {
        let cheap = space().low_cost().unwrap();
        assert_eq!(
            cheap.to_string(),
            "max_tokens=20 model=a n=2 prompt=direct sampling=temperature seed=3 temperature=0.0"
        );
    }

    #[test]
    fn a_value_outside_the_range_goes_to_the_nearest_end() {
        let values = Values::Int { low: 2, high: 9, step: 1, log: false };
        assert_eq!(place_of(&values, &Value::from(50)), Some(0.9375));
        assert_eq!(place_of(&values, &Value::from("x")), None);
        assert_eq!(place_of(&Values::Choices(vec!["a".into(), "b".into()]), &"c".into()), None);
    }

    #[test]
    fn siblings_differ_in_n_alone_and_keep_the_constraints() {
        let space = space();
        let one = space.decode(&[0.1, 0.9, 0.5, 0.9, 0.3, 0.5, 0.0, 0.85]).unwrap();
        assert_eq!(one.to_string(), "max_tokens=999 model=b n=2 prompt=direct sampling=top_p seed=3 top_p=0.75");
        // n * max_tokens is at most 4000; of 2 to 9 there are 2, 5, 9.
        assert!(siblings(&space, &one).is_empty(), "{:?}", siblings(&space, &one));
        let one = space.decode(&[0.1, 0.9, 0.5, 0.9, 0.3, 0.5, 0.99, 0.3]).unwrap();
        let siblings = siblings(&space, &one);
        let n: Vec<i64> = siblings.iter().filter_map(|one| one.get("n")?.as_i64()).collect();
        assert_eq!(n, [2, 5]);
        assert!(siblings.iter().all(|sibling| sibling.0.len() == one.0.len()));
        assert!(siblings.iter().all(|sibling| sibling.get("max_tokens") == one.get("max_tokens")));
    }

    proptest! {
        #[test]
        fn going_there_and_back_changes_nothing(seed: u64) {
            let space = space();
            let configuration = space.sample(&mut ChaCha12Rng::seed_from_u64(seed)).unwrap();
            let place: Vec<f64> = space.encode(&configuration).into_iter().map(|at| at.unwrap_or(0.5)).collect();
            prop_assert!(place.iter().all(|at| (0.0..=1.0).contains(at)));
            let back = space.decode(&place).unwrap();
            prop_assert_eq!(back.key(), configuration.key());
        }
    }
}
