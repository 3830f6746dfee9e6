//! `farthing run`: an experiment from a file, one prompt a row; and a folder that experiments are put into.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::backend::Endpoints;
use crate::cli::arguments::{BESIDE, Common, UNUSED_SEED, some_dollars};
use crate::cli::{print, print_error, print_json, with_runtime};
use crate::diagnostic::{Error, Fault, Result, Source};
use crate::evaluate::Served;
use crate::experiment::pipeline::{Next, Pipeline};
use crate::experiment::{Beginning, Declared, Experiment, MaxQueries, Outcome, Progress, Settings, Summary, Watcher};
use crate::money::Usd;
use crate::report::table::wrapped;
use crate::study::Stop;

/// Arguments of `farthing run`.
#[derive(Args, Clone, Debug)]
#[command(
    mut_arg("seed", |seed| seed.help(UNUSED_SEED)),
    mut_arg("endpoints", |endpoints| endpoints.help(BESIDE))
)]
pub struct RunArguments {
    /// The experiment: JSONL or CSV (.gz, .zst), one prompt a row
    experiment: Option<PathBuf>,
    /// The same, where each row is data for --template or --config
    #[arg(long, value_name = "FILE", conflicts_with = "experiment")]
    data: Option<PathBuf>,
    /// A template that is rendered over each row: its prompt
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// A tuned configuration (a run's best.toml) that is used on each row: its prompt, model and parameters
    #[arg(long, value_name = "FILE", conflicts_with = "template")]
    config: Option<PathBuf>,
    /// Run what is put into this folder, in the order of arrival; Ctrl-C ends it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["experiment", "data", "resume"])]
    watch: Option<PathBuf>,
    /// With --watch: end when nothing is left to run
    #[arg(long, requires = "watch")]
    once: bool,
    #[command(flatten)]
    what: WhatArguments,
    #[command(flatten)]
    common: Common,
}

/// Arguments of all commands that run an experiment.
#[derive(Args, Clone, Debug)]
pub struct WhatArguments {
    /// The output folder [default: the next free results/NAME-N]; one that holds this experiment is gone on with
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the experiment in this folder: only what is missing is asked
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Dollars that it may cost, over all runs of it [default: not capped]
    #[arg(long, value_name = "USD", value_parser = some_dollars, allow_hyphen_values = true)]
    pub budget: Option<Usd>,
    /// The model of rows that name none
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// A parameter of rows that do not set it: a JSON value, else a text (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Score each answer: [NAME=]TYPE[:OPTION=VALUE]..., like 'exact_match:expected={{ answer }}' (repeatable; `farthing
    /// metrics` lists them; prompto's `match` and `includes` too)
    #[arg(long, value_name = "METRIC")]
    pub metric: Vec<String>,
    /// A file with [metrics.NAME] tables, as in task.toml
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Attempts that a row has; a row that is wrong in itself is not tried again [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_attempts: Option<u32>,
    /// Queries a minute: of each group, or a JSON file {"GROUP": 60, "GROUP": {"default": 60, "MODEL": 20}}
    #[arg(long, value_name = "N|FILE")]
    pub max_queries: Option<String>,
    /// Groups run one after the other
    #[arg(long)]
    pub sequential: bool,
    /// Send nothing if a single row is wrong
    #[arg(long)]
    pub strict: bool,
    /// Rows that ask the same get an answer each, in place of sharing one
    #[arg(long)]
    pub distinct: bool,
    /// Move the input into the output folder when all is done
    #[arg(long)]
    pub move_input: bool,
}

impl RunArguments {
    /// The settings that were typed, and those of the configuration.
    fn settings(&self) -> Result<Settings> {
        let mut settings = self.what.settings(self.template.as_deref())?;
        if let Some(path) = &self.config {
            settings.serve(&Served::load(path)?)?;
        }
        Ok(settings)
    }
}

impl WhatArguments {
    /// The settings that were typed.
    pub fn settings(&self, template: Option<&Path>) -> Result<Settings> {
        let mut settings = Settings {
            model: self.model.clone(),
            template: template.map(|path| Source::read(path).map(|source| source.text().to_owned())).transpose()?,
            max_attempts: self.max_attempts.unwrap_or(0),
            sequential: self.sequential,
            strict: self.strict,
            distinct: self.distinct,
            ..Settings::default()
        };
        for text in &self.set {
            let Some((name, value)) = text.split_once('=') else {
                return Err(Error::usage(format!("`--set {text}` sets nothing")).help("write --set NAME=VALUE"));
            };
            let value = value.trim();
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            settings.params.insert(name.trim().to_owned(), value);
        }
        if let Some(text) = &self.max_queries {
            settings.max_queries = MaxQueries::parse(text)?;
        }
        settings.metrics = self.metric.iter().map(|text| Declared::parse(text)).collect::<Result<_>>()?;
        if let Some(path) = &self.metrics {
            settings.metrics.extend(Declared::load(path)?);
        }
        Ok(settings)
    }

    /// Any of what decides what is asked was typed: an experiment's folder says that itself.
    fn any(&self) -> bool {
        self.model.is_some()
            || !self.set.is_empty()
            || !self.metric.is_empty()
            || self.metrics.is_some()
            || self.distinct
    }

    /// The folder that was named, if any: --out and --resume must be the same.
    pub fn folder(&self) -> Result<Option<&Path>> {
        match (&self.out, &self.resume) {
            (Some(out), Some(resume)) if out != resume => {
                Err(Error::usage("--out and --resume name two folders").help("with --resume, --out can be left out"))
            }
            (out, resume) => Ok(resume.as_deref().or(out.as_deref())),
        }
    }
}

/// Runs it.
pub fn run(arguments: RunArguments) -> Result<u8> {
    if let Some(watch) = arguments.watch.clone() {
        return watch_folder(&arguments, &watch);
    }
    let what = &arguments.what;
    let input = arguments.experiment.as_deref().or(arguments.data.as_deref());
    let stop = Arc::new(Stop::default());
    let builder = match (input, what.folder()?) {
        (Some(input), _) => one(&arguments, input)?,
        (None, Some(folder)) if what.resume.is_some() => {
            if what.any() || arguments.template.is_some() || arguments.config.is_some() {
                return Err(Error::usage("with --resume alone an experiment keeps the settings that it began with")
                    .help("leave the others out, or name the experiment's file too"));
            }
            resumed(folder, what, &arguments.common)?
        }
        _ => {
            return Err(Error::usage("which experiment? Give the path of a JSONL or CSV file")
                .help("one prompt a row: {\"id\": \"a\", \"prompt\": \"...\", \"model\": \"...\"}; or --resume DIR, or --watch DIR"));
        }
    };
    let outcome = execute(builder, &arguments.common, stop)?;
    finish(&outcome, &arguments.common)
}

type Builder = crate::experiment::ExperimentBuilder;

/// The experiment of a file, as it was typed.
fn one(arguments: &RunArguments, input: &Path) -> Result<Builder> {
    let what = &arguments.what;
    let settings = arguments.settings()?;
    let mut builder = begun(Experiment::builder(input), what, &arguments.common)?.settings(settings);
    if let Some(out) = what.folder()? {
        builder = builder.out(out);
    }
    Ok(builder)
}

/// What all experiments of a command line share.
pub fn begun(builder: Builder, what: &WhatArguments, common: &Common) -> Result<Builder> {
    let mut builder =
        builder.store(common.place.store()).cache(common.asking.cache()).concurrency(common.asking.concurrency());
    builder = builder.move_input(what.move_input);
    if let Some(budget) = what.budget {
        builder = builder.budget(budget);
    }
    if let Some(path) = &common.place.endpoints {
        builder = builder.endpoints(Endpoints::load(path)?);
    }
    Ok(builder)
}

/// An experiment that goes on.
fn resumed(folder: &Path, what: &WhatArguments, common: &Common) -> Result<Builder> {
    let typed = WhatArguments { metric: Vec::new(), metrics: None, ..what.clone() }.settings(None)?;
    let mut builder = Experiment::resume(folder)?.concurrency(common.asking.concurrency()).move_input(what.move_input);
    builder = builder.change(|settings| {
        if what.max_queries.is_some() {
            settings.max_queries = typed.max_queries;
        }
        settings.max_attempts = what.max_attempts.unwrap_or(settings.max_attempts);
        settings.sequential |= what.sequential;
        settings.strict |= what.strict;
    });
    if common.asking.no_cache || common.asking.refresh {
        builder = builder.cache(common.asking.cache());
    }
    if common.place.store.is_some() {
        builder = builder.store(common.place.store());
    }
    if let Some(budget) = what.budget {
        builder = builder.budget(budget);
    }
    if let Some(path) = &common.place.endpoints {
        builder = builder.endpoints(Endpoints::load(path)?);
    }
    Ok(builder)
}

/// Runs an experiment with what people see of it.
pub fn execute(builder: Builder, common: &Common, stop: Arc<Stop>) -> Result<Outcome> {
    let experiment = shown(builder, common, stop.clone()).build()?;
    with_runtime(common.output.quiet, experiment.run(), stop)
}

fn shown(mut builder: Builder, common: &Common, stop: Arc<Stop>) -> Builder {
    builder = builder.stop(stop);
    if !common.output.quiet {
        builder = builder.told(tell).watcher(display());
    }
    builder
}

/// What will be asked, before it is.
fn tell(beginning: &Beginning) {
    for line in &beginning.wrong {
        say!("{line}");
    }
    if beginning.wrong_rows > 0 {
        let more = beginning.wrong_rows - beginning.wrong.len();
        let more = if more > 0 { format!(" ({more} more of them)") } else { String::new() };
        say!("{} rows are wrong and are not asked{more}; --strict would have sent nothing.", beginning.wrong_rows);
    }
    if beginning.done > 0 {
        say!("{} rows are done already.", beginning.done);
    }
    if beginning.duplicates > 0 {
        say!(
            "{} rows ask the same as an earlier one and share its answer; --distinct asks for each.",
            beginning.duplicates
        );
    }
    if beginning.same_ids > 0 {
        say!("{} rows have the id of an earlier one: their order tells them apart.", beginning.same_ids);
    }
    for group in &beginning.groups {
        say!("{group}");
    }
}

/// The progress: a bar where standard error is a terminal, a line every few seconds elsewhere.
fn display() -> Watcher {
    let (begin, mut last) = (Instant::now(), Instant::now());
    let mut first: Option<usize> = None;
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(1);
        // A bar that cannot be drawn as wished is drawn in the default way.
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar
    });
    Box::new(move |progress: &Progress| {
        let done = progress.done >= progress.rows;
        let before = *first.get_or_insert(progress.done.saturating_sub(1));
        let due = Duration::from_millis(if bar.is_some() { 80 } else { 5000 });
        if last.elapsed() < due && !done {
            return;
        }
        last = Instant::now();
        let seconds = begin.elapsed().as_secs_f64().max(1e-3);
        let rate = (progress.done - before) as f64 / seconds;
        let money = match progress.budget {
            Some(budget) => format!("${} of ${budget}", progress.spent),
            None => format!("${}", progress.spent),
        };
        let mut words = format!("{money}, {rate:.0}/s, {} from the store", progress.cached);
        if progress.failed > 0 {
            words += &format!(", {} failed", progress.failed);
        }
        if progress.again > 0 {
            words += &format!(", {} for another attempt", progress.again);
        }
        match &bar {
            Some(bar) => {
                bar.set_length(progress.rows as u64);
                bar.set_position(progress.done as u64);
                bar.set_message(words);
                if done {
                    bar.finish_and_clear();
                }
            }
            None => say!("{} of {} rows, {words}", progress.done, progress.rows),
        }
    })
}

/// Prints what came of it, and gives the exit code.
pub fn finish(outcome: &Outcome, common: &Common) -> Result<u8> {
    match common.output.json {
        true => print_json(&outcome.summary)?,
        false => print(&text(&outcome.summary))?,
    }
    for (model, why) in &outcome.summary.not_usable {
        let rows = match outcome.summary.not_usable_rows.get(model) {
            Some(1) => "1 row has".to_owned(),
            rows => format!("{} rows have", rows.copied().unwrap_or(0)),
        };
        print_error(
            &Error::endpoint(format!("the model `{model}` could not be asked, and {rows} no answer: {why}"))
                .help(format!("go on with: farthing run --resume {}", outcome.summary.folder.display())),
        );
    }
    let fault = outcome.fault();
    if fault == Some(Fault::Endpoint)
        && outcome.summary.not_usable.is_empty()
        && let Some(why) = &outcome.summary.commonest_error
    {
        print_error(&Error::endpoint(format!("no row was answered; most of them failed so: {why}")));
    }
    Ok(fault.map_or(0, |fault| fault.exit_code()))
}

fn text(summary: &Summary) -> String {
    let mut text = format!("{}: {} of {} rows answered", summary.experiment, summary.answered, summary.rows);
    if summary.failed > 0 {
        let kinds: Vec<String> = summary.failures.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        text += &format!(", {} failed ({})", summary.failed, kinds.join(", "));
    }
    if summary.not_reached > 0 {
        text += &format!(", {} not reached", summary.not_reached);
    }
    text += &format!("\n${} spent", summary.spent_usd);
    if let Some(budget) = summary.budget_usd {
        text += &format!(" of ${budget}");
    }
    text += &format!(
        "; ${} without the store; {} requests, {} from the store",
        summary.cost_usd, summary.requests, summary.cache_hits
    );
    if let Some(seconds) = summary.seconds_per_query {
        text += &format!("; {seconds:.4} s a query");
    }
    text.push('\n');
    for (name, mean) in &summary.scores {
        text += &format!("{name}: {:.4} (mean of {} rows)\n", mean.mean, mean.rows);
    }
    if summary.judged.len() > 1 {
        for (name, mean) in &summary.judged {
            text += &format!("  by {name}: {:.4} ({} rows)\n", mean.mean, mean.rows);
        }
    }
    match summary.stop_reason.as_str() {
        "budget" => {
            if let Some(why) = &summary.refusal {
                text += &wrapped(&format!("Of the first row that was not asked: {why}."));
            }
            text += "The budget ended: go on with --resume and a larger --budget.\n";
        }
        "interrupted" => {
            text += &format!("Interrupted: go on with farthing run --resume {}\n", summary.folder.display())
        }
        _ => {}
    }
    text + &format!("{}\n", summary.folder.display())
}

/// Runs what is put into a folder.
fn watch_folder(arguments: &RunArguments, watch: &Path) -> Result<u8> {
    let (what, common) = (&arguments.what, &arguments.common);
    let mut pipeline = Pipeline::new(watch, what.out.as_deref())?;
    // What is wrong with the command line is said before anything is waited for.
    arguments.settings()?;
    if !common.output.quiet {
        say!("Watching {}; outputs go to {}.", pipeline.folder().display(), pipeline.out().display());
    }
    let stop = Arc::new(Stop::default());
    let (mut worst, mut summaries) = (0, Vec::new());
    let work = async {
        loop {
            if stop.asked() {
                return Ok(130);
            }
            let (path, folder) = match pipeline.look()? {
                Next::Run(path, folder) => (path, folder),
                Next::Empty if arguments.once => return Ok(worst),
                Next::Empty | Next::Wait => {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(200)) => {}
                        () = stop.wished() => {}
                    }
                    continue;
                }
            };
            if !common.output.quiet {
                say!("{}:", path.display());
            }
            let builder = match &folder {
                Some(folder) => resumed(folder, what, common),
                None => arguments.settings().and_then(|settings| {
                    let builder = begun(Experiment::builder(&path), what, common)?;
                    Ok(builder.settings(settings).parent(pipeline.out()))
                }),
            };
            let experiment = builder.and_then(|builder| shown(builder, common, stop.clone()).build());
            let outcome = match experiment {
                Ok(experiment) => experiment.run().await,
                Err(error) => Err(error),
            };
            // One that cannot be run keeps none behind it waiting.
            let code = match outcome {
                Ok(outcome) => {
                    let code = match common.output.json {
                        true => outcome.fault().map_or(0, |fault| fault.exit_code()),
                        false => finish(&outcome, common)?,
                    };
                    summaries.push(outcome.summary);
                    code
                }
                Err(error) => {
                    print_error(&error);
                    error.fault().exit_code()
                }
            };
            worst = worst.max(code);
            pipeline.finished(&path);
        }
    };
    let code = with_runtime(common.output.quiet, work, stop.clone())?;
    if common.output.json {
        print_json(&summaries)?;
    }
    Ok(code)
}
