//! What is to be bought becomes batches: cut by model, by the provider's limits and by the budget, and written down with
//! their reservations before anything is submitted.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Inner;
use super::dialect::Wrong;
use super::link::Link;
use crate::backend::{Backend, Model, ProviderKind};
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::price::Price;
use crate::provider::tokens;
use crate::provider::wire::Call;
use crate::provider::{Failure, Request};
use crate::runner::Service;
use crate::store::batches::{BatchId, NewBatch, NewLine};
use crate::store::{Fingerprint, fresh_name};

/// Completions of one request that nobody has and that are not on their way.
pub(super) struct Need<'a> {
    pub service: Arc<Service>,
    pub request: Cow<'a, Request>,
    pub fingerprint: Fingerprint,
    pub missing: u32,
}

/// What we note about a batch beside its lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Notes {
    /// Input tokens that it takes of the provider's queue: an estimate from above.
    pub tokens: u64,
    /// They were counted, not only bounded by bytes.
    pub counted: bool,
    /// The address of all its lines.
    pub url: String,
    /// Some requests have several lines, whose answers are recorded in the order of the lines.
    pub grouped: bool,
    /// Its file may be at the provider under a name that is not known yet.
    pub uploading: bool,
    /// Its file.
    pub input: Option<String>,
    /// Files with its results.
    pub results: Vec<String>,
    /// What validation found.
    pub errors: Vec<Wrong>,
    /// The limit of the queue that the provider told when it refused the batch.
    pub limit: Option<u64>,
    /// It is not submitted again before this moment, in seconds since 1970.
    pub not_before: i64,
    /// How often it was refused.
    pub refusals: u32,
    /// Whether the provider's batch is ours is told by its results only.
    pub tentative: bool,
    /// Batches of the provider that turned out not to be ours.
    pub foreign: Vec<String>,
    /// What the provider counts: all, answered, failed.
    pub counts: [u64; 3],
    /// How many looks found its results not whole.
    pub looks: u32,
    /// What is at the provider stays there: not all of its results could be read.
    pub keep: bool,
}

impl Notes {
    pub fn read(text: &str) -> Notes {
        serde_json::from_str(text).unwrap_or_default()
    }

    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What came of a plan.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The batches that were written down.
    pub batches: Vec<BatchId>,
    /// How many of the needs they hold, from the first on: the rest does not fit the budget.
    pub held: usize,
}

/// A batch in the making.
#[derive(Default)]
struct Part {
    endpoint: String,
    lines: Vec<NewLine>,
    bytes: usize,
    notes: Notes,
}

/// The price of a model through its batch API: as it is written or known, else half of the other one, which is what OpenAI,
/// Azure and Anthropic take.
pub fn price(model: &Model) -> Option<Price> {
    let price = model.price?;
    let half = |amount: Usd| amount.scale_up(1, 2);
    Some(model.batch_price.unwrap_or_else(|| price.batch(half(price.input), half(price.output))))
}

/// The price that a need is bought at.
pub(super) fn price_of(need: &Need<'_>) -> Price {
    price(&need.service.model).unwrap_or(Price::FREE)
}

/// The lines that a need is bought with.
pub(super) struct Lines {
    link: Arc<Link>,
    /// What each sends.
    pub call: Result<Call, Failure>,
    /// How many there are.
    pub count: u32,
    /// Completions that each asks for.
    pub n: u32,
}

/// What a line may cost at a price: bounded by bytes, or `tight`, where that is less, by counted tokens. What the provider cannot be
/// asked costs nothing.
pub(super) fn worst(need: &Need<'_>, price: &Price, call: &Result<Call, Failure>, n: u32, tight: bool) -> Usd {
    if call.is_err() {
        return Usd::ZERO;
    }
    let bound = |tight| need.service.bound_at(price, &need.request, n, tight);
    if tight { bound(false).min(bound(true)) } else { bound(false) }
}

impl Inner {
    /// Writes batches down for all needs, in their order, as far as `room` holds their worst case (the tighter one, where
    /// the other does not fit for all). `None` where other
    /// batches came to be since `after`, so that the needs have to be looked up again.
    pub(super) async fn write_down(
        &self,
        scope: &str,
        needs: &[Need<'_>],
        mut room: Option<Usd>,
        mut after: Option<BatchId>,
    ) -> Result<Option<Written>> {
        let mut written = Written::default();
        let mut parts: BTreeMap<(String, String), Part> = BTreeMap::new();
        let tight = match room {
            Some(room) => !self.within(needs, room)?,
            None => false,
        };
        for need in needs {
            let model = &need.service.model;
            let Lines { link, call, count, n } = self.lines(need)?;
            // What the provider cannot be asked is written down, too: its error is found where its answer would be.
            let (url, size) =
                call.as_ref().map_or((String::new(), 0), |call| (link.dialect.url(call), call.body.len()));
            let worst = worst(need, &price_of(need), &call, n, tight);
            if let Some(room) = &mut room {
                let all = worst.times(count.into());
                if all > *room {
                    break;
                }
                *room -= all;
            }
            written.held += 1;
            let (most, most_bytes) = link.limits();
            let queue = self.queue_limit(model, &link.endpoint);
            // Counting tokens takes longer than all else, so it is done only where somebody asks.
            let tokens = match queue {
                Some(_) => tokens::input_count(&need.request).unwrap_or_else(|| tokens::input_bound(&need.request)),
                None => tokens::input_bound(&need.request),
            };
            let size = size + link.dialect.overhead();
            if size > most_bytes {
                tracing::warn!(bytes = size, "a request is larger than a whole batch may be");
            }
            let part = parts.entry((model.name.clone(), url.clone())).or_default();
            for _ in 0..count {
                let full = part.lines.len() >= most
                    || part.bytes + size > most_bytes
                    || queue.is_some_and(|queue| part.notes.tokens + tokens > queue);
                if full && !part.lines.is_empty() {
                    match self.open(scope, &model.name, std::mem::take(part), after).await? {
                        Some(id) => written.batches.push(id),
                        None => return Ok(None),
                    }
                    after = written.batches.last().copied();
                }
                part.endpoint.clone_from(&link.endpoint.name);
                part.notes.url.clone_from(&url);
                part.notes.grouped |= count > 1;
                part.notes.counted = queue.is_some();
                part.notes.tokens = part.notes.tokens.saturating_add(tokens);
                part.bytes += size;
                let request = need.service.record(&need.request);
                part.lines.push(NewLine { fingerprint: need.fingerprint, n, worst, request });
            }
        }
        for ((model, _), part) in parts {
            if part.lines.is_empty() {
                continue;
            }
            match self.open(scope, &model, part, after).await? {
                Some(id) => written.batches.push(id),
                None => return Ok(None),
            }
            after = written.batches.last().copied();
        }
        Ok(Some(written))
    }

    /// How a need is bought.
    pub(super) fn lines(&self, need: &Need<'_>) -> Result<Lines> {
        let link = self.link_of(&need.service.model)?;
        let several = link.http.several(&need.request);
        let (count, n) = if several { (1, need.missing) } else { (need.missing, 1) };
        let call = link.http.wire().encode(&link.http.sendable(&need.request), n);
        Ok(Lines { link, call, count, n })
    }

    /// All needs fit without counting tokens, which takes longer than all else.
    fn within(&self, needs: &[Need<'_>], room: Usd) -> Result<bool> {
        let mut sum = Usd::ZERO;
        for need in needs {
            let Lines { call, count, n, .. } = self.lines(need)?;
            sum += worst(need, &price_of(need), &call, n, false).times(count.into());
            if sum > room {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn open(&self, scope: &str, model: &str, part: Part, after: Option<BatchId>) -> Result<Option<BatchId>> {
        let new = NewBatch {
            intent: fresh_name("frth"),
            scope: scope.to_owned(),
            endpoint: part.endpoint,
            model: model.to_owned(),
            notes: part.notes.write(),
            lines: part.lines,
        };
        self.store.open_batch(new, after).await
    }

    /// The most input tokens of a model in unfinished batches, as `farthing.toml` says.
    pub(super) fn queue_limit(&self, model: &Model, endpoint: &crate::backend::Endpoint) -> Option<u64> {
        model.enqueued_tokens.or(endpoint.batch.enqueued_tokens)
    }

    /// The endpoint of a model that its batches go to: the first that has a batch API.
    pub(super) fn link_of(&self, model: &Model) -> Result<Arc<Link>> {
        let served = || model.endpoints.iter().filter_map(|at| self.endpoints.list.get(*at));
        let has = |provider: ProviderKind| super::dialect::Dialect::of(provider).is_some();
        let endpoint = served().find(|endpoint| has(endpoint.provider)).or_else(|| served().next());
        match endpoint {
            Some(endpoint) => self.link(&endpoint.name),
            None => Err(Error::internal(format!("the model `{}` has no endpoint", model.name))),
        }
    }
}
