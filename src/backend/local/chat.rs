//! A conversation as one text: by the model's own template, as Hugging Face's `chat_template` says it.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

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
        environment.set_unknown_method_callback(method);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |_: String| -> Result<String, minijinja::Error> {
            let why = "the template asks for today's date (strftime_now), and what hangs on the day cannot be kept";
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
        });
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
            let what = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            format!("the model's chat template refused these messages: {what}")
        })
    }
}

/// Python's methods of texts and tables that templates use.
fn method(
    _: &mut minijinja::State<'_, '_>,
    value: &minijinja::Value,
    name: &str,
    arguments: &[minijinja::Value],
) -> Result<minijinja::Value, minijinja::Error> {
    use minijinja::Value as Jinja;
    let unknown = || minijinja::Error::new(ErrorKind::UnknownMethod, format!("there is no method `{name}` here"));
    if let Some(text) = value.as_str() {
        let argument = arguments.first().and_then(Jinja::as_str);
        let set: Vec<char> =
            argument.map_or_else(|| vec![' ', '\n', '\t', '\r', '\x0b', '\x0c'], |set| set.chars().collect());
        let other = arguments.get(1).and_then(Jinja::as_str);
        return Ok(match (name, argument) {
            ("strip", _) => Jinja::from(text.trim_matches(&set[..])),
            ("lstrip", _) => Jinja::from(text.trim_start_matches(&set[..])),
            ("rstrip", _) => Jinja::from(text.trim_end_matches(&set[..])),
            ("upper", None) => Jinja::from(text.to_uppercase()),
            ("lower", None) => Jinja::from(text.to_lowercase()),
            ("title" | "capitalize", None) => {
                let mut letters = text.chars();
                let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
                Jinja::from(first + &letters.as_str().to_lowercase())
            }
            ("startswith", Some(start)) => Jinja::from(text.starts_with(start)),
            ("endswith", Some(end)) => Jinja::from(text.ends_with(end)),
            ("split", Some(at)) => text.split(at).map(Jinja::from).collect(),
            ("split", None) => text.split_whitespace().map(Jinja::from).collect(),
            ("replace", Some(old)) => Jinja::from(text.replace(old, other.unwrap_or_default())),
            _ => return Err(unknown()),
        });
    }
    match (name, arguments) {
        ("items", []) => {
            let pairs = value.try_iter()?.map(|key| Ok(Jinja::from(vec![key.clone(), value.get_item(&key)?])));
            pairs.collect::<Result<Vec<_>, minijinja::Error>>().map(Jinja::from)
        }
        ("get", [key]) => value.get_item(key),
        ("get", [key, default]) => {
            value.get_item(key).map(|found| if found.is_undefined() { default.clone() } else { found })
        }
        _ => Err(unknown()),
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
        assert!(rendered(Some("{{ strftime_now('%Y') }}")).unwrap_err().contains("strftime_now"));
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
        let several = serde_json::json!({"chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]});
        assert_eq!(template(&several).unwrap(), "b");
        assert_eq!(special(&serde_json::json!({"bos_token": {"content": "<s>"}}), "bos_token"), "<s>");
    }
}
