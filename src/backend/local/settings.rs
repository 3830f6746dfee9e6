//! What a request asks of sampling.

use std::collections::BTreeMap;

use farthing_kernels::Kept;
use serde_json::Value;

use crate::provider::{Failure, FailureKind};

/// Log probabilities that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logprobs {
    /// How many alternatives of each token.
    pub top: usize,
}

/// Sampling parameters, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which tokens are kept; `None` takes the most probable one.
    pub kept: Option<Kept>,
    /// Taken from the logit of every token that occurred in the completion.
    pub presence: f32,
    /// Taken for every time that it occurred.
    pub frequency: f32,
    /// What logits of tokens that occurred in prompt or completion are divided by.
    pub repetition: f32,
    /// Added to logits.
    pub bias: Vec<(u32, f32)>,
    /// The request's own seed.
    pub seed: i64,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Most tokens of a completion, where that was said.
    pub max_tokens: Option<usize>,
    /// Log probabilities, where they are wanted.
    pub logprobs: Option<Logprobs>,
    /// The prompt is given back before the completion.
    pub echo: bool,
}

/// Most alternatives of a token.
const MOST_TOP: u64 = 20;
/// Most stop sequences.
const MOST_STOPS: usize = 64;

/// Parameters that do something.
const TAKEN: [&str; 15] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "echo",
];

impl Settings {
    /// Reads a request's parameters; `text` where it completes a text, `vocabulary` tokens are known.
    pub fn read(params: &BTreeMap<String, Value>, text: bool, vocabulary: usize) -> Result<Settings, Failure> {
        let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
        let set = |name: &str| params.get(name).filter(|value| !value.is_null());
        let harmless = |name: &str, value: &Value| match name {
            "tools" => value.as_array().is_some_and(Vec::is_empty),
            "response_format" => value["type"] == "text",
            "best_of" => value.as_u64() == Some(1),
            "stream" => *value == Value::Bool(false),
            "user" | "store" | "metadata" => true,
            _ => false,
        };
        let unknown = params
            .iter()
            .find(|(name, value)| !value.is_null() && !TAKEN.contains(&name.as_str()) && !harmless(name, value));
        if let Some((name, _)) = unknown {
            return Err(bad(format!("local models know no `{name}`")));
        }
        if let Some(name) = ["echo"].iter().find(|name| !text && set(name).is_some_and(|echo| *echo == true)) {
            return Err(bad(format!("`{name}` belongs to completions of texts")));
        }
        let number = |name: &str, low: f64, high: f64, default: f64| match set(name) {
            None => Ok(default),
            Some(value) => match value.as_f64().filter(|number| (low..=high).contains(number)) {
                Some(number) => Ok(number),
                None => Err(bad(format!("`{name}` must be a number from {low} to {high}, but it is {value}"))),
            },
        };
        let whole = |name: &str, low: i64, high: i64| match set(name) {
            None => Ok(None),
            Some(value) => {
                let float = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 9e15);
                let number = value.as_i64().or(float.map(|number| number as i64));
                match number.filter(|number| (low..=high).contains(number)) {
                    Some(number) => Ok(Some(number)),
                    None => Err(bad(format!("`{name}` must be a whole number from {low} up, but it is {value}"))),
                }
            }
        };
        let temperature = number("temperature", 0.0, 100.0, 1.0)?;
        let top_p = number("top_p", 0.0, 1.0, 1.0)?;
        let min_p = number("min_p", 0.0, 1.0, 0.0)?;
        let top_k = whole("top_k", -1, i64::MAX)?.filter(|most| *most > 0).map(|most| most as usize);
        let repetition = number("repetition_penalty", 0.0, 100.0, 1.0)?;
        if repetition == 0.0 {
            return Err(bad("`repetition_penalty` must be above 0".to_owned()));
        }
        let tokens = whole("max_tokens", 0, i64::MAX)?.or(whole("max_completion_tokens", 0, i64::MAX)?);
        let echo = set("echo").is_some_and(|echo| *echo == true);
        if tokens == Some(0) && !echo {
            return Err(bad("`max_tokens` must be at least 1".to_owned()));
        }
        Ok(Settings {
            kept: (temperature > 1e-6).then_some(Kept { temperature, top_p, top_k, min_p }),
            presence: number("presence_penalty", -100.0, 100.0, 0.0)? as f32,
            frequency: number("frequency_penalty", -100.0, 100.0, 0.0)? as f32,
            repetition: repetition as f32,
            bias: bias(set("logit_bias"), vocabulary)?,
            seed: whole("seed", i64::MIN, i64::MAX)?.unwrap_or(0),
            stop: stops(set("stop"))?,
            max_tokens: tokens.map(|tokens| tokens as usize),
            logprobs: logprobs(set("logprobs"), set("top_logprobs"), text)?,
            echo,
        })
    }
}

fn stops(value: Option<&Value>) -> Result<Vec<String>, Failure> {
    let texts = match value {
        None => Some(Vec::new()),
        Some(Value::String(one)) => Some(vec![one.clone()]),
        Some(Value::Array(list)) if list.len() <= MOST_STOPS => {
            list.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        }
        Some(_) => None,
    };
    texts.filter(|texts| texts.iter().all(|text| !text.is_empty())).ok_or_else(|| {
        let message = format!("`stop` must be a text or a list of up to {MOST_STOPS}, none of them empty");
        Failure::new(FailureKind::BadRequest, message)
    })
}

fn bias(value: Option<&Value>, vocabulary: usize) -> Result<Vec<(u32, f32)>, Failure> {
    let bad = |what: String| Failure::new(FailureKind::BadRequest, format!("`logit_bias`: {what}"));
    let Some(value) = value else { return Ok(Vec::new()) };
    let table = value.as_object().ok_or_else(|| bad("it is a table of tokens and numbers".to_owned()))?;
    let entry = |(token, bias): (&String, &Value)| {
        let token = token.parse::<u32>().ok().filter(|token| (*token as usize) < vocabulary);
        let token = token.ok_or_else(|| bad(format!("the model has tokens 0 to {}", vocabulary.saturating_sub(1))))?;
        let number = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let number = number.ok_or_else(|| bad(format!("{bias} is no number from -100 to 100")))?;
        Ok((token, number as f32))
    };
    table.iter().map(entry).collect()
}

fn logprobs(wanted: Option<&Value>, top: Option<&Value>, text: bool) -> Result<Option<Logprobs>, Failure> {
    let bad = |name: &str, what: &str| Failure::new(FailureKind::BadRequest, format!("`{name}` must be {what}"));
    let count = |name: &str, value: &Value| {
        let number = value.as_u64().filter(|number| *number <= MOST_TOP);
        number.ok_or_else(|| bad(name, &format!("a whole number from 0 to {MOST_TOP}")))
    };
    let top = top.map(|top| count("top_logprobs", top)).transpose()?;
    match wanted {
        // Completions of texts say how many in `logprobs` itself.
        Some(value @ Value::Number(_)) if text => {
            Ok(Some(Logprobs { top: top.unwrap_or(count("logprobs", value)?) as usize }))
        }
        Some(Value::Bool(true)) => Ok(Some(Logprobs { top: top.unwrap_or(0) as usize })),
        None | Some(Value::Bool(false)) if top.unwrap_or(0) == 0 => Ok(None),
        None if text => Ok(Some(Logprobs { top: top.unwrap_or(0) as usize })),
        None | Some(Value::Bool(false)) => Err(bad("logprobs", "true where `top_logprobs` are wanted")),
        Some(_) => Err(bad("logprobs", "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(params: Value, text: bool) -> Result<Settings, String> {
        Settings::read(&serde_json::from_value(params).unwrap(), text, 100).map_err(|failure| failure.message)
    }

    #[test]
    fn parameters_are_read() {
        let all = read(
            json!({"temperature": 0, "stop": "x", "max_tokens": 5.0, "logit_bias": {"7": -100}, "top_k": -1}),
            false,
        );
        let all = all.unwrap();
        assert_eq!(
            (all.kept, all.stop, all.max_tokens, all.bias),
            (None, vec!["x".to_owned()], Some(5), vec![(7, -100.0)])
        );
        let plain = read(json!({"tools": [], "response_format": {"type": "text"}, "seed": null}), false).unwrap();
        assert_eq!(plain.kept, Some(Kept { temperature: 1.0, top_p: 1.0, top_k: None, min_p: 0.0 }));
        assert_eq!(
            read(json!({"logprobs": true, "top_logprobs": 3}), false).unwrap().logprobs,
            Some(Logprobs { top: 3 })
        );
        assert_eq!(read(json!({"logprobs": 2}), true).unwrap().logprobs, Some(Logprobs { top: 2 }));
        assert_eq!(read(json!({"logprobs": false}), false).unwrap().logprobs, None);
        assert!(read(json!({"echo": true, "max_tokens": 0}), true).unwrap().echo);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (params, what) in [
            (json!({"tools": [{}]}), "local models know no `tools`"),
            (json!({"temperature": -1}), "`temperature` must be a number from 0 to 100, but it is -1"),
            (json!({"max_tokens": 0}), "`max_tokens` must be at least 1"),
            (json!({"stop": [""]}), "`stop` must be a text or a list of up to 64, none of them empty"),
            (json!({"logit_bias": {"100": 1}}), "`logit_bias`: the model has tokens 0 to 99"),
            (json!({"top_logprobs": 3}), "`logprobs` must be true where `top_logprobs` are wanted"),
            (json!({"echo": true}), "`echo` belongs to completions of texts"),
            (json!({"seed": 1.5}), "`seed` must be a whole number from -9223372036854775808 up, but it is 1.5"),
        ] {
            assert_eq!(read(params, false).unwrap_err(), what);
        }
    }
}
