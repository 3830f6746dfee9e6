//! `farthing cache`, `--no-cache` and `--refresh`: what people do with the store of samples.

mod support;

use std::process::Stdio;

use farthing::Usd;
use serde_json::{Value, json};
use support::{Done, Home, dollars};

const EVALUATE: &str = "evaluate task --json --quiet --set prompt=direct --set model=mock-small";

fn evaluate(home: &Home, more: &[&str]) -> Value {
    home.run(EVALUATE, more).ended(0).json()
}

fn stats(home: &Home) -> Value {
    home.run("cache stats --json", &[]).ended(0).json()
}

/// Points the models at a cassette, with the same prices.
fn replay(home: &Home, cassette: &str) {
    let text = support::endpoints(&format!("provider = \"replay\"\ncassette = \"{cassette}\""), "");
    home.write("farthing.toml", text);
}

/// Without what depends on the store.
fn judged(mut evaluated: Value) -> Value {
    for name in ["spent_usd", "cache_hits"] {
        assert!(evaluated.as_object_mut().unwrap().remove(name).is_some(), "{name}");
    }
    evaluated
}

#[test]
fn an_export_replays_to_the_same_scores() {
    let home = Home::new(20);
    // Grown in three purchases, so that samples of one request come from several responses.
    for n in ["n=1", "n=3", "n=10"] {
        evaluate(&home, &["--set", n]);
    }
    let bought: Vec<Value> = ["n=10", "n=3", "n=1"].map(|n| evaluate(&home, &["--set", n])).into();
    assert!(bought.iter().all(|evaluated| dollars(evaluated, "spent_usd") == Usd::ZERO), "{bought:?}");
    let mut texts = Vec::new();
    for name in ["tape.jsonl", "tape.jsonl.gz", "tape.jsonl.zst", "again.jsonl"] {
        let done = home.run("cache export", &[name]).ended(0);
        assert!(done.stderr.contains("20 requests"), "{done:#?}");
        texts.push(std::fs::read(home.path(name)).unwrap());
    }
    assert_eq!(texts[0], texts[3], "the order is not always the same");
    assert!(texts[1].len() < texts[0].len() / 2 && texts[2].len() < texts[0].len() / 2);
    let lines: Vec<Value> = home.read("tape.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 20);
    for line in &lines {
        assert_eq!((&line["model"], line["samples"].as_array().unwrap().len()), (&json!("mock-small"), 10), "{line}");
        assert_eq!(line["usage"]["completion_tokens"].as_array().unwrap().len(), 10);
        assert_eq!(line["finish_reasons"].as_array().unwrap().len(), 10);
        assert!(line["messages"].is_array() && line["params"]["temperature"] == json!(0.7));
    }
    let standard = home.run("cache export -", &[]).ended(0).stdout;
    assert_eq!(standard, home.read("tape.jsonl"));
    for name in ["tape.jsonl", "tape.jsonl.gz", "tape.jsonl.zst"] {
        replay(&home, name);
        for (before, n) in bought.iter().zip(["n=10", "n=3", "n=1"]) {
            let again = evaluate(&home, &["--store", "memory:", "--set", n]);
            assert_eq!(judged(again), judged(before.clone()), "{name}, {n}");
        }
    }
    assert_eq!(
        std::fs::read_dir(home.path(""))
            .unwrap()
            .filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().contains("part"))
            .count(),
        0,
        "half a file was left behind"
    );
}

#[test]
fn an_export_takes_what_is_asked_for() {
    let home = Home::new(5);
    evaluate(&home, &["--set", "n=1"]);
    home.run(EVALUATE, &["--set", "n=1", "--set", "model=mock-large"]).ended(0);
    for model in ["mock-small", "mock-large"] {
        let lines = home.run("cache export - --model", &[model]).ended(0).stdout;
        assert_eq!(lines.lines().count(), 5);
        assert!(lines.lines().all(|line| line.contains(&format!("\"model\":\"{model}\""))));
    }
    assert_eq!(home.run("cache export - --source mock", &[]).ended(0).stdout.lines().count(), 10);
    let none = home.run("cache export x.jsonl --model mock-smal", &[]).ended(2);
    assert!(none.stderr.contains("mock-small"), "{none:#?}");
    assert!(!home.path("x.jsonl").exists());
    let nowhere = home.run("cache export no/folder/x.jsonl", &[]).ended(2);
    assert!(nowhere.stderr.contains("cannot write no/folder/x.jsonl"), "{nowhere:#?}");
    #[cfg(target_os = "linux")]
    {
        let full = home.run("cache export /dev/full", &[]).ended(2);
        assert!(full.stderr.contains("cannot write /dev/full"), "{full:#?}");
    }
}

#[test]
fn the_statistics_count() {
    let home = Home::new(6);
    let small = dollars(&evaluate(&home, &["--set", "n=3"]), "spent_usd");
    let large =
        dollars(&home.run(EVALUATE, &["--set", "n=1", "--set", "model=mock-large"]).ended(0).json(), "spent_usd");
    let stats = stats(&home);
    assert_eq!(
        (&stats["requests"], &stats["samples"], &stats["purchases"]),
        (&json!(12), &json!(24), &json!(12)),
        "{stats}"
    );
    assert_eq!(dollars(&stats["ledger"], "settled_usd"), small + large);
    assert_eq!(stats["ledger"]["entries"], 12);
    let by_model = stats["by_model"].as_array().unwrap();
    assert_eq!(by_model.len(), 2);
    assert_eq!((&by_model[0]["model"], &by_model[0]["source"]), (&json!("mock-large"), &json!("mock")));
    assert_eq!((dollars(&by_model[0], "settled_usd"), dollars(&by_model[1], "settled_usd")), (large, small));
    assert!(stats["file_bytes"].as_u64().unwrap() > stats["bytes"].as_u64().unwrap() / 2);
    assert!(stats["oldest"].as_str().unwrap() <= stats["newest"].as_str().unwrap());
    let table = home.run("cache stats", &[]).ended(0).stdout;
    for word in ["mock-small", "mock-large", "requests", "billed", &(small + large).to_string()] {
        assert!(table.contains(word), "{word} in {table}");
    }
}

#[test]
fn pruning_and_clearing_leave_the_ledger() {
    let home = Home::new(6);
    evaluate(&home, &["--set", "n=1"]);
    home.run(EVALUATE, &["--set", "n=1", "--set", "model=mock-large"]).ended(0);
    let before = stats(&home);
    let prune = |more: &[&str]| home.run("cache prune --json", more).ended(0).json();
    assert_eq!(prune(&["--older-than", "1h"])["removed_requests"], 0);
    let dry = prune(&["--model", "mock-large", "--dry-run"]);
    assert_eq!((&dry["removed_requests"], &dry["dry_run"]), (&json!(6), &json!(true)));
    let held = |mut stats: Value| {
        // The file's log may have been written back meanwhile.
        stats.as_object_mut().unwrap().remove("file_bytes");
        stats
    };
    assert_eq!(held(stats(&home)), held(before.clone()), "a dry run changed something");
    assert_eq!(prune(&["--older-than", "1h", "--model", "mock-large"])["removed_requests"], 0, "both must hold");
    assert_eq!(prune(&["--model", "mock-large"])["removed_requests"], 6);
    let after = stats(&home);
    assert_eq!((&after["requests"], &after["ledger"]), (&json!(6), &before["ledger"]));
    // To half of the size: three of the six, which are about equal.
    let half = (after["bytes"].as_u64().unwrap() * 6 / 10).to_string();
    let pruned = prune(&["--larger-than-total", &half]);
    assert_eq!(pruned["removed_requests"], 3, "{pruned}");
    assert!(pruned["left_bytes"].as_u64().unwrap() <= half.parse().unwrap());
    assert_eq!(prune(&["--larger-than-total", "1GB"])["removed_requests"], 0);
    // What is gone is bought again, what is there is not.
    assert_eq!(evaluate(&home, &["--set", "n=1"])["cache_hits"], 3);
    let refused = home.run("cache clear", &[]).ended(2);
    assert!(refused.stderr.contains("--yes") && refused.stderr.contains("6 requests"), "{refused:#?}");
    assert_eq!(stats(&home)["requests"], 6);
    let entries = stats(&home)["ledger"].clone();
    home.run("cache clear --yes", &[]).ended(0);
    let cleared = stats(&home);
    assert_eq!((&cleared["requests"], &cleared["ledger"]), (&json!(0), &entries));
    assert_eq!(evaluate(&home, &["--set", "n=1"])["cache_hits"], 0);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let home = Home::new(2);
    let says = |done: Done, words: &[&str]| {
        let done = done.ended(2);
        for word in words {
            assert!(done.stderr.replace("\n  │ ", "").contains(word), "{word} in {done:#?}");
        }
    };
    for command in ["stats", "export x.jsonl", "prune --model m", "clear --yes"] {
        says(home.run(&format!("cache {command}"), &[]), &["there is no store at", "store.db"]);
        assert!(!home.path(".farthing").exists(), "{command} made a store");
    }
    home.write("note.db", "no database at all");
    says(home.run("cache stats --store note.db", &[]), &["not an SQLite database"]);
    says(home.run("cache stats --store memory:", &[]), &["in memory"]);
    says(home.run("cache prune", &[]), &["what shall be removed"]);
    says(home.run("cache prune --older-than yesterday", &[]), &["--older-than"]);
    says(home.run("cache prune --older-than -3d", &[]), &["--older-than", "not below 0"]);
    home.write("empty.db", "");
    says(home.run("cache stats --store empty.db", &[]), &["empty.db is no store: it is empty"]);
    assert_eq!(home.read("empty.db"), "");
    says(home.run("cache prune --larger-than-total big", &[]), &["--larger-than-total"]);
    says(home.run(EVALUATE, &["--no-cache", "--refresh"]), &["cannot be used with"]);
    assert_eq!(home.read("note.db"), "no database at all");
}

#[test]
fn no_cache_buys_anew_and_refresh_also_replaces() {
    let home = Home::new(8);
    let first = evaluate(&home, &["--set", "n=1"]);
    let price = dollars(&first, "spent_usd");
    assert!(price > Usd::ZERO);
    let again = evaluate(&home, &["--set", "n=1"]);
    assert_eq!((dollars(&again, "spent_usd"), &again["cache_hits"]), (Usd::ZERO, &json!(8)));
    for _ in 0..2 {
        let fresh = evaluate(&home, &["--set", "n=1", "--no-cache"]);
        assert_eq!((dollars(&fresh, "spent_usd"), &fresh["cache_hits"]), (price, &json!(0)), "it read from the store");
    }
    let kept = stats(&home);
    assert_eq!(
        (&kept["samples"], &kept["superseded_samples"], &kept["ledger"]["entries"]),
        (&json!(24), &json!(0), &json!(24))
    );
    let fresh = evaluate(&home, &["--set", "n=1", "--refresh"]);
    assert_eq!(dollars(&fresh, "spent_usd"), price);
    let kept = stats(&home);
    assert_eq!((&kept["samples"], &kept["superseded_samples"]), (&json!(8), &json!(24)));
    assert_eq!(kept["ledger"]["entries"], 32);
    assert_eq!(
        dollars(&evaluate(&home, &["--set", "n=1"]), "spent_usd"),
        Usd::ZERO,
        "later runs find what was refreshed"
    );
    assert_eq!(home.run("cache export -", &[]).ended(0).stdout.lines().count(), 8);
}

/// A study that began apart goes on with what it bought itself, and pays for nothing twice.
#[test]
fn a_resumed_study_finds_its_own_samples() {
    for flag in ["--no-cache", "--refresh"] {
        let home = Home::new(10);
        let tune = "tune task --budget 1 --seed 3 --strategy grid --max-trials 4 --quiet --json";
        home.run(tune, &["--out", "first"]).ended(0);
        let apart = home.run(tune, &["--out", "apart", flag]).ended(0).json();
        assert_eq!(apart["spent_usd"], apart["study_cost_usd"], "{flag}: something was taken from the store");
        // As if it had been killed before it could write what it came to.
        std::fs::remove_file(home.path("apart/summary.json")).unwrap();
        let resumed = home.run("tune --quiet --json --resume apart", &[]).ended(0).json();
        assert_eq!(resumed["spent_usd"], apart["spent_usd"], "{flag}: it paid twice");
        assert_eq!(support::decided(resumed), support::decided(apart), "{flag}");
        assert!(home.read("apart/study.toml").contains("cache = \""));
        let other = home.run("tune --quiet --resume first", &[flag]).ended(2);
        assert!(other.stderr.contains("was begun with neither"), "{other:#?}");
    }
}

/// Statistics, exports and pruning go on beside a study that writes.
#[test]
fn a_study_may_run_meanwhile() {
    let home = Home::new(30);
    evaluate(&home, &["--set", "n=1"]);
    let tune: Vec<&str> = "tune task --budget 5 --strategy grid --quiet --json --out run".split(' ').collect();
    let child = home.command(&tune).stdin(Stdio::null()).spawn().unwrap();
    for round in 0..4 {
        stats(&home);
        home.run("cache export", &[&format!("{round}.jsonl")]).ended(0);
        home.run("cache prune --model mock-large", &[]).ended(0);
    }
    let done = support::finished(child).ended(0);
    let spent = dollars(&done.json(), "spent_usd");
    let billed = dollars(&stats(&home)["ledger"], "settled_usd");
    assert!(billed >= spent && spent > Usd::ZERO, "the ledger lost entries: {billed} of {spent}");
}
