//! The book under docs/ is tried: every command in a ```console block is run, page by page in a folder of its own, with the
//! files that the page gives; what is shown below a command must be said by it. Every page is in the summary, every link leads
//! somewhere.

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn pages() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(docs()).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    pages.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    pages.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// A fenced block: its language, its text, the file that it is, and its line.
struct Block {
    language: String,
    text: String,
    file: Option<String>,
    line: usize,
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open, mut file) = (Vec::<Block>::new(), false, None);
    for (number, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(language) if !open => {
                open = true;
                blocks.push(Block {
                    language: language.into(),
                    text: String::new(),
                    file: file.take(),
                    line: number + 1,
                });
            }
            Some(_) => open = false,
            None if open => blocks.last_mut().unwrap().text.extend([line, "\n"]),
            None => {
                let named = line.strip_prefix("<!-- file: ").and_then(|rest| rest.strip_suffix(" -->"));
                file = named.map(str::to_owned).or(file.filter(|_| line.is_empty()));
            }
        }
    }
    assert!(!open, "a block has no end");
    blocks
}

/// What a page's commands run in.
struct Shell {
    folder: tempfile::TempDir,
    behind: Vec<Child>,
    run: usize,
}

impl Drop for Shell {
    fn drop(&mut self) {
        for child in &mut self.behind {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

impl Shell {
    fn new() -> Shell {
        let folder = tempfile::tempdir().unwrap();
        // Some pages try what lies in the repository's examples.
        let there = Path::new("examples/experiments");
        copy(&docs().parent().unwrap().join(there), &folder.path().join(there));
        Shell { folder, behind: Vec::new(), run: 0 }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
        command.args(words).current_dir(self.folder.path()).env("NO_COLOR", "1").env_remove("OPENAI_API_KEY");
        command.env("HF_HUB_OFFLINE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a line; gives what it said.
    fn line(&mut self, place: &str, line: &str) -> String {
        self.run += 1;
        let (line, code) = match line.split_once("# exit ") {
            Some((line, code)) => (line.trim(), code.trim().parse().unwrap()),
            None => (line.trim(), 0),
        };
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(words[0], "farthing", "{place}: `{line}` is no command of ours");
        if let Some((&"&", words)) = words[1..].split_last() {
            let mut child = self.command(words).spawn().unwrap();
            let mut said = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
            self.behind.push(child);
            return said;
        }
        let done = support::done(&mut self.command(&words[1..]));
        assert_eq!(done.code, code, "{place}: {line}\n{}{}", done.stdout, done.stderr);
        format!("{}\n{}", done.stdout, done.stderr)
    }
}

/// A line's words, as a shell parts them; without a comment at its end.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut open) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (open, c) {
            (Some(quote), c) if c == quote => open = None,
            (None, '"' | '\'') => {
                open = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Words alone: where lines break does not matter.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a page; gives how many commands it has.
fn run(name: &str, page: &str) -> usize {
    let mut shell = Shell::new();
    for block in blocks(page) {
        let place = format!("docs/{name}:{}", block.line);
        if let Some(file) = &block.file {
            let path = shell.folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &block.text).unwrap();
        }
        if block.language != "console" {
            continue;
        }
        let mut said = String::new();
        for line in block.text.lines().filter(|line| !line.is_empty() && *line != "...") {
            match line.strip_prefix("$ ") {
                Some(command) => said = plain(&shell.line(&place, command)),
                None => assert!(said.contains(&plain(line)), "{place}: `{line}` is not in: {said}"),
            }
        }
    }
    shell.run
}

/// One test a page, so that they run side by side.
macro_rules! pages {
    ($($test:ident: $page:literal, $least:literal;)*) => {$(
        #[test]
        fn $test() {
            let page = std::fs::read_to_string(docs().join($page)).unwrap();
            let commands = run($page, &page);
            assert!(commands >= $least, "{} has only {commands} commands", $page);
        }
    )*
    /// The pages that have a test of their own.
    const TRIED: &[&str] = &[$($page),*];
    };
}

pages! {
    quick_start: "quickstart.md", 6;
    a_task_from_scratch: "task.md", 5;
    budgets: "budgets.md", 4;
    watching: "watching.md", 4;
    comparing: "ci.md", 5;
    recipes: "recipes.md", 12;
    questions: "faq.md", 2;
    coming_from_other_tools: "coming-from.md", 7;
    reports: "report.md", 8;
    experiments: "experiments.md", 4;
}

#[test]
fn every_page_with_commands_is_tried() {
    for (name, page) in pages() {
        let commands = page.contains("```console");
        assert!(
            !commands || TRIED.contains(&name.as_str()),
            "docs/{name} has commands: add it to `pages!` in tests/book.rs"
        );
    }
}

/// What stands in the text, or needs a key or a server, is not run; but the program takes such arguments.
#[test]
fn every_command_in_the_text_is_one() {
    let span = regex::Regex::new(r"`(farthing [^`]+)`").unwrap();
    let mut seen = 0;
    for (name, page) in pages() {
        let block = page.lines().filter_map(|line| line.strip_prefix("    farthing ")).map(|rest| {
            // Two blanks part what the command is for.
            format!("farthing {}", rest.split("  ").next().unwrap_or_default())
        });
        let spans = span.captures_iter(&page).map(|found| found[1].to_owned());
        for command in block.chain(spans).filter(|command| !command.contains(['|', '['])) {
            let words = words(&command);
            let mut shown = Command::new(env!("CARGO_BIN_EXE_farthing"));
            let done =
                support::done(shown.args(&words[1..]).arg("--help").stdout(Stdio::piped()).stderr(Stdio::piped()));
            assert_eq!(done.code, 0, "docs/{name}: {command}\n{}", done.stderr);
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_page_is_in_the_summary_and_every_link_leads_somewhere() {
    let all = pages();
    let summary = &all.iter().find(|(name, _)| name == "SUMMARY.md").unwrap().1;
    for (name, _) in all.iter().filter(|(name, _)| name != "SUMMARY.md") {
        assert!(summary.contains(&format!("({name})")), "docs/SUMMARY.md does not name {name}");
    }
    let link = regex::Regex::new(r"\]\(([^)#\s]+)(#[^)]*)?\)").unwrap();
    for (name, page) in &all {
        for found in link.captures_iter(page) {
            let target = &found[1];
            if !target.contains("://") {
                assert!(docs().join(target).exists(), "docs/{name} links to {target}, which is not there");
            }
        }
    }
    let include = regex::Regex::new(r"\{\{#include ([^}]+)\}\}").unwrap();
    for (name, page) in &all {
        for found in include.captures_iter(page) {
            assert!(docs().join(&found[1]).is_file(), "docs/{name} includes {}", &found[1]);
        }
    }
    let book: toml::Table = toml::from_str(&std::fs::read_to_string(docs().join("book.toml")).unwrap()).unwrap();
    assert_eq!(book["book"]["src"].as_str(), Some("."));
}
