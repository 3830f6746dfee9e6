//! Which path leads where.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, Response as HttpResponse, Uri};
use axum::middleware::Next;
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::flow::{authorized, complete, demanded, json_reply, refuse, spoil};
use super::ledger::label;
use super::rules::{Armed, Case, NAMES, Rule};
use super::socket::Fuse;
use super::wire::{Family, Format, Refusal};
use super::{Desk, Payer, anthropic, batches, files, gemini, message_batches, ollama, openai};

/// All routes.
pub(super) fn router(desk: Arc<Desk>) -> Router {
    let side = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1beta/models", get(models))
        .route("/api/tags", get(models))
        .route("/api/show", post(show))
        .route("/api/version", get(async || Json(json!({"version": "0.0.0"}))))
        .route("/v1/messages/batches", post(message_batches::create).get(message_batches::list))
        .route("/v1/messages/batches/{id}", get(message_batches::get).delete(message_batches::delete))
        .route("/v1/messages/batches/{id}/results", get(message_batches::results))
        .route("/v1/messages/batches/{id}/cancel", post(message_batches::cancel))
        .nest("/v1", storage())
        .nest("/openai", storage())
        .nest("/openai/v1", storage())
        .layer(axum::middleware::from_fn_with_state(desk.clone(), guard));
    Router::new()
        .route("/v1/chat/completions", completions(Format::Chat))
        .route("/v1/completions", completions(Format::Text))
        .route("/v1/responses", completions(Format::Responses))
        .route("/v1/messages", completions(Format::Messages))
        .route("/api/chat", completions(Format::OllamaChat))
        .route("/api/generate", completions(Format::OllamaGenerate))
        .route("/openai/deployments/{deployment}/chat/completions", deployed(Format::AzureChat))
        .route("/openai/deployments/{deployment}/completions", deployed(Format::AzureText))
        .route("/v1beta/models/{call}", post(generate))
        .merge(side)
        .route("/ledger", get(ledger))
        .route("/reset", post(async |State(desk): State<Arc<Desk>>| desk.reset()))
        .route("/faults", get(faults).post(set_faults).delete(clear_faults))
        .route("/clock/advance", post(advance))
        .fallback(async || refuse(Family::OpenAi, &Refusal::no_route()))
        .layer(DefaultBodyLimit::disable())
        .with_state(desk)
}

/// Files and batches, at OpenAI and at Azure.
fn storage() -> Router<Arc<Desk>> {
    Router::new()
        .route("/files", post(files::upload).get(files::list))
        .route("/files/{id}", get(files::get).delete(files::delete))
        .route("/files/{id}/content", get(files::content))
        .route("/batches", post(batches::create).get(batches::list))
        .route("/batches/{id}", get(batches::get))
        .route("/batches/{id}/cancel", post(batches::cancel))
}

type Desks = State<Arc<Desk>>;
type Connection = ConnectInfo<Fuse>;

fn completions(format: Format) -> MethodRouter<Arc<Desk>> {
    post(move |State(desk): Desks, ConnectInfo(fuse): Connection, uri: Uri, headers: HeaderMap, body: Bytes| {
        complete(desk, format, None, fuse, uri, headers, body)
    })
}

fn deployed(format: Format) -> MethodRouter<Arc<Desk>> {
    post(
        move |State(desk): Desks,
              ConnectInfo(fuse): Connection,
              Path(deployment): Path<String>,
              uri: Uri,
              headers: HeaderMap,
              body: Bytes| complete(desk, format, Some(deployment), fuse, uri, headers, body),
    )
}

async fn generate(
    State(desk): Desks,
    ConnectInfo(fuse): Connection,
    Path(call): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> HttpResponse<Body> {
    match call.rsplit_once(':') {
        Some((model, "generateContent")) => {
            complete(desk, Format::Gemini, Some(model.to_owned()), fuse, uri, headers, body).await
        }
        _ => refuse(Family::Gemini, &Refusal::no_route()),
    }
}

/// Whose API a route that is not for completions belongs to.
fn family(path: &str, headers: &HeaderMap) -> Family {
    if path.starts_with("/v1beta") {
        Family::Gemini
    } else if path.starts_with("/openai") {
        Family::Azure
    } else if path.starts_with("/api") {
        Family::Ollama
    } else if path.starts_with("/v1/messages") || headers.contains_key("anthropic-version") {
        Family::Anthropic
    } else {
        Family::OpenAi
    }
}

/// Before every route that is not for completions: the key, and faults by header and by path.
async fn guard(State(desk): Desks, mut request: Request, next: Next) -> HttpResponse<Body> {
    let path = request.uri().path().to_owned();
    let family = family(&path, request.headers());
    let query = request.uri().query().unwrap_or_default();
    // The newer address of Azure's is the version.
    let query = if path.starts_with("/openai/v1/") { "api-version=v1" } else { query };
    let let_in = authorized(&desk.options, family, request.headers(), query);
    let (key, fault) = match let_in.and_then(|key| Ok((key, demanded(request.headers())?))) {
        Ok(both) => both,
        Err(refusal) => return refuse(family, &refusal),
    };
    let key = label(key.as_deref().unwrap_or_default());
    let case = Case { model: "", key: &key, prompt: "", path: &path, batch: false };
    let fault = fault.or_else(|| desk.rules().strike(&case));
    let fuse = request.extensions().get::<Connection>().map(|ConnectInfo(fuse)| fuse.clone());
    if let (Some(fault), Some(fuse)) = (&fault, &fuse)
        && fault.billed
    {
        // What is billed is done, though its word does not arrive: a batch is there that its maker has not heard of.
        request.extensions_mut().insert(Payer(key));
        let done = next.run(request).await;
        let bytes = axum::body::to_bytes(done.into_body(), usize::MAX).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        return spoil(&desk, fault.kind.clone(), family, fuse, "application/json", text).await;
    }
    if let (Some(fault), Some(fuse)) = (fault, fuse) {
        return spoil(&desk, fault.kind, family, &fuse, "application/json", r#"{"object": "spoilt"}"#.into()).await;
    }
    request.extensions_mut().insert(Payer(key));
    next.run(request).await
}

/// The models that are served.
fn names(desk: &Desk) -> Vec<String> {
    desk.options.models.keys().cloned().collect()
}

async fn models(State(desk): Desks, uri: Uri, headers: HeaderMap) -> HttpResponse<Body> {
    let names = names(&desk);
    let list = match family(uri.path(), &headers) {
        Family::OpenAi | Family::Azure => openai::models(&names),
        Family::Anthropic => anthropic::models(&names),
        Family::Ollama => ollama::tags(&names),
        Family::Gemini => gemini::models(&names),
    };
    json_reply(200, &list)
}

async fn model(State(desk): Desks, Path(id): Path<String>, uri: Uri, headers: HeaderMap) -> HttpResponse<Body> {
    let family = family(uri.path(), &headers);
    match (desk.options.models.contains_key(&id), family) {
        (false, _) => refuse(family, &Refusal::unknown_model(&id)),
        (true, Family::Anthropic) => json_reply(200, &anthropic::model(&id)),
        (true, _) => json_reply(200, &openai::model(&id)),
    }
}

async fn show(State(desk): Desks, body: Bytes) -> HttpResponse<Body> {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = body["model"].as_str().or(body["name"].as_str()).unwrap_or_default();
    let name = name.strip_suffix(":latest").unwrap_or(name);
    match desk.options.models.contains_key(name) {
        true => json_reply(200, &ollama::show(name)),
        false => refuse(Family::Ollama, &Refusal::new(404, None, format!("model '{name}' not found"))),
    }
}

async fn ledger(State(desk): Desks) -> HttpResponse<Body> {
    desk.settle();
    let ledger = desk.book().ledger.clone();
    json_reply(200, &serde_json::to_value(ledger).unwrap_or_default())
}

async fn faults(State(desk): Desks) -> HttpResponse<Body> {
    let known: Vec<Value> = NAMES.iter().map(|(name, about)| json!({"name": name, "about": about})).collect();
    json_reply(200, &json!({"faults": desk.rules().texts(), "known": known}))
}

async fn set_faults(State(desk): Desks, body: Bytes) -> HttpResponse<Body> {
    let help = "It must be {\"faults\": [\"503:rate=0.1\", ...]}.";
    let read = || -> Result<Vec<Rule>, String> {
        let body: Value = serde_json::from_slice(&body).map_err(|error| format!("{error}. {help}"))?;
        let list = body.as_array().or_else(|| body["faults"].as_array()).ok_or(help)?;
        let rule = |text: &Value| text.as_str().ok_or(help)?.parse::<Rule>().map_err(|error| error.to_string());
        list.iter().map(rule).collect()
    };
    match read() {
        Ok(rules) => {
            desk.arm(Armed::new(rules));
            json_reply(200, &json!({"faults": desk.rules().texts()}))
        }
        Err(message) => refuse(Family::OpenAi, &Refusal::bad(Some("faults"), message)),
    }
}

async fn clear_faults(State(desk): Desks) -> HttpResponse<Body> {
    desk.arm(Armed::default());
    json_reply(200, &json!({"faults": []}))
}

async fn advance(State(desk): Desks, body: Bytes) -> HttpResponse<Body> {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let by = body["seconds"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match by {
        Some(by) => {
            desk.clock.advance(by);
            desk.settle();
            json_reply(200, &json!({"now": desk.clock.now() / 1000}))
        }
        None => refuse(Family::OpenAi, &Refusal::bad(Some("seconds"), "It must be {\"seconds\": N}, N not below 0.")),
    }
}
