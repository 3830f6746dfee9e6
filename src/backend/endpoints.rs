//! `farthing.toml`: endpoints, models and their prices, as written and as resolved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::declaration;
use crate::diagnostic::{Error, Result, Source, suggestion};
use crate::models::{self, KnownModel, known};
use crate::price::{Price, PriceTable};

/// A `farthing.toml`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "farthing endpoints, models and prices")]
pub struct ConfigFile {
    /// Who answers, by a name of your own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, EndpointTable>")]
    endpoints: BTreeMap<String, Spanned<EndpointTable>>,
    /// The models, by the name that the endpoint knows.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, ModelTable>")]
    models: BTreeMap<String, Spanned<ModelTable>>,
}

/// An `[endpoints.NAME]` table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointTable {
    /// The wire format, or what answers in place of an endpoint.
    #[schemars(with = "ProviderKind")]
    provider: Spanned<ProviderKind>,
    /// The address up to and with `/v1`; else the provider's own.
    #[schemars(with = "Option<String>")]
    base_url: Option<Spanned<String>>,
    /// The environment variable that holds the key; else the provider's usual one.
    api_key_env: Option<String>,
    /// Requests sent in any minute.
    #[schemars(with = "Option<u32>")]
    requests_per_minute: Option<Spanned<u32>>,
    /// Tokens (input and output) asked for in any minute.
    #[schemars(with = "Option<u64>")]
    tokens_per_minute: Option<Spanned<u64>>,
    /// Requests in flight at once.
    #[schemars(with = "Option<u32>")]
    max_concurrency: Option<Spanned<u32>>,
    /// Seconds to wait for an answer (default 60).
    #[schemars(with = "Option<f64>")]
    timeout_seconds: Option<Spanned<f64>>,
    /// How often a failed request is tried again (default 5).
    max_retries: Option<u32>,
    /// replay: the file of recorded answers, relative to this file.
    #[schemars(with = "Option<String>")]
    cassette: Option<Spanned<String>>,
}

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// OpenAI's API, or anything that speaks it.
    Openai,
    /// Recorded answers.
    Replay,
    /// The made-up model of this program.
    Mock,
}

impl ProviderKind {
    /// The word in farthing.toml, which is also the one in the built-in table of models.
    pub fn word(self) -> &'static str {
        match self {
            ProviderKind::Openai => "openai",
            ProviderKind::Replay => "replay",
            ProviderKind::Mock => "mock",
        }
    }
}

/// A `[models."NAME"]` table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    /// The endpoint that serves it; may be left out where there is only one.
    #[schemars(with = "Option<String>")]
    endpoint: Option<Spanned<String>>,
    /// Dollars per million tokens.
    #[schemars(with = "Option<PriceTable>")]
    price: Option<SharedPriceTable>,
    /// Tokens of prompt and answer together.
    context_window: Option<u64>,
    /// Most output tokens of one completion: the worst case where a request sets no max_tokens.
    max_output_tokens: Option<u64>,
    /// `chat` or `text` (completes a text); else as the built-in table or the cassette says, else chat.
    kind: Option<ModelKind>,
    /// false: its parameters are not checked against what is known of a model of this name (default true).
    check_parameters: Option<bool>,
}

/// Shared so that the table can be cloned.
type SharedPriceTable = std::sync::Arc<PriceTable>;

/// How a model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// By messages.
    Chat,
    /// By a text that it goes on from.
    Text,
}

/// An endpoint, ready to be opened.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The user's name for it.
    pub name: String,
    /// What answers.
    pub provider: ProviderKind,
    /// Where, for HTTP.
    pub base_url: String,
    /// The base URL is the provider's own.
    pub vendor: bool,
    /// The environment variable that holds the key.
    pub api_key_env: String,
    /// Requests in any minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens in any minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight at once.
    pub max_concurrency: Option<u32>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// How often a failed request is tried again.
    pub max_retries: u32,
    /// The recorded answers.
    pub cassette: Option<PathBuf>,
}

/// A model as it will be asked and paid.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Who serves it: an index into [`Endpoints::list`].
    pub endpoint: usize,
    /// Its price; asked for under a budget, there must be one.
    pub price: Option<Price>,
    /// Its price through the provider's batch API.
    pub batch_price: Option<Price>,
    /// Tokens of prompt and answer together.
    pub context_window: Option<u64>,
    /// Most output tokens of one completion.
    pub max_output_tokens: Option<u64>,
    /// How it is asked, where that was said.
    pub kind: Option<ModelKind>,
    /// Its parameters are checked against what is known of a model of this name.
    pub checked: bool,
}

/// All endpoints and models of a `farthing.toml`, or what there is without one.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// The endpoints.
    pub list: Vec<Endpoint>,
    models: BTreeMap<String, Model>,
    /// The file, where there is one.
    pub source: Option<Source>,
}

const OPENAI_URL: &str = "https://api.openai.com/v1";

impl Endpoints {
    /// What there is without a `farthing.toml`: OpenAI.
    pub fn standard() -> Endpoints {
        Endpoints { list: vec![Endpoint::openai("openai", OPENAI_URL)], ..Endpoints::default() }
    }

    /// The made-up model alone: for tests and first steps of programs that embed farthing.
    pub fn mock() -> Endpoints {
        let endpoint = Endpoint { provider: ProviderKind::Mock, ..Endpoint::openai("mock", "") };
        Endpoints { list: vec![endpoint], ..Endpoints::default() }
    }

    /// Looks for `farthing.toml` in the task's folder and upwards to the working folder; the first found wins.
    pub fn find(folder: &Path) -> Option<PathBuf> {
        let folder = std::path::absolute(folder).ok()?;
        let working = std::env::current_dir().ok()?;
        let folders: Vec<&Path> = match folder.starts_with(&working) {
            true => folder.ancestors().take_while(|above| above.starts_with(&working)).collect(),
            false => vec![&folder, &working],
        };
        folders.into_iter().map(|folder| folder.join("farthing.toml")).find(|file| file.is_file())
    }

    /// Loads a `farthing.toml`.
    pub fn load(path: &Path) -> Result<Endpoints> {
        let source = Source::read(path)?;
        Endpoints::read(&source, path.parent().unwrap_or(Path::new(".")))
    }

    /// Reads a `farthing.toml` from a text; paths are relative to `folder`.
    pub fn read(source: &Source, folder: &Path) -> Result<Endpoints> {
        let file: ConfigFile = declaration::read(source, declaration::parse(source)?)?;
        let mut list = Vec::new();
        for (name, table) in &file.endpoints {
            list.push(endpoint(source, folder, name, table)?);
        }
        if list.is_empty() {
            list = Endpoints::standard().list;
        }
        let mut models = BTreeMap::new();
        for (name, table) in &file.models {
            models.insert(name.clone(), model(source, name, table, &list)?);
        }
        Ok(Endpoints { list, models, source: Some(source.clone()) })
    }

    /// The models that the file names, by name.
    pub fn named(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// The model of a name: from the file, else the built-in table, else the only endpoint there is.
    pub fn model(&self, name: &str) -> Result<Model> {
        if let Some(model) = self.models.get(name) {
            return Ok(model.clone());
        }
        let about = self.list.iter().find_map(|endpoint| builtin(endpoint, name));
        // Without a farthing.toml only models that are surely OpenAI's go to OpenAI.
        let stranger = self.source.is_none() && about.is_none() && self.list.iter().all(|endpoint| endpoint.vendor);
        let endpoint = match self.list.len() {
            _ if stranger => None,
            1 => Some(0),
            _ => self.list.iter().position(|endpoint| {
                about.is_some_and(|about| about.provider == endpoint.provider.word())
                    || (is_mock(name) && endpoint.provider == ProviderKind::Mock)
            }),
        };
        let Some(endpoint) = endpoint else {
            let file = self.source.as_ref().map_or("farthing.toml", Source::name);
            return Err(Error::usage(format!("which endpoint serves the model `{name}`?")).help(format!(
                "add to {file}: [models.\"{name}\"] with endpoint = \"...\"; {}",
                suggestion(name, self.models.keys().map(String::as_str))
            )));
        };
        Ok(with_builtin(
            Model {
                name: name.to_owned(),
                endpoint,
                price: None,
                batch_price: None,
                context_window: None,
                max_output_tokens: None,
                kind: None,
                checked: true,
            },
            &self.list[endpoint],
        ))
    }
}

impl Endpoint {
    fn openai(name: &str, base_url: &str) -> Endpoint {
        Endpoint {
            name: name.to_owned(),
            provider: ProviderKind::Openai,
            base_url: base_url.trim_end_matches('/').to_owned(),
            vendor: base_url == OPENAI_URL,
            api_key_env: "OPENAI_API_KEY".to_owned(),
            requests_per_minute: None,
            tokens_per_minute: None,
            max_concurrency: None,
            timeout: Duration::from_secs(60),
            max_retries: 5,
            cassette: None,
        }
    }

    /// An OpenAI-compatible endpoint at an address.
    pub fn at(name: &str, base_url: &str) -> Endpoint {
        Endpoint::openai(name, base_url)
    }
}

fn is_mock(model: &str) -> bool {
    crate::backend::mock::MODELS.iter().any(|known| known.name == model)
}

fn builtin(endpoint: &Endpoint, model: &str) -> Option<&'static KnownModel> {
    known(Some(endpoint.provider.word()), model)
}

/// Fills in what the built-in tables know of a model. A replayed or local model's price is never guessed.
fn with_builtin(mut model: Model, endpoint: &Endpoint) -> Model {
    match endpoint.provider {
        ProviderKind::Openai => {
            if let Some(known) = builtin(endpoint, &model.name) {
                // Who writes a price writes all of it: the table's batch price belongs to the table's price.
                if model.price.is_none() {
                    model.batch_price = known.batch_price;
                }
                model.price = model.price.or(Some(known.price));
                model.context_window = model.context_window.or(known.context_window);
                model.max_output_tokens = model.max_output_tokens.or(known.max_output_tokens);
                model.kind = model.kind.or(Some(match known.kind {
                    models::Kind::Text => ModelKind::Text,
                    models::Kind::Chat | models::Kind::Responses => ModelKind::Chat,
                }));
            }
        }
        ProviderKind::Mock => {
            if let Some(known) = crate::backend::mock::MODELS.iter().find(|known| known.name == model.name) {
                let price = |dollars: &str| crate::money::per_million(dollars).unwrap_or(crate::money::Usd::MAX);
                let (input, output) = (price(known.input_price), price(known.output_price));
                model.price = model.price.or(Some(Price::flat(input, output)));
                model.context_window = model.context_window.or(Some(known.context_window));
                model.max_output_tokens = model.max_output_tokens.or(Some(known.max_output_tokens));
            }
        }
        ProviderKind::Replay => {}
    }
    model
}

fn endpoint(source: &Source, folder: &Path, name: &str, table: &Spanned<EndpointTable>) -> Result<Endpoint> {
    let spec = table.get_ref();
    let at = |message: String, span, label: &str| Error::usage(message).at(source, span, label.to_owned());
    let provider = *spec.provider.get_ref();
    let mut endpoint = Endpoint::openai(name, OPENAI_URL);
    endpoint.provider = provider;
    endpoint.vendor = false;
    if let Some(url) = &spec.base_url {
        let text = url.get_ref().trim_end_matches('/');
        let good =
            reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !good {
            return Err(
                at(format!("`{text}` is no address"), url.span(), "here").help("like https://api.openai.com/v1")
            );
        }
        if provider != ProviderKind::Openai {
            return Err(at("this provider has no address".to_owned(), url.span(), "take this out"));
        }
        endpoint.base_url = text.to_owned();
    }
    endpoint.vendor = provider == ProviderKind::Openai && endpoint.base_url == OPENAI_URL;
    if let Some(variable) = &spec.api_key_env {
        endpoint.api_key_env.clone_from(variable);
    }
    let positive = |value: u64, span| match value {
        0 => Err(at("this must be above 0".to_owned(), span, "here")),
        _ => Ok(()),
    };
    if let Some(limit) = &spec.requests_per_minute {
        positive(u64::from(*limit.get_ref()), limit.span())?;
        endpoint.requests_per_minute = Some(*limit.get_ref());
    }
    if let Some(limit) = &spec.tokens_per_minute {
        positive(*limit.get_ref(), limit.span())?;
        endpoint.tokens_per_minute = Some(*limit.get_ref());
    }
    if let Some(limit) = &spec.max_concurrency {
        positive(u64::from(*limit.get_ref()), limit.span())?;
        endpoint.max_concurrency = Some(*limit.get_ref());
    }
    if let Some(seconds) = &spec.timeout_seconds {
        endpoint.timeout = Duration::try_from_secs_f64(*seconds.get_ref())
            .ok()
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| at("a timeout is a number of seconds above 0".to_owned(), seconds.span(), "here"))?;
    }
    endpoint.max_retries = spec.max_retries.unwrap_or(endpoint.max_retries);
    match (&spec.cassette, provider) {
        (Some(cassette), ProviderKind::Replay) => {
            let path = folder.join(cassette.get_ref());
            if !path.is_file() {
                return Err(at(format!("there is no file {}", path.display()), cassette.span(), "named here")
                    .help("paths are relative to the farthing.toml"));
            }
            endpoint.cassette = Some(path);
        }
        (None, ProviderKind::Replay) => {
            return Err(at("a replay endpoint needs a `cassette`".to_owned(), spec.provider.span(), "this provider"));
        }
        (Some(cassette), _) => {
            return Err(at("only `replay` has a cassette".to_owned(), cassette.span(), "take this out"));
        }
        (None, _) => {}
    }
    Ok(endpoint)
}

fn model(source: &Source, name: &str, table: &Spanned<ModelTable>, list: &[Endpoint]) -> Result<Model> {
    let spec = table.get_ref();
    let names: Vec<&str> = list.iter().map(|endpoint| endpoint.name.as_str()).collect();
    let endpoint = match &spec.endpoint {
        Some(wanted) => names.iter().position(|name| name == wanted.get_ref()).ok_or_else(|| {
            Error::usage(format!("there is no endpoint `{}`", wanted.get_ref()))
                .at(source, wanted.span(), "here")
                .help(suggestion(wanted.get_ref(), names.iter().copied()))
        })?,
        None if list.len() == 1 => 0,
        None => {
            return Err(Error::usage(format!("which endpoint serves the model `{name}`?"))
                .at(source, table.span(), "this model")
                .help(format!("add endpoint = \"...\": one of {}", names.join(", "))));
        }
    };
    let price = spec.price.as_ref().map(|price| price.price(source)).transpose()?;
    let batch_price = spec.price.as_ref().map(|price| price.batch_price(source)).transpose()?.flatten();
    for (limit, what) in [(spec.context_window, "context_window"), (spec.max_output_tokens, "max_output_tokens")] {
        if limit == Some(0) {
            return Err(Error::usage(format!("`{what}` must be above 0")).at(source, table.span(), "in this model"));
        }
    }
    Ok(with_builtin(
        Model {
            name: name.to_owned(),
            endpoint,
            price,
            batch_price,
            context_window: spec.context_window,
            max_output_tokens: spec.max_output_tokens,
            kind: spec.kind,
            checked: spec.check_parameters.unwrap_or(true),
        },
        &list[endpoint],
    ))
}
