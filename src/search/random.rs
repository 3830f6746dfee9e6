//! Random search (Bergstra & Bengio 2012): distinct draws, each on all instances.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::draws::Draws;
use super::sweep::Sweep;
use super::{Problem, Strategy};

/// The strategy. It ends when the space is exhausted, which spaces of up to 10,000 configurations can be; where a
/// thousand draws in a row were seen before; at `max_trials`; or at the end of the money.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    let mut rng = ChaCha12Rng::seed_from_u64(problem.seed);
    let draws = Draws::random(&problem, &mut rng);
    Ok(Box::new(Sweep::new(&problem, draws, rng)))
}
