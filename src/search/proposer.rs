//! Proposers: who names the next configuration, given what became of the earlier ones.
//!
//! A [`Proposer`] alone decides nothing about instances: with full evaluation it is a strategy of its own (`tpe`, `gp`,
//! `cfo`, `blend`, `sobol`). What all of them share (the space as points,
//! what was tried, draws without repetition) is the [`Explorer`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::draws::{DUPLICATES, LISTED};
use super::encoding::{Derived, Dimension, Kind, Point, cell, cell_middle, reach};
use super::space::COSTLY;
use super::{Domain, Problem};
use crate::space::Configuration;
use crate::stats;

/// So many configurations are drawn to learn the values of a domain that does not describe itself.
const PROBES: usize = 256;
/// The length of one scrambled Sobol sequence; then another begins.
const SEQUENCE: u32 = 1 << 16;

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Not known yet.
    Pending,
    /// It has a score.
    Finished {
        /// The mean score, larger is better; finite.
        score: f64,
        /// Its standard error, 0 where unknown.
        error: f64,
    },
    /// It may not be chosen (over the inference budget), whatever its score: worse than everything that may.
    Infeasible,
    /// There is no result: neither good nor bad.
    Missing,
}

/// Names configurations, one after the other.
///
/// It sees only scores where larger is better, so minimizing and maximizing are the same to it.
pub trait Proposer: Send {
    /// The next configuration, which was not tried before; `None` where there is none left.
    fn propose(&mut self) -> Option<Configuration>;

    /// What it knows.
    fn explorer(&mut self) -> &mut Explorer;

    /// A trial begins: whatever this proposer named, or somebody else. Trials are numbered through from 0.
    fn began(&mut self, configuration: &Configuration) {
        self.explorer().began(configuration);
    }

    /// What became of a trial, and what it cost (any unit). The latest word counts.
    fn learned(&mut self, trial: usize, state: State, cost: f64) {
        self.explorer().learned(trial, state, cost);
    }
}

/// A configuration that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// What it is.
    pub configuration: Configuration,
    /// Its point.
    pub point: Point,
    /// What became of it.
    pub state: State,
    /// What it cost; 0 while nothing is known.
    pub cost: f64,
}

impl Tried {
    /// Its score, where it has one that counts.
    pub fn score(&self) -> Option<f64> {
        match self.state {
            State::Finished { score, .. } => Some(score),
            _ => None,
        }
    }
}

/// The space as points, what was tried, and seeded draws of what was not.
pub struct Explorer {
    domain: Arc<dyn Domain>,
    dimensions: Vec<Dimension>,
    /// The encoding of a domain that has none of its own.
    derived: Option<Derived>,
    /// Every configuration of a small space that was not tried yet, with its key and point.
    untried: Option<Vec<(Configuration, String, Point)>>,
    tried: Vec<Tried>,
    numbers: HashMap<String, usize>,
    /// The random stream of everything that is drawn here.
    pub rng: ChaCha12Rng,
    sequence: (u32, u32),
}

impl Explorer {
    /// Nothing was tried yet.
    pub fn new(problem: &Problem) -> Explorer {
        let mut rng = ChaCha12Rng::seed_from_u64(problem.seed);
        let domain = Arc::clone(&problem.domain);
        let small = domain.size().is_some_and(|size| size <= LISTED as u128);
        let listed = if small { domain.enumerate(LISTED).ok() } else { None };
        let dimensions = domain.dimensions();
        let derived = dimensions.is_empty().then(|| match &listed {
            Some(all) => Derived::new(all),
            None => {
                let drawn: Vec<Configuration> = (0..PROBES).map_while(|_| domain.sample(&mut rng)).collect();
                Derived::new(&drawn)
            }
        });
        let dimensions = derived.as_ref().map_or(dimensions, |derived| derived.dimensions.clone());
        let sequence = (rng.random(), 0);
        let mut explorer = Explorer {
            domain,
            dimensions,
            derived,
            untried: None,
            tried: Vec::new(),
            numbers: HashMap::new(),
            rng,
            sequence,
        };
        explorer.untried = listed.map(|all| {
            let mut seen = HashSet::new();
            let entries = all.into_iter().map(|configuration| {
                let (key, point) = (configuration.key(), explorer.encode(&configuration));
                (configuration, key, point)
            });
            entries.filter(|(_, key, _)| seen.insert(key.clone())).collect()
        });
        explorer
    }

    /// What varies.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// The point of a configuration.
    pub fn encode(&self, configuration: &Configuration) -> Point {
        match &self.derived {
            Some(derived) => derived.encode(configuration),
            None => self.domain.encode(configuration),
        }
    }

    /// Every trial, by its number.
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// The number of a configuration's trial.
    pub fn number(&self, configuration: &Configuration) -> Option<usize> {
        self.numbers.get(&configuration.key()).copied()
    }

    fn began(&mut self, configuration: &Configuration) {
        let (key, point) = (configuration.key(), self.encode(configuration));
        if let Some(untried) = &mut self.untried {
            untried.retain(|(_, other, _)| *other != key);
        }
        self.numbers.entry(key).or_insert(self.tried.len());
        let state = State::Pending;
        self.tried.push(Tried { configuration: configuration.clone(), point, state, cost: 0.0 });
    }

    fn learned(&mut self, trial: usize, state: State, cost: f64) {
        if let Some(tried) = self.tried.get_mut(trial) {
            tried.state = match state {
                State::Finished { score, error } if score.is_finite() => {
                    State::Finished { score, error: if error.is_finite() { error.max(0.0) } else { 0.0 } }
                }
                State::Finished { .. } => State::Missing,
                other => other,
            };
            tried.cost = if cost.is_finite() { cost.max(tried.cost) } else { tried.cost };
        }
    }

    /// A configuration that makes a cheap start.
    pub fn low_cost(&self) -> Option<Configuration> {
        let cheap = |configuration: &Configuration| {
            COSTLY.map(|name| configuration.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0))
        };
        let order = |a: &[f64; 4], b: &[f64; 4]| {
            a.iter()
                .zip(b)
                .map(|(a, b)| a.total_cmp(b))
                .find(|order| order.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        };
        let listed = || {
            let tried = self.tried.iter().map(|tried| &tried.configuration);
            let all = self.untried.iter().flatten().map(|(configuration, _, _)| configuration).chain(tried);
            all.min_by(|a, b| order(&cheap(a), &cheap(b))).cloned()
        };
        self.domain.low_cost().or_else(|| self.untried.as_ref().and_then(|_| listed()))
    }

    /// A configuration at random that was not tried.
    pub fn random(&mut self) -> Option<Configuration> {
        if let Some(untried) = &self.untried {
            let count = untried.len();
            return (count > 0).then(|| untried[self.rng.random_range(0..count)].0.clone());
        }
        for _ in 0..DUPLICATES {
            let configuration = self.domain.sample(&mut self.rng)?;
            if self.number(&configuration).is_none() {
                return Some(configuration);
            }
        }
        None
    }

    /// The untried configuration at a place, which has a coordinate for every dimension. In a space that is listed it is
    /// the nearest untried one; in others `None` where the one at the place was tried or breaks a constraint.
    pub fn at(&mut self, place: &[f64]) -> Option<Configuration> {
        if self.derived.is_none()
            && let Some(configuration) = self.domain.decode(place)
            && self.number(&configuration).is_none()
        {
            return Some(configuration);
        }
        let far = |point: &Point| reach(&self.dimensions, place, point);
        if let Some(untried) = &self.untried {
            let nearest = untried.iter().map(|entry| (far(&entry.2), entry)).min_by(|a, b| a.0.total_cmp(&b.0))?;
            return Some(nearest.1.0.clone());
        }
        self.derived.as_ref()?;
        let drawn: Vec<Configuration> = (0..32).map_while(|_| self.random()).collect();
        let far = |configuration: &Configuration| reach(&self.dimensions, place, &self.encode(configuration));
        drawn.into_iter().map(|one| (far(&one), one)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, one)| one)
    }

    /// The next configuration of a scrambled Sobol sequence that was not tried: an even cover of the space.
    pub fn spread(&mut self) -> Option<Configuration> {
        for _ in 0..64 {
            let (seed, index) = self.sequence;
            self.sequence = if index + 1 == SEQUENCE { (seed.wrapping_add(1), 0) } else { (seed, index + 1) };
            let axes = 0..self.dimensions.len() as u32;
            // Past the sequence's dimensions another scramble takes over.
            let most = sobol_burley::NUM_DIMENSIONS;
            let scramble = |axis: u32| seed ^ (axis / most).wrapping_mul(0x9e37_79b9);
            let place: Vec<f64> =
                axes.map(|axis| f64::from(sobol_burley::sample(index, axis % most, scramble(axis)))).collect();
            if let Some(configuration) = self.at(&place) {
                return Some(configuration);
            }
        }
        self.random()
    }

    /// Candidates that were not tried, at random: at most so many, all of a small space.
    pub fn candidates(&mut self, count: usize) -> Vec<Configuration> {
        match &self.untried {
            Some(untried) if untried.len() <= count => {
                untried.iter().map(|(configuration, _, _)| configuration.clone()).collect()
            }
            _ => (0..count).map_while(|_| self.random()).collect(),
        }
    }

    /// A place with a coordinate for every dimension: those of a point, and even draws where it has none.
    pub fn filled(&mut self, point: &[Option<f64>]) -> Vec<f64> {
        point.iter().map(|at| at.unwrap_or_else(|| self.rng.random())).collect()
    }

    /// A standard normal number.
    pub fn normal(&mut self) -> f64 {
        stats::normal(&mut self.rng)
    }

    /// Another choice than the one at a coordinate, at random.
    pub fn other_choice(&mut self, at: f64, choices: usize) -> f64 {
        let choices = choices as u64;
        if choices < 2 {
            return at;
        }
        let drawn = self.rng.random_range(0..choices - 1);
        let drawn = if drawn >= cell(at, choices) { drawn + 1 } else { drawn };
        cell_middle(drawn, choices)
    }

    /// Whether a dimension is one of unordered choices, and of how many.
    pub fn choices(&self, dimension: usize) -> Option<usize> {
        match self.dimensions.get(dimension)?.kind {
            Kind::Choices(count) => Some(count),
            Kind::Number { .. } => None,
        }
    }
}
