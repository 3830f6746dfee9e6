//! What is done for one evaluation away from the order: rendering, looking up, judging.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use crate::diagnostic::Result;
use crate::evaluate::{Plan, Workload};
use crate::metric::Metrics;
use crate::money::Usd;
use crate::provider::{Failure, FailureKind, FinishReason, Request, Response, Sample};
use crate::runner::{Hold, Look, Runner};
use crate::store::{Fingerprint, Stored};
use crate::task::Instance;

/// An evaluation's request, and what the store has of it.
pub(super) struct Prepared {
    pub request: Arc<Request>,
    pub fingerprint: Fingerprint,
    pub stored: Stored,
    /// When it was looked up.
    pub look: Look,
    /// The answer, where the source knows it and so its bill.
    pub foretold: Option<Result<Response, Failure>>,
}

impl Prepared {
    /// What samples from `first` on may cost at most.
    pub fn worst(&self, plan: &Plan, first: usize, tight: bool) -> Usd {
        match &self.foretold {
            Some(foretold) => plan.service.bill_of(foretold, first),
            None => plan.service.bound(&self.request, first, tight),
        }
    }
}

/// What a worker brings back. The outer error is the store's.
pub(super) struct Landed {
    pub slot: usize,
    pub hold: Hold,
    pub outcome: Result<Verdict>,
}

/// An answer that is to be judged.
pub(super) struct Unjudged {
    pub slot: usize,
    pub instance: usize,
    pub n: u32,
    pub hold: Hold,
    pub stored: Stored,
    pub requests: u64,
}

/// What became of an evaluation that was under way.
pub(super) enum Verdict {
    /// What is stored of the request now, not judged yet, and the requests it took.
    Bought(Stored, u64),
    /// What is stored of the request now, the judgement, and the requests it took.
    Answered(Stored, Result<Metrics, Failure>, u64),
    /// There is no answer, after so many requests.
    Failed(Failure, u64),
    /// The run was stopped before it was sent: neither an answer nor a failure.
    Stopped,
    /// Money lost on earlier attempts leaves none for another.
    NoMoney(Failure),
}

/// Renders some evaluations, hashes them and looks them up in the store. The outer error is the store's.
pub(super) fn prepare(
    work: &[(Arc<Plan>, usize)],
    instances: &[Instance],
    runner: &Runner,
) -> Result<Vec<Result<Prepared, Failure>>> {
    let rendered = work.iter().map(|(plan, instance)| {
        let request = plan.request(&instances[*instance])?;
        let fingerprint = plan.service.fingerprint(&request);
        let foretold = plan.service.foretell(&request);
        Ok((request, fingerprint, foretold))
    });
    let rendered: Vec<Result<_, Failure>> = rendered.collect();
    let prints: Vec<Fingerprint> = rendered.iter().flatten().map(|(_, print, _)| *print).collect();
    let look = runner.look();
    let mut stored = match prints.as_slice() {
        [one] => vec![runner.store().stored(one)?],
        many => runner.store().stored_many(many)?,
    }
    .into_iter();
    let prepared = rendered.into_iter().map(|rendered| {
        let (request, fingerprint, foretold) = rendered?;
        let stored = stored.next().unwrap_or_default();
        Ok(Prepared { request: Arc::new(request), fingerprint, stored, look, foretold })
    });
    Ok(prepared.collect())
}

/// The metrics of the first `n` samples, or why there are none.
pub(super) fn judge(workload: &Workload, instance: &Instance, stored: &Stored, n: u32) -> Result<Metrics, Failure> {
    let first = stored.purchases.first().and_then(|purchase| purchase.response.samples.get(..n as usize));
    let samples: Cow<'_, [Sample]> = match first {
        Some(samples) => Cow::Borrowed(samples),
        None => Cow::Owned(stored.samples().take(n as usize).cloned().collect()),
    };
    // Answers that were withheld are paid for and kept like any other, but there is nothing to judge.
    let all = |reason: FinishReason| samples.iter().all(|sample| sample.finish_reason == reason);
    if all(FinishReason::REFUSAL) {
        return Err(Failure::new(FailureKind::Refused, "the model refused"));
    }
    if all(FinishReason::CONTENT_FILTER) && samples.iter().all(|sample| sample.text.is_empty()) {
        return Err(Failure::new(FailureKind::ContentFilter, "the endpoint's content filter took every completion"));
    }
    workload.judge(instance, &samples).map_err(|problem| Failure::new(FailureKind::Metric, problem))
}

/// The threads that metrics run on: rayon's, and not those that prepare requests, so that a slow metric never keeps the
/// network waiting.
pub(super) fn judges() -> &'static rayon::ThreadPool {
    static JUDGES: OnceLock<rayon::ThreadPool> = OnceLock::new();
    JUDGES.get_or_init(|| {
        let named = || rayon::ThreadPoolBuilder::new().thread_name(|number| format!("metric-{number}"));
        // Where the system has no more threads, the calling thread has to do.
        let pool = named().build().or_else(|_| named().num_threads(1).use_current_thread().build());
        pool.expect("a pool of the current thread needs no new one")
    })
}

/// What the user can do about an endpoint that cannot be used.
pub(super) fn advice(kind: FailureKind) -> Option<&'static str> {
    Some(match kind {
        FailureKind::Authentication => "check the key in the endpoint's environment variable",
        FailureKind::UnknownModel => "check the model's name and the endpoint's base_url",
        FailureKind::QuotaExceeded => "the account has no credit left",
        FailureKind::Connection => "is the endpoint running, and is its base_url right?",
        FailureKind::BadRequest => "every request would be refused like this one: see the words above",
        _ => return None,
    })
}
