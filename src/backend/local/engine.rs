//! Continuous batching: one thread of a model's own takes all requests that are there through the model together, a token
//! a step; requests join and leave between steps.
//!
//! A request's prompt goes through once, in pieces of a fixed length, and its samples share what came of it. The memory of
//! keys and values is bounded: a sample begins only when there is room for all that it may say. Whoever stopped waiting for
//! an answer leaves the batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use rayon::prelude::*;
use tokio::sync::oneshot;

use super::forward::{Decoder, Forward, Run, Seen};
use super::model::Model;
use super::sample::{Growing, Picking, Record, Shared};
use crate::provider::{self, Failure, FailureKind};

/// Prompt tokens that go through at a time, of one request.
pub(super) const PIECE: usize = 128;
/// Rows of a step, about: more do not make it faster.
const ROWS: usize = 1024;
/// Samples that grow at a time.
const MOST_SAMPLES: usize = 512;

/// The samples of a request, or why there are none.
type Outcome = Result<Vec<provider::Sample>, Failure>;

/// A request as the engine takes it.
pub struct Job {
    /// What its samples share.
    pub shared: Arc<Shared>,
    /// The samples' numbers.
    pub numbers: std::ops::Range<u64>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Outcome>,
}

/// A model at work.
pub struct Engine {
    /// The model.
    pub model: Arc<Model>,
    jobs: Sender<Job>,
    /// Tokens whose keys and values are held at a time.
    room: usize,
    /// They are held by so many at a time.
    grain: usize,
    bytes_per_token: u64,
}

/// A request in the batch.
struct Group<C> {
    shared: Arc<Shared>,
    answer: oneshot::Sender<Outcome>,
    prompt: C,
    /// The logits after the prompt, when it has gone through.
    first: Option<Vec<f32>>,
    records: Vec<Record>,
    /// Numbers of samples that have not begun.
    waiting: std::ops::Range<u64>,
    /// Samples in the order of their numbers.
    samples: Vec<Seat<C>>,
    /// Tokens of memory that its prompt holds.
    held: usize,
    /// Tokens of memory that a sample needs.
    each: usize,
}

/// A sample with its keys and values.
struct Seat<C> {
    growing: Growing,
    cache: C,
    /// Tokens of memory that it holds.
    held: usize,
}

impl Engine {
    /// Starts a model's thread.
    pub fn start(model: Model) -> std::io::Result<Engine> {
        Engine::with_room(model, None)
    }

    /// With room for so many tokens' keys and values.
    pub fn with_room(model: Model, room: Option<usize>) -> std::io::Result<Engine> {
        match model.decoder.clone() {
            Decoder::Rows(decoder) => Engine::of(model, decoder, room),
            Decoder::Tensors(decoder) => Engine::of(model, decoder, room),
        }
    }

    fn of<D: Forward>(model: Model, decoder: Arc<D>, room: Option<usize>) -> std::io::Result<Engine> {
        let room = room.unwrap_or_else(|| decoder.room());
        let (grain, bytes_per_token) = (decoder.grain(), decoder.bytes_per_token());
        let model = Arc::new(model);
        let (jobs, queue) = channel();
        let mine = model.clone();
        std::thread::Builder::new()
            .name("farthing-local".into())
            .spawn(move || Batch::new(mine, decoder, room).serve(&queue))?;
        Ok(Engine { model, jobs, room, grain, bytes_per_token })
    }

    /// Gives it work; `Err` where a sample alone would not fit.
    pub fn take(&self, job: Job) -> Result<(), Failure> {
        let (prompt, each) = job.needs(self.grain);
        let needed = prompt + each;
        if needed > self.room {
            let per_token = self.bytes_per_token;
            let message = format!(
                "prompt ({} tokens) and completion (up to {}) need {} MB for keys and values, and {} MB are set aside: ask for less with max_tokens",
                job.shared.prompt.len(),
                job.shared.most,
                needed as u64 * per_token / 1_000_000,
                self.room as u64 * per_token / 1_000_000
            );
            return Err(Failure::new(FailureKind::ContextTooLong, message));
        }
        self.jobs.send(job).map_err(|_| stopped())
    }
}

impl Job {
    /// Tokens of memory that its prompt needs, and each of its samples.
    fn needs(&self, grain: usize) -> (usize, usize) {
        let whole = |tokens: usize| tokens.next_multiple_of(grain);
        (whole(self.shared.prompt.len()), whole(self.shared.most))
    }
}

fn stopped() -> Failure {
    Failure::new(FailureKind::Server, "the local model has stopped")
}

/// All that is under way.
struct Batch<D: Forward> {
    model: Arc<Model>,
    decoder: Arc<D>,
    queue: VecDeque<Job>,
    groups: Vec<Group<D::Cache>>,
    /// Tokens of memory that are free.
    free: usize,
    shards: Vec<Shard<D::Scratch>>,
    picking: Picking,
    by_rows: bool,
    /// True after a step that went well.
    works: bool,
}

/// What one thread needs.
#[derive(Default)]
struct Shard<S> {
    scratch: S,
    picking: Picking,
}

/// One sequence's part in a step.
enum Part<'a, C> {
    /// A piece of a prompt.
    Prompt { group: &'a mut Group<C>, from: usize, to: usize },
    /// A sample's next token.
    Sample { prompt: &'a C, seat: &'a mut Seat<C> },
}

impl<C> Part<'_, C> {
    fn rows(&self) -> usize {
        match self {
            Part::Prompt { from, to, .. } => to - from,
            Part::Sample { .. } => 1,
        }
    }
}

impl<D: Forward> Batch<D> {
    fn new(model: Arc<Model>, decoder: Arc<D>, room: usize) -> Batch<D> {
        Batch {
            model,
            by_rows: decoder.by_rows(),
            decoder,
            queue: VecDeque::new(),
            groups: Vec::new(),
            free: room,
            shards: Vec::new(),
            picking: Picking::default(),
            works: false,
        }
    }

    /// Works until nobody can give it work any more and none is left.
    fn serve(mut self, jobs: &Receiver<Job>) {
        let mut open = true;
        while open || !self.queue.is_empty() || !self.groups.is_empty() {
            if self.queue.is_empty() && self.groups.is_empty() {
                match jobs.recv() {
                    Ok(job) => self.queue.push_back(job),
                    Err(_) => return,
                }
            }
            loop {
                match jobs.try_recv() {
                    Ok(job) => self.queue.push_back(job),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        open = false;
                        break;
                    }
                }
            }
            self.leave();
            self.join();
            let busy = !self.groups.is_empty();
            if let Err(error) = self.step() {
                // A model that never worked will not for the next request; what one prompt does to it, others beside it
                // need not suffer again.
                let kind = if self.works { FailureKind::Server } else { FailureKind::BadRequest };
                let what = error.to_string();
                let what = what.lines().next().unwrap_or_default();
                let failure = Failure::new(kind, format!("the local model failed: {what}"));
                for group in self.groups.drain(..) {
                    self.free += group.holds();
                    // Who asked may have gone.
                    let _ = group.answer.send(Err(failure.clone()));
                }
            } else {
                self.works |= busy;
            }
            self.answer();
        }
    }

    /// Who asked has gone.
    fn leave(&mut self) {
        self.queue.retain(|job| !job.answer.is_closed());
        let free = &mut self.free;
        self.groups.retain(|group| {
            if group.answer.is_closed() {
                *free += group.holds();
            }
            !group.answer.is_closed()
        });
    }

    /// Samples of those that are there already begin first; then requests join, in their order, while there is room.
    fn join(&mut self) {
        let mut growing: usize = self.groups.iter().map(|group| group.samples.len()).sum();
        let decoder = &*self.decoder;
        for group in &mut self.groups {
            growing += group.begin(decoder, MOST_SAMPLES.saturating_sub(growing), &mut self.free);
            // The prompt of samples that had to wait has gone through.
            group.start(&self.model, &mut self.picking);
        }
        while let Some(job) = self.queue.front() {
            let (held, each) = job.needs(decoder.grain());
            if growing >= MOST_SAMPLES || held + each > self.free {
                break;
            }
            let Some(job) = self.queue.pop_front() else { break };
            self.free -= held;
            let mut group = Group {
                held,
                each,
                prompt: decoder.cache(),
                first: None,
                records: Vec::new(),
                waiting: job.numbers,
                samples: Vec::new(),
                shared: job.shared,
                answer: job.answer,
            };
            growing += group.begin(decoder, MOST_SAMPLES - growing, &mut self.free);
            self.groups.push(group);
        }
    }

    /// Takes one token, or a piece of a prompt, of everything through the model.
    fn step(&mut self) -> candle_core::Result<()> {
        let mut parts = Vec::new();
        let mut rows = 0;
        for group in &mut self.groups {
            let (seen, whole) = (group.prompt.tokens(), group.shared.prompt.len());
            if seen < whole {
                if rows < ROWS {
                    // Pieces begin at the same places whatever else is under way.
                    let to = (seen + PIECE).min(whole);
                    rows += to - seen;
                    parts.push(Part::Prompt { group, from: seen, to });
                }
                continue;
            }
            let Group { prompt, samples, .. } = group;
            for seat in samples.iter_mut().filter(|seat| !seat.growing.ended()) {
                rows += 1;
                parts.push(Part::Sample { prompt, seat });
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        let threads = if self.by_rows { rayon::current_num_threads().clamp(1, rows.div_ceil(4)) } else { 1 };
        let share = rows.div_ceil(threads);
        let mut shares: Vec<Vec<Part<D::Cache>>> = Vec::new();
        let mut taken = share;
        for part in parts {
            if taken >= share {
                shares.push(Vec::new());
                taken = 0;
            }
            taken += part.rows();
            if let Some(last) = shares.last_mut() {
                last.push(part);
            }
        }
        self.shards.resize_with(shares.len().max(self.shards.len()), Shard::default);
        let (model, decoder) = (&*self.model, &*self.decoder);
        let spread = !self.by_rows;
        match shares.len() {
            1 => go(model, decoder, shares.remove(0), &mut self.shards[0], spread),
            _ => shares
                .into_par_iter()
                .zip(self.shards.par_iter_mut())
                .map(|(parts, shard)| go(model, decoder, parts, shard, spread))
                .collect(),
        }
    }

    /// Whose samples have all ended is answered.
    fn answer(&mut self) {
        let mut at = 0;
        while at < self.groups.len() {
            self.free += self.groups[at].release();
            if !self.groups[at].done() {
                at += 1;
                continue;
            }
            let group = self.groups.remove(at);
            self.free += group.holds();
            let finished = |seat: Seat<D::Cache>| seat.growing.finished(&self.model.vocabulary, &group.records);
            let samples = group.samples.into_iter().map(finished).collect();
            // Who asked may have gone.
            let _ = group.answer.send(Ok(samples));
        }
    }
}

impl<C: Seen> Group<C> {
    /// Lets as many samples begin as there is room for; gives how many.
    fn begin(&mut self, decoder: &impl Forward<Cache = C>, most: usize, free: &mut usize) -> usize {
        let each = self.each;
        let mut begun = 0;
        while begun < most && (each == 0 || *free >= each) {
            let Some(number) = self.waiting.next() else { break };
            *free -= each;
            let growing = Growing::new(self.shared.clone(), number);
            self.samples.push(Seat { growing, cache: decoder.cache(), held: each });
            begun += 1;
        }
        begun
    }

    /// Gives up the memory of samples that have ended; says how much.
    fn release(&mut self) -> usize {
        let ended = self.samples.iter_mut().filter(|seat| seat.growing.ended() && seat.held > 0);
        ended
            .map(|seat| {
                seat.cache = C::default();
                std::mem::take(&mut seat.held)
            })
            .sum()
    }

    /// The memory that it holds.
    fn holds(&self) -> usize {
        self.held + self.samples.iter().map(|seat| seat.held).sum::<usize>()
    }

    fn done(&self) -> bool {
        self.waiting.is_empty() && self.first.is_some() && self.samples.iter().all(|seat| seat.growing.ended())
    }

    /// Keeps the log probabilities of a prompt's piece.
    fn score(&mut self, from: usize, to: usize, logits: &[f32], vocabulary: &super::vocabulary::Vocabulary) {
        let width = vocabulary_width(logits, to - from);
        let top = self.shared.settings.logprobs.map_or(0, |wanted| wanted.top);
        let mut offset = self.records.last().map_or(0, |record| record.ends(vocabulary));
        if from == 0 {
            let Some(&first) = self.shared.prompt.first() else { return };
            self.records.push(Record::new(first, None, 0, 0));
            offset = vocabulary.text(first).len();
        }
        for (at, logits) in (from..to).zip(logits.chunks_exact(width)) {
            let Some(&next) = self.shared.prompt.get(at + 1) else { break };
            self.records.push(Record::new(next, Some(logits), top, offset));
            offset += vocabulary.text(next).len();
        }
    }
}

fn vocabulary_width(logits: &[f32], rows: usize) -> usize {
    (logits.len() / rows.max(1)).max(1)
}

/// One thread's share of a step.
fn go<D: Forward>(
    model: &Model,
    decoder: &D,
    parts: Vec<Part<'_, D::Cache>>,
    shard: &mut Shard<D::Scratch>,
    spread: bool,
) -> candle_core::Result<()> {
    let Shard { scratch, picking } = shard;
    // What a prompt's samples begin with is picked by all of them from the same logits, without another pass.
    let mut parts = parts;
    let mut tokens: Vec<Vec<u32>> = Vec::with_capacity(parts.len());
    for part in &parts {
        tokens.push(match part {
            Part::Prompt { group, from, to } => group.shared.prompt[*from..*to].to_vec(),
            Part::Sample { seat, .. } => seat.growing.last().to_vec(),
        });
    }
    let wanted: Vec<usize> = parts
        .iter()
        .map(|part| match part {
            Part::Prompt { group, from, to } if group.shared.scores_prompt() => to - from,
            Part::Prompt { group, to, .. } => usize::from(*to == group.shared.prompt.len()),
            Part::Sample { .. } => 1,
        })
        .collect();
    let mut runs: Vec<Run<D::Cache>> = parts
        .iter_mut()
        .zip(&tokens)
        .zip(&wanted)
        .map(|((part, tokens), &wanted)| match part {
            Part::Prompt { group, .. } => Run { prefix: None, own: &mut group.prompt, tokens, wanted },
            Part::Sample { prompt, seat } => Run { prefix: Some(*prompt), own: &mut seat.cache, tokens, wanted },
        })
        .collect();
    let logits = decoder.forward(&mut runs, scratch, spread)?;
    drop(runs);
    let width = decoder.architecture().vocabulary;
    let mut rows = &logits[..];
    for (part, wanted) in parts.into_iter().zip(wanted) {
        let (mine, rest) = rows.split_at(wanted * width);
        rows = rest;
        match part {
            Part::Sample { seat, .. } => {
                seat.growing.accept(mine, &model.vocabulary, &model.ends, picking);
            }
            Part::Prompt { group, from, to } => {
                if group.shared.scores_prompt() {
                    group.score(from, to, mine, &model.vocabulary);
                }
                if to == group.shared.prompt.len() {
                    let last = mine[mine.len() - width..].to_vec();
                    group.first = Some(last);
                    group.start(model, picking);
                }
            }
        }
    }
    Ok(())
}

impl<C> Group<C> {
    /// Samples that have said nothing yet pick their first token.
    fn start(&mut self, model: &Model, picking: &mut Picking) {
        let Some(first) = &self.first else { return };
        let new = self.samples.iter_mut().map(|seat| &mut seat.growing);
        for growing in new.filter(|growing| !growing.begun() && !growing.ended()) {
            growing.accept(first, &model.vocabulary, &model.ends, picking);
        }
    }
}
