//! The one thread that writes. It takes everything that waits, does it in one transaction, commits, and only then
//! answers: so many requests share the price of one flush to the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::Durable;
use super::connection::Trouble;
use crate::diagnostic::{Error, Result};

/// How many pieces of work one transaction does at most: it bounds how long the first of them waits.
const GROUP: usize = 1024;

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
    let mut group = Vec::new();
    while let Ok(job) = waiting.recv() {
        group.push(job);
        group.extend(waiting.try_iter().take(GROUP - 1));
        work_off(conn, &mut group, path);
    }
}

/// Where a transaction failed.
enum Failed {
    /// Before it began: trying again, job by job, would only wait longer.
    Beginning(Trouble),
    /// Later: one job may be the reason (its response is larger than the room on the disk).
    Later(Trouble),
}

/// Does a group in one transaction, or, if that fails, each job in its own; answers each.
fn work_off(conn: &Connection, group: &mut Vec<Job>, path: &Path) {
    let failed = match transact(conn, group, path) {
        Ok(()) => None,
        Err(Failed::Later(_)) if group.len() > 1 => {
            for job in group.drain(..) {
                work_off(conn, &mut vec![job], path);
            }
            return;
        }
        Err(Failed::Beginning(trouble) | Failed::Later(trouble)) => Some(trouble.into_error(path)),
    };
    for job in group.drain(..) {
        job.answer(failed.clone());
    }
}

fn transact(conn: &Connection, group: &mut [Job], path: &Path) -> Result<(), Failed> {
    conn.execute_batch("BEGIN IMMEDIATE").map_err(|error| Failed::Beginning(error.into()))?;
    let done = apply_all(conn, group, path).and_then(|()| Ok(conn.execute_batch("COMMIT")?));
    if done.is_err() && !conn.is_autocommit() {
        // Should this fail, the next BEGIN fails too and says why.
        let _ = conn.execute_batch("ROLLBACK");
    }
    done.map_err(Failed::Later)
}

/// Applies each job in a savepoint, so that one that fails leaves no trace and the others stay.
fn apply_all(conn: &Connection, group: &mut [Job], path: &Path) -> Result<(), Trouble> {
    for job in group {
        conn.prepare_cached("SAVEPOINT job")?.execute([])?;
        let worked = job.apply(conn, path);
        if conn.is_autocommit() {
            // A full disk and the like roll back the whole transaction.
            return Err(Error::internal(format!("the store {}: a write failed", path.display())).into());
        }
        if !worked {
            conn.prepare_cached("ROLLBACK TO job")?.execute([])?;
        }
        conn.prepare_cached("RELEASE job")?.execute([])?;
    }
    Ok(())
}
