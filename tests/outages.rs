//! What a study does when its endpoint fails, refuses, or the user stops it: never a wrong answer, never a poisoned resume.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farthing::backend::Endpoints;
use farthing::diagnostic::{Fault as Blame, Source};
use farthing::provider::FailureKind;
use farthing::serve::mock::{Fault, Faults, Latency, MockServer, Options};
use farthing::space::Space;
use farthing::store::MemoryStore;
use farthing::study::{Outcome, Settings, Stop, StopReason, Study};
use farthing::task::Instance;
use farthing::{Result, Sample, TaskBuilder, Workload};
use serde_json::json;

fn endpoints(url: &str, more: &str) -> Endpoints {
    let text = format!(
        "[endpoints.m]\nprovider = \"openai\"\nbase_url = \"{url}\"\n{more}\n[models.mock-small]\nprice = {{ input = 0.25, output = 0.75 }}\n"
    );
    Endpoints::read(&Source::new("farthing.toml", text), Path::new(".")).unwrap()
}

fn task(instances: usize, twins: bool) -> Workload {
    let rows = (2..2 + instances).map(|i| {
        let i = if twins { i / 2 * 2 } else { i };
        let (bags, each) = (i % 7 + 2, i % 5 + 3);
        let text = format!("Ann has {} apples and buys {bags} bags of {each}. How many apples has she now?", 3 * i);
        json!({"problem": text, "answer": 3 * i + bags * each})
    });
    TaskBuilder::new("apples")
        .instances(rows)
        .test_instances([json!({"problem": "x", "answer": 1})])
        .metric("right", |instance: &Instance, responses: &[Sample]| {
            responses[0].text.contains(&instance.text("answer").unwrap_or_default())
        })
        .maximize("right")
        .build()
        .unwrap()
}

fn space() -> Space {
    Space::builder("apples")
        .template("plain", "{{ problem }}")
        .template("steps", "{{ problem }} Let's think step by step.")
        .choices("model", ["mock-small"])
        .choices("temperature", [0.0, 0.5, 1.0])
        .constant("max_tokens", 80)
        .build()
        .unwrap()
}

struct Setup {
    store: Arc<MemoryStore>,
    budget: &'static str,
    concurrency: usize,
    twins: bool,
    more: &'static str,
    stop: Arc<Stop>,
}

impl Default for Setup {
    fn default() -> Setup {
        let (store, stop) = (MemoryStore::new(), Arc::default());
        Setup { store, budget: "0.05", concurrency: 8, twins: false, more: "", stop }
    }
}

impl Setup {
    /// Runs the same study: again under the same setup, it goes on.
    fn run(&self, server: &MockServer) -> Result<Outcome> {
        let settings = Settings {
            strategy: "grid".into(),
            budget: Some(self.budget.parse().unwrap()),
            concurrency: self.concurrency,
            ..Settings::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(
            Study::builder()
                .workload(task(30, self.twins))
                .space(space())
                .endpoints(endpoints(&server.url(), self.more))
                .store(self.store.clone())
                .settings(settings)
                .stop(self.stop.clone())
                .id("study")
                .build()?
                .run(),
        )
    }
}

fn server(faults: Faults) -> MockServer {
    MockServer::start(Options { faults, ..Options::default() }).unwrap()
}

fn healthy() -> MockServer {
    server(farthing::serve::mock::faults::none())
}

fn scores(outcome: &Outcome) -> Vec<(usize, Option<f64>)> {
    outcome.trials.iter().map(|trial| (trial.evaluations.len(), trial.estimate("right").map(|e| e.mean))).collect()
}

#[test]
fn an_outage_ends_the_run_and_a_resumed_one_tries_again() {
    let down = server(Arc::new(|call| (call.number > 20).then(|| Fault::status(503))));
    let setup = Setup { more: "max_retries = 1", ..Setup::default() };
    let error = setup.run(&down).err().expect("the endpoint went away");
    assert_eq!(error.fault(), Blame::Endpoint, "{error}");
    assert!(error.message().contains("503"), "{error}");
    let after = setup.run(&healthy()).unwrap();
    assert_eq!((after.summary.failed_evaluations, after.summary.stop_reason), (0, StopReason::Exhausted));
    assert_eq!(scores(&after), scores(&Setup::default().run(&healthy()).unwrap()), "as if nothing had happened");
}

#[test]
fn a_minute_of_rate_limits_is_waited_for() {
    let start = Instant::now();
    let busy = Arc::new(move |call: &farthing::serve::mock::Call| {
        (call.number > 20 && start.elapsed() < Duration::from_millis(1500)).then(|| Fault::rate_limited("0").at_once())
    });
    let outcome = Setup::default().run(&server(busy)).unwrap();
    assert_eq!(outcome.summary.failed_evaluations, 0);
}

#[test]
fn one_bad_configuration_is_missing_at_any_concurrency() {
    for concurrency in [1, 64, 256] {
        let faults: Faults = Arc::new(|call| (call.body["temperature"] == 0.5).then(|| Fault::status(400).at_once()));
        let latency = Latency::Fixed(Duration::from_millis(10));
        let server = MockServer::start(Options { faults, latency, ..Options::default() }).unwrap();
        let outcome = Setup { concurrency, ..Setup::default() }.run(&server).unwrap();
        let missing: Vec<usize> = outcome.trials.iter().map(farthing::study::Trial::missing).collect();
        assert_eq!(missing, [0, 30, 0, 0, 30, 0], "concurrency {concurrency}");
        let unreliable: Vec<bool> = outcome.trials.iter().map(farthing::study::Trial::unreliable).collect();
        assert_eq!(unreliable, [false, true, false, false, true, false], "it is the configuration's own fault");
        let sent: u64 = outcome.trials.iter().flat_map(|trial| &trial.evaluations).map(|done| done.requests()).sum();
        assert_eq!(sent, server.ledger().requests, "those that failed are counted");
    }
}

#[test]
fn the_first_request_refused_in_its_form_ends_the_run() {
    let error = Setup::default().run(&server(Arc::new(|_| Some(Fault::status(400))))).err().unwrap();
    assert_eq!(error.fault(), Blame::Endpoint);
}

#[test]
fn twins_fail_together_and_do_so_again() {
    let first = Mutex::new(true);
    let once = Arc::new(move |call: &farthing::serve::mock::Call| {
        let hit = call.number > 5 && std::mem::take(&mut *first.lock().unwrap());
        hit.then(Fault::context_too_long)
    });
    let setup = Setup { twins: true, concurrency: 1, ..Setup::default() };
    let before = setup.run(&server(once)).unwrap();
    assert_eq!(before.summary.failed_evaluations % 2, 0, "both instances of the same text are missing");
    assert!(before.summary.failed_evaluations > 0);
    let again = setup.run(&healthy()).unwrap();
    assert_eq!(
        (scores(&again), again.summary.failed_evaluations),
        (scores(&before), before.summary.failed_evaluations)
    );
    assert_eq!(again.summary.cache_hits + again.summary.failed_evaluations, again.summary.evaluations);
}

#[test]
fn lost_requests_never_become_refusals_in_the_middle() {
    for concurrency in [1, 32] {
        let seen = Mutex::new(BTreeSet::new());
        let faults: Faults = Arc::new(move |call| {
            let text = call.body.to_string();
            let unlucky = blake3::hash(text.as_bytes()).as_bytes()[0].is_multiple_of(5);
            (unlucky && seen.lock().unwrap().insert(text)).then(|| Fault::malformed().at_once())
        });
        let server = server(faults);
        let outcome = Setup { budget: "0.006", concurrency, ..Setup::default() }.run(&server).unwrap();
        assert!(server.ledger().billed <= outcome.summary.spent_usd);
        assert!(outcome.summary.spent_usd <= "0.006".parse().unwrap());
        // What was told is a prefix of what was asked: before an unfinished trial all are finished. And a lost request
        // does not end the study while others still hold money that they will not need.
        let seen: Vec<usize> = outcome.trials.iter().map(|trial| trial.evaluations.len()).collect();
        let finished = seen.iter().take_while(|&&count| count == 30).count();
        assert!(seen.iter().skip(finished + 1).all(|&count| count == 0), "concurrency {concurrency}: {seen:?}");
        assert!(seen.iter().sum::<usize>() > 70, "concurrency {concurrency}: {seen:?} {:?}", outcome.summary);
    }
}

#[test]
fn stopped_while_waiting_for_its_turn_it_ends_soon_as_interrupted() {
    let server = healthy();
    let setup = Setup { more: "requests_per_minute = 120", concurrency: 16, ..Setup::default() };
    let stop = setup.stop.clone();
    let begin = Instant::now();
    let pressed = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        stop.press();
    });
    let outcome = setup.run(&server).unwrap();
    pressed.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(outcome.summary.stop_reason, StopReason::Interrupted);
    let failures =
        outcome.trials.iter().flat_map(|trial| &trial.evaluations).filter_map(|done| done.result.as_ref().err());
    assert_eq!(failures.filter(|failure| failure.kind == FailureKind::Interrupted).count(), 0, "none is told");
}
