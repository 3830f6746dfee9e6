//! Prompts that are made: templates, judges, paraphrases, folders that are watched.

use std::time::Duration;

use farthing::Usd;
use farthing::serve::mock::{Fault, Reply};
use serde_json::{Value, json};

use crate::support::{Done, Home, dollars};
use crate::{custom, flat, home_with_examples, lines, results, rows, rows_text, said, text};

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
    // All of them ask the same: the first one bought it, and it costs each row as much.
    let cost: Usd = results(&home, "data/output/b-2").iter().map(|row| dollars(row, "cost_usd")).sum();
    let runs = summaries.as_array().unwrap().iter().chain(changed.as_array().unwrap());
    let spent: Usd = runs.map(|run| dollars(run, "spent_usd")).sum();
    assert!(cost > Usd::ZERO && spent == cost, "{spent} {cost}");
}
