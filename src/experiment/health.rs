//! Who of those that answer is there: what an attempt's end tells of its service. Plain values; whoever owns the order acts on
//! them. `runner/health.rs` holds back what may be billed, request by request; this ends or delays whole rounds of rows.

use std::time::Duration;

use super::ask::Landed;
use crate::provider::{Failure, FailureKind};

/// So many failures in a row that are not the rows' own make a queue wait, and then try one row at a time. So many refusals
/// of a request's form before the first answer say that it is not the rows' own either.
const OUTAGE: u32 = 8;

/// So many single rows are tried, each after twice the wait of the one before, from a second on.
const PROBES: u32 = 5;

/// Longest such wait.
const LONGEST: Duration = Duration::from_secs(30);

/// The health of all queues and services.
#[derive(Debug)]
pub struct Health {
    queues: Vec<Line>,
    services: Vec<State>,
}

#[derive(Clone, Debug, Default)]
struct Line {
    /// Failures in a row that are not the rows' own.
    streak: u32,
    /// One row at a time is tried.
    probing: bool,
    /// The row in flight is the one that is tried.
    probed: bool,
    /// Rows that were tried and sent.
    probes: u32,
    /// Rows that were tried.
    tries: u32,
}

#[derive(Clone, Debug, Default)]
struct State {
    answered: bool,
    /// Requests that were refused in their form before it had answered one.
    refused: u32,
    /// It cannot be used: why.
    out: Option<Failure>,
    /// Why nobody was reached in all attempts of a row: the first such.
    unreached: Option<Failure>,
    /// Rows of it that have no answer.
    unanswered: usize,
}

/// What one more attempt means.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Nothing yet.
    Nothing,
    /// The endpoint seems to be away: the queue waits for so long, and then tries one row.
    Wait(Duration),
    /// The service is not asked any more, from now on.
    Out,
}

impl Health {
    /// Nothing is known of so many.
    pub fn new(queues: usize, services: usize) -> Health {
        Health { queues: vec![Line::default(); queues], services: vec![State::default(); services] }
    }

    /// The queue sends one row at a time.
    pub fn one_at_a_time(&self, queue: usize) -> bool {
        self.queues[queue].probing
    }

    /// A row of the queue is sent.
    pub fn sent(&mut self, queue: usize) {
        let line = &mut self.queues[queue];
        line.probed = line.probing;
    }

    /// Why a service is not asked any more.
    pub fn out(&self, service: u32) -> Option<&Failure> {
        self.services[service as usize].out.as_ref()
    }

    /// A row of a service is done without an answer.
    pub fn unanswered(&mut self, service: u32, failure: &Failure) {
        let Some(state) = self.services.get_mut(service as usize) else { return };
        state.unanswered += 1;
        if failure.unreached() {
            state.unreached.get_or_insert_with(|| failure.clone());
        }
    }

    /// Those that could not be used: they are not asked any more, or were never reached, which a few rows are enough to tell.
    /// Each with the reason, and how many rows have no answer.
    pub fn all_out(&self) -> impl Iterator<Item = (usize, &Failure, usize)> {
        self.services.iter().enumerate().filter_map(|(at, state)| {
            let unreached = state.unreached.as_ref().filter(|_| !state.answered);
            Some((at, state.out.as_ref().or(unreached)?, state.unanswered))
        })
    }

    /// An attempt at a row ended.
    pub fn landed(&mut self, queue: u32, service: u32, landed: &Landed) -> Verdict {
        let (line, state) = (&mut self.queues[queue as usize], &mut self.services[service as usize]);
        let Some(failure) = &landed.failure else {
            // What the store answers says nothing of the endpoint.
            if !landed.cached {
                *line = Line::default();
                state.answered = true;
            }
            return Verdict::Nothing;
        };
        if state.out.is_some() {
            return Verdict::Nothing;
        }
        let verdict = match failure.kind {
            kind if kind.fatal() => Verdict::Out,
            kind if kind.transient() => line.suspect(failure, landed.requests > 0, state.answered),
            FailureKind::BadRequest if landed.requests > 0 && !state.answered => {
                state.refused += 1;
                if state.refused >= OUTAGE { Verdict::Out } else { Verdict::Nothing }
            }
            _ => Verdict::Nothing,
        };
        if verdict == Verdict::Out {
            state.out = Some(failure.clone());
        }
        verdict
    }
}

impl Line {
    /// A failure that is not the row's own: the endpoint may be away.
    fn suspect(&mut self, failure: &Failure, sent: bool, known: bool) -> Verdict {
        self.streak += 1;
        if self.streak < OUTAGE {
            return Verdict::Nothing;
        }
        // Those that were in flight when it went away tell no more than the first of them did: only a row that was sent to
        // find out counts. One that the runner held back found nothing out, and is only waited longer for.
        if std::mem::take(&mut self.probed) {
            self.tries += 1;
            self.probes += u32::from(sent);
        }
        // Where nobody was ever reached there is nobody to wait for.
        let nobody = !known && failure.kind == FailureKind::Connection;
        if nobody || self.probes >= PROBES {
            *self = Line::default();
            return Verdict::Out;
        }
        self.probing = true;
        Verdict::Wait((Duration::from_secs(1) * 2_u32.saturating_pow(self.tries.min(8))).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Usd;

    /// How a row ended, with so many requests sent for it.
    fn landed(kind: Option<FailureKind>, requests: u64) -> Landed {
        Landed {
            row: 0,
            failure: kind.map(|kind| Failure::new(kind, "x")),
            lasting: String::new(),
            paid: Usd::ZERO,
            requests,
            cached: kind.is_none() && requests == 0,
            seconds: 0.0,
            began: std::time::UNIX_EPOCH,
            endpoint: None,
        }
    }

    fn stored() -> Landed {
        landed(None, 0)
    }

    #[test]
    fn what_the_store_answers_hides_no_dead_endpoint() {
        let mut health = Health::new(1, 1);
        let failed = landed(Some(FailureKind::Connection), 1);
        for _ in 1..OUTAGE {
            assert_eq!(health.landed(0, 0, &failed), Verdict::Nothing);
            assert_eq!(health.landed(0, 0, &stored()), Verdict::Nothing);
        }
        assert_eq!(health.landed(0, 0, &failed), Verdict::Out, "nobody was ever reached");
        assert_eq!(health.all_out().map(|(at, ..)| at).collect::<Vec<_>>(), [0]);
        assert_eq!(health.landed(0, 0, &failed), Verdict::Nothing, "it is said once");
        // One that answered before is waited for; a stored row meanwhile is no answer of its.
        let mut health = Health::new(1, 1);
        health.landed(0, 0, &landed(None, 1));
        let verdicts: Vec<_> = (0..OUTAGE).map(|_| health.landed(0, 0, &failed)).collect();
        assert_eq!(verdicts.last(), Some(&Verdict::Wait(Duration::from_secs(1))));
        health.sent(0);
        health.landed(0, 0, &stored());
        assert!(health.one_at_a_time(0));
        health.landed(0, 0, &landed(None, 1));
        assert!(!health.one_at_a_time(0));
    }

    #[test]
    fn one_that_was_never_reached_could_not_be_used_however_few_its_rows() {
        let failure = |kind| Failure::new(kind, "x");
        let mut health = Health::new(1, 5);
        for service in 0..2 {
            health.landed(0, service, &landed(Some(FailureKind::Connection), 1));
            health.unanswered(service, &failure(FailureKind::Connection));
        }
        health.landed(0, 1, &landed(None, 1));
        // What is wrong in itself says nothing of who answers, and a row that the store answered does not either.
        health.unanswered(2, &failure(FailureKind::BadRequest));
        health.landed(0, 3, &stored());
        health.unanswered(3, &failure(FailureKind::Connection));
        health.unanswered(3, &failure(FailureKind::BadRequest));
        // It is there, and may be slow or busy for one row.
        health.unanswered(4, &failure(FailureKind::Timeout));
        let out: Vec<_> = health.all_out().map(|(at, failure, rows)| (at, failure.kind, rows)).collect();
        assert_eq!(out, [(0, FailureKind::Connection, 1), (3, FailureKind::Connection, 2)]);
        // A row of none, which is wrong in itself.
        health.unanswered(u32::MAX, &failure(FailureKind::BadRequest));
    }

    #[test]
    fn only_rows_that_were_sent_find_out_that_it_is_away() {
        let mut health = Health::new(1, 1);
        let (failed, unsent) = (landed(Some(FailureKind::Server), 1), landed(Some(FailureKind::Server), 0));
        // All of one moment: they count as one.
        for _ in 0..3 * OUTAGE {
            health.landed(0, 0, &failed);
        }
        let mut waits = Vec::new();
        let mut next = |how: &Landed| {
            health.sent(0);
            match health.landed(0, 0, how) {
                Verdict::Wait(wait) => waits.push(wait.as_secs()),
                Verdict::Out => waits.push(0),
                Verdict::Nothing => unreachable!("it is suspected already"),
            }
        };
        (0..2 * PROBES).for_each(|_| next(&unsent));
        (0..PROBES).for_each(|_| next(&failed));
        assert_eq!(waits, [2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 0]);
    }

    #[test]
    fn refusals_count_until_it_has_answered() {
        let refused = landed(Some(FailureKind::BadRequest), 1);
        let mut health = Health::new(1, 2);
        let verdicts: Vec<_> = (0..OUTAGE).map(|_| health.landed(0, 0, &refused)).collect();
        assert_eq!(verdicts.iter().position(|verdict| *verdict == Verdict::Out), Some(OUTAGE as usize - 1));
        health.landed(0, 1, &landed(None, 1));
        assert!((0..3 * OUTAGE).all(|_| health.landed(0, 1, &refused) == Verdict::Nothing));
        assert_eq!(health.landed(0, 1, &landed(Some(FailureKind::Authentication), 1)), Verdict::Out);
    }
}
