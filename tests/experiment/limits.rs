//! Limits, budgets, and runs that end early.

use std::time::{Duration, Instant};

use farthing::serve::mock::{Latency, Options};
use serde_json::json;

use crate::support::{Home, counts, dollars, server, signal, steady, usd};
use crate::{lines, results, rows, rows_text};

#[test]
fn limits_hold_by_group_and_by_model_and_groups_do_not_wait_for_each_other() {
    let server = server(Options::default());
    let home = Home::over_http(1, &server.url(), "");
    let of = |group: &str, count: usize| {
        rows(count, &format!(", \"group\": \"{group}\"")).replace("\"r", &format!("\"{group}")).replace("What", group)
    };
    home.write("x.jsonl", of("slow", 14) + &of("fast", 40));
    home.write("q.json", "{\"slow\": 600}");
    let begin = Instant::now();
    let done = home.run("run x.jsonl --out out --json --max-queries q.json --concurrency 4", &[]).ended(0);
    // Ten at once, then ten a second; the others need not wait for them, though all of them stand behind.
    assert!(begin.elapsed() >= Duration::from_millis(390), "{:?}", begin.elapsed());
    let order: Vec<String> =
        lines(&home.read("out/completed.jsonl")).iter().map(|row| row["group"].as_str().unwrap().to_owned()).collect();
    let (first, last) =
        (order.iter().position(|group| group == "fast"), order.iter().rposition(|group| group == "slow"));
    assert!(first < last, "{order:?}");
    let groups = &done.json()["groups"];
    assert_eq!(
        (&groups["slow"]["per_minute"], &groups["slow"]["queries"], &groups["fast"]["answered"]),
        (&json!(600), &json!(14), &json!(40))
    );
    assert!(groups["slow"]["seconds_per_query"].as_f64().unwrap() > 0.02, "{groups:#}");
    // What the store has passes no limit; one group after the other.
    home.write("q.json", "{\"slow\": 1, \"fast\": 1}");
    let begin = Instant::now();
    home.run("run x.jsonl --out again --quiet --max-queries q.json --sequential", &[]).ended(0);
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert_eq!(server.ledger().requests, 54);
    home.write("farthing.toml", home.read("farthing.toml") + "[limits.slow]\nmax_concurrency = 1\n");
    home.run("run x.jsonl --out third --quiet --sequential --no-cache --concurrency 8", &[]).ended(0);
    let order: Vec<bool> =
        lines(&home.read("third/completed.jsonl")).iter().map(|row| row["group"] == "slow").collect();
    assert!(order[..14].iter().all(|slow| *slow) && order[14..].iter().all(|slow| !slow), "{order:?}");
}

#[test]
fn the_budget_holds_and_buys_a_beginning() {
    let server = server(Options::default());
    let home = Home::over_http(1, &server.url(), "");
    home.write("x.jsonl", rows(60, ""));
    let run = |budget: &str| home.run("run x.jsonl --out out --json --quiet", &["--budget", budget]);
    let some = run("0.001").ended(0).json();
    let (spent, answered) = (dollars(&some, "spent_usd"), some["answered"].as_u64().unwrap() as usize);
    assert!(spent <= usd("0.001") && server.ledger().billed == spent, "{some:#}");
    assert!(answered > 5 && answered < 55 && some["stop_reason"] == "budget", "{some:#}");
    let ok: Vec<bool> = results(&home, "out").iter().map(|row| row["status"] == "ok").collect();
    assert!(ok[..answered].iter().all(|ok| *ok) && ok[answered..].iter().all(|ok| !ok), "a beginning: {ok:?}");
    // What it may cost was said once, and holds until it is raised.
    let same = home.run("run x.jsonl --out out --json --quiet --max-attempts 5", &[]).ended(0).json();
    assert_eq!((&same["budget_usd"], &same["answered"]), (&json!("0.001"), &json!(answered)));
    assert!(server.ledger().billed <= usd("0.001"));
    let lower = run("0.0005").ended(2);
    assert!(lower.stderr.contains("may only rise"), "{}", lower.stderr);
    let rest = home.run("run --resume out --json --quiet --budget 1", &[]).ended(0).json();
    assert_eq!((&rest["answered"], &rest["attempts"]), (&json!(60), &json!(60 - answered)));
    assert_eq!((server.ledger().billed, server.ledger().requests), (dollars(&rest, "spent_usd"), 60));
    // Too little for anything: nothing is sent.
    home.write("y.jsonl", rows(3, "").replace("What", "Tell"));
    let nothing = home.run("run y.jsonl --out y --quiet --budget 0.000001", &[]).ended(3);
    assert!(nothing.stdout.contains("not asked: its worst case is $"), "{}", nothing.stdout);
    assert_eq!(server.ledger().requests, 60);
    // Several groups under one budget, one of them slow.
    let both = rows(20, ", \"group\": \"a\"").replace("What", "Say")
        + &rows(20, ", \"group\": \"b\"").replace("What", "So").replace("\"r", "\"s");
    home.write("z.jsonl", both);
    home.write("q.json", "{\"a\": 1200}");
    for more in ["", " --sequential"] {
        let line = format!(
            "run z.jsonl --out z{} --json --quiet --budget 0.0008 --no-cache --max-queries q.json{more}",
            more.len()
        );
        let done = home.run(&line, &[]).ended(0).json();
        assert!(dollars(&done, "spent_usd") <= usd("0.0008") && done["answered"].as_u64().unwrap() > 5, "{done:#}");
    }
    let wrong = home.run("run y.jsonl --out w --budget 0", &[]).ended(2);
    assert!(wrong.stderr.contains("above 0"), "{}", wrong.stderr);
}

#[test]
fn killed_or_stopped_it_goes_on_and_nothing_is_paid_twice() {
    let (answers, asked) = steady();
    let latency = Latency::Fixed(Duration::from_millis(15));
    let server = server(Options { answers, latency, ..Options::default() });
    let home = Home::over_http(1, &server.url(), "");
    home.write("x.jsonl", rows(150, ""));
    let line = [
        "run",
        "x.jsonl",
        "--out",
        "out",
        "--json",
        "--quiet",
        "--budget",
        "1",
        "--concurrency",
        "4",
        "--metric",
        "numeric:expected={{ answer }}",
    ];
    let mut lives = 0;
    for (goal, name) in [(25, "KILL"), (55, "INT"), (80, "TERM"), (100, "KILL")] {
        let mut child = home.command(&line).spawn().unwrap();
        while server.ledger().requests < goal && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_none() {
            signal(&child, name);
            lives += 1;
        }
        let code = child.wait().unwrap().code();
        if name != "KILL" {
            assert_eq!(code, Some(130), "{name}");
            assert_eq!(home.summary("out")["stop_reason"], "interrupted");
        }
    }
    assert_eq!(lives, 4);
    let home_completed = home.read("out/completed.jsonl");
    home.write("out/completed.jsonl", format!("{home_completed}{{\"half\": \"a rec"));
    let done = home.run("run --resume out --json --quiet --concurrency 4", &[]).ended(0).json();
    assert_eq!((&done["answered"], &done["not_reached"]), (&json!(150), &json!(0)));
    assert!(done["attempts"].as_u64().unwrap() < 90, "{done:#}");
    let rows = results(&home, "out");
    let ids: Vec<String> = rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (0..150).map(|at| format!("r{at}")).collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row["status"] == "ok" && row["scores"]["numeric"].is_number()));
    // Only what was in flight at a kill may have been asked twice.
    let twice = counts(&asked).values().filter(|count| **count > 1).count();
    assert!(twice <= 10, "{twice}");
    let spent = dollars(&done, "spent_usd");
    assert!(server.ledger().billed <= spent && spent <= usd("1"), "{spent} {}", server.ledger().billed);
    // Another input, or other settings, are another experiment.
    home.write("x.jsonl", rows_text(&["a"]));
    assert!(home.run("run x.jsonl --out out", &[]).ended(2).stderr.contains("its input is not the same"));
    assert!(home.run("run --resume out --model mock-large", &[]).ended(2).stderr.contains("keeps the settings"));
}
