//! The tree-structured Parzen estimator, multivariate.
//!
//! Bergstra, Bardenet, Bengio & Kégl (2011): the trials are split into the best 15 % and the rest, a density is put on
//! either, candidates are drawn from the good one, and the one with the greatest ratio of the two densities is next, which
//! maximizes expected improvement. As Watanabe (2023) lays out for the joint version, each observation's kernel is a
//! product over the parameters: a truncated Gaussian for a number (over its cell where values are on a grid), Aitchison &
//! Aitken's kernel (1976) for a choice; one more kernel is the even prior. Widths follow Scott's rule in the number of
//! parameters and never fall below what the number of kernels can tell apart.
//!
//! * Conditions: an observation says nothing about parameters that are not active in it, so there its kernel is the
//!   prior. Whether a parameter is active is decided by others, which are in the product: so trials of another branch
//!   hardly count, and a branch not seen before is drawn from the prior.
//! * Trials that are not finished count among the rest (a constant liar), so candidates spread out. Infeasible trials are
//!   always among the rest, missing ones nowhere.
//! * The first trials, as many as there are parameters, are an even cover of the space: full evaluations are dear, so
//!   the model is asked earlier than elsewhere.

use statrs::function::erf::erf;

use super::encoding::{Dimension, Kind, Point, cell, cell_middle};
use super::full::Full;
use super::proposer::{Explorer, Proposer, State};
use super::{Problem, Strategy};
use crate::space::Configuration;
use rand::RngExt;

/// A trial for each dimension is spread over the space before the model is asked, at least and at most so many.
const STARTUP: (usize, usize) = (4, 10);
/// The share of the trials that is good, and the most there may be.
const GOOD: (f64, usize) = (0.15, 25);
/// Of the rest the latest so many are looked at, so that a proposal's work is bounded.
const MOST_REST: usize = 500;
/// How many candidates are drawn from the good density.
const CANDIDATES: usize = 48;
/// The width of a Gaussian for one observation of one parameter, before Scott's rule.
const WIDTH: f64 = 0.2;

struct Tpe(Explorer);

impl Proposer for Tpe {
    fn propose(&mut self) -> Option<Configuration> {
        propose(&mut self.0)
    }

    fn explorer(&mut self) -> &mut Explorer {
        &mut self.0
    }
}

/// The proposer.
pub fn proposer(problem: &Problem) -> Box<dyn Proposer> {
    Box::new(Tpe(Explorer::new(problem)))
}

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    Ok(Box::new(Full::new(&problem, proposer(&problem))))
}

/// The next configuration by the model, or of the even cover while too little is known.
pub(super) fn propose(explorer: &mut Explorer) -> Option<Configuration> {
    let mut finished: Vec<(f64, usize)> = Vec::new();
    let (mut rest, mut known) = (Vec::new(), 0);
    for (number, tried) in explorer.tried().iter().enumerate() {
        match tried.state {
            State::Finished { score, .. } => finished.push((score, number)),
            State::Infeasible | State::Pending => rest.push(number),
            State::Missing => {}
        }
        known += usize::from(!matches!(tried.state, State::Pending | State::Missing));
    }
    let dimensions = explorer.dimensions().len();
    if known < dimensions.clamp(STARTUP.0, STARTUP.1) || dimensions == 0 {
        return explorer.spread();
    }
    finished.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let good = ((known as f64 * GOOD.0).ceil() as usize).min(GOOD.1).min(finished.len());
    rest.extend(finished.drain(good..).map(|(_, number)| number));
    rest.sort_unstable();
    rest.drain(..rest.len().saturating_sub(MOST_REST));
    let point = |number: usize| explorer.tried()[number].point.clone();
    let good = Mixture::new(explorer.dimensions(), finished.iter().map(|&(_, number)| point(number)).collect());
    let rest = Mixture::new(explorer.dimensions(), rest.iter().map(|&number| point(number)).collect());
    let mut best: Option<(f64, Configuration)> = None;
    for _ in 0..CANDIDATES {
        let place = good.draw(explorer);
        let Some(candidate) = explorer.at(&place) else { continue };
        let point = explorer.encode(&candidate);
        let gain = good.log_density(&point) - rest.log_density(&point);
        if best.as_ref().is_none_or(|(most, _)| gain > *most) {
            best = Some((gain, candidate));
        }
    }
    best.map(|(_, candidate)| candidate).or_else(|| explorer.random())
}

/// A density over the space: the even prior and one kernel for each observation, all of the same weight. Densities are
/// relative to the prior's.
struct Mixture {
    kinds: Vec<Kind>,
    kernels: Vec<Point>,
    width: f64,
}

impl Mixture {
    fn new(dimensions: &[Dimension], kernels: Vec<Point>) -> Mixture {
        let count = kernels.len() as f64;
        let scott = WIDTH * count.max(1.0).powf(-1.0 / (dimensions.len() as f64 + 4.0));
        let kinds = dimensions.iter().map(|dimension| dimension.kind).collect();
        Mixture { kinds, kernels, width: scott.max(1.0 / (1.0 + count).min(100.0)) }
    }

    /// The chance that a kernel leaves a choice of so many as it is.
    fn keeps(&self, choices: usize) -> f64 {
        let shrink = 1.0 / self.kernels.len().max(1) as f64;
        (1.0 + shrink) / (1.0 + shrink * choices as f64)
    }

    fn log_density(&self, point: &Point) -> f64 {
        let kernel = |centre: &Point| -> f64 {
            let of = |(kind, (at, centre)): (&Kind, (&Option<f64>, &Option<f64>))| {
                let (Some(at), Some(centre)) = (*at, *centre) else { return 0.0 };
                self.part(kind, at, centre).max(1e-300).ln()
            };
            self.kinds.iter().zip(point.iter().zip(centre)).map(of).sum()
        };
        // The prior's own density is 1.
        let logs: Vec<f64> = self.kernels.iter().map(kernel).chain([0.0]).collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + (logs.iter().map(|log| (log - most).exp()).sum::<f64>() / logs.len() as f64).ln()
    }

    /// The density of a kernel in one parameter.
    fn part(&self, kind: &Kind, at: f64, centre: f64) -> f64 {
        match *kind {
            Kind::Choices(choices) => {
                let count = choices as u64;
                let keeps = self.keeps(choices);
                if cell(at, count) == cell(centre, count) {
                    keeps * choices as f64
                } else {
                    (1.0 - keeps) / (choices as f64 - 1.0).max(1.0) * choices as f64
                }
            }
            Kind::Number { cells, .. } => {
                let mass = |from: f64, to: f64| {
                    cumulative((to - centre) / self.width) - cumulative((from - centre) / self.width)
                };
                let all = mass(0.0, 1.0).max(1e-12);
                match cells {
                    Some(cells) => {
                        let half = 0.5 / cells.max(1) as f64;
                        mass(at - half, at + half) / (2.0 * half) / all
                    }
                    None => {
                        let z = (at - centre) / self.width;
                        (-0.5 * z * z).exp() / (self.width * std::f64::consts::TAU.sqrt()) / all
                    }
                }
            }
        }
    }

    /// Draws a place from it.
    fn draw(&self, explorer: &mut Explorer) -> Vec<f64> {
        let kernel = explorer.rng.random_range(0..=self.kernels.len());
        let nothing = vec![None; self.kinds.len()];
        let centre = self.kernels.get(kernel).unwrap_or(&nothing);
        let mut place = Vec::with_capacity(self.kinds.len());
        for (kind, centre) in self.kinds.iter().zip(centre) {
            place.push(match (kind, centre) {
                (Kind::Choices(choices), Some(centre)) => {
                    if explorer.rng.random::<f64>() < self.keeps(*choices) {
                        *centre
                    } else {
                        explorer.other_choice(*centre, *choices)
                    }
                }
                (Kind::Choices(choices), None) => {
                    cell_middle(explorer.rng.random_range(0..*choices.max(&1) as u64), *choices as u64)
                }
                (Kind::Number { .. }, Some(centre)) => {
                    // At least a fifth of every such Gaussian is inside.
                    let drawn = (0..100).map(|_| centre + self.width * explorer.normal());
                    drawn.into_iter().find(|at| (0.0..=1.0).contains(at)).unwrap_or(*centre)
                }
                (Kind::Number { .. }, None) => explorer.rng.random(),
            });
        }
        place
    }
}

/// The standard normal distribution function.
fn cumulative(z: f64) -> f64 {
    0.5 * (1.0 + erf(z * std::f64::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture(kinds: Vec<Kind>, kernels: Vec<Point>) -> Mixture {
        let dimensions: Vec<Dimension> =
            kinds.into_iter().enumerate().map(|(at, kind)| Dimension { name: at.to_string(), kind }).collect();
        Mixture::new(&dimensions, kernels)
    }

    #[test]
    fn densities_have_a_mean_of_one_over_the_space() {
        let number = |cells| Kind::Number { low: 0.0, high: 1.0, log: false, cells };
        let kernels = vec![vec![Some(0.1), Some(0.5), Some(0.95)], vec![Some(0.5), None, Some(0.15)]];
        let mixture = mixture(vec![Kind::Choices(5), number(Some(4)), number(None)], kernels);
        let mut sum = 0.0;
        for choice in 0..5 {
            for step in 0..4 {
                for fine in 0..500 {
                    let point =
                        vec![Some(cell_middle(choice, 5)), Some(cell_middle(step, 4)), Some(cell_middle(fine, 500))];
                    sum += mixture.log_density(&point).exp() / (5.0 * 4.0 * 500.0);
                }
            }
        }
        assert!((sum - 1.0).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn a_choice_that_was_seen_is_denser_and_the_others_are_alike() {
        let mixture = mixture(vec![Kind::Choices(4)], vec![vec![Some(cell_middle(1, 4))]; 3]);
        let at = |choice: u64| mixture.log_density(&vec![Some(cell_middle(choice, 4))]);
        assert!(at(1) > at(0));
        assert_eq!(at(0), at(2));
        assert_eq!(at(0), at(3));
        // Nothing is said of what is not active.
        assert!(mixture.log_density(&vec![None]).abs() < 1e-12);
    }
}
