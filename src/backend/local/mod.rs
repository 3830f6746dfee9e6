//! Language models in this process: the one in the box, folders in Hugging Face's form, GGUF files. docs/local.md says how
//! they are named and what they take.
//!
//! What a sample says hangs on the model's bytes, the prompt's tokens, the sampling parameters, the seed and the sample's
//! number: not on n, nor on what else is asked at the same time, nor on the number of threads. Draws do not hang on
//! `max_tokens` and `stop`, which only cut, nor on the temperature: two settings that differ in it share their luck, so
//! comparing them takes fewer instances.

mod cache;
mod chat;
pub mod config;
mod decoder;
pub mod device;
mod engine;
mod forward;
mod gguf;
pub mod hub;
mod identity;
mod linear;
mod memory;
pub mod model;
mod parts;
pub mod place;
mod sample;
mod settings;
mod tensor_cache;
mod tensors;
mod vocabulary;
mod weights;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::sync::oneshot;

use crate::backend::{Answer, Backend, CallError};
use crate::diagnostic::{Error, Result};
use crate::provider::{Failure, FailureKind, Input, Request, Response};
pub use device::{Compute, Device, Precision};
use engine::{Engine, Job};
pub use place::{IN_THE_BOX, Place, is_local};
use sample::Shared;
use settings::Settings;

/// The most completions of one request.
const MOST_SAMPLES: u32 = 1024;

/// Models by their source and device.
type Models = HashMap<(String, Device), Weak<Engine>>;

/// Those that are loaded in this process.
static LOADED: OnceLock<Mutex<Models>> = OnceLock::new();

/// A local model that answers.
pub struct Local {
    engine: Arc<Engine>,
    /// Most tokens of prompt and answer together, where `farthing.toml` allows less than the model.
    context: usize,
    /// Most tokens of one completion, where `farthing.toml` says so.
    output: usize,
}

impl Local {
    /// Loads the model at a place, or takes the one that is loaded already. What is on the hub alone is downloaded.
    ///
    /// # Errors
    /// Bad input: files that are missing or broken, do not belong together, or do not fit in memory; a device that is not
    /// there. An endpoint's: the hub does not give it.
    pub fn open(place: &Place, compute: impl Into<Compute>) -> Result<Local> {
        let compute = compute.into().settled()?;
        let place = &place.fetched(compute)?;
        let source = model::source(place, compute)?;
        let key = (source.clone(), compute.device);
        let loaded = LOADED.get_or_init(Mutex::default);
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = loaded.get(&key).and_then(Weak::upgrade) {
            return Ok(Local::of(engine));
        }
        let model = model::load(place, compute, source)?;
        let engine = Engine::start(model).map_err(|error| Error::internal(format!("no thread: {error}")))?;
        let engine = Arc::new(engine);
        loaded.retain(|_, engine| engine.strong_count() > 0);
        loaded.insert(key, Arc::downgrade(&engine));
        Ok(Local::of(engine))
    }

    fn of(engine: Arc<Engine>) -> Local {
        let context = engine.model.decoder.architecture().context;
        Local { engine, context, output: usize::MAX }
    }

    /// The same, held to what `farthing.toml` says of the model.
    #[must_use]
    pub fn limited(self, model: &crate::backend::Model) -> Local {
        let said = |limit: Option<u64>| limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Local { context: self.context.min(said(model.context_window)), output: said(model.max_output_tokens), ..self }
    }

    /// Tokens of prompt and answer together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// A request's prompt: its text and its tokens.
    fn prompt(&self, input: &Input) -> Result<(String, Arc<[u32]>), Failure> {
        let model = &self.engine.model;
        let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
        let (text, whole) = match input {
            Input::Text(text) => (text.clone(), true),
            // A template writes what a text begins with by itself.
            Input::Messages(messages) => (model.chat.render(messages).map_err(bad)?, !model.chat.templated()),
        };
        let tokens = model.vocabulary.encode(&text, whole).map_err(|what| bad(format!("the prompt: {what}")))?;
        Ok((text, tokens))
    }

    /// Input tokens of a request, exactly.
    ///
    /// # Errors
    /// Where the model's chat template refuses the messages.
    pub fn count(&self, input: &Input) -> Result<u64, Failure> {
        self.prompt(input).map(|(_, tokens)| tokens.len() as u64)
    }

    /// Gives a request to the engine: samples `first..request.n`.
    fn send(&self, request: &Request, first: usize) -> Result<(oneshot::Receiver<Outcome>, u64), Failure> {
        let model = &self.engine.model;
        let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
        let text = matches!(request.input, Input::Text(_));
        let settings = Settings::read(&request.params, text, model.decoder.architecture().vocabulary)?;
        let wanted = request.n.saturating_sub(first as u32);
        if !(1..=MOST_SAMPLES).contains(&wanted) {
            return Err(bad(format!("`n` must be from 1 to {MOST_SAMPLES}, but it is {}", request.n)));
        }
        let (written, prompt) = self.prompt(&request.input)?;
        if prompt.is_empty() {
            return Err(bad("the prompt is empty: a model needs at least one token to go on from".to_owned()));
        }
        let context = self.context();
        let room = context.saturating_sub(prompt.len());
        if room == 0 && settings.max_tokens != Some(0) || prompt.len() > context {
            let message = format!(
                "the prompt has {} tokens, and the context of {} holds {context}, the answer included",
                prompt.len(),
                request.model
            );
            return Err(Failure::new(FailureKind::ContextTooLong, message));
        }
        let most = settings.max_tokens.unwrap_or(self.output).min(room);
        let mut hasher = blake3::Hasher::new_derive_key("farthing local model's draws");
        hasher.update(model.source.as_bytes()).update(&settings.seed.to_le_bytes());
        prompt.iter().for_each(|token| _ = hasher.update(&token.to_le_bytes()));
        let key = *hasher.finalize().as_bytes();
        let echo = settings.echo.then_some(written);
        let prompt_tokens = prompt.len() as u64;
        let shared = Arc::new(Shared::new(settings, prompt, key, most, text, echo));
        let (answer, answered) = oneshot::channel();
        self.engine.take(Job { shared, numbers: first as u64..u64::from(request.n), answer })?;
        Ok((answered, prompt_tokens))
    }

    /// The answer, waited for: for callers that are not asynchronous themselves, whether or not a runtime is around them.
    ///
    /// # Errors
    /// As a call over HTTP would fail.
    pub fn answer(&self, request: &Request, first: usize) -> Result<Response, Failure> {
        use tokio::runtime::{Handle, RuntimeFlavor};
        let (answered, prompt_tokens) = self.send(request, first)?;
        let wait = || answered.blocking_recv();
        let outcome = match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Err(_) => wait(),
            // Others go on meanwhile, and join the batch.
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
            Ok(_) => std::thread::scope(|scope| scope.spawn(wait).join())
                .map_err(|_| Failure::new(FailureKind::Server, "the local model has stopped"))?,
        };
        received(outcome, prompt_tokens)
    }
}

type Outcome = Result<Vec<crate::provider::Sample>, Failure>;

fn received(outcome: Result<Outcome, oneshot::error::RecvError>, prompt_tokens: u64) -> Result<Response, Failure> {
    let samples = outcome.map_err(|_| Failure::new(FailureKind::Server, "the local model has stopped"))??;
    Ok(Response { samples, prompt_tokens, ..Response::default() })
}

impl Backend for Local {
    fn source(&self) -> &str {
        &self.engine.model.source
    }

    fn call<'a>(&'a self, request: &'a Request, first: usize) -> Answer<'a> {
        Box::pin(async move {
            let failed = CallError::unbilled;
            let (answered, prompt_tokens) = self.send(request, first).map_err(failed)?;
            // Who gives up waiting drops the receiver, and the request leaves the batch.
            received(answered.await, prompt_tokens).map_err(failed)
        })
    }

    fn in_process(&self) -> bool {
        true
    }

    fn input_tokens(&self, request: &Request) -> Option<u64> {
        self.count(&request.input).ok()
    }
}
