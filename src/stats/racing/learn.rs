//! Learning the model's variances from the data at hand.

use farthing_kernels::linear::{Square, evidence};

use super::kinship::Kinship;
use super::{Belief, Model, Sheet, Variances};

/// How many pairs of values what is assumed of difficulty and noise weighs.
const PAIRS: f64 = 200.0;
/// Steps of the search for the most probable variances, as factors.
const STEPS: [f64; 2] = [2.0, 0.5];

impl Model<'_> {
    /// Learns the variances of effects, then those of instances and noise, from what they are believed to be.
    pub fn learn(&self, sheet: &Sheet, variances: &Variances) -> Variances {
        let mut variances = Variances { total: variances.total, ..variances.clone() };
        let belief = self.fit(sheet, &variances);
        self.learn_noise(sheet, &belief, &mut variances);
        self.learn_effects(sheet, &mut variances);
        variances
    }

    /// One sweep of coordinate search for the variances of effects that are most probable given the data.
    fn learn_effects(&self, sheet: &Sheet, variances: &mut Variances) {
        let seen: Vec<usize> = (0..self.kinship.len()).filter(|&row| sheet.count[row] > 0).collect();
        if seen.len() < 3 {
            return;
        }
        let information = self.information(sheet, variances);
        let part = |matrix: &Square| Square::symmetric(seen.len(), |a, b| matrix.at(seen[a], seen[b]));
        let precision = part(&information.precision);
        let start = self.means(variances, 0.0);
        let sum: Vec<f64> = seen.iter().map(|&row| information.sum[row]).collect();
        let expected = precision.times(&seen.iter().map(|&row| start[row]).collect::<Vec<_>>());
        let surprise: Vec<f64> = sum.iter().zip(expected).map(|(sum, expected)| sum - expected).collect();
        let usual = self.start(variances.total);
        let score = |variances: &Variances| {
            let fit = evidence(&part(&self.covariance(variances)), &precision, &surprise);
            let away = |value: f64, usual: f64| ((value / usual).ln() / self.prior.spread).powi(2) / 2.0;
            let mains: f64 = variances.main.iter().zip(&usual.main).map(|(value, usual)| away(*value, *usual)).sum();
            fit - mains - away(variances.family, usual.family) - away(variances.near, usual.near)
        };
        let mut best = score(variances);
        let several = has_several_n(self.kinship, &seen);
        let count = variances.main.len() + 1 + usize::from(several);
        for at in 0..count {
            for factor in STEPS {
                loop {
                    let mut tried = variances.clone();
                    let mains = tried.main.len();
                    match at {
                        at if at < mains => tried.main[at] *= factor,
                        at if at == mains => tried.family *= factor,
                        _ => tried.near *= factor,
                    }
                    let score = score(&tried);
                    // Not a number is no gain either.
                    let gains = score > best + 1e-6;
                    if !gains {
                        break;
                    }
                    (best, *variances) = (score, tried);
                }
            }
        }
    }

    /// The variances of instances and noise, from products of residuals of different families on the same instance.
    fn learn_noise(&self, sheet: &Sheet, belief: &Belief, variances: &mut Variances) {
        let usual = self.start(variances.total);
        let parameters: Vec<usize> = (0..usual.own.len()).filter(|&at| usual.own[at] > 0.0).collect();
        // Normal equations of products on: 1, and a shared value of each parameter; with what is assumed as observations.
        let size = 1 + parameters.len();
        let mut equations = Square::zeros(size);
        let mut right = vec![0.0; size];
        equations.add(0, 0, PAIRS);
        right[0] += PAIRS * usual.difficulty;
        for (at, &parameter) in parameters.iter().enumerate() {
            equations.add(at + 1, at + 1, PAIRS);
            right[at + 1] += PAIRS * usual.own[parameter];
        }
        let (mut squares, mut values) =
            (PAIRS * (usual.difficulty + usual.noise + usual.own.iter().sum::<f64>()), PAIRS);
        let mut residual = vec![0.0; self.kinship.len()];
        for group in &sheet.groups {
            // The largest n of each family.
            let last = |at: &usize| {
                let next = group.rows.get(at + 1);
                next.is_none_or(|next| self.kinship.family[*next] != self.kinship.family[group.rows[*at]])
            };
            let rows: Vec<usize> = (0..group.rows.len()).filter(last).map(|at| group.rows[at]).collect();
            let mut products = Square::zeros(rows.len());
            for &line in &group.lines {
                for &(row, value) in &sheet.lines[line] {
                    let row = row as usize;
                    residual[row] = value - belief.effect[row];
                }
                for (a, &row) in rows.iter().enumerate() {
                    let own = residual[row];
                    let cells = &mut products.row_mut(a)[..=a];
                    cells.iter_mut().zip(&rows).for_each(|(cell, other)| *cell += own * residual[*other]);
                }
            }
            let lines = group.lines.len() as f64;
            for (a, &row) in rows.iter().enumerate() {
                squares += products.at(a, a);
                values += lines;
                for (b, &other) in rows[..a].iter().enumerate() {
                    let shares: Vec<f64> = std::iter::once(1.0)
                        .chain(parameters.iter().map(|&parameter| self.kinship.alike(parameter, row, other)))
                        .collect();
                    for (i, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                        right[i] += share * products.at(a, b);
                        for (j, other) in shares.iter().enumerate() {
                            equations.add(i, j, lines * share * other);
                        }
                    }
                }
            }
        }
        let factor = equations.cholesky();
        factor.forward(&mut right);
        factor.backward(&mut right);
        let total = squares / values;
        let shared_most = 0.85 * total;
        let mut shared: Vec<f64> = right.iter().map(|value| value.max(0.0)).collect();
        shared[0] = shared[0].max(0.01 * total);
        let sum: f64 = shared.iter().sum();
        if sum > shared_most {
            shared.iter_mut().for_each(|value| *value *= shared_most / sum);
        }
        variances.difficulty = shared[0];
        for (at, &parameter) in parameters.iter().enumerate() {
            variances.own[parameter] = shared[at + 1].max(1e-4 * total);
        }
        variances.noise = (total - shared.iter().sum::<f64>()).max(0.02 * variances.total);
    }
}

fn has_several_n(kinship: &Kinship, rows: &[usize]) -> bool {
    rows.windows(2).any(|pair| kinship.samples[pair[0]] != kinship.samples[pair[1]])
}
