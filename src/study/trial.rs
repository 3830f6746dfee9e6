//! Trials: what is known of each configuration, and whether production could afford it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::evaluate::Plan;
use crate::money::Usd;
use crate::prompt::tokens;
use crate::provider::FailureKind;
use crate::space::Configuration;
use crate::stats;
use crate::stats::racing::costs::{Bill, normal_cdf};
use crate::study::agenda::Finished;
use crate::study::production::{self, OutputPrior};
use crate::task::Instance;

/// Missing more of its instances than this for reasons of its own, a configuration cannot be best.
const TOLERATED_MISSING: f64 = 0.05;

/// One configuration and its evaluations so far.
pub struct Trial {
    /// Its number, in the order of first asking.
    pub number: usize,
    /// The configuration.
    pub configuration: Configuration,
    /// The configuration, ready to be asked.
    pub plan: Arc<Plan>,
    /// Its evaluations in the order of asking, refused ones left out.
    pub evaluations: Vec<Finished>,
    /// Why it is out of the race.
    pub dropped: Option<String>,
    /// The user's baseline.
    pub is_baseline: bool,
    /// Evaluations that did not fit the budget any more.
    pub refused: usize,
    /// Bounds on the input tokens of all tuning instances, where production costs are to be learnt.
    bounds: Option<Arc<Vec<u64>>>,
    /// What relatives say of its outputs.
    prior: Option<OutputPrior>,
}

/// What production would pay an instance on the average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Production {
    /// The mean, in dollars.
    pub mean: f64,
    /// The standard error of what is not known yet.
    pub error: f64,
    /// Evaluations that it rests on.
    pub seen: usize,
}

impl Production {
    /// As what was paid for so many instances.
    pub fn bill(&self) -> Bill {
        let count = self.seen.max(1);
        let squares = self.error * self.error * (count * (count - 1)) as f64;
        Bill { count, mean: self.mean, input: None, squares }
    }
}

impl Trial {
    /// A trial without evaluations.
    pub fn new(number: usize, configuration: Configuration, plan: Arc<Plan>, is_baseline: bool) -> Trial {
        Trial {
            number,
            configuration,
            plan,
            evaluations: Vec::new(),
            dropped: None,
            is_baseline,
            refused: 0,
            bounds: None,
            prior: None,
        }
    }

    /// The objective of every instance that was judged: (instance, value).
    pub fn scores<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = (usize, f64)> + 'a {
        self.evaluations.iter().filter_map(|done| Some((done.instance, *done.result.as_ref().ok()?.get(metric)?)))
    }

    /// The mean of the objective with its 95 % interval.
    pub fn estimate(&self, metric: &str) -> Option<stats::Estimate> {
        let values: Vec<f64> = self.scores(metric).map(|(_, value)| value).collect();
        stats::estimate(&values)
    }

    /// What this trial cost the study.
    pub fn cost(&self) -> Usd {
        self.evaluations.iter().map(|done| done.cost).sum()
    }

    /// The mean production cost of the instances that were answered.
    pub fn production_cost(&self) -> Option<Usd> {
        let costs: Vec<Usd> = self.evaluations.iter().filter_map(|done| done.production).collect();
        (!costs.is_empty()).then(|| Usd::mean(costs.iter().copied().sum(), costs.len() as u64))
    }

    /// Instances that are missing.
    pub fn missing(&self) -> usize {
        self.evaluations.iter().filter(|done| done.result.is_err()).count()
    }

    /// True where too much is missing for reasons of the configuration's own (context too long, filtered, refused).
    pub fn unreliable(&self) -> bool {
        let own = |done: &&Finished| done.result.as_ref().is_err_and(|failure| failure.kind.own());
        let own = self.evaluations.iter().filter(own).count();
        own as f64 > TOLERATED_MISSING * self.evaluations.len() as f64
    }

    /// Prepares learning of what production would pay: bounds on the input tokens of all tuning instances.
    pub fn watch_production(&mut self, instances: &[Instance], rendered: &mut RenderedInputs) {
        self.bounds = Some(rendered.of(&self.plan, instances));
    }

    /// What production would pay an instance, by the posterior (see [`production`]). `None` where nothing is known of it
    /// or of its relatives.
    pub fn production(&self) -> Option<Production> {
        production::production(self, self.bounds.as_deref().map(Vec::as_slice), self.prior)
    }

    /// Learns from its relatives among all trials what its outputs may be.
    pub fn learn(&mut self, prior: Option<OutputPrior>) {
        self.prior = prior;
    }

    /// The probability that its production cost is within an inference budget; `None` where nothing is known.
    pub fn affordable(&self, inference_budget: Usd) -> Option<f64> {
        // A hundredth of a picodollar of slack for the sums of floats.
        let left = |production: Production| inference_budget.as_f64() + 1e-14 - production.mean;
        self.production().map(|production| match production.error > 0.0 {
            true => normal_cdf(left(production) / production.error),
            false => f64::from(u8::from(left(production) >= 0.0)),
        })
    }

    /// Why it should be dropped now: production surely (at 97.5 %) could not afford it, as it or its siblings among all
    /// trials show.
    pub fn too_dear(&self, all: &[Trial], inference_budget: Usd) -> Option<String> {
        production::too_dear(self, self.bounds.as_deref().map(Vec::as_slice), all, inference_budget)
    }

    /// Why it cannot be best, where that is so.
    pub fn barred(&self, inference_budget: Option<Usd>) -> Option<String> {
        if let Some(reason) = &self.dropped {
            return Some(reason.clone());
        }
        if let Some(budget) = inference_budget
            && let Some(production) = self.production().filter(|_| self.affordable(budget).is_some_and(|p| p < 0.5))
        {
            return Some(format!(
                "about ${} an instance in production, over the inference budget of ${budget}",
                short(production.mean)
            ));
        }
        if self.unreliable() {
            let kinds: Vec<FailureKind> =
                self.evaluations.iter().filter_map(|done| Some(done.result.as_ref().err()?.kind)).collect();
            let kind = kinds.first().map_or(String::new(), |kind| format!(" ({kind})"));
            return Some(format!(
                "{} of {} instances are missing for reasons of its own{kind}",
                self.missing(),
                self.evaluations.len()
            ));
        }
        None
    }
}

/// Three significant digits of an amount.
pub fn short(dollars: f64) -> String {
    if dollars <= 0.0 || !dollars.is_finite() {
        return "0".to_owned();
    }
    let decimals = (2 - dollars.log10().floor() as i32).clamp(2, 12) as usize;
    let text = format!("{dollars:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Bounds on the input tokens of all tuning instances, worked out once for each rendered prompt.
#[derive(Default)]
pub struct RenderedInputs(HashMap<String, Arc<Vec<u64>>>);

impl RenderedInputs {
    fn of(&mut self, plan: &Plan, instances: &[Instance]) -> Arc<Vec<u64>> {
        let variables = serde_json::to_string(&plan.variables).unwrap_or_default();
        let key = format!("{}\n{}\n{variables}", plan.prompt.name, plan.service.chat);
        let bound = |instance: &Instance| plan.request(instance).map_or(0, |request| tokens::input_bound(&request));
        self.0.entry(key).or_insert_with(|| Arc::new(instances.iter().map(bound).collect())).clone()
    }
}
