//! Experiments from files, as people run them: `farthing run`, `judge` and `rephrase`.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farthing::Usd;
use farthing::provider::{FinishReason, Response, Sample};
use farthing::serve::mock::{Answers, Call, Fault, Latency, MockServer, Options, Reply};
use serde_json::{Value, json};
use support::{Done, Home, counts, dollars, server, snapshot, steady, usd};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/experiments")
}

/// A home with the examples in it.
fn home_with_examples() -> Home {
    let home = Home::new(1);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(examples().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            match examples().join(&path).is_dir() {
                true => folders.push(path),
                false => home.write(path.to_str().unwrap(), std::fs::read(examples().join(&path)).unwrap()),
            }
        }
    }
    home
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The rows of a run in the order of the input.
#[track_caller]
fn results(home: &Home, run: &str) -> Vec<Value> {
    lines(&home.read(&format!("{run}/results.jsonl")))
}

fn rows(count: usize, more: &str) -> String {
    (0..count)
        .map(|at| format!("{{\"id\": \"r{at}\", \"prompt\": \"What is {at} + 1?\", \"answer\": {}, \"model\": \"mock-small\", \"parameters\": {{\"max_tokens\": 40}}{more}}}\n", at + 1))
        .collect()
}

/// A message without its line breaks.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "")
}

fn text(call: &Call) -> String {
    let last = call.body["messages"].as_array().and_then(|all| all.last()).unwrap();
    last["content"].as_str().unwrap().to_owned()
}

fn said(texts: &[&str]) -> Reply {
    let samples = texts.iter().map(|text| Sample::new(*text, FinishReason::STOP, 2)).collect();
    Reply::Answer(Response { samples, prompt_tokens: 5, ..Response::default() })
}

fn custom(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> MockServer {
    server(Options { answers: Answers::Custom(Arc::new(answer)), ..Options::default() })
}

#[test]
fn rows_of_our_form_are_answered_and_carried_through_to_the_byte() {
    let home = home_with_examples();
    let before = home.read("sums.jsonl");
    let line = "run sums.jsonl --out out --json --metric numeric:expected={{answer}}:vote=any";
    let done = home.run(line, &[]).ended(0);
    let summary = done.json();
    assert_eq!(
        (&summary["rows"], &summary["answered"], &summary["stop_reason"]),
        (&json!(5), &json!(5), &json!("done"))
    );
    assert!(done.stderr.contains("careful: 1 query at 6000 queries a minute (gpt-4o 1)"), "{}", done.stderr);
    assert!(
        done.stderr.contains("openai: 4 queries, no limit of the group (gpt-4o 1, gpt-4o-mini 3)"),
        "{}",
        done.stderr
    );
    for (given, line) in before.lines().zip(home.read("out/results.jsonl").lines()) {
        assert!(line.starts_with(&given[..given.len() - 1]), "{line}");
    }
    let rows = results(&home, "out");
    assert!(rows[0]["response"].is_string() && rows[0]["scores"]["numeric"].is_number(), "{:#}", rows[0]);
    assert_eq!(rows[1]["response"].as_array().unwrap().len(), 3, "n = 3 of a column of its own");
    assert_eq!(rows[4]["weight"].to_string(), "1.5");
    assert_eq!(home.read("out/input-sums.jsonl"), before);
    assert_eq!(home.read("sums.jsonl"), before, "it is not moved");
    let completed = lines(&home.read("out/completed.jsonl"));
    assert!(completed.iter().all(|row| row["attempts"] == 1 && row["timestamp_sent"].is_string()), "{completed:#?}");
    let table = home.read("out/results.csv");
    let header: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    assert!(
        header.contains(&"score-numeric") && header.contains(&"response") && header.contains(&"weight"),
        "{header:?}"
    );
    assert!(home.read("out/log.txt").contains("done: 5 answered, 0 failed"));
    // The same again finds all in the store, and gives the same results to the byte.
    let again = home.run(&line.replace("out out", "out again"), &["--quiet"]).ended(0);
    assert_eq!(home.read("again/results.jsonl"), home.read("out/results.jsonl"));
    assert_eq!((&again.json()["cache_hits"], again.stderr.as_str()), (&json!(5), ""));
    assert_eq!(summary["cost_usd"], again.json()["cost_usd"]);
    // On the same folder nothing is left to ask.
    let same = home.run(line, &[]).ended(0).json();
    assert_eq!((&same["answered"], &same["attempts"]), (&json!(5), &json!(0)));
}

#[cfg(feature = "parquet")]
#[test]
fn a_table_of_results_is_an_experiment_again() {
    let home = Home::new(1);
    home.write("x.jsonl", rows(5, ""));
    home.run("run x.jsonl --out out --quiet --metric numeric:expected={{answer}}", &[]).ended(0);
    let again = home.run("run out/results.parquet --out again --json --quiet", &[]).ended(0).json();
    assert_eq!((&again["answered"], &again["cache_hits"]), (&json!(5), &json!(5)), "the same is asked: {again:#}");
    for (first, second) in results(&home, "out").iter().zip(results(&home, "again")) {
        assert_eq!((&first["id"], &first["response"]), (&second["id"], &second["response"]));
        assert_eq!((&second["score-numeric"], &second["input-status"]), (&first["scores"]["numeric"], &json!("ok")));
    }
}

#[test]
fn csv_cells_are_typed_and_the_input_is_moved_where_that_is_asked_for() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    let server = custom(move |call| {
        notes.lock().unwrap().push(call.body.clone());
        said(&["7"])
    });
    let home = Home::over_http(1, &server.url(), "");
    let csv = examples().join("sums.csv");
    let text =
        std::fs::read_to_string(csv).unwrap().replace("gpt-4o-mini", "mock-small").replace("gpt-4o", "mock-large");
    home.write("in/sums.csv", &text);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, text.as_bytes()).unwrap();
    home.write("in/packed.csv.gz", packed.finish().unwrap());
    home.run("run in/sums.csv --json --move-input", &[]).ended(0);
    assert!(!home.path("in/sums.csv").exists());
    assert_eq!(home.read("results/sums-1/input-sums.csv"), text);
    let asked = asked.lock().unwrap().clone();
    let of = |start: &str| {
        asked.iter().find(|body| body["messages"][0]["content"].as_str().unwrap().starts_with(start)).unwrap()
    };
    assert_eq!(
        (&of("Ann")["temperature"], &of("Ann")["stop"], of("Ann").get("max_tokens")),
        (&json!(0.5), &json!(["Question:"]), None)
    );
    assert_eq!((&of("Eve")["temperature"], &of("Eve")["max_tokens"]), (&json!(0), &json!(60)));
    assert_eq!(of("Leo").get("temperature"), None, "an empty cell is none");
    let row = &results(&home, "results/sums-1")[1];
    assert_eq!((&row["parameters-temperature"], &row["answer"]), (&json!("0.5"), &json!("7")));
    let packed = home.run("run in/packed.csv.gz --json --quiet", &[]).ended(0).json();
    assert_eq!((&packed["cache_hits"], &packed["folder"]), (&json!(3), &json!("results/packed-1")));
    let names: Vec<_> =
        std::fs::read_dir(home.path("results/packed-1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(".") && name != ".lock"), "{names:?}");
}

#[test]
fn files_of_prompto_run_unchanged() {
    let home = home_with_examples();
    let done = home
        .run("run prompto.jsonl --out out --json --max-queries max_queries.json --metric match --metric includes", &[])
        .ended(0);
    assert_eq!((&done.json()["answered"], &done.json()["rows"]), (&json!(12), &json!(12)), "{}", done.stderr);
    for group in [
        "openai: 1 query at 3000 queries a minute (gpt-4o-mini 1)",
        "openai-gpt-4o: 1 query at 1200 queries a minute (gpt-4o 1)",
        "anthropic: 1 query at 1200",
        "slow: 1 query at 600",
        "ollama: 3 queries, no limit",
    ] {
        assert!(done.stderr.contains(group), "{group}: {}", done.stderr);
    }
    let rows = results(&home, "out");
    assert_eq!(rows[0]["response"].as_array().unwrap().len(), 2);
    assert_eq!(rows[1]["response"].as_array().unwrap().len(), 2, "one for each turn");
    assert!(rows.iter().all(|row| row["scores"]["match"].is_number() && row["expected_response"].is_string()));
    home.run("run prompto.csv --out csv --quiet", &[]).ended(0);
    assert_eq!(results(&home, "csv").len(), 3);
    // It does not mind an id that is there twice.
    let row = |word: &str| json!({"id": 3, "api": "openai", "model_name": "gpt-4o", "prompt": word}).to_string() + "\n";
    home.write("twice.jsonl", row("one") + &row("two"));
    let twice = home.run("run twice.jsonl --out twice", &[]).ended(0);
    assert!(twice.stderr.contains("1 rows have the id of an earlier one"), "{}", twice.stderr);
    let prompts: Vec<Value> = results(&home, "twice").iter().map(|row| row["prompt"].clone()).collect();
    assert_eq!(prompts, ["one", "two"]);
}

/// The same files with the variables that prompto reads, and no farthing.toml; what cannot be mapped says what to do.
#[test]
fn promptos_variables_name_endpoints_and_the_rest_fails_by_itself() {
    let models = Arc::new(Mutex::new(Vec::new()));
    let notes = models.clone();
    let answer = move |call: &Call| {
        notes.lock().unwrap().push(call.body["model"].as_str().unwrap_or("-").to_owned());
        let n = call.body["n"].as_u64().unwrap_or(1) as usize;
        said(&vec!["yes"; n])
    };
    let options = Options { models: BTreeMap::new(), answers: Answers::Custom(Arc::new(answer)), ..Options::default() };
    let server = MockServer::start(options).unwrap();
    let home = Home::new(1);
    std::fs::remove_file(home.path("farthing.toml")).unwrap();
    home.write("x/prompto.jsonl", std::fs::read(examples().join("prompto.jsonl")).unwrap());
    let root = server.url().replace("/v1", "");
    let mut command = home.command(&["run", "x/prompto.jsonl", "--out", "out", "--json", "--concurrency", "1"]);
    command
        .env("AZURE_OPENAI_API_ENDPOINT", &root)
        .env("AZURE_OPENAI_API_KEY", "k")
        .env("AZURE_OPENAI_API_VERSION", "2024-10-21");
    command.env("ANTHROPIC_BASE_URL", server.url()).env("ANTHROPIC_API_KEY", "k").env_remove("GEMINI_API_KEY");
    command.env("OLLAMA_API_ENDPOINT", &root).env("HUGGINGFACE_TGI_API_ENDPOINT", &root);
    let done = support::done(&mut command).ended(0);
    let rows = results(&home, "out");
    let ok: Vec<u64> = rows.iter().filter(|row| row["status"] == "ok").map(|row| row["id"].as_u64().unwrap()).collect();
    assert_eq!(ok, [2, 3, 5, 6, 7, 8], "{rows:#?} {}", done.stderr);
    for (id, wanted) in [
        (0, "OPENAI_API_KEY"),
        (4, "set GEMINI_API_KEY"),
        (9, "[endpoints.vertexai]"),
        (10, "[endpoints.quart]"),
        (11, "provider = \"mock\""),
    ] {
        assert!(rows[id]["error"].as_str().unwrap().contains(wanted), "{}", rows[id]);
    }
    assert!(done.stderr.contains("x/prompto.jsonl:12: there is no endpoint for the api `test`"), "{}", done.stderr);
    let models = models.lock().unwrap();
    let ollama: Vec<&String> =
        models.iter().filter(|model| ["qwen2.5", "llama3.2"].contains(&model.as_str())).collect();
    assert_eq!(ollama, ["llama3.2", "qwen2.5", "qwen2.5"], "one model after the other");
}

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
    let done = home.run("run x.jsonl --out out --json", &[]).ended(0);
    assert_eq!(
        (&done.json()["answered"], &done.json()["failures"]),
        (&json!(2), &json!({"unknown_model": 1, "wrong_row": 4})),
        "{}",
        done.stderr
    );
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

fn rows_text(ids: &[&str]) -> String {
    ids.iter().map(|id| format!("{{\"id\": \"{id}\", \"prompt\": \"p\", \"model\": \"mock-small\"}}\n")).collect()
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

fn kill(child: &std::process::Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
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
    for (goal, signal) in [(25, "-KILL"), (55, "-INT"), (80, "-TERM"), (100, "-KILL")] {
        let mut child = home.command(&line).spawn().unwrap();
        while server.ledger().requests < goal && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_none() {
            kill(&child, signal);
            lives += 1;
        }
        let code = child.wait().unwrap().code();
        if signal != "-KILL" {
            assert_eq!(code, Some(130), "{signal}");
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

#[test]
fn an_endpoint_that_is_not_there_ends_it_with_exit_5_and_what_was_not_asked_is_asked_later() {
    let home = Home::over_http(1, "http://127.0.0.1:9", "");
    home.write("x.jsonl", rows(300, ""));
    let begin = Instant::now();
    let done = home.run("run x.jsonl --out out --json --quiet", &[]).ended(5);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
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
fn equal_rows_share_an_answer_or_have_one_each() {
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let server = custom(move |_| said(&[&count.fetch_add(1, Ordering::SeqCst).to_string()]));
    let home = Home::over_http(1, &server.url(), "");
    home.write("x.jsonl", rows_text(&["a", "b", "c"]));
    let shared = home.run("run x.jsonl --out shared --json", &[]).ended(0);
    assert!(shared.stderr.contains("2 rows ask the same as an earlier one"), "{}", shared.stderr);
    assert_eq!(given.load(Ordering::SeqCst), 1);
    home.run("run x.jsonl --out apart --quiet --distinct", &[]).ended(0);
    let mut responses: Vec<String> = results(&home, "apart").iter().map(|row| row["response"].to_string()).collect();
    assert_eq!((responses[0].as_str(), given.load(Ordering::SeqCst)), ("\"0\"", 3));
    responses.sort();
    responses.dedup();
    assert_eq!(responses.len(), 3);
}

#[test]
fn a_template_is_rendered_over_every_row() {
    let home = home_with_examples();
    home.run("run --template question.jinja --data questions.jsonl --model gpt-4o-mini --set max_tokens=20 --set temperature=0 --out out --quiet", &[]).ended(0);
    let rows = results(&home, "out");
    assert_eq!(
        (&rows[0]["prompt"], &rows[0]["topic"], &rows[0]["model"]),
        (&json!("Answer in one word.\nWhat is salty and wide?\n"), &json!("nature"), &json!("gpt-4o-mini"))
    );
    assert!(rows.iter().all(|row| row["status"] == "ok"));
    home.write("q.jinja", "{{ qestion }}");
    let wrong = home.run("run --template q.jinja --data questions.jsonl --model gpt-4o-mini --out w", &[]).ended(2);
    assert!(
        flat(&wrong.stderr).contains("questions.jsonl:1: the template cannot be rendered: `qestion` is undefined"),
        "{}",
        wrong.stderr
    );
    let metric = home.run("run sums.jsonl --out w --metric exact_match:expected={{anser}}", &[]).ended(2);
    assert!(
        metric.stderr.contains("needs the column `anser`") && metric.stderr.contains("`answer`"),
        "{}",
        metric.stderr
    );
}

#[test]
fn judges_judge_what_was_answered() {
    let server = custom(|call| match text(call) {
        text if text.starts_with("Judge") => {
            said(&[if text.contains("Answer: good") { "Score: 9/10" } else { "I cannot tell" }])
        }
        text if text.contains("0 + 1") => said(&["good"]),
        text if text.contains("2 + 1") => Reply::Fault(Fault::status(400).at_once()),
        _ => said(&["bad"]),
    });
    let home = Home::over_http(1, &server.url(), "");
    home.write("x.jsonl", rows(3, ""));
    home.run("run x.jsonl --out out --quiet", &[]).ended(0);
    home.write("judges.json", "{\"small\": {\"model\": \"mock-small\", \"parameters\": {\"max_tokens\": 9}}, \"large\": {\"api\": \"here\", \"model_name\": \"mock-large\", \"parameters\": {\"max_tokens\": 9}}}");
    home.write("j/fair.txt", "Judge.\nQ: {INPUT_PROMPT}\nAnswer: {OUTPUT_RESPONSE}");
    home.write("j/brief.jinja", "Judge briefly. Answer: {{ response }} of {{ answer }}");
    let line = "judge out --settings judges.json --template j/fair.txt --template j/brief.jinja --scale 1..10 --json --budget 1";
    let done = home.run(line, &[]).ended(0);
    let summary = done.json();
    assert!(done.stderr.contains("1 rows without an answer are not judged"), "{}", done.stderr);
    assert_eq!(
        (&summary["rows"], &summary["scores"]["score"]),
        (&json!(8), &json!({"mean": 9.0, "rows": 4})),
        "{summary:#}"
    );
    assert_eq!(summary["judged"]["large/brief"], json!({"mean": 9.0, "rows": 1}));
    let rows = results(&home, "results/judge-out-1");
    let row = rows.iter().find(|row| row["id"] == "judge-small-fair-r0").unwrap();
    assert_eq!(
        (&row["scores"]["score"], &row["input-id"], &row["input-response"]),
        (&json!(9.0), &json!("r0"), &json!("good"))
    );
    let unclear = rows.iter().find(|row| row["id"] == "judge-small-fair-r1").unwrap();
    assert_eq!(
        (&unclear["status"], unclear["score_errors"]["score"].as_str().unwrap().contains("no number")),
        (&json!("ok"), true)
    );
    // A second time it costs nothing.
    let requests = server.ledger().requests;
    home.run(line, &["--quiet"]).ended(0);
    assert_eq!(server.ledger().requests, requests);
    home.run("judge out --ask", &["Judge {{ response }}", "--model", "mock-small", "--choices", "no,yes", "--quiet"])
        .ended(0);
    assert!(home.run("judge out --model mock-small", &[]).ended(2).stderr.contains("--template"));
}

#[test]
fn prompts_are_said_in_other_words() {
    let server = custom(|call| {
        let n = call.body["n"].as_u64().unwrap_or(1) as usize;
        match text(call).starts_with("Say") {
            true => said(&["Tell me: one", "Tell me: two"][..n]),
            false => said(&["1. first\n2. second"]),
        }
    });
    let home = Home::over_http(1, &server.url(), "");
    home.write("x.jsonl", rows(2, ", \"topic\": \"sums\""));
    let done =
        home.run("rephrase x.jsonl -n 2 --model mock-large --set max_tokens=30 --to new.jsonl --quiet", &[]).ended(0);
    assert!(done.stdout.contains("4 paraphrased prompts: new.jsonl"), "{}", done.stdout);
    let new = lines(&home.read("new.jsonl"));
    assert_eq!(new.len(), 6);
    assert_eq!(
        (&new[0]["prompt"], &new[0]["topic"], &new[0]["input-id"]),
        (&json!("Tell me: one"), &json!("sums"), &json!("r0"))
    );
    home.run("run new.jsonl --out out --quiet", &[]).ended(0);
    home.write("r/settings.json", "{\"small\": {\"model\": \"mock-small\"}}");
    home.write("r/template.txt", "List this:\\n{INPUT_PROMPT}\n");
    home.run("rephrase x.jsonl --rephrase-folder r --split-list --remove-original --quiet", &[]).ended(0);
    let prompts: Vec<Value> = lines(&home.read("rephrased-x.jsonl")).iter().map(|row| row["prompt"].clone()).collect();
    assert_eq!(prompts, ["first", "second", "first", "second"]);
}

#[test]
fn what_is_put_into_a_folder_is_run_in_the_order_of_arrival() {
    let home = Home::new(1);
    for (name, at) in [("b", 1), ("c", 3), ("a", 3)] {
        home.write(&format!("data/input/{name}.jsonl"), rows_text(&[name]));
        let file = std::fs::File::options().write(true).open(home.path(&format!("data/input/{name}.jsonl"))).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + at)).unwrap();
    }
    home.write("data/input/wrong.jsonl", "{}\n");
    let done: Done = home.run("run --watch data --once --json --metric length", &[]).ended(2);
    let summaries = done.json();
    let names: Vec<&str> =
        summaries.as_array().unwrap().iter().map(|one| one["experiment"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "a", "c"], "{}", done.stderr);
    assert!(home.path("data/output/a-1/results.jsonl").is_file() && home.path("data/input/a.jsonl").is_file());
    std::fs::remove_file(home.path("data/input/wrong.jsonl")).unwrap();
    let again = home.run("run --watch data --once --json --quiet --metric length", &[]).ended(0).json();
    assert_eq!(again, json!([]), "all are done");
    home.write("data/input/b.jsonl", rows_text(&["other"]));
    let changed = home.run("run --watch data --once --json --quiet --metric length", &[]).ended(0).json();
    assert_eq!((changed.as_array().unwrap().len(), home.path("data/output/b-2").is_dir()), (1, true));
    let _: Usd = dollars(&changed[0], "spent_usd");
}

#[test]
fn bad_usage() {
    let home = Home::new(1);
    home.write("x.jsonl", rows_text(&["a"]));
    home.write("empty.jsonl", "\n");
    let shown = home.refused(&[
        "run",
        "run nothing.jsonl",
        "run x.txt",
        "run empty.jsonl",
        "run x.jsonl --metric exakt",
        "run x.jsonl --max-queries 0",
        "run x.jsonl --set temperature",
        "run x.jsonl --set temprature=1",
        "run x.jsonl --out a --resume b",
        "run --resume nowhere",
        "run x.jsonl --metric length --metric length",
        "run --watch nowhere",
        "judge x.jsonl --ask {{response}} --model mock-small",
        "judge x.jsonl --ask {{response}}",
        "judge x.jsonl --ask {{response}} --model mock-small --choices yes",
    ]);
    assert!(!home.path("results").exists(), "nothing was begun");
    snapshot("bad_experiments", &shown);
}
