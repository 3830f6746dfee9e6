//! `farthing evaluate`: one configuration on every instance of a split.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::cli::arguments::{Common, SplitArgument, cap};
use crate::cli::subject::Asked;
use crate::cli::{Embedded, colour, inputs, print, print_json, progress, with_runtime};
use crate::diagnostic::{Error, Fault, Result};
use crate::evaluate::{Served, Workload, capability};
use crate::money::Usd;
use crate::report::{table, words};
use crate::runner::Purse;
use crate::space::Configuration;
use crate::stats;
use crate::store::{self, MemoryStore};
use crate::study::fixed::FixedAgenda;
use crate::study::pipeline::{Ending, Pipeline, mostly_lost};
use crate::study::trial::Trial;
use crate::study::{Readers, Stop, all_failed, order};
use crate::task::Split;

/// Arguments of `farthing evaluate`.
#[derive(Args, Clone, Debug)]
pub struct EvaluateArguments {
    /// The task: a folder with a task.toml
    task: Option<PathBuf>,
    /// The configuration: a best.toml, or any file with [config] or [request]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Give or override a parameter: a choice's name, else a TOML value, else a string
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Which instances
    #[arg(long, value_enum, default_value_t = SplitArgument::Tune)]
    split: SplitArgument,
    /// Dollars that it may cost [default: not capped]
    #[arg(long, value_name = "USD", value_parser = cap, allow_hyphen_values = true)]
    budget: Option<Usd>,
    /// The search space [default: space.toml in the task's folder, else search_spaces/NAME.toml]
    #[arg(long, value_name = "FILE")]
    space: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Evaluated {
    config: Configuration,
    metrics: BTreeMap<String, Mean>,
    instances: usize,
    missing: usize,
    not_reached: usize,
    failures: BTreeMap<String, usize>,
    production_cost_usd_per_instance: Option<Usd>,
    spent_usd: Usd,
    study_cost_usd: Usd,
    cache_hits: u64,
}

#[derive(Serialize)]
struct Mean {
    mean: Option<f64>,
    ci95: Option<[f64; 2]>,
}

/// Runs it.
pub fn run(arguments: EvaluateArguments, embedded: &Embedded) -> Result<u8> {
    let common = &arguments.common;
    let workload = inputs::workload(embedded, arguments.task.as_deref())?;
    let (endpoints, _) = inputs::endpoints(&workload, common.place.endpoints.as_deref())?;
    let served = arguments.config.as_deref().map(Served::load).transpose()?;
    let asked = Asked::of(served.zip(arguments.config.as_deref()), &arguments.set, || {
        let (space, _) = inputs::space(embedded, &workload, arguments.space.as_deref())?;
        workload.check_space(&space).map(|()| space)
    })?;
    let stop = Arc::new(Stop::default());
    let split = Split::from(arguments.split);
    let capped = arguments.budget.is_some();
    let (plan, runner) = asked.open(MemoryStore::new(), &endpoints, common.asking.concurrency(), capped)?;
    capability::check_plan(&plan)?;
    let instances = workload.task.split(split);
    if instances.is_empty() {
        return Err(Error::usage(format!("the task `{}` has no instances in that split", workload.task.name)));
    }
    // What cannot be rendered is found before anything is sent.
    plan.request(&instances[0]).map_err(|failure| Error::usage(failure.message))?;
    if !capped && !common.output.quiet {
        say!("No --budget is given: this evaluation is not capped.");
    }
    let seed = common.asking.random.seed();
    let purse = Purse::new(arguments.budget, false, Usd::ZERO);
    let scope: Arc<str> = crate::store::fresh_name("evaluate").into();
    let runner = runner.with_store(store::open_as(&common.place.store(), common.asking.cache(), &scope)?);
    let pipeline = Pipeline::fixed(&workload, &instances, runner, purse, &scope, &stop);
    let readers: Readers = if common.output.quiet { Vec::new() } else { vec![progress::display(instances.len())] };
    let order = order(&workload, &instances, seed);
    let plan = Arc::new(plan);
    let mut agenda = FixedAgenda::new(vec![plan], order, &pipeline, readers);
    let ending = with_runtime(common.output.quiet, pipeline.run(&mut agenda), stop);
    agenda.end();
    // An endpoint that cannot be used ends it early; what is known by then is the result all the same.
    let (ending, unusable) = match ending {
        Err(error) if error.fault() == Fault::Endpoint => (Ending::Done, Some(error)),
        Ok(Ending::SpentOut { lost_to: Some(failure) }) => (Ending::Done, Some(mostly_lost(&failure))),
        other => (other?, None),
    };
    let spent = pipeline.runner.store().spent(&scope)?.total();
    let evaluated =
        evaluated(&workload, &agenda.trials[0], instances.len(), spent, &pipeline.purse, agenda.cache_hits());
    let ended = match (&unusable, &ending) {
        (Some(_), _) => "the endpoint could not be used".to_owned(),
        (None, Ending::Interrupted) => "the run was stopped before".to_owned(),
        (None, _) => match &agenda.refusal {
            Some(refusal) => format!("of the first of them, {refusal}"),
            None => "the budget ended before".to_owned(),
        },
    };
    match common.output.json {
        true => print_json(&evaluated)?,
        false => print(&text(&evaluated, &workload.task.objective.metric, arguments.budget, &ended))?,
    }
    if let Some(error) = unusable {
        return Err(error);
    }
    // The table says it; the numbers of `--json` do not say which reason came first.
    if common.output.json && evaluated.instances == 0 && !matches!(ending, Ending::Interrupted) {
        say!("{}", nothing_answered(&agenda.trials[0], &ended));
    }
    Ok(match ending {
        Ending::Interrupted => Fault::Interrupted.exit_code(),
        _ if evaluated.instances == 0 && evaluated.missing == 0 => Fault::Budget.exit_code(),
        _ if evaluated.instances == 0 => Fault::Endpoint.exit_code(),
        _ => 0,
    })
}

/// What is said where no instance has a result: the first reason.
fn nothing_answered(trial: &Trial, ended: &str) -> String {
    match trial.evaluations.iter().find_map(|done| done.result.as_ref().err()) {
        Some(failure) => all_failed(failure),
        None => format!("No instance was reached: {ended}"),
    }
}

fn evaluated(
    workload: &Workload,
    trial: &Trial,
    instances: usize,
    spent: Usd,
    purse: &Purse,
    cache_hits: u64,
) -> Evaluated {
    let answered = || trial.evaluations.iter().filter_map(|done| done.result.as_ref().ok());
    let mut names: BTreeSet<&String> = answered().flat_map(|metrics| metrics.keys()).collect();
    names.extend(workload.outputs());
    names.insert(&workload.task.objective.metric);
    let mean = |name: &str| {
        let estimate = trial.estimate(name);
        let ci95 =
            estimate.as_ref().and_then(|estimate: &stats::Estimate| estimate.ci95).map(|(low, high)| [low, high]);
        Mean { mean: estimate.map(|estimate| estimate.mean), ci95 }
    };
    let mut failures = BTreeMap::new();
    for failure in trial.evaluations.iter().filter_map(|done| done.result.as_ref().err()) {
        *failures.entry(format!("{}: {}", failure.kind.word(), failure.message)).or_insert(0) += 1;
    }
    Evaluated {
        config: trial.configuration.clone(),
        metrics: names.into_iter().map(|name| (name.clone(), mean(name))).collect(),
        instances: answered().count(),
        missing: trial.missing(),
        not_reached: instances - trial.evaluations.len(),
        failures,
        production_cost_usd_per_instance: trial.production_cost(),
        spent_usd: spent,
        study_cost_usd: purse.study_cost(),
        cache_hits,
    }
}

fn text(evaluated: &Evaluated, objective: &str, budget: Option<Usd>, ended: &str) -> String {
    let interval = |name: &String, mean: &Mean| (name.clone(), mean.mean, mean.ci95);
    let (first, others): (Vec<_>, Vec<_>) =
        evaluated.metrics.iter().map(|(name, mean)| interval(name, mean)).partition(|(name, ..)| name == objective);
    let failures = evaluated.failures.iter().map(|(words, count)| {
        let (kind, message) = words.split_once(": ").unwrap_or((words, ""));
        (kind.replace('_', " "), *count, message.to_owned())
    });
    let shown = table::Evaluated {
        configuration: evaluated.config.clone(),
        metrics: first.into_iter().chain(others).collect(),
        instances: evaluated.instances,
        missing: evaluated.missing,
        failures: failures.collect(),
        production_cost: evaluated.production_cost_usd_per_instance,
        spent: evaluated.spent_usd,
        budget,
    };
    let mut text = table::evaluate_table(&shown, colour(&std::io::stdout()));
    if evaluated.not_reached > 0 {
        let instances = words::plural(evaluated.not_reached as u64, "instance");
        let were = if evaluated.not_reached == 1 { "was" } else { "were" };
        text += &table::wrapped(&format!("{instances} {were} not reached: {ended}."));
    }
    text
}
