//! What choosing the best of many does to what can be said of it: who may be best, how much the winner's score owes to
//! having been chosen, and whether there is any difference at all.
//!
//! All values are gains: larger is better. Everything random is seeded.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::additive::{Observation, Posterior};
use super::{finite, normal, scale_of};

/// Joint draws that probabilities and expectations rest on at most: a probability is right within about 0.015.
const DRAWS: usize = 4_000;

/// How often instances are drawn anew for the corrected score.
const RESAMPLES: usize = 500;

/// On fewer instances nothing can be told from those left out: a draw leaves out a third.
const LEAST_COLUMNS: usize = 5;

/// Sums of this many draws are still finite.
const ROOM: f64 = 8_192.0;

/// What a model believes of the values of some candidates, as joint draws: any model of the ranking can give these.
pub trait Beliefs {
    /// How many candidates there are.
    fn candidates(&self) -> usize;

    /// What is expected of a candidate.
    fn mean(&self, candidate: usize) -> f64;

    /// One joint draw of all values. `into` has one place a candidate. The same state of `rng` gives the same draw.
    fn draw(&self, rng: &mut ChaCha12Rng, into: &mut [f64]);
}

/// Beliefs that say nothing of each other: (mean, standard deviation) of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Independent(pub Vec<(f64, f64)>);

impl Beliefs for Independent {
    fn candidates(&self) -> usize {
        self.0.len()
    }

    fn mean(&self, candidate: usize) -> f64 {
        self.0.get(candidate).map_or(0.0, |belief| belief.0)
    }

    fn draw(&self, rng: &mut ChaCha12Rng, into: &mut [f64]) {
        for (place, (mean, sd)) in into.iter_mut().zip(&self.0) {
            *place = mean + sd * normal(rng);
        }
    }
}

/// So many draws, fewer where there are very many candidates.
fn draws(candidates: usize) -> usize {
    (2_000_000 / candidates.max(1)).clamp(400, DRAWS)
}

/// The probability of each candidate that it is the best of them; those that share the first place in a draw share it. Of
/// those `near` the first in a draw, the cheapest is the best, where prices are given.
pub fn p_best(beliefs: &dyn Beliefs, prices: &[f64], near: f64, seed: u64) -> Vec<f64> {
    let price = |at: usize| prices.get(at).copied().unwrap_or(0.0);
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut values = vec![0.0; beliefs.candidates()];
    let mut won = vec![0.0; beliefs.candidates()];
    if values.len() < 2 {
        return vec![1.0; values.len()];
    }
    let draws = draws(values.len());
    for _ in 0..draws {
        beliefs.draw(&mut rng, &mut values);
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        let near = || (0..values.len()).filter(|&at| values[at] >= most - near);
        let least = near().map(price).fold(f64::INFINITY, f64::min);
        let first = || near().filter(|&at| price(at) <= least);
        let share = 1.0 / first().count().max(1) as f64;
        first().collect::<Vec<_>>().into_iter().for_each(|at| won[at] += share);
    }
    won.into_iter().map(|wins: f64| wins / draws as f64).collect()
}

/// The fewest candidates that hold the best one with this probability, the likeliest first; equals in their order.
pub fn credible(p_best: &[f64], level: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p_best.len()).collect();
    order.sort_by(|&a, &b| p_best[b].total_cmp(&p_best[a]).then(a.cmp(&b)));
    let mut sum = 0.0;
    let reached = order.iter().take_while(|&&at| {
        let open = sum < level;
        sum += p_best[at];
        open
    });
    let count = reached.count();
    order.truncate(count);
    order
}

/// What stopping now is expected to lose: the expectation of the best value of all less that of the chosen one. `new` is a
/// further candidate that could still be drawn, by mean and standard deviation. Never negative; not a number where values cannot be
/// told apart from the largest numbers there are.
pub fn expected_loss(beliefs: &dyn Beliefs, chosen: usize, new: Option<(f64, f64)>, seed: u64) -> f64 {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut values = vec![0.0; beliefs.candidates()];
    if chosen >= values.len() {
        return 0.0;
    }
    let mut loss = 0.0;
    let draws = draws(values.len());
    for _ in 0..draws {
        beliefs.draw(&mut rng, &mut values);
        let fresh = new.map_or(f64::MIN, |(mean, sd)| mean + sd * normal(&mut rng));
        loss += values.iter().copied().fold(fresh, f64::max) / ROOM - values[chosen] / ROOM;
    }
    loss / draws as f64 * ROOM
}

/// A score without what it owes to having been chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Corrected {
    /// The score to be expected elsewhere.
    pub score: f64,
    /// The 95 % interval: percentiles over the draws, so somewhat wide, since each rests on a third of the instances.
    pub ci95: (f64, f64),
}

/// The winner's score corrected for having been chosen, by the bootstrap (BBC: Tsamardinos, Greasidou & Borboudakis 2018,
/// here over an incomplete table): instances are drawn with replacement; the candidate that the drawn ones choose is
/// scored on those that were left out.
///
/// Cells may be missing in any pattern. A candidate is chosen by its shrunk effect, as the ranking does, with the
/// variances and difficulties of `fitted`, which all data gave. `eligible` are the rows that may be chosen. `None` on fewer
/// than 5 instances, and where nothing was left out for a winner in any draw.
pub fn corrected(cells: &[Observation], eligible: &[bool], fitted: &Fitted, seed: u64) -> Option<Corrected> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let columns: Vec<usize> = {
        let mut columns: Vec<usize> = cells.iter().map(|cell| cell.column).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    };
    if columns.len() < LEAST_COLUMNS {
        return None;
    }
    let rows = eligible.len();
    let value = |cell: &Observation| cell.value / fitted.scale;
    let chosen_from = |cell: &&Observation| cell.row < rows && eligible[cell.row];
    let cells: Vec<&Observation> = cells.iter().filter(chosen_from).collect();
    let most = columns.last().map_or(0, |last| last + 1);
    let (mut times, mut sum, mut count) = (vec![0.0; most], vec![0.0; rows], vec![0.0; rows]);
    let mut scores = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        times.fill(0.0);
        sum.fill(0.0);
        count.fill(0.0);
        (0..columns.len()).for_each(|_| times[columns[rng.random_range(0..columns.len())]] += 1.0);
        for cell in &cells {
            sum[cell.row] += times[cell.column] * (value(cell) - fitted.difficulty(cell.column));
            count[cell.row] += times[cell.column];
        }
        let effect = |row: &usize| fitted.shrunk(sum[*row], count[*row]);
        let seen = (0..rows).filter(|&row| eligible[row] && count[row] > 0.0);
        // The first of equals, as in the order of trying.
        let Some(winner) = seen.rev().max_by(|a, b| effect(a).total_cmp(&effect(b))) else { continue };
        let (mut left_out, mut total) = (0.0, 0.0);
        for cell in cells.iter().filter(|cell| cell.row == winner && times[cell.column] == 0.0) {
            total += value(cell);
            left_out += 1.0;
        }
        if left_out > 0.0 {
            scores.push((total / left_out, left_out));
        }
    }
    // A winner that was hardly looked at elsewhere counts for as much as it was.
    let weights: f64 = scores.iter().map(|(_, weight)| weight).sum();
    if weights == 0.0 {
        return None;
    }
    scores.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let at = |share: f64| {
        let mut sum = 0.0;
        let reached = scores.iter().find(|(_, weight)| {
            sum += weight;
            sum >= share * weights
        });
        reached.or(scores.last()).map_or(0.0, |(score, _)| *score)
    };
    let score = scores.iter().map(|(score, weight)| score * weight).sum::<f64>() / weights;
    let scaled = |value: f64| finite(value * fitted.scale);
    Some(Corrected { score: scaled(score), ci95: (scaled(at(0.025).min(score)), scaled(at(0.975).max(score))) })
}

/// What an additive model learnt of a table: enough to say whom other draws of its columns would choose.
pub struct Fitted {
    /// What everything else is divided by: a power of two, so that sums and squares of the largest values are finite.
    scale: f64,
    difficulties: Vec<f64>,
    level: f64,
    /// Noise variance over the variance of the rows' effects.
    ratio: f64,
}

impl Fitted {
    /// From a posterior and the cells that it was fitted to.
    pub fn of(posterior: &Posterior, cells: &[Observation]) -> Fitted {
        let scale = scale_of(cells.iter().map(|cell| cell.value));
        let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for cell in cells {
            let effect = posterior.beyond.get(cell.row).copied().flatten().map_or(posterior.level, |effect| effect.0);
            let (sum, count) = sums.entry(cell.column).or_default();
            *sum += cell.value / scale - effect / scale;
            *count += 1.0;
        }
        let variance = |sd: f64| (sd / scale).powi(2);
        let (noise, column) = (variance(posterior.noise_sd), variance(posterior.column_sd));
        let ratio = if column > 0.0 { noise / column } else { f64::INFINITY };
        let most = sums.last_key_value().map_or(0, |(column, _)| column + 1);
        let mut difficulties = vec![0.0; most];
        sums.into_iter().for_each(|(column, (sum, count))| difficulties[column] = sum / (count + ratio));
        let row = variance(posterior.row_sd);
        let ratio = if row > 0.0 { noise / row } else { 0.0 };
        Fitted { scale, difficulties, level: posterior.level / scale, ratio }
    }

    fn difficulty(&self, column: usize) -> f64 {
        self.difficulties.get(column).copied().unwrap_or(0.0)
    }

    fn shrunk(&self, sum: f64, count: f64) -> f64 {
        (sum - count * self.level) / (count + self.ratio)
    }
}

/// How likely so much difference between rows is where there is none: each instance's values, less their mean, change
/// their signs together at random (the wild bootstrap: Liu 1988, Mammen 1993). So instances may differ as they like, and
/// rows may agree with each other for reasons of their own, as votes over the same samples do. Looked at in two ways: how
/// far all rows are apart, and how far the one that is furthest; the rarer of the two is compared with the rarer of the two
/// of each draw (Westfall & Young 1993). `None` where no two rows share an instance, or all that share one agree: then
/// nothing was seen to differ.
pub fn difference_p_value(cells: &[Observation], rows: usize, seed: u64) -> Option<f64> {
    let mut columns: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
    let sound = || cells.iter().filter(|cell| cell.row < rows && cell.value.is_finite());
    // Squares of the largest values, and of the least, must be numbers.
    let scale = scale_of(sound().map(|cell| cell.value));
    for cell in sound() {
        columns.entry(cell.column).or_default().push((cell.row, cell.value / scale));
    }
    // Only instances on which some rows differ can tell rows apart.
    let mut shared: Vec<Vec<(usize, f64)>> =
        columns.into_values().filter(|seen| seen.iter().any(|(_, value)| *value != seen[0].1)).collect();
    if shared.is_empty() {
        return None;
    }
    let mut count = vec![0.0; rows];
    for seen in &mut shared {
        seen.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mean = seen.iter().map(|(_, value)| value).sum::<f64>() / seen.len() as f64;
        for (row, value) in seen {
            *value -= mean;
            count[*row] += 1.0;
        }
    }
    let mut sum = vec![0.0; rows];
    let mut spread = |sign: &mut dyn FnMut() -> f64| -> (f64, f64) {
        sum.fill(0.0);
        for seen in &shared {
            let sign = sign();
            seen.iter().for_each(|(row, value)| sum[*row] += sign * value);
        }
        let looked_at = sum.iter().zip(&count).filter(|(_, count)| **count > 0.0);
        looked_at.map(|(sum, count)| sum * sum / count).fold((0.0, 0.0), |(all, most), one| (all + one, one.max(most)))
    };
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let times = if cells.len() > 5_000 { 199 } else { 999 };
    let mut flip = || if rng.random::<bool>() { 1.0 } else { -1.0 };
    // The data first.
    let mut drawn = vec![spread(&mut || 1.0)];
    drawn.extend((0..times).map(|_| spread(&mut flip)));
    // How many are as far as each.
    let as_far = |way: fn(&(f64, f64)) -> f64| -> Vec<usize> {
        let mut sorted: Vec<f64> = drawn.iter().map(way).collect();
        sorted.sort_by(f64::total_cmp);
        // Rounding must not make a draw that equals the data count as nearer.
        drawn
            .iter()
            .map(|one| sorted.len() - sorted.partition_point(|other| *other < way(one) * (1.0 - 1e-12)))
            .collect()
    };
    let rarer: Vec<usize> =
        as_far(|one| one.0).into_iter().zip(as_far(|one| one.1)).map(|(all, most)| all.min(most)).collect();
    Some(rarer.iter().filter(|&&one| one <= rarer[0]).count() as f64 / drawn.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::super::additive;
    use super::*;

    /// Rows of 0/1 values with these chances on instances of unequal difficulty; row r sees the first `seen(r)` columns.
    fn table(chances: &[f64], columns: usize, seen: impl Fn(usize) -> usize, seed: u64) -> Vec<Observation> {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let hard: Vec<f64> = (0..columns).map(|_| rng.random::<f64>() * 0.6 - 0.3).collect();
        let mut cells = Vec::new();
        for (row, chance) in chances.iter().enumerate() {
            for (column, hard) in hard.iter().enumerate() {
                let value = f64::from(rng.random::<f64>() < chance + hard);
                if column < seen(row) {
                    cells.push(Observation { row, column, value });
                }
            }
        }
        cells
    }

    fn independent(posterior: &Posterior) -> Independent {
        Independent(posterior.beyond.iter().map(|belief| belief.unwrap_or_default()).collect())
    }

    #[test]
    fn p_best_agrees_with_the_normal_distribution() {
        // Two candidates one standard deviation of their difference apart: the better one is best at Phi(1).
        let p = p_best(&Independent(vec![(0.0, 0.6), (1.0, 0.8)]), &[], 0.0, 3);
        assert!((p[1] - 0.8413).abs() < 0.02 && (p[0] + p[1] - 1.0).abs() < 1e-9, "{p:?}");
        let three = Independent(vec![(0.0, 0.0), (1.0, 0.0), (1.0, 0.0)]);
        assert_eq!(p_best(&three, &[], 0.0, 3), [0.0, 0.5, 0.5]);
        assert_eq!(p_best(&three, &[1.0, 3.0, 2.0], 0.5, 3), [0.0, 0.0, 1.0]);
        assert_eq!(p_best(&three, &[1.0, 3.0, 2.0], 1.0, 3), [1.0, 0.0, 0.0]);
        assert_eq!(p_best(&Independent(vec![(0.0, 1.0)]), &[], 0.0, 3), [1.0]);
        assert!(p_best(&Independent(Vec::new()), &[], 0.0, 3).is_empty());
    }

    #[test]
    fn the_credible_set_is_the_smallest() {
        assert_eq!(credible(&[0.1, 0.6, 0.3, 0.0], 0.95), [1, 2, 0]);
        assert_eq!(credible(&[0.01, 0.98, 0.01], 0.95), [1]);
        assert_eq!(credible(&[0.25; 4], 0.95), [0, 1, 2, 3]);
        assert!(credible(&[], 0.95).is_empty());
    }

    #[test]
    fn the_loss_of_stopping_agrees_with_the_normal_distribution() {
        // E max(0, X) of a standard normal X is 0.3989.
        let even = Independent(vec![(0.0, 0.0), (0.0, 1.0)]);
        assert!((expected_loss(&even, 0, None, 1) - 0.3989).abs() < 0.03);
        assert!((expected_loss(&Independent(vec![(0.0, 0.0)]), 0, Some((0.0, 1.0)), 1) - 0.3989).abs() < 0.03);
        assert_eq!(expected_loss(&Independent(vec![(1.0, 0.0), (0.0, 0.0)]), 0, None, 1), 0.0);
        assert_eq!(expected_loss(&even, 7, None, 1), 0.0);
    }

    #[test]
    fn the_corrected_score_is_nearer_to_the_truth() {
        // 40 equal candidates: the best of 30 instances looks much better than the truth, 0.5.
        let (mut naive, mut mended, mut covered, studies) = (0.0, 0.0, 0, 30);
        for seed in 0..studies {
            let cells = table(&[0.5; 40], 30, |_| 30, seed);
            let posterior = additive::fit(&cells, 40, 30);
            let best = posterior.mean.iter().flatten().copied().fold(0.0, f64::max);
            let corrected = corrected(&cells, &[true; 40], &Fitted::of(&posterior, &cells), seed).unwrap();
            naive += best - 0.5;
            mended += corrected.score - 0.5;
            covered += usize::from(corrected.ci95.0 <= 0.5 && 0.5 <= corrected.ci95.1);
        }
        let (naive, mended) = (naive / studies as f64, mended / studies as f64);
        assert!(naive > 0.12 && mended.abs() < 0.03, "{naive} {mended}");
        assert!(covered >= 27, "{covered}");
    }

    #[test]
    fn unequal_and_missing_cells_are_no_obstacle() {
        // As a race leaves them: half of 32 candidates were looked at 6 times, a quarter 12 times, and so on.
        let (mut naive, mut mended, studies) = (0.0, 0.0, 30);
        for seed in 0..studies {
            let chances: Vec<f64> = (0..32).map(|row| 0.45 + 0.1 * (row as f64 / 31.0)).collect();
            let full = table(&chances, 60, |_| 60, seed);
            let mut alive: Vec<usize> = (0..32).collect();
            let mut depth = 6;
            let mut upto = [0; 32];
            while !alive.is_empty() && depth <= 60 {
                alive.iter().for_each(|&row| upto[row] = depth);
                let score = |row: usize| -> f64 {
                    full.iter().filter(|cell| cell.row == row && cell.column < depth).map(|cell| cell.value).sum()
                };
                alive.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
                alive.truncate(alive.len() / 2);
                depth = (depth * 2).min(if depth == 60 { 61 } else { 60 });
            }
            let cells: Vec<Observation> = full.into_iter().filter(|cell| cell.column < upto[cell.row]).collect();
            let posterior = additive::fit(&cells, 32, 60);
            let best = (0..32).max_by(|&a, &b| posterior.mean[a].partial_cmp(&posterior.mean[b]).unwrap()).unwrap();
            let own: Vec<f64> = cells.iter().filter(|cell| cell.row == best).map(|cell| cell.value).collect();
            naive += own.iter().sum::<f64>() / own.len() as f64 - chances[best];
            let corrected = corrected(&cells, &[true; 32], &Fitted::of(&posterior, &cells), seed).unwrap();
            mended += corrected.score - chances[best];
        }
        let (naive, mended) = (naive / studies as f64, mended / studies as f64);
        println!("optimism of a halving: naive {naive:.4}, corrected {mended:.4}");
        assert!(mended.abs() < naive.abs(), "{naive} {mended}");
    }

    #[test]
    fn nothing_is_said_to_differ_where_nothing_does() {
        let studies = 60;
        let p = |chances: &[f64], seed: u64| {
            let cells = table(chances, 50, |row| 10 + row * 5, seed);
            difference_p_value(&cells, chances.len(), seed).unwrap()
        };
        let wrong = (0..studies).filter(|&seed| p(&[0.5; 8], seed) <= 0.05).count();
        let found = (0..20).filter(|&seed| p(&[0.5, 0.5, 0.5, 0.5, 0.3, 0.5, 0.7, 0.7], seed) <= 0.05).count();
        assert!(wrong <= 7 && found >= 18, "{wrong} {found}");
        // Ten times the same eight: rows that agree are no further evidence.
        let copies = |seed: u64| {
            let cells = table(&[0.5; 8], 50, |_| 50, seed);
            let copy = |cell: &Observation| {
                (0..10).map(|k| Observation { row: cell.row * 10 + k, ..*cell }).collect::<Vec<_>>()
            };
            difference_p_value(&cells.iter().flat_map(copy).collect::<Vec<_>>(), 80, seed).unwrap()
        };
        let copied = (0..studies).filter(|&seed| copies(seed) <= 0.05).count();
        println!("said to differ where nothing does: {wrong} and {copied} of {studies}; found {found} of 20");
        assert!(copied <= 7, "{copied}");
        // One row that was looked at well and is far ahead, among many that were hardly looked at.
        let mut chances = [0.5; 30];
        (chances[0], chances[1]) = (0.8, 0.55);
        let deep = |seed: u64| {
            let cells = table(&chances, 80, |row| if row < 2 { 80 } else { 4 }, seed);
            difference_p_value(&cells, chances.len(), seed).unwrap() <= 0.05
        };
        let found = (0..20).filter(|&seed| deep(seed)).count();
        println!("one far ahead of one, among many: found {found} of 20");
        assert!(found >= 17, "{found}");
        assert_eq!(difference_p_value(&[], 3, 1), None);
        assert_eq!(difference_p_value(&table(&[2.0, 2.0], 9, |_| 9, 1), 2, 1), None);
    }

    #[test]
    fn the_size_of_the_values_changes_nothing() {
        let plain = table(&[0.5, 0.6, 0.7, 0.4], 40, |row| 10 + row * 10, 3);
        for size in [2.0_f64.powi(1016), 2.0_f64.powi(-1000)] {
            let sized: Vec<Observation> =
                plain.iter().map(|cell| Observation { value: cell.value * size, ..*cell }).collect();
            let of = |cells: &[Observation]| {
                let posterior = additive::fit(cells, 4, 40);
                corrected(cells, &[true; 4], &Fitted::of(&posterior, cells), 5).unwrap()
            };
            let (is, should) = (of(&sized), of(&plain));
            let near = |a: f64, b: f64| (a / size - b).abs() < 1e-9;
            assert!(near(is.score, should.score) && near(is.ci95.0, should.ci95.0) && near(is.ci95.1, should.ci95.1));
            assert_eq!(difference_p_value(&sized, 4, 5), difference_p_value(&plain, 4, 5));
        }
        let huge = Independent(vec![(1e306, 2e305), (1.1e306, 2e305), (0.9e306, 2e305)]);
        let loss = expected_loss(&huge, 1, None, 1);
        assert!(loss > 1e304 && loss < 2e305, "{loss}");
    }

    #[test]
    fn a_winner_is_found_in_the_model() {
        let chances = [0.5, 0.5, 0.85, 0.5];
        let cells = table(&chances, 120, |_| 120, 4);
        let posterior = additive::fit(&cells, 4, 120);
        let p = p_best(&independent(&posterior), &[], 0.0, 1);
        assert_eq!(credible(&p, 0.95), [2], "{p:?}");
    }

    #[test]
    fn nothing_seen_has_no_score() {
        let posterior = additive::fit(&[], 2, 4);
        assert_eq!(corrected(&[], &[true, true], &Fitted::of(&posterior, &[]), 1), None);
        // One instance is always drawn, so it is never left out.
        let one = [Observation { row: 0, column: 0, value: 1.0 }];
        let posterior = additive::fit(&one, 1, 4);
        assert_eq!(corrected(&one, &[true], &Fitted::of(&posterior, &one), 1), None);
        // Of two the one drawn twice says nothing of the other: the winner of 1 and 0 would be held for 0.
        let two: Vec<Observation> =
            (0..4).map(|at| Observation { row: at / 2, column: at % 2, value: f64::from(u8::from(at == 0)) }).collect();
        let posterior = additive::fit(&two, 2, 2);
        assert_eq!(corrected(&two, &[true; 2], &Fitted::of(&posterior, &two), 1), None);
    }
}
