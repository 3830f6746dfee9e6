//! OpenAI's files: what batches read and write. They are kept in memory until they are deleted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{Multipart, Path, State};
use axum::http::{Response as HttpResponse, Uri};
use serde_json::{Value, json};

use super::Desk;
use super::batches::Batch;
use super::flow::{json_reply, refuse, reply};
use super::message_batches::MessageBatch;
use super::wire::{Family, Refusal, parameter};

/// The most bytes of a file for batches.
const MOST_BYTES: usize = 200_000_000;

/// A file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) purpose: String,
    pub(super) bytes: Bytes,
    /// In seconds.
    pub(super) created: u64,
}

/// Files and batches, by number.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    next: u64,
    pub(super) files: BTreeMap<u64, File>,
    pub(super) batches: BTreeMap<u64, Batch>,
    pub(super) message_batches: BTreeMap<u64, MessageBatch>,
}

impl Shelf {
    /// The next number.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Keeps a file and gives its id.
    pub(super) fn keep(&mut self, file: File) -> String {
        let number = self.number();
        self.files.insert(number, file);
        id(number)
    }

    /// The file of an id.
    pub(super) fn file(&self, id: &str) -> Option<&File> {
        self.files.get(&number_of(id, "file-mock-")?)
    }
}

/// Files and batches behind a lock that is never held while something is answered.
#[derive(Debug, Default)]
pub(super) struct Store(Mutex<Shelf>);

impl Store {
    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(number: u64) -> String {
    format!("file-mock-{number}")
}

/// The number in an id.
pub(super) fn number_of(id: &str, prefix: &str) -> Option<u64> {
    id.strip_prefix(prefix)?.parse().ok()
}

fn object(number: u64, file: &File) -> Value {
    json!({
        "id": id(number), "object": "file", "bytes": file.bytes.len(), "created_at": file.created,
        "expires_at": null, "filename": file.name, "purpose": file.purpose, "status": "processed",
        "status_details": null
    })
}

/// One page of a list whose newest entry is first: those after `after` (older ones), at most `limit` (20, up to `most`),
/// and whether there are more.
pub(super) fn page<T>(
    entries: &BTreeMap<u64, T>,
    after: Option<u64>,
    limit: Option<&str>,
    most: usize,
    kept: impl Fn(&T) -> bool,
) -> Result<(Vec<u64>, bool), Refusal> {
    let limit = match limit {
        None => 20,
        Some(text) => text.parse().ok().filter(|limit| (1..=most).contains(limit)).ok_or_else(|| {
            Refusal::bad(Some("limit"), format!("Invalid 'limit': it must be an integer from 1 to {most}."))
        })?,
    };
    let older = entries.range(..after.unwrap_or(u64::MAX)).rev();
    let mut numbers: Vec<u64> =
        older.filter(|(_, entry)| kept(entry)).map(|(number, _)| *number).take(limit + 1).collect();
    let more = numbers.len() > limit;
    numbers.truncate(limit);
    Ok((numbers, more))
}

/// A list as OpenAI writes it.
pub(super) fn listed(data: Vec<Value>, more: bool) -> Value {
    let id = |entry: Option<&Value>| entry.map_or(Value::Null, |entry| entry["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})
}

/// A result as a reply.
pub(super) fn answered(family: Family, result: Result<Value, Refusal>) -> HttpResponse<Body> {
    match result {
        Ok(body) => json_reply(200, &body),
        Err(refusal) => refuse(family, &refusal),
    }
}

/// `POST /v1/files`
pub(super) async fn upload(State(desk): State<Arc<Desk>>, mut form: Multipart) -> HttpResponse<Body> {
    let (mut purpose, mut content) = (None, None);
    let broken = |error| Refusal::bad(None, format!("The form cannot be read: {error}"));
    let read = async {
        while let Some(field) = form.next_field().await.map_err(broken)? {
            match field.name().unwrap_or_default() {
                "purpose" => purpose = Some(field.text().await.map_err(broken)?),
                "file" => {
                    let name = field.file_name().unwrap_or("upload").to_owned();
                    content = Some((name, field.bytes().await.map_err(broken)?));
                }
                // OpenAI has `expires_after` too; nothing here lives that long.
                _ => drop(field.bytes().await.map_err(broken)?),
            }
        }
        let purpose = purpose.ok_or_else(|| Refusal::missing("purpose"))?;
        let (name, bytes) = content.ok_or_else(|| Refusal::missing("file"))?;
        let known = ["batch", "fine-tune", "assistants", "vision", "user_data", "evals"];
        if !known.contains(&purpose.as_str()) {
            let message = format!("'{purpose}' is not one of {known:?} - 'purpose'");
            return Err(Refusal::bad(Some("purpose"), message));
        }
        if purpose == "batch" && !name.ends_with(".jsonl") {
            return Err(Refusal::bad(None, "Invalid file format for Batch API. Must be .jsonl"));
        }
        if bytes.len() > MOST_BYTES {
            return Err(Refusal::new(413, None, format!("The file is larger than {MOST_BYTES} bytes.")));
        }
        let file = File { name, purpose, bytes, created: desk.clock.now() / 1000 };
        let mut shelf = desk.store.shelf();
        let number = shelf.number();
        let body = object(number, &file);
        shelf.files.insert(number, file);
        Ok(body)
    };
    let result: Result<Value, Refusal> = read.await;
    answered(Family::OpenAi, result)
}

/// `GET /v1/files`
pub(super) async fn list(State(desk): State<Arc<Desk>>, uri: Uri) -> HttpResponse<Body> {
    desk.settle();
    let query = uri.query().unwrap_or_default();
    let shelf = desk.store.shelf();
    let after = parameter(query, "after").and_then(|id| number_of(id, "file-mock-"));
    let purpose = parameter(query, "purpose");
    let page = page(&shelf.files, after, parameter(query, "limit"), 10_000, |file: &File| {
        purpose.is_none_or(|purpose| file.purpose == purpose)
    });
    let result = page.map(|(numbers, more)| {
        let files = numbers.iter().filter_map(|number| Some(object(*number, shelf.files.get(number)?)));
        listed(files.collect(), more)
    });
    answered(Family::OpenAi, result)
}

/// `GET /v1/files/{id}`
pub(super) async fn get(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    desk.settle();
    let shelf = desk.store.shelf();
    let file = number_of(&id, "file-mock-").and_then(|number| Some((number, shelf.files.get(&number)?)));
    let result = file.map(|(number, file)| object(number, file));
    answered(Family::OpenAi, result.ok_or_else(|| Refusal::not_found("File object", &id)))
}

/// `GET /v1/files/{id}/content`
pub(super) async fn content(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    desk.settle();
    let bytes = desk.store.shelf().file(&id).map(|file| file.bytes.clone());
    match bytes {
        Some(bytes) => {
            let mut http = reply(200, "application/octet-stream", String::new());
            *http.body_mut() = Body::from(bytes);
            http
        }
        None => refuse(Family::OpenAi, &Refusal::not_found("File object", &id)),
    }
}

/// `DELETE /v1/files/{id}`
pub(super) async fn delete(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> HttpResponse<Body> {
    let number = number_of(&id, "file-mock-");
    let gone = number.and_then(|number| desk.store.shelf().files.remove(&number));
    let result = gone.map(|_| json!({"id": id, "object": "file", "deleted": true}));
    answered(Family::OpenAi, result.ok_or_else(|| Refusal::not_found("File object", &id)))
}
