//! Hyperband with instances as the resource.
//!
//! Li, Jamieson, DeSalvo, Rostamizadeh & Talwalkar (2018), with eta = 3: brackets of successive halving that begin with many
//! configurations on few instances, the next with fewer on more, the last with a few on all; then again from the first.
//! Configurations are drawn at random. Every trial sees a prefix of the one order of instances and keeps what it saw, so a
//! rung compares on the same instances and pays only for new ones. A rung with fewer instances than four is not worth
//! having. It ends when nothing is left to draw, at `max_trials`, or at the end of the money.

use std::collections::VecDeque;

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::draws::Draws;
use super::full::mean;
use super::{Ask, Outcome, Problem, Strategy, Told};
use crate::space::Configuration;
use crate::stats::too_much_missing;

/// Of so many trials one is promoted, and sees so many times the instances.
const ETA: usize = 3;
/// The first rung of the first bracket has at least so many instances.
const LEAST: usize = 4;

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    let mut rng = ChaCha12Rng::seed_from_u64(problem.seed);
    Ok(Box::new(Hyperband {
        draws: Draws::random(&problem, &mut rng),
        rng,
        instances: problem.instances,
        most: halvings(problem.instances),
        bracket: halvings(problem.instances),
        rung: None,
        trials: Vec::new(),
        queue: VecDeque::new(),
        open: 0,
        refused: false,
    }))
}

/// How often the instances can be divided by eta with enough of them left.
fn halvings(instances: usize) -> u32 {
    (0..).take_while(|&times| instances / ETA.pow(times + 1) >= LEAST).count() as u32
}

#[derive(Default)]
struct Trial {
    depth: usize,
    told: usize,
    scores: Vec<f64>,
    /// Dropped or refused: nothing more may be asked.
    gone: bool,
}

impl Trial {
    /// The mean score on the instances so far. `None` where there is none, or so much is missing that the trial cannot be
    /// best.
    fn mean(&self) -> Option<f64> {
        let count = self.scores.len();
        if count == 0 || self.gone || too_much_missing(self.told - count.min(self.told), self.told) {
            return None;
        }
        Some(mean(&self.scores).0)
    }
}

/// What of a bracket is on its way.
struct Rung {
    members: Vec<usize>,
    /// Rungs after this one.
    left: u32,
}

struct Hyperband {
    draws: Draws,
    rng: ChaCha12Rng,
    instances: usize,
    /// The number of rungs of the first bracket, less one; and of the bracket that comes next.
    most: u32,
    bracket: u32,
    rung: Option<Rung>,
    trials: Vec<Trial>,
    queue: VecDeque<(usize, Option<Configuration>, usize)>,
    open: usize,
    /// Money is at its end: no new trials.
    refused: bool,
}

impl Hyperband {
    /// The instances of a rung after which there are so many more.
    fn depth(&self, left: u32) -> usize {
        (self.instances / ETA.pow(left)).max(1)
    }

    /// Decides what comes next, when everything asked was told. False: nothing.
    fn plan(&mut self) -> bool {
        match self.rung.take() {
            Some(rung) if rung.left > 0 => {
                self.promote(rung);
                true
            }
            _ => self.begin(),
        }
    }

    /// Begins a bracket.
    fn begin(&mut self) -> bool {
        if self.refused || self.instances == 0 {
            return false;
        }
        let left = self.bracket;
        self.bracket = if left == 0 { self.most } else { left - 1 };
        let count = ((self.most as usize + 1) * ETA.pow(left)).div_ceil(left as usize + 1);
        let (mut members, depth) = (Vec::new(), self.depth(left));
        for _ in 0..count {
            let Some(configuration) = self.draws.draw(&mut self.rng) else { break };
            let trial = self.trials.len();
            self.trials.push(Trial { depth, ..Trial::default() });
            members.push(trial);
            self.queue.push_back((trial, Some(configuration), 0));
        }
        let any = !members.is_empty();
        self.rung = any.then_some(Rung { members, left });
        any
    }

    /// Takes the better third of a rung to the next.
    fn promote(&mut self, rung: Rung) {
        let left = rung.left - 1;
        let count = (rung.members.len() / ETA).max(1);
        let mut ranked: Vec<(f64, usize)> =
            rung.members.into_iter().filter_map(|trial| Some((self.trials[trial].mean()?, trial))).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let members: Vec<usize> = ranked.into_iter().take(count).map(|(_, trial)| trial).collect();
        let depth = self.depth(left);
        for &member in &members {
            let trial = &mut self.trials[member];
            if depth > trial.depth {
                self.queue.push_back((member, None, trial.depth));
                trial.depth = depth;
            }
        }
        self.rung = Some(Rung { members, left });
    }
}

impl Strategy for Hyperband {
    fn ask(&mut self) -> Ask {
        loop {
            match self.queue.pop_front() {
                Some((trial, configuration, from)) => {
                    // New trials are numbered through, so they are asked even when money is short.
                    if self.trials[trial].gone && configuration.is_none() {
                        continue;
                    }
                    let instances: Vec<usize> = (from..self.trials[trial].depth).collect();
                    self.open += instances.len();
                    return Ask::Evaluate { trial, configuration, instances };
                }
                None if self.open > 0 => return Ask::Wait,
                None if self.plan() => {}
                None => return Ask::Done,
            }
        }
    }

    fn tell(&mut self, told: Told) {
        self.open = self.open.saturating_sub(1);
        let Some(trial) = self.trials.get_mut(told.trial) else { return };
        trial.told += 1;
        match told.outcome {
            Outcome::Scored { score, .. } => trial.scores.push(score),
            Outcome::Missing => {}
            Outcome::Refused => {
                trial.gone = true;
                self.refused = true;
            }
        }
    }

    fn dropped(&mut self, trial: usize) {
        if let Some(trial) = self.trials.get_mut(trial) {
            trial.gone = true;
        }
    }

    fn look_ahead(&self) -> usize {
        1024
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::json;

    use super::super::simulate::{Reply, Table, drive};
    use super::*;
    use crate::money::Usd;

    #[test]
    fn brackets_go_from_many_on_few_to_few_on_all() {
        assert_eq!([0, 1, 11, 12, 36, 108, 250].map(halvings), [0, 0, 0, 1, 2, 3, 3]);
        let configurations = (0..60).map(|at| serde_json::from_value(json!({"at": at})).unwrap()).collect();
        let table = Arc::new(Table { configurations, ..Table::default() });
        let problem = Problem { instances: 36, ..table.problem(None, 1) };
        let mut strategy = build(problem.clone()).unwrap();
        let log = drive(&mut *strategy, &problem, 9_999, |_, configuration, _| {
            let score = configuration.get("at").and_then(serde_json::Value::as_f64).unwrap();
            Reply {
                outcome: Outcome::Scored { score, production: Usd::ZERO, input: None },
                cost: Usd::ZERO,
                drop: false,
            }
        })
        .unwrap();
        let mut depths = BTreeMap::new();
        log.told.iter().for_each(|told| *depths.entry(told.trial).or_insert(0) += 1);
        let of = |from: usize, to: usize, depth: usize| (from..to).filter(|trial| depths[trial] == depth).count();
        // 9 on 4, 3 on 12, 1 on 36; then 5 on 12, 1 on 36; then 3 on 36; and again until all 60 were tried.
        assert_eq!([of(0, 9, 4), of(0, 9, 12), of(0, 9, 36)], [6, 2, 1]);
        assert_eq!([of(9, 14, 12), of(9, 14, 36)], [4, 1]);
        assert_eq!(of(14, 17, 36), 3);
        assert_eq!(log.trials.len(), 60);
        // The one that goes to the end is the best of its bracket.
        let score = |trial: usize| log.trials[trial].get("at").and_then(serde_json::Value::as_u64);
        assert_eq!((0..9).max_by_key(|&trial| score(trial)), (0..9).find(|trial| depths[trial] == 36));
    }
}
