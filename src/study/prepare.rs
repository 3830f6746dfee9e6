//! What happens before a study spends anything: everything that can be wrong is looked up, and what it needs is opened.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Settings, Study, estimate, input_prices, models, order, search_agenda, settings};
use crate::backend::Endpoints;
use crate::batch::rounds::{self, Rounds};
use crate::batch::{self, Batches};
use crate::diagnostic::{Error, Result};
use crate::evaluate::{Plan, capability};
use crate::money::Usd;
use crate::provider::Failure;
use crate::runner::{Purse, Runner};
use crate::search::{self, Problem};
use crate::space::Space;
use crate::space::parameter::OUTPUT_LIMITS;
use crate::store::{self, Fingerprint, MemoryStore, Place, SharedStore};

/// A study with everything opened.
pub struct Prepared {
    pub(super) store: SharedStore,
    pub(super) runner: Arc<Runner>,
    pub(super) purse: Arc<Purse>,
    pub(super) order: Arc<Vec<usize>>,
    pub(super) strategy: Box<dyn search::Strategy>,
    pub(super) look_ahead: usize,
    pub(super) recorded: Arc<HashMap<(Fingerprint, u32), Failure>>,
    pub(super) already: Usd,
}

impl Prepared {
    /// What evaluations will cost, from prompts rendered on at most `sample` instances, for at most `most` configurations.
    pub fn estimate(&self, study: &Study, sample: usize, most: usize) -> Result<estimate::Estimate> {
        let instances = study.workload.task.tune.clone();
        let space = study.space.as_ref();
        estimate::Estimator::new(Some(space), &self.runner, instances, &self.order, sample)
            .by_batch(study.settings.batch)
            .space(study.settings.seed, most)
    }

    /// How many evaluations are asked ahead of those told.
    pub fn look_ahead(&self) -> usize {
        self.look_ahead
    }
}

/// Every one of these models has a batch API.
pub(crate) fn check_batches(endpoints: &Endpoints, models: &[String]) -> Result<()> {
    Rounds::new(Batches::open(endpoints.clone(), MemoryStore::new()), "", None).check(models)
}

/// Opens a runner for the models of a space; it has no store yet.
fn open_runner(space: &Space, endpoints: &Endpoints, settings: &Settings) -> Result<Runner> {
    let models = models(space);
    let bounded =
        OUTPUT_LIMITS.iter().any(|name| space.parameter(name).is_some_and(|parameter| parameter.when.is_empty()));
    let nothing = MemoryStore::new();
    Runner::open(nothing, endpoints, &models, settings.concurrency, settings.budget.is_some(), bounded)
}

/// Opens a runner for the models of a space under a budget, on a store: for looking, not for asking.
pub(crate) fn open_for(space: &Space, endpoints: &Endpoints, store: SharedStore) -> Result<Runner> {
    let settings = Settings { budget: Some(Usd::MAX), ..Settings::default() };
    Ok(open_runner(space, endpoints, &settings)?.with_store(store))
}

impl Study {
    /// Opens what the study needs and looks everything up that can be wrong, before anything is spent.
    pub fn prepare(&mut self) -> Result<Prepared> {
        let runner = open_runner(&self.space, &self.endpoints, &self.settings)?;
        capability::check_space(&self.space, |model| capability::of(&self.endpoints, model))?;
        for configuration in &self.settings.first {
            Plan::new(&self.space, configuration, &runner)?;
            if let Some(problem) = self.space.broken(configuration) {
                return Err(Error::usage(format!(
                    "{configuration}, to be tried first, breaks a constraint: {problem}"
                )));
            }
        }
        // Prompts and models must fit each other whatever is drawn.
        for model in self.space.models() {
            for prompt in &self.space.prompts {
                let allowed = |name: &str| self.space.parameter(name).is_none_or(|parameter| parameter.when.is_empty());
                if allowed("prompt") && allowed("model") && self.space.constraints.is_empty() {
                    Plan::assemble(
                        Default::default(),
                        prompt.clone(),
                        &model,
                        Default::default(),
                        1,
                        Default::default(),
                        &runner,
                    )?;
                }
            }
        }
        let budget = self.settings.budget;
        let search_budget = budget.map(|budget| self.settings.limits(budget).0);
        let order = Arc::new(order(&self.workload, &self.workload.task.tune, self.settings.seed));
        let inputs = input_prices::InputPrices::new(self.space.clone(), self.workload.task.tune.clone(), order.clone());
        let problem = Problem {
            domain: self.space.clone(),
            inputs: Some(inputs.clone().price()),
            ceiling: self.workload.range().map(|(low, high)| {
                let direction = self.workload.task.objective.direction;
                direction.gain(low).max(direction.gain(high))
            }),
            baseline: self.space.baseline.is_some(),
            instances: order.len(),
            budget: search_budget,
            max_trials: self.settings.max_trials,
            seed: settings::stream(self.settings.seed, "search"),
            first: self.space.baseline.iter().chain(&self.settings.first).cloned().collect(),
            margin: self.settings.margin,
            inference_budget: self.settings.inference_budget,
        };
        let declaration = search::strategy(&self.settings.strategy)
            .ok_or_else(|| Error::internal(format!("no strategy `{}`", self.settings.strategy)))?;
        let mut strategy = (declaration.build)(problem).map_err(|problem| {
            Error::usage(format!("the strategy `{}` cannot search this space: {problem}", declaration.name))
        })?;
        if self.settings.batch {
            check_batches(&self.endpoints, &models(&self.space))?;
        }
        // Only now may a file appear.
        let store = match self.store.take() {
            Some(store) => store,
            None => store::open_as(&self.settings.store, self.settings.cache, &self.scope)?,
        };
        let runner = Arc::new(runner.with_store(store.clone()));
        inputs.open(&runner);
        let mut already = store.spent(&self.scope)?.total();
        if self.settings.batch {
            let rounds = self.rounds(&store);
            // What is out will be ordered again, and is held for then.
            already -= rounds.held()?;
            runner.buy_in_rounds(Arc::new(rounds), rounds::price);
            strategy.in_rounds();
        }
        let recorded: HashMap<(Fingerprint, u32), Failure> =
            store.failures(&self.scope)?.into_iter().map(|(print, n, failure)| ((print, n), failure)).collect();
        let reuse = self.settings.reuse_savings;
        let spent_limit = budget.map(|budget| self.settings.limits(budget).1);
        let purse = Purse::with_limits(search_budget, spent_limit, reuse, already);
        let look_ahead = search_agenda::look_ahead(strategy.as_ref(), self.settings.margin, self.settings.batch);
        Ok(Prepared { store, runner, purse, order, strategy, look_ahead, recorded: Arc::new(recorded), already })
    }

    /// Who buys this study's requests in rounds.
    fn rounds(&self, store: &SharedStore) -> Rounds {
        let options = batch::Options {
            poll: self.settings.batch_poll_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            lock: Place::of(&self.settings.store).submitting_lock(),
            ..batch::Options::default()
        };
        let batches = Batches::with_options(self.endpoints.clone(), store.clone(), options);
        let wait = self.settings.batch_wait_seconds.map(Duration::from_secs);
        Rounds::new(batches, &self.scope, wait)
    }
}
