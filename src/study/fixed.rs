//! Fixed work: one configuration on a split (`evaluate`), winner and baseline on held-out instances (`test`).

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use crate::diagnostic::Result;
use crate::evaluate::Plan;
use crate::event::Sums;
use crate::money::Usd;
use crate::runner::Purse;
use crate::study::agenda::{Agenda, Finished, Wanted};
use crate::study::pipeline::{Ending, Pipeline};
use crate::study::search_agenda::Readers;
use crate::study::summary::{Holdout, Versus};
use crate::study::trial::Trial;
use crate::study::{compare, order, settings};
use crate::task::{Instance, Objective};

/// Evaluations asked ahead of those told. Decides nothing but how many can be in flight.
const LOOK_AHEAD: usize = 4096;

/// Some plans on the same instances, instance by instance.
pub struct FixedAgenda {
    plans: Vec<Arc<Plan>>,
    order: Vec<usize>,
    next: usize,
    /// What they came to, in the order of the plans.
    pub trials: Vec<Trial>,
    /// Evaluations that did not fit the budget: nothing more is asked after the first.
    pub refused: usize,
    /// Why the first of them did not.
    pub refusal: Option<String>,
    sums: Sums,
    purse: Arc<Purse>,
    instances: Arc<[Instance]>,
    metric: String,
    readers: Readers,
}

impl FixedAgenda {
    /// All plans on the instances of `order`.
    pub fn new(plans: Vec<Arc<Plan>>, order: Vec<usize>, pipeline: &Pipeline, readers: Readers) -> FixedAgenda {
        let trial = |(number, plan): (usize, &Arc<Plan>)| {
            let mut trial = Trial::new(number, plan.configuration.clone(), plan.clone(), number == 1);
            // What is not used of it takes no memory; growing would take twice as much as there is.
            trial.evaluations.reserve_exact(order.len());
            trial.know_ranges(pipeline.workload.ranges());
            trial
        };
        let trials = plans.iter().enumerate().map(trial).collect();
        let sums = Sums { budget: pipeline.purse.limit(), waiting: 0, ..Sums::default() };
        FixedAgenda {
            plans,
            order,
            next: 0,
            trials,
            refused: 0,
            refusal: None,
            sums,
            purse: pipeline.purse.clone(),
            instances: pipeline.instances.clone(),
            metric: pipeline.workload.task.objective.metric.clone(),
            readers,
        }
    }

    /// Nobody reads on: a display that stands on the terminal is taken away.
    pub fn end(&mut self) {
        self.readers.clear();
    }

    /// How many instances were reached, by all plans.
    pub fn reached(&self) -> usize {
        self.trials.iter().map(|trial| trial.evaluations.len()).min().unwrap_or(0)
    }

    /// Evaluations that the store had in full.
    pub fn cache_hits(&self) -> u64 {
        self.sums.cache_hits
    }
}

impl Agenda for FixedAgenda {
    fn ask(&mut self) -> Result<Wanted> {
        let work = self.order.len() * self.plans.len();
        if self.next == work || self.refused > 0 {
            return Ok(Wanted::Done);
        }
        let trial = self.next % self.plans.len();
        let instance = self.order[self.next / self.plans.len()];
        self.next += 1;
        self.sums.waiting += 1;
        Ok(Wanted::Evaluate { trial, plan: self.plans[trial].clone(), instances: vec![instance] })
    }

    fn tell(&mut self, finished: Finished) -> Result<()> {
        self.sums.waiting -= 1;
        if finished.refused() {
            self.refused += 1;
            let words = finished.result.err().map(|failure| failure.message);
            self.refusal = self.refusal.take().or(words);
            return Ok(());
        }
        finished.count(&mut self.sums);
        (self.sums.spent, self.sums.study_cost) = (self.purse.spent(), self.purse.study_cost());
        if !self.readers.is_empty() {
            let event = finished.event(&self.instances[finished.instance].id, &self.metric);
            self.readers.iter_mut().for_each(|reader| reader.read(&event, &self.sums));
        }
        self.trials[finished.trial].keep(finished);
        Ok(())
    }

    fn look_ahead(&self) -> usize {
        LOOK_AHEAD
    }

    fn ends_at_refusal(&self) -> bool {
        true
    }

    fn takes_what_landed(&self) -> bool {
        true
    }
}

/// A held-out test and how it went.
pub struct Tested {
    /// What it came to.
    pub holdout: Holdout,
    /// How it ended.
    pub ending: Ending,
    /// Its evaluations: how many, those without a result, and those that the store had in full.
    pub sums: Sums,
    /// What it cost.
    pub cost: Usd,
    /// Why the first evaluation that did not fit the budget did not.
    pub refusal: Option<String>,
}

/// Scores a winner and a baseline on the test split, on as many instances (in one seeded order) as the budget buys.
pub async fn holdout(pipeline: &Pipeline, winner: Arc<Plan>, baseline: Option<Arc<Plan>>, seed: u64) -> Result<Tested> {
    let test = Pipeline { instances: pipeline.workload.task.test.clone(), ..pipeline.clone() };
    test_split(&test, winner, baseline, seed, Vec::new()).await
}

/// The same on a pipeline whose instances are the test split.
pub async fn test_split(
    pipeline: &Pipeline,
    winner: Arc<Plan>,
    baseline: Option<Arc<Plan>>,
    seed: u64,
    readers: Readers,
) -> Result<Tested> {
    let workload = &pipeline.workload;
    let baseline = baseline.filter(|baseline| baseline.configuration.key() != winner.configuration.key());
    let plans: Vec<Arc<Plan>> = std::iter::once(winner).chain(baseline).collect();
    let order = order(workload, &pipeline.instances, settings::stream(seed, "test"));
    let before = pipeline.purse.study_cost();
    let mut agenda = FixedAgenda::new(plans, order, pipeline, readers);
    let ending = pipeline.run(&mut agenda).await?;
    let objective = &workload.task.objective;
    let winner = &agenda.trials[0];
    let estimate = winner.estimate(&objective.metric);
    let known = Known::of(&workload.task.tune);
    let judged = winner.scores(&objective.metric).map(|(instance, _)| &pipeline.instances[instance]);
    let holdout = Holdout {
        score: estimate.map(|estimate| estimate.mean),
        ci95: estimate.and_then(|estimate| estimate.ci95).map(|(low, high)| [low, high]),
        instances: estimate.map_or(0, |estimate| estimate.count),
        missing: winner.missing(),
        not_reached: pipeline.instances.len() - winner.evaluations.len(),
        production_cost_usd_per_instance: winner.production_cost(),
        versus_baseline: agenda.trials.get(1).and_then(|baseline| versus(winner, baseline, objective, seed)),
        tuned: known.among(judged),
        data_hash: hash_of_all(&pipeline.instances),
    };
    let cost = pipeline.purse.study_cost() - before;
    Ok(Tested { holdout, ending, sums: agenda.sums, cost, refusal: agenda.refusal })
}

/// Instances by what is in them, to find them again among others.
pub struct Known(HashSet<blake3::Hash>);

impl Known {
    /// These ones.
    pub fn of(instances: &[Instance]) -> Known {
        Known(instances.iter().map(hash).collect())
    }

    /// How many of others are among them.
    pub fn among<'a>(&self, others: impl IntoIterator<Item = &'a Instance>) -> usize {
        others.into_iter().filter(|instance| self.0.contains(&hash(instance))).count()
    }
}

fn hash(instance: &Instance) -> blake3::Hash {
    blake3::hash(Value::Object(instance.fields.clone()).to_string().as_bytes())
}

/// The hash of some instances, in whatever order they are.
fn hash_of_all(instances: &[Instance]) -> String {
    let mut hashes: Vec<[u8; 32]> = instances.iter().map(|instance| *hash(instance).as_bytes()).collect();
    hashes.sort_unstable();
    blake3::hash(hashes.as_flattened()).to_hex()[..32].to_owned()
}

/// Winner against baseline on the instances that both answered.
fn versus(winner: &Trial, baseline: &Trial, objective: &Objective, seed: u64) -> Option<Versus> {
    let pairs = winner.pairs(baseline, &objective.metric);
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().map(|(_, winner, baseline)| (baseline, winner)).unzip();
    let found = compare::difference(&a, &b, settings::stream(seed, "signs"))?;
    Some(Versus {
        difference: found.difference,
        ci95: found.ci95,
        p_value: found.p_value,
        test: found.test,
        pairs: found.pairs,
        baseline_score: baseline.estimate(&objective.metric)?.mean,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_known_again_by_what_is_in_them() {
        let row = |id: u64| {
            let fields = serde_json::json!({"question": format!("q{id}"), "answer": id});
            Instance::new("any", fields.as_object().cloned().unwrap_or_default())
        };
        let rows = |ids: std::ops::Range<u64>| ids.map(row).collect::<Vec<_>>();
        let known = Known::of(&rows(0..5));
        assert_eq!([known.among(&rows(3..9)), known.among(&rows(5..9)), known.among(&rows(0..5))], [2, 0, 5]);
        let turned: Vec<Instance> = rows(0..5).into_iter().rev().collect();
        assert_eq!(hash_of_all(&rows(0..5)), hash_of_all(&turned));
        assert_ne!(hash_of_all(&rows(0..5)), hash_of_all(&rows(0..4)));
    }
}
