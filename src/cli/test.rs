//! `farthing test`: a run's winner, or a configuration, on instances that did not choose it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::backend::Endpoints;
use crate::cli::arguments::{Common, cap, number};
use crate::cli::subject::{self, Asked, Subject as Named};
use crate::cli::{Embedded, estimate, print, print_json, progress, report, with_runtime};
use crate::diagnostic::{Error, Fault, Result};
use crate::evaluate::{Plan, Workload, capability};
use crate::money::Usd;
use crate::report::table;
use crate::runner::{Purse, Runner};
use crate::space::{Configuration, Space};
use crate::store::{self, MemoryStore};
use crate::study::estimate::Estimator;
use crate::study::fixed::Known;
use crate::study::folder::{RunFolder, StudyFile};
use crate::study::pipeline::{Ending, Pipeline, mostly_lost};
use crate::study::{Holdout, Readers, Stop, Summary, fixed, order};
use crate::task::{self, Instance};

/// Arguments of `farthing test`.
#[derive(Args, Clone, Debug)]
#[command(
    mut_arg("seed", |seed| seed.help("Decides everything random [default: the run's, else 1]")),
    mut_arg("store", |store| store.help(
        "Where responses and the ledger are kept: a path, or `memory:` [default: the run's, else .farthing/store.db]"
    )),
    mut_arg("endpoints", |endpoints| endpoints.help(
        "Endpoints, models and prices [default: the run's, else farthing.toml in the task's folder, or above it up to the working folder]"
    ))
)]
pub struct TestArguments {
    /// A run's folder, or a best.toml
    run_or_config: PathBuf,
    /// Other instances than the task's test split: .jsonl, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The task, where the configuration's file does not lead to it
    #[arg(long, value_name = "TASK")]
    task: Option<PathBuf>,
    /// Dollars that it may cost [default: not capped]
    #[arg(long, value_name = "USD", value_parser = cap, allow_hyphen_values = true)]
    budget: Option<Usd>,
    /// Exit with 4 unless the score is at least this good
    #[arg(long, value_name = "SCORE", value_parser = number, allow_hyphen_values = true)]
    min_score: Option<f64>,
    #[command(flatten)]
    common: Common,
}

/// Prompts are rendered on so many instances for the line at the beginning.
const GLANCE: usize = 32;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    task: &'a str,
    config: &'a Configuration,
    #[serde(flatten)]
    holdout: &'a Holdout,
    spent_usd: Usd,
    study_cost_usd: Usd,
}

/// What is to be tested, and where it came from.
struct Subject {
    asked: Asked,
    workload: Workload,
    endpoints: Endpoints,
    store: String,
    run: Option<(PathBuf, StudyFile, Summary)>,
    space: Option<Space>,
}

/// Runs it.
pub fn run(arguments: TestArguments, embedded: &Embedded) -> Result<u8> {
    let common = &arguments.common;
    let subject = subject(&arguments, embedded)?;
    let mut workload = subject.workload;
    if let Some(data) = &arguments.data {
        let rows = task::data::load(data, workload.task.id.as_deref())?;
        workload = workload.with_test(rows)?;
    }
    if let Some(note) = tuned_on(&workload.task.tune, &workload.task.test) {
        say!("{note}");
    }
    if workload.task.test.is_empty() {
        return Err(
            Error::usage(format!("the task `{}` has no test split", workload.task.name)).help("give --data FILE")
        );
    }
    let baseline =
        subject.run.as_ref().and_then(|(_, _, summary)| summary.baseline.as_ref()).map(|scored| scored.config.clone());
    let mut models = vec![subject.asked.model.clone()];
    models.extend(baseline.as_ref().and_then(|config| Some(config.get("model")?.as_str()?.to_owned())));
    models.dedup();
    let runner = Runner::open(
        MemoryStore::new(),
        &subject.endpoints,
        &models,
        common.asking.concurrency(),
        arguments.budget.is_some(),
        subject.asked.bounded,
    )?;
    let winner = subject.asked.plan(&runner)?;
    capability::check_plan(&winner)?;
    winner.request(&workload.task.test[0]).map_err(|failure| Error::usage(failure.message))?;
    let baseline = match (&baseline, &subject.space) {
        (Some(configuration), Some(space)) => Some(Arc::new(Plan::new(space, configuration, &runner)?)),
        _ => None,
    };
    // A run that is being worked on is not tested: that is found out before anything is spent.
    let locked = subject.run.as_ref().map(|(path, ..)| RunFolder::open(path)).transpose()?;
    // So is one whose ranking cannot be read.
    let rows = subject.run.as_ref().map(|(path, ..)| report::rows_of(path)).transpose()?;
    let of_the_run = subject.run.as_ref().map(|(_, file, _)| file.settings.seed);
    let seed = common.asking.random.seed.or(of_the_run).unwrap_or_else(|| common.asking.random.seed());
    let scope: Arc<str> = crate::store::fresh_name("test").into();
    let runner = runner.with_store(store::open_as(&subject.store, common.asking.cache(), &scope)?);
    if arguments.budget.is_none() && !common.output.quiet {
        let instances = workload.task.test.clone();
        let order = order(&workload, &instances, seed);
        let mut estimator = Estimator::new(subject.space.as_ref(), &runner, instances, &order, GLANCE);
        let again = |plan: &Plan| estimator.plan(plan.clone());
        let plans = std::iter::once(&winner).chain(baseline.as_deref());
        let estimates = plans.map(again).collect::<Result<Vec<_>>>()?;
        say!("{}", table::told(&estimate::text::test_line(&estimates)));
    }
    let stop = Arc::new(Stop::default());
    let purse = Purse::new(arguments.budget, false, Usd::ZERO);
    let pipeline = Pipeline::fixed(&workload, &workload.task.test, runner, purse, &scope, &stop);
    let many = workload.task.test.len() * if baseline.is_some() { 2 } else { 1 };
    let readers: Readers = if common.output.quiet { Vec::new() } else { vec![progress::display(many)] };
    let configuration = winner.configuration.clone();
    let work = fixed::test_split(&pipeline, Arc::new(winner), baseline, seed, readers);
    let tested = with_runtime(common.output.quiet, work, stop)?;
    let holdout = tested.holdout;
    let spent_usd = pipeline.runner.store().spent(&scope)?.total();
    let run = subject.run.zip(locked).zip(rows);
    let mut kept = run.as_ref().map(|_| "this one was stopped before its end");
    let mut summary = None;
    if let Some((((_, _, mut of_run), folder), rows)) = run.filter(|_| tested.ending == Ending::Done) {
        kept = of_run.holdout.as_ref().and_then(|before| before.outlasts(&holdout));
        of_run.take_test(holdout.clone(), tested.cost);
        if kept.is_none() {
            report::write(&folder, &of_run, &rows)?;
        }
        summary = Some(of_run);
    }
    if !common.output.json {
        let metric = &workload.task.objective.metric;
        print(&table::holdout_text(&holdout, metric, &configuration, summary.as_ref()))?;
    }
    if let Some(why) = kept {
        say!("The run's folder is left as it is: {why}.");
    }
    if let Some(refusal) = tested.refusal.as_ref().filter(|_| !common.output.json) {
        print(&table::wrapped(&format!("Of the first instance that was not reached: {refusal}.")))?;
    }
    let shown = Report {
        task: &workload.task.name,
        config: &configuration,
        holdout: &holdout,
        spent_usd,
        study_cost_usd: tested.cost,
    };
    if common.output.json {
        print_json(&shown)?;
    } else {
        print(&format!("${spent_usd} spent."))?;
    }
    let direction = workload.task.objective.direction;
    Ok(match (tested.ending, holdout.score, arguments.min_score) {
        (Ending::Interrupted, ..) => Fault::Interrupted.exit_code(),
        (Ending::SpentOut { lost_to: Some(failure) }, ..) => return Err(mostly_lost(&failure)),
        (_, None, _) if holdout.missing == 0 => Fault::Budget.exit_code(),
        (_, None, _) => Fault::Endpoint.exit_code(),
        (_, Some(score), Some(least)) if direction.gain(score) < direction.gain(least) => {
            if !common.output.quiet {
                say!("The score {score:.4} is not as good as --min-score {least}.");
            }
            Fault::Gate.exit_code()
        }
        _ => 0,
    })
}

/// What to say where instances that are to be tested on are among those that were tuned on: the score flatters then.
fn tuned_on(tune: &[Instance], test: &[Instance]) -> Option<String> {
    let of = match Known::of(tune).among(test) {
        0 => return None,
        all if all == test.len() => "All of the".to_owned(),
        some => format!("{some} of the"),
    };
    Some(format!(
        "Warning: {of} {} instances to test on are among those of the task's tune split. A configuration that was chosen on \
         them looks better there than it is.",
        test.len()
    ))
}

fn subject(arguments: &TestArguments, embedded: &Embedded) -> Result<Subject> {
    let named = Named::at(&arguments.run_or_config)?;
    let workload = subject::workload(embedded, arguments.task.as_deref(), &[&named])?;
    if named.is_run && arguments.task.is_none() {
        named.note_changes(&workload);
    }
    let endpoints = subject::endpoints(arguments.common.place.endpoints.as_deref(), &workload, &[&named])?;
    let space = named.space(embedded, &workload)?;
    let asked = named.asked(embedded, &workload)?;
    let run = match (named.is_run, &named.study) {
        (true, Some(file)) => Some((named.home.clone(), file.clone(), report::summary_of(&named.home)?)),
        _ => None,
    };
    let store = subject::store(&arguments.common, &[&named]);
    Ok(Subject { asked, workload, endpoints, store, run, space })
}
