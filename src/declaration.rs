//! TOML files of the user's, read with their spans: every error names file, line, column and the nearest known key.

use std::ops::Range;

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Error, Result, Source, nearest, shortened};

/// A table as it stands in a file: every key and value knows its span.
pub type Table<'a> = Spanned<DeTable<'a>>;

/// Parses a whole file. An empty one is an error.
pub fn parse(source: &Source) -> Result<Table<'_>> {
    parse_shown(source, || source.clone())
}

/// The same for a file that may hold secrets: an error shows `shown`, which has the same length, in its place.
pub fn parse_shown(source: &Source, shown: impl FnOnce() -> Source) -> Result<Table<'_>> {
    if source.text().trim().is_empty() {
        return Err(Error::usage(format!("{} is empty", source.name())));
    }
    DeTable::parse(source.text()).map_err(|error| at_error(&shown(), &error))
}

/// Reads a table as a struct that denies unknown fields.
pub fn read<T: DeserializeOwned>(source: &Source, table: Table<'_>) -> Result<T> {
    T::deserialize(table.into_deserializer()).map_err(|error| at_error(source, &error))
}

/// Takes a key and its value out of a table.
pub fn take<'a>(table: &mut Table<'a>, key: &str) -> Option<(Range<usize>, Spanned<DeValue<'a>>)> {
    let (key, value) = table.get_mut().remove_entry(key)?;
    Some((key.span(), value))
}

/// Takes a sub-table out of a table; a value of another type is an error.
pub fn take_table<'a>(source: &Source, table: &mut Table<'a>, key: &str) -> Result<Option<(Range<usize>, Table<'a>)>> {
    match take(table, key) {
        None => Ok(None),
        Some((key_span, value)) => Ok(Some((key_span, as_table(source, key, value)?))),
    }
}

/// The table that a value is; a value of another type is an error that names `key`.
pub fn as_table<'a>(source: &Source, key: &str, value: Spanned<DeValue<'a>>) -> Result<Table<'a>> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Ok(Spanned::new(span, table)),
        other => Err(Error::usage(format!("`{key}` must be a table, not {}", kind(&other))).at(source, span, "here")),
    }
}

/// A TOML value as JSON. Dates become strings; numbers that are not finite are an error.
pub fn json(source: &Source, value: &Spanned<DeValue<'_>>) -> Result<Value> {
    let bad = |what: &str| Err(Error::usage(what.to_owned()).at(source, value.span(), "here"));
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(yes) => Value::from(*yes),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::from(integer),
            Err(_) => return bad("this integer does not fit 64 bits"),
        },
        DeValue::Float(float) => match float.as_str().parse::<f64>() {
            Ok(float) if float.is_finite() => Value::from(float),
            _ => return bad("this number is not finite"),
        },
        DeValue::Array(items) => Value::Array(items.iter().map(|item| json(source, item)).collect::<Result<_>>()?),
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<_>, &_)| Ok((as_text(key), json(source, value)?));
            Value::Object(table.iter().map(entry).collect::<Result<_>>()?)
        }
    })
}

fn as_text(key: &Spanned<toml::de::DeString<'_>>) -> String {
    key.get_ref().as_ref().to_owned()
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// What a parser calls types of Rust, in words of the user's.
pub fn plain(words: &str) -> String {
    let word = |word: &str| match word {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => Some("a whole number"),
        "f32" | "f64" => Some("a number"),
        "a boolean" => Some("true or false"),
        "a sequence" => Some("a list"),
        "a map" => Some("a table"),
        _ if word.starts_with("struct ") => Some("a table"),
        _ => None,
    };
    // A whole message, as serde_json gives them, or what stands behind its "expected".
    match words.split_once(", expected ") {
        Some((got, wanted)) => {
            let (wanted, place) = wanted
                .split_once(" at line ")
                .map_or((wanted, String::new()), |(wanted, place)| (wanted, format!(" at line {place}")));
            format!("{}, expected {}{place}", plain(got), word(wanted).unwrap_or(wanted))
        }
        None => match words.strip_prefix("floating point ") {
            Some(number) => format!("the number {number}"),
            None => word(words).unwrap_or(words).replace("invalid type: sequence", "invalid type: a list"),
        },
    }
}

/// A TOML error as ours: the same span, words that say what to write instead.
pub fn at_error(source: &Source, error: &toml::de::Error) -> Error {
    let span = error.span().unwrap_or(0..0);
    let raw = error.message().trim().lines().collect::<Vec<_>>().join(", ");
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    if let Some(rest) = raw.strip_prefix("unknown field ") {
        let mut names = quoted(rest);
        let key = names.remove(0);
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let help = match nearest(&key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        return Error::usage(format!("unknown key `{key}`")).at(source, span, "not known here").help(help);
    }
    if let Some(rest) = raw.strip_prefix("unknown variant ") {
        let mut names = quoted(rest);
        let word = names.remove(0);
        let help = match nearest(&word, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("one of: {}", names.join(", ")),
        };
        return Error::usage(format!("`{word}` is none of the words known here")).at(source, span, "here").help(help);
    }
    if let Some(rest) = raw.strip_prefix("missing field ") {
        let key = quoted(rest).first().cloned().unwrap_or_default();
        return Error::usage(format!("the key `{key}` is missing")).at(source, span, "in this table");
    }
    if let Some(rest) = raw.strip_prefix("invalid type: ") {
        let (got, wanted) = rest.split_once(", expected ").unwrap_or((rest, "something else"));
        let (got, wanted) = (plain(&shortened(got, 80)), plain(wanted));
        let message = format!("wrong type: {got} where {wanted} belongs");
        return Error::usage(message).at(source, span, format!("expected {wanted}"));
    }
    if let Some(rest) = raw.strip_prefix("invalid value: ") {
        let (got, wanted) = rest.split_once(", expected ").unwrap_or((rest, "something else"));
        let (got, wanted) = (plain(&shortened(got, 80)), plain(wanted));
        // Of an integer the type is right, so it is its size that is wrong.
        let range = if rest.contains(", expected u") { " (0 or more)" } else { "" };
        let message = format!("wrong value: {got} where {wanted}{range} belongs");
        return Error::usage(message).at(source, span, format!("expected {wanted}"));
    }
    Error::usage(format!("this is not valid here: {raw}")).at(source, span, "here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Section {
        name: String,
        share: Option<f64>,
        count: Option<u32>,
    }

    fn problem(text: &str) -> String {
        let source = Source::new("x.toml", text);
        let read = |source: &Source| -> Result<Section> {
            let mut table = parse(source)?;
            let (_, section) = take_table(source, &mut table, "task")?.expect("there is a [task]");
            read(source, section)
        };
        let error = read(&source).unwrap_err();
        format!("{} | {} | {}", error.location().unwrap_or_default(), error, error.advice().unwrap_or_default())
    }

    #[test]
    fn errors_say_where_and_what_to_write() {
        assert_eq!(problem("[task]\nnmae = 'x'\n"), "x.toml:2:1 | unknown key `nmae` | did you mean `name`?");
        assert_eq!(
            problem("[task]\nzzzzzz = 'x'\n"),
            "x.toml:2:1 | unknown key `zzzzzz` | known here: name, share, count"
        );
        assert_eq!(
            problem("[task]\nname = 'x'\nshare = 'y'\n"),
            "x.toml:3:9 | wrong type: string \"y\" where a number belongs | "
        );
        assert_eq!(
            problem("[task]\nname = 'x'\nshare = 1\ncount = 1.5\n"),
            "x.toml:4:9 | wrong type: the number `1.5` where a whole number belongs | "
        );
        assert_eq!(
            problem("[task]\nname = 'x'\ncount = -1\n"),
            "x.toml:3:9 | wrong value: integer `-1` where a whole number (0 or more) belongs | "
        );
        let long = problem(&format!("[task]\nname = 'x'\nshare = '{}'\n", "y".repeat(9999)));
        assert!(long.len() < 300 && long.contains("where a number belongs"), "{long}");
        assert_eq!(
            plain("invalid type: string \"x\", expected u64 at line 3 column 4"),
            "invalid type: string \"x\", expected a whole number at line 3 column 4"
        );
        assert_eq!(problem("[task]\nshare = 1.0\n"), "x.toml:1:1 | the key `name` is missing | ");
        assert_eq!(problem("task = 3"), "x.toml:1:8 | `task` must be a table, not an integer | ");
        assert!(problem("[task\n").starts_with("x.toml:1:6 | this is not valid here: "), "{}", problem("[task\n"));
        assert_eq!(problem("  "), " | x.toml is empty | ");
    }
}
