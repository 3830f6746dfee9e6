//! `json`: whether an answer is JSON, and holds what is expected at given places.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use super::Vote;
use super::declare::Building;
use super::text::{Judge, Normalize, render};
use crate::diagnostic::Result;
use crate::prompt::Template;
use crate::provider::Sample;
use crate::task::Instance;

/// Options of `json`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonOptions {
    /// What must stand where: paths like "a.b" or "items.0.name" (or JSON pointers, "/a/b") and what is there, a
    /// template over the instance or a plain value. Numbers compare as numbers, texts after `normalize`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    equals: BTreeMap<String, Spanned<toml::Value>>,
    /// Whether a Markdown code fence around the JSON (the first one, if there are several) is taken off.
    #[serde(default)]
    fence: bool,
}

/// `json`.
pub struct Json {
    equals: Vec<(Path, Wanted)>,
    fence: bool,
}

/// Keys and indices, from the outside in.
type Path = Vec<String>;

enum Wanted {
    Template(Template),
    Value(Value),
}

/// What is expected at a place.
pub enum Expected {
    /// A rendered template: text, or what the text says where the answer has something else there.
    Text(String),
    /// A value as written in the table.
    Value(Value),
}

/// `a.b` or `/a/b` in steps.
fn path(text: &str) -> Path {
    match text.strip_prefix('/') {
        Some(pointer) => pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect(),
        None => text.split('.').map(str::to_owned).collect(),
    }
}

fn at<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Object(map) => map.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// The content of the first Markdown fence, else the whole text.
fn unfenced(text: &str) -> &str {
    let Some(open) = text.find("```") else { return text };
    let inner = &text[open + 3..];
    // The rest of the fence's line names the language.
    let language =
        inner.find('\n').filter(|&end| inner[..end].chars().all(|c| c.is_alphanumeric() || c.is_whitespace()));
    let inner = language.map_or(inner, |end| &inner[end + 1..]);
    inner.find("```").map_or(inner, |close| &inner[..close])
}

impl Json {
    fn wanted(
        building: &mut Building<'_>,
        path: Path,
        value: &toml::Value,
        place: &Spanned<toml::Value>,
        all: &mut Vec<(Path, Wanted)>,
    ) -> Result<()> {
        match value {
            toml::Value::Table(table) => {
                // `equals = { a.b = "x" }` is a table in a table, to TOML.
                for (key, value) in table {
                    let path = path.iter().chain([key]).cloned().collect();
                    Json::wanted(building, path, value, place, all)?;
                }
            }
            toml::Value::String(text) => {
                let template = building.template_with_null(&Spanned::new(place.span(), text.clone()))?;
                all.push((path, Wanted::Template(template)));
            }
            other => {
                let value =
                    serde_json::to_value(other).ok().filter(|value| !matches!(value, Value::Null | Value::Object(_)));
                let value =
                    value.ok_or_else(|| building.error("JSON has no such value", place.span(), "this value"))?;
                all.push((path, Wanted::Value(value)));
            }
        }
        Ok(())
    }
}

impl Judge for Json {
    const NAME: &'static str = "json";
    const SUMMARY: &'static str = "1 where the answer is JSON and holds what is expected, else 0";
    const VOTES: &'static [Vote] = Vote::BINARY;
    type Options = JsonOptions;
    type Expected = Vec<Expected>;
    type Answer = Value;

    fn new(options: JsonOptions, building: &mut Building<'_>) -> Result<Json> {
        let mut equals = Vec::new();
        for (key, value) in &options.equals {
            Json::wanted(building, path(key), value.get_ref(), value, &mut equals)?;
        }
        Ok(Json { equals, fence: options.fence })
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<Vec<Expected>, String> {
        let one = |(_, wanted): &(Path, Wanted)| match wanted {
            Wanted::Template(template) => {
                Ok(Expected::Text(normalize.apply(&render(template, instance)?).into_owned()))
            }
            Wanted::Value(value) => Ok(Expected::Value(value.clone())),
        };
        self.equals.iter().map(one).collect()
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<Value> {
        let text = if self.fence { unfenced(text) } else { text };
        serde_json::from_str(text).ok().map(|value| normalized(value, normalize))
    }

    fn score(&self, expected: &Vec<Expected>, answer: &Value) -> f64 {
        let holds = |((path, _), expected): (&(Path, Wanted), &Expected)| match (at(answer, path), expected) {
            (None, _) => false,
            (Some(found), Expected::Text(text)) => says(text, found),
            (Some(found), Expected::Value(value)) => same(value, found),
        };
        f64::from(u8::from(self.equals.iter().zip(expected).all(holds)))
    }
}

/// The same value with every text in it normalised (keys are not).
fn normalized(value: Value, normalize: &Normalize) -> Value {
    match value {
        Value::String(text) => Value::String(normalize.apply(&text).into_owned()),
        Value::Array(items) => items.into_iter().map(|item| normalized(item, normalize)).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, normalized(value, normalize))).collect(),
        other => other,
    }
}

/// Equality in which 2 is 2.0.
fn same(a: &Value, b: &Value) -> bool {
    let whole = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => match (whole(a), whole(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Whether a rendered text says what a value is.
fn says(text: &str, value: &Value) -> bool {
    let word = |word: &str| text.trim().eq_ignore_ascii_case(word);
    match value {
        Value::String(found) => found == text,
        Value::Bool(found) => word(if *found { "true" } else { "false" }),
        Value::Null => word("none") || word("null"),
        other => serde_json::from_str::<Value>(text).is_ok_and(|wanted| same(&wanted, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::text::tests::{built, refused, score};
    use serde_json::json;

    fn json(lines: &str, fields: Value, text: &str) -> f64 {
        score(&format!("type = \"json\"\n{lines}"), fields, &[text])
    }

    #[test]
    fn parses_or_not() {
        assert_eq!(json("", json!({}), " {\"a\": [1, null]}\n"), 1.0);
        for text in ["", "{", "NaN", "{\"a\": 1} and more", "```json\n{}\n```", "1e999"] {
            assert_eq!(json("", json!({}), text), 0.0, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(json("", json!({}), &deep), 0.0);
    }

    #[test]
    fn fences_come_off() {
        for text in ["```json\n{}\n```", "Here:\n```\n{}\n``` and ```\nx\n```", "{}", "```{}```", "```json\n{}"] {
            assert_eq!(json("fence = true", json!({}), text), 1.0, "{text}");
        }
        assert_eq!(json("fence = true", json!({}), "```"), 0.0);
    }

    #[test]
    fn values_at_places() {
        let answer =
            r#"{"a": {"b": "Paris "}, "n": 2.0, "items": [{"name": "x"}], "ok": true, "none": null, "x.y": [1, 2]}"#;
        let holds = |equals: &str, fields: Value| json(&format!("equals = {equals}"), fields, answer);
        assert_eq!(holds("{ \"a.b\" = \"{{ city }} \" }", json!({"city": "Paris"})), 1.0);
        assert_eq!(holds("{ a.b = \"{{ city }} \", n = 2 }", json!({"city": "Paris"})), 1.0);
        assert_eq!(holds("{ a.b = \"{{ city }}\" }", json!({"city": "Paris"})), 0.0);
        assert_eq!(holds("{ n = \"{{ n }}\" }", json!({"n": 2})), 1.0);
        assert_eq!(holds("{ n = \"{{ n }}\" }", json!({"n": 3})), 0.0);
        assert_eq!(holds("{ n = 2.5 }", json!({})), 0.0);
        assert_eq!(holds("{ \"items.0.name\" = \"x\", ok = true, none = \"{{ z }}\" }", json!({"z": null})), 1.0);
        assert_eq!(holds("{ ok = \"{{ ok }}\" }", json!({"ok": true})), 1.0);
        assert_eq!(holds("{ \"/x.y\" = [1.0, 2] }", json!({})), 1.0);
        assert_eq!(holds("{ \"/x.y\" = \"{{ l }}\" }", json!({"l": [1, 2]})), 1.0);
        assert_eq!(holds("{ \"items.1\" = 1 }", json!({})), 0.0);
        assert_eq!(holds("{ missing = \"\" }", json!({})), 0.0);
        let both = "equals = { \"a.b\" = \"PARIS\" }\nnormalize = [\"trim\", \"lowercase\"]";
        assert_eq!(json(both, json!({}), answer), 1.0);
    }

    #[test]
    fn its_templates_are_known() {
        let built = built("type = \"json\"\nequals = { a = \"{{ x }}\", b.c = \"{{ y }}\" }");
        assert_eq!(built.variables().into_iter().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(refused("type = \"json\"\nequals = { a = nan }").location().as_deref(), Some("task.toml:3:16"));
        assert_eq!(refused("type = \"json\"\nequals = { a = \"{{\" }").location().as_deref(), Some("task.toml:3:16"));
    }
}
