//! The battery that every wire format passes. It is library code, so that one written elsewhere can run it too: give it the
//! wire and a way to write a reply in its form. Each function panics with words where the wire does not conform.

use serde_json::{Map, Value, json};

use crate::provider::wire::{Place, Refusal, STANDARD, Wire};
use crate::provider::{FailureKind, FinishReason, Input, Message, Request, Response};

/// What a made reply says.
#[derive(Clone, Debug)]
pub struct Said<'a> {
    /// The completions.
    pub texts: Vec<&'a str>,
    /// All of them ended at max_tokens; else by themselves.
    pub cut: bool,
    /// All input tokens, cached ones too.
    pub input: u64,
    /// Input tokens read from a cache.
    pub cached: u64,
    /// All output tokens, thoughts too.
    pub output: u64,
    /// Output tokens of thoughts.
    pub thought: u64,
}

/// A wire on trial.
pub struct Subject<'a> {
    /// The wire.
    pub wire: &'a dyn Wire,
    /// A model that it takes, and that can think.
    pub model: &'a str,
    /// Asks by a text in place of messages.
    pub text: bool,
    /// Writes a reply in its form.
    pub reply: &'a dyn Fn(&Said<'_>) -> Value,
    /// Its replies say how much of the input was cached, and of the output was thought.
    pub details: (bool, bool),
}

/// Values for the parameters of [`STANDARD`] that are worth saying.
pub fn example(name: &str) -> Value {
    match name {
        "temperature" | "top_p" => json!(0.5),
        "stop" => json!(["END", "Ω\n"]),
        "max_tokens" | "max_completion_tokens" => json!(4321),
        "presence_penalty" | "frequency_penalty" => json!(0.25),
        "logit_bias" => json!({"50256": -100}),
        "seed" => json!(7),
        "logprobs" => json!(true),
        "top_logprobs" => json!(3),
        "response_format" => {
            json!({"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": {
            "type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": false}}})
        }
        "tools" => json!([{"type": "function", "function": {"name": "look", "description": "looks",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}}]),
        "tool_choice" => json!("required"),
        "parallel_tool_calls" => json!(false),
        "reasoning_effort" => json!("low"),
        _ => json!("someone"),
    }
}

impl Subject<'_> {
    /// A request with these parameters, and with max_tokens, without which some providers cannot be asked.
    pub fn request(&self, text: &str, params: &[(&str, Value)]) -> Request {
        let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let input = match self.text {
            true => Input::Text(text.to_owned()),
            false => Input::Messages(vec![message("system", text), message("user", text)]),
        };
        let mut all: std::collections::BTreeMap<String, Value> =
            params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        if !all.contains_key("max_completion_tokens") {
            all.entry("max_tokens".to_owned()).or_insert(json!(4321));
        }
        Request { model: self.model.to_owned(), input, params: all, n: 1 }
    }

    fn body(&self, request: &Request, n: u32) -> Value {
        let call = self.wire.encode(request, n).unwrap_or_else(|failure| panic!("{}: {failure}", self.wire.name()));
        assert!(call.path.starts_with('/'), "{}: the path {} begins with no slash", self.wire.name(), call.path);
        serde_json::from_slice(&call.body).unwrap_or_else(|error| panic!("{}: no JSON: {error}", self.wire.name()))
    }

    fn read(&self, request: &Request, n: u32, reply: &Value) -> Response {
        let read = self.wire.decode(request, n, reply.to_string().as_bytes());
        read.unwrap_or_else(|refusal| panic!("{}: {} in {reply}", self.wire.name(), refusal.failure))
    }

    /// Everything below.
    pub fn conforms(&self) {
        self.parameters_arrive_or_are_refused();
        for text in ["plain", "", " \n\t\u{0}\u{1f}\"\\/", "é😀\u{202e}\u{feff}\u{fffd}\u{10ffff}", "{\"a\": [1]}"] {
            self.texts_survive(text);
        }
        self.several_or_one();
        self.usage_adds_up();
        self.finish_reasons();
        self.bad_replies();
        self.errors_have_classes();
    }

    /// Every parameter arrives at its place in the body, or is refused before anything is sent in words that name it. One
    /// that is null, or says no more than its default, is no reason to refuse; one of the endpoint's own arrives as it is.
    pub fn parameters_arrive_or_are_refused(&self) {
        let wire = self.wire.name();
        let bare = self.request("hi", &[]);
        let places = self.wire.places(&bare);
        for name in STANDARD {
            let place = places.iter().find(|(known, _)| known == name);
            let (_, place) = place.unwrap_or_else(|| panic!("{wire}: no place is known for `{name}`"));
            let mut params = vec![(*name, example(name))];
            match *name {
                "tool_choice" | "parallel_tool_calls" if self.accepts("tools") => {
                    params.push(("tools", example("tools")))
                }
                "top_logprobs" if self.accepts("logprobs") => params.push(("logprobs", example("logprobs"))),
                _ => {}
            }
            let request = self.request("hi", &params);
            match place {
                Place::At(path) => {
                    let body = self.body(&request, 1);
                    let there = path.split('.').try_fold(&body, |value, field| value.get(field));
                    assert!(there.is_some(), "{wire}: `{name}` is not at {path}: {body}");
                    let kept = [
                        "temperature",
                        "top_p",
                        "stop",
                        "max_tokens",
                        "max_completion_tokens",
                        "seed",
                        "user",
                        "presence_penalty",
                        "frequency_penalty",
                        "logit_bias",
                        "top_logprobs",
                    ];
                    if kept.contains(name) {
                        assert_eq!(there, Some(&example(name)), "{wire}: `{name}` is another at {path}: {body}");
                    }
                }
                Place::Nowhere(_) => {
                    let failure = self.wire.encode(&request, 1).expect_err(name);
                    assert_eq!(failure.kind, FailureKind::BadRequest, "{wire}: {failure}");
                    assert!(failure.message.contains(&format!("`{name}`")), "{wire}: `{name}`: {failure}");
                }
            }
            let nothing = self.request("hi", &[(*name, Value::Null), ("max_tokens", json!(4321))]);
            assert_eq!(self.body(&nothing, 1), self.body(&bare, 1), "{wire}: a `{name}` of null says something");
        }
        let defaults = [
            ("presence_penalty", json!(0)),
            ("frequency_penalty", json!(0.0)),
            ("logit_bias", json!({})),
            ("stop", json!([])),
        ];
        self.body(&self.request("hi", &defaults), 1);
        let own = json!({"deep": [1, {"x": "é"}]});
        let body = self.body(&self.request("hi", &[("a_field_of_its_own", own.clone())]), 1);
        assert_eq!(body["a_field_of_its_own"], own, "{wire}: a field of the endpoint's own is lost");
        for name in ["stream", "n", "messages"] {
            let failure = self.wire.encode(&self.request("hi", &[(name, json!(true))]), 1).expect_err(name);
            assert!(failure.message.contains(&format!("`{name}`")), "{wire}: {failure}");
        }
        if self.accepts("stop") {
            let one = self.body(&self.request("hi", &[("stop", json!("END"))]), 1).to_string();
            assert!(one.contains("END"), "{wire}: one stop sequence is lost");
        }
    }

    fn accepts(&self, name: &str) -> bool {
        let places = self.wire.places(&self.request("hi", &[]));
        places.iter().any(|(known, place)| *known == name && matches!(place, Place::At(_)))
    }

    /// A text reaches the endpoint, and comes back from it, byte for byte.
    pub fn texts_survive(&self, text: &str) {
        fn holds(value: &Value, text: &str) -> bool {
            match value {
                Value::String(found) => found == text,
                Value::Array(list) => list.iter().any(|value| holds(value, text)),
                Value::Object(map) => map.values().any(|value| holds(value, text)),
                _ => false,
            }
        }
        let request = self.request(text, &[]);
        assert!(holds(&self.body(&request, 1), text), "{}: {text:?} does not arrive", self.wire.name());
        let reply = (self.reply)(&Said { texts: vec![text], ..said() });
        let response = self.read(&request, 1, &reply);
        assert_eq!(response.samples[0].text, text, "{}: {text:?} does not come back", self.wire.name());
    }

    /// More than asked for is never given; what several completions were billed is shared among them.
    pub fn several_or_one(&self) {
        let wire = self.wire.name();
        let request = self.request("hi", &[]);
        if !self.wire.several(&request) {
            let (one, many) = (self.body(&request, 1), self.body(&request, 5));
            assert_eq!(one, many, "{wire}: n is sent though one completion comes a call");
            return;
        }
        assert_ne!(self.body(&request, 1), self.body(&request, 3), "{wire}: n is not sent");
        let reply = (self.reply)(&Said { texts: vec!["a", "b b b b b", "c"], ..said() });
        let response = self.read(&request, 3, &reply);
        let texts: Vec<&str> = response.samples.iter().map(|sample| sample.text.as_str()).collect();
        assert_eq!(texts, ["a", "b b b b b", "c"], "{wire}");
        assert_eq!(response.completion_tokens(), said().output, "{wire}: the shares are not the bill");
        assert!(response.estimated, "{wire}: shares are estimates");
        let fewer = self.read(&request, 2, &reply);
        assert_eq!(
            (fewer.samples.len(), fewer.completion_tokens()),
            (2, said().output),
            "{wire}: more than was asked for"
        );
        assert_eq!(self.read(&request, 8, &reply).samples.len(), 3, "{wire}: fewer than asked for are kept");
    }

    /// All input and all output that is billed is counted, and nothing twice; what is not said is bounded and marked.
    pub fn usage_adds_up(&self) {
        let wire = self.wire.name();
        let request = self.request("hi", &[]);
        let reply = (self.reply)(&said());
        let response = self.read(&request, 1, &reply);
        assert_eq!((response.prompt_tokens, response.completion_tokens()), (said().input, said().output), "{wire}");
        assert_eq!(response.cached_tokens, if self.details.0 { said().cached } else { 0 }, "{wire}: cached");
        assert_eq!(response.reasoning_tokens, if self.details.1 { said().thought } else { 0 }, "{wire}: thoughts");
        assert!(!response.estimated, "{wire}: a bill is no estimate");
        for odd in [json!(null), json!(-3), json!("12"), json!(1e18), json!(1.5), json!({}), json!([7]), json!(true)] {
            let spoilt = with_numbers(&reply, &odd);
            let response = self.read(&request, 1, &spoilt);
            assert!(response.estimated, "{wire}: {odd} passes for a count");
            assert!(response.prompt_tokens > 0 && response.prompt_tokens < 1_000_000, "{wire}: {odd}");
            assert!(response.completion_tokens() > 0 && response.completion_tokens() < 1_000_000, "{wire}: {odd}");
            let parts = response.cached_tokens + response.cache_write_tokens;
            assert!(
                parts <= response.prompt_tokens && response.reasoning_tokens <= response.completion_tokens(),
                "{wire}"
            );
        }
    }

    /// What ended a completion is told in the words of OpenAI.
    pub fn finish_reasons(&self) {
        let request = self.request("hi", &[]);
        let ended =
            |cut: bool| self.read(&request, 1, &(self.reply)(&Said { cut, ..said() })).samples[0].finish_reason.clone();
        assert_eq!(ended(false), FinishReason::STOP, "{}", self.wire.name());
        assert_eq!(ended(true), FinishReason::LENGTH, "{}", self.wire.name());
    }

    /// What is no reply is a failure that may pass; a reply cut anywhere is never taken for a whole one.
    pub fn bad_replies(&self) {
        let request = self.request("hi", &[]);
        for body in
            ["", " ", "null", "[]", "{}", "\"x\"", "12", "<html><body>Bad gateway</body></html>", "{\"choices\": []}"]
        {
            let Refusal { failure, billed, .. } = self.wire.decode(&request, 1, body.as_bytes()).expect_err(body);
            assert_eq!(failure.kind, FailureKind::MalformedReply, "{}: {body}: {failure}", self.wire.name());
            assert!(billed, "{}: {body}: something was answered", self.wire.name());
        }
        let whole = (self.reply)(&said()).to_string();
        for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            let cut = self.wire.decode(&request, 1, &whole.as_bytes()[..end]);
            assert!(cut.is_err(), "{}: a reply cut at {end} is read", self.wire.name());
        }
    }

    /// Any bytes are read or refused. For property tests.
    pub fn any_bytes(&self, body: &[u8], status: u16) {
        let request = self.request("hi", &[]);
        if let Ok(response) = self.wire.decode(&request, 2, body) {
            assert!((1..=2).contains(&response.samples.len()));
        }
        let refusal = self.wire.decode_error(status, b"", body);
        assert!(refusal.failure.message.chars().count() < 400, "{}", refusal.failure);
        let _ = self.wire.listed(body);
    }

    /// Statuses have classes, whatever the body.
    pub fn errors_have_classes(&self) {
        for (status, kind) in [
            (400, FailureKind::BadRequest),
            (401, FailureKind::Authentication),
            (402, FailureKind::QuotaExceeded),
            (403, FailureKind::Authentication),
            (404, FailureKind::UnknownModel),
            (408, FailureKind::Server),
            (409, FailureKind::Server),
            (413, FailureKind::ContextTooLong),
            (422, FailureKind::BadRequest),
            (429, FailureKind::RateLimit),
            (500, FailureKind::Server),
            (503, FailureKind::Server),
            (529, FailureKind::Server),
        ] {
            for body in [&b""[..], b"{}", b"<html>", br#"{"error": {"message": "no"}}"#, br#"{"error": "no"}"#, b"\xff"]
            {
                let failure = self.wire.decode_error(status, b"", body).failure;
                assert_eq!(failure.kind, kind, "{}: {status} {}", self.wire.name(), String::from_utf8_lossy(body));
                assert!(failure.message.contains(&status.to_string()), "{failure}");
            }
        }
    }
}

/// What the battery's replies say where nothing else is wanted.
pub fn said() -> Said<'static> {
    Said { texts: vec!["an answer"], cut: false, input: 50, cached: 10, output: 30, thought: 12 }
}

/// A reply with every number of more than one digit replaced: those are its counts.
fn with_numbers(reply: &Value, number: &Value) -> Value {
    match reply {
        Value::Number(old) if old.as_u64().is_some_and(|old| old > 9) => number.clone(),
        Value::Array(list) => list.iter().map(|value| with_numbers(value, number)).collect(),
        Value::Object(map) => {
            let all = map.iter().map(|(name, value)| (name.clone(), with_numbers(value, number)));
            Value::Object(all.collect::<Map<String, Value>>())
        }
        other => other.clone(),
    }
}
