//! What a store holds, read back: whole requests for the export, sizes and ages for pruning, sums for the statistics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{EntryId, Fingerprint, RequestRecord, Stored};
use crate::money::Usd;
use crate::provider::Response;

/// What a run does with samples that the store has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Takes them.
    #[default]
    Use,
    /// Sees only what its own scope bought; what it buys is kept behind what is there (`--no-cache`).
    Ignore,
    /// Sees only what its own scope bought; what it buys takes the place of what was there (`--refresh`): the older samples
    /// are kept, but nobody finds them any more except the runs that bought them apart.
    Refresh,
}

impl Cache {
    /// True for the default.
    pub fn is_use(&self) -> bool {
        *self == Cache::Use
    }
}

/// A response and what belongs to it, on its way into the store: see [`super::Store::record`].
#[derive(Clone, Debug)]
pub struct Bought<'a> {
    /// Who bought it: a study, or one run of `test` or `evaluate`.
    pub scope: &'a str,
    /// The request's fingerprint.
    pub fingerprint: &'a Fingerprint,
    /// The request as it is kept.
    pub request: &'a RequestRecord,
    /// What came back.
    pub response: Response,
    /// What it cost.
    pub bill: Usd,
    /// Its reservation, if there is one.
    pub entry: Option<EntryId>,
}

/// A request with its samples, as [`super::Store::page`] reads it back.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Under which it is kept.
    pub fingerprint: Fingerprint,
    /// The request.
    pub request: RequestRecord,
    /// What a run would find: without superseded samples.
    pub stored: Stored,
}

/// A request's size and age, as [`super::Store::items`] reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Under which it is kept.
    pub fingerprint: Fingerprint,
    /// The model asked.
    pub model: String,
    /// Bytes of the request and of all its samples, superseded ones too; about what they take in the file.
    pub bytes: u64,
    /// When its newest samples were bought, in seconds since 1970.
    pub newest: i64,
}

/// Sums over one model of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests kept.
    pub requests: u64,
    /// Responses kept, each of one or more samples; superseded ones too.
    pub purchases: u64,
    /// Samples that runs find.
    pub samples: u64,
    /// Samples that a refresh has put aside.
    pub superseded: u64,
    /// Bytes, as in [`Item::bytes`].
    pub bytes: u64,
    /// When the oldest and the newest of the samples were bought, in seconds since 1970.
    pub bought: Option<(i64, i64)>,
    /// Bills in the ledger for requests that are kept still.
    pub settled: Usd,
    /// Reservations in the ledger that are open or lost, for requests that are kept still.
    pub lost: Usd,
}

impl Sums {
    /// Counts one more purchase.
    pub(super) fn add(&mut self, bytes: u64, bought: i64) {
        self.purchases += 1;
        self.bytes += bytes;
        let (oldest, newest) = self.bought.unwrap_or((bought, bought));
        self.bought = Some((oldest.min(bought), newest.max(bought)));
    }
}

/// What a store holds, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// By model and source.
    pub groups: BTreeMap<(String, String), Sums>,
    /// Entries of the ledger: settled, lost and open ones.
    pub entries: u64,
    /// All bills in the ledger, also for requests that are not kept any more.
    pub settled: Usd,
    /// All open and lost reservations in the ledger.
    pub lost: Usd,
    /// Bytes on the disk; 0 for a store in memory.
    pub file_bytes: u64,
}

/// What a request and a purchase take in a file beside their texts, in bytes: about.
pub(super) const REQUEST_BYTES: u64 = 120;
pub(super) const PURCHASE_BYTES: u64 = 40;
