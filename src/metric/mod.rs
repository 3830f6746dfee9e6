//! Metric functions: from (instance, responses) to named numbers; votes over n responses; programs of the user's.
//!
//! Every built-in is declared once, where it is written (a [`text::Judge`] with its options struct); [`declarations`],
//! the listing of `farthing metrics`, the JSON schema of a `[metrics.NAME]` table and the parser [`build`] come from
//! that. A metric of one's own is a closure in an [`FnMetric`], an implementation of [`Metric`], or a program that
//! speaks JSON lines (see [`command`]).

use std::collections::BTreeMap;

use crate::provider::Sample;
use crate::task::Instance;

pub mod bleu;
pub mod choice;
pub mod command;
pub mod declare;
pub mod exact;
pub mod function;
pub mod json;
pub mod length;
pub mod numeric;
pub mod overlap;
mod pool;
#[cfg(test)]
mod properties;
pub mod scores;
pub mod text;
pub mod vote;

pub use command::runs_a_program;
pub use declare::{Built, Declaration, Kind, OptionRow, Row, build, declarations, rows, schema};
pub use function::{FnMetric, IntoMetrics, judge};
pub use scores::{Names, Scores};
pub use vote::Vote;

/// Named results of one evaluation. Each is a finite number; a metric that has none returns an error instead.
pub type Metrics = BTreeMap<String, f64>;

/// A metric function. It never runs on the runtime's own threads, where it would keep the network waiting.
pub trait Metric: Send + Sync {
    /// Judges the n responses to one instance. An error, a panic or a number that is not finite makes this evaluation
    /// fail with that reason; it never ends the run.
    fn score(&self, instance: &Instance, responses: &[Sample]) -> Result<Metrics, String>;

    /// It takes a few microseconds: less than handing it to another thread.
    fn quick(&self) -> bool {
        false
    }
}
