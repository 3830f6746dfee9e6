//! Endpoints, models and their prices as resolved: from a `farthing.toml`, or what there is without one.

mod batch;
mod endpoint;
mod file;
mod model;
mod secrets;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

pub use batch::BatchLimits;
pub(super) use model::no_place;
pub use tables::ConfigFile;

use self::model::{builtin, with_builtin};
#[cfg(feature = "local")]
use crate::backend::local;
use crate::diagnostic::{Error, Result, Source, suggestion};
use crate::models::Capabilities;
use crate::price::Price;

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// OpenAI's API, or anything that speaks it.
    Openai,
    /// OpenAI's models at Azure.
    Azure,
    /// Anthropic's Messages API.
    Anthropic,
    /// Ollama's own API.
    Ollama,
    /// Google's Gemini API.
    Gemini,
    /// Recorded answers.
    Replay,
    /// Language models in this process.
    Local,
    /// The made-up model of this program.
    Mock,
}

impl ProviderKind {
    /// The word in farthing.toml, which is also the one in the built-in table of models.
    pub fn word(self) -> &'static str {
        match self {
            ProviderKind::Openai => "openai",
            ProviderKind::Azure => "azure",
            ProviderKind::Anthropic => "anthropic",
            ProviderKind::Ollama => "ollama",
            ProviderKind::Gemini => "gemini",
            ProviderKind::Replay => "replay",
            ProviderKind::Local => "local",
            ProviderKind::Mock => "mock",
        }
    }

    /// It is asked over HTTP.
    pub fn over_http(self) -> bool {
        !matches!(self, ProviderKind::Replay | ProviderKind::Local | ProviderKind::Mock)
    }

    /// The address where it is found if nothing else is said.
    pub fn own_address(self) -> Option<&'static str> {
        match self {
            ProviderKind::Openai => Some("https://api.openai.com/v1"),
            ProviderKind::Anthropic => Some("https://api.anthropic.com/v1"),
            ProviderKind::Gemini => Some("https://generativelanguage.googleapis.com/v1beta"),
            ProviderKind::Ollama => Some("http://127.0.0.1:11434"),
            ProviderKind::Azure | ProviderKind::Replay | ProviderKind::Local | ProviderKind::Mock => None,
        }
    }

    /// Fields that its API takes beside the parameters known of all. What stands in for an endpoint takes those of any.
    pub fn fields(self) -> Vec<&'static str> {
        use crate::provider::{anthropic, gemini, ollama, openai};
        match self {
            ProviderKind::Openai | ProviderKind::Azure => openai::FIELDS.to_vec(),
            ProviderKind::Anthropic => anthropic::FIELDS.to_vec(),
            ProviderKind::Ollama => [ollama::OPTIONS, ollama::FIELDS].concat(),
            ProviderKind::Gemini => gemini::fields().collect(),
            ProviderKind::Local => Vec::new(),
            ProviderKind::Replay | ProviderKind::Mock => {
                let all = [openai::FIELDS, anthropic::FIELDS, ollama::OPTIONS, ollama::FIELDS].concat();
                all.into_iter().chain(gemini::fields()).collect()
            }
        }
    }

    /// Most output tokens that a request may ask of a model. In this process the number stands in for a request's own alone.
    pub fn longest(self, model: &Model) -> Option<u64> {
        model.max_output_tokens.filter(|_| self != ProviderKind::Local)
    }

    /// It loads a model when that is asked for, and puts another out of memory for it: requests for one model go together.
    pub fn loads_one_model(self) -> bool {
        self == ProviderKind::Ollama
    }

    /// Its models' tokenizers and defaults are known, so that at its own address what a request is billed at most is, too.
    pub fn counts_known(self) -> bool {
        self == ProviderKind::Openai
    }

    /// Its name in OpenTelemetry's words (`gen_ai.provider.name`).
    pub fn telemetry_name(self) -> &'static str {
        match self {
            ProviderKind::Azure => "azure.ai.openai",
            ProviderKind::Gemini => "gcp.gemini",
            other => other.word(),
        }
    }

    /// The environment variable that usually holds the key.
    pub fn key_variable(self) -> &'static str {
        match self {
            ProviderKind::Azure => "AZURE_OPENAI_API_KEY",
            ProviderKind::Anthropic => "ANTHROPIC_API_KEY",
            ProviderKind::Gemini => "GEMINI_API_KEY",
            ProviderKind::Ollama => "OLLAMA_API_KEY",
            ProviderKind::Openai | ProviderKind::Replay | ProviderKind::Local | ProviderKind::Mock => "OPENAI_API_KEY",
        }
    }
}

/// How a model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// By messages.
    Chat,
    /// By a text that it goes on from.
    Text,
    /// By messages, through OpenAI's Responses API.
    Responses,
}

/// How a key is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// In a header of the provider's own: `api-key`, `x-api-key`, `x-goog-api-key`.
    ApiKey,
}

/// Whether dated snapshots of a model share stored samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Equivalence {
    /// Every name is a model of its own.
    #[default]
    Exact,
    /// A dated snapshot is the same as its family.
    Major,
}

/// How several endpoints of a model share the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// The first that does not fail.
    #[default]
    Failover,
    /// Each request goes to the one with the fewest in flight; another takes over where it fails.
    Balance,
}

/// Limits of what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests in any minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens (input and output) in any minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight at once.
    pub max_concurrency: Option<u32>,
}

/// What an endpoint needs to know of a model to ask it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// How it is asked.
    pub kind: Option<ModelKind>,
    /// Most output tokens of one completion.
    pub max_output_tokens: Option<u64>,
}

/// An endpoint, ready to be opened.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The user's name for it.
    pub name: String,
    /// What answers.
    pub provider: ProviderKind,
    /// Where, for HTTP; without a slash at its end.
    pub base_url: String,
    /// The base URL is the provider's own.
    pub vendor: bool,
    /// The environment variables that hold keys; all that are set share the load.
    pub api_key_envs: Vec<String>,
    /// A file that holds the key.
    pub api_key_file: Option<PathBuf>,
    /// How the key is sent; else as the provider wants it.
    pub auth: Option<Auth>,
    /// The version of the API, where there are several.
    pub api_version: Option<String>,
    /// azure: the deployment of a model, by the model's id.
    pub deployments: BTreeMap<String, String>,
    /// Further headers of every request.
    pub headers: BTreeMap<String, String>,
    /// Parameters that are not sent. `n` among them: one completion a request.
    pub drop_params: Vec<String>,
    /// What `farthing.toml` says of models that are asked here, by their id.
    pub about: BTreeMap<String, About>,
    /// What may be sent.
    pub rates: Rates,
    /// The limits that it shares with others: a key of [`Endpoints::groups`].
    pub group: Option<String>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// How long a request may take in all, with retries and waits.
    pub deadline: Option<Duration>,
    /// How often a failed request is tried again.
    pub max_retries: u32,
    /// How often one that was not answered in time is tried again.
    pub max_timeout_retries: u32,
    /// Whether dated snapshots share samples.
    pub equivalence: Equivalence,
    /// It is looked at and not asked, so it needs no key.
    pub idle: bool,
    /// The recorded answers.
    pub cassette: Option<PathBuf>,
    /// local: what its models cost that have no price of their own.
    pub local_price: Option<Price>,
    /// Nobody named it: it is there so that local models need no `farthing.toml`.
    pub implied: bool,
    /// What its batch API takes at once.
    pub batch: BatchLimits,
}

/// A model as it will be asked and paid.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name in spaces and files.
    pub name: String,
    /// Its name at the endpoint.
    pub id: String,
    /// Who serves it: indices into [`Endpoints::list`], at least one.
    pub endpoints: Vec<usize>,
    /// How they share the work.
    pub routing: Routing,
    /// Its price; asked for under a budget, there must be one.
    pub price: Option<Price>,
    /// That is the one of the built-in table.
    pub list_price: bool,
    /// Its price through the provider's batch API.
    pub batch_price: Option<Price>,
    /// Tokens of prompt and answer together.
    pub context_window: Option<u64>,
    /// Most output tokens of one completion.
    pub max_output_tokens: Option<u64>,
    /// How it is asked, where that was said.
    pub kind: Option<ModelKind>,
    /// A `tokenizer.json` that counts its tokens.
    pub tokenizer: Option<PathBuf>,
    /// Most of its input tokens in batches that are not finished, where that is not the endpoint's limit.
    pub enqueued_tokens: Option<u64>,
    /// What may be sent to it.
    pub rates: Rates,
    /// The limits that it shares with others: a key of [`Endpoints::groups`].
    pub group: Option<String>,
    /// Its parameters are checked against what is known of a model of this name.
    pub checked: bool,
    /// local: where it lies.
    #[cfg(feature = "local")]
    pub place: Option<local::Place>,
    /// local: what its weights are kept in, and where it computes.
    #[cfg(feature = "local")]
    pub compute: local::Compute,
}

/// All endpoints and models of a `farthing.toml`, or what there is without one.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// The endpoints.
    pub list: Vec<Endpoint>,
    /// A file was read, and it names no endpoint: the list is what there is without one.
    pub unnamed: bool,
    models: BTreeMap<String, Model>,
    /// Limits that several endpoints or models share.
    pub groups: BTreeMap<String, Rates>,
    /// The file, where there is one.
    pub source: Option<Source>,
}

impl Endpoints {
    /// What there is without a `farthing.toml`: OpenAI, and local models.
    pub fn standard() -> Endpoints {
        let list = vec![Endpoint::of(ProviderKind::Openai, "openai"), Endpoint::implied()];
        Endpoints { list, ..Endpoints::default() }
    }

    /// The made-up model alone: for tests and first steps of programs that embed farthing.
    pub fn mock() -> Endpoints {
        Endpoints { list: vec![Endpoint::of(ProviderKind::Mock, "mock")], ..Endpoints::default() }
    }

    /// Local models alone.
    pub fn local() -> Endpoints {
        Endpoints { list: vec![Endpoint::implied()], ..Endpoints::default() }
    }

    /// The endpoints that somebody named.
    fn explicit(&self) -> impl Iterator<Item = &Endpoint> {
        self.list.iter().filter(|endpoint| !endpoint.implied)
    }

    /// Those of the `farthing.toml` that is found from a folder (see [`Endpoints::find`]), else the standard ones.
    pub fn near(folder: &Path) -> Result<Endpoints> {
        Endpoints::of_file(Endpoints::find(folder).as_deref())
    }

    /// Those of a `farthing.toml` where there is one, else the standard ones.
    pub fn of_file(path: Option<&Path>) -> Result<Endpoints> {
        path.map_or_else(|| Ok(Endpoints::standard()), Endpoints::load)
    }

    /// Looks for `farthing.toml` in a folder and upwards to the working folder, which an empty path is; the first found wins.
    pub fn find(folder: &Path) -> Option<PathBuf> {
        let folder = std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }).ok()?;
        let working = std::env::current_dir().ok()?;
        let folders: Vec<&Path> = match folder.starts_with(&working) {
            true => folder.ancestors().take_while(|above| above.starts_with(&working)).collect(),
            false => vec![&folder, &working],
        };
        folders.into_iter().map(|folder| folder.join("farthing.toml")).find(|file| file.is_file())
    }

    /// The same for looking at: nothing is sent, so no key is needed.
    #[must_use]
    pub fn idle(mut self) -> Endpoints {
        self.list.iter_mut().for_each(|endpoint| endpoint.idle = true);
        self
    }

    /// Loads a `farthing.toml`.
    pub fn load(path: &Path) -> Result<Endpoints> {
        let source = Source::read(path)?;
        Endpoints::read(&source, path.parent().unwrap_or(Path::new(".")))
    }

    /// Reads a `farthing.toml` from a text; paths are relative to `folder`.
    pub fn read(source: &Source, folder: &Path) -> Result<Endpoints> {
        file::read(source, folder)
    }

    /// The models that the file names, by name.
    pub fn named(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// The model of a name: from the file, else the built-in table, else the only endpoint there is.
    pub fn model(&self, name: &str) -> Result<Model> {
        if let Some(model) = self.models.get(name) {
            if let Some(path) = &model.tokenizer {
                crate::provider::tokens::give(&model.id, path).map_err(|error| {
                    Error::usage(format!("the tokenizer {} cannot be read: {error}", path.display())).help(format!(
                        "a tokenizer.json as models on Hugging Face have it; named in [models.\"{name}\"]"
                    ))
                })?;
            }
            return self.found(model.clone());
        }
        if is_local(name) {
            return self.local_model(name);
        }
        let about = self.explicit().find_map(|endpoint| builtin(endpoint, name));
        // Without a farthing.toml only models that are surely OpenAI's go to OpenAI.
        let stranger = self.source.is_none() && about.is_none() && self.explicit().all(|endpoint| endpoint.vendor);
        let endpoint = match self.explicit().count() {
            _ if stranger => None,
            1 => self.list.iter().position(|endpoint| !endpoint.implied),
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
        with_builtin(Model::named(name, endpoint), &self.list[endpoint])
    }

    /// A model in this process that no file declares. Its path is relative to the working folder.
    fn local_model(&self, name: &str) -> Result<Model> {
        let Some(at) = self.list.iter().position(|endpoint| endpoint.provider == ProviderKind::Local) else {
            return Err(Error::usage(format!("`{name}` is a local model, and no endpoint here serves those")));
        };
        #[cfg_attr(not(feature = "local"), allow(unused_mut, reason = "then there are none"))]
        let mut model = Model::named(name, at);
        #[cfg(feature = "local")]
        {
            model.place = Some(local::Place::of(name, Path::new(""))?);
        }
        with_builtin(model, &self.list[at])
    }
}

/// True where a name is a local model's: `mite`, `local:PATH`, `hf:ORG/NAME`.
fn is_local(name: &str) -> bool {
    name == "mite" || name.starts_with("local:") || name.starts_with("hf:")
}

impl Endpoints {
    /// A model as one endpoint serves it: from the file where it is served there, else by what the built-in table knows.
    pub fn model_at(&self, name: &str, endpoint: usize) -> Result<Model> {
        if self.models.get(name).is_some_and(|model| model.endpoints.contains(&endpoint)) {
            return self.model(name);
        }
        let serving = self.list.get(endpoint).ok_or_else(|| Error::internal("there is no such endpoint"))?;
        with_builtin(Model::named(name, endpoint), serving)
    }

    /// What a model takes, as the endpoints that serve it are set up: nothing is refused of a stand-in, of what is never sent,
    /// or where `check_parameters = false` waives it. A server at an address of the user's own is held to what is known only
    /// of models whose names are in the table.
    pub fn takes(&self, model: &Model) -> Capabilities {
        let serving: Vec<&Endpoint> = model.endpoints.iter().filter_map(|&at| self.list.get(at)).collect();
        let takes = match serving.first().map(|endpoint| endpoint.provider) {
            None | Some(ProviderKind::Replay | ProviderKind::Mock) => return Capabilities::ANY,
            Some(_) if !model.checked => Capabilities::ANY,
            Some(provider) => Capabilities::of(provider.word(), &model.id).writing(provider.longest(model)),
        };
        let takes = if model.list_price { takes.at_list_price() } else { takes };
        takes.without(|name| serving.iter().all(|endpoint| endpoint.drops(name)))
    }

    /// Adds an endpoint that no file names; gives its place.
    pub fn add(&mut self, endpoint: Endpoint) -> usize {
        self.list.push(endpoint);
        self.list.len() - 1
    }
}

impl Model {
    fn named(name: &str, endpoint: usize) -> Model {
        Model {
            name: name.to_owned(),
            id: name.to_owned(),
            endpoints: vec![endpoint],
            routing: Routing::default(),
            price: None,
            list_price: false,
            batch_price: None,
            context_window: None,
            max_output_tokens: None,
            kind: None,
            tokenizer: None,
            enqueued_tokens: None,
            rates: Rates::default(),
            group: None,
            checked: true,
            #[cfg(feature = "local")]
            place: None,
            #[cfg(feature = "local")]
            compute: local::Compute::default(),
        }
    }
}

impl Endpoint {
    /// A provider at its own address.
    pub fn of(provider: ProviderKind, name: &str) -> Endpoint {
        let base_url = provider.own_address().unwrap_or_default().to_owned();
        Endpoint {
            name: name.to_owned(),
            provider,
            vendor: !base_url.is_empty(),
            base_url,
            api_key_envs: vec![provider.key_variable().to_owned()],
            api_key_file: None,
            auth: None,
            api_version: None,
            deployments: BTreeMap::new(),
            headers: BTreeMap::new(),
            drop_params: Vec::new(),
            about: BTreeMap::new(),
            rates: Rates::default(),
            group: None,
            timeout: Duration::from_secs(60),
            deadline: None,
            max_retries: 5,
            max_timeout_retries: 1,
            equivalence: Equivalence::default(),
            idle: false,
            cassette: None,
            local_price: None,
            implied: false,
            batch: BatchLimits::default(),
        }
    }

    /// It is not sent this parameter.
    pub fn drops(&self, name: &str) -> bool {
        self.drop_params.iter().any(|dropped| dropped == name)
    }

    /// The local models that nobody set an endpoint up for.
    fn implied() -> Endpoint {
        Endpoint { implied: true, ..Endpoint::of(ProviderKind::Local, "local") }
    }

    /// An OpenAI-compatible endpoint at an address.
    pub fn at(name: &str, base_url: &str) -> Endpoint {
        let base_url = base_url.trim_end_matches('/').to_owned();
        let vendor = ProviderKind::Openai.own_address() == Some(&base_url);
        Endpoint { base_url, vendor, ..Endpoint::of(ProviderKind::Openai, name) }
    }
}

fn is_mock(model: &str) -> bool {
    crate::backend::mock::MODELS.iter().any(|known| known.name == model)
}
