//! How much memory there is, and what a model needs of it.

use super::config::Architecture;
use super::model::Precision;
use crate::diagnostic::{Error, Result};

/// Most bytes that keys and values take.
const MOST_CACHE: u64 = 8 << 30;
/// What is taken where the system does not say how much is left.
const BLIND_CACHE: u64 = 1 << 30;
/// Keys and values of so many tokens must fit, or the model is of no use.
const FEW_TOKENS: u64 = 512;

/// Bytes that can be had without swapping, where the system says so.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn gigabytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Refuses a model that does not fit, with the arithmetic.
pub fn check(name: &str, architecture: &Architecture, precision: Precision) -> Result<()> {
    match available() {
        Some(available) => fits(name, architecture, precision, available),
        None => Ok(()),
    }
}

fn fits(name: &str, architecture: &Architecture, precision: Precision, available: u64) -> Result<()> {
    let weights = architecture.weights();
    let kept = weights * precision.bytes();
    // While it is loaded, the largest matrix is there as it was read, too.
    let table = architecture.vocabulary.max(architecture.inner * if architecture.gated { 2 } else { 1 });
    let passing = (table * architecture.hidden) as u64 * 8;
    let tokens = FEW_TOKENS.min(architecture.context as u64);
    let cache = tokens * architecture.bytes_per_token();
    if kept + passing + cache <= available {
        return Ok(());
    }
    let help = match precision {
        Precision::F32 => format!("with dtype = \"bf16\" the weights would take {}", gigabytes(weights * 2)),
        Precision::Bf16 => "it needs a machine with more memory, or a smaller model".to_owned(),
    };
    Err(Error::usage(format!(
        "{name} does not fit in memory: {} M weights of {} bytes are {}, reading them takes up to {} more, and keys and values of {tokens} tokens {}; {} are available",
        weights / 1_000_000,
        precision.bytes(),
        gigabytes(kept),
        gigabytes(passing),
        gigabytes(cache),
        gigabytes(available)
    ))
    .help(help))
}

/// How many tokens' keys and values are held at a time, beside a model that is loaded.
pub fn cached_tokens(architecture: &Architecture) -> usize {
    let bytes = available().map_or(BLIND_CACHE, |available| (available / 2).min(MOST_CACHE));
    (bytes / architecture.bytes_per_token().max(1)).max(FEW_TOKENS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Source;

    #[test]
    fn the_arithmetic_is_shown() {
        let text = r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
            "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096}"#;
        let large = super::super::config::read(&Source::new("config.json", text)).unwrap();
        let error = fits("big", &large, Precision::F32, 8_000_000_000).unwrap_err();
        insta::assert_snapshot!(format!("{error}\n{}", error.advice().unwrap()), @r#"
        big does not fit in memory: 6738 M weights of 4 bytes are 26.95 GB, reading them takes up to 1.05 GB more, and keys and values of 512 tokens 536.9 MB; 8.00 GB are available
        with dtype = "bf16" the weights would take 13.48 GB
        "#);
        assert!(fits("big", &large, Precision::Bf16, 16_000_000_000).is_ok());
    }
}
