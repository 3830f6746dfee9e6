//! farthing

pub mod backend;
pub mod diagnostic;
pub mod money;
pub mod price;
pub mod prompt;
pub mod provider;
pub mod metric;
pub mod runner;
pub mod search;
pub mod serve;
pub mod space;
pub mod stats;
pub mod store;
pub mod task;

pub use diagnostic::{Error, Result};
pub use money::Usd;
