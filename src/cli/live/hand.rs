//! What a live view may do to a run: within its process, or from another one by way of a file in the run's folder.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::money::Usd;
use crate::study::Stop;

/// The file that wishes are left in, while the run goes on.
pub const CONTROL: &str = "control.jsonl";

/// How often a run looks for wishes.
const LOOK: Duration = Duration::from_millis(200);

/// A wish of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum Wish {
    /// Send nothing more for now.
    Pause,
    /// Send again.
    GoOn,
    /// Let what is in flight land, and end.
    Stop,
    /// Another budget in all.
    Budget {
        /// How much.
        budget_usd: Usd,
    },
}

/// Who takes wishes to the run.
pub enum Hand {
    /// The run is in this process.
    Here(Arc<Stop>),
    /// The run is in another; this is its folder.
    There(PathBuf),
}

impl Hand {
    /// Takes a wish to the run; the words say what came of it.
    pub fn wish(&self, wish: Wish) -> String {
        let taken = match self {
            Hand::Here(stop) => {
                apply(wish, stop);
                Ok(())
            }
            Hand::There(folder) => leave(folder, wish),
        };
        match (taken, wish) {
            (Err(error), _) => format!("the run cannot be told: {error}"),
            (Ok(()), Wish::Pause) => "pausing: what is in flight lands".to_owned(),
            (Ok(()), Wish::GoOn) => "going on".to_owned(),
            (Ok(()), Wish::Stop) => "stopping: what is in flight lands first".to_owned(),
            (Ok(()), Wish::Budget { budget_usd }) => format!("the budget is to be ${budget_usd}"),
        }
    }
}

fn apply(wish: Wish, stop: &Stop) {
    match wish {
        Wish::Pause => stop.pause(true),
        Wish::GoOn => stop.pause(false),
        Wish::Stop => drop(stop.press()),
        Wish::Budget { budget_usd } => stop.set_budget(budget_usd),
    }
}

/// Appends a wish; a run that listens has made the file.
fn leave(folder: &Path, wish: Wish) -> std::io::Result<()> {
    let mut file = File::options().append(true).open(folder.join(CONTROL)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => std::io::Error::other("it is not running"),
        _ => error,
    })?;
    let mut line = serde_json::to_vec(&wish)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Listens to wishes that others leave in a run's folder, until it is dropped.
pub struct Listener {
    path: PathBuf,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Begins to listen. Where that cannot be, the run goes on without.
    pub fn begin(folder: &Path, stop: Arc<Stop>) -> Option<Listener> {
        let path = folder.join(CONTROL);
        let (end, ended) = mpsc::channel();
        let begun = File::create(&path).and_then(|_| File::open(&path)).and_then(|mut file| {
            std::thread::Builder::new().name("control".into()).spawn(move || {
                let mut from = 0;
                while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    for wish in wishes(&mut file, &mut from) {
                        apply(wish, &stop);
                    }
                }
            })
        });
        match begun {
            Ok(thread) => Some(Listener { path, end: Some(end), thread: Some(thread) }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "`farthing watch` cannot reach this run");
                None
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        drop(std::fs::remove_file(&self.path));
    }
}

/// The whole lines after `from`, which moves behind them. What is no wish is passed over.
fn wishes(file: &mut File, from: &mut u64) -> Vec<Wish> {
    let mut text = Vec::new();
    // More than this at a time is nobody's wish.
    let read = file.seek(SeekFrom::Start(*from)).and_then(|_| file.take(1 << 16).read_to_end(&mut text));
    let Some(end) = read.ok().and_then(|_| text.iter().rposition(|&byte| byte == b'\n')) else { return Vec::new() };
    *from += end as u64 + 1;
    text[..end].split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_come_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Arc::new(Stop::default());
        assert!(Hand::There(folder.path().to_owned()).wish(Wish::Pause).contains("it is not running"));
        let listener = Listener::begin(folder.path(), stop.clone()).unwrap();
        let hand = Hand::There(folder.path().to_owned());
        hand.wish(Wish::Pause);
        let path = folder.path().join(CONTROL);
        let mut raw = File::options().append(true).open(&path).unwrap();
        raw.write_all(b"nonsense\n{\"wish\": \"sto").unwrap();
        let until = |done: &dyn Fn() -> bool| {
            let began = std::time::Instant::now();
            while !done() {
                assert!(began.elapsed() < Duration::from_secs(10), "nothing came of it");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        until(&|| stop.control().paused());
        raw.write_all(b"p\"}\n").unwrap();
        hand.wish(Wish::GoOn);
        until(&|| !stop.control().paused());
        assert_eq!(stop.press(), 2, "it was asked to stop once before");
        drop(listener);
        assert!(!path.exists(), "the file is gone with who listens");
    }
}
