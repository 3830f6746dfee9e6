//! Keys are planted where each provider's are kept, endpoints give them back in every way they can think of, and
//! everything that the program wrote is searched: both streams, every file of the run, the store, what is exported.

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use farthing::backend::Endpoints;
use farthing::client::{Client, Create, LogForm};
use farthing::diagnostic::Source;
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Done, Home};

/// It stands in every key and nowhere else.
const NEEDLE: &str = "pLaNtEd7Qx";
/// As real ones may be: with signs that JSON may write in several ways. The second begins with the first.
const KEYS: [&str; 3] =
    ["sk-pLaNtEd7Qx/one+0123456789", "sk-pLaNtEd7Qx/one+0123456789/and-more==", "sk-pLaNtEd7Qx\"three\\0123456789"];

/// The providers over HTTP, what their base URL ends with, and where models are asked.
const PROVIDERS: [(&str, &str); 5] =
    [("openai", "/v1"), ("azure", ""), ("anthropic", "/v1"), ("ollama", ""), ("gemini", "/v1beta")];

#[derive(Clone, Default)]
struct Seen {
    keys: Arc<Mutex<BTreeSet<String>>>,
    count: Arc<Mutex<u64>>,
}

/// An endpoint for all providers that cannot keep a secret. Under `/refusing` it refuses every key.
struct Gossip {
    runtime: tokio::runtime::Runtime,
    url: String,
    seen: Seen,
}

impl Gossip {
    fn start() -> Gossip {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let seen = Seen::default();
        let router = Router::new().fallback(gossip).with_state(seen.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Gossip { runtime, url, seen }
    }
}

/// JSON with the key written plainly, with its slashes escaped, or with all of it escaped.
fn written(body: &Value, key: &str, way: u64) -> String {
    let text = body.to_string();
    let quoted = json!(key).to_string();
    let quoted = quoted.trim_matches('"');
    match way % 3 {
        0 => text,
        1 => text.replace(quoted, &quoted.replace('/', "\\/")),
        _ => text.replace(quoted, &key.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<String>()),
    }
}

async fn gossip(State(seen): State<Seen>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let names = ["authorization", "api-key", "x-api-key", "x-goog-api-key"];
    let key = names.iter().find_map(|name| headers.get(*name)).and_then(|value| value.to_str().ok());
    let key = key.unwrap_or_default().trim_start_matches("Bearer ").to_owned();
    seen.keys.lock().unwrap().insert(key.clone());
    let number = {
        let mut count = seen.count.lock().unwrap();
        *count += 1;
        *count
    };
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = uri.path();
    let (mut status, mut wait) = (200, "");
    if path.starts_with("/refusing") {
        status = 401;
    } else if number > 5 {
        (status, wait) = match number % 11 {
            3 => (500, "1"),
            5 => (429, "1"),
            // The baseline must be able to win.
            7 if asked["model"] == "mock-large" || path.contains("mock-large") => (400, ""),
            _ => (200, ""),
        };
    }
    let text = format!("The answer is 4, and your key is {key}, once more: {key}!");
    let reply = if status != 200 {
        // 400: too long, so that only this evaluation fails. The padding makes messages end within a key.
        let message =
            format!("maximum context length; {}{key} and {key}{}", "x".repeat(number as usize % 37), key.repeat(40));
        json!({"error": {"message": message, "type": key, "code": if status == 400 { "context_length_exceeded" } else { &key },
               "status": key, "details": [{"reason": key}]}, "request_id": key})
    } else if path.contains("/messages") {
        json!({"id": key, "type": "message", "model": key, "content": [{"type": "text", "text": text}],
               "stop_reason": key, "usage": {"input_tokens": 9, "output_tokens": 4}})
    } else if path.contains("/api/chat") {
        json!({"model": key, "message": {"role": "assistant", "content": text}, "done": true, "done_reason": key,
               "prompt_eval_count": 9, "eval_count": 4})
    } else if path.contains(":generateContent") {
        let n = asked["generationConfig"]["candidateCount"].as_u64().unwrap_or(1);
        let one = |at| json!({"index": at, "content": {"parts": [{"text": text}]}, "finishReason": if number % 2 == 0 { "STOP" } else { &key }});
        json!({"candidates": (0..n).map(one).collect::<Vec<_>>(), "modelVersion": key, "responseId": key,
               "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4 * n, "totalTokenCount": 9 + 4 * n}})
    } else {
        let n = asked["n"].as_u64().unwrap_or(1);
        let calls = json!([{"id": key, "type": "function", "function": {"name": key, "arguments": json!({ "key": key }).to_string()}}]);
        let one = |at| {
            json!({"index": at, "finish_reason": key, "message": {"role": "assistant", "content": text,
                   "tool_calls": if number % 2 == 0 { calls.clone() } else { Value::Null }},
                   "logprobs": {"content": [{"token": key, "logprob": -0.1, "top_logprobs": []}]}})
        };
        json!({"id": key, "model": key, "system_fingerprint": key, "choices": (0..n).map(one).collect::<Vec<_>>(),
               "usage": {"prompt_tokens": 9, "completion_tokens": 4 * n, "total_tokens": 9 + 4 * n}})
    };
    let status = StatusCode::from_u16(status).unwrap();
    let headers = [("x-request-id", key.as_str()), ("retry-after-ms", wait), ("x-ratelimit-reset-requests", &key)];
    (status, headers, written(&reply, &key, number)).into_response()
}

/// A home whose endpoint takes two keys from the environment and one from a file.
fn home(provider: &str, base_url: &str) -> Home {
    let home = Home::new(8);
    let endpoint = format!("provider = \"{provider}\"\nbase_url = \"{base_url}\"");
    let more = "api_key_env = [\"PLANTED_ONE\", \"PLANTED_TWO\"]\napi_key_file = \"key\"\nmax_retries = 1\n";
    home.write("farthing.toml", support::endpoints(&endpoint, more));
    home.write("key", format!("{}\n", KEYS[2]));
    std::fs::set_permissions(home.path("key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    home
}

fn with_keys(command: &mut Command) -> &mut Command {
    command.env("PLANTED_ONE", KEYS[0]).env("PLANTED_TWO", KEYS[1])
}

/// The most talkative program there can be.
fn run(home: &Home, line: &str) -> Done {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    support::done(with_keys(home.command(&arguments).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full")))
}

#[track_caller]
fn clean(what: &str, bytes: &[u8]) {
    for needle in [NEEDLE, "0123456789", "and-more=="] {
        let at = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        if let Some(at) = at {
            let around = String::from_utf8_lossy(&bytes[at.saturating_sub(300)..bytes.len().min(at + 100)]);
            panic!("{what} holds a key: ...{around}...");
        }
    }
}

#[track_caller]
fn all_clean(home: &Home, runs: &[(&str, Done)]) {
    for (line, done) in runs {
        clean(&format!("stdout of {line}"), done.stdout.as_bytes());
        clean(&format!("stderr of {line}"), done.stderr.as_bytes());
    }
    for (path, bytes) in home.files() {
        if path.as_os_str() != "key" {
            clean(&path.display().to_string(), &bytes);
        }
    }
}

fn nothing_keeps_a_key(provider: &str, path: &str) {
    let server = Gossip::start();
    let home = home(provider, &format!("{}{path}", server.url));
    let lines = [
        ("models --log-format json", 0),
        ("tune task --budget 5 --max-trials 3 --out run --concurrency 4 --log-format json", 0),
        ("test run --budget 1 --log-format json", 0),
        ("evaluate task --set prompt=steps --set model=mock-large --set n=1 --refresh --json --log trace", 0),
        ("report run --log-format json", 0),
        ("cache export cassette.jsonl --log-format json", 0),
        ("cache stats --log-format json", 0),
    ];
    let mut runs: Vec<(&str, Done)> = lines.iter().map(|(line, code)| (*line, run(&home, line).ended(*code))).collect();
    // The endpoint refuses every key, at a fresh store.
    let text = home.read("farthing.toml").replace(&server.url, &format!("{}/refusing", server.url));
    home.write("farthing.toml", text);
    let line = "evaluate task --set prompt=direct --set model=mock-small --set n=1 --store other.db --log-format json";
    runs.push((line, run(&home, line).ended(5)));
    all_clean(&home, &runs);
    // It was all about something: every key was used and given back, and what was kept shows where.
    assert_eq!(server.seen.keys.lock().unwrap().iter().map(String::as_str).collect::<Vec<_>>(), {
        let mut keys = KEYS.to_vec();
        keys.sort_unstable();
        keys
    });
    assert!(home.read("cassette.jsonl").contains("your key is (secret), once more: (secret)!"));
    assert!(runs.last().unwrap().1.stderr.contains("(secret)"), "{:?}", runs.last());
    assert!(runs[1].1.stderr.contains("gen_ai.provider.name") && runs[3].1.stderr.contains("gen_ai.provider.name"));
    for line in runs[1].1.stderr.lines().filter(|line| line.starts_with('{')).take(50) {
        assert!(serde_json::from_str::<Value>(line).unwrap()["level"].is_string(), "{line}");
    }
}

#[test]
fn openai_keys_are_kept_nowhere() {
    nothing_keeps_a_key(PROVIDERS[0].0, PROVIDERS[0].1);
}

#[test]
fn azure_keys_are_kept_nowhere() {
    nothing_keeps_a_key(PROVIDERS[1].0, PROVIDERS[1].1);
}

#[test]
fn anthropic_keys_are_kept_nowhere() {
    nothing_keeps_a_key(PROVIDERS[2].0, PROVIDERS[2].1);
}

#[test]
fn ollama_keys_are_kept_nowhere() {
    nothing_keeps_a_key(PROVIDERS[3].0, PROVIDERS[3].1);
}

#[test]
fn gemini_keys_are_kept_nowhere() {
    nothing_keeps_a_key(PROVIDERS[4].0, PROVIDERS[4].1);
}

#[test]
fn the_clients_log_has_no_keys() {
    for (provider, path) in PROVIDERS {
        let server = Gossip::start();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), KEYS[1]).unwrap();
        let endpoint = format!("provider = \"{provider}\"\nbase_url = \"{}{path}\"", server.url);
        let text = support::endpoints(&endpoint, "api_key_file = \"key\"\nmax_retries = 0\n");
        let endpoints = Endpoints::read(&Source::new("farthing.toml", text), folder.path()).unwrap();
        let client = Client::builder().endpoints(endpoints).in_memory().concurrency(2).build().unwrap();
        let mut shown = String::new();
        for form in [LogForm::Full, LogForm::Compact] {
            client.start_log(form);
            let asks = (0..24)
                .map(|number| Create::chat("mock-small").user(format!("{number}?")).max_tokens(20).temperature(0.5));
            let answers: Vec<_> = server.runtime.block_on(client.create_many(asks).collect());
            let failed = answers.iter().filter(|answer| answer.is_err()).count();
            assert!(failed > 0 && failed < answers.len(), "{failed}");
            shown += &format!("{answers:?} {}", json!(client.logged()));
        }
        assert!(shown.contains("(secret)"));
        clean(provider, shown.as_bytes());
    }
}

#[test]
fn a_key_file_that_others_may_read_warns() {
    let server = support::server(farthing::serve::mock::Options::default());
    let home = home("openai", &server.url());
    let line = "evaluate task --set prompt=direct --set model=mock-small --set n=1";
    let ask = |more: &[&str], mode: u32| {
        std::fs::set_permissions(home.path("key"), std::fs::Permissions::from_mode(mode)).unwrap();
        let arguments: Vec<&str> = line.split_whitespace().chain(more.iter().copied()).collect();
        support::done(with_keys(&mut home.command(&arguments))).ended(0).stderr
    };
    let warned = ask(&[], 0o644);
    assert!(warned.contains("chmod 600") && warned.contains("key"), "{warned}");
    assert!(!ask(&[], 0o600).contains("chmod"));
    assert!(ask(&["--quiet"], 0o644).contains("chmod"), "only progress is left out");
    let logged = ask(&["--log-format", "json", "--quiet", "--log", "warn"], 0o640);
    let line: Value = serde_json::from_str(logged.lines().next().unwrap()).unwrap();
    assert!(line["level"] == "WARN" && line["fields"]["message"].as_str().unwrap().contains("chmod 600"), "{logged}");
}

#[test]
fn a_key_written_into_a_file_is_refused_and_not_shown() {
    let home = Home::new(1);
    let key = KEYS[0];
    for (wrong, said) in [
        (format!("api_key = \"{key}\""), "`api_key` would hold a key in a file"),
        (format!("token = \"{key}\""), "`token` would hold a key"),
        (format!("api_key = {key}"), ""),
        (format!("api_key_env = \"{key}\""), "no name of an environment variable"),
        (format!("api_key_env = [\"HOME\", \"{key}\"]"), "no name of an environment variable"),
        (format!("api_key_env = {key}"), ""),
        (format!("headers = {{ Authorization = \"Bearer {key}\" }}"), "the header `Authorization` would hold a key"),
        (format!("base_url = \"https://me:{NEEDLE}@example.com/v1\""), "no name and no password"),
        (format!("base_url = \"https://example.com/v1?api_key={key}\""), "before any `?` or `#`"),
        (format!("base_url = \"https://example.com/v1#{key}\""), "before any `?` or `#`"),
        (format!("base_url = \"https://me:{NEEDLE}@host:99999/v1\""), "this is no address"),
        (format!("base_url = \"https://host name/v1?key={key}\""), "this is no address"),
        (format!("base_url = \"https://me:{NEEDLE}@example.com/v1"), "not valid here"),
    ] {
        home.write("farthing.toml", format!("[endpoints.x]\nprovider = \"openai\"\n{wrong}\n"));
        let done = run(&home, "models").ended(2);
        assert!(done.stderr.contains(said), "{wrong}: {}", done.stderr);
        clean(&wrong, done.stderr.as_bytes());
    }
}
