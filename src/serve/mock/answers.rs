//! Who answers behind the mock endpoint: a made-up model, a cassette, or a function of the caller's.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::faults::{Call, Fault};
use super::wire::Refusal;
use crate::backend::mock::{self, tokens};
use crate::backend::replay::Contradictions;
use crate::data;
use crate::diagnostic::{self, Error};
use crate::provider::{FinishReason, Request, Response, Sample};

/// What a function of the caller's answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These completions; tokens are counted as the made-up models count them.
    Texts(Vec<String>),
    /// Exactly this.
    Answer(Response),
    /// Something goes wrong. If it is billed, the bill is the prompt's.
    Fault(Fault),
}

/// Who answers.
#[derive(Clone, Default)]
pub enum Answers {
    /// The made-up models.
    #[default]
    MadeUp,
    /// What a cassette holds. A request gets the samples after those that were given to earlier equal ones; where the
    /// cassette has not that many left, it begins with the first again.
    Cassette(Arc<Cassette>),
    /// Local models, by the names that they are served under. They answer as they answer in this process; a request goes
    /// on with the samples after those that were given to earlier equal ones.
    #[cfg(feature = "local")]
    Local(Arc<BTreeMap<String, crate::backend::local::Local>>),
    /// A function.
    Custom(Arc<dyn Fn(&Call) -> Reply + Send + Sync>),
}

impl Answers {
    /// A function of the whole body.
    pub fn custom(function: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Answers {
        Answers::Custom(Arc::new(move |call| function(&call.body)))
    }

    /// The answer to a request, from sample `call.first` on.
    pub(super) fn answer(&self, request: &Request, call: &Call) -> Result<Reply, Refusal> {
        match self {
            Answers::MadeUp => Ok(Reply::Answer(mock::answer(request, call.first).map_err(Refusal::from)?)),
            #[cfg(feature = "local")]
            Answers::Local(models) => {
                let Some(model) = models.get(&request.model) else {
                    return Err(Refusal::unknown_model(&request.model));
                };
                // The same `seed` asks for the same samples again.
                let first = if request.params.get("seed").is_some_and(|seed| !seed.is_null()) { 0 } else { call.first };
                // A request's `n` counts from its first sample, a local model's from sample 0.
                let wanted = u32::try_from(first).ok().and_then(|first| request.n.checked_add(first));
                let request = Request { n: wanted.unwrap_or(u32::MAX), ..request.clone() };
                Ok(Reply::Answer(model.answer(&request, first).map_err(Refusal::from)?))
            }
            Answers::Cassette(cassette) => cassette.answer(request, call.first).map(Reply::Answer),
            Answers::Custom(function) => Ok(function(call)),
        }
    }
}

/// Completions with their tokens counted as the made-up models count them.
pub(super) fn counted(request: &Request, texts: Vec<String>) -> Response {
    let sample = |text: String| Sample::new(text.as_str(), FinishReason::STOP, tokens::count(&text));
    Response {
        samples: texts.into_iter().map(sample).collect(),
        prompt_tokens: tokens::prompt(&request.input),
        ..Response::default()
    }
}

/// The stop sequence that ended a made-up sample: the one that the model would have gone on with. `None` where none did.
pub(super) fn stopped_by(request: &Request, first: usize, text: &str) -> Option<String> {
    let stops: Vec<&str> = match request.params.get("stop")? {
        Value::String(stop) => vec![stop],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut unstopped = Request { n: 1, ..request.clone() };
    unstopped.params.remove("stop");
    let whole = mock::answer(&unstopped, first).ok()?;
    let after = whole.samples.first()?.text.strip_prefix(text)?.to_owned();
    stops.into_iter().find(|stop| after.starts_with(*stop)).map(str::to_owned)
}

/// Recorded requests and their samples, read independently of the `replay` backend.
#[derive(Debug, Default)]
pub struct Cassette {
    lines: BTreeMap<[u8; 32], Recorded>,
    models: BTreeSet<String>,
}

#[derive(Debug)]
struct Recorded {
    prompt_tokens: u64,
    samples: Vec<Sample>,
    /// The line (from 0) that it stood on first.
    line: usize,
}

impl Cassette {
    /// Reads a cassette: JSON Lines, compressed if its name ends in .gz or .zst. Only samples with known tokens count.
    ///
    /// # Errors
    /// A usage error where the file cannot be read, or a line is no line of a cassette.
    pub fn read(path: &Path) -> diagnostic::Result<Cassette> {
        let name = path.to_string_lossy();
        let reader = data::unpacked(path, data::IN_MEMORY)?;
        let (mut cassette, mut contradictions) = (Cassette::default(), Contradictions::default());
        for (at, line) in BufReader::new(reader).lines().enumerate() {
            let line = line.map_err(|error| data::broken(path, &error))?;
            if line.trim().is_empty() {
                continue;
            }
            let problem = |what: String| Error::usage(format!("{name}, line {}: {what}", at + 1));
            let line: Value = serde_json::from_str(&line).map_err(|error| problem(error.to_string()))?;
            if let Some(earlier) = cassette.put(&line, at).map_err(|what| problem(what.to_owned()))? {
                contradictions.add(at, earlier);
            }
        }
        contradictions.warn(&name);
        Ok(cassette)
    }

    /// Adds one line. Samples of a request that is there already come behind those that it has.
    pub fn add(&mut self, line: &Value) -> Result<(), &'static str> {
        self.put(line, self.lines.len()).map(drop)
    }

    /// Adds the line of a number; gives that of an earlier one which it contradicts.
    pub(super) fn put(&mut self, line: &Value, number: usize) -> Result<Option<usize>, &'static str> {
        let model = line["model"].as_str().ok_or("there is no model")?;
        let input = match (line.get("messages"), line.get("prompt")) {
            (Some(messages), None) => json!({ "messages": messages }),
            (None, Some(prompt)) => json!({ "prompt": prompt }),
            _ => return Err("there must be messages or a prompt"),
        };
        let empty = Map::new();
        let params = line.get("params").map_or(Some(&empty), Value::as_object).ok_or("params is no table")?;
        let samples = line["samples"].as_array().ok_or("there are no samples")?;
        let tokens = line["usage"]["completion_tokens"].as_array().map_or(&[][..], Vec::as_slice);
        let samples = samples
            .iter()
            .zip(tokens)
            .map_while(|(text, tokens)| Some(Sample::new(text.as_str()?, FinishReason::STOP, tokens.as_u64()?)));
        self.models.insert(model.to_owned());
        let Some(prompt_tokens) = line["usage"]["prompt_tokens"].as_u64() else { return Ok(None) };
        let samples: Vec<Sample> = samples.collect();
        match self.lines.entry(key(model, input, params.iter())) {
            Entry::Vacant(place) => {
                place.insert(Recorded { prompt_tokens, samples, line: number });
                Ok(None)
            }
            Entry::Occupied(place) => {
                let known = place.into_mut();
                let same =
                    known.prompt_tokens == prompt_tokens && known.samples.iter().zip(&samples).all(|(a, b)| a == b);
                known.samples.extend(samples);
                Ok((!same).then_some(known.line))
            }
        }
    }

    /// The models that are recorded.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(String::as_str)
    }

    /// How many requests are recorded.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// True where nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn answer(&self, request: &Request, first: usize) -> Result<Response, Refusal> {
        let input = serde_json::to_value(&request.input).unwrap_or_default();
        let recorded = self.lines.get(&key(&request.model, input, request.params.iter()));
        let recorded = recorded.ok_or_else(|| {
            Refusal::not_recorded(format!(
                "the cassette does not hold this request to `{}`: none of the {} that it holds has these messages and \
                 parameters",
                request.model,
                self.len()
            ))
        })?;
        let count = request.n as usize;
        let from = if first.saturating_add(count) <= recorded.samples.len() { first } else { 0 };
        let samples = recorded.samples.get(from..from + count);
        let samples = samples.ok_or_else(|| {
            let held = recorded.samples.len();
            Refusal::not_recorded(format!("the cassette holds {held} samples of this request, and {count} are wanted"))
        })?;
        Ok(Response { samples: samples.to_vec(), prompt_tokens: recorded.prompt_tokens, ..Response::default() })
    }
}

/// What two equal requests share: parameters that have OpenAI's default, or are null, are as good as absent, and numbers
/// compare as numbers.
pub(super) fn key<'a>(model: &str, input: Value, params: impl Iterator<Item = (&'a String, &'a Value)>) -> [u8; 32] {
    let mut kept = BTreeMap::new();
    for (name, value) in params {
        let default = match name.as_str() {
            "temperature" | "top_p" => value.as_f64() == Some(1.0),
            "presence_penalty" | "frequency_penalty" => value.as_f64() == Some(0.0),
            "stop" => value.as_array().is_some_and(Vec::is_empty),
            "logprobs" => value.as_bool() == Some(false),
            _ => false,
        };
        if default || value.is_null() {
            continue;
        }
        let name = if name == "max_completion_tokens" { "max_tokens" } else { name };
        kept.insert(name, plain(value));
    }
    super::ledger::hash(&json!([model, input, kept]))
}

/// A value with whole floats as integers, and one stop sequence as a list.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => Value::from(float as i64),
            _ => value.clone(),
        },
        Value::Array(list) if list.len() == 1 => plain(&list[0]),
        Value::Array(list) => Value::Array(list.iter().map(plain).collect()),
        _ => value.clone(),
    }
}
