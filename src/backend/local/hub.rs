//! Models of Hugging Face's hub in the cache that its own tools keep: `models--ORG--NAME/snapshots/COMMIT/FILE` are links to
//! `blobs/ETAG`, and `refs/REVISION` names the commit of a branch. What is whole there is used without any network; what
//! is missing is fetched into it, file by file.
//!
//! The `hf-hub` crate is not used (Cargo.toml says why): it also takes any answer for the rest of a cut file, and panics at
//! some answers.

mod client;
mod fetch;

use std::fs;
use std::path::{Path, PathBuf};

use super::device::Compute;
use super::place::Place;
use super::weights;
use crate::diagnostic::{Error, Result};
use crate::files::{cannot_write, replace};

/// A model of the hub, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `ORG/NAME`.
    repository: String,
    /// The GGUF file of it that is meant.
    file: Option<String>,
    /// A branch, a tag or a commit.
    revision: String,
}

/// An environment variable that says something.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Hugging Face's own folder, as its tools find it.
fn home() -> Option<PathBuf> {
    let own = || Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("huggingface"));
    set("HF_HOME").or_else(own)
}

/// The cache folder, as Hugging Face's own tools find it.
fn cache() -> Result<PathBuf> {
    let found =
        set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).or_else(|| home().map(|home| home.join("hub")));
    found.ok_or_else(|| Error::usage("where is Hugging Face's cache? Set HF_HOME"))
}

/// True where an environment variable is switched on.
fn switched_on(name: &str) -> bool {
    let value = std::env::var(name).unwrap_or_default();
    ["1", "on", "yes", "true"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// True where the user wants no traffic with the hub.
fn offline() -> bool {
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(switched_on)
}

/// A word that is safe in a path and in an address.
fn good(part: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && part.len() <= 200 && part.chars().all(letter) && !part.starts_with('.')
}

impl HubModel {
    /// The model of `ORG/NAME`, `ORG/NAME@REVISION` or `ORG/NAME/FILE.gguf`.
    ///
    /// # Errors
    /// Bad input: what names no model.
    pub fn read(text: &str) -> Result<HubModel> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = name.split('/').collect();
        let gguf = |part: &&str| part.to_ascii_lowercase().ends_with(".gguf");
        let (repository, file) = match parts.as_slice() {
            [org, name, file] if gguf(file) => (vec![*org, *name], Some(*file)),
            all @ ([_] | [_, _]) => (all.to_vec(), None),
            _ => (Vec::new(), None),
        };
        if repository.is_empty() || !repository.iter().chain(&file).all(|part| good(part)) || !good(revision) {
            return Err(Error::usage(format!("`hf:{text}` names no model of the hub"))
                .help("write hf:ORG/NAME, hf:ORG/NAME@REVISION, or hf:ORG/NAME/FILE.gguf"));
        }
        let file = file.map(str::to_owned);
        Ok(HubModel { repository: repository.join("/"), file, revision: revision.to_owned() })
    }

    /// Its name as it is written.
    pub fn name(&self) -> String {
        let file = self.file.as_ref().map_or(String::new(), |file| format!("/{file}"));
        let revision = if self.revision == "main" { String::new() } else { format!("@{}", self.revision) };
        format!("hf:{}{file}{revision}", self.repository)
    }

    /// Where it lies: in the cache where it is whole there, else on the hub.
    ///
    /// # Errors
    /// Bad input: it is not said where the cache is.
    pub fn place(self) -> Result<Place> {
        Ok(self.found_in(&cache()?).unwrap_or(Place::Hub(self)))
    }

    fn found_in(&self, cache: &Path) -> Option<Place> {
        let folder = Folder::new(cache, &self.repository);
        self.found_at(&folder.snapshot(&folder.commit(&self.revision)?))
    }

    /// The same in the folder of one commit.
    fn found_at(&self, snapshot: &Path) -> Option<Place> {
        match &self.file {
            Some(file) => Some(snapshot.join(file)).filter(|path| path.is_file()).map(Place::Gguf),
            None => whole(snapshot).then(|| Place::Folder(snapshot.to_owned())),
        }
    }

    /// Where it lies; nothing is downloaded.
    ///
    /// # Errors
    /// Bad input: it is not in the cache.
    pub fn here(&self) -> Result<Place> {
        let cache = cache()?;
        self.found_in(&cache).ok_or_else(|| self.missing(&cache))
    }

    /// Where it lies; what is missing of it is downloaded, where that is allowed.
    ///
    /// # Errors
    /// Bad input: nothing may be downloaded; there is no such model; it is not of a kind, form or size that can be run
    /// here. An endpoint's: the hub is not reached, or refuses.
    pub fn fetched(&self, compute: Compute) -> Result<Place> {
        let cache = cache()?;
        match self.found_in(&cache) {
            Some(place) => Ok(place),
            None if offline() => Err(self.missing(&cache)),
            None => apart(|| fetch::fetch(self, &cache, compute)),
        }
    }

    fn missing(&self, cache: &Path) -> Error {
        let folder = Folder::new(cache, &self.repository);
        let begun = folder.commit(&self.revision).is_some_and(|commit| folder.snapshot(&commit).is_dir());
        let state = if begun { "is not whole" } else { "is not" };
        let why = match offline() {
            true => "HF_HUB_OFFLINE is set, so it is not downloaded",
            false => "a command that asks it downloads it",
        };
        Error::usage(format!(
            "the model `{}` ({}) {state} in Hugging Face's cache at {}",
            self.repository,
            self.revision,
            cache.display()
        ))
        .help(format!(
            "{why}; get it with: hf download {}; or give its folder as local:PATH; HF_HOME says where the cache is",
            self.arguments()
        ))
    }

    /// What follows `hf download`.
    fn arguments(&self) -> String {
        let mut text = self.repository.clone();
        if let Some(file) = &self.file {
            text += &format!(" {file}");
        }
        if self.revision != "main" {
            text += &format!(" --revision {}", self.revision);
        }
        text
    }
}

/// True where a folder has all that a model is loaded from.
fn whole(folder: &Path) -> bool {
    ["config.json", "tokenizer.json"].iter().all(|name| folder.join(name).is_file()) && weights::files(folder).is_ok()
}

/// Work that takes long, and has a runtime of its own, is not done on a thread that others' work waits for.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let alone = || {
        let ended = std::thread::scope(|scope| scope.spawn(work).join());
        ended.unwrap_or_else(|_| Err(Error::internal("a download has stopped")))
    };
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(alone),
        _ => alone(),
    }
}

/// A repository's folder in the cache.
struct Folder {
    path: PathBuf,
    /// Where Hugging Face's tools keep the locks of those who download.
    locks: PathBuf,
}

impl Folder {
    fn new(cache: &Path, repository: &str) -> Folder {
        let name = format!("models--{}", repository.replace('/', "--"));
        Folder { path: cache.join(&name), locks: cache.join(".locks").join(&name) }
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.path.join("refs").join(revision)
    }

    /// The commit of a revision, as far as the cache knows.
    fn commit(&self, revision: &str) -> Option<String> {
        let commit = fs::read_to_string(self.reference(revision));
        let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
        Some(commit).filter(|commit| good(commit))
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.path.join("snapshots").join(commit)
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.path.join("blobs").join(etag)
    }

    /// Says what commit a branch or a tag is.
    fn refer(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.reference(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
        replace(&path, commit.as_bytes())
    }

    /// Makes a blob the file of a commit: by a link, where there are links.
    fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        let folder = path.parent().unwrap_or(&self.path);
        let made = fs::create_dir_all(folder).and_then(|()| {
            // A link that leads nowhere is in the way.
            if fs::symlink_metadata(&path).is_ok() && !path.exists() {
                fs::remove_file(&path)?;
            }
            #[cfg(unix)]
            let made = std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), &path);
            #[cfg(not(unix))]
            let made = fs::rename(self.blob(etag), &path);
            match made {
                // Somebody else was faster.
                Err(_) if path.is_file() => Ok(()),
                made => made,
            }
        });
        made.map_err(|error| cannot_write(&path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(cache: &Path, name: &str) -> Option<Place> {
        HubModel::read(name).unwrap().found_in(cache)
    }

    #[test]
    fn snapshots_are_found_by_name_and_revision_where_they_are_whole() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--name");
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::create_dir_all(folder.join("snapshots/abc123")).unwrap();
        std::fs::write(folder.join("refs/main"), "abc123\n").unwrap();
        let found = folder.join("snapshots/abc123");
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            assert_eq!(within(cache.path(), "org/name"), None, "without {file}");
            std::fs::write(found.join(file), "{}").unwrap();
        }
        assert_eq!(within(cache.path(), "org/name"), Some(Place::Folder(found.clone())));
        assert_eq!(within(cache.path(), "org/name@abc123"), Some(Place::Folder(found.clone())));
        assert_eq!(within(cache.path(), "org/name/q8.gguf"), None);
        std::fs::write(found.join("q8.gguf"), "").unwrap();
        assert_eq!(within(cache.path(), "org/name/q8.gguf"), Some(Place::Gguf(found.join("q8.gguf"))));
        // Of shards each must be there.
        std::fs::remove_file(found.join("model.safetensors")).unwrap();
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        std::fs::write(found.join("model.safetensors.index.json"), index).unwrap();
        std::fs::write(found.join("model-1.safetensors"), "").unwrap();
        assert_eq!(within(cache.path(), "org/name"), None);
        std::fs::write(found.join("model-2.safetensors"), "").unwrap();
        assert!(within(cache.path(), "org/name").is_some());
    }

    #[test]
    fn names_lead_nowhere_else() {
        let bad = [
            "../../etc",
            "a/b/c",
            "org/name@../x",
            "",
            "org/..",
            "org/name/../x.gguf",
            "org/name/.gguf",
            "a/b?c",
            "a/b@",
        ];
        for bad in bad {
            assert!(HubModel::read(bad).unwrap_err().message().contains("names no model"), "{bad}");
        }
        for good in ["gpt2", "org/name", "org/name@v1.0", "org/name/q8.GGUF@abc"] {
            assert_eq!(HubModel::read(good).unwrap().name(), format!("hf:{good}"));
        }
        let missing = HubModel::read("org/other/q8.gguf@v1").unwrap().missing(Path::new("/nowhere"));
        assert!(missing.advice().unwrap().contains("hf download org/other q8.gguf --revision v1;"), "{missing:?}");
    }

    #[test]
    fn a_download_has_its_own_runtime_whatever_runtime_asks_for_it() {
        let own = || Ok(tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { 7 }));
        let work = move || apart(own).unwrap();
        assert_eq!(work(), 7);
        let single = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(single.block_on(async { work() }), 7);
        let several = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        assert_eq!(several.block_on(async { tokio::spawn(async move { work() }).await.unwrap() }), 7);
        assert!(apart(|| -> Result<()> { panic!("on purpose") }).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn files_are_links_to_blobs_and_a_broken_link_is_made_anew() {
        let cache = tempfile::tempdir().unwrap();
        let folder = Folder::new(cache.path(), "org/name");
        std::fs::create_dir_all(folder.path.join("blobs")).unwrap();
        for etag in ["one", "two"] {
            std::fs::write(folder.blob(etag), etag).unwrap();
            folder.link("abc", "config.json", etag).unwrap();
            assert_eq!(std::fs::read_to_string(folder.snapshot("abc").join("config.json")).unwrap(), etag);
            std::fs::remove_file(folder.blob(etag)).unwrap();
        }
        folder.refer("main", "abc").unwrap();
        assert_eq!(folder.commit("main").unwrap(), "abc");
        folder.refer("abc", "abc").unwrap();
        assert!(!folder.reference("abc").exists());
    }
}
