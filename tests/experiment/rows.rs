//! Rows of every form, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use farthing::serve::mock::{Answers, Call, MockServer, Options};
use serde_json::{Value, json};

use crate::support::{self, Home};
use crate::{custom, examples, home_with_examples, lines, results, rows_text, said};

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

#[test]
fn what_results_say_is_counted_for_no_other_experiment() {
    let home = Home::new(1);
    let lie = ", \"scores\": {\"numeric\": 9.0, \"z\": 3}, \"cost_usd\": \"5.25\", \"prompt_tokens\": 1000";
    home.write("x.jsonl", crate::rows(2, lie).replacen("\"max_tokens\": 40", "\"max_tokens\": 0", 1));
    let first =
        home.run("run x.jsonl --out one --json --quiet --metric numeric:expected={{answer}}", &[]).ended(0).json();
    assert_eq!((&first["answered"], &first["wrong"], &first["scores"]["z"]), (&json!(1), &json!(1), &Value::Null));
    assert_eq!(first["scores"]["numeric"]["rows"], json!(1), "{first:#}");
    let cost = first["cost_usd"].as_str().unwrap().to_owned();
    assert!(cost.starts_with("0.0000") && first["prompt_tokens"].as_u64().unwrap() < 100, "{first:#}");
    assert_eq!(first["not_usable"], Value::Null, "a row that is wrong says nothing of its model");
    // Of its own results, and of theirs, nothing is taken for an outcome and nothing is lost; going on finds it all done.
    for (input, out) in [("one/results.jsonl", "two"), ("two/results.jsonl", "three"), ("one/results.csv", "four")] {
        let again = home.run(&format!("run {input} --out {out} --json --quiet"), &[]).ended(0).json();
        assert_eq!((&again["scores"], &again["cost_usd"]), (&Value::Null, &json!(cost)), "{input}: {again:#}");
        let same = home.run(&format!("run --resume {out} --json --quiet"), &[]).ended(0).json();
        assert_eq!((&same["attempts"], &same["cost_usd"]), (&json!(0), &json!(cost)), "{input}");
    }
    let last = &results(&home, "three")[1];
    assert_eq!((&last["input-scores"]["z"], &last["input-status"]), (&json!(3), &json!("ok")));
    assert_eq!(last["input-input-scores"]["numeric"], results(&home, "one")[1]["scores"]["numeric"]);
    assert_eq!(last["input-input-status"], json!("ok"), "{last:#}");
}

#[cfg(feature = "parquet")]
#[test]
fn a_table_of_results_is_an_experiment_again() {
    let home = Home::new(1);
    home.write("x.jsonl", crate::rows(5, ""));
    home.run("run x.jsonl --out out --quiet --metric numeric:expected={{answer}}", &[]).ended(0);
    let again = home.run("run out/results.parquet --out again --json --quiet", &[]).ended(0).json();
    assert_eq!((&again["answered"], &again["cache_hits"]), (&json!(5), &json!(5)), "the same is asked: {again:#}");
    for (first, second) in results(&home, "out").iter().zip(results(&home, "again")) {
        assert_eq!((&first["id"], &first["response"]), (&second["id"], &second["response"]));
        assert_eq!(
            (&second["input-score-numeric"], &second["input-status"]),
            (&first["scores"]["numeric"], &json!("ok"))
        );
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
