//! One configuration after the other on all instances: what random and grid search have in common.

use std::collections::VecDeque;

use rand_chacha::ChaCha12Rng;

use super::draws::Draws;
use super::{Ask, Outcome, Problem, Strategy, Told};

/// Where configurations may be dropped as too dear, a trial is judged on so many instances before the rest is asked.
const PROBE: usize = 16;
/// How many trials may wait for their probe at a time, so that a budget is not spent on probes alone.
const PROBES_AHEAD: usize = 16;

/// A trial of which not everything was asked yet.
struct Probe {
    trial: usize,
    /// Instances of the probe that were not told yet.
    open: usize,
}

/// Evaluates each configuration of a list on every instance. With `may_drop`, a probe of 16 instances comes first, and the rest only when
/// all of it was told and the trial was not dropped; the next trials' probes go on meanwhile.
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
            probing: problem.may_drop && problem.instances > PROBE,
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
