//! An experiment made of another one's answers: models that judge them.

use std::path::Path;

use serde_json::Value;

use super::asked::{self, Asking, Made, Member};
use crate::diagnostic::Result;

/// Writes the experiment in which judges are asked about a file's answers: every judge, by every template, about every row
/// that was answered.
pub fn write(source: &Path, judges: &[Member], templates: &[Asking], out: &Path) -> Result<Made> {
    asked::write(
        (source, out),
        "judge",
        (judges, templates),
        |row| {
            let failed = row.get("status").and_then(Value::as_str) == Some("failed");
            !failed && row.filled("response").is_some()
        },
        |judge| {
            let name = ("judge".to_owned(), judge.name.as_str().into());
            std::iter::once(name).chain(judge.columns.iter().cloned()).collect()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_judge_by_every_template_about_every_answer() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        std::fs::write(path("r.jsonl"), "{\"id\":7,\"prompt\":\"p\",\"response\":\"r\"}\n{\"prompt\":\"q\",\"response\":null}\n{\"prompt\":\"q\",\"response\":\"x\",\"status\":\"failed\"}\n").unwrap();
        std::fs::write(path("s.json"), r#"{"strict": {"api": "openai", "model_name": "m", "parameters": {"temperature": 0}}, "mild": {"model": "n"}}"#).unwrap();
        let judges = Member::load(&path("s.json"), &[]).unwrap();
        let templates = [Asking::new("a", "A {INPUT_PROMPT}").unwrap(), Asking::new("b", "B {{ response }}").unwrap()];
        let made = write(&path("r.jsonl"), &judges, &templates, &path("o.jsonl")).unwrap();
        assert_eq!(made, Made { rows: 4, skipped: 2 });
        let text = std::fs::read_to_string(path("o.jsonl")).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            rows[0],
            json!({"id": "judge-mild-a-7", "judge": "mild", "template_name": "a", "prompt": "A p", "model": "n", "input-id": 7, "input-prompt": "p", "input-response": "r"})
        );
        assert_eq!(rows[3]["id"], "judge-strict-b-7");
        assert_eq!(rows[3]["parameters"], json!({"temperature": 0}));
        assert!(
            Member::load(&path("s.json"), &["strikt".to_owned()]).unwrap_err().advice().unwrap().contains("`strict`")
        );
    }
}
