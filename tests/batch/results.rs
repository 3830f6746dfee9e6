//! Results of batches that do not come as they were written: through a proxy that spoils what the mock endpoint says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::server;
use farthing::Usd;
use farthing::batch::rounds::Rounds;
use farthing::batch::{self, AnswerOutcome, Ask, Batches, Options as Buying, Report};
use farthing::provider::FailureKind;
use farthing::runner::bulk::{Bulk, Order};
use farthing::runner::fingerprint;
use farthing::serve::mock::{BatchOptions, MockServer, Options};
use farthing::store::{MemoryStore, SharedStore, SqliteStore};
use serde_json::json;

/// What becomes of the lines of results, from the number of the reading (from 1).
type Spoil = fn(usize, Vec<String>) -> Vec<String>;

/// Passes requests on, one a connection, and spoils results on their way back.
struct Proxy {
    address: SocketAddr,
    seen: Arc<Seen>,
}

/// What came by.
#[derive(Default)]
struct Seen {
    readings: AtomicUsize,
    deleted: AtomicUsize,
    /// So many looks at a batch that is over do not name its results yet.
    late: AtomicUsize,
}

impl Proxy {
    fn new(server: &MockServer, spoil: Spoil) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, upstream) = (listener.local_addr().unwrap(), server.address());
        let seen = Arc::new(Seen::default());
        let proxy = Proxy { address, seen: seen.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that went away is its own business.
                drop(pass(&stream.unwrap(), upstream, spoil, &seen));
            }
        });
        proxy
    }

    fn counts(&self) -> (usize, usize) {
        (self.seen.readings.load(Ordering::SeqCst), self.seen.deleted.load(Ordering::SeqCst))
    }
}

fn pass(mut stream: &TcpStream, upstream: SocketAddr, spoil: Spoil, seen: &Seen) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut head, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(bytes) = lower.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    // HTTP/1.0: the reply comes whole, and its end is the connection's.
    let mut other = TcpStream::connect(upstream)?;
    write!(other, "{}{head}connection: close\r\n\r\n", first.replace("HTTP/1.1", "HTTP/1.0"))?;
    other.write_all(&body)?;
    let mut reply = Vec::new();
    other.read_to_end(&mut reply)?;
    let end = reply.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let status = String::from_utf8_lossy(&reply[..end]).split_whitespace().nth(1).unwrap().to_owned();
    let mut body = reply[end..].to_vec();
    seen.deleted.fetch_add(usize::from(first.starts_with("DELETE")), Ordering::SeqCst);
    if first.starts_with("GET") && (first.contains("/content") || first.contains("/results")) {
        let lines = String::from_utf8(body).unwrap().lines().map(str::to_owned).collect();
        body = spoil(seen.readings.fetch_add(1, Ordering::SeqCst) + 1, lines).join("\n").into_bytes();
    } else if first.starts_with("GET") && seen.late.load(Ordering::SeqCst) > 0 {
        let mut value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        if value["output_file_id"].take().is_string() {
            seen.late.fetch_sub(1, Ordering::SeqCst);
            body = value.to_string().into_bytes();
        }
    }
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
    stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes())?;
    stream.write_all(&body)
}

fn batches(proxy: &Proxy, provider: &str) -> Batches {
    batches_in(proxy, provider, MemoryStore::new())
}

fn batches_in(proxy: &Proxy, provider: &str, store: SharedStore) -> Batches {
    let options = Buying { poll: Some(Duration::from_millis(5)), max_attempts: 1, ..Buying::default() };
    Batches::with_options(crate::endpoints_at(proxy.address, provider, ""), store, options)
}

fn ask(id: &str, n: u32) -> Ask {
    crate::ask(id, &format!("What is {} + 1?", id.len()), n)
}

fn run(provider: &str, asks: &[Ask], spoil: Spoil) -> (Report, (usize, usize), MockServer) {
    let batches = BatchOptions { duration: Duration::from_millis(30), ..BatchOptions::default() };
    let server = server(Options { batches, ..Options::default() });
    let proxy = Proxy::new(&server, spoil);
    let buyer = self::batches(&proxy, provider);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // What never ends is no answer either; a machine that is busy has a minute.
    let report = runtime.block_on(async {
        let invoked = batch::invoke(&buyer, asks.to_vec());
        tokio::time::timeout(Duration::from_secs(60), invoked).await.expect("it never ends").unwrap()
    });
    (report, proxy.counts(), server)
}

/// How many completions each has, or how it failed and whether it may be sent again.
fn outcomes(report: &Report) -> Vec<Result<usize, (FailureKind, bool)>> {
    let outcome = |answer: &batch::Answer| match &answer.outcome {
        AnswerOutcome::Answered { samples, .. } => Ok(samples.len()),
        AnswerOutcome::Failed { failure, retryable } => Err((failure.kind, *retryable)),
        other => panic!("{}: {other:?}", answer.id),
    };
    report.answers.iter().map(outcome).collect()
}

#[test]
fn one_line_that_cannot_be_read_drops_no_other() {
    let asks = ["a", "bb", "ccc"].map(|id| ask(id, 1));
    let spoil: Spoil = |_, mut lines| {
        lines[1] = "{\"custom_id\": 7}".to_owned();
        lines
    };
    let (report, (readings, deleted), server) = run("openai", &asks, spoil);
    let mut seen = outcomes(&report);
    seen.sort();
    assert_eq!(seen, [Ok(1), Ok(1), Err((FailureKind::MalformedReply, true))]);
    let status = &report.status;
    assert!(status.spent_usd > Usd::ZERO && status.spent_usd < server.ledger().billed, "{status:?}");
    assert!(status.spent_usd + status.held_usd >= server.ledger().billed, "what was billed for it is counted");
    assert_eq!((readings, deleted), (5, 0), "the files stay, for it may be got out of them");
    // One that came so only once is read again, and nothing is lost.
    let spoil: Spoil = |reading, mut lines| {
        lines[1].truncate(if reading == 1 { 20 } else { usize::MAX });
        lines
    };
    let (report, (readings, deleted), server) = run("openai", &asks, spoil);
    assert_eq!((outcomes(&report), report.status.spent_usd), (vec![Ok(1); 3], server.ledger().billed));
    assert_eq!((readings, deleted), (2, 2));
}

#[test]
fn results_that_stay_too_short_are_given_up_in_the_end() {
    let asks = ["a", "bb", "ccc"].map(|id| ask(id, 1));
    for spoil in [|_: usize, lines: Vec<String>| lines[..2].to_vec(), |_, _| vec!["<html>".to_owned(); 3]] as [Spoil; 2]
    {
        let (report, (readings, deleted), server) = run("openai", &asks, spoil);
        let answered = outcomes(&report).iter().filter(|outcome| outcome.is_ok()).count();
        let failed: Vec<_> = outcomes(&report).into_iter().filter_map(Result::err).collect();
        assert!(answered == 2 || answered == 0);
        assert_eq!(failed, vec![(FailureKind::Server, false); 3 - answered], "it is not bought again unasked");
        assert!(report.status.spent_usd + report.status.held_usd >= server.ledger().billed);
        assert_eq!((readings, deleted, server.ledger().batch_lines), (60, 0, 3));
    }
}

#[test]
fn samples_of_one_request_wait_for_each_other_and_for_no_one_else() {
    // A line for each completion: the second of `bb` does not come.
    let asks = [ask("a", 2), ask("bb", 2), ask("ccc", 2)];
    let spoil: Spoil = |_, mut lines| {
        lines.retain(|line| !line.contains("-3\""));
        lines
    };
    let (report, (_, deleted), _) = run("anthropic", &asks, spoil);
    let [a, b, c] = outcomes(&report).try_into().unwrap();
    assert_eq!((a, b, c), (Ok(2), Err((FailureKind::Server, false)), Ok(2)));
    assert_eq!(deleted, 0);
    // It comes at a later look: by then the others are there already.
    let spoil: Spoil = |reading, mut lines| {
        lines.retain(|line| match reading {
            ..=7 => !line.contains("-3\""),
            _ => line.contains("-2\"") || line.contains("-3\""),
        });
        // As many as are counted, or it would be read again.
        lines.resize(6, "{\"custom_id\":\"another\",\"result\":{\"type\":\"expired\"}}".to_owned());
        if reading <= 7 {
            lines.pop();
        }
        lines
    };
    let (report, (readings, deleted), server) = run("anthropic", &asks, spoil);
    assert_eq!((outcomes(&report), report.status.spent_usd), (vec![Ok(2); 3], server.ledger().billed));
    assert_eq!((readings, deleted), (8, 1));
}

#[test]
fn a_round_costs_what_the_ledger_says_it_lost() {
    // Refused, so not billed; an error without a code in place of an answer, that may be; one that is answered; and one that
    // is not said.
    let spoil: Spoil = |_, lines| {
        let spoilt = |line: String| {
            let mut value: serde_json::Value = serde_json::from_str(&line).unwrap();
            match value["custom_id"].as_str().unwrap().rsplit('-').next().unwrap() {
                "0" => value["response"] = json!({"status_code": 500, "body": {"error": {"message": "broken"}}}),
                "1" => value["response"]["body"] = json!({"error": {"message": "lost on the way"}}),
                "3" => (value["response"], value["error"]) = (json!(null), json!({"code": "odd", "message": "no"})),
                _ => {}
            }
            value.to_string()
        };
        lines.into_iter().map(spoilt).collect()
    };
    let home = tempfile::tempdir().unwrap();
    let on_disk = || SqliteStore::open(home.path().join("store.db")).unwrap();
    for store in [MemoryStore::new() as SharedStore, on_disk() as SharedStore] {
        let options = BatchOptions { duration: Duration::from_millis(30), ..BatchOptions::default() };
        let server = server(Options { batches: options, ..Options::default() });
        let proxy = Proxy::new(&server, spoil);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let paid = runtime.block_on(async {
            let rounds = Rounds::new(batches_in(&proxy, "openai", store.clone()), "study", None);
            let order = |id: &str| {
                let request = ask(id, 1).request;
                let fingerprint = fingerprint("http", &request);
                rounds.order(Order { model: "mock-small".into(), request, fingerprint, stored: 0 })
            };
            let orders = ["a", "bb", "ccc", "dddd"].map(order);
            rounds.close();
            futures_util::future::join_all(orders).await.into_iter().map(|one| one.unwrap().paid).collect::<Vec<_>>()
        });
        let spent = store.spent("study").unwrap();
        assert_eq!((paid[0], paid[1] + paid[3], paid[2]), (Usd::ZERO, spent.lost, spent.settled));
        assert!(paid[1] > Usd::ZERO && paid[1] == paid[3] && paid[2] > Usd::ZERO, "{paid:?}");
    }
}

#[test]
fn results_that_are_named_late_are_looked_for_again() {
    let options = BatchOptions { duration: Duration::from_millis(30), ..BatchOptions::default() };
    let server = server(Options { batches: options, ..Options::default() });
    let proxy = Proxy::new(&server, |_, lines| lines);
    proxy.seen.late.store(2, Ordering::SeqCst);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(batch::invoke(&batches(&proxy, "openai"), vec![ask("a", 1)])).unwrap();
    assert_eq!((outcomes(&report), report.status.spent_usd), (vec![Ok(1)], server.ledger().billed));
    assert_eq!((proxy.counts(), proxy.seen.late.load(Ordering::SeqCst)), ((1, 2), 0));
}

#[test]
fn another_model_that_answers_is_named_once() {
    let spoil: Spoil = |_, lines| {
        let spoilt = |line: String| {
            let mut value: serde_json::Value = serde_json::from_str(&line).unwrap();
            value["response"]["body"]["model"] = "a-stranger".into();
            value.to_string()
        };
        lines.into_iter().map(spoilt).collect()
    };
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(log.reopen().unwrap())).finish();
    let (report, ..) =
        tracing::subscriber::with_default(subscriber, || run("openai", &[ask("a", 1), ask("bb", 1)], spoil));
    assert_eq!(outcomes(&report), [Ok(1), Ok(1)]);
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(log.matches("`mock-small` was asked and `a-stranger` answered").count(), 1, "{log}");
}
