//! What a run came to, in sentences.

use super::{
    are, configuration, count, cut, dollars, line, number, p_value, percent, plural, probability, scored, signed,
};
use crate::money::Usd;
use crate::study::compare::Verdict;
use crate::study::{Holdout, MADE_UP, Scored, StopReason, Summary, Versus};
use crate::task::Direction;

/// The answer in one sentence.
pub fn answer(summary: &Summary) -> String {
    let metric = line(&cut(&summary.metric, 60));
    let Some(best) = &summary.best else {
        return match summary.inference_budget_usd {
            _ if summary.evaluations <= summary.failed_evaluations => {
                "There is no answer: no configuration could be judged on any instance.".to_owned()
            }
            Some(budget) => format!(
                "There is no answer: none of {} is within the inference budget of ${budget} an instance and answers reliably.",
                plural(summary.trials as u64, "configuration")
            ),
            None => format!(
                "There is no answer: none of {} answers reliably.",
                plural(summary.trials as u64, "configuration")
            ),
        };
    };
    let price = match best.production_cost_usd_per_instance {
        Some(cost) => format!(", at {} an instance", dollars(cost)),
        None => String::new(),
    };
    format!("The best of {} has {metric} {}{price}.", plural(summary.chosen_among(), "configuration"), judged(best))
}

fn judged(of: &Scored) -> String {
    format!("{} on {}", scored(of.score, of.ci95), plural(of.instances as u64, "tuning instance"))
}

/// How the baseline did while tuning, where there is one and it is not the winner.
pub fn baseline(summary: &Summary) -> Option<String> {
    let baseline = summary.baseline.as_ref()?;
    if summary.best.as_ref().is_some_and(|best| best.id == baseline.id) {
        return Some("The baseline is the best that was found.".to_owned());
    }
    if baseline.score.is_none() {
        return Some("The baseline could not be judged.".to_owned());
    }
    let price = baseline.production_cost_usd_per_instance.map(|cost| format!(", at {} an instance", dollars(cost)));
    Some(format!("The baseline has {}{}.", judged(baseline), price.unwrap_or_default()))
}

/// What may be claimed beside the scores: who may be best, the corrected score, the winner against the baseline.
pub fn claims(summary: &Summary) -> Vec<String> {
    let claims = &summary.claims;
    let mut texts = Vec::new();
    let (Some(best), Some(p_best)) = (&summary.best, claims.p_best) else { return texts };
    let may = plural(claims.may_be_best_count as u64, "configuration");
    let is = probability(p_best);
    texts.push(match claims.may_be_best_count {
        _ if claims.nothing_differs => format!(
            "Nothing differs, as far as was seen: the configurations are no further apart than chance puts them. \
             {may} may be best; P(best) of this one is {is}."
        ),
        1..=100 if claims.may_be_best.iter().all(|one| one.id != best.id) => {
            let likeliest = claims.may_be_best.first();
            let likeliest = likeliest.map(|one| {
                format!("; the likeliest is {} ({})", configuration(&one.config, 40), probability(one.p_best))
            });
            format!(
                "On further instances {may} may be best, and this one, with a P(best) of {is}, is not among them{}.",
                likeliest.unwrap_or_default()
            )
        }
        0 | 1 if summary.chosen_among() > 1 => {
            format!("No other configuration tried may still be best: P(best) is {is}.")
        }
        0 | 1 => return Vec::new(),
        _ => format!("{may} may still be best; P(best) of this one is {is}."),
    });
    if let Some(score) = claims.corrected_score.filter(|_| claims.method.as_deref() == Some("bootstrap_oob")) {
        let metric = line(&cut(&summary.metric, 60));
        let score = scored(Some(score), claims.corrected_ci95);
        let mut text = format!("Corrected for having been chosen among many, its {metric} is {score}.");
        // Where all values are equal, rounding alone may part them.
        let near = |raw: f64| 1e-9 * raw.abs();
        let outside =
            |raw: f64| claims.corrected_ci95.is_some_and(|[low, high]| raw < low - near(raw) || raw > high + near(raw));
        if best.score.is_some_and(outside) {
            text += " The score above lies outside of that: the instances that chose it flatter it so much.";
        }
        texts.push(text);
    }
    // What was held out says it better, and the two must not contradict each other.
    let tested = summary.held_out().is_some_and(|holdout| holdout.versus_baseline.is_some());
    if let Some(versus) = claims.versus_baseline.as_ref().filter(|_| !tested) {
        let [low, high] = versus.confidence_sequence;
        let on = format!(
            "on {} that both answered: {} [{}, {}], valid at any time of looking",
            plural(versus.pairs as u64, "tuning instance"),
            signed(versus.difference),
            signed(low),
            signed(high)
        );
        texts.push(match versus.claim.as_str() {
            "better" => format!("It is shown to be better than the baseline {on}."),
            "worse" => format!("It is shown to be worse than the baseline {on}."),
            _ => format!("It is not shown to be better than the baseline {on}."),
        });
    }
    let then = summary.best_expected.as_ref().filter(|other| other.id != best.id);
    texts.extend(then.map(|other| {
        format!("The first metric alone would choose {} ({}).", other.id, scored(other.score, other.ci95))
    }));
    texts
}

/// The cheapest of those that may be best too, where it costs less than half of the winner: `None` where there is none.
pub fn cheaper(summary: &Summary) -> Option<String> {
    let best = summary.best.as_ref()?;
    let price = best.production_cost_usd_per_instance?;
    let may = |trial: usize| summary.claims.may_be_best.iter().find(|candidate| candidate.trial == trial);
    // The cheapest that may be best is on the frontier, which is ordered by price.
    let (point, candidate) = summary.pareto.iter().find_map(|point| Some((point, may(point.trial)?)))?;
    let cost = point.production_cost_usd_per_instance;
    if point.trial == best.trial || cost.times(2) >= price {
        return None;
    }
    let share = match cost > Usd::ZERO {
        true => format!("costs {} of it", percent(cost.as_f64() / price.as_f64())),
        false => "costs nothing".to_owned(),
    };
    Some(format!(
        "{} {share}, {} an instance, and may be the best too: {} {}, P(best) {}: {}",
        point.id,
        dollars(cost),
        line(&cut(&summary.metric, 60)),
        scored(candidate.score, candidate.ci95),
        probability(candidate.p_best),
        configuration(&point.config, 60)
    ))
}

/// Why the study stopped.
pub fn stopped(summary: &Summary) -> String {
    match summary.stop_reason {
        StopReason::Budget => match summary.budget_usd {
            Some(budget) if summary.study_cost_usd.as_f64() >= 0.995 * budget.as_f64() => {
                "It stopped because the budget is used up.".to_owned()
            }
            _ => "It stopped because nothing more that was wanted fits what is left of the budget.".to_owned(),
        },
        StopReason::Converged => match (summary.margin, summary.claims.expected_gain) {
            (Some(margin), Some(gain)) if gain < margin => format!(
                "It stopped because going on is expected to gain {}, below the margin of {margin}.",
                number(gain)
            ),
            (Some(margin), _) => format!(
                "It stopped because no further look was likely to change the answer by more than the margin of {margin}."
            ),
            _ if summary.claims.may_be_best_count > 1 => {
                "It stopped because no further look is worth its price.".to_owned()
            }
            _ => "It stopped because no further look could change the answer.".to_owned(),
        },
        StopReason::Exhausted if summary.evaluations < (summary.trials * summary.tuning_instances) as u64 => {
            "It stopped because nothing is left to try: what was not evaluated on every instance cannot be best."
                .to_owned()
        }
        StopReason::Exhausted => "It stopped because everything there is was evaluated.".to_owned(),
        StopReason::MaxTrials => {
            format!(
                "It stopped because as many configurations as allowed ({}) were tried.",
                count(summary.trials as u64)
            )
        }
        StopReason::Interrupted => "It was interrupted: this is what was known by then.".to_owned(),
    }
}

/// What was spent, of what, and what the study cost where that differs.
pub fn spent(summary: &Summary) -> String {
    let mut text = match summary.budget_usd {
        Some(budget) => format!("Spent {} of ${budget}", dollars(summary.spent_usd)),
        None => format!("Spent {} without a cap", dollars(summary.spent_usd)),
    };
    if summary.lost_usd > Usd::ZERO {
        text += &format!(", {} of it on requests that were lost, at their worst case", dollars(summary.lost_usd));
    }
    if summary.study_cost_usd < summary.spent_usd {
        text += &format!("; what this result rests on cost {}", dollars(summary.study_cost_usd));
        if summary.budget_usd.is_some() {
            text += ", and the budget limits both";
        }
    } else if summary.study_cost_usd != summary.spent_usd {
        text += &format!("; with an empty store the study would have cost {}", dollars(summary.study_cost_usd));
        if summary.budget_usd.is_some() {
            text += ", which is what the budget limits";
        }
    }
    text + "."
}

/// The winner on held-out instances.
pub fn held_out(holdout: &Holdout, metric: &str) -> String {
    let metric = line(&cut(metric, 60));
    let mut text = match holdout.score {
        None => "None of the held-out instances could be judged".to_owned(),
        Some(score) => {
            let judged = plural(holdout.instances as u64, "instance");
            let on = match holdout.tuned {
                0 => format!("{} that did not choose it", plural(holdout.instances as u64, "held-out instance")),
                all if all == holdout.instances => {
                    format!("{judged}, all of them tuning instances that may have chosen it")
                }
                1 => format!("{judged}, 1 of them a tuning instance that may have chosen it"),
                some => format!("{judged}, {} of them tuning instances that may have chosen it", count(some as u64)),
            };
            format!("On {on}, it has {metric} {}", scored(Some(score), holdout.ci95))
        }
    };
    if let Some(cost) = holdout.production_cost_usd_per_instance {
        text += &format!(", at {} an instance", dollars(cost));
    }
    text += ".";
    if holdout.missing > 0 {
        text += &format!(" {} missing.", are(holdout.missing as u64));
    }
    if holdout.not_reached > 0 {
        text += &format!(" The budget did not reach {} more.", count(holdout.not_reached as u64));
    }
    text
}

/// The winner against the baseline on the instances of a test: a verdict only where those did not choose it.
pub fn tested_against_baseline(holdout: &Holdout, direction: Direction) -> Option<String> {
    let found = holdout.versus_baseline.as_ref()?;
    if holdout.held_out() {
        return Some(versus(found, direction));
    }
    let [low, high] = found.ci95;
    Some(format!(
        "On the {} that both answered it differs from the baseline, which has {}, by {} [{}, {}]; as it may have been chosen \
         on them, that does not show which is better.",
        plural(found.pairs as u64, "instance"),
        number(found.baseline_score),
        signed(found.difference),
        signed(low),
        signed(high)
    ))
}

/// The winner against the baseline on the same held-out instances.
pub fn versus(versus: &Versus, direction: Direction) -> String {
    let [low, high] = versus.ci95;
    let verdict = match versus.verdict(direction) {
        Verdict::NotToldApart => "cannot be told from the baseline",
        Verdict::Better => "is better than the baseline",
        Verdict::Worse => "is worse than the baseline",
    };
    let p = p_value(versus.p_value);
    let test = match versus.test.as_str() {
        "mcnemar_exact" => "McNemar's exact test".to_owned(),
        "paired_permutation" => "paired permutation test".to_owned(),
        // As runs of earlier versions say.
        "paired_bootstrap" => "paired bootstrap".to_owned(),
        other => line(other),
    };
    format!(
        "On the {} that both answered it {verdict}: {} [{}, {}], {p} ({test}); the baseline has {}.",
        plural(versus.pairs as u64, "instance"),
        signed(versus.difference),
        signed(low),
        signed(high),
        number(versus.baseline_score)
    )
}

/// True where the models were made up: everything that shows numbers must say so.
pub fn made_up(summary: &Summary) -> bool {
    summary.notes.iter().any(|note| says_made_up(note))
}

/// True for the note that says so.
pub fn says_made_up(note: &str) -> bool {
    note == MADE_UP
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;
    use crate::space::Configuration;
    use crate::study::claims::{Against, Candidate};
    use serde_json::json;

    #[test]
    fn claims_do_not_contradict_each_other() {
        let mut summary = crate::report::testing::outcome().summary;
        let mut other = crate::study::claims::Candidate {
            trial: 99,
            id: "other".into(),
            config: Configuration([("n".to_owned(), json!(10))].into()),
            p_best: 0.98,
            score: Some(0.5),
            ci95: None,
        };
        (summary.claims.nothing_differs, summary.claims.p_best) = (false, Some(0.004));
        (summary.claims.may_be_best, summary.claims.may_be_best_count) = (vec![other.clone()], 1);
        assert_eq!(
            claims(&summary)[0],
            "On further instances 1 configuration may be best, and this one, with a P(best) of <0.01, is not among them; \
             the likeliest is n=10 (0.98)."
        );
        other.id = summary.best.as_ref().unwrap().id.clone();
        (summary.claims.may_be_best, summary.claims.p_best) = (vec![other], Some(0.98));
        assert_eq!(claims(&summary)[0], "No other configuration tried may still be best: P(best) is 0.98.");
        // A correction that leaves the score that is shown outside says why.
        summary.claims.method = Some("bootstrap_oob".into());
        (summary.claims.corrected_score, summary.claims.corrected_ci95) = (Some(0.2), Some([0.1, 0.3]));
        for (score, told) in [(0.25, false), (0.3 + 1e-15, false), (0.35, true)] {
            summary.best.as_mut().unwrap().score = Some(score);
            assert_eq!(claims(&summary)[1].contains("lies outside of that"), told);
        }
        // The margin is the reason only where going on was expected to gain less.
        (summary.stop_reason, summary.margin) = (StopReason::Converged, Some(0.2));
        for (gain, told) in
            [(0.1, "expected to gain 0.100, below the margin of 0.2"), (0.3, "more than the margin of 0.2")]
        {
            summary.claims.expected_gain = Some(gain);
            assert!(stopped(&summary).contains(told), "{}", stopped(&summary));
        }
        // More was paid than the result rests on: what was paid binds, too.
        summary.spent_usd = summary.study_cost_usd + Usd::from_pico(1_000_000_000);
        assert!(spent(&summary).ends_with("and the budget limits both."), "{}", spent(&summary));
    }

    /// A study takes its time: it is run once.
    #[test]
    fn a_study_is_told_as_it_is() {
        let summary = testing::outcome().summary;
        only_what_was_judged_counts_and_what_stops_a_study_is_said(summary.clone());
        what_was_held_out_is_not_contradicted_by_the_tuning_instances(summary.clone());
        a_much_cheaper_one_that_may_be_best_is_named(summary);
    }

    fn only_what_was_judged_counts_and_what_stops_a_study_is_said(mut summary: Summary) {
        (summary.trials, summary.judged_trials) = (91, 25);
        assert!(answer(&summary).starts_with("The best of 25 configurations has "), "{}", answer(&summary));
        summary.judged_trials = 0;
        assert!(answer(&summary).starts_with("The best of 91 "), "a run of an earlier version says no more");

        summary.stop_reason = StopReason::Converged;
        summary.claims.may_be_best_count = 3;
        assert!(stopped(&summary).contains("no further look is worth its price"));
        summary.claims.may_be_best_count = 1;
        assert!(stopped(&summary).contains("could change the answer"));
        summary.stop_reason = StopReason::Budget;
        summary.budget_usd = "0.05".parse().ok();
        summary.study_cost_usd = "0.04999".parse().unwrap();
        assert!(stopped(&summary).contains("used up"));
        summary.study_cost_usd = "0.03".parse().unwrap();
        assert!(stopped(&summary).contains("nothing more that was wanted fits"));
    }

    fn what_was_held_out_is_not_contradicted_by_the_tuning_instances(mut summary: Summary) {
        let claim = Against {
            difference: 1.0,
            confidence_sequence: [-0.998, 1.0],
            e_value: 1.0,
            pairs: 2,
            claim: "not shown".into(),
        };
        summary.claims.versus_baseline = Some(claim);
        let shown = |summary: &Summary| claims(summary).join(" ").contains("not shown to be better than the baseline");
        let versus = Versus {
            difference: 0.47,
            ci95: [0.41, 0.53],
            p_value: 1e-5,
            test: "mcnemar_exact".into(),
            pairs: 300,
            baseline_score: 0.4,
        };
        summary.holdout.as_mut().unwrap().versus_baseline = None;
        assert!(shown(&summary));
        summary.holdout.as_mut().unwrap().versus_baseline = Some(versus);
        assert!(!shown(&summary));
    }

    #[test]
    fn a_test_on_tuning_instances_is_not_told_as_held_out() {
        let mut summary = testing::shared().summary.clone();
        let mut holdout = summary.holdout.clone().unwrap();
        let found = Versus {
            difference: 0.2,
            ci95: [0.1, 0.3],
            p_value: 0.008,
            test: "mcnemar_exact".into(),
            pairs: 60,
            baseline_score: 0.5,
        };
        (holdout.score, holdout.ci95, holdout.instances) = (Some(0.7), None, 60);
        holdout.versus_baseline = Some(found);
        let told = |holdout: &Holdout| {
            let baseline = tested_against_baseline(holdout, Direction::Maximize).unwrap();
            (held_out(holdout, "acc"), baseline)
        };
        let (score, baseline) = told(&holdout);
        assert!(score.starts_with("On 60 held-out instances that did not choose it, it has acc 0.700"), "{score}");
        assert!(baseline.contains("it is better than the baseline") && baseline.contains("p = 0.008"), "{baseline}");
        for (tuned, on) in [
            (48, "On 60 instances, 48 of them tuning instances that may have chosen it, it has acc 0.700"),
            (60, "On 60 instances, all of them tuning instances that may have chosen it, it has acc 0.700"),
        ] {
            holdout.tuned = tuned;
            let (score, baseline) = told(&holdout);
            assert!(score.starts_with(on), "{score}");
            assert!(baseline.contains("by +0.200 [+0.100, +0.300]; as it may have been chosen on them"), "{baseline}");
            assert!(!baseline.contains("better than") && !baseline.contains("p ="), "{baseline}");
        }
        // The first score is given by what did not choose it.
        summary.holdout = Some(holdout);
        let text = crate::report::table::answer(&summary, None);
        assert!(text.contains("farthing test DIR"), "{text}");
    }

    fn a_much_cheaper_one_that_may_be_best_is_named(mut summary: Summary) {
        let best = summary.best.as_mut().unwrap();
        best.production_cost_usd_per_instance = "0.000194".parse().ok();
        let mut point = summary.pareto[0].clone();
        (point.trial, point.id) = (best.trial + 1, "abcd1234".into());
        point.production_cost_usd_per_instance = "0.0000115".parse().unwrap();
        let candidate = |trial: usize| Candidate {
            trial,
            id: "x".into(),
            config: Configuration::default(),
            p_best: 0.22,
            score: Some(0.85),
            ci95: Some([0.8, 0.9]),
        };
        summary.claims.may_be_best = vec![candidate(best.trial), candidate(point.trial)];
        let dear = summary.pareto[0].clone();
        summary.pareto = vec![point];
        let text = cheaper(&summary).unwrap();
        assert!(
            text.starts_with("abcd1234 costs 5.9 % of it, $0.0000115 an instance, and may be the best too: exact 0.850 [0.800, 0.900], P(best) 0.22: "),
            "{text}"
        );
        summary.pareto[0].production_cost_usd_per_instance = "0.0001".parse().unwrap();
        assert!(cheaper(&summary).is_none(), "more than half the price");
        summary.claims.may_be_best.pop();
        summary.pareto = vec![dear];
        assert!(cheaper(&summary).is_none(), "nobody else may be best");
    }
}
