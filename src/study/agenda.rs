//! Who asks for evaluations and is told how they ended.

use std::sync::Arc;

use crate::diagnostic::Result;
use crate::evaluate::Plan;
use crate::event::{Event, Sums, from_store};
use crate::metric::Scores;
use crate::money::Usd;
use crate::provider::{Failure, FailureKind};
use crate::store::Fingerprint;
use crate::study::control::BudgetChange;

/// What is to be evaluated next.
pub enum Wanted {
    /// A plan on these instances (indices), in this order.
    Evaluate {
        /// A number that comes back with every result.
        trial: usize,
        /// The configuration.
        plan: Arc<Plan>,
        /// Indices into the pipeline's instances.
        instances: Vec<usize>,
    },
    /// Nothing before more results are told.
    Wait,
    /// Nothing any more.
    Done,
}

/// Who asks and is told.
pub trait Agenda: Send {
    /// What to do next.
    fn ask(&mut self) -> Result<Wanted>;
    /// One result, in the order of asking.
    fn tell(&mut self, finished: Finished) -> Result<()>;
    /// How many evaluations may be asked ahead of those told.
    fn look_ahead(&self) -> usize;
    /// True where a run that ends early tells what landed behind an evaluation that did not: for work that is fixed, where
    /// nothing is decided by it.
    fn takes_what_landed(&self) -> bool {
        false
    }
    /// The budget was changed, from the next evaluation on: limits the purse accordingly.
    fn change_budget(&mut self, _change: BudgetChange) {}
    /// The user paused the run, or lets it go on.
    fn pause(&mut self, _paused: bool) {}
    /// True where nothing is sent after the first evaluation that did not fit the budget, however cheap: so that what was
    /// bought is a prefix of what was asked.
    fn ends_at_refusal(&self) -> bool {
        false
    }
}

/// One evaluation that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The number given when it was asked.
    pub trial: usize,
    /// Which instance.
    pub instance: usize,
    /// The metrics, or why there are none.
    pub result: Result<Scores, Failure>,
    /// What it cost the study.
    pub cost: Usd,
    /// The money paid for it now; less than its cost where the store had samples of it.
    pub paid: Usd,
    /// What production would pay, where it was answered.
    pub production: Option<Usd>,
    /// Input tokens of one request, where it was answered.
    pub prompt_tokens: u64,
    /// Output tokens of its n completions.
    pub completion_tokens: u64,
    /// Requests that were sent for it, those that failed too.
    pub requests: u64,
    /// The fingerprint of its request, where it could be rendered.
    pub fingerprint: Option<Fingerprint>,
}

impl Finished {
    /// One without an answer, which cost nothing.
    pub fn failed(trial: usize, instance: usize, failure: Failure) -> Finished {
        Finished {
            trial,
            instance,
            result: Err(failure),
            cost: Usd::ZERO,
            paid: Usd::ZERO,
            production: None,
            prompt_tokens: 0,
            completion_tokens: 0,
            requests: 0,
            fingerprint: None,
        }
    }

    /// True where the budget kept it from being sent.
    pub fn refused(&self) -> bool {
        matches!(&self.result, Err(failure) if failure.kind == FailureKind::Budget)
    }

    /// Adds it to the sums of a run.
    pub fn count(&self, sums: &mut Sums) {
        sums.evaluations += 1;
        sums.requests += self.requests;
        sums.failed += u64::from(self.result.is_err());
        sums.cache_hits += u64::from(from_store(self.requests, self.production));
    }

    /// The event that tells of it; `instance` is the instance's id, `metric` the objective.
    pub fn event(&self, instance: &str, metric: &str) -> Event {
        let metrics = self.result.as_ref().ok();
        let others = metrics.into_iter().flat_map(Scores::iter).filter(|(name, _)| name.as_str() != metric);
        Event::EvaluationFinished {
            trial: self.trial,
            instance: instance.to_owned(),
            score: metrics.and_then(|metrics| metrics.get(metric)).copied(),
            failure: self.result.as_ref().err().cloned(),
            cost_usd: self.cost,
            requests: self.requests,
            metrics: others.map(|(name, value)| (name.clone(), value)).collect(),
            production_usd: self.production,
            tokens: self.production.map(|_| [self.prompt_tokens, self.completion_tokens]),
            fingerprint: self.fingerprint.map(|fingerprint| fingerprint.to_string()),
        }
    }
}
