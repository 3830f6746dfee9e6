//! One point of a search space.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One point of a search space: the active parameters and their values, a prompt by its choice's name.
///
/// Two points that differ only in parameters that do nothing (inactive ones) are the same configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Configuration(pub BTreeMap<String, Value>);

impl Configuration {
    /// The value of a parameter, if it is active.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A text that is equal exactly for equal configurations: numbers compare as numbers, so 1 and 1.0 are the same.
    pub fn key(&self) -> String {
        let mut key = String::new();
        for (name, value) in &self.0 {
            key.push_str(&Value::from(name.as_str()).to_string());
            key.push(':');
            key.push_str(&canonical(value).to_string());
            key.push(',');
        }
        key
    }

    /// How many samples it asks for.
    pub fn samples(&self) -> f64 {
        self.get("n").and_then(Value::as_f64).unwrap_or(1.0)
    }

    /// The key without `n`: equal for configurations that share samples.
    pub fn family(&self) -> String {
        let mut rest = self.clone();
        rest.0.remove("n");
        rest.key()
    }

    /// A short name of the configuration, the same in every run: 8 hexadecimal digits of the hash of [`key`](Self::key).
    pub fn short_id(&self) -> String {
        blake3::hash(self.key().as_bytes()).to_hex()[..8].to_owned()
    }
}

/// The same JSON with every whole-numbered float as an integer.
pub fn canonical(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if !number.is_i64() && !number.is_u64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                Value::from(float as i64)
            }
            _ => value.clone(),
        },
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), canonical(value))).collect())
        }
        _ => value.clone(),
    }
}

impl fmt::Display for Configuration {
    /// `model=gpt-4o prompt=cot n=3`: the form used in tables and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            match value {
                Value::String(text) => write!(f, "{gap}{name}={text}")?,
                other => write!(f, "{gap}{name}={other}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn configuration(value: Value) -> Configuration {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn equal_points_have_equal_keys() {
        let a = configuration(json!({"n": 1, "temperature": 1.0, "stop": ["\n"]}));
        let b = configuration(json!({"temperature": 1, "stop": ["\n"], "n": 1.0}));
        let c = configuration(json!({"temperature": 1, "stop": [], "n": 1}));
        assert_eq!((a.key(), a.short_id()), (b.key(), b.short_id()));
        assert_ne!(a.key(), c.key());
    }
}
