//! `--try FILE` and `--from RUN`: configurations that a study tries first.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use crate::cli::{inputs, report};
use crate::declaration::{self, Table};
use crate::diagnostic::{Error, Result, Source};
use crate::evaluate::Workload;
use crate::space::{Configuration, Space};
use crate::study::{Standing, folder};

/// So many of the best configurations of an earlier run are tried.
const BEST: usize = 5;

/// What is to be tried first: the configurations of the files, then the best of earlier runs, each once, the baseline left
/// out. What does not fit any more of an earlier run is said on standard error, unless `quiet`.
pub fn configurations(
    files: &[PathBuf],
    runs: &[PathBuf],
    workload: &Workload,
    space: &Space,
    quiet: bool,
) -> Result<Vec<Configuration>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(of_file(file, space)?);
    }
    for run in runs {
        let (found, left_out) = of_run(run, workload, space)?;
        if !quiet {
            left_out.iter().for_each(|note| say!("Note: {note}"));
        }
        all.extend(found);
    }
    let mut seen: HashSet<String> = space.baseline.iter().map(Configuration::key).collect();
    all.retain(|configuration| seen.insert(configuration.key()));
    Ok(all)
}

/// The configurations of a file: a `[config]` table (of a best.toml, whose other parts are not looked at), or several
/// `[[config]]`. What one does not set is the constant's, else the baseline's.
fn of_file(path: &Path, space: &Space) -> Result<Vec<Configuration>> {
    let source = Source::read(path)?;
    let mut root = declaration::parse(&source)?;
    let Some((key, value)) = declaration::take(&mut root, "config") else {
        return Err(Error::usage(format!("{} has no [config]", source.name()))
            .help("a file to try holds [config] with the parameters by name, or several [[config]]"));
    };
    for known in ["task", "request"] {
        declaration::take(&mut root, known);
    }
    if let Some((key, _)) = root.get_ref().iter().next() {
        return Err(Error::usage(format!("unknown key `{}`", key.get_ref()))
            .at(&source, key.span(), "not known here")
            .help("a file to try holds [config] with the parameters by name, or several [[config]]"));
    }
    let span = value.span();
    let tables: Vec<Table<'_>> = match value.into_inner() {
        DeValue::Array(items) => {
            items.into_iter().map(|item| declaration::as_table(&source, "config", item)).collect::<Result<_>>()?
        }
        other => vec![declaration::as_table(&source, "config", Spanned::new(span, other))?],
    };
    if tables.is_empty() {
        return Err(Error::usage(format!("{} holds no configuration", source.name())).at(&source, key, "here"));
    }
    tables.iter().map(|table| of_table(&source, table, space)).collect()
}

fn of_table(source: &Source, table: &Table<'_>, space: &Space) -> Result<Configuration> {
    let mut settings = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let json = declaration::json(source, value)?;
        let name: &str = key.get_ref();
        let span = if space.parameter(name).is_some() { value.span() } else { key.span() };
        space.check_setting(name, &json).map_err(|error| error.at(source, span, "here"))?;
        settings.insert(name.to_owned(), json);
    }
    inputs::configuration(space, &settings).map_err(|error| {
        let missing = error.message().starts_with("not set");
        let error = error.at(source, table.span(), "this configuration");
        if missing { error.help("set it here, or give the space a [baseline]") } else { error }
    })
}

/// The best configurations of an earlier run of this task, and what is to be said of those that do not fit the space.
fn of_run(path: &Path, workload: &Workload, space: &Space) -> Result<(Vec<Configuration>, Vec<String>)> {
    let file = folder::load(path)?;
    let same_data = file.hashes.task == folder::task_hash(workload);
    let task = &workload.task.name;
    if !same_data && file.inputs.name != *task {
        return Err(Error::usage(format!(
            "the run in {} is of the task `{}`, and this one is of `{task}`",
            path.display(),
            file.inputs.name
        ))
        .help("--from takes runs of the same task; --try FILE takes any configuration"));
    }
    report::summary_of(path)?;
    let mut notes = Vec::new();
    if !same_data {
        notes.push(format!(
            "the task or its data changed since the run in {}: its best configurations are tried, nothing else is taken from it",
            path.display()
        ));
    }
    let mut found = Vec::new();
    let mut first_problem = None;
    for row in report::rows_of(path)?.iter().filter(|row| row.standing == Standing::Eligible).take(BEST) {
        let settings = row.parameters().0;
        let checked = settings.iter().try_for_each(|(name, value)| space.check_setting(name, value));
        match checked.and_then(|()| inputs::configuration(space, &settings)) {
            Ok(configuration) => found.push(configuration),
            Err(problem) => {
                notes.push(format!("{} of {} does not fit this space: {problem}", row.id, path.display()));
                first_problem.get_or_insert(problem);
            }
        }
    }
    match (found.is_empty(), first_problem) {
        (true, Some(problem)) => {
            Err(Error::usage(format!("no configuration of the run in {} fits this space: {problem}", path.display())))
        }
        _ => Ok((found, notes)),
    }
}
