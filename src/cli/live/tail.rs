//! A run's `events.jsonl` as it grows.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use crate::event::Event;

/// Reads what was added since it read last. A record that began anew (a run that was resumed) is read from its start.
pub struct Tail {
    path: PathBuf,
    from: u64,
}

/// What was added.
#[derive(Debug, Default)]
pub struct News {
    /// The record began anew: what was known before does not hold.
    pub anew: bool,
    /// The events.
    pub events: Vec<Event>,
}

/// Lines that are read at a time, so that a long record does not keep a screen waiting.
const MOST: usize = 50_000;

impl Tail {
    /// Of a file that need not be there yet.
    pub fn new(path: PathBuf) -> Tail {
        Tail { path, from: 0 }
    }

    /// What is new: whole lines only. What cannot be understood is passed over.
    pub fn read(&mut self) -> News {
        let mut news = News::default();
        let Ok(mut file) = File::open(&self.path) else { return news };
        let length = file.metadata().map_or(0, |about| about.len());
        if length < self.from {
            (self.from, news.anew) = (0, true);
        }
        if length == self.from || file.seek(SeekFrom::Start(self.from)).is_err() {
            return news;
        }
        let (mut reader, mut line) = (BufReader::new(file), Vec::new());
        while news.events.len() < MOST {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 && line.ends_with(b"\n") => {
                    self.from += read as u64;
                    news.events.extend(serde_json::from_slice::<Event>(&line).ok());
                }
                _ => break,
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn whole_lines_as_they_come_and_from_the_start_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut tail = Tail::new(path.clone());
        assert!(tail.read().events.is_empty());
        let mut file = File::create(&path).unwrap();
        file.write_all(b"{\"event\":\"stop_requested\"}\n{\"event\":\"paused\",\"pau").unwrap();
        assert_eq!(tail.read().events, [Event::StopRequested]);
        assert!(tail.read().events.is_empty());
        file.write_all(b"sed\":true}\nnonsense\n").unwrap();
        assert_eq!(tail.read().events, [Event::Paused { paused: true }]);
        std::fs::write(&path, b"{\"event\":\"stop_requested\"}\n").unwrap();
        let news = tail.read();
        assert!(news.anew && news.events == [Event::StopRequested], "{news:?}");
    }
}
