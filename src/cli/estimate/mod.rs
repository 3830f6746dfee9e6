//! `farthing estimate`: what it would cost, before a cent is spent; and the line that `farthing tune` begins with.

pub mod text;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::backend::Endpoints;
use crate::cli::arguments::{Output, Random, Where, some_dollars};
use crate::cli::subject::Asked;
use crate::cli::{Embedded, inputs, print, print_json};
use crate::diagnostic::{Error, Result};
use crate::evaluate::{Served, Workload, capability};
use crate::money::Usd;
use crate::search::{self, Problem};
use crate::space::Space;
use crate::store::{self, MemoryStore, SharedStore};
use crate::study::estimate::{Estimate, Estimator, Purchase};
use crate::study::{Settings, order, settings};
use crate::task::Split;

const EXAMPLES: &str = "\
Nothing is sent and nothing is spent; no key is needed. Input is counted on the prompts as they will be rendered. Output is \
between one token and max_tokens (or the model's limit), and as long as earlier answers where the store holds some.

Examples:
  farthing estimate tasks/exam
  farthing estimate tasks/exam --budget 5.00
  farthing estimate tasks/exam --budget 5.00 --batch
  farthing estimate tasks/exam --set prompt=cot --set n=5";

/// Arguments of `farthing estimate`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct EstimateArguments {
    /// The task: a folder with a task.toml
    task: Option<PathBuf>,
    /// The search space [default: space.toml in the task's folder, else search_spaces/NAME.toml]
    #[arg(long, value_name = "FILE")]
    space: Option<PathBuf>,
    /// Only this configuration: a best.toml, or any file with [config] or [request]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only one configuration, with this parameter
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Say what so many dollars buy
    #[arg(long, value_name = "USD", value_parser = some_dollars, allow_hyphen_values = true)]
    budget: Option<Usd>,
    /// By which strategy; `farthing strategies` lists them [default: the best we have]
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// At the price of the providers' batch APIs, as `farthing tune --batch` pays it
    #[arg(long)]
    batch: bool,
    /// Render prompts on at most so many instances
    #[arg(long, value_name = "N", default_value_t = 256)]
    sample: usize,
    /// Show at most so many configurations; --json has them all
    #[arg(long, value_name = "N", default_value_t = 12)]
    limit: usize,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    random: Random,
    #[command(flatten)]
    output: Output,
}

/// Configurations that are priced each by itself; of more, a seeded sample.
const PRICED: usize = 400;

/// What a budget buys.
#[derive(Serialize)]
pub struct Buys {
    budget_usd: Usd,
    strategy: String,
    /// With completions as long as they may be.
    at_least: Option<Purchase>,
    /// With completions as long as earlier ones.
    expected: Option<Purchase>,
}

/// What `--json` prints.
#[derive(Serialize)]
pub struct Report {
    task: String,
    #[serde(flatten)]
    estimate: Estimate,
    buys: Option<Buys>,
}

/// Runs it.
pub fn run(arguments: &EstimateArguments, embedded: &Embedded) -> Result<u8> {
    let EstimateArguments { place, random, output, .. } = arguments;
    let workload = inputs::workload(embedded, arguments.task.as_deref())?;
    let endpoints = inputs::endpoints(&workload, place.endpoints.as_deref())?.0.idle();
    let seed = random.seed();
    let order = order(&workload, &workload.task.tune, seed);
    if order.is_empty() {
        return Err(Error::usage(format!("the task `{}` has no tuning instances", workload.task.name)));
    }
    let store = known_store(&place.store())?;
    let one = arguments.config.is_some() || !arguments.set.is_empty();
    let space = match inputs::space(embedded, &workload, arguments.space.as_deref()) {
        Ok((space, _)) => Some(space),
        // A file that says what is sent needs no space.
        Err(_) if arguments.config.is_some() && arguments.set.is_empty() && arguments.space.is_none() => None,
        Err(error) => return Err(error),
    };
    let (estimate, buys) = match one {
        true => (single(arguments, space.as_ref(), &workload, &endpoints, store, &order)?, None),
        false => {
            let space = Arc::new(space.ok_or_else(|| inputs::no_space(&workload))?);
            space.check_satisfiable()?;
            workload.check_space(&space)?;
            let runner = crate::study::open_for(&space, &endpoints, store)?;
            capability::check_space(&space, |model| capability::of(&endpoints, model))?;
            if arguments.batch {
                crate::study::check_batches(&endpoints, &crate::study::models(&space))?;
            }
            let instances = workload.task.tune.clone();
            let mut estimator =
                Estimator::new(Some(&space), &runner, instances, &order, arguments.sample).by_batch(arguments.batch);
            let estimate = estimator.space(seed, PRICED)?;
            if arguments.budget.is_some() {
                // What is wrong with the question is said before anything is answered.
                strategy_of(arguments)?;
            }
            if !output.json {
                // What a budget buys takes longer to tell.
                print(&text::prices(&workload.task.name, &estimate, arguments.limit))?;
            }
            let buys = buys(arguments, &mut estimator, &space, order.len(), seed)?;
            (estimate, buys)
        }
    };
    let report = Report { task: workload.task.name.clone(), estimate, buys };
    match (output.json, &report.buys) {
        (true, _) => print_json(&report)?,
        (false, Some(buys)) => print(&text::bought(buys))?,
        (false, None) if one => print(&text::prices(&report.task, &report.estimate, arguments.limit))?,
        (false, None) => {}
    }
    Ok(0)
}

/// The price of the one configuration that was named.
fn single(
    arguments: &EstimateArguments,
    space: Option<&Space>,
    workload: &Workload,
    endpoints: &Endpoints,
    store: SharedStore,
    order: &[usize],
) -> Result<Estimate> {
    if arguments.budget.is_some() {
        return Err(Error::usage("--budget asks what a search buys, and --config and --set name one configuration")
            .help("leave one of them out"));
    }
    let served = arguments.config.as_deref().map(Served::load).transpose()?;
    let asked = Asked::of(served.zip(arguments.config.as_deref()), &arguments.set, || {
        space.cloned().ok_or_else(|| inputs::no_space(workload))
    })?;
    let (plan, runner) = asked.open(store, endpoints, 1, true)?;
    capability::check_plan(&plan)?;
    if arguments.batch {
        crate::study::check_batches(endpoints, std::slice::from_ref(&plan.service.model.name))?;
    }
    let instances = workload.task.split(Split::Tune);
    Estimator::new(space, &runner, instances, order, arguments.sample).by_batch(arguments.batch).plan(plan)
}

/// The store, if there is one: looking makes none.
fn known_store(location: &str) -> Result<SharedStore> {
    match store::Place::of(location).exists() {
        true => store::open_existing(location),
        false => Ok(MemoryStore::new()),
    }
}

/// The strategy that is meant; its name is checked as `tune` does.
fn strategy_of(arguments: &EstimateArguments) -> Result<String> {
    let strategy = arguments.strategy.clone().unwrap_or_else(|| search::DEFAULT.to_owned());
    Settings { strategy: strategy.clone(), ..Settings::default() }.check()?;
    Ok(strategy)
}

fn buys(
    arguments: &EstimateArguments,
    estimator: &mut Estimator<'_>,
    space: &Arc<Space>,
    instances: usize,
    seed: u64,
) -> Result<Option<Buys>> {
    let Some(budget) = arguments.budget else { return Ok(None) };
    let strategy = strategy_of(arguments)?;
    let declaration =
        search::strategy(&strategy).ok_or_else(|| Error::internal(format!("there is no strategy `{strategy}`")))?;
    let problem = Problem {
        inputs: None,
        ceiling: None,
        baseline: space.baseline.is_some(),
        domain: space.clone(),
        instances,
        budget: Some(budget),
        max_trials: None,
        seed: settings::stream(seed, "search"),
        first: space.baseline.iter().cloned().collect(),
        margin: None,
        inference_budget: None,
    };
    let shown = (!arguments.output.quiet && std::io::stderr().is_terminal()).then(|| {
        let bar = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    });
    let watch = |evaluations: usize| {
        if let Some(bar) = &shown {
            bar.set_message(format!("Going through a search: {evaluations} evaluations"));
        }
    };
    let mut simulated = |worst: bool| {
        let mut built = (declaration.build)(problem.clone()).map_err(|problem| {
            Error::usage(format!("the strategy `{strategy}` cannot search this space: {problem}"))
        })?;
        if arguments.batch {
            built.in_rounds();
        }
        estimator.buys(built.as_mut(), &problem, worst, seed, &watch)
    };
    let (at_least, expected) = (simulated(true)?, simulated(false)?);
    if let Some(bar) = &shown {
        bar.finish_and_clear();
    }
    Ok(Some(Buys { budget_usd: budget, strategy, at_least, expected }))
}
