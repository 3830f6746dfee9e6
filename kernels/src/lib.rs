//! The arithmetic of local language models that is no matrix product: norms, rotary positions, attention, activations and
//! the logits of one token. Every function works on one row, in a fixed order, so what it gives hangs on nothing else that
//! is under way.
//!
//! It is a crate of its own for one reason: Cargo optimizes by the crate, and a development build of farthing, which is
//! what the first command of its README makes, must not run a model's inner loops unoptimized.

mod attention;
mod logits;
mod rows;

pub use attention::{Heads, Span, attend};
pub use logits::{Kept, keep, log_sum_exp, top};
pub use rows::{Activation, activate, add, add_to_each, angles, cap, column, exp, fit, gate, norm_rows, place};
pub use rows::{layer_norm, rms_norm, rotate_halves, rotate_pairs};
