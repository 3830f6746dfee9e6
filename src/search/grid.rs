//! Grid search: every configuration of the space, in the order of declaration, each on all instances.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::draws::{Draws, MOST_TRIALS};
use super::sweep::Sweep;
use super::{Problem, Strategy};

/// The strategy. The error says why the space cannot be enumerated and what to do about it.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    let all = problem.domain.enumerate(MOST_TRIALS).map_err(|reason| {
        format!("grid search needs a space that can be listed: {reason}; or narrow the space, or use another strategy")
    })?;
    let draws = Draws::listed(&problem, all);
    Ok(Box::new(Sweep::new(&problem, draws, ChaCha12Rng::seed_from_u64(problem.seed))))
}
