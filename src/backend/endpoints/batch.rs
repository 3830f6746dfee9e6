//! What a provider's batch API takes at once, as `farthing.toml` says.

use schemars::JsonSchema;
use serde::Deserialize;

/// Limits of batches at an endpoint, where they are not the provider's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most requests of a batch.
    pub max_requests: Option<u32>,
    /// Most bytes of a batch's file.
    pub max_bytes: Option<u64>,
    /// Most input tokens of one model in batches that are not finished.
    pub enqueued_tokens: Option<u64>,
}

/// An `[endpoints.NAME.batch]` table.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchTable {
    /// Most requests of a batch (OpenAI and Azure 50,000, Anthropic 100,000 if nothing is said).
    max_requests: Option<u32>,
    /// Most bytes of a batch's file (OpenAI and Azure 200,000,000, Anthropic 256,000,000 if nothing is said).
    max_bytes: Option<u64>,
    /// Most input tokens of one model that may be in unfinished batches: the account's limit at the provider.
    enqueued_tokens: Option<u64>,
}

impl BatchTable {
    /// The limits; an error for a limit of nothing.
    pub(super) fn limits(&self) -> Result<BatchLimits, String> {
        let BatchTable { max_requests, max_bytes, enqueued_tokens } = *self;
        if max_requests == Some(0) || max_bytes == Some(0) || enqueued_tokens == Some(0) {
            return Err("the limits of batches must be above 0".to_owned());
        }
        Ok(BatchLimits { max_requests, max_bytes, enqueued_tokens })
    }
}
