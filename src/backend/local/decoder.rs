//! The decoder: one configurable forward pass for every architecture that is known here.
//!
//! A call takes rows of many sequences at once, whether they belong to a prompt or are the next token of a sample. Matrix
//! products go over all rows; everything else is done row by row, so no row's result hangs on the others.

use candle_core::{DType, Tensor};
use farthing_kernels as kernels;
use farthing_kernels::Heads;

use super::cache::Cache;
use super::config::{Architecture, Family, Rotary};
use super::linear::Linear;
use super::weights::Weights;
use crate::diagnostic::{Error, Result};

/// What normalizes a row.
struct Norm {
    weight: Vec<f32>,
    /// A layer norm has one; a root-mean-square norm has none.
    bias: Option<Vec<f32>>,
}

/// One block.
struct Layer {
    before_attention: Norm,
    queries_keys_values: Linear,
    /// Of queries and keys, by the head.
    head_norms: Option<(Norm, Norm)>,
    output: Linear,
    after_attention: Option<Norm>,
    /// Phi has none: both parts start from the same norm.
    before_inner: Option<Norm>,
    up: Linear,
    down: Linear,
    after_inner: Option<Norm>,
}

/// Where embeddings come from.
enum Embedding {
    /// From a matrix of their own.
    Own(Linear),
    /// From the last layer.
    Tied,
}

/// A loaded model.
pub struct Decoder {
    /// What it is.
    pub architecture: Architecture,
    embedding: Embedding,
    positions: Option<Vec<f32>>,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
}

/// Tokens of one sequence to go through the model.
pub struct Run<'a> {
    /// What the sequence began with, shared with others.
    pub prefix: Option<&'a Cache>,
    /// What it saw since; grows by the tokens.
    pub own: &'a mut Cache,
    /// The tokens.
    pub tokens: &'a [u32],
    /// The logits that are wanted: of the last so many tokens.
    pub wanted: usize,
}

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

/// Reads a model's parts, with names as its family has them.
struct Loader<'a> {
    weights: &'a mut Weights,
    architecture: &'a Architecture,
    dtype: DType,
    prefix: &'static str,
}

fn internal(error: candle_core::Error) -> Error {
    Error::internal(format!("a local model failed: {error}"))
}

impl Loader<'_> {
    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>> {
        let name = format!("{}{name}", self.prefix);
        self.weights.tensor(&name, &[length])?.to_vec1().map_err(internal)
    }

    fn norm(&mut self, name: &str, length: usize, layer_norm: bool) -> Result<Norm> {
        let weight = self.vector(&format!("{name}.weight"), length)?;
        let bias = if layer_norm { Some(self.vector(&format!("{name}.bias"), length)?) } else { None };
        Ok(Norm { weight, bias })
    }

    /// Several matrices as one that gives all their outputs side by side.
    fn fused(&mut self, parts: &[(String, usize)], inputs: usize, bias: bool) -> Result<Linear> {
        let mut matrices: Vec<Tensor> = Vec::new();
        let mut biases = Vec::new();
        for (name, outputs) in parts {
            let full = format!("{}{name}.weight", self.prefix);
            matrices.push(self.weights.tensor(&full, &[*outputs, inputs])?);
            if bias {
                biases.extend(self.vector(&format!("{name}.bias"), *outputs)?);
            }
        }
        let whole = match matrices.len() {
            1 => matrices.remove(0),
            _ => Tensor::cat(&matrices, 0).map_err(internal)?,
        };
        Linear::new(&whole, bias.then_some(biases), self.dtype).map_err(internal)
    }

    /// A matrix that is stored by input and output, as GPT-2's are.
    fn stored_transposed(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let full = format!("{}{name}.weight", self.prefix);
        let weight = self.weights.tensor(&full, &[inputs, outputs])?;
        let bias = self.vector(&format!("{name}.bias"), outputs)?;
        Linear::transposed(&weight, Some(bias), self.dtype).map_err(internal)
    }

    fn gpt2_layer(&mut self, at: usize) -> Result<Layer> {
        let Architecture { hidden, inner, .. } = *self.architecture;
        let name = |part: &str| format!("h.{at}.{part}");
        Ok(Layer {
            before_attention: self.norm(&name("ln_1"), hidden, true)?,
            queries_keys_values: self.stored_transposed(&name("attn.c_attn"), hidden, 3 * hidden)?,
            head_norms: None,
            output: self.stored_transposed(&name("attn.c_proj"), hidden, hidden)?,
            after_attention: None,
            before_inner: Some(self.norm(&name("ln_2"), hidden, true)?),
            up: self.stored_transposed(&name("mlp.c_fc"), hidden, inner)?,
            down: self.stored_transposed(&name("mlp.c_proj"), inner, hidden)?,
            after_inner: None,
        })
    }

    fn layer(&mut self, at: usize) -> Result<Layer> {
        let this = self.architecture.clone();
        let (hidden, inner, family) = (this.hidden, this.inner, this.family);
        let (wide, narrow) = (this.heads * this.head, this.key_width());
        let name = |part: &str| format!("layers.{at}.{part}");
        let phi = family == Family::Phi;
        let projections = match family {
            Family::Phi3 => vec![(name("self_attn.qkv_proj"), wide + 2 * narrow)],
            _ => vec![
                (name("self_attn.q_proj"), wide),
                (name("self_attn.k_proj"), narrow),
                (name("self_attn.v_proj"), narrow),
            ],
        };
        let up = match family {
            Family::Phi => vec![(name("mlp.fc1"), inner)],
            Family::Phi3 => vec![(name("mlp.gate_up_proj"), 2 * inner)],
            _ => vec![(name("mlp.gate_proj"), inner), (name("mlp.up_proj"), inner)],
        };
        let output = if phi { "self_attn.dense" } else { "self_attn.o_proj" };
        let down = if phi { "mlp.fc2" } else { "mlp.down_proj" };
        let (after_attention, before_inner, after_inner) = match family {
            Family::Gemma => (
                Some(self.norm(&name("post_attention_layernorm"), hidden, false)?),
                Some(self.norm(&name("pre_feedforward_layernorm"), hidden, false)?),
                Some(self.norm(&name("post_feedforward_layernorm"), hidden, false)?),
            ),
            Family::Phi => (None, None, None),
            _ => (None, Some(self.norm(&name("post_attention_layernorm"), hidden, false)?), None),
        };
        let head_norms = match this.head_norms {
            true => Some((
                self.norm(&name("self_attn.q_norm"), this.head, false)?,
                self.norm(&name("self_attn.k_norm"), this.head, false)?,
            )),
            false => None,
        };
        Ok(Layer {
            before_attention: self.norm(&name("input_layernorm"), hidden, phi)?,
            queries_keys_values: self.fused(&projections, hidden, this.attention_bias)?,
            head_norms,
            output: self.fused(&[(name(output), hidden)], wide, this.output_bias)?,
            after_attention,
            before_inner,
            up: self.fused(&up, hidden, this.inner_bias)?,
            down: self.fused(&[(name(down), hidden)], inner, this.inner_bias)?,
            after_inner,
        })
    }
}

impl Decoder {
    /// Loads a model's weights. `dtype` is what matrices are kept in: 32-bit floats or bf16; sums are made in 32 bits.
    pub fn load(architecture: Architecture, weights: &mut Weights, dtype: DType) -> Result<Decoder> {
        let this = &architecture;
        let gpt2 = this.family == Family::Gpt2;
        // Some files of GPT-2 name its parts without the `transformer` around them.
        let prefix = match gpt2 {
            true if weights.has("wte.weight") => "",
            true => "transformer.",
            false => "model.",
        };
        let (hidden, vocabulary) = (this.hidden, this.vocabulary);
        let table = format!("{prefix}{}", if gpt2 { "wte.weight" } else { "embed_tokens.weight" });
        let table = weights.tensor(&table, &[vocabulary, hidden])?;
        // A file may hold a last layer although its configuration says that the embedding serves as one: then it is that.
        let (embedding, head) = match this.tied || !weights.has("lm_head.weight") {
            true => (Embedding::Tied, Linear::new(&table, None, dtype).map_err(internal)?),
            false => {
                let embedding = Linear::new(&table, None, dtype).map_err(internal)?;
                let weight = weights.tensor("lm_head.weight", &[vocabulary, hidden])?;
                let bias = match weights.has("lm_head.bias") {
                    true => Some(weights.tensor("lm_head.bias", &[vocabulary])?.to_vec1().map_err(internal)?),
                    false => None,
                };
                (Embedding::Own(embedding), Linear::new(&weight, bias, dtype).map_err(internal)?)
            }
        };
        let positions = match this.learned_positions {
            true => {
                let table = weights.tensor(&format!("{prefix}wpe.weight"), &[this.context, hidden])?;
                Some(table.flatten_all().and_then(|table| table.to_vec1()).map_err(internal)?)
            }
            false => None,
        };
        let mut loader = Loader { weights, architecture: this, dtype, prefix };
        let layers = (0..this.layers.len())
            .map(|at| if gpt2 { loader.gpt2_layer(at) } else { loader.layer(at) })
            .collect::<Result<_>>()?;
        let last = match this.family {
            Family::Gpt2 => "ln_f",
            Family::Phi => "final_layernorm",
            _ => "norm",
        };
        let norm = loader.norm(last, hidden, gpt2 || this.family == Family::Phi)?;
        Ok(Decoder { embedding, positions, layers, norm, head, architecture })
    }

    /// An empty cache for this model.
    pub fn cache(&self) -> Cache {
        Cache::new(self.layers.len(), self.architecture.key_width())
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
        let table = match &self.embedding {
            Embedding::Own(table) => table,
            Embedding::Tied => &self.head,
        };
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
                let learned = self.positions.as_ref().and_then(|table| table.get((start + at) * hidden..));
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

    /// Takes rows through the model; gives the logits that are wanted, in the order of the runs. `spread` lets one matrix
    /// product use all threads.
    pub fn forward(&self, runs: &mut [Run<'_>], scratch: &mut Scratch, spread: bool) -> candle_core::Result<Vec<f32>> {
        let this = &self.architecture;
        let Scratch { state, normed, fused, attended, added, inner, gated, scores, turns } = scratch;
        self.embed(runs, state)?;
        self.turns(runs, turns);
        for (at, layer) in self.layers.iter().enumerate() {
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
            if let Some((query_norm, key_norm)) = &self.layers[at].head_norms {
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
        self.normalize(&self.norm, &last, normed);
        let mut logits = Vec::new();
        self.head.product(normed, &mut logits, spread)?;
        if let Some(cap) = self.architecture.logit_cap {
            kernels::cap(&mut logits, cap);
        }
        Ok(logits)
    }
}

impl Run<'_> {
    /// The position of its first token.
    fn start(&self) -> usize {
        self.prefix.map_or(0, Cache::tokens) + self.own.tokens()
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
