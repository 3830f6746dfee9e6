//! Prompts: templates and how they are rendered; counting tokens.

pub mod choice;
pub mod template;
pub mod tokens;

pub use choice::{Body, Prompt};
pub use template::{Context, Fields, Template};
