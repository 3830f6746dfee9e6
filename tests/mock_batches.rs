//! Files and batches of the mock endpoint, over HTTP: what finishes, fails, expires and is cancelled, and what it costs.

#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use farthing::Usd;
use farthing::serve::mock::{BatchOptions, MockServer};
use serde_json::{Value, json};
use wire::{ANTHROPIC, Client, chat, run, start, user};

fn batched() -> (MockServer, Client) {
    let batches = BatchOptions {
        duration: Duration::from_secs(1000),
        window: Duration::from_secs(2000),
        enqueued_tokens: Some(400),
        ..BatchOptions::default()
    };
    start(|options| options.batches = batches)
}

impl Client {
    async fn upload(&self, lines: &str) -> Value {
        let part = |name: &str, more: &str, text: &str| {
            format!("--xx\r\ncontent-disposition: form-data; name=\"{name}\"{more}\r\n\r\n{text}\r\n")
        };
        let body = part("purpose", "", "batch") + &part("file", "; filename=\"a.jsonl\"", lines) + "--xx--\r\n";
        let got = self.send("POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=xx")], body).await;
        let body = got.unwrap().body;
        assert_eq!(body["object"], "file", "{body}");
        body["id"].clone()
    }

    async fn batch(&self, lines: &str) -> Value {
        let file = self.upload(lines).await;
        let body = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
        self.post("/v1/batches", &[], &body).await.body
    }

    async fn again(&self, batch: &Value) -> Value {
        self.get(&format!("/v1/batches/{}", batch["id"].as_str().unwrap())).await.body
    }

    async fn advance(&self, seconds: u64) {
        assert_eq!(self.post("/clock/advance", &[], &json!({"seconds": seconds})).await.status, 200);
    }

    async fn lines(&self, file: &Value) -> Vec<Value> {
        let got = self.get(&format!("/v1/files/{}/content", file.as_str().unwrap())).await;
        got.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn line(id: &str, body: &Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
}

#[test]
fn batches_finish_expire_and_are_cancelled_at_half_the_price() {
    let (server, client) = batched();
    run(async {
        let direct = client.post("/v1/chat/completions", &[], &chat(1)).await;
        assert_eq!(direct.status, 200);
        let price = server.ledger().billed;
        server.reset();
        let mut bad = chat(1);
        bad["temperature"] = json!(9);
        let lines = [line("a", &chat(1)), line("b", &bad), line("c", &chat(1)), line("d", &chat(1))].join("\n");
        server.set_rules(["hang:batch=true:from=4:to=4"].map(|rule| rule.parse().unwrap()));
        let batch = client.batch(&lines).await;
        assert_eq!((&batch["status"], &batch["request_counts"]["total"]), (&json!("validating"), &json!(0)));
        client.advance(350).await;
        let halfway = client.again(&batch).await;
        assert_eq!(
            (&halfway["status"], &halfway["request_counts"]),
            (&json!("in_progress"), &json!({"total": 4, "completed": 1, "failed": 0}))
        );
        client.advance(755).await;
        assert_eq!(client.again(&batch).await["status"], "finalizing");
        client.advance(200).await;
        let done = client.again(&batch).await;
        assert_eq!(
            (&done["status"], &done["request_counts"]),
            (&json!("completed"), &json!({"total": 4, "completed": 2, "failed": 2}))
        );
        let good = client.lines(&done["output_file_id"]).await;
        let mut ids: Vec<_> = good.iter().map(|line| line["custom_id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["a", "c"]);
        assert_eq!(good[0]["response"]["body"]["choices"], direct.body["choices"]);
        let errors = client.lines(&done["error_file_id"]).await;
        let of = |id: &str| errors.iter().find(|line| line["custom_id"] == id).unwrap();
        assert_eq!(of("b")["response"]["status_code"], 400);
        assert!(of("d")["response"].is_null() && of("d")["error"]["code"].is_string());
        // Two at half the price each; what hung was billed, too.
        let ledger = server.ledger();
        assert_eq!((ledger.billed, ledger.batches.bills), (price + price.share(0.5), 3));
        assert_eq!((ledger.unanswered.billed, ledger.batch_lines), (price.share(0.5), 4));
        server.set_rules([]);

        let batch = client.batch(&[line("a", &chat(1)), line("b", &chat(1))].join("\n")).await;
        client.advance(700).await;
        let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap());
        assert_eq!(client.post(&path, &[], &json!({})).await.body["status"], "cancelling");
        client.advance(101).await;
        let cancelled = client.again(&batch).await;
        assert_eq!((&cancelled["status"], &cancelled["request_counts"]["completed"]), (&json!("cancelled"), &json!(1)));
        assert_eq!(client.lines(&cancelled["error_file_id"]).await[0]["error"]["code"], "batch_cancelled");
        assert_eq!(client.lines(&cancelled["output_file_id"]).await.len(), 1);
        assert_eq!(client.post(&path, &[], &json!({})).await.status, 409);
        let page = client.get("/v1/batches?limit=1").await.body;
        assert_eq!((&page["has_more"], &page["last_id"]), (&json!(true), &batch["id"]));
        let next = client.get(&format!("/v1/batches?limit=1&after={}", batch["id"].as_str().unwrap())).await.body;
        assert_eq!((&next["has_more"], &next["data"][0]["status"]), (&json!(false), &json!("completed")));
    });
    let short = BatchOptions {
        duration: Duration::from_secs(1000),
        window: Duration::from_secs(600),
        ..BatchOptions::default()
    };
    let (_server, client) = start(|options| options.batches = short);
    run(async {
        let batch = client.batch(&[line("a", &chat(1)), line("b", &chat(1))].join("\n")).await;
        client.advance(601).await;
        let expired = client.again(&batch).await;
        assert_eq!(
            (&expired["status"], &expired["request_counts"]),
            (&json!("expired"), &json!({"total": 2, "completed": 1, "failed": 1}))
        );
        assert_eq!(client.lines(&expired["error_file_id"]).await[0]["error"]["code"], "batch_expired");
    });
}

#[test]
fn bad_batches_fail_in_validation_and_say_where() {
    let (server, client) = batched();
    run(async {
        let mut other = chat(1);
        other["model"] = json!("mock-large");
        let good = line("a", &chat(1));
        let long: Vec<String> = (0..20).map(|at| line(&at.to_string(), &chat(1))).collect();
        for (lines, code, at) in [
            (format!("{good}\n{{"), "invalid_json_line", json!(2)),
            (format!("{good}\n{good}"), "duplicate_custom_id", json!(2)),
            (format!("{good}\n{}", line("b", &other)), "model_mismatch", json!(2)),
            (good.replace("/v1/chat", "/v2/chat"), "url_mismatch", json!(1)),
            (good.replace("mock-small", "gpt-9"), "model_not_found", json!(1)),
            ("\n".into(), "empty_file", Value::Null),
            (long.join("\n"), "token_limit_exceeded", Value::Null),
        ] {
            let batch = client.batch(&lines).await;
            assert!(batch["errors"].is_null() && batch["status"] == "validating");
            client.advance(101).await;
            let failed = client.again(&batch).await;
            let error = &failed["errors"]["data"][0];
            assert_eq!((&failed["status"], &error["code"], &error["line"]), (&json!("failed"), &json!(code), &at));
            assert!(failed["output_file_id"].is_null() && failed["failed_at"].is_u64());
        }
        assert_eq!(server.ledger().billed, Usd::ZERO);
        // The limit is of what is enqueued: after the first is done there is room again.
        let part = long[..8].join("\n");
        let first = client.batch(&part).await;
        let second = client.batch(&part).await;
        client.advance(101).await;
        assert_eq!(client.again(&first).await["status"], "in_progress");
        assert!(client.again(&second).await["errors"].to_string().contains("Limit: 400"));
        client.advance(1200).await;
        assert_eq!(client.again(&first).await["status"], "completed");
        assert!(client.again(&client.batch(&part).await).await["errors"].is_null());
        let body =
            json!({"input_file_id": "file-mock-999", "endpoint": "/v1/chat/completions", "completion_window": "24h"});
        assert_eq!(client.post("/v1/batches", &[], &body).await.status, 404);
    });
}

#[test]
fn message_batches_give_results_by_line() {
    let (server, client) = batched();
    run(async {
        let params = json!({"model": "mock-small", "messages": user(), "temperature": 0, "max_tokens": 60});
        let bad = json!({"model": "mock-small", "messages": user()});
        let requests = json!({"requests": [
            {"custom_id": "a", "params": params}, {"custom_id": "b", "params": bad}, {"custom_id": "c", "params": params}
        ]});
        let path = "/v1/messages/batches";
        let made = client.post(path, &ANTHROPIC, &requests).await.body;
        assert_eq!(
            (&made["processing_status"], &made["request_counts"]["processing"]),
            (&json!("in_progress"), &json!(3))
        );
        let own = format!("{path}/{}", made["id"].as_str().unwrap());
        let delete = async || client.send("DELETE", &own, &ANTHROPIC, String::new()).await.unwrap();
        assert_eq!((delete().await.status, client.get(&format!("{own}/results")).await.status), (400, 404));
        client.advance(1001).await;
        let ended = client.get(&own).await.body;
        let counts = json!({"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 0});
        assert_eq!((&ended["processing_status"], &ended["request_counts"]), (&json!("ended"), &counts));
        let results = ended["results_url"].as_str().unwrap().strip_prefix(&client.root).unwrap();
        let results = client.get(results).await.text;
        let results: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |id: &str| &results.iter().find(|line| line["custom_id"] == id).unwrap()["result"];
        assert_eq!((&of("a")["type"], &of("a")["message"]["type"]), (&json!("succeeded"), &json!("message")));
        assert_eq!(
            (&of("b")["type"], &of("b")["error"]["error"]["type"]),
            (&json!("errored"), &json!("invalid_request_error"))
        );
        let usage = &of("a")["message"]["usage"];
        let [input, output] = ["input_tokens", "output_tokens"].map(|name| usage[name].as_i64().unwrap());
        assert_eq!(server.ledger().billed, Usd::from_pico(2 * (input * 125_000 + output * 375_000)));

        let second = client.post(path, &ANTHROPIC, &requests).await.body;
        let list = client.get(&format!("{path}?limit=1")).await.body;
        assert_eq!((&list["first_id"], &list["has_more"]), (&second["id"], &json!(true)));
        let other = format!("{path}/{}", second["id"].as_str().unwrap());
        client.advance(400).await;
        let canceling = client.post(&format!("{other}/cancel"), &ANTHROPIC, &json!({})).await.body;
        assert_eq!(canceling["processing_status"], "canceling");
        client.advance(200).await;
        let counts = client.get(&other).await.body["request_counts"].clone();
        assert_eq!(counts, json!({"processing": 0, "succeeded": 1, "errored": 0, "canceled": 2, "expired": 0}));
        assert_eq!(delete().await.body["type"], "message_batch_deleted");
        let twice = json!({"requests": [{"custom_id": "a", "params": {}}, {"custom_id": "a", "params": {}}]});
        assert_eq!(client.post(path, &ANTHROPIC, &twice).await.status, 400);
    });
}
