//! A task with its metrics built: what evaluations are judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::diagnostic::{Error, Result, nearest, suggestion};
use crate::metric::{self, FnMetric, IntoMetrics, Metric, Metrics};
use crate::provider::Sample;
use crate::space::Space;
use crate::task::{self, Direction, Instance, MetricTable, Objective, Split, Task, Then};

/// A task and the functions that judge it.
#[derive(Clone)]
pub struct Workload {
    /// The task.
    pub task: Arc<Task>,
    metrics: Vec<Arc<dyn Metric>>,
    /// The names of the metrics that are known beforehand; those of functions and programs are known when they speak.
    names: Vec<String>,
    /// The names of the values that are there for every instance that is judged, as far as they are known beforehand.
    outputs: Vec<String>,
    /// The lowest and the highest value of every metric that has one, and of the objective, where that is known
    /// beforehand; an end may be infinite.
    ranges: Arc<Ranges>,
    /// The functions of a Rust program cannot be read again from a file: its task is meant by name.
    pub in_rust: bool,
}

/// The lowest and the highest value that metrics can have, as far as that is known before anything is looked at.
#[derive(Clone, Debug, Default)]
pub struct Ranges(BTreeMap<String, (f64, f64)>);

impl Ranges {
    /// As the tables declare them; of the objective as the task says, else as the metrics that it is made of declare.
    pub fn of(tables: &[MetricTable], objective: &Objective) -> Ranges {
        let declared = tables.iter().filter_map(|table| Some((table.name.clone(), metric::build(table).ok()?.range?)));
        let mut ranges = Ranges(declared.collect());
        let Objective { metric, weights, range, .. } = objective;
        let weighted = |(low, high): (f64, f64), (name, weight): (&String, &f64)| match *weight {
            // Nothing of what may be infinite.
            0.0 => (low, high),
            weight => {
                let (least, most) = ranges.of_metric(name);
                let (a, b) = (weight * least, weight * most);
                (low + a.min(b), high + a.max(b))
            }
        };
        let sum = (!weights.is_empty()).then(|| weights.iter().fold((0.0, 0.0), weighted));
        if let Some(known) = range.map(|[low, high]| (low, high)).or(sum) {
            ranges.0.insert(metric.clone(), known);
        }
        ranges
    }

    /// Of one metric: an end that is not known is infinite.
    pub fn of_metric(&self, name: &str) -> (f64, f64) {
        self.0.get(name).copied().unwrap_or((f64::NEG_INFINITY, f64::INFINITY))
    }
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload").field("task", &self.task.name).field("metrics", &self.names).finish()
    }
}

impl Workload {
    /// Loads a task from its folder and builds its metrics.
    pub fn load(path: &Path) -> Result<Workload> {
        Workload::from_task(task::load(path)?)
    }

    /// Builds the metrics that a task's tables declare, and checks that the data has what they need.
    pub fn from_task(task: Task) -> Result<Workload> {
        let (mut metrics, mut names, mut open): (Vec<Arc<dyn Metric>>, Vec<String>, bool) =
            (Vec::new(), Vec::new(), false);
        let mut outputs = Vec::new();
        for table in &task.metrics {
            let built = metric::build(table)?;
            for (split, instances) in [(Split::Tune, &task.tune), (Split::Test, &task.test)] {
                check_fields(&task, table, &built, split, instances)?;
                for row in instances.iter() {
                    built.check(row).map_err(|problem| {
                        Error::usage(format!(
                            "the metric `{}` cannot judge the instance `{}`: {problem}",
                            table.name, row.id
                        ))
                        .at(&table.source, table.span.clone(), "this metric")
                    })?;
                }
            }
            built.prepare()?;
            open |= built.output.is_none();
            names.push(table.name.clone());
            outputs.extend(built.output);
            metrics.push(built.metric);
        }
        // A program names its values itself, so where there is one an unknown name may be right.
        if let Some((name, span)) = task.objective_names.iter().find(|(name, _)| !open && !names.contains(name)) {
            let error = Error::usage(format!("the objective `{name}` is no metric of this task"))
                .help(suggestion(name, names.iter().map(String::as_str)));
            return Err(match &task.source {
                Some(source) => error.at(source, span.clone(), "this metric"),
                None => error,
            });
        }
        let ranges = Arc::new(Ranges::of(&task.metrics, &task.objective));
        Ok(Workload { task: Arc::new(task), metrics, names, outputs, ranges, in_rust: false })
    }

    /// The same task with other instances in its test split.
    pub fn with_test(self, test: Vec<Instance>) -> Result<Workload> {
        let mut task = Task::clone(&self.task);
        task.test = test.into();
        match self.in_rust {
            true => Ok(Workload { task: Arc::new(task), ..self }),
            false => Workload::from_task(task),
        }
    }

    /// Judges the responses to one instance by every metric. The objective must be among the results.
    pub fn judge(&self, instance: &Instance, responses: &[Sample]) -> Result<Metrics, String> {
        let mut all = Metrics::new();
        for metric in &self.metrics {
            all.extend(metric::judge(metric.as_ref(), instance, responses)?);
        }
        let Objective { metric: objective, weights, .. } = &self.task.objective;
        if !weights.is_empty() {
            let mut sum = 0.0;
            for (name, weight) in weights {
                sum += weight * all.get(name).ok_or_else(|| format!("no metric gave `{name}`, which has a weight"))?;
            }
            if !sum.is_finite() {
                return Err("the weighted sum of the metrics is not finite".to_owned());
            }
            all.insert(objective.clone(), sum);
        }
        match all.contains_key(objective) {
            true => Ok(all),
            false => {
                let given: Vec<&str> = all.keys().map(String::as_str).collect();
                Err(format!("no metric gave the objective `{objective}`; given: {}", given.join(", ")))
            }
        }
    }

    /// Judging takes a few microseconds.
    pub fn quick(&self) -> bool {
        self.metrics.iter().all(|metric| metric.quick())
    }

    /// The names of the values that are there for every instance that is judged, as far as they are known beforehand.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// What is known beforehand of the values of the metrics.
    pub fn ranges(&self) -> &Arc<Ranges> {
        &self.ranges
    }

    /// The lowest and the highest value of the objective, where both are known before anything is looked at: as the task
    /// says, else as its metrics declare.
    pub fn range(&self) -> Option<(f64, f64)> {
        let (low, high) = self.ranges.of_metric(&self.task.objective.metric);
        (low.is_finite() && high.is_finite()).then_some((low, high))
    }

    /// Checks a space against the data: every template finds its names in the instances or among the parameters, and no
    /// name is in both.
    pub fn check_space(&self, space: &Space) -> Result<()> {
        let task = &self.task;
        let at_parameter = |error: Error, name: &str| match &space.origin {
            Some((source, spans)) => match spans.parameters.get(name) {
                Some(span) => error.at(source, span.clone(), "this parameter"),
                None => error,
            },
            None => error,
        };
        let at_prompt = |error: Error, prompt: &str, name: &str| match &space.origin {
            Some((source, spans)) => match spans.prompts.get(prompt) {
                Some(span) => error.at(source, word_in(source.text(), span.clone(), name), "in this prompt"),
                None => error,
            },
            None => error,
        };
        let columns: BTreeSet<&str> = task.tune.iter().flat_map(|row| row.fields.keys().map(String::as_str)).collect();
        for parameter in &space.parameters {
            if columns.contains(parameter.name.as_str()) {
                let error = Error::usage(format!(
                    "`{}` is a parameter of the space and a field of the instances",
                    parameter.name
                ))
                .help("rename one of them: templates could not tell which is meant");
                return Err(at_parameter(error, &parameter.name));
            }
        }
        for prompt in &space.prompts {
            let parameters =
                |name: &String| space.parameter(name).is_some_and(|p| p.role == crate::space::Role::Variable);
            for name in prompt.variables().iter().filter(|name| !parameters(name)) {
                if space.parameter(name).is_some() {
                    let error = Error::usage(format!(
                        "the prompt `{}` uses `{name}`, which is sent to the model and no variable",
                        prompt.name
                    ))
                    .help("templates take instance fields, and parameters that are no API parameters");
                    return Err(at_prompt(error, &prompt.name, name));
                }
                if let Some(row) = task.tune.iter().chain(task.test.iter()).find(|row| !row.fields.contains_key(name)) {
                    self.check_guarded(space, prompt, name, row, &columns)
                        .map_err(|error| at_prompt(error, &prompt.name, name))?;
                }
            }
        }
        Ok(())
    }

    /// A row lacks a field that a prompt names: that is an error unless the template copes with it (`is defined`).
    fn check_guarded(
        &self,
        space: &Space,
        prompt: &crate::prompt::Prompt,
        name: &str,
        row: &Instance,
        columns: &BTreeSet<&str>,
    ) -> Result<()> {
        let variables: Map<String, Value> = space
            .parameters
            .iter()
            .filter(|parameter| parameter.role == crate::space::Role::Variable)
            .map(|parameter| (parameter.name.clone(), parameter.values.first()))
            .collect();
        let variables = crate::prompt::Fields::new(&variables);
        let context = crate::prompt::Context::new(&row.rendered, &variables);
        let Err(problem) = prompt.render(&context, true) else { return Ok(()) };
        let known: Vec<&str> =
            columns.iter().copied().chain(space.parameters.iter().map(|p| p.name.as_str())).collect();
        let message = match columns.contains(name) {
            true => format!(
                "the prompt `{}` needs the field `{name}`, which the instance `{}` lacks ({problem})",
                prompt.name, row.id
            ),
            false => format!(
                "the prompt `{}` names `{name}`, which is no field of the instances and no parameter",
                prompt.name
            ),
        };
        let error = Error::usage(message);
        Err(match nearest(name, known.iter().copied()) {
            Some(near) if near != name => error.help(format!("did you mean `{near}`?")),
            _ => error.help(format!("the fields are {}", columns.iter().copied().collect::<Vec<_>>().join(", "))),
        })
    }
}

/// Where a name stands in a stretch of text, as a word of its own; else the whole stretch.
fn word_in(text: &str, span: std::ops::Range<usize>, name: &str) -> std::ops::Range<usize> {
    let Some(stretch) = text.get(span.clone()) else { return span };
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let whole = |at: &usize| !stretch[..*at].ends_with(part) && !stretch[at + name.len()..].starts_with(part);
    match stretch.match_indices(name).map(|(at, _)| at).find(whole) {
        Some(at) => span.start + at..span.start + at + name.len(),
        None => span,
    }
}

fn check_fields(
    task: &Task,
    table: &task::MetricTable,
    built: &metric::Built,
    split: Split,
    rows: &[Instance],
) -> Result<()> {
    for field in built.variables() {
        let Some(row) = rows.iter().find(|row| !row.fields.contains_key(&field)) else { continue };
        if built.check(row).is_ok() {
            continue;
        }
        let columns: BTreeSet<&str> = rows.iter().flat_map(|row| row.fields.keys().map(String::as_str)).collect();
        let message = match columns.contains(field.as_str()) {
            true => {
                format!("the metric `{}` needs the field `{field}`, which the instance `{}` lacks", table.name, row.id)
            }
            false => format!(
                "the metric `{}` names `{field}`, which is no field of the {split:?} instances of `{}`",
                table.name, task.name
            )
            .replace("Tune", "tuning")
            .replace("Test", "test"),
        };
        let span = built.fields.get(&field).cloned().unwrap_or_else(|| table.span.clone());
        return Err(Error::usage(message)
            .at(&table.source, span, "here")
            .help(suggestion(&field, columns.iter().copied())));
    }
    Ok(())
}

/// Defines a task in Rust: instances, metric functions, an objective.
///
/// ```
/// use farthing::{TaskBuilder, task::Instance};
/// # fn main() -> farthing::Result<()> {
/// let rows = (1..=40).map(|i| serde_json::json!({"question": format!("What is {i} + {i}?"), "answer": 2 * i}));
/// let workload = TaskBuilder::new("doubles")
///     .instances(rows)
///     .metric("exact", |instance: &Instance, responses: &[farthing::Sample]| {
///         responses[0].text.trim() == instance.text("answer").unwrap_or_default()
///     })
///     .maximize("exact")
///     .build()?;
/// assert_eq!(workload.task.tune.len() + workload.task.test.len(), 40);
/// # Ok(()) }
/// ```
pub struct TaskBuilder {
    name: String,
    description: String,
    folder: PathBuf,
    tune: Vec<Value>,
    test: Option<Vec<Value>>,
    id: Option<String>,
    metrics: Vec<(String, Arc<dyn Metric>)>,
    objective: Option<Objective>,
    then: Vec<Then>,
    tolerance: Option<f64>,
    range: Option<[f64; 2]>,
    holdout: f64,
}

impl TaskBuilder {
    /// A task of this name.
    pub fn new(name: impl Into<String>) -> TaskBuilder {
        TaskBuilder {
            name: name.into(),
            description: String::new(),
            folder: PathBuf::from("."),
            tune: Vec::new(),
            test: None,
            id: None,
            metrics: Vec::new(),
            objective: None,
            then: Vec::new(),
            tolerance: None,
            range: None,
            holdout: 0.25,
        }
    }

    /// What it is about.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> TaskBuilder {
        self.description = text.into();
        self
    }

    /// The folder that paths are relative to (its `farthing.toml` is found); else the working folder.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> TaskBuilder {
        self.folder = folder.into();
        self
    }

    /// The instances, each a JSON object. Without [`test_instances`](Self::test_instances) a quarter of them is held out.
    #[must_use]
    pub fn instances(mut self, rows: impl IntoIterator<Item = Value>) -> TaskBuilder {
        self.tune = rows.into_iter().collect();
        self
    }

    /// The instances of the test split.
    #[must_use]
    pub fn test_instances(mut self, rows: impl IntoIterator<Item = Value>) -> TaskBuilder {
        self.test = Some(rows.into_iter().collect());
        self
    }

    /// The field that names an instance; else its number.
    #[must_use]
    pub fn id(mut self, field: impl Into<String>) -> TaskBuilder {
        self.id = Some(field.into());
        self
    }

    /// A metric function over (instance, responses). It gives a number, a bool, several named numbers, or a `Result` of
    /// these; a lone number is named `name`.
    #[must_use]
    pub fn metric<F, M>(mut self, name: impl Into<String>, function: F) -> TaskBuilder
    where
        F: Fn(&Instance, &[Sample]) -> M + Send + Sync + 'static,
        M: IntoMetrics,
    {
        let name = name.into();
        self.metrics.push((name.clone(), Arc::new(FnMetric::new(name, function))));
        self
    }

    /// The metric that decides; more is better.
    #[must_use]
    pub fn maximize(self, metric: impl Into<String>) -> TaskBuilder {
        self.objective(metric, Direction::Maximize)
    }

    /// The metric that decides; less is better.
    #[must_use]
    pub fn minimize(self, metric: impl Into<String>) -> TaskBuilder {
        self.objective(metric, Direction::Minimize)
    }

    fn objective(mut self, metric: impl Into<String>, direction: Direction) -> TaskBuilder {
        self.objective = Some(Objective { metric: metric.into(), direction, ..Objective::default() });
        self
    }

    /// A weighted sum of metrics decides, under a name of its own; more is better.
    #[must_use]
    pub fn maximize_sum<N: Into<String>>(
        mut self,
        name: impl Into<String>,
        weights: impl IntoIterator<Item = (N, f64)>,
    ) -> TaskBuilder {
        let weights = weights.into_iter().map(|(metric, weight)| (metric.into(), weight)).collect();
        self.objective = Some(Objective { metric: name.into(), weights, ..Objective::default() });
        self
    }

    /// What decides among configurations that the objective does not tell apart; may be called again for what comes next.
    #[must_use]
    pub fn then(mut self, metric: impl Into<String>, direction: Direction) -> TaskBuilder {
        self.then.push(Then { metric: metric.into(), direction, tolerance: 0.0 });
        self
    }

    /// How much of the objective may be given up for what [`then`](Self::then) names.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> TaskBuilder {
        self.tolerance = Some(tolerance);
        self
    }

    /// The lowest and the highest value that the objective can have: claims that hold at any time need it.
    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> TaskBuilder {
        self.range = Some([low, high]);
        self
    }

    /// Checks it and puts it together.
    pub fn build(self) -> Result<Workload> {
        let Some(mut objective) = self.objective else {
            return Err(Error::usage("the task has no objective").help("call .maximize(metric) or .minimize(metric)"));
        };
        if self.metrics.is_empty() {
            return Err(Error::usage("the task has no metric").help("call .metric(name, function)"));
        }
        (objective.then, objective.tolerance, objective.range) = (self.then, self.tolerance, self.range);
        if objective.range.is_some_and(|[low, high]| !(low < high && low.is_finite() && high.is_finite())) {
            return Err(Error::usage("the objective's range is (lowest, highest)"));
        }
        if objective.tolerance.is_some_and(|tolerance| !(tolerance >= 0.0 && tolerance.is_finite())) {
            return Err(Error::usage("the objective's tolerance must be a number of at least 0"));
        }
        let all = task::data::from_values(&self.name, self.tune, self.id.as_deref())?;
        let (tune, test) = match self.test {
            Some(rows) => (all, task::data::from_values(&self.name, rows, self.id.as_deref())?),
            None => task::file::hold_out(all, self.holdout)?,
        };
        let task = Task {
            name: self.name,
            description: self.description,
            folder: self.folder,
            tune: tune.into(),
            test: test.into(),
            objective,
            metrics: Vec::new(),
            id: self.id,
            stratify: None,
            source: None,
            objective_span: 0..0,
            objective_names: Vec::new(),
        };
        let (names, metrics) = self.metrics.into_iter().unzip();
        let ranges = Arc::new(Ranges::of(&task.metrics, &task.objective));
        Ok(Workload { task: Arc::new(task), metrics, names, outputs: Vec::new(), ranges, in_rust: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_values_can_be_is_known_of_metrics_and_of_what_is_made_of_them() {
        let of = |objective: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("rows.jsonl"), "{\"label\":\"x\"}\n{\"label\":\"y\"}\n").unwrap();
            let metrics =
                "[metrics.right]\ntype = 'exact_match'\nexpected = '{{ label }}'\n[metrics.long]\ntype = 'length'\n";
            let task = format!(
                "[task]\nname = 't'\n[data]\ntune = 'rows.jsonl'\ntest = 'rows.jsonl'\n[objective]\n{objective}\n{metrics}"
            );
            std::fs::write(folder.path().join("task.toml"), task).unwrap();
            Workload::load(folder.path()).unwrap()
        };
        let known = |workload: &Workload, name: &str| workload.ranges().of_metric(name);
        let right = of("metric = 'right'");
        assert_eq!((known(&right, "right"), known(&right, "long")), ((0.0, 1.0), (0.0, f64::INFINITY)));
        assert_eq!((right.range(), known(&right, "other")), (Some((0.0, 1.0)), (f64::NEG_INFINITY, f64::INFINITY)));
        assert_eq!(right.outputs(), ["long", "right"]);
        let long = of("metric = 'long'");
        assert_eq!(long.range(), None, "one end alone is no range");
        let limited = of("metric = 'long'\nrange = [0, 500]");
        assert_eq!((limited.range(), known(&limited, "long")), (Some((0.0, 500.0)), (0.0, 500.0)));
    }
}
