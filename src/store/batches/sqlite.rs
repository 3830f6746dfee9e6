//! Batches in SQLite.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    AskRecord, BatchBook, BatchId, BatchLine, BatchRecord, JobRecord, LineFailure, NewBatch, Outcome, Progress, Stage,
    UnderWay, no_batch,
};
use crate::diagnostic::Result;
use crate::money::Usd;
use crate::store::connection::Trouble;
use crate::store::sqlite::SqliteStore;
use crate::store::{
    Cache, Durable, EntryId, Fingerprint, RequestRecord, at_once, check_amount, check_response, codec, now, queries,
};

const BATCH: &str =
    "SELECT b.id, b.scope, b.endpoint, b.model, b.stage, b.intent, b.word, b.remote, b.notes, b.created_at,
                            b.changed_at, count(l.number), coalesce(sum(l.state = 1), 0), coalesce(sum(l.state = 2), 0)
                     FROM batches b LEFT JOIN batch_lines l ON l.batch = b.id";

const LINE: &str = "SELECT l.number, l.fingerprint, l.n, l.entry, l.state, r.model, r.source, r.body
                    FROM batch_lines l LEFT JOIN batch_requests r ON r.fingerprint = l.fingerprint AND l.state = 0";

fn batch(row: &Row<'_>) -> rusqlite::Result<BatchRecord> {
    let word: String = row.get(4)?;
    let stage = Stage::read(&word)
        .ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(4, Type::Text, format!("a stage `{word}`").into()))?;
    let count = |at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
    Ok(BatchRecord {
        id: BatchId(row.get(0)?),
        scope: row.get(1)?,
        endpoint: row.get(2)?,
        model: row.get(3)?,
        progress: Progress { stage, intent: row.get(5)?, word: row.get(6)?, remote: row.get(7)?, notes: row.get(8)? },
        created_at: row.get(9)?,
        changed_at: row.get(10)?,
        lines: [count(11)?, count(12)?, count(13)?],
    })
}

fn line(row: &Row<'_>) -> rusqlite::Result<BatchLine> {
    let text = |at: usize| row.get::<_, Option<String>>(at).map(Option::unwrap_or_default);
    Ok(BatchLine {
        number: row.get(0)?,
        fingerprint: Fingerprint(row.get(1)?),
        n: row.get(2)?,
        entry: EntryId(row.get(3)?),
        closed: row.get::<_, i64>(4)? != 0,
        request: RequestRecord { model: text(5)?, source: text(6)?, body: text(7)? },
    })
}

fn failure(kind: &str, message: String, retryable: bool) -> Result<LineFailure> {
    Ok(LineFailure { failure: queries::failure(kind, message)?, retryable })
}

fn open(conn: &Connection, new: &NewBatch, after: Option<BatchId>) -> Result<Option<BatchId>, Trouble> {
    let newest: Option<i64> = conn.query_row("SELECT max(id) FROM batches", [], |row| row.get(0))?;
    if newest != after.map(|id| id.0) {
        return Ok(None);
    }
    let insert = "INSERT INTO batches (intent, scope, endpoint, model, stage, word, notes, created_at, changed_at)
                  VALUES (?1, ?2, ?3, ?4, 'planned', '', ?5, ?6, ?6)";
    let values = params![new.intent, new.scope, new.endpoint, new.model, new.notes, now()];
    conn.prepare_cached(insert)?.execute(values)?;
    let id = conn.last_insert_rowid();
    let mut request = conn.prepare_cached(
        "INSERT INTO batch_requests (fingerprint, model, source, body) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
    )?;
    let mut line = conn.prepare_cached(
        "INSERT INTO batch_lines (batch, number, fingerprint, n, entry, state) VALUES (?1, ?2, ?3, ?4, ?5, 0)",
    )?;
    for (number, new_line) in new.lines.iter().enumerate() {
        let RequestRecord { model, source, body } = &new_line.request;
        let print = new_line.fingerprint.0.as_slice();
        request.execute(params![print, model, source, body])?;
        let entry = queries::add_entry(conn, &new.scope, &new_line.fingerprint, new_line.worst, None)?;
        line.execute(params![id, number as i64, print, new_line.n, entry.0])?;
    }
    Ok(Some(BatchId(id)))
}

fn advance(conn: &Connection, id: BatchId, from: Stage, to: &Progress) -> Result<bool, Trouble> {
    let update = "UPDATE batches SET stage = ?3, intent = ?4, word = ?5, remote = ?6, notes = ?7, changed_at = ?8
                  WHERE id = ?1 AND stage = ?2";
    let Progress { stage, intent, word, remote, notes } = to;
    let values = params![id.0, from.word(), stage.word(), intent, word, remote, notes, now()];
    let moved = conn.prepare_cached(update)?.execute(values)? == 1;
    if moved && *stage == Stage::Done {
        conn.execute(
            "DELETE FROM batch_requests WHERE fingerprint IN (SELECT fingerprint FROM batch_lines WHERE batch = ?1)
             AND NOT EXISTS (SELECT 1 FROM batch_lines l WHERE l.fingerprint = batch_requests.fingerprint AND l.state = 0)",
            [id.0],
        )?;
    }
    Ok(moved)
}

fn split(conn: &Connection, id: BatchId, at: u32, intent: &str, notes: &str) -> Result<BatchId, Trouble> {
    let copy = "INSERT INTO batches (intent, scope, endpoint, model, stage, word, notes, created_at, changed_at)
                SELECT ?2, scope, endpoint, model, 'planned', '', ?3, created_at, ?4 FROM batches
                WHERE id = ?1 AND stage = 'planned'";
    if conn.prepare_cached(copy)?.execute(params![id.0, intent, notes, now()])? != 1 {
        return Err(no_batch(id).into());
    }
    let new = conn.last_insert_rowid();
    let shift = "UPDATE batch_lines SET batch = ?2, number = number - ?3 WHERE batch = ?1 AND number >= ?3";
    conn.prepare_cached(shift)?.execute(params![id.0, new, at])?;
    Ok(BatchId(new))
}

/// An outcome with what of it is encoded already.
struct Encoded {
    number: u32,
    outcome: Outcome,
    samples: Vec<u8>,
    extra: Option<String>,
}

fn land(conn: &Connection, id: BatchId, cache: Cache, outcomes: &[Encoded]) -> Result<u64, Trouble> {
    let scope = "SELECT scope FROM batches WHERE id = ?1";
    let scope: Option<String> = conn.prepare_cached(scope)?.query_row([id.0], |row| row.get(0)).optional()?;
    let scope = scope.ok_or_else(|| no_batch(id))?;
    let mut find = conn.prepare_cached(&format!("{LINE} WHERE l.batch = ?1 AND l.number = ?2"))?;
    let mut mark = conn.prepare_cached(
        "UPDATE batch_lines SET state = ?3, retryable = ?4, kind = ?5, message = ?6 WHERE batch = ?1 AND number = ?2",
    )?;
    let mut landed = 0;
    for Encoded { number, outcome, samples, extra } in outcomes {
        let found = find.query_row(params![id.0, number], line).optional()?;
        let Some(line) = found.filter(|line| !line.closed) else { continue };
        landed += 1;
        match outcome {
            Outcome::Answered(response, bill) => {
                queries::settle(conn, &scope, &line.fingerprint, line.entry, *bill)?;
                let texts = (samples.as_slice(), extra.as_deref());
                let print = &line.fingerprint;
                queries::add_response(conn, cache, &scope, print, &line.request, response, texts, line.entry)?;
                mark.execute(params![id.0, number, 1, None::<bool>, None::<&str>, None::<&str>])?;
            }
            Outcome::Failed(LineFailure { failure, retryable }, closing) => {
                queries::close(conn, line.entry, *closing)?;
                mark.execute(params![id.0, number, 2, retryable, failure.kind.word(), failure.message])?;
            }
        }
    }
    Ok(landed)
}

fn under_way(conn: &Connection, print: &Fingerprint) -> Result<UnderWay, Trouble> {
    let select = "SELECT l.batch, l.n, l.state, l.retryable, l.kind, l.message, b.scope, e.worst, e.state = 'lost'
                  FROM batch_lines l JOIN batches b ON b.id = l.batch JOIN ledger e ON e.id = l.entry
                  WHERE l.fingerprint = ?1 ORDER BY l.batch, l.number";
    let mut select = conn.prepare_cached(select)?;
    let mut rows = select.query([print.0.as_slice()])?;
    let (mut way, mut youngest) = (UnderWay::default(), None);
    while let Some(row) = rows.next()? {
        way.failed = None;
        let batch = BatchId(row.get(0)?);
        if youngest.replace(batch) != Some(batch) {
            way.lost.clear();
        }
        if row.get(8)? {
            way.lost.push((row.get(6)?, Usd::from_pico(row.get(7)?)));
        }
        match row.get::<_, i64>(2)? {
            0 => {
                way.samples = way.samples.saturating_add(row.get(1)?);
                way.batches.push(batch);
                way.held.push((row.get(6)?, Usd::from_pico(row.get(7)?)));
            }
            2 => way.failed = Some(failure(&row.get::<_, String>(4)?, row.get(5)?, row.get(3)?)?),
            _ => {}
        }
    }
    way.batches.dedup();
    Ok(way)
}

fn keep_job(conn: &Connection, id: &str, scope: &str, asks: &[AskRecord]) -> Result<(), Trouble> {
    let insert = "INSERT INTO batch_jobs (id, scope, created_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    if conn.prepare_cached(insert)?.execute(params![id, scope, now()])? == 0 {
        return Ok(());
    }
    let number = conn.last_insert_rowid();
    let insert = "INSERT INTO batch_asks (job, place, id, model, fingerprint, n) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut insert = conn.prepare_cached(insert)?;
    for (place, ask) in asks.iter().enumerate() {
        insert.execute(params![number, place as i64, ask.id, ask.model, ask.fingerprint.0.as_slice(), ask.n])?;
    }
    Ok(())
}

fn rows<T>(
    conn: &Connection,
    select: &str,
    values: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Trouble> {
    Ok(conn.prepare_cached(select)?.query_map(values, read)?.collect::<rusqlite::Result<_>>()?)
}

impl BatchBook for SqliteStore {
    fn open_batch(&self, batch: NewBatch, after: Option<BatchId>) -> Durable<Option<BatchId>> {
        if let Err(error) = batch.lines.iter().try_for_each(|line| check_amount(line.worst)) {
            return at_once(Err(error));
        }
        self.writer.submit(move |conn| open(conn, &batch, after))
    }

    fn move_batch(&self, id: BatchId, from: Stage, to: Progress) -> Durable<bool> {
        self.writer.submit(move |conn| advance(conn, id, from, &to))
    }

    fn split_batch(&self, id: BatchId, at: u32, intent: String, notes: String) -> Durable<BatchId> {
        self.writer.submit(move |conn| split(conn, id, at, &intent, &notes))
    }

    fn batches(&self, open: bool) -> Result<Vec<BatchRecord>> {
        let which = if open { "WHERE b.stage <> 'done'" } else { "" };
        self.read(|conn| rows(conn, &format!("{BATCH} {which} GROUP BY b.id ORDER BY b.id"), [], batch))
    }

    fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        let select = format!("{BATCH} WHERE b.id = ?1 GROUP BY b.id");
        self.read(|conn| Ok(conn.prepare_cached(&select)?.query_row([id.0], batch).optional()?))
    }

    fn batch_page(&self, id: BatchId, from: u32, most: usize) -> Result<Vec<BatchLine>> {
        let select = format!("{LINE} WHERE l.batch = ?1 AND l.number >= ?2 ORDER BY l.number LIMIT ?3");
        self.read(|conn| rows(conn, &select, params![id.0, from, most as i64], line))
    }

    fn batch_lines(&self, id: BatchId, numbers: &[u32]) -> Result<Vec<BatchLine>> {
        let select = format!("{LINE} WHERE l.batch = ?1 AND l.number = ?2");
        self.read(|conn| {
            let transaction = conn.unchecked_transaction()?;
            let mut select = transaction.prepare_cached(&select)?;
            let find = |number: &u32| select.query_row(params![id.0, number], line).optional().transpose();
            Ok(numbers.iter().filter_map(find).collect::<rusqlite::Result<_>>()?)
        })
    }

    fn land_lines_as(&self, cache: Cache, id: BatchId, outcomes: Vec<(u32, Outcome)>) -> Durable<u64> {
        let encode = |(number, outcome): (u32, Outcome)| {
            let (samples, extra) = match &outcome {
                Outcome::Answered(response, bill) => {
                    check_amount(*bill).and_then(|()| check_response(response))?;
                    (codec::encode(&response.samples), codec::encode_extra(response))
                }
                Outcome::Failed(..) => (Vec::new(), None),
            };
            Ok(Encoded { number, outcome, samples, extra })
        };
        let outcomes: Vec<Encoded> = match outcomes.into_iter().map(encode).collect::<Result<_>>() {
            Ok(outcomes) => outcomes,
            Err(error) => return at_once(Err(error)),
        };
        self.writer.submit(move |conn| land(conn, id, cache, &outcomes))
    }

    fn under_way(&self, fingerprints: &[Fingerprint]) -> Result<Vec<UnderWay>> {
        self.read(|conn| {
            let transaction = conn.unchecked_transaction()?;
            fingerprints.iter().map(|print| under_way(&transaction, print)).collect()
        })
    }

    fn keep_job(&self, id: &str, scope: &str, asks: Vec<AskRecord>) -> Durable<()> {
        let (id, scope) = (id.to_owned(), scope.to_owned());
        self.writer.submit(move |conn| keep_job(conn, &id, &scope, &asks))
    }

    fn jobs(&self) -> Result<Vec<JobRecord>> {
        let select = "SELECT id, scope, (SELECT count(*) FROM batch_asks WHERE job = number), created_at
                      FROM batch_jobs ORDER BY number";
        let job = |row: &Row<'_>| {
            let asks = row.get::<_, i64>(2)?.unsigned_abs();
            Ok(JobRecord { id: row.get(0)?, scope: row.get(1)?, asks, created_at: row.get(3)? })
        };
        self.read(|conn| rows(conn, select, [], job))
    }

    fn asks(&self, job: &str, from: u64, most: usize) -> Result<Vec<AskRecord>> {
        let select = "SELECT a.id, a.model, a.fingerprint, a.n FROM batch_asks a JOIN batch_jobs j ON j.number = a.job
                      WHERE j.id = ?1 AND a.place >= ?2 ORDER BY a.place LIMIT ?3";
        let ask = |row: &Row<'_>| {
            let fingerprint = Fingerprint(row.get(2)?);
            Ok(AskRecord { id: row.get(0)?, model: row.get(1)?, fingerprint, n: row.get(3)? })
        };
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        self.read(|conn| rows(conn, select, params![job, from, most as i64], ask))
    }
}
