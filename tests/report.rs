//! `farthing report` and `farthing plot`: the page is made again from the run's folder and the store, also of a run that was
//! killed and of one whose store is gone; several runs on one page; exports; and the page in a real browser, where
//! Chromium, node and playwright-core are at hand (else the test says "skipped").

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::{Home, endpoints};

/// A run of the little task.
fn tuned(home: &Home, run: &str, more: &[&str]) {
    home.run(&format!("tune task --budget 0.05 --quiet --out {run}"), more).ended(0);
}

#[test]
fn the_page_is_made_again_from_folder_and_store() {
    let home = Home::new(24);
    tuned(&home, "run", &["--test-share", "0.3"]);
    let page = home.read("run/report.html");
    assert!(
        page.contains("data-block=\"d0.0\"") && page.contains("data-block=\"m0\""),
        "responses and scores are in it"
    );
    home.write("run/report.html", "");
    assert_eq!(home.run("report run", &[]).ended(0).stdout.trim(), "run/report.html");
    assert!(home.read("run/report.html") == page, "the same bytes");
    // From elsewhere too: the store is found from the run's folder.
    let elsewhere = home.path("deep/folder");
    std::fs::create_dir_all(&elsewhere).unwrap();
    let mut command = home.command(&["report", "../../run", "--out", "page.html"]);
    support::done(command.current_dir(&elsewhere)).ended(0);
    assert!(home.read("deep/folder/page.html") == page);
    // Without the store everything but prompts and responses is there.
    std::fs::remove_file(home.path(".farthing/store.db")).unwrap();
    let done = home.run("report run", &[]).ended(0);
    assert!(done.stderr.contains("is not there: no prompt and no response is shown"), "{done:?}");
    let less = home.read("run/report.html");
    assert!(
        !less.contains("data-block=\"d0.0\"") && less.contains("data-block=\"m0\"") && less.contains("is not there")
    );
}

#[test]
fn a_run_that_was_killed_has_a_page() {
    let home = Home::new(24);
    tuned(&home, "run", &[]);
    // What is left of a run that was killed half-way.
    let events = home.read("run/events.jsonl");
    let half: String = events.lines().take(events.lines().count() / 2).map(|line| format!("{line}\n")).collect();
    home.write("run/events.jsonl", half + "{\"event\":\"evaluation_fini");
    for name in ["summary.json", "ranking.csv", "best.toml", "report.html", "observations.csv", "observations.parquet"]
    {
        drop(std::fs::remove_file(home.path(&format!("run/{name}"))));
    }
    home.run("report run", &[]).ended(0);
    let page = home.read("run/report.html");
    assert!(page.contains("The run goes on. So far the best of") && page.contains("data-block=\"d0.0\""));
    let value = home.run("report run --json", &[]).ended(0).json();
    assert_eq!(value["ended"], json!(false));
    assert!(value["ranking"].as_array().unwrap().len() > 2 && value["summary"]["best"]["score"].is_f64(), "{value:#}");
    let csv = home.run("report run --csv", &[]).ended(0).stdout;
    assert!(csv.starts_with("rank,trial,id,standing,baseline,score"), "{csv}");
    assert!(home.run("report run --markdown", &[]).ended(0).stdout.contains("> The run goes on"));
}

#[test]
fn exports_say_what_the_summary_says() {
    let home = Home::new(24);
    tuned(&home, "run", &["--test-share", "0.3"]);
    let (summary, value) = (home.summary("run"), home.run("report run --json", &[]).ended(0).json());
    assert_eq!(value["summary"], summary);
    assert_eq!(value["ranking"].as_array().unwrap().len() as u64, summary["trials"].as_u64().unwrap());
    assert_eq!(value["ranking"][0]["id"], summary["best"]["id"]);
    assert!(!value["progress"].as_array().unwrap().is_empty());
    assert_eq!(home.run("report run --csv", &[]).ended(0).stdout.trim(), home.read("run/ranking.csv").trim());
    let markdown = home.run("report run --markdown", &[]).ended(0).stdout;
    assert!(markdown.contains("| **best** ") && markdown.contains("The models are made up"), "{markdown}");
    let instances = summary["best"]["instances"].as_u64().unwrap();
    home.run("report run --junit junit.xml --min-score 0.001", &[]).ended(0);
    let xml = home.read("junit.xml");
    assert!(xml.contains("failures=\"0\"") && xml.contains(&format!("tests=\"{instances}\"")), "{xml}");
    home.run("report run --junit junit.xml --min-score 1.5", &[]).ended(0);
    assert!(home.read("junit.xml").contains("<failure message=\"accuracy "), "{}", home.read("junit.xml"));
    for wrong in
        ["report run --json --full", "report run --junit x --json", "report run --min-score 1", "report nowhere"]
    {
        assert_eq!(home.run(wrong, &[]).code, 2, "{wrong}");
    }
}

#[test]
fn several_runs_are_one_page_and_one_plot() {
    let home = Home::new(24);
    tuned(&home, "one", &[]);
    tuned(&home, "two", &["--seed", "2"]);
    assert_eq!(home.run("report one two", &[]).ended(0).stdout.trim(), "comparison.html");
    let page = home.read("comparison.html");
    assert!(page.contains("2 runs. ") && page.contains("tried in more than one run") && page.contains("<polyline"));
    assert_eq!(home.run("report one two --json", &[]).ended(0).json().as_array().unwrap().len(), 2);
    home.run("plot one two --kind progress --out both.svg", &[]).ended(0);
    assert!(home.read("both.svg").contains("one") && home.read("both.svg").contains("two"));
    for kind in ["pareto", "progress", "importance", "n"] {
        home.run(&format!("plot one --kind {kind} --out {kind}.svg"), &[]).ended(0);
        assert!(home.read(&format!("{kind}.svg")).contains("aria-label="), "{kind}");
        home.run(&format!("plot one --kind {kind} --out {kind}.png --size 400x300"), &[]).ended(0);
        let png = std::fs::read(home.path(&format!("{kind}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 2000, "{kind}: {} bytes", png.len());
    }
    let wrong = home.run("plot one --kind pareto --out x.pdf", &[]).ended(2);
    assert!(wrong.stderr.contains("ends in .svg or .png"), "{wrong:?}");
    assert!(home.run("plot one two --kind n --out x.svg", &[]).ended(2).stderr.contains("only --kind progress"));
    in_browser(&home, "several", &home.path("comparison.html"));
}

#[cfg(feature = "parquet")]
#[test]
fn pandas_opens_the_observations() {
    let home = Home::new(24);
    tuned(&home, "run", &[]);
    let code = "import pandas, sys\nframe = pandas.read_parquet(sys.argv[1])\nprint(len(frame), frame.groupby('configuration').accuracy.mean().max(), *frame.columns)";
    let path = home.path("run/observations.parquet");
    match Command::new("python3").args(["-c", code, path.to_str().unwrap()]).output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8(output.stdout).unwrap();
            let rows: u64 = said.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(rows, home.summary("run")["evaluations"].as_u64().unwrap());
            assert!(said.contains("fingerprint"), "{said}");
        }
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("ModuleNotFoundError") => {
            println!("skipped: Python has no pandas");
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => println!("skipped: there is no python3"),
    }
}

/// Texts that a page must survive.
fn hostile() -> Vec<String> {
    vec![
        "</script><script>globalThis.hacked = 1; alert(1)</script>".to_owned(),
        "<img src=x onerror=\"globalThis.hacked=1\"><svg onload=alert(1)><iframe src=javascript:alert(1)>".to_owned(),
        "\"quoted\" 'and' `ticked` ${globalThis.hacked=1} \\u0022 \\".to_owned(),
        "{{ 7 * 7 }} {% raw %} <!-- <!doctype ]]> &lt;b&gt; --> <!--".to_owned(),
        "nul\u{0}escape\u{1b}[2Jbell\u{7} override\u{202e}gnp.exe\u{202c} mark\u{200f} bom\u{feff} next\u{85} line\u{2028}paragraph\u{2029}".to_owned(),
        format!("{}end", "long <b>text</b> ".repeat(18_000)),
        "שלום עולם \u{1f600} مرحبا".to_owned(),
        "</textarea></style></title><base href=//x>".to_owned(),
    ]
}

/// A task whose instances, prompts and recorded responses are hostile, tuned.
fn hostile_home() -> Home {
    let home = Home::new(1);
    let texts = hostile();
    let rows: Vec<Value> = texts.iter().enumerate().map(|(at, text)| json!({"id": format!("{at} {}", &text.chars().take(60).collect::<String>()), "problem": text, "answer": at})).collect();
    let lines = |rows: &[Value]| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    home.write("task/tune.jsonl", lines(&rows));
    home.write("task/test.jsonl", lines(&rows[..1]));
    home.write(
        "task/space.toml",
        r#"
[space]
name = "sums"
[params.prompt]
type = "categorical"
choices = [
  { name = "plain", template = "{{ problem }}" },
  { name = "</script><b>", template = "<i>{{ problem }}</i></script><script>globalThis.hacked = 2</script>" },
]
[params.model]
value = "mock-small"
[params.max_tokens]
value = 48
[baseline]
prompt = "plain"
"#,
    );
    let mut cassette = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        for (other, prompt) in
            [(1, text.clone()), (2, format!("<i>{text}</i></script><script>globalThis.hacked = 2</script>"))]
        {
            let response = format!("{} {at}", texts[(at + other) % texts.len()]);
            // One is missing.
            if (at, other) == (7, 2) {
                continue;
            }
            cassette.push(json!({
                "model": "mock-small", "messages": [{"role": "user", "content": prompt}], "params": {"max_tokens": 48},
                "samples": [response], "usage": {"prompt_tokens": 40, "completion_tokens": [9]},
            }));
        }
    }
    home.write("cassette.jsonl", lines(&cassette));
    home.write("farthing.toml", endpoints("provider = \"replay\"\ncassette = \"cassette.jsonl\"", ""));
    home.run("tune task --budget 0.05 --quiet --out run", &[]).ended(0);
    home
}

#[test]
fn a_hostile_task_stays_text() {
    let home = hostile_home();
    let page = home.read("run/report.html");
    assert_eq!(page.matches("</script>").count(), page.matches("<script").count(), "no text ends or begins a script");
    assert!(!page.contains("<img") && !page.contains("<iframe") && !page.contains("<base") && !page.contains("<i>"));
    let hidden = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{2028}';
    assert!(!page.chars().any(hidden), "nothing hides in it");
    assert!(page.contains("not recorded"), "what is missing is among the failures");
    let markdown = home.run("report run --markdown", &[]).ended(0).stdout;
    assert!(!markdown.contains("<script") && !markdown.chars().any(hidden), "{markdown}");
    home.run("report run --junit junit.xml", &[]).ended(0);
    assert!(!home.read("junit.xml").contains("<script"));
    in_browser(&home, "hostile", &home.path("run/report.html"));
}

#[test]
fn the_page_works_in_a_browser() {
    let home = Home::new(60);
    home.run("tune task --budget 0.30 --quiet --out run", &[]).ended(0);
    in_browser(&home, "run", &home.path("run/report.html"));
}

/// Checks a page with tests/browser/report.mjs: in Chromium, driven by playwright-core from `FARTHING_BROWSER_MODULES`,
/// `tests/browser` or `target/browser` (npm install --prefix target/browser playwright-core).
fn in_browser(home: &Home, kind: &str, page: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [
        std::env::var_os("FARTHING_BROWSER_MODULES").map(PathBuf::from),
        Some(root.join("tests/browser")),
        Some(root.join("target/browser")),
    ];
    let modules = places.into_iter().flatten().find(|place| place.join("node_modules/playwright-core").is_dir());
    let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    let chromium = chromium.into_iter().find(|path| Path::new(path).exists());
    let (Some(modules), Some(chromium)) = (modules, chromium) else {
        println!("skipped: Chromium or playwright-core is not at hand");
        return;
    };
    let mut command = Command::new("node");
    command.arg(root.join("tests/browser/report.mjs")).arg(modules).arg(chromium).arg(kind).arg(page);
    command.args(std::env::var_os("FARTHING_SCREENSHOTS")).current_dir(home.path("."));
    match command.output() {
        Err(error) => println!("skipped: node cannot be run: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && said.trim_end().ends_with("ok"),
                "{said}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}
