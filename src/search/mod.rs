//! Who decides what to try next. Pure and synchronous: no I/O, no clock, no threads; one seed decides everything.
//!
//! A [`Strategy`] is asked for work and told results in the order of asking, so its decisions do not depend on the
//! order in which replies came back. One strategy a file; [`STRATEGIES`] declares them all.

pub mod blend;
pub mod cfo;
pub mod conformance;
mod draws;
pub mod encoding;
mod full;
mod gaussian;
pub mod gp;
pub mod grid;
pub mod halving;
pub mod hyperband;
pub mod order;
pub mod proposer;
#[cfg(test)]
mod proposer_tests;
pub mod race;
pub mod random;
#[cfg(test)]
mod recorded;
pub mod simulate;
pub mod sobol;
mod space;
mod sweep;
pub mod tpe;

use std::sync::Arc;

use rand_chacha::ChaCha12Rng;

use crate::money::Usd;
use crate::space::Configuration;
use crate::stats::racing::costs::Input;
use encoding::{Dimension, Point};

/// Where configurations come from: what a strategy needs to know of a search space.
pub trait Domain: Send + Sync {
    /// Draws a configuration that satisfies every condition and constraint; `None` where thousands of draws found none.
    fn sample(&self, rng: &mut ChaCha12Rng) -> Option<Configuration>;

    /// Every configuration, in the order of declaration (the last parameter varies fastest). The error says which
    /// parameter makes the space infinite, or that there are more than `limit`.
    fn enumerate(&self, limit: usize) -> Result<Vec<Configuration>, String>;

    /// How many configurations there are at most (before constraints), where that is finite.
    fn size(&self) -> Option<u128>;

    /// The parameters that vary, as models of the space see them. Empty where the domain does not say: then proposers
    /// derive an encoding from the configurations' values ([`encoding::Derived`]).
    fn dimensions(&self) -> Vec<Dimension> {
        Vec::new()
    }

    /// The point of a configuration: a coordinate for each dimension.
    fn encode(&self, _configuration: &Configuration) -> Point {
        Point::new()
    }

    /// The configuration nearest to a place in the unit cube, which has a coordinate for every dimension, active or not.
    /// `None` where it breaks a constraint.
    fn decode(&self, _place: &[f64]) -> Option<Configuration> {
        None
    }

    /// The same configuration with other numbers of samples: some of those the space has, from the least to the greatest.
    fn siblings(&self, _configuration: &Configuration) -> Vec<Configuration> {
        Vec::new()
    }

    /// A configuration whose settings make it cheap, as far as can be told without prices.
    fn low_cost(&self) -> Option<Configuration> {
        None
    }
}

/// What input costs an instance in production, before anything was asked.
pub type InputPrice = Arc<dyn Fn(&Configuration) -> Option<Input> + Send + Sync>;

/// What a strategy is given at the beginning.
#[derive(Clone)]
pub struct Problem {
    /// The space.
    pub domain: Arc<dyn Domain>,
    /// What prompts cost, where that is known.
    pub inputs: Option<InputPrice>,
    /// No score is larger, where that is known.
    pub ceiling: Option<f64>,
    /// The first of `first` is what the winner will be compared with.
    pub baseline: bool,
    /// How many tuning instances there are. Strategies name them by their place `0..instances` in the study's one
    /// seeded, stratified order, so looking at a prefix of them is looking at a fair sample, the same for all.
    pub instances: usize,
    /// What the whole search may cost.
    pub budget: Option<Usd>,
    /// How many configurations may be tried.
    pub max_trials: Option<usize>,
    /// The seed of this strategy's own random stream.
    pub seed: u64,
    /// Configurations that are tried first, whatever the strategy (the baseline).
    pub first: Vec<Configuration>,
    /// Going on may end when it is expected to gain less than this, in units of the score. The study ends it then; a strategy
    /// may do so before, where its own model says that none is likely to be better by more than this.
    pub margin: Option<f64>,
    /// What a configuration may cost an instance in production.
    pub inference_budget: Option<Usd>,
}

impl Problem {
    /// Configurations may be dropped as too dear for production.
    pub fn may_drop(&self) -> bool {
        self.inference_budget.is_some()
    }
}

/// What a strategy wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Evaluate a configuration on these instances, in this order.
    Evaluate {
        /// The number of the trial: a new one is the next number and brings its configuration.
        trial: usize,
        /// The configuration of a new trial; `None` for one that is known already.
        configuration: Option<Configuration>,
        /// Places in the study's order. Never one that was asked for this trial before.
        instances: Vec<usize>,
    },
    /// Nothing before more results are told.
    Wait,
    /// Nothing any more.
    Done,
}

/// What became of one evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It was judged.
    Scored {
        /// The objective, larger is better (a minimized metric comes negated); finite.
        score: f64,
        /// What production would pay for this instance: prompt once, n completions.
        production: Usd,
        /// The part of it that is input, where that is known.
        input: Option<Usd>,
    },
    /// There is no result, for a reason other than money. It is missing: neither good nor bad.
    Missing,
    /// It did not fit the budget any more.
    Refused,
}

/// One result, told in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// Which trial.
    pub trial: usize,
    /// Which instance, by its place in the study's order.
    pub instance: usize,
    /// What became of it.
    pub outcome: Outcome,
    /// What it cost the study.
    pub cost: Usd,
}

/// A search strategy.
pub trait Strategy: Send {
    /// What to do next. Called again and again until `Wait` or `Done`; after `Wait` it is called again when more was told.
    fn ask(&mut self) -> Ask;

    /// One result. Results come in the order of asking.
    fn tell(&mut self, told: Told);

    /// The trial is over the inference budget and out of the race: ask no more of it. Comes between tells.
    fn dropped(&mut self, trial: usize);

    /// How many evaluations may be asked ahead of what was told: a constant of the study, never the concurrency.
    fn look_ahead(&self) -> usize;

    /// The whole search may cost so much from now on. Comes between tells, before the first result that it holds for.
    fn budget(&mut self, _budget: Usd) {}

    /// Results come in rounds that take hours and cost half: what is asked together is answered together, so it pays to
    /// ask much at a time. Said once, before the first ask.
    fn in_rounds(&mut self) {}
}

/// A strategy as it is declared once for help text, documentation and the command line.
pub struct Declaration {
    /// What `--strategy` takes.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// When it is the one to take, in a line.
    pub when: &'static str,
    /// Where the method comes from.
    pub source: &'static str,
    /// True for the one that is taken where none is named.
    pub default: bool,
    /// Makes one. The error says why it cannot work on this problem and what to do about it.
    pub build: fn(Problem) -> Result<Box<dyn Strategy>, String>,
}

/// The name of the strategy that is taken where none is named.
pub const DEFAULT: &str = "race";

/// Every strategy there is.
pub const STRATEGIES: &[Declaration] = &[
    Declaration {
        name: "race",
        summary: "Buys next whatever look is expected to be worth most for its price, by a model of related configurations on shared instances",
        when: "Almost always: it spends the money on the configurations that may still be best, and knows relatives, prices and shared samples",
        source: "Knowledge gradient: Frazier, Powell & Dayanik 2008, 2009; empirical Bayes; the composition is ours",
        default: true,
        build: race::build,
    },
    Declaration {
        name: "halving",
        summary: "Looks at many configurations on a few shared instances, then again and again drops the worse half and looks closer at the rest",
        when: "Where configurations have nothing in common and cost about the same, or its plain rule is wanted: it needs no model",
        source: "Jamieson & Talwalkar 2016; Karnin, Koren & Somekh 2013; TRIPLE-SH, Shi et al. 2024",
        default: false,
        build: halving::build,
    },
    Declaration {
        name: "random",
        summary: "Draws distinct configurations at random and evaluates each on all instances",
        when: "As a baseline, or where every configuration that is tried shall have a full score",
        source: "Bergstra & Bengio 2012",
        default: false,
        build: random::build,
    },
    Declaration {
        name: "grid",
        summary: "Evaluates every configuration of a finite space on all instances, in the order of declaration",
        when: "For small spaces where the whole table is wanted",
        source: "Textbook method",
        default: false,
        build: grid::build,
    },
    Declaration {
        name: "sobol",
        summary: "Covers the space evenly with a scrambled Sobol sequence and evaluates each configuration on all instances",
        when: "As a baseline that leaves smaller gaps than random draws, or to map a space",
        source: "Sobol' 1967; Joe & Kuo 2008; Owen scrambling after Burley 2020",
        default: false,
        build: sobol::build,
    },
    Declaration {
        name: "tpe",
        summary: "Tree-structured Parzen estimator over all parameters jointly; each configuration is evaluated on all instances",
        when: "For some dozens of full evaluations, in spaces with conditions and many choices",
        source: "Bergstra et al. 2011; Watanabe 2023",
        default: false,
        build: tpe::build,
    },
    Declaration {
        name: "gp",
        summary: "Gaussian process over numbers and choices with expected improvement; each configuration is evaluated on all instances",
        when: "For few full evaluations of a space with few, mostly numeric parameters",
        source: "Jones, Schonlau & Welch 1998; Rasmussen & Williams 2006",
        default: false,
        build: gp::build,
    },
    Declaration {
        name: "cfo",
        summary: "Local search in random directions (FLOW2) from a cheap start; each configuration is evaluated on all instances",
        when: "Where cheap settings are a good start and better ones are near",
        source: "Wu, Wang & Huang 2021",
        default: false,
        build: cfo::build,
    },
    Declaration {
        name: "blend",
        summary: "Local searches and TPE side by side, the next step to the one that promises most for its cost; full evaluations",
        when: "To compare with FLAML's BlendSearch, or where both good starts and surprises are likely",
        source: "Wang, Wu, Huang & Saied 2021",
        default: false,
        build: blend::build,
    },
    Declaration {
        name: "hyperband",
        summary: "Brackets of successive halving with random configurations, from many on few instances to few on all",
        when: "Where it is not known how many instances tell configurations apart",
        source: "Li et al. 2018",
        default: false,
        build: hyperband::build,
    },
];

/// The strategy of that name.
pub fn strategy(name: &str) -> Option<&'static Declaration> {
    STRATEGIES.iter().find(|declaration| declaration.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_strategy_is_the_default() {
        let defaults: Vec<&str> = STRATEGIES.iter().filter(|d| d.default).map(|d| d.name).collect();
        assert_eq!(defaults, [DEFAULT]);
        assert!(strategy(DEFAULT).is_some() && strategy("no such").is_none());
    }
}
