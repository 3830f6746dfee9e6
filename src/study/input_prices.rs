//! What input costs, before anything was asked: every prompt rendered on a sample of the tuning instances.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::evaluate::Plan;
use crate::evaluate::plan::CountedBy;
use crate::runner::Runner;
use crate::search::InputPrice;
use crate::space::{Configuration, Space};
use crate::stats::racing::costs::Input;
use crate::study::production::moments;
use crate::task::Instance;

/// Instances that a prompt is rendered on.
const SAMPLE: usize = 24;

/// The prices of prompts, worked out once for each.
pub struct InputPrices {
    space: Arc<Space>,
    sample: Vec<Instance>,
    /// How many there are in all.
    instances: usize,
    runner: OnceLock<Weak<Runner>>,
    /// Tokens of a prompt by what it is rendered from.
    known: Mutex<HashMap<String, Option<Tokens>>>,
}

/// The tokens of a prompt, as [`Input`] has its dollars.
#[derive(Clone, Copy)]
struct Tokens {
    mean: f64,
    counted: usize,
    error: f64,
}

impl InputPrices {
    /// Prices over the first instances of the study's order.
    pub fn new(space: Arc<Space>, instances: &[Instance], order: &[usize]) -> Arc<InputPrices> {
        let sample = order.iter().take(SAMPLE).map(|&at| instances[at].clone()).collect();
        Arc::new(InputPrices {
            space,
            sample,
            instances: order.len(),
            runner: OnceLock::new(),
            known: Mutex::default(),
        })
    }

    /// From now on models are looked up here.
    pub fn open(&self, runner: &Arc<Runner>) {
        // Opened once; a second time would say the same.
        let _ = self.runner.set(Arc::downgrade(runner));
    }

    /// As strategies ask for it.
    pub fn price(self: Arc<Self>) -> InputPrice {
        Arc::new(move |configuration| self.of(configuration))
    }

    fn of(&self, configuration: &Configuration) -> Option<Input> {
        let runner = self.runner.get()?.upgrade()?;
        let plan = Plan::new(&self.space, configuration, &runner).ok()?;
        let tokens = self.tokens(&plan)?;
        let price = plan.service.price.at(tokens.mean.round() as u64);
        let dollars = tokens.mean * price.input.as_f64() * plan.prompts() as f64;
        Some(Input { dollars, counted: tokens.counted, error: tokens.error })
    }

    fn tokens(&self, plan: &Plan) -> Option<Tokens> {
        let key = format!("{}\n{}", plan.service.model.name, plan.rendering());
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return *known;
        }
        let requests = self.sample.iter().filter_map(|instance| plan.request(instance).ok());
        let counts: Vec<_> = requests.map(|request| plan.input_tokens(&request)).collect();
        let sure = counts.iter().all(|count| count.counted == CountedBy::Biller);
        let values: Vec<f64> = counts.iter().map(|count| count.tokens as f64).collect();
        let (count, mean, variance) = moments(&values);
        let unseen = 1.0 - count / (self.instances as f64).max(count);
        let tokens = (count > 0.0 && mean > 0.0).then(|| Tokens {
            mean,
            counted: if sure { values.len() } else { 0 },
            error: (variance / count * unseen).sqrt() / mean,
        });
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, tokens);
        tokens
    }
}
