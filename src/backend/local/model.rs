//! A model as it is loaded: decoder, vocabulary, chat template, and who it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::chat::{self, Chat};
use super::config::{self, Architecture, Fields};
use super::device::Compute;
use super::forward::Decoder;
use super::place::{Place, mite};
use super::vocabulary::Vocabulary;
use super::weights::{self, Weights};
use super::{decoder, gguf, identity, memory, tensors};
use crate::diagnostic::{Result, Source};

/// What is known of a model without its weights.
#[derive(Clone, Debug)]
pub struct About {
    /// Its architecture.
    pub architecture: Architecture,
    /// Tokens of prompt and answer together.
    pub context: u64,
}

/// A loaded model.
pub struct Model {
    /// Where it lies, in words.
    pub name: String,
    /// Who it is: part of every fingerprint.
    pub source: String,
    /// What computes.
    pub decoder: Decoder,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    /// Its chat template.
    pub chat: Chat,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
}

/// The texts that a model's folder has beside the weights.
struct Files {
    config: Source,
    tokenizer: (String, Vec<u8>),
    generation: Option<Source>,
    tokenizer_config: Option<Source>,
    template: Option<Source>,
}

fn optional(path: PathBuf) -> Result<Option<Source>> {
    if path.is_file() { Source::read(&path).map(Some) } else { Ok(None) }
}

impl Files {
    fn folder(folder: &Path) -> Result<Files> {
        let tokenizer = folder.join("tokenizer.json");
        let bytes = std::fs::read(&tokenizer).map_err(|error| {
            let error = crate::diagnostic::unreadable(&tokenizer, &error);
            match ["tokenizer.model", "vocab.json", "vocab.txt"].iter().find(|name| folder.join(name).is_file()) {
                Some(old) => error.help(format!(
                    "`{old}` is not read here: save the tokenizer with transformers once, which writes tokenizer.json"
                )),
                None => error,
            }
        })?;
        Ok(Files {
            config: Source::read(&folder.join("config.json"))?,
            tokenizer: (tokenizer.display().to_string(), bytes),
            generation: optional(folder.join("generation_config.json"))?,
            tokenizer_config: optional(folder.join("tokenizer_config.json"))?,
            template: optional(folder.join("chat_template.jinja"))?,
        })
    }

    fn mite() -> Files {
        let source = |name: &str, text: &'static str| Source::new(format!("mite/{name}"), text);
        Files {
            config: source("config.json", mite::CONFIG),
            tokenizer: ("mite/tokenizer.json".to_owned(), mite::TOKENIZER.as_bytes().to_vec()),
            generation: Some(source("generation_config.json", mite::GENERATION)),
            tokenizer_config: Some(source("tokenizer_config.json", mite::TOKENIZER_CONFIG)),
            template: None,
        }
    }

    /// Everything but the weights, hashed with the hashes of the weights' files.
    fn source(&self, weights: &[String], compute: Compute) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        arithmetic(compute).for_each(&mut field);
        field(self.config.text().as_bytes());
        field(&self.tokenizer.1);
        for source in [&self.generation, &self.tokenizer_config, &self.template] {
            field(source.as_ref().map_or("", Source::text).as_bytes());
        }
        weights.iter().for_each(|hash| field(hash.as_bytes()));
        format!("local:{}", &hasher.finalize().to_hex()[..32])
    }
}

/// Changed when the way of computing changes so that the same model may say something else.
const ARITHMETIC: &[u8] = b"farthing local 1";

/// The same of how GGUF files are read.
const GGUF: &[u8] = b"gguf 2";

/// What of the computing decides what a model says: a kind of device rounds as no other does.
fn arithmetic(compute: Compute) -> impl Iterator<Item = &'static [u8]> {
    let words = [Some(compute.precision.word()), compute.device.kind()];
    std::iter::once(ARITHMETIC).chain(words.into_iter().flatten().map(str::as_bytes))
}

/// What is known of the model at a place without loading it.
pub fn about(place: &Place) -> Result<About> {
    let architecture = match place {
        Place::Box => config::read(&Source::new("mite/config.json", mite::CONFIG))?,
        Place::Folder(folder) => config::read(&Source::read(&folder.join("config.json"))?)?,
        Place::Gguf(path) => gguf::architecture(path, &gguf::header(path)?)?,
        Place::Hub(model) => return about(&model.here()?),
    };
    Ok(About { context: architecture.context as u64, architecture })
}

/// Who the model at a place is: a hash of all that decides what it says.
pub fn source(place: &Place, compute: Compute) -> Result<String> {
    match place {
        Place::Box => {
            let hash = blake3::hash(mite::WEIGHTS).to_hex().to_string();
            Ok(Files::mite().source(&[hash], compute))
        }
        Place::Folder(folder) => {
            let hashes =
                weights::files(folder)?.iter().map(|path| identity::of_file(path)).collect::<Result<Vec<_>>>()?;
            Ok(Files::folder(folder)?.source(&hashes, compute))
        }
        Place::Gguf(path) => {
            let mut hasher = blake3::Hasher::new();
            arithmetic(compute).for_each(|word| _ = hasher.update(word));
            hasher.update(GGUF);
            hasher.update(identity::of_file(path)?.as_bytes());
            if let Some(tokenizer) = beside(path) {
                hasher.update(identity::of_file(&tokenizer)?.as_bytes());
            }
            Ok(format!("local:{}", &hasher.finalize().to_hex()[..32]))
        }
        Place::Hub(model) => source(&model.here()?, compute),
    }
}

/// The tokenizer.json beside a GGUF file, where there is one.
fn beside(path: &Path) -> Option<PathBuf> {
    Some(path.with_file_name("tokenizer.json")).filter(|path| path.is_file())
}

/// Loads the model at a place.
pub fn load(place: &Place, compute: Compute, source: String) -> Result<Model> {
    let compute = compute.settled()?;
    load_on(place, compute, compute.device.open()?, source)
}

/// The same onto a device that is open; `None` is the processor.
pub(super) fn load_on(
    place: &Place,
    compute: Compute,
    device: Option<candle_core::Device>,
    source: String,
) -> Result<Model> {
    let about = about(place)?;
    let named = device.as_ref().map(|device| (compute.device, device));
    memory::check(&place.name(), &about.architecture, compute.precision, named)?;
    let on = On { compute, device };
    match place {
        Place::Box => from_files(place, Files::mite(), Weights::memory("mite", mite::WEIGHTS)?, about, on, source),
        Place::Folder(folder) => {
            let files = Files::folder(folder)?;
            from_files(place, files, Weights::folder(folder)?, about, on, source)
        }
        Place::Gguf(path) => from_gguf(path, about, on, source),
        Place::Hub(model) => load_on(&model.here()?, compute, on.device, source),
    }
}

/// What a model is loaded onto.
struct On {
    compute: Compute,
    device: Option<candle_core::Device>,
}

impl On {
    fn decoder(self, architecture: Architecture, weights: &mut Weights) -> Result<Decoder> {
        let dtype = self.compute.precision.dtype();
        Ok(match self.device {
            None => Decoder::Rows(Arc::new(decoder::Decoder::load(architecture, weights, dtype)?)),
            Some(device) => Decoder::Tensors(Arc::new(tensors::Decoder::load(architecture, weights, dtype, device)?)),
        })
    }
}

fn from_files(
    place: &Place,
    files: Files,
    mut weights: Weights,
    about: About,
    on: On,
    source: String,
) -> Result<Model> {
    let name = place.name();
    let size = about.architecture.vocabulary;
    let vocabulary = Vocabulary::read(&files.tokenizer.0, &files.tokenizer.1, size)?;
    let own = match &files.tokenizer_config {
        Some(source) => Value::Object(config::object(source)?),
        None => Value::Null,
    };
    let template = files.template.map(|source| source.text().to_owned()).or_else(|| chat::template(&own));
    let chat = Chat::new(&name, template, chat::special(&own, "bos_token"), chat::special(&own, "eos_token"))?;
    let mut ends = match &files.generation {
        Some(source) => Fields::read(source)?.tokens("eos_token_id"),
        None => Vec::new(),
    };
    ends.extend(&about.architecture.ends);
    ends.extend(vocabulary.token(&chat::special(&own, "eos_token")));
    ends.sort_unstable();
    ends.dedup();
    let decoder = on.decoder(about.architecture, &mut weights)?;
    Ok(Model { name, source, decoder, vocabulary, chat, ends })
}

fn from_gguf(path: &Path, about: About, on: On, source: String) -> Result<Model> {
    let content = gguf::header(path)?;
    let name = path.display().to_string();
    let size = about.architecture.vocabulary;
    let vocabulary = match beside(path) {
        Some(tokenizer) => {
            let bytes = std::fs::read(&tokenizer).map_err(|error| crate::diagnostic::unreadable(&tokenizer, &error))?;
            Vocabulary::read(&tokenizer.display().to_string(), &bytes, size)?
        }
        None => gguf::vocabulary(path, &content, size)?,
    };
    let token = |key: &str| gguf::number(&content, &format!("tokenizer.ggml.{key}_token_id"));
    let written = |key: &str| {
        let bytes = token(key).map_or(&[][..], |token| vocabulary.raw(token));
        String::from_utf8_lossy(bytes).into_owned()
    };
    let template = gguf::text(&content, "tokenizer.chat_template").map(str::to_owned);
    let chat = Chat::new(&name, template, written("bos"), written("eos"))?;
    let ends = ["eos", "eot", "eom"].into_iter().filter_map(token).collect();
    let mut weights = Weights::gguf(path, content)?;
    let decoder = on.decoder(about.architecture, &mut weights)?;
    Ok(Model { name, source, decoder, vocabulary, chat, ends })
}
