//! Errors as people see them: what is wrong, where, and what to do; each with the exit code it ends the program with.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an [`Error`] is. It decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ours (exit code 1).
    Internal,
    /// The command line's or a file's (exit code 2); nothing was spent.
    Usage,
    /// The budget ended before anything could be judged (exit code 3).
    Budget,
    /// A gate that the user set was not passed (exit code 4).
    Gate,
    /// The endpoint could not be used: bad key, unknown model, no connection (exit code 5).
    Endpoint,
    /// The user stopped the program (exit code 130).
    Interrupted,
}

impl Fault {
    /// The exit code of the program.
    pub fn exit_code(self) -> u8 {
        match self {
            Fault::Internal => 1,
            Fault::Usage => 2,
            Fault::Budget => 3,
            Fault::Gate => 4,
            Fault::Endpoint => 5,
            Fault::Interrupted => 130,
        }
    }
}

/// A text that was read, with the name it is known by: what spans point into.
#[derive(Clone, Debug)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

impl Source {
    /// A text under a name, usually a file's path.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Source {
        Source { name: name.into(), text: text.into() }
    }

    /// Reads a UTF-8 file; a missing, unreadable or badly encoded one is a usage error that says where.
    pub fn read(path: &Path) -> Result<Source> {
        let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Source::new(path.display().to_string(), text)),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let bytes = error.into_bytes();
                Err(bad_utf8(&path.display().to_string(), &bytes, good, 0))
            }
        }
    }

    /// The name, as shown to the user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The usage error for a file that the system would not let us read.
pub fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let message = match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no file {}", path.display()),
        std::io::ErrorKind::IsADirectory => format!("{} is a folder, not a file", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    };
    let near = (error.kind() == std::io::ErrorKind::NotFound).then(|| similar(path)).flatten();
    Error::usage(message).help_if(near.map(|near| format!("did you mean {}?", near.display())))
}

/// Something beside a path that is not there whose name is nearly that.
pub fn similar(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = std::fs::read_dir(parent.unwrap_or(Path::new("."))).ok()?;
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    // Endings are no likeness: another kind of file is meant only where the rest of its name is right.
    let (stem, ending) = split(name);
    let same = names.iter().find(|other| split(other).0 == stem && *other != name);
    let alike = || {
        let stems = names.iter().map(|other| split(other)).filter(|(_, other)| *other == ending);
        let near = nearest(stem, stems.map(|(other, _)| other))?;
        names.iter().find(|other| split(other) == (near, ending))
    };
    let near = same.or_else(alike)?;
    Some(parent.map_or_else(|| PathBuf::from(near), |parent| parent.join(near)))
}

/// A file's name without its ending, and the ending.
fn split(name: &str) -> (&str, &str) {
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => (stem, ending),
        _ => (name, ""),
    }
}

/// The usage error for bytes that are not UTF-8 from offset `good` on; `bytes` begin at line `first_line` (from 0).
pub fn bad_utf8(name: &str, bytes: &[u8], good: usize, first_line: usize) -> Error {
    let start = bytes[..good].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let end = bytes[good..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |at| good + at);
    let line = first_line + bytes[..good].iter().filter(|&&b| b == b'\n').count();
    let shown = String::from_utf8_lossy(&bytes[start..end]).into_owned();
    let column = good - start;
    Error::usage(format!("{name} is not UTF-8: byte 0x{:02x}", bytes[good]))
        .at_line(name, line, &shown, column..column + '\u{fffd}'.len_utf8(), "this byte")
        .help("save the file as UTF-8")
}

/// The place an error points at: some whole lines of a text, and a span in them.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    lines: String,
    first_line: usize,
    /// Characters of the line before what is held of it.
    skipped: usize,
    span: Range<usize>,
    label: String,
}

/// A control character other than those that only move text: what a data file or a server puts into a message must not
/// speak to the terminal.
fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// A text without control characters: they are written as in source code.
pub fn harmless(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(is_control) {
        return text.into();
    }
    let shown = |c: char| if is_control(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect::<String>().into()
}

/// The same text with marks of the same length in their place, so that what points into it still does.
fn without_controls(text: &str) -> String {
    let mark = |c: char| match c {
        _ if !is_control(c) => c,
        _ if c.is_ascii() => '?',
        _ => '·',
    };
    text.chars().map(mark).collect()
}

impl Place {
    /// A span of a line, with as much of the line as people can read: a line of a data file may be megabytes long.
    fn of(name: String, line: usize, text: &str, span: Range<usize>, label: String) -> Place {
        let text = text.trim_end_matches(['\n', '\r']);
        let floor = |at: usize| (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let (from, to) = (floor(span.start), floor(span.end.max(span.start)));
        let to = to.min(floor(from + CONTEXT)).max(from);
        let (start, end) = (floor(from.saturating_sub(CONTEXT)), floor(to + CONTEXT));
        // A few characters more are no longer than the mark in their place.
        let start = if start < MARK.len() * 4 { 0 } else { start };
        let (before, after) = (if start > 0 { MARK } else { "" }, if end < text.len() { MARK } else { "" });
        let moved = |at: usize| at - start + before.len();
        Place {
            name: harmless(&name).into_owned(),
            lines: format!("{before}{}{after}", without_controls(&text[start..end])),
            first_line: line,
            skipped: text[..start].chars().count().saturating_sub(before.chars().count()),
            span: moved(from)..moved(to),
            label: harmless(&label).into_owned(),
        }
    }
}

/// What is wrong, where (file, line, column, the offending text), and what to do about it.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    fault: Fault,
    message: String,
    help: Option<String>,
    place: Option<Place>,
}

/// Longest stretch of one line that is shown, in bytes on either side of what is wrong.
const CONTEXT: usize = 120;

/// Stands where something was left out.
const MARK: &str = "…";

/// Longest text that a message holds, in characters: endpoints and files put whole documents into theirs.
const LONGEST: usize = 1200;

/// A text of at most `most` characters: the middle of a longer one is left out.
pub fn shortened(text: &str, most: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= most || text.chars().count() <= most {
        return text.into();
    }
    let kept = most.saturating_sub(1);
    let (first, last) = (kept - kept / 3, kept / 3);
    let head: String = text.chars().take(first).collect();
    let mut tail: Vec<char> = text.chars().rev().take(last).collect();
    tail.reverse();
    format!("{}{MARK}{}", head.trim_end(), tail.into_iter().collect::<String>().trim_start()).into()
}

impl Error {
    /// An error of the given kind. The message is a sentence without a full stop.
    pub fn new(fault: Fault, message: impl Into<String>) -> Error {
        let message = message.into();
        let message = match shortened(&message, LONGEST) {
            std::borrow::Cow::Owned(short) => short,
            std::borrow::Cow::Borrowed(_) => message,
        };
        let message = match harmless(&message) {
            std::borrow::Cow::Owned(escaped) => escaped,
            std::borrow::Cow::Borrowed(_) => message,
        };
        Error(Box::new(Inner { fault, message, help: None, place: None }))
    }

    /// What the user typed or wrote is wrong.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Fault::Usage, message)
    }

    /// An endpoint cannot be used.
    pub fn endpoint(message: impl Into<String>) -> Error {
        Error::new(Fault::Endpoint, message)
    }

    /// Something that should not happen.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Fault::Internal, message)
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.0.help = Some(harmless(&help.into()).into_owned());
        self
    }

    /// Says what to do, where there is something to say.
    #[must_use]
    pub fn help_if(mut self, help: Option<String>) -> Error {
        self.0.help = help.map(|help| harmless(&help).into_owned()).or(self.0.help);
        self
    }

    /// Points at a span of bytes in a text.
    #[must_use]
    pub fn at(mut self, source: &Source, span: Range<usize>, label: impl Into<String>) -> Error {
        let text = source.text();
        let floor = |at: usize| (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let (from, to) = (floor(span.start), floor(span.end.max(span.start)));
        let start = text[..from].rfind('\n').map_or(0, |at| at + 1);
        let end = text[from..].find('\n').map_or(text.len(), |at| from + at);
        let line = text[..start].matches('\n').count();
        self.0.place = Some(Place::of(
            source.name().to_owned(),
            line,
            &text[start..end],
            from - start..to.max(from) - start,
            label.into(),
        ));
        self
    }

    /// The same words at a place in what the user wrote, as a usage error: what came of it was found out elsewhere.
    #[must_use]
    pub fn moved(&self, source: &Source, span: Range<usize>, label: impl Into<String>) -> Error {
        Error::usage(self.message()).help_if(self.advice().map(str::to_owned)).at(source, span, label)
    }

    /// Points at a span of bytes in one line (`line` counted from 0) of a text that is not held whole, like a data file's.
    #[must_use]
    pub fn at_line(
        mut self,
        name: impl Into<String>,
        line: usize,
        text: &str,
        span: Range<usize>,
        label: impl Into<String>,
    ) -> Error {
        self.0.place = Some(Place::of(name.into(), line, text, span, label.into()));
        self
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do, if that was said.
    pub fn advice(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// `file:line:column` (from 1), if the error points at a place.
    pub fn location(&self) -> Option<String> {
        let place = self.0.place.as_ref()?;
        let before = &place.lines[..place.span.start.min(place.lines.len())];
        Some(format!("{}:{}:{}", place.name, place.first_line + 1, place.skipped + before.chars().count() + 1))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl miette::Diagnostic for Error {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.place.as_ref().map(|place| place as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.0.place.as_ref()?;
        let label = LabeledSpan::new(Some(place.label.clone()), place.span.start, place.span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

impl SourceCode for Place {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> std::result::Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        if span.offset() + span.len() > self.lines.len() {
            return Err(MietteError::OutOfBounds);
        }
        // Asked without context, miette wants the place itself, for the header; else the whole line, to show it.
        let start = if before == 0 && after == 0 { span.offset() } else { 0 };
        let column = self.skipped + self.lines.get(..start).map_or(0, |text| text.chars().count());
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            &self.lines.as_bytes()[start..],
            SourceSpan::from((start, self.lines.len() - start)),
            self.first_line,
            column,
            1,
        )))
    }
}

/// The known word nearest to what was typed, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| {
            (strsim::normalized_damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase()), candidate)
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// ``did you mean `x`?`` or, where nothing is near, the list of what there is.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there {}", listing(known)),
    }
}

fn listing<'a>(known: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "are none".to_owned(),
        1 => format!("is {}", names[0]),
        n if n > 24 => format!("are {} and {} more", names[..24].join(", "), n - 24),
        _ => format!("are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_an_error_speaks_to_the_terminal() {
        let row = "{\"id\": \"\u{1b}]0;x\u{7}\u{9b}2J\" x}";
        let error = Error::usage("no \u{1b}[31mx\n\there").help("\r").at_line("a\u{1b}b", 0, row, 18..19, "\u{7f}");
        assert_eq!((error.message(), error.advice()), ("no \\u{1b}[31mx\n\there", Some("\\r")));
        assert_eq!(error.location().as_deref(), Some("a\\u{1b}b:1:18"));
        let mut shown = String::new();
        let theme = miette::GraphicalTheme::unicode_nocolor();
        miette::GraphicalReportHandler::new_themed(theme).render_report(&mut shown, &error).unwrap();
        assert!(shown.contains("{\"id\": \"?]0;x?·2J\" x}"), "{shown}");
        assert!(!shown.contains(|c: char| is_control(c)), "{shown:?}");
    }

    #[test]
    fn an_error_knows_its_place() {
        let source = Source::new("task.toml", "[task]\nnmae = 1\n");
        let error = Error::usage("unknown key `nmae`").at(&source, 7..11, "here");
        assert_eq!(error.location().unwrap(), "task.toml:2:1");
        let error = Error::usage("x").at(&source, 500..600, "past the end");
        assert_eq!(error.location().unwrap(), "task.toml:3:1");
    }

    #[test]
    fn a_place_in_a_data_file_keeps_its_line_number() {
        let error = Error::usage("x").at_line("tune.jsonl", 16, "{\"a\": 1, \"ü\": }", 14..15, "here");
        assert_eq!(error.location().unwrap(), "tune.jsonl:17:14");
        let shown = format!("{:?}", miette::Report::new(error));
        assert!(shown.contains("tune.jsonl:17:14"), "{shown}");
    }

    #[test]
    fn of_a_long_line_only_what_is_near_is_shown() {
        let long = format!("key = \"{}\" oops {}", "ä".repeat(30_000), "b".repeat(30_000));
        let at = long.find("oops").unwrap();
        for error in [
            Error::usage("x").at(&Source::new("a.toml", format!("[a]\n{long}\n")), 4 + at..4 + at + 4, "here"),
            Error::usage("x").at_line("a.toml", 1, &long, at..at + 4, "here"),
        ] {
            assert_eq!(error.location().unwrap(), format!("a.toml:2:{}", 7 + 30_000 + 2 + 1));
            let shown = format!("{:?}", miette::Report::new(error));
            assert!(shown.len() < 3000 && shown.contains("oops") && shown.contains("a.toml:2:30010"), "{shown}");
        }
        // What is marked may be the long thing itself.
        let error = Error::usage("x").at(&Source::new("a.toml", long.clone()), 6..at - 1, "here");
        assert!(format!("{:?}", miette::Report::new(error)).len() < 3000);
        let error = Error::usage(format!("`{long}` is nothing"));
        assert!(error.message().len() < 3000 && error.message().ends_with("is nothing"), "{error}");
        assert_eq!(shortened("abcdefghij", 7), "abcd…ij");
        assert_eq!(shortened("abcdefg", 7), "abcdefg");
    }

    #[test]
    fn near_words_are_suggested() {
        assert_eq!(nearest("temprature", ["top_p", "temperature"]), Some("temperature"));
        assert_eq!(nearest("zzz", ["top_p", "temperature"]), None);
        assert_eq!(suggestion("zzz", ["a", "b"]), "there are `a`, `b`");
    }

    #[test]
    fn files_are_alike_by_their_names_not_by_their_endings() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for name in ["farthing.toml", "empty.jsonl", "tune.csv", "tasks"] {
            std::fs::write(at(name), "").unwrap();
        }
        let found = |name: &str| similar(&at(name)).map(|path| path.strip_prefix(home.path()).unwrap().to_owned());
        assert_eq!(found("nothing.jsonl"), None);
        assert_eq!(found("tune.jsonl"), Some("tune.csv".into()));
        assert_eq!(found("emty.jsonl"), Some("empty.jsonl".into()));
        assert_eq!(found("task"), Some("tasks".into()));
    }
}
