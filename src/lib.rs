//! farthing

pub mod backend;
pub mod declaration;
pub mod diagnostic;
pub mod evaluate;
pub mod event;
pub mod metric;
pub mod money;
pub mod price;
pub mod prompt;
pub mod provider;
pub mod report;
pub mod runner;
pub mod search;
pub mod serve;
pub mod space;
pub mod stats;
pub mod store;
pub mod study;
pub mod task;

pub use diagnostic::{Error, Result};
pub use evaluate::{TaskBuilder, Workload};
pub use money::Usd;
pub use provider::Sample;
