//! Prices: what a token costs, what a request may cost at worst, what a response did cost.

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
    /// An input token that the endpoint wrote to its prompt cache and billed as such.
    pub cache_write: Usd,
    /// An output token.
    pub output: Usd,
    /// What a token of a request with a long prompt costs instead, where that is more.
    pub long: Option<Long>,
}

/// The price of one token of a request whose prompt is longer than some limit: all of its tokens are billed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Long {
    /// The limit: prompts of more tokens than this.
    pub over: u64,
    /// An input token.
    pub input: Usd,
    /// An input token from the prompt cache.
    pub cached_input: Usd,
    /// An input token written to the prompt cache.
    pub cache_write: Usd,
    /// An output token.
    pub output: Usd,
}

impl Price {
    /// Nothing costs anything.
    pub const FREE: Price = Price::flat(Usd::ZERO, Usd::ZERO);

    /// A price that knows no prompt cache and no long prompts.
    pub const fn flat(input: Usd, output: Usd) -> Price {
        Price { input, cached_input: input, cache_write: input, output, long: None }
    }

    /// The price of a request with so long a prompt.
    pub fn at(&self, prompt_tokens: u64) -> Price {
        match self.long.filter(|long| prompt_tokens > long.over) {
            Some(Long { input, cached_input, cache_write, output, .. }) => {
                Price { input, cached_input, cache_write, output, long: None }
            }
            None => Price { long: None, ..*self },
        }
    }

    /// The price through a batch API: the rest is in the proportion of the input's prices, rounded up. Cached input is
    /// taken at the full batch price, which is an upper bound: whether both discounts are given is not promised.
    pub fn batch(&self, input: Usd, output: Usd) -> Price {
        let part = |amount: Usd, whole: Usd, share: Usd| match u64::try_from(whole.pico()) {
            Ok(whole) if whole > 0 => amount.scale_up(share.pico().unsigned_abs(), whole),
            _ => share,
        };
        let scaled = |amount: Usd| part(amount, self.input, input);
        let long = self.long.map(|long| Long {
            over: long.over,
            input: scaled(long.input),
            cached_input: scaled(long.input),
            cache_write: scaled(long.cache_write),
            output: part(long.output, self.output, output),
        });
        Price { input, cached_input: input, cache_write: scaled(self.cache_write), output, long }
    }

    /// The most that an input token may be billed: under a bound nobody knows what will be cached.
    pub fn dearest_input(&self) -> Usd {
        self.input.max(self.cached_input).max(self.cache_write)
    }

    /// What a prompt costs, with what the endpoint had cached.
    pub fn prompt(&self, prompt_tokens: u64, cached_tokens: u64) -> Usd {
        self.prompt_with_writes(prompt_tokens, cached_tokens, 0)
    }

    /// What a prompt costs, with what the endpoint had cached and what it wrote to its cache.
    pub fn prompt_with_writes(&self, prompt_tokens: u64, cached_tokens: u64, written_tokens: u64) -> Usd {
        let price = self.at(prompt_tokens);
        let cached = cached_tokens.min(prompt_tokens);
        let written = written_tokens.min(prompt_tokens - cached);
        price.input.times(prompt_tokens - cached - written)
            + price.cached_input.times(cached)
            + price.cache_write.times(written)
    }

    /// What the prompt of a response was billed.
    pub fn prompt_of(&self, response: &Response) -> Usd {
        self.prompt_with_writes(response.prompt_tokens, response.cached_tokens, response.cache_write_tokens)
    }

    /// What a response was billed.
    pub fn bill(&self, response: &Response) -> Usd {
        self.prompt_of(response) + self.at(response.prompt_tokens).output.times(response.completion_tokens())
    }

    /// What production pays for these completions and for the prompt, `prompts` times: once, or for every completion where
    /// a request gives only one. Nothing is cached.
    pub fn production<'a>(
        &self,
        prompt_tokens: u64,
        prompts: u64,
        samples: impl IntoIterator<Item = &'a Sample>,
    ) -> Usd {
        let price = self.at(prompt_tokens);
        let output: u64 = samples.into_iter().map(|sample| sample.completion_tokens).sum();
        price.input.times(prompt_tokens).times(prompts) + price.output.times(output)
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
    /// Dollars per million input tokens that the endpoint writes to its cache; else as `input`.
    #[schemars(with = "Option<f64>")]
    pub cache_write: Option<Spanned<toml::Value>>,
    /// Dollars per million output tokens.
    #[schemars(with = "f64")]
    pub output: Spanned<toml::Value>,
    /// Dollars per million input tokens through a batch API; needs `batch_output` too.
    #[schemars(with = "Option<f64>")]
    pub batch_input: Option<Spanned<toml::Value>>,
    /// Dollars per million output tokens through a batch API; needs `batch_input` too.
    #[schemars(with = "Option<f64>")]
    pub batch_output: Option<Spanned<toml::Value>>,
}

impl PriceTable {
    /// The price, exactly as written.
    pub fn price(&self, source: &Source) -> Result<Price> {
        let input = read(source, &self.input)?;
        let or_input = |value: &Option<Spanned<toml::Value>>| value.as_ref().map_or(Ok(input), |v| read(source, v));
        Ok(Price {
            cached_input: or_input(&self.cached_input)?,
            cache_write: or_input(&self.cache_write)?,
            ..Price::flat(input, read(source, &self.output)?)
        })
    }

    /// The price through a batch API, where it is written.
    pub fn batch_price(&self, source: &Source) -> Result<Option<Price>> {
        match (&self.batch_input, &self.batch_output) {
            (Some(input), Some(output)) => {
                Ok(Some(self.price(source)?.batch(read(source, input)?, read(source, output)?)))
            }
            (None, None) => Ok(None),
            (Some(one), None) | (None, Some(one)) => Err(Error::usage(
                "a batch price is `batch_input` and `batch_output`, both of them",
            )
            .at(source, one.span(), "the other one is missing")),
        }
    }
}

fn read(source: &Source, value: &Spanned<toml::Value>) -> Result<Usd> {
    let text = match value.get_ref() {
        toml::Value::Integer(int) => int.to_string(),
        // Exactly too, and not by hundreds of digits where it is huge or tiny.
        toml::Value::Float(float) if float.abs() >= 1e15 || (float.abs() < 1e-9 && *float != 0.0) => {
            format!("{float:e}")
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::FinishReason;

    fn sample(tokens: u64) -> Sample {
        Sample::new("", FinishReason::STOP, tokens)
    }

    fn usd(text: &str) -> Usd {
        per_million(text).unwrap()
    }

    #[test]
    fn long_prompts_have_their_own_price() {
        let long =
            Long { over: 1000, input: usd("2"), cached_input: usd("1"), cache_write: usd("3"), output: usd("8") };
        let price = Price { long: Some(long), ..Price::flat(usd("1"), usd("5")) };
        assert_eq!(price.prompt(1000, 0), usd("1").times(1000));
        assert_eq!(price.prompt(1001, 1), usd("2").times(1000) + usd("1"), "all tokens, not those above the limit");
        assert_eq!(price.at(1001).output, usd("8"));
        let answer = |prompt_tokens| Response {
            samples: vec![sample(7)],
            prompt_tokens,
            cached_tokens: 0,
            ..Response::default()
        };
        assert_eq!(price.bill(&answer(1001)), usd("2").times(1001) + usd("8").times(7));
        assert_eq!(price.production(1001, 1, &answer(1001).samples), price.bill(&answer(1001)));
        assert_eq!(price.bill(&answer(10)), usd("1").times(10) + usd("5").times(7));
    }

    #[test]
    fn cache_writes_have_their_own_price() {
        let price = Price { cached_input: usd("0.1"), cache_write: usd("1.25"), ..Price::flat(usd("1"), usd("5")) };
        let wanted = usd("1").times(50) + usd("0.1").times(20) + usd("1.25").times(30);
        assert_eq!(price.prompt_with_writes(100, 20, 30), wanted);
        assert_eq!(price.prompt_with_writes(10, 20, 30), usd("0.1").times(10), "more than there are");
        assert_eq!(price.dearest_input(), usd("1.25"));
        let batch = price.batch(usd("0.5"), usd("2.5"));
        assert_eq!((batch.cached_input, batch.cache_write, batch.output), (usd("0.5"), usd("0.625"), usd("2.5")));
        assert_eq!(Price::FREE.batch(usd("0.5"), usd("1")).cache_write, usd("0.5"));
    }

    #[test]
    fn tables_are_read_exactly() {
        let price = |text: &str| {
            let source = Source::new("farthing.toml", text);
            let table: PriceTable = toml::from_str(text).map_err(|error| Error::usage(error.to_string()))?;
            Ok::<_, Error>((table.price(&source)?, table.batch_price(&source)?))
        };
        let (flat, batch) = price("input = 0.15\noutput = 0.6").unwrap();
        assert_eq!((flat, batch), (Price::flat(usd("0.15"), usd("0.6")), None));
        let (full, batch) = price(
            "input = 3\ncached_input = 0.3\ncache_write = 3.75\noutput = 15\nbatch_input = 1.5\nbatch_output = \"7.5\"",
        )
        .unwrap();
        assert_eq!((full.cached_input, full.cache_write), (usd("0.3"), usd("3.75")));
        assert_eq!(batch.map(|b| (b.input, b.cache_write, b.output)), Some((usd("1.5"), usd("1.875"), usd("7.5"))));
        for (written, said) in [
            ("1e300", "`1e300` is more than"),
            ("1e-300", "`1e-300` is finer than"),
            (&format!("\"{}\"", "9".repeat(300)), "…"),
        ] {
            let error = price(&format!("input = {written}\noutput = 15")).unwrap_err();
            assert!(error.message().contains(said) && error.message().len() < 120, "{error}");
        }
        assert!(price("input = 3\noutput = 15\nbatch_input = 1").unwrap_err().message().contains("both"));
        assert!(
            price("input = -3\noutput = 15").is_err() && price("input = 3\noutput = 15\ncache_write = -1").is_err()
        );
    }

    #[test]
    fn bills_are_exact() {
        let price = Price { cached_input: usd("0.075"), ..Price::flat(usd("0.15"), usd("0.6")) };
        let response = Response {
            samples: vec![sample(10), sample(5)],
            prompt_tokens: 100,
            cached_tokens: 40,
            ..Response::default()
        };
        assert_eq!(price.bill(&response).to_string(), "0.000021");
        assert_eq!(price.production(100, 1, &response.samples).to_string(), "0.000024");
        assert_eq!(price.production(100, 2, &response.samples).to_string(), "0.000039", "a prompt for each");
        assert_eq!(price.prompt(10, 99), price.prompt(10, 10), "more cached tokens than there are tokens");
    }
}
