//! What is done with a row that was answered: metrics and functions, one after the other. None of them loses an answer.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::Fields;
use super::scale::Scale;
use crate::declaration;
use crate::diagnostic::{Error, Result, Source, suggestion};
use crate::metric::{self, Built, Kind, Metric};
use crate::provider::Sample;
use crate::task::{Instance, MetricTable};

/// A metric as it was declared: on the command line, or in a file with `[metrics.NAME]` tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// What its value is called.
    pub name: String,
    /// Where it stands.
    pub source: String,
    /// The text that it stands in.
    pub text: String,
    /// The keys that lead to its table there.
    pub path: Vec<String>,
    /// Where programs of it run.
    pub folder: PathBuf,
}

/// What stands before a metric where it was typed.
const TYPED: &str = "--metric ";

impl Declared {
    /// `[NAME=]TYPE[:OPTION=VALUE]...`, like `exact_match:expected={{ answer }}`. prompto's `match` and `includes` are
    /// `exact_match` and `contains` of the column `expected_response`.
    pub fn parse(text: &str) -> Result<Declared> {
        let pieces = pieces(text);
        let head = pieces[0].trim();
        let (name, kind) = head.split_once('=').map_or((None, head), |(name, kind)| (Some(name.trim()), kind.trim()));
        let prompto = |kind: &'static str| (kind, Some("{{ expected_response }}"));
        let (real, expected) = match kind {
            "match" => prompto("exact_match"),
            "includes" => prompto("contains"),
            other => (other, None),
        };
        let rows = metric::rows();
        let Some(row) = rows.iter().find(|row| row.name == real) else {
            let names = rows.iter().map(|row| row.name.as_str());
            return Err(
                Error::usage(format!("--metric {text}: there is no metric `{kind}`")).help(suggestion(kind, names))
            );
        };
        let mut table = format!("type = {}\n", quoted(real));
        if let Some(expected) = expected.filter(|_| !pieces.iter().any(|piece| piece.starts_with("expected="))) {
            table += &format!("expected = {}\n", quoted(expected));
        }
        for piece in &pieces[1..] {
            let (key, value) = piece.split_once('=').unwrap_or((piece, ""));
            let known = row.options.iter().find(|option| option.name == key);
            let is_toml = || toml::de::DeValue::parse(value).is_ok();
            let value = match known.map(|option| &option.kind) {
                None | Some(Kind::Text | Kind::Word(_)) => quoted(value),
                Some(Kind::List(_)) if value.trim_start().starts_with('[') && is_toml() => value.to_owned(),
                // A list may be written as its words.
                Some(Kind::List(_)) => {
                    let words: Vec<String> = value.split(',').map(|word| quoted(word.trim())).collect();
                    format!("[{}]", words.join(", "))
                }
                Some(Kind::Number { .. } | Kind::Flag | Kind::Table | Kind::Any) if is_toml() => value.to_owned(),
                Some(_) => quoted(value),
            };
            table += &format!("{key} = {value}\n");
        }
        let name = name.unwrap_or(kind).to_owned();
        let declared = Declared {
            name,
            source: format!("{TYPED}{text}"),
            text: table,
            path: Vec::new(),
            folder: PathBuf::from("."),
        };
        declared.build().map(|_| declared)
    }

    /// All `[metrics.NAME]` tables of a file.
    pub fn load(path: &Path) -> Result<Vec<Declared>> {
        let source = Source::read(path)?;
        let document = declaration::parse(&source)?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let tables = MetricTable::all(&source, document.get_ref(), folder)?;
        if tables.is_empty() {
            return Err(Error::usage(format!("{} has no [metrics.NAME] table", path.display())));
        }
        let one = |table: MetricTable| Declared {
            name: table.name,
            source: source.name().to_owned(),
            text: source.text().to_owned(),
            path: table.path,
            folder: std::path::absolute(&table.folder).unwrap_or(table.folder),
        };
        Ok(tables.into_iter().map(one).collect())
    }

    /// How it gets another name, where its own is taken.
    pub fn renamed(&self) -> String {
        match self.source.strip_prefix(TYPED) {
            Some(typed) => {
                let named = typed.trim_start().strip_prefix(self.name.as_str());
                let kind = named.and_then(|rest| rest.trim_start().strip_prefix('=')).unwrap_or(typed);
                format!("give one another name: {TYPED}NAME={}", kind.trim())
            }
            None => format!("call one [metrics.NAME] otherwise, in {}", self.source),
        }
    }

    /// The metric.
    pub fn build(&self) -> Result<Built> {
        metric::build(&MetricTable {
            name: self.name.clone(),
            source: Source::new(self.source.as_str(), self.text.as_str()),
            span: 0..0,
            path: self.path.clone(),
            folder: self.folder.clone(),
        })
    }
}

fn quoted(text: &str) -> String {
    // JSON's strings are TOML's, but for the slash and the delete character, which serde_json leaves as they are.
    Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

/// A text at each `:` that an option's name and `=` follow.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices(':') {
        let name: usize = text[at + 1..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').count();
        if name > 0 && text[at + 1 + name..].starts_with('=') && !text[at + 2 + name..].starts_with('=') {
            pieces.push(&text[from..at]);
            from = at + 1;
        }
    }
    pieces.push(&text[from..]);
    pieces
}

/// A row that was answered, as functions see it; they add scores and columns.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The row's own columns, and its prompt where that was rendered.
    pub row: &'a Fields,
    /// The completions.
    pub samples: &'a [Sample],
    /// The response as the record has it: a text, or a list of them.
    pub response: &'a Value,
    /// Scores by name, of the steps so far.
    pub scores: BTreeMap<String, f64>,
    /// Further columns of the record.
    pub columns: BTreeMap<String, Value>,
}

/// A function of the program's own.
pub type Function = Arc<dyn Fn(&mut Answer<'_>) -> Result<(), String> + Send + Sync>;

/// One step of an evaluation.
#[derive(Clone)]
pub enum Step {
    /// A metric under a name.
    Metric(String, Arc<dyn Metric>),
    /// A function under a name.
    Function(String, Function),
    /// The reply of a judge as a number, called `score`.
    Scale(Scale, Option<Regex>),
}

/// What became of an answer's evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluated {
    /// Scores by name.
    pub scores: BTreeMap<String, f64>,
    /// Why a step gave nothing, by its name.
    pub errors: BTreeMap<String, String>,
    /// Further columns of the record.
    pub columns: BTreeMap<String, Value>,
}

/// Runs all steps in their order over one answer. A step that fails, or panics, is an error by its name.
pub fn evaluate(steps: &[Step], id: &str, row: &Fields, samples: &[Sample], response: &Value) -> Evaluated {
    let mut errors = BTreeMap::new();
    let mut answer = Answer { row, samples, response, scores: BTreeMap::new(), columns: BTreeMap::new() };
    let mut instance: Option<Instance> = None;
    for step in steps {
        let (name, outcome) = match step {
            Step::Metric(name, metric) => {
                let instance = instance.get_or_insert_with(|| {
                    let mut fields = row.map();
                    fields.entry("response").or_insert_with(|| response.clone());
                    Instance::new(id, fields)
                });
                let judged = metric::judge(&**metric, instance, samples);
                (name.as_str(), judged.map(|values| answer.scores.extend(values)))
            }
            Step::Function(name, function) => {
                let before = (answer.scores.clone(), answer.columns.clone());
                let called = catch_unwind(AssertUnwindSafe(|| function(&mut answer)));
                let outcome = called.unwrap_or_else(|_| Err("the function panicked".to_owned())).and_then(|()| {
                    match answer.scores.iter().find(|(_, value)| !value.is_finite()) {
                        Some((name, value)) => {
                            Err(format!("the function gave {name} = {value}, which is not a finite number"))
                        }
                        None => Ok(()),
                    }
                });
                if outcome.is_err() {
                    (answer.scores, answer.columns) = before;
                }
                (name.as_str(), outcome)
            }
            Step::Scale(scale, extract) => (
                "score",
                judged(scale, extract.as_ref(), samples).map(|score| {
                    answer.scores.insert("score".to_owned(), score);
                }),
            ),
        };
        if let Err(reason) = outcome {
            errors.insert(name.to_owned(), reason);
        }
    }
    Evaluated { scores: answer.scores, errors, columns: answer.columns }
}

/// The mean of what several replies of a judge say; those that say nothing do not count.
fn judged(scale: &Scale, extract: Option<&Regex>, samples: &[Sample]) -> Result<f64, String> {
    let said: Vec<Result<f64, String>> = samples.iter().map(|sample| scale.read(&sample.text, extract)).collect();
    let numbers: Vec<f64> = said.iter().filter_map(|said| said.as_ref().ok().copied()).collect();
    match numbers.is_empty() {
        false => Ok(numbers.iter().sum::<f64>() / numbers.len() as f64),
        true => Err(said.into_iter().find_map(Result::err).unwrap_or_else(|| "there is no reply".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::FinishReason;
    use serde_json::json;

    fn run(steps: &[Step], row: Value, texts: &[&str]) -> Evaluated {
        let Value::Object(map) = row else { panic!("a row") };
        let samples: Vec<Sample> = texts.iter().map(|text| Sample::new(*text, FinishReason::STOP, 1)).collect();
        evaluate(steps, "7", &Fields::from(map), &samples, &json!(texts[0]))
    }

    fn metric(text: &str) -> Step {
        let declared = Declared::parse(text).unwrap();
        Step::Metric(declared.name.clone(), declared.build().unwrap().metric)
    }

    #[test]
    fn a_metric_is_written_in_one_line() {
        assert_eq!(
            pieces("a=numeric:expected={{ x if y == 1 }}:tolerance=0.1"),
            ["a=numeric", "expected={{ x if y == 1 }}", "tolerance=0.1"]
        );
        assert_eq!(pieces("matches:pattern=a:b::c"), ["matches", "pattern=a:b::c"]);
        let steps = [
            metric("exact_match:expected={{ answer }}:normalize=[\"trim\"]"),
            metric("n=numeric:expected=5:tolerance=1"),
            metric("includes"),
        ];
        let done = run(&steps, json!({"answer": "4", "expected_response": "4"}), &[" 4 "]);
        assert_eq!(
            done.scores,
            BTreeMap::from([("exact_match".into(), 1.0), ("n".into(), 1.0), ("includes".into(), 1.0)])
        );
        for (text, wanted) in [
            ("exakt_match", "no metric `exakt_match`"),
            ("exact_match", "needs `expected`"),
            ("length:expcted=1", "no option `expcted`"),
        ] {
            let error = Declared::parse(text).unwrap_err();
            assert!(error.message().contains(wanted), "{error}");
        }
    }

    #[test]
    fn steps_run_in_order_and_none_loses_the_answer() {
        let function = |name: &str, function: fn(&mut Answer<'_>) -> Result<(), String>| {
            Step::Function(name.into(), Arc::new(function))
        };
        let steps = [
            metric("exact_match:expected={{ nothing }}"),
            function("length", |answer| {
                answer.scores.insert("length".into(), answer.samples[0].text.len() as f64);
                Ok(())
            }),
            function("double", |answer| {
                let length = *answer.scores.get("length").ok_or("length comes first")?;
                answer.columns.insert("double".into(), json!(length * 2.0));
                Ok(())
            }),
            function("bad", |answer| {
                answer.scores.insert("bad".into(), f64::NAN);
                Ok(())
            }),
            function("worse", |answer| answer.samples[7].text.parse::<f64>().map(drop).map_err(|e| e.to_string())),
        ];
        let done = run(&steps, json!({}), &["abc"]);
        assert_eq!(done.scores, BTreeMap::from([("length".into(), 3.0)]));
        assert_eq!(done.columns, BTreeMap::from([("double".into(), json!(6.0))]));
        assert_eq!(done.errors.keys().collect::<Vec<_>>(), ["bad", "exact_match", "worse"]);
    }

    #[test]
    fn several_replies_of_a_judge_are_averaged() {
        let step = Step::Scale(Scale::Range(1.0, 5.0), None);
        assert_eq!(run(std::slice::from_ref(&step), json!({}), &["4", "none", "5"]).scores["score"], 4.5);
        assert!(run(&[step], json!({}), &["none"]).errors["score"].contains("no number"));
    }
}
