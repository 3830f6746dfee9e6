//! Models of Hugging Face's hub as its tools keep them on disk: `models--ORG--NAME/snapshots/REVISION` in the cache folder.

use std::path::{Path, PathBuf};

use crate::diagnostic::{Error, Result};

/// The cache folder, as Hugging Face's own tools find it.
fn cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = || Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("huggingface"));
    set("HF_HUB_CACHE").or(set("HUGGINGFACE_HUB_CACHE")).or_else(|| Some(set("HF_HOME").or_else(own)?.join("hub")))
}

/// The folder of `ORG/NAME`, or of `ORG/NAME@REVISION`.
pub fn snapshot(repository: &str) -> Result<PathBuf> {
    let cache = cache().ok_or_else(|| Error::usage("where is Hugging Face's cache? Set HF_HOME"))?;
    within(&cache, repository)
}

fn within(cache: &Path, repository: &str) -> Result<PathBuf> {
    let (name, revision) = repository.split_once('@').unwrap_or((repository, "main"));
    let good = |part: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(letter) && !part.starts_with('.')
    };
    let parts: Vec<&str> = name.split('/').collect();
    if parts.is_empty() || parts.len() > 2 || !parts.iter().all(|part| good(part)) || !good(revision) {
        return Err(Error::usage(format!("`hf:{repository}` names no model of the hub"))
            .help("write hf:ORG/NAME, or hf:ORG/NAME@REVISION"));
    }
    let folder = cache.join(format!("models--{}", parts.join("--")));
    let commit = std::fs::read_to_string(folder.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let snapshot = folder.join("snapshots").join(&commit);
    if good(&commit) && snapshot.is_dir() {
        return Ok(snapshot);
    }
    let download = format!("hf download {name}");
    Err(Error::usage(format!("the model `{name}` ({revision}) is not in Hugging Face's cache at {}", cache.display()))
        .help(format!("get it with: {download}; or give its folder as local:PATH; HF_HOME says where the cache is")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_found_by_name_and_revision() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--name");
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::create_dir_all(folder.join("snapshots/abc123")).unwrap();
        std::fs::write(folder.join("refs/main"), "abc123\n").unwrap();
        let found = folder.join("snapshots/abc123");
        assert_eq!(within(cache.path(), "org/name").unwrap(), found);
        assert_eq!(within(cache.path(), "org/name@abc123").unwrap(), found);
        assert!(within(cache.path(), "org/other").unwrap_err().advice().unwrap().contains("hf download org/other"));
        for bad in ["../../etc", "a/b/c", "org/name@../x", "", "org/.."] {
            assert!(within(cache.path(), bad).unwrap_err().message().contains("names no model"), "{bad}");
        }
    }
}
