//! BlendSearch: one global search and several local ones, the next proposal to the one that promises most for its cost.
//!
//! Wang, Wu, Huang & Saied (2021). The global search is [`tpe`](super::tpe), the local ones are FLOW2
//! ([`cfo`](super::cfo)): the first begins at the cheap start, others where the global search finds what is at least as
//! good as the median of the local ones. A search's speed is its last improvement over what that cost since the one
//! before; what it takes to improve (or to reach the best of all) is its estimated cost of improvement; the greatest of
//! these is the horizon, and the search whose score would be best there, at its speed, is next. Local searches that ended,
//! or come within a step of a better one, are given up.
//!
//! FLAML's version keeps global proposals within a box around the local searches; nothing is boxed here. Trials that failed
//! or are infeasible have no score, so they are neither starts nor improvements; what they cost counts.

use super::cfo::Flow2;
use super::encoding::distance;
use super::full::Full;
use super::proposer::{Explorer, Proposer, State};
use super::{Problem, Strategy, tpe};
use crate::space::Configuration;

/// What a search has come to.
#[derive(Default)]
struct Progress {
    waiting: Vec<Configuration>,
    cost: f64,
    /// The best score and the one before it, each with what had been spent when it was known.
    best: Option<(f64, f64)>,
    before: Option<(f64, f64)>,
}

impl Progress {
    fn began_at(configuration: Configuration) -> Progress {
        Progress { waiting: vec![configuration], ..Progress::default() }
    }

    /// Takes in what is known now; gives the trials that were finished with a score.
    fn look(&mut self, explorer: &Explorer) -> Vec<(Configuration, f64)> {
        let mut scored = Vec::new();
        for configuration in std::mem::take(&mut self.waiting) {
            let known = explorer.number(&configuration).map(|number| &explorer.tried()[number]);
            let Some(tried) = known.filter(|tried| tried.state != State::Pending) else {
                self.waiting.push(configuration);
                continue;
            };
            self.cost += tried.cost;
            if let Some(score) = tried.score() {
                if self.best.is_none_or(|(best, _)| score > best) {
                    self.before = self.best.replace((score, self.cost));
                }
                scored.push((configuration, score));
            }
        }
        scored
    }

    /// Improvement for each unit of cost; `None` before there was one.
    fn speed(&self) -> Option<f64> {
        let ((best, _), (before, then)) = (self.best?, self.before?);
        let speed = (best - before) / (self.cost - then);
        speed.is_finite().then_some(speed)
    }

    /// What the next improvement will cost, judged by the last ones, or what it costs to reach the best of all.
    fn cost_of_improvement(&self, speed: f64, best_of_all: f64) -> f64 {
        let (best, at) = self.best.unwrap_or((best_of_all, 0.0));
        let usual = (self.cost - at).max(at - self.before.map_or(0.0, |(_, then)| then));
        let catching_up = if speed > 0.0 { 2.0 * (best_of_all - best) / speed } else { 0.0 };
        if catching_up.is_finite() { usual.max(catching_up) } else { usual }
    }
}

struct Blend {
    explorer: Explorer,
    global: Progress,
    local: Vec<(Flow2, Progress)>,
    began: bool,
}

impl Blend {
    fn look(&mut self) {
        for (search, progress) in &mut self.local {
            search.look(&self.explorer);
            progress.look(&self.explorer);
        }
        for (configuration, score) in self.global.look(&self.explorer) {
            let mut bests: Vec<f64> =
                self.local.iter().filter_map(|(search, _)| search.score(&self.explorer)).collect();
            bests.sort_by(f64::total_cmp);
            let median = if bests.is_empty() { None } else { Some(bests[(bests.len() - 1) / 2]) };
            let known = self.local.iter().any(|(search, _)| *search.centre() == configuration);
            if !known && median.is_none_or(|median| score >= median) {
                let mut search = Flow2::new(configuration.clone(), &self.explorer);
                search.look(&self.explorer);
                let mut progress = Progress::began_at(configuration);
                progress.look(&self.explorer);
                self.local.push((search, progress));
            }
        }
        self.merge();
    }

    /// Gives up local searches that stand within a step of a better one.
    fn merge(&mut self) {
        let explorer = &self.explorer;
        self.local.sort_by(|(a, _), (b, _)| {
            let score = |search: &Flow2| search.score(explorer).unwrap_or(f64::NEG_INFINITY);
            score(b).total_cmp(&score(a))
        });
        let mut kept: Vec<(Flow2, Progress)> = Vec::new();
        for (search, progress) in std::mem::take(&mut self.local) {
            let point = explorer.encode(search.centre());
            let near = |other: &Flow2| {
                let gap = distance(explorer.dimensions(), &point, &explorer.encode(other.centre()));
                gap.sqrt() < other.step()
            };
            if !kept.iter().any(|(other, _)| near(other)) {
                kept.push((search, progress));
            }
        }
        self.local = kept;
    }

    /// Which local search is next; `None` for the global one.
    fn choose(&self) -> Option<usize> {
        let (global, _) = self.global.best?;
        let all = || self.local.iter().map(|(_, progress)| progress).chain([&self.global]);
        let best_of_all = all().filter_map(|one| one.best).map(|(best, _)| best).fold(global, f64::max);
        // Who has not improved yet is taken to be as fast as the fastest.
        let fastest = all().filter_map(Progress::speed).fold(0.0, f64::max);
        let speed = |one: &Progress| one.speed().unwrap_or(fastest);
        let horizon = all().map(|one| one.cost_of_improvement(speed(one), best_of_all)).fold(0.0, f64::max);
        let promise = |one: &Progress| {
            let promise = one.best.map_or(f64::NEG_INFINITY, |(best, _)| best + horizon * speed(one));
            if promise.is_nan() { f64::NEG_INFINITY } else { promise }
        };
        let local = (0..self.local.len())
            .max_by(|&a, &b| promise(&self.local[a].1).total_cmp(&promise(&self.local[b].1)).then(b.cmp(&a)))?;
        (promise(&self.local[local].1) >= promise(&self.global)).then_some(local)
    }
}

impl Proposer for Blend {
    fn propose(&mut self) -> Option<Configuration> {
        self.look();
        if !self.began {
            self.began = true;
            if let Some(start) = self.explorer.low_cost() {
                self.local.push((Flow2::new(start.clone(), &self.explorer), Progress::began_at(start.clone())));
                if self.explorer.number(&start).is_none() {
                    return Some(start);
                }
            }
        }
        while let Some(chosen) = self.choose() {
            let (search, progress) = &mut self.local[chosen];
            if let Some(next) = search.propose(&mut self.explorer) {
                progress.waiting.push(next.clone());
                return Some(next);
            }
            self.local.remove(chosen);
        }
        let next = tpe::propose(&mut self.explorer)?;
        self.global.waiting.push(next.clone());
        Some(next)
    }

    fn explorer(&mut self) -> &mut Explorer {
        &mut self.explorer
    }
}

/// The proposer.
pub fn proposer(problem: &Problem) -> Box<dyn Proposer> {
    let explorer = Explorer::new(problem);
    Box::new(Blend { explorer, global: Progress::default(), local: Vec::new(), began: false })
}

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    Ok(Box::new(Full::new(&problem, proposer(&problem))))
}
