//! What listens on loopback.

pub mod mock;
