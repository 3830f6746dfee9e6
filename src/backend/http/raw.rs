//! Calls that are no requests for completions: files, batches, and whatever else a provider has beside them. One key for
//! all of them, since what one account has put there another does not see.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Response as Reply, Url};

use super::Http;
use crate::backend::CallError;
use crate::provider::{FailureKind, Response, Wire};

pub use reqwest::Method;

/// A call.
#[derive(Clone, Debug)]
pub struct Raw {
    /// The verb.
    pub method: Method,
    /// Appended to the endpoint's base URL; with its query.
    pub path: String,
    /// What the body is; JSON where nothing is said.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
    /// How long the whole exchange may take.
    pub timeout: Duration,
}

/// Why a call came to nothing.
#[derive(Clone, Debug)]
pub struct RawError {
    /// The status, where there was a reply.
    pub status: Option<u16>,
    /// What happened. `may_be_billed` says here that the endpoint may have done what it was asked.
    pub error: CallError,
}

impl RawError {
    fn without_reply(error: CallError) -> RawError {
        RawError { status: None, error }
    }
}

/// The longest line that is read, in bytes.
const LONGEST: usize = 64 << 20;

/// A reply that is read line by line, so that it is never held whole.
#[derive(Debug)]
pub struct Lines<'a> {
    http: &'a Http,
    reply: Reply,
    buffer: BytesMut,
    /// So much of the buffer has no line's end.
    seen: usize,
    ended: bool,
}

impl Http {
    /// The wire format that the endpoint is spoken to in.
    pub fn wire(&self) -> &dyn Wire {
        &*self.wire
    }

    /// What a reply to a [`raw`](Self::raw) call tells people, without any key.
    pub fn scrub(&self, text: String) -> String {
        self.keys.scrub(text)
    }

    /// A response that was read out of something else than a reply, without any key.
    pub fn scrub_response(&self, response: Response) -> Response {
        self.keys.scrub_response(response)
    }

    /// The request's parameters as this endpoint is sent them.
    pub fn sendable<'r>(
        &self,
        request: &'r crate::provider::Request,
    ) -> std::borrow::Cow<'r, crate::provider::Request> {
        self.reduced(request)
    }

    async fn open_raw(&self, raw: &Raw) -> Result<Reply, RawError> {
        let url = Url::parse(&format!("{}{}", self.base_url, raw.path));
        let wrong = |error| self.failed(FailureKind::BadRequest, format!("no address: {error}"), false);
        let url = url.map_err(|error| RawError::without_reply(wrong(error)))?;
        let mut request = reqwest::Request::new(raw.method.clone(), url);
        request.headers_mut().clone_from(&self.keys.first().headers);
        if let Some(Ok(kind)) = raw.content_type.as_ref().map(|kind| HeaderValue::from_str(kind)) {
            request.headers_mut().insert(CONTENT_TYPE, kind);
        }
        *request.timeout_mut() = Some(raw.timeout);
        if raw.method == Method::POST {
            *request.body_mut() = Some(Body::from(raw.body.clone()));
        } else {
            request.headers_mut().remove(CONTENT_TYPE);
        }
        let reply = self.client.execute(request).await;
        let reply = reply.map_err(|error| RawError::without_reply(self.broken(&error)))?;
        let status = reply.status();
        if status.is_success() {
            self.readable(reply.headers()).map_err(RawError::without_reply)?;
            return Ok(reply);
        }
        let mut error = self.refusal(reply, b"").await;
        // It may have made a batch all the same.
        error.may_be_billed = status.as_u16() >= 500;
        Err(RawError { status: Some(status.as_u16()), error })
    }

    /// Makes a call and gives the body of a good reply, without any key that is no common word: the ids in it are sent back as
    /// they came, and a server's short key may stand in one. What of it people see is to be [`scrub`](Self::scrub)bed.
    pub async fn raw(&self, raw: &Raw) -> Result<Bytes, RawError> {
        let reply = self.open_raw(raw).await?;
        let bytes = self.body(reply).await.map_err(RawError::without_reply)?;
        Ok(Bytes::from(self.keys.scrub_bytes(&bytes, true).into_owned()))
    }

    /// Makes a call whose reply is read line by line.
    pub async fn raw_lines(&self, raw: &Raw) -> Result<Lines<'_>, RawError> {
        let reply = self.open_raw(raw).await?;
        Ok(Lines { http: self, reply, buffer: BytesMut::new(), seen: 0, ended: false })
    }
}

impl Lines<'_> {
    /// The next line that is not empty, without its end and without any key; `None` behind the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, RawError> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.seen..]) {
                let line = self.buffer.split_to(self.seen + at + 1);
                self.seen = 0;
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(self.clean(line.trim_ascii())));
                }
                continue;
            }
            self.seen = self.buffer.len();
            if self.ended {
                let rest = std::mem::take(&mut self.buffer);
                self.seen = 0;
                return Ok(Some(rest.trim_ascii()).filter(|rest| !rest.is_empty()).map(|rest| self.clean(rest)));
            }
            if self.seen > LONGEST {
                let message = format!("a line of the reply is longer than {} MiB", LONGEST >> 20);
                let error = self.http.failed(FailureKind::MalformedReply, message, true);
                return Err(RawError::without_reply(error));
            }
            match self.reply.chunk().await {
                Ok(Some(piece)) => self.buffer.extend_from_slice(&piece),
                Ok(None) => self.ended = true,
                Err(error) => return Err(RawError::without_reply(self.http.broken(&error))),
            }
        }
    }

    fn clean(&self, line: &[u8]) -> Vec<u8> {
        self.http.keys.scrub_bytes(line, true).into_owned()
    }
}
