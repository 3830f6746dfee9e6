//! Where a run stands, gathered from its events alone, so that it is the same from within the run and from another terminal.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::cli::lead;
use crate::event::{Event, Sums, from_store};
use crate::money::Usd;
use crate::report::words;
use crate::space::Configuration;
use crate::stats;
use crate::task::Direction;

/// A rate is of the last so many seconds.
const WINDOW: Duration = Duration::from_secs(15);

/// A configuration so far.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// What it is.
    pub configuration: Configuration,
    /// The objective of every instance that was judged.
    pub scores: Vec<f64>,
    sum: f64,
    /// Evaluations without a result.
    pub failed: u64,
    /// What it cost the study.
    pub cost: Usd,
    /// Why it is out.
    pub dropped: Option<String>,
}

impl Trial {
    /// Mean and interval.
    pub fn estimate(&self) -> Option<stats::Estimate> {
        stats::estimate(&self.scores)
    }
}

/// A run as its events tell it.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The task.
    pub task: String,
    /// The strategy.
    pub strategy: String,
    /// The objective.
    pub metric: String,
    /// Which way is better.
    pub direction: Direction,
    /// Tuning instances.
    pub instances: usize,
    /// The budget in all.
    pub budget: Option<Usd>,
    /// The study's own cost.
    pub cost: Usd,
    /// Money spent, where that is known: within the run, and at its end.
    pub spent: Option<Usd>,
    /// Configurations in the order of asking.
    pub trials: Vec<Trial>,
    /// Evaluations that ended.
    pub evaluations: u64,
    /// Those of them that the store had.
    pub cached: u64,
    /// Those without a result.
    pub failed: u64,
    /// Why, and how many.
    pub failures: BTreeMap<String, u64>,
    /// Evaluations asked for and not ended, where that is known.
    pub waiting: Option<u64>,
    /// Nothing is sent.
    pub paused: bool,
    /// Why it ended.
    pub ended: Option<String>,
    /// The order of its `ranking.csv`, where it ended.
    pub settled: Vec<usize>,
    /// When something happened last.
    pub last: Option<Duration>,
    /// Evaluations and cost at some moments of the window.
    marks: VecDeque<(Duration, u64, Usd)>,
}

impl State {
    /// Takes in an event at a moment (since the view began). `live` is false for what happened before somebody looked.
    pub fn read(&mut self, event: &Event, sums: Option<&Sums>, now: Duration, live: bool) {
        match event {
            Event::Started { task, strategy, instances, metric, direction, budget_usd, .. } => {
                *self = State {
                    task: task.clone(),
                    strategy: strategy.clone(),
                    metric: metric.clone(),
                    direction: *direction,
                    instances: *instances,
                    budget: *budget_usd,
                    ..State::default()
                };
            }
            Event::TrialStarted { trial, configuration } if *trial == self.trials.len() => {
                self.trials.push(Trial { configuration: configuration.clone(), ..Trial::default() });
            }
            Event::EvaluationFinished { trial, score, failure, cost_usd, requests, production_usd, .. } => {
                self.evaluations += 1;
                self.cost += *cost_usd;
                self.cached += u64::from(from_store(*requests, *production_usd));
                if let Some(failure) = failure {
                    self.failed += 1;
                    *self.failures.entry(failure.kind.to_string()).or_default() += 1;
                }
                if let Some(trial) = self.trials.get_mut(*trial) {
                    trial.cost += *cost_usd;
                    trial.failed += u64::from(failure.is_some());
                    if let Some(score) = score {
                        trial.scores.push(*score);
                        trial.sum += score;
                    }
                }
            }
            Event::TrialDropped { trial, reason } => {
                if let Some(trial) = self.trials.get_mut(*trial) {
                    trial.dropped = Some(reason.clone());
                }
            }
            Event::BudgetChanged { budget_usd, .. } => self.budget = Some(*budget_usd),
            Event::Paused { paused } => self.paused = *paused,
            Event::Finished { stop_reason, spent_usd, study_cost_usd } => {
                self.ended = Some(stop_reason.clone());
                (self.spent, self.cost, self.waiting) = (Some(*spent_usd), *study_cost_usd, None);
            }
            _ => {}
        }
        if let Some(sums) = sums {
            self.spent = Some(sums.spent);
            self.waiting = Some(sums.waiting).filter(|_| self.ended.is_none());
        }
        self.last = Some(now);
        if live && self.marks.back().is_none_or(|(at, ..)| now.saturating_sub(*at) >= Duration::from_millis(250)) {
            self.marks.push_back((now, self.evaluations, self.cost));
        }
    }

    /// Evaluations a second and dollars a second, of late.
    pub fn rates(&mut self, now: Duration) -> Option<(f64, f64)> {
        while self.marks.len() > 1 && self.marks.front().is_some_and(|(at, ..)| now.saturating_sub(*at) > WINDOW) {
            self.marks.pop_front();
        }
        let (at, evaluations, cost) = self.marks.front()?;
        let seconds = now.saturating_sub(*at).as_secs_f64();
        let dollars = (self.cost.as_f64() - cost.as_f64()).max(0.0);
        (seconds >= 0.5).then(|| ((self.evaluations - evaluations) as f64 / seconds, dollars / seconds))
    }

    /// How long the rest of the budget lasts at the rate of late.
    pub fn left(&mut self, now: Duration) -> Option<Duration> {
        let budget = self.budget.filter(|_| self.ended.is_none() && !self.paused)?;
        let (_, dollars) = self.rates(now)?;
        let seconds = (budget.as_f64() - self.cost.as_f64()).max(0.0) / dollars;
        // A century is as good as never, and more than a duration holds.
        (seconds.is_finite() && seconds < 3e9).then(|| Duration::from_secs_f64(seconds))
    }

    /// The trials, best first: as the run itself ranked them where it ended. Before, by their mean drawn towards the overall
    /// mean where few were judged; then those that were not judged yet, then those that are out.
    pub fn ranking(&self) -> Vec<usize> {
        let mut settled = self.settled.clone();
        settled.sort_unstable();
        if self.ended.is_some() && settled.iter().copied().eq(0..self.trials.len()) {
            return self.settled.clone();
        }
        let scores: Vec<(f64, u64)> = self.trials.iter().map(|trial| (trial.sum, trial.scores.len() as u64)).collect();
        let gains = lead::gains(&scores, self.direction);
        let mut order: Vec<usize> = (0..self.trials.len()).collect();
        let key = |at: usize| {
            let out = self.trials[at].dropped.is_some();
            (out, gains[at].filter(|_| !out))
        };
        order.sort_by(|&a, &b| {
            let ((a_out, a_gain), (b_out, b_gain)) = (key(a), key(b));
            let better = b_gain.unwrap_or(f64::NEG_INFINITY).total_cmp(&a_gain.unwrap_or(f64::NEG_INFINITY));
            a_out.cmp(&b_out).then(better).then(a.cmp(&b))
        });
        order
    }

    /// The parameters that tell the configurations apart, the prompt and the model first.
    pub fn varying(&self) -> Vec<String> {
        let mut names: Vec<&String> = self.trials.iter().flat_map(|trial| trial.configuration.0.keys()).collect();
        names.sort_by_key(|name| (words::place(name), *name));
        names.dedup();
        let first = self.trials.first();
        let differs = |name: &str| {
            self.trials
                .iter()
                .any(|trial| first.is_some_and(|first| trial.configuration.get(name) != first.configuration.get(name)))
        };
        names.into_iter().filter(|name| self.trials.len() == 1 || differs(name)).cloned().collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// Some events of a little run.
    pub fn events() -> Vec<Event> {
        let started = json!({"event": "started", "task": "sums", "strategy": "halving", "instances": 40, "metric": "accuracy",
            "budget_usd": "0.05", "already_spent_usd": "0"});
        let mut all = vec![started];
        for (trial, prompt) in ["direct", "steps", "long"].into_iter().enumerate() {
            all.push(json!({"event": "trial_started", "trial": trial, "configuration": {"prompt": prompt, "model": "mock-small"}}));
        }
        for instance in 0..10 {
            for trial in 0..3 {
                let mut one = json!({"event": "evaluation_finished", "trial": trial, "instance": instance.to_string(),
                    "cost_usd": "0.001", "requests": u64::from(trial != 0)});
                match (trial, instance) {
                    (2, 4..) => {
                        one["failure"] = json!({"kind": "timeout", "message": "no answer in time"});
                        one["cost_usd"] = json!("0");
                    }
                    _ => {
                        one["score"] = json!(f64::from(u8::from((instance + trial) % 3 > 0 && trial < 2)));
                        one["production_usd"] = json!("0.001");
                    }
                }
                all.push(one);
            }
        }
        all.push(json!({"event": "trial_dropped", "trial": 2, "reason": "too dear"}));
        all.into_iter().map(|event| serde_json::from_value(event).unwrap()).collect()
    }

    /// The state after them, one each tenth of a second.
    pub fn state() -> State {
        let mut state = State::default();
        for (at, event) in events().iter().enumerate() {
            state.read(event, None, Duration::from_millis(100 * at as u64), true);
        }
        state
    }

    #[test]
    fn events_add_up() {
        let mut state = state();
        assert_eq!((state.evaluations, state.failed, state.cached), (30, 6, 10));
        assert_eq!((state.cost, state.budget), ("0.024".parse().unwrap(), Some("0.05".parse().unwrap())));
        assert_eq!(state.failures.values().copied().collect::<Vec<_>>(), [6]);
        assert_eq!(state.ranking(), [1, 0, 2], "the one that is out comes last");
        assert_eq!(state.varying(), ["prompt"]);
        let now = Duration::from_millis(3500);
        let (evaluations, dollars) = state.rates(now).unwrap();
        assert!(
            (evaluations - 30.0 / 3.5).abs() < 0.5 && (dollars - 0.024 / 3.5).abs() < 1e-3,
            "{evaluations} {dollars}"
        );
        let left = state.left(now).unwrap().as_secs_f64();
        assert!((left - 0.026 / dollars).abs() < 0.1, "{left}");
        state.read(&Event::BudgetChanged { from: 30, budget_usd: "0.03".parse().unwrap() }, None, now, true);
        assert_eq!(state.budget, Some("0.03".parse().unwrap()));
        let end = Event::Finished { stop_reason: "budget".into(), spent_usd: Usd::ZERO, study_cost_usd: state.cost };
        state.read(&end, None, now, true);
        assert_eq!((state.left(now), state.ended.as_deref()), (None, Some("budget")));
        assert_eq!(state.ranking(), [1, 0, 2]);
        state.settled = vec![0, 1, 2];
        assert_eq!(state.ranking(), [0, 1, 2], "an ended run has ranked them itself");
        let odd = json!({"event": "evaluation_finished", "trial": 0, "instance": "10", "cost_usd": "0.001", "requests": 0,
            "production_usd": "0.001", "failure": {"kind": "metric", "message": "no number"}});
        state.read(&serde_json::from_value(odd).unwrap(), None, now, true);
        assert_eq!((state.failed, state.cached), (7, 11), "the store had the answer, though it could not be judged");
        state.settled = vec![0, 7, 2];
        assert_eq!(state.ranking(), [1, 0, 2], "the ranking of another run says nothing");
    }

    #[test]
    fn few_lucky_answers_do_not_lead_and_nothing_is_nothing() {
        let mut state =
            State { trials: vec![Trial::default(), Trial::default(), Trial::default()], ..State::default() };
        for (trial, scores) in [(0, vec![1.0, 0.0, 1.0, 1.0, 1.0]), (1, vec![1.0]), (2, vec![0.0; 5])] {
            state.trials[trial].sum = scores.iter().sum();
            state.trials[trial].scores = scores;
        }
        state.trials[0].scores.extend([1.0; 10]);
        state.trials[0].sum += 10.0;
        // One right answer of one is less than nineteen of twenty.
        assert_eq!(state.ranking(), [0, 1, 2]);
        state.direction = Direction::Minimize;
        assert_eq!(state.ranking(), [2, 1, 0]);
        assert!(State::default().ranking().is_empty() && State::default().rates(Duration::ZERO).is_none());
    }
}
