//! Tasks: instances, splits, the objective, and metric tables as written (room `metric` reads them).

pub mod instance;
pub mod metric_table;

pub use instance::Instance;
pub use metric_table::MetricTable;
