//! `farthing compare`: two configurations on the same instances.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::cli::arguments::{Common, SplitArgument, cap, number};
use crate::cli::subject::{self, Subject};
use crate::cli::{Embedded, colour, print, print_json, progress, with_runtime};
use crate::diagnostic::{Error, Fault, Result, suggestion};
use crate::evaluate::{Workload, capability};
use crate::money::Usd;
use crate::runner::{Purse, Runner};
use crate::space::Configuration;
use crate::store::{self, MemoryStore};
use crate::study::compare::{self, Compared, Gate};
use crate::study::fixed::FixedAgenda;
use crate::study::pipeline::{Ending, Pipeline, mostly_lost};
use crate::study::{Readers, Scored, Stop, Trial, order};
use crate::task::{self, Direction, Instance, Split};

const EXAMPLES: &str = "\
The difference is B less A, on the instances that both answered. What the store holds is not bought again, and --budget caps \
what is spent beyond that.

--fail-if-worse exits with 4 where the data show that B is worse: p is at most 0.05, and the whole 95 % interval of the \
difference lies below minus the margin. So a small loss on few instances passes. With --strict it is the other way round: it exits with 4 unless the data \
show that B is not worse by more than the margin, which needs a margin and enough instances. Both fail where B, and not A, \
misses more than 5 % of the instances for reasons of its own.

Examples:
  farthing compare results/exam-1 results/exam-2
  farthing compare prompts/now.toml prompts/new.toml --task tasks/exam --by topic
  farthing compare main.toml branch.toml --budget 0.50 --fail-if-worse --margin 0.02";

/// Arguments of `farthing compare`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = EXAMPLES,
    mut_arg("store", |store| store.help(
        "Where responses and the ledger are kept: a path, or `memory:` [default: the runs', where they have the same, else .farthing/store.db]"
    )),
    mut_arg("endpoints", |endpoints| endpoints.help(
        "Endpoints, models and prices [default: the runs', else farthing.toml in the task's folder, or above it up to the working folder]"
    ))
)]
pub struct CompareArguments {
    /// What there is: a run's folder (its winner), a best.toml, or a file with [config]
    #[arg(value_name = "A")]
    a: PathBuf,
    /// What may take its place
    #[arg(value_name = "B")]
    b: PathBuf,
    /// The task, where neither leads to it
    #[arg(long, value_name = "TASK")]
    task: Option<PathBuf>,
    /// Compare within the subgroups that this field of the instances makes, too
    #[arg(long, value_name = "FIELD")]
    by: Option<String>,
    /// Which instances [default: test, or tune where the task has no test split]
    #[arg(long, value_enum)]
    split: Option<SplitArgument>,
    /// Other instances than the task's: .jsonl, .csv or .parquet
    #[arg(long, value_name = "FILE", conflicts_with = "split")]
    data: Option<PathBuf>,
    /// Dollars that may be spent; what the store holds is free [default: not capped]
    #[arg(long, value_name = "USD", value_parser = cap, allow_hyphen_values = true)]
    budget: Option<Usd>,
    /// Exit with 4 where B is worse than A
    #[arg(long)]
    fail_if_worse: bool,
    /// So much worse is allowed, in units of the objective
    #[arg(
        long, value_name = "X", requires = "fail_if_worse", default_value_t = 0.0, value_parser = number, allow_hyphen_values = true
    )]
    margin: f64,
    /// Exit with 4 unless B is shown to be no worse than the margin allows
    #[arg(long, requires = "fail_if_worse")]
    strict: bool,
    /// Show at most so many changed instances of a kind; --json has them all
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,
    #[command(flatten)]
    common: Common,
}

/// One of the two.
#[derive(Serialize)]
struct Side {
    path: String,
    #[serde(flatten)]
    scored: Scored,
    /// It misses more than 5 % of the instances for reasons of its own.
    unreliable: bool,
    /// How often it failed, by reason.
    failures: BTreeMap<String, usize>,
}

/// The gate and how it went.
#[derive(Serialize)]
struct Gated {
    #[serde(flatten)]
    gate: Gate,
    failed: bool,
    reason: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    task: String,
    metric: String,
    direction: Direction,
    split: &'static str,
    a: Side,
    b: Side,
    /// The parameters that differ: what A has, and what B has.
    changes: BTreeMap<String, [serde_json::Value; 2]>,
    #[serde(flatten)]
    compared: Compared,
    by: Option<String>,
    not_reached: usize,
    gate: Option<Gated>,
    spent_usd: Usd,
    study_cost_usd: Usd,
    cache_hits: u64,
    notes: Vec<String>,
}

/// Runs it.
pub fn run(arguments: CompareArguments, embedded: &Embedded) -> Result<u8> {
    let common = &arguments.common;
    if arguments.margin < 0.0 {
        return Err(Error::usage(format!("the margin is {}, and must be at least 0", arguments.margin)));
    }
    let subjects = [Subject::at(&arguments.a)?, Subject::at(&arguments.b)?];
    let [a, b] = &subjects;
    let mut workload = subject::workload(embedded, arguments.task.as_deref(), &[a, b])?;
    let (split, instances) = instances(&arguments, &mut workload)?;
    check_field(arguments.by.as_deref(), &instances)?;
    let endpoints = subject::endpoints(common.place.endpoints.as_deref(), &workload, &[a, b])?;
    let asked = [a.asked(embedded, &workload)?, b.asked(embedded, &workload)?];
    let mut models = asked.each_ref().map(|asked| asked.model.clone()).to_vec();
    models.dedup();
    let capped = arguments.budget.is_some();
    let bounded = asked.iter().all(|asked| asked.bounded);
    let runner = Runner::open(MemoryStore::new(), &endpoints, &models, common.asking.concurrency(), capped, bounded)?;
    let mut plans = Vec::new();
    for asked in &asked {
        let plan = asked.plan(&runner)?;
        capability::check_plan(&plan)?;
        plan.request(&instances[0]).map_err(|failure| Error::usage(failure.message))?;
        plans.push(Arc::new(plan));
    }
    let notes = notes(&arguments, &subjects, split);
    if !capped && !common.output.quiet {
        say!("No --budget is given: this comparison is not capped.");
    }
    let seed = common.asking.random.seed();
    let scope: Arc<str> = crate::store::fresh_name("compare").into();
    let runner = runner.with_store(store::open_as(&subject::store(common, &[a, b]), common.asking.cache(), &scope)?);
    let stop = Arc::new(Stop::default());
    // What was paid for before is free: only new money is limited.
    let purse = Purse::new(arguments.budget, true, Usd::ZERO);
    let pipeline = Pipeline::fixed(&workload, &instances, runner, purse, &scope, &stop);
    let readers: Readers = if common.output.quiet { Vec::new() } else { vec![progress::display(instances.len() * 2)] };
    let order = order(&workload, &instances, seed);
    let mut agenda = FixedAgenda::new(plans, order, &pipeline, readers);
    let ending = with_runtime(common.output.quiet, pipeline.run(&mut agenda), stop)?;
    agenda.end();
    let [first, second] = &agenda.trials[..] else { return Err(Error::internal("a comparison needs two trials")) };
    let objective = &workload.task.objective;
    let compared = compare::trials(first, second, &instances, objective, arguments.by.as_deref(), seed);
    let gate = arguments.fail_if_worse.then(|| gate(&arguments, &compared, [first, second], objective.direction));
    let failed = gate.as_ref().is_some_and(|gate| gate.failed);
    let (paired, reached) = (compared.difference.as_ref().map_or(0, |known| known.pairs), agenda.reached());
    let side = |subject: &Subject, trial: &Trial| Side {
        path: subject.file.display().to_string(),
        scored: Scored::of(trial, trial.estimate(&objective.metric).as_ref()),
        unreliable: trial.unreliable(),
        failures: failures(trial),
    };
    let report = Report {
        task: workload.task.name.clone(),
        metric: objective.metric.clone(),
        direction: objective.direction,
        split,
        a: side(a, first),
        b: side(b, second),
        changes: changes(&first.configuration, &second.configuration),
        compared,
        by: arguments.by.clone(),
        not_reached: instances.len() - reached,
        gate,
        spent_usd: pipeline.runner.store().spent(&scope)?.total(),
        study_cost_usd: pipeline.purse.study_cost(),
        cache_hits: agenda.cache_hits(),
        notes,
    };
    match common.output.json {
        true => print_json(&report)?,
        false => print(&text::text(&report, arguments.limit, colour(&std::io::stdout())))?,
    }
    Ok(match ending {
        Ending::Interrupted => Fault::Interrupted.exit_code(),
        Ending::SpentOut { lost_to: Some(failure) } => return Err(mostly_lost(&failure)),
        _ if failed => Fault::Gate.exit_code(),
        _ if paired > 0 => 0,
        _ if reached == 0 => Fault::Budget.exit_code(),
        _ => Fault::Endpoint.exit_code(),
    })
}

/// The instances that are meant, and what to call them.
fn instances(arguments: &CompareArguments, workload: &mut Workload) -> Result<(&'static str, Arc<[Instance]>)> {
    let (name, instances) = match (&arguments.data, arguments.split) {
        (Some(data), _) => {
            let rows = task::data::load(data, workload.task.id.as_deref())?;
            *workload = workload.clone().with_test(rows)?;
            ("data", workload.task.test.clone())
        }
        (None, Some(SplitArgument::Tune)) => ("tune", workload.task.split(Split::Tune)),
        (None, None) if workload.task.test.is_empty() => ("tune", workload.task.split(Split::Tune)),
        (None, _) => ("test", workload.task.split(Split::Test)),
    };
    match instances.is_empty() {
        true => Err(Error::usage(format!("the task `{}` has no instances in that split", workload.task.name))),
        false => Ok((name, instances)),
    }
}

/// The field that makes subgroups must be one, and must not tell every instance from all others.
fn check_field(by: Option<&str>, instances: &[Instance]) -> Result<()> {
    let Some(by) = by else { return Ok(()) };
    if !instances.iter().any(|instance| instance.get(by).is_some()) {
        let known: BTreeSet<&str> =
            instances.iter().take(50).flat_map(|row| row.fields.keys().map(String::as_str)).collect();
        return Err(Error::usage(format!("no instance has a field `{by}`")).help(suggestion(by, known.iter().copied())));
    }
    let mut values: Vec<String> = instances.iter().map(|instance| compare::group_of(instance, by)).collect();
    values.sort();
    values.dedup();
    match values.len() == instances.len() && instances.len() > 1 {
        true => Err(Error::usage(format!("every instance has a `{by}` of its own, so it makes no subgroups"))
            .help("give a field that several instances share, like a topic or a source")),
        false => Ok(()),
    }
}

fn notes(arguments: &CompareArguments, subjects: &[Subject; 2], split: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if split == "tune" && subjects.iter().any(|subject| subject.study.is_some()) {
        notes.push(
            "These are the instances that a run's winner was chosen on, so they flatter it. Compare on held-out ones: \
             --split test, or --data FILE."
                .to_owned(),
        );
    }
    let mut stores = subjects.iter().filter_map(|subject| Some(&subject.study.as_ref()?.settings.store));
    if let (Some(one), Some(two), None) = (stores.next(), stores.next(), &arguments.common.place.store)
        && one != two
    {
        notes.push(format!(
            "The two runs have different stores ({one}, {two}), so what they paid for may be bought anew."
        ));
    }
    notes
}

/// Whether the gate fails: by the difference, or because B cannot be relied on.
fn gate(arguments: &CompareArguments, compared: &Compared, [a, b]: [&Trial; 2], direction: Direction) -> Gated {
    let gate = Gate { margin: arguments.margin, strict: arguments.strict };
    let unreliable = (b.unreliable() && !a.unreliable()).then(|| {
        let own = b.own_failures().count();
        format!("B misses {own} of {} instances for reasons of its own, and A does not", b.evaluations.len())
    });
    let reason = gate.failure(compared, direction).or(unreliable);
    Gated { gate, failed: reason.is_some(), reason }
}

fn failures(trial: &Trial) -> BTreeMap<String, usize> {
    let mut failures = BTreeMap::new();
    for failure in trial.evaluations.iter().filter_map(|done| done.result.as_ref().err()) {
        *failures.entry(failure.kind.word().to_owned()).or_insert(0) += 1;
    }
    failures
}

/// The parameters in which two configurations differ; what one does not have is null.
fn changes(a: &Configuration, b: &Configuration) -> BTreeMap<String, [serde_json::Value; 2]> {
    let value = |of: &Configuration, name: &str| of.get(name).cloned().unwrap_or_default();
    let names = a.0.keys().chain(b.0.keys());
    let pairs = names.map(|name| (name.clone(), [value(a, name), value(b, name)]));
    pairs.filter(|(_, [a, b])| a != b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_nobody_has_is_told_what_there_is_once() {
        let row = |id: u64| {
            let fields = serde_json::json!({"answer": id, "topic": "x"});
            Instance::new(id.to_string(), fields.as_object().cloned().unwrap_or_default())
        };
        let rows: Vec<Instance> = (0..30).map(row).collect();
        let error = check_field(Some("nokey"), &rows).unwrap_err();
        assert_eq!(error.message(), "no instance has a field `nokey`");
        assert_eq!(error.advice(), Some("there are `answer`, `topic`"));
        assert!(check_field(Some("topic"), &rows).is_ok());
    }
}
