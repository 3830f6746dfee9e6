//! The decoder on a device: the same forward pass in tensors of candle's, on CUDA or Metal.
//!
//! What a sample says must not hang on what is beside it, and a device's matrix product may sum in another order when it is
//! of another shape. So no shape here hangs on what else is asked: a piece of a prompt goes through by itself, and next
//! tokens in blocks of one fixed size, filled up with rows that nobody looks at. Attention is each sequence's own. The state
//! and everything that is no matrix product are of 32-bit floats; matrices, and keys and values, are kept as `dtype` says.

use candle_core::{D, DType, Device, Tensor};
use farthing_kernels::Activation;

use super::config::{Architecture, Rotary};
use super::forward::{self, Forward, Seen};
use super::memory;
use super::parts::{Make, Parts};
use super::tensor_cache::{Cache, GRAIN, Shape};
use super::weights::Weights;
use crate::diagnostic::{Error, Result};

/// Weights by output and input element, and a bias.
struct Matrix {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Matrix {
    /// Rows of 32-bit floats times the weights.
    fn product(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        let rows = rows.to_dtype(self.weight.dtype())?;
        let made = rows.matmul(&self.weight.t()?)?.to_dtype(DType::F32)?;
        match &self.bias {
            Some(bias) => made.broadcast_add(bias),
            None => Ok(made),
        }
    }
}

/// What normalizes a row: by its root mean square, or, with a bias, to mean 0 and variance 1.
struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Puts parts on a device.
struct Put {
    device: Device,
    dtype: DType,
    /// Added to the weights of norms without a bias.
    norm_offset: f32,
}

impl Put {
    fn vector(&self, values: Vec<f32>) -> candle_core::Result<Tensor> {
        let length = values.len();
        Tensor::from_vec(values, length, &self.device)
    }
}

impl Make for Put {
    type Matrix = Matrix;
    type Norm = Norm;
    type Table = Tensor;

    fn matrix(&self, weight: &Tensor, bias: Option<Vec<f32>>) -> candle_core::Result<Matrix> {
        // Narrowed before it travels.
        let weight = weight.to_dtype(self.dtype)?.contiguous()?.to_device(&self.device)?;
        Ok(Matrix { weight, bias: bias.map(|bias| self.vector(bias)).transpose()? })
    }

    fn transposed(&self, weight: &Tensor, bias: Option<Vec<f32>>) -> candle_core::Result<Matrix> {
        self.matrix(&weight.t()?, bias)
    }

    fn norm(&self, weight: Vec<f32>, bias: Option<Vec<f32>>) -> candle_core::Result<Norm> {
        let offset = if bias.is_none() { self.norm_offset } else { 0.0 };
        let weight = self.vector(weight.into_iter().map(|weight| weight + offset).collect())?;
        Ok(Norm { weight, bias: bias.map(|bias| self.vector(bias)).transpose()? })
    }

    fn table(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        rows.to_device(&self.device)
    }

    fn failed(&self, error: candle_core::Error) -> Error {
        let what = error.to_string();
        let what = what.lines().next().unwrap_or_default();
        Error::usage(format!("the device did not take the model's weights: {what}"))
            .help("`device = \"cpu\"` runs it on the processor; a dtype of 16 bits takes half the memory")
    }
}

/// A loaded model.
pub struct Decoder {
    architecture: Architecture,
    parts: Parts<Put>,
    device: Device,
    dtype: DType,
    /// Next tokens that go through together.
    block: usize,
}

type Run<'a> = forward::Run<'a, Cache>;

/// What the layers of one pass share.
struct Pass {
    /// Rows, those that fill it up among them.
    rows: usize,
    /// Cosines and sines of every row's position, for each way of turning.
    turns: Vec<(Tensor, Tensor)>,
    /// What a prompt's tokens must not see, for each window that layers have.
    masks: Vec<(Option<usize>, Tensor)>,
}

impl Decoder {
    /// Loads a model's weights onto a device.
    pub fn load(architecture: Architecture, weights: &mut Weights, dtype: DType, device: Device) -> Result<Decoder> {
        let make = Put { device, dtype, norm_offset: architecture.norm_offset };
        let parts = Parts::load(&architecture, weights, &make)?;
        let Put { device, .. } = make;
        // Weights are read from memory once for a block, so on devices made for it a large one costs what a small one does.
        let block = match device {
            Device::Cuda(_) => 64,
            Device::Metal(_) => 16,
            Device::Cpu => 8,
        };
        Ok(Decoder { architecture, parts, device, dtype, block })
    }

    fn normalize(&self, norm: &Norm, rows: &Tensor) -> candle_core::Result<Tensor> {
        let epsilon = f64::from(self.architecture.epsilon);
        let centered = match norm.bias {
            Some(_) => &rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?,
            None => rows,
        };
        let spread = (centered.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
        let scaled = centered.broadcast_div(&spread)?.broadcast_mul(&norm.weight)?;
        match &norm.bias {
            Some(bias) => scaled.broadcast_add(bias),
            None => Ok(scaled),
        }
    }

    fn activate(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        match self.architecture.activation {
            Activation::Silu => rows.silu(),
            Activation::GeluTanh => rows.gelu(),
            Activation::Gelu => rows.gelu_erf(),
            Activation::Relu => rows.relu(),
        }
    }

    /// The embeddings of a pass's tokens.
    fn embed(&self, tokens: Vec<u32>, positions: &[usize]) -> candle_core::Result<Tensor> {
        let this = &self.architecture;
        let table = self.parts.embedding.as_ref().unwrap_or(&self.parts.head);
        let last = this.vocabulary.saturating_sub(1) as u32;
        let ids: Vec<u32> = tokens.into_iter().map(|token| token.min(last)).collect();
        let rows = ids.len();
        let ids = Tensor::from_vec(ids, rows, &self.device)?;
        let mut state = table.weight.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        if this.embedding_scale != 1.0 {
            state = (state * f64::from(this.embedding_scale))?;
        }
        let Some(learned) = &self.parts.positions else { return Ok(state) };
        let last = this.context.saturating_sub(1);
        let positions: Vec<u32> = positions.iter().map(|&position| position.min(last) as u32).collect();
        let positions = Tensor::from_vec(positions, rows, &self.device)?;
        state + learned.index_select(&positions, 0)?
    }

    /// Cosines and sines, `[rows, 1, pairs]` each. Made by the processor: every device would round them otherwise.
    fn turns(&self, rotary: &Rotary, positions: &[usize]) -> candle_core::Result<(Tensor, Tensor)> {
        let (rows, count) = (positions.len(), rotary.frequencies.len());
        let (mut cos, mut sin) = (vec![0.0; rows * count], vec![0.0; rows * count]);
        if count > 0 {
            let rows = cos.chunks_exact_mut(count).zip(sin.chunks_exact_mut(count));
            for (position, (cos, sin)) in positions.iter().zip(rows) {
                farthing_kernels::angles(*position, &rotary.frequencies, cos, sin);
            }
        }
        let shape = (rows, 1, count);
        Ok((Tensor::from_vec(cos, shape, &self.device)?, Tensor::from_vec(sin, shape, &self.device)?))
    }

    /// What a prompt's tokens must not see of `start` tokens before them and of each other, `[tokens, start + tokens]`.
    fn mask(&self, window: Option<usize>, start: usize, tokens: usize) -> candle_core::Result<Tensor> {
        let seen = start + tokens;
        let row = |at: usize| {
            let own = start + at;
            let first = window.map_or(0, |window| (own + 1).saturating_sub(window));
            (0..seen).map(move |key| if (first..=own).contains(&key) { 0.0 } else { f32::NEG_INFINITY })
        };
        let values: Vec<f32> = (0..tokens).flat_map(row).collect();
        Tensor::from_vec(values, (tokens, seen), &self.device)
    }

    /// Takes runs through the model together: one of any length, or several of one token each, filled up to `rows`. Gives
    /// the logits that are wanted, a row after the other.
    fn pass(&self, runs: &mut [&mut Run<'_>], rows: usize) -> candle_core::Result<Vec<f32>> {
        let this = &self.architecture;
        let fill = rows - runs.iter().map(|run| run.tokens.len()).sum::<usize>();
        let fill = std::iter::repeat_n(0, fill);
        let tokens =
            runs.iter().flat_map(|run| run.tokens.iter().copied()).chain(fill.clone().map(|_| 0_u32)).collect();
        let positions: Vec<usize> =
            runs.iter().flat_map(|run| (run.start()..).take(run.tokens.len())).chain(fill).collect();
        let mut pass = Pass { rows, turns: Vec::new(), masks: Vec::new() };
        for rotary in &this.rotaries {
            pass.turns.push(self.turns(rotary, &positions)?);
        }
        if let [run] = runs
            && run.tokens.len() > 1
        {
            for window in this.layers.iter().map(|layer| layer.window) {
                if pass.masks.iter().all(|(known, _)| *known != window) {
                    pass.masks.push((window, self.mask(window, run.start(), run.tokens.len())?));
                }
            }
        }
        let mut state = self.embed(tokens, &positions)?;
        for (at, layer) in self.parts.layers.iter().enumerate() {
            let normed = self.normalize(&layer.before_attention, &state)?;
            let fused = layer.queries_keys_values.product(&normed)?;
            let mut added = layer.output.product(&self.attention(at, runs, &fused, &pass)?)?;
            if let Some(norm) = &layer.after_attention {
                added = self.normalize(norm, &added)?;
            }
            state = (state + added)?;
            // Phi's inner layer starts from what attention started from.
            let normed = match &layer.before_inner {
                Some(norm) => self.normalize(norm, &state)?,
                None => normed,
            };
            let inner = layer.up.product(&normed)?;
            let inner = match this.gated {
                true => {
                    let gate = inner.narrow(1, 0, this.inner)?.contiguous()?;
                    (self.activate(&gate)? * inner.narrow(1, this.inner, this.inner)?)?
                }
                false => self.activate(&inner)?,
            };
            let mut added = layer.down.product(&inner)?;
            if let Some(norm) = &layer.after_inner {
                added = self.normalize(norm, &added)?;
            }
            state = (state + added)?;
        }
        for run in runs.iter_mut() {
            run.own.grown(run.tokens.len());
        }
        self.logits(runs, &state)
    }

    /// The logits that are wanted of a pass.
    fn logits(&self, runs: &[&mut Run<'_>], state: &Tensor) -> candle_core::Result<Vec<f32>> {
        let last = match runs {
            [run] if run.tokens.len() == state.dim(0)? => {
                if run.wanted == 0 {
                    return Ok(Vec::new());
                }
                &state.narrow(0, run.tokens.len() - run.wanted, run.wanted)?
            }
            _ => state,
        };
        let mut logits = self.parts.head.product(&self.normalize(&self.parts.norm, last)?)?;
        if let Some(cap) = self.architecture.logit_cap {
            logits = bent(&logits, cap)?;
        }
        let wanted: usize = runs.iter().map(|run| run.wanted).sum();
        let logits = logits.narrow(0, 0, wanted)?.flatten_all()?.to_vec1::<f32>()?;
        if logits.iter().any(|logit| !logit.is_finite()) {
            candle_core::bail!(
                "what it computed is no number: weights in {} left the range of their numbers; bf16 and f32 have more",
                self.dtype.as_str()
            );
        }
        Ok(logits)
    }

    /// Attention of one layer: turns queries and keys, adds keys and values to the caches, and looks back.
    fn attention(
        &self,
        at: usize,
        runs: &mut [&mut Run<'_>],
        fused: &Tensor,
        pass: &Pass,
    ) -> candle_core::Result<Tensor> {
        let this = &self.architecture;
        let attention = this.layers[at];
        let (wide, narrow, rows) = (this.heads * this.head, this.key_width(), pass.rows);
        let mut queries = fused.narrow(1, 0, wide)?.reshape((rows, this.heads, this.head))?;
        let mut keys = fused.narrow(1, wide, narrow)?.reshape((rows, this.key_heads, this.head))?;
        let values = fused.narrow(1, wide + narrow, narrow)?.reshape((rows, this.key_heads, this.head))?;
        if let Some((query_norm, key_norm)) = &self.parts.layers[at].head_norms {
            queries = self.normalize(query_norm, &queries)?;
            keys = self.normalize(key_norm, &keys)?;
        }
        if let Some(which) = attention.rotary {
            let (cos, sin) = &pass.turns[which];
            queries = turned(&this.rotaries[which], &queries, cos, sin)?;
            keys = turned(&this.rotaries[which], &keys, cos, sin)?;
        }
        let queries = (queries * f64::from(attention.scale))?.to_dtype(self.dtype)?;
        let fresh = Tensor::cat(&[&keys, &values], 1)?.to_dtype(self.dtype)?;
        let mut outs = Vec::with_capacity(runs.len() + 1);
        let mut row = 0;
        for run in runs.iter_mut() {
            let count = run.tokens.len();
            let (queries, fresh) = (queries.narrow(0, row, count)?, fresh.narrow(0, row, count)?);
            run.own.extend(at, &fresh)?;
            outs.push(self.look(at, run, &queries, pass)?);
            row += count;
        }
        if row < rows {
            outs.push(Tensor::zeros((rows - row, wide), DType::F32, &self.device)?);
        }
        Tensor::cat(&outs, 0)
    }

    /// What one run's tokens see, `[tokens, heads * head]`.
    fn look(&self, at: usize, run: &Run<'_>, queries: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        let this = &self.architecture;
        let (count, keys, each) = (run.tokens.len(), this.key_heads, this.heads / this.key_heads);
        let window = this.layers[at].window;
        let (shared, seen) = (run.prefix.map_or(0, Cache::tokens), run.own.tokens() + count);
        // A token of its own needs no mask: it is shown what it sees.
        let first = match count {
            1 => window.map_or(0, |window| (shared + seen).saturating_sub(window)),
            _ => 0,
        };
        let mut spans = Vec::new();
        if let Some(prefix) = run.prefix.filter(|_| first < shared) {
            spans.push((prefix.span(at, first, shared)?, shared - first));
        }
        let first = first.saturating_sub(shared);
        spans.push((run.own.span(at, first, seen)?, seen - first));
        let queries = match count {
            1 => queries.reshape((keys, each, this.head))?,
            _ => queries.reshape((count, keys, each, this.head))?.permute((1, 2, 0, 3))?.contiguous()?.reshape((
                keys,
                each * count,
                this.head,
            ))?,
        };
        let scores: Vec<Tensor> =
            spans.iter().map(|((keys, _), _)| queries.matmul(&keys.t()?)).collect::<candle_core::Result<_>>()?;
        let mut scores = Tensor::cat(&scores, 2)?.to_dtype(DType::F32)?;
        if let Some(cap) = this.score_cap {
            scores = bent(&scores, cap)?;
        }
        if let Some((_, mask)) = pass.masks.iter().find(|(known, _)| *known == window) {
            let whole = scores.dims().to_vec();
            scores = scores.reshape((this.heads, count, whole[2]))?.broadcast_add(mask)?.reshape(whole)?;
        }
        let most = scores.max_keepdim(D::Minus1)?;
        let scores = scores.broadcast_sub(&most)?.exp()?;
        let shares = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?.to_dtype(self.dtype)?;
        let mut out: Option<Tensor> = None;
        let mut from = 0;
        for ((_, values), length) in &spans {
            let part = shares.narrow(2, from, *length)?.contiguous()?.matmul(values)?.to_dtype(DType::F32)?;
            out = Some(match out {
                Some(out) => (out + part)?,
                None => part,
            });
            from += length;
        }
        let Some(out) = out else { candle_core::bail!("a token that sees nothing") };
        match count {
            1 => out.reshape((1, this.heads * this.head)),
            _ => out
                .reshape((keys, each, count, this.head))?
                .permute((2, 0, 1, 3))?
                .contiguous()?
                .reshape((count, this.heads * this.head)),
        }
    }
}

/// Keeps values within a cap, smoothly.
fn bent(values: &Tensor, cap: f32) -> candle_core::Result<Tensor> {
    let cap = f64::from(cap);
    (values / cap)?.tanh()? * cap
}

/// Heads turned by their position: `[rows, heads, head]`.
fn turned(rotary: &Rotary, heads: &Tensor, cos: &Tensor, sin: &Tensor) -> candle_core::Result<Tensor> {
    let (rows, count, size) = heads.dims3()?;
    let pairs = rotary.frequencies.len();
    if pairs == 0 {
        return Ok(heads.clone());
    }
    let (first, second) = match rotary.neighbours {
        false => (heads.narrow(2, 0, pairs)?, heads.narrow(2, pairs, pairs)?),
        true => {
            let both = heads.narrow(2, 0, 2 * pairs)?.reshape((rows, count, pairs, 2))?;
            (both.narrow(3, 0, 1)?.squeeze(3)?, both.narrow(3, 1, 1)?.squeeze(3)?)
        }
    };
    let new_first = (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?;
    let new_second = (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?;
    let mut parts = match rotary.neighbours {
        false => vec![new_first, new_second],
        true => vec![Tensor::stack(&[new_first, new_second], 3)?.reshape((rows, count, 2 * pairs))?],
    };
    if 2 * pairs < size {
        parts.push(heads.narrow(2, 2 * pairs, size - 2 * pairs)?);
    }
    Tensor::cat(&parts, 2)
}

impl Forward for Decoder {
    type Cache = Cache;
    type Scratch = ();

    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn cache(&self) -> Cache {
        let Architecture { key_heads, head, .. } = self.architecture;
        Cache::new(self.architecture.layers.len(), Shape { heads: key_heads, head })
    }

    fn grain(&self) -> usize {
        GRAIN
    }

    fn bytes_per_token(&self) -> u64 {
        self.architecture.bytes_per_token(self.dtype.size_in_bytes())
    }

    fn room(&self) -> usize {
        memory::cached_on(&self.device, self.bytes_per_token())
    }

    fn by_rows(&self) -> bool {
        false
    }

    fn forward(&self, runs: &mut [Run<'_>], _: &mut (), _: bool) -> candle_core::Result<Vec<f32>> {
        let width = self.architecture.vocabulary;
        let mut answers: Vec<Vec<f32>> = Vec::new();
        answers.resize_with(runs.len(), Vec::new);
        let (mut nexts, mut pieces): (Vec<_>, Vec<_>) = runs
            .iter_mut()
            .enumerate()
            .partition(|(_, run)| run.prefix.is_some() && (run.tokens.len(), run.wanted) == (1, 1));
        for (at, piece) in &mut pieces {
            let rows = piece.tokens.len();
            answers[*at] = self.pass(&mut [piece], rows)?;
        }
        for block in nexts.chunks_mut(self.block) {
            let (order, mut runs): (Vec<usize>, Vec<&mut Run>) =
                block.iter_mut().map(|(at, run)| (*at, &mut **run)).unzip();
            let logits = self.pass(&mut runs, self.block)?;
            for (at, row) in order.into_iter().zip(logits.chunks_exact(width)) {
                answers[at] = row.to_vec();
            }
        }
        Ok(answers.concat())
    }
}
