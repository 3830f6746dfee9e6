//! The durable things: responses, the ledger, studies. SQLite now; the [`Store`] trait is made for a second one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::diagnostic::Result;
use crate::money::Usd;
use crate::provider::{Failure, Response, Sample};

/// The hash of what is sent and changes what a model may answer, and of who answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Samples that one request bought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Purchase {
    /// The index of its first sample among all of the fingerprint.
    pub first: usize,
    /// What came back; at least one sample.
    pub response: Response,
}

/// Everything stored under a fingerprint: purchases in order, their samples numbered through from 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// In the order of their samples; `purchases[k].first` is the number of samples before it.
    pub purchases: Vec<Purchase>,
}

impl Stored {
    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.purchases.last().map_or(0, |purchase| purchase.first + purchase.response.samples.len())
    }

    /// True where nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The samples in order.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.purchases.iter().flat_map(|purchase| &purchase.response.samples)
    }

    /// The purchase that holds a sample.
    pub fn purchase_of(&self, sample: usize) -> Option<&Purchase> {
        self.purchases.iter().rev().find(|purchase| purchase.first <= sample)
    }
}

/// What a request is kept as beside its samples, so that the store can be exported as a cassette.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRecord {
    /// The model asked.
    pub model: String,
    /// Who answers: `http`, `mock`, `replay:HASH`, ...
    pub source: String,
    /// `{"messages" | "prompt": ..., "params": {...}}` as JSON.
    pub body: String,
}

/// The number of a ledger entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(pub i64);

/// How an open reservation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The endpoint billed this much.
    Settled(Usd),
    /// Surely nothing was billed.
    Released,
    /// It may have been billed: the reservation counts as spent for good.
    Lost,
}

/// What a scope (a study, or one run of `test` or `evaluate`) has spent: settled bills, lost reservations, and open
/// ones at their worst case, over all processes that ever worked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Bills.
    pub settled: Usd,
    /// Reservations that may have been billed (lost, or left open by a crash), at their worst case.
    pub lost: Usd,
    /// Bills and lost reservations: how many requests.
    pub requests: u64,
}

impl Spent {
    /// The sum that counts against a budget.
    pub fn total(self) -> Usd {
        self.settled + self.lost
    }
}

/// What the store resolves to when it is durable.
pub type Durable<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Where responses, the ledger and failures are kept. Every method that returns [`Durable`] resolves only when what it
/// wrote survives a crash of the process and of the machine.
pub trait Store: Send + Sync {
    /// What is stored under a fingerprint. Called from any thread, often; must not block on writers.
    fn stored(&self, fingerprint: &Fingerprint) -> Result<Stored>;

    /// Opens a reservation of `worst` in the ledger of `scope`, before a request is sent.
    fn reserve(&self, scope: &str, fingerprint: &Fingerprint, worst: Usd) -> Durable<EntryId>;

    /// Closes a reservation without a response.
    fn close(&self, entry: EntryId, closing: Closing) -> Durable<()>;

    /// Keeps a response and, in the same transaction, what it cost: `entry` is its reservation, settled with `bill`;
    /// without one a settled entry is made in the ledger of `scope`. If other samples came in meanwhile, the new ones
    /// are numbered after them: nothing paid for is dropped. Resolves to all that is stored now.
    fn record(
        &self,
        scope: &str,
        fingerprint: &Fingerprint,
        request: &RequestRecord,
        response: Response,
        bill: Usd,
        entry: Option<EntryId>,
    ) -> Durable<Stored>;

    /// What a scope has spent. Reservations that this process holds open are included in `lost`.
    fn spent(&self, scope: &str) -> Result<Spent>;

    /// Keeps the failure of an evaluation of a study that asked for `n` samples, so that a resumed study decides the same.
    fn record_failure(&self, scope: &str, fingerprint: &Fingerprint, n: u32, failure: &Failure) -> Durable<()>;

    /// The failures of a study.
    fn failures(&self, scope: &str) -> Result<Vec<(Fingerprint, u32, Failure)>>;
}

/// A store that anyone may share.
pub type SharedStore = Arc<dyn Store>;
