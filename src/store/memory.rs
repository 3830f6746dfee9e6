//! A store that lasts as long as the process: for tests, for embedding, and for `--store memory:`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{
    Closing, Durable, EntryId, Fingerprint, Purchase, RequestRecord, Spent, Store, Stored, already_settled, at_once,
    check_amount, check_response, no_entry, not_open, sum_of,
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
struct State {
    stored: HashMap<Fingerprint, Stored>,
    /// Entry `EntryId(k)` is at `k`.
    ledger: Vec<Entry>,
    failures: HashMap<String, BTreeMap<(Fingerprint, u32), Failure>>,
}

#[derive(Debug)]
struct Entry {
    scope: String,
    fingerprint: Fingerprint,
    worst: Usd,
    /// How it ended; open where it did not.
    closing: Option<Closing>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Arc<MemoryStore> {
        Arc::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn entry(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.ledger.get_mut(usize::try_from(id.0).ok()?)
    }

    fn reserve(&mut self, scope: &str, fingerprint: &Fingerprint, worst: Usd, closing: Option<Closing>) -> EntryId {
        self.ledger.push(Entry { scope: scope.to_owned(), fingerprint: *fingerprint, worst, closing });
        EntryId(self.ledger.len() as i64 - 1)
    }

    fn close(&mut self, id: EntryId, closing: Closing) -> Result<()> {
        if let Closing::Settled(bill) = closing {
            check_amount(bill)?;
        }
        match self.entry(id) {
            Some(entry) if entry.closing.is_none() => {
                entry.closing = Some(closing);
                Ok(())
            }
            _ => Err(not_open(id)),
        }
    }

    fn settle(&mut self, scope: &str, fingerprint: &Fingerprint, id: EntryId, bill: Usd) -> Result<()> {
        match self.entry(id) {
            Some(entry) if entry.scope == scope && entry.fingerprint == *fingerprint => match entry.closing {
                Some(Closing::Settled(_)) => Err(already_settled(id)),
                _ => {
                    entry.closing = Some(Closing::Settled(bill));
                    Ok(())
                }
            },
            _ => Err(no_entry(id)),
        }
    }

    fn record(
        &mut self,
        scope: &str,
        fingerprint: &Fingerprint,
        response: Response,
        bill: Usd,
        entry: Option<EntryId>,
    ) -> Result<Stored> {
        check_amount(bill)?;
        check_response(&response)?;
        match entry {
            Some(entry) => self.settle(scope, fingerprint, entry, bill)?,
            None => {
                self.reserve(scope, fingerprint, bill, Some(Closing::Settled(bill)));
            }
        }
        let stored = self.stored.entry(*fingerprint).or_default();
        stored.purchases.push(Purchase { first: stored.len(), response });
        Ok(stored.clone())
    }
}

impl Store for MemoryStore {
    fn stored(&self, fingerprint: &Fingerprint) -> Result<Stored> {
        Ok(self.read().stored.get(fingerprint).cloned().unwrap_or_default())
    }

    fn reserve(&self, scope: &str, fingerprint: &Fingerprint, worst: Usd) -> Durable<EntryId> {
        at_once(check_amount(worst).map(|()| self.write().reserve(scope, fingerprint, worst, None)))
    }

    fn close(&self, entry: EntryId, closing: Closing) -> Durable<()> {
        at_once(self.write().close(entry, closing))
    }

    fn record(
        &self,
        scope: &str,
        fingerprint: &Fingerprint,
        _request: &RequestRecord,
        response: Response,
        bill: Usd,
        entry: Option<EntryId>,
    ) -> Durable<Stored> {
        at_once(self.write().record(scope, fingerprint, response, bill, entry))
    }

    fn spent(&self, scope: &str) -> Result<Spent> {
        let state = self.read();
        let (mut settled, mut lost) = (Vec::new(), Vec::new());
        for entry in state.ledger.iter().filter(|entry| entry.scope == scope) {
            match entry.closing {
                Some(Closing::Settled(bill)) => settled.push(bill),
                Some(Closing::Lost) | None => lost.push(entry.worst),
                Some(Closing::Released) => {}
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
}
