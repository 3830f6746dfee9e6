//! What the user should know beside the numbers of a study.

use super::{Ranked, Standing, Trial, claims, ranking};
use crate::evaluate::Workload;
use crate::metric;
use crate::money::Usd;
use crate::prompt::{Context, Fields, Template};
use crate::provider::Failure;
use crate::space::parameter::output_limit;
use crate::store::Store;
use crate::study::pipeline::Ending;
use crate::task::{Direction, Instance};

/// What everything that shows numbers must say of models that are made up.
pub const MADE_UP: &str = "The models are made up: their answers are computed, not written by a language model.";

/// What a study came to, as far as notes are made of it.
pub struct Course<'a> {
    pub workload: &'a Workload,
    pub trials: &'a [Trial],
    pub ranking: &'a [Ranked],
    pub budget: Option<Usd>,
    pub search_cost: Usd,
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
    let Course { trials, ranking, budget, .. } = *course;
    let mut notes = Vec::new();
    if trials.iter().any(|trial| trial.plan.service.source() == "mock") {
        notes.push(MADE_UP.to_owned());
    }
    if let Ending::SpentOut { lost_to: Some(failure) } = course.ending {
        notes.push(format!(
            "The budget ended because more of it went to requests that failed, and may be billed, than to answers: {failure}."
        ));
    } else if matches!(course.ending, Ending::SpentOut { .. }) {
        notes.push(
            "It stopped for the money that was really spent, though the study by itself has cost less than the budget: \
             requests whose answer was lost count at their worst case, and what an earlier part bought may have been \
             of no use to this one."
                .to_owned(),
        );
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
    let left = budget.map_or(Usd::ZERO, |budget| budget.saturating_left(course.search_cost));
    let unbounded = trials.iter().any(|trial| {
        trial.refused > 0
            && output_limit(|name| trial.plan.params.get(name)).is_none()
            && !trial.plan.service.source().starts_with("replay")
    });
    if course.first_refusal.is_some() && unbounded && budget.is_some_and(|budget| left.as_f64() > 0.1 * budget.as_f64())
    {
        notes.push(format!(
            "${left} were left unused because no max_tokens is set: a completion was held at the model's output limit. Set max_tokens to use more of the budget."
        ));
    }
    if let Some(row) = ranking.iter().find(|row| trials[row.trial].is_baseline && row.standing == Standing::Infeasible)
    {
        notes.push(format!("The baseline is {}.", row.reason.clone().unwrap_or_default()));
    }
    notes
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
