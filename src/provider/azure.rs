//! OpenAI's models at Azure: the same bodies under addresses of deployments, and replies that say what a filter did.
//!
//! Two forms of address: by deployment with a dated `api-version` (`/openai/deployments/NAME/chat/completions`), and the
//! newer `/openai/v1/chat/completions`, where the deployment's name stands in place of the model's.

use std::collections::BTreeMap;

use crate::provider::openai::{self, Openai};
use crate::provider::wire::{Call, Item, Object, Place, Wire, escaped};
use crate::provider::{Failure, Refusal, Request, Response};

/// The newest version that is no preview (Azure's page of API versions, 2025).
const VERSION: &str = "2024-10-21";

/// Asks a resource at Azure.
#[derive(Clone, Debug, Default)]
pub struct Azure {
    /// The bodies.
    pub openai: Openai,
    /// The `api-version`; `v1`, `latest` and `preview` ask for the newer address.
    pub version: Option<String>,
    /// The deployment of a model, by the model's id; else it is named as the model.
    pub deployments: BTreeMap<String, String>,
}

impl Azure {
    fn version(&self) -> &str {
        self.version.as_deref().unwrap_or(VERSION)
    }

    /// The newer form of address.
    fn newer(&self) -> bool {
        matches!(self.version(), "v1" | "latest" | "preview")
    }

    fn path(&self, deployment: &str, path: &str) -> String {
        match (self.version(), path) {
            ("preview", _) => format!("/openai/v1{path}?api-version=preview"),
            _ if self.newer() => format!("/openai/v1{path}"),
            // This API has one address for all deployments; they stand in the body.
            (version, "/responses") => format!("/openai/responses?api-version={}", escaped(version)),
            (version, _) => {
                format!("/openai/deployments/{}{path}?api-version={}", escaped(deployment), escaped(version))
            }
        }
    }
}

impl Wire for Azure {
    fn name(&self) -> &'static str {
        "azure"
    }

    fn places(&self, request: &Request) -> &'static [(&'static str, Place)] {
        self.openai.places(request)
    }

    fn encode(&self, request: &Request, n: u32) -> Result<Call, Failure> {
        let deployment = self.deployments.get(&request.model).unwrap_or(&request.model);
        let (path, mut body): (_, Object) = openai::body(&self.openai, request, n)?;
        body.put("model", Item::Text(deployment));
        Ok(Call::post(self.path(deployment, path), body.bytes()))
    }

    fn decode(&self, request: &Request, n: u32, body: &[u8]) -> Result<Response, Refusal> {
        self.openai.decode(request, n, body)
    }

    fn several(&self, request: &Request) -> bool {
        self.openai.several(request)
    }

    fn key_header(&self) -> &'static str {
        "api-key"
    }

    fn listing(&self) -> Call {
        match self.newer() {
            true => Call::get(self.path("", "/models")),
            false => Call::get(format!("/openai/models?api-version={}", escaped(self.version()))),
        }
    }
}
