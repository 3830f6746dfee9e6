//! Two configurations compared on the instances that both answered: overall, by subgroup, in production cost, and instance
//! by instance. Differences are the second less the first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::money::Usd;
use crate::stats;
use crate::study::{Trial, settings};
use crate::task::{Direction, Instance, Objective};

/// What one instance came to under both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The instance's id.
    pub id: String,
    /// Where instances are told apart by a field: its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The first's score.
    pub a: f64,
    /// The second's.
    pub b: f64,
}

/// A paired difference, second less first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The first's mean over the pairs.
    pub a: f64,
    /// The second's.
    pub b: f64,
    /// The mean difference.
    pub difference: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// Two-sided: how likely so great a difference is where both are equally good.
    pub p_value: f64,
    /// `mcnemar_exact` where every score is 0 or 1, else `paired_permutation`.
    pub test: String,
    /// Instances that both answered.
    pub pairs: usize,
}

/// The difference within one subgroup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The field's value.
    pub value: String,
    /// Instances that both answered.
    pub pairs: usize,
    /// The difference; absent where there are too few pairs to say anything.
    #[serde(flatten)]
    pub difference: Option<Difference>,
    /// The p-value after Holm's correction for looking at all subgroups.
    pub p_adjusted: Option<f64>,
}

/// An instance on which the two do not score the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The instance's id.
    pub id: String,
    /// The first's score.
    pub a: f64,
    /// The second's.
    pub b: f64,
}

/// Production cost an instance, on the instances that both answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostDifference {
    /// The first's mean.
    pub a_usd_per_instance: Usd,
    /// The second's.
    pub b_usd_per_instance: Usd,
    /// Second less first.
    pub difference_usd_per_instance: Usd,
    /// The 95 % interval of the difference (Student's t over the pairs), in dollars.
    pub ci95_usd: Option<[f64; 2]>,
    /// Second over first, where the first costs anything.
    pub ratio: Option<f64>,
}

/// What can be said at 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The second is better.
    Better,
    /// The second is worse.
    Worse,
    /// The data do not tell them apart.
    NotToldApart,
}

impl Verdict {
    /// Of a difference (second less first) with its 95 % interval and the p-value of its test: the two could disagree, and
    /// both must say so.
    pub fn of(difference: f64, [low, high]: [f64; 2], p_value: f64, direction: Direction) -> Verdict {
        match p_value <= stats::paired::LEVEL && !(low <= 0.0 && 0.0 <= high) {
            false => Verdict::NotToldApart,
            true if direction.gain(difference) > 0.0 => Verdict::Better,
            true => Verdict::Worse,
        }
    }
}

/// Two configurations compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Over all instances that both answered; absent without any.
    pub difference: Option<Difference>,
    /// What that says.
    pub verdict: Verdict,
    /// Production cost, where both answered something.
    pub production: Option<CostDifference>,
    /// By subgroup, the largest first; empty where none was asked for.
    pub groups: Vec<Group>,
    /// Where the second is better, the greatest change first.
    pub improved: Vec<Changed>,
    /// Where the second is worse, the greatest change first.
    pub worsened: Vec<Changed>,
    /// Instances that one or both are missing.
    pub not_paired: usize,
}

/// Compares two trials of the same instances. `by` is a field of the instances that makes subgroups.
pub fn trials(
    a: &Trial,
    b: &Trial,
    instances: &[Instance],
    objective: &Objective,
    by: Option<&str>,
    seed: u64,
) -> Compared {
    let pair = |(instance, a, b): (usize, f64, f64)| {
        let row = &instances[instance];
        Pair { id: row.id.clone(), group: by.map(|by| group_of(row, by)), a, b }
    };
    let pairs: Vec<Pair> = a.pairs(b, &objective.metric).into_iter().map(pair).collect();
    let paid: BTreeMap<usize, Usd> =
        b.evaluations.iter().filter_map(|e| Some((e.instance(), e.production()?))).collect();
    let costs =
        a.evaluations.iter().filter_map(|e| Some((e.production()?, *paid.get(&e.instance())?))).collect::<Vec<_>>();
    let asked = a.evaluations.len().max(b.evaluations.len());
    pairs_and_costs(&pairs, &costs, asked - pairs.len().min(asked), objective.direction, seed)
}

/// The subgroup of an instance: its field's value as text.
pub fn group_of(instance: &Instance, field: &str) -> String {
    instance.text(field).unwrap_or_else(|| "(none)".to_owned())
}

/// Compares pairs of scores, and pairs of production costs.
pub fn pairs_and_costs(
    pairs: &[Pair],
    costs: &[(Usd, Usd)],
    not_paired: usize,
    direction: Direction,
    seed: u64,
) -> Compared {
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().map(|pair| (pair.a, pair.b)).unzip();
    let difference = difference(&a, &b, settings::stream(seed, "compare"));
    let verdict = difference
        .as_ref()
        .map_or(Verdict::NotToldApart, |known| Verdict::of(known.difference, known.ci95, known.p_value, direction));
    let changed = |better: bool| {
        let mut list: Vec<&Pair> = pairs
            .iter()
            .filter(|pair| pair.a != pair.b && (direction.gain(pair.b) > direction.gain(pair.a)) == better)
            .collect();
        let size = |pair: &Pair| (pair.b - pair.a).abs();
        list.sort_by(|x, y| size(y).total_cmp(&size(x)).then_with(|| x.id.cmp(&y.id)));
        list.into_iter().map(|pair| Changed { id: pair.id.clone(), a: pair.a, b: pair.b }).collect()
    };
    Compared {
        verdict,
        production: production(costs),
        groups: groups(pairs, seed),
        improved: changed(true),
        worsened: changed(false),
        not_paired,
        difference,
    }
}

/// The paired difference of scores, the second less the first.
pub(super) fn difference(a: &[f64], b: &[f64], seed: u64) -> Option<Difference> {
    let found = stats::compare(b, a, seed)?;
    Some(Difference {
        a: stats::estimate(a)?.mean,
        b: stats::estimate(b)?.mean,
        difference: found.difference,
        ci95: [found.ci95.0, found.ci95.1],
        p_value: found.p_value,
        test: found.test.to_owned(),
        pairs: found.pairs,
    })
}

fn groups(pairs: &[Pair], seed: u64) -> Vec<Group> {
    let mut by_value: BTreeMap<&str, Vec<&Pair>> = BTreeMap::new();
    for pair in pairs {
        if let Some(group) = &pair.group {
            by_value.entry(group).or_default().push(pair);
        }
    }
    let mut groups: Vec<Group> = by_value
        .into_iter()
        .map(|(value, pairs)| {
            let seed = settings::stream(seed, &format!("compare {value}"));
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().map(|pair| (pair.a, pair.b)).unzip();
            let difference = difference(&a, &b, seed);
            Group { value: value.to_owned(), pairs: pairs.len(), difference, p_adjusted: None }
        })
        .collect();
    let known: Vec<f64> = groups.iter().filter_map(|group| Some(group.difference.as_ref()?.p_value)).collect();
    let mut adjusted = holm(&known).into_iter();
    for group in groups.iter_mut().filter(|group| group.difference.is_some()) {
        group.p_adjusted = adjusted.next();
    }
    groups.sort_by(|x, y| y.pairs.cmp(&x.pairs).then_with(|| x.value.cmp(&y.value)));
    groups
}

/// Holm's (1979) correction: each p-value so that, used with one threshold, the chance of a single false finding among all
/// stays below it, however they hang together.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&x, &y| p_values[x].total_cmp(&p_values[y]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut least = 0.0_f64;
    for (rank, at) in order.into_iter().enumerate() {
        least = least.max(p_values[at] * (p_values.len() - rank) as f64).min(1.0);
        adjusted[at] = least;
    }
    adjusted
}

fn production(costs: &[(Usd, Usd)]) -> Option<CostDifference> {
    if costs.is_empty() {
        return None;
    }
    let mean = |of: &dyn Fn(&(Usd, Usd)) -> Usd| Usd::mean(costs.iter().map(of).sum(), costs.len() as u64);
    let (a, b) = (mean(&|pair| pair.0), mean(&|pair| pair.1));
    let each: Vec<f64> = costs.iter().map(|(a, b)| (*b - *a).as_f64()).collect();
    Some(CostDifference {
        a_usd_per_instance: a,
        b_usd_per_instance: b,
        difference_usd_per_instance: b - a,
        ci95_usd: stats::t_interval(&each, 0.95).map(|(low, high)| [low, high]),
        ratio: (a > Usd::ZERO).then(|| b.as_f64() / a.as_f64()),
    })
}

/// When a comparison fails a gate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// So much worse is allowed, in units of the objective.
    pub margin: f64,
    /// The data must show that it is no worse than that; else they must show that it is worse, for the gate to fail.
    pub strict: bool,
}

impl Gate {
    /// Why the gate fails, if it does. Without `strict` it fails where B is told from A and the whole 95 % interval of the
    /// difference is worse than the margin; with it, unless the whole interval is better.
    pub fn failure(&self, compared: &Compared, direction: Direction) -> Option<String> {
        let Some(known) = &compared.difference else {
            return self.strict.then(|| "nothing could be compared".to_owned());
        };
        let [low, high] = known.ci95;
        // In units where more is better.
        let (worst, best) = match direction {
            Direction::Maximize => (low, high),
            Direction::Minimize => (-high, -low),
        };
        let words = |what: &str| {
            let by =
                if self.margin > 0.0 { format!(" by more than the margin of {}", self.margin) } else { String::new() };
            format!("{what} worse{by}: the difference is {:+.4} [{low:+.4}, {high:+.4}]", known.difference)
        };
        match self.strict {
            false => (compared.verdict == Verdict::Worse && best < -self.margin).then(|| words("B is")),
            true => (worst < -self.margin).then(|| words("B may be")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(scores: &[(f64, f64, &str)]) -> Vec<Pair> {
        let pair = |(at, &(a, b, group)): (usize, &(f64, f64, &str))| Pair {
            id: format!("i{at}"),
            group: Some(group.to_owned()),
            a,
            b,
        };
        scores.iter().enumerate().map(pair).collect()
    }

    fn usd(text: &str) -> Usd {
        text.parse().unwrap()
    }

    #[test]
    fn the_second_less_the_first() {
        let scores: Vec<(f64, f64, &str)> =
            (0..20).map(|at| (0.0, f64::from(u8::from(at < 12)), if at % 2 == 0 { "even" } else { "odd" })).collect();
        let compared =
            pairs_and_costs(&pairs(&scores), &[(usd("2"), usd("3")), (usd("2"), usd("4"))], 1, Direction::Maximize, 1);
        let known = compared.difference.as_ref().unwrap();
        assert_eq!((known.a, known.b, known.difference, known.pairs), (0.0, 0.6, 0.6, 20));
        assert_eq!((known.test.as_str(), compared.verdict), ("mcnemar_exact", Verdict::Better));
        assert!((known.p_value - 2.0 / 4096.0).abs() < 1e-12);
        assert_eq!((compared.improved.len(), compared.worsened.len(), compared.not_paired), (12, 0, 1));
        let cost = compared.production.unwrap();
        assert_eq!((cost.difference_usd_per_instance, cost.ratio), (usd("1.5"), Some(1.75)));
        let values: Vec<&str> = compared.groups.iter().map(|group| group.value.as_str()).collect();
        assert_eq!(values, ["even", "odd"]);
        // Both subgroups have six of ten one way: 2/64, and twice that for two looks.
        assert!(compared.groups.iter().all(|group| (group.p_adjusted.unwrap() - 0.0625).abs() < 1e-12));
    }

    #[test]
    fn less_is_better_where_it_is_minimized() {
        let scores: Vec<(f64, f64, &str)> =
            (0..30).map(|at| (f64::from(at), f64::from(at) + 1.0 + f64::from(at % 3), "")).collect();
        let compared = pairs_and_costs(&pairs(&scores), &[], 0, Direction::Minimize, 1);
        assert_eq!((compared.verdict, compared.improved.len(), compared.worsened.len()), (Verdict::Worse, 0, 30));
        assert_eq!(compared.worsened[0].id, "i11", "the greatest change first, then by id");
        assert_eq!(compared.difference.as_ref().unwrap().test, "paired_permutation");
        let gate = |margin, strict| Gate { margin, strict }.failure(&compared, Direction::Minimize).is_some();
        assert_eq!((gate(0.0, false), gate(1.0, false), gate(5.0, false), gate(5.0, true)), (true, true, false, false));
    }

    #[test]
    fn a_gate_needs_proof_one_way_or_the_other() {
        let compared = pairs_and_costs(
            &pairs(&[(1.0, 0.0, ""), (1.0, 1.0, ""), (1.0, 1.0, ""), (0.0, 0.0, "")]),
            &[],
            0,
            Direction::Maximize,
            1,
        );
        assert_eq!(compared.verdict, Verdict::NotToldApart);
        let gate = |strict| Gate { margin: 0.05, strict }.failure(&compared, Direction::Maximize);
        assert_eq!(gate(false), None);
        assert!(
            gate(true)
                .unwrap()
                .starts_with("B may be worse by more than the margin of 0.05: the difference is -0.2500")
        );
        let nothing = pairs_and_costs(&[], &[], 3, Direction::Maximize, 1);
        assert_eq!(nothing.verdict, Verdict::NotToldApart);
        assert_eq!(Gate { margin: 0.0, strict: false }.failure(&nothing, Direction::Maximize), None);
        assert!(Gate { margin: 0.0, strict: true }.failure(&nothing, Direction::Maximize).is_some());
    }

    #[test]
    fn worse_is_what_both_the_test_and_the_interval_say() {
        let verdict = |ci95, p| Verdict::of(-0.25, ci95, p, Direction::Maximize);
        assert_eq!(verdict([-0.488, -0.030], 0.0625), Verdict::NotToldApart);
        assert_eq!(verdict([-0.488, 0.030], 0.04), Verdict::NotToldApart);
        assert_eq!(verdict([-0.488, -0.030], 0.05), Verdict::Worse);
        assert_eq!(Verdict::of(-0.25, [-0.488, -0.030], 0.05, Direction::Minimize), Verdict::Better);
        // Five of twenty are lost and none won: Tango's interval is below 0, McNemar's exact test says 1/16.
        let scores: Vec<(f64, f64, &str)> = (0..20).map(|at| (1.0, f64::from(u8::from(at >= 5)), "")).collect();
        let compared = pairs_and_costs(&pairs(&scores), &[], 0, Direction::Maximize, 1);
        let known = compared.difference.as_ref().unwrap();
        assert!(known.ci95[1] < 0.0 && known.p_value > 0.05, "{known:?}");
        let gate = |strict| Gate { margin: 0.0, strict }.failure(&compared, Direction::Maximize).is_some();
        assert_eq!((compared.verdict, gate(false), gate(true)), (Verdict::NotToldApart, false, true));
    }

    #[test]
    fn holm_agrees_with_statsmodels() {
        // statsmodels multipletests([0.01, 0.04, 0.03, 0.005], method="holm").
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (is, should) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((is - should).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.6, 0.9]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
