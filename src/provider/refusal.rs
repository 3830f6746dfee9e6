//! What an endpoint says in place of an answer: the class of a failure from its status and its words, and how long it asks
//! to wait. One reading for all: proxies pass the words of one provider on in the form of another.

use std::time::Duration;

use serde_json::Value;

use crate::provider::anthropic;
use crate::provider::wire::Refusal;
use crate::provider::{Failure, FailureKind};

/// So many characters of an error's message are read.
const LONGEST: usize = 10_000;

/// The pieces of an error that its class depends on. The words are in small letters.
struct Told {
    codes: Vec<String>,
    words: String,
    shown: String,
    /// The call that it answers, in small letters: its own words come back in what some servers say.
    asked: String,
}

impl Told {
    fn code(&self, any: &[&str]) -> bool {
        self.codes.iter().any(|code| any.contains(&code.as_str()))
    }

    fn says(&self, any: &[&str]) -> bool {
        any.iter().any(|phrase| self.words.contains(phrase))
    }

    /// The same, in words that are not the request's own: for what ends a run.
    fn says_itself(&self, any: &[&str]) -> bool {
        any.iter().any(|phrase| self.words.contains(phrase) && !self.asked.contains(phrase))
    }

    fn sentences(&self) -> impl Iterator<Item = &str> {
        self.words.split(['\n', '!', '?', ';']).flat_map(|line| line.split(". "))
    }

    /// One sentence has a phrase of each of these: apart from each other they say nothing.
    fn says_at_once(&self, all: &[&[&str]]) -> bool {
        let has = |sentence: &str, any: &[&str]| any.iter().any(|phrase| sentence.contains(phrase));
        self.sentences().any(|sentence| all.iter().all(|any| has(sentence, any)))
    }

    /// "The model `x` does not exist", "model 'x' not found": a name stands between, and little else.
    fn says_no_model(&self) -> bool {
        let near = |before: &str| {
            for (between, word) in before.split_whitespace().rev().take(4).enumerate() {
                if word.trim_start_matches(|c: char| !c.is_alphanumeric()).starts_with("model") {
                    return true;
                }
                // What comes behind a colon or a comma is something else.
                if between > 0 && word.ends_with([':', ',']) {
                    return false;
                }
            }
            false
        };
        let missing = ["does not exist", "not found"];
        let about = |sentence: &str| {
            missing.iter().any(|phrase| sentence.match_indices(phrase).any(|(at, _)| near(&sentence[..at])))
        };
        self.says(&["invalid model name", "is not a valid model"]) || self.sentences().any(about)
    }
}

/// What a server says of a field that is wrong, without the request that it quotes beside it: the user's own words say
/// nothing of what went wrong. In the forms of pydantic (FastAPI, vLLM).
fn without_echo(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    let found = |text: &str| {
        let begins = ["'input':", "\"input\":", "input_value="].into_iter();
        begins.filter_map(|begin| text.find(begin).map(|at| (at, at + begin.len()))).min()
    };
    while let Some((at, value)) = found(rest) {
        kept.push_str(&rest[..at]);
        let (begin, value) = (&rest[at..value], &rest[value..]);
        // This one may be cut, with a quote or a bracket that never ends; behind it stands its type.
        let typed = if begin == "input_value=" { value.find(", input_type=") } else { None };
        rest = &value[typed.unwrap_or_else(|| extent(value))..];
    }
    kept.push_str(rest);
    kept
}

/// How far a value in JSON's or Python's form goes that a text begins with.
fn extent(text: &str) -> usize {
    let (mut depth, mut quote, mut escaped) = (0_u32, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if std::mem::take(&mut escaped) => {}
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{' | '[' | '(') => depth += 1,
            (None, '}' | ']' | ')' | ',') if depth == 0 => return at,
            (None, '}' | ']' | ')') => depth -= 1,
            (None, _) => {}
        }
    }
    text.len()
}

/// Reads the error's forms: `{"error": {...}}`, `{"error": "..."}`, `{"detail": ...}`, `{"message": ...}`, a list with one
/// of them, or any text.
fn told(asked: &[u8], body: &[u8]) -> (Told, Value) {
    let mut json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    if let Some(first) = json.as_array_mut().and_then(|list| list.first_mut()) {
        json = first.take();
    }
    let error = json.get("error").filter(|error| !error.is_null()).unwrap_or(&json);
    let mut codes = Vec::new();
    let mut messages = Vec::new();
    let add = |list: &mut Vec<String>, value: Option<&Value>| match value {
        Some(Value::String(text)) if !text.trim().is_empty() => list.push(text.clone()),
        Some(Value::Number(number)) => list.push(number.to_string()),
        _ => {}
    };
    let inner = error.get("innererror").or_else(|| error.get("inner_error"));
    let details = error.get("details").and_then(Value::as_array);
    let reason = details.and_then(|list| list.iter().find_map(|detail| detail.get("reason")));
    for code in ["code", "type", "status", "error_type"].map(|name| error.get(name)) {
        add(&mut codes, code);
    }
    for code in [json.get("error_type"), inner.and_then(|inner| inner.get("code")), reason] {
        add(&mut codes, code);
    }
    for message in [Some(error), error.get("message"), error.get("detail"), json.get("message"), json.get("detail")] {
        add(&mut messages, message);
    }
    // What stood behind a proxy.
    let raw = error.get("metadata").and_then(|metadata| metadata.get("raw"));
    add(&mut messages, raw);
    messages.dedup();
    if messages.is_empty() {
        messages.push(match body.is_empty() {
            true => "(empty reply)".to_owned(),
            false => String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned(),
        });
    }
    let shown = clip(&messages.join(": "));
    let codes = codes.into_iter().map(|code| code.to_lowercase()).collect();
    // What went wrong stands at the beginning; the rest of a long text is somebody's page or request.
    let words: String = messages.join("\n").chars().take(LONGEST).collect();
    let asked = String::from_utf8_lossy(asked).to_lowercase();
    (Told { codes, words: without_echo(&words).to_lowercase(), shown, asked }, json)
}

/// The prompt, with what was asked for, does not fit.
fn too_long(status: u16, told: &Told) -> bool {
    if !matches!(status, 400 | 413 | 422 | 429 | 500) {
        return false;
    }
    let limit = status == 429 && told.says(&["request too large"]);
    let code = told.code(&[
        "context_length_exceeded",
        "string_above_max_length",
        "request_too_large",
        "exceed_context_size_error",
    ]);
    let words = told.says(&[
        "maximum context",
        "exceed context limit",
        "prompt is too long",
        "input is too long",
        "request too large",
        "maximum prompt length",
        "reduce the length of the messages",
        "input token count",
        "`inputs` tokens + `max_new_tokens`",
        "`inputs` must have less than",
        "maximum model length",
        "contextwindowexceedederror",
        "prompt tokens limit exceeded",
    ]) || told.says_at_once(&[
        &["context length", "context window", "context size"],
        &[
            "exceed",
            "too long",
            "too large",
            "too many",
            "larger",
            "longer",
            "greater",
            "limit",
            "tokens",
            "fit",
            "reduce",
            "beyond",
        ],
    ]) || told.says_at_once(&[&["too many tokens"], &["in the prompt", "cannot exceed"]])
        || told.says_at_once(&[&["expected maxlength"], &["actual:"]]);
    match status {
        413 => true,
        429 => limit,
        500 => told.code(&["context_length_exceeded"]) || (words && told.says(&["exceed", "too long", "larger than"])),
        _ => code || words,
    }
}

/// This one prompt, or its answer, is not allowed; another may be.
fn filtered(told: &Told) -> bool {
    let account = told.says(&["your account", "your organization", "api key"]);
    told.code(&[
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "invalid_prompt",
        "moderation_blocked",
        "data_inspection_failed",
        "prohibited_content",
    ]) || told.says(&[
        "content management policy",
        "content_filter",
        "contentpolicyviolationerror",
        "content exists risk",
        "rejected as a result of our safety system",
        "input was flagged",
        "prompt was flagged",
    ]) || told.says_at_once(&[
        &["content filter", "content policy", "inappropriate content", "guardrail", "prompt injection"],
        &[
            "violat",
            "filtered",
            "filtering",
            "block",
            "reject",
            "flag",
            "refus",
            "trigger",
            "not allowed",
            "prohibit",
            "detect",
            "due to",
            "against",
            "interven",
            "contain",
        ],
    ]) || (!account
        && told.says_at_once(&[
            &["prompt", "input", "content", "request", "message", "text"],
            &["violat"],
            &["polic", "guideline", "safety"],
        ]))
        || (!account
            && told.says_at_once(&[
                &["blocked by", "was blocked"],
                &["policy", "firewall", "waf", "moderation", "safety"],
            ]))
}

/// Codes that say which field is wrong, and how: then words say nothing else.
const FORM: &[&str] = &[
    "unsupported_value",
    "unsupported_parameter",
    "unknown_parameter",
    "missing_required_parameter",
    "invalid_value",
    "invalid_type",
    "invalid_function_parameters",
    "invalid_json_schema",
    "integer_below_min_value",
    "integer_above_max_value",
    "decimal_below_min_value",
    "decimal_above_max_value",
];

fn class(status: u16, told: &Told) -> FailureKind {
    let google = told.code(&["resource_exhausted"]);
    let quota = told.code(&["insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"])
        || told.says_itself(&[
            "credit balance is too low",
            "insufficient balance",
            "insufficient credits",
            "requests per day (rpd)",
        ])
        // Google says this of every limit.
        || (!google && told.says_itself(&["exceeded your current quota"]))
        || (google && told.says(&["perday", "per day"]));
    let no_model = told.code(&["model_not_found", "deploymentnotfound", "unknown_model"]) || told.says_no_model();
    match status {
        400 | 422 if told.code(FORM) => FailureKind::BadRequest,
        _ if too_long(status, told) => FailureKind::ContextTooLong,
        400 | 403 | 422 | 451 if filtered(told) => FailureKind::ContentFilter,
        400 | 401 | 403 if told.code(&["api_key_invalid", "invalid_api_key"]) => FailureKind::Authentication,
        402 => FailureKind::QuotaExceeded,
        400 | 403 | 429 if quota => FailureKind::QuotaExceeded,
        401 | 403 | 407 => FailureKind::Authentication,
        404 => FailureKind::UnknownModel,
        // The mock endpoint's, where it plays a cassette.
        422 if told.code(&["not_recorded"]) => FailureKind::NotRecorded,
        400 if no_model => FailureKind::UnknownModel,
        400 if told.says_itself(&["api key not valid", "invalid api key", "incorrect api key"]) => {
            FailureKind::Authentication
        }
        // 498: Groq's "capacity exceeded".
        429 | 498 => FailureKind::RateLimit,
        // 499: a gateway's word for a client that went away, which this one did not.
        408 | 409 | 425 | 499 | 500..=599 => FailureKind::Server,
        _ => FailureKind::BadRequest,
    }
}

/// Reads a reply with a status other than 200 to a call with a body: its class, in the endpoint's own words.
pub fn read(status: u16, asked: &[u8], body: &[u8]) -> Refusal {
    let (mut told, json) = told(asked, body);
    // Google's limits by the day stand in the details, with words that serve every limit.
    if told.code(&["resource_exhausted"]) && json.to_string().to_lowercase().contains("perday") {
        told.words.push_str("\nperday");
    }
    let kind = class(status, &told);
    let mut message = format!("HTTP {status}: {}", told.shown);
    if told.says(&["v1/responses"]) && kind != FailureKind::RateLimit {
        message.push_str(" (in farthing.toml, the model's kind = \"responses\" asks it so)");
    }
    let wait = wish(&json).or_else(|| said_wait(&told.words));
    Refusal {
        failure: Failure::new(kind, message),
        wait: wait.filter(|_| kind.transient()),
        // 529: Anthropic's "overloaded".
        too_much: kind == FailureKind::RateLimit || status == 529,
        limited: matches!(status, 429 | 498 | 503 | 529),
        // A gateway that gave up says nothing of what the model behind it did.
        billed: matches!(status, 499 | 502 | 504 | 520..=527),
    }
}

/// An error inside a reply with status 200, as some proxies send it: its own code is the status that counts.
pub(super) fn within(error: &Value, body: &[u8]) -> Refusal {
    let status = status_within(error);
    let refusal = read(status.unwrap_or(500), b"", body);
    let (_, words) = refusal.failure.message.split_once(": ").unwrap_or(("", &refusal.failure.message));
    let failure = Failure::new(refusal.failure.kind, format!("an error in place of an answer: {words}"));
    // Of one that has no name nobody knows what was done before it.
    Refusal { failure, billed: status.is_none() || refusal.billed || has_usage(body), ..refusal }
}

/// The status that an error within an answer stands for, by its number or its name.
fn status_within(error: &Value) -> Option<u16> {
    let said = ["code", "status", "type"].iter().filter_map(|name| error.get(name));
    let number = |value: &Value| {
        let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
        u16::try_from(number).ok().filter(|code| (400..=599).contains(code))
    };
    said.clone().find_map(number).or_else(|| said.filter_map(Value::as_str).find_map(status_of))
}

fn status_of(name: &str) -> Option<u16> {
    let name = name.to_lowercase();
    Some(match name.as_str() {
        "invalid_prompt" | "content_filter" | "content_policy_violation" | "context_length_exceeded" => 400,
        "invalid_argument" | "failed_precondition" => 400,
        "invalid_api_key" | "unauthenticated" => 401,
        "permission_denied" => 403,
        "model_not_found" | "not_found" => 404,
        "rate_limit_exceeded" | "insufficient_quota" | "resource_exhausted" => 429,
        "server_error" | "internal" | "api_error" => 500,
        "unavailable" | "service_unavailable" => 503,
        "deadline_exceeded" => 504,
        name if FORM.contains(&name) => 400,
        name => return Some(anthropic::status_of(name)).filter(|status| *status != 500),
    })
}

/// The reply counts tokens.
fn has_usage(body: &[u8]) -> bool {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let counts = ["usage", "usageMetadata"].iter().filter_map(|name| json.get(name)?.as_object());
    counts.flat_map(|counts| counts.values()).any(|count| count.as_f64().is_some_and(|count| count > 0.0))
}

/// Google's `RetryInfo` among the details.
fn wish(json: &Value) -> Option<Duration> {
    let details = json.get("error")?.get("details")?.as_array()?;
    details.iter().find_map(|detail| duration(detail.get("retryDelay")?.as_str()?))
}

/// "Please try again in 6m0s."
fn said_wait(words: &str) -> Option<Duration> {
    let after = ["try again in ", "retry in ", "retry after "].iter().find_map(|phrase| words.split_once(phrase))?.1;
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(after.len());
    let number = after[..end].trim_end_matches('.');
    match number.parse::<f64>() {
        // "in 2 seconds"
        Ok(seconds) if after[end..].trim_start().starts_with("s") => Duration::try_from_secs_f64(seconds).ok(),
        Ok(_) => None,
        Err(_) => duration(number),
    }
}

/// A span of time as endpoints write it: `1s`, `6m0s`, `20ms`, `1h2m3.5s`, or a bare number of seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.trim().is_empty())
}

/// The beginning of a reply that could not be read, for the message.
pub(super) fn excerpt(body: &[u8]) -> String {
    match body.is_empty() {
        true => "(empty reply)".to_owned(),
        false => clip(&String::from_utf8_lossy(&body[..body.len().min(400)])),
    }
}

/// One line of at most 200 characters.
fn clip(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spans_of_time_are_read() {
        for (text, seconds) in [
            ("1s", 1.0),
            ("6m0s", 360.0),
            ("20ms", 0.02),
            ("1h2m3.5s", 3723.5),
            ("59", 59.0),
            ("17.3s", 17.3),
            ("0", 0.0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "-1s", "soon", "1x", "s", "1s2", "nan", "99999999999999999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_text_may_say_how_long_to_wait() {
        let wait = |status: u16, body: Value| read(status, b"", body.to_string().as_bytes()).wait;
        let message = |text: &str| json!({"error": {"message": text}});
        assert_eq!(wait(429, message("Rate limit reached. Please try again in 6m0s.")), Some(Duration::from_secs(360)));
        assert_eq!(wait(429, message("try again in 20ms")), Some(Duration::from_millis(20)));
        assert_eq!(wait(429, message("Please retry after 7 seconds.")), Some(Duration::from_secs(7)));
        assert_eq!(wait(429, message("try again in 2 hours")), None);
        assert_eq!(wait(400, message("try again in 6m0s")), None, "it will not pass");
        let google = json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota", "details": [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}]}});
        assert_eq!(wait(429, google), Some(Duration::from_secs(17)));
    }

    #[test]
    fn an_error_within_an_answer_means_what_its_status_would() {
        use FailureKind::{BadRequest, ContentFilter, Server, UnknownModel};
        let body = json!({"error": {"code": 429, "message": "upstream is busy, try again in 3s"}});
        let refusal = within(&body["error"], body.to_string().as_bytes());
        let words = "an error in place of an answer: upstream is busy, try again in 3s";
        assert_eq!(refusal.failure, Failure::new(FailureKind::RateLimit, words));
        assert_eq!(
            (refusal.wait, refusal.too_much, refusal.limited, refusal.billed),
            (Some(Duration::from_secs(3)), true, true, false)
        );
        for (error, kind, too_much, billed) in [
            (json!({"code": "429", "message": "busy"}), FailureKind::RateLimit, true, false),
            (json!({"code": "rate_limit_exceeded", "message": "slow down"}), FailureKind::RateLimit, true, false),
            (json!({"code": "insufficient_quota", "message": "no"}), FailureKind::QuotaExceeded, false, false),
            (json!({"code": "invalid_prompt", "message": "no"}), ContentFilter, false, false),
            (
                json!({"code": "invalid_value", "type": "invalid_request_error", "message": "no"}),
                BadRequest,
                false,
                false,
            ),
            (json!({"code": null, "type": "invalid_request_error", "message": "no"}), BadRequest, false, false),
            (json!({"type": "rate_limit_error", "message": "no"}), FailureKind::RateLimit, true, false),
            (json!({"type": "overloaded_error", "message": "no"}), Server, true, false),
            (json!({"status": "RESOURCE_EXHAUSTED", "message": "no"}), FailureKind::RateLimit, true, false),
            (json!({"code": "server_error", "message": "no"}), Server, false, false),
            (json!({"code": 404, "message": "no"}), UnknownModel, false, false),
            // A gateway, and nobody knows what.
            (json!({"code": 502, "message": "no"}), Server, false, true),
            (json!({"code": "odd", "message": "no"}), Server, false, true),
            (json!("no"), Server, false, true),
        ] {
            let refusal = within(&error, json!({"error": error}).to_string().as_bytes());
            assert_eq!((refusal.failure.kind, refusal.too_much, refusal.billed), (kind, too_much, billed), "{error}");
        }
        let body = json!({"error": {"code": "server_error"}, "usage": {"input_tokens": 7, "output_tokens": 900}});
        assert!(within(&body["error"], body.to_string().as_bytes()).billed, "it says that tokens were used");
    }

    #[test]
    fn what_is_quoted_of_a_request_says_nothing() {
        for (text, kept) in [
            ("[{'msg': 'bad', 'input': {'model': 'm', 'x': [1, \"it's }\"]}}]", "[{'msg': 'bad', }]"),
            (r#"{"input": "a \" b", "msg": "c"}"#, r#"{, "msg": "c"}"#),
            ("x [type=y, input_value={'a': 'b...c'}], input_type=dict]", "x [type=y, , input_type=dict]"),
            ("cut: 'input': {'a': 'b", "cut: "),
            ("the input: it is wrong", "the input: it is wrong"),
        ] {
            assert_eq!(without_echo(text), kept);
        }
        let kind = |text: &str, detail: bool| {
            let body = match detail {
                true => json!({"detail": [{"loc": ["body"], "msg": "bad", "input": {"content": text}}]}),
                false => json!({"object": "error", "type": "BadRequestError", "code": 400, "message": format!(
                    "[{{'type': 'value_error', 'msg': 'Value error, bad', 'input': {{'model': 'm', 'content': '{text}'}}}}]")}),
            };
            read(400, b"", body.to_string().as_bytes()).failure.kind
        };
        // Words that come back in no form that is known, but stand in the request; a refusal's own still count.
        for (asked, wanted) in [
            ("{\"content\":\"Why? It says Invalid API key.\"}", FailureKind::BadRequest),
            ("{\"content\":\"Why?\"}", FailureKind::Authentication),
        ] {
            let body = json!({"error": {"message": "cannot parse: Why? It says invalid api key."}}).to_string();
            assert_eq!(read(400, asked.as_bytes(), body.as_bytes()).failure.kind, wanted, "{asked}");
        }
        for text in [
            "Why is the model not found",
            "the prompt is too long",
            "your prompt was flagged",
            "invalid api key",
            "insufficient credits",
        ] {
            assert_eq!(
                (kind(text, false), kind(text, true)),
                (FailureKind::BadRequest, FailureKind::BadRequest),
                "{text}"
            );
        }
    }

    #[test]
    fn words_are_believed_where_they_stand_together() {
        use FailureKind::{BadRequest, ContentFilter, ContextTooLong, UnknownModel};
        for (message, wanted) in [
            ("Tool 'calc' not found in request for this model", BadRequest),
            ("This model is asked for a tool. Tool x was not found", BadRequest),
            ("model m: function look not found", BadRequest),
            ("Bad message: 'what is a context window'", BadRequest),
            ("Bad message: 'explain the content policy of this site'", BadRequest),
            ("The prompt is bad. It violates nothing. There is a policy", BadRequest),
            ("The model `x/y:free` does not exist or you do not have access to it.", UnknownModel),
            ("model 'llama3.2' not found, try pulling it first", UnknownModel),
            ("The model named x is not found", UnknownModel),
            ("x/y is not a valid model ID", UnknownModel),
            ("the prompt exceeds the context window of 4096", ContextTooLong),
            ("Your request violates our content policy", ContentFilter),
        ] {
            let failure = read(400, b"", json!({"error": {"message": message}}).to_string().as_bytes()).failure;
            assert_eq!(failure.kind, wanted, "{message}");
        }
        let coded = json!({"error": {"code": "unsupported_value", "message": "prompt is too long"}});
        assert_eq!(read(400, b"", coded.to_string().as_bytes()).failure.kind, BadRequest, "its code says what it is");
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_class(status: u16, body: Vec<u8>, text in "\\PC{0,60}") {
            let _ = (read(status, b"", &body), read(status, &body, text.as_bytes()), duration(&text), said_wait(&text));
            let _ = (without_echo(&text), within(&json!(text), text.as_bytes()));
        }
    }
}
