//! A store that lasts as long as the process: for tests, for embedding, and for `--store memory:`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::batches::Shelf;
use super::contents::{PURCHASE_BYTES, REQUEST_BYTES};
use super::{
    Bought, Cache, Closing, Contents, Durable, EntryId, Fingerprint, Item, Kept, Purchase, RequestRecord, Spent, Store,
    Stored, already_settled, at_once, check_amount, check_response, codec, no_entry, not_open, now, sum_of,
};
use crate::diagnostic::Result;
use crate::money::Usd;
use crate::provider::{Failure, Response};

/// A store in memory. It keeps the promises of [`Store`] but one: nothing in it survives the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    requests: BTreeMap<Fingerprint, Held>,
    /// Entry `EntryId(k)` is at `k`.
    ledger: Vec<Entry>,
    failures: HashMap<String, BTreeMap<(Fingerprint, u32), Failure>>,
    pub(super) shelf: Shelf,
}

#[derive(Debug)]
struct Entry {
    scope: String,
    fingerprint: Fingerprint,
    worst: Usd,
    state: EntryState,
}

/// How an entry of the ledger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    Open,
    /// A response came, and was billed so much.
    Settled(Usd),
    Closed(Closing),
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Arc<MemoryStore> {
        Arc::default()
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The requests behind a fingerprint, in order.
    fn behind(&self, after: Option<&Fingerprint>) -> impl Iterator<Item = (&Fingerprint, &Held)> {
        self.requests.range((after.map_or(Bound::Unbounded, |print| Bound::Excluded(*print)), Bound::Unbounded))
    }

    fn entry(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.ledger.get_mut(usize::try_from(id.0).ok()?)
    }

    pub(super) fn reserve(&mut self, scope: &str, fingerprint: &Fingerprint, worst: Usd, state: EntryState) -> EntryId {
        self.ledger.push(Entry { scope: scope.to_owned(), fingerprint: *fingerprint, worst, state });
        EntryId(self.ledger.len() as i64 - 1)
    }

    /// What an entry was reserved for.
    pub(super) fn worst(&self, id: EntryId) -> Usd {
        let entry = usize::try_from(id.0).ok().and_then(|at| self.ledger.get(at));
        entry.map_or(Usd::ZERO, |entry| entry.worst)
    }

    /// What an entry was lost at, if it was.
    pub(super) fn lost(&self, id: EntryId) -> Option<Usd> {
        let entry = self.ledger.get(usize::try_from(id.0).ok()?)?;
        (entry.state == EntryState::Closed(Closing::Lost)).then_some(entry.worst)
    }

    pub(super) fn close(&mut self, id: EntryId, closing: Closing) -> Result<()> {
        match self.entry(id) {
            Some(entry) if entry.state == EntryState::Open => {
                entry.state = EntryState::Closed(closing);
                Ok(())
            }
            _ => Err(not_open(id)),
        }
    }

    fn settle(&mut self, scope: &str, fingerprint: &Fingerprint, id: EntryId, bill: Usd) -> Result<()> {
        match self.entry(id) {
            Some(entry) if entry.scope == scope && entry.fingerprint == *fingerprint => match entry.state {
                EntryState::Settled(_) => Err(already_settled(id)),
                EntryState::Open | EntryState::Closed(_) => {
                    entry.state = EntryState::Settled(bill);
                    Ok(())
                }
            },
            _ => Err(no_entry(id)),
        }
    }

    pub(super) fn record(&mut self, cache: Cache, bought: Bought<'_>) -> Result<Stored> {
        let Bought { scope, fingerprint, request, response, bill, entry } = bought;
        check_amount(bill)?;
        check_response(&response)?;
        match entry {
            Some(entry) => self.settle(scope, fingerprint, entry, bill)?,
            None => {
                self.reserve(scope, fingerprint, bill, EntryState::Settled(bill));
            }
        }
        let held = self.requests.entry(*fingerprint).or_insert_with(|| Held::new(request));
        let fresh = cache == Cache::Refresh && held.purchases.iter().all(|purchase| purchase.scope != scope);
        let newest = held.purchases.last().map_or(0, |purchase| purchase.generation);
        let generation = if fresh { newest + 1 } else { newest };
        held.purchases.push(Part { scope: scope.to_owned(), generation, bought: now(), response });
        Ok(held.seen(cache, scope))
    }
}

/// A request and all that was bought of it.
#[derive(Debug)]
struct Held {
    request: RequestRecord,
    purchases: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    scope: String,
    generation: u32,
    bought: i64,
    response: Response,
}

impl Held {
    fn new(request: &RequestRecord) -> Held {
        Held { request: request.clone(), purchases: Vec::new() }
    }

    /// The purchases that runs find.
    fn current(&self) -> impl Iterator<Item = &Part> {
        let newest = self.purchases.last().map_or(0, |purchase| purchase.generation);
        self.purchases.iter().filter(move |purchase| purchase.generation == newest)
    }

    fn seen(&self, cache: Cache, scope: &str) -> Stored {
        let mut stored = Stored::default();
        let mut push =
            |part: &Part| stored.purchases.push(Purchase { first: stored.len(), response: part.response.clone() });
        match cache {
            Cache::Use => self.current().for_each(push),
            _ => self.purchases.iter().filter(|part| part.scope == scope).for_each(&mut push),
        }
        stored
    }

    fn item(&self, fingerprint: &Fingerprint) -> Item {
        let bytes = self.purchases.iter().map(Part::bytes).sum::<u64>() + self.request.body.len() as u64;
        let newest = self.purchases.iter().map(|part| part.bought).max().unwrap_or_default();
        Item { fingerprint: *fingerprint, model: self.request.model.clone(), bytes: bytes + REQUEST_BYTES, newest }
    }
}

impl Part {
    fn bytes(&self) -> u64 {
        let extra = codec::encode_extra(&self.response).map_or(0, |extra| extra.len());
        (codec::encode(&self.response.samples).len() + extra) as u64 + PURCHASE_BYTES
    }
}

impl Store for MemoryStore {
    fn stored_as(&self, cache: Cache, scope: &str, fingerprint: &Fingerprint) -> Result<Stored> {
        Ok(self.read().requests.get(fingerprint).map(|held| held.seen(cache, scope)).unwrap_or_default())
    }

    fn reserve(&self, scope: &str, fingerprint: &Fingerprint, worst: Usd) -> Durable<EntryId> {
        at_once(check_amount(worst).map(|()| self.write().reserve(scope, fingerprint, worst, EntryState::Open)))
    }

    fn close(&self, entry: EntryId, closing: Closing) -> Durable<()> {
        at_once(self.write().close(entry, closing))
    }

    fn record_as(&self, cache: Cache, bought: Bought<'_>) -> Durable<Stored> {
        at_once(self.write().record(cache, bought))
    }

    fn spent(&self, scope: &str) -> Result<Spent> {
        let state = self.read();
        let (mut settled, mut lost) = (Vec::new(), Vec::new());
        for entry in state.ledger.iter().filter(|entry| entry.scope == scope) {
            match entry.state {
                EntryState::Settled(bill) => settled.push(bill),
                EntryState::Open | EntryState::Closed(Closing::Lost) => lost.push(entry.worst),
                EntryState::Closed(Closing::Released) => {}
            }
        }
        let requests = (settled.len() + lost.len()) as u64;
        let sum = |amounts: Vec<Usd>| sum_of(amounts.into_iter().map(|amount| i128::from(amount.pico())));
        Ok(Spent { settled: sum(settled), lost: sum(lost), requests })
    }

    fn record_failure(&self, scope: &str, fingerprint: &Fingerprint, n: u32, failure: &Failure) -> Durable<()> {
        let mut state = self.write();
        let failures = state.failures.entry(scope.to_owned()).or_default();
        failures.entry((*fingerprint, n)).or_insert_with(|| failure.clone());
        at_once(Ok(()))
    }

    fn failures(&self, scope: &str) -> Result<Vec<(Fingerprint, u32, Failure)>> {
        let state = self.read();
        let failures = state.failures.get(scope).into_iter().flatten();
        Ok(failures.map(|((fingerprint, n), failure)| (*fingerprint, *n, failure.clone())).collect())
    }
    fn page(&self, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Kept>> {
        let state = self.read();
        let kept = |(fingerprint, held): (&Fingerprint, &Held)| Kept {
            fingerprint: *fingerprint,
            request: held.request.clone(),
            stored: held.seen(Cache::Use, ""),
        };
        Ok(state.behind(after).take(most).map(kept).collect())
    }

    fn items(&self, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Item>> {
        let state = self.read();
        Ok(state.behind(after).take(most).map(|(fingerprint, held)| held.item(fingerprint)).collect())
    }

    fn contents(&self) -> Result<Contents> {
        let state = self.read();
        let mut contents = Contents::default();
        let key = |held: &Held| (held.request.model.clone(), held.request.source.clone());
        for held in state.requests.values() {
            let sums = contents.groups.entry(key(held)).or_default();
            sums.requests += 1;
            sums.bytes += held.request.body.len() as u64 + REQUEST_BYTES;
            held.purchases.iter().for_each(|part| sums.add(part.bytes(), part.bought));
            let count = |part: &Part| part.response.samples.len() as u64;
            let shown: u64 = held.current().map(count).sum();
            sums.samples += shown;
            sums.superseded += held.purchases.iter().map(count).sum::<u64>() - shown;
        }
        // Sums saturate only at the end, so they are made apart.
        let mut amounts: BTreeMap<(Option<(String, String)>, bool), i128> = BTreeMap::new();
        for entry in &state.ledger {
            let (amount, settled) = match entry.state {
                EntryState::Settled(bill) => (bill, true),
                EntryState::Open | EntryState::Closed(Closing::Lost) => (entry.worst, false),
                EntryState::Closed(Closing::Released) => continue,
            };
            contents.entries += 1;
            let key = state.requests.get(&entry.fingerprint).map(key);
            *amounts.entry((key, settled)).or_default() += i128::from(amount.pico());
        }
        let total = |of: bool| sum_of(amounts.iter().filter(|((_, settled), _)| *settled == of).map(|(_, sum)| *sum));
        (contents.settled, contents.lost) = (total(true), total(false));
        for ((key, settled), sum) in amounts {
            if let Some(sums) = key.and_then(|key| contents.groups.get_mut(&key)) {
                *(if settled { &mut sums.settled } else { &mut sums.lost }) = sum_of([sum]);
            }
        }
        Ok(contents)
    }

    fn remove(&self, items: Vec<Item>) -> Durable<u64> {
        let mut state = self.write();
        let mut removed = 0;
        for item in items {
            let known = state.requests.get(&item.fingerprint);
            if known.is_some_and(|held| held.item(&item.fingerprint).newest <= item.newest) {
                state.requests.remove(&item.fingerprint);
                removed += 1;
            }
        }
        at_once(Ok(removed))
    }

    fn clear(&self) -> Durable<u64> {
        let mut state = self.write();
        at_once(Ok(std::mem::take(&mut state.requests).len() as u64))
    }

    fn compact(&self) -> Result<()> {
        Ok(())
    }
}
