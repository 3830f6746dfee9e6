//! Files that are written: each appears by one rename, whole or not at all. What is no ordinary file (a device, a pipe) is
//! written to and never replaced, and a link stays one. Nothing that stands beside it is touched: a draft has a name that
//! nobody else uses.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::diagnostic::{Error, Result};

/// A name that nobody else has. It decides nothing.
pub fn fresh_name(kind: &str) -> String {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let hash = blake3::hash(format!("{random} {now} {}", std::process::id()).as_bytes());
    format!("{kind}-{}", &hash.to_hex()[..16])
}

/// A file on its way.
pub struct Output {
    named: PathBuf,
    /// The draft that is being written, and the file that it becomes.
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
            let whole = behind_links(path);
            let draft = whole.with_file_name(format!(".{}", fresh_name("new")));
            let created = File::options().write(true).create_new(true).open(&draft);
            created.map(|file| (Output { named, way: Some((draft, whole)) }, file))
        };
        opened.map_err(|error| cannot_write(path, &error))
    }

    /// All is written: it appears, on the disk too.
    pub fn finish(mut self) -> Result<()> {
        match self.way.take() {
            None => Ok(()),
            Some((draft, whole)) => {
                let kept = File::open(&draft).and_then(|file| file.sync_all());
                kept.and_then(|()| fs::rename(&draft, whole)).map_err(|error| {
                    drop(fs::remove_file(&draft));
                    cannot_write(&self.named, &error)
                })
            }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((draft, _)) = &self.way {
            // What is left of it helps nobody.
            drop(fs::remove_file(draft));
        }
    }
}

/// The file that a link leads to, which may not be there yet; the path itself where it is none.
fn behind_links(path: &Path) -> PathBuf {
    let aim = || fs::read_link(path).map(|aim| path.parent().unwrap_or(Path::new("")).join(aim));
    fs::canonicalize(path).or_else(|_| aim()).unwrap_or_else(|_| path.to_owned())
}

/// Replaces a file, or makes it.
pub fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    let (output, mut file) = Output::create(path)?;
    file.write_all(contents).map_err(|error| cannot_write(path, &error))?;
    output.finish()
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

/// A file without a name, in a folder: it is gone when it is closed, whatever ends this process.
pub fn unnamed(folder: &Path) -> Result<File> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let path = folder.join(format!(".{}", fresh_name("plain")));
    let made = File::options().read(true).write(true).create_new(true).open(&path);
    made.and_then(|file| fs::remove_file(&path).map(|()| file)).map_err(|error| cannot_write(&path, &error))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) -> Output {
        let (output, mut file) = Output::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        output
    }

    #[test]
    fn links_stay_and_devices_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        drop(write(&link, "half"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "old", "nothing is there before the end");
        write(&link, "new").finish().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        replace(&link, b"newer").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
        fs::remove_file(&file).unwrap();
        replace(&link, b"made").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "made", "a link may lead to what is not there yet");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
        replace(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn nothing_beside_a_file_is_touched_and_two_writers_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["x.part", ".x.new", "x.new", "x.rows"] {
            fs::write(path(name), name).unwrap();
        }
        let (first, second) = (write(&path("x"), "first"), write(&path("x"), "second, longer"));
        first.finish().unwrap();
        assert_eq!(fs::read_to_string(path("x")).unwrap(), "first");
        second.finish().unwrap();
        assert_eq!(fs::read_to_string(path("x")).unwrap(), "second, longer");
        for name in ["x.part", ".x.new", "x.new", "x.rows"] {
            assert_eq!(fs::read_to_string(path(name)).unwrap(), name);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    #[test]
    fn a_file_without_a_name_is_in_nobodys_way() {
        use std::io::{Read, Seek};
        let folder = tempfile::tempdir().unwrap();
        let mut file = unnamed(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        file.write_all(b"x").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }
}
