//! A configuration ready to be asked: everything looked up, only the instance missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::prompt::{Body, Context, Fields, Prompt};
use crate::provider::{Failure, FailureKind, Request};
use crate::runner::{Runner, Service};
use crate::space::parameter::whole;
use crate::space::{Configuration, Role, Space};
use crate::store::Stored;
use crate::task::Instance;

/// A configuration with its prompt, its model's service and its parameters.
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
                    n = whole(value)
                        .and_then(|n| u32::try_from(n).ok())
                        .ok_or_else(|| Error::usage(format!("n = {value} is no number of completions")))?;
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
        let rendered = Fields::new(&variables);
        Ok(Plan { configuration, prompt, service, params, n: n.max(1), variables, rendered })
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

    /// What the study pays for samples `known..n`: the prompt that bought the first of them, and their output.
    pub fn study_cost(&self, stored: &Stored, known: usize) -> Usd {
        let n = self.n as usize;
        let Some(purchase) = stored.purchase_of(known).filter(|_| known < n) else { return Usd::ZERO };
        let output: u64 = stored.samples().take(n).skip(known).map(|sample| sample.completion_tokens).sum();
        let price = &self.service.price;
        let prompt = purchase.response.prompt_tokens;
        price.prompt(prompt, purchase.response.cached_tokens) + price.at(prompt).output.times(output)
    }

    /// What production pays for this instance: the prompt once, n completions, nothing cached.
    pub fn production_cost(&self, stored: &Stored) -> Usd {
        let prompt = stored.purchases.first().map_or(0, |purchase| purchase.response.prompt_tokens);
        self.service.price.production(prompt, stored.samples().take(self.n as usize))
    }
}
