//! Studies and rows for the tests of this room.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::backend::Endpoints;
use crate::diagnostic::Source;
use crate::evaluate::TaskBuilder;
use crate::money::Usd;
use crate::provider::Sample;
use crate::report::rows::RankingRow;
use crate::study::{Outcome, Standing, Study};
use crate::task::Instance;

const SPACE: &str = r#"
[space]
name = "doubles"
[params.prompt]
type = "categorical"
choices = [{ name = "plain", template = "{{ question }}" }, { name = "cot", template = "{{ question }}\n{{ trigger }}" }]
[params.trigger]
type = "categorical"
choices = ["Let's think step by step.", "Answer directly."]
[params.model]
type = "categorical"
choices = ["mock-small", "mock-large"]
[params.temperature]
type = "float"
low = 0.0
high = 1.0
[params.max_tokens]
value = 64
[baseline]
prompt = "plain"
"#;

const ENDPOINTS: &str = r#"
[endpoints.mock]
provider = "mock"
[models.mock-small]
price = { input = 0.25, output = 0.75 }
context_window = 8192
max_output_tokens = 1024
[models.mock-large]
price = { input = 1.0, output = 3.0 }
context_window = 8192
max_output_tokens = 1024
"#;

/// The outcome of [`outcome`]'s study, which is run once for all tests.
pub fn shared() -> &'static Outcome {
    static OUTCOME: OnceLock<Outcome> = OnceLock::new();
    OUTCOME.get_or_init(outcome)
}

/// A small study with the made-up model, the same every time.
pub fn outcome() -> Outcome {
    let rows = (1..=40).map(|i| json!({"question": format!("Rita has {i} plums and finds {} more. How many plums has she?", 2 * i), "answer": 3 * i}));
    let workload = TaskBuilder::new("doubles")
        .instances(rows)
        .metric("exact", |instance: &Instance, responses: &[Sample]| {
            responses[0].text.contains(&instance.text("answer").unwrap_or_default())
        })
        .metric("letters", |_: &Instance, responses: &[Sample]| responses[0].text.len() as f64)
        .maximize("exact")
        .build()
        .unwrap();
    let folder = std::path::Path::new(".");
    let space = crate::space::file::read(&Source::new("space.toml", SPACE), folder).unwrap();
    let endpoints = Endpoints::read(&Source::new("farthing.toml", ENDPOINTS), folder).unwrap();
    let study = Study::builder()
        .workload(workload)
        .space(space)
        .endpoints(endpoints)
        .budget("0.02".parse().unwrap())
        .test_share(0.2)
        .max_trials(12)
        .store(crate::store::open("memory:").unwrap())
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(study.run()).unwrap()
}

/// `count` made-up rows, best first.
pub fn some_rows(count: usize) -> Vec<RankingRow> {
    (0..count)
        .map(|at| {
            let score = 0.8 - 0.01 * at as f64;
            row(
                at,
                Some(score),
                Some([score - 0.06, score + 0.05]),
                Some(Usd::from_pico(20_000_000 * (1 + (at as i64 * 7) % 17))),
            )
        })
        .collect()
}

/// One row.
pub fn row(at: usize, score: Option<f64>, ci95: Option<[f64; 2]>, cost: Option<Usd>) -> RankingRow {
    let text = |text: &str| Some(Value::from(text));
    RankingRow {
        rank: at + 1,
        trial: at,
        id: format!("{at:08x}"),
        standing: Standing::Eligible,
        baseline: at == 3,
        score,
        ci_low: ci95.map(|ci| ci[0]),
        ci_high: ci95.map(|ci| ci[1]),
        posterior_mean: score,
        posterior_sd: score.map(|_| 0.02),
        instances: 250 - at.min(240),
        missing: 0,
        production_cost_usd_per_instance: cost,
        study_cost_usd: Usd::from_pico(1_234_567_890),
        reason: None,
        configuration: vec![
            ("temperature".into(), Some(Value::from(at as f64 / 10.0))),
            ("model".into(), text(if at.is_multiple_of(2) { "gpt-4o-mini" } else { "gpt-4o" })),
            ("prompt".into(), text(if at.is_multiple_of(3) { "cot" } else { "direct" })),
            ("trigger".into(), if at.is_multiple_of(3) { text("Let's think step by step.") } else { None }),
            ("max_tokens".into(), Some(Value::from(256))),
        ],
        p_best: Some(0.5_f64.powi(at as i32 + 1)),
        pareto: at == 0,
    }
}
