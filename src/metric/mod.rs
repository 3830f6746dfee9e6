//! Metric functions: from (instance, responses) to named numbers; votes over n responses; programs of the user's.

use std::collections::BTreeMap;

use crate::provider::Sample;
use crate::task::Instance;

/// Named results of one evaluation. Each is a finite number; a metric that has none returns an error instead.
pub type Metrics = BTreeMap<String, f64>;

/// A metric function. It runs on rayon's threads, never on the runtime's.
pub trait Metric: Send + Sync {
    /// Judges the n responses to one instance. An error, a panic or a number that is not finite makes this evaluation
    /// fail with that reason; it never ends the run.
    fn score(&self, instance: &Instance, responses: &[Sample]) -> Result<Metrics, String>;
}
