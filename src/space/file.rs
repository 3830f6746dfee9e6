//! `space.toml`: a search space as written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;
use toml::de::DeValue;

use crate::declaration::{self, Table};
use crate::diagnostic::{Error, Result, Source, nearest, suggestion};
use crate::prompt::Prompt;
use crate::prompt::choice::PromptTable;
use crate::space::constraint::Constraint;
use crate::space::parameter::{Condition, Parameter, Role, Values, api_parameter, beyond_bounds, same};
use crate::space::{Space, Spans};

/// The top of a `space.toml`: everything but the parameters, the constraints and the baseline.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpaceFile {
    space: SpaceSection,
    #[serde(default)]
    constraints: Vec<ConstraintTable>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SpaceSection {
    /// For people.
    name: String,
    /// What the space is about.
    #[serde(default)]
    #[allow(dead_code)]
    description: Option<String>,
}

/// One `[[constraints]]` table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConstraintTable {
    /// A minijinja expression over parameters that must hold, like `n * max_tokens <= 4096`.
    #[schemars(with = "String")]
    expr: Spanned<String>,
}

/// A whole `space.toml`, for its JSON schema.
#[derive(Debug, JsonSchema)]
#[allow(dead_code)]
#[schemars(deny_unknown_fields, title = "farthing search space")]
pub struct SpaceSchema {
    space: SpaceSection,
    /// The parameters by name. Names of API parameters are sent to the model; any other is a variable for templates,
    /// `when` and constraints. `prompt` and `model` are needed.
    params: BTreeMap<String, crate::space::parameter::ParameterSchema>,
    constraints: Option<Vec<ConstraintTable>>,
    /// A configuration that is always tried, and that the winner is compared with.
    baseline: Option<BTreeMap<String, Value>>,
}

/// One `[params.NAME]` table; which keys belong together is checked after reading.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParamTable {
    #[serde(rename = "type")]
    kind: Option<Spanned<Kind>>,
    low: Option<Spanned<toml::Value>>,
    high: Option<Spanned<toml::Value>>,
    step: Option<Spanned<toml::Value>>,
    log: Option<Spanned<bool>>,
    when: Option<Spanned<toml::Value>>,
    body: Option<Spanned<bool>>,
    // Kept as they stand: they are read with their spans before this struct is.
    #[serde(skip)]
    value: Option<Spanned<Value>>,
    #[serde(skip)]
    default: Option<Spanned<Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Categorical,
    Float,
    Int,
}

/// Loads a search space from its file.
pub fn load(path: &Path) -> Result<Space> {
    let source = Source::read(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    read(&source, folder)
}

/// Reads a search space from a text; `folder` is where prompt files are looked for.
pub fn read(source: &Source, folder: &Path) -> Result<Space> {
    let mut root = declaration::parse(source)?;
    let params = declaration::take_table(source, &mut root, "params")?;
    let baseline = declaration::take_table(source, &mut root, "baseline")?;
    let file: SpaceFile = declaration::read(source, root)
        .map_err(|error| all_known(error, &["space", "params", "constraints", "baseline"]))?;
    let Some((_, params)) = params else {
        return Err(Error::usage(format!("{} has no parameters", source.name()))
            .help("add tables like [params.model] with choices = [\"gpt-4o-mini\"]"));
    };
    let mut reader = Reader { source, folder, prompts: Vec::new(), spans: Spans::default() };
    // The file's order is the order of columns, of the grid, and of random draws.
    let mut entries: Vec<_> = params.into_inner().into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut parameters = Vec::new();
    for (name, value) in entries {
        let key = name.get_ref().to_string();
        let table = declaration::as_table(source, &format!("params.{key}"), value)?;
        reader.spans.parameters.insert(key.clone(), name.span());
        parameters.push(reader.parameter(key, name.span(), table)?);
    }
    let constraints =
        file.constraints.iter().map(|table| Constraint::new(table.expr.get_ref(), source, table.expr.span()));
    let constraints = constraints.collect::<Result<Vec<_>>>()?;
    let spans = reader.spans;
    let mut space =
        Space::new(file.space.name, parameters, reader.prompts, constraints, Some((source.clone(), spans)))?;
    if let Some((span, table)) = baseline {
        let mut settings = BTreeMap::new();
        for (key, value) in table.into_inner() {
            let name = key.get_ref().to_string();
            let json = declaration::json(source, &value)?;
            space
                .check_setting(&name, &json)
                .map_err(|problem| problem.at(source, key.span().start..value.span().end, "in the baseline"))?;
            settings.insert(name, json);
        }
        let baseline = space.complete(&settings).map_err(|problem| problem.at(source, span, "the baseline"))?;
        space.baseline = Some(baseline);
    }
    Ok(space)
}

/// The help of an unknown key, where some of the known ones were taken out before the rest was read.
fn all_known(error: Error, known: &[&str]) -> Error {
    if !error.advice().is_some_and(|help| help.starts_with("known here: ")) {
        return error;
    }
    let key = error.message().split('`').nth(1).unwrap_or_default();
    let help = match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    error.clone().help(help)
}

struct Reader<'a> {
    source: &'a Source,
    folder: &'a Path,
    prompts: Vec<Prompt>,
    spans: Spans,
}

impl Reader<'_> {
    fn error(&self, message: impl Into<String>, span: Range<usize>, label: &str) -> Error {
        Error::usage(message).at(self.source, span, label)
    }

    fn parameter(&mut self, name: String, span: Range<usize>, mut table: Table<'_>) -> Result<Parameter> {
        let json = |found: Option<(Range<usize>, Spanned<DeValue<'_>>)>| match found {
            Some((key, value)) => {
                Ok(Some(Spanned::new(key.start..value.span().end, declaration::json(self.source, &value)?)))
            }
            None => Ok::<_, Error>(None),
        };
        let value = json(declaration::take(&mut table, "value"))?;
        let default = json(declaration::take(&mut table, "default"))?;
        let choices = declaration::take(&mut table, "choices");
        let known = ["type", "value", "choices", "low", "high", "step", "log", "default", "when", "body"];
        let mut spec: ParamTable = declaration::read(self.source, table).map_err(|error| all_known(error, &known))?;
        (spec.value, spec.default) = (value, default);
        let role = self.role(&name, &spec)?;
        let values = match (role, choices) {
            (Role::Prompt, choices) => self.prompt_values(&spec, &span, choices)?,
            (_, choices) => self.values(&name, &spec, &span, choices)?,
        };
        if let Some(api) = api_parameter(&name).filter(|_| role != Role::Body) {
            self.check_api(api, &values, &span)?;
        }
        if role == Role::Model
            && !models(&values).iter().all(|model| model.as_str().is_some_and(|name| !name.is_empty()))
        {
            return Err(self.error("a model is given by its name", span, "these must be texts"));
        }
        if let Some(default) = &spec.default
            && !values.contains(default.get_ref())
        {
            return Err(self.error(
                format!("the default of `{name}` is not one of its values"),
                default.span(),
                "not among the values",
            ));
        }
        if role == Role::Body
            && let Some(problem) = values.ends().iter().find_map(|value| beyond_bounds(&name, value))
        {
            return Err(self.error(problem, span, "this parameter"));
        }
        let when = self.conditions(&spec)?;
        Ok(Parameter { name, role, values, default: spec.default.map(Spanned::into_inner), when })
    }

    fn role(&self, name: &str, spec: &ParamTable) -> Result<Role> {
        let known = match name {
            "model" => Some(Role::Model),
            "prompt" => Some(Role::Prompt),
            "n" => Some(Role::N),
            _ => api_parameter(name).map(|_| Role::Api),
        };
        match (known, &spec.body) {
            (Some(_), Some(body)) if *body.get_ref() => {
                Err(self.error(format!("`{name}` is sent anyway"), body.span(), "take this out"))
            }
            (Some(role), _) => Ok(role),
            (None, Some(body)) if *body.get_ref() && ["messages", "stream", "stream_options"].contains(&name) => {
                Err(self.error(format!("`{name}` is farthing's to set"), body.span(), "take this parameter out"))
            }
            (None, Some(body)) if *body.get_ref() => Ok(Role::Body),
            (None, _) => Ok(Role::Variable),
        }
    }

    fn prompt_values(
        &mut self,
        spec: &ParamTable,
        span: &Range<usize>,
        choices: Option<(Range<usize>, Spanned<DeValue<'_>>)>,
    ) -> Result<Values> {
        if let Some(value) = &spec.value {
            return Err(self
                .error("prompts are given as choices, also where there is only one", value.span(), "here")
                .help("write choices = [{ name = \"...\", template = \"...\" }]"));
        }
        let Some((key, choices)) = choices else {
            return Err(self.error("`prompt` needs `choices`", span.clone(), "this parameter"));
        };
        if let Some(kind) = spec.kind.as_ref().filter(|kind| *kind.get_ref() != Kind::Categorical) {
            return Err(self.error("prompts are categorical", kind.span(), "here"));
        }
        self.misplaced(spec, "prompt", &["low", "high", "step", "log"])?;
        let DeValue::Array(items) = choices.into_inner() else {
            return Err(self.error("`choices` must be an array", key, "here"));
        };
        for item in items {
            let item_span = item.span();
            let table = match item.into_inner() {
                DeValue::Table(table) => Spanned::new(item_span.clone(), table),
                _ => {
                    return Err(self
                        .error("a prompt is a table with a name", item_span, "here")
                        .help("like { name = \"direct\", template = \"{{ question }}\" }"));
                }
            };
            let table: PromptTable = declaration::read(self.source, table)?;
            let prompt = Prompt::read(&table, self.source, self.folder)?;
            if self.prompts.iter().any(|known| known.name == prompt.name) {
                return Err(self.error(
                    format!("two prompts are named `{}`", prompt.name),
                    table.name.span(),
                    "the second one",
                ));
            }
            self.spans.prompts.insert(prompt.name.clone(), item_span);
            self.prompts.push(prompt);
        }
        if self.prompts.is_empty() {
            return Err(self.error("there must be at least one choice", key, "empty"));
        }
        Ok(Values::Choices(self.prompts.iter().map(|prompt| Value::from(prompt.name.as_str())).collect()))
    }

    fn values(
        &self,
        name: &str,
        spec: &ParamTable,
        span: &Range<usize>,
        choices: Option<(Range<usize>, Spanned<DeValue<'_>>)>,
    ) -> Result<Values> {
        if let Some(value) = &spec.value {
            self.misplaced(spec, "a constant", &["type", "low", "high", "step", "log"])?;
            if let Some((key, _)) = choices {
                return Err(self.error("a parameter has `value` or `choices`, not both", key, "here"));
            }
            return Ok(Values::Constant(value.get_ref().clone()));
        }
        let Some(kind) = &spec.kind else {
            return match choices {
                Some((_, choices)) => self.choices(choices),
                None => Err(self.error(format!("`{name}` has neither `type` nor `value`"), span.clone(), "this parameter")
                    .help("type = \"categorical\" with choices, \"float\" or \"int\" with low and high, or value = ... for a constant")),
            };
        };
        match (kind.get_ref(), choices) {
            (Kind::Categorical, Some((_, choices))) => {
                self.misplaced(spec, "a categorical parameter", &["low", "high", "step", "log"])?;
                self.choices(choices)
            }
            (Kind::Categorical, None) => {
                Err(self.error(format!("`{name}` needs `choices`"), span.clone(), "this parameter"))
            }
            (_, Some((key, _))) => {
                Err(self.error("a range has no `choices`", key, "this belongs to a categorical parameter"))
            }
            (Kind::Float, None) => self.float(name, spec, span),
            (Kind::Int, None) => self.int(name, spec, span),
        }
    }

    fn choices(&self, choices: Spanned<DeValue<'_>>) -> Result<Values> {
        let span = choices.span();
        let DeValue::Array(items) = choices.get_ref() else {
            return Err(self.error("`choices` must be an array", span, "here"));
        };
        let mut values: Vec<Value> = Vec::new();
        for item in items.iter() {
            let value = declaration::json(self.source, item)?;
            if values.iter().any(|known| same(known, &value)) {
                return Err(self.error(format!("the choice {value} is there twice"), item.span(), "the second one"));
            }
            values.push(value);
        }
        match values.is_empty() {
            true => Err(self.error("there must be at least one choice", span, "empty")),
            false => Ok(Values::Choices(values)),
        }
    }

    fn bound<'s>(
        &self,
        spec: &'s Option<Spanned<toml::Value>>,
        key: &str,
        name: &str,
        span: &Range<usize>,
    ) -> Result<&'s Spanned<toml::Value>> {
        spec.as_ref().ok_or_else(|| self.error(format!("`{name}` needs `{key}`"), span.clone(), "this parameter"))
    }

    fn number(&self, value: &Spanned<toml::Value>) -> Result<f64> {
        let number = match value.get_ref() {
            toml::Value::Integer(int) => Some(*int as f64),
            toml::Value::Float(float) => Some(*float),
            _ => None,
        };
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| self.error("this must be a finite number", value.span(), "here"))
    }

    fn integer(&self, value: &Spanned<toml::Value>) -> Result<i64> {
        match value.get_ref() {
            toml::Value::Integer(int) => Ok(*int),
            toml::Value::Float(float) if float.fract() == 0.0 && float.abs() < 9e15 => Ok(*float as i64),
            _ => Err(self.error("this must be a whole number", value.span(), "here")),
        }
    }

    fn float(&self, name: &str, spec: &ParamTable, span: &Range<usize>) -> Result<Values> {
        let (low_at, high_at) =
            (self.bound(&spec.low, "low", name, span)?, self.bound(&spec.high, "high", name, span)?);
        let (low, high) = (self.number(low_at)?, self.number(high_at)?);
        self.check_range(low, high, low_at, high_at)?;
        let log = self.log(spec, low, low_at)?;
        let step = match &spec.step {
            Some(at) => {
                let step = self.number(at)?;
                if step <= 0.0 || step > high - low && high > low {
                    return Err(self.error("`step` must be above 0 and at most high - low", at.span(), "here"));
                }
                Some(step)
            }
            None => None,
        };
        Ok(Values::Float { low, high, step, log })
    }

    fn int(&self, name: &str, spec: &ParamTable, span: &Range<usize>) -> Result<Values> {
        let (low_at, high_at) =
            (self.bound(&spec.low, "low", name, span)?, self.bound(&spec.high, "high", name, span)?);
        let (low, high) = (self.integer(low_at)?, self.integer(high_at)?);
        self.check_range(low as f64, high as f64, low_at, high_at)?;
        let log = self.log(spec, low as f64, low_at)?;
        let step = match &spec.step {
            Some(at) => match self.integer(at)? {
                step if step > 0 => step,
                _ => return Err(self.error("`step` must be above 0", at.span(), "here")),
            },
            None => 1,
        };
        Ok(Values::Int { low, high, step, log })
    }

    fn check_range(
        &self,
        low: f64,
        high: f64,
        low_at: &Spanned<toml::Value>,
        high_at: &Spanned<toml::Value>,
    ) -> Result<()> {
        if low > high {
            let span = low_at.span().start.min(high_at.span().start)..low_at.span().end.max(high_at.span().end);
            return Err(self.error(
                format!("the range is empty: low is {low}, high is {high}"),
                span,
                "low is above high",
            ));
        }
        Ok(())
    }

    fn log(&self, spec: &ParamTable, low: f64, low_at: &Spanned<toml::Value>) -> Result<bool> {
        let log = spec.log.as_ref().is_some_and(|log| *log.get_ref());
        if log && low <= 0.0 {
            return Err(self.error("a logarithmic range must begin above 0", low_at.span(), "here"));
        }
        Ok(log)
    }

    /// An error at the first of these keys that is there, for they mean nothing here.
    fn misplaced(&self, spec: &ParamTable, what: &str, keys: &[&str]) -> Result<()> {
        let there = [
            ("type", spec.kind.as_ref().map(Spanned::span)),
            ("low", spec.low.as_ref().map(Spanned::span)),
            ("high", spec.high.as_ref().map(Spanned::span)),
            ("step", spec.step.as_ref().map(Spanned::span)),
            ("log", spec.log.as_ref().map(Spanned::span)),
        ];
        match there
            .into_iter()
            .find_map(|(key, span)| keys.contains(&key).then_some(span).flatten().map(|span| (key, span)))
        {
            Some((key, span)) => Err(self.error(format!("`{key}` means nothing for {what}"), span, "take this out")),
            None => Ok(()),
        }
    }

    fn check_api(
        &self,
        api: &crate::space::parameter::ApiParameter,
        values: &Values,
        span: &Range<usize>,
    ) -> Result<()> {
        match values.ends().iter().find_map(|value| api.check(value).err()) {
            Some(problem) => Err(self
                .error(problem, span.clone(), "this parameter")
                .help("a variable of your own needs another name")),
            None => Ok(()),
        }
    }

    fn conditions(&self, spec: &ParamTable) -> Result<Vec<Condition>> {
        let Some(when) = &spec.when else { return Ok(Vec::new()) };
        let Some(table) = when.get_ref().as_table() else {
            return Err(self.error("`when` is a table like { sampling = \"top_p\" }", when.span(), "here"));
        };
        let condition = |(parameter, value): (&String, &toml::Value)| {
            let json = serde_json::to_value(value).unwrap_or(Value::Null);
            let values = match json {
                Value::Array(values) => values,
                one => vec![one],
            };
            Condition { parameter: parameter.clone(), values }
        };
        Ok(table.iter().map(condition).collect())
    }
}

fn models(values: &Values) -> Vec<Value> {
    match values {
        Values::Constant(value) => vec![value.clone()],
        Values::Choices(choices) => choices.clone(),
        _ => vec![Value::Null],
    }
}

/// The error for a name that is no parameter.
pub(super) fn unknown_parameter<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Error {
    Error::usage(format!("there is no parameter `{name}`")).help(suggestion(name, known))
}
