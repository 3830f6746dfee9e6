//! What a model computes with: the processor, or a device that this farthing was built for.

use std::fmt;
use std::sync::OnceLock;

use candle_core::DType;
use serde::Deserialize;

use crate::diagnostic::{Error, Result};

/// What a model's matrices are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the range of 32-bit ones: half the memory. Slower on the processor.
    Bf16,
    /// 16-bit floats with more digits and less range; on devices only.
    F16,
}

impl Precision {
    /// The precision of a word in farthing.toml.
    ///
    /// # Errors
    /// Bad input: a word that is none.
    pub fn read(word: &str) -> Result<Precision> {
        match word {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            "f16" => Ok(Precision::F16),
            _ => Err(Error::usage(format!("`{word}` is no precision known here"))
                .help("f32 and bf16 are, and on devices f16")),
        }
    }

    /// The word in farthing.toml.
    pub fn word(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// Bytes of one weight.
    pub fn bytes(self) -> u64 {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    pub(super) fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
}

/// Where a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// On the processor.
    #[default]
    Cpu,
    /// On the NVIDIA GPU of this number.
    Cuda(usize),
    /// On the Apple GPU of this number.
    Metal(usize),
    /// On the first GPU that this farthing was built for and that is there, else on the processor.
    Auto,
}

impl fmt::Display for Device {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => to.write_str("cpu"),
            Device::Cuda(number) => write!(to, "cuda:{number}"),
            Device::Metal(number) => write!(to, "metal:{number}"),
            Device::Auto => to.write_str("auto"),
        }
    }
}

impl Device {
    /// The device of a word in farthing.toml: `cpu`, `cuda`, `cuda:1`, `metal`, `auto`.
    ///
    /// # Errors
    /// Bad input: a word that is none, or a device that this farthing was not built for.
    pub fn read(word: &str) -> Result<Device> {
        let (kind, number) = word.split_once(':').unwrap_or((word, "0"));
        let number = number.parse::<usize>().ok().filter(|number| *number < 64);
        let device = match (kind, number) {
            ("cpu", Some(_)) if word == kind => Some(Device::Cpu),
            ("auto", Some(_)) if word == kind => Some(Device::Auto),
            ("cuda", Some(number)) => Some(Device::Cuda(number)),
            ("metal", Some(number)) => Some(Device::Metal(number)),
            _ => None,
        };
        let device = device.ok_or_else(|| {
            Error::usage(format!("`{word}` is no device known here"))
                .help("cpu (the default), cuda, cuda:1, metal and auto are")
        })?;
        match device.missing() {
            None => Ok(device),
            Some(feature) => Err(Error::usage(format!("this farthing was built without `{feature}`")).help(format!(
                "build it with `cargo build --release --features {feature}` (docs/local.md says what that takes), or leave `device` out: models then run on the processor"
            ))),
        }
    }

    /// The feature that this farthing lacks for it.
    fn missing(self) -> Option<&'static str> {
        match self {
            Device::Cuda(_) if !cfg!(feature = "cuda") => Some("cuda"),
            Device::Metal(_) if !cfg!(feature = "metal") => Some("metal"),
            _ => None,
        }
    }

    /// Itself; for [`Device::Auto`], what there is.
    #[must_use]
    pub fn found(self) -> Device {
        static FOUND: OnceLock<Device> = OnceLock::new();
        let usable = |device: &Device| device.missing().is_none() && device.open().is_ok();
        match self {
            Device::Auto => {
                let first = || [Device::Cuda(0), Device::Metal(0)].into_iter().find(usable).unwrap_or_default();
                *FOUND.get_or_init(first)
            }
            _ => self,
        }
    }

    /// The word that is part of who a model is: another kind of device rounds otherwise.
    pub(super) fn kind(self) -> Option<&'static str> {
        match self.found() {
            Device::Cuda(_) => Some("cuda"),
            Device::Metal(_) => Some("metal"),
            Device::Cpu | Device::Auto => None,
        }
    }

    /// Candle's device; `None` for the processor, which needs none.
    pub(super) fn open(self) -> Result<Option<candle_core::Device>> {
        let opened = match self.found() {
            Device::Cuda(number) => candle_core::Device::new_cuda(number),
            Device::Metal(number) => {
                // A number beyond the last is a panic there.
                let made = std::panic::catch_unwind(|| candle_core::Device::new_metal(number));
                made.unwrap_or_else(|_| Err(candle_core::Error::Msg("there is no such GPU".to_owned())))
            }
            Device::Cpu | Device::Auto => return Ok(None),
        };
        let failed = |error: candle_core::Error| {
            let what = error.to_string();
            Error::usage(format!("the device {self} cannot be used: {}", what.lines().next().unwrap_or_default()))
                .help("`device = \"auto\"` takes a device where there is one, else the processor")
        };
        opened.map(Some).map_err(failed)
    }
}

/// How a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Compute {
    /// What its matrices are kept in.
    pub precision: Precision,
    /// Where.
    pub device: Device,
}

impl From<Precision> for Compute {
    fn from(precision: Precision) -> Compute {
        Compute { precision, device: Device::Cpu }
    }
}

impl Compute {
    /// With a device that is there, and a precision that it takes.
    ///
    /// # Errors
    /// Bad input: f16 on the processor.
    pub fn settled(self) -> Result<Compute> {
        let device = self.device.found();
        if (self.precision, device) == (Precision::F16, Device::Cpu) {
            return Err(Error::usage("on the processor weights are kept in f32 or bf16, not in f16").help(match self
                .device
            {
                Device::Auto => "no device was found here: take another dtype",
                _ => "take another dtype, or a device",
            }));
        }
        Ok(Compute { device, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_those_that_are_not_built_in_named() {
        assert_eq!(Device::read("cpu").unwrap(), Device::Cpu);
        assert_eq!(Device::read("auto").unwrap(), Device::Auto);
        for word in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:64", "cpu:0", "auto:1", "CUDA", ""] {
            let error = Device::read(word).unwrap_err();
            assert_eq!(error.to_string(), format!("`{word}` is no device known here"));
            assert_eq!(error.advice(), Some("cpu (the default), cuda, cuda:1, metal and auto are"));
        }
        for (word, device, feature, built) in [
            ("cuda", Device::Cuda(0), "cuda", cfg!(feature = "cuda")),
            ("cuda:3", Device::Cuda(3), "cuda", cfg!(feature = "cuda")),
            ("metal", Device::Metal(0), "metal", cfg!(feature = "metal")),
        ] {
            match Device::read(word) {
                Ok(read) => assert!(built && read == device, "{word}"),
                Err(error) => {
                    assert!(!built, "{word}: {error}");
                    assert_eq!(error.to_string(), format!("this farthing was built without `{feature}`"));
                    assert!(error.advice().unwrap().contains(&format!("--features {feature}`")));
                }
            }
        }
        assert_eq!(Device::Cuda(1).to_string(), "cuda:1");
    }

    #[test]
    fn half_floats_are_for_devices() {
        let half = Compute { precision: Precision::F16, device: Device::Cpu };
        let error = half.settled().unwrap_err();
        assert_eq!(error.to_string(), "on the processor weights are kept in f32 or bf16, not in f16");
        assert_eq!(Compute::from(Precision::Bf16).settled().unwrap().device, Device::Cpu);
        // Where nothing else was built in, `auto` is the processor.
        if !cfg!(any(feature = "cuda", feature = "metal")) {
            assert_eq!(Device::Auto.found(), Device::Cpu);
            assert!(Device::Auto.open().unwrap().is_none());
        }
    }
}
