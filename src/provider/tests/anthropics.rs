//! The Messages API.

use super::*;

#[test]
fn a_request_is_encoded() {
    let params = json!({
        "max_tokens": 99, "stop": "END", "top_k": 5, "user": "u", "tools": conformance::example("tools"),
        "tool_choice": {"type": "function", "function": {"name": "look"}}, "parallel_tool_calls": false,
        "response_format": conformance::example("response_format"),
    });
    let call = Anthropic::default().encode(&ask("claude-sonnet-4-5", params), 3).unwrap();
    assert_eq!(call.path, "/messages");
    let schema = |name: &str| conformance::example(name);
    assert_eq!(
        body(&call),
        json!({
            "model": "claude-sonnet-4-5", "max_tokens": 99, "system": "be brief", "messages": [{"role": "user", "content": "hi"}],
            "stop_sequences": ["END"], "top_k": 5, "metadata": {"user_id": "u"},
            "tools": [{"name": "look", "description": "looks", "input_schema": schema("tools")[0]["function"]["parameters"]}],
            "tool_choice": {"disable_parallel_tool_use": true, "type": "tool", "name": "look"},
            "output_config": {"format": {"type": "json_schema", "schema": schema("response_format")["json_schema"]["schema"]}},
        })
    );
    assert_eq!(Anthropic::default().headers(), [("anthropic-version", "2023-06-01".to_owned())]);
}

#[test]
fn thinking_is_asked_for_as_the_model_takes_it() {
    let sent = |model: &str, effort: &str, limit: u64| {
        Anthropic::default()
            .encode(&ask(model, json!({"max_tokens": limit, "reasoning_effort": effort})), 1)
            .map(|call| body(&call))
    };
    assert_eq!(
        sent("claude-3-7-sonnet-20250219", "medium", 9999).unwrap()["thinking"],
        json!({"type": "enabled", "budget_tokens": 4096})
    );
    let adaptive = sent("claude-opus-4-6", "high", 100).unwrap();
    assert_eq!(
        (&adaptive["thinking"], &adaptive["output_config"]),
        (&json!({"type": "adaptive"}), &json!({"effort": "high"}))
    );
    assert_eq!(sent("anthropic.claude-sonnet-5-v1:0", "low", 100).unwrap()["thinking"], json!({"type": "adaptive"}));
    assert_eq!(sent("claude-opus-4-1", "none", 100).unwrap()["thinking"], json!({"type": "disabled"}));
    for (model, effort, limit, words) in [
        ("claude-3-5-haiku-20241022", "low", 9999, "does not think"),
        ("claude-sonnet-4-20250514", "high", 9999, "max_tokens above 16384"),
        ("claude-sonnet-4-20250514", "xhigh", 99999, "from 4.6 on"),
        ("claude-opus-4-6", "very", 9999, "none, minimal"),
    ] {
        let failure = sent(model, effort, limit).unwrap_err();
        assert!(failure.kind == FailureKind::BadRequest && failure.message.contains(words), "{failure}");
    }
}

#[test]
fn what_it_cannot_be_asked_is_said() {
    let wire = Anthropic { outputs: [("claude-x".to_owned(), 8192)].into(), ..Anthropic::default() };
    assert_eq!(body(&wire.encode(&ask("claude-x", json!({})), 1).unwrap())["max_tokens"], json!(8192));
    let words = |request: Request| wire.encode(&request, 1).unwrap_err().message;
    assert!(words(ask("claude-y", json!({}))).contains("wants max_tokens"));
    assert!(words(ask("claude-x", json!({"temperature": 1.5}))).contains("0 to 1"));
    assert!(words(ask("claude-x", json!({"response_format": {"type": "json_object"}}))).contains("JSON schema"));
    assert!(
        words(Request { input: Input::Text("x".into()), ..ask("claude-x", json!({})) }).contains("chat models only")
    );
    let turns = |roles: &[&str]| {
        let message = |role: &&str| Message { role: (*role).to_owned(), content: "x".into() };
        Request { input: Input::Messages(roles.iter().map(message).collect()), ..ask("claude-x", json!({})) }
    };
    assert!(words(turns(&["user", "system"])).contains("before all others"));
    assert!(words(turns(&["system"])).contains("at least one message"));
    assert!(words(turns(&["tool"])).contains("`tool`"));
    let two = body(&wire.encode(&turns(&["system", "developer", "user", "assistant"]), 1).unwrap());
    assert_eq!((two["system"].as_array().unwrap().len(), two["messages"].as_array().unwrap().len()), (2, 2));
}

#[test]
fn replies_are_read() {
    let wire = Anthropic::default();
    let response = read(
        &wire,
        "claude-x",
        1,
        json!({"type": "message", "model": "claude-x", "content": [
        {"type": "text", "text": "a"}, {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}, {"type": "text", "text": "b"}],
        "stop_reason": "tool_use", "usage": {"input_tokens": 5, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 100, "output_tokens": 20}}),
    );
    let response = response.unwrap();
    assert_eq!((response.prompt_tokens, response.cached_tokens, response.cache_write_tokens), (112, 100, 7));
    assert_eq!((response.samples[0].text.as_str(), response.samples[0].completion_tokens), ("ab", 20));
    let calls = json!([{"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}}]);
    assert_eq!(response.samples[0].tool_calls, Some(calls));
    let ended = |reason: &str| {
        let usage = json!({"input_tokens": 5, "output_tokens": 2});
        read(&wire, "claude-x", 1, json!({"content": [], "stop_reason": reason, "usage": usage})).unwrap().samples[0]
            .finish_reason
            .clone()
    };
    assert_eq!(ended("refusal"), FinishReason::REFUSAL);
    assert_eq!(ended("stop_sequence"), FinishReason::STOP);
    assert_eq!(ended("pause_turn"), FinishReason("pause_turn".into()));
}
