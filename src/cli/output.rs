//! A file that a command writes a result to: it appears by one rename, whole or not at all. What is no ordinary file (a
//! device, a pipe) is written to and never replaced, and a link stays one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::diagnostic::{Error, Result};

/// A file on its way.
pub struct Output {
    named: PathBuf,
    /// The part that is being written, and the file that it becomes.
    way: Option<(PathBuf, PathBuf)>,
}

impl Output {
    /// Begins it; what is written to the second one is there when [`Output::finish`] says so.
    pub fn create(path: &Path) -> Result<(Output, File)> {
        let named = path.to_owned();
        let special = fs::metadata(path).is_ok_and(|there| !there.is_file());
        let opened = if special {
            File::options().write(true).open(path).map(|file| (Output { named, way: None }, file))
        } else {
            // Behind a link: the file that it leads to is the one that is replaced.
            let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let part = whole.with_added_extension("part");
            File::create(&part).map(|file| (Output { named, way: Some((part, whole)) }, file))
        };
        opened.map_err(|error| cannot_write(path, &error))
    }

    /// All is written: it appears.
    pub fn finish(mut self) -> Result<()> {
        match self.way.take() {
            None => Ok(()),
            Some((part, whole)) => fs::rename(&part, whole).map_err(|error| {
                drop(fs::remove_file(&part));
                cannot_write(&self.named, &error)
            }),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((part, _)) = &self.way {
            // What is left of it helps nobody.
            drop(fs::remove_file(part));
        }
    }
}

/// The error where a file cannot be written.
pub fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::usage(format!("cannot write {}: {error}", path.display()))
}

/// Writes a file that must not be there; one that could not be written whole is taken away again.
pub fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes()).inspect_err(|_| drop(fs::remove_file(path)))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn links_stay_and_devices_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let write = |path: &Path, text: &str| {
            let (output, mut file) = Output::create(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            output
        };
        drop(write(&link, "half"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "old", "nothing is there before the end");
        write(&link, "new").finish().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no part is left");
        write(Path::new("/dev/null"), "gone").finish().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
