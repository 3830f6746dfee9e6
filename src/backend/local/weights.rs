//! Tensors by name: from safetensors files (one, or several with an index), or from a GGUF file, widened to 32-bit floats.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::backend::local::config;
use crate::diagnostic::{Error, Result, Source, unreadable};

/// What tensors are read from.
trait Bytes: Read + Seek + Send {}
impl<T: Read + Seek + Send> Bytes for T {}

/// The tensors of a model.
pub struct Weights {
    name: String,
    files: Vec<(String, Box<dyn Bytes>)>,
    places: BTreeMap<String, Place>,
    gguf: Option<gguf_file::Content>,
}

/// Where a tensor lies.
struct Place {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    from: u64,
    length: usize,
}

/// Names in a GGUF file, for a name in Hugging Face's form.
fn gguf_name(name: &str) -> String {
    let Some(rest) = name.strip_prefix("model.layers.") else {
        return match name {
            "model.embed_tokens.weight" => "token_embd.weight",
            "model.norm.weight" => "output_norm.weight",
            "lm_head.weight" => "output.weight",
            other => other,
        }
        .to_owned();
    };
    let (layer, part) = rest.split_once('.').unwrap_or((rest, ""));
    let (part, end) = part.rsplit_once('.').unwrap_or((part, ""));
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => other,
    };
    format!("blk.{layer}.{part}.{end}")
}

impl Weights {
    /// The safetensors of a folder: `model.safetensors`, or the files of `model.safetensors.index.json`.
    pub fn folder(folder: &Path) -> Result<Weights> {
        let mut weights = Weights::empty(folder.display().to_string());
        for path in files(folder)? {
            let file = std::fs::File::open(&path).map_err(|error| unreadable(&path, &error))?;
            weights.add(path.display().to_string(), Box::new(file))?;
        }
        Ok(weights)
    }

    /// Safetensors in memory.
    pub fn memory(name: &str, bytes: &'static [u8]) -> Result<Weights> {
        let mut weights = Weights::empty(name.to_owned());
        weights.add(name.to_owned(), Box::new(Cursor::new(bytes)))?;
        Ok(weights)
    }

    /// The tensors of a GGUF file.
    pub fn gguf(path: &Path, content: gguf_file::Content) -> Result<Weights> {
        let file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
        let mut weights = Weights::empty(path.display().to_string());
        weights.files.push((path.display().to_string(), Box::new(file)));
        weights.gguf = Some(content);
        Ok(weights)
    }

    fn empty(name: String) -> Weights {
        Weights { name, files: Vec::new(), places: BTreeMap::new(), gguf: None }
    }

    /// Reads a safetensors file's header.
    fn add(&mut self, name: String, mut bytes: Box<dyn Bytes>) -> Result<()> {
        let broken = |what: String| Error::usage(format!("{name} is no whole safetensors file: {what}"));
        let io = |error: std::io::Error| Error::usage(format!("cannot read {name}: {error}"));
        let length = bytes.seek(SeekFrom::End(0)).map_err(io)?;
        bytes.rewind().map_err(io)?;
        let mut prefix = [0; 8];
        bytes.read_exact(&mut prefix).map_err(|_| broken(format!("it has {length} bytes")))?;
        let header = u64::from_le_bytes(prefix);
        if header > length.saturating_sub(8) || header > 100_000_000 {
            return Err(broken(format!("it announces a header of {header} bytes and has {length} in all")));
        }
        let mut text = vec![0; header as usize];
        bytes.read_exact(&mut text).map_err(io)?;
        let text = String::from_utf8(text).map_err(|_| broken("its header is no text".to_owned()))?;
        let entries = config::object(&Source::new(format!("the header of {name}"), text))?;
        let data = length - 8 - header;
        for (tensor, entry) in entries.iter().filter(|(tensor, _)| *tensor != "__metadata__") {
            let bad = || broken(format!("its header says nothing sensible of `{tensor}`: {entry}"));
            let numbers = |value: &Value| -> Option<Vec<u64>> { value.as_array()?.iter().map(Value::as_u64).collect() };
            let shape = numbers(&entry["shape"]).ok_or_else(bad)?;
            let offsets = numbers(&entry["data_offsets"]).filter(|offsets| offsets.len() == 2).ok_or_else(bad)?;
            let (from, to) = (offsets[0], offsets[1]);
            let dtype = match entry["dtype"].as_str().ok_or_else(bad)? {
                "F32" => DType::F32,
                "F16" => DType::F16,
                "BF16" => DType::BF16,
                "F64" => DType::F64,
                // Masks and position numbers that some files hold are never asked for.
                _ => DType::U8,
            };
            let elements = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size)).ok_or_else(bad)?;
            if to < from
                || (dtype != DType::U8 && elements.checked_mul(dtype.size_in_bytes() as u64) != Some(to - from))
            {
                return Err(bad());
            }
            if to > data {
                return Err(broken(format!("`{tensor}` ends at byte {to} of the data, of which there are {data}")));
            }
            let place = Place {
                file: self.files.len(),
                dtype,
                shape: shape.iter().map(|size| *size as usize).collect(),
                from: 8 + header + from,
                length: (to - from) as usize,
            };
            self.places.insert(tensor.clone(), place);
        }
        self.files.push((name, bytes));
        Ok(())
    }

    /// True where there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        match &self.gguf {
            Some(content) => content.tensor_infos.contains_key(&gguf_name(name)),
            None => self.places.contains_key(name),
        }
    }

    /// The shape of a tensor, where there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.gguf {
            Some(content) => Some(content.tensor_infos.get(&gguf_name(name))?.shape.dims().to_vec()),
            None => Some(self.places.get(name)?.shape.clone()),
        }
    }

    /// A tensor of 32-bit floats; it must have this shape.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let Some(found) = self.shape(name) else {
            let mut near: Vec<String> = match &self.gguf {
                Some(content) => content.tensor_infos.keys().cloned().collect(),
                None => self.places.keys().cloned().collect(),
            };
            near.sort();
            return Err(Error::usage(format!("{} has no tensor `{name}`", self.name))
                .help(crate::diagnostic::suggestion(name, near.iter().map(String::as_str))));
        };
        if found != shape {
            return Err(Error::usage(format!(
                "the tensor `{name}` of {} should be {shape:?} by its configuration, and it is {found:?}",
                self.name
            ))
            .help("the weights and the configuration are not of one model"));
        }
        let failed = |what: String| Error::usage(format!("the tensor `{name}` of {}: {what}", self.name));
        if let Some(content) = &self.gguf {
            let Some((_, file)) = self.files.first_mut() else { return Err(failed("no file".to_owned())) };
            let read = || content.tensor(file, &gguf_name(name), &Device::Cpu)?.dequantize(&Device::Cpu);
            return caught(read).map_err(failed);
        }
        let Some(place) = self.places.get(name) else { return Err(failed("nowhere".to_owned())) };
        if place.dtype == DType::U8 {
            return Err(failed("it is of a type that is not known here".to_owned()).help("F32, F16, BF16 and F64 are"));
        }
        let (_, file) = &mut self.files[place.file];
        let mut bytes = vec![0; place.length];
        file.seek(SeekFrom::Start(place.from))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| failed(error.to_string()))?;
        Tensor::from_raw_buffer(&bytes, place.dtype, &place.shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(|error| failed(error.to_string()))
    }
}

/// What candle panics on in a hostile file is an error like any other.
pub fn caught<T>(read: impl FnOnce() -> candle_core::Result<T>) -> std::result::Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
        Err(_) => Err("it is broken".to_owned()),
    }
}

/// The files that hold a folder's weights.
pub fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let (one, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
    if one.is_file() {
        return Ok(vec![one]);
    }
    if !index.is_file() {
        let other = ["pytorch_model.bin", "model.pt", "tf_model.h5"].iter().find(|name| folder.join(name).is_file());
        return Err(Error::usage(format!("{} has no model.safetensors", folder.display())).help(match other {
            Some(name) => format!("`{name}` is not read here: save the model with safe_serialization=True"),
            None => "a model's folder has config.json, tokenizer.json and model.safetensors".to_owned(),
        }));
    }
    shards(&index)?
        .into_iter()
        .map(|name| match folder.join(&name) {
            path if path.is_file() => Ok(path),
            _ => Err(lost(&index, &name)),
        })
        .collect()
}

fn lost(index: &Path, name: &str) -> Error {
    Error::usage(format!("{} names `{name}`, which is not there", index.display()))
}

/// The files that an index names.
pub fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let source = Source::read(index)?;
    let fields = config::object(&source)?;
    let names = fields.get("weight_map").and_then(Value::as_object);
    let names = names.ok_or_else(|| Error::usage(format!("{} has no `weight_map`", index.display())))?;
    let names: BTreeSet<&str> = names.values().filter_map(Value::as_str).collect();
    // A name is no path: a model's folder does not reach out of itself.
    let plain = |name: &str| Path::new(name).file_name().is_some_and(|file| file == name);
    names.into_iter().map(|name| if plain(name) { Ok(name.to_owned()) } else { Err(lost(index, name)) }).collect()
}
