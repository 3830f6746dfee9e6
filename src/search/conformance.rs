//! What every strategy must do: a battery that each of them runs.

use std::sync::Arc;

use rand_chacha::ChaCha12Rng;
use serde_json::json;

use super::simulate::{Log, Reply, drive};
use super::{Domain, Outcome, Problem, Strategy};
use crate::money::Usd;
use crate::space::Configuration;

/// A space of `size` points; with `endless` it hides that it is finite.
struct Points {
    size: usize,
    endless: bool,
}

fn point(at: usize) -> Configuration {
    let values = json!({"kind": at / 4, "n": 1 + at % 4});
    Configuration(values.as_object().cloned().unwrap_or_default().into_iter().collect())
}

impl Domain for Points {
    fn sample(&self, rng: &mut ChaCha12Rng) -> Option<Configuration> {
        use rand::RngExt;
        (self.size > 0).then(|| point(rng.random_range(0..self.size)))
    }

    fn enumerate(&self, limit: usize) -> Result<Vec<Configuration>, String> {
        if self.size > limit {
            Err(format!("there are more than {limit}"))
        } else {
            Ok((0..self.size).map(point).collect())
        }
    }

    fn size(&self) -> Option<u128> {
        (!self.endless).then_some(self.size as u128)
    }
}

fn problem(size: usize, instances: usize) -> Problem {
    Problem {
        inputs: None,
        ceiling: None,
        baseline: false,
        domain: Arc::new(Points { size, endless: false }),
        instances,
        budget: Some(Usd::from_pico(20_000)),
        max_trials: None,
        seed: 7,
        first: Vec::new(),
        margin: None,
        inference_budget: None,
    }
}

/// A made-up score and cost of a point on an instance, without any randomness.
fn scored(configuration: &Configuration, instance: usize) -> (f64, Usd) {
    let number = |name: &str| configuration.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let (kind, n) = (number("kind"), number("n"));
    let hash = (kind * 7919 + instance as u64 * 104_729 + kind * instance as u64 * 31) % 100;
    let score = if hash < 30 + (kind * 5 + n) % 60 { 1.0 } else { 0.0 };
    (score, Usd::from_pico(1 + (kind % 5) as i64 * 10 + n as i64))
}

/// Runs the battery on what `build` makes of a problem, and panics with what went wrong.
///
/// The problems are small, finite spaces, with and without budget, trial limit, inference budget and configurations to
/// try first.
pub fn conformance(build: impl Fn(Problem) -> Box<dyn Strategy>) {
    let play = |name: &str, problem: &Problem, reply: &dyn Fn(usize, &Configuration, usize) -> Reply| -> Log {
        let mut spent = Usd::ZERO;
        let budget = problem.budget;
        let result = drive(&mut *build(problem.clone()), problem, 200_000, |trial, configuration, instance| {
            let reply = reply(trial, configuration, instance);
            if budget.is_some_and(|budget| spent + reply.cost > budget) {
                return Reply { outcome: Outcome::Refused, cost: Usd::ZERO, drop: false };
            }
            spent += reply.cost;
            reply
        });
        match result {
            Ok(log) => log,
            Err(breach) => panic!("{name}: {breach}"),
        }
    };
    let judged = |_: usize, configuration: &Configuration, instance: usize| {
        let (score, cost) = scored(configuration, instance);
        Reply { outcome: Outcome::Scored { score, production: cost, input: None }, cost, drop: false }
    };
    let constant = |score: f64| {
        move |_: usize, configuration: &Configuration, instance: usize| Reply {
            outcome: Outcome::Scored { score, production: Usd::from_pico(5), input: None },
            ..judged(0, configuration, instance)
        }
    };
    let without =
        |outcome: Outcome| move |_: usize, _: &Configuration, _: usize| Reply { outcome, cost: Usd::ZERO, drop: false };

    let base = problem(40, 60);
    let first = play("a plain search", &base, &judged);
    assert!(!first.told.is_empty(), "a plain search asked for nothing");
    assert_eq!(first, play("the same search again", &base, &judged), "the same seed gave two different searches");

    let free = Problem { budget: None, ..base.clone() };
    assert!(!play("without a budget", &free, &judged).told.is_empty());
    let rich = Problem { budget: Some(Usd::MAX), ..base.clone() };
    assert!(!play("with more budget than everything costs", &rich, &judged).told.is_empty());
    play("with a tiny budget", &Problem { budget: Some(Usd::from_pico(3)), ..base.clone() }, &judged);

    let few = Problem { max_trials: Some(3), ..free.clone() };
    assert!(play("at most three trials", &few, &judged).trials.len() <= 3);
    assert!(play("no trial allowed", &Problem { max_trials: Some(0), ..free.clone() }, &judged).trials.is_empty());

    let wanted = vec![point(11), point(3), point(11)];
    let led = play("configurations to try first", &Problem { first: wanted.clone(), ..base.clone() }, &judged);
    assert_eq!(led.trials.get(..2), Some(&wanted[..2]), "what was to be tried first was not");
    let led = play(
        "fewer trials than to try first",
        &Problem { first: wanted, max_trials: Some(1), ..base.clone() },
        &judged,
    );
    assert_eq!(led.trials, [point(11)]);

    for budget in [None, Some(Usd::from_pico(20_000))] {
        for inference_budget in [None, Some(Usd::MAX)] {
            let base = Problem { budget, inference_budget, ..base.clone() };
            play("everything refused", &base, &without(Outcome::Refused));
            play("everything missing", &base, &without(Outcome::Missing));
            play("everything dropped", &base, &|a, b, c| Reply { drop: true, ..judged(a, b, c) });
            play("half of them dropped", &base, &|a, b, c| Reply { drop: a % 2 == 0 && c >= 3, ..judged(a, b, c) });
            play("some refused", &base, &|a, b, c| {
                if (a + c) % 7 == 0 { without(Outcome::Refused)(a, b, c) } else { judged(a, b, c) }
            });
            play("some missing", &base, &|a, b, c| {
                if (a + c) % 3 == 0 { without(Outcome::Missing)(a, b, c) } else { judged(a, b, c) }
            });
            play("missing and costing", &base, &|a, b, c| Reply { outcome: Outcome::Missing, ..judged(a, b, c) });
            play("constant scores", &base, &constant(1.0));
            play("constant scores of a minimized metric", &base, &constant(-1e300));
            play("costing nothing", &base, &|a, b, c| Reply { cost: Usd::ZERO, ..judged(a, b, c) });
        }
    }
    // A score's sign means nothing: shifted below zero, the same search comes out.
    let negative = play("a minimized metric", &rich, &|_, b, c| {
        let (score, cost) = scored(b, c);
        Reply { outcome: Outcome::Scored { score: score - 5.0, production: cost, input: None }, cost, drop: false }
    });
    let plain = play("the same, shifted", &rich, &judged);
    let work = |log: &Log| log.told.iter().map(|told| (told.trial, told.instance)).collect::<Vec<_>>();
    assert_eq!(work(&negative), work(&plain), "scores below zero changed the search");

    for (size, instances) in [(1, 1), (1, 60), (40, 1), (2, 2), (3, 17)] {
        for budget in [None, Some(Usd::from_pico(500))] {
            let small = Problem { budget, ..problem(size, instances) };
            let log = play(&format!("{size} configurations on {instances} instances"), &small, &judged);
            assert!(!log.trials.is_empty(), "{size} configurations on {instances} instances: nothing was tried");
        }
    }
    // Where money does not matter, a search is worth the name only if something is evaluated on everything.
    let full = |log: &Log, instances: usize| {
        (0..log.trials.len()).any(|trial| log.told.iter().filter(|told| told.trial == trial).count() == instances)
    };
    assert!(full(&play("without a budget", &free, &judged), 60), "no trial was evaluated on every instance");

    play("an empty space", &problem(0, 10), &judged);
    play("no instances", &problem(5, 0), &judged);
    let hidden = Problem { domain: Arc::new(Points { size: 6, endless: true }), ..problem(6, 10) };
    let log = play("a space with little in it", &hidden, &judged);
    assert!(log.trials.len() <= 6);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::STRATEGIES;

    #[test]
    fn every_strategy_conforms() {
        for declaration in STRATEGIES {
            conformance(|problem| (declaration.build)(problem).unwrap());
        }
    }

    #[test]
    fn different_seeds_search_differently() {
        let judged = |_: usize, configuration: &Configuration, instance: usize| {
            let (score, cost) = scored(configuration, instance);
            Reply { outcome: Outcome::Scored { score, production: cost, input: None }, cost, drop: false }
        };
        for declaration in STRATEGIES.iter().filter(|declaration| declaration.name != "grid") {
            let [a, b] = [1, 2].map(|seed| {
                let problem = Problem { seed, ..problem(40, 60) };
                let mut strategy = (declaration.build)(problem.clone()).unwrap();
                drive(&mut *strategy, &problem, 9999, judged).unwrap().trials
            });
            assert_ne!(a, b, "{}", declaration.name);
        }
    }
}
