//! What listens on loopback.

pub mod live;
pub mod mock;
