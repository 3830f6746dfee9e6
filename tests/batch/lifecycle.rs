//! How batches end: failed, expired, cancelled, vanished, found again.

use std::time::Duration;

use farthing::Usd;
use farthing::backend::Endpoints;
use farthing::batch::{self, Answer, AnswerOutcome, Batches, Options as Buying, Phase, Report};
use farthing::diagnostic::Source;
use farthing::provider::FailureKind;
use farthing::serve::mock::Rule;
use farthing::store::{MemoryStore, SharedStore};
use serde_json::json;

use crate::support;
use crate::{ask, buying, endpoints, failure, files_left, many, quick, run, samples, whole};

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
