//! One endpoint's batch API over HTTP. Calls that may be repeated are, as long as that may help; the one that makes a batch
//! is made once, and says where it is not known whether it was heard.

use std::time::Duration;

use bytes::Bytes;

use super::dialect::{self, Dialect, Seen};
use crate::backend::Endpoint;
use crate::backend::http::Http;
use crate::backend::http::raw::{Lines, Method, Raw, RawError};
use crate::diagnostic::{Error, Result};
use crate::provider::{Failure, FailureKind};

/// How long a file may take on its way, in either direction.
const LONG: Duration = Duration::from_secs(1800);
/// The longest wait between attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How many batches or files one page of a list has.
const PAGE: usize = 100;

/// An endpoint with a batch API.
#[derive(Debug)]
pub(super) struct Link {
    pub http: Http,
    pub dialect: Dialect,
    pub endpoint: Endpoint,
}

/// What became of the call that makes a batch.
#[derive(Debug)]
pub(super) enum Made {
    /// It was made.
    Yes(Seen),
    /// It surely was not.
    No(Failure),
    /// Nobody knows.
    Perhaps(Failure),
}

impl Link {
    /// Opens it; a usage error where the endpoint has no batch API.
    pub fn open(endpoint: &Endpoint) -> Result<Link> {
        let Some(dialect) = Dialect::of(endpoint.provider) else {
            return Err(Error::usage(format!(
                "the endpoint `{}` ({}) has no batch API that farthing speaks",
                endpoint.name,
                endpoint.provider.word()
            ))
            .help("openai, azure and anthropic have one; other models are asked one by one, with `farthing run`"));
        };
        Ok(Link { http: Http::open(endpoint)?, dialect, endpoint: endpoint.clone() })
    }

    /// Most requests of a batch, and most bytes of its file.
    pub fn limits(&self) -> (usize, usize) {
        let (requests, bytes) = self.dialect.limits();
        let own = self.endpoint.batch;
        let requests = own.max_requests.map_or(requests, |most| (most as usize).min(requests));
        let bytes = own.max_bytes.map_or(bytes, |most| usize::try_from(most).unwrap_or(usize::MAX).min(bytes));
        (requests, bytes)
    }

    fn raw(&self, method: Method, path: String) -> Raw {
        Raw { method, path, content_type: None, body: Bytes::new(), timeout: self.endpoint.timeout }
    }

    /// What a reply says of a batch.
    fn seen(&self, body: &[u8]) -> Result<Seen, Failure> {
        let mut seen = self.dialect.seen(body)?;
        for wrong in &mut seen.errors {
            wrong.message = self.http.scrub(std::mem::take(&mut wrong.message));
        }
        Ok(seen)
    }

    /// Makes a call again and again, as long as that may help.
    async fn call(&self, raw: &Raw) -> Result<Bytes, RawError> {
        let mut attempt = 0;
        loop {
            let error = match self.http.raw(raw).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            if !self.again(&error, attempt).await {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Waits before another attempt; false where there is none.
    async fn again(&self, error: &RawError, attempt: u32) -> bool {
        if !error.error.failure.kind.transient() || attempt >= self.endpoint.max_retries {
            return false;
        }
        let wait =
            error.error.retry_after.unwrap_or(Duration::from_millis(250) * 2_u32.saturating_pow(attempt.min(10)));
        tracing::info!(endpoint = %self.endpoint.name, failure = %error.error.failure, "the batch API is asked again");
        tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
        true
    }

    /// Uploads a file of lines and gives its id.
    pub async fn upload(&self, name: &str, lines: &[u8]) -> Result<String, Failure> {
        let (kind, mut body, tail) = dialect::form(name);
        body.reserve_exact(lines.len() + tail.len());
        body.extend_from_slice(lines);
        body.extend_from_slice(&tail);
        let path = self.dialect.path(self.http.wire(), "files", "");
        let raw = Raw {
            content_type: Some(kind),
            body: Bytes::from(body),
            timeout: LONG.max(self.endpoint.timeout),
            ..self.raw(Method::POST, path)
        };
        let bytes = self.call(&raw).await.map_err(|error| error.error.failure)?;
        let file: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let unreadable = || Failure::new(FailureKind::MalformedReply, "the reply to an upload names no file");
        file["id"].as_str().map(str::to_owned).ok_or_else(unreadable)
    }

    /// The id of a file of that name and size among those uploaded lately.
    pub async fn find_file(&self, name: &str, bytes: usize) -> Result<Option<String>, Failure> {
        let path = self.dialect.path(self.http.wire(), "files", &format!("?purpose=batch&limit={PAGE}&order=desc"));
        let reply = self.call(&self.raw(Method::GET, path)).await.map_err(|error| error.error.failure)?;
        let list: serde_json::Value = serde_json::from_slice(&reply).unwrap_or_default();
        let mut files = list["data"].as_array().map_or(&[][..], Vec::as_slice).iter();
        let ours = |file: &&serde_json::Value| file["filename"] == name && file["bytes"] == bytes;
        Ok(files.find(ours).and_then(|file| file["id"].as_str().map(str::to_owned)))
    }

    /// Asks for a batch, once.
    pub async fn make(&self, body: Vec<u8>) -> Made {
        let path = self.dialect.batches(self.http.wire(), "");
        let raw = Raw { body: Bytes::from(body), timeout: LONG, ..self.raw(Method::POST, path) };
        let mut attempt = 0;
        loop {
            let error = match self.http.raw(&raw).await {
                Ok(bytes) => {
                    return match self.seen(&bytes) {
                        Ok(seen) => Made::Yes(seen),
                        Err(failure) => Made::Perhaps(failure),
                    };
                }
                Err(error) => error,
            };
            // A reply that refuses, or no connection at all: it was not made.
            let refused = error.status.is_some_and(|status| (400..500).contains(&status) && status != 408);
            if !refused && error.error.may_be_billed {
                return Made::Perhaps(error.error.failure);
            }
            if !self.again(&error, attempt).await {
                return Made::No(error.error.failure);
            }
            attempt += 1;
        }
    }

    /// What the provider says of a batch; `None` where it does not know it.
    pub async fn get(&self, id: &str) -> Result<Option<Seen>, Failure> {
        let path = self.dialect.batches(self.http.wire(), &format!("/{id}"));
        match self.call(&self.raw(Method::GET, path)).await {
            Ok(bytes) => self.seen(&bytes).map(Some),
            Err(error) if matches!(error.status, Some(404 | 410)) => Ok(None),
            Err(error) => Err(error.error.failure),
        }
    }

    /// The provider's batches, the newest first, made at or after a moment (seconds since 1970).
    pub async fn list(&self, since: i64) -> Result<Vec<Seen>, Failure> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let path = self.dialect.batches(self.http.wire(), &format!("?limit={PAGE}{after}"));
            let reply = self.call(&self.raw(Method::GET, path)).await.map_err(|error| error.error.failure)?;
            let (page, more) = self.dialect.listed(&reply)?;
            let old = page.last().is_some_and(|seen| seen.created_at < since);
            all.extend(page.into_iter().filter(|seen| seen.created_at >= since));
            match more {
                Some(last) if !old => after = self.dialect.behind(&last),
                _ => return Ok(all),
            }
        }
    }

    /// Asks for a batch to be cancelled; `None` where there is none. One that is over is left as it is.
    pub async fn cancel(&self, id: &str) -> Result<Option<Seen>, Failure> {
        let path = self.dialect.batches(self.http.wire(), &format!("/{id}/cancel"));
        match self.call(&self.raw(Method::POST, path)).await {
            Ok(bytes) => self.seen(&bytes).map(Some),
            Err(error) if matches!(error.status, Some(404 | 410)) => Ok(None),
            // What has ended cannot be cancelled: then that is what there is to say.
            Err(error) if matches!(error.status, Some(400 | 409)) => self.get(id).await,
            Err(error) => Err(error.error.failure),
        }
    }

    /// The lines of one of a batch's results; `None` where they are gone.
    pub async fn results(&self, id: &str, file: &str) -> Result<Option<Lines<'_>>, Failure> {
        let path = self.dialect.results(self.http.wire(), id, file);
        let raw = Raw { timeout: LONG, ..self.raw(Method::GET, path) };
        let mut attempt = 0;
        loop {
            match self.http.raw_lines(&raw).await {
                Ok(lines) => return Ok(Some(lines)),
                Err(error) if matches!(error.status, Some(404 | 410)) => return Ok(None),
                Err(error) if self.again(&error, attempt).await => attempt += 1,
                Err(error) => return Err(error.error.failure),
            }
        }
    }

    /// Deletes a file (for Anthropic: a batch with its results). What is gone already is no error.
    pub async fn delete(&self, id: &str) -> Result<(), Failure> {
        let path = self.dialect.deleted(self.http.wire(), id);
        match self.call(&self.raw(Method::DELETE, path)).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.status, Some(404 | 410)) => Ok(()),
            Err(error) => Err(error.error.failure),
        }
    }
}

/// The error where an endpoint cannot be used for batches.
pub(super) fn unusable(endpoint: &str, failure: &Failure) -> Error {
    let error = Error::endpoint(format!("the batch API of the endpoint `{endpoint}` cannot be used: {failure}"));
    match failure.kind {
        FailureKind::UnknownModel => error.help("does this endpoint have one? Its base_url may be wrong, too"),
        FailureKind::Authentication => error.help("check the key in the endpoint's environment variable"),
        FailureKind::QuotaExceeded => error.help("the account has no credit left"),
        _ => error.help("nothing is lost: the same command goes on where this one ended"),
    }
}
