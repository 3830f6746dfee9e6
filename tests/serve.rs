//! `farthing serve`: the report of a run on loopback, for who knows the token; readers are told of changes and of the end.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::Duration;

use support::{Home, finished};

/// A `farthing serve` that ends with the test.
struct Served {
    child: Child,
    port: u16,
    token: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Served {
    fn begin(home: &Home, run: &str) -> Served {
        let mut child = home.command(&["serve", run]).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let (host, token) = url.trim().strip_prefix("http://").unwrap().split_once('/').unwrap();
        let port = host.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
        Served { child, port, token: token.trim_end_matches('/').to_owned() }
    }

    /// The answer to a request: its first line, and all of it.
    fn ask(&self, head: &str) -> (String, String) {
        let mut stream = self.send(head);
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        (text.lines().next().unwrap_or_default().to_owned(), text)
    }

    fn send(&self, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = head.replace("TOKEN", &self.token).replace("PORT", &self.port.to_string());
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        stream
    }
}

const PAGE: &str = "GET /TOKEN/ HTTP/1.1\r\nHost: 127.0.0.1:PORT";

#[test]
fn only_who_knows_the_token_and_asks_by_our_name_finds_something() {
    let home = Home::new(10);
    home.run("tune task --budget 0.01 --out run --quiet", &[]).ended(0);
    let served = Served::begin(&home, "run");
    assert_eq!(served.token.len(), 32);
    assert_ne!(served.token, Served::begin(&home, "run").token);
    let (status, page) = served.ask(PAGE);
    assert_eq!(status, "HTTP/1.1 200 OK");
    for part in
        ["<html", "accuracy", "Content-Security-Policy", "cache-control: no-store", "referrer-policy: no-referrer"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(served.ask(&PAGE.replace("127.0.0.1", "localhost")).0.contains("200"));
    assert!(served.ask(&format!("{PAGE}\r\nOrigin: http://127.0.0.1:PORT")).0.contains("200"));
    let mut wrong = served.token.clone();
    wrong.replace_range(0..1, if wrong.starts_with('0') { "1" } else { "0" });
    for (what, head) in [
        ("no token", PAGE.replace("/TOKEN/", "/")),
        ("a wrong token", PAGE.replace("TOKEN", &wrong)),
        ("a part of the token", PAGE.replace("TOKEN", &served.token[..31])),
        ("a name bound anew", PAGE.replace("127.0.0.1:PORT", "evil.example")),
        ("another port", PAGE.replace("127.0.0.1:PORT", "127.0.0.1:1")),
        ("no name", PAGE.replace("Host", "Hots")),
        ("a page of another site", format!("{PAGE}\r\nOrigin: http://evil.example")),
        ("something else", PAGE.replace("TOKEN/", "TOKEN/study.toml")),
        ("a way up", PAGE.replace("TOKEN/", "TOKEN/../TOKEN/x")),
        ("another method", PAGE.replace("GET", "POST")),
    ] {
        let (status, text) = served.ask(&head);
        let refused = status.contains("404") || (what == "no name" && status.contains("400"));
        assert!(refused && !text.contains("<html"), "{what}: {status}");
    }
}

#[test]
fn readers_are_told_of_changes_and_of_the_end_and_a_stuck_one_harms_nobody() {
    let home = Home::new(20);
    let server = support::server(farthing::serve::mock::Options {
        latency: farthing::serve::mock::Latency::Fixed(Duration::from_millis(40)),
        ..Default::default()
    });
    home.point_at(&server.url(), "");
    let words = "tune task --budget 0.1 --concurrency 2 --quiet --json --out run";
    let child = home.command(&words.split(' ').collect::<Vec<_>>()).spawn().unwrap();
    support::until("the run begins", || {
        std::fs::metadata(home.path("run/events.jsonl")).is_ok_and(|about| about.len() > 1)
    });
    let served = Served::begin(&home, "run");
    let events = PAGE.replace("TOKEN/", "TOKEN/events");
    // One asks and never reads, one goes away in the middle.
    let _stuck = served.send(&events);
    drop(served.send(&events));
    // In markup a slash may stand escaped.
    let page = || served.ask(PAGE).1.replace("&#x2f;", "/");
    assert!(page().contains(&format!("/{}/events", served.token)), "the page listens while the run goes on");
    let mut told = BufReader::new(served.send(&events)).lines().map_while(Result::ok);
    let first = told.find(|line| line.starts_with("data:")).unwrap();
    assert!(first.trim_start_matches("data:").trim().parse::<u64>().is_ok(), "{first}");
    finished(child).ended(0);
    assert!(told.any(|line| line == "event: end"), "the end is told");
    assert!(!page().contains("/events\""), "an ended run is not listened to");
}

#[test]
fn what_is_no_run_is_not_served() {
    let home = Home::new(4);
    let done = home.run("serve task", &[]).ended(2);
    assert!(done.stderr.contains("task is no run's folder"), "{}", done.stderr);
}
