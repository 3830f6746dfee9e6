//! One row of data.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::prompt::Fields;

/// One row of data: what prompts are rendered with and what metrics compare with.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Unique in the task: the id column's value, else the row number from 1.
    pub id: String,
    /// The columns of the row.
    pub fields: Map<String, Value>,
    /// The same columns, ready for templates.
    pub rendered: Arc<Fields>,
}

impl Instance {
    /// An instance from its columns.
    pub fn new(id: impl Into<String>, fields: Map<String, Value>) -> Instance {
        let rendered = Fields::new(&fields);
        Instance { id: id.into(), fields, rendered }
    }

    /// A column's value.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)
    }

    /// A column's value as text: a string as it is, anything else as JSON.
    pub fn text(&self, field: &str) -> Option<String> {
        self.fields.get(field).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }
}
