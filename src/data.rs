//! Files of rows as bytes: unpacked by their endings and never without a bound, line by line, and what in them would be read
//! as something else than it says.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use crate::diagnostic::{Error, Result, bad_utf8, unreadable};

/// A compressed file may unpack to so many bytes where all of them are in memory then.
pub const IN_MEMORY: u64 = 2 << 30;

/// The formats that files of rows have, each by the ending of its name, behind which `.gz` or `.zst` may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON Lines.
    Lines,
    /// CSV with a header.
    Csv,
    /// Parquet.
    Parquet,
}

impl Format {
    /// The format of a file; `None` where its name does not tell it.
    pub fn of(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        match without_packing(&name).rsplit_once('.')? {
            ("", _) => None,
            (_, "jsonl" | "ndjson") => Some(Format::Lines),
            (_, "csv") => Some(Format::Csv),
            (_, "parquet") => Some(Format::Parquet),
            _ => None,
        }
    }

    /// The same of a file that is known by `name`, or the error that says which there are.
    pub fn known(path: &Path, name: &str) -> Result<Format> {
        Format::of(path).ok_or_else(|| {
            Error::usage(format!("{name}: the ending tells the format, and this one is not known"))
                .help("use .jsonl, .csv or .parquet, each also with .gz or .zst behind it")
        })
    }
}

/// A file's name without what says that it is compressed.
pub fn without_packing(name: &str) -> &str {
    name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(name)
}

/// The columns of a CSV file, each with a name of its own; `text` is the line that names them.
pub fn headers<'a>(name: &str, text: &str, columns: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>> {
    let wrong = |what: String| Err(Error::usage(what).at_line(name, 0, text, 0..text.len(), "in this header"));
    let mut headers: Vec<String> = Vec::new();
    for (column, header) in columns.into_iter().enumerate() {
        if header.is_empty() {
            return wrong(format!("column {} has no name", column + 1));
        }
        if headers.iter().any(|known| known == header) {
            return wrong(format!("the column `{header}` is there twice"));
        }
        headers.push(header.to_owned());
    }
    Ok(headers)
}

/// What is said of a CSV file's row that has more or fewer cells than its header.
pub fn unequal(columns: u64, header: u64) -> String {
    format!("this row has {columns} columns where the header has {header}")
}

/// What is wrong with a JSON text, without the place, which is told otherwise.
pub fn json_problem(error: &serde_json::Error) -> String {
    let what = error.to_string();
    what.split(" at line ").next().unwrap_or_default().to_owned()
}

/// The bytes of a file, decompressed where its ending says .gz or .zst: up to `limit` of them, behind which reading fails.
/// [`broken`] makes an error of what fails.
pub fn unpacked(path: &Path, limit: u64) -> Result<Unpacked> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    if file.metadata().is_ok_and(|about| about.is_dir()) {
        return Err(unreadable(path, &ErrorKind::IsADirectory.into()));
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    let packed: Box<dyn Read + Send> = match ending.as_str() {
        "gz" => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        "zst" => Box::new(zstd::Decoder::new(file).map_err(|error| broken(path, &error))?),
        _ => return Ok(Unpacked(Form::Plain(file))),
    };
    Ok(Unpacked(Form::Packed { packed, left: limit, limit }))
}

/// What a file holds, decompressed.
pub struct Unpacked(Form);

enum Form {
    Plain(File),
    Packed { packed: Box<dyn Read + Send>, left: u64, limit: u64 },
}

impl Unpacked {
    /// The file itself, where it is not compressed.
    pub fn plain(self) -> Result<File, Unpacked> {
        match self.0 {
            Form::Plain(file) => Ok(file),
            packed => Err(Unpacked(packed)),
        }
    }
}

impl Read for Unpacked {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (packed, left, limit) = match &mut self.0 {
            Form::Plain(file) => return file.read(bytes),
            Form::Packed { packed, left, limit } => (packed, left, *limit),
        };
        let read = packed.read(bytes)?;
        *left = left.checked_sub(read as u64).ok_or_else(|| {
            let most = if limit < 1 << 30 { format!("{limit} bytes") } else { format!("{} GiB", limit >> 30) };
            io::Error::new(ErrorKind::FileTooLarge, format!("more than {most}"))
        })?;
        Ok(read)
    }
}

/// The error where what [`unpacked`] opened cannot be read.
pub fn broken(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::FileTooLarge => Error::usage(format!("{} unpacks to {error}", path.display()))
            .help("what is so large is read only where it is not compressed"),
        // A decompressor's errors are not the system's.
        ErrorKind::OutOfMemory => unreadable(path, error),
        _ if error.raw_os_error().is_none() => {
            Error::usage(format!("{} cannot be decompressed: {error}", path.display()))
        }
        _ => unreadable(path, error),
    }
}

/// The bytes of a file, decompressed by its ending.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = match unpacked(path, IN_MEMORY)?.plain() {
        // Its size is known beforehand.
        Ok(mut file) => file.read_to_end(&mut bytes),
        Err(mut packed) => packed.read_to_end(&mut bytes),
    };
    read.map_err(|error| broken(path, &error)).map(|_| bytes)
}

/// The lines of a text with their numbers (from 0), without a byte order mark; bad UTF-8 is an error at its place.
pub fn lines<'a>(name: &str, bytes: &'a [u8]) -> Result<impl Iterator<Item = (usize, &'a str)> + use<'a>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| bad_utf8(name, bytes, error.valid_up_to(), 0))?;
    Ok(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate())
}

/// What of a row in JSON would be read as something else than it says, and where: a key that is there twice, of which the
/// last one would count; an integer that no number of 64 bits is. Rows that are no JSON are left to the parser.
pub fn altered(text: &str) -> Option<(Range<usize>, String)> {
    scan(text, usize::MAX, true)
}

/// A column of a row in JSON that is there twice, and where. What stands in the columns is not looked at.
pub fn column_twice(text: &str) -> Option<(Range<usize>, String)> {
    scan(text, 1, false)
}

/// An integer in JSON that no number of 64 bits is, and where.
pub fn too_large(text: &str) -> Option<(Range<usize>, String)> {
    scan(text, 0, true)
}

/// Looks for keys that are there twice, in objects down to a depth, and for integers.
fn scan(text: &str, depth: usize, integers: bool) -> Option<(Range<usize>, String)> {
    let (bytes, mut at) = (text.as_bytes(), 0);
    // The objects and lists that are open, each with its number.
    let (mut open, mut opened): (Vec<usize>, usize) = (Vec::new(), 0);
    let mut keys: HashSet<(usize, &[u8])> = HashSet::new();
    while at < bytes.len() {
        let begin = at;
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(bytes.len());
                let key = (1..=depth).contains(&open.len()) && bytes[at..].trim_ascii_start().first() == Some(&b':');
                if key && !keys.insert((open.last().copied().unwrap_or(0), &bytes[begin..at])) {
                    let name = String::from_utf8_lossy(&bytes[begin + 1..at - 1]).into_owned();
                    let what = if open.len() == 1 { "column" } else { "key" };
                    return Some((begin..at, format!("the {what} `{name}` is there twice")));
                }
            }
            b'-' | b'0'..=b'9' => {
                while at < bytes.len() && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') {
                    at += 1;
                }
                let number = String::from_utf8_lossy(&bytes[begin..at]);
                let whole = number.trim_start_matches('-').bytes().all(|digit| digit.is_ascii_digit());
                let small = || number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
                if integers && whole && number.len() > 18 && !small() {
                    let what = format!("the integer {number} does not fit 64 bits; write it as a text");
                    return Some((begin..at, what));
                }
            }
            byte => {
                match byte {
                    b'{' | b'[' => {
                        opened += 1;
                        open.push(opened);
                    }
                    b'}' | b']' => drop(open.pop()),
                    _ => {}
                }
                at += 1;
            }
        }
    }
    None
}

/// Goes along a CSV file's bytes, piece by piece, and knows at the end whether a quote was never closed: all rows behind it
/// would be one cell.
#[derive(Default)]
pub struct Quotes {
    state: Quoting,
    line: usize,
    line_start: u64,
    at: u64,
    opened: (usize, u64, u64),
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Quoting {
    /// A cell begins.
    #[default]
    Start,
    Plain,
    Quoted,
    /// The quote was closed, or is a doubled one.
    Closed,
}

impl Quotes {
    /// Reads on.
    pub fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state = match (self.state, byte) {
                (Quoting::Start, b'"') => {
                    self.opened = (self.line, self.line_start, self.at - self.line_start);
                    Quoting::Quoted
                }
                (Quoting::Quoted, b'"') => Quoting::Closed,
                (Quoting::Closed, b'"') | (Quoting::Quoted, _) => Quoting::Quoted,
                (_, b',' | b'\n' | b'\r') => Quoting::Start,
                _ => Quoting::Plain,
            };
            self.at += 1;
            if *byte == b'\n' {
                (self.line, self.line_start) = (self.line + 1, self.at);
            }
        }
    }

    /// The line of a quote that was never closed (from 0), where that line begins, and the quote's place in it.
    pub fn unclosed(&self) -> Option<(usize, u64, usize)> {
        let (line, start, column) = self.opened;
        (self.state == Quoting::Quoted).then_some((line, start, usize::try_from(column).unwrap_or(0)))
    }
}

/// The error for a quote that was never closed, in a line of that text.
pub fn unclosed_quote(name: &str, line: usize, text: &str, column: usize) -> Error {
    Error::usage("this quote is never closed: every row behind it would be part of this cell")
        .at_line(name, line, text, column..column + 1, "opened here")
        .help("close it; a quote within a quoted cell is doubled: \"\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_compressed_file_is_unpacked_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let text = vec![b'x'; 100_000];
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&text).unwrap();
        for (name, packed) in [("a.GZ", gz.finish().unwrap()), ("a.zst", zstd::encode_all(&text[..], 1).unwrap())] {
            let path = folder.path().join(name);
            std::fs::write(&path, &packed).unwrap();
            let read = |limit: u64| -> Result<Vec<u8>> {
                let mut bytes = Vec::new();
                unpacked(&path, limit)?.read_to_end(&mut bytes).map_err(|error| broken(&path, &error))?;
                Ok(bytes)
            };
            assert_eq!(read(100_000).unwrap(), text);
            assert!(read(99_999).unwrap_err().message().ends_with(&format!("{name} unpacks to more than 99999 bytes")));
            std::fs::write(&path, &packed[..packed.len() / 2]).unwrap();
            assert!(read(100_000).unwrap_err().message().contains("cannot be decompressed"));
        }
        let plain = folder.path().join("a.jsonl");
        std::fs::write(&plain, &text).unwrap();
        let mut bytes = Vec::new();
        unpacked(&plain, 5).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, text, "a plain file has no bound");
        assert!(unpacked(folder.path(), 5).err().unwrap().message().contains("is a folder"));
    }

    #[test]
    fn the_ending_tells_the_format() {
        let of = |name: &str| Format::of(Path::new(name));
        assert_eq!(["a.jsonl", "a.JSONL.zst", "b/a.ndjson"].map(of), [Some(Format::Lines); 3]);
        assert_eq!((of("a.b.csv.gz"), of("a.parquet")), (Some(Format::Csv), Some(Format::Parquet)));
        // Only what is packed once is unpacked.
        assert_eq!(["a.txt", ".jsonl", "jsonl", "a.gz", "a.csv.gz.gz"].map(of), [None; 5]);
    }

    #[test]
    fn keys_are_told_apart_by_their_objects() {
        let place = |text: &str| altered(text).map(|(at, what)| (at.start, what));
        assert_eq!(place(r#"{"a": {"b": 1}, "b": [{"c": 1}, {"c": "a\"a"}], "c": 18446744073709551615}"#), None);
        let twice = r#"{"a": [{"b": 1, "c": {"b": 2}, "b": 3}]}"#;
        assert_eq!(place(twice), Some((31, "the key `b` is there twice".into())));
        assert_eq!((column_twice(twice), too_large(twice)), (None, None));
        let large = r#"{"a": {"b": -9223372036854775809}}"#;
        assert_eq!(place(large).unwrap().0, 12);
        assert_eq!((column_twice(large), too_large(large)), (None, altered(large)));
    }
}
