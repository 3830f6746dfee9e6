//! The answers to a job: from the store, under the caller's ids and in the caller's order.

use serde_json::{Value, json};

use crate::diagnostic::Result;
use crate::provider::{Failure, Sample};
use crate::store::{Fingerprint, Store};

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The caller's id.
    pub id: String,
    /// The model, by the user's name for it.
    pub model: String,
    /// What became of it.
    pub outcome: AnswerOutcome,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerOutcome {
    /// It has all its completions.
    Answered {
        /// The completions.
        samples: Vec<Sample>,
        /// Input tokens of one request.
        prompt_tokens: u64,
    },
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
        /// Sent again, it may well be answered.
        retryable: bool,
    },
    /// It is on its way.
    UnderWay,
    /// It was never sent: the budget did not hold it.
    Unsent,
}

impl Answer {
    /// The answer as a line of JSON.
    pub fn to_json(&self) -> Value {
        let mut line = json!({"id": self.id, "model": self.model});
        match &self.outcome {
            AnswerOutcome::Answered { samples, prompt_tokens } => {
                line["status"] = "answered".into();
                line["samples"] = json!(samples);
                line["prompt_tokens"] = (*prompt_tokens).into();
            }
            AnswerOutcome::Failed { failure, retryable } => {
                line["status"] = "failed".into();
                line["error"] =
                    json!({"kind": failure.kind.word(), "message": failure.message, "retryable": retryable});
            }
            AnswerOutcome::UnderWay => line["status"] = "under_way".into(),
            AnswerOutcome::Unsent => line["status"] = "unsent".into(),
        }
        line
    }
}

/// The answers to a job from a place on.
pub(super) fn of(store: &dyn Store, job: &str, from: u64, most: usize) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while answers.len() < most {
        let wanted = (most - answers.len()).min(super::PAGE);
        let asks = store.asks(job, from + answers.len() as u64, wanted)?;
        if asks.is_empty() {
            break;
        }
        let prints: Vec<Fingerprint> = asks.iter().map(|ask| ask.fingerprint).collect();
        let stored = store.stored_many(&prints)?;
        // How those are that are not answered: most are.
        let open: Vec<Fingerprint> = asks
            .iter()
            .zip(&stored)
            .filter(|(ask, stored)| stored.len() < ask.n as usize)
            .map(|(ask, _)| ask.fingerprint)
            .collect();
        let mut ways = store.under_way(&open)?.into_iter();
        for (ask, stored) in asks.into_iter().zip(stored) {
            let outcome = if stored.len() >= ask.n as usize {
                AnswerOutcome::Answered {
                    samples: stored.samples().take(ask.n as usize).cloned().collect(),
                    prompt_tokens: stored.purchases.first().map_or(0, |purchase| purchase.response.prompt_tokens),
                }
            } else {
                match ways.next().unwrap_or_default() {
                    way if way.samples > 0 => AnswerOutcome::UnderWay,
                    way => match way.failed {
                        Some(failed) => AnswerOutcome::Failed { failure: failed.failure, retryable: failed.retryable },
                        None => AnswerOutcome::Unsent,
                    },
                }
            };
            answers.push(Answer { id: ask.id, model: ask.model, outcome });
        }
    }
    Ok(answers)
}
