//! Requests from a file: lines as OpenAI's batch API takes them, or farthing's own form, one JSON object a line.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value};

use super::Ask;
use super::dialect::Dialect;
use crate::backend::{Endpoints, Model, ProviderKind, parameters};
use crate::data;
use crate::diagnostic::{Error, Result, Source, nearest};
use crate::provider::{Input, Message, Request, responses};
use crate::space::parameter::{check_all, completions};

/// Reads requests from a JSON Lines file, gzip or zstd by its ending.
///
/// # Errors
/// A usage error that says which line is wrong, where, and how it should be.
pub fn read(path: &Path) -> Result<Vec<Ask>> {
    read_bytes(&path.display().to_string(), &data::read_file(path)?, Ok)
}

/// The same, each request with parameters that its endpoint knows, under the names that it has for them: what else an endpoint
/// takes is a field of `extra_body`.
///
/// # Errors
/// As [`read`]; and where a parameter is not known, or its model refuses it.
pub fn read_for(path: &Path, endpoints: &Endpoints) -> Result<Vec<Ask>> {
    let check = &mut checked(endpoints);
    read_bytes(&path.display().to_string(), &data::read_file(path)?, check)
}

/// Fields of bodies for `/v1/responses` that no other address has.
const RESPONSES: &[&str] = &[
    "reasoning",
    "text",
    "include",
    "max_tool_calls",
    "previous_response_id",
    "conversation",
    "background",
    "prompt_cache_retention",
];
/// Fields of OpenAI's own lines that this program has no use for.
const BODIES: &[&str] = &["functions", "function_call", "web_search_options", "prompt_cache_retention"];

/// Checks the parameters of one request after the other.
fn checked(endpoints: &Endpoints) -> impl FnMut(Ask) -> Result<Ask, Problem> {
    let mut known: HashMap<String, Option<(Model, ProviderKind)>> = HashMap::new();
    move |mut ask| {
        let name = &ask.request.model;
        if !known.contains_key(name) {
            // One that cannot be asked at all is told of by whoever asks it.
            let found = endpoints.model(name).ok().and_then(|model| {
                let serving = || model.endpoints.iter().filter_map(|&at| endpoints.list.get(at));
                let provider = serving().map(|endpoint| endpoint.provider).find(|&one| Dialect::of(one).is_some());
                let provider = provider.or_else(|| serving().map(|endpoint| endpoint.provider).next())?;
                Some((model, provider))
            });
            known.insert(name.clone(), found);
        }
        let Some(Some((model, provider))) = known.get(name) else { return Ok(ask) };
        let more = match ask.url.as_deref() {
            Some("/responses") => RESPONSES,
            Some(_) => BODIES,
            None => &[],
        };
        let params = parameters::known(&ask.request.params, *provider, more).and_then(|params| {
            endpoints.takes(model).check("the request", &model.name, &params)?;
            Ok(params)
        });
        ask.request.params = params.map_err(|error| {
            // The names in a message stand in backquotes; the first that is in the line is shown there.
            let what = error.message().split('`').nth(1).map_or(String::new(), |name| format!("\"{name}\""));
            Problem { message: error.message().to_owned(), what, help: error.advice().map(str::to_owned) }
        })?;
        Ok(ask)
    }
}

/// Reads requests from a text of JSON Lines.
///
/// # Errors
/// As [`read`].
pub fn read_text(source: &Source) -> Result<Vec<Ask>> {
    read_bytes(source.name(), source.text().as_bytes(), Ok)
}

fn read_bytes(name: &str, bytes: &[u8], mut check: impl FnMut(Ask) -> Result<Ask, Problem>) -> Result<Vec<Ask>> {
    let mut asks = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (at, line) in data::lines(name, bytes)?.filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: Problem| {
            let span = problem.span(line);
            let error = Error::usage(problem.message).at_line(name, at, line, span, "here");
            error.help_if(problem.help)
        };
        if let Some((span, what)) = data::altered(line) {
            return Err(Error::usage(what).at_line(name, at, line, span, "here"));
        }
        let value: Value = serde_json::from_str(line).map_err(|error| {
            let column = error.column().saturating_sub(1).min(line.len());
            Error::usage(format!("this line is no JSON: {error}")).at_line(name, at, line, column..column, "here")
        })?;
        let Value::Object(fields) = value else {
            return Err(wrong(Problem::new("a request is a JSON object", "")));
        };
        let ask = read_one(fields, at).and_then(&mut check).map_err(wrong)?;
        if let Some(first) = known.insert(ask.id.clone(), at) {
            let problem = Problem::new(format!("the id `{}` stands in line {} already", ask.id, first + 1), &ask.id);
            return Err(wrong(problem));
        }
        asks.push(ask);
    }
    match asks.is_empty() {
        true => Err(Error::usage(format!("{name} has no requests"))),
        false => Ok(asks),
    }
}

/// What is wrong with a line.
struct Problem {
    message: String,
    /// What of the line is wrong: a piece of its text.
    what: String,
    help: Option<String>,
}

impl Problem {
    fn new(message: impl Into<String>, what: &str) -> Problem {
        Problem { message: message.into(), what: what.to_owned(), help: None }
    }

    fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }

    fn span(&self, line: &str) -> std::ops::Range<usize> {
        match line.find(&self.what) {
            Some(at) if !self.what.is_empty() => at..at + self.what.len(),
            _ => 0..line.len().min(1),
        }
    }
}

fn read_one(mut fields: Map<String, Value>, at: usize) -> Result<Ask, Problem> {
    let openai = ["custom_id", "method", "url", "body"];
    if openai.iter().any(|name| fields.contains_key(*name)) {
        if let Some(name) = fields.keys().find(|name| !openai.contains(&name.as_str())) {
            return Err(Problem::new(format!("a batch line has no `{name}`"), name)
                .help("it has custom_id, method, url and body"));
        }
        return read_openai(fields);
    }
    let id = match fields.remove("id") {
        None => (at + 1).to_string(),
        Some(Value::String(id)) if !id.is_empty() => id,
        Some(Value::Number(id)) => id.to_string(),
        Some(_) => return Err(Problem::new("an `id` is a text or a number", "\"id\"")),
    };
    if let Some(Value::Object(more)) = fields.get("params").cloned() {
        fields.remove("params");
        fields.extend(more);
    }
    let request = request(fields)?;
    Ok(Ask::new(id, request))
}

fn read_openai(mut fields: Map<String, Value>) -> Result<Ask, Problem> {
    let missing = |name: &str| Problem::new(format!("a batch line needs `{name}`"), "");
    let id = match fields.remove("custom_id") {
        Some(Value::String(id)) if !id.is_empty() => id,
        _ => return Err(missing("custom_id")),
    };
    match fields.remove("method") {
        None => {}
        Some(method) if method == "POST" => {}
        Some(_) => return Err(Problem::new("the method of a batch line is POST", "\"method\"")),
    }
    let url = fields.remove("url").and_then(|url| url.as_str().map(str::to_owned)).ok_or_else(|| missing("url"))?;
    let Some(Value::Object(mut body)) = fields.remove("body") else { return Err(missing("body")) };
    let kind = url.trim_start_matches("/v1");
    match kind {
        "/chat/completions" if body.contains_key("messages") => {}
        "/completions" if body.contains_key("prompt") => {}
        "/responses" => responses::as_chat(&mut body).map_err(|what| Problem::new(what, "\"body\""))?,
        "/chat/completions" | "/completions" => {
            let wanted = if kind == "/completions" { "prompt" } else { "messages" };
            return Err(Problem::new(format!("a body for {url} needs `{wanted}`"), &url));
        }
        _ => {
            return Err(Problem::new(format!("batches of `{url}` are not supported"), &url)
                .help("/v1/chat/completions, /v1/completions and /v1/responses are"));
        }
    }
    Ok(Ask { url: Some(kind.to_owned()), ..Ask::new(id, request(body)?) })
}

/// A request from a model, messages or a prompt, and parameters side by side.
fn request(mut fields: Map<String, Value>) -> Result<Request, Problem> {
    let model = match fields.remove("model") {
        Some(Value::String(model)) if !model.is_empty() => model,
        Some(_) => return Err(Problem::new("a `model` is a text", "\"model\"")),
        None => {
            let near = nearest("model", fields.keys().map(String::as_str));
            let problem = Problem::new("a request needs a `model`", near.unwrap_or_default());
            return Err(problem.help("{\"id\": ..., \"model\": ..., \"messages\": [...] or \"prompt\": ...}"));
        }
    };
    let input = match (fields.remove("messages"), fields.remove("prompt")) {
        (Some(Value::Array(turns)), None) if !turns.is_empty() => {
            let message = |turn: &Value| Message::read(turn).map_err(|what| Problem::new(what, "\"messages\""));
            Input::Messages(turns.iter().map(message).collect::<Result<_, _>>()?)
        }
        (None, Some(Value::String(text))) => Input::Text(text),
        (Some(_), None) => return Err(Problem::new("`messages` is a list of at least one message", "\"messages\"")),
        (None, Some(_)) => return Err(Problem::new("`prompt` is a text", "\"prompt\"")),
        (Some(_), Some(_)) => {
            return Err(Problem::new("a request has `messages` or a `prompt`, not both", "\"prompt\""));
        }
        (None, None) => {
            let near = ["messages", "prompt"].iter().find_map(|name| nearest(name, fields.keys().map(String::as_str)));
            return Err(Problem::new("a request needs `messages` or a `prompt`", near.unwrap_or_default()));
        }
    };
    let n = match fields.remove("n") {
        None | Some(Value::Null) => 1,
        Some(n) => completions(&n).map_err(|problem| Problem::new(problem, "\"n\""))?,
    };
    check_all(&fields).map_err(|(name, problem)| Problem::new(problem, &format!("\"{name}\"")))?;
    let params: BTreeMap<String, Value> = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    Ok(Request { model, input, params, n })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asks(text: &str) -> Result<Vec<Ask>> {
        read_text(&Source::new("asks.jsonl", text))
    }

    #[test]
    fn both_forms_are_the_same_request() {
        let own =
            r#"{"id": "a", "model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "n": 2}"#;
        let openai = r#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "temperature": 0, "n": 2}}"#;
        let openai = openai.replace('\n', " ");
        let responses = r#"{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "x", "temperature": 0, "n": 2}}"#;
        let [own, openai, responses] = [own, &openai, responses].map(|text| asks(text).unwrap().remove(0));
        assert_eq!((&own.request, &own.id), (&openai.request, &openai.id));
        assert_eq!(own.request, responses.request);
        assert_eq!((own.url, openai.url.as_deref()), (None, Some("/chat/completions")));
        let text = asks("{\"id\": 7, \"model\": \"m\", \"prompt\": \"p\", \"params\": {\"seed\": 3}}\n\n{\"model\": \"m\", \"prompt\": \"q\"}").unwrap();
        assert_eq!((text[0].id.as_str(), text[1].id.as_str()), ("7", "3"), "without an id the line's number is one");
        assert_eq!(text[0].request.params["seed"], json!(3));
    }

    #[test]
    fn parameters_are_known_by_the_endpoint() {
        let file = "[endpoints.o]\nprovider = \"openai\"\nbase_url = \"http://h/v1\"\n[models.m]\nendpoint = \"o\"\n[endpoints.a]\nprovider = \"anthropic\"\n[models.c]\nendpoint = \"a\"\n";
        let endpoints = Endpoints::read(&Source::new("farthing.toml", file), Path::new(".")).unwrap();
        let read = |text: &str| read_bytes("asks.jsonl", text.as_bytes(), checked(&endpoints));
        let good = r#"{"id": "a", "model": "m", "prompt": "p", "max_tokens": 5}"#;
        for (line, says, help) in [
            (r#""wide_open": true, "max_tokens": 5"#, "unknown parameter `wide_open`", "`extra_body`"),
            (r#""max_tokns": 3"#, "unknown parameter `max_tokns`", "did you mean `max_tokens`?"),
            (r#""stream": true, "max_tokens": 5"#, "`stream` is no parameter here", "take it out"),
            (r#""extra_body": {"stream": true}"#, "`stream` is no field of `extra_body`", "take it out"),
        ] {
            let bad = format!(r#"{{"id": "b", "model": "m", "prompt": "p", {line}}}"#);
            let error = read(&format!("{good}\n\n{bad}\n")).unwrap_err();
            assert!(error.message().contains(says) && error.advice().unwrap().contains(help), "{error:?}");
            let name = says.split('`').nth(1).unwrap();
            let column = bad.find(&format!("\"{name}\"")).unwrap() + 1;
            assert_eq!(error.location().unwrap(), format!("asks.jsonl:3:{column}"), "{error}");
        }
        let extra = r#"{"id": "b", "model": "m", "prompt": "p", "extra_body": {"strem": true}, "store": false}"#;
        assert_eq!(json!(read(extra).unwrap()[0].request.params), json!({"strem": true, "store": false}));
        // OpenAI's own lines have fields of their own; a model that nobody knows is told of elsewhere.
        let own = r#"{"custom_id": "a", "url": "/v1/responses", "body": {"model": "m", "input": "x", "reasoning": {"effort": "low"}}}"#;
        assert_eq!(json!(read(own).unwrap()[0].request.params), json!({"reasoning": {"effort": "low"}}));
        let text = r#"{"model": "c", "prompt": "p", "max_tokens": 5, "thinking": {"type": "disabled"}}"#;
        assert!(read(text).is_ok() && read(&text.replace("\"c\"", "\"m\"")).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (line, says) in [
            ("{", "no JSON"),
            ("[1]", "a JSON object"),
            (r#"{"id": "b", "modell": "m", "prompt": "p"}"#, "needs a `model`"),
            (r#"{"id": "b", "model": "m"}"#, "`messages` or a `prompt`"),
            (r#"{"id": "b", "model": "m", "prompt": "p", "messages": [{}]}"#, "not both"),
            (r#"{"id": "b", "model": "m", "messages": [{"role": "user"}]}"#, "no `content`"),
            (
                r#"{"id": "b", "model": "m", "messages": [{"role": "usr", "content": "x"}]}"#,
                "`usr` is no role; did you mean `user`?",
            ),
            (r#"{"id": "b", "model": "m", "prompt": "p", "n": 0}"#, "n = 0"),
            (r#"{"id": "b", "model": "m", "prompt": "p", "temperature": 9}"#, "temperature"),
            (r#"{"id": "a", "model": "m", "prompt": "p"}"#, "line 1 already"),
            (r#"{"custom_id": "b", "url": "/v1/embeddings", "body": {}}"#, "not supported"),
            (r#"{"custom_id": "b", "url": "/v1/chat/completions", "body": {"model": "m"}}"#, "needs `messages`"),
            (r#"{"custom_id": "b", "url": "/v1/completions", "body": {}, "bdy": 1}"#, "no `bdy`"),
            (r#"{"id": "b", "model": "m", "prompt": "p", "model": "o"}"#, "`model` is there twice"),
            (
                r#"{"custom_id": "b", "url": "/v1/completions", "body": {"model": "m", "prompt": "p", "model": "o"}}"#,
                "`model` is there twice",
            ),
            (r#"{"id": "b", "model": "m", "prompt": "p", "seed": 123456789012345678901}"#, "does not fit 64 bits"),
        ] {
            let good = r#"{"id": "a", "model": "m", "prompt": "p"}"#;
            let error = asks(&format!("{good}\n{line}\n")).unwrap_err();
            assert!(error.message().contains(says), "{line}: {error}");
        }
        assert!(asks("\n").unwrap_err().message().contains("no requests"));
    }
}
