//! The mock endpoint as others see it: over HTTP, in every format, with every fault, and with the official `openai`
//! client for Python where there is one.

mod support;
#[path = "support/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use farthing::Usd;
use farthing::backend::mock::tokens;
use farthing::serve::mock::{BatchOptions, FAULTS, Limits, Usage};
use serde_json::{Value, json};
use support::Home;
use wire::{ANTHROPIC, KEY, PROBLEM, chat, run, start, user};

/// Each format's request for one greedy completion: path, headers, body; then where its text and its tokens stand.
type Format = (&'static str, Vec<(&'static str, &'static str)>, Value, &'static str, [&'static str; 2]);

fn formats() -> Vec<Format> {
    let text = "/choices/0/message/content";
    let usage = ["/usage/prompt_tokens", "/usage/completion_tokens"];
    let contents = json!([{"role": "user", "parts": [{"text": PROBLEM}]}]);
    let options = json!({"temperature": 0, "num_predict": 60});
    let bearer = ("authorization", "Bearer test-key-0123");
    let eval = ["/prompt_eval_count", "/eval_count"];
    vec![
        ("/v1/chat/completions", vec![bearer], chat(1), text, usage),
        (
            "/v1/responses",
            vec![bearer],
            json!({"model": "mock-small", "input": PROBLEM, "temperature": 0, "max_output_tokens": 60}),
            "/output/0/content/0/text",
            ["/usage/input_tokens", "/usage/output_tokens"],
        ),
        (
            "/openai/deployments/mock-small/chat/completions?api-version=2024-10-21",
            vec![("api-key", KEY)],
            json!({"messages": user(), "temperature": 0, "max_tokens": 60}),
            text,
            usage,
        ),
        (
            "/v1/messages",
            ANTHROPIC.to_vec(),
            json!({"model": "mock-small", "messages": user(), "temperature": 0, "max_tokens": 60}),
            "/content/0/text",
            ["/usage/input_tokens", "/usage/output_tokens"],
        ),
        (
            "/api/chat",
            vec![bearer],
            json!({"model": "mock-small:latest", "messages": user(), "stream": false, "options": options}),
            "/message/content",
            eval,
        ),
        (
            "/api/generate",
            vec![bearer],
            json!({"model": "mock-small", "prompt": PROBLEM, "stream": false, "options": options}),
            "/response",
            eval,
        ),
        (
            "/v1beta/models/mock-small:generateContent",
            vec![("x-goog-api-key", KEY)],
            json!({"contents": contents, "generationConfig": {"temperature": 0, "maxOutputTokens": 60}}),
            "/candidates/0/content/parts/0/text",
            ["/usageMetadata/promptTokenCount", "/usageMetadata/candidatesTokenCount"],
        ),
    ]
}

#[test]
fn every_format_gives_the_same_answer_at_the_same_price() {
    let (server, client) = start(|options| options.key = Some(KEY.into()));
    run(async {
        let mut seen = Vec::new();
        for (path, headers, body, text, counts) in formats() {
            let before = server.ledger();
            let got = client.post(path, &headers, &body).await;
            assert_eq!(got.status, 200, "{path}: {}", got.text);
            let said = got.body.pointer(text).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {}", got.text));
            let [prompt, completion] = counts.map(|at| got.body.pointer(at).and_then(Value::as_u64).unwrap());
            assert_eq!(completion, tokens::count(said), "{path}");
            let bill = Usd::from_pico((prompt * 250_000 + completion * 750_000) as i64);
            assert_eq!(server.ledger().billed - before.billed, bill, "{path}");
            seen.push((said.to_owned(), prompt, completion));

            let refused = client.post(path, &[("anthropic-version", "2023-06-01")], &body).await;
            assert!([400, 401].contains(&refused.status) && !refused.text.contains("test-key"), "{path}");
            let broken = client.send("POST", path, &headers, "{".into()).await.unwrap();
            assert_eq!(broken.status, 400, "{path}");
        }
        assert!(seen.iter().all(|one| *one == seen[0]), "{seen:#?}");
        let ledger = server.ledger();
        assert_eq!((ledger.answered, ledger.refused, ledger.requests), (7, 14, 21));
        let mut keys: Vec<&String> = ledger.by_key.keys().collect();
        assert_eq!(ledger.by_key[keys.remove(0)].billed, ledger.billed);
        assert!(keys.is_empty() && !ledger.by_key.contains_key(KEY), "one key, not shown");
    });
}

#[test]
fn each_format_says_no_in_its_own_words() {
    let (_server, client) = start(|_| {});
    run(async {
        let fault = |name: &'static str| ("x-mock-fault", name);
        let formats = formats();
        let ask = async |at: usize, name: &'static str| {
            let (path, headers, body, ..) = &formats[at];
            client.post(path, &[&headers[..], &[fault(name)]].concat(), body).await
        };
        let overloaded = ask(3, "529").await;
        assert_eq!(overloaded.status, 529);
        assert_eq!(
            overloaded.body,
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
        );
        assert_eq!(ask(3, "rate_limit:seconds=7").await.header("retry-after"), Some("7"));
        assert_eq!(ask(3, "refusal").await.body["stop_reason"], "refusal");
        let azure = ask(2, "prompt_filtered").await;
        assert_eq!((azure.status, &azure.body["error"]["code"]), (400, &json!("content_filter")));
        assert_eq!(azure.body["error"]["innererror"]["code"], "ResponsibleAIPolicyViolation");
        let cut = ask(2, "content_filter").await.body;
        assert_eq!(cut["choices"][0]["finish_reason"], "content_filter");
        assert_eq!(cut["choices"][0]["content_filter_results"]["violence"]["filtered"], true);
        let gemini = ask(6, "prompt_filtered").await;
        assert_eq!((gemini.status, &gemini.body["promptFeedback"]["blockReason"]), (200, &json!("SAFETY")));
        assert!(gemini.body.get("candidates").is_none());
        let busy = ask(6, "rate_limit:seconds=3").await.body;
        assert_eq!(
            (&busy["error"]["status"], &busy["error"]["details"][0]["retryDelay"]),
            (&json!("RESOURCE_EXHAUSTED"), &json!("3s"))
        );
        assert_eq!(ask(6, "content_filter").await.body["candidates"][0]["finishReason"], "SAFETY");
        assert!(ask(4, "503").await.body["error"].is_string(), "Ollama's errors are texts");
        let incomplete = ask(1, "content_filter").await.body;
        assert_eq!(
            (&incomplete["status"], &incomplete["incomplete_details"]["reason"]),
            (&json!("incomplete"), &json!("content_filter"))
        );

        // What Anthropic insists on.
        let message = |change: &dyn Fn(&mut Value)| {
            let mut body = formats[3].2.clone();
            change(&mut body);
            body
        };
        for (change, words) in [
            (
                &(|body: &mut Value| drop(body.as_object_mut().unwrap().remove("max_tokens"))) as &dyn Fn(&mut Value),
                "max_tokens",
            ),
            (&|body: &mut Value| body["n"] = json!(2), "n: Extra inputs"),
            (&|body: &mut Value| body["messages"][0]["role"] = json!("system"), "role"),
        ] {
            let got = client.post("/v1/messages", &ANTHROPIC, &message(change)).await;
            assert_eq!((got.status, &got.body["error"]["type"]), (400, &json!("invalid_request_error")), "{words}");
            assert!(got.body["error"]["message"].as_str().unwrap().contains(words), "{}", got.text);
        }
        let got = client.post("/v1/messages", &ANTHROPIC[..1], &formats[3].2).await;
        assert!(got.status == 400 && got.text.contains("anthropic-version"));
        let stopped = message(&|body: &mut Value| body["stop_sequences"] = json!(["\n\n\n", "\n"]));
        let got = client.post("/v1/messages", &ANTHROPIC, &stopped).await.body;
        assert_eq!((&got["stop_reason"], &got["stop_sequence"]), (&json!("stop_sequence"), &json!("\n")));
        let no_version = client.post("/openai/deployments/mock-small/chat/completions", &[], &chat(1)).await;
        assert_eq!(no_version.status, 404);
        assert_eq!(client.get("/api/tags").await.body["models"][1]["name"], "mock-small:latest");
        assert_eq!(
            client.post("/api/show", &[], &json!({"model": "mock-small"})).await.body["model_info"]["mock.context_length"],
            8192
        );
        assert_eq!(client.get("/v1/models/mock-large").await.body["id"], "mock-large");
        assert_eq!(client.get("/v1/models/none").await.status, 404);
    });
}

#[test]
fn every_fault_does_what_it_says() {
    let (server, client) = start(|_| {});
    run(async {
        for code in ["400", "401", "403", "404", "408", "409", "413", "422", "429", "500", "502", "503", "504", "529"] {
            let got = client.chat(code).await.unwrap();
            assert_eq!(got.status.to_string(), code);
            assert!(got.body["error"]["message"].is_string() && got.header("retry-after").is_none(), "{code}");
        }
        let code = async |fault| client.chat(fault).await.unwrap().body["error"]["code"].clone();
        assert_eq!(code("context_length_exceeded").await, "context_length_exceeded");
        assert_eq!(code("insufficient_quota").await, "insufficient_quota");
        assert_eq!(code("prompt_filtered").await, "content_filter");
        assert_eq!(client.chat("rate_limit:seconds=3").await.unwrap().header("retry-after"), Some("3"));
        let dated = client.chat("rate_limit_date:seconds=60").await.unwrap();
        let date = httpdate::parse_http_date(dated.header("retry-after").unwrap()).unwrap();
        let wait = date.duration_since(std::time::SystemTime::now()).unwrap();
        assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(62), "{wait:?}");
        let told = client.chat("rate_limit_headers:seconds=90").await.unwrap();
        assert_eq!((told.status, told.header("x-ratelimit-reset-requests")), (429, Some("1m30s")));
        let away = client.chat("redirect:location=http://elsewhere.invalid:8/v1").await.unwrap();
        assert_eq!((away.status, away.header("location")), (307, Some("http://elsewhere.invalid:8/v1")));
        assert_eq!(server.ledger().billed, Usd::ZERO);

        for fault in ["close", "reset"] {
            let error = client.chat(fault).await.err().unwrap();
            assert!(error.is_request() && !error.is_timeout(), "{fault}: {error:?}");
        }
        assert_eq!(server.ledger().billed, Usd::ZERO);
        for fault in ["cut", "reset_body"] {
            let error = client.chat(fault).await.err().unwrap();
            assert!(error.is_body() || error.is_decode(), "{fault}: the head came: {error:?}");
        }
        for fault in ["cut_json", "malformed"] {
            let got = client.chat(fault).await.unwrap();
            assert!(got.status == 200 && got.text.len() > 20 && got.body.is_null(), "{fault}: {}", got.text);
        }
        let lost = server.ledger();
        assert_eq!((lost.unanswered.bills, lost.unanswered.billed, lost.answered), (4, lost.billed, 0));
        assert!(client.chat("html").await.unwrap().text.starts_with("<!DOCTYPE html>"));
        assert_eq!(client.chat("no_choices").await.unwrap().body["choices"], json!([]));
        assert_eq!(client.chat("fewer_choices").await.unwrap().body["choices"].as_array().unwrap().len(), 1);
        assert!(client.chat("no_usage").await.unwrap().body.get("usage").is_none());
        let usage = async |fault| client.chat(fault).await.unwrap().body["usage"]["completion_tokens"].clone();
        assert!(usage("usage_negative").await.as_i64().unwrap() < 0);
        assert!(usage("usage_huge").await.as_f64().unwrap() > 1e20);
        assert!(usage("usage_text").await.is_string());
        assert_eq!(client.chat("other_model:name=gpt-x").await.unwrap().body["model"], "gpt-x");
        let filtered = client.chat("content_filter").await.unwrap().body;
        assert_eq!(filtered["choices"][1]["finish_reason"], "content_filter");
        let refused = client.chat("refusal").await.unwrap().body;
        let message = &refused["choices"][0]["message"];
        assert!(message["content"].is_null() && message["refusal"].is_string());
        let begin = std::time::Instant::now();
        assert_eq!(client.chat("slow_body:seconds=0.5").await.unwrap().body["choices"].as_array().unwrap().len(), 2);
        assert!(begin.elapsed() >= Duration::from_millis(450));

        let before = server.ledger();
        let url = format!("{}/v1/chat/completions", client.root);
        let hung = client.http.post(url).header("x-mock-fault", "hang").timeout(Duration::from_millis(300));
        assert!(hung.body(chat(1).to_string()).send().await.unwrap_err().is_timeout());
        let after = server.ledger();
        assert_eq!(after.unanswered.billed - before.unanswered.billed, after.billed - before.billed);
        assert!(after.billed > before.billed);
        let unknown = client.chat("teapot").await.unwrap();
        assert!(unknown.status == 400 && unknown.text.contains("insufficient_quota"), "it names those that there are");
    });
    assert!(FAULTS.len() > 20);
}

#[test]
fn faults_by_rule_and_rules_that_change() {
    let rules = ["503:first=1:model=mock-large", "429:every=3"].map(|rule| rule.parse().unwrap());
    let (server, client) = start(|options| options.rules = rules.into());
    run(async {
        let ask = async |model: &str| {
            let mut body = chat(1);
            body["model"] = json!(model);
            client.post("/v1/chat/completions", &[], &body).await.status
        };
        let small = [ask("mock-small").await, ask("mock-small").await, ask("mock-small").await];
        assert_eq!(small, [200, 200, 429]);
        assert_eq!([ask("mock-large").await, ask("mock-large").await], [503, 200]);
        let got = client.post("/faults", &[], &json!({"faults": ["500:rate=0.5:seed=3"]})).await;
        assert_eq!(got.body["faults"], json!(["500:rate=0.5:seed=3"]));
        let mut first = Vec::new();
        for _ in 0..20 {
            first.push(ask("mock-small").await);
        }
        assert!(first.contains(&200) && first.contains(&500));
        client.post("/reset", &[], &json!({})).await;
        for status in first {
            assert_eq!(ask("mock-small").await, status, "the same requests fail again");
        }
        assert_eq!(client.post("/faults", &[], &json!({"faults": ["nonsense"]})).await.status, 400);
        client.send("DELETE", "/faults", &[], String::new()).await.unwrap();
        assert_eq!(ask("mock-small").await, 200);
        server.set_rules(["400:text=apples", "502:path=/v1/files"].map(|rule| rule.parse().unwrap()));
        assert_eq!(ask("mock-small").await, 400);
        assert_eq!((client.get("/v1/files").await.status, client.get("/v1/batches").await.status), (502, 200));
    });
}

#[test]
fn limits_are_by_key_and_told_truthfully() {
    let limits = Limits { requests_per_minute: Some(2), ..Limits::default() };
    let (server, client) = start(|options| options.limits = limits);
    run(async {
        let ask = async |key: &str| {
            let bearer = format!("Bearer {key}");
            client.post("/v1/chat/completions", &[("authorization", &bearer)], &chat(1)).await
        };
        assert_eq!(ask("a").await.header("x-ratelimit-remaining-requests"), Some("1"));
        assert_eq!(ask("a").await.status, 200);
        let refused = ask("a").await;
        let wait: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
        assert!(refused.status == 429 && (20_000..=30_000).contains(&wait), "{wait}");
        assert_eq!(ask("b").await.status, 200);
        let advanced = client.post("/clock/advance", &[], &json!({"seconds": wait as f64 / 1000.0})).await;
        assert_eq!((advanced.status, ask("a").await.status), (200, 200));
        assert_eq!(ask("a").await.status, 429);
        let ledger = server.ledger();
        assert_eq!((ledger.limited, ledger.refused, ledger.answered), (2, 2, 4));
        assert_eq!((ledger.by_key["a"].bills, ledger.by_key["b"].bills), (3, 1));
    });
}

#[test]
fn streams_say_the_same_as_one_piece() {
    let (_server, client) = start(|options| options.usage = Usage::Truthful);
    run(async {
        let whole = client.post("/v1/chat/completions", &[], &chat(2)).await.body;
        let mut body = chat(2);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let got = client.post("/v1/chat/completions", &[], &body).await;
        assert_eq!(got.header("content-type"), Some("text/event-stream"));
        let mut events: Vec<&str> = got.text.split_terminator("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let events: Vec<Value> =
            events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect();
        for index in 0..2 {
            let choices = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
            let pieces = choices.filter(|choice| choice["index"] == index);
            let text: String = pieces.filter_map(|choice| choice["delta"]["content"].as_str()).collect();
            assert_eq!(whole["choices"][index]["message"]["content"], text);
        }
        assert_eq!(events.last().unwrap()["usage"], whole["usage"]);

        let mut body =
            json!({"model": "mock-small", "messages": user(), "options": {"temperature": 0, "num_predict": 60}});
        let lines = client.post("/api/chat", &[], &body).await.text;
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
        body["stream"] = json!(false);
        assert_eq!(client.post("/api/chat", &[], &body).await.body["message"]["content"], text);
        assert!(lines.last().unwrap()["done"] == true && lines[0]["done"] == false && lines.len() > 3);
    });
}

#[test]
fn the_command_plays_what_it_was_told_and_says_the_sum_at_the_end() {
    let home = Home::new(1);
    let recorded = json!({
        "model": "m", "messages": user(), "params": {"temperature": 0, "max_tokens": 60},
        "samples": ["22"], "usage": {"prompt_tokens": 30, "completion_tokens": [1]}
    });
    home.write("c.jsonl", recorded.to_string());
    let line = "mock --port 0 --cassette c.jsonl --price 1,2 --key k --latency 2 --jitter --fault 503:first=1";
    let mut child = home.command(&line.split(' ').collect::<Vec<_>>()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    assert!(first.contains("c.jsonl, 1 recorded requests: m"), "{first}");
    let root = first.split_whitespace().nth(1).and_then(|url| url.strip_suffix("/v1")).unwrap();
    let client = wire::Client::at(root);
    run(async {
        let mut body = chat(1);
        body["model"] = json!("m");
        let ask = async |key| client.post("/v1/chat/completions", &[("authorization", key)], &body).await;
        assert_eq!((ask("Bearer x").await.status, ask("Bearer k").await.status), (401, 503));
        assert_eq!(ask("Bearer k").await.body["choices"][0]["message"]["content"], "22");
    });
    support::signal(&child, "INT");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(
        rest.contains("503:first=1") && rest.contains("3 requests, 1 answered") && rest.contains("$0.000032"),
        "{rest}"
    );
    let refused = home.run("mock --fault teapot", &[]).ended(2).stderr;
    assert!(refused.contains("no fault `teapot`") && refused.contains("insufficient_quota"), "{refused}");
    assert!(home.run("mock --price 1", &[]).ended(2).stderr.contains("comma"));
    let help = home.run("mock --help", &[]).ended(0).stdout;
    assert!(FAULTS.iter().all(|(name, _)| help.contains(name)) && help.contains("x-mock-fault"), "{help}");
}

/// A Python with the official client: `FARTHING_TEST_PYTHON`, a virtual environment in the target folder, or the
/// system's.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("FARTHING_TEST_PYTHON").map(PathBuf::from);
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/openai-venv/bin/python");
    let candidates = named.into_iter().chain([built, PathBuf::from("python3")]);
    let works = |python: &PathBuf| {
        let mut command = Command::new(python);
        let command = command.args(["-c", "import openai"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    candidates.into_iter().find(works)
}

#[test]
fn the_official_python_client_works_unchanged() {
    let Some(python) = python() else {
        println!("skipped: no Python with `openai` (set FARTHING_TEST_PYTHON, or pip install openai)");
        return;
    };
    let batches = BatchOptions { duration: Duration::from_secs(4), ..BatchOptions::default() };
    let (server, _) = start(|options| (options.key, options.batches) = (Some(KEY.into()), batches));
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/openai_client.py");
    let mut command = Command::new(python);
    let output = command.arg(script).args([&server.url(), KEY]).env("NO_PROXY", "*").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("openai {}", seen["version"]);
    seen.as_object_mut().unwrap().remove("version");
    // Two retries: three requests, where the client thinks that it may help.
    let expected = json!({
        "chat": ["chat.completion", "mock-small", "assistant", seen["chat"][3]],
        "usage": true,
        "n": [0, 1, 2],
        "max_tokens": ["length", 3],
        "stop": true,
        "text": "text_completion",
        "stream": [true, true, true, true],
        "responses": ["response", true, true],
        "models": ["mock-large", "mock-small"],
        "model": "mock-small",
        "file": ["file", "batch", "lines.jsonl"],
        "batch": [["validating", "in_progress", "completed"], 4, 1, {"who": "test"}],
        "results": [["line-0", "line-1", "line-2", "line-4"], [2, 2, 2, 2], [["line-3", 400]]],
        "cancel": "cancelling",
        "list": true,
        "delete": true,
        "errors": {
            "key": ["AuthenticationError", "invalid_api_key", 1],
            "model": ["NotFoundError", "model_not_found", 1],
            "bad": ["BadRequestError", null, 1],
            "context_length_exceeded": ["BadRequestError", "context_length_exceeded", 1],
            "403": ["PermissionDeniedError", "permission_denied", 1],
            "409": ["ConflictError", "conflict", 3],
            "422": ["UnprocessableEntityError", null, 1],
            "rate_limit:seconds=0": ["RateLimitError", "rate_limit_exceeded", 3],
            "insufficient_quota": ["RateLimitError", "insufficient_quota", 3],
            "500": ["InternalServerError", null, 3],
            "529": ["InternalServerError", "overloaded", 3],
            "reset": ["APIConnectionError", null, 3],
            "close": ["APIConnectionError", null, 3],
            "cut": ["APIConnectionError", null, 3],
            "hang": ["APITimeoutError", null, 3],
        },
        "retried": [true, 3, true],
        "odd": ["content_filter", true, null],
        "streams": [[true, true], [0, 1]],
        "stream_refusal": ["", true, "stop"],
        "stream_filter": "content_filter",
        "stream_errors": {
            "rate_limit:seconds=0": ["RateLimitError", "rate_limit_exceeded", 1],
            "500": ["InternalServerError", null, 1],
            "context_length_exceeded": ["BadRequestError", "context_length_exceeded", 1],
        },
        "stream_key": ["AuthenticationError", "invalid_api_key", 1],
    });
    assert_eq!(seen, expected, "{seen:#}");
    let ledger = server.ledger();
    assert!(ledger.billed > Usd::ZERO && ledger.unanswered.bills >= 6, "cut and hung: {ledger:#?}");
}
