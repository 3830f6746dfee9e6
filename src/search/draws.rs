//! Where strategies get distinct configurations from: the ones to try first, then seeded draws without repetition.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use super::{Domain, Problem};
use crate::space::Configuration;

/// Spaces up to this size are enumerated and shuffled, so that they can be exhausted.
pub(super) const LISTED: usize = 10_000;
/// So many draws in a row that were seen before mean that there is little left to find.
pub(super) const DUPLICATES: usize = 1_000;
/// No study tries more configurations than this: it ends a search that costs nothing in a space without end.
pub(super) const MOST_TRIALS: usize = 100_000;

/// Where configurations may be dropped as too dear, a trial is judged on so many instances before the rest is asked.
pub(super) const PROBE: usize = 16;

/// Distinct configurations, one after the other.
pub(super) struct Draws {
    next: VecDeque<Configuration>,
    domain: Option<Arc<dyn Domain>>,
    seen: HashSet<String>,
    left: usize,
}

impl Draws {
    /// The configurations of `problem.first`, then random ones; at most `max_trials` in all.
    pub(super) fn random(problem: &Problem, rng: &mut ChaCha12Rng) -> Draws {
        let small = problem.domain.size().is_some_and(|size| size <= LISTED as u128);
        match small.then(|| problem.domain.enumerate(LISTED)) {
            Some(Ok(mut all)) => {
                all.shuffle(rng);
                Draws::listed(problem, all)
            }
            _ => Draws { domain: Some(Arc::clone(&problem.domain)), ..Draws::listed(problem, Vec::new()) },
        }
    }

    /// The configurations of `problem.first`, then `listed`; at most `max_trials` in all.
    pub(super) fn listed(problem: &Problem, listed: Vec<Configuration>) -> Draws {
        Draws {
            next: problem.first.iter().cloned().chain(listed).collect(),
            domain: None,
            seen: HashSet::new(),
            left: problem.max_trials.unwrap_or(MOST_TRIALS).min(MOST_TRIALS),
        }
    }

    /// The next configuration that was not given before.
    pub(super) fn draw(&mut self, rng: &mut ChaCha12Rng) -> Option<Configuration> {
        if self.left == 0 {
            return None;
        }
        let mut duplicates = 0;
        while duplicates < DUPLICATES {
            let configuration = match self.next.pop_front() {
                Some(configuration) => configuration,
                None => self.domain.as_ref()?.sample(rng)?,
            };
            if self.seen.insert(configuration.key()) {
                self.left -= 1;
                return Some(configuration);
            }
            duplicates += 1;
        }
        None
    }
}
