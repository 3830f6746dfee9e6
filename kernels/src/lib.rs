//! The inner loops of farthing: the linear algebra of its search ([`linear`]), and, with the feature `models`, the
//! arithmetic of local language models: matrix products, norms, rotary positions, attention, activations and the logits of
//! one token. Every function works in a fixed order, so what it gives hangs on nothing else that is under way.
//!
//! It is a crate of its own for one reason: Cargo optimizes by the crate, and a development build of farthing, which is
//! what the first command of its README makes and its tests run, must not run its inner loops unoptimized.

#[cfg(feature = "models")]
mod attention;
pub mod linear;
#[cfg(feature = "models")]
mod logits;
#[cfg(feature = "models")]
mod product;
#[cfg(feature = "models")]
mod rows;

#[cfg(feature = "models")]
pub use attention::{Heads, Span, attend};
#[cfg(feature = "models")]
pub use logits::{Kept, finite, keep, log_sum_exp, top};
#[cfg(feature = "models")]
pub use product::{Matrix, product};
#[cfg(feature = "models")]
pub use rows::{Activation, activate, add, add_to_each, angles, cap, column, exp, fit, gate, norm_rows, place};
#[cfg(feature = "models")]
pub use rows::{layer_norm, rms_norm, rotate_halves, rotate_pairs};
