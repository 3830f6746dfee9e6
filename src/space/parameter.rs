//! Parameters: what may vary, over which values, and when.

use rand::RngExt;
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::prompt::choice::PromptTable;
use crate::space::configuration::canonical;

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The model's name.
    Model,
    /// The prompt, by its choice's name.
    Prompt,
    /// How many completions.
    N,
    /// Sent with the request under its own name.
    Api,
    /// An extra field of the request body.
    Body,
    /// A variable for templates, `when` and constraints.
    Variable,
}

/// The values of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// One value.
    Constant(Value),
    /// Unordered choices.
    Choices(Vec<Value>),
    /// Real numbers.
    Float {
        /// The least.
        low: f64,
        /// The greatest.
        high: f64,
        /// The distance between neighbours, from `low` on; any value where absent.
        step: Option<f64>,
        /// Drawn evenly on the scale of logarithms.
        log: bool,
    },
    /// Whole numbers.
    Int {
        /// The least.
        low: i64,
        /// The greatest.
        high: i64,
        /// The distance between neighbours, from `low` on.
        step: i64,
        /// Drawn evenly on the scale of logarithms.
        log: bool,
    },
}

impl Values {
    /// How many there are, where that is finite.
    pub fn count(&self) -> Option<u128> {
        match self {
            Values::Constant(_) => Some(1),
            Values::Choices(choices) => Some(choices.len() as u128),
            Values::Float { low, high, step: Some(step), .. } => Some(steps(*low, *high, *step) as u128 + 1),
            Values::Float { low, high, step: None, .. } => (low == high).then_some(1),
            Values::Int { low, high, step, .. } => Some((high.abs_diff(*low) / step.unsigned_abs().max(1)) as u128 + 1),
        }
    }

    /// The value at a place `0..count`.
    pub fn nth(&self, at: u128) -> Value {
        match self {
            Values::Constant(value) => value.clone(),
            Values::Choices(choices) => choices[at as usize].clone(),
            Values::Float { low, high, step, .. } => Value::from(on_grid(*low, *high, step.unwrap_or(1.0), at as f64)),
            Values::Int { low, step, .. } => Value::from(low + step * at as i64),
        }
    }

    /// The value at a place from 0 to 1 of a scale: real numbers, and numbers that are drawn on the scale of logarithms. `None`
    /// where values are counted instead; then the place is not asked for. Real numbers come with four digits of the range,
    /// which is more than an API can tell apart.
    pub(crate) fn along(&self, place: impl FnOnce() -> f64) -> Option<Value> {
        let between = |(from, to): (f64, f64)| from + place() * (to - from);
        match self {
            Values::Float { low, high, step: None, .. } if low >= high => None,
            Values::Float { low, high, step, log: true } => {
                let value = between((low.ln(), high.ln())).exp();
                Some(Value::from(match step {
                    Some(step) => on_grid(*low, *high, *step, ((value - low) / step).round()),
                    None => rounded(value, None).clamp(*low, *high),
                }))
            }
            Values::Float { low, high, step: None, log: false } => {
                Some(Value::from(rounded(between((*low, *high)), Some(high - low)).clamp(*low, *high)))
            }
            Values::Int { low, high, step, log: true } => {
                let value = (between(log_ends(*low, *high)).exp().round() as i64).clamp(*low, *high);
                let step = step.unsigned_abs().max(1);
                let at = u128::from((value.abs_diff(*low) + step / 2) / step);
                Some(self.nth(at.min(u128::from(high.abs_diff(*low) / step))))
            }
            _ => None,
        }
    }

    /// Draws one value.
    pub fn draw(&self, rng: &mut ChaCha12Rng) -> Value {
        self.along(|| rng.random()).unwrap_or_else(|| match self.count() {
            Some(count) if count > 1 => self.nth(u128::from(rng.random_range(0..count.min(1 << 62) as u64))),
            _ => self.nth(0),
        })
    }

    /// The value taken where nothing else is said: the constant, the first choice, the low end.
    pub fn first(&self) -> Value {
        match self {
            Values::Float { low, .. } => Value::from(*low),
            _ => self.nth(0),
        }
    }

    /// Values that are good for an API where all are: every choice, or the ends of a range.
    pub(crate) fn ends(&self) -> Vec<Value> {
        match self {
            Values::Constant(value) => vec![value.clone()],
            Values::Choices(choices) => choices.clone(),
            Values::Float { low, high, .. } => vec![Value::from(*low), Value::from(*high)],
            Values::Int { low, high, .. } => vec![Value::from(*low), Value::from(*high)],
        }
    }

    /// True where the value is one of these.
    pub fn contains(&self, value: &Value) -> bool {
        match self {
            Values::Constant(constant) => same(constant, value),
            Values::Choices(choices) => choices.iter().any(|choice| same(choice, value)),
            Values::Float { low, high, .. } => value.as_f64().is_some_and(|float| (*low..=*high).contains(&float)),
            Values::Int { low, high, .. } => whole(value).is_some_and(|int| (*low..=*high).contains(&int)),
        }
    }
}

/// The ends of the scale of logarithms of whole numbers: half a unit on either side gives the ends their full share.
pub(crate) fn log_ends(low: i64, high: i64) -> (f64, f64) {
    ((low as f64 - 0.5).max(0.5).ln(), (high as f64 + 0.5).ln())
}

/// Equality of values in which numbers compare as numbers.
pub fn same(a: &Value, b: &Value) -> bool {
    canonical(a) == canonical(b)
}

/// A value as a whole number, also from a float like 3.0.
pub fn whole(value: &Value) -> Option<i64> {
    canonical(value).as_i64()
}

pub(crate) fn steps(low: f64, high: f64, step: f64) -> u64 {
    ((high - low) / step * (1.0 + 1e-12) + 1e-9).floor() as u64
}

pub(crate) fn on_grid(low: f64, high: f64, step: f64, at: f64) -> f64 {
    let at = at.clamp(0.0, steps(low, high, step) as f64);
    // 0.1 + 2 * 0.1 is 0.30000000000000004: twelve significant digits are what was meant.
    let value = low + at * step;
    format!("{value:.11e}").parse().unwrap_or(value)
}

/// A drawn number with four digits: of the range, or (without one) significant ones.
pub(crate) fn rounded(value: f64, range: Option<f64>) -> f64 {
    let digits = match range {
        Some(range) => (4 - range.log10().ceil() as i32).clamp(0, 15) as usize,
        None => return format!("{value:.3e}").parse().unwrap_or(value),
    };
    format!("{value:.digits$}").parse().unwrap_or(value)
}

/// A condition: the parameter is active only where another has one of these values.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The other parameter.
    pub parameter: String,
    /// Its values that make this one active.
    pub values: Vec<Value>,
}

/// One parameter of a space.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// What it may be.
    pub values: Values,
    /// What the baseline takes where it does not say.
    pub default: Option<Value>,
    /// When it is active; always, where there are none.
    pub when: Vec<Condition>,
}

/// A parameter of the OpenAI API that a space may set: its kind and range.
#[derive(Clone, Copy, Debug)]
pub struct ApiParameter {
    /// Its name in the request.
    pub name: &'static str,
    /// What it takes.
    pub kind: ApiKind,
    /// What it does, in one line.
    pub about: &'static str,
    /// OpenAI's own API has it; else other servers that speak it do.
    pub openai: bool,
}

/// What an API parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ApiKind {
    /// A number from .. to.
    Number(f64, f64),
    /// A whole number, at least this.
    Whole(i64),
    /// A text, or a list of at most four texts.
    Stop,
    /// One of some words; servers add their own.
    Word,
    /// True or false.
    Flag,
    /// Any JSON.
    Any,
}

/// Every API parameter that is known; anything else is a variable, or an extra body field with `body = true`.
pub const API_PARAMETERS: &[ApiParameter] = &[
    api("temperature", ApiKind::Number(0.0, 2.0), "randomness of sampling; 0 is greedy"),
    api("top_p", ApiKind::Number(0.0, 1.0), "share of probability that sampling keeps"),
    api("n", ApiKind::Whole(1), "completions of one prompt"),
    api("max_tokens", ApiKind::Whole(1), "most output tokens of one completion"),
    api("max_completion_tokens", ApiKind::Whole(1), "the same for reasoning models"),
    api("stop", ApiKind::Stop, "where a completion ends"),
    api("presence_penalty", ApiKind::Number(-2.0, 2.0), "penalty for tokens that occurred"),
    api("frequency_penalty", ApiKind::Number(-2.0, 2.0), "penalty by how often tokens occurred"),
    api("logit_bias", ApiKind::Any, "bias by token"),
    api("seed", ApiKind::Whole(i64::MIN), "the endpoint's own seed"),
    api("logprobs", ApiKind::Any, "log probabilities of the tokens"),
    api("top_logprobs", ApiKind::Whole(0), "how many alternatives with log probabilities"),
    api("best_of", ApiKind::Whole(1), "completions drawn and billed to return the best n (completion models)"),
    api("response_format", ApiKind::Any, "JSON mode or a JSON schema"),
    api("tools", ApiKind::Any, "functions the model may call"),
    api("tool_choice", ApiKind::Any, "which tool to call"),
    api("parallel_tool_calls", ApiKind::Flag, "several tool calls at once"),
    api("reasoning_effort", ApiKind::Word, "how long a reasoning model thinks"),
    api("verbosity", ApiKind::Word, "how long the answer is"),
    api("service_tier", ApiKind::Word, "the endpoint's queue"),
    elsewhere("top_k", ApiKind::Whole(-1), "tokens that sampling keeps (vLLM and others)"),
    elsewhere("min_p", ApiKind::Number(0.0, 1.0), "least probability that sampling keeps (vLLM and others)"),
    elsewhere("repetition_penalty", ApiKind::Number(0.0, 10.0), "penalty for repetition (vLLM and others)"),
];

const fn api(name: &'static str, kind: ApiKind, about: &'static str) -> ApiParameter {
    ApiParameter { name, kind, about, openai: true }
}

const fn elsewhere(name: &'static str, kind: ApiKind, about: &'static str) -> ApiParameter {
    ApiParameter { name, kind, about, openai: false }
}

/// The parameters that bound the output tokens of one completion.
pub const OUTPUT_LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// Most output tokens of one completion, by the parameters that are set; the larger, where both are.
pub fn output_limit<'a>(get: impl Fn(&str) -> Option<&'a Value>) -> Option<u64> {
    OUTPUT_LIMITS.iter().filter_map(|name| u64::try_from(whole(get(name)?)?).ok()).max()
}

/// More completions of one prompt than any endpoint gives.
const MOST_COMPLETIONS: i64 = 100_000;

/// The API parameter of a name.
pub fn api_parameter(name: &str) -> Option<&'static ApiParameter> {
    API_PARAMETERS.iter().find(|parameter| parameter.name == name)
}

/// How many completions a request asks for, or why a value does not say.
pub fn completions(value: &Value) -> Result<u32, String> {
    let within = whole(value).filter(|n| (1..=MOST_COMPLETIONS).contains(n));
    within.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
        format!("n = {value} is no number of completions: a whole number from 1 to {MOST_COMPLETIONS} is")
    })
}

/// Checks the parameters of a request that are known; what is null is not set. The first that is wrong, with its name.
pub fn check_all<'a>(params: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Result<(), (&'a str, String)> {
    for (name, value) in params.into_iter().filter(|(_, value)| !value.is_null()) {
        let problem = api_parameter(name).and_then(|api| api.check(value).err());
        if let Some(problem) = problem.or_else(|| beyond_bounds(name, value)) {
            return Err((name, problem));
        }
    }
    Ok(())
}

/// Servers' own names for the most tokens of a completion, small and without underscores: Google takes both spellings.
const LENGTHS: [&str; 7] = [
    "numpredict",
    "npredict",
    "maxtokens",
    "maxcompletiontokens",
    "maxoutputtokens",
    "maxnewtokens",
    "maxtokenstosample",
];
/// The same for the number of completions.
const COUNTS: [&str; 4] = ["n", "candidatecount", "numreturnsequences", "bestof"];
/// The same for objects of a body that hold such fields.
const HOLDERS: [&str; 6] =
    ["options", "generationconfig", "parameters", "extrabody", "samplingparams", "samplingparameters"];

/// Why a field of a body cannot be sent: it, or one within it, says how long completions are or how many under a name that
/// is not read where money is held for a request, and would take the place of the parameter that is.
pub fn beyond_bounds(name: &str, value: &Value) -> Option<String> {
    fn find(name: &str, value: &Value, within: &str) -> Option<(String, &'static str)> {
        let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
        let (path, plain) = (format!("{within}{name}"), plain(name));
        // At the top these are the parameters themselves.
        let own = within.is_empty() && (api_parameter(name).is_some() || name == "n");
        match value {
            Value::Null => None,
            _ if own => None,
            _ if LENGTHS.contains(&plain.as_str()) => Some((path, "max_tokens")),
            _ if COUNTS.contains(&plain.as_str()) => Some((path, "n")),
            Value::Object(fields) if HOLDERS.contains(&plain.as_str()) => {
                fields.iter().find_map(|(name, value)| find(name, value, &format!("{path}.")))
            }
            _ => None,
        }
    }
    let (path, parameter) = find(name, value, "")?;
    let what = if parameter == "n" { "how many completions come" } else { "how long a completion is" };
    Some(format!("`{path}` would say {what} where no budget reads it: set `{parameter}`"))
}

impl ApiParameter {
    /// Why a value is none for this parameter, in words; `Ok` where it is.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let wrong = |wanted: String| Err(format!("`{}` takes {wanted}, not {value}", self.name));
        match self.kind {
            ApiKind::Number(low, high) => match value.as_f64() {
                Some(number) if (low..=high).contains(&number) => Ok(()),
                _ => wrong(format!("a number from {low} to {high}")),
            },
            ApiKind::Whole(_)
                if matches!(self.name, "n" | "best_of") && whole(value).is_some_and(|n| n > MOST_COMPLETIONS) =>
            {
                wrong(format!("a whole number of at most {MOST_COMPLETIONS}"))
            }
            ApiKind::Whole(low) => match whole(value) {
                Some(int) if int >= low => Ok(()),
                _ if low == i64::MIN => wrong("a whole number".to_owned()),
                _ => wrong(format!("a whole number of at least {low}")),
            },
            ApiKind::Stop => match value {
                Value::String(_) | Value::Null => Ok(()),
                Value::Array(items) if items.iter().all(|item| item.as_str().is_some_and(|text| !text.is_empty())) => {
                    Ok(())
                }
                _ => wrong("a text, or a list of texts that are not empty".to_owned()),
            },
            ApiKind::Word if !value.is_string() => wrong("a word".to_owned()),
            ApiKind::Flag if !value.is_boolean() => wrong("true or false".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Keys of a parameter's table, all in one place for the schema: which of them belong together is checked on reading.
#[derive(Debug, JsonSchema)]
#[allow(dead_code)]
#[schemars(deny_unknown_fields, rename = "Parameter")]
pub struct ParameterSchema {
    /// `categorical`, `float` or `int`; absent where `value` gives a constant.
    #[schemars(rename = "type")]
    kind: Option<Kind>,
    /// A constant in place of a range.
    value: Option<Value>,
    /// categorical: the choices, unordered. Prompts are tables with a name.
    choices: Option<Vec<ChoiceSchema>>,
    /// float, int: the least value.
    low: Option<f64>,
    /// float, int: the greatest value.
    high: Option<f64>,
    /// float, int: the distance between neighbours.
    step: Option<f64>,
    /// float, int: drawn evenly on the scale of logarithms.
    log: Option<bool>,
    /// What the baseline takes where it does not say.
    default: Option<Value>,
    /// Active only where another parameter has this value, or one of a list.
    when: Option<std::collections::BTreeMap<String, Value>>,
    /// Sent in the request body as an extra field.
    body: Option<bool>,
}

#[derive(Debug, JsonSchema)]
#[allow(dead_code)]
#[schemars(untagged, rename = "Choice")]
enum ChoiceSchema {
    /// A choice of `prompt`.
    Prompt(PromptTable),
    /// A choice of any other parameter.
    Value(Value),
}

#[derive(Debug, JsonSchema)]
#[allow(dead_code)]
#[schemars(rename_all = "lowercase")]
enum Kind {
    Categorical,
    Float,
    Int,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use serde_json::json;

    #[test]
    fn an_output_limit_is_a_whole_number_of_either_name() {
        for (params, limit) in [
            (json!({"max_tokens": 5}), Some(5)),
            (json!({"max_tokens": 5.0}), Some(5)),
            (json!({"max_tokens": 5, "max_completion_tokens": 7}), Some(7)),
            (json!({"max_tokens": null, "max_completion_tokens": 7}), Some(7)),
            (json!({"max_tokens": null}), None),
            (json!({"max_tokens": -1}), None),
            (json!({"temperature": 1}), None),
        ] {
            assert_eq!(output_limit(|name| params.get(name)), limit, "{params}");
        }
    }

    /// Each of these was sent beside, or over, the `max_tokens` and `n` that money was held for.
    #[test]
    fn what_a_budget_would_not_see_is_refused() {
        for (name, value, path, set) in [
            ("generationConfig", json!({"candidateCount": 4}), "generationConfig.candidateCount", "n"),
            ("generation_config", json!({"max_output_tokens": 9}), "generation_config.max_output_tokens", "max_tokens"),
            ("options", json!({"top_k": 3, "num_predict": 20000}), "options.num_predict", "max_tokens"),
            ("extra_body", json!({"options": {"num_predict": -1}}), "extra_body.options.num_predict", "max_tokens"),
            ("parameters", json!({"best_of": 3}), "parameters.best_of", "n"),
            ("sampling_params", json!({"n": 3}), "sampling_params.n", "n"),
            ("candidate_count", json!(4), "candidate_count", "n"),
            ("num_predict", json!(4), "num_predict", "max_tokens"),
            ("maxOutputTokens", json!(4), "maxOutputTokens", "max_tokens"),
            ("max_tokens_to_sample", json!(4), "max_tokens_to_sample", "max_tokens"),
        ] {
            let why = beyond_bounds(name, &value).unwrap();
            assert!(why.contains(&format!("`{path}`")) && why.ends_with(&format!(": set `{set}`")), "{name}: {why}");
            assert_eq!(check_all([(&name.to_owned(), &value)]).unwrap_err(), (name, why));
        }
        for (name, value) in [
            ("max_tokens", json!(9)),
            ("max_completion_tokens", json!(9)),
            ("best_of", json!(2)),
            ("n", json!(2)),
            ("num_predict", Value::Null),
            ("draft_num_predict", json!(4)),
            ("thinking", json!({"type": "enabled", "budget_tokens": 1024})),
            ("options", json!({"num_ctx": 4096, "seed": 1})),
            ("tools", json!([{"function": {"parameters": {"properties": {"n": {}, "max_tokens": {}}}}}])),
            ("metadata", json!({"n": 1})),
        ] {
            assert_eq!(beyond_bounds(name, &value), None, "{name}");
        }
    }

    #[test]
    fn steps_are_what_was_meant() {
        let values = Values::Float { low: 0.0, high: 1.0, step: Some(0.1), log: false };
        assert_eq!(values.count(), Some(11));
        assert_eq!(
            (0..11).map(|at| values.nth(at).to_string()).collect::<Vec<_>>().join(" "),
            "0.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1.0"
        );
        assert_eq!(Values::Int { low: 1, high: 10, step: 4, log: false }.count(), Some(3));
        assert_eq!(Values::Float { low: 0.0, high: 1.0, step: None, log: false }.count(), None);
    }

    #[test]
    fn api_values_are_checked() {
        let check = |name: &str, value| api_parameter(name).unwrap().check(&value);
        assert!(check("temperature", json!(2.5)).unwrap_err().contains("a number from 0 to 2, not 2.5"));
        assert!(check("n", json!(0)).unwrap_err().contains("at least 1"));
        assert!(check("n", json!(3.0)).is_ok() && check("n", json!(3.5)).is_err());
        assert!(check("stop", json!([])).is_ok() && check("stop", json!([""])).is_err());
    }

    /// What is drawn decides every study: the same draws give the same values in every version.
    #[test]
    fn draws_are_what_they_were() {
        let mut rng = ChaCha12Rng::seed_from_u64(7);
        let float = |step, log| Values::Float { low: 0.001, high: 3.0, step, log };
        let int = |step, log| Values::Int { low: 1, high: 4000, step, log };
        let all = [
            float(None, false),
            float(None, true),
            float(Some(0.1), false),
            float(Some(0.1), true),
            int(1, false),
            int(1, true),
            int(30, true),
            Values::Float { low: 0.5, high: 0.5, step: None, log: false },
            Values::Choices(vec![json!("a"), json!("b"), json!("c")]),
        ];
        let drawn: Vec<String> = (0..2).flat_map(|_| &all).map(|values| values.draw(&mut rng).to_string()).collect();
        let wanted = r#"0.092 0.01169 0.401 0.101 1090 2579 1 0.5 "a" 0.377 0.3277 1.901 0.001 341 14 151 0.5 "c""#;
        assert_eq!(drawn.join(" "), wanted);
    }

    proptest! {
        #[test]
        fn draws_stay_inside(low in -1000_i64..1000, span in 0_i64..1000, step in 1_i64..50, seed: u64, log: bool) {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let low = if log { low.abs() + 1 } else { low };
            let values = Values::Int { low, high: low + span, step, log };
            for _ in 0..20 {
                let drawn = values.draw(&mut rng).as_i64().unwrap();
                prop_assert!((low..=low + span).contains(&drawn) && (drawn - low) % step == 0, "{drawn}");
            }
            let (low, high) = (low as f64 / 7.0, (low + span) as f64 / 7.0);
            for step in [None, Some(step as f64 / 7.0)] {
                let values = Values::Float { low, high, step, log };
                for _ in 0..20 {
                    let drawn = values.draw(&mut rng).as_f64().unwrap();
                    prop_assert!(drawn >= low - 1e-9 && drawn <= high + 1e-9, "{drawn} in {low}..{high}");
                }
            }
        }
    }
}
