//! A configuration as it is served: `best.toml` and every `--config` file. `[config]` names the parameters, `[request]`
//! says the same with nothing left to look up, so that it serves without the space.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::declaration;
use crate::diagnostic::{Error, Result, Source};
use crate::evaluate::Plan;
use crate::prompt::{Body, Prompt, Template};
use crate::runner::Runner;
use crate::space::Configuration;
use crate::space::parameter::{api_parameter, whole};

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

    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Served> {
        let source = Source::read(path)?;
        let mut root = declaration::parse(&source)?;
        let mut served = Served::default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let Some((_, value)) = declaration::take(&mut root, "task") {
            served.task = text(&declaration::json(&source, &value)?);
        }
        for (key, into) in [("config", true), ("request", false)] {
            let Some((_, table)) = declaration::take_table(&source, &mut root, key)? else { continue };
            let span = table.span();
            match declaration::json(&source, &toml::Spanned::new(span, toml::de::DeValue::Table(table.into_inner())))? {
                Value::Object(fields) if into => served.config = Configuration(fields.into_iter().collect()),
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
        Ok(served)
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
        self.request.contains_key("max_tokens") || self.request.contains_key("max_completion_tokens")
    }

    /// The plan of `[request]`, without a space.
    pub fn plan(&self, runner: &Runner) -> Result<Plan> {
        let wrong = |what: &str| Error::usage(format!("[request] {what}"));
        let mut fields = self.request.clone();
        let model = fields.remove("model").and_then(|model| model.as_str().map(str::to_owned));
        let model = model.ok_or_else(|| wrong("names no model"))?;
        let n = match fields.remove("n") {
            None => 1,
            Some(n) => whole(&n)
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .ok_or_else(|| wrong("has an n that is no count"))?,
        };
        let compile = |text: &str| {
            Template::compile(text).map_err(|problem| wrong(&format!("has a template that cannot be read: {problem}")))
        };
        let body = match (fields.remove("messages"), fields.remove("prompt")) {
            (Some(Value::Array(messages)), None) if !messages.is_empty() => {
                let one = |message: &Value| {
                    let text = |name: &str| message.get(name).and_then(Value::as_str);
                    match (text("role"), text("content")) {
                        (Some(role), Some(content)) => Ok((role.to_owned(), compile(content)?)),
                        _ => Err(wrong("has a message without role and content")),
                    }
                };
                Body::Messages(messages.iter().map(one).collect::<Result<_>>()?)
            }
            (None, Some(Value::String(text))) => Body::Text(compile(&text)?),
            _ => return Err(wrong("needs `messages` or `prompt`, one of them")),
        };
        let variables: BTreeMap<String, Value> = match fields.remove("variables") {
            None => BTreeMap::new(),
            Some(Value::Object(variables)) => variables.into_iter().collect(),
            Some(_) => return Err(wrong("has variables that are no table")),
        };
        for (name, value) in &fields {
            if let Some(problem) = api_parameter(name).and_then(|api| api.check(value).err()) {
                return Err(wrong(&problem));
            }
        }
        let name = self.config.get("prompt").and_then(Value::as_str).unwrap_or("served");
        let configuration = match self.config.0.is_empty() {
            false => self.config.clone(),
            true => Configuration(self.request.iter().map(|(name, value)| (name.clone(), value.clone())).collect()),
        };
        Plan::assemble(
            configuration,
            Prompt::new(name, body),
            &model,
            fields.into_iter().collect(),
            n,
            variables,
            runner,
        )
    }
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
