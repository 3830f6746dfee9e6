//! An experiment's folder: what it is (`experiment.toml`), its input as it was, the rows that are done, and a log.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chain::Declared;
use super::groups::MaxQueries;
use super::input;
use super::scale::Scale;
use crate::diagnostic::{Error, Result, Source, unreadable};
use crate::files::{cannot_write, fresh_name, replace};
use crate::money::Usd;
use crate::provider::Message;
use crate::store::Cache;
use crate::study::folder::{LOCK, RunFolder};

/// What decides what is asked, and what is done with the answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The model of rows that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A template over each row: its prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The same as messages, each with a template: a tuned configuration's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// What their templates know beside the row's columns.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Value>,
    /// Attempts that a row has; 0 is the default of 3.
    pub max_attempts: u32,
    /// Groups run one after the other.
    pub sequential: bool,
    /// A row that is wrong ends it before anything is sent.
    pub strict: bool,
    /// Rows that ask the same get an answer each.
    pub distinct: bool,
    /// Takes the score out of a judge's reply: group 1, or the whole match, of the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extract: Option<String>,
    /// Parameters of rows that do not set them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// Queries a minute.
    pub max_queries: MaxQueries,
    /// How a judge's replies are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Metrics, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Declared>,
}

impl Settings {
    /// What of it decides what is asked and how it is judged; the rest is how fast, and may change on the way.
    pub fn asked(&self) -> Settings {
        let free = Settings::default();
        Settings {
            max_attempts: free.max_attempts,
            sequential: free.sequential,
            strict: free.strict,
            max_queries: free.max_queries,
            ..self.clone()
        }
    }

    /// Attempts that a row has.
    pub fn attempts(&self) -> u32 {
        if self.max_attempts == 0 { 3 } else { self.max_attempts }
    }
}

/// `experiment.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentFile {
    /// The program's version.
    pub farthing: String,
    /// Its name in the ledger.
    pub experiment: String,
    /// Its name for people.
    pub name: String,
    /// Where the input came from.
    pub input: PathBuf,
    /// The input's copy in the folder.
    pub input_file: String,
    /// The hash of its bytes.
    pub input_hash: String,
    /// Where responses and the ledger are.
    pub store: String,
    /// What is done with samples that the store has.
    #[serde(default)]
    pub cache: Cache,
    /// The farthing.toml that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<PathBuf>,
    /// What it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Usd>,
    /// The rest.
    pub settings: Settings,
}

/// The name of that file.
pub const FILE: &str = "experiment.toml";
/// The rows that are done, in the order of their ending.
pub const COMPLETED: &str = "completed.jsonl";
/// What happened, for people.
const LOG: &str = "log.txt";
/// The rows in the order of the input.
pub const RESULTS: &str = "results.jsonl";

/// A path as people know it: from the working folder on, where it is below that.
fn shown(path: &Path) -> String {
    let below = std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    below.as_deref().unwrap_or(path).display().to_string()
}

/// The hash of a file's bytes.
pub fn hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finalize().to_hex()[..32].to_owned()),
            Ok(read) => drop(hasher.update(&piece[..read])),
            Err(error) => return Err(unreadable(path, &error)),
        }
    }
}

/// Reads the `experiment.toml` of a folder.
pub fn load(folder: &Path) -> Result<ExperimentFile> {
    let path = folder.join(FILE);
    if !path.is_file() {
        return Err(Error::usage(format!("{} is no experiment's folder: it holds no {FILE}", folder.display())));
    }
    let source = Source::read(&path)?;
    crate::declaration::read(&source, crate::declaration::parse(&source)?)
}

fn text_of(file: &ExperimentFile) -> Result<String> {
    let text = toml::to_string(file).map_err(|error| Error::internal(format!("{FILE} cannot be written: {error}")))?;
    Ok(format!("# Written by farthing: all that is needed to go on with this experiment.\n{text}"))
}

/// Where a row's last record stands in `completed.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its first byte.
    pub offset: u64,
    /// How many of its bytes do not depend on how the run went.
    pub lasting: u32,
    /// It is asked again when the experiment goes on.
    pub again: bool,
}

/// An experiment's folder that this process works on.
pub struct Folder {
    /// What it is.
    pub file: ExperimentFile,
    folder: RunFolder,
    completed: BufWriter<File>,
    at: u64,
    log: File,
    made: Made,
}

/// What was made for a new folder, so that it can be taken back.
#[derive(Default)]
struct Made {
    /// The folder itself; else it was there, empty.
    folder: bool,
    /// The folders above it that were not there, the innermost first.
    above: Vec<PathBuf>,
}

impl Made {
    /// Removes the folders above that are empty.
    fn take_back_above(&self) {
        self.above.iter().for_each(|path| drop(fs::remove_dir(path)));
    }
}

impl Folder {
    /// Makes a new folder at `out`, which must be free, else the next free `PARENT/NAME-N`. It appears by one rename, with
    /// the input's copy and `experiment.toml` in it.
    pub fn create(out: Option<&Path>, parent: &Path, mut file: ExperimentFile) -> Result<Folder> {
        let base = match out {
            Some(out) => out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
            None => parent,
        };
        if let Some(out) = out {
            crate::study::folder::check_free(out)?;
        }
        if !file.input.is_file() {
            let kind =
                if file.input.is_dir() { std::io::ErrorKind::IsADirectory } else { std::io::ErrorKind::NotFound };
            return Err(unreadable(Path::new(&shown(&file.input)), &kind.into()));
        }
        let draft = base.join(format!(".{}", fresh_name("new")));
        let input = draft.join(&file.input_file);
        let above = base.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let new = Made { folder: out.is_none_or(|out| !out.exists()), above: above.map(Path::to_owned).collect() };
        let made = fs::create_dir_all(base)
            .and_then(|()| fs::create_dir(&draft))
            .and_then(|()| fs::copy(&file.input, &input).map(drop))
            .and_then(|()| File::open(&input)?.sync_all())
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => unreadable(&file.input, &error),
                _ => cannot_write(&draft, &error),
            });
        let appear = |file: &mut ExperimentFile| {
            made?;
            // Of the copy: the input itself may be written to meanwhile.
            file.input_hash = hash(&input)?;
            replace(&draft.join(FILE), text_of(file)?.as_bytes())?;
            if let Some(out) = out {
                // A link to an empty folder stays one.
                let place = out.canonicalize().unwrap_or_else(|_| out.to_owned());
                return fs::rename(&draft, place).map(|()| out.to_owned()).map_err(|error| cannot_write(out, &error));
            }
            for number in 1.. {
                let path = base.join(format!("{}-{number}", file.name));
                if path.exists() {
                    continue;
                }
                match fs::rename(&draft, &path) {
                    Ok(()) => return Ok(path),
                    // Another process was faster with this number.
                    Err(_) if path.exists() => {}
                    Err(error) => return Err(cannot_write(&path, &error)),
                }
            }
            Err(Error::internal("there is no free name for the experiment's folder"))
        };
        let path = appear(&mut file).inspect_err(|_| {
            drop(fs::remove_dir_all(&draft));
            new.take_back_above();
        })?;
        // The ledger knows the experiment by the name in this folder: both must survive a power cut.
        if let Ok(folder) = File::open(base) {
            drop(folder.sync_all());
        }
        Folder::open(&path).map(|(folder, _)| Folder { made: new, ..folder })
    }

    /// Takes back what [`create`](Self::create) made, and nothing that was there before.
    pub fn take_back(self) {
        let (path, input, made) = (self.path().to_owned(), self.input(), self.made);
        drop(self.folder);
        match made.folder {
            true => drop(fs::remove_dir_all(&path)),
            false => {
                let ours = [FILE, COMPLETED, LOG, LOCK].map(|name| path.join(name));
                ours.iter().chain([&input]).for_each(|file| drop(fs::remove_file(file)));
            }
        }
        made.take_back_above();
    }

    /// Opens a folder that is there, with the rows that are done: a row's last record counts, half a record at the end is
    /// cut off.
    pub fn open(path: &Path) -> Result<(Folder, BTreeMap<u32, Record>)> {
        let file = load(path)?;
        let folder = RunFolder::open(path)?;
        let completed_path = path.join(COMPLETED);
        let open = |path: &Path| {
            File::options().create(true).append(true).read(true).open(path).map_err(|error| cannot_write(path, &error))
        };
        let completed = open(&completed_path)?;
        let mut records = BTreeMap::new();
        let mut reader = BufReader::with_capacity(1 << 16, &completed);
        let (mut at, mut line) = (0_u64, Vec::new());
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(|error| unreadable(&completed_path, &error))?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            let Some((row, record)) = record(&line, at) else {
                return Err(Error::usage(format!(
                    "{} was changed: it holds a line that is no record",
                    completed_path.display()
                ))
                .help("give another --out"));
            };
            records.insert(row, record);
            at += read as u64;
        }
        completed.set_len(at).map_err(|error| cannot_write(&completed_path, &error))?;
        let log = open(&path.join(LOG))?;
        Ok((Folder { file, folder, completed: BufWriter::new(completed), at, log, made: Made::default() }, records))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// The input's copy.
    pub fn input(&self) -> PathBuf {
        self.path().join(&self.file.input_file)
    }

    /// The rows of the input's copy.
    pub fn rows(&self) -> Result<input::Input> {
        input::Input::open(&self.input(), &shown(&self.file.input), self.path())
    }

    /// Sets another budget.
    pub fn set_budget(&mut self, budget: Option<Usd>) -> Result<()> {
        self.file.budget = budget;
        self.folder.write(FILE, text_of(&self.file)?)
    }

    /// One more record: the part that lasts is an object without its closing brace, the other comes behind a comma and
    /// begins with `"row":`.
    pub fn complete(&mut self, lasting: &str, run: &str, again: bool) -> Result<Record> {
        let record = Record { offset: self.at, lasting: u32::try_from(lasting.len()).unwrap_or(u32::MAX), again };
        let written = writeln!(self.completed, "{lasting},{run}}}");
        written.map_err(|error| cannot_write(&self.folder.path.join(COMPLETED), &error))?;
        self.at += (lasting.len() + run.len() + 3) as u64;
        Ok(record)
    }

    /// What was completed can be read by others.
    pub fn flush(&mut self) -> Result<()> {
        self.completed.flush().map_err(|error| cannot_write(&self.folder.path.join(COMPLETED), &error))
    }

    /// The lasting part of a record, as a whole object.
    pub fn lasting(&mut self, record: Record, text: &mut String) -> Result<()> {
        let mut bytes = vec![0; record.lasting as usize];
        let file = self.completed.get_mut();
        // Appending goes to the end wherever reading was.
        let read = file.seek(SeekFrom::Start(record.offset)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| unreadable(&self.folder.path.join(COMPLETED), &error))?;
        text.clear();
        text.push_str(&String::from_utf8_lossy(&bytes));
        text.push('}');
        Ok(())
    }

    /// One line of the log.
    pub fn log(&mut self, line: &str) {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        // A log that cannot be written breaks nothing.
        let _ = writeln!(self.log, "{now} {line}");
    }

    /// Replaces a file by one rename.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        self.folder.write(name, contents)
    }

    /// Moves the input itself here, in the place of its copy.
    pub fn take_input(&mut self) -> Result<()> {
        let (from, to) = (&self.file.input, self.input());
        if !from.is_file() || hash(from)? != self.file.input_hash {
            return Ok(());
        }
        fs::rename(from, &to).or_else(|_| fs::remove_file(from)).map_err(|error| cannot_write(from, &error))
    }
}

/// The row of a record's line, and where its lasting part ends.
fn record(line: &[u8], offset: u64) -> Option<(u32, Record)> {
    #[derive(Deserialize)]
    struct Run {
        row: u32,
        #[serde(default)]
        again: bool,
    }
    let text = std::str::from_utf8(line).ok()?.trim_end();
    // The last part names no key `row` but its own, and in a text the quotes would be escaped.
    let at = text.rfind(",\"row\":")?;
    let run: Run = serde_json::from_str(&format!("{{{}", &text[at + 1..])).ok()?;
    Some((run.row.checked_sub(1)?, Record { offset, lasting: u32::try_from(at).ok()?, again: run.again }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path) -> ExperimentFile {
        let input = folder.join("x.jsonl");
        fs::write(&input, "{\"prompt\":\"p\"}\n").unwrap();
        ExperimentFile {
            farthing: "0".into(),
            experiment: "experiment-1".into(),
            name: "x".into(),
            input,
            input_file: "input-x.jsonl".into(),
            input_hash: String::new(),
            store: "memory:".into(),
            cache: Cache::Use,
            endpoints: None,
            budget: Some(Usd::from_pico(7)),
            settings: Settings {
                params: BTreeMap::from([("temperature".into(), 0.5.into()), ("n".into(), 2.into())]),
                scale: Some(Scale::Choices(vec![("no".into(), 0.0), ("yes".into(), 1.0)])),
                metrics: vec![Declared::parse("length").unwrap()],
                max_queries: MaxQueries::parse("60").unwrap(),
                ..Settings::default()
            },
        }
    }

    #[test]
    fn a_folder_is_found_again_with_what_is_done() {
        let home = tempfile::tempdir().unwrap();
        let mut folder = Folder::create(None, &home.path().join("results"), file(home.path())).unwrap();
        let path = folder.path().to_owned();
        assert!(path.ends_with("results/x-1"));
        folder.complete("{\"a\":\",\\\"row\\\":1\"", "\"row\":1,\"seconds\":0.1", false).unwrap();
        folder.complete("{\"row\":9,\"b\":{\"c\":1,\"row\":2}", "\"row\":2,\"again\":true", true).unwrap();
        folder.complete("{\"b\":3", "\"row\":2", false).unwrap();
        folder.flush().unwrap();
        let hash = folder.file.input_hash.clone();
        assert!(Folder::open(&path).is_err(), "it is locked");
        drop(folder);
        let completed = path.join(COMPLETED);
        let whole = fs::read(&completed).unwrap();
        fs::write(&completed, [&whole[..], b"{\"half\":"].concat()).unwrap();
        let (mut folder, records) = Folder::open(&path).unwrap();
        assert_eq!((folder.file.settings.clone(), folder.file.input_hash.clone()), (file(home.path()).settings, hash));
        assert_eq!(fs::read(&completed).unwrap(), whole, "the half record is gone");
        let mut text = String::new();
        folder.lasting(records[&1], &mut text).unwrap();
        assert_eq!((text.as_str(), records.len()), ("{\"b\":3}", 2));
        let more = folder.complete("{\"z\":0", "\"row\":3", false).unwrap();
        folder.flush().unwrap();
        folder.lasting(more, &mut text).unwrap();
        assert_eq!(text, "{\"z\":0}");
        folder.take_input().unwrap();
        assert!(!home.path().join("x.jsonl").exists() && path.join("input-x.jsonl").is_file());
    }

    #[test]
    fn what_was_made_is_taken_back_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let place = |name: &str| home.path().join(name);
        let begin = |out: &str| {
            Folder::create(Some(&place(out)), &place("results"), file(home.path())).unwrap().take_back();
        };
        fs::create_dir_all(place("mine/there")).unwrap();
        begin("mine/there");
        assert_eq!(fs::read_dir(place("mine/there")).unwrap().count(), 0, "as it was: there, and empty");
        begin("mine/new/deep/out");
        assert!(place("mine").is_dir() && !place("mine/new").exists());
        fs::create_dir(place("empty")).unwrap();
        begin("empty/out");
        assert!(place("empty").is_dir() && !place("empty/out").exists(), "the folder above was there");
        Folder::create(None, &place("results"), file(home.path())).unwrap().take_back();
        assert!(!place("results").exists());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(place("mine/there"), place("link")).unwrap();
            begin("link");
            assert!(place("link").is_symlink(), "the link stays");
            assert_eq!(fs::read_dir(place("mine/there")).unwrap().count(), 0);
        }
        // What another put there meanwhile stays.
        let folder = Folder::create(Some(&place("mine/there")), &place("results"), file(home.path())).unwrap();
        fs::write(place("mine/there/notes.txt"), "mine").unwrap();
        folder.take_back();
        assert_eq!(fs::read_dir(place("mine/there")).unwrap().count(), 1);
    }

    #[test]
    fn numbers_go_on_and_a_taken_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let results = home.path().join("results");
        drop(Folder::create(None, &results, file(home.path())).unwrap());
        let second = Folder::create(None, &results, file(home.path())).unwrap();
        assert!(second.path().ends_with("x-2"));
        assert!(
            Folder::create(Some(&results), &results, file(home.path())).err().unwrap().message().contains("not empty")
        );
        let missing = ExperimentFile { input: home.path().join("none.jsonl"), ..file(home.path()) };
        assert!(Folder::create(None, &results, missing).err().unwrap().message().contains("there is no file"));
        assert_eq!(fs::read_dir(&results).unwrap().count(), 2, "no draft is left");
    }
}
