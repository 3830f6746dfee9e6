//! A run read back from its folder: what it was, what it came to, every evaluation, and where its responses are kept.
//!
//! The record of events is the source of everything that a summary does not say, so a run that goes on still, or was
//! killed, is read the same way. What is not there (a store that was deleted, a task that changed) is left out and said.

mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::backend::{Endpoints, ProviderKind};
use crate::diagnostic::{Error, Result, Source};
use crate::evaluate::{Ranges, Served};
use crate::event::from_store;
use crate::money::Usd;
use crate::provider::Failure;
use crate::report::rows::{self, RankingRow};
use crate::space::{Configuration, Space};
use crate::stats;
use crate::store::{self, Fingerprint, Place, SharedStore};
use crate::study::claims;
use crate::study::folder::{self, StudyFile};
use crate::study::ranking::{self, Against, Entry};
use crate::study::trial::Production;
use crate::study::{Claims, MADE_UP, Ranked, Scored, Standing, StopReason, Summary};
use crate::task::{Instance, Task};
use record::Record;

/// One evaluation as the record tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The trial's number.
    pub trial: u32,
    /// The instance, by its place in [`Run::instances`].
    pub instance: u32,
    /// The objective.
    pub score: Option<f64>,
    /// Why there is none: a place in [`Run::failures`].
    pub failure: Option<u32>,
    /// What it cost the study.
    pub cost: Usd,
    /// What production would pay.
    pub production: Option<Usd>,
    /// Input tokens of a request, output tokens of its completions.
    pub tokens: Option<[u64; 2]>,
    /// Requests that were sent for it.
    pub requests: u64,
    /// The other metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Where its responses are.
    pub fingerprint: Option<Fingerprint>,
}

/// A run, read back.
pub struct Run {
    /// Its folder.
    pub path: PathBuf,
    /// Its `study.toml`.
    pub file: StudyFile,
    /// What it came to, or has come to so far.
    pub summary: Summary,
    /// It has ended: there is a summary.
    pub ended: bool,
    /// The ranking, best first.
    pub rows: Vec<RankingRow>,
    /// The configurations by trial.
    pub trials: Vec<Configuration>,
    /// Why a trial was dropped, by its number.
    pub dropped: BTreeMap<u32, String>,
    /// The instances' names in the order of first asking.
    pub instances: Vec<String>,
    /// Every evaluation, in the order of asking.
    pub evaluations: Vec<Evaluation>,
    /// What failed: each class with its words once.
    pub failures: Vec<Failure>,
    /// The task, if it is as it was.
    pub task: Option<Task>,
    /// The space, if it is as it was.
    pub space: Option<Space>,
    /// The store as the study sees it, if it is there.
    pub store: Option<SharedStore>,
    /// The winner's file, `best.toml`.
    pub best_toml: Option<String>,
    /// What that says.
    pub served: Option<Served>,
    /// What could not be read, in sentences.
    pub gaps: Vec<String>,
}

impl Run {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// A usage error where the folder is no run's, or where a file of it cannot be understood.
    pub fn read(path: &Path) -> Result<Run> {
        match path.join("summary.json").is_file() {
            true => Run::load(path, Some((summary_of(path)?, rows_of(path)?))),
            false => Run::load(path, None),
        }
    }

    /// Reads a run that has just ended so: its folder may not say it yet.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn with(path: &Path, summary: Summary, rows: Vec<RankingRow>) -> Result<Run> {
        Run::load(path, Some((summary, rows)))
    }

    fn load(path: &Path, outcome: Option<(Summary, Vec<RankingRow>)>) -> Result<Run> {
        let file = folder::load(path)?;
        let mut gaps = Vec::new();
        let record = Record::read(&path.join("events.jsonl"), &mut gaps)?;
        let task = task_of(&file, &mut gaps);
        let space = space_of(&file);
        let ended = outcome.is_some();
        let (summary, rows) = outcome.unwrap_or_else(|| (unfinished(&file, &record, task.as_ref()), Vec::new()));
        let best = path.join("best.toml");
        let mut run = Run {
            path: path.to_owned(),
            summary,
            ended,
            rows,
            trials: record.trials,
            dropped: record.dropped,
            instances: record.instances,
            evaluations: record.evaluations,
            failures: record.failures,
            store: store_of(&file, path, &mut gaps),
            best_toml: ended.then(|| std::fs::read_to_string(&best).ok()).flatten(),
            served: ended.then(|| Served::load(&best).ok()).flatten(),
            task,
            space,
            file,
            gaps,
        };
        if !run.evaluations.is_empty() && run.evaluations.iter().all(|done| done.fingerprint.is_none()) {
            run.gaps.push("The run's record does not say where its responses are kept: none is shown.".to_owned());
        }
        if !ended {
            run.rows = run.rank();
            run.settle();
        }
        if run.summary.judged_trials == 0 {
            run.summary.judged_trials = run.rows.iter().filter(|row| row.instances > 0).count();
        }
        Ok(run)
    }

    /// The folder's name: what a run is called among others.
    pub fn name(&self) -> String {
        let full = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        full.file_name().map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The task's instances by name.
    pub fn instances_by_id(&self) -> HashMap<&str, &Instance> {
        let all = self.task.iter().flat_map(|task| task.tune.iter());
        all.map(|instance| (instance.id.as_str(), instance)).collect()
    }

    /// The evaluations of each trial, in the order of asking.
    pub fn by_trial(&self) -> Vec<Vec<&Evaluation>> {
        let mut all: Vec<Vec<&Evaluation>> = vec![Vec::new(); self.trials.len()];
        for done in &self.evaluations {
            if let Some(own) = all.get_mut(done.trial as usize) {
                own.push(done);
            }
        }
        all
    }

    /// The ranking as it stands, of a run that has no `ranking.csv` yet: as the study would rank, with what the record
    /// knows. What production would pay is judged by the bills of each configuration alone.
    fn rank(&self) -> Vec<RankingRow> {
        let direction = self.summary.direction;
        let instances = self.summary.tuning_instances.max(self.instances.len());
        let range = self.task.as_ref().map_or((f64::NEG_INFINITY, f64::INFINITY), |task| {
            Ranges::of(&task.metrics, &task.objective).of_metric(&task.objective.metric)
        });
        let by_trial = self.by_trial();
        let kind = |done: &&Evaluation| Some(self.failures[done.failure? as usize].kind);
        let entries: Vec<Entry> = self
            .trials
            .iter()
            .zip(&by_trial)
            .enumerate()
            .map(|(trial, (configuration, all))| {
                let bills: Vec<Usd> = all.iter().filter_map(|done| done.production).collect();
                let against = Against {
                    production: Production::billed(&bills, instances),
                    dropped: self.dropped.get(&(trial as u32)).map(String::as_str),
                    asked: all.len(),
                    own: all.iter().filter_map(kind).filter(|kind| kind.own()).collect(),
                };
                let scores: Vec<(usize, f64)> =
                    all.iter().filter_map(|done| Some((done.instance as usize, done.score?))).collect();
                let values: Vec<f64> = scores.iter().map(|(_, value)| *value).collect();
                let estimate = stats::estimate(&values).map(|known| known.within(range));
                let cost = (!bills.is_empty()).then(|| Usd::mean(bills.iter().copied().sum(), bills.len() as u64));
                Entry { configuration, scores, estimate, cost, against }
            })
            .collect();
        let names = self.parameters();
        let names: Vec<&String> = names.iter().collect();
        let baseline = self.space.as_ref().and_then(|space| space.baseline.as_ref()).map(Configuration::key);
        let mut ranking = ranking::place(&entries, direction, instances, self.file.settings.inference_budget);
        if let Some(task) = &self.task {
            claims::settle(&mut ranking, &task.objective, |trial, metric| {
                let value = |done: &&Evaluation| match metric == task.objective.metric {
                    true => done.score,
                    false => done.metrics.get(metric).copied(),
                };
                let values: Vec<f64> = by_trial[trial].iter().copied().filter_map(|done| value(&done)).collect();
                stats::estimate(&values).map(|estimate| estimate.mean)
            });
        }
        let row = |ranked: &Ranked| {
            let (configuration, all) = (&self.trials[ranked.trial], &by_trial[ranked.trial]);
            RankingRow {
                baseline: baseline.as_ref() == Some(&configuration.key()),
                missing: all.iter().filter(|done| done.score.is_none()).count(),
                production_cost_usd_per_instance: entries[ranked.trial].cost,
                study_cost_usd: all.iter().map(|done| done.cost).sum(),
                ..rows::placed(ranked, configuration, &names)
            }
        };
        let mut rows: Vec<RankingRow> = ranking.iter().map(row).collect();
        let point = |(at, row): (usize, &RankingRow)| {
            let point = (row.production_cost_usd_per_instance?, direction.gain(row.posterior_mean?));
            (row.standing == Standing::Eligible).then_some((at, point))
        };
        let (places, points): (Vec<usize>, Vec<(Usd, f64)>) = rows.iter().enumerate().filter_map(point).unzip();
        ranking::frontier(&points).into_iter().for_each(|at| rows[places[at]].pareto = true);
        rows
    }

    /// The parameters' names: in the space's order where it is known.
    fn parameters(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.space.iter().flat_map(|space| &space.parameters).map(|parameter| parameter.name.clone()).collect();
        let mut more: Vec<&String> = self.trials.iter().flat_map(|configuration| configuration.0.keys()).collect();
        more.sort();
        for name in more {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Says who leads a run that goes on still.
    fn settle(&mut self) {
        let scored = |row: &RankingRow| Scored {
            trial: row.trial,
            id: row.id.clone(),
            config: row.parameters(),
            score: row.score,
            ci95: row.ci95(),
            instances: row.instances,
            missing: row.missing,
            production_cost_usd_per_instance: row.production_cost_usd_per_instance,
        };
        let best = self.rows.first().filter(|row| row.standing == Standing::Eligible);
        self.summary.best = best.map(scored);
        self.summary.claims.p_best = best.and_then(|row| row.p_best);
        self.summary.baseline = self.rows.iter().find(|row| row.baseline).map(scored);
        if let Some(spent) = self.store.as_ref().and_then(|store| store.spent(&self.file.study).ok()) {
            (self.summary.spent_usd, self.summary.lost_usd, self.summary.requests) =
                (spent.total(), spent.lost, spent.requests);
        }
    }
}

/// What runs are called: their folders' names, with their places where two have one name.
pub fn names(runs: &[Run]) -> Vec<String> {
    let all: Vec<String> = runs.iter().map(Run::name).collect();
    let twice = |name: &String| all.iter().filter(|other| *other == name).count() > 1;
    all.iter()
        .zip(runs)
        .map(|(name, run)| if twice(name) { run.path.display().to_string() } else { name.clone() })
        .collect()
}

/// True where the scores of runs are of one kind: the same metric, and the same way is better.
pub fn alike(runs: &[Run]) -> bool {
    let kind = |run: &Run| (run.summary.metric.clone(), run.summary.direction);
    runs.windows(2).all(|pair| kind(&pair[0]) == kind(&pair[1]))
}

/// The `summary.json` of a run's folder.
pub fn summary_of(path: &Path) -> Result<Summary> {
    let file = path.join("summary.json");
    if !file.is_file() {
        return Err(Error::usage(format!("the run in {} has not ended: it holds no summary.json", path.display()))
            .help(format!("farthing tune --resume {} goes on with it", path.display())));
    }
    let source = Source::read(&file)?;
    serde_json::from_str(source.text()).map_err(|error| {
        let (line, column) = (error.line().saturating_sub(1), error.column().saturating_sub(1));
        let text = source.text().lines().nth(line).unwrap_or_default();
        let error = crate::declaration::plain(&error.to_string());
        Error::usage(format!("{} cannot be read: {error}", source.name())).at_line(
            source.name(),
            line,
            text,
            column..column + 1,
            "here",
        )
    })
}

/// The `ranking.csv` of a run's folder.
pub fn rows_of(path: &Path) -> Result<Vec<RankingRow>> {
    let source = Source::read(&path.join("ranking.csv"))?;
    rows::read_csv(source.text()).map_err(|error| {
        let advice = error.advice().map(str::to_owned);
        Error::usage(format!("{} cannot be read: {error}", source.name())).help_if(advice)
    })
}

fn task_of(file: &StudyFile, gaps: &mut Vec<String>) -> Option<Task> {
    let path = file.inputs.task.as_ref()?;
    match crate::task::load(path) {
        Ok(task) if folder::hash_of(&task) == file.hashes.task => Some(task),
        Ok(_) => {
            gaps.push("The task's data changed since the run was begun: instances are shown by name only.".to_owned());
            None
        }
        Err(_) => {
            gaps.push("The task cannot be read any more: instances are shown by name only.".to_owned());
            None
        }
    }
}

fn space_of(file: &StudyFile) -> Option<Space> {
    let space = crate::space::load(file.inputs.space.as_ref()?).ok()?;
    (folder::space_hash(&space) == file.hashes.space).then_some(space)
}

/// The store of a run: where `study.toml` says, else beside a folder above the run's.
fn store_of(file: &StudyFile, path: &Path, gaps: &mut Vec<String>) -> Option<SharedStore> {
    let location = &file.settings.store;
    if Place::of(location).is_memory() {
        gaps.push("The run kept its responses in memory only: they are gone.".to_owned());
        return None;
    }
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let near = full.ancestors().map(|folder| folder.join(location));
    let found = std::iter::once(PathBuf::from(location)).chain(near).find(|path| path.is_file());
    let opened = found.and_then(|path| store::open_existing(path.to_str()?).ok());
    if opened.is_none() {
        gaps.push(format!(
            "The store with the responses, {location}, is not there: no prompt and no response is shown."
        ));
    }
    opened.map(|opened| store::Fresh::over(opened, file.settings.cache, &file.study))
}

/// What can be said of a run that has no summary yet.
fn unfinished(file: &StudyFile, record: &Record, task: Option<&Task>) -> Summary {
    let settings = &file.settings;
    let cost: Usd = record.evaluations.iter().map(|done| done.cost).sum();
    let objective = task.map(|task| task.objective.clone()).unwrap_or_default();
    let mut notes = Vec::new();
    if made_up(file, record) {
        notes.push(MADE_UP.to_owned());
    }
    Summary {
        task: file.inputs.name.clone(),
        metric: if objective.metric.is_empty() { "score".to_owned() } else { objective.metric },
        direction: objective.direction,
        strategy: settings.strategy.clone(),
        seed: settings.seed,
        stop_reason: StopReason::Interrupted,
        budget_usd: settings.budget_now(),
        inference_budget_usd: settings.inference_budget,
        spent_usd: cost,
        lost_usd: Usd::ZERO,
        study_cost_usd: cost,
        search_cost_usd: cost,
        holdout_cost_usd: Usd::ZERO,
        trials: record.trials.len(),
        judged_trials: 0,
        evaluations: record.evaluations.len() as u64,
        requests: record.evaluations.iter().map(|done| done.requests).sum(),
        cache_hits: record.evaluations.iter().filter(|done| from_store(done.requests, done.production)).count() as u64,
        failed_evaluations: record.evaluations.iter().filter(|done| done.failure.is_some()).count() as u64,
        refused_evaluations: 0,
        tuning_instances: record.offered.max(record.instances.len()),
        best: None,
        best_expected: None,
        baseline: None,
        holdout: None,
        margin: settings.margin,
        claims: Claims::default(),
        pareto: Vec::new(),
        notes,
    }
}

/// True where a model that was asked is made up, as `farthing.toml` says; by its name where that says nothing.
fn made_up(file: &StudyFile, record: &Record) -> bool {
    let endpoints = file.inputs.endpoints.as_ref().and_then(|path| Endpoints::load(path).ok());
    let models: BTreeSet<&str> =
        record.trials.iter().filter_map(|configuration| configuration.get("model")?.as_str()).collect();
    models.into_iter().any(|name| match endpoints.as_ref().and_then(|known| Some((known, known.model(name).ok()?))) {
        Some((known, model)) => known.list[model.endpoints[0]].provider == ProviderKind::Mock,
        None => name.starts_with("mock-"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::FailureKind;

    #[test]
    fn a_run_without_its_summary_is_ranked_as_it_ranked_itself() {
        let outcome = crate::report::testing::shared();
        let mut run = crate::report::page::tests::run_of(outcome);
        run.space = Some((*outcome.space).clone());
        let (own, again) = (rows::rows(outcome), run.rank());
        assert!(own.len() > 6 && own.len() == again.len());
        for (own, again) in own.iter().zip(&again) {
            let of = |row: &RankingRow| {
                (row.trial, row.standing, row.pareto, row.baseline, row.posterior_mean.is_some(), row.missing)
            };
            assert_eq!(of(own), of(again));
            let (mean, same) = (own.posterior_mean.unwrap_or(0.0), again.posterior_mean.unwrap_or(0.0));
            assert!((mean - same).abs() < 0.01, "{mean} {same}");
            assert_eq!((own.score, own.ci95(), own.study_cost_usd), (again.score, again.ci95(), again.study_cost_usd));
        }
        // A further metric decides, where one is to: the letters of the answers, the fewer the better.
        let mut task = (*outcome.workload.task).clone();
        let letters =
            crate::task::Then { metric: "letters".into(), direction: crate::task::Direction::Minimize, tolerance: 0.0 };
        (task.objective.then, task.objective.tolerance) = (vec![letters], Some(1.0));
        let short = again.iter().rfind(|row| row.standing == Standing::Eligible).unwrap().trial as u32;
        for done in &mut run.evaluations {
            done.metrics.insert("letters".to_owned(), if done.trial == short { 1.0 } else { 9.0 });
        }
        run.task = Some(task);
        assert_eq!(run.rank()[0].trial, short as usize);
        run.task = None;
        // With an inference budget some may be over it and some are, and what failed is told by its kind.
        let mut costs: Vec<Usd> = again.iter().filter_map(|row| row.production_cost_usd_per_instance).collect();
        costs.sort_unstable();
        run.file.settings.inference_budget = Some(costs[costs.len() / 2]);
        let standings: BTreeSet<Standing> = run.rank().iter().map(|row| row.standing).collect();
        assert!(standings.contains(&Standing::Infeasible) && standings.contains(&Standing::Unsure), "{standings:?}");
        run.file.settings.inference_budget = None;
        let leader = again[0].trial;
        run.failures = [FailureKind::Server, FailureKind::Refused].map(|kind| Failure::new(kind, "x")).into();
        let own = run.evaluations.iter_mut().filter(|done| done.trial as usize == leader);
        for (at, done) in own.take(9).enumerate() {
            (done.score, done.failure) = (None, Some(u32::from(at > 4)));
        }
        let rows = run.rank();
        let row = rows.iter().find(|row| row.trial == leader).unwrap();
        let why = format!("4 of {} instances are missing for reasons of its own (refused)", row.instances + 9);
        assert_eq!((row.standing, row.missing, row.reason.as_deref()), (Standing::Unreliable, 9, Some(&*why)));
    }

    #[test]
    fn runs_are_told_apart_and_compared_by_metric_and_direction() {
        let outcome = crate::report::testing::shared();
        let mut runs = [(); 2].map(|()| crate::report::page::tests::run_of(outcome));
        runs[1].path = "/elsewhere/doubles-1".into();
        assert_eq!(names(&runs), ["/nowhere/doubles-1", "/elsewhere/doubles-1"]);
        runs[1].path = "/elsewhere/doubles-2".into();
        assert_eq!(names(&runs), ["doubles-1", "doubles-2"]);
        assert!(alike(&runs));
        runs[1].summary.direction = crate::task::Direction::Minimize;
        assert!(!alike(&runs));
    }

    #[test]
    fn made_up_models_are_known_by_their_endpoint_not_by_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("farthing.toml");
        let mut file = crate::report::page::tests::run_of(crate::report::testing::shared()).file;
        let configuration = Configuration([("model".to_owned(), "mock-small".into())].into());
        let record = Record { trials: vec![configuration], ..Record::default() };
        assert!(made_up(&file, &record), "without a farthing.toml");
        std::fs::write(&path, "[endpoints.mock]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:9/v1\"\n[models.mock-small]\nendpoint = \"mock\"\n").unwrap();
        file.inputs.endpoints = Some(path);
        assert!(!made_up(&file, &record));
    }
}
