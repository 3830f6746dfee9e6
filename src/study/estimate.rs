//! What evaluations will cost, before a cent is spent: every prompt rendered on a sample of instances, input counted as it
//! will be billed where the tokenizer is known, output between nothing and `max_tokens`, or as earlier answers were.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};

use crate::batch::rounds;
use crate::diagnostic::{Error, Result};
use crate::evaluate::Plan;
use crate::evaluate::plan::{CountedBy, InputTokens};
use crate::money::Usd;
use crate::provider::Request;
use crate::runner::Runner;
use crate::search::simulate::{Reply, drive};
use crate::search::{Outcome, Problem, Strategy};
use crate::space::{Configuration, Space};
use crate::study::settings;
use crate::task::Instance;

/// How input tokens were counted, from the surest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// As it was billed: the answer is in the store, or recorded.
    Billed,
    /// By the model's own tokenizer.
    Tokenizer,
    /// A quarter of the bytes: the tokenizer is not known.
    Bytes,
}

/// What the length of completions is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Answers to this configuration's own requests.
    Own,
    /// Answers to the same prompt and model under other settings.
    SamePrompt,
    /// Answers of the same model to other prompts.
    SameModel,
    /// Nothing: only `max_tokens` or the model's limit is known.
    Limit,
}

/// Dollars: at least, probably, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// With completions of one token.
    #[serde(rename = "low_usd")]
    pub low: Usd,
    /// With completions as long as earlier ones, where there are any.
    #[serde(rename = "expected_usd")]
    pub expected: Option<Usd>,
    /// With completions as long as they may be; absent where nothing bounds them.
    #[serde(rename = "high_usd")]
    pub high: Option<Usd>,
}

impl Span {
    const ZERO: Span = Span { low: Usd::ZERO, expected: Some(Usd::ZERO), high: Some(Usd::ZERO) };

    fn map(self, f: impl Fn(Usd) -> Usd) -> Span {
        Span { low: f(self.low), expected: self.expected.map(&f), high: self.high.map(&f) }
    }

    fn plus(self, other: Span) -> Span {
        let both = |a: Option<Usd>, b: Option<Usd>| Some(a? + b?);
        Span {
            low: self.low + other.low,
            expected: both(self.expected, other.expected),
            high: both(self.high, other.high),
        }
    }
}

/// One configuration's price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Priced {
    /// The configuration.
    pub config: Configuration,
    /// Its short name.
    pub id: String,
    /// The mean of the input tokens of one request.
    pub input_tokens: f64,
    /// The fewest and the most input tokens of a request of the sample.
    pub input_range: [u64; 2],
    /// How they were counted; the least sure of the sample.
    pub counted: Counted,
    /// Completions of an instance.
    pub n: u32,
    /// The most output tokens of one completion, where something bounds it.
    pub output_limit: Option<u64>,
    /// The mean output tokens of one completion, where earlier answers tell.
    pub output_tokens: Option<f64>,
    /// What that is taken from.
    pub basis: Basis,
    /// Instances of the sample that cannot be answered (a prompt that cannot be rendered, no recorded answer).
    pub unanswerable: usize,
    /// The price of one instance.
    pub per_instance: Span,
    /// The price of all instances.
    pub evaluation: Span,
}

/// The prices of a space, or of a sample of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Instances that an evaluation of a configuration looks at.
    pub instances: usize,
    /// Those that prompts were rendered on.
    pub sampled_instances: usize,
    /// At the price of batch APIs.
    #[serde(default)]
    pub by_batch: bool,
    /// How many configurations there are, where that is finite and not beyond counting.
    pub space_size: Option<usize>,
    /// The configurations that were priced, the cheapest first: all of them, or a seeded sample.
    pub configurations: Vec<Priced>,
    /// The price of all configurations on all instances, where all were priced; samples that several share count once.
    pub grid: Option<Span>,
}

/// What a budget buys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Purchase {
    /// Configurations tried.
    pub configurations: usize,
    /// Evaluations (configuration, instance).
    pub evaluations: usize,
    /// What they cost.
    #[serde(rename = "cost_usd")]
    pub cost: Usd,
    /// Everything there is was bought, and money is left.
    pub everything: bool,
    /// The search was gone through only as far as [`SIMULATED`] evaluations, and the rest of the budget counted at their
    /// mean price: there may be more configurations.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_proportion: bool,
}

/// The input tokens of each request of the sample, and how they were counted; `None` where it cannot be rendered.
type Counts = Arc<Vec<Option<(u64, Counted)>>>;

/// Looks at prompts, prices and the store.
pub struct Estimator<'a> {
    space: Option<&'a Space>,
    runner: &'a Runner,
    instances: Arc<[Instance]>,
    /// The instances that prompts are rendered on.
    sample: Vec<usize>,
    /// Input tokens by prompt, variables and model.
    inputs: HashMap<String, Counts>,
    /// Output tokens and completions seen, by model and by model and prompt.
    seen: BTreeMap<(String, Option<String>), (u64, u64)>,
    /// Whose completions are in there.
    heard: HashSet<String>,
    by_batch: bool,
}

/// What is known of one configuration before the length of its completions is settled.
struct Measured {
    plan: Plan,
    /// For each instance of the sample: input tokens, how counted, and, where it is recorded, what it will be billed.
    requests: Vec<Option<Known>>,
    /// Output tokens and completions of its own that are known.
    own: (u64, u64),
    limit: Option<u64>,
    several: bool,
}

struct Known {
    input: u64,
    counted: Counted,
    /// Recorded: the bill of all n completions.
    bill: Option<Usd>,
}

/// What simulated evaluations cost.
#[derive(Clone, Copy)]
struct Quote {
    prompt: Usd,
    each: Usd,
    /// What it is held at before it is bought.
    held: Usd,
    /// All of an instance, nothing of which was bought before.
    whole: Usd,
    n: u32,
    several: bool,
}

impl<'a> Estimator<'a> {
    /// For these instances, of which at most `sample` are rendered: all, or a seeded choice in the study's own `order`.
    pub fn new(
        space: Option<&'a Space>,
        runner: &'a Runner,
        instances: Arc<[Instance]>,
        order: &[usize],
        sample: usize,
    ) -> Estimator<'a> {
        let sample = order.iter().take(sample.max(1)).copied().collect();
        Estimator {
            space,
            runner,
            instances,
            sample,
            inputs: HashMap::new(),
            seen: BTreeMap::new(),
            heard: HashSet::new(),
            by_batch: false,
        }
    }

    /// At the price of batch APIs, where requests are bought so.
    #[must_use]
    pub fn by_batch(self, by_batch: bool) -> Self {
        Estimator { by_batch, ..self }
    }

    /// The prices of a space: of all its configurations where there are at most `most`, else of a seeded sample.
    pub fn space(&mut self, seed: u64, most: usize) -> Result<Estimate> {
        let space = self.space.ok_or_else(|| Error::internal("there is no space to estimate"))?;
        let (all, list) = match space.enumerate(most) {
            Ok(all) => (true, all),
            Err(_) => (false, drawn(space, seed, most)),
        };
        let space_size = if all { Some(list.len()) } else { space.size().and_then(|size| usize::try_from(size).ok()) };
        let plans = list.iter().map(|configuration| Plan::new(space, configuration, self.runner));
        let measured = plans.map(|plan| self.measure(plan?)).collect::<Result<Vec<_>>>()?;
        let mut estimate = self.settle(&measured);
        estimate.space_size = space_size;
        if all {
            estimate.grid = Some(self.grid(&measured));
        }
        Ok(estimate)
    }

    /// The price of one plan.
    pub fn plan(&mut self, plan: Plan) -> Result<Estimate> {
        let measured = [self.measure(plan)?];
        let mut estimate = self.settle(&measured);
        estimate.space_size = Some(1);
        Ok(estimate)
    }

    fn settle(&self, measured: &[Measured]) -> Estimate {
        let mut configurations: Vec<Priced> = measured.iter().map(|one| self.priced(one)).collect();
        configurations.sort_by_cached_key(|one| {
            (one.evaluation.expected.or(one.evaluation.high).unwrap_or(one.evaluation.low), one.config.key())
        });
        Estimate {
            instances: self.instances.len(),
            sampled_instances: self.sample.len(),
            by_batch: self.by_batch,
            space_size: None,
            configurations,
            grid: None,
        }
    }

    /// Renders a plan on the sample, counts, and looks at what the store and recordings know.
    fn measure(&mut self, plan: Plan) -> Result<Measured> {
        let requests: Vec<Option<Request>> =
            self.sample.iter().map(|&at| plan.request(&self.instances[at]).ok()).collect();
        let counts = self.counts(&plan, &requests);
        let prints: Vec<_> = requests.iter().flatten().map(|request| plan.service.fingerprint(request)).collect();
        let mut stored = self.runner.store().stored_many(&prints)?.into_iter();
        let (mut known, mut own) = (Vec::new(), (0, 0));
        for (request, counted) in requests.iter().zip(counts.iter()) {
            let (Some(request), Some((input, counted))) = (request, counted) else {
                known.push(None);
                continue;
            };
            let stored = stored.next().unwrap_or_default();
            if let Some(foretold) = plan.service.foretell(request) {
                known.push(foretold.as_ref().ok().map(|response| {
                    own = (own.0 + response.completion_tokens(), own.1 + response.samples.len() as u64);
                    let bill = Some(plan.service.bill_of(&foretold, 0));
                    Known { input: response.prompt_tokens, counted: Counted::Billed, bill }
                }));
                continue;
            }
            let mut one = Known { input: *input, counted: *counted, bill: None };
            if let Some(first) = stored.purchases.first() {
                (one.input, one.counted) = (first.response.prompt_tokens, Counted::Billed);
                stored.samples().for_each(|sample| own = (own.0 + sample.completion_tokens, own.1 + 1));
            }
            known.push(Some(one));
        }
        let model = plan.service.model.name.clone();
        // Configurations that differ only in n have the same completions.
        let new = self.heard.insert(plan.configuration.family());
        for key in [(model.clone(), None), (model, Some(plan.prompt.name.clone()))].into_iter().filter(|_| new) {
            let sums = self.seen.entry(key).or_default();
            *sums = (sums.0 + own.0, sums.1 + own.1);
        }
        let first = requests.iter().flatten().next();
        let limit = first.and_then(|request| plan.service.output_limit(request));
        let several = first.is_none_or(|request| plan.service.several(request));
        Ok(Measured { requests: known, own, limit, several, plan })
    }

    /// Input tokens of each request, counted once for each rendered text.
    fn counts(&mut self, plan: &Plan, requests: &[Option<Request>]) -> Counts {
        let count = |request: &Option<Request>| {
            let InputTokens { tokens, counted } = plan.input_tokens(request.as_ref()?);
            Some((tokens, if counted == CountedBy::Bytes { Counted::Bytes } else { Counted::Tokenizer }))
        };
        self.inputs.entry(plan.counting()).or_insert_with(|| Arc::new(requests.iter().map(count).collect())).clone()
    }

    /// The mean length of a completion, and what it is taken from.
    fn output(&self, of: &Measured) -> (Option<f64>, Basis) {
        let mean = |(tokens, completions): (u64, u64)| (completions > 0).then(|| tokens as f64 / completions as f64);
        let model = of.plan.service.model.name.clone();
        let pool = |prompt: Option<String>| self.seen.get(&(model.clone(), prompt)).copied().and_then(mean);
        let (found, basis) = if let Some(own) = mean(of.own) {
            (own, Basis::Own)
        } else if let Some(same) = pool(Some(of.plan.prompt.name.clone())) {
            (same, Basis::SamePrompt)
        } else if let Some(same) = pool(None) {
            (same, Basis::SameModel)
        } else {
            return (None, Basis::Limit);
        };
        (Some(of.limit.map_or(found, |limit| found.min(limit as f64))), basis)
    }

    fn quote(&self, of: &Measured, request: &Known, output: f64) -> Quote {
        let service = &of.plan.service;
        let batch = rounds::price(&service.model).filter(|_| self.by_batch);
        let price = batch.unwrap_or(service.price).at(request.input);
        // Tokens are whole: a thousandth of one is near enough to money in picodollars.
        let each = price.output.scale_up((output * 1000.0).ceil().max(0.0) as u64, 1000);
        let prompt = price.input.times(request.input);
        Quote {
            prompt,
            each,
            held: Usd::ZERO,
            whole: prompt.times(of.plan.prompts()) + each.times(u64::from(of.plan.n)),
            n: of.plan.n,
            several: of.several,
        }
    }

    /// The price of an instance of the sample.
    fn span(&self, of: &Measured, request: &Known, output: Option<f64>) -> Span {
        if let Some(bill) = request.bill {
            return Span { low: bill, expected: Some(bill), high: Some(bill) };
        }
        let with = |output: f64| self.quote(of, request, output).whole;
        Span { low: with(1.0), expected: output.map(with), high: of.limit.map(|limit| with(limit as f64)) }
    }

    fn priced(&self, of: &Measured) -> Priced {
        let (output, basis) = self.output(of);
        let known: Vec<&Known> = of.requests.iter().flatten().collect();
        let sum = known.iter().fold(Span::ZERO, |sum, request| sum.plus(self.span(of, request, output)));
        let count = known.len() as u64;
        let per_instance = if count == 0 { Span::ZERO } else { sum.map(|sum| Usd::mean(sum, count)) };
        let answerable = share(self.instances.len() as u64, count, of.requests.len() as u64);
        let inputs = || known.iter().map(|request| request.input);
        Priced {
            config: of.plan.configuration.clone(),
            id: of.plan.configuration.short_id(),
            input_tokens: inputs().sum::<u64>() as f64 / count.max(1) as f64,
            input_range: [inputs().min().unwrap_or(0), inputs().max().unwrap_or(0)],
            counted: known.iter().map(|request| request.counted).max().unwrap_or(Counted::Bytes),
            n: of.plan.n,
            output_limit: of.limit,
            output_tokens: output,
            basis,
            unanswerable: of.requests.len() - known.len(),
            // The sum over the sample in proportion, so that a whole sample gives the exact sum.
            evaluation: match count {
                0 => Span::ZERO,
                count => sum.map(|sum| sum.scale_up(answerable, count)),
            },
            per_instance,
        }
    }

    /// The price of everything: configurations that differ only in n share samples, from the smallest n on.
    fn grid(&self, measured: &[Measured]) -> Span {
        let mut families: BTreeMap<String, Vec<&Measured>> = BTreeMap::new();
        for one in measured {
            families.entry(one.plan.configuration.family()).or_default().push(one);
        }
        let mut total = Span::ZERO;
        for family in families.values_mut() {
            family.sort_by_key(|one| one.plan.n);
            let Some(last) = family.last() else { continue };
            let whole = self.priced(last).evaluation;
            total = total.plus(whole);
            if !last.several || last.requests.iter().flatten().any(|request| request.bill.is_some()) {
                continue;
            }
            // Each further n pays the prompt again; one completion of no tokens is the prompt alone.
            for request in last.requests.iter().flatten() {
                let again = self.quote(last, request, 0.0).prompt.times(family.len() as u64 - 1);
                let again = again.scale_up(self.instances.len() as u64, last.requests.len() as u64);
                total = total.plus(Span { low: again, expected: Some(again), high: Some(again) });
            }
        }
        total
    }

    /// Lets a strategy search with made-up scores at the estimated prices, until the budget ends. `worst`: every completion
    /// is as long as it may be; else as long as is expected. `None` where that is not known. `watch` is told how many
    /// evaluations were gone through.
    pub fn buys(
        &mut self,
        strategy: &mut dyn Strategy,
        problem: &Problem,
        worst: bool,
        seed: u64,
        watch: &dyn Fn(usize),
    ) -> Result<Option<Purchase>> {
        let (Some(space), Some(budget)) = (self.space, problem.budget) else { return Ok(None) };
        let mut quotes: HashMap<String, Option<Quote>> = HashMap::new();
        let mut bought: HashMap<(String, usize), u32> = HashMap::new();
        let (mut spent, mut evaluations, mut refused, mut failure) = (Usd::ZERO, 0, false, None);
        let mut tried = HashSet::new();
        let ended = drive(strategy, problem, SIMULATED, |trial, configuration, instance| {
            let missing = Reply { outcome: Outcome::Missing, cost: Usd::ZERO, drop: false };
            let quote = *quotes.entry(configuration.key()).or_insert_with(|| {
                let measured = Plan::new(space, configuration, self.runner).and_then(|plan| self.measure(plan));
                measured
                    .map_err(|error| failure = Some(error))
                    .ok()
                    .and_then(|measured| self.mean_quote(&measured, worst))
            });
            let Some(quote) = quote else {
                refused = true;
                return Reply { outcome: Outcome::Refused, ..missing };
            };
            let known = bought.entry((configuration.family(), instance)).or_insert(0);
            let lacking = u64::from(quote.n.saturating_sub(*known));
            let prompts = if quote.several { u64::from(lacking > 0) } else { lacking };
            let cost = quote.prompt.times(prompts) + quote.each.times(lacking);
            if spent + cost.max(if lacking > 0 { quote.held } else { Usd::ZERO }) > budget {
                refused = true;
                return Reply { outcome: Outcome::Refused, ..missing };
            }
            *known = (*known).max(quote.n);
            spent += cost;
            evaluations += 1;
            watch(evaluations);
            tried.insert(trial);
            let score = made_up_score(configuration, instance, seed);
            Reply { outcome: Outcome::Scored { score, production: quote.whole, input: None }, cost, drop: false }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let priced = !quotes.is_empty() && quotes.values().all(Option::is_some);
        let mut purchase = Purchase {
            configurations: tried.len(),
            evaluations,
            cost: spent,
            // What ends with nearly nothing left ends for want of money.
            everything: !refused && ended.is_ok() && spent.as_f64() < 0.9 * budget.as_f64(),
            in_proportion: false,
        };
        // Gone through far enough: what is left buys at the mean price so far.
        if ended.is_err() && evaluations >= SIMULATED / 2 && spent > Usd::ZERO {
            let all = space.size().and_then(|size| size.checked_mul(problem.instances as u128));
            let more = (evaluations as f64 * budget.as_f64() / spent.as_f64()) as usize;
            purchase.evaluations = all.and_then(|all| usize::try_from(all).ok()).map_or(more, |all| more.min(all));
            purchase.cost = if purchase.evaluations == more {
                budget
            } else {
                spent.scale_up(purchase.evaluations as u64, evaluations as u64)
            };
            purchase.in_proportion = true;
            return Ok(priced.then_some(purchase));
        }
        Ok((ended.is_ok() && priced).then_some(purchase))
    }

    /// The mean price of an instance, as a strategy's evaluations are charged.
    fn mean_quote(&self, of: &Measured, worst: bool) -> Option<Quote> {
        let known: Vec<&Known> = of.requests.iter().flatten().collect();
        let count = known.len() as u64;
        let (output, _) = self.output(of);
        let output = if worst { of.limit? as f64 } else { output? };
        let mean = |f: &dyn Fn(&Known) -> Usd| Usd::mean(known.iter().map(|request| f(request)).sum(), count);
        if count == 0 {
            return None;
        }
        if known.iter().all(|request| request.bill.is_some()) {
            let each = mean(&|request| request.bill.unwrap_or_default());
            return Some(Quote { prompt: each, each: Usd::ZERO, held: each, whole: each, n: of.plan.n, several: true });
        }
        let bound = |request: &Known| match of.limit {
            Some(limit) => self.quote(of, request, limit as f64).whole,
            None => Usd::ZERO,
        };
        Some(Quote {
            prompt: mean(&|request| self.quote(of, request, output).prompt),
            each: mean(&|request| self.quote(of, request, output).each),
            held: mean(&bound),
            whole: mean(&|request| self.quote(of, request, output).whole),
            n: of.plan.n,
            several: of.several,
        })
    }
}

/// More evaluations are not gone through: what a search does next is worked out from all that it saw, which takes the
/// longer the more that is.
const SIMULATED: usize = 1_000;

fn share(of: u64, part: u64, whole: u64) -> u64 {
    if part == whole { of } else { (of as f64 * part as f64 / whole.max(1) as f64).round() as u64 }
}

/// Distinct configurations, the baseline among them, from a seed.
fn drawn(space: &Space, seed: u64, most: usize) -> Vec<Configuration> {
    let mut rng = ChaCha12Rng::seed_from_u64(settings::stream(seed, "estimate"));
    let mut list: Vec<Configuration> = space.baseline.iter().cloned().collect();
    let mut keys: HashSet<String> = list.iter().map(Configuration::key).collect();
    for _ in 0..most.saturating_mul(4) {
        if list.len() >= most {
            break;
        }
        let Some(configuration) = space.sample(&mut rng) else { break };
        if keys.insert(configuration.key()) {
            list.push(configuration);
        }
    }
    list
}

/// A score that is good for nothing but to let a strategy go its way: each configuration has a level, each instance a
/// difficulty, both from hashes.
fn made_up_score(configuration: &Configuration, instance: usize, seed: u64) -> f64 {
    let unit = |text: &str| settings::stream(seed, text) as f64 / i64::MAX as f64;
    let (level, hardness) = (unit(&configuration.key()), unit(&format!("instance {instance}")));
    f64::from(u8::from(0.3 + 0.4 * level > hardness))
}
