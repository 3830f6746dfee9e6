//! `farthing doctor`: is all well? Configuration, keys, reachability, prices, store, disk, clock; nothing is spent.

mod reach;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use crate::backend::{Endpoint, Endpoints};
use crate::cli::arguments::store_location;
use crate::cli::{Embedded, colour, inputs, print, print_json};
use crate::diagnostic::{Error, Fault, Result};
use crate::evaluate::{Workload, capability};
use crate::files::cannot_write;
use crate::models;
use crate::report::table::plain_table;
use crate::report::words;
use crate::space::Space;
use crate::store::{self, MemoryStore};

const EXAMPLES: &str = "\
Nothing is sent that is billed: of an endpoint only its free list of models is asked. Keys are never shown. \
Exits with 0 where a study could begin, with 2 where something here is wrong, with 5 where an endpoint cannot be used.

Examples:
  farthing doctor                    what farthing.toml in this folder declares
  farthing doctor tasks/exam         all that tuning this task needs
  farthing doctor tasks/exam --offline";

/// Arguments of `farthing doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArguments {
    /// The task: a folder with a task.toml
    task: Option<PathBuf>,
    /// The search space [default: space.toml in the task's folder, else search_spaces/NAME.toml]
    #[arg(long, value_name = "FILE")]
    space: Option<PathBuf>,
    /// Endpoints, models and prices [default: farthing.toml in the task's folder, or above it up to the working folder]
    #[arg(long, value_name = "FILE")]
    endpoints: Option<PathBuf>,
    /// The store [default: .farthing/store.db]
    #[arg(long, value_name = "PATH|URL")]
    store: Option<String>,
    /// Ask no endpoint
    #[arg(long)]
    offline: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warning,
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    /// `task`, `endpoint`, `key`, ...
    about: &'static str,
    status: Status,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// What the program exits with, were this the only problem.
    #[serde(skip)]
    fault: Fault,
}

impl Check {
    fn ok(about: &'static str, message: impl Into<String>) -> Check {
        Check { about, status: Status::Ok, message: message.into(), help: None, fault: Fault::Usage }
    }

    fn warning(about: &'static str, message: impl Into<String>, help: impl Into<String>) -> Check {
        Check { status: Status::Warning, help: Some(help.into()), ..Check::ok(about, message) }
    }

    fn problem(about: &'static str, error: &Error) -> Check {
        let place = error.location().map_or(String::new(), |place| format!("{place}: "));
        let help = error.advice().map(str::to_owned);
        Check {
            status: Status::Problem,
            help,
            fault: error.fault(),
            ..Check::ok(about, format!("{place}{}", error.message()))
        }
    }
}

/// Runs it.
pub fn run(arguments: &DoctorArguments, embedded: &Embedded) -> Result<u8> {
    let mut checks = Vec::new();
    let workload = task(arguments, embedded, &mut checks);
    let space = workload.as_ref().and_then(|workload| space(arguments, embedded, workload, &mut checks));
    if let Some(endpoints) = endpoints(arguments, workload.as_ref(), &mut checks) {
        let models: Option<Vec<String>> = space.as_ref().map(Space::models);
        prices(&endpoints, models.as_deref(), &mut checks);
        if let Some(space) = &space {
            together(&endpoints, space, &mut checks);
        }
        let used = used(&endpoints, models.as_deref());
        let all = endpoints.list.iter().enumerate().zip(used);
        // What nobody named and nothing asks is of no interest.
        let asked: Vec<(usize, &Endpoint, bool)> = all
            .filter(|((_, endpoint), used)| match models {
                Some(_) => *used || named(&endpoints, endpoint),
                None => !endpoint.implied && !endpoints.unnamed,
            })
            .map(|((at, endpoint), used)| (at, endpoint, used))
            .collect();
        checks.extend(reach::all(&asked, models.as_deref().unwrap_or_default(), &endpoints, arguments.offline)?);
    }
    store(&store_location(arguments.store.as_deref()), &mut checks);
    clock(&mut checks);
    match arguments.json {
        true => print_json(&checks)?,
        false => print(&text(&checks, colour(&std::io::stdout())))?,
    }
    let faults: Vec<Fault> =
        checks.iter().filter(|check| check.status == Status::Problem).map(|check| check.fault).collect();
    Ok(match faults.iter().find(|fault| **fault != Fault::Endpoint).or(faults.first()) {
        None => 0,
        Some(Fault::Endpoint) => Fault::Endpoint.exit_code(),
        Some(_) => Fault::Usage.exit_code(),
    })
}

fn text(checks: &[Check], colour: bool) -> String {
    let mut table = plain_table(["", "about", "what was found"], 0);
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "PROBLEM",
        };
        let help = check.help.as_ref().map_or(String::new(), |help| format!("\n-> {}", words::line(help)));
        table.add_row([status.to_owned(), check.about.to_owned(), format!("{}{help}", words::line(&check.message))]);
    }
    let paint = |line: &str| match line.split_whitespace().next() {
        Some("PROBLEM") if colour => format!("\u{1b}[1;31m{line}\u{1b}[0m\n"),
        Some("warning") if colour => format!("\u{1b}[33m{line}\u{1b}[0m\n"),
        _ => format!("{line}\n"),
    };
    let mut text: String = table.lines().map(|line| paint(line.trim_end())).collect();
    let count = |status: Status| checks.iter().filter(|check| check.status == status).count() as u64;
    text += &match (count(Status::Problem), count(Status::Warning)) {
        (0, 0) => "All is well.".to_owned(),
        (0, warnings) => format!("No problem, {}.", words::plural(warnings, "warning")),
        (problems, _) => format!("{}.", words::plural(problems, "problem")),
    };
    text + "\n"
}

fn task(arguments: &DoctorArguments, embedded: &Embedded, checks: &mut Vec<Check>) -> Option<Workload> {
    if arguments.task.is_none() && embedded.workload.is_none() {
        return None;
    }
    match inputs::workload(embedded, arguments.task.as_deref()) {
        Ok(workload) => {
            let task = &workload.task;
            let counts = [&task.tune, &task.test].map(|split| words::count(split.len() as u64));
            checks.push(Check::ok(
                "task",
                format!("`{}`: {} tuning and {} test instances", task.name, counts[0], counts[1]),
            ));
            if let Some((few, help)) = inputs::few_held_out(task) {
                checks.push(Check::warning("task", few, help));
            }
            Some(workload)
        }
        Err(error) => {
            checks.push(Check::problem("task", &error));
            None
        }
    }
}

fn space(
    arguments: &DoctorArguments,
    embedded: &Embedded,
    workload: &Workload,
    checks: &mut Vec<Check>,
) -> Option<Space> {
    let found = inputs::space(embedded, workload, arguments.space.as_deref()).and_then(|(space, path)| {
        space.check_satisfiable()?;
        workload.check_space(&space)?;
        Ok((space, path))
    });
    match found {
        Ok((space, path)) => {
            let place = path.map_or("the program's own".to_owned(), |path| path.display().to_string());
            let size = space.size().map_or("endless".to_owned(), |size| format!("at most {size} configurations"));
            checks.push(Check::ok("space", format!("{place}: {size}, models {}", space.models().join(", "))));
            Some(space)
        }
        Err(error) => {
            checks.push(Check::problem("space", &error));
            None
        }
    }
}

fn endpoints(arguments: &DoctorArguments, workload: Option<&Workload>, checks: &mut Vec<Check>) -> Option<Endpoints> {
    // Beside the task, though it be broken.
    let asked = arguments.task.as_deref().map(|task| if task.is_dir() { task } else { task.parent().unwrap_or(task) });
    let folder = workload.map(|workload| workload.task.folder.as_path()).or(asked);
    let folder = folder.unwrap_or(Path::new("."));
    let found = arguments.endpoints.clone().or_else(|| Endpoints::find(folder));
    match found.as_deref().map(Endpoints::load).transpose() {
        Ok(Some(endpoints)) => {
            let place = found.unwrap_or_default();
            let own = endpoints.list.iter().filter(|endpoint| named(&endpoints, endpoint));
            let names = own.map(|endpoint| endpoint.name.as_str()).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "names no endpoint".to_owned() } else { format!("endpoints {names}") };
            let shown = place.strip_prefix(std::env::current_dir().unwrap_or_default()).unwrap_or(&place);
            checks.push(Check::ok("farthing.toml", format!("{}: {names}", shown.display())));
            Some(endpoints)
        }
        Ok(None) => {
            checks.push(Check::ok(
                "farthing.toml",
                "there is none: OpenAI's models are asked there, local ones in this process",
            ));
            Some(Endpoints::standard())
        }
        Err(error) => {
            checks.push(Check::problem("farthing.toml", &error));
            None
        }
    }
}

/// Somebody wrote it down.
fn named(endpoints: &Endpoints, endpoint: &Endpoint) -> bool {
    !endpoint.implied && !endpoints.unnamed && endpoints.source.is_some()
}

/// Which endpoints are asked by these models; all where no model is named.
fn used(endpoints: &Endpoints, models: Option<&[String]>) -> Vec<bool> {
    let mut used = vec![models.is_none() && endpoints.source.is_some(); endpoints.list.len()];
    for model in models.into_iter().flatten().filter_map(|model| endpoints.model(model).ok()) {
        model.endpoints.iter().for_each(|&at| used[at] = true);
    }
    used
}

fn prices(endpoints: &Endpoints, models: Option<&[String]>, checks: &mut Vec<Check>) {
    let named: Vec<String> = match models {
        Some(models) => models.to_vec(),
        None => endpoints.named().map(|model| model.name.clone()).collect(),
    };
    for name in named {
        let model = match endpoints.model(&name) {
            Ok(model) => model,
            Err(error) => {
                checks.push(Check::problem("price", &error));
                continue;
            }
        };
        if let Some(absent) = model.absent() {
            checks.push(Check::warning("model", absent.message(), absent.advice().unwrap_or_default()));
        }
        let per_million = |price: crate::money::Usd| words::dollars(price.times(1_000_000));
        match model.price {
            Some(price) => {
                let limit = model.max_output_tokens.or(model.context_window);
                let limit = limit.map_or("no limit known".to_owned(), |limit| format!("at most {} tokens", words::count(limit)));
                checks.push(Check::ok(
                    "price",
                    format!(
                        "`{name}`: {} and {} per million tokens in and out; a completion has {limit}",
                        per_million(price.input),
                        per_million(price.output)
                    ),
                ));
            }
            None => checks.push(Check::problem(
                "price",
                &Error::usage(format!("no price is known of the model `{name}`, so no budget can hold")).help(format!(
                    "add to farthing.toml: [models.\"{name}\"] with price = {{ input = 0.15, output = 0.60 }} in dollars per million tokens; 0 is a price too"
                )),
            )),
        }
    }
}

/// Whether the space and who answers fit each other, as a study would find out.
fn together(endpoints: &Endpoints, space: &Space, checks: &mut Vec<Check>) {
    let known = |check: &Check| check.about == "price" && check.status == Status::Problem;
    if checks.iter().any(known) {
        return;
    }
    // What is not on this machine was said, and is not downloaded to look at it.
    let absent = |name: &String| endpoints.model(name).is_ok_and(|model| model.absent().is_some());
    let opened = match space.models().iter().any(absent) {
        true => Ok(()),
        false => crate::study::open_for(space, &endpoints.clone().idle(), MemoryStore::new()).map(drop),
    };
    let fits = opened.and_then(|()| capability::check_space(space, |model| capability::of(endpoints, model)));
    if let Err(error) = fits {
        checks.push(Check::problem("space", &error));
    }
}

/// So little room is a warning: a large study writes about so much.
const LITTLE_ROOM: u64 = 1 << 30;

fn store(location: &str, checks: &mut Vec<Check>) {
    let Some(path) = store::Place::of(location).file() else {
        checks.push(match store::open(location) {
            Ok(_) => Check::warning("store", format!("{location} keeps nothing"), "what is bought is lost at the end"),
            Err(error) => Check::problem("store", &error),
        });
        return;
    };
    let folder = path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let state = match path.exists() {
        true => store::open_existing(location)
            .and_then(|store| store.contents())
            .and_then(|_| {
                let opened = std::fs::OpenOptions::new().append(true).open(path);
                opened.map_err(|error| cannot_write(path, &error))
            })
            .map(|_| "is there and can be written"),
        false => Ok("is not there yet and can be made"),
    };
    let state = state.and_then(|state| writable(folder).map(|()| state));
    checks.push(match state {
        Ok(state) => Check::ok("store", format!("{location} {state}")),
        Err(error) => Check::problem("store", &error),
    });
    match room(folder) {
        Some(bytes) if bytes < LITTLE_ROOM => checks.push(Check::warning(
            "disk",
            format!("{:.1} GB are free at {}", bytes as f64 / 1e9, folder.display()),
            "make room, or give --store on another disk: a run stops where nothing can be kept",
        )),
        Some(bytes) => checks.push(Check::ok("disk", format!("{:.1} GB are free", bytes as f64 / 1e9))),
        None => {}
    }
}

/// A file can be made in a folder.
fn writable(folder: &Path) -> Result<()> {
    let probe = folder.join(format!(".{}", store::fresh_name("farthing-doctor")));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&probe);
    drop(std::fs::remove_file(&probe));
    made.map(drop).map_err(|error| {
        Error::usage(format!("nothing can be written in {}: {error}", folder.display()))
            .help("give --store PATH, somewhere that can be written")
    })
}

#[cfg(unix)]
fn room(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    about.f_bavail.checked_mul(about.f_frsize)
}

#[cfg(not(unix))]
fn room(_folder: &Path) -> Option<u64> {
    None
}

/// A clock that is far off breaks TLS and the ages in the store.
fn clock(checks: &mut Vec<Check>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let shown = humantime::format_rfc3339_seconds(UNIX_EPOCH + now).to_string();
    checks.push(match shown.as_str() < models::as_of() {
        true => Check::warning("clock", format!("it says {shown}, before this program was made"), "set it"),
        false => Check::ok("clock", shown),
    });
}
