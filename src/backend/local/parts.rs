//! A model's parts, read by the names that its family has for them; what they are kept in is up to who computes with them.

use candle_core::Tensor;

use super::config::{Architecture, Family};
use super::weights::Weights;
use crate::diagnostic::{Error, Result};

/// Makes parts of tensors that were read: 32-bit floats in this machine's own memory.
pub trait Make {
    /// A matrix that rows are multiplied by.
    type Matrix;
    /// What normalizes rows.
    type Norm;
    /// Rows to be looked up.
    type Table;

    /// From weights by output and input element, as most files have them.
    fn matrix(&self, weight: &Tensor, bias: Option<Vec<f32>>) -> candle_core::Result<Self::Matrix>;

    /// From weights by input and output element, as GPT-2's are.
    fn transposed(&self, weight: &Tensor, bias: Option<Vec<f32>>) -> candle_core::Result<Self::Matrix>;

    /// A layer norm has a bias; a root-mean-square norm has none.
    fn norm(&self, weight: Vec<f32>, bias: Option<Vec<f32>>) -> candle_core::Result<Self::Norm>;

    /// From rows.
    fn table(&self, rows: &Tensor) -> candle_core::Result<Self::Table>;

    /// What to say when one of these fails.
    fn failed(&self, error: candle_core::Error) -> Error;
}

/// One block.
pub struct Layer<M: Make> {
    /// The norm that attention starts from.
    pub before_attention: M::Norm,
    /// Queries, keys and values side by side.
    pub queries_keys_values: M::Matrix,
    /// Of queries and keys, by the head.
    pub head_norms: Option<(M::Norm, M::Norm)>,
    /// Attention's output.
    pub output: M::Matrix,
    /// Gemma's, on that output.
    pub after_attention: Option<M::Norm>,
    /// Phi has none: both parts start from the same norm.
    pub before_inner: Option<M::Norm>,
    /// Into the inner layer; where that is gated, the gate comes first.
    pub up: M::Matrix,
    /// Out of it.
    pub down: M::Matrix,
    /// Gemma's, on what comes out.
    pub after_inner: Option<M::Norm>,
}

/// A whole model.
pub struct Parts<M: Make> {
    /// Where embeddings come from; `None` where it is the last layer.
    pub embedding: Option<M::Matrix>,
    /// Learned positions.
    pub positions: Option<M::Table>,
    /// The blocks.
    pub layers: Vec<Layer<M>>,
    /// The last norm.
    pub norm: M::Norm,
    /// The last layer.
    pub head: M::Matrix,
}

/// Reads a model's parts, with names as its family has them.
struct Loader<'a, M> {
    weights: &'a mut Weights,
    architecture: &'a Architecture,
    make: &'a M,
    prefix: &'static str,
}

impl<M: Make> Loader<'_, M> {
    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>> {
        let name = format!("{}{name}", self.prefix);
        self.weights.tensor(&name, &[length])?.to_vec1().map_err(|error| self.make.failed(error))
    }

    fn norm(&mut self, name: &str, length: usize, layer_norm: bool) -> Result<M::Norm> {
        let weight = self.vector(&format!("{name}.weight"), length)?;
        let bias = if layer_norm { Some(self.vector(&format!("{name}.bias"), length)?) } else { None };
        self.make.norm(weight, bias).map_err(|error| self.make.failed(error))
    }

    /// Several matrices as one that gives all their outputs side by side.
    fn fused(&mut self, parts: &[(String, usize)], inputs: usize, bias: bool) -> Result<M::Matrix> {
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
            1 => Ok(matrices.remove(0)),
            _ => Tensor::cat(&matrices, 0),
        };
        let made = whole.and_then(|whole| self.make.matrix(&whole, bias.then_some(biases)));
        made.map_err(|error| self.make.failed(error))
    }

    /// A matrix that is stored by input and output, as GPT-2's are.
    fn stored_transposed(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<M::Matrix> {
        let full = format!("{}{name}.weight", self.prefix);
        let weight = self.weights.tensor(&full, &[inputs, outputs])?;
        let bias = self.vector(&format!("{name}.bias"), outputs)?;
        self.make.transposed(&weight, Some(bias)).map_err(|error| self.make.failed(error))
    }

    fn gpt2_layer(&mut self, at: usize) -> Result<Layer<M>> {
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

    fn layer(&mut self, at: usize) -> Result<Layer<M>> {
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

impl<M: Make> Parts<M> {
    /// Reads a model's weights.
    pub fn load(this: &Architecture, weights: &mut Weights, make: &M) -> Result<Parts<M>> {
        let failed = |error| make.failed(error);
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
        let bias = match weights.has("lm_head.bias") {
            true => Some(weights.tensor("lm_head.bias", &[vocabulary])?.to_vec1().map_err(failed)?),
            false => None,
        };
        // A file may hold a last layer although its configuration says that the embedding serves as one: then it is that.
        let (embedding, head) = match this.tied {
            true => (None, make.matrix(&table, bias).map_err(failed)?),
            false => {
                let embedding = make.matrix(&table, None).map_err(failed)?;
                let weight = weights.tensor("lm_head.weight", &[vocabulary, hidden])?;
                (Some(embedding), make.matrix(&weight, bias).map_err(failed)?)
            }
        };
        drop(table);
        let positions = match this.learned_positions {
            true => {
                let table = weights.tensor(&format!("{prefix}wpe.weight"), &[this.context, hidden])?;
                Some(make.table(&table).map_err(failed)?)
            }
            false => None,
        };
        let mut loader = Loader { weights, architecture: this, make, prefix };
        let layers = (0..this.layers.len())
            .map(|at| if gpt2 { loader.gpt2_layer(at) } else { loader.layer(at) })
            .collect::<Result<_>>()?;
        let last = match this.family {
            Family::Gpt2 => "ln_f",
            Family::Phi => "final_layernorm",
            _ => "norm",
        };
        let norm = loader.norm(last, hidden, gpt2 || this.family == Family::Phi)?;
        Ok(Parts { embedding, positions, layers, norm, head })
    }
}
