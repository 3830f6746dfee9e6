//! Which request parameters a model takes, by provider and model.
//!
//! Only what a provider is known to refuse is listed, so that no request is kept from a model that might answer it: an
//! unknown model, and any server of the user's own, takes everything. Which OpenAI, Anthropic and Gemini models refuse to
//! have their sampling set stands in the table; what follows from it, and what a whole API lacks, stands here.
//!
//! Sources, as of 2026-11: OpenAI's reasoning guide and the errors of its API (`Unsupported parameter: 'stop' is not
//! supported with this model`, `'temperature' does not support 0.1 with this model. Only the default (1) value is
//! supported`, `Unrecognized request argument supplied: top_k`; max_tokens: `Use 'max_completion_tokens' instead`);
//! Anthropic's Messages reference, its page on OpenAI compatibility, and its errors (`each stop sequence must contain
//! non-whitespace`, `temperature and top_p cannot both be specified for this model`, `temperature is deprecated for this
//! model`); Gemini's GenerationConfig and its errors (`Penalty is not enabled`, `Multiple candidates is not enabled for
//! this model`); Ollama's API reference and its page on OpenAI compatibility.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::models::{Kind, Sampling, known};
use crate::space::parameter::OUTPUT_LIMITS;

/// What a model takes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Takes {
    /// Nothing.
    Nothing,
    /// This number alone, which is what it does anyway.
    Only(f64),
    /// Numbers up to this.
    UpTo(f64),
    /// This word alone.
    Word(&'static str),
    /// So many texts.
    Texts(usize),
    /// Texts that are more than white space.
    Visible,
    /// Anything that has not this text in it.
    Without(&'static str),
}

/// One thing that a model refuses, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rule {
    parameter: &'static str,
    takes: Takes,
    why: &'static str,
}

/// Which request parameters a model takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    rules: Vec<Rule>,
    /// Sampling parameters are taken only with reasoning off; `Some(true)` where off is the default.
    only_without_reasoning: Option<bool>,
    /// Either `temperature` or `top_p`, not both.
    one_sampler: bool,
    /// The most completions of one request, where that is known: 1 means that n completions are n requests.
    pub most_completions: Option<u32>,
    /// `max_tokens` is sent as `max_completion_tokens`.
    pub renames_max_tokens: bool,
}

/// What only samplers of log probabilities have, and what reasoning models do without.
const SAMPLING: [&str; 4] = ["temperature", "top_p", "logprobs", "top_logprobs"];

/// What a request may ask for that costs more than a provider's list price: OpenAI's priority processing; Anthropic's fast
/// mode, servers in one country, and cache of an hour (sources: their pages on prices).
const DEARER: [(&str, &str); 4] =
    [("service_tier", "priority"), ("speed", "fast"), ("inference_geo", "us"), ("cache_control", "1h")];
const LISTED: &str = "that costs more than the list price which is known of it; \
    price in its table [models.NAME] of farthing.toml says what it costs";

const REASONING: &str = "OpenAI's reasoning models sample as OpenAI set them";
const NOT_OPENAI: &str = "OpenAI's API has no such parameter";
const NOT_ANTHROPIC: &str = "Anthropic's API has no such parameter";
const NOT_GEMINI: &str = "Gemini's API has no such parameter";
const NOT_OLLAMA: &str = "Ollama has no such parameter";
const NOT_LOCAL: &str = "local models only go on with a text";

impl Capabilities {
    /// Everything is taken.
    pub const ANY: Capabilities = Capabilities {
        rules: Vec::new(),
        only_without_reasoning: None,
        one_sampler: false,
        most_completions: None,
        renames_max_tokens: false,
    };

    /// What a model of a provider takes, by the provider's word in `farthing.toml`. Of a model that is not known only what
    /// its provider's whole API lacks is refused; of an OpenAI or Azure model that is not known, nothing.
    pub fn of(provider: &str, model: &str) -> Capabilities {
        match provider {
            "openai" => openai(provider, model),
            // A deployment is named as its user likes; only a model's own name says what it is.
            "azure" => match known(Some("azure"), model) {
                Some(_) => openai(provider, model),
                None => openai("openai", model),
            },
            "anthropic" => anthropic(model),
            "gemini" => gemini(model),
            "ollama" => {
                let lacks = ["logit_bias", "best_of", "parallel_tool_calls", "verbosity", "service_tier"];
                let mut all = Capabilities { most_completions: Some(1), ..Capabilities::ANY };
                all.lacks(&lacks, NOT_OLLAMA);
                all
            }
            "local" => {
                let lacks = ["tools", "tool_choice", "parallel_tool_calls", "response_format", "best_of"];
                let mut all = Capabilities::ANY;
                all.lacks(&lacks, NOT_LOCAL);
                all.lacks(&["reasoning_effort", "verbosity", "service_tier"], NOT_LOCAL);
                all
            }
            _ => Capabilities::ANY,
        }
    }

    /// The same of a model that writes at most so many tokens, where that is known.
    #[must_use]
    pub fn writing(mut self, most: Option<u64>) -> Capabilities {
        if let Some(most) = most {
            let why =
                "it writes no more; max_output_tokens of its table [models.NAME] in farthing.toml sets another limit";
            OUTPUT_LIMITS.iter().for_each(|name| self.rule(name, Takes::UpTo(most as f64), why));
        }
        self
    }

    /// The same of an endpoint that is not sent some parameters: of these nothing is refused.
    #[must_use]
    pub fn without(mut self, unsent: impl Fn(&str) -> bool) -> Capabilities {
        self.rules.retain(|rule| !unsent(rule.parameter));
        self
    }

    /// The same of a model that is paid by its provider's list price, which does not hold for everything that can be asked.
    #[must_use]
    pub fn at_list_price(mut self) -> Capabilities {
        DEARER.iter().for_each(|(name, word)| self.rule(name, Takes::Without(word), LISTED));
        self
    }

    /// Several completions can be asked for in one request.
    pub fn several(&self) -> bool {
        self.most_completions != Some(1)
    }

    /// Everything is taken, in any combination.
    pub fn any(&self) -> bool {
        self.rules.is_empty() && !self.one_sampler && self.only_without_reasoning.is_none()
    }

    /// Why the model refuses this value of a parameter, whatever else is asked: `no `top_p`: ...` goes on from "it takes".
    /// `None` where it takes it. The parameter `model` asks whether the model can be asked at all.
    pub fn refuses(&self, name: &str, value: &Value) -> Option<String> {
        if value.is_null() {
            return None;
        }
        let rule = self.rules.iter().find(|rule| rule.parameter == name && !rule.takes.value(value))?;
        Some(rule.words())
    }

    /// The first parameter of a whole request that the model refuses, and why: also for what it refuses only together.
    pub fn refuses_any(&self, params: &BTreeMap<String, Value>) -> Option<(String, String)> {
        if let Some(found) = params.iter().find_map(|(name, value)| Some((name.clone(), self.refuses(name, value)?))) {
            return Some(found);
        }
        let set = |name: &str| params.get(name).filter(|value| !value.is_null());
        if self.one_sampler && set("temperature").is_some() && set("top_p").is_some() {
            return Some(("top_p".to_owned(), "no `top_p` beside a `temperature`: it takes one of the two".to_owned()));
        }
        let off_by_default = self.only_without_reasoning?;
        let off = set("reasoning_effort").map_or(off_by_default, |effort| effort == "none");
        let hot = |name: &&str| set(name).is_some_and(|value| *name != "temperature" || value.as_f64() != Some(1.0));
        let name = SAMPLING.iter().copied().find(hot).filter(|_| !off)?;
        Some((name.to_owned(), format!("no `{name}` while it reasons: only with reasoning_effort = \"none\"")))
    }

    /// What is refused, for listings: `temperature (but 1)`, `top_p`.
    pub fn list(&self) -> Vec<String> {
        let mut list: Vec<String> = self.rules.iter().map(|rule| rule.takes.short(rule.parameter)).collect();
        if self.one_sampler {
            list.push("temperature with top_p".to_owned());
        }
        if let Some(off_by_default) = self.only_without_reasoning {
            let when = if off_by_default { "while reasoning" } else { "unless reasoning_effort is none" };
            list.extend(SAMPLING.iter().map(|name| format!("{name} ({when})")));
        }
        if !self.several() {
            list.push("n (sent as n requests)".to_owned());
        }
        list
    }

    /// The parameters that these capabilities say anything about, alone or together.
    pub fn named(&self) -> impl Iterator<Item = &'static str> {
        let together = self.only_without_reasoning.is_some().then_some(SAMPLING).into_iter().flatten();
        let samplers = self.one_sampler.then_some(["temperature", "top_p"]).into_iter().flatten();
        self.rules.iter().map(|rule| rule.parameter).chain(together).chain(samplers)
    }

    fn rule(&mut self, parameter: &'static str, takes: Takes, why: &'static str) {
        self.rules.push(Rule { parameter, takes, why });
    }

    fn lacks(&mut self, parameters: &[&'static str], why: &'static str) {
        for parameter in parameters {
            self.rule(parameter, Takes::Nothing, why);
        }
    }
}

impl Takes {
    fn value(self, value: &Value) -> bool {
        let texts = || match value {
            Value::Array(texts) => texts.iter().collect(),
            one => vec![one],
        };
        match self {
            Takes::Nothing => false,
            Takes::Only(number) => value.as_f64() == Some(number),
            Takes::UpTo(most) => value.as_f64().is_none_or(|number| number <= most),
            Takes::Word(word) => value == word,
            Takes::Texts(most) => texts().len() <= most,
            Takes::Visible => texts().iter().all(|text| text.as_str().is_none_or(|text| !text.trim().is_empty())),
            Takes::Without(word) => match value {
                Value::String(text) => text != word,
                Value::Array(items) => items.iter().all(|item| self.value(item)),
                Value::Object(fields) => fields.values().all(|field| self.value(field)),
                _ => true,
            },
        }
    }

    fn short(self, name: &str) -> String {
        match self {
            Takes::Nothing => name.to_owned(),
            Takes::Only(number) => format!("{name} (but {number})"),
            Takes::UpTo(most) => format!("{name} above {most}"),
            Takes::Word(word) => format!("{name} (but {word})"),
            Takes::Texts(most) => format!("{name} with more than {most} texts"),
            Takes::Visible => format!("{name} of white space alone"),
            Takes::Without(word) => format!("{name} with {word}"),
        }
    }
}

impl Rule {
    fn words(&self) -> String {
        let Rule { parameter, takes, why } = self;
        match takes {
            Takes::Nothing => format!("no `{parameter}`: {why}"),
            Takes::Only(number) => format!("no `{parameter}` but {number}: {why}"),
            Takes::UpTo(most) => format!("no `{parameter}` above {most}: {why}"),
            Takes::Word(word) => format!("no `{parameter}` but \"{word}\": {why}"),
            Takes::Texts(most) => format!("no `{parameter}` of more than {most} texts: {why}"),
            Takes::Visible => format!("no `{parameter}` of white space alone: {why}"),
            Takes::Without(word) => format!("no `{parameter}` with \"{word}\": {why}"),
        }
    }
}

fn openai(provider: &str, model: &str) -> Capabilities {
    let Some(known) = known(Some(provider), model) else { return Capabilities::ANY };
    let mut all = Capabilities { most_completions: Some(128), ..Capabilities::ANY };
    if known.kind == Kind::Responses {
        all.most_completions = Some(1);
        let why = "it is served through the Responses API, which has none";
        all.lacks(&["stop", "seed", "logit_bias", "presence_penalty", "frequency_penalty"], why);
    }
    all.lacks(&["top_k", "min_p", "repetition_penalty"], NOT_OPENAI);
    all.rule("stop", Takes::Texts(4), "OpenAI's API takes no more");
    if known.kind == Kind::Text {
        let why = "that belongs to chat models";
        all.lacks(&["max_completion_tokens", "top_logprobs", "response_format", "tools", "tool_choice"], why);
        all.lacks(&["parallel_tool_calls", "reasoning_effort", "verbosity"], why);
        return all;
    }
    all.lacks(&["best_of"], "that belongs to models that complete texts");
    // What the chat variants of gpt-5 refuse is not documented: nothing of theirs is refused here.
    let chat_variant = known.name.split('-').any(|part| part == "chat");
    if !known.reasoning {
        if !chat_variant {
            all.lacks(&["reasoning_effort"], "it does not reason");
            all.rule("verbosity", Takes::Word("medium"), "that belongs to gpt-5 and later");
        }
        all.renames_max_tokens = chat_variant;
        return all;
    }
    all.renames_max_tokens = true;
    if chat_variant {
        return all;
    }
    all.lacks(&["presence_penalty", "frequency_penalty", "logit_bias"], REASONING);
    // o1 and o3-mini take it.
    if !["o1", "o1-mini", "o3-mini"].contains(&crate::models::family(&known.name)) {
        all.lacks(&["stop"], "OpenAI's reasoning models end where they end");
    }
    match known.sampling {
        Sampling::Yes => {}
        Sampling::No => {
            all.rule("temperature", Takes::Only(1.0), REASONING);
            all.lacks(&["top_p", "logprobs", "top_logprobs"], REASONING);
        }
        Sampling::Effort => all.only_without_reasoning = Some(false),
        Sampling::Default => all.only_without_reasoning = Some(true),
    }
    all
}

fn anthropic(model: &str) -> Capabilities {
    let mut all = Capabilities { most_completions: Some(1), ..Capabilities::ANY };
    all.lacks(&["presence_penalty", "frequency_penalty", "repetition_penalty", "min_p", "logit_bias"], NOT_ANTHROPIC);
    all.lacks(&["seed", "logprobs", "top_logprobs", "best_of", "verbosity"], NOT_ANTHROPIC);
    all.rule("stop", Takes::Visible, "Anthropic's API wants a visible character in each");
    match known(Some("anthropic"), model).map(|known| known.sampling) {
        Some(Sampling::No) => {
            let why = "Anthropic's newer models sample as Anthropic set them";
            all.rule("temperature", Takes::Only(1.0), why);
            all.rule("top_p", Takes::Only(1.0), why);
            all.lacks(&["top_k"], why);
        }
        known => {
            all.rule("temperature", Takes::UpTo(1.0), "Anthropic's range is from 0 to 1");
            // All that are in the table came after the models that took both.
            all.one_sampler = known.is_some();
        }
    }
    all
}

fn gemini(model: &str) -> Capabilities {
    let known = known(Some("gemini"), model);
    // From generation 3 on one candidate is the most; before, eight.
    let several = ["gemini-1", "gemini-2"].iter().any(|old| model.starts_with(old));
    let most_completions = if several { 8 } else { 1 };
    let mut all = Capabilities { most_completions: Some(most_completions), ..Capabilities::ANY };
    all.lacks(
        &["logit_bias", "repetition_penalty", "min_p", "best_of", "verbosity", "parallel_tool_calls"],
        NOT_GEMINI,
    );
    all.rule("stop", Takes::Texts(5), "Gemini's API takes no more");
    if known.is_some_and(|known| known.reasoning) {
        all.lacks(&["presence_penalty", "frequency_penalty"], "penalties are not enabled for Gemini 2.5 and later");
    }
    if known.is_some_and(|known| known.sampling == Sampling::No) {
        let why = "Google's newer models sample as Google set them";
        all.rule("temperature", Takes::Only(1.0), why);
        all.lacks(&["top_p", "top_k"], why);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(provider: &str, model: &str, name: &str, value: Value) -> bool {
        Capabilities::of(provider, model).refuses(name, &value).is_some()
    }

    fn together(provider: &str, model: &str, params: Value) -> Option<String> {
        let params = serde_json::from_value(params).unwrap();
        Capabilities::of(provider, model).refuses_any(&params).map(|(name, _)| name)
    }

    #[test]
    fn reasoning_models_of_openai_sample_as_they_are_set() {
        for model in ["o1", "o3", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5-mini", "gpt-5.5-pro"] {
            for (name, value) in [
                ("temperature", json!(0)),
                ("top_p", json!(0.9)),
                ("presence_penalty", json!(0.5)),
                ("frequency_penalty", json!(0.5)),
                ("logprobs", json!(true)),
                ("top_logprobs", json!(3)),
                ("logit_bias", json!({"50256": -100})),
            ] {
                assert!(refused("openai", model, name, value), "{model} {name}");
            }
            assert!(!refused("openai", model, "temperature", json!(1)), "{model} takes the default");
            assert!(
                !refused("openai", model, "temperature", json!(1.0)) && !refused("openai", model, "top_p", json!(null))
            );
            assert!(!refused("openai", model, "reasoning_effort", json!("high")), "{model}");
            let all = Capabilities::of("openai", model);
            assert!(
                all.renames_max_tokens && !refused("openai", model, "max_tokens", json!(9)),
                "a rename, no refusal"
            );
        }
        assert!(refused("openai", "o3", "stop", json!("x")) && refused("openai", "gpt-5-mini", "stop", json!(["x"])));
        assert!(!refused("openai", "o3-mini", "stop", json!("x")));
        assert!(refused("azure", "gpt-5", "temperature", json!(0.5)));
    }

    #[test]
    fn other_models_of_openai_take_it() {
        for model in ["gpt-4o", "gpt-4o-mini-2024-07-18", "gpt-4.1", "gpt-5-chat-latest", "gpt-3.5-turbo"] {
            for (name, value) in [("temperature", json!(0.3)), ("top_p", json!(0.5)), ("stop", json!(["a", "b"]))] {
                assert!(!refused("openai", model, name, value), "{model} {name}");
            }
        }
        assert!(refused("openai", "gpt-4o", "stop", json!(["a", "b", "c", "d", "e"])));
        assert!(
            refused("openai", "gpt-4o", "top_k", json!(5))
                && refused("openai", "gpt-4o", "reasoning_effort", json!("low"))
        );
        assert!(refused("openai", "gpt-3.5-turbo-instruct", "response_format", json!({"type": "json_object"})));
        assert!(
            !refused("openai", "gpt-3.5-turbo-instruct", "best_of", json!(3))
                && refused("openai", "gpt-4o", "best_of", json!(3))
        );
        assert!(refused("openai", "o1-pro", "seed", json!(1)) && !refused("openai", "o1", "seed", json!(1)));
        assert!(!Capabilities::of("openai", "o1-pro").several());
    }

    #[test]
    fn some_models_take_it_while_they_do_not_reason() {
        assert_eq!(together("openai", "gpt-5.1", json!({"temperature": 0.2})), None, "none is its default");
        assert_eq!(
            together("openai", "gpt-5.1", json!({"temperature": 0.2, "reasoning_effort": "high"})).as_deref(),
            Some("temperature")
        );
        assert_eq!(together("openai", "gpt-5.6", json!({"top_p": 0.2})).as_deref(), Some("top_p"));
        assert_eq!(together("openai", "gpt-5.6", json!({"top_p": 0.2, "reasoning_effort": "none"})), None);
        assert_eq!(together("openai", "gpt-5.6", json!({"temperature": 1})), None);
    }

    #[test]
    fn anthropic_lacks_what_its_api_lacks() {
        for name in ["seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs"] {
            assert!(refused("anthropic", "claude-sonnet-4-5", name, json!(1)), "{name}");
            assert!(refused("anthropic", "claude-of-tomorrow", name, json!(1)), "{name}: no model of it takes that");
        }
        assert!(refused("anthropic", "claude-sonnet-4-5", "temperature", json!(1.5)));
        assert!(!refused("anthropic", "claude-sonnet-4-5", "temperature", json!(0.5)));
        assert!(refused("anthropic", "claude-opus-4-7", "temperature", json!(0.5)));
        assert!(!refused("anthropic", "claude-opus-4-7", "temperature", json!(1)));
        assert!(refused("anthropic", "claude-sonnet-4-5", "stop", json!(["###", "\n\n"])));
        assert!(
            !refused("anthropic", "claude-sonnet-4-5", "stop", json!(["###"]))
                && !refused("anthropic", "x", "stop", json!([]))
        );
        let both = json!({"temperature": 0.5, "top_p": 0.5});
        assert_eq!(together("anthropic", "claude-sonnet-4-5", both.clone()).as_deref(), Some("top_p"));
        assert_eq!(together("anthropic", "claude-3-haiku-20240307", both), None);
        let all = Capabilities::of("anthropic", "claude-sonnet-4-5");
        assert!(!all.several() && all.refuses("n", &json!(5)).is_none(), "n requests, no refusal");
    }

    #[test]
    fn gemini_and_ollama() {
        assert_eq!(Capabilities::of("gemini", "gemini-2.5-flash").most_completions, Some(8));
        assert!(!Capabilities::of("gemini", "gemini-3.1-pro-preview").several());
        assert!(refused("gemini", "gemini-2.5-pro", "presence_penalty", json!(0.1)));
        assert!(refused("gemini", "gemini-3.8-flash", "temperature", json!(0.1)));
        assert!(!refused("gemini", "gemini-2.5-pro", "temperature", json!(0.1)));
        assert!(
            refused("ollama", "llama3.1", "logit_bias", json!({})) && !Capabilities::of("ollama", "llama3.1").several()
        );
        assert!(
            !refused("ollama", "llama3.1", "seed", json!(7)) && !refused("ollama", "llama3.1", "temperature", json!(2))
        );
    }

    #[test]
    fn what_is_not_known_takes_everything() {
        for (provider, model) in
            [("openai", "my-finetune"), ("azure", "our-deployment"), ("mock", "mock-small"), ("replay", "x")]
        {
            let all = Capabilities::of(provider, model);
            assert!(all.any() && all.several() && all.list().is_empty(), "{provider} {model}");
        }
    }

    #[test]
    fn every_refusal_has_words_and_a_place_in_the_list() {
        for model in crate::models::all() {
            let all = Capabilities::of(&model.provider, &model.name);
            assert!(!all.any(), "{model:?}");
            for rule in &all.rules {
                assert!(rule.words().starts_with("no "), "{}", rule.words());
                let known =
                    rule.parameter == "model" || crate::space::parameter::api_parameter(rule.parameter).is_some();
                assert!(known, "`{}` is no parameter of a space", rule.parameter);
            }
        }
        let list = Capabilities::of("openai", "o3-mini").list();
        assert!(list.contains(&"temperature (but 1)".to_owned()) && list.contains(&"top_p".to_owned()), "{list:?}");
    }
}
