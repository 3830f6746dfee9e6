use std::path::Path;

use rand::SeedableRng;
use serde_json::json;

use super::*;

const GOOD: &str = r#"
[space]
name = "s"
[params.prompt]
type = "categorical"
choices = [{ name = "direct", template = "{{ q }}" }, { name = "cot", template = "{{ q }}\n{{ trigger }}" }]
[params.trigger]
type = "categorical"
choices = ["a", "b", "c"]
[params.model]
value = "m"
[params.sampling]
type = "categorical"
choices = ["temperature", "top_p"]
[params.temperature]
type = "float"
low = 0.0
high = 1.0
step = 0.5
when = { sampling = "temperature" }
[params.top_p]
type = "float"
low = 0.5
high = 1.0
step = 0.5
when = { sampling = "top_p" }
[params.n]
type = "int"
low = 1
high = 4
[params.max_tokens]
type = "categorical"
choices = [100, 200]
[[constraints]]
expr = "n * max_tokens <= 400"
[baseline]
prompt = "cot"
temperature = 0.25
"#;

fn read(text: &str) -> Result<Space> {
    file::read(&Source::new("space.toml", text), Path::new("."))
}

fn problem(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let error = read(&GOOD.replacen(from, to, 1)).unwrap_err();
    format!("{} | {error} | {}", error.location().unwrap_or_default(), error.advice().unwrap_or_default())
}

#[test]
fn inactive_parameters_make_points_one_configuration() {
    let space = read(GOOD).unwrap();
    let all = space.enumerate(1000).unwrap();
    // (direct + cot x 3 triggers) x (3 temperatures + 2 top_p) x the (n, max_tokens) pairs within the constraint
    assert_eq!(all.len(), 4 * 5 * 6);
    assert!(all.iter().all(|c| c.get("temperature").is_some() != c.get("top_p").is_some()));
    assert!(all.iter().all(|c| (c.get("prompt") == Some(&json!("cot"))) == c.get("trigger").is_some()));
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let keys: BTreeSet<String> = all.iter().map(Configuration::key).collect();
    let drawn: BTreeSet<String> = (0..3000).map(|_| space.sample(&mut rng).unwrap().key()).collect();
    assert_eq!(drawn, keys, "random draws reach every configuration and no other");
}

#[test]
fn a_body_field_does_not_go_beyond_the_bound() {
    let with = |line: &str| read(&GOOD.replace("[[constraints]]", &format!("{line}\n[[constraints]]")));
    for (line, set) in [
        ("[params.generationConfig]\nvalue = { candidateCount = 4 }\nbody = true", "set `n`"),
        ("[params.options]\nchoices = [{ top_k = 1 }, { num_predict = 20000 }]\nbody = true", "set `max_tokens`"),
        ("[params.num_predict]\ntype = \"int\"\nlow = 1\nhigh = 20000\nbody = true", "set `max_tokens`"),
    ] {
        let error = with(line).unwrap_err();
        assert_eq!(error.fault().exit_code(), 2);
        assert!(error.message().ends_with(set) && error.location().unwrap().starts_with("space.toml:34"), "{error:?}");
    }
    let space = with("[params.options]\nvalue = { top_k = 1 }\nbody = true").unwrap();
    assert!(space.check_setting("options", &json!({"num_predict": 9})).is_err());
    assert!(space.check_setting("options", &json!({"top_k": 9})).is_ok());
}

#[test]
fn the_baseline_takes_defaults_and_may_lie_outside_the_range() {
    let space = read(GOOD).unwrap();
    let baseline = space.baseline.unwrap();
    assert_eq!(
        serde_json::to_value(&baseline).unwrap(),
        json!({"prompt": "cot", "trigger": "a", "model": "m", "sampling": "temperature", "temperature": 0.25, "n": 1, "max_tokens": 100})
    );
    let space = read(&GOOD.replace("high = 4", "high = 4\ndefault = 3")).unwrap();
    assert_eq!(space.baseline.unwrap().get("n"), Some(&json!(3)));
}

#[test]
fn faults_point_at_their_place() {
    assert_eq!(problem("low = 1\n", "lwo = 1\n"), "space.toml:29:1 | unknown key `lwo` | did you mean `low`?");
    assert_eq!(problem("high = 4", "high = 0"), "space.toml:29:7 | the range is empty: low is 1, high is 0 | ");
    assert_eq!(
        problem("low = 0.0\nhigh = 1.0", "low = 0.0\nhigh = 3.0"),
        "space.toml:15:9 | `temperature` takes a number from 0 to 2, not 3.0 | a variable of your own needs another name"
    );
    assert_eq!(
        problem("{{ trigger }}", "x"),
        "space.toml:7:9 | nothing uses the parameter `trigger` | use it in a template, a `when` or a constraint, or send it in the request body with body = true"
    );
    assert!(problem("[params.trigger]", "[params.temprature]").contains("did you mean `temperature`?"));
    assert_eq!(
        problem("name = \"cot\"", "name = \"direct\"").split(" | ").nth(1),
        Some("two prompts are named `direct`")
    );
    assert_eq!(
        problem("{ sampling = \"top_p\" }", "{ smapling = \"top_p\" }"),
        "space.toml:21:9 | there is no parameter `smapling` | did you mean `sampling`?"
    );
    assert_eq!(
        problem("{ sampling = \"top_p\" }", "{ sampling = \"topp\" }").split(" | ").nth(1),
        Some("`sampling` is never \"topp\", so `top_p` would never be active")
    );
    assert_eq!(
        problem("n * max_tokens <= 400", "n * max_token <= 400"),
        "space.toml:35:8 | there is no parameter `max_token` | did you mean `max_tokens`?"
    );
    assert_eq!(
        problem("n * max_tokens <= 400", "n * (").split(" | ").nth(1).map(|m| &m[..31]),
        Some("this expression cannot be read:")
    );
    assert_eq!(
        problem("prompt = \"cot\"", "prompt = \"cto\""),
        "space.toml:37:1 | \"cto\" is no value of `prompt` | did you mean `cot`?"
    );
    assert_eq!(
        problem("template = \"{{ q }}\" }", "template = \"{{ q \" }").split(" | ").next(),
        Some("space.toml:6:42")
    );
    assert_eq!(
        problem("type = \"int\"", "type = \"integer\"").split(" | ").nth(1),
        Some("`integer` is none of the words known here")
    );
    assert_eq!(problem("[100, 200]", "[100, 100.0]").split(" | ").nth(1), Some("the choice 100.0 is there twice"));
    assert_eq!(problem("value = \"m\"", "value = 3").split(" | ").nth(1), Some("a model is given by its name"));
    assert_eq!(
        problem("[params.model]", "[params.modle]").split(" | ").nth(1),
        Some("the space has no parameter `model`")
    );
    assert_eq!(
        problem("{ sampling = \"temperature\" }", "{ temperature = 0.5 }").split(" | ").nth(1),
        Some("the conditions of `temperature` are circular")
    );
}

#[test]
fn a_constraint_on_an_inactive_parameter_does_not_apply() {
    let space = read(&GOOD.replace("n * max_tokens <= 400", "top_p < 0.7")).unwrap();
    let all = space.enumerate(1000).unwrap();
    assert!(all.iter().any(|c| c.get("temperature") == Some(&json!(1.0))));
    assert!(all.iter().all(|c| c.get("top_p").is_none_or(|v| v == &json!(0.5))));
}

#[test]
fn an_infinite_space_is_not_enumerated() {
    let space = read(&GOOD.replace(
        "high = 1.0\nstep = 0.5\nwhen = { sampling = \"temperature\" }",
        "high = 1.0\nwhen = { sampling = \"temperature\" }",
    ))
    .unwrap();
    assert!(space.enumerate(1000).unwrap_err().contains("`temperature` takes any real number"));
    assert_eq!(space.size(), None);
}
