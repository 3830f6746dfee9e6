//! Tasks: instances, splits, the objective, and metric tables as written (room `metric` reads them).

pub mod data;
pub mod file;
pub mod instance;
pub mod metric_table;
mod objective_section;
#[cfg(feature = "parquet")]
pub mod parquet;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use file::load;
pub use instance::Instance;
pub use metric_table::MetricTable;

use crate::diagnostic::Source;

/// Whether more of the objective is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// More is better.
    #[default]
    Maximize,
    /// Less is better.
    Minimize,
}

impl Direction {
    /// The value as a search sees it: larger is better.
    pub fn gain(self, value: f64) -> f64 {
        match self {
            Direction::Maximize => value,
            Direction::Minimize => -value,
        }
    }
}

/// What decides, and which way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// The name of the metric, or of the weighted sum.
    pub metric: String,
    /// Which way is better.
    pub direction: Direction,
    /// Where a weighted sum of metrics decides: their weights. Else empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// What decides among configurations that the metric does not tell apart, the most important first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Then>,
    /// How much of the metric may be given up for what comes in `then`; absent: only what cannot be told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// The lowest and the highest value, where the user says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
}

/// A metric that decides after the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Then {
    /// Its name.
    pub metric: String,
    /// Which way is better.
    pub direction: Direction,
    /// How far from the best of it counts as equal.
    pub tolerance: f64,
}

/// The two parts of a task's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What a search learns from.
    Tune,
    /// What it never sees.
    Test,
}

/// A task: what is to be done well.
#[derive(Clone, Debug)]
pub struct Task {
    /// Names runs and, where none is given, the space's file.
    pub name: String,
    /// For people.
    pub description: String,
    /// Where it stands: paths and programs of the task are relative to it.
    pub folder: PathBuf,
    /// What a search learns from.
    pub tune: Arc<[Instance]>,
    /// What it never sees.
    pub test: Arc<[Instance]>,
    /// What decides.
    pub objective: Objective,
    /// The metrics as written; empty where they are Rust functions.
    pub metrics: Vec<MetricTable>,
    /// The column that names an instance; else its row number.
    pub id: Option<String>,
    /// The column whose values are spread evenly over the order of looking.
    pub stratify: Option<String>,
    /// The file it was read from.
    pub source: Option<Source>,
    /// Where the objective's metric is named in it.
    pub objective_span: Range<usize>,
    /// Every metric that the objective needs, and where it is named.
    pub objective_names: Vec<(String, Range<usize>)>,
}

impl Task {
    /// The instances of a split.
    pub fn split(&self, split: Split) -> Arc<[Instance]> {
        match split {
            Split::Tune => self.tune.clone(),
            Split::Test => self.test.clone(),
        }
    }
}
