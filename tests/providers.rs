//! Every provider over real HTTP: what arrives at the endpoint, under which address and key, and what is made of its reply.

mod support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response as HttpResponse};
use farthing::backend::http::Http;
use farthing::backend::{self, About, Auth, Backend, Endpoint, Endpoints, ModelKind, ProviderKind};
use farthing::diagnostic::Source;
use farthing::provider::{FailureKind, FinishReason, Input, Message, Request};
use farthing::serve::mock::{MockServer, Options};
use serde_json::{Value, json};

/// A request as it arrived.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Value,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

type Script = Arc<dyn Fn(&Seen) -> HttpResponse + Send + Sync>;

#[derive(Clone)]
struct Desk {
    seen: Arc<Mutex<Vec<Seen>>>,
    script: Script,
}

/// An endpoint that does as it is told.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(script: impl Fn(&Seen) -> HttpResponse + Send + Sync + 'static) -> Server {
        async fn serve(State(desk): State<Desk>, request: HttpRequest) -> HttpResponse {
            let (parts, body) = request.into_parts();
            let bytes: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let seen = Seen { path: parts.uri.to_string(), headers: parts.headers, body };
            desk.seen.lock().unwrap().push(seen.clone());
            (desk.script)(&seen)
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let desk = Desk { seen: seen.clone(), script: Arc::new(script) };
        let router = Router::new().fallback(serve).with_state(desk);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Server { url, seen }
    }

    /// One that gives this to everybody.
    async fn saying(reply: Value) -> Server {
        Server::start(move |_| said(200, &reply)).await
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }
}

fn said(status: u16, body: &Value) -> HttpResponse {
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}

fn chat(text: &str) -> Value {
    json!({"model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
           "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}})
}

fn request(model: &str, params: Value) -> Request {
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let input = Input::Messages(vec![message("system", "be brief"), message("user", "héllo 😀\n")]);
    Request { model: model.into(), input, params: serde_json::from_value(params).unwrap(), n: 1 }
}

/// An endpoint with a key in a file.
fn endpoint(provider: ProviderKind, base_url: String) -> (Endpoint, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("key");
    std::fs::write(&path, "sk-planted-0123456789\n").unwrap();
    let timeout = Duration::from_secs(20);
    let endpoint = Endpoint {
        base_url,
        vendor: false,
        api_key_envs: vec![],
        api_key_file: Some(path),
        timeout,
        ..Endpoint::of(provider, "x")
    };
    (endpoint, folder)
}

#[tokio::test]
async fn openai() {
    let server = Server::saying(chat("hi")).await;
    let (endpoint, _folder) = endpoint(ProviderKind::Openai, format!("{}/v1", server.url));
    let backend = backend::open(&endpoint).unwrap();
    let request = Request { n: 3, ..request("m", json!({"temperature": 0.5, "top_k": 4})) };
    assert!(backend.several(&request));
    let response = backend.call(&request, 1).await.unwrap();
    assert_eq!(
        (response.samples[0].text.as_str(), response.prompt_tokens, response.completion_tokens()),
        ("hi", 11, 2)
    );
    let seen = server.only();
    assert_eq!(
        (seen.path.as_str(), seen.header("authorization")),
        ("/v1/chat/completions", Some("Bearer sk-planted-0123456789"))
    );
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!((&seen.body["n"], &seen.body["top_k"], &seen.body["temperature"]), (&json!(2), &json!(4), &json!(0.5)));
    assert_eq!(seen.body["messages"][1]["content"], json!("héllo 😀\n"));
}

#[tokio::test]
async fn openai_responses_and_texts() {
    let reply = json!({"status": "completed", "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
        "usage": {"input_tokens": 11, "output_tokens": 40, "output_tokens_details": {"reasoning_tokens": 38}}});
    let server = Server::start(move |seen| match seen.path.as_str() {
        "/v1/responses" => said(200, &reply),
        "/v1/completions" => said(200, &json!({"choices": [{"text": " there", "finish_reason": "length"}]})),
        _ => said(404, &json!({})),
    })
    .await;
    let text = format!(
        "[endpoints.x]\nprovider = \"openai\"\nbase_url = \"{}/v1\"\n[models.thinker]\nid = \"o9\"\nkind = \"responses\"\n",
        server.url
    );
    let endpoints = Endpoints::read(&Source::new("farthing.toml", text), std::path::Path::new(".")).unwrap();
    let backend = backend::open(&endpoints.list[0]).unwrap();
    let asked = Request { n: 4, ..request("o9", json!({"max_tokens": 99})) };
    assert!(!backend.several(&asked));
    let response = backend.call(&asked, 0).await.unwrap();
    assert_eq!((response.samples.len(), response.completion_tokens(), response.reasoning_tokens), (1, 40, 38));
    assert_eq!(server.seen()[0].body["max_output_tokens"], json!(99));
    let text = Request { input: Input::Text("hello".into()), ..request("base", json!({})) };
    let response = backend.call(&text, 0).await.unwrap();
    assert_eq!((response.samples[0].text.as_str(), response.estimated), (" there", true));
    assert_eq!(response.samples[0].finish_reason, FinishReason::LENGTH);
}

#[tokio::test]
async fn azure() {
    let server = Server::saying(chat("hi")).await;
    let (mut endpoint, _folder) = endpoint(ProviderKind::Azure, server.url.clone());
    endpoint.deployments = [("gpt-4o".to_owned(), "ours".to_owned())].into();
    let ask = request("gpt-4o", json!({}));
    backend::open(&endpoint).unwrap().call(&ask, 0).await.unwrap();
    let seen = server.only();
    assert_eq!(seen.path, "/openai/deployments/ours/chat/completions?api-version=2024-10-21");
    assert_eq!((seen.header("api-key"), seen.header("authorization")), (Some("sk-planted-0123456789"), None));
    endpoint.auth = Some(Auth::Bearer);
    endpoint.base_url = format!("{}/openai/v1", server.url);
    backend::open(&endpoint).unwrap().call(&ask, 0).await.unwrap();
    let seen = &server.seen()[1];
    assert_eq!((seen.path.as_str(), &seen.body["model"]), ("/openai/v1/chat/completions", &json!("ours")));
    assert_eq!((seen.header("api-key"), seen.header("authorization")), (None, Some("Bearer sk-planted-0123456789")));
}

#[tokio::test]
async fn anthropic() {
    let server = Server::saying(json!({"type": "message", "model": "m", "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn", "usage": {"input_tokens": 3, "cache_read_input_tokens": 8, "output_tokens": 2}}))
    .await;
    let (mut endpoint, _folder) = endpoint(ProviderKind::Anthropic, format!("{}/v1", server.url));
    endpoint.headers = [("anthropic-beta".to_owned(), "x-1".to_owned())].into();
    let backend = backend::open(&endpoint).unwrap();
    let asked = Request { n: 3, ..request("claude-x", json!({"max_tokens": 9, "stop": ["END"]})) };
    assert!(!backend.several(&asked));
    let response = backend.call(&asked, 0).await.unwrap();
    assert_eq!((response.samples.len(), response.prompt_tokens, response.cached_tokens), (1, 11, 8));
    let seen = server.only();
    assert_eq!((seen.path.as_str(), seen.header("x-api-key")), ("/v1/messages", Some("sk-planted-0123456789")));
    assert_eq!((seen.header("anthropic-version"), seen.header("anthropic-beta")), (Some("2023-06-01"), Some("x-1")));
    assert_eq!((&seen.body["system"], &seen.body["stop_sequences"]), (&json!("be brief"), &json!(["END"])));
    // What it cannot express is never sent.
    let error = backend.call(&request("claude-x", json!({"max_tokens": 9, "seed": 1})), 0).await.unwrap_err();
    assert!(
        error.failure.kind == FailureKind::BadRequest
            && !error.may_be_billed
            && error.failure.message.contains("`seed`")
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn ollama() {
    let reply = json!({"model": "m", "message": {"role": "assistant", "content": "hi"}, "done": true, "done_reason": "stop",
        "prompt_eval_count": 11, "eval_count": 2});
    let server = Server::saying(reply).await;
    let plain = Endpoint { base_url: server.url.clone(), ..Endpoint::of(ProviderKind::Ollama, "x") };
    let plain = Endpoint { api_key_envs: vec![], ..plain };
    let response = backend::open(&plain).unwrap().call(&request("llama3", json!({"max_tokens": 9})), 0).await.unwrap();
    assert_eq!((response.prompt_tokens, response.completion_tokens(), response.estimated), (11, 2, false));
    let seen = server.only();
    assert_eq!((seen.path.as_str(), seen.header("authorization")), ("/api/chat", None));
    assert_eq!((&seen.body["options"]["num_predict"], &seen.body["stream"]), (&json!(9), &json!(false)));
}

#[tokio::test]
async fn gemini() {
    let candidate =
        |at: u32, text: &str| json!({"index": at, "content": {"parts": [{"text": text}]}, "finishReason": "STOP"});
    let server = Server::saying(json!({"candidates": [candidate(0, "hi"), candidate(1, "ho")], "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 4, "thoughtsTokenCount": 20, "totalTokenCount": 35}}))
    .await;
    let (endpoint, _folder) = endpoint(ProviderKind::Gemini, format!("{}/v1beta", server.url));
    let asked = Request { n: 2, ..request("gemini-2.5-flash", json!({"stop": ["END"]})) };
    let response = backend::open(&endpoint).unwrap().call(&asked, 0).await.unwrap();
    assert_eq!((response.samples.len(), response.completion_tokens(), response.reasoning_tokens), (2, 24, 20));
    let seen = server.only();
    assert_eq!(seen.path, "/v1beta/models/gemini-2.5-flash:generateContent");
    assert_eq!((seen.header("x-goog-api-key"), seen.header("authorization")), (Some("sk-planted-0123456789"), None));
    assert_eq!(seen.body["generationConfig"], json!({"stopSequences": ["END"], "candidateCount": 2}));
}

/// Cargo sets these two for every test: "farthing" and its version.
const TWO_KEYS: [&str; 2] = ["CARGO_PKG_NAME", "CARGO_PKG_VERSION"];

fn two_keys(url: &str) -> Endpoint {
    Endpoint { api_key_envs: TWO_KEYS.map(str::to_owned).to_vec(), ..Endpoint::at("x", &format!("{url}/v1")) }
}

#[tokio::test]
async fn a_key_that_is_refused_rests_while_others_work() {
    for (status, body) in [(401, json!({})), (429, json!({"error": {"code": "insufficient_quota"}})), (429, json!({}))]
    {
        let server = Server::start(move |seen| match seen.header("authorization") {
            Some("Bearer farthing") => said(status, &body),
            _ => said(200, &chat("hi")),
        })
        .await;
        let backend = backend::open(&two_keys(&server.url)).unwrap();
        for _ in 0..3 {
            backend.call(&request("m", json!({})), 0).await.unwrap();
        }
        let refused =
            server.seen().iter().filter(|seen| seen.header("authorization") == Some("Bearer farthing")).count();
        assert_eq!((refused, server.seen().len()), (1, 4), "{status}");
    }
    // All are refused: that is the answer, and neither key is in it.
    let server = Server::start(|seen| said(401, &json!({"error": {"message": seen.header("authorization")}}))).await;
    let error = backend::open(&two_keys(&server.url)).unwrap().call(&request("m", json!({})), 0).await.unwrap_err();
    assert_eq!((error.failure.kind, error.may_be_billed, server.seen().len()), (FailureKind::Authentication, false, 2));
    assert_eq!(error.failure.message, "HTTP 401: Bearer (secret)");
}

#[tokio::test]
async fn failures_say_how_long_to_wait_and_no_secrets() {
    let server = Server::start(|seen| {
        let key = seen.header("authorization").unwrap_or_default().to_owned();
        match seen.body["seed"].as_u64() {
            Some(0) => (
                StatusCode::TOO_MANY_REQUESTS,
                [("x-ratelimit-reset-requests", "6m0s"), ("x-ratelimit-remaining-requests", "0")],
                "slow",
            )
                .into_response(),
            Some(1) => (StatusCode::TOO_MANY_REQUESTS, "try again in 20ms").into_response(),
            Some(2) => said(429, &json!({"error": {"message": "Please try again in 1.5s."}})),
            Some(3) => said(200, &json!({"choices": [], "echo": key})),
            Some(4) => said(200, &chat(&format!("your key is {key}"))),
            Some(5) => (StatusCode::OK, format!("<html>{key}</html>")).into_response(),
            _ => said(403, &json!({"error": {"message": format!("the prompt was blocked by policy ({key})")}})),
        }
    })
    .await;
    let (endpoint, _folder) = endpoint(ProviderKind::Openai, format!("{}/v1", server.url));
    let backend = Http::open(&endpoint).unwrap();
    assert!(!format!("{backend:?}").contains("planted"));
    for (seed, kind, wait, billed) in [
        (0, FailureKind::RateLimit, Some(360_000), false),
        (1, FailureKind::RateLimit, Some(20), false),
        (2, FailureKind::RateLimit, Some(1500), false),
        (3, FailureKind::MalformedReply, None, true),
        (5, FailureKind::MalformedReply, None, true),
        (6, FailureKind::ContentFilter, None, false),
    ] {
        let error = backend.call(&request("m", json!({"seed": seed})), 0).await.unwrap_err();
        assert_eq!((error.failure.kind, error.may_be_billed), (kind, billed), "{seed}: {error:?}");
        assert_eq!(error.retry_after, wait.map(Duration::from_millis), "{seed}");
        assert!(!error.failure.message.contains("planted"), "{}", error.failure);
    }
    let answer = backend.call(&request("m", json!({"seed": 4})), 0).await.unwrap();
    assert_eq!(answer.samples[0].text, "your key is Bearer (secret)");
}

#[tokio::test]
async fn models_are_listed() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/v1/models" => said(200, &json!({"data": [{"id": "a"}, {"id": "b"}]})),
        "/api/tags" => said(200, &json!({"models": [{"name": "llama3:8b"}]})),
        "/v1beta/models" => said(200, &json!({"models": [{"name": "models/gemini-2.5-flash"}]})),
        "/openai/models?api-version=2024-10-21" => said(200, &json!({"data": [{"id": "gpt-4o"}]})),
        _ => said(401, &json!({"error": {"message": "who are you?"}})),
    })
    .await;
    for (provider, path, names) in [
        (ProviderKind::Openai, "/v1", vec!["a", "b"]),
        (ProviderKind::Anthropic, "/v1", vec!["a", "b"]),
        (ProviderKind::Ollama, "", vec!["llama3:8b"]),
        (ProviderKind::Gemini, "/v1beta", vec!["gemini-2.5-flash"]),
        (ProviderKind::Azure, "", vec!["gpt-4o"]),
    ] {
        let (endpoint, _folder) = endpoint(provider, format!("{}{path}", server.url));
        assert_eq!(Http::open(&endpoint).unwrap().models().await.unwrap(), names, "{provider:?}");
    }
    let (endpoint, _folder) = endpoint(ProviderKind::Openai, format!("{}/elsewhere", server.url));
    assert_eq!(Http::open(&endpoint).unwrap().models().await.unwrap_err().kind, FailureKind::Authentication);
}

#[test]
fn a_file_holds_no_keys() {
    let read = |line: &str| {
        let text = format!("[endpoints.x]\nprovider = \"openai\"\n{line}\n");
        Endpoints::read(&Source::new("farthing.toml", text), std::path::Path::new("."))
    };
    for header in ["Authorization", "x-api-key", "api-key", "X-Auth-Token", "Cookie"] {
        let error = read(&format!("headers = {{ {header} = \"sk-planted\" }}")).unwrap_err();
        assert!(error.to_string().contains(header), "{error}");
        assert!(format!("{error:?}").contains("api_key_env"), "{error:?}");
    }
    assert!(read("headers = { \"no header\" = \"x\" }").is_err());
    let good = read("headers = { X-Team = \"7\", OpenAI-Organization = \"o\" }\ndrop_params = [\"seed\"]").unwrap();
    assert_eq!((good.list[0].headers.len(), good.list[0].drop_params.len()), (2, 1));
    let error = read("[models.m]\ntokenizer = \"none.json\"").unwrap_err();
    assert!(error.to_string().contains("there is no file"), "{error}");
}

/// Ways to the mock endpoint, which has code of its own for every format: the endpoint, the model, and the text it is
/// asked by in place of messages.
fn ways(server: &MockServer) -> Vec<(&'static str, Endpoint, tempfile::TempDir)> {
    let root = format!("http://{}", server.address());
    let way = |name, provider, path: &str| {
        let (endpoint, folder) = endpoint(provider, format!("{root}{path}"));
        (name, endpoint, folder)
    };
    let mut responses = way("responses", ProviderKind::Openai, "/v1");
    let about = About { kind: Some(ModelKind::Responses), max_output_tokens: None };
    responses.1.about.insert("mock-small".to_owned(), about);
    vec![
        way("openai", ProviderKind::Openai, "/v1"),
        responses,
        way("azure", ProviderKind::Azure, ""),
        way("anthropic", ProviderKind::Anthropic, "/v1"),
        way("ollama", ProviderKind::Ollama, ""),
        way("gemini", ProviderKind::Gemini, "/v1beta"),
    ]
}

fn mock(options: Options) -> MockServer {
    let key = Some("sk-planted-0123456789".to_owned());
    MockServer::start(Options { key, models: support::server_prices(), ..options }).unwrap()
}

fn problem(n: u32) -> Request {
    let ask = request("mock-small", json!({"temperature": 0.7, "max_tokens": 60}));
    let text = "Ann has 12 apples, buys 3 bags of 7 and gives 5 away. How many apples has she? Think step by step.";
    let message = Message { role: "user".into(), content: text.into() };
    Request { input: Input::Messages(vec![message]), n, ..ask }
}

/// Two accounts of the same money, by code that has nothing in common: what the endpoint billed, and what we read.
#[tokio::test]
async fn what_is_read_is_what_was_billed() {
    let mut texts = Vec::new();
    for cached in [false, true] {
        let names: Vec<&str> = ways(&mock(Options::default())).iter().map(|way| way.0).collect();
        for name in names {
            let server = mock(Options { cache_prompts: cached, ..Options::default() });
            let (_, endpoint, _folder) = ways(&server).into_iter().find(|way| way.0 == name).unwrap();
            let price = support::server_prices()["mock-small"];
            let price = farthing::price::Price {
                cached_input: price.cached_input,
                ..farthing::price::Price::flat(price.input, price.output)
            };
            let backend = backend::open(&endpoint).unwrap();
            let asked = problem(3);
            let (mut samples, mut billed, mut calls) = (Vec::new(), farthing::Usd::ZERO, 0);
            while samples.len() < 3 {
                let response =
                    backend.call(&asked, samples.len()).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
                billed += price.bill(&response);
                calls += 1;
                samples.extend(response.samples);
            }
            assert_eq!(calls, if backend.several(&asked) { 1 } else { 3 }, "{name}");
            match (name, cached) {
                // Ollama does not say what it had cached.
                ("ollama", true) => assert!(billed >= server.ledger().billed),
                _ => assert_eq!(billed, server.ledger().billed, "{name}, cached {cached}"),
            }
            assert!(samples.iter().all(|sample| !sample.text.is_empty()), "{name}: {samples:?}");
            texts.push(samples.into_iter().map(|sample| (sample.text, sample.finish_reason)).collect::<Vec<_>>());
        }
    }
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "the same model answers through every format: {texts:?}");
}

#[tokio::test]
async fn every_fault_has_its_class_in_every_format() {
    use FailureKind::{
        Authentication, BadRequest, Connection, ContextTooLong, MalformedReply, QuotaExceeded, RateLimit, Server,
        UnknownModel,
    };
    let server = mock(Options::default());
    let (second, longest) = (Some(Duration::from_secs(1)), Duration::from_secs(2));
    for (fault, kind, billed, wait) in [
        ("400", BadRequest, false, None),
        ("401", Authentication, false, None),
        ("403", Authentication, false, None),
        ("404", UnknownModel, false, None),
        ("408", Server, false, None),
        ("409", Server, false, None),
        ("413", ContextTooLong, false, None),
        ("422", BadRequest, false, None),
        ("500", Server, false, None),
        ("502", Server, true, None),
        ("503", Server, false, None),
        ("504", Server, true, None),
        ("529", Server, false, None),
        ("context_length_exceeded", ContextTooLong, false, None),
        ("429", RateLimit, false, None),
        ("rate_limit", RateLimit, false, second),
        ("rate_limit_headers", RateLimit, false, second),
        ("insufficient_quota", QuotaExceeded, false, None),
        ("redirect", BadRequest, false, None),
        ("close", Connection, true, None),
        ("cut", Connection, true, None),
        ("reset_body", Connection, true, None),
        ("cut_json", MalformedReply, true, None),
        ("malformed", MalformedReply, true, None),
        ("html", MalformedReply, true, None),
        ("no_choices", MalformedReply, true, None),
    ] {
        for (name, mut endpoint, _folder) in ways(&server) {
            // Claude may end its turn without a word: an empty list is an answer there (Anthropic's page on stop reasons).
            if (name, fault) == ("anthropic", "no_choices") {
                continue;
            }
            endpoint.headers.insert("x-mock-fault".to_owned(), fault.to_owned());
            let error = backend::open(&endpoint).unwrap().call(&problem(1), 0).await.map(|response| response.samples);
            let error = error.expect_err(&format!("{name}: {fault}"));
            // Google says the same of every limit; only the details, which this fault has not, tell a day's from a minute's.
            let kind = if (name, kind) == ("gemini", QuotaExceeded) { RateLimit } else { kind };
            assert_eq!((error.failure.kind, error.may_be_billed), (kind, billed), "{name}: {fault}: {}", error.failure);
            assert!(
                wait.is_none() || error.retry_after.is_some_and(|wish| wish <= longest),
                "{name}: {fault}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn odd_answers_are_answers() {
    let server = mock(Options::default());
    for fault in ["no_usage", "usage_negative", "usage_huge", "usage_text", "other_model", "content_filter", "refusal"]
    {
        for (name, mut endpoint, _folder) in ways(&server) {
            endpoint.headers.insert("x-mock-fault".to_owned(), fault.to_owned());
            let before = server.ledger().billed;
            let response = backend::open(&endpoint).unwrap().call(&problem(1), 0).await;
            let response = response.unwrap_or_else(|error| panic!("{name}: {fault}: {error:?}"));
            let price = support::server_prices()["mock-small"];
            let price = farthing::price::Price::flat(price.input, price.output);
            let spoilt = fault.contains("usage");
            assert_eq!(response.estimated, spoilt, "{name}: {fault}");
            let really = server.ledger().billed - before;
            assert!(price.bill(&response) >= really, "{name}: {fault}: bounded from above");
            assert!(spoilt || price.bill(&response) == really, "{name}: {fault}");
            match fault {
                "other_model" => assert_eq!(response.model.as_deref(), Some("another-model"), "{name}"),
                // Anthropic's one word for both.
                "content_filter" if name == "anthropic" => {
                    assert_eq!(response.samples[0].finish_reason, FinishReason::REFUSAL);
                }
                // Ollama has no filter.
                "content_filter" if name != "ollama" => {
                    assert_eq!(response.samples[0].finish_reason, FinishReason::CONTENT_FILTER, "{name}");
                }
                "refusal" => assert!(!response.samples[0].text.is_empty() || name == "gemini", "{name}: {response:?}"),
                _ => {}
            }
        }
    }
}
