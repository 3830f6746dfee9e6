//! The batch APIs on the wire, as pure functions: what is sent, and what the providers say.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::backend::ProviderKind;
use crate::provider::wire::Call;
use crate::provider::{Failure, FailureKind, Wire, anthropic};

/// Which batch API an endpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Files and batches, as at OpenAI and Azure.
    OpenAi {
        /// Addresses in lines are those of deployments, without a version.
        azure: bool,
    },
    /// Message batches: all requests in one call.
    Anthropic,
}

/// What a provider says of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub id: String,
    /// Its word for the state; Anthropic's `ended` with what the counts add.
    pub word: String,
    /// Files with results; for Anthropic one empty name once there are some.
    pub results: Vec<String>,
    pub input: Option<String>,
    /// What validation found.
    pub errors: Vec<Wrong>,
    /// What we told the provider it is.
    pub intent: Option<String>,
    pub created_at: i64,
    /// Requests: all, answered, failed.
    pub counts: [u64; 3],
}

/// What validation found.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, serde::Serialize)]
pub(super) struct Wrong {
    pub code: String,
    pub message: String,
    /// From 1.
    pub line: Option<u64>,
}

impl Wrong {
    /// The queue is full.
    pub fn full(&self) -> bool {
        self.code == "token_limit_exceeded"
    }

    /// There is no such model.
    pub fn no_model(&self) -> bool {
        self.code.contains("model_not_found")
    }

    /// It is the batch's fault and not one line's, though the provider names a line.
    pub fn of_all(&self) -> bool {
        self.code.contains("model") || self.code.contains("url")
    }
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Result {
    /// A reply as for an ordinary request.
    Reply(u16, Vec<u8>),
    /// None: the batch expired before.
    Expired,
    /// None: the batch was cancelled before.
    Cancelled,
    /// None for another reason: a code and a sentence.
    None(String, String),
}

/// The name of our mark in the metadata of OpenAI's batches.
const MARK: &str = "farthing";

impl Dialect {
    /// The dialect of a provider; `None` where it has no batch API that we speak.
    pub fn of(provider: ProviderKind) -> Option<Dialect> {
        match provider {
            ProviderKind::Openai => Some(Dialect::OpenAi { azure: false }),
            ProviderKind::Azure => Some(Dialect::OpenAi { azure: true }),
            ProviderKind::Anthropic => Some(Dialect::Anthropic),
            _ => None,
        }
    }

    /// Most requests of a batch, and most bytes.
    pub fn limits(self) -> (usize, usize) {
        match self {
            Dialect::OpenAi { .. } => (50_000, 200_000_000),
            Dialect::Anthropic => (100_000, 256_000_000),
        }
    }

    /// The path of something beside the list of models.
    pub fn path(self, wire: &dyn Wire, what: &str, rest: &str) -> String {
        let listing = wire.listing();
        let (path, query) = listing.path.split_once('?').map_or((&*listing.path, None), |(path, q)| (path, Some(q)));
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let sign = if rest.contains('?') { '&' } else { '?' };
        let query = query.map_or(String::new(), |query| format!("{sign}{query}"));
        format!("{folder}/{what}{rest}{query}")
    }

    /// The batches.
    pub fn batches(self, wire: &dyn Wire, rest: &str) -> String {
        match self {
            Dialect::OpenAi { .. } => self.path(wire, "batches", rest),
            Dialect::Anthropic => self.path(wire, "messages/batches", rest),
        }
    }

    /// The address that stands in a line for a call: all lines of a batch have the same.
    pub fn url(self, call: &Call) -> String {
        let path = call.path.split_once('?').map_or(&*call.path, |(path, _)| path);
        match self {
            Dialect::Anthropic => path.to_owned(),
            Dialect::OpenAi { azure: false } => format!("/v1{path}"),
            Dialect::OpenAi { azure: true } => match path.strip_prefix("/openai/deployments/") {
                Some(rest) => rest.split_once('/').map_or(String::new(), |(_, rest)| format!("/{rest}")),
                None => path.strip_prefix("/openai").unwrap_or(path).to_owned(),
            },
        }
    }

    /// A request as a line (without its end), or as one of the requests of a message batch.
    pub fn line(self, custom_id: &str, call: &Call) -> Vec<u8> {
        let mut line = match self {
            Dialect::OpenAi { .. } => {
                let url = Value::from(self.url(call));
                format!(r#"{{"custom_id":"{custom_id}","method":"POST","url":{url},"body":"#).into_bytes()
            }
            Dialect::Anthropic => format!(r#"{{"custom_id":"{custom_id}","params":"#).into_bytes(),
        };
        line.extend_from_slice(&call.body);
        line.push(b'}');
        line
    }

    /// What stands before, between and behind the lines of a batch as it is sent.
    pub fn frame(self) -> [&'static [u8]; 3] {
        match self {
            Dialect::OpenAi { .. } => [b"", b"\n", b"\n"],
            Dialect::Anthropic => [b"{\"requests\":[", b",", b"]}"],
        }
    }

    /// The lines go there as a file, of which the batch is made then, and the results come as files.
    pub fn has_files(self) -> bool {
        matches!(self, Dialect::OpenAi { .. })
    }

    /// A batch bears our mark, so that it is found again by that; else only its results tell whose it is.
    pub fn has_marks(self) -> bool {
        matches!(self, Dialect::OpenAi { .. })
    }

    /// Every line says where it goes.
    pub fn has_urls(self) -> bool {
        matches!(self, Dialect::OpenAi { .. })
    }

    /// What is asked for to get the batches that are listed behind one.
    pub fn behind(self, last: &str) -> String {
        match self {
            Dialect::OpenAi { .. } => format!("&after={last}"),
            Dialect::Anthropic => format!("&after_id={last}"),
        }
    }

    /// Where the results of a batch are: in one of its files, or at the batch.
    pub fn results(self, wire: &dyn Wire, id: &str, file: &str) -> String {
        match self {
            Dialect::OpenAi { .. } => self.path(wire, "files", &format!("/{file}/content")),
            Dialect::Anthropic => self.batches(wire, &format!("/{id}/results")),
        }
    }

    /// What is deleted: a file, or a batch with its results.
    pub fn deleted(self, wire: &dyn Wire, id: &str) -> String {
        match self {
            Dialect::OpenAi { .. } => self.path(wire, "files", &format!("/{id}")),
            Dialect::Anthropic => self.batches(wire, &format!("/{id}")),
        }
    }

    /// Bytes that a line takes beside its body, with some room.
    pub fn overhead(self) -> usize {
        match self {
            Dialect::OpenAi { .. } => 160,
            Dialect::Anthropic => 80,
        }
    }

    /// The body that makes a batch of a file. A batch's results live as long as its input unless we say so.
    pub fn create(self, input: &str, url: &str, intent: &str) -> Vec<u8> {
        let body = json!({
            "input_file_id": input, "endpoint": url, "completion_window": "24h", "metadata": {MARK: intent},
        });
        body.to_string().into_bytes()
    }

    /// What a provider says of one batch.
    pub fn seen(self, body: &[u8]) -> std::result::Result<Seen, Failure> {
        let value: Value = serde_json::from_slice(body).map_err(|_| malformed("a batch"))?;
        self.seen_value(&value).ok_or_else(|| malformed("a batch"))
    }

    /// A page of a list of batches, and the id to ask for what comes behind it.
    pub fn listed(self, body: &[u8]) -> std::result::Result<(Vec<Seen>, Option<String>), Failure> {
        let value: Value = serde_json::from_slice(body).map_err(|_| malformed("a list of batches"))?;
        let list = value["data"].as_array().ok_or_else(|| malformed("a list of batches"))?;
        let seen: Vec<Seen> = list.iter().filter_map(|batch| self.seen_value(batch)).collect();
        let more = value["has_more"].as_bool().unwrap_or(false);
        let last = value["last_id"].as_str().map(str::to_owned).or_else(|| seen.last().map(|seen| seen.id.clone()));
        Ok((seen, last.filter(|_| more)))
    }

    fn seen_value(self, value: &Value) -> Option<Seen> {
        let text = |name: &str| value[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let counts = &value["request_counts"];
        let count = |name: &str| counts[name].as_u64().unwrap_or(0);
        let id = text("id")?;
        match self {
            Dialect::OpenAi { .. } => {
                let wrong = |error: &Value| Wrong {
                    code: error["code"].as_str().unwrap_or_default().to_owned(),
                    message: error["message"].as_str().unwrap_or_default().to_owned(),
                    line: error["line"].as_u64(),
                };
                Some(Seen {
                    id,
                    word: text("status")?,
                    results: ["output_file_id", "error_file_id"].into_iter().filter_map(text).collect(),
                    input: text("input_file_id"),
                    errors: value["errors"]["data"].as_array().map_or_else(Vec::new, |l| l.iter().map(wrong).collect()),
                    intent: value["metadata"][MARK].as_str().map(str::to_owned),
                    created_at: value["created_at"].as_i64().unwrap_or(0),
                    counts: [count("total"), count("completed"), count("failed")],
                })
            }
            Dialect::Anthropic => {
                let names = ["processing", "succeeded", "errored", "canceled", "expired"];
                let [processing, succeeded, errored, canceled, expired] = names.map(count);
                let word = text("processing_status")?;
                let word = match word.as_str() {
                    "ended" if expired > 0 => "ended:expired".to_owned(),
                    "ended" if canceled > 0 || text("cancel_initiated_at").is_some() => "ended:canceled".to_owned(),
                    _ => word,
                };
                let created = text("created_at").and_then(|time| humantime::parse_rfc3339(&time).ok());
                let created = created.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
                let results = word.starts_with("ended").then(String::new);
                let failed = errored + canceled + expired;
                Some(Seen {
                    id,
                    word,
                    results: results.into_iter().collect(),
                    created_at: created.map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX)),
                    counts: [processing + succeeded + failed, succeeded, failed],
                    ..Seen::default()
                })
            }
        }
    }

    /// A line of results: the custom id, and what became of the request.
    pub fn result(self, line: &[u8]) -> std::result::Result<(String, Result), Failure> {
        match self {
            Dialect::OpenAi { .. } => openai_result(line),
            Dialect::Anthropic => anthropic_result(line),
        }
    }
}

fn malformed(what: &str) -> Failure {
    Failure::new(FailureKind::MalformedReply, format!("what the endpoint says is not {what}"))
}

fn openai_result(line: &[u8]) -> std::result::Result<(String, Result), Failure> {
    #[derive(Deserialize)]
    struct Line<'a> {
        custom_id: String,
        #[serde(borrow, default)]
        response: Option<Reply<'a>>,
        #[serde(default)]
        error: Option<Value>,
    }
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(default)]
        status_code: u16,
        #[serde(borrow, default)]
        body: Option<&'a RawValue>,
    }
    let Line { custom_id, response, error } =
        serde_json::from_slice(line).map_err(|_| malformed("a line of results"))?;
    let result = match (response, error) {
        (Some(Reply { status_code, body }), _) if status_code > 0 => {
            Result::Reply(status_code, body.map_or_else(Vec::new, |body| body.get().as_bytes().to_vec()))
        }
        (_, error) => {
            let error = error.unwrap_or_default();
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            none(text("code"), text("message"))
        }
    };
    Ok((custom_id, result))
}

/// Why there is no reply.
fn none(code: String, message: String) -> Result {
    match code.as_str() {
        "batch_expired" | "expired" => Result::Expired,
        "batch_cancelled" | "batch_canceled" | "canceled" | "cancelled" => Result::Cancelled,
        _ => Result::None(code, message),
    }
}

fn anthropic_result(line: &[u8]) -> std::result::Result<(String, Result), Failure> {
    #[derive(Deserialize)]
    struct Line<'a> {
        custom_id: String,
        #[serde(borrow)]
        result: Outcome<'a>,
    }
    #[derive(Deserialize)]
    struct Outcome<'a> {
        #[serde(rename = "type")]
        kind: String,
        #[serde(borrow, default)]
        message: Option<&'a RawValue>,
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
    }
    let Line { custom_id, result } = serde_json::from_slice(line).map_err(|_| malformed("a line of results"))?;
    let bytes = |value: Option<&RawValue>| value.map_or_else(Vec::new, |value| value.get().as_bytes().to_vec());
    let outcome = match result.kind.as_str() {
        "succeeded" => Result::Reply(200, bytes(result.message)),
        "errored" => {
            let error: Value = serde_json::from_slice(&bytes(result.error)).unwrap_or_default();
            let inner = if error["error"].is_object() { &error["error"] } else { &error };
            Result::Reply(anthropic::status_of(inner["type"].as_str().unwrap_or_default()), bytes(result.error))
        }
        kind => none(kind.to_owned(), String::new()),
    };
    Ok((custom_id, outcome))
}

/// A file as a form, for `POST /files`: the content type and the parts before and after the file.
pub(super) fn form(name: &str) -> (String, Vec<u8>, Vec<u8>) {
    let boundary = format!("farthing-{}", &blake3::hash(name.as_bytes()).to_hex()[..32]);
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/jsonl\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    (format!("multipart/form-data; boundary={boundary}"), head.into_bytes(), tail.into_bytes())
}

/// The limit that a message on a full queue names: `Limit: 90,000 enqueued tokens`.
pub(super) fn queue_limit(message: &str) -> Option<u64> {
    let (_, rest) = message.split_once("Limit:")?;
    let digits: String = rest.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
    digits.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::anthropic::Anthropic;
    use crate::provider::azure::Azure;
    use crate::provider::openai::Openai;

    const OPENAI: Dialect = Dialect::OpenAi { azure: false };

    #[test]
    fn addresses_follow_from_the_wire() {
        let wire = Openai::default();
        assert_eq!(OPENAI.batches(&wire, "/batch_1/cancel"), "/batches/batch_1/cancel");
        assert_eq!(OPENAI.path(&wire, "files", ""), "/files");
        assert_eq!(OPENAI.url(&Call::post("/chat/completions", Vec::new())), "/v1/chat/completions");
        let azure = Dialect::OpenAi { azure: true };
        let dated = Azure { version: Some("2024-10-21".into()), ..Azure::default() };
        assert_eq!(azure.path(&dated, "files", "?limit=1"), "/openai/files?limit=1&api-version=2024-10-21");
        assert_eq!(azure.batches(&dated, "/b"), "/openai/batches/b?api-version=2024-10-21");
        let call = Call::post("/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21", Vec::new());
        assert_eq!(azure.url(&call), "/chat/completions");
        let newer = Azure { version: Some("v1".into()), ..Azure::default() };
        assert_eq!(azure.batches(&newer, ""), "/openai/v1/batches");
        assert_eq!(azure.url(&Call::post("/openai/v1/chat/completions", Vec::new())), "/v1/chat/completions");
        let anthropic = Anthropic { version: None, outputs: Default::default(), most: |_| None };
        assert_eq!(Dialect::Anthropic.batches(&anthropic, "/b/results"), "/messages/batches/b/results");
    }

    #[test]
    fn lines_are_json() {
        let call = Call::post("/chat/completions", br#"{"model":"m"}"#.to_vec());
        let line: Value = serde_json::from_slice(&OPENAI.line("a-1", &call)).unwrap();
        let expected =
            json!({"custom_id": "a-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}});
        assert_eq!(line, expected);
        let line: Value = serde_json::from_slice(&Dialect::Anthropic.line("a-1", &call)).unwrap();
        assert_eq!(line, json!({"custom_id": "a-1", "params": {"model": "m"}}));
        assert!(OPENAI.line("x".repeat(64).as_str(), &call).len() < call.body.len() + OPENAI.overhead());
    }

    #[test]
    fn results_of_every_kind_are_read() {
        let read = |line: Value| OPENAI.result(line.to_string().as_bytes()).unwrap();
        let good = json!({"id": "r", "custom_id": "a", "response": {"status_code": 200, "request_id": "q", "body": {"x": 1}}, "error": null});
        assert_eq!(read(good), ("a".into(), Result::Reply(200, br#"{"x":1}"#.to_vec())));
        let bad = json!({"custom_id": "a", "response": {"status_code": 400, "body": {"error": {}}}});
        assert!(matches!(read(bad).1, Result::Reply(400, _)));
        let none = json!({"custom_id": "a", "response": null, "error": {"code": "batch_expired", "message": "m"}});
        assert_eq!(read(none).1, Result::Expired);
        assert_eq!(read(json!({"custom_id": "a"})).1, Result::None(String::new(), String::new()));
        assert!(OPENAI.result(b"{\"custom_id\": 3}").is_err() && OPENAI.result(b"<html>").is_err());
        let read = |result: Value| {
            let line = json!({"custom_id": "a", "result": result});
            Dialect::Anthropic.result(line.to_string().as_bytes()).unwrap().1
        };
        assert_eq!(read(json!({"type": "succeeded", "message": {"m": 1}})), Result::Reply(200, b"{\"m\":1}".to_vec()));
        let error = json!({"type": "errored", "error": {"type": "error", "error": {"type": "overloaded_error"}}});
        assert!(matches!(read(error), Result::Reply(529, _)));
        assert_eq!(read(json!({"type": "expired"})), Result::Expired);
        assert_eq!(read(json!({"type": "canceled"})), Result::Cancelled);
    }

    #[test]
    fn batches_are_read_with_their_words() {
        let body = json!({
            "id": "batch_1", "status": "failed", "input_file_id": "f", "output_file_id": null, "error_file_id": "e",
            "errors": {"object": "list", "data": [{"code": "c", "message": "m", "line": 3, "param": null}]},
            "metadata": {"farthing": "frth-1"}, "created_at": 7,
            "request_counts": {"total": 3, "completed": 1, "failed": 2},
        });
        let seen = OPENAI.seen(body.to_string().as_bytes()).unwrap();
        assert_eq!(
            (seen.word.as_str(), seen.results.as_slice(), seen.counts),
            ("failed", &["e".to_owned()][..], [3, 1, 2])
        );
        assert_eq!((seen.intent.as_deref(), seen.errors[0].line, seen.created_at), (Some("frth-1"), Some(3), 7));
        let ended = |counts: Value, cancelled: Value| {
            let body = json!({"id": "m", "processing_status": "ended", "request_counts": counts,
                "created_at": "1970-01-01T00:01:00Z", "cancel_initiated_at": cancelled});
            Dialect::Anthropic.seen(body.to_string().as_bytes()).unwrap()
        };
        let all =
            ended(json!({"processing": 0, "succeeded": 4, "errored": 1, "canceled": 0, "expired": 0}), Value::Null);
        assert_eq!((all.word.as_str(), all.counts, all.created_at, all.results.len()), ("ended", [5, 4, 1], 60, 1));
        assert_eq!(ended(json!({"expired": 1}), Value::Null).word, "ended:expired");
        assert_eq!(ended(json!({"canceled": 1}), json!("1970-01-01T00:01:00Z")).word, "ended:canceled");
        let list = json!({"data": [body], "has_more": true, "last_id": "batch_1"});
        let (page, more) = OPENAI.listed(list.to_string().as_bytes()).unwrap();
        assert_eq!((page.len(), more.as_deref()), (1, Some("batch_1")));
        assert!(OPENAI.seen(b"{}").is_err() && OPENAI.listed(b"[]").is_err());
    }

    #[test]
    fn a_full_queue_says_its_limit() {
        assert_eq!(queue_limit("Enqueued token limit reached for m. Limit: 90,000 enqueued tokens."), Some(90_000));
        assert_eq!(queue_limit("Limit: 400"), Some(400));
        assert_eq!(queue_limit("too much"), None);
    }
}
