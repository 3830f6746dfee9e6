//! The model that configurations are ranked by: two-way additive, empirical Bayes, on whatever was observed.
//!
//! The value of configuration c on instance i is `mu + a_c + d_i + noise`, with the effects of configurations `a` drawn
//! with variance tau², the difficulties of instances `d` with delta², and the noise with sigma². Effects are fitted by a
//! few sweeps, each shrunk by its own reliability; variances by the scoring step of maximum likelihood for random
//! effects, with a weak prior in units of the data's own variance. So the result does not depend on the metric's scale,
//! one configuration or one observation is enough, and the work grows with the number of observations alone.

use super::{finite, scale_of};

/// How often effects and variances are improved in turn. More changes no ranking in practice.
const SWEEPS: usize = 10;
/// The share of the data's variance that is taken for noise before anything is learnt, and how many residuals that
/// assumption weighs.
const NOISE_SHARE: f64 = 0.75;
const NOISE_WEIGHT: f64 = 2.0;
/// The least share of the data's variance that either effect's variance is taken to have: what is estimated as 0 from
/// a handful of observations is not 0.
const LEAST_SHARE: f64 = 0.02;

/// One value that was observed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Which configuration, `0..rows`.
    pub row: usize,
    /// Which instance, `0..columns`.
    pub column: usize,
    /// Its value; finite.
    pub value: f64,
}

/// What the observations say of every configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// Of each row, the posterior mean of its mean over all columns: what was observed counts as it is, the rest as
    /// predicted. `None` for a row without an observation.
    pub mean: Vec<Option<f64>>,
    /// Of each row, the posterior standard deviation of that mean; 0 for a row observed on every column, and where all
    /// observations are equal. The uncertainty of the instances' difficulties, which moves all rows alike, is not in it.
    pub sd: Vec<Option<f64>>,
    /// Of each row, the posterior mean and standard deviation of its value on further columns like these: what was
    /// observed is a sample here, so it is not known even where every column was observed. As unsure of the columns'
    /// difficulties as `sd`. `None` for a row without an observation.
    pub beyond: Vec<Option<(f64, f64)>>,
    /// How many columns each row was observed on.
    pub count: Vec<usize>,
    /// The overall level: what is expected of a row without an observation. 0 where nothing was observed.
    pub level: f64,
    /// The standard deviation of the noise (sigma).
    pub noise_sd: f64,
    /// The standard deviation of the rows' effects (tau).
    pub row_sd: f64,
    /// The standard deviation of the columns' effects (delta).
    pub column_sd: f64,
}

/// Fits the model. `columns` is how many instances there are in all, seen or not.
///
/// Observations outside the table or not finite are left out; several of one place count as their mean. Rows that were
/// observed on the same columns are ranked exactly as by their raw means. The order of the observations does not matter.
pub fn fit(observations: &[Observation], rows: usize, columns: usize) -> Posterior {
    let mut posterior = Posterior {
        mean: vec![None; rows],
        sd: vec![None; rows],
        beyond: vec![None; rows],
        count: vec![0; rows],
        level: 0.0,
        noise_sd: 0.0,
        row_sd: 0.0,
        column_sd: 0.0,
    };
    let (table, scale) = Table::new(observations, rows, columns);
    let Some(&(_, first)) = table.rows.iter().flatten().next() else {
        return posterior;
    };
    let constant = table.rows.iter().flatten().all(|&(_, value)| value == first);
    let model = if constant { Model::constant(first, rows, columns) } else { Model::fit(&table, columns) };
    for (row, seen) in table.rows.iter().enumerate().filter(|(_, seen)| !seen.is_empty()) {
        let (mean, sd) = if constant { (first, 0.0) } else { model.mean_over_all(seen, row, columns) };
        posterior.mean[row] = Some(finite(mean * scale));
        posterior.sd[row] = Some(finite(sd * scale));
        let effect = model.level + model.row_effect[row];
        let effect_sd = if constant { 0.0 } else { model.effect_variance(seen.len() as f64).sqrt() };
        posterior.beyond[row] = Some((finite(effect * scale), finite(effect_sd * scale)));
        posterior.count[row] = seen.len();
    }
    posterior.level = finite(model.level * scale);
    posterior.noise_sd = finite(model.noise.sqrt() * scale);
    posterior.row_sd = finite(model.row_variance.sqrt() * scale);
    posterior.column_sd = finite(model.column_variance.sqrt() * scale);
    posterior
}

/// The observations by row, each row in the order of columns, divided by a power of two (which is exact).
struct Table {
    rows: Vec<Vec<(usize, f64)>>,
}

impl Table {
    fn new(observations: &[Observation], rows: usize, columns: usize) -> (Table, f64) {
        let fits = |seen: &&Observation| seen.row < rows && seen.column < columns && seen.value.is_finite();
        let scale = scale_of(observations.iter().filter(fits).map(|seen| seen.value));
        let mut table = vec![Vec::new(); rows];
        for seen in observations.iter().filter(fits) {
            table[seen.row].push((seen.column, seen.value / scale));
        }
        for row in &mut table {
            // By value within a column, so that the mean of repeats does not depend on their order either.
            row.sort_by(|a: &(usize, f64), b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
            *row = row
                .chunk_by(|a, b| a.0 == b.0)
                .map(|repeats| {
                    let sum: f64 = repeats.iter().map(|(_, value)| value).sum();
                    (repeats[0].0, if repeats.len() == 1 { sum } else { sum / repeats.len() as f64 })
                })
                .collect();
        }
        (Table { rows: table }, scale)
    }
}

/// The effects and variances, in units of the table's scale.
struct Model {
    level: f64,
    row_effect: Vec<f64>,
    column_effect: Vec<f64>,
    /// The sum of the columns' effects.
    difficulty: f64,
    noise: f64,
    row_variance: f64,
    column_variance: f64,
}

impl Model {
    fn constant(level: f64, rows: usize, columns: usize) -> Model {
        Model {
            level,
            row_effect: vec![0.0; rows],
            column_effect: vec![0.0; columns],
            difficulty: 0.0,
            noise: 0.0,
            row_variance: 0.0,
            column_variance: 0.0,
        }
    }

    fn fit(table: &Table, columns: usize) -> Model {
        let all = || table.rows.iter().flatten();
        let total = all().count() as f64;
        let level = all().map(|&(_, value)| value).sum::<f64>() / total;
        let variance = all().map(|&(_, value)| (value - level).powi(2)).sum::<f64>() / total;
        let least = (LEAST_SHARE * variance).max(f64::MIN_POSITIVE);
        let mut model = Model::constant(level, table.rows.len(), columns);
        (model.noise, model.row_variance, model.column_variance) =
            (NOISE_SHARE * variance, 0.1 * variance, 0.2 * variance);

        let mut column_count = vec![0.0_f64; columns];
        all().for_each(|&(column, _)| column_count[column] += 1.0);
        let columns_seen = column_count.iter().filter(|count| **count > 0.0).count() as f64;
        let row_count: Vec<f64> = table.rows.iter().map(|seen| seen.len() as f64).collect();
        let row_mean: Vec<f64> = table
            .rows
            .iter()
            .map(|seen| seen.iter().map(|(_, value)| value).sum::<f64>() / seen.len().max(1) as f64)
            .collect();

        for _ in 0..SWEEPS {
            // Difficulties, given the rows.
            let mut rest = vec![0.0_f64; columns];
            for (row, seen) in table.rows.iter().enumerate() {
                let expected = model.level + model.row_effect[row];
                seen.iter().for_each(|&(column, value)| rest[column] += value - expected);
            }
            let raw = |column: usize| rest[column] / column_count[column];
            let seen = (0..columns).filter(|&column| column_count[column] > 0.0);
            let effects = seen.clone().map(|column| (raw(column), column_count[column]));
            model.column_variance = step(effects, model.noise, model.column_variance).max(least);
            let column_ratio = model.noise / model.column_variance;
            seen.clone()
                .for_each(|column| model.column_effect[column] = rest[column] / (column_count[column] + column_ratio));
            // The prefix of the order is a fair sample, so its difficulties are taken to sum to 0: what they have in
            // common is the level.
            let common = seen.clone().map(|column| model.column_effect[column]).sum::<f64>() / columns_seen;
            seen.for_each(|column| model.column_effect[column] -= common);

            // Rows and the level, given the difficulties.
            let raw: Vec<f64> = table
                .rows
                .iter()
                .zip(&row_mean)
                .map(|(seen, mean)| {
                    mean - seen.iter().map(|&(column, _)| model.column_effect[column]).sum::<f64>()
                        / seen.len().max(1) as f64
                })
                .collect();
            let seen = (0..raw.len()).filter(|&row| row_count[row] > 0.0);
            let effects = seen.clone().map(|row| (raw[row], row_count[row]));
            model.row_variance = step(effects.clone(), model.noise, model.row_variance).max(least);
            model.level = weighted_mean(effects, model.noise, model.row_variance);
            let row_ratio = model.noise / model.row_variance;
            seen.clone().for_each(|row| {
                model.row_effect[row] = row_count[row] / (row_count[row] + row_ratio) * (raw[row] - model.level);
            });

            // The noise, from the residuals and the freedom that the shrunk effects leave them.
            let squares: f64 = table
                .rows
                .iter()
                .enumerate()
                .flat_map(|(row, seen)| seen.iter().map(move |cell| (row, cell)))
                .map(|(row, &(column, value))| {
                    (value - model.level - model.row_effect[row] - model.column_effect[column]).powi(2)
                })
                .sum();
            let used: f64 = seen.map(|row| row_count[row] / (row_count[row] + row_ratio)).sum::<f64>()
                + column_count.iter().map(|count| count / (count + column_ratio)).sum::<f64>();
            let freedom = (total - used).max(0.0);
            model.noise =
                ((squares + NOISE_WEIGHT * NOISE_SHARE * variance) / (freedom + NOISE_WEIGHT)).max(f64::MIN_POSITIVE);
        }
        model.difficulty = model.column_effect.iter().sum();
        model
    }

    /// The posterior mean and standard deviation of a row's mean over all columns: its own values where it was
    /// observed, predictions elsewhere. The finite-population correction comes out of that by itself.
    fn mean_over_all(&self, seen: &[(usize, f64)], row: usize, columns: usize) -> (f64, f64) {
        let (count, all) = (seen.len() as f64, columns as f64);
        let sum: f64 = seen.iter().map(|(_, value)| value).sum();
        if seen.len() >= columns {
            return (sum / all, 0.0);
        }
        let here: f64 = seen.iter().map(|&(column, _)| self.column_effect[column]).sum();
        let elsewhere = self.difficulty - here;
        let mean = (sum + (all - count) * (self.level + self.row_effect[row]) + elsewhere) / all;
        let effect_variance = self.effect_variance(count);
        let share = (all - count) / all;
        let variance = share * share * effect_variance + share / all * self.noise;
        (mean, variance.sqrt())
    }

    /// The posterior variance of the effect of a row that was observed so often.
    fn effect_variance(&self, count: f64) -> f64 {
        1.0 / (count / self.noise + 1.0 / self.row_variance)
    }
}

/// One scoring step of maximum likelihood for the variance of effects, each given as its raw estimate and how many
/// observations that is the mean of.
fn step(effects: impl Iterator<Item = (f64, f64)> + Clone, noise: f64, variance: f64) -> f64 {
    let count = effects.clone().count() as f64;
    if count < 2.0 {
        return variance;
    }
    let mean = weighted_mean(effects.clone(), noise, variance);
    let (mut sum, mut weights) = (0.0, 0.0);
    // Weights relative to the most reliable effect, so that their squares neither overflow nor vanish.
    let best = effects.clone().map(|(_, n)| noise / n + variance).fold(f64::MAX, f64::min);
    for (raw, n) in effects {
        let weight = (best / (noise / n + variance)).powi(2);
        sum += weight * (count / (count - 1.0) * (raw - mean).powi(2) - noise / n);
        weights += weight;
    }
    sum / weights
}

fn weighted_mean(effects: impl Iterator<Item = (f64, f64)> + Clone, noise: f64, variance: f64) -> f64 {
    let best = effects.clone().map(|(_, n)| noise / n + variance).fold(f64::MAX, f64::min);
    let weight = |n: f64| best / (noise / n + variance);
    let weights: f64 = effects.clone().map(|(_, n)| weight(n)).sum();
    effects.map(|(raw, n)| weight(n) * raw).sum::<f64>() / weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(row: usize, column: usize, value: f64) -> Observation {
        Observation { row, column, value }
    }

    #[test]
    fn nothing_seen_is_nothing_known() {
        let posterior = fit(&[], 2, 5);
        assert_eq!((posterior.mean, posterior.sd), (vec![None, None], vec![None, None]));
        assert_eq!(fit(&[seen(0, 0, f64::NAN), seen(5, 0, 1.0), seen(0, 9, 1.0)], 2, 5).mean, [None, None]);
        assert!(fit(&[], 0, 0).mean.is_empty());
    }

    #[test]
    fn constant_data_one_row_and_one_column_work() {
        let constant = fit(&[seen(0, 0, 2.5), seen(1, 3, 2.5)], 3, 4);
        assert_eq!((constant.mean, constant.sd), (vec![Some(2.5), Some(2.5), None], vec![Some(0.0), Some(0.0), None]));
        let row = fit(&[seen(0, 0, 0.0), seen(0, 1, 1.0), seen(0, 2, 1.0)], 1, 100);
        assert!((row.mean[0].unwrap() - 2.0 / 3.0).abs() < 0.1 && row.sd[0].unwrap() > 0.1, "{row:?}");
        let column = fit(&[seen(0, 0, 0.0), seen(1, 0, 1.0)], 2, 1);
        assert_eq!((column.mean, column.sd), (vec![Some(0.0), Some(1.0)], vec![Some(0.0), Some(0.0)]));
    }

    #[test]
    fn a_row_seen_everywhere_is_known() {
        let cells: Vec<Observation> =
            (0..4).map(|column| seen(0, column, column as f64)).chain([seen(1, 0, 3.0)]).collect();
        let posterior = fit(&cells, 2, 4);
        assert_eq!((posterior.mean[0], posterior.sd[0]), (Some(1.5), Some(0.0)));
        assert!(posterior.sd[1].unwrap() > 0.0);
    }

    #[test]
    fn easy_instances_do_not_flatter() {
        // Row 0 saw only the instances that everyone solves, row 1 only those that half of the others solve; it is better.
        let mut cells = Vec::new();
        for row in 2..10 {
            for column in 0..40 {
                cells.push(seen(row, column, if column < 20 || (row + column) % 2 == 0 { 1.0 } else { 0.0 }));
            }
        }
        cells.extend((0..20).map(|column| seen(0, column, if column < 17 { 1.0 } else { 0.0 })));
        cells.extend((20..40).map(|column| seen(1, column, if column < 36 { 1.0 } else { 0.0 })));
        let posterior = fit(&cells, 10, 40);
        assert!(posterior.mean[1] > posterior.mean[0], "{:?}", posterior.mean);
        assert!(posterior.column_sd > 0.1);
    }

    #[test]
    fn variances_are_found_again() {
        // Effects and noise on grids of known variance, crossed by a fixed permutation.
        let (rows, columns) = (30, 60);
        let spread = |at: usize, of: usize| (at as f64 + 0.5) / of as f64 * 2.0 - 1.0;
        let mut cells = Vec::new();
        for row in 0..rows {
            for column in 0..columns {
                let noise = spread((row * 1009 + column * 7919 + row * column * 31) % 97, 97);
                cells.push(seen(
                    row,
                    column,
                    5.0 + 0.3 * spread(row, rows) + 0.8 * spread(column * 7 % columns, columns) + noise,
                ));
            }
        }
        let posterior = fit(&cells, rows, columns);
        let third = 3.0_f64.sqrt();
        assert!((posterior.row_sd - 0.3 / third).abs() < 0.05, "{}", posterior.row_sd);
        assert!((posterior.column_sd - 0.8 / third).abs() < 0.05, "{}", posterior.column_sd);
        assert!((posterior.noise_sd - 1.0 / third).abs() < 0.05, "{}", posterior.noise_sd);
    }

    #[test]
    fn the_standard_deviation_is_that_of_sampling_without_replacement() {
        // With rows that differ hugely, shrinkage vanishes and the textbook value is left: sigma²/n (1 - n/N).
        let noise = |row: usize, column: usize| {
            if (row * 37 + column * 101 + row * column * 13) % 89 < 45 { 1.0 } else { -1.0 }
        };
        let mut cells = Vec::new();
        for row in 0..20 {
            for column in 0..50 {
                cells.push(seen(row, column, 1000.0 * row as f64 + noise(row, column)));
            }
        }
        let posterior = fit(&cells, 20, 200);
        let expected = posterior.noise_sd * (1.0 / 50.0 * 0.75_f64).sqrt();
        assert!((posterior.sd[3].unwrap() / expected - 1.0).abs() < 0.02, "{posterior:?} {expected}");
    }

    fn some_cells() -> impl Strategy<Value = Vec<Observation>> {
        let value = prop_oneof![
            Just(0.0),
            Just(1.0),
            -1.0..1.0,
            prop::num::f64::NORMAL,
            Just(f64::MAX),
            Just(f64::MIN_POSITIVE)
        ];
        prop::collection::vec((0_usize..8, 0_usize..12, value), 0..60)
            .prop_map(|cells| cells.into_iter().map(|(row, column, value)| seen(row, column, value)).collect())
    }

    proptest! {
        #[test]
        fn finite_in_finite_out(cells in some_cells()) {
            let posterior = fit(&cells, 8, 12);
            for row in 0..8 {
                let present = cells.iter().any(|cell| cell.row == row);
                prop_assert_eq!((posterior.mean[row].is_some(), posterior.sd[row].is_some()), (present, present));
                if let (Some(mean), Some(sd)) = (posterior.mean[row], posterior.sd[row]) {
                    prop_assert!(mean.is_finite() && sd.is_finite() && sd >= 0.0, "{} {}", mean, sd);
                }
            }
            prop_assert!([posterior.level, posterior.noise_sd, posterior.row_sd, posterior.column_sd].iter().all(|v| v.is_finite()));
        }

        #[test]
        fn the_order_of_observations_does_not_matter(cells in some_cells(), turn in 0_usize..60) {
            let mut turned = cells.clone();
            turned.rotate_left(turn % cells.len().max(1));
            prop_assert_eq!(fit(&cells, 8, 12), fit(&turned, 8, 12));
        }

        #[test]
        fn rows_with_the_same_columns_rank_as_their_raw_means(
            values in prop::collection::vec(prop::collection::vec(0_i32..4, 5), 2..9),
            others in prop::collection::vec((20_usize..23, 0_usize..12, 0_i32..4), 0..20),
            divisor in 1_i32..9,
        ) {
            let quantum = 1.0 / f64::from(1 << divisor);
            let mut cells: Vec<Observation> = others.into_iter().map(|(row, column, value)| seen(row, column, f64::from(value) * quantum)).collect();
            for (row, line) in values.iter().enumerate() {
                cells.extend(line.iter().enumerate().map(|(at, value)| seen(row, at * 2, f64::from(*value) * quantum)));
            }
            let posterior = fit(&cells, 23, 12);
            for a in 0..values.len() {
                for b in 0..values.len() {
                    let raw = values[a].iter().sum::<i32>().cmp(&values[b].iter().sum::<i32>());
                    prop_assert_eq!(posterior.mean[a].unwrap().total_cmp(&posterior.mean[b].unwrap()), raw);
                }
            }
        }

        #[test]
        fn the_scale_does_not_matter(cells in prop::collection::vec((0_usize..5, 0_usize..6, 0.0_f64..1.0), 1..25), power in -200_i32..200) {
            let factor = 2.0_f64.powi(power);
            let plain: Vec<Observation> = cells.iter().map(|&(row, column, value)| seen(row, column, value)).collect();
            let scaled: Vec<Observation> = cells.iter().map(|&(row, column, value)| seen(row, column, value * factor)).collect();
            let (plain, scaled) = (fit(&plain, 5, 6), fit(&scaled, 5, 6));
            for row in 0..5 {
                prop_assert_eq!(plain.mean[row].map(|mean| mean * factor), scaled.mean[row]);
                prop_assert_eq!(plain.sd[row].map(|sd| sd * factor), scaled.sd[row]);
            }
        }
    }
}
