//! One configuration after the other on all instances: what random and grid search have in common.

use std::collections::VecDeque;

use rand_chacha::ChaCha12Rng;

use super::draws::{Draws, PROBE};
use super::{Ask, Outcome, Problem, Strategy, Told};

/// How many trials may wait for their probe at a time, so that a budget is not spent on probes alone.
const PROBES_AHEAD: usize = 16;

/// A trial of which not everything was asked yet.
struct Probe {
    trial: usize,
    /// Instances of the probe that were not told yet.
    open: usize,
}

/// Evaluates each configuration of a list on every instance. With an inference budget, a probe of 16 instances comes first, and
/// the rest only when all of it was told and the trial was not dropped; the next trials' probes go on meanwhile.
pub(super) struct Sweep {
    draws: Draws,
    rng: ChaCha12Rng,
    instances: usize,
    probing: bool,
    trials: usize,
    probes: VecDeque<Probe>,
    /// The latest trial that something was told of.
    newest_told: usize,
    /// Money is at its end: no new trials.
    ended: bool,
}

impl Sweep {
    pub(super) fn new(problem: &Problem, draws: Draws, rng: ChaCha12Rng) -> Sweep {
        Sweep {
            draws,
            rng,
            instances: problem.instances,
            probing: problem.may_drop() && problem.instances > PROBE,
            trials: 0,
            probes: VecDeque::new(),
            newest_told: 0,
            ended: problem.instances == 0,
        }
    }
}

impl Strategy for Sweep {
    fn ask(&mut self) -> Ask {
        // Trials that passed their probe are finished before new ones begin.
        if let Some(at) = self.probes.iter().position(|probe| probe.open == 0)
            && let Some(Probe { trial, .. }) = self.probes.remove(at)
        {
            return Ask::Evaluate { trial, configuration: None, instances: (PROBE..self.instances).collect() };
        }
        if !self.ended && self.probes.len() < PROBES_AHEAD {
            if let Some(configuration) = self.draws.draw(&mut self.rng) {
                let trial = self.trials;
                self.trials += 1;
                let count = if self.probing { PROBE } else { self.instances };
                if self.probing {
                    self.probes.push_back(Probe { trial, open: PROBE });
                }
                return Ask::Evaluate { trial, configuration: Some(configuration), instances: (0..count).collect() };
            }
            self.ended = true;
        }
        if self.probes.is_empty() { Ask::Done } else { Ask::Wait }
    }

    fn tell(&mut self, told: Told) {
        if let Some(probe) = self.probes.iter_mut().find(|probe| probe.trial == told.trial) {
            probe.open = probe.open.saturating_sub(1);
        }
        if told.outcome == Outcome::Refused {
            // What was refused would be refused again; a cheaper trial that is under way may go on.
            self.probes.retain(|probe| probe.trial != told.trial);
            self.ended |= told.trial >= self.newest_told;
        }
        self.newest_told = self.newest_told.max(told.trial);
    }

    fn dropped(&mut self, trial: usize) {
        self.probes.retain(|probe| probe.trial != trial);
    }

    fn look_ahead(&self) -> usize {
        4096
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::json;

    use super::super::simulate::{Reply, Table, drive};
    use super::super::{Domain, grid, random};
    use super::*;
    use crate::money::Usd;
    use crate::space::Configuration;

    fn points(count: usize) -> Vec<Configuration> {
        (0..count).map(|at| serde_json::from_value(json!({"at": at})).unwrap()).collect()
    }

    fn problem(count: usize, instances: usize) -> Problem {
        let table = Table { configurations: points(count), ..Table::default() };
        Problem { instances, ..Arc::new(table).problem(None, 1) }
    }

    fn reply(outcome: Outcome, drop: bool) -> Reply {
        Reply { outcome, cost: Usd::ZERO, drop }
    }

    const GOOD: Outcome = Outcome::Scored { score: 1.0, production: Usd::ZERO, input: None };

    #[test]
    fn the_grid_goes_in_order_and_repeats_nothing() {
        let problem = Problem { first: points(3)[2..].to_vec(), ..problem(4, 2) };
        let log =
            drive(&mut *grid::build(problem.clone()).unwrap(), &problem, 99, |_, _, _| reply(GOOD, false)).unwrap();
        let all = points(4);
        assert_eq!(log.trials, [all[2].clone(), all[0].clone(), all[1].clone(), all[3].clone()]);
        assert_eq!(log.told.len(), 8);
    }

    #[test]
    fn random_search_exhausts_a_small_space() {
        let problem = problem(50, 1);
        let log =
            drive(&mut *random::build(problem.clone()).unwrap(), &problem, 99, |_, _, _| reply(GOOD, false)).unwrap();
        assert_eq!(log.trials.len(), 50);
        assert_ne!(log.trials, points(50));
    }

    #[test]
    fn a_space_that_cannot_be_listed_is_no_grid() {
        struct Endless;
        impl Domain for Endless {
            fn sample(&self, _: &mut ChaCha12Rng) -> Option<Configuration> {
                None
            }
            fn enumerate(&self, _: usize) -> Result<Vec<Configuration>, String> {
                Err("`temperature` is continuous".into())
            }
            fn size(&self) -> Option<u128> {
                None
            }
        }
        let error = grid::build(Problem { domain: Arc::new(Endless), ..problem(1, 1) }).err().unwrap();
        assert!(error.contains("`temperature`") && error.contains("another strategy"), "{error}");
    }

    #[test]
    fn what_is_dropped_costs_a_probe_only() {
        let problem = Problem { inference_budget: Some(Usd::MAX), ..problem(40, 100) };
        let log = drive(&mut *grid::build(problem.clone()).unwrap(), &problem, 9999, |trial, _, instance| {
            reply(GOOD, trial % 2 == 0 && instance == 5)
        })
        .unwrap();
        let mut counts = BTreeMap::new();
        log.told.iter().for_each(|told| *counts.entry(told.trial).or_insert(0) += 1);
        assert!(counts.iter().all(|(trial, count)| *count == if trial % 2 == 0 { PROBE } else { 100 }), "{counts:?}");
        // Probes go on while the first is under way, but not without end.
        assert_eq!(log.told[16].trial, 1);
        let rest = log.told.iter().position(|told| told.trial == 1 && told.instance == PROBE).unwrap();
        assert!(rest <= PROBE * (PROBES_AHEAD + 2), "{rest}");
    }

    #[test]
    fn a_refusal_ends_new_trials_but_lets_what_is_under_way_finish() {
        let problem = Problem { inference_budget: Some(Usd::MAX), ..problem(400, 20) };
        // The third trial's rest is refused: later ones go on. Everything from the thirtieth on is refused: that is the end.
        let log = drive(&mut *grid::build(problem.clone()).unwrap(), &problem, 9999, |trial, _, instance| {
            reply(if trial >= 30 || trial == 2 && instance >= PROBE { Outcome::Refused } else { GOOD }, false)
        })
        .unwrap();
        assert!((31..=30 + PROBES_AHEAD + 1).contains(&log.trials.len()), "{}", log.trials.len());
        assert_eq!(log.told.iter().filter(|told| told.trial == 29).count(), 20);
    }
}
