//! A task of your own with a metric of your own in Rust, and the whole command line for it.
//!
//! ```text
//! cargo run --example 01_custom_metric -- tune --budget 0.02
//! cargo run --example 01_custom_metric -- evaluate --set prompt=direct --set temperature=0
//! cargo run --example 01_custom_metric -- test results/sums-1
//! ```
//!
//! It runs without a key: the model is `mite`, which comes with farthing. For others give `--endpoints` with a file of
//! yours, and name its models in the space.

use std::path::Path;
use std::process::ExitCode;

use farthing::space::Space;
use farthing::task::Instance;
use farthing::{Result, Sample, TaskBuilder, Workload, cli};

/// What one evaluation is worth: several named numbers. The task's objective names the one that decides; the others are
/// recorded beside it.
fn judge(instance: &Instance, responses: &[Sample]) -> [(&'static str, f64); 3] {
    let wanted = instance.text("answer").unwrap_or_default();
    let right = responses.iter().filter(|response| last_number(&response.text) == Some(&wanted)).count();
    let words: usize = responses.iter().map(|response| response.text.split_whitespace().count()).sum();
    let share = right as f64 / responses.len() as f64;
    [
        // More than half of the responses must agree on the answer.
        ("agreed", f64::from(2 * right > responses.len())),
        ("share_right", share),
        ("words", words as f64 / responses.len() as f64),
    ]
}

fn last_number(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_digit()).rfind(|piece| !piece.is_empty())
}

fn task() -> Result<Workload> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/arithmetic");
    let rows = |file: &str| -> Result<Vec<serde_json::Value>> {
        let instances = farthing::task::data::load(&folder.join(file), Some("id"))?;
        Ok(instances.into_iter().map(|instance| instance.fields.into()).collect())
    };
    TaskBuilder::new("sums")
        .description("Word problems, right where most responses agree on the answer")
        .folder(&folder)
        .id("id")
        .instances(rows("tune.jsonl")?)
        .test_instances(rows("test.jsonl")?)
        .metric("judge", judge)
        .maximize("agreed")
        .build()
}

fn space() -> Result<Space> {
    Space::builder("sums")
        .template("direct", "Q: {{ problem }}\nA:")
        .template("steps", "Problem: {{ problem }}\nLet's think step by step.")
        .template("work", "Problem: {{ problem }}\nWork:")
        .messages(
            "tutor",
            &[
                ("system", "You are a careful teacher. Explain every step in detail."),
                ("user", "Problem: {{ problem }}\n"),
            ],
        )
        .constant("model", "mite")
        .float("temperature", 0.0..=1.2)
        .step(0.2)
        .int("n", 1..=9)
        .step(2.0)
        .constant("max_tokens", 96)
        .choices("stop", [serde_json::json!(["\n\n"]), serde_json::json!([])])
        .constraint("n == 1 or temperature > 0")
        .baseline("prompt", "direct")
        .build()
}

fn main() -> ExitCode {
    match (task(), space()) {
        (Ok(task), Ok(space)) => cli::main_for_space(task, space),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("{error}");
            ExitCode::from(error.fault().exit_code())
        }
    }
}
