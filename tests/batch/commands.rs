//! `farthing batch`, killed and beside others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use farthing::Usd;
use farthing::backend::Endpoints;
use farthing::batch::{self, Ask, Batches};
use farthing::provider::Input;
use farthing::store::{SqliteStore, Store};
use serde_json::{Value, json};

use crate::support::{self, Home, dollars, snapshot};
use crate::{buying, files_left, many, quick, run};

fn lines(asks: &[Ask]) -> String {
    let line = |ask: &Ask| {
        let Input::Messages(messages) = &ask.request.input else { panic!() };
        json!({"id": ask.id, "model": ask.request.model, "messages": messages, "n": ask.request.n,
               "params": ask.request.params})
        .to_string()
    };
    asks.iter().map(|ask| line(ask) + "\n").collect()
}

#[test]
fn a_program_that_is_killed_anywhere_goes_on_and_buys_nothing_twice() {
    // Batches take nine lives of the program, however fast or slow the machine is.
    let server = quick(|batches| batches.duration = Duration::from_secs(900));
    let more = "batch = { max_requests = 40 }";
    let home = Home::over_http(1, &server.url(), more);
    home.write("asks.jsonl", lines(&many(120)));
    let arguments = "batch invoke asks.jsonl --out answers.jsonl --poll 0.02 --grace 1 --json --quiet";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut kills = 0;
    let done = loop {
        let mut child = home.command(&arguments).spawn().unwrap();
        if kills < 18 {
            // From before anything is written down to the last results.
            std::thread::sleep(Duration::from_millis(5 + 23 * (kills % 9)));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                kills += 1;
            }
            server.advance(Duration::from_secs(100));
        } else {
            while child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(50));
                server.advance(Duration::from_secs(100));
            }
        }
        let done = support::finished(child);
        if done.code != -1 {
            break done.ended(0);
        }
    };
    assert!(kills >= 8, "it was over after {kills} kills");
    let status = done.json();
    assert_eq!((&status["answered"], &status["failed"]), (&json!(120), &json!(0)));
    let ledger = server.ledger();
    assert_eq!((ledger.batch_lines, ledger.batches.bills), (120, 120), "a line was sent twice");
    assert_eq!(dollars(&status, "spent_usd"), ledger.billed);
    assert_eq!(dollars(&status, "held_usd"), Usd::ZERO);
    let answers = home.read("answers.jsonl");
    let ids: Vec<String> = answers
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, (0..120).map(|at| format!("id-{at}")).collect::<Vec<_>>());
    let store = SqliteStore::open(home.path(".farthing/store.db")).unwrap();
    assert_eq!(store.contents().unwrap().groups.values().map(|sums| sums.samples).sum::<u64>(), 120);
    assert_eq!(run(files_left(&server)), 0);
}

#[test]
fn two_programs_at_once_share_the_work() {
    let server = quick(|batches| batches.duration = Duration::from_millis(300));
    let home = Home::over_http(1, &server.url(), "batch = { max_requests = 10 }");
    home.write("asks.jsonl", lines(&many(30)));
    let arguments = ["batch", "invoke", "asks.jsonl", "--poll", "0.02", "--quiet"];
    let children: Vec<_> = (0..3).map(|_| home.command(&arguments).spawn().unwrap()).collect();
    let outputs: Vec<String> = children.into_iter().map(|child| support::finished(child).ended(0).stdout).collect();
    assert_eq!((&outputs[0], &outputs[0]), (&outputs[1], &outputs[2]));
    assert_eq!((outputs[0].lines().count(), server.ledger().batch_lines), (30, 30));
}

#[test]
fn the_commands_say_what_they_did() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let home = Home::over_http(1, &server.url(), "");
    let openai = json!({"custom_id": "first", "method": "POST", "url": "/v1/chat/completions", "body":
        {"model": "mock-small", "messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 20}});
    let own = json!({"id": "second", "model": "mock-small", "messages": [{"role": "user", "content": "1 + 2?"}],
        "max_tokens": 20, "n": 2});
    home.write("asks.jsonl", format!("{openai}\n{own}\n"));
    let dry = home.run("batch create asks.jsonl --dry-run", &[]).ended(0);
    let created = home.run("batch create asks.jsonl", &[]).ended(0);
    let status = home.run("batch status", &[]).ended(0);
    server.advance(Duration::from_secs(2000));
    let name = home.run("batch list --json", &[]).ended(0).json()[0]["job"].as_str().unwrap().to_owned();
    let retrieved = home.run("batch retrieve", &[&name]).ended(0);
    let by_file = home.run("batch retrieve asks.jsonl --quiet", &[]).ended(0);
    assert_eq!(by_file.stdout, retrieved.stdout);
    let over = home.run("batch status", &[]).ended(0);
    let list = home.run("batch list", &[]).ended(0);
    let cut = home.run("batch create asks.jsonl --budget 0.000001", &[]).ended(0);
    let mut more = lines(&many(3));
    more = more.replace("id-1\"", "id-0\"");
    home.write("twice.jsonl", more);
    let twice = home.run("batch create twice.jsonl", &[]).ended(2);
    home.write("poor.jsonl", lines(&many(30)[20..]));
    let poor = home.run("batch create poor.jsonl --budget 0.0001 --quiet", &[]).ended(3);
    let unknown = home.run("batch retrieve job-none", &[]).ended(2);
    home.point_at(&server.url(), "drop_params = [\"temperature\"]\nmax_retries = 0");
    home.edit("farthing.toml", "provider = \"openai\"", "provider = \"ollama\"");
    let none = home.run("batch create poor.jsonl", &[]).ended(2);
    let mut text = String::new();
    for (what, done) in [
        ("create --dry-run", dry),
        ("create", created),
        ("status", status),
        ("retrieve", retrieved),
        ("status, when all is over", over),
        ("list", list),
        ("create, when all is there", cut),
        ("create, an id twice", twice),
        ("create, over the budget", poor),
        ("retrieve, an unknown job", unknown),
        ("create, no batch API", none),
    ] {
        text += &format!("== {what}\n{}-- standard error\n{}\n", done.stdout, done.stderr);
    }
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"job-[0-9a-f]{16}", "job-NAME");
    settings.add_filter(r"batch_mock_\d+", "batch_mock_N");
    settings.bind(|| snapshot("batch_commands", &text));
}

/// The URL of a server that takes any file, and whose only batch has a state of these words for good.
fn in_state(words: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
            stream.read_line(&mut first).unwrap();
            while stream.read_line(&mut line).unwrap() > 2 {
                let size = line.to_lowercase();
                length = size.strip_prefix("content-length:").map_or(length, |size| size.trim().parse().unwrap());
                line.clear();
            }
            stream.read_exact(&mut vec![0; length]).unwrap();
            let body = match first.as_str() {
                file if file.starts_with("POST /v1/files") => json!({"id": "file-1", "object": "file", "bytes": 1}),
                list if list.starts_with("GET /v1/batches?") => json!({"data": [], "has_more": false}),
                _ => json!({"id": "batch_\u{1b}[31m", "object": "batch", "status": words, "input_file_id": "file-1"}),
            };
            let body = body.to_string();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length:";
            write!(stream.get_mut(), "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    url
}

#[test]
fn what_a_server_says_does_not_speak_to_the_terminal() {
    let home = Home::over_http(1, &in_state("in_progress\u{1b}]0;owned\u{7}"), "");
    home.write("asks.jsonl", lines(&many(1)));
    let shown = home.run("batch invoke asks.jsonl --poll 0.05 --max-wait 300ms", &[]).ended(0);
    assert!(shown.stderr.contains("\\u{1b}[31m (mock-small, 1 lines)"), "{}", shown.stderr);
    assert!(shown.stderr.contains("in_progress\\u{1b}]0;owned"), "{}", shown.stderr);
    let status = home.run("batch status", &[]).ended(0);
    for text in [shown.stderr, shown.stdout, status.stderr, status.stdout] {
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }
}

/// A local server's key may be any word, and stand in the ids that the provider gives.
#[test]
fn a_short_key_in_an_id_breaks_nothing() {
    for key in ["mock", "file", "k"] {
        let server = quick(|_| {});
        let home = Home::over_http(1, &server.url(), "");
        home.write("asks.jsonl", lines(&many(2)));
        let mut command = home.command(&["batch", "invoke", "asks.jsonl", "--poll", "0.02", "--json", "--quiet"]);
        let done = support::done(command.env("OPENAI_API_KEY", key)).ended(0);
        assert_eq!((&done.json()["answered"], run(files_left(&server))), (&json!(2), 0), "{key}: {}", done.stdout);
    }
    // What a provider says of a batch, or of a line, is kept and shown without it.
    for (key, model, most) in [("hunter2", "hunter2-model", 5), ("tokens", "mock-small", 1_000_000)] {
        let server = quick(|_| {});
        let home = Home::over_http(1, &server.url(), "");
        let ask = json!({"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": most});
        home.write("asks.jsonl", ask.to_string());
        let mut command = home.command(&["batch", "invoke", "asks.jsonl", "--poll", "0.02", "--json", "--quiet"]);
        let done = support::done(command.env("OPENAI_API_KEY", key)).ended(5);
        let message = done.json()["answers"][0]["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("(secret)") && !message.contains(key), "{message}");
    }
}

#[test]
fn what_would_be_refused_or_ignored_is_said_before_anything_is_uploaded() {
    let server = quick(|_| {});
    let home = Home::over_http(1, &server.url(), "");
    for (field, says) in [
        ("\"max_tokns\": 3", "unknown parameter `max_tokns`"),
        ("\"stream\": true, \"max_tokens\": 5", "`stream` is no parameter here"),
    ] {
        home.write("asks.jsonl", format!("\n{{\"model\": \"mock-small\", \"prompt\": \"p\", {field}}}\n"));
        for command in ["create asks.jsonl --dry-run", "create asks.jsonl", "invoke asks.jsonl --budget 1"] {
            let done = home.run(&format!("batch {command}"), &[]).ended(2);
            assert!(done.stderr.contains(says) && done.stderr.contains("asks.jsonl:2:"), "{command}: {}", done.stderr);
        }
    }
    assert!(server.ledger().requests == 0 && !home.path(".farthing").exists(), "nothing was begun");
}

#[test]
fn no_answer_at_all_is_exit_5() {
    let server = quick(|_| {});
    let home = Home::over_http(1, &server.url(), "");
    let ask = |model: &str| format!("{{\"model\": \"{model}\", \"prompt\": \"p\", \"max_tokens\": 5}}\n");
    home.write("none.jsonl", ask("no-such-model"));
    let done = home.run("batch invoke none.jsonl --poll 0.02 --out answers.jsonl", &[]).ended(5);
    assert!(done.stdout.contains("1 requests, 0 answered, 1 failed"), "{}", done.stdout);
    assert!(done.stderr.contains("no request was answered; the first failed so: "), "{}", done.stderr);
    assert!(home.read("answers.jsonl").contains("\"status\":\"failed\""), "what there is was written");
    home.run("batch retrieve none.jsonl", &[]).ended(5);
}

#[test]
fn a_store_on_disk_is_found_by_other_programs() {
    // The library in this process, then the program: the same job, by its contents.
    let server = quick(|_| {});
    let home = Home::over_http(1, &server.url(), "");
    let asks = many(5);
    home.write("asks.jsonl", lines(&asks));
    {
        let store = SqliteStore::open(home.path(".farthing/store.db")).unwrap();
        let endpoints = Endpoints::load(&home.path("farthing.toml")).unwrap();
        let batches = Batches::with_options(endpoints, store, buying());
        run(batch::create(&batches, asks)).unwrap();
    }
    let done = home.run("batch invoke asks.jsonl --poll 0.02 --json --quiet", &[]).ended(0).json();
    assert_eq!((&done["answered"], server.ledger().batch_lines), (&json!(5), 5));
    assert_eq!(done["answers"][4]["id"], "id-4");
}
