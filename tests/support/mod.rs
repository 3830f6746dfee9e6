//! What the integration tests share: the program, a little task in a folder of its own, and an endpoint that keeps its own
//! account. Everything is on loopback, and every test has its own folder and port.
#![allow(dead_code, missing_docs, reason = "each test file uses its share of it")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farthing::Usd;
use farthing::backend::mock;
use farthing::provider::{Input, Message, Request};
use farthing::serve::mock::{Answers, Call, MockServer, Options, Price, Reply};
use serde_json::Value;

/// Dollars per million tokens of the two made-up models: (name, input, output). Both sides of every test use these.
pub const PRICES: [(&str, &str, &str); 2] = [("mock-small", "0.25", "0.75"), ("mock-large", "1.0", "3.0")];

/// A folder with a task `sums`, its space, and a farthing.toml. It is the working folder of every command.
pub struct Home {
    folder: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in: {self:#?}"))
    }

    /// It ended with this exit code.
    #[track_caller]
    pub fn ended(self, code: i32) -> Done {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

/// What people see, in a file of tests/snapshots.
#[track_caller]
pub fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A finite space of 12 configurations: 2 prompts, 2 models, n of 1, 3 and 10.
pub const SPACE: &str = r#"
[space]
name = "sums"
[params.prompt]
type = "categorical"
choices = [
  { name = "direct", template = "{{ problem }}\nAnswer with the number only." },
  { name = "steps", template = "{{ problem }}\nLet's think step by step." },
]
[params.model]
type = "categorical"
choices = ["mock-small", "mock-large"]
[params.temperature]
value = 0.7
[params.max_tokens]
value = 48
[params.n]
type = "categorical"
choices = [1, 3, 10]
[baseline]
prompt = "direct"
model = "mock-small"
n = 1
"#;

const TASK: &str = r#"
[task]
name = "sums"
[data]
tune = "tune.jsonl"
test = "test.jsonl"
id = "id"
[objective]
metric = "accuracy"
[metrics.accuracy]
type = "numeric"
expected = "{{ answer }}"
vote = "majority"
"#;

impl Home {
    /// With so many instances in the tuning split, and half as many in the test split.
    pub fn new(instances: usize) -> Home {
        let folder = tempfile::Builder::new().prefix("farthingtest").tempdir().unwrap();
        let home = Home { folder };
        let lines = |file: &str, count: usize| -> String {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tasks/mock-arithmetic").join(file);
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().take(count).map(|line| format!("{line}\n")).collect()
        };
        home.write("task/task.toml", TASK);
        home.write("task/tune.jsonl", lines("tune.jsonl", instances));
        home.write("task/test.jsonl", lines("test.jsonl", instances.div_ceil(2)));
        home.write("task/space.toml", SPACE);
        home.write("farthing.toml", endpoints("provider = \"mock\"", ""));
        home
    }

    /// With an endpoint over HTTP; `more` are further keys of its table.
    pub fn over_http(instances: usize, url: &str, more: &str) -> Home {
        let home = Home::new(instances);
        home.point_at(url, more);
        home
    }

    /// What these command lines say that are refused as bad usage.
    #[track_caller]
    pub fn refused(&self, lines: &[&str]) -> String {
        let mut all = String::new();
        for line in lines {
            let done = self.run(line, &[]).ended(2);
            assert!(done.stdout.is_empty(), "{line}: {}", done.stdout);
            all += &format!("## {line}\n{}\n\n", done.stderr.trim_end());
        }
        all
    }

    /// Changes the endpoint.
    pub fn point_at(&self, url: &str, more: &str) {
        self.write("farthing.toml", endpoints(&format!("provider = \"openai\"\nbase_url = \"{url}\""), more));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A file, with some of it replaced, which must be there.
    #[track_caller]
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} has no {from:?}");
        self.write(name, text.replacen(from, to, 1));
    }

    /// The program in this folder, ready to be started.
    pub fn command<S: AsRef<str>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .current_dir(self.folder.path())
            .env("NO_COLOR", "1")
            .env_remove("OPENAI_API_KEY")
            .env_remove("RUST_LOG")
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program: the arguments are the words of `line` and then `more`.
    pub fn run(&self, line: &str, more: &[&str]) -> Done {
        let arguments: Vec<&str> = line.split_whitespace().chain(more.iter().copied()).collect();
        done(&mut self.command(&arguments))
    }

    /// `summary.json` of a run's folder.
    #[track_caller]
    pub fn summary(&self, run: &str) -> Value {
        serde_json::from_str(&self.read(&format!("{run}/summary.json"))).unwrap()
    }

    /// Every file below this folder with its bytes.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut files, mut folders) = (BTreeMap::new(), vec![self.folder.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        let bytes = std::fs::read(&path).unwrap();
                        files.insert(path.strip_prefix(self.folder.path()).unwrap().to_owned(), bytes);
                    }
                }
            }
        }
        files
    }
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a child a signal: `INT`, `KILL`, ...
#[track_caller]
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Runs a command to its end.
pub fn done(command: &mut Command) -> Done {
    finished(command.spawn().unwrap())
}

/// Waits for a child.
pub fn finished(child: Child) -> Done {
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A farthing.toml with one endpoint and both models.
pub fn endpoints(endpoint: &str, more: &str) -> String {
    let mut text = format!("[endpoints.here]\n{endpoint}\n{more}\n");
    for (name, input, output) in PRICES {
        write!(text, "[models.{name}]\nendpoint = \"here\"\nprice = {{ input = {input}, output = {output} }}\n")
            .unwrap();
    }
    text
}

/// The endpoint's own prices.
pub fn server_prices() -> BTreeMap<String, Price> {
    PRICES.map(|(name, input, output)| (name.to_owned(), Price::per_million(input, output).unwrap())).into()
}

/// An endpoint of the made-up models at these prices.
pub fn server(options: Options) -> MockServer {
    MockServer::start(Options { models: server_prices(), threads: 2, ..options }).unwrap()
}

/// Dollars of a field of a JSON object.
#[track_caller]
pub fn dollars(value: &Value, field: &str) -> Usd {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value:#}")).parse().unwrap()
}

/// Dollars from a text.
pub fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

/// What is left of a summary without what depends on the store and on luck: the rest must be the same in equal studies.
pub fn decided(mut summary: Value) -> Value {
    let fields = summary.as_object_mut().unwrap();
    for name in ["spent_usd", "lost_usd", "requests", "cache_hits"] {
        assert!(fields.remove(name).is_some(), "{name}");
    }
    summary
}

/// The request of a body, read independently of the endpoint.
pub fn request(body: &Value) -> Request {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = body["messages"].as_array().unwrap();
    let messages = messages.iter().map(|m| Message { role: text(&m["role"]), content: text(&m["content"]) }).collect();
    let apart = ["model", "messages", "n"];
    let params = body.as_object().unwrap().iter().filter(|(name, _)| !apart.contains(&name.as_str()));
    Request {
        model: text(&body["model"]),
        input: Input::Messages(messages),
        params: params.map(|(name, value)| (name.clone(), value.clone())).collect(),
        n: body.get("n").map_or(1, |n| n.as_u64().unwrap() as u32),
    }
}

/// What was asked, in the order of arrival.
pub type Asked = Arc<Mutex<Vec<Value>>>;

/// The made-up models as functions of the body alone: a request that is sent again (after a crash) is answered the same,
/// so that what a crash changes in a study is the study's own doing. Every body is noted.
pub fn steady() -> (Answers, Asked) {
    let asked = Asked::default();
    let notes = asked.clone();
    let answer = move |call: &Call| {
        notes.lock().unwrap().push(call.body.clone());
        Reply::Answer(mock::answer(&request(&call.body), 0).unwrap())
    };
    (Answers::Custom(Arc::new(answer)), asked)
}

/// How often each body came.
pub fn counts(asked: &Asked) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for body in asked.lock().unwrap().iter() {
        *counts.entry(body.to_string()).or_insert(0) += 1;
    }
    counts
}

/// A folder of the recorded data, or `None`, said on standard output, where it is not at hand.
pub fn recorded(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("FARTHING_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let folder = shared.join("recorded").join(name);
    match folder.join("task.toml").is_file() {
        true => Some(folder),
        false => {
            println!("skipped: the recorded data is not at {} (set FARTHING_SHARED)", folder.display());
            None
        }
    }
}
