//! A store as one run sees it that does not use what others bought: `--no-cache` and `--refresh`.

use std::sync::Arc;

use super::{
    Bought, Cache, Closing, Contents, Durable, EntryId, Fingerprint, Item, Kept, SharedStore, Spent, Store, Stored,
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
