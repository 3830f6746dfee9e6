//! Chat, texts and the Responses API.

use super::*;

#[test]
fn a_request_is_encoded() {
    let wire = Openai::default();
    let call = wire.encode(&ask("m", json!({"temperature": 0.5, "stop": []})), 1).unwrap();
    let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]);
    assert_eq!((call.method, &*call.path), (Method::Post, "/chat/completions"));
    assert_eq!(body(&call), json!({"model": "m", "messages": messages, "temperature": 0.5}));
    let text = Request { input: Input::Text("once".into()), ..ask("m", json!({"logprobs": true, "top_logprobs": 2})) };
    let call = wire.encode(&text, 3).unwrap();
    assert_eq!(call.path, "/completions");
    assert_eq!(body(&call), json!({"model": "m", "prompt": "once", "logprobs": 2, "n": 3}));
    let older = Request { input: Input::Text("once".into()), ..ask("m", json!({"logprobs": 5})) };
    assert_eq!(body(&wire.encode(&older, 1).unwrap())["logprobs"], json!(5));
}

#[test]
fn models_that_think_take_their_own_limit() {
    let vendor = Openai { vendor: true, ..Openai::default() };
    for (model, renamed) in [("o3-mini", true), ("gpt-5-nano", true), ("gpt-4o", false), ("gpt-oss-120b", false)] {
        let sent = body(&vendor.encode(&ask(model, json!({"max_tokens": 9})), 1).unwrap());
        assert_eq!(sent.get("max_completion_tokens").is_some(), renamed, "{model}");
        assert_eq!(sent.get("max_tokens").is_some(), !renamed, "{model}");
        let elsewhere = body(&Openai::default().encode(&ask(model, json!({"max_tokens": 9})), 1).unwrap());
        assert_eq!(elsewhere["max_tokens"], json!(9), "{model}: another server may know nothing else");
    }
    assert_eq!(vendor.encode(&ask("o3-pro", json!({})), 1).unwrap().path, "/responses");
    let chat = Openai { chat: ["o3-pro".to_owned()].into(), ..vendor };
    assert_eq!(chat.encode(&ask("o3-pro", json!({})), 1).unwrap().path, "/chat/completions");
}

#[test]
fn choices_come_in_order_and_share_the_bill() {
    let response = read(
        &Openai::default(),
        "gpt-4o-mini",
        2,
        json!({"model": "gpt-4o-mini-2024-07-18", "choices": [
        {"index": 1, "message": {"content": "b b b b"}, "finish_reason": "length"},
        {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
    ], "usage": {"prompt_tokens": 8, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}}),
    );
    let response = response.unwrap();
    let shares: Vec<_> = response.samples.iter().map(|s| (s.text.as_str(), s.completion_tokens)).collect();
    assert_eq!(shares, [("a", 2), ("b b b b", 5)]);
    assert_eq!((response.prompt_tokens, response.cached_tokens, response.estimated), (8, 4, true));
    assert_eq!(response.model.as_deref(), Some("gpt-4o-mini-2024-07-18"));
    assert_eq!(response.samples[1].finish_reason, FinishReason::LENGTH);
}

#[test]
fn what_is_withheld_is_billed_like_any_answer() {
    let said = |choice: Value| {
        let body = json!({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 4}});
        read(&Openai::default(), "m", 1, body).unwrap()
    };
    let refused = said(json!({"message": {"content": null, "refusal": "no"}, "finish_reason": "stop"}));
    assert_eq!((&refused.samples[0].finish_reason, refused.completion_tokens()), (&FinishReason::REFUSAL, 4));
    assert_eq!(refused.samples[0].text, "no");
    let filtered = said(json!({"message": {"content": null}, "finish_reason": "content_filter"}));
    assert_eq!(filtered.samples[0].finish_reason, FinishReason::CONTENT_FILTER);
    let own_word = said(json!({"message": {"content": "x"}, "finish_reason": "eos_token"}));
    assert_eq!(own_word.samples[0].finish_reason, FinishReason("eos_token".into()));
}

#[test]
fn calls_of_tools_and_logprobs_are_kept() {
    let calls = json!([{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"at\": 1}"}}]);
    let logprobs = json!({"content": [{"token": "a", "logprob": -0.5}]});
    let response = read(
        &Openai::default(),
        "m",
        1,
        json!({"choices": [
        {"message": {"content": null, "tool_calls": calls}, "finish_reason": "tool_calls", "logprobs": logprobs}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4}}),
    )
    .unwrap();
    assert_eq!(response.samples[0].tool_calls, Some(calls));
    assert_eq!(response.samples[0].logprobs, Some(logprobs));
    let none = read(&Openai::default(), "m", 1, json!({"choices": [{"message": {"content": "a", "tool_calls": []}}]}));
    assert_eq!(none.unwrap().samples[0].tool_calls, None);
}

#[test]
fn odd_forms_are_read_and_what_usage_leaves_out_is_bounded() {
    for usage in [
        json!({"total_tokens": 60}),
        json!({}),
        json!(null),
        json!({"prompt_tokens": -1}),
        json!("none"),
        json!({"prompt_tokens": 0, "completion_tokens": 0}),
    ] {
        let body = json!({"choices": [{"index": null, "message": {"content": [{"type": "text", "text": "abc"}]}}], "usage": usage});
        let response = read(&Openai::default(), "gpt-4o-mini", 1, body.clone()).unwrap();
        assert_eq!(response.samples[0].text, "abc");
        assert!(response.estimated && response.prompt_tokens >= 66 && response.completion_tokens() == 4, "{usage}");
        // At the vendor's own address its tokenizer counts: 3 + (4 + 1 + 2) + (4 + 1 + 1), and a token and the end.
        let vendor = Openai { vendor: true, ..Openai::default() };
        let counted = read(&vendor, "gpt-4o-mini", 1, body).unwrap();
        assert_eq!((counted.prompt_tokens, counted.completion_tokens(), counted.estimated), (16, 2, true), "{usage}");
    }
    let float = json!({"choices": [{"text": "a"}], "usage": {"prompt_tokens": 12.0, "completion_tokens": 3}});
    assert_eq!(read(&Openai::default(), "m", 1, float).unwrap().prompt_tokens, 12);
    // Thoughts that are shown but not counted are bounded too.
    let thought = json!({"choices": [{"message": {"content": "ab", "reasoning_content": "0123456789"}}]});
    assert_eq!(read(&Openai::default(), "m", 1, thought).unwrap().completion_tokens(), 13);
}

#[test]
fn thoughts_counted_apart_are_added() {
    let said = |usage: Value| {
        let response =
            read(&Openai::default(), "m", 1, json!({"choices": [{"message": {"content": "a"}}], "usage": usage}))
                .unwrap();
        (response.completion_tokens(), response.reasoning_tokens)
    };
    let within = json!({"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 20}});
    assert_eq!(said(within), (30, 20));
    let apart = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35, "completion_tokens_details": {"reasoning_tokens": 20}});
    assert_eq!(said(apart), (25, 20));
    let unnamed = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35});
    assert_eq!(said(unnamed), (25, 20));
}

#[test]
fn errors_inside_an_answer_are_errors() {
    let kind = |reply: Value| read(&Openai::default(), "m", 1, reply).unwrap_err().kind;
    assert_eq!(kind(json!({"error": {"code": 429, "message": "busy"}})), FailureKind::RateLimit);
    assert_eq!(kind(json!({"error": {"code": 502, "message": "x"}, "choices": []})), FailureKind::Server);
    let failed =
        json!({"finish_reason": "error", "error": {"code": 502, "message": "x"}, "message": {"content": "par"}});
    assert_eq!(kind(json!({"choices": [failed]})), FailureKind::Server);
    let limited =
        json!({"choices": [{"finish_reason": "error", "error": {"code": 429}, "message": {"content": "par"}}]});
    let limited = Openai::default().decode(&ask("m", json!({})), 1, limited.to_string().as_bytes()).unwrap_err();
    assert!(limited.failure.kind == FailureKind::RateLimit && limited.billed, "it wrote before: {limited:?}");
    assert_eq!(kind(json!({"choices": [], "usage": {}})), FailureKind::MalformedReply);
    assert_eq!(kind(json!({"choices": [{"index": 0, "finish_reason": "stop"}]})), FailureKind::MalformedReply);
    assert_eq!(kind(json!({"choices": [{"message": {"content": 4}}]})), FailureKind::MalformedReply);
    let empty = |choice: Value| read(&Openai::default(), "m", 1, json!({"choices": [choice]})).unwrap();
    assert_eq!(empty(json!({"message": {"content": null}, "finish_reason": "stop"})).samples[0].text, "");
    let filtered = empty(json!({"finish_reason": "content_filter"}));
    assert_eq!(filtered.samples[0].finish_reason, FinishReason::CONTENT_FILTER);
    let some = read(&Openai::default(), "m", 2, json!({"choices": [failed, {"message": {"content": "a"}}]})).unwrap();
    assert_eq!(some.samples.len(), 1);
}

#[test]
fn the_responses_api_has_its_own_names() {
    let params = json!({
        "max_tokens": 9, "reasoning_effort": "low", "logprobs": true, "top_logprobs": 2, "verbosity": "low",
        "response_format": conformance::example("response_format"), "tools": conformance::example("tools"),
        "tool_choice": {"type": "function", "function": {"name": "look"}},
    });
    let call = asks_responses().encode(&ask("gpt-5", params), 4).unwrap();
    assert_eq!(call.path, "/responses");
    let sent = body(&call);
    let schema = &conformance::example("response_format")["json_schema"]["schema"];
    assert_eq!(
        sent["text"],
        json!({"verbosity": "low", "format": {"type": "json_schema", "name": "answer", "strict": true, "schema": schema}})
    );
    assert_eq!(sent["tools"][0]["name"], json!("look"));
    assert_eq!(sent["tool_choice"], json!({"type": "function", "name": "look"}));
    assert_eq!((&sent["store"], &sent["reasoning"]), (&json!(false), &json!({"effort": "low"})));
    let kept = asks_responses().encode(&ask("gpt-5", json!({"store": true})), 1).unwrap();
    assert_eq!(body(&kept)["store"], json!(true));
}

#[test]
fn the_responses_apis_replies_are_read() {
    let wire = asks_responses();
    let usage = json!({"input_tokens": 9, "output_tokens": 4});
    let refused = json!({"status": "completed", "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}], "usage": usage});
    let refused = read(&wire, "gpt-5", 1, refused).unwrap();
    assert_eq!((refused.samples[0].text.as_str(), &refused.samples[0].finish_reason), ("no", &FinishReason::REFUSAL));
    let called = json!({"status": "completed", "output": [
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"}], "usage": usage});
    let called = read(&wire, "gpt-5", 1, called).unwrap();
    let calls = json!([{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]);
    assert_eq!(called.samples[0].tool_calls, Some(calls));
    let thought = json!({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [], "usage": usage});
    assert_eq!(read(&wire, "gpt-5", 1, thought).unwrap().samples[0].finish_reason, FinishReason::LENGTH);
    let failed = json!({"status": "failed", "error": {"code": "server_error", "message": "x"}, "output": []});
    assert_eq!(read(&wire, "gpt-5", 1, failed).unwrap_err().kind, FailureKind::Server);
    for (code, kind) in
        [("rate_limit_exceeded", FailureKind::RateLimit), ("invalid_prompt", FailureKind::ContentFilter)]
    {
        let failed = json!({"status": "failed", "error": {"code": code, "message": "x"}, "output": [], "usage": null});
        let refusal = wire.decode(&ask("gpt-5", json!({})), 1, failed.to_string().as_bytes()).unwrap_err();
        assert_eq!((refusal.failure.kind, refusal.billed), (kind, false), "{code}");
    }
}
