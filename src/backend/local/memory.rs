//! How much memory there is, and what a model needs of it.

use std::path::Path;

use candle_core::Device;

use super::config::Architecture;
use super::device::Precision;
use super::engine::PIECE;
use crate::diagnostic::{Error, Result};

/// Most bytes that keys and values take.
const MOST_CACHE: u64 = 8 << 30;
/// What is taken where the system does not say how much is left.
const BLIND_CACHE: u64 = 1 << 30;
/// Keys and values of so many tokens must fit, or the model is of no use.
const FEW_TOKENS: u64 = 512;

/// Bytes that can be had without swapping, where the system says so: of the machine, and of the control group that a
/// container or a scheduler put this process into.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(left_in_groups(Path::new("/sys/fs/cgroup"), &groups).map_or(machine, |left| left.min(machine)))
}

/// What the control groups of a process leave it, from the innermost to the root; `groups` is its `/proc/self/cgroup`.
fn left_in_groups(root: &Path, groups: &str) -> Option<u64> {
    let left = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let (root, limit, used, cache) = match controllers {
            "" => (root.to_owned(), "memory.max", "memory.current", "inactive_file "),
            _ if controllers.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            }
            _ => return None,
        };
        let inner = root.join(path);
        let folders = inner.ancestors().take_while(|folder| folder.starts_with(&root));
        let of = |folder: &Path| {
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            // Files that were read count as used, and make room.
            let files = read("memory.stat")
                .and_then(|text| text.lines().find_map(|line| line.strip_prefix(cache)?.parse().ok()));
            Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(files.unwrap_or(0))))
        };
        folders.filter_map(of).min()
    };
    groups.lines().filter_map(left).min()
}

pub(super) fn gigabytes(bytes: u64) -> String {
    match bytes {
        0..100_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        100_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Bytes that can be had on a device, where it says so; of the processor, in the machine's memory.
pub fn free(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => available(),
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free as u64),
        #[cfg(feature = "metal")]
        Device::Metal(metal) => {
            let metal = metal.device();
            Some(metal.recommended_max_working_set_size().saturating_sub(metal.current_allocated_size()) as u64)
        }
        #[allow(unreachable_patterns, reason = "where both are built in, there is no other")]
        _ => None,
    }
}

/// What a model needs, in bytes, and what for.
struct Need {
    weights: u64,
    /// Of one weight.
    each: u64,
    /// Taken for a time: by loading on the processor, by a prompt's way through the model on a device.
    passing: u64,
    passing_for: &'static str,
    tokens: u64,
    cache: u64,
}

impl Need {
    fn new(architecture: &Architecture, precision: Precision, device: bool) -> Need {
        let this = architecture;
        let tokens = FEW_TOKENS.min(this.context as u64);
        let up = this.inner * if this.gated { 2 } else { 1 };
        let (passing, passing_for, kept) = match device {
            // While it is loaded, the largest matrix is there as it was read, too.
            false => ((this.vocabulary.max(up) * this.hidden) as u64 * 8, "reading them", size_of::<f32>()),
            // The widest rows of a piece of a prompt, a few times over.
            true => {
                let widest = this.vocabulary.max(up).max(this.heads * this.head + 2 * this.key_width());
                ((widest * PIECE) as u64 * 16, "a prompt's way through it", precision.bytes() as usize)
            }
        };
        Need {
            weights: this.weights(),
            each: precision.bytes(),
            passing,
            passing_for,
            tokens,
            cache: tokens * this.bytes_per_token(kept),
        }
    }
}

/// Refuses a model that does not fit, with the arithmetic. On a device it is the device's memory that counts.
pub fn check(
    name: &str,
    architecture: &Architecture,
    precision: Precision,
    device: Option<(super::device::Device, &Device)>,
) -> Result<()> {
    let need = Need::new(architecture, precision, device.is_some());
    let (free, place) = match device {
        None => (available(), "memory".to_owned()),
        Some((named, device)) => (free(device), format!("the memory of {named}")),
    };
    match free {
        Some(free) => fits(name, &need, precision, &place, free),
        None => Ok(()),
    }
}

fn fits(name: &str, need: &Need, precision: Precision, place: &str, available: u64) -> Result<()> {
    let kept = need.weights * need.each;
    if kept + need.passing + need.cache <= available {
        return Ok(());
    }
    let help = match precision {
        Precision::F32 => format!("with dtype = \"bf16\" the weights would take {}", gigabytes(need.weights * 2)),
        _ => "it needs a machine with more memory, or a smaller model".to_owned(),
    };
    Err(Error::usage(format!(
        "{name} does not fit in {place}: {} M weights of {} bytes are {}, {} takes up to {} more, and keys and values of {} tokens {}; {} are available",
        need.weights / 1_000_000,
        need.each,
        gigabytes(kept),
        need.passing_for,
        gigabytes(need.passing),
        need.tokens,
        gigabytes(need.cache),
        gigabytes(available)
    ))
    .help(help))
}

/// How many tokens' keys and values are held at a time, beside a model that is loaded.
pub fn cached_tokens(bytes_per_token: u64) -> usize {
    tokens(available().map(|available| (available / 2).min(MOST_CACHE)), bytes_per_token)
}

/// The same on a device, whose memory nobody else is waiting for.
pub fn cached_on(device: &Device, bytes_per_token: u64) -> usize {
    tokens(free(device).map(|free| free / 2), bytes_per_token)
}

fn tokens(bytes: Option<u64>, each: u64) -> usize {
    (bytes.unwrap_or(BLIND_CACHE) / each.max(1)).max(FEW_TOKENS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Source;

    #[test]
    fn a_containers_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let left = |groups: &str| left_in_groups(root.path(), groups);
        assert_eq!(left("0::/job/step\n"), None);
        write("job/memory.max", "4000\n");
        write("job/memory.current", "1500\n");
        write("job/memory.stat", "anon 1000\ninactive_file 500\n");
        write("job/step/memory.max", "max\n");
        write("job/step/memory.current", "1000\n");
        assert_eq!(left("0::/job/step\n"), Some(3000), "the outer group's, without what files take");
        write("memory/old/memory.limit_in_bytes", "2000\n");
        write("memory/old/memory.usage_in_bytes", "2500\n");
        assert_eq!(left("5:cpu:/x\n4:memory,hugetlb:/old\n0::/job/step\n"), Some(0));
    }

    #[test]
    fn the_arithmetic_is_shown() {
        let text = r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
            "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096}"#;
        let large = super::super::config::read(&Source::new("config.json", text)).unwrap();
        let need = |precision, device| Need::new(&large, precision, device);
        let error = fits("big", &need(Precision::F32, false), Precision::F32, "memory", 8_000_000_000).unwrap_err();
        insta::assert_snapshot!(format!("{error}\n{}", error.advice().unwrap()), @r#"
        big does not fit in memory: 6738 M weights of 4 bytes are 26.95 GB, reading them takes up to 1.05 GB more, and keys and values of 512 tokens 536.9 MB; 8.00 GB are available
        with dtype = "bf16" the weights would take 13.48 GB
        "#);
        assert!(fits("big", &need(Precision::Bf16, false), Precision::Bf16, "memory", 16_000_000_000).is_ok());
        // On a device keys and values are as narrow as the weights.
        let half = need(Precision::F16, true);
        let error = fits("big", &half, Precision::F16, "the memory of cuda:0", 8_000_000_000).unwrap_err();
        insta::assert_snapshot!(format!("{error}\n{}", error.advice().unwrap()), @"
        big does not fit in the memory of cuda:0: 6738 M weights of 2 bytes are 13.48 GB, a prompt's way through it takes up to 65.5 MB more, and keys and values of 512 tokens 268.4 MB; 8.00 GB are available
        it needs a machine with more memory, or a smaller model
        ");
        let enough = half.weights * 2 + half.passing + half.cache;
        assert!(fits("big", &half, Precision::F16, "", enough).is_ok());
        assert!(fits("big", &half, Precision::F16, "", enough - 1).is_err());
    }
}
