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
    ];
    std::thread::scope(|scope| {
        for (endpoint, model, more, most) in cases {
            scope.spawn(move || {
                // So slow that even a busy machine fills what is allowed.
                let server = server(slow(150));
                let home = Home::over_http(24, &server.url(), endpoint);
                let text =
                    home.read("farthing.toml").replace("endpoint = \"here\"", &format!("endpoint = \"here\"\n{model}"));
                home.write("farthing.toml", format!("{text}\n{more}\n"));
                home.run(TUNE, &[]).ended(0);
                let seen = server.ledger().max_concurrent;
                assert!(seen <= most, "{endpoint:?} {model:?} {more:?}: {seen} at once");
                assert!(seen * 2 > most, "{endpoint:?} {model:?} {more:?}: only {seen} at once");
            });
        }
    });
    // Where nothing limits them, more than any of these limits; slow enough for the busiest machine.
    let server = server(slow(1000));
    let home = Home::over_http(24, &server.url(), "");
    home.run(TUNE, &[]).ended(0);
    let seen = server.ledger().max_concurrent;
    assert!((10..=64).contains(&seen), "{seen} at once");
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

#[test]
fn what_the_store_has_passes_no_limit() {
    let server = server(Options::default());
    let home = Home::over_http(24, &server.url(), "");
    home.run("evaluate task --json --quiet", &[]).ended(0);
    // At this rate 24 requests would take 23 minutes.
    home.point_at(&server.url(), "requests_per_minute = 1\ntokens_per_minute = 1\ndeadline_seconds = 60");
    let done = home.run("evaluate task --json --quiet", &[]).ended(0).json();
    assert_eq!((&done["cache_hits"], server.ledger().requests), (&json!(24), 24));
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

/// `cargo test --release --test limits -- --ignored --nocapture`: how much of a latency is hidden, with a store on disk.
#[test]
#[ignore = "a measurement: its figure needs a quiet machine and a release build"]
fn a_latency_is_hidden() {
    let number = |name: &str, else_: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(else_);
    let (requests, latency, concurrency) = (number("REQUESTS", 20_000), number("LATENCY_MS", 50), 64);
    let server = server(slow(latency));
    let home = Home::over_http(1, &server.url(), "");
    let rows = (0..requests).map(|i| format!("{{\"id\":\"{i}\",\"problem\":\"Ann has {i} nuts.\",\"answer\":1}}\n"));
    home.write("task/tune.jsonl", rows.collect::<String>());
    let begin = Instant::now();
    let line = "evaluate task --json --quiet --concurrency 64";
    assert_eq!(home.run(line, &[]).ended(0).json()["instances"], json!(requests));
    let seconds = begin.elapsed().as_secs_f64();
    let share = requests as f64 / seconds / (f64::from(concurrency) / (latency as f64 / 1000.0));
    println!(
        "{requests} requests of {latency} ms in {seconds:.2} s: {:.1} % of what {concurrency} at once allow",
        share * 100.0
    );
}
