//! Google's API.

use super::*;

#[test]
fn a_request_is_encoded() {
    let params = json!({"temperature": 0.1, "top_k": 4, "max_tokens": 9, "stop": "END", "reasoning_effort": "low",
        "tools": conformance::example("tools"), "tool_choice": {"type": "function", "function": {"name": "look"}},
        "safetySettings": [], "response_format": {"type": "json_object"}});
    let call = Gemini.encode(&ask("gemini-2.5-flash", params), 20).unwrap();
    assert_eq!(call.path, "/models/gemini-2.5-flash:generateContent");
    assert_eq!(
        body(&call),
        json!({
            "systemInstruction": {"parts": [{"text": "be brief"}]}, "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
            "generationConfig": {"temperature": 0.1, "topK": 4, "maxOutputTokens": 9, "stopSequences": ["END"], "candidateCount": 8,
                "thinkingConfig": {"thinkingBudget": 1024}, "responseMimeType": "application/json"},
            "tools": [{"functionDeclarations": [{"name": "look", "description": "looks",
                "parametersJsonSchema": conformance::example("tools")[0]["function"]["parameters"]}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}}, "safetySettings": [],
        })
    );
    let newer = Gemini.encode(&ask("gemini-3-pro-preview", json!({"reasoning_effort": "high"})), 4).unwrap();
    assert_eq!(body(&newer)["generationConfig"], json!({"thinkingConfig": {"thinkingLevel": "high"}}));
    assert_eq!(
        Gemini.encode(&ask("tunedModels/a b", json!({})), 1).unwrap().path,
        "/tunedModels/a%20b:generateContent"
    );
    for (model, effort) in [("gemini-2.0-flash", "low"), ("gemini-3-pro", "none"), ("gemini-2.5-pro", "much")] {
        let failure = Gemini.encode(&ask(model, json!({"reasoning_effort": effort})), 1).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadRequest, "{model}");
    }
}

#[test]
fn no_setting_goes_beyond_the_bound() {
    for (config, set) in
        [(json!({"candidateCount": 4}), "set `n`"), (json!({"max_output_tokens": 4}), "set `max_tokens`")]
    {
        for name in ["generationConfig", "generation_config"] {
            let failure = Gemini.encode(&ask("m", json!({"max_tokens": 9, name: config.clone()})), 1).unwrap_err();
            assert_eq!(failure.kind, FailureKind::BadRequest);
            assert!(failure.message.ends_with(set), "{failure}");
        }
    }
}

#[test]
fn replies_are_read() {
    let usage = json!({"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 40, "toolUsePromptTokenCount": 2});
    let called = json!({"candidates": [{"content": {"parts": [{"text": "hm", "thought": true}, {"functionCall": {"name": "look", "args": {"at": 1}}}]},
        "finishReason": "STOP"}], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"});
    let response = read(&Gemini, "gemini-2.5-flash", 1, called).unwrap();
    assert_eq!((response.prompt_tokens, response.completion_tokens(), response.reasoning_tokens), (11, 43, 40));
    assert_eq!((response.samples[0].text.as_str(), response.samples[0].finish_reason.0.as_ref()), ("", "tool_calls"));
    let calls = json!([{"id": "call_0", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}}]);
    assert_eq!((&response.samples[0].tool_calls, &response.model), (&Some(calls), &None));
    // All of max_tokens went into thoughts: no parts, and no count of them.
    let thought = json!({"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}],
        "usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 40}});
    let response = read(&Gemini, "gemini-2.5-flash", 1, thought).unwrap();
    assert_eq!((response.completion_tokens(), response.estimated), (40, false));
    let unsafe_one = json!({"candidates": [{"finishReason": "SAFETY", "index": 0}], "usageMetadata": usage});
    assert_eq!(read(&Gemini, "m", 1, unsafe_one).unwrap().samples[0].finish_reason, FinishReason::CONTENT_FILTER);
    let own_word = json!({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}], "usageMetadata": usage});
    assert_eq!(read(&Gemini, "m", 1, own_word).unwrap().samples[0].finish_reason.0, "malformed_function_call");
    assert_eq!(Gemini.listed(br#"{"models": [{"name": "models/gemini-2.5-flash"}]}"#).unwrap(), ["gemini-2.5-flash"]);
}

#[test]
fn a_blocked_prompt_costs_what_its_usage_says() {
    let blocked =
        |usage: Value| json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage});
    for n in [1, 3] {
        let response = read(&Gemini, "m", n, blocked(json!({"promptTokenCount": 9, "totalTokenCount": 9}))).unwrap();
        assert_eq!(response.samples, vec![Sample::new("", FinishReason::CONTENT_FILTER, 0); n as usize]);
        assert_eq!((response.prompt_tokens, response.completion_tokens(), response.estimated), (9, 0, false));
        assert!(!response.output_unsaid);
    }
    for usage in [json!(null), json!({}), json!({"promptTokenCount": 0})] {
        let body = blocked(usage).to_string();
        let refusal = Gemini.decode(&ask("m", json!({})), 1, body.as_bytes()).unwrap_err();
        assert_eq!((refusal.failure.kind, refusal.billed), (FailureKind::ContentFilter, false), "{body}");
        assert!(refusal.failure.message.contains("PROHIBITED_CONTENT"), "{}", refusal.failure);
    }
}
