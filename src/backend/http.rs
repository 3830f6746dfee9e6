//! Over HTTP: one pooled client an endpoint. Sends what `provider` encoded and hands what came back to it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};

use crate::backend::{Answer, Backend, CallError, Endpoint};
use crate::diagnostic::{Error, Result};
use crate::provider::{Failure, FailureKind, Request, openai};

/// A key. It cannot be printed, and error texts are scrubbed of it.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// An OpenAI-compatible endpoint.
#[derive(Debug)]
pub struct Http {
    client: reqwest::Client,
    base_url: String,
    key: Option<Secret>,
}

/// Longest that an endpoint's own wish to wait is honoured.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

impl Http {
    /// Builds the client. The provider's own address needs a key; a server of your own may go without.
    pub fn open(endpoint: &Endpoint) -> Result<Http> {
        static TLS: Once = Once::new();
        // An application that embeds farthing may have installed its own TLS provider: then that one serves.
        TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let key = endpoint.api_key_envs.iter().find_map(|variable| std::env::var(variable).ok());
        let key = key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        if key.is_none() && endpoint.vendor {
            return Err(Error::endpoint(format!("the endpoint `{}` needs a key", endpoint.name)).help(format!(
                "set the environment variable {}, or give the endpoint another base_url",
                endpoint.api_key_envs.join(" or ")
            )));
        }
        let loopback = reqwest::Url::parse(&endpoint.base_url).is_ok_and(|url| {
            let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        });
        let builder = reqwest::Client::builder()
            .user_agent(concat!("farthing/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(endpoint.timeout.min(Duration::from_secs(20)))
            .timeout(endpoint.timeout)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(512);
        let builder = if loopback { builder.no_proxy() } else { builder };
        let client =
            builder.build().map_err(|error| Error::internal(format!("no HTTP client can be made: {error}")))?;
        Ok(Http { client, base_url: endpoint.base_url.clone(), key: key.map(Secret) })
    }

    fn headers(&self) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(Secret(key)) = &self.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| Failure::new(FailureKind::Authentication, "the key holds characters that no key has"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    fn scrub(&self, text: String) -> String {
        match &self.key {
            Some(Secret(key)) if text.contains(key.as_str()) => text.replace(key.as_str(), "(secret)"),
            _ => text,
        }
    }

    /// The same of a reply, before messages cut pieces out of it.
    fn scrub_bytes<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let Some(Secret(key)) = &self.key else { return Cow::Borrowed(bytes) };
        let mut clean = Vec::new();
        let mut rest = bytes;
        while let Some(at) = rest.windows(key.len()).position(|window| window == key.as_bytes()) {
            clean.extend_from_slice(&rest[..at]);
            clean.extend_from_slice(b"(secret)");
            rest = &rest[at + key.len()..];
        }
        match clean.is_empty() {
            true => Cow::Borrowed(bytes),
            false => Cow::Owned([&clean, rest].concat()),
        }
    }

    fn failed(&self, kind: FailureKind, message: String, may_be_billed: bool) -> CallError {
        CallError { failure: Failure::new(kind, self.scrub(message)), may_be_billed, retry_after: None }
    }

    /// A transport error: before the request was out nothing can be billed, after it may be.
    fn broken(&self, error: &reqwest::Error) -> CallError {
        let why = root_cause(error);
        if error.is_connect() {
            let kind = if error.is_timeout() { FailureKind::Timeout } else { FailureKind::Connection };
            return self.failed(kind, format!("no connection to {}: {why}", self.base_url), false);
        }
        if error.is_timeout() {
            return self.failed(FailureKind::Timeout, "no answer within the timeout".to_owned(), true);
        }
        let sent = !error.is_builder();
        self.failed(FailureKind::Connection, format!("the connection broke: {why}"), sent)
    }

    async fn attempt(&self, request: &Request, n: u32) -> Result<crate::provider::Response, CallError> {
        let call = openai::encode(request, n);
        let headers =
            self.headers().map_err(|failure| CallError { failure, may_be_billed: false, retry_after: None })?;
        let body = serde_json::to_vec(&call.body)
            .map_err(|error| self.failed(FailureKind::BadRequest, format!("the request is no JSON: {error}"), false))?;
        let url = format!("{}{}", self.base_url, call.path);
        let reply =
            self.client.post(url).headers(headers).body(body).send().await.map_err(|error| self.broken(&error))?;
        let status = reply.status();
        if status.is_redirection() {
            let message = format!("HTTP {}: the endpoint points elsewhere, and keys do not follow", status.as_u16());
            return Err(self.failed(FailureKind::BadRequest, message, false));
        }
        let retry_after = wished_wait(reply.headers());
        let bytes = match reply.bytes().await {
            Ok(bytes) => bytes,
            // An error status is not billed, whether its text arrives or not.
            Err(_) if !status.is_success() => Default::default(),
            Err(error) => return Err(self.broken(&error)),
        };
        if !status.is_success() {
            // A gateway that gave up says nothing of what the model behind it did.
            let may_be_billed = matches!(status.as_u16(), 499 | 502 | 504 | 520..=527);
            let failure = openai::decode_error(status.as_u16(), &self.scrub_bytes(&bytes));
            let mut error = self.failed(failure.kind, failure.message, may_be_billed);
            error.retry_after = retry_after;
            return Err(error);
        }
        // What cannot be read was answered all the same, so it may be billed.
        openai::decode(request, n, &bytes).map_err(|failure| {
            // Read again without the key: messages quote a reply's beginning, which may end in the middle of it.
            let failure = openai::decode(request, n, &self.scrub_bytes(&bytes)).err().unwrap_or(failure);
            self.failed(failure.kind, failure.message, true)
        })
    }
}

impl Backend for Http {
    fn source(&self) -> &'static str {
        "http"
    }

    fn call<'a>(&'a self, request: &'a Request, first: usize) -> Answer<'a> {
        Box::pin(self.attempt(request, request.n.saturating_sub(first as u32)))
    }
}

/// The innermost reason of an error: what the system said.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// How long the endpoint asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.
fn wished_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |value: f64| Duration::try_from_secs_f64(value).ok();
    let wait = match text("retry-after-ms").and_then(|value| value.parse::<f64>().ok()) {
        Some(milliseconds) => seconds(milliseconds / 1000.0),
        None => text(RETRY_AFTER.as_str()).and_then(|value| match value.parse::<f64>() {
            Ok(value) => seconds(value),
            Err(_) => {
                httpdate::parse_http_date(value).ok().map(|at| at.duration_since(SystemTime::now()).unwrap_or_default())
            }
        }),
    };
    wait.map(|wait| wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(name: &'static str, value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        wished_wait(&headers)
    }

    #[test]
    fn the_endpoints_wish_to_wait_is_read() {
        assert_eq!(wait("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(wait("retry-after-ms", "40"), Some(Duration::from_millis(40)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("retry-after", "999999999"), Some(LONGEST_WAIT));
        assert_eq!((wait("retry-after", "-1"), wait("retry-after", "soon")), (None, None));
    }

    #[test]
    fn a_key_is_never_shown() {
        let http = Http { client: client(), base_url: String::new(), key: Some(Secret("sk-planted".into())) };
        assert!(!format!("{http:?}").contains("planted"));
        assert!(!format!("{:?}", http.headers().unwrap()).contains("planted"));
        assert_eq!(http.scrub("bad key sk-planted!".into()), "bad key (secret)!");
        assert_eq!(&*http.scrub_bytes(b"sk-planted \xff sk-planted."), b"(secret) \xff (secret).");
        assert_eq!(&*http.scrub_bytes(b"sk-plante"), b"sk-plante");
    }

    fn client() -> reqwest::Client {
        let endpoint = Endpoint::at("x", "http://127.0.0.1:1/v1");
        Http::open(&endpoint).unwrap().client
    }
}
