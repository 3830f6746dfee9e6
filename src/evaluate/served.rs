//! A configuration as it is served: `best.toml` and every `--config` file. `[config]` names the parameters, `[request]`
//! says the same with nothing left to look up, so that it serves without the space.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::backend::ProviderKind;
use crate::declaration::{self, Table};
use crate::diagnostic::{Error, Result, Source, nearest, suggestion};
use crate::evaluate::Plan;
use crate::prompt::{Body, Prompt, Template};
use crate::provider::ROLES;
use crate::provider::wire::STANDARD;
use crate::runner::Runner;
use crate::space::Configuration;
use crate::space::parameter::{API_PARAMETERS, api_parameter, check_all, output_limit, whole};

/// A configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// The task it was tuned on, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The parameters by name; a prompt by its choice's name.
    #[serde(default)]
    pub config: Configuration,
    /// What is sent: `model`, `n`, `messages` or `prompt` as templates, every API parameter, and `variables`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub request: Map<String, Value>,
}

impl Served {
    /// What a plan serves.
    pub fn of(task: &str, plan: &Plan) -> Served {
        let mut request = Map::new();
        request.insert("model".to_owned(), Value::from(plan.service.model.name.as_str()));
        let user = |template: &Template| Value::Array(vec![message("user", template)]);
        match &plan.prompt.body {
            Body::Messages(messages) => {
                let messages = messages.iter().map(|(role, content)| message(role, content)).collect();
                request.insert("messages".to_owned(), Value::Array(messages));
            }
            Body::Template(template) if plan.service.chat => {
                drop(request.insert("messages".to_owned(), user(template)))
            }
            Body::Template(template) | Body::Text(template) => {
                request.insert("prompt".to_owned(), Value::from(template.text()));
            }
        }
        request.insert("n".to_owned(), Value::from(plan.n));
        request.extend(plan.params.iter().map(|(name, value)| (name.clone(), value.clone())));
        let used = plan.prompt.variables();
        let variables: Map<String, Value> = plan
            .variables
            .iter()
            .filter(|(name, _)| used.contains(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !variables.is_empty() {
            request.insert("variables".to_owned(), Value::Object(variables));
        }
        Served { task: Some(task.to_owned()), config: plan.configuration.clone(), request }
    }

    /// Reads a configuration file. What is wrong with `[request]`, or says two things in `[config]` and in it, is an error at
    /// its place.
    pub fn load(path: &Path) -> Result<Served> {
        let source = Source::read(path)?;
        let mut root = declaration::parse(&source)?;
        let mut served = Served::default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let Some((_, value)) = declaration::take(&mut root, "task") {
            served.task = text(&declaration::json(&source, &value)?);
        }
        let mut spans = [Spans::default(), Spans::default()];
        for (key, into) in [("config", 0), ("request", 1)] {
            let Some((_, table)) = declaration::take_table(&source, &mut root, key)? else { continue };
            let span = table.span();
            spans[into] = Spans::of(&table);
            match declaration::json(&source, &toml::Spanned::new(span, toml::de::DeValue::Table(table.into_inner())))? {
                Value::Object(fields) if into == 0 => served.config = Configuration(fields.into_iter().collect()),
                Value::Object(fields) => served.request = fields,
                _ => {}
            }
        }
        if let Some((key, _)) = root.get_ref().iter().next() {
            return Err(Error::usage(format!("unknown key `{}`", key.get_ref()))
                .at(&source, key.span(), "not known here")
                .help("a configuration file has `task`, [config] and [request]"));
        }
        if served.config.0.is_empty() && served.request.is_empty() {
            return Err(Error::usage(format!("{} has neither [config] nor [request]", source.name())));
        }
        if served.request.is_empty() {
            return Ok(served);
        }
        let [config, request] = &spans;
        if let Some((name, error)) = served.contradiction() {
            return Err(error.at(&source, config.value(&name), "here"));
        }
        if let Some((name, error)) = served.misspelt() {
            return Err(error.at(&source, request.key(&name), "here"));
        }
        match parts(&served.request) {
            Ok(_) => Ok(served),
            Err((name, what)) => {
                Err(Error::usage(format!("[request] {what}")).at(&source, request.value(name), "here"))
            }
        }
    }

    /// The same error at the place where a configuration file sets a parameter.
    pub fn located(path: &Path, name: &str, error: Error) -> Error {
        let Ok(source) = Source::read(path) else { return error };
        let Ok(mut root) = declaration::parse(&source) else { return error };
        match declaration::take_table(&source, &mut root, "config") {
            Ok(Some((_, table))) => error.at(&source, Spans::of(&table).key(name), "here"),
            _ => error,
        }
    }

    /// A parameter that `[config]` gives another value than `[request]`, of which only `[request]` is sent.
    fn contradiction(&self) -> Option<(String, Error)> {
        let variables = self.request.get("variables").and_then(Value::as_object);
        let sent = |name: &str| match name {
            // A name here, a text there.
            "prompt" | "messages" => None,
            _ => self.request.get(name).or_else(|| variables?.get(name)),
        };
        let (name, value, other) = self
            .config
            .0
            .iter()
            .find_map(|(name, value)| Some((name, value, sent(name).filter(|o| !same(value, o))?)))?;
        let error = Error::usage(format!("[config] says {name} = {value}, and [request] says {other}"))
            .help("[request] is what is sent: change it there too, or take [request] out, and [config] is looked up in the space");
        Some((name.clone(), error))
    }

    /// A key of `[request]` that is nearly an API parameter.
    fn misspelt(&self) -> Option<(String, Error)> {
        let fields: BTreeSet<&str> =
            ProviderKind::Mock.fields().into_iter().chain(STANDARD.iter().copied()).chain(KEYS).collect();
        let unknown = |name: &&String| {
            api_parameter(name).is_none() && !fields.contains(name.as_str()) && self.config.get(name).is_none()
        };
        let known = || API_PARAMETERS.iter().map(|known| known.name).chain(KEYS);
        self.request.keys().filter(unknown).find_map(|name| {
            let near = nearest(name, known()).filter(|near| strsim::damerau_levenshtein(near, name) <= 2)?;
            let error = Error::usage(format!("unknown key `{name}`"))
                .help(format!("did you mean `{near}`? A field that only the endpoint knows stands in [config] too"));
            Some((name.clone(), error))
        })
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String> {
        let mut table = toml::Table::new();
        if let Some(task) = &self.task {
            table.insert("task".to_owned(), toml::Value::from(task.as_str()));
        }
        let config: Map<String, Value> = self.config.0.clone().into_iter().collect();
        for (key, fields) in [("config", &config), ("request", &self.request)] {
            if !fields.is_empty() {
                table.insert(key.to_owned(), toml_value(&Value::Object(fields.clone())));
            }
        }
        toml::to_string(&table).map_err(|error| Error::internal(format!("a configuration cannot be written: {error}")))
    }

    /// The model that is asked.
    pub fn model(&self) -> Option<&str> {
        self.request.get("model").or(self.config.get("model")).and_then(Value::as_str)
    }

    /// True where every request says how long a completion may be.
    pub fn bounded(&self) -> bool {
        output_limit(|name| self.request.get(name)).is_some()
    }

    /// The plan of `[request]`, without a space.
    pub fn plan(&self, runner: &Runner) -> Result<Plan> {
        let Parts { model, n, body, variables, params } =
            parts(&self.request).map_err(|(_, what)| Error::usage(format!("[request] {what}")))?;
        let name = self.config.get("prompt").and_then(Value::as_str).unwrap_or("served");
        let configuration = match self.config.0.is_empty() {
            false => self.config.clone(),
            true => Configuration(self.request.iter().map(|(name, value)| (name.clone(), value.clone())).collect()),
        };
        Plan::assemble(configuration, Prompt::new(name, body), &model, params, n, variables, runner)
    }
}

/// Keys of `[request]` that are no parameters, beside `n`.
const KEYS: [&str; 4] = ["model", "messages", "prompt", "variables"];

/// Where the keys of a table stand, and their values.
#[derive(Default)]
struct Spans {
    whole: Range<usize>,
    by_name: BTreeMap<String, (Range<usize>, Range<usize>)>,
}

impl Spans {
    fn of(table: &Table<'_>) -> Spans {
        let one = |(key, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<toml::de::DeValue<'_>>)| {
            (key.get_ref().to_string(), (key.span(), value.span()))
        };
        Spans { whole: table.span(), by_name: table.get_ref().iter().map(one).collect() }
    }

    fn key(&self, name: &str) -> Range<usize> {
        self.by_name.get(name).map_or_else(|| self.whole.clone(), |(key, _)| key.clone())
    }

    fn value(&self, name: &str) -> Range<usize> {
        self.by_name.get(name).map_or_else(|| self.whole.clone(), |(_, value)| value.clone())
    }
}

/// Numbers are compared as numbers.
fn same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|number| other.as_f64() == Some(number))
}

/// What `[request]` is made of.
struct Parts {
    model: String,
    n: u32,
    body: Body,
    variables: BTreeMap<String, Value>,
    params: BTreeMap<String, Value>,
}

/// Takes `[request]` apart; else the key that is wrong, and what is wrong with it.
fn parts(request: &Map<String, Value>) -> Result<Parts, (&str, String)> {
    let model = request.get("model").and_then(Value::as_str).ok_or(("model", "names no model".to_owned()))?;
    let n = match request.get("n") {
        None => 1,
        Some(n) => whole(n)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
            .ok_or(("n", "has an n that is no count".to_owned()))?,
    };
    let compile = |key: &'static str, text: &str| {
        Template::compile(text).map_err(|problem| (key, format!("has a template that cannot be read: {problem}")))
    };
    let body = match (request.get("messages"), request.get("prompt")) {
        (Some(Value::Array(messages)), None) if !messages.is_empty() => {
            let one = |message: &Value| {
                let text = |name: &str| message.get(name).and_then(Value::as_str);
                match (text("role"), text("content")) {
                    (Some(role), _) if !ROLES.contains(&role) => Err((
                        "messages",
                        format!("has a message whose `role` is `{role}`: {}", suggestion(role, ROLES)),
                    )),
                    (Some(role), Some(content)) => Ok((role.to_owned(), compile("messages", content)?)),
                    _ => Err(("messages", "has a message without role and content".to_owned())),
                }
            };
            Body::Messages(messages.iter().map(one).collect::<Result<_, _>>()?)
        }
        (None, Some(Value::String(text))) => Body::Text(compile("prompt", text)?),
        (Some(_), _) => return Err(("messages", "needs `messages` or `prompt`, one of them".to_owned())),
        _ => return Err(("prompt", "needs `messages` or `prompt`, one of them".to_owned())),
    };
    let variables = match request.get("variables") {
        None => BTreeMap::new(),
        Some(Value::Object(variables)) => variables.clone().into_iter().collect(),
        Some(_) => return Err(("variables", "has variables that are no table".to_owned())),
    };
    let params = request.iter().filter(|(name, _)| *name != "n" && !KEYS.contains(&name.as_str()));
    check_all(params.clone()).map_err(|(name, problem)| (name, format!("is wrong: {problem}")))?;
    let params = params.map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(Parts { model: model.to_owned(), n, body, variables, params })
}

fn message(role: &str, content: &Template) -> Value {
    serde_json::json!({"role": role, "content": content.text()})
}

/// A JSON value as TOML, which has no null: such fields are left out.
pub fn toml_value(value: &Value) -> toml::Value {
    match value {
        Value::Null => toml::Value::String(String::new()),
        Value::Bool(yes) => toml::Value::Boolean(*yes),
        Value::String(text) => toml::Value::String(text.clone()),
        Value::Number(number) => match number.as_i64() {
            Some(int) => toml::Value::Integer(int),
            None => toml::Value::Float(number.as_f64().unwrap_or_default()),
        },
        Value::Array(items) => {
            toml::Value::Array(items.iter().filter(|item| !item.is_null()).map(toml_value).collect())
        }
        Value::Object(fields) => {
            // Read by people: who speaks comes before what is said.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name != "role");
            toml::Value::Table(
                fields
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, value)| (name.clone(), toml_value(value)))
                    .collect(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Served, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        Served::load(&path).map_err(|error| {
            let place = error.location().unwrap_or_default();
            format!("{} | {error}", place.rsplit('/').next().unwrap_or_default())
        })
    }

    #[test]
    fn a_request_that_cannot_be_what_is_meant_is_refused_at_its_place() {
        const SENT: &str = "[request]\nmodel = \"m\"\nprompt = \"x\"\n";
        for (text, wanted) in [
            (
                format!("[config]\nmodel = \"b\"\n{SENT}"),
                "c.toml:2:9 | [config] says model = \"b\", and [request] says \"m\"",
            ),
            (format!("{SENT}n = 3\n[config]\nn = 2\n"), "c.toml:6:5 | [config] says n = 2, and [request] says 3"),
            (
                format!("[config]\ntrigger = \"a\"\n{SENT}variables = {{ trigger = \"b\" }}"),
                "c.toml:2:11 | [config] says trigger = \"a\", and [request] says \"b\"",
            ),
            (format!("{SENT}max_tokns = 5"), "c.toml:4:1 | unknown key `max_tokns`"),
            (format!("{SENT}n = 0"), "c.toml:4:5 | [request] has an n that is no count"),
            (format!("{SENT}temperature = 9"), "c.toml:4:15 | [request] is wrong: `temperature` takes"),
            (
                "[request]\nmodel = \"m\"\nmessages = [{ role = \"usr\", content = \"x\" }]".to_owned(),
                "c.toml:3:12 | [request] has a message whose `role` is `usr`: did you mean `user`?",
            ),
            ("[request]\nmodel = \"m\"".to_owned(), "c.toml:1:1 | [request] needs `messages` or `prompt`"),
        ] {
            let problem = load(&text).unwrap_err();
            assert!(problem.starts_with(wanted), "{problem}\n{wanted}");
        }
        // Numbers are numbers, a prompt has a name in one and is a text in the other, and a field of the endpoint's own that
        // is like a parameter is meant where [config] has it too.
        let fine = "[config]\nprompt = \"short\"\ntemperature = 1\ntop_a = 0.5\n";
        assert!(load(&format!("{fine}{SENT}temperature = 1.0\ntop_a = 0.5\ntop_k = 3\nquite_else = 1")).is_ok());
    }
}
