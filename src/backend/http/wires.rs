//! Which wire format an endpoint is spoken to in.

use std::collections::BTreeMap;

use crate::backend::{Endpoint, ModelKind, ProviderKind};
use crate::models::{Kind, known};
use crate::provider::Wire;
use crate::provider::anthropic::Anthropic;
use crate::provider::azure::Azure;
use crate::provider::gemini::Gemini;
use crate::provider::ollama::Ollama;
use crate::provider::openai::Openai;

/// The wire format of an endpoint, with what its table says.
pub(super) fn wire(endpoint: &Endpoint) -> Box<dyn Wire> {
    let of_kind = |wanted: fn(ModelKind) -> bool| {
        let models = endpoint.about.iter().filter(move |(_, about)| about.kind.is_some_and(wanted));
        models.map(|(id, _)| id.clone()).collect()
    };
    let openai = |vendor: bool| Openai {
        vendor,
        known: |id| known(Some("openai"), id).map(|known| known.kind == Kind::Responses),
        responses: of_kind(|kind| kind == ModelKind::Responses),
        chat: of_kind(|kind| kind != ModelKind::Responses),
    };
    match endpoint.provider {
        ProviderKind::Azure => {
            // The address may be given with the newer path already.
            let newer = endpoint.base_url.trim_end_matches('/').ends_with("/openai/v1");
            let version = endpoint.api_version.clone().or_else(|| newer.then(|| "v1".to_owned()));
            Box::new(Azure { openai: openai(true), version, deployments: endpoint.deployments.clone() })
        }
        ProviderKind::Anthropic => {
            let outputs: BTreeMap<String, u64> =
                endpoint.about.iter().filter_map(|(id, about)| Some((id.clone(), about.max_output_tokens?))).collect();
            Box::new(Anthropic {
                version: endpoint.api_version.clone(),
                outputs,
                most: |id| known(Some("anthropic"), id)?.max_output_tokens,
            })
        }
        ProviderKind::Ollama => Box::new(Ollama),
        ProviderKind::Gemini => Box::new(Gemini),
        ProviderKind::Openai | ProviderKind::Replay | ProviderKind::Local | ProviderKind::Mock => {
            Box::new(openai(endpoint.vendor))
        }
    }
}

/// What stands before every path.
pub(super) fn base(endpoint: &Endpoint) -> String {
    let base = endpoint.base_url.trim_end_matches('/');
    let base = match endpoint.provider {
        ProviderKind::Azure => base.strip_suffix("/v1").unwrap_or(base).trim_end_matches("/openai"),
        // Ollama's own API is beside its OpenAI-compatible one.
        ProviderKind::Ollama => base.strip_suffix("/v1").or_else(|| base.strip_suffix("/api")).unwrap_or(base),
        _ => base,
    };
    base.to_owned()
}
