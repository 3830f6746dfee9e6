//! Files that are and are not stores, a full disk, two programs on one file: what only a store in a file can meet.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rusqlite::{Connection, StatementStatus};

use super::connection::open_reader;
use super::migrations::MIGRATIONS;
use super::{Cache, Fingerprint, RequestRecord, SqliteStore, Store, codec};
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
        let mut select = conn.prepare_cached("SELECT id FROM requests WHERE fingerprint = ?1 ORDER BY model").unwrap();
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

/// The file that a run writes to is deleted, or another is put in its place.
#[cfg(unix)]
#[tokio::test]
async fn a_store_that_is_deleted_while_it_is_used_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    for replace in [false, true] {
        let store = SqliteStore::open(&path).unwrap();
        record(&store, 1, "before").await.unwrap();
        std::fs::rename(&path, folder.path().join("elsewhere.db")).unwrap();
        if replace {
            std::fs::write(&path, "").unwrap();
        }
        for _ in 0..2 {
            let error = record(&store, 2, "after").await.unwrap_err();
            assert!(error.message().contains("deleted or replaced"), "{error}");
            assert!(error.message().contains(&*path.to_string_lossy()), "{error}");
        }
        let store_again = std::fs::rename(folder.path().join("elsewhere.db"), &path);
        store_again.unwrap();
        record(&store, 2, "put back").await.expect("the writer goes on where the file is back");
    }
}

/// A store as the first released layout made it: its samples, its ledger and its failures are all there after the migration.
#[tokio::test]
async fn a_store_of_the_first_layout_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.execute_batch("PRAGMA application_id = 0x66727468; PRAGMA user_version = 1").unwrap();
    let print = |number: u8| [number; 32];
    for number in 0..40_u8 {
        let insert =
            "INSERT INTO requests (fingerprint, model, source, body, created_at) VALUES (?1, 'm', 'http', ?2, 5)";
        old.execute(insert, rusqlite::params![print(number), format!("body {number}")]).unwrap();
    }
    // Purchases of one request lie apart, as they came in.
    let insert = "INSERT INTO purchases (fingerprint, first, samples, prompt_tokens, cached_tokens, model, estimated, created_at)
                  VALUES (?1, ?2, ?3, ?4, 1, 'm-1', 1, ?5)";
    for round in 0..3_i64 {
        for number in 0..40_u8 {
            let samples = [
                Sample::new(format!("{number} {round} a"), FinishReason::STOP, 7),
                Sample::new("b", FinishReason::LENGTH, 8),
            ];
            let values = rusqlite::params![print(number), 2 * round, codec::encode(&samples), -1, 1000 + round];
            old.execute(insert, values).unwrap();
        }
    }
    old.execute("INSERT INTO ledger (scope, fingerprint, worst, settled, state, created_at) VALUES ('s', x'00', 9, 5, 'settled', 5)", []).unwrap();
    old.execute("INSERT INTO ledger (scope, fingerprint, worst, settled, state, created_at) VALUES ('s', x'00', 9, NULL, 'open', 5)", []).unwrap();
    old.execute(
        "INSERT INTO failures (scope, fingerprint, n, kind, message, created_at) VALUES ('s', ?1, 1, 'server', 'x', 5)",
        [print(3)],
    )
    .unwrap();
    drop(old);
    let store = SqliteStore::open(&path).unwrap();
    for number in 0..40 {
        let stored = store.stored(&Fingerprint(print(number))).unwrap();
        let texts: Vec<&str> = stored.samples().map(|sample| sample.text.as_str()).collect();
        let expected: Vec<String> = (0..3).flat_map(|round| [format!("{number} {round} a"), "b".to_owned()]).collect();
        assert_eq!(texts, expected);
        let last = &stored.purchases[2];
        assert_eq!((last.first, last.response.prompt_tokens, last.response.cached_tokens), (4, u64::MAX, 1));
        assert_eq!((last.response.model.as_deref(), last.response.estimated), (Some("m-1"), true));
    }
    let spent = store.spent("s").unwrap();
    assert_eq!((spent.settled, spent.lost, spent.requests), (Usd::from_pico(5), Usd::from_pico(9), 2));
    assert_eq!(store.failures("s").unwrap().len(), 1);
    assert!(store.items(None, 100).unwrap().iter().all(|item| item.newest == 1002));
    // It goes on where it was, also for a run that sees only its own.
    assert_eq!(record(&store, 3, "new").await.unwrap().len(), 7);
    let own = store.stored_as(Cache::Ignore, "study", &Fingerprint(print(3))).unwrap();
    assert_eq!(own.len(), 1);
    drop(store);
    assert_eq!(SqliteStore::open(&path).unwrap().stored(&Fingerprint(print(3))).unwrap().len(), 7);
    let conn = Connection::open(&path).unwrap();
    let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(pragma("user_version"), MIGRATIONS.len() as i64);
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

/// A migration that fails leaves the old store as it was.
#[test]
fn a_migration_is_done_in_full_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.execute_batch("PRAGMA application_id = 0x66727468; PRAGMA user_version = 1; CREATE TABLE purchases_2 (x)")
        .unwrap();
    drop(old);
    assert!(SqliteStore::open(&path).is_err());
    let conn = Connection::open(&path).unwrap();
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    conn.execute_batch("SELECT fingerprint, first FROM purchases").unwrap();
}

/// A number that was changed by hand: no statement of ours is shown, and nothing is written.
#[test]
fn a_layout_that_is_not_the_one_it_says_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(SqliteStore::open(&path).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 1").unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert_eq!(error.fault(), Fault::Usage);
    assert!(error.message().contains("says that it has layout 1, but"), "{error}");
    assert!(!error.message().contains("SELECT") && !error.message().contains("INSERT"), "{error}");
    let conn = Connection::open(&path).unwrap();
    assert_eq!(conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    conn.execute_batch("SELECT generation FROM purchases").unwrap();
}

/// Requests are removed and the file is compacted while another handle goes on writing.
#[tokio::test]
async fn room_is_given_back_while_others_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let (store, other) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    let large = "x".repeat(20_000);
    for result in join_all((0..200).map(|number| record(&store, number, &large))).await {
        result.unwrap();
    }
    let before = store.contents().unwrap().file_bytes;
    let writing: Vec<_> = (200..230).map(|number| record(&other, number, "small")).collect();
    let items: Vec<_> = store.items(None, 1000).unwrap().into_iter().filter(|item| item.bytes > 10_000).collect();
    assert_eq!(store.remove(items).await.unwrap(), 200);
    store.compact().unwrap();
    for result in join_all(writing).await {
        result.unwrap();
    }
    record(&other, 230, "after").await.unwrap();
    let contents = store.contents().unwrap();
    assert!(contents.file_bytes < before / 10, "{} of {before} bytes are left", contents.file_bytes);
    assert_eq!((contents.entries, contents.settled), (231, Usd::from_pico(231 * 5)), "the ledger lost entries");
    assert_eq!(store.page(None, 1000).unwrap().len(), 31);
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
