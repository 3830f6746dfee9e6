//! `kill -9` at any moment, and two programs on one file, with real processes: the tests run this very test program
//! again, told by an environment variable to be a writer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::{Closing, Fingerprint, RequestRecord, SqliteStore, Store};
use crate::money::Usd;
use crate::provider::{FinishReason, Response, Sample};

const STORE: &str = "FARTHING_TEST_STORE";
const NAME: &str = "FARTHING_TEST_WRITER";
const ROUNDS: &str = "FARTHING_TEST_ROUNDS";
const TASKS: u64 = 8;
const SCOPE: &str = "study";
const WORST: i64 = 1_000_000;

/// No test by itself: the writer that the tests below start. It says on standard output what was acknowledged.
#[test]
fn writer() {
    let (Ok(path), Ok(name), Ok(rounds)) = (std::env::var(STORE), std::env::var(NAME), std::env::var(ROUNDS)) else {
        return;
    };
    let store = SqliteStore::open(path).unwrap();
    let rounds: u64 = rounds.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for task in 0..TASKS {
            let (store, name) = (store.clone(), name.clone());
            tasks.push(tokio::spawn(async move {
                for round in 0..rounds {
                    write(&*store, &format!("{name}-{task}-{round}"), round).await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// One request: reserved, then answered, released or lost.
async fn write(store: &dyn Store, text: &str, round: u64) {
    let print = print_of(round % 7);
    let entry = store.reserve(SCOPE, &print, Usd::from_pico(WORST)).await.unwrap();
    say(&format!("reserved {text}"));
    match round % 5 {
        3 => store.close(entry, Closing::Released).await.unwrap(),
        4 => store.close(entry, Closing::Lost).await.unwrap(),
        _ => {
            let sample = Sample::new(text, FinishReason::STOP, 1);
            let response = Response { samples: vec![sample], prompt_tokens: 1, ..Response::default() };
            let request = RequestRecord { model: "m".into(), source: "mock".into(), body: "x".repeat(2000) };
            store.record(SCOPE, &print, &request, response, bill(round), Some(entry)).await.unwrap();
        }
    }
    say(&format!("closed {text}"));
}

/// A line in one write, past the test harness, which would keep it.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("#{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

fn print_of(number: u64) -> Fingerprint {
    Fingerprint(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn bill(round: u64) -> Usd {
    Usd::from_pico(1 + round as i64 % 1000)
}

fn start(path: &Path, name: &str, rounds: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::crash_tests::writer", "--nocapture", "--test-threads=1"])
        .env(STORE, path)
        .env(NAME, name)
        .env(ROUNDS, rounds.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the writers were told: by the request's text, true where it was closed as well as reserved.
#[derive(Default)]
struct Heard(BTreeMap<String, bool>);

impl Heard {
    /// Takes in whole lines only: a killed writer may leave half of one.
    fn listen(&mut self, mut said: impl BufRead) {
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        for line in whole.lines() {
            // The harness writes on the same lines.
            let Some((_, line)) = line.split_once('#') else { continue };
            match line.split_once(' ') {
                Some(("reserved", text)) => drop(self.0.insert(text.to_owned(), false)),
                Some(("closed", text)) => drop(self.0.insert(text.to_owned(), true)),
                _ => panic!("what is {line}?"),
            }
        }
    }

    /// Checks that a store has all that was acknowledged, once, and no more than was in flight besides.
    fn check(&self, store: &SqliteStore, in_flight: u64) {
        let mut texts = Vec::new();
        for print in 0..7 {
            let stored = store.stored(&print_of(print)).unwrap();
            for (at, purchase) in stored.purchases.iter().enumerate() {
                assert_eq!(purchase.first, at, "samples are not numbered through");
            }
            texts.extend(stored.samples().map(|sample| sample.text.clone()));
        }
        let kept = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(kept, texts.len(), "a response was kept twice");
        let (mut settled, mut lost, mut reserved) = (Usd::ZERO, Usd::ZERO, 0);
        for (text, closed) in &self.0 {
            let round: u64 = text.rsplit('-').next().unwrap().parse().unwrap();
            match (closed, round % 5) {
                (true, 0..=2) => {
                    assert!(texts.binary_search(text).is_ok(), "{text} was acknowledged and is lost");
                    settled += bill(round);
                }
                (true, 3) => {}
                (true, _) => lost += Usd::from_pico(WORST),
                // It may have been closed, unheard.
                (false, _) => reserved += 1,
            }
        }
        assert!(reserved <= in_flight, "{reserved} requests were cut off, with {in_flight} in flight");
        let spent = store.spent(SCOPE).unwrap();
        assert!(spent.settled >= settled, "bills are lost: {spent:?}, {settled}");
        assert!(spent.lost >= lost, "lost reservations are lost: {spent:?}, {lost}");
        let most = settled + lost + Usd::from_pico(WORST).times(in_flight);
        assert!(spent.total() <= most, "more is spent than was asked for: {spent:?}, {most}");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut random = ChaCha12Rng::seed_from_u64(9);
    let mut heard = Heard::default();
    for life in 1..=10 {
        let mut child = start(&path, &format!("life{life}"), u64::MAX);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        // From its first acknowledged reservation on; every other time even while it opens the store.
        let mut first = Vec::new();
        if life % 2 == 0 {
            while !first.ends_with(b"#") && said.read_until(b'#', &mut first).unwrap() > 0 {}
            first = b"#".to_vec();
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..150_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        heard.listen(BufReader::new(first.as_slice().chain(said)));
        let store = SqliteStore::open(&path).unwrap();
        // Every life may have left one request of each task open.
        heard.check(&store, life * TASKS);
    }
    assert!(heard.0.values().filter(|closed| **closed).count() > 20, "the writers hardly wrote: {}", heard.0.len());
    let conn = rusqlite::Connection::open(&path).unwrap();
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

#[test]
fn two_programs_may_write_to_one_file() {
    const ROUNDS: u64 = 60;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let children = ["left", "right"].map(|name| start(&path, name, ROUNDS));
    let mut heard = Heard::default();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "a writer failed: {}", String::from_utf8_lossy(&output.stdout));
        heard.listen(output.stdout.as_slice());
    }
    assert_eq!(heard.0.len() as u64, 2 * TASKS * ROUNDS);
    assert!(heard.0.values().all(|closed| *closed));
    let store = SqliteStore::open(&path).unwrap();
    heard.check(&store, 0);
    let samples: usize = (0..7).map(|print| store.stored(&print_of(print)).unwrap().len()).sum();
    assert_eq!(samples as u64, 2 * TASKS * ROUNDS * 3 / 5);
    assert_eq!(store.spent(SCOPE).unwrap().requests, 2 * TASKS * ROUNDS * 4 / 5);
}
