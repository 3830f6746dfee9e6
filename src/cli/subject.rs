//! RUN_OR_CONFIG: a run's folder or a configuration's file, and what it leads to: task, endpoints, store.

use std::path::{Path, PathBuf};

use crate::backend::Endpoints;
use crate::cli::{Embedded, inputs};
use crate::diagnostic::{Error, Result, similar};
use crate::evaluate::{Plan, Served, Workload};
use crate::runner::Runner;
use crate::space::parameter::output_limit;
use crate::space::{self, Configuration, Space};
use crate::study::folder::{self, StudyFile};

/// A configuration that was named on the command line.
pub struct Subject {
    /// The run's folder, or the folder that the file stands in.
    pub home: PathBuf,
    /// A run's folder was named, not a file.
    pub is_run: bool,
    /// The study that the configuration comes from, where it stands in a run's folder.
    pub study: Option<StudyFile>,
    /// The configuration.
    pub served: Served,
    /// The file that it was read from.
    pub file: PathBuf,
}

impl Subject {
    /// What is at a path.
    pub fn at(path: &Path) -> Result<Subject> {
        if !path.exists() {
            let help = similar(path).map(|near| format!("did you mean {}?", near.display()));
            return Err(Error::usage(format!("there is no run or configuration at {}", path.display())).help_if(help));
        }
        let is_run = path.is_dir();
        let home = if is_run { path.to_owned() } else { path.parent().map(Path::to_owned).unwrap_or_default() };
        let study = match home.join("study.toml").is_file() {
            true => Some(folder::load(&home)?),
            false if is_run => {
                return Err(folder::load(&home).err().unwrap_or_else(|| Error::usage("this is no run's folder")));
            }
            false => None,
        };
        let file = if is_run { home.join("best.toml") } else { path.to_owned() };
        if !file.is_file() {
            return Err(Error::usage(format!("the run in {} has no winner to test", home.display())).help(
                "it found no configuration that could be judged and chosen, or it has not ended: --resume goes on",
            ));
        }
        Ok(Subject { served: Served::load(&file)?, home, is_run, study, file })
    }

    /// Says on standard error where the task is not what it was when the run was begun.
    pub fn note_changes(&self, workload: &Workload) {
        if let Some(study) = self.study.as_ref().filter(|study| folder::task_hash(workload) != study.hashes.task) {
            say!("Note: the task `{}` changed since the run was begun.", study.inputs.name);
        }
    }

    /// The search space it comes from, where it can be found.
    pub fn space(&self, embedded: &Embedded, workload: &Workload) -> Result<Option<Space>> {
        match self.study.as_ref().and_then(|study| study.inputs.space.as_deref()) {
            Some(path) if path.is_file() => Ok(Some(space::load(path)?)),
            _ => Ok(inputs::space(embedded, workload, None).ok().map(|(space, _)| space)),
        }
    }

    /// What is asked: as it is served, else looked up in the space. What the file does not set is the space's only value, or
    /// its baseline's.
    pub fn asked(&self, embedded: &Embedded, workload: &Workload) -> Result<Asked> {
        let none = || Error::usage(format!("the configuration in {} names no model", self.file.display()));
        if !self.served.request.is_empty() {
            let model = self.served.model().ok_or_else(none)?.to_owned();
            return Ok(Asked { model, bounded: self.served.bounded(), settled: None });
        }
        let space = self.space(embedded, workload)?.ok_or_else(|| inputs::no_space(workload))?;
        let given = &self.served.config.0;
        given.iter().try_for_each(|(name, value)| {
            space.check_setting(name, value).map_err(|error| Served::located(&self.file, name, error))
        })?;
        let settled = inputs::configuration(&space, given)?;
        let model = settled.get("model").and_then(|model| model.as_str()).ok_or_else(none)?.to_owned();
        let bounded = output_limit(|name| settled.get(name)).is_some();
        Ok(Asked { model, bounded, settled: Some((space, settled)) })
    }
}

/// What a subject asks.
pub struct Asked {
    /// The model.
    pub model: String,
    /// True where every request says how long a completion may be.
    pub bounded: bool,
    /// The space and the configuration in it, where the file has no request as it is served.
    settled: Option<(Space, Configuration)>,
}

impl Asked {
    /// The configuration ready to be asked.
    pub fn plan(&self, subject: &Subject, runner: &Runner) -> Result<Plan> {
        match &self.settled {
            None => subject.served.plan(runner),
            Some((space, settled)) => Plan::new(space, settled, runner),
        }
    }
}

/// The task of some subjects: as given, the program's own, the run's, or one of the name that the file gives.
pub fn workload(embedded: &Embedded, given: Option<&Path>, subjects: &[&Subject]) -> Result<Workload> {
    if given.is_some() || embedded.workload.is_some() {
        return inputs::workload(embedded, given);
    }
    let mut found: Option<(PathBuf, &Subject)> = None;
    for subject in subjects {
        let place = match subject.study.as_ref().and_then(|study| study.inputs.task.clone()) {
            Some(place) => Some(place),
            None => by_name(subject.served.task.as_deref().unwrap_or_default()),
        };
        match (place, &found) {
            (Some(place), Some((known, other))) if inputs::absolute(&place) != inputs::absolute(known) => {
                return Err(Error::usage(format!(
                    "{} is of the task at {}, and {} of the one at {}",
                    other.file.display(),
                    known.display(),
                    subject.file.display(),
                    place.display()
                ))
                .help("give --task TASK: both are evaluated on its instances"));
            }
            (Some(place), None) => found = Some((place, subject)),
            _ => {}
        }
    }
    match (found, subjects.first()) {
        (Some((place, _)), _) => inputs::workload(embedded, Some(&place)),
        (None, Some(first)) => Err(match &first.served.task {
            Some(name) => Error::usage(format!("where is the task `{name}` of {}?", first.file.display())),
            None => Error::usage(format!("which task? {} does not say", first.file.display())),
        }
        .help("give --task TASK")),
        (None, None) => inputs::workload(embedded, None),
    }
}

fn by_name(name: &str) -> Option<PathBuf> {
    let places = [Path::new("tasks").join(name), PathBuf::from(name)];
    places.into_iter().find(|place| !name.is_empty() && place.join("task.toml").is_file())
}

/// The endpoints of some subjects: as given, those that their runs were begun with, or the task's.
pub fn endpoints(given: Option<&Path>, workload: &Workload, subjects: &[&Subject]) -> Result<Endpoints> {
    let known = |subject: &&Subject| subject.study.as_ref().and_then(|study| study.inputs.endpoints.clone());
    let mut files: Vec<PathBuf> = subjects.iter().filter_map(known).collect();
    files.sort();
    files.dedup();
    match (given, files.as_slice()) {
        (None, [one]) => Endpoints::load(one),
        (None, [one, two, ..]) => Err(Error::usage(format!(
            "one run was begun with the endpoints of {}, the other with those of {}",
            one.display(),
            two.display()
        ))
        .help("give --endpoints FILE")),
        _ => Ok(inputs::endpoints(workload, given)?.0),
    }
}
