//! A client of the mock endpoint that has nothing of ours.
#![allow(dead_code, missing_docs, reason = "each test file uses its share of it")]

use std::time::Duration;

use farthing::serve::mock::{MockServer, Options};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

pub const PROBLEM: &str =
    "Ann has 12 apples, buys 3 bags of 7 and gives 5 away. How many apples has she? Think step by step.";
pub const KEY: &str = "test-key-0123";

/// A client without anything of ours.
pub struct Client {
    pub http: reqwest::Client,
    pub root: String,
}

pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Client {
    pub fn new(server: &MockServer) -> Client {
        Client::at(&format!("http://{}", server.address()))
    }

    /// Of what listens at `http://HOST:PORT`.
    pub fn at(root: &str) -> Client {
        // Installed by whichever test comes first; plain HTTP does not use it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let none = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().redirect(none);
        Client { http: http.build().unwrap(), root: root.to_owned() }
    }

    pub async fn send(&self, method: &str, path: &str, more: &[(&str, &str)], body: String) -> reqwest::Result<Got> {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.root)).body(body);
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let reply = request.send().await?;
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let text = reply.text().await?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Got { status, headers, text, body })
    }

    pub async fn post(&self, path: &str, more: &[(&str, &str)], body: &Value) -> Got {
        self.send("POST", path, more, body.to_string()).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Got {
        let headers: &[(&str, &str)] = if path.starts_with("/v1/messages") { &ANTHROPIC } else { &[] };
        self.send("GET", path, headers, String::new()).await.unwrap()
    }

    pub async fn chat(&self, fault: &str) -> reqwest::Result<Got> {
        self.send("POST", "/v1/chat/completions", &[("x-mock-fault", fault)], chat(2).to_string()).await
    }
}

pub const ANTHROPIC: [(&str, &str); 2] = [("x-api-key", KEY), ("anthropic-version", "2023-06-01")];

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn start(change: impl FnOnce(&mut Options)) -> (MockServer, Client) {
    let mut options = Options { threads: 2, ..Options::default() };
    change(&mut options);
    let server = MockServer::start(options).unwrap();
    let client = Client::new(&server);
    (server, client)
}

pub fn user() -> Value {
    json!([{"role": "user", "content": PROBLEM}])
}

pub fn chat(n: u32) -> Value {
    json!({"model": "mock-small", "messages": user(), "n": n, "temperature": 0, "max_tokens": 60})
}
