//! What another look is worth: the expected gain of the best posterior mean, per dollar.

use crate::stats::racing::Belief;
use crate::stats::racing::costs::SURE;
use crate::stats::racing::outlook::Outlook;

/// Nodes and weights of the standard normal distribution, by equal steps.
fn nodes() -> Vec<(f64, f64)> {
    let nodes: Vec<f64> = (-6..=6).map(|step| f64::from(step) * 0.5).collect();
    let weight = |z: &f64| (-z * z / 2.0).exp();
    let sum: f64 = nodes.iter().map(weight).sum();
    nodes.iter().map(|z| (*z, weight(z) / sum)).collect()
}

/// The exponent of the price.
const ALPHA: f64 = 0.7;

/// A configuration that may be looked at.
#[derive(Clone, Debug)]
pub(super) struct Option_ {
    /// Its row in the model.
    pub row: usize,
    /// The first instance it was not asked on, and how many there are.
    pub next: usize,
    pub left: usize,
    /// Expected dollars an instance.
    pub price: f64,
}

/// How many instances a look may be thought of.
const SIZES: [usize; 8] = [3, 6, 12, 25, 50, 100, 200, usize::MAX];

/// A look that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub row: usize,
    pub instances: usize,
    pub gain: f64,
    /// Gain for the price.
    pub index: f64,
}

/// The state of a plan: beliefs, with what was chosen already counted as seen.
pub(super) struct Plan {
    mean: Vec<f64>,
    outlook: Outlook,
    count: Vec<f64>,
    instances: f64,
    /// Rows that may be recommended.
    open: Vec<bool>,
    /// The probability of each row that production can afford it.
    within: Vec<f64>,
    /// No mean is larger.
    ceiling: f64,
    nodes: Vec<(f64, f64)>,
}

impl Plan {
    pub(super) fn new(belief: &Belief, instances: usize, open: Vec<bool>, within: Vec<f64>, ceiling: f64) -> Plan {
        Plan {
            mean: belief.mean.clone(),
            outlook: belief.outlook.clone(),
            count: belief.count.iter().map(|&count| count as f64).collect(),
            instances: instances as f64,
            open,
            within,
            ceiling,
            nodes: nodes(),
        }
    }

    /// Expected gain of the best mean that may be recommended, by a change of all means that comes with a look at `row`; as far
    /// as production can afford what is looked at.
    fn gain(&self, row: usize, change: &[f64]) -> f64 {
        let rows = || (0..self.mean.len()).filter(|&at| self.open[at] || at == row);
        let before = (0..self.mean.len()).filter(|&at| self.open[at]).map(|at| self.mean[at]).fold(f64::MIN, f64::max);
        // To find anything that production can afford is worth what lies above the worst.
        let before = if before == f64::MIN { self.mean.iter().copied().fold(f64::MAX, f64::min) } else { before };
        let before = before.min(self.ceiling);
        // Only rows that can reach the top at three standard deviations matter.
        let low = rows().map(|at| self.mean[at] - 3.0 * change[at].abs()).fold(f64::MIN, f64::max);
        let lines: Vec<(f64, f64)> = rows()
            .filter(|&at| self.mean[at] + 3.0 * change[at].abs() >= low)
            .map(|at| (self.mean[at], change[at]))
            .collect();
        let expected: f64 = self
            .nodes
            .iter()
            .map(|(z, weight)| {
                weight * lines.iter().map(|(mean, change)| mean + change * z).fold(f64::MIN, f64::max).min(self.ceiling)
            })
            .sum();
        self.within[row] * (expected - before).max(0.0)
    }

    /// The look of one option with the best expected gain for its price, of those that fit the money left.
    fn look(&mut self, option: &Option_, money: f64) -> Option<Look> {
        let mut best: Option<Look> = None;
        let mut last = 0;
        let most =
            if option.price > 0.0 { (money / option.price).min(option.left as f64) as usize } else { option.left };
        for size in SIZES {
            let instances = size.min(most);
            let price = option.price * instances as f64;
            if instances == last {
                break;
            }
            last = instances;
            let observation = self.outlook.observation(option.row, option.next + instances / 2);
            let more = instances as f64;
            let change = self.outlook.change_of_means(option.row, &observation, more, &self.count, self.instances);
            let gain = self.gain(option.row, &change);
            let index = gain / (price + 1e-12).powf(ALPHA);
            // Equals are taken in order, whatever rounding says.
            if best.is_none_or(|best| index > best.index * (1.0 + 1e-9)) {
                best = Some(Look { row: option.row, instances, gain, index });
            }
        }
        best
    }

    /// Every option's best look.
    pub(super) fn looks(&mut self, options: &[Option_], money: f64) -> Vec<Option<Look>> {
        options.iter().map(|option| self.look(option, money)).collect()
    }

    /// The place of the best look among `looks`. What was chosen since they were worked out can only have made them worth
    /// less, so the best are worked out again until one stays the best.
    pub(super) fn best(&mut self, looks: &mut [Option<Look>], options: &[Option_], money: f64) -> Option<usize> {
        let mut fresh = vec![false; looks.len()];
        loop {
            let mut best: Option<(usize, f64)> = None;
            for (at, look) in looks.iter().enumerate() {
                if let Some(look) = look
                    && best.is_none_or(|(_, most)| look.index > most * (1.0 + 1e-9))
                {
                    best = Some((at, look.index));
                }
            }
            let (at, _) = best?;
            if fresh[at] {
                return Some(at);
            }
            fresh[at] = true;
            looks[at] = match options[at].left {
                0 => None,
                _ => self.look(&options[at], money),
            };
        }
    }

    /// Counts a look as seen, with the result that is expected.
    pub(super) fn take(&mut self, row: usize, next: usize, instances: usize) {
        let observation = self.outlook.observation(row, next + instances / 2);
        self.outlook.take(&observation, instances as f64);
        self.count[row] += instances as f64;
        self.open[row] |= self.within[row] >= SURE;
    }
}
