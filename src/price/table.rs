//! The built-in table of models: prices, limits and kinds, with the date of the figures. `farthing.toml` overrides it.

use crate::price::Price;

/// What is known of a model without the user saying so.
#[derive(Clone, Copy, Debug)]
pub struct KnownModel {
    /// Its name at its provider. Dated snapshots (`name-2024-08-06`, `name-0613`) are found by it too.
    pub name: &'static str,
    /// Its provider.
    pub provider: &'static str,
    /// Its price.
    pub price: Price,
    /// Tokens of prompt and answer together.
    pub context_window: u64,
    /// Most output tokens of one completion.
    pub max_output_tokens: u64,
    /// A chat model, not one that completes a text.
    pub chat: bool,
}

/// The date of the figures: OpenAI's public price list, standard tier.
pub const AS_OF: &str = "2025-06";

const fn openai(name: &'static str, prices: (f64, f64, f64), context: u64, output: u64, chat: bool) -> KnownModel {
    let price = Price::per_million(prices.0, prices.1, prices.2);
    KnownModel { name, provider: "openai", price, context_window: context, max_output_tokens: output, chat }
}

/// The models, by provider and family. Prices are (input, cached input, output) in dollars per million tokens.
pub const MODELS: &[KnownModel] = &[
    openai("gpt-4.1", (2.0, 0.5, 8.0), 1_047_576, 32_768, true),
    openai("gpt-4.1-mini", (0.4, 0.1, 1.6), 1_047_576, 32_768, true),
    openai("gpt-4.1-nano", (0.1, 0.025, 0.4), 1_047_576, 32_768, true),
    openai("gpt-4o", (2.5, 1.25, 10.0), 128_000, 16_384, true),
    openai("gpt-4o-mini", (0.15, 0.075, 0.6), 128_000, 16_384, true),
    openai("gpt-4-turbo", (10.0, 10.0, 30.0), 128_000, 4_096, true),
    openai("gpt-4", (30.0, 30.0, 60.0), 8_192, 8_192, true),
    openai("gpt-3.5-turbo", (0.5, 0.5, 1.5), 16_385, 4_096, true),
    openai("gpt-3.5-turbo-instruct", (1.5, 1.5, 2.0), 4_096, 4_096, false),
    openai("davinci-002", (2.0, 2.0, 2.0), 16_384, 16_384, false),
    openai("babbage-002", (0.4, 0.4, 0.4), 16_384, 16_384, false),
];

/// What is known of a model: by its name, or by its family's where only a date or a build number follows.
pub fn known(model: &str) -> Option<&'static KnownModel> {
    let snapshot = |family: &str| {
        let rest = model.strip_prefix(family).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.len() >= 4 && rest.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
    };
    MODELS.iter().find(|known| known.name == model).or_else(|| MODELS.iter().find(|known| snapshot(known.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_of_their_family() {
        assert_eq!(known("gpt-4o-2024-08-06").unwrap().name, "gpt-4o");
        assert_eq!(known("gpt-4-0613").unwrap().name, "gpt-4");
        assert_eq!(known("gpt-4o-mini").unwrap().name, "gpt-4o-mini");
        assert!(known("gpt-4o-audio-preview").is_none(), "another model, at another price");
        assert!(known("gpt-4-32k").is_none());
    }
}
