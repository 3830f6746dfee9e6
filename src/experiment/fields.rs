//! A row's columns in their order, as they stood in the input: what is carried through, untouched.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

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

    /// The row with further columns behind its own, as the text of a JSON object without its closing brace. The row's own
    /// text stays as it is; a column of its own that is named like a new one is called `input-NAME`.
    pub fn extended(&self, further: &[(&str, Value)]) -> String {
        let taken = |name: &str| further.iter().any(|(new, _)| *new == name);
        let mut text = match self.fields.0.iter().any(|(name, _)| taken(name)) {
            false => self.text.clone(),
            true => {
                let renamed = |(name, value): &(String, Value)| match taken(name) {
                    true => (format!("input-{name}"), value.clone()),
                    false => (name.clone(), value.clone()),
                };
                Fields(self.fields.0.iter().map(renamed).collect()).json()
            }
        };
        // The last brace is the object's own.
        text.truncate(text.rfind('}').unwrap_or(text.len()));
        append(&mut text, self.fields.0.is_empty(), further);
        text
    }
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
