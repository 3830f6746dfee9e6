//! The decoder on the processor: one configurable forward pass for every architecture that is known here.
//!
//! A call takes rows of many sequences at once, whether they belong to a prompt or are the next token of a sample. Matrix
//! products go over all rows; everything else is done row by row, so no row's result hangs on the others.

use candle_core::{DType, Tensor};
use farthing_kernels as kernels;
use farthing_kernels::Heads;

use super::cache::Cache;
use super::config::{Architecture, Rotary};
use super::forward::{self, Forward, Seen};
use super::linear::Linear;
use super::memory;
use super::parts::{Make, Parts};
use super::weights::Weights;
use crate::diagnostic::{Error, Result};

/// What normalizes a row.
pub struct Norm {
    weight: Vec<f32>,
    /// A layer norm has one; a root-mean-square norm has none.
    bias: Option<Vec<f32>>,
}

/// Keeps matrices in this, and everything else in 32-bit floats.
struct Kept(DType);

impl Make for Kept {
    type Matrix = Linear;
    type Norm = Norm;
    type Table = Vec<f32>;

    fn matrix(&self, weight: &Tensor, bias: Option<Vec<f32>>) -> candle_core::Result<Linear> {
        Linear::new(weight, bias, self.0)
    }

    fn transposed(&self, weight: &Tensor, bias: Option<Vec<f32>>) -> candle_core::Result<Linear> {
        Linear::transposed(weight, bias, self.0)
    }

    fn norm(&self, weight: Vec<f32>, bias: Option<Vec<f32>>) -> candle_core::Result<Norm> {
        Ok(Norm { weight, bias })
    }

    fn table(&self, rows: &Tensor) -> candle_core::Result<Vec<f32>> {
        rows.flatten_all()?.to_vec1()
    }

    fn failed(&self, error: candle_core::Error) -> Error {
        Error::internal(format!("a local model failed: {error}"))
    }
}

/// A loaded model.
pub struct Decoder {
    architecture: Architecture,
    parts: Parts<Kept>,
}

/// Models of fewer weights than this are shared out by rows; of larger ones a matrix product uses all threads.
const SMALL: u64 = 50_000_000;

type Run<'a> = forward::Run<'a, Cache>;

/// Space that a pass needs, kept for the next one.
#[derive(Default)]
pub struct Scratch {
    state: Vec<f32>,
    normed: Vec<f32>,
    fused: Vec<f32>,
    attended: Vec<f32>,
    added: Vec<f32>,
    inner: Vec<f32>,
    gated: Vec<f32>,
    scores: Vec<f32>,
    turns: Vec<Vec<f32>>,
}

impl Decoder {
    /// Loads a model's weights. `dtype` is what matrices are kept in: 32-bit floats or bf16; sums are made in 32 bits.
    pub fn load(architecture: Architecture, weights: &mut Weights, dtype: DType) -> Result<Decoder> {
        let parts = Parts::load(&architecture, weights, &Kept(dtype))?;
        Ok(Decoder { architecture, parts })
    }

    fn normalize(&self, norm: &Norm, rows: &[f32], out: &mut Vec<f32>) {
        let Architecture { epsilon, norm_offset, .. } = self.architecture;
        kernels::norm_rows(rows, &norm.weight, norm.bias.as_deref(), norm_offset, epsilon, out);
    }

    fn normalize_row(&self, norm: &Norm, row: &[f32], out: &mut [f32]) {
        let Architecture { epsilon, norm_offset, .. } = self.architecture;
        match &norm.bias {
            Some(bias) => kernels::layer_norm(row, &norm.weight, bias, epsilon, out),
            None => kernels::rms_norm(row, &norm.weight, norm_offset, epsilon, out),
        }
    }

    /// Every token's embedding.
    fn embed(&self, runs: &[Run<'_>], state: &mut Vec<f32>) -> candle_core::Result<()> {
        let hidden = self.architecture.hidden;
        let table = self.parts.embedding.as_ref().unwrap_or(&self.parts.head);
        state.clear();
        for run in runs {
            let start = run.start();
            for (at, &token) in run.tokens.iter().enumerate() {
                let from = state.len();
                kernels::fit(state, from + hidden);
                let row = &mut state[from..];
                table.column((token as usize).min(self.architecture.vocabulary - 1), row)?;
                if self.architecture.embedding_scale != 1.0 {
                    row.iter_mut().for_each(|value| *value *= self.architecture.embedding_scale);
                }
                let learned = self.parts.positions.as_ref().and_then(|table| table.get((start + at) * hidden..));
                if let Some(learned) = learned {
                    kernels::add(row, &learned[..hidden.min(learned.len())]);
                }
            }
        }
        Ok(())
    }

    /// Cosines, then sines, of every row's position: one list for each way of turning.
    fn turns(&self, runs: &[Run<'_>], turns: &mut Vec<Vec<f32>>) {
        turns.resize(self.architecture.rotaries.len(), Vec::new());
        for (rotary, turns) in self.architecture.rotaries.iter().zip(turns) {
            turns.clear();
            for position in runs.iter().flat_map(|run| (run.start()..).take(run.tokens.len())) {
                let count = rotary.frequencies.len();
                kernels::fit(turns, turns.len() + 2 * count);
                let from = turns.len() - 2 * count;
                let (cos, sin) = turns[from..].split_at_mut(count);
                kernels::angles(position, &rotary.frequencies, cos, sin);
            }
        }
    }

    /// Attention of one layer: turns queries and keys, adds keys and values to the caches, and looks back.
    fn attention(
        &self,
        at: usize,
        runs: &mut [Run<'_>],
        fused: &mut [f32],
        turns: &[Vec<f32>],
        scores: &mut Vec<f32>,
        attended: &mut [f32],
    ) {
        let this = &self.architecture;
        let attention = this.layers[at];
        let (wide, narrow) = (this.heads * this.head, this.key_width());
        let row_width = wide + 2 * narrow;
        let rotary = attention.rotary.map(|which| (&this.rotaries[which], &turns[which]));
        for (row, fused) in fused.chunks_exact_mut(row_width).enumerate() {
            if let Some((query_norm, key_norm)) = &self.parts.layers[at].head_norms {
                for (head, norm) in heads(fused, this.head, wide, narrow, query_norm, key_norm) {
                    let plain = head.to_vec();
                    self.normalize_row(norm, &plain, head);
                }
            }
            if let Some((rotary, turns)) = rotary {
                let count = rotary.frequencies.len();
                let (cos, sin) = turns[row * 2 * count..][..2 * count].split_at(count);
                let turned = fused[..wide + narrow].chunks_exact_mut(this.head);
                turned.for_each(|head| turn(rotary, head, cos, sin));
            }
        }
        let shape = Heads {
            queries: this.heads,
            keys: this.key_heads,
            size: this.head,
            scale: attention.scale,
            cap: this.score_cap,
        };
        let mut rows = fused.chunks_exact(row_width).zip(attended.chunks_exact_mut(wide));
        for run in runs {
            let shared = run.prefix.map_or(0, Cache::tokens);
            let before = run.own.tokens();
            for (token, (fused, out)) in rows.by_ref().take(run.tokens.len()).enumerate() {
                let (query, rest) = fused.split_at(wide);
                let (key, value) = rest.split_at(narrow);
                run.own.extend(at, key, value);
                let seen = before + token + 1;
                let first = attention.window.map_or(0, |window| (shared + seen).saturating_sub(window));
                let own = run.own.span(at, first.saturating_sub(shared), seen);
                match run.prefix.filter(|_| first < shared) {
                    Some(prefix) => {
                        kernels::attend(shape, query, &[prefix.span(at, first, shared), own], scores, out);
                    }
                    None => kernels::attend(shape, query, &[own], scores, out),
                }
            }
        }
    }

    fn logits(
        &self,
        runs: &mut [Run<'_>],
        state: &[f32],
        normed: &mut Vec<f32>,
        spread: bool,
    ) -> candle_core::Result<Vec<f32>> {
        let hidden = self.architecture.hidden;
        let mut last = Vec::new();
        let mut row = 0;
        for run in runs {
            row += run.tokens.len();
            last.extend_from_slice(&state[(row - run.wanted) * hidden..row * hidden]);
            run.own.grown(run.tokens.len());
        }
        self.normalize(&self.parts.norm, &last, normed);
        let mut logits = Vec::new();
        self.parts.head.product(normed, &mut logits, spread)?;
        if let Some(cap) = self.architecture.logit_cap {
            kernels::cap(&mut logits, cap);
        }
        if !kernels::finite(&logits) {
            candle_core::bail!("what it computed is no number: its weights are broken, or left the range of theirs");
        }
        Ok(logits)
    }
}

impl Forward for Decoder {
    type Cache = Cache;
    type Scratch = Scratch;

    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn cache(&self) -> Cache {
        Cache::new(self.architecture.layers.len(), self.architecture.key_width())
    }

    fn grain(&self) -> usize {
        1
    }

    fn bytes_per_token(&self) -> u64 {
        self.architecture.bytes_per_token(size_of::<f32>())
    }

    fn room(&self) -> usize {
        memory::cached_tokens(self.bytes_per_token())
    }

    fn by_rows(&self) -> bool {
        self.architecture.weights() < SMALL
    }

    fn forward(&self, runs: &mut [Run<'_>], scratch: &mut Scratch, spread: bool) -> candle_core::Result<Vec<f32>> {
        let this = &self.architecture;
        let Scratch { state, normed, fused, attended, added, inner, gated, scores, turns } = scratch;
        self.embed(runs, state)?;
        self.turns(runs, turns);
        for (at, layer) in self.parts.layers.iter().enumerate() {
            self.normalize(&layer.before_attention, state, normed);
            layer.queries_keys_values.product(normed, fused, spread)?;
            kernels::fit(attended, state.len() / this.hidden * this.heads * this.head);
            self.attention(at, runs, fused, turns, scores, attended);
            layer.output.product(attended, added, spread)?;
            if let Some(norm) = &layer.after_attention {
                self.normalize(norm, added, gated);
                std::mem::swap(added, gated);
            }
            // Phi's inner layer starts from what attention started from.
            kernels::add(state, added);
            if let Some(norm) = &layer.before_inner {
                self.normalize(norm, state, normed);
            }
            layer.up.product(normed, inner, spread)?;
            match this.gated {
                true => {
                    kernels::fit(gated, inner.len() / 2);
                    for (row, out) in inner.chunks_exact(2 * this.inner).zip(gated.chunks_exact_mut(this.inner)) {
                        kernels::gate(this.activation, row, out);
                    }
                    layer.down.product(gated, added, spread)?;
                }
                false => {
                    kernels::activate(this.activation, inner);
                    layer.down.product(inner, added, spread)?;
                }
            }
            if let Some(norm) = &layer.after_inner {
                self.normalize(norm, added, gated);
                std::mem::swap(added, gated);
            }
            kernels::add(state, added);
        }
        self.logits(runs, state, normed, spread)
    }
}

fn turn(rotary: &Rotary, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    match rotary.neighbours {
        true => kernels::rotate_pairs(head, cos, sin),
        false => kernels::rotate_halves(head, cos, sin),
    }
}

/// The heads of queries and keys in a row, each with its norm.
fn heads<'a>(
    fused: &'a mut [f32],
    head: usize,
    wide: usize,
    narrow: usize,
    query_norm: &'a Norm,
    key_norm: &'a Norm,
) -> impl Iterator<Item = (&'a mut [f32], &'a Norm)> {
    let (queries, rest) = fused.split_at_mut(wide);
    let keys = &mut rest[..narrow];
    let queries = queries.chunks_exact_mut(head).map(move |head| (head, query_norm));
    queries.chain(keys.chunks_exact_mut(head).map(move |head| (head, key_norm)))
}
