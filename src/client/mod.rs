//! One request at a time, for programs: asked, answered from the store or by an endpoint, paid for under a budget.
//!
//! The same runner answers here as in a study: single flight, the store, rate limits, retries, several endpoints a model.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use farthing::client::{Client, Create};
//! let client = Client::builder().endpoints(farthing::backend::Endpoints::mock()).in_memory().build()?;
//! let ask = Create::chat("mock-small").user("What is 2 + 2?").max_tokens(40).n(2);
//! let first = client.create(&ask).await?;
//! let again = client.create(&ask).await?;
//! assert_eq!(first.extract_text(), again.extract_text());
//! assert!(again.cached && again.cost == farthing::Usd::ZERO && again.full_cost == first.full_cost);
//! println!("{}", client.usage_summary());
//! # Ok(()) }
//! ```

mod completion;
mod create;
mod filter;
mod log;
mod usage;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt};
use serde_json::Value;

pub use completion::{Completion, TextOrToolCall};
pub use create::Create;
pub use filter::Filter;
pub use log::LogForm;
pub use usage::{ModelUsage, UsageSummary};

use crate::backend::Endpoints;
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::provider::tokens;
use crate::provider::{Failure, FailureKind, Request};
use crate::runner::service::Block;
use crate::runner::{Answered, Ask, Purse, Runner, Service, Wish};
use crate::space::parameter::output_limit;
use crate::store::{Fingerprint, MemoryStore, SharedStore, SqliteStore, Stored};
use log::Log;

/// Why there is no completion.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The request was asked, and nothing came of it.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// The request is wrong, its model unknown, or the store cannot be used.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// Puts a client together.
pub struct ClientBuilder {
    endpoints: Option<Endpoints>,
    store: Option<SharedStore>,
    path: PathBuf,
    budget: Option<Usd>,
    concurrency: usize,
}

impl ClientBuilder {
    /// Who answers; else the `farthing.toml` of the working folder, else OpenAI.
    #[must_use]
    pub fn endpoints(mut self, endpoints: Endpoints) -> ClientBuilder {
        self.endpoints = Some(endpoints);
        self
    }

    /// The file of the store; else `.farthing/store.db` in the working folder.
    #[must_use]
    pub fn store(mut self, path: impl Into<PathBuf>) -> ClientBuilder {
        self.path = path.into();
        self
    }

    /// Any store.
    #[must_use]
    pub fn shared_store(mut self, store: SharedStore) -> ClientBuilder {
        self.store = Some(store);
        self
    }

    /// Nothing outlives the process.
    #[must_use]
    pub fn in_memory(self) -> ClientBuilder {
        self.shared_store(MemoryStore::new())
    }

    /// What all calls together may cost in money; what the store has is free.
    #[must_use]
    pub fn budget(mut self, budget: Usd) -> ClientBuilder {
        self.budget = Some(budget);
        self
    }

    /// Requests in flight at once (default 64).
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> ClientBuilder {
        self.concurrency = concurrency.max(1);
        self
    }

    /// The client. Models are opened when they are first asked.
    pub fn build(self) -> Result<Client> {
        let endpoints = match self.endpoints {
            Some(endpoints) => endpoints,
            None => Endpoints::near(Path::new("."))?,
        };
        let store = match self.store {
            Some(store) => store,
            None => SqliteStore::open(&self.path)?,
        };
        let inner = Inner {
            runner: Runner::new(store, self.concurrency),
            endpoints,
            purse: Purse::with_limits(None, self.budget, true, Usd::ZERO),
            gate: tokio::sync::Mutex::new(()),
            scope: crate::store::fresh_name("client"),
            capped: self.budget.is_some(),
            concurrency: self.concurrency,
            usage: Mutex::default(),
            log: Mutex::new(None),
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}

struct Inner {
    runner: Runner,
    endpoints: Endpoints,
    purse: Arc<Purse>,
    /// Requests ask for money one after the other, in the order of asking.
    gate: tokio::sync::Mutex<()>,
    scope: String,
    capped: bool,
    concurrency: usize,
    usage: Mutex<UsageSummary>,
    log: Mutex<Option<Log>>,
}

/// Asks models. Cheap to clone; all clones share store, budget, limits and sums.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl Client {
    /// Begins one.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            endpoints: None,
            store: None,
            path: PathBuf::from(".farthing/store.db"),
            budget: None,
            concurrency: 64,
        }
    }

    /// Answers a request: from the store as far as it has samples, else by an endpoint. What is bought is durable before
    /// it is returned. Let go before that (a timeout, a `select!`), a request that was sent counts as spent at its worst case.
    pub async fn create(&self, create: &Create) -> Result<Completion, CreateError> {
        let inner = &*self.inner;
        let (service, request) = inner.open(create)?;
        let Outcome { answer, paid, requests } = inner.answer(&service, &request, create).await?;
        let mut log = inner.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = &mut *log {
            log.add(&request, answer.as_ref(), paid);
        }
        drop(log);
        let mut usage = inner.usage.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Ok(done) => usage.add(done),
            Err(_) => usage.add_failure(&create.model, paid, requests),
        }
        Ok(answer?)
    }

    /// Tries requests one after the other: the first that is answered and passes the filter, else the last answered,
    /// marked as not passed; an error only where none was answered. The cost of the completion is that of all tries.
    /// The filter is a closure, or a declared one's [`as_fn`](Filter::as_fn).
    pub async fn create_any(
        &self,
        creates: &[Create],
        filter: impl Fn(&Create, &Completion) -> bool,
    ) -> Result<Completion, CreateError> {
        let (mut last, mut error) = (None, None);
        let (mut cost, mut full_cost) = (Usd::ZERO, Usd::ZERO);
        for (tried, create) in creates.iter().enumerate() {
            match self.create(create).await {
                Ok(done) => {
                    cost += done.cost;
                    full_cost += done.full_cost;
                    let passed = filter(create, &done);
                    let done = Completion { tried, passed, cost, full_cost, ..done };
                    if passed {
                        return Ok(done);
                    }
                    last = Some(done);
                }
                Err(problem) => {
                    tracing::info!(model = %create.model, %problem, "the next request is tried");
                    error = Some(problem);
                }
            }
        }
        match (last, error) {
            (Some(done), _) => Ok(Completion { cost, full_cost, ..done }),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::usage("there is no request to try").into()),
        }
    }

    /// Answers many requests, as many sent at once as the client's concurrency allows; the answers come in the order of the
    /// requests, and no more of them are held than are under way, twice that many.
    pub fn create_many<I>(&self, creates: I) -> impl Stream<Item = Result<Completion, CreateError>> + use<I>
    where
        I: IntoIterator<Item = Create>,
    {
        let client = self.clone();
        // Those that are being written down are not being sent: as many more, and the endpoint need not wait for the disk.
        let concurrency = client.inner.concurrency.saturating_mul(2);
        futures_util::stream::iter(creates)
            .map(move |create| {
                let client = client.clone();
                async move { client.create(&create).await }
            })
            .buffered(concurrency)
    }

    /// What completions cost, really and as if nothing had been stored, by model, since the client was built or
    /// [`reset_usage`](Self::reset_usage).
    pub fn usage_summary(&self) -> UsageSummary {
        self.inner.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins the sums anew. What counts against the budget stays.
    pub fn reset_usage(&self) {
        *self.inner.usage.lock().unwrap_or_else(PoisonError::into_inner) = UsageSummary::default();
    }

    /// Money spent so far: bills, and requests lost at their worst case.
    pub fn spent(&self) -> Usd {
        self.inner.purse.spent()
    }

    /// Switches the log on, empty.
    pub fn start_log(&self, form: LogForm) {
        *self.inner.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(Log::new(form));
    }

    /// What was logged so far.
    pub fn logged(&self) -> Vec<Value> {
        let log = self.inner.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.as_ref().map_or_else(Vec::new, |log| log.entries().to_vec())
    }

    /// Switches the log off and forgets it.
    pub fn stop_log(&self) {
        *self.inner.log.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The input tokens of a request: exact where the model's tokenizer is known, else `None`.
    pub fn count_tokens(&self, create: &Create) -> Result<Option<u64>> {
        let (_, request) = self.inner.open(create)?;
        Ok(tokens::input_count(&request))
    }

    /// Whether the prompt and the longest answer that is asked for fit the model's context window; `None` where the
    /// window is not known, or where only an exact count could tell and there is none.
    pub fn fits_context(&self, create: &Create) -> Result<Option<bool>> {
        let (service, request) = self.inner.open(create)?;
        let Some(window) = service.model.context_window else { return Ok(None) };
        let answer = output_limit(|name| request.params.get(name)).unwrap_or(1);
        let fits = |input: u64| input.saturating_add(answer) <= window;
        Ok(match tokens::input_count(&request) {
            Some(exact) => Some(fits(exact)),
            None => fits(tokens::input_bound(&request)).then_some(true),
        })
    }

    /// What a request may cost at most; nothing where the store has it. Nothing is sent.
    pub fn cost_bound(&self, create: &Create) -> Result<Usd> {
        let (service, request) = self.inner.open(create)?;
        let Wanted { stored, whole, .. } = self.inner.wanted(&service, &request, create)?;
        Ok(service.worst(&whole, stored.len(), true))
    }
}

/// Which samples a call wants.
struct Wanted<'a> {
    print: Fingerprint,
    /// What the store has of them.
    stored: Stored,
    /// The first: of a block of those stored, or behind all of them.
    first: usize,
    /// The request for all samples up to the last that is wanted.
    whole: Cow<'a, Request>,
}

/// What became of a call.
struct Outcome {
    answer: Result<Completion, Failure>,
    /// What was paid, whether that succeeded or not.
    paid: Usd,
    /// Requests that were sent.
    requests: u64,
}

impl Outcome {
    fn free(answer: Result<Completion, Failure>) -> Outcome {
        Outcome { answer, paid: Usd::ZERO, requests: 0 }
    }
}

impl Inner {
    /// Who answers a request, and the request with the model's name as its endpoint knows it.
    fn open(&self, create: &Create) -> Result<(Arc<Service>, Request)> {
        let request = create.request()?;
        let service = self.runner.open_model(&self.endpoints, &create.model, self.capped)?;
        service.takes.check("the request", &create.model, &request.params)?;
        let request = Request { model: service.model.id.clone(), ..request };
        Ok((service, request))
    }

    /// What a call wants of the store, and what the store has.
    fn wanted<'a>(&self, service: &Service, request: &'a Request, create: &Create) -> Result<Wanted<'a>> {
        let print = service.fingerprint(request);
        let stored = self.runner.store().stored(&print)?;
        let first = match create.use_cache {
            true => create.repeat as usize * request.n as usize,
            false => stored.len(),
        };
        let Ok(n) = u32::try_from(first + request.n as usize) else {
            return Err(Error::usage(format!("repeat {} of {} completions is too far", create.repeat, request.n)));
        };
        let whole = match n == request.n {
            true => Cow::Borrowed(request),
            false => Cow::Owned(Request { n, ..request.clone() }),
        };
        Ok(Wanted { print, stored, first, whole })
    }

    async fn answer(&self, service: &Service, request: &Request, create: &Create) -> Result<Outcome> {
        let look = self.runner.look();
        let Wanted { print, stored: before, first, whole } = self.wanted(service, request, create)?;
        if before.len() >= whole.n as usize {
            let done = completion(service, request, create, &before, first, print);
            return Ok(Outcome::free(Ok(Completion { cached: true, ..done })));
        }
        if self.capped {
            service.check_bounded(&whole)?;
        }
        let worst = |tight| service.worst(&whole, before.len(), tight);
        let gate = self.gate.lock().await;
        let admitted = self.purse.admit_within(|tight| Ok(worst(tight))).await?;
        drop(gate);
        let Some(mut hold) = admitted else {
            return Ok(Outcome::free(Err(Failure::new(FailureKind::Budget, service.no_room(&whole, worst(true))))));
        };
        let wish = Wish { missed: before.is_empty().then_some(look), priority: create.priority, ..Wish::default() };
        let ask = Ask { service, request: &whole, fingerprint: &print, scope: &self.scope, wish };
        let Answered { outcome, requests } = self.runner.answer(ask, &mut hold).await?;
        let paid = hold.paid();
        hold.settle(Usd::ZERO);
        let answer = outcome.map(|stored| {
            let done = completion(service, request, create, &stored, first, print);
            Completion { cost: paid, requests, cached: requests == 0, ..done }
        });
        Ok(Outcome { answer, paid, requests })
    }
}

/// Samples `first..first + n` of what is stored, as an answer that cost nothing.
fn completion(
    service: &Service,
    request: &Request,
    create: &Create,
    stored: &Stored,
    first: usize,
    print: Fingerprint,
) -> Completion {
    let Block { samples, response, prompt_tokens, full_cost } = service.block(request, stored, first);
    Completion {
        model: create.model.clone(),
        replied_model: response.and_then(|response| response.model.clone()),
        endpoint: response.and_then(|response| response.endpoint.clone()),
        prompt_tokens,
        completion_tokens: samples.iter().map(|sample| sample.completion_tokens).sum(),
        cost: Usd::ZERO,
        full_cost,
        cached: false,
        requests: 0,
        estimated: response.is_some_and(|response| response.estimated),
        fingerprint: print,
        tried: 0,
        passed: true,
        samples,
    }
}

/// The page about the client: its blocks are tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/client.md")]
mod page {}
