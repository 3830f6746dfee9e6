//! The loop: ask the search, evaluate, tell it. Events, resume, ranking, the held-out test.

pub mod agenda;
mod builder;
pub mod claims;
pub mod compare;
pub mod control;
pub mod estimate;
pub mod fixed;
pub mod folder;
pub mod health;
mod input_prices;
mod notes;
pub mod pipeline;
mod prepare;
pub mod production;
pub mod ranking;
pub mod search_agenda;
pub mod settings;
pub mod summary;
pub mod trial;
mod used;
mod work;

use std::sync::Arc;

pub use builder::StudyBuilder;
pub use claims::{Against, Candidate, Claims, FrontierPoint};
pub use control::Stop;
pub use notes::{MADE_UP, all_failed};
pub use prepare::Prepared;
pub(crate) use prepare::{check_batches, open_for};
pub use ranking::{Ranked, Standing};
pub use search_agenda::Readers;
pub use settings::Settings;
pub use summary::{Holdout, Scored, StopReason, Summary, Versus};
pub use trial::Trial;

use crate::backend::Endpoints;
use crate::diagnostic::Result;
use crate::evaluate::Workload;
use crate::event::{Event, Reader, Sums};
use crate::provider::Failure;
use crate::search;
use crate::space::Space;
use crate::store::SharedStore;
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

impl Study {
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

    /// How many configurations can be tried at most, where that is known beforehand.
    fn most(&self) -> Option<usize> {
        let size = self.space.size().and_then(|size| usize::try_from(size).ok());
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
    pub async fn run_prepared(mut self, prepared: Prepared) -> Result<Outcome> {
        let readers = std::mem::take(&mut self.readers);
        let Prepared { store, runner, purse, order, strategy, recorded, already, .. } = prepared;
        let (task, most) = (self.workload.task.clone(), self.most());
        let settings = &self.settings;
        let mut agenda = SearchAgenda::new(&self, strategy, runner.clone(), purse.clone(), order.clone(), readers);
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
            recorded,
            stop: self.stop.clone(),
        };
        self.stop.control().open(&settings.budget_changes);
        let ending = pipeline.run(&mut agenda).await;
        self.stop.control().close();
        let (ending, budget) = (ending?, agenda.budget.or(settings.budget));
        let (search_cost, converged) = (purse.study_cost(), agenda.converged);
        let (mut trials, sums, (refused, first_refusal), mut readers) = agenda.into_parts();
        trials.iter_mut().for_each(|trial| trial.know_ranges(self.workload.ranges()));
        let mut ranking = ranking::rank(&trials, &task.objective, task.tune.len(), settings.inference_budget);
        let mut stands = vec![false; trials.len()];
        ranking.iter().for_each(|row| stands[row.trial] = row.standing == Standing::Eligible);
        let evidence = Evidence::of(&trials, &self.workload, |trial| stands[trial.number]);
        let seed = settings::stream(settings.seed, "claims");
        let by_first = ranking::best(&ranking).cloned().filter(|_| !task.objective.then.is_empty());
        claims::settle(&mut ranking, &task.objective, |trial, metric| {
            trials[trial].estimate(metric).map(|estimate| estimate.mean)
        });
        let by_first_metric =
            by_first.as_ref().is_none_or(|first| ranking::best(&ranking).is_some_and(|best| best.trial == first.trial));
        let workload = &self.workload;
        let search =
            claims::Search { trials: &trials, ranking: &ranking, workload, order: &order, most, by_first_metric };
        let mut claims = claims::claims(&evidence, search, seed);
        claims.expected_gain = converged.or(claims.expected_gain);
        let (mut ending, mut tested) = (ending, None);
        if settings.test_share > 0.0
            && ending != Ending::Interrupted
            && let Some(best) = ranking::best(&ranking)
        {
            // The search may have ended because its part of the money is gone. The test has a part of its own.
            purse.set_limit(budget);
            runner.go_on();
            let winner = trials[best.trial].plan.clone();
            let baseline = trials.iter().find(|trial| trial.is_baseline).map(|trial| trial.plan.clone());
            let test = fixed::holdout(&pipeline, winner, baseline, settings.seed).await?;
            if ending == Ending::Done || test.ending == Ending::Interrupted {
                ending = test.ending.clone();
            }
            tested = Some(test);
        }
        let of_test = tested.as_ref().map_or_else(Sums::default, |test| test.sums);
        let spent = store.spent(&self.scope)?;
        let everything_seen = trials.iter().all(|trial| trial.out() || trial.evaluations.len() == task.tune.len());
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
        let mut summary = Summary {
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
            evaluations: sums.evaluations + of_test.evaluations,
            requests: spent.requests,
            cache_hits: sums.cache_hits + of_test.cache_hits,
            failed_evaluations: sums.failed + of_test.failed,
            refused_evaluations: refused,
            tuning_instances: task.tune.len(),
            best: ranking::best(&ranking).map(scored),
            best_expected: by_first.as_ref().map(scored),
            baseline: ranking.iter().find(|row| trials[row.trial].is_baseline).map(scored),
            margin: settings.margin,
            pareto: claims::frontier(&trials, &ranking, &task.objective),
            notes: notes::notes(&notes::Course {
                workload: &self.workload,
                trials: &trials,
                ranking: &ranking,
                budget: budget.map(|budget| settings.limits(budget).0),
                search_cost,
                already,
                lost: spent.lost,
                first_refusal: first_refusal.as_deref(),
                ending: &ending,
                store: store.as_ref(),
            }),
            claims,
            holdout: None,
        };
        if settings.test_share > 0.0 {
            summary.notes.extend(notes::untested(tested.as_ref(), summary.best.is_some(), &ending));
        }
        if let Some(test) = tested {
            summary.take_test(test.holdout, summary.holdout_cost_usd);
        }
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
        Ok(Outcome { summary, trials, ranking, lost_to, workload: self.workload, space: self.space })
    }
}
