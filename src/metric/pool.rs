//! Programs of the user's that stay alive and answer one JSON line with another: starting, asking, timing out, ending.
//!
//! Three threads serve each program, so that no pipe that is full or silent can hold up the one who asks: one writes
//! questions, one reads answers, one reads what is said on standard error.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 16 << 20;
/// How many lines of standard error are kept, and how much of each, in bytes.
const KEPT_LINES: usize = 8;
const KEPT_BYTES: u64 = 2000;
/// How long to wait for the last words of a program that has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What to start, and how to treat it.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program and its arguments, at least one word.
    pub command: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// How long one question may take, its start included.
    pub timeout: Duration,
    /// Whether it is started again after it ended or was ended.
    pub restart: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The program ended, or cannot be started: asking another one may help.
    Crashed(String),
    /// It did not answer in time, or with something that makes no sense.
    Failed(String),
    /// It wrote a line that nothing had asked for: no line of its can be told to belong to a question.
    OutOfStep(String),
}

impl Trouble {
    fn reason(&self) -> &String {
        let (Trouble::Crashed(reason) | Trouble::Failed(reason) | Trouble::OutOfStep(reason)) = self;
        reason
    }
}

/// Some instances of one program, started when they are needed. Dropping the pool ends them.
pub struct Pool {
    program: Program,
    most: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Worker>,
    /// Idle ones and those at work.
    running: usize,
    /// Why nothing is asked any more.
    out_of_step: Option<String>,
    /// Why nothing is started any more.
    given_up: Option<String>,
}

/// A place among the running ones; given back when dropped.
struct Place<'a> {
    pool: &'a Pool,
    worker: Option<Worker>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        match self.worker.take() {
            Some(worker) => state.idle.push(worker),
            None => state.running -= 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // One that was out of step at the last question is found out here.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for worker in &state.idle {
            if matches!(worker.answers.try_recv(), Ok(Ok(_))) {
                let _ = worker.out_of_step();
            }
        }
    }
}

impl Pool {
    /// A pool of at most `most` (at least 1) instances; none is started yet.
    pub fn new(program: Program, most: usize) -> Pool {
        Pool { program, most: most.max(1), state: Mutex::default(), freed: Condvar::new() }
    }

    /// The program's name, as given.
    pub fn name(&self) -> &str {
        self.program.command.first().map_or("", String::as_str)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves no half-done change behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one question, a line with its line feed, and gives what `understand` makes of the answer's line. An instance
    /// whose answer makes no sense is ended, for its next line may be the answer to this question. If the program crashes,
    /// it is asked once more, in a new instance.
    pub fn ask<T>(&self, question: &Arc<str>, understand: impl Fn(&[u8]) -> Result<T, String>) -> Result<T, String> {
        match self.ask_once(question, &understand) {
            Err(Trouble::Crashed(_)) if self.program.restart => self.ask_once(question, &understand),
            other => other,
        }
        .map_err(|trouble| trouble.reason().clone())
    }

    fn ask_once<T>(&self, question: &Arc<str>, understand: &impl Fn(&[u8]) -> Result<T, String>) -> Result<T, Trouble> {
        let mut place = self.place()?;
        let deadline = Instant::now() + self.program.timeout;
        let worker = match place.worker.take() {
            Some(worker) => Ok(worker),
            None => Worker::start(&self.program).map_err(Trouble::Crashed),
        };
        let answer = worker.and_then(|mut worker| {
            let answer = worker.ask(question, deadline, self.program.timeout)?;
            let answer = understand(&answer).map_err(Trouble::Failed)?;
            place.worker = Some(worker);
            Ok(answer)
        });
        match &answer {
            Err(Trouble::OutOfStep(reason)) => {
                // Another instance would do the same, and be found out as late.
                let mut state = self.lock();
                state.out_of_step.get_or_insert_with(|| reason.clone());
                let idle = std::mem::take(&mut state.idle);
                state.running -= idle.len();
                drop(state);
                drop(idle);
                self.freed.notify_all();
            }
            Err(trouble) if !self.program.restart => {
                let reason = || format!("not started again after: {}", trouble.reason());
                self.lock().given_up.get_or_insert_with(reason);
            }
            _ => {}
        }
        answer
    }

    /// Waits for an idle instance, or for room to start one.
    fn place(&self) -> Result<Place<'_>, Trouble> {
        let mut state = self.lock();
        loop {
            if let Some(reason) = &state.out_of_step {
                return Err(Trouble::Failed(reason.clone()));
            }
            if let Some(worker) = state.idle.pop() {
                return Ok(Place { pool: self, worker: Some(worker) });
            }
            if let Some(reason) = &state.given_up {
                return Err(Trouble::Failed(reason.clone()));
            }
            if state.running < self.most {
                state.running += 1;
                return Ok(Place { pool: self, worker: None });
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The file that would be run: a path is relative to the folder, a bare name is looked up in PATH.
pub fn locate(program: &str, folder: &Path) -> Result<PathBuf, String> {
    if program.contains(std::path::is_separator) {
        let path = std::path::absolute(folder.join(program)).map_err(|error| format!("`{program}`: {error}"))?;
        return if path.is_file() { Ok(path) } else { Err(format!("there is no program {}", path.display())) };
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let endings = if cfg!(windows) { vec![".exe", ".bat", ".cmd", ""] } else { vec![""] };
    let named = |folder: PathBuf| {
        endings.iter().map(move |ending| folder.join(format!("{program}{ending}"))).collect::<Vec<_>>()
    };
    std::env::split_paths(&paths)
        .flat_map(named)
        .find(|path| path.is_file())
        .ok_or_else(|| format!("there is no program `{program}` in PATH"))
}

/// One running instance.
struct Worker {
    child: Child,
    questions: Sender<Arc<str>>,
    answers: Receiver<Result<Vec<u8>, String>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    /// Closed when standard error has ended.
    quiet: Receiver<()>,
    name: String,
}

impl Worker {
    fn start(program: &Program) -> Result<Worker, String> {
        let name = program.command.join(" ");
        let path = locate(program.command.first().map_or("", String::as_str), &program.folder)?;
        // The folder of a task.toml named without one is "".
        let folder = if program.folder.as_os_str().is_empty() { Path::new(".") } else { &program.folder };
        let mut command = Command::new(path);
        command.args(program.command.iter().skip(1)).current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // In a group of its own Ctrl-C does not reach it, so that work at hand is finished; and its children end with it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| format!("cannot start `{name}`: {error}"))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(format!("cannot start `{name}`: it has no pipes"));
        };
        let (questions, to_write) = channel::<Arc<str>>();
        let (read, answers) = channel();
        let (said, quiet) = channel::<()>();
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let words = last_words.clone();
        let speaker = program.command.first().cloned().unwrap_or_default();
        std::thread::spawn(move || write_questions(stdin, &to_write));
        std::thread::spawn(move || read_answers(BufReader::new(stdout), &read));
        std::thread::spawn(move || {
            listen(BufReader::new(stderr), &words, &speaker);
            drop(said);
        });
        Ok(Worker { child, questions, answers, last_words, quiet, name })
    }

    fn ask(&mut self, question: &Arc<str>, deadline: Instant, timeout: Duration) -> Result<Vec<u8>, Trouble> {
        match self.answers.try_recv() {
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(self.crashed()),
            Ok(_) => return Err(self.out_of_step()),
        }
        // Where the writer has ended, the program has closed its input: what it still says, or its end, is to come.
        let _ = self.questions.send(question.clone());
        match self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            // Two lines for one question: which of them is the answer?
            Ok(Ok(_)) if matches!(self.answers.try_recv(), Ok(Ok(_))) => Err(self.out_of_step()),
            Ok(Ok(line)) => Ok(line),
            Ok(Err(reason)) => Err(Trouble::Failed(format!("`{}` {reason}", self.name))),
            Err(RecvTimeoutError::Disconnected) => Err(self.crashed()),
            Err(RecvTimeoutError::Timeout) => {
                let reason = format!("`{}` did not answer within {} s", self.name, timeout.as_secs_f64());
                self.end();
                Err(Trouble::Failed(self.with_last_words(reason)))
            }
        }
    }

    /// It wrote a line too many, now or some questions ago.
    fn out_of_step(&self) -> Trouble {
        let name = &self.name;
        tracing::error!(
            "`{name}` wrote a line that nothing had asked for: unless it repeats the `id` of each question, its earlier scores may belong to other instances"
        );
        Trouble::OutOfStep(format!(
            "`{name}` wrote a line that nothing had asked for; it must write one line for each it reads, so it is not asked any more"
        ))
    }

    /// It has closed its output: ends it, and tells how it ended.
    fn crashed(&mut self) -> Trouble {
        // It may be ending by itself; then its own exit status is the better answer.
        let patience = Instant::now() + LAST_WORDS;
        let mut status = self.child.try_wait();
        while matches!(status, Ok(None)) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(2));
            status = self.child.try_wait();
        }
        let how = match status {
            Ok(Some(status)) => how_it_ended(status),
            _ => "closed its output".to_owned(),
        };
        self.end();
        Trouble::Crashed(self.with_last_words(format!("`{}` {how} without an answer", self.name)))
    }

    fn with_last_words(&self, reason: String) -> String {
        let _ = self.quiet.recv_timeout(LAST_WORDS);
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.is_empty() {
            return reason;
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        format!("{reason}; its last words:\n{}", words.join("\n"))
    }

    /// Ends it and whatever it started.
    fn end(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            #[cfg(unix)]
            let _ = Command::new("sh")
                .args(["-c", "kill -s KILL -- \"-$0\"", &self.child.id().to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("was ended ({status})"),
    }
}

fn write_questions(mut stdin: impl Write, questions: &Receiver<Arc<str>>) {
    while let Ok(question) = questions.recv() {
        if stdin.write_all(question.as_bytes()).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Sends every line that is not blank; ends with the output, or after a line that is too long.
fn read_answers(mut stdout: impl BufRead, answers: &Sender<Result<Vec<u8>, String>>) {
    loop {
        let mut line = Vec::new();
        let sent = match stdout.by_ref().take(LONGEST_ANSWER).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if !line.ends_with(b"\n") && line.len() as u64 == LONGEST_ANSWER => {
                let _ = answers.send(Err(format!("wrote a line of more than {LONGEST_ANSWER} bytes")));
                return;
            }
            Ok(_) if line.iter().all(u8::is_ascii_whitespace) => continue,
            Ok(_) => answers.send(Ok(line)),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Passes lines on to the log and keeps the last ones.
fn listen(mut stderr: impl BufRead, last_words: &Mutex<VecDeque<String>>, speaker: &str) {
    loop {
        let mut line = Vec::new();
        match stderr.by_ref().take(KEPT_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            continue;
        }
        tracing::info!("{speaker}: {line}");
        let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == KEPT_LINES {
            words.pop_front();
        }
        words.push_back(line);
    }
}
