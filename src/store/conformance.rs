//! What every [`Store`] must do, as one battery of checks: run it in the tests of a store of your own.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{Bought, Cache, Closing, EntryId, Fingerprint, Fresh, Item, Kept, RequestRecord, Spent, Store, Stored};
use crate::money::Usd;
use crate::provider::{Failure, FailureKind, FinishReason, Response, Sample};

/// Holds a store to what [`Store`] says. `make` gives an empty store each time it is called.
///
/// # Panics
/// Where the store breaks a promise; the message says which.
pub async fn conformance(make: impl Fn() -> Arc<dyn Store>) {
    an_empty_store_has_nothing(&*make());
    what_is_recorded_is_stored(&*make()).await;
    samples_are_numbered_through(&*make()).await;
    the_ledger_counts(&*make()).await;
    an_entry_is_closed_once(&*make()).await;
    a_late_response_is_kept(&*make()).await;
    what_is_refused_changes_nothing(&*make()).await;
    large_amounts_saturate(&*make()).await;
    failures_are_kept(&*make()).await;
    calls_are_done_in_their_order(&*make()).await;
    nothing_is_lost_among_many(make()).await;
    dropping_a_future_undoes_nothing(&*make()).await;
    rare_things_are_kept(&*make()).await;
    everything_can_be_read_back(&*make()).await;
    the_contents_are_counted(&*make()).await;
    what_is_removed_is_gone_and_the_ledger_stays(&*make()).await;
    a_scope_may_see_only_its_own(make()).await;
    a_refresh_takes_the_place_of_what_was_there(make()).await;
    super::batches::conformance::conformance(&make).await;
}

/// A fingerprint for each number, spread like a hash.
fn print_of(number: u64) -> Fingerprint {
    Fingerprint(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn request() -> RequestRecord {
    RequestRecord { model: "model".into(), source: "mock".into(), body: r#"{"prompt":"p","params":{}}"#.into() }
}

fn response(texts: &[&str]) -> Response {
    let sample = |text: &&str| Sample::new(*text, FinishReason::STOP, text.len() as u64);
    Response { samples: texts.iter().map(sample).collect(), prompt_tokens: 7, ..Response::default() }
}

fn texts(stored: &Stored) -> Vec<&str> {
    stored.samples().map(|sample| sample.text.as_str()).collect()
}

fn pico(amount: i64) -> Usd {
    Usd::from_pico(amount)
}

fn spent(settled: i64, lost: i64, requests: u64) -> Spent {
    Spent { settled: pico(settled), lost: pico(lost), requests }
}

fn an_empty_store_has_nothing(store: &dyn Store) {
    assert!(store.stored(&print_of(0)).unwrap().is_empty(), "an empty store has samples");
    assert_eq!(store.spent("").unwrap(), Spent::default(), "an empty store has spent");
    assert_eq!(store.failures("study").unwrap(), [], "an empty store has failures");
}

async fn what_is_recorded_is_stored(store: &dyn Store) {
    let odd = Response {
        samples: ["", "line\r\n\0 \u{1f980}", "\u{feff}"]
            .iter()
            .zip([FinishReason::LENGTH, FinishReason("eos_token".into()), FinishReason("".into())])
            .zip([0, u64::MAX, 1 << 63])
            .map(|((text, finish_reason), completion_tokens)| Sample::new(*text, finish_reason, completion_tokens))
            .collect(),
        prompt_tokens: u64::MAX,
        cached_tokens: 1 << 63,
        model: Some("model-2024-07-18".into()),
        estimated: true,
        ..Response::default()
    };
    let long = response(&["x".repeat(300_000).as_str()]);
    for (number, response) in (0..).zip([odd, long]) {
        let recorded =
            store.record("study", &print_of(number), &request(), response.clone(), pico(1), None).await.unwrap();
        assert_eq!(recorded.purchases[0].response, response, "record does not give back what it was given");
        assert_eq!(store.stored(&print_of(number)).unwrap(), recorded, "stored differs from what record said");
    }
    assert!(store.stored(&print_of(9)).unwrap().is_empty(), "a fingerprint has another's samples");
}

async fn samples_are_numbered_through(store: &dyn Store) {
    let print = print_of(1);
    for (round, batch) in [&["a", "b"][..], &["c"], &["d", "e", "f"]].iter().enumerate() {
        let scope = format!("study {round}");
        store.record(&scope, &print, &request(), response(batch), pico(3), None).await.unwrap();
    }
    let stored = store.stored(&print).unwrap();
    let firsts: Vec<usize> = stored.purchases.iter().map(|purchase| purchase.first).collect();
    assert_eq!(firsts, [0, 2, 3], "purchases are not numbered by the samples before them");
    assert_eq!((texts(&stored), stored.len()), (vec!["a", "b", "c", "d", "e", "f"], 6));
    assert_eq!(stored.purchase_of(4).unwrap().first, 3);
}

async fn the_ledger_counts(store: &dyn Store) {
    let print = print_of(1);
    let mut entries = Vec::new();
    for worst in [100, 200, 400, 800, 1600] {
        entries.push(store.reserve("study", &print, pico(worst)).await.unwrap());
    }
    assert_eq!(store.spent("study").unwrap(), spent(0, 3100, 5), "open reservations count at their worst case");
    store.close(entries[0], Closing::Released).await.unwrap();
    assert_eq!(store.spent("study").unwrap(), spent(0, 3000, 4), "a released reservation does not count");
    store.close(entries[1], Closing::Lost).await.unwrap();
    assert_eq!(store.spent("study").unwrap(), spent(0, 3000, 4), "a lost reservation counts at its worst case");
    store.record("study", &print, &request(), response(&["0"]), pico(3), Some(entries[2])).await.unwrap();
    assert_eq!(store.spent("study").unwrap(), spent(3, 2600, 4), "a settled reservation counts with its bill");
    store.record("study", &print, &request(), response(&["a"]), pico(5), Some(entries[3])).await.unwrap();
    assert_eq!(store.spent("study").unwrap(), spent(8, 1800, 4), "a response settles its reservation");
    store.record("study", &print, &request(), response(&["b"]), pico(9), None).await.unwrap();
    assert_eq!(store.spent("study").unwrap(), spent(17, 1800, 5), "a response without a reservation is booked");
    store.record("study", &print, &request(), response(&["c"]), pico(5000), Some(entries[4])).await.unwrap();
    assert_eq!(store.spent("study").unwrap(), spent(5017, 200, 5), "a bill above the worst case is booked as billed");
    assert_eq!(store.spent("stud").unwrap(), Spent::default(), "scopes are apart");
}

async fn an_entry_is_closed_once(store: &dyn Store) {
    let print = print_of(1);
    let closings = [Closing::Released, Closing::Lost];
    for first in closings {
        let entry = store.reserve("study", &print, pico(10)).await.unwrap();
        store.close(entry, first).await.unwrap();
        let before = store.spent("study").unwrap();
        for again in closings {
            assert!(store.close(entry, again).await.is_err(), "an entry closed as {first:?} was closed as {again:?}");
        }
        assert_eq!(store.spent("study").unwrap(), before, "a refused closing changed what is spent");
    }
    let entry = store.reserve("study", &print, pico(10)).await.unwrap();
    store.record("study", &print, &request(), response(&["a"]), pico(1), Some(entry)).await.unwrap();
    for again in closings {
        assert!(store.close(entry, again).await.is_err(), "a settled entry was closed as {again:?}");
    }
}

async fn a_late_response_is_kept(store: &dyn Store) {
    let print = print_of(1);
    for (closing, bill) in [(Closing::Lost, 4), (Closing::Released, 5)] {
        let entry = store.reserve("study", &print, pico(10)).await.unwrap();
        store.close(entry, closing).await.unwrap();
        store.record("study", &print, &request(), response(&["late"]), pico(bill), Some(entry)).await.unwrap();
    }
    assert_eq!(store.spent("study").unwrap(), spent(9, 0, 2), "a late response is booked at its bill");
    assert_eq!(store.stored(&print).unwrap().len(), 2, "a late response is kept");
}

async fn what_is_refused_changes_nothing(store: &dyn Store) {
    let (print, other) = (print_of(1), print_of(2));
    let entry = store.reserve("study", &print, pico(10)).await.unwrap();
    let settled = store.reserve("study", &print_of(3), pico(10)).await.unwrap();
    store.record("study", &print_of(3), &request(), response(&["b"]), pico(1), Some(settled)).await.unwrap();
    let before = store.spent("study").unwrap();
    let one = || response(&["a"]);
    let refused = [
        ("an entry of another scope", store.record("other", &print, &request(), one(), pico(1), Some(entry)).await),
        ("an entry of another request", store.record("study", &other, &request(), one(), pico(1), Some(entry)).await),
        (
            "an entry settled before",
            store.record("study", &print_of(3), &request(), one(), pico(1), Some(settled)).await,
        ),
        ("an unknown entry", store.record("study", &print, &request(), one(), pico(1), Some(EntryId(999))).await),
        ("an impossible entry", store.record("study", &print, &request(), one(), pico(1), Some(EntryId(-1))).await),
        ("a negative bill", store.record("study", &print, &request(), one(), pico(-1), Some(entry)).await),
        ("no samples", store.record("study", &print, &request(), response(&[]), pico(1), Some(entry)).await),
    ];
    for (what, result) in refused {
        assert!(result.is_err(), "a response was recorded with {what}");
    }
    assert!(store.reserve("study", &print, pico(-1)).await.is_err(), "a negative amount was reserved");
    assert!(store.close(EntryId(999), Closing::Released).await.is_err(), "an unknown entry was closed");
    assert!(store.close(EntryId(i64::MIN), Closing::Released).await.is_err(), "an impossible entry was closed");
    assert_eq!(store.spent("study").unwrap(), before, "what was refused changed what is spent");
    assert_eq!(store.spent("other").unwrap(), Spent::default(), "what was refused was booked");
    assert!(store.stored(&print).unwrap().is_empty() && store.stored(&other).unwrap().is_empty(), "it was stored");
    store.record("study", &print, &request(), one(), pico(1), Some(entry)).await.expect("the entry stayed open");
}

async fn large_amounts_saturate(store: &dyn Store) {
    for _ in 0..3 {
        store.reserve("lost", &print_of(1), Usd::MAX).await.unwrap();
        store.record("settled", &print_of(1), &request(), response(&["a"]), Usd::MAX, None).await.unwrap();
    }
    let (lost, settled) = (store.spent("lost").unwrap(), store.spent("settled").unwrap());
    assert_eq!((lost.lost, settled.settled, lost.requests), (Usd::MAX, Usd::MAX, 3), "sums do not saturate");
}

async fn failures_are_kept(store: &dyn Store) {
    let failure = |kind, message: &str| Failure::new(kind, message);
    let mut expected = vec![
        (print_of(1), 1, failure(FailureKind::ContextTooLong, "too long: 9000 of 8192 \u{1f980}")),
        (print_of(1), u32::MAX, failure(FailureKind::Server, "")),
        (print_of(2), 1, failure(FailureKind::NotRecorded, "not recorded")),
    ];
    for (print, n, failure) in expected.iter().rev() {
        store.record_failure("study", print, *n, failure).await.unwrap();
    }
    store.record_failure("study", &print_of(1), 1, &failure(FailureKind::Timeout, "later")).await.unwrap();
    store.record_failure("other", &print_of(3), 1, &failure(FailureKind::Timeout, "apart")).await.unwrap();
    expected.sort_by_key(|(print, n, _)| (*print, *n));
    assert_eq!(store.failures("study").unwrap(), expected, "failures: ordered, the first of a request stays");
    assert_eq!(store.failures("other").unwrap().len(), 1, "failures of scopes are apart");
}

async fn calls_are_done_in_their_order(store: &dyn Store) {
    let print = print_of(1);
    let names: Vec<String> = (0..200).map(|k| format!("sample {k}")).collect();
    let calls = names.iter().map(|name| store.record("study", &print, &request(), response(&[name]), pico(1), None));
    let mut calls: Vec<_> = calls.collect();
    calls.reverse();
    for result in join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(texts(&store.stored(&print).unwrap()), names, "calls were not done in their order");
}

/// Threads write and read at once; a few of the writes are refused, and take nobody else down.
async fn nothing_is_lost_among_many(store: Arc<dyn Store>) {
    const THREADS: u64 = 8;
    const EACH: u64 = 40;
    let work = |thread: u64| {
        let store = Arc::clone(&store);
        async move {
            for k in 0..EACH {
                let print = print_of(k % 5);
                let entry = store.reserve("study", &print, pico(1000)).await.unwrap();
                if k % 7 == 0 {
                    assert!(store.close(EntryId(i64::MAX), Closing::Lost).await.is_err());
                }
                let texts = [format!("{thread} {k} a"), format!("{thread} {k} b")];
                let response = response(&[&texts[0], &texts[1]]);
                let recorded = store.record("study", &print, &request(), response, pico(1), Some(entry)).await.unwrap();
                let seen = store.stored(&print).unwrap();
                assert!(seen.len() >= recorded.len(), "a reader does not see what was recorded before");
                let begun = &seen.purchases[..recorded.purchases.len()];
                assert_eq!(begun, recorded.purchases, "samples once stored were changed");
            }
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let work = work(thread);
            scope.spawn(|| tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work));
        }
    });
    let mut all: Vec<String> = Vec::new();
    for k in 0..5 {
        let stored = store.stored(&print_of(k)).unwrap();
        assert_eq!(stored.len(), (THREADS * EACH / 5 * 2) as usize, "samples were lost");
        all.extend(stored.samples().map(|sample| sample.text.clone()));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), (THREADS * EACH * 2) as usize, "samples were stored twice");
    assert_eq!(store.spent("study").unwrap(), spent((THREADS * EACH) as i64, 0, THREADS * EACH), "bills were lost");
}

async fn dropping_a_future_undoes_nothing(store: &dyn Store) {
    drop(store.record("study", &print_of(1), &request(), response(&["a"]), pico(1), None));
    let after = store.record("study", &print_of(1), &request(), response(&["b"]), pico(1), None).await.unwrap();
    assert_eq!(texts(&after), ["a", "b"], "a call whose future was dropped was not done");
}

async fn rare_things_are_kept(store: &dyn Store) {
    let mut odd = response(&["a", "b"]);
    odd.samples[1].tool_calls = Some(serde_json::json!([{"function": {"name": "f", "arguments": "{}"}}]));
    odd.samples[0].logprobs = Some(serde_json::json!({"content": [{"token": "a", "logprob": -0.1}]}));
    (odd.cache_write_tokens, odd.reasoning_tokens, odd.endpoint) = (3, u64::MAX, Some("here".into()));
    let recorded = store.record("study", &print_of(1), &request(), odd.clone(), pico(1), None).await.unwrap();
    assert_eq!(recorded.purchases[0].response, odd, "record does not give back what it was given");
    assert_eq!(store.stored(&print_of(1)).unwrap(), recorded, "tool calls and the like are lost");
}

fn all_pages(store: &dyn Store, most: usize) -> Vec<Kept> {
    let mut all: Vec<Kept> = Vec::new();
    loop {
        let page = store.page(all.last().map(|kept| &kept.fingerprint), most).unwrap();
        assert!(page.len() <= most, "a page is longer than asked for");
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

fn all_items(store: &dyn Store) -> Vec<Item> {
    let mut all: Vec<Item> = Vec::new();
    loop {
        let page = store.items(all.last().map(|item| &item.fingerprint), 3).unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

async fn everything_can_be_read_back(store: &dyn Store) {
    assert!(store.page(None, 10).unwrap().is_empty() && store.items(None, 10).unwrap().is_empty(), "nothing is there");
    for number in 0..20 {
        let request = RequestRecord { body: format!("body {number}"), ..request() };
        for round in 0..=number % 3 {
            let text = format!("{number} {round}");
            store.record("study", &print_of(number), &request, response(&[&text]), pico(1), None).await.unwrap();
        }
    }
    let all = all_pages(store, 7);
    assert_eq!(all, all_pages(store, 1000), "the length of pages matters");
    let mut prints: Vec<Fingerprint> = (0..20).map(print_of).collect();
    prints.sort();
    assert_eq!(
        all.iter().map(|kept| kept.fingerprint).collect::<Vec<_>>(),
        prints,
        "all, in the order of fingerprints"
    );
    for number in 0..20 {
        let kept = all.iter().find(|kept| kept.fingerprint == print_of(number)).unwrap();
        assert_eq!(kept.request.body, format!("body {number}"), "a request is not its own");
        assert_eq!(kept.stored, store.stored(&kept.fingerprint).unwrap(), "samples are not as they are found");
    }
    let items = all_items(store);
    assert_eq!(items.iter().map(|item| item.fingerprint).collect::<Vec<_>>(), prints);
    assert!(items.iter().all(|item| item.model == "model" && item.bytes > 10 && item.newest >= 0));
}

async fn the_contents_are_counted(store: &dyn Store) {
    assert!(store.contents().unwrap().groups.is_empty(), "an empty store has contents");
    let other = RequestRecord { model: "other".into(), ..request() };
    store.record("a", &print_of(1), &request(), response(&["a", "b"]), pico(5), None).await.unwrap();
    store.record("b", &print_of(1), &request(), response(&["c"]), pico(7), None).await.unwrap();
    store.record("b", &print_of(2), &other, response(&["d"]), Usd::MAX, None).await.unwrap();
    store.record("b", &print_of(2), &other, response(&["e"]), Usd::MAX, None).await.unwrap();
    let entry = store.reserve("b", &print_of(1), pico(100)).await.unwrap();
    store.close(entry, Closing::Lost).await.unwrap();
    let entry = store.reserve("b", &print_of(3), pico(1000)).await.unwrap();
    let released = store.reserve("b", &print_of(3), pico(9000)).await.unwrap();
    store.close(released, Closing::Released).await.unwrap();
    let contents = store.contents().unwrap();
    let model = &contents.groups[&("model".to_owned(), "mock".to_owned())];
    assert_eq!((model.requests, model.purchases, model.samples, model.superseded), (1, 2, 3, 0), "counts");
    assert_eq!((model.settled, model.lost), (pico(12), pico(100)), "money by model");
    let items = all_items(store);
    assert_eq!(
        items.iter().map(|item| item.bytes).sum::<u64>(),
        contents.groups.values().map(|g| g.bytes).sum::<u64>()
    );
    let other = &contents.groups[&("other".to_owned(), "mock".to_owned())];
    assert_eq!((other.requests, other.samples, other.settled), (1, 2, Usd::MAX), "sums do not saturate");
    assert_eq!((contents.groups.len(), contents.entries), (2, 6), "entries that count");
    assert_eq!((contents.settled, contents.lost), (Usd::MAX, pico(1100)), "money in all");
    store.close(entry, Closing::Released).await.unwrap();
    assert_eq!(store.contents().unwrap().lost, pico(100), "a released reservation does not count");
}

async fn what_is_removed_is_gone_and_the_ledger_stays(store: &dyn Store) {
    for number in 0..6 {
        store.record("study", &print_of(number), &request(), response(&["a", "b"]), pico(5), None).await.unwrap();
    }
    store.record_failure("study", &print_of(9), 1, &Failure::new(FailureKind::Server, "x")).await.unwrap();
    let items = all_items(store);
    let (gone, stays) = items.split_at(3);
    let mut asked = gone.to_vec();
    asked.push(Item { fingerprint: print_of(77), ..gone[0].clone() });
    // As if something newer had come in meanwhile.
    asked.push(Item { newest: stays[0].newest - 1, ..stays[0].clone() });
    assert_eq!(store.remove(asked).await.unwrap(), 3, "how many were removed");
    assert_eq!(all_items(store), stays, "what was not meant is gone, or what was meant is not");
    assert!(
        store.stored(&gone[0].fingerprint).unwrap().is_empty()
            && store.stored(&stays[0].fingerprint).unwrap().len() == 2
    );
    assert_eq!(store.spent("study").unwrap(), spent(30, 0, 6), "money spent does not count any more");
    assert_eq!((store.contents().unwrap().settled, store.contents().unwrap().entries), (pico(30), 6));
    // What was removed may be bought again.
    store.record("study", &gone[0].fingerprint, &request(), response(&["new"]), pico(5), None).await.unwrap();
    assert_eq!(texts(&store.stored(&gone[0].fingerprint).unwrap()), ["new"], "removed samples came back");
    store.compact().unwrap();
    assert_eq!(store.clear().await.unwrap(), 4, "how many were cleared");
    assert!(store.page(None, 10).unwrap().is_empty() && store.stored(&stays[1].fingerprint).unwrap().is_empty());
    assert_eq!(store.spent("study").unwrap(), spent(35, 0, 7), "money spent does not count any more");
    assert_eq!(store.failures("study").unwrap().len(), 1, "failures are part of a study, not of the samples");
    store.compact().unwrap();
}

fn bought<'a>(scope: &'a str, print: &'a Fingerprint, request: &'a RequestRecord, texts: &[&str]) -> Bought<'a> {
    Bought { scope, fingerprint: print, request, response: response(texts), bill: pico(1), entry: None }
}

async fn a_scope_may_see_only_its_own(store: Arc<dyn Store>) {
    let (print, request) = (print_of(1), request());
    store.record("before", &print, &request, response(&["old"]), pico(1), None).await.unwrap();
    let fresh = Fresh::over(store.clone(), Cache::Ignore, "study");
    assert!(fresh.stored(&print).unwrap().is_empty(), "what others bought is seen");
    let entry = fresh.reserve("study", &print, pico(9)).await.unwrap();
    let seen = fresh.record("study", &print, &request, response(&["a", "b"]), pico(1), Some(entry)).await.unwrap();
    assert_eq!(texts(&seen), ["a", "b"]);
    store.record("other", &print, &request, response(&["x"]), pico(1), None).await.unwrap();
    let seen = fresh.record("study", &print, &request, response(&["c"]), pico(1), None).await.unwrap();
    let firsts: Vec<usize> = seen.purchases.iter().map(|purchase| purchase.first).collect();
    assert_eq!((texts(&seen), firsts), (vec!["a", "b", "c"], vec![0, 2]), "its own, numbered through");
    assert_eq!(
        Fresh::over(store.clone(), Cache::Ignore, "study").stored(&print).unwrap(),
        seen,
        "a resumed study finds its own"
    );
    assert!(Fresh::over(store.clone(), Cache::Ignore, "third").stored(&print).unwrap().is_empty());
    assert_eq!(
        texts(&store.stored(&print).unwrap()),
        ["old", "a", "b", "x", "c"],
        "nothing that was bought is dropped"
    );
    assert_eq!(store.spent("study").unwrap(), spent(2, 0, 2), "the ledger has it all");
}

async fn a_refresh_takes_the_place_of_what_was_there(store: Arc<dyn Store>) {
    let (print, other, request) = (print_of(1), print_of(2), request());
    store.record("before", &print, &request, response(&["old", "older"]), pico(1), None).await.unwrap();
    store.record("before", &other, &request, response(&["kept"]), pico(1), None).await.unwrap();
    let fresh = Fresh::over(store.clone(), Cache::Refresh, "study");
    assert!(fresh.stored(&print).unwrap().is_empty(), "a refresh begins with nothing");
    assert_eq!(texts(&store.stored(&print).unwrap()), ["old", "older"], "nothing changes before something is bought");
    fresh.record("study", &print, &request, response(&["a"]), pico(1), None).await.unwrap();
    let seen = fresh.record("study", &print, &request, response(&["b"]), pico(1), None).await.unwrap();
    assert_eq!(texts(&seen), ["a", "b"]);
    assert_eq!(store.stored(&print).unwrap(), seen, "later runs see what was refreshed");
    assert_eq!(
        store.stored_many(&[print, other, print_of(3)]).unwrap().iter().map(Stored::len).collect::<Vec<_>>(),
        [2, 1, 0]
    );
    store.record("later", &print, &request, response(&["c"]), pico(1), None).await.unwrap();
    assert_eq!(texts(&store.stored(&print).unwrap()), ["a", "b", "c"]);
    assert_eq!(texts(&fresh.stored(&print).unwrap()), ["a", "b"], "a resumed study finds its own");
    assert_eq!(texts(&store.stored_as(Cache::Ignore, "before", &print).unwrap()), ["old", "older"]);
    // Another refresh in its turn; what the first one buys now goes behind it.
    let again = store.record_as(Cache::Refresh, bought("second", &print, &request, &["d", "e"])).await.unwrap();
    assert_eq!(texts(&again), ["d", "e"]);
    fresh.record("study", &print, &request, response(&["f"]), pico(1), None).await.unwrap();
    assert_eq!(texts(&store.stored(&print).unwrap()), ["d", "e", "f"]);
    assert_eq!(texts(&fresh.stored(&print).unwrap()), ["a", "b", "f"]);
    let contents = store.contents().unwrap();
    let sums = contents.groups.values().next().unwrap();
    assert_eq!((sums.samples, sums.superseded, sums.purchases), (4, 5, 7), "what was put aside is counted apart");
    assert_eq!(store.page(None, 9).unwrap().iter().map(|kept| kept.stored.len()).sum::<usize>(), 4);
}
