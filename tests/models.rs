//! What is known of models: the listing, what farthing.toml overrides, and the refusal, before anything is asked, of what a
//! model cannot do.

mod support;

use farthing::serve::mock::Options;
use serde_json::Value;
use support::{Home, server};

fn names(rows: &Value) -> Vec<String> {
    rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_whole_table_is_listed_with_its_date_and_source() {
    let home = Home::new(4);
    let text = home.run("models", &[]).ended(0).stdout;
    for word in ["provider", "cached", "batch out", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro", "mock-small"]
    {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(text.contains("as of 20") && text.contains("litellm"), "{text}");
    let rows = home.run("models --json", &[]).ended(0).json();
    assert!(rows.as_array().unwrap().len() > 200);
    for row in rows.as_array().unwrap() {
        let decimal = |field: &str| row[field].as_str().unwrap().parse::<f64>().unwrap();
        assert!(
            decimal("input") > 0.0 && decimal("output") > 0.0 && decimal("cached_input") <= decimal("input"),
            "{row}"
        );
        assert!(row["context_window"].as_u64() >= row["max_output_tokens"].as_u64(), "{row}");
    }
    let mini = rows.as_array().unwrap().iter().find(|row| row["name"] == "gpt-4o-mini" && row["provider"] == "openai");
    let mini = mini.unwrap();
    assert_eq!(
        (&mini["input"], &mini["cached_input"], &mini["output"]),
        (&"0.15".into(), &"0.075".into(), &"0.6".into())
    );
    assert_eq!((&mini["batch_input"], &mini["batch_output"]), (&"0.075".into(), &"0.3".into()));
}

#[test]
fn a_pattern_filters_and_a_slip_is_guessed() {
    let home = Home::new(4);
    let rows = home.run("models anthropic --json", &[]).ended(0).json();
    assert!(rows.as_array().unwrap().iter().all(|row| row["provider"] == "anthropic") && names(&rows).len() > 10);
    let rows = home.run("models MINI --json", &[]).ended(0).json();
    assert!(names(&rows).iter().all(|name| name.contains("mini")), "{rows}");
    let rows = home.run("models openai/gpt-4o --json", &[]).ended(0).json();
    assert!(
        names(&rows).contains(&"gpt-4o".to_owned())
            && rows.as_array().unwrap().iter().all(|r| r["provider"] == "openai")
    );
    let done = home.run("models gtp-4o", &[]).ended(2);
    insta::assert_snapshot!(done.stderr, @r"
      × no known model is like `gtp-4o`
      help: did you mean `gpt-4o`?
    ");
    assert!(done.stdout.is_empty());
}

#[test]
fn what_farthing_toml_says_is_marked() {
    let home = Home::new(4);
    home.write(
        "farthing.toml",
        "[endpoints.o]\nprovider = \"openai\"\n[models.gpt-4o]\nprice = { input = 1, output = 2, cache_write = 3 }\n\
         [models.gpt-4o-mini]\nendpoint = \"o\"\n[models.ours]\nprice = { input = 0.5, output = 0.5, batch_input = 0.2, batch_output = 0.3 }\n",
    );
    let rows = home.run("models --json", &[]).ended(0).json();
    let row = |name: &str| {
        let wanted = |row: &&Value| row["name"] == name && row["provider"] == "openai";
        rows.as_array().unwrap().iter().find(wanted).unwrap().clone()
    };
    assert_eq!((&row("gpt-4o")["overridden"], &row("gpt-4o")["input"]), (&true.into(), &"1".into()));
    assert_eq!(row("gpt-4o")["batch_input"], Value::Null, "a written price is the whole price");
    assert_eq!(row("gpt-4o")["cache_write"], "3");
    assert_eq!(row("gpt-4o-mini")["overridden"], Value::Null, "named, with nothing else said");
    assert_eq!((&row("ours")["overridden"], &row("ours")["batch_output"]), (&true.into(), &"0.3".into()));
    let text = home.run("models gpt-4o", &[]).ended(0).stdout;
    assert!(text.contains("gpt-4o *") && text.contains("farthing.toml says"), "{text}");
}

/// An error in one line, with the names that come out of the table taken out.
fn told(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().filter(|word| !word.chars().any(|c| "│╭╰·─".contains(c))).collect();
    let examples = regex::Regex::new("(known models,|a model like) `.+`( and others|$)").unwrap();
    examples.replace_all(&words.join(" "), "$1 EXAMPLES$2").into_owned()
}

/// A task whose space asks `o3-mini` for a temperature.
fn hot(url: &str) -> Home {
    let home = Home::over_http(4, url, "");
    let toml = home.read("farthing.toml");
    home.write("farthing.toml", toml + "[models.o3-mini]\nendpoint = \"here\"\n");
    home.edit("task/space.toml", "[\"mock-small\", \"mock-large\"]", "[\"mock-small\", \"o3-mini\"]");
    home
}

#[test]
fn a_model_that_cannot_is_found_before_anything_is_asked() {
    let server = server(Options::default());
    let home = hot(&server.url());
    let before = home.files();
    let done = home.run("tune task --budget 0.01 --out run", &[]).ended(2);
    assert!(done.stderr.contains("task/space.toml:13:9"), "{done:#?}");
    insta::assert_snapshot!(told(&done.stderr), @r#"× the space asks `o3-mini` for `temperature` = 0.7, and it takes no `temperature` but 1: OpenAI's reasoning models sample as OpenAI set them 13 [params.temperature] this parameter help: of this space `mock-small` can: write when = { model = ["mock-small"] } into `temperature`; of the known models, EXAMPLES and others can (see `farthing models`); an endpoint that takes it all the same: [models."o3-mini"] check_parameters = false in farthing.toml"#);
    let done = home.run("evaluate task --set model=o3-mini --set n=1", &[]).ended(2);
    insta::assert_snapshot!(told(&done.stderr), @"× the configuration asks `o3-mini` for `temperature` = 0.7, and it takes no `temperature` but 1: OpenAI's reasoning models sample as OpenAI set them help: leave `temperature` out, or use a model like EXAMPLES");
    assert_eq!(server.ledger().requests, 0);
    assert_eq!(home.files(), before, "nothing was written");
    home.run("evaluate task --quiet --set model=mock-small --set n=1", &[]).ended(0);
    assert!(server.ledger().requests > 0, "the other model of the space can");
}

#[test]
fn conditions_keep_a_model_from_what_it_cannot() {
    let server = server(Options::default());
    let home = hot(&server.url());
    home.edit("task/space.toml", "value = 0.7", "value = 0.7\nwhen = { model = \"mock-small\" }");
    home.edit("task/space.toml", "n = 1\n", "n = 1\ntemperature = 0.2\n");
    // Only mock-small answers here, so that is what is tried; the check lets the space pass.
    let done = home.run("tune task --budget 0.001 --out run --quiet", &[]);
    assert!(!done.stderr.contains("takes no"), "{done:#?}");
    assert!(server.ledger().requests > 0, "{done:#?}");
}

#[test]
fn the_check_can_be_waived_for_an_endpoint_that_knows_better() {
    let server = server(Options::default());
    let home = hot(&server.url());
    home.edit("farthing.toml", "[models.o3-mini]\n", "[models.o3-mini]\ncheck_parameters = false\n");
    let done = home.run("evaluate task --quiet --set model=o3-mini --set n=1", &[]);
    assert!(!done.stderr.contains("takes no") && server.ledger().requests > 0, "{done:#?}");
}
