//! Experiments from files: one prompt a row, asked by groups under their limits, with rounds of attempts, a budget, and an
//! output folder that is gone on with where it was interrupted.
//!
//! ```
//! # #[tokio::main(flavor = "multi_thread", worker_threads = 1)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use farthing::experiment::Experiment;
//! # let home = tempfile::tempdir()?;
//! # let (file, out) = (home.path().join("sums.jsonl"), home.path().join("out"));
//! std::fs::write(&file, r#"{"id": "a", "prompt": "What is 2 + 2?", "answer": 4, "model": "mock-small"}"#)?;
//! let done = Experiment::builder(&file)
//!     .endpoints(farthing::backend::Endpoints::mock())
//!     .in_memory()
//!     .out(&out)
//!     .metric("numeric:expected={{ answer }}")
//!     .function("words", |answer| {
//!         let words = answer.samples[0].text.split_whitespace().count();
//!         answer.scores.insert("words".to_owned(), words as f64);
//!         Ok(())
//!     })
//!     .build()?
//!     .run()
//!     .await?;
//! assert_eq!(done.summary.answered, 1);
//! assert!(out.join("results.jsonl").is_file());
//! # Ok(()) }
//! ```
//!
//! [`row`] says what a row asks for, [`apis`] who is asked, [`index`] looks at all rows before anything is sent, [`engine`]
//! is the loop, [`health`] who of those that answer is there, [`ask`] one row, [`chain`] what is done with its answer, [`folder`] and [`results`] what is kept.
//! [`judge`] and [`rephrase`] make experiments of others; [`pipeline`] runs what is put into a folder.

pub mod apis;
pub mod ask;
pub mod asked;
mod builder;
pub mod chain;
pub mod engine;
pub mod fields;
pub mod folder;
pub mod groups;
pub mod health;
pub mod index;
pub mod input;
pub mod judge;
pub mod pipeline;
pub mod rephrase;
pub mod results;
pub mod row;
pub mod scale;
mod serve;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use regex::Regex;

pub use builder::ExperimentBuilder;
pub use chain::{Answer, Declared, Step};
pub use engine::{Progress, Watcher};
pub use folder::Settings;
pub use groups::MaxQueries;
pub use results::{Group, Summary};
pub use scale::Scale;

use crate::backend::Endpoints;
use crate::diagnostic::{Error, Fault, Result, suggestion};
use crate::prompt::{Body, Fields, Prompt, Template};
use crate::provider::{FailureKind, Message};
use crate::runner::{Purse, Runner};
use crate::store::{self, MemoryStore};
use apis::Apis;
use ask::Shared;
use engine::{Engine, Plan};
use folder::{ExperimentFile, Folder, Record};
use index::{Index, Look};

/// What is told before anything is sent.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The folder.
    pub folder: PathBuf,
    /// Each group with its queries and its rate, in words.
    pub groups: Vec<String>,
    /// Rows that are wrong: the first of them, with their lines.
    pub wrong: Vec<String>,
    /// How many are.
    pub wrong_rows: usize,
    /// Rows that are done already.
    pub done: usize,
    /// Rows that ask the same as an earlier one.
    pub duplicates: usize,
    /// Rows in prompto's form with the id of an earlier one.
    pub same_ids: usize,
}

/// An experiment, ready to run.
pub struct Experiment {
    builder: ExperimentBuilder,
}

/// What an experiment came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What `summary.json` says.
    pub summary: Summary,
}

impl Outcome {
    /// What the program's exit code says of it, where it is not 0.
    pub fn fault(&self) -> Option<Fault> {
        let summary = &self.summary;
        match summary.stop_reason.as_str() {
            "interrupted" => Some(Fault::Interrupted),
            // Whatever else was answered.
            _ if !summary.not_usable.is_empty() => Some(Fault::Endpoint),
            "budget" if summary.answered == 0 => Some(Fault::Budget),
            _ if summary.answered == 0 => Some(Fault::Endpoint),
            _ => None,
        }
    }
}

/// Why a model is not asked any more, though its endpoint is there.
const ROWS_OWN: [FailureKind; 2] = [FailureKind::UnknownModel, FailureKind::BadRequest];

impl Experiment {
    /// Begins one of a file's rows.
    pub fn builder(input: impl Into<PathBuf>) -> ExperimentBuilder {
        ExperimentBuilder::new(input.into())
    }

    /// Goes on with the experiment of a folder: its input, settings, store and budget are those that it began with.
    pub fn resume(folder: &Path) -> Result<ExperimentBuilder> {
        let file = folder::load(folder)?;
        let mut builder = Experiment::builder(&file.input);
        builder.input = None;
        builder.settings = file.settings;
        builder.location = file.store;
        builder.cache = file.cache;
        builder.budget = file.budget;
        builder.out = Some(folder.to_owned());
        let beside = file.input.parent().unwrap_or(Path::new("."));
        let endpoints = file.endpoints.filter(|path| path.is_file()).or_else(|| Endpoints::find(beside));
        builder.endpoints = endpoints.map(|path| Endpoints::load(&path)).transpose()?;
        Ok(builder)
    }

    /// The folder that is gone on with, where there is one, and the rows that are done there.
    fn open(&mut self) -> Result<(Folder, std::collections::BTreeMap<u32, Record>, bool)> {
        let out = self.builder.out.clone();
        if let Some(out) = out.as_deref().filter(|out| out.join(folder::FILE).is_file()) {
            let (mut folder, records) = Folder::open(out)?;
            self.check_same(&folder.file)?;
            if folder::hash(&folder.input())? != folder.file.input_hash {
                return Err(Error::usage(format!("{} was changed since it was asked", folder.input().display())));
            }
            // What it may cost was said once.
            self.builder.budget = self.builder.budget.or(folder.file.budget);
            let builder = &self.builder;
            if builder.budget != folder.file.budget {
                folder.set_budget(builder.budget)?;
            }
            return Ok((folder, records, false));
        }
        let builder = &self.builder;
        let Some(input) = &builder.input else {
            return Err(Error::internal("an experiment without an input has a folder"));
        };
        let name = builder.name.clone().unwrap_or_else(|| input::stem(input));
        let copy = input.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = ExperimentFile {
            farthing: env!("CARGO_PKG_VERSION").to_owned(),
            experiment: store::fresh_name("experiment"),
            name,
            input: std::path::absolute(input).unwrap_or_else(|_| input.clone()),
            input_file: format!("input-{copy}"),
            input_hash: String::new(),
            store: builder.location.clone(),
            cache: builder.cache,
            endpoints: builder.endpoints.as_ref().and_then(|endpoints| {
                let path = PathBuf::from(endpoints.source.as_ref()?.name());
                std::path::absolute(path).ok()
            }),
            budget: builder.budget,
            settings: builder.settings.clone(),
        };
        Ok((Folder::create(out.as_deref(), &builder.parent, file)?, Default::default(), true))
    }

    /// What is gone on with must be what it was; only the budget may rise.
    fn check_same(&self, file: &ExperimentFile) -> Result<()> {
        let builder = &self.builder;
        let out = builder.out.as_deref().unwrap_or(Path::new(""));
        let other = |what: &str| {
            Err(Error::usage(format!("{} holds another experiment: its {what} is not the same", out.display()))
                .help(format!("give another --out; or go on with that one: farthing run --resume {}", out.display())))
        };
        if let Some(input) = &builder.input
            && input.is_file()
            && folder::hash(input)? != file.input_hash
        {
            return other("input");
        }
        if builder.settings.metrics != file.settings.metrics {
            return other("list of metrics");
        }
        if builder.settings.asked() != file.settings.asked() {
            return other("set of settings");
        }
        if builder.location != file.store {
            return other("store");
        }
        if builder.cache != file.cache {
            return other("use of the store (--no-cache, --refresh)");
        }
        match (builder.budget, file.budget) {
            (Some(now), Some(then)) if now < then => {
                Err(Error::usage(format!("the budget of {} was ${then}, and may only rise", out.display())))
            }
            _ => Ok(()),
        }
    }

    /// Runs it: all rows that are not done.
    pub async fn run(mut self) -> Result<Outcome> {
        let begin = Instant::now();
        let (mut folder, done, fresh) = self.open()?;
        let input = folder.rows();
        let looked = input.and_then(|input| self.look(&mut folder, input, &done));
        let Looked { index, runner, input, endpoints, steps, defaults, mut records } = match looked {
            Ok(looked) => looked,
            Err(error) => {
                // Nothing was sent: a folder that was just made says nothing.
                if fresh {
                    folder.take_back();
                }
                return Err(error);
            }
        };
        let capped = self.builder.budget.is_some();
        let scope = folder.file.experiment.clone();
        let store = match &self.builder.store {
            Some(store) => store.clone(),
            None => store::open_as(&self.builder.location, self.builder.cache, &scope)?,
        };
        let before = store.spent(&scope)?;
        let order: Vec<u32> = index.order.iter().copied().filter(|row| records[*row as usize].is_none()).collect();
        let mut queues = index.queues;
        for &row in &order {
            let entry = index.entries[row as usize];
            let queued = &mut queues[entry.queue as usize].1;
            queued.queries += 1;
            *queued.models.entry(index.services[entry.service as usize].model.name.clone()).or_insert(0) += 1;
        }
        let settings = self.builder.settings.clone();
        let duplicates = index.repeats.len();
        let beginning = Beginning {
            folder: folder.path().to_owned(),
            groups: queues
                .iter()
                .filter(|(_, queued)| queued.queries > 0)
                .map(|(name, queued)| queued.words(name))
                .collect(),
            wrong: index.wrong.iter().map(|(line, fault)| format!("{}:{line}: {fault}", input.name())).collect(),
            wrong_rows: index.wrong_rows,
            done: records.iter().flatten().count().saturating_sub(index.wrong_rows),
            duplicates: if settings.distinct { 0 } else { duplicates },
            same_ids: index.same_ids,
        };
        folder.log(&format!(
            "{}: {} rows, {} to be asked",
            if fresh { "begins" } else { "goes on" },
            index.entries.len(),
            order.len()
        ));
        beginning.groups.iter().for_each(|line| folder.log(line));
        beginning.wrong.iter().for_each(|line| folder.log(line));
        if let Some(told) = &mut self.builder.told {
            told(&beginning);
        }
        let purse = Purse::with_limits(None, self.builder.budget, true, before.total());
        let shared = Arc::new(Shared {
            input,
            entries: index.entries,
            repeats: if settings.distinct { index.repeats } else { Default::default() },
            defaults,
            endpoints,
            services: index.services,
            runner: runner.with_store(store.clone()),
            purse,
            capped,
            scope: scope.clone(),
            steps,
        });
        let plan = Plan {
            order,
            queues: queues.len(),
            attempts: settings.attempts(),
            sequential: settings.sequential,
            concurrency: self.builder.concurrency,
            stop: self.builder.stop.clone(),
            watcher: self.builder.watcher.take(),
            progress: Progress {
                rows: records.len(),
                done: records.iter().flatten().count(),
                failed: index.wrong_rows,
                budget: self.builder.budget,
                ..Progress::default()
            },
        };
        let ended = Engine::new(shared.clone(), &mut folder, &mut records, plan).run().await?;
        let seconds = begin.elapsed().as_secs_f64();
        let spent = store.spent(&scope)?;
        let mut summary = Summary {
            experiment: folder.file.name.clone(),
            folder: folder.path().to_owned(),
            stop_reason: match &ended {
                ended if ended.interrupted => "interrupted",
                // A model that there is not, or takes no such request, is the rows' own fault.
                ended if ended.out.iter().any(|(_, failure, _)| !ROWS_OWN.contains(&failure.kind)) => "outage",
                ended if ended.over_budget => "budget",
                _ => "done",
            }
            .to_owned(),
            refusal: ended.refusal.clone(),
            rows: records.len(),
            not_reached: records.iter().filter(|record| record.is_none()).count(),
            duplicates,
            budget_usd: self.builder.budget,
            spent_usd: spent.total(),
            lost_usd: spent.lost,
            requests: ended.requests,
            cache_hits: ended.cached,
            attempts: ended.attempts,
            seconds,
            seconds_per_query: (ended.attempts > 0).then(|| seconds / ended.attempts as f64),
            not_usable: ended.out.iter().map(|(model, failure, _)| (model.clone(), failure.to_string())).collect(),
            not_usable_rows: ended.out.iter().map(|(model, _, rows)| (model.clone(), *rows)).collect(),
            ..Summary::default()
        };
        for ((name, queued), end) in queues.into_iter().zip(&ended.queues) {
            let rows = end.answered + end.failed;
            let each = (rows > 0 && end.seconds > 0.0).then(|| end.seconds / rows as f64);
            let group = Group {
                queued,
                answered: end.answered,
                failed: end.failed,
                seconds: end.seconds,
                seconds_per_query: each,
            };
            summary.groups.insert(name, group);
        }
        results::write(&mut folder, &records, &mut summary)?;
        let text = serde_json::to_string_pretty(&summary).map_err(|error| Error::internal(error.to_string()))?;
        folder.write("summary.json", format!("{text}\n"))?;
        folder.log(&format!(
            "{}: {} answered, {} failed, {} not reached; ${} spent in all; {:.4} s a query",
            summary.stop_reason,
            summary.answered,
            summary.failed,
            summary.not_reached,
            summary.spent_usd,
            summary.seconds_per_query.unwrap_or(0.0)
        ));
        if self.builder.move_input && !ended.interrupted {
            folder.take_input()?;
        }
        Ok(Outcome { summary })
    }

    /// Looks at all rows, and at everything else that can be wrong before anything is sent.
    fn look(
        &mut self,
        folder: &mut Folder,
        input: input::Input,
        done: &std::collections::BTreeMap<u32, Record>,
    ) -> Result<Looked> {
        let settings = self.builder.settings.clone();
        let (steps, needs) = self.steps(&settings)?;
        // A scale reads the answer alone.
        let reads_all = steps.iter().any(|step| !matches!(step, Step::Scale(..)));
        let defaults = row::Defaults { reads_all, ..defaults(&settings)? };
        let endpoints = self.builder.endpoints.take().ok_or_else(|| Error::internal("an experiment has endpoints"))?;
        let capped = self.builder.budget.is_some();
        let runner = Runner::new(MemoryStore::new(), self.builder.concurrency);
        let mut apis = Apis::new(endpoints);
        let look = Look { input: &input, settings: &settings, defaults: &defaults, runner: &runner, capped };
        // Records of rows that are wrong, unless they have one.
        let mut wrong = Vec::new();
        let index = index::index(&look, &mut apis, |row, fault, read| {
            let known = match done.get(&row) {
                Some(known) => *known,
                None if settings.strict => Record { offset: 0, lasting: 0, again: true },
                None => {
                    let landed = ask::wrong(row, fault, read);
                    folder.complete(&landed.lasting, &ask::run_part(&landed, 0, true), true)?
                }
            };
            wrong.push((row, known));
            Ok(())
        })?;
        if index.wrong_rows > 0 && (settings.strict || index.order.is_empty()) {
            return Err(index::refusal(input.name(), &index.wrong, index.wrong_rows));
        }
        let mut known: Vec<&str> = apis::names().collect();
        known.extend(apis.endpoints.list.iter().map(|endpoint| endpoint.name.as_str()));
        let is_model = |name: &str| {
            crate::models::known(None, name).is_some() || apis.endpoints.named().any(|model| model.name == name)
        };
        for unused in settings.max_queries.unused(&index.groups, &known, is_model)? {
            tracing::warn!("--max-queries limits {unused}");
        }
        for (metric, column) in needs {
            let added = ["response", "id"].contains(&column.as_str())
                || (column == "model" && defaults.model.is_some())
                || (column == "prompt" && defaults.template.is_some());
            if !added && !index.columns.contains(&column) {
                return Err(Error::usage(format!(
                    "the metric `{metric}` needs the column `{column}`, and no row has it"
                ))
                .help(suggestion(&column, index.columns.iter().map(String::as_str))));
            }
        }
        let mut records: Vec<Option<Record>> = vec![None; index.entries.len()];
        for (row, record) in done {
            match records.get_mut(*row as usize) {
                Some(place) => *place = Some(*record).filter(|record| !record.again),
                None => return Err(Error::usage("completed.jsonl holds a row that the input has not")),
            }
        }
        for (row, record) in wrong {
            records[row as usize] = Some(record);
        }
        folder.flush()?;
        Ok(Looked { index, runner, input, endpoints: apis.endpoints, steps, defaults, records })
    }

    /// The steps of the evaluation in their order, and the columns that metrics need.
    fn steps(&self, settings: &Settings) -> Result<(Vec<Step>, Vec<Need>)> {
        let (mut steps, mut needs) = (Vec::new(), Vec::new());
        let mut functions = self.builder.functions.iter().peekable();
        for at in 0..=settings.metrics.len() {
            while let Some((_, name, function)) = functions.next_if(|(place, _, _)| *place <= at) {
                steps.push(Step::Function(name.clone(), function.clone()));
            }
            let Some(declared) = settings.metrics.get(at) else { break };
            if settings.metrics[..at].iter().any(|earlier| earlier.name == declared.name) {
                return Err(
                    Error::usage(format!("two metrics are called `{}`", declared.name)).help(declared.renamed())
                );
            }
            let built = declared.build()?;
            built.prepare()?;
            needs.extend(built.fields.keys().map(|column| (declared.name.clone(), column.clone())));
            steps.push(Step::Metric(declared.name.clone(), built.metric));
        }
        if let Some(scale) = &settings.scale {
            let regex = settings.extract.as_deref().map(Regex::new).transpose();
            let regex = regex.map_err(|error| Error::usage(format!("--extract is no pattern: {error}")))?;
            steps.push(Step::Scale(scale.clone(), regex));
        }
        Ok((steps, needs))
    }
}

/// What was found before anything is sent.
struct Looked {
    index: Index,
    runner: Runner,
    input: input::Input,
    endpoints: Endpoints,
    steps: Vec<Step>,
    defaults: row::Defaults,
    /// The rows that are done.
    records: Vec<Option<Record>>,
}

/// A metric and a column that it needs.
type Need = (String, String);

/// What rows do not say, from what was set.
fn defaults(settings: &Settings) -> Result<row::Defaults> {
    let compile = |text: &str| {
        Template::compile(text).map_err(|problem| Error::usage(format!("the template cannot be read: {problem}")))
    };
    let template = match (&settings.template, settings.messages.as_slice()) {
        (Some(text), _) => Some(Body::Template(compile(text)?)),
        (None, []) => None,
        (None, messages) => {
            let message = |message: &Message| Ok((message.role.clone(), compile(&message.content)?));
            Some(Body::Messages(messages.iter().map(message).collect::<Result<_>>()?))
        }
    };
    Ok(row::Defaults {
        model: settings.model.clone(),
        params: settings.params.clone(),
        template: template.map(|body| Prompt::new("template", body)),
        variables: Fields::new(&settings.variables),
        reads_all: false,
    })
}

/// The page about experiments: its Rust is a test.
#[cfg(doctest)]
#[doc = include_str!("../../docs/experiments.md")]
mod page {}
