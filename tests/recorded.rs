//! On recorded answers of real models: what we measure is what truth.csv says, which was computed elsewhere; and a search
//! at $5 keeps its budget. The data is not part of the project: where it is not at hand, these tests say so and end.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use farthing::Usd;
use farthing::backend::Endpoints;
use farthing::evaluate::{Plan, Workload};
use farthing::runner::{Purse, Runner};
use farthing::space::{self, Space};
use farthing::store::MemoryStore;
use farthing::study::Study;
use farthing::study::fixed::FixedAgenda;
use farthing::study::pipeline::{Ending, Pipeline};
use farthing::task::Split;
use serde_json::{Value, json};
use support::{Home, dollars, recorded, usd};

/// A row of truth.csv by column.
type Row = HashMap<String, String>;

fn truth(folder: &Path) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(folder.join("truth.csv")).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

struct Exam {
    workload: Workload,
    space: Space,
    runner: Arc<Runner>,
}

impl Exam {
    fn open(folder: &Path) -> Exam {
        let space = space::load(&folder.join("space.toml")).unwrap();
        let endpoints = Endpoints::load(&folder.join("farthing.toml")).unwrap();
        let runner = Runner::open(MemoryStore::new(), &endpoints, &space.models(), 32, true, false).unwrap();
        Exam { workload: Workload::load(folder).unwrap(), space, runner: Arc::new(runner) }
    }

    /// Answered, missing, the mean, and dollars per instance of the configuration of a row; all as one evaluates it.
    async fn evaluate(&self, row: &Row) -> (usize, usize, f64, f64) {
        let value = |text: &String| match text.parse::<f64>() {
            Ok(number) if number.fract() == 0.0 => json!(number as i64),
            Ok(number) => json!(number),
            Err(_) => json!(text),
        };
        let names = self.space.parameters.iter().map(|parameter| parameter.name.clone());
        let settings = names.map(|name| (name.clone(), value(&row[&name]))).collect();
        let configuration = self.space.complete(&settings).unwrap();
        let plan = Arc::new(Plan::new(&self.space, &configuration, &self.runner).unwrap());
        let split = if row["split"] == "tune" { Split::Tune } else { Split::Test };
        let instances = self.workload.task.split(split);
        let purse = Purse::new(None, false, Usd::ZERO);
        let scope = "exam".into();
        let pipeline = Pipeline::fixed(&self.workload, &instances, self.runner.clone(), purse, &scope, &Arc::default());
        let mut agenda = FixedAgenda::new(vec![plan], (0..instances.len()).collect(), &pipeline, Vec::new());
        assert_eq!(pipeline.run(&mut agenda).await.unwrap(), Ending::Done);
        let trial = &agenda.trials[0];
        let mean = trial.estimate("accuracy").unwrap();
        (mean.count, trial.missing(), mean.mean, trial.production_cost().unwrap().as_f64())
    }
}

#[test]
fn evaluations_are_the_truth() {
    let Some(folder) = recorded("exam") else { return };
    let rows = truth(&folder);
    assert_eq!(rows.len(), 160);
    // Every seventh row and the last: all models and prompts, both splits, and n from 1 to 10.
    let chosen: Vec<&Row> = rows.iter().skip(1).step_by(7).chain(rows.last()).collect();
    let of =
        |column: &str| chosen.iter().map(|row| row[column].clone()).collect::<std::collections::BTreeSet<_>>().len();
    assert!(chosen.len() >= 24 && of("model") == 2 && of("prompt") == 4 && of("split") == 2 && of("n") >= 5);
    let exam = Exam::open(&folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for row in chosen {
        let (answered, missing, mean, cost) = runtime.block_on(exam.evaluate(row));
        let number = |name: &str| row[name].parse::<f64>().unwrap();
        assert_eq!(answered as f64, number("answered"), "{row:?}");
        assert_eq!(missing as f64, number("unrecorded"), "{row:?}");
        assert!((mean - number("accuracy")).abs() <= 1e-6, "{mean}: {row:?}");
        assert!((mean * answered as f64 - number("correct")).abs() < 1e-6, "{mean}: {row:?}");
        assert!((cost - number("production_cost_per_instance")).abs() <= 1e-8, "{cost}: {row:?}");
    }
}

/// The program's own word on one row, and its winner's price and score on both splits.
#[test]
fn the_program_says_the_same() {
    let Some(folder) = recorded("exam") else { return };
    let rows = truth(&folder);
    let home = Home::new(1);
    let task = folder.canonicalize().unwrap();
    let task = task.to_str().unwrap();
    let row = rows.iter().find(|row| row["n"] == "5" && row["split"] == "test" && row["unrecorded"] != "0").unwrap();
    let set: Vec<String> = ["model", "prompt", "n"].iter().map(|name| format!("{name}={}", row[*name])).collect();
    let more: Vec<&str> =
        set.iter().flat_map(|set| ["--set", set]).chain(["--split", "test", "--json", "-q"]).collect();
    let done = home.run(&format!("evaluate {task}"), &more).ended(0).json();
    assert_eq!(done["instances"].to_string(), row["answered"]);
    assert_eq!(done["missing"].to_string(), row["unrecorded"]);
    let near =
        |value: &Value, name: &str, by: f64| (value.as_f64().unwrap() - row[name].parse::<f64>().unwrap()).abs() <= by;
    assert!(near(&done["metrics"]["accuracy"]["mean"], "accuracy", 1e-6), "{done:#} {row:?}");
    let cost = json!(dollars(&done, "production_cost_usd_per_instance").as_f64());
    assert!(near(&cost, "production_cost_per_instance", 1e-8), "{done:#} {row:?}");
}

/// Tunes at $5 and tests the winner; true to the budget and to truth.csv.
fn tune(strategy: &str) {
    let Some(folder) = recorded("exam") else { return };
    let home = Home::new(1);
    let task = folder.canonicalize().unwrap();
    let line = format!("tune {} --budget 5 --strategy {strategy} --out run --json --quiet", task.to_str().unwrap());
    let summary = home.run(&line, &[]).ended(0).json();
    assert!(
        dollars(&summary, "study_cost_usd") <= usd("5") && dollars(&summary, "spent_usd") <= usd("5"),
        "{summary:#}"
    );
    assert!(dollars(&summary, "study_cost_usd") > usd("4"), "a budget that is there to be used: {summary:#}");
    let tested = home.run("test run --json --quiet", &[]).ended(0).json();
    let best = &summary["best"]["config"];
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let same = |row: &&Row| ["model", "prompt", "n"].iter().all(|name| row[*name] == text(&best[*name]));
    let row = truth(&folder).into_iter().filter(|row| row["split"] == "test").find(|row| same(&row)).unwrap();
    assert!((tested["score"].as_f64().unwrap() - row["accuracy"].parse::<f64>().unwrap()).abs() <= 1e-6, "{tested:#}");
    assert_eq!(home.summary("run")["holdout"]["score"], tested["score"]);
}

#[test]
fn halving_keeps_five_dollars() {
    tune("halving");
}

#[test]
fn random_keeps_five_dollars() {
    tune("random");
}

#[test]
fn grid_keeps_five_dollars() {
    tune("grid");
}

/// As a library: the same study, the same answer as the program's.
#[test]
fn a_study_of_the_library_is_that_of_the_program() {
    let home = Home::new(24);
    let program = home.run("tune task --budget 0.03 --seed 5 --out run --json --quiet", &[]).ended(0).json();
    let study = Study::builder()
        .workload(Workload::load(&home.path("task")).unwrap())
        .space(space::load(&home.path("task/space.toml")).unwrap())
        .endpoints(Endpoints::load(&home.path("farthing.toml")).unwrap())
        .budget(usd("0.03"))
        .seed(5)
        .concurrency(3)
        .store(MemoryStore::new())
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(study.run()).unwrap();
    let library = serde_json::to_value(&outcome.summary).unwrap();
    assert_eq!(support::decided(library), support::decided(program));
}
