//! What happens to an admitted evaluation, in whatever order answers come: it is sent, judged, and landed in its slot.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use rayon::prelude::*;

use super::{Driver, FEW};
use crate::diagnostic::{Error, Result};
use crate::provider::FailureKind;
use crate::runner::{Answered, Ask, Wish};
use crate::store::{Fingerprint, Stored};
use crate::study::agenda::Finished;
use crate::study::work::{Landed, Unjudged, Verdict, judge, judges};

impl Driver<'_> {
    /// Starts an admitted evaluation, behind an earlier one of the same request if there is one.
    pub(super) fn start(&mut self, number: usize) {
        self.in_flight += 1;
        let Some(print) = self.fingerprint(number) else { return };
        let chain = self.chains.entry(print).or_default();
        chain.push_back(number);
        match chain.len() {
            1 => self.launch(number),
            _ => self.pipeline.purse.block(true),
        }
    }

    pub(super) fn fingerprint(&mut self, number: usize) -> Option<Fingerprint> {
        match &self.slot(number).prepared {
            Some(Ok(prepared)) => Some(prepared.fingerprint),
            _ => None,
        }
    }

    fn launch(&mut self, number: usize) {
        let pipeline = self.pipeline;
        let slot = &mut self.slots[number - self.base];
        let Some(Ok(prepared)) = &mut slot.prepared else { return };
        let n = slot.plan.n as usize;
        let Some(mut hold) = slot.hold.take() else { return };
        if prepared.stored.len() >= n {
            let stored = std::mem::take(&mut prepared.stored);
            let (instance, n) = (slot.instance, slot.plan.n);
            self.judging += 1;
            self.unjudged.push(Unjudged { slot: number, instance, n, hold, stored, requests: 0 });
            return;
        }
        let (request, print) = (prepared.request.clone(), prepared.fingerprint);
        let order = pipeline.runner.order(&slot.plan.service, &request, &print, prepared.stored.len());
        // What is bought in rounds is not bought by the runner, which would take it for missing still.
        let missed = order.is_none() && prepared.stored.is_empty();
        let wish = Wish { missed: missed.then_some(prepared.look), ..Wish::default() };
        let (runner, plan, scope) = (pipeline.runner.clone(), slot.plan.clone(), pipeline.scope.clone());
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let work = async {
                let (failure, ordered) = match order {
                    Some(order) => runner.delivered(order, &mut hold).await?,
                    None => (None, 0),
                };
                let Answered { outcome, requests } = match failure {
                    Some(failure) => Answered { outcome: Err(failure), requests: 0 },
                    None => {
                        let (service, request, fingerprint) = (&*plan.service, &*request, &print);
                        runner.answer(Ask { service, request, fingerprint, scope: &scope, wish }, &mut hold).await?
                    }
                };
                let requests = requests + ordered;
                Ok(match outcome {
                    Ok(stored) => Verdict::Bought(stored, requests),
                    Err(failure) => match failure.kind {
                        FailureKind::Interrupted => Verdict::Stopped,
                        FailureKind::Budget => Verdict::NoMoney(failure),
                        _ => Verdict::Failed(failure, requests),
                    },
                })
            };
            // A worker that fell must be heard of, or the run would wait for it for ever.
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|_| Err(Error::internal("answering a request panicked")));
            drop(sender.send(Landed { slot: number, hold, outcome }));
        });
    }

    /// Judges what the store had in full and what was bought, many at a time.
    pub(super) fn judge(&mut self) -> Result<()> {
        // What lands may start another one that the store has in full.
        while self.workload.quick() && (1..=FEW).contains(&self.unjudged.len()) {
            for Unjudged { slot, instance, n, hold, stored, requests } in std::mem::take(&mut self.unjudged) {
                let metrics = judge(&self.workload, &self.pipeline.instances[instance], &stored, n);
                self.land(Landed { slot, hold, outcome: Ok(Verdict::Answered(stored, metrics, requests)) })?;
            }
        }
        if self.unjudged.is_empty() {
            return Ok(());
        }
        let work = std::mem::take(&mut self.unjudged);
        let (workload, instances, sender) =
            (self.workload.clone(), self.pipeline.instances.clone(), self.sender.clone());
        judges().spawn(move || {
            work.into_par_iter().for_each(|unjudged| {
                let Unjudged { slot, instance, n, hold, stored, requests } = unjudged;
                let metrics = judge(&workload, &instances[instance], &stored, n);
                drop(sender.send(Landed { slot, hold, outcome: Ok(Verdict::Answered(stored, metrics, requests)) }));
            });
        });
        Ok(())
    }

    /// Settles what came back, and starts what waited for it.
    pub(super) fn land(&mut self, landed: Landed) -> Result<()> {
        let Landed { slot: number, hold, outcome } = landed;
        if let Ok(Verdict::Bought(stored, requests)) = outcome {
            let (instance, n) = (self.slot(number).instance, self.slot(number).plan.n);
            self.judging += 1;
            self.unjudged.push(Unjudged { slot: number, instance, n, hold, stored, requests });
            return Ok(());
        }
        self.in_flight -= 1;
        let print = self.fingerprint(number);
        let (trial, instance, plan) = {
            let slot = self.slot(number);
            (slot.trial, slot.instance, slot.plan.clone())
        };
        let mut latest = None;
        let done = match outcome? {
            // Left unfinished: nothing behind it is told, so what was told is what a longer run would tell first.
            Verdict::Stopped | Verdict::Bought(..) => None,
            Verdict::NoMoney(failure) => {
                (self.spent_out, self.last_failure) = (true, Some(failure));
                None
            }
            Verdict::Answered(stored, result, requests) => {
                self.judging = self.judging.saturating_sub(1);
                let known = print.map_or(0, |print| self.used.add(&print, plan.n));
                let cost = plan.study_cost(&stored, known);
                if let Some(Ok(prepared)) = &self.slots[number - self.base].prepared {
                    plan.service.learn(cost, &prepared.request, known, prepared.foretold.is_some());
                }
                let paid = hold.paid();
                hold.settle(cost);
                let done = Finished {
                    trial,
                    instance,
                    result: result.map(|metrics| self.names.share(metrics)),
                    cost,
                    paid,
                    production: Some(plan.production_cost(&stored)),
                    prompt_tokens: stored.purchases.first().map_or(0, |purchase| purchase.response.prompt_tokens),
                    completion_tokens: stored
                        .samples()
                        .take(plan.n as usize)
                        .map(|sample| sample.completion_tokens)
                        .sum(),
                    requests,
                    fingerprint: print,
                };
                latest = Some(stored);
                Some(done)
            }
            Verdict::Failed(failure, requests) => {
                let paid = hold.paid();
                drop(hold);
                if failure.kind.fatal() {
                    self.give_up(&plan.service.model.name, &failure);
                }
                if failure.kind.transient() {
                    self.last_failure = Some(failure.clone());
                }
                if let Some(print) = print {
                    self.failed.insert((print, plan.n), failure.clone());
                }
                Some(Finished { paid, requests, fingerprint: print, ..Finished::failed(trial, instance, failure) })
            }
        };
        self.slot(number).finished = done;
        if let Some(print) = print {
            self.next_in_chain(print, latest);
        }
        Ok(())
    }

    /// Starts what waited for an evaluation of the same request.
    fn next_in_chain(&mut self, print: Fingerprint, latest: Option<Stored>) {
        loop {
            let next = self.chains.get_mut(&print).and_then(|chain| {
                chain.pop_front();
                chain.front().copied()
            });
            let Some(next) = next else {
                self.chains.remove(&print);
                return;
            };
            self.pipeline.purse.block(false);
            let failure = self.failed.get(&(print, self.slots[next - self.base].plan.n)).cloned();
            let slot = self.slot(next);
            if let Some(failure) = failure {
                slot.hold = None;
                slot.finished =
                    Some(Finished { fingerprint: Some(print), ..Finished::failed(slot.trial, slot.instance, failure) });
                self.in_flight -= 1;
                continue;
            }
            if let (Some(stored), Some(Ok(prepared))) = (latest, &mut slot.prepared) {
                prepared.stored = stored;
            }
            self.launch(next);
            return;
        }
    }
}
