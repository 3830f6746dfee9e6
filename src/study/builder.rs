//! How a study is put together.

use std::sync::Arc;
use std::time::Duration;

use super::{Readers, Settings, Stop, Study};
use crate::backend::Endpoints;
use crate::diagnostic::{Error, Result};
use crate::evaluate::Workload;
use crate::event::Reader;
use crate::money::Usd;
use crate::space::{Configuration, Space};
use crate::store::SharedStore;

/// Puts a [`Study`] together.
pub struct StudyBuilder {
    workload: Option<Workload>,
    space: Option<Space>,
    endpoints: Option<Endpoints>,
    settings: Settings,
    store: Option<SharedStore>,
    scope: Option<String>,
    readers: Readers,
    stop: Arc<Stop>,
}

impl StudyBuilder {
    /// The task.
    #[must_use]
    pub fn workload(mut self, workload: Workload) -> StudyBuilder {
        self.workload = Some(workload);
        self
    }

    /// The search space.
    #[must_use]
    pub fn space(mut self, space: Space) -> StudyBuilder {
        self.space = Some(space);
        self
    }

    /// Who answers; else the `farthing.toml` found from the task's folder, else OpenAI.
    #[must_use]
    pub fn endpoints(mut self, endpoints: Endpoints) -> StudyBuilder {
        self.endpoints = Some(endpoints);
        self
    }

    /// The optimization budget in dollars: what the study may cost in all.
    #[must_use]
    pub fn budget(mut self, budget: Usd) -> StudyBuilder {
        self.settings.budget = Some(budget);
        self
    }

    /// The inference budget: what a configuration may cost an instance in production.
    #[must_use]
    pub fn inference_budget(mut self, budget: Usd) -> StudyBuilder {
        self.settings.inference_budget = Some(budget);
        self
    }

    /// The strategy, by the name that `farthing strategies` lists.
    #[must_use]
    pub fn strategy(mut self, name: impl Into<String>) -> StudyBuilder {
        self.settings.strategy = name.into();
        self
    }

    /// The seed that decides everything random (default 1).
    #[must_use]
    pub fn seed(mut self, seed: u64) -> StudyBuilder {
        self.settings.seed = seed;
        self
    }

    /// How many configurations may be tried.
    #[must_use]
    pub fn max_trials(mut self, trials: usize) -> StudyBuilder {
        self.settings.max_trials = Some(trials);
        self
    }

    /// The share of the budget that is set aside for the test split and spent there at the end.
    #[must_use]
    pub fn test_share(mut self, share: f64) -> StudyBuilder {
        self.settings.test_share = share;
        self
    }

    /// The search ends when going on is expected to gain less than this, in units of the objective.
    #[must_use]
    pub fn margin(mut self, margin: f64) -> StudyBuilder {
        self.settings.margin = Some(margin);
        self
    }

    /// A configuration to try early: right after the baseline and those given before.
    #[must_use]
    pub fn try_first(mut self, configuration: Configuration) -> StudyBuilder {
        self.settings.first.push(configuration);
        self
    }

    /// Requests are bought in rounds through the providers' batch APIs: half the price, and hours a round. What is not there
    /// after `wait` is asked for in the ordinary way.
    #[must_use]
    pub fn by_batch(mut self, wait: Option<Duration>) -> StudyBuilder {
        self.settings.batch = true;
        self.settings.batch_wait_seconds = wait.map(|wait| wait.as_secs());
        self
    }

    /// Requests in flight at once (default 32). Changes no decision.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> StudyBuilder {
        self.settings.concurrency = concurrency;
        self
    }

    /// All settings at once.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> StudyBuilder {
        self.settings = settings;
        self
    }

    /// The store; else the one at the settings' path.
    #[must_use]
    pub fn store(mut self, store: SharedStore) -> StudyBuilder {
        self.store = Some(store);
        self
    }

    /// The study's name in the ledger: the same name goes on with the same study. Else a new one.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> StudyBuilder {
        self.scope = Some(id.into());
        self
    }

    /// Someone who reads the run's events.
    #[must_use]
    pub fn reader(mut self, reader: Box<dyn Reader>) -> StudyBuilder {
        self.readers.push(reader);
        self
    }

    /// The wish to stop that this study listens to.
    #[must_use]
    pub fn stop(mut self, stop: Arc<Stop>) -> StudyBuilder {
        self.stop = stop;
        self
    }

    /// Checks that everything fits together. Nothing is spent before [`Study::run`].
    pub fn build(self) -> Result<Study> {
        let workload = self.workload.ok_or_else(|| Error::usage("the study has no task"))?;
        let space = self.space.ok_or_else(|| Error::usage("the study has no search space"))?;
        space.check_satisfiable()?;
        workload.check_space(&space)?;
        let settings = self.settings;
        settings.check()?;
        let endpoints = match self.endpoints {
            Some(endpoints) => endpoints,
            None => Endpoints::near(&workload.task.folder)?,
        };
        let scope = self.scope.unwrap_or_else(|| crate::store::fresh_name("study"));
        let (store, readers, stop) = (self.store, self.readers, self.stop);
        Ok(Study { workload, space: Arc::new(space), endpoints, settings, store, scope, readers, stop })
    }
}

impl Study {
    /// Begins to put a study together.
    pub fn builder() -> StudyBuilder {
        StudyBuilder {
            workload: None,
            space: None,
            endpoints: None,
            settings: Settings::default(),
            store: None,
            scope: None,
            readers: Vec::new(),
            stop: Arc::default(),
        }
    }
}
