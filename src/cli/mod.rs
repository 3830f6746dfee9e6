//! The command line: one file a subcommand. What was typed becomes what it means; results go to standard output,
//! progress and errors to standard error; exit codes as documented in `farthing --help`.

/// Says a line on standard error. One that nobody can read (`2>&1 | head`, a full disk) is no reason to leave what is being
/// paid for.
macro_rules! say {
    ($($words:tt)*) => {
        crate::cli::say(&format!($($words)*))
    };
}

mod arguments;
mod ask;
mod batch;
mod cache;
mod compare;
mod doctor;
mod estimate;
mod evaluate;
mod first;
mod generated;
mod help;
mod init;
mod inputs;
mod judge;
mod lead;
mod listing;
mod live;
mod logging;
mod mock;
mod models;
mod plot;
mod progress;
mod report;
mod run;
mod serve;
mod signals;
mod subject;
mod test;
mod tune;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use miette::{GraphicalReportHandler, GraphicalTheme};

use crate::diagnostic::{Error, Fault, Result, harmless};
use crate::evaluate::Workload;
use crate::space::Space;
use crate::study::Stop;

/// The program's own task and space, in a program that embeds farthing.
#[derive(Clone, Default)]
struct Embedded {
    workload: Option<Workload>,
    space: Option<Space>,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 a fault of farthing's; 2 bad usage or bad input, nothing was spent; \
3 the budget ended before any configuration could be judged; 4 a gate failed (test --min-score, compare --fail-if-worse); 5 the endpoint could not \
be used; 130 interrupted, --resume goes on.";

const EXAMPLES: &str = "Examples:
  farthing init sums                           a task that runs at once
  farthing tune sums --budget 0.10             find the best configuration for at most 10 cents
  farthing test results/sums-1                 score the winner on held-out instances
  farthing evaluate sums --set prompt=steps    score one configuration
  farthing compare now.toml results/sums-1     is it better than what you have?";

/// Finds the prompt and the settings that do best on your task, for as few dollars as it can.
#[derive(Parser)]
#[command(name = "farthing", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What to log on standard error, like `info` or `farthing=debug` (else RUST_LOG, else warnings)
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// How to log it
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: logging::LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Write a task, a search space and a farthing.toml that run at once
    Init(init::InitArguments),
    /// Look whether all is well, without spending: configuration, keys, endpoints, prices, store
    Doctor(doctor::DoctorArguments),
    /// Search for the best configuration under a budget
    Tune(tune::TuneArguments),
    /// Score a run's winner, or a configuration, on held-out instances
    Test(test::TestArguments),
    /// Score one configuration on every instance of a split
    Evaluate(evaluate::EvaluateArguments),
    /// Run an experiment from a file: one prompt a row, by groups, under a budget
    Run(run::RunArguments),
    /// Have models judge the answers of an experiment
    Judge(judge::JudgeArguments),
    /// Have models say an experiment's prompts in other words
    Rephrase(judge::RephraseArguments),
    /// Send requests through a batch API: half the price, answers within a day
    Batch(batch::BatchArguments),
    /// Say what it would cost, before a cent is spent
    Estimate(estimate::EstimateArguments),
    /// Compare two configurations on the same instances
    Compare(compare::CompareArguments),
    /// Show a run in the browser, kept up to date while it goes on
    Serve(serve::ServeArguments),
    /// Watch a run from another terminal, and steer it
    Watch(live::WatchArguments),
    /// Write a run's report anew, compare several runs on one page, or export them
    Report(report::ReportArguments),
    /// Draw a run as SVG or PNG
    Plot(plot::PlotArguments),
    /// Look into the store of samples, export it, or make it smaller
    Cache(cache::CacheArguments),
    /// List the built-in metrics and their options
    Metrics(listing::ListArguments),
    /// List the search strategies
    Strategies(listing::ListArguments),
    /// List the models that are known with their prices
    Models(models::ModelsArguments),
    /// Print the JSON schema of a file format
    Schema(listing::SchemaArguments),
    /// Serve an OpenAI-compatible endpoint on loopback, from a cassette or with made-up answers
    Mock(mock::MockArguments),
    /// Print a completion script for a shell
    Completions(generated::CompletionsArguments),
    /// Write man pages
    Man(generated::ManArguments),
}

/// The program `farthing`.
pub fn main() -> ExitCode {
    run(Embedded::default())
}

/// The same command line for a task of your own that is written in Rust: TASK is left out of every command, and the space
/// is found as for any task (`--space`, `space.toml` in the task's folder, `search_spaces/NAME.toml`).
pub fn main_for(workload: Workload) -> ExitCode {
    run(Embedded { workload: Some(workload), space: None })
}

/// As [`main_for`], with a search space that the program brings along; `--space` overrides it.
pub fn main_for_space(workload: Workload, space: Space) -> ExitCode {
    run(Embedded { workload: Some(workload), space: Some(space) })
}

/// A metric's panic is that evaluation's failure, and is shown as such: it does not write over the progress display.
fn hush_metrics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let in_metric = std::thread::current().name().is_some_and(|name| name.starts_with("metric-"));
        if !in_metric {
            usual(panic);
        }
    }));
}

fn run(embedded: Embedded) -> ExitCode {
    hush_metrics();
    let matches = match command_line(&embedded).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let usage = error.use_stderr();
            drop(error.print());
            return ExitCode::from(if usage { Fault::Usage.exit_code() } else { 0 });
        }
    };
    let outcome =
        Arguments::from_arg_matches(&matches).map_err(|error| Error::usage(error.to_string())).and_then(|arguments| {
            let _logging = logging::start(arguments.log.as_deref(), arguments.log_format)?;
            dispatch(arguments.command, &embedded)
        });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print_error(&error);
            ExitCode::from(error.fault().exit_code())
        }
    }
}

/// The whole command line as declared.
fn command_line(embedded: &Embedded) -> clap::Command {
    let command = help::grouped(Arguments::command());
    match &embedded.workload {
        Some(workload) => {
            command.about(format!("Tunes the task `{}`; TASK is left out of every command", workload.task.name))
        }
        None => command,
    }
}

fn dispatch(command: Command, embedded: &Embedded) -> Result<u8> {
    match command {
        Command::Tune(arguments) => tune::run(arguments, embedded),
        Command::Test(arguments) => test::run(arguments, embedded),
        Command::Evaluate(arguments) => evaluate::run(arguments, embedded),
        Command::Run(arguments) => run::run(arguments),
        Command::Judge(arguments) => judge::run(arguments),
        Command::Rephrase(arguments) => judge::rephrase(arguments),
        Command::Estimate(arguments) => estimate::run(&arguments, embedded),
        Command::Compare(arguments) => compare::run(arguments, embedded),
        Command::Report(arguments) => report::run(&arguments),
        Command::Batch(arguments) => batch::run(arguments),
        Command::Plot(arguments) => plot::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
        Command::Metrics(arguments) => listing::metrics(&arguments),
        Command::Strategies(arguments) => listing::strategies(&arguments),
        Command::Models(arguments) => models::run(&arguments),
        Command::Schema(arguments) => listing::schema(&arguments),
        Command::Mock(arguments) => mock::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments, embedded),
        Command::Watch(arguments) => live::watch(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Completions(arguments) => generated::completions(&arguments, command_line(embedded)),
        Command::Man(arguments) => generated::man(&arguments, command_line(embedded)),
    }
}

/// Colour is for terminals whose user did not say no.
fn colour(stream: &impl IsTerminal) -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !forbidden && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// What `say!` does. Nothing of it speaks to the terminal: some of the words are a data file's or a server's.
fn say(words: &str) {
    drop(writeln!(std::io::stderr(), "{}", harmless(words)));
}

fn print_error(error: &Error) {
    let theme = match colour(&std::io::stderr()) {
        true => GraphicalTheme::unicode(),
        false => GraphicalTheme::unicode_nocolor(),
    };
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    if handler.render_report(&mut text, error).is_err() {
        text = error.to_string();
    }
    drop(writeln!(std::io::stderr(), "{}", text.trim_end()));
}

/// Prints a result. A reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(cannot_print(&error)),
        _ => Ok(()),
    }
}

fn cannot_print(error: &std::io::Error) -> Error {
    Error::internal(format!("standard output cannot be written: {error}"))
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::internal(error.to_string()))?;
    print(&text)
}

/// A runtime of this thread alone.
fn small_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)
}

fn no_runtime(error: std::io::Error) -> Error {
    Error::internal(format!("no runtime can be started: {error}"))
}

/// A runtime that runs `work` and listens to the user's wish to stop meanwhile: once to stop gracefully, twice to stop at
/// once. Ctrl-C says so, and so do those that end programs: `timeout`, CI, containers, a terminal that is closed.
fn with_runtime<T>(quiet: bool, work: impl Future<Output = Result<T>>, stop: Arc<Stop>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(no_runtime)?;
    let mut signals = {
        let _inside = runtime.enter();
        signals::Signals::listen()
    };
    runtime.spawn(async move {
        while signals.next().await {
            let pressed = stop.press();
            if pressed > 1 {
                // What does not even notice that it should stop at once is ended. What is durable stays so.
                std::thread::spawn(|| {
                    std::thread::sleep(std::time::Duration::from_secs(2));
                    std::process::exit(i32::from(Fault::Interrupted.exit_code()));
                });
            }
            if !quiet {
                match pressed {
                    1 => say!("Stopping: what is in flight lands first. Ctrl-C again stops at once."),
                    _ => say!("Stopping at once."),
                }
            }
        }
    });
    let outcome = runtime.block_on(work);
    // Requests still in flight after a second Ctrl-C are let go; the ledger counts them as spent.
    runtime.shutdown_background();
    outcome
}
