//! Bayesian optimization with a Gaussian process over mixed spaces.
//!
//! After an even cover of the space (a trial for each dimension, four to ten) the next configuration is the one of greatest
//! expected improvement (Jones, Schonlau & Welch 1998) among random candidates and neighbours of the best; of small spaces
//! among everything that was not tried. The model is in [`gaussian`](super::gaussian): it knows the standard error of each
//! score and learns how much of it is noise between configurations. What improvement is measured from is therefore the best
//! posterior mean, not the luckiest score.
//!
//! Trials under way are taken to come out at the mean (a constant liar; Ginsbourger et al. 2010), infeasible ones below
//! the worst score; missing ones are left out. The work of a proposal is bounded: the best 50 and the latest 50 trials.

use super::encoding::Point;
use super::full::Full;
use super::gaussian::Gaussian;
use super::proposer::{Explorer, Proposer, State};
use super::{Problem, Strategy};
use crate::space::Configuration;
use crate::stats::improvement;

/// At least and at most so many trials cover the space before the model is asked.
const STARTUP: (usize, usize) = (4, 10);
/// The model knows the best so many and the latest so many trials.
const KNOWN: usize = 50;
/// How many candidates are drawn at random; all of a space that has no more.
const RANDOM: usize = 400;
/// How many of the best trials, and then of the best candidates, have their neighbours looked at, and how many of each.
const NEIGHBOURS: (usize, usize) = (4, 16);

struct Gp {
    explorer: Explorer,
    parameters: Vec<f64>,
    /// How many scores there were when the model was fitted last.
    fitted: usize,
}

impl Proposer for Gp {
    fn propose(&mut self) -> Option<Configuration> {
        let mut scores: Vec<(usize, f64)> = Vec::new();
        let mut known = 0;
        for (number, tried) in self.explorer.tried().iter().enumerate() {
            scores.extend(tried.score().map(|score| (number, score)));
            known += usize::from(!matches!(tried.state, State::Pending | State::Missing));
        }
        let dimensions = self.explorer.dimensions().len();
        if known < dimensions.clamp(STARTUP.0, STARTUP.1) || dimensions == 0 {
            return self.explorer.spread();
        }
        scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let found = self.by_model(&scores);
        found.or_else(|| self.explorer.random())
    }

    fn explorer(&mut self) -> &mut Explorer {
        &mut self.explorer
    }
}

impl Gp {
    /// The candidate of greatest expected improvement, given all scores, the best first.
    fn by_model(&mut self, scores: &[(usize, f64)]) -> Option<Configuration> {
        let scale = Scale::new(scores);
        let tried = self.explorer.tried();
        let mut used: Vec<usize> = (tried.len().saturating_sub(KNOWN)..tried.len()).collect();
        used.extend(scores.iter().take(KNOWN).map(|(number, _)| *number));
        used.sort_unstable();
        used.dedup();
        used.retain(|&number| tried[number].state != State::Missing);
        let worst = scores.last().map_or(-1.0, |(_, score)| scale.of(*score) - 1.0);
        let (values, noise): (Vec<f64>, Vec<f64>) = used
            .iter()
            .map(|&number| match tried[number].state {
                State::Finished { score, error } => {
                    (scale.of(score), ((error / scale.width).min(3.0) * 1e6).round() / 1e6)
                }
                State::Infeasible => (worst, 0.0),
                State::Pending | State::Missing => (0.0, 0.0),
            })
            .map(|(value, error): (f64, f64)| (value, error * error))
            .unzip();
        let points: Vec<Point> = used.iter().map(|&number| tried[number].point.clone()).collect();
        // The parameters hardly change from one trial to the next.
        let fit = scores.len() >= self.fitted + 1 + self.fitted / 4 || self.fitted == 0;
        let parameters = self.parameters.clone();
        let model = Gaussian::new(self.explorer.dimensions(), &points, values, noise, parameters, fit)?;
        if fit {
            self.fitted = scores.len();
            self.parameters = model.parameters().to_vec();
        }
        let seen = used.iter().zip(&points).filter(|&(&number, _)| tried[number].score().is_some());
        let best = seen.map(|(_, point)| model.predict(point).0).fold(f64::NEG_INFINITY, f64::max);
        let best = if best.is_finite() { best } else { 0.0 };

        let mut candidates: Vec<(f64, Configuration)> = Vec::new();
        let consider = |explorer: &Explorer, found: Configuration, candidates: &mut Vec<(f64, Configuration)>| {
            candidates.push((improvement(model.predict(&explorer.encode(&found)), best), found));
        };
        let drawn = self.explorer.candidates(RANDOM);
        let all = drawn.len() < RANDOM;
        drawn.into_iter().for_each(|found| consider(&self.explorer, found, &mut candidates));
        for round in 0..if all { 0 } else { 2 } {
            candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
            let around: Vec<Point> = match round {
                0 => scores
                    .iter()
                    .take(NEIGHBOURS.0)
                    .map(|(number, _)| self.explorer.tried()[*number].point.clone())
                    .collect(),
                _ => candidates.iter().take(NEIGHBOURS.0).map(|(_, found)| self.explorer.encode(found)).collect(),
            };
            for point in around {
                for _ in 0..NEIGHBOURS.1 {
                    let place = self.neighbour(&point, if round == 0 { 0.15 } else { 0.04 });
                    if let Some(found) = self.explorer.at(&place) {
                        consider(&self.explorer, found, &mut candidates);
                    }
                }
            }
        }
        candidates.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a }).map(|(_, found)| found)
    }

    /// A place near a point: numbers a little off, one choice in so many another.
    fn neighbour(&mut self, point: &Point, width: f64) -> Vec<f64> {
        let mut place = self.explorer.filled(point);
        let dimensions = place.len() as f64;
        for (axis, at) in place.iter_mut().enumerate() {
            match self.explorer.choices(axis) {
                Some(choices) => {
                    if rand::RngExt::random::<f64>(&mut self.explorer.rng) < 1.0 / dimensions {
                        *at = self.explorer.other_choice(*at, choices);
                    }
                }
                None => *at = (*at + width * self.explorer.normal()).clamp(0.0, 1.0),
            }
        }
        place
    }
}

/// Scores with mean 0 and standard deviation 1, without overflow.
struct Scale {
    middle: f64,
    width: f64,
}

impl Scale {
    fn new(scores: &[(usize, f64)]) -> Scale {
        let count = scores.len().max(1) as f64;
        let middle: f64 = scores.iter().map(|(_, score)| score / count).sum();
        let most = scores.iter().map(|(_, score)| (score - middle).abs()).fold(0.0, f64::max);
        let squares: f64 = scores.iter().map(|(_, score)| ((score - middle) / most).powi(2)).sum();
        let width = most * (squares / count).sqrt();
        Scale { middle, width: if width.is_finite() && width > 0.0 { width } else { 1.0 } }
    }

    fn of(&self, score: f64) -> f64 {
        // Six digits: where the scores' zero lies shall not decide between candidates by its rounding.
        (((score - self.middle) / self.width).clamp(-1e3, 1e3) * 1e6).round() / 1e6
    }
}

/// The proposer.
pub fn proposer(problem: &Problem) -> Box<dyn Proposer> {
    Box::new(Gp { explorer: Explorer::new(problem), parameters: Vec::new(), fitted: 0 })
}

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    Ok(Box::new(Full::new(&problem, proposer(&problem))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn improvement_grows_with_the_mean_and_with_doubt() {
        assert!((improvement((1.0, 0.0), 0.5) - 0.5).abs() < 1e-12);
        assert!((improvement((0.0, 1.0), 0.0) - 0.398_942).abs() < 1e-5);
        assert!(improvement((0.2, 1.0), 0.0) > improvement((0.1, 1.0), 0.0));
        assert!(improvement((0.0, 1.0), 1.0) > improvement((0.0, 0.5), 1.0));
        assert!(improvement((-50.0, 1.0), 0.0) > improvement((-60.0, 1.0), 0.0));
    }

    #[test]
    fn any_scores_have_a_scale() {
        for scores in [vec![], vec![(0, 3.0)], vec![(0, -1e300), (1, 1e300)], vec![(0, 2.0); 4]] {
            let scale = Scale::new(&scores);
            assert!(scores.iter().all(|(_, score)| scale.of(*score).is_finite()));
        }
        let scale = Scale::new(&[(0, 1.0), (1, 3.0)]);
        assert_eq!((scale.of(1.0), scale.of(3.0)), (-1.0, 1.0));
    }
}
