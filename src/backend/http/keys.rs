//! The keys of an endpoint: read once, never shown, and sharing the load.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use memchr::memmem::{self, Finder};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;

use crate::backend::{Auth, Endpoint};
use crate::diagnostic::{Error, Result};
use crate::provider::{FailureKind, Response, Wire};

/// What stands in place of a key in every text.
const HIDDEN: &str = "(secret)";
/// A word of a model's answer is not hidden for being some local server's key, like `EMPTY`.
const LONG: usize = 16;
/// How long a key that was refused is left alone while others work.
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// How long one rests that is over its limit, where the endpoint does not say.
const LIMITED_FOR: Duration = Duration::from_secs(2);

/// A key with the headers that hold it, made once.
#[derive(Debug)]
pub(super) struct Key {
    /// Where it came from: a variable's name or a file's. `None` where there is none.
    origin: Option<String>,
    secret: Option<SecretString>,
    /// The headers of every request under this key; it is marked sensitive there.
    pub(super) headers: HeaderMap,
    flights: AtomicUsize,
    rest: Mutex<Option<Rest>>,
}

/// Until when a key is left alone, and why.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    /// It is over its limit, which passes by itself; else it was refused.
    limited: bool,
}

/// A searcher for a key, which its `Debug` must not show.
struct Hidden(Finder<'static>);

/// Searchers for all keys: as they are, as JSON and addresses may write them, and in base64. The longest first, since one may
/// begin another.
fn hidden(keys: &[Key]) -> Vec<Hidden> {
    let mut forms = std::collections::BTreeSet::new();
    for key in keys.iter().filter_map(|key| key.secret.as_ref()).map(ExposeSecret::expose_secret) {
        let quoted = Value::from(key).to_string();
        let quoted = quoted.trim_matches('"');
        forms.extend([key.to_owned(), quoted.to_owned(), quoted.replace('/', "\\/")]);
        forms.extend([percent(key, false), percent(key, true)]);
        if key.len() >= LONG {
            forms.extend(in_base64(key));
        }
    }
    let mut forms: Vec<String> = forms.into_iter().collect();
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms.into_iter().map(|form| Hidden(Finder::new(form.as_bytes()).into_owned())).collect()
}

/// A key as an address holds it: what is not unreserved there is escaped, with capital or small digits.
fn percent(key: &str, small: bool) -> String {
    let escaped = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
        b if small => format!("%{b:02x}"),
        b => format!("%{b:02X}"),
    };
    key.bytes().map(escaped).collect()
}

/// A key within a longer text in base64, as in the header of a name and a password: the characters that do not depend on what
/// stands before and after it, for each of the three ways in which it may lie.
fn in_base64(key: &str) -> Vec<String> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let mut forms = Vec::new();
    for before in 0..3 {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(key.as_bytes());
        // Six bits a character: those that hold bits of the key alone.
        let (first, last) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            forms.push(engine.encode(&bytes)[first..last].to_owned());
        }
    }
    forms
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// All keys of an endpoint: at least one, which may be none.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>, Vec<Hidden>);

/// A key in use for one request.
pub(super) struct Use<'k> {
    pub(super) key: &'k Key,
    /// Its place among the keys.
    pub(super) at: usize,
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.key.flights.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Keys {
    fn new(keys: Vec<Key>) -> Keys {
        let hidden = hidden(&keys);
        Keys(keys, hidden)
    }

    /// Reads the keys that an endpoint's table names.
    pub(super) fn read(endpoint: &Endpoint, wire: &dyn Wire) -> Result<Keys> {
        let mut found: Vec<(String, String)> = Vec::new();
        let mut unset = Vec::new();
        for variable in &endpoint.api_key_envs {
            match std::env::var(variable).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()) {
                Some(key) if found.iter().any(|(_, known)| *known == key) => {}
                Some(key) => found.push((variable.clone(), key)),
                None => unset.push(variable.as_str()),
            }
        }
        if !found.is_empty() && !unset.is_empty() {
            tracing::warn!(endpoint = %endpoint.name, variables = unset.join(", "), "these hold no key; the others are used");
        }
        if let Some(path) = &endpoint.api_key_file {
            let problem = |what: String| {
                Error::endpoint(format!("{} of the endpoint `{}` {what}", endpoint.shown_key_file(), endpoint.name))
                    .help("api_key_file names a file that holds the key and nothing else; paths are relative to the farthing.toml")
            };
            let text = std::fs::read_to_string(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
            let key = text.trim();
            if key.is_empty() {
                return Err(problem("is empty".to_owned()));
            }
            warn_of_readers(path);
            if !found.iter().any(|(_, known)| known == key) {
                found.push((path.display().to_string(), key.to_owned()));
            }
        }
        if found.is_empty() && needs_key(endpoint) && !endpoint.idle {
            return Err(Error::endpoint(format!("the endpoint `{}` needs a key", endpoint.name)).help(format!(
                "set the environment variable {}, or give the endpoint another base_url",
                endpoint.api_key_envs.join(" or ")
            )));
        }
        let keys: Result<Vec<Key>> = match found.is_empty() {
            true => Key::new(endpoint, wire, None).map(|none| vec![none]),
            false => found.into_iter().map(|found| Key::new(endpoint, wire, Some(found))).collect(),
        };
        keys.map(Keys::new)
    }

    /// The key for the next request: of those that do not rest the one with the fewest in flight; where all rest, the
    /// one that wakes first. `tried` are left out; `None` where nothing else is awake.
    pub(super) fn choose(&self, tried: &[usize]) -> Option<Use<'_>> {
        let now = Instant::now();
        let load = |at: &usize| self.0[*at].flights.load(Ordering::Relaxed);
        let fresh = (0..self.0.len()).filter(|at| !tried.contains(at));
        let awake = fresh.filter(|at| self.0[*at].wakes().is_none_or(|wakes| wakes <= now)).min_by_key(load);
        let at = match awake {
            None if tried.is_empty() => (0..self.0.len()).min_by_key(|at| (self.0[*at].wakes(), load(at))),
            chosen => chosen,
        }?;
        self.0[at].flights.fetch_add(1, Ordering::Relaxed);
        Some(Use { key: &self.0[at], at })
    }

    /// The first key, whatever it is about: what it has put there only it can see.
    pub(super) fn first(&self) -> &Key {
        &self.0[0]
    }

    /// What a reply says of the key it came to: refused, or over its limit, it rests while others work.
    pub(super) fn learn(&self, key: &Key, failure: FailureKind, wait: Option<Duration>) {
        let rest = match failure {
            FailureKind::Authentication | FailureKind::QuotaExceeded => REFUSED_FOR,
            FailureKind::RateLimit => wait.unwrap_or(LIMITED_FOR),
            _ => return,
        };
        let rest = Rest { until: Instant::now() + rest, limited: failure == FailureKind::RateLimit };
        let mut known = key.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if !rest.limited && known.is_none_or(|known| known.limited) && self.0.len() > 1 {
            tracing::warn!(key = key.origin.as_deref().unwrap_or("none"), reason = %failure, "this key was refused; others are used");
        }
        if known.is_none_or(|known| known.until < rest.until) {
            *known = Some(rest);
        }
    }

    /// How long until a key works again that rests for its limit; `None` where all were refused. To be asked where no
    /// key is awake.
    pub(super) fn limited(&self) -> Option<Duration> {
        let now = Instant::now();
        let limited = self.0.iter().filter_map(Key::rest).filter(|rest| rest.limited);
        limited.map(|rest| rest.until.saturating_duration_since(now)).min()
    }

    /// More than one shares the load.
    pub(super) fn several(&self) -> bool {
        self.0.len() > 1
    }

    /// A text without any key.
    pub(super) fn scrub(&self, text: String) -> String {
        match self.scrub_bytes(text.as_bytes(), false) {
            Cow::Borrowed(_) => text,
            Cow::Owned(clean) => String::from_utf8_lossy(&clean).into_owned(),
        }
    }

    /// The same of a reply, before anything is read out of it; `answer`: only of keys that are no common word.
    pub(super) fn scrub_bytes<'b>(&self, bytes: &'b [u8], answer: bool) -> Cow<'b, [u8]> {
        if self.1.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut clean = plain(bytes);
        for Hidden(finder) in &self.1 {
            let key = finder.needle().len();
            if (answer && key < LONG) || finder.find(&clean).is_none() {
                continue;
            }
            let mut without = Vec::with_capacity(clean.len());
            let mut rest = &clean[..];
            while let Some(at) = finder.find(rest) {
                without.extend_from_slice(&rest[..at]);
                without.extend_from_slice(HIDDEN.as_bytes());
                rest = &rest[at + key..];
            }
            without.extend_from_slice(rest);
            clean = Cow::Owned(without);
        }
        clean
    }

    /// What was read out of a reply, without any key that is no common word: texts may be JSON themselves, and servers
    /// escape some things twice.
    pub(super) fn scrub_response(&self, mut response: Response) -> Response {
        let holds = |text: &str| {
            let long = |Hidden(finder): &&Hidden| finder.needle().len() >= LONG;
            self.1.iter().filter(long).any(|Hidden(finder)| finder.find(text.as_bytes()).is_some())
        };
        let clean = |text: &mut String| {
            // Looked for as it is: what else is escaped in an answer stays so.
            if holds(text)
                && let Cow::Owned(clean) = self.scrub_bytes(text.as_bytes(), true)
            {
                *text = String::from_utf8_lossy(&clean).into_owned();
            }
        };
        for sample in &mut response.samples {
            clean(&mut sample.text);
            if holds(&sample.finish_reason.0) {
                sample.finish_reason.0 = HIDDEN.into();
            }
            if let Some(calls) = &mut sample.tool_calls {
                scrub_json(calls, &clean);
            }
            // There a key would stand in pieces, a token each.
            if sample.text.contains(HIDDEN) {
                sample.logprobs = None;
            }
        }
        if let Some(model) = &mut response.model {
            clean(model);
        }
        response
    }
}

/// JSON with every printable ASCII character of its texts written as itself where it was escaped without need: the same
/// JSON, in which a key is found.
fn plain(bytes: &[u8]) -> Cow<'_, [u8]> {
    if memmem::find(bytes, b"\\/").is_none() && memmem::find(bytes, b"\\u00").is_none() {
        return Cow::Borrowed(bytes);
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let code = match rest {
            [_, b'/', ..] => Some((b'/', 2)),
            [_, b'u', hex @ ..] => hex.get(..4).and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| {
                let code = u8::try_from(u16::from_str_radix(hex, 16).ok()?).ok()?;
                (b' '..0x7f).contains(&code).then_some((code, 6))
            }),
            _ => None,
        };
        let escaped = match code {
            Some((code @ (b'"' | b'\\'), length)) => {
                plain.extend([b'\\', code]);
                length
            }
            Some((code, length)) => {
                plain.push(code);
                length
            }
            None => {
                plain.extend_from_slice(&rest[..rest.len().min(2)]);
                rest.len().min(2)
            }
        };
        rest = &rest[escaped..];
    }
    plain.extend_from_slice(rest);
    Cow::Owned(plain)
}

/// Every text in a JSON value, made clean.
fn scrub_json(value: &mut Value, clean: &impl Fn(&mut String)) {
    match value {
        Value::String(text) => clean(text),
        Value::Array(items) => items.iter_mut().for_each(|item| scrub_json(item, clean)),
        Value::Object(fields) => {
            let scrubbed = std::mem::take(fields).into_iter().map(|(mut name, mut value)| {
                clean(&mut name);
                scrub_json(&mut value, clean);
                (name, value)
            });
            *fields = scrubbed.collect();
        }
        _ => {}
    }
}

impl Key {
    fn new(endpoint: &Endpoint, wire: &dyn Wire, found: Option<(String, String)>) -> Result<Key> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Nothing here unpacks a reply, and some servers take silence for a yes.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let own = wire.headers();
        let more = own.iter().map(|(name, value)| (*name, value.as_str()));
        let theirs = endpoint.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in more.chain(theirs) {
            let wrong =
                || Error::usage(format!("`{name}` of the endpoint `{}` is no header that can be sent", endpoint.name));
            let name = HeaderName::try_from(name).map_err(|_| wrong())?;
            headers.insert(name.clone(), HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        if let Some((origin, key)) = &found {
            let bearer = endpoint.auth.map_or(wire.bearer(), |auth| auth == Auth::Bearer);
            let (name, text) = match bearer {
                true => (AUTHORIZATION, format!("Bearer {key}")),
                false => (HeaderName::from_static(wire.key_header()), key.clone()),
            };
            let mut value = HeaderValue::from_str(&text).map_err(|_| {
                Error::endpoint(format!("the key in {origin} holds characters that no key has"))
                    .help("it may hold a line break, or be another file than you think")
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let (origin, secret) = found.map_or((None, None), |(origin, key)| (Some(origin), Some(key)));
        Ok(Key {
            origin,
            secret: secret.map(SecretString::from),
            headers,
            flights: AtomicUsize::new(0),
            rest: Mutex::new(None),
        })
    }

    fn rest(&self) -> Option<Rest> {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wakes(&self) -> Option<Instant> {
        self.rest().map(|rest| rest.until)
    }
}

/// The providers' own addresses need a key; a server of your own may go without.
/// It is a service that lets nobody in without a key.
pub(crate) fn needs_key(endpoint: &Endpoint) -> bool {
    let host = reqwest::Url::parse(&endpoint.base_url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let cloud = host.is_some_and(|host| host.ends_with(".azure.com") || host == "ollama.com");
    cloud || (endpoint.vendor && !super::loopback(&endpoint.base_url))
}

/// Says once of a file that others can read it.
#[cfg(unix)]
fn warn_of_readers(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    static WARNED: Mutex<Vec<std::path::PathBuf>> = Mutex::new(Vec::new());
    let open = std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0);
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if open && !warned.iter().any(|known| known == path) {
        warned.push(path.to_owned());
        tracing::warn!(file = %path.display(), "others than its owner may read this key file: chmod 600 it");
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_path: &std::path::Path) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ProviderKind;
    use crate::provider::anthropic::Anthropic;
    use crate::provider::openai::Openai;

    impl Keys {
        /// These, as if variables had held them.
        pub(in crate::backend::http) fn of(texts: &[&str]) -> Keys {
            let endpoint = Endpoint::at("x", "http://127.0.0.1:1/v1");
            let key =
                |text: &&str| Key::new(&endpoint, &Openai::default(), Some(("X".into(), (*text).to_owned()))).unwrap();
            Keys::new(texts.iter().map(key).collect())
        }

        /// One is over its limit for so long.
        pub(in crate::backend::http) fn rests(&self, at: usize, wait: Duration) {
            self.learn(&self.0[at], FailureKind::RateLimit, Some(wait));
        }
    }

    fn keys(texts: &[&str]) -> Keys {
        Keys::of(texts)
    }

    #[test]
    fn a_key_is_never_shown() {
        let keys = keys(&["sk-planted", "sk-planted-too-0123456789"]);
        assert!(!format!("{keys:?}").contains("planted"));
        assert_eq!(keys.scrub("bad key sk-planted!".into()), "bad key (secret)!");
        assert_eq!(&*keys.scrub_bytes(b"sk-planted \xff sk-planted.", false), b"(secret) \xff (secret).");
        assert_eq!(&*keys.scrub_bytes(b"sk-plante", false), b"sk-plante");
        assert_eq!(&*keys.scrub_bytes(b"a sk-planted word", true), b"a sk-planted word", "short ones may be words");
        let long = keys.scrub_bytes(b"a sk-planted-too-0123456789 word", true);
        assert_eq!(&*long, b"a (secret) word");
    }

    #[test]
    fn a_key_is_found_however_json_writes_it() {
        let keys = keys(&["sk/planted+0123456", "sk/planted+0123456/longer\\one"]);
        let clean = |text: &str| String::from_utf8(keys.scrub_bytes(text.as_bytes(), true).into_owned()).unwrap();
        assert_eq!(clean("a sk/planted+0123456/longer\\one"), "a (secret)", "not only the beginning of the longer one");
        assert_eq!(clean(r#""sk\/planted+0123456\/longer\\one" "sk\/planted+0123456""#), r#""(secret)" "(secret)""#);
        let all: String = "sk/planted+0123456".chars().map(|c| format!("\\u{:04X}", u32::from(c))).collect();
        assert_eq!(clean(&format!("\"{all}\\\\u0041\"")), "\"(secret)\\\\u0041\"");
        for same in
            [r#"{"a":"\u0022\\\/\u005c\u0041\u00e9\u000a\n\ud83d\ude00"}"#, r#""\\/ \\u0041""#, "\"\\/\\", "\\/\\u00"]
        {
            let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
            assert_eq!(read(&plain(same.as_bytes())), read(same.as_bytes()), "{same}");
        }
        let sample = crate::provider::Sample {
            tool_calls: Some(serde_json::json!([{"sk/planted+0123456": {"x": "a sk/planted+0123456 b"}}])),
            ..crate::provider::Sample::new("say sk/planted+0123456", crate::provider::FinishReason::STOP, 3)
        };
        let response =
            Response { model: Some("m-sk/planted+0123456".into()), samples: vec![sample], ..Response::default() };
        let shown = format!("{:?}", keys.scrub_response(response));
        assert!(
            !shown.contains("planted") && shown.contains("say (secret)") && shown.contains("m-(secret)"),
            "{shown}"
        );
    }

    /// However an endpoint echoes it: in an address, or in base64 behind a name of any length.
    #[test]
    fn a_key_is_found_in_other_spellings() {
        use base64::Engine;
        let key = "sk/planted+0123456789=x";
        let keys = keys(&[key]);
        let shown = |text: String| keys.scrub(text);
        assert_eq!(shown("?k=sk%2Fplanted%2B0123456789%3Dx&".into()), "?k=(secret)&");
        assert_eq!(shown("?k=sk%2fplanted%2b0123456789%3dx&".into()), "?k=(secret)&");
        for before in ["", "u:", "me:", "you:", "Bearer "] {
            for after in ["", ":", "::", ":xyz"] {
                let whole = format!("{before}{key}{after}");
                let standard = base64::engine::general_purpose::STANDARD.encode(&whole);
                let url = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&whole);
                for coded in [standard, url] {
                    let clean = shown(format!("Basic {coded}."));
                    assert!(
                        clean.contains(HIDDEN) && clean.len() < 30 + whole.len() - key.len() + 8,
                        "{whole}: {clean}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_key_is_sent_as_the_provider_or_the_user_wants() {
        let endpoint = Endpoint::of(ProviderKind::Anthropic, "x");
        let sent = |endpoint: &Endpoint| {
            Key::new(endpoint, &Anthropic::default(), Some(("X".into(), "k-1".into()))).unwrap().headers
        };
        let headers = sent(&endpoint);
        assert!(headers["x-api-key"] == "k-1" && headers["anthropic-version"] == "2023-06-01");
        assert!(headers.get(AUTHORIZATION).is_none() && headers["x-api-key"].is_sensitive());
        let bearer =
            Endpoint { auth: Some(Auth::Bearer), headers: [("X-Team".to_owned(), "7".to_owned())].into(), ..endpoint };
        assert!(sent(&bearer)["authorization"] == "Bearer k-1" && sent(&bearer)["x-team"] == "7");
        assert!(Key::new(&bearer, &Openai::default(), Some(("X".into(), "two\nlines".into()))).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_share_the_load_and_rest() {
        let keys = keys(&["key-a", "key-b", "key-c"]);
        let name = |held: &Use| held.key.secret.as_ref().unwrap().expose_secret().to_owned();
        let (one, two, three) = (keys.choose(&[]).unwrap(), keys.choose(&[]).unwrap(), keys.choose(&[]).unwrap());
        assert_eq!([name(&one), name(&two), name(&three)], ["key-a", "key-b", "key-c"]);
        drop(two);
        assert_eq!(name(&keys.choose(&[]).unwrap()), "key-b", "the fewest in flight");
        drop((one, three));
        keys.learn(&keys.0[0], FailureKind::Authentication, None);
        keys.learn(&keys.0[1], FailureKind::RateLimit, Some(Duration::from_secs(5)));
        keys.learn(&keys.0[2], FailureKind::Server, None);
        assert_eq!(name(&keys.choose(&[]).unwrap()), "key-c");
        assert!(keys.choose(&[2]).is_none(), "nothing else is awake");
        keys.learn(&keys.0[2], FailureKind::RateLimit, None);
        assert_eq!(keys.limited(), Some(LIMITED_FOR), "the soonest of those that are over their limit");
        assert_eq!(name(&keys.choose(&[]).unwrap()), "key-c", "all rest: the one that wakes first");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(name(&keys.choose(&[]).unwrap()), "key-b");
        keys.0.iter().for_each(|key| keys.learn(key, FailureKind::QuotaExceeded, None));
        assert_eq!(keys.limited(), None, "all were refused");
    }

    #[test]
    fn a_file_may_hold_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let endpoint =
            Endpoint { api_key_envs: vec![], api_key_file: Some(path.clone()), ..Endpoint::at("x", "http://h/v1") };
        let error = |endpoint: &Endpoint| Keys::read(endpoint, &Openai::default()).unwrap_err().to_string();
        let shown = error(&endpoint);
        assert!(shown.contains(&folder.path().display().to_string()), "{shown}");
        // Whoever writes the key itself there does not see it again.
        for (name, repeated) in [("hunter2hunter2", false), ("sk-proj-1.2", false), ("key.txt", true)] {
            let wrong = Endpoint { api_key_file: Some(folder.path().join(name)), ..endpoint.clone() };
            assert_eq!(error(&wrong).contains(name), repeated, "{}", error(&wrong));
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(Keys::read(&endpoint, &Openai::default()).is_err());
        std::fs::write(&path, "sk-planted\n").unwrap();
        let keys = Keys::read(&endpoint, &Openai::default()).unwrap();
        assert_eq!(keys.0[0].headers[AUTHORIZATION], "Bearer sk-planted");
    }

    #[test]
    fn who_needs_a_key() {
        let azure =
            |url: &str| Endpoint { base_url: url.into(), vendor: false, ..Endpoint::of(ProviderKind::Azure, "x") };
        assert!(needs_key(&Endpoint::of(ProviderKind::Gemini, "x")));
        assert!(needs_key(&azure("https://me.openai.azure.com")) && !needs_key(&azure("http://127.0.0.1:1")));
        assert!(!needs_key(&Endpoint::of(ProviderKind::Ollama, "x")));
        assert!(!needs_key(&Endpoint::at("x", "http://gpu-box:8000/v1")));
    }
}
