//! Local models through the program: `mite` without any farthing.toml, a folder with one, and both over HTTP.
#![cfg(feature = "local")]

mod support;
#[path = "support/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use farthing::Usd;
use serde_json::{Value, json};
use support::Home;

/// A home without a farthing.toml, with a space for one model.
fn home(model: &str) -> Home {
    let home = Home::new(6);
    std::fs::remove_file(home.path("farthing.toml")).unwrap();
    home.write("task/space.toml", space(model));
    home
}

fn space(model: &str) -> String {
    format!(
        r#"
[space]
name = "sums"
[params.prompt]
type = "categorical"
choices = [
  {{ name = "plain", template = "{{{{ problem }}}}" }},
  {{ name = "steps", template = "{{{{ problem }}}}\nStep by step:" }},
]
[params.model]
value = "{model}"
[params.temperature]
type = "categorical"
choices = [0.0, 0.8]
[params.max_tokens]
value = 12
[params.n]
type = "categorical"
choices = [1, 3]
[params.stop]
value = ["\n\n"]
"#
    )
}

fn fixture(home: &Home, name: &str, to: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/local");
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        home.write(&format!("{to}/{file}"), std::fs::read(from.join(name).join(file)).unwrap());
    }
    home.write(&format!("{to}/tokenizer.json"), std::fs::read(from.join("tokenizer.json")).unwrap());
    // Its context of 128 characters is short for problems in words.
    home.edit(&format!("{to}/config.json"), "\"max_position_embeddings\": 128", "\"max_position_embeddings\": 1024");
}

fn usd(value: &Value) -> Usd {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn the_model_in_the_box_is_tuned_without_any_set_up_within_its_budget() {
    let home = home("mite");
    let arguments = ["tune", "task", "--budget", "0.002", "--out", "run", "--quiet", "--json"];
    let first = home.run("", &arguments).ended(0).json();
    let summary: Value = serde_json::from_str(&home.read("run/summary.json")).unwrap();
    assert_eq!(summary["failed_evaluations"], 0, "{summary}");
    assert!(usd(&summary["study_cost_usd"]) <= usd(&summary["budget_usd"]) && usd(&summary["spent_usd"]) > Usd::ZERO);
    assert!(first["best"].is_object(), "{first}");
    // The same again costs nothing and gives the same bytes; so does it with one request at a time on an empty store.
    let again = ["tune", "task", "--budget", "0.002", "--out", "again", "--quiet"];
    home.run("", &again).ended(0);
    let slowly = [
        "tune",
        "task",
        "--budget",
        "0.002",
        "--out",
        "slowly",
        "--quiet",
        "--store",
        "other.db",
        "--concurrency",
        "1",
    ];
    home.run("", &slowly).ended(0);
    let spent = |run: &str| {
        let summary: Value = serde_json::from_str(&home.read(&format!("{run}/summary.json"))).unwrap();
        usd(&summary["spent_usd"])
    };
    assert_eq!(spent("again"), Usd::ZERO);
    assert!(spent("slowly") > Usd::ZERO);
    for run in ["again", "slowly"] {
        assert_eq!(home.read(&format!("{run}/ranking.csv")), home.read("run/ranking.csv"), "{run}");
    }
}

#[test]
fn a_folder_is_a_model_and_its_bytes_are_who_it_is() {
    let home = home("local:tiny");
    fixture(&home, "llama", "tiny");
    let set = ["--set", "prompt=plain", "--set", "temperature=0.8", "--set", "n=3"];
    let evaluate = |more: &[&str]| {
        let arguments = ["evaluate", "task", "--json", "--quiet"].iter().chain(&set).chain(more);
        home.run("", &arguments.copied().collect::<Vec<_>>())
    };
    let done = evaluate(&["--budget", "0.01"]).ended(2);
    assert!(done.stderr.contains("no price is known of the model `local:tiny`"), "{done:?}");
    home.write(
        "farthing.toml",
        "[endpoints.here]\nprovider = \"local\"\nlocal_price = { input = 1, output = 2 }\n[models.tiny]\nendpoint = \"here\"\npath = \"tiny\"\n",
    );
    home.write("task/space.toml", space("tiny"));
    let first = evaluate(&["--budget", "0.05"]).ended(0).json();
    assert_eq!((&first["instances"], &first["missing"]), (&Value::from(6), &Value::from(0)), "{first}");
    let spent = usd(&first["spent_usd"]);
    assert!(spent > Usd::ZERO && spent <= "0.05".parse().unwrap());
    assert_eq!(usd(&evaluate(&["--budget", "0.05"]).ended(0).json()["spent_usd"]), Usd::ZERO, "all of it is stored");
    // Another weight is another model: nothing that is stored is its own.
    let mut weights = std::fs::read(home.path("tiny/model.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    home.write("tiny/model.safetensors", weights);
    assert!(usd(&evaluate(&["--budget", "0.05"]).ended(0).json()["spent_usd"]) > Usd::ZERO);
    // Too little money for even one: nothing is sent.
    evaluate(&["--budget", "0.00001", "--store", "empty.db"]).ended(3);
}

#[test]
fn what_cannot_be_loaded_or_asked_is_said_before_anything_is_spent() {
    let home = home("local:tiny");
    let evaluate = || {
        home.run(
            "",
            &["evaluate", "task", "--quiet", "--set", "prompt=plain", "--set", "temperature=0", "--set", "n=1"],
        )
    };
    insta::assert_snapshot!(evaluate().ended(2).stderr, @r"
      × there is no model tiny
      help: a path after `local:` is relative to the working folder, or to the farthing.toml that
            names it
    ");
    fixture(&home, "llama", "tiny");
    home.edit("tiny/config.json", "\"model_type\": \"llama\"", "\"model_type\": \"bert\"");
    let done = evaluate().ended(2);
    assert!(
        done.stderr.contains("models of the kind `bert` are not known here") && done.stderr.contains("gemma3_text"),
        "{done:?}"
    );
    home.edit("tiny/config.json", "\"model_type\": \"bert\"", "\"model_type\": \"llama\"");
    home.edit("task/space.toml", "[params.stop]", "[params.tools]\nvalue = [1]\n[params.stop]");
    let done = evaluate().ended(2);
    assert!(done.stderr.contains("takes no `tools`") && done.stderr.contains("only go on with a text"), "{done:?}");
    home.write("farthing.toml", "[models.mine]\npath = \"nowhere\"\ndtype = \"f32\"\n");
    let done = evaluate().ended(2);
    assert!(done.stderr.contains("there is no model") && done.stderr.contains("farthing.toml:2:8"), "{done:?}");
}

#[test]
fn a_device_is_said_in_farthing_toml_and_refused_where_it_is_not_built_in() {
    let home = home("mine");
    fixture(&home, "llama", "tiny");
    let table = |lines: &str| {
        home.write(
            "farthing.toml",
            format!("[models.mine]\npath = \"tiny\"\nprice = {{ input = 1, output = 2 }}\n{lines}\n"),
        );
    };
    let arguments = [
        "evaluate",
        "task",
        "--quiet",
        "--json",
        "--budget",
        "0.05",
        "--set",
        "prompt=plain",
        "--set",
        "temperature=0.8",
        "--set",
        "n=3",
    ];
    let refused = |lines: &str| {
        table(lines);
        home.run("", &arguments).ended(2).stderr
    };
    if !cfg!(feature = "cuda") {
        let stderr = refused("device = \"cuda:1\"");
        for words in ["this farthing was built without `cuda`", "farthing.toml:4:10", "--release --features cuda`"] {
            assert!(stderr.contains(words), "{words}: {stderr}");
        }
    }
    if !cfg!(feature = "metal") {
        assert!(refused("device = \"metal\"").contains("built without `metal`"));
    }
    for (lines, place, what) in [
        ("device = \"gpu\"", "farthing.toml:4:10", "`gpu` is no device known here"),
        ("dtype = \"f16\"", "farthing.toml:4:9", "f32 or bf16, not in f16"),
        ("dtype = \"f64\"", "farthing.toml:4:9", "`f64` is no precision known here"),
    ] {
        let stderr = refused(lines);
        assert!(stderr.contains(place) && stderr.contains(what), "{lines}: {stderr}");
    }
    // Where no device was built in, `auto` is the processor: the same model, so the second time costs nothing.
    if !cfg!(any(feature = "cuda", feature = "metal")) {
        table("device = \"auto\"");
        assert!(usd(&home.run("", &arguments).ended(0).json()["spent_usd"]) > Usd::ZERO);
        table("device = \"cpu\"");
        assert_eq!(usd(&home.run("", &arguments).ended(0).json()["spent_usd"]), Usd::ZERO);
    }
}

#[test]
fn a_local_model_is_served_over_http() {
    let home = home("mite");
    let mut child = home
        .command(&["mock", "--model", "mite", "--model", "tiny=local:mite", "--port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    // The same evaluation in process and through the endpoint: the samples are the same.
    let set =
        ["--set", "prompt=plain", "--set", "temperature=0.8", "--set", "n=3", "--quiet", "--json", "--budget", "0.01"];
    let arguments: Vec<&str> = ["evaluate", "task"].iter().chain(&set).copied().collect();
    let here = home.run("", &arguments).ended(0).json();
    let over = format!(
        "[endpoints.http]\nprovider = \"openai\"\nbase_url = \"{url}\"\n[models.mite]\nendpoint = \"http\"\nprice = {{ input = 0.10, output = 0.40 }}\n"
    );
    home.write("farthing.toml", over);
    let mut there = home.command(&arguments);
    let there = there.env("OPENAI_API_KEY", "none").output().unwrap();
    // With a seed the same request is the same sample, without one the next.
    let client = wire::Client::at(url.trim_end_matches("/v1"));
    let key = [("authorization", "Bearer none")];
    let asked = |seed: Option<u32>| {
        let mut body = json!({"model": "mite", "messages": [{"role": "user", "content": "What is 3 plus 4?"}],
            "temperature": 1.5, "max_tokens": 60});
        body["seed"] = json!(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client.post("/v1/chat/completions", &key, &body)).body["choices"].clone()
    };
    assert_eq!(asked(Some(7)), asked(Some(7)));
    assert_ne!(asked(None), asked(None));
    child.kill().unwrap();
    child.wait().unwrap();
    let there: Value = serde_json::from_slice(&there.stdout).unwrap_or_else(|error| panic!("{error}: {there:?}"));
    assert!(usd(&there["spent_usd"]) > Usd::ZERO);
    for key in ["metrics", "missing", "production_cost_usd_per_instance"] {
        assert_eq!(here[key], there[key], "{key}");
    }
}
