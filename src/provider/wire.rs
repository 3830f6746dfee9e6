//! What a wire format is: how a request becomes an HTTP call, and how what came back is read.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

use crate::provider::{Failure, FailureKind, Message, Request, Response, refusal};
use crate::space::parameter::beyond_bounds;

/// The verb of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Asks for nothing that is billed.
    Get,
    /// Asks for completions.
    Post,
}

/// An HTTP call without its address and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The verb.
    pub method: Method,
    /// Appended to the endpoint's base URL; with its query.
    pub path: Cow<'static, str>,
    /// Headers of this call alone, beside the endpoint's.
    pub headers: Vec<(&'static str, String)>,
    /// The JSON body; empty for [`Method::Get`].
    pub body: Vec<u8>,
}

impl Call {
    /// Posts a body.
    pub fn post(path: impl Into<Cow<'static, str>>, body: Vec<u8>) -> Call {
        Call { method: Method::Post, path: path.into(), headers: Vec::new(), body }
    }

    /// Gets a page.
    pub fn get(path: impl Into<Cow<'static, str>>) -> Call {
        Call { method: Method::Get, path: path.into(), headers: Vec::new(), body: Vec::new() }
    }
}

/// What came in place of completions.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// What happened.
    pub failure: Failure,
    /// How long its text asks to wait. Headers that say so come first.
    pub wait: Option<Duration>,
    /// The endpoint has more to do than it can.
    pub too_much: bool,
    /// Headers of such a reply that speak of limits say when it can be asked again.
    pub limited: bool,
    /// The request may be billed all the same.
    pub billed: bool,
}

impl Refusal {
    /// A failure that says nothing of limits.
    pub fn of(failure: Failure, billed: bool) -> Refusal {
        Refusal { failure, wait: None, too_much: false, limited: false, billed }
    }
}

/// Where a parameter of the OpenAI API goes at a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the body, at this path of fields, like `options.num_predict`.
    At(&'static str),
    /// Nowhere: why.
    Nowhere(&'static str),
}

/// The parameters that every wire says a place of. What is not among them is a body field of the endpoint's own and is
/// sent as it is.
pub const STANDARD: &[&str] = &[
    "temperature",
    "top_p",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "user",
];

/// How a provider is spoken to. Pure: no I/O, no clock, no state, so recorded replies are enough to test it.
/// [`conformance`](crate::provider::conformance) has the battery that every one passes.
pub trait Wire: fmt::Debug + Send + Sync {
    /// The provider's word in `farthing.toml`.
    fn name(&self) -> &'static str;

    /// Where the parameters of [`STANDARD`] go for such a request.
    fn places(&self, request: &Request) -> &'static [(&'static str, Place)];

    /// The call that asks for `n` completions, or fewer where the provider has a limit.
    fn encode(&self, request: &Request, n: u32) -> Result<Call, Failure>;

    /// Reads a reply with status 200 to a call for `n` completions: at most `n`, at least one. Refusals and filtered
    /// completions are answers like any other: they are billed. What cannot be read may be billed too; an error that came
    /// as an answer says for itself whether it is.
    fn decode(&self, request: &Request, n: u32, body: &[u8]) -> Result<Response, Refusal>;

    /// Reads a reply with another status to a call with this body: what the call itself says tells nothing of what went wrong.
    fn decode_error(&self, status: u16, asked: &[u8], body: &[u8]) -> Refusal {
        refusal::read(status, asked, body)
    }

    /// Several completions of this request come in one call.
    fn several(&self, _request: &Request) -> bool {
        true
    }

    /// The provider's own header for a key; else it has none.
    fn key_header(&self) -> &'static str;

    /// The key is sent as a bearer token unless the endpoint's table says otherwise.
    fn bearer(&self) -> bool {
        false
    }

    /// Headers of every call.
    fn headers(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// A call that bills nothing and tells whether the endpoint and the key are good: it lists models.
    fn listing(&self) -> Call;

    /// The models' names in the reply to [`listing`](Self::listing).
    fn listed(&self, body: &[u8]) -> Result<Vec<String>, Failure> {
        let malformed = |_| Failure::new(FailureKind::MalformedReply, "the list of models is no JSON");
        let json: Value = serde_json::from_slice(body).map_err(malformed)?;
        let list = ["data", "models", "value"].iter().find_map(|name| json.get(*name)?.as_array());
        let name = |item: &Value| {
            let name = ["id", "name", "model"].iter().find_map(|name| item.get(*name)?.as_str())?;
            Some(name.strip_prefix("models/").unwrap_or(name).to_owned())
        };
        Ok(list.into_iter().flatten().filter_map(name).collect())
    }
}

/// A failure for a request that a provider cannot express. Nothing was sent.
pub(super) fn inexpressible(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BadRequest, message)
}

/// The failure for a parameter without a place.
pub(super) fn nowhere(wire: &dyn Wire, name: &str, why: &str) -> Failure {
    inexpressible(format!("{} cannot take the parameter `{name}`: {why}", wire.name()))
}

/// A value that says no more than leaving the parameter out does.
pub(super) fn neutral(name: &str, value: &Value) -> bool {
    match (name, value) {
        (_, Value::Null) => true,
        ("stop", Value::Array(list)) => list.is_empty(),
        ("logit_bias", Value::Object(map)) => map.is_empty(),
        ("tools", Value::Array(list)) => list.is_empty(),
        _ => false,
    }
}

/// A value of a parameter without a place that is its default, so that it need not be said.
pub(super) fn default_of(name: &str, value: &Value) -> bool {
    match name {
        "presence_penalty" | "frequency_penalty" | "top_logprobs" => value.as_f64() == Some(0.0),
        "logprobs" => *value == Value::Bool(false) || value.as_f64() == Some(0.0),
        "parallel_tool_calls" => *value == Value::Bool(true),
        "tool_choice" => value == "auto",
        "response_format" => value.get("type").is_some_and(|kind| kind == "text"),
        "best_of" => value.as_f64() == Some(1.0),
        "stream" => *value == Value::Bool(false),
        _ => false,
    }
}

/// The parameters that are sent: all but those that say nothing. `Err` for what cannot be: no place, or streaming.
pub(super) fn sent<'a>(wire: &dyn Wire, request: &'a Request) -> Result<Vec<(&'a str, &'a Value)>, Failure> {
    let places = wire.places(request);
    let mut sent = Vec::with_capacity(request.params.len());
    for (name, value) in &request.params {
        if neutral(name, value) {
            continue;
        }
        let place = places.iter().find(|(known, _)| known == name).map(|(_, place)| *place);
        // Also where nobody looked before: what is sent must not go beyond what is held for it.
        if let Some(why) = beyond_bounds(name, value) {
            return Err(nowhere(wire, name, &why));
        }
        let why = match (name.as_str(), place) {
            (_, Some(Place::Nowhere(why))) => Some(why),
            ("stream" | "stream_options", _) => Some("answers are read whole"),
            ("n", _) => Some("farthing asks for as many completions as it needs"),
            ("model" | "messages" | "prompt" | "input" | "contents", _) => {
                Some("the prompt and the model are set by name")
            }
            _ => None,
        };
        match why {
            Some(_) if default_of(name, value) => {}
            Some(why) => return Err(nowhere(wire, name, why)),
            None => sent.push((name.as_str(), value)),
        }
    }
    Ok(sent)
}

/// A piece of a body: borrowed where it can be.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Text(&'a str),
    Value(&'a Value),
    Owned(Value),
    Turns(&'a [Message]),
    List(Vec<Item<'a>>),
    Object(Object<'a>),
}

/// A JSON object in the making.
#[derive(Debug, Default)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Item<'a>)>);

impl<'a> Object<'a> {
    pub(super) fn new() -> Object<'a> {
        Object(Vec::with_capacity(12))
    }

    /// Sets a field; a later one of the same name takes the place of the earlier.
    pub(super) fn put(&mut self, name: impl Into<Cow<'a, str>>, item: impl Into<Item<'a>>) {
        let (name, item) = (name.into(), item.into());
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = item,
            None => self.0.push((name, item)),
        }
    }

    /// The object in a field, made if it is not there.
    pub(super) fn object(&mut self, name: &'static str) -> &mut Object<'a> {
        let at = match self.0.iter().position(|(known, item)| known == name && matches!(item, Item::Object(_))) {
            Some(at) => at,
            None => {
                self.0.push((Cow::Borrowed(name), Item::Object(Object::default())));
                self.0.len() - 1
            }
        };
        match &mut self.0[at].1 {
            Item::Object(object) => object,
            _ => unreachable!("found or made above"),
        }
    }

    /// Sets the fields of a JSON object one by one; false where it is none.
    pub(super) fn put_all(&mut self, value: &'a Value) -> bool {
        let Value::Object(map) = value else { return false };
        map.iter().for_each(|(name, value)| self.put(name.as_str(), value));
        true
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys: there is nothing that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(name, item)| map.serialize_entry(name, item))?;
        map.end()
    }
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Item::Text(text) => serializer.serialize_str(text),
            Item::Value(value) => value.serialize(serializer),
            Item::Owned(value) => value.serialize(serializer),
            Item::Turns(messages) => messages.serialize(serializer),
            Item::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Item::Object(object) => object.serialize(serializer),
        }
    }
}

impl<'a> From<&'a str> for Item<'a> {
    fn from(text: &'a str) -> Item<'a> {
        Item::Text(text)
    }
}

impl<'a> From<&'a Value> for Item<'a> {
    fn from(value: &'a Value) -> Item<'a> {
        Item::Value(value)
    }
}

impl From<Value> for Item<'_> {
    fn from(value: Value) -> Self {
        Item::Owned(value)
    }
}

impl<'a> From<Vec<Item<'a>>> for Item<'a> {
    fn from(items: Vec<Item<'a>>) -> Item<'a> {
        Item::List(items)
    }
}

impl<'a> From<Object<'a>> for Item<'a> {
    fn from(object: Object<'a>) -> Item<'a> {
        Item::Object(object)
    }
}

/// A list of stop sequences from one or a list.
pub(super) fn stops(value: &Value) -> Item<'_> {
    match value {
        Value::String(one) => Item::List(vec![Item::Text(one)]),
        list => Item::Value(list),
    }
}

/// A function among `tools`, in the form of OpenAI's chat API.
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) description: Option<&'a str>,
    pub(super) parameters: Option<&'a Value>,
    pub(super) strict: Option<&'a Value>,
}

/// The functions of `tools`.
pub(super) fn functions<'a>(wire: &dyn Wire, tools: &'a Value) -> Result<Vec<Function<'a>>, Failure> {
    let wrong = |what: &str| nowhere(wire, "tools", what);
    let list = tools.as_array().ok_or_else(|| wrong("it must be a list"))?;
    let function = |tool: &'a Value| {
        let function = tool.get("function").ok_or_else(|| wrong("only tools with a `function` can be given"))?;
        let name = function.get("name").and_then(Value::as_str).ok_or_else(|| wrong("a function has no name"))?;
        Ok(Function {
            name,
            description: function.get("description").and_then(Value::as_str),
            parameters: function.get("parameters").filter(|value| !value.is_null()),
            strict: function.get("strict").filter(|value| !value.is_null()),
        })
    };
    list.iter().map(function).collect()
}

/// What `tool_choice` says.
pub(super) enum Choice<'a> {
    Auto,
    None,
    Required,
    Named(&'a str),
}

pub(super) fn choice<'a>(wire: &dyn Wire, value: &'a Value) -> Result<Choice<'a>, Failure> {
    let named = || value.get("function")?.get("name")?.as_str();
    match value.as_str() {
        Some("auto") => Ok(Choice::Auto),
        Some("none") => Ok(Choice::None),
        Some("required") => Ok(Choice::Required),
        _ => named()
            .map(Choice::Named)
            .ok_or_else(|| nowhere(wire, "tool_choice", "it is \"auto\", \"none\", \"required\", or names a function")),
    }
}

/// What `response_format` says.
pub(super) enum Format<'a> {
    Text,
    Json,
    /// A JSON schema, with what stands beside it (name, strict).
    Schema(&'a Value, &'a Value),
}

pub(super) fn format<'a>(wire: &dyn Wire, value: &'a Value) -> Result<Format<'a>, Failure> {
    match value.get("type").and_then(Value::as_str) {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::Json),
        Some("json_schema") => {
            let about = value.get("json_schema").unwrap_or(&Value::Null);
            let schema = about.get("schema").or_else(|| value.get("schema"));
            let missing = || nowhere(wire, "response_format", "its `json_schema` has no `schema`");
            schema.map(|schema| Format::Schema(schema, about)).ok_or_else(missing)
        }
        _ => Err(nowhere(wire, "response_format", "its `type` is \"text\", \"json_object\" or \"json_schema\"")),
    }
}

/// A piece of a path: what may not stand there as it is, in its percent form.
pub(super) fn escaped(piece: &str) -> String {
    let mut escaped = String::with_capacity(piece.len());
    for byte in piece.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' => {
                escaped.push(byte.into())
            }
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
