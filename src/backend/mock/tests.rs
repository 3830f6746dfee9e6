//! The made-up models on the arithmetic task: the rules they promise, and the landscape that tuning finds.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::money::{Usd, per_million};
use crate::prompt::template::{Context, Template};
use crate::provider::Message;
use crate::task::Instance;

fn file(path: &str) -> String {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn instances(split: &str) -> Vec<Instance> {
    let text = file(&format!("tests/fixtures/tasks/mock-arithmetic/{split}.jsonl"));
    let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Map<String, Value>>(line).unwrap());
    rows.map(|row| Instance::new(row["id"].as_str().unwrap().to_owned(), row)).collect()
}

type Prompts = BTreeMap<String, Vec<(String, Template)>>;

/// The prompts of tests/fixtures/tasks/mock-arithmetic/space.toml by name: role and template of each message.
static PROMPTS: LazyLock<Prompts> = LazyLock::new(|| {
    let space: toml::Table = file("tests/fixtures/tasks/mock-arithmetic/space.toml").parse().unwrap();
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    let template = |value: &toml::Value| Template::compile(value.as_str().unwrap()).unwrap();
    let choices = space["params"]["prompt"]["choices"].as_array().unwrap().iter();
    choices
        .map(|choice| {
            let messages = match choice.get("template") {
                Some(alone) => vec![("user".to_owned(), template(alone))],
                None => {
                    let messages = choice["messages"].as_array().unwrap().iter();
                    messages.map(|message| (text(&message["role"]), template(&message["content"]))).collect()
                }
            };
            (text(&choice["name"]), messages)
        })
        .collect()
});

fn params(value: Value) -> BTreeMap<String, Value> {
    value.as_object().unwrap().clone().into_iter().collect()
}

fn user(content: &str) -> Input {
    Input::Messages(vec![Message { role: "user".into(), content: content.into() }])
}

fn request(model: &str, input: Input, n: u32, settings: Value) -> Request {
    Request { model: model.into(), input, params: params(settings), n }
}

/// One point of the space.
#[derive(Clone)]
struct Point {
    prompt: &'static str,
    trigger: &'static str,
    model: &'static str,
    n: u32,
    settings: Value,
}

/// Accuracy, dollars an instance, and output tokens a response.
fn evaluate(point: &Point, instances: &[Instance]) -> (f64, f64, f64) {
    let trigger = json!({"trigger": point.trigger});
    let variables = crate::prompt::Fields::new(trigger.as_object().unwrap());
    let declared = model(point.model).unwrap();
    let (input_price, output_price) =
        (per_million(declared.input_price).unwrap(), per_million(declared.output_price).unwrap());
    let one = |instance: &Instance| {
        let context = Context::new(&instance.rendered, &variables);
        let messages = PROMPTS[point.prompt].iter();
        let messages = messages
            .map(|(role, template)| Message { role: role.clone(), content: template.render(&context).unwrap() })
            .collect();
        let request = request(point.model, Input::Messages(messages), point.n, point.settings.clone());
        let response = answer(&request, 0).unwrap();
        let cost = input_price.times(response.prompt_tokens) + output_price.times(response.completion_tokens());
        (vote(&response) == instance.get("answer").and_then(Value::as_i64), cost, response.completion_tokens())
    };
    let judged: Vec<(bool, Usd, u64)> = instances.par_iter().map(one).collect();
    let count = judged.len() as f64;
    let right = judged.iter().filter(|one| one.0).count() as f64;
    let cost: Usd = judged.iter().map(|one| one.1).sum();
    let tokens: u64 = judged.iter().map(|one| one.2).sum();
    (right / count, cost.as_f64() / count, tokens as f64 / count / f64::from(point.n))
}

/// The most frequent last number, ties to the earliest.
fn vote(response: &Response) -> Option<i64> {
    let mut votes: Vec<(i64, usize)> = Vec::new();
    for sample in &response.samples {
        let last = sample.text.split(|c: char| !c.is_ascii_digit()).rfind(|digits| !digits.is_empty());
        let Some(number) = last.and_then(|digits| digits.parse().ok()) else { continue };
        match votes.iter_mut().find(|(known, _)| *known == number) {
            Some((_, count)) => *count += 1,
            None => votes.push((number, 1)),
        }
    }
    let most = votes.iter().map(|&(_, count)| count).max()?;
    votes.iter().find(|&&(_, count)| count == most).map(|&(number, _)| number)
}

const STEPS: &str = "Let's think step by step.";
const BRIEF: &str = "Show your work briefly and end with the answer.";

fn point(prompt: &'static str, trigger: &'static str, model: &'static str, n: u32, settings: Value) -> Point {
    Point { prompt, trigger, model, n, settings }
}

fn accuracy(prompt: &'static str, model: &'static str, n: u32, settings: Value) -> f64 {
    let mut all = instances("tune");
    all.extend(instances("test"));
    evaluate(&point(prompt, STEPS, model, n, settings), &all).0
}

#[test]
fn the_task_has_problems_that_the_models_can_solve() {
    let mut ids = HashMap::new();
    for (split, other) in [("tune", "test"), ("test", "tune")] {
        let instances = instances(split);
        assert_eq!(instances.len(), 200);
        for instance in &instances {
            let problem = problem::last(instance.get("problem").unwrap().as_str().unwrap()).unwrap();
            assert_eq!(Some(problem.answer()), instance.get("answer").unwrap().as_i64(), "{}", instance.id);
            assert!((2..=4).contains(&problem.steps.len()), "{}", instance.id);
            let before = ids.insert(problem.text.to_owned(), split);
            assert_eq!(before, None, "{} is in {other} too", instance.id);
        }
    }
}

#[test]
fn prices_and_limits_in_farthing_toml_are_the_declared_ones() {
    let table: toml::Table = file("tests/fixtures/tasks/mock-arithmetic/farthing.toml").parse().unwrap();
    for model in MODELS {
        let written = &table["models"][model.name];
        let price = |name: &str| per_million(&written["price"][name].to_string()).unwrap();
        assert_eq!(price("input"), per_million(model.input_price).unwrap());
        assert_eq!(price("output"), per_million(model.output_price).unwrap());
        assert_eq!(written["context_window"].as_integer(), Some(model.context_window as i64));
        assert_eq!(written["max_output_tokens"].as_integer(), Some(model.max_output_tokens as i64));
    }
}

/// What makes the tuning instructive, each as a difference on the same 400 problems.
#[test]
fn every_parameter_matters() {
    let greedy = |stop: Value| json!({"temperature": 0, "max_tokens": 192, "stop": stop});
    let warm = |temperature: f64| json!({"temperature": temperature, "max_tokens": 192, "stop": ["\n\n"]});
    let small = |prompt, n, settings| accuracy(prompt, "mock-small", n, settings);
    let (worked, direct) = (small("trigger", 1, greedy(json!(["\n\n"]))), small("direct", 1, greedy(json!(["\n\n"]))));
    assert!(worked > direct + 0.1, "steps help: {worked} {direct}");
    assert!(
        accuracy("trigger", "mock-large", 1, greedy(json!(["\n\n"]))) > worked + 0.1,
        "the dearer model is stronger"
    );
    assert!(worked > small("trigger", 1, greedy(json!([]))) + 0.15, "without a stop sequence it runs on");
    assert!(worked > small("trigger", 1, greedy(json!(["\n"]))) + 0.3, "a bad stop sequence cuts the working");
    let teacher = |stop| small("teacher", 1, greedy(stop));
    assert!(teacher(json!(["Problem:"])) > teacher(json!(["\n\n"])) + 0.2, "a blank line is no stop for all prompts");
    let short = json!({"temperature": 0, "max_tokens": 32, "stop": ["\n\n"]});
    assert!(worked > small("trigger", 1, short) + 0.15, "too few tokens cut the working");
    let (single, voted) = (small("trigger", 1, warm(0.8)), small("trigger", 10, warm(0.8)));
    assert!(single < worked && voted > worked + 0.03, "votes help: {single} {worked} {voted}");
    assert!(small("trigger", 10, warm(1.5)) < voted - 0.15, "too hot");
    let bare = json!({"temperature": 0.8, "max_tokens": 16, "stop": ["\n"]});
    assert!(small("direct", 10, bare) < direct + 0.06, "votes on bare answers help little");
}

#[test]
fn cuts_are_exact_and_counted() {
    let problem = "Ann has 12 apples, buys 3 bags of 7 and gives 5 away. How many apples has she?\nThink step by step.";
    let ask = |settings| answer(&request("mock-large", user(problem), 3, settings), 0).unwrap();
    let free = ask(json!({"temperature": 0.7, "max_tokens": 200}));
    let stopped = ask(json!({"temperature": 0.7, "max_tokens": 200, "stop": "\n"}));
    let short = ask(json!({"temperature": 0.7, "max_completion_tokens": 9.0, "stop": null}));
    for ((free, stopped), short) in free.samples.iter().zip(&stopped.samples).zip(&short.samples) {
        assert_eq!(stopped.text, free.text.split('\n').next().unwrap());
        assert_eq!(stopped.finish_reason, FinishReason::STOP);
        assert!(free.text.starts_with(&short.text));
        assert_eq!((short.completion_tokens, &short.finish_reason), (9, &FinishReason::LENGTH));
        assert_eq!(free.completion_tokens, tokens::count(&free.text));
    }
    assert_eq!(free.prompt_tokens, tokens::count(problem) + 7);
}

#[test]
fn what_cannot_be_answered_fails_or_says_so() {
    let kind =
        |model: &str, settings| answer(&request(model, user("hi"), 1, settings), 0).map_err(|failure| failure.kind);
    for settings in [
        json!({"temperature": 2.1}),
        json!({"temperature": "hot"}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": 2000}),
        json!({"stop": [""]}),
        json!({"stop": ["a", "b", "c", "d", "e"]}),
        json!({"stop": 3}),
        json!({"top_p": -0.1}),
    ] {
        assert_eq!(kind("mock-small", settings.clone()), Err(FailureKind::BadRequest), "{settings}");
    }
    assert_eq!(kind("gpt-4o", json!({})), Err(FailureKind::UnknownModel));
    let long = request("mock-small", Input::Text("word ".repeat(8000)), 1, json!({}));
    assert_eq!(answer(&long, 0).unwrap_err().kind, FailureKind::ContextTooLong);
    assert!(answer(&request("mock-small", user("hi"), 0, json!({})), 0).is_err());
    let hi = kind("mock-small", json!({"temperature": 1.5})).unwrap();
    assert!(hi.samples[0].text.contains("made-up model"));
    let none = Request { input: Input::Messages(Vec::new()), ..request("mock-small", user(""), 1, json!({})) };
    assert_eq!(answer(&none, usize::MAX).unwrap().samples.len(), 0);
}

#[test]
fn greedy_samples_are_equal_and_warm_ones_differ() {
    let text = "Q: Ann has 12 apples, buys 13 bags of 17 and gives 5 away. How many apples has she?\nA: step by step:";
    let texts = |temperature: f64| {
        let settings = json!({"temperature": temperature, "max_tokens": 150, "stop": ["\n\nQ:"]});
        let response = answer(&request("mock-small", Input::Text(text.into()), 20, settings), 0).unwrap();
        response.samples.into_iter().map(|sample| sample.text).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(texts(0.0), 1);
    assert!(texts(0.3) > 1 && texts(0.3) < texts(1.0));
}

proptest! {
    /// Sample i is the same however it is asked for, fits max_tokens, and is never billed above its bytes.
    #[test]
    fn a_sample_depends_on_its_index_alone(
        text in "(Ann has [1-9][0-9]? apples and (eats|buys) [1-9][0-9]? more\\. )?(\\PC{0,40})(How many apples\\?)?(step by step)?",
        n in 1_u32..6, first in 0_usize..5, temperature in 0.0_f64..2.0, most in 1_u64..120, chat: bool,
    ) {
        let input = if chat { user(&text) } else { Input::Text(text.clone()) };
        let settings = json!({"temperature": temperature, "max_tokens": most, "stop": ["\n\n"]});
        let all = answer(&request("mock-small", input.clone(), 10, settings.clone()), 0).unwrap();
        let some = answer(&request("mock-small", input, n, settings), first).unwrap();
        prop_assert_eq!(&all.samples[first..(first + n as usize).min(10)], &some.samples[..(10 - first).min(n as usize)]);
        prop_assert!(all.prompt_tokens <= text.len() as u64 + 8);
        for sample in &all.samples {
            prop_assert!(sample.completion_tokens <= most && sample.completion_tokens <= sample.text.len() as u64);
            prop_assert!(!sample.text.contains("\n\n"));
        }
    }
}

/// `cargo test landscape -- --ignored --nocapture` prints accuracy and cost over a sample of the space.
#[test]
#[ignore = "prints a table"]
fn landscape() {
    let instances = instances("tune");
    let torn = "Reason step by step, but answer with the number only.";
    let prompts = [
        ("plain", ""),
        ("direct", ""),
        ("trigger", "Answer directly."),
        ("trigger", torn),
        ("trigger", BRIEF),
        ("trigger", STEPS),
        ("teacher", ""),
        ("few_shot", ""),
    ];
    let votes = [(1, 0.0), (1, 0.7), (3, 0.6), (5, 0.7), (10, 0.4), (10, 0.8), (10, 1.2), (10, 1.5)];
    let stops = [json!([]), json!(["\n"]), json!(["\n\n"]), json!(["Problem:"])];
    let mut rows = Vec::new();
    for model in ["mock-small", "mock-large"] {
        for (prompt, trigger) in prompts {
            for (max_tokens, stop) in
                [16, 32, 64, 192].iter().flat_map(|most| stops.iter().map(move |stop| (most, stop)))
            {
                for (n, temperature) in votes {
                    let settings = json!({"temperature": temperature, "max_tokens": max_tokens, "stop": stop});
                    let point = point(prompt, trigger, model, n, settings);
                    rows.push((evaluate(&point, &instances), point));
                }
            }
        }
    }
    type Row = ((f64, f64, f64), Point);
    let show = |((accuracy, cost, tokens), point): &Row| {
        let Point { prompt, trigger, model, n, settings } = point;
        println!("{accuracy:.3}  ${cost:.6} {tokens:6.1}  {model:10} {prompt:8} {trigger:12.12} n={n:<2} {settings}");
    };
    let some = |title: &str, wanted: &dyn Fn(&Point) -> bool| {
        println!("-- {title}");
        rows.iter().filter(|(_, point)| wanted(point)).for_each(show);
    };
    println!("{} points: accuracy, dollars an instance, output tokens a response", rows.len());
    let votes_at = |p: &Point, stop| p.settings["max_tokens"] == 192 && p.settings["stop"] == json!([stop]);
    some("prompts and votes, at 192 tokens and stop \"Problem:\"", &|p| votes_at(p, "Problem:"));
    let greedy = |p: &Point| p.n == 1 && p.settings["temperature"] == 0.0 && p.model == "mock-large";
    some("cuts, greedy", &|p| greedy(p) && (["teacher", "few_shot"].contains(&p.prompt) || p.trigger == STEPS));
    println!("-- frontier");
    rows.sort_by(|a, b| a.0.1.total_cmp(&b.0.1).then(b.0.0.total_cmp(&a.0.0)));
    let mut best = 0.0;
    for row in &rows {
        if row.0.0 > best {
            best = row.0.0;
            show(row);
        }
    }
    let cost = rows.iter().map(|row| row.0.1).sum::<f64>() / rows.len() as f64;
    rows.sort_by(|a, b| b.0.0.total_cmp(&a.0.0));
    let quantiles = [0, 10, 25, 50, 75, 90, 100].map(|percent| rows[(rows.len() - 1) * percent / 100].0.0);
    println!("-- accuracy from the best down, at 0 10 25 50 75 90 100 %: {quantiles:?}; mean cost ${cost:.6}");
    for budget in [0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002] {
        println!("-- best within ${budget}");
        rows.iter().filter(|row| row.0.1 <= budget).take(6).for_each(show);
    }
}
