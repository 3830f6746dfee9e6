//! Prompts: templates and how they are rendered; counting tokens.

pub mod template;

pub use template::{Context, Fields, Template};
