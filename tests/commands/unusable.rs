//! Endpoints that cannot be used, and results that could not be kept.

use std::fmt::Write;
use std::sync::Arc;

use farthing::serve::mock::{Call, Fault, Options};
use serde_json::{Value, json};

use crate::support::{self, Done, Home, server, snapshot};
use crate::{TUNE, said};

#[test]
fn an_endpoint_that_cannot_be_used_is_exit_5() {
    let mut text = String::new();
    let mut shown = |name: &str, home: &Home, done: &Done| {
        writeln!(text, "## {name}\n{}", said(home, done)).unwrap();
    };
    let gone = server(Options::default()).url();
    let home = Home::over_http(4, &gone, "max_retries = 0");
    shown("nobody there", &home, &home.run(TUNE, &["--quiet"]).ended(5));

    let cases = [("bad key", Fault::status(401)), ("unknown model", Fault::status(404)), ("no credit", Fault::quota())];
    for (name, fault) in cases {
        let faults = Arc::new(move |_: &Call| Some(fault.clone()));
        let server = server(Options { faults, ..Options::default() });
        let home = Home::over_http(24, &server.url(), "");
        for line in [TUNE, "evaluate task --budget 0.01"] {
            let done = home.run(line, &["--quiet", "--concurrency", "2"]).ended(5);
            shown(&format!("{name}: {line}"), &home, &done);
        }
        assert_eq!(server.ledger().billed, farthing::Usd::ZERO, "{name}");
        assert!(server.ledger().requests <= 16, "{name}: asked {} times", server.ledger().requests);
        // The folder is there, so that the run can go on when the key is right.
        assert!(home.path("run/study.toml").is_file());
    }
    let refused = regex::Regex::new(r"(?i)(tcp connect error: )?connection refused \(os error \d+\)").unwrap();
    snapshot("no_endpoint", &refused.replace_all(&text, "REFUSED"));
}

#[test]
fn all_missing_is_exit_5_and_no_score() {
    let faults = Arc::new(|_: &Call| Some(Fault::context_too_long()));
    let server = server(Options { faults, ..Options::default() });
    let home = Home::over_http(6, &server.url(), "");
    let done = home.run("evaluate task --json --quiet", &[]).ended(5);
    assert!(done.stderr.starts_with("Every evaluation failed; the first one: context too long: "), "{}", done.stderr);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    let done = done.json();
    assert_eq!(done["metrics"]["accuracy"], json!({"mean": null, "ci95": null}));
    assert_eq!((&done["instances"], &done["missing"]), (&json!(0), &json!(6)));
    assert_eq!(done["production_cost_usd_per_instance"], Value::Null);
    assert_eq!(done["spent_usd"], json!("0"));
    // Some missing: the others count, and nothing is a score of 0.
    let faults = Arc::new(|call: &Call| call.body.to_string().contains("beads").then(Fault::context_too_long));
    let server = support::server(Options { faults, ..Options::default() });
    home.point_at(&server.url(), "");
    let done = home.run("evaluate task --json --quiet", &[]).ended(0).json();
    let beads = home.read("task/tune.jsonl").lines().filter(|line| line.contains("beads")).count();
    assert!(beads > 0 && done["missing"] == json!(beads) && done["instances"] == json!(6 - beads), "{done:#}");
}

#[test]
fn a_test_whose_result_could_not_be_kept_is_not_begun() {
    let home = Home::new(12);
    home.run("tune task --budget 0.02 --out run --quiet", &[]).ended(0);
    std::fs::remove_file(home.path("run/ranking.csv")).unwrap();
    let entries = || home.run("cache stats --json", &[]).ended(0).json()["ledger"]["entries"].clone();
    let before = entries();
    home.run("test run --quiet", &[]).ended(2);
    assert_eq!(entries(), before, "nothing was bought");
}
