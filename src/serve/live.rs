//! A run's report on loopback while the run goes on: `farthing serve`.
//!
//! It reads the run's folder and nothing else, so whatever its readers do, the run does not notice. Who does not know the
//! random token in the address finds nothing, nor does a page of another site that a browser has open: the name in the
//! request must be this machine's, which a name that was bound anew is not.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::diagnostic::{Error, Result};
use crate::report::page::{self, Extent};
use crate::report::run::Run;
use crate::report::words;

/// How often it looks whether something changed.
const LOOK: Duration = Duration::from_millis(300);

/// Readers are told of changes at most so often, and less often where the page takes long to make.
const REST: Duration = Duration::from_secs(2);

/// A page that is served.
pub struct LivePage {
    listener: TcpListener,
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    run: PathBuf,
    token: String,
    port: u16,
    made: Mutex<Made>,
}

/// The page as it was made last.
#[derive(Default)]
struct Made {
    of: Option<Stamp>,
    page: String,
    took: Duration,
}

/// What a page was made of: when files change, it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    events: u64,
    summary: Option<SystemTime>,
}

impl Stamp {
    fn of(run: &Path) -> Stamp {
        let about = |name: &str| std::fs::metadata(run.join(name)).ok();
        Stamp {
            events: about("events.jsonl").map_or(0, |about| about.len()),
            summary: about("summary.json").and_then(|about| about.modified().ok()),
        }
    }
}

impl LivePage {
    /// Listens on loopback; port 0 takes any that is free.
    pub async fn bind(run: &Path, port: u16) -> Result<LivePage> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.map_err(|error| {
            Error::usage(format!("cannot listen on 127.0.0.1:{port}: {error}")).help("give another --port, or none")
        })?;
        let address = listener.local_addr().map_err(|error| Error::internal(error.to_string()))?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| Error::internal(format!("no random token: {error}")))?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let shared = Shared { run: run.to_owned(), token, port: address.port(), made: Mutex::default() };
        Ok(LivePage { listener, shared: Arc::new(shared), address })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/{}/", self.address, self.shared.token)
    }

    /// Serves until its future is dropped.
    pub async fn serve(self) -> Result<()> {
        let routes = Router::new()
            .fallback(answer)
            .layer(middleware::from_fn_with_state(self.shared.clone(), guard))
            .with_state(self.shared);
        axum::serve(self.listener, routes).await.map_err(|error| Error::internal(format!("serving ended: {error}")))
    }
}

/// Lets in who asks by this machine's own name, knows the token, and only looks.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let ours = ours(&shared, request.headers()) && matches!(*request.method(), Method::GET | Method::HEAD);
    let token = request.uri().path().split('/').nth(1).unwrap_or_default();
    // Hashes are compared in constant time.
    let known = blake3::hash(token.as_bytes()) == blake3::hash(shared.token.as_bytes());
    let mut response = match ours && known {
        true => next.run(request).await,
        false => StatusCode::NOT_FOUND.into_response(),
    };
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The name that was asked for, and the page that asks where a browser says so, are of this server.
fn ours(shared: &Shared, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let hosts = ["127.0.0.1", "localhost"].map(|name| format!("{name}:{}", shared.port));
    let host = text(header::HOST).is_some_and(|host| hosts.iter().any(|known| known == host));
    let origin = text(header::ORIGIN)
        .is_none_or(|origin| hosts.iter().any(|known| origin.strip_prefix("http://") == Some(known.as_str())));
    host && origin
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    match uri.path().splitn(3, '/').nth(2) {
        Some("") => html(&shared).await,
        Some("events") => events(shared).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The page as of now. Many readers at a time share one making of it.
async fn html(shared: &Arc<Shared>) -> Response {
    let mut made = shared.made.lock().await;
    let stamp = Stamp::of(&shared.run);
    if made.of != Some(stamp) {
        let (run, events) = (shared.run.clone(), format!("/{}/events", shared.token));
        let began = Instant::now();
        let page = tokio::task::spawn_blocking(move || make(&run, &events)).await;
        match page.map_err(|_| Error::internal("making the page panicked")).and_then(|page| page) {
            Ok(page) => *made = Made { of: Some(stamp), page, took: began.elapsed() },
            Err(error) => return waiting(&error).into_response(),
        }
    }
    Html(made.page.clone()).into_response()
}

fn make(run: &Path, events: &str) -> Result<String> {
    let run = Run::read(run)?;
    let page = page::data(&run, Extent::default());
    match run.ended {
        true => page::render(&page),
        false => page::render_live(&page, events),
    }
}

/// What is shown until there is a page, which comes by itself.
fn waiting(error: &Error) -> Html<String> {
    let text: String = words::line(error.message())
        .chars()
        .map(|c| match c {
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '&' => "&amp;".to_owned(),
            c => c.to_string(),
        })
        .collect();
    Html(format!(
        "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\"><title>farthing</title>\
         <p>There is nothing to show yet: {text}</p>"
    ))
}

/// A message at each change, and `end` when the run has ended.
fn events(shared: Arc<Shared>) -> Sse<impl stream::Stream<Item = std::result::Result<Event, Infallible>>> {
    let seen = Stamp::of(&shared.run);
    let changes = stream::unfold((shared, Some(seen)), |(shared, seen)| async move {
        let mut seen = seen?;
        loop {
            // An ended run is not told of again.
            let ended = |stamp: &Stamp| stamp.summary.is_some() && stamp.summary != seen.summary;
            tokio::time::sleep(LOOK).await;
            let now = Stamp::of(&shared.run);
            if ended(&now) {
                return Some((Ok(Event::default().event("end").data("ended")), (shared, None)));
            }
            if now != seen {
                seen = now;
                let rest = REST.max(shared.made.lock().await.took * 4);
                let message = Event::default().data(now.events.to_string());
                tokio::time::sleep(rest.saturating_sub(LOOK)).await;
                return Some((Ok(message), (shared, Some(seen))));
            }
        }
    });
    Sse::new(changes).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}
