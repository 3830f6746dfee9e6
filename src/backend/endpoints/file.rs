//! A `farthing.toml` read: its tables, and what they mean together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::endpoint::endpoint;
use super::model::model;
use super::secrets::{hushed, no_keys, veiled};
use super::tables::{ConfigFile, rates};
use super::{About, Endpoint, Endpoints};
use crate::declaration;
use crate::diagnostic::{Error, Result, Source};

/// Reads a `farthing.toml` from a text; paths are relative to `folder`.
pub(super) fn read(source: &Source, folder: &Path) -> Result<Endpoints> {
    let document = declaration::parse_shown(source, || hushed(source))?;
    let source = &veiled(source, &document);
    no_keys(source, &document)?;
    let file: ConfigFile = declaration::read(source, document)?;
    file.resolve(source, folder)
}

impl ConfigFile {
    /// Everything looked up. Paths are relative to `folder`.
    fn resolve(&self, source: &Source, folder: &Path) -> Result<Endpoints> {
        let mut groups = BTreeMap::new();
        for (name, table) in &self.limits {
            let spec = table.get_ref();
            let rates = rates(source, &spec.requests_per_minute, &spec.tokens_per_minute, &spec.max_concurrency)?;
            groups.insert(name.clone(), rates);
        }
        let mut list = Vec::new();
        for (name, table) in &self.endpoints {
            list.push(endpoint(source, folder, name, table, &groups)?);
        }
        let unnamed = list.is_empty();
        if unnamed {
            list = Endpoints::standard().list;
        } else {
            list.push(Endpoint::implied());
        }
        let mut models = BTreeMap::new();
        for (name, table) in &self.models {
            let model = model(source, folder, name, table, &list, &groups)?;
            for place in &model.endpoints {
                let about = About { kind: model.kind, max_output_tokens: model.max_output_tokens };
                list[*place].about.insert(model.id.clone(), about);
            }
            models.insert(name.clone(), model);
        }
        Ok(Endpoints { list, unnamed, models, groups, source: Some(source.clone()) })
    }
}

/// A usage error that points at what stands in the file.
pub(super) fn wrong(source: &Source, message: impl Into<String>, span: Range<usize>, label: &str) -> Error {
    Error::usage(message).at(source, span, label.to_owned())
}

/// The path of a file that must be there.
pub(super) fn existing(source: &Source, folder: &Path, path: &Spanned<String>) -> Result<PathBuf> {
    let file = folder.join(path.get_ref());
    match file.is_file() {
        true => Ok(file),
        false => Err(wrong(source, format!("there is no file {}", file.display()), path.span(), "named here")
            .help("paths are relative to the farthing.toml")),
    }
}

/// What stands in a list for the second time.
pub(super) fn twice<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter().enumerate().find(|(at, one)| list[..*at].contains(one)).map(|(_, one)| one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        let error = super::read(&Source::new("farthing.toml", text), Path::new(".")).unwrap_err();
        format!("{} {} | {}", error.location().unwrap_or_default(), error, error.advice().unwrap_or_default())
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        let endpoint = |line: &str| problem(&format!("[endpoints.e]\nprovider = \"openai\"\n{line}\n"));
        for (line, said) in [
            ("drop_params = [\"seed\", \"model\"]", "farthing.toml:3:24 `model` cannot be dropped"),
            ("drop_params = [\"messages\"]", "farthing.toml:3:16 `messages` cannot be dropped"),
            ("drop_params = [\"\"]", "farthing.toml:3:16 a parameter has a name"),
            ("headers = { Host = \"x\" }", "farthing.toml:3:20 the header `Host` is not yours to set"),
            ("headers = { content-length = \"7\" }", "the header `content-length` is not yours to set"),
            ("api_key_env = []", "farthing.toml:3:15 this list names no environment variable"),
            ("api_key_env = [\"A\", \"A\"]", "farthing.toml:3:15 `A` is named twice"),
            ("api_key_env = 7", "a string, or a list of strings, belongs here"),
            ("timeout_seconds = 0", "`timeout_seconds` is a number of seconds above 0"),
            ("deadline_seconds = -1", "`deadline_seconds` is a number of seconds above 0"),
            ("max_concurrency = 1.5", "the number `1.5` where a whole number belongs"),
            ("max_retries = -1", "integer `-1` where a whole number (0 or more) belongs"),
        ] {
            assert!(endpoint(line).contains(said), "{line}: {}", endpoint(line));
        }
        let model = |line: &str| problem(&format!("[endpoints.e]\nprovider = \"openai\"\n[models.m]\n{line}\n"));
        for (line, said) in [
            ("endpoints = [\"e\", \"e\"]", "farthing.toml:4:19 the endpoint `e` is named twice"),
            ("id = \"\"", "farthing.toml:4:6 an `id` is the model's name"),
            ("price = { input = 1e300, output = 1 }", "farthing.toml:4:19 `1e300` is more than"),
            ("context_window = \"large\"", "string \"large\" where a whole number belongs"),
            ("device = \"cuda\"", "farthing.toml:4:10 only models of a `local` endpoint have a `device`"),
        ] {
            assert!(model(line).contains(said), "{line}: {}", model(line));
        }
        assert!(problem("[endpoints.e]\nprovider = \"openai\"\n[models.\"\"]\n").contains("a model has a name"));
    }

    #[test]
    fn no_error_shows_a_key_or_a_password() {
        for (text, said) in [
            ("base_url = \"https://me:hünter2@host:99999/v1\"", "3:12 this is no address"),
            ("base_url = \"https://host name/v1?key=hünter2\"", "3:12 this is no address"),
            ("base_url = \"hünter2@host\"", "3:12 this is no address"),
            ("base_url = \"no address\"", "3:12 `no address` is no address"),
            ("base_url = \"https://me:hünter2@host/v1\"", "3:12 an address holds no name and no password here"),
            ("base_url = \"https://host/v1#hünter2\"", "3:12 an address ends before any `?` or `#` here"),
            // What else is wrong shows the same line.
            ("headers = { X = \"https://a:hünter2@b\", Y = 7 }", "wrong type"),
            ("headers = { Authorization = \"hünter2\", Y = 7 }", "wrong type"),
            ("[models.m]\n[endpoints]\nf = { base_url = \"http://a:hünter2@b\", x = 1 }", ":5:40 unknown key `x`"),
            ("tokens_per_minute = 0\n[endpoints.f]\nprovider = \"openai\"\ntoken = \"hünter2\"", ":6:9 `token` would"),
            ("headers = { Auth = \"hünter2\", Y = 7 }", "wrong type"),
            ("headers = { X = \"Bearer hünter2\", Y = 7 }", "wrong type"),
            ("headers = { Helicone-Auth = \"hünter2\" }", "the header `Helicone-Auth` would hold a key"),
            ("headers = { X-Auth = \"hünter2\" }", "the header `X-Auth` would hold a key"),
            ("headers = { auth = \"hünter2\" }", "the header `auth` would hold a key"),
            ("headers = { bearer = \"hünter2\" }", "the header `bearer` would hold a key"),
            ("headers = { My-Credentials = \"hünter2\" }", "the header `My-Credentials` would hold a key"),
            ("headers = { X-Mine = \"Bearer hünter2\" }", "the header `X-Mine` would hold a key"),
            ("headers = { X-Mine = \"sk-hünter2\" }", "the header `X-Mine` would hold a key"),
            ("auth = \"sk-hünter2\"", "3:8 `auth` would hold a key"),
            ("api_key_file = \"sk-hünter2\"", "3:16 `api_key_file` would hold a key"),
            ("api_key_env = \"sk-hünter2\"", "no name of an environment variable"),
            ("my_credential = \"hünter2\"", "`my_credential` would hold a key"),
            // No TOML: where that shows is the line in question.
            ("base_url = \"https://me:hünter2@host/v1", "not valid here"),
            ("base_url = \"https://host/v1?key=hünter2", "not valid here"),
            ("api_key = hünter2", "3:11 this is not valid here"),
            ("headers = { Authorization = \"hünter2, X = 1 }", "not valid here"),
            ("headers = { X-Mine = \"Bearer hünter2, X = 1 }", "not valid here"),
            ("base_url = \"https://host/v1?key=hünter2\"\nmax_retries = ", "4:15 this is not valid here"),
        ] {
            let text = format!("[endpoints.e]\nprovider = \"openai\"\n{text}\n");
            let error = super::read(&Source::new("farthing.toml", text.as_str()), Path::new(".")).unwrap_err();
            let told = format!("{} {error}", error.location().unwrap_or_default());
            let shown = format!("{:?}", miette::Report::new(error));
            assert!(told.contains(said), "{text}: {told}");
            assert!(!shown.contains("hünter2") && !told.contains("hünter2"), "{shown}");
        }
    }
}
