//! Throughput of a local model: tokens per second of 64 samples at a time, and of one.
//!
//!     cargo bench --bench local [-- FOLDER]          the model in the box, or another one
//!     python benches/local/transformers_bench.py FOLDER      the same work by transformers
//!
//! Every sample has a prompt of its own of about 60 tokens and goes on for 96. Seconds of the processor are shown beside
//! those of the clock, for machines that have other things to do.

use std::time::Instant;

use farthing::backend::Backend;
use farthing::backend::local::{Local, Place, Precision};
use farthing::provider::{Input, Request};
use serde_json::json;

const SAMPLES: usize = 64;
const TOKENS: u64 = 96;

/// Seconds of the processor that this process has had.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    ticks.iter().sum::<f64>() / 100.0
}

fn request(number: usize) -> Request {
    let prompt: String = (0..12).map(|at| format!("{} + {} = ", number * 7 + at, at * 3)).collect();
    // No sample ends by itself.
    let params = json!({"temperature": 1, "max_tokens": TOKENS, "logit_bias": {"0": -100}});
    let params = serde_json::from_value(params).expect("parameters");
    Request { model: "bench".into(), input: Input::Text(prompt), params, n: 1 }
}

fn measure(local: &Local, samples: usize, rounds: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (began, busy) = (Instant::now(), processor());
    let (mut prompt, mut said) = (0, 0);
    for round in 0..rounds {
        let requests: Vec<Request> = (0..samples).map(|at| request(round * samples + at)).collect();
        let calls = requests.iter().map(|request| local.call(request, 0));
        for response in runtime.block_on(futures_util::future::join_all(calls)) {
            let response = response.expect("an answer");
            prompt += response.prompt_tokens;
            said += response.completion_tokens();
        }
    }
    let (seconds, busy) = (began.elapsed().as_secs_f64(), processor() - busy);
    println!(
        "{samples:3} at a time: {said} tokens after {prompt} of prompts in {seconds:.2} s: {:.0} tokens/s ({busy:.2} s of the processor: {:.0} tokens/s on two cores of its own)",
        said as f64 / seconds,
        said as f64 / busy * 2.0
    );
}

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let name = folder.map_or_else(|| "mite".to_owned(), |folder| format!("local:{folder}"));
    let place = Place::of(&name, std::path::Path::new("")).expect("a model");
    let local = Local::open(&place, Precision::F32).expect("a model");
    measure(&local, SAMPLES, 1);
    measure(&local, SAMPLES, 4);
    measure(&local, 1, 4);
}
