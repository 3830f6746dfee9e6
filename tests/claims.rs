//! What a study claims beside its ranking, when it stops, and what it is told to try first.

mod support;

use farthing::Usd;
use serde_json::{Value, json};
use support::{Home, decided, dollars};

/// Ten configurations that differ in nothing that the made-up model cares for.
const ALIKE: &str = r#"
[space]
name = "sums"
[params.prompt]
type = "categorical"
choices = [{ name = "steps", template = "{{ problem }}\nLet's think step by step." }]
[params.model]
value = "mock-small"
[params.temperature]
type = "categorical"
choices = [0.70, 0.701, 0.702, 0.703, 0.704, 0.705, 0.706, 0.707, 0.708, 0.709]
[params.max_tokens]
value = 64
[baseline]
temperature = 0.70
"#;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|item| item.as_f64().unwrap()).collect()
}

#[test]
fn a_study_says_what_it_may_claim() {
    let home = Home::new(60);
    let done = home.run("tune task --budget 0.05 --strategy grid --out run --quiet", &[]).ended(0);
    let summary = home.summary("run");
    let claims = &summary["claims"];
    let may = claims["may_be_best"].as_array().unwrap();
    assert_eq!(claims["may_be_best_count"], may.len());
    let sum: f64 = may.iter().map(|one| one["p_best"].as_f64().unwrap()).sum();
    assert!((0.95..1.0 + 1e-9).contains(&sum), "{claims:#}");
    assert!(may.iter().any(|one| one["id"] == summary["best"]["id"]), "{claims:#}");
    // Large models and steps are better in this made-up world, and 60 instances show it.
    assert_eq!(claims["nothing_differs"], false, "{claims:#}");
    assert_eq!(claims["method"], "bootstrap_oob");
    let (score, corrected) = (summary["best"]["score"].as_f64().unwrap(), claims["corrected_score"].as_f64().unwrap());
    let [low, high] = numbers(&claims["corrected_ci95"])[..] else { panic!("{claims:#}") };
    assert!(corrected <= score + 0.02 && low <= corrected && corrected <= high && high <= 1.0, "{claims:#}");
    let versus = &claims["versus_baseline"];
    assert_eq!(versus["claim"], "better", "{claims:#}");
    assert!(versus["e_value"].as_f64().unwrap() >= 20.0 && numbers(&versus["confidence_sequence"])[0] > 0.0);
    // The frontier begins with the cheapest, gets better, and is marked in the ranking.
    let pareto = summary["pareto"].as_array().unwrap();
    assert_eq!(pareto.last().unwrap()["id"], summary["best"]["id"]);
    let costs: Vec<Usd> = pareto.iter().map(|one| dollars(one, "production_cost_usd_per_instance")).collect();
    assert!(costs.is_sorted(), "{costs:?}");
    let ranking = home.read("run/ranking.csv");
    assert!(ranking.lines().next().unwrap().ends_with(",config.n,p_best,pareto"), "{ranking}");
    assert_eq!(ranking.lines().filter(|line| line.ends_with(",true")).count(), pareto.len());
    for words in ["P(best)", "Corrected for having been chosen", "shown to be better than the baseline"] {
        assert!(done.stdout.contains(words), "{words} in {}", done.stdout);
        assert!(home.read("run/report.html").contains(words), "{words} in the report");
    }
    // Nothing of it depends on how many requests are in flight.
    home.run("tune task --budget 0.05 --strategy grid --out other --quiet --store other.db --concurrency 3", &[])
        .ended(0);
    assert_eq!(decided(home.summary("other")), decided(summary));
}

#[test]
fn where_nothing_differs_it_says_so() {
    let home = Home::new(60);
    home.write("task/space.toml", ALIKE);
    let done = home.run("tune task --budget 0.05 --strategy grid --out run --quiet", &[]).ended(0);
    let claims = &home.summary("run")["claims"];
    assert_eq!(claims["nothing_differs"], true, "{claims:#}");
    assert!(claims["may_be_best_count"].as_u64().unwrap() >= 5, "{claims:#}");
    assert_ne!(claims["versus_baseline"]["claim"], "better", "{claims:#}");
    assert!(done.stdout.contains("Nothing differs"), "{}", done.stdout);
    assert!(home.read("run/report.html").contains("Nothing differs"));
}

#[test]
fn a_margin_stops_a_study_that_would_gain_little() {
    let home = Home::new(60);
    home.run("tune task --budget 0.1 --out whole --quiet", &[]).ended(0);
    let whole = home.summary("whole");
    let done = home.run("tune task --budget 0.1 --out run --margin 0.05 --quiet", &[]).ended(0);
    let summary = home.summary("run");
    assert_eq!(summary["stop_reason"], "converged");
    // As it was when it stopped: what was in flight still landed.
    assert!(summary["claims"]["expected_gain"].as_f64().unwrap() < 0.05, "{summary:#}");
    assert!(dollars(&summary, "study_cost_usd") < dollars(&whole, "study_cost_usd"));
    assert!(done.stdout.contains("It stopped because going on is expected to gain"), "{}", done.stdout);
    assert!(home.read("run/study.toml").contains("margin = 0.05"));
    // Going on does the same again; another margin would be another study.
    home.run("tune --resume run --quiet", &[]).ended(0);
    assert_eq!(decided(home.summary("run")), decided(summary.clone()));
    home.run("tune --resume run --quiet --margin 0.01", &[]).ended(2);
    home.run("tune task --budget 0.1 --margin -1 --quiet", &[]).ended(2);
    home.run("tune task --budget 0.1 --out slow --margin 0.05 --quiet --store slow.db --concurrency 1", &[]).ended(0);
    assert_eq!(decided(home.summary("slow")), decided(summary));
}

#[test]
fn what_the_user_wants_tried_is_tried_first() {
    let home = Home::new(20);
    home.write("two.toml", "[[config]]\nmodel = 'mock-large'\nprompt = 'steps'\nn = 3\n[[config]]\nn = 10\n");
    home.run("tune task --budget 0.02 --try two.toml --out run --quiet --max-trials 3", &[]).ended(0);
    let tried = |run: &str| -> Vec<Value> {
        let events = home.read(&format!("{run}/events.jsonl"));
        let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|event| event["event"] == "trial_started").map(|event| event["configuration"].clone()).collect()
    };
    let config = |prompt: &str, model: &str, n: i64| json!({"prompt": prompt, "model": model, "n": n, "temperature": 0.7, "max_tokens": 48});
    let wanted =
        [config("direct", "mock-small", 1), config("steps", "mock-large", 3), config("direct", "mock-small", 10)];
    assert_eq!(tried("run"), wanted);
    // The file is not needed to go on: what it said is in study.toml.
    std::fs::remove_file(home.path("two.toml")).unwrap();
    let before = home.summary("run");
    home.run("tune --resume run --quiet", &[]).ended(0);
    assert_eq!(decided(home.summary("run")), decided(before.clone()));
    // A winner's file can be tried as it is.
    home.run("tune task --budget 0.02 --try run/best.toml --out again --quiet --max-trials 3", &[]).ended(0);
    assert!(tried("again")[..2].contains(&before["best"]["config"]));
    // Another set on resume would be another study.
    home.run("tune --resume run --quiet --try run/best.toml", &[]).ended(2);
    for (text, wanted) in [
        ("[config]\nmodle = 'mock-large'\n", "did you mean `model`"),
        ("[config]\nprompt = 'stpes'\n", "steps"),
        ("[config]\nn = 'many'\n", "bad.toml:2:5"),
        ("config = 3\n", "must be a table"),
        ("[confg]\nn = 1\n", "has no [config]"),
        ("[config]\nn = 1\n[extra]\n", "unknown key `extra`"),
    ] {
        home.write("bad.toml", text);
        let done = home.run("tune task --budget 0.02 --try bad.toml --out bad --quiet", &[]).ended(2);
        assert!(done.stderr.contains(wanted), "{text}: {}", done.stderr);
        assert!(!home.path("bad").exists());
    }
}

#[test]
fn an_earlier_run_warms_a_later_one() {
    let home = Home::new(20);
    home.run("tune task --budget 0.03 --out first --quiet --strategy grid", &[]).ended(0);
    let first = home.summary("first");
    home.run("tune task --budget 0.03 --out second --quiet --from first --max-trials 3 --seed 9", &[]).ended(0);
    let second = home.summary("second");
    assert_eq!(second["best"]["config"], first["best"]["config"]);
    // All of it was in the store.
    assert_eq!(dollars(&second, "spent_usd"), Usd::ZERO);
    assert!(dollars(&second, "study_cost_usd") > Usd::ZERO);
    let study = home.read("second/study.toml");
    assert!(study.contains("[[settings.first]]"), "{study}");
    home.run("tune --resume second --quiet", &[]).ended(0);
    // Other data of the same task: only its best are tried. Another task: an error.
    home.edit("task/task.toml", "vote = \"majority\"", "vote = \"first\"");
    let done = home.run("tune task --budget 0.03 --out third --from first --max-trials 3", &[]).ended(0);
    assert!(done.stderr.contains("its best configurations are tried"), "{}", done.stderr);
    home.edit("task/task.toml", "name = \"sums\"", "name = \"others\"");
    let done = home.run("tune task --budget 0.03 --from first --quiet", &[]).ended(2);
    assert!(done.stderr.contains("is of the task `sums`"), "{}", done.stderr);
    home.run("tune task --budget 0.03 --from nowhere --quiet", &[]).ended(2);
}

#[test]
fn less_is_chosen_as_more_is() {
    let home = Home::new(30);
    home.run("tune task --budget 0.02 --out more --quiet", &[]).ended(0);
    home.edit("task/task.toml", "metric = \"accuracy\"", "weights = { accuracy = -1.0 }\ndirection = \"minimize\"");
    home.run("tune task --budget 0.02 --out less --quiet", &[]).ended(0);
    let (more, less) = (home.summary("more"), home.summary("less"));
    assert_eq!(less["metric"], "objective");
    for key in ["trials", "evaluations", "study_cost_usd", "stop_reason"] {
        assert_eq!(more[key], less[key], "{key}");
    }
    assert_eq!(more["best"]["config"], less["best"]["config"]);
    let number = |summary: &Value, of: &str| summary["claims"][of].as_f64().unwrap();
    assert!((number(&more, "corrected_score") + number(&less, "corrected_score")).abs() < 1e-12);
    assert_eq!(number(&more, "p_best"), number(&less, "p_best"));
    let e = |summary: &Value| summary["claims"]["versus_baseline"]["e_value"].as_f64();
    assert_eq!(e(&more).is_some(), e(&less).is_some());
    assert_eq!(more["claims"]["versus_baseline"]["claim"], less["claims"]["versus_baseline"]["claim"]);
}

#[test]
fn further_metrics_decide_among_equals() {
    let home = Home::new(30);
    home.write("task/space.toml", support::SPACE.replace("[1, 3, 10]", "[1, 2]"));
    let with = |objective: &str| {
        home.write(
            "task/task.toml",
            format!(
                "[task]\nname = \"sums\"\n[data]\ntune = \"tune.jsonl\"\ntest = \"test.jsonl\"\nid = \"id\"\n[objective]\n{objective}\n\
                 [metrics.accuracy]\ntype = \"numeric\"\nexpected = \"{{{{ answer }}}}\"\nvote = \"majority\"\n[metrics.size]\ntype = \"length\"\n"
            ),
        );
    };
    let run = |out: &str| {
        home.run("tune task --budget 0.05 --strategy grid --quiet --out", &[out]).ended(0);
        home.summary(out)
    };
    with("metric = \"accuracy\"");
    let alone = run("alone");
    // Anything goes for the first metric, so the shortest answers win.
    with("metric = \"accuracy\"\ntolerance = 1.0\nthen = [{ metric = \"size\", direction = \"minimize\" }]");
    let short = run("short");
    assert_eq!(short["best_expected"]["id"], alone["best"]["id"]);
    assert_eq!(short["best"]["config"]["prompt"], "direct", "{short:#}");
    assert_eq!(home.read("short/ranking.csv").lines().nth(1).unwrap().split(',').nth(2), short["best"]["id"].as_str());
    with("metric = \"accuracy\"\nthen = [\"szie\"]");
    let done = home.run("tune task --budget 0.05 --quiet", &[]).ended(2);
    assert!(done.stderr.contains("no metric of this task") && done.stderr.contains("task.toml:9:9"), "{}", done.stderr);
}

#[test]
fn siblings_of_what_is_too_dear_are_not_even_asked() {
    let home = Home::new(40);
    home.write("task/space.toml", support::SPACE.replace("[1, 3, 10]", "[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]"));
    home.run("tune task --budget 0.2 --strategy grid --out whole --quiet", &[]).ended(0);
    let cost = |line: &str| line.split(',').nth(12).unwrap().parse::<Usd>().ok();
    let whole = home.read("whole/ranking.csv");
    let affordable: Vec<&str> =
        whole.lines().skip(1).filter(|line| cost(line).unwrap() <= support::usd("0.00008")).collect();
    assert!(affordable.len() > 3 && affordable.len() < 37, "{whole}");
    let limits = ["--inference-budget", "0.00008"];
    home.run("tune task --budget 0.2 --strategy random --out run --quiet --store run.db", &limits).ended(0);
    let run = home.read("run/ranking.csv");
    // One sibling's answers are enough: some of the others cost nothing.
    let unasked = run.lines().filter(|line| line.contains("as its siblings show")).count();
    assert!(unasked >= 3, "{run}");
    assert!(
        run.lines().filter(|line| line.contains("as its siblings show")).all(|line| line.contains(",0,0,,0,")),
        "{run}"
    );
    // Nothing that production can afford was dropped.
    for line in affordable {
        let id = line.split(',').nth(2).unwrap();
        let row = run.lines().find(|line| line.contains(id)).unwrap();
        assert_eq!(row.split(',').nth(3), Some("eligible"), "{row}");
    }
    home.run("tune task --budget 0.2 --strategy random --out slow --quiet --store slow.db --concurrency 1", &limits)
        .ended(0);
    assert_eq!(decided(home.summary("slow")), decided(home.summary("run")));
    home.run("tune --resume run --quiet", &[]).ended(0);
    assert_eq!(home.read("run/ranking.csv"), run);
}
