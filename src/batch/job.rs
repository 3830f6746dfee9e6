//! Jobs: by which name they are found, which batches serve them, and how they are.

use std::collections::HashSet;

use super::drive::PAGE;
use super::{AnswerOutcome, Ask, Batch, Inner, JobStatus, Known, answers};
use crate::diagnostic::{Error, Result};
use crate::store::Fingerprint;
use crate::store::batches::{BatchId, JobRecord, Stage};

/// The name of a job follows from what is asked, and under which ids.
pub(super) fn job_name(asks: &[Ask], known: &[Known]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (ask, known) in asks.iter().zip(known) {
        hasher.update(&(ask.id.len() as u64).to_le_bytes());
        hasher.update(ask.id.as_bytes());
        hasher.update(&known.fingerprint.0);
        hasher.update(&ask.request.n.to_le_bytes());
    }
    format!("job-{}", &hasher.finalize().to_hex()[..16])
}

impl Inner {
    /// The job of a name, of the beginning of one, or with a batch that the provider knows under it.
    pub(super) fn job(&self, name: &str) -> Result<JobRecord> {
        let jobs = self.store.jobs()?;
        if let Some(job) = jobs.iter().find(|job| job.id == name) {
            return Ok(job.clone());
        }
        let batch = self.store.batches(false)?.into_iter().find(|batch| batch.progress.remote.as_deref() == Some(name));
        let scope = batch.map(|batch| batch.scope);
        let begins =
            |job: &&JobRecord| name.len() >= 4 && job.id.starts_with(name) || Some(&job.scope) == scope.as_ref();
        let mut found = jobs.iter().filter(begins);
        match (found.next(), found.next()) {
            (Some(job), None) => Ok(job.clone()),
            (Some(_), Some(_)) => {
                Err(Error::usage(format!("several jobs begin with `{name}`")).help("write more of its name"))
            }
            (None, _) => Err(Error::usage(format!("the store has no job `{name}`"))
                .help("`farthing batch list` shows those there are")),
        }
    }

    /// The batches that a job's requests are in, and its own.
    pub(super) fn wanted(&self, job: &JobRecord) -> Result<HashSet<BatchId>> {
        let asks = self.store.asks(&job.id, 0, usize::MAX)?;
        self.batches_of(job, asks.iter().map(|ask| ask.fingerprint))
    }

    pub(super) fn batches_of(
        &self,
        job: &JobRecord,
        prints: impl Iterator<Item = Fingerprint>,
    ) -> Result<HashSet<BatchId>> {
        let all = self.store.batches(false)?;
        let mut wanted: HashSet<BatchId> =
            all.iter().filter(|batch| batch.scope == job.scope).map(|batch| batch.id).collect();
        // Only where somebody else has batches out can a request be in one of theirs.
        if all.iter().any(|batch| batch.scope != job.scope && batch.progress.stage != Stage::Done) {
            let prints: Vec<Fingerprint> = prints.collect();
            for page in prints.chunks(PAGE) {
                wanted.extend(self.store.under_way(page)?.into_iter().flat_map(|way| way.batches));
            }
        }
        Ok(wanted)
    }

    /// The requests that are on their way.
    pub(super) fn on_their_way(&self, known: &[Known]) -> Result<HashSet<Fingerprint>> {
        let prints: Vec<Fingerprint> = known.iter().map(|known| known.fingerprint).collect();
        let mut out = HashSet::new();
        for page in prints.chunks(PAGE) {
            let ways = self.store.under_way(page)?;
            out.extend(page.iter().zip(ways).filter(|(_, way)| way.samples > 0).map(|(print, _)| *print));
        }
        Ok(out)
    }

    pub(super) fn job_status(&self, job: &JobRecord, wanted: &HashSet<BatchId>) -> Result<JobStatus> {
        let spent = self.store.spent(&job.scope)?;
        let batches = self.store.batches(false)?;
        let mut status = JobStatus {
            job: job.id.clone(),
            requests: job.asks,
            answered: 0,
            under_way: 0,
            failed: 0,
            unsent: 0,
            batches: batches.iter().filter(|batch| wanted.contains(&batch.id)).map(Batch::of).collect(),
            spent_usd: spent.settled,
            held_usd: spent.lost,
            created_at: job.created_at,
        };
        let mut from = 0;
        loop {
            let page = answers::of(&*self.store, &job.id, from, PAGE)?;
            if page.is_empty() {
                return Ok(status);
            }
            from += page.len() as u64;
            for answer in page {
                let count = match answer.outcome {
                    AnswerOutcome::Answered { .. } => &mut status.answered,
                    AnswerOutcome::Failed { .. } => &mut status.failed,
                    AnswerOutcome::UnderWay => &mut status.under_way,
                    AnswerOutcome::Unsent => &mut status.unsent,
                };
                *count += 1;
            }
        }
    }
}
