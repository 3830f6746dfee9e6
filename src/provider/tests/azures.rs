//! Addresses of deployments, and filters.

use super::*;

#[test]
fn a_deployment_is_part_of_the_address() {
    let deployments = [("gpt-4o".to_owned(), "my deployment".to_owned())].into();
    let wire = Azure { deployments, ..Azure::default() };
    let call = wire.encode(&ask("gpt-4o", json!({})), 1).unwrap();
    assert_eq!(call.path, "/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21");
    assert_eq!(body(&call)["model"], json!("my deployment"));
    let other = wire.encode(&ask("gpt-35-turbo", json!({})), 1).unwrap();
    assert_eq!(other.path, "/openai/deployments/gpt-35-turbo/chat/completions?api-version=2024-10-21");
    let newer = Azure { version: Some("v1".into()), ..wire.clone() };
    assert_eq!(newer.encode(&ask("gpt-4o", json!({})), 1).unwrap().path, "/openai/v1/chat/completions");
    assert_eq!(newer.listing().path, "/openai/v1/models");
    let responses = Azure { openai: asks_responses(), version: Some("2025-04-01-preview".into()), ..Azure::default() };
    let call = responses.encode(&ask("gpt-5", json!({})), 1).unwrap();
    assert_eq!(call.path, "/openai/responses?api-version=2025-04-01-preview");
}

#[test]
fn a_filter_is_told_from_a_bad_request() {
    let wire = Azure::default();
    let filtered = json!({"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": null, "param": "prompt", "code": "content_filter", "status": 400, "innererror": {
        "code": "ResponsibleAIPolicyViolation", "content_filter_result": {"violence": {"filtered": true, "severity": "high"}}}}});
    assert_eq!(wire.decode_error(400, b"", filtered.to_string().as_bytes()).failure.kind, FailureKind::ContentFilter);
    let missing = json!({"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}});
    assert_eq!(wire.decode_error(404, b"", missing.to_string().as_bytes()).failure.kind, FailureKind::UnknownModel);
    let cut = json!({"choices": [{"finish_reason": "content_filter", "index": 0, "message": {"role": "assistant"},
        "content_filter_results": {"hate": {"filtered": true, "severity": "high"}}}],
        "prompt_filter_results": [{"prompt_index": 0}], "usage": {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0}});
    let response = read(&wire, "gpt-4o", 1, cut).unwrap();
    assert_eq!(response.samples[0].finish_reason, FinishReason::CONTENT_FILTER);
    assert_eq!((response.prompt_tokens, response.completion_tokens(), response.estimated), (9, 0, false));
}
