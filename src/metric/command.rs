//! `command`: a metric by a program of the user's, in any language.
//!
//! The program is started once (or a few times, see `workers`), stays alive, and answers every line on its standard
//! input with one line on its standard output. A question is
//! `{"id": 1, "instance": {"id": "17", "question": "..."}, "responses": [{"text": "...", "finish_reason": "stop",
//! "completion_tokens": 12}]}`; an answer is an object of numbers or truth values, `{"accuracy": 1, "length": 12.5}`, or
//! one number or truth value alone, which gets the table's name, or `{"error": "why there is none"}`. An answer may
//! repeat the question's `id`, which is then checked. What it writes to standard error goes to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use toml::Spanned;
use toml::de::DeTable;

use super::declare::{Building, Scorer};
use super::pool::{Pool, Program, locate};
use super::{Metric, Metrics};
use crate::diagnostic::Result;
use crate::provider::Sample;
use crate::task::{Instance, MetricTable};

/// The `type` in the table.
pub(super) const NAME: &str = "command";
/// One line that says what it is.
pub(super) const SUMMARY: &str = "what a program of yours says, by JSON lines on its standard input and output";

/// True for the table of a metric that is a program of the user's.
pub fn runs_a_program(table: &MetricTable) -> bool {
    let kind = |table: &DeTable<'_>| table.get("type").is_some_and(|kind| kind.get_ref().as_str() == Some(NAME));
    table.read().is_ok_and(|table| kind(table.get_ref()))
}

/// Options of `command`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandOptions {
    /// The program and its arguments, like ["python3", "score.py"]; it runs in the task's folder.
    #[schemars(with = "Vec<String>")]
    command: Spanned<Vec<String>>,
    /// How long one evaluation may take, the program's start included; then it is ended and the evaluation fails.
    #[schemars(with = "Option<f64>", extend("default" = 30))]
    timeout_seconds: Option<Spanned<f64>>,
    /// How many instances of the program may run side by side; as many as there are cores if not given.
    #[schemars(with = "Option<u32>", range(min = 1))]
    workers: Option<Spanned<u32>>,
    /// Whether the program is started again after it crashed (the evaluation is then tried once more) or was ended.
    #[serde(default = "yes")]
    #[schemars(extend("default" = true))]
    restart: bool,
}

fn yes() -> bool {
    true
}

/// A metric by a program.
struct CommandMetric {
    name: String,
    program: Program,
    pool: Pool,
    asked: AtomicU64,
}

pub(super) fn build(building: &mut Building<'_>) -> Result<Arc<dyn Scorer>> {
    let options: CommandOptions = building.options()?;
    if options.command.get_ref().first().is_none_or(String::is_empty) {
        let error = building.error("`command` names a program", options.command.span(), "no program");
        return Err(error.help("like command = [\"python3\", \"score.py\"]"));
    }
    if options.command.get_ref().iter().any(|word| word.contains('\0')) {
        return Err(building.error("a command holds no zero byte", options.command.span(), "here"));
    }
    let seconds = building.not_negative("timeout_seconds", &options.timeout_seconds, 30.0)?;
    let timeout = Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero() && seconds <= 1e6);
    let span = options.timeout_seconds.as_ref().map_or_else(|| building.table().span.clone(), Spanned::span);
    let timeout = timeout
        .ok_or_else(|| building.error("`timeout_seconds` is above 0, and at most a million", span, "out of range"))?;
    let workers = match &options.workers {
        None => std::thread::available_parallelism().map_or(1, usize::from),
        Some(workers) if (1..=1024).contains(workers.get_ref()) => *workers.get_ref() as usize,
        Some(workers) => return Err(building.error("`workers` is from 1 to 1024", workers.span(), "out of range")),
    };
    let folder = building.table().folder.clone();
    let program = Program { command: options.command.into_inner(), folder, timeout, restart: options.restart };
    let pool = Pool::new(program.clone(), workers);
    Ok(Arc::new(CommandMetric { name: building.name().to_owned(), program, pool, asked: AtomicU64::new(0) }))
}

impl Metric for CommandMetric {
    fn score(&self, instance: &Instance, responses: &[Sample]) -> Result<Metrics, String> {
        let id = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut fields = instance.fields.clone();
        fields.entry("id").or_insert_with(|| Value::String(instance.id.clone()));
        // serde_json escapes line breaks in texts, so this is one line.
        let mut question = json!({"id": id, "instance": fields, "responses": responses}).to_string();
        question.push('\n');
        self.pool.ask(&question.into(), |answer| {
            understand(answer, id, &self.name).map_err(|reason| format!("the program `{}` {reason}", self.pool.name()))
        })?
    }
}

impl Scorer for CommandMetric {
    fn check(&self, _: &Instance) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self) -> Result<(), String> {
        let found = locate(self.pool.name(), &self.program.folder);
        found.map(|_| ()).map_err(|reason| format!("the metric `{}` cannot run: {reason}", self.name))
    }

    fn range(&self) -> Option<(f64, f64)> {
        None
    }

    fn output(&self) -> Option<&str> {
        None
    }
}

/// The values in an answer, or the reason it gives for having none. The outer error is an answer that makes no sense.
fn understand(answer: &[u8], id: u64, name: &str) -> Result<Result<Metrics, String>, String> {
    let shown = || {
        let text = String::from_utf8_lossy(answer);
        let text = text.trim();
        let short: String = text.chars().take(200).collect();
        if short.len() < text.len() { format!("`{short}...`") } else { format!("`{short}`") }
    };
    let value: Value = serde_json::from_slice(answer).map_err(|error| {
        let text = String::from_utf8_lossy(answer);
        let infinite = text.contains("NaN") || text.contains("Infinity");
        let why = if infinite { "NaN and Infinity are no numbers here".to_owned() } else { error.to_string() };
        format!("answered {}, which is not JSON: {why}", shown())
    })?;
    let number = |value: &Value| value.as_f64().or_else(|| value.as_bool().map(|truth| f64::from(u8::from(truth))));
    let mut map = match value {
        Value::Object(map) => map,
        other => {
            let value =
                number(&other).ok_or_else(|| format!("answered {}, which is no number and no object", shown()))?;
            return Ok(Ok(Metrics::from([(name.to_owned(), value)])));
        }
    };
    if map.get("id").is_some_and(|other| other.as_u64() != Some(id)) {
        return Err(format!("answered {} to question {id}: another `id`", shown()));
    }
    map.remove("id");
    match map.get("error") {
        Some(Value::String(reason)) => return Ok(Err(reason.clone())),
        Some(Value::Null) => {
            map.remove("error");
        }
        _ => {}
    }
    if map.is_empty() {
        return Err(format!("answered {}, which holds no value", shown()));
    }
    let entry = |(name, value): (String, Value)| match number(&value) {
        Some(number) => Ok((name, number)),
        None => Err(format!("answered {}, in which `{name}` is no number", shown())),
    };
    map.into_iter().map(entry).collect::<Result<Metrics, String>>().map(Ok)
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
