//! `farthing estimate` and the line that `tune` begins with: before a cent is spent, and true to what is billed then.

mod support;

use serde_json::Value;
use support::{Home, dollars, snapshot, usd};

#[test]
fn what_people_see() {
    let home = Home::new(40);
    let before = home.files();
    let mut text = home.run("estimate task --limit 6", &[]).ended(0).stdout;
    assert_eq!(home.files(), before, "looking makes no store");
    home.run("evaluate task --quiet --set prompt=steps --set model=mock-large --set n=3", &[]).ended(0);
    text += "\n## with answers of one configuration, and a budget\n";
    text += &home.run("estimate task --budget 0.02", &[]).ended(0).stdout;
    text += "\n## one configuration\n";
    text += &home.run("estimate task --set prompt=steps --set model=mock-large --sample 8", &[]).ended(0).stdout;
    snapshot("estimate", &text);
}

/// A field of a price in dollars.
#[track_caller]
fn price(span: &Value, field: &str) -> f64 {
    dollars(span, field).as_f64()
}

#[test]
fn what_is_billed_lies_within_and_once_known_is_met() {
    let home = Home::new(30);
    for (prompt, model, n) in [("direct", "mock-small", "1"), ("steps", "mock-large", "3")] {
        let set: Vec<String> =
            [("prompt", prompt), ("model", model), ("n", n)].map(|(k, v)| format!("--set={k}={v}")).into();
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let before = home.run("estimate task --json", &set).ended(0).json();
        let billed = home.run("evaluate task --json --quiet", &set).ended(0).json();
        let after = home.run("estimate task --json", &set).ended(0).json();
        let (spent, guess) = (price(&billed, "spent_usd"), &before["configurations"][0]);
        assert!(
            price(&guess["evaluation"], "low_usd") <= spent && spent <= price(&guess["evaluation"], "high_usd"),
            "{guess:#}"
        );
        assert_eq!((guess["basis"].as_str(), guess["counted"].as_str()), (Some("limit"), Some("tokenizer")));
        assert!(guess["evaluation"]["expected_usd"].is_null());
        let known = &after["configurations"][0];
        assert_eq!((known["basis"].as_str(), known["counted"].as_str()), (Some("own"), Some("billed")));
        assert_eq!(known["input_tokens"], guess["input_tokens"], "counted as it was billed");
        let expected = price(&known["evaluation"], "expected_usd");
        assert!((expected / spent - 1.0).abs() < 1e-3, "{expected} {spent}");
    }
}

#[test]
fn the_grid_and_what_a_budget_buys() {
    let home = Home::new(20);
    let all = home.run("estimate task --json --budget 10", &[]).ended(0).json();
    assert_eq!((all["space_size"].as_u64(), all["sampled_instances"].as_u64()), (Some(12), Some(20)));
    let everything = &all["buys"]["at_least"];
    assert_eq!(everything["everything"], true);
    let grid = home.run("tune task --budget 10 --strategy grid --out all --json --quiet", &[]).ended(0).json();
    let cost = price(&grid, "study_cost_usd");
    assert!(
        price(&all["grid"], "low_usd") <= cost && cost <= price(&all["grid"], "high_usd"),
        "{cost} {:#}",
        all["grid"]
    );
    // With the answers known, the price of all of it is met, and less money buys less.
    let known = home.run("estimate task --json --budget 0.02 --strategy grid", &[]).ended(0).json();
    let expected = price(&known["grid"], "expected_usd");
    assert!((expected / cost - 1.0).abs() < 0.02, "{expected} {cost}");
    let real = home.run("tune task --budget 0.02 --strategy grid --out part --json --quiet", &[]).ended(0).json();
    let buys = &known["buys"]["expected"];
    let (told, bought) = (buys["evaluations"].as_f64().unwrap(), real["evaluations"].as_f64().unwrap());
    assert!(told > 20.0 && (told / bought - 1.0).abs() < 0.25, "{told} {bought}");
    assert!(dollars(buys, "cost_usd") <= usd("0.02") && buys["everything"] == false);
    assert!(known["buys"]["at_least"]["evaluations"].as_f64().unwrap() <= told);
}

#[test]
fn by_batch_it_costs_half_where_there_is_a_batch_api() {
    let home = Home::over_http(12, "http://127.0.0.1:9", "");
    let live = home.run("estimate task --json --budget 0.01", &[]).ended(0).json();
    let batch = home.run("estimate task --json --batch --budget 0.01", &[]).ended(0).json();
    assert_eq!((&live["by_batch"], &batch["by_batch"]), (&Value::from(false), &Value::from(true)));
    for field in ["low_usd", "high_usd"] {
        assert_eq!(dollars(&live["grid"], field), dollars(&batch["grid"], field).times(2), "{field}");
    }
    let bought = |report: &Value| report["buys"]["at_least"]["evaluations"].as_u64().unwrap();
    assert!(bought(&batch) > bought(&live), "{batch:#}");
    let set = ["--set=prompt=direct", "--set=model=mock-small", "--set=n=1"];
    let shown = home.run("estimate task --batch", &set).ended(0).stdout;
    assert!(shown.contains("Prices: of batch APIs"), "{shown}");
    let one = |more: &str| home.run(&format!("estimate task --json {more}"), &set).ended(0).json();
    let [live, batch] = ["", "--batch"].map(|more| dollars(&one(more)["configurations"][0]["evaluation"], "high_usd"));
    assert_eq!(live, batch.times(2));
    // The made-up model has none.
    let none = Home::new(3).run("estimate task --batch", &[]).ended(2);
    assert!(none.stderr.contains("has no batch API"), "{}", none.stderr);
}

#[test]
fn no_key_is_needed_and_openai_counts_like_this() {
    let home = Home::new(3);
    std::fs::remove_file(home.path("farthing.toml")).unwrap();
    let lines: String =
        (0..3).map(|at| format!("{{\"id\": \"{at}\", \"problem\": \"Hello\", \"answer\": 1}}\n")).collect();
    home.write("task/tune.jsonl", lines);
    home.write(
        "task/space.toml",
        "[space]\nname = \"hello\"\n[params.prompt]\nchoices = [{ name = \"bare\", template = \"{{ problem }}\" }]\ntype = \"categorical\"\n\
         [params.model]\nvalue = \"gpt-4o-mini\"\n[params.max_tokens]\nvalue = 100\n[params.temperature]\n\
         type = \"float\"\nlow = 0.0\nhigh = 1.0\n",
    );
    let found = home.run("estimate task --json --set temperature=0", &[]).ended(0).json();
    let one = &found["configurations"][0];
    // "Hello" alone is billed as 8 tokens: 3 a message, the role, the word, and 3 for the answer.
    assert_eq!(
        (one["input_range"].as_array().unwrap()[1].as_u64(), one["counted"].as_str()),
        (Some(8), Some("tokenizer"))
    );
    // 8 tokens at $0.15 a million, and at most 100 at $0.60.
    assert_eq!(dollars(&one["per_instance"], "high_usd"), usd("0.0000612"));
    assert_eq!(dollars(&one["evaluation"], "high_usd"), usd("0.0001836"));
    let endless = home.run("estimate task --json --budget 0.0005", &[]).ended(0).json();
    assert!(endless["space_size"].is_null() && endless["grid"].is_null());
    assert!(endless["configurations"].as_array().unwrap().len() > 50);
    assert!(endless["buys"]["at_least"]["evaluations"].as_u64().unwrap() >= 8, "{:#}", endless["buys"]);
    home.run("tune task --budget 1 --out run", &[]).ended(5);
}

#[test]
fn tune_begins_with_one_line() {
    let home = Home::new(10);
    let line = |done: &support::Done| done.stderr.lines().find(|line| line.starts_with("Estimate:")).map(str::to_owned);
    let first = home.run("tune task --budget 0.01 --out one", &[]).ended(0);
    let again = home.run("tune task --budget 0.01 --out two", &[]).ended(0);
    snapshot("estimate_line", &format!("{}\n{}\n", line(&first).unwrap(), line(&again).unwrap()));
    assert_eq!(line(&home.run("tune task --budget 0.01 --out three --quiet", &[]).ended(0)), None);
    // Nobody is at the terminal here: a large budget is not asked about.
    home.run("tune task --budget 5000 --max-trials 2 --out four", &[]).ended(0);
}

#[test]
fn bad_usage() {
    let home = Home::new(4);
    let all = home.refused(&[
        "estimate",
        "estimate nowhere",
        "estimate task --budget 0",
        "estimate task --budget 1 --strategy halvign",
        "estimate task --budget 1 --set n=1",
        "estimate task --set prompt=stepz",
        "estimate task --set m=2",
        "estimate task --space nowhere.toml",
    ]);
    snapshot("bad_estimates", &all);
}
