//! Where a local model lies, by its name: `mite`, `local:PATH`, `hf:ORG/NAME`.

use std::path::{Path, PathBuf};

use super::device::Compute;
use super::hub::HubModel;
use crate::diagnostic::{Error, Result};

/// The model that comes with farthing.
pub const IN_THE_BOX: &str = "mite";

/// The files of the model in the box, as they are in the repository.
pub mod mite {
    /// `config.json`.
    pub const CONFIG: &str = include_str!("../../../models/mite/config.json");
    /// `tokenizer.json`.
    pub const TOKENIZER: &str = include_str!("../../../models/mite/tokenizer.json");
    /// `tokenizer_config.json`.
    pub const TOKENIZER_CONFIG: &str = include_str!("../../../models/mite/tokenizer_config.json");
    /// `generation_config.json`.
    pub const GENERATION: &str = include_str!("../../../models/mite/generation_config.json");
    /// `model.safetensors`.
    pub const WEIGHTS: &[u8] = include_bytes!("../../../models/mite/model.safetensors");
    /// Dollars per million input tokens: what a model of its kind would cost, so that budgets mean something.
    pub const INPUT_PRICE: &str = "0.10";
    /// Dollars per million output tokens.
    pub const OUTPUT_PRICE: &str = "0.40";
}

/// Where a model lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this program.
    Box,
    /// A folder in Hugging Face's form.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// On the hub; on this machine it is not, or not all of it.
    Hub(HubModel),
}

/// True where a name is a local model's.
pub fn is_local(name: &str) -> bool {
    name == IN_THE_BOX || name.starts_with("local:") || name.starts_with("hf:")
}

impl Place {
    /// The place of a name like `mite`, `local:PATH` or `hf:ORG/NAME`; paths are relative to `folder`. Nothing is
    /// downloaded.
    pub fn of(name: &str, folder: &Path) -> Result<Place> {
        if name == IN_THE_BOX {
            return Ok(Place::Box);
        }
        match (name.strip_prefix("local:"), name.strip_prefix("hf:")) {
            (Some(IN_THE_BOX), _) if !folder.join(IN_THE_BOX).exists() => Ok(Place::Box),
            (Some(path), _) => Place::path(&folder.join(path)),
            (_, Some(repository)) => HubModel::read(repository)?.place(),
            _ => Place::path(&folder.join(name)),
        }
    }

    /// A folder, or a GGUF file.
    pub fn path(path: &Path) -> Result<Place> {
        if path.join("config.json").is_file() {
            Ok(Place::Folder(path.to_owned()))
        } else if path.is_file() && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
            Ok(Place::Gguf(path.to_owned()))
        } else if path.is_dir() {
            Err(Error::usage(format!("the folder {} has no config.json", path.display()))
                .help("a model's folder has config.json, tokenizer.json and model.safetensors"))
        } else if path.exists() {
            Err(Error::usage(format!("{} is no model: neither a folder nor a .gguf file", path.display())))
        } else {
            Err(Error::usage(format!("there is no model {}", path.display()))
                .help("a path after `local:` is relative to the working folder, or to the farthing.toml that names it"))
        }
    }

    /// The same on this machine: what the hub has, and this machine has not, is downloaded.
    ///
    /// # Errors
    /// As [`HubModel::fetched`].
    pub fn fetched(&self, compute: Compute) -> Result<Place> {
        match self {
            Place::Hub(model) => model.fetched(compute),
            here => Ok(here.clone()),
        }
    }

    /// Where it lies, in words.
    pub fn name(&self) -> String {
        match self {
            Place::Box => IN_THE_BOX.to_owned(),
            Place::Folder(path) | Place::Gguf(path) => path.display().to_string(),
            Place::Hub(model) => model.name(),
        }
    }
}
