//! What input costs, before anything was asked: every prompt rendered on the tuning instances, or where that is much text on
//! the first of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::evaluate::Plan;
use crate::evaluate::plan::CountedBy;
use crate::provider::tokens;
use crate::runner::Runner;
use crate::search::InputPrice;
use crate::space::{Configuration, Space};
use crate::stats::racing::costs::Input;
use crate::study::production::moments;
use crate::task::Instance;

/// A prompt is rendered on so many instances at least,
const SAMPLE: usize = 24;
/// and on more until that makes so many bytes: counting tokens takes its time.
const BYTES: u64 = 1 << 16;

/// The prices of prompts, worked out once for each.
pub struct InputPrices {
    space: Arc<Space>,
    instances: Arc<[Instance]>,
    order: Arc<Vec<usize>>,
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
    pub fn new(space: Arc<Space>, instances: Arc<[Instance]>, order: Arc<Vec<usize>>) -> Arc<InputPrices> {
        Arc::new(InputPrices { space, instances, order, runner: OnceLock::new(), known: Mutex::default() })
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
        Some(Input { dollars: plan.input_dollars(tokens.mean), counted: tokens.counted, error: tokens.error })
    }

    fn tokens(&self, plan: &Plan) -> Option<Tokens> {
        let key = plan.counting();
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return *known;
        }
        let (mut counts, mut bytes) = (Vec::new(), 0);
        for request in self.order.iter().filter_map(|&at| plan.request(&self.instances[at]).ok()) {
            if counts.len() >= SAMPLE && bytes >= BYTES {
                break;
            }
            bytes += tokens::input_bound(&request);
            counts.push(plan.input_tokens(&request));
        }
        let sure = counts.iter().all(|count| count.counted == CountedBy::Biller);
        let values: Vec<f64> = counts.iter().map(|count| count.tokens as f64).collect();
        let (count, mean, variance) = moments(&values);
        let unseen = 1.0 - count / (self.order.len() as f64).max(count);
        let tokens = (count > 0.0 && mean > 0.0).then(|| Tokens {
            mean,
            counted: if sure { values.len() } else { 0 },
            error: (variance / count * unseen).sqrt() / mean,
        });
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, tokens);
        tokens
    }
}
