//! The one thread that writes. It takes everything that waits, does it in one transaction, commits, and only then
//! answers: so many requests share the price of one flush to the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::Durable;
use super::connection::Trouble;
use crate::diagnostic::{Error, Result};

/// How many pieces of work one transaction does at most: it bounds how long the first of them waits.
const GROUP: usize = 1024;

/// How long it waits for more where many wrote a moment ago. A flush to the disk takes longer.
const GATHERING: Duration = Duration::from_micros(100);

/// The writing thread, and the way to it. Dropping it does what was asked for, then ends the thread.
pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    path: Arc<Path>,
}

type Job = Box<dyn Work>;

/// Work that waits for the writer.
trait Work: Send {
    /// Does it, within a transaction; may be called again after that transaction was rolled back. True where it worked.
    fn apply(&mut self, conn: &Connection, path: &Path) -> bool;
    /// Tells who asked how it ended: as `apply` says, unless the transaction failed.
    fn answer(self: Box<Self>, failed: Option<Error>);
}

struct Task<T, F> {
    work: F,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&Connection) -> Result<T, Trouble> + Send> Work for Task<T, F> {
    fn apply(&mut self, conn: &Connection, path: &Path) -> bool {
        let outcome = (self.work)(conn).map_err(|trouble| trouble.into_error(path));
        self.outcome.insert(outcome).is_ok()
    }

    fn answer(self: Box<Self>, failed: Option<Error>) {
        let outcome = match (self.outcome, failed) {
            // Its own error says more than that the transaction failed.
            (Some(Err(own)), _) => Err(own),
            (_, Some(error)) => Err(error),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(Error::internal("the store answered without doing what it was asked")),
        };
        // Who asked may have gone; the work stays done.
        let _ = self.reply.send(outcome);
    }
}

impl Writer {
    /// Starts the thread on its connection.
    pub(super) fn start(conn: Connection, path: Arc<Path>) -> Result<Writer> {
        let (jobs, waiting) = channel();
        let thread = std::thread::Builder::new()
            .name("store writer".to_owned())
            .spawn({
                let path = Arc::clone(&path);
                move || run(&conn, &waiting, &path)
            })
            .map_err(|error| Error::internal(format!("cannot start the store's writer: {error}")))?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread), path })
    }

    /// Queues work, in the order of the calls; resolves when it is committed. The work goes on if the future is dropped.
    pub(super) fn submit<T, F>(&self, work: F) -> Durable<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, Trouble> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // Where the thread has ended, the job and its end of the channel are dropped, and the answer is the error below.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Box::new(Task { work, outcome: None, reply }));
        }
        let path = Arc::clone(&self.path);
        Box::pin(async move {
            let gone = |_| Err(Error::internal(format!("the writer of the store {} has ended", path.display())));
            answer.await.unwrap_or_else(gone)
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It fails only where the thread panicked, which every caller that waited was told.
            let _ = thread.join();
        }
    }
}

fn run(conn: &Connection, waiting: &Receiver<Job>, path: &Path) {
    let file = Identity::of(path);
    let (mut group, mut before) = (Vec::new(), 0);
    while let Ok(job) = waiting.recv() {
        group.push(job);
        group.extend(waiting.try_iter().take(GROUP - 1));
        if group.len() < before * 3 / 4 {
            // Those who were answered just now are about to ask again: one commit for all is cheaper than two.
            std::thread::sleep(GATHERING);
            group.extend(waiting.try_iter().take(GROUP - group.len()));
        }
        before = group.len();
        work_off(conn, &mut group, path, file);
    }
}

/// Which file stands at the store's path: a deleted one would be written on, and lost with the process.
#[derive(Clone, Copy, PartialEq)]
struct Identity(u64, u64);

impl Identity {
    /// `None` where none stands there, or the system does not say (and does not let an open file be deleted either).
    fn of(path: &Path) -> Option<Identity> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(path).ok().map(|file| Identity(file.dev(), file.ino()))
        }
        #[cfg(not(unix))]
        {
            let _ = path;
            None
        }
    }
}

/// The error where the file that is open does not stand at its path any more.
fn check_file(path: &Path, file: Option<Identity>) -> Result<()> {
    if Identity::of(path) == file {
        return Ok(());
    }
    let name = path.display();
    Err(Error::internal(format!("the store {name} was deleted or replaced while it was in use"))
        .help("put it back if you still have it; what was paid for since then is not kept"))
}

/// Where a transaction failed.
enum Failed {
    /// Before it began: trying again, job by job, would only wait longer.
    Beginning(Error),
    /// Later: one job may be the reason (its response is larger than the room on the disk).
    Later(Error),
    /// A job was refused after it had written: it must be undone alone.
    Half,
}

/// Does a group in one transaction, or, if that fails, each job in its own; answers each.
fn work_off(conn: &Connection, group: &mut Vec<Job>, path: &Path, file: Option<Identity>) {
    // Savepoints cost about as much as what they protect, and are hardly ever needed.
    let done = match transact(conn, group, path, file, false) {
        Err(Failed::Half) => transact(conn, group, path, file, true),
        done => done,
    };
    let failed = match done {
        Ok(()) => None,
        Err(Failed::Later(_) | Failed::Half) if group.len() > 1 => {
            for job in group.drain(..) {
                work_off(conn, &mut vec![job], path, file);
            }
            return;
        }
        Err(Failed::Beginning(error) | Failed::Later(error)) => Some(error),
        Err(Failed::Half) => Some(Error::internal(format!("the store {}: a write failed", path.display()))),
    };
    for job in group.drain(..) {
        job.answer(failed.clone());
    }
}

fn transact(
    conn: &Connection,
    group: &mut [Job],
    path: &Path,
    file: Option<Identity>,
    savepoints: bool,
) -> Result<(), Failed> {
    let shown = |error: rusqlite::Error| Trouble::from(error).into_error(path);
    let run = |statement: &str| conn.prepare_cached(statement).and_then(|mut ready| ready.execute([])).map_err(shown);
    check_file(path, file).and_then(|()| run("BEGIN IMMEDIATE")).map_err(Failed::Beginning)?;
    let applied = match savepoints {
        true => apply_apart(conn, group, path).map_err(|trouble| Failed::Later(trouble.into_error(path))),
        false => apply_all(conn, group, path),
    };
    let done = applied.and_then(|()| run("COMMIT").map_err(Failed::Later));
    if done.is_err() && !conn.is_autocommit() {
        // Should this fail, the next BEGIN fails too and says why.
        let _ = conn.execute_batch("ROLLBACK");
    }
    done?;
    // Looked at again: nobody may be told that something is durable which is not.
    check_file(path, file).map_err(Failed::Beginning)
}

/// Applies each job. One that is refused before it wrote anything takes nobody else down.
fn apply_all(conn: &Connection, group: &mut [Job], path: &Path) -> Result<(), Failed> {
    for job in group {
        let before = conn.total_changes();
        let worked = job.apply(conn, path);
        if conn.is_autocommit() {
            // A full disk and the like roll back the whole transaction.
            return Err(Failed::Later(Error::internal(format!("the store {}: a write failed", path.display()))));
        }
        if !worked && conn.total_changes() != before {
            return Err(Failed::Half);
        }
    }
    Ok(())
}

/// Applies each job in a savepoint, so that one that fails leaves no trace and the others stay.
fn apply_apart(conn: &Connection, group: &mut [Job], path: &Path) -> Result<(), Trouble> {
    for job in group {
        conn.prepare_cached("SAVEPOINT job")?.execute([])?;
        let worked = job.apply(conn, path);
        if conn.is_autocommit() {
            return Err(Error::internal(format!("the store {}: a write failed", path.display())).into());
        }
        if !worked {
            conn.prepare_cached("ROLLBACK TO job")?.execute([])?;
        }
        conn.prepare_cached("RELEASE job")?.execute([])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    fn start(folder: &Path) -> (Writer, Connection) {
        let path = folder.join("numbers.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE numbers (number INTEGER UNIQUE)").unwrap();
        let reader = Connection::open(&path).unwrap();
        (Writer::start(conn, path.into()).unwrap(), reader)
    }

    fn insert(conn: &Connection, number: i64) -> Result<i64, Trouble> {
        conn.execute("INSERT INTO numbers VALUES (?1)", [number])?;
        Ok(number)
    }

    fn numbers(reader: &Connection) -> Vec<i64> {
        let mut select = reader.prepare("SELECT number FROM numbers ORDER BY number").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }

    #[tokio::test]
    async fn a_job_that_fails_half_way_leaves_no_trace_and_takes_no_other_down() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reader) = start(folder.path());
        let jobs: Vec<Durable<i64>> = (0..40)
            .map(|number| match number % 4 {
                // Refused after a write.
                1 => writer.submit(move |conn| {
                    insert(conn, number)?;
                    Err(Error::internal("refused").into())
                }),
                // A statement fails after a write.
                2 => writer.submit(move |conn| insert(conn, number).and_then(|_| insert(conn, 0))),
                // The job itself ends the transaction, as SQLite does when the disk is full.
                3 => writer.submit(move |conn| {
                    insert(conn, number)?;
                    conn.execute_batch("ROLLBACK")?;
                    Err(Error::internal("rolled back").into())
                }),
                _ => writer.submit(move |conn| insert(conn, number)),
            })
            .collect();
        for (number, result) in (0..).zip(join_all(jobs).await) {
            match number % 4 {
                0 => assert_eq!(result.unwrap(), number),
                1 => assert_eq!(result.unwrap_err().message(), "refused"),
                2 => assert!(result.unwrap_err().message().contains("UNIQUE"), "{number}"),
                _ => assert_eq!(result.unwrap_err().message(), "rolled back"),
            }
        }
        assert_eq!(numbers(&reader), [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]);
    }

    #[tokio::test]
    async fn what_waits_shares_a_transaction_and_is_answered_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reader) = start(folder.path());
        // Holds the writer up, in a transaction of its own, until all other jobs wait.
        let ((begun, is_begun), (go, wait)) = (channel(), channel());
        let first: Durable<()> = writer.submit(move |_| {
            begun.send(()).unwrap();
            wait.recv().unwrap();
            Ok(())
        });
        is_begun.recv().unwrap();
        let mut jobs: Vec<Durable<i64>> =
            (0..50).map(|number| writer.submit(move |conn| insert(conn, number))).collect();
        let (seen, last) = channel();
        let path = folder.path().join("numbers.db");
        jobs.push(writer.submit(move |_| {
            seen.send(numbers(&Connection::open(&path).unwrap()).len()).unwrap();
            Ok(0)
        }));
        go.send(()).unwrap();
        first.await.unwrap();
        for job in jobs {
            job.await.unwrap();
            assert_eq!(numbers(&reader).len(), 50, "answered before the commit, or not in one");
        }
        assert_eq!(last.recv().unwrap(), 0, "committed one by one");
    }

    #[tokio::test]
    async fn a_writer_that_ended_is_an_error_for_who_asks_and_no_hang() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, _reader) = start(folder.path());
        let bad: Durable<()> = writer.submit(|_| panic!("this is a test"));
        assert!(bad.await.unwrap_err().message().contains("has ended"));
        assert!(writer.submit(|conn| insert(conn, 1)).await.unwrap_err().message().contains("has ended"));
    }
}
