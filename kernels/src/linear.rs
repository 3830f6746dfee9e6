//! The little linear algebra that the model needs: symmetric matrices of a few hundred rows.

/// A square matrix, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Square {
    /// How many rows.
    pub size: usize,
    cells: Vec<f64>,
}

impl Square {
    /// All zeros.
    pub fn zeros(size: usize) -> Square {
        Square { size, cells: vec![0.0; size * size] }
    }

    /// A symmetric matrix from its lower triangle: `cell(a, b)` for `b <= a`.
    pub fn symmetric(size: usize, cell: impl Fn(usize, usize) -> f64) -> Square {
        let mut matrix = Square::zeros(size);
        for a in 0..size {
            for b in 0..=a {
                let value = cell(a, b);
                matrix.cells[a * size + b] = value;
                matrix.cells[b * size + a] = value;
            }
        }
        matrix
    }

    /// A row.
    pub fn row(&self, at: usize) -> &[f64] {
        &self.cells[at * self.size..(at + 1) * self.size]
    }

    /// A row, to change.
    pub fn row_mut(&mut self, at: usize) -> &mut [f64] {
        &mut self.cells[at * self.size..(at + 1) * self.size]
    }

    /// A cell.
    pub fn at(&self, a: usize, b: usize) -> f64 {
        self.cells[a * self.size + b]
    }

    /// Adds to a cell.
    pub fn add(&mut self, a: usize, b: usize, value: f64) {
        self.cells[a * self.size + b] += value;
    }

    /// The matrix times a vector.
    pub fn times(&self, vector: &[f64]) -> Vec<f64> {
        (0..self.size).map(|at| dot(self.row(at), vector)).collect()
    }

    /// The lower Cholesky factor of a symmetric, positive semidefinite matrix: pivots that rounding made too small are
    /// lifted to a 10⁻¹⁰ of the largest diagonal cell.
    pub fn cholesky(&self) -> Square {
        let size = self.size;
        let least = (0..size).map(|at| self.at(at, at)).fold(f64::MIN_POSITIVE, f64::max) * 1e-10;
        let mut factor = Square::zeros(size);
        for a in 0..size {
            let (above, rest) = factor.cells.split_at_mut(a * size);
            let line = &mut rest[..size];
            for b in 0..a {
                let other = &above[b * size..b * size + b + 1];
                line[b] = (self.cells[a * size + b] - dot(&line[..b], &other[..b])) / other[b];
            }
            line[a] = (self.cells[a * size + a] - dot(&line[..a], &line[..a])).max(least).sqrt();
        }
        factor
    }

    /// Solves `L x = b` in place, for a lower triangular matrix.
    pub fn forward(&self, vector: &mut [f64]) {
        for at in 0..self.size {
            let row = self.row(at);
            vector[at] = (vector[at] - dot(&row[..at], &vector[..at])) / row[at];
        }
    }

    /// Solves `Lᵀ x = b` in place, for a lower triangular matrix.
    pub fn backward(&self, vector: &mut [f64]) {
        for at in (0..self.size).rev() {
            let row = self.row(at);
            vector[at] /= row[at];
            let value = vector[at];
            vector[..at].iter_mut().zip(row).for_each(|(cell, factor)| *cell -= factor * value);
        }
    }

    /// The sum of the logarithms of the diagonal.
    pub fn log_diagonal(&self) -> f64 {
        (0..self.size).map(|at| self.at(at, at).ln()).sum()
    }

    /// The transposed matrix.
    pub fn transposed(&self) -> Square {
        let mut matrix = Square::zeros(self.size);
        for a in 0..self.size {
            for b in 0..self.size {
                matrix.cells[b * self.size + a] = self.cells[a * self.size + b];
            }
        }
        matrix
    }
}

/// The inner product, in four strands that the compiler can run side by side.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (left, right) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = left.remainder().iter().zip(&b[a.len() - left.remainder().len()..]).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// A Gaussian prior with covariance K = L Lᵀ that meets information of precision P (symmetric, of the same size).
struct Meeting {
    /// L.
    factor: Square,
    /// The Cholesky factor of 1 + Lᵀ P L.
    middle: Square,
}

impl Meeting {
    fn new(prior: &Square, precision: &Square) -> Meeting {
        let size = prior.size;
        let factor = prior.cholesky();
        let transposed = factor.transposed();
        let mut left = Square::zeros(size);
        for a in 0..size {
            for b in 0..size {
                left.cells[a * size + b] = dot(&precision.row(a)[b..], &transposed.row(b)[b..]);
            }
        }
        let left = left.transposed();
        let middle = Square::symmetric(size, |a, b| {
            let product = dot(&transposed.row(a)[a..], &left.row(b)[a..]);
            product + if a == b { 1.0 } else { 0.0 }
        });
        Meeting { factor, middle: middle.cholesky() }
    }
}

/// What a Gaussian prior with covariance `prior` becomes by information `precision`: `(prior⁻¹ + precision)⁻¹`.
pub fn posterior(prior: &Square, precision: &Square) -> Square {
    let Meeting { factor: mut columns, middle } = Meeting::new(prior, precision);
    // V = L B⁻¹ Lᵀ: with W = M⁻¹ Lᵀ (a column for each row of L), V = Wᵀ W.
    for at in 0..columns.size {
        middle.forward(columns.row_mut(at));
    }
    Square::symmetric(columns.size, |a, b| dot(columns.row(a), columns.row(b)))
}

/// The posterior mean and variance of every value of a Gaussian process with mean 0 and the covariance `prior`, of which some
/// were seen: (value, variance of its noise). Work: O(seen² × (seen + values)), so few may speak for many.
pub fn predict(seen: &[Option<(f64, f64)>], prior: impl Fn(usize, usize) -> f64) -> Vec<(f64, f64)> {
    let known: Vec<(usize, f64, f64)> =
        seen.iter().enumerate().filter_map(|(at, seen)| seen.map(|(value, noise)| (at, value, noise))).collect();
    let factor =
        Square::symmetric(known.len(), |a, b| prior(known[a].0, known[b].0) + if a == b { known[a].2 } else { 0.0 })
            .cholesky();
    let mut weights: Vec<f64> = known.iter().map(|(_, value, _)| *value).collect();
    factor.forward(&mut weights);
    factor.backward(&mut weights);
    let of = |at: usize| {
        let mut shared: Vec<f64> = known.iter().map(|&(other, ..)| prior(at, other)).collect();
        let mean = dot(&shared, &weights);
        factor.forward(&mut shared);
        (mean, (prior(at, at) - dot(&shared, &shared)).max(0.0))
    };
    (0..seen.len()).map(of).collect()
}

/// The logarithm of the likelihood of a precision-weighted sum of surprises, up to a constant: half of `sᵀ V s` with the
/// posterior covariance V, less half the logarithm of the determinant of `1 + prior precision`.
pub fn evidence(prior: &Square, precision: &Square, surprise: &[f64]) -> f64 {
    let Meeting { factor, middle } = Meeting::new(prior, precision);
    let mut known = vec![0.0; surprise.len()];
    for (row, value) in surprise.iter().enumerate() {
        known.iter_mut().zip(factor.row(row)).for_each(|(sum, cell)| *sum += value * cell);
    }
    middle.forward(&mut known);
    0.5 * dot(&known, &known) - middle.log_diagonal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_posterior_is_the_inverse_of_the_sum_of_the_inverses() {
        // Diagonal: 1 / (1/2 + 3) and no information on the second.
        let prior = Square::symmetric(2, |a, b| if a == b { 2.0 } else { 0.0 });
        let precision = Square::symmetric(2, |a, b| if a == b && a == 0 { 3.0 } else { 0.0 });
        let log = evidence(&prior, &precision, &[0.0, 0.0]);
        let fit = evidence(&prior, &precision, &[3.0, 1.0]) - log;
        let posterior = posterior(&prior, &precision);
        assert!((posterior.at(0, 0) - 2.0 / 7.0).abs() < 1e-12 && (posterior.at(1, 1) - 2.0).abs() < 1e-12);
        assert!(posterior.at(0, 1).abs() < 1e-12 && (log + 0.5 * 7.0_f64.ln()).abs() < 1e-12);
        assert!((fit - 0.5 * (9.0 * 2.0 / 7.0 + 2.0)).abs() < 1e-12, "{fit}");
    }

    #[test]
    fn a_correlated_prior_learns_from_its_relative() {
        let prior = Square::symmetric(2, |a, b| if a == b { 1.0 } else { 0.8 });
        let precision = Square::symmetric(2, |a, b| if a == b && a == 0 { 1.0 } else { 0.0 });
        let posterior = posterior(&prior, &precision);
        assert!((posterior.at(1, 1) - (1.0 - 0.64 / 2.0)).abs() < 1e-12);
        assert!((posterior.at(0, 1) - 0.4).abs() < 1e-12);
    }

    #[test]
    fn what_was_not_seen_is_predicted_from_what_was_as_by_the_whole_posterior() {
        let cell = |a: usize, b: usize| if a == b { 1.0 } else { 0.8 / (1.0 + a.abs_diff(b) as f64) };
        let seen = [Some((2.0, 0.5)), None, Some((-1.0, 0.25))];
        let precision =
            Square::symmetric(3, |a, b| if a == b { seen[a].map_or(0.0, |(_, noise)| 1.0 / noise) } else { 0.0 });
        let whole = posterior(&Square::symmetric(3, cell), &precision);
        let information: Vec<f64> = seen.iter().map(|one| one.map_or(0.0, |(value, noise)| value / noise)).collect();
        for (at, (mean, variance)) in predict(&seen, cell).into_iter().enumerate() {
            assert!(
                (mean - whole.times(&information)[at]).abs() < 1e-12 && (variance - whole.at(at, at)).abs() < 1e-12
            );
        }
    }

    #[test]
    fn triangles_are_solved_both_ways() {
        let matrix = Square::symmetric(5, |a, b| if a == b { 6.0 } else { 1.0 / (1.0 + a as f64 + b as f64) });
        let factor = matrix.cholesky();
        let wanted = [1.0, -2.0, 3.0, 0.5, 0.0];
        let mut vector = matrix.times(&wanted);
        factor.forward(&mut vector);
        factor.backward(&mut vector);
        assert!(vector.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{vector:?}");
        assert!((dot(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.0; 5]) - 15.0).abs() < 1e-12);
    }
}
