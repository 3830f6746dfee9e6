//! What matters: how much of the differences among configurations each parameter explains alone, and the score expected
//! at each of its values.
//!
//! Functional analysis of variance on regression trees, after F. Hutter, H. Hoos, K. Leyton-Brown, *An Efficient Approach
//! for Assessing Hyperparameter Importance*, ICML 2014. A tree splits the space into boxes, so the average of its
//! prediction over all other parameters is an exact sum over its leaves; the variance of that average along one parameter,
//! as a share of the tree's whole variance, is the parameter's importance. What no single parameter explains are
//! interactions.
//!
//! Intervals are of the bootstrap: each of [`REPLICATES`] small forests is grown on configurations drawn anew, whose scores
//! are moved by as much as they are not known. Configurations that a forest did not draw say how far it can be trusted
//! ([`Analysis::fit`]): at 0 or below, the parameters do not predict the score, and the shares say nothing.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::normal;

/// Forests, and the trees of each.
pub const REPLICATES: usize = 60;
const TREES: usize = 6;

/// Values that one parameter may have here: cells are bits.
pub const MOST_CELLS: usize = 32;

/// The deepest leaf, and the fewest configurations that are split.
const DEPTH: usize = 12;
const SPLIT: usize = 4;

/// The fewest configurations that anything is said of.
pub const FEWEST: usize = 6;

/// A parameter, its values sorted into cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// Cells that are neighbours in this order are alike: a number's ranges. Else any cells may go together.
    pub ordered: bool,
    /// How much of the space each cell is; they add up to 1.
    pub weights: Vec<f64>,
}

/// What is said of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// The share of the variance that it explains alone, 0 to 1.
    pub share: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// At each cell the expected score, averaged over all other parameters, with its 95 % interval.
    pub curve: Vec<(f64, [f64; 2])>,
}

/// What is said of a study.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// The parameters, in the order they were given in.
    pub parameters: Vec<Importance>,
    /// The share that no parameter explains alone.
    pub interactions: f64,
    /// How well the forests predict configurations that they did not see: 1 perfectly, 0 no better than their mean.
    pub fit: f64,
    /// The configurations it rests on.
    pub count: usize,
}

/// Explains `values` (one a configuration, `sds` how unsure each is) by `cells` (of each configuration, its cell of each
/// factor). `None` for fewer than [`FEWEST`] configurations, or where no value differs.
///
/// # Panics
/// Never: what does not fit (a cell out of range, a value that is not finite) is left out.
pub fn importance(
    factors: &[Factor],
    cells: &[Vec<usize>],
    values: &[f64],
    sds: &[f64],
    seed: u64,
) -> Option<Analysis> {
    let fits = |row: &&usize| {
        let row = **row;
        let own = cells.get(row);
        values[row].is_finite()
            && own.is_some_and(|own| {
                own.len() == factors.len() && own.iter().zip(factors).all(|(cell, factor)| *cell < factor.weights.len())
            })
    };
    let all: Vec<usize> = (0..values.len()).collect();
    let rows: Vec<usize> = all.iter().filter(fits).copied().collect();
    if rows.len() < FEWEST || factors.is_empty() || factors.iter().any(|factor| factor.weights.len() > MOST_CELLS) {
        return None;
    }
    // In units of their spread, so that squares neither overflow nor vanish.
    let (low, high) =
        rows.iter().map(|&row| values[row]).fold((f64::MAX, f64::MIN), |(l, h), value| (l.min(value), h.max(value)));
    let (middle, span) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
    if span <= 0.0 || !span.is_finite() {
        return None;
    }
    let y: Vec<f64> = rows.iter().map(|&row| (values[row] / 2.0 - middle / 2.0) / span * 2.0).collect();
    let sd: Vec<f64> = rows
        .iter()
        .map(|&row| {
            sds.get(row).copied().filter(|sd| sd.is_finite() && *sd > 0.0).map_or(0.0, |sd| (sd / span).min(4.0))
        })
        .collect();
    let x: Vec<&[usize]> = rows.iter().map(|&row| cells[row].as_slice()).collect();
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut shares: Vec<Vec<f64>> = vec![Vec::new(); factors.len()];
    let mut curves: Vec<Vec<Vec<f64>>> = factors.iter().map(|factor| vec![Vec::new(); factor.weights.len()]).collect();
    // Of each configuration the forests that did not draw it: their predictions and their means.
    let mut outside: Vec<(f64, f64, f64)> = vec![(0.0, 0.0, 0.0); x.len()];
    for _ in 0..REPLICATES {
        let drawn: Vec<usize> = (0..x.len()).map(|_| rng.random_range(0..x.len())).collect();
        let targets: Vec<f64> = drawn.iter().map(|&row| y[row] + sd[row] * normal(&mut rng)).collect();
        let sample = Sample { x: drawn.iter().map(|&row| x[row]).collect(), y: targets };
        let trees: Vec<Vec<Leaf>> = (0..TREES).map(|_| grow(&sample, factors, &mut rng)).collect();
        let mean = sample.y.iter().sum::<f64>() / sample.y.len() as f64;
        let mut inside = vec![false; x.len()];
        drawn.iter().for_each(|&row| inside[row] = true);
        for (row, cells) in x.iter().enumerate().filter(|(row, _)| !inside[*row]) {
            let said = trees.iter().map(|tree| predict(tree, cells)).sum::<f64>() / TREES as f64;
            let of = &mut outside[row];
            *of = (of.0 + said, of.1 + mean, of.2 + 1.0);
        }
        let mut share = vec![0.0; factors.len()];
        let mut curve: Vec<Vec<f64>> = factors.iter().map(|factor| vec![0.0; factor.weights.len()]).collect();
        let mut varied = 0.0;
        for tree in &trees {
            let (parts, total) = explain(tree, factors, &mut curve);
            if total > 0.0 {
                varied += 1.0;
                share.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part / total);
            }
        }
        shares.iter_mut().zip(&share).for_each(|(all, sum)| all.push(if varied > 0.0 { sum / varied } else { 0.0 }));
        for (all, own) in curves.iter_mut().zip(curve) {
            all.iter_mut().zip(own).for_each(|(cell, sum)| cell.push(sum / TREES as f64));
        }
    }
    let back = |value: f64| middle + value * span;
    let parameters: Vec<Importance> = shares
        .iter()
        .zip(&curves)
        .map(|(shares, curve)| {
            let at = |all: &Vec<f64>| {
                let (mean, [low, high]) = summed(all);
                (back(mean), [back(low), back(high)])
            };
            let (share, ci95) = summed(shares);
            Importance { share, ci95, curve: curve.iter().map(at).collect() }
        })
        .collect();
    let interactions = (1.0 - parameters.iter().map(|parameter| parameter.share).sum::<f64>()).clamp(0.0, 1.0);
    let (mut off, mut spread) = (0.0, 0.0);
    for (value, (said, mean, count)) in y.iter().zip(outside).filter(|(_, (.., count))| *count > 0.0) {
        off += (value - said / count).powi(2);
        spread += (value - mean / count).powi(2);
    }
    let fit = if spread > 0.0 { 1.0 - off / spread } else { 0.0 };
    Some(Analysis { parameters, interactions, fit, count: x.len() })
}

/// The mean, and the values that 2.5 % are below and above.
fn summed(all: &[f64]) -> (f64, [f64; 2]) {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    (all.iter().sum::<f64>() / all.len() as f64, [at(0.025), at(0.975)])
}

/// What a tree is grown on.
struct Sample<'a> {
    x: Vec<&'a [usize]>,
    y: Vec<f64>,
}

/// A box of the space: the cells of each factor that are in it, as bits, and what is predicted there.
struct Leaf {
    cells: Vec<u32>,
    value: f64,
}

fn grow(sample: &Sample<'_>, factors: &[Factor], rng: &mut ChaCha12Rng) -> Vec<Leaf> {
    let whole: Vec<u32> = factors.iter().map(|factor| u32::MAX >> (32 - factor.weights.len())).collect();
    let mut leaves = Vec::new();
    let mut open = vec![((0..sample.y.len()).collect::<Vec<usize>>(), whole, 0)];
    while let Some((rows, cells, depth)) = open.pop() {
        let split = if depth < DEPTH && rows.len() >= SPLIT { best_split(sample, factors, &rows, rng) } else { None };
        let Some((factor, left)) = split else {
            let value = rows.iter().map(|&row| sample.y[row]).sum::<f64>() / rows.len().max(1) as f64;
            leaves.push(Leaf { cells, value });
            continue;
        };
        let (a, b): (Vec<usize>, Vec<usize>) = rows.iter().partition(|&&row| left >> sample.x[row][factor] & 1 == 1);
        let with = |mask: u32| {
            let mut cells = cells.clone();
            cells[factor] &= mask;
            cells
        };
        open.push((a, with(left), depth + 1));
        open.push((b, with(!left), depth + 1));
    }
    leaves
}

/// The split that lowers the squared error most, of a random two thirds of the factors: the factor, and the cells on its
/// left. Cells that no configuration here has go with their neighbours.
fn best_split(sample: &Sample<'_>, factors: &[Factor], rows: &[usize], rng: &mut ChaCha12Rng) -> Option<(usize, u32)> {
    let mut order: Vec<usize> = (0..factors.len()).collect();
    let tried = (2 * factors.len()).div_ceil(3);
    for at in 0..tried {
        order.swap(at, rng.random_range(at..factors.len()));
    }
    let total: f64 = rows.iter().map(|&row| sample.y[row]).sum();
    let mut best: Option<(f64, usize, u32)> = None;
    for &factor in &order[..tried] {
        let mut sums = vec![(0.0, 0.0); factors[factor].weights.len()];
        for &row in rows {
            let (sum, count) = &mut sums[sample.x[row][factor]];
            (*sum, *count) = (*sum + sample.y[row], *count + 1.0);
        }
        let mut there: Vec<usize> = (0..sums.len()).filter(|&cell| sums[cell].1 > 0.0).collect();
        if !factors[factor].ordered {
            // Of all ways to part cells, the best keeps them in the order of their means.
            there.sort_by(|&a, &b| (sums[a].0 / sums[a].1).total_cmp(&(sums[b].0 / sums[b].1)).then(a.cmp(&b)));
        }
        let (mut sum, mut count, mut left) = (0.0, 0.0, 0_u32);
        for pair in there.windows(2) {
            let (cell, next) = (pair[0], pair[1]);
            (sum, count) = (sum + sums[cell].0, count + sums[cell].1);
            // Empty cells between two neighbours are parted in the middle.
            left |= match factors[factor].ordered {
                true => u32::MAX >> (31 - usize::midpoint(cell, next).max(cell).min(next - 1)),
                false => 1 << cell,
            };
            let right = (total - sum, rows.len() as f64 - count);
            let gain = sum * sum / count + right.0 * right.0 / right.1 - total * total / rows.len() as f64;
            if gain > 1e-12 && best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, factor, left));
            }
        }
    }
    best.map(|(_, factor, left)| (factor, left))
}

fn predict(tree: &[Leaf], cells: &[usize]) -> f64 {
    let holds = |leaf: &&Leaf| leaf.cells.iter().zip(cells).all(|(mask, cell)| mask >> cell & 1 == 1);
    tree.iter().find(holds).map_or(0.0, |leaf| leaf.value)
}

/// Of each factor the variance that it explains alone, and the variance of the whole tree; adds the averages to `curve`.
fn explain(tree: &[Leaf], factors: &[Factor], curve: &mut [Vec<f64>]) -> (Vec<f64>, f64) {
    let weight = |leaf: &Leaf, factor: usize| -> f64 {
        let cells = factors[factor].weights.iter().enumerate();
        cells.filter(|(cell, _)| leaf.cells[factor] >> cell & 1 == 1).map(|(_, weight)| weight).sum()
    };
    let weights: Vec<Vec<f64>> =
        tree.iter().map(|leaf| (0..factors.len()).map(|factor| weight(leaf, factor)).collect()).collect();
    let size = |own: &[f64]| own.iter().product::<f64>();
    let mean: f64 = tree.iter().zip(&weights).map(|(leaf, own)| leaf.value * size(own)).sum();
    let total: f64 = tree.iter().zip(&weights).map(|(leaf, own)| (leaf.value - mean).powi(2) * size(own)).sum();
    let mut parts = vec![0.0; factors.len()];
    for (factor, part) in parts.iter_mut().enumerate() {
        let mut average = vec![0.0; factors[factor].weights.len()];
        for (leaf, own) in tree.iter().zip(&weights) {
            let others: f64 =
                own.iter().enumerate().filter(|(at, _)| *at != factor).map(|(_, weight)| weight).product();
            for (cell, average) in average.iter_mut().enumerate() {
                if leaf.cells[factor] >> cell & 1 == 1 {
                    *average += leaf.value * others;
                }
            }
        }
        *part = average.iter().zip(&factors[factor].weights).map(|(at, weight)| weight * (at - mean).powi(2)).sum();
        curve[factor].iter_mut().zip(average).for_each(|(sum, at)| *sum += at);
    }
    (parts, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn factor(cells: usize, ordered: bool) -> Factor {
        Factor { ordered, weights: vec![1.0 / cells as f64; cells] }
    }

    /// Every combination of three factors with 3, 4 and 2 cells.
    fn grid() -> (Vec<Factor>, Vec<Vec<usize>>) {
        let factors = vec![factor(3, false), factor(4, true), factor(2, false)];
        let cells = (0..24).map(|at| vec![at % 3, at / 3 % 4, at / 12]).collect();
        (factors, cells)
    }

    #[test]
    fn shares_are_those_of_an_additive_score() {
        let (factors, cells) = grid();
        // Variances 0.06 and 0.02: three quarters and one quarter.
        let first = [0.0, 0.3, 0.6];
        let second = [0.0, 0.1265, 0.253, 0.3795];
        let values: Vec<f64> = cells.iter().map(|own| first[own[0]] + second[own[1]]).collect();
        let all = importance(&factors, &cells, &values, &[0.0; 24], 1).unwrap();
        let shares: Vec<f64> = all.parameters.iter().map(|parameter| parameter.share).collect();
        println!("{shares:?} interactions {} fit {}", all.interactions, all.fit);
        assert!((shares[0] - 0.75).abs() < 0.1 && (shares[1] - 0.25).abs() < 0.1 && shares[2] < 0.05, "{shares:?}");
        assert!(all.fit > 0.7 && all.interactions < 0.15, "{} {}", all.fit, all.interactions);
        let curve: Vec<f64> = all.parameters[0].curve.iter().map(|at| at.0).collect();
        assert!((curve[2] - curve[0] - 0.6).abs() < 0.1, "{curve:?}");
        for parameter in &all.parameters {
            assert!(parameter.ci95[0] <= parameter.share && parameter.share <= parameter.ci95[1], "{parameter:?}");
        }
    }

    #[test]
    fn an_interaction_belongs_to_no_parameter() {
        let (factors, cells) = grid();
        let values: Vec<f64> = cells.iter().map(|own| f64::from(u8::from((own[1] < 2) ^ (own[2] == 0)))).collect();
        let all = importance(&factors, &cells, &values, &[0.0; 24], 1).unwrap();
        println!("{} {:?}", all.interactions, all.parameters.iter().map(|p| p.share).collect::<Vec<_>>());
        assert!(all.interactions > 0.5);
    }

    #[test]
    fn noise_is_not_explained() {
        let (factors, cells) = grid();
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let values: Vec<f64> = cells.iter().map(|_| normal(&mut rng)).collect();
        let all = importance(&factors, &cells, &values, &[1.0; 24], 1).unwrap();
        println!("fit {}", all.fit);
        assert!(all.fit < 0.2);
        let wide = all.parameters.iter().map(|parameter| parameter.ci95[1] - parameter.ci95[0]).fold(0.0, f64::max);
        assert!(wide > 0.2, "{wide}");
    }

    #[test]
    fn nothing_is_said_of_little() {
        let (factors, cells) = grid();
        assert_eq!(importance(&factors, &cells, &[1.0; 24], &[0.0; 24], 1), None);
        assert_eq!(importance(&factors, &cells[..5], &[1.0, 2.0, 3.0, 4.0, 5.0], &[0.0; 5], 1), None);
        assert_eq!(importance(&factors, &cells, &[f64::NAN; 24], &[0.0; 24], 1), None);
        assert_eq!(importance(&[], &vec![vec![]; 24], &[1.0; 24], &[0.0; 24], 1), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn numbers_stay_finite(values in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), -1e300..1e300, -1e-300..1e-300], 24)) {
            let (factors, cells) = grid();
            if let Some(all) = importance(&factors, &cells, &values, &[0.1; 24], 1) {
                for parameter in &all.parameters {
                    prop_assert!((-1e-9..=1.0 + 1e-9).contains(&parameter.share));
                    prop_assert!(parameter.curve.iter().all(|(at, [low, high])| at.is_finite() && low <= high));
                }
                prop_assert!(all.fit.is_finite());
            }
        }
    }
}
