//! The tables that strategies are compared on: recorded answers of real models, and made-up ones of the same kind.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use farthing::Usd;
use farthing::money::per_million;
use farthing::search::simulate::Table;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::json;

/// Which tables strategies may be chosen by, and which ones are kept to report on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// What is decided is decided by these.
    Choose,
    /// Nothing is decided by these.
    Report,
}

impl Half {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Half::Choose => "choose",
            Half::Report => "report",
        }
    }
}

/// One table, and what is asked of a strategy on it.
#[derive(Clone)]
pub struct Case {
    /// The group whose cases are averaged.
    pub group: String,
    /// Which one of the group.
    pub name: String,
    /// What is raced on.
    pub tune: Arc<Table>,
    /// The same configurations on instances that no strategy sees.
    pub unseen: Option<Arc<Table>>,
    /// What an instance may cost in production.
    pub inference: Option<Usd>,
}

impl Case {
    /// Whether production can afford a row on the average.
    pub fn feasible(&self, row: usize) -> bool {
        let sum: Usd = self.tune.production[row].iter().copied().sum();
        self.inference.is_none_or(|budget| Usd::mean(sum, self.tune.instances() as u64) <= budget)
    }

    /// What evaluating everything that production can afford costs.
    pub fn price(&self) -> Usd {
        let rows: Vec<usize> = (0..self.tune.configurations.len()).filter(|&row| self.feasible(row)).collect();
        select(&self.tune, &rows, None).price()
    }
}

/// Some rows of a table, on some of its instances.
pub fn select(table: &Table, rows: &[usize], instances: Option<&[usize]>) -> Table {
    fn of<T: Clone>(cells: &[Vec<T>], rows: &[usize], instances: Option<&[usize]>) -> Vec<Vec<T>> {
        let line = |row: &usize| match instances {
            None => cells[*row].clone(),
            Some(instances) => instances.iter().map(|&at| cells[*row][at].clone()).collect(),
        };
        rows.iter().map(line).collect()
    }
    Table {
        configurations: rows.iter().map(|&row| table.configurations[row].clone()).collect(),
        scores: of(&table.scores, rows, instances),
        costs: of(&table.costs, rows, instances),
        production: of(&table.production, rows, instances),
        prompts: table.prompts.as_ref().map(|prompts| of(prompts, rows, instances)),
    }
}

/// Every case there is data for. `recorded` is the folder of recordings.
pub fn cases(recorded: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(recorded.join("matrices"))
        .map(|files| files.flatten().map(|file| file.path()).collect())
        .unwrap_or_default();
    files.sort();
    for (at, file) in files.iter().enumerate() {
        let Some(table) = matrix(file) else { continue };
        let name = file.file_name().map_or(String::new(), |name| name.to_string_lossy().replace(".csv.gz", ""));
        let half = if at % 2 == 0 { Half::Choose } else { Half::Report };
        let tune = Arc::new(table);
        cases.push(Case {
            group: format!("matrices-{}", half.name()),
            name: name.clone(),
            tune: tune.clone(),
            unseen: None,
            inference: None,
        });
        // Two thirds to tune on, one third that is never seen.
        let mut order: Vec<usize> = (0..tune.instances()).collect();
        order.shuffle(&mut ChaCha12Rng::seed_from_u64(at as u64));
        let rows: Vec<usize> = (0..tune.configurations.len()).collect();
        let (seen, unseen) = order.split_at(tune.instances() * 2 / 3);
        cases.push(Case {
            group: format!("held-out-{}", half.name()),
            name,
            tune: Arc::new(select(&tune, &rows, Some(seen))),
            unseen: Some(Arc::new(select(&tune, &rows, Some(unseen)))),
            inference: None,
        });
    }
    let prices = [("gpt-35-turbo", "1.5", "2.0"), ("gpt-4", "30", "60")];
    // Temperature is of the half to choose by, exam of the half to report on.
    for (folder, budgets) in
        [("temperature", [None, Some("0.003"), Some("0.0015")]), ("exam", [None, Some("0.018"), Some("0.007")])]
    {
        let path = recorded.join(folder).join("outcomes.csv.gz");
        let Some((tune, unseen)) = outcomes(&path, &prices) else { continue };
        let (tune, unseen) = (Arc::new(tune), Arc::new(unseen));
        for budget in budgets {
            let name = budget.map_or(folder.to_owned(), |budget| format!("{folder}-{budget}"));
            cases.push(Case {
                group: name.clone(),
                name,
                tune: tune.clone(),
                unseen: Some(unseen.clone()),
                inference: budget.and_then(|budget| budget.parse().ok()),
            });
        }
    }
    cases.extend(made_up());
    cases
}

fn rows(path: &Path) -> Option<Vec<BTreeMap<String, String>>> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).ok()?).read_to_string(&mut text).ok()?;
    csv::Reader::from_reader(text.as_bytes()).deserialize().map(|row| row.ok()).collect()
}

/// A matrix of prompts and instances, each row with one price.
fn matrix(path: &Path) -> Option<Table> {
    let mut table = Table::default();
    for row in rows(path)? {
        let scores: Vec<Option<f64>> =
            (0..).map_while(|at| row.get(&format!("i{at}"))).map(|text| text.parse().ok()).collect();
        let price: Usd = row.get("usd_per_instance")?.parse().ok()?;
        table.configurations.push(serde_json::from_value(json!({"prompt": row.get("config")?})).ok()?);
        table.costs.push(vec![price; scores.len()]);
        table.scores.push(scores);
    }
    table.production = table.costs.clone();
    Some(table)
}

/// The answers to one instance, by sample: the answer, whether it is right, completion tokens.
#[derive(Clone, Default)]
struct Cell {
    samples: BTreeMap<usize, (String, bool, u64)>,
    prompt_tokens: u64,
}

type Cells = BTreeMap<(String, String, String), BTreeMap<String, Cell>>;

/// Recorded samples: every model, prompt and temperature with n = 1..=10 by majority vote, on the tuning and the test split.
fn outcomes(path: &Path, prices: &[(&str, &str, &str)]) -> Option<(Table, Table)> {
    let mut splits: BTreeMap<String, Cells> = BTreeMap::new();
    for row in rows(path)? {
        let cells = splits.entry(row.get("split")?.clone()).or_default();
        let key = (row.get("model")?.clone(), row.get("prompt")?.clone(), row.get("temperature")?.clone());
        let cell = cells.entry(key).or_default().entry(row.get("instance")?.clone()).or_default();
        cell.prompt_tokens = row.get("prompt_tokens")?.parse::<f64>().unwrap_or(0.0) as u64;
        let tokens = row.get("completion_tokens")?.parse::<f64>().unwrap_or(0.0) as u64;
        let sample = (row.get("parsed")?.clone(), row.get("parsed") == row.get("gold"), tokens);
        cell.samples.insert(row.get("sample")?.parse().ok()?, sample);
    }
    let [tune, test] = ["tune", "test"].map(|split| votes(splits.get(split)?, prices));
    let (tune, test) = (tune?, test?);
    // What lacks more than one answer in twenty cannot be best; the same rows in both.
    let keys: Vec<String> = test.configurations.iter().map(|configuration| configuration.key()).collect();
    let place = |row: usize| keys.iter().position(|key| *key == tune.configurations[row].key());
    let whole = |row: &usize| tune.scores[*row].iter().flatten().count() * 20 >= tune.instances() * 19;
    let rows: Vec<usize> = (0..tune.configurations.len()).filter(whole).filter(|&row| place(row).is_some()).collect();
    let places: Vec<usize> = rows.iter().filter_map(|&row| place(row)).collect();
    Some((select(&tune, &rows, None), select(&test, &places, None)))
}

fn votes(cells: &Cells, prices: &[(&str, &str, &str)]) -> Option<Table> {
    let mut instances: Vec<&String> = cells.values().flat_map(|cells| cells.keys()).collect();
    instances.sort();
    instances.dedup();
    let mut table = Table { prompts: Some(Vec::new()), ..Table::default() };
    for ((model, prompt, temperature), cells) in cells {
        let (_, input, output) = prices.iter().find(|(name, _, _)| name == model)?;
        let (input, output) = (per_million(input).ok()?, per_million(output).ok()?);
        for n in 1..=10 {
            let count = instances.len();
            let (mut scores, mut costs, mut prompts) =
                (vec![None; count], vec![Usd::ZERO; count], vec![Usd::ZERO; count]);
            for (place, instance) in instances.iter().enumerate() {
                let Some(cell) = cells.get(*instance) else { continue };
                let seen: Vec<&(String, bool, u64)> = cell.samples.values().take(n).collect();
                scores[place] = (seen.len() == n).then(|| majority(&seen));
                prompts[place] = input.times(cell.prompt_tokens);
                costs[place] = prompts[place] + output.times(seen.iter().map(|(_, _, tokens)| tokens).sum());
            }
            let configuration =
                json!({"model": model, "prompt": prompt, "temperature": temperature.parse::<f64>().ok()?, "n": n});
            table.configurations.push(serde_json::from_value(configuration).ok()?);
            table.scores.push(scores);
            table.costs.push(costs);
            table.prompts.as_mut()?.push(prompts);
        }
    }
    table.production = table.costs.clone();
    Some(table)
}

/// The score of a majority vote: ties go to the answer seen first, an answer that does not parse has no vote.
fn majority(seen: &[&(String, bool, u64)]) -> f64 {
    let votes = |answer: &str| seen.iter().filter(|(other, _, _)| other == answer).count();
    let valid = || seen.iter().filter(|(answer, _, _)| !answer.is_empty());
    let best = valid().map(|(answer, _, _)| votes(answer)).max();
    let winner = valid().find(|(answer, _, _)| Some(votes(answer)) == best);
    f64::from(winner.is_some_and(|(_, right, _)| *right))
}

/// Made-up tables: models of different price and skill, prompts, temperatures, answers drawn sample by sample and voted on.
fn made_up() -> Vec<Case> {
    let mut cases = Vec::new();
    for at in 0..12_u64 {
        let half = if at % 2 == 0 { Half::Choose } else { Half::Report };
        let (tune, unseen) = invent(at);
        let (tune, unseen) = (Arc::new(tune), Arc::new(unseen));
        let mut means: Vec<Usd> =
            tune.production.iter().map(|line| Usd::mean(line.iter().copied().sum(), line.len() as u64)).collect();
        means.sort();
        for (label, inference) in [("", None), ("-tight", Some(means[means.len() / 2]))] {
            cases.push(Case {
                group: format!("invented{label}-{}", half.name()),
                name: format!("invented-{at}{label}"),
                tune: tune.clone(),
                unseen: Some(unseen.clone()),
                inference,
            });
        }
    }
    cases
}

/// Answers by an item-response model: the chance of a right sample is a logistic function of model, prompt, their
/// interaction and the instance, which models find hard in their own ways; wrong answers fall on three others.
fn invent(seed: u64) -> (Table, Table) {
    let mut rng = ChaCha12Rng::seed_from_u64(9_000 + seed);
    let normal = |rng: &mut ChaCha12Rng| {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    };
    let (models, prompts) = (2 + (seed % 3) as usize, 4 + (seed % 2) as usize * 3);
    let instances = 400;
    let price: Vec<f64> = (0..models).map(|_| 10_f64.powf(rng.random::<f64>() * 2.0 - 6.5)).collect();
    // Dearer models are better on the average, and not always.
    let skill: Vec<f64> = price.iter().map(|price| 0.9 * (price.log10() + 5.5) + 0.5 * normal(&mut rng)).collect();
    let prompt_skill: Vec<f64> = (0..prompts).map(|_| 0.3 * normal(&mut rng)).collect();
    let prompt_length: Vec<f64> = (0..prompts).map(|_| 150.0 + 700.0 * rng.random::<f64>()).collect();
    let answer_length: Vec<f64> = (0..prompts).map(|_| 10_f64.powf(0.8 + 1.6 * rng.random::<f64>())).collect();
    let easy: Vec<f64> = (0..instances).map(|_| 1.0 + 1.6 * normal(&mut rng)).collect();
    let mut tables = [
        Table { prompts: Some(Vec::new()), ..Table::default() },
        Table { prompts: Some(Vec::new()), ..Table::default() },
    ];
    for model in 0..models {
        let own: Vec<f64> = (0..instances).map(|_| 0.8 * normal(&mut rng)).collect();
        for prompt in 0..prompts {
            let base = skill[model] + prompt_skill[prompt] + 0.2 * normal(&mut rng);
            let chance: Vec<f64> = (0..instances)
                .map(|at| 1.0 / (1.0 + (-(base + easy[at] + own[at] + 0.8 * normal(&mut rng))).exp()))
                .collect();
            let answers: Vec<Vec<(String, bool, u64)>> = chance
                .iter()
                .map(|chance| {
                    let common = rng.random_range(0..3);
                    (0..10)
                        .map(|_| {
                            let right = rng.random::<f64>() < *chance;
                            let wrong = if rng.random::<f64>() < 0.6 { common } else { rng.random_range(0..3) };
                            let answer = if right { "right".to_owned() } else { format!("wrong {wrong}") };
                            (answer, right, (answer_length[prompt] * (0.5 + rng.random::<f64>())) as u64 + 2)
                        })
                        .collect()
                })
                .collect();
            let per_token = |dollars: f64| Usd::from_pico((dollars * 1e12) as i64);
            let (input, output) = (per_token(price[model]), per_token(price[model] * 3.0));
            for n in [1, 2, 3, 4, 5, 7, 10] {
                for (split, table) in tables.iter_mut().enumerate() {
                    let part = split * instances / 2..(split + 1) * instances / 2;
                    let seen = |at: usize| answers[at][..n].iter().collect::<Vec<_>>();
                    table.configurations.push(configuration(model, prompt, n));
                    table.scores.push(part.clone().map(|at| Some(majority(&seen(at)))).collect());
                    let prompts: Vec<Usd> =
                        part.clone().map(|at| input.times(prompt_length[prompt] as u64 + (at % 50) as u64)).collect();
                    let costs: Vec<Usd> = part
                        .zip(&prompts)
                        .map(|(at, prompt)| *prompt + output.times(seen(at).iter().map(|(_, _, tokens)| tokens).sum()))
                        .collect();
                    table.costs.push(costs);
                    if let Some(all) = table.prompts.as_mut() {
                        all.push(prompts);
                    }
                }
            }
        }
    }
    tables.iter_mut().for_each(|table| table.production = table.costs.clone());
    let [tune, unseen] = tables;
    (tune, unseen)
}

fn configuration(model: usize, prompt: usize, n: usize) -> farthing::space::Configuration {
    let values = json!({"model": format!("model {model}"), "prompt": format!("prompt {prompt}"), "n": n});
    farthing::space::Configuration(values.as_object().cloned().unwrap_or_default().into_iter().collect())
}
