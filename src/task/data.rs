//! Reading instances: JSON Lines, CSV and Parquet by the file's ending, each also compressed (.gz, .zst).

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::data::{self, Format, Quotes, altered, json_problem, lines, read_file, unclosed_quote, unequal};
use crate::diagnostic::{Error, Result, bad_utf8, nearest, suggestion};
use crate::task::Instance;

/// One row and the line it begins on (from 0).
struct Row {
    line: usize,
    fields: Map<String, Value>,
}

/// The rows of one file, in order, as instances named by the column `id` or by row number (from 1).
pub fn load(path: &Path, id: Option<&str>) -> Result<Vec<Instance>> {
    let name = path.display().to_string();
    let format = Format::known(path, &name)?;
    let bytes = read_file(path)?;
    // What a row is read from is kept to be shown; the lines of Parquet are nobody's.
    let (rows, text) = match format {
        Format::Csv => (csv_rows(&name, &bytes)?, Some(bytes)),
        Format::Parquet => (parquet_rows(&name, bytes)?, None),
        Format::Lines => (json_rows(&name, &bytes)?, Some(bytes)),
    };
    if rows.is_empty() {
        return Err(Error::usage(format!("{name} holds no rows")));
    }
    instances(&name, text.as_deref(), rows, id)
}

/// A line of a file (from 0), as it stands there.
fn line_of(bytes: &[u8], line: usize) -> String {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = bytes.split(|byte| *byte == b'\n').nth(line).unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches('\r').to_owned()
}

fn json_rows(name: &str, bytes: &[u8]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (line, text) in lines(name, bytes)?.filter(|(_, text)| !text.trim().is_empty()) {
        if let Some((at, what)) = altered(text) {
            return Err(Error::usage(what).at_line(name, line, text, at, "here"));
        }
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(fields)) => rows.push(Row { line, fields }),
            Ok(_) => {
                return Err(Error::usage("this row is not a JSON object")
                    .at_line(name, line, text, 0..text.len(), "not an object")
                    .help("each line is one instance: {\"question\": \"...\", \"answer\": \"...\"}"));
            }
            Err(error) => {
                // serde_json counts columns in bytes from 1.
                let at = error.column().saturating_sub(1).min(text.len());
                let what = json_problem(&error);
                return Err(Error::usage(format!("this row is not valid JSON: {what}")).at_line(
                    name,
                    line,
                    text,
                    at..at + 1,
                    "here",
                ));
            }
        }
    }
    Ok(rows)
}

/// CSV columns are kept as the text they are: `007` stays `007` in a prompt.
fn csv_rows(name: &str, bytes: &[u8]) -> Result<Vec<Row>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(bad_utf8(name, bytes, error.valid_up_to(), 0));
    }
    let mut quotes = Quotes::default();
    quotes.read(bytes);
    if let Some((line, start, column)) = quotes.unclosed() {
        let text = String::from_utf8_lossy(&bytes[usize::try_from(start).unwrap_or(0)..]);
        return Err(unclosed_quote(name, line, text.lines().next().unwrap_or_default(), column));
    }
    let trouble = |error: &csv::Error| {
        let at = Lines::default().line(bytes, error.position().map_or(0, csv::Position::byte));
        let text = line_of(bytes, at);
        let what = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => unequal(*len, *expected_len),
            _ => format!("this row cannot be read: {error}"),
        };
        Error::usage(what).at_line(name, at, &text, 0..text.len(), "this row")
    };
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
    let headers = reader.headers().map_err(|error| trouble(&error))?.clone();
    let headers = data::headers(name, &line_of(bytes, 0), &headers)?;
    let (mut rows, mut lines) = (Vec::new(), Lines::default());
    for record in reader.records() {
        let record = record.map_err(|error| trouble(&error))?;
        let line = lines.line(bytes, record.position().map_or(0, csv::Position::byte));
        let fields = headers.iter().zip(&record).map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        rows.push(Row { line, fields });
    }
    Ok(rows)
}

/// The lines (from 0) of places in a text, each behind the one before. What the reader says is one too few where lines end in
/// two characters.
#[derive(Default)]
struct Lines {
    at: usize,
    line: usize,
}

impl Lines {
    /// The line of the row that begins at a byte, or behind the line ends there.
    fn line(&mut self, bytes: &[u8], byte: u64) -> usize {
        let byte = usize::try_from(byte).unwrap_or(usize::MAX).min(bytes.len());
        let ends = bytes[byte..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        self.line += bytes[self.at..byte + ends].iter().filter(|byte| **byte == b'\n').count();
        self.at = byte + ends;
        self.line
    }
}

#[cfg(feature = "parquet")]
fn parquet_rows(name: &str, bytes: Vec<u8>) -> Result<Vec<Row>> {
    super::parquet::rows(bytes)
        .map(|rows| rows.into_iter().enumerate().map(|(line, fields)| Row { line, fields }).collect())
        .map_err(|problem| Error::usage(format!("{name} cannot be read as Parquet: {problem}")))
}

#[cfg(not(feature = "parquet"))]
fn parquet_rows(name: &str, _bytes: Vec<u8>) -> Result<Vec<Row>> {
    Err(Error::usage(format!("{name}: this farthing was built without Parquet"))
        .help("build it with the feature `parquet` (on by default), or save the data as JSON Lines"))
}

/// Instances from JSON values, which must be objects; errors name `name` and the row.
pub fn from_values(name: &str, values: Vec<Value>, id: Option<&str>) -> Result<Vec<Instance>> {
    let row = |(line, value): (usize, Value)| match value {
        Value::Object(fields) => Ok(Row { line, fields }),
        other => Err(Error::usage(format!("instance {} of `{name}` is not a JSON object: {other}", line + 1))),
    };
    let rows: Vec<Row> = values.into_iter().enumerate().map(row).collect::<Result<_>>()?;
    if rows.is_empty() {
        return Err(Error::usage(format!("the task `{name}` has no instances")));
    }
    instances(name, None, rows, id)
}

/// `text` is what the rows' lines stand in, where they do in any.
fn instances(name: &str, text: Option<&[u8]>, rows: Vec<Row>, id: Option<&str>) -> Result<Vec<Instance>> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(rows.len());
    let mut instances = Vec::with_capacity(rows.len());
    for (number, Row { line, fields }) in rows.into_iter().enumerate() {
        let shown = || match text {
            Some(text) => line_of(text, line),
            None => Value::Object(fields.clone()).to_string(),
        };
        let key = match id {
            None => (number + 1).to_string(),
            Some(column) => match fields.get(column) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) => {
                    let text = shown();
                    return Err(Error::usage(format!(
                        "the `{column}` of this row is null, and it is to name the instance"
                    ))
                    .at_line(name, line, &text, 0..text.len().min(80), "in this row")
                    .help("give it a text or a number; without `id` under [data] instances are named by their rows"));
                }
                None => {
                    let text = shown();
                    let columns: Vec<&str> = fields.keys().map(String::as_str).collect();
                    let known = nearest(column, columns.iter().copied()).is_some() || number == 0;
                    let error = Error::usage(format!("this row has no `{column}`, the column that names an instance"));
                    let error = error.at_line(name, line, &text, 0..text.len().min(80), "in this row");
                    return Err(match known {
                        true => error.help(suggestion(column, columns.iter().copied())),
                        false => error,
                    });
                }
                Some(other) => other.to_string(),
            },
        };
        if let Some(earlier) = seen.insert(key.clone(), line) {
            let text = shown();
            return Err(Error::usage(format!("the id `{key}` is there twice, first on line {}", earlier + 1))
                .at_line(name, line, &text, 0..text.len().min(80), "the second row of that id")
                .help("ids name instances in every result, so each must be unique"));
        }
        instances.push(Instance::new(key, fields));
    }
    Ok(instances)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn problem(ending: &str, bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("data.{ending}"));
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path, Some("id")).unwrap_err();
        let place = error.location().unwrap_or_default();
        let place = place.rsplit_once('/').map_or(place.clone(), |(_, file)| file.to_owned());
        format!("{place} | {error}").replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn each_fault_has_its_message_and_place() {
        for (ending, bytes, wanted) in [
            ("jsonl", &b"{\"id\": 1}\n\n[1]\n"[..], "data.jsonl:3:1 | this row is not a JSON object"),
            ("jsonl", b"{\"id\": 1,}", "data.jsonl:1:10 | this row is not valid JSON: trailing comma"),
            ("jsonl", b"{\"id\": 1}\n{\"id\": 1}", "data.jsonl:2:1 | the id `1` is there twice, first on line 1"),
            ("jsonl", b"{\"idd\": 1}", "data.jsonl:1:1 | this row has no `id`, the column that names an instance"),
            ("jsonl", b"", " | data.jsonl holds no rows"),
            ("jsonl", b"{\"id\": \"\xff\"}", "data.jsonl:1:9 | data.jsonl is not UTF-8: byte 0xff"),
            ("jsonl", b"{\"id\": 1, \"a\": {\"b\": 1}, \"a\": 2}", "data.jsonl:1:26 | the column `a` is there twice"),
            (
                "jsonl",
                b"{\"id\": \"a\", \"q\": [-1e30, 18446744073709551616]}",
                "data.jsonl:1:26 | the integer 18446744073709551616 does not fit 64 bits; write it as a text",
            ),
            (
                "csv",
                b"id,x\n1,\"a \"\"b\"\"\"\n2,\"c\n3,d\n",
                "data.csv:3:3 | this quote is never closed: every row behind it would be part of this cell",
            ),
            ("csv", b"id,x\n1,2,3\n", "data.csv:2:1 | this row has 3 columns where the header has 2"),
            ("csv", b"id,id\n1,2\n", "data.csv:1:1 | the column `id` is there twice"),
            ("csv", b"id,\n1,2\n", "data.csv:1:1 | column 2 has no name"),
            ("csv", b"id,x\n", " | data.csv holds no rows"),
            ("jsonl.gz", b"this is certainly not gzip", " | data.jsonl.gz cannot be decompressed: invalid gzip header"),
            ("json", b"{}", " | data.json: the ending tells the format, and this one is not known"),
        ] {
            assert_eq!(problem(ending, bytes), wanted);
        }
    }

    #[test]
    fn a_row_is_shown_as_it_stands_in_its_file() {
        for (ending, bytes, line, shown, wanted) in [
            ("csv", &b"id;q\r\n1;x\r\n"[..], 2, "1;x", "no `id`"),
            ("csv", b"id,q\r\n\r\n1,\"a\r\nb\"\r\n1,c\r\n", 5, "1,c", "first on line 3"),
            ("csv", b"id,q\r\n1,a\r\n2\r\n", 3, "2", "this row has 1 columns"),
            (
                "jsonl",
                b"\n{\"q\": \"x\", \"id\": null}\n",
                2,
                "{\"q\": \"x\", \"id\": null}",
                "the `id` of this row is null",
            ),
            ("jsonl", b"{\"q\": 1.0,\"b\":2}\n", 1, "{\"q\": 1.0,\"b\":2}", "no `id`"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(format!("d.{ending}"));
            std::fs::write(&path, bytes).unwrap();
            let error = load(&path, Some("id")).unwrap_err();
            assert!(error.location().unwrap().ends_with(&format!("d.{ending}:{line}:1")), "{:?}", error.location());
            assert!(error.message().contains(wanted), "{error}");
            assert!(format!("{error:?}").contains(&format!("lines: {shown:?}")), "{error:?}");
        }
    }

    #[test]
    fn compressed_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let text = b"{\"q\": \"one\"}\r\n{\"q\": \"two\"}\n";
        let gz = folder.path().join("d.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        std::fs::write(&gz, encoder.finish().unwrap()).unwrap();
        let zst = folder.path().join("d.jsonl.zst");
        std::fs::write(&zst, zstd::encode_all(&text[..], 1).unwrap()).unwrap();
        for path in [gz, zst] {
            let rows = load(&path, None).unwrap();
            assert_eq!(
                rows.iter().map(|row| (row.id.as_str(), row.text("q").unwrap())).collect::<Vec<_>>(),
                [("1", "one".to_owned()), ("2", "two".to_owned())]
            );
        }
    }

    #[test]
    fn csv_values_stay_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.csv");
        std::fs::write(&path, "\u{feff}id,code,text\n7,007,\"a\nb\"\n8,1e3,\"say \"\"hi\"\"\"\n").unwrap();
        let rows = load(&path, Some("id")).unwrap();
        assert_eq!(rows[0].text("code").unwrap(), "007");
        assert_eq!(rows[0].text("text").unwrap(), "a\nb");
        assert_eq!(rows[1].text("text").unwrap(), "say \"hi\"");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, csv: bool) {
            let rows = if csv { csv_rows("x", &bytes) } else { json_rows("x", &bytes) };
            let _ = rows.map(|rows| instances("x", Some(&bytes), rows, Some("a")));
        }
    }
}
