//! A conversation as one text: by the model's own template, as Hugging Face's `chat_template` says it.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::diagnostic::{Error, Result};
use crate::provider::Message;

/// How a model is given a conversation.
pub struct Chat {
    environment: Option<Environment<'static>>,
    begin: String,
    end: String,
}

/// Steps that rendering one conversation may take.
const FUEL: u64 = 10_000_000;

impl Chat {
    /// From a template, or none: then the contents are joined by line ends. `begin` and `end` are the written forms of the
    /// tokens that templates call `bos_token` and `eos_token`.
    pub fn new(name: &str, template: Option<String>, begin: String, end: String) -> Result<Chat> {
        let Some(template) = template else { return Ok(Chat { environment: None, begin, end }) };
        let mut environment = Environment::new();
        // As transformers renders them.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Error::internal(error.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        // `strftime_now` stays unknown: what hangs on the day cannot be kept, and templates that ask whether it is there
        // have a day of their own.
        environment.add_template_owned("chat", template).map_err(|error| {
            let line = error.line().map_or(String::new(), |line| format!(", line {line}"));
            Error::usage(format!("the chat template of {name} cannot be read{line}: {error}"))
        })?;
        Ok(Chat { environment: Some(environment), begin, end })
    }

    /// True where the model has a template.
    pub fn templated(&self) -> bool {
        self.environment.is_some()
    }

    /// The text of a conversation, ready for the model's turn.
    pub fn render(&self, messages: &[Message]) -> std::result::Result<String, String> {
        let Some(environment) = &self.environment else {
            let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            return Ok(contents.join("\n"));
        };
        let values = context! {
            messages => minijinja::Value::from(minijinja::value::Serde(messages.to_vec())),
            add_generation_prompt => true,
            bos_token => self.begin.as_str(),
            eos_token => self.end.as_str(),
        };
        let rendered = environment.get_template("chat").and_then(|template| template.render(values));
        rendered.map_err(|error| {
            let what = match error.detail() {
                Some(detail) if detail.contains("strftime_now") => {
                    "it asks for today's date (strftime_now), and what hangs on the day cannot be kept".to_owned()
                }
                Some(detail) => detail.to_owned(),
                None => error.to_string(),
            };
            format!("the model's chat template refused these messages: {what}")
        })
    }
}

/// JSON as Python writes it: a blank after each comma and colon (or lines, with `indent`), and nothing escaped for HTML.
fn to_json(value: &minijinja::Value, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut text = Vec::new();
    let written = match indent {
        Some(width) => {
            let blanks = b" ".repeat(width.min(16));
            value.serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(&blanks)))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, Spaced)),
    };
    let failed = |what: String| minijinja::Error::new(ErrorKind::InvalidOperation, what);
    written.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(text).map_err(|error| failed(error.to_string()))
}

/// One line of JSON with blanks between its parts.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The template that a `tokenizer_config.json` names: its own, or the one called `default` of several.
pub fn template(config: &Value) -> Option<String> {
    match &config["chat_template"] {
        Value::String(template) => Some(template.clone()),
        Value::Array(several) => {
            let named = |name: &str| several.iter().find(|entry| entry["name"] == name);
            let entry = named("default").or(several.first())?;
            entry["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// The written form of a special token in a `tokenizer_config.json`.
pub fn special(config: &Value, name: &str) -> String {
    let token = &config[name];
    token.as_str().or(token["content"].as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: Option<&str>) -> std::result::Result<String, String> {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let chat = Chat::new("m", template.map(str::to_owned), "<s>".into(), "</s>".into()).unwrap();
        chat.render(&[message("system", "Be brief."), message("user", " Hi ")])
    }

    #[test]
    fn a_template_makes_one_text() {
        assert_eq!(rendered(None).unwrap(), "Be brief.\n Hi ");
        let template = "{{ bos_token }}{% for message in messages %}\n{{ '<|' + message['role'] + '|>' + message['content'].strip() }}{% if not loop.last %};{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
        assert_eq!(rendered(Some(template)).unwrap(), "<s><|system|>Be brief.;<|user|>Hi<|assistant|>");
        assert_eq!(
            rendered(Some("{{ raise_exception('no system turns') }}")).unwrap_err(),
            "the model's chat template refused these messages: no system turns"
        );
        assert!(rendered(Some("{{ strftime_now('%Y') }}")).unwrap_err().contains("today's date (strftime_now)"));
        let day = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(rendered(Some(day)).unwrap(), "26 Jul 2024");
        assert_eq!(
            rendered(Some("{{ {'a': ['<é>', none]} | tojson }}{{ [1] | tojson(indent=2) }}")).unwrap(),
            "{\"a\": [\"<é>\", null]}[\n  1\n]"
        );
        assert!(
            rendered(Some("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")).is_err()
        );
        assert!(Chat::new("m", Some("{% if %}".into()), String::new(), String::new()).is_err());
    }

    #[test]
    fn templates_have_pythons_methods() {
        assert_eq!(
            rendered(Some("{{ messages[1].content.lstrip().upper() }}{{ messages[0].get('x', 'none') }}")).unwrap(),
            "HI none"
        );
        assert_eq!(
            rendered(Some(
                "{{ messages[0]['role'].split('s') | length }}{% for k, v in messages[0].items() %}{{ k }}{% endfor %}"
            ))
            .unwrap(),
            "3rolecontent"
        );
        assert_eq!(
            rendered(Some("{{ messages[0].content.split(' ', 1) | length }}{{ 'aXbXc'.replace('X', '-', 1) }}"))
                .unwrap(),
            "2a-bXc"
        );
        assert_eq!(
            rendered(Some("{{ ', '.join(messages[0].keys()) }} {{ 'two words'.title() }}")).unwrap(),
            "role, content Two Words"
        );
        assert_eq!(rendered(Some("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}")).unwrap(), "system");
        let several = serde_json::json!({"chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]});
        assert_eq!(template(&several).unwrap(), "b");
        assert_eq!(special(&serde_json::json!({"bos_token": {"content": "<s>"}}), "bos_token"), "<s>");
    }
}
