//! The durable things: responses, the ledger, studies. SQLite now; the [`Store`] trait is made for a second one.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::provider::{Failure, Response, Sample};

pub mod batches;
mod codec;
pub mod conformance;
mod connection;
mod contents;
mod fresh;
mod memory;
mod migrations;
mod place;
mod queries;
mod sqlite;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod sqlite_tests;

pub use batches::BatchBook;
pub use contents::{Bought, Cache, Contents, Item, Kept, Sums};
pub use fresh::Fresh;
pub use memory::MemoryStore;
pub use place::Place;
pub use sqlite::SqliteStore;

/// The hash of what is sent and changes what a model may answer, and of who answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
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

pub use crate::files::fresh_name;

/// The number of a ledger entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(pub i64);

/// How an open reservation ended without a response; with one, [`Store::record`] settles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
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
    /// Bills and lost (or open) reservations: how many requests.
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
///
/// The call itself asks for the write, in the order of calls; the future only waits for it, and dropping it undoes
/// nothing. [`conformance::conformance`] holds a store to all that is said here.
pub trait Store: BatchBook {
    /// What is stored under a fingerprint, at least all that a resolved [`Store::record`] kept. Called from any thread,
    /// often; must not block on writers.
    fn stored(&self, fingerprint: &Fingerprint) -> Result<Stored> {
        self.stored_as(Cache::Use, "", fingerprint)
    }

    /// What a run of `scope` finds under a fingerprint that treats what is stored so. Unless that is [`Cache::Use`], only
    /// what the scope itself bought, numbered through from 0.
    fn stored_as(&self, cache: Cache, scope: &str, fingerprint: &Fingerprint) -> Result<Stored>;

    /// As [`Store::stored`] for each of many.
    fn stored_many(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Stored>> {
        fingerprints.iter().map(|fingerprint| self.stored(fingerprint)).collect()
    }

    /// Opens a reservation of `worst` in the ledger of `scope`, before a request is sent.
    fn reserve(&self, scope: &str, fingerprint: &Fingerprint, worst: Usd) -> Durable<EntryId>;

    /// Closes a reservation without a response. An error, and no change, where it is not open (any more).
    fn close(&self, entry: EntryId, closing: Closing) -> Durable<()>;

    /// Keeps a response and, in the same transaction, what it cost: `entry` is its reservation, settled with `bill`;
    /// without one a settled entry is made in the ledger of `scope`. If other samples came in meanwhile, the new ones
    /// are numbered after them: nothing paid for is dropped. Resolves to all that is stored now.
    ///
    /// A response may come late: `entry` may have been closed as lost or released. An error, and no change, where it was
    /// settled already, is no entry of `scope` and `fingerprint`, or where the response has no samples.
    fn record(
        &self,
        scope: &str,
        fingerprint: &Fingerprint,
        request: &RequestRecord,
        response: Response,
        bill: Usd,
        entry: Option<EntryId>,
    ) -> Durable<Stored> {
        self.record_as(Cache::Use, Bought { scope, fingerprint, request, response, bill, entry })
    }

    /// As [`Store::record`], for a run that treats what is stored so: with [`Cache::Refresh`] the first response that the
    /// scope bought under the fingerprint puts all older samples aside. Resolves to what [`Store::stored_as`] gives then.
    fn record_as(&self, cache: Cache, bought: Bought<'_>) -> Durable<Stored>;

    /// What a scope has spent. Reservations that this process holds open are included in `lost`.
    fn spent(&self, scope: &str) -> Result<Spent>;

    /// Keeps the failure of an evaluation of a study that asked for `n` samples, so that a resumed study decides the same.
    /// The first of the same scope, fingerprint and `n` stays.
    fn record_failure(&self, scope: &str, fingerprint: &Fingerprint, n: u32, failure: &Failure) -> Durable<()>;

    /// The failures of a study, in the order of fingerprint and `n`.
    fn failures(&self, scope: &str) -> Result<Vec<(Fingerprint, u32, Failure)>>;

    /// The next requests behind a fingerprint, in the order of fingerprints, `most` at most; none at the end. So all are
    /// read without ever holding more than a few.
    fn page(&self, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Kept>>;

    /// As [`Store::page`], sizes and ages only.
    fn items(&self, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Item>>;

    /// Counts and sums over everything.
    fn contents(&self) -> Result<Contents>;

    /// Removes requests with all their samples, except those to which something was added since they were looked up; says
    /// how many it removed. The ledger and failures stay.
    fn remove(&self, items: Vec<Item>) -> Durable<u64>;

    /// Removes every request with its samples; says how many there were. The ledger and failures stay.
    fn clear(&self) -> Durable<u64>;

    /// Gives the room of what was removed back to the disk. Others may go on meanwhile, and wait for it to write.
    fn compact(&self) -> Result<()>;
}

/// A store that anyone may share.
pub type SharedStore = Arc<dyn Store>;

/// Opens the store at a location, as `--store` gives it: a file's path ([`SqliteStore`]), or `memory:` ([`MemoryStore`]).
///
/// # Errors
/// A usage error for any other URL, and where [`SqliteStore::open`] gives one.
pub fn open(location: &str) -> Result<SharedStore> {
    if Place::of(location).is_memory() {
        return Ok(MemoryStore::new());
    }
    Ok(SqliteStore::open(path_of(location)?)?)
}

/// As [`open`], as a run of `scope` sees it that treats what is stored so.
///
/// # Errors
/// As [`open`].
pub fn open_as(location: &str, cache: Cache, scope: &str) -> Result<SharedStore> {
    Ok(Fresh::over(open(location)?, cache, scope))
}

/// Opens a store that is there already.
///
/// # Errors
/// A usage error that says where it looked where there is none, and as [`open`].
pub fn open_existing(location: &str) -> Result<SharedStore> {
    if Place::of(location).is_memory() {
        return Err(Error::usage("a store in memory keeps nothing once its program has ended").help("name a file"));
    }
    let path = path_of(location)?;
    if !path.exists() {
        let shown = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        return Err(Error::usage(format!("there is no store at {}", shown.display()))
            .help("name the one that is meant with --store, or go to the folder that the runs were started in"));
    }
    // Opening it would make a store of it.
    if std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0) {
        return Err(Error::usage(format!("{} is no store: it is empty", path.display()))
            .help("name the one that is meant with --store"));
    }
    Ok(SqliteStore::open(path)?)
}

/// The file that a location means.
fn path_of(location: &str) -> Result<&Path> {
    let supported = "a store is a file's path, or `memory:` to keep nothing";
    if location.trim().is_empty() || location == ":memory:" {
        return Err(Error::usage(format!("`{location}` is no store")).help(supported));
    }
    match Place::of(location) {
        Place::Url(scheme) => Err(Error::usage(format!("stores at `{scheme}://` are not supported")).help(supported)),
        Place::File(_) | Place::Memory => Ok(Path::new(location)),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A future that has its answer.
fn at_once<T: Send + 'static>(answer: Result<T>) -> Durable<T> {
    Box::pin(std::future::ready(answer))
}

/// Refuses an amount below zero, which would make room in a budget.
fn check_amount(amount: Usd) -> Result<()> {
    if amount < Usd::ZERO {
        return Err(Error::internal(format!("the ledger takes no negative amount, not ${amount}")));
    }
    Ok(())
}

/// Refuses a response without samples: what it cost belongs into [`Store::close`].
fn check_response(response: &Response) -> Result<()> {
    if response.samples.is_empty() {
        return Err(Error::internal("a response without samples cannot be stored"));
    }
    Ok(())
}

/// The sum of amounts in picodollars, saturating only at the end.
fn sum_of(amounts: impl IntoIterator<Item = i128>) -> Usd {
    let sum: i128 = amounts.into_iter().sum();
    Usd::from_pico(i64::try_from(sum).unwrap_or(i64::MAX))
}

fn not_open(entry: EntryId) -> Error {
    Error::internal(format!("the ledger has no open entry {}", entry.0))
}

fn no_entry(entry: EntryId) -> Error {
    Error::internal(format!("the ledger has no entry {} of this scope and request", entry.0))
}

fn already_settled(entry: EntryId) -> Error {
    Error::internal(format!("entry {} of the ledger is settled already", entry.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Fault;

    #[test]
    fn a_location_is_a_path_or_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a:b/store.db");
        assert!(open("memory:").is_ok());
        assert!(open(path.to_str().unwrap()).is_ok());
        assert!(path.is_file());
    }

    #[test]
    fn other_locations_are_usage_errors_that_say_what_there_is() {
        for location in ["postgres://me:secret@host/db", "sqlite:///x", "", "  ", ":memory:"] {
            let error = open(location).err().unwrap();
            assert_eq!(error.fault(), Fault::Usage, "{location}");
            assert!(error.advice().unwrap().contains("path, or `memory:`"), "{location}");
            assert!(!error.message().contains("secret"));
        }
    }

    #[test]
    fn a_sum_saturates_only_at_the_end() {
        let max = i128::from(i64::MAX);
        assert_eq!(sum_of([max, 5]), Usd::MAX);
        assert_eq!(sum_of([max - 5, 5]), Usd::MAX);
        assert_eq!(sum_of([]), Usd::ZERO);
    }
}
