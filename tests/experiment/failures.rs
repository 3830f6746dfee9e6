//! Rows that are wrong, rows that fail, endpoints that go out.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farthing::serve::mock::{Call, Fault, Latency, Options, Reply};
use serde_json::{Value, json};

use crate::support::{self, Home, server, snapshot};
use crate::{custom, flat, results, rows, rows_text, said, text};

#[test]
fn a_wrong_row_fails_by_itself_or_with_strict_all() {
    let server = server(Options::default());
    let home = Home::over_http(1, &server.url(), "");
    let wrong = [
        "{\"id\": \"x\", \"prompt\": \"p\", \"model\": \"mock-small\", \"parameters\": {\"temprature\": 1}}",
        "not json",
        "{\"id\": \"y\", \"prompt\": \"p\", \"model\": \"no-such-model\"}",
        "{\"id\": \"z\", \"model\": \"mock-small\"}",
        "{\"id\": \"t\", \"prompt\": \"p\", \"model\": \"mock-small\", \"parameters\": {\"temperature\": 9}}",
    ];
    home.write("x.jsonl", rows(2, "") + &wrong.join("\n") + "\n");
    let strict = home.run("run x.jsonl --out strict --strict", &[]).ended(2);
    for line in [
        "x.jsonl:3: unknown parameter `temprature`: did you mean `temperature`?",
        "x.jsonl:4: this row is not valid JSON",
        "x.jsonl:7:",
    ] {
        assert!(flat(&strict.stderr).contains(line), "{line}: {}", strict.stderr);
    }
    assert_eq!(
        (server.ledger().requests, home.path("strict").exists(), home.path(".farthing").exists()),
        (0, false, false)
    );
    // Rows that are wrong in themselves are no reason; a model that there is not is one, when all else was answered.
    let done = home.run("run x.jsonl --out out --json", &[]).ended(5);
    assert_eq!(
        (&done.json()["answered"], &done.json()["failures"]),
        (&json!(2), &json!({"unknown_model": 1, "wrong_row": 4})),
        "{}",
        done.stderr
    );
    let said = flat(&done.stderr);
    assert!(said.contains("the model `no-such-model` could not be asked, and 1 row has no answer: "), "{said}");
    let rows = results(&home, "out");
    assert_eq!(
        (&rows[3]["line"], &rows[3]["error_kind"], &rows[3]["id"]),
        (&json!(4), &json!("wrong_row"), &json!("4"))
    );
    assert!(rows[4]["error"].as_str().unwrap().contains("no-such-model"), "{}", rows[4]);
    home.write("twice.jsonl", rows_text(&["a", "b", "a"]));
    let twice = home.run("run twice.jsonl --out twice", &[]).ended(2);
    assert!(twice.stderr.contains("first on line 1 and again on line 3"), "{}", twice.stderr);
    home.write("all.jsonl", wrong[0]);
    home.run("run all.jsonl --out all", &[]).ended(2);
    assert!(!home.path("all").exists() && !home.path("twice").exists());
}

#[test]
fn failures_go_to_the_back_and_a_row_that_is_wrong_in_itself_is_not_tried_again() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    let server = custom(move |call| {
        let number: usize = text(call).split_whitespace().nth(2).unwrap().parse().unwrap();
        let mut notes = notes.lock().unwrap();
        let times = notes.iter().filter(|known| **known == number).count();
        notes.push(number);
        match (number, times) {
            (2, 0) | (5, 0 | 1) | (6, _) => Reply::Fault(Fault::status(503).at_once()),
            (3, _) => Reply::Fault(Fault::status(400).at_once()),
            _ => said(&["4"]),
        }
    });
    let home = Home::over_http(1, &server.url(), "max_retries = 9");
    home.write("x.jsonl", rows(8, ""));
    let summary =
        home.run("run x.jsonl --out out --json --quiet --concurrency 1 --max-attempts 3", &[]).ended(0).json();
    assert_eq!(
        (&summary["answered"], &summary["failures"], &summary["attempts"]),
        (&json!(6), &json!({"bad_request": 1, "server": 1}), &json!(13))
    );
    let asked = asked.lock().unwrap();
    assert_eq!(asked[8..], [2, 5, 6, 5, 6], "rounds: {asked:?}");
    let rows = results(&home, "out");
    assert_eq!(
        (&rows[6]["status"], &rows[6]["response"], &rows[6]["id"]),
        (&json!("failed"), &Value::Null, &json!("r6"))
    );
    assert!(home.read("out/log.txt").contains("row 7, attempt 3: server"), "{}", home.read("out/log.txt"));
    // Run again, what failed for no reason of its own is asked again, and nothing else.
    let before = asked.len();
    drop(asked);
    let again = home.run("run x.jsonl --out out --json --quiet --concurrency 1 --max-attempts 3", &[]).ended(0).json();
    assert_eq!((&again["attempts"], &again["answered"]), (&json!(3), &json!(6)), "{again:#} {before}");
}

#[test]
fn an_endpoint_that_is_not_there_ends_it_with_exit_5_and_what_was_not_asked_is_asked_later() {
    let home = Home::over_http(1, "http://127.0.0.1:9", "");
    home.write("x.jsonl", rows(300, ""));
    let begin = Instant::now();
    let done = home.run("run x.jsonl --out out --json --quiet", &[]).ended(5);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!((&done.json()["stop_reason"], &done.json()["failed"]), (&json!("outage"), &json!(300)));
    assert!(done.stderr.contains("--resume out"), "{}", done.stderr);
    let server = server(Options { key: Some("right".into()), ..Options::default() });
    home.point_at(&server.url(), "");
    let refused = home.run("run --resume out --json --quiet", &[]).ended(5).json();
    assert!(refused["attempts"].as_u64().unwrap() < 100 && refused["failures"]["authentication"] == 300, "{refused:#}");
    let mut command = home.command(&["run", "--resume", "out", "--json", "--quiet"]);
    let done = support::done(command.env("OPENAI_API_KEY", "right")).ended(0).json();
    assert_eq!((&done["answered"], &done["failed"]), (&json!(300), &json!(0)));
}

#[test]
fn an_endpoint_of_one_row_that_is_not_there_is_exit_5_when_all_else_was_answered() {
    let server = server(Options::default());
    let home = Home::over_http(1, &server.url(), "");
    let gone = "[endpoints.gone]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:9/v1\"\n[models.gone]\nendpoint = \"gone\"\n";
    home.write("farthing.toml", home.read("farthing.toml") + gone);
    home.write("x.jsonl", rows(3, "").replacen("mock-small", "gone", 1));
    let done = home.run("run x.jsonl --out out --json --quiet", &[]).ended(5);
    let said = flat(&done.stderr);
    assert!(said.contains("the model `gone` could not be asked, and 1 row has no answer: no connection"), "{said}");
    let summary = done.json();
    assert_eq!((&summary["answered"], &summary["failures"]), (&json!(2), &json!({"connection": 1})), "{summary:#}");
    assert_eq!((&summary["stop_reason"], results(&home, "out").len()), (&json!("outage"), 3));
    // When it is there, only its row is asked.
    let there = home.read("farthing.toml").replace("http://127.0.0.1:9/v1", &server.url());
    home.write("farthing.toml", there.replace("[models.gone]", "[models.gone]\nid = \"mock-small\""));
    let done = home.run("run --resume out --json --quiet", &[]).ended(0).json();
    assert_eq!((&done["answered"], &done["attempts"]), (&json!(3), &json!(1)), "{done:#}");
}

#[test]
fn a_short_outage_is_waited_for_and_not_taken_for_the_end() {
    // More failures at once than there are tries for single rows: they are of one moment.
    let faults = Arc::new(|call: &Call| (20..44).contains(&call.number).then(|| Fault::status(500).at_once()));
    let server = server(Options { faults, latency: Latency::Fixed(Duration::from_millis(5)), ..Options::default() });
    let home = Home::over_http(1, &server.url(), "");
    home.write("x.jsonl", rows(80, ""));
    let done = home.run("run x.jsonl --out out --json --quiet --concurrency 16", &[]).ended(0).json();
    assert_eq!((&done["answered"], &done["stop_reason"]), (&json!(80), &json!("done")), "{done:#}");
    assert_eq!(done["requests"], json!(104), "requests that failed are counted: {done:#}");
}

#[test]
fn a_service_that_goes_out_leaves_no_row_waiting() {
    // The last rows of a round are given up while others wait for the next one.
    let faults = Arc::new(|call: &Call| {
        (call.number > 10).then(|| Fault::status(if call.number < 40 { 500 } else { 401 }).at_once())
    });
    let server = server(Options { faults, ..Options::default() });
    let home = Home::over_http(1, &server.url(), "");
    home.write("x.jsonl", rows(120, ""));
    let line = "run x.jsonl --out out --json --quiet --concurrency 16 --max-attempts 100";
    let done = home.run(line, &[]).ended(5).json();
    assert_eq!((&done["not_reached"], &done["stop_reason"]), (&json!(0), &json!("outage")), "{done:#}");
}

#[test]
fn a_model_that_refuses_every_request_is_not_asked_for_all_rows() {
    let faults = Arc::new(|_: &Call| Some(Fault::status(400).at_once()));
    let server = server(Options { faults, ..Options::default() });
    let home = Home::over_http(1, &server.url(), "");
    home.write("x.jsonl", rows(400, ""));
    let done = home.run("run x.jsonl --out out --quiet --concurrency 4", &[]).ended(5);
    assert!(server.ledger().requests < 60, "{}", server.ledger().requests);
    assert!(flat(&done.stderr).contains("the model `mock-small` could not be asked"), "{}", done.stderr);
    // Fewer rows than it takes to be sure: why is said all the same.
    home.write("y.jsonl", rows(3, ""));
    let done = home.run("run y.jsonl --out few --quiet", &[]).ended(5);
    assert!(flat(&done.stderr).contains("no row was answered; most of them failed so"), "{}", done.stderr);
    assert_eq!(home.summary("few")["requests"], json!(3));
}

#[cfg(target_os = "linux")]
#[test]
fn a_standard_error_that_cannot_be_written_ends_nothing() {
    let home = Home::new(1);
    home.write("x.jsonl", rows(5, ""));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = home.command(&["run", "x.jsonl", "--out", "out"]);
    let status = command.env("RUST_LOG", "debug").stderr(full).stdout(std::process::Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(home.summary("out")["answered"], json!(5));
}

#[test]
fn bad_usage() {
    let home = Home::new(1);
    home.write("x.jsonl", rows_text(&["a"]));
    home.write("empty.jsonl", "\n");
    home.write("twice.csv", "id,model,prompt\r\na,mock-small,p\r\na,mock-small,\"q\r\nr\"\r\n");
    home.write("limits.json", "{\"heer\": 10}");
    let shown = home.refused(&[
        "run",
        "run nothing.jsonl",
        "run x.txt",
        "run empty.jsonl",
        "run x.jsonl --metric exakt",
        "run twice.csv",
        "run x.jsonl --max-queries 0",
        "run x.jsonl --max-queries limits.json",
        "run x.jsonl --set temperature",
        "run x.jsonl --set temprature=1",
        "run x.jsonl --out a --resume b",
        "run --resume nowhere",
        "run x.jsonl --metric length --metric length",
        "run x.jsonl --metric a=length --metric a=length:unit=words",
        "run --watch nowhere",
        "judge x.jsonl --ask {{response}} --model mock-small",
        "judge x.jsonl --ask {{response}}",
        "judge x.jsonl --ask {{response}} --model mock-small --choices yes",
    ]);
    assert!(!home.path("results").exists(), "nothing was begun");
    snapshot("bad_experiments", &shown);
}
