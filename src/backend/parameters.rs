//! The parameters of a request before it is one: by the names that are sent, each known to the endpoint, and taken by the model.
//! For whoever reads requests from files, where a misspelt name would be sent, or be ignored.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ProviderKind;
use crate::diagnostic::{Error, Result, nearest};
use crate::provider::wire::STANDARD;
use crate::space::parameter::{API_PARAMETERS, api_parameter, check_all};

/// A provider's own name for a parameter that has another one here.
fn renamed(provider: ProviderKind, name: &str) -> &str {
    let stands_in = matches!(provider, ProviderKind::Mock | ProviderKind::Replay);
    let is = |kind: ProviderKind| provider == kind || stands_in;
    match name {
        "num_predict" if is(ProviderKind::Ollama) => "max_tokens",
        "repetition_penalty" if provider == ProviderKind::Ollama => "repeat_penalty",
        "max_output_tokens" | "maxOutputTokens" if is(ProviderKind::Gemini) => "max_tokens",
        "topP" if is(ProviderKind::Gemini) => "top_p",
        "stop_sequences" | "stopSequences" if is(ProviderKind::Gemini) || is(ProviderKind::Anthropic) => "stop",
        // TGI's own word, which its OpenAI-compatible door has not.
        "max_new_tokens" if is(ProviderKind::Openai) => "max_tokens",
        _ => name,
    }
}

/// What a row or request itself says or decides, so that none of its parameters may.
const RESERVED: [&str; 5] = ["stream", "stream_options", "model", "messages", "prompt"];

/// The parameters of a row or request by the names that they are sent under: each known to the API (or one of `more`) and in its
/// range, or a field of `extra_body`.
pub fn known(
    given: &BTreeMap<String, Value>,
    provider: ProviderKind,
    more: &[&'static str],
) -> Result<BTreeMap<String, Value>> {
    let mut params = BTreeMap::new();
    for (given, value) in given {
        if given == "extra_body" {
            let Value::Object(map) = value else { return Err(Error::usage("`extra_body` is an object")) };
            if let Some(name) = RESERVED.iter().chain(&["n"]).find(|name| map.contains_key(**name)) {
                let help = if *name == "n" { "set `n` beside it" } else { "take it out" };
                return Err(Error::usage(format!("`{name}` is no field of `extra_body`")).help(help));
            }
            params.extend(map.clone());
            continue;
        }
        if RESERVED.contains(&given.as_str()) {
            return Err(Error::usage(format!("`{given}` is no parameter here")).help("take it out"));
        }
        let name = renamed(provider, given);
        match api_parameter(name) {
            Some(known) => known.check(value).map_err(Error::usage)?,
            None if STANDARD.contains(&name) || provider.fields().contains(&name) || more.contains(&name) => {}
            None => {
                let known = API_PARAMETERS.iter().map(|known| known.name);
                let known = known.chain(provider.fields()).chain(more.iter().copied());
                let help = match nearest(name, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "a field that only the endpoint knows goes into `extra_body`".to_owned(),
                };
                return Err(Error::usage(format!("unknown parameter `{given}`")).help(help));
            }
        }
        if params.insert(name.to_owned(), value.clone()).is_some() {
            return Err(Error::usage(format!("`{given}` and `{name}` are one parameter; give it once")));
        }
    }
    check_all(&params).map_err(|(_, problem)| Error::usage(problem))?;
    Ok(params)
}
