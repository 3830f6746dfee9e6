//! The live view from outside: a run is watched, paused, stopped, and its budget changed, and what comes of it is the same
//! when it is run again.

mod support;

use std::process::Child;
use std::time::Duration;

use farthing::serve::mock::{Latency, MockServer, Options};
use serde_json::{Value, json};
use support::{Home, decided, dollars, finished, server, snapshot, steady, until, usd};

/// A run over HTTP that takes a while, and the account of the endpoint.
struct Run {
    home: Home,
    server: MockServer,
}

impl Run {
    fn new() -> Run {
        let latency = Latency::Fixed(Duration::from_millis(15));
        let server = server(Options { answers: steady().0, latency, ..Options::default() });
        Run { home: Home::over_http(30, &server.url(), ""), server }
    }

    fn begin(&self, line: &str) -> Child {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.home.command(&words).spawn().unwrap()
    }

    /// Evaluations that the record knows by now.
    fn known(&self, run: &str) -> usize {
        let text = std::fs::read_to_string(self.home.path(&format!("{run}/events.jsonl"))).unwrap_or_default();
        text.matches("\"evaluation_finished\"").count()
    }

    #[track_caller]
    fn after(&self, run: &str, evaluations: usize) {
        until("so many evaluations", || self.known(run) >= evaluations);
    }

    fn wish(&self, run: &str, wish: &Value) {
        use std::io::Write;
        let path = self.home.path(&format!("{run}/control.jsonl"));
        let mut file = std::fs::File::options().append(true).open(path).unwrap();
        writeln!(file, "{wish}").unwrap();
    }
}

const TUNE: &str = "tune task --budget 0.2 --concurrency 4 --quiet --json";

#[test]
fn a_lowered_budget_holds_and_is_decided_again_the_same() {
    let run = Run::new();
    let child = run.begin(&format!("{TUNE} --out run"));
    run.after("run", 40);
    run.wish("run", &json!({"wish": "budget", "budget_usd": "0.02"}));
    let done = finished(child).ended(0).json();
    let budget = dollars(&done, "budget_usd");
    assert!(budget < usd("0.2") && done["stop_reason"] == "budget", "{done:#}");
    assert!(dollars(&done, "study_cost_usd") <= budget && run.server.ledger().billed <= budget);
    let study = run.home.read("run/study.toml");
    assert!(study.contains("[[settings.budget_changes]]") && study.contains("budget_usd = \"0.2\""), "{study}");
    assert!(run.home.read("run/events.jsonl").contains("\"budget_changed\""));
    assert!(!run.home.path("run/control.jsonl").exists());
    // Run again, from the store and anew, at another concurrency: the same to the last byte of what was decided.
    let asked = run.server.ledger().requests;
    let again = run.home.run("tune --resume run --quiet --json --concurrency 32", &[]).ended(0).json();
    assert_eq!((decided(again.clone()), run.server.ledger().requests), (decided(done.clone()), asked));
    for file in ["ranking.csv", "best.toml"] {
        let before = run.home.read(&format!("run/{file}"));
        run.home.run("tune --resume run --quiet", &[]).ended(0);
        assert_eq!(run.home.read(&format!("run/{file}")), before, "{file}");
    }
    // A budget may only rise: above what it was lowered to.
    run.home.run("tune --resume run --budget 0.0001", &[]).ended(2);
    // Back at what it was begun with, it is kept: to go on once more takes nothing back.
    let more = run.home.run("tune --resume run --budget 0.2 --quiet --json", &[]).ended(0).json();
    assert_eq!(dollars(&more, "budget_usd"), usd("0.2"));
    assert!(!run.home.read("run/study.toml").contains("budget_changes"));
    let again = run.home.run("tune --resume run --quiet --json", &[]).ended(0).json();
    assert_eq!(decided(again), decided(more));
}

#[test]
fn a_raised_budget_buys_more_and_never_more_than_that() {
    for strategy in ["race", "halving", "grid"] {
        let run = Run::new();
        let child = run
            .begin(&format!("tune task --budget 0.01 --strategy {strategy} --concurrency 4 --quiet --json --out run"));
        run.after("run", 20);
        run.wish("run", &json!({"wish": "budget", "budget_usd": "0.02"}));
        let done = finished(child).ended(0).json();
        let cost = dollars(&done, "study_cost_usd");
        assert!(cost > usd("0.01") && cost <= usd("0.02"), "{strategy}: {done:#}");
        assert!(run.server.ledger().billed <= usd("0.02"));
        let again = run.home.run("tune --resume run --quiet --json", &[]).ended(0).json();
        assert_eq!(decided(again), decided(done), "{strategy}");
    }
}

#[test]
fn a_pause_sends_nothing_and_decides_nothing() {
    let run = Run::new();
    let child = run.begin(&format!("{TUNE} --out run"));
    run.after("run", 30);
    run.wish("run", &json!({"wish": "pause"}));
    until("it pauses", || run.home.read("run/events.jsonl").contains("{\"event\":\"paused\",\"paused\":true}"));
    // What was in flight lands within moments; then nothing is sent until it goes on.
    let mut asked = 0;
    until("the endpoint is left alone", || {
        let before = std::mem::replace(&mut asked, run.server.ledger().requests);
        std::thread::sleep(Duration::from_millis(150));
        before == asked
    });
    let shown = run.home.run("watch run --once", &[]).ended(0).stdout;
    assert!(shown.contains("paused") && shown.contains("sums  race"), "{shown}");
    run.wish("run", &json!({"wish": "go_on"}));
    let done = finished(child).ended(0).json();
    assert!(run.server.ledger().requests > asked, "it was over before it paused");
    let straight = run.home.run(&format!("{TUNE} --out other --store other.db"), &[]).ended(0).json();
    assert_eq!(decided(done), decided(straight));
}

#[test]
fn a_stop_keeps_what_is_paid_for_and_resumes_to_the_same() {
    let run = Run::new();
    let child = run.begin(&format!("{TUNE} --out run"));
    run.after("run", 30);
    run.wish("run", &json!({"wish": "stop"}));
    let stopped = finished(child).ended(130).json();
    assert_eq!(stopped["stop_reason"], "interrupted");
    let whole = run.home.run("tune --resume run --quiet --json", &[]).ended(0).json();
    let straight = run.home.run(&format!("{TUNE} --out other --store other.db"), &[]).ended(0).json();
    assert_eq!(decided(whole), decided(straight));
}

#[test]
fn what_people_see() {
    let home = Home::new(30);
    home.run("tune task --budget 0.05 --out run --quiet", &[]).ended(0);
    snapshot("watch", &home.run("watch run --once", &[]).ended(0).stdout);
    assert_eq!(home.run("watch run", &[]).ended(0).stdout, home.run("watch run --once", &[]).stdout, "no terminal");
    let none = home.run("watch nowhere", &[]).ended(2);
    assert!(none.stderr.contains("nowhere is no run's folder"), "{}", none.stderr);
    // Where there is no terminal, --live shows the plain lines.
    let plain = home.run("tune task --budget 0.05 --out live --live", &[]).ended(0);
    assert!(
        plain.stderr.contains("evaluations,") && !plain.stderr.contains('\u{1b}') && !plain.stdout.contains('\u{1b}')
    );
    // A record that is cut off or odd is shown as far as it can be understood.
    let events = home.read("run/events.jsonl");
    home.write(
        "run/events.jsonl",
        format!("{}\nnonsense\n{{\"event\":\"unheard_of\"}}\n{{\"ev", &events[..events.len() / 2]),
    );
    assert!(home.run("watch run --once", &[]).ended(0).stdout.contains("running"));
}
