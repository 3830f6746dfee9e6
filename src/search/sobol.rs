//! Sobol search: a scrambled low-discrepancy sequence over the space, each configuration on all instances.
//!
//! Owen-scrambled Sobol points with Joe and Kuo's direction numbers, from the crate `sobol_burley`. Every parameter is an
//! axis, also where it is not active, so conditions cost evenness but nothing is left out. Points that were seen or break a
//! constraint are passed over; in spaces of up to 10,000 configurations they become the nearest one that was not tried.

use super::full::Full;
use super::proposer::{Explorer, Proposer};
use super::{Problem, Strategy};
use crate::space::Configuration;

struct Sobol(Explorer);

impl Proposer for Sobol {
    fn propose(&mut self) -> Option<Configuration> {
        self.0.spread()
    }

    fn explorer(&mut self) -> &mut Explorer {
        &mut self.0
    }
}

/// The proposer.
pub fn proposer(problem: &Problem) -> Box<dyn Proposer> {
    Box::new(Sobol(Explorer::new(problem)))
}

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    Ok(Box::new(Full::new(&problem, proposer(&problem))))
}
