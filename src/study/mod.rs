//! The loop: ask the search, evaluate, tell it. Events, resume, ranking, the held-out test.

pub mod agenda;
pub mod claims;
pub mod compare;
pub mod control;
pub mod estimate;
pub mod fixed;
pub mod folder;
pub mod health;
mod input_prices;
mod nothing;
pub mod pipeline;
pub mod production;
pub mod ranking;
pub mod search_agenda;
pub mod settings;
pub mod summary;
pub mod trial;
mod used;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use claims::{Against, Candidate, Claims, FrontierPoint};
pub use control::Stop;
pub use ranking::{Ranked, Standing};
pub use search_agenda::Readers;
pub use settings::Settings;
pub use summary::{Holdout, Scored, StopReason, Summary, Versus};
pub use trial::Trial;

use crate::backend::Endpoints;
use crate::batch::rounds::{self, Rounds};
use crate::batch::{self, Batches};
use crate::diagnostic::{Error, Result};
use crate::evaluate::{Plan, Workload, capability};
use crate::event::{Event, Reader};
use crate::money::Usd;
use crate::provider::Failure;
use crate::runner::{Purse, Runner};
use crate::search::{self, Problem};
use crate::space::{Configuration, Space};
use crate::store::{self, Fingerprint, MemoryStore, SharedStore};
use crate::task::Instance;
use claims::Evidence;
use pipeline::{Ending, Pipeline};
use search_agenda::SearchAgenda;

/// Everything that a study came to.
pub struct Outcome {
    /// What `summary.json` says.
    pub summary: Summary,
    /// Every trial with its evaluations.
    pub trials: Vec<Trial>,
    /// The trials, best first.
    pub ranking: Vec<Ranked>,
    /// The probability of each trial that it is the best; `None` for those that cannot be.
    pub p_best: Vec<Option<f64>>,
    /// Where requests that failed, and may have been billed, took more of the budget than answers did, and ended it: the last
    /// of those failures.
    pub lost_to: Option<Failure>,
    /// The task.
    pub workload: Workload,
    /// The space.
    pub space: Arc<Space>,
}

impl Outcome {
    /// The winner's trial.
    pub fn best(&self) -> Option<&Trial> {
        ranking::best(&self.ranking).map(|row| &self.trials[row.trial])
    }
}

/// A study that is put together: call [`run`](Study::run).
///
/// See `examples/02_library.rs` for a whole program.
pub struct Study {
    workload: Workload,
    space: Arc<Space>,
    endpoints: Endpoints,
    settings: Settings,
    store: Option<SharedStore>,
    scope: String,
    readers: Readers,
    stop: Arc<Stop>,
}

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
            None => match Endpoints::find(&workload.task.folder) {
                Some(path) => Endpoints::load(&path)?,
                None => Endpoints::standard(),
            },
        };
        let scope = self.scope.unwrap_or_else(|| crate::store::fresh_name("study"));
        let (store, readers, stop) = (self.store, self.readers, self.stop);
        Ok(Study { workload, space: Arc::new(space), endpoints, settings, store, scope, readers, stop })
    }
}

/// The order in which the instances of a split are looked at: one for all configurations, from the study's seed.
pub fn order(workload: &Workload, instances: &[Instance], seed: u64) -> Vec<usize> {
    let task = &workload.task;
    let stratum = |instance: &Instance| match &task.stratify {
        Some(column) => instance.text(column).unwrap_or_default(),
        None => String::new(),
    };
    let strata: Vec<String> = instances.iter().map(stratum).collect();
    search::order::stratified(&strata, settings::stream(seed, "order"))
}

/// Every model that may be asked: the space's, and the baseline's where it is another.
pub(crate) fn models(space: &Space) -> Vec<String> {
    let mut models = space.models();
    models.extend(space.baseline.as_ref().and_then(|baseline| Some(baseline.get("model")?.as_str()?.to_owned())));
    models.sort();
    models.dedup();
    models
}

/// Every one of these models has a batch API.
pub(crate) fn check_batches(endpoints: &Endpoints, models: &[String]) -> Result<()> {
    Rounds::new(Batches::open(endpoints.clone(), MemoryStore::new()), "", None).check(models)
}

/// Opens a runner for the models of a space; it has no store yet.
fn open_runner(space: &Space, endpoints: &Endpoints, settings: &Settings) -> Result<Runner> {
    let models = models(space);
    let bounded = ["max_tokens", "max_completion_tokens"]
        .iter()
        .any(|name| space.parameter(name).is_some_and(|parameter| parameter.when.is_empty()));
    let nothing = MemoryStore::new();
    Runner::open(nothing, endpoints, &models, settings.concurrency, settings.budget.is_some(), bounded)
}

/// Opens a runner for the models of a space under a budget, on a store: for looking, not for asking.
pub(crate) fn open_for(space: &Space, endpoints: &Endpoints, store: SharedStore) -> Result<Runner> {
    let settings = Settings { budget: Some(Usd::MAX), ..Settings::default() };
    Ok(open_runner(space, endpoints, &settings)?.with_store(store))
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

    /// The study's name in the ledger.
    pub fn id(&self) -> &str {
        &self.scope
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The task.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Adds someone who reads the run's events.
    pub fn add_reader(&mut self, reader: Box<dyn Reader>) {
        self.readers.push(reader);
    }

    /// What decides what the study's endpoints answer and cost, hashed: a changed address, key or timeout changes nothing.
    pub fn endpoints_hash(&self) -> Result<String> {
        let mut text = String::new();
        for name in models(&self.space) {
            let model = self.endpoints.model(&name)?;
            let endpoint = &self.endpoints.list[model.endpoints[0]];
            let cassette = match &endpoint.cassette {
                Some(path) => blake3::hash(&std::fs::read(path).map_err(|e| crate::diagnostic::unreadable(path, &e))?)
                    .to_hex()
                    .to_string(),
                #[cfg(feature = "local")]
                None if model.place.is_some() => match &model.place {
                    Some(place) => crate::backend::local::model::source(place, model.compute)?,
                    None => String::new(),
                },
                None => String::new(),
            };
            text += &format!(
                "{name} {:?} {:?} {:?} {:?} {:?} {cassette}\n",
                model.price, model.context_window, model.max_output_tokens, model.kind, endpoint.provider
            );
        }
        Ok(blake3::hash(text.as_bytes()).to_hex()[..32].to_owned())
    }

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
        let inputs = input_prices::InputPrices::new(self.space.clone(), &self.workload.task.tune, &order);
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
            may_drop: self.settings.inference_budget.is_some(),
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
        Ok(Prepared { store, runner, purse, order, strategy, look_ahead, recorded, already })
    }

    /// Who buys this study's requests in rounds.
    fn rounds(&self, store: &SharedStore) -> Rounds {
        let lock = (!self.settings.store.contains("://")).then(|| format!("{}.submitting", self.settings.store).into());
        let options = batch::Options {
            poll: self.settings.batch_poll_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            lock,
            ..batch::Options::default()
        };
        let batches = Batches::with_options(self.endpoints.clone(), store.clone(), options);
        let wait = self.settings.batch_wait_seconds.map(Duration::from_secs);
        Rounds::new(batches, &self.scope, wait)
    }

    /// How many configurations can be tried at most, where that is known beforehand.
    fn most(&self) -> Option<usize> {
        let size = search::Domain::size(self.space.as_ref()).and_then(|size| usize::try_from(size).ok());
        // What is to be tried first need not be a point of the searched range.
        let size = size.map(|size| size.saturating_add(self.settings.first.len() + 1));
        [size, self.settings.max_trials].into_iter().flatten().min()
    }

    /// Runs the study to its end, or to where the user stops it.
    pub async fn run(mut self) -> Result<Outcome> {
        let prepared = self.prepare()?;
        self.run_prepared(prepared).await
    }

    /// Runs a study that was prepared.
    pub async fn run_prepared(self, prepared: Prepared) -> Result<Outcome> {
        let Prepared { store, runner, purse, order, strategy, recorded, already, .. } = prepared;
        let (task, most) = (self.workload.task.clone(), self.most());
        let settings = &self.settings;
        let mut agenda = SearchAgenda::new(
            strategy,
            self.space.clone(),
            self.workload.clone(),
            runner.clone(),
            purse.clone(),
            settings.inference_budget,
            settings.reuse_savings,
            order.clone(),
            self.readers,
        )
        .with_margin(settings.margin, most, settings::stream(settings.seed, "margin"))
        .with_limits({
            let settings = settings.clone();
            move |budget| settings.limits(budget)
        });
        agenda.announce(&Event::Started {
            task: task.name.clone(),
            strategy: settings.strategy.clone(),
            instances: task.tune.len(),
            metric: task.objective.metric.clone(),
            direction: task.objective.direction,
            budget_usd: settings.budget,
            already_spent_usd: already,
        });
        let pipeline = Pipeline {
            workload: self.workload.clone(),
            instances: task.tune.clone(),
            runner: runner.clone(),
            purse: purse.clone(),
            scope: self.scope.as_str().into(),
            recorded: &recorded,
            stop: self.stop.clone(),
        };
        self.stop.control().open(&settings.budget_changes);
        let ending = pipeline.run(&mut agenda).await;
        self.stop.control().close();
        let (ending, budget) = (ending?, agenda.budget.or(settings.budget));
        let (search_cost, converged) = (purse.study_cost(), agenda.converged);
        let (trials, sums, (refused, first_refusal), mut readers) = agenda.into_parts();
        let mut ranking = ranking::rank(&trials, &task.objective, task.tune.len(), settings.inference_budget);
        let mut stands = vec![false; trials.len()];
        ranking.iter().for_each(|row| stands[row.trial] = row.standing == Standing::Eligible);
        let evidence = Evidence::of(&trials, &self.workload, |trial| stands[trial.number]);
        let seed = settings::stream(settings.seed, "claims");
        let by_first = ranking::best(&ranking).cloned().filter(|_| !task.objective.then.is_empty());
        let p_best = ranking::p_best(&ranking, trials.len());
        claims::settle(&mut ranking, &trials, &task.objective, &evidence, &p_best);
        let search = claims::Search {
            trials: &trials,
            ranking: &ranking,
            workload: &self.workload,
            order: &order,
            most,
            p_best: &p_best,
        };
        let mut claims = claims::claims(&evidence, search, seed);
        claims.expected_gain = converged.or(claims.expected_gain);
        let mut holdout = None;
        let (mut ending, mut holdout_failed) = (ending, 0);
        if settings.test_share > 0.0
            && ending == Ending::Done
            && let Some(best) = ranking::best(&ranking)
        {
            purse.set_limit(budget);
            let winner = trials[best.trial].plan.clone();
            let baseline = trials.iter().find(|trial| trial.is_baseline).map(|trial| trial.plan.clone());
            let test = fixed::holdout(&pipeline, &self.workload, winner, baseline, settings.seed).await?;
            ending = test.ending;
            holdout_failed = test.failed;
            claims.hold_out(&test.holdout);
            holdout = Some(test.holdout);
        }
        let spent = store.spent(&self.scope)?;
        let everything_seen =
            trials.iter().all(|trial| trial.dropped.is_some() || trial.evaluations.len() == task.tune.len());
        let used_up = budget.is_some_and(|budget| search_cost.as_f64() >= 0.9 * budget.as_f64());
        let stop_reason = match ending {
            Ending::Interrupted => StopReason::Interrupted,
            Ending::SpentOut { .. } => StopReason::Budget,
            Ending::Done if converged.is_some() => StopReason::Converged,
            Ending::Done if refused > 0 => StopReason::Budget,
            Ending::Done if settings.max_trials.is_some_and(|most| trials.len() >= most) => StopReason::MaxTrials,
            Ending::Done if everything_seen => StopReason::Exhausted,
            Ending::Done if used_up => StopReason::Budget,
            Ending::Done => StopReason::Converged,
        };
        let scored = |row: &Ranked| Scored::of(&trials[row.trial], row.estimate.as_ref());
        let summary = Summary {
            task: task.name.clone(),
            metric: task.objective.metric.clone(),
            direction: task.objective.direction,
            strategy: settings.strategy.clone(),
            seed: settings.seed,
            stop_reason,
            budget_usd: budget,
            inference_budget_usd: settings.inference_budget,
            spent_usd: spent.total(),
            lost_usd: spent.lost,
            study_cost_usd: purse.study_cost(),
            search_cost_usd: search_cost,
            holdout_cost_usd: purse.study_cost() - search_cost,
            trials: trials.len(),
            judged_trials: ranking.iter().filter(|row| row.estimate.is_some()).count(),
            evaluations: sums.evaluations,
            requests: spent.requests,
            cache_hits: sums.cache_hits,
            failed_evaluations: sums.failed + holdout_failed,
            refused_evaluations: refused,
            tuning_instances: task.tune.len(),
            best: ranking::best(&ranking).map(scored),
            best_expected: by_first.as_ref().map(scored),
            baseline: ranking.iter().find(|row| trials[row.trial].is_baseline).map(scored),
            margin: settings.margin,
            pareto: claims::frontier(&trials, &ranking, &task.objective),
            notes: {
                let mut notes = notes(budget, &trials, &ranking, search_cost, first_refusal, &ending);
                notes.extend(nothing::right(&self.workload, &trials, store.as_ref()));
                notes.extend(no_range(&self.workload, &trials, &ranking));
                notes
            },
            claims,
            holdout,
        };
        let finished = Event::Finished {
            stop_reason: stop_reason.word().to_owned(),
            spent_usd: summary.spent_usd,
            study_cost_usd: summary.study_cost_usd,
        };
        for reader in &mut readers {
            reader.read(&finished, &sums);
        }
        let lost_to = match ending {
            Ending::SpentOut { lost_to } => lost_to,
            _ => None,
        };
        Ok(Outcome { summary, trials, ranking, p_best, lost_to, workload: self.workload, space: self.space })
    }
}

/// A study with everything opened.
pub struct Prepared {
    store: SharedStore,
    runner: Arc<Runner>,
    purse: Arc<Purse>,
    order: Arc<Vec<usize>>,
    strategy: Box<dyn search::Strategy>,
    look_ahead: usize,
    recorded: HashMap<(Fingerprint, u32), Failure>,
    already: Usd,
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

/// Why there is no claim against the baseline, where the metric's range is what is missing.
fn no_range(workload: &Workload, trials: &[Trial], ranking: &[Ranked]) -> Option<String> {
    let best = ranking::best(ranking)?;
    let compared = trials.iter().any(|trial| trial.is_baseline && trial.number != best.trial);
    (compared && claims::range(workload, trials).is_none()).then(|| {
        format!(
            "The winner is not compared with the baseline at any time of looking: the lowest and the highest `{0}` are not \
             known. Give range = [lowest, highest] under [objective].",
            workload.task.objective.metric
        )
    })
}

/// What the user should know beside the numbers.
fn notes(
    budget: Option<Usd>,
    trials: &[Trial],
    ranking: &[Ranked],
    cost: Usd,
    first_refusal: Option<String>,
    ending: &Ending,
) -> Vec<String> {
    let mut notes = Vec::new();
    if trials.iter().any(|trial| trial.plan.service.source() == "mock") {
        notes.push("The models are made up: their answers are computed, not written by a language model.".to_owned());
    }
    if let Ending::SpentOut { lost_to: Some(failure) } = ending {
        notes.push(format!(
            "The budget ended because more of it went to requests that failed, and may be billed, than to answers: {failure}."
        ));
    } else if matches!(ending, Ending::SpentOut { .. }) {
        notes.push(
            "It stopped for the money that was really spent, though the study by itself has cost less than the budget: \
             requests whose answer was lost count at their worst case, and what an earlier part bought may have been \
             of no use to this one."
                .to_owned(),
        );
    }
    let judged = trials.iter().any(|trial| trial.evaluations.iter().any(|done| done.result.is_ok()));
    let failures = || trials.iter().flat_map(|trial| &trial.evaluations).filter_map(|done| done.result.as_ref().err());
    match (&first_refusal, failures().next()) {
        (_, Some(first)) if !judged => {
            notes.push(format!("Every evaluation failed; the first one: {}: {}", first.kind, first.message));
        }
        (Some(refusal), None) if !judged => {
            notes.push(format!("Not one evaluation could be sent; of the first one: {refusal}."));
        }
        _ => {}
    }
    let left = budget.map_or(Usd::ZERO, |budget| budget.saturating_left(cost));
    let unbounded = trials.iter().any(|trial| {
        trial.refused > 0
            && !["max_tokens", "max_completion_tokens"].iter().any(|name| trial.plan.params.contains_key(*name))
            && !trial.plan.service.source().starts_with("replay")
    });
    if first_refusal.is_some() && unbounded && budget.is_some_and(|budget| left.as_f64() > 0.1 * budget.as_f64()) {
        notes.push(format!(
            "${left} were left unused because no max_tokens is set: a completion was held at the model's output limit. Set max_tokens to use more of the budget."
        ));
    }
    if let Some(row) = ranking.iter().find(|row| trials[row.trial].is_baseline && row.standing == Standing::Infeasible)
    {
        notes.push(format!("The baseline is {}.", row.reason.clone().unwrap_or_default()));
    }
    notes
}
