//! What providers, servers and proxies say in place of an answer.

use super::*;

#[test]
fn errors_are_classed() {
    use FailureKind::*;
    let error = |code: &str, message: &str| json!({"error": {"code": code, "message": message}});
    let kind = |kind: &str, message: &str| json!({"type": "error", "error": {"type": kind, "message": message}});
    let google = |status: &str, message: &str, details: Value| json!({"error": {"code": 0, "status": status, "message": message, "details": details}});
    for (status, body, wanted) in [
        // OpenAI
        (400, error("context_length_exceeded", "too long"), ContextTooLong),
        (400, error("", "bad temperature"), BadRequest),
        (
            400,
            error(
                "invalid_prompt",
                "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            ),
            ContentFilter,
        ),
        (
            400,
            error("content_policy_violation", "Your request was rejected as a result of our safety system."),
            ContentFilter,
        ),
        (
            400,
            error(
                "invalid_value",
                "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
            ),
            BadRequest,
        ),
        (401, error("invalid_api_key", "Incorrect API key provided: sk-x."), Authentication),
        (
            403,
            error("unsupported_country_region_territory", "Country, region, or territory not supported"),
            Authentication,
        ),
        (404, error("model_not_found", "The model `x` does not exist or you do not have access to it."), UnknownModel),
        (
            429,
            error("insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
            QuotaExceeded,
        ),
        (429, error("rate_limit_exceeded", "Rate limit reached for gpt-4o"), RateLimit),
        (
            429,
            error(
                "rate_limit_exceeded",
                "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 12000.",
            ),
            ContextTooLong,
        ),
        // vLLM, llama.cpp, TGI, LM Studio
        (
            400,
            error("400", "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
            ContextTooLong,
        ),
        (
            422,
            json!({"error": "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000"}),
            ContextTooLong,
        ),
        // LiteLLM, Cohere, Bedrock, AI21
        (400, error("400", "litellm.ContextWindowExceededError: litellm.BadRequestError: x"), ContextTooLong),
        (
            400,
            json!({"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000."}),
            ContextTooLong,
        ),
        (
            400,
            json!({"message": "Malformed input request: expected maxLength: 200000, actual: 250000, please reformat your input and try again."}),
            ContextTooLong,
        ),
        (422, json!({"detail": "Prompt tokens limit exceeded"}), ContextTooLong),
        (429, json!({"message": "too many tokens in the prompt this minute"}), RateLimit),
        (
            400,
            json!({"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you requested 5000", "code": 400}),
            ContextTooLong,
        ),
        (
            400,
            json!({"error": {"code": 400, "type": "exceed_context_size_error", "message": "the request exceeds the available context size"}}),
            ContextTooLong,
        ),
        (
            422,
            json!({"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096", "error_type": "validation"}),
            ContextTooLong,
        ),
        (
            422,
            json!({"detail": [{"loc": ["body", "temperature"], "msg": "ensure this value is less than 2"}]}),
            BadRequest,
        ),
        (503, json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}), Server),
        // Groq, OpenRouter, LiteLLM, DeepSeek
        (413, error("rate_limit_exceeded", "Request too large for model on tokens per minute (TPM)"), ContextTooLong),
        (498, error("", "flex capacity exceeded"), RateLimit),
        (402, error("", "Insufficient credits. Add more"), QuotaExceeded),
        (
            403,
            json!({"error": {"code": 403, "message": "openai/x requires moderation. Your input was flagged for \"violence\"", "metadata": {"reasons": ["violence"]}}}),
            ContentFilter,
        ),
        (
            400,
            json!({"error": {"message": "litellm.BadRequestError: Violated guardrail policy", "code": "400"}}),
            ContentFilter,
        ),
        (
            400,
            json!({"error": {"message": "/chat/completions: Invalid model name passed in model=x", "code": "400"}}),
            UnknownModel,
        ),
        (400, error("invalid_request_error", "Content Exists Risk"), ContentFilter),
        (400, error("", "Provider returned error: prompt is too long: 210000 tokens > 200000 maximum"), ContextTooLong),
        // A proxy, a firewall
        (403, json!("Request blocked by security policy: the prompt contains restricted content"), ContentFilter),
        (403, json!({"message": "Your organization has been disabled for violating our usage policy"}), Authentication),
        (407, json!("Proxy Authentication Required"), Authentication),
        (451, json!({"error": "blocked: this content violates our policy"}), ContentFilter),
        // Anthropic
        (400, kind("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), ContextTooLong),
        (
            400,
            kind("invalid_request_error", "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000"),
            ContextTooLong,
        ),
        (
            400,
            kind("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            QuotaExceeded,
        ),
        (400, kind("invalid_request_error", "Output blocked by content filtering policy"), ContentFilter),
        (400, kind("invalid_request_error", "max_tokens: Field required"), BadRequest),
        (401, kind("authentication_error", "invalid x-api-key"), Authentication),
        (
            403,
            kind("permission_error", "Your API key does not have permission to use the specified resource."),
            Authentication,
        ),
        (404, kind("not_found_error", "model: claude-x"), UnknownModel),
        (413, kind("request_too_large", "Request exceeds the maximum allowed number of bytes."), ContextTooLong),
        (499, kind("", "client closed request"), Server),
        (429, kind("rate_limit_error", "This request would exceed your organization's rate limit"), RateLimit),
        (529, kind("overloaded_error", "Overloaded"), Server),
        // Google
        (
            400,
            google(
                "INVALID_ARGUMENT",
                "API key not valid. Please pass a valid API key.",
                json!([{"reason": "API_KEY_INVALID"}]),
            ),
            Authentication,
        ),
        (
            400,
            google(
                "INVALID_ARGUMENT",
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
                json!([]),
            ),
            ContextTooLong,
        ),
        (400, google("INVALID_ARGUMENT", "Multiple candidates is not enabled for this model", json!([])), BadRequest),
        (403, google("PERMISSION_DENIED", "Permission denied on resource project", json!([])), Authentication),
        (
            429,
            google(
                "RESOURCE_EXHAUSTED",
                "You exceeded your current quota, please check your plan and billing details.",
                json!([{"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]}]),
            ),
            RateLimit,
        ),
        (
            429,
            google(
                "RESOURCE_EXHAUSTED",
                "You exceeded your current quota, please check your plan and billing details.",
                json!([{"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]),
            ),
            QuotaExceeded,
        ),
        (503, google("UNAVAILABLE", "The model is overloaded. Please try again later.", json!([])), Server),
        (
            500,
            json!([{"error": {"code": 500, "message": "An internal error has occurred", "status": "INTERNAL"}}]),
            Server,
        ),
    ] {
        let failure = refusal::read(status, b"", body.to_string().as_bytes()).failure;
        assert_eq!(failure.kind, wanted, "{status} {body}: {failure}");
    }
    for (status, wanted) in [
        (400, (false, false, false)),
        (429, (true, true, false)),
        (498, (true, true, false)),
        (499, (false, false, true)),
        (500, (false, false, false)),
        (502, (false, false, true)),
        (503, (false, true, false)),
        (504, (false, false, true)),
        (524, (false, false, true)),
        (529, (true, true, false)),
    ] {
        let refusal = refusal::read(status, b"", b"");
        assert_eq!((refusal.too_much, refusal.limited, refusal.billed), wanted, "{status}");
    }
    assert_eq!(refusal::read(500, b"", b"").failure.message, "HTTP 500: (empty reply)");
    let hint = refusal::read(
        404,
        b"",
        br#"{"error": {"message": "This model is only supported in v1/responses and not in v1/chat/completions."}}"#,
    );
    assert!(hint.failure.message.contains("kind = \"responses\""), "{}", hint.failure);
}
