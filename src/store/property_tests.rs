//! Every store against a model that is too simple to be wrong, over random sequences of calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;
use proptest::prelude::*;

use super::conformance::conformance;
use super::{
    Closing, Durable, EntryId, Fingerprint, MemoryStore, Purchase, RequestRecord, Spent, SqliteStore, Store, Stored,
};
use crate::money::Usd;
use crate::provider::{Failure, FailureKind, FinishReason, Response, Sample};

const SCOPES: [&str; 3] = ["", "study", "study 2"];
const PRINTS: u8 = 3;

#[derive(Clone, Debug)]
enum Call {
    Reserve {
        scope: usize,
        print: u8,
        worst: i64,
    },
    /// `entry` counts back from the newest; past the oldest it is an unknown one.
    Close {
        entry: usize,
        closing: Closing,
    },
    Record {
        scope: usize,
        print: u8,
        response: Response,
        bill: i64,
        entry: Option<usize>,
    },
    /// As `Record`, with the scope and the fingerprint that the entry was reserved for.
    Answer {
        response: Response,
        bill: i64,
        entry: usize,
    },
    Fail {
        scope: usize,
        print: u8,
        n: u32,
        failure: Failure,
    },
}

fn amount() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..1_000_000_000_i64, 1 => Just(0), 1 => any::<i64>(), 1 => Just(i64::MAX)]
}

fn response() -> impl Strategy<Value = Response> {
    let reason = prop_oneof![
        Just(FinishReason::STOP),
        Just(FinishReason::UNKNOWN),
        any::<String>().prop_map(|text| FinishReason(text.into()))
    ];
    let sample = (any::<String>(), reason, any::<u64>())
        .prop_map(|(text, finish_reason, completion_tokens)| Sample::new(text, finish_reason, completion_tokens));
    let samples = prop::collection::vec(sample, 0..4);
    (samples, any::<u64>(), any::<u64>(), any::<Option<String>>(), any::<bool>()).prop_map(
        |(samples, prompt_tokens, cached_tokens, model, estimated)| Response {
            samples,
            prompt_tokens,
            cached_tokens,
            model,
            estimated,
            ..Response::default()
        },
    )
}

fn call() -> impl Strategy<Value = Call> {
    let closing = prop_oneof![Just(Closing::Released), Just(Closing::Lost)];
    let failure = (prop_oneof![Just(FailureKind::ContextTooLong), Just(FailureKind::Interrupted)], any::<String>())
        .prop_map(|(kind, message)| Failure { kind, message });
    let (scope, print) = (0..SCOPES.len(), 0..PRINTS);
    prop_oneof![
        4 => (scope.clone(), print.clone(), amount()).prop_map(|(scope, print, worst)| Call::Reserve { scope, print, worst }),
        2 => (0..6_usize, closing).prop_map(|(entry, closing)| Call::Close { entry, closing }),
        2 => (scope.clone(), print.clone(), response(), amount(), prop::option::of(0..6_usize))
            .prop_map(|(scope, print, response, bill, entry)| Call::Record { scope, print, response, bill, entry }),
        3 => (response(), amount(), 0..4_usize).prop_map(|(response, bill, entry)| Call::Answer { response, bill, entry }),
        1 => (scope, print, 1..3_u32, failure).prop_map(|(scope, print, n, failure)| Call::Fail { scope, print, n, failure }),
    ]
}

/// What a call must come to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Refused,
    Entry,
    Done,
    Stored(Stored),
}

#[derive(Clone)]
enum State {
    Open,
    Settled(Usd),
    Closed(Closing),
}

#[derive(Default)]
struct Model {
    stored: BTreeMap<u8, Stored>,
    ledger: Vec<(usize, u8, i64, State)>,
    failures: BTreeMap<(usize, Fingerprint, u32), Failure>,
}

impl Model {
    fn nth_newest(&self, back: usize) -> Option<usize> {
        self.ledger.len().checked_sub(back + 1)
    }

    fn apply(&mut self, call: &Call) -> Outcome {
        match call {
            Call::Reserve { worst, .. } if *worst < 0 => Outcome::Refused,
            Call::Reserve { scope, print, worst } => {
                self.ledger.push((*scope, *print, *worst, State::Open));
                Outcome::Entry
            }
            Call::Close { entry, closing } => match self.nth_newest(*entry) {
                Some(at) if matches!(self.ledger[at].3, State::Open) => {
                    self.ledger[at].3 = State::Closed(*closing);
                    Outcome::Done
                }
                _ => Outcome::Refused,
            },
            Call::Record { scope, print, response, bill, entry: None } => {
                self.keep(*scope, *print, response, *bill, None)
            }
            Call::Record { scope, print, response, bill, entry: Some(back) } => match self.nth_newest(*back) {
                Some(at) => self.keep(*scope, *print, response, *bill, Some(at)),
                None => Outcome::Refused,
            },
            Call::Answer { response, bill, entry } => match self.nth_newest(*entry) {
                Some(at) => self.keep(self.ledger[at].0, self.ledger[at].1, response, *bill, Some(at)),
                None => Outcome::Refused,
            },
            Call::Fail { scope, print, n, failure } => {
                self.failures.entry((*scope, print_of(*print), *n)).or_insert(failure.clone());
                Outcome::Done
            }
        }
    }

    fn keep(&mut self, scope: usize, print: u8, response: &Response, bill: i64, entry: Option<usize>) -> Outcome {
        if bill < 0 || response.samples.is_empty() {
            return Outcome::Refused;
        }
        let settled = State::Settled(Usd::from_pico(bill));
        match entry.map(|at| &mut self.ledger[at]) {
            None => self.ledger.push((scope, print, bill, settled)),
            Some((_, _, _, State::Settled(_))) => return Outcome::Refused,
            Some((its_scope, its_print, _, state)) if (*its_scope, *its_print) == (scope, print) => *state = settled,
            Some(_) => return Outcome::Refused,
        }
        let stored = self.stored.entry(print).or_default();
        let first = stored.samples().count();
        stored.purchases.push(Purchase { first, response: response.clone() });
        Outcome::Stored(stored.clone())
    }

    fn spent(&self, scope: usize) -> Spent {
        let mut spent = Spent::default();
        for (_, _, worst, state) in self.ledger.iter().filter(|entry| entry.0 == scope) {
            match state {
                State::Closed(Closing::Released) => continue,
                State::Settled(bill) => spent.settled += *bill,
                State::Open | State::Closed(Closing::Lost) => spent.lost += Usd::from_pico(*worst),
            }
            spent.requests += 1;
        }
        spent
    }
}

fn print_of(number: u8) -> Fingerprint {
    Fingerprint([number.wrapping_mul(97); 32])
}

/// A store's ids for the model's entries: the model numbers them in the order of the calls.
#[derive(Default)]
struct Ids(Vec<EntryId>);

impl Ids {
    fn nth_newest(&self, model: &Model, back: usize) -> EntryId {
        model.nth_newest(back).map_or(EntryId(i64::MAX), |at| self.0[at])
    }
}

/// Makes a call, resolving to its outcome and the id of an entry that it opened.
fn make(store: &dyn Store, call: &Call, ids: &Ids, model: &Model) -> Durable<(Outcome, Option<EntryId>)> {
    let request = RequestRecord { model: "m".into(), source: "mock".into(), body: "{}".into() };
    let record = |scope: usize, print: u8, response: &Response, bill: i64, entry| {
        let calling =
            store.record(SCOPES[scope], &print_of(print), &request, response.clone(), Usd::from_pico(bill), entry);
        Box::pin(async move { Ok((calling.await.map_or(Outcome::Refused, Outcome::Stored), None)) })
    };
    match call {
        Call::Reserve { scope, print, worst } => {
            let calling = store.reserve(SCOPES[*scope], &print_of(*print), Usd::from_pico(*worst));
            Box::pin(async move { Ok(calling.await.map_or((Outcome::Refused, None), |id| (Outcome::Entry, Some(id)))) })
        }
        Call::Close { entry, closing } => {
            let calling = store.close(ids.nth_newest(model, *entry), *closing);
            Box::pin(async move { Ok((calling.await.map_or(Outcome::Refused, |()| Outcome::Done), None)) })
        }
        Call::Record { scope, print, response, bill, entry } => {
            record(*scope, *print, response, *bill, entry.map(|back| ids.nth_newest(model, back)))
        }
        Call::Answer { response, bill, entry } => {
            let (scope, print) = model.nth_newest(*entry).map_or((0, 0), |at| (model.ledger[at].0, model.ledger[at].1));
            record(scope, print, response, *bill, Some(ids.nth_newest(model, *entry)))
        }
        Call::Fail { scope, print, n, failure } => {
            let calling = store.record_failure(SCOPES[*scope], &print_of(*print), *n, failure);
            Box::pin(async move { Ok((calling.await.map_or(Outcome::Refused, |()| Outcome::Done), None)) })
        }
    }
}

fn same(store: &dyn Store, model: &Model) -> Result<(), TestCaseError> {
    for print in 0..PRINTS {
        let expected = model.stored.get(&print).cloned().unwrap_or_default();
        prop_assert_eq!(store.stored(&print_of(print)).unwrap(), expected);
    }
    for (scope, name) in SCOPES.iter().enumerate() {
        prop_assert_eq!(store.spent(name).unwrap(), model.spent(scope), "scope {}", name);
        let expected = model.failures.iter().filter(|((s, ..), _)| *s == scope);
        let expected: Vec<_> = expected.map(|((_, print, n), failure)| (*print, *n, failure.clone())).collect();
        prop_assert_eq!(store.failures(name).unwrap(), expected);
    }
    Ok(())
}

/// Runs calls on a store and the model; `reopen` is asked before each call whether to use another handle from then on.
fn follow(
    mut store: Arc<dyn Store>,
    calls: &[Call],
    mut reopen: impl FnMut(usize, Arc<dyn Store>) -> Arc<dyn Store>,
) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut model, mut ids) = (Model::default(), Ids::default());
    for (at, call) in calls.iter().enumerate() {
        store = reopen(at, store);
        let (outcome, id) = runtime.block_on(make(&*store, call, &ids, &model)).unwrap();
        let before = model.ledger.len();
        prop_assert_eq!(outcome, model.apply(call));
        // A response without a reservation opens an entry that nobody hears of.
        ids.0.extend((before..model.ledger.len()).map(|_| id.unwrap_or(EntryId(i64::MAX))));
        same(&*store, &model)?;
    }
    same(&*reopen(calls.len(), store), &model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_does_as_the_model(calls in prop::collection::vec(call(), 0..60)) {
        follow(MemoryStore::new(), &settleable(calls), |_, store| store)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn sqlite_does_as_the_model(calls in prop::collection::vec(call(), 0..40), reopen: [bool; 8]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let open = || -> Arc<dyn Store> { SqliteStore::open(&path).unwrap() };
        follow(open(), &settleable(calls), |at, store| {
            if at % 3 == 0 && reopen[at / 3 % 8] {
                drop(store);
                return open();
            }
            store
        })?;
    }

    /// All calls at once, so that they share transactions, with refused ones among them.
    #[test]
    fn a_group_of_calls_does_as_the_model(
        calls in prop::collection::vec(call(), 1..80),
        known in prop::collection::vec((0..SCOPES.len(), 0..PRINTS), 12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("store.db")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut model, mut ids) = (Model::default(), Ids::default());
        for (scope, print) in known {
            let call = Call::Reserve { scope, print, worst: 1_000 };
            ids.0.extend(runtime.block_on(make(&*store, &call, &ids, &model)).unwrap().1);
            model.apply(&call);
        }
        // Entries must be known before the group begins: calls that open some are another test's.
        let calls: Vec<Call> = settleable(calls).into_iter().filter(|call| !opens(call)).collect();
        let (waiting, expected): (Vec<_>, Vec<_>) =
            calls.iter().map(|call| (make(&*store, call, &ids, &model), model.apply(call))).unzip();
        let outcomes = runtime.block_on(join_all(waiting));
        let outcomes: Vec<Outcome> = outcomes.into_iter().map(|outcome| outcome.unwrap().0).collect();
        prop_assert_eq!(outcomes, expected);
        same(&*store, &model)?;
    }
}

fn opens(call: &Call) -> bool {
    matches!(call, Call::Reserve { .. } | Call::Record { entry: None, .. })
}

/// Calls that name only entries whose id the store gave out: one made for a response without a reservation has none.
fn settleable(calls: Vec<Call>) -> Vec<Call> {
    let mut model = Model::default();
    let mut nameless = BTreeSet::new();
    let mut kept = Vec::new();
    for call in calls {
        let named = match &call {
            Call::Close { entry, .. } | Call::Answer { entry, .. } | Call::Record { entry: Some(entry), .. } => {
                model.nth_newest(*entry)
            }
            _ => None,
        };
        if named.is_some_and(|at| nameless.contains(&at)) {
            continue;
        }
        let before = model.ledger.len();
        model.apply(&call);
        if matches!(call, Call::Record { .. }) && model.ledger.len() > before {
            nameless.insert(before);
        }
        kept.push(call);
    }
    kept
}

#[tokio::test]
async fn memory_conforms() {
    conformance(|| MemoryStore::new()).await;
}

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    conformance(|| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        SqliteStore::open(folder.path().join(format!("{number}.db"))).unwrap()
    })
    .await;
}
