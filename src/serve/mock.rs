//! An OpenAI-compatible endpoint on loopback, without a language model: `farthing mock`, and the counterparty of our
//! tests. It keeps its own ledger with its own prices, independent of farthing's runner and budget, and it can be told
//! to be slow, to lie about usage, and to fail in every way that endpoints fail.
//!
//! | route | what |
//! |---|---|
//! | `POST /v1/chat/completions` | completions of a conversation |
//! | `POST /v1/completions` | completions of a text |
//! | `GET /v1/models` | the models of the price table |
//! | `GET /ledger` | the [`Ledger`] as JSON |
//! | `POST /reset` | forgets the ledger and which samples were given |
//!
//! Equal requests (n apart) go on where the last one ended: who asked for 3 samples and asks for 2 more gets new ones.
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
pub mod faults;
mod ledger;
mod socket;
mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, Response as HttpResponse, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use answers::{Answers, Cassette, Reply};
pub use faults::{Call, Fault, Faults, Latency};
use ledger::Book;
pub use ledger::{Ledger, ModelLedger, Price, Usage};
use socket::{Door, Fuse};
use wire::Refusal;

use crate::backend::mock::MODELS;
use crate::diagnostic::{Error, Result};
use crate::provider::Request;

/// How the endpoint behaves.
#[derive(Clone)]
pub struct Options {
    /// The port on 127.0.0.1; 0 takes any that is free.
    pub port: u16,
    /// The models and their prices. Other models are refused (404); if there are none, any model is served for $0.
    pub models: BTreeMap<String, Price>,
    /// Who answers.
    pub answers: Answers,
    /// If set, only `Authorization: Bearer KEY` is let in.
    pub key: Option<String>,
    /// How long an answer takes.
    pub latency: Latency,
    /// What is said about tokens, and billed.
    pub usage: Usage,
    /// What goes wrong.
    pub faults: Faults,
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
        let desk = Arc::new(Desk { options, book: Mutex::default() });
        let service = router(desk.clone()).into_make_service_with_connect_info::<Fuse>();
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

    /// The ledger as it is now.
    pub fn ledger(&self) -> Ledger {
        self.desk.book().ledger.clone()
    }

    /// Forgets the ledger and which samples were given.
    pub fn reset(&self) {
        self.desk.book().reset();
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

/// What all requests share.
struct Desk {
    options: Options,
    book: Mutex<Book>,
}

impl Desk {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is open; leaving it, even because the client went away, closes it.
struct Open<'a>(&'a Desk);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.book().leave();
    }
}

fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(async |s, f, h, b| complete(s, true, f, h, b).await))
        .route("/v1/completions", post(async |s, f, h, b| complete(s, false, f, h, b).await))
        .route("/v1/models", get(models))
        .route("/ledger", get(async |State(desk): State<Arc<Desk>>| Json(desk.book().ledger.clone())))
        .route("/reset", post(async |State(desk): State<Arc<Desk>>| desk.book().reset()))
        .fallback(async || refuse(&Refusal::no_route()))
        .layer(DefaultBodyLimit::disable())
        .with_state(desk)
}

async fn models(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> HttpResponse<Body> {
    match authorized(&desk.options, &headers) {
        Ok(()) => json_reply(200, &wire::models(desk.options.models.keys())),
        Err(refusal) => refuse(&refusal),
    }
}

fn authorized(options: &Options, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(key) = &options.key else { return Ok(()) };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match given.and_then(|given| given.strip_prefix("Bearer ")) == Some(key) {
        true => Ok(()),
        false => Err(Refusal::unauthorized()),
    }
}

/// One request for completions, from its arrival to its end.
async fn complete(
    State(desk): State<Arc<Desk>>,
    chat: bool,
    ConnectInfo(fuse): ConnectInfo<Fuse>,
    headers: HeaderMap,
    body: Bytes,
) -> HttpResponse<Body> {
    let number = desk.book().enter();
    let _open = Open(&desk);
    let plan = match authorized(&desk.options, &headers).and_then(|()| plan(&desk, number, chat, &body)) {
        Ok(plan) => plan,
        Err(refusal) => {
            tokio::time::sleep(desk.options.latency.of(number)).await;
            return refuse(&refusal);
        }
    };
    // What is billed is in the ledger by now: an endpoint works on, even if the client goes away.
    if plan.fault.as_ref().is_none_or(|fault| fault.late) {
        let latency = desk.options.latency.of(number);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }
    let json = plan.reply.to_string();
    let Some(fault) = plan.fault else {
        desk.book().ledger.answered += 1;
        return reply(200, "application/json", json);
    };
    match fault.kind {
        faults::Kind::Status { code, headers, body } => {
            let mut reply = reply(code, "application/json", body);
            for (name, value) in headers {
                if let (Ok(name), Ok(value)) = (name.parse::<header::HeaderName>(), value.parse()) {
                    reply.headers_mut().insert(name, value);
                }
            }
            reply
        }
        faults::Kind::Hang => std::future::pending().await,
        faults::Kind::Reset => {
            fuse.reset();
            reply(200, "application/json", json)
        }
        faults::Kind::Cut => {
            // The head has about 110 bytes: it passes whole, and so does some of the body.
            fuse.end_after(120 + json.len() / 2);
            reply(200, "application/json", json)
        }
        faults::Kind::Malformed => {
            let half = (0..=json.len() / 2).rev().find(|&at| json.is_char_boundary(at)).unwrap_or(0);
            reply(200, "application/json", json[..half].to_owned())
        }
        faults::Kind::Html => {
            let page =
                "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>\n";
            reply(200, "text/html", page.to_owned())
        }
        faults::Kind::Fewer | faults::Kind::NoChoices => reply(200, "application/json", json),
    }
}

/// What becomes of a request.
struct Plan {
    fault: Option<Fault>,
    /// The good answer, or what is left of it.
    reply: Value,
}

/// Decides what becomes of a request, bills it, and counts the samples that are given.
fn plan(desk: &Desk, number: u64, chat: bool, body: &[u8]) -> Result<Plan, Refusal> {
    let options = &desk.options;
    let body: Value = serde_json::from_slice(body)
        .map_err(|_| Refusal::bad(None, "We could not parse the JSON body of your request."))?;
    desk.book().seen(ledger::hash(&body));
    let request = wire::request(&body, chat)?;
    let price = match options.models.get(&request.model) {
        Some(price) => *price,
        None if options.models.is_empty() => Price::FREE,
        None => return Err(Refusal::unknown_model(&request.model)),
    };
    let input = serde_json::to_value(&request.input).unwrap_or_default();
    let prompt = ledger::hash(&input);
    let fingerprint = answers::key(&request.model, input, request.params.iter());

    // No lock is held while functions of the caller's run: they may look at the ledger.
    let mut call = Call { number, first: *desk.book().given(fingerprint), body };
    let mut fault = (options.faults)(&call);
    let silent = fault.as_ref().is_some_and(|fault| !fault.billed && matches!(fault.kind, faults::Kind::Status { .. }));
    if silent {
        return Ok(Plan { fault, reply: Value::Null });
    }
    let fewer = fault.as_ref().is_some_and(|fault| fault.kind == faults::Kind::Fewer);
    if fault.is_none() || fewer {
        // Taken in one go, or two equal requests would get the same samples. Where nothing reaches the client, nothing
        // is taken: the next request gets these samples.
        let mut book = desk.book();
        let given = book.given(fingerprint);
        call.first = *given;
        *given += request.n as usize - usize::from(fewer);
    }
    let mut answer = match options.answers.answer(&request, &call)? {
        Reply::Answer(answer) => answer,
        Reply::Texts(texts) => answers::counted(&request, texts),
        Reply::Fault(wrong) => {
            fault = Some(wrong);
            answers::counted(&request, Vec::new())
        }
    };
    if fewer {
        answer.samples.pop();
    }
    let tokens = {
        let mut book = desk.book();
        let billed = fault.as_ref().is_none_or(|fault| fault.billed);
        let cached = billed && book.cached(prompt) && options.cache_prompts;
        let tokens = options.usage.tokens(&answer, cached, allowed(&request, &price));
        if billed {
            book.bill(&request.model, &price, tokens);
        }
        tokens
    };
    if fault.as_ref().is_some_and(|fault| fault.kind == faults::Kind::NoChoices) {
        answer.samples.clear();
    }
    let shown = (options.usage != Usage::None).then_some(tokens);
    Ok(Plan { fault, reply: wire::reply(number, &request.model, chat, &answer, shown) })
}

/// The output tokens that a request allows.
fn allowed(request: &Request, price: &Price) -> u64 {
    let set = |name: &str| request.params.get(name).and_then(Value::as_f64).filter(|&most| most >= 1.0);
    let most = set("max_tokens").or_else(|| set("max_completion_tokens")).map(|most| most as u64);
    most.unwrap_or(price.max_output_tokens).saturating_mul(u64::from(request.n))
}

fn refuse(refusal: &Refusal) -> HttpResponse<Body> {
    json_reply(refusal.status, &refusal.body())
}

fn json_reply(status: u16, body: &Value) -> HttpResponse<Body> {
    reply(status, "application/json", body.to_string())
}

fn reply(status: u16, kind: &'static str, body: String) -> HttpResponse<Body> {
    let mut reply = HttpResponse::new(Body::from(body));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}

#[cfg(test)]
mod tests;
