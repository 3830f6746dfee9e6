//! Batches in the store: what is meant to be sent through a provider's batch API, what is out, and what came of it. All of
//! it is durable before it is true anywhere else, so that a program may end at any moment.
//!
//! A *batch* is one submission to one provider: its lines are requests, each with its reservation in the ledger. A *job*
//! is what a caller asked for, in the caller's order and under the caller's ids; its requests may lie in many batches, and
//! a batch may serve many jobs.

pub mod conformance;
mod memory;
mod sqlite;

pub(super) use memory::Shelf;

use super::{Cache, Closing, Durable, EntryId, Fingerprint, RequestRecord};
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::provider::{Failure, Response};

/// The number of a batch in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub i64);

/// How far a batch is on its way, as far as we have a part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It is written down and was not submitted yet.
    Planned,
    /// It is being submitted: the provider may know it, though we do not know by which id.
    Submitting,
    /// The provider has it.
    Out,
    /// The provider has ended it; its results are not all here yet.
    Ended,
    /// Every line has its outcome; the provider's files may still be there.
    Landed,
    /// Nothing is left to do.
    Done,
}

impl Stage {
    const ALL: [Stage; 6] = [Stage::Planned, Stage::Submitting, Stage::Out, Stage::Ended, Stage::Landed, Stage::Done];

    /// The word in the database.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Planned => "planned",
            Stage::Submitting => "submitting",
            Stage::Out => "out",
            Stage::Ended => "ended",
            Stage::Landed => "landed",
            Stage::Done => "done",
        }
    }

    fn read(word: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.word() == word)
    }
}

/// One line of a batch that is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewLine {
    /// The request's fingerprint.
    pub fingerprint: Fingerprint,
    /// How many completions it asks for.
    pub n: u32,
    /// What it may cost at worst: reserved in the ledger.
    pub worst: Usd,
    /// The request as it is kept.
    pub request: RequestRecord,
}

/// A batch that is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBatch {
    /// A name that no other batch has, and that the provider is told.
    pub intent: String,
    /// Who pays: the scope of its lines in the ledger.
    pub scope: String,
    /// The endpoint, by the user's name for it.
    pub endpoint: String,
    /// The model that all its lines ask, by the user's name for it.
    pub model: String,
    /// Whatever the sender wants to know of it later.
    pub notes: String,
    /// The lines, numbered from 0.
    pub lines: Vec<NewLine>,
}

/// What changes about a batch while it is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How far it is.
    pub stage: Stage,
    /// The name that the provider was told.
    pub intent: String,
    /// The provider's own word for its state; empty before there is one.
    pub word: String,
    /// The provider's id of it, once it is known.
    pub remote: Option<String>,
    /// The sender's notes.
    pub notes: String,
}

/// A batch as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRecord {
    /// Its number.
    pub id: BatchId,
    /// Who pays.
    pub scope: String,
    /// The endpoint, by the user's name for it.
    pub endpoint: String,
    /// The model, by the user's name for it.
    pub model: String,
    /// How far it is.
    pub progress: Progress,
    /// Its lines: all, those with an answer, those that failed.
    pub lines: [u64; 3],
    /// When it was written down, in seconds since 1970.
    pub created_at: i64,
    /// When [`Progress`] last changed, in seconds since 1970.
    pub changed_at: i64,
}

/// Why a line has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFailure {
    /// What happened.
    pub failure: Failure,
    /// Sent again, it may well be answered.
    pub retryable: bool,
}

/// A line of a batch as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLine {
    /// Its number in the batch, from 0.
    pub number: u32,
    /// The request's fingerprint.
    pub fingerprint: Fingerprint,
    /// How many completions it asks for.
    pub n: u32,
    /// Its reservation.
    pub entry: EntryId,
    /// The request; empty fields where the line has an outcome, for then it need not be kept here.
    pub request: RequestRecord,
    /// It has an outcome.
    pub closed: bool,
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was answered, and billed so much.
    Answered(Response, Usd),
    /// It was not; how its reservation ends.
    Failed(LineFailure, Closing),
}

/// What is on its way for a request, and how its last attempt failed if it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Completions that open lines ask for.
    pub samples: u32,
    /// The batches of those lines.
    pub batches: Vec<BatchId>,
    /// What the open lines hold in the ledger, by the scope that pays.
    pub held: Vec<(String, Usd)>,
    /// What lines of the youngest batch were lost at, by the scope that pays.
    pub lost: Vec<(String, Usd)>,
    /// The failure of the youngest line, if that is closed and failed.
    pub failed: Option<LineFailure>,
}

/// One thing that a caller asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskRecord {
    /// The caller's id.
    pub id: String,
    /// The model, by the user's name for it.
    pub model: String,
    /// The request's fingerprint.
    pub fingerprint: Fingerprint,
    /// How many completions.
    pub n: u32,
}

/// A job as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// Its name, which follows from what was asked.
    pub id: String,
    /// Who pays for what it submits.
    pub scope: String,
    /// How many things it asks for.
    pub asks: u64,
    /// When it was first asked, in seconds since 1970.
    pub created_at: i64,
}

/// Where batches and jobs are kept: a part of every [`Store`](super::Store), with the same promises.
pub trait BatchBook: Send + Sync {
    /// Writes a batch down with its lines and opens their reservations, all in one transaction. `None`, and no change,
    /// where batches came to be after `after`, the last one that the planner knew of: they may ask for the same.
    fn open_batch(&self, batch: NewBatch, after: Option<BatchId>) -> Durable<Option<BatchId>>;

    /// Takes a batch from a stage to what `to` says; false, and no change, where it is not at that stage any more. With
    /// [`Stage::Done`] the requests of its lines are forgotten where no other line needs them.
    fn move_batch(&self, id: BatchId, from: Stage, to: Progress) -> Durable<bool>;

    /// Takes the lines from `at` on out of a planned batch into a new one of that intent and those notes.
    fn split_batch(&self, id: BatchId, at: u32, intent: String, notes: String) -> Durable<BatchId>;

    /// Batches in the order of their numbers: all, or those that are not [done](Stage::Done).
    fn batches(&self, open: bool) -> Result<Vec<BatchRecord>>;

    /// A batch.
    fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>>;

    /// Lines from a number on, `most` at most, in order.
    fn batch_page(&self, id: BatchId, from: u32, most: usize) -> Result<Vec<BatchLine>>;

    /// Lines of these numbers, in that order; those that there are not are left out.
    fn batch_lines(&self, id: BatchId, numbers: &[u32]) -> Result<Vec<BatchLine>>;

    /// Gives open lines their outcomes, in one transaction: answers are recorded as by
    /// [`record`](super::Store::record), in this order, reservations closed. Lines that are closed already are left
    /// as they are. Says how many were open.
    fn land_lines(&self, id: BatchId, outcomes: Vec<(u32, Outcome)>) -> Durable<u64> {
        self.land_lines_as(Cache::Use, id, outcomes)
    }

    /// As [`land_lines`](Self::land_lines), for a run that treats what is stored so: see
    /// [`record_as`](super::Store::record_as).
    fn land_lines_as(&self, cache: Cache, id: BatchId, outcomes: Vec<(u32, Outcome)>) -> Durable<u64>;

    /// What is on its way for each of these requests.
    fn under_way(&self, fingerprints: &[Fingerprint]) -> Result<Vec<UnderWay>>;

    /// Keeps a job; one of that name that is there already stays.
    fn keep_job(&self, id: &str, scope: &str, asks: Vec<AskRecord>) -> Durable<()>;

    /// The jobs, the oldest first.
    fn jobs(&self) -> Result<Vec<JobRecord>>;

    /// What a job asks for, from a place on, `most` at most, in the caller's order.
    fn asks(&self, job: &str, from: u64, most: usize) -> Result<Vec<AskRecord>>;
}

fn no_batch(id: BatchId) -> Error {
    Error::internal(format!("the store has no batch {}", id.0))
}
