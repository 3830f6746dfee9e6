//! Prices: what a token costs, what a request may cost at worst, what a response did cost.

pub mod table;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::diagnostic::{Error, Result, Source};
use crate::money::{Usd, per_million};
use crate::provider::{Response, Sample};

/// The price of one token of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// An input token.
    pub input: Usd,
    /// An input token that the endpoint had in its own prompt cache.
    pub cached_input: Usd,
    /// An output token.
    pub output: Usd,
}

impl Price {
    /// A price from dollars per million tokens.
    pub const fn per_million(input: f64, cached_input: f64, output: f64) -> Price {
        // Six decimals of a dollar per million tokens is one picodollar a token; the table holds nothing finer.
        const fn pico(dollars: f64) -> Usd {
            Usd::from_pico((dollars * 1_000_000.0 + 0.5) as i64)
        }
        Price { input: pico(input), cached_input: pico(cached_input), output: pico(output) }
    }

    /// What a prompt costs, with what the endpoint had cached.
    pub fn prompt(&self, prompt_tokens: u64, cached_tokens: u64) -> Usd {
        let cached = cached_tokens.min(prompt_tokens);
        self.input.times(prompt_tokens - cached) + self.cached_input.times(cached)
    }

    /// What a response was billed.
    pub fn bill(&self, response: &Response) -> Usd {
        self.prompt(response.prompt_tokens, response.cached_tokens) + self.output.times(response.completion_tokens())
    }

    /// What production pays for a prompt and these completions: nothing is cached, the prompt is paid once.
    pub fn production<'a>(&self, prompt_tokens: u64, samples: impl IntoIterator<Item = &'a Sample>) -> Usd {
        let output: u64 = samples.into_iter().map(|sample| sample.completion_tokens).sum();
        self.input.times(prompt_tokens) + self.output.times(output)
    }
}

/// `{ input = 0.15, cached_input = 0.075, output = 0.60 }`: dollars per million tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    /// Dollars per million input tokens.
    #[schemars(with = "f64")]
    pub input: Spanned<toml::Value>,
    /// Dollars per million input tokens that the endpoint had cached; else as `input`.
    #[schemars(with = "Option<f64>")]
    pub cached_input: Option<Spanned<toml::Value>>,
    /// Dollars per million output tokens.
    #[schemars(with = "f64")]
    pub output: Spanned<toml::Value>,
}

impl PriceTable {
    /// The price, exactly as written.
    pub fn price(&self, source: &Source) -> Result<Price> {
        let read = |value: &Spanned<toml::Value>| {
            let text = match value.get_ref() {
                toml::Value::Integer(int) => int.to_string(),
                toml::Value::Float(float) => float.to_string(),
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let wrong = |what: String| Error::usage(what).at(source, value.span(), "dollars per million tokens");
            match per_million(&text) {
                Ok(price) if price < Usd::ZERO => Err(wrong("a price cannot be negative".to_owned())),
                Ok(price) => Ok(price),
                Err(error) => Err(wrong(error.to_string())),
            }
        };
        let input = read(&self.input)?;
        let cached_input = self.cached_input.as_ref().map_or(Ok(input), read)?;
        Ok(Price { input, cached_input, output: read(&self.output)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::FinishReason;

    fn sample(tokens: u64) -> Sample {
        Sample::new("", FinishReason::STOP, tokens)
    }

    #[test]
    fn bills_are_exact() {
        let price = Price::per_million(0.15, 0.075, 0.6);
        let response = Response {
            samples: vec![sample(10), sample(5)],
            prompt_tokens: 100,
            cached_tokens: 40,
            ..Response::default()
        };
        assert_eq!(price.bill(&response).to_string(), "0.000021");
        assert_eq!(price.production(100, &response.samples).to_string(), "0.000024");
        assert_eq!(price.prompt(10, 99), price.prompt(10, 10), "more cached tokens than there are tokens");
    }
}
