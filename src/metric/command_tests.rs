//! Tests of the command metric with small scripts.

use std::path::Path;
use std::time::Instant;

use super::*;
use crate::metric::text::tests::{instance, samples, table};
use crate::metric::{Built, build, judge};

/// True where python3 is there; else says that the test is skipped.
fn python() -> bool {
    let there = locate("python3", Path::new("")).is_ok();
    if !there {
        println!("skipped: there is no python3");
    }
    there
}

/// A metric by a Python program that has `line`, the question, in a loop.
fn script(folder: &Path, before: &str, body: &str, options: &str) -> Built {
    let indented: String = body.lines().map(|line| format!("    {line}\n")).collect();
    let text =
        format!("import sys, json, os, time\n{before}\nfor line in sys.stdin:\n    q = json.loads(line)\n{indented}");
    std::fs::write(folder.join("score.py"), text).unwrap();
    command(folder, &format!("command = [\"python3\", \"-u\", \"score.py\"]\n{options}"))
}

/// The same in a folder of its own; none where there is no Python.
fn scripted(before: &str, body: &str, options: &str) -> Option<(tempfile::TempDir, Built)> {
    let folder = tempfile::tempdir().unwrap();
    let built = python().then(|| script(folder.path(), before, body, options))?;
    Some((folder, built))
}

fn command(folder: &Path, lines: &str) -> Built {
    let mut table = table(&format!("type = \"command\"\n{lines}"));
    table.folder = folder.to_owned();
    build(&table).unwrap_or_else(|error| panic!("{error:?}"))
}

fn ask(built: &Built, texts: &[&str]) -> Result<Metrics, String> {
    judge(&*built.metric, &instance(json!({"answer": "x"})), &samples(texts))
}

fn metrics<const N: usize>(values: [(&str, f64); N]) -> Result<Metrics, String> {
    Ok(values.iter().map(|&(name, value)| (name.to_owned(), value)).collect())
}

#[test]
fn a_program_scores() {
    let body = "i, r = q['instance'], q['responses']\n\
                right = [s['text'] == i['answer'] for s in r]\n\
                print(json.dumps({'id': q['id'], 'any': any(right), 'n': len(r), 'tokens': r[0]['completion_tokens'] + 0.5,\
                'row': int(i['id']), 'stop': r[0]['finish_reason'] == 'stop', 'here': os.path.exists('score.py')}))";
    let Some((_folder, built)) = scripted("", body, "workers = 1") else { return };
    built.prepare().unwrap();
    assert_eq!(built.output, None);
    let expected =
        |any, n| metrics([("any", any), ("here", 1.0), ("n", n), ("row", 1.0), ("stop", 1.0), ("tokens", 7.5)]);
    assert_eq!(ask(&built, &["y\n\u{2028}é", "x"]), expected(1.0, 2.0));
    assert_eq!(ask(&built, &["y"]), expected(0.0, 1.0));
}

#[test]
fn large_lines_do_not_lock() {
    // It writes as much to standard error as it reads, and answers with a long line.
    let body = "sys.stderr.write('e' * 300000 + '\\n')\nprint(json.dumps({'n': len(q['responses'][0]['text']), 'x' * 300000: 1}))";
    let Some((_folder, built)) = scripted("", body, "") else { return };
    let text = "ä\n".repeat(500_000);
    assert_eq!(ask(&built, &[&text]).unwrap()["n"], 1_000_000.0);
}

#[test]
fn many_threads_share_the_workers() {
    let before = "open('starts', 'a').write('x')";
    let Some((folder, built)) = scripted(before, "print(len(q['responses'][0]['text']))", "workers = 2") else {
        return;
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let built = &built;
            scope.spawn(move || {
                for i in 0..20 {
                    let text = "x".repeat(thread * 20 + i);
                    assert_eq!(ask(built, &[&text]), metrics([("m", text.len() as f64)]));
                }
            });
        }
    });
    assert!(std::fs::read(folder.path().join("starts")).unwrap().len() <= 2);
}

#[test]
fn a_crash_is_retried_once_and_then_told() {
    let once = "t = q['responses'][0]['text']\n\
                if t == 'die' or (t == 'once' and not os.path.exists('died')):\n    open('died', 'a').write('x')\n    raise ValueError('ouch')\n\
                print('true')";
    let Some((folder, built)) = scripted("", once, "workers = 1") else { return };
    assert_eq!(ask(&built, &["once"]), metrics([("m", 1.0)]));
    assert_eq!(ask(&built, &["fine"]), metrics([("m", 1.0)]));
    let reason = ask(&built, &["die"]).unwrap_err();
    assert!(reason.contains("exit code 1") && reason.contains("ValueError: ouch"), "{reason}");
    assert_eq!(std::fs::read(folder.path().join("died")).unwrap().len(), 3);
    assert_eq!(ask(&built, &["fine"]), metrics([("m", 1.0)]));

    let built = script(folder.path(), "", once, "workers = 1\nrestart = false");
    assert!(ask(&built, &["die"]).unwrap_err().contains("exit code 1"));
    assert!(ask(&built, &["fine"]).unwrap_err().starts_with("not started again after: "));
    assert_eq!(std::fs::read(folder.path().join("died")).unwrap().len(), 4);
}

#[test]
fn a_silent_program_times_out() {
    let body =
        "if q['responses'][0]['text'] == 'slow':\n    sys.stderr.write('thinking\\n')\n    time.sleep(60)\nprint(0.5)";
    let Some((_folder, built)) = scripted("", body, "workers = 1\ntimeout_seconds = 2") else { return };
    let start = Instant::now();
    let reason = ask(&built, &["slow"]).unwrap_err();
    assert!(reason.contains("did not answer within 2 s") && reason.contains("thinking"), "{reason}");
    assert_eq!(ask(&built, &["fast"]), metrics([("m", 0.5)]));
    assert!(start.elapsed().as_secs() < 30);
}

#[cfg(unix)]
#[test]
fn a_program_that_never_reads_times_out_with_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let built = command(folder.path(), "command = [\"sh\", \"-c\", \"sleep 50; echo 1\"]\ntimeout_seconds = 0.3");
    let start = Instant::now();
    assert!(ask(&built, &[&"long ".repeat(1_000_000)]).unwrap_err().contains("did not answer within 0.3 s"));
    drop(built);
    assert!(start.elapsed().as_secs() < 10);
}

#[cfg(unix)]
#[test]
fn programs_end_with_the_metric() {
    let folder = tempfile::tempdir().unwrap();
    let loops = "command = [\"sh\", \"-c\", \"while read line; do echo $$; done\"]\nworkers = 1";
    let built = command(folder.path(), loops);
    let id = ask(&built, &["x"]).unwrap()["m"];
    let alive = || {
        std::process::Command::new("sh").args(["-c", &format!("kill -0 {id} 2>/dev/null")]).status().unwrap().success()
    };
    assert!(alive());
    drop(built);
    assert!(!alive());
}

#[cfg(unix)]
#[test]
fn garbage_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let answer = |line: &str| {
        let line = line.replace('"', "\\\"");
        let built = command(folder.path(), &format!("command = [\"sh\", \"-c\", \"read q; echo '{line}'; read q\"]"));
        ask(&built, &["x"])
    };
    for (line, part) in [
        ("hello", "`hello`, which is not JSON"),
        ("{\"a\": NaN}", "NaN and Infinity are no numbers"),
        ("{}", "holds no value"),
        ("{\"id\": 1}", "holds no value"),
        ("{\"id\": 7, \"a\": 1}", "another `id`"),
        ("{\"a\": null}", "`a` is no number"),
        ("{\"a\": \"1\"}", "`a` is no number"),
        ("[1]", "no number and no object"),
        ("1e999", "not JSON"),
    ] {
        let reason = answer(line).unwrap_err();
        assert!(reason.contains(part) && reason.starts_with("the program `sh` answered"), "{line}: {reason}");
    }
    assert_eq!(answer("{\"error\": \"no gold\"}"), Err("no gold".into()));
    assert_eq!(answer("{\"error\": 0.5}"), metrics([("error", 0.5)]));
    assert_eq!(answer("{\"a\": false, \"error\": null}"), metrics([("a", 0.0)]));
    assert_eq!(answer("true"), metrics([("m", 1.0)]));
    let twice =
        command(folder.path(), "command = [\"sh\", \"-c\", \"while read q; do echo 1; echo 2; done\"]\nworkers = 1");
    // Both lines may be there at once, or the second one only when the next question comes.
    if let Ok(first) = ask(&twice, &["x"]) {
        assert_eq!(Ok(first), metrics([("m", 1.0)]));
        std::thread::sleep(Duration::from_millis(200));
    }
    for _ in 0..3 {
        // No other instance is asked either.
        assert!(ask(&twice, &["x"]).unwrap_err().contains("nothing had asked for"));
    }
}

#[test]
fn a_stray_line_moves_no_score_to_another_instance() {
    let before = "seen = 0";
    let body =
        "seen += 1\nif seen == 2: print('warning: slow')\ntime.sleep(0.02)\nprint(len(q['responses'][0]['text']))";
    let Some((_folder, built)) = scripted(before, body, "workers = 1") else { return };
    let scores: Vec<_> = (1..=7).map(|length| ask(&built, &[&"x".repeat(length)])).collect();
    for (at, score) in scores.iter().enumerate() {
        match score {
            Ok(_) => assert_eq!(*score, metrics([("m", at as f64 + 1.0)]), "{scores:?}"),
            Err(reason) => assert!(reason.contains("`warning: slow`, which is not JSON"), "{reason}"),
        }
    }
    assert_eq!(scores.iter().filter(|score| score.is_err()).count(), 3, "each instance's second: {scores:?}");
}

#[test]
fn a_missing_program_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let built = command(folder.path(), "command = [\"no-such-program-here\", \"x\"]");
    assert!(ask(&built, &["x"]).unwrap_err().contains("no program `no-such-program-here` in PATH"));
    let error = built.prepare().unwrap_err();
    assert_eq!(error.location().as_deref(), Some("task.toml:1:10"));
    let built = command(folder.path(), "command = [\"./none.sh\"]");
    assert!(built.prepare().unwrap_err().message().contains("none.sh"));
}

#[test]
fn options_are_checked() {
    for (lines, place) in [
        ("command = []", "task.toml:3:11"),
        ("command = [\"\"]", "task.toml:3:11"),
        ("command = [\"x\"]\ntimeout_seconds = 0", "task.toml:4:19"),
        ("command = [\"x\"]\ntimeout_seconds = 1e300", "task.toml:4:19"),
        ("command = [\"x\"]\nworkers = 0", "task.toml:4:11"),
        ("command = [\"x\"]\nvote = \"any\"", "task.toml:4:1"),
        ("command = \"x\"", "task.toml:3:11"),
    ] {
        let error = build(&table(&format!("type = \"command\"\n{lines}"))).unwrap_err();
        assert_eq!(error.location().as_deref(), Some(place), "{lines}: {error}");
    }
}
