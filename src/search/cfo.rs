//! CFO: local search from a cheap start, by FLOW2.
//!
//! Wu, Wang & Huang (2021): from the best configuration so far, go a step in a random direction; if that is no better, go
//! the opposite way; if neither is, draw another direction; after 2^(d - 1) steps without improvement (here at most 32)
//! make steps smaller, by the root of the share of the steps that led to the best. When steps are too small to matter,
//! begin again at a random configuration. Only comparisons are used, so scores of any scale or sign do.
//!
//! * The start has the fewest samples and tokens; everything else is as the space declares it.
//! * Choices have no direction: a step changes each with a chance that is its component of the direction, and shrinks
//!   with the step; the opposite step leaves them.
//! * A step that leads to what was tried before is drawn again; after 32 of them there is nothing new here.
//! * A start that has no score (infeasible, missing) is left for a random one. So no such trial is ever the best one.

use rand::RngExt;

use super::full::Full;
use super::proposer::{Explorer, Proposer, State};
use super::{Problem, Strategy};
use crate::space::Configuration;

/// The first step and the least one, for each root of a dimension.
const STEPS: (f64, f64) = (0.1, 0.01);
/// The most steps without improvement before they become smaller.
const PATIENCE: u32 = 32;
/// How often a step that leads nowhere new is drawn again.
const REDRAWS: usize = 32;

struct Cfo {
    explorer: Explorer,
    search: Option<Flow2>,
}

impl Proposer for Cfo {
    fn propose(&mut self) -> Option<Configuration> {
        loop {
            if let Some(search) = &mut self.search {
                search.look(&self.explorer);
                if let Some(next) = search.propose(&mut self.explorer) {
                    return Some(next);
                }
            }
            let start = match self.search {
                None => self.explorer.low_cost().or_else(|| self.explorer.random()),
                Some(_) => self.explorer.random(),
            }?;
            let mut search = Flow2::new(start.clone(), &self.explorer);
            search.look(&self.explorer);
            let fresh = self.explorer.number(&start).is_none();
            self.search = Some(search);
            if fresh {
                return Some(start);
            }
        }
    }

    fn explorer(&mut self) -> &mut Explorer {
        &mut self.explorer
    }
}

/// The proposer.
pub fn proposer(problem: &Problem) -> Box<dyn Proposer> {
    Box::new(Cfo { explorer: Explorer::new(problem), search: None })
}

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    Ok(Box::new(Full::new(&problem, proposer(&problem))))
}

/// One local search. Its start is proposed by whoever makes it.
pub(super) struct Flow2 {
    /// What it steps from.
    centre: Configuration,
    /// What it named and has not heard of.
    waiting: Vec<Configuration>,
    step: f64,
    opposite: Option<Vec<f64>>,
    /// Steps that were told, those without improvement since the last one or since the step shrank, and the number of the
    /// step that was the best then.
    steps: u32,
    without: u32,
    best_step: u32,
    /// There is nothing new here.
    over: bool,
}

impl Flow2 {
    pub(super) fn new(start: Configuration, explorer: &Explorer) -> Flow2 {
        Flow2 {
            waiting: vec![start.clone()],
            centre: start,
            step: STEPS.0 * (explorer.dimensions().len() as f64).sqrt(),
            opposite: None,
            steps: 0,
            without: 0,
            best_step: 1,
            over: false,
        }
    }

    /// The best score so far, where it has one that still counts.
    pub(super) fn score(&self, explorer: &Explorer) -> Option<f64> {
        explorer.number(&self.centre).and_then(|number| explorer.tried()[number].score())
    }

    /// What it steps from.
    pub(super) fn centre(&self) -> &Configuration {
        &self.centre
    }

    /// The length of a step.
    pub(super) fn step(&self) -> f64 {
        self.step
    }

    /// Takes in what became of its steps.
    pub(super) fn look(&mut self, explorer: &Explorer) {
        let dimensions = explorer.dimensions().len() as u32;
        let patience = 2_u32.saturating_pow(dimensions.saturating_sub(1)).min(PATIENCE);
        for configuration in std::mem::take(&mut self.waiting) {
            let Some(tried) = explorer.number(&configuration).map(|number| &explorer.tried()[number]) else {
                self.waiting.push(configuration);
                continue;
            };
            if tried.state == State::Pending {
                self.waiting.push(configuration);
                continue;
            }
            self.steps += 1;
            let best = self.score(explorer);
            let better = tried.score().is_some_and(|score| best.is_none_or(|best| score > best));
            if better || configuration == self.centre {
                self.centre = configuration;
                self.without = 0;
                self.best_step = self.steps;
                self.opposite = None;
            } else {
                self.without += 1;
            }
            if self.without >= patience {
                self.step *= (f64::from(self.best_step) / f64::from(self.steps)).sqrt();
                self.without = 0;
                self.best_step = self.steps;
            }
        }
        let known = explorer.number(&self.centre).map(|number| explorer.tried()[number].state);
        // A start that came to nothing, and steps too small to matter.
        let failed = matches!(known, Some(State::Infeasible | State::Missing));
        self.over |= failed || self.step < STEPS.1 * f64::from(dimensions).sqrt();
    }

    /// The next step; `None` where this search is over.
    pub(super) fn propose(&mut self, explorer: &mut Explorer) -> Option<Configuration> {
        if self.over || explorer.dimensions().is_empty() {
            return None;
        }
        let centre = explorer.encode(&self.centre);
        for _ in 0..REDRAWS {
            let from = explorer.filled(&centre);
            let opposite = self.opposite.take();
            let direction = match &opposite {
                Some(direction) => direction.clone(),
                None => {
                    let drawn: Vec<f64> = from.iter().map(|_| explorer.normal()).collect();
                    let length = drawn.iter().map(|at| at * at).sum::<f64>().sqrt().max(1e-12);
                    drawn.into_iter().map(|at| at / length).collect()
                }
            };
            let shrunk = self.step / (STEPS.0 * (from.len() as f64).sqrt());
            let mut place = from.clone();
            let mut moved = false;
            for (axis, component) in direction.iter().enumerate() {
                match explorer.choices(axis) {
                    None => {
                        place[axis] = (from[axis] + self.step * component).clamp(0.0, 1.0);
                        moved = true;
                    }
                    Some(choices) if opposite.is_none() => {
                        if explorer.rng.random::<f64>() < component.abs() * shrunk {
                            place[axis] = explorer.other_choice(from[axis], choices);
                            moved = true;
                        }
                    }
                    Some(_) => {}
                }
            }
            let found = if moved { self.repaired(explorer, &from, place) } else { None };
            if let Some(found) = found {
                if opposite.is_none() && direction.iter().enumerate().any(|(axis, _)| explorer.choices(axis).is_none())
                {
                    self.opposite = Some(direction.iter().map(|component| -component).collect());
                }
                self.waiting.push(found.clone());
                return Some(found);
            }
        }
        self.over = true;
        None
    }

    /// What is at a place, or half, or a quarter of the way there: where constraints end, steps are shorter.
    fn repaired(&self, explorer: &mut Explorer, from: &[f64], mut place: Vec<f64>) -> Option<Configuration> {
        for _ in 0..3 {
            if let Some(found) = explorer.at(&place) {
                return Some(found);
            }
            for (axis, (at, from)) in place.iter_mut().zip(from).enumerate() {
                if explorer.choices(axis).is_none() {
                    *at = f64::midpoint(*at, *from);
                }
            }
        }
        None
    }
}
