//! What people see: exit codes, error texts, listings, JSON. Errors are kept as snapshots (`cargo insta review`); on exit
//! code 2 nothing may have been written or spent.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use farthing::serve::mock::{Call, Fault, MockServer, Options};
use serde_json::{Value, json};
use support::{Done, Home, dollars, server, snapshot};

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

#[test]
fn bad_tasks() {
    let mut gallery = Gallery::new();
    let task = |from: &'static str, to: &'static str| move |home: &Home| home.edit("task/task.toml", from, to);
    gallery.refuses("no such task", |_| {}, "tune nowhere --budget 1");
    gallery.refuses("unknown key", task("[data]\ntune", "[data]\ntuen"), TUNE);
    gallery.refuses("unknown section", task("[objective]", "[objektive]"), TUNE);
    gallery.refuses("unknown metric key", task("vote =", "vot ="), TUNE);
    gallery.refuses("unknown metric type", task("\"numeric\"", "\"numerik\""), TUNE);
    gallery.refuses("bad type", task("name = \"sums\"", "name = 7"), TUNE);
    gallery.refuses("bad value", task("\"majority\"", "\"most\""), TUNE);
    gallery.refuses("bad range", task("test = \"test.jsonl\"", "holdout = 1.5"), TUNE);
    gallery.refuses("unknown objective", task("metric = \"accuracy\"", "metric = \"acuracy\""), TUNE);
    gallery.refuses("unknown id column", task("id = \"id\"", "id = \"idd\""), TUNE);
    gallery.refuses("unknown column", task("{{ answer }}", "{{ anwser }}"), TUNE);
    gallery.refuses("unknown stratum", task("id = \"id\"", "id = \"id\"\nstratify = \"knd\""), TUNE);
    gallery.refuses("no such file", task("tune.jsonl", "tuna.jsonl"), TUNE);
    gallery.refuses(
        "unknown ending",
        |home| {
            home.write("task/tune.txt", "x");
            home.edit("task/task.toml", "tune.jsonl", "tune.txt");
        },
        TUNE,
    );
    gallery.refuses("not TOML", task("[data]", "[data"), TUNE);
    gallery.refuses("empty task", |home| home.write("task/task.toml", ""), TUNE);
    gallery.refuses("bad UTF-8", |home| home.write("task/task.toml", b"[task]\nname = \"s\xffms\"\n"), TUNE);
    gallery.end("bad_tasks");
}

#[test]
fn bad_data() {
    let mut gallery = Gallery::new();
    let data = |bytes: &'static [u8]| move |home: &Home| home.write("task/tune.jsonl", bytes);
    gallery.refuses("empty file", data(b""), TUNE);
    gallery.refuses("blank lines", data(b"\n\n"), TUNE);
    gallery.refuses(
        "bad UTF-8",
        data(b"{\"id\": \"a\", \"problem\": \"p\", \"answer\": 1}\n{\"id\": \"\xe4\"}\n"),
        TUNE,
    );
    gallery.refuses("not an object", data(b"{\"id\": \"a\", \"problem\": \"p\", \"answer\": 1}\n[1, 2]\n"), TUNE);
    gallery.refuses("not JSON", data(b"{\"id\": \"a\", \"problem\": }\n"), TUNE);
    let twice =
        b"{\"id\": \"a\", \"problem\": \"p\", \"answer\": 1}\n{\"id\": \"a\", \"problem\": \"q\", \"answer\": 2}\n";
    gallery.refuses("duplicate id", data(twice), TUNE);
    gallery.refuses("no answer", data(b"{\"id\": \"a\", \"problem\": \"p\"}\n"), TUNE);
    gallery.refuses(
        "an answer that is no number",
        data(b"{\"id\": \"a\", \"problem\": \"p\", \"answer\": \"many\"}\n"),
        TUNE,
    );
    gallery.refuses("no field of the prompt", data(b"{\"id\": \"a\", \"answer\": 1}\n"), TUNE);
    gallery.refuses(
        "not gzip",
        |home| {
            home.write("task/tune.jsonl.gz", "plain");
            home.edit("task/task.toml", "tune.jsonl", "tune.jsonl.gz");
        },
        TUNE,
    );
    gallery.refuses(
        "a ragged CSV",
        |home| {
            home.write("task/tune.csv", "id,problem,answer\na,p,1\nb,q\n");
            home.edit("task/task.toml", "tune.jsonl", "tune.csv");
        },
        TUNE,
    );
    gallery.end("bad_data");
}

#[test]
fn bad_spaces() {
    let mut gallery = Gallery::new();
    let space = |from: &'static str, to: &'static str| move |home: &Home| home.edit("task/space.toml", from, to);
    gallery.refuses("no such file", |_| {}, "tune task --budget 1 --space nowhere.toml");
    gallery.refuses("no space at all", |home| std::fs::remove_file(home.path("task/space.toml")).unwrap(), TUNE);
    gallery.refuses("empty file", |home| home.write("task/space.toml", ""), TUNE);
    gallery.refuses("unknown key", space("value = 48", "valeu = 48"), TUNE);
    gallery.refuses("unknown section", space("[baseline]", "[basline]"), TUNE);
    gallery.refuses("unknown prompt key", space("template = ", "tempalte = "), TUNE);
    gallery.refuses("bad type", space("value = 48", "value = \"many\""), TUNE);
    gallery.refuses("bad range", space("value = 0.7", "type = \"float\"\nlow = 0.7\nhigh = 0.2"), TUNE);
    gallery.refuses("out of the API's range", space("value = 0.7", "value = 2.7"), TUNE);
    gallery.refuses("no bound", space("value = 0.7", "type = \"float\"\nlow = 0.7"), TUNE);
    gallery.refuses("a choice twice", space("[1, 3, 10]", "[1, 3, 3]"), TUNE);
    gallery.refuses("unused parameter", space("[params.n]", "[params.flavour]\nvalue = \"x\"\n[params.n]"), TUNE);
    gallery.refuses("missing field", space("{{ problem }}", "{{ question }}"), TUNE);
    gallery.refuses(
        "a field and a parameter",
        space("[params.n]", "[params.problem]\nvalue = \"x\"\n[params.n]"),
        TUNE,
    );
    gallery.refuses("template syntax", space("{{ problem }}", "{{ problem"), TUNE);
    gallery.refuses("two prompts of a name", space("\"steps\", template", "\"direct\", template"), TUNE);
    gallery.refuses("unknown in when", space("value = 0.7", "value = 0.7\nwhen = { promt = \"steps\" }"), TUNE);
    gallery.refuses(
        "unknown in a constraint",
        space("[baseline]", "[[constraints]]\nexpr = \"m == 1\"\n[baseline]"),
        TUNE,
    );
    gallery.refuses("constraint syntax", space("[baseline]", "[[constraints]]\nexpr = \"n ==\"\n[baseline]"), TUNE);
    gallery.refuses("unknown in the baseline", space("[baseline]", "[baseline]\npromt = \"steps\""), TUNE);
    gallery.refuses("no value of the baseline's", space("n = 1\n", "n = \"two\"\n"), TUNE);
    gallery.refuses("nothing satisfies", space("[baseline]", "[[constraints]]\nexpr = \"n == 2\"\n[baseline]"), TUNE);
    gallery.refuses("bad UTF-8", |home| home.write("task/space.toml", b"[space]\nname = \"\xc3\"\n"), TUNE);
    gallery.refuses(
        "an infinite grid",
        space("value = 0.7", "type = \"float\"\nlow = 0.2\nhigh = 0.7"),
        "tune task --budget 1 --strategy grid --out run",
    );
    gallery.end("bad_spaces");
}

#[test]
fn bad_endpoints() {
    let mut gallery = Gallery::new();
    let config = |from: &'static str, to: &'static str| move |home: &Home| home.edit("farthing.toml", from, to);
    const LINE: &str = "tune task --budget 0.01 --out run --endpoints farthing.toml";
    gallery.refuses("no such file", |_| {}, "tune task --budget 1 --endpoints nowhere.toml");
    gallery.refuses("unknown key", config("base_url", "base_ulr"), LINE);
    gallery.refuses("unknown section", config("[models.mock-large]", "[model.mock-large]"), LINE);
    gallery.refuses("unknown provider", config("\"openai\"", "\"openia\""), LINE);
    gallery.refuses("unknown endpoint", config("endpoint = \"here\"", "endpoint = \"there\""), LINE);
    gallery.refuses("bad type", config("input = 0.25", "input = \"cheap\""), LINE);
    gallery.refuses("bad range", config("input = 0.25", "input = -1"), LINE);
    gallery.refuses("too fine a price", config("input = 0.25", "input = 0.00000025"), LINE);
    gallery.refuses("unknown price key", config("output = 0.75", "ouput = 0.75"), LINE);
    gallery.refuses("bad timeout", config("[models.mock-small]", "timeout_seconds = 0\n[models.mock-small]"), LINE);
    gallery.refuses("bad limit", config("[models.mock-small]", "max_concurrency = 0\n[models.mock-small]"), LINE);
    gallery.refuses("bad address", config("http://", "htp//"), LINE);
    gallery.refuses("no cassette", config("\"openai\"", "\"replay\"\n#"), LINE);
    gallery.refuses("no price", config("price = { input = 1.0, output = 3.0 }", ""), LINE);
    gallery.refuses(
        "unknown model without a price",
        |home| home.edit("task/space.toml", "\"mock-large\"", "\"house-model\""),
        LINE,
    );
    gallery.refuses(
        "nothing bounds the bill",
        |home| home.edit("task/space.toml", "[params.max_tokens]\nvalue = 48", ""),
        LINE,
    );
    gallery.refuses("bad UTF-8", |home| home.write("farthing.toml", b"# \xff\n"), LINE);
    gallery.end("bad_endpoints");
}

#[test]
fn bad_usage() {
    let mut gallery = Gallery::new();
    for (name, line) in [
        ("no budget", "tune task --out run"),
        ("budget 0", "tune task --budget 0"),
        ("budget below 0", "tune task --budget -1"),
        ("budget garbage", "tune task --budget five"),
        ("budget too fine", "tune task --budget 0.0000000000001"),
        ("budget too large", "tune task --budget 1e9"),
        ("inference budget 0", "tune task --budget 1 --inference-budget 0"),
        ("unknown strategy", "tune task --budget 1 --strategy halvin"),
        ("strange strategy", "tune task --budget 1 --strategy zzz"),
        ("test share", "tune task --budget 1 --test-share 1"),
        ("no trials", "tune task --budget 1 --max-trials 0"),
        ("no concurrency", "tune task --budget 1 --concurrency 0"),
        ("bad seed", "tune task --budget 1 --seed -1"),
        ("strange store", "tune task --budget 1 --store postgres://me:secret@host/x"),
        ("out and resume", "tune task --budget 1 --out a --resume b"),
        ("no task", "tune --budget 1"),
        ("unknown command", "tuen task"),
        ("unknown option", "tune task --bugdet 1"),
        ("bad log filter", "strategies --log =x="),
        ("set nothing", "evaluate task --set prompt"),
        ("set an unknown parameter", "evaluate task --set promt=steps"),
        ("set an unknown choice", "evaluate task --set prompt=step"),
        ("set no value of it", "evaluate task --set n=two"),
        ("evaluate below 0", "evaluate task --budget -1"),
        ("unknown split", "evaluate task --split train"),
        ("no such configuration", "evaluate task --config nowhere.toml"),
        ("no such run", "test nowhere"),
        ("no run's folder", "test task"),
        ("report of no run", "report task"),
        ("unknown schema", "schema tasks"),
    ] {
        gallery.refuses(name, |_| {}, line);
    }
    gallery.refuses(
        "something is not set",
        |home| {
            let space = home.read("task/space.toml");
            home.write("task/space.toml", space.split("[baseline]").next().unwrap());
        },
        "evaluate task --set prompt=steps",
    );
    gallery.refuses("empty configuration", |home| home.write("c.toml", ""), "evaluate task --config c.toml");
    gallery.refuses(
        "unknown key of a configuration",
        |home| home.write("c.toml", "[confg]\nn = 1\n"),
        "evaluate task --config c.toml",
    );
    gallery.refuses(
        "unknown parameter of a configuration",
        |home| home.write("c.toml", "[config]\npromt = \"steps\"\n"),
        "evaluate task --config c.toml",
    );
    gallery.refuses(
        "a request that names no field",
        |home| home.write("c.toml", "[request]\nmodel = \"mock-small\"\nmax_tokens = 9\nprompt = \"{{ question }}\"\n"),
        "evaluate task --config c.toml",
    );
    gallery.refuses("a full --out", |home| home.write("run/x", "x"), TUNE);
    gallery.refuses(
        "--resume of a full folder that is no run",
        |home| home.write("run/x", "x"),
        "tune task --budget 1 --resume run",
    );
    gallery.end("bad_usage");
}

#[test]
fn a_run_goes_on_only_as_it_was_begun() {
    let mut gallery = Gallery::new();
    let home = gallery.home();
    home.run(TUNE, &["--quiet"]).ended(0);
    for (name, line) in [
        ("a full --out", "tune task --budget 0.01 --out run"),
        ("seed", "tune task --resume run --seed 2"),
        ("lower budget", "tune task --resume run --budget 0.009"),
        ("strategy", "tune task --resume run --strategy grid"),
        ("trials", "tune task --resume run --max-trials 3"),
        ("inference budget", "tune task --resume run --inference-budget 0.1"),
        ("test share", "tune task --resume run --test-share 0.5"),
        ("savings", "tune task --resume run --reuse-savings"),
        ("store", "tune task --resume run --store other.db"),
        ("task", "tune other --resume run"),
        ("space", "tune task --resume run --space other.toml"),
    ] {
        gallery.refuses_in(&home, name, line);
    }
    for (name, file, from, to) in [
        ("data", "task/tune.jsonl", "problem", "problem "),
        ("test data", "task/test.jsonl", "\"answer\": ", "\"answer\": 1"),
        ("task file", "task/task.toml", "\"majority\"", "\"first\""),
        ("space file", "task/space.toml", "[1, 3, 10]", "[1, 3, 9]"),
        ("price", "farthing.toml", "input = 0.25", "input = 0.26"),
        ("study.toml", "run/study.toml", "[settings]", "[setings]"),
    ] {
        let was = home.read(file);
        home.edit(file, from, to);
        gallery.refuses_in(&home, &format!("{name} changed"), "tune --resume run");
        home.write(file, was);
    }
    // Equal arguments are accepted, and what may change may change.
    home.run("tune task --resume run --seed 1 --budget 0.01 --concurrency 3 --quiet", &[]).ended(0);
    home.run("tune --resume run --budget 0.011 --quiet", &[]).ended(0);
    home.edit("farthing.toml", "[models.mock-small]", "timeout_seconds = 7\n[models.mock-small]");
    home.run("tune --resume run --quiet", &[]).ended(0);
    gallery.end("bad_resumes");
}

#[test]
fn an_endpoint_that_cannot_be_used_is_exit_5() {
    let mut text = String::new();
    let mut shown = |name: &str, home: &Home, done: &Done| {
        writeln!(text, "## {name}\n{}", said(home, done)).unwrap();
    };
    let gone = server(Options::default()).url();
    let home = Home::over_http(4, &gone, "max_retries = 0");
    shown("nobody there", &home, &home.run(TUNE, &["--quiet"]).ended(5));

    let cases = [("bad key", Fault::status(401)), ("unknown model", Fault::status(404)), ("no credit", Fault::quota())];
    for (name, fault) in cases {
        let faults = Arc::new(move |_: &Call| Some(fault.clone()));
        let server = server(Options { faults, ..Options::default() });
        let home = Home::over_http(24, &server.url(), "");
        for line in [TUNE, "evaluate task --budget 0.01"] {
            let done = home.run(line, &["--quiet", "--concurrency", "2"]).ended(5);
            shown(&format!("{name}: {line}"), &home, &done);
        }
        assert_eq!(server.ledger().billed, farthing::Usd::ZERO, "{name}");
        assert!(server.ledger().requests <= 16, "{name}: asked {} times", server.ledger().requests);
        // The folder is there, so that the run can go on when the key is right.
        assert!(home.path("run/study.toml").is_file());
    }
    let refused = regex::Regex::new(r"(?i)(tcp connect error: )?connection refused \(os error \d+\)").unwrap();
    snapshot("no_endpoint", &refused.replace_all(&text, "REFUSED"));
}

#[test]
fn all_missing_is_exit_5_and_no_score() {
    let faults = Arc::new(|_: &Call| Some(Fault::context_too_long()));
    let server = server(Options { faults, ..Options::default() });
    let home = Home::over_http(6, &server.url(), "");
    let done = home.run("evaluate task --json --quiet", &[]).ended(5).json();
    assert_eq!(done["metrics"]["accuracy"], json!({"mean": null, "ci95": null}));
    assert_eq!((&done["instances"], &done["missing"]), (&json!(0), &json!(6)));
    assert_eq!(done["production_cost_usd_per_instance"], Value::Null);
    assert_eq!(done["spent_usd"], json!("0"));
    // Some missing: the others count, and nothing is a score of 0.
    let faults = Arc::new(|call: &Call| call.body.to_string().contains("beads").then(Fault::context_too_long));
    let server = support::server(Options { faults, ..Options::default() });
    home.point_at(&server.url(), "");
    let done = home.run("evaluate task --json --quiet", &[]).ended(0).json();
    let beads = home.read("task/tune.jsonl").lines().filter(|line| line.contains("beads")).count();
    assert!(beads > 0 && done["missing"] == json!(beads) && done["instances"] == json!(6 - beads), "{done:#}");
}

#[test]
fn settings_are_names_values_or_texts() {
    let home = Home::new(6);
    home.edit("task/space.toml", "value = 0.7", "type = \"float\"\nlow = 0.0\nhigh = 1.5\ndefault = 0.7");
    home.edit(
        "task/space.toml",
        "[params.n]",
        "[params.stop]\ntype = \"categorical\"\nchoices = [[], [\"\\n\"], [\"#\", \"Q:\"]]\n[params.n]",
    );
    let set = |settings: &[&str]| {
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        home.run("evaluate task --json --quiet", &arguments).ended(0).json()["config"].clone()
    };
    let base = set(&[]);
    assert_eq!(
        base,
        json!({"prompt": "direct", "model": "mock-small", "temperature": 0.7, "max_tokens": 48, "n": 1, "stop": []})
    );
    let one = set(&["prompt=steps", "n=3", "temperature=1", "stop=[\"#\", \"Q:\"]"]);
    assert_eq!(one["prompt"], json!("steps"));
    assert_eq!((&one["n"], one["temperature"].as_f64()), (&json!(3), Some(1.0)));
    assert_eq!(one["stop"], json!(["#", "Q:"]));
    assert_eq!(set(&["prompt = \"steps\"", "n = 10"])["n"], json!(10));
    assert_eq!(set(&["n=3", "n=10"])["n"], json!(10), "the last one counts");

    // A file gives, and --set overrides; a run's best.toml is such a file.
    home.run("tune task --budget 0.02 --out run --quiet", &[]).ended(0);
    let best = home.summary("run")["best"]["config"].clone();
    let evaluate = |more: &[&str]| {
        home.run("evaluate task --config run/best.toml --json --quiet", more).ended(0).json()["config"].clone()
    };
    assert_eq!(evaluate(&[]), best);
    let mut changed = best.clone();
    changed["max_tokens"] = json!(48);
    changed["prompt"] = json!("direct");
    assert_eq!(evaluate(&["--set", "prompt=direct"]), changed);
    // It serves without the space.
    std::fs::remove_file(home.path("task/space.toml")).unwrap();
    assert_eq!(evaluate(&["--split", "test"]), best);
}

#[test]
fn a_task_is_found_by_its_bare_file_name_with_its_endpoints() {
    let home = Home::new(4);
    for file in ["task.toml", "tune.jsonl", "test.jsonl", "space.toml"] {
        home.write(file, home.read(&format!("task/{file}")));
    }
    let done = home.run("evaluate task.toml --set n=1 --json --quiet", &[]).ended(0).json();
    assert_eq!(done["instances"], 4, "{done:#}");
}

#[test]
fn a_test_whose_result_could_not_be_kept_is_not_begun() {
    let home = Home::new(12);
    home.run("tune task --budget 0.02 --out run --quiet", &[]).ended(0);
    std::fs::remove_file(home.path("run/ranking.csv")).unwrap();
    let entries = || home.run("cache stats --json", &[]).ended(0).json()["ledger"]["entries"].clone();
    let before = entries();
    home.run("test run --quiet", &[]).ended(2);
    assert_eq!(entries(), before, "nothing was bought");
}

#[test]
fn a_winner_is_tested_and_gated() {
    let home = Home::new(30);
    let tuned = home.run("tune task --budget 0.05 --out run --json --quiet", &[]).ended(0).json();
    assert_eq!(tuned["holdout"], Value::Null);
    let tested = home.run("test run --json --quiet", &[]).ended(0).json();
    let score = tested["score"].as_f64().unwrap();
    assert_eq!((&tested["instances"], &tested["missing"], &tested["not_reached"]), (&json!(15), &json!(0), &json!(0)));
    let kept = home.summary("run");
    assert_eq!(kept["holdout"]["score"], tested["score"]);
    assert_eq!(kept["best"], tuned["best"], "a test changes no choice");
    assert_eq!(dollars(&kept, "study_cost_usd"), dollars(&tuned, "study_cost_usd"));
    home.run("test run --quiet --min-score", &[&format!("{}", score - 0.01)]).ended(0);
    home.run("test run --quiet --min-score", &[&format!("{}", score + 0.01)]).ended(4);
    // A best.toml alone, elsewhere, on other data.
    std::fs::copy(home.path("run/best.toml"), home.path("mine.toml")).unwrap();
    let other = home.run("test mine.toml --task task --data task/tune.jsonl --json --quiet", &[]).ended(0).json();
    assert_eq!(other["instances"], json!(30));
    // Other data they are not: the same instances chose it.
    let same = home.run("test mine.toml --task task --data task/tune.jsonl --json --quiet", &[]).ended(0);
    assert!(same.stderr.contains("Warning: All of the 30 instances to test on"), "{same:#?}");
    assert!(!home.run("test run --json --quiet", &[]).ended(0).stderr.contains("Warning"));
    assert_eq!(other["config"], tuned["best"]["config"]);
}

#[test]
fn help_and_version_name_everything() {
    let home = Home::new(1);
    let help = home.run("--help", &[]).ended(0).stdout;
    for command in ["tune", "test", "evaluate", "report", "metrics", "strategies", "models", "schema", "mock"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let own = home.run(command, &["--help"]).ended(0);
        assert!(own.stdout.contains("Usage: farthing") && own.stderr.is_empty(), "{own:#?}");
    }
    assert!(help.contains("Exit codes") && help.contains("130"));
    let tune = home.run("tune --help", &[]).stdout;
    for option in [
        "--budget",
        "--inference-budget",
        "--space",
        "--strategy",
        "--max-trials",
        "--seed",
        "--test-share",
        "--concurrency",
        "--out",
        "--store",
        "--resume",
        "--json",
        "--quiet",
        "--endpoints",
        "--reuse-savings",
    ] {
        assert!(tune.contains(option), "{option} is not in:\n{tune}");
    }
    let version = home.run("--version", &[]).ended(0).stdout;
    assert_eq!(version.trim(), concat!("farthing ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn listings_say_what_there_is() {
    let home = Home::new(1);
    for (command, wanted) in [
        ("metrics", &["exact_match", "choice", "numeric", "regex", "command"][..]),
        ("strategies", &["halving", "random", "grid"]),
        ("models", &["gpt-4o-mini", "gpt-4o", "mock-small", "mock-large"]),
    ] {
        let text = home.run(command, &[]).ended(0).stdout;
        let rows = home.run(command, &["--json"]).ended(0).json();
        let names: BTreeSet<&str> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        for name in wanted {
            assert!(names.contains(name) && text.contains(name), "{command}: {names:?}");
        }
        assert!(names.iter().all(|name| text.contains(name)), "{command}");
    }
    let models = home.run("models --json", &[]).json();
    let mini = models.as_array().unwrap().iter().find(|row| row["name"] == "gpt-4o-mini").unwrap();
    assert_eq!((&mini["input"], &mini["output"]), (&json!("0.15"), &json!("0.6")));
    let strategies = home.run("strategies --json", &[]).json();
    let defaults = strategies.as_array().unwrap().iter().filter(|row| row["default"] == json!(true)).count();
    assert_eq!(defaults, 1);
}

/// What a schema says of a key, following references.
fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    while let Some(path) = schema.get("$ref").and_then(Value::as_str) {
        schema = root.pointer(path.trim_start_matches('#')).unwrap_or_else(|| panic!("{path} leads nowhere"));
    }
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(any) => resolve(root, &any[0]),
        None => schema,
    }
}

/// Every key of the value is known to the schema, and every required key is there.
fn satisfies(root: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolve(root, schema);
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(fields.contains_key(name.as_str().unwrap()), "{at} lacks {name}");
    }
    for (name, value) in fields {
        let known = schema.pointer("/properties").and_then(|known| known.get(name));
        let other = schema.get("additionalProperties").filter(|other| other.is_object() || **other == json!(true));
        let choices = schema.get("oneOf").and_then(Value::as_array);
        let place = format!("{at}.{name}");
        match (known, other, choices) {
            (Some(known), ..) => satisfies(root, known, value, &place),
            (None, Some(other), _) if other.is_object() => satisfies(root, other, value, &place),
            (None, Some(_), _) => {}
            // Metrics: one schema a type.
            (None, None, Some(choices)) => {
                let knows = |choice: &Value| {
                    resolve(root, choice).pointer("/properties").is_some_and(|p| p.get(name).is_some())
                };
                assert!(choices.iter().any(knows), "{place} is in no schema");
            }
            (None, None, None) => {
                assert!(schema.get("properties").is_none(), "{place} is not in the schema {schema:#}");
            }
        }
    }
}

#[test]
fn schemas_fit_the_files_that_are_shipped() {
    let home = Home::new(1);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (schema, file) in [
        ("task", "tasks/arithmetic/task.toml"),
        ("space", "search_spaces/arithmetic.toml"),
        ("config", "tests/fixtures/tasks/mock-arithmetic/farthing.toml"),
    ] {
        let schema = home.run("schema", &[schema]).ended(0).json();
        assert!(
            schema["$schema"].as_str().is_some_and(|url| url.starts_with("https://json-schema.org/")),
            "{schema:#}"
        );
        assert_eq!(schema["type"], "object");
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let value: Value = serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap();
        satisfies(&schema, &schema, &value, file);
        let mut wrong = value.clone();
        wrong["no_such_section"] = json!({});
        let refused = std::panic::catch_unwind(|| satisfies(&schema, &schema, &wrong, file));
        assert!(refused.is_err(), "the schema of {file} takes anything");
    }
}

#[test]
fn what_is_shipped_runs() {
    let home = Home::new(1);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [
        "tasks/arithmetic/task.toml",
        "tasks/arithmetic/tune.jsonl",
        "tasks/arithmetic/test.jsonl",
        "search_spaces/arithmetic.toml",
    ] {
        home.write(file, std::fs::read(root.join(file)).unwrap());
    }
    let done = home.run("tune tasks/arithmetic --budget 0.006 --json --quiet", &[]).ended(0).json();
    assert!(home.path("results/arithmetic-1/best.toml").is_file());
    assert!(home.path(".farthing/store.db").is_file());
    assert!(done["best"]["score"].as_f64().unwrap() >= done["baseline"]["score"].as_f64().unwrap() - 0.1);
    home.run("tune tasks/arithmetic --budget 0.006 --quiet", &[]).ended(0);
    assert_eq!(home.read("results/arithmetic-1/best.toml"), home.read("results/arithmetic-2/best.toml"));
    assert_eq!(home.summary("results/arithmetic-2")["spent_usd"], "0");
    home.run("report results/arithmetic-1", &[]).ended(0);
    home.run("test results/arithmetic-2 --budget 0.003 --quiet", &[]).ended(0);
}
