//! What people see: exit codes, error texts, listings, JSON. Errors are kept as snapshots (`cargo insta review`); on exit
//! code 2 nothing may have been written or spent.

#[path = "../support/mod.rs"]
mod support;

mod configuration;
mod listed;
mod refused;
mod shipped;
mod unusable;

use std::fmt::Write;

use farthing::serve::mock::{MockServer, Options};
use support::{Done, Home, server, snapshot};

/// Bad inputs, each with its command, on fresh copies of the task; gathers what was said.
struct Gallery {
    server: MockServer,
    text: String,
}

impl Gallery {
    fn new() -> Gallery {
        Gallery { server: server(Options::default()), text: String::new() }
    }

    fn home(&self) -> Home {
        Home::over_http(4, &self.server.url(), "")
    }

    /// A command on an edited task is bad input.
    #[track_caller]
    fn refuses(&mut self, name: &str, edit: impl FnOnce(&Home), line: &str) {
        let home = self.home();
        edit(&home);
        self.refuses_in(&home, name, line);
    }

    #[track_caller]
    fn refuses_in(&mut self, home: &Home, name: &str, line: &str) {
        let (before, asked) = (home.files(), self.server.ledger().requests);
        let done = home.run(line, &[]);
        writeln!(self.text, "## {name}: {line}\n{}", said(home, &done)).unwrap();
        assert_eq!(done.code, 2, "{name}: {done:#?}");
        assert!(done.stdout.is_empty(), "{name}: {done:#?}");
        assert_eq!(self.server.ledger().requests, asked, "{name}: something was asked");
        let after = home.files();
        let written: Vec<_> = after.iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).collect();
        assert!(written.is_empty() && after.len() == before.len(), "{name}: written: {:?}", keys(&written));
    }

    /// The snapshot of all.
    #[track_caller]
    fn end(self, name: &str) {
        snapshot(name, &self.text);
    }
}

fn keys<T>(written: &[(&std::path::PathBuf, T)]) -> Vec<String> {
    written.iter().map(|(path, _)| path.display().to_string()).collect()
}

/// Standard error, with what differs from run to run taken out. Absolute paths make lines wrap anywhere, so where there is
/// one the text becomes one line.
fn said(home: &Home, done: &Done) -> String {
    let folder = home.path("");
    let folder = folder.to_str().unwrap().trim_end_matches('/');
    let marked = folder.rsplit('/').next().unwrap();
    let mut text = done.stderr.clone();
    if text.contains(marked) || text.contains("127.0.0.1") {
        text = text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        let path = regex::Regex::new(&format!(r"[\w/.]*/ ?{marked}")).unwrap();
        text = path.replace_all(&text, "HOME").into_owned();
    }
    // Which of two models is asked first is luck where several requests fail at once.
    let text = text.replace("`mock-large` cannot", "`MODEL` cannot").replace("`mock-small` cannot", "`MODEL` cannot");
    let port = regex::Regex::new(r"127\.0\.0\.1:\d+").unwrap();
    port.replace_all(&text, "127.0.0.1:PORT").trim_end().to_owned() + "\n"
}

const TUNE: &str = "tune task --budget 0.01 --out run";
