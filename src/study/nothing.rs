//! What to say where nothing at all was judged right: what the metric looked for, and what an answer was.

use crate::evaluate::Workload;
use crate::metric;
use crate::prompt::{Context, Fields, Template};
use crate::store::Store;
use crate::study::trial::Trial;
use crate::task::{Direction, Instance};

/// Fewer evaluations than this may all be wrong by chance.
const FEW: usize = 4;

/// The longest stretch of an answer, or of what is expected, that is shown.
const SHOWN: usize = 120;

/// A sentence about the metric and one answer, where every evaluation scored 0 and more would be better.
pub fn right(workload: &Workload, trials: &[Trial], store: &dyn Store) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
