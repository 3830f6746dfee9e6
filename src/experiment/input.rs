//! The rows of an experiment's file: gone through once, then read one by one where they stand, so that they are never all
//! in memory.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::fields::{Fields, Row};
use super::row::Fault;
use crate::data::{self, Format, Quotes, column_twice, unclosed_quote};
use crate::diagnostic::{Error, Result};
use crate::files::{Output, cannot_write, unnamed};

/// What the file is made of.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Lines,
    Csv(Vec<String>),
}

/// A compressed file may unpack to so many bytes on the disk.
const UNPACKED: u64 = 64 << 30;

/// Where a row stands in the plain file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    offset: u64,
    length: u32,
    /// The line that it begins on, from 1.
    pub line: u32,
}

/// A file of rows.
pub struct Input {
    name: String,
    form: Form,
    /// The file, or a plain copy of a compressed one.
    file: Mutex<File>,
}

/// A file's name without what tells its format.
pub fn stem(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let bare = data::without_packing(&name);
    bare.rsplit_once('.').map_or(bare, |(stem, _)| stem).to_owned()
}

fn broken(name: &str, error: &std::io::Error) -> Error {
    Error::usage(format!("cannot read {name}: {error}"))
}

impl Input {
    /// Opens a file that is known by `name`. A compressed one is unpacked in `folder`, to a file without a name.
    pub fn open(path: &Path, name: &str, folder: &Path) -> Result<Input> {
        let format = Format::known(path, name)?;
        let unpacked: Result<File, Box<dyn Read>> = match format {
            Format::Parquet => Err(Box::new(std::io::Cursor::new(parquet_lines(path)?))),
            _ => data::unpacked(path, UNPACKED)?.plain().map_err(|packed| -> Box<dyn Read> { Box::new(packed) }),
        };
        let mut file = match unpacked {
            Ok(file) => file,
            Err(mut unpacked) => {
                let mut plain = unnamed(folder)?;
                std::io::copy(&mut unpacked, &mut plain).map_err(|error| data::broken(Path::new(name), &error))?;
                plain
            }
        };
        let form = match format {
            Format::Csv => {
                quotes(name, &mut file)?;
                Form::Csv(headers(name, &mut file)?)
            }
            _ => Form::Lines,
        };
        Ok(Input { name: name.to_owned(), form, file: Mutex::new(file) })
    }

    /// The name that it is known by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Goes through all rows, each with its place; one that cannot be read is a fault.
    pub fn each(&self, mut row: impl FnMut(Place, Result<Row, Fault>) -> Result<()>) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let start = start(&self.name, &mut file)?;
        let mut reader = BufReader::with_capacity(1 << 16, &mut *file);
        match &self.form {
            Form::Lines => {
                let (mut offset, mut line, mut bytes) = (start, 0_u32, Vec::new());
                loop {
                    bytes.clear();
                    let read = reader.read_until(b'\n', &mut bytes).map_err(|error| broken(&self.name, &error))?;
                    if read == 0 {
                        return Ok(());
                    }
                    line += 1;
                    let place = self.place(offset, read as u64, line)?;
                    offset += read as u64;
                    if !bytes.trim_ascii().is_empty() {
                        row(place, json_row(&bytes))?;
                    }
                }
            }
            Form::Csv(headers) => {
                let mut csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader);
                let mut record = csv::ByteRecord::new();
                // Where lines end in two characters, a row is said to begin at the second one of the line before.
                let (mut first, mut late) = (true, 0);
                loop {
                    let more = csv.read_byte_record(&mut record);
                    let more = more.map_err(|error| Error::usage(format!("{} cannot be read: {error}", self.name)))?;
                    if !more {
                        return Ok(());
                    }
                    let from = record.position().map_or(0, csv::Position::byte);
                    let line = record.position().map_or(1, csv::Position::line);
                    if std::mem::take(&mut first) {
                        late = u64::from(csv.position().line() == line);
                        continue;
                    }
                    let place = self.place(
                        start + from,
                        csv.position().byte() - from,
                        u32::try_from(line + late).unwrap_or(u32::MAX),
                    )?;
                    row(place, cells(headers, &record))?;
                }
            }
        }
    }

    fn place(&self, offset: u64, length: u64, line: u32) -> Result<Place> {
        match u32::try_from(length) {
            Ok(length) => Ok(Place { offset, length, line }),
            Err(_) => Err(Error::usage(format!("{}:{line}: this row is longer than 4 GiB", self.name))),
        }
    }

    fn bytes(&self, place: Place) -> Result<Vec<u8>> {
        let mut bytes = vec![0; place.length as usize];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(place.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| broken(&self.name, &error))?;
        Ok(bytes)
    }

    /// The line that a row begins on, as it stands in the file.
    pub fn first_line(&self, place: Place) -> Result<String> {
        let bytes = self.bytes(place)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_start_matches(['\r', '\n']).lines().next().unwrap_or_default().to_owned())
    }

    /// Reads one row again.
    pub fn read(&self, place: Place) -> Result<Result<Row, Fault>> {
        let bytes = self.bytes(place)?;
        Ok(match &self.form {
            Form::Lines => json_row(&bytes),
            Form::Csv(headers) => {
                let mut csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes.as_slice());
                let mut record = csv::ByteRecord::new();
                match csv.read_byte_record(&mut record) {
                    Ok(true) => cells(headers, &record),
                    _ => Err(Fault::new("this row cannot be read again: the file was changed meanwhile")),
                }
            }
        })
    }
}

/// Goes to the first byte behind a byte order mark, and says where that is.
fn start(name: &str, file: &mut File) -> Result<u64> {
    let mut mark = [0; 3];
    let mut begin = |file: &mut File| {
        file.seek(SeekFrom::Start(0))?;
        let read = file.read(&mut mark)?;
        let start = if read == 3 && mark == *b"\xef\xbb\xbf" { 3 } else { 0 };
        file.seek(SeekFrom::Start(start))
    };
    begin(file).map_err(|error| broken(name, &error))
}

/// A line as a row. What is no row keeps its text.
fn json_row(bytes: &[u8]) -> Result<Row, Fault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Fault::new(format!("this row is not UTF-8 from byte {} on", error.valid_up_to() + 1)))?;
    let text = text.trim();
    if let Some((at, what)) = column_twice(text) {
        return Err(Fault::new(format!("{what} (column {})", at.start + 1)));
    }
    match serde_json::from_str::<Fields>(text) {
        Ok(fields) => Ok(Row { text: text.to_owned(), fields }),
        Err(error) if error.is_data() => Err(Fault::new("this row is not a JSON object")),
        Err(error) => {
            let what = data::json_problem(&error);
            Err(Fault::new(format!("this row is not valid JSON: {what} (column {})", error.column())))
        }
    }
}

fn cells(headers: &[String], record: &csv::ByteRecord) -> Result<Row, Fault> {
    if record.len() != headers.len() {
        return Err(Fault::new(data::unequal(record.len() as u64, headers.len() as u64)));
    }
    let cell = |(name, cell): (&String, &[u8])| match std::str::from_utf8(cell) {
        Ok(text) => Ok((name.clone(), Value::from(text))),
        Err(_) => Err(Fault::new(format!("the cell `{name}` is not UTF-8"))),
    };
    Ok(Row::new(Fields(headers.iter().zip(record).map(cell).collect::<Result<_, _>>()?)))
}

/// A quote that is never closed would make one cell of all rows behind it.
fn quotes(name: &str, file: &mut File) -> Result<()> {
    let first = start(name, file)?;
    let (mut quotes, mut bytes) = (Quotes::default(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut bytes).map_err(|error| broken(name, &error))? {
            0 => break,
            read => quotes.read(&bytes[..read]),
        }
    }
    let Some((line, begin, column)) = quotes.unclosed() else { return Ok(()) };
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(first + begin))
        .and_then(|_| BufReader::new(file.take(column as u64 + 200)).read_until(b'\n', &mut text))
        .map_err(|error| broken(name, &error))?;
    Err(unclosed_quote(name, line, String::from_utf8_lossy(&text).trim_end(), column))
}

fn headers(name: &str, file: &mut File) -> Result<Vec<String>> {
    start(name, file)?;
    let mut csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(BufReader::new(file));
    let mut record = csv::StringRecord::new();
    let read = csv
        .read_record(&mut record)
        .map_err(|error| Error::usage(format!("the header of {name} cannot be read: {error}")))?;
    if !read {
        return Err(Error::usage(format!("{name} holds no rows")));
    }
    let shown = record.iter().collect::<Vec<_>>().join(",");
    data::headers(name, &shown, &record)
}

/// The rows of a Parquet file as lines.
#[cfg(feature = "parquet")]
fn parquet_lines(path: &Path) -> Result<Vec<u8>> {
    let bytes = data::read_file(path)?;
    let rows = crate::task::parquet::rows(bytes)
        .map_err(|problem| Error::usage(format!("{} cannot be read as Parquet: {problem}", path.display())))?;
    let mut lines = Vec::new();
    for row in rows {
        lines.extend_from_slice(Fields::from(row).json().as_bytes());
        lines.push(b'\n');
    }
    Ok(lines)
}

#[cfg(not(feature = "parquet"))]
fn parquet_lines(path: &Path) -> Result<Vec<u8>> {
    Err(Error::usage(format!("{}: this farthing was built without Parquet", path.display())))
}

/// Rows as lines of a new file, for experiments that are made and not given. It appears when all are written.
pub struct Lines {
    file: BufWriter<File>,
    output: Output,
    path: PathBuf,
}

impl Lines {
    /// A new file.
    pub fn create(path: &Path) -> Result<Lines> {
        let (output, file) = Output::create(path)?;
        Ok(Lines { file: BufWriter::new(file), output, path: path.to_owned() })
    }

    /// One more row.
    pub fn add(&mut self, fields: &Fields) -> Result<()> {
        writeln!(self.file, "{}", fields.json()).map_err(|error| cannot_write(&self.path, &error))
    }

    /// All of it is written.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|error| cannot_write(&self.path, &error))?;
        self.output.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, bytes: &[u8]) -> Vec<(u32, Result<String, String>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let input = Input::open(&path, name, folder.path()).unwrap();
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        let text = |row: Result<Row, Fault>| row.map(|row| row.text).map_err(|fault| fault.message);
        input
            .each(|place, row| {
                rows.push((place.line, text(row)));
                places.push(place);
                Ok(())
            })
            .unwrap();
        for (place, (_, first)) in places.iter().zip(&rows).rev() {
            assert_eq!(text(input.read(*place).unwrap()), *first, "read again at its place");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing stands beside it");
        rows
    }

    #[test]
    fn rows_are_found_again_at_their_places() {
        let lines = b"\xef\xbb\xbf{\"a\": \"\xc3\xbc\"}\r\n\n  \n[1]\n{\"a\": 2,}\n{\"a\":\"\xff\"}\n{\"b\":3}";
        let read = rows("x.jsonl", lines);
        assert_eq!(read[0], (1, Ok("{\"a\": \"ü\"}".to_owned())));
        assert_eq!(read[1], (4, Err("this row is not a JSON object".into())));
        assert_eq!(read[2], (5, Err("this row is not valid JSON: trailing comma (column 9)".into())));
        assert_eq!(read[3], (6, Err("this row is not UTF-8 from byte 7 on".into())));
        assert_eq!(read[4], (7, Ok("{\"b\":3}".to_owned())));
        let csv = b"\xef\xbb\xbfid,prompt\r\n1,\"two\nlines, \"\"quoted\"\"\"\r\n2\r\n\r\n3,\xc3\xbc";
        let read = rows("x.csv", csv);
        assert_eq!(read[0], (2, Ok(r#"{"id":"1","prompt":"two\nlines, \"quoted\""}"#.to_owned())));
        assert_eq!(read[1], (4, Err("this row has 1 columns where the header has 2".into())));
        assert_eq!(read[2].1, Ok(r#"{"id":"3","prompt":"ü"}"#.to_owned()));
    }

    #[test]
    fn compressed_files_are_unpacked() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"{\"a\":1}\n{\"a\":2}\n").unwrap();
        assert_eq!(rows("x.jsonl.gz", &packed.finish().unwrap()).len(), 2);
        let packed = zstd::encode_all(&b"a,b\n1,2\n"[..], 1).unwrap();
        assert_eq!(rows("x.csv.zst", &packed), [(2, Ok(r#"{"a":"1","b":"2"}"#.to_owned()))]);
    }

    #[test]
    fn what_would_be_read_as_something_else_is_refused() {
        let read =
            rows("x.jsonl", b"{\"a\": 1, \"b\": {\"a\": 2}}\n{\"a\": 1, \"a\": 2}\n{\"a\": [ 123456789012345678901]}");
        assert_eq!(read[0].1, Ok("{\"a\": 1, \"b\": {\"a\": 2}}".to_owned()));
        assert_eq!(read[1], (2, Err("the column `a` is there twice (column 10)".into())));
        assert_eq!(read[2].1, Ok("{\"a\": [ 123456789012345678901]}".to_owned()), "what nobody reads may be anything");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        std::fs::write(&path, "\u{feff}id,prompt\na,\"b \"\"c\"\"\"\nd,\"e\nf,g\n").unwrap();
        let error = Input::open(&path, "x.csv", folder.path()).err().unwrap();
        assert_eq!(error.location().as_deref(), Some("x.csv:3:3"), "{error}");
    }

    #[test]
    fn the_name_of_a_file_names_its_experiment() {
        assert_eq!(stem(Path::new("x/a.b.jsonl.gz")), "a.b");
    }
}
