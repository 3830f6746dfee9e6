//! What may be expected of configurations that were not looked at yet, by those that were: which of many are worth a place
//! among the few that the race thinks about at a time.
//!
//! The race's own prior ([`super`]), on raw means of what was seen instead of single values: it only chooses who is looked
//! at more closely. Method: expected improvement (Jones, Schonlau & Welch 1998), times the probability of feasibility
//! (Gardner et al. 2014).

use farthing_kernels::linear::predict;

use super::assess::{Evidence, ground};
use super::{Model, Prior, Variances};
use crate::stats::{Running, improvement};

/// Of each configuration, the expected improvement on the best that was seen and that production can rather afford than
/// not, times the probability that production can afford it. `known` are variances learnt before.
pub fn promises(
    evidence: &Evidence,
    prior: &Prior,
    known: Option<&Variances>,
    inference_budget: Option<f64>,
) -> Vec<f64> {
    let (kinship, costs, places) = ground(evidence, prior);
    let size = kinship.len();
    let (mut all, mut own) = (Running::default(), vec![Running::default(); size]);
    for &(row, value) in evidence.lines.iter().flatten() {
        all.add(value);
        own[row as usize].add(value);
    }
    let level = all.mean;
    let total = if all.squares > 0.0 { all.squares / all.count } else { 1.0 };
    let model = Model::new(&kinship, &places, prior);
    let variances = match known {
        Some(known) if known.main.len() == kinship.parameters.len() => Variances { total, ..known.clone() },
        _ => model.start(total),
    };
    let start = model.means(&variances, level);
    let noise = variances.noise + variances.difficulty + variances.own.iter().sum::<f64>();
    let seen: Vec<Option<(f64, f64)>> = (0..size)
        .map(|row| (own[row].count > 0.0).then(|| (own[row].mean - start[row], noise / own[row].count)))
        .collect();
    let expected: Vec<(f64, f64)> = predict(&seen, |a, b| model.shared(&variances, a, b))
        .into_iter()
        .zip(&start)
        .map(|((mean, variance), start)| (start + mean, variance.sqrt()))
        .collect();
    let within = |row: usize| evidence.within(row, costs.as_ref(), inference_budget);
    let rivals = (0..size).filter(|&row| seen[row].is_some() && within(row) > 0.5);
    let best = rivals.map(|row| expected[row].0).fold(f64::NEG_INFINITY, f64::max);
    let best = if best.is_finite() { best } else { level };
    (0..size).map(|row| within(row) * improvement(expected[row], best).max(0.0)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::money::Usd;
    use crate::stats::racing::costs::Bill;

    fn configuration(prompt: &str, stop: &str, temperature: f64) -> BTreeMap<String, Value> {
        let pairs = [("prompt", json!(prompt)), ("stop", json!(stop)), ("temperature", json!(temperature))];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn what_combines_good_values_promises_most_unless_production_cannot_afford_it() {
        // Prompt b and the stop "x" are good where they were seen; without the stop it is dear.
        let seen = [("a", "x", 0.2), ("b", "none", 0.8), ("a", "none", 1.0), ("b", "none", 0.0)];
        let cents = [1, 8, 8, 8];
        let unseen = [("b", "x", 0.9), ("a", "none", 0.9), ("b", "none", 0.9)];
        let all: Vec<_> = seen.iter().chain(&unseen).map(|&(p, s, t)| configuration(p, s, t)).collect();
        let configurations: Vec<_> = all.iter().collect();
        let scores = [0.5, 0.8, 0.2, 0.8];
        let lines: Vec<Vec<(u32, f64)>> = (0..40)
            .map(|at| {
                (0..4).map(|row| (row, f64::from(u8::from(f64::from(at) < 40.0 * scores[row as usize])))).collect()
            })
            .collect();
        let mut production = vec![Bill::default(); all.len()];
        for (bill, cents) in production.iter_mut().zip(cents) {
            (0..40).for_each(|_| bill.add(Usd::from_pico(cents * 10_000_000_000), None));
        }
        let evidence = Evidence {
            configurations: &configurations,
            lines: &lines,
            production: &production,
            inputs: &vec![None; all.len()],
            instances: 100,
        };
        let free = promises(&evidence, &Prior::default(), None, None);
        assert!(free[4].min(free[6]) > 3.0 * free[5], "{free:?}");
        let tight = promises(&evidence, &Prior::default(), None, Some(0.03));
        assert!(tight[4] > 5.0 * tight[6].max(tight[5]), "{tight:?}");
    }
}
