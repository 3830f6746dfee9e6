//! One (configuration, instance) becomes a rendered request, responses, and metrics.

pub mod capability;
pub mod plan;
pub mod served;
pub mod workload;

pub use plan::Plan;
pub use served::Served;
pub use workload::{Ranges, TaskBuilder, Workload};
