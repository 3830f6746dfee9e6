//! Batches through the mock endpoint's batch APIs: every way that they can go, and every moment at which a program may end.

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/wire.rs"]
mod wire;

mod buying;
mod commands;
mod lifecycle;
mod results;
mod studies;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use farthing::backend::Endpoints;
use farthing::batch::{Answer, AnswerOutcome, Ask, Options as Buying, Report};
use farthing::diagnostic::Source;
use farthing::provider::{FailureKind, Input, Message, Request};
use farthing::serve::mock::{BatchOptions, MockServer, Options};
use farthing::{Sample, Usd};
use serde_json::json;
use support::server;
use wire::run;

fn quick(change: impl FnOnce(&mut BatchOptions)) -> MockServer {
    let mut batches = BatchOptions { duration: Duration::from_millis(60), ..BatchOptions::default() };
    change(&mut batches);
    server(Options { batches, ..Options::default() })
}

/// Endpoints of one provider at a server; `more` are further lines of the endpoint's table.
fn endpoints(server: &MockServer, provider: &str, more: &str) -> Endpoints {
    endpoints_at(server.address(), provider, more)
}

fn endpoints_at(address: SocketAddr, provider: &str, more: &str) -> Endpoints {
    // Anthropic's format wants a key; any will do.
    static KEY: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "test-key-0123").unwrap();
        file
    });
    let more = format!("{more}\napi_key_file = \"{}\"", key.path().display());
    let base = format!("http://{address}{}", if provider == "azure" { "" } else { "/v1" });
    let text = support::endpoints(&format!("provider = \"{provider}\"\nbase_url = \"{base}\""), &more);
    Endpoints::read(&Source::new("farthing.toml", text), ".".as_ref()).unwrap()
}

fn buying() -> Buying {
    Buying { poll: Some(Duration::from_millis(10)), grace: Duration::from_secs(1), ..Buying::default() }
}

fn request(text: &str, n: u32) -> Request {
    let message = Message { role: "user".into(), content: text.to_owned() };
    Request {
        model: "mock-small".into(),
        input: Input::Messages(vec![message]),
        params: BTreeMap::from([("max_tokens".into(), json!(40)), ("temperature".into(), json!(0.7))]),
        n,
    }
}

fn ask(id: &str, text: &str, n: u32) -> Ask {
    Ask::new(id, request(text, n))
}

fn many(count: usize) -> Vec<Ask> {
    (0..count).map(|at| ask(&format!("id-{at}"), &format!("What is {at} + {at}?"), 1)).collect()
}

fn samples(answer: &Answer) -> &[Sample] {
    match &answer.outcome {
        AnswerOutcome::Answered { samples, .. } => samples,
        other => panic!("{}: {other:?}", answer.id),
    }
}

fn failure(answer: &Answer) -> (FailureKind, bool) {
    match &answer.outcome {
        AnswerOutcome::Failed { failure, retryable } => (failure.kind, *retryable),
        other => panic!("{}: {other:?}", answer.id),
    }
}

/// Everything is answered, each request was worked on once, and the endpoint's ledger is ours.
#[track_caller]
fn whole(report: &Report, server: &MockServer, lines: u64) {
    report.answers.iter().for_each(|answer| assert!(!samples(answer).is_empty()));
    let ledger = server.ledger();
    assert_eq!((report.status.spent_usd, report.status.held_usd), (ledger.billed, Usd::ZERO));
    assert_eq!((ledger.batch_lines, ledger.batches.bills), (lines, lines));
}

async fn files_left(server: &MockServer) -> u64 {
    let files = wire::Client::new(server).get("/v1/files?limit=100").await;
    assert_eq!(files.status, 200, "{}", files.text);
    files.text.matches("\"purpose\"").count() as u64
}
