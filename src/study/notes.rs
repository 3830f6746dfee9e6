//! What the user should know beside the numbers of a study.

use super::{Ranked, Standing, Trial, claims, ranking};
use crate::evaluate::Workload;
use crate::metric;
use crate::money::Usd;
use crate::prompt::{Context, Fields, Template};
use crate::provider::Failure;
use crate::space::parameter::output_limit;
use crate::store::Store;
use crate::study::fixed::Tested;
use crate::study::pipeline::Ending;
use crate::study::trial::short;
use crate::task::{Direction, Instance};

/// What everything that shows numbers must say of models that are made up.
pub const MADE_UP: &str = "The models are made up: their answers are computed, not written by a language model.";

/// What a study came to, as far as notes are made of it.
pub struct Course<'a> {
    pub workload: &'a Workload,
    pub trials: &'a [Trial],
    pub ranking: &'a [Ranked],
    /// The search's part of the budget.
    pub budget: Option<Usd>,
    pub search_cost: Usd,
    /// What an earlier part of the study had spent when this one began.
    pub already: Usd,
    /// What requests that were lost count for.
    pub lost: Usd,
    /// What was said of the first evaluation that did not fit the budget.
    pub first_refusal: Option<&'a str>,
    pub ending: &'a Ending,
    pub store: &'a dyn Store,
}

/// What the user should know beside the numbers.
pub fn notes(course: &Course) -> Vec<String> {
    let Course { workload, trials, ranking, store, .. } = *course;
    let mut notes = of_money(course);
    notes.extend(nothing_right(workload, trials, store));
    notes.extend(ranking::best(ranking).and_then(|best| few_seen(best, ranking, &workload.task.objective.metric)));
    notes.extend(no_range(workload, trials, ranking));
    notes
}

/// Fewer evaluations than this may all be wrong by chance.
const FEW: usize = 4;

/// On fewer instances than this a winner's own score says little.
const FEW_SEEN: usize = 10;

/// The longest stretch of an answer, or of what is expected, that is shown.
const SHOWN: usize = 120;

/// A sentence about the metric and one answer, where every evaluation scored 0 and more would be better.
fn nothing_right(workload: &Workload, trials: &[Trial], store: &dyn Store) -> Option<String> {
    let objective = &workload.task.objective;
    let scores = || trials.iter().flat_map(|trial| trial.scores(&objective.metric));
    let judged = scores().count();
    let all_wrong = judged >= FEW && scores().all(|(_, score)| score == 0.0);
    if !all_wrong || objective.direction != Direction::Maximize {
        return None;
    }
    let trial = trials.iter().find(|trial| trial.scores(&objective.metric).next().is_some())?;
    let first = trial.evaluations.iter().position(|done| done.result.is_ok())?;
    let instance = &workload.task.tune[trial.evaluations[first].instance()];
    let mut text = format!("All {judged} evaluations scored 0.{}", looks_for(workload, instance));
    let print = trial.fingerprints.get(first).and_then(Option::as_ref);
    let stored = print.and_then(|print| store.stored(print).ok());
    if let Some(sample) = stored.as_ref().and_then(|stored| stored.samples().next()) {
        text += &format!(" The answer to the instance `{}` was: {}.", instance.id, shown(&sample.text));
    }
    text += " Ask in the prompt for what the metric looks for, or let it look elsewhere (type, extract, normalize).";
    Some(text)
}

/// What the objective's metric is, and what it expects of an instance.
fn looks_for(workload: &Workload, instance: &Instance) -> String {
    let name = &workload.task.objective.metric;
    let Some(table) = workload.task.metrics.iter().find(|table| table.name == *name) else { return String::new() };
    let Ok(read) = table.read() else { return String::new() };
    let option = |key: &str| Some(read.get_ref().get(key)?.get_ref().as_str()?.to_owned());
    let Some(kind) = option("type") else { return String::new() };
    let summary = metric::declare::declarations().iter().find(|of| of.name == kind).map_or("", |of| of.summary);
    let mut text = format!(" The metric `{name}` is {kind} ({summary})");
    let fields = Fields::new([]);
    let expected = option("expected").and_then(|expected| {
        Template::compile(&expected).ok()?.render(&Context::new(&instance.rendered, &fields)).ok()
    });
    if let Some(expected) = expected {
        text += &format!(" and looks for {}", shown(&expected));
    }
    if let Some(extract) = option("extract") {
        text += &format!(" in what {} extracts", shown(&extract));
    }
    text + "."
}

/// A text in quotes, cut where it is long.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{}{more}", serde_json::Value::from(cut))
}

/// What is said of a winner that few instances speak for: its relatives do.
fn few_seen(best: &Ranked, ranking: &[Ranked], metric: &str) -> Option<String> {
    let (estimate, (mean, _)) = (best.estimate.as_ref()?, best.posterior?);
    let more = ranking.iter().filter_map(|row| row.estimate.as_ref()).any(|other| other.count > estimate.count);
    (more && estimate.count < FEW_SEEN).then(|| {
        format!(
            "The winner was looked at on {} only. Its place follows from its relatives, other settings of the same prompt or \
             model, which were looked at on more: by them its {metric} is expected to be {mean:.3}.",
            if estimate.count == 1 { "1 instance".to_owned() } else { format!("{} instances", estimate.count) },
        )
    })
}

/// Why there is no claim against the baseline, where the metric's range is what is missing.
fn no_range(workload: &Workload, trials: &[Trial], ranking: &[Ranked]) -> Option<String> {
    let best = ranking::best(ranking)?;
    let compared = trials.iter().any(|trial| trial.is_baseline && trial.number != best.trial);
    (compared && claims::range(workload, trials).is_none()).then(|| {
        format!(
            "The winner is not compared with the baseline at any time of looking: the lowest and the highest `{0}` are not \
             known. Give range = [lowest, highest] under [objective].",
            workload.task.objective.metric
        )
    })
}

/// That no evaluation has a result, by why the first has none.
pub fn all_failed(first: &Failure) -> String {
    format!("Every evaluation failed; the first one: {}: {first}", first.kind)
}

/// Who answered, what the money was spent on, and why it was not.
fn of_money(course: &Course) -> Vec<String> {
    let Course { trials, ranking, .. } = *course;
    let mut notes = Vec::new();
    if trials.iter().any(|trial| trial.plan.service.source() == "mock") {
        notes.push(MADE_UP.to_owned());
    }
    if let Ending::SpentOut { lost_to: Some(failure) } = course.ending {
        notes.push(format!(
            "The budget ended because more of it went to requests that failed, and may be billed, than to answers: {failure}."
        ));
    } else if matches!(course.ending, Ending::SpentOut { .. }) {
        let lost = (course.lost > Usd::ZERO).then_some("requests whose answer was lost count at their worst case");
        let before =
            (course.already > Usd::ZERO).then_some("what an earlier part bought may have been of no use to this one");
        let why: Vec<&str> = lost.into_iter().chain(before).collect();
        notes.push(format!(
            "It stopped for the money that was really spent, though what this rests on has cost less than the budget{}{}.",
            if why.is_empty() { "" } else { ": " },
            why.join(", and ")
        ));
    }
    let judged = trials.iter().any(|trial| trial.evaluations.iter().any(|done| done.result.is_ok()));
    let failures = || trials.iter().flat_map(|trial| &trial.evaluations).filter_map(|done| done.result.as_ref().err());
    match (course.first_refusal, failures().next()) {
        (_, Some(first)) if !judged => {
            notes.push(all_failed(first));
        }
        (Some(refusal), None) if !judged => {
            notes.push(format!("Not one evaluation could be sent; of the first one: {refusal}."));
        }
        _ => {}
    }
    notes.extend(worst_case(course));
    if let Some(row) = ranking.iter().find(|row| trials[row.trial].is_baseline && row.standing == Standing::Infeasible)
    {
        notes.push(format!("The baseline is {}.", row.reason.clone().unwrap_or_default()));
    }
    notes
}

/// That the worst case of an evaluation kept the study from using its money, where what one really costs would have fitted.
fn worst_case(course: &Course) -> Option<String> {
    let Course { workload, trials, search_cost, .. } = *course;
    let (budget, _) = (course.budget?, course.first_refusal?);
    let left = budget.saturating_left(search_cost);
    // A source that knows its bills beforehand holds no more than those.
    let held = |trial: &&Trial| trial.refused > 0 && !trial.plan.service.source().starts_with("replay");
    let refused: Vec<&Trial> = trials.iter().filter(held).collect();
    let instance = workload.task.tune.first()?;
    let worst = |trial: &&Trial| {
        let request = trial.plan.request(instance).ok()?;
        Some(trial.plan.service.bound(&request, 0, true))
    };
    let least = refused.iter().filter_map(worst).min()?;
    let billed = |trials: &[&Trial]| {
        let bills = || trials.iter().flat_map(|trial| &trial.evaluations).filter(|done| done.production().is_some());
        (bills().count() > 0).then(|| Usd::mean(bills().map(|done| done.cost).sum(), bills().count() as u64))
    };
    let mean = billed(&refused).or_else(|| billed(&trials.iter().collect::<Vec<_>>()))?;
    let evaluations: usize = refused.iter().map(|trial| trial.refused).sum();
    let unbounded = refused.iter().any(|trial| output_limit(|name| trial.plan.params.get(name)).is_none());
    keeps_money(left, budget, evaluations, (least, mean), unbounded)
}

/// The sentence, where much is left: `worst` and `mean` are of one evaluation.
fn keeps_money(left: Usd, budget: Usd, refused: usize, (worst, mean): (Usd, Usd), unbounded: bool) -> Option<String> {
    let much = left.as_f64() > 0.1 * budget.as_f64() && left >= mean && worst > mean;
    let advice = match unbounded {
        true => "No max_tokens is set, so a completion is held at the model's output limit: set it",
        false => "Lower max_tokens",
    };
    much.then(|| {
        format!(
            "${left} were left unused: {refused} evaluation{} refused, because the worst case of one, ${} or more, did not fit, \
             though one costs ${} on the average. {advice} to use more of the budget.",
            if refused == 1 { " was" } else { "s were" },
            short(worst.as_f64()),
            short(mean.as_f64())
        )
    })
}

/// That the share of the budget that was set aside for a held-out test bought none, and why.
pub fn untested(tested: Option<&Tested>, found: bool, ending: &Ending) -> Option<String> {
    if tested.is_some_and(|test| test.holdout.score.is_some()) {
        return None;
    }
    let why = match tested.and_then(|test| test.refusal.as_deref()) {
        Some(refusal) => format!("of the first instance, {refusal}"),
        None if *ending == Ending::Interrupted => "the run was interrupted before".to_owned(),
        None if !found => "there is no winner to test".to_owned(),
        None if tested.is_some_and(|test| test.holdout.missing > 0) => "every evaluation failed".to_owned(),
        None => "too little is left of the money".to_owned(),
    };
    Some(format!("No held-out test was made with what --test-share set aside: {why}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_winner_on_few_instances_is_said_to_stand_for_its_relatives() {
        let of = |right: &[f64]| Ranked {
            rank: 1,
            trial: 0,
            standing: Standing::Eligible,
            reason: None,
            estimate: crate::stats::estimate(right),
            posterior: Some((0.8712, 0.03)),
            probability: Some(0.3),
        };
        let others = [of(&[1.0; 40])];
        let text = few_seen(&of(&[1.0; 3]), &others, "accuracy").unwrap();
        assert!(
            text.contains("on 3 instances only") && text.ends_with("its accuracy is expected to be 0.871."),
            "{text}"
        );
        assert!(few_seen(&of(&[1.0]), &others, "accuracy").unwrap().contains("on 1 instance only"));
        assert_eq!(few_seen(&of(&[1.0; FEW_SEEN]), &others, "accuracy"), None);
        assert_eq!(few_seen(&of(&[1.0; 3]), &[of(&[1.0; 3])], "accuracy"), None, "nothing was looked at on more");
    }

    #[test]
    fn a_worst_case_that_keeps_the_money_is_said() {
        let usd = |text: &str| text.parse::<Usd>().unwrap();
        let prices = (usd("0.0161"), usd("0.0005"));
        assert_eq!(
            keeps_money(usd("0.01527"), usd("0.02"), 72, prices, false).unwrap(),
            "$0.01527 were left unused: 72 evaluations were refused, because the worst case of one, $0.0161 or more, did \
             not fit, though one costs $0.0005 on the average. Lower max_tokens to use more of the budget."
        );
        let unbounded = keeps_money(usd("0.01527"), usd("0.02"), 1, prices, true).unwrap();
        assert!(unbounded.contains(": 1 evaluation was refused,"), "{unbounded}");
        assert!(
            unbounded.contains("No max_tokens is set, so a completion is held at the model's output limit: set it to")
        );
        assert_eq!(keeps_money(usd("0.001"), usd("0.02"), 72, prices, false), None, "little is left");
        assert_eq!(
            keeps_money(usd("0.004"), usd("0.02"), 72, (usd("0.0161"), usd("0.005")), false),
            None,
            "it costs more"
        );
    }

    #[test]
    fn a_share_that_bought_no_test_is_said() {
        let holdout = |missing| crate::study::Holdout {
            score: None,
            ci95: None,
            instances: 0,
            missing,
            not_reached: 0,
            production_cost_usd_per_instance: None,
            versus_baseline: None,
            tuned: 0,
            data_hash: String::new(),
        };
        let tested = |missing, refusal: Option<&str>| Tested {
            holdout: holdout(missing),
            ending: Ending::Done,
            sums: crate::event::Sums::default(),
            cost: Usd::ZERO,
            refusal: refusal.map(str::to_owned),
        };
        let told = |test: Option<Tested>, found, ending| untested(test.as_ref(), found, &ending).unwrap();
        assert!(
            told(Some(tested(0, Some("its worst case is $1"))), true, Ending::Done).ends_with("its worst case is $1.")
        );
        assert!(told(Some(tested(5, None)), true, Ending::Done).ends_with("every evaluation failed."));
        assert!(told(None, true, Ending::Interrupted).ends_with("the run was interrupted before."));
        assert!(told(None, false, Ending::Done).ends_with("there is no winner to test."));
        let mut whole = tested(0, None);
        whole.holdout.score = Some(0.5);
        assert_eq!(untested(Some(&whole), true, &Ending::Done), None);
    }

    #[test]
    fn what_was_looked_for_is_said() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("rows.jsonl"),
            "{\"t\":\"a\",\"label\":\"bug\"}\n{\"t\":\"b\",\"label\":\"x\"}\n",
        )
        .unwrap();
        let task = "[task]\nname = \"t\"\n[data]\ntune = \"rows.jsonl\"\ntest = \"rows.jsonl\"\n[objective]\nmetric = \"right\"\n\
             [metrics.right]\ntype = \"exact_match\"\nexpected = \"{{ label }}\"\nextract = 'is (\\w+)'\n";
        std::fs::write(folder.path().join("task.toml"), task).unwrap();
        let workload = Workload::load(folder.path()).unwrap();
        let text = looks_for(&workload, &workload.task.tune[0]);
        assert!(
            text.starts_with(" The metric `right` is exact_match (1 where the answer is the expected text")
                && text.ends_with(" and looks for \"bug\" in what \"is (\\\\w+)\" extracts."),
            "{text}"
        );
        assert_eq!(shown(&"y".repeat(200)).len(), SHOWN + 5);
    }
}
