//! What an `[endpoints.NAME]` table means.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::file::{existing, wrong};
use super::secrets::{address, header, variables};
use super::tables::{EndpointTable, group, rates};
use super::{Endpoint, ProviderKind, Rates};
use crate::diagnostic::{Result, Source, nearest};
use crate::provider::wire::STANDARD;
use crate::space::parameter::{API_PARAMETERS, api_parameter};

/// The endpoint that a table describes; its paths are relative to `folder`.
pub(super) fn endpoint(
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
        endpoint.base_url = address(source, provider, url)?;
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
    endpoint.cassette = spec.cassette.as_ref().map(|cassette| existing(source, folder, cassette)).transpose()?;
    if endpoint.cassette.is_none() && provider == ProviderKind::Replay {
        return Err(at("a replay endpoint needs a `cassette`".to_owned(), spec.provider.span(), "this provider"));
    }
    Ok(endpoint)
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
