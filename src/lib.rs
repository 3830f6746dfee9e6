//! farthing

pub mod diagnostic;
pub mod money;
pub mod prompt;
pub mod provider;
pub mod metric;
pub mod search;
pub mod space;
pub mod stats;
pub mod store;
pub mod task;

pub use diagnostic::{Error, Result};
pub use money::Usd;
