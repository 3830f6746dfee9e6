//! What is known of models without the user saying so: prices, limits, what they take. `farthing.toml` overrides it.
//!
//! The figures are plain data in `table.csv`, written by `scripts/refresh_models.py` from a public list; [`as_of`] and
//! [`source`] say whose and of when. A model is found by its name, or by its family's where only a snapshot's date differs.

pub mod capability;
mod family;
mod refused;

use std::sync::LazyLock;

use serde::Deserialize;

use crate::money::{Usd, per_million};
use crate::price::{Long, Price};
pub use capability::Capabilities;
pub use family::{family, same_family};
pub use refused::Refused;

/// The table as text.
const TABLE: &str = include_str!("table.csv");

/// How a model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// By messages.
    Chat,
    /// By a text that it goes on from.
    Text,
    /// Through OpenAI's Responses API alone.
    Responses,
}

impl Kind {
    /// The word in listings.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Chat => "chat",
            Kind::Text => "text",
            Kind::Responses => "responses",
        }
    }
}

/// Whether a model takes `temperature`, `top_p` and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// It does.
    Yes,
    /// It does not: it samples as its maker set it.
    No,
    /// Only while it does not reason: `reasoning_effort` must be set to `"none"`.
    Effort,
    /// Only while it does not reason, which is its default.
    Default,
}

/// What is known of a model without the user saying so.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownModel {
    /// Its provider, by the word that `farthing.toml` uses.
    pub provider: String,
    /// Its name at its provider.
    pub name: String,
    /// How it is asked.
    pub kind: Kind,
    /// Its price, standard tier.
    pub price: Price,
    /// Its price through the provider's batch API, where there is one.
    pub batch_price: Option<Price>,
    /// Tokens of prompt and answer together.
    pub context_window: Option<u64>,
    /// Most output tokens of one completion, reasoning included.
    pub max_output_tokens: Option<u64>,
    /// It can reason before it answers; those tokens are billed as output.
    pub reasoning: bool,
    /// Whether it takes sampling parameters.
    pub sampling: Sampling,
    /// It reads images.
    pub vision: bool,
    /// It calls tools.
    pub tools: bool,
}

struct Table {
    source: &'static str,
    as_of: &'static str,
    models: Vec<KnownModel>,
}

static KNOWN: LazyLock<Table> = LazyLock::new(|| read(TABLE));

/// Every known model, by provider and name.
pub fn all() -> &'static [KnownModel] {
    &KNOWN.models
}

/// Where the figures come from, in words.
pub fn source() -> &'static str {
    KNOWN.source
}

/// The day of the figures, like `2026-11-12`.
pub fn as_of() -> &'static str {
    KNOWN.as_of
}

/// What is known of a model of a provider (of any, where none is given): by its exact name, else by its family's where
/// only a snapshot's date differs. A family's name without a row of its own stands for its snapshots if they all agree.
pub fn known(provider: Option<&str>, name: &str) -> Option<&'static KnownModel> {
    match provider {
        Some(provider) => of_provider(all(), provider, name),
        None => ["openai", "anthropic", "gemini", "azure"].into_iter().find_map(|word| of_provider(all(), word, name)),
    }
}

fn of_provider<'a>(table: &'a [KnownModel], provider: &str, name: &str) -> Option<&'a KnownModel> {
    let rows = || table.iter().filter(|row| row.provider == provider);
    if let Some(row) = rows().find(|row| row.name == name) {
        return Some(row);
    }
    let wanted = family(name);
    if wanted != name {
        return rows().find(|row| row.name == wanted);
    }
    // `-latest` moves on, so it says nothing of a bare name.
    let mut snapshots = rows().filter(|row| family(&row.name) == name && !row.name.ends_with("-latest"));
    let first = snapshots.next()?;
    let same = |row: &KnownModel| {
        let facts =
            |row: &KnownModel| (row.kind, row.price, row.batch_price, row.context_window, row.max_output_tokens);
        facts(row) == facts(first)
    };
    snapshots.all(same).then_some(first)
}

/// A row as written.
#[derive(Deserialize)]
struct Row {
    provider: String,
    name: String,
    kind: Kind,
    input: String,
    cached_input: String,
    cache_write: String,
    output: String,
    batch_input: String,
    batch_output: String,
    long_over: Option<u64>,
    long_input: String,
    long_cached_input: String,
    long_cache_write: String,
    long_output: String,
    context_window: Option<u64>,
    max_output_tokens: Option<u64>,
    reasoning: String,
    sampling: Sampling,
    vision: String,
    tools: String,
}

/// Reads the table. A row that cannot be read is left out: no price is better than a wrong one. The tests see to it that
/// there is none.
fn read(text: &'static str) -> Table {
    let head = |key: &str| {
        let line = text.lines().take_while(|line| line.starts_with('#')).find_map(|line| line.strip_prefix(key));
        line.unwrap_or("unknown").trim()
    };
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    let models = reader.deserialize::<Row>().filter_map(|row| row.ok()?.model()).collect();
    Table { source: head("# source:"), as_of: head("# as_of:"), models }
}

impl Row {
    fn model(self) -> Option<KnownModel> {
        // Nothing written is the price of input, which is the upper of what it can mean.
        let or = |text: &str, other: Usd| if text.is_empty() { Some(other) } else { per_million(text).ok() };
        let input = per_million(&self.input).ok()?;
        let long = match self.long_over {
            None => None,
            Some(over) => {
                let input = per_million(&self.long_input).ok()?;
                Some(Long {
                    over,
                    input,
                    cached_input: or(&self.long_cached_input, input)?,
                    cache_write: or(&self.long_cache_write, input)?,
                    output: per_million(&self.long_output).ok()?,
                })
            }
        };
        let price = Price {
            input,
            cached_input: or(&self.cached_input, input)?,
            cache_write: or(&self.cache_write, input)?,
            output: per_million(&self.output).ok()?,
            long,
        };
        let batch_price = match self.batch_input.is_empty() {
            true => None,
            false => Some(price.batch(per_million(&self.batch_input).ok()?, per_million(&self.batch_output).ok()?)),
        };
        Some(KnownModel {
            provider: self.provider,
            name: self.name,
            kind: self.kind,
            price,
            batch_price,
            context_window: self.context_window,
            max_output_tokens: self.max_output_tokens,
            reasoning: self.reasoning == "yes",
            sampling: self.sampling,
            vision: self.vision == "yes",
            tools: self.tools == "yes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(text: &str) -> Usd {
        per_million(text).unwrap()
    }

    #[test]
    fn every_row_is_read() {
        let rows = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count() - 1;
        assert_eq!(all().len(), rows);
        assert!(rows > 200, "{rows}");
        assert!(source().contains("litellm") && as_of().len() == 10 && as_of() > "2026", "{} {}", source(), as_of());
        let sorted =
            all().windows(2).all(|pair| (&pair[0].provider, &pair[0].name) < (&pair[1].provider, &pair[1].name));
        assert!(sorted, "the table is sorted and names are there once");
    }

    #[test]
    fn the_figures_make_sense() {
        for row in all() {
            let price = row.price;
            assert!(price.output > Usd::ZERO && price.input > Usd::ZERO, "{row:?}");
            assert!(price.cached_input <= price.input && price.input <= price.cache_write, "{row:?}");
            assert!(row.context_window.unwrap() >= row.max_output_tokens.unwrap(), "{row:?}");
            if let Some(long) = price.long {
                assert!(long.input >= price.input && long.output >= price.output, "{row:?}");
                assert!(long.cached_input >= price.cached_input && long.over < row.context_window.unwrap(), "{row:?}");
            }
            if let Some(batch) = row.batch_price {
                assert!(batch.input <= price.input && batch.output <= price.output, "{row:?}");
                assert!(batch.cached_input <= price.cached_input.max(batch.input), "{row:?}");
            }
        }
    }

    #[test]
    fn prices_are_exact() {
        let mini = known(Some("openai"), "gpt-4o-mini").unwrap();
        assert_eq!(
            (mini.price.input, mini.price.cached_input, mini.price.cache_write, mini.price.output),
            (usd("0.15"), usd("0.075"), usd("0.15"), usd("0.6"))
        );
        assert_eq!(mini.batch_price.map(|batch| (batch.input, batch.output)), Some((usd("0.075"), usd("0.3"))));
        assert_eq!((mini.context_window, mini.max_output_tokens), (Some(128_000), Some(16_384)));
        let claude = known(Some("anthropic"), "claude-sonnet-4-5").unwrap();
        assert_eq!((claude.price.cached_input, claude.price.cache_write), (usd("0.3"), usd("3.75")));
        let long = known(Some("gemini"), "gemini-2.5-pro").unwrap().price.long.unwrap();
        assert_eq!((long.over, long.input, long.output), (200_000, usd("2.5"), usd("15")));
        assert_eq!(known(Some("openai"), "gpt-4").unwrap().max_output_tokens, Some(8192), "no cap below its window");
    }

    #[test]
    fn snapshots_are_of_their_family_and_other_models_are_not() {
        let name = |provider, name| known(Some(provider), name).map(|row| row.name.as_str());
        assert_eq!(name("openai", "gpt-4o-2024-08-06"), Some("gpt-4o-2024-08-06"), "a row of its own");
        assert_eq!(name("openai", "gpt-4o-2031-08-06"), Some("gpt-4o"));
        assert_eq!(name("openai", "gpt-4-0314"), Some("gpt-4"));
        assert_eq!(name("anthropic", "claude-opus-4-5@20251101"), Some("claude-opus-4-5"));
        assert_eq!(name("anthropic", "claude-opus-4-5-latest"), Some("claude-opus-4-5"));
        assert_eq!(name("gemini", "gemini-2.5-flash-001"), Some("gemini-2.5-flash"));
        assert_eq!(name("azure", "gpt-35-turbo-0125"), Some("gpt-35-turbo"));
        for (provider, other) in [
            ("openai", "gpt-4-32k"),
            ("openai", "gpt-4o-audio-preview"),
            ("openai", "gpt-4o-audio-preview-2024-12-17"),
            ("openai", "gpt-4o-min"),
            ("openai", "claude-opus-4-5"),
            ("gemini", "gemini-pro"),
            ("openai", ""),
            ("openai", "-latest"),
            ("nobody", "gpt-4o"),
        ] {
            assert_eq!(name(provider, other), None, "{provider} {other}");
        }
        assert_eq!(known(None, "gpt-4o").unwrap().provider, "openai");
        assert_eq!(known(None, "claude-opus-4-5").unwrap().provider, "anthropic");
    }

    #[test]
    fn a_family_stands_for_snapshots_that_agree_only() {
        let row = |name: &str, output: &str| {
            let mut row = known(Some("openai"), "gpt-4o").unwrap().clone();
            row.name = name.to_owned();
            row.price.output = usd(output);
            row
        };
        let agree = [row("x-2024-01-02", "1"), row("x-2024-03-04", "1"), row("x-mini", "9")];
        assert_eq!(of_provider(&agree, "openai", "x").unwrap().name, "x-2024-01-02");
        assert!(of_provider(&agree, "openai", "x-2025-01-01").is_none(), "one snapshot says nothing of another");
        let differ = [row("x-2024-01-02", "1"), row("x-2024-03-04", "2")];
        assert!(of_provider(&differ, "openai", "x").is_none());
        assert!(of_provider(&[row("x-latest", "1")], "openai", "x").is_none());
    }
}
