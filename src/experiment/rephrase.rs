//! An experiment whose prompts are said in other words: first models are asked to paraphrase them, then their replies take
//! the prompts' places.

use std::path::Path;

use serde_json::Value;

use super::asked::{self, Asking, Made, Member, beside};
use super::fields::Fields;
use super::input::{Input, Lines};
use super::row::id_of;
use crate::diagnostic::{Error, Result, Source};

/// How a model is asked where nothing else is said.
pub const TEMPLATE: &str = "Say the following in other words. Keep its meaning, its language, and every name and number in it. \
Answer with the new text alone.\n\n{{ prompt }}";

/// The templates of a file: one a line (prompto's form: `\n` in it is a line's end), or the whole of a .jinja file.
pub fn templates(path: &Path) -> Result<Vec<Asking>> {
    if path.extension().is_some_and(|ending| ending == "jinja" || ending == "j2") {
        return Ok(vec![Asking::load(path)?]);
    }
    let source = Source::read(path)?;
    let lines = source.text().lines().filter(|line| !line.trim().is_empty());
    let templates: Vec<Asking> = lines
        .enumerate()
        .map(|(at, line)| Asking::new(at.to_string(), &line.replace("\\n", "\n").replace("\\t", "\t")))
        .collect::<Result<_>>()?;
    match templates.is_empty() {
        false => Ok(templates),
        true => Err(Error::usage(format!("{} holds no template", path.display()))),
    }
}

/// Writes the experiment in which models paraphrase a file's prompts, `times` each. Prompts that are no texts are left out.
pub fn write(source: &Path, models: &[Member], templates: &[Asking], times: u32, out: &Path) -> Result<Made> {
    asked::write(
        (source, out),
        "rephrase",
        (models, templates),
        |row| row.filled("prompt").is_some_and(Value::is_string),
        |model| {
            let (params, mut columns): (Vec<_>, Vec<_>) =
                model.columns.iter().cloned().partition(|(name, _)| name == "parameters");
            let params = params.into_iter().next().map(|(_, value)| value);
            let mut params = params.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
            if times > 1 {
                params.insert("n".to_owned(), times.into());
            }
            if !params.is_empty() {
                columns.push(("parameters".to_owned(), params.into()));
            }
            columns
        },
    )
}

/// How the replies become an experiment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish {
    /// A reply is a numbered list, each item a prompt.
    pub split: bool,
    /// The rows that were paraphrased are left out.
    pub remove_original: bool,
}

/// Writes the experiment with paraphrased prompts: a row for each paraphrase with the columns that its original had, and
/// the originals behind them. `replies` is the paraphrasing experiment's results.jsonl.
pub fn finish(replies: &Path, original: &Path, how: Finish, out: &Path) -> Result<Made> {
    let mut lines = Lines::create(out)?;
    let mut made = Made::default();
    let input = Input::open(replies, &replies.display().to_string(), beside(out))?;
    input.each(|place, row| {
        let row = row.map_err(|fault| Error::usage(format!("{}:{}: {fault}", input.name(), place.line)))?;
        let said: Vec<&str> = match row.fields.get("response") {
            Some(Value::String(text)) => vec![text.as_str()],
            Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let failed = row.fields.get("status").and_then(Value::as_str) == Some("failed");
        let mut prompts: Vec<String> = match how.split {
            true => said.iter().flat_map(|text| numbered(text)).collect(),
            false => said.iter().map(|text| text.trim().to_owned()).collect(),
        };
        prompts.retain(|prompt| !prompt.is_empty());
        if failed || prompts.is_empty() {
            made.skipped += 1;
            return Ok(());
        }
        let id = id_of(&row.fields, 0);
        let several = prompts.len() > 1;
        for (at, prompt) in prompts.into_iter().enumerate() {
            let id = if several { format!("{id}-{}", at + 1) } else { id.clone() };
            let mut fields = Fields(vec![("id".to_owned(), id.into()), ("prompt".to_owned(), prompt.into())]);
            for (name, value) in &row.fields.0 {
                let Some(own) = name.strip_prefix("input-") else { continue };
                match own {
                    "id" | "prompt" => fields.set(name, value.clone()),
                    own => fields.set(own, value.clone()),
                }
            }
            lines.add(&fields)?;
            made.rows += 1;
        }
        Ok(())
    })?;
    drop(input);
    if !how.remove_original {
        let input = Input::open(original, &original.display().to_string(), beside(out))?;
        let mut number = 0;
        input.each(|place, row| {
            number += 1;
            let mut row = row.map_err(|fault| Error::usage(format!("{}:{}: {fault}", input.name(), place.line)))?;
            if row.fields.filled("id").is_none() {
                row.fields.set("id", number.to_string().into());
            }
            lines.add(&row.fields)
        })?;
    }
    lines.finish()?;
    Ok(made)
}

/// The items of a numbered list; what stands before the first one is none.
fn numbered(text: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        match trimmed[digits..].strip_prefix(['.', ')', ':']) {
            Some(rest) if digits > 0 && digits < 4 => items.push(rest.trim().to_owned()),
            _ => {
                if let Some(last) = items.last_mut().filter(|_| !trimmed.is_empty()) {
                    last.push('\n');
                    last.push_str(trimmed);
                }
            }
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    #[test]
    fn a_numbered_list_is_taken_apart() {
        assert_eq!(
            numbered("Here:\n1. one\n  more\n2) two\n\n10: ten\n2024 was"),
            ["one\nmore", "two", "ten\n2024 was"]
        );
        assert!(numbered("no list").is_empty());
    }

    #[test]
    fn paraphrases_take_the_place_of_prompts() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        std::fs::write(path("x.csv"), "prompt,model,group\nsay a,m,g\n,m,g\n").unwrap();
        let asking = [Asking::new("0", "Other words: {INPUT_PROMPT}").unwrap()];
        let model = Member::of("r", Map::from_iter([("temperature".to_owned(), json!(1))]));
        let made = write(&path("x.csv"), &[model], &asking, 2, &path("ask.jsonl")).unwrap();
        assert_eq!(made, Made { rows: 1, skipped: 1 });
        let row: Value = serde_json::from_str(&std::fs::read_to_string(path("ask.jsonl")).unwrap()).unwrap();
        assert_eq!(
            row,
            json!({"id": "rephrase-r-0-1", "template_name": "0", "prompt": "Other words: say a", "model": "r", "parameters": {"temperature": 1, "n": 2},
            "input-id": "1", "input-prompt": "say a", "input-model": "m", "input-group": "g"})
        );
        let mut answered = row.as_object().unwrap().clone();
        answered.insert("response".into(), json!(["tell a", " speak a "]));
        std::fs::write(path("results.jsonl"), Value::from(answered).to_string() + "\n").unwrap();
        for name in ["out.rows", "out.new"] {
            std::fs::write(path(name), "the user's").unwrap();
        }
        finish(&path("results.jsonl"), &path("x.csv"), Finish::default(), &path("out.jsonl")).unwrap();
        for name in ["out.rows", "out.new"] {
            assert_eq!(std::fs::read_to_string(path(name)).unwrap(), "the user's", "{name}");
        }
        let text = std::fs::read_to_string(path("out.jsonl")).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            rows[0],
            json!({"id": "rephrase-r-0-1-1", "prompt": "tell a", "input-id": "1", "input-prompt": "say a", "model": "m", "group": "g"})
        );
        assert_eq!(rows[1]["prompt"], "speak a");
        assert_eq!((rows.len(), &rows[2]["prompt"], &rows[2]["id"]), (4, &json!("say a"), &json!("1")));
    }
}
