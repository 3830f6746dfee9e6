//! Requests through the providers' batch APIs: half the price, an answer within a day.
//!
//! A *job* is a list of requests under the caller's ids. Whatever of it the store does not have, and is not on its way
//! already, is bought in batches, cut by the provider's limits. All of it is in the store before and after it is
//! submitted, so a program may end at any moment: the same job, asked again, waits for what is out, takes in what came,
//! and never buys twice. Answers are kept under the same fingerprints as those of ordinary requests, so whoever asks the
//! same later finds them.
//!
//! ```no_run
//! # async fn example() -> farthing::Result<()> {
//! use farthing::batch::{self, Batches};
//! use farthing::{backend::Endpoints, store::SqliteStore};
//! let store = SqliteStore::open(".farthing/store.db")?;
//! let batches = Batches::open(Endpoints::load("farthing.toml".as_ref())?, store);
//! let report = batch::invoke(&batches, batch::input::read("requests.jsonl".as_ref())?).await?;
//! for answer in &report.answers {
//!     println!("{}: {:?}", answer.id, answer.outcome);
//! }
//! # Ok(()) }
//! ```

mod answers;
mod dialect;
mod drive;
pub mod input;
mod job;
mod land;
mod link;
mod plan;
mod report;
pub mod rounds;
mod state;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use answers::{Answer, AnswerOutcome};
pub use report::{Batch, Created, Estimate, JobStatus, Report};
pub use state::{Phase, State};

use crate::backend::Endpoints;
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::price::Price;
use crate::provider::Request;
use crate::runner::{Runner, Service};
use crate::store::batches::{AskRecord, BatchId, BatchRecord, JobRecord, Stage, UnderWay};
use crate::store::{Fingerprint, MemoryStore, SharedStore, Stored};
use drive::PAGE;
use job::job_name;
use link::Link;
use plan::Need;

/// A request under the caller's id.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The caller's id; in one job each stands once.
    pub id: String,
    /// What is asked; its model by the user's name for it.
    pub request: Request,
    /// The address that the caller wrote for it, without `/v1`: an error where the model is asked elsewhere.
    pub url: Option<String>,
}

impl Ask {
    /// A request under an id.
    pub fn new(id: impl Into<String>, request: Request) -> Ask {
        Ask { id: id.into(), request, url: None }
    }
}

/// Who is told of a batch whose state changed.
pub type Watch = Arc<dyn Fn(&Batch) + Send + Sync>;

/// How batches are bought.
#[derive(Clone)]
pub struct Options {
    /// What a job may cost in all, over every time that it is asked; else it is not capped.
    pub budget: Option<Usd>,
    /// How often the provider is asked how a batch is; else from every second at first to every minute.
    pub poll: Option<Duration>,
    /// How long [`invoke`] waits at most. What is out then stays out.
    pub max_wait: Option<Duration>,
    /// How often [`invoke`] sends a request that failed for no reason of its own.
    pub max_attempts: u32,
    /// Requests that failed for good, or were lost, are sent again.
    pub retry_failed: bool,
    /// What was uploaded, and results, stay at the provider.
    pub keep_files: bool,
    /// How long a batch that may have been submitted is looked for before it is submitted again.
    pub grace: Duration,
    /// A file that processes which share the store lock while they submit.
    pub lock: Option<PathBuf>,
    /// Who is told of changes.
    pub watch: Option<Watch>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            budget: None,
            poll: None,
            max_wait: None,
            max_attempts: 3,
            retry_failed: false,
            keep_files: false,
            grace: Duration::from_secs(20),
            lock: None,
            watch: None,
        }
    }
}

/// Batches of some endpoints, kept in a store.
pub struct Batches {
    inner: Inner,
}

struct Inner {
    endpoints: Endpoints,
    store: SharedStore,
    options: Options,
    /// Knows models, fingerprints and bounds; sends nothing.
    runner: Runner,
    links: Mutex<HashMap<String, Arc<Link>>>,
    submitting: tokio::sync::Mutex<()>,
}

/// Writes a job down and submits what of it is missing, as far as the provider's queue has room.
pub async fn create(batches: &Batches, asks: Vec<Ask>) -> Result<Created> {
    batches.create(&asks).await
}

/// Asks the providers how a job's batches are, and takes in what is over.
pub async fn status(batches: &Batches, job: &str) -> Result<JobStatus> {
    batches.status(job).await
}

/// The answers to a job as far as they are there.
pub async fn retrieve(batches: &Batches, job: &str) -> Result<Vec<Answer>> {
    batches.retrieve(job).await
}

/// All jobs, as the store knows them: nobody is asked.
pub async fn list(batches: &Batches) -> Result<Vec<JobStatus>> {
    batches.list().await
}

/// Cancels what of a job is out. What was finished by then is kept; the rest may be asked again.
pub async fn cancel(batches: &Batches, job: &str) -> Result<JobStatus> {
    batches.cancel(job).await
}

/// Writes a job down, submits it and waits for it.
pub async fn invoke(batches: &Batches, asks: Vec<Ask>) -> Result<Report> {
    batches.invoke(&asks).await
}

/// An ask that was looked up.
struct Known {
    service: Arc<Service>,
    fingerprint: Fingerprint,
    /// The place of the first ask of the same request.
    first: usize,
}

impl Batches {
    /// Batches of these endpoints.
    pub fn open(endpoints: Endpoints, store: SharedStore) -> Batches {
        Batches::with_options(endpoints, store, Options::default())
    }

    /// The same with options.
    pub fn with_options(endpoints: Endpoints, store: SharedStore, options: Options) -> Batches {
        let inner = Inner {
            endpoints,
            store,
            options,
            runner: Runner::new(MemoryStore::new(), 1),
            links: Mutex::default(),
            submitting: tokio::sync::Mutex::new(()),
        };
        Batches { inner }
    }

    /// The name of the job that these requests are.
    pub fn job_of(&self, asks: &[Ask]) -> Result<String> {
        Ok(job_name(asks, &self.inner.look_up(asks)?))
    }

    /// See [`create`].
    pub async fn create(&self, asks: &[Ask]) -> Result<Created> {
        let (job, known) = self.inner.enter(asks).await?;
        let (opened, left) = self.inner.order(&job, asks, &known, &|_, _| true).await?;
        let inner = &self.inner;
        let wanted = inner.batches_of(&job, known.iter().map(|known| known.fingerprint))?;
        inner.advance(|record| wanted.contains(&record.id) || record.scope == job.scope).await?;
        Ok(Created { job: job.id, new_batches: opened, left: ids(asks, &left) })
    }

    /// See [`status`].
    pub async fn status(&self, job: &str) -> Result<JobStatus> {
        let job = self.inner.job(job)?;
        let wanted = self.inner.wanted(&job)?;
        self.inner.advance(|record| wanted.contains(&record.id)).await?;
        self.inner.job_status(&job, &wanted)
    }

    /// See [`retrieve`].
    pub async fn retrieve(&self, job: &str) -> Result<Vec<Answer>> {
        let status = self.status(job).await?;
        self.answers(&status.job, 0, usize::MAX)
    }

    /// The answers to a job as the store has them now, from a place on: nobody is asked.
    pub fn answers(&self, job: &str, from: u64, most: usize) -> Result<Vec<Answer>> {
        let job = self.inner.job(job)?;
        answers::of(&*self.inner.store, &job.id, from, most)
    }

    /// See [`list`].
    pub async fn list(&self) -> Result<Vec<JobStatus>> {
        let jobs = self.inner.store.jobs()?;
        jobs.iter().map(|job| self.inner.job_status(job, &self.inner.wanted(job)?)).collect()
    }

    /// See [`cancel`].
    pub async fn cancel(&self, job: &str) -> Result<JobStatus> {
        let job = self.inner.job(job)?;
        let wanted = self.inner.wanted(&job)?;
        // What is being submitted must be known before it can be cancelled; what waits is not to be submitted now.
        for record in self.inner.store.batches(true)?.into_iter().filter(|record| wanted.contains(&record.id)) {
            if record.progress.stage == Stage::Planned {
                self.inner.cancel_batch(record).await?;
            }
        }
        self.inner.advance(|record| wanted.contains(&record.id)).await?;
        for record in self.inner.store.batches(true)?.into_iter().filter(|record| wanted.contains(&record.id)) {
            self.inner.cancel_batch(record).await?;
        }
        self.inner.job_status(&job, &wanted)
    }

    /// See [`invoke`].
    pub async fn invoke(&self, asks: &[Ask]) -> Result<Report> {
        let (status, left) = self.wait_for(asks).await?;
        let answers = self.answers(&status.job, 0, usize::MAX)?;
        Ok(Report { status, answers, left })
    }

    /// As [`invoke`], but the answers stay in the store, for [`answers`](Self::answers) to be read page by page. Gives the
    /// ids of the requests that did not fit the budget, too.
    pub async fn wait_for(&self, asks: &[Ask]) -> Result<(JobStatus, Vec<String>)> {
        let inner = &self.inner;
        let begun = Instant::now();
        let (job, known) = inner.enter(asks).await?;
        let mut attempts: HashMap<Fingerprint, u32> = HashMap::new();
        let mut seen = HashSet::new();
        let left = loop {
            let again = |print: &Fingerprint, kind: crate::provider::FailureKind| {
                let sent = attempts.get(print).copied().unwrap_or(0);
                // What one run sent is sent again only for reasons that pass; another run may know of others.
                sent == 0 || kind.transient() && sent < inner.options.max_attempts
            };
            let (_, left) = inner.order(&job, asks, &known, &again).await?;
            let sent = inner.on_their_way(&known)?;
            let of_job = inner.batches_of(&job, known.iter().map(|known| known.fingerprint))?;
            seen.extend(of_job);
            let wanted = |record: &BatchRecord| seen.contains(&record.id) || record.scope == job.scope;
            while !inner.advance(wanted).await?.is_empty() {
                let waited = begun.elapsed();
                if inner.options.max_wait.is_some_and(|most| waited >= most) {
                    return Ok((inner.job_status(&job, &inner.wanted(&job)?)?, ids(asks, &left)));
                }
                tokio::time::sleep(inner.pause(waited)).await;
            }
            if sent.is_empty() {
                break left;
            }
            sent.into_iter().for_each(|print| *attempts.entry(print).or_default() += 1);
        };
        Ok((inner.job_status(&job, &inner.wanted(&job)?)?, ids(asks, &left)))
    }

    /// What asking a job would cost at most now, and how many lines would be sent: nothing is written down.
    pub fn estimate(&self, asks: &[Ask]) -> Result<Estimate> {
        let known = self.inner.look_up(asks)?;
        let needs = self.inner.needs(asks, &known, &|_, _| true)?.0;
        let mut estimate = Estimate { requests: asks.len(), ..Estimate::default() };
        for need in needs {
            estimate.to_send += 1;
            estimate.completions += u64::from(need.missing);
            let plan::Lines { call, count, n, .. } = self.inner.lines(&need)?;
            let worst = |price: &Price| plan::worst(&need, price, &call, n, true).times(count.into());
            estimate.worst_usd += worst(&plan::price_of(&need));
            estimate.worst_without_batches_usd += worst(&need.service.price);
        }
        Ok(estimate)
    }
}

fn ids(asks: &[Ask], places: &[usize]) -> Vec<String> {
    places.iter().map(|&place| asks[place].id.clone()).collect()
}

/// The request with the model's name as its endpoint knows it.
fn addressed<'a>(service: &Service, request: &'a Request) -> Cow<'a, Request> {
    match service.model.id == request.model {
        true => Cow::Borrowed(request),
        false => Cow::Owned(Request { model: service.model.id.clone(), ..request.clone() }),
    }
}

/// Whether a request that failed so is to be asked again.
type Again<'a> = dyn Fn(&Fingerprint, crate::provider::FailureKind) -> bool + Sync + 'a;

impl Inner {
    fn service(&self, model: &str) -> Result<Arc<Service>> {
        self.runner.open_model(&self.endpoints, model, self.options.budget.is_some())
    }

    /// How long until the next look.
    fn pause(&self, waited: Duration) -> Duration {
        self.options.poll.unwrap_or_else(|| match waited.as_secs() {
            0..30 => Duration::from_secs(1),
            30..120 => Duration::from_secs(5),
            120..3600 => Duration::from_secs(15),
            _ => Duration::from_secs(60),
        })
    }

    /// Looks the asks up, and writes the job down.
    async fn enter(&self, asks: &[Ask]) -> Result<(JobRecord, Vec<Known>)> {
        let known = self.look_up(asks)?;
        let id = job_name(asks, &known);
        if !self.store.jobs()?.iter().any(|job| job.id == id) {
            let record = |(ask, known): (&Ask, &Known)| AskRecord {
                id: ask.id.clone(),
                model: ask.request.model.clone(),
                fingerprint: known.fingerprint,
                n: ask.request.n,
            };
            self.store.keep_job(&id, &format!("batch-{id}"), asks.iter().zip(&known).map(record).collect()).await?;
        }
        Ok((self.job(&id)?, known))
    }

    /// Who answers each, and under which fingerprint.
    fn look_up(&self, asks: &[Ask]) -> Result<Vec<Known>> {
        if asks.is_empty() {
            return Err(Error::usage("there are no requests"));
        }
        let (mut ids, mut firsts) = (HashSet::new(), HashMap::new());
        let mut services: HashMap<(&str, Option<&str>), Arc<Service>> = HashMap::new();
        let mut known = Vec::with_capacity(asks.len());
        for (place, ask) in asks.iter().enumerate() {
            if !ids.insert(ask.id.as_str()) {
                return Err(Error::usage(format!("two requests have the id `{}`", ask.id)));
            }
            let name = ask.request.model.as_str();
            let kind = (name, ask.url.as_deref());
            let service = match services.get(&kind) {
                Some(service) => service.clone(),
                None => {
                    let service = self.service(name)?;
                    let link = self.link_of(&service.model)?;
                    if let Some(url) = &ask.url {
                        let request = addressed(&service, &ask.request);
                        let call = link.http.wire().encode(&request, 1);
                        let own = call.map_or(String::new(), |call| link.dialect.url(&call));
                        if !own.is_empty() && !own.ends_with(url.as_str()) && link.dialect.has_urls() {
                            return Err(Error::usage(format!(
                                "the request `{}` says /v1{url}, but `{name}` is asked at {own}",
                                ask.id
                            ))
                            .help(format!("kind = \"chat\", \"text\" or \"responses\" under [models.\"{name}\"] in farthing.toml says how")));
                        }
                    }
                    services.insert(kind, service.clone());
                    service
                }
            };
            if self.options.budget.is_some() {
                service.check_bounded(&ask.request).map_err(|error| {
                    Error::usage(format!("the request `{}`: {}", ask.id, error.message()))
                        .help_if(error.advice().map(str::to_owned))
                })?;
            }
            let fingerprint = service.fingerprint(&addressed(&service, &ask.request));
            let first = *firsts.entry(fingerprint).or_insert(place);
            known.push(Known { service, fingerprint, first });
        }
        Ok(known)
    }

    /// What is missing of the asks, each request once, in the order of asking, with the place of its first ask; and the
    /// newest batch that was known then.
    fn needs<'a>(
        &self,
        asks: &'a [Ask],
        known: &[Known],
        again: &Again<'_>,
    ) -> Result<(Vec<Need<'a>>, Option<BatchId>)> {
        let after = self.store.batches(false)?.last().map(|batch| batch.id);
        let mut wanted: HashMap<usize, u32> = HashMap::new();
        for (ask, known) in asks.iter().zip(known) {
            let n = wanted.entry(known.first).or_default();
            *n = (*n).max(ask.request.n);
        }
        let firsts: Vec<usize> = (0..asks.len()).filter(|&place| known[place].first == place).collect();
        let mut needs = Vec::new();
        for page in firsts.chunks(PAGE) {
            let prints: Vec<Fingerprint> = page.iter().map(|&place| known[place].fingerprint).collect();
            let stored: Vec<Stored> = self.store.stored_many(&prints)?;
            let ways: Vec<UnderWay> = self.store.under_way(&prints)?;
            for ((&place, stored), way) in page.iter().zip(stored).zip(ways) {
                let missing = wanted[&place].saturating_sub(stored.len() as u32).saturating_sub(way.samples);
                let print = known[place].fingerprint;
                let barred = way.failed.is_some_and(|failed| {
                    !(self.options.retry_failed || failed.retryable) || !again(&print, failed.failure.kind)
                });
                if missing == 0 || barred {
                    continue;
                }
                let service = known[place].service.clone();
                let request = addressed(&service, &asks[place].request);
                needs.push(Need { service, request, fingerprint: print, missing });
            }
        }
        Ok((needs, after))
    }

    /// Writes down batches for what is missing, as far as the budget goes. Gives how many, and the places of the asks that
    /// did not fit.
    async fn order(
        &self,
        job: &JobRecord,
        asks: &[Ask],
        known: &[Known],
        again: &Again<'_>,
    ) -> Result<(usize, Vec<usize>)> {
        for _ in 0..100 {
            let (needs, after) = self.needs(asks, known, again)?;
            let room = match self.options.budget {
                Some(budget) => Some(budget.saturating_left(self.store.spent(&job.scope)?.total())),
                None => None,
            };
            let Some(written) = self.write_down(&job.scope, &needs, room, after).await? else { continue };
            let cut: HashSet<Fingerprint> = needs[written.held..].iter().map(|need| need.fingerprint).collect();
            let places = (0..asks.len()).filter(|&place| cut.contains(&known[place].fingerprint)).collect();
            return Ok((written.batches.len(), places));
        }
        Err(Error::internal("other programs write batches down again and again"))
    }
}
