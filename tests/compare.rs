//! `farthing compare`: the same instances for both, what was paid for before is free, subgroups, gates and their exit codes.

mod support;

use std::sync::Arc;

use farthing::serve::mock::{Answers, Call, Fault, Options, Reply};
use serde_json::{Value, json};
use support::{Done, Home, dollars, server, snapshot, usd};

/// A home with two configuration files, one clearly better than the other.
fn home(instances: usize) -> Home {
    let home = Home::new(instances);
    let file = |prompt: &str, model: &str, n: u32| {
        format!("task = \"sums\"\n[config]\nprompt = \"{prompt}\"\nmodel = \"{model}\"\nn = {n}\n")
    };
    home.write("weak.toml", file("direct", "mock-small", 1));
    home.write("strong.toml", file("steps", "mock-large", 10));
    home
}

#[test]
fn what_people_see() {
    let home = home(60);
    // The kind of problem: a field to make subgroups of.
    let rows: String = (home.read("task/test.jsonl").lines().enumerate())
        .map(|(at, line)| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["half"] = json!(if at % 3 == 0 { "a third" } else { "two thirds" });
            format!("{row}\n")
        })
        .collect();
    home.write("task/test.jsonl", rows);
    let done = home.run("compare weak.toml strong.toml --task task --by half --limit 3", &[]).ended(0);
    snapshot("compare", &format!("{}\n----\n{}", done.stdout, settled(&done)));
    let worse = home.run("compare strong.toml weak.toml --task task --quiet --fail-if-worse --limit 2", &[]).ended(4);
    snapshot("compare_gate", &worse.stdout);
    assert!(worse.stdout.contains("$0 spent; 60 evaluations from the store."), "{}", worse.stdout);
}

/// Standard error without the line that says how fast it was.
fn settled(done: &Done) -> String {
    done.stderr.lines().filter(|line| !line.contains("/s,")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_json_agrees_with_evaluations_of_each() {
    let home = home(40);
    let compared =
        home.run("compare weak.toml strong.toml --task task --split tune --json --quiet", &[]).ended(0).json();
    for (side, file) in [("a", "weak.toml"), ("b", "strong.toml")] {
        let alone = home.run("evaluate task --json --quiet --config", &[file]).ended(0).json();
        assert_eq!(compared[side]["score"], alone["metrics"]["accuracy"]["mean"]);
        assert_eq!(compared[side]["production_cost_usd_per_instance"], alone["production_cost_usd_per_instance"]);
        assert_eq!(dollars(&alone, "spent_usd"), usd("0"), "the comparison paid for it");
    }
    let known = &compared["difference"];
    assert_eq!((known["pairs"].as_u64(), known["test"].as_str()), (Some(40), Some("mcnemar_exact")));
    let (improved, worsened) = (compared["improved"].as_array().unwrap(), compared["worsened"].as_array().unwrap());
    let difference = (improved.len() as f64 - worsened.len() as f64) / 40.0;
    assert!((known["difference"].as_f64().unwrap() - difference).abs() < 1e-12);
    assert!(improved.iter().all(|one| one["a"] == 0.0 && one["b"] == 1.0 && one["id"].is_string()));
    assert_eq!(compared["changes"]["model"], json!(["mock-small", "mock-large"]));
    assert!(compared["changes"].get("temperature").is_none());
    assert_eq!((compared["verdict"].as_str(), &compared["gate"]), (Some("better"), &Value::Null));
}

#[test]
fn a_run_brings_its_task_endpoints_and_store() {
    let home = home(24);
    home.run("tune task --budget 0.05 --out run --store here.db --quiet", &[]).ended(0);
    let best = home.run("compare run strong.toml --split tune --json --quiet", &[]).ended(0).json();
    assert_eq!(best["a"]["path"], "run/best.toml");
    assert!(best["notes"][0].as_str().unwrap().contains("chosen on"), "{best:#}");
    // The winner was judged on every tuning instance or it is bought: either way twice costs nothing.
    let again = home.run("compare run run/best.toml --split tune --json --quiet", &[]).ended(0).json();
    assert_eq!((dollars(&again, "spent_usd"), again["difference"]["difference"].as_f64()), (usd("0"), Some(0.0)));
    assert_eq!((again["verdict"].as_str(), again["changes"].as_object().unwrap().len()), (Some("not_told_apart"), 0));
}

#[test]
fn a_budget_of_nothing_suffices_for_what_is_paid_for() {
    let home = home(20);
    home.run("compare weak.toml strong.toml --task task --budget 0 --quiet", &[]).ended(3);
    home.run("compare weak.toml strong.toml --task task --quiet", &[]).ended(0);
    let free = home.run("compare weak.toml strong.toml --task task --budget 0 --json --quiet", &[]).ended(0).json();
    assert_eq!((free["not_reached"].as_u64(), free["cache_hits"].as_u64()), (Some(0), Some(20)));
    // A little money buys the same first instances for both.
    let part =
        home.run("compare weak.toml strong.toml --task task --split tune --budget 0.004 --json --quiet", &[]).ended(0);
    let part = part.json();
    let (pairs, left) = (part["difference"]["pairs"].as_u64().unwrap(), part["not_reached"].as_u64().unwrap());
    assert!(pairs > 0 && left > 0 && pairs + left == 20, "{part:#}");
    assert!(dollars(&part, "spent_usd") <= usd("0.004"));
}

#[test]
fn gates_by_margin_and_by_proof() {
    let home = home(60);
    let code = |line: &str| home.run(&format!("compare {line} --task task --quiet"), &[]).code;
    assert_eq!(code("strong.toml weak.toml"), 0, "no gate was asked for");
    assert_eq!(code("strong.toml weak.toml --fail-if-worse"), 4);
    assert_eq!(code("strong.toml weak.toml --fail-if-worse --margin 0.95"), 0);
    assert_eq!(code("weak.toml strong.toml --fail-if-worse"), 0);
    assert_eq!(code("weak.toml weak.toml --fail-if-worse"), 0);
    assert_eq!(
        code("weak.toml weak.toml --fail-if-worse --strict"),
        4,
        "30 equal pairs do not show that nothing is lost"
    );
    assert_eq!(code("weak.toml weak.toml --fail-if-worse --strict --margin 0.2"), 0);
    assert_eq!(code("weak.toml strong.toml --fail-if-worse --strict"), 0);
}

#[test]
fn who_answers_nothing_fails_the_gate_not_the_comparison() {
    // The stronger model refuses every third instance: it is missing there, not wrong.
    let answer = |call: &Call| {
        let text = call.body["messages"][0]["content"].as_str().unwrap();
        let reply = farthing::backend::mock::answer(&support::request(&call.body), 0).unwrap();
        match call.body["model"] == "mock-large" && text.len().is_multiple_of(3) {
            true => Reply::Fault(Fault::context_too_long()),
            false => Reply::Answer(reply),
        }
    };
    let server = server(Options { answers: Answers::Custom(Arc::new(answer)), ..Options::default() });
    let home = home(40);
    home.point_at(&server.url(), "");
    let line = "compare weak.toml strong.toml --task task --json --quiet";
    let found = home.run(line, &[]).ended(0).json();
    let missing = found["b"]["missing"].as_u64().unwrap();
    assert!(missing > 1 && found["b"]["unreliable"] == true, "{found:#}");
    assert_eq!(found["difference"]["pairs"].as_u64(), Some(20 - missing));
    assert_eq!(found["not_paired"].as_u64(), Some(missing));
    let gate = home.run(line, &["--fail-if-worse"]).ended(4).json();
    assert!(gate["gate"]["reason"].as_str().unwrap().contains("for reasons of its own"), "{gate:#}");
}

#[test]
fn bad_usage() {
    let home = home(8);
    let mut all = String::new();
    for line in [
        "compare weak.toml storng.toml --task task",
        "compare weak.toml strong.toml",
        "compare weak.toml strong.toml --task task --by probelm",
        "compare weak.toml strong.toml --task task --by problem",
        "compare weak.toml strong.toml --task task --margin 0.1",
        "compare weak.toml strong.toml --task task --fail-if-worse --margin -0.1",
        "compare weak.toml task --task task",
        "compare weak.toml strong.toml --task task --data task/test.jsonl --split test",
    ] {
        let done = home.run(line, &["--quiet"]).ended(2);
        assert!(done.stdout.is_empty());
        all += &format!("## {line}\n{}\n", done.stderr.trim_end());
    }
    snapshot("bad_comparisons", &all);
}
