//! A model with who answers for it: what its requests may cost at worst, and the fingerprints of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

use crate::backend::Model;
use crate::diagnostic::{Error, Result};
use crate::models::Capabilities;
use crate::money::Usd;
use crate::price::Price;
use crate::provider::tokens;
use crate::provider::{Failure, FailureKind, Input, Message, Request, Response, Sample};
use crate::runner::routes::Seat;
use crate::space::configuration::canonical;
use crate::space::parameter::{output_limit, whole};
use crate::store::{Fingerprint, RequestRecord, Stored};

/// Output tokens that a completion is taken to have at most where nothing says so and no budget needs to know.
const UNLIMITED_OUTPUT: u64 = 1 << 20;

/// A model with who answers for it, ready to be asked.
pub struct Service {
    /// The model.
    pub model: Model,
    /// Its price; zero where none is known and no budget asks for one.
    pub price: Price,
    /// It is asked by messages, not by a text.
    pub chat: bool,
    /// The endpoint is the vendor's own, so that its tokenizer tells what will be billed.
    pub vendor: bool,
    /// Most output tokens of a request that says nothing, where the vendor has such a default.
    pub(super) unsaid: Option<u64>,
    /// Which parameters it takes.
    pub takes: Capabilities,
    /// A dated snapshot of it is the same as its family.
    pub(super) by_family: bool,
    /// Its endpoints, at least one; all are the same source.
    pub(super) seats: Vec<Seat>,
    /// Requests that were shared out among them.
    pub(super) turns: AtomicU64,
    /// It was said that several completions at temperature 0 are one.
    pub(super) warned: AtomicBool,
    /// What its bills have taught: shared by all services of this model at these endpoints.
    pub(super) learnt: Arc<Learnt>,
    /// Its price where requests are bought in rounds.
    pub(super) bulk_price: OnceLock<Price>,
}

/// What is learnt of a model at its endpoints, whichever groups ask it.
#[derive(Debug)]
pub(super) struct Learnt {
    /// The worst ratio of a bill to its bound seen so far, in thousandths (1,000 and above): of what the study's
    /// evaluations cost, and of the bills that came in.
    study_growth: AtomicU64,
    bill_growth: AtomicU64,
    /// Requests under way: see [`Service::beyond`].
    under_way: UnderWay,
    /// Other models that replies named, which was said.
    strangers: Mutex<HashSet<String>>,
    /// It was said that a reply counted tokens that cannot be.
    doubted: AtomicBool,
    /// It was said that a bill was above its bound: a budget may be passed by that much.
    overrun: AtomicBool,
}

impl Default for Learnt {
    fn default() -> Learnt {
        let (study_growth, bill_growth) = (AtomicU64::new(1000), AtomicU64::new(1000));
        Learnt {
            study_growth,
            bill_growth,
            under_way: UnderWay::default(),
            strangers: Mutex::default(),
            doubted: AtomicBool::new(false),
            overrun: AtomicBool::new(false),
        }
    }
}

/// Picodollars that requests under way may cost at worst: by the bound that no bill has taught, and as held for them.
#[derive(Debug, Default)]
struct UnderWay {
    bound: AtomicI64,
    held: AtomicI64,
}

/// One request under way.
pub(super) struct Sent<'a> {
    under_way: &'a UnderWay,
    bound: i64,
    held: i64,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.under_way.bound.fetch_sub(self.bound, Ordering::SeqCst);
        self.under_way.held.fetch_sub(self.held, Ordering::SeqCst);
    }
}

/// Some of the samples that are stored of a request, as an answer: see [`Service::block`].
pub struct Block<'a> {
    /// The samples.
    pub samples: Vec<Sample>,
    /// The response that the first of them came in.
    pub response: Option<&'a Response>,
    /// Input tokens of all requests that it takes.
    pub prompt_tokens: u64,
    /// What it costs without a store.
    pub full_cost: Usd,
}

impl Service {
    /// A request is sent for which so much is held.
    pub(super) fn send(&self, held: Usd) -> Sent<'_> {
        let growth = i128::from(self.learnt.bill_growth.load(Ordering::Relaxed));
        let bound = i64::try_from(i128::from(held.pico()) * 1000 / growth).unwrap_or(i64::MAX);
        let (under_way, held) = (&self.learnt.under_way, held.pico());
        under_way.bound.fetch_add(bound, Ordering::SeqCst);
        under_way.held.fetch_add(held, Ordering::SeqCst);
        Sent { under_way, bound, held }
    }

    /// A bill came that was above its bound.
    pub(super) fn overbilled(&self) -> bool {
        self.learnt.bill_growth.load(Ordering::Relaxed) > 1000
    }

    /// What requests under way may be billed beyond what is held for them, by what bills have taught since they were sent.
    pub(super) fn beyond(&self) -> Usd {
        if !self.overbilled() {
            return Usd::ZERO;
        }
        let growth = self.learnt.bill_growth.load(Ordering::Relaxed);
        let bound = i128::from(self.learnt.under_way.bound.load(Ordering::SeqCst)) * i128::from(growth) / 1000;
        let beyond = bound - i128::from(self.learnt.under_way.held.load(Ordering::SeqCst));
        Usd::from_pico(i64::try_from(beyond.max(0)).unwrap_or(i64::MAX / 4).min(i64::MAX / 4))
    }

    /// Who answers, as part of every fingerprint.
    pub fn source(&self) -> &str {
        self.seats[0].backend.source()
    }

    /// Requests are bought in rounds from now on.
    pub(super) fn buy_at(&self, price: super::bulk::PriceOf) {
        if let Some(price) = price(&self.model) {
            // Set once, by whoever opened it.
            let _ = self.bulk_price.set(price);
        }
    }

    /// What a study counts: the price of buying in rounds where that is done, else the ordinary one.
    pub fn study_price(&self) -> &Price {
        self.bulk_price.get().unwrap_or(&self.price)
    }

    /// The fingerprint of a request to it. What no endpoint of it is sent changes no answer.
    pub fn fingerprint(&self, request: &Request) -> Fingerprint {
        let model = if self.by_family { crate::models::family(&request.model) } else { &request.model };
        hashed(self.source(), model, request, |name| self.seats.iter().all(|seat| seat.drops(name)))
    }

    /// What a request is kept as, written without a detour over values.
    pub fn record(&self, request: &Request) -> RequestRecord {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            messages: Option<&'a [Message]>,
            params: &'a BTreeMap<String, Value>,
            #[serde(skip_serializing_if = "Option::is_none")]
            prompt: Option<&'a str>,
        }
        let (messages, prompt) = match &request.input {
            Input::Messages(messages) => (Some(messages.as_slice()), None),
            Input::Text(text) => (None, Some(text.as_str())),
        };
        // Texts, and maps with texts for keys: there is nothing that could fail.
        let body = serde_json::to_string(&Body { messages, params: &request.params, prompt }).unwrap_or_default();
        RequestRecord { model: request.model.clone(), source: self.source().to_owned(), body }
    }

    /// The names of its endpoints, in the user's order.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.seats.iter().map(|seat| seat.name.as_str())
    }

    /// Waits until one of its endpoints that was held back was tried, or goes on.
    pub(super) async fn woken(&self) {
        let all = self.seats.iter().map(|seat| Box::pin(seat.health.woken.notified()));
        futures_util::future::select_all(all).await;
    }

    /// One request can ask for several completions. Where it cannot, n completions are n requests, each with its prompt.
    pub fn several(&self, request: &Request) -> bool {
        self.seats.iter().all(|seat| seat.backend.several(request))
    }

    /// One of its endpoints is not sent this parameter.
    fn drops(&self, name: &str) -> bool {
        self.seats.iter().any(|seat| seat.drops(name))
    }

    /// The input tokens of a request, where who answers counts them exactly.
    pub fn exact_input(&self, request: &Request) -> Option<u64> {
        self.seats[0].backend.input_tokens(request)
    }

    /// Something bounds what a request may cost: its max_tokens, the model's limit, or that its answer is known.
    pub fn bounded(&self, request: &Request) -> bool {
        self.output_limit(request).is_some() || self.foretell(request).is_some()
    }

    /// Says what to do where nothing bounds what a request may cost: no budget could hold.
    pub fn check_bounded(&self, request: &Request) -> Result<()> {
        if self.bounded(request) {
            return Ok(());
        }
        let name = &self.model.name;
        let help =
            format!("set max_tokens in the request, or max_output_tokens under [models.\"{name}\"] in farthing.toml");
        Err(unbounded(name, help))
    }

    /// Most output tokens of one completion of a request; `None` where nothing bounds it.
    pub fn output_limit(&self, request: &Request) -> Option<u64> {
        // What one of the endpoints is not sent does not hold it back.
        let said = output_limit(|name| request.params.get(name).filter(|_| !self.drops(name)));
        said.or(self.unsaid).or(self.model.max_output_tokens).or(self.model.context_window)
    }

    /// A prompt whose texts alone are by an exact count longer than the model's context: it need not be sent to be refused,
    /// and some servers cut it and say nothing.
    pub(super) fn beyond_context(&self, request: &Request) -> Option<Failure> {
        let window = self.model.context_window.filter(|_| self.model.checked && !self.in_process())?;
        if tokens::input_bound(request) <= window || self.foretell(request).is_some() {
            return None;
        }
        let (count, model) = (tokens::texts(request).filter(|count| *count > window)?, &self.model.name);
        let words = format!("not sent: the prompt has {count} tokens, and the context of `{model}` holds {window}");
        Some(Failure::new(FailureKind::ContextTooLong, words))
    }

    /// What samples `first..request.n` of a request may cost at most: input at a bound from bytes (or, `tight`, counted
    /// by the vendor's tokenizer), output at max_tokens or the model's limit. Sources that know the bill give the bill.
    pub fn worst(&self, request: &Request, first: usize, tight: bool) -> Usd {
        match self.foretell(request) {
            Some(foretold) => self.bill_of(&foretold, first),
            None => self.bound(request, first, tight),
        }
    }

    /// What samples `first..n` of an answer that is known beforehand will be billed; nothing where it is missing.
    pub fn bill_of(&self, foretold: &Result<Response, Failure>, first: usize) -> Usd {
        match foretold {
            Ok(response) if first < response.samples.len() => {
                let output: u64 = response.samples[first..].iter().map(|sample| sample.completion_tokens).sum();
                self.price.prompt(response.prompt_tokens, response.cached_tokens)
                    + self.price.at(response.prompt_tokens).output.times(output)
            }
            _ => Usd::ZERO,
        }
    }

    /// The bound of [`worst`](Self::worst) for sources that do not know the bill, as the study's cost has taught it.
    pub fn bound(&self, request: &Request, first: usize, tight: bool) -> Usd {
        self.grown(self.study_price(), request, first, tight, &self.learnt.study_growth)
    }

    /// What an attempt may be billed: the byte bound where it is held already, else the tighter one.
    pub(super) fn attempt_bound(&self, request: &Request, first: usize, held: Usd) -> Usd {
        let loose = self.grown(&self.price, request, first, false, &self.learnt.bill_growth);
        if loose <= held {
            return loose;
        }
        match self.seats[0].backend.foretell(request, first) {
            Some(foretold) => foretold.map_or(Usd::ZERO, |response| self.price.bill(&response)),
            None => loose.min(self.grown(&self.price, request, first, true, &self.learnt.bill_growth)),
        }
    }

    /// What samples `first..n` may cost: one request, or one for each of them, with its prompt.
    fn grown(&self, price: &Price, request: &Request, first: usize, tight: bool, growth: &AtomicU64) -> Usd {
        let growth = growth.load(Ordering::Relaxed);
        match (request.n as usize).saturating_sub(first) {
            wanted if wanted > 1 && !self.several(request) => {
                self.raw_bound_at(price, request, 1, tight).scale_up(growth, 1000).times(wanted as u64)
            }
            wanted => self.raw_bound_at(price, request, wanted, tight).scale_up(growth, 1000),
        }
    }

    /// What one request for so many completions may cost at another price, a batch API's, as bills have taught it.
    pub fn bound_at(&self, price: &Price, request: &Request, wanted: u32, tight: bool) -> Usd {
        let growth = self.learnt.bill_growth.load(Ordering::Relaxed);
        self.raw_bound_at(price, request, wanted as usize, tight).scale_up(growth, 1000)
    }

    /// Takes in the reply to a request for so many completions: fills in what it does not say, or says impossibly, and
    /// compares its bill at this price with its bound, so that the bounds of later requests hold. The bill.
    pub fn take_in(
        &self,
        price: &Price,
        request: &Request,
        wanted: u32,
        endpoint: &str,
        response: &mut Response,
    ) -> Usd {
        if let Some(most) = self.output_limit(request) {
            response.limit_unsaid(most);
        }
        if !self.in_process() {
            self.doubt(request, wanted, endpoint, response);
        }
        if let Some(model) = &response.model {
            self.warn_of_stranger(&request.model, model);
        }
        if self.seats.len() > 1 {
            response.endpoint = Some(endpoint.to_owned());
        }
        if response.samples.len() < wanted as usize {
            response.asked = Some(wanted);
        }
        let bill = price.bill(response);
        if !self.in_process() {
            let bound = self.raw_bound_at(price, request, wanted as usize, false);
            if grow(&self.learnt.bill_growth, bill, bound) && !self.learnt.overrun.swap(true, Ordering::Relaxed) {
                let model = &self.model.name;
                tracing::warn!(
                    "`{model}` billed {bill} dollars for a request that should cost {bound} at most; more is held for later ones"
                );
            }
        }
        bill
    }

    /// Books the bound in place of counts of tokens that cannot be, and says once that there were such.
    fn doubt(&self, request: &Request, wanted: u32, endpoint: &str, response: &mut Response) {
        let input = self.input_bound(request, false);
        let drawn = drawn(request, wanted.into());
        let Some(what) = response.bound_absurd(input, self.output_limit(request), drawn) else { return };
        if !self.learnt.doubted.swap(true, Ordering::Relaxed) {
            let model = &self.model.name;
            tracing::warn!(
                "a reply of `{model}` at `{endpoint}` counts {what}, which cannot be: the bound is booked in its place, as an estimate, here and wherever it happens again"
            );
        }
    }

    /// Says once that a reply names another model than the one that was asked.
    fn warn_of_stranger(&self, asked: &str, replied: &str) {
        if crate::models::same_family(asked, replied) {
            return;
        }
        let mut strangers = self.learnt.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.insert(replied.to_owned()) {
            tracing::warn!("`{asked}` was asked and `{replied}` answered; it is counted at the price of `{asked}`");
        }
    }

    /// What one request for so many completions may cost.
    fn raw_bound_at(&self, price: &Price, request: &Request, wanted: usize, tight: bool) -> Usd {
        if wanted == 0 {
            return Usd::ZERO;
        }
        let input = self.input_bound(request, tight);
        let drawn = drawn(request, wanted as u64);
        // What is foretold of an answer is billed as output where the answer is another.
        let foretold = request.params.get("prediction").map_or(0, |text| text.to_string().len() as u64);
        let output = self.output_limit(request).unwrap_or(UNLIMITED_OUTPUT).saturating_add(foretold);
        // A bound on the prompt over the limit of long prompts takes their price.
        let price = price.at(input);
        price.dearest_input().times(input) + price.output.times(output.saturating_mul(drawn))
    }

    /// Most input tokens of a request: from bytes, or (`tight`) counted by the vendor's tokenizer.
    fn input_bound(&self, request: &Request, tight: bool) -> u64 {
        let exactly = || self.seats[0].backend.input_tokens(request);
        let counted = (tight && self.vendor).then(|| tokens::input_count(request)).flatten().or_else(exactly);
        counted.unwrap_or_else(|| tokens::input_bound(request))
    }

    /// Samples `first..first + n` of what is stored of a request for n, as one answer, and its price as if nothing had been
    /// stored: where completions come one by one, each pays the prompt.
    pub fn block<'a>(&self, request: &Request, stored: &'a Stored, first: usize) -> Block<'a> {
        let samples: Vec<Sample> = stored.samples().skip(first).take(request.n as usize).cloned().collect();
        let response = stored.purchase_of(first).or(stored.purchases.first()).map(|purchase| &purchase.response);
        let prompt = response.map_or(0, |response| response.prompt_tokens);
        let prompts = if self.several(request) { 1 } else { u64::from(request.n) };
        let full_cost = self.price.production(prompt, prompts, &samples);
        Block { samples, response, prompt_tokens: prompt.saturating_mul(prompts), full_cost }
    }

    /// All samples of a request where the source knows them beforehand.
    pub fn foretell(&self, request: &Request) -> Option<Result<Response, Failure>> {
        self.seats[0].backend.foretell(request, 0)
    }

    /// Answers come from this process.
    pub fn in_process(&self) -> bool {
        self.seats[0].backend.in_process()
    }

    /// Compares what samples `first..n` of a request cost a study with their bound, so that the bounds of later
    /// evaluations hold. The largest ratio counts, so the order of learning does not matter.
    pub fn learn(&self, cost: Usd, request: &Request, first: usize, foretold: bool) {
        if !foretold {
            grow(
                &self.learnt.study_growth,
                cost,
                self.grown(self.study_price(), request, first, false, &AtomicU64::new(1000)),
            );
        }
    }
}

/// Completions that are drawn, and billed, for so many that come back.
fn drawn(request: &Request, wanted: u64) -> u64 {
    let best_of = request.params.get("best_of").and_then(whole).and_then(|best| u64::try_from(best).ok());
    best_of.unwrap_or(0).max(wanted)
}

/// What is said where a budget cannot hold, because completions of a model may be of any length.
pub(super) fn unbounded(model: &str, help: String) -> Error {
    Error::usage(format!("nothing bounds what a completion of `{model}` may cost")).help(help)
}

/// The fingerprint of a request: what is sent and changes what a model may answer (all but n), and who answers. A service
/// whose snapshots are equivalent has [its own](Service::fingerprint).
pub fn fingerprint(source: &str, request: &Request) -> Fingerprint {
    hashed(source, &request.model, request, |_| false)
}

fn hashed(source: &str, model: &str, request: &Request, unsent: impl Fn(&str) -> bool) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(b"farthing 1");
    field(source.as_bytes());
    field(model.as_bytes());
    match &request.input {
        Input::Messages(messages) => messages.iter().for_each(|message| {
            field(message.role.as_bytes());
            field(message.content.as_bytes());
        }),
        Input::Text(text) => field(text.as_bytes()),
    }
    field(if matches!(request.input, Input::Text(_)) { b"text" } else { b"chat" });
    for (name, value) in &request.params {
        let value = match (name.as_str(), canonical(value)) {
            (_, Value::Null) => continue,
            (name, _) if unsent(name) => continue,
            ("stop", Value::Array(items)) if items.is_empty() => continue,
            ("stop", Value::String(one)) => json!([one]),
            (_, value) => value,
        };
        field(name.as_bytes());
        field(value.to_string().as_bytes());
    }
    Fingerprint(*hasher.finalize().as_bytes())
}

/// Raises a growth (in thousandths) to the ratio of a bill to its bound. True where it was less.
fn grow(growth: &AtomicU64, bill: Usd, bound: Usd) -> bool {
    if bill <= bound || bound <= Usd::ZERO {
        return false;
    }
    let ratio = (i128::from(bill.pico()) * 1000).div_euclid(i128::from(bound.pico())) + 1;
    let ratio = u64::try_from(ratio).unwrap_or(u64::MAX).min(1_000_000_000);
    growth.fetch_max(ratio, Ordering::Relaxed) < ratio
}
