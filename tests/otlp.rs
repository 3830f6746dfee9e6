//! Spans at an OpenTelemetry collector: built with the feature `otlp`, and only where an address is given.
#![cfg(feature = "otlp")]

mod support;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use farthing::serve::mock::Options;
use support::Home;

type Seen = Arc<Mutex<Vec<(String, Bytes)>>>;

async fn take(State(seen): State<Seen>, uri: Uri, body: Bytes) {
    seen.lock().unwrap().push((uri.path().to_owned(), body));
}

#[test]
fn spans_of_requests_reach_a_collector() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let seen = Seen::default();
    let router = Router::new().fallback(axum::routing::post(take)).with_state(seen.clone());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });

    let server = support::server(Options::default());
    let home = Home::over_http(6, &server.url(), "");
    let line = "evaluate task --set n=3 --set model=mock-small --set prompt=direct --json --quiet";
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let run = |variable: &str| {
        let mut command = home.command(&arguments);
        command.env(variable, &address).env("OPENAI_API_KEY", "sk-planted-for-the-collector").env("NO_PROXY", "*");
        support::done(&mut command).ended(0)
    };
    run("NOTHING");
    assert!(seen.lock().unwrap().is_empty(), "without an address nothing is sent");
    home.write(".farthing/none", "");
    std::fs::remove_dir_all(home.path(".farthing")).unwrap();
    let done = run("OTEL_EXPORTER_OTLP_ENDPOINT");
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty(), "nothing came: {done:?}");
    assert!(seen.iter().all(|(path, _)| path == "/v1/traces"), "{seen:?}");
    // Texts stand in protobuf as they are.
    let all = seen.iter().flat_map(|(_, body)| body.iter().copied()).collect::<Vec<u8>>();
    let all = String::from_utf8_lossy(&all);
    for word in [
        "chat mock-small",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.request.choice.count",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.response.finish_reasons",
        "server.address",
        "service.name",
        "farthing",
    ] {
        assert!(all.contains(word), "no {word} in {all}");
    }
    assert_eq!(all.matches("chat mock-small").count(), 6, "a span a request");
    assert!(!all.contains("planted"), "a key was exported");
}
