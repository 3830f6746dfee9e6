//! What a model's `config.json` says, as one description that the decoder is built from.

use farthing_kernels::Activation;
use serde_json::{Map, Value};

use crate::data::json_problem;
use crate::diagnostic::{Error, Result, Source};

/// The kinds of `config.json` that are understood, by their `model_type`.
pub const KINDS: [&str; 10] =
    ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3"];

/// Whose names the tensors have, and which parts a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// GPT-2: layer norms, learned positions, weights stored the other way round.
    Gpt2,
    /// Llama, Mistral, Qwen: root-mean-square norms before attention and the gated inner layer.
    Llama,
    /// Gemma 2 and 3: norms before and after both.
    Gemma,
    /// Phi-1 and 2: attention and inner layer side by side, from one layer norm.
    Phi,
    /// Phi-3: as Llama, with fused weights.
    Phi3,
}

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// What a position is multiplied by, for each pair of elements.
    pub frequencies: Vec<f32>,
    /// Neighbours are pairs, in place of the two halves of a head.
    pub neighbours: bool,
}

/// One layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// So many of the last tokens are seen, the token itself among them.
    pub window: Option<usize>,
    /// Which of [`Architecture::rotaries`] it uses.
    pub rotary: Option<usize>,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// A causal language model.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The word in `config.json`.
    pub kind: String,
    /// Names and parts.
    pub family: Family,
    /// Elements of a token's state.
    pub hidden: usize,
    /// Elements of the inner layer.
    pub inner: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub key_heads: usize,
    /// Elements of a head.
    pub head: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Tokens of prompt and answer together.
    pub context: usize,
    /// Each layer's attention.
    pub layers: Vec<Attention>,
    /// The ways positions turn heads.
    pub rotaries: Vec<Rotary>,
    /// Positions are learned, and added to the embedding.
    pub learned_positions: bool,
    /// What norms add below the root.
    pub epsilon: f32,
    /// What is added to the norms' weights: 1 for Gemma.
    pub norm_offset: f32,
    /// The inner layer is gated.
    pub gated: bool,
    /// The inner layer's activation.
    pub activation: Activation,
    /// Queries and keys are normalized by the head.
    pub head_norms: bool,
    /// Queries, keys and values have biases.
    pub attention_bias: bool,
    /// So has attention's output.
    pub output_bias: bool,
    /// So has the inner layer.
    pub inner_bias: bool,
    /// Attention's scores stay within this.
    pub score_cap: Option<f32>,
    /// Logits stay within this.
    pub logit_cap: Option<f32>,
    /// What embeddings are multiplied by.
    pub embedding_scale: f32,
    /// The embedding serves as the last layer too.
    pub tied: bool,
    /// Tokens that end a text, by `config.json`.
    pub ends: Vec<u32>,
}

/// A file of JSON, with errors that say where in it.
pub struct Fields<'a> {
    source: &'a Source,
    fields: Map<String, Value>,
}

/// Parses a JSON object; an error points at line and column.
pub fn object(source: &Source) -> Result<Map<String, Value>> {
    serde_json::from_str(source.text()).map_err(|error| {
        let line = source.text().lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
        let before: usize =
            source.text().split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let at = before + error.column().saturating_sub(1).min(line.len());
        let what = json_problem(&error);
        Error::usage(format!("{} is no such JSON as models have: {what}", source.name())).at(source, at..at + 1, "here")
    })
}

impl<'a> Fields<'a> {
    /// Reads a file's object.
    pub fn read(source: &'a Source) -> Result<Fields<'a>> {
        Ok(Fields { source, fields: object(source)? })
    }

    fn wrong(&self, name: &str, message: String) -> Error {
        let at = self.source.text().find(&format!("\"{name}\"")).unwrap_or(0);
        Error::usage(message).at(self.source, at..at + name.len() + 2, "here")
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(name, format!("`{name}` must be a number, but it is {value}"))),
            },
        }
    }

    fn whole(&self, name: &str) -> Result<Option<usize>> {
        // Nothing that fits a machine has more of anything.
        const MOST: u64 = 1 << 32;
        match self.value(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|number| (1..MOST).contains(number)) {
                Some(number) => Ok(Some(number as usize)),
                None => Err(self.wrong(name, format!("`{name}` must be a whole number above 0, but it is {value}"))),
            },
        }
    }

    fn needed(&self, name: &str) -> Result<usize> {
        let missing = || self.wrong(name, format!("{} lacks `{name}`", self.source.name()));
        self.whole(name)?.ok_or_else(missing)
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.value(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.wrong(name, format!("`{name}` must be true or false, but it is {value}"))),
        }
    }

    fn word(&self, name: &str) -> Option<&str> {
        self.value(name)?.as_str()
    }

    /// One token or a list of them.
    pub fn tokens(&self, name: &str) -> Vec<u32> {
        let one = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        match self.value(name) {
            Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
            Some(value) => one(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn activation(&self, names: [&str; 2], default: &str) -> Result<Activation> {
        let name = names.into_iter().find(|name| self.value(name).is_some()).unwrap_or(names[0]);
        match self.word(name).unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::Gelu),
            "relu" => Ok(Activation::Relu),
            other => Err(self
                .wrong(name, format!("the activation `{other}` is not known here"))
                .help("silu, gelu, gelu_new, gelu_pytorch_tanh and relu are")),
        }
    }
}

/// Reads a `config.json`.
pub fn read(source: &Source) -> Result<Architecture> {
    let fields = Fields::read(source)?;
    let Some(kind) = fields.word("model_type") else {
        return Err(fields
            .wrong("model_type", format!("{} does not say its `model_type`", source.name()))
            .help(known()));
    };
    let kind = kind.to_owned();
    if !KINDS.contains(&kind.as_str()) {
        let message = format!("models of the kind `{kind}` are not known here");
        return Err(fields.wrong("model_type", message).help(known()));
    }
    let architecture = match kind.as_str() {
        "gpt2" => gpt2(&fields, kind)?,
        _ => modern(&fields, kind)?,
    };
    architecture.check(&fields)?;
    Ok(architecture)
}

fn known() -> String {
    format!("those that are: {}", KINDS.join(", "))
}

fn gpt2(fields: &Fields, kind: String) -> Result<Architecture> {
    let hidden = fields.needed("n_embd")?;
    let heads = fields.needed("n_head")?;
    let head = hidden / heads.max(1);
    let scaled = fields.flag("scale_attn_weights", true)?;
    let by_layer = fields.flag("scale_attn_by_inverse_layer_idx", false)?;
    let scale = |layer: usize| {
        let scale = if scaled { 1.0 / (head as f32).sqrt() } else { 1.0 };
        if by_layer { scale / (layer as f32 + 1.0) } else { scale }
    };
    let layer = |at| Attention { window: None, rotary: None, scale: scale(at) };
    Ok(Architecture {
        kind,
        family: Family::Gpt2,
        hidden,
        inner: fields.whole("n_inner")?.unwrap_or(4 * hidden),
        heads,
        key_heads: heads,
        head,
        vocabulary: fields.needed("vocab_size")?,
        context: fields.whole("n_positions")?.map_or_else(|| fields.needed("n_ctx"), Ok)?,
        layers: (0..fields.needed("n_layer")?).map(layer).collect(),
        rotaries: Vec::new(),
        learned_positions: true,
        epsilon: fields.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        norm_offset: 0.0,
        gated: false,
        activation: fields.activation(["activation_function", "hidden_act"], "gelu_new")?,
        head_norms: false,
        attention_bias: true,
        output_bias: true,
        inner_bias: true,
        score_cap: None,
        logit_cap: None,
        embedding_scale: 1.0,
        tied: fields.flag("tie_word_embeddings", true)?,
        ends: fields.tokens("eos_token_id"),
    })
}

fn modern(fields: &Fields, kind: String) -> Result<Architecture> {
    let is = |kinds: &[&str]| kinds.contains(&kind.as_str());
    let gemma = is(&["gemma", "gemma2", "gemma3_text"]);
    let hidden = fields.needed("hidden_size")?;
    let heads = fields.needed("num_attention_heads")?;
    let own_head = match kind.as_str() {
        "gemma" | "gemma2" | "gemma3_text" => Some(256),
        "qwen3" => Some(128),
        _ => None,
    };
    let head = fields.whole("head_dim")?.or(own_head).unwrap_or(hidden / heads.max(1));
    let count = fields.needed("num_hidden_layers")?;
    let scale = match fields.number("query_pre_attn_scalar")?.filter(|_| gemma) {
        Some(scalar) => (1.0 / scalar.sqrt()) as f32,
        None => 1.0 / (head as f32).sqrt(),
    };
    let windows = windows(fields, &kind, count)?;
    let (rotaries, local) = rotaries(fields, &kind, head)?;
    let layer = |window: Option<usize>| {
        let rotary = if window.is_some() { local } else { 0 };
        Attention { window, rotary: Some(rotary), scale }
    };
    let phi = kind == "phi";
    if phi && fields.flag("qk_layernorm", false)? {
        return Err(fields.wrong("qk_layernorm", "`qk_layernorm` of phi is not known here".to_owned()));
    }
    let qkv_bias = match kind.as_str() {
        "qwen2" | "phi" => true,
        _ => fields.flag("attention_bias", false)?,
    };
    let gemma_kept = |name: &str, default: f64| match fields.value(name) {
        // Gemma 2 caps by default; `null` is a way to say that it does not.
        None if kind == "gemma2" && !fields.fields.contains_key(name) => Ok(Some(default as f32)),
        _ => Ok::<_, Error>(fields.number(name)?.map(|cap| cap as f32)),
    };
    let (score_cap, logit_cap) = match kind.as_str() {
        "gemma2" | "gemma3_text" => {
            (gemma_kept("attn_logit_softcapping", 50.0)?, gemma_kept("final_logit_softcapping", 30.0)?)
        }
        _ => (None, None),
    };
    let epsilon = if phi {
        fields.number("layer_norm_eps")?.unwrap_or(1e-5)
    } else {
        fields.number("rms_norm_eps")?.unwrap_or(1e-6)
    };
    Ok(Architecture {
        family: match kind.as_str() {
            "gemma2" | "gemma3_text" => Family::Gemma,
            "phi" => Family::Phi,
            "phi3" => Family::Phi3,
            _ => Family::Llama,
        },
        hidden,
        inner: fields.needed("intermediate_size")?,
        heads,
        key_heads: fields.whole("num_key_value_heads")?.unwrap_or(heads),
        head,
        vocabulary: fields.needed("vocab_size")?,
        context: fields.needed("max_position_embeddings")?,
        layers: windows.into_iter().map(layer).collect(),
        rotaries,
        learned_positions: false,
        epsilon: epsilon as f32,
        norm_offset: if gemma { 1.0 } else { 0.0 },
        gated: !phi,
        activation: match kind.as_str() {
            "phi" => fields.activation(["hidden_act", "hidden_activation"], "gelu_new")?,
            // Gemma's first files say `gelu` in `hidden_act` and mean the approximation.
            _ if gemma => match fields.word("hidden_activation") {
                Some(_) => fields.activation(["hidden_activation", "hidden_act"], "gelu_pytorch_tanh")?,
                None => Activation::GeluTanh,
            },
            _ => fields.activation(["hidden_act", "hidden_activation"], "silu")?,
        },
        head_norms: is(&["qwen3", "gemma3_text"]),
        attention_bias: qkv_bias,
        output_bias: phi
            || (is(&["llama", "qwen3", "gemma", "gemma2", "gemma3_text"]) && fields.flag("attention_bias", false)?),
        inner_bias: phi || (kind == "llama" && fields.flag("mlp_bias", false)?),
        score_cap,
        logit_cap,
        embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        tied: fields.flag("tie_word_embeddings", gemma)?,
        ends: fields.tokens("eos_token_id"),
        kind,
    })
}

/// The sliding window of each layer.
fn windows(fields: &Fields, kind: &str, count: usize) -> Result<Vec<Option<usize>>> {
    let default = match kind {
        "gemma2" | "gemma3_text" => Some(4096),
        _ => None,
    };
    let window = fields.whole("sliding_window")?.or(default);
    let on = match kind {
        "qwen2" | "qwen3" => fields.flag("use_sliding_window", false)?,
        "mistral" | "gemma2" | "gemma3_text" | "phi3" => true,
        _ => false,
    };
    let Some(window) = window.filter(|_| on) else { return Ok(vec![None; count]) };
    if let Some(types) = fields.value("layer_types").and_then(Value::as_array) {
        let slides: Vec<Option<usize>> =
            types.iter().map(|word| (word == "sliding_attention").then_some(window)).collect();
        return match slides.len() == count {
            true => Ok(slides),
            false => {
                Err(fields.wrong("layer_types", format!("`layer_types` names {} layers of {count}", slides.len())))
            }
        };
    }
    let pattern = fields.whole("sliding_window_pattern")?.unwrap_or(6);
    let first_full = fields.whole("max_window_layers")?.unwrap_or(count);
    Ok((0..count)
        .map(|layer| {
            let slides = match kind {
                "gemma2" => layer % 2 == 0,
                "gemma3_text" => (layer + 1) % pattern != 0,
                "qwen2" | "qwen3" => layer >= first_full,
                _ => true,
            };
            slides.then_some(window)
        })
        .collect())
}

/// The ways positions turn heads, and which of them layers with a window use.
fn rotaries(fields: &Fields, kind: &str, head: usize) -> Result<(Vec<Rotary>, usize)> {
    let old_theta = fields.number("rope_theta")?.unwrap_or(if kind == "gemma3_text" { 1e6 } else { 10_000.0 });
    let share = fields.number("partial_rotary_factor")?.unwrap_or(if kind == "phi" { 0.5 } else { 1.0 });
    let of = |settings: Option<&Value>, theta: f64| -> Result<Rotary> {
        let said = |name: &str| settings.and_then(|settings| settings.get(name)).and_then(Value::as_f64);
        let theta = said("rope_theta").unwrap_or(theta);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(fields.wrong("rope_theta", format!("`rope_theta` must be above 0, not {theta}")));
        }
        let share = said("partial_rotary_factor").unwrap_or(share);
        let turned = ((head as f64 * share) as usize / 2 * 2).min(head);
        let plain: Vec<f64> = (0..turned / 2).map(|at| 1.0 / theta.powf(2.0 * at as f64 / turned as f64)).collect();
        let word = |name: &str| settings.and_then(|settings| settings.get(name)).and_then(Value::as_str);
        let needed = |name: &str| {
            let key = if fields.value("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
            said(name)
                .filter(|number| *number > 0.0)
                .ok_or_else(|| fields.wrong(key, format!("`{key}` needs a `{name}` above 0")))
        };
        let frequencies = match word("rope_type").or(word("type")).unwrap_or("default") {
            "default" => plain,
            "linear" => {
                let factor = needed("factor")?;
                plain.into_iter().map(|frequency| frequency / factor).collect()
            }
            "llama3" => {
                let (factor, low, high) = (needed("factor")?, needed("low_freq_factor")?, needed("high_freq_factor")?);
                let before = needed("original_max_position_embeddings")?;
                let scaled = |frequency: f64| {
                    let length = std::f64::consts::TAU / frequency;
                    if length < before / high {
                        frequency
                    } else if length > before / low {
                        frequency / factor
                    } else {
                        let smooth = (before / length - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                plain.into_iter().map(scaled).collect()
            }
            other => {
                let key = if fields.value("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
                return Err(fields
                    .wrong(key, format!("positions scaled by `{other}` are not known here"))
                    .help("default, linear and llama3 are"));
            }
        };
        Ok(Rotary {
            frequencies: frequencies.into_iter().map(|frequency| frequency as f32).collect(),
            neighbours: false,
        })
    };
    let parameters = fields.value("rope_parameters");
    let scaling = parameters.or(fields.value("rope_scaling"));
    if kind != "gemma3_text" {
        return Ok((vec![of(scaling, old_theta)?], 0));
    }
    // Gemma 3 turns heads otherwise where it sees only a window.
    let by_kind = |name: &str| parameters.and_then(|parameters| parameters.get(name));
    let local_theta = fields.number("rope_local_base_freq")?.unwrap_or(10_000.0);
    let full = by_kind("full_attention").or(scaling.filter(|_| by_kind("sliding_attention").is_none()));
    Ok((vec![of(full, old_theta)?, of(by_kind("sliding_attention"), local_theta)?], 1))
}

impl Architecture {
    /// Elements of a token's keys, and of its values, in one layer.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.head
    }

    /// Weights, about: what they are multiplied by to make a guess at memory.
    pub fn weights(&self) -> u64 {
        let (hidden, inner) = (self.hidden as u64, self.inner as u64);
        let attention = hidden * (2 * self.heads * self.head + 2 * self.key_width()) as u64;
        let block = attention + hidden * inner * if self.gated { 3 } else { 2 };
        let embeddings = self.vocabulary as u64 * hidden * if self.tied { 1 } else { 2 };
        self.layers.len() as u64 * block + embeddings
    }

    /// Bytes that one token's keys and values take, at so many each.
    pub fn bytes_per_token(&self, each: usize) -> u64 {
        (self.layers.len() * 2 * self.key_width() * each) as u64
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let wrong = |name: &str, message: String| Err(fields.wrong(name, message));
        if !self.heads.is_multiple_of(self.key_heads) {
            let message = format!("{} heads cannot share {} heads of keys", self.heads, self.key_heads);
            return wrong("num_key_value_heads", message);
        }
        if self.head == 0 {
            return wrong("hidden_size", format!("{} elements are too few for {} heads", self.hidden, self.heads));
        }
        let most = [self.hidden, self.inner, self.heads * self.head, self.vocabulary, self.layers.len()];
        if most.iter().any(|size| *size > 1 << 24) || self.layers.len() > 10_000 {
            return wrong("hidden_size", "no model is so large".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Architecture> {
        read(&Source::new("config.json", text))
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let problem = |text: &str| {
            let error = read_text(text).unwrap_err();
            format!("{} | {error} | {}", error.location().unwrap_or_default(), error.advice().unwrap_or_default())
        };
        insta::assert_snapshot!(problem("{\n  \"model_type\": \"mamba\"}"), @"config.json:2:3 | models of the kind `mamba` are not known here | those that are: gpt2, llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, phi, phi3");
        assert!(
            problem("{\n\"a\": 1,\n oops}").starts_with("config.json:3:2 | config.json is no such JSON"),
            "{}",
            problem("{\n\"a\": 1,\n oops}")
        );
        assert!(problem("{\"model_type\": \"llama\"}").contains("lacks `hidden_size`"));
        let llama = r#"{"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 3,
            "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 64, "max_position_embeddings": 128}"#;
        assert!(problem(llama).contains("4 heads cannot share 3 heads of keys"));
        assert!(problem(&llama.replace("\"vocab_size\": 64", "\"vocab_size\": -1")).contains("`vocab_size` must be"));
        let yarn = llama.replace(": 3,", ": 2, \"rope_scaling\": {\"type\": \"yarn\"},");
        assert!(problem(&yarn).contains("scaled by `yarn`"));
    }

    #[test]
    fn frequencies_are_scaled() {
        let llama = r#"{"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 64, "max_position_embeddings": 128,
            "rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 100}"#;
        let read = read_text(llama).unwrap();
        assert_eq!(read.rotaries[0].frequencies, [0.25, 0.025]);
        assert_eq!((read.head, read.key_width(), read.bytes_per_token(4)), (4, 8, 128));
    }
}
