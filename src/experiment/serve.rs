//! A configuration that was tuned, used on rows: what `[request]` of a `best.toml` says becomes the settings of an
//! experiment, so that its prompt is rendered over every row.

use serde_json::Value;

use super::folder::Settings;
use crate::diagnostic::{Error, Result};
use crate::evaluate::Served;
use crate::provider::Message;

impl Settings {
    /// Takes over a configuration's prompt, model and parameters; what was set before goes first.
    ///
    /// # Errors
    /// A usage error where the file does not say what is sent.
    pub fn serve(&mut self, served: &Served) -> Result<()> {
        if served.request.is_empty() {
            return Err(Error::usage("the configuration has no [request], which says what is sent")
                .help("give the best.toml of a run"));
        }
        let wrong = |what: &str| Error::usage(format!("[request] {what}"));
        for (name, value) in &served.request {
            match (name.as_str(), value) {
                ("model", Value::String(model)) => drop(self.model.get_or_insert_with(|| model.clone())),
                ("prompt", Value::String(text)) => self.template = Some(text.clone()),
                ("messages", Value::Array(all)) if !all.is_empty() => {
                    let message = |message: &Value| serde_json::from_value::<Message>(message.clone()).ok();
                    let messages = all.iter().map(message).collect::<Option<_>>();
                    self.messages = messages.ok_or_else(|| wrong("has a message without role and content"))?;
                }
                ("variables", Value::Object(variables)) => self.variables = variables.clone().into_iter().collect(),
                ("model" | "prompt" | "messages" | "variables", _) => {
                    return Err(wrong(&format!("has `{name}` in a form that cannot be read")));
                }
                _ => drop(self.params.entry(name.clone()).or_insert_with(|| value.clone())),
            }
        }
        match self.template.is_some() != self.messages.is_empty() {
            true => Err(wrong("needs `messages` or `prompt`, one of them")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::experiment::fields::{Fields, Row};
    use crate::experiment::{defaults, row};

    #[test]
    fn a_tuned_configuration_is_rendered_over_new_rows() {
        let request = json!({
            "model": "m", "n": 2, "temperature": 0.5,
            "messages": [{"role": "system", "content": "You sort."}, {"role": "user", "content": "{{ text }}{{ cue }}"}],
            "variables": {"cue": "!"},
        });
        let served = Served { request: request.as_object().unwrap().clone(), ..Served::default() };
        let mut settings = Settings::default();
        settings.params.insert("temperature".into(), json!(0));
        settings.serve(&served).unwrap();
        // It is kept in the experiment's folder as it is.
        let settings: Settings = toml::from_str(&toml::to_string(&settings).unwrap()).unwrap();
        let fields = Fields::from(json!({"text": "hello"}).as_object().unwrap().clone());
        let asked = row::read(&Row::new(fields), 1, &defaults(&settings).unwrap()).unwrap();
        let messages = [("system", "You sort."), ("user", "hello!")];
        let message = |(role, content): (&str, &str)| Message { role: role.into(), content: content.into() };
        assert_eq!(asked.ask, row::Ask::Messages(messages.map(message).to_vec()));
        assert_eq!((asked.n, asked.params["temperature"].clone()), (2, json!(0)), "what was typed goes first");
        let bare = Served { request: serde_json::Map::new(), ..Served::default() };
        assert!(Settings::default().serve(&bare).unwrap_err().to_string().contains("no [request]"));
    }
}
