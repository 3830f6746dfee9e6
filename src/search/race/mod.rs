//! The race: buys next whatever look is expected to be worth most for its price.
//!
//! All configurations look at prefixes of the one order of instances, so comparisons are paired. It opens with as many
//! families of configurations (those that differ only in n) as the budget could tell apart, on two instances each. Then,
//! after every few purchases, the model of [`crate::stats::racing`] is fitted to everything told, and each possible look
//! (a configuration on its next so many instances) is valued by the knowledge gradient with correlated beliefs (Frazier,
//! Powell & Dayanik 2009): how much the best posterior mean is expected to rise. The look with the largest
//! gain / price^0.7 is bought.
//!
//! * A look shows relatives too: other prompts of the same model, other n of the same configuration. Smaller n of what
//!   was bought have their samples already, so they are asked with it, for nothing; of a space too large to be listed,
//!   the other n of what was drawn are candidates too.
//! * Looks that were decided but not told count as made, with the expected result; a plan spends a tenth of the money
//!   that is left, buys at least a twentieth of the evaluations made so far, and then waits for its results. Where
//!   results come in rounds of a batch API, it opens on four instances at once, spends three tenths and buys at least half.
//! * New configurations are looked at when that is worth more than another look at an old one, but only as many join
//!   as the budget could tell apart.
//! * Production costs are learnt as they are told; relatives predict them. What production likely cannot afford is
//!   neither recommended nor, where that is sure, looked at; the gain of a look counts as far as it is affordable. Where
//!   the input's price is known without asking, what is too dear by it alone is never begun.
//! * A tenth of the budget at most is kept for a leader that was looked at less than those near it: relatives are no proof.
//! * What is to be compared with (the baseline) is looked at first, and in the end as far as those that lead.
//! * It ends when no look is expected to change who is best, or when the user's margin is reached, though money be left.
//!
//! At most 96 configurations are thought about at a time: those looked at that may still be best by the additive model,
//! and a changing sample of others. So the work of a plan is bounded but for going through what was told, and since plans
//! grow with it, the work of a search is O(evaluations), as is its memory, beside the configurations listed or drawn.

mod closing;
mod opening;
mod planning;
mod value;

use std::collections::{BTreeMap, HashSet, VecDeque};

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::draws::{Draws, LISTED};
use super::{Ask, Outcome, Problem, Strategy, Told};
use crate::money::Usd;
use crate::space::Configuration;
use crate::stats::racing::costs::{Bill, Input};
use crate::stats::racing::{Line, Variances};

/// What differs where results come in rounds that take hours.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How many are bought at a time.
    block: usize,
    /// Share of the money left that is bought between two fits.
    share: f64,
    /// Instances that the families of the opening are shown.
    opening: usize,
    /// So many of them at a time.
    step: usize,
    /// The least share of what was bought that a plan buys.
    growth: f64,
    /// The share of the budget that at most is kept for a leader that was looked at less than others.
    proof: f64,
}

/// Where every result is told at once.
const STEADY: Pace = Pace { block: 6, share: 0.1, opening: 2, step: 1, growth: 0.05, proof: 0.1 };
/// Few and large plans, at the price of some looks that the results of others would have spared.
const IN_ROUNDS: Pace = Pace { block: 12, share: 0.3, opening: 4, step: 4, growth: 0.5, proof: 0.0 };

/// Of a space that is not listed so many candidates are drawn.
const DRAWN: usize = 1024;

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    Ok(Box::new(Race::new(problem, STEADY)))
}

/// A configuration and what is known of it.
struct Candidate {
    configuration: Configuration,
    family: usize,
    n: f64,
    trial: Option<usize>,
    /// It was asked on the first so many instances.
    depth: usize,
    bill: Bill,
    input: Option<Option<Input>>,
    closed: bool,
    refused: bool,
}

struct Race {
    problem: Problem,
    pace: Pace,
    rng: ChaCha12Rng,
    candidates: Vec<Candidate>,
    families: Vec<Vec<usize>>,
    /// Families of which something was asked.
    tried: Vec<bool>,
    /// Candidates by trial.
    trials: Vec<usize>,
    /// By instance, the scores of candidates.
    lines: Vec<Line>,
    /// Candidates of which something was asked or is about to be.
    begun: usize,
    evaluations: usize,
    spent: Usd,
    queue: VecDeque<(usize, usize, usize)>,
    open: usize,
    variances: Option<Variances>,
    learnt_at: usize,
    started: usize,
    /// As many families as there shall be were begun with.
    widened: bool,
    /// The deepest that was looked at one of those that may come out best.
    depth: usize,
    /// The baseline was brought up.
    compared: bool,
    /// Something did not fit the budget any more.
    money_ends: bool,
}

impl Race {
    fn new(problem: Problem, pace: Pace) -> Race {
        let mut rng = ChaCha12Rng::seed_from_u64(problem.seed);
        let mut draws = Draws::random(&Problem { max_trials: None, ..problem.clone() }, &mut rng);
        let listed = problem.domain.size().is_some_and(|size| size <= LISTED as u128);
        let most = if listed { usize::MAX } else { DRAWN };
        let mut race = Race {
            lines: Vec::new(),
            problem,
            pace,
            rng: rng.clone(),
            candidates: Vec::new(),
            families: Vec::new(),
            tried: Vec::new(),
            trials: Vec::new(),
            begun: 0,
            evaluations: 0,
            spent: Usd::ZERO,
            queue: VecDeque::new(),
            open: 0,
            variances: None,
            learnt_at: 0,
            started: 0,
            widened: false,
            depth: 0,
            compared: false,
            money_ends: false,
        };
        let mut drawn = Vec::new();
        while drawn.len() < most {
            let Some(configuration) = draws.draw(&mut rng) else { break };
            drawn.push(configuration);
        }
        // Of a space that is not listed, the draws with other n: their samples are shared.
        let mut keys: HashSet<String> = drawn.iter().map(Configuration::key).collect();
        let siblings: Vec<Configuration> = match listed {
            true => Vec::new(),
            false => drawn.iter().flat_map(|one| race.problem.domain.siblings(one)).collect(),
        };
        drawn.extend(siblings.into_iter().filter(|one| keys.insert(one.key())));
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for configuration in drawn {
            let next = names.len();
            let family = *names.entry(configuration.family()).or_insert(next);
            if family == race.families.len() {
                race.families.push(Vec::new());
                race.tried.push(false);
            }
            race.families[family].push(race.candidates.len());
            race.candidates.push(Candidate {
                family,
                n: configuration.samples(),
                configuration,
                trial: None,
                depth: 0,
                bill: Bill::default(),
                input: None,
                closed: false,
                refused: false,
            });
        }
        let candidates = &race.candidates;
        race.families
            .iter_mut()
            .for_each(|members| members.sort_by(|&a, &b| candidates[a].n.total_cmp(&candidates[b].n).then(a.cmp(&b))));
        race
    }

    fn left(&self) -> Option<f64> {
        self.problem.budget.map(|budget| budget.saturating_left(self.spent).as_f64())
    }

    /// What a candidate's input costs an instance, where that is known without asking.
    fn input(&mut self, at: usize) -> Option<Input> {
        let one = &mut self.candidates[at];
        *one.input.get_or_insert_with(|| self.problem.inputs.as_ref().and_then(|price| price(&one.configuration)))
    }

    /// True where its input alone is more than production can afford.
    fn too_dear(&mut self, at: usize) -> bool {
        let Some(budget) = self.problem.inference_budget.map(Usd::as_f64) else { return false };
        self.input(at).is_some_and(|input| input.over(budget))
    }

    fn trials_left(&self) -> usize {
        self.problem.max_trials.unwrap_or(usize::MAX).saturating_sub(self.begun)
    }

    /// Asks a candidate on instances up to a depth, and what comes free with it.
    fn buy(&mut self, candidate: usize, depth: usize) {
        let depth = depth.min(self.problem.instances);
        let members = self.families[self.candidates[candidate].family].clone();
        let n = self.candidates[candidate].n;
        let smaller = members.into_iter().rev().filter(|&member| self.candidates[member].n < n && member != candidate);
        let wanted: Vec<usize> = std::iter::once(candidate).chain(smaller).collect();
        for member in wanted {
            let one = &self.candidates[member];
            if !one.closed && !one.refused && (one.depth > 0 || self.trials_left() > 0) {
                self.queue_up(member, depth);
            }
        }
    }

    /// Asks a candidate on instances up to a depth.
    fn queue_up(&mut self, member: usize, depth: usize) {
        let one = &mut self.candidates[member];
        if one.depth >= depth {
            return;
        }
        self.begun += usize::from(one.depth == 0);
        self.queue.push_back((member, one.depth, depth));
        self.tried[one.family] = true;
        one.depth = depth;
    }
}

impl Strategy for Race {
    fn ask(&mut self) -> Ask {
        loop {
            if let Some((at, from, to)) = self.queue.pop_front() {
                let one = &self.candidates[at];
                if one.closed || (one.refused && one.trial.is_some()) {
                    continue;
                }
                let (trial, configuration) = match one.trial {
                    Some(trial) => (trial, None),
                    None => {
                        self.trials.push(at);
                        (self.trials.len() - 1, Some(one.configuration.clone()))
                    }
                };
                self.candidates[at].trial = Some(trial);
                self.open += to - from;
                return Ask::Evaluate { trial, configuration, instances: (from..to).collect() };
            }
            if self.open > 0 {
                return Ask::Wait;
            }
            if !self.plan() {
                return Ask::Done;
            }
        }
    }

    fn tell(&mut self, told: Told) {
        self.open = self.open.saturating_sub(1);
        self.spent += told.cost;
        let Some(&at) = self.trials.get(told.trial) else { return };
        let one = &mut self.candidates[at];
        match told.outcome {
            Outcome::Scored { score, production, input } => {
                one.bill.add(production, input);
                self.evaluations += 1;
                if self.lines.len() <= told.instance {
                    self.lines.resize_with(told.instance + 1, Vec::new);
                }
                self.lines[told.instance].push((at as u32, score));
            }
            Outcome::Missing => {}
            Outcome::Refused => {
                one.refused = true;
                self.money_ends = true;
            }
        }
    }

    fn dropped(&mut self, trial: usize) {
        if let Some(&at) = self.trials.get(trial) {
            self.candidates[at].closed = true;
        }
    }

    fn budget(&mut self, budget: Usd) {
        let raised = self.problem.budget.is_some_and(|before| budget > before);
        self.problem.budget = Some(budget);
        if raised {
            // What did not fit may now.
            self.candidates.iter_mut().for_each(|one| one.refused = false);
            (self.money_ends, self.compared, self.widened) = (false, false, false);
        }
    }

    fn look_ahead(&self) -> usize {
        1024
    }

    fn in_rounds(&mut self) {
        self.pace = IN_ROUNDS;
    }
}

#[cfg(test)]
mod tests;
