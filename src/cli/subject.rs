//! RUN_OR_CONFIG: a run's folder or a configuration's file, and what it leads to: task, endpoints, store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::backend::Endpoints;
use crate::cli::arguments::Common;
use crate::cli::{Embedded, inputs};
use crate::diagnostic::{Error, Result, similar};
use crate::evaluate::{Plan, Served, Workload};
use crate::runner::Runner;
use crate::space::parameter::output_limit;
use crate::space::{self, Configuration, Space};
use crate::store::SharedStore;
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

    /// What is asked. What the file does not set is the space's only value, or its baseline's.
    pub fn asked(&self, embedded: &Embedded, workload: &Workload) -> Result<Asked> {
        let space = || self.space(embedded, workload)?.ok_or_else(|| inputs::no_space(workload));
        Asked::of(Some((self.served.clone(), &self.file)), &[], space)
    }
}

/// A configuration that is asked: which model it names, and how long its completions may be.
pub struct Asked {
    /// The model.
    pub model: String,
    /// True where every request says how long a completion may be.
    pub bounded: bool,
    what: What,
}

enum What {
    /// A file that says what is sent.
    Served(Served),
    /// The space and the configuration in it.
    Settled(Box<Space>, Configuration),
}

impl Asked {
    /// What was typed: a configuration with its file, and what `--set` says. A file that says what is sent serves as it is;
    /// anything else is looked up in the space.
    ///
    /// # Errors
    /// A usage error where it is none of the space, or names no model.
    pub fn of(served: Option<(Served, &Path)>, set: &[String], space: impl FnOnce() -> Result<Space>) -> Result<Asked> {
        let place = served.as_ref().map(|(_, file)| format!(" in {}", file.display())).unwrap_or_default();
        let none = || Error::usage(format!("the configuration{place} names no model"));
        let (given, file) = match served {
            Some((served, _)) if set.is_empty() && !served.request.is_empty() => {
                let model = served.model().ok_or_else(none)?.to_owned();
                return Ok(Asked { model, bounded: served.bounded(), what: What::Served(served) });
            }
            Some((served, file)) => (served.config.0, Some(file)),
            None => (BTreeMap::new(), None),
        };
        let (space, mut given) = (space()?, given);
        for (name, value) in &given {
            space.check_setting(name, value).map_err(|error| match file {
                Some(file) => Served::located(file, name, error),
                None => error,
            })?;
        }
        for text in set {
            let (name, value) = inputs::setting(&space, text)?;
            given.insert(name, value);
        }
        let settled = inputs::configuration(&space, &given)?;
        let model = settled.get("model").and_then(|model| model.as_str()).ok_or_else(none)?.to_owned();
        let bounded = output_limit(|name| settled.get(name)).is_some();
        Ok(Asked { model, bounded, what: What::Settled(Box::new(space), settled) })
    }

    /// The configuration ready to be asked.
    pub fn plan(&self, runner: &Runner) -> Result<Plan> {
        match &self.what {
            What::Served(served) => served.plan(runner),
            What::Settled(space, settled) => Plan::new(space, settled, runner),
        }
    }

    /// The same with a runner that knows its model alone.
    pub fn open(
        &self,
        store: SharedStore,
        endpoints: &Endpoints,
        concurrency: usize,
        capped: bool,
    ) -> Result<(Plan, Runner)> {
        let models = std::slice::from_ref(&self.model);
        let runner = Runner::open(store, endpoints, models, concurrency, capped, self.bounded)?;
        Ok((self.plan(&runner)?, runner))
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

/// The store of some subjects: as given, else the one that their runs were begun with, if it is one.
pub fn store(common: &Common, subjects: &[&Subject]) -> String {
    let mut stores: Vec<&String> =
        subjects.iter().filter_map(|subject| Some(&subject.study.as_ref()?.settings.store)).collect();
    stores.dedup();
    match (&common.place.store, stores.as_slice()) {
        (None, [one]) => (*one).clone(),
        _ => common.place.store(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_model_is_refused_whether_it_is_served_or_settled() {
        let space = || {
            let styles = Space::builder("s").template("p", "{{ q }}").choices("style", ["plain", "fancy"]);
            styles.choices("model", ["m"]).when("style", "fancy").build()
        };
        let served = |text: &str| Served { request: serde_json::from_str(text).unwrap(), ..Served::default() };
        let told = |asked: Result<Asked>| asked.err().unwrap().message().to_owned();
        let file = Path::new("a/best.toml");
        let sent = served(r#"{"prompt": "p"}"#);
        assert_eq!(told(Asked::of(Some((sent, file)), &[], space)), "the configuration in a/best.toml names no model");
        let set = ["style=plain".to_owned()];
        let looked_up = told(Asked::of(Some((Served::default(), file)), &set, space));
        assert_eq!(looked_up, "the configuration in a/best.toml names no model");
        assert_eq!(told(Asked::of(None, &set, space)), "the configuration names no model");
        assert_eq!(Asked::of(None, &["style=fancy".to_owned()], space).unwrap().model, "m");
        let sent = served(r#"{"prompt": "p", "model": "m", "max_tokens": 5}"#);
        let asked = Asked::of(Some((sent, file)), &[], || Err(Error::internal("no space is needed"))).unwrap();
        assert_eq!((asked.model.as_str(), asked.bounded), ("m", true));
    }
}
