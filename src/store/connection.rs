//! Opening a database file: is it ours, which version is it, what does it need; and the errors that SQLite gives.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::migrations::MIGRATIONS;
use crate::diagnostic::{Error, Result};

/// Marks a database as a store of farthing, in the file's header (`PRAGMA application_id`): "frth".
const APPLICATION_ID: i64 = 0x6672_7468;

/// How long a connection waits for another process before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it looks meanwhile. SQLite's own waiting grows to 100 ms, and starves against a busy writer.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Why a statement or a piece of work on the database came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The work itself is wrong: nothing to do with the database.
    Refused(Error),
    /// SQLite could not.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Trouble {
        Trouble::Sql(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Refused(error)
    }
}

impl Trouble {
    /// The error as callers see it: what SQLite cannot do with an open store is an internal error.
    pub(super) fn into_error(self, path: &Path) -> Error {
        let error = match self {
            Trouble::Refused(error) => return error,
            Trouble::Sql(error) => error,
        };
        let shown = Error::internal(format!("the store {}: {}", path.display(), words(&error)));
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => shown.help("make room on the disk; what was stored so far is safe"),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                shown.help("another program has held the store locked for a minute: end it, or use another --store")
            }
            _ => shown,
        }
    }
}

/// The error for a file that cannot become an open store: what the user named is wrong, unless the disk is at fault.
fn unusable(path: &Path, error: &rusqlite::Error) -> Error {
    let name = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => not_a_database(path),
        Some(ErrorCode::DatabaseCorrupt) => Error::usage(format!("the store {name} is damaged: {error}"))
            .help("restore it from a copy, or move it away to begin with an empty one"),
        Some(ErrorCode::CannotOpen) if path.is_dir() => Error::usage(format!("{name} is a folder: a store is a file")),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            not_writable(path, &error.to_string())
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::usage(format!("the store {name} is locked by another program"))
                .help("end it, or use another --store")
        }
        _ => Error::internal(format!("the store {name} cannot be opened: {}", words(error))),
    }
}

/// What SQLite says, without the statement that it says it of.
fn words(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

fn not_a_database(path: &Path) -> Error {
    Error::usage(format!("{} is no store: it is not an SQLite database", path.display()))
        .help("name another file with --store")
}

fn not_writable(path: &Path, why: &str) -> Error {
    Error::usage(format!("cannot write the store {}: {why}", path.display()))
        .help("name a place that may be written with --store, or `memory:` to keep nothing")
}

/// Opens the connection that writes: makes the file and its folders where there are none, and brings an older layout
/// up to date. A usage error, and the file as it was, where it is not ours, is newer than this program, or cannot be
/// written.
pub(super) fn open_writer(path: &Path) -> Result<Connection> {
    make_folders(path)?;
    // SQLite takes a file of one byte for an empty one.
    if std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 1) {
        return Err(not_a_database(path));
    }
    // Only SQLite may open the file: closing it ourselves would drop the locks of other connections of this process.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error: rusqlite::Error| unusable(path, &error);
    let mut conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    prepare(&mut conn).map_err(failed)?;
    if conn.is_readonly("main").map_err(failed)? {
        return Err(not_writable(path, "it is read-only"));
    }
    known_version(&conn, path)?;
    let mode = write_ahead(&conn).map_err(failed)?;
    if mode != "wal" {
        return Err(not_writable(
            path,
            "its file system cannot share memory between processes, which SQLite's WAL needs",
        ));
    }
    conn.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA fullfsync = ON;
         PRAGMA checkpoint_fullfsync = ON;
         PRAGMA foreign_keys = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -32768;
         PRAGMA wal_autocheckpoint = 4000;
         PRAGMA journal_size_limit = 67108864;",
    )
    .map_err(failed)?;
    conn.set_prepared_statement_cache_capacity(64);
    // The ledger's CHECK of `state` is a list of words, for which SQLite makes a table of its own at every write: a tenth of
    // what a request costs. States are words in our own statements, and amounts are looked at before they come here; builds
    // for tests check them all the same.
    if !cfg!(debug_assertions) {
        conn.execute_batch("PRAGMA ignore_check_constraints = ON").map_err(failed)?;
    }
    migrate(&conn, path)?;
    Ok(conn)
}

/// Opens one more connection to a store that is open, for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Trouble> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    prepare(&mut conn)?;
    // Of each thread that reads; the system keeps the file's pages as well.
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192;")?;
    Ok(conn)
}

/// Gives the room of what was deleted back to the disk.
pub(super) fn compact(path: &Path) -> Result<(), Trouble> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    prepare(&mut conn)?;
    conn.execute_batch("PRAGMA synchronous = FULL; VACUUM")?;
    // Should others be reading, the log is shortened at another time.
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

/// Makes the folders that lead to a file, and makes them durable, since a file is only as durable as its folder.
fn make_folders(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let missing: Vec<PathBuf> = folder.ancestors().take_while(|f| !f.exists()).map(Path::to_path_buf).collect();
    if missing.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(folder).map_err(|error| not_writable(path, &error.to_string()))?;
    #[cfg(unix)]
    for parent in missing.iter().filter_map(|folder| folder.parent()) {
        // Some file systems refuse this for folders; then there is nothing more that can be done.
        let _ = std::fs::File::open(parent).and_then(|folder| folder.sync_all());
    }
    Ok(())
}

/// What every connection needs.
fn prepare(conn: &mut Connection) -> rusqlite::Result<()> {
    // Without this, SQLite plans a cached statement anew whenever its parameters change: more than half of a look-up.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let looks = PATIENCE.as_millis() / LOOK_AGAIN.as_millis();
    conn.busy_handler(Some(move |count: i32| {
        std::thread::sleep(LOOK_AGAIN);
        i128::from(count) < looks as i128
    }))
}

/// Switches to write-ahead logging and says what mode that gave. SQLite does not wait by itself here while another
/// process is doing the same.
fn write_ahead(conn: &Connection) -> rusqlite::Result<String> {
    let mut looks = PATIENCE.as_millis() / LOOK_AGAIN.as_millis();
    loop {
        match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            Err(error) if looks > 0 && error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                looks -= 1;
                std::thread::sleep(LOOK_AGAIN);
            }
            result => return result,
        }
    }
}

/// How many migrations the file has taken: 0 for an empty one. A usage error where it is not ours or is newer.
fn known_version(conn: &Connection, path: &Path) -> Result<usize> {
    let header =
        "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
                         (SELECT count(*) FROM sqlite_master)";
    let (application, version, tables): (i64, i64, i64) = conn
        .query_row(header, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .map_err(|error| unusable(path, &error))?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(Error::usage(format!("{} is no store: it is another program's SQLite database", path.display()))
            .help("name another file with --store"));
    }
    usize::try_from(version).ok().filter(|&version| version <= MIGRATIONS.len()).ok_or_else(|| {
        Error::usage(format!(
            "the store {} was written by a newer farthing: it has layout {version}, this one knows {} at most",
            path.display(),
            MIGRATIONS.len()
        ))
        .help("update farthing, or use another --store")
    })
}

/// Brings the file's layout up to date, in one transaction.
fn migrate(conn: &Connection, path: &Path) -> Result<()> {
    if known_version(conn, path)? == MIGRATIONS.len() {
        return Ok(());
    }
    let failed = |error: rusqlite::Error| unusable(path, &error);
    conn.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    // Another process may have done it while this one waited for the lock.
    let done = known_version(conn, path).and_then(|version| {
        let steps = MIGRATIONS[version..].iter().try_for_each(|step| conn.execute_batch(step));
        // Tables that are not what the layout's number says: it is not for us to guess what they hold.
        let steps = steps.map_err(|error| match error.sqlite_error_code() {
            None | Some(ErrorCode::Unknown) => Error::usage(format!(
                "the store {} says that it has layout {version}, but its tables are others: {}",
                path.display(),
                words(&error)
            ))
            .help("its `user_version` was changed, or another program wrote into it: restore it from a copy"),
            Some(_) => failed(error),
        });
        steps?;
        conn.pragma_update(None, "application_id", APPLICATION_ID)
            .and_then(|()| conn.pragma_update(None, "user_version", MIGRATIONS.len() as i64))
            .and_then(|()| conn.execute_batch("COMMIT"))
            .map_err(failed)
    });
    if done.is_err() && !conn.is_autocommit() {
        // The error that led here is the one to tell; closing the connection rolls back as well.
        let _ = conn.execute_batch("ROLLBACK");
    }
    done
}
