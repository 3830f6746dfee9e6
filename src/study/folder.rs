//! A run's folder: it appears by one rename with `study.toml` in it, and every file of it is replaced whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Error, Result, Source};
use crate::evaluate::Workload;
use crate::files::{self, cannot_write};
use crate::prompt::{Body, Prompt};
use crate::space::Space;
use crate::study::Settings;
use crate::task::Task;

/// `study.toml`: all that is needed to run the study again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyFile {
    /// The version of farthing that began it.
    pub farthing: String,
    /// The study's name in the ledger.
    pub study: String,
    /// Evaluations asked ahead of those told: a constant of the study, which decides with the rest.
    pub look_ahead: usize,
    /// Where its inputs stand.
    pub inputs: Inputs,
    /// How it is run.
    pub settings: Settings,
    /// What its inputs were.
    pub hashes: Hashes,
}

/// Where the inputs of a study stand, as absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// The task's name.
    pub name: String,
    /// The task's folder or file; absent for a task of a Rust program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<PathBuf>,
    /// The space's file; absent for a space of a Rust program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<PathBuf>,
    /// The `farthing.toml`; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<PathBuf>,
}

/// Hashes of what a study's inputs said when it began: resumed on others, it would not be the same study.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hashes {
    /// The task and its instances.
    pub task: String,
    /// The space and its prompts.
    pub space: String,
    /// Models, prices and recorded answers; no address, key or timeout.
    pub endpoints: String,
}

/// The hash of a task: its file, and every instance of both splits.
pub fn task_hash(workload: &Workload) -> String {
    hash_of(&workload.task)
}

/// The same of a task whose metrics are not built.
pub fn hash_of(task: &Task) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    field(task.source.as_ref().map_or("", Source::text));
    field(&format!("{:?}", task.objective));
    for split in [&task.tune, &task.test] {
        field("split");
        for instance in split.iter() {
            field(&instance.id);
            field(&serde_json::Value::Object(instance.fields.clone()).to_string());
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The hash of a space: its file, and the prompts that stand in files of their own.
pub fn space_hash(space: &Space) -> String {
    let texts = |prompt: &Prompt| match &prompt.body {
        Body::Messages(messages) => {
            messages.iter().map(|(role, content)| format!("{role}\n{}", content.text())).collect()
        }
        Body::Template(template) | Body::Text(template) => template.text().to_owned(),
    };
    let file = space.origin.as_ref().map_or(String::new(), |(source, _)| source.text().to_owned());
    let parameters: Vec<String> =
        space.parameters.iter().map(|p| format!("{} {:?} {:?}", p.name, p.values, p.when)).collect();
    let prompts: Vec<(String, String)> =
        space.prompts.iter().map(|prompt| (prompt.name.clone(), texts(prompt))).collect();
    let constraints: Vec<&str> = space.constraints.iter().map(crate::space::Constraint::text).collect();
    let all = format!("{file}\n{parameters:?}\n{prompts:?}\n{constraints:?}\n{:?}", space.baseline);
    blake3::hash(all.as_bytes()).to_hex()[..32].to_owned()
}

/// The file that is locked while a process works on a folder.
pub const LOCK: &str = ".lock";

/// A run's folder that this process works on. While it lives no other process can.
#[derive(Debug)]
pub struct RunFolder {
    /// Where it stands.
    pub path: PathBuf,
    _lock: fs::File,
}

impl RunFolder {
    /// Makes a new run's folder: at `out`, which must not exist or be empty, else the next free `results/NAME-N`.
    pub fn create(out: Option<&Path>, file: &StudyFile) -> Result<RunFolder> {
        let text = to_toml(file)?;
        let Some(out) = out else {
            let name = &file.inputs.name;
            let results = Path::new("results");
            for number in 1.. {
                let path = results.join(format!("{name}-{number}"));
                if path.exists() {
                    continue;
                }
                match appear(&path, &text) {
                    Ok(()) => return RunFolder::lock(path),
                    // Another process was faster with this number.
                    Err(_) if path.join("study.toml").exists() => {}
                    Err(error) => return Err(error),
                }
            }
            return Err(Error::internal("there is no free name for the run's folder"));
        };
        check_free(out)?;
        appear(out, &text)?;
        RunFolder::lock(out.to_owned())
    }

    /// Opens the folder of a run that goes on.
    pub fn open(path: &Path) -> Result<RunFolder> {
        RunFolder::lock(path.to_owned())
    }

    fn lock(path: PathBuf) -> Result<RunFolder> {
        let file = path.join(LOCK);
        let lock = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .map_err(|e| cannot_write(&file, &e))?;
        match lock.try_lock() {
            Ok(()) => Ok(RunFolder { path, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(Error::usage(format!("another process is working on {}", path.display()))
                    .help("wait for it to end, or stop it"))
            }
            // Not every file system has locks; then nobody is kept out.
            Err(fs::TryLockError::Error(_)) => Ok(RunFolder { path, _lock: lock }),
        }
    }

    /// Replaces a file of the folder by one rename.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        files::replace(&self.path.join(name), contents.as_ref())
    }

    /// Removes a file of the folder, if it is there.
    pub fn remove(&self, name: &str) {
        drop(fs::remove_file(self.path.join(name)));
    }
}

/// A target must not exist, or be an empty folder.
pub fn check_free(out: &Path) -> Result<()> {
    let taken = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    match taken {
        true => Err(Error::usage(format!("{} is there already and not empty", out.display()))
            .help("give another --out, or go on with that run: --resume DIR")),
        false => Ok(()),
    }
}

fn appear(path: &Path, study: &str) -> Result<()> {
    // A link to an empty folder stays one.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
    let draft = parent.join(format!(".{}", files::fresh_name("new")));
    fs::create_dir(&draft).map_err(|error| cannot_write(path, &error))?;
    let made = files::replace(&draft.join("study.toml"), study.as_bytes()).and_then(|()| {
        fs::rename(&draft, path)
            // The ledger knows the study by the name in this folder: both must survive a power cut.
            .and_then(|()| fs::File::open(parent)?.sync_all())
            .map_err(|error| cannot_write(path, &error))
    });
    made.inspect_err(|_| drop(fs::remove_dir_all(&draft)))
}

/// The text of a `study.toml`.
pub fn to_toml(file: &StudyFile) -> Result<String> {
    let text =
        toml::to_string(file).map_err(|error| Error::internal(format!("study.toml cannot be written: {error}")))?;
    Ok(format!("# Written by farthing: all that is needed to run this study again.\n{text}"))
}

/// Reads the `study.toml` of a run's folder.
pub fn load(folder: &Path) -> Result<StudyFile> {
    let path = folder.join("study.toml");
    if !path.is_file() {
        return Err(Error::usage(format!("{} is no run's folder: it holds no study.toml", folder.display())));
    }
    let source = Source::read(&path)?;
    crate::declaration::read(&source, crate::declaration::parse(&source)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Usd;

    fn file() -> StudyFile {
        let settings = Settings { budget: Some(Usd::from_pico(5)), ..Settings::default() };
        StudyFile {
            farthing: "0.1.0".into(),
            study: "study-1".into(),
            inputs: Inputs { name: "t".into(), task: Some("/a/b".into()), ..Inputs::default() },
            settings,
            look_ahead: 64,
            hashes: Hashes::default(),
        }
    }

    #[test]
    fn a_folder_appears_whole_and_is_read_again() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("deep/run");
        let folder = RunFolder::create(Some(&out), &file()).unwrap();
        assert_eq!(load(&out).unwrap(), file());
        assert!(RunFolder::open(&out).unwrap_err().message().contains("another process"));
        folder.write("x", "y").unwrap();
        drop(folder);
        assert!(RunFolder::open(&out).is_ok());
        assert!(RunFolder::create(Some(&out), &file()).unwrap_err().message().contains("not empty"));
        let names: Vec<String> = fs::read_dir(out.parent().unwrap())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["run"], "no draft is left");
    }

    #[test]
    fn an_empty_folder_may_be_used() {
        let home = tempfile::tempdir().unwrap();
        let (empty, link) = (home.path().join("empty"), home.path().join("link"));
        fs::create_dir(&empty).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&empty, &link).unwrap();
        #[cfg(not(unix))]
        let link = empty.clone();
        RunFolder::create(Some(&link), &file()).unwrap();
        assert!(load(&empty).is_ok() && load(&link).is_ok());
    }
}
