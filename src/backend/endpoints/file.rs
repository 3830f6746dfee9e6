//! `farthing.toml` as it is written, and what it means.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;
use toml::de::DeValue;

use super::batch::BatchTable;
use super::{
    About, Auth, Endpoint, Endpoints, Equivalence, Model, ModelKind, ProviderKind, Rates, Routing, with_builtin,
};
use crate::declaration;
use crate::diagnostic::{Error, Result, Source, nearest, suggestion};
use crate::price::PriceTable;
use crate::provider::wire::STANDARD;
use crate::space::parameter::{API_PARAMETERS, api_parameter};

/// A `farthing.toml`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "farthing endpoints, models and prices")]
pub struct ConfigFile {
    /// Who answers, by a name of your own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, EndpointTable>")]
    endpoints: BTreeMap<String, Spanned<EndpointTable>>,
    /// The models, by the name that a space names them by.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, ModelTable>")]
    models: BTreeMap<String, Spanned<ModelTable>>,
    /// Limits that several endpoints or models share, by a name of your own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, RatesTable>")]
    limits: BTreeMap<String, Spanned<RatesTable>>,
}

/// An `[endpoints.NAME]` table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointTable {
    /// The wire format, or what answers in place of an endpoint.
    #[schemars(with = "ProviderKind")]
    provider: Spanned<ProviderKind>,
    /// The address up to and with `/v1` (azure: the resource's own); else the provider's.
    #[schemars(with = "Option<String>")]
    base_url: Option<Spanned<String>>,
    /// The environment variable that holds the key, or several that share the load; else the provider's usual one.
    #[schemars(with = "Option<OneOrMore>")]
    api_key_env: Option<Spanned<OneOrMore>>,
    /// A file that holds the key and that only its owner can read.
    #[schemars(with = "Option<String>")]
    api_key_file: Option<Spanned<String>>,
    /// How the key is sent: `bearer` or `api-key`; else as the provider wants it.
    auth: Option<Auth>,
    /// azure, anthropic: the version of the API.
    #[schemars(with = "Option<String>")]
    api_version: Option<Spanned<String>>,
    /// azure: the deployment of each model, by the model's id; else it is named as the model.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    deployments: Option<Spanned<BTreeMap<String, String>>>,
    /// Further headers of every request. No keys here: they would stand in a file.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    headers: BTreeMap<String, Spanned<String>>,
    /// Parameters that this endpoint refuses and that are not sent to it; with `n` it is asked for one completion a request.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    drop_params: Vec<Spanned<String>>,
    /// Requests sent in any minute.
    #[schemars(with = "Option<u32>")]
    requests_per_minute: Option<Spanned<u32>>,
    /// Tokens (input and output) asked for in any minute.
    #[schemars(with = "Option<u64>")]
    tokens_per_minute: Option<Spanned<u64>>,
    /// Requests in flight at once.
    #[schemars(with = "Option<u32>")]
    max_concurrency: Option<Spanned<u32>>,
    /// A table under [limits] whose limits hold for this endpoint together with others that name it.
    #[schemars(with = "Option<String>")]
    limit: Option<Spanned<String>>,
    /// Seconds to wait for an answer (default 60).
    #[schemars(with = "Option<f64>")]
    timeout_seconds: Option<Spanned<f64>>,
    /// Seconds that a request may take in all, with every retry and wait between them (default: no limit).
    #[schemars(with = "Option<f64>")]
    deadline_seconds: Option<Spanned<f64>>,
    /// How often a failed request is tried again (default 5).
    max_retries: Option<u32>,
    /// How often one that was not answered in time is tried again (default 1): each may be billed.
    max_timeout_retries: Option<u32>,
    /// Whether dated snapshots of a model share stored samples: `exact` (no, the default) or `major`.
    #[serde(default)]
    equivalence: Equivalence,
    /// replay: the file of recorded answers, relative to this file.
    #[schemars(with = "Option<String>")]
    cassette: Option<Spanned<String>>,
    /// local: dollars per million tokens of models that have no `price` of their own; 0 is a price too.
    #[schemars(with = "Option<PriceTable>")]
    local_price: Option<Spanned<Arc<PriceTable>>>,
    /// What its batch API takes at once.
    #[schemars(with = "Option<BatchTable>")]
    batch: Option<Spanned<BatchTable>>,
}

/// One text, or a list of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a string, or a list of strings, belongs here")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// A `[limits.NAME]` table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RatesTable {
    /// Requests sent in any minute.
    #[schemars(with = "Option<u32>")]
    requests_per_minute: Option<Spanned<u32>>,
    /// Tokens (input and output) asked for in any minute.
    #[schemars(with = "Option<u64>")]
    tokens_per_minute: Option<Spanned<u64>>,
    /// Requests in flight at once.
    #[schemars(with = "Option<u32>")]
    max_concurrency: Option<Spanned<u32>>,
}

/// A `[models."NAME"]` table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    /// Its name at the endpoint, where it is another.
    #[schemars(with = "Option<String>")]
    id: Option<Spanned<String>>,
    /// The endpoint that serves it; may be left out where there is only one.
    #[schemars(with = "Option<String>")]
    endpoint: Option<Spanned<String>>,
    /// The endpoints that serve it, in place of `endpoint`.
    #[schemars(with = "Option<Vec<String>>")]
    endpoints: Option<Spanned<Vec<Spanned<String>>>>,
    /// How several endpoints share the work: `failover` (the first that does not fail, the default) or `balance`.
    #[serde(default)]
    routing: Routing,
    /// Dollars per million tokens.
    #[schemars(with = "Option<PriceTable>")]
    price: Option<Arc<PriceTable>>,
    /// Tokens of prompt and answer together.
    context_window: Option<u64>,
    /// Most output tokens of one completion: the worst case where a request sets no max_tokens.
    max_output_tokens: Option<u64>,
    /// `chat`, `text` (completes a text) or `responses` (OpenAI's Responses API); else as the built-in table or the
    /// cassette says, else chat.
    kind: Option<ModelKind>,
    /// local: the folder in Hugging Face's form, or the GGUF file, relative to this file.
    #[schemars(with = "Option<String>")]
    path: Option<Spanned<String>>,
    /// local: what weights are kept in, `f32` (the default) or `bf16` (half the memory, slower on the processor); on
    /// devices also `f16`.
    #[schemars(with = "Option<String>")]
    dtype: Option<Spanned<String>>,
    /// local: what it computes with, `cpu` (the default), `cuda`, `cuda:1`, `metal` or `auto` (a device where there is one);
    /// devices are features of the build.
    #[schemars(with = "Option<String>")]
    device: Option<Spanned<String>>,
    /// A `tokenizer.json` (as models on Hugging Face have it) that counts its tokens, relative to this file.
    #[schemars(with = "Option<String>")]
    tokenizer: Option<Spanned<String>>,
    /// false: its parameters are not checked against what is known of a model of this name (default true).
    check_parameters: Option<bool>,
    /// Most input tokens of this model in unfinished batches; else as the endpoint's `batch` table says.
    batch_enqueued_tokens: Option<u64>,
    /// Requests of this model sent in any minute.
    #[schemars(with = "Option<u32>")]
    requests_per_minute: Option<Spanned<u32>>,
    /// Tokens (input and output) of this model asked for in any minute.
    #[schemars(with = "Option<u64>")]
    tokens_per_minute: Option<Spanned<u64>>,
    /// Requests of this model in flight at once.
    #[schemars(with = "Option<u32>")]
    max_concurrency: Option<Spanned<u32>>,
    /// A table under [limits] whose limits hold for this model together with others that name it.
    #[schemars(with = "Option<String>")]
    limit: Option<Spanned<String>>,
}

impl ConfigFile {
    /// Everything looked up. Paths are relative to `folder`.
    pub(super) fn resolve(&self, source: &Source, folder: &Path) -> Result<Endpoints> {
        let mut groups = BTreeMap::new();
        for (name, table) in &self.limits {
            let spec = table.get_ref();
            let rates = rates(source, &spec.requests_per_minute, &spec.tokens_per_minute, &spec.max_concurrency)?;
            groups.insert(name.clone(), rates);
        }
        let mut list = Vec::new();
        for (name, table) in &self.endpoints {
            list.push(endpoint(source, folder, name, table, &groups)?);
        }
        let unnamed = list.is_empty();
        if unnamed {
            list = Endpoints::standard().list;
        } else {
            list.push(Endpoint::implied());
        }
        let mut models = BTreeMap::new();
        for (name, table) in &self.models {
            let model = model(source, folder, name, table, &list, &groups)?;
            for place in &model.endpoints {
                let about = About { kind: model.kind, max_output_tokens: model.max_output_tokens };
                list[*place].about.insert(model.id.clone(), about);
            }
            models.insert(name.clone(), model);
        }
        Ok(Endpoints { list, unnamed, models, groups, source: Some(source.clone()) })
    }
}

fn wrong(source: &Source, message: impl Into<String>, span: Range<usize>, label: &str) -> Error {
    Error::usage(message).at(source, span, label.to_owned())
}

fn rates(
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

fn group(source: &Source, limit: &Option<Spanned<String>>, groups: &BTreeMap<String, Rates>) -> Result<Option<String>> {
    let Some(name) = limit else { return Ok(None) };
    match groups.contains_key(name.get_ref()) {
        true => Ok(Some(name.get_ref().clone())),
        false => Err(wrong(source, format!("there is no [limits.{}]", name.get_ref()), name.span(), "named here")
            .help(suggestion(name.get_ref(), groups.keys().map(String::as_str)))),
    }
}

/// The text as errors may show it, for they show whole lines: without what may be a key or a password.
fn veiled(source: &Source, document: &declaration::Table<'_>) -> Source {
    fn find(name: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
        match value.get_ref() {
            _ if secret(name) => found.push(value.span()),
            DeValue::Table(table) => table.iter().for_each(|(name, value)| find(name.get_ref(), value, found)),
            DeValue::Array(items) => items.iter().for_each(|item| find(name, item, found)),
            // An address may be so wrong that it cannot be told what is its password.
            DeValue::String(text) if name == "base_url" || text.contains("://") => {
                if text.contains(NO_ADDRESS) {
                    found.push(value.span());
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    let endpoints = document.get_ref().get("endpoints").and_then(|endpoints| endpoints.get_ref().as_table());
    for table in endpoints.into_iter().flat_map(|endpoints| endpoints.values()) {
        let entries = table.get_ref().as_table().into_iter().flatten();
        entries.for_each(|(name, value)| find(name.get_ref(), value, &mut found));
    }
    let text = source.text();
    let hidden = |(at, c): (usize, char)| match c {
        _ if c != '\n' && found.iter().any(|span| span.contains(&at)) => star(c),
        _ => c,
    };
    Source::new(source.name(), text.char_indices().map(hidden).collect::<String>())
}

/// Stands for a character of as many bytes, so that what points into the text still does.
fn star(hidden: char) -> char {
    match hidden.len_utf8() {
        1 => '*',
        2 => '·',
        3 => '•',
        _ => '🔒',
    }
}

/// The same for a text that is no TOML, line by line: without the value of anything named like a key, and of lines with an
/// address that may hold one.
fn hushed(source: &Source) -> Source {
    let lines = source.text().split_inclusive('\n').map(|line| {
        let named = |at: &usize| {
            let name = line[..*at].trim_end().rsplit([' ', '\t', '{', ',']).next().unwrap_or_default();
            secret(name.trim_matches(['"', '\''])) || name.contains("api_key")
        };
        let mut signs = line.match_indices('=').map(|(at, _)| at);
        let from = match line.split_once('=') {
            Some((name, value)) if value.contains("://") && value.contains(['@', '?']) => Some(name.len()),
            _ => signs.find(named),
        };
        let Some(from) = from else { return line.to_owned() };
        let stars = line[from + 1..].chars().map(|c| if c.is_whitespace() { c } else { star(c) });
        format!("{}={}", &line[..from], stars.collect::<String>())
    });
    Source::new(source.name(), lines.collect::<String>())
}

/// What no address here holds: a name and a password stand before the first, a key often behind the others.
const NO_ADDRESS: [char; 3] = ['@', '?', '#'];

/// A name of something that holds a key.
fn secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    ["authorization", "cookie", "key", "apikey", "token", "secret", "password"]
        .iter()
        .any(|word| lower == *word || lower.ends_with(&format!("-{word}")) || lower.ends_with(&format!("_{word}")))
}

/// What to do instead of writing a key into a file.
const KEYS: &str =
    "name an environment variable with api_key_env (and auth = \"bearer\" or \"api-key\"), or a file with api_key_file";

/// What to say of what stands behind an address of Azure's.
const AZURE_VERSION: &str =
    "`api_version = \"...\"` is a setting of its own; a key stands in a variable that api_key_env names";

/// Refuses keys in endpoints' tables.
fn no_keys(source: &Source, document: &declaration::Table<'_>) -> Result<()> {
    let endpoints = document.get_ref().get("endpoints").and_then(|endpoints| endpoints.get_ref().as_table());
    for table in endpoints.into_iter().flat_map(|endpoints| endpoints.values()) {
        let mut entries = table.get_ref().as_table().into_iter().flatten();
        if let Some((name, value)) = entries.find(|(name, _)| secret(name.get_ref())) {
            let message = format!("`{}` would hold a key in a file, which is copied and committed", name.get_ref());
            return Err(wrong(source, message, value.span(), "take this out").help(KEYS));
        }
    }
    Ok(())
}

/// Headers that say what is sent, where and how: another value would break the request or the reading of its answer.
const OWN_HEADERS: [&str; 11] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "accept-encoding",
    "connection",
    "expect",
    "te",
    "trailer",
    "upgrade",
];

/// A header must be one, and no key: a file is copied and committed.
fn header(source: &Source, name: &str, value: &Spanned<String>) -> Result<()> {
    if secret(name) {
        let message = format!("the header `{name}` would hold a key in a file");
        return Err(wrong(source, message, value.span(), "here").help(KEYS));
    }
    if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Err(wrong(source, format!("the header `{name}` is not yours to set"), value.span(), "take this out")
            .help("it follows from the address and from the request that is sent"));
    }
    let good = reqwest::header::HeaderName::try_from(name).is_ok()
        && reqwest::header::HeaderValue::try_from(value.get_ref().as_str()).is_ok();
    match good {
        true => Ok(()),
        false => Err(wrong(source, format!("`{name}` is no header that can be sent"), value.span(), "here")),
    }
}

/// A variable's name: whoever writes the key itself in its place must not see it again in every message.
fn variable(name: &str, variable: &str) -> Result<()> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !variable.is_empty() && variable.len() <= 64 && variable.chars().all(word) {
        return Ok(());
    }
    Err(Error::usage(format!("what `api_key_env` of the endpoint `{name}` says is no name of an environment variable"))
        .help("it names the variable that holds the key, like OPENAI_API_KEY; the key itself stands in no file"))
}

/// The variables that hold keys: at least one, each once.
fn variables(source: &Source, endpoint: &str, given: &Spanned<OneOrMore>) -> Result<Vec<String>> {
    let names = match given.get_ref() {
        OneOrMore::One(name) => std::slice::from_ref(name),
        OneOrMore::More(names) => names,
    };
    if names.is_empty() {
        return Err(wrong(source, "this list names no environment variable", given.span(), "here")
            .help("name those that hold the keys, or leave it out for the provider's usual one"));
    }
    names.iter().try_for_each(|name| variable(endpoint, name))?;
    if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        return Err(wrong(source, format!("`{twice}` is named twice"), given.span(), "here"));
    }
    Ok(names.to_vec())
}

/// What is dropped must be something that can be: the model and the prompt cannot. A word that is no known parameter may be a
/// body field of a space's own, so it is only pointed out.
fn dropped(source: &Source, endpoint: &str, names: &[Spanned<String>]) -> Result<Vec<String>> {
    let known = || {
        let api = API_PARAMETERS.iter().map(|parameter| parameter.name);
        api.chain(STANDARD.iter().copied().filter(|name| api_parameter(name).is_none()))
    };
    for name in names {
        match name.get_ref().as_str() {
            "" => return Err(wrong(source, "a parameter has a name", name.span(), "here")),
            own @ ("model" | "messages" | "prompt" | "input" | "contents") => {
                return Err(wrong(
                    source,
                    format!("`{own}` cannot be dropped: it is what is asked"),
                    name.span(),
                    "here",
                )
                .help("drop_params names parameters that the endpoint refuses, like `seed`"));
            }
            other if !known().any(|known| known == other) => {
                let near = nearest(other, known()).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                tracing::warn!(
                    "drop_params of [endpoints.{endpoint}] in {}: no parameter `{other}` is known{near}",
                    source.name()
                );
            }
            _ => {}
        }
    }
    Ok(names.iter().map(|name| name.get_ref().clone()).collect())
}

fn seconds(source: &Source, what: &str, seconds: &Option<Spanned<f64>>) -> Result<Option<Duration>> {
    let Some(seconds) = seconds else { return Ok(None) };
    let duration = Duration::try_from_secs_f64(*seconds.get_ref()).ok().filter(|duration| !duration.is_zero());
    let problem = || wrong(source, format!("`{what}` is a number of seconds above 0"), seconds.span(), "here");
    duration.ok_or_else(problem).map(Some)
}

fn endpoint(
    source: &Source,
    folder: &Path,
    name: &str,
    table: &Spanned<EndpointTable>,
    groups: &BTreeMap<String, Rates>,
) -> Result<Endpoint> {
    let spec = table.get_ref();
    let at = |message: String, span, label: &str| wrong(source, message, span, label);
    let provider = *spec.provider.get_ref();
    let mut endpoint = Endpoint::of(provider, name);
    if let Some(url) = &spec.base_url {
        let text = url.get_ref().trim_end_matches('/');
        let parsed = reqwest::Url::parse(text);
        if parsed.as_ref().is_ok_and(|url| !url.username().is_empty() || url.password().is_some()) {
            let message = "an address holds no name and no password here";
            return Err(at(message.to_owned(), url.span(), "here").help(KEYS));
        }
        // Keys are often given so, and an address stands in messages, in the store's records and in reports.
        if parsed.as_ref().is_ok_and(|url| url.query().is_some() || url.fragment().is_some()) {
            let help = if provider == ProviderKind::Azure { AZURE_VERSION } else { KEYS };
            return Err(at("an address ends before any `?` or `#` here".to_owned(), url.span(), "here").help(help));
        }
        let good = parsed.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !good {
            let shown = if text.contains(NO_ADDRESS) { "this".to_owned() } else { format!("`{text}`") };
            return Err(at(format!("{shown} is no address"), url.span(), "here").help("like https://api.openai.com/v1"));
        }
        if !provider.over_http() {
            return Err(at("this provider has no address".to_owned(), url.span(), "take this out"));
        }
        endpoint.base_url = text.to_owned();
    } else if provider == ProviderKind::Azure {
        return Err(at("an azure endpoint needs a `base_url`".to_owned(), spec.provider.span(), "this provider")
            .help("like https://RESOURCE.openai.azure.com"));
    }
    endpoint.vendor = provider.own_address() == Some(endpoint.base_url.as_str());
    match &spec.api_key_env {
        Some(given) => endpoint.api_key_envs = variables(source, name, given)?,
        // The file is all that was named.
        None if spec.api_key_file.is_some() => endpoint.api_key_envs.clear(),
        None => {}
    }
    endpoint.api_key_file = spec.api_key_file.as_ref().map(|path| folder.join(path.get_ref()));
    endpoint.auth = spec.auth;
    for (given, takes, what) in [
        (
            spec.api_version.as_ref().map(Spanned::span),
            matches!(provider, ProviderKind::Azure | ProviderKind::Anthropic),
            "only azure and anthropic have an `api_version`",
        ),
        (spec.deployments.as_ref().map(Spanned::span), provider == ProviderKind::Azure, "only azure has `deployments`"),
        (spec.cassette.as_ref().map(Spanned::span), provider == ProviderKind::Replay, "only `replay` has a cassette"),
        (
            spec.local_price.as_ref().map(Spanned::span),
            provider == ProviderKind::Local,
            "only `local` has a `local_price`",
        ),
    ] {
        if let Some(span) = given.filter(|_| !takes) {
            return Err(at(what.to_owned(), span, "take this out"));
        }
    }
    endpoint.api_version = spec.api_version.as_ref().map(|version| version.get_ref().clone());
    endpoint.deployments = spec.deployments.as_ref().map(|table| table.get_ref().clone()).unwrap_or_default();
    for (name, value) in &spec.headers {
        header(source, name, value)?;
        endpoint.headers.insert(name.clone(), value.get_ref().clone());
    }
    endpoint.drop_params = dropped(source, name, &spec.drop_params)?;
    endpoint.rates = rates(source, &spec.requests_per_minute, &spec.tokens_per_minute, &spec.max_concurrency)?;
    endpoint.group = group(source, &spec.limit, groups)?;
    endpoint.timeout = seconds(source, "timeout_seconds", &spec.timeout_seconds)?.unwrap_or(endpoint.timeout);
    endpoint.deadline = seconds(source, "deadline_seconds", &spec.deadline_seconds)?;
    endpoint.max_retries = spec.max_retries.unwrap_or(endpoint.max_retries);
    endpoint.max_timeout_retries = spec.max_timeout_retries.unwrap_or(endpoint.max_timeout_retries);
    endpoint.equivalence = spec.equivalence;
    endpoint.local_price = spec.local_price.as_ref().map(|price| price.get_ref().price(source)).transpose()?;
    if let Some(batch) = &spec.batch {
        endpoint.batch = batch.get_ref().limits().map_err(|why| at(why, batch.span(), "here"))?;
    }
    match &spec.cassette {
        Some(cassette) => {
            let path = folder.join(cassette.get_ref());
            if !path.is_file() {
                return Err(at(format!("there is no file {}", path.display()), cassette.span(), "named here")
                    .help("paths are relative to the farthing.toml"));
            }
            endpoint.cassette = Some(path);
        }
        None if provider == ProviderKind::Replay => {
            return Err(at("a replay endpoint needs a `cassette`".to_owned(), spec.provider.span(), "this provider"));
        }
        None => {}
    }
    Ok(endpoint)
}

fn model(
    source: &Source,
    folder: &Path,
    name: &str,
    table: &Spanned<ModelTable>,
    list: &[Endpoint],
    groups: &BTreeMap<String, Rates>,
) -> Result<Model> {
    let spec = table.get_ref();
    let explicit = list.iter().filter(|endpoint| !endpoint.implied);
    let names: Vec<&str> = explicit.map(|endpoint| endpoint.name.as_str()).collect();
    let implied = list.iter().position(|endpoint| endpoint.implied);
    let place = |wanted: &Spanned<String>| {
        names.iter().position(|name| name == wanted.get_ref()).ok_or_else(|| {
            wrong(source, format!("there is no endpoint `{}`", wanted.get_ref()), wanted.span(), "here")
                .help(suggestion(wanted.get_ref(), names.iter().copied()))
        })
    };
    let endpoints = match (&spec.endpoint, &spec.endpoints) {
        (Some(_), Some(several)) => {
            return Err(wrong(source, "give `endpoint` or `endpoints`, not both", several.span(), "here"));
        }
        (Some(one), None) => vec![place(one)?],
        (None, Some(several)) if several.get_ref().is_empty() => {
            return Err(wrong(source, "this list of endpoints is empty", several.span(), "here"));
        }
        (None, Some(several)) => {
            let all = several.get_ref();
            let again = |(at, one): &(usize, &Spanned<String>)| all[..*at].iter().any(|e| e.get_ref() == one.get_ref());
            if let Some((_, twice)) = all.iter().enumerate().find(again) {
                let message = format!("the endpoint `{}` is named twice", twice.get_ref());
                return Err(wrong(source, message, twice.span(), "here again")
                    .help("an endpoint's own `max_retries` says how often it is tried again"));
            }
            all.iter().map(place).collect::<Result<_>>()?
        }
        // Who says where it lies, or names it so, needs no endpoint for it.
        (None, None) if spec.path.is_some() || super::is_local(name) => {
            let local = |endpoint: &Endpoint| endpoint.provider == ProviderKind::Local;
            list.iter().position(local).or(implied).into_iter().collect()
        }
        (None, None) if names.len() == 1 => list.iter().position(|endpoint| !endpoint.implied).into_iter().collect(),
        (None, None) => {
            return Err(wrong(
                source,
                format!("which endpoint serves the model `{name}`?"),
                table.span(),
                "this model",
            )
            .help(format!("add endpoint = \"...\": one of {}", names.join(", "))));
        }
    };
    let price = spec.price.as_ref().map(|price| price.price(source)).transpose()?;
    let batch_price = spec.price.as_ref().map(|price| price.batch_price(source)).transpose()?.flatten();
    for (limit, what) in [
        (spec.context_window, "context_window"),
        (spec.max_output_tokens, "max_output_tokens"),
        (spec.batch_enqueued_tokens, "batch_enqueued_tokens"),
    ] {
        if limit == Some(0) {
            return Err(wrong(source, format!("`{what}` must be above 0"), table.span(), "in this model"));
        }
    }
    let tokenizer = match &spec.tokenizer {
        None => None,
        Some(path) => {
            let file = folder.join(path.get_ref());
            if !file.is_file() {
                let message = format!("there is no file {}", file.display());
                return Err(
                    wrong(source, message, path.span(), "named here").help("paths are relative to the farthing.toml")
                );
            }
            Some(file)
        }
    };
    if let Some(id) = spec.id.as_ref().filter(|id| id.get_ref().trim().is_empty()) {
        return Err(wrong(source, "an `id` is the model's name at the endpoint", id.span(), "this is empty")
            .help("leave it out where the model is named so in spaces too"));
    }
    if name.trim().is_empty() {
        return Err(wrong(source, "a model has a name", table.span(), "this table's is empty"));
    }
    let first = endpoints[0];
    let model = Model {
        tokenizer,
        id: spec.id.as_ref().map_or_else(|| name.to_owned(), |id| id.get_ref().clone()),
        endpoints,
        routing: spec.routing,
        price,
        batch_price,
        context_window: spec.context_window,
        max_output_tokens: spec.max_output_tokens,
        kind: spec.kind,
        enqueued_tokens: spec.batch_enqueued_tokens,
        rates: rates(source, &spec.requests_per_minute, &spec.tokens_per_minute, &spec.max_concurrency)?,
        group: group(source, &spec.limit, groups)?,
        checked: spec.check_parameters.unwrap_or(true),
        ..Model::named(name, first)
    };
    let model = placed(source, folder, spec, model, &list[first])?;
    with_builtin(model, &list[first]).map_err(|error| match error.location() {
        // What is wrong with a local model's own files is said there.
        Some(_) => error,
        None => Error::usage(error.message()).help_if(error.advice().map(str::to_owned)).at(
            source,
            table.span(),
            "this model",
        ),
    })
}

/// Where a local model lies, and how it is kept.
#[cfg_attr(not(feature = "local"), allow(unused_mut, unused_variables, reason = "then there are none"))]
fn placed(source: &Source, folder: &Path, spec: &ModelTable, mut model: Model, endpoint: &Endpoint) -> Result<Model> {
    let local = endpoint.provider == ProviderKind::Local;
    for (said, what) in [(&spec.path, "path"), (&spec.dtype, "dtype"), (&spec.device, "device")] {
        if let Some(span) = said.as_ref().map(Spanned::span).filter(|_| !local) {
            return Err(wrong(
                source,
                format!("only models of a `local` endpoint have a `{what}`"),
                span,
                "take this out",
            ));
        }
    }
    #[cfg(feature = "local")]
    if local {
        use crate::backend::local::{self, Place};
        let place = match &spec.path {
            Some(path) => Some((Place::path(&folder.join(path.get_ref())), path.span())),
            None if super::is_local(&model.id) => Some((Place::of(&model.id, folder), 0..0)),
            None => None,
        };
        model.place = match place {
            None => None,
            Some((Ok(place), _)) => Some(place),
            Some((Err(error), span)) if span.is_empty() => return Err(error),
            Some((Err(error), span)) => {
                let advice = error.advice().map(str::to_owned);
                return Err(wrong(source, error.message(), span, "named here").help_if(advice));
            }
        };
        let at = |error: Error, word: &Spanned<String>| {
            let advice = error.advice().map(str::to_owned);
            wrong(source, error.message(), word.span(), "here").help_if(advice)
        };
        if let Some(word) = &spec.dtype {
            model.compute.precision = local::Precision::read(word.get_ref()).map_err(|error| at(error, word))?;
        }
        if let Some(word) = &spec.device {
            model.compute.device = local::Device::read(word.get_ref()).map_err(|error| at(error, word))?;
        }
        if let (Some(word), local::Device::Cpu) = (&spec.dtype, model.compute.device) {
            model.compute.settled().map_err(|error| at(error, word))?;
        }
    }
    Ok(model)
}

/// Reads a `farthing.toml` from a text; paths are relative to `folder`.
pub(super) fn read(source: &Source, folder: &Path) -> Result<Endpoints> {
    let document = declaration::parse_shown(source, || hushed(source))?;
    let source = &veiled(source, &document);
    no_keys(source, &document)?;
    let file: ConfigFile = declaration::read(source, document)?;
    file.resolve(source, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        let error = super::read(&Source::new("farthing.toml", text), Path::new(".")).unwrap_err();
        format!("{} {} | {}", error.location().unwrap_or_default(), error, error.advice().unwrap_or_default())
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        let endpoint = |line: &str| problem(&format!("[endpoints.e]\nprovider = \"openai\"\n{line}\n"));
        for (line, said) in [
            ("drop_params = [\"seed\", \"model\"]", "farthing.toml:3:24 `model` cannot be dropped"),
            ("drop_params = [\"messages\"]", "farthing.toml:3:16 `messages` cannot be dropped"),
            ("drop_params = [\"\"]", "farthing.toml:3:16 a parameter has a name"),
            ("headers = { Host = \"x\" }", "farthing.toml:3:20 the header `Host` is not yours to set"),
            ("headers = { content-length = \"7\" }", "the header `content-length` is not yours to set"),
            ("api_key_env = []", "farthing.toml:3:15 this list names no environment variable"),
            ("api_key_env = [\"A\", \"A\"]", "farthing.toml:3:15 `A` is named twice"),
            ("api_key_env = 7", "a string, or a list of strings, belongs here"),
            ("timeout_seconds = 0", "`timeout_seconds` is a number of seconds above 0"),
            ("deadline_seconds = -1", "`deadline_seconds` is a number of seconds above 0"),
            ("max_concurrency = 1.5", "the number `1.5` where a whole number belongs"),
            ("max_retries = -1", "integer `-1` where a whole number (0 or more) belongs"),
        ] {
            assert!(endpoint(line).contains(said), "{line}: {}", endpoint(line));
        }
        let model = |line: &str| problem(&format!("[endpoints.e]\nprovider = \"openai\"\n[models.m]\n{line}\n"));
        for (line, said) in [
            ("endpoints = [\"e\", \"e\"]", "farthing.toml:4:19 the endpoint `e` is named twice"),
            ("id = \"\"", "farthing.toml:4:6 an `id` is the model's name"),
            ("price = { input = 1e300, output = 1 }", "farthing.toml:4:19 `1e300` is more than"),
            ("context_window = \"large\"", "string \"large\" where a whole number belongs"),
            ("device = \"cuda\"", "farthing.toml:4:10 only models of a `local` endpoint have a `device`"),
        ] {
            assert!(model(line).contains(said), "{line}: {}", model(line));
        }
        assert!(problem("[endpoints.e]\nprovider = \"openai\"\n[models.\"\"]\n").contains("a model has a name"));
    }

    #[test]
    fn no_error_shows_a_key_or_a_password() {
        for (text, said) in [
            ("base_url = \"https://me:hünter2@host:99999/v1\"", "3:12 this is no address"),
            ("base_url = \"https://host name/v1?key=hünter2\"", "3:12 this is no address"),
            ("base_url = \"hünter2@host\"", "3:12 this is no address"),
            ("base_url = \"no address\"", "3:12 `no address` is no address"),
            ("base_url = \"https://me:hünter2@host/v1\"", "3:12 an address holds no name and no password here"),
            ("base_url = \"https://host/v1#hünter2\"", "3:12 an address ends before any `?` or `#` here"),
            // What else is wrong shows the same line.
            ("headers = { X = \"https://a:hünter2@b\", Y = 7 }", "wrong type"),
            ("headers = { Authorization = \"hünter2\", Y = 7 }", "wrong type"),
            ("[models.m]\n[endpoints]\nf = { base_url = \"http://a:hünter2@b\", x = 1 }", ":5:40 unknown key `x`"),
            ("tokens_per_minute = 0\n[endpoints.f]\nprovider = \"openai\"\ntoken = \"hünter2\"", ":6:9 `token` would"),
            // No TOML: where that shows is the line in question.
            ("base_url = \"https://me:hünter2@host/v1", "not valid here"),
            ("base_url = \"https://host/v1?key=hünter2", "not valid here"),
            ("api_key = hünter2", "3:11 this is not valid here"),
            ("headers = { Authorization = \"hünter2, X = 1 }", "not valid here"),
            ("base_url = \"https://host/v1?key=hünter2\"\nmax_retries = ", "4:15 this is not valid here"),
        ] {
            let text = format!("[endpoints.e]\nprovider = \"openai\"\n{text}\n");
            let error = super::read(&Source::new("farthing.toml", text.as_str()), Path::new(".")).unwrap_err();
            let told = format!("{} {error}", error.location().unwrap_or_default());
            let shown = format!("{:?}", miette::Report::new(error));
            assert!(told.contains(said), "{text}: {told}");
            assert!(!shown.contains("hünter2") && !told.contains("hünter2"), "{shown}");
        }
    }
}
