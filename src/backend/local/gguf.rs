//! GGUF files: what they say of a model, and the tokenizer they hold. Quantized tensors are widened when they are loaded.

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;

use super::config::{Architecture, Attention, Family, Rotary};
use super::vocabulary::Vocabulary;
use super::weights::caught;
use crate::diagnostic::{Error, Result, unreadable};
use farthing_kernels::Activation;

/// The architectures that are read from GGUF.
const KINDS: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// A file's header.
pub fn header(path: &Path) -> Result<Content> {
    let mut file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    caught(|| Content::read(&mut file))
        .map_err(|what| Error::usage(format!("{} is no whole GGUF file: {what}", path.display())))
}

struct Keys<'a> {
    path: &'a Path,
    content: &'a Content,
    kind: String,
}

impl Keys<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.content.metadata.get(&format!("{}.{name}", self.kind))
    }

    fn whole(&self, name: &str) -> Option<usize> {
        let number = whole(self.value(name)?)?;
        (1..1 << 32).contains(&number).then_some(number as usize)
    }

    fn needed(&self, name: &str) -> Result<usize> {
        let missing = || Error::usage(format!("{} lacks `{}.{name}`", self.path.display(), self.kind));
        self.whole(name).ok_or_else(missing)
    }

    fn number(&self, name: &str) -> Option<f64> {
        match self.value(name)? {
            Value::F32(number) => Some(f64::from(*number)),
            Value::F64(number) => Some(*number),
            other => whole(other).map(|number| number as f64),
        }
    }
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::U8(number) => Some(u64::from(*number)),
        Value::U16(number) => Some(u64::from(*number)),
        Value::U32(number) => Some(u64::from(*number)),
        Value::U64(number) => Some(*number),
        Value::I8(number) => u64::try_from(*number).ok(),
        Value::I16(number) => u64::try_from(*number).ok(),
        Value::I32(number) => u64::try_from(*number).ok(),
        Value::I64(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// A whole number of a file's header.
pub fn number(content: &Content, name: &str) -> Option<u32> {
    whole(content.metadata.get(name)?).and_then(|number| u32::try_from(number).ok())
}

/// A text of a file's header.
pub fn text<'a>(content: &'a Content, name: &str) -> Option<&'a str> {
    match content.metadata.get(name)? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// What a file says of its model.
pub fn architecture(path: &Path, content: &Content) -> Result<Architecture> {
    let kind = text(content, "general.architecture").unwrap_or_default().to_owned();
    if !KINDS.contains(&kind.as_str()) {
        return Err(Error::usage(format!("{} holds a model of the kind `{kind}`", path.display()))
            .help(format!("GGUF files of these kinds are read: {}", KINDS.join(", "))));
    }
    let keys = Keys { path, content, kind: kind.clone() };
    let (hidden, heads) = (keys.needed("embedding_length")?, keys.needed("attention.head_count")?);
    let head = keys.whole("attention.key_length").unwrap_or(hidden / heads);
    let table = content.tensor_infos.get("token_embd.weight").map(|info| info.shape.dims().to_vec());
    let Some([vocabulary, _]) = table.as_deref() else {
        return Err(Error::usage(format!("{} has no tensor `token_embd.weight`", path.display())));
    };
    if let Some(scaling) =
        text(content, &format!("{kind}.rope.scaling.type")).filter(|word| *word != "none" && *word != "linear")
    {
        return Err(Error::usage(format!(
            "{}: positions scaled by `{scaling}` are not known here in GGUF",
            path.display()
        )));
    }
    let theta = keys.number("rope.freq_base").unwrap_or(10_000.0);
    let factor = keys.number("rope.scaling.factor").filter(|factor| *factor > 0.0).unwrap_or(1.0);
    let turned = keys.whole("rope.dimension_count").unwrap_or(head).min(head) / 2 * 2;
    let frequency = |at: usize| (1.0 / theta.powf(2.0 * at as f64 / turned as f64) / factor) as f32;
    let key_heads = keys.whole("attention.head_count_kv").unwrap_or(heads);
    if heads % key_heads != 0 || head == 0 || hidden > 1 << 24 || heads > 1 << 16 {
        return Err(Error::usage(format!("{}: {heads} heads, {key_heads} of keys, make no model", path.display())));
    }
    let layer = Attention { window: None, rotary: Some(0), scale: 1.0 / (head as f32).sqrt() };
    let count = keys.needed("block_count")?;
    if count > 10_000 {
        return Err(Error::usage(format!("{}: no model has {count} blocks", path.display())));
    }
    Ok(Architecture {
        family: Family::Llama,
        hidden,
        inner: keys.needed("feed_forward_length")?,
        heads,
        key_heads,
        head,
        vocabulary: *vocabulary,
        context: keys.needed("context_length")?,
        layers: vec![layer; count],
        // Llama's heads are stored so that neighbours are pairs.
        rotaries: vec![Rotary { frequencies: (0..turned / 2).map(frequency).collect(), neighbours: kind == "llama" }],
        learned_positions: false,
        epsilon: keys.number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5) as f32,
        norm_offset: 0.0,
        gated: true,
        activation: Activation::Silu,
        head_norms: kind == "qwen3",
        attention_bias: content.tensor_infos.contains_key("blk.0.attn_q.bias"),
        output_bias: false,
        inner_bias: false,
        score_cap: None,
        logit_cap: None,
        embedding_scale: 1.0,
        tied: !content.tensor_infos.contains_key("output.weight"),
        ends: Vec::new(),
        kind,
    })
}

/// The tokenizer in a file's header.
pub fn vocabulary(path: &Path, content: &Content, size: usize) -> Result<Vocabulary> {
    let name = path.display().to_string();
    let tokenizer = caught(|| Tokenizer::from_gguf(content)).map_err(|what| {
        Error::usage(format!("the tokenizer in {name} cannot be used: {what}"))
            .help("byte-level BPE is read from GGUF; for any other, put the model's tokenizer.json beside the file")
    })?;
    let json = serde_json::to_value(&tokenizer).unwrap_or_default();
    Vocabulary::new(&name, tokenizer, &json, size)
}
