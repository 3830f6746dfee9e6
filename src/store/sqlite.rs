//! The store in an SQLite file: one thread writes ([`super::writer`]), every thread reads on connections of its own.
//!
//! Write-ahead logging lets readers go on while the writer commits, and lets two processes share the file. Each commit
//! is flushed to the disk before anyone hears of it.

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::connection::{Trouble, open_reader, open_writer};
use super::writer::Writer;
use super::{
    Closing, Durable, EntryId, Fingerprint, Purchase, RequestRecord, Spent, Store, Stored, already_settled, at_once,
    check_amount, check_response, codec, no_entry, not_open, sum_of,
};
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::provider::{Failure, FailureKind, Response};

/// How many lists of idle connections there are, so that threads seldom meet at one.
const STRIPES: usize = 16;

/// A store in an SQLite file. Several processes may have the same file open at once.
///
/// Dropping it waits until all that was asked for is written.
pub struct SqliteStore {
    // Before the readers: the last connection to close tidies up, and the writer's may still have work.
    writer: Writer,
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
    fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Trouble>) -> Result<T> {
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
    fn stored(&self, fingerprint: &Fingerprint) -> Result<Stored> {
        self.read(|conn| stored(conn, fingerprint))
    }

    fn reserve(&self, scope: &str, fingerprint: &Fingerprint, worst: Usd) -> Durable<EntryId> {
        if let Err(error) = check_amount(worst) {
            return at_once(Err(error));
        }
        let (scope, fingerprint) = (scope.to_owned(), *fingerprint);
        self.writer.submit(move |conn| add_entry(conn, &scope, &fingerprint, worst, None))
    }

    fn close(&self, entry: EntryId, closing: Closing) -> Durable<()> {
        let (state, settled) = match closing {
            Closing::Settled(bill) => ("settled", Some(bill)),
            Closing::Released => ("released", None),
            Closing::Lost => ("lost", None),
        };
        if let Err(error) = settled.map_or(Ok(()), check_amount) {
            return at_once(Err(error));
        }
        self.writer.submit(move |conn| {
            let update = "UPDATE ledger SET state = ?2, settled = ?3 WHERE id = ?1 AND state = 'open'";
            let closed = conn.prepare_cached(update)?.execute(params![entry.0, state, settled.map(Usd::pico)])?;
            if closed == 1 { Ok(()) } else { Err(not_open(entry).into()) }
        })
    }

    fn record(
        &self,
        scope: &str,
        fingerprint: &Fingerprint,
        request: &RequestRecord,
        response: Response,
        bill: Usd,
        entry: Option<EntryId>,
    ) -> Durable<Stored> {
        if let Err(error) = check_amount(bill).and_then(|()| check_response(&response)) {
            return at_once(Err(error));
        }
        let (scope, fingerprint, request) = (scope.to_owned(), *fingerprint, request.clone());
        let samples = codec::encode(&response.samples);
        self.writer.submit(move |conn| {
            match entry {
                Some(entry) => settle(conn, &scope, &fingerprint, entry, bill)?,
                None => add_entry(conn, &scope, &fingerprint, bill, Some(bill)).map(|_| ())?,
            }
            add_request(conn, &fingerprint, &request)?;
            let mut all = stored(conn, &fingerprint)?;
            let purchase = Purchase { first: all.len(), response: response.clone() };
            add_purchase(conn, &fingerprint, &purchase, &samples)?;
            all.purchases.push(purchase);
            Ok(all)
        })
    }

    fn spent(&self, scope: &str) -> Result<Spent> {
        self.read(|conn| spent(conn, scope))
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
        self.read(|conn| failures(conn, scope))
    }
}

/// Seconds since 1970, for people who look into the file: nothing is decided by it.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn stored(conn: &Connection, fingerprint: &Fingerprint) -> Result<Stored, Trouble> {
    let select = "SELECT first, samples, prompt_tokens, cached_tokens, model, estimated
                  FROM purchases WHERE fingerprint = ?1 ORDER BY first";
    let mut select = conn.prepare_cached(select)?;
    let mut rows = select.query([fingerprint.0.as_slice()])?;
    let mut stored = Stored::default();
    while let Some(row) = rows.next()? {
        let samples = row.get_ref(1)?.as_blob().ok().and_then(codec::decode);
        let samples = samples.ok_or_else(|| damaged("samples that cannot be read", fingerprint))?;
        let first = row.get::<_, i64>(0)?;
        if usize::try_from(first) != Ok(stored.len()) {
            return Err(damaged("samples out of order", fingerprint).into());
        }
        let response = Response {
            samples,
            prompt_tokens: tokens(row, 2)?,
            cached_tokens: tokens(row, 3)?,
            model: row.get(4)?,
            estimated: row.get(5)?,
            ..Response::default()
        };
        stored.purchases.push(Purchase { first: stored.len(), response });
    }
    Ok(stored)
}

/// Token counts are kept as the 64 bits they are: SQLite's integers have a sign.
fn tokens(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn damaged(what: &str, fingerprint: &Fingerprint) -> Error {
    Error::internal(format!("the store is damaged: it has {what} under {fingerprint}"))
}

fn add_request(conn: &Connection, fingerprint: &Fingerprint, request: &RequestRecord) -> Result<(), Trouble> {
    let insert = "INSERT INTO requests (fingerprint, model, source, body, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
                  ON CONFLICT DO NOTHING";
    let values = params![fingerprint.0.as_slice(), request.model, request.source, request.body, now()];
    conn.prepare_cached(insert)?.execute(values)?;
    Ok(())
}

fn add_purchase(
    conn: &Connection,
    fingerprint: &Fingerprint,
    purchase: &Purchase,
    samples: &[u8],
) -> Result<(), Trouble> {
    let insert = "INSERT INTO purchases
                      (fingerprint, first, samples, prompt_tokens, cached_tokens, model, estimated, created_at)
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let Purchase { first, response } = purchase;
    conn.prepare_cached(insert)?.execute(params![
        fingerprint.0.as_slice(),
        *first as i64,
        samples,
        response.prompt_tokens.cast_signed(),
        response.cached_tokens.cast_signed(),
        response.model,
        response.estimated,
        now()
    ])?;
    Ok(())
}

/// A new entry: open, or settled where there is a bill already.
fn add_entry(
    conn: &Connection,
    scope: &str,
    fingerprint: &Fingerprint,
    worst: Usd,
    settled: Option<Usd>,
) -> Result<EntryId, Trouble> {
    let insert =
        "INSERT INTO ledger (scope, fingerprint, worst, settled, state, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let state = if settled.is_some() { "settled" } else { "open" };
    let values = params![scope, fingerprint.0.as_slice(), worst.pico(), settled.map(Usd::pico), state, now()];
    conn.prepare_cached(insert)?.execute(values)?;
    Ok(EntryId(conn.last_insert_rowid()))
}

/// Books the bill of a response that came. It may come late, when its reservation was given up already.
fn settle(conn: &Connection, scope: &str, fingerprint: &Fingerprint, entry: EntryId, bill: Usd) -> Result<(), Trouble> {
    let update = "UPDATE ledger SET state = 'settled', settled = ?4
                  WHERE id = ?1 AND scope = ?2 AND fingerprint = ?3 AND state <> 'settled'";
    let values = params![entry.0, scope, fingerprint.0.as_slice(), bill.pico()];
    if conn.prepare_cached(update)?.execute(values)? == 1 {
        return Ok(());
    }
    let select = "SELECT 1 FROM ledger WHERE id = ?1 AND scope = ?2 AND fingerprint = ?3";
    let values = params![entry.0, scope, fingerprint.0.as_slice()];
    let known = conn.prepare_cached(select)?.query_row(values, |_| Ok(())).optional()?;
    Err(if known.is_some() { already_settled(entry) } else { no_entry(entry) }.into())
}

fn spent(conn: &Connection, scope: &str) -> Result<Spent, Trouble> {
    // SQLite's sums fail where they pass 64 bits: halves cannot.
    let select = "SELECT state = 'settled', count(*), sum(amount >> 32), sum(amount & 4294967295)
                  FROM (SELECT state, CASE state WHEN 'settled' THEN settled ELSE worst END AS amount
                        FROM ledger WHERE scope = ?1 AND state <> 'released')
                  GROUP BY 1";
    let mut select = conn.prepare_cached(select)?;
    let mut rows = select.query([scope])?;
    let mut spent = Spent::default();
    while let Some(row) = rows.next()? {
        let (high, low): (i64, i64) = (row.get(2)?, row.get(3)?);
        let sum = sum_of([(i128::from(high) << 32) + i128::from(low)]);
        if row.get(0)? {
            spent.settled = sum;
        } else {
            spent.lost = sum;
        }
        spent.requests += row.get::<_, i64>(1)?.unsigned_abs();
    }
    Ok(spent)
}

fn failures(conn: &Connection, scope: &str) -> Result<Vec<(Fingerprint, u32, Failure)>, Trouble> {
    let select = "SELECT fingerprint, n, kind, message FROM failures WHERE scope = ?1 ORDER BY fingerprint, n";
    let mut select = conn.prepare_cached(select)?;
    let mut rows = select.query([scope])?;
    let mut failures = Vec::new();
    while let Some(row) = rows.next()? {
        let fingerprint = Fingerprint(row.get(0)?);
        let word: String = row.get(2)?;
        let kind: FailureKind = serde_json::from_value(word.as_str().into())
            .map_err(|_| Error::internal(format!("the store has a failure of an unknown kind, `{word}`")))?;
        failures.push((fingerprint, row.get(1)?, Failure { kind, message: row.get(3)? }));
    }
    Ok(failures)
}
