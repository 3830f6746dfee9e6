//! How fast evaluations are whose responses the store has: `cargo bench --no-default-features --bench warm [-- OPTIONS]`.
//!
//! A store in a fresh SQLite file is filled by one run against an endpoint on loopback; then the same evaluations (one
//! response each, `exact_match`) go through the pipeline again, from a newly opened store. Printed: evaluations per second of
//! processor time, that is, on one core; the same for a plain loop that finds the response in a `HashMap` and compares it;
//! and the ratio. Options: `--evaluations N` (100000), `--rounds N` (3), `--folder F`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use farthing::backend::Endpoints;
use farthing::evaluate::Plan;
use farthing::runner::{Purse, Runner};
use farthing::serve::mock::{MockServer, Options};
use farthing::store::SqliteStore;
use farthing::study::fixed::FixedAgenda;
use farthing::study::pipeline::Pipeline;
use farthing::{Usd, Workload, space};

fn main() {
    // Under `cargo test` it is only built.
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let after = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1).cloned();
    let number = |name: &str, default: usize| {
        after(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number")))
    };
    let (evaluations, rounds) = (number("--evaluations", 100_000), number("--rounds", 3));
    let folder = tempfile::tempdir_in(after("--folder").map_or_else(std::env::temp_dir, Into::into)).expect("a folder");
    write_task(folder.path(), evaluations);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");

    let plain = plain_loop(evaluations);
    println!("{:<28} {:>10.0} evaluations per CPU second", "HashMap and compare", plain);
    let server = MockServer::start(Options::default()).expect("an endpoint");
    let endpoints = format!(
        "[endpoints.here]\nprovider = \"openai\"\nbase_url = \"{}\"\n\
         [models.\"mock-small\"]\nendpoint = \"here\"\nprice = {{ input = 0.15, output = 0.60 }}\n",
        server.url()
    );
    std::fs::write(folder.path().join("farthing.toml"), endpoints).expect("a file");
    runtime.block_on(evaluate(folder.path(), evaluations, false));
    drop(server);
    for _ in 0..rounds {
        show("through the pipeline, warm", runtime.block_on(evaluate(folder.path(), evaluations, true)), plain);
    }
}

fn show(what: &str, (cpu, wall): (f64, f64), plain: f64) {
    println!("{what:<28} {cpu:>10.0} evaluations per CPU second, {wall:>8.0} per second, 1 / {:.1}", plain / cpu);
}

/// The least that there is to do: evaluations per second of processor time.
fn plain_loop(evaluations: usize) -> f64 {
    let answers: HashMap<String, String> =
        (0..evaluations).map(|number| (question(number), format!(" {number} "))).collect();
    let expected: Vec<(String, String)> =
        (0..evaluations).map(|number| (question(number), number.to_string())).collect();
    let (cpu, turns) = (cpu_seconds(), 20);
    let mut right = 0;
    for _ in 0..turns {
        right += expected.iter().filter(|(question, answer)| answers[question].trim() == answer).count();
    }
    assert_eq!(right, evaluations * turns);
    right as f64 / (cpu_seconds() - cpu).max(0.01)
}

/// Evaluations per second of processor time, and per second.
async fn evaluate(folder: &Path, evaluations: usize, warm: bool) -> (f64, f64) {
    let workload = Workload::load(folder).expect("a task");
    let space = space::load(&folder.join("space.toml")).expect("a space");
    let store = SqliteStore::open(folder.join("store.db")).expect("a store");
    let endpoints = Endpoints::load(&folder.join("farthing.toml")).expect("endpoints");
    let runner = Runner::open(store, &endpoints, &["mock-small".to_owned()], 64, true, true).expect("a runner");
    let configuration = space.baseline.clone().expect("a baseline");
    let plan = Arc::new(Plan::new(&space, &configuration, &runner).expect("a plan"));
    let instances = workload.task.tune.clone();
    let purse = Purse::new(Some("1000000".parse().expect("dollars")), false, Usd::ZERO);
    let pipeline = Pipeline::fixed(&workload, &instances, runner, purse, &"bench".into(), &Arc::default());
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut agenda = FixedAgenda::new(vec![plan], (0..instances.len()).collect(), &pipeline, Vec::new());
    pipeline.run(&mut agenda).await.expect("an evaluation");
    let (cpu, wall) = (cpu_seconds() - cpu, began.elapsed().as_secs_f64());
    let told = &agenda.trials[0].evaluations;
    assert!(told.len() == evaluations && told.iter().all(|one| one.result.is_ok()));
    assert_eq!(agenda.cache_hits() as usize, if warm { evaluations } else { 0 });
    (evaluations as f64 / cpu, evaluations as f64 / wall)
}

fn question(number: usize) -> String {
    format!("Question {number}: which of the following four statements is true, and why? Answer in one short sentence.")
}

fn write_task(folder: &Path, instances: usize) {
    let mut rows = String::new();
    for number in 0..instances {
        let row = serde_json::json!({"question": question(number), "answer": number.to_string()});
        writeln!(rows, "{row}").expect("a text");
    }
    let task = "[task]\nname = \"bench\"\n[data]\ntune = \"tune.jsonl\"\ntest = \"test.jsonl\"\n\
                [objective]\nmetric = \"accuracy\"\n\
                [metrics.accuracy]\ntype = \"exact_match\"\nexpected = \"{{ answer }}\"\nnormalize = [\"trim\"]\n";
    let space = "[space]\nname = \"bench\"\n\
                 [params.prompt]\ntype = \"categorical\"\nchoices = [{ name = \"plain\", template = \"{{ question }}\" }]\n\
                 [params.model]\nvalue = \"mock-small\"\n[params.temperature]\nvalue = 0.0\n[params.max_tokens]\nvalue = 64\n\
                 [params.n]\nvalue = 1\n\
                 [baseline]\nprompt = \"plain\"\n";
    let test = "{\"question\": \"?\", \"answer\": \"!\"}\n";
    for (name, text) in
        [("tune.jsonl", rows.as_str()), ("test.jsonl", test), ("task.toml", task), ("space.toml", space)]
    {
        std::fs::write(folder.join(name), text).expect("a file");
    }
}

/// Seconds of processor time that this process has used, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name in parentheses may hold blanks; user and system time are the 14th and 15th field, in ticks of 1/100 s.
    let fields: Vec<&str> = text.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}
