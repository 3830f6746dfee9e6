//! One request answered: single flight, then the store, the budget, the limits, an endpoint, and retries or another one.
//!
//! `purchase` buys what the store does not have, `routes` says which endpoint is asked and when, `health` when one is asked
//! by nobody, `throttle` makes requests wait for the `limits`, and [`budget`] for money.

pub mod budget;
pub mod bulk;
mod health;
mod limits;
mod purchase;
mod room;
mod routes;
pub mod service;
mod throttle;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

pub use budget::{Admission, Hold, Purse};
pub(crate) use purchase::until;
pub use service::{Service, fingerprint};

use crate::backend::{self, Backend, Endpoint, Endpoints, Equivalence, Model, ModelKind, Rates};
use crate::diagnostic::{Error, Result};
use crate::price::Price;
use crate::provider::{Failure, FailureKind, Request, openai};
use crate::space::parameter::OUTPUT_LIMITS;
use crate::store::{Fingerprint, SharedStore, Stored};
use bulk::{Bulk, Delivered, Delivery, Order, PriceOf};
use health::Health;
use limits::{Limit, Window};
use routes::Seat;
use service::Learnt;
use throttle::{Lane, Throttle};

/// A request that is to be answered.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Who answers.
    pub service: &'a Service,
    /// What is asked.
    pub request: &'a Request,
    /// Its fingerprint, by that service.
    pub fingerprint: &'a Fingerprint,
    /// Who pays, in the ledger.
    pub scope: &'a str,
    /// How, beside what it says.
    pub wish: Wish,
}

/// What asking brought.
#[derive(Debug)]
pub struct Answered {
    /// All that is stored of the request now, at least n samples; or why there is less.
    pub outcome: Result<Stored, Failure>,
    /// Requests that were sent for it, those that failed too.
    pub requests: u64,
}

/// How a request is to be answered, beside what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Of those that wait for a limit, the smallest goes first; equal ones in the order of coming.
    pub priority: i32,
    /// The store was looked at and had nothing of the request: see [`Runner::look`].
    pub missed: Option<Look>,
    /// How often it is tried again at an endpoint, in place of the endpoint's own `max_retries`. Rate limits, which pass by
    /// themselves, are waited for as ever.
    pub retries: Option<u32>,
}

/// The moment of a look into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    at: Instant,
    /// Purchases by then.
    bought: u64,
}

/// How long what a look did not find is taken for missing: other processes may buy it meanwhile.
const LOOK_HOLDS: std::time::Duration = std::time::Duration::from_secs(1);

/// What was bought lately, so that the store need not be asked again for what was missing a moment ago: the number of the
/// last purchase by a part of the fingerprint.
struct Bought {
    last: AtomicU64,
    by_part: Box<[AtomicU64]>,
}

impl Bought {
    fn new() -> Bought {
        Bought { last: AtomicU64::new(0), by_part: (0..1 << 14).map(|_| AtomicU64::new(0)).collect() }
    }

    fn part(&self, fingerprint: &Fingerprint) -> &AtomicU64 {
        &self.by_part[usize::from(u16::from_le_bytes([fingerprint.0[0], fingerprint.0[1]])) % self.by_part.len()]
    }

    fn add(&self, fingerprint: &Fingerprint) {
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        self.part(fingerprint).fetch_max(number, Ordering::SeqCst);
    }
}

/// Answers requests: every answer is durable before it is returned, and paid for at most once.
pub struct Runner {
    store: SharedStore,
    services: RwLock<Vec<Arc<Service>>>,
    flights: Flights,
    /// Every limit, and who waits for them. The run's own is a little wider than what is sent at once, so that the ledger's
    /// entries for the next ones are made while others are under way.
    throttle: Arc<Throttle>,
    /// What is open, for models that are asked later.
    opening: Mutex<Opening>,
    /// What is sent at once.
    wire: Semaphore,
    concurrency: usize,
    bought: Bought,
    /// Who buys in rounds, where somebody does, and at which price.
    bulk: OnceLock<(Arc<dyn Bulk>, PriceOf)>,
    stop: AtomicBool,
    stopped: Notify,
}

/// The requests that are being answered.
type Flights = Mutex<HashMap<Fingerprint, Arc<tokio::sync::Mutex<()>>>>;

/// One that answers a request or waits for another that does. It leaves nothing behind, let go at whichever point.
struct Flight<'a> {
    flights: &'a Flights,
    fingerprint: Fingerprint,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Flight<'a> {
    fn of(flights: &'a Flights, fingerprint: &Fingerprint) -> Flight<'a> {
        let mut all = flights.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = all.entry(*fingerprint).or_default().clone();
        Flight { flights, fingerprint: *fingerprint, lock }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours: nobody else waits.
        if Arc::strong_count(&self.lock) <= 2 {
            flights.remove(&self.fingerprint);
        }
    }
}

/// Endpoints, and limits by what they are of, as they are opened.
struct Opening {
    throttle: Arc<Throttle>,
    /// The run's own limit, and its width.
    run: (usize, usize),
    backends: HashMap<usize, (Arc<dyn Backend>, usize)>,
    groups: HashMap<String, usize>,
    /// The limits of the models themselves.
    models: HashMap<String, usize>,
    /// What is known of models, whatever opened them: of each at its endpoints, and at each one of them.
    learnt: HashMap<(Vec<usize>, String), Arc<Learnt>>,
    healths: HashMap<(usize, String), Arc<Health>>,
    now: Instant,
}

impl Opening {
    fn new(concurrency: usize) -> Opening {
        let (throttle, now) = (Arc::new(Throttle::default()), Instant::now());
        // A quarter more wait for the ledger: a reservation that a crash leaves open counts as spent, so not many more.
        let width = concurrency.saturating_add(concurrency / 4);
        let most = Rates { max_concurrency: Some(u32::try_from(width).unwrap_or(u32::MAX)), ..Rates::default() };
        let run = throttle.add_limit(Limit::new("the run", &most, now));
        let (backends, groups, models, learnt, healths) = Default::default();
        Opening { throttle, run: (run, width), backends, groups, models, learnt, healths, now }
    }

    /// An endpoint's backend and limit.
    fn backend(&mut self, endpoints: &Endpoints, at: usize) -> Result<(Arc<dyn Backend>, usize)> {
        if let Some(open) = self.backends.get(&at) {
            return Ok(open.clone());
        }
        let endpoint = &endpoints.list[at];
        let backend = backend::open(endpoint)?;
        let mut limit = Limit::new(format!("the endpoint `{}`", endpoint.name), &endpoint.rates, self.now);
        if !backend.in_process() {
            limit.window = Some(Window::new(self.run.1));
        }
        let open = (backend, self.throttle.add_limit(limit));
        self.backends.insert(at, open.clone());
        Ok(open)
    }

    /// The limit of a group.
    fn group(&mut self, endpoints: &Endpoints, name: Option<&String>) -> Option<usize> {
        let (name, rates) = endpoints.groups.get_key_value(name?)?;
        Some(self.shared(name, rates))
    }

    /// The limit of that name, which all who name it share.
    fn shared(&mut self, name: &str, rates: &Rates) -> usize {
        let (throttle, now) = (&self.throttle, self.now);
        let add = || throttle.add_limit(Limit::new(format!("[limits.{name}]"), rates, now));
        *self.groups.entry(name.to_owned()).or_insert_with(add)
    }

    /// The endpoints of a model with all limits that hold there.
    fn seats(&mut self, endpoints: &Endpoints, model: &Model, further: Option<(&str, Rates)>) -> Result<Vec<Seat>> {
        let (throttle, now) = (&self.throttle, self.now);
        let add = || throttle.add_limit(Limit::new(format!("the model `{}`", model.name), &model.rates, now));
        let own = match model.rates == Rates::default() {
            true => None,
            false => Some(*self.models.entry(model.name.clone()).or_insert_with(add)),
        };
        let further = further.map(|(name, rates)| self.shared(name, &rates));
        let mut seats = Vec::new();
        for &at in &model.endpoints {
            let endpoint = &endpoints.list[at];
            let (backend, limit) = self.backend(endpoints, at)?;
            let backend = backend.of_model(model)?.unwrap_or(backend);
            let groups = [self.group(endpoints, endpoint.group.as_ref()), self.group(endpoints, model.group.as_ref())];
            let limits = [Some(self.run.0), Some(limit), own, further].into_iter().chain(groups).flatten().collect();
            let swaps = endpoint.provider.loads_one_model().then_some(limit);
            let lane: Lane = self.throttle.add_lane(limits, swaps);
            let new = || Arc::new(Health::new(&endpoint.name, &model.name));
            let health = self.healths.entry((at, model.id.clone())).or_insert_with(new).clone();
            seats.push(Seat::new(endpoint, backend, lane, health, model.endpoints.len() == 1));
        }
        Ok(seats)
    }

    /// What is learnt of a model at its endpoints.
    fn learnt(&mut self, model: &Model) -> Arc<Learnt> {
        self.learnt.entry((model.endpoints.clone(), model.name.clone())).or_default().clone()
    }
}

/// Endpoints of one model must be interchangeable.
fn check_equals(model: &Model, endpoints: &[&Endpoint], seats: &[Seat]) -> Result<()> {
    let (Some(first), Some(head)) = (seats.first(), endpoints.first()) else {
        return Err(Error::internal(format!("the model `{}` has no endpoint", model.name)));
    };
    for (seat, endpoint) in seats.iter().zip(endpoints).skip(1) {
        let (one, other) = (&first.name, &seat.name);
        if seat.backend.source() != first.backend.source() {
            return Err(Error::usage(format!(
                "the endpoints `{one}` and `{other}` of the model `{}` are different sources: one is {}, the other {}",
                model.name,
                first.backend.source(),
                seat.backend.source()
            ))
            .help("samples of the one would be taken for the other's: give each a model of its own"));
        }
        if endpoint.equivalence != head.equivalence {
            return Err(Error::usage(format!(
                "the endpoints `{one}` and `{other}` of the model `{}` differ in `equivalence`",
                model.name
            ))
            .help("their samples are kept together: give both the same"));
        }
    }
    Ok(())
}

impl Runner {
    /// One that sends so many requests at once at most. Models are opened as they are asked for.
    pub fn new(store: SharedStore, concurrency: usize) -> Runner {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let opening = Opening::new(concurrency);
        Runner {
            store,
            services: RwLock::default(),
            flights: Mutex::default(),
            throttle: opening.throttle.clone(),
            opening: Mutex::new(opening),
            wire: Semaphore::new(concurrency),
            concurrency,
            bought: Bought::new(),
            bulk: OnceLock::new(),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
        }
    }

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
        let runner = Runner::new(store, concurrency);
        for name in models {
            runner.open_named(endpoints, name, (budget, bounded))?;
        }
        Ok(runner)
    }

    /// The service of a model, opened if it was not. The endpoints must be the same every time. Under a budget the model
    /// needs a price; whether a request's cost is bounded is the caller's to ask ([`Service::check_bounded`]).
    pub fn open_model(&self, endpoints: &Endpoints, name: &str, budget: bool) -> Result<Arc<Service>> {
        self.open_named(endpoints, name, (budget, true))
    }

    fn open_named(&self, endpoints: &Endpoints, name: &str, budget: (bool, bool)) -> Result<Arc<Service>> {
        if let Some(service) = self.service(name) {
            return Ok(service);
        }
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = self.service(name) {
            return Ok(service);
        }
        let service = self.open_service(&mut opening, endpoints, endpoints.model(name)?, None, budget)?;
        self.services.write().unwrap_or_else(PoisonError::into_inner).push(service.clone());
        Ok(service)
    }

    /// A service of its own of a model, whose requests also pass a limit that all who name it share: for groups of rows. It
    /// is not among those that [`service`](Self::service) finds. Whether a request's cost is bounded is the caller's to ask
    /// ([`Service::check_bounded`]).
    pub fn open_under(
        &self,
        endpoints: &Endpoints,
        model: Model,
        limit: Option<(&str, Rates)>,
        budget: bool,
    ) -> Result<Arc<Service>> {
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        self.open_service(&mut opening, endpoints, model, limit, (budget, true))
    }

    fn open_service(
        &self,
        opening: &mut Opening,
        endpoints: &Endpoints,
        model: Model,
        limit: Option<(&str, Rates)>,
        (budget, bounded): (bool, bool),
    ) -> Result<Arc<Service>> {
        let name = model.name.as_str();
        let serving: Vec<&Endpoint> = model.endpoints.iter().map(|&at| &endpoints.list[at]).collect();
        let file = endpoints.source.as_ref().map_or("farthing.toml", |source| source.name());
        if model.price.is_none() && budget {
            return Err(Error::usage(format!("no price is known of the model `{name}`, so no budget can hold"))
                .help(format!("add to {file}: [models.\"{name}\"] with price = {{ input = 0.15, output = 0.60 }} in dollars per million tokens; 0 is a price too")));
        }
        let model = endpoints.fetched(model)?;
        let name = model.name.as_str();
        let seats = opening.seats(endpoints, &model, limit)?;
        let learnt = opening.learnt(&model);
        check_equals(&model, &serving, &seats)?;
        let known = |endpoint: &&Endpoint| endpoint.vendor && endpoint.provider.counts_known();
        let (backend, vendor) = (&seats[0].backend, serving.iter().all(known));
        let kind = model.kind.or_else(|| backend.kind(name)).unwrap_or(ModelKind::Chat);
        let limited = model.max_output_tokens.is_some() || model.context_window.is_some();
        let unsaid = (kind == ModelKind::Text && vendor).then_some(openai::TEXT_TOKENS);
        // Requests do not bound what they cost by a parameter that is not sent.
        let unsent = serving.iter().any(|endpoint| OUTPUT_LIMITS.iter().any(|name| endpoint.drops(name)));
        let bounded = bounded && !unsent;
        if budget && !bounded && !limited && !backend.knows_bills() && unsaid.is_none() {
            let space =
                if unsent { "drop_params takes max_tokens out; set" } else { "set max_tokens in the space, or" };
            let help = format!("{space} in {file}: [models.\"{name}\"] max_output_tokens = ...");
            return Err(service::unbounded(name, help));
        }
        let service = Arc::new(Service {
            price: model.price.unwrap_or(Price::FREE),
            chat: kind != ModelKind::Text,
            vendor,
            unsaid,
            by_family: serving[0].equivalence == Equivalence::Major,
            takes: endpoints.takes(&model),
            model,
            seats,
            turns: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            learnt,
            bulk_price: OnceLock::new(),
        });
        if let Some((_, price)) = self.bulk.get() {
            service.buy_at(*price);
        }
        Ok(service)
    }

    /// The same on another store: so that everything that can be wrong is looked at before the store's file appears.
    #[must_use]
    pub fn with_store(self, store: SharedStore) -> Runner {
        Runner { store, ..self }
    }

    /// From now on what is [ordered](Self::order) is bought in rounds, at this price of a model, which studies then count.
    /// What that leaves is bought in the ordinary way.
    pub fn buy_in_rounds(&self, bulk: Arc<dyn Bulk>, price: PriceOf) {
        if self.bulk.set((bulk, price)).is_ok() {
            let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
            services.iter().for_each(|service| service.buy_at(price));
        }
    }

    /// Orders what the store does not have of a request, to be bought with others; `None` where nobody buys in rounds.
    pub fn order(
        &self,
        service: &Service,
        request: &Request,
        fingerprint: &Fingerprint,
        stored: usize,
    ) -> Option<Delivery> {
        let (bulk, _) = self.bulk.get()?;
        let order =
            Order { model: service.model.name.clone(), request: request.clone(), fingerprint: *fingerprint, stored };
        Some(bulk.order(order))
    }

    /// Nothing more will be ordered before something is delivered.
    pub fn close_round(&self) {
        if let Some((bulk, _)) = self.bulk.get() {
            bulk.close();
        }
    }

    /// True where requests are bought in rounds.
    pub fn in_rounds(&self) -> bool {
        self.bulk.get().is_some()
    }

    /// Waits for an order, and books what it cost. A failure says that there will be no answer, or that the run was stopped:
    /// what is out then stays out. Beside it, the requests that were sent.
    pub async fn delivered(&self, delivery: Delivery, hold: &mut Hold) -> Result<(Option<Failure>, u64)> {
        let Delivered { paid, requests, failure } = tokio::select! {
            delivered = delivery => delivered?,
            () = self.until_stopped() => {
                let failure = Failure::new(FailureKind::Interrupted, "the run was stopped while this was out");
                return Ok((Some(failure), 0));
            }
        };
        hold.spend(paid);
        Ok((failure, requests))
    }

    /// How many requests are sent at once at most.
    pub fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// The service of a model, if it was opened.
    pub fn service(&self, model: &str) -> Option<Arc<Service>> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        services.iter().find(|service| service.model.name == model).cloned()
    }

    /// Sends nothing more: what is in flight lands, what waits for a retry or its turn gives up.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.stopped.notify_waiters();
    }

    /// Sends again. What was in flight when it was stopped must have ended.
    pub fn go_on(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Waits for the end.
    async fn until_stopped(&self) {
        let stopped = self.stopped.notified();
        let mut stopped = std::pin::pin!(stopped);
        stopped.as_mut().enable();
        if !self.stopping() {
            stopped.await;
        }
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// To be called before a look into the store. Where that finds nothing of a request, [`Wish::missed`] takes this along,
    /// and the store is asked again only if the request may have been bought since.
    pub fn look(&self) -> Look {
        Look { at: Instant::now(), bought: self.bought.last.load(Ordering::SeqCst) }
    }

    /// Nothing of a request was stored a moment ago, and nothing of it was bought since. To be asked within its flight.
    fn still_missing(&self, missed: Option<Look>, fingerprint: &Fingerprint) -> bool {
        missed.is_some_and(|look| {
            self.bought.part(fingerprint).load(Ordering::SeqCst) <= look.bought && look.at.elapsed() < LOOK_HOLDS
        })
    }

    /// Gets at least `request.n` samples: from the store, else bought under `hold` and booked in the ledger. Identical
    /// requests in flight are sent once. The outer error is the store's.
    pub async fn answer(&self, ask: Ask<'_>, hold: &mut Hold) -> Result<Answered> {
        let flight = Flight::of(&self.flights, ask.fingerprint);
        let _turn = flight.lock.lock().await;
        purchase::Buyer { runner: self, ask, sent: AtomicU64::new(0) }.buy(hold).await
    }
}
