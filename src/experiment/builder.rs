//! What an experiment is put together from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::{self, Answer, Declared};
use super::folder::Settings;
use super::{Beginning, Experiment, MaxQueries, Watcher};
use crate::backend::Endpoints;
use crate::data::Format;
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::store::{Cache, MemoryStore, SharedStore};
use crate::study::Stop;

/// Is told what will be asked.
pub(super) type Told = Box<dyn FnMut(&Beginning) + Send>;

/// Puts an [`Experiment`] together.
pub struct ExperimentBuilder {
    pub(super) input: Option<PathBuf>,
    pub(super) name: Option<String>,
    pub(super) settings: Settings,
    pub(super) functions: Vec<(usize, String, chain::Function)>,
    pub(super) wrong: Option<Error>,
    pub(super) endpoints: Option<Endpoints>,
    pub(super) store: Option<SharedStore>,
    pub(super) location: String,
    pub(super) cache: Cache,
    pub(super) budget: Option<Usd>,
    pub(super) concurrency: usize,
    pub(super) out: Option<PathBuf>,
    pub(super) parent: PathBuf,
    pub(super) move_input: bool,
    pub(super) stop: Arc<Stop>,
    pub(super) watcher: Option<Watcher>,
    pub(super) told: Option<Told>,
}

impl ExperimentBuilder {
    /// For the rows of a file.
    pub(super) fn new(input: PathBuf) -> ExperimentBuilder {
        let standard = crate::study::Settings::default();
        ExperimentBuilder {
            input: Some(input),
            name: None,
            settings: Settings::default(),
            functions: Vec::new(),
            wrong: None,
            endpoints: None,
            store: None,
            location: standard.store,
            cache: Cache::default(),
            budget: None,
            concurrency: standard.concurrency,
            out: None,
            parent: PathBuf::from("results"),
            move_input: false,
            stop: Arc::new(Stop::default()),
            watcher: None,
            told: None,
        }
    }

    /// What the experiment is called; else as its file.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Everything that decides what is asked. Metrics that were added before are forgotten.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Changes settings that are there.
    #[must_use]
    pub fn change(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// A metric over each answer, behind those that are there, as the command line has it: `exact_match:expected={{ answer }}`.
    #[must_use]
    pub fn metric(mut self, text: &str) -> Self {
        match Declared::parse(text) {
            Ok(metric) => self.settings.metrics.push(metric),
            Err(error) => self.wrong = self.wrong.or(Some(error)),
        }
        self
    }

    /// A function over each answer, behind the metrics and functions that are there. It adds scores and columns; an error
    /// or a panic is a reason in the record, and loses nothing.
    #[must_use]
    pub fn function(
        mut self,
        name: impl Into<String>,
        function: impl Fn(&mut Answer<'_>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.functions.push((self.settings.metrics.len(), name.into(), Arc::new(function)));
        self
    }

    /// The model of rows that name none.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.settings.model = Some(model.into());
        self
    }

    /// Attempts that a row has (default 3).
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts.max(1);
        self
    }

    /// Queries a minute, by group and model.
    #[must_use]
    pub fn max_queries(mut self, queries: MaxQueries) -> Self {
        self.settings.max_queries = queries;
        self
    }

    /// Who answers; else the `farthing.toml` found from the input's folder, else OpenAI.
    #[must_use]
    pub fn endpoints(mut self, endpoints: Endpoints) -> Self {
        self.endpoints = Some(endpoints);
        self
    }

    /// Where responses and the ledger are; else `.farthing/store.db`.
    #[must_use]
    pub fn store(mut self, location: impl Into<String>) -> Self {
        self.location = location.into();
        self
    }

    /// Any store.
    #[must_use]
    pub fn shared_store(mut self, store: SharedStore) -> Self {
        self.store = Some(store);
        "given by the program".clone_into(&mut self.location);
        self
    }

    /// Nothing but the output folder outlives the process.
    #[must_use]
    pub fn in_memory(self) -> Self {
        self.shared_store(MemoryStore::new())
    }

    /// What is done with samples that the store has.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// What it may cost in money, over all runs of it.
    #[must_use]
    pub fn budget(mut self, budget: Usd) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Requests in flight at once (default 32).
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// The output folder; one that holds this same experiment is gone on with. Else the next free `results/NAME-N`.
    #[must_use]
    pub fn out(mut self, out: impl Into<PathBuf>) -> Self {
        self.out = Some(out.into());
        self
    }

    /// The folder for `NAME-N`, in place of `results`.
    #[must_use]
    pub fn parent(mut self, parent: impl Into<PathBuf>) -> Self {
        self.parent = parent.into();
        self
    }

    /// Moves the input into the output folder when all is done.
    #[must_use]
    pub fn move_input(mut self, move_input: bool) -> Self {
        self.move_input = move_input;
        self
    }

    /// The user's wish to stop.
    #[must_use]
    pub fn stop(mut self, stop: Arc<Stop>) -> Self {
        self.stop = stop;
        self
    }

    /// Is told how it goes.
    #[must_use]
    pub fn watcher(mut self, watcher: Watcher) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Is told what will be asked, before anything is sent.
    #[must_use]
    pub fn told(mut self, told: impl FnMut(&Beginning) + Send + 'static) -> Self {
        self.told = Some(Box::new(told));
        self
    }

    /// Checks what can be checked without the rows.
    pub fn build(self) -> Result<Experiment> {
        if let Some(error) = self.wrong {
            return Err(error);
        }
        let mut experiment = Experiment { builder: self };
        let builder = &mut experiment.builder;
        if let Some(input) = &builder.input {
            Format::known(input, &input.display().to_string())?;
        }
        if builder.endpoints.is_none() {
            let beside = builder.input.as_deref().and_then(Path::parent).unwrap_or(Path::new("."));
            builder.endpoints = Some(Endpoints::near(beside)?);
        }
        Ok(experiment)
    }
}
