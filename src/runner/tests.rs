//! Requests answered by endpoints that do as they are told, on a clock that does not run by itself.

mod purchases;
mod routes;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::backend::{Answer, CallError, Routing};
use crate::money::Usd;
use crate::provider::{FailureKind, FinishReason, Input, Response, Sample};
use crate::store::MemoryStore;

/// What an endpoint does.
#[derive(Clone, Debug)]
enum Does {
    Answer,
    /// So many seconds later.
    Late(u64),
    /// One choice only.
    Short,
    Fail(FailureKind),
    /// A bill far above the bound, so many seconds later.
    Dear(u64),
    /// It fails, and that may be billed.
    Lose(FailureKind),
    /// It asks for a wait of seconds.
    Limited(u64),
    /// No answer in time, after a second; it may be billed.
    TimeOut,
    Hang,
    /// As another model.
    As(&'static str),
}

type Plot = Box<dyn Fn(u64) -> Does + Send + Sync>;

/// An endpoint: what it does with each request, in the order of coming (from 1).
struct Stub {
    plot: Plot,
    several: bool,
    latency: Duration,
    /// (first sample, how many)
    calls: Mutex<Vec<(usize, u32)>>,
}

impl Backend for Stub {
    fn source(&self) -> &'static str {
        "http"
    }

    fn several(&self, _request: &Request) -> bool {
        self.several
    }

    fn call<'a>(&'a self, request: &'a Request, first: usize) -> Answer<'a> {
        Box::pin(async move {
            let n = request.n - first as u32;
            let number = {
                let mut calls = self.calls.lock().unwrap();
                calls.push((first, n));
                calls.len() as u64
            };
            tokio::time::sleep(self.latency).await;
            let fail = |kind, may_be_billed, wish: Option<u64>| {
                let retry_after = wish.map(Duration::from_secs);
                let error = CallError::unbilled(Failure::new(kind, kind.word()));
                Err(CallError { may_be_billed, retry_after, ..error })
            };
            let (mut model, mut prompt_tokens) = (None, 10);
            let samples = match (self.plot)(number) {
                Does::Answer => n,
                Does::Late(seconds) => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    n
                }
                Does::Dear(seconds) => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    prompt_tokens = 10_000;
                    n
                }
                Does::Short => 1,
                Does::As(name) => {
                    model = Some(name.to_owned());
                    n
                }
                Does::Fail(kind) => return fail(kind, false, None),
                Does::Lose(kind) => return fail(kind, true, None),
                Does::Limited(wish) => return fail(FailureKind::RateLimit, false, Some(wish)),
                Does::TimeOut => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return fail(FailureKind::Timeout, true, None);
                }
                Does::Hang => std::future::pending().await,
            };
            let sample = |at| Sample::new(format!("{at}"), FinishReason::STOP, 2);
            let samples = (first..first + samples as usize).map(sample).collect();
            Ok(Response { samples, prompt_tokens, model, ..Response::default() })
        })
    }
}

/// A runner for one model `m` at endpoints `a`, `b`, ...
struct Stage {
    runner: Arc<Runner>,
    stubs: Vec<Arc<Stub>>,
    purse: Arc<Purse>,
    endpoints: Endpoints,
}

/// What is stored of a request now, and the requests that it took.
#[derive(Debug)]
struct Bought {
    stored: Stored,
    requests: u64,
}

fn bought(Answered { outcome, requests }: Answered) -> Result<Bought, Failure> {
    outcome.map(|stored| Bought { stored, requests })
}

fn always(does: Does) -> Plot {
    Box::new(move |_| does.clone())
}

impl Stage {
    fn new(plots: Vec<Plot>) -> Stage {
        Stage::with(plots, true, |_| {}, |_| {})
    }

    fn with(plots: Vec<Plot>, several: bool, endpoint: impl Fn(&mut Endpoint), model: impl Fn(&mut Model)) -> Stage {
        let stub = |plot| Stub { plot, several, latency: Duration::from_millis(100), calls: Mutex::default() };
        let stubs: Vec<Arc<Stub>> = plots.into_iter().map(|plot| Arc::new(stub(plot))).collect();
        let list = (0..stubs.len()).map(|at| {
            let name = char::from(b'a' + at as u8).to_string();
            let mut one = Endpoint::at(&name, "http://127.0.0.1:1/v1");
            endpoint(&mut one);
            one
        });
        let mut endpoints = Endpoints::mock();
        endpoints.list = list.collect();
        let mut kept = Endpoints::standard().model("gpt-4o").unwrap();
        (kept.name, kept.id) = ("m".into(), "m".into());
        kept.endpoints = (0..stubs.len()).collect();
        kept.price = Some(Price::flat(Usd::from_pico(1_000_000), Usd::from_pico(1_000_000)));
        model(&mut kept);
        endpoints.groups.insert("shared".into(), Rates::default());
        let mut opening = Opening::new(32);
        for (at, stub) in stubs.iter().enumerate() {
            let mut limit = Limit::new("x", &endpoints.list[at].rates, opening.now);
            limit.window = Some(Window::new(opening.run.1));
            let limit = opening.throttle.add_limit(limit);
            opening.backends.insert(at, (stub.clone(), limit));
        }
        let (seats, learnt) = (opening.seats(&endpoints, &kept, None).unwrap(), opening.learnt(&kept));
        let service = Service {
            takes: crate::models::Capabilities::ANY,
            price: kept.price.unwrap(),
            chat: true,
            vendor: false,
            unsaid: None,
            by_family: false,
            model: kept,
            seats,
            turns: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            learnt,
            bulk_price: OnceLock::new(),
        };
        let runner = Runner {
            store: MemoryStore::new(),
            services: RwLock::new(vec![Arc::new(service)]),
            flights: Mutex::default(),
            throttle: opening.throttle.clone(),
            opening: Mutex::new(opening),
            wire: Semaphore::new(32),
            concurrency: 32,
            bought: super::Bought::new(),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
            bulk: OnceLock::new(),
        };
        let purse = Purse::new(Some("1".parse().unwrap()), false, Usd::ZERO);
        Stage { runner: Arc::new(runner), stubs, purse, endpoints }
    }

    fn service(&self) -> Arc<Service> {
        self.runner.service("m").unwrap()
    }

    async fn ask(&self, text: &str, n: u32) -> Result<Bought, Failure> {
        self.ask_as(Wish::default(), text, n).await
    }

    async fn ask_as(&self, wish: Wish, text: &str, n: u32) -> Result<Bought, Failure> {
        bought(self.answered(&self.service(), wish, text, n).await)
    }

    /// The model for a group of requests.
    fn group(&self) -> Arc<Service> {
        self.runner.open_under(&self.endpoints, self.service().model.clone(), None, true).unwrap()
    }

    async fn ask_of(&self, service: &Service, text: &str) -> Result<Bought, Failure> {
        bought(self.answered(service, Wish::default(), text, 1).await)
    }

    async fn answered(&self, service: &Service, wish: Wish, text: &str, n: u32) -> Answered {
        let request = request(text, n);
        let print = service.fingerprint(&request);
        let worst = service.worst(&request, self.runner.store.stored(&print).unwrap().len(), false);
        let Admission::Go(mut hold) = self.purse.admit(worst, worst) else { panic!("not admitted") };
        let ask = Ask { service, request: &request, fingerprint: &print, scope: "scope", wish };
        let answered = self.runner.answer(ask, &mut hold).await.unwrap();
        drop(hold);
        if self.purse.held() == Usd::ZERO {
            assert_eq!(self.runner.store.spent("scope").unwrap().total(), self.purse.spent(), "the ledger knows all");
        }
        answered
    }

    fn calls(&self) -> Vec<usize> {
        self.stubs.iter().map(|stub| stub.calls.lock().unwrap().len()).collect()
    }
}

fn request(text: &str, n: u32) -> Request {
    let message = crate::provider::Message { role: "user".into(), content: text.into() };
    let params: BTreeMap<_, _> = [("max_tokens".to_owned(), json!(20)), ("temperature".to_owned(), json!(0))].into();
    Request { model: "m".into(), input: Input::Messages(vec![message]), params, n }
}

/// The bound of one request for one completion of a text of one byte.
fn worst_of_one() -> Usd {
    Usd::from_pico(1_000_000).times(20 + 64 + 16 + 4 + 1)
}

fn endpoint_of(answered: &Bought) -> Option<&str> {
    answered.stored.purchases.last()?.response.endpoint.as_deref()
}
