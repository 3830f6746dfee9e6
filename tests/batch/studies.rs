//! `farthing tune --batch`.

use std::time::Duration;

use farthing::Usd;
use farthing::store::{BatchBook, SqliteStore};

use crate::quick;
use crate::support::{self, Home, dollars, signal, until, usd};

#[test]
fn a_study_by_batch_costs_half_and_survives_being_killed() {
    let server = quick(|batches| batches.duration = Duration::from_millis(300));
    let line = "tune task --budget 0.05 --seed 3 --quiet --json --batch --batch-poll 0.02";
    let home = Home::over_http(24, &server.url(), "");
    let whole = home.run(line, &["--out", "whole"]).ended(0).json();
    let ledger = server.ledger();
    assert_eq!((ledger.requests, ledger.batches.billed), (0, ledger.billed), "all went through the batch API");
    assert_eq!((dollars(&whole, "spent_usd"), dollars(&whole, "lost_usd")), (ledger.billed, Usd::ZERO));
    assert_eq!(dollars(&whole, "study_cost_usd"), ledger.billed);
    let rounds = SqliteStore::open(home.path(".farthing/store.db")).unwrap();
    let batches = rounds.batches(false).unwrap();
    let lines: u64 = batches.iter().map(|batch| batch.lines[0]).sum();
    assert_eq!(lines, ledger.batch_lines);
    assert!(lines / batches.len() as u64 >= 10, "{} lines in {} batches", lines, batches.len());
    // The production cost is that of ordinary requests: nobody serves by batch.
    let best = &whole["best"];
    assert!(dollars(best, "production_cost_usd_per_instance") > Usd::ZERO);

    // Killed again and again it comes to the same.
    server.reset();
    let again = Home::over_http(24, &server.url(), "");
    let arguments: Vec<&str> = line.split(' ').chain(["--resume", "run"]).collect();
    let mut kills = 0;
    let last = loop {
        let mut child = again.command(&arguments).spawn().unwrap();
        if kills < 6 {
            std::thread::sleep(Duration::from_millis(60 + 130 * kills));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                kills += 1;
            }
        }
        let done = support::finished(child);
        if done.code != -1 {
            break done.ended(0).json();
        }
    };
    assert!(kills >= 3, "it was over after {kills} kills");
    assert_eq!(support::decided(last.clone()), support::decided(whole), "the same study");
    assert_eq!(dollars(&last, "spent_usd"), server.ledger().billed);
    assert_eq!(server.ledger().batch_lines, lines, "nothing was sent twice");
    for file in ["best.toml", "ranking.csv"] {
        assert_eq!(again.read(&format!("run/{file}")), home.read(&format!("whole/{file}")), "{file}");
    }
    // What it bought is there for ordinary requests, too.
    let before = server.ledger().billed;
    again.run("evaluate task --config run/best.toml --budget 0.05 --quiet", &[]).ended(0);
    let missing = 24 - last["best"]["instances"].as_u64().unwrap();
    assert!(server.ledger().requests <= missing, "asked again: {} of {missing} missing", server.ledger().requests);
    assert!(missing > 0 || server.ledger().billed == before);
}

#[test]
fn stragglers_of_a_round_are_asked_in_the_ordinary_way() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let home = Home::over_http(8, &server.url(), "");
    home.edit("task/space.toml", "choices = [1, 3, 10]", "choices = [1]");
    let line =
        "tune task --budget 0.05 --quiet --json --batch --batch-poll 0.02 --batch-wait 1s --max-trials 2 --out run";
    let mut child = home.command(&line.split(' ').collect::<Vec<_>>()).spawn().unwrap();
    // Cancelling takes a tenth of the time that a batch takes.
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(200));
        server.advance(Duration::from_secs(20));
    }
    let done = support::finished(child).ended(0).json();
    let ledger = server.ledger();
    assert!(ledger.requests > 0, "nothing was asked in the ordinary way");
    assert_eq!(dollars(&done, "spent_usd"), ledger.billed);
    assert!(dollars(&done, "study_cost_usd") <= ledger.billed, "the study counts the batch's price");
    assert!(ledger.billed <= usd("0.05") && done["failed_evaluations"] == 0);
}

#[test]
fn a_study_by_batch_can_be_left_and_gone_on_with() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let home = Home::over_http(8, &server.url(), "");
    let line = "tune task --budget 0.05 --quiet --json --batch --batch-poll 0.02 --max-trials 2 --resume run";
    let line: Vec<&str> = line.split(' ').collect();
    let mut child = home.command(&line).spawn().unwrap();
    let store = home.path(".farthing/store.db");
    let out = || {
        store.is_file()
            && SqliteStore::open(&store)
                .unwrap()
                .batches(true)
                .unwrap()
                .iter()
                .any(|batch| batch.progress.remote.is_some())
    };
    until("a batch is out", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before a batch was out");
        out()
    });
    signal(&child, "INT");
    // It does not wait for the batch.
    let left = support::finished(child).ended(130).json();
    assert!(dollars(&left, "lost_usd") > Usd::ZERO, "what is out is held: {left}");
    // Days later.
    let mut child = home.command(&line).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(100));
        server.advance(Duration::from_secs(600));
    }
    let done = support::finished(child).ended(0).json();
    assert_eq!((dollars(&done, "spent_usd"), server.ledger().requests), (server.ledger().billed, 0));
}
