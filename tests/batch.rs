//! Batches through the mock endpoint's batch APIs: every way that they can go, and every moment at which a program may end.

mod support;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use farthing::backend::Endpoints;
use farthing::batch::{self, Answer, AnswerOutcome, Ask, Batches, Options as Buying, Phase, Report};
use farthing::client::{Client, Create};
use farthing::diagnostic::Source;
use farthing::provider::{FailureKind, Input, Message, Request};
use farthing::serve::mock::{BatchOptions, MockServer, Options, Rule};
use farthing::store::{MemoryStore, SharedStore, SqliteStore};
use farthing::{Sample, Usd};
use serde_json::{Value, json};
use support::{Home, dollars, server, snapshot, usd};

fn quick(change: impl FnOnce(&mut BatchOptions)) -> MockServer {
    let mut batches = BatchOptions { duration: Duration::from_millis(60), ..BatchOptions::default() };
    change(&mut batches);
    server(Options { batches, ..Options::default() })
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Endpoints of one provider at a server; `more` are further lines of the endpoint's table.
fn endpoints(server: &MockServer, provider: &str, more: &str) -> Endpoints {
    // Anthropic's format wants a key; any will do.
    static KEY: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "test-key-0123").unwrap();
        file
    });
    let more = format!("{more}\napi_key_file = \"{}\"", key.path().display());
    let base = if provider == "azure" { format!("http://{}", server.address()) } else { server.url() };
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    // By hand: a client of reqwest's needs what farthing sets up for TLS, and here it may not have run in this process.
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /v1/files?limit=100 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text.matches("\"purpose\"").count() as u64
}

#[test]
fn answers_come_under_the_callers_ids_and_are_bought_once() {
    let server = quick(|_| {});
    let endpoints = endpoints(&server, "openai", "");
    let store: SharedStore = MemoryStore::new();
    let batches = Batches::with_options(endpoints.clone(), store.clone(), buying());
    let mut asks = many(9);
    // The same three times, once with more completions; sent once, for the most that is wanted.
    asks.extend([ask("twice", "What is 1 + 1?", 1), ask("thrice", "What is 1 + 1?", 3)]);
    run(async {
        let report = batch::invoke(&batches, asks.clone()).await.unwrap();
        whole(&report, &server, 9);
        let ids: Vec<&str> = report.answers.iter().map(|answer| answer.id.as_str()).collect();
        assert_eq!(ids, asks.iter().map(|ask| ask.id.as_str()).collect::<Vec<_>>());
        let [one, twice, thrice] = [1, 9, 10].map(|at| samples(&report.answers[at]));
        assert_eq!((one, twice, thrice.len()), (&thrice[..1], &thrice[..1], 3));
        assert_eq!((report.status.batches.len(), report.status.batches[0].state.phase), (1, Phase::Completed));
        assert_eq!(report.status.batches[0].state.word, "completed");
        assert_eq!(files_left(&server).await, 0, "uploaded and result files are deleted");
        let bill = server.ledger().billed;

        // The same again costs nothing and says the same; so does whoever asks one by one.
        let again = batch::invoke(&batches, asks.clone()).await.unwrap();
        assert_eq!(again.answers, report.answers);
        let client = Client::builder().endpoints(endpoints).shared_store(store.clone()).build().unwrap();
        let create = Create::chat("mock-small").user("What is 1 + 1?").temperature(0.7).max_tokens(40).n(3);
        let done = client.create(&create).await.unwrap();
        assert!(done.cached && done.samples == thrice);
        assert_eq!((server.ledger().billed, server.ledger().batch_lines, server.ledger().requests), (bill, 9, 0));

        // Half the price: an ordinary request of the same kind costs twice as much.
        let create = Create::chat("mock-small").user("What is 1 + 1?").temperature(0.7).max_tokens(40).fresh();
        let full = client.create(&create).await.unwrap();
        let half = farthing::price::Price::flat(Usd::from_pico(125_000), Usd::from_pico(375_000));
        assert_eq!(
            full.cost,
            half.prompt(full.prompt_tokens, 0).times(2) + half.output.times(2 * full.completion_tokens)
        );

        // More completions of what is there: only those that are missing.
        let more = batch::invoke(&batches, vec![ask("five", "What is 1 + 1?", 6)]).await.unwrap();
        assert_eq!(samples(&more.answers[0]).len(), 6);
        assert_eq!(samples(&more.answers[0])[..3], *thrice);
        assert_eq!(server.ledger().batch_lines, 10);
    });
}

#[test]
fn batches_are_cut_by_the_limits_and_by_model() {
    let server = quick(|_| {});
    let limits = "batch = { max_requests = 4, max_bytes = 2000 }";
    let batches = Batches::with_options(endpoints(&server, "openai", limits), MemoryStore::new(), buying());
    let mut asks = many(10);
    asks[3].request.model = "mock-large".into();
    // Two of these do not fit 2,000 bytes.
    asks.extend(["a", "b"].map(|name| ask(name, &name.repeat(900), 1)));
    run(async {
        let report = batch::invoke(&batches, asks).await.unwrap();
        whole(&report, &server, 12);
        let mut sizes: Vec<(String, u64)> =
            report.status.batches.iter().map(|batch| (batch.model.clone(), batch.lines)).collect();
        sizes.sort();
        assert_eq!(sizes.iter().filter(|(model, _)| model == "mock-large").count(), 1);
        assert!(sizes.iter().all(|(_, lines)| *lines <= 4) && sizes.len() >= 5, "{sizes:?}");
    });
}

#[test]
fn anthropics_batches_have_one_line_a_completion() {
    let server = quick(|_| {});
    let batches = Batches::with_options(endpoints(&server, "anthropic", ""), MemoryStore::new(), buying());
    run(async {
        let asks = vec![ask("a", "What is 2 + 3?", 3), ask("b", "What is 4 + 4?", 1), ask("c", "What is 2 + 3?", 2)];
        let report = batch::invoke(&batches, asks.clone()).await.unwrap();
        whole(&report, &server, 4);
        assert_eq!(samples(&report.answers[0])[..2], *samples(&report.answers[2]));
        assert_eq!(report.status.batches[0].state, batch::State { phase: Phase::Completed, word: "ended".into() });
        let left = reqwest::Client::new().get(format!("{}/messages/batches", server.url()));
        let left = left
            .header("x-api-key", "test-key-0123")
            .header("anthropic-version", "2023-06-01")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(left.contains("\"data\":[]"), "the batch and its results are deleted: {left}");
        assert_eq!(batch::invoke(&batches, asks).await.unwrap().answers, report.answers);
        assert_eq!(server.ledger().batch_lines, 4);
    });
}

#[test]
fn azures_batches_are_at_its_own_addresses() {
    for version in ["2024-10-21", "v1"] {
        let server = quick(|_| {});
        let more = format!("api_version = \"{version}\"");
        let batches = Batches::with_options(endpoints(&server, "azure", &more), MemoryStore::new(), buying());
        let report = run(batch::invoke(&batches, many(3))).unwrap_or_else(|error| panic!("{version}: {error}"));
        whole(&report, &server, 3);
    }
}

#[test]
fn errors_of_lines_are_values_and_passing_ones_go_again() {
    let server = quick(|_| {});
    let rules = ["503:batch=true:text=passing:first=1", "400:batch=true:text=wrong", "hang:batch=true:text=lost"];
    server.set_rules(rules.map(|rule| rule.parse::<Rule>().unwrap()));
    let batches = Batches::with_options(
        endpoints(&server, "openai", ""),
        MemoryStore::new(),
        Buying { max_attempts: 2, ..buying() },
    );
    let asks = ["good", "passing", "wrong", "lost", "fine"].map(|name| ask(name, &format!("{name}: 2 + 2?"), 1));
    run(async {
        let report = batch::invoke(&batches, asks.to_vec()).await.unwrap();
        for at in [0, 1, 4] {
            samples(&report.answers[at]);
        }
        assert_eq!(failure(&report.answers[2]), (FailureKind::BadRequest, false));
        assert_eq!(failure(&report.answers[3]), (FailureKind::Server, true));
        // Five lines, then the two whose fault it was not. What may have been billed is held at its worst case.
        let ledger = server.ledger();
        assert_eq!((ledger.batch_lines, report.status.batches.len()), (7, 2));
        assert_eq!(report.status.spent_usd, ledger.billed - ledger.unanswered.billed);
        assert!(report.status.held_usd >= ledger.unanswered.billed && ledger.unanswered.bills == 2);
        // Asked again, what is wrong stays wrong without being sent; told to, it is sent.
        server.set_rules([]);
        let again = batch::invoke(&batches, asks.to_vec()).await.unwrap();
        assert_eq!(failure(&again.answers[2]), (FailureKind::BadRequest, false));
        samples(&again.answers[3]);
        assert_eq!(server.ledger().batch_lines, 8);
    });
}

#[test]
fn a_batch_that_fails_in_validation_loses_only_what_was_wrong() {
    let server = quick(|batches| batches.refused_text = Some("unheard of".into()));
    let store: SharedStore = MemoryStore::new();
    let batches = Batches::with_options(endpoints(&server, "openai", ""), store.clone(), buying());
    let mut asks = many(6);
    asks.insert(2, ask("bad", "something unheard of", 1));
    asks[5].request.model = "mock-large".into();
    run(async {
        let report = batch::invoke(&batches, asks.clone()).await.unwrap();
        assert_eq!(failure(&report.answers[2]), (FailureKind::BadRequest, false));
        let answered: Vec<Answer> = report.answers.iter().filter(|answer| answer.id != "bad").cloned().collect();
        whole(&Report { answers: answered, ..report }, &server, 6);
    });
    // A model that nobody has: the batch as such is wrong.
    let text = support::endpoints(&format!("provider = \"openai\"\nbase_url = \"{}\"", server.url()), "");
    let text = text + "[models.nobody]\nendpoint = \"here\"\nprice = { input = 1, output = 1 }\n";
    let endpoints = Endpoints::read(&Source::new("farthing.toml", text), ".".as_ref()).unwrap();
    let batches = Batches::with_options(endpoints, MemoryStore::new(), buying());
    let mut asks = many(2);
    asks.iter_mut().for_each(|ask| ask.request.model = "nobody".into());
    run(async {
        let report = batch::invoke(&batches, asks).await.unwrap();
        assert_eq!(failure(&report.answers[0]).0, FailureKind::UnknownModel);
        assert_eq!((report.status.batches.len(), report.status.batches[0].state.phase), (1, Phase::Failed));
        assert_eq!((report.status.spent_usd, report.status.held_usd), (Usd::ZERO, Usd::ZERO));
    });
}

#[test]
fn a_full_queue_is_waited_for_and_too_large_batches_are_split() {
    // Known beforehand: batches are made to fit, and the next goes out when there is room.
    let server = quick(|batches| batches.enqueued_tokens = Some(1200));
    let text = "batch = { enqueued_tokens = 1200 }";
    let batches = Batches::with_options(endpoints(&server, "openai", text), MemoryStore::new(), buying());
    let report = run(batch::invoke(&batches, many(40))).unwrap();
    whole(&report, &server, 40);
    assert!(report.status.batches.len() > 2, "{:?}", report.status.batches);
    // Not known: the provider says so when it is too late, and what it says is learnt.
    let server = quick(|batches| batches.enqueued_tokens = Some(300));
    let endpoints = endpoints(&server, "openai", "batch = { max_requests = 20 }");
    let batches = Batches::with_options(endpoints, MemoryStore::new(), buying());
    let report = run(batch::invoke(&batches, many(40))).unwrap();
    whole(&report, &server, 40);
    // What was refused is cut to what fits, not halved and halved.
    assert!((3..=4).contains(&report.status.batches.len()), "{:?}", report.status.batches);
}

#[test]
fn expired_batches_keep_what_was_finished() {
    let server = quick(|batches| batches.window = Duration::from_millis(42));
    let store: SharedStore = MemoryStore::new();
    let once = Buying { max_attempts: 1, ..buying() };
    let batches = Batches::with_options(endpoints(&server, "openai", ""), store.clone(), once);
    run(async {
        let report = batch::invoke(&batches, many(12)).await.unwrap();
        let answered = report.status.answered;
        assert!((1..12).contains(&answered), "{:?}", report.status);
        assert_eq!(report.status.batches[0].state.phase, Phase::Expired);
        let expired = report.answers.iter().find(|answer| !matches!(answer.outcome, AnswerOutcome::Answered { .. }));
        assert_eq!(failure(expired.unwrap()), (FailureKind::Timeout, true));
        assert_eq!((report.status.spent_usd, report.status.held_usd), (server.ledger().billed, Usd::ZERO));
        // With more attempts the rest is sent again, and only the rest.
        let spent = report.status.spent_usd;
        let patient = quick(|batches| batches.window = Duration::from_secs(60));
        let batches = Batches::with_options(endpoints(&patient, "openai", ""), store, buying());
        let report = batch::invoke(&batches, many(12)).await.unwrap();
        assert_eq!((report.status.answered, patient.ledger().batch_lines), (12, 12 - answered));
        assert_eq!(report.status.spent_usd, spent + patient.ledger().billed);
    });
    let server = quick(|batches| batches.window = Duration::from_millis(30));
    let options = Buying { max_attempts: 1, ..buying() };
    let batches = Batches::with_options(endpoints(&server, "anthropic", ""), MemoryStore::new(), options);
    let report = run(batch::invoke(&batches, many(12))).unwrap();
    assert_eq!(report.status.batches[0].state, batch::State { phase: Phase::Expired, word: "ended".into() });
    assert!(report.status.answered > 0 && report.status.failed > 0);
}

#[test]
fn cancelled_batches_keep_what_was_finished() {
    for provider in ["openai", "anthropic"] {
        let server = quick(|batches| batches.duration = Duration::from_secs(1000));
        let store: SharedStore = MemoryStore::new();
        let batches = Batches::with_options(endpoints(&server, provider, ""), store.clone(), buying());
        run(async {
            let job = batch::create(&batches, many(10)).await.unwrap().job;
            let status = batch::status(&batches, &job).await.unwrap();
            assert_eq!((status.under_way, status.spent_usd), (10, Usd::ZERO));
            assert!(status.held_usd > Usd::ZERO, "a reservation holds while a batch is out");
            server.advance(Duration::from_secs(600));
            let status = batch::cancel(&batches, &job).await.unwrap();
            assert_eq!(status.batches[0].state.phase, Phase::Cancelling, "{status:?}");
            let midst = batch::status(&batches, &job[..8]).await.unwrap();
            assert_eq!((midst.batches[0].state.phase, midst.under_way), (Phase::Cancelling, 10));
            server.advance(Duration::from_secs(101));
            let answers = batch::retrieve(&batches, &job).await.unwrap();
            let status = batch::list(&batches).await.unwrap().remove(0);
            assert_eq!(status.batches[0].state.phase, Phase::Cancelled);
            assert!((4..=6).contains(&status.answered) && status.answered + status.failed == 10, "{status:?}");
            assert_eq!((status.spent_usd, status.held_usd), (server.ledger().billed, Usd::ZERO));
            let cancelled = answers.iter().find(|answer| matches!(answer.outcome, AnswerOutcome::Failed { .. }));
            assert_eq!(failure(cancelled.unwrap()), (FailureKind::Interrupted, true));
            // Asked once more, the rest goes out in a new batch.
            let again = batch::create(&batches, many(10)).await.unwrap();
            assert_eq!((again.job, again.new_batches), (job.clone(), 1));
            server.advance(Duration::from_secs(2000));
            let status = batch::status(&batches, &job).await.unwrap();
            assert_eq!((status.answered, status.failed, server.ledger().batch_lines), (10, 0, 10));
        });
    }
}

#[test]
fn what_is_out_shows_how_far_it_is() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let batches = Batches::with_options(endpoints(&server, "openai", ""), MemoryStore::new(), buying());
    run(async {
        let job = batch::create(&batches, many(10)).await.unwrap().job;
        let mut phases = Vec::new();
        for seconds in [0, 150, 450, 510, 100] {
            server.advance(Duration::from_secs(seconds));
            let batch = batch::status(&batches, &job).await.unwrap().batches.remove(0);
            phases.push((batch.state.phase, batch.answered));
        }
        let expected = [
            (Phase::Validating, 0),
            (Phase::InProgress, 0),
            (Phase::InProgress, 5),
            (Phase::Finalizing, 10),
            (Phase::Completed, 10),
        ];
        assert_eq!(phases, expected);
    });
}

#[test]
fn a_batch_that_vanished_is_not_bought_again_unasked() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let store: SharedStore = MemoryStore::new();
    let batches = Batches::with_options(endpoints(&server, "openai", ""), store.clone(), buying());
    run(async {
        let job = batch::create(&batches, many(3)).await.unwrap().job;
        let held = batch::status(&batches, &job).await.unwrap().held_usd;
        server.reset();
        let status = batch::status(&batches, &job).await.unwrap();
        assert_eq!((status.batches[0].state.phase, status.failed, status.held_usd), (Phase::Lost, 3, held));
        let report = batch::invoke(&batches, many(3)).await.unwrap();
        assert_eq!((failure(&report.answers[0]), server.ledger().batch_lines), ((FailureKind::Connection, false), 0));
        let consent = Buying { retry_failed: true, ..buying() };
        let batches = Batches::with_options(endpoints(&server, "openai", ""), store, consent);
        batch::create(&batches, many(3)).await.unwrap();
        server.advance(Duration::from_secs(2000));
        assert_eq!(batch::status(&batches, &job).await.unwrap().answered, 3);
    });
}

#[test]
fn a_batch_whose_making_was_not_heard_of_is_found() {
    for (provider, path) in [("openai", "/v1/batches"), ("anthropic", "/v1/messages/batches")] {
        for (fault, made) in [("cut", true), ("reset_body", true), ("502", false), ("close", false)] {
            let server = quick(|_| {});
            server.set_rules([format!("{fault}:path={path}:first=1").parse::<Rule>().unwrap()]);
            let batches = Batches::with_options(endpoints(&server, provider, ""), MemoryStore::new(), buying());
            let begin = std::time::Instant::now();
            let report = run(batch::invoke(&batches, many(4))).unwrap();
            whole(&report, &server, 4);
            assert_eq!(report.status.batches.len(), 1);
            // One that was not made is looked for a while before it is made again.
            assert!(made || begin.elapsed() >= Duration::from_millis(900), "{provider} {fault}");
        }
    }
}

#[test]
fn another_programs_batch_of_the_same_size_is_not_taken_for_ours() {
    let server = quick(|_| {});
    server.set_rules(["close:path=/v1/messages/batches:first=1".parse::<Rule>().unwrap()]);
    run(async {
        let foreign = |id: &str| {
            json!({"custom_id": id, "params": {"model": "mock-small", "max_tokens": 5,
                "messages": [{"role": "user", "content": "not ours"}]}})
        };
        let batches = Batches::with_options(endpoints(&server, "anthropic", ""), MemoryStore::new(), buying());
        let job = batch::create(&batches, many(2)).await.unwrap().job;
        let body = json!({"requests": [foreign("x"), foreign("y")]}).to_string();
        let made = reqwest::Client::new().post(format!("{}/messages/batches", server.url())).body(body);
        let made = made.header("x-api-key", "test-key-0123");
        made.header("anthropic-version", "2023-06-01").send().await.unwrap().error_for_status().unwrap();
        let report = batch::invoke(&batches, many(2)).await.unwrap();
        assert_eq!((report.status.job.as_str(), report.status.answered), (job.as_str(), 2));
        assert_eq!(server.ledger().batch_lines, 4, "ours were sent once, and theirs");
    });
}

#[test]
fn a_poll_that_fails_is_tried_again() {
    let server = quick(|_| {});
    server.set_rules([
        "503:path=/v1/batches/:first=2".parse::<Rule>().unwrap(),
        "cut:path=/v1/files:from=2:to=3".parse().unwrap(),
    ]);
    let batches = Batches::with_options(endpoints(&server, "openai", ""), MemoryStore::new(), buying());
    let report = run(batch::invoke(&batches, many(4))).unwrap();
    whole(&report, &server, 4);
}

#[test]
fn results_that_are_not_whole_are_read_again_and_never_deleted() {
    // One error page is read over; so many that the batch stays open for the next look are no loss either.
    for rules in [
        &["html:path=/v1/files:from=2:to=2", "cut_json:path=/v1/files:from=3:to=3"][..],
        &["html:path=/v1/files:from=2:to=9"],
        &["cut_json:path=/v1/files:from=2:to=9"],
    ] {
        let server = quick(|_| {});
        server.set_rules(rules.iter().map(|rule| rule.parse::<Rule>().unwrap()).collect::<Vec<_>>());
        let batches = Batches::with_options(endpoints(&server, "openai", ""), MemoryStore::new(), buying());
        run(async {
            let report = batch::invoke(&batches, many(6)).await.unwrap();
            whole(&report, &server, 6);
            assert_eq!((report.status.batches.len(), files_left(&server).await), (1, 0), "{rules:?}");
        });
    }
}

#[test]
fn the_budget_holds_over_everything_that_is_out() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let store: SharedStore = MemoryStore::new();
    let open = |budget: &str| {
        let options = Buying { budget: Some(usd(budget)), ..buying() };
        Batches::with_options(endpoints(&server, "openai", ""), store.clone(), options)
    };
    run(async {
        let estimate = open("1").estimate(&many(10)).unwrap();
        assert_eq!((estimate.requests, estimate.to_send, estimate.completions), (10, 10, 10));
        assert_eq!(estimate.worst_without_batches_usd, estimate.worst_usd.times(2));
        // Room for some of them, at worst.
        let budget = Usd::from_pico(estimate.worst_usd.pico() / 2).to_string();
        let batches = open(&budget);
        let created = batch::create(&batches, many(10)).await.unwrap();
        assert!((4..7).contains(&created.left.len()), "{created:?}");
        assert_eq!(created.left.last().map(String::as_str), Some("id-9"), "what is cut is cut from the end");
        let status = batch::status(&batches, &created.job).await.unwrap();
        assert_eq!(status.unsent, created.left.len() as u64);
        assert!(status.held_usd <= usd(&budget) && status.held_usd > Usd::ZERO);
        // Another process has no more room while that is out.
        assert_eq!(batch::create(&open(&budget), many(10)).await.unwrap().new_batches, 0);
        // What came back cost less than its worst case, so there is room for more.
        server.advance(Duration::from_secs(2000));
        batch::status(&batches, &created.job).await.unwrap();
        let more = batch::create(&open(&budget), many(10)).await.unwrap();
        assert!(more.new_batches == 1 && more.left.len() < created.left.len(), "{more:?}");
        server.advance(Duration::from_secs(2000));
        let status = batch::status(&batches, &created.job).await.unwrap();
        assert_eq!((status.spent_usd, status.held_usd), (server.ledger().billed, Usd::ZERO));
        assert!(server.ledger().billed <= usd(&budget));
    });
}

#[test]
fn two_jobs_that_ask_the_same_buy_it_once() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let store: SharedStore = MemoryStore::new();
    let batches = Batches::with_options(endpoints(&server, "openai", ""), store, buying());
    run(async {
        let first = batch::create(&batches, many(4)).await.unwrap();
        let mut asks = many(6);
        asks.iter_mut().for_each(|ask| ask.id.push('x'));
        let second = batch::create(&batches, asks).await.unwrap();
        assert!(first.job != second.job && (first.new_batches, second.new_batches) == (1, 1));
        let status = batch::status(&batches, &second.job).await.unwrap();
        assert_eq!(status.batches.iter().map(|batch| batch.lines).collect::<Vec<_>>(), [4, 2]);
        server.advance(Duration::from_secs(2000));
        let answers = batch::retrieve(&batches, &second.job).await.unwrap();
        answers.iter().for_each(|answer| assert!(!samples(answer).is_empty()));
        assert_eq!((answers.len(), server.ledger().batch_lines), (6, 6));
    });
}

fn lines(asks: &[Ask]) -> String {
    let line = |ask: &Ask| {
        let Input::Messages(messages) = &ask.request.input else { panic!() };
        json!({"id": ask.id, "model": ask.request.model, "messages": messages, "n": ask.request.n,
               "params": ask.request.params})
        .to_string()
    };
    asks.iter().map(|ask| line(ask) + "\n").collect()
}

#[test]
fn a_program_that_is_killed_anywhere_goes_on_and_buys_nothing_twice() {
    // Batches take nine lives of the program, however fast or slow the machine is.
    let server = quick(|batches| batches.duration = Duration::from_secs(900));
    let more = "batch = { max_requests = 40 }";
    let home = Home::over_http(1, &server.url(), more);
    home.write("asks.jsonl", lines(&many(120)));
    let arguments = "batch invoke asks.jsonl --out answers.jsonl --poll 0.02 --grace 1 --json --quiet";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut kills = 0;
    let done = loop {
        let mut child = home.command(&arguments).spawn().unwrap();
        if kills < 18 {
            // From before anything is written down to the last results.
            std::thread::sleep(Duration::from_millis(5 + 23 * (kills % 9)));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                kills += 1;
            }
            server.advance(Duration::from_secs(100));
        } else {
            while child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(50));
                server.advance(Duration::from_secs(100));
            }
        }
        let done = support::finished(child);
        if done.code != -1 {
            break done.ended(0);
        }
    };
    assert!(kills >= 8, "it was over after {kills} kills");
    let status = done.json();
    assert_eq!((&status["answered"], &status["failed"]), (&json!(120), &json!(0)));
    let ledger = server.ledger();
    assert_eq!((ledger.batch_lines, ledger.batches.bills), (120, 120), "a line was sent twice");
    assert_eq!(dollars(&status, "spent_usd"), ledger.billed);
    assert_eq!(dollars(&status, "held_usd"), Usd::ZERO);
    let answers = home.read("answers.jsonl");
    let ids: Vec<String> = answers
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, (0..120).map(|at| format!("id-{at}")).collect::<Vec<_>>());
    let store = SqliteStore::open(home.path(".farthing/store.db")).unwrap();
    use farthing::store::Store;
    assert_eq!(store.contents().unwrap().groups.values().map(|sums| sums.samples).sum::<u64>(), 120);
    assert_eq!(run(files_left(&server)), 0);
}

#[test]
fn two_programs_at_once_share_the_work() {
    let server = quick(|batches| batches.duration = Duration::from_millis(300));
    let home = Home::over_http(1, &server.url(), "batch = { max_requests = 10 }");
    home.write("asks.jsonl", lines(&many(30)));
    let arguments = ["batch", "invoke", "asks.jsonl", "--poll", "0.02", "--quiet"];
    let children: Vec<_> = (0..3).map(|_| home.command(&arguments).spawn().unwrap()).collect();
    let outputs: Vec<String> = children.into_iter().map(|child| support::finished(child).ended(0).stdout).collect();
    assert_eq!((&outputs[0], &outputs[0]), (&outputs[1], &outputs[2]));
    assert_eq!((outputs[0].lines().count(), server.ledger().batch_lines), (30, 30));
}

#[test]
fn the_commands_say_what_they_did() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let home = Home::over_http(1, &server.url(), "");
    let openai = json!({"custom_id": "first", "method": "POST", "url": "/v1/chat/completions", "body":
        {"model": "mock-small", "messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 20}});
    let own = json!({"id": "second", "model": "mock-small", "messages": [{"role": "user", "content": "1 + 2?"}],
        "max_tokens": 20, "n": 2});
    home.write("asks.jsonl", format!("{openai}\n{own}\n"));
    let dry = home.run("batch create asks.jsonl --dry-run", &[]).ended(0);
    let created = home.run("batch create asks.jsonl", &[]).ended(0);
    let status = home.run("batch status", &[]).ended(0);
    server.advance(Duration::from_secs(2000));
    let name = home.run("batch list --json", &[]).ended(0).json()[0]["job"].as_str().unwrap().to_owned();
    let retrieved = home.run("batch retrieve", &[&name]).ended(0);
    let by_file = home.run("batch retrieve asks.jsonl --quiet", &[]).ended(0);
    assert_eq!(by_file.stdout, retrieved.stdout);
    let over = home.run("batch status", &[]).ended(0);
    let list = home.run("batch list", &[]).ended(0);
    let cut = home.run("batch create asks.jsonl --budget 0.000001", &[]).ended(0);
    let mut more = lines(&many(3));
    more = more.replace("id-1\"", "id-0\"");
    home.write("twice.jsonl", more);
    let twice = home.run("batch create twice.jsonl", &[]).ended(2);
    home.write("poor.jsonl", lines(&many(30)[20..]));
    let poor = home.run("batch create poor.jsonl --budget 0.0001 --quiet", &[]).ended(3);
    let unknown = home.run("batch retrieve job-none", &[]).ended(2);
    home.point_at(&server.url(), "drop_params = [\"temperature\"]\nmax_retries = 0");
    home.edit("farthing.toml", "provider = \"openai\"", "provider = \"ollama\"");
    let none = home.run("batch create poor.jsonl", &[]).ended(2);
    let mut text = String::new();
    for (what, done) in [
        ("create --dry-run", dry),
        ("create", created),
        ("status", status),
        ("retrieve", retrieved),
        ("status, when all is over", over),
        ("list", list),
        ("create, when all is there", cut),
        ("create, an id twice", twice),
        ("create, over the budget", poor),
        ("retrieve, an unknown job", unknown),
        ("create, no batch API", none),
    ] {
        text += &format!("== {what}\n{}-- standard error\n{}\n", done.stdout, done.stderr);
    }
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"job-[0-9a-f]{16}", "job-NAME");
    settings.add_filter(r"batch_mock_\d+", "batch_mock_N");
    settings.bind(|| snapshot("batch_commands", &text));
}

#[test]
fn a_store_on_disk_is_found_by_other_programs() {
    // The library in this process, then the program: the same job, by its contents.
    let server = quick(|_| {});
    let home = Home::over_http(1, &server.url(), "");
    let asks = many(5);
    home.write("asks.jsonl", lines(&asks));
    {
        let store = SqliteStore::open(home.path(".farthing/store.db")).unwrap();
        let endpoints = Endpoints::load(&home.path("farthing.toml")).unwrap();
        let batches = Batches::with_options(endpoints, store, buying());
        run(batch::create(&batches, asks)).unwrap();
    }
    let done = home.run("batch invoke asks.jsonl --poll 0.02 --json --quiet", &[]).ended(0).json();
    assert_eq!((&done["answered"], server.ledger().batch_lines), (&json!(5), 5));
    assert_eq!(done["answers"][4]["id"], "id-4");
}

#[test]
fn a_study_by_batch_costs_half_and_survives_being_killed() {
    let server = quick(|batches| batches.duration = Duration::from_millis(300));
    let line = "tune task --budget 0.05 --seed 3 --quiet --json --batch --batch-poll 0.02";
    let home = Home::over_http(24, &server.url(), "");
    let whole = home.run(line, &["--out", "whole"]).ended(0).json();
    let ledger = server.ledger();
    assert_eq!((ledger.requests, ledger.batches.billed), (0, ledger.billed), "all went through the batch API");
    assert_eq!((dollars(&whole, "spent_usd"), dollars(&whole, "lost_usd")), (ledger.billed, Usd::ZERO));
    assert_eq!(dollars(&whole, "study_cost_usd"), ledger.billed);
    let rounds = SqliteStore::open(home.path(".farthing/store.db")).unwrap();
    use farthing::store::BatchBook;
    let batches = rounds.batches(false).unwrap();
    let lines: u64 = batches.iter().map(|batch| batch.lines[0]).sum();
    assert_eq!(lines, ledger.batch_lines);
    assert!(lines / batches.len() as u64 >= 10, "{} lines in {} batches", lines, batches.len());
    // The production cost is that of ordinary requests: nobody serves by batch.
    let best = &whole["best"];
    assert!(dollars(best, "production_cost_usd_per_instance") > Usd::ZERO);

    // Killed again and again it comes to the same.
    server.reset();
    let again = Home::over_http(24, &server.url(), "");
    let arguments: Vec<&str> = line.split(' ').chain(["--resume", "run"]).collect();
    let mut kills = 0;
    let last = loop {
        let mut child = again.command(&arguments).spawn().unwrap();
        if kills < 6 {
            std::thread::sleep(Duration::from_millis(60 + 130 * kills));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                kills += 1;
            }
        }
        let done = support::finished(child);
        if done.code != -1 {
            break done.ended(0).json();
        }
    };
    assert!(kills >= 3, "it was over after {kills} kills");
    assert_eq!(support::decided(last.clone()), support::decided(whole), "the same study");
    assert_eq!(dollars(&last, "spent_usd"), server.ledger().billed);
    assert_eq!(server.ledger().batch_lines, lines, "nothing was sent twice");
    for file in ["best.toml", "ranking.csv"] {
        assert_eq!(again.read(&format!("run/{file}")), home.read(&format!("whole/{file}")), "{file}");
    }
    // What it bought is there for ordinary requests, too.
    let before = server.ledger().billed;
    again.run("evaluate task --config run/best.toml --budget 0.05 --quiet", &[]).ended(0);
    let missing = 24 - last["best"]["instances"].as_u64().unwrap();
    assert!(server.ledger().requests <= missing, "asked again: {} of {missing} missing", server.ledger().requests);
    assert!(missing > 0 || server.ledger().billed == before);
}

#[test]
fn stragglers_of_a_round_are_asked_in_the_ordinary_way() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let home = Home::over_http(8, &server.url(), "");
    home.edit("task/space.toml", "choices = [1, 3, 10]", "choices = [1]");
    let line =
        "tune task --budget 0.05 --quiet --json --batch --batch-poll 0.02 --batch-wait 1s --max-trials 2 --out run";
    let mut child = home.command(&line.split(' ').collect::<Vec<_>>()).spawn().unwrap();
    // Cancelling takes a tenth of the time that a batch takes.
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(200));
        server.advance(Duration::from_secs(20));
    }
    let done = support::finished(child).ended(0).json();
    let ledger = server.ledger();
    assert!(ledger.requests > 0, "nothing was asked in the ordinary way");
    assert_eq!(dollars(&done, "spent_usd"), ledger.billed);
    assert!(dollars(&done, "study_cost_usd") <= ledger.billed, "the study counts the batch's price");
    assert!(ledger.billed <= usd("0.05") && done["failed_evaluations"] == 0);
}

#[test]
fn files_stay_where_they_are_wanted_and_prices_are_as_written() {
    let server = quick(|_| {});
    let keep = Buying { keep_files: true, ..buying() };
    let text = format!(
        "[endpoints.here]\nprovider = \"openai\"\nbase_url = \"{}\"\n[models.mock-small]\nbatch_enqueued_tokens = 500\n\
         price = {{ input = 0.25, output = 0.75, batch_input = 0.1, batch_output = 0.2 }}\n",
        server.url()
    );
    let endpoints = Endpoints::read(&Source::new("farthing.toml", text), ".".as_ref()).unwrap();
    let batches = Batches::with_options(endpoints, MemoryStore::new(), keep);
    run(async {
        let report = batch::invoke(&batches, many(8)).await.unwrap();
        let answered = report.answers.iter().map(|answer| match &answer.outcome {
            AnswerOutcome::Answered { samples, prompt_tokens } => (*prompt_tokens, samples[0].completion_tokens),
            other => panic!("{other:?}"),
        });
        let price = farthing::price::Price::flat(Usd::from_pico(100_000), Usd::from_pico(200_000));
        let bill: Usd = answered.map(|(input, output)| price.prompt(input, 0) + price.output.times(output)).sum();
        assert_eq!(report.status.spent_usd, bill);
        // Two of these requests fill the model's queue, so they went out in parts; a file in and a file out for each.
        let parts = report.status.batches.len() as u64;
        assert!(parts > 1, "{:?}", report.status.batches);
        assert_eq!(files_left(&server).await, 2 * parts);
    });
}

#[test]
fn what_was_not_submitted_yet_is_taken_back() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let more = "batch = { enqueued_tokens = 500 }";
    let batches = Batches::with_options(endpoints(&server, "openai", more), MemoryStore::new(), buying());
    run(async {
        let job = batch::create(&batches, many(8)).await.unwrap().job;
        let status = batch::status(&batches, &job).await.unwrap();
        let phases: Vec<Phase> = status.batches.iter().map(|batch| batch.state.phase).collect();
        assert!(
            phases[0] == Phase::Validating && phases[1..].iter().all(|phase| *phase == Phase::Planned),
            "{phases:?}"
        );
        let held = status.held_usd;
        let status = batch::cancel(&batches, &job).await.unwrap();
        assert!(status.held_usd < held && status.held_usd > Usd::ZERO, "{status:?}");
        server.advance(Duration::from_secs(200));
        let status = batch::status(&batches, &job).await.unwrap();
        assert_eq!((status.failed, status.held_usd, server.ledger().billed), (8, Usd::ZERO, Usd::ZERO));
        let reasons = batch::retrieve(&batches, &job).await.unwrap();
        assert!(reasons.iter().all(|answer| failure(answer) == (FailureKind::Interrupted, true)));
    });
}

#[test]
fn a_study_by_batch_can_be_left_and_gone_on_with() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let home = Home::over_http(8, &server.url(), "");
    let line = "tune task --budget 0.05 --quiet --json --batch --batch-poll 0.02 --max-trials 2 --resume run";
    let line: Vec<&str> = line.split(' ').collect();
    let child = home.command(&line).spawn().unwrap();
    let store = home.path(".farthing/store.db");
    let out = || {
        use farthing::store::BatchBook;
        store.is_file()
            && SqliteStore::open(&store)
                .unwrap()
                .batches(true)
                .unwrap()
                .iter()
                .any(|batch| batch.progress.remote.is_some())
    };
    while !out() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    // It does not wait for the batch.
    let left = support::finished(child).ended(130).json();
    assert!(dollars(&left, "lost_usd") > Usd::ZERO, "what is out is held: {left}");
    // Days later.
    let mut child = home.command(&line).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(100));
        server.advance(Duration::from_secs(600));
    }
    let done = support::finished(child).ended(0).json();
    assert_eq!((dollars(&done, "spent_usd"), server.ledger().requests), (server.ledger().billed, 0));
}
