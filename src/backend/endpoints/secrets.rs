//! Keys, the headers and addresses that could hold one, and that no error shows them.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::file::{twice, wrong};
use super::tables::OneOrMore;
use super::{Endpoint, ProviderKind};
use crate::declaration;
use crate::diagnostic::{Error, Result, Source};

/// The text as errors may show it, for they show whole lines: without what may be a key or a password.
pub(super) fn veiled(source: &Source, document: &declaration::Table<'_>) -> Source {
    fn find(secret: fn(&str) -> bool, name: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
        match value.get_ref() {
            _ if secret(name) => found.push(value.span()),
            DeValue::Table(table) => {
                table.iter().for_each(|(name, value)| find(secret_header, name.get_ref(), value, found));
            }
            DeValue::Array(items) => items.iter().for_each(|item| find(secret, name, item, found)),
            DeValue::String(text) if secret_value(text) => found.push(value.span()),
            // An address may be so wrong that it cannot be told what is its password.
            DeValue::String(text) if text.contains(NO_ADDRESS) && (name == "base_url" || text.contains("://")) => {
                found.push(value.span());
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    let endpoints = document.get_ref().get("endpoints").and_then(|endpoints| endpoints.get_ref().as_table());
    for table in endpoints.into_iter().flat_map(|endpoints| endpoints.values()) {
        let entries = table.get_ref().as_table().into_iter().flatten();
        entries.for_each(|(name, value)| find(secret, name.get_ref(), value, &mut found));
    }
    let text = source.text();
    let hidden = |(at, c): (usize, char)| match c {
        _ if c != '\n' && found.iter().any(|span| span.contains(&at)) => star(c),
        _ => c,
    };
    Source::new(source.name(), text.char_indices().map(hidden).collect::<String>())
}

/// Stands for a character of as many bytes, so that what points into the text still does.
fn star(hidden: char) -> char {
    match hidden.len_utf8() {
        1 => '*',
        2 => '·',
        3 => '•',
        _ => '🔒',
    }
}

/// The same for a text that is no TOML, line by line: without the value of anything named like a key, and of lines with an
/// address that may hold one.
pub(super) fn hushed(source: &Source) -> Source {
    let lines = source.text().split_inclusive('\n').map(|line| {
        let named = |at: &usize| {
            let name = line[..*at].trim_end().rsplit([' ', '\t', '{', ',']).next().unwrap_or_default();
            let value = line[at + 1..].trim_start().trim_start_matches(['"', '\'']);
            secret(name.trim_matches(['"', '\''])) || name.contains("api_key") || secret_value(value)
        };
        let mut signs = line.match_indices('=').map(|(at, _)| at);
        let from = match line.split_once('=') {
            Some((name, value)) if value.contains("://") && value.contains(['@', '?']) => Some(name.len()),
            _ => signs.find(named),
        };
        let Some(from) = from else { return line.to_owned() };
        let stars = line[from + 1..].chars().map(|c| if c.is_whitespace() { c } else { star(c) });
        format!("{}={}", &line[..from], stars.collect::<String>())
    });
    Source::new(source.name(), lines.collect::<String>())
}

/// What no address here holds: a name and a password stand before the first, a key often behind the others.
const NO_ADDRESS: [char; 3] = ['@', '?', '#'];

/// A name of something that holds a key.
fn secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let ends = |word: &str| lower.ends_with(&format!("-{word}")) || lower.ends_with(&format!("_{word}"));
    // `auth` itself is a setting that says how the key is sent.
    ends("auth") || SECRETS.iter().any(|word| lower == *word || ends(word))
}

/// Words that are, or end, the name of something that holds a key.
const SECRETS: [&str; 10] =
    ["authorization", "bearer", "cookie", "key", "apikey", "token", "secret", "password", "credential", "credentials"];

/// A name of a header that holds a key.
fn secret_header(name: &str) -> bool {
    secret(name) || name.eq_ignore_ascii_case("auth")
}

/// A value that is a key by its form, whatever its name: a scheme of authorization, or OpenAI's prefix, which many took over.
fn secret_value(value: &str) -> bool {
    let begins = |word: &str| value.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    begins("Bearer ") || begins("Basic ") || begins("sk-")
}

impl Endpoint {
    /// The file of the key, for messages. The name of one that is not there may be the key itself, written into the wrong
    /// place: it is left out unless it looks like a file's.
    pub(crate) fn shown_key_file(&self) -> String {
        let path = self.api_key_file.as_deref().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let looks_secret = path.components().any(|part| secret_value(&part.as_os_str().to_string_lossy()));
        match path.exists() || (name.contains('.') && !looks_secret) {
            true => format!("the key file {}", path.display()),
            false if looks_secret => {
                "the key file that api_key_file names (not shown, for it looks like a key)".to_owned()
            }
            false => {
                format!("the key file that api_key_file names in {} (not shown, for it may be a key)", folder.display())
            }
        }
    }
}

/// What to do instead of writing a key into a file.
pub(super) const KEYS: &str =
    "name an environment variable with api_key_env (and auth = \"bearer\" or \"api-key\"), or a file with api_key_file";

/// What to say of what stands behind an address of Azure's.
const AZURE_VERSION: &str =
    "`api_version = \"...\"` is a setting of its own; a key stands in a variable that api_key_env names";

/// Refuses keys in endpoints' tables.
pub(super) fn no_keys(source: &Source, document: &declaration::Table<'_>) -> Result<()> {
    let endpoints = document.get_ref().get("endpoints").and_then(|endpoints| endpoints.get_ref().as_table());
    for table in endpoints.into_iter().flat_map(|endpoints| endpoints.values()) {
        let mut entries = table.get_ref().as_table().into_iter().flatten();
        // What api_key_env says is looked at for itself.
        let key = |name: &str, value: &DeValue<'_>| {
            secret(name) || (name != "api_key_env" && value.as_str().is_some_and(secret_value))
        };
        if let Some((name, value)) = entries.find(|(name, value)| key(name.get_ref(), value.get_ref())) {
            let message = format!("`{}` would hold a key in a file, which is copied and committed", name.get_ref());
            return Err(wrong(source, message, value.span(), "take this out").help(KEYS));
        }
    }
    Ok(())
}

/// Headers that say what is sent, where and how: another value would break the request or the reading of its answer.
const OWN_HEADERS: [&str; 11] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "accept-encoding",
    "connection",
    "expect",
    "te",
    "trailer",
    "upgrade",
];

/// A header must be one, and no key: a file is copied and committed.
pub(super) fn header(source: &Source, name: &str, value: &Spanned<String>) -> Result<()> {
    if secret_header(name) || secret_value(value.get_ref()) {
        let message = format!("the header `{name}` would hold a key in a file");
        return Err(wrong(source, message, value.span(), "here").help(KEYS));
    }
    if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Err(wrong(source, format!("the header `{name}` is not yours to set"), value.span(), "take this out")
            .help("it follows from the address and from the request that is sent"));
    }
    let good = reqwest::header::HeaderName::try_from(name).is_ok()
        && reqwest::header::HeaderValue::try_from(value.get_ref().as_str()).is_ok();
    match good {
        true => Ok(()),
        false => Err(wrong(source, format!("`{name}` is no header that can be sent"), value.span(), "here")),
    }
}

/// A variable's name: whoever writes the key itself in its place must not see it again in every message.
fn variable(name: &str, variable: &str) -> Result<()> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !variable.is_empty() && variable.len() <= 64 && variable.chars().all(word) {
        return Ok(());
    }
    Err(Error::usage(format!("what `api_key_env` of the endpoint `{name}` says is no name of an environment variable"))
        .help("it names the variable that holds the key, like OPENAI_API_KEY; the key itself stands in no file"))
}

/// The variables that hold keys: at least one, each once.
pub(super) fn variables(source: &Source, endpoint: &str, given: &Spanned<OneOrMore>) -> Result<Vec<String>> {
    let names = match given.get_ref() {
        OneOrMore::One(name) => std::slice::from_ref(name),
        OneOrMore::More(names) => names,
    };
    if names.is_empty() {
        return Err(wrong(source, "this list names no environment variable", given.span(), "here")
            .help("name those that hold the keys, or leave it out for the provider's usual one"));
    }
    names.iter().try_for_each(|name| variable(endpoint, name))?;
    if let Some(again) = twice(names) {
        return Err(wrong(source, format!("`{again}` is named twice"), given.span(), "here"));
    }
    Ok(names.to_vec())
}

/// An endpoint's address, without a slash at its end.
pub(super) fn address(source: &Source, provider: ProviderKind, url: &Spanned<String>) -> Result<String> {
    let at = |message: &str, label: &str| wrong(source, message, url.span(), label);
    let text = url.get_ref().trim_end_matches('/');
    let parsed = reqwest::Url::parse(text);
    if parsed.as_ref().is_ok_and(|url| !url.username().is_empty() || url.password().is_some()) {
        return Err(at("an address holds no name and no password here", "here").help(KEYS));
    }
    // Keys are often given so, and an address stands in messages, in the store's records and in reports.
    if parsed.as_ref().is_ok_and(|url| url.query().is_some() || url.fragment().is_some()) {
        let help = if provider == ProviderKind::Azure { AZURE_VERSION } else { KEYS };
        return Err(at("an address ends before any `?` or `#` here", "here").help(help));
    }
    if !parsed.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        let shown = if text.contains(NO_ADDRESS) { "this".to_owned() } else { format!("`{text}`") };
        return Err(at(&format!("{shown} is no address"), "here").help("like https://api.openai.com/v1"));
    }
    match provider.over_http() {
        true => Ok(text.to_owned()),
        false => Err(at("this provider has no address", "take this out")),
    }
}
