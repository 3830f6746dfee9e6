//! One request answered: single flight, then the store, the budget, the rate limit, the backend, and retries.

pub mod budget;
pub mod limits;
pub mod service;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use serde_json::json;
use tokio::sync::{Semaphore, watch};

pub use budget::{Admission, Hold, Purse};
pub use service::{Service, fingerprint};

use crate::backend::{self, Backend, CallError, Endpoints, ModelKind};
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::price::Price;
use crate::prompt::tokens;
use crate::provider::{Failure, FailureKind, Input, Request};
use crate::store::{Closing, Fingerprint, RequestRecord, SharedStore, Stored};
use limits::Limits;

/// What answering a request brought.
#[derive(Debug)]
pub struct Answered {
    /// All that is stored of the request now: at least n samples.
    pub stored: Stored,
    /// Requests that were sent for it.
    pub requests: u64,
}

/// Answers requests: every answer is durable before it is returned, and paid for at most once.
pub struct Runner {
    store: SharedStore,
    services: Vec<Arc<Service>>,
    flights: Mutex<HashMap<Fingerprint, Arc<tokio::sync::Mutex<()>>>>,
    concurrency: Semaphore,
    stopping: watch::Sender<bool>,
}

/// A rate limit passes by itself: it is waited for so many times longer than other failures.
const PATIENCE: usize = 5;

/// The waits between attempts: from a quarter of a second on, doubled up to 20 seconds, with jitter.
fn backoff(times: usize) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(20))
        .with_max_times(times)
        .build()
}

/// The failure after the last attempt.
fn given_up(attempts: u64, failure: Failure) -> Failure {
    Failure::new(failure.kind, format!("{} (given up after {attempts} attempts)", failure.message))
}

fn no_money(worst: Usd) -> CallError {
    let message = format!("another attempt ({worst} dollars at worst) does not fit the budget");
    CallError { failure: Failure::new(FailureKind::Budget, message), may_be_billed: false, retry_after: None }
}

fn stopped() -> CallError {
    let failure = Failure::new(FailureKind::Interrupted, "the run was stopped before this was sent");
    CallError { failure, may_be_billed: false, retry_after: None }
}

impl Runner {
    /// Opens what answers for these models. Under a budget each needs a price and a bound on its output (`bounded` says
    /// that every request sets max_tokens).
    pub fn open(
        store: SharedStore,
        endpoints: &Endpoints,
        models: &[String],
        concurrency: usize,
        budget: bool,
        bounded: bool,
    ) -> Result<Runner> {
        let mut opened: HashMap<usize, (Arc<dyn Backend>, Arc<Limits>)> = HashMap::new();
        let mut services = Vec::new();
        for name in models {
            let model = endpoints.model(name)?;
            let endpoint = &endpoints.list[model.endpoints[0]];
            let file = endpoints.source.as_ref().map_or("farthing.toml", |source| source.name());
            if model.price.is_none() && budget {
                return Err(Error::usage(format!("no price is known of the model `{name}`, so no budget can hold"))
                    .help(format!("add to {file}: [models.\"{name}\"] with price = {{ input = 0.15, output = 0.60 }} in dollars per million tokens; 0 is a price too")));
            }
            let (backend, limits) = match opened.get(&model.endpoints[0]) {
                Some(open) => open.clone(),
                None => {
                    let open = (backend::open(endpoint)?, Arc::new(Limits::new(endpoint)));
                    opened.insert(model.endpoints[0], open.clone());
                    open
                }
            };
            let kind = model.kind.or_else(|| backend.kind(name)).unwrap_or(ModelKind::Chat);
            let limited = model.max_output_tokens.is_some() || model.context_window.is_some();
            let knows_the_bill = backend.in_process() && endpoint.provider == backend::ProviderKind::Replay;
            if budget && !bounded && !limited && !knows_the_bill && (kind != ModelKind::Text || !endpoint.vendor) {
                return Err(Error::usage(format!("nothing bounds what a completion of `{name}` may cost")).help(
                    format!("set max_tokens in the space, or in {file}: [models.\"{name}\"] max_output_tokens = ..."),
                ));
            }
            services.push(Arc::new(Service {
                price: model.price.unwrap_or(Price::FREE),
                chat: kind != ModelKind::Text,
                vendor: endpoint.vendor,
                max_retries: endpoint.max_retries,
                model,
                backend,
                limits,
                study_growth: AtomicU64::new(1000),
                bill_growth: AtomicU64::new(1000),
            }));
        }
        Ok(Runner {
            store,
            services,
            flights: Mutex::default(),
            concurrency: Semaphore::new(concurrency.max(1)),
            stopping: watch::channel(false).0,
        })
    }

    /// The same on another store: so that everything that can be wrong is looked at before the store's file appears.
    #[must_use]
    pub fn with_store(self, store: SharedStore) -> Runner {
        Runner { store, ..self }
    }

    /// The service of a model, if it was opened.
    pub fn service(&self, model: &str) -> Option<Arc<Service>> {
        self.services.iter().find(|service| service.model.name == model).cloned()
    }

    /// Sends nothing more: what is in flight lands, what waits for a retry or its turn gives up.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Gets at least `request.n` samples: from the store, else bought under `hold` and booked in the ledger of `scope`.
    /// Identical requests in flight are sent once.
    pub async fn answer(
        &self,
        service: &Service,
        request: &Request,
        fingerprint: &Fingerprint,
        scope: &str,
        hold: &mut Hold,
    ) -> Result<Result<Answered, Failure>> {
        let flight = self.flight(fingerprint);
        let lock = flight.lock().await;
        let outcome = self.buy(service, request, fingerprint, scope, hold).await;
        drop(lock);
        self.land(fingerprint, flight);
        outcome
    }

    fn flight(&self, fingerprint: &Fingerprint) -> Arc<tokio::sync::Mutex<()>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).entry(*fingerprint).or_default().clone()
    }

    fn land(&self, fingerprint: &Fingerprint, flight: Arc<tokio::sync::Mutex<()>>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours: nobody else waits.
        if Arc::strong_count(&flight) <= 2 {
            flights.remove(fingerprint);
        }
    }

    async fn buy(
        &self,
        service: &Service,
        request: &Request,
        fingerprint: &Fingerprint,
        scope: &str,
        hold: &mut Hold,
    ) -> Result<Result<Answered, Failure>> {
        let mut stored = self.store.stored(fingerprint)?;
        let mut requests = 0;
        let retries = service.max_retries as usize;
        let (mut delays, mut patient) = (backoff(retries), backoff(retries * PATIENCE));
        while stored.len() < request.n as usize {
            let first = stored.len();
            requests += 1;
            match self.attempt(service, request, first, fingerprint, scope, hold).await? {
                Ok(all) => stored = all,
                Err(error) if error.failure.kind == FailureKind::Budget => {
                    // Its bound grew while it waited for its turn.
                    requests -= 1;
                    if let Err(failure) = self.afford(service, request, first, hold).await {
                        return Ok(Err(failure));
                    }
                }
                Err(error) if !error.failure.kind.transient() => return Ok(Err(error.failure)),
                Err(error) => {
                    match if error.failure.kind == FailureKind::RateLimit { patient.next() } else { delays.next() } {
                        None => return Ok(Err(given_up(requests, error.failure))),
                        Some(delay) => {
                            // What was lost must be held anew, and before others that were asked later take it.
                            if let Err(failure) = self.afford(service, request, first, hold).await {
                                return Ok(Err(failure));
                            }
                            // The endpoint's own wish counts; but one that says "at once" again and again is not believed for ever.
                            let wait = error.retry_after.map_or(delay, |wish| wish.max(delay / 4));
                            tracing::info!(model = %request.model, reason = %error.failure, ?wait, "trying again");
                            let mut stopping = self.stopping.subscribe();
                            tokio::select! {
                                () = tokio::time::sleep(wait) => {}
                                _ = stopping.wait_for(|stop| *stop) => return Ok(Err(stopped().failure)),
                            }
                        }
                    }
                }
            }
        }
        Ok(Ok(Answered { stored, requests }))
    }

    /// Holds what another attempt may cost, waiting for others to settle where it does not fit yet.
    async fn afford(&self, service: &Service, request: &Request, first: usize, hold: &mut Hold) -> Result<(), Failure> {
        let worst = service.attempt_bound(request, first, hold.real());
        if worst <= hold.real() {
            return Ok(());
        }
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            fits = hold.top_up_in_time(worst) => if fits { Ok(()) } else { Err(no_money(worst).failure) },
            _ = stopping.wait_for(|stop| *stop) => Err(stopped().failure),
        }
    }

    /// One attempt, with its place in the ledger. The outer error is the store's.
    async fn attempt(
        &self,
        service: &Service,
        request: &Request,
        first: usize,
        fingerprint: &Fingerprint,
        scope: &str,
        hold: &mut Hold,
    ) -> Result<Result<Stored, CallError>> {
        let wanted = u64::from(request.n).saturating_sub(first as u64);
        let output = service.output_limit(request).unwrap_or(1024).saturating_mul(wanted);
        let tokens = (tokens::input_bound(request) / 3).saturating_add(output);
        let mut stopping = self.stopping.subscribe();
        let _place = tokio::select! {
            place = service.limits.enter(tokens) => place,
            _ = stopping.wait_for(|stop| *stop) => return Ok(Err(stopped())),
        };
        let _permit = self.concurrency.acquire().await.map_err(|_| Error::internal("the runner was closed"))?;
        if *self.stopping.borrow() {
            return Ok(Err(stopped()));
        }
        // Bounded only now: what was billed while this one waited for its turn may have taught more.
        let worst = service.attempt_bound(request, first, hold.real());
        if worst > hold.real() && !hold.top_up(worst) {
            return Ok(Err(no_money(worst)));
        }
        let entry = match service.backend.in_process() {
            true => None,
            false => Some(self.store.reserve(scope, fingerprint, worst).await?),
        };
        match service.backend.call(request, first).await {
            Ok(response) => {
                let used = response.prompt_tokens.saturating_add(response.completion_tokens());
                service.limits.refund(tokens.saturating_sub(used));
                let bill = service.price.bill(&response);
                service.billed(bill, request, first);
                let record = self.record_of(service, request);
                let stored = self.store.record(scope, fingerprint, &record, response, bill, entry).await?;
                hold.spend(bill);
                Ok(Ok(stored))
            }
            Err(error) => {
                service.limits.refund(tokens);
                if let Some(entry) = entry {
                    let closing = if error.may_be_billed { Closing::Lost } else { Closing::Released };
                    self.store.close(entry, closing).await?;
                    if error.may_be_billed {
                        hold.spend(worst);
                    }
                }
                Ok(Err(error))
            }
        }
    }

    fn record_of(&self, service: &Service, request: &Request) -> RequestRecord {
        let mut body = match &request.input {
            Input::Messages(messages) => json!({"messages": messages}),
            Input::Text(text) => json!({"prompt": text}),
        };
        body["params"] = json!(request.params);
        RequestRecord { model: request.model.clone(), source: service.source().to_owned(), body: body.to_string() }
    }
}
