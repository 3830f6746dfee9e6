//! A Gaussian process over points of a space: numbers and unordered choices.
//!
//! Rasmussen & Williams (2006). The kernel is a Matérn 5/2 over the numbers, with a length for each, times an overlap
//! kernel over the choices: each that differs multiplies by `exp(-1 / length)`. A number that is not active stands in the
//! middle of its range, a choice that is not active is one more choice. The lengths, the variance, and a factor on the
//! observations' own noise are those of greatest posterior density: the marginal likelihood with weak log-normal priors
//! (lengths grow with the root of the number of dimensions), climbed with argmin's L-BFGS.

use std::cell::RefCell;

use argmin::core::{CostFunction, Error, Executor, Gradient};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;

use super::encoding::{Dimension, Kind, Point, cell};

/// Steps of the fit.
const STEPS: u64 = 15;
/// Variance that is always added, in units of the values' variance: values are hardly known better.
const NUGGET: f64 = 1e-4;
/// The centre and width of the prior of each kind of parameter: of the variance; of the factor on the observations' noise
/// variance; of a length.
const VARIANCE: (f64, f64) = (0.0, 1.0);
const NOISE: (f64, f64) = (-1.0, 1.5);
const LENGTH: (f64, f64) = (-0.7, 1.0);

/// One coordinate as the kernel sees it.
#[derive(Clone, Copy)]
enum Coordinate {
    Number(f64),
    Choice(u64),
}

/// What is known, and the parameters: the logarithms of the variance, of the noise's factor, and of each length.
pub(super) struct Gaussian {
    kinds: Vec<Kind>,
    points: Vec<Vec<Coordinate>>,
    values: Vec<f64>,
    noise: Vec<f64>,
    parameters: Vec<f64>,
    /// The Cholesky factor of the covariance, row by row, and its inverse times the values.
    factor: Vec<f64>,
    weights: Vec<f64>,
}

impl Gaussian {
    /// A process with these values (of about mean 0 and variance 1) and noise variances. `parameters` are those of an
    /// earlier fit, or empty; with `fit` they are improved.
    pub(super) fn new(
        dimensions: &[Dimension],
        points: &[Point],
        values: Vec<f64>,
        noise: Vec<f64>,
        parameters: Vec<f64>,
        fit: bool,
    ) -> Option<Gaussian> {
        let kinds: Vec<Kind> = dimensions.iter().map(|dimension| dimension.kind).collect();
        let prior = prior(kinds.len());
        let parameters =
            if parameters.len() == prior.len() { parameters } else { prior.iter().map(|(at, _)| *at).collect() };
        let points = points.iter().map(|point| coordinates(&kinds, point)).collect();
        let mut gaussian =
            Gaussian { kinds, points, values, noise, parameters, factor: Vec::new(), weights: Vec::new() };
        if fit {
            gaussian.parameters = gaussian.fitted();
        }
        let solved = gaussian.solve(&gaussian.parameters)?;
        (gaussian.factor, gaussian.weights) = (solved.factor, solved.weights);
        Some(gaussian)
    }

    pub(super) fn parameters(&self) -> &[f64] {
        &self.parameters
    }

    /// The mean and the standard deviation of the value at a point, without the noise of an observation.
    pub(super) fn predict(&self, point: &Point) -> (f64, f64) {
        let point = coordinates(&self.kinds, point);
        let count = self.values.len();
        let mut solved: Vec<f64> =
            self.points.iter().map(|other| self.kernel(&self.parameters, &point, other)).collect();
        let mean = solved.iter().zip(&self.weights).map(|(k, weight)| k * weight).sum();
        forward(&self.factor, count, &mut solved);
        let explained: f64 = solved.iter().map(|at| at * at).sum();
        (mean, (bounded(self.parameters[0]).exp() - explained).max(0.0).sqrt())
    }

    fn kernel(&self, parameters: &[f64], a: &[Coordinate], b: &[Coordinate]) -> f64 {
        let (squares, differ) = gaps(parameters, a, b);
        let far = (5.0 * squares).sqrt();
        bounded(parameters[0]).exp() * (1.0 + far + 5.0 / 3.0 * squares) * (-far - differ).exp()
    }

    /// The parameters of greatest posterior density that the climb found.
    fn fitted(&self) -> Vec<f64> {
        let best = RefCell::new(None);
        let climb = Climb { gaussian: self, best: &best, latest: RefCell::new(None) };
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), 7);
        // A line search that fails has still looked at better parameters than those of the start.
        let _ = Executor::new(climb, solver)
            .configure(|state| state.param(self.parameters.clone()).max_iters(STEPS))
            .timer(false)
            .run();
        best.into_inner().map_or_else(|| self.parameters.clone(), |(_, best): (f64, Vec<f64>)| best)
    }

    /// Minus the logarithm of the posterior density, and everything that came up on the way; `None` where the covariance
    /// is not positive definite.
    fn solve(&self, parameters: &[f64]) -> Option<Solved> {
        let count = self.values.len();
        let noise = bounded(*parameters.get(1)?).exp();
        let mut factor = vec![0.0; count * count];
        for row in 0..count {
            for column in 0..=row {
                factor[row * count + column] = self.kernel(parameters, &self.points[row], &self.points[column]);
            }
            factor[row * count + row] += NUGGET + noise * self.noise[row];
        }
        cholesky(&mut factor, count)?;
        let mut weights = self.values.clone();
        forward(&factor, count, &mut weights);
        let fit: f64 = weights.iter().map(|at| at * at).sum();
        backward(&factor, count, &mut weights);
        let volume: f64 = (0..count).map(|row| factor[row * count + row].ln()).sum();
        let prior: f64 =
            parameters.iter().zip(prior(self.kinds.len())).map(|(at, (mean, sd))| ((at - mean) / sd).powi(2)).sum();
        let cost = 0.5 * fit + volume + 0.5 * prior;
        cost.is_finite().then_some(Solved { cost, factor, weights })
    }

    /// The gradient of what [`solve`](Self::solve) gives.
    fn gradient(&self, parameters: &[f64], solved: &Solved) -> Vec<f64> {
        let count = self.values.len();
        let mut gradient: Vec<f64> =
            parameters.iter().zip(prior(self.kinds.len())).map(|(at, (mean, sd))| (at - mean) / (sd * sd)).collect();
        let variance = bounded(parameters[0]).exp();
        let noise = bounded(parameters[1]).exp();
        let mut column = vec![0.0; count];
        for at in 0..count {
            column.fill(0.0);
            column[at] = 1.0;
            forward(&solved.factor, count, &mut column);
            backward(&solved.factor, count, &mut column);
            gradient[1] += 0.5 * (column[at] - solved.weights[at].powi(2)) * noise * self.noise[at];
            for (other, inverse) in column.iter().enumerate().take(at + 1) {
                let pull = (inverse - solved.weights[at] * solved.weights[other]) * if other == at { 0.5 } else { 1.0 };
                let (squares, differ) = gaps(parameters, &self.points[at], &self.points[other]);
                let far = (5.0 * squares).sqrt();
                let scale = variance * (-far - differ).exp();
                let kernel = scale * (1.0 + far + 5.0 / 3.0 * squares);
                gradient[0] += pull * kernel;
                for (axis, (a, b)) in self.points[at].iter().zip(&self.points[other]).enumerate() {
                    let length = bounded(parameters[axis + 2]).exp();
                    gradient[axis + 2] += pull
                        * match (a, b) {
                            (Coordinate::Number(a), Coordinate::Number(b)) => {
                                scale * 5.0 / 3.0 * (1.0 + far) * ((a - b) / length).powi(2)
                            }
                            (Coordinate::Choice(a), Coordinate::Choice(b)) if a == b => 0.0,
                            _ => kernel / length,
                        };
                }
            }
        }
        gradient
    }
}

/// The centre and the width of each parameter's prior.
fn prior(dimensions: usize) -> Vec<(f64, f64)> {
    let length = (LENGTH.0 + 0.5 * (dimensions.max(1) as f64).ln(), LENGTH.1);
    [VARIANCE, NOISE].into_iter().chain(std::iter::repeat_n(length, dimensions)).collect()
}

/// A parameter within what floats can bear.
fn bounded(parameter: f64) -> f64 {
    parameter.clamp(-10.0, 10.0)
}

fn coordinates(kinds: &[Kind], point: &Point) -> Vec<Coordinate> {
    let coordinate = |(kind, at): (&Kind, &Option<f64>)| match kind {
        Kind::Number { .. } => Coordinate::Number(at.unwrap_or(0.5)),
        Kind::Choices(choices) => Coordinate::Choice(at.map_or(u64::MAX, |at| cell(at, *choices as u64))),
    };
    kinds.iter().zip(point).map(coordinate).collect()
}

/// The squared distance in units of the lengths, and the sum over choices that differ.
fn gaps(parameters: &[f64], a: &[Coordinate], b: &[Coordinate]) -> (f64, f64) {
    let (mut squares, mut differ) = (0.0, 0.0);
    for ((a, b), length) in a.iter().zip(b).zip(parameters.iter().skip(2)) {
        match (a, b) {
            (Coordinate::Number(a), Coordinate::Number(b)) => squares += ((a - b) / bounded(*length).exp()).powi(2),
            (Coordinate::Choice(a), Coordinate::Choice(b)) if a == b => {}
            _ => differ += 1.0 / bounded(*length).exp(),
        }
    }
    (squares, differ)
}

struct Solved {
    cost: f64,
    factor: Vec<f64>,
    weights: Vec<f64>,
}

/// The problem that argmin minimizes.
struct Climb<'a> {
    gaussian: &'a Gaussian,
    /// The least cost so far and where it was.
    best: &'a RefCell<Option<(f64, Vec<f64>)>>,
    latest: RefCell<Option<(Vec<f64>, Solved)>>,
}

impl Climb<'_> {
    /// What `read` makes of the solution at these parameters, which is kept for the other question about it.
    fn at<T>(&self, parameters: &[f64], read: impl FnOnce(&Solved) -> T) -> Result<T, Error> {
        let mut latest = self.latest.borrow_mut();
        if let Some((_, solved)) = latest.as_ref().filter(|(at, _)| at == parameters) {
            return Ok(read(solved));
        }
        let solved = self.gaussian.solve(parameters).ok_or_else(|| Error::msg("not positive definite"))?;
        if self.best.borrow().as_ref().is_none_or(|(least, _)| solved.cost < *least) {
            *self.best.borrow_mut() = Some((solved.cost, parameters.to_vec()));
        }
        Ok(read(&latest.insert((parameters.to_vec(), solved)).1))
    }
}

impl CostFunction for Climb<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, parameters: &Vec<f64>) -> Result<f64, Error> {
        self.at(parameters, |solved| solved.cost)
    }
}

impl Gradient for Climb<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, parameters: &Vec<f64>) -> Result<Vec<f64>, Error> {
        self.at(parameters, |solved| self.gaussian.gradient(parameters, solved))
    }
}

/// Replaces the lower half of a symmetric matrix by its Cholesky factor; `None` where it is not positive definite.
fn cholesky(matrix: &mut [f64], size: usize) -> Option<()> {
    for row in 0..size {
        for column in 0..=row {
            let (upper, lower) = matrix.split_at(row * size);
            let other = if column == row { &lower[..column] } else { &upper[column * size..column * size + column] };
            let sum: f64 = lower[..column].iter().zip(other).map(|(a, b)| a * b).sum();
            let rest = lower[column] - sum;
            let value = if column < row { rest / upper[column * size + column] } else { rest.sqrt() };
            if !value.is_finite() || column == row && value <= 0.0 {
                return None;
            }
            matrix[row * size + column] = value;
        }
    }
    Some(())
}

/// Solves `L x = b` in place.
fn forward(factor: &[f64], size: usize, values: &mut [f64]) {
    for row in 0..size {
        let line = &factor[row * size..row * size + row + 1];
        let sum: f64 = line[..row].iter().zip(values.iter()).map(|(a, b)| a * b).sum();
        values[row] = (values[row] - sum) / line[row];
    }
}

/// Solves `L' x = b` in place.
fn backward(factor: &[f64], size: usize, values: &mut [f64]) {
    for row in (0..size).rev() {
        values[row] /= factor[row * size + row];
        let value = values[row];
        let line = &factor[row * size..row * size + row];
        values[..row].iter_mut().zip(line).for_each(|(at, a)| *at -= a * value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dimensions() -> Vec<Dimension> {
        let number = Kind::Number { low: 0.0, high: 1.0, log: false, cells: None };
        [("x", number), ("y", number), ("model", Kind::Choices(3))]
            .map(|(name, kind)| Dimension { name: name.into(), kind })
            .into()
    }

    fn points() -> Vec<Point> {
        (0..12)
            .map(|at| {
                let at = f64::from(at);
                vec![Some((at * 0.37).fract()), (at != 3.0).then(|| (at * 0.61).fract()), Some((at * 0.29).fract())]
            })
            .collect()
    }

    fn gaussian(fit: bool) -> Gaussian {
        let values = points().iter().map(|point| (6.0 * point[0].unwrap()).sin()).collect();
        Gaussian::new(&dimensions(), &points(), values, vec![0.01; 12], Vec::new(), fit).unwrap()
    }

    #[test]
    fn the_gradient_is_that_of_the_cost() {
        let gaussian = gaussian(false);
        let at = vec![0.2, -0.5, -0.3, 0.4, 0.1];
        let gradient = gaussian.gradient(&at, &gaussian.solve(&at).unwrap());
        for axis in 0..at.len() {
            let cost = |by: f64| {
                let mut moved = at.clone();
                moved[axis] += by;
                gaussian.solve(&moved).unwrap().cost
            };
            let slope = (cost(1e-5) - cost(-1e-5)) / 2e-5;
            assert!((slope - gradient[axis]).abs() < 1e-4 * (1.0 + slope.abs()), "{axis}: {slope} {}", gradient[axis]);
        }
    }

    #[test]
    fn the_fit_finds_which_dimension_matters() {
        let (before, after) = (gaussian(false), gaussian(true));
        assert!(after.solve(after.parameters()).unwrap().cost < before.solve(before.parameters()).unwrap().cost);
        assert!(after.parameters()[2] < after.parameters()[3], "{:?}", after.parameters());
        assert!(after.parameters()[2] < after.parameters()[4], "{:?}", after.parameters());
    }

    #[test]
    fn it_goes_through_what_was_seen_and_is_unsure_elsewhere() {
        let gaussian = gaussian(true);
        for (point, value) in points().iter().zip(&gaussian.values) {
            let (mean, sd) = gaussian.predict(point);
            assert!((mean - value).abs() < 0.15 && sd < 0.2, "{mean} {value} {sd}");
        }
        // A choice that was never seen, far from all others.
        let lone = Gaussian::new(&dimensions(), &points()[..1], vec![1.0], vec![0.0], Vec::new(), false).unwrap();
        let (mean, sd) = lone.predict(&vec![Some(1.0), Some(1.0), Some(0.9)]);
        assert!(mean.abs() < 0.9 && sd > 0.3, "{mean} {sd}");
    }

    #[test]
    fn values_that_say_nothing_do_no_harm() {
        let same = vec![points()[0].clone(); 5];
        for values in [vec![0.0; 5], vec![1.0, -1.0, 1.0, -1.0, 0.0]] {
            let gaussian = Gaussian::new(&dimensions(), &same, values, vec![0.0; 5], Vec::new(), true).unwrap();
            let (mean, sd) = gaussian.predict(&same[0]);
            assert!(mean.is_finite() && sd.is_finite());
        }
        assert!(Gaussian::new(&[], &[], Vec::new(), Vec::new(), Vec::new(), true).is_some());
    }
}
