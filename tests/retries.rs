//! What goes wrong on the way is tried again, nothing is bought twice, and a key is never written down.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farthing::backend::Endpoints;
use farthing::diagnostic::Source;
use farthing::provider::Request;
use farthing::runner::{Admission, Ask, Purse, Runner, Wish, fingerprint};
use farthing::serve::mock::faults::Kind;
use farthing::serve::mock::{Call, Fault, Faults, Latency, MockServer, Options};
use farthing::store::MemoryStore;
use farthing::{Error, Usd};
use serde_json::{Value, json};
use support::{Done, Home, dollars, endpoints, server, steady, usd};

const EVALUATE: &str = "evaluate task --set model=mock-small --json --quiet";

/// Something goes wrong with the first `times` requests of each body.
fn first(times: usize, fault: Fault) -> Faults {
    let seen = Arc::new(std::sync::Mutex::new(HashMap::<String, usize>::new()));
    Arc::new(move |call: &Call| {
        let mut seen = seen.lock().unwrap();
        let count = seen.entry(call.body.to_string()).or_insert(0);
        *count += 1;
        (*count <= times).then(|| fault.clone())
    })
}

fn evaluate(faults: Faults, more: &str) -> (MockServer, Home, Value) {
    let server = server(Options { faults, ..Options::default() });
    let home = Home::over_http(8, &server.url(), more);
    let done = home.run(EVALUATE, &[]).ended(0).json();
    assert_eq!((&done["instances"], &done["missing"]), (&json!(8), &json!(0)), "{done:#}");
    (server, home, done)
}

#[test]
fn what_passes_is_tried_again() {
    let cases = [
        ("429 at once", Fault::rate_limited("0"), 2, false),
        ("500", Fault::status(500), 2, false),
        ("503", Fault::status(503), 1, false),
        ("408", Fault::status(408), 1, false),
        ("reset", Fault::reset(), 1, true),
        ("hang", Fault::hang(), 1, true),
        ("cut", Fault::cut(), 1, true),
        ("malformed", Fault::malformed(), 1, true),
        ("a page", Fault::html(), 1, true),
        ("no choices", Fault::no_choices(), 1, true),
    ];
    std::thread::scope(|scope| {
        for (name, fault, times, lost) in cases {
            scope.spawn(move || {
                let billed = fault.billed;
                let (server, _, done) = evaluate(first(times, fault), "timeout_seconds = 1");
                let ledger = server.ledger();
                assert_eq!((ledger.requests, ledger.answered), (8 * (times as u64 + 1), 8), "{name}");
                let spent = dollars(&done, "spent_usd");
                match lost {
                    // An error status is never billed, so the accounts agree.
                    false => assert_eq!(spent, ledger.billed, "{name}"),
                    true => assert!(spent > dollars(&done, "study_cost_usd"), "{name}: may have been billed"),
                }
                assert!(ledger.billed <= spent, "{name}: billed {}, counted {spent}", ledger.billed);
                assert!(billed || ledger.billed == dollars(&done, "study_cost_usd"), "{name}");
            });
        }
    });
}

#[test]
fn the_endpoints_wish_to_wait_is_honoured() {
    let begin = Instant::now();
    evaluate(first(1, Fault::rate_limited("2")), "");
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    // And it is no shorter than wished because our own pauses grow, nor longer.
    let begin = Instant::now();
    evaluate(first(6, Fault::rate_limited("0")), "");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}: 0 means at once", begin.elapsed());
}

#[test]
fn who_never_answers_is_given_up_and_missing() {
    let server = server(Options {
        faults: Arc::new(|call: &Call| call.body.to_string().contains("beads").then(|| Fault::status(500))),
        ..Options::default()
    });
    let home = Home::over_http(8, &server.url(), "max_retries = 1");
    let beads = home.read("task/tune.jsonl").lines().filter(|line| line.contains("beads")).count();
    assert!(beads > 0);
    let done = home.run(EVALUATE, &[]).ended(0).json();
    assert_eq!(done["missing"], json!(beads), "{done:#}");
    assert_eq!(done["instances"], json!(8 - beads));
    assert_eq!(server.ledger().requests as usize, 8 + beads);
    assert!(done["failures"].to_string().contains("given up after 2 attempts"), "{done:#}");
    assert!(done["metrics"]["accuracy"]["mean"].is_f64());
    // Not kept as an answer: another evaluation tries again.
    home.run(EVALUATE, &[]).ended(0);
    assert_eq!(server.ledger().requests as usize, 8 + 3 * beads);
}

#[test]
fn what_cannot_pass_is_not_tried_again() {
    for fault in [Fault::context_too_long(), Fault::status(400)] {
        let seen = Arc::new(|call: &Call| call.body.to_string().contains("beads"));
        let faults = {
            let (seen, fault) = (seen.clone(), fault.clone());
            Arc::new(move |call: &Call| seen(call).then(|| fault.clone()))
        };
        let server = server(Options { faults, ..Options::default() });
        let home = Home::over_http(8, &server.url(), "");
        // One by one, so that others have been answered before.
        home.run(EVALUATE, &["--concurrency", "1", "--seed", "3"]);
        assert_eq!(server.ledger().identical_max, 1, "{fault:?}");
    }
}

/// Two prompts that read the same are the same request.
/// The first row in the seeded order is always refused, or never answered in full: it alone is missing.
#[test]
fn a_bad_row_that_comes_first_is_missing() {
    for fault in [Fault::status(400), Fault::reset()] {
        let poison = std::sync::Mutex::new(None);
        let faults: Faults = Arc::new(move |call: &Call| {
            let mut poison = poison.lock().unwrap();
            let text = call.body.to_string();
            (*poison.get_or_insert_with(|| text.clone()) == text).then(|| fault.clone())
        });
        let server = server(Options { faults, ..Options::default() });
        let home = Home::over_http(8, &server.url(), "max_retries = 1");
        let done = home.run(&format!("{EVALUATE} --concurrency 1"), &[]).ended(0).json();
        assert_eq!((&done["instances"], &done["missing"]), (&json!(7), &json!(1)), "{done:#}");
    }
}

/// Where an endpoint cannot be used any more, what it answered is the result all the same.
#[test]
fn what_was_paid_for_is_told_where_a_run_ends_early() {
    for concurrency in ["1", "8"] {
        let faults: Faults = Arc::new(|call: &Call| (call.number > 5).then(|| Fault::status(401)));
        let server =
            server(Options { faults, latency: Latency::Fixed(Duration::from_millis(30)), ..Options::default() });
        let home = Home::over_http(12, &server.url(), "");
        let done = home.run(&format!("{EVALUATE} --concurrency"), &[concurrency]).ended(5).json();
        assert_eq!(server.ledger().answered, 5);
        assert_eq!(done["instances"], json!(5), "concurrency {concurrency}: {done:#}");
    }
}

#[test]
fn configurations_that_ask_the_same_share_it() {
    for concurrency in ["1", "64"] {
        let latency = Latency::Random { low: Duration::from_millis(1), high: Duration::from_millis(10), seed: 1 };
        let server = server(Options { latency, ..Options::default() });
        let home = Home::over_http(16, &server.url(), "");
        let template = "template = \"{{ problem }}\\nLet's think step by step.\" },";
        let twin = format!("{template}\n  {{ name = \"twin\", {template}");
        home.edit("task/space.toml", template, &twin);
        home.edit("task/space.toml", "choices = [1, 3, 10]", "choices = [3]");
        let line = "tune task --strategy grid --budget 1 --out run --json --quiet --concurrency";
        let done = home.run(line, &[concurrency]).ended(0).json();
        assert_eq!((&done["trials"], &done["evaluations"]), (&json!(7), &json!(16 * 7)), "{done:#}");
        // Of the seven configurations (with the baseline's n = 1) two pairs are twins.
        let ledger = server.ledger();
        assert_eq!(ledger.identical_max, 1, "at {concurrency}");
        assert_eq!(ledger.requests, 16 * 5, "at {concurrency}");
        assert_eq!(dollars(&done, "spent_usd"), ledger.billed);
    }
}

fn a_request(n: u32) -> Request {
    support::request(&json!({
        "model": "mock-small", "messages": [{"role": "user", "content": "Ann has 3 nuts and finds 4 more. How many?"}],
        "temperature": 0.7, "max_tokens": 48, "n": n,
    }))
}

/// A runner on an empty store, for one endpoint.
fn runner(server: &MockServer) -> Arc<Runner> {
    let text = endpoints(&format!("provider = \"openai\"\nbase_url = \"{}\"", server.url()), "");
    let endpoints = Endpoints::read(&Source::new("farthing.toml", text), std::path::Path::new(".")).unwrap();
    let models = ["mock-small".to_owned()];
    Arc::new(Runner::open(MemoryStore::new(), &endpoints, &models, 32, true, true).unwrap())
}

async fn buy(runner: Arc<Runner>, purse: Arc<Purse>, n: u32) -> Result<u64, Error> {
    let (service, request) = (runner.service("mock-small").unwrap(), a_request(n));
    let print = fingerprint(service.source(), &request);
    let worst = service.worst(&request, 0, false);
    let Admission::Go(mut hold) = purse.admit(worst, worst) else { panic!("not admitted") };
    let ask = Ask { service: &service, request: &request, fingerprint: &print, scope: "scope", wish: Wish::default() };
    let answered = runner.answer(ask, &mut hold).await?;
    assert!(answered.outcome.unwrap().len() >= n as usize);
    Ok(answered.requests)
}

#[test]
fn equal_requests_in_flight_are_sent_once() {
    let server = server(Options { latency: Latency::Fixed(Duration::from_millis(60)), ..Options::default() });
    let (runner, purse) = (runner(&server), Purse::new(Some(usd("1")), false, Usd::ZERO));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let sent: u64 = runtime.block_on(async {
        let tasks: Vec<_> = (0..12).map(|_| tokio::spawn(buy(runner.clone(), purse.clone(), 3))).collect();
        let mut sent = 0;
        for task in tasks {
            sent += task.await.unwrap().unwrap();
        }
        sent
    });
    assert_eq!((sent, server.ledger().requests, server.ledger().identical_max), (1, 1, 1));
    assert_eq!(purse.spent(), server.ledger().billed);
    assert_eq!(purse.held(), Usd::ZERO);
}

#[test]
fn only_missing_samples_are_bought() {
    for (before, after, sizes) in [("10", "3", vec![10]), ("3", "10", vec![3, 7]), ("1", "3", vec![1, 2])] {
        let (answers, asked) = steady();
        let server = server(Options { answers, ..Options::default() });
        let home = Home::over_http(6, &server.url(), "");
        let set = |n: &str| home.run(EVALUATE, &["--set", &format!("n={n}")]).ended(0).json();
        set(before);
        let first = server.ledger();
        let then = set(after);
        let mut wanted: Vec<u64> = asked.lock().unwrap().iter().map(|body| body["n"].as_u64().unwrap_or(1)).collect();
        wanted.dedup();
        assert_eq!(wanted, sizes, "{before} and then {after}");
        let second = server.ledger();
        assert_eq!(second.requests, 6 * sizes.len() as u64);
        assert_eq!(dollars(&then, "spent_usd"), second.billed - first.billed);
        assert_eq!(then["instances"], json!(6));
        let hits = if sizes.len() == 1 { 6 } else { 0 };
        assert_eq!(then["cache_hits"], json!(hits));
    }
}

#[test]
fn prompts_that_differ_in_a_byte_are_bought_apart() {
    let (answers, asked) = steady();
    let server = server(Options { answers, ..Options::default() });
    let home = Home::over_http(6, &server.url(), "");
    home.run(EVALUATE, &[]).ended(0);
    home.edit("task/space.toml", "with the number only.", "with the number only. ");
    home.run(EVALUATE, &[]).ended(0);
    assert_eq!((asked.lock().unwrap().len(), server.ledger().identical_max), (12, 1));
}

const KEY: &str = "sk-planted-7f3a9c51d2e8";

/// The key is in nothing that the run wrote or said.
fn unseen(home: &Home, done: &Done) {
    assert!(!done.stdout.contains(KEY), "{done:#?}");
    assert!(!done.stderr.contains(KEY), "{done:#?}");
    let files = home.files();
    assert!(files.keys().any(|path| path.ends_with("store.db")), "{:?}", files.keys());
    for (path, bytes) in &files {
        assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()), "{}", path.display());
    }
}

#[test]
fn a_key_is_never_written_down() {
    let with_key = |home: &Home, line: &str, key: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = home.command(&words);
        support::done(command.env("THE_KEY", key).env("RUST_LOG", "trace"))
    };
    let more = "api_key_env = \"THE_KEY\"\nmax_retries = 1";
    let guarded = server(Options { key: Some(KEY.into()), ..Options::default() });
    let home = Home::over_http(8, &guarded.url(), more);
    let done = with_key(&home, "tune task --budget 0.01 --out run --json --log trace", KEY).ended(0);
    assert!(guarded.ledger().answered > 0, "the key was not even sent");
    assert!(done.stderr.contains("TRACE") || done.stderr.contains("DEBUG"), "the log was not on: {}", done.stderr);
    unseen(&home, &done);

    // An endpoint that answers with the key in its error message: the message is shown and kept, the key is not.
    for (status, code) in [(401, 5), (400, 5), (500, 5)] {
        let message = format!("Incorrect API key provided: {KEY}. Look it up.");
        let faults = Arc::new(move |_: &Call| Some(Fault::status(status).with_error("invalid_api_key", &message)));
        let server = server(Options { key: Some(KEY.into()), faults, ..Options::default() });
        let home = Home::over_http(4, &server.url(), more);
        for line in ["tune task --budget 0.01 --out run --log debug", "evaluate task --json --log debug"] {
            let done = with_key(&home, line, KEY);
            assert!(done.code == code || status == 500, "{status}: {done:#?}");
            unseen(&home, &done);
            if status != 500 {
                assert!(done.stderr.contains("(secret)"), "{status}: the message is gone: {done:#?}");
            }
        }
    }
    // Nor a piece of it, where a long message is cut short, or in a reply that cannot be read.
    let faults = Arc::new(|call: &Call| {
        let message = format!("{} {KEY}", "x".repeat(150 + 12 * (call.number as usize % 5)));
        let mut fault = Fault::status(500).with_error("server_error", &message);
        if let (0, Kind::Status { code, body, .. }) = (call.number % 2, &mut fault.kind) {
            (*code, *body) = (200, message);
        }
        Some(fault)
    });
    let server = server(Options { faults, ..Options::default() });
    let home = Home::over_http(16, &server.url(), "api_key_env = \"THE_KEY\"\nmax_retries = 0");
    let done = with_key(&home, "evaluate task --json --concurrency 1", KEY).ended(5);
    assert!(done.stdout.contains("(secret)"), "{done:#?}");
    let piece = &KEY[..6];
    assert!(!done.stdout.contains(piece) && !done.stderr.contains(piece), "{done:#?}");
    for (path, bytes) in home.files() {
        assert!(!bytes.windows(piece.len()).any(|window| window == piece.as_bytes()), "{}", path.display());
    }
    // A wrong key is not repeated either.
    let done = with_key(&home, "evaluate task --set n=3 --json --store other.db", "sk-wrong-11223344").ended(5);
    assert!(!format!("{done:?}").contains("sk-wrong"), "{done:#?}");
}
