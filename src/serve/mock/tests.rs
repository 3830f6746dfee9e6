//! Over real sockets, with a client that is not ours.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::money::Usd;

const PROBLEM: &str =
    "Ann has 12 apples, buys 3 bags of 7 and gives 5 away. How many apples has she? Think step by step.";

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn client() -> reqwest::Client {
    // Installed by whichever test comes first; plain HTTP does not use it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().unwrap()
}

fn body(n: u32) -> Value {
    json!({
        "model": "mock-small", "messages": [{"role": "user", "content": PROBLEM}],
        "n": n, "temperature": 1, "max_tokens": 80, "stop": ["\n\n"]
    })
}

async fn send(server: &MockServer, body: &Value) -> reqwest::Result<reqwest::Response> {
    let url = format!("{}/chat/completions", server.url());
    client().post(url).header("content-type", "application/json").body(body.to_string()).send().await
}

/// Status and body; what is not JSON is a JSON string.
async fn ask(server: &MockServer, body: &Value) -> (u16, Value) {
    let reply = send(server, body).await.unwrap();
    let status = reply.status().as_u16();
    let text = reply.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn texts(reply: &Value) -> Vec<String> {
    let choices = reply["choices"].as_array().unwrap().iter();
    choices.map(|choice| choice["message"]["content"].as_str().unwrap().to_owned()).collect()
}

fn start(change: impl FnOnce(&mut Options)) -> MockServer {
    let mut options = Options::default();
    change(&mut options);
    MockServer::start(options).unwrap()
}

#[test]
fn a_reply_has_openais_shape_and_is_billed_by_the_token() {
    let server = start(|_| {});
    run(async {
        let (status, reply) = ask(&server, &body(3)).await;
        assert_eq!((status, reply["object"].as_str()), (200, Some("chat.completion")));
        assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-") && reply["created"].is_u64());
        let choice = &reply["choices"][2];
        assert_eq!((&choice["index"], &choice["logprobs"]), (&json!(2), &Value::Null));
        assert_eq!((&choice["message"]["role"], &choice["message"]["refusal"]), (&json!("assistant"), &Value::Null));
        assert!(["stop", "length"].contains(&choice["finish_reason"].as_str().unwrap()));
        let usage = &reply["usage"];
        let (prompt, completion) =
            (usage["prompt_tokens"].as_u64().unwrap(), usage["completion_tokens"].as_u64().unwrap());
        assert_eq!(usage["total_tokens"].as_u64().unwrap(), prompt + completion);
        assert_eq!(usage["prompt_tokens_details"], json!({"cached_tokens": 0}));
        // $0.25 and $0.75 per million tokens, in picodollars.
        let bill = Usd::from_pico((prompt * 250_000 + completion * 750_000) as i64);
        assert_eq!((server.ledger().billed, server.ledger().answered), (bill, 1));

        let ledger: Value = get_json(&server, "/ledger").await;
        assert_eq!((&ledger["billed_usd"], &ledger["requests"]), (&json!(bill.to_string()), &json!(1)));
        assert_eq!(ledger["by_model"]["mock-small"]["completion_tokens"], json!(completion));
        let models = get_json(&server, "/v1/models").await;
        assert_eq!(models["data"][0]["id"], "mock-large");
        server.reset();
        assert_eq!(server.ledger(), Ledger::default());
    });
}

async fn get_json(server: &MockServer, path: &str) -> Value {
    let reply = client().get(format!("http://{}{path}", server.address())).send().await.unwrap();
    serde_json::from_str(&reply.text().await.unwrap()).unwrap()
}

#[test]
fn equal_requests_go_on_with_new_samples() {
    let server = start(|_| {});
    run(async {
        let all = texts(&ask(&server, &body(5)).await.1);
        server.reset();
        let mut parts = texts(&ask(&server, &body(2)).await.1);
        // The same parameters in other words.
        let mut rest = body(3);
        rest["temperature"] = json!(1.0);
        rest["stop"] = json!("\n\n");
        rest["seed"] = Value::Null;
        parts.extend(texts(&ask(&server, &rest).await.1));
        assert_eq!(parts, all);
        assert!(all.iter().any(|text| *text != all[0]));
        let mut other = body(2);
        other["temperature"] = json!(0.5);
        ask(&server, &other).await;
        assert_eq!(server.ledger().identical_max, 1);
        ask(&server, &other).await;
        assert_eq!(server.ledger().identical_max, 2);
    });
}

#[test]
fn text_completions_and_bad_requests() {
    let server = start(|options| options.key = Some("sk-very-secret".into()));
    let post = async |path: &str, key: &str, body: String| {
        let url = format!("http://{}{path}", server.address());
        let reply =
            client().post(url).header("authorization", format!("Bearer {key}")).body(body).send().await.unwrap();
        let status = reply.status().as_u16();
        (status, serde_json::from_str::<Value>(&reply.text().await.unwrap()).unwrap())
    };
    run(async {
        let prompt = json!({"model": "mock-large", "prompt": PROBLEM, "max_tokens": 9}).to_string();
        let (status, reply) = post("/v1/completions", "sk-very-secret", prompt.clone()).await;
        assert_eq!((status, &reply["object"]), (200, &json!("text_completion")));
        assert_eq!(
            (&reply["choices"][0]["finish_reason"], &reply["usage"]["completion_tokens"]),
            (&json!("length"), &json!(9))
        );
        assert!(reply["choices"][0]["text"].is_string());

        let billed = server.ledger().billed;
        let (status, reply) = post("/v1/completions", "sk-wrong-key", prompt).await;
        assert_eq!((status, &reply["error"]["code"]), (401, &json!("invalid_api_key")));
        assert!(!reply.to_string().contains("sk-"));
        for (path, text, status, code) in [
            ("/v1/completions", "{", 400, Value::Null),
            ("/v1/chat/completions", r#"{"model": "mock-small"}"#, 400, Value::Null),
            (
                "/v1/chat/completions",
                r#"{"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]}"#,
                404,
                json!("model_not_found"),
            ),
            ("/v1/completions", r#"{"model": "mock-small", "prompt": "x", "temperature": 7}"#, 400, Value::Null),
            ("/v1/completions", r#"{"model": "mock-small", "prompt": "x", "n": 0}"#, 400, Value::Null),
            ("/v1/other", "{}", 404, Value::Null),
        ] {
            let (got, reply) = post(path, "sk-very-secret", text.to_owned()).await;
            assert_eq!((got, &reply["error"]["code"]), (status, &code), "{text}");
            assert!(reply["error"]["message"].is_string() && reply["error"]["type"].is_string());
        }
        let long = json!({"model": "mock-small", "prompt": "a b c d ".repeat(4000)}).to_string();
        assert_eq!(post("/v1/completions", "sk-very-secret", long).await.1["error"]["code"], "context_length_exceeded");
        assert_eq!(server.ledger().billed, billed);
    });
}

#[test]
fn faults_do_what_they_say_and_bill_what_they_bill() {
    let faults = [
        (1, Fault::rate_limited("2")),
        (2, Fault::status(503)),
        (3, Fault::context_too_long()),
        (4, Fault::reset()),
        (5, Fault::cut()),
        (6, Fault::malformed()),
        (7, Fault::html()),
        (8, Fault::fewer()),
        (9, Fault::no_choices()),
        (10, Fault::status(500).billed(true)),
    ];
    let server = start(|options| options.faults = faults::at(faults));
    run(async {
        // A greedy request costs the same each time.
        let mut body = body(2);
        body["temperature"] = json!(0);
        let mut billed = Vec::new();
        let mut before = Usd::ZERO;
        let mut ask_once = async || {
            let result = match send(&server, &body).await {
                Err(error) => Err(error),
                Ok(reply) => {
                    let (status, retry) = (reply.status().as_u16(), reply.headers().get("retry-after").cloned());
                    reply.text().await.map(|text| (status, retry, text))
                }
            };
            let now = server.ledger().billed;
            billed.push(now - before);
            before = now;
            result
        };
        let (status, retry, text) = ask_once().await.unwrap();
        assert_eq!((status, retry.unwrap().to_str().unwrap()), (429, "2"));
        assert!(text.contains("rate_limit_exceeded"));
        assert_eq!(ask_once().await.unwrap().0, 503);
        let (status, _, text) = ask_once().await.unwrap();
        assert!(status == 400 && text.contains("context_length_exceeded"));
        let error = ask_once().await.unwrap_err();
        assert!(error.is_request() && !error.is_timeout(), "{error:?}");
        let error = ask_once().await.unwrap_err();
        assert!(error.is_body() || error.is_decode(), "the head came, the body broke off: {error:?}");
        let (status, _, text) = ask_once().await.unwrap();
        assert!(status == 200 && text.len() > 20 && serde_json::from_str::<Value>(&text).is_err());
        assert!(ask_once().await.unwrap().2.starts_with("<!DOCTYPE html>"));
        let fewer: Value = serde_json::from_str(&ask_once().await.unwrap().2).unwrap();
        assert_eq!(texts(&fewer).len(), 1);
        let none: Value = serde_json::from_str(&ask_once().await.unwrap().2).unwrap();
        assert!(texts(&none).is_empty() && none["usage"]["completion_tokens"].as_u64() > Some(0));
        assert_eq!(ask_once().await.unwrap().0, 500);
        assert_eq!(ask_once().await.unwrap().0, 200);
        assert_eq!(server.ledger().answered, 1);
        let full = billed[10];
        assert!(full > billed[7] && billed[7] > Usd::ZERO);
        let (no, part) = (Usd::ZERO, billed[7]);
        assert_eq!(billed, [no, no, no, no, full, full, no, part, full, full, full]);
    });
}

#[test]
fn what_hangs_is_billed_and_does_not_keep_the_server() {
    let server = start(|options| options.faults = faults::every(1, Fault::hang()));
    run(async {
        let url = format!("{}/chat/completions", server.url());
        let hung = client().post(url).timeout(Duration::from_millis(100)).body(body(1).to_string()).send().await;
        assert!(hung.unwrap_err().is_timeout());
    });
    assert!(server.ledger().billed > Usd::ZERO && server.ledger().answered == 0);
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn usage_can_lie() {
    let of = |usage| {
        let server = start(|options| options.usage = usage);
        let reply = run(ask(&server, &body(2))).1;
        let line = server.ledger().by_model["mock-small"];
        (reply["usage"]["completion_tokens"].as_u64(), line.prompt_tokens, line.completion_tokens)
    };
    let (said, prompt, truth) = of(Usage::Truthful);
    assert_eq!(said, Some(truth));
    assert_eq!(of(Usage::Worst), (Some(160), prompt, 160));
    assert_eq!(of(Usage::Above(3)), (Some(480), prompt, 480));
    assert_eq!(of(Usage::FarBelow), (Some(1), 1, 1));
    assert_eq!(of(Usage::None), (None, prompt, truth));
}

#[test]
fn latency_and_concurrency_are_seen() {
    let (low, high) = (Duration::from_millis(600), Duration::from_millis(900));
    let server = start(|options| {
        options.latency = Latency::Random { low, high, seed: 1 };
        options.cache_prompts = true;
    });
    run(async {
        let started = Instant::now();
        let bodies: Vec<Value> = (1..=8).map(body).collect();
        let replies = futures_util::future::join_all(bodies.iter().map(|body| ask(&server, body))).await;
        assert!(started.elapsed() >= low && started.elapsed() < low * 8);
        assert_eq!(server.ledger().max_concurrent, 8);
        // The prompt is the same each time: all but the first find it cached.
        let cached = replies.iter().filter(|(_, reply)| reply["usage"]["prompt_tokens_details"]["cached_tokens"] != 0);
        assert_eq!(cached.count(), 7);
        let mut all: Vec<_> = replies.iter().flat_map(|(_, reply)| texts(reply)).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert!(count == 36 && all.len() > 4, "concurrent requests get samples of their own");
    });
    let latency = Latency::Random { low, high, seed: 1 };
    assert!((1..100).all(|number| (low..=high).contains(&latency.of(number))));
    assert_ne!(latency.of(1), latency.of(2));
}

#[test]
fn serves_cassettes_and_functions() {
    let mut cassette = Cassette::default();
    let line = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "params": {"temperature": 1.0, "max_tokens": 5},
        "samples": ["a", "b", "c", "unbilled"], "usage": {"prompt_tokens": 7, "completion_tokens": [1, 2, 3]}
    });
    cassette.add(&line).unwrap();
    assert!(cassette.add(&json!({"model": "m"})).is_err());
    // As `replay` has it: a second line's samples come behind the first one's, and may not say otherwise.
    let mut twice = Cassette::default();
    let mut other = line.clone();
    assert_eq!((twice.put(&line, 0), twice.put(&line, 1)), (Ok(None), Ok(None)));
    other["samples"] = json!(["x"]);
    assert_eq!((twice.put(&other, 4), twice.len()), (Ok(Some(0)), 1));
    let server = start(|options| {
        options.answers = Answers::Cassette(Arc::new(cassette));
        options.models = BTreeMap::from([("m".to_owned(), Price::per_million("1", "2").unwrap())]);
    });
    run(async {
        let body = |n: u32, most: u32| json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": n, "max_completion_tokens": most});
        assert_eq!(texts(&ask(&server, &body(2, 5)).await.1), ["a", "b"]);
        assert_eq!(server.ledger().billed, Usd::from_pico((7 + 2 * 3) * 1_000_000));
        assert_eq!(texts(&ask(&server, &body(1, 5)).await.1), ["c"]);
        assert_eq!(texts(&ask(&server, &body(3, 5)).await.1), ["a", "b", "c"]);
        let few = ask(&server, &body(4, 5)).await;
        assert!(few.0 == 422 && few.1.to_string().contains("holds 3 samples of this request, and 4 are"), "{few:?}");
        let other = ask(&server, &body(1, 6)).await.1;
        assert_eq!(other["error"]["code"], "not_recorded");
        let read = crate::provider::refusal::read(422, b"", other.to_string().as_bytes()).failure;
        assert_eq!(read.kind, crate::provider::FailureKind::NotRecorded, "the model is there: {read:?}");
    });

    let server = start(|options| {
        options.models.clear();
        options.answers = Answers::custom(|body| match body["messages"][0]["content"].as_str() {
            Some("fail") => Reply::Fault(Fault::status(500)),
            Some(text) => Reply::Texts(vec![text.to_uppercase()]),
            None => Reply::Fault(Fault::status(400)),
        });
    });
    run(async {
        let body = |text: &str| json!({"model": "any", "messages": [{"role": "user", "content": text}]});
        let (status, reply) = ask(&server, &body("hi there")).await;
        assert_eq!(
            (status, texts(&reply), &reply["usage"]["completion_tokens"]),
            (200, vec!["HI THERE".into()], &json!(2))
        );
        assert_eq!(ask(&server, &body("fail")).await.0, 500);
        assert_eq!(server.ledger().billed, Usd::ZERO);
    });
}

#[test]
fn a_taken_port_is_a_usage_error() {
    let server = start(|_| {});
    let port = server.address().port();
    let error = MockServer::start(Options { port, ..Options::default() }).err().unwrap();
    assert_eq!(error.fault(), crate::diagnostic::Fault::Usage);
    run(async { drop(server) });
    MockServer::start(Options { port, ..Options::default() }).unwrap();
}
