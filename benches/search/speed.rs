//! What a strategy itself costs: CPU time an evaluation and memory, on large made-up problems, without any models.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use farthing::Usd;
use farthing::search::simulate::{Reply, Table, drive};
use farthing::search::{Outcome, Problem, strategy};
use serde_json::json;

/// A number from 0 to 1 that looks random.
fn chance(of: impl Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish() as f64 / u64::MAX as f64
}

/// CPU seconds of this thread; wall seconds where the system does not say.
fn clock(began: Instant) -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.map_or(began.elapsed().as_secs_f64(), |count| count / 1e9)
}

/// The most memory that this process had, in MiB.
fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Configurations, instances, and the share of the price of everything that may be spent.
const SIZES: [(usize, usize, f64); 5] =
    [(1_000, 1_000, 0.002), (1_000, 1_000, 0.02), (1_000, 1_000, 0.2), (1_000, 1_000, 1.0), (10_000, 100_000, 0.001)];

/// Prints a line for every strategy and size.
pub fn print(strategies: &[String]) {
    println!("strategy     configurations  instances  evaluations   CPU s  ms/evaluation  peak MiB of the process");
    for name in strategies {
        for (configurations, instances, share) in SIZES {
            let mut table = Table::default();
            for at in 0..configurations {
                let values = json!({"model": format!("m{}", at % 5), "prompt": format!("p{}", at / 50 % 20), "temperature": (at / 5 % 10) as f64 / 10.0, "at": at / 1000});
                table.configurations.push(farthing::space::Configuration(
                    values.as_object().cloned().unwrap_or_default().into_iter().collect(),
                ));
            }
            let price = |model: &str| if model == "m0" { 10_000 } else { 1_000 };
            let whole = 1_000.0 * 2.8 * configurations as f64 * instances as f64;
            let budget = Usd::from_pico((whole * share) as i64);
            let problem = Problem { instances, ..Arc::new(table).problem(Some(budget), 1) };
            let Some(declared) = strategy(name) else { continue };
            let began = Instant::now();
            let before = clock(began);
            let mut spent = Usd::ZERO;
            let result = (declared.build)(problem.clone()).and_then(|mut searching| {
                drive(&mut *searching, &problem, 4_000_000, |_, configuration, instance| {
                    let word = |name: &str| configuration.get(name).map_or(String::new(), ToString::to_string);
                    let model = word("model");
                    let cost = Usd::from_pico(price(model.trim_matches('"')));
                    if spent + cost > budget {
                        return Reply { outcome: Outcome::Refused, cost: Usd::ZERO, drop: false };
                    }
                    spent += cost;
                    let level = 0.3 + 0.2 * chance(&model) + 0.2 * chance(word("prompt")) + 0.1 * chance(word("at"));
                    let easy = 0.5 * chance((instance, "easy")) - 0.25;
                    let score = f64::from(u8::from(chance((configuration.to_string(), instance)) < level + easy));
                    Reply { outcome: Outcome::Scored { score, production: cost, input: None }, cost, drop: false }
                })
            });
            let seconds = clock(began) - before;
            match result {
                Ok(log) => println!(
                    "{name:<12} {configurations:>14} {instances:>10} {:>12} {seconds:>7.2} {:>14.4} {:>9.0}",
                    log.told.len(),
                    1e3 * seconds / log.told.len().max(1) as f64,
                    memory()
                ),
                Err(problem) => println!("{name:<12} {configurations:>14} {instances:>10}  {problem}"),
            }
        }
    }
}
