//! What a `[models."NAME"]` table means, and what is known of a model beyond it.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;

use super::file::{existing, twice, wrong};
use super::tables::{ModelTable, group, rates};
use super::{Endpoint, Model, ModelKind, ProviderKind, Rates, is_local};
#[cfg(feature = "local")]
use crate::backend::local;
use crate::diagnostic::{Error, Result, Source, suggestion};
use crate::models::{self, KnownModel, known};
use crate::price::Price;

/// The model that a table describes; its paths are relative to `folder`.
pub(super) fn model(
    source: &Source,
    folder: &Path,
    name: &str,
    table: &Spanned<ModelTable>,
    list: &[Endpoint],
    groups: &BTreeMap<String, Rates>,
) -> Result<Model> {
    let spec = table.get_ref();
    let endpoints = serving(source, name, table, list)?;
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
    let tokenizer = spec.tokenizer.as_ref().map(|path| existing(source, folder, path)).transpose()?;
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
        None => error.moved(source, table.span(), "this model"),
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
        use local::Place;
        let place = match &spec.path {
            Some(path) => Some((Place::path(&folder.join(path.get_ref())), path.span())),
            None if is_local(&model.id) => Some((Place::of(&model.id, folder), 0..0)),
            None => None,
        };
        model.place = match place {
            None => None,
            Some((Ok(place), _)) => Some(place),
            Some((Err(error), span)) if span.is_empty() => return Err(error),
            Some((Err(error), span)) => return Err(error.moved(source, span, "named here")),
        };
        let at = |error: Error, word: &Spanned<String>| error.moved(source, word.span(), "here");
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

impl Model {
    /// Why it would have to be downloaded before it is asked.
    pub fn absent(&self) -> Option<Error> {
        #[cfg(feature = "local")]
        if let Some(local::Place::Hub(wanted)) = &self.place {
            return wanted.here().err();
        }
        None
    }
}

impl super::Endpoints {
    /// A model whose files came since the file was read is what they say.
    pub(super) fn found(&self, model: Model) -> Result<Model> {
        #[cfg(feature = "local")]
        if let Some(local::Place::Hub(wanted)) = &model.place {
            return match wanted.clone().place()? {
                local::Place::Hub(_) => Ok(model),
                place => with_builtin(Model { place: Some(place), ..model.clone() }, &self.list[model.endpoints[0]]),
            };
        }
        Ok(model)
    }

    /// A model with all that must be here before it is asked: what is on Hugging Face's hub alone is downloaded, unless the
    /// endpoints are [idle](Self::idle).
    ///
    /// # Errors
    /// Bad input: it is not here, and may not be downloaded, or is of no use here. An endpoint's: the hub does not give it.
    pub fn fetched(&self, model: Model) -> Result<Model> {
        #[cfg(feature = "local")]
        if let Some(local::Place::Hub(wanted)) = &model.place {
            let endpoint = &self.list[model.endpoints[0]];
            let place = if endpoint.idle { wanted.here() } else { wanted.fetched(model.compute) };
            return with_builtin(Model { place: Some(place?), ..model }, endpoint);
        }
        Ok(model)
    }
}

/// The endpoints that serve a model: indices into `list`.
fn serving(source: &Source, name: &str, table: &Spanned<ModelTable>, list: &[Endpoint]) -> Result<Vec<usize>> {
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
    Ok(match (&spec.endpoint, &spec.endpoints) {
        (Some(_), Some(several)) => {
            return Err(wrong(source, "give `endpoint` or `endpoints`, not both", several.span(), "here"));
        }
        (Some(one), None) => vec![place(one)?],
        (None, Some(several)) if several.get_ref().is_empty() => {
            return Err(wrong(source, "this list of endpoints is empty", several.span(), "here"));
        }
        (None, Some(several)) => {
            let all = several.get_ref();
            if let Some(twice) = twice(all) {
                let message = format!("the endpoint `{}` is named twice", twice.get_ref());
                return Err(wrong(source, message, twice.span(), "here again")
                    .help("an endpoint's own `max_retries` says how often it is tried again"));
            }
            all.iter().map(place).collect::<Result<_>>()?
        }
        // Who says where it lies, or names it so, needs no endpoint for it.
        (None, None) if spec.path.is_some() || is_local(name) => {
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
    })
}

/// What the built-in table knows of a model as an endpoint serves it.
pub(super) fn builtin(endpoint: &Endpoint, model: &str) -> Option<&'static KnownModel> {
    known(Some(endpoint.provider.word()), model)
}

/// Fills in what the built-in tables, or a local model's own files, know of a model. A replayed or local model's price is
/// never guessed.
pub(super) fn with_builtin(mut model: Model, endpoint: &Endpoint) -> Result<Model> {
    match endpoint.provider {
        #[cfg(feature = "local")]
        ProviderKind::Local => {
            let place = model.place.as_ref().ok_or_else(|| no_place(&model.name))?;
            // What is not here yet says more when it is.
            if !matches!(place, local::Place::Hub(_)) {
                let about = local::model::about(place)?;
                let most = model.context_window.map_or(about.context, |said| said.min(about.context));
                model.context_window = Some(most);
            }
            if *place == local::Place::Box {
                let price = |dollars: &str| crate::money::per_million(dollars).unwrap_or(crate::money::Usd::MAX);
                let (input, output) = (price(local::place::mite::INPUT_PRICE), price(local::place::mite::OUTPUT_PRICE));
                model.price = model.price.or(Some(Price::flat(input, output)));
            }
            model.price = model.price.or(endpoint.local_price);
        }
        #[cfg(not(feature = "local"))]
        ProviderKind::Local => return Err(no_place(&model.name)),
        ProviderKind::Mock => {
            if let Some(known) = crate::backend::mock::MODELS.iter().find(|known| known.name == model.id) {
                let price = |dollars: &str| crate::money::per_million(dollars).unwrap_or(crate::money::Usd::MAX);
                let (input, output) = (price(known.input_price), price(known.output_price));
                model.price = model.price.or(Some(Price::flat(input, output)));
                model.context_window = model.context_window.or(Some(known.context_window));
                model.max_output_tokens = model.max_output_tokens.or(Some(known.max_output_tokens));
            }
        }
        ProviderKind::Replay | ProviderKind::Ollama => {}
        _ => {
            if let Some(known) = builtin(endpoint, &model.id) {
                // Who writes a price writes all of it: the table's batch price belongs to the table's price.
                if model.price.is_none() {
                    model.batch_price = known.batch_price;
                    model.list_price = true;
                }
                model.price = model.price.or(Some(known.price));
                model.context_window = model.context_window.or(known.context_window);
                model.max_output_tokens = model.max_output_tokens.or(known.max_output_tokens);
                model.kind = model.kind.or(Some(match known.kind {
                    models::Kind::Text => ModelKind::Text,
                    models::Kind::Chat => ModelKind::Chat,
                    models::Kind::Responses => ModelKind::Responses,
                }));
            }
        }
    }
    Ok(model)
}

/// The error for a local model in a build without them, or with nothing that says where it lies.
pub(in crate::backend) fn no_place(name: &str) -> Error {
    match cfg!(feature = "local") {
        true => Error::usage(format!("where does the local model `{name}` lie?")).help(format!(
            "name it mite, local:PATH or hf:ORG/NAME, or add to farthing.toml: [models.\"{name}\"] with path = \"...\""
        )),
        false => Error::usage(format!("`{name}` is a local model, and this farthing was built without them"))
            .help("build it with the feature `local`, which is on by default"),
    }
}
