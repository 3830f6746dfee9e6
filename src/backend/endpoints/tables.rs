//! The tables of a `farthing.toml` as they are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::batch::BatchTable;
use super::file::wrong;
use super::{Auth, Equivalence, ModelKind, ProviderKind, Rates, Routing};
use crate::diagnostic::{Result, Source, suggestion};
use crate::price::PriceTable;

/// A `farthing.toml`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "farthing endpoints, models and prices")]
pub struct ConfigFile {
    /// Who answers, by a name of your own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, EndpointTable>")]
    pub(super) endpoints: BTreeMap<String, Spanned<EndpointTable>>,
    /// The models, by the name that a space names them by.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, ModelTable>")]
    pub(super) models: BTreeMap<String, Spanned<ModelTable>>,
    /// Limits that several endpoints or models share, by a name of your own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, RatesTable>")]
    pub(super) limits: BTreeMap<String, Spanned<RatesTable>>,
}

/// An `[endpoints.NAME]` table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointTable {
    /// The wire format, or what answers in place of an endpoint.
    #[schemars(with = "ProviderKind")]
    pub(super) provider: Spanned<ProviderKind>,
    /// The address up to and with `/v1` (azure: the resource's own); else the provider's.
    #[schemars(with = "Option<String>")]
    pub(super) base_url: Option<Spanned<String>>,
    /// The environment variable that holds the key, or several that share the load; else the provider's usual one.
    #[schemars(with = "Option<OneOrMore>")]
    pub(super) api_key_env: Option<Spanned<OneOrMore>>,
    /// A file that holds the key and that only its owner can read.
    #[schemars(with = "Option<String>")]
    pub(super) api_key_file: Option<Spanned<String>>,
    /// How the key is sent: `bearer` or `api-key`; else as the provider wants it.
    pub(super) auth: Option<Auth>,
    /// azure, anthropic: the version of the API.
    #[schemars(with = "Option<String>")]
    pub(super) api_version: Option<Spanned<String>>,
    /// azure: the deployment of each model, by the model's id; else it is named as the model.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) deployments: Option<Spanned<BTreeMap<String, String>>>,
    /// Further headers of every request. No keys here: they would stand in a file.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) headers: BTreeMap<String, Spanned<String>>,
    /// Parameters that this endpoint refuses and that are not sent to it; with `n` it is asked for one completion a request.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) drop_params: Vec<Spanned<String>>,
    /// Requests sent in any minute.
    #[schemars(with = "Option<u32>")]
    pub(super) requests_per_minute: Option<Spanned<u32>>,
    /// Tokens (input and output) asked for in any minute.
    #[schemars(with = "Option<u64>")]
    pub(super) tokens_per_minute: Option<Spanned<u64>>,
    /// Requests in flight at once.
    #[schemars(with = "Option<u32>")]
    pub(super) max_concurrency: Option<Spanned<u32>>,
    /// A table under [limits] whose limits hold for this endpoint together with others that name it.
    #[schemars(with = "Option<String>")]
    pub(super) limit: Option<Spanned<String>>,
    /// Seconds to wait for an answer (default 60).
    #[schemars(with = "Option<f64>")]
    pub(super) timeout_seconds: Option<Spanned<f64>>,
    /// Seconds that a request may take in all, with every retry and wait between them (default: no limit).
    #[schemars(with = "Option<f64>")]
    pub(super) deadline_seconds: Option<Spanned<f64>>,
    /// How often a failed request is tried again (default 5).
    pub(super) max_retries: Option<u32>,
    /// How often one that was not answered in time is tried again (default 1): each may be billed.
    pub(super) max_timeout_retries: Option<u32>,
    /// Whether dated snapshots of a model share stored samples: `exact` (no, the default) or `major`.
    #[serde(default)]
    pub(super) equivalence: Equivalence,
    /// replay: the file of recorded answers, relative to this file.
    #[schemars(with = "Option<String>")]
    pub(super) cassette: Option<Spanned<String>>,
    /// local: dollars per million tokens of models that have no `price` of their own; 0 is a price too.
    #[schemars(with = "Option<PriceTable>")]
    pub(super) local_price: Option<Spanned<Arc<PriceTable>>>,
    /// What its batch API takes at once.
    #[schemars(with = "Option<BatchTable>")]
    pub(super) batch: Option<Spanned<BatchTable>>,
}

/// One text, or a list of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a string, or a list of strings, belongs here")]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// A `[limits.NAME]` table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RatesTable {
    /// Requests sent in any minute.
    #[schemars(with = "Option<u32>")]
    pub(super) requests_per_minute: Option<Spanned<u32>>,
    /// Tokens (input and output) asked for in any minute.
    #[schemars(with = "Option<u64>")]
    pub(super) tokens_per_minute: Option<Spanned<u64>>,
    /// Requests in flight at once.
    #[schemars(with = "Option<u32>")]
    pub(super) max_concurrency: Option<Spanned<u32>>,
}

/// A `[models."NAME"]` table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelTable {
    /// Its name at the endpoint, where it is another.
    #[schemars(with = "Option<String>")]
    pub(super) id: Option<Spanned<String>>,
    /// The endpoint that serves it; may be left out where there is only one.
    #[schemars(with = "Option<String>")]
    pub(super) endpoint: Option<Spanned<String>>,
    /// The endpoints that serve it, in place of `endpoint`.
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) endpoints: Option<Spanned<Vec<Spanned<String>>>>,
    /// How several endpoints share the work: `failover` (the first that does not fail, the default) or `balance`.
    #[serde(default)]
    pub(super) routing: Routing,
    /// Dollars per million tokens.
    #[schemars(with = "Option<PriceTable>")]
    pub(super) price: Option<Arc<PriceTable>>,
    /// Tokens of prompt and answer together.
    pub(super) context_window: Option<u64>,
    /// Most output tokens of one completion: the worst case where a request sets no max_tokens.
    pub(super) max_output_tokens: Option<u64>,
    /// `chat`, `text` (completes a text) or `responses` (OpenAI's Responses API); else as the built-in table or the
    /// cassette says, else chat.
    pub(super) kind: Option<ModelKind>,
    /// local: the folder in Hugging Face's form, or the GGUF file, relative to this file.
    #[schemars(with = "Option<String>")]
    pub(super) path: Option<Spanned<String>>,
    /// local: what weights are kept in, `f32` (the default) or `bf16` (half the memory, slower on the processor); on
    /// devices also `f16`.
    #[schemars(with = "Option<String>")]
    pub(super) dtype: Option<Spanned<String>>,
    /// local: what it computes with, `cpu` (the default), `cuda`, `cuda:1`, `metal` or `auto` (a device where there is one);
    /// devices are features of the build.
    #[schemars(with = "Option<String>")]
    pub(super) device: Option<Spanned<String>>,
    /// A `tokenizer.json` (as models on Hugging Face have it) that counts its tokens, relative to this file.
    #[schemars(with = "Option<String>")]
    pub(super) tokenizer: Option<Spanned<String>>,
    /// false: its parameters are not checked against what is known of a model of this name (default true).
    pub(super) check_parameters: Option<bool>,
    /// Most input tokens of this model in unfinished batches; else as the endpoint's `batch` table says.
    pub(super) batch_enqueued_tokens: Option<u64>,
    /// Requests of this model sent in any minute.
    #[schemars(with = "Option<u32>")]
    pub(super) requests_per_minute: Option<Spanned<u32>>,
    /// Tokens (input and output) of this model asked for in any minute.
    #[schemars(with = "Option<u64>")]
    pub(super) tokens_per_minute: Option<Spanned<u64>>,
    /// Requests of this model in flight at once.
    #[schemars(with = "Option<u32>")]
    pub(super) max_concurrency: Option<Spanned<u32>>,
    /// A table under [limits] whose limits hold for this model together with others that name it.
    #[schemars(with = "Option<String>")]
    pub(super) limit: Option<Spanned<String>>,
}

pub(super) fn rates(
    source: &Source,
    requests: &Option<Spanned<u32>>,
    tokens: &Option<Spanned<u64>>,
    concurrency: &Option<Spanned<u32>>,
) -> Result<Rates> {
    fn positive<T: Copy + Default + PartialEq>(source: &Source, limit: &Option<Spanned<T>>) -> Result<Option<T>> {
        match limit {
            Some(limit) if *limit.get_ref() == T::default() => {
                Err(wrong(source, "this must be above 0", limit.span(), "here"))
            }
            limit => Ok(limit.as_ref().map(|limit| *limit.get_ref())),
        }
    }
    Ok(Rates {
        requests_per_minute: positive(source, requests)?,
        tokens_per_minute: positive(source, tokens)?,
        max_concurrency: positive(source, concurrency)?,
    })
}

pub(super) fn group(
    source: &Source,
    limit: &Option<Spanned<String>>,
    groups: &BTreeMap<String, Rates>,
) -> Result<Option<String>> {
    let Some(name) = limit else { return Ok(None) };
    match groups.contains_key(name.get_ref()) {
        true => Ok(Some(name.get_ref().clone())),
        false => Err(wrong(source, format!("there is no [limits.{}]", name.get_ref()), name.span(), "named here")
            .help(suggestion(name.get_ref(), groups.keys().map(String::as_str)))),
    }
}
