//! The way of many evaluations: asked in an order, prepared together, admitted in that order as the budget allows, answered
//! in any order, told in the order of asking. What is asked and bought depends on that order alone, never on timing.

mod flight;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;
use tokio::sync::{mpsc, oneshot};

use crate::diagnostic::{Error, Result};
use crate::evaluate::{Plan, Workload};
use crate::metric::Names;
use crate::provider::{Failure, FailureKind};
use crate::runner::{Admission, Hold, Purse, Runner};
use crate::store::{Durable, Fingerprint};
use crate::study::agenda::{Agenda, Finished, Wanted};
use crate::study::control::Stop;
use crate::study::health::{Diagnosis, Health};
use crate::study::used::Used;
use crate::study::work::{Landed, Prepared, Unjudged, advice, prepare};
use crate::task::Instance;

/// How a pipeline ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing was left to ask.
    Done,
    /// The user stopped it.
    Interrupted,
    /// Money lost in crashes or time-outs used up the cap, though the study's own cost did not.
    SpentOut {
        /// Where requests that failed in this run took more than answers did: the last failure.
        lost_to: Option<Failure>,
    },
}

/// Everything a pipeline works with.
#[derive(Clone)]
pub struct Pipeline {
    /// The task and its metrics.
    pub workload: Workload,
    /// The instances that indices mean.
    pub instances: Arc<[Instance]>,
    /// Who answers.
    pub runner: Arc<Runner>,
    /// The cap.
    pub purse: Arc<Purse>,
    /// The name in the ledger.
    pub scope: Arc<str>,
    /// Failures that an earlier part of the study recorded: they are not tried again.
    pub recorded: Arc<HashMap<(Fingerprint, u32), Failure>>,
    /// The user's wish to stop.
    pub stop: Arc<Stop>,
}

/// Evaluations that are rendered and looked up in one go.
const BATCH: usize = 512;

/// Those of them that one thread takes, and looks up in one transaction.
const PART: usize = 64;

/// So few are rendered and looked up, or judged, at once where they are asked for: waking other threads would take longer.
const FEW: usize = 16;

/// How long answers are let gather where many are under way.
const BREATH: Duration = Duration::from_millis(1);

struct Slot {
    trial: usize,
    instance: usize,
    plan: Arc<Plan>,
    prepared: Option<Result<Prepared, Failure>>,
    hold: Option<Hold>,
    finished: Option<Finished>,
    /// The failure was recorded by an earlier part of the study.
    recalled: bool,
}

struct Driver<'a> {
    pipeline: &'a Pipeline,
    workload: Arc<Workload>,
    slots: VecDeque<Slot>,
    /// The number of the first slot held.
    base: usize,
    next_unprepared: usize,
    next_admitted: usize,
    in_flight: usize,
    /// Samples that the study used so far of a request.
    used: Used,
    /// The names of metrics, shared by all results.
    names: Names,
    /// Slots at work on a request; the first is under way, the others wait for it, in the order of asking.
    chains: HashMap<Fingerprint, VecDeque<usize>>,
    unjudged: Vec<Unjudged>,
    /// How many are being judged.
    judging: usize,
    /// Requests that failed: asked again, they fail again without being sent.
    failed: HashMap<(Fingerprint, u32), Failure>,
    health: Health,
    /// Failures on their way into the store.
    recording: Vec<Durable<()>>,
    sender: mpsc::UnboundedSender<Landed>,
    exhausted: bool,
    /// Refuse whatever comes after a refusal.
    ends_at_refusal: bool,
    refusing: bool,
    spent_out: bool,
    /// The last failure that another try could have overcome.
    last_failure: Option<Failure>,
    hopeless: Option<Error>,
}

/// The error of a run whose money failures used up.
pub fn mostly_lost(failure: &Failure) -> Error {
    Error::endpoint(format!(
        "the budget ended because more of it went to requests that failed, and may be billed, than to answers: {failure}"
    ))
}

impl Pipeline {
    /// One of work that nothing was done of before.
    pub fn fixed(
        workload: &Workload,
        instances: &Arc<[Instance]>,
        runner: impl Into<Arc<Runner>>,
        purse: Arc<Purse>,
        scope: &Arc<str>,
        stop: &Arc<Stop>,
    ) -> Pipeline {
        Pipeline {
            workload: workload.clone(),
            instances: instances.clone(),
            runner: runner.into(),
            purse,
            scope: scope.clone(),
            recorded: Arc::default(),
            stop: stop.clone(),
        }
    }

    /// Runs an agenda to its end.
    pub async fn run(&self, agenda: &mut dyn Agenda) -> Result<Ending> {
        let (sender, mut landed) = mpsc::unbounded_channel();
        let mut driver = Driver {
            pipeline: self,
            workload: Arc::new(self.workload.clone()),
            slots: VecDeque::new(),
            base: 0,
            next_unprepared: 0,
            next_admitted: 0,
            in_flight: 0,
            used: Used::default(),
            names: Names::default(),
            chains: HashMap::new(),
            unjudged: Vec::new(),
            judging: 0,
            failed: HashMap::new(),
            health: Health::default(),
            recording: Vec::new(),
            sender,
            exhausted: false,
            ends_at_refusal: agenda.ends_at_refusal(),
            refusing: false,
            spent_out: false,
            last_failure: None,
            hopeless: None,
        };
        driver.ask(agenda)?;
        let mut paused = false;
        loop {
            if paused != self.stop.control().paused() {
                paused = !paused;
                agenda.pause(paused);
            }
            driver.prepare().await?;
            driver.admit(agenda);
            driver.judge()?;
            if driver.tell(agenda).await? || (self.runner.in_rounds() && driver.has_more()) {
                continue;
            }
            if driver.stopping() {
                self.runner.stop();
            }
            if driver.in_flight == 0 {
                // Nothing is under way and nothing more can be told: either all is done, or the run is stopping.
                if driver.paused() {
                    self.stop.wished().await;
                    continue;
                }
                if !driver.stopping() && !driver.exhausted {
                    return Err(Error::internal("the search waits for results although none are under way"));
                }
                break;
            }
            if driver.judging == 0 {
                // Whatever could be asked now is asked.
                self.runner.close_round();
            }
            if driver.judging == 0 && driver.plenty() {
                // Waking this thread for every answer costs more than what is done with one.
                tokio::time::sleep(BREATH).await;
            }
            tokio::select! {
                one = landed.recv() => {
                    let Some(one) = one else { break };
                    driver.land(one)?;
                    while let Ok(one) = landed.try_recv() {
                        driver.land(one)?;
                    }
                }
                () = self.stop.wished() => {}
            }
            if self.stop.at_once() {
                return Ok(Ending::Interrupted);
            }
        }
        let interrupted = self.stop.asked() && !(driver.exhausted && driver.slots.is_empty());
        if let Some((model, failure)) = driver.health.nothing_answered()
            && !driver.stopping()
        {
            let (model, failure) = (model.to_owned(), failure.clone());
            driver.give_up(&model, &failure);
        }
        if agenda.takes_what_landed() {
            driver.tell_landed(agenda)?;
        }
        if driver.hopeless.is_none() {
            let doubtful = driver.health.settle();
            doubtful.iter().for_each(|(print, n, failure)| driver.keep_failure(print, *n, failure));
        }
        for recorded in std::mem::take(&mut driver.recording) {
            recorded.await?;
        }
        if let Some(error) = driver.hopeless {
            return Err(error);
        }
        Ok(match () {
            () if interrupted => Ending::Interrupted,
            () if driver.spent_out => {
                Ending::SpentOut { lost_to: driver.last_failure.filter(|_| self.purse.mostly_lost()) }
            }
            () => Ending::Done,
        })
    }
}

impl Driver<'_> {
    fn stopping(&self) -> bool {
        self.pipeline.stop.asked() || self.spent_out || self.hopeless.is_some()
    }

    /// There is work that the user holds back.
    fn paused(&self) -> bool {
        let waiting = self.next_admitted < self.base + self.slots.len();
        waiting && !self.stopping() && self.pipeline.stop.control().paused()
    }

    /// There is more to prepare, and nothing that was prepared waits for money.
    fn has_more(&self) -> bool {
        let end = self.base + self.slots.len();
        !self.stopping() && self.next_admitted == self.next_unprepared && self.next_unprepared < end
    }

    /// So much is under way that the endpoints have enough to do, whatever is done a moment later here.
    fn plenty(&self) -> bool {
        let runner = &self.pipeline.runner;
        self.chains.len() > 2 * runner.concurrency() + PART && !runner.in_rounds()
    }

    /// As much is under way as needs be: more would only take memory, and wait until what was looked up is out of date.
    fn full(&self) -> bool {
        let runner = &self.pipeline.runner;
        self.chains.len() >= (4 * runner.concurrency()).max(BATCH) && !runner.in_rounds()
    }

    fn slot(&mut self, number: usize) -> &mut Slot {
        &mut self.slots[number - self.base]
    }

    /// Asks while the look-ahead allows. Called at the start and after every single tell, so that what is asked when is
    /// the same in every run.
    fn ask(&mut self, agenda: &mut dyn Agenda) -> Result<()> {
        while !self.exhausted && !self.stopping() && self.slots.len() < agenda.look_ahead() {
            match agenda.ask()? {
                Wanted::Evaluate { trial, plan, instances } => {
                    let slot = |instance| Slot {
                        trial,
                        instance,
                        plan: plan.clone(),
                        prepared: None,
                        hold: None,
                        finished: None,
                        recalled: false,
                    };
                    self.slots.extend(instances.into_iter().map(slot));
                }
                Wanted::Wait => break,
                Wanted::Done => self.exhausted = true,
            }
        }
        Ok(())
    }

    /// Renders what was asked, hashes it and looks it up in the store: on rayon's threads, many at a time.
    async fn prepare(&mut self) -> Result<()> {
        let ahead = self.next_unprepared.saturating_sub(self.next_admitted);
        let end = self.base + self.slots.len();
        let waiting = end - self.next_unprepared;
        if self.stopping() || waiting == 0 || ahead >= BATCH {
            return Ok(());
        }
        if waiting < PART && self.plenty() {
            // Many looked up together cost less than each by itself.
            return Ok(());
        }
        let numbers = self.next_unprepared..end.min(self.next_unprepared + BATCH);
        let work: Vec<(Arc<Plan>, usize)> =
            numbers.clone().map(|number| (self.slot(number).plan.clone(), self.slot(number).instance)).collect();
        let (instances, runner) = (self.pipeline.instances.clone(), self.pipeline.runner.clone());
        let prepared = if work.len() <= FEW {
            vec![prepare(&work, &instances, &runner)?]
        } else {
            let (sender, receiver) = oneshot::channel();
            rayon::spawn(move || {
                let parts = work.par_chunks(PART).map(|part| prepare(part, &instances, &runner));
                drop(sender.send(parts.collect::<Result<Vec<_>>>()));
            });
            receiver.await.map_err(|_| Error::internal("preparing evaluations failed"))??
        };
        for (number, prepared) in numbers.clone().zip(prepared.into_iter().flatten()) {
            self.slot(number).prepared = Some(prepared);
        }
        self.next_unprepared = numbers.end;
        Ok(())
    }

    /// Admits evaluations in the order of asking, until one has to wait.
    fn admit(&mut self, agenda: &mut dyn Agenda) {
        while self.next_admitted < self.next_unprepared && !self.stopping() && !self.paused() && !self.full() {
            let number = self.next_admitted;
            let committed = || self.pipeline.purse.committed();
            while let Some(change) = self.pipeline.stop.control().due(number, committed) {
                agenda.change_budget(change);
            }
            let purse = self.pipeline.purse.clone();
            let (used, chains, recorded, failed) = (&self.used, &self.chains, &self.pipeline.recorded, &self.failed);
            let slot = &mut self.slots[number - self.base];
            let refused = |failure: Failure| Some(Finished::failed(slot.trial, slot.instance, failure));
            let prepared = match &mut slot.prepared {
                Some(Ok(prepared)) => prepared,
                Some(Err(failure)) => {
                    slot.finished = refused(failure.clone());
                    self.next_admitted += 1;
                    continue;
                }
                None => break,
            };
            let (plan, print) = (&slot.plan, prepared.fingerprint);
            let before = recorded.get(&(print, plan.n));
            slot.recalled = before.is_some();
            if let Some(failure) = before.or(failed.get(&(print, plan.n))) {
                slot.finished = Some(Finished {
                    fingerprint: Some(print),
                    ..Finished::failed(slot.trial, slot.instance, failure.clone())
                });
                self.next_admitted += 1;
                continue;
            }
            // How many samples an earlier evaluation of the same request will have bought is not known before it
            // landed: until then the worst is that it bought none. A refusal comes only when all have landed.
            let bought = used.of(&print);
            if bought > prepared.stored.len() {
                // Bought since this one was looked up. A store that fails now will fail again where it is asked.
                prepared.stored = self.pipeline.runner.store().stored(&print).unwrap_or_default();
            }
            let prepared = &*prepared;
            let known = if chains.contains_key(&print) { 0 } else { bought };
            let bounds = |tight: bool| {
                let study = prepared.worst(plan, known, tight);
                (study, prepared.worst(plan, prepared.stored.len(), tight))
            };
            let (study, real) = bounds(false);
            let admission = match purse.admit(study, real) {
                // What was admitted before a refusal has settled by then, so this comes in the order of asking.
                Admission::Go(_) if self.refusing => Admission::Never { for_spent: false },
                Admission::Go(hold) => Admission::Go(hold),
                _ => {
                    let (study, real) = bounds(true);
                    purse.admit(study, real)
                }
            };
            match admission {
                Admission::Go(hold) => {
                    slot.hold = Some(hold);
                    self.next_admitted += 1;
                    self.start(number);
                }
                Admission::Wait => break,
                Admission::Never { for_spent: true } => self.spent_out = true,
                Admission::Never { for_spent: false } => {
                    let failure = Failure::new(FailureKind::Budget, plan.service.no_room(&prepared.request, study));
                    slot.finished = refused(failure);
                    self.refusing = self.ends_at_refusal;
                    self.next_admitted += 1;
                }
            }
        }
    }

    /// Ends the run: the endpoint cannot be used. What was paid for is kept, and a resumed study tries again.
    fn give_up(&mut self, model: &str, failure: &Failure) {
        if self.hopeless.is_none() {
            let error = Error::endpoint(format!("the endpoint of `{model}` cannot be used: {failure}"));
            self.hopeless = Some(error.help_if(advice(failure.kind).map(str::to_owned)));
        }
    }

    /// Takes note of how a model's endpoint does, in the order of telling.
    fn examine(&mut self, plan: &Plan, finished: &Finished, recalled: bool) {
        if recalled || plan.service.in_process() {
            return;
        }
        match self.health.examine(&plan.service.model.name, plan.n, finished) {
            Diagnosis::Nothing => {}
            Diagnosis::Keep(failures) => {
                failures.iter().for_each(|(print, n, failure)| self.keep_failure(print, *n, failure));
            }
            Diagnosis::Hopeless(failure) => self.give_up(&plan.service.model.name, &failure),
        }
    }

    /// Queues a failure for the store. The queue is in order, so it is kept before anything that is bought after it.
    fn keep_failure(&mut self, print: &Fingerprint, n: u32, failure: &Failure) {
        let store = self.pipeline.runner.store();
        self.recording.push(store.record_failure(&self.pipeline.scope, print, n, failure));
    }

    /// Tells what is finished from the front on, asking anew after each. True where anything was told.
    async fn tell(&mut self, agenda: &mut dyn Agenda) -> Result<bool> {
        let mut told = false;
        while self.hopeless.is_none() {
            let Some(slot) = self.slots.pop_front_if(|slot| slot.finished.is_some()) else { break };
            let Slot { plan, finished: Some(finished), recalled, .. } = slot else { break };
            self.base += 1;
            told = true;
            self.examine(&plan, &finished, recalled);
            agenda.tell(finished)?;
            self.ask(agenda)?;
        }
        if self.recording.len() > BATCH {
            for recorded in std::mem::take(&mut self.recording) {
                recorded.await?;
            }
        }
        Ok(told)
    }

    /// Tells answers that landed behind what did not, in the order of asking: they were paid for.
    fn tell_landed(&mut self, agenda: &mut dyn Agenda) -> Result<()> {
        let landed = std::mem::take(&mut self.slots).into_iter().filter_map(|slot| slot.finished);
        landed.filter(|finished| finished.production.is_some()).try_for_each(|finished| agenda.tell(finished))
    }
}
