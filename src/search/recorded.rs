//! The strategies on recorded answers of real models, where the recordings are at hand (they are not part of the project).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::simulate::{Table, run};
use super::{order, strategy};
use crate::money::{Usd, per_million};

/// The folder of recordings: `FARTHING_SHARED`, else `../shared` beside the crate.
fn recordings() -> Option<PathBuf> {
    let shared = match std::env::var_os("FARTHING_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
    };
    let folder = shared.join("recorded");
    if !folder.is_dir() {
        println!("skipped: no recordings in {}", folder.display());
        return None;
    }
    Some(folder)
}

fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    csv::Reader::from_reader(text.as_bytes()).deserialize().map(Result::unwrap).collect()
}

/// A matrix of prompts and instances, each row with one price.
fn matrix(path: &Path) -> Arc<Table> {
    let mut table = Table::default();
    for row in rows(path) {
        let scores: Vec<Option<f64>> =
            (0..).map_while(|at| row.get(&format!("i{at}"))).map(|text| text.parse().ok()).collect();
        let price: Usd = row["usd_per_instance"].parse().unwrap();
        table.configurations.push(serde_json::from_value(json!({"prompt": row["config"]})).unwrap());
        table.costs.push(vec![price; scores.len()]);
        table.scores.push(scores);
    }
    table.production = table.costs.clone();
    Arc::new(table)
}

/// Recorded samples: every model, prompt and temperature with n = 1..=10 by majority vote on the tuning split.
fn outcomes(path: &Path, prices: &[(&str, &str, &str)]) -> Arc<Table> {
    #[derive(Default)]
    struct Cell {
        /// By sample: the answer, whether it is right, completion tokens.
        samples: BTreeMap<usize, (String, bool, u64)>,
        prompt_tokens: u64,
    }
    let mut cells: BTreeMap<(String, String, String), BTreeMap<String, Cell>> = BTreeMap::new();
    let mut instances: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows(path).into_iter().filter(|row| row["split"] == "tune") {
        let key = (row["model"].clone(), row["prompt"].clone(), row["temperature"].clone());
        instances.insert(row["instance"].clone(), 0);
        let cell = cells.entry(key).or_default().entry(row["instance"].clone()).or_default();
        cell.prompt_tokens = row["prompt_tokens"].parse::<f64>().unwrap_or(0.0) as u64;
        let tokens = row["completion_tokens"].parse::<f64>().unwrap_or(0.0) as u64;
        cell.samples
            .insert(row["sample"].parse().unwrap(), (row["parsed"].clone(), row["parsed"] == row["gold"], tokens));
    }
    instances.values_mut().enumerate().for_each(|(at, place)| *place = at);
    let mut table = Table { prompts: Some(Vec::new()), ..Table::default() };
    for ((model, prompt, temperature), cells) in &cells {
        let &(_, input, output) = prices.iter().find(|(name, _, _)| name == model).unwrap();
        let (input, output) = (per_million(input).unwrap(), per_million(output).unwrap());
        for n in 1..=10 {
            let mut line =
                (vec![None; instances.len()], vec![Usd::ZERO; instances.len()], vec![Usd::ZERO; instances.len()]);
            for (instance, cell) in cells {
                let place = instances[instance];
                let seen: Vec<&(String, bool, u64)> = cell.samples.values().take(n).collect();
                let votes = |answer: &str| seen.iter().filter(|(other, _, _)| other == answer).count();
                let best =
                    seen.iter().filter(|(answer, _, _)| !answer.is_empty()).map(|(answer, _, _)| votes(answer)).max();
                let winner = seen.iter().find(|(answer, _, _)| !answer.is_empty() && Some(votes(answer)) == best);
                line.0[place] = (seen.len() == n).then(|| f64::from(winner.is_some_and(|(_, right, _)| *right)));
                line.2[place] = input.times(cell.prompt_tokens);
                line.1[place] = line.2[place] + output.times(seen.iter().map(|(_, _, tokens)| tokens).sum());
            }
            // What lacks more than one answer in twenty cannot be best.
            if line.0.iter().flatten().count() * 20 < instances.len() * 19 {
                continue;
            }
            let configuration = json!({"model": model, "prompt": prompt, "temperature": temperature, "n": n});
            table.configurations.push(serde_json::from_value(configuration).unwrap());
            table.scores.push(line.0);
            table.costs.push(line.1);
            table.prompts.as_mut().unwrap().push(line.2);
        }
    }
    table.production = table.costs.clone();
    Arc::new(table)
}

/// The mean over seeds of how far, in points, what a strategy recommends is below the best, and of the share of the
/// budget that it spent.
fn regret(name: &str, table: &Arc<Table>, budget: Usd, seeds: u64) -> (f64, f64) {
    let best = (0..table.configurations.len()).filter_map(|row| table.mean(row)).fold(f64::MIN, f64::max);
    let (mut regret, mut used) = (0.0, 0.0);
    for seed in 0..seeds {
        let problem = table.problem(Some(budget), seed);
        let order = order::stratified(&vec![String::new(); problem.instances], seed + 1000);
        let mut searching = (strategy(name).unwrap().build)(problem.clone()).unwrap();
        let trace = run(&mut *searching, table, &problem, &order).unwrap();
        assert!(trace.spent <= budget);
        let found = trace.recommendation.and_then(|row| table.mean(row)).unwrap_or(0.0);
        regret += 100.0 * (best - found) / seeds as f64;
        used += trace.spent.as_f64() / budget.as_f64() / seeds as f64;
    }
    (regret, used)
}

#[test]
fn halving_finds_better_prompts_than_random_and_grid_at_a_tenth_of_the_price() {
    let Some(folder) = recordings() else { return };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder.join("matrices")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    // Every sixth recording: both data sets.
    let files: Vec<PathBuf> = files.into_iter().step_by(6).collect();
    assert!(files.len() >= 5);
    let mut sums = BTreeMap::new();
    for file in &files {
        let table = matrix(file);
        for name in ["halving", "random", "grid"] {
            *sums.entry(name).or_insert(0.0) +=
                regret(name, &table, table.price().share(0.1), 2).0 / files.len() as f64;
        }
    }
    println!("regret in points at 10 % of the price: {sums:?}");
    assert!(sums["halving"] < 0.6 * sums["random"], "{sums:?}");
    assert!(sums["halving"] < 2.0, "{sums:?}");
}

#[test]
fn halving_copes_with_prices_that_differ_300_to_1() {
    let Some(folder) = recordings() else { return };
    let prices = [("gpt-35-turbo", "1.5", "2.0"), ("gpt-4", "30", "60")];
    let table = outcomes(&folder.join("exam/outcomes.csv.gz"), &prices);
    let budget: Usd = "5".parse().unwrap();
    let (halving, random) = (regret("halving", &table, budget, 10), regret("random", &table, budget, 10));
    println!("exam at $5 of ${}: halving {halving:?}, random {random:?}", table.price());
    assert!(halving.0 < 5.0 && halving.0 < random.0, "{halving:?} {random:?}");
    assert!(halving.1 > 0.95, "{halving:?}");
}

#[test]
fn the_race_needs_a_twentieth_of_the_price_where_prices_differ_300_to_1() {
    let Some(folder) = recordings() else { return };
    let prices = [("gpt-35-turbo", "1.5", "2.0"), ("gpt-4", "30", "60")];
    let table = outcomes(&folder.join("exam/outcomes.csv.gz"), &prices);
    let budget = table.price().share(0.05);
    let (race, random) = (regret("race", &table, budget, 3), regret("random", &table, budget, 3));
    println!("exam at ${budget} of ${}: race {race:?}, random {random:?}", table.price());
    assert!(race.0 < 2.0 && race.0 < random.0, "{race:?} {random:?}");
}
