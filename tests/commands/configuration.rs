//! A configuration that is named, found, evaluated and tested.

use serde_json::{Value, json};

use crate::support::{Home, dollars};

#[test]
fn settings_are_names_values_or_texts() {
    let home = Home::new(6);
    home.edit("task/space.toml", "value = 0.7", "type = \"float\"\nlow = 0.0\nhigh = 1.5\ndefault = 0.7");
    home.edit(
        "task/space.toml",
        "[params.n]",
        "[params.stop]\ntype = \"categorical\"\nchoices = [[], [\"\\n\"], [\"#\", \"Q:\"]]\n[params.n]",
    );
    let set = |settings: &[&str]| {
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        home.run("evaluate task --json --quiet", &arguments).ended(0).json()["config"].clone()
    };
    let base = set(&[]);
    assert_eq!(
        base,
        json!({"prompt": "direct", "model": "mock-small", "temperature": 0.7, "max_tokens": 48, "n": 1, "stop": []})
    );
    let one = set(&["prompt=steps", "n=3", "temperature=1", "stop=[\"#\", \"Q:\"]"]);
    assert_eq!(one["prompt"], json!("steps"));
    assert_eq!((&one["n"], one["temperature"].as_f64()), (&json!(3), Some(1.0)));
    assert_eq!(one["stop"], json!(["#", "Q:"]));
    assert_eq!(set(&["prompt = \"steps\"", "n = 10"])["n"], json!(10));
    assert_eq!(set(&["n=3", "n=10"])["n"], json!(10), "the last one counts");

    // A file gives, and --set overrides; a run's best.toml is such a file.
    home.run("tune task --budget 0.02 --out run --quiet", &[]).ended(0);
    let best = home.summary("run")["best"]["config"].clone();
    let evaluate = |more: &[&str]| {
        home.run("evaluate task --config run/best.toml --json --quiet", more).ended(0).json()["config"].clone()
    };
    assert_eq!(evaluate(&[]), best);
    let mut changed = best.clone();
    changed["max_tokens"] = json!(48);
    changed["prompt"] = json!("direct");
    assert_eq!(evaluate(&["--set", "prompt=direct"]), changed);
    // It serves without the space.
    std::fs::remove_file(home.path("task/space.toml")).unwrap();
    assert_eq!(evaluate(&["--split", "test"]), best);
}

#[test]
fn a_task_is_found_by_its_bare_file_name_with_its_endpoints() {
    let home = Home::new(4);
    for file in ["task.toml", "tune.jsonl", "test.jsonl", "space.toml"] {
        home.write(file, home.read(&format!("task/{file}")));
    }
    let done = home.run("evaluate task.toml --set n=1 --json --quiet", &[]).ended(0).json();
    assert_eq!(done["instances"], 4, "{done:#}");
}

#[test]
fn a_winner_is_tested_and_gated() {
    let home = Home::new(30);
    let tuned = home.run("tune task --budget 0.05 --out run --json --quiet", &[]).ended(0).json();
    assert_eq!(tuned["holdout"], Value::Null);
    let tested = home.run("test run --json --quiet", &[]).ended(0).json();
    let score = tested["score"].as_f64().unwrap();
    assert_eq!((&tested["instances"], &tested["missing"], &tested["not_reached"]), (&json!(15), &json!(0), &json!(0)));
    let kept = home.summary("run");
    assert_eq!(kept["holdout"]["score"], tested["score"]);
    assert_eq!(kept["best"], tuned["best"], "a test changes no choice");
    assert_eq!(dollars(&kept, "study_cost_usd"), dollars(&tuned, "study_cost_usd"));
    home.run("tune --resume run --quiet", &[]).ended(0);
    let again = home.summary("run");
    for key in ["holdout", "holdout_cost_usd", "claims"] {
        assert_eq!(again[key], kept[key], "the test of a winner that wins again is kept: {key}");
    }
    // What judged nothing, or instances that the winner was tuned on, does not take its place.
    home.run("test run --quiet --no-cache --budget 0", &[]).ended(3);
    assert_eq!(home.summary("run"), again);
    let tuned_on = home.run("test run --quiet --data task/tune.jsonl", &[]).ended(0);
    assert!(tuned_on.stderr.contains("The run's folder is left as it is"), "{tuned_on:#?}");
    assert!(
        tuned_on.stdout.contains("all of them tuning") && !tuned_on.stdout.contains("did not choose it"),
        "{tuned_on:#?}"
    );
    assert_eq!(home.summary("run"), again);
    home.run("test run --quiet --min-score", &[&format!("{}", score - 0.01)]).ended(0);
    home.run("test run --quiet --min-score", &[&format!("{}", score + 0.01)]).ended(4);
    // A best.toml alone, elsewhere, on other data.
    std::fs::copy(home.path("run/best.toml"), home.path("mine.toml")).unwrap();
    let other = home.run("test mine.toml --task task --data task/tune.jsonl --json --quiet", &[]).ended(0).json();
    assert_eq!(other["instances"], json!(30));
    // Other data they are not: the same instances chose it.
    let same = home.run("test mine.toml --task task --data task/tune.jsonl --json --quiet", &[]).ended(0);
    assert!(same.stderr.contains("Warning: All of the 30 instances to test on"), "{same:#?}");
    assert!(!home.run("test run --json --quiet", &[]).ended(0).stderr.contains("Warning"));
    assert_eq!(other["config"], tuned["best"]["config"]);
}
