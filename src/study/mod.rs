//! Studies.
pub mod pipeline;
pub mod trial;
