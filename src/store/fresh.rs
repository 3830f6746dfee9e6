//! A store as one run sees it that does not use what others bought: `--no-cache` and `--refresh`.

use std::sync::Arc;

use super::batches::{
    AskRecord, BatchId, BatchLine, BatchRecord, JobRecord, NewBatch, Outcome, Progress, Stage, UnderWay,
};
use super::{
    BatchBook, Bought, Cache, Closing, Contents, Durable, EntryId, Fingerprint, Item, Kept, SharedStore, Spent, Store,
    Stored, at_once,
};
use crate::diagnostic::Result;
use crate::money::Usd;
use crate::provider::Failure;

/// A store that shows a scope only the samples which that scope bought, over all its processes, so that a resumed study
/// finds what it paid for. Responses, the ledger and failures go to the store behind it.
pub struct Fresh {
    behind: SharedStore,
    cache: Cache,
    scope: Arc<str>,
}

impl Fresh {
    /// The store as `scope` sees it.
    pub fn over(behind: SharedStore, cache: Cache, scope: &str) -> SharedStore {
        match cache {
            Cache::Use => behind,
            Cache::Ignore | Cache::Refresh => Arc::new(Fresh { behind, cache, scope: scope.into() }),
        }
    }
}

impl Store for Fresh {
    fn stored(&self, fingerprint: &Fingerprint) -> Result<Stored> {
        self.behind.stored_as(self.cache, &self.scope, fingerprint)
    }

    fn stored_as(&self, cache: Cache, scope: &str, fingerprint: &Fingerprint) -> Result<Stored> {
        self.behind.stored_as(cache, scope, fingerprint)
    }

    fn reserve(&self, scope: &str, fingerprint: &Fingerprint, worst: Usd) -> Durable<EntryId> {
        self.behind.reserve(scope, fingerprint, worst)
    }

    fn close(&self, entry: EntryId, closing: Closing) -> Durable<()> {
        self.behind.close(entry, closing)
    }

    fn record_as(&self, cache: Cache, bought: Bought<'_>) -> Durable<Stored> {
        // What the run itself asks for is recorded as it sees it.
        let cache = if cache.is_use() && *bought.scope == *self.scope { self.cache } else { cache };
        self.behind.record_as(cache, bought)
    }

    fn spent(&self, scope: &str) -> Result<Spent> {
        self.behind.spent(scope)
    }

    fn record_failure(&self, scope: &str, fingerprint: &Fingerprint, n: u32, failure: &Failure) -> Durable<()> {
        self.behind.record_failure(scope, fingerprint, n, failure)
    }

    fn failures(&self, scope: &str) -> Result<Vec<(Fingerprint, u32, Failure)>> {
        self.behind.failures(scope)
    }

    fn page(&self, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Kept>> {
        self.behind.page(after, most)
    }

    fn items(&self, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Item>> {
        self.behind.items(after, most)
    }

    fn contents(&self) -> Result<Contents> {
        self.behind.contents()
    }

    fn remove(&self, items: Vec<Item>) -> Durable<u64> {
        self.behind.remove(items)
    }

    fn clear(&self) -> Durable<u64> {
        self.behind.clear()
    }

    fn compact(&self) -> Result<()> {
        self.behind.compact()
    }
}

/// What lands is recorded as the run sees it; all else is the same behind.
impl BatchBook for Fresh {
    fn open_batch(&self, batch: NewBatch, after: Option<BatchId>) -> Durable<Option<BatchId>> {
        self.behind.open_batch(batch, after)
    }

    fn move_batch(&self, id: BatchId, from: Stage, to: Progress) -> Durable<bool> {
        self.behind.move_batch(id, from, to)
    }

    fn split_batch(&self, id: BatchId, at: u32, intent: String, notes: String) -> Durable<BatchId> {
        self.behind.split_batch(id, at, intent, notes)
    }

    fn batches(&self, open: bool) -> Result<Vec<BatchRecord>> {
        self.behind.batches(open)
    }

    fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        self.behind.batch(id)
    }

    fn batch_page(&self, id: BatchId, from: u32, most: usize) -> Result<Vec<BatchLine>> {
        self.behind.batch_page(id, from, most)
    }

    fn batch_lines(&self, id: BatchId, numbers: &[u32]) -> Result<Vec<BatchLine>> {
        self.behind.batch_lines(id, numbers)
    }

    fn land_lines_as(&self, cache: Cache, id: BatchId, outcomes: Vec<(u32, Outcome)>) -> Durable<u64> {
        let own = || Ok(self.behind.batch(id)?.is_some_and(|batch| *batch.scope == *self.scope));
        // A run that waits for what another ordered takes it in for that one.
        let cache = match cache {
            Cache::Use => match own() {
                Ok(true) => self.cache,
                Ok(false) => cache,
                Err(error) => return at_once(Err(error)),
            },
            other => other,
        };
        self.behind.land_lines_as(cache, id, outcomes)
    }

    fn under_way(&self, fingerprints: &[Fingerprint]) -> Result<Vec<UnderWay>> {
        self.behind.under_way(fingerprints)
    }

    fn keep_job(&self, id: &str, scope: &str, asks: Vec<AskRecord>) -> Durable<()> {
        self.behind.keep_job(id, scope, asks)
    }

    fn jobs(&self) -> Result<Vec<JobRecord>> {
        self.behind.jobs()
    }

    fn asks(&self, job: &str, from: u64, most: usize) -> Result<Vec<AskRecord>> {
        self.behind.asks(job, from, most)
    }
}
