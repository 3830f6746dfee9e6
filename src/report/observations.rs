//! The observations: a row an evaluation, for notebooks. `observations.parquet`, or `observations.csv` where farthing was
//! built without Parquet.
//!
//! Nothing in it depends on timing or on the cache, so the files of two equal studies are the same.

use std::collections::BTreeSet;
use std::path::Path;

use crate::diagnostic::{Error, Result};
use crate::provider::Failure;
use crate::study::Outcome;
use crate::study::trial::{Evaluation, Trial};

/// One column: what it says of an evaluation; `None` is null.
enum Column<'a> {
    Text(Get<'a, String>),
    Whole(Get<'a, i64>),
    Real(Get<'a, f64>),
}

/// What a row has in a column. Rows are made where they are written, for there may be a million of them.
type Get<'a, T> = Box<dyn Fn(&Row) -> Option<T> + 'a>;

/// One evaluation with its trial's place among all.
struct Row<'a> {
    at: usize,
    trial: &'a Trial,
    /// Its place among the trial's evaluations.
    number: usize,
    done: &'a Evaluation,
}

/// Every row, trial by trial, in the order of asking.
fn rows(outcome: &Outcome) -> impl Iterator<Item = Row<'_>> {
    outcome.trials.iter().enumerate().flat_map(|(at, trial)| {
        trial.evaluations.iter().enumerate().map(move |(number, done)| Row { at, trial, number, done })
    })
}

/// Every column with its name, in the file's order.
fn columns(outcome: &Outcome) -> Vec<(String, Column<'_>)> {
    let instances = &outcome.workload.task.tune;
    let whole = |number: u64| i64::try_from(number).ok();
    let ids: Vec<String> = outcome.trials.iter().map(|trial| trial.configuration.short_id()).collect();
    let before: [(&str, Column); 3] = [
        ("trial", Column::Whole(Box::new(move |row| whole(row.trial.number as u64)))),
        ("configuration", Column::Text(Box::new(move |row| Some(ids[row.at].clone())))),
        ("instance", Column::Text(Box::new(|row| Some(instances.get(row.done.instance())?.id.clone())))),
    ];
    fn failure<'a>(row: &Row<'a>) -> Option<&'a Failure> {
        row.done.result.as_ref().err().map(|failure| &**failure)
    }
    // Tokens of what was not answered are not 0 but unknown.
    let answered = move |row: &Row<'_>, tokens: u64| row.done.production().and_then(|_| whole(tokens));
    let fingerprint = |row: &Row<'_>| Some((*row.trial.fingerprints.get(row.number)?)?.to_string());
    let after: [(&str, Column); 9] = [
        ("failure", Column::Text(Box::new(|row| Some(failure(row)?.kind.word().to_owned())))),
        ("message", Column::Text(Box::new(|row| Some(failure(row)?.message.clone())))),
        ("cost_usd", Column::Real(Box::new(|row| Some(row.done.cost.as_f64())))),
        ("cost_pico", Column::Whole(Box::new(|row| Some(row.done.cost.pico())))),
        ("production_usd", Column::Real(Box::new(|row| Some(row.done.production()?.as_f64())))),
        ("production_pico", Column::Whole(Box::new(|row| Some(row.done.production()?.pico())))),
        ("prompt_tokens", Column::Whole(Box::new(move |row| answered(row, row.done.prompt_tokens())))),
        ("completion_tokens", Column::Whole(Box::new(move |row| answered(row, row.done.completion_tokens())))),
        ("fingerprint", Column::Text(Box::new(fingerprint))),
    ];
    let mut metrics: BTreeSet<&String> = BTreeSet::new();
    for scores in rows(outcome).filter_map(|row| row.done.result.as_ref().ok()) {
        metrics.extend(scores.keys());
    }
    let mut taken: BTreeSet<String> = before.iter().chain(&after).map(|(name, _)| (*name).to_owned()).collect();
    let mut between = Vec::new();
    for metric in metrics {
        // A metric may be named like a column of ours.
        let mut name = metric.clone();
        while !taken.insert(name.clone()) {
            name = format!("metric.{name}");
        }
        let value =
            move |row: &Row<'_>| row.done.result.as_ref().ok()?.get(metric).copied().filter(|value| value.is_finite());
        between.push((name, Column::Real(Box::new(value))));
    }
    let named = |(name, column): (&str, _)| (name.to_owned(), column);
    before.into_iter().map(named).chain(between).chain(after.into_iter().map(named)).collect()
}

/// Writes the observations of a study into a folder, and gives the file's name.
pub fn write(folder: &Path, outcome: &Outcome) -> Result<&'static str> {
    let (name, bytes) = encode(outcome)?;
    let path = folder.join(name);
    crate::files::replace(&path, &bytes)?;
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
    fn values<T>(outcome: &Outcome, of: &Get<'_, T>) -> Vec<Option<T>> {
        rows(outcome).map(|row| of(&row)).collect()
    }
    // One after the other: the values of a column take several times the room of what it becomes.
    let series = |(name, column): (String, Column<'_>)| match column {
        Column::Text(of) => Series::new(name.into(), values(outcome, &of)),
        Column::Whole(of) => Series::new(name.into(), values(outcome, &of)),
        Column::Real(of) => Series::new(name.into(), values(outcome, &of)),
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
    for row in rows(outcome) {
        let cell = |(_, column): &(String, Column<'_>)| match column {
            Column::Text(of) => of(&row),
            Column::Whole(of) => of(&row).map(|value| value.to_string()),
            Column::Real(of) => of(&row).map(|value| format!("{value:?}")),
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
    use crate::provider::FailureKind;
    use crate::report::testing;
    use crate::study::agenda::Finished;

    const HEADER: &str = "trial,configuration,instance,exact,metric.instance,letters,failure,message,cost_usd,cost_pico,production_usd,production_pico,prompt_tokens,completion_tokens,fingerprint";

    /// A study with a failure in it.
    fn outcome() -> Outcome {
        let mut outcome = testing::outcome();
        let done = &mut outcome.trials[0].evaluations[0];
        let failure = Failure::new(FailureKind::Timeout, "no answer in 60 s, \"really\"");
        *done = Finished { cost: done.cost, ..Finished::failed(0, done.instance(), failure) }.into();
        let done = &mut outcome.trials[0].evaluations[1];
        let mut metrics = crate::metric::Metrics::from(done.result.as_ref().unwrap());
        metrics.insert("instance".to_owned(), 7.5);
        done.result = Ok(metrics.into());
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
        assert_eq!(text.lines().next().unwrap(), HEADER);
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
        assert_eq!(names.join(","), HEADER);
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
