//! Same seed, same answer: at any concurrency, on a cold store and a warm one, whatever order the replies come in.

mod support;

use std::time::Duration;

use farthing::serve::mock::{Latency, MockServer, Options};
use serde_json::Value;
use support::{Home, decided, server};

/// What a study decided: ranking, winner, and the summary without what hangs on the store.
#[derive(PartialEq, Debug)]
struct Decided {
    ranking: String,
    best: String,
    summary: Value,
}

fn tune(home: &Home, strategy: &str, seed: u64, concurrency: u32, store: &str, out: &str) -> (Decided, Value) {
    let line = format!(
        "tune task --budget 0.015 --strategy {strategy} --seed {seed} --concurrency {concurrency} --store {store} --out {out} --json --quiet"
    );
    let summary = home.run(&line, &[]).ended(0).json();
    assert_eq!(summary, home.summary(out));
    let decided = Decided {
        ranking: home.read(&format!("{out}/ranking.csv")),
        best: home.read(&format!("{out}/best.toml")),
        summary: decided(summary.clone()),
    };
    (decided, summary)
}

/// Cold and warm, one at a time and 64 at once.
fn same(home: &Home, strategy: &str, seed: u64, server: Option<&MockServer>) -> Decided {
    // Each cold run begins with an endpoint that has given no samples yet.
    let fresh = || server.inspect(|server| server.reset());
    fresh();
    let (one, cold) = tune(home, strategy, seed, 1, &format!("{strategy}{seed}a.db"), &format!("{strategy}{seed}a"));
    assert_ne!(cold["spent_usd"], "0");
    fresh();
    let (many, _) = tune(home, strategy, seed, 64, &format!("{strategy}{seed}b.db"), &format!("{strategy}{seed}b"));
    assert_eq!(one, many, "{strategy}, seed {seed}: concurrency decides");
    for (concurrency, out) in [(64, "c"), (1, "d")] {
        let store = format!("{strategy}{seed}a.db");
        let (warm, summary) = tune(home, strategy, seed, concurrency, &store, &format!("{strategy}{seed}{out}"));
        assert_eq!(one, warm, "{strategy}, seed {seed}: the store decides");
        assert_eq!((&summary["spent_usd"], &summary["requests"]), (&Value::from("0"), &Value::from(0)));
    }
    one
}

fn both_seeds(strategy: &str, over_http: bool) {
    let latency = Latency::Random { low: Duration::ZERO, high: Duration::from_millis(4), seed: 11 };
    let server = over_http.then(|| server(Options { latency, ..Options::default() }));
    let home = match &server {
        Some(server) => Home::over_http(20, &server.url(), ""),
        None => Home::new(20),
    };
    if strategy != "grid" {
        // An infinite space for those who can.
        home.edit("task/space.toml", "value = 0.7", "type = \"float\"\nlow = 0.1\nhigh = 1.2");
        home.edit("task/space.toml", "[baseline]", "[baseline]\ntemperature = 0.5");
    }
    let [first, second] = [1, 2].map(|seed| {
        let mut summary = same(&home, strategy, seed, server.as_ref()).summary;
        summary["seed"] = Value::Null;
        summary
    });
    assert_ne!(first, second, "the seed decides nothing");
}

#[test]
fn random_in_process() {
    both_seeds("random", false);
}

#[test]
fn random_over_http() {
    both_seeds("random", true);
}

#[test]
fn grid_in_process() {
    both_seeds("grid", false);
}

#[test]
fn grid_over_http() {
    both_seeds("grid", true);
}

#[test]
fn halving_in_process() {
    both_seeds("halving", false);
}

#[test]
fn halving_over_http() {
    both_seeds("halving", true);
}

/// The same with an inference budget, which drops configurations in the middle of things, and with failures on the way.
#[test]
fn dropping_and_failing_depend_on_no_order() {
    let latency = Latency::Random { low: Duration::ZERO, high: Duration::from_millis(6), seed: 12 };
    let faults = std::sync::Arc::new(|call: &farthing::serve::mock::Call| {
        // By the content, so the same in every run: these are too long for the model.
        let text = call.body["messages"].to_string();
        text.contains("beads").then(farthing::serve::mock::Fault::context_too_long)
    });
    let server = server(Options { latency, faults, ..Options::default() });
    let home = Home::over_http(24, &server.url(), "");
    let mut seen = Vec::new();
    for concurrency in [1, 7, 64] {
        server.reset();
        let line = format!(
            "tune task --budget 0.03 --inference-budget 0.0002 --concurrency {concurrency} --store {concurrency}.db --out {concurrency} --json --quiet"
        );
        let summary = home.run(&line, &[]).json();
        assert!(summary["failed_evaluations"].as_u64().unwrap() > 0, "{summary:#}");
        seen.push((decided(summary), home.read(&format!("{concurrency}/ranking.csv"))));
    }
    assert!(seen.iter().all(|one| one == &seen[0]), "{seen:#?}");
}
