//! What is asked of the database, in SQL.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, Rows, params};

use super::connection::Trouble;
use super::contents::{PURCHASE_BYTES, REQUEST_BYTES, Sums};
use super::{
    Cache, Closing, Contents, EntryId, Fingerprint, Item, Kept, Purchase, RequestRecord, Spent, Stored,
    already_settled, codec, no_entry, not_open, now, sum_of,
};
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::provider::{Failure, FailureKind, Response};

/// What a run finds under a fingerprint; see [`super::Store::stored_as`].
pub(super) fn stored(
    conn: &Connection,
    cache: Cache,
    scope: &str,
    fingerprint: &Fingerprint,
) -> Result<Stored, Trouble> {
    if cache.is_use() {
        let select =
            "SELECT p.generation, p.first, p.prompt_tokens, p.cached_tokens, p.estimated, p.model, p.extra, p.samples
                      FROM requests r CROSS JOIN purchases p ON p.id BETWEEN r.id << 20 AND (r.id << 20) + 1048575
                      WHERE r.fingerprint = ?1 ORDER BY p.id";
        let mut select = conn.prepare_cached(select)?;
        return current(select.query([fingerprint.0.as_slice()])?, fingerprint);
    }
    let select = "SELECT p.prompt_tokens, p.cached_tokens, p.estimated, p.model, p.extra, p.samples
                  FROM requests r CROSS JOIN purchases p ON p.id BETWEEN r.id << 20 AND (r.id << 20) + 1048575
                  CROSS JOIN ledger l ON l.id = p.entry
                  WHERE r.fingerprint = ?1 AND l.scope = ?2 ORDER BY p.id";
    let mut select = conn.prepare_cached(select)?;
    let mut rows = select.query(params![fingerprint.0.as_slice(), scope])?;
    let mut stored = Stored::default();
    while let Some(row) = rows.next()? {
        let response = response(row, 0, fingerprint)?;
        stored.purchases.push(Purchase { first: stored.len(), response });
    }
    Ok(stored)
}

/// The samples of the highest generation, from the rows of one request.
fn current(mut rows: Rows<'_>, fingerprint: &Fingerprint) -> Result<Stored, Trouble> {
    let (mut stored, mut newest) = (Stored::default(), i64::MIN);
    while let Some(row) = rows.next()? {
        let generation: i64 = row.get(0)?;
        if generation > newest {
            newest = generation;
            stored.purchases.clear();
        }
        let response = response(row, 2, fingerprint)?;
        let first = row.get::<_, i64>(1)?;
        if generation != newest || usize::try_from(first) != Ok(stored.len()) {
            return Err(damaged("samples out of order", fingerprint).into());
        }
        stored.purchases.push(Purchase { first: stored.len(), response });
    }
    Ok(stored)
}

/// A response, from the columns `at` on.
fn response(row: &Row<'_>, at: usize, fingerprint: &Fingerprint) -> Result<Response, Trouble> {
    let unreadable = || damaged("samples that cannot be read", fingerprint);
    let samples = row.get_ref(at + 5)?.as_blob().ok().and_then(codec::decode).ok_or_else(unreadable)?;
    let mut response = Response {
        samples,
        prompt_tokens: tokens(row, at)?,
        cached_tokens: tokens(row, at + 1)?,
        estimated: row.get(at + 2)?,
        model: row.get(at + 3)?,
        ..Response::default()
    };
    match row.get_ref(at + 4)? {
        ValueRef::Null => {}
        extra => {
            extra.as_str().ok().and_then(|text| codec::decode_extra(text, &mut response)).ok_or_else(unreadable)?
        }
    }
    Ok(response)
}

/// Token counts are kept as the 64 bits they are: SQLite's integers have a sign.
fn tokens(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn damaged(what: &str, fingerprint: &Fingerprint) -> Error {
    Error::internal(format!("the store is damaged: it has {what} under {fingerprint}"))
}

/// Keeps a response whose `samples` and `extra` are encoded already, and says what its buyer finds now.
#[allow(clippy::too_many_arguments, reason = "one caller, and a struct would only repeat the names")]
pub(super) fn add_response(
    conn: &Connection,
    cache: Cache,
    scope: &str,
    fingerprint: &Fingerprint,
    request: &RequestRecord,
    response: &Response,
    (samples, extra): (&[u8], Option<&str>),
    entry: EntryId,
) -> Result<Stored, Trouble> {
    // Most requests are new: so it is one statement, and no look-up before it.
    let (id, mut own, place) = match add_request(conn, fingerprint, request)? {
        Some(id) => (id, Stored::default(), Place::default()),
        None => {
            let find = "SELECT id FROM requests WHERE fingerprint = ?1";
            let id = conn.prepare_cached(find)?.query_row([fingerprint.0.as_slice()], |row| row.get(0))?;
            (id, stored(conn, cache, scope, fingerprint)?, next_place(conn, id)?)
        }
    };
    let (mut generation, mut first) = (place.generation, place.first);
    if cache == Cache::Refresh && own.is_empty() && place.number > 0 {
        (generation, first) = (generation + 1, 0);
    }
    if place.number >= 1 << 20 {
        return Err(Error::internal(format!("the store takes no more responses to the request {fingerprint}")).into());
    }
    let insert =
        "INSERT INTO purchases (id, generation, first, entry, created_at, prompt_tokens, cached_tokens, estimated,
                                         model, extra, samples)
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    conn.prepare_cached(insert)?.execute(params![
        (id << 20) + place.number,
        generation,
        first,
        entry.0,
        now(),
        response.prompt_tokens.cast_signed(),
        response.cached_tokens.cast_signed(),
        response.estimated,
        response.model,
        extra,
        samples,
    ])?;
    own.purchases.push(Purchase { first: own.len(), response: response.clone() });
    Ok(own)
}

/// Where the next purchase of a request goes.
#[derive(Default)]
struct Place {
    number: i64,
    generation: i64,
    first: i64,
}

fn next_place(conn: &Connection, id: i64) -> Result<Place, Trouble> {
    let last = "SELECT id, generation, first, samples FROM purchases
                WHERE id BETWEEN ?1 << 20 AND (?1 << 20) + 1048575 ORDER BY id DESC LIMIT 1";
    let place = |row: &Row<'_>| {
        let count = row.get_ref(3)?.as_blob().ok().and_then(codec::count).unwrap_or(0);
        let number = row.get::<_, i64>(0)? - (id << 20) + 1;
        Ok(Place { number, generation: row.get(1)?, first: row.get::<_, i64>(2)? + count as i64 })
    };
    Ok(conn.prepare_cached(last)?.query_row([id], place).optional()?.unwrap_or_default())
}

/// The new request's number; `None` where it is there already.
fn add_request(conn: &Connection, fingerprint: &Fingerprint, request: &RequestRecord) -> Result<Option<i64>, Trouble> {
    let insert = "INSERT INTO requests (fingerprint, model, source, body, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
                  ON CONFLICT (fingerprint) DO NOTHING";
    let values = params![fingerprint.0.as_slice(), request.model, request.source, request.body, now()];
    let added = conn.prepare_cached(insert)?.execute(values)?;
    Ok((added == 1).then(|| conn.last_insert_rowid()))
}

/// A new entry: open, or settled where there is a bill already.
pub(super) fn add_entry(
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

/// Closes an open entry.
pub(super) fn close(conn: &Connection, entry: EntryId, closing: Closing) -> Result<(), Trouble> {
    let state = match closing {
        Closing::Released => "released",
        Closing::Lost => "lost",
    };
    let update = "UPDATE ledger SET state = ?2 WHERE id = ?1 AND state = 'open'";
    let closed = conn.prepare_cached(update)?.execute(params![entry.0, state])?;
    if closed == 1 { Ok(()) } else { Err(not_open(entry).into()) }
}

/// Books the bill of a response that came. It may come late, when its reservation was given up already.
pub(super) fn settle(
    conn: &Connection,
    scope: &str,
    fingerprint: &Fingerprint,
    entry: EntryId,
    bill: Usd,
) -> Result<(), Trouble> {
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

pub(super) fn spent(conn: &Connection, scope: &str) -> Result<Spent, Trouble> {
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

pub(super) fn failures(conn: &Connection, scope: &str) -> Result<Vec<(Fingerprint, u32, Failure)>, Trouble> {
    let select = "SELECT fingerprint, n, kind, message FROM failures WHERE scope = ?1 ORDER BY fingerprint, n";
    let mut select = conn.prepare_cached(select)?;
    let mut rows = select.query([scope])?;
    let mut failures = Vec::new();
    while let Some(row) = rows.next()? {
        let fingerprint = Fingerprint(row.get(0)?);
        let word: String = row.get(2)?;
        failures.push((fingerprint, row.get(1)?, failure(&word, row.get(3)?)?));
    }
    Ok(failures)
}

/// A failure as it is kept: the word for its kind, and its message.
pub(super) fn failure(word: &str, message: String) -> Result<Failure> {
    let kind: FailureKind = serde_json::from_value(word.into())
        .map_err(|_| Error::internal(format!("the store has a failure of an unknown kind, `{word}`")))?;
    Ok(Failure { kind, message })
}

/// See [`super::Store::page`].
pub(super) fn page(conn: &Connection, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Kept>, Trouble> {
    let select =
        "SELECT fingerprint, model, source, body FROM requests WHERE fingerprint > ?1 ORDER BY fingerprint LIMIT ?2";
    // One transaction: a request and its samples are of one moment.
    let transaction = conn.unchecked_transaction()?;
    let mut select = transaction.prepare_cached(select)?;
    // Nothing is below the empty blob, and every fingerprint above it.
    let mut rows = select.query(params![after.map_or(&[][..], |print| &print.0), most as i64])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let fingerprint = Fingerprint(row.get(0)?);
        let request = RequestRecord { model: row.get(1)?, source: row.get(2)?, body: row.get(3)? };
        let stored = stored(&transaction, Cache::Use, "", &fingerprint)?;
        page.push(Kept { fingerprint, request, stored });
    }
    Ok(page)
}

/// See [`super::Store::items`].
pub(super) fn items(conn: &Connection, after: Option<&Fingerprint>, most: usize) -> Result<Vec<Item>, Trouble> {
    let select = "SELECT fingerprint, r.model,
                         octet_length(body) + coalesce(sum(octet_length(samples) + coalesce(octet_length(extra), 0)), 0),
                         count(p.id), coalesce(max(p.created_at), r.created_at)
                  FROM (SELECT * FROM requests WHERE fingerprint > ?1 ORDER BY fingerprint LIMIT ?2) r
                  LEFT JOIN purchases p ON p.id BETWEEN r.id << 20 AND (r.id << 20) + 1048575
                  GROUP BY fingerprint ORDER BY fingerprint";
    let mut select = conn.prepare_cached(select)?;
    let mut rows = select.query(params![after.map_or(&[][..], |print| &print.0), most as i64])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let bytes = row.get::<_, i64>(2)?.unsigned_abs() + row.get::<_, i64>(3)?.unsigned_abs() * PURCHASE_BYTES;
        items.push(Item {
            fingerprint: Fingerprint(row.get(0)?),
            model: row.get(1)?,
            bytes: bytes + REQUEST_BYTES,
            newest: row.get(4)?,
        });
    }
    Ok(items)
}

/// See [`super::Store::contents`].
pub(super) fn contents(conn: &Connection) -> Result<Contents, Trouble> {
    let mut contents = Contents::default();
    let select = "SELECT r.id, r.model, r.source, octet_length(r.body), p.generation, p.created_at,
                         octet_length(p.samples) + coalesce(octet_length(p.extra), 0), substr(p.samples, 1, 10)
                  FROM requests r LEFT JOIN purchases p ON p.id BETWEEN r.id << 20 AND (r.id << 20) + 1048575
                  ORDER BY r.id, p.id";
    let mut select = conn.prepare(select)?;
    let mut rows = select.query([])?;
    let (mut id, mut generation, mut shown) = (None, 0, 0);
    while let Some(row) = rows.next()? {
        let key = (row.get(1)?, row.get(2)?);
        let sums: &mut Sums = contents.groups.entry(key).or_default();
        let new = id.replace(row.get::<_, i64>(0)?) != id;
        if new {
            sums.requests += 1;
            sums.bytes += row.get::<_, i64>(3)?.unsigned_abs() + REQUEST_BYTES;
            (generation, shown) = (i64::MIN, 0);
        }
        let Some(of) = row.get::<_, Option<i64>>(4)? else { continue };
        let count = row.get_ref(7)?.as_blob().ok().and_then(codec::count).unwrap_or(0);
        if of > generation {
            sums.samples -= shown;
            sums.superseded += shown;
            (generation, shown) = (of, 0);
        }
        sums.samples += count;
        shown += count;
        sums.add(row.get::<_, i64>(6)?.unsigned_abs() + PURCHASE_BYTES, row.get(5)?);
    }
    let select = "SELECT r.model, r.source, l.state = 'settled', count(*), sum(amount >> 32), sum(amount & 4294967295)
                  FROM (SELECT fingerprint, state, CASE state WHEN 'settled' THEN settled ELSE worst END AS amount
                        FROM ledger WHERE state <> 'released') l
                  LEFT JOIN requests r ON r.fingerprint = l.fingerprint
                  GROUP BY 1, 2, 3";
    let mut select = conn.prepare(select)?;
    let mut rows = select.query([])?;
    let (mut settled, mut lost) = (0_i128, 0_i128);
    while let Some(row) = rows.next()? {
        let (high, low): (i64, i64) = (row.get(4)?, row.get(5)?);
        let sum = (i128::from(high) << 32) + i128::from(low);
        let is_settled = row.get(2)?;
        *(if is_settled { &mut settled } else { &mut lost }) += sum;
        contents.entries += row.get::<_, i64>(3)?.unsigned_abs();
        // Not of requests that were removed, nor of those whose first answer is not there yet.
        let key = row.get::<_, Option<String>>(0)?.zip(row.get::<_, Option<String>>(1)?);
        if let Some(sums) = key.and_then(|key| contents.groups.get_mut(&key)) {
            *(if is_settled { &mut sums.settled } else { &mut sums.lost }) = sum_of([sum]);
        }
    }
    (contents.settled, contents.lost) = (sum_of([settled]), sum_of([lost]));
    Ok(contents)
}

/// See [`super::Store::remove`].
pub(super) fn remove(conn: &Connection, items: &[Item]) -> Result<u64, Trouble> {
    let find = "SELECT id FROM requests WHERE fingerprint = ?1 AND NOT EXISTS (
                    SELECT 1 FROM purchases p WHERE p.id BETWEEN requests.id << 20 AND (requests.id << 20) + 1048575
                    AND p.created_at > ?2)";
    let mut removed = 0;
    for item in items {
        let values = params![item.fingerprint.0.as_slice(), item.newest];
        let id: Option<i64> = conn.prepare_cached(find)?.query_row(values, |row| row.get(0)).optional()?;
        let Some(id) = id else { continue };
        conn.prepare_cached("DELETE FROM purchases WHERE id BETWEEN ?1 << 20 AND (?1 << 20) + 1048575")?
            .execute([id])?;
        conn.prepare_cached("DELETE FROM requests WHERE id = ?1")?.execute([id])?;
        removed += 1;
    }
    Ok(removed)
}

/// See [`super::Store::clear`].
pub(super) fn clear(conn: &Connection) -> Result<u64, Trouble> {
    conn.execute("DELETE FROM purchases", [])?;
    Ok(conn.execute("DELETE FROM requests", [])? as u64)
}
