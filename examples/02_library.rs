//! The same as `01_custom_metric` in spirit, without the command line: put a study together, run it, read the outcome.
//!
//! ```text
//! cargo run --example 02_library
//! ```

use farthing::backend::Endpoints;
use farthing::space::Space;
use farthing::store::MemoryStore;
use farthing::study::Study;
use farthing::{Result, Sample, TaskBuilder, Usd};

#[tokio::main]
async fn main() -> Result<()> {
    let rows = (2..80).map(|i| {
        serde_json::json!({
            "problem": format!("Ann has {} apples and buys {} bags of {}. How many apples has she now?", 3 * i, i % 7 + 2, i % 5 + 3),
            "answer": 3 * i + (i % 7 + 2) * (i % 5 + 3),
        })
    });
    let task = TaskBuilder::new("apples")
        .instances(rows)
        .metric("right", |instance: &farthing::task::Instance, responses: &[Sample]| {
            let wanted = instance.text("answer").unwrap_or_default();
            responses[0].text.contains(&wanted)
        })
        .maximize("right")
        .build()?;
    let space = Space::builder("apples")
        .template("plain", "{{ problem }}")
        .template("steps", "{{ problem }} {{ trigger }}")
        .choices("trigger", ["Let's think step by step.", "Answer directly."])
        .choices("model", ["mock-small", "mock-large"])
        .float("temperature", 0.0..=1.0)
        .constant("max_tokens", 80)
        .choices("stop", [serde_json::json!([]), serde_json::json!(["\n\n"])])
        .baseline("prompt", "plain")
        .build()?;
    let budget: Usd = "0.05".parse().expect("a decimal");
    let outcome = Study::builder()
        .workload(task)
        .space(space)
        .endpoints(Endpoints::mock())
        .store(MemoryStore::new())
        .budget(budget)
        .test_share(0.2)
        .seed(7)
        .build()?
        .run()
        .await?;
    let summary = &outcome.summary;
    println!("tried {} configurations for ${} of ${budget}", summary.trials, summary.study_cost_usd);
    if let Some(best) = &summary.best {
        println!("best: {} with {:.3} on {} instances", best.config, best.score.unwrap_or(0.0), best.instances);
    }
    if let Some(holdout) = &summary.holdout {
        println!("held out: {:?} on {} instances", holdout.score, holdout.instances);
    }
    Ok(())
}
