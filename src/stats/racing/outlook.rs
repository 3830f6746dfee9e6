//! What more observations would teach: by how much beliefs are expected to move.

use farthing_kernels::linear::{Square, dot};

/// Instances that the same rows were observed on, as far as another look at one of them matters.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub rows: Vec<usize>,
    /// R⁻¹ F, a column a factor.
    pub weighted: Vec<Vec<f64>>,
    /// The Cholesky factor of 1 + Fᵀ R⁻¹ F.
    pub middle: Square,
    /// V R⁻¹ F, once it was asked for.
    pub reach: Option<Vec<Vec<f64>>>,
}

/// The beliefs on effects, ready to be asked what an observation would change.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// The covariance of effects.
    pub(super) covariance: Square,
    /// The instances' common factors, of every row.
    pub(super) factors: Vec<Vec<f64>>,
    pub(super) groups: Vec<Seen>,
    /// The group of each instance that was looked at.
    pub(super) group: Vec<Option<usize>>,
    pub(super) family: Vec<usize>,
    pub(super) samples: Vec<f64>,
    pub(super) noise: f64,
    pub(super) decay: f64,
}

/// An observation of one row on instances that the same others were observed on.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The covariance of its surprise with every effect.
    reach: Vec<f64>,
    /// The variance of its surprise that effects explain, and the rest, for one instance.
    explained: f64,
    rest: f64,
}

impl Observation {
    /// By how much every effect is expected to move (one standard deviation, signs aligned), after so many instances.
    pub fn change(&self, instances: f64) -> Vec<f64> {
        let scale = 1.0 / (self.explained + self.rest / instances).max(f64::MIN_POSITIVE).sqrt();
        self.reach.iter().map(|value| value * scale).collect()
    }
}

impl Outlook {
    /// By how much the means over all `population` instances are expected to move (as [`Observation::change`]), where each
    /// row was observed on `count` of them: of what was not observed of a row, the effect moves, and the values that are
    /// observed become known, its own and in part those of its siblings, which share samples.
    pub fn change_of_means(
        &self,
        row: usize,
        observation: &Observation,
        instances: f64,
        count: &[f64],
        population: f64,
    ) -> Vec<f64> {
        let scale = 1.0 / (observation.explained + observation.rest / instances).max(f64::MIN_POSITIVE).sqrt();
        let own = observation.rest / population;
        let change = |(at, value): (usize, &f64)| {
            let mut sum = value * (1.0 - count[at] / population).max(0.0);
            if at == row {
                sum += own;
            } else if self.family[at] == self.family[row] && count[at] + instances <= population {
                let (a, b) = (self.samples[at], self.samples[row]);
                sum += own * (a.min(b) / a.max(b)).powf(self.decay);
            }
            sum * scale
        };
        observation.reach.iter().enumerate().map(change).collect()
    }

    /// What observing a row on an instance is about: what is left of it when what others showed there is taken off.
    pub fn observation(&mut self, row: usize, instance: usize) -> Observation {
        let column = self.covariance.row(row).to_vec();
        let own: Vec<f64> = self.factors.iter().map(|factor| factor[row]).collect();
        let Some(at) = self.group.get(instance).copied().flatten() else {
            return Observation { explained: column[row].max(0.0), rest: self.noise + dot(&own, &own), reach: column };
        };
        let group = &mut self.groups[at];
        // The sibling with most samples there, whose noise is partly this one's.
        let sibling = group
            .rows
            .iter()
            .copied()
            .filter(|&other| other != row && self.family[other] == self.family[row])
            .max_by(|&a, &b| self.samples[a].total_cmp(&self.samples[b]));
        let (low, high) = sibling.map_or((1.0, 1.0), |other| {
            let (a, b) = (self.samples[row], self.samples[other]);
            (a.min(b), a.max(b))
        });
        let correlation = sibling.map_or(0.0, |_| (low / high).powf(self.decay).min(0.999));
        let loads: Vec<f64> = self
            .factors
            .iter()
            .map(|factor| factor[row] - sibling.map_or(0.0, |other| correlation * factor[other]))
            .collect();
        let mut known = loads;
        group.middle.forward(&mut known);
        let rest = self.noise * (1.0 - correlation * correlation) + dot(&known, &known);
        group.middle.backward(&mut known);
        let covariance = &self.covariance;
        let through = group.reach.get_or_insert_with(|| {
            let spread = |factor: &Vec<f64>| -> Vec<f64> {
                let mut sum = vec![0.0; covariance.size];
                for (&row, weight) in group.rows.iter().zip(factor) {
                    sum.iter_mut().zip(covariance.row(row)).for_each(|(sum, cell)| *sum += weight * cell);
                }
                sum
            };
            group.weighted.iter().map(spread).collect()
        });
        let mut reach = column;
        if let Some(other) = sibling {
            reach.iter_mut().zip(self.covariance.row(other)).for_each(|(value, cell)| *value -= correlation * cell);
        }
        for (part, known) in through.iter().zip(&known).filter(|(_, known)| **known != 0.0) {
            reach.iter_mut().zip(part).for_each(|(value, part)| *value -= known * part);
        }
        let shared: f64 = group
            .weighted
            .iter()
            .zip(&known)
            .filter(|(_, known)| **known != 0.0)
            .map(|(weights, known)| {
                known * group.rows.iter().zip(weights).map(|(&row, weight)| weight * reach[row]).sum::<f64>()
            })
            .sum();
        let explained = reach[row] - sibling.map_or(0.0, |other| correlation * reach[other]) - shared;
        Observation { reach, explained: explained.max(0.0), rest: rest.max(f64::MIN_POSITIVE) }
    }

    /// Counts an observation on so many instances as made.
    pub fn take(&mut self, observation: &Observation, instances: f64) {
        let scale = 1.0 / (observation.explained + observation.rest / instances).max(f64::MIN_POSITIVE);
        let reach = &observation.reach;
        for (row, value) in reach.iter().enumerate().filter(|(_, value)| **value != 0.0) {
            let factor = value * scale;
            self.covariance.row_mut(row).iter_mut().zip(reach).for_each(|(cell, value)| *cell -= factor * value);
        }
        for group in &mut self.groups {
            let Some(through) = &mut group.reach else { continue };
            for (part, weights) in through.iter_mut().zip(&group.weighted) {
                let along: f64 = group.rows.iter().zip(weights).map(|(&row, weight)| weight * reach[row]).sum();
                part.iter_mut().zip(reach).for_each(|(cell, value)| *cell -= along * scale * value);
            }
        }
    }

    /// The covariance of the effects, as it is now.
    pub fn covariance(&self) -> &Square {
        &self.covariance
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::kinship::Kinship;
    use super::super::{Line, Model, Place, Prior, Sheet};

    /// Two models with two prompts each, one of them with n = 1 and n = 4.
    fn kinship() -> Kinship {
        let some = [("a", "x", 1), ("a", "y", 1), ("b", "x", 1), ("b", "y", 1), ("b", "y", 4)];
        let maps: Vec<BTreeMap<String, Value>> = some
            .iter()
            .map(|(model, prompt, n)| {
                serde_json::from_value(json!({"model": model, "prompt": prompt, "n": n})).unwrap()
            })
            .collect();
        Kinship::new(&maps.iter().collect::<Vec<_>>())
    }

    #[test]
    fn what_is_foreseen_comes_true() {
        let kinship = kinship();
        let places = vec![Place::default(); 5];
        let prior = Prior::default();
        let model = Model::new(&kinship, &places, &prior);
        let variances = model.start(0.2);
        let value = |row: u32, at: usize| f64::from(u8::from((at * 7 + row as usize * 3) % 5 < 3));
        let lines = |more: &[(u32, usize)]| -> Vec<Line> {
            (0..6)
                .map(|at| {
                    let rows = (0..5_u32).filter(|&row| {
                        let depth = [6, 4, 4, 5, 0][row as usize];
                        at < depth || more.contains(&(row, at))
                    });
                    rows.map(|row| (row, value(row, at))).collect()
                })
                .collect()
        };
        // A known row on an instance that others saw, one with a sibling there, and one on an instance that nobody saw.
        for (row, at) in [(2_usize, 4_usize), (4, 4), (1, 9)] {
            let before = lines(&[]);
            let mut after = lines(&[(row as u32, at)]);
            if at >= 6 {
                after.push(vec![(row as u32, 1.0)]);
            }
            let mut outlook = model.fit(&Sheet::new(&kinship, &before, 20), &variances).outlook;
            let observation = outlook.observation(row, at);
            let change = observation.change(1.0);
            let old = outlook.covariance().clone();
            outlook.take(&observation, 1.0);
            let new = model.fit(&Sheet::new(&kinship, &after, 20), &variances).outlook;
            for a in 0..5 {
                for b in 0..5 {
                    assert!((outlook.covariance().at(a, b) - new.covariance().at(a, b)).abs() < 1e-9, "{row} {at}");
                    let difference = old.at(a, b) - new.covariance().at(a, b);
                    assert!((difference - change[a] * change[b]).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn a_second_look_after_a_first_is_foreseen_too() {
        let kinship = kinship();
        let (places, prior) = (vec![Place::default(); 5], Prior::default());
        let model = Model::new(&kinship, &places, &prior);
        let lines: Vec<Line> = (0..3).map(|_| vec![(0, 1.0), (2, 0.0)]).collect();
        let mut outlook = model.fit(&Sheet::new(&kinship, &lines, 9), &model.start(0.2)).outlook;
        let first = outlook.observation(1, 0);
        outlook.take(&first, 1.0);
        let kept = outlook.observation(3, 1).change(1.0);
        outlook.groups.iter_mut().for_each(|group| group.reach = None);
        let fresh = outlook.observation(3, 1).change(1.0);
        assert!(kept.iter().zip(&fresh).all(|(a, b)| (a - b).abs() < 1e-12), "{kept:?} {fresh:?}");
    }
}
