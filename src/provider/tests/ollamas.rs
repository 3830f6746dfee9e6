//! Ollama's own API.

use super::*;

#[test]
fn a_request_is_encoded() {
    let params = json!({"temperature": 0.1, "max_tokens": 9, "stop": ["a"], "num_ctx": 4096, "keep_alive": "5m", "reasoning_effort": "none",
        "options": {"top_k": 3}, "response_format": conformance::example("response_format")});
    let call = Ollama.encode(&ask("llama3.2", params), 3).unwrap();
    assert_eq!(call.path, "/api/chat");
    let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]);
    assert_eq!(
        body(&call),
        json!({
            "model": "llama3.2", "messages": messages, "stream": false, "think": false, "keep_alive": "5m",
            "options": {"temperature": 0.1, "num_predict": 9, "stop": ["a"], "num_ctx": 4096, "top_k": 3},
            "format": conformance::example("response_format")["json_schema"]["schema"],
        })
    );
    let text = Ollama.encode(&Request { input: Input::Text("once".into()), ..ask("m", json!({})) }, 1).unwrap();
    assert_eq!(text.path, "/api/generate");
    assert_eq!(body(&text), json!({"model": "m", "prompt": "once", "raw": true, "stream": false}));
}

#[test]
fn no_option_goes_beyond_the_bound() {
    let params = json!({"max_tokens": 9, "options": {"num_predict": 20000}});
    let failure = Ollama.encode(&ask("m", params), 1).unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadRequest);
    assert!(failure.message.contains("`options.num_predict`"), "{failure}");
    assert!(failure.message.ends_with("set `max_tokens`"), "{failure}");
}

#[test]
fn replies_are_read() {
    let called = json!({"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": "look", "arguments": {"at": 1}}}]}, "done": true, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 3});
    let response = read(&Ollama, "m", 1, called).unwrap();
    let calls = json!([{"id": "call_0", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}}]);
    assert_eq!(response.samples[0].tool_calls, Some(calls));
    let cached = json!({"message": {"content": "abc"}, "done": true, "eval_count": 3});
    let response = read(&Ollama, "m", 1, cached).unwrap();
    assert!(response.estimated && response.prompt_tokens > 64 && response.completion_tokens() == 3);
    assert_eq!(response.samples[0].finish_reason, FinishReason::STOP);
    let kind = |reply: Value| read(&Ollama, "m", 1, reply).unwrap_err().kind;
    assert_eq!(kind(json!({"message": {"content": ""}, "done": true, "done_reason": "load"})), FailureKind::Server);
    assert_eq!(kind(json!({"message": {"content": "a"}, "done": false})), FailureKind::MalformedReply);
    assert_eq!(kind(json!({"error": "model runner has unexpectedly stopped"})), FailureKind::Server);
    let missing = Ollama.decode_error(404, b"", br#"{"error": "model \"m\" not found, try pulling it first"}"#).failure;
    assert_eq!(missing.kind, FailureKind::UnknownModel);
    assert!(missing.message.contains("try pulling it"), "{missing}");
    assert_eq!(Ollama.listed(br#"{"models": [{"name": "llama3.2:latest"}]}"#).unwrap(), ["llama3.2:latest"]);
}
