//! Over HTTP: one pooled client an endpoint. Sends what `provider` encoded and hands what came back to it.

mod keys;
pub mod raw;
mod waits;
mod wires;

pub(crate) use keys::needs_key;

use std::borrow::Cow;
use std::sync::{Once, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, LOCATION};
use reqwest::{Body, Response as Reply, Url};

use crate::backend::{Answer, Backend, CallError, Endpoint};
use crate::diagnostic::{Error, Result};
use crate::provider::wire::{Call, Method};
use crate::provider::{BROKE, Failure, FailureKind, Refusal, Request, Response, Wire};
use keys::Keys;

/// An endpoint over HTTP.
#[derive(Debug)]
pub struct Http {
    client: reqwest::Client,
    wire: Box<dyn Wire>,
    base_url: String,
    keys: Keys,
    drop_params: Vec<String>,
    /// Addresses as parsed, by path: most endpoints have one.
    addresses: RwLock<Vec<(String, Url)>>,
    /// Largest reply that is read, in bytes.
    largest: usize,
}

/// Largest reply that is read: far above any answer, far below memory.
const LARGEST: usize = 64 << 20;
/// Addresses that are kept parsed.
const ADDRESSES: usize = 64;

impl Http {
    /// Builds the client. The provider's own address needs a key; a server of your own may go without.
    pub fn open(endpoint: &Endpoint) -> Result<Http> {
        static TLS: Once = Once::new();
        // An application that embeds farthing may have installed its own TLS provider: then that one serves.
        TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let wire = wires::wire(endpoint);
        let keys = Keys::read(endpoint, &*wire)?;
        let builder = reqwest::Client::builder()
            .user_agent(concat!("farthing/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(endpoint.timeout.min(Duration::from_secs(20)))
            .timeout(endpoint.timeout)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(512);
        let builder = if loopback(&endpoint.base_url) { builder.no_proxy() } else { builder };
        let client =
            builder.build().map_err(|error| Error::internal(format!("no HTTP client can be made: {error}")))?;
        Ok(Http {
            client,
            wire,
            base_url: wires::base(endpoint),
            keys,
            drop_params: endpoint.drop_params.clone(),
            addresses: RwLock::default(),
            largest: LARGEST,
        })
    }

    /// The models that the endpoint lists: bills nothing, and tells whether its address and a key are good.
    pub async fn models(&self) -> Result<Vec<String>, Failure> {
        let call = self.wire.listing();
        let read = |bytes: &[u8]| self.wire.listed(bytes).map_err(|failure| Refusal::of(failure, false));
        self.exchange(call, read).await.map_err(|error| error.failure)
    }

    fn failed(&self, kind: FailureKind, message: impl Into<String>, may_be_billed: bool) -> CallError {
        let error = CallError::unbilled(Failure::new(kind, self.keys.scrub(message.into())));
        CallError { may_be_billed, ..error }
    }

    /// A transport error: before the request was out nothing can be billed, after it may be.
    fn broken(&self, error: &reqwest::Error) -> CallError {
        if error.is_connect() {
            let kind = if error.is_timeout() { FailureKind::Timeout } else { FailureKind::Connection };
            return self.failed(kind, unreached(error, &self.base_url), false);
        }
        if error.is_timeout() {
            return self.failed(FailureKind::Timeout, "no answer within the timeout", true);
        }
        let sent = !error.is_builder();
        self.failed(FailureKind::Connection, format!("{BROKE}: {}", root_cause(error)), sent)
    }

    /// The whole address of a path.
    fn address(&self, path: &str) -> Result<Url, CallError> {
        let known = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, url)) = known.iter().find(|(known, _)| known == path) {
            return Ok(url.clone());
        }
        drop(known);
        let url = Url::parse(&format!("{}{path}", self.base_url));
        let url = url.map_err(|error| self.failed(FailureKind::BadRequest, format!("no address: {error}"), false))?;
        let mut known = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < ADDRESSES {
            known.push((path.to_owned(), url.clone()));
        }
        Ok(url)
    }

    /// Sends a call, under another key where one is refused or over its limit and another is awake: nothing is billed for
    /// such a reply. Gives what is read in a reply with status 200, which may be an error all the same.
    async fn exchange<T>(&self, call: Call, read: impl Fn(&[u8]) -> Result<T, Refusal> + Sync) -> Result<T, CallError> {
        let url = self.address(&call.path)?;
        let method = match call.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
        };
        let body = (call.method == Method::Post).then(|| Bytes::from(call.body));
        let mut tried = Vec::new();
        let mut last = None;
        while let Some(held) = self.keys.choose(&tried) {
            let mut request = reqwest::Request::new(method.clone(), url.clone());
            request.headers_mut().clone_from(&held.key.headers);
            for (name, value) in &call.headers {
                if let Ok(value) = value.parse() {
                    request.headers_mut().insert(*name, value);
                }
            }
            // Bytes in memory are shared, not copied.
            *request.body_mut() = body.clone().map(Body::from);
            let error = match self.send(request, body.as_deref().unwrap_or_default(), &read).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.keys.learn(held.key, error.failure.kind, error.retry_after);
            use FailureKind::{Authentication, QuotaExceeded, RateLimit};
            // What is held for an attempt is the worst case of one that may be billed.
            let free = !error.may_be_billed;
            if !(free
                && self.keys.several()
                && matches!(error.failure.kind, Authentication | QuotaExceeded | RateLimit))
            {
                return Err(error);
            }
            tried.push(held.at);
            last = Some(error);
        }
        let error = last.unwrap_or_else(|| self.failed(FailureKind::Authentication, "there is no key", false));
        Err(match self.keys.limited() {
            // The endpoint has not failed while a key only rests: the next attempt goes to the one that wakes first.
            Some(wait) => {
                let Failure { kind, message, .. } = error.failure;
                let message = match kind {
                    FailureKind::RateLimit => message,
                    _ => format!("one key was refused ({message}), and the others are over their limits"),
                };
                let failure = Failure::new(FailureKind::RateLimit, message);
                CallError { failure, retry_after: Some(wait.min(waits::LONGEST)), ..error }
            }
            None => error,
        })
    }

    /// One exchange.
    async fn send<T>(
        &self,
        request: reqwest::Request,
        asked: &[u8],
        read: &(impl Fn(&[u8]) -> Result<T, Refusal> + Sync),
    ) -> Result<T, CallError> {
        let mut reply = self.client.execute(request).await.map_err(|error| self.broken(&error))?;
        if !reply.status().is_success() {
            return Err(self.refusal(reply, asked).await);
        }
        self.readable(reply.headers())?;
        let headers = std::mem::take(reply.headers_mut());
        let bytes = self.body(reply).await?;
        read(&self.keys.scrub_bytes(&bytes, true)).map_err(|refusal| {
            // Read again without any key: messages quote a reply's beginning, which may end in the middle of one.
            let refusal = read(&self.keys.scrub_bytes(&bytes, false)).err().unwrap_or(refusal);
            self.refused(refusal, &headers)
        })
    }

    /// `Err` for the body of a good reply that is compressed, though `identity` was asked for: it was answered all the same.
    fn readable(&self, headers: &HeaderMap) -> Result<(), CallError> {
        match compressed(headers) {
            Some(words) => Err(self.failed(FailureKind::MalformedReply, words, true)),
            None => Ok(()),
        }
    }

    /// What a reply with another status than 200 and its like says.
    async fn refusal(&self, reply: Reply, asked: &[u8]) -> CallError {
        let (status, headers) = (reply.status(), reply.headers().clone());
        if status.is_redirection() {
            return self.failed(FailureKind::BadRequest, self.elsewhere(&reply), false);
        }
        // An error status says what is billed, whether its text arrives or not.
        let bytes = match compressed(&headers) {
            Some(words) => Bytes::from(words),
            None => self.body(reply).await.unwrap_or_default(),
        };
        self.refused(self.wire.decode_error(status.as_u16(), asked, &self.keys.scrub_bytes(&bytes, false)), &headers)
    }

    /// A refusal, with what its reply's headers say of it.
    fn refused(&self, refusal: Refusal, headers: &HeaderMap) -> CallError {
        let wished = waits::wished(headers, refusal.limited, SystemTime::now());
        CallError {
            retry_after: wished.or(refusal.wait.map(|wait| wait.min(waits::LONGEST))),
            too_much: refusal.too_much,
            ..self.failed(refusal.failure.kind, refusal.failure.message, refusal.billed)
        }
    }

    /// Where a redirect points to. Nobody follows it: a key goes to no address that the user did not write.
    fn elsewhere(&self, reply: &Reply) -> String {
        let status = reply.status().as_u16();
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return format!("HTTP {status}: an unexpected status");
        }
        let location = reply.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let Some(mut target) = location.and_then(|location| reply.url().join(location).ok()) else {
            return format!("HTTP {status}: the endpoint points elsewhere, but does not say where: check its base_url");
        };
        target.set_query(None);
        target.set_fragment(None);
        // An address that takes neither has neither.
        let _ = (target.set_username(""), target.set_password(None));
        // Where only what stands before a call's own path is another, that is the new base URL.
        let base = Url::parse(&self.base_url).ok();
        let own = base.and_then(|base| reply.url().path().strip_prefix(base.path().trim_end_matches('/')));
        let new = own.filter(|own| !own.is_empty()).and_then(|own| target.path().strip_suffix(own)).map(str::to_owned);
        if let Some(path) = &new {
            target.set_path(path);
        }
        let target: String = target.as_str().trim_end_matches('/').chars().take(200).collect();
        let what = if new.is_some() { "write that as base_url" } else { "check its base_url" };
        format!("HTTP {status}: the endpoint points elsewhere, and keys do not follow: to {target}: {what}")
    }

    /// A reply's body, up to a bound.
    async fn body(&self, mut reply: Reply) -> Result<Bytes, CallError> {
        let too_large = || {
            let message = format!("the reply is larger than {} MiB", self.largest >> 20);
            self.failed(FailureKind::MalformedReply, message, true)
        };
        let announced = reply.content_length().unwrap_or(0);
        if announced > self.largest as u64 {
            return Err(too_large());
        }
        // Most replies come in one piece, which is read where it lies.
        let mut whole = Bytes::new();
        let mut pieces = Vec::new();
        while let Some(piece) = reply.chunk().await.map_err(|error| self.broken(&error))? {
            if whole.len() + pieces.len() + piece.len() > self.largest {
                return Err(too_large());
            }
            if whole.is_empty() && pieces.is_empty() {
                whole = piece;
                continue;
            }
            if pieces.is_empty() {
                pieces.reserve(announced as usize);
                pieces.extend_from_slice(&std::mem::take(&mut whole));
            }
            pieces.extend_from_slice(&piece);
        }
        Ok(if pieces.is_empty() { whole } else { Bytes::from(pieces) })
    }

    /// The request without what this endpoint refuses.
    fn reduced<'a>(&self, request: &'a Request) -> Cow<'a, Request> {
        if !self.drop_params.iter().any(|name| request.params.contains_key(name)) {
            return Cow::Borrowed(request);
        }
        let mut reduced = request.clone();
        self.drop_params.iter().for_each(|name| drop(reduced.params.remove(name)));
        Cow::Owned(reduced)
    }

    async fn attempt(&self, request: &Request, first: usize) -> Result<Response, CallError> {
        let wanted = request.n.saturating_sub(u32::try_from(first).unwrap_or(u32::MAX));
        let n = if self.several(request) { wanted } else { wanted.min(1) };
        let request = self.reduced(request);
        let call =
            self.wire.encode(&request, n).map_err(|failure| self.failed(failure.kind, failure.message, false))?;
        let response = self.exchange(call, |bytes: &[u8]| self.wire.decode(&request, n, bytes)).await?;
        Ok(self.keys.scrub_response(response))
    }
}

impl Backend for Http {
    fn source(&self) -> &'static str {
        "http"
    }

    fn call<'a>(&'a self, request: &'a Request, first: usize) -> Answer<'a> {
        Box::pin(self.attempt(request, first))
    }

    fn several(&self, request: &Request) -> bool {
        !self.drop_params.iter().any(|name| name == "n") && self.wire.several(request)
    }
}

/// Words for a body that is compressed: bytes that nobody can read are not shown.
fn compressed(headers: &HeaderMap) -> Option<String> {
    let encoding = headers.get(CONTENT_ENCODING)?.to_str().unwrap_or("?").trim();
    let plain = encoding.is_empty() || encoding.eq_ignore_ascii_case("identity");
    (!plain).then(|| format!("the reply is compressed ({})", encoding.chars().take(20).collect::<String>()))
}

/// An address of this machine: no proxy lies between.
pub(in crate::backend) fn loopback(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// Every reason of an error, the outermost first.
fn reasons(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

/// Why an endpoint was not reached: no such name, no trust, or nobody there.
pub(in crate::backend) fn unreached(error: &reqwest::Error, base_url: &str) -> String {
    let why = root_cause(error);
    let tls = reasons(error).find_map(|reason| {
        // An I/O error hides what it wraps, which may be another one.
        let mut reason = reason;
        while let Some(inner) = reason.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            reason = inner;
        }
        reason.downcast_ref::<rustls::Error>()
    });
    if let Some(tls) = tls {
        return format!("no secure connection to {base_url} (TLS): {tls}");
    }
    if reasons(error).any(|reason| reason.to_string().contains("dns error")) {
        return format!("no address is known for the host of {base_url} (DNS): {why}");
    }
    format!("no connection to {base_url}: {why}")
}

/// The innermost reason of an error: what the system said.
pub(in crate::backend) fn root_cause(error: &reqwest::Error) -> String {
    reasons(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests;
