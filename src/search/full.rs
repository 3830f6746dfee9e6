//! Full evaluation of what a proposer names: every configuration on all instances, a few of them at a time.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::draws::{MOST_TRIALS, PROBE};
use super::proposer::{Proposer, State};
use super::{Ask, Outcome, Problem, Strategy, Told};
use crate::money::Usd;
use crate::space::Configuration;
use crate::stats::too_much_missing;

/// So many evaluations shall be under way, so that replies can be waited for in parallel ...
const UNDER_WAY: usize = 64;
/// ... which is at least and at most so many trials: the proposer decides without knowing how they end.
const TRIALS_UNDER_WAY: (usize, usize) = (4, 8);

/// A trial that is not finished.
#[derive(Default)]
struct Running {
    asked: usize,
    told: usize,
    scores: Vec<(usize, f64)>,
    cost: Usd,
    refused: bool,
}

/// The strategy: a proposer, and all instances for whatever it names. Like `random` it asks a probe of 16 instances first
/// where trials may be dropped, and ends when nothing is left to propose, at `max_trials`, or at the end of the money.
pub(super) struct Full {
    proposer: Box<dyn Proposer>,
    first: VecDeque<Configuration>,
    seen: HashSet<String>,
    left: usize,
    instances: usize,
    probe: usize,
    most_running: usize,
    trials: usize,
    running: BTreeMap<usize, Running>,
    newest_told: usize,
    /// Of each instance how many trials that finished have a score, and their mean.
    levels: Vec<(f64, f64)>,
    /// No new trials.
    ended: bool,
}

impl Full {
    pub(super) fn new(problem: &Problem, proposer: Box<dyn Proposer>) -> Full {
        let (least, most) = TRIALS_UNDER_WAY;
        let probe = if problem.may_drop() { PROBE.min(problem.instances) } else { problem.instances };
        Full {
            proposer,
            first: problem.first.iter().cloned().collect(),
            seen: HashSet::new(),
            left: problem.max_trials.unwrap_or(MOST_TRIALS).min(MOST_TRIALS),
            instances: problem.instances,
            probe,
            most_running: (UNDER_WAY / probe.max(1)).clamp(least, most),
            trials: 0,
            running: BTreeMap::new(),
            newest_told: 0,
            levels: vec![(0.0, 0.0); problem.instances],
            ended: problem.instances == 0,
        }
    }

    fn next(&mut self) -> Option<Configuration> {
        if self.left == 0 {
            return None;
        }
        while let Some(configuration) = self.first.pop_front() {
            if self.seen.insert(configuration.key()) {
                return Some(configuration);
            }
        }
        // A proposer that repeats itself has nothing new to say.
        self.proposer.propose().filter(|configuration| self.seen.insert(configuration.key()))
    }

    /// Tells the proposer what became of a trial.
    fn finish(&mut self, number: usize, trial: Running) {
        let missing = trial.asked - trial.scores.len().min(trial.asked);
        // What misses so much cannot be best, as in the ranking.
        let state = if trial.refused || trial.scores.is_empty() || too_much_missing(missing, trial.asked) {
            State::Missing
        } else {
            let scores: Vec<f64> = trial.scores.iter().map(|(_, score)| *score).collect();
            State::Finished { score: mean(&scores).0, error: self.error(&trial.scores) }
        };
        self.proposer.learned(number, state, trial.cost.as_f64());
    }
}

impl Full {
    /// The standard error of a trial's mean score, less what is due to instances that are hard or easy for all.
    fn error(&mut self, scores: &[(usize, f64)]) -> f64 {
        let mut rests = Vec::new();
        let mut others = f64::INFINITY;
        for &(instance, score) in scores {
            let Some((count, level)) = self.levels.get_mut(instance) else { continue };
            others = others.min(*count);
            rests.push(score - *level);
            *count += 1.0;
            *level += (score - *level) / *count;
        }
        // A level that is known from k trials is itself in doubt: a difference from it has 1 + 1/k times the variance.
        mean(&rests).1 / if others >= 1.0 { (1.0 + 1.0 / others).sqrt() } else { 1.0 }
    }
}

/// The mean and its standard error, without overflow. Sums of whole numbers are exact, so equal trials stay equal.
pub(super) fn mean(scores: &[f64]) -> (f64, f64) {
    let count = scores.len().max(1) as f64;
    let sum: f64 = scores.iter().sum();
    let mean = if sum.is_finite() { sum / count } else { scores.iter().map(|score| score / count).sum() };
    let most = scores.iter().map(|score| (score - mean).abs()).fold(0.0, f64::max);
    let squares: f64 = scores.iter().map(|score| ((score - mean) / most).powi(2)).sum();
    let error = most * (squares / (count - 1.0).max(1.0) / count).sqrt();
    (mean, if most > 0.0 && error.is_finite() { error } else { 0.0 })
}

impl Strategy for Full {
    fn ask(&mut self) -> Ask {
        // Trials that passed their probe are finished before new ones begin.
        let passed = self.running.iter().find(|(_, trial)| trial.told == trial.asked && trial.asked < self.instances);
        if let Some(number) = passed.map(|(number, _)| *number)
            && let Some(trial) = self.running.get_mut(&number)
        {
            let instances = (trial.asked..self.instances).collect();
            trial.asked = self.instances;
            return Ask::Evaluate { trial: number, configuration: None, instances };
        }
        if !self.ended && self.running.len() < self.most_running {
            if let Some(configuration) = self.next() {
                let trial = self.trials;
                self.trials += 1;
                self.left -= 1;
                self.proposer.began(&configuration);
                self.running.insert(trial, Running { asked: self.probe, ..Running::default() });
                return Ask::Evaluate {
                    trial,
                    configuration: Some(configuration),
                    instances: (0..self.probe).collect(),
                };
            }
            self.ended = true;
        }
        if self.running.is_empty() { Ask::Done } else { Ask::Wait }
    }

    fn tell(&mut self, told: Told) {
        let refused = told.outcome == Outcome::Refused;
        // What was refused would be refused again; a cheaper trial that is under way may go on.
        self.ended |= refused && told.trial >= self.newest_told;
        self.newest_told = self.newest_told.max(told.trial);
        let Some(trial) = self.running.get_mut(&told.trial) else { return };
        trial.told += 1;
        trial.cost += told.cost;
        trial.refused |= refused;
        if let Outcome::Scored { score, .. } = told.outcome {
            trial.scores.push((told.instance, score));
        }
        if trial.told == trial.asked
            && (trial.asked == self.instances || trial.refused)
            && let Some(trial) = self.running.remove(&told.trial)
        {
            self.finish(told.trial, trial);
        }
    }

    fn dropped(&mut self, trial: usize) {
        let cost = self.running.remove(&trial).map_or(Usd::ZERO, |trial| trial.cost);
        self.proposer.learned(trial, State::Infeasible, cost.as_f64());
    }

    fn look_ahead(&self) -> usize {
        4096
    }
}
