//! Who answers: an endpoint over HTTP, a cassette, a language model in this process, the made-up model.

pub mod endpoints;
pub mod http;
#[cfg(feature = "local")]
pub mod local;
pub mod mock;
pub mod parameters;
pub mod replay;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use endpoints::{
    About, Auth, BatchLimits, Endpoint, Endpoints, Equivalence, Model, ModelKind, ProviderKind, Rates, Routing,
};

use crate::diagnostic::Result;
use crate::provider::{Failure, FailureKind, Request, Response};

/// Why one attempt failed.
#[derive(Clone, Debug)]
pub struct CallError {
    /// What happened.
    pub failure: Failure,
    /// The endpoint may have worked, and may bill it.
    pub may_be_billed: bool,
    /// How long the endpoint asks to wait before the next attempt.
    pub retry_after: Option<Duration>,
    /// The endpoint said that it has more to do than it can.
    pub too_much: bool,
}

impl CallError {
    /// A failure that bills nothing.
    pub fn unbilled(failure: Failure) -> CallError {
        let too_much = failure.kind == FailureKind::RateLimit;
        CallError { failure, may_be_billed: false, retry_after: None, too_much }
    }
}

/// The future of one attempt.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response, CallError>> + Send + 'a>>;

/// Who answers requests.
pub trait Backend: Send + Sync {
    /// Who answers, as part of every fingerprint: `http`, `mock`, `replay:HASH`.
    fn source(&self) -> &str;

    /// One attempt to get samples `first..request.n`: an endpoint is asked for that many new ones.
    fn call<'a>(&'a self, request: &'a Request, first: usize) -> Answer<'a>;

    /// The answer (samples `first..request.n`) of a source that knows it, and so its bill, beforehand.
    fn foretell(&self, _request: &Request, _first: usize) -> Option<Result<Response, Failure>> {
        None
    }

    /// Every answer and its bill is known beforehand, so that nothing else need bound what a request may cost.
    fn knows_bills(&self) -> bool {
        false
    }

    /// Answers come from this process: nothing is billed that is not received, so no reservation need outlive a crash.
    fn in_process(&self) -> bool {
        false
    }

    /// Several completions of this request come in one call; else each is asked for by itself.
    fn several(&self, _request: &Request) -> bool {
        true
    }

    /// Input tokens of a request, where the source counts them exactly.
    fn input_tokens(&self, _request: &Request) -> Option<u64> {
        None
    }

    /// What answers for one model, where that is another thing for each.
    fn of_model(&self, _model: &Model) -> Result<Option<Arc<dyn Backend>>> {
        Ok(None)
    }

    /// How a model is asked, where the source knows.
    fn kind(&self, _model: &str) -> Option<ModelKind> {
        None
    }
}

/// Opens what answers for an endpoint.
pub fn open(endpoint: &Endpoint) -> Result<Arc<dyn Backend>> {
    Ok(match endpoint.provider {
        ProviderKind::Mock => Arc::new(MadeUp),
        ProviderKind::Replay => {
            let path = endpoint.cassette.as_deref().unwrap_or(std::path::Path::new(""));
            Arc::new(replay::Cassette::load(path)?)
        }
        ProviderKind::Local => Arc::new(ByModel),
        _ => Arc::new(http::Http::open(endpoint)?),
    })
}

/// Local models: each is loaded when it is opened.
#[derive(Debug)]
struct ByModel;

impl Backend for ByModel {
    fn source(&self) -> &'static str {
        "local"
    }

    fn call<'a>(&'a self, request: &'a Request, _: usize) -> Answer<'a> {
        let failure =
            Failure::new(FailureKind::UnknownModel, format!("the local model `{}` is not loaded", request.model));
        Box::pin(async move { Err(CallError::unbilled(failure)) })
    }

    fn in_process(&self) -> bool {
        true
    }

    #[cfg(feature = "local")]
    fn of_model(&self, model: &Model) -> Result<Option<Arc<dyn Backend>>> {
        let place = model.place.as_ref().ok_or_else(|| endpoints::no_place(&model.name))?;
        Ok(Some(Arc::new(local::Local::open(place, model.compute)?.limited(model))))
    }
}

/// The made-up model, answering in this process.
#[derive(Debug)]
struct MadeUp;

impl Backend for MadeUp {
    fn source(&self) -> &'static str {
        "mock"
    }

    fn call<'a>(&'a self, request: &'a Request, first: usize) -> Answer<'a> {
        let rest = Request { n: request.n.saturating_sub(first as u32), ..request.clone() };
        let answer = mock::answer(&rest, first);
        Box::pin(async move { answer.map_err(CallError::unbilled) })
    }

    fn in_process(&self) -> bool {
        true
    }
}
