//! A row's columns in their order, as they stood in the input: what is carried through, untouched.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::data::too_large;

/// The columns of one row, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(pub Vec<(String, Value)>);

impl Fields {
    /// A column's value.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A column's value; null and blank text count as none.
    pub fn filled(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|value| match value {
            Value::Null => false,
            Value::String(text) => !text.trim().is_empty(),
            _ => true,
        })
    }

    /// Sets a column: in its place where it is there, else behind all others.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The columns of a text as a table shows them: one with an integer that no number of 64 bits is has its own text.
    pub fn shown(text: &str) -> serde_json::Result<Fields> {
        let mut fields: Fields = serde_json::from_str(text)?;
        if too_large(text).is_some() {
            for ((_, value), (_, span)) in fields.0.iter_mut().zip(columns(text)) {
                if too_large(&text[span.clone()]).is_some() {
                    *value = Value::from(text[span].trim());
                }
            }
        }
        Ok(fields)
    }

    /// As a map, for templates and metrics.
    pub fn map(&self) -> Map<String, Value> {
        self.0.iter().cloned().collect()
    }

    /// As the text of a JSON object, in this order.
    pub fn json(&self) -> String {
        let mut text = String::from("{");
        for (at, (name, value)) in self.0.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push_str(&Value::from(name.as_str()).to_string());
            text.push(':');
            text.push_str(&value.to_string());
        }
        text.push('}');
        text
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(map: Map<String, Value>) -> Fields {
        Fields(map.into_iter().collect())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields(Vec::with_capacity(map.size_hint().unwrap_or(8)));
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    fields.0.push((name, value));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

/// The columns of a record that say what came of its row: nothing that a row carries may be read as one of them.
const OUTCOME: [&str; 10] = [
    "status",
    "response",
    "error_kind",
    "error",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "scores",
    "score_errors",
];

/// The beginning of the columns that scores have in a table.
pub const SCORE: &str = "score-";

/// A column of this name says what came of a row.
pub fn is_outcome(name: &str) -> bool {
    OUTCOME.contains(&name) || name.starts_with(SCORE)
}

/// A row and the text that it was read from: a JSON object on one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The text: the line itself, or (of a CSV file) the object that its cells are.
    pub text: String,
    /// The columns.
    pub fields: Fields,
}

impl Row {
    /// A row of these columns.
    pub fn new(fields: Fields) -> Row {
        Row { text: fields.json(), fields }
    }

    /// An integer in the row that no number of 64 bits is, in one of these columns: it would be read as another one.
    pub fn too_large(&self, read: impl Fn(&str) -> bool) -> Option<String> {
        too_large(&self.text)?;
        let found = self.fields.0.iter().zip(columns(&self.text)).filter(|((name, _), _)| read(name));
        found.into_iter().find_map(|(_, (_, value))| {
            let (at, what) = too_large(&self.text[value.clone()])?;
            Some(format!("{what} (column {})", value.start + at.start + 1))
        })
    }

    /// The row's columns that go by another name beside these further ones, each by its place and its new name. A column
    /// that is named like an outcome, be there one or not, or like a new one is called `input-NAME`; where that name is taken,
    /// with one more `input-` before it: results may be asked about again, and lose nothing.
    pub fn renamed(&self, further: &[(&str, Value)]) -> Vec<(usize, String)> {
        let is_new = |name: &str| further.iter().any(|(new, _)| *new == name);
        let mut renamed: Vec<(usize, String)> = Vec::new();
        for (at, (name, _)) in self.fields.0.iter().enumerate() {
            if !is_outcome(name) && !is_new(name) {
                continue;
            }
            let mut free = format!("input-{name}");
            while self.fields.get(&free).is_some() || is_new(&free) || renamed.iter().any(|(_, known)| *known == free) {
                free.insert_str(0, "input-");
            }
            renamed.push((at, free));
        }
        renamed
    }

    /// The row with further columns behind its own, as the text of a JSON object without its closing brace. The row's own
    /// text stays as it is, but for the names of columns that are [`renamed`](Self::renamed).
    pub fn extended(&self, further: &[(&str, Value)]) -> String {
        let mut text = self.text.clone();
        let renamed = self.renamed(further);
        if !renamed.is_empty() {
            let places = columns(&self.text);
            for (at, name) in renamed.iter().rev() {
                if let Some((key, _)) = places.get(*at) {
                    text.replace_range(key.clone(), &Value::from(name.as_str()).to_string());
                }
            }
        }
        // The last brace is the object's own.
        text.truncate(text.rfind('}').unwrap_or(text.len()));
        append(&mut text, self.fields.0.is_empty(), further);
        text
    }
}

/// Where the columns of a text stand, in their order: each one's name, with its quotes, and its value. The text is a JSON
/// object.
fn columns(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let (bytes, mut found, mut key) = (text.as_bytes(), Vec::new(), None);
    let (mut depth, mut at, mut value) = (0_usize, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let begin = at;
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                if depth == 1 && key.is_none() {
                    key = Some(begin..at + 1);
                }
            }
            b':' if depth == 1 => value = at + 1,
            b',' | b'}' if depth == 1 => {
                found.extend(key.take().map(|key| (key, value..at)));
                depth = if bytes[at] == b'}' { 0 } else { 1 };
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    found
}

/// Writes columns behind those of an object that is not closed yet.
pub fn append(text: &mut String, mut first: bool, further: &[(&str, Value)]) {
    for (name, value) in further {
        if !std::mem::take(&mut first) {
            text.push(',');
        }
        text.push_str(&Value::from(*name).to_string());
        text.push(':');
        text.push_str(&value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(text: &str) -> Row {
        Row { text: text.to_owned(), fields: serde_json::from_str(text).unwrap() }
    }

    #[test]
    fn a_row_keeps_its_text_to_the_byte() {
        let text = r#"{"b": 1.0, "a":{"x":{}} , "big": 123456789012345678901234567890}"#;
        let extended = row(text).extended(&[("response", json!("hm")), ("status", json!("ok"))]);
        assert_eq!(extended, format!("{},\"response\":\"hm\",\"status\":\"ok\"", &text[..text.len() - 1]));
        assert_eq!(row(r#"{"a":{}}"#).extended(&[("s", json!(1))]), r#"{"a":{},"s":1"#);
        assert_eq!(row("{} ").extended(&[("s", json!(1))]), r#"{"s":1"#);
    }

    #[test]
    fn a_column_named_like_ours_is_renamed() {
        let extended = row(r#"{"response":"old","id":2}"#).extended(&[("response", json!("new"))]);
        assert_eq!(extended, r#"{"input-response":"old","id":2,"response":"new""#);
        let extended =
            row(r#"{"a": {"status":[1, "{\"status"]}, "st\u0061tus" : 1.0 , "big":12345678901234567890123}"#)
                .extended(&[("status", json!("ok"))]);
        let kept =
            r#"{"a": {"status":[1, "{\"status"]}, "input-status" : 1.0 , "big":12345678901234567890123,"status":"ok""#;
        assert_eq!(extended, kept, "all else stays to the byte");
    }

    #[test]
    fn what_is_carried_is_never_read_as_an_outcome() {
        let old = row(r#"{"id":1,"cost_usd":"5.25","scores":{"z":3},"score-z":3,"scored":1,"seconds":2}"#);
        let kept = r#"{"id":1,"input-cost_usd":"5.25","input-scores":{"z":3},"input-score-z":3,"scored":1,"seconds":2"#;
        assert_eq!(old.extended(&[]), kept, "whether there is such an outcome now or not");
        // Results that are asked about again, and again.
        let again = row(&(row(r#"{"response":"a"}"#).extended(&[("response", json!("b"))]) + "}"));
        let third = again.extended(&[("response", json!("c"))]);
        assert_eq!(third, r#"{"input-response":"a","input-input-response":"b","response":"c""#, "none is lost");
        let both = row(r#"{"error":1,"input-error":2,"input-input-error":3}"#).extended(&[]);
        assert_eq!(both, r#"{"input-input-input-error":1,"input-error":2,"input-input-error":3"#);
    }

    #[test]
    fn integers_that_are_too_large_are_found_where_they_are_read() {
        let text = r#"{"id": 1, "a": "18446744073709551616", "big": [0, 18446744073709551616 ], "c": 2}"#;
        let found = row(text).too_large(|name| name == "big").unwrap();
        assert_eq!(found, "the integer 18446744073709551616 does not fit 64 bits; write it as a text (column 51)");
        assert_eq!(row(text).too_large(|name| name != "big"), None);
        let shown = Fields::shown(text).unwrap();
        assert_eq!(shown.get("big"), Some(&json!("[0, 18446744073709551616 ]")), "a table shows what was written");
        assert_eq!(shown.get("c"), Some(&json!(2)));
    }

    #[test]
    fn blank_cells_are_none() {
        let row = row(r#"{"a":"  ","b":null,"c":0}"#);
        assert_eq!(
            [row.fields.filled("a"), row.fields.filled("b"), row.fields.filled("c")],
            [None, None, Some(&json!(0))]
        );
    }
}
