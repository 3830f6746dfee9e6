//! The loop: rows go out by their queues, come back in any order, and go to the back of the line where they failed. One task
//! owns the order; the rows themselves are asked by others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ask::{Landed, Prepared, Shared, run_part, unasked, wrong};
use super::folder::{Folder, Record};
use super::health::{Health, Verdict};
use crate::diagnostic::Result;
use crate::money::Usd;
use crate::provider::{Failure, FailureKind};
use crate::runner::{Hold, until};
use crate::study::Stop;

/// The wait before the second round of attempts; each later one waits twice as long, up to half a minute.
const ROUND: Duration = Duration::from_millis(500);

/// Where a run stands, for whoever watches it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Rows in all.
    pub rows: usize,
    /// Rows that are done, answered or not, of this run and earlier ones.
    pub done: usize,
    /// Those without an answer.
    pub failed: usize,
    /// Rows that the store answered.
    pub cached: usize,
    /// Money spent.
    pub spent: Usd,
    /// The cap.
    pub budget: Option<Usd>,
    /// Rows that wait for another attempt.
    pub again: usize,
}

/// Is told how a run goes.
pub type Watcher = Box<dyn FnMut(&Progress) + Send>;

/// How one queue went in this run.
#[derive(Clone, Debug, Default)]
pub struct QueueEnd {
    /// Rows answered.
    pub answered: usize,
    /// Rows that failed.
    pub failed: usize,
    /// Seconds from its first row's start to its last one's end.
    pub seconds: f64,
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Ended {
    /// Requests that were sent.
    pub requests: u64,
    /// Rows that the store answered.
    pub cached: usize,
    /// Attempts at rows.
    pub attempts: u64,
    /// By queue.
    pub queues: Vec<QueueEnd>,
    /// The user stopped it.
    pub interrupted: bool,
    /// A row did not fit the budget.
    pub over_budget: bool,
    /// Why the first one did not.
    pub refusal: Option<String>,
    /// Endpoints that could not be used: the model, why, and how many of its rows have no answer.
    pub out: Vec<(String, Failure, usize)>,
}

#[derive(Default)]
struct Queue {
    /// Rows of this round, where nothing need be held for them before.
    rows: VecDeque<u32>,
    /// Rows of this round for which money is held.
    held: VecDeque<(u32, Option<Hold>)>,
    /// Rows that are still to be admitted in this round.
    unadmitted: usize,
    /// Rows for another round.
    again: Vec<u32>,
    flying: usize,
    round: u32,
    not_before: Option<Instant>,
    started: Option<Instant>,
    end: QueueEnd,
}

impl Queue {
    fn empty(&self) -> bool {
        self.rows.is_empty() && self.held.is_empty() && self.unadmitted == 0
    }

    /// Nothing is left of this round, but there is of another.
    fn waits_for_a_round(&self) -> bool {
        self.empty() && self.flying == 0 && !self.again.is_empty()
    }

    fn done(&self) -> bool {
        self.empty() && self.flying == 0 && self.again.is_empty()
    }
}

/// One run over the rows of an experiment that are not done.
pub struct Engine<'a> {
    shared: Arc<Shared>,
    folder: &'a mut Folder,
    records: &'a mut [Option<Record>],
    queues: Vec<Queue>,
    /// Attempts at each row.
    attempts: Vec<u8>,
    most_attempts: u32,
    /// Rows in the order in which they ask for money.
    pending: VecDeque<u32>,
    sequential: bool,
    width: usize,
    health: Health,
    stop: Arc<Stop>,
    watcher: Option<Watcher>,
    progress: Progress,
    ended: Ended,
    tasks: JoinSet<Result<Landed>>,
}

/// How a run is to go.
pub struct Plan {
    /// Rows to be asked, in order.
    pub order: Vec<u32>,
    /// How many queues there are.
    pub queues: usize,
    /// Attempts that a row has.
    pub attempts: u32,
    /// One queue after the other.
    pub sequential: bool,
    /// Requests in flight at once.
    pub concurrency: usize,
    /// The user's wish to stop.
    pub stop: Arc<Stop>,
    /// Is told how it goes.
    pub watcher: Option<Watcher>,
    /// Where it stands before.
    pub progress: Progress,
}

impl<'a> Engine<'a> {
    /// Puts it together.
    pub fn new(
        shared: Arc<Shared>,
        folder: &'a mut Folder,
        records: &'a mut [Option<Record>],
        plan: Plan,
    ) -> Engine<'a> {
        let mut queues: Vec<Queue> = (0..plan.queues).map(|_| Queue { round: 1, ..Queue::default() }).collect();
        let mut pending = VecDeque::new();
        let queue_of = |row: u32| shared.entries[row as usize].queue as usize;
        if shared.capped {
            for &row in &plan.order {
                queues[queue_of(row)].unadmitted += 1;
            }
            pending = plan.order.into();
            if plan.sequential {
                pending.make_contiguous().sort_by_key(|&row| queue_of(row));
            }
        } else {
            plan.order.iter().for_each(|&row| queues[queue_of(row)].rows.push_back(row));
        }
        Engine {
            attempts: vec![0; shared.entries.len()],
            health: Health::new(plan.queues, shared.services.len()),
            most_attempts: plan.attempts.clamp(1, 255),
            // Those that are being written down are not being sent: as many more, and the endpoint need not wait for the
            // disk. One at a time means one after the other, in order.
            width: if plan.concurrency == 1 { 1 } else { plan.concurrency.saturating_mul(2) },
            sequential: plan.sequential,
            stop: plan.stop,
            watcher: plan.watcher,
            progress: plan.progress,
            ended: Ended::default(),
            tasks: JoinSet::new(),
            shared,
            folder,
            records,
            queues,
            pending,
        }
    }

    /// Runs until nothing is left to ask, or the user stops it.
    pub async fn run(mut self) -> Result<Ended> {
        loop {
            let stopping = self.stop.asked();
            if stopping {
                self.shared.runner.stop();
                if self.stop.at_once() {
                    self.tasks.shutdown().await;
                }
            } else {
                self.next_rounds();
                self.dispatch()?;
                // Rows of a service that is out are given up on the way: where that ended a round, the next one begins.
                if self.queues.iter().any(Queue::waits_for_a_round) {
                    continue;
                }
            }
            if self.tasks.is_empty() && (stopping || self.queues.iter().all(Queue::done)) {
                self.ended.interrupted = stopping;
                break;
            }
            let wants = match self.pending.front() {
                Some(&row) if !stopping && self.turn(row) => self.wants(row)?,
                _ => Wants::Nothing,
            };
            let wake = self.wake();
            let stop = self.stop.clone();
            let (purse, shared) = (self.shared.purse.clone(), self.shared.clone());
            let admission = async {
                match &wants {
                    Wants::Nothing => std::future::pending().await,
                    Wants::Refused(_) => Ok(None),
                    Wants::Free => Ok(purse.admit_in_time(Usd::ZERO, Usd::ZERO).await),
                    Wants::Money(row, prepared, loose) => {
                        let bounds = |tight| if tight { shared.worst(*row, prepared, true) } else { Ok(*loose) };
                        purse.admit_within(bounds).await
                    }
                }
            };
            tokio::select! {
                biased;
                () = stop.wished() => {}
                landed = self.tasks.join_next(), if !self.tasks.is_empty() => self.landed(landed)?,
                held = admission => self.admitted(held?, wants)?,
                () = until(wake) => {}
            }
        }
        self.folder.flush()?;
        let ends = self.queues.iter_mut().map(|queue| std::mem::take(&mut queue.end)).collect();
        self.ended.queues = ends;
        for (service, failure, rows) in self.health.all_out() {
            let name = &self.shared.services[service].model.name;
            match self.ended.out.iter_mut().find(|(known, ..)| known == name) {
                Some((_, _, known)) => *known += rows,
                None => self.ended.out.push((name.clone(), failure.clone(), rows)),
            }
        }
        Ok(self.ended)
    }

    /// Begins the next round of a queue whose round is over.
    fn next_rounds(&mut self) {
        for queue in &mut self.queues {
            if queue.waits_for_a_round() {
                let mut rows = std::mem::take(&mut queue.again);
                rows.sort_unstable();
                let wait = (ROUND * 2_u32.saturating_pow(queue.round.min(8) - 1)).min(Duration::from_secs(30));
                queue.round += 1;
                // Those that will not be asked need not wait.
                let asked = |row: &u32| self.health.out(self.shared.entries[*row as usize].service).is_none();
                if rows.iter().any(asked) {
                    queue.not_before = Some(Instant::now() + wait);
                }
                if self.shared.capped && self.sequential {
                    // Before those of later queues, which do not go before this one is done.
                    queue.unadmitted += rows.len();
                    rows.into_iter().rev().for_each(|row| self.pending.push_front(row));
                } else if self.shared.capped {
                    queue.unadmitted += rows.len();
                    self.pending.extend(rows);
                } else {
                    queue.rows.extend(rows);
                }
            }
        }
    }

    /// When to look again, where only time is wanting.
    fn wake(&self) -> Option<Instant> {
        let now = Instant::now();
        let waits = self.queues.iter().filter(|queue| !queue.rows.is_empty() || !queue.held.is_empty());
        waits.filter_map(|queue| queue.not_before).filter(|at| *at > now).min()
    }

    /// Sends what may go out.
    fn dispatch(&mut self) -> Result<()> {
        let now = Instant::now();
        let first = self.queues.iter().position(|queue| !queue.done());
        for at in 0..self.queues.len() {
            if self.sequential && first.is_some_and(|first| at != first) {
                continue;
            }
            loop {
                let queue = &mut self.queues[at];
                let width = if self.health.one_at_a_time(at) { 1 } else { self.width };
                if queue.flying >= width || queue.not_before.is_some_and(|moment| moment > now) {
                    break;
                }
                let next = queue.held.pop_front().or_else(|| queue.rows.pop_front().map(|row| (row, None)));
                let Some((row, hold)) = next else { break };
                let service = self.shared.entries[row as usize].service;
                if let Some(failure) = self.health.out(service).cloned() {
                    self.give_up(row, failure)?;
                    continue;
                }
                let queue = &mut self.queues[at];
                queue.flying += 1;
                queue.started.get_or_insert(now);
                self.health.sent(at);
                self.attempts[row as usize] = self.attempts[row as usize].saturating_add(1);
                self.ended.attempts += 1;
                self.tasks.spawn(self.shared.clone().ask(row, hold));
            }
        }
        Ok(())
    }

    /// It is this row's queue's turn.
    fn turn(&self, row: u32) -> bool {
        let first = self.queues.iter().position(|queue| !queue.done());
        !self.sequential || first == Some(self.shared.entries[row as usize].queue as usize)
    }

    /// What the first of those that wait for money needs.
    fn wants(&self, row: u32) -> Result<Wants> {
        let service = self.shared.entries[row as usize].service;
        if self.health.out(service).is_some() {
            return Ok(Wants::Free);
        }
        let Ok(prepared) = self.shared.prepare(row)? else { return Ok(Wants::Free) };
        let loose = self.shared.worst(row, &prepared, false)?;
        Ok(match loose {
            Usd::ZERO => Wants::Free,
            // What is bought is a beginning of the rows: after the first that did not fit only what is free is taken.
            _ if self.ended.over_budget => Wants::Refused(Box::new(prepared)),
            _ => Wants::Money(row, Box::new(prepared), loose),
        })
    }

    /// The first of those that wait for money got it, or did not.
    fn admitted(&mut self, held: Option<Hold>, wants: Wants) -> Result<()> {
        let Some(row) = self.pending.pop_front() else { return Ok(()) };
        let at = self.shared.entries[row as usize].queue as usize;
        self.queues[at].unadmitted -= 1;
        if let Some(hold) = held {
            self.queues[at].held.push_back((row, Some(hold)));
            return Ok(());
        }
        self.ended.over_budget = true;
        let (prepared, words) = match wants {
            Wants::Money(_, prepared, worst) => {
                let service = &self.shared.services[self.shared.entries[row as usize].service as usize];
                let words = service.no_room(&prepared.request, worst);
                (*prepared, words)
            }
            Wants::Refused(prepared) => {
                (*prepared, "an earlier row did not fit the budget, and rows are bought in order".into())
            }
            _ => match self.shared.prepare(row)? {
                Ok(prepared) => (prepared, "it does not fit the budget any more".to_owned()),
                Err((fault, read)) => return self.record(&wrong(row, &fault, &read), true),
            },
        };
        let failure = Failure::new(FailureKind::Budget, words);
        self.ended.refusal.get_or_insert_with(|| failure.message.clone());
        self.record(&unasked(row, failure, &prepared.asked, &prepared.row), true)
    }

    /// A row of a service that cannot be used.
    fn give_up(&mut self, row: u32, failure: Failure) -> Result<()> {
        let failure = Failure::new(failure.kind, format!("not asked: {failure}"));
        let landed = match self.shared.prepare(row)? {
            Ok(prepared) => unasked(row, failure, &prepared.asked, &prepared.row),
            Err((fault, read)) => wrong(row, &fault, &read),
        };
        self.record(&landed, true)
    }

    /// Attempts ended: this one, and all others that have by now.
    fn landed(&mut self, first: Option<std::result::Result<Result<Landed>, tokio::task::JoinError>>) -> Result<()> {
        let mut next = first;
        while let Some(joined) = next {
            let landed = match joined {
                Ok(landed) => landed?,
                Err(error) if error.is_cancelled() => return Ok(()),
                Err(error) => return Err(crate::Error::internal(format!("a row's task failed: {error}"))),
            };
            self.one(landed)?;
            next = self.tasks.try_join_next();
        }
        self.folder.flush()
    }

    fn one(&mut self, landed: Landed) -> Result<()> {
        let row = landed.row as usize;
        let entry = self.shared.entries[row];
        self.ended.requests += landed.requests;
        let attempts = u32::from(self.attempts[row]);
        let queue = &mut self.queues[entry.queue as usize];
        queue.flying -= 1;
        let now = Instant::now();
        queue.end.seconds = queue.started.map_or(0.0, |started| (now - started).as_secs_f64());
        if landed.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Interrupted) {
            // It was not asked, and is not done.
            return Ok(());
        }
        let verdict = self.health.landed(entry.queue, entry.service, &landed);
        let Some(failure) = landed.failure.clone() else {
            self.ended.cached += usize::from(landed.cached);
            self.progress.cached += usize::from(landed.cached);
            return self.record(&landed, false);
        };
        let id = landed.row + 1;
        self.folder.log(&format!("row {id}, attempt {attempts}: {}: {failure}", failure.kind.word()));
        match verdict {
            Verdict::Nothing => {}
            Verdict::Wait(wait) => {
                let queue = entry.queue;
                self.queues[queue as usize].not_before = Some(now + wait);
                tracing::info!(queue, ?wait, reason = %failure, "the endpoint seems to be away; one row is tried after a while");
            }
            Verdict::Out => {
                if failure.kind.transient() {
                    // Nobody is waited for any more.
                    self.queues[entry.queue as usize].not_before = None;
                }
                let model = &self.shared.services[entry.service as usize].model.name;
                self.folder.log(&format!("`{model}` is not asked any more: {failure}"));
                tracing::warn!("`{model}` is not asked any more: {failure}");
            }
        }
        if failure.kind.transient() && attempts < self.most_attempts && self.health.out(entry.service).is_none() {
            self.queues[entry.queue as usize].again.push(landed.row);
            self.tell();
            return Ok(());
        }
        // Money that others lost is not this row's fault.
        if failure.kind == FailureKind::Budget {
            self.ended.over_budget = true;
            self.ended.refusal.get_or_insert_with(|| failure.message.clone());
        }
        let again = failure.kind.transient() || failure.kind.fatal() || failure.kind == FailureKind::Budget;
        self.record(&landed, again)
    }

    /// A row is done.
    fn record(&mut self, landed: &Landed, again: bool) -> Result<()> {
        let row = landed.row as usize;
        let failed = landed.failure.is_some();
        if let Some(failure) = &landed.failure {
            self.health.unanswered(self.shared.entries[row].service, failure);
        }
        let before = self.records[row].replace(self.folder.complete(
            &landed.lasting,
            &run_part(landed, u32::from(self.attempts[row]), again),
            again,
        )?);
        let end = &mut self.queues[self.shared.entries[row].queue as usize].end;
        end.answered += usize::from(!failed);
        end.failed += usize::from(failed);
        self.progress.done += usize::from(before.is_none());
        self.progress.failed += usize::from(failed);
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        self.progress.spent = self.shared.purse.spent();
        self.progress.again = self.queues.iter().map(|queue| queue.again.len()).sum();
        if let Some(watcher) = &mut self.watcher {
            watcher(&self.progress);
        }
    }
}

/// What a row needs before it can go.
enum Wants {
    /// There is no row.
    Nothing,
    /// It costs nothing.
    Free,
    /// So much money, at a bound from bytes.
    Money(u32, Box<Prepared>, Usd),
    /// Nothing more is bought.
    Refused(Box<Prepared>),
}
