//! prompto's APIs as endpoints, and the parameters that each takes: what a row's model is asked through.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::row::{Asked, Fault, Who};
use crate::backend::{Endpoint, Endpoints, Model, ProviderKind, parameters as sent};
use crate::diagnostic::{nearest, suggestion};

/// One of prompto's APIs: its name, the format that it speaks, and the variables that say where it is and who asks.
struct Api {
    name: &'static str,
    provider: Option<ProviderKind>,
    key: &'static str,
    address: &'static str,
    /// What to write into farthing.toml.
    table: &'static str,
}

const APIS: &[Api] = &[
    Api {
        name: "openai",
        provider: Some(ProviderKind::Openai),
        key: "OPENAI_API_KEY",
        address: "OPENAI_BASE_URL",
        table: "provider = \"openai\"",
    },
    Api {
        name: "azure-openai",
        provider: Some(ProviderKind::Azure),
        key: "AZURE_OPENAI_API_KEY",
        address: "AZURE_OPENAI_API_ENDPOINT",
        table: "provider = \"azure\" and base_url = \"https://RESOURCE.openai.azure.com\"",
    },
    Api {
        name: "anthropic",
        provider: Some(ProviderKind::Anthropic),
        key: "ANTHROPIC_API_KEY",
        address: "ANTHROPIC_BASE_URL",
        table: "provider = \"anthropic\"",
    },
    Api {
        name: "gemini",
        provider: Some(ProviderKind::Gemini),
        key: "GEMINI_API_KEY",
        address: "",
        table: "provider = \"gemini\"",
    },
    Api {
        name: "ollama",
        provider: Some(ProviderKind::Ollama),
        key: "OLLAMA_API_KEY",
        address: "OLLAMA_API_ENDPOINT",
        table: "provider = \"ollama\" and base_url = \"http://127.0.0.1:11434\"",
    },
    Api {
        name: "huggingface-tgi",
        provider: Some(ProviderKind::Openai),
        key: "HUGGINGFACE_TGI_API_KEY",
        address: "HUGGINGFACE_TGI_API_ENDPOINT",
        table: "provider = \"openai\" and base_url = \"http://HOST:PORT/v1\"",
    },
    Api {
        name: "vertexai",
        provider: None,
        key: "",
        address: "",
        table: "provider = \"openai\", base_url = \"https://LOCATION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/LOCATION/endpoints/openapi\" and api_key_env = a variable that holds an access token",
    },
    Api {
        name: "quart",
        provider: None,
        key: "",
        address: "",
        table: "the provider whose format your server speaks, and base_url",
    },
    Api {
        name: "test",
        provider: None,
        key: "",
        address: "",
        table: "provider = \"mock\" and models named mock-small or mock-large",
    },
];

/// The names of prompto's APIs.
pub fn names() -> impl Iterator<Item = &'static str> {
    APIS.iter().map(|api| api.name)
}

/// Gives the value of an environment variable that is set.
type Variable = Box<dyn Fn(&str) -> Option<String> + Send>;

/// Finds the endpoint of each row.
pub struct Apis {
    /// The endpoints of farthing.toml, and those that prompto's variables name.
    pub endpoints: Endpoints,
    /// How many of them were there before.
    given: usize,
    /// What was found before.
    known: HashMap<(String, String), Result<usize, Fault>>,
    variable: Variable,
}

impl Apis {
    /// With the endpoints that there are and this process's environment.
    pub fn new(endpoints: Endpoints) -> Apis {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let given = endpoints.list.len();
        Apis { endpoints, given, known: HashMap::new(), variable: Box::new(variable) }
    }

    /// The model that a row is for, as it is asked and paid, and its group where the row names none.
    pub fn model(&mut self, who: &Who) -> Result<(Model, String), Fault> {
        match who {
            Who::Model(name) => {
                let model = self.endpoints.model(name)?;
                let group = model.endpoints.first().and_then(|&at| self.endpoints.list.get(at));
                let group = group.map(|endpoint| endpoint.name.clone()).unwrap_or_default();
                Ok((model, group))
            }
            Who::Api { api, model } => {
                let key = (api.clone(), model.clone());
                let at = match self.known.get(&key) {
                    Some(known) => known.clone()?,
                    None => {
                        let found = self.endpoint(api, model);
                        self.known.insert(key, found.clone());
                        found?
                    }
                };
                Ok((self.endpoints.model_at(model, at)?, api.clone()))
            }
        }
    }

    /// The endpoint of an API: the one of its name, else the first that speaks its format, else what prompto's variables say.
    fn endpoint(&mut self, api: &str, model: &str) -> Result<usize, Fault> {
        let given = &self.endpoints.list[..self.given];
        if let Some(at) = given.iter().position(|endpoint| endpoint.name == api) {
            return Ok(at);
        }
        let file = self.endpoints.source.as_ref().map_or("farthing.toml", |source| source.name()).to_owned();
        let Some(known) = APIS.iter().find(|known| known.name == api) else {
            let names =
                APIS.iter().map(|known| known.name).chain(self.endpoints.list.iter().map(|one| one.name.as_str()));
            let near = nearest(api, names).map(|near| format!(" (or did you mean `{near}`?)")).unwrap_or_default();
            return Err(Fault::new(format!("there is no endpoint for the api `{api}`"))
                .help(format!("add [endpoints.{api}] to {file}{near}")));
        };
        let configure = || {
            Fault::new(format!("there is no endpoint for the api `{api}`")).help(format!(
                "add [endpoints.{api}] to {file} with {}{}",
                known.table,
                variables(known)
            ))
        };
        let Some(provider) = known.provider else { return Err(configure()) };
        // TGI speaks OpenAI's format at an address of its own.
        let own = known.name != "huggingface-tgi";
        if let Some(at) = given.iter().position(|endpoint| own && endpoint.provider == provider) {
            return Ok(at);
        }
        let key = self.named(known.key, model);
        let address = self.named(known.address, model);
        let at = address
            .as_ref()
            .and_then(|name| (self.variable)(name))
            .or(provider.own_address().filter(|_| own).map(str::to_owned));
        let at = at.map(|at| at.trim_end_matches('/').to_owned());
        let local = known.name == "ollama" || !own;
        match at {
            Some(at) if local || key.is_some() => {
                let at = if own || at.ends_with("/v1") { at } else { format!("{at}/v1") };
                let version = (known.name == "azure-openai")
                    .then(|| self.named("AZURE_OPENAI_API_VERSION", model).and_then(|name| (self.variable)(&name)))
                    .flatten();
                // One for each address: rows of several models may name several.
                let twin = |one: &Endpoint| one.provider == provider && one.base_url == at && one.name.starts_with(api);
                if let Some(twin) = self.endpoints.list.iter().position(twin) {
                    return Ok(twin);
                }
                let endpoint = Endpoint {
                    vendor: provider.own_address() == Some(at.as_str()),
                    base_url: at,
                    api_key_envs: vec![key.unwrap_or_else(|| known.key.to_owned())],
                    api_version: version,
                    ..Endpoint::of(provider, api)
                };
                Ok(self.endpoints.add(endpoint))
            }
            _ => Err(configure()),
        }
    }

    /// The variable of a name that is set: the model's own (`NAME_gpt_4o`), else the general one.
    fn named(&self, name: &str, model: &str) -> Option<String> {
        if name.is_empty() {
            return None;
        }
        let own: String = model.chars().map(|c| if "-/.: ".contains(c) { '_' } else { c }).collect();
        [format!("{name}_{own}"), name.to_owned()].into_iter().find(|name| (self.variable)(name).is_some())
    }
}

fn variables(api: &Api) -> String {
    match (api.key, api.address) {
        ("", "") => String::new(),
        (key, "" | "OPENAI_BASE_URL" | "ANTHROPIC_BASE_URL") => format!(", or set {key}"),
        (key, address) => format!(", or set {address} and {key}"),
    }
}

/// What a row sends its model: every parameter known to the API and in its range. `safety_filter` is prompto's column.
pub fn parameters(
    asked: &Asked,
    safety_filter: Option<&Value>,
    model: &Model,
    endpoints: &Endpoints,
) -> Result<BTreeMap<String, Value>, Fault> {
    let Some(endpoint) = model.endpoints.first().and_then(|&at| endpoints.list.get(at)) else {
        return Err(Fault::new(format!("the model `{}` has no endpoint", model.name)));
    };
    let provider = endpoint.provider;
    let mut params = sent::known(&asked.params, provider, &[])?;
    if let (ProviderKind::Gemini, Some(filter)) = (provider, safety_filter) {
        params.insert("safetySettings".to_owned(), safety(filter)?);
    }
    endpoints.takes(model).check("the row", &model.name, &params)?;
    Ok(params)
}

/// prompto's words for what Gemini blocks.
fn safety(filter: &Value) -> Result<Value, Fault> {
    let words = ["none", "few", "some", "default", "most"];
    let threshold = match filter.as_str() {
        Some("none") => "BLOCK_NONE",
        Some("few") => "BLOCK_ONLY_HIGH",
        Some("some" | "default") => "BLOCK_MEDIUM_AND_ABOVE",
        Some("most") => "BLOCK_LOW_AND_ABOVE",
        other => {
            let word = other.unwrap_or_default();
            return Err(Fault::new(format!("`safety_filter` is one word, not {filter}")).help(suggestion(word, words)));
        }
    };
    let categories = ["HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT"];
    let one = |category: &str| json!({"category": format!("HARM_CATEGORY_{category}"), "threshold": threshold});
    Ok(categories.map(one).to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Source;
    use crate::experiment::fields::Row;
    use crate::experiment::row::{self, Defaults};

    fn apis(toml: &str, variables: &'static [(&'static str, &'static str)]) -> Apis {
        let endpoints = match toml {
            "" => Endpoints::standard(),
            text => Endpoints::read(&Source::new("farthing.toml", text), std::path::Path::new(".")).unwrap(),
        };
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let given = endpoints.list.len();
        Apis { endpoints, given, known: HashMap::new(), variable: Box::new(get) }
    }

    fn found(apis: &mut Apis, api: &str, model: &str) -> String {
        match apis.model(&Who::Api { api: api.into(), model: model.into() }) {
            Ok((model, group)) => {
                let endpoint = &apis.endpoints.list[model.endpoints[0]];
                format!(
                    "{} {} {} {} {}",
                    endpoint.provider.word(),
                    endpoint.base_url,
                    endpoint.api_key_envs.join(","),
                    model.id,
                    group
                )
            }
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn names_of_apis_are_endpoints() {
        let file = "[endpoints.here]\nprovider = \"ollama\"\nbase_url = \"http://h:1\"\n[endpoints.quart]\nprovider = \"openai\"\nbase_url = \"http://q:2/v1\"\n";
        let mut apis = apis(
            file,
            &[
                ("GEMINI_API_KEY", "k"),
                ("HUGGINGFACE_TGI_API_ENDPOINT", "http://t:3/"),
                ("HUGGINGFACE_TGI_API_ENDPOINT_a_b_1", "http://u:4/v1"),
            ],
        );
        assert_eq!(found(&mut apis, "ollama", "l"), "ollama http://h:1 OLLAMA_API_KEY l ollama");
        assert_eq!(found(&mut apis, "quart", "q"), "openai http://q:2/v1 OPENAI_API_KEY q quart");
        assert_eq!(found(&mut apis, "openai", "x"), "openai http://q:2/v1 OPENAI_API_KEY x openai");
        assert!(found(&mut apis, "gemini", "gemini-2.0-flash").starts_with("gemini https://generativelanguage"));
        assert_eq!(
            found(&mut apis, "huggingface-tgi", "m"),
            "openai http://t:3/v1 HUGGINGFACE_TGI_API_KEY m huggingface-tgi"
        );
        assert_eq!(
            found(&mut apis, "huggingface-tgi", "a/b-1"),
            "openai http://u:4/v1 HUGGINGFACE_TGI_API_KEY a/b-1 huggingface-tgi"
        );
        for (api, wanted) in [
            (
                "anthropic",
                "[endpoints.anthropic] to farthing.toml with provider = \"anthropic\", or set ANTHROPIC_API_KEY",
            ),
            ("azure-openai", "or set AZURE_OPENAI_API_ENDPOINT and AZURE_OPENAI_API_KEY"),
            ("vertexai", "[endpoints.vertexai]"),
            ("test", "provider = \"mock\""),
            ("openia", "did you mean `openai`?"),
        ] {
            let fault = found(&mut apis, api, "m");
            assert!(fault.contains(wanted), "{api}: {fault}");
        }
    }

    #[test]
    fn parameters_are_known_by_the_api() {
        let mut apis = apis(
            "[endpoints.ollama]\nprovider = \"ollama\"\n[endpoints.gemini]\nprovider = \"gemini\"\n[endpoints.openai]\nprovider = \"openai\"\nbase_url = \"http://h/v1\"\n",
            &[],
        );
        let mut sent = |api: &str, params: Value| {
            let row = json!({"prompt": "p", "api": api, "model_name": "m", "parameters": params});
            let Value::Object(map) = row else { unreachable!() };
            let asked = row::read(&Row::new(map.into()), 1, &Defaults::default())?;
            let (model, _) = apis.model(&asked.who)?;
            parameters(&asked, Some(&json!("few")), &model, &apis.endpoints).map(|params| json!(params))
        };
        assert_eq!(
            sent("ollama", json!({"num_predict": 5, "num_ctx": 9})).unwrap(),
            json!({"max_tokens": 5, "num_ctx": 9})
        );
        let gemini = sent("gemini", json!({"max_output_tokens": 5})).unwrap();
        assert_eq!(
            (&gemini["max_tokens"], &gemini["safetySettings"][3]["threshold"]),
            (&json!(5), &json!("BLOCK_ONLY_HIGH"))
        );
        assert_eq!(sent("openai", json!({"extra_body": {"mine": 1}})).unwrap(), json!({"mine": 1}));
        for (api, params, wanted) in [
            ("openai", json!({"temprature": 1}), "unknown parameter `temprature`: did you mean `temperature`?"),
            ("openai", json!({"num_ctx": 1}), "unknown parameter `num_ctx`"),
            ("openai", json!({"temperature": 3}), "a number from 0 to 2, not 3"),
            ("openai", json!({"stream": true}), "`stream` is no parameter here"),
            ("ollama", json!({"num_predict": 5, "max_tokens": 5}), "are one parameter"),
            (
                "ollama",
                json!({"max_tokens": 5, "extra_body": {"options": {"num_predict": 30000}}}),
                "`options.num_predict` would say how long a completion is where no budget reads it: set `max_tokens`",
            ),
            ("gemini", json!({"extra_body": {"generationConfig": {"candidateCount": 4}}}), ": set `n`"),
            ("openai", json!({"extra_body": {"n": 4}}), "`n` is no field of `extra_body`: set `n` beside it"),
            ("openai", json!({"extra_body": {"max_tokens": "9"}}), "`max_tokens` takes a whole number"),
        ] {
            let fault = sent(api, params).unwrap_err().to_string();
            assert!(fault.contains(wanted), "{fault}");
        }
    }
}
