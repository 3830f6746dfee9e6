//! Where a store is: the grammar of `--store`.

use std::path::{Path, PathBuf};

/// Where a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// `memory:`: nothing is kept.
    Memory,
    /// A file.
    File(&'a Path),
    /// `SCHEME://...`: a server's, by its scheme alone, as the rest may hold a password.
    Url(&'a str),
}

impl<'a> Place<'a> {
    /// What a location means.
    pub fn of(location: &'a str) -> Place<'a> {
        let is_scheme =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        match location.split_once("://") {
            Some((scheme, _)) if is_scheme(scheme) => Place::Url(scheme),
            None if location == "memory:" => Place::Memory,
            _ => Place::File(Path::new(location)),
        }
    }

    /// Nothing is kept.
    pub fn is_memory(&self) -> bool {
        matches!(self, Place::Memory)
    }

    /// The file, where it is one.
    pub fn file(&self) -> Option<&'a Path> {
        match self {
            Place::File(path) => Some(path),
            Place::Memory | Place::Url(_) => None,
        }
    }

    /// A store may be there already: what is at a server only the server knows.
    pub fn exists(&self) -> bool {
        match self {
            Place::Memory => false,
            Place::File(path) => path.is_file(),
            Place::Url(_) => true,
        }
    }

    /// The file that processes lock while they submit batches of this store.
    pub fn submitting_lock(&self) -> Option<PathBuf> {
        self.file().map(|path| path.with_added_extension("submitting"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_file_a_server_or_nothing() {
        let file = Place::of("a/store.db");
        assert_eq!((file.file(), file.exists()), (Some(Path::new("a/store.db")), false));
        assert_eq!(file.submitting_lock(), Some("a/store.db.submitting".into()));
        assert!(Place::of(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).exists());
        assert_eq!(Place::of("a b://c").file(), Some(Path::new("a b://c")));
        let (server, memory) = (Place::of("postgres://me:secret@db/a"), Place::of("memory:"));
        assert_eq!(server, Place::Url("postgres"));
        assert_eq!((server.file(), server.exists(), server.is_memory()), (None, true, false));
        assert_eq!((memory.file(), memory.exists(), memory.is_memory()), (None, false, true));
        assert_eq!((server.submitting_lock(), memory.submitting_lock()), (None, None));
    }
}
