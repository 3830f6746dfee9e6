//! Files that are and are not stores, a full disk, two programs on one file: what only a store in a file can meet.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rusqlite::{Connection, StatementStatus};

use super::connection::open_reader;
use super::{Fingerprint, RequestRecord, SqliteStore, Store};
use crate::diagnostic::{Error, Fault};
use crate::money::Usd;
use crate::provider::{FinishReason, Response, Sample};

fn response(text: &str) -> Response {
    let sample = Sample::new(text, FinishReason::STOP, 1);
    Response { samples: vec![sample], prompt_tokens: 1, ..Response::default() }
}

fn request() -> RequestRecord {
    RequestRecord { model: "m".into(), source: "mock".into(), body: "{}".into() }
}

fn record(store: &SqliteStore, print: u8, text: &str) -> super::Durable<super::Stored> {
    store.record("study", &Fingerprint([print; 32]), &request(), response(text), Usd::from_pico(5), None)
}

fn refusal(path: &Path) -> Error {
    let error = SqliteStore::open(path).expect_err("it was opened");
    assert_eq!(error.fault(), Fault::Usage, "{error}");
    assert!(error.message().contains(&*path.to_string_lossy()), "{error}");
    error
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in
        [("a", &b"x"[..]), ("b", b"{\"model\": 1}\n"), ("c", &[b'x'; 10_000]), ("d", b"SQLite format 2\0")]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        assert!(refusal(&path).message().contains("not an SQLite database"));
        assert_eq!(std::fs::read(&path).unwrap(), content, "the file was changed");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "files were left behind");
}

#[test]
fn another_programs_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("places.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE places (name TEXT)").unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(refusal(&path).message().contains("another program's"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_newer_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(SqliteStore::open(&path).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = refusal(&path);
    assert!(error.message().contains("newer farthing") && error.message().contains("layout 99"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_damaged_store_is_said_to_be_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(SqliteStore::open(&path).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100..4096].fill(0xee);
    std::fs::write(&path, &bytes).unwrap();
    assert!(refusal(&path).message().contains("damaged"));
}

#[test]
fn places_that_cannot_be_written_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(folder.path()).message().contains("is a folder"));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(refusal(&file.join("store.db")).message().contains("cannot write"));
    if Path::new("/proc/self").exists() {
        refusal(Path::new("/proc/no such folder/store.db"));
    }
}

#[cfg(unix)]
#[test]
fn a_read_only_file_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(SqliteStore::open(&path).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    // Nothing is read-only to root.
    if std::fs::OpenOptions::new().append(true).open(&path).is_err() {
        assert!(refusal(&path).message().contains("read-only"));
    }
}

#[tokio::test]
async fn folders_are_made_and_odd_names_are_only_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a/b/c/store.db", "file:x?mode=memory", ":memory:", "ü \u{1f980}.db", "100%41.db"] {
        let path = folder.path().join(name);
        record(&SqliteStore::open(&path).unwrap(), 1, name).await.unwrap();
        assert!(path.is_file(), "{name}");
        assert_eq!(SqliteStore::open(&path).unwrap().stored(&Fingerprint([1; 32])).unwrap().len(), 1, "{name}");
    }
}

#[test]
fn commits_are_flushed_and_references_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let check = |conn: &Connection| {
        let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((pragma("synchronous"), pragma("foreign_keys"), pragma("fullfsync")), (2, 1, 1));
        let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
        Ok(())
    };
    SqliteStore::open_with(&folder.path().join("store.db"), check).unwrap();
}

#[test]
fn cached_statements_are_planned_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let _store = SqliteStore::open(&path).unwrap();
    let conn = open_reader(&path).unwrap();
    for number in 0..10 {
        let mut select =
            conn.prepare_cached("SELECT first FROM purchases WHERE fingerprint = ?1 ORDER BY first").unwrap();
        assert!(!select.exists([[number; 32]]).unwrap());
        assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
    }
}

/// Dropping the store writes what was asked for.
#[test]
fn a_dropped_store_has_written_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    for k in 0..3000 {
        drop(record(&store, 1, &k.to_string()));
    }
    drop(store);
    assert_eq!(SqliteStore::open(&path).unwrap().stored(&Fingerprint([1; 32])).unwrap().len(), 3000);
    assert!(!folder.path().join("store.db-wal").exists(), "a connection was left open");
}

#[tokio::test]
async fn a_full_disk_is_an_internal_error_for_those_it_hits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let few_pages = |conn: &Connection| {
        conn.execute_batch("PRAGMA max_page_count = 60").map_err(|error| Error::internal(error.to_string()))
    };
    let store = SqliteStore::open_with(&path, few_pages).unwrap();
    let large = "x".repeat(400_000);
    // One group: what fits is kept, what does not says so, and leaves nothing half done.
    let calls = [record(&store, 1, "small"), record(&store, 2, &large), record(&store, 3, "small too")];
    let results = join_all(calls).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.fault(), Fault::Internal);
    assert!(error.message().contains("full") && error.advice().unwrap().contains("make room"), "{error}");
    assert!(store.stored(&Fingerprint([2; 32])).unwrap().is_empty());
    assert_eq!(store.spent("study").unwrap().settled, Usd::from_pico(10));
    record(&store, 4, "later").await.expect("the writer goes on");
}

/// A reader never waits for a writer, and a writer in another program only delays ours.
#[tokio::test]
async fn a_busy_file_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    record(&store, 1, "before").await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = record(&store, 1, "after");
    let began = Instant::now();
    assert_eq!(store.stored(&Fingerprint([1; 32])).unwrap().len(), 1);
    assert_eq!(store.spent("study").unwrap().requests, 1);
    assert!(began.elapsed() < Duration::from_secs(5), "a reader waited for a writer");
    std::thread::sleep(Duration::from_millis(200));
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(waiting.await.unwrap().len(), 2);
}

/// Many open an empty file at the same moment: one lays it out, the others find it so.
#[tokio::test]
async fn a_new_file_may_be_opened_by_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let path = folder.path().join(format!("{round}.db"));
        let stores: Vec<Arc<SqliteStore>> = std::thread::scope(|scope| {
            let opening: Vec<_> = (0..6).map(|_| scope.spawn(|| SqliteStore::open(&path))).collect();
            opening.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        for result in join_all(stores.iter().map(|store| record(store, 1, "x"))).await {
            result.unwrap();
        }
        assert!(stores.iter().all(|store| store.stored(&Fingerprint([1; 32])).unwrap().len() == stores.len()));
    }
}

#[tokio::test]
async fn a_request_is_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    record(&store, 1, "a").await.unwrap();
    record(&store, 1, "b").await.unwrap();
    record(&store, 2, "c").await.unwrap();
    let conn = Connection::open(&path).unwrap();
    let requests: Vec<(String, String, String)> = conn
        .prepare("SELECT model, source, body FROM requests")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(requests, vec![("m".to_owned(), "mock".to_owned(), "{}".to_owned()); 2]);
}
