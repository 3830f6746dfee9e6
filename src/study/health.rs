//! How the endpoints do, seen in the order of telling: which failures are kept for good, and when a run has to end because
//! its endpoint is not there.

use std::collections::HashMap;

use crate::provider::{Failure, FailureKind};
use crate::store::Fingerprint;
use crate::study::agenda::Finished;

/// So many evaluations in a row that failed for no reason of their own end a run: it goes on when the endpoint is back.
const OUTAGE: usize = 8;

/// After so many answers in a row an endpoint is surely there.
const SURELY_BACK: usize = 32;

/// A failure as the store keeps it: the request, how many samples were wanted, and why there are none.
pub type Kept = (Fingerprint, u32, Failure);

/// The health of each model's endpoint.
#[derive(Debug, Default)]
pub struct Health(HashMap<String, State>);

#[derive(Debug, Default)]
struct State {
    /// There are answers, be it stored ones: the form of its requests is accepted.
    answered: bool,
    /// The endpoint answered a request of this run.
    reached: bool,
    /// Failures in a row that are not the requests' own, or, before the first answer, need not be.
    failing: usize,
    /// Answers in a row since the last of those failures.
    answering: usize,
    /// Those failures: kept for good only when the endpoint surely answers again, so that an outage poisons no study.
    doubtful: Vec<Kept>,
}

/// What one more result means.
#[derive(Debug, PartialEq)]
pub enum Diagnosis {
    /// Nothing yet.
    Nothing,
    /// These failures are for good: a resumed study does not try them again.
    Keep(Vec<Kept>),
    /// The endpoint cannot be used: the very first request reaches nobody, or too many in a row fail for no reason of their
    /// own (before the first answer: are refused in their form too), and no other model answers either.
    Hopeless(Failure),
}

impl Health {
    /// Takes note of one result of a configuration that wants `n` samples of `model`.
    pub fn examine(&mut self, model: &str, n: u32, finished: &Finished) -> Diagnosis {
        // Where another model answers, one that does not is that model's misfortune: its evaluations are missing.
        let others = self.0.iter().any(|(name, other)| name != model && other.reached && other.failing < OUTAGE);
        let state = self.0.entry(model.to_owned()).or_default();
        let (failure, print) = match (&finished.result, finished.fingerprint) {
            (Err(failure), Some(print)) if finished.production.is_none() => (failure, print),
            // Never sent: not rendered, or it did not fit the budget.
            (Err(_), None) => return Diagnosis::Nothing,
            // A stored answer says nothing of the endpoint now.
            _ if finished.requests == 0 => {
                state.answered = true;
                return Diagnosis::Nothing;
            }
            _ => {
                (state.answered, state.reached, state.failing) = (true, true, 0);
                state.answering += 1;
                // Answers and failures of the moment when an endpoint goes away come in any order.
                if state.doubtful.is_empty() || state.answering < SURELY_BACK {
                    return Diagnosis::Nothing;
                }
                return Diagnosis::Keep(std::mem::take(&mut state.doubtful));
            }
        };
        if !state.reached && state.failing == 0 && !others && failure.unreached() {
            return Diagnosis::Hopeless(failure.clone());
        }
        let kept = (print, n, failure.clone());
        // Before the first answer a wrong form may be every request's, or this one's alone: the next ones tell.
        let untold = failure.kind == FailureKind::BadRequest && !state.answered && !others;
        if !failure.kind.transient() && !untold {
            return Diagnosis::Keep(vec![kept]);
        }
        state.failing += 1;
        state.answering = 0;
        state.doubtful.push(kept);
        match state.failing >= OUTAGE && !others {
            true => Diagnosis::Hopeless(failure.clone()),
            false => Diagnosis::Nothing,
        }
    }

    /// At the end of a run that no model answered: the model whose requests were refused in their form, or lost their
    /// connections, where there were too few to tell before. (Beside stored answers a connection that broke, and a form that
    /// is refused, may be that request's own fault.)
    pub fn nothing_answered(&self) -> Option<(&str, &Failure)> {
        if self.0.values().any(|state| state.reached) {
            return None;
        }
        let about = |state: &State, failure: &Failure| match state.answered {
            true => failure.unreached(),
            false => matches!(failure.kind, FailureKind::BadRequest | FailureKind::Connection),
        };
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(name, _)| *name);
        all.into_iter().find_map(|(name, state)| {
            let (.., last) = state.doubtful.last()?;
            Some((name.as_str(), Some(last).filter(|last| about(state, last))?))
        })
    }

    /// What is still in doubt when a run ends with its endpoints in use: those failures are for good.
    pub fn settle(&mut self) -> Vec<Kept> {
        self.0.values_mut().flat_map(|state| std::mem::take(&mut state.doubtful)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Usd;

    fn result(kind: Option<FailureKind>) -> Finished {
        Finished {
            trial: 0,
            instance: 0,
            result: match kind {
                Some(kind) => Err(Failure::new(kind, "x")),
                None => Ok(crate::metric::Metrics::from([("m".to_owned(), 1.0)]).into()),
            },
            cost: Usd::ZERO,
            paid: Usd::ZERO,
            production: kind.is_none().then_some(Usd::ZERO),
            prompt_tokens: 0,
            completion_tokens: 0,
            requests: 1,
            fingerprint: Some(Fingerprint([7; 32])),
        }
    }

    fn diagnoses(kinds: &[Option<FailureKind>]) -> Vec<String> {
        let mut health = Health::default();
        let short = |diagnosis| match diagnosis {
            Diagnosis::Nothing => "-".to_owned(),
            Diagnosis::Keep(kept) => format!("keep {}", kept.len()),
            Diagnosis::Hopeless(failure) => format!("hopeless: {}", failure.kind),
        };
        kinds.iter().map(|kind| short(health.examine("m", 1, &result(*kind)))).collect()
    }

    #[test]
    fn the_first_request_tells_whether_there_is_an_endpoint() {
        use FailureKind::{BadRequest, Connection, ContextTooLong, Server};
        assert_eq!(diagnoses(&[Some(Connection)]), ["hopeless: connection"]);
        assert_eq!(diagnoses(&[Some(BadRequest); OUTAGE]).last().unwrap(), "hopeless: bad request");
        assert_eq!(diagnoses(&[Some(ContextTooLong), Some(BadRequest)]), ["keep 1", "-"]);
        assert_eq!(diagnoses(&[None, Some(BadRequest), Some(ContextTooLong)]), ["-", "keep 1", "keep 1"]);
        let mut kinds = vec![Some(Server), Some(Server)];
        kinds.extend([None; SURELY_BACK + 1]);
        let seen = diagnoses(&kinds);
        assert_eq!(seen[SURELY_BACK + 1..], ["keep 2", "-"]);
        assert!(seen[..SURELY_BACK + 1].iter().all(|diagnosis| diagnosis == "-"));
    }

    #[test]
    fn stored_answers_say_nothing_of_the_endpoint() {
        use FailureKind::{BadRequest, Connection, Server};
        let hit = Finished { requests: 0, ..result(None) };
        let mut health = Health::default();
        assert_eq!(health.examine("m", 1, &hit), Diagnosis::Nothing);
        assert!(matches!(health.examine("m", 1, &result(Some(Connection))), Diagnosis::Hopeless(_)));
        // Eight failures in a row, with stored answers between them, are an outage.
        let mut health = Health::default();
        let mut last = Diagnosis::Nothing;
        for _ in 0..OUTAGE {
            assert_eq!(health.examine("m", 1, &hit), Diagnosis::Nothing);
            last = health.examine("m", 1, &result(Some(Server)));
        }
        assert!(matches!(last, Diagnosis::Hopeless(_)), "{last:?}");
        // The form was accepted before, so this request's own is wrong; and one broken connection may be its fault too.
        let mut health = Health::default();
        assert_eq!(health.examine("m", 1, &hit), Diagnosis::Nothing);
        assert!(matches!(health.examine("m", 1, &result(Some(BadRequest))), Diagnosis::Keep(_)));
        let broke = Failure::new(Connection, format!("{}: reset", crate::provider::BROKE));
        let broken = Finished { result: Err(broke), ..result(Some(Connection)) };
        assert_eq!(health.examine("m", 1, &broken), Diagnosis::Nothing);
        assert_eq!(health.nothing_answered(), None);
        assert_eq!(health.settle().len(), 1);
    }

    /// One row that is always refused, or whose connection always breaks, is missing, wherever it stands in the order.
    #[test]
    fn a_bad_instance_that_comes_first_ends_nothing() {
        let broke = Failure::new(FailureKind::Connection, format!("{}: reset", crate::provider::BROKE));
        for failure in [Failure::new(FailureKind::BadRequest, "HTTP 400: x"), broke] {
            let mut health = Health::default();
            let bad = Finished { result: Err(failure), ..result(Some(FailureKind::BadRequest)) };
            assert_eq!(health.examine("m", 1, &bad), Diagnosis::Nothing);
            let told = health.nothing_answered().map(|(model, failure)| (model.to_owned(), failure.kind));
            assert_eq!(told, Some(("m".to_owned(), bad.result.as_ref().unwrap_err().kind)), "had it been all");
            assert_eq!(health.examine("m", 1, &result(None)), Diagnosis::Nothing);
            assert_eq!(health.nothing_answered(), None);
            assert_eq!(health.settle().len(), 1);
        }
    }

    #[test]
    fn one_model_of_several_may_fail() {
        let mut health = Health::default();
        assert_eq!(health.examine("good", 1, &result(None)), Diagnosis::Nothing);
        for _ in 0..3 * OUTAGE {
            assert_eq!(health.examine("bad", 1, &result(Some(FailureKind::Server))), Diagnosis::Nothing);
        }
        assert!(matches!(health.examine("worse", 1, &result(Some(FailureKind::BadRequest))), Diagnosis::Keep(_)));
        assert_eq!(health.settle().len(), 3 * OUTAGE);
    }

    #[test]
    fn an_outage_ends_the_run_and_keeps_nothing() {
        let mut kinds = vec![None];
        kinds.extend([Some(FailureKind::Server); OUTAGE]);
        let seen = diagnoses(&kinds);
        assert_eq!(seen.last().unwrap(), "hopeless: server");
        assert!(seen[..OUTAGE].iter().all(|diagnosis| diagnosis == "-"));
    }
}
