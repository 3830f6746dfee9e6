//! One request for completions, from its arrival to its end: let in, answered, billed, and spoilt where that is wanted.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response as HttpResponse, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::answers::{self, Answers, Reply};
use super::faults::{Call, Fault, Kind, Lie};
use super::ledger::{self, Price, Tokens, Usage, label};
use super::rules::{self, Case};
use super::socket::Fuse;
use super::wire::{Answered, Asked, Family, Format, Refusal, parameter, prompt};
use super::{Desk, Options, gemini};
use crate::backend::mock::tokens;
use crate::money::Usd;
use crate::provider::{FinishReason, Request, Response};

/// What a request comes with, beside its body.
pub(super) struct Caller<'a> {
    pub(super) desk: &'a Desk,
    pub(super) format: Format,
    /// The label of its key; empty without one.
    pub(super) key: String,
    /// Its number; of a batch's line, among those.
    pub(super) number: u64,
    /// The model in the path, where the format has it there.
    pub(super) model: Option<String>,
    /// What the header asked for.
    pub(super) demanded: Option<Fault>,
    pub(super) batch: bool,
}

/// What becomes of a request.
pub(super) struct Plan {
    pub(super) fault: Option<Fault>,
    /// The good answer, or what is left of it.
    pub(super) reply: Value,
    /// Headers that say how limits stand.
    headers: Vec<(&'static str, String)>,
    /// What was billed, and has reached nobody yet.
    pending: Option<Usd>,
    /// Whether the answer is wanted in pieces, and with usage.
    stream: Option<bool>,
    /// Whether the limiter holds a place for it.
    place: bool,
}

/// A request that is open; leaving it, even because the client went away, closes it.
struct Open<'a> {
    desk: &'a Desk,
    key: &'a str,
    pending: Option<Usd>,
    place: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut book = self.desk.book();
        book.leave();
        if let Some(amount) = self.pending {
            book.lost(amount);
        }
        drop(book);
        if self.place {
            self.desk.limiter.leave(self.key);
        }
    }
}

/// The key of a request, if it is let in.
pub(super) fn authorized(
    options: &Options,
    family: Family,
    headers: &HeaderMap,
    query: &str,
) -> Result<Option<String>, Refusal> {
    let given = family.key(headers, query);
    match (&options.key, &given) {
        (Some(key), Some(given)) if key == given => {}
        (Some(_), _) => return Err(Refusal::unauthorized(family)),
        (None, None) if family == Family::Anthropic => {
            return Err(Refusal::new(401, Some("invalid_api_key"), "x-api-key header is required"));
        }
        (None, _) => {}
    }
    if family == Family::Anthropic && !headers.contains_key("anthropic-version") {
        return Err(Refusal::bad(None, "anthropic-version: header is required"));
    }
    if family == Family::Azure && parameter(query, "api-version").is_none_or(str::is_empty) {
        return Err(Refusal::new(404, None, "Resource not found"));
    }
    Ok(given)
}

/// The fault that the header `x-mock-fault` demands.
pub(super) fn demanded(headers: &HeaderMap) -> Result<Option<Fault>, Refusal> {
    let Some(value) = headers.get("x-mock-fault") else { return Ok(None) };
    let text = value.to_str().map_err(|_| Refusal::bad(None, "x-mock-fault is no text"))?;
    rules::on_demand(text).map(Some).map_err(|error| Refusal::bad(None, format!("x-mock-fault: {error}")))
}

/// Answers a request over HTTP.
pub(super) async fn complete(
    desk: Arc<Desk>,
    format: Format,
    model: Option<String>,
    fuse: Fuse,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> HttpResponse<Body> {
    let number = desk.book().enter();
    let family = format.family();
    let options = &desk.options;
    let key = authorized(options, family, &headers, uri.query().unwrap_or_default());
    let label = key.as_ref().map_or_else(|_| String::new(), |key| label(key.as_deref().unwrap_or_default()));
    let mut open = Open { desk: &desk, key: &label, pending: None, place: false };
    let plan = key.and_then(|_| demanded(&headers)).and_then(|demanded| {
        let body = serde_json::from_slice(&body)
            .map_err(|_| Refusal::bad(None, "We could not parse the JSON body of your request."))?;
        plan(Caller { desk: &desk, format, key: label.clone(), number, model, demanded, batch: false }, body)
    });
    let latency = options.latency.of(number);
    let plan = match plan {
        Ok(plan) => plan,
        Err(refusal) => {
            {
                let ledger = &mut desk.book().ledger;
                ledger.refused += 1;
                ledger.limited += u64::from(refusal.status == 429);
            }
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            return refuse(family, &refusal);
        }
    };
    (open.pending, open.place) = (plan.pending, plan.place);
    // What is billed is in the ledger by now: an endpoint works on, even if the client goes away.
    if !latency.is_zero() && plan.fault.as_ref().is_none_or(|fault| fault.late) {
        tokio::time::sleep(latency).await;
    }
    let (kind, text) = match plan.stream {
        Some(usage) if plan.fault.as_ref().is_none_or(|fault| fault.kind.reaches()) => {
            format.stream(&plan.reply, usage)
        }
        _ => ("application/json", plan.reply.to_string()),
    };
    open.pending = None;
    let mut http = match plan.fault {
        None => {
            desk.book().ledger.answered += 1;
            reply(200, kind, text)
        }
        Some(fault) => {
            {
                let ledger = &mut desk.book().ledger;
                ledger.faults += 1;
                ledger.answered += u64::from(fault.kind.answers());
            }
            spoil(&desk, fault.kind, family, &fuse, kind, text).await
        }
    };
    for (name, value) in plan.headers {
        put(&mut http, name, &value);
    }
    put(&mut http, "x-request-id", &format!("req_mock_{number}"));
    http
}

/// Decides what becomes of a request, bills it, and counts the samples that are given.
pub(super) fn plan(caller: Caller, body: Value) -> Result<Plan, Refusal> {
    let Caller { desk, format, key, number, model, demanded, batch } = caller;
    let options = &desk.options;
    if !batch {
        desk.book().seen(ledger::hash(&body));
    }
    let Asked { request, stream, usage } = format.read(&body, model.as_deref())?;
    let stream = stream.then_some(usage);
    let price = price(options, &request.model)?;
    let input = serde_json::to_value(&request.input).unwrap_or_default();
    let prompt_hash = ledger::hash(&input);
    let fingerprint = answers::key(&request.model, input, request.params.iter());

    let mut headers = Vec::new();
    let place = !batch && !desk.limiter.unlimited();
    if place {
        let completion = if limited(&request) { allowed(&request, &price) } else { 0 };
        let tokens = tokens::prompt(&request.input).saturating_add(completion);
        headers = desk.limiter.enter(&key, tokens, format.family(), desk.clock.now())?;
    }
    // From here on a refusal must give the place back.
    let leave = |refusal: Refusal| {
        if place {
            desk.limiter.leave(&key);
        }
        refusal
    };

    // No lock is held while functions of the caller's run: they may look at the ledger.
    let first = *desk.book().given(fingerprint);
    let mut call = Call { number, first, body, model: request.model.clone(), key: key.clone(), batch };
    let rules = desk.rules();
    let ruled = || {
        if rules.is_empty() {
            return None;
        }
        let text = prompt(&request.input);
        rules.strike(&Case { model: &request.model, key: &key, prompt: &text, path: "", batch })
    };
    // The rules count every request, whatever else is wrong with it.
    let ruled = ruled();
    let mut fault = demanded.or(ruled).or_else(|| (options.faults)(&call));
    let silent = |fault: &Fault| !fault.billed && matches!(fault.kind, Kind::Status { .. } | Kind::RetryDate { .. });
    if fault.as_ref().is_some_and(silent) {
        return Ok(Plan { fault, reply: Value::Null, headers, pending: None, stream, place });
    }
    let is = |fault: &Option<Fault>, kind: Kind| fault.as_ref().is_some_and(|fault| fault.kind == kind);
    let fewer = is(&fault, Kind::Fewer);
    if fault.as_ref().is_none_or(|fault| fault.kind.reaches()) {
        // Taken in one go, or two equal requests would get the same samples. Where nothing reaches the client, nothing
        // is taken: the next request gets these samples.
        let mut book = desk.book();
        let given = book.given(fingerprint);
        call.first = *given;
        *given = given.saturating_add(request.n as usize - usize::from(fewer));
    }
    let mut answer = match options.answers.answer(&request, &call).map_err(leave)? {
        Reply::Answer(answer) => answer,
        Reply::Texts(texts) => answers::counted(&request, texts),
        Reply::Fault(wrong) => {
            fault = Some(wrong);
            answers::counted(&request, Vec::new())
        }
    };
    if fewer {
        answer.samples.pop();
    }
    change(fault.as_ref().map(|fault| &fault.kind), &mut answer);
    let (tokens, pending) = {
        let mut book = desk.book();
        let billed = fault.as_ref().is_none_or(|fault| fault.billed);
        let cached = billed && options.cache_prompts && book.cached(prompt_hash);
        let tokens = options.usage.tokens(&answer, cached, allowed(&request, &price));
        let amount = billed.then(|| book.bill(&request.model, &key, &price, tokens, batch));
        match (amount, &fault) {
            (Some(amount), Some(fault)) if !fault.kind.reaches() => {
                book.lost(amount);
                (tokens, None)
            }
            (amount, _) => (tokens, amount),
        }
    };
    if is(&fault, Kind::NoChoices) {
        answer.samples.clear();
    }
    let reply = told(format, number, &request, &answer, &call, &fault, options, tokens);
    Ok(Plan { fault, reply, headers, pending, stream, place })
}

/// The price of a model, if it is served.
pub(super) fn price(options: &Options, model: &str) -> Result<Price, Refusal> {
    match options.models.get(model) {
        Some(price) => Ok(*price),
        None if options.models.is_empty() => Ok(Price::FREE),
        None => Err(Refusal::unknown_model(model)),
    }
}

/// What content filters and refusals make of an answer.
fn change(kind: Option<&Kind>, answer: &mut Response) {
    for sample in &mut answer.samples {
        match kind {
            Some(Kind::ContentFilter) => {
                let half = tokens::count(&sample.text) / 2;
                sample.text.truncate(tokens::first(&sample.text, half).0.len());
                sample.finish_reason = FinishReason::CONTENT_FILTER;
            }
            Some(Kind::Refusal) => {
                sample.text = "I'm sorry, but I cannot help with that.".to_owned();
                sample.finish_reason = FinishReason::REFUSAL;
            }
            _ => return,
        }
        sample.completion_tokens = tokens::count(&sample.text);
    }
}

/// The JSON of a reply, with what is wrong about it.
#[expect(clippy::too_many_arguments, reason = "one caller; the pieces of one plan")]
fn told(
    format: Format,
    number: u64,
    request: &Request,
    answer: &Response,
    call: &Call,
    fault: &Option<Fault>,
    options: &Options,
    tokens: Tokens,
) -> Value {
    let kind = fault.as_ref().map(|fault| &fault.kind);
    let silent = options.usage == Usage::None || kind == Some(&Kind::NoUsage);
    let made_up = format == Format::Messages && matches!(options.answers, Answers::MadeUp);
    let stopped = answer.samples.first().filter(|sample| made_up && sample.finish_reason == FinishReason::STOP);
    let stopped_by = stopped.and_then(|sample| answers::stopped_by(request, call.first, &sample.text));
    let answered = Answered { number, request, response: answer, tokens: (!silent).then_some(tokens), stopped_by };
    let mut reply = match kind {
        Some(Kind::PromptFiltered) if format == Format::Gemini => gemini::blocked(&answered),
        _ => format.reply(&answered),
    };
    match kind {
        Some(Kind::BadUsage(lie)) => falsify(&mut reply, *lie),
        Some(Kind::OtherModel(name)) => {
            let field = if format == Format::Gemini { "modelVersion" } else { "model" };
            reply[field] = json!(name);
        }
        _ => {}
    }
    reply
}

/// Replaces every number of tokens.
fn falsify(value: &mut Value, lie: Lie) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let counts = ["_tokens", "TokenCount", "_eval_count"].iter().any(|end| name.ends_with(end));
                let count = (counts || name == "eval_count").then(|| value.as_u64()).flatten();
                // What the client set is no count.
                match count.filter(|_| name != "max_output_tokens") {
                    Some(count) => {
                        *value = match lie {
                            Lie::Negative => json!(-1 - i64::try_from(count).unwrap_or(0)),
                            Lie::Huge => json!(1e30),
                            Lie::Text => json!("many"),
                        }
                    }
                    None => falsify(value, lie),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| falsify(value, lie)),
        _ => {}
    }
}

fn limit(request: &Request) -> Option<u64> {
    let set = |name: &str| request.params.get(name).and_then(Value::as_f64).filter(|&most| most >= 1.0);
    set("max_tokens").or_else(|| set("max_completion_tokens")).map(|most| most as u64)
}

fn limited(request: &Request) -> bool {
    limit(request).is_some()
}

/// The output tokens that a request allows.
fn allowed(request: &Request, price: &Price) -> u64 {
    limit(request).unwrap_or(price.max_output_tokens).saturating_mul(u64::from(request.n))
}

/// An error status as a refusal, so that each format can say it in its own words. `None` for what is no error of OpenAI's.
pub(super) fn as_refusal(kind: &Kind, now: u64) -> Option<Refusal> {
    match kind {
        Kind::Status { code, headers, body } => {
            let body: Value = serde_json::from_str(body).ok()?;
            let message = body["error"]["message"].as_str()?;
            let mut refusal = Refusal::new(*code, body["error"]["code"].as_str(), message);
            let wait = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
            refusal.headers.extend(wait.map(|(_, value)| ("retry-after", value.clone())));
            Some(refusal)
        }
        Kind::RetryDate { seconds } => {
            let mut refusal = Refusal::new(429, Some("rate_limit_exceeded"), "Rate limit reached for requests.");
            let at = Duration::from_millis(now).saturating_add(Duration::from_secs(*seconds));
            // Rounded up to whole seconds, so that the date is never early; a date beyond the calendar is left out.
            let at = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(at.as_secs().saturating_add(1)));
            refusal.headers.extend(at.map(|at| ("retry-after", httpdate::fmt_http_date(at))));
            Some(refusal)
        }
        Kind::PromptFiltered => {
            let message = "The prompt was filtered by the content management policy.";
            let refusal = Refusal::new(400, Some("content_filter"), message);
            Some(Refusal { param: Some("prompt"), ..refusal })
        }
        _ => None,
    }
}

/// What the client gets where something goes wrong. `text` is the good answer.
pub(super) async fn spoil(
    desk: &Desk,
    fault: Kind,
    family: Family,
    fuse: &Fuse,
    kind: &'static str,
    text: String,
) -> HttpResponse<Body> {
    match fault {
        Kind::Status { code, headers, body } => {
            let own = matches!(family, Family::OpenAi);
            let status = Kind::Status { code, headers, body };
            let refusal = if own { None } else { as_refusal(&status, 0) };
            let Kind::Status { code, headers, body } = status else { return reply(500, kind, String::new()) };
            let body = refusal.map_or(body, |refusal| family.error(&refusal).to_string());
            let mut http = reply(code, "application/json", body);
            for (name, value) in headers {
                put(&mut http, &name, &value);
            }
            http
        }
        Kind::PromptFiltered if family == Family::Gemini => reply(200, kind, text),
        Kind::RetryDate { .. } | Kind::PromptFiltered => match as_refusal(&fault, desk.clock.now()) {
            Some(refusal) => refuse(family, &refusal),
            None => reply(500, kind, String::new()),
        },
        Kind::Hang => std::future::pending().await,
        Kind::Reset => {
            fuse.reset();
            reply(200, kind, text)
        }
        Kind::Close => {
            fuse.close();
            reply(200, kind, text)
        }
        Kind::Cut | Kind::ResetBody => broken(kind, text, fuse, fault == Kind::ResetBody),
        Kind::Malformed => {
            let half = half(&text);
            reply(200, kind, text[..half].to_owned())
        }
        Kind::Garbled => reply(200, kind, text.replace([':', '"'], "'")),
        Kind::Html => {
            let page =
                "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>\n";
            reply(200, "text/html", page.to_owned())
        }
        Kind::Slow(duration) => slow(kind, text, duration),
        Kind::Fewer
        | Kind::NoChoices
        | Kind::NoUsage
        | Kind::BadUsage(_)
        | Kind::OtherModel(_)
        | Kind::ContentFilter
        | Kind::Refusal => reply(200, kind, text),
    }
}

/// The middle of a text, between two characters.
fn half(text: &str) -> usize {
    (0..=text.len() / 2).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// A body that announces its whole length, of which only half comes.
fn broken(kind: &'static str, text: String, fuse: &Fuse, reset: bool) -> HttpResponse<Body> {
    let (length, fuse) = (text.len(), fuse.clone());
    let mut first = text.into_bytes();
    let rest = first.split_off(length / 2);
    let pieces = futures_util::stream::unfold((0, first, rest), move |(at, first, rest)| {
        let fuse = fuse.clone();
        async move {
            match at {
                0 => Some((Ok::<_, Infallible>(Bytes::from(first)), (1, Vec::new(), rest))),
                1 => {
                    // The first half must be on its way before the connection breaks.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if reset {
                        fuse.reset()
                    } else {
                        fuse.close()
                    }
                    Some((Ok(Bytes::from(rest)), (2, Vec::new(), Vec::new())))
                }
                _ => None,
            }
        }
    });
    let mut http = reply(200, kind, String::new());
    *http.body_mut() = Body::from_stream(pieces);
    put(&mut http, header::CONTENT_LENGTH.as_str(), &length.to_string());
    http
}

/// A body that comes in ten pieces.
fn slow(kind: &'static str, text: String, duration: Duration) -> HttpResponse<Body> {
    let size = text.len().div_ceil(10).max(1);
    let pieces = futures_util::stream::unfold(Bytes::from(text), move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(duration / 10).await;
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok::<_, Infallible>(piece), rest))
    });
    let mut http = reply(200, kind, String::new());
    *http.body_mut() = Body::from_stream(pieces);
    http
}

/// A refusal in the words of a family.
pub(super) fn refuse(family: Family, refusal: &Refusal) -> HttpResponse<Body> {
    let mut http = json_reply(refusal.status, &family.error(refusal));
    for (name, value) in &refusal.headers {
        put(&mut http, name, value);
    }
    http
}

/// A reply of JSON.
pub(super) fn json_reply(status: u16, body: &Value) -> HttpResponse<Body> {
    reply(status, "application/json", body.to_string())
}

/// A reply of any text.
pub(super) fn reply(status: u16, kind: &'static str, body: String) -> HttpResponse<Body> {
    let mut reply = HttpResponse::new(Body::from(body));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// Sets a header; what is no header is left out.
fn put(http: &mut HttpResponse<Body>, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
        http.headers_mut().insert(name, value);
    }
}
