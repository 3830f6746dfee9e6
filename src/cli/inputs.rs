//! Finding what a command works on: task, space, endpoints, configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::de::DeValue;

use crate::backend::Endpoints;
use crate::cli::Embedded;
use crate::declaration;
use crate::diagnostic::{Error, Result, Source, similar};
use crate::evaluate::Workload;
use crate::report::words;
use crate::space::{self, Configuration, Space, Values};
use crate::task::Task;

/// The task that is meant: the program's own, or the one at a path.
pub fn workload(embedded: &Embedded, task: Option<&Path>) -> Result<Workload> {
    match (&embedded.workload, task) {
        (Some(workload), None) => Ok(workload.clone()),
        (Some(workload), Some(path)) => Err(Error::usage(format!(
            "this program tunes its own task `{}`, so `{}` has no meaning here",
            workload.task.name,
            path.display()
        ))),
        (None, Some(path)) => Workload::load(path).map_err(|error| match (path.exists(), similar(path)) {
            (false, Some(near)) => error.help(format!("did you mean {}?", near.display())),
            _ => error,
        }),
        (None, None) => Err(Error::usage("which task? Give the path of its folder")),
    }
}

/// Fewer held-out instances than this tell little.
const FEW_HELD_OUT: usize = 15;

/// What to say of a test split that is too small to tell much, and what to do about it.
pub fn few_held_out(task: &Task) -> Option<(String, &'static str)> {
    let count = task.test.len();
    (0 < count && count < FEW_HELD_OUT).then(|| {
        let only = words::plural(count as u64, "instance");
        let is = if count == 1 { "is" } else { "are" };
        let text = format!("only {only} {is} held out for a test, so the interval of a held-out score will be wide");
        (text, "more data, a larger `holdout` or a file for `test` make it narrower")
    })
}

/// The space's file: as given, else `space.toml` in the task's folder, else `search_spaces/NAME.toml`.
pub fn space_path(workload: &Workload, given: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = given {
        return Some(path.to_owned());
    }
    let beside = workload.task.folder.join("space.toml");
    let shared = Path::new("search_spaces").join(format!("{}.toml", workload.task.name));
    [beside, shared].into_iter().find(|path| path.is_file())
}

/// The search space and its file.
pub fn space(embedded: &Embedded, workload: &Workload, given: Option<&Path>) -> Result<(Space, Option<PathBuf>)> {
    if let (Some(space), None) = (&embedded.space, given) {
        return Ok((space.clone(), None));
    }
    match space_path(workload, given) {
        Some(path) => Ok((space::load(&path)?, Some(path))),
        None => Err(no_space(workload)),
    }
}

/// The error where there is no search space.
pub fn no_space(workload: &Workload) -> Error {
    Error::usage(format!("there is no search space for the task `{}`", workload.task.name)).help(format!(
        "give --space FILE, or write {} or search_spaces/{}.toml",
        workload.task.folder.join("space.toml").display(),
        workload.task.name
    ))
}

/// The endpoints and their file.
pub fn endpoints(workload: &Workload, given: Option<&Path>) -> Result<(Endpoints, Option<PathBuf>)> {
    let path = given.map(Path::to_owned).or_else(|| Endpoints::find(&workload.task.folder));
    Ok((Endpoints::of_file(path.as_deref())?, path))
}

/// An absolute path, for what must be found again from another folder.
pub fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// `NAME=VALUE` of `--set`: a choice's name, else a TOML value, else a string.
pub fn setting(space: &Space, text: &str) -> Result<(String, Value)> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(Error::usage(format!("`--set {text}` sets nothing")).help("write --set NAME=VALUE"));
    };
    let (name, value) = (name.trim(), value.trim_start());
    let string = Value::from(value);
    let Some(parameter) = space.parameter(name) else {
        return space.check_setting(name, &string).map(|()| (name.to_owned(), string));
    };
    let value = match &parameter.values {
        Values::Choices(choices) if choices.contains(&string) => string,
        Values::Constant(constant) if *constant == string => string,
        _ => {
            let source = Source::new("--set", value);
            match DeValue::parse(value) {
                Ok(parsed) => declaration::json(&source, &parsed)?,
                Err(_) => string,
            }
        }
    };
    space.check_setting(name, &value)?;
    Ok((name.to_owned(), value))
}

/// One configuration from settings: what is not set is the constant's, else the baseline's; anything else is an error.
pub fn configuration(space: &Space, settings: &BTreeMap<String, Value>) -> Result<Configuration> {
    let mut values = BTreeMap::new();
    let mut unset = Vec::new();
    for parameter in &space.parameters {
        let only = match parameter.values.count() {
            Some(1) => Some(parameter.values.first()),
            _ => None,
        };
        let baseline = space.baseline.as_ref().and_then(|baseline| baseline.get(&parameter.name).cloned());
        let value = settings.get(&parameter.name).cloned().or(only).or(baseline);
        if value.is_none() {
            unset.push(parameter.name.clone());
        }
        values.insert(parameter.name.clone(), value.unwrap_or_else(|| parameter.values.first()));
    }
    let configuration = space.settle(&values);
    let missing: Vec<&String> = unset.iter().filter(|name| configuration.get(name).is_some()).collect();
    if let Some(first) = missing.first() {
        let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
        return Err(Error::usage(format!("not set: {}", names.join(", ")))
            .help(format!("add --set {first}=VALUE, or a [baseline] to the space")));
    }
    space.admitted(&values)
}
