//! Who answers: over HTTP, from a cassette, the made-up model, a model in this process.

pub mod mock;
