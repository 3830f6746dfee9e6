//! Recorded answers: a cassette serves the first samples of each request that it holds.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::backend::{Answer, Backend, CallError, ModelKind};
use crate::data::{json_problem, lines, read_file};
use crate::diagnostic::{Error, Result};
use crate::provider::{Failure, FailureKind, FinishReason, Input, Message, Request, Response, Sample};
use crate::space::configuration::canonical;

/// A cassette, held in memory.
#[derive(Debug)]
pub struct Cassette {
    source: String,
    entries: HashMap<[u8; 32], Entry>,
    models: HashSet<String>,
    /// Models that were recorded with a text in place of messages.
    text_models: HashSet<String>,
}

/// Every recorded sample of one request.
#[derive(Debug, Default)]
struct Entry {
    samples: Vec<(String, Option<u64>)>,
    prompt_tokens: Option<u64>,
    error: Option<String>,
    /// The line (from 0) that recorded it first.
    line: usize,
}

/// Lines of a cassette that record a request otherwise than an earlier one. A request has one line: which of them is right,
/// nobody can tell.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Contradictions {
    first: Option<(usize, usize)>,
    count: usize,
}

impl Contradictions {
    /// A line (from 0), and the earlier one that it contradicts.
    pub(crate) fn add(&mut self, line: usize, earlier: usize) {
        self.first.get_or_insert((line, earlier));
        self.count += 1;
    }

    /// Says so once.
    pub(crate) fn warn(&self, name: &str) {
        if let Some(words) = self.words(name) {
            tracing::warn!("{words}");
        }
    }

    fn words(&self, name: &str) -> Option<String> {
        let (line, earlier) = self.first?;
        let more = match self.count {
            1 => String::new(),
            count => format!(" ({} such lines)", count),
        };
        Some(format!(
            "{name}:{}: line {} records the same request with other samples or tokens; the earlier line's samples are served first{more}",
            line + 1,
            earlier + 1
        ))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    model: String,
    messages: Option<Vec<RecordedMessage>>,
    prompt: Option<String>,
    #[serde(default)]
    params: BTreeMap<String, Value>,
    #[serde(default)]
    samples: Vec<String>,
    usage: Option<RecordedUsage>,
    error: Option<Value>,
    // What `cache export` writes for people and other programs.
    #[serde(default, rename = "finish_reasons")]
    _finish_reasons: IgnoredAny,
    #[serde(default, rename = "tool_calls")]
    _tool_calls: IgnoredAny,
    #[serde(default, rename = "logprobs")]
    _logprobs: IgnoredAny,
    #[serde(default, rename = "source")]
    _source: IgnoredAny,
}

#[derive(Deserialize)]
struct RecordedMessage {
    role: String,
    content: Value,
}

#[derive(Deserialize)]
struct RecordedUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<Vec<Option<u64>>>,
}

/// More tokens than any request ever had.
const MOST_TOKENS: u64 = 1 << 40;

impl Cassette {
    /// Loads a cassette: JSON Lines, also .gz and .zst. A line that is none is an error at its place.
    pub fn load(path: &Path) -> Result<Cassette> {
        let name = path.display().to_string();
        let bytes = read_file(path)?;
        let hash = blake3::hash(&bytes);
        let mut cassette = Cassette {
            source: format!("replay:{}", &hash.to_hex()[..32]),
            entries: HashMap::new(),
            models: HashSet::new(),
            text_models: HashSet::new(),
        };
        let mut contradictions = Contradictions::default();
        for (number, text) in lines(&name, &bytes)?.filter(|(_, text)| !text.trim().is_empty()) {
            let line: Line = serde_json::from_str(text).map_err(|error| {
                let at = error.column().saturating_sub(1).min(text.len());
                let what = json_problem(&error);
                Error::usage(format!("this is no line of a cassette: {what}"))
                    .at_line(&name, number, text, at..at + 1, "here")
                    .help("a line has model, messages or prompt, params, samples and usage; see FORMATS")
            })?;
            let counts = line.usage.iter().flat_map(|usage| {
                usage.completion_tokens.iter().flatten().copied().chain([usage.prompt_tokens]).flatten()
            });
            if counts.max().is_some_and(|most| most > MOST_TOKENS) {
                return Err(Error::usage("no request has so many tokens").at_line(
                    &name,
                    number,
                    text,
                    0..1,
                    "in this line",
                ));
            }
            let input = match (line.messages, line.prompt) {
                (Some(messages), None) => Input::Messages(messages.into_iter().map(recorded_message).collect()),
                (None, Some(prompt)) => {
                    cassette.text_models.insert(line.model.clone());
                    Input::Text(prompt)
                }
                _ => {
                    return Err(Error::usage("a line of a cassette has `messages` or `prompt`").at_line(
                        &name,
                        number,
                        text,
                        0..1,
                        "this line",
                    ));
                }
            };
            cassette.models.insert(line.model.clone());
            let tokens = line.usage.as_ref().and_then(|usage| usage.completion_tokens.clone()).unwrap_or_default();
            let tokens = tokens.into_iter().chain(std::iter::repeat(None));
            let samples: Vec<_> = line.samples.into_iter().zip(tokens).collect();
            let prompt_tokens = line.usage.and_then(|usage| usage.prompt_tokens);
            let entry = match cassette.entries.entry(key(&line.model, &input, &line.params)) {
                hash_map::Entry::Vacant(place) => place.insert(Entry { line: number, ..Entry::default() }),
                hash_map::Entry::Occupied(place) => {
                    let entry = place.into_mut();
                    if !entry.agrees(&samples, prompt_tokens) {
                        contradictions.add(number, entry.line);
                    }
                    entry
                }
            };
            entry.samples.extend(samples);
            entry.prompt_tokens = entry.prompt_tokens.or(prompt_tokens);
            entry.error = entry.error.take().or(line.error.filter(|error| !error.is_null()).map(|error| match error {
                Value::String(text) => text,
                other => other.to_string(),
            }));
        }
        if cassette.entries.is_empty() {
            return Err(Error::usage(format!("{name} holds no recorded requests")));
        }
        contradictions.warn(&name);
        Ok(cassette)
    }

    fn answer(&self, request: &Request, first: usize) -> Result<Response, Failure> {
        let unknown = |what: String| Failure::new(FailureKind::NotRecorded, what);
        let Some(entry) = self.entries.get(&key(&request.model, &request.input, &request.params)) else {
            return Err(unknown(match self.models.contains(&request.model) {
                true => "this request is not in the cassette".to_owned(),
                false => format!("the cassette holds nothing of the model `{}`", request.model),
            }));
        };
        let wanted = request.n as usize;
        let missing = |what: String| Failure::new(entry.kind(), what);
        let because = entry.error.as_ref().map_or(String::new(), |error| format!(" (recorded error: {error})"));
        if entry.samples.len() < wanted {
            return Err(missing(format!("{wanted} samples are wanted, {} are recorded{because}", entry.samples.len())));
        }
        let Some(prompt_tokens) = entry.prompt_tokens else {
            return Err(missing(format!("the tokens of the prompt are not recorded{because}")));
        };
        let sample = |(text, tokens): &(String, Option<u64>)| match tokens {
            Some(tokens) => Ok(Sample::new(text.clone(), FinishReason::UNKNOWN, *tokens)),
            None => Err(missing(format!("the tokens of a sample are not recorded{because}"))),
        };
        let samples = entry.samples[first.min(wanted)..wanted].iter().map(sample).collect::<Result<_, _>>()?;
        Ok(Response { samples, prompt_tokens, ..Response::default() })
    }
}

impl Entry {
    /// Another line of the same request says nothing else, as far as both go.
    fn agrees(&self, samples: &[(String, Option<u64>)], prompt_tokens: Option<u64>) -> bool {
        let same = |(one, other): (Option<u64>, Option<u64>)| one.is_none() || other.is_none() || one == other;
        let pairs = || self.samples.iter().zip(samples);
        pairs().all(|((one, _), (other, _))| one == other)
            && pairs().all(|((_, one), (_, other))| same((*one, *other)))
            && same((self.prompt_tokens, prompt_tokens))
    }

    /// Why there is nothing more of it: what counts against a configuration, where that was recorded by its word. Other
    /// errors were the recording's misfortune, and trying again finds nothing else here.
    fn kind(&self) -> FailureKind {
        let own =
            [FailureKind::ContentFilter, FailureKind::ContextTooLong, FailureKind::Refused, FailureKind::BadRequest];
        let recorded = |kind: &FailureKind| self.error.as_deref() == Some(kind.word());
        own.into_iter().find(recorded).unwrap_or(FailureKind::NotRecorded)
    }
}

impl Backend for Cassette {
    fn source(&self) -> &str {
        &self.source
    }

    fn call<'a>(&'a self, request: &'a Request, first: usize) -> Answer<'a> {
        let answer = self.answer(request, first);
        Box::pin(async move { answer.map_err(CallError::unbilled) })
    }

    fn foretell(&self, request: &Request, first: usize) -> Option<Result<Response, Failure>> {
        Some(self.answer(request, first))
    }

    fn knows_bills(&self) -> bool {
        true
    }

    fn in_process(&self) -> bool {
        true
    }

    fn kind(&self, model: &str) -> Option<ModelKind> {
        self.models.contains(model).then(|| match self.text_models.contains(model) {
            true => ModelKind::Text,
            false => ModelKind::Chat,
        })
    }
}

fn recorded_message(message: RecordedMessage) -> Message {
    let content = match message.content {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    Message { role: message.role, content }
}

/// What must agree for a recorded answer to be one to this request: model, input, and every parameter but n, where
/// absent equals the API's default and numbers compare as numbers.
fn key(model: &str, input: &Input, params: &BTreeMap<String, Value>) -> [u8; 32] {
    let text = matches!(input, Input::Text(_));
    let params: BTreeMap<&str, Value> = params.iter().filter_map(|(name, value)| explicit(name, value, text)).collect();
    let parts = json!([model, input, params]);
    *blake3::hash(parts.to_string().as_bytes()).as_bytes()
}

/// A parameter in its canonical form, unless it says nothing but the API's default.
fn explicit<'a>(name: &'a str, value: &Value, text: bool) -> Option<(&'a str, Value)> {
    let name = if name == "max_completion_tokens" { "max_tokens" } else { name };
    let value = match (name, canonical(value)) {
        ("stop", Value::String(one)) => json!([one]),
        (_, value) => value,
    };
    let default = match name {
        "temperature" | "top_p" | "best_of" => value == json!(1),
        "presence_penalty" | "frequency_penalty" => value == json!(0),
        "stop" | "tools" => value == json!([]),
        "logit_bias" => value == json!({}),
        "logprobs" | "echo" | "stream" => value == json!(false),
        "response_format" => value == json!({"type": "text"}),
        "max_tokens" => text && value == json!(16),
        _ => false,
    };
    (name != "n" && !value.is_null() && !default).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cassette(lines: &[Value]) -> Result<Cassette> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.jsonl");
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        Cassette::load(&path)
    }

    fn request(params: Value, n: u32) -> Request {
        let params = serde_json::from_value(params).unwrap();
        Request { model: "m".into(), input: Input::Text("p".into()), params, n }
    }

    fn line(params: Value) -> Value {
        json!({"model": "m", "prompt": "p", "params": params, "samples": ["a", "b", "c"],
            "usage": {"prompt_tokens": 5, "completion_tokens": [1, 2]}})
    }

    #[test]
    fn a_key_that_nothing_reads_is_named() {
        let with = |key: &str| {
            let mut line = line(json!({}));
            line[key] = json!(["x"]);
            cassette(&[line])
        };
        let problem = with("sample").unwrap_err().to_string();
        assert!(problem.contains("`sample`"), "{problem}");
        // `cache export` writes these.
        assert!(["finish_reasons", "tool_calls", "logprobs", "source"].into_iter().all(|key| with(key).is_ok()));
    }

    #[test]
    fn lines_of_one_request_that_contradict_each_other_are_told() {
        let agrees = |change: fn(&mut Value)| {
            let tape = cassette(&[line(json!({}))]).unwrap();
            let mut other = line(json!({}));
            change(&mut other);
            let other: Line = serde_json::from_value(other).unwrap();
            let tokens = other.usage.as_ref().unwrap().completion_tokens.clone().unwrap();
            let tokens = tokens.into_iter().chain(std::iter::repeat(None));
            let samples: Vec<_> = other.samples.into_iter().zip(tokens).collect();
            tape.entries.values().next().unwrap().agrees(&samples, other.usage.unwrap().prompt_tokens)
        };
        assert!(
            agrees(|_| ())
                && agrees(|line| line["samples"] = json!(["a"]))
                && agrees(|line| line["usage"] = json!({"completion_tokens": []}))
        );
        assert!(!agrees(|line| line["samples"] = json!(["b"])));
        assert!(!agrees(|line| line["usage"]["prompt_tokens"] = json!(6)));
        assert!(!agrees(|line| line["usage"]["completion_tokens"] = json!([1, 3])));
        let mut told = Contradictions::default();
        assert_eq!(told.words("c.jsonl"), None);
        told.add(6, 0);
        assert!(told.words("c.jsonl").unwrap().starts_with("c.jsonl:7: line 1 records the same request"));
        told.add(7, 0);
        assert!(told.words("c.jsonl").unwrap().ends_with("(2 such lines)"));
    }

    #[test]
    fn defaults_and_numbers_agree() {
        let tape = cassette(&[line(json!({"temperature": 1.0, "n": 3, "max_tokens": 16}))]).unwrap();
        for params in [
            json!({}),
            json!({"temperature": 1}),
            json!({"top_p": 1, "stop": [], "presence_penalty": 0.0}),
            json!({"seed": null}),
        ] {
            assert_eq!(tape.answer(&request(params, 2), 0).unwrap().samples[1].text, "b");
        }
        for params in [json!({"temperature": 0.5}), json!({"stop": ["x"]}), json!({"max_tokens": 17})] {
            assert_eq!(tape.answer(&request(params, 1), 0).unwrap_err().kind, FailureKind::NotRecorded);
        }
        let tape = cassette(&[line(json!({"stop": "x", "max_completion_tokens": 9}))]).unwrap();
        assert!(tape.answer(&request(json!({"stop": ["x"], "max_tokens": 9.0}), 1), 0).is_ok());
    }

    #[test]
    fn what_cannot_be_billed_is_missing() {
        let tape = cassette(&[line(json!({}))]).unwrap();
        assert_eq!(tape.answer(&request(json!({}), 2), 1).unwrap().completion_tokens(), 2, "samples are numbered");
        assert!(tape.answer(&request(json!({}), 3), 0).unwrap_err().message.contains("tokens of a sample"));
        assert!(
            tape.answer(&request(json!({}), 4), 0)
                .unwrap_err()
                .message
                .contains("4 samples are wanted, 3 are recorded")
        );
        let mut failed = line(json!({}));
        failed["usage"] = json!({"prompt_tokens": null, "completion_tokens": []});
        failed["error"] = json!("rate limit");
        let problem = cassette(&[failed]).unwrap().answer(&request(json!({}), 1), 0).unwrap_err();
        assert_eq!(problem.message, "the tokens of the prompt are not recorded (recorded error: rate limit)");
        assert_eq!(problem.kind, FailureKind::NotRecorded);
    }

    #[test]
    fn what_was_filtered_counts_against_the_configuration() {
        let kind = |error: &str, n: u32| {
            let mut cut = line(json!({}));
            cut["error"] = json!(error);
            cassette(&[cut]).unwrap().answer(&request(json!({}), n), 0).map_err(|failure| failure.kind)
        };
        assert_eq!(kind("content_filter", 4), Err(FailureKind::ContentFilter));
        assert_eq!(kind("context_too_long", 4), Err(FailureKind::ContextTooLong));
        assert!(kind("content_filter", 2).is_ok(), "the samples that it has are served");
        // Nobody is to wait for a cassette.
        assert_eq!(kind("rate_limit", 4), Err(FailureKind::NotRecorded));
    }

    #[test]
    fn a_bad_line_is_an_error_at_its_place() {
        let bad = cassette(&[line(json!({})), json!({"model": "m"})]).unwrap_err();
        assert!(bad.location().unwrap().ends_with("c.jsonl:2:1"), "{bad}");
        assert!(cassette(&[]).is_err());
    }

    #[test]
    fn the_kind_of_a_model_is_how_it_was_recorded() {
        let tape = cassette(&[line(json!({}))]).unwrap();
        assert_eq!((tape.kind("m"), tape.kind("x")), (Some(ModelKind::Text), None));
    }
}
