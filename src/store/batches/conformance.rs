//! What every store must do with batches, as checks: a part of [`conformance`](crate::store::conformance).

use std::sync::Arc;

use super::{AskRecord, BatchId, BatchLine, LineFailure, NewBatch, NewLine, Outcome, Progress, Stage};
use crate::money::Usd;
use crate::provider::{Failure, FailureKind, FinishReason, Response, Sample};
use crate::store::{Cache, Closing, Fingerprint, Fresh, RequestRecord, Spent, Store};

/// Holds a store to what [`BatchBook`](super::BatchBook) says.
///
/// # Panics
/// Where the store breaks a promise; the message says which.
pub async fn conformance(make: impl Fn() -> Arc<dyn Store>) {
    a_batch_is_written_down_with_its_reservations(&*make()).await;
    a_batch_moves_from_stage_to_stage_once(&*make()).await;
    lines_land_once(&*make()).await;
    what_lands_is_recorded_for_the_scope_that_pays(make()).await;
    what_is_under_way_is_known(&*make()).await;
    a_planned_batch_can_be_split(&*make()).await;
    jobs_keep_what_was_asked(&*make()).await;
}

fn print_of(number: u64) -> Fingerprint {
    Fingerprint(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn request(number: u64) -> RequestRecord {
    RequestRecord { model: "model".into(), source: "http".into(), body: format!("body {number}") }
}

fn pico(amount: i64) -> Usd {
    Usd::from_pico(amount)
}

fn new_batch(intent: &str, numbers: impl IntoIterator<Item = u64>) -> NewBatch {
    let line = |number| NewLine { fingerprint: print_of(number), n: 2, worst: pico(100), request: request(number) };
    NewBatch {
        intent: intent.into(),
        scope: "job".into(),
        endpoint: "here".into(),
        model: "model".into(),
        notes: "{}".into(),
        lines: numbers.into_iter().map(line).collect(),
    }
}

async fn opened(store: &dyn Store, intent: &str, numbers: impl IntoIterator<Item = u64>) -> BatchId {
    let after = store.batches(false).unwrap().last().map(|batch| batch.id);
    store.open_batch(new_batch(intent, numbers), after).await.unwrap().expect("nobody came between")
}

fn answered(texts: [&str; 2], bill: i64) -> Outcome {
    let sample = |text| Sample::new(text, FinishReason::STOP, 1);
    Outcome::Answered(
        Response { samples: texts.map(sample).into(), prompt_tokens: 3, ..Response::default() },
        pico(bill),
    )
}

fn failed(retryable: bool, closing: Closing) -> Outcome {
    let failure = Failure::new(FailureKind::ContextTooLong, "9 of 8 \u{1f980}");
    Outcome::Failed(LineFailure { failure, retryable }, closing)
}

fn spent(settled: i64, lost: i64, requests: u64) -> Spent {
    Spent { settled: pico(settled), lost: pico(lost), requests }
}

async fn a_batch_is_written_down_with_its_reservations(store: &dyn Store) {
    assert!(store.batches(false).unwrap().is_empty() && store.batch(BatchId(1)).unwrap().is_none(), "an empty store");
    let id = opened(store, "first", 0..5).await;
    assert_eq!(store.spent("job").unwrap(), spent(0, 500, 5), "every line has a reservation");
    let record = store.batch(id).unwrap().unwrap();
    assert_eq!(store.batches(true).unwrap(), std::slice::from_ref(&record), "the list has the batch");
    let progress = &record.progress;
    assert_eq!((progress.stage, progress.intent.as_str(), record.lines), (Stage::Planned, "first", [5, 0, 0]));
    assert_eq!((progress.word.as_str(), &progress.remote, record.scope.as_str()), ("", &None, "job"));
    let lines = store.batch_page(id, 0, 100).unwrap();
    let seen: Vec<_> = lines.iter().map(|line| (line.number, line.fingerprint, line.n, line.closed)).collect();
    let expected: Vec<_> = (0..5).map(|at| (at, print_of(u64::from(at)), 2, false)).collect();
    assert_eq!(seen, expected, "lines are numbered from 0");
    assert!(lines.iter().all(|line| line.request == request(u64::from(line.number))), "a request is not its own");
    assert_eq!(store.batch_page(id, 1, 2).unwrap(), lines[1..3], "a page");
    let some = [lines[4].clone(), lines[0].clone()];
    assert_eq!(store.batch_lines(id, &[4, 9, 0]).unwrap(), some, "lines by their numbers, in the order asked");
    // A planner that did not see the newest batch may plan the same once more.
    assert_eq!(store.open_batch(new_batch("blind", 0..5), None).await.unwrap(), None, "an outdated plan was taken");
    assert_eq!(store.spent("job").unwrap(), spent(0, 500, 5), "a refused batch reserved something");
    let mut wrong = new_batch("wrong", 7..9);
    wrong.lines[1].worst = pico(-1);
    assert!(store.open_batch(wrong, Some(id)).await.is_err(), "a negative amount was reserved");
    assert_eq!((store.batches(false).unwrap().len(), store.spent("job").unwrap()), (1, spent(0, 500, 5)));
}

async fn a_batch_moves_from_stage_to_stage_once(store: &dyn Store) {
    let id = opened(store, "first", 0..2).await;
    let to = |stage: Stage, remote: Option<&str>| Progress {
        stage,
        intent: "again".into(),
        word: "in_progress".into(),
        remote: remote.map(str::to_owned),
        notes: "n".into(),
    };
    assert!(store.move_batch(id, Stage::Planned, to(Stage::Submitting, None)).await.unwrap());
    assert!(!store.move_batch(id, Stage::Planned, to(Stage::Out, Some("x"))).await.unwrap(), "it had gone on");
    assert!(!store.move_batch(BatchId(99), Stage::Planned, to(Stage::Out, None)).await.unwrap(), "there is none");
    assert!(store.move_batch(id, Stage::Submitting, to(Stage::Out, Some("batch_1"))).await.unwrap());
    assert_eq!(store.batch(id).unwrap().unwrap().progress, to(Stage::Out, Some("batch_1")));
    assert!(store.move_batch(id, Stage::Out, to(Stage::Done, Some("batch_1"))).await.unwrap());
    assert!(store.batches(true).unwrap().is_empty() && store.batches(false).unwrap().len() == 1, "done, but kept");
}

async fn lines_land_once(store: &dyn Store) {
    let id = opened(store, "first", 0..5).await;
    let first = vec![(3, answered(["a", "b"], 7)), (1, failed(true, Closing::Released))];
    assert_eq!(store.land_lines(id, first.clone()).await.unwrap(), 2);
    assert_eq!(store.spent("job").unwrap(), spent(7, 300, 4), "answers settle, failures close");
    assert_eq!(store.land_lines(id, first).await.unwrap(), 0, "a line landed twice");
    let stored = store.stored(&print_of(3)).unwrap();
    assert_eq!(stored.samples().map(|sample| sample.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(store.page(None, 9).unwrap()[0].request, request(3), "the request is kept with its samples");
    let rest = vec![
        (0, failed(false, Closing::Lost)),
        (9, answered(["no", "line"], 1)),
        (4, answered(["c", "d"], 200)),
        (2, failed(true, Closing::Released)),
    ];
    assert_eq!(store.land_lines(id, rest).await.unwrap(), 3, "a line that is not there landed");
    assert_eq!(store.spent("job").unwrap(), spent(207, 100, 3));
    let record = store.batch(id).unwrap().unwrap();
    assert_eq!(record.lines, [5, 2, 3], "all, answered, failed");
    let closed = |line: &BatchLine| line.closed && line.request.body.is_empty();
    assert!(store.batch_page(id, 0, 9).unwrap().iter().all(closed), "closed lines are marked");
    assert!(store.land_lines(BatchId(99), Vec::new()).await.is_err(), "there is no such batch");
    let nothing = Outcome::Answered(Response::default(), Usd::ZERO);
    assert!(store.land_lines(id, vec![(0, nothing)]).await.is_err(), "a response without samples");
}

async fn what_lands_is_recorded_for_the_scope_that_pays(store: Arc<dyn Store>) {
    let bought = |text: &str| match answered([text, text], 1) {
        Outcome::Answered(response, _) => response,
        Outcome::Failed(..) => unreachable!(),
    };
    let texts = |number| {
        let stored = store.stored(&print_of(number)).unwrap();
        stored.samples().map(|sample| sample.text.clone()).collect::<Vec<_>>()
    };
    for number in [0, 1] {
        store.record("before", &print_of(number), &request(number), bought("old"), pico(1), None).await.unwrap();
    }
    let id = opened(&*store, "first", 0..2).await;
    let fresh = |scope| Fresh::over(store.clone(), Cache::Refresh, scope);
    fresh("another").land_lines(id, vec![(0, answered(["a", "b"], 1))]).await.unwrap();
    assert_eq!(texts(0), ["old", "old", "a", "b"], "a run that pays for nothing put samples aside");
    fresh("job").land_lines(id, vec![(1, answered(["c", "d"], 1))]).await.unwrap();
    assert_eq!(texts(1), ["c", "d"], "a refresh did not put aside what was there");
}

async fn what_is_under_way_is_known(store: &dyn Store) {
    let first = opened(store, "first", 0..3).await;
    let second = opened(store, "second", 2..4).await;
    let way = |number: u64| store.under_way(&[print_of(number)]).unwrap().remove(0);
    assert_eq!((way(0).samples, way(0).batches), (2, vec![first]));
    assert_eq!((way(2).samples, way(2).batches, way(2).held.len()), (4, vec![first, second], 2));
    assert_eq!(way(3).held, [("job".to_owned(), pico(100))], "what is reserved, and by whom");
    assert_eq!(way(9), super::UnderWay::default());
    let outcomes =
        vec![(0, answered(["a", "b"], 1)), (1, failed(true, Closing::Released)), (2, failed(false, Closing::Lost))];
    store.land_lines(first, outcomes).await.unwrap();
    assert_eq!(way(0), super::UnderWay::default(), "an answered request is not under way");
    let Outcome::Failed(expected, _) = failed(true, Closing::Released) else { unreachable!() };
    assert_eq!(way(1).failed, Some(expected), "the last failure is told");
    assert_eq!((way(2).samples, way(2).failed), (2, None), "a younger line is still open");
    assert_eq!((way(1).lost, way(2).lost), (Vec::new(), Vec::new()), "only the youngest batch counts");
    store.land_lines(second, vec![(0, failed(true, Closing::Lost))]).await.unwrap();
    assert_eq!(way(2).lost, [("job".to_owned(), pico(100))], "what was lost, and by whom");
    assert!(way(2).failed.is_some() && way(0).lost.is_empty(), "a bill is not lost");
    let all = store.under_way(&[print_of(3), print_of(9), print_of(1)]).unwrap();
    assert_eq!(all.iter().map(|way| way.samples).collect::<Vec<_>>(), [2, 0, 0], "in the order asked");
}

async fn a_planned_batch_can_be_split(store: &dyn Store) {
    let id = opened(store, "whole", 0..5).await;
    let rest = store.split_batch(id, 3, "rest".into(), "more".into()).await.unwrap();
    assert!(rest > id, "a part is a younger batch");
    let prints = |id| store.batch_page(id, 0, 9).unwrap().iter().map(|line| line.fingerprint).collect::<Vec<_>>();
    assert_eq!(prints(id), [0, 1, 2].map(print_of));
    assert_eq!(prints(rest), [3, 4].map(print_of));
    assert_eq!(store.batch_page(rest, 0, 9).unwrap()[0].number, 0, "lines are numbered anew");
    let record = store.batch(rest).unwrap().unwrap();
    assert_eq!((record.progress.intent.as_str(), record.progress.notes.as_str()), ("rest", "more"));
    assert_eq!(store.spent("job").unwrap(), spent(0, 500, 5), "reservations go along");
    assert_eq!(store.under_way(&[print_of(4)]).unwrap()[0].batches, [rest], "a line is looked for in its old batch");
    assert!(store.split_batch(BatchId(99), 0, "no".into(), String::new()).await.is_err());
}

async fn jobs_keep_what_was_asked(store: &dyn Store) {
    let ask = |at: u64| AskRecord { id: format!("id {at}"), model: "m".into(), fingerprint: print_of(at % 2), n: 3 };
    let asks: Vec<AskRecord> = (0..5).map(ask).collect();
    assert!(store.jobs().unwrap().is_empty() && store.asks("j", 0, 9).unwrap().is_empty());
    store.keep_job("j", "scope", asks.clone()).await.unwrap();
    store.keep_job("j", "other", vec![ask(9)]).await.unwrap();
    store.keep_job("k", "scope", Vec::new()).await.unwrap();
    let jobs = store.jobs().unwrap();
    let seen: Vec<_> = jobs.iter().map(|job| (job.id.as_str(), job.scope.as_str(), job.asks)).collect();
    assert_eq!(seen, [("j", "scope", 5), ("k", "scope", 0)], "the first of a name stays");
    assert_eq!(store.asks("j", 0, 9).unwrap(), asks, "in the caller's order");
    assert_eq!(store.asks("j", 2, 2).unwrap(), asks[2..4], "a page");
}
