//! What an experiment came to: its rows in the order of the input as JSON Lines, CSV and Parquet, and its sums.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::fields::{Fields, SCORE};
use super::folder::{Folder, RESULTS, Record};
use super::groups::Queued;
use crate::diagnostic::{Error, Result};
use crate::files::{Output, cannot_write};
use crate::money::Usd;

/// The mean of a score over the rows that have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// How many rows have it.
    pub rows: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.rows += 1;
        self.mean += (value - self.mean) / self.rows as f64;
    }
}

/// One group, in this run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Group {
    /// Its rows, limits and models.
    #[serde(flatten)]
    pub queued: Queued,
    /// Rows answered in this run.
    pub answered: usize,
    /// Rows that failed in this run.
    pub failed: usize,
    /// Seconds from the start of its first row to the end of its last one.
    pub seconds: f64,
    /// The same for each of its rows.
    pub seconds_per_query: Option<f64>,
}

/// `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Its name.
    pub experiment: String,
    /// The folder.
    pub folder: PathBuf,
    /// `done`, `budget`, `outage` or `interrupted`.
    pub stop_reason: String,
    /// Why the first row that did not fit the budget did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Rows of the input.
    pub rows: usize,
    /// Rows with an answer.
    pub answered: usize,
    /// Rows with an error in its place.
    pub failed: usize,
    /// Those of them that are wrong in themselves.
    pub wrong: usize,
    /// Rows that were not reached.
    pub not_reached: usize,
    /// Why rows failed.
    pub failures: BTreeMap<String, usize>,
    /// The commonest of their errors, where no row has an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commonest_error: Option<String>,
    /// Rows that ask the same as an earlier one.
    pub duplicates: usize,
    /// The cap.
    pub budget_usd: Option<Usd>,
    /// What endpoints billed, over all runs of this experiment.
    pub spent_usd: Usd,
    /// The part of that which may have been billed for nothing.
    pub lost_usd: Usd,
    /// What the answers cost, as if nothing had been stored.
    pub cost_usd: Usd,
    /// Input tokens of the answers.
    pub prompt_tokens: u64,
    /// Output tokens of the answers.
    pub completion_tokens: u64,
    /// Requests sent in this run.
    pub requests: u64,
    /// Rows that the store answered in this run.
    pub cache_hits: usize,
    /// Attempts at rows in this run.
    pub attempts: u64,
    /// Seconds of this run.
    pub seconds: f64,
    /// Seconds of this run for each of its attempts: the average time of a query.
    pub seconds_per_query: Option<f64>,
    /// Scores over all answered rows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, Mean>,
    /// A judge's scores, by judge and template.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub judged: BTreeMap<String, Mean>,
    /// By group.
    pub groups: BTreeMap<String, Group>,
    /// Models that could not be asked, or not any more, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub not_usable: BTreeMap<String, String>,
    /// How many of their rows have no answer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub not_usable_rows: BTreeMap<String, usize>,
}

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Flag,
    Whole,
    Real,
    Text,
}

impl Kind {
    fn of(value: &Value) -> Kind {
        match value {
            Value::Null => Kind::Nothing,
            Value::Bool(_) => Kind::Flag,
            Value::Number(number) if number.is_i64() => Kind::Whole,
            Value::Number(number) if number.as_f64().is_some_and(f64::is_finite) => Kind::Real,
            _ => Kind::Text,
        }
    }

    fn with(self, other: Kind) -> Kind {
        match (self, other) {
            (Kind::Nothing, kind) | (kind, Kind::Nothing) => kind,
            (one, other) if one == other => one,
            (Kind::Whole | Kind::Real, Kind::Whole | Kind::Real) => Kind::Real,
            _ => Kind::Text,
        }
    }
}

/// The columns of a table of all rows, in the order of their first appearance.
#[derive(Default)]
struct Columns {
    order: Vec<(String, Kind)>,
    places: HashMap<String, usize>,
}

impl Columns {
    fn note(&mut self, fields: Fields) {
        for (name, value) in flat(fields) {
            let at = match self.places.get(&name) {
                Some(at) => *at,
                None => {
                    self.order.push((name.clone(), Kind::Nothing));
                    self.places.insert(name, self.order.len() - 1);
                    self.order.len() - 1
                }
            };
            self.order[at].1 = self.order[at].1.with(Kind::of(&value));
        }
    }

    /// A row's values, one for each column.
    fn row(&self, fields: Fields) -> Vec<Value> {
        let mut row = vec![Value::Null; self.order.len()];
        for (name, value) in flat(fields) {
            if let Some(at) = self.places.get(&name) {
                row[*at] = value;
            }
        }
        row
    }
}

/// A record's columns with each score in one of its own.
fn flat(fields: Fields) -> impl Iterator<Item = (String, Value)> {
    let one = |(name, value): (String, Value)| match (name.as_str(), value) {
        ("scores", Value::Object(scores)) => {
            scores.into_iter().map(|(name, value)| (format!("{SCORE}{name}"), value)).collect()
        }
        (_, value) => vec![(name, value)],
    };
    fields.0.into_iter().flat_map(one)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// So many different errors are told apart.
const ERRORS: usize = 1000;

/// Writes `results.jsonl`, `results.csv` and (where built with it) `results.parquet`, each by one rename, and adds what
/// the rows say to the summary. No row but one is in memory at a time.
pub fn write(folder: &mut Folder, records: &[Option<Record>], summary: &mut Summary) -> Result<()> {
    folder.flush()?;
    let path = folder.path().join(RESULTS);
    let mut columns = Columns::default();
    let mut errors: HashMap<String, usize> = HashMap::new();
    whole(&path, |out| {
        let mut text = String::new();
        for record in records.iter().flatten() {
            folder.lasting(*record, &mut text)?;
            put(out, text.as_bytes(), &path)?;
            put(out, b"\n", &path)?;
            let fields = Fields::shown(&text)
                .map_err(|error| Error::internal(format!("a record cannot be read again: {error}")))?;
            count(&fields, summary);
            if let Some(error) = fields.get("error").and_then(Value::as_str)
                && (errors.len() < ERRORS || errors.contains_key(error))
            {
                *errors.entry(error.to_owned()).or_insert(0) += 1;
            }
            columns.note(fields);
        }
        Ok(())
    })?;
    if summary.answered == 0 {
        let commonest = errors.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0)));
        summary.commonest_error = commonest.map(|(error, _)| error);
    }
    let table = folder.path().join("results.csv");
    whole(&table, |out| {
        let mut csv = csv::Writer::from_writer(out);
        let broken = |error: csv::Error| Error::usage(format!("cannot write {}: {error}", table.display()));
        csv.write_record(columns.order.iter().map(|(name, _)| name)).map_err(broken)?;
        each(&path, |fields| csv.write_record(columns.row(fields).iter().map(cell)).map_err(broken))?;
        csv.flush().map_err(|error| broken(error.into()))
    })?;
    parquet(&path, &columns, &folder.path().join("results.parquet"))
}

fn put(out: &mut impl Write, bytes: &[u8], path: &Path) -> Result<()> {
    out.write_all(bytes).map_err(|error| cannot_write(path, &error))
}

/// Writes a file that appears whole.
fn whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let (output, file) = Output::create(path)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    write(&mut out)?;
    out.flush().map_err(|error| cannot_write(path, &error))?;
    output.finish()
}

/// Goes through the rows of a file of records.
fn each(path: &Path, mut row: impl FnMut(Fields) -> Result<()>) -> Result<()> {
    let broken = |error: std::io::Error| Error::usage(format!("cannot read {}: {error}", path.display()));
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(broken)?);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).map_err(broken)? == 0 {
            return Ok(());
        }
        row(Fields::shown(&line).map_err(|error| Error::internal(format!("a record cannot be read again: {error}")))?)?;
    }
}

/// Adds one record to the sums.
fn count(fields: &Fields, summary: &mut Summary) {
    let whole = |name: &str| fields.get(name).and_then(Value::as_u64).unwrap_or(0);
    match fields.get("error_kind").and_then(Value::as_str) {
        Some(kind) if fields.get("status").and_then(Value::as_str) == Some("failed") => {
            summary.failed += 1;
            summary.wrong += usize::from(kind == "wrong_row");
            *summary.failures.entry(kind.to_owned()).or_insert(0) += 1;
        }
        _ => summary.answered += 1,
    }
    summary.prompt_tokens += whole("prompt_tokens");
    summary.completion_tokens += whole("completion_tokens");
    summary.cost_usd += fields.get("cost_usd").and_then(|cost| cost.as_str()?.parse().ok()).unwrap_or(Usd::ZERO);
    let Some(Value::Object(scores)) = fields.get("scores") else { return };
    for (name, value) in scores {
        let Some(value) = value.as_f64() else { continue };
        summary.scores.entry(name.clone()).or_default().add(value);
        if name == "score"
            && let Some(judge) = fields.get("judge").and_then(Value::as_str)
        {
            let template = fields.get("template_name").map(cell).unwrap_or_default();
            summary.judged.entry(format!("{judge}/{template}")).or_default().add(value);
        }
    }
}

/// Rows of one group of a Parquet file.
#[cfg(feature = "parquet")]
const ROWS: usize = 8192;

#[cfg(feature = "parquet")]
fn parquet(rows: &Path, columns: &Columns, path: &Path) -> Result<()> {
    use polars::prelude::{DataFrame, DataType, Field, ParquetWriter, PolarsError, Schema};
    let broken = |error: PolarsError| Error::internal(format!("cannot write {}: {error}", path.display()));
    let dtype = |kind: Kind| match kind {
        Kind::Flag => DataType::Boolean,
        Kind::Whole => DataType::Int64,
        Kind::Real => DataType::Float64,
        Kind::Nothing | Kind::Text => DataType::String,
    };
    let schema: Schema =
        columns.order.iter().map(|(name, kind)| Field::new(name.as_str().into(), dtype(*kind))).collect();
    whole(path, |out| {
        let mut writer = ParquetWriter::new(out).batched(&schema).map_err(broken)?;
        let mut held: Vec<Vec<Value>> = Vec::with_capacity(ROWS);
        let mut put = |held: &mut Vec<Vec<Value>>| {
            let height = held.len();
            let series = |(at, (name, kind)): (usize, &(String, Kind))| column(name, *kind, held, at);
            let frame =
                DataFrame::new(height, columns.order.iter().enumerate().map(series).collect()).map_err(broken)?;
            held.clear();
            writer.write_batch(&frame).map_err(broken)
        };
        each(rows, |fields| {
            held.push(columns.row(fields));
            if held.len() == ROWS { put(&mut held) } else { Ok(()) }
        })?;
        if !held.is_empty() {
            put(&mut held)?;
        }
        writer.finish().map(drop).map_err(broken)
    })
}

#[cfg(feature = "parquet")]
fn column(name: &str, kind: Kind, rows: &[Vec<Value>], at: usize) -> polars::prelude::Column {
    use polars::prelude::Column;
    let values = rows.iter().map(|row| &row[at]);
    match kind {
        Kind::Flag => Column::new(name.into(), values.map(Value::as_bool).collect::<Vec<_>>()),
        Kind::Whole => Column::new(name.into(), values.map(Value::as_i64).collect::<Vec<_>>()),
        Kind::Real => Column::new(name.into(), values.map(Value::as_f64).collect::<Vec<_>>()),
        Kind::Nothing | Kind::Text => {
            let text = |value: &Value| (!value.is_null()).then(|| cell(value));
            Column::new(name.into(), values.map(text).collect::<Vec<_>>())
        }
    }
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &Path, _: &Columns, _: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn columns_are_joined_and_scores_stand_apart() {
        let mut columns = Columns::default();
        for text in [r#"{"b":1,"a":"x","scores":{"m":1.0}}"#, r#"{"b":2.5,"c":true,"a":3}"#, r#"{"c":null,"b":null}"#] {
            columns.note(fields(text));
        }
        let order: Vec<(&str, Kind)> = columns.order.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        assert_eq!(order, [("b", Kind::Real), ("a", Kind::Text), ("score-m", Kind::Real), ("c", Kind::Flag)]);
        let row = columns.row(fields(r#"{"c":true,"a":["x"]}"#));
        assert_eq!(row.iter().map(cell).collect::<Vec<_>>(), ["", "[\"x\"]", "", "true"]);
    }

    #[test]
    fn records_are_counted() {
        let mut summary = Summary::default();
        for text in [
            r#"{"status":"ok","cost_usd":"0.5","prompt_tokens":3,"scores":{"score":4},"judge":"j","template_name":"t"}"#,
            r#"{"status":"ok","cost_usd":"0.25","prompt_tokens":4,"scores":{"score":5},"judge":"j","template_name":"t","error_kind":"carried"}"#,
            r#"{"status":"failed","error_kind":"timeout","error":"x"}"#,
            r#"{"status":"failed","error_kind":"wrong_row","error":"x"}"#,
        ] {
            count(&fields(text), &mut summary);
        }
        assert_eq!((summary.answered, summary.failed, summary.wrong, summary.prompt_tokens), (2, 2, 1, 7));
        assert_eq!((summary.cost_usd.to_string(), summary.judged["j/t"]), ("0.75".into(), Mean { mean: 4.5, rows: 2 }));
        assert_eq!(summary.failures["timeout"], 1);
    }
}
