//! A run for other programs and places: JSON, Markdown for a pull request, JUnit for a build server.

pub mod junit;
pub mod markdown;

use serde_json::{Value, json};

use crate::report::matters;
use crate::report::page;
use crate::report::rows::RankingRow;
use crate::report::run::Run;

pub use junit::junit;
pub use markdown::markdown;

/// Everything that a run's page rests on but single evaluations: `{"run", "ended", "study", "summary", "ranking",
/// "importance", "progress", "failures", "gaps"}`. The columns of the ranking are those of `ranking.csv`.
pub fn json(run: &Run) -> Value {
    let row = |row: &RankingRow| {
        let mut value = serde_json::to_value(row).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("configuration".to_owned(), json!(row.parameters()));
        }
        value
    };
    let (course, _) = page::course(run);
    let mut failures = std::collections::BTreeMap::new();
    for failure in run.evaluations.iter().filter_map(|done| run.failures.get(done.failure? as usize)) {
        *failures.entry(failure.kind.word()).or_insert(0_u64) += 1;
    }
    json!({
        "run": run.name(),
        "ended": run.ended,
        "study": {"farthing": run.file.farthing, "hashes": run.file.hashes, "settings": run.file.settings},
        "summary": run.summary,
        "ranking": run.rows.iter().map(row).collect::<Vec<_>>(),
        "importance": matters::matters(&run.rows),
        "progress": course.steps.iter().map(|(cost, score)| json!({"study_cost_usd": cost, "score": score})).collect::<Vec<_>>(),
        "failures": failures,
        "gaps": run.gaps,
    })
}
