//! The run as a stream of events. The progress display, the log and the run's record are readers of it; a reader that
//! fails never breaks the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::money::Usd;
use crate::provider::Failure;
use crate::space::Configuration;
use crate::task::Direction;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The run begins, or goes on.
    Started {
        /// The task.
        task: String,
        /// The strategy.
        strategy: String,
        /// The instances that may be looked at.
        instances: usize,
        /// The objective.
        #[serde(default)]
        metric: String,
        /// Which way is better.
        #[serde(default)]
        direction: Direction,
        /// The cap.
        #[serde(skip_serializing_if = "Option::is_none")]
        budget_usd: Option<Usd>,
        /// What an earlier part of this study spent.
        already_spent_usd: Usd,
    },
    /// A configuration is tried for the first time.
    TrialStarted {
        /// Its number.
        trial: usize,
        /// What it is.
        configuration: Configuration,
    },
    /// An evaluation was sent, or found in the store. Not kept in the run's record.
    EvaluationStarted,
    /// An evaluation ended; in the order of asking.
    EvaluationFinished {
        /// The trial's number.
        trial: usize,
        /// The instance's id.
        instance: String,
        /// The objective.
        #[serde(skip_serializing_if = "Option::is_none")]
        score: Option<f64>,
        /// Why there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
        /// What it cost the study.
        cost_usd: Usd,
        /// Requests that were sent for it; 0 where the store had it all.
        requests: u64,
        /// The metrics beside the objective.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metrics: BTreeMap<String, f64>,
        /// What production would pay for it, where it was answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        production_usd: Option<Usd>,
        /// Input tokens of one request and output tokens of its completions, where it was answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<[u64; 2]>,
        /// Under which its responses are kept in the store, where it could be rendered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
    },
    /// A configuration is out of the race.
    TrialDropped {
        /// Its number.
        trial: usize,
        /// Why.
        reason: String,
    },
    /// A configuration leads.
    BestChanged {
        /// Its number.
        trial: usize,
        /// Its mean score so far.
        score: f64,
    },
    /// The user changed the budget.
    BudgetChanged {
        /// From this evaluation on, counted from 0 in the order of asking.
        from: usize,
        /// The budget in all.
        budget_usd: Usd,
    },
    /// The user paused the run, or lets it go on.
    Paused {
        /// Nothing is sent now.
        paused: bool,
    },
    /// The user asked to stop.
    StopRequested,
    /// The run ended.
    Finished {
        /// Why.
        stop_reason: String,
        /// Money spent over all parts of the study.
        spent_usd: Usd,
        /// The study's own cost.
        study_cost_usd: Usd,
    },
}

/// True of an evaluation that was answered without a request: the store had it in full.
pub fn from_store(requests: u64, production: Option<Usd>) -> bool {
    requests == 0 && production.is_some()
}

/// Reads a run.
pub trait Reader: Send {
    /// One event, with the sums so far.
    fn read(&mut self, event: &Event, sums: &Sums);
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Money spent.
    pub spent: Usd,
    /// The study's own cost.
    pub study_cost: Usd,
    /// The cap.
    pub budget: Option<Usd>,
    /// Evaluations that ended.
    pub evaluations: u64,
    /// Evaluations that the store had in full.
    pub cache_hits: u64,
    /// Evaluations that ended without a result.
    pub failed: u64,
    /// Requests sent.
    pub requests: u64,
    /// Evaluations asked for and not ended.
    pub waiting: u64,
}
