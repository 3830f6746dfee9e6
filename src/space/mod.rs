//! Search spaces: parameters, conditions, constraints, sampling, encoding for models.

pub mod configuration;

pub use configuration::Configuration;
