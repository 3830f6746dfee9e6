//! Search spaces: parameters, conditions, constraints, sampling.

pub mod builder;
pub mod configuration;
pub mod constraint;
pub mod file;
pub mod parameter;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde_json::Value;

pub use builder::SpaceBuilder;
pub use configuration::Configuration;
pub use constraint::Constraint;
pub use file::load;
pub use parameter::{Condition, Parameter, Role, Values};

use crate::diagnostic::{Error, Result, Source, suggestion};
use crate::prompt::Prompt;
use parameter::{api_parameter, same};

/// Draws that may break constraints before a space is called empty.
const DRAWS: usize = 10_000;

/// Where the pieces of a space stand in its file.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    /// Parameters, by name.
    pub parameters: BTreeMap<String, Range<usize>>,
    /// Prompts, by name.
    pub prompts: BTreeMap<String, Range<usize>>,
}

/// A search space: what may vary.
#[derive(Clone, Debug)]
pub struct Space {
    /// For people.
    pub name: String,
    /// The parameters in the order of declaration.
    pub parameters: Vec<Parameter>,
    /// The prompts, in the order of declaration.
    pub prompts: Vec<Prompt>,
    /// What every configuration must satisfy.
    pub constraints: Vec<Constraint>,
    /// A configuration that is always tried, and that the winner is compared with.
    pub baseline: Option<Configuration>,
    /// The text it was read from, and where its pieces stand.
    pub origin: Option<(Source, Spans)>,
    /// Parameters in an order in which `when` looks only back.
    order: Vec<usize>,
    /// Variables that matter whatever the prompt: named in a `when`, or only by constraints.
    gates: BTreeSet<String>,
}

impl Space {
    /// Puts a space together and checks that its pieces fit: `model` and `prompt` are there, conditions and constraints
    /// name parameters, no variable is unused, the conditions are not circular.
    pub fn new(
        name: impl Into<String>,
        parameters: Vec<Parameter>,
        prompts: Vec<Prompt>,
        constraints: Vec<Constraint>,
        origin: Option<(Source, Spans)>,
    ) -> Result<Space> {
        let mut space = Space {
            name: name.into(),
            parameters,
            prompts,
            constraints,
            baseline: None,
            origin,
            order: Vec::new(),
            gates: BTreeSet::new(),
        };
        for needed in ["model", "prompt"] {
            if space.parameter(needed).is_none() {
                return Err(Error::usage(format!("the space has no parameter `{needed}`"))
                    .help(format!("add [params.{needed}] with choices; one choice is enough")));
            }
        }
        space.check_conditions()?;
        space.check_constraints()?;
        space.order = space.dependency_order()?;
        space.gates = space.find_gates();
        space.check_unused()?;
        Ok(space)
    }

    /// A parameter by name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// A prompt by name.
    pub fn prompt(&self, name: &str) -> Option<&Prompt> {
        self.prompts.iter().find(|prompt| prompt.name == name)
    }

    /// The names of all models that may be asked.
    pub fn models(&self) -> Vec<String> {
        let values = self.parameter("model").map(|parameter| match &parameter.values {
            Values::Choices(choices) => choices.clone(),
            other => vec![other.first()],
        });
        values.into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }

    fn names(&self) -> Vec<&str> {
        self.parameters.iter().map(|parameter| parameter.name.as_str()).collect()
    }

    /// Points an error at a parameter's name in the file.
    fn at_parameter(&self, error: Error, name: &str) -> Error {
        match &self.origin {
            Some((source, spans)) => match spans.parameters.get(name) {
                Some(span) => error.at(source, span.clone(), "this parameter"),
                None => error,
            },
            None => error,
        }
    }

    fn check_conditions(&self) -> Result<()> {
        for parameter in &self.parameters {
            for condition in &parameter.when {
                let problem = match self.parameter(&condition.parameter) {
                    None => Some(file::unknown_parameter(&condition.parameter, self.names())),
                    Some(other) => condition.values.iter().find(|value| !other.values.contains(value)).map(|value| {
                        Error::usage(format!(
                            "`{}` is never {value}, so `{}` would never be active",
                            other.name, parameter.name
                        ))
                    }),
                };
                if let Some(problem) = problem {
                    return Err(self.at_parameter(problem, &parameter.name));
                }
            }
        }
        Ok(())
    }

    fn check_constraints(&self) -> Result<()> {
        for constraint in &self.constraints {
            if let Some(name) = constraint.names().iter().find(|name| self.parameter(name).is_none()) {
                let error = file::unknown_parameter(name, self.names());
                return Err(match &self.origin {
                    Some((source, _)) => error.at(source, constraint.span(), "in this constraint"),
                    None => error,
                });
            }
        }
        Ok(())
    }

    fn dependency_order(&self) -> Result<Vec<usize>> {
        let mut order: Vec<usize> = Vec::new();
        let placed = |order: &[usize], name: &str| order.iter().any(|&at| self.parameters[at].name == name);
        while order.len() < self.parameters.len() {
            let next = (0..self.parameters.len()).find(|&at| {
                let parameter = &self.parameters[at];
                !order.contains(&at) && parameter.when.iter().all(|condition| placed(&order, &condition.parameter))
            });
            let Some(next) = next else {
                let stuck = self.parameters.iter().find(|parameter| !placed(&order, &parameter.name));
                let name = stuck.map_or("", |parameter| parameter.name.as_str());
                return Err(self.at_parameter(Error::usage(format!("the conditions of `{name}` are circular")), name));
            };
            order.push(next);
        }
        Ok(order)
    }

    fn find_gates(&self) -> BTreeSet<String> {
        let conditions = self.parameters.iter().flat_map(|parameter| &parameter.when);
        let mut gates: BTreeSet<String> = conditions.map(|condition| condition.parameter.clone()).collect();
        let in_prompts: BTreeSet<&String> = self.prompts.iter().flat_map(Prompt::variables).collect();
        let in_constraints = self.constraints.iter().flat_map(Constraint::names);
        gates.extend(in_constraints.filter(|name| !in_prompts.contains(name)).cloned());
        gates
    }

    fn check_unused(&self) -> Result<()> {
        let in_prompts: BTreeSet<&String> = self.prompts.iter().flat_map(Prompt::variables).collect();
        let unused = self.parameters.iter().find(|parameter| {
            parameter.role == Role::Variable
                && !self.gates.contains(&parameter.name)
                && !in_prompts.contains(&parameter.name)
        });
        let Some(parameter) = unused else { return Ok(()) };
        let near = crate::diagnostic::nearest(&parameter.name, parameter::API_PARAMETERS.iter().map(|api| api.name));
        let help = match near {
            Some(near) => format!("did you mean `{near}`? To send it in the request body as it is, write body = true"),
            None => "use it in a template, a `when` or a constraint, or send it in the request body with body = true"
                .to_owned(),
        };
        let error = Error::usage(format!("nothing uses the parameter `{}`", parameter.name)).help(help);
        Err(self.at_parameter(error, &parameter.name))
    }

    /// Keeps what is active of a full assignment. Missing values make their parameter inactive.
    pub fn settle(&self, values: &BTreeMap<String, Value>) -> Configuration {
        let mut active: BTreeMap<String, Value> = BTreeMap::new();
        let prompt = values.get("prompt").and_then(Value::as_str).and_then(|name| self.prompt(name));
        for parameter in self.order.iter().map(|&at| &self.parameters[at]) {
            let Some(value) = values.get(&parameter.name) else { continue };
            let met = parameter.when.iter().all(|condition| {
                active
                    .get(&condition.parameter)
                    .is_some_and(|value| condition.values.iter().any(|wanted| same(wanted, value)))
            });
            let used = parameter.role != Role::Variable
                || self.gates.contains(&parameter.name)
                || prompt.is_some_and(|prompt| prompt.variables().contains(&parameter.name));
            if met && used {
                active.insert(parameter.name.clone(), value.clone());
            }
        }
        Configuration(active)
    }

    /// Whether a configuration satisfies every constraint; the first that it breaks, or that cannot be evaluated.
    pub fn broken(&self, configuration: &Configuration) -> Option<String> {
        self.constraints.iter().find_map(|constraint| match constraint.holds(configuration) {
            Ok(true) => None,
            Ok(false) => Some(format!("`{}` does not hold", constraint.text())),
            Err(problem) => Some(format!("`{}` cannot be evaluated: {problem}", constraint.text())),
        })
    }

    /// Checks that the constraints can be evaluated, and that some configuration satisfies them all.
    pub fn check_satisfiable(&self) -> Result<()> {
        let mut rng = ChaCha12Rng::seed_from_u64(0);
        let place = |error: Error, constraint: &Constraint| match &self.origin {
            Some((source, _)) => error.at(source, constraint.span(), "this constraint"),
            None => error,
        };
        for _ in 0..20 {
            let values = self.parameters.iter().map(|p| (p.name.clone(), p.values.draw(&mut rng))).collect();
            let configuration = self.settle(&values);
            for constraint in &self.constraints {
                if let Err(problem) = constraint.holds(&configuration) {
                    let message = format!("`{}` cannot be evaluated: {problem}", constraint.text());
                    return Err(place(
                        Error::usage(message).help(format!("for example for {configuration}")),
                        constraint,
                    ));
                }
            }
        }
        match (self.sample(&mut rng), self.constraints.first()) {
            (None, Some(constraint)) => Err(place(
                Error::usage(format!("{DRAWS} random configurations were drawn, and none satisfies the constraints")),
                constraint,
            )),
            _ => Ok(()),
        }
    }

    /// Checks that a setting (of a baseline, of `--set`) names a parameter and gives it a value that it can take. Numbers
    /// may lie outside the searched range; a word must be one of the choices.
    pub fn check_setting(&self, name: &str, value: &Value) -> Result<()> {
        let Some(parameter) = self.parameter(name) else {
            return Err(file::unknown_parameter(name, self.names()));
        };
        let problem = match parameter.role {
            Role::Body => parameter::beyond_bounds(name, value),
            _ => api_parameter(name).and_then(|api| api.check(value).err()),
        };
        if let Some(problem) = problem {
            return Err(Error::usage(problem));
        }
        let kind_fits = match &parameter.values {
            Values::Float { .. } => value.is_number(),
            Values::Int { .. } => parameter::whole(value).is_some(),
            Values::Choices(choices) => match value {
                Value::String(_) => parameter.values.contains(value) || !choices.iter().any(Value::is_string),
                _ => parameter.role != Role::Prompt && parameter.role != Role::Model,
            },
            Values::Constant(_) => true,
        };
        if kind_fits {
            return Ok(());
        }
        let words: Vec<&str> = match &parameter.values {
            Values::Choices(choices) => choices.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let error = Error::usage(format!("{value} is no value of `{name}`"));
        Err(match value.as_str() {
            Some(word) if !words.is_empty() => error.help(suggestion(word, words.iter().copied())),
            _ => error,
        })
    }

    /// The configuration that takes what is not set from constants, defaults, first choices and low ends.
    pub fn complete(&self, settings: &BTreeMap<String, Value>) -> Result<Configuration> {
        let value = |parameter: &Parameter| match settings.get(&parameter.name) {
            Some(value) => value.clone(),
            None => match (&parameter.values, &parameter.default) {
                (Values::Constant(value), _) => value.clone(),
                (_, Some(default)) => default.clone(),
                (values, None) => values.first(),
            },
        };
        let values = self.parameters.iter().map(|parameter| (parameter.name.clone(), value(parameter))).collect();
        self.admitted(&values)
    }

    /// The configuration of a full assignment, if it satisfies the constraints.
    pub fn admitted(&self, values: &BTreeMap<String, Value>) -> Result<Configuration> {
        let configuration = self.settle(values);
        match self.broken(&configuration) {
            Some(problem) => Err(Error::usage(format!("{configuration} breaks a constraint: {problem}"))),
            None => Ok(configuration),
        }
    }

    /// A random configuration; `None` where none of many draws satisfies the constraints.
    pub fn sample(&self, rng: &mut ChaCha12Rng) -> Option<Configuration> {
        (0..DRAWS).find_map(|_| {
            // Every parameter is drawn, active or not, so that each has its own place in the random stream.
            let values =
                self.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.values.draw(rng))).collect();
            let configuration = self.settle(&values);
            self.broken(&configuration).is_none().then_some(configuration)
        })
    }

    /// All configurations, in the order of declaration; the error says why there are none, or more than `limit`.
    pub fn enumerate(&self, limit: usize) -> Result<Vec<Configuration>, String> {
        let mut counts = Vec::new();
        for parameter in &self.parameters {
            match parameter.values.count() {
                Some(count) => counts.push(count),
                None => {
                    return Err(format!("`{}` takes any real number in its range: give it a `step`", parameter.name));
                }
            }
        }
        // Inactive parameters make many points one configuration, so more points than `limit` are gone through.
        let points = counts.iter().try_fold(1_u128, |product, &count| product.checked_mul(count)).unwrap_or(u128::MAX);
        if points > limit.saturating_mul(100) as u128 {
            return Err(format!("the space has {points} points, too many to enumerate"));
        }
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for point in 0..points {
            let mut rest = point;
            let mut values = BTreeMap::new();
            for (parameter, &count) in self.parameters.iter().zip(&counts).rev() {
                values.insert(parameter.name.clone(), parameter.values.nth(rest % count));
                rest /= count;
            }
            let configuration = self.settle(&values);
            if self.broken(&configuration).is_none() && seen.insert(configuration.key()) {
                if found.len() == limit {
                    return Err(format!("the space has more than {limit} configurations"));
                }
                found.push(configuration);
            }
        }
        Ok(found)
    }

    /// How many points there are, before constraints and conditions; `None` where they cannot be counted.
    pub fn size(&self) -> Option<u128> {
        let count = |product: u128, parameter: &Parameter| product.checked_mul(parameter.values.count()?);
        self.parameters.iter().try_fold(1, count)
    }
}

#[cfg(test)]
mod tests;
