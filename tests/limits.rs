//! Limits hold as the endpoint sees them: requests in flight, at an endpoint, of a model and of a group; and an endpoint
//! that says that it is too much is asked for less.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farthing::serve::mock::{Answers, Call, Fault, Latency, Options, Reply};
use serde_json::json;
use support::{Home, server};

fn slow(ms: u64) -> Options {
    Options { latency: Latency::Fixed(Duration::from_millis(ms)), ..Options::default() }
}

const TUNE: &str = "tune task --strategy grid --budget 1 --max-trials 4 --out run --json --quiet --concurrency 64";

#[test]
fn requests_in_flight_are_limited_at_an_endpoint_of_a_model_and_of_a_group() {
    let cases = [
        ("max_concurrency = 5", "", "", 5),
        ("", "max_concurrency = 3", "", 6),
        ("", "limit = \"all\"", "[limits.all]\nmax_concurrency = 4", 4),
        ("limit = \"all\"\nmax_concurrency = 9", "limit = \"all\"", "[limits.all]\nmax_concurrency = 7", 7),
        ("", "", "", 64),
    ];
    std::thread::scope(|scope| {
        for (endpoint, model, more, most) in cases {
            scope.spawn(move || {
                let server = server(slow(30));
                let home = Home::over_http(24, &server.url(), endpoint);
                let text =
                    home.read("farthing.toml").replace("endpoint = \"here\"", &format!("endpoint = \"here\"\n{model}"));
                home.write("farthing.toml", format!("{text}\n{more}\n"));
                home.run(TUNE, &[]).ended(0);
                let seen = server.ledger().max_concurrent;
                assert!(seen <= most, "{endpoint:?} {model:?} {more:?}: {seen} at once");
                assert!(seen * 2 > most.min(40), "{endpoint:?} {model:?} {more:?}: only {seen} at once");
            });
        }
    });
}

#[test]
fn a_rate_is_not_passed_and_is_used() {
    let server = server(Options::default());
    let home = Home::over_http(24, &server.url(), "requests_per_minute = 600");
    let begin = Instant::now();
    home.run("evaluate task --json --quiet", &[]).ended(0);
    // Ten at once, then ten a second.
    assert!(begin.elapsed() >= Duration::from_millis(1350), "{:?}", begin.elapsed());
    assert_eq!(server.ledger().requests, 24);
}

/// It refuses whatever is above ten requests at once. Nothing is lost, and after the first rounds refusals are few.
#[test]
fn an_endpoint_that_says_it_is_too_much_is_asked_for_less() {
    let busy = Arc::new(AtomicU64::new(0));
    let refused = Arc::new(AtomicU64::new(0));
    let custom = {
        let (busy, refused) = (busy.clone(), refused.clone());
        move |call: &Call| {
            // A request takes about the latency from here; the count goes down when it is over.
            if busy.fetch_add(1, Ordering::SeqCst) >= 10 {
                busy.fetch_sub(1, Ordering::SeqCst);
                refused.fetch_add(1, Ordering::SeqCst);
                return Reply::Fault(Fault::rate_limited("0").at_once());
            }
            let busy = busy.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                busy.fetch_sub(1, Ordering::SeqCst);
            });
            Reply::Answer(farthing::backend::mock::answer(&support::request(&call.body), call.first).unwrap())
        }
    };
    let server = server(Options { answers: Answers::Custom(Arc::new(custom)), ..slow(20) });
    let home = Home::over_http(40, &server.url(), "max_retries = 8");
    let done = home.run(&TUNE.replace("--max-trials 4", "--max-trials 8"), &[]).ended(0).json();
    assert_eq!((&done["failed_evaluations"], &done["evaluations"]), (&json!(0), &json!(320)), "{done:#}");
    let (refused, answered) = (refused.load(Ordering::SeqCst), server.ledger().answered);
    assert!(refused > 0 && refused < answered, "{refused} refusals for {answered} answers");
}
