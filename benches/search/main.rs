//! How good what a strategy recommends is, for how much money: `cargo bench --bench search -- --data FOLDER`.
//!
//! FOLDER holds recordings of real answers (matrices/, exam/, temperature/); what is absent is left out, and the made-up
//! tables are always there. Prints the mean regret in points with its standard error for every strategy, group of tables
//! and budget (a share of what evaluating everything that production can afford costs), on the tuning instances and on
//! instances the strategy never saw. Half of the tables are there to choose methods by, the other half to report on.
//!
//! Options: `--seeds N` (20), `--strategies a,b`, `--groups a,b` (beginnings of names), `--budgets 2,5` (per cent),
//! `--threads N`, `--out DIR` (CSV and SVG), `--export DIR` (every table as CSV). `--speed race,halving` instead measures
//! what the strategies themselves cost: CPU time an evaluation, and memory.

mod export;
mod plot;
mod speed;
mod tables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use farthing::search::simulate::run;
use farthing::search::{Problem, STRATEGIES, order, strategy};

use tables::Case;

/// What is asked for.
struct Options {
    data: PathBuf,
    seeds: u64,
    strategies: Vec<String>,
    groups: Vec<String>,
    budgets: Vec<f64>,
    threads: usize,
    out: Option<PathBuf>,
    export: Option<PathBuf>,
    speed: Vec<String>,
}

/// What one search came to.
#[derive(Clone, Copy)]
pub struct Found {
    /// Points below the best feasible configuration on the tuning instances.
    tune: f64,
    /// Points below the best feasible configuration on the unseen instances, where there are some.
    unseen: Option<f64>,
    /// What was recommended is over the inference budget.
    over: bool,
    /// The share of the budget that was spent.
    spent: f64,
    evaluations: usize,
    seconds: f64,
}

/// Every search of a cell, with its case.
pub type Runs = Vec<(usize, Found)>;

/// Group, strategy, budget.
pub type Cell = (String, String, usize);

fn options() -> Result<Options, String> {
    let mut options = Options {
        data: std::env::var_os("FARTHING_SHARED")
            .map_or("../shared/recorded".into(), |at| PathBuf::from(at).join("recorded")),
        seeds: 20,
        strategies: STRATEGIES.iter().map(|declared| declared.name.to_owned()).collect(),
        groups: Vec::new(),
        budgets: vec![0.02, 0.03, 0.05, 0.08, 0.12, 0.20, 0.35],
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        out: None,
        export: None,
        speed: Vec::new(),
    };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        let bad = |_| format!("{word} {value} is not a number");
        match word.as_str() {
            "--data" => options.data = value.into(),
            "--seeds" => options.seeds = value.parse().map_err(bad)?,
            "--strategies" => options.strategies = list(),
            "--groups" => options.groups = list(),
            "--threads" => options.threads = value.parse().map_err(bad)?,
            "--out" => options.out = Some(value.into()),
            "--export" => options.export = Some(value.into()),
            "--speed" => options.speed = list(),
            "--budgets" => {
                let share = |text: &str| text.parse::<f64>().map(|percent| percent / 100.0);
                options.budgets =
                    value.split(',').map(share).collect::<Result<_, _>>().map_err(|_| format!("{word} {value}"))?;
            }
            _ => return Err(format!("there is no option {word}")),
        }
    }
    match options.strategies.iter().chain(&options.speed).find(|name| strategy(name).is_none()) {
        Some(name) => Err(format!("there is no strategy {name}")),
        None => Ok(options),
    }
}

/// One search: a strategy on a case, at a share of its price.
fn search(name: &str, case: &Case, share: f64, seed: u64) -> Result<Found, String> {
    let budget = case.price().share(share);
    let problem = Problem { inference_budget: case.inference, ..case.tune.problem(Some(budget), seed) };
    let order = order::stratified(&vec![String::new(); problem.instances], seed + 1000);
    let declared = strategy(name).ok_or("no such strategy")?;
    let mut searching = (declared.build)(problem.clone())?;
    let began = Instant::now();
    let trace = run(&mut *searching, &case.tune, &problem, &order)?;
    let seconds = began.elapsed().as_secs_f64();
    if trace.spent > budget {
        return Err(format!("{name} spent {} of {budget}", trace.spent));
    }
    let feasible: Vec<usize> = (0..case.tune.configurations.len()).filter(|&row| case.feasible(row)).collect();
    let over = trace.recommendation.is_some_and(|row| !case.feasible(row));
    let regret = |table: &farthing::search::simulate::Table| {
        let means: Vec<f64> = feasible.iter().filter_map(|&row| table.mean(row)).collect();
        let (best, worst) =
            means.iter().fold((f64::MIN, f64::MAX), |(best, worst), mean| (best.max(*mean), worst.min(*mean)));
        // What production cannot afford is worth what the worst affordable one is; so is finding nothing.
        let found = trace.recommendation.filter(|_| !over).and_then(|row| table.mean(row)).unwrap_or(worst);
        100.0 * (best - found)
    };
    Ok(Found {
        tune: regret(&case.tune),
        unseen: case.unseen.as_ref().map(|table| regret(table)),
        over,
        spent: trace.spent.as_f64() / budget.as_f64(),
        evaluations: trace.told.len(),
        seconds,
    })
}

/// Mean and standard error over searches.
pub fn summary(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, (variance / count).sqrt())
}

fn main() {
    // Under `cargo test` it is only built.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let options = match options() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            std::process::exit(2);
        }
    };
    if !options.speed.is_empty() {
        speed::print(&options.speed);
        return;
    }
    if !options.data.is_dir() {
        eprintln!("no recordings in {}: made-up tables only", options.data.display());
    }
    let mut cases = tables::cases(&options.data);
    if let Some(folder) = &options.export {
        match export::write(&cases, folder) {
            Ok(files) => println!("{files} files in {}", folder.display()),
            Err(problem) => eprintln!("{}: {problem}", folder.display()),
        }
        return;
    }
    cases.retain(|case| options.groups.is_empty() || options.groups.iter().any(|group| case.group.starts_with(group)));

    let mut jobs = Vec::new();
    for name in &options.strategies {
        for case in 0..cases.len() {
            for budget in 0..options.budgets.len() {
                jobs.extend((0..options.seeds).map(|seed| (name.clone(), case, budget, seed)));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<Cell, Runs>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                while let Some((name, case, budget, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match search(name, &cases[*case], options.budgets[*budget], *seed) {
                        Ok(found) => results
                            .lock()
                            .unwrap_or_else(|poisoned| poisoned.into_inner())
                            .entry((cases[*case].group.clone(), name.clone(), *budget))
                            .or_default()
                            .push((*case, found)),
                        Err(problem) => eprintln!("{name} on {}: {problem}", cases[*case].name),
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.values_mut().for_each(|found| found.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.tune.total_cmp(&b.1.tune))));
    print(&results, &options.budgets);
    if let Some(folder) = &options.out
        && let Err(problem) = plot::write(&results, &options.budgets, folder)
    {
        eprintln!("{}: {problem}", folder.display());
    }
}

/// Mean regrets and their standard errors, a line a group and strategy.
fn print(results: &BTreeMap<Cell, Runs>, budgets: &[f64]) {
    let mut lines: BTreeMap<(&str, &str), Vec<(usize, &Runs)>> = BTreeMap::new();
    for ((group, name, budget), found) in results {
        lines.entry((group, name)).or_default().push((*budget, found));
    }
    let head: Vec<String> = budgets.iter().map(|share| format!("{:>11}", format!("{:.0} %", 100.0 * share))).collect();
    println!("{:<42}{}   over  spent  ms/evaluation", "mean regret in points ± standard error at", head.join(" "));
    for ((group, name), cells) in lines {
        let all = || cells.iter().flat_map(|(_, found)| found.iter());
        let count = all().count() as f64;
        let over = all().filter(|(_, found)| found.over).count() as f64 / count;
        let spent = all().map(|(_, found)| found.spent).sum::<f64>() / count;
        let time = all().map(|(_, found)| found.seconds).sum::<f64>() * 1e3
            / all().map(|(_, found)| found.evaluations).sum::<usize>().max(1) as f64;
        for (label, value) in [("", false), (" (unseen)", true)] {
            let words: Vec<String> = cells
                .iter()
                .filter_map(|(_, found)| {
                    let values: Option<Vec<f64>> =
                        found.iter().map(|(_, found)| if value { found.unseen } else { Some(found.tune) }).collect();
                    let (mean, error) = summary(&values?);
                    Some(format!("{:>11}", format!("{mean:.2}±{error:.2}")))
                })
                .collect();
            if !words.is_empty() {
                println!(
                    "{:<42}{}  {:>4.0} %  {:>3.0} %  {time:.3}",
                    format!("{group} {name}{label}"),
                    words.join(" "),
                    100.0 * over,
                    100.0 * spent
                );
            }
        }
    }
}
