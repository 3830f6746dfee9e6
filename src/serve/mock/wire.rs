//! What the wire formats share: which there are, how each is read and answered, and how it says no.
//!
//! Everything here is the other side of the wire from `provider/`, written a second time on purpose: a mistake made in
//! one of them does not pass unseen through the other.

use axum::http::{HeaderMap, header};
use serde_json::{Map, Value};

use super::ledger::Tokens;
use super::{anthropic, azure, gemini, ollama, openai, responses};
use crate::provider::{Failure, FailureKind, Input, Message, Request, Response};

/// Every reply is "created" at this moment, plus its number, so that equal runs give equal bytes.
pub(super) const CREATED: u64 = 1_700_000_000;

/// Whose API a route belongs to: it decides where the key stands and what an error looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    OpenAi,
    Azure,
    Anthropic,
    Ollama,
    Gemini,
}

/// What a request for completions, and its reply, look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI text completions.
    Text,
    /// OpenAI responses.
    Responses,
    /// Azure chat completions.
    AzureChat,
    /// Azure text completions.
    AzureText,
    /// Anthropic messages.
    Messages,
    /// Ollama chat.
    OllamaChat,
    /// Ollama generate.
    OllamaGenerate,
    /// Gemini generateContent.
    Gemini,
}

/// A request as it was read.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// In the words of the OpenAI API.
    pub(super) request: Request,
    /// Whether the answer is wanted in pieces.
    pub(super) stream: bool,
    /// Whether the stream ends with the usage.
    pub(super) usage: bool,
}

impl Asked {
    /// One that is answered in one piece.
    pub(super) fn whole(request: Request) -> Asked {
        Asked { request, stream: false, usage: false }
    }
}

/// What is said in a reply.
pub(super) struct Answered<'a> {
    /// The number of the request.
    pub(super) number: u64,
    pub(super) request: &'a Request,
    pub(super) response: &'a Response,
    /// Left out where the endpoint does not say what it bills.
    pub(super) tokens: Option<Tokens>,
    /// The stop sequence that ended the first completion, where the format says so.
    pub(super) stopped_by: Option<String>,
}

impl Answered<'_> {
    /// The model that the reply names.
    pub(super) fn model(&self) -> &str {
        self.response.model.as_deref().unwrap_or(&self.request.model)
    }
}

impl Format {
    /// Whose it is.
    pub(super) fn family(self) -> Family {
        match self {
            Format::Chat | Format::Text | Format::Responses => Family::OpenAi,
            Format::AzureChat | Format::AzureText => Family::Azure,
            Format::Messages => Family::Anthropic,
            Format::OllamaChat | Format::OllamaGenerate => Family::Ollama,
            Format::Gemini => Family::Gemini,
        }
    }

    /// Reads a body; `model` is the one in the path, where the format has it there.
    pub(super) fn read(self, body: &Value, model: Option<&str>) -> Result<Asked, Refusal> {
        let fields = body.as_object().ok_or_else(|| Refusal::bad(None, "The body is no JSON object."))?;
        match self {
            Format::Chat | Format::AzureChat => openai::read(fields, model, true),
            Format::Text | Format::AzureText => openai::read(fields, model, false),
            Format::Responses => responses::read(fields),
            Format::Messages => anthropic::read(fields),
            Format::OllamaChat => ollama::read(fields, true),
            Format::OllamaGenerate => ollama::read(fields, false),
            Format::Gemini => gemini::read(fields, model.unwrap_or_default()),
        }
    }

    /// The reply to a request.
    pub(super) fn reply(self, answered: &Answered) -> Value {
        match self {
            Format::Chat => openai::reply(answered, true),
            Format::Text => openai::reply(answered, false),
            Format::AzureChat => azure::reply(answered, true),
            Format::AzureText => azure::reply(answered, false),
            Format::Responses => responses::reply(answered),
            Format::Messages => anthropic::reply(answered),
            Format::OllamaChat => ollama::reply(answered, true),
            Format::OllamaGenerate => ollama::reply(answered, false),
            Format::Gemini => gemini::reply(answered),
        }
    }

    /// The reply in pieces: the content type and the text.
    pub(super) fn stream(self, reply: &Value, usage: bool) -> (&'static str, String) {
        match self {
            Format::OllamaChat | Format::OllamaGenerate => ("application/x-ndjson", ollama::lines(reply)),
            _ => ("text/event-stream", openai::events(reply, usage)),
        }
    }
}

impl Family {
    /// The body that says why there is no answer.
    pub(super) fn error(self, refusal: &Refusal) -> Value {
        match self {
            Family::OpenAi => openai::refused(refusal),
            Family::Azure => azure::refused(refusal),
            Family::Anthropic => anthropic::refused(refusal),
            Family::Ollama => serde_json::json!({"error": refusal.message}),
            Family::Gemini => gemini::refused(refusal),
        }
    }

    /// The key that a request brings, if any.
    pub(super) fn key(self, headers: &HeaderMap, query: &str) -> Option<String> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = || header(header::AUTHORIZATION.as_str()).and_then(|given| given.strip_prefix("Bearer "));
        let key = match self {
            Family::OpenAi | Family::Ollama => bearer(),
            Family::Azure => header("api-key").or_else(bearer),
            Family::Anthropic => header("x-api-key").or_else(bearer),
            Family::Gemini => header("x-goog-api-key").or_else(|| parameter(query, "key")),
        };
        key.map(str::to_owned)
    }
}

/// A parameter of a query string, as it is written there.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Why a request is not answered: the status, and words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The HTTP status.
    pub(super) status: u16,
    /// The sentence.
    pub(super) message: String,
    /// OpenAI's error code, if there is one; other formats derive their words from it.
    pub(super) code: Option<String>,
    /// The parameter that is wrong.
    pub(super) param: Option<&'static str>,
    /// More headers.
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Refusal {
    /// Any status.
    pub(super) fn new(status: u16, code: Option<&str>, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), code: code.map(str::to_owned), param: None, headers: Vec::new() }
    }

    pub(super) fn bad(param: Option<&'static str>, message: impl Into<String>) -> Refusal {
        Refusal { param, ..Refusal::new(400, None, message) }
    }

    pub(super) fn missing(param: &'static str) -> Refusal {
        Refusal::bad(Some(param), format!("Missing required parameter: '{param}'."))
    }

    pub(super) fn unknown_model(model: &str) -> Refusal {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Refusal::new(404, Some("model_not_found"), message)
    }

    pub(super) fn no_route() -> Refusal {
        Refusal::new(404, None, "There is no such route at the mock endpoint.")
    }

    pub(super) fn not_found(what: &str, id: &str) -> Refusal {
        Refusal::new(404, None, format!("No such {what}: {id}"))
    }

    pub(super) fn not_recorded(message: String) -> Refusal {
        // Not 404, which would say that there is no such model.
        Refusal::new(422, Some("not_recorded"), message)
    }

    pub(super) fn unauthorized(family: Family) -> Refusal {
        // Google says 400 of a bad key.
        let status = if family == Family::Gemini { 400 } else { 401 };
        Refusal::new(status, Some("invalid_api_key"), "Incorrect API key provided.")
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let (status, code, param) = match failure.kind {
            FailureKind::UnknownModel => (404, Some("model_not_found"), None),
            FailureKind::ContextTooLong => (400, Some("context_length_exceeded"), Some("messages")),
            _ => (400, None, None),
        };
        Refusal { param, ..Refusal::new(status, code, failure.message) }
    }
}

/// The messages of a conversation.
pub(super) fn messages(list: &[Value]) -> Result<Vec<Message>, Refusal> {
    if list.is_empty() {
        return Err(Refusal::bad(Some("messages"), "Invalid 'messages': empty array."));
    }
    let message = |message: &Value| {
        let role = message["role"].as_str()?.to_owned();
        Some(Message { role, content: content(&message["content"])? })
    };
    let messages: Option<Vec<_>> = list.iter().map(message).collect();
    messages.ok_or_else(|| Refusal::bad(Some("messages"), "Invalid message: it needs a role and a text as content."))
}

/// A message's content: a text, or a list of text parts.
pub(super) fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(|part| part["text"].as_str()).collect(),
        _ => None,
    }
}

/// Fields by other names: those that are there and not null.
pub(super) fn renamed(fields: &Map<String, Value>, names: &[(&str, &str)]) -> Vec<(String, Value)> {
    let given = |&(theirs, ours): &(&str, &str)| {
        let value = fields.get(theirs).filter(|value| !value.is_null())?;
        Some((ours.to_owned(), value.clone()))
    };
    names.iter().filter_map(given).collect()
}

/// All texts of an input, one after the other.
pub(super) fn prompt(input: &Input) -> String {
    match input {
        Input::Text(text) => text.clone(),
        Input::Messages(messages) => {
            messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const FORMATS: [Format; 9] = [
        Format::Chat,
        Format::Text,
        Format::Responses,
        Format::AzureChat,
        Format::AzureText,
        Format::Messages,
        Format::OllamaChat,
        Format::OllamaGenerate,
        Format::Gemini,
    ];

    /// JSON of the fields that the formats know, with values that they do not expect.
    fn wild() -> impl Strategy<Value = Value> {
        let names = [
            "model",
            "messages",
            "role",
            "content",
            "text",
            "parts",
            "contents",
            "input",
            "prompt",
            "n",
            "max_tokens",
            "stop",
            "temperature",
            "options",
            "num_predict",
            "generationConfig",
            "candidateCount",
            "systemInstruction",
            "system",
            "stream",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|float| json!(float)),
            "[a-z]{0,6}".prop_map(Value::from),
            Just(json!("user")),
        ];
        leaf.prop_recursive(4, 64, 6, move |inner| {
            let name = prop::sample::select(names.to_vec()).prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::vec((name, inner), 0..8)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(body in wild(), model in proptest::option::of("[a-z]{0,5}")) {
            for format in FORMATS {
                match format.read(&body, model.as_deref()) {
                    Ok(asked) => prop_assert!((1..=128).contains(&asked.request.n)),
                    Err(refusal) => {
                        prop_assert_eq!(refusal.status, 400);
                        prop_assert!(format.family().error(&refusal).get("error").is_some());
                    }
                }
            }
        }
    }

    #[test]
    fn each_family_has_its_own_place_for_the_key() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("authorization", "Bearer b"), ("api-key", "a"), ("x-api-key", "x"), ("x-goog-api-key", "g")]
        {
            headers.insert(name, value.parse().unwrap());
        }
        let families = [Family::OpenAi, Family::Azure, Family::Anthropic, Family::Ollama, Family::Gemini];
        let keys = families.map(|family| family.key(&headers, "").unwrap());
        assert_eq!(keys, ["b", "a", "x", "b", "g"]);
        assert_eq!(Family::Gemini.key(&HeaderMap::new(), "alt=sse&key=q").as_deref(), Some("q"));
        assert_eq!(Family::OpenAi.key(&HeaderMap::new(), "key=q"), None);
    }
}
