//! Batches in memory.

use std::collections::{BTreeMap, HashMap};

use super::{
    AskRecord, BatchBook, BatchId, BatchLine, BatchRecord, JobRecord, LineFailure, NewBatch, Outcome, Progress, Stage,
    UnderWay, no_batch,
};
use crate::diagnostic::Result;
use crate::store::memory::{EntryState, MemoryStore, State};
use crate::store::{
    Bought, Cache, Durable, EntryId, Fingerprint, RequestRecord, at_once, check_amount, check_response, now,
};

/// All batches and jobs.
#[derive(Debug, Default)]
pub(in crate::store) struct Shelf {
    next: i64,
    batches: BTreeMap<BatchId, (BatchRecord, Vec<Line>)>,
    /// Where the lines of a request are.
    places: HashMap<Fingerprint, Vec<BatchId>>,
    jobs: Vec<(JobRecord, Vec<AskRecord>)>,
}

#[derive(Clone, Debug)]
struct Line {
    fingerprint: Fingerprint,
    n: u32,
    entry: EntryId,
    request: RequestRecord,
    /// Open, answered, or failed.
    outcome: Option<Option<LineFailure>>,
}

impl Line {
    fn shown(&self, number: usize) -> BatchLine {
        let closed = self.outcome.is_some();
        let empty = || RequestRecord { model: String::new(), source: String::new(), body: String::new() };
        BatchLine {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            fingerprint: self.fingerprint,
            n: self.n,
            entry: self.entry,
            request: if closed { empty() } else { self.request.clone() },
            closed,
        }
    }
}

impl Shelf {
    fn insert(&mut self, record: BatchRecord, lines: Vec<Line>) -> BatchId {
        let id = record.id;
        for line in &lines {
            let places = self.places.entry(line.fingerprint).or_default();
            if places.last() != Some(&id) {
                places.push(id);
            }
        }
        self.batches.insert(id, (record, lines));
        id
    }

    fn new_id(&mut self) -> BatchId {
        self.next += 1;
        BatchId(self.next)
    }

    fn shown(&self, id: BatchId) -> Option<BatchRecord> {
        let (record, lines) = self.batches.get(&id)?;
        let count = |answered: bool| {
            lines.iter().filter(|line| line.outcome.as_ref().is_some_and(|fail| fail.is_none() == answered)).count()
                as u64
        };
        Some(BatchRecord { lines: [lines.len() as u64, count(true), count(false)], ..record.clone() })
    }
}

fn open(state: &mut State, new: NewBatch, after: Option<BatchId>) -> Result<Option<BatchId>> {
    new.lines.iter().try_for_each(|line| check_amount(line.worst))?;
    if state.shelf.batches.keys().next_back().copied() != after {
        return Ok(None);
    }
    let id = state.shelf.new_id();
    let NewBatch { intent, scope, endpoint, model, notes, lines } = new;
    let lines = lines.into_iter().map(|line| Line {
        entry: state.reserve(&scope, &line.fingerprint, line.worst, EntryState::Open),
        fingerprint: line.fingerprint,
        n: line.n,
        request: line.request,
        outcome: None,
    });
    let lines = lines.collect();
    let progress = Progress { stage: Stage::Planned, intent, word: String::new(), remote: None, notes };
    let (created_at, changed_at) = (now(), now());
    let record = BatchRecord { id, scope, endpoint, model, progress, lines: [0; 3], created_at, changed_at };
    Ok(Some(state.shelf.insert(record, lines)))
}

fn land(state: &mut State, id: BatchId, cache: Cache, outcomes: Vec<(u32, Outcome)>) -> Result<u64> {
    for (_, outcome) in &outcomes {
        if let Outcome::Answered(response, bill) = outcome {
            check_amount(*bill).and_then(|()| check_response(response))?;
        }
    }
    let scope = state.shelf.batches.get(&id).map(|(record, _)| record.scope.clone()).ok_or_else(|| no_batch(id))?;
    let mut landed = 0;
    for (number, outcome) in outcomes {
        let line = state.shelf.batches.get(&id).and_then(|(_, lines)| lines.get(number as usize).cloned());
        let Some(line) = line.filter(|line| line.outcome.is_none()) else { continue };
        let (fingerprint, request, entry) = (&line.fingerprint, &line.request, Some(line.entry));
        let closed = match outcome {
            Outcome::Answered(response, bill) => {
                state.record(cache, Bought { scope: &scope, fingerprint, request, response, bill, entry })?;
                None
            }
            Outcome::Failed(failure, closing) => {
                state.close(line.entry, closing)?;
                Some(failure)
            }
        };
        if let Some((_, lines)) = state.shelf.batches.get_mut(&id) {
            lines[number as usize].outcome = Some(closed);
        }
        landed += 1;
    }
    Ok(landed)
}

fn under_way(state: &State, print: &Fingerprint) -> UnderWay {
    let mut way = UnderWay::default();
    for id in state.shelf.places.get(print).into_iter().flatten() {
        let Some((record, lines)) = state.shelf.batches.get(id) else { continue };
        way.lost.clear();
        for line in lines.iter().filter(|line| line.fingerprint == *print) {
            way.failed = None;
            if let Some(worst) = state.lost(line.entry) {
                way.lost.push((record.scope.clone(), worst));
            }
            match &line.outcome {
                None => {
                    way.samples = way.samples.saturating_add(line.n);
                    way.batches.push(*id);
                    way.held.push((record.scope.clone(), state.worst(line.entry)));
                }
                Some(failed) => way.failed.clone_from(failed),
            }
        }
    }
    way.batches.dedup();
    way
}

impl BatchBook for MemoryStore {
    fn open_batch(&self, batch: NewBatch, after: Option<BatchId>) -> Durable<Option<BatchId>> {
        at_once(open(&mut self.write(), batch, after))
    }

    fn move_batch(&self, id: BatchId, from: Stage, to: Progress) -> Durable<bool> {
        let mut state = self.write();
        let moved = match state.shelf.batches.get_mut(&id) {
            Some((record, _)) if record.progress.stage == from => {
                (record.progress, record.changed_at) = (to, now());
                true
            }
            _ => false,
        };
        at_once(Ok(moved))
    }

    fn split_batch(&self, id: BatchId, at: u32, intent: String, notes: String) -> Durable<BatchId> {
        let mut state = self.write();
        let new = state.shelf.new_id();
        let split = match state.shelf.batches.get_mut(&id) {
            Some((record, lines)) if record.progress.stage == Stage::Planned => {
                let rest = lines.split_off((at as usize).min(lines.len()));
                let progress = Progress { intent, notes, ..record.progress.clone() };
                let record = BatchRecord { id: new, progress, changed_at: now(), ..record.clone() };
                Ok(state.shelf.insert(record, rest))
            }
            _ => Err(no_batch(id)),
        };
        at_once(split)
    }

    fn batches(&self, open: bool) -> Result<Vec<BatchRecord>> {
        let state = self.read();
        let all = state.shelf.batches.keys().filter_map(|id| state.shelf.shown(*id));
        Ok(all.filter(|batch| !open || batch.progress.stage != Stage::Done).collect())
    }

    fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        Ok(self.read().shelf.shown(id))
    }

    fn batch_page(&self, id: BatchId, from: u32, most: usize) -> Result<Vec<BatchLine>> {
        let state = self.read();
        let lines = state.shelf.batches.get(&id).map_or(&[][..], |(_, lines)| lines.as_slice());
        let lines = lines.iter().enumerate().skip(from as usize).take(most);
        Ok(lines.map(|(number, line)| line.shown(number)).collect())
    }

    fn batch_lines(&self, id: BatchId, numbers: &[u32]) -> Result<Vec<BatchLine>> {
        let state = self.read();
        let lines = state.shelf.batches.get(&id).map_or(&[][..], |(_, lines)| lines.as_slice());
        Ok(numbers.iter().filter_map(|&at| Some(lines.get(at as usize)?.shown(at as usize))).collect())
    }

    fn land_lines_as(&self, cache: Cache, id: BatchId, outcomes: Vec<(u32, Outcome)>) -> Durable<u64> {
        at_once(land(&mut self.write(), id, cache, outcomes))
    }

    fn under_way(&self, fingerprints: &[Fingerprint]) -> Result<Vec<UnderWay>> {
        let state = self.read();
        Ok(fingerprints.iter().map(|print| under_way(&state, print)).collect())
    }

    fn keep_job(&self, id: &str, scope: &str, asks: Vec<AskRecord>) -> Durable<()> {
        let mut state = self.write();
        if state.shelf.jobs.iter().all(|(job, _)| job.id != id) {
            let (id, scope) = (id.to_owned(), scope.to_owned());
            let record = JobRecord { id, scope, asks: asks.len() as u64, created_at: now() };
            state.shelf.jobs.push((record, asks));
        }
        at_once(Ok(()))
    }

    fn jobs(&self) -> Result<Vec<JobRecord>> {
        Ok(self.read().shelf.jobs.iter().map(|(job, _)| job.clone()).collect())
    }

    fn asks(&self, job: &str, from: u64, most: usize) -> Result<Vec<AskRecord>> {
        let state = self.read();
        let asks = state.shelf.jobs.iter().find(|(record, _)| record.id == job).map(|(_, asks)| asks.iter());
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(asks.into_iter().flatten().skip(from).take(most).cloned().collect())
    }
}
