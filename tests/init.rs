//! First steps and manners: what `init` writes runs at once, `doctor` finds what is wrong without spending, help, completions
//! and man pages come from the declarations, and misspelt words are recognized. Every screen of help is a snapshot.

mod support;

use std::process::Command;

use farthing::serve::mock::Options;
use serde_json::Value;
use support::{Done, Home, done, server, snapshot};

/// A home without a farthing.toml of its own.
fn bare() -> Home {
    let home = Home::new(4);
    std::fs::remove_file(home.path("farthing.toml")).unwrap();
    home
}

#[test]
fn what_init_writes_runs_at_once_and_is_never_overwritten() {
    let home = bare();
    let made = home.run("init sums", &[]).ended(0);
    let mut text = format!("$ farthing init sums\n{}\n", made.stdout);
    for file in ["task.toml", "space.toml", "farthing.toml"] {
        text += &format!("## {file}\n{}\n", home.read(&format!("sums/{file}")));
    }
    snapshot("init", &text);
    home.run("doctor sums --offline", &[]).ended(0);
    home.run("estimate sums", &[]).ended(0);
    let found = home.run("tune sums --budget 0.10 --json --quiet", &[]).ended(0).json();
    assert!(found["best"]["score"].as_f64().unwrap() > found["baseline"]["score"].as_f64().unwrap(), "{found:#}");
    home.run("test results/sums-1 --quiet", &[]).ended(0);
    let before = home.files();
    let again = home.run("init sums", &[]).ended(2);
    assert!(again.stderr.contains("sums/task.toml is there already"), "{}", again.stderr);
    assert_eq!(home.files(), before);
    std::fs::remove_file(home.path("sums/task.toml")).unwrap();
    home.run("init sums", &[]).ended(2);
    assert!(!home.path("sums/task.toml").exists(), "all or nothing");
}

#[test]
fn init_looks_at_the_data() {
    let home = bare();
    home.write("words.csv", "id,text,label\n1,good,pos\n2,bad,neg\n3,fine,pos\n4,awful,neg\n5,nice,pos\n6,poor,neg\n");
    home.run("init here/mood --data words.csv --model gpt-4o-mini", &[]).ended(0);
    let task = home.read("here/mood/task.toml");
    for line in [
        "name = \"mood\"",
        "tune = \"../../words.csv\"",
        "id = \"id\"",
        "type = \"choice\"",
        "expected = \"{{ label }}\"",
        "choices = [\"neg\", \"pos\"]",
    ] {
        assert!(task.contains(line), "{line} in {task}");
    }
    assert!(home.read("here/mood/space.toml").contains("{{ text }}\\nAnswer with one of: neg, pos only."));
    assert!(home.read("here/mood/farthing.toml").contains("[endpoints.openai]\nprovider = \"openai\"\n"));
    assert!(!home.path("here/mood/data.jsonl").exists());
    // What a space calls its own is no column.
    home.write("asks.csv", "prompt,answer\nWhat is 1+2?,3\nWhat is 2+2?,4\n");
    let refused = home.run("init asks --data asks.csv", &[]).ended(2);
    assert!(refused.stderr.contains("has a column `prompt`") && !home.path("asks").exists(), "{refused:#?}");
    // It has all but a key.
    let found = home.run("doctor here/mood --offline --json", &[]).ended(5).json();
    let problems: Vec<&Value> = found.as_array().unwrap().iter().filter(|check| check["status"] == "problem").collect();
    assert_eq!((problems.len(), problems[0]["about"].as_str()), (1, Some("key")), "{found:#}");
    home.run("estimate here/mood", &[]).ended(0);

    home.write("free.jsonl", "{\"in put\": \"a\", \"gold\": \"b c\"}\n{\"in put\": \"c\", \"gold\": \"d\"}\n");
    let done = |more: &str| home.run(&format!("init free --data free.jsonl{more}"), &[]).ended(2).stderr;
    assert!(done("").contains("which column of free.jsonl is the right answer?"));
    assert!(done(" --answer glod").contains("did you mean `gold`?"));
    let spaced = home.run("init free --data free.jsonl --answer gold", &["--input", "in put"]).ended(2).stderr;
    assert!(spaced.contains("no name that a template can use"), "{spaced}");
    assert!(!home.path("free").exists());
    home.write("few.jsonl", "{\"q\": \"a\", \"gold\": \"b c\"}\n{\"q\": \"c\", \"gold\": \"d\"}\n");
    home.run("init few --data few.jsonl --answer gold --input q --model my-own", &[]).ended(0);
    assert!(home.read("few/task.toml").contains("type = \"exact_match\""));
    home.run("estimate few", &[]).ended(0);
}

/// What doctor says, with what differs from machine to machine taken out.
fn seen(home: &Home, done: &Done) -> String {
    let folder = home.path("");
    let text = done.stdout.replace(folder.to_str().unwrap().trim_end_matches('/'), "HOME");
    // Private folders have long names on some systems, so lines break elsewhere.
    let text = text.split('\n').map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    let text = text.join("\n");
    let mut shown = text;
    for (pattern, with) in [
        (r"[\d.]+ GB", "N GB"),
        (r"\d{4}-\d\d-\d\dT[\d:]+Z", "NOW"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"(?s)(store) .*?(is\s+(not\s+)?there)", "$1 PATH $2"),
        (r"─+", "─"),
    ] {
        shown = regex::Regex::new(pattern).unwrap().replace_all(&shown, with).into_owned();
    }
    shown
}

#[test]
fn doctor_on_what_is_well_and_what_is_not() {
    let server = server(Options { key: Some("sk-planted-0123456789".into()), ..Options::default() });
    let home = Home::over_http(8, &server.url(), "api_key_env = \"HERE_KEY\"");
    let doctor =
        |line: &str, key: &str| done(home.command(&line.split_whitespace().collect::<Vec<_>>()).env("HERE_KEY", key));
    let mut text = String::new();
    let mut show = |title: &str, done: Done, code: i32| {
        assert!(!done.stdout.contains("planted") && !done.stderr.contains("planted"), "{done:#?}");
        text += &format!("## {title} ({code})\n{}\n", seen(&home, &done.ended(code)));
    };
    show("well", doctor("doctor task", "sk-planted-0123456789"), 0);
    show("a wrong key", doctor("doctor task", "sk-planted-too"), 5);
    home.edit("farthing.toml", "price = { input = 0.25, output = 0.75 }", "");
    show("no price", doctor("doctor task --offline", "x"), 2);
    home.point_at("http://127.0.0.1:9/v1", "");
    show("nobody there, and no task", doctor("doctor", ""), 5);
    home.write("store.db", "no database at all, but a text that is long enough to be taken for one by its size");
    show("a store that is none, and a typo", doctor("doctor tsak --offline --store store.db", ""), 2);
    assert_eq!(server.ledger().requests, 0, "nothing that is billed was asked");
    snapshot("doctor", &text);
    // The endpoints beside a broken task are its own.
    home.edit("task/task.toml", "[task]", "[task]\nodd = 1");
    let broken = doctor("doctor task --offline", "").ended(2).stdout;
    assert!(broken.contains("odd") && !broken.contains("there is none"), "{broken}");
}

#[cfg(unix)]
#[test]
fn doctor_minds_who_may_read_a_key() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::over_http(4, "http://127.0.0.1:9/v1", "api_key_file = \"key\"");
    home.write("key", "sk-planted-0123456789\n");
    for (mode, status) in [(0o644, "warning"), (0o600, "ok")] {
        std::fs::set_permissions(home.path("key"), std::fs::Permissions::from_mode(mode)).unwrap();
        let found = home.run("doctor task --offline --json", &[]).ended(0);
        assert!(!found.stdout.contains("planted"));
        let json = found.json();
        let key = json
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["about"] == "key" && check["message"].as_str().unwrap().contains("file"));
        assert_eq!(key.unwrap()["status"], status, "{json:#}");
    }
}

/// The names of all commands, from the main help.
fn commands(home: &Home) -> Vec<String> {
    let help = home.run("-h", &[]).ended(0).stdout;
    let list = help.split("Usage:").nth(1).unwrap().split("Options:").next().unwrap();
    let named = list.lines().skip(1).filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    named.map(str::to_owned).collect()
}

#[test]
fn every_screen_of_help() {
    let home = bare();
    snapshot("help", &home.run("--help", &[]).ended(0).stdout);
    let all = commands(&home);
    assert!(all.len() >= 16, "{all:?}");
    for name in all {
        let shown = home.run(&name, &["-h"]).ended(0).stdout;
        for line in shown.lines() {
            assert!(line.chars().count() <= 100, "farthing {name} -h: {line}");
        }
        snapshot(&format!("help_{name}"), &shown);
    }
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let home = bare();
    let all = commands(&home);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = home.run("completions", &[shell]).ended(0).stdout;
        for name in &all {
            assert!(script.contains(name.as_str()), "{name} in {shell}");
        }
        assert!(script.contains("inference-budget"), "{shell}");
    }
    home.run("man pages", &[]).ended(0);
    for name in &all {
        let page = home.read(&format!("pages/farthing-{name}.1"));
        assert!(page.contains(&format!("farthing {name}")) && page.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(home.read("pages/farthing-cache-export.1").contains("farthing cache export"));
    assert!(home.run("man", &[]).ended(0).stdout.contains(".TH farthing 1"));
    if let Ok(checked) = Command::new("bash").arg("-n").arg("/dev/stdin").stdin(std::process::Stdio::piped()).spawn() {
        use std::io::Write;
        let mut checked = checked;
        checked.stdin.take().unwrap().write_all(home.run("completions bash", &[]).stdout.as_bytes()).unwrap();
        assert!(checked.wait().unwrap().success(), "bash reads it");
    }
}

#[test]
fn misspelt_words_are_recognized() {
    let home = Home::new(4);
    let all = home.refused(&[
        "tnue task --budget 1",
        "tune task --bugdet 1",
        "tune taks --budget 1",
        "tune task --budget 1 --space task/spase.toml",
        "test resluts/sums-1",
        "completions bsah",
        "init",
        "init sums --metric numerical",
    ]);
    snapshot("misspelt", &all);
}
