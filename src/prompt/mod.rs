//! Prompts: templates and how they are rendered.

pub mod choice;
pub mod template;

pub use choice::{Body, Prompt};
pub use template::{Context, Fields, Template};
