//! A run that is killed, or stopped by Ctrl-C, goes on with `--resume`: nothing that was received is bought again, the
//! budget holds over all its lives, and the answer is that of a run that was never stopped.

mod support;

use std::collections::HashMap;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farthing::Usd;
use farthing::runner::fingerprint;
use farthing::serve::mock::{Call, Fault, Latency, MockServer, Options, Usage};
use farthing::store::{SqliteStore, Store};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::Value;
use support::{Asked, Home, decided, dollars, finished, request, server, signal, steady, until, usd};

const SLOW: Latency = Latency::Random { low: Duration::from_millis(20), high: Duration::from_millis(60), seed: 9 };

fn endpoint(latency: Latency, usage: Usage) -> (MockServer, Asked) {
    let (answers, asked) = steady();
    (server(Options { answers, latency, usage, ..Options::default() }), asked)
}

/// Waits for the end; `None` where it lives on after the time.
fn ends_within(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    None
}

/// Kills a child some milliseconds after so many more requests came in; false where it had ended by then.
fn killed_after(child: &mut Child, server: &MockServer, requests: u64, milliseconds: u64) -> bool {
    let goal = server.ledger().requests + requests;
    while server.ledger().requests < goal {
        if ends_within(child, Duration::from_millis(2)).is_some() {
            return false;
        }
    }
    let lives = ends_within(child, Duration::from_millis(milliseconds)).is_none();
    if lives {
        signal(child, "KILL");
    }
    lives
}

/// The run's folder is not there, or its study.toml is whole.
fn folder_is_whole(home: &Home) {
    if home.path("run").exists() {
        farthing::study::folder::load(&home.path("run")).unwrap();
    }
}

/// Samples that the store has of each request that was ever sent.
fn stored(home: &Home, asked: &[Value]) -> HashMap<String, usize> {
    let path = home.path(".farthing/store.db");
    if !path.is_file() {
        return HashMap::new();
    }
    let store = SqliteStore::open(path.to_str().unwrap()).unwrap();
    let prints = asked.iter().map(|body| fingerprint("http", &request(body)));
    prints.map(|print| (print.to_string(), store.stored(&print).unwrap().len())).collect()
}

/// What one life of the run may ask of a request of which `had` samples are stored: in the space there are n = 1 and n = 3.
fn bought_once(had: &HashMap<String, usize>, asked: &[Value]) {
    let mut lives: HashMap<String, Vec<u32>> = HashMap::new();
    for body in asked {
        let request = request(body);
        lives.entry(fingerprint("http", &request).to_string()).or_default().push(request.n);
    }
    for (print, wanted) in lives {
        let had = had.get(&print).copied().unwrap_or(0);
        let good: &[&[u32]] = match had {
            0 => &[&[1], &[3], &[1, 2]],
            1 => &[&[2]],
            _ => &[],
        };
        assert!(good.contains(&wanted.as_slice()), "{had} samples were stored, and then {wanted:?} were bought");
    }
}

const TUNE: &str = "tune task --resume run --concurrency 8 --quiet --json";

fn small_space(home: &Home) {
    home.edit("task/space.toml", "choices = [1, 3, 10]", "choices = [1, 3]");
}

#[test]
fn twenty_kills_lose_nothing_but_what_was_in_flight() {
    // The budget is far from binding, so that only the study's own cost decides, and crashes change no decision.
    let arguments: Vec<&str> = TUNE.split(' ').chain(["--budget", "0.5"]).collect();
    let (server, asked) = endpoint(SLOW, Usage::Truthful);
    let home = Home::over_http(48, &server.url(), "");
    small_space(&home);
    let mut random = ChaCha12Rng::seed_from_u64(20);
    let (mut kills, mut early) = (0, 0);
    let last = loop {
        let before = asked.lock().unwrap().clone();
        let had = stored(&home, &before);
        let mut child = home.command(&arguments).spawn().unwrap();
        if kills < 20 {
            // Some die before there is anything, most in the middle of things.
            let (requests, wait) = match kills % 4 {
                0 => (0, random.random_range(0..60)),
                _ => (random.random_range(1..25), random.random_range(0..30)),
            };
            if killed_after(&mut child, &server, requests, wait) {
                kills += 1;
                early += u32::from(!home.path("run").exists());
            }
        }
        let done = finished(child);
        folder_is_whole(&home);
        // A killed client's requests may arrive a moment later.
        std::thread::sleep(Duration::from_millis(5));
        bought_once(&had, &asked.lock().unwrap()[before.len()..]);
        if done.code != -1 {
            break done.ended(0);
        }
    };
    assert_eq!(kills, 20, "the run was too short to be killed 20 times");
    assert!(early < 20, "all died before they began");
    let killed = last.json();
    let billed = server.ledger().billed;
    assert!(billed <= usd("0.5") && billed <= dollars(&killed, "spent_usd"), "{billed}");
    assert!(dollars(&killed, "lost_usd") > Usd::ZERO, "nothing was in flight at any kill");

    let (fresh, once) = endpoint(Latency::None, Usage::Truthful);
    let whole = Home::over_http(48, &fresh.url(), "");
    small_space(&whole);
    let uninterrupted = finished(whole.command(&arguments).spawn().unwrap()).ended(0).json();
    for file in ["best.toml", "ranking.csv"] {
        assert_eq!(home.read(&format!("run/{file}")), whole.read(&format!("run/{file}")), "{file}");
    }
    assert_eq!(decided(killed), decided(uninterrupted));
    assert_eq!(support::counts(&once).len(), support::counts(&asked).len(), "another set of requests");
}

#[test]
fn the_budget_holds_over_all_lives_of_a_run() {
    let (server, asked) = endpoint(SLOW, Usage::Worst);
    let home = Home::over_http(32, &server.url(), "");
    let arguments: Vec<&str> = TUNE.split(' ').chain(["--budget", "0.08"]).collect();
    let mut random = ChaCha12Rng::seed_from_u64(5);
    let mut kills = 0;
    for _ in 0..6 {
        let mut child = home.command(&arguments).spawn().unwrap();
        kills += u32::from(killed_after(&mut child, &server, random.random_range(3..9), random.random_range(0..20)));
        finished(child);
    }
    assert_eq!(kills, 6, "the run was too short to be killed 6 times");
    let summary = finished(home.command(&arguments).spawn().unwrap()).json();
    let billed = server.ledger().billed;
    assert!(billed <= usd("0.08"), "{billed}");
    assert!(billed >= usd("0.05"), "what crashes lost is all that may be missing: {billed}");
    let spent = dollars(&summary, "spent_usd");
    assert!(billed <= spent && spent <= usd("0.08"), "{billed} {spent}");
    assert!(!asked.lock().unwrap().is_empty());
    // And a budget that was raised goes on from there.
    let more: Vec<&str> = TUNE.split(' ').chain(["--budget", "0.1"]).collect();
    finished(home.command(&more).spawn().unwrap()).ended(0);
    let after = server.ledger().billed;
    assert!(after > billed && after <= usd("0.1"), "{after}");
}

#[test]
fn ctrl_c_saves_the_state_and_the_run_goes_on() {
    let (server, asked) = endpoint(SLOW, Usage::Truthful);
    let home = Home::over_http(32, &server.url(), "");
    small_space(&home);
    let arguments: Vec<&str> = TUNE.split(' ').chain(["--budget", "0.5"]).collect();
    let mut child = home.command(&arguments).spawn().unwrap();
    until("it asks", || server.ledger().requests >= 20);
    signal(&child, "INT");
    assert!(ends_within(&mut child, Duration::from_secs(30)).is_some(), "it did not stop");
    let stopped = finished(child).ended(130).json();
    assert_eq!(stopped["stop_reason"], "interrupted");
    assert_eq!(home.summary("run"), stopped);
    // What was in flight has landed: nothing is lost, and the accounts agree.
    assert_eq!(dollars(&stopped, "spent_usd"), server.ledger().billed);
    assert_eq!(dollars(&stopped, "lost_usd"), Usd::ZERO);
    let paid = asked.lock().unwrap().len();
    assert!(paid > 0);

    let done = home.run("tune --resume run --quiet --json", &[]).ended(0).json();
    assert_ne!(done["stop_reason"], "interrupted");
    assert_eq!(dollars(&done, "spent_usd"), server.ledger().billed);
    assert_eq!(server.ledger().identical_max, 1, "something was bought twice");
    assert!(asked.lock().unwrap().len() > paid);

    let (fresh, _) = endpoint(Latency::None, Usage::Truthful);
    let whole = Home::over_http(32, &fresh.url(), "");
    small_space(&whole);
    finished(whole.command(&arguments).spawn().unwrap()).ended(0);
    assert_eq!(home.read("run/best.toml"), whole.read("run/best.toml"));
    assert_eq!(home.read("run/ranking.csv"), whole.read("run/ranking.csv"));
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let hanging = Arc::new(AtomicBool::new(true));
    let switch = hanging.clone();
    let (answers, asked) = steady();
    // A few answers come, then none.
    let faults = Arc::new(move |call: &Call| (call.number > 40 && switch.load(Ordering::SeqCst)).then(Fault::hang));
    let server = server(Options { answers, faults, ..Options::default() });
    let home = Home::over_http(32, &server.url(), "");
    let arguments: Vec<&str> = TUNE.split(' ').chain(["--budget", "0.5"]).collect();
    let mut child = home.command(&arguments).spawn().unwrap();
    until("it asks", || server.ledger().requests >= 48);
    signal(&child, "INT");
    assert!(ends_within(&mut child, Duration::from_millis(500)).is_none(), "it did not wait for what is in flight");
    signal(&child, "INT");
    assert!(ends_within(&mut child, Duration::from_secs(20)).is_some(), "it did not end at once");
    let stopped = finished(child).ended(130).json();
    assert_eq!(stopped["stop_reason"], "interrupted");
    assert!(dollars(&stopped, "lost_usd") > Usd::ZERO, "8 requests were let go");
    assert!(server.ledger().billed <= dollars(&stopped, "spent_usd"));

    hanging.store(false, Ordering::SeqCst);
    let done = finished(home.command(&arguments).spawn().unwrap()).ended(0).json();
    assert_ne!(done["stop_reason"], "interrupted");
    let billed = server.ledger().billed;
    assert!(billed <= dollars(&done, "spent_usd") && billed <= usd("0.5"));
    assert!(asked.lock().unwrap().len() > 48);
    assert_eq!(server.ledger().identical_max, 2, "only what was in flight is asked again, and once");
}
