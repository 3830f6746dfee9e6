//! A batch on its way: submitted once, watched, found again where it is not known whether the provider has it.
//!
//! Every step is written down before it is taken where taking it twice would cost money, and may be taken twice where it
//! would not. So the program may end between any two of them, and whoever comes next goes on from there.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use super::link::{Link, Made, unusable};
use super::plan::Notes;
use super::state::{LOST, Phase, State};
use super::{Batch, Inner};
use crate::diagnostic::{Error, Result};
use crate::provider::tokens;
use crate::provider::{Failure, FailureKind, Input, Request};
use crate::store::batches::{BatchId, BatchLine, BatchRecord, LineFailure, Outcome, Progress, Stage};
use crate::store::{Closing, RequestRecord, fresh_name, now};

/// Lines that are read from the store, or written to it, in one go.
pub(super) const PAGE: usize = 512;

/// The endpoint cannot be reached just now, or not yet: what is out stays out.
fn passing(failure: &Failure) -> bool {
    failure.kind.transient()
}

impl Inner {
    /// Takes the wanted batches one step on: looks after those that are out, lands what is over, submits what there is room
    /// for. Gives those that are not done yet.
    pub(super) async fn advance(&self, wanted: impl Fn(&BatchRecord) -> bool) -> Result<Vec<BatchRecord>> {
        for mut record in self.store.batches(true)?.into_iter().filter(|record| wanted(record)) {
            // Results that were not whole: the provider may have named a file of them too late.
            let again = record.progress.stage == Stage::Ended && Notes::read(&record.progress.notes).looks > 0;
            if record.progress.stage == Stage::Out || again {
                record = self.look(record).await?;
            }
            if record.progress.stage == Stage::Ended {
                record = self.land(record).await?;
            }
            if record.progress.stage == Stage::Landed {
                self.tidy(record).await?;
            }
        }
        self.submit(&wanted).await?;
        let open = self.store.batches(true)?.into_iter().filter(|record| wanted(record));
        // What is only to be tidied up has nothing more to bring.
        Ok(open.filter(|record| record.progress.stage != Stage::Landed).collect())
    }

    /// Writes a step down; the batch as it is then.
    pub(super) async fn step(&self, mut record: BatchRecord, to: Progress) -> Result<BatchRecord> {
        let from = record.progress.stage;
        let changed = State::of(to.stage, &to.word) != State::of(from, &record.progress.word);
        if self.store.move_batch(record.id, from, to.clone()).await? {
            record.progress = to;
            record.changed_at = now();
        } else {
            // Another process was quicker.
            let id = record.id;
            record = self.store.batch(id)?.ok_or_else(|| Error::internal("a batch is gone from the store"))?;
        }
        if changed && let Some(watch) = &self.options.watch {
            watch(&Batch::of(&record));
        }
        Ok(record)
    }

    /// Asks the provider how a batch is.
    async fn look(&self, record: BatchRecord) -> Result<BatchRecord> {
        let link = self.link(&record.endpoint)?;
        let Some(remote) = record.progress.remote.clone() else { return Ok(record) };
        let mut notes = Notes::read(&record.progress.notes);
        let seen = match link.get(&remote).await {
            Ok(Some(seen)) => seen,
            Ok(None) => {
                tracing::warn!(
                    batch = remote,
                    endpoint = record.endpoint,
                    "the provider does not know this batch any more"
                );
                let to = Progress { stage: Stage::Ended, word: LOST.to_owned(), ..record.progress.clone() };
                return self.step(record, to).await;
            }
            Err(failure) if passing(&failure) => {
                tracing::warn!(batch = remote, endpoint = record.endpoint, %failure, "the batch cannot be looked at now");
                return Ok(record);
            }
            Err(failure) => return Err(unusable(&record.endpoint, &failure)),
        };
        (notes.results, notes.errors, notes.counts) = (seen.results, seen.errors, seen.counts);
        let stage = if Phase::of_word(&seen.word).over() { Stage::Ended } else { Stage::Out };
        let to = Progress { stage, word: seen.word, notes: notes.write(), ..record.progress.clone() };
        if to == record.progress { Ok(record) } else { self.step(record, to).await }
    }

    /// Submits what there is room for, one batch after the other, and finds out about those that may have been submitted.
    /// Only one process does so at a time; where another one is at it, it is left to that.
    async fn submit(&self, wanted: &impl Fn(&BatchRecord) -> bool) -> Result<()> {
        let due = |record: &BatchRecord| {
            matches!(record.progress.stage, Stage::Planned | Stage::Submitting) && wanted(record)
        };
        if !self.store.batches(true)?.iter().any(due) {
            return Ok(());
        }
        let _turn = self.submitting.lock().await;
        let Some(_lock) = self.lock()? else { return Ok(()) };
        // What was seen before the lock was ours may have gone on.
        for record in self.store.batches(true)?.into_iter().filter(due) {
            let link = self.link(&record.endpoint)?;
            let mut record = match record.progress.stage {
                Stage::Submitting => self.reconcile(&link, record).await?,
                _ => record,
            };
            if record.progress.stage == Stage::Planned && self.has_room(&link, &mut record).await? {
                self.submit_one(&link, record).await?;
            }
        }
        Ok(())
    }

    /// The right to submit; `None` where another process has it.
    fn lock(&self) -> Result<Option<Option<File>>> {
        let Some(path) = &self.options.lock else { return Ok(Some(None)) };
        let problem = |error: std::io::Error| Error::internal(format!("cannot lock {}: {error}", path.display()));
        let file = File::options().create(true).append(true).open(path).map_err(problem)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Some(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(problem(error)),
        }
    }

    /// The provider's queue has room for a batch, as far as we know. One that alone is larger than the queue is split.
    async fn has_room(&self, link: &Link, record: &mut BatchRecord) -> Result<bool> {
        let mut all = self.store.batches(true)?;
        all.retain(|other| other.endpoint == record.endpoint && other.model == record.model);
        let told = all.iter().filter_map(|other| Notes::read(&other.progress.notes).limit).min();
        let service = self.service(&record.model)?;
        let limit = told.into_iter().chain(self.queue_limit(&service.model, &link.endpoint)).min();
        all.retain(|other| matches!(other.progress.stage, Stage::Submitting | Stage::Out));
        if limit.is_some() {
            *record = self.counted(record.clone()).await?;
            for other in all.iter_mut().filter(|other| other.progress.stage == Stage::Out) {
                *other = self.counted(other.clone()).await?;
            }
        }
        let notes = Notes::read(&record.progress.notes);
        let out: Vec<u64> = all.iter().map(|other| Notes::read(&other.progress.notes).tokens).collect();
        let (queued, waits) = (out.iter().sum::<u64>(), notes.not_before > now());
        if let Some(limit) = limit
            && notes.refusals > 0
            && out.is_empty()
            && !waits
        {
            // The provider refused it though nothing else of ours may be in its way: smaller ones may pass.
            let lines = record.lines[0];
            if lines > 1 && (notes.tokens > limit || notes.refusals > 2) {
                // As many as fit; half of them where they seem to fit, and somebody else takes the room.
                let share = if notes.tokens > limit { limit as f64 / notes.tokens as f64 } else { 0.5 };
                let first = ((lines as f64 * share) as u64).clamp(1, lines - 1);
                let tokens = (notes.tokens as f64 * first as f64 / lines as f64).ceil() as u64;
                let part = |tokens| Notes { tokens, input: None, uploading: false, ..notes.clone() }.write();
                let rest = part(notes.tokens.saturating_sub(tokens));
                self.store.split_batch(record.id, first as u32, fresh_name("frth"), rest).await?;
                let to = Progress { notes: part(tokens), ..record.progress.clone() };
                let record = self.step(record.clone(), to).await?;
                self.submit_one(link, record).await?;
                return Ok(false);
            }
        }
        Ok(match limit {
            Some(limit) => !waits && (out.is_empty() || queued.saturating_add(notes.tokens) <= limit),
            None => !waits,
        })
    }

    /// A batch whose input tokens are counted as near as they can be: what is learnt of the queue from a refusal is not
    /// given away by a bound that is several times too high.
    async fn counted(&self, record: BatchRecord) -> Result<BatchRecord> {
        let mut notes = Notes::read(&record.progress.notes);
        if notes.counted {
            return Ok(record);
        }
        let mut sum = 0_u64;
        for page in self.open_pages(record.id) {
            let page = page?;
            let requests = page.iter().filter_map(|line| request_of(line).ok());
            sum = sum.saturating_add(requests.map(|request| queue_tokens(&request)).sum());
        }
        (notes.tokens, notes.counted) = (sum, true);
        let to = Progress { notes: notes.write(), ..record.progress.clone() };
        self.step(record, to).await
    }

    /// Submits a batch that was written down.
    async fn submit_one(&self, link: &Link, mut record: BatchRecord) -> Result<()> {
        let mut notes = Notes::read(&record.progress.notes);
        let (body, lines) = self.encode(link, &record).await?;
        if lines == 0 {
            let to = Progress { stage: Stage::Landed, ..record.progress.clone() };
            let record = self.step(record, to).await?;
            return self.tidy(record).await;
        }
        let intent = record.progress.intent.clone();
        let body = match link.dialect.has_files() {
            false => body,
            true => {
                let name = format!("{intent}.jsonl");
                let found = match notes.uploading && notes.input.is_none() {
                    true => link.find_file(&name, body.len()).await,
                    false => Ok(None),
                };
                if !notes.uploading {
                    notes.uploading = true;
                    let to = Progress { notes: notes.write(), ..record.progress.clone() };
                    record = self.step(record, to).await?;
                }
                let input = match (notes.input.clone(), found) {
                    (Some(input), _) | (None, Ok(Some(input))) => input,
                    (None, Ok(None)) => match link.upload(&name, &body).await {
                        Ok(input) => input,
                        Err(failure) => return Err(unusable(&record.endpoint, &failure)),
                    },
                    (None, Err(failure)) => return Err(unusable(&record.endpoint, &failure)),
                };
                notes.input = Some(input.clone());
                link.dialect.create(&input, &notes.url, &intent)
            }
        };
        // From here on the provider may have it.
        let to = Progress { stage: Stage::Submitting, notes: notes.write(), ..record.progress.clone() };
        let record = self.step(record, to).await?;
        if record.progress.stage != Stage::Submitting {
            return Ok(());
        }
        match link.make(body).await {
            Made::Yes(seen) => {
                let (stage, remote) = (Stage::Out, Some(seen.id));
                let to = Progress { stage, word: seen.word, remote, ..record.progress.clone() };
                self.step(record, to).await.map(drop)
            }
            Made::No(failure) => {
                let to = Progress { stage: Stage::Planned, ..record.progress.clone() };
                let endpoint = record.endpoint.clone();
                self.step(record, to).await?;
                Err(unusable(&endpoint, &failure))
            }
            Made::Perhaps(failure) => {
                tracing::warn!(endpoint = record.endpoint, %failure, "it is not known whether a batch was made; it will be looked for");
                Ok(())
            }
        }
    }

    /// The open lines of a batch as they are sent, and how many there are. What cannot be sent gets its error at once.
    async fn encode(&self, link: &Link, record: &BatchRecord) -> Result<(Vec<u8>, usize)> {
        let [before, between, behind] = link.dialect.frame();
        let (mut body, mut count) = (before.to_vec(), 0);
        let mut refused = Vec::new();
        for page in self.open_pages(record.id) {
            for line in &page? {
                let call =
                    request_of(line).and_then(|request| link.http.wire().encode(&link.http.sendable(&request), line.n));
                let call = match call {
                    Ok(call) => call,
                    Err(failure) => {
                        let failure = LineFailure { failure, retryable: false };
                        refused.push((line.number, Outcome::Failed(failure, Closing::Released)));
                        continue;
                    }
                };
                if count > 0 {
                    body.extend_from_slice(between);
                }
                count += 1;
                body.extend_from_slice(&link.dialect.line(&custom_id(&record.progress.intent, line.number), &call));
            }
        }
        body.extend_from_slice(behind);
        if !refused.is_empty() {
            self.store.land_lines(record.id, refused).await?;
        }
        Ok((body, count))
    }

    /// Finds out whether the provider has a batch that was being submitted when a program ended or a connection broke. It
    /// is submitted again only when a while has passed and the provider does not list it.
    async fn reconcile(&self, link: &Link, record: BatchRecord) -> Result<BatchRecord> {
        let mut notes = Notes::read(&record.progress.notes);
        let marked = link.dialect.has_marks();
        // Clocks differ; what is ours is told by more than its age.
        let listed = match link.list(record.changed_at.saturating_sub(90_000)).await {
            Ok(listed) => listed,
            Err(failure) if passing(&failure) => {
                tracing::warn!(endpoint = record.endpoint, %failure, "the batches cannot be listed now");
                return Ok(record);
            }
            Err(failure) => return Err(unusable(&record.endpoint, &failure)),
        };
        let mut ours: Vec<_> = match marked {
            true => listed.into_iter().filter(|seen| seen.intent.as_deref() == Some(&record.progress.intent)).collect(),
            false => {
                let known = self.store.batches(false)?;
                let known: HashSet<&str> = known.iter().filter_map(|batch| batch.progress.remote.as_deref()).collect();
                let open = record.lines[0] - record.lines[1] - record.lines[2];
                let fits = |seen: &super::dialect::Seen| {
                    !known.contains(seen.id.as_str()) && !notes.foreign.contains(&seen.id) && seen.counts[0] == open
                };
                listed.into_iter().filter(fits).collect()
            }
        };
        ours.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let mut ours = ours.into_iter();
        if let Some(found) = ours.next() {
            tracing::info!(batch = found.id, "found a batch that was being submitted");
            if marked {
                for twin in ours {
                    tracing::warn!(batch = twin.id, "the provider made this batch twice: the second one is cancelled");
                    drop(link.cancel(&twin.id).await);
                }
            }
            notes.tentative = !marked;
            let (stage, remote) = (Stage::Out, Some(found.id));
            let to = Progress { stage, word: found.word, remote, notes: notes.write(), ..record.progress.clone() };
            return self.step(record, to).await;
        }
        let waited = now().saturating_sub(record.changed_at);
        // Whole seconds are counted, so the last one must have passed.
        if waited <= i64::try_from(self.options.grace.as_secs()).unwrap_or(i64::MAX) {
            return Ok(record);
        }
        let to = Progress { stage: Stage::Planned, ..record.progress.clone() };
        self.step(record, to).await
    }

    /// Deletes what a batch has left at the provider.
    async fn tidy(&self, record: BatchRecord) -> Result<()> {
        let link = self.link(&record.endpoint)?;
        let notes = Notes::read(&record.progress.notes);
        if !(self.options.keep_files || notes.keep)
            && State::of(record.progress.stage, &record.progress.word).phase != Phase::Lost
        {
            let gone: Vec<&String> = match link.dialect.has_files() {
                true => notes.input.iter().chain(&notes.results).collect(),
                false => record.progress.remote.iter().collect(),
            };
            for file in gone {
                match link.delete(file).await {
                    Ok(()) => {}
                    Err(failure) if passing(&failure) => {
                        tracing::warn!(file, %failure, "a file cannot be deleted now; the next command will");
                        return Ok(());
                    }
                    Err(failure) => tracing::warn!(file, %failure, "a file stays at the provider"),
                }
            }
        }
        let to = Progress { stage: Stage::Done, ..record.progress.clone() };
        self.step(record, to).await.map(drop)
    }

    /// Asks for a batch to be cancelled, or takes it back where it was not submitted.
    pub(super) async fn cancel_batch(&self, record: BatchRecord) -> Result<()> {
        match record.progress.stage {
            Stage::Planned => {
                let failure = LineFailure {
                    failure: Failure::new(FailureKind::Interrupted, "cancelled before it was submitted"),
                    retryable: true,
                };
                self.close_open(&record, &failure, Closing::Released).await?;
                let word = "cancelled".to_owned();
                let to = Progress { stage: Stage::Landed, word, ..record.progress.clone() };
                let record = self.step(record, to).await?;
                self.tidy(record).await
            }
            Stage::Out if Notes::read(&record.progress.notes).tentative => Err(Error::usage(format!(
                "whether {} is ours is known only when it has ended, so it is not cancelled",
                record.progress.remote.as_deref().unwrap_or("this batch")
            ))
            .help("the program ended while it was submitted, and this provider's batches bear no mark")),
            Stage::Out => {
                let link = self.link(&record.endpoint)?;
                let Some(remote) = record.progress.remote.clone() else { return Ok(()) };
                let word = match link.cancel(&remote).await {
                    Ok(Some(seen)) => seen.word,
                    // Looking at it will say what it is.
                    Ok(None) => return Ok(()),
                    Err(failure) => return Err(unusable(&record.endpoint, &failure)),
                };
                // Its results are looked for by the next look, with all else that it says.
                let word = if Phase::of_word(&word).over() { record.progress.word.clone() } else { word };
                let to = Progress { word, ..record.progress.clone() };
                self.step(record, to).await.map(drop)
            }
            Stage::Submitting | Stage::Ended | Stage::Landed | Stage::Done => Ok(()),
        }
    }

    /// Gives every open line of a batch the same outcome.
    pub(super) async fn close_open(&self, record: &BatchRecord, failure: &LineFailure, closing: Closing) -> Result<()> {
        for page in self.open_pages(record.id) {
            let outcome = |line: &BatchLine| (line.number, Outcome::Failed(failure.clone(), closing));
            self.store.land_lines(record.id, page?.iter().map(outcome).collect()).await?;
        }
        Ok(())
    }

    /// The open lines of a batch, in order, page by page.
    pub(super) fn open_pages(&self, id: BatchId) -> impl Iterator<Item = Result<Vec<BatchLine>>> + '_ {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            loop {
                let mut page = match self.store.batch_page(id, from?, PAGE) {
                    Ok(page) => page,
                    Err(error) => {
                        from = None;
                        return Some(Err(error));
                    }
                };
                from = page.last().map(|last| last.number + 1);
                page.retain(|line| !line.closed);
                if !page.is_empty() {
                    return Some(Ok(page));
                }
            }
        })
    }

    /// The link to an endpoint of a name, opened once.
    pub(super) fn link(&self, name: &str) -> Result<Arc<Link>> {
        let mut links = self.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(link) = links.get(name) {
            return Ok(link.clone());
        }
        let Some(endpoint) = self.endpoints.list.iter().find(|endpoint| endpoint.name == name) else {
            return Err(Error::usage(format!(
                "a batch is out at the endpoint `{name}`, which is in no farthing.toml now"
            ))
            .help("put it back, or name the file that has it with --endpoints"));
        };
        let link = Arc::new(Link::open(endpoint)?);
        links.insert(name.to_owned(), link.clone());
        Ok(link)
    }
}

/// The input tokens of a request: counted, or, where the tokenizer is not known, half its bytes and some for each message.
fn queue_tokens(request: &Request) -> u64 {
    tokens::input_count(request).unwrap_or_else(|| {
        let (bytes, messages) = match &request.input {
            Input::Text(text) => (text.len(), 1),
            Input::Messages(all) => (all.iter().map(|one| one.content.len() + one.role.len()).sum(), all.len()),
        };
        bytes.div_ceil(2) as u64 + 8 * messages as u64
    })
}

/// The name that a line has at the provider.
pub(super) fn custom_id(intent: &str, number: u32) -> String {
    format!("{intent}-{number}")
}

/// The line that a name means.
pub(super) fn line_of(intent: &str, custom_id: &str) -> Option<u32> {
    custom_id.strip_prefix(intent)?.strip_prefix('-')?.parse().ok()
}

/// The request of an open line.
pub(super) fn request_of(line: &BatchLine) -> Result<Request, Failure> {
    #[derive(serde::Deserialize)]
    struct Body {
        messages: Option<Vec<crate::provider::Message>>,
        prompt: Option<String>,
        #[serde(default)]
        params: std::collections::BTreeMap<String, serde_json::Value>,
    }
    let RequestRecord { model, body, .. } = &line.request;
    let unreadable = || Failure::new(FailureKind::BadRequest, "the store has a request that cannot be read");
    let body: Body = serde_json::from_str(body).map_err(|_| unreadable())?;
    let input = match (body.messages, body.prompt) {
        (Some(messages), _) => crate::provider::Input::Messages(messages),
        (None, Some(prompt)) => crate::provider::Input::Text(prompt),
        (None, None) => return Err(unreadable()),
    };
    Ok(Request { model: model.clone(), input, params: body.params, n: line.n })
}
