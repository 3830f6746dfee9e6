//! The observations: a row an evaluation, for notebooks. `observations.parquet`, or `observations.csv` where farthing was
//! built without Parquet.
//!
//! Nothing in it depends on timing or on the cache, so the files of two equal studies are the same.

use std::collections::BTreeSet;
use std::path::Path;

use crate::diagnostic::{Error, Result};
use crate::study::Outcome;

/// The values of one column; `None` is null.
enum Column {
    Text(Vec<Option<String>>),
    Whole(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
}

/// The columns before and after those of the metrics.
const BEFORE: [&str; 3] = ["trial", "configuration", "instance"];
const AFTER: [&str; 9] = [
    "failure",
    "message",
    "cost_usd",
    "cost_pico",
    "production_usd",
    "production_pico",
    "prompt_tokens",
    "completion_tokens",
    "fingerprint",
];

/// Every column with its name, in the file's order; the rows trial by trial, in the order of asking.
fn columns(outcome: &Outcome) -> Vec<(String, Column)> {
    let all = || outcome.trials.iter().flat_map(|trial| trial.evaluations.iter().map(move |done| (trial, done)));
    let instances = &outcome.workload.task.tune;
    let whole = |number: u64| i64::try_from(number).ok();
    let mut columns: Vec<(String, Column)> = Vec::new();
    let mut add = |name: &str, column: Column| columns.push((name.to_owned(), column));
    add("trial", Column::Whole(all().map(|(trial, _)| whole(trial.number as u64)).collect()));
    let ids: Vec<String> = outcome.trials.iter().map(|trial| trial.configuration.short_id()).collect();
    let id_of =
        outcome.trials.iter().zip(&ids).flat_map(|(trial, id)| trial.evaluations.iter().map(|_| Some(id.clone())));
    add("configuration", Column::Text(id_of.collect()));
    add(
        "instance",
        Column::Text(all().map(|(_, done)| instances.get(done.instance).map(|row| row.id.clone())).collect()),
    );
    let metrics: BTreeSet<&String> =
        all().filter_map(|(_, done)| done.result.as_ref().ok()).flat_map(|all| all.keys()).collect();
    let mut taken: BTreeSet<String> = BEFORE.iter().chain(&AFTER).map(|name| (*name).to_owned()).collect();
    for metric in metrics {
        let values =
            all().map(|(_, done)| done.result.as_ref().ok()?.get(metric).copied().filter(|value| value.is_finite()));
        // A metric may be named like a column of ours.
        let mut name = metric.clone();
        while !taken.insert(name.clone()) {
            name = format!("metric.{name}");
        }
        add(&name, Column::Real(values.collect()));
    }
    let failure = |done: &crate::study::pipeline::Finished| done.result.as_ref().err().cloned();
    add(
        "failure",
        Column::Text(all().map(|(_, done)| failure(done).map(|failure| failure.kind.word().to_owned())).collect()),
    );
    add("message", Column::Text(all().map(|(_, done)| failure(done).map(|failure| failure.message)).collect()));
    add("cost_usd", Column::Real(all().map(|(_, done)| Some(done.cost.as_f64())).collect()));
    add("cost_pico", Column::Whole(all().map(|(_, done)| Some(done.cost.pico())).collect()));
    add("production_usd", Column::Real(all().map(|(_, done)| Some(done.production?.as_f64())).collect()));
    add("production_pico", Column::Whole(all().map(|(_, done)| Some(done.production?.pico())).collect()));
    // Tokens of what was not answered are not 0 but unknown.
    let answered = |done: &crate::study::pipeline::Finished, tokens: u64| done.production.and_then(|_| whole(tokens));
    add("prompt_tokens", Column::Whole(all().map(|(_, done)| answered(done, done.prompt_tokens)).collect()));
    add("completion_tokens", Column::Whole(all().map(|(_, done)| answered(done, done.completion_tokens)).collect()));
    add("fingerprint", Column::Text(all().map(|(_, done)| Some(done.fingerprint?.to_string())).collect()));
    columns
}

/// Writes the observations of a study into a folder, and gives the file's name.
pub fn write(folder: &Path, outcome: &Outcome) -> Result<&'static str> {
    let (name, bytes) = encode(outcome)?;
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|error| Error::usage(format!("cannot write {}: {error}", path.display())))?;
    Ok(name)
}

/// The observations of a study as a file: its name and its bytes.
///
/// The columns: `trial`, `configuration` (its short name), `instance`, one a metric by its name (with `metric.` before it
/// where it is named like another column), `failure` (a word) and `message`, `cost_usd` and `cost_pico` (what the study
/// paid), `production_usd` and `production_pico` (what production would pay), `prompt_tokens`, `completion_tokens`,
/// `fingerprint`. What is missing is null.
#[cfg(feature = "parquet")]
pub fn encode(outcome: &Outcome) -> Result<(&'static str, Vec<u8>)> {
    use polars::prelude::{Column as Series, DataFrame, ParquetWriter, PolarsError};
    let broken = |error: PolarsError| Error::internal(format!("cannot write the observations as Parquet: {error}"));
    let series = |(name, column): (String, Column)| match column {
        Column::Text(values) => Series::new(name.into(), values),
        Column::Whole(values) => Series::new(name.into(), values),
        Column::Real(values) => Series::new(name.into(), values),
    };
    let columns: Vec<Series> = columns(outcome).into_iter().map(series).collect();
    let height = columns.first().map_or(0, Series::len);
    let mut frame = DataFrame::new(height, columns).map_err(broken)?;
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).map_err(broken)?;
    Ok(("observations.parquet", bytes))
}

/// The observations of a study as a file: its name and its bytes. See the documentation with the feature `parquet`.
#[cfg(not(feature = "parquet"))]
pub fn encode(outcome: &Outcome) -> Result<(&'static str, Vec<u8>)> {
    let columns = columns(outcome);
    let broken = |error: String| Error::internal(format!("cannot write the observations as CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns.iter().map(|(name, _)| name)).map_err(|error| broken(error.to_string()))?;
    let height = match columns.first() {
        Some((_, Column::Whole(values))) => values.len(),
        _ => 0,
    };
    for row in 0..height {
        let cell = |(_, column): &(String, Column)| match column {
            Column::Text(values) => values[row].clone(),
            Column::Whole(values) => values[row].map(|value| value.to_string()),
            Column::Real(values) => values[row].map(|value| format!("{value:?}")),
        };
        let record = columns.iter().map(|column| cell(column).unwrap_or_default());
        writer.write_record(record).map_err(|error| broken(error.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|error| broken(error.to_string()))?;
    Ok(("observations.csv", bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Failure, FailureKind};
    use crate::report::testing;

    /// A study with a failure in it.
    fn outcome() -> Outcome {
        let mut outcome = testing::outcome();
        let done = &mut outcome.trials[0].evaluations[0];
        done.result = Err(Failure::new(FailureKind::Timeout, "no answer in 60 s, \"really\""));
        done.production = None;
        let done = &mut outcome.trials[0].evaluations[1];
        let metrics = done.result.as_mut().unwrap();
        metrics.insert("instance".to_owned(), 7.5);
        let task = &outcome.workload.task;
        outcome.ranking = crate::study::ranking::rank(&outcome.trials, &task.objective, task.tune.len(), None);
        outcome
    }

    #[test]
    fn the_same_study_gives_the_same_bytes() {
        let (name, bytes) = encode(&outcome()).unwrap();
        assert!(name.starts_with("observations."));
        assert_eq!(bytes, encode(&outcome()).unwrap().1);
    }

    #[cfg(not(feature = "parquet"))]
    #[test]
    fn without_parquet_it_is_csv() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = outcome();
        let name = write(folder.path(), &outcome).unwrap();
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        let header = "trial,configuration,instance,exact,metric.instance,letters,failure,message,cost_usd,cost_pico,production_usd,production_pico,prompt_tokens,completion_tokens,fingerprint";
        assert_eq!(text.lines().next().unwrap(), header);
        assert_eq!(text.lines().count() - 1, outcome.trials.iter().map(|trial| trial.evaluations.len()).sum::<usize>());
        let first = text.lines().nth(1).unwrap();
        assert!(first.contains(",,,,timeout,\"no answer in 60 s, \"\"really\"\"\","), "{first}");
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn means_of_the_file_are_the_scores_of_the_ranking() {
        use polars::prelude::*;
        let folder = tempfile::tempdir().unwrap();
        let outcome = outcome();
        let name = write(folder.path(), &outcome).unwrap();
        let file = std::fs::File::open(folder.path().join(name)).unwrap();
        let frame = ParquetReader::new(file).finish().unwrap();
        let names: Vec<&str> = frame.get_column_names().into_iter().map(|name| name.as_str()).collect();
        let metrics = ["exact", "metric.instance", "letters"];
        assert_eq!(names, BEFORE.iter().chain(&metrics).chain(&AFTER).copied().collect::<Vec<_>>());
        assert_eq!(frame.column("failure").unwrap().get(0).unwrap(), AnyValue::String("timeout"));
        assert!(frame.column("exact").unwrap().get(0).unwrap().is_null());
        assert_eq!(frame.column("metric.instance").unwrap().get(1).unwrap(), AnyValue::Float64(7.5));
        // The lazy frames that should do this need far more of polars than these two lines.
        #[allow(deprecated)]
        let means = frame.group_by(["configuration"]).unwrap().select(["exact"]).mean().unwrap();
        let ids = means.column("configuration").unwrap().str().unwrap().clone();
        let values = means.column("exact_mean").unwrap().f64().unwrap().clone();
        let rows = crate::report::rows(&outcome);
        assert_eq!(means.height(), rows.iter().filter(|row| row.instances + row.missing > 0).count());
        for (id, mean) in ids.iter().zip(values.iter()) {
            let row = rows.iter().find(|row| Some(row.id.as_str()) == id).unwrap();
            match (row.score, mean) {
                (Some(score), Some(mean)) => assert!((score - mean).abs() < 1e-12, "{id:?}: {score} {mean}"),
                (score, mean) => assert_eq!(score, mean),
            }
        }
        let pico: i64 = frame.column("cost_pico").unwrap().i64().unwrap().sum().unwrap();
        assert_eq!(pico, outcome.summary.search_cost_usd.pico());
    }
}
