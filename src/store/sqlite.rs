//! The store in an SQLite file: one thread writes ([`super::writer`]), every thread reads on connections of its own.
//!
//! Write-ahead logging lets readers go on while the writer commits, and lets two processes share the file. Each commit
//! is flushed to the disk before anyone hears of it.

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, params};

use super::connection::{Trouble, compact, open_reader, open_writer};
use super::writer::Writer;
use super::{
    Bought, Cache, Closing, Contents, Durable, EntryId, Fingerprint, Item, Kept, Spent, Store, Stored, at_once,
    check_amount, check_response, codec, now, queries,
};
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::provider::Failure;

/// How many lists of idle connections there are, so that threads seldom meet at one.
const STRIPES: usize = 16;

/// A store in an SQLite file. Several processes may have the same file open at once.
///
/// Dropping it waits until all that was asked for is written.
pub struct SqliteStore {
    // Before the readers: the last connection to close tidies up, and the writer's may still have work.
    pub(super) writer: Writer,
    idle: [Mutex<Vec<Connection>>; STRIPES],
    path: Arc<Path>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in a file; makes the file, and the folders that lead to it, where there is none.
    ///
    /// # Errors
    /// A usage error where the path cannot be written, or holds something else: no SQLite database, another program's,
    /// or a store of a newer farthing. Such a file is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<SqliteStore>> {
        SqliteStore::open_with(path.as_ref(), |_| Ok(()))
    }

    /// Opens a store whose writing connection is prepared in a way of the caller's.
    pub(super) fn open_with(path: &Path, prepare: impl Fn(&Connection) -> Result<()>) -> Result<Arc<SqliteStore>> {
        // Absolute, since readers are opened later, and since SQLite takes `file:...` and `:memory:` for more than names.
        let absolute = std::path::absolute(path)
            .map_err(|error| Error::usage(format!("cannot write the store `{}`: {error}", path.display())))?;
        let path: Arc<Path> = absolute.into();
        let conn = open_writer(&path)?;
        prepare(&conn)?;
        let writer = Writer::start(conn, Arc::clone(&path))?;
        Ok(Arc::new(SqliteStore { writer, idle: Default::default(), path }))
    }

    /// Reads on a connection that no other thread uses meanwhile.
    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Trouble>) -> Result<T> {
        let stripe = &self.idle[stripe()];
        let idle = lock(stripe).pop();
        let answer = idle.map_or_else(|| open_reader(&self.path), Ok).and_then(|conn| {
            let answer = query(&conn)?;
            lock(stripe).push(conn);
            Ok(answer)
        });
        answer.map_err(|trouble| trouble.into_error(&self.path))
    }
}

/// The list of connections of this thread: threads take turns.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
    }
    MINE.get()
}

fn lock(list: &Mutex<Vec<Connection>>) -> MutexGuard<'_, Vec<Connection>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for SqliteStore {
    fn stored_as(&self, cache: Cache, scope: &str, fingerprint: &Fingerprint) -> Result<Stored> {
        self.read(|conn| queries::stored(conn, cache, scope, fingerprint))
    }

    fn stored_many(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Stored>> {
        // One transaction: the file is locked and looked at once for all.
        self.read(|conn| {
            let transaction = conn.unchecked_transaction()?;
            fingerprints.iter().map(|print| queries::stored(&transaction, Cache::Use, "", print)).collect()
        })
    }

    fn reserve(&self, scope: &str, fingerprint: &Fingerprint, worst: Usd) -> Durable<EntryId> {
        if let Err(error) = check_amount(worst) {
            return at_once(Err(error));
        }
        let (scope, fingerprint) = (scope.to_owned(), *fingerprint);
        self.writer.submit(move |conn| queries::add_entry(conn, &scope, &fingerprint, worst, None))
    }

    fn close(&self, entry: EntryId, closing: Closing) -> Durable<()> {
        self.writer.submit(move |conn| queries::close(conn, entry, closing))
    }

    fn record_as(&self, cache: Cache, bought: Bought<'_>) -> Durable<Stored> {
        let Bought { scope, fingerprint, request, response, bill, entry } = bought;
        if let Err(error) = check_amount(bill).and_then(|()| check_response(&response)) {
            return at_once(Err(error));
        }
        let (scope, fingerprint, request) = (scope.to_owned(), *fingerprint, request.clone());
        let (samples, extra) = (codec::encode(&response.samples), codec::encode_extra(&response));
        self.writer.submit(move |conn| {
            let entry = match entry {
                Some(entry) => queries::settle(conn, &scope, &fingerprint, entry, bill).map(|()| entry)?,
                None => queries::add_entry(conn, &scope, &fingerprint, bill, Some(bill))?,
            };
            let texts = (samples.as_slice(), extra.as_deref());
            queries::add_response(conn, cache, &scope, &fingerprint, &request, &response, texts, entry)
        })
    }

    fn spent(&self, scope: &str) -> Result<Spent> {
        self.read(|conn| queries::spent(conn, scope))
    }

    fn record_failure(&self, scope: &str, fingerprint: &Fingerprint, n: u32, failure: &Failure) -> Durable<()> {
        let (scope, fingerprint, failure) = (scope.to_owned(), *fingerprint, failure.clone());
        self.writer.submit(move |conn| {
            let insert = "INSERT INTO failures (scope, fingerprint, n, kind, message, created_at)
                          VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
            let values = params![scope, fingerprint.0.as_slice(), n, failure.kind.word(), failure.message, now()];
            conn.prepare_cached(insert)?.execute(values)?;
            Ok(())
        })
    }

    fn failures(&self, scope: &str) -> Result<Vec<(Fingerprint, u32, Failure)>> {
        self.read(|conn| queries::failures(conn, scope))
    }

    fn page(&self, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Kept>> {
        self.read(|conn| queries::page(conn, after, most))
    }

    fn items(&self, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Item>> {
        self.read(|conn| queries::items(conn, after, most))
    }

    fn contents(&self) -> Result<Contents> {
        let mut contents = self.read(queries::contents)?;
        let size = |ending: &str| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(ending);
            std::fs::metadata(name).map_or(0, |file| file.len())
        };
        contents.file_bytes = size("") + size("-wal");
        Ok(contents)
    }

    fn remove(&self, items: Vec<Item>) -> Durable<u64> {
        self.writer.submit(move |conn| queries::remove(conn, &items))
    }

    fn clear(&self) -> Durable<u64> {
        self.writer.submit(queries::clear)
    }

    fn compact(&self) -> Result<()> {
        compact(&self.path).map_err(|trouble| trouble.into_error(&self.path))
    }
}
