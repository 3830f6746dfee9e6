//! How far a batch is: one enum for all providers, with the provider's own word.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::store::batches::Stage;

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is in the store and was not submitted yet: the queue is full, or nobody has come to it.
    Planned,
    /// It is being submitted: whether the provider has it is being found out.
    Submitting,
    /// The provider looks whether it is well formed.
    Validating,
    /// The provider works on it.
    InProgress,
    /// The provider writes its results down.
    Finalizing,
    /// Everything in it was worked on.
    Completed,
    /// It was not well formed, and nothing in it was worked on.
    Failed,
    /// Its time ran out; what was finished by then has results.
    Expired,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled; what was finished by then has results.
    Cancelled,
    /// The provider does not know it any more.
    Lost,
    /// The provider says something that we do not know.
    Unknown,
}

impl Phase {
    /// The provider will do nothing more about it.
    pub fn over(self) -> bool {
        matches!(self, Phase::Completed | Phase::Failed | Phase::Expired | Phase::Cancelled | Phase::Lost)
    }

    /// The word in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Planned => "planned",
            Phase::Submitting => "submitting",
            Phase::Validating => "validating",
            Phase::InProgress => "in_progress",
            Phase::Finalizing => "finalizing",
            Phase::Completed => "completed",
            Phase::Failed => "failed",
            Phase::Expired => "expired",
            Phase::Cancelling => "cancelling",
            Phase::Cancelled => "cancelled",
            Phase::Lost => "lost",
            Phase::Unknown => "unknown",
        }
    }

    /// OpenAI's and Azure's words, and Anthropic's; American spellings too. Anthropic's `ended` says no more than that:
    /// whoever reads it looks at the counts and writes `ended:expired` or `ended:canceled`.
    pub fn of_word(word: &str) -> Phase {
        match word {
            "validating" => Phase::Validating,
            "in_progress" => Phase::InProgress,
            "finalizing" => Phase::Finalizing,
            "completed" | "ended" => Phase::Completed,
            "failed" => Phase::Failed,
            "expired" | "ended:expired" => Phase::Expired,
            "cancelling" | "canceling" => Phase::Cancelling,
            "cancelled" | "canceled" | "ended:canceled" => Phase::Cancelled,
            LOST => Phase::Lost,
            _ => Phase::Unknown,
        }
    }
}

/// Our own word for a batch that its provider does not know any more.
pub(super) const LOST: &str = "lost";

/// How far a batch is, and how its provider puts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// How far.
    pub phase: Phase,
    /// The provider's own word; empty before there is one.
    pub word: String,
}

impl State {
    /// From what the store has: our stage and the provider's word.
    pub(super) fn of(stage: Stage, word: &str) -> State {
        let phase = match stage {
            Stage::Planned => Phase::Planned,
            Stage::Submitting => Phase::Submitting,
            _ => Phase::of_word(word),
        };
        // What we read out of the counts is no word of the provider's.
        let word = word.split_once(':').map_or(word, |(own, _)| own);
        State { phase, word: word.to_owned() }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word.is_empty() || self.word == self.phase.word() {
            true => f.pad(self.phase.word()),
            false => f.pad(&format!("{} ({})", self.phase.word(), self.word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_providers_are_read_and_kept() {
        for (word, phase) in [
            ("validating", Phase::Validating),
            ("finalizing", Phase::Finalizing),
            ("cancelled", Phase::Cancelled),
            ("canceled", Phase::Cancelled),
            ("canceling", Phase::Cancelling),
            ("ended", Phase::Completed),
            ("ended:expired", Phase::Expired),
            ("paused", Phase::Unknown),
        ] {
            let state = State::of(Stage::Out, word);
            assert_eq!((state.phase, state.word.as_str()), (phase, word.trim_end_matches(":expired")), "{word}");
        }
        assert_eq!(State::of(Stage::Planned, "failed").phase, Phase::Planned, "it will be submitted again");
        assert_eq!(State::of(Stage::Out, "canceling").to_string(), "cancelling (canceling)");
        assert_eq!(State::of(Stage::Done, "completed").to_string(), "completed");
        assert!(!Phase::Unknown.over() && !Phase::Cancelling.over() && Phase::Cancelled.over());
    }
}
