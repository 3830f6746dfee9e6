//! The ranking: which configuration is best, as far as is known, and who cannot be best and why.

use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Serialize};

use crate::money::Usd;
use crate::provider::FailureKind;
use crate::space::Configuration;
use crate::stats;
use crate::stats::racing::Line;
use crate::stats::racing::assess::{Eligible, Evidence, indifferent, recommended, standings};
use crate::stats::racing::costs::{Bill, SURE};
use crate::study::production::within;
use crate::study::trial::{Production, Trial, short};
use crate::task::{Direction, Objective};

/// What stands between a trial and being best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing.
    Eligible,
    /// It may be over the inference budget, and others surely are not.
    Unsure,
    /// Too much is missing for reasons of its own.
    Unreliable,
    /// Over the inference budget.
    Infeasible,
    /// No instance was judged.
    Unjudged,
}

impl Standing {
    /// The word in files.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Eligible => "eligible",
            Standing::Unsure => "unsure",
            Standing::Unreliable => "unreliable",
            Standing::Infeasible => "infeasible",
            Standing::Unjudged => "unjudged",
        }
    }

    /// The standing of a word in files.
    pub fn of(word: &str) -> Option<Standing> {
        let read: Result<Standing, serde::de::value::Error> = Standing::deserialize(word.into_deserializer());
        read.ok()
    }
}

/// One row of the ranking.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// Its place, from 1; eligible ones first.
    pub rank: usize,
    /// The trial, by its index.
    pub trial: usize,
    /// What stands between it and being best.
    pub standing: Standing,
    /// Why it cannot be best.
    pub reason: Option<String>,
    /// The mean of the objective with its interval.
    pub estimate: Option<stats::Estimate>,
    /// What its mean over the tuning instances and as many further ones is expected to be, and how sure that is: (mean, standard
    /// deviation). The order is by it: it makes up for some having seen harder instances than others, and for luck. Where
    /// every one was judged on every instance, it is the raw mean.
    pub posterior: Option<(f64, f64)>,
    /// The probability that it is the best of those that nothing stands against, on further instances like these.
    pub probability: Option<f64>,
}

/// The seed of the draws that probabilities of being best are counted in.
const DRAWS_SEED: u64 = 0;

/// What a ranking knows of one configuration.
pub struct Entry<'a> {
    /// The parameters.
    pub configuration: &'a Configuration,
    /// The objective of every instance that was judged: (instance, value).
    pub scores: Vec<(usize, f64)>,
    /// Their mean with its interval.
    pub estimate: Option<stats::Estimate>,
    /// The mean production cost of the instances that were answered.
    pub cost: Option<Usd>,
    /// What may stand against it.
    pub against: Against<'a>,
}

/// What may stand against a configuration's being best.
#[derive(Default)]
pub struct Against<'a> {
    /// What production would pay, where anything is known of it.
    pub production: Option<Production>,
    /// Why it is out of the race.
    pub dropped: Option<&'a str>,
    /// Instances that were asked.
    pub asked: usize,
    /// Those that are missing for reasons of the configuration's own.
    pub own: Vec<FailureKind>,
}

impl Against<'_> {
    /// Why it cannot be best, where that is so.
    pub fn reason(&self, inference_budget: Option<Usd>) -> Option<String> {
        // What was dropped may have been looked at since: then it is known better what it costs.
        if let Some(budget) = inference_budget
            && let Some(production) = self.production.filter(|production| !within(production.mean, budget))
            && (self.dropped.is_none() || production.seen > 0)
        {
            return Some(format!(
                "about ${} an instance in production, over the inference budget of ${budget}",
                short(production.mean)
            ));
        }
        if let Some(reason) = self.dropped {
            return Some(reason.to_owned());
        }
        let kind = self.own.first().filter(|_| stats::too_much_missing(self.own.len(), self.asked))?;
        Some(format!("{} of {} instances are missing for reasons of its own ({kind})", self.own.len(), self.asked))
    }

    /// The probability that production can afford it; 1 where nothing is known, or there is no budget.
    fn affordable(&self, inference_budget: Option<Usd>) -> f64 {
        inference_budget.zip(self.production).map_or(1.0, |(budget, production)| production.affordable(budget))
    }
}

/// Ranks the trials of a study that is over: [`place`] with all that it knows.
pub fn rank(trials: &[Trial], objective: &Objective, instances: usize, inference_budget: Option<Usd>) -> Vec<Ranked> {
    let entries: Vec<Entry> = trials
        .iter()
        .map(|trial| Entry {
            configuration: &trial.configuration,
            scores: trial.scores(&objective.metric).collect(),
            estimate: trial.estimate(&objective.metric),
            cost: trial.production_cost(),
            against: trial.against(trial.production()),
        })
        .collect();
    place(&entries, objective.direction, instances, inference_budget)
}

/// Ranks configurations by what is expected of the objective over the `instances` tuning instances and as many further ones, by
/// the race's model ([`stats::racing`]): raw means where every one was judged on every instance, and elsewhere with what
/// relatives, the difficulty of instances and prices say. Equals by production cost, then by the order of trying.
pub fn place(entries: &[Entry], direction: Direction, instances: usize, inference_budget: Option<Usd>) -> Vec<Ranked> {
    let mut lines: Vec<Line> = vec![Vec::new(); instances];
    for (row, entry) in entries.iter().enumerate() {
        for &(instance, value) in &entry.scores {
            if let Some(line) = lines.get_mut(instance).filter(|_| value.is_finite()) {
                line.push((row as u32, direction.gain(value)));
            }
        }
    }
    let configurations: Vec<_> = entries.iter().map(|entry| &entry.configuration.0).collect();
    let production: Vec<_> = entries
        .iter()
        .map(|entry| entry.against.production.map_or_else(Bill::default, |production| production.bill()))
        .collect();
    let reasons: Vec<Option<String>> = entries.iter().map(|entry| entry.against.reason(inference_budget)).collect();
    // The best is one that production can afford almost surely, if there is such a one.
    let affordable: Vec<f64> = entries.iter().map(|entry| entry.against.affordable(inference_budget)).collect();
    let judged = |at: usize| !entries[at].scores.is_empty();
    // Whose own answers cost more than that is not, whatever its relatives say: the price beside its score is its own.
    let above = |at: usize| inference_budget.zip(entries[at].cost).is_some_and(|(budget, cost)| cost > budget);
    let likely = |at: usize| if above(at) { affordable[at].min(0.5) } else { affordable[at] };
    let sure = (0..entries.len()).any(|at| reasons[at].is_none() && likely(at) >= SURE && judged(at));
    let below = (0..entries.len()).any(|at| reasons[at].is_none() && !above(at) && judged(at));
    let doubtful = |at: usize| sure && likely(at) < SURE || below && above(at);
    let unsure: Vec<bool> = (0..entries.len()).map(|at| reasons[at].is_none() && doubtful(at)).collect();
    let reasons: Vec<Option<String>> = reasons
        .into_iter()
        .enumerate()
        .map(|(at, reason)| match unsure[at] {
            true => Some(doubt(&entries[at], likely(at), inference_budget)),
            false => reason,
        })
        .collect();
    let eligible: Vec<bool> = reasons.iter().map(Option::is_none).collect();
    let evidence = Evidence {
        configurations: &configurations,
        lines: &lines,
        production: &production,
        inputs: &vec![None; entries.len()],
        instances,
    };
    let standings = standings(&evidence, &eligible, DRAWS_SEED);
    let mut ranking: Vec<(Ranked, f64, Option<Usd>)> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            let standing_of = standings[index];
            let mean = standing_of.map(|standing| standing.mean);
            let reason = reasons[index].clone();
            let over = entry.against.dropped.is_some() || affordable[index] < 0.5;
            let standing = match (&reason, mean) {
                (Some(_), _) if over => Standing::Infeasible,
                (Some(_), Some(_)) if unsure[index] => Standing::Unsure,
                (_, None) => Standing::Unjudged,
                (Some(_), _) => Standing::Unreliable,
                (None, Some(_)) => Standing::Eligible,
            };
            let row = Ranked {
                rank: 0,
                trial: index,
                standing,
                reason,
                estimate: entry.estimate,
                posterior: standing_of.map(|standing| (direction.gain(standing.mean), standing.sd)),
                probability: standing_of.map(|standing| standing.best),
            };
            (row, mean.unwrap_or(f64::NEG_INFINITY), entry.cost)
        })
        .collect();
    ranking.sort_by(|(a, mean_a, cost_a), (b, mean_b, cost_b)| {
        a.standing.cmp(&b.standing).then(mean_b.total_cmp(mean_a)).then(cost_a.cmp(cost_b)).then(a.trial.cmp(&b.trial))
    });
    let eligible = ranking.iter().take_while(|(row, ..)| row.standing == Standing::Eligible);
    let complete = evidence.complete();
    let best_first: Vec<_> = eligible
        .map(|(row, mean, cost)| Eligible {
            mean: *mean,
            cost: cost.unwrap_or(Usd::MAX),
            best: row.probability.filter(|_| !complete).unwrap_or(0.0),
        })
        .collect();
    if let Some(place) = recommended(&best_first, indifferent(&lines)) {
        ranking[..=place].rotate_right(1);
    }
    let numbered = |(place, (row, ..)): (usize, (Ranked, _, _))| Ranked { rank: place + 1, ..row };
    ranking.into_iter().enumerate().map(numbered).collect()
}

fn doubt(entry: &Entry, affordable: f64, inference_budget: Option<Usd>) -> String {
    let about = entry.against.production.map_or(String::new(), |production| short(production.mean));
    let budget = inference_budget.map_or(String::new(), |budget| budget.to_string());
    if let Some(cost) = entry.cost.filter(|cost| inference_budget.is_some_and(|budget| *cost > budget)) {
        return format!(
            "${} an instance so far, over the inference budget of ${budget}, and about ${about} in production",
            short(cost.as_f64())
        );
    }
    format!(
        "about ${about} an instance in production: only {:.0} % sure to be within the inference budget of ${budget}",
        100.0 * affordable
    )
}

/// Of some points of (production cost, gain), those that no other beats in both, the cheapest first. Of equals the first.
pub fn frontier(points: &[(Usd, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| points[a].0.cmp(&points[b].0).then(points[b].1.total_cmp(&points[a].1)));
    let mut most = f64::NEG_INFINITY;
    order.retain(|&at| {
        let better = points[at].1 > most;
        most = most.max(points[at].1);
        better
    });
    order
}

/// The best configuration: the first that nothing stands against.
pub fn best(ranking: &[Ranked]) -> Option<&Ranked> {
    ranking.first().filter(|row| row.standing == Standing::Eligible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn configuration(n: u64) -> Configuration {
        Configuration([("n".to_owned(), json!(n))].into())
    }

    fn usd(text: &str) -> Usd {
        text.parse().unwrap()
    }

    /// Right on the first `right` of 40 instances, each answer at this price.
    fn entry(configuration: &Configuration, right: usize, cost: Usd) -> Entry<'_> {
        let values: Vec<f64> = (0..40).map(|at| f64::from(u8::from(at < right))).collect();
        Entry {
            configuration,
            estimate: stats::estimate(&values),
            scores: values.into_iter().enumerate().collect(),
            cost: Some(cost),
            against: Against { production: Production::billed(&[cost; 40], 40), asked: 40, ..Against::default() },
        }
    }

    #[test]
    fn a_standing_is_its_word() {
        use Standing::{Eligible, Infeasible, Unjudged, Unreliable, Unsure};
        for standing in [Eligible, Unsure, Unreliable, Infeasible, Unjudged] {
            assert_eq!(json!(standing), standing.word());
            assert_eq!(Standing::of(standing.word()), Some(standing));
        }
        assert_eq!(Standing::of("Eligible"), None);
    }

    #[test]
    fn of_equals_the_cheapest_is_first_and_of_the_rest_too() {
        let configurations = [1, 2, 3, 4].map(configuration);
        let costs = ["0.004", "0.002", "0.003", "0.001"].map(usd);
        let right = [30, 30, 20, 20];
        let entries: Vec<Entry> = (0..4).map(|at| entry(&configurations[at], right[at], costs[at])).collect();
        let order: Vec<usize> = place(&entries, Direction::Maximize, 40, None).iter().map(|row| row.trial).collect();
        assert_eq!(order, [1, 0, 3, 2]);
    }

    #[test]
    fn who_is_not_surely_affordable_comes_after_who_is() {
        let configurations = [1, 2, 3, 4].map(configuration);
        let mut entries: Vec<Entry> =
            configurations.iter().map(|configuration| entry(configuration, 20, usd("0.001"))).collect();
        entries[0].scores = entry(&configurations[0], 35, Usd::ZERO).scores;
        // A few answers that differ much: about the budget, and nobody knows.
        let bills = ["0.0001", "0.0015", "0.0001", "0.0014"].map(usd);
        entries[0].against.production = Production::billed(&bills, 40);
        entries[2].against.production = Production::billed(&[usd("0.002")], 1);
        entries[3].against.own = vec![FailureKind::ContentFilter; 3];
        let ranking = place(&entries, Direction::Maximize, 40, Some(usd("0.001")));
        let standings: Vec<(usize, Standing)> = ranking.iter().map(|row| (row.trial, row.standing)).collect();
        let wanted =
            [(1, Standing::Eligible), (0, Standing::Unsure), (3, Standing::Unreliable), (2, Standing::Infeasible)];
        assert_eq!(standings, wanted);
        let reason = |place: usize| ranking[place].reason.clone().unwrap();
        assert!(reason(1).contains("% sure to be within the inference budget of $0.001"), "{}", reason(1));
        assert_eq!(reason(2), "3 of 40 instances are missing for reasons of its own (content filter)");
        assert_eq!(reason(3), "about $0.002 an instance in production, over the inference budget of $0.001");
    }

    #[test]
    fn what_costs_exactly_the_budget_is_within_it() {
        let mut above = 0;
        for tokens in 1..500_i64 {
            for price in [150_000, 600_000, 2_500_000, 10_000_000] {
                let budget = Usd::from_pico(tokens * price);
                let mean = tokens as f64 * Usd::from_pico(price).as_f64();
                above += usize::from(mean > budget.as_f64());
                let production = Production { mean, output: mean / 2.0, error: 0.0, seen: 40 };
                let against = Against { production: Some(production), asked: 40, ..Against::default() };
                assert_eq!((against.reason(Some(budget)), against.affordable(Some(budget))), (None, 1.0), "{budget}");
            }
        }
        assert!(above > 0, "some are above it as floats");
    }

    #[test]
    fn the_frontier_holds_whom_nobody_beats_in_both() {
        let points = [("3", 0.9), ("1", 0.5), ("2", 0.5), ("1", 0.6), ("3", 0.9), ("1", 0.6)];
        let points = points.map(|(cost, gain)| (usd(cost), gain));
        assert_eq!(frontier(&points), [3, 0], "of equals the first");
        assert!(frontier(&[]).is_empty());
    }
}
