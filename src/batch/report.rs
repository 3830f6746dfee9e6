//! What callers are told of batches and jobs.

use serde::Serialize;

use super::plan::Notes;
use super::{Answer, State};
use crate::money::Usd;
use crate::store::batches::{BatchRecord, Stage};

/// One submission to one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Batch {
    /// Its number in the store.
    pub number: i64,
    /// The provider's id, once there is one.
    pub id: Option<String>,
    /// The endpoint.
    pub endpoint: String,
    /// The model.
    pub model: String,
    /// How far it is.
    #[serde(flatten)]
    pub state: State,
    /// Its lines.
    pub lines: u64,
    /// Those with an answer: as we have them, or, while it is out, as the provider counts them.
    pub answered: u64,
    /// Those that failed.
    pub failed: u64,
    /// When it was written down, in seconds since 1970.
    pub created_at: i64,
}

impl Batch {
    pub(super) fn of(record: &BatchRecord) -> Batch {
        let [lines, answered, failed] = record.lines;
        let told = Notes::read(&record.progress.notes).counts;
        let out = record.progress.stage == Stage::Out;
        Batch {
            number: record.id.0,
            id: record.progress.remote.clone(),
            endpoint: record.endpoint.clone(),
            model: record.model.clone(),
            state: State::of(record.progress.stage, &record.progress.word),
            lines,
            answered: if out { answered + told[1] } else { answered },
            failed: if out { failed + told[2] } else { failed },
            created_at: record.created_at,
        }
    }
}

/// How a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobStatus {
    /// Its name.
    pub job: String,
    /// Requests.
    pub requests: u64,
    /// Those with all their completions in the store.
    pub answered: u64,
    /// Those on their way.
    pub under_way: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were never sent: the budget did not hold them.
    pub unsent: u64,
    /// Its batches.
    pub batches: Vec<Batch>,
    /// Dollars that it was billed.
    pub spent_usd: Usd,
    /// Dollars that are held for what is out, or may have been billed.
    pub held_usd: Usd,
    /// When it was first asked, in seconds since 1970.
    pub created_at: i64,
}

impl JobStatus {
    /// Nothing of it is on its way.
    pub fn over(&self) -> bool {
        self.under_way == 0
    }
}

/// What [`invoke`] came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How the job is.
    pub status: JobStatus,
    /// An answer for every request, in the order of asking.
    pub answers: Vec<Answer>,
    /// The ids of the requests that did not fit the budget.
    pub left: Vec<String>,
}

/// A job as it was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Created {
    /// Its name: the same requests under the same ids have the same one.
    pub job: String,
    /// How many batches were written down for it now.
    pub new_batches: usize,
    /// The ids of the requests that did not fit the budget.
    pub left: Vec<String>,
}

/// What a job would cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Requests in all.
    pub requests: usize,
    /// Distinct requests that something is missing of.
    pub to_send: usize,
    /// Completions that are missing.
    pub completions: u64,
    /// Dollars at worst, through the batch API.
    pub worst_usd: Usd,
    /// Dollars at worst, by ordinary requests.
    pub worst_without_batches_usd: Usd,
}
