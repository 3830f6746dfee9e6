//! Tasks: instances, splits, the objective, and metric tables as written (room `metric` reads them).

pub mod data;
pub mod file;
pub mod instance;
pub mod metric_table;
#[cfg(feature = "parquet")]
pub mod parquet;

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

/// The metric that decides, and which way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objective {
    /// Its name.
    pub metric: String,
    /// Which way is better.
    pub direction: Direction,
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
