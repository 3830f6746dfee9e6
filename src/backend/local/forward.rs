//! What the engine asks of a decoder, whatever computes: this machine's processor by the row, or a device by the tensor.

use std::sync::Arc;

use super::config::Architecture;
use super::{decoder, tensors};

/// Tokens of one sequence to go through the model.
pub struct Run<'a, C> {
    /// What the sequence began with, shared with others.
    pub prefix: Option<&'a C>,
    /// What it saw since; grows by the tokens.
    pub own: &'a mut C,
    /// The tokens.
    pub tokens: &'a [u32],
    /// The logits that are wanted: of the last so many tokens.
    pub wanted: usize,
}

/// Keys and values of tokens that a model has seen.
pub trait Seen: Default + Send + Sync + 'static {
    /// So many tokens.
    fn tokens(&self) -> usize;
}

impl<C: Seen> Run<'_, C> {
    /// The position of its first token.
    pub fn start(&self) -> usize {
        self.prefix.map_or(0, C::tokens) + self.own.tokens()
    }
}

/// A model's forward pass. What comes out for one run hangs on nothing that is in the others.
pub trait Forward: Send + Sync + 'static {
    /// What it keeps of a sequence.
    type Cache: Seen;
    /// Space that a pass needs, kept for the next one.
    type Scratch: Default + Send;

    /// What the model is.
    fn architecture(&self) -> &Architecture;

    /// An empty cache for this model.
    fn cache(&self) -> Self::Cache;

    /// Memory of a cache is taken by so many tokens at a time.
    fn grain(&self) -> usize;

    /// Bytes that one token's keys and values take.
    fn bytes_per_token(&self) -> u64;

    /// How many tokens' keys and values may be held at a time.
    fn room(&self) -> usize;

    /// True where the rows of a step are best shared out over threads, each taking its share through the whole model.
    fn by_rows(&self) -> bool;

    /// Takes rows through the model; gives the logits that are wanted, in the order of the runs. `spread` lets one matrix
    /// product use all threads.
    fn forward(
        &self,
        runs: &mut [Run<'_, Self::Cache>],
        scratch: &mut Self::Scratch,
        spread: bool,
    ) -> candle_core::Result<Vec<f32>>;
}

/// A loaded model's decoder.
#[derive(Clone)]
pub enum Decoder {
    /// On the processor.
    Rows(Arc<decoder::Decoder>),
    /// On a device.
    Tensors(Arc<tensors::Decoder>),
}

impl Decoder {
    /// What the model is.
    pub fn architecture(&self) -> &Architecture {
        match self {
            Decoder::Rows(decoder) => decoder.architecture(),
            Decoder::Tensors(decoder) => decoder.architecture(),
        }
    }
}
