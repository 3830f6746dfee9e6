//! A search strategy as an agenda: its asks become evaluations, results become what it is told.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::diagnostic::{Error, Result};
use crate::evaluate::{Plan, Workload};
use crate::event::{Event, Reader, Sums};
use crate::money::Usd;
use crate::provider::FailureKind;
use crate::runner::{Purse, Runner};
use crate::search::{Ask, Outcome, Strategy, Told};
use crate::space::{Configuration, Space};
use crate::study::agenda::{Agenda, Finished, Wanted};
use crate::study::claims::Evidence;
use crate::study::control::BudgetChange;
use crate::study::trial::{Evaluation, RenderedInputs, Trial};
use crate::study::{Settings, Study, production, settings};

/// Who reads the run.
pub type Readers = Vec<Box<dyn Reader>>;

/// The state of a search.
pub struct SearchAgenda {
    strategy: Box<dyn Strategy>,
    space: Arc<Space>,
    workload: Workload,
    runner: Arc<Runner>,
    purse: Arc<Purse>,
    settings: Settings,
    /// The study's order of instances: the strategy's places are indices into it.
    order: Arc<Vec<usize>>,
    places: Vec<usize>,
    rendered: RenderedInputs,
    /// The trials so far.
    pub trials: Vec<Trial>,
    /// The sums so far.
    pub sums: Sums,
    /// Evaluations that did not fit the budget.
    pub refused: u64,
    /// Why the first evaluation that did not fit the budget did not.
    pub first_refusal: Option<String>,
    /// Trials that it kept from going on, since the last evaluation that fitted.
    refused_in_row: usize,
    /// So many results were told.
    told: usize,
    /// What the search may cost, where that was changed, and the results that it holds from.
    changes: VecDeque<(usize, Usd)>,
    /// So many evaluations had failed when it was last looked at whether going on finds anything.
    looked_at: u64,
    /// So many configurations are all over the inference budget that the others need not be asked.
    all_too_dear: bool,
    leader: Option<usize>,
    readers: Readers,
    /// What the strategy asked and the pipeline was not given yet: (trial, places).
    held: VecDeque<(usize, Vec<usize>)>,
    /// What the strategy is to be told next, in the order of asking.
    expected: VecDeque<Expected>,
    margin: Option<Margin>,
    /// The budget in all, where the user changed it.
    pub budget: Option<Usd>,
    /// Where the margin stopped the search: what going on was expected to gain then.
    pub converged: Option<f64>,
}

/// What comes of something that the strategy asked.
enum Expected {
    /// The pipeline will tell.
    Result,
    /// It was not sent, for its configuration was dropped before: (trial, place).
    Skipped(usize, usize),
}

/// When to stop because more looking does not pay.
struct Margin {
    value: f64,
    /// How many configurations there can be at most, where that is known.
    most: Option<usize>,
    seed: u64,
    /// The number of evaluations at which the next look is due.
    next: u64,
}

/// With a margin, evaluations are asked less far ahead, and in pieces: what was asked is bought.
const MARGIN_LOOK_AHEAD: usize = 128;
const MARGIN_PIECE: usize = 16;

/// What is bought in rounds is asked so far ahead: a round is as large as the strategy has things to ask.
const ROUND: usize = 16_384;

/// Evaluations before the first look at whether more would pay.
const MARGIN_FROM: u64 = 24;

/// How far a study looks ahead with a strategy: a constant of the study.
pub fn look_ahead(strategy: &dyn Strategy, margin: Option<f64>, in_rounds: bool) -> usize {
    let own = strategy.look_ahead().max(if in_rounds { ROUND } else { 1 });
    if margin.is_some() { own.min(MARGIN_LOOK_AHEAD) } else { own }
}

/// So many configurations in a row of which no instance could be judged, or all of them over the inference budget, end a
/// search: there is nothing to find.
const BARREN_TRIALS: usize = 100;

/// So many trials in a row that do not fit the budget end a search: what is left buys nothing any more.
const REFUSALS: usize = 64;

/// So many evaluations that all fail in the metric end a search: the metric is broken, and goes on costing money.
const BARREN_EVALUATIONS: usize = 32;

impl SearchAgenda {
    /// The search of a study that begins.
    pub fn new(
        study: &Study,
        strategy: Box<dyn Strategy>,
        runner: Arc<Runner>,
        purse: Arc<Purse>,
        order: Arc<Vec<usize>>,
        readers: Readers,
    ) -> SearchAgenda {
        let settings = study.settings.clone();
        let margin = settings.margin.map(|value| Margin {
            value,
            most: study.most(),
            seed: settings::stream(settings.seed, "margin"),
            next: MARGIN_FROM,
        });
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, &instance)| places[instance] = place);
        let sums = Sums { budget: purse.limit(), spent: purse.spent(), ..Sums::default() };
        SearchAgenda {
            strategy,
            space: study.space.clone(),
            workload: study.workload.clone(),
            runner,
            purse,
            settings,
            order,
            places,
            rendered: RenderedInputs::default(),
            trials: Vec::new(),
            sums,
            refused: 0,
            first_refusal: None,
            refused_in_row: 0,
            told: 0,
            changes: VecDeque::new(),
            looked_at: 0,
            all_too_dear: false,
            leader: None,
            readers,
            held: VecDeque::new(),
            expected: VecDeque::new(),
            margin,
            budget: None,
            converged: None,
        }
    }

    /// Tells the readers of something.
    pub fn announce(&mut self, event: &Event) {
        self.sums.spent = self.purse.spent();
        self.sums.study_cost = self.purse.study_cost();
        for reader in &mut self.readers {
            reader.read(event, &self.sums);
        }
    }

    /// What is left when the search is over: trials, sums, evaluations that did not fit and why the first did not, readers.
    pub fn into_parts(mut self) -> (Vec<Trial>, Sums, (u64, Option<String>), Readers) {
        if self.settings.inference_budget.is_some() {
            let priors: Vec<_> = self.trials.iter().map(|trial| production::prior(trial, &self.trials)).collect();
            self.trials.iter_mut().zip(priors).for_each(|(trial, prior)| trial.learn(prior));
        }
        (self.trials, self.sums, (self.refused, self.first_refusal), self.readers)
    }

    /// True where going on finds nothing.
    fn barren(&self) -> bool {
        let judged = |trial: &Trial| trial.evaluations.iter().any(|done| done.result.is_ok());
        let told: Vec<&Trial> = self.trials.iter().rev().filter(|trial| !trial.evaluations.is_empty()).collect();
        if told.len() >= BARREN_TRIALS && !told.iter().take(BARREN_TRIALS).any(|trial| judged(trial)) {
            return true;
        }
        let metric = |done: &Evaluation| done.result.as_ref().is_err_and(|why| why.kind == FailureKind::Metric);
        let evaluations = || self.trials.iter().flat_map(|trial| &trial.evaluations);
        evaluations().count() >= BARREN_EVALUATIONS && evaluations().take(BARREN_EVALUATIONS).all(metric)
    }

    fn begin(&mut self, number: usize, configuration: Configuration) -> Result<()> {
        if number != self.trials.len() {
            return Err(Error::internal(format!(
                "the strategy began trial {number} where {} was next",
                self.trials.len()
            )));
        }
        let plan = Arc::new(Plan::new(&self.space, &configuration, &self.runner)?);
        let is_baseline = self.space.baseline.as_ref().is_some_and(|baseline| baseline.key() == configuration.key());
        let mut trial = Trial::new(number, configuration.clone(), plan, is_baseline);
        if self.settings.inference_budget.is_some() {
            trial.watch_production(&self.workload.task.tune, &mut self.rendered);
        }
        self.trials.push(trial);
        self.announce(&Event::TrialStarted { trial: number, configuration });
        // Its siblings may have shown already that it is too dear: then it is asked nothing.
        self.drop_too_dear(number);
        Ok(())
    }

    /// Gives the trial that was just told of up, if too much of it is missing for reasons of its own: it cannot be best.
    fn give_up(&mut self, number: usize) {
        let trial = &mut self.trials[number];
        if !trial.given_up && trial.dropped.is_none() && trial.surely_unreliable() {
            trial.given_up = true;
            self.strategy.dropped(number);
        }
    }

    /// Drops the trial that was just told of, if production surely could not afford it.
    fn prune(&mut self, number: usize) {
        let seen = self.trials[number].evaluations.len();
        // Working out what production costs goes through all evaluations of the family: later looks are further apart.
        let due = seen <= 8 || seen <= 64 && seen.is_multiple_of(4) || seen.is_power_of_two();
        if due || seen == self.order.len() {
            self.drop_too_dear(number);
        }
    }

    /// Learns what a trial would cost in production, and drops it if that is surely too much.
    fn drop_too_dear(&mut self, number: usize) {
        let Some(budget) = self.settings.inference_budget.filter(|_| self.trials[number].dropped.is_none()) else {
            return;
        };
        let prior = production::prior(&self.trials[number], &self.trials);
        let reason = self.trials[number].too_dear(&self.trials, budget);
        let trial = &mut self.trials[number];
        trial.learn(prior);
        if let Some(reason) = reason {
            trial.dropped = Some(reason.clone());
            self.strategy.dropped(number);
            self.announce(&Event::TrialDropped { trial: number, reason });
            let tried = || self.trials.iter().filter(|trial| !trial.evaluations.is_empty() || trial.dropped.is_some());
            self.all_too_dear = tried().count() >= BARREN_TRIALS && tried().all(|trial| trial.dropped.is_some());
        }
    }

    /// Looks whether going on still pays, at points that the order of telling decides alone, so whatever the strategy.
    fn converge(&mut self) {
        let Some(margin) = &mut self.margin else { return };
        if self.converged.is_some() || self.sums.evaluations < margin.next {
            return;
        }
        // Working it out goes through all evaluations: later looks are further apart.
        margin.next = self.sums.evaluations + (self.sums.evaluations / 20).max(8);
        let open = margin.most.is_none_or(|most| self.trials.len() < most);
        let budget = self.settings.inference_budget;
        let evidence = Evidence::of(&self.trials, &self.workload, |trial| trial.barred(budget).is_none());
        let gain = evidence.expected_gain(open, margin.seed);
        self.converged = gain.filter(|gain| *gain < margin.value);
    }

    /// Tells the strategy of what was skipped, as far as its turn has come.
    fn tell_skipped(&mut self) {
        while let Some(&Expected::Skipped(trial, instance)) = self.expected.front() {
            self.expected.pop_front();
            self.strategy.tell(Told { trial, instance, outcome: Outcome::Missing, cost: Usd::ZERO });
        }
    }

    /// The next piece of what the strategy asked; what is asked of a dropped trial is not sent.
    fn piece(&mut self) -> Option<Wanted> {
        while let Some((trial, mut places)) = self.held.pop_front() {
            if self.trials[trial].out() {
                self.expected.extend(places.into_iter().map(|place| Expected::Skipped(trial, place)));
                self.tell_skipped();
                continue;
            }
            if self.margin.is_some() && places.len() > MARGIN_PIECE {
                let rest = places.split_off(MARGIN_PIECE);
                self.held.push_front((trial, rest));
            }
            self.sums.waiting += places.len() as u64;
            self.expected.extend(places.iter().map(|_| Expected::Result));
            let instances = places.into_iter().map(|place| self.order[place]).collect();
            return Some(Wanted::Evaluate { trial, plan: self.trials[trial].plan.clone(), instances });
        }
        None
    }

    /// For the display only: the trial with the best mean among those that saw the most. The ranking decides otherwise.
    fn follow_leader(&mut self, number: usize) {
        let metric = &self.workload.task.objective.metric;
        let gain = |trial: &Trial| {
            let estimate = trial.estimate(metric)?;
            let eligible = trial.barred(self.settings.inference_budget).is_none();
            eligible.then_some((
                estimate.count,
                self.workload.task.objective.direction.gain(estimate.mean),
                estimate.mean,
            ))
        };
        // Looking at every evaluation would cost more than the evaluations: looks double in distance.
        let seen = self.trials[number].evaluations.len();
        if !(seen.is_power_of_two() || seen == self.order.len()) {
            return;
        }
        let Some((count, mean, shown)) = gain(&self.trials[number]) else { return };
        let beaten = match self.leader.and_then(|leader| gain(&self.trials[leader])) {
            None => true,
            Some((lead_count, lead_mean, _)) => count >= lead_count && mean > lead_mean,
        };
        if beaten && self.leader != Some(number) {
            self.leader = Some(number);
            self.announce(&Event::BestChanged { trial: number, score: shown });
        }
    }
}

impl Agenda for SearchAgenda {
    fn ask(&mut self) -> Result<Wanted> {
        // Looked at when the number of failures doubles, and then often enough.
        let failed = self.sums.failed;
        if failed != self.looked_at && (failed.is_power_of_two() || failed.is_multiple_of(1024)) {
            self.looked_at = failed;
            if self.barren() {
                return Ok(Wanted::Done);
            }
        }
        if self.converged.is_some() || self.all_too_dear {
            return Ok(Wanted::Done);
        }
        loop {
            if let Some(piece) = self.piece() {
                return Ok(piece);
            }
            if self.refused_in_row >= REFUSALS {
                return Ok(if self.expected.is_empty() { Wanted::Done } else { Wanted::Wait });
            }
            match self.strategy.ask() {
                Ask::Wait => return Ok(Wanted::Wait),
                Ask::Done => return Ok(Wanted::Done),
                Ask::Evaluate { trial, configuration, instances } => {
                    if let Some(configuration) = configuration {
                        self.begin(trial, configuration)?;
                    }
                    if trial >= self.trials.len() {
                        return Err(Error::internal(format!(
                            "the strategy asked for trial {trial}, which it never began"
                        )));
                    }
                    if !instances.is_empty() {
                        self.held.push_back((trial, instances));
                    }
                }
            }
        }
    }

    fn tell(&mut self, finished: Finished) -> Result<()> {
        self.sums.waiting -= 1;
        let number = finished.trial;
        let objective = &self.workload.task.objective;
        let score = finished.result.as_ref().ok().and_then(|metrics| metrics.get(&objective.metric)).copied();
        let refused = finished.refused();
        let outcome = match (score, finished.production) {
            (Some(score), Some(production)) => {
                let input = Some(self.trials[number].plan.input_cost(finished.prompt_tokens));
                Outcome::Scored { score: objective.direction.gain(score), production, input }
            }
            _ if refused => Outcome::Refused,
            _ => Outcome::Missing,
        };
        let cost = if self.settings.reuse_savings { finished.paid } else { finished.cost };
        let told = Told { trial: number, instance: self.places[finished.instance], outcome, cost };
        if refused {
            self.refused += 1;
            self.refused_in_row += usize::from(self.trials[number].refused == 0);
            let words = finished.result.as_ref().err().map(|failure| failure.message.clone());
            self.first_refusal = self.first_refusal.take().or(words);
            self.trials[number].refused += 1;
        } else {
            self.refused_in_row = 0;
            finished.count(&mut self.sums);
            let event = finished.event(&self.workload.task.tune[finished.instance].id, &objective.metric);
            self.trials[number].keep_with_fingerprint(finished);
            self.announce(&event);
        }
        self.expected.pop_front();
        // Of a changed budget the strategy hears at a place of the order, not at the moment when it was changed.
        while let Some((_, budget)) = self.changes.pop_front_if(|(from, _)| *from <= self.told) {
            self.strategy.budget(budget);
            self.refused_in_row = 0;
        }
        self.told += 1;
        self.strategy.tell(told);
        self.tell_skipped();
        if !refused {
            self.prune(number);
            self.give_up(number);
            self.follow_leader(number);
            self.converge();
        }
        Ok(())
    }

    fn pause(&mut self, paused: bool) {
        self.announce(&Event::Paused { paused });
    }

    fn change_budget(&mut self, change: BudgetChange) {
        let (study, spent) = self.settings.limits(change.budget);
        self.changes.push_back((change.from, study));
        self.purse.set_limits(Some(study), Some(spent));
        self.sums.budget = Some(study);
        self.announce(&Event::BudgetChanged { from: change.from, budget_usd: change.budget });
        self.budget = Some(change.budget);
    }

    fn look_ahead(&self) -> usize {
        let margin = self.margin.as_ref().map(|margin| margin.value);
        look_ahead(self.strategy.as_ref(), margin, self.runner.in_rounds())
    }
}
