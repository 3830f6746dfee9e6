//! A folder that experiments are put into: run one after the other, in the order of their arrival.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::folder::{self, FILE};
use crate::data::Format;
use crate::diagnostic::{Error, Result};

/// How long a file must have stayed as it is before it is begun: until then it may still be written.
pub const SETTLES: Duration = Duration::from_millis(400);

/// How a file looks: it is another one when this changes.
type Looks = (u64, SystemTime);

/// The folder, and what is known of what is in it.
pub struct Pipeline {
    folder: PathBuf,
    /// Where outputs go.
    out: PathBuf,
    /// How each file looked at the last look, and since when it has looked so.
    seen: HashMap<PathBuf, (Looks, std::time::Instant)>,
    /// Files that are done with, as they looked.
    done: HashMap<PathBuf, Looks>,
    hashes: HashMap<PathBuf, (Looks, String)>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Run this file: on with the experiment in that folder, where it has begun.
    Run(PathBuf, Option<PathBuf>),
    /// A file is there that may still be written.
    Wait,
    /// Nothing is left.
    Empty,
}

impl Pipeline {
    /// Watches a folder; outputs go to `out`, else to `output` beside it. A folder that has `input` in it (prompto's data
    /// folder) is taken for its two parts.
    pub fn new(folder: &Path, out: Option<&Path>) -> Result<Pipeline> {
        if !folder.is_dir() {
            return Err(Error::usage(format!("there is no folder {}", folder.display()))
                .help("make it, and put experiments into it"));
        }
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let (input, beside) = match folder.join("input") {
            input if input.is_dir() => (input, folder.join("output")),
            _ => (folder.clone(), folder.with_file_name("output")),
        };
        let out = out.map_or(beside, Path::to_owned);
        Ok(Pipeline { folder: input, out, seen: HashMap::new(), done: HashMap::new(), hashes: HashMap::new() })
    }

    /// Where outputs go.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The folder that is watched.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file is done with, whatever came of it, until it changes.
    pub fn finished(&mut self, path: &Path) {
        if let Some(looks) = looks(path) {
            self.done.insert(path.to_owned(), looks);
        }
    }

    /// The file that arrived first and is not done, if any.
    pub fn look(&mut self) -> Result<Next> {
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|error| Error::usage(format!("cannot read {}: {error}", self.folder.display())))?;
        let paths = entries.flatten().map(|entry| entry.path());
        let is_experiment = |path: &PathBuf| {
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            !hidden && Format::of(path).is_some()
        };
        let mut files: Vec<(Looks, PathBuf)> =
            paths.filter(is_experiment).filter_map(|path| Some((looks(&path)?, path))).collect();
        files.sort_by(|(a, one), (b, other)| (a.1, one).cmp(&(b.1, other)));
        self.seen.retain(|path, _| files.iter().any(|(_, file)| file == path));
        let now = std::time::Instant::now();
        for (looks, path) in &files {
            match self.seen.get(path) {
                Some((before, _)) if before == looks => {}
                _ => drop(self.seen.insert(path.clone(), (*looks, now))),
            }
        }
        let mut known = None;
        for (looks, path) in files {
            if self.done.get(&path) == Some(&looks) || looks.0 == 0 {
                continue;
            }
            // The first to arrive is the first to run: later ones wait until it is whole.
            if self.seen.get(&path).is_some_and(|(_, since)| now.duration_since(*since) < SETTLES) {
                return Ok(Next::Wait);
            }
            let hash = match self.hashes.get(&path) {
                Some((before, hash)) if *before == looks => hash.clone(),
                _ => {
                    let hash = folder::hash(&path)?;
                    self.hashes.insert(path.clone(), (looks, hash.clone()));
                    hash
                }
            };
            let known = known.get_or_insert_with(|| begun(&self.out));
            match known.get(&(path.clone(), hash)) {
                Some((_, true)) => drop(self.done.insert(path, looks)),
                Some((folder, false)) => return Ok(Next::Run(path, Some(folder.clone()))),
                None => return Ok(Next::Run(path, None)),
            }
        }
        Ok(Next::Empty)
    }
}

fn looks(path: &Path) -> Option<Looks> {
    let about = std::fs::metadata(path).ok()?;
    about.is_file().then(|| Some((about.len(), about.modified().ok()?)))?
}

/// The experiments that have begun in a folder, by the file that they came from and its hash; true where they are done.
fn begun(out: &Path) -> HashMap<(PathBuf, String), (PathBuf, bool)> {
    let mut begun = HashMap::new();
    for path in std::fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if !path.join(FILE).is_file() {
            continue;
        }
        let Ok(file) = folder::load(&path) else { continue };
        let summary: Option<serde_json::Value> =
            std::fs::read(path.join("summary.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let done =
            summary.is_some_and(|summary| summary["stop_reason"] == "done" || summary["stop_reason"] == "budget");
        begun.insert((file.input, file.input_hash), (path, done));
    }
    begun
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_run_in_the_order_of_their_arrival_and_when_they_are_whole() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("in");
        std::fs::create_dir(&folder).unwrap();
        let put = |name: &str, text: &str, seconds: u64| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            path
        };
        let mut pipeline = Pipeline::new(&folder, None).unwrap();
        assert!(pipeline.out().ends_with("output") && pipeline.out().parent() == Some(home.path()));
        assert_eq!(pipeline.look().unwrap(), Next::Empty);
        let (b, a) = (put("b.jsonl", "{}", 1), put("a.csv", "x", 2));
        let c = put("c.jsonl", "{}", 2);
        put("notes.txt", "x", 0);
        put(".hidden.jsonl", "x", 0);
        put("empty.jsonl", "", 0);
        assert_eq!(pipeline.look().unwrap(), Next::Wait, "they may still be written");
        std::thread::sleep(SETTLES);
        put("b.jsonl", "{}{}", 1);
        assert_eq!(pipeline.look().unwrap(), Next::Wait, "the first is still written");
        std::thread::sleep(SETTLES);
        for path in [b, a, c] {
            assert_eq!(pipeline.look().unwrap(), Next::Run(path.clone(), None));
            pipeline.finished(&path);
        }
        assert_eq!(pipeline.look().unwrap(), Next::Empty);
        let again = put("b.jsonl", "{}{}{}", 9);
        assert_eq!(pipeline.look().unwrap(), Next::Wait);
        std::thread::sleep(SETTLES);
        assert_eq!(pipeline.look().unwrap(), Next::Run(again, None), "it was changed");
    }
}
