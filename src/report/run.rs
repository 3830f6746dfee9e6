//! A run read back from its folder: what it was, what it came to, every evaluation, and where its responses are kept.
//!
//! The record of events is the source of everything that a summary does not say, so a run that goes on still, or was
//! killed, is read the same way. What is not there (a store that was deleted, a task that changed) is left out and said.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::diagnostic::{Error, Result, Source};
use crate::event::Event;
use crate::money::Usd;
use crate::provider::{Failure, FailureKind};
use crate::report::rows::{self, RankingRow};
use crate::space::{Configuration, Space};
use crate::stats::racing::Line;
use crate::stats::racing::assess::{Evidence, standings};
use crate::stats::racing::costs::Bill;
use crate::stats::{self};
use crate::store::{self, Fingerprint, SharedStore};
use crate::study::folder::{self, StudyFile};
use crate::study::{Claims, Scored, Standing, StopReason, Summary};
use crate::task::{Direction, Instance, Task};

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
            best_toml: ended.then(|| std::fs::read_to_string(path.join("best.toml")).ok()).flatten(),
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

    /// The ranking as it stands, of a run that has no `ranking.csv` yet.
    fn rank(&self) -> Vec<RankingRow> {
        let (direction, budget) = (self.summary.direction, self.file.settings.inference_budget);
        let mut lines: Vec<Line> = vec![Vec::new(); self.summary.tuning_instances.max(self.instances.len())];
        for done in &self.evaluations {
            if let Some(score) = done.score.filter(|score| score.is_finite()) {
                lines[done.instance as usize].push((done.trial, direction.gain(score)));
            }
        }
        let by_trial = self.by_trial();
        let own = |done: &&&Evaluation| done.failure.is_some_and(|at| self.failures[at as usize].kind.own());
        let production: Vec<Bill> = by_trial
            .iter()
            .map(|all| {
                let mut bill = Bill::default();
                all.iter().filter_map(|done| done.production).for_each(|cost| bill.add(cost, None));
                bill
            })
            .collect();
        let barred: Vec<Option<(Standing, String)>> = by_trial
            .iter()
            .enumerate()
            .map(|(trial, all)| {
                if let Some(reason) = self.dropped.get(&(trial as u32)) {
                    return Some((Standing::Infeasible, reason.clone()));
                }
                if let Some(budget) = budget
                    && production[trial].mean > budget.as_f64()
                {
                    let over = format!("over the inference budget of ${budget} an instance so far");
                    return Some((Standing::Infeasible, over));
                }
                let missing = all.iter().filter(own).count();
                (missing as f64 > 0.05 * all.len() as f64).then(|| {
                    let why = format!("{missing} of {} instances are missing for reasons of its own", all.len());
                    (Standing::Unreliable, why)
                })
            })
            .collect();
        let configurations: Vec<_> = self.trials.iter().map(|configuration| &configuration.0).collect();
        let evidence = Evidence {
            configurations: &configurations,
            lines: &lines,
            production: &production,
            inputs: &vec![None; production.len()],
            instances: lines.len(),
        };
        let eligible: Vec<bool> = barred.iter().map(Option::is_none).collect();
        let standings = standings(&evidence, &eligible, 0);
        let names = self.parameters();
        let baseline = self.space.as_ref().and_then(|space| space.baseline.as_ref()).map(Configuration::key);
        let mut rows: Vec<RankingRow> = by_trial
            .iter()
            .enumerate()
            .map(|(trial, all)| {
                let configuration = &self.trials[trial];
                let scores: Vec<f64> = all.iter().filter_map(|done| done.score).collect();
                let estimate = stats::estimate(&scores);
                let interval = estimate.as_ref().and_then(|estimate| estimate.ci95);
                let costs: Vec<Usd> = all.iter().filter_map(|done| done.production).collect();
                let standing = match (&barred[trial], &standings[trial]) {
                    (Some((standing, _)), _) => *standing,
                    (None, None) => Standing::Unjudged,
                    (None, Some(_)) => Standing::Eligible,
                };
                RankingRow {
                    rank: 0,
                    trial,
                    id: configuration.short_id(),
                    standing,
                    baseline: baseline.as_ref() == Some(&configuration.key()),
                    score: estimate.as_ref().map(|estimate| estimate.mean),
                    ci_low: interval.map(|interval| interval.0),
                    ci_high: interval.map(|interval| interval.1),
                    posterior_mean: standings[trial].map(|standing| direction.gain(standing.mean)),
                    posterior_sd: standings[trial].map(|standing| standing.sd),
                    instances: scores.len(),
                    missing: all.len() - scores.len(),
                    production_cost_usd_per_instance: (!costs.is_empty())
                        .then(|| Usd::mean(costs.iter().copied().sum(), costs.len() as u64)),
                    study_cost_usd: all.iter().map(|done| done.cost).sum(),
                    reason: barred[trial].as_ref().map(|(_, reason)| reason.clone()),
                    configuration: names.iter().map(|name| (name.clone(), configuration.get(name).cloned())).collect(),
                    p_best: standings[trial].filter(|_| standing == Standing::Eligible).map(|standing| standing.best),
                    pareto: false,
                }
            })
            .collect();
        let mean = |row: &RankingRow| row.posterior_mean.map_or(f64::NEG_INFINITY, |mean| direction.gain(mean));
        rows.sort_by(|a, b| a.standing.cmp(&b.standing).then(mean(b).total_cmp(&mean(a))).then(a.trial.cmp(&b.trial)));
        rows.iter_mut().enumerate().for_each(|(place, row)| row.rank = place + 1);
        mark_pareto(&mut rows, direction);
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

/// Marks the rows that nothing stands against and that no other beats in both expected score and production cost.
fn mark_pareto(rows: &mut [RankingRow], direction: Direction) {
    let mut order: Vec<(usize, Usd, f64)> = rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.standing == Standing::Eligible)
        .filter_map(|(at, row)| Some((at, row.production_cost_usd_per_instance?, direction.gain(row.posterior_mean?))))
        .collect();
    order.sort_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)).then(a.0.cmp(&b.0)));
    let mut best = f64::NEG_INFINITY;
    for (at, _, gain) in order {
        if gain > best {
            best = gain;
            rows[at].pareto = true;
        }
    }
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

/// What a run's record says.
#[derive(Default)]
struct Record {
    trials: Vec<Configuration>,
    dropped: BTreeMap<u32, String>,
    instances: Vec<String>,
    evaluations: Vec<Evaluation>,
    failures: Vec<Failure>,
    offered: usize,
}

impl Record {
    fn read(path: &Path, gaps: &mut Vec<String>) -> Result<Record> {
        let mut record = Record::default();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(_) => {
                gaps.push("The run's record, events.jsonl, is not there: nothing is shown by instance.".to_owned());
                return Ok(record);
            }
        };
        let (mut reader, mut line, mut number) = (BufReader::new(file), Vec::new(), 0);
        let (mut places, mut kinds) = (HashMap::new(), HashMap::new());
        loop {
            line.clear();
            let read =
                reader.read_until(b'\n', &mut line).map_err(|error| crate::diagnostic::unreadable(path, &error))?;
            // The last line of a run that goes on may be half there.
            if read == 0 || line.last() != Some(&b'\n') {
                return Ok(record);
            }
            number += 1;
            let event: Event = match serde_json::from_slice(&line) {
                Ok(event) => event,
                Err(error) => {
                    gaps.push(format!("events.jsonl is understood only up to line {}: {error}.", number - 1));
                    return Ok(record);
                }
            };
            record.add(event, &mut places, &mut kinds);
        }
    }

    fn add(
        &mut self,
        event: Event,
        places: &mut HashMap<String, u32>,
        kinds: &mut HashMap<(FailureKind, String), u32>,
    ) {
        match event {
            Event::Started { instances, .. } => self.offered = instances,
            // Trials are numbered as they begin; anything else is not of this program.
            Event::TrialStarted { trial, configuration } if trial == self.trials.len() => {
                self.trials.push(configuration);
            }
            Event::TrialDropped { trial, reason } => drop(self.dropped.insert(trial as u32, reason)),
            Event::EvaluationFinished {
                trial,
                instance,
                score,
                failure,
                cost_usd,
                requests,
                metrics,
                production_usd,
                tokens,
                fingerprint,
            } if trial < self.trials.len() => {
                let next = self.instances.len() as u32;
                let place = *places.entry(instance.clone()).or_insert(next);
                if place == next {
                    self.instances.push(instance);
                }
                let failure = failure.map(|failure| {
                    let next = self.failures.len() as u32;
                    let at = *kinds.entry((failure.kind, failure.message.clone())).or_insert(next);
                    if at == next {
                        self.failures.push(failure);
                    }
                    at
                });
                self.evaluations.push(Evaluation {
                    trial: trial as u32,
                    instance: place,
                    score: score.filter(|_| failure.is_none()),
                    failure,
                    cost: cost_usd,
                    production: production_usd,
                    tokens,
                    requests,
                    metrics,
                    fingerprint: fingerprint.as_deref().and_then(fingerprint_of),
                });
            }
            _ => {}
        }
    }
}

/// Reads 64 hexadecimal digits.
fn fingerprint_of(text: &str) -> Option<Fingerprint> {
    let bytes = text.as_bytes();
    let mut print = [0; 32];
    if bytes.len() != 64 {
        return None;
    }
    for (byte, pair) in print.iter_mut().zip(bytes.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Fingerprint(print))
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
    if location == "memory:" {
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
    let price_less = |configuration: &Configuration| {
        configuration.get("model").and_then(Value::as_str).is_some_and(|model| model.starts_with("mock"))
    };
    if !record.trials.is_empty() && record.trials.iter().all(price_less) {
        notes.push("The models are made up: their answers are computed, not written by a language model.".to_owned());
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
        cache_hits: record.evaluations.iter().filter(|done| done.requests == 0 && done.production.is_some()).count()
            as u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_back() {
        let print = Fingerprint(std::array::from_fn(|at| at as u8 * 7));
        assert_eq!(fingerprint_of(&print.to_string()), Some(print));
        assert!(fingerprint_of("00").is_none() && fingerprint_of(&"zz".repeat(32)).is_none());
        assert!(fingerprint_of(&"é".repeat(32)).is_none());
    }

    #[test]
    fn a_record_that_breaks_off_is_read_up_to_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let lines = [
            r#"{"event":"started","task":"t","strategy":"s","instances":9,"already_spent_usd":"0"}"#,
            r#"{"event":"trial_started","trial":0,"configuration":{"model":"mock-small"}}"#,
            r#"{"event":"evaluation_finished","trial":0,"instance":"a","score":1.0,"cost_usd":"0.5","requests":1}"#,
            r#"{"event":"evaluation_finished","trial":7,"instance":"a","score":1.0,"cost_usd":"0.5","requests":1}"#,
            r#"{"event":"best_changed","trial":0,"score":1.0}"#,
            r#"{"event":"evaluation_finished","trial":0,"instance":"b","failure":{"kind":"timeout","message":"x"},"cost_usd":"0","requests":1}"#,
        ];
        std::fs::write(&path, lines.join("\n") + "\n{\"event\":\"evaluation_fin").unwrap();
        let mut gaps = Vec::new();
        let record = Record::read(&path, &mut gaps).unwrap();
        assert!(gaps.is_empty(), "{gaps:?}");
        assert_eq!((record.trials.len(), record.evaluations.len(), record.offered), (1, 2, 9));
        assert_eq!(record.evaluations[0].cost, "0.5".parse().unwrap());
        assert_eq!((record.instances.len(), record.failures.len()), (2, 1));
        std::fs::write(&path, "{\"event\":\"nonsense\"}\n").unwrap();
        Record::read(&path, &mut gaps).unwrap();
        assert!(gaps[0].contains("line 0"), "{gaps:?}");
        Record::read(&folder.path().join("none"), &mut gaps).unwrap();
        assert!(gaps[1].contains("not there"), "{gaps:?}");
    }
}
