//! A configuration ready to be asked: everything looked up, only the instance missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::backend::mock;
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::price::Price;
use crate::prompt::{Body, Context, Fields, Prompt};
use crate::provider::{Failure, FailureKind, Input, Request, tokens};
use crate::runner::{Runner, Service};
use crate::space::parameter::completions;
use crate::space::{Configuration, Role, Space};
use crate::store::Stored;
use crate::task::Instance;

/// A configuration with its prompt, its model's service and its parameters.
#[derive(Clone)]
pub struct Plan {
    /// The configuration.
    pub configuration: Configuration,
    /// Its prompt.
    pub prompt: Prompt,
    /// Who answers.
    pub service: Arc<Service>,
    /// The API parameters, except model, prompt and n.
    pub params: BTreeMap<String, Value>,
    /// How many completions.
    pub n: u32,
    /// The template variables.
    pub variables: BTreeMap<String, Value>,
    /// One request gives all n completions.
    several: bool,
    rendered: Arc<Fields>,
}

impl Plan {
    /// Looks up a configuration of a space. The runner must have opened its model.
    pub fn new(space: &Space, configuration: &Configuration, runner: &Runner) -> Result<Plan> {
        let text = |name: &str| configuration.get(name).and_then(Value::as_str);
        let model = text("model").ok_or_else(|| Error::usage(format!("{configuration} names no model")))?;
        let prompt = text("prompt").and_then(|name| space.prompt(name));
        let prompt =
            prompt.ok_or_else(|| Error::usage(format!("{configuration} names no prompt of the space"))).cloned()?;
        let (mut params, mut variables, mut n) = (BTreeMap::new(), BTreeMap::new(), 1);
        for (name, value) in &configuration.0 {
            match space.parameter(name).map(|parameter| parameter.role) {
                Some(Role::Api | Role::Body) => drop(params.insert(name.clone(), value.clone())),
                Some(Role::Variable) => drop(variables.insert(name.clone(), value.clone())),
                Some(Role::N) => {
                    n = completions(value).map_err(Error::usage)?;
                }
                Some(Role::Model | Role::Prompt) => {}
                None => return Err(Error::usage(format!("there is no parameter `{name}` in the space"))),
            }
        }
        Plan::assemble(configuration.clone(), prompt, model, params, n, variables, runner)
    }

    /// Puts a plan together from its parts.
    pub fn assemble(
        configuration: Configuration,
        prompt: Prompt,
        model: &str,
        params: BTreeMap<String, Value>,
        n: u32,
        variables: BTreeMap<String, Value>,
        runner: &Runner,
    ) -> Result<Plan> {
        let service =
            runner.service(model).ok_or_else(|| Error::internal(format!("the model `{model}` was not opened")))?;
        match (&prompt.body, service.chat) {
            (Body::Messages(_), false) => {
                return Err(Error::usage(format!(
                    "the prompt `{}` is a conversation, and `{model}` completes texts",
                    prompt.name
                ))
                .help(
                    "give that prompt as `template` or `text`, or keep it from this model by `when` or a constraint",
                ));
            }
            (Body::Text(_), true) => {
                return Err(Error::usage(format!(
                    "the prompt `{}` is a text to go on from, and `{model}` is a chat model",
                    prompt.name
                ))
                .help(format!("give it as `template` or `messages`, or set [models.\"{model}\"] kind = \"text\"")));
            }
            _ => {}
        }
        let (rendered, n) = (Fields::new(&variables), n.max(1));
        // What decides is who answers and the parameters, not the prompt.
        let input = if service.chat { Input::Messages(Vec::new()) } else { Input::Text(String::new()) };
        let several = service.several(&Request { model: service.model.id.clone(), input, params: params.clone(), n });
        Ok(Plan { configuration, prompt, service, params, n, variables, several, rendered })
    }

    /// The request for one instance.
    pub fn request(&self, instance: &Instance) -> Result<Request, Failure> {
        let context = Context::new(&instance.rendered, &self.rendered);
        let input = self.prompt.render(&context, self.service.chat).map_err(|problem| {
            Failure::new(
                FailureKind::Render,
                format!("prompt `{}`, instance `{}`: {problem}", self.prompt.name, instance.id),
            )
        })?;
        Ok(Request { model: self.service.model.id.clone(), input, params: self.params.clone(), n: self.n })
    }

    /// All that its requests' input texts depend on beside the instance: plans of one model whose words are equal are
    /// billed for the same input.
    pub fn rendering(&self) -> String {
        let variables = serde_json::to_string(&self.variables).unwrap_or_default();
        let extras: Vec<_> = tokens::PROMPT_PARAMETERS.iter().map(|name| self.params.get(*name)).collect();
        format!("{}\n{}\n{variables}\n{extras:?}", self.prompt.name, self.service.chat)
    }

    /// What decides how many input tokens its requests are counted at: two plans with the same one count the same.
    pub fn counting(&self) -> String {
        format!("{}\n{}", self.service.model.name, self.rendering())
    }

    /// The input tokens that a request is billed, as far as can be told.
    pub fn input_tokens(&self, request: &Request) -> InputTokens {
        let service = &self.service;
        let by = |tokens: u64, counted: CountedBy| InputTokens { tokens, counted };
        if let Some(exact) = service.exact_input(request) {
            return by(exact, CountedBy::Biller);
        }
        if service.source() == "mock" {
            return by(mock::tokens::prompt(&request.input), CountedBy::Biller);
        }
        let messages = match &request.input {
            Input::Messages(messages) => messages.len() as u64,
            Input::Text(_) => 0,
        };
        match tokens::input_count(request) {
            Some(count) if tokens::given(&request.model) => by(count, CountedBy::Tokenizer),
            // The count is on the safe side by one a message, which today's models are not billed.
            Some(count) if service.vendor => by(count - messages.min(count), CountedBy::Biller),
            Some(count) => by(count - messages.min(count), CountedBy::Tokenizer),
            None => by(tokens::input_bound(request).div_ceil(4), CountedBy::Bytes),
        }
    }

    /// What the study pays for samples `known..n`: their output, and the prompt. That is counted once, and again where an
    /// endpoint gave fewer completions than it was asked for; or for each sample, where a request gives only one. How an
    /// earlier study divided its purchases changes nothing.
    pub fn study_cost(&self, stored: &Stored, known: usize) -> Usd {
        study_cost(self.service.study_price(), self.several, stored, known, self.n as usize)
    }

    /// What production pays for this instance: n completions, nothing cached, and the prompt once, or n times where a
    /// request gives only one completion.
    pub fn production_cost(&self, stored: &Stored) -> Usd {
        let prompt = stored.purchases.first().map_or(0, |purchase| purchase.response.prompt_tokens);
        self.service.price.production(prompt, self.prompts(), stored.samples().take(self.n as usize))
    }

    /// What of that is input: so many tokens a prompt.
    pub fn input_cost(&self, prompt_tokens: u64) -> Usd {
        self.service.price.at(prompt_tokens).input.times(prompt_tokens).times(self.prompts())
    }

    /// The same in dollars of an instance, where the tokens are a mean.
    pub fn input_dollars(&self, prompt_tokens: f64) -> f64 {
        let price = self.service.price.at(prompt_tokens.round() as u64);
        prompt_tokens * price.input.as_f64() * self.prompts() as f64
    }

    /// How often production pays the prompt.
    pub fn prompts(&self) -> u64 {
        if self.several { 1 } else { u64::from(self.n) }
    }
}

/// The input tokens of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputTokens {
    /// How many.
    pub tokens: u64,
    /// Who says so.
    pub counted: CountedBy,
}

/// Who counted tokens, from the surest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CountedBy {
    /// As whoever bills them counts.
    Biller,
    /// The model's tokenizer; a server between may add to it.
    Tokenizer,
    /// Nobody: a quarter of the bytes.
    Bytes,
}

fn study_cost(price: &Price, several: bool, stored: &Stored, known: usize, n: usize) -> Usd {
    let (mut cost, mut again) = (Usd::ZERO, true);
    for purchase in &stored.purchases {
        let (first, response) = (purchase.first, &purchase.response);
        let end = (first + response.samples.len()).min(n);
        let skip = known.saturating_sub(first);
        if first + skip >= end {
            continue;
        }
        let used = &response.samples[skip..end - first];
        let output: u64 = used.iter().map(|sample| sample.completion_tokens).sum();
        let prompts = if several { u64::from(again) } else { used.len() as u64 };
        cost += price.at(response.prompt_tokens).output.times(output) + price.prompt_of(response).times(prompts);
        again = response.asked.is_some_and(|asked| asked as usize > response.samples.len());
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{FinishReason, Response, Sample};
    use crate::store::Purchase;

    /// Purchases of so many samples, of one output token each, after prompts of 100 tokens.
    fn stored(sizes: &[(usize, Option<u32>)]) -> Stored {
        let mut stored = Stored::default();
        for &(size, asked) in sizes {
            let samples = vec![Sample::new("", FinishReason::STOP, 1); size];
            let response = Response { samples, prompt_tokens: 100, asked, ..Response::default() };
            stored.purchases.push(Purchase { first: stored.len(), response });
        }
        stored
    }

    #[test]
    fn a_prompt_is_counted_as_often_as_an_empty_store_would_have_paid_it() {
        let price = Price::flat(Usd::from_pico(1_000_000), Usd::from_pico(1_000_000));
        let cost =
            |several, stored: &Stored, known, n| study_cost(&price, several, stored, known, n).pico() / 1_000_000;
        let whole = stored(&[(3, None)]);
        assert_eq!([0, 1, 3].map(|known| cost(true, &whole, known, 3)), [103, 102, 0]);
        assert_eq!(
            cost(true, &stored(&[(1, None), (2, None)]), 0, 3),
            103,
            "bought before for less: as on a cold store"
        );
        let fewer = stored(&[(2, Some(4)), (1, Some(2)), (1, None)]);
        assert_eq!(cost(true, &fewer, 0, 4), 304, "each request that came short costs the prompt again");
        assert_eq!((cost(true, &fewer, 0, 2), cost(true, &fewer, 2, 4)), (102, 202));
        for sizes in [&[(3, None)][..], &[(1, None), (1, None), (1, None)]] {
            assert_eq!(cost(false, &stored(sizes), 0, 3), 303, "a prompt each");
            assert_eq!(cost(false, &stored(sizes), 1, 3), 202);
        }
        assert_eq!(cost(true, &Stored::default(), 0, 3), 0);
    }
}
