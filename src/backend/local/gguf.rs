//! GGUF files: what they say of a model, and the tokenizer they hold. Quantized tensors are widened when they are loaded.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;

use super::config::{Architecture, Attention, Family, Rotary};
use super::vocabulary::Vocabulary;
use super::weights::caught;
use crate::diagnostic::{Error, Result, unreadable};
use farthing_kernels::Activation;

/// The kind of a token that was added and is text, in a file's `tokenizer.ggml.token_type`.
const ADDED: u64 = 4;

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
    let stretch = stretches(path, content, turned / 2)?;
    let frequency = |at: usize| {
        let plain = 1.0 / theta.powf(2.0 * at as f64 / turned as f64) / factor;
        (plain / stretch.as_ref().map_or(1.0, |stretch| f64::from(stretch[at]))) as f32
    };
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

/// What each frequency is divided by: Llama 3.1 and later keep their scaled positions as such a tensor.
fn stretches(path: &Path, content: &Content, count: usize) -> Result<Option<Vec<f32>>> {
    const NAME: &str = "rope_freqs.weight";
    if !content.tensor_infos.contains_key(NAME) {
        return Ok(None);
    }
    let mut file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let read = || content.tensor(&mut file, NAME, &Device::Cpu)?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1();
    let stretch: Vec<f32> =
        caught(read).map_err(|what| Error::usage(format!("{}: the tensor `{NAME}`: {what}", path.display())))?;
    if stretch.len() != count || !stretch.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
        let what = format!("{}: the tensor `{NAME}` must hold {count} numbers above 0", path.display());
        return Err(Error::usage(what));
    }
    Ok(Some(stretch))
}

/// The tokenizer in a file's header.
pub fn vocabulary(path: &Path, content: &Content, size: usize) -> Result<Vocabulary> {
    let name = path.display().to_string();
    let unusable = |what: String| {
        Error::usage(format!("the tokenizer in {name} cannot be used: {what}")).help(
            "byte-level BPE of GPT-2, Llama 3 and Qwen2 is read from GGUF; for any other, put the model's tokenizer.json \
             beside the file",
        )
    };
    let mut metadata = content.metadata.clone();
    // How texts are cut into words goes by names that llama.cpp gives; candle's reader knows some by others.
    let llama = match text(content, "tokenizer.ggml.pre") {
        None | Some("default" | "gpt2" | "gpt-2" | "qwen2" | "lfm2" | "smaug-bpe") => false,
        Some("llama3" | "llama-v3" | "llama-bpe") => true,
        Some(other) => return Err(unusable(format!("it cuts texts into words by `{other}`"))),
    };
    if llama {
        metadata.insert("tokenizer.ggml.pre".to_owned(), Value::String("llama3".to_owned()));
        for flag in ["ignore_merges", "add_bos_token"] {
            metadata.entry(format!("tokenizer.ggml.{flag}")).or_insert(Value::Bool(true));
        }
    }
    let header = Content { magic: content.magic, metadata, tensor_infos: HashMap::new(), tensor_data_offset: 0 };
    let tokenizer = caught(|| Tokenizer::from_gguf(&header)).map_err(unusable)?;
    let mut json = serde_json::to_value(&tokenizer).map_err(|error| unusable(error.to_string()))?;
    // candle's reader puts a blank before a text, which GPT-2's tokenizer does not, and hides tokens that a user added.
    if json["pre_tokenizer"]["type"] == "ByteLevel" {
        json["pre_tokenizer"]["add_prefix_space"] = false.into();
    }
    let kinds = match content.metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Array(kinds)) => kinds.iter().map(whole).collect(),
        _ => Vec::new(),
    };
    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        let kind = token["id"].as_u64().and_then(|id| *kinds.get(id as usize)?);
        if kind == Some(ADDED) {
            token["special"] = false.into();
        }
    }
    let tokenizer =
        caught(|| json.to_string().parse::<Tokenizer>().map_err(|error| candle_core::Error::Msg(error.to_string())));
    Vocabulary::new(&name, tokenizer.map_err(unusable)?, &json, size)
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

    use super::*;

    /// Bytes as tokens, one merge, the beginning, and a token that a user added.
    fn tokens(pre: Option<&str>) -> HashMap<String, Value> {
        let texts = ["B", "u", "Bu", "\u{120}", "1", "2", "<s>", "<think>"];
        let texts = texts.iter().map(|text| Value::String((*text).to_owned())).collect();
        let kinds = [1, 1, 1, 1, 1, 1, 3, 4].iter().map(|kind| Value::I32(*kind)).collect();
        let mut metadata = HashMap::from([
            ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
            ("tokenizer.ggml.tokens".to_owned(), Value::Array(texts)),
            ("tokenizer.ggml.token_type".to_owned(), Value::Array(kinds)),
            ("tokenizer.ggml.merges".to_owned(), Value::Array(vec![Value::String("B u".to_owned())])),
            ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(6)),
        ]);
        if let Some(pre) = pre {
            metadata.insert("tokenizer.ggml.pre".to_owned(), Value::String(pre.to_owned()));
        }
        metadata
    }

    fn read(pre: Option<&str>) -> Result<Vocabulary> {
        let content = Content {
            magic: gguf_file::VersionedMagic::GgufV3,
            metadata: tokens(pre),
            tensor_infos: HashMap::new(),
            tensor_data_offset: 0,
        };
        vocabulary(Path::new("m.gguf"), &content, 8)
    }

    #[test]
    fn texts_are_cut_as_the_file_says() {
        let gpt2 = read(None).unwrap();
        assert_eq!(gpt2.encode("Bu 12", true).unwrap()[..], [2, 3, 4, 5], "no blank before, no beginning");
        // Llama 3's files begin a text, whatever they do not say.
        let llama = read(Some("llama-bpe")).unwrap();
        assert_eq!(llama.encode("Bu 12", true).unwrap()[..], [6, 2, 3, 4, 5]);
        assert_eq!(llama.encode("Bu 12", false).unwrap()[..], [2, 3, 4, 5]);
        assert_eq!((llama.text(7), llama.text(6)), (&b"<think>"[..], &b""[..]), "what a user added is text");
        let error = read(Some("tekken")).map(|_| ()).unwrap_err();
        assert_eq!(error.message(), "the tokenizer in m.gguf cannot be used: it cuts texts into words by `tekken`");
    }

    #[test]
    fn frequencies_are_divided_by_the_files_own() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/local/gguf/f32.gguf");
        let plain = header(&from).unwrap();
        let frequencies =
            |path: &Path| architecture(path, &header(path).unwrap()).map(|of| of.rotaries[0].frequencies.clone());
        let before = frequencies(&from).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let written = |stretch: Vec<f32>| {
            let path = folder.path().join("m.gguf");
            let mut source = std::fs::File::open(&from).unwrap();
            let mut tensors: Vec<(String, QTensor)> = plain
                .tensor_infos
                .keys()
                .map(|name| (name.clone(), plain.tensor(&mut source, name, &Device::Cpu).unwrap()))
                .collect();
            let count = stretch.len();
            let stretch = Tensor::from_vec(stretch, count, &Device::Cpu).unwrap();
            tensors.push(("rope_freqs.weight".to_owned(), QTensor::quantize(&stretch, GgmlDType::F32).unwrap()));
            let metadata: Vec<(&str, &Value)> =
                plain.metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
            let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
            path
        };
        let stretched = frequencies(&written(vec![2.0; before.len()])).unwrap();
        assert!(
            before.iter().zip(&stretched).all(|(before, after)| (before / 2.0 - after).abs() < 1e-7),
            "{stretched:?}"
        );
        for bad in [vec![2.0; before.len() + 1], vec![0.0; before.len()]] {
            assert!(frequencies(&written(bad)).unwrap_err().message().contains("rope_freqs.weight"));
        }
    }
}
