//! A request that asks a model for what it refuses, and the error that says so before it is sent.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Capabilities, Kind, all, family};
use crate::diagnostic::{Error, Result};

/// Known models that an error names as ones that can.
const EXAMPLES: usize = 3;

/// What a model is asked for and refuses.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The model.
    pub model: String,
    /// The parameter.
    pub parameter: String,
    /// What of it is taken, from "it takes" on.
    pub why: String,
    /// Its value.
    pub asked: Value,
}

impl Refused {
    /// The first of these fields of a request that a model refuses, alone or together with the others.
    pub fn find(takes: &Capabilities, model: &str, settings: &BTreeMap<String, Value>) -> Option<Refused> {
        let (parameter, why) = takes.refuses_any(settings)?;
        let asked = settings.get(&parameter).cloned().unwrap_or_default();
        Some(Refused { model: model.to_owned(), parameter, why, asked })
    }

    /// What is wrong, of who asks.
    pub fn message(&self, asker: &str) -> String {
        let Refused { model, parameter, why, asked } = self;
        format!("{asker} asks `{model}` for `{parameter}` = {asked}, and it takes {why}")
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        let parameter = &self.parameter;
        match self.able() {
            Some(others) => format!("leave `{parameter}` out, or use a model like {others}"),
            None => format!("leave `{parameter}` out"),
        }
    }

    /// Some known models that take it, for people: of each provider one, by its family's name.
    pub fn able(&self) -> Option<String> {
        let alone: BTreeMap<String, Value> = [(self.parameter.clone(), self.asked.clone())].into();
        let mut names: Vec<&str> = Vec::new();
        let mut providers: Vec<&str> = Vec::new();
        for row in all().iter().rev() {
            // Azure's models are OpenAI's.
            if row.kind != Kind::Chat
                || row.provider == "azure"
                || family(&row.name) != row.name
                || providers.contains(&row.provider.as_str())
            {
                continue;
            }
            let takes = Capabilities::of(&row.provider, &row.name).writing(row.max_output_tokens);
            if takes.refuses_any(&alone).is_none() {
                names.push(&row.name);
                providers.push(&row.provider);
            }
        }
        let names: Vec<String> = names.iter().take(EXAMPLES).map(|name| format!("`{name}`")).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

impl Capabilities {
    /// Checks the settings of one request to a model.
    ///
    /// # Errors
    /// Bad input: names who asks, the parameter and the model, and some known models that can.
    pub fn check(&self, asker: &str, model: &str, settings: &BTreeMap<String, Value>) -> Result<()> {
        match Refused::find(self, model, settings) {
            Some(refused) => Err(Error::usage(refused.message(asker)).help(refused.help())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_request_is_checked() {
        let check = |model: &str, params: Value| {
            let settings: BTreeMap<String, Value> = serde_json::from_value(params).unwrap();
            Capabilities::of("openai", model).check("the request", model, &settings)
        };
        assert!(check("gpt-4o", json!({"temperature": 0.3, "stop": "x"})).is_ok());
        let error = check("o3", json!({"temperature": 0.3})).unwrap_err();
        assert!(error.message().contains("the request asks `o3` for `temperature` = 0.3"), "{error:?}");
        assert!(error.advice().unwrap().contains("leave `temperature` out, or use a model like `"), "{error:?}");
        assert!(check("o3", json!({"temperature": 1, "note": "x"})).is_ok(), "other fields are the user's");
    }
}
