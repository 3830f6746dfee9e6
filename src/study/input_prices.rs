//! What input costs, before anything was asked: every prompt rendered on a sample of the tuning instances.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::evaluate::Plan;
use crate::prompt::tokens;
use crate::runner::Runner;
use crate::search::InputPrice;
use crate::space::{Configuration, Space};
use crate::stats::racing::costs::Input;
use crate::study::production::TOKENS_A_BYTE;
use crate::task::Instance;

/// Instances that a prompt is rendered on.
const SAMPLE: usize = 24;

/// The prices of prompts, worked out once for each.
pub struct InputPrices {
    space: Arc<Space>,
    sample: Vec<Instance>,
    runner: OnceLock<Weak<Runner>>,
    /// Tokens of a prompt by what it is rendered from.
    known: Mutex<HashMap<String, Option<Tokens>>>,
}

#[derive(Clone, Copy)]
struct Tokens {
    mean: f64,
    exact: bool,
}

impl InputPrices {
    /// Prices over the first instances of the study's order.
    pub fn new(space: Arc<Space>, instances: &[Instance], order: &[usize]) -> Arc<InputPrices> {
        let sample = order.iter().take(SAMPLE).map(|&at| instances[at].clone()).collect();
        Arc::new(InputPrices { space, sample, runner: OnceLock::new(), known: Mutex::default() })
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
        Some(Input { dollars: tokens.mean * price.input.as_f64() * plan.prompts() as f64, exact: tokens.exact })
    }

    fn tokens(&self, plan: &Plan) -> Option<Tokens> {
        let variables = serde_json::to_string(&plan.variables).ok()?;
        let key = format!("{}\n{}\n{variables}", plan.service.model.name, plan.prompt.name);
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return *known;
        }
        let (mut sum, mut count, mut exact) = (0.0, 0.0, true);
        for request in self.sample.iter().filter_map(|instance| plan.request(instance).ok()) {
            let counted = tokens::input_count(&request);
            exact &= counted.is_some();
            sum += counted.map_or_else(|| tokens::input_bound(&request) as f64 * TOKENS_A_BYTE, |count| count as f64);
            count += 1.0;
        }
        let tokens = (count > 0.0).then(|| Tokens { mean: sum / count, exact });
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, tokens);
        tokens
    }
}
