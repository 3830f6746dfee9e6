//! A metric as written in `task.toml`: room `metric` makes a function of it.

use std::ops::Range;
use std::path::PathBuf;

use crate::declaration::{self, Table};
use crate::diagnostic::{Error, Result, Source};

/// A `[metrics.NAME]` table as it stands in its file.
#[derive(Clone, Debug)]
pub struct MetricTable {
    /// NAME.
    pub name: String,
    /// The file.
    pub source: Source,
    /// Where the table stands in it.
    pub span: Range<usize>,
    /// The task's folder: where a user's program runs.
    pub folder: PathBuf,
}

impl MetricTable {
    /// The table itself, with the spans of all its keys and values.
    pub fn table(&self) -> Result<Table<'_>> {
        let mut root = declaration::parse(&self.source)?;
        let metrics = declaration::take_table(&self.source, &mut root, "metrics")?;
        let table = match metrics {
            Some((_, mut metrics)) => declaration::take_table(&self.source, &mut metrics, &self.name)?,
            None => None,
        };
        table.map(|(_, table)| table).ok_or_else(|| Error::internal(format!("the table of metric `{}` is gone", self.name)))
    }
}
