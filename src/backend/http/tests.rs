//! What is told apart before any endpoint answers, and what may have been billed. Whole exchanges: tests/providers.rs.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::provider::{Input, Message};

fn request() -> Request {
    let message = Message { role: "user".into(), content: "hi".into() };
    Request { model: "m".into(), input: Input::Messages(vec![message]), params: Default::default(), n: 1 }
}

/// A server that gives these bytes to every connection and closes it.
async fn server(reply: Vec<u8>) -> String {
    server_for(move |_| reply.clone()).await
}

/// The same, of what was asked.
async fn server_for(reply: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = [0; 65536];
            let read = stream.read(&mut seen).await.unwrap_or(0);
            let _ = stream.write_all(&reply(&String::from_utf8_lossy(&seen[..read]))).await;
        }
    });
    format!("127.0.0.1:{}", address.port())
}

fn at(url: &str) -> Http {
    Http::open(&Endpoint { timeout: Duration::from_secs(5), api_key_envs: vec![], ..Endpoint::at("x", url) }).unwrap()
}

async fn failure(http: &Http) -> (FailureKind, String, bool) {
    let error = http.call(&request(), 0).await.unwrap_err();
    (error.failure.kind, error.failure.message, error.may_be_billed)
}

#[tokio::test]
async fn why_nobody_was_reached_is_said() {
    let refused = failure(&at("http://127.0.0.1:1/v1")).await;
    assert!(
        refused.0 == FailureKind::Connection && !refused.2 && refused.1.starts_with("no connection to"),
        "{refused:?}"
    );
    let nameless = failure(&at("http://no-such-host.invalid/v1")).await;
    assert!(nameless.0 == FailureKind::Connection && !nameless.2 && nameless.1.contains("(DNS)"), "{nameless:?}");
    let plain = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let tls = failure(&at(&format!("https://{plain}/v1"))).await;
    assert!(tls.0 == FailureKind::Connection && !tls.2 && tls.1.contains("(TLS)"), "{tls:?}");
}

#[tokio::test]
async fn replies_that_are_too_large_or_cut_may_be_billed() {
    let mut http =
        at(&format!("http://{}/v1", server(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{}".to_vec()).await));
    http.largest = 500;
    let large = failure(&http).await;
    assert!(large.0 == FailureKind::MalformedReply && large.2, "{large:?}");
    let mut body = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
    body.resize(2000, b'x');
    let mut http = at(&format!("http://{}/v1", server(body).await));
    http.largest = 500;
    let unannounced = failure(&http).await;
    assert!(unannounced.0 == FailureKind::MalformedReply && unannounced.2, "{unannounced:?}");
    let cut =
        at(&format!("http://{}/v1", server(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{\"ch".to_vec()).await));
    let cut = failure(&cut).await;
    assert!(cut.0 == FailureKind::Connection && cut.2, "{cut:?}");
}

#[tokio::test]
async fn only_gateways_errors_may_be_billed() {
    for (status, billed) in
        [(400, false), (429, false), (500, false), (502, true), (503, false), (504, true), (524, true), (529, false)]
    {
        let reply = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\nretry-after: 3\r\n\r\n{{}}");
        let http = at(&format!("http://{}/v1", server(reply.into_bytes()).await));
        let error = http.call(&request(), 0).await.unwrap_err();
        assert_eq!((error.may_be_billed, error.retry_after), (billed, Some(Duration::from_secs(3))), "{status}");
    }
}

/// A revoked key beside one that only rests for its limit, in whichever order they are tried, and when the revoked one is
/// the only one awake.
#[tokio::test]
async fn one_refused_key_does_not_fail_what_another_only_rests_for() {
    let by_key = |asked: &str| {
        let status = if asked.contains("key-limited") { "429 X\r\nretry-after: 70" } else { "401 X" };
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes()
    };
    let url = format!("http://{}/v1", server_for(by_key).await);
    for order in [["key-limited", "key-revoked"], ["key-revoked", "key-limited"]] {
        let mut http = at(&url);
        http.keys = Keys::of(&order);
        for attempt in 0..2 {
            let error = http.call(&request(), 0).await.unwrap_err();
            assert_eq!(error.failure.kind, FailureKind::RateLimit, "{order:?} {attempt}: {error:?}");
            let wait = error.retry_after.unwrap();
            assert!(wait <= Duration::from_secs(70) && wait > Duration::from_secs(30), "{order:?} {attempt}: {wait:?}");
        }
        // The limited one rests on, the revoked one woke: the only one that is tried.
        http.keys = Keys::of(&order);
        let limited = order.iter().position(|key| *key == "key-limited").unwrap();
        http.keys.rests(limited, Duration::from_secs(70));
        let error = http.call(&request(), 0).await.unwrap_err();
        assert!(error.failure.kind == FailureKind::RateLimit && error.retry_after.is_some(), "{order:?}: {error:?}");
    }
    let mut http = at(&url);
    http.keys = Keys::of(&["key-revoked", "key-empty"]);
    assert_eq!(failure(&http).await.0, FailureKind::Authentication, "all were refused");
}

#[test]
fn what_an_endpoint_refuses_is_not_sent() {
    let endpoint =
        Endpoint { drop_params: vec!["seed".into(), "n".into()], ..Endpoint::at("x", "http://127.0.0.1:1/v1") };
    let http = Http::open(&endpoint).unwrap();
    let params = [("seed".to_owned(), json!(1)), ("top_p".to_owned(), json!(1))].into();
    let request = Request { params, ..request() };
    assert_eq!(http.reduced(&request).params.keys().collect::<Vec<_>>(), ["top_p"]);
    assert!(!http.several(&request), "n is dropped: one by one");
    assert!(at("http://127.0.0.1:1/v1").several(&request));
}

#[tokio::test]
async fn a_redirect_says_where_to() {
    let elsewhere = "the endpoint points elsewhere, and keys do not follow: to";
    for (status, location, words) in [
        (
            301,
            "https://x.test/api/v1/chat/completions?key=k#f",
            format!("{elsewhere} https://x.test/api/v1: write that as base_url"),
        ),
        (
            308,
            "https://u:p@x.test/v1/chat/completions",
            format!("{elsewhere} https://x.test/v1: write that as base_url"),
        ),
        (302, "https://x.test/login?next=%2Fv1", format!("{elsewhere} https://x.test/login: check its base_url")),
        (307, "/chat/completions", format!("{elsewhere} http://ADDRESS: write that as base_url")),
        (303, "http://[", "the endpoint points elsewhere, but does not say where: check its base_url".to_owned()),
        (300, "https://x.test/v1/chat/completions", "an unexpected status".to_owned()),
        (304, "", "an unexpected status".to_owned()),
    ] {
        let reply = format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let address = server(reply.into_bytes()).await;
        let moved = failure(&at(&format!("http://{address}/v1/"))).await;
        let words = format!("HTTP {status}: {}", words.replace("ADDRESS", &address));
        assert_eq!(moved, (FailureKind::BadRequest, words, false));
    }
}

#[tokio::test]
async fn what_is_compressed_is_not_asked_for_and_not_shown() {
    let reply = |status: &str, asked: &str| {
        let plain = asked.to_lowercase().contains("accept-encoding: identity\r\n");
        let encoding = if plain { "GZip" } else { "nobody asked for identity" };
        format!("HTTP/1.1 {status}\r\ncontent-encoding: {encoding}\r\ncontent-length: 3\r\n\r\n\u{1f}\u{8b}")
            .into_bytes()
    };
    let good = at(&format!("http://{}/v1", server_for(move |asked| reply("200 OK", asked)).await));
    let words = "the reply is compressed (GZip)".to_owned();
    assert_eq!(failure(&good).await, (FailureKind::MalformedReply, words.clone(), true));
    let bad = at(&format!("http://{}/v1", server_for(move |asked| reply("429 X", asked)).await));
    assert_eq!(failure(&bad).await, (FailureKind::RateLimit, format!("HTTP 429: {words}"), false));
    let body =
        r#"{"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}"#;
    let length = body.len();
    let plain = format!("HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: {length}\r\n\r\n{body}");
    let plain = at(&format!("http://{}/v1", server(plain.into_bytes()).await));
    assert_eq!(plain.call(&request(), 0).await.unwrap().samples[0].text, "hi");
}

/// As OpenRouter and LiteLLM send what stood behind them: another key is asked, and the headers count.
#[tokio::test]
async fn an_error_within_an_answer_means_what_its_status_would() {
    let within = |body: &str| {
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\nretry-after: 7\r\ncontent-length:";
        format!("{head} {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let limited = within(r#"{"error": {"code": 429, "message": "busy"}}"#);
    let http = at(&format!("http://{}/v1", server(limited.clone()).await));
    let error = http.call(&request(), 0).await.unwrap_err();
    assert_eq!((error.failure.kind, error.too_much, error.may_be_billed), (FailureKind::RateLimit, true, false));
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    let lost = at(&format!("http://{}/v1", server(within(r#"{"error": {"code": 502, "message": "x"}}"#)).await));
    assert_eq!((failure(&lost).await.0, failure(&lost).await.2), (FailureKind::Server, true));
    let good = within(r#"{"choices": [{"message": {"content": "hi"}}]}"#);
    let cut = within(r#"{"choices": [{"finish_reason": "error", "error": {"code": 429, "message": "busy"}}]}"#);
    let by_key = move |asked: &str| match asked {
        _ if asked.contains("key-limited") => limited.clone(),
        _ if asked.contains("key-cut") => cut.clone(),
        _ => good.clone(),
    };
    let mut http = at(&format!("http://{}/v1", server_for(by_key).await));
    http.keys = Keys::of(&["key-limited", "key-good"]);
    assert_eq!(http.call(&request(), 0).await.unwrap().samples[0].text, "hi");
    http.keys = Keys::of(&["key-cut", "key-good"]);
    assert!(failure(&http).await.2, "one that may be billed is not sent again within one attempt");
}
