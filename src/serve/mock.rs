//! An endpoint on loopback, without a language model: `farthing mock`, and the counterparty of our tests. It keeps its
//! own ledger with its own prices, independent of farthing's runner and budget, and it can be told to be slow, to lie
//! about usage, and to fail in every way that endpoints fail.
//!
//! | route | what |
//! |---|---|
//! | `POST /v1/chat/completions`, `/v1/completions`, `/v1/responses` | OpenAI; the first two stream, too |
//! | `POST /openai/deployments/{deployment}/chat/completions`, `.../completions` | Azure |
//! | `POST /v1/messages` | Anthropic |
//! | `POST /api/chat`, `/api/generate`, `/api/show`, `GET /api/tags` | Ollama |
//! | `POST /v1beta/models/{model}:generateContent` | Gemini |
//! | `GET /v1/models`, `/v1/models/{id}`, `/v1beta/models` | the models of the price table |
//! | `/v1/files`, `/v1/batches` (and the same under `/openai`) | OpenAI's files and batches, at half the price |
//! | `/v1/messages/batches` | Anthropic's batches, at half the price |
//! | `GET /ledger` | the [`Ledger`] as JSON |
//! | `POST /reset` | forgets the ledger, which samples were given, files and batches; fault rules begin anew |
//! | `GET`, `POST`, `DELETE /faults` | the fault rules: `{"faults": ["503:rate=0.1"]}` replaces them |
//! | `POST /clock/advance` | `{"seconds": 3600}` puts the endpoint's clock forward |
//!
//! All formats share one model behind them, one ledger, and the samples: equal requests (n apart) go on where the last
//! one ended, so who asked for 3 samples and asks for 2 more gets new ones. The header `x-mock-fault: NAME` makes a
//! single request fail ([`FAULTS`]).
//!
//! ```
//! use farthing::serve::mock::{MockServer, Options};
//!
//! let server = MockServer::start(Options::default())?;
//! assert!(server.url().starts_with("http://127.0.0.1:"));
//! assert_eq!(server.ledger().requests, 0);
//! # Ok::<(), farthing::Error>(())
//! ```

mod answers;
mod anthropic;
mod azure;
mod batches;
mod clock;
pub mod faults;
mod files;
mod flow;
mod gemini;
mod ledger;
mod limits;
mod message_batches;
mod ollama;
mod openai;
mod responses;
mod routes;
mod rules;
mod socket;
mod wire;
mod work;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use answers::{Answers, Cassette, Reply};
pub use batches::BatchOptions;
use clock::Clock;
pub use faults::{Call, Fault, Faults, Latency};
use files::{Shelf, Store};
use ledger::Book;
pub use ledger::{Bills, Ledger, ModelLedger, Price, Usage};
use limits::Limiter;
pub use limits::Limits;
use rules::Armed;
pub use rules::{CONDITIONS, NAMES as FAULTS, Rule};
use socket::{Door, Fuse};
use work::Outcome;

use crate::backend::mock::MODELS;
use crate::diagnostic::{Error, Result};

/// How the endpoint behaves.
#[derive(Clone)]
pub struct Options {
    /// The port on 127.0.0.1; 0 takes any that is free.
    pub port: u16,
    /// The models and their prices. Other models are refused (404); if there are none, any model is served for $0.
    pub models: BTreeMap<String, Price>,
    /// Who answers.
    pub answers: Answers,
    /// If set, only requests with this key are let in, in the header that the format has for it.
    pub key: Option<String>,
    /// How long an answer takes.
    pub latency: Latency,
    /// What is said about tokens, and billed.
    pub usage: Usage,
    /// What goes wrong, as a function. It is asked after the rules.
    pub faults: Faults,
    /// What goes wrong, as rules. They can be changed while it runs.
    pub rules: Vec<Rule>,
    /// What each key may do.
    pub limits: Limits,
    /// How batches go.
    pub batches: BatchOptions,
    /// Bills a prompt that was billed before as cached.
    pub cache_prompts: bool,
    /// Threads that serve.
    pub threads: usize,
}

impl Default for Options {
    /// The made-up models at their suggested prices, truthful, at once, without a key; any port, one thread.
    fn default() -> Options {
        let price = |model: &crate::backend::mock::Model| {
            let price = Price::per_million(model.input_price, model.output_price).ok()?;
            Some((model.name.to_owned(), Price { max_output_tokens: model.max_output_tokens, ..price }))
        };
        Options {
            port: 0,
            models: MODELS.iter().filter_map(price).collect(),
            answers: Answers::MadeUp,
            key: None,
            latency: Latency::None,
            usage: Usage::Truthful,
            faults: faults::none(),
            rules: Vec::new(),
            limits: Limits::default(),
            batches: BatchOptions::default(),
            cache_prompts: false,
            threads: 1,
        }
    }
}

/// A running endpoint, on threads of its own. Dropping it ends it.
pub struct MockServer {
    address: SocketAddr,
    desk: Arc<Desk>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MockServer {
    /// Starts an endpoint on 127.0.0.1. It serves when this returns.
    ///
    /// # Errors
    /// A usage error where the port is taken; an internal one where the system gives no thread.
    pub fn start(options: Options) -> Result<MockServer> {
        let taken = |error| Error::usage(format!("cannot listen on 127.0.0.1:{}: {error}", options.port));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).map_err(taken)?;
        listener.set_nonblocking(true).map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let no_thread = |error| Error::internal(format!("the mock endpoint cannot start: {error}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("farthing-mock")
            .enable_all()
            .build()
            .map_err(no_thread)?;
        let door = {
            let _guard = runtime.enter();
            Door(TcpListener::from_std(listener).map_err(no_thread)?)
        };
        let desk = Arc::new(Desk {
            rules: RwLock::new(Arc::new(Armed::new(options.rules.clone()))),
            limiter: Limiter::new(options.limits),
            clock: Clock::new(),
            store: Store::default(),
            book: Mutex::default(),
            address,
            options,
        });
        let service = routes::router(desk.clone()).into_make_service_with_connect_info::<Fuse>();
        let (end, ended) = oneshot::channel::<()>();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    // It never ends by itself, and has no errors.
                    _ = async { axum::serve(door, service).await } => {}
                    _ = ended => {}
                }
            });
            // Requests that hang must not keep it.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("farthing-mock".into()).spawn(serve).map_err(no_thread)?;
        Ok(MockServer { address, desk, end: Some(end), thread: Some(thread) })
    }

    /// The base address for clients: `http://127.0.0.1:PORT/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The ledger as it is now, with what batches have come to by now.
    pub fn ledger(&self) -> Ledger {
        self.desk.settle();
        self.desk.book().ledger.clone()
    }

    /// Forgets the ledger, which samples were given, files and batches; fault rules begin anew.
    pub fn reset(&self) {
        self.desk.reset();
    }

    /// Replaces the fault rules.
    pub fn set_rules(&self, rules: impl IntoIterator<Item = Rule>) {
        self.desk.arm(Armed::new(rules));
    }

    /// Puts the endpoint's clock forward: batches go on, limits fill up. Latencies take as long as before.
    pub fn advance(&self, by: Duration) {
        self.desk.clock.advance(by);
    }
}

impl Drop for MockServer {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // The receiver is gone only if the thread has ended.
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who pays: the label of a key.
#[derive(Clone, Debug)]
struct Payer(String);

/// What all requests share.
struct Desk {
    options: Options,
    address: SocketAddr,
    book: Mutex<Book>,
    rules: RwLock<Arc<Armed>>,
    limiter: Limiter,
    clock: Clock,
    store: Store,
}

impl Desk {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> Arc<Armed> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn arm(&self, rules: Armed) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn reset(&self) {
        self.book().reset();
        self.limiter.reset();
        self.arm(Armed::new(self.rules().rules()));
        *self.store.shelf() = Shelf::default();
    }

    /// Brings batches up to now.
    fn settle(&self) {
        let now = self.clock.now();
        let mut due = Vec::new();
        {
            let mut shelf = self.store.shelf();
            for (&number, batch) in &mut shelf.batches {
                let lines = batch.take(now);
                due.push((false, number, batch.work().format, batch.work().key.clone(), lines));
            }
            for (&number, batch) in &mut shelf.message_batches {
                let lines = batch.take(now);
                due.push((true, number, batch.work().format, batch.work().key.clone(), lines));
            }
        }
        // No lock is held while functions of the caller's run: they may look at the ledger.
        for (messages, number, format, key, lines) in due {
            let outcomes: Vec<(usize, Outcome)> =
                lines.into_iter().map(|(at, body)| (at, work::answer(self, format, &key, body))).collect();
            let mut shelf = self.store.shelf();
            let work = match messages {
                true => shelf.message_batches.get_mut(&number).map(|batch| batch.work()),
                false => shelf.batches.get_mut(&number).map(|batch| batch.work()),
            };
            // A reset may have taken it away in between.
            let Some(work) = work else { continue };
            for (at, outcome) in outcomes {
                if let Some(line) = work.lines.get_mut(at) {
                    line.outcome = Some(outcome);
                }
            }
        }
        let mut shelf = self.store.shelf();
        batches::write(&mut shelf, now);
        message_batches::write(&mut shelf, now);
    }
}

#[cfg(test)]
mod tests;
