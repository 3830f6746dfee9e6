//! The cap is a promise: whatever the endpoint does, what it says it billed is never above the budget. The endpoint keeps
//! its own account, with its own prices, so neither side can hide behind the other.

mod support;

use std::sync::Arc;
use std::time::Duration;

use farthing::Usd;
use farthing::serve::mock::{Call, Fault, Latency, Options, Usage};
use serde_json::Value;
use support::{Done, Home, dollars, server, usd};

/// A study of `sums` on 24 instances; what the endpoint billed, and the summary.
fn tune(options: Options, more: &str, arguments: &str) -> (Usd, Value, Done) {
    let server = server(options);
    let home = Home::over_http(24, &server.url(), more);
    let done = home.run("tune task --json --quiet --out run", &arguments.split_whitespace().collect::<Vec<_>>());
    let summary = if done.stdout.is_empty() { Value::Null } else { done.json() };
    (server.ledger().billed, summary, done)
}

/// Billed, at most the budget; and our account is theirs where nothing was lost.
#[track_caller]
fn keeps(budget: &str, options: Options, arguments: &str) -> Value {
    let (billed, summary, done) = tune(options, "", &format!("--budget {budget} {arguments}"));
    assert_eq!(done.code, 0, "{done:#?}");
    assert!(billed <= usd(budget), "{arguments}: billed {billed} of {budget}");
    assert_eq!(dollars(&summary, "spent_usd"), billed, "{arguments}");
    assert!(dollars(&summary, "study_cost_usd") <= usd(budget));
    assert_eq!(dollars(&summary, "lost_usd"), Usd::ZERO);
    summary
}

fn random_latency() -> Latency {
    Latency::Random { low: Duration::ZERO, high: Duration::from_millis(12), seed: 3 }
}

#[test]
fn the_budget_holds_whatever_the_endpoint_says_of_usage() {
    for usage in [Usage::Truthful, Usage::FarBelow, Usage::Worst, Usage::None] {
        for concurrency in [1, 256] {
            let options = Options { usage, ..Options::default() };
            let (billed, summary, done) = tune(options, "", &format!("--budget 0.02 --concurrency {concurrency}"));
            assert_eq!(done.code, 0, "{done:#?}");
            assert!(billed <= usd("0.02"), "{usage:?} at {concurrency}: billed {billed}");
            if usage == Usage::None {
                // Nobody said what was billed, so a bound on it was booked.
                assert!(billed <= dollars(&summary, "spent_usd"), "{usage:?} at {concurrency}: {summary:#}");
            } else {
                assert_eq!(billed, dollars(&summary, "spent_usd"), "{usage:?} at {concurrency}");
            }
            assert!(dollars(&summary, "spent_usd") <= usd("0.02"));
            if matches!(usage, Usage::Truthful | Usage::Worst) {
                assert!(
                    billed >= usd("0.017"),
                    "{usage:?} at {concurrency}: a cap that buys nothing is none: {billed}"
                );
            }
        }
    }
}

/// Bytes bound tokens, but more loosely than max_tokens did when the money was held.
#[test]
fn what_is_not_said_of_usage_is_booked_at_most_as_it_was_held() {
    for (strategy, budget) in [("tpe", "0.005"), ("blend", "0.005"), ("halving", "0.003"), ("random", "0.003")] {
        let options = Options { usage: Usage::None, ..Options::default() };
        let (billed, summary, done) = tune(options, "", &format!("--budget {budget} --strategy {strategy}"));
        assert_eq!(done.code, 0, "{done:#?}");
        assert!(billed <= dollars(&summary, "spent_usd"), "{strategy}: billed {billed}: {summary:#}");
        for sum in ["spent_usd", "study_cost_usd"] {
            assert!(dollars(&summary, sum) <= usd(budget), "{strategy}: {sum} of {budget}: {summary:#}");
        }
    }
}

/// A limit that is not sent holds nobody back: the model's own is the worst case then, or there is no cap to promise.
#[test]
fn a_dropped_max_tokens_bounds_nothing() {
    let server = server(Options { usage: Usage::Worst, ..Options::default() });
    let home = Home::over_http(24, &server.url(), r#"drop_params = ["max_tokens"]"#);
    let done = home.run("tune task --json --quiet --out run", &["--budget", "0.1"]).ended(2);
    assert!(done.stderr.contains("nothing bounds") && done.stderr.contains("drop_params"), "{done:#?}");
    assert_eq!(server.ledger().requests, 0);
    let file =
        home.read("farthing.toml").replace("endpoint = \"here\"", "endpoint = \"here\"\nmax_output_tokens = 4096");
    home.write("farthing.toml", file);
    let summary = home.run("tune task --json --quiet --out run", &["--budget", "0.1"]).ended(0).json();
    let billed = server.ledger().billed;
    assert!(billed > Usd::ZERO && billed <= usd("0.1"), "billed {billed}: {summary:#}");
    assert_eq!(dollars(&summary, "spent_usd"), billed);
}

#[test]
fn the_budget_holds_for_every_strategy_and_latency() {
    for strategy in ["random", "grid", "halving"] {
        for (concurrency, latency) in [(1, Latency::None), (256, random_latency())] {
            let options = Options { latency, usage: Usage::Worst, ..Options::default() };
            let summary = keeps("0.03", options, &format!("--strategy {strategy} --concurrency {concurrency}"));
            assert_eq!(summary["stop_reason"], "budget", "{strategy}: {summary:#}");
        }
    }
}

#[test]
fn the_test_split_is_paid_from_the_same_budget() {
    let summary = keeps("0.02", Options { usage: Usage::Worst, ..Options::default() }, "--test-share 0.4");
    let part = |name| dollars(&summary, name);
    assert!(part("holdout_cost_usd") > Usd::ZERO, "{summary:#}");
    assert!(part("search_cost_usd") <= usd("0.012"));
    assert_eq!(part("search_cost_usd") + part("holdout_cost_usd"), part("study_cost_usd"));
}

/// What is lost is spent, too: the share of the test is kept back from both sums.
#[test]
fn the_test_split_is_paid_where_replies_are_lost() {
    let cut = |call: &Call| call.number.is_multiple_of(4).then(Fault::cut);
    let options = Options { faults: Arc::new(cut), ..Options::default() };
    let (billed, summary, done) = tune(options, "", "--budget 0.02 --test-share 0.3");
    assert_eq!(done.code, 0, "{done:#?}");
    assert!(billed <= usd("0.02") && dollars(&summary, "spent_usd") <= usd("0.02"), "{summary:#}");
    assert!(dollars(&summary, "lost_usd") > Usd::ZERO, "{summary:#}");
    assert!(dollars(&summary, "holdout_cost_usd") > Usd::ZERO, "{summary:#}");
    assert!(summary["holdout"]["instances"].as_u64().unwrap() > 0, "{summary:#}");
    assert!(!summary["notes"].to_string().contains("earlier part"), "there was none: {summary:#}");
}

/// The test within the study is in all of the counts, on a cold store and on a warm one.
#[test]
fn every_evaluation_is_a_request_or_a_hit() {
    let server = server(Options::default());
    let home = Home::over_http(24, &server.url(), "");
    let study = |out: &str| {
        let line = format!("tune task --json --quiet --budget 0.01 --test-share 0.3 --max-trials 12 --out {out}");
        home.run(&line, &[]).ended(0).json()
    };
    let (cold, warm) = (study("cold"), study("warm"));
    let count = |of: &Value, name: &str| of[name].as_u64().unwrap();
    assert!(count(&cold, "requests") > 0 && cold["holdout"]["instances"].as_u64() > Some(0), "{cold:#}");
    assert_eq!(count(&warm, "requests"), 0);
    assert_eq!(count(&warm, "cache_hits"), count(&warm, "evaluations"), "{warm:#}");
    assert_eq!(count(&cold, "evaluations"), count(&warm, "evaluations"));
}

/// An endpoint that bills more than the request allowed cannot be foreseen; the tolerance is what was in flight when its
/// first bill came: `concurrency` requests, each over by (k - 1) times its worst case. From then on reservations have grown.
#[test]
fn an_endpoint_that_bills_too_much_costs_no_more_than_what_was_in_flight() {
    // The dearest request of the space: 10 completions of 48 tokens by mock-large, and at most 400 bytes of prompt.
    let worst = usd("0.000003").times(480) + usd("0.000001").times(400);
    for (k, concurrency) in [(3, 1), (2, 8)] {
        let options = Options { usage: Usage::Above(k), ..Options::default() };
        let (billed, summary, done) = tune(options, "", &format!("--budget 0.05 --concurrency {concurrency}"));
        assert_eq!(done.code, 0, "{done:#?}");
        let tolerance = worst.times((k - 1) * concurrency);
        assert!(billed <= usd("0.05") + tolerance, "{k} times, {concurrency} in flight: billed {billed}");
        assert_eq!(billed, dollars(&summary, "spent_usd"), "booked as billed");
    }
}

/// Every so many-th request fails in a way that is billed. The client cannot know the bill, so it counts the worst case.
#[test]
fn the_budget_holds_when_answers_are_lost() {
    let one = |name: &str, fault: Fault, budget: &str, concurrency: u64, period: u64| {
        let faults = Arc::new(move |call: &Call| call.number.is_multiple_of(period).then(|| fault.clone()));
        let options = Options { faults, usage: Usage::Worst, ..Options::default() };
        let arguments = format!("--budget {budget} --concurrency {concurrency}");
        let (billed, summary, done) = tune(options, "timeout_seconds = 0.4\nmax_retries = 2", &arguments);
        assert_eq!(done.code, 0, "{name}: {done:#?}");
        assert!(billed <= usd(budget), "{name} at {concurrency}: billed {billed}");
        let spent = dollars(&summary, "spent_usd");
        assert!(billed <= spent && spent <= usd(budget), "{name}: billed {billed}, counted {spent}");
        assert!(dollars(&summary, "lost_usd") > Usd::ZERO, "{name}: nothing went wrong");
    };
    // Mostly waiting for retries, so side by side.
    std::thread::scope(|scope| {
        for (name, fault) in [
            ("hang", Fault::hang()),
            ("cut", Fault::cut()),
            ("malformed", Fault::malformed()),
            ("no choices", Fault::no_choices()),
            ("reset", Fault::reset().billed(true)),
        ] {
            for (budget, concurrency, period) in [("0.008", 1, 16), ("0.02", 256, 5)] {
                let fault = fault.clone();
                scope.spawn(move || one(name, fault, budget, concurrency, period));
            }
        }
    });
}

#[test]
fn evaluate_and_test_keep_their_budgets() {
    for concurrency in ["1", "256"] {
        let server = server(Options { usage: Usage::Worst, latency: random_latency(), ..Options::default() });
        let home = Home::over_http(60, &server.url(), "");
        let set = ["--set", "model=mock-large", "--set", "n=10", "--concurrency", concurrency, "--json", "--quiet"];
        let done = home.run("evaluate task --budget 0.03", &set).ended(0).json();
        let first = server.ledger().billed;
        assert!(first <= usd("0.03") && first >= usd("0.027"), "{first}");
        assert_eq!(dollars(&done, "spent_usd"), first);
        let (seen, left) = (done["instances"].as_u64().unwrap(), done["not_reached"].as_u64().unwrap());
        assert!(seen > 0 && left > 0 && seen + left == 60, "{done:#}");

        home.run("tune task --budget 0.04 --out run --quiet --json", &[]).ended(0);
        let before = server.ledger().billed;
        let done = home.run("test run --budget 0.002 --json --quiet --concurrency", &[concurrency]).ended(0).json();
        let second = server.ledger().billed - before;
        assert!(second <= usd("0.002") && second > Usd::ZERO, "{second}");
        assert_eq!(dollars(&done, "spent_usd"), second);
        assert!(done["not_reached"].as_u64().unwrap() > 0, "{done:#}");
    }
}

#[test]
fn a_budget_too_small_for_anything_bills_nothing() {
    for command in [
        "tune task --budget 0.000001 --out run",
        "tune task --budget 0.000001 --strategy random --out run2",
        "evaluate task --budget 0.000001",
        "evaluate task --budget 0",
    ] {
        let server = server(Options::default());
        let home = Home::over_http(24, &server.url(), "");
        let done = home.run(command, &["--json", "--quiet"]).ended(3);
        assert_eq!((server.ledger().requests, server.ledger().billed), (0, Usd::ZERO), "{command}");
        let json = done.json();
        assert_eq!(dollars(&json, "spent_usd"), Usd::ZERO);
        if command.starts_with("tune") {
            assert_eq!((&json["best"], &json["stop_reason"]), (&Value::Null, &Value::from("budget")));
        }
    }
}

#[test]
fn what_production_could_not_afford_is_never_best() {
    // mock-large with n = 10 costs more than a tenth of a cent, mock-small directly about a hundredth of that.
    let limit = usd("0.00004");
    for strategy in ["random", "grid", "halving"] {
        for baseline in [
            // The first configuration to be tried is infeasible itself.
            "prompt = \"steps\"\nmodel = \"mock-large\"\nn = 10",
            "prompt = \"direct\"\nmodel = \"mock-small\"\nn = 1",
        ] {
            let home = Home::new(24);
            let space = home.read("task/space.toml");
            let head = space.split("[baseline]").next().unwrap();
            home.write("task/space.toml", format!("{head}[baseline]\n{baseline}\n"));
            let line = format!("tune task --budget 0.3 --inference-budget {limit} --strategy {strategy} --out run");
            let summary = home.run(&line, &["--json", "--quiet"]).ended(0).json();
            let best = &summary["best"];
            assert!(dollars(best, "production_cost_usd_per_instance") <= limit, "{strategy}: {best:#}");
            let first = &summary["baseline"];
            let dear = dollars(first, "production_cost_usd_per_instance") > limit;
            assert_eq!(dear, baseline.contains("mock-large"), "{first:#}");
            assert!(!dear || best["id"] != first["id"]);
            // Without the limit the answer is another, or the limit would show nothing.
            if strategy == "grid" {
                let free = home.run("tune task --budget 0.3 --strategy grid --out free", &["--json", "--quiet"]);
                let free = free.ended(0).json();
                assert!(dollars(&free["best"], "production_cost_usd_per_instance") > limit, "{:#}", free["best"]);
            }
        }
    }
}

#[test]
fn nothing_feasible_is_exit_3() {
    let home = Home::new(24);
    for strategy in ["random", "grid", "halving"] {
        let line = format!("tune task --budget 0.3 --inference-budget 0.000001 --strategy {strategy} --out {strategy}");
        let summary = home.run(&line, &["--json", "--quiet"]).ended(3).json();
        assert_eq!(summary["best"], Value::Null, "{strategy}");
        assert!(!home.path(&format!("{strategy}/best.toml")).exists());
    }
}

#[test]
fn a_second_run_on_a_warm_store_bills_nothing() {
    let server = server(Options { latency: random_latency(), ..Options::default() });
    let home = Home::over_http(24, &server.url(), "");
    home.run("tune task --budget 0.02 --quiet --json --out first", &[]).ended(0);
    let bought = server.ledger();
    assert!(bought.billed > Usd::ZERO);
    let second = home.run("tune task --budget 0.02 --quiet --json --out second", &[]).ended(0).json();
    assert_eq!(server.ledger(), bought, "the second run asked something");
    assert_eq!(dollars(&second, "spent_usd"), Usd::ZERO);
    assert_eq!((second["requests"].as_u64(), &second["cache_hits"]), (Some(0), &second["evaluations"]));
    assert_eq!(home.read("first/best.toml"), home.read("second/best.toml"));
}

#[test]
fn savings_are_spent_again_where_the_user_says_so() {
    let server = server(Options { usage: Usage::Worst, ..Options::default() });
    let home = Home::over_http(24, &server.url(), "");
    let first = home.run("tune task --strategy grid --budget 0.05 --quiet --json --out first", &[]).ended(0).json();
    let before = server.ledger().billed;
    let line = "tune task --strategy grid --budget 0.05 --reuse-savings --quiet --json --out second";
    let second = home.run(line, &[]).ended(0).json();
    let billed = server.ledger().billed - before;
    assert!(billed <= usd("0.05") && billed > usd("0.04"), "{billed}");
    assert_eq!(dollars(&second, "spent_usd"), billed);
    assert!(dollars(&second, "study_cost_usd") > usd("0.08"), "{second:#}");
    assert!(second["evaluations"].as_u64() > first["evaluations"].as_u64());
}
