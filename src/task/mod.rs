//! Tasks: instances, splits, the objective, and metric tables as written (room `metric` reads them).

pub mod instance;

pub use instance::Instance;
