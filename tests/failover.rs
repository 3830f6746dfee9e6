//! A model at several endpoints: who fails is left for the next, keys share the load, and money is counted once.

mod support;

use std::fmt::Write as _;
use std::sync::Arc;

use farthing::Usd;
use farthing::serve::mock::{Call, Fault, Faults, MockServer, Options, Usage};
use serde_json::{Value, json};
use support::{Done, Home, PRICES, dollars, server, usd};

fn failing(fault: Fault) -> Options {
    Options { faults: Arc::new(move |_: &Call| Some(fault.clone())), ..Options::default() }
}

/// A task whose models are served by all of these endpoints, in this order.
fn home(instances: usize, servers: &[&MockServer], more: &str, routing: &str) -> Home {
    let home = Home::new(instances);
    let mut text = String::new();
    for (at, server) in servers.iter().enumerate() {
        let url = server.url();
        write!(text, "[endpoints.e{at}]\nprovider = \"openai\"\nbase_url = \"{url}\"\n{more}\n").unwrap();
    }
    let names: Vec<String> = (0..servers.len()).map(|at| format!("\"e{at}\"")).collect();
    for (name, input, output) in PRICES {
        let names = names.join(", ");
        write!(
            text,
            "[models.{name}]\nendpoints = [{names}]\nrouting = \"{routing}\"\nprice = {{ input = {input}, output = {output} }}\n"
        )
        .unwrap();
    }
    home.write("farthing.toml", text);
    home
}

const EVALUATE: &str = "evaluate task --set model=mock-small --json --quiet";

fn evaluated(done: Done) -> Value {
    let done = done.ended(0).json();
    assert_eq!(done["missing"], json!(0), "{done:#}");
    done
}

#[test]
fn the_next_endpoint_answers_where_one_fails() {
    let cases = [
        ("401", Fault::status(401)),
        ("429", Fault::rate_limited("20")),
        ("no money", Fault::quota()),
        ("404", Fault::status(404)),
        ("400", Fault::status(400)),
        ("500", Fault::status(500)),
        ("529", Fault::status(529)),
        ("reset", Fault::reset()),
        ("hang", Fault::hang()),
    ];
    std::thread::scope(|scope| {
        for (name, fault) in cases {
            scope.spawn(move || {
                let hangs = name == "hang";
                let (bad, good) = (server(failing(fault)), server(Options::default()));
                let home = home(8, &[&bad, &good], "timeout_seconds = 2", "failover");
                // One after the other, so that it is known who comes after whom.
                let done = evaluated(home.run(EVALUATE, &["--concurrency", "1"]));
                assert_eq!((good.ledger().requests, good.ledger().answered), (8, 8), "{name}");
                let asked = bad.ledger().requests;
                assert!(if name == "400" { asked == 8 } else { (1..=3).contains(&asked) }, "{name}: {asked} asked");
                let (spent, cost) = (dollars(&done, "spent_usd"), dollars(&done, "study_cost_usd"));
                assert_eq!(spent > cost, hangs || name == "reset", "{name}: only what may be billed is counted");
                assert!(good.ledger().billed + bad.ledger().billed <= spent, "{name}");
            });
        }
    });
}

#[test]
fn where_no_endpoint_accepts_the_key_it_is_exit_5() {
    let (one, two) = (server(failing(Fault::status(401))), server(failing(Fault::quota())));
    let home = home(8, &[&one, &two], "", "failover");
    for line in ["tune task --budget 0.01 --out run --json --quiet --concurrency 1", EVALUATE] {
        let done = home.run(line, &[]).ended(5);
        assert!(done.stderr.contains("cannot be used") && done.stderr.contains("endpoint `e"), "{done:#?}");
    }
    let (one, two) = (one.ledger(), two.ledger());
    assert!((2..=12).contains(&one.requests) && (2..=12).contains(&two.requests), "{one:?} {two:?}");
}

#[test]
fn endpoints_share_the_load() {
    let servers = [server(Options::default()), server(Options::default()), server(Options::default())];
    let all: Vec<&MockServer> = servers.iter().collect();
    let home = home(24, &all, "", "balance");
    let done = evaluated(home.run(EVALUATE, &[]));
    let requests: Vec<u64> = servers.iter().map(|server| server.ledger().requests).collect();
    assert!(requests.iter().sum::<u64>() == 24 && requests.iter().all(|&one| one >= 4), "{requests:?}");
    let billed: Usd = servers.iter().map(|server| server.ledger().billed).sum();
    assert_eq!(dollars(&done, "spent_usd"), billed);
    // Who answered is no part of what was asked: from a store, one endpoint is as good as three.
    home.write(
        "farthing.toml",
        support::endpoints(&format!("provider = \"openai\"\nbase_url = \"{}\"", all[0].url()), ""),
    );
    let again = evaluated(home.run(EVALUATE, &[]));
    assert_eq!((dollars(&again, "spent_usd"), &again["cache_hits"]), (Usd::ZERO, &json!(24)));
}

/// Requests move between endpoints that lose, refuse and answer, many at once: the sum of both bills is within the budget.
#[test]
fn the_budget_holds_over_all_endpoints() {
    for routing in ["failover", "balance"] {
        let lossy: Faults = Arc::new(|call: &Call| match call.number % 4 {
            0 => Some(Fault::malformed()),
            1 => Some(Fault::rate_limited("0")),
            2 => Some(Fault::status(503)),
            _ => None,
        });
        let options = || Options { faults: lossy.clone(), usage: Usage::Worst, ..Options::default() };
        let (one, two) = (server(options()), server(options()));
        let home = home(24, &[&one, &two], "max_retries = 2", routing);
        let summary =
            home.run("tune task --budget 0.02 --out run --json --quiet --concurrency 64", &[]).ended(0).json();
        let billed = one.ledger().billed + two.ledger().billed;
        let spent = dollars(&summary, "spent_usd");
        assert!(billed <= spent && spent <= usd("0.02"), "{routing}: {billed} of {spent}");
        assert!(one.ledger().answered > 0 && two.ledger().answered > 0, "{routing}");
        assert!(dollars(&summary, "lost_usd") > Usd::ZERO, "{routing}");
    }
}
