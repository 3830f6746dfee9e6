//! Fetching what is missing of a model: first what says what it is, then, when it is known that it can be run here and that
//! there is room, the rest. A file has its name in the cache only when it is whole, and a branch is said to be a commit
//! only when all of that is there.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest, Sha256};

use super::client::{Hub, Listed, Listing, Trouble, get_it_otherwise};
use super::{Folder, HubModel, good};
use crate::backend::local::device::{Compute, Device};
use crate::backend::local::memory::{self, gigabytes};
use crate::backend::local::place::Place;
use crate::backend::local::{config, weights};
use crate::diagnostic::{Error, Result, Source};
use crate::files::cannot_write;

/// What is read of a model beside its weights, where it is there.
const BESIDE: [&str; 4] = ["tokenizer.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// How often in a row a download may fail without a byte more.
const TRIES: usize = 3;
/// The wait after the first failure; it doubles.
const WAIT: Duration = Duration::from_millis(500);
/// So often it is said how far it is.
const OFTEN: Duration = Duration::from_secs(30);

/// Fetches what is missing of a model, and gives where it lies.
pub fn fetch(model: &HubModel, cache: &Path, compute: Compute) -> Result<Place> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::internal(format!("no runtime: {error}")))?;
    let hub = Hub::open()?;
    runtime.block_on(async {
        let listing = listing(&hub, model).await?;
        let fetching = Fetching {
            hub: &hub,
            model,
            folder: Folder::new(cache, &model.repository),
            files: listing.files.into_iter().map(|file| (file.name.clone(), file)).collect(),
            commit: listing.sha,
        };
        fetching.all(compute).await
    })
}

async fn listing(hub: &Hub, model: &HubModel) -> Result<Listing> {
    let mut waits = waits();
    loop {
        match hub.listing(model).await {
            Ok(listing) => return Ok(listing),
            // Who has no network is told at once.
            Err(Trouble::Away(error)) => return Err(error),
            Err(trouble) => again(trouble, &mut waits).await?,
        }
    }
}

/// Waits where that may help.
async fn again(trouble: Trouble, waits: &mut ExponentialBackoff) -> Result<()> {
    let passes = matches!(trouble, Trouble::Passing(_) | Trouble::Away(_));
    let (error, wait) = (trouble.error(), waits.next().filter(|_| passes));
    let Some(wait) = wait else { return Err(error) };
    tracing::info!("{}: trying again", error.message());
    tokio::time::sleep(wait).await;
    Ok(())
}

/// The waits between failures in a row.
fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default().with_min_delay(WAIT).with_max_times(TRIES).build()
}

/// One commit of a repository on its way into the cache.
struct Fetching<'a> {
    hub: &'a Hub,
    model: &'a HubModel,
    folder: Folder,
    files: BTreeMap<String, Listed>,
    commit: String,
}

/// A file that is missing.
struct Missing<'a> {
    name: &'a str,
    /// What the cache calls it.
    etag: String,
    size: Option<u64>,
}

/// How far all of it is.
struct Progress {
    total: u64,
    done: u64,
    said: Instant,
}

impl Progress {
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.said.elapsed() > OFTEN {
            self.said = Instant::now();
            tracing::info!("{} of {} are here", gigabytes(self.done), gigabytes(self.total));
        }
    }
}

impl Fetching<'_> {
    async fn all(&self, compute: Compute) -> Result<Place> {
        let snapshot = self.folder.snapshot(&self.commit);
        let names = match &self.model.file {
            Some(file) => self.gguf(file)?,
            None => {
                let weights = self.weights().await?;
                self.check_memory(&snapshot, compute)?;
                let beside =
                    BESIDE.iter().filter(|name| self.files.contains_key(**name)).map(|name| (*name).to_owned());
                beside.chain(weights).collect()
            }
        };
        let mut missing = Vec::new();
        for name in &names {
            if !snapshot.join(name).is_file() {
                missing.push(self.about(name).await?);
            }
        }
        let total = self.announce(&missing)?;
        let mut progress = Progress { total, done: 0, said: Instant::now() };
        for file in &missing {
            tracing::debug!("{} ({})", file.name, file.size.map_or("of unknown size".to_owned(), gigabytes));
            self.file(file, &mut progress).await?;
        }
        if self.model.file.is_none() {
            weights::files(&snapshot)?;
        }
        // Only now: who finds the branch finds all of it.
        self.folder.refer(&self.model.revision, &self.commit)?;
        self.model.found_at(&snapshot).ok_or_else(|| {
            Error::internal(format!("{} was fetched and is not at {}", self.model.name(), snapshot.display()))
        })
    }

    /// The files of a model in a GGUF file; a tokenizer beside it is read instead of its own.
    fn gguf(&self, file: &str) -> Result<Vec<String>> {
        if !self.files.contains_key(file) {
            let near = crate::diagnostic::suggestion(file, self.ending(".gguf"));
            return Err(Error::usage(format!("`{}` has no file `{file}`", self.model.repository)).help(near));
        }
        let tokenizer = self.files.contains_key(TOKENIZER).then(|| TOKENIZER.to_owned());
        Ok(tokenizer.into_iter().chain([file.to_owned()]).collect())
    }

    /// Files of its uppermost folder with this ending.
    fn ending(&self, ending: &'static str) -> impl Iterator<Item = &str> + Clone {
        let top = move |name: &&str| !name.contains('/') && name.to_ascii_lowercase().ends_with(ending);
        self.files.keys().map(String::as_str).filter(top)
    }

    /// The files of the weights. What says which these are, and what the model is, is fetched.
    async fn weights(&self) -> Result<Vec<String>> {
        let has = |name: &str| self.files.contains_key(name);
        if !has(CONFIG) || !(has(WEIGHTS) || has(INDEX)) {
            return Err(self.no_model(if has(CONFIG) { "safetensors" } else { CONFIG }));
        }
        if !has(TOKENIZER) {
            return Err(Error::usage(format!("`{}` has no {TOKENIZER}", self.model.repository)).help(
                "tokenizers of other forms are not read here: load and save it with transformers once, which writes tokenizer.json, and give the folder as local:PATH",
            ));
        }
        self.small(CONFIG).await?;
        if has(WEIGHTS) {
            return Ok(vec![WEIGHTS.to_owned()]);
        }
        self.small(INDEX).await?;
        let shards = weights::shards(&self.folder.snapshot(&self.commit).join(INDEX))?;
        match shards.iter().find(|name| !has(name)) {
            Some(lost) => Err(Error::usage(format!(
                "{INDEX} of `{}` names `{lost}`, which is not among its files",
                self.model.repository
            ))),
            None => Ok(shards.into_iter().collect()),
        }
    }

    /// Fetches a file of some kilobytes.
    async fn small(&self, name: &str) -> Result<()> {
        if self.folder.snapshot(&self.commit).join(name).is_file() {
            return Ok(());
        }
        let mut progress = Progress { total: 0, done: 0, said: Instant::now() };
        self.file(&self.about(name).await?, &mut progress).await
    }

    /// The error for a repository that is in another form: what it has, and what to do.
    fn no_model(&self, lacking: &str) -> Error {
        /// So many names are shown.
        const SHOWN: usize = 12;
        let name = &self.model.repository;
        let mut has = self.files.keys().map(String::as_str).take(SHOWN).collect::<Vec<_>>().join(", ");
        if let Some(more) = self.files.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            has += &format!(", and {more} more");
        }
        let has = if has.is_empty() { "it is empty".to_owned() } else { format!("it has: {has}") };
        let help = match (self.ending(".gguf").next(), self.ending(".bin").next()) {
            (Some(file), _) => format!("name one of its GGUF files, like hf:{name}/{file}"),
            (_, Some(file)) => format!(
                "`{file}` is not read here, because such files can run programs: load the model with transformers, save it with safe_serialization=True, and give the folder as local:PATH"
            ),
            _ => {
                "a language model has config.json, tokenizer.json and model.safetensors, or is a .gguf file".to_owned()
            }
        };
        Error::usage(format!("`{name}` has no {lacking}; {has}")).help(help)
    }

    /// Before gigabytes are fetched: is it of a kind that is known here, and does it fit?
    fn check_memory(&self, snapshot: &Path, compute: Compute) -> Result<()> {
        let architecture = config::read(&Source::read(&snapshot.join(CONFIG))?)?;
        match compute.settled()?.device {
            Device::Cpu => memory::check(&self.model.name(), &architecture, compute.precision, None),
            // A device is asked when the model is loaded onto it.
            _ => Ok(()),
        }
    }

    async fn about<'n>(&self, name: &'n str) -> Result<Missing<'n>> {
        let (etag, size) = self.files.get(name).map(Listed::known).unwrap_or_default();
        if let Some(etag) = etag.filter(|etag| good(etag)) {
            return Ok(Missing { name, etag, size });
        }
        let url = self.hub.file(self.model, &self.commit, name);
        let mut waits = waits();
        loop {
            match self.hub.about(self.model, url.clone()).await {
                Ok((etag, said)) => return Ok(Missing { name, etag, size: size.or(said) }),
                Err(trouble) => again(trouble, &mut waits).await?,
            }
        }
    }

    /// Says what is going to happen, and gives how many bytes that are; refuses what there is no room for.
    fn announce(&self, missing: &[Missing]) -> Result<u64> {
        if missing.is_empty() {
            return Ok(0);
        }
        let left = |file: &Missing| {
            let here = [self.folder.blob(&file.etag), self.part(file)].iter().filter_map(|path| size(path)).max();
            file.size.map(|size| size.saturating_sub(here.unwrap_or(0)))
        };
        // A listing may say anything.
        let bytes = missing.iter().filter_map(left).fold(0, u64::saturating_add);
        let unknown = if missing.iter().any(|file| file.size.is_none()) { "at least " } else { "" };
        let (files, path) = (missing.len(), self.folder.path.display());
        if let Some(room) = room(&self.folder.path).filter(|room| *room < bytes) {
            return Err(Error::usage(format!(
                "`{}` does not fit on the disk: {} are to be downloaded to {path}, where {} are free",
                self.model.repository,
                gigabytes(bytes),
                gigabytes(room)
            ))
            .help("make room, or name a folder on another disk by HF_HOME"));
        }
        let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
        tracing::info!(
            "downloading `{}` ({}) from {}: {files}, {unknown}{}, to {path}",
            self.model.repository,
            self.model.revision,
            self.hub.host(),
            gigabytes(bytes)
        );
        Ok(bytes)
    }

    /// Where a file is while it is not whole.
    fn part(&self, file: &Missing) -> PathBuf {
        self.folder.blob(&format!("{}.incomplete", file.etag))
    }

    /// Fetches a file.
    async fn file(&self, file: &Missing<'_>, progress: &mut Progress) -> Result<()> {
        let blob = self.folder.blob(&file.etag);
        for folder in [blob.parent(), Some(self.folder.locks.as_path())].into_iter().flatten() {
            fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
        }
        let _lock = self.lock(file)?;
        if !(blob.is_file() && file.size.is_none_or(|size| super::fetch::size(&blob) == Some(size))) {
            let mut waits = waits();
            loop {
                let before = size(&self.part(file)).unwrap_or(0);
                match self.pour(file, progress).await {
                    Ok(()) => break,
                    Err(trouble) => {
                        // Whoever comes nearer may go on.
                        if size(&self.part(file)).unwrap_or(0) > before {
                            waits = self::waits();
                        }
                        again(trouble, &mut waits).await?;
                    }
                }
            }
            fs::rename(self.part(file), &blob).map_err(|error| cannot_write(&blob, &error))?;
        }
        self.folder.link(&self.commit, file.name, &file.etag)
    }

    /// One process at a time fetches a file; Hugging Face's tools hold the same lock.
    fn lock(&self, file: &Missing) -> Result<File> {
        let path = self.folder.locks.join(format!("{}.lock", file.etag));
        loop {
            let lock = File::options().create(true).append(true).open(&path);
            let lock = lock.map_err(|error| cannot_write(&path, &error))?;
            let held = match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    tracing::warn!("another process downloads {} of `{}`: waiting", file.name, self.model.repository);
                    lock.lock()
                }
                Err(TryLockError::Error(error)) => Err(error),
                Ok(()) => Ok(()),
            };
            match held {
                // Python takes its lock's file away at the end: who waited for that one holds nothing.
                Ok(()) if !same_file(&lock, &path) => {}
                Ok(()) => return Ok(lock),
                Err(error) => {
                    // There are disks without locks.
                    tracing::debug!(path = %path.display(), %error, "not locked");
                    return Ok(lock);
                }
            }
        }
    }

    /// Fetches what is missing of a file, once.
    async fn pour(&self, file: &Missing<'_>, progress: &mut Progress) -> Result<(), Trouble> {
        let path = self.part(file);
        let failed = |error: std::io::Error| Trouble::Lasting(self.unwritten(&path, &error));
        let mut part = File::options().read(true).append(true).create(true).open(&path).map_err(failed)?;
        // The cache calls large files by their hash. What has none is small, and begun anew.
        let hashed = file.etag.len() == 64 && file.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut hash = Sha256::new();
        let mut from = part.metadata().map_err(failed)?.len();
        if !hashed || file.size.is_none_or(|size| from > size) {
            part.set_len(0).map_err(failed)?;
            from = 0;
        }
        if from > 0 {
            absorb(&mut part, &mut hash).map_err(failed)?;
        }
        let began = from;
        if file.size.is_none_or(|size| from < size) {
            let url = self.hub.file(self.model, &self.commit, file.name);
            let mut response = self.hub.download(self.model, url, from).await?;
            let rest = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
            let rest = rest.is_some_and(|range| range.trim().starts_with(&format!("bytes {from}-")));
            if from > 0 && !(response.status() == StatusCode::PARTIAL_CONTENT && rest) {
                part.set_len(0).map_err(failed)?;
                (from, hash) = (0, Sha256::new());
            }
            while let Some(piece) = response.chunk().await.map_err(|error| self.hub.broken(&error))? {
                part.write_all(&piece).map_err(failed)?;
                hash.update(&piece);
                from += piece.len() as u64;
                progress.add(piece.len() as u64);
            }
        }
        let wrong = |what: String| {
            // What is there is of no use.
            part.set_len(0).map_err(failed)?;
            let error = Error::endpoint(format!("{what} of `{}`", self.model.repository));
            let error = error.help(get_it_otherwise(self.model));
            // What was begun by others may be what is wrong.
            Err(if began > 0 { Trouble::Passing(error) } else { Trouble::Lasting(error) })
        };
        match file.size {
            Some(size) if from < size => {
                let error = Error::endpoint(format!("{} was cut after {}", file.name, gigabytes(from)));
                return Err(Trouble::Passing(error.help("the same command goes on from there")));
            }
            Some(size) if from > size => {
                return wrong(format!("{} of {} bytes were sent as {}", from, size, file.name));
            }
            _ => {}
        }
        if hashed {
            let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if !hash.eq_ignore_ascii_case(&file.etag) {
                return wrong(format!("what was sent is not {}, by its SHA-256,", file.name));
            }
        }
        part.sync_all().map_err(failed)
    }

    fn unwritten(&self, path: &Path, error: &std::io::Error) -> Error {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Error::usage(format!("the disk is full: {} is not whole", path.display()))
                    .help("make room: the same command goes on from what is there; HF_HOME names another folder")
            }
            _ => cannot_write(path, error),
        }
    }
}

/// Takes what a file has into its hash.
fn absorb(part: &mut File, hash: &mut Sha256) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match part.read(&mut buffer)? {
            0 => return Ok(()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// True where an open file is the one at a path.
#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let key = |about: fs::Metadata| (about.dev(), about.ino());
    file.metadata().map(key).ok() == fs::metadata(path).map(key).ok()
}

#[cfg(not(unix))]
fn same_file(_file: &File, _path: &Path) -> bool {
    true
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|about| about.len())
}

/// Bytes that are free where a folder is or will be.
#[cfg(unix)]
fn room(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let about = rustix::fs::statvfs(there).ok()?;
    about.f_bavail.checked_mul(about.f_frsize)
}

#[cfg(not(unix))]
fn room(_folder: &Path) -> Option<u64> {
    None
}
