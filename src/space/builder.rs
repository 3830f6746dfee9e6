//! A search space written in Rust.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::diagnostic::{Error, Result};
use crate::prompt::{Body, Prompt, Template};
use crate::space::parameter::{Condition, Parameter, Role, Values, api_parameter};
use crate::space::{Constraint, Space};

/// Builds a [`Space`] parameter by parameter.
///
/// ```
/// # fn main() -> farthing::Result<()> {
/// use farthing::space::Space;
/// let space = Space::builder("sums")
///     .template("direct", "{{ question }}\nAnswer with the number only.")
///     .messages("tutor", &[("system", "Think step by step."), ("user", "{{ question }}")])
///     .choices("model", ["gpt-4o-mini", "gpt-4o"])
///     .float("temperature", 0.0..=1.0)
///     .int("n", 1..=5)
///     .constant("max_tokens", 200)
///     .constraint("n == 1 or temperature > 0")
///     .baseline("prompt", "direct")
///     .build()?;
/// assert_eq!(space.baseline.unwrap().to_string(), "max_tokens=200 model=gpt-4o-mini n=1 prompt=direct temperature=0.0");
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct SpaceBuilder {
    name: String,
    parameters: Vec<Parameter>,
    prompts: Vec<Prompt>,
    constraints: Vec<String>,
    baseline: Option<BTreeMap<String, Value>>,
    problem: Option<Error>,
}

impl Space {
    /// Begins a space.
    pub fn builder(name: impl Into<String>) -> SpaceBuilder {
        SpaceBuilder { name: name.into(), ..SpaceBuilder::default() }
    }
}

impl SpaceBuilder {
    fn note(&mut self, problem: Error) {
        self.problem.get_or_insert(problem);
    }

    fn compile(&mut self, name: &str, text: &str) -> Option<Template> {
        match Template::compile(text) {
            Ok(template) => Some(template),
            Err(problem) => {
                self.note(Error::usage(format!("the template of prompt `{name}` cannot be read: {problem}")));
                None
            }
        }
    }

    /// A prompt that is one user message (for a completion model: the text).
    #[must_use]
    pub fn template(mut self, name: impl Into<String>, text: &str) -> SpaceBuilder {
        let name = name.into();
        if let Some(template) = self.compile(&name, text) {
            self.prompts.push(Prompt::new(name, Body::Template(template)));
        }
        self
    }

    /// A prompt that is a conversation of (role, content).
    #[must_use]
    pub fn messages(mut self, name: impl Into<String>, messages: &[(&str, &str)]) -> SpaceBuilder {
        let name = name.into();
        let compiled: Vec<(String, Template)> = messages
            .iter()
            .filter_map(|(role, content)| Some(((*role).to_owned(), self.compile(&name, content)?)))
            .collect();
        self.prompts.push(Prompt::new(name, Body::Messages(compiled)));
        self
    }

    fn parameter(mut self, name: &str, values: Values) -> SpaceBuilder {
        let role = match name {
            "model" => Role::Model,
            "n" => Role::N,
            "prompt" => {
                self.note(Error::usage("prompts are added by `template` and `messages`"));
                return self;
            }
            _ if api_parameter(name).is_some() => Role::Api,
            _ => Role::Variable,
        };
        let wrong = api_parameter(name).and_then(|api| values.ends().iter().find_map(|value| api.check(value).err()));
        if let Some(problem) = wrong {
            self.note(Error::usage(problem));
        }
        if self.parameters.iter().any(|known| known.name == name) {
            self.note(Error::usage(format!("the parameter `{name}` is there twice")));
        }
        self.parameters.push(Parameter { name: name.to_owned(), role, values, default: None, when: Vec::new() });
        self
    }

    /// A parameter with one value.
    #[must_use]
    pub fn constant(self, name: &str, value: impl Into<Value>) -> SpaceBuilder {
        self.parameter(name, Values::Constant(value.into()))
    }

    /// A categorical parameter.
    #[must_use]
    pub fn choices<V: Into<Value>>(mut self, name: &str, choices: impl IntoIterator<Item = V>) -> SpaceBuilder {
        let choices: Vec<Value> = choices.into_iter().map(Into::into).collect();
        if choices.is_empty() {
            self.note(Error::usage(format!("`{name}` needs at least one choice")));
            return self;
        }
        self.parameter(name, Values::Choices(choices))
    }

    /// Real numbers of a range.
    #[must_use]
    pub fn float(mut self, name: &str, range: RangeInclusive<f64>) -> SpaceBuilder {
        let (low, high) = range.into_inner();
        if !(low.is_finite() && high.is_finite() && low <= high) {
            self.note(Error::usage(format!("the range of `{name}` is empty")));
            return self;
        }
        self.parameter(name, Values::Float { low, high, step: None, log: false })
    }

    /// Whole numbers of a range.
    #[must_use]
    pub fn int(mut self, name: &str, range: RangeInclusive<i64>) -> SpaceBuilder {
        let (low, high) = range.into_inner();
        if low > high {
            self.note(Error::usage(format!("the range of `{name}` is empty")));
            return self;
        }
        self.parameter(name, Values::Int { low, high, step: 1, log: false })
    }

    /// The last parameter takes only multiples of `step` above its low end.
    #[must_use]
    pub fn step(mut self, by: f64) -> SpaceBuilder {
        match self.parameters.last_mut().map(|parameter| &mut parameter.values) {
            Some(Values::Float { step, .. }) if by > 0.0 => *step = Some(by),
            Some(Values::Int { step, .. }) if by >= 1.0 => *step = by as i64,
            _ => self.note(Error::usage("`step` belongs behind a range, and is above 0")),
        }
        self
    }

    /// The last parameter is drawn evenly on the scale of logarithms.
    #[must_use]
    pub fn log(mut self) -> SpaceBuilder {
        let fits = match self.parameters.last_mut().map(|parameter| &mut parameter.values) {
            Some(Values::Float { low, log, .. }) if *low > 0.0 => {
                *log = true;
                true
            }
            Some(Values::Int { low, log, .. }) if *low > 0 => {
                *log = true;
                true
            }
            _ => false,
        };
        if !fits {
            self.note(Error::usage("`log` belongs behind a range that begins above 0"));
        }
        self
    }

    /// The last parameter is active only where another has this value.
    #[must_use]
    pub fn when(mut self, parameter: &str, value: impl Into<Value>) -> SpaceBuilder {
        let condition = Condition { parameter: parameter.to_owned(), values: vec![value.into()] };
        match self.parameters.last_mut() {
            Some(last) => last.when.push(condition),
            None => self.note(Error::usage("`when` belongs behind a parameter")),
        }
        self
    }

    /// An expression that every configuration must satisfy, like `n * max_tokens <= 4096`.
    #[must_use]
    pub fn constraint(mut self, expression: impl Into<String>) -> SpaceBuilder {
        self.constraints.push(expression.into());
        self
    }

    /// Sets a parameter of the baseline; what is not set takes the constant, the first choice or the low end.
    #[must_use]
    pub fn baseline(mut self, name: &str, value: impl Into<Value>) -> SpaceBuilder {
        self.baseline.get_or_insert_default().insert(name.to_owned(), value.into());
        self
    }

    /// Checks it and puts it together.
    pub fn build(mut self) -> Result<Space> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let names: Vec<Value> = self.prompts.iter().map(|prompt| Value::from(prompt.name.as_str())).collect();
        if !names.is_empty() {
            let values = Values::Choices(names);
            let prompt =
                Parameter { name: "prompt".to_owned(), role: Role::Prompt, values, default: None, when: Vec::new() };
            self.parameters.insert(0, prompt);
        }
        let compile = |text: &String| {
            Constraint::compile(text, 0..0)
                .map_err(|problem| Error::usage(format!("the constraint `{text}` cannot be read: {problem}")))
        };
        let constraints = self.constraints.iter().map(compile).collect::<Result<Vec<_>>>()?;
        let mut space = Space::new(self.name, self.parameters, self.prompts, constraints, None)?;
        if let Some(settings) = self.baseline {
            for (name, value) in &settings {
                space.check_setting(name, value)?;
            }
            space.baseline = Some(space.complete(&settings)?);
        }
        Ok(space)
    }
}
