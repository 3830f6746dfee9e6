//! Bad input of every kind, each with what is said.

use crate::support::Home;
use crate::{Gallery, TUNE};

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
        ("no number", "test run --min-score nan"),
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
