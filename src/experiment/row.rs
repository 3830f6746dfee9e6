//! What a row asks for: its prompt, model, parameters and group, or what is wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::fields::{Fields, Row};
use crate::data::altered;
use crate::diagnostic::nearest;
use crate::prompt::{self, Context, Prompt};
use crate::provider::message::shown;
use crate::provider::{Input, Message};
use crate::space::parameter::completions;

/// What is wrong with a row, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Fault {
    /// A fault without advice.
    pub fn new(message: impl Into<String>) -> Fault {
        Fault { message: message.into(), help: None }
    }

    /// Says what to do.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Fault {
        Fault { help: Some(help.into()), ..self }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.help {
            Some(help) => write!(f, "{}: {help}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl From<crate::Error> for Fault {
    fn from(error: crate::Error) -> Fault {
        Fault { message: error.message().to_owned(), help: error.advice().map(str::to_owned) }
    }
}

/// Which model a row is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// A model of `farthing.toml` or of the built-in table.
    Model(String),
    /// A model at one of prompto's APIs.
    Api {
        /// prompto's word, or an endpoint's name.
        api: String,
        /// The model's name there.
        model: String,
    },
}

impl Who {
    /// The model's name.
    pub fn model(&self) -> &str {
        match self {
            Who::Model(model) | Who::Api { model, .. } => model,
        }
    }
}

/// What a model is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// A text: one turn of the user's or, for a completion model, what it goes on from.
    Prompt(String),
    /// A conversation.
    Messages(Vec<Message>),
    /// Turns of the user's that are asked one after the other, each with all answers before it.
    Turns(Vec<String>),
}

impl Ask {
    /// The first request's input, for a chat model or, with `chat` false, for one that completes texts.
    pub fn input(&self, chat: bool) -> Result<Input, Fault> {
        let user = |text: &String| vec![Message { role: "user".to_owned(), content: text.clone() }];
        match self {
            Ask::Prompt(text) if !chat => Ok(Input::Text(text.clone())),
            Ask::Prompt(text) => Ok(Input::Messages(user(text))),
            _ if !chat => Err(Fault::new("this model completes texts, and the prompt is a conversation")
                .help("give the prompt as one text")),
            Ask::Messages(messages) => Ok(Input::Messages(messages.clone())),
            Ask::Turns(turns) => Ok(Input::Messages(turns.first().map(user).unwrap_or_default())),
        }
    }
}

/// What a row asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its name: the `id` column, else the number of the row.
    pub id: String,
    /// The `group` column.
    pub group: Option<String>,
    /// The model.
    pub who: Who,
    /// The prompt.
    pub ask: Ask,
    /// The API parameters but n, by the names that the row gives them.
    pub params: BTreeMap<String, Value>,
    /// How many completions.
    pub n: u32,
    /// `mode = "completion"`: the model goes on from a text (prompto).
    pub completion: bool,
    /// Columns that belong to the row's record though they did not stand in it: its id, a rendered prompt, a model.
    pub added: Vec<(&'static str, Value)>,
}

/// What holds for every row that does not say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The model of rows that name none.
    pub model: Option<String>,
    /// Parameters of rows that do not set them.
    pub params: BTreeMap<String, Value>,
    /// The prompt of every row, as a template over its columns.
    pub template: Option<Prompt>,
    /// What it knows beside the row's columns.
    pub variables: Arc<prompt::Fields>,
    /// Metrics or functions read every column.
    pub reads_all: bool,
}

/// Columns that say what is asked; all others are only carried through.
const OWN_COLUMNS: [&str; 10] =
    ["id", "prompt", "messages", "model", "api", "model_name", "mode", "safety_filter", "parameters", "group"];

/// The prefix of columns that are parameters.
const PARAMETER: &str = "parameters-";

/// A row's name: its `id`, else its number from 1.
pub fn id_of(fields: &Fields, number: usize) -> String {
    match fields.filled("id") {
        None => number.to_string(),
        Some(Value::String(id)) => id.clone(),
        Some(other) => other.to_string(),
    }
}

/// Reads a row, the `number`-th from 1. Cells of a CSV file are typed: what reads as JSON is that, all else text.
pub fn read(row: &Row, number: usize, defaults: &Defaults) -> Result<Asked, Fault> {
    let fields = &row.fields;
    let all = defaults.reads_all || defaults.template.is_some();
    if let Some(what) = row.too_large(|name| all || OWN_COLUMNS.contains(&name) || name.starts_with(PARAMETER)) {
        return Err(Fault::new(what));
    }
    let mut added = Vec::new();
    if fields.filled("id").is_none() {
        added.push(("id", Value::from(number.to_string())));
    }
    let text = |name: &str| match fields.filled(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Fault::new(format!("`{name}` is a text, not {}", shown(other)))),
    };
    let who = match (text("model")?, text("api")?, text("model_name")?) {
        (Some(_), Some(_), _) => {
            return Err(
                Fault::new("this row has `model` and `api`").help("`api` goes with `model_name`; keep one form")
            );
        }
        (Some(model), None, _) => Who::Model(model),
        (None, Some(api), Some(model)) => Who::Api { api, model },
        (None, Some(api), None) => match &defaults.model {
            Some(model) => {
                added.push(("model_name", Value::from(model.as_str())));
                Who::Api { api, model: model.clone() }
            }
            None => {
                return Err(Fault::new(format!("this row has the api `{api}` and no `model_name`"))
                    .help("add `model_name`, or give --model"));
            }
        },
        (None, None, Some(model)) => {
            return Err(Fault::new(format!("this row has the model_name `{model}` and no `api`"))
                .help("add `api`, or call the column `model`"));
        }
        (None, None, None) => match &defaults.model {
            Some(model) => {
                added.push(("model", Value::from(model.as_str())));
                Who::Model(model.clone())
            }
            None => {
                let near = nearest("model", fields.0.iter().map(|(name, _)| name.as_str()));
                let near = near.map(|near| format!("; or is `{near}` meant to be it?")).unwrap_or_default();
                return Err(Fault::new("this row names no model")
                    .help(format!("add a column `model` (or `api` and `model_name`), or give --model{near}")));
            }
        },
    };
    let prompto = matches!(who, Who::Api { .. });
    let ask = match &defaults.template {
        Some(template) => {
            let ask = rendered(template, fields, &defaults.variables)?;
            added.push(("prompt", as_json(&ask)));
            ask
        }
        None => prompt_of(fields, prompto)?,
    };
    let completion = match fields.filled("mode").filter(|_| prompto) {
        None => false,
        Some(mode) if *mode == "chat" => false,
        Some(mode) if *mode == "completion" => true,
        Some(mode) => {
            return Err(Fault::new(format!("`mode` is \"chat\" or \"completion\", not {}", shown(mode))));
        }
    };
    let mut params = parameters(fields)?;
    for (name, value) in &defaults.params {
        params.entry(name.clone()).or_insert_with(|| value.clone());
    }
    params.retain(|_, value| !value.is_null());
    // Google's word for n.
    let gemini = matches!(&who, Who::Api { api, .. } if api == "gemini" || api == "vertexai");
    let given = params.remove("n").or_else(|| if gemini { params.remove("candidate_count") } else { None });
    let n = match given {
        None => 1,
        Some(n) => completions(&n).map_err(Fault::new)?,
    };
    Ok(Asked { id: id_of(fields, number), group: text("group")?, who, ask, params, n, completion, added })
}

/// A prompt as it was rendered, for the record.
fn as_json(ask: &Ask) -> Value {
    match ask {
        Ask::Prompt(text) => Value::from(text.as_str()),
        Ask::Messages(messages) => serde_json::to_value(messages).unwrap_or_default(),
        Ask::Turns(turns) => Value::from(turns.clone()),
    }
}

fn rendered(template: &Prompt, fields: &Fields, variables: &Arc<prompt::Fields>) -> Result<Ask, Fault> {
    let fields = prompt::Fields::new(fields.0.iter().map(|(name, value)| (name, value)));
    let wrong = |problem| Fault::new(format!("the template cannot be rendered: {problem}"));
    match template.render(&Context::new(&fields, variables), true).map_err(wrong)? {
        Input::Messages(mut messages) if messages.len() == 1 && messages[0].role == "user" => {
            Ok(Ask::Prompt(messages.swap_remove(0).content))
        }
        Input::Messages(messages) => Ok(Ask::Messages(messages)),
        Input::Text(text) => Ok(Ask::Prompt(text)),
    }
}

fn prompt_of(fields: &Fields, prompto: bool) -> Result<Ask, Fault> {
    let value = match (fields.filled("prompt"), fields.filled("messages")) {
        (Some(_), Some(_)) => return Err(Fault::new("this row has `prompt` and `messages`; one is enough")),
        (Some(prompt), None) => prompt,
        (None, Some(messages @ Value::Array(_))) => messages,
        (None, Some(other)) => return Err(Fault::new(format!("`messages` is a list, not {}", shown(other)))),
        (None, None) => return Err(Fault::new("this row has no prompt")),
    };
    match value {
        Value::String(text) => Ok(Ask::Prompt(text.clone())),
        Value::Array(items) if items.is_empty() => Err(Fault::new("the prompt is an empty list")),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let turns: Vec<String> = items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect();
            // prompto asks such a list turn by turn; here it is a conversation that has taken place.
            if prompto {
                return Ok(Ask::Turns(turns));
            }
            if turns.len().is_multiple_of(2) {
                return Err(Fault::new(
                    "the conversation ends with an answer: its turns are the user's and the \
                     assistant's in alternation",
                )
                .help("end it with a turn of the user's, or write messages with their roles"));
            }
            let roles = ["user", "assistant"].into_iter().cycle();
            let turn = |(role, content): (&str, String)| Message { role: role.to_owned(), content };
            Ok(Ask::Messages(roles.zip(turns).map(turn).collect()))
        }
        Value::Array(items) => Ok(Ask::Messages(items.iter().map(message).collect::<Result<_, _>>()?)),
        other => {
            Err(Fault::new(format!("a prompt is a text, a list of texts, or a list of messages, not {}", shown(other))))
        }
    }
}

fn message(item: &Value) -> Result<Message, Fault> {
    let read = Message::read(item).map_err(Fault::new);
    read.map_err(|fault| match item.is_object() {
        true => fault,
        false => fault.help("texts and messages are not mixed in one list"),
    })
}

fn parameters(fields: &Fields) -> Result<BTreeMap<String, Value>, Fault> {
    let mut params = match fields.filled("parameters") {
        None => BTreeMap::new(),
        Some(Value::Object(map)) => map.clone().into_iter().collect(),
        // A table holds it as a text.
        Some(Value::String(text)) => {
            as_it_is(text)?;
            serde_json::from_str(text).map_err(|_| {
                Fault::new("`parameters` is a JSON object").help("or give each in a column `parameters-NAME`")
            })?
        }
        Some(other) => return Err(Fault::new(format!("`parameters` is an object, not {}", shown(other)))),
    };
    for (column, value) in &fields.0 {
        let Some(name) = column.strip_prefix(PARAMETER) else { continue };
        if let Some(value) = typed(value)? {
            params.insert(name.to_owned(), value);
        }
    }
    Ok(params)
}

/// A cell as what it says: a number, a truth value, JSON, else a text. Blank: none.
fn typed(value: &Value) -> Result<Option<Value>, Fault> {
    let Value::String(text) = value else { return Ok(Some(value.clone()).filter(|value| !value.is_null())) };
    let trimmed = text.trim();
    Ok(match trimmed {
        "" => None,
        // As a spreadsheet writes them.
        "TRUE" | "True" => Some(Value::Bool(true)),
        "FALSE" | "False" => Some(Value::Bool(false)),
        "null" | "None" | "NaN" | "nan" => None,
        _ => Some(match serde_json::from_str(trimmed) {
            Ok(value) => as_it_is(trimmed).map(|()| value)?,
            Err(_) => Value::from(text.as_str()),
        }),
    })
}

/// JSON in a cell that would be read as something else than it says is a fault.
fn as_it_is(text: &str) -> Result<(), Fault> {
    altered(text).map_or(Ok(()), |(_, what)| Err(Fault::new(what)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(row: Value, defaults: &Defaults) -> Result<Asked, Fault> {
        let Value::Object(map) = row else { panic!("a row") };
        read(&Row::new(map.into()), 7, defaults)
    }

    fn roles(ask: &Ask) -> String {
        match ask {
            Ask::Messages(messages) => messages.iter().map(|m| format!("{}:{} ", m.role, m.content)).collect(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn both_forms_are_read() {
        let none = Defaults::default();
        let ours = asked(json!({"prompt": "p", "model": "m", "temperature": "carried"}), &none).unwrap();
        assert_eq!((ours.id.as_str(), ours.who.model(), ours.n), ("7", "m", 1));
        assert_eq!(ours.added, [("id", json!("7"))]);
        assert!(ours.params.is_empty());
        let theirs = asked(json!({"id": 3, "prompt": "p", "api": "openai", "model_name": "m", "group": "g", "parameters": {"n": 2.0, "top_p": 0.5}}), &none).unwrap();
        assert_eq!((theirs.id.as_str(), theirs.group.as_deref(), theirs.n), ("3", Some("g"), 2));
        assert_eq!(theirs.who, Who::Api { api: "openai".into(), model: "m".into() });
        let google = asked(
            json!({"prompt": "p", "api": "gemini", "parameters": {"candidate_count": 3}}),
            &Defaults { model: Some("g".into()), ..Defaults::default() },
        )
        .unwrap();
        assert_eq!((google.n, google.params.len(), &google.added[1].1), (3, 0, &json!("g")));
        assert_eq!(google.who, Who::Api { api: "gemini".into(), model: "g".into() });
    }

    #[test]
    fn cells_are_typed_and_blank_ones_are_none() {
        let row = json!({"prompt": "p", "model": "m", "parameters-temperature": "0.5", "parameters-stop": "[\"a\"]", "parameters-seed": " ",
            "parameters-logprobs": "TRUE", "parameters-reasoning_effort": "low", "parameters": "{\"max_tokens\": 5, \"temperature\": 1}"});
        let params = asked(row, &Defaults::default()).unwrap().params;
        let expected =
            json!({"temperature": 0.5, "stop": ["a"], "logprobs": true, "reasoning_effort": "low", "max_tokens": 5});
        assert_eq!(json!(params), expected);
    }

    #[test]
    fn integers_that_are_too_large_are_refused_where_they_are_read() {
        let look = |text: &str, defaults: &Defaults| {
            let row = Row { text: text.to_owned(), fields: serde_json::from_str(text).unwrap() };
            read(&row, 1, defaults).map(|asked| asked.params).map_err(|fault| fault.message)
        };
        let (none, all) = (Defaults::default(), Defaults { reads_all: true, ..Defaults::default() });
        let template = crate::prompt::Template::compile("{{ prompt }}").unwrap();
        let template = Some(Prompt::new("t", crate::prompt::Body::Template(template)));
        let templated = Defaults { template, ..Defaults::default() };
        let carried = r#"{"prompt": "p", "model": "m", "big": 123456789012345678901234567890}"#;
        assert!(look(carried, &none).is_ok());
        for (text, defaults) in [
            (carried, &all),
            (carried, &templated),
            (r#"{"prompt": "p", "model": "m", "parameters": {"seed": 123456789012345678901}}"#, &none),
            (r#"{"prompt": "p", "model": "m", "parameters-seed": 123456789012345678901}"#, &none),
            (r#"{"prompt": "p", "model": "m", "parameters-seed": " 123456789012345678901"}"#, &none),
            (r#"{"prompt": "p", "model": "m", "parameters": "{\"seed\": 123456789012345678901}"}"#, &none),
            (r#"{"id": 123456789012345678901, "prompt": "p", "model": "m"}"#, &none),
        ] {
            assert!(look(text, defaults).unwrap_err().contains("does not fit 64 bits"), "{text}");
        }
    }

    #[test]
    fn lists_are_conversations_or_in_promptos_form_turns() {
        let none = Defaults::default();
        let ours = asked(json!({"prompt": ["a", "b", "c"], "model": "m"}), &none).unwrap();
        assert_eq!(roles(&ours.ask), "user:a assistant:b user:c ");
        let theirs = asked(json!({"prompt": ["a", "b"], "api": "openai", "model_name": "m"}), &none).unwrap();
        assert_eq!(theirs.ask, Ask::Turns(vec!["a".into(), "b".into()]));
        let history = json!([{"role": "system", "content": "s"}, {"role": "user", "parts": ["x", {"type": "text", "text": "y"}]}]);
        assert_eq!(roles(&asked(json!({"prompt": history, "model": "m"}), &none).unwrap().ask), "system:s user:xy ");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (row, wanted) in [
            (json!({"prompt": "p"}), "names no model"),
            (json!({"prompt": "p", "modell": "m"}), "names no model"),
            (json!({"prompt": "p", "api": "openai"}), "no `model_name`"),
            (json!({"prompt": "p", "api": "openai", "model": "m"}), "`model` and `api`"),
            (json!({"model": "m"}), "no prompt"),
            (json!({"prompt": ["a", "b"], "model": "m"}), "ends with an answer"),
            (json!({"prompt": [{"role": "boss", "content": "x"}], "model": "m"}), "`boss` is no role"),
            (
                json!({"prompt": [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}], "model": "m"}),
                "only texts",
            ),
            (json!({"prompt": "p", "model": "m", "parameters": [1]}), "`parameters` is an object, not [1]"),
            (json!({"prompt": "p", "model": "m", "parameters": {"n": 0}}), "n = 0 is no number"),
        ] {
            let fault = asked(row.clone(), &Defaults::default()).unwrap_err();
            assert!(fault.to_string().contains(wanted), "{row}: {fault}");
        }
    }

    #[test]
    fn a_template_is_rendered_over_the_row() {
        let template = crate::prompt::Template::compile("{{ q }}? ({{ prompt }})").unwrap();
        let template = Prompt::new("t", crate::prompt::Body::Template(template));
        let params = BTreeMap::from([("temperature".to_owned(), json!(0)), ("seed".to_owned(), json!(1))]);
        let defaults = Defaults { model: Some("m".into()), params, template: Some(template), ..Defaults::default() };
        let asked = asked(json!({"q": "why", "prompt": "x", "parameters": {"seed": 2}}), &defaults).unwrap();
        assert_eq!(asked.ask, Ask::Prompt("why? (x)".into()));
        assert_eq!(json!(asked.params), json!({"seed": 2, "temperature": 0}));
        let names: Vec<&str> = asked.added.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["id", "model", "prompt"]);
    }
}
