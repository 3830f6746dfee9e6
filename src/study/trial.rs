//! Trials: what is known of each configuration, and whether production could afford it.

use std::collections::HashMap;
use std::sync::Arc;

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::evaluate::{Plan, Ranges};
use crate::metric::Scores;
use crate::money::Usd;
use crate::provider::tokens;
use crate::provider::{Failure, FailureKind};
use crate::space::Configuration;
use crate::stats;
use crate::stats::eprocess;
use crate::stats::racing::costs::Bill;
use crate::store::Fingerprint;
use crate::study::agenda::Finished;
use crate::study::production::{self, OutputPrior};
use crate::study::ranking::Against;
use crate::task::Instance;

/// What is kept of one evaluation to its end: there may be millions, so it is small, and what only the moment of telling
/// needs is not in it.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The metrics, or why there are none.
    pub result: Result<Scores, Box<Failure>>,
    /// What it cost the study.
    pub cost: Usd,
    production: Usd,
    instance: u32,
    prompt_tokens: u32,
    completion_tokens: u32,
    requests: u16,
    answered: bool,
}

impl Evaluation {
    /// Which instance.
    pub fn instance(&self) -> usize {
        self.instance as usize
    }

    /// What production would pay, where it was answered.
    pub fn production(&self) -> Option<Usd> {
        self.answered.then_some(self.production)
    }

    /// Input tokens of one request, where it was answered.
    pub fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens.into()
    }

    /// Output tokens of its n completions.
    pub fn completion_tokens(&self) -> u64 {
        self.completion_tokens.into()
    }

    /// Requests that were sent for it.
    pub fn requests(&self) -> u64 {
        self.requests.into()
    }
}

impl From<Finished> for Evaluation {
    fn from(finished: Finished) -> Evaluation {
        // No context window and no data set comes near four billion.
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Evaluation {
            result: finished.result.map_err(Box::new),
            cost: finished.cost,
            production: finished.production.unwrap_or(Usd::ZERO),
            instance: narrow(finished.instance as u64),
            prompt_tokens: narrow(finished.prompt_tokens),
            completion_tokens: narrow(finished.completion_tokens),
            requests: u16::try_from(finished.requests).unwrap_or(u16::MAX),
            answered: finished.production.is_some(),
        }
    }
}

/// One configuration and its evaluations so far.
pub struct Trial {
    /// Its number, in the order of first asking.
    pub number: usize,
    /// The configuration.
    pub configuration: Configuration,
    /// The configuration, ready to be asked.
    pub plan: Arc<Plan>,
    /// Its evaluations in the order of asking, refused ones left out.
    pub evaluations: Vec<Evaluation>,
    /// The fingerprints of their requests, where those are wanted at the end (see [`Trial::keep_with_fingerprint`]).
    pub fingerprints: Vec<Option<Fingerprint>>,
    /// Why it is out of the race.
    pub dropped: Option<String>,
    /// Too much of it is missing for reasons of its own: the search asks nothing more of it.
    pub given_up: bool,
    /// The user's baseline.
    pub is_baseline: bool,
    /// Evaluations that did not fit the budget any more.
    pub refused: usize,
    /// Bounds on the input tokens of all tuning instances, where production costs are to be learnt.
    bounds: Option<Arc<Vec<u64>>>,
    /// What relatives say of its outputs.
    prior: Option<OutputPrior>,
    /// What the metrics can be.
    ranges: Arc<Ranges>,
}

/// What production would pay an instance on the average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Production {
    /// The mean, in dollars.
    pub mean: f64,
    /// The part of it that is output.
    pub output: f64,
    /// The standard error of what is not known yet.
    pub error: f64,
    /// Evaluations that it rests on.
    pub seen: usize,
}

impl Production {
    /// As the bills of some answers alone say it, where neither the prompts of all `instances` nor any relative is known.
    pub fn billed(bills: &[Usd], instances: usize) -> Option<Production> {
        let mut bill = Bill::default();
        bills.iter().for_each(|cost| bill.add(*cost, None));
        let count = bill.count as f64;
        // Of one answer the spread is not known: as large as the mean.
        let variance = if bill.count > 1 { bill.squares / (count - 1.0) } else { bill.mean * bill.mean };
        let unseen = 1.0 - (count / instances.max(1) as f64).min(1.0);
        let error = (variance / count * unseen).sqrt();
        (bill.count > 0).then_some(Production { mean: bill.mean, output: bill.mean, error, seen: bill.count })
    }

    /// As what was paid for so many instances.
    pub fn bill(&self) -> Bill {
        let count = self.seen.max(1);
        let squares = self.error * self.error * (count * (count - 1)) as f64;
        Bill { count, mean: self.mean, input: None, squares }
    }

    /// The probability that it is within an inference budget.
    pub fn affordable(&self, inference_budget: Usd) -> f64 {
        let &Production { mean, output, error, seen } = self;
        let room = inference_budget.as_f64() - (mean - output);
        // Lengths have long tails, and few of them say little of how long: the logarithm of their mean, by Student's t.
        let freedom = seen.saturating_sub(1).max(1) as f64;
        match StudentsT::new(0.0, 1.0, freedom) {
            Ok(t) if error > 0.0 && output > 0.0 && room > 0.0 => t.cdf((room / output).ln() * output / error),
            _ => f64::from(u8::from(production::within(mean, inference_budget))),
        }
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
            fingerprints: Vec::new(),
            dropped: None,
            given_up: false,
            is_baseline,
            refused: 0,
            bounds: None,
            prior: None,
            ranges: Arc::default(),
        }
    }

    /// Learns what the metrics can be: intervals keep to that.
    pub fn know_ranges(&mut self, ranges: &Arc<Ranges>) {
        self.ranges = ranges.clone();
    }

    /// Keeps one more evaluation.
    pub fn keep(&mut self, finished: Finished) {
        self.evaluations.push(finished.into());
    }

    /// Keeps one more evaluation, and its request's fingerprint. Of one trial all are kept in the same way.
    pub fn keep_with_fingerprint(&mut self, finished: Finished) {
        self.fingerprints.push(finished.fingerprint);
        self.keep(finished);
    }

    /// The objective of every instance that was judged: (instance, value).
    pub fn scores<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = (usize, f64)> + 'a {
        self.evaluations.iter().filter_map(|done| Some((done.instance(), *done.result.as_ref().ok()?.get(metric)?)))
    }

    /// A metric on the instances that both this and another trial were judged on, in this one's order: (instance, this,
    /// other).
    pub fn pairs(&self, other: &Trial, metric: &str) -> Vec<(usize, f64, f64)> {
        let theirs: HashMap<usize, f64> = other.scores(metric).collect();
        let pair = |(instance, own)| Some((instance, own, *theirs.get(&instance)?));
        self.scores(metric).filter_map(pair).collect()
    }

    /// The mean of a metric with its 95 % interval, which keeps to what the metric can be.
    pub fn estimate(&self, metric: &str) -> Option<stats::Estimate> {
        let values: Vec<f64> = self.scores(metric).map(|(_, value)| value).collect();
        Some(stats::estimate(&values)?.within(self.ranges.of_metric(metric)))
    }

    /// What this trial cost the study.
    pub fn cost(&self) -> Usd {
        self.evaluations.iter().map(|done| done.cost).sum()
    }

    /// The mean production cost of the instances that were answered.
    pub fn production_cost(&self) -> Option<Usd> {
        let costs: Vec<Usd> = self.evaluations.iter().filter_map(Evaluation::production).collect();
        (!costs.is_empty()).then(|| Usd::mean(costs.iter().copied().sum(), costs.len() as u64))
    }

    /// Instances that are missing.
    pub fn missing(&self) -> usize {
        self.evaluations.iter().filter(|done| done.result.is_err()).count()
    }

    /// Why instances are missing for reasons of the configuration's own (context too long, filtered, refused).
    pub fn own_failures(&self) -> impl Iterator<Item = FailureKind> + '_ {
        let kind = |done: &Evaluation| Some(done.result.as_ref().err()?.kind);
        self.evaluations.iter().filter_map(kind).filter(|kind| kind.own())
    }

    /// True where too much is missing for such reasons.
    pub fn unreliable(&self) -> bool {
        stats::too_much_missing(self.own_failures().count(), self.evaluations.len())
    }

    /// True where the evidence of that reaches 10 (90 %), at any time of looking.
    pub fn surely_unreliable(&self) -> bool {
        let own = |done: &Evaluation| f64::from(u8::from(done.result.as_ref().is_err_and(|why| why.kind.own())));
        self.evaluations.last().is_some_and(|last| own(last) > 0.0) && {
            let missing: Vec<f64> = self.evaluations.iter().map(own).collect();
            eprocess::above(&missing, stats::TOLERATED_MISSING) >= 10_f64.ln()
        }
    }

    /// The search asks nothing more of it.
    pub fn out(&self) -> bool {
        self.given_up || self.dropped.is_some()
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

    /// Why it should be dropped now: production surely (at 97.5 %) could not afford it, as it or its siblings among all
    /// trials show.
    pub fn too_dear(&self, all: &[Trial], inference_budget: Usd) -> Option<String> {
        production::too_dear(self, self.bounds.as_deref().map(Vec::as_slice), all, inference_budget)
    }

    /// What may stand against it; `production` is what production would pay, where that matters.
    pub fn against(&self, production: Option<Production>) -> Against<'_> {
        Against {
            production,
            dropped: self.dropped.as_deref(),
            asked: self.evaluations.len(),
            own: self.own_failures().collect(),
        }
    }

    /// Why it cannot be best, where that is so.
    pub fn barred(&self, inference_budget: Option<Usd>) -> Option<String> {
        self.against(inference_budget.and_then(|_| self.production())).reason(inference_budget)
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
        let bound = |instance: &Instance| plan.request(instance).map_or(0, |request| tokens::input_bound(&request));
        self.0.entry(plan.rendering()).or_insert_with(|| Arc::new(instances.iter().map(bound).collect())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metrics;

    /// A million evaluations are a million of these.
    #[test]
    fn what_is_kept_of_an_evaluation_is_small_and_says_the_same() {
        assert!(size_of::<Evaluation>() <= 56, "{}", size_of::<Evaluation>());
        let usd = |pico| Usd::from_pico(pico);
        let answered = Finished {
            result: Ok(Metrics::from([("m".to_owned(), 0.5)]).into()),
            cost: usd(7),
            production: Some(usd(11)),
            prompt_tokens: 13,
            completion_tokens: u64::MAX,
            ..Finished::failed(3, 5, Failure::new(FailureKind::Timeout, "late"))
        };
        let kept = Evaluation::from(answered);
        assert_eq!((kept.instance(), kept.cost, kept.production()), (5, usd(7), Some(usd(11))));
        assert_eq!((kept.prompt_tokens(), kept.completion_tokens()), (13, u64::from(u32::MAX)));
        assert_eq!(kept.result.unwrap().get("m"), Some(&0.5));
        let failed = Evaluation::from(Finished::failed(3, 5, Failure::new(FailureKind::Timeout, "late")));
        assert_eq!((failed.production(), failed.result.unwrap_err().message.as_str()), (None, "late"));
    }
}
