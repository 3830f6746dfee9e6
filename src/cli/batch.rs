//! `farthing batch`: requests through the providers' batch APIs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

use crate::backend::Endpoints;
use crate::batch::{Answer, AnswerOutcome, Batch, Batches, JobStatus, Options, input};
use crate::cli::arguments::{self, cap, store_location};
use crate::cli::{print, print_error, print_json, with_runtime};
use crate::diagnostic::{Error, Fault, Result};
use crate::files::{Output, cannot_write};
use crate::money::Usd;
use crate::report::words;
use crate::store;
use crate::study::Stop;

/// Arguments of `farthing batch`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "FILE has one request a line: {\"id\": ..., \"model\": ..., \"messages\": [...] or \"prompt\": ..., \
parameters}, or as OpenAI's batch API takes it: {\"custom_id\", \"method\", \"url\", \"body\"}.\n\n\
Nothing is bought twice: the same FILE asked again goes on where the last command ended, whatever ended it.\n\n\
Examples:\n  farthing batch invoke requests.jsonl --out answers.jsonl --budget 5   submit, wait, and write the answers\n  \
farthing batch create requests.jsonl                                 submit and go home\n  \
farthing batch retrieve requests.jsonl                               the answers that are there"
)]
pub struct BatchArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Submit what of a file's requests is missing
    Create(CreateArguments),
    /// Submit, wait for the answers and write them
    Invoke(InvokeArguments),
    /// Ask the providers how batches are
    Status(StatusArguments),
    /// Write the answers that are there
    Retrieve(RetrieveArguments),
    /// List jobs and their batches, as the store knows them
    List(ListArguments),
    /// Cancel what of a job is out
    Cancel(CancelArguments),
}

/// What all of them take.
#[derive(Args, Clone, Debug)]
struct Kept {
    /// Where responses, batches and the ledger are kept: a path [default: .farthing/store.db]
    #[arg(long, value_name = "PATH|URL")]
    store: Option<String>,
    #[command(flatten)]
    output: arguments::Output,
}

/// What those take that ask a provider.
#[derive(Args, Clone, Debug)]
struct Shared {
    #[command(flatten)]
    kept: Kept,
    /// Endpoints, models and prices [default: farthing.toml beside FILE or above it, up to the working folder]
    #[arg(long, value_name = "FILE")]
    endpoints: Option<PathBuf>,
    /// Leave uploaded files and results at the provider
    #[arg(long)]
    keep_files: bool,
    /// Look for a batch that may have been submitted for so many seconds before it is submitted again
    #[arg(long, value_name = "SECONDS", default_value_t = 20, hide = true)]
    grace: u64,
}

#[derive(Args, Clone, Debug)]
struct Buying {
    /// Dollars that the job may cost in all, over every time that it is asked [default: not capped]
    #[arg(long, value_name = "USD", value_parser = cap, allow_hyphen_values = true)]
    budget: Option<Usd>,
    /// Send again what failed for good, or was lost
    #[arg(long)]
    retry_failed: bool,
}

#[derive(Args, Clone, Debug)]
struct CreateArguments {
    /// The requests, one JSON object a line
    file: PathBuf,
    /// Say what it would cost, and send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    buying: Buying,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Args, Clone, Debug)]
struct InvokeArguments {
    /// The requests, one JSON object a line
    file: PathBuf,
    /// Write the answers there [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Seconds between looks at the provider [default: 1 at first, 60 later]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    poll: Option<Duration>,
    /// Wait so long at most (`90m`, `6h`); what is out then stays out
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_wait: Option<Duration>,
    /// Send a request that failed for no reason of its own so often
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    max_attempts: u32,
    #[command(flatten)]
    buying: Buying,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Args, Clone, Debug)]
struct StatusArguments {
    /// A job's name or its beginning, or a batch's id at its provider [default: all that are not over]
    job: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Args, Clone, Debug)]
struct RetrieveArguments {
    /// A job's name or its beginning, a batch's id at its provider, or the file of requests
    job: String,
    /// Write the answers there [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Args, Clone, Debug)]
struct ListArguments {
    #[command(flatten)]
    kept: Kept,
}

#[derive(Args, Clone, Debug)]
struct CancelArguments {
    /// A job's name or its beginning, or a batch's id at its provider
    job: String,
    #[command(flatten)]
    shared: Shared,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no number of seconds above 0");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()).ok_or_else(wrong)
}

/// Answers that are read from the store and written in one go.
const PAGE: usize = 512;

impl Kept {
    fn open(&self, endpoints: Endpoints, existing: bool, change: impl FnOnce(&mut Options)) -> Result<Batches> {
        let location = store_location(self.store.as_deref());
        let store = if existing { store::open_existing(&location)? } else { store::open(&location)? };
        let place = store::Place::of(&location);
        if place.is_memory() {
            return Err(Error::usage("a store in memory keeps no batches, and they take hours").help("name a file"));
        }
        let watch = (!self.output.quiet).then(|| -> crate::batch::Watch { Arc::new(say) });
        let mut options = Options { lock: place.submitting_lock(), watch, ..Options::default() };
        change(&mut options);
        Ok(Batches::with_options(endpoints, store, options))
    }
}

impl Shared {
    /// The endpoints: those that were named, else those of the folder of a file of requests, or above it.
    fn endpoints(&self, file: Option<&Path>) -> Result<Endpoints> {
        let folder = file.and_then(Path::parent).unwrap_or(Path::new("."));
        let endpoints = self.endpoints.clone().or_else(|| Endpoints::find(folder));
        Endpoints::of_file(endpoints.as_deref())
    }

    fn open(&self, endpoints: Endpoints, existing: bool, change: impl FnOnce(&mut Options)) -> Result<Batches> {
        self.kept.open(endpoints, existing, |options| {
            options.keep_files = self.keep_files;
            options.grace = Duration::from_secs(self.grace);
            change(options);
        })
    }
}

/// A line on standard error for every batch whose state changed.
fn say(batch: &Batch) {
    let id = batch.id.as_deref().map_or(String::new(), |id| format!(" {id}"));
    say!("batch {}{id} ({}, {} lines): {}", batch.number, batch.model, words::count(batch.lines), batch.state);
}

/// Runs it.
pub fn run(arguments: BatchArguments) -> Result<u8> {
    match arguments.command {
        Command::Create(arguments) => create(&arguments),
        Command::Invoke(arguments) => invoke(&arguments),
        Command::Status(arguments) => status(&arguments),
        Command::Retrieve(arguments) => retrieve(&arguments),
        Command::List(arguments) => list(&arguments),
        Command::Cancel(arguments) => cancel(&arguments),
    }
}

/// Runs work that Ctrl-C ends at once: whatever is out stays out, and the next command goes on.
fn interruptible<T>(quiet: bool, work: impl Future<Output = Result<T>>) -> Result<T> {
    let stop = Arc::new(Stop::default());
    let pressed = stop.clone();
    let work = async move {
        tokio::select! {
            outcome = work => outcome,
            () = pressed.until_asked() => {
                Err(Error::new(Fault::Interrupted, "interrupted; what is out stays out").help("the same command goes on"))
            }
        }
    };
    with_runtime(quiet, work, stop)
}

fn create(arguments: &CreateArguments) -> Result<u8> {
    let (shared, budget) = (&arguments.shared, arguments.buying.budget);
    let endpoints = shared.endpoints(Some(&arguments.file))?;
    let asks = input::read_for(&arguments.file, &endpoints)?;
    let batches = shared.open(endpoints, false, |options| {
        (options.budget, options.retry_failed) = (budget, arguments.buying.retry_failed);
    })?;
    if arguments.dry_run {
        let estimate = batches.estimate(&asks)?;
        if shared.kept.output.json {
            print_json(&estimate)?;
        } else {
            print(&format!(
                "{} requests, {} to send for {} completions: at most ${} by batch (${} by ordinary requests).",
                words::count(estimate.requests as u64),
                words::count(estimate.to_send as u64),
                words::count(estimate.completions),
                estimate.worst_usd,
                estimate.worst_without_batches_usd
            ))?;
        }
        return Ok(0);
    }
    let (created, status) = interruptible(shared.kept.output.quiet, async {
        let created = batches.create(&asks).await?;
        let status = batches.list().await?.into_iter().find(|status| status.job == created.job);
        Ok((created, status.ok_or_else(|| Error::internal("the job is gone"))?))
    })?;
    show(shared, &status, &created.left, None)?;
    Ok(if created.left.is_empty() { 0 } else { Fault::Budget.exit_code() })
}

fn invoke(arguments: &InvokeArguments) -> Result<u8> {
    let (shared, budget) = (&arguments.shared, arguments.buying.budget);
    let endpoints = shared.endpoints(Some(&arguments.file))?;
    let asks = input::read_for(&arguments.file, &endpoints)?;
    let batches = shared.open(endpoints, false, |options| {
        (options.budget, options.retry_failed) = (budget, arguments.buying.retry_failed);
        (options.poll, options.max_wait) = (arguments.poll, arguments.max_wait);
        options.max_attempts = arguments.max_attempts;
    })?;
    let (status, left) = interruptible(shared.kept.output.quiet, batches.wait_for(&asks))?;
    deliver(shared, &batches, &status, &left, arguments.out.as_deref())?;
    match left.is_empty() {
        true => answered(&batches, &status),
        false => Ok(Fault::Budget.exit_code()),
    }
}

fn status(arguments: &StatusArguments) -> Result<u8> {
    let shared = &arguments.shared;
    let batches = shared.open(shared.endpoints(None)?, true, |_| {})?;
    let statuses = interruptible(shared.kept.output.quiet, async {
        let jobs = match &arguments.job {
            Some(job) => vec![job.clone()],
            None => batches.list().await?.into_iter().filter(|job| !job.over()).map(|job| job.job).collect(),
        };
        let mut statuses = Vec::new();
        for job in &jobs {
            statuses.push(batches.status(job).await?);
        }
        Ok(statuses)
    })?;
    listed(&shared.kept, &statuses, "Nothing is out.")
}

fn list(arguments: &ListArguments) -> Result<u8> {
    let kept = &arguments.kept;
    // Nobody is asked, so nobody's address is needed.
    let batches = kept.open(Endpoints::standard(), true, |_| {})?;
    let statuses = interruptible(kept.output.quiet, batches.list())?;
    listed(kept, &statuses, "There are no jobs.")
}

fn retrieve(arguments: &RetrieveArguments) -> Result<u8> {
    let shared = &arguments.shared;
    let file = Path::new(&arguments.job);
    let is_file = file.is_file();
    let endpoints = shared.endpoints(is_file.then_some(file))?;
    // The requests as they were asked.
    let asks = if is_file { Some(input::read_for(file, &endpoints)?) } else { None };
    let batches = shared.open(endpoints, true, |_| {})?;
    let status = interruptible(shared.kept.output.quiet, async {
        let job = match &asks {
            Some(asks) => batches.job_of(asks)?,
            None => arguments.job.clone(),
        };
        batches.status(&job).await
    })?;
    deliver(shared, &batches, &status, &[], arguments.out.as_deref())?;
    answered(&batches, &status)
}

/// The exit code of a job whose answers were written: 5, and why, where it is over and not a single one is there.
fn answered(batches: &Batches, status: &JobStatus) -> Result<u8> {
    if status.answered > 0 || status.failed == 0 || !status.over() {
        return Ok(0);
    }
    let mut from = 0;
    loop {
        let page = batches.answers(&status.job, from, PAGE)?;
        let why = page.iter().find_map(|answer| match &answer.outcome {
            AnswerOutcome::Failed { failure, .. } => Some(failure),
            _ => None,
        });
        if let Some(why) = why {
            print_error(&Error::endpoint(format!("no request was answered; the first failed so: {why}")));
        }
        if why.is_some() || page.is_empty() {
            return Ok(Fault::Endpoint.exit_code());
        }
        from += page.len() as u64;
    }
}

fn cancel(arguments: &CancelArguments) -> Result<u8> {
    let shared = &arguments.shared;
    let batches = shared.open(shared.endpoints(None)?, true, |_| {})?;
    let status = interruptible(shared.kept.output.quiet, batches.cancel(&arguments.job))?;
    show(shared, &status, &[], None)?;
    Ok(0)
}

/// Writes the answers: into a file, which appears whole, or to standard output.
fn deliver(shared: &Shared, batches: &Batches, status: &JobStatus, left: &[String], out: Option<&Path>) -> Result<()> {
    let pages = |each: &mut dyn FnMut(&Answer) -> std::io::Result<()>| -> Result<std::io::Result<()>> {
        let mut from = 0;
        loop {
            let page = batches.answers(&status.job, from, PAGE)?;
            if page.is_empty() {
                return Ok(Ok(()));
            }
            from += page.len() as u64;
            if let Err(error) = page.iter().try_for_each(&mut *each) {
                return Ok(Err(error));
            }
        }
    };
    let Some(path) = out else {
        if shared.kept.output.json {
            let mut answers = Vec::new();
            let mut keep = |answer: &Answer| {
                answers.push(answer.to_json());
                Ok(())
            };
            drop(pages(&mut keep)?);
            return show(shared, status, left, Some(answers));
        }
        let mut out = std::io::stdout().lock();
        let mut line = |answer: &Answer| writeln!(out, "{}", answer.to_json());
        return match pages(&mut line)? {
            // A reader that went away (`| head`) is no error.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::internal(format!("standard output cannot be written: {error}")))
            }
            _ => {
                if !shared.kept.output.quiet {
                    say!("{}", text(status, left).trim_end());
                }
                Ok(())
            }
        };
    };
    let (output, file) = Output::create(path)?;
    let mut file = std::io::BufWriter::new(file);
    let mut line = |answer: &Answer| writeln!(file, "{}", answer.to_json());
    let written = pages(&mut line)?;
    written.and_then(|()| file.flush()).map_err(|error| cannot_write(path, &error))?;
    output.finish()?;
    show(shared, status, left, None)
}

fn show(shared: &Shared, status: &JobStatus, left: &[String], answers: Option<Vec<Value>>) -> Result<()> {
    if !shared.kept.output.json {
        return print(&text(status, left));
    }
    let mut json = serde_json::to_value(status).map_err(|error| Error::internal(error.to_string()))?;
    json["left"] = json!(left);
    if let Some(answers) = answers {
        json["answers"] = Value::Array(answers);
    }
    print_json(&json)
}

fn listed(kept: &Kept, statuses: &[JobStatus], none: &str) -> Result<u8> {
    if kept.output.json {
        print_json(&statuses)?;
        return Ok(0);
    }
    let texts: Vec<String> = statuses.iter().map(|status| text(status, &[])).collect();
    print(if texts.is_empty() { none.to_owned() } else { texts.join("\n") }.as_str())?;
    Ok(0)
}

/// A job for people: a line of counts and a table of its batches.
fn text(status: &JobStatus, left: &[String]) -> String {
    let mut counts = vec![format!("{} answered", words::count(status.answered))];
    for (count, what) in [(status.under_way, "under way"), (status.failed, "failed"), (status.unsent, "not sent")] {
        if count > 0 {
            counts.push(format!("{} {what}", words::count(count)));
        }
    }
    let held = if status.held_usd > Usd::ZERO { format!(", ${} held", status.held_usd) } else { String::new() };
    let mut text = format!(
        "{}: {} requests, {}; ${} spent{held}\n",
        words::line(&status.job),
        words::count(status.requests),
        counts.join(", "),
        status.spent_usd
    );
    if !status.batches.is_empty() {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(["batch", "id", "model", "state", "lines", "answered", "failed"]);
        for batch in &status.batches {
            table.add_row([
                batch.number.to_string(),
                words::line(batch.id.as_deref().unwrap_or("-")),
                words::line(&batch.model),
                words::line(&batch.state.to_string()),
                words::count(batch.lines),
                words::count(batch.answered),
                words::count(batch.failed),
            ]);
        }
        for at in [0, 4, 5, 6] {
            if let Some(column) = table.column_mut(at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines = table.to_string();
        text.extend(lines.lines().flat_map(|line| [line.trim_end(), "\n"]));
    }
    if !left.is_empty() {
        let shown: Vec<&str> = left.iter().take(20).map(String::as_str).collect();
        let more =
            if left.len() > shown.len() { format!(" and {} more", left.len() - shown.len()) } else { String::new() };
        text += &format!("The budget does not hold {} of them: {}{more}\n", left.len(), words::line(&shown.join(", ")));
    }
    text
}
