//! Experiments from files, as people run them: `farthing run`, `judge` and `rephrase`.

#[path = "../support/mod.rs"]
mod support;

mod failures;
mod limits;
mod made;
mod rows;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use farthing::provider::{FinishReason, Response, Sample};
use farthing::serve::mock::{Answers, Call, MockServer, Options, Reply};
use serde_json::Value;
use support::{Home, server};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/experiments")
}

/// A home with the examples in it.
fn home_with_examples() -> Home {
    let home = Home::new(1);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(examples().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            match examples().join(&path).is_dir() {
                true => folders.push(path),
                false => home.write(path.to_str().unwrap(), std::fs::read(examples().join(&path)).unwrap()),
            }
        }
    }
    home
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The rows of a run in the order of the input.
#[track_caller]
fn results(home: &Home, run: &str) -> Vec<Value> {
    lines(&home.read(&format!("{run}/results.jsonl")))
}

fn rows(count: usize, more: &str) -> String {
    (0..count)
        .map(|at| format!("{{\"id\": \"r{at}\", \"prompt\": \"What is {at} + 1?\", \"answer\": {}, \"model\": \"mock-small\", \"parameters\": {{\"max_tokens\": 40}}{more}}}\n", at + 1))
        .collect()
}

/// A message without its line breaks.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "")
}

fn text(call: &Call) -> String {
    let last = call.body["messages"].as_array().and_then(|all| all.last()).unwrap();
    last["content"].as_str().unwrap().to_owned()
}

fn said(texts: &[&str]) -> Reply {
    let samples = texts.iter().map(|text| Sample::new(*text, FinishReason::STOP, 2)).collect();
    Reply::Answer(Response { samples, prompt_tokens: 5, ..Response::default() })
}

fn custom(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> MockServer {
    server(Options { answers: Answers::Custom(Arc::new(answer)), ..Options::default() })
}

fn rows_text(ids: &[&str]) -> String {
    ids.iter().map(|id| format!("{{\"id\": \"{id}\", \"prompt\": \"p\", \"model\": \"mock-small\"}}\n")).collect()
}
