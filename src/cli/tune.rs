//! `farthing tune`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use crate::cli::arguments::{Common, dollars, number};
use crate::cli::live::{Live, hand::Listener};
use crate::cli::progress::{self, EventLog};
use crate::cli::{Embedded, ask, colour, estimate, first, inputs, print, print_json, report, with_runtime};
use crate::diagnostic::{Error, Fault, Result};
use crate::evaluate::{Served, Workload};
use crate::money::Usd;
use crate::report::{observations, table};
use crate::space::{Configuration, Space};
use crate::store::Cache;
use crate::study::folder::{self, Hashes, Inputs, RunFolder, StudyFile};
use crate::study::pipeline::mostly_lost;
use crate::study::{Outcome, Prepared, Settings, Stop, StopReason, Study};

/// Arguments of `farthing tune`.
#[derive(Args, Clone, Debug)]
pub struct TuneArguments {
    /// The task: a folder with a task.toml
    task: Option<PathBuf>,
    /// Dollars that the study may cost in all; never more is spent
    #[arg(long, value_name = "USD", value_parser = dollars, allow_hyphen_values = true)]
    budget: Option<Usd>,
    /// Dollars an instance that a configuration may cost in production
    #[arg(long, value_name = "USD", value_parser = dollars, allow_hyphen_values = true)]
    inference_budget: Option<Usd>,
    /// The search space [default: space.toml in the task's folder, else search_spaces/NAME.toml]
    #[arg(long, value_name = "FILE")]
    space: Option<PathBuf>,
    /// How to search; `farthing strategies` lists them [default: the best we have]
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Try at most so many configurations
    #[arg(long, value_name = "N")]
    max_trials: Option<usize>,
    /// Set this share of the budget aside for the test split, and spend it there at the end
    #[arg(long, value_name = "S", value_parser = number, allow_hyphen_values = true)]
    test_share: Option<f64>,
    /// Stop when going on is expected to gain less than this, in units of the objective; race also stops where none is
    /// likely to be better by more
    #[arg(long, value_name = "M", value_parser = number, allow_hyphen_values = true)]
    margin: Option<f64>,
    /// Try the configurations of this file first ([config], several [[config]], or a best.toml); may be repeated
    #[arg(long = "try", value_name = "FILE")]
    try_files: Vec<PathBuf>,
    /// Try the best configurations of this earlier run of the task first; may be repeated
    #[arg(long = "from", value_name = "RUN")]
    from: Vec<PathBuf>,
    /// Write a configuration file for each point of the frontier of score against production cost
    #[arg(long)]
    pareto: bool,
    /// What the store gives is free: only money really spent counts against the budget
    #[arg(long)]
    reuse_savings: bool,
    /// Ask through the providers' batch APIs: half the price, but hours a round. The study may be ended and resumed
    #[arg(long)]
    batch: bool,
    /// With --batch: ask in the ordinary way for what a round has not brought in this time (`90m`, `6h`) [default: as
    /// long as the provider takes, a day at most]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    batch_wait: Option<std::time::Duration>,
    /// With --batch: seconds between looks at the provider
    #[arg(long, value_name = "SECONDS", hide = true)]
    batch_poll: Option<f64>,
    /// The run's folder [default: results/NAME-N]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, or begin it there
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Do not ask before a budget above --ask-above; what is no terminal is never asked
    #[arg(long, short)]
    yes: bool,
    /// Ask on a terminal before a new run may spend more than this
    #[arg(long, value_name = "USD", value_parser = dollars, default_value = "1")]
    ask_above: Usd,
    /// Show the run on the whole terminal as it goes on, and steer it by keys
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(arguments: TuneArguments, embedded: &Embedded) -> Result<u8> {
    if let (Some(out), Some(resume)) = (&arguments.out, &arguments.resume)
        && inputs::absolute(out) != inputs::absolute(resume)
    {
        return Err(Error::usage("--out and --resume name different folders").help("leave one out"));
    }
    let going_on = arguments.resume.as_deref().filter(|folder| folder.join("study.toml").exists());
    let stop = Arc::new(Stop::default());
    let (mut study, prepared, folder) = match going_on {
        Some(folder) => resumed(&arguments, embedded, folder, &stop)?,
        None => begun(&arguments, embedded, &stop)?,
    };
    let shown = folder.path.clone();
    if !arguments.common.output.quiet {
        say!("{} {}", if going_on.is_some() { "Going on in" } else { "Run's folder:" }, shown.display());
    }
    if let Some(log) = EventLog::create(&shown.join("events.jsonl")) {
        study.add_reader(Box::new(log));
    }
    keep_budget_changes(&folder, &stop)?;
    let (quiet, pareto) = (arguments.common.output.quiet, study.settings().pareto);
    let live = arguments.live && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if live {
        study.add_reader(Box::new(Live::begin(stop.clone())));
    } else if !quiet {
        study.add_reader(progress::display(study.workload().task.tune.len()));
    }
    let before = crate::report::run::summary_of(&shown).ok();
    let listener = Listener::begin(&shown, stop.clone());
    let outcome = with_runtime(quiet || live, study.run_prepared(prepared), stop);
    drop(listener);
    let mut outcome = outcome.map_err(|error| match error.fault() {
        Fault::Endpoint => error.clone().help(format!(
            "{}; what was paid for is kept: farthing tune --resume {} goes on",
            error.advice().unwrap_or("see above"),
            shown.display()
        )),
        _ => error,
    })?;
    if let Some(before) = before {
        outcome.summary.keep_test(before);
    }
    write(&folder, &outcome, pareto).map_err(|error| {
        // Money was spent by now, so this is no fault of the command line.
        Error::internal(error.message())
            .help(format!("what was paid for is kept: farthing tune --resume {} writes it again", shown.display()))
    })?;
    show(&arguments, &outcome, &shown)?;
    if let (Some(failure), None) = (&outcome.lost_to, &outcome.summary.best) {
        return Err(mostly_lost(failure));
    }
    Ok(match (outcome.summary.stop_reason, &outcome.summary.best) {
        (StopReason::Interrupted, _) => Fault::Interrupted.exit_code(),
        (_, None) => Fault::Budget.exit_code(),
        _ => 0,
    })
}

/// A budget that is changed while the study runs stands in study.toml before it takes effect.
fn keep_budget_changes(folder: &RunFolder, stop: &Stop) -> Result<()> {
    let (path, file) = (folder.path.join("study.toml"), folder::load(&folder.path)?);
    stop.control().keep_changes(Box::new(move |changes| {
        let mut file = file.clone();
        file.settings.budget_changes = changes.to_vec();
        crate::files::replace(&path, folder::to_toml(&file)?.as_bytes())
    }));
    Ok(())
}

/// A new study and its folder.
fn begun(arguments: &TuneArguments, embedded: &Embedded, stop: &Arc<Stop>) -> Result<(Study, Prepared, RunFolder)> {
    let Some(budget) = arguments.budget else {
        return Err(Error::usage("a budget is needed: what may the study cost in all?").help("add --budget 5.00"));
    };
    if arguments.batch_wait.is_some() && !arguments.batch {
        return Err(Error::usage("--batch-wait says how long batches may take, and there are none").help("add --batch"));
    }
    let out = arguments.out.as_deref().or(arguments.resume.as_deref());
    if let Some(out) = out {
        folder::check_free(out)?;
    }
    let defaults = Settings::default();
    let mut settings = Settings {
        strategy: arguments.strategy.clone().unwrap_or(defaults.strategy),
        seed: arguments.common.asking.random.seed.unwrap_or(defaults.seed),
        budget: Some(budget),
        inference_budget: arguments.inference_budget,
        max_trials: arguments.max_trials,
        test_share: arguments.test_share.unwrap_or(defaults.test_share),
        reuse_savings: arguments.reuse_savings,
        store: arguments.common.place.store(),
        cache: arguments.common.asking.cache(),
        batch: arguments.batch,
        batch_wait_seconds: arguments.batch_wait.map(|wait| wait.as_secs()),
        batch_poll_seconds: arguments.batch_poll,
        concurrency: arguments.common.asking.concurrency(),
        margin: arguments.margin,
        pareto: arguments.pareto,
        budget_changes: Vec::new(),
        first: Vec::new(),
    };
    settings.check()?;
    let workload = inputs::workload(embedded, arguments.task.as_deref())?;
    let (space, space_path) = inputs::space(embedded, &workload, arguments.space.as_deref())?;
    let (endpoints, endpoints_path) = inputs::endpoints(&workload, arguments.common.place.endpoints.as_deref())?;
    settings.first = tried_first(arguments, &workload, &space)?;
    let places = Inputs {
        name: workload.task.name.clone(),
        task: arguments.task.as_deref().map(inputs::absolute),
        space: space_path.as_deref().map(inputs::absolute),
        endpoints: endpoints_path.as_deref().map(inputs::absolute),
    };
    let id = crate::store::fresh_name("study");
    let mut study = Study::builder()
        .workload(workload)
        .space(space)
        .endpoints(endpoints)
        .settings(settings.clone())
        .id(id.clone())
        .stop(stop.clone())
        .build()?;
    // Looks at everything that can be wrong before the folder appears.
    let prepared = study.prepare()?;
    confirm(arguments, &study, &prepared, budget)?;
    let file = StudyFile {
        farthing: env!("CARGO_PKG_VERSION").to_owned(),
        study: id,
        look_ahead: prepared.look_ahead(),
        inputs: places,
        settings,
        hashes: hashes(&study)?,
    };
    let folder = RunFolder::create(out, &file)?;
    Ok((study, prepared, folder))
}

/// Prompts are rendered on so many instances, and so many configurations priced, for the line at the beginning.
const GLANCE: (usize, usize) = (32, 64);

/// Says in a line what it will cost, and asks on a terminal where that may be much.
fn confirm(arguments: &TuneArguments, study: &Study, prepared: &Prepared, budget: Usd) -> Result<()> {
    let estimate = prepared.estimate(study, GLANCE.0, GLANCE.1)?;
    if !arguments.common.output.quiet {
        say!("{}", table::told(&estimate::text::line(&estimate, budget)));
        if let Some((few, help)) = inputs::few_held_out(&study.workload().task) {
            say!("{}", table::told(&format!("Note: {few}; {help}.")));
        }
    }
    // A search that looks at everything and is done spends less than it may.
    let grid = estimate.grid.and_then(|grid| grid.high).filter(|_| study.settings().test_share == 0.0);
    let most = grid.map_or(budget, |grid| grid.min(budget));
    let asks = most > arguments.ask_above && !arguments.yes && ask::possible();
    let question = format!("Up to ${most} may be spent. Begin?");
    match asks && !ask::agreed(&question) {
        true => Err(Error::new(Fault::Interrupted, "not begun; nothing was spent").help("--yes does not ask")),
        false => Ok(()),
    }
}

fn tried_first(arguments: &TuneArguments, workload: &Workload, space: &Space) -> Result<Vec<Configuration>> {
    first::configurations(&arguments.try_files, &arguments.from, workload, space, arguments.common.output.quiet)
}

fn hashes(study: &Study) -> Result<Hashes> {
    Ok(Hashes {
        task: folder::task_hash(study.workload()),
        space: folder::space_hash(study.space()),
        endpoints: study.endpoints_hash()?,
    })
}

/// A study that goes on: everything as it was, the budget as it was or higher.
fn resumed(
    arguments: &TuneArguments,
    embedded: &Embedded,
    path: &Path,
    stop: &Arc<Stop>,
) -> Result<(Study, Prepared, RunFolder)> {
    // First of all the lock: what another process still writes must not be read half-way.
    let folder = RunFolder::open(path)?;
    let mut file = folder::load(path)?;
    let changed = |what: &str, was: String, is: String| {
        Err(Error::usage(format!("the run was begun with {what} {was}, not {is}"))
            .help(format!("leave the argument out, or begin a new run; only --budget may rise, --concurrency and --quiet may change ({})", path.display())))
    };
    let was = file.settings.clone();
    let same_path = |given: &Option<PathBuf>, known: &Option<PathBuf>| {
        given.as_ref().is_none_or(|given| known.as_ref() == Some(&inputs::absolute(given)))
    };
    let shown = |path: &Option<PathBuf>| path.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
    if !same_path(&arguments.task, &file.inputs.task) {
        return changed("the task", shown(&file.inputs.task), shown(&arguments.task));
    }
    if !same_path(&arguments.space, &file.inputs.space) {
        return changed("the space", shown(&file.inputs.space), shown(&arguments.space));
    }
    if !same_path(&arguments.common.place.endpoints, &file.inputs.endpoints) {
        return changed("--endpoints", shown(&file.inputs.endpoints), shown(&arguments.common.place.endpoints));
    }
    if let Some(strategy) = arguments.strategy.as_ref().filter(|given| **given != was.strategy) {
        return changed("--strategy", was.strategy, strategy.clone());
    }
    if let Some(seed) = arguments.common.asking.random.seed.filter(|given| *given != was.seed) {
        return changed("--seed", was.seed.to_string(), seed.to_string());
    }
    if let Some(share) = arguments.test_share.filter(|given| *given != was.test_share) {
        return changed("--test-share", was.test_share.to_string(), share.to_string());
    }
    if arguments.max_trials.is_some() && arguments.max_trials != was.max_trials {
        let text = |trials: Option<usize>| trials.map_or("none".to_owned(), |trials| trials.to_string());
        return changed("--max-trials", text(was.max_trials), text(arguments.max_trials));
    }
    if arguments.inference_budget.is_some() && arguments.inference_budget != was.inference_budget {
        let text = |budget: Option<Usd>| budget.map_or("none".to_owned(), |budget| budget.to_string());
        return changed("--inference-budget", text(was.inference_budget), text(arguments.inference_budget));
    }
    if arguments.margin.is_some() && arguments.margin != was.margin {
        let text = |margin: Option<f64>| margin.map_or("none".to_owned(), |margin| margin.to_string());
        return changed("--margin", text(was.margin), text(arguments.margin));
    }
    if arguments.reuse_savings && !was.reuse_savings {
        return changed("--reuse-savings", "off".to_owned(), "on".to_owned());
    }
    if arguments.batch && !was.batch {
        return changed("--batch", "off".to_owned(), "on".to_owned());
    }
    if arguments.common.place.store.is_some() && arguments.common.place.store() != was.store {
        return changed("--store", was.store, arguments.common.place.store());
    }
    if arguments.common.asking.cache() != Cache::Use && arguments.common.asking.cache() != was.cache {
        let text = |cache: Cache| match cache {
            Cache::Use => "neither --no-cache nor --refresh".to_owned(),
            Cache::Ignore => "--no-cache".to_owned(),
            Cache::Refresh => "--refresh".to_owned(),
        };
        return Err(Error::usage(format!(
            "the run was begun with {}, not {}",
            text(was.cache),
            text(arguments.common.asking.cache())
        ))
        .help("leave the argument out: a resumed run goes on as it was begun"));
    }
    if let (Some(given), Some(known)) = (arguments.budget, was.budget_now()) {
        if given < known {
            return Err(Error::usage(format!(
                "the run was begun with a budget of ${known}, and a budget may only rise"
            )));
        }
        // A higher budget is another plan from the start on; what is paid for already is not paid for again.
        if given > known {
            file.settings.budget = Some(given);
            file.settings.budget_changes.clear();
        }
    }
    if let Some(concurrency) = arguments.common.asking.concurrency {
        file.settings.concurrency = concurrency as usize;
    }
    file.settings.pareto |= arguments.pareto;
    if let Some(wait) = arguments.batch_wait {
        file.settings.batch_wait_seconds = Some(wait.as_secs());
    }
    if !crate::store::Place::of(&was.store).exists() {
        return Err(Error::usage(format!("the store of this run, {}, is gone, and with it what was spent", was.store))
            .help("put it back, or begin a new run"));
    }
    let workload = match (&embedded.workload, &file.inputs.task) {
        (Some(workload), None) => workload.clone(),
        (None, Some(task)) => Workload::load(task)?,
        (None, None) => {
            return Err(Error::usage("this run's task is written in Rust: go on with the program that began it"));
        }
        (Some(_), Some(_)) => return Err(Error::usage("this run was begun by `farthing`: go on with it")),
    };
    let space = match (&file.inputs.space, &embedded.space) {
        (Some(path), _) => crate::space::load(path)?,
        (None, Some(space)) => space.clone(),
        (None, None) => return Err(inputs::no_space(&workload)),
    };
    if !(arguments.try_files.is_empty() && arguments.from.is_empty())
        && tried_first(arguments, &workload, &space)? != was.first
    {
        let (was, is) = (format!("{} configurations to try first", was.first.len()), "others".to_owned());
        return changed("", was, is);
    }
    let endpoints = crate::backend::Endpoints::of_file(file.inputs.endpoints.as_deref())?;
    let mut study = Study::builder()
        .workload(workload)
        .space(space)
        .endpoints(endpoints)
        .settings(file.settings.clone())
        .id(file.study.clone())
        .stop(stop.clone())
        .build()?;
    let now = hashes(&study)?;
    for (what, was, is) in [
        ("task or its data", &file.hashes.task, &now.task),
        ("search space", &file.hashes.space, &now.space),
        ("models, prices or recorded answers", &file.hashes.endpoints, &now.endpoints),
    ] {
        if was != is {
            return Err(Error::usage(format!("the {what} changed since the run was begun"))
                .help("put it back as it was, or begin a new run: what the store holds is not paid for again"));
        }
    }
    let prepared = study.prepare()?;
    if prepared.look_ahead() != file.look_ahead {
        return changed("a look-ahead of", file.look_ahead.to_string(), prepared.look_ahead().to_string());
    }
    let of = |settings: &Settings| (settings.budget, settings.budget_changes.clone(), settings.pareto);
    if of(&file.settings) != of(&was) {
        folder.write("study.toml", folder::to_toml(&file)?)?;
    }
    Ok((study, prepared, folder))
}

/// Writes what the study came to.
fn write(folder: &RunFolder, outcome: &Outcome, pareto: bool) -> Result<()> {
    let (name, bytes) = observations::encode(outcome)?;
    folder.write(name, bytes)?;
    match outcome.best() {
        Some(best) => folder.write("best.toml", Served::of(&outcome.summary.task, &best.plan).to_toml()?)?,
        None => folder.remove("best.toml"),
    }
    let frontier = if pareto { outcome.summary.pareto.as_slice() } else { &[] };
    for (at, point) in frontier.iter().enumerate() {
        let served = Served::of(&outcome.summary.task, &outcome.trials[point.trial].plan);
        folder.write(&pareto_file(at), served.to_toml()?)?;
    }
    // A run that goes on may have had a longer frontier before.
    (frontier.len()..)
        .take_while(|&at| folder.path.join(pareto_file(at)).exists())
        .for_each(|at| folder.remove(&pareto_file(at)));
    let rows = crate::report::rows::rows(outcome);
    report::write(folder, &outcome.summary, &rows)
}

/// The configuration files of the frontier, from the cheapest on.
fn pareto_file(at: usize) -> String {
    format!("pareto-{}.toml", at + 1)
}

fn show(arguments: &TuneArguments, outcome: &Outcome, folder: &Path) -> Result<()> {
    if arguments.common.output.json {
        return print_json(&outcome.summary);
    }
    let rows = crate::report::rows::rows(outcome);
    let table = table::ranking(&rows, &outcome.summary.metric, 20, colour(&std::io::stdout()));
    print(&format!("{table}\n{}", table::answer(&outcome.summary, Some(&folder.display().to_string()))))
}
