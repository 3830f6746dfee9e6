//! `task.toml`: a task as a folder.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use crate::declaration;
use crate::diagnostic::{Error, Result, Source, suggestion};
use crate::task::metric_table::MetricTable;
use crate::task::objective_section::ObjectiveSection;
use crate::task::{Instance, Task, data};

/// The sections of a `task.toml` other than `[metrics.*]`, which room `metric` reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    task: TaskSection,
    data: DataSection,
    objective: ObjectiveSection,
    /// Read as [`MetricTable`]s; it stands here to be named where a section is misspelt.
    #[serde(default, rename = "metrics")]
    #[schemars(skip)]
    _metrics: IgnoredAny,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TaskSection {
    /// Names the run's folder and, where no space is given, the space's file.
    #[schemars(with = "String")]
    name: Spanned<String>,
    /// What the task is about, for people.
    description: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DataSection {
    /// The instances to tune on: JSON Lines, CSV or Parquet (by the ending; .gz and .zst too), relative to this file.
    #[schemars(with = "String")]
    tune: Spanned<String>,
    /// The instances to test on. Without it, a share of the tuning file is kept for testing (`holdout`).
    #[schemars(with = "Option<String>")]
    test: Option<Spanned<String>>,
    /// The column that names an instance; else its row number.
    id: Option<String>,
    /// The share of the tuning file that becomes the test split where `test` is not given, chosen by hash of the id (default 0.25).
    #[schemars(with = "Option<f64>")]
    holdout: Option<Spanned<f64>>,
    /// A column whose values are spread evenly over the order in which instances are looked at.
    #[schemars(with = "Option<String>")]
    stratify: Option<Spanned<String>>,
}

/// The share of the instances that is the test split where no file is given for it.
const HOLDOUT: f64 = 0.25;

/// Loads a task from its folder, or from the path of its `task.toml`.
pub fn load(path: &Path) -> Result<Task> {
    let is_file = path.is_file() || path.extension().is_some_and(|ending| ending == "toml");
    let file = if is_file { path.to_owned() } else { path.join("task.toml") };
    if !file.exists() {
        return Err(Error::usage(format!("there is no task at {}", path.display()))
            .help(format!("a task is a folder with a task.toml; looked for {}", file.display())));
    }
    // The folder of a bare file name is "".
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let source = Source::read(&file)?;
    let root = declaration::parse(&source)?;
    let metrics = MetricTable::all(&source, root.get_ref(), &folder)?;
    let spec: TaskFile = declaration::read(&source, root)?;
    if metrics.is_empty() {
        return Err(Error::usage(format!("{} defines no metric", source.name()))
            .help("add a table like [metrics.accuracy] with type = \"exact_match\""));
    }
    let name = spec.task.name.get_ref();
    if name.is_empty() || name.chars().any(|c| c.is_control() || "/\\:*?\"<>|".contains(c)) || name.starts_with('.') {
        return Err(Error::usage("a task's name becomes a folder's: letters, digits, dash and underscore serve best")
            .at(&source, spec.task.name.span(), "this name"));
    }
    let (tune, test) = splits(&source, &folder, &spec.data)?;
    let (objective, objective_span, objective_names) = spec.objective.read(&source, &metrics)?;
    // A metric that yields several values (a program's) names them itself, so only a lone unknown name is wrong for sure.
    let task = Task {
        name: name.clone(),
        description: spec.task.description.unwrap_or_default(),
        folder,
        tune: tune.into(),
        test: test.into(),
        objective,
        metrics,
        id: spec.data.id.clone(),
        stratify: spec.data.stratify.as_ref().map(|column| column.get_ref().clone()),
        source: Some(source.clone()),
        objective_span,
        objective_names,
    };
    if let Some(column) = &spec.data.stratify {
        check_column(&source, column, &task.tune)?;
    }
    Ok(task)
}

fn splits(source: &Source, folder: &Path, spec: &DataSection) -> Result<(Vec<Instance>, Vec<Instance>)> {
    let id = spec.id.as_deref();
    let read = |file: &Spanned<String>| {
        let path = folder.join(file.get_ref());
        if !path.is_file() {
            return Err(Error::usage(format!("there is no file {}", path.display()))
                .at(source, file.span(), "named here")
                .help("paths are relative to the task.toml"));
        }
        data::load(&path, id)
    };
    let tune = read(&spec.tune)?;
    if let Some(test) = &spec.test {
        if let Some(holdout) = &spec.holdout {
            return Err(Error::usage("`holdout` has no meaning where `test` names a file").at(
                source,
                holdout.span(),
                "take this out, or the file",
            ));
        }
        return Ok((tune, read(test)?));
    }
    let holdout = spec.holdout.as_ref().map_or(HOLDOUT, |share| *share.get_ref());
    if !(0.0..1.0).contains(&holdout) {
        let span = spec.holdout.as_ref().map_or(0..0, Spanned::span);
        return Err(
            Error::usage(format!("holdout is {holdout}, and must be at least 0 and below 1")).at(source, span, "here")
        );
    }
    hold_out(tune, holdout)
}

/// Splits instances into tuning and test, by hash of the id.
pub fn hold_out(instances: Vec<Instance>, holdout: f64) -> Result<(Vec<Instance>, Vec<Instance>)> {
    let (test, tune): (Vec<_>, Vec<_>) = instances.into_iter().partition(|instance| held_out(&instance.id, holdout));
    if tune.is_empty() {
        return Err(Error::usage("the test split took every instance, so none is left to tune on")
            .help("add instances, lower `holdout`, or give a file for `test`"));
    }
    Ok((tune, test))
}

/// True for about the share `holdout` of all ids, the same ones for ever: adding instances moves none between the splits.
fn held_out(id: &str, holdout: f64) -> bool {
    let hash = blake3::hash(id.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    (u64::from_le_bytes(first) as f64 / u64::MAX as f64) < holdout
}

fn check_column(source: &Source, column: &Spanned<String>, instances: &[Instance]) -> Result<()> {
    let columns: BTreeSet<&str> = instances.iter().flat_map(|row| row.fields.keys().map(String::as_str)).collect();
    if columns.contains(column.get_ref().as_str()) {
        return Ok(());
    }
    Err(Error::usage(format!("no instance has a column `{}`", column.get_ref()))
        .at(source, column.span(), "this column")
        .help(suggestion(column.get_ref(), columns.iter().copied())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(toml: &str, rows: usize) -> Result<Task> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("task.toml"), toml).unwrap();
        let data: String = (0..rows).map(|row| format!("{{\"id\": \"r{row}\", \"answer\": {row}}}\n")).collect();
        std::fs::write(folder.path().join("tune.jsonl"), data).unwrap();
        load(folder.path())
    }

    const GOOD: &str = "[task]\nname = 't'\n[data]\ntune = 'tune.jsonl'\nid = 'id'\n[objective]\nmetric = 'accuracy'\n[metrics.accuracy]\ntype = 'exact_match'\nexpected = '{{ answer }}'\n";

    #[test]
    fn a_quarter_is_held_out_by_hash_of_the_id() {
        let task = task(GOOD, 400).unwrap();
        assert_eq!(task.tune.len() + task.test.len(), 400);
        assert!((70..130).contains(&task.test.len()), "{}", task.test.len());
        assert!(held_out("r1", 1.0 - f64::EPSILON) && !held_out("r1", 0.0));
    }

    #[test]
    fn faults_point_at_their_place() {
        let edit = |from: &str, to: &str| {
            let error = task(&GOOD.replace(from, to), 8).unwrap_err();
            let place = error.location().unwrap_or_default();
            format!("{} | {error}", place.rsplit_once('/').map_or("", |(_, file)| file))
        };
        assert_eq!(edit("tune.jsonl", "tuna.jsonl").split(" /").next(), Some("task.toml:4:8 | there is no file"));
        assert_eq!(
            edit("id = 'id'", "holdout = 1.5"),
            "task.toml:5:11 | holdout is 1.5, and must be at least 0 and below 1"
        );
        assert_eq!(edit("id = 'id'", "stratify = 'kind'"), "task.toml:5:12 | no instance has a column `kind`");
        assert_eq!(edit("name = 't'", "name = 'a/b'").split(':').nth(1), Some("2"));
        assert_eq!(edit("[objective]", "[objectiv]"), "task.toml:6:2 | unknown key `objectiv`");
        let misspelt = task(&format!("{GOOD}[metrix.x]\ntype = 'length'\n"), 8).unwrap_err();
        assert_eq!((misspelt.message(), misspelt.advice()), ("unknown key `metrix`", Some("did you mean `metrics`?")));
        assert_eq!(
            edit("metric = 'accuracy'", "metric = 'accuracy'\ndirection = 'maximise'"),
            "task.toml:8:13 | `maximise` is none of the words known here"
        );
    }
}
