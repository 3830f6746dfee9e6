//! Who a local model is: a hash of every byte that decides what it says.
//!
//! The hash is of the files' whole contents: configuration, tokenizer, chat template, weights. Names, sizes and times would
//! not do, for a file that was trained on has the same name and size. For large files the hash is remembered by device,
//! inode, size, and the times of last change of contents and of status, which no ordinary program can set back; a file that
//! changed within two seconds of being hashed is not remembered, because its times may not tell the next change.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Error, Result, unreadable};
use crate::files::{cannot_write, replace};

/// Files smaller than this are hashed sooner than looked up.
const REMEMBERED: u64 = 64 << 20;

/// A file as it was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    hash: String,
}

#[cfg(unix)]
fn seen(metadata: &std::fs::Metadata) -> Option<Seen> {
    use std::os::unix::fs::MetadataExt;
    Some(Seen {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        hash: String::new(),
    })
}

/// Elsewhere nothing is remembered.
#[cfg(not(unix))]
fn seen(_: &std::fs::Metadata) -> Option<Seen> {
    None
}

/// Where hashes are remembered.
fn ledger() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("farthing").join("model-hashes.json"))
}

/// The hash of a file's contents.
pub fn of_file(path: &Path) -> Result<String> {
    of_file_with(path, REMEMBERED, ledger().as_deref())
}

fn of_file_with(path: &Path, remembered: u64, ledger: Option<&Path>) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    let now = seen(&metadata).filter(|_| metadata.len() >= remembered);
    let key = std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let read = || -> Option<BTreeMap<String, Seen>> { serde_json::from_slice(&std::fs::read(ledger?).ok()?).ok() };
    let mut known = now.as_ref().and_then(|_| read()).unwrap_or_default();
    if let (Some(now), Some(before)) = (&now, known.get(&key))
        && (Seen { hash: String::new(), ..before.clone() }) == *now
    {
        return Ok(before.hash.clone());
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(|error| unreadable(path, &error))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let hash = hasher.finalize().to_hex().to_string();
    let settled = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    let settled = settled.is_some_and(|age| age > Duration::from_secs(2));
    if let (Some(now), Some(ledger), true) = (now, ledger, settled) {
        known.insert(key, Seen { hash: hash.clone(), ..now });
        remember(ledger, &known);
    }
    Ok(hash)
}

/// Writes what is known; that it cannot be written costs time later, and nothing else.
fn remember(ledger: &Path, known: &BTreeMap<String, Seen>) {
    let write = || {
        let folder = ledger.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
        let bytes = serde_json::to_vec_pretty(known).map_err(|error| Error::internal(error.to_string()))?;
        replace(ledger, &bytes)
    };
    if let Err(error) = write() {
        tracing::debug!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_of_contents_and_remembered_only_for_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, ledger) = (folder.path().join("w"), folder.path().join("cache/l.json"));
        let hash = || of_file_with(&path, 1, Some(&ledger)).unwrap();
        std::fs::write(&path, "one").unwrap();
        let fresh = hash();
        assert!(!ledger.exists(), "a file that was just written is not remembered");
        let old = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!((hash(), ledger.exists()), (fresh.clone(), true));
        // The ledger is believed: a wrong line in it shows.
        let text = std::fs::read_to_string(&ledger).unwrap().replace(&fresh, "believed");
        std::fs::write(&ledger, text).unwrap();
        assert_eq!(hash(), "believed");
        // Other contents of the same size and time of modification: the time of status differs.
        std::fs::write(&path, "two").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!(hash(), blake3::hash(b"two").to_hex().to_string());
    }
}
