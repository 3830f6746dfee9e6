//! Experiments about the rows of a file: models are asked about every row, by templates over it. Judges and paraphrasing
//! models are asked like this.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields::Fields;
use super::folder::RESULTS;
use super::input::{Input, Lines};
use super::row::id_of;
use crate::diagnostic::{Error, Result, Source, suggestion};
use crate::prompt::{self, Context, Template};

/// A model that is asked about rows: a judge, or one that paraphrases.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name for people.
    pub name: String,
    /// `model`, or prompto's `api` and `model_name`; and `parameters`.
    pub columns: Vec<(String, Value)>,
}

impl Member {
    /// A model with parameters.
    pub fn of(model: &str, params: Map<String, Value>) -> Member {
        let mut columns = vec![("model".to_owned(), Value::from(model))];
        if !params.is_empty() {
            columns.push(("parameters".to_owned(), params.into()));
        }
        Member { name: model.to_owned(), columns }
    }

    /// The members of a settings file in prompto's form, `{NAME: {"api", "model_name", "parameters"}}` (or `"model"` in place
    /// of the first two): those of these names, or all.
    pub fn load(path: &Path, names: &[String]) -> Result<Vec<Member>> {
        let source = Source::read(path)?;
        let wrong = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let value: Value = serde_json::from_str(source.text()).map_err(|error| wrong(error.to_string()))?;
        let Value::Object(all) = value else { return Err(wrong("this is no JSON object".into())) };
        let mut members = Vec::new();
        for (name, value) in &all {
            let Value::Object(settings) = value else { return Err(wrong(format!("`{name}` is an object"))) };
            let has = |key: &str| settings.get(key).is_some_and(Value::is_string);
            if !(has("model") || has("api") && has("model_name")) {
                return Err(wrong(format!("`{name}` needs `model`, or `api` and `model_name`")));
            }
            let known = ["model", "api", "model_name", "parameters"];
            if let Some(key) = settings.keys().find(|key| !known.contains(&key.as_str())) {
                return Err(wrong(format!("`{name}` has the unknown key `{key}`")).help(suggestion(key, known)));
            }
            let columns = settings.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            members.push(Member { name: name.clone(), columns });
        }
        if members.is_empty() {
            return Err(wrong("it names no model".into()));
        }
        if let Some(name) = names.iter().find(|name| !all.contains_key(*name)) {
            return Err(wrong(format!("there is no `{name}`")).help(suggestion(name, all.keys().map(String::as_str))));
        }
        members.retain(|member| names.is_empty() || names.contains(&member.name));
        Ok(members)
    }
}

/// A template over a row: minijinja's, or one with prompto's `{INPUT_PROMPT}` and `{OUTPUT_RESPONSE}`.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Its name.
    pub name: String,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Jinja(Template),
    Prompto(String),
}

impl Asking {
    /// Reads a template.
    pub fn new(name: impl Into<String>, text: &str) -> Result<Asking> {
        let name = name.into();
        // In Python's format strings a brace that is meant is written twice.
        let bare = text.replace("{{", "").replace("}}", "");
        let prompto = ["{INPUT_PROMPT}", "{OUTPUT_RESPONSE}"].iter().any(|place| bare.contains(place));
        let form = match prompto {
            true => Form::Prompto(text.to_owned()),
            false => Form::Jinja(
                Template::compile(text)
                    .map_err(|problem| Error::usage(format!("the template `{name}` cannot be read: {problem}")))?,
            ),
        };
        Ok(Asking { name, form })
    }

    /// A template in a file, named as the file without its ending.
    pub fn load(path: &Path) -> Result<Asking> {
        let source = Source::read(path)?;
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Asking::new(name, source.text())
    }

    /// The text for a row. Its prompt and response are texts in it, whatever they are in the row.
    pub fn render(&self, row: &Fields) -> Result<String, String> {
        let text = |name: &str| row.get(name).map(text).unwrap_or_default();
        match &self.form {
            Form::Jinja(template) => {
                let mut fields = row.map();
                for name in ["prompt", "response"] {
                    if fields.contains_key(name) {
                        fields.insert(name.to_owned(), text(name).into());
                    }
                }
                let (fields, none) = (prompt::Fields::new(&fields), prompt::Fields::new([]));
                template.render(&Context::new(&fields, &none))
            }
            Form::Prompto(template) => Ok(formatted(template, &text("prompt"), &text("response"))),
        }
    }
}

/// A value as text: a text as it is, nothing for null, all else as JSON.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Python's `format` with two names.
fn formatted(template: &str, prompt: &str, response: &str) -> String {
    let mut text = String::with_capacity(template.len() + prompt.len() + response.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let (put, skip) = match rest {
            _ if rest.starts_with("{{") => ("{", 2),
            _ if rest.starts_with("}}") => ("}", 2),
            _ if rest.starts_with("{INPUT_PROMPT}") => (prompt, "{INPUT_PROMPT}".len()),
            _ if rest.starts_with("{OUTPUT_RESPONSE}") => (response, "{OUTPUT_RESPONSE}".len()),
            other => (&other[..1], 1),
        };
        text.push_str(put);
        rest = &rest[skip..];
    }
    text + rest
}

/// The file that is meant by an experiment's folder or a file of answers.
pub fn answers(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let results = path.join(RESULTS);
    match results.is_file() {
        true => Ok(results),
        false => Err(Error::usage(format!("{} holds no {RESULTS}: is it an experiment that was run?", path.display()))),
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Rows of the new experiment.
    pub rows: usize,
    /// Rows of the old one that had nothing to ask about.
    pub skipped: usize,
}

/// The folder that a file is written in: what is unpacked meanwhile stands there too.
pub(super) fn beside(out: &Path) -> &Path {
    out.parent().unwrap_or(Path::new("."))
}

/// Writes the experiment in which every model is asked, by every template, about every row of a file that has what `asked`
/// wants; `word` begins the new rows' ids. `own` gives columns of the new row for a model, before those of the old row.
pub(super) fn write(
    (source, out): (&Path, &Path),
    word: &str,
    (models, templates): (&[Member], &[Asking]),
    asked: impl Fn(&Fields) -> bool,
    own: impl Fn(&Member) -> Vec<(String, Value)>,
) -> Result<Made> {
    let input = Input::open(source, &source.display().to_string(), beside(out))?;
    let mut lines = Lines::create(out)?;
    let (mut made, mut number) = (Made::default(), 0);
    input.each(|place, row| {
        number += 1;
        let at = |what: String| Error::usage(format!("{}:{}: {what}", input.name(), place.line));
        let row = row.map_err(|fault| at(fault.to_string()))?;
        // Every column is read here, and written anew.
        if let Some(what) = row.too_large(|_| true) {
            return Err(at(what));
        }
        if !asked(&row.fields) {
            made.skipped += 1;
            return Ok(());
        }
        let id = id_of(&row.fields, number);
        for model in models {
            for template in templates {
                let text = template
                    .render(&row.fields)
                    .map_err(|problem| at(format!("the template `{}`: {problem}", template.name)))?;
                let mut fields = vec![
                    ("id".to_owned(), Value::from(format!("{word}-{}-{}-{id}", model.name, template.name))),
                    ("template_name".to_owned(), template.name.as_str().into()),
                    ("prompt".to_owned(), text.into()),
                ];
                fields.extend(own(model));
                if row.fields.filled("id").is_none() {
                    fields.push(("input-id".to_owned(), id.as_str().into()));
                }
                fields.extend(row.fields.0.iter().map(|(name, value)| (format!("input-{name}"), value.clone())));
                lines.add(&Fields(fields))?;
                made.rows += 1;
            }
        }
        Ok(())
    })?;
    lines.finish()?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_of_both_kinds() {
        let row = Fields::from(
            json!({"prompt": "p {OUTPUT_RESPONSE}", "response": ["a", "b"], "topic": "t"}).as_object().unwrap().clone(),
        );
        let prompto = Asking::new("x", "{{json}} {INPUT_PROMPT}: {OUTPUT_RESPONSE} {x").unwrap();
        assert_eq!(prompto.render(&row).unwrap(), "{json} p {OUTPUT_RESPONSE}: [\"a\",\"b\"] {x");
        let jinja = Asking::new("x", "{{ topic }}: {{ prompt }} / {{ response }}").unwrap();
        assert_eq!(jinja.render(&row).unwrap(), "t: p {OUTPUT_RESPONSE} / [\"a\",\"b\"]");
        assert!(Asking::new("x", "{{ nope }}").unwrap().render(&row).unwrap_err().contains("`nope` is undefined"));
    }
}
