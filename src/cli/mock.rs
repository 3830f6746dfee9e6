//! `farthing mock`: an endpoint on loopback that speaks OpenAI's, Azure's, Anthropic's, Ollama's and Gemini's formats.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cli::{print, small_runtime};
use crate::diagnostic::{Error, Result};
use crate::serve::mock::{Answers, BatchOptions, CONDITIONS, Cassette, FAULTS, Latency, Limits, MockServer, Options};
use crate::serve::mock::{Price, Rule};

/// Arguments of `farthing mock`.
#[derive(Args, Clone, Debug)]
#[command(after_help = after_help())]
pub struct MockArguments {
    /// Answer from recorded samples in place of the made-up models
    #[arg(long, value_name = "FILE")]
    cassette: Option<PathBuf>,
    /// Answer by a language model in this process: mite, local:PATH, hf:ORG/NAME (downloaded where it is not here), or NAME=local:PATH (repeatable)
    #[cfg(feature = "local")]
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "cassette")]
    models: Vec<String>,
    /// The port on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 8089)]
    port: u16,
    /// Let in only who brings this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Dollars per million tokens, of every model (by default those of the made-up models and of mite; else 0)
    #[arg(long, value_name = "INPUT,OUTPUT", value_parser = price)]
    price: Option<Price>,
    /// Milliseconds before each answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
    /// Vary the latency evenly from half to one and a half times
    #[arg(long)]
    jitter: bool,
    /// Another seed, other latencies
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Fail: a name from the list below, and when (repeatable; the first that fits strikes)
    #[arg(long = "fault", value_name = "NAME[:WHEN=VALUE]...", value_parser = rule)]
    faults: Vec<Rule>,
    /// Requests a minute that each key has; above it 429, with the true time to wait
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens a minute that each key has (prompt, and max_tokens for each completion)
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Requests that each key may have open at a time
    #[arg(long, value_name = "N")]
    max_concurrency: Option<u64>,
    /// How long a batch takes
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    batch_seconds: f64,
    /// After how long a batch expires
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400.0)]
    batch_window: f64,
    /// Prompt tokens of one model that may be in unfinished batches
    #[arg(long, value_name = "N")]
    enqueued_tokens: Option<u64>,
    /// Bill a prompt that came before as cached
    #[arg(long)]
    cache_prompts: bool,
    /// Threads that serve
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
}

fn price(text: &str) -> Result<Price, String> {
    let (input, output) = text.split_once(',').ok_or("two prices with a comma between them, like 0.15,0.60")?;
    Price::per_million(input.trim(), output.trim()).map_err(|error| error.to_string())
}

fn rule(text: &str) -> Result<Rule, String> {
    text.parse::<Rule>().map_err(|error| error.to_string())
}

fn after_help() -> String {
    let width = FAULTS.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let faults: String = FAULTS.iter().map(|(name, about)| format!("  {name:width$}  {about}\n")).collect();
    format!(
        "Faults:\n{faults}\nWhen: {CONDITIONS}.\nFor example --fault rate_limit:seconds=2:rate=0.05 --fault 503:first=3:model=mock-small\n\n\
         One request can ask for its own fault with the header `x-mock-fault: NAME`. While it runs: GET /ledger, \
         POST /reset, POST /faults {{\"faults\": [...]}}, POST /clock/advance {{\"seconds\": N}}."
    )
}

fn seconds(name: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| Error::usage(format!("--{name} must be a number of seconds from 0 up, but it is {value}")))
}

fn options(arguments: &MockArguments) -> Result<(Options, String)> {
    let latency = Duration::from_millis(arguments.latency);
    let mut options = Options {
        port: arguments.port,
        key: arguments.key.clone(),
        latency: match arguments.jitter {
            true => Latency::Random { low: latency / 2, high: latency.saturating_mul(3) / 2, seed: arguments.seed },
            false => Latency::Fixed(latency),
        },
        rules: arguments.faults.clone(),
        limits: Limits {
            requests_per_minute: arguments.requests_per_minute,
            tokens_per_minute: arguments.tokens_per_minute,
            max_concurrency: arguments.max_concurrency,
        },
        batches: BatchOptions {
            duration: seconds("batch-seconds", arguments.batch_seconds)?,
            window: seconds("batch-window", arguments.batch_window)?,
            enqueued_tokens: arguments.enqueued_tokens,
            refused_text: None,
        },
        cache_prompts: arguments.cache_prompts,
        threads: usize::from(arguments.threads),
        ..Options::default()
    };
    let mut plays = "made-up models".to_owned();
    if let Some(path) = &arguments.cassette {
        let cassette = Cassette::read(path)?;
        plays = format!("{}, {} recorded requests", path.display(), cassette.len());
        options.models = cassette.models().map(|model| (model.to_owned(), Price::FREE)).collect();
        options.answers = Answers::Cassette(Arc::new(cassette));
    }
    #[cfg(feature = "local")]
    if !arguments.models.is_empty() {
        let mut models = std::collections::BTreeMap::new();
        options.models.clear();
        for model in &arguments.models {
            let (name, served, price) = local(model)?;
            options.models.insert(name.clone(), price);
            models.insert(name, served);
        }
        plays = "local models".to_owned();
        options.answers = Answers::Local(Arc::new(models));
    }
    if let Some(price) = arguments.price {
        for of_model in options.models.values_mut() {
            *of_model = Price { max_output_tokens: of_model.max_output_tokens, ..price };
        }
    }
    Ok((options, plays))
}

/// A local model, the name that it is served under, and its price.
#[cfg(feature = "local")]
fn local(model: &str) -> Result<(String, crate::backend::local::Local, Price)> {
    use crate::backend::local::{self, Compute, Local, Place};
    let (name, model) = match model.split_once('=') {
        Some((name, model)) if !name.is_empty() => (name, model),
        _ => (model, model),
    };
    if !local::is_local(model) {
        return Err(Error::usage(format!("`{model}` is no local model")).help("write mite, local:PATH or hf:ORG/NAME"));
    }
    let place = Place::of(model, std::path::Path::new(""))?;
    let price = match place {
        Place::Box => Price::per_million(local::place::mite::INPUT_PRICE, local::place::mite::OUTPUT_PRICE)
            .map_err(|error| Error::internal(error.to_string()))?,
        _ => Price::FREE,
    };
    let served = Local::open(&place, Compute::default())?;
    let max_output_tokens = served.context() as u64;
    Ok((name.to_owned(), served, Price { max_output_tokens, ..price }))
}

/// Serves until Ctrl-C.
pub fn run(arguments: &MockArguments) -> Result<u8> {
    let (options, plays) = options(arguments)?;
    let models: Vec<String> = options.models.keys().cloned().collect();
    let faults: Vec<String> = options.rules.iter().map(Rule::to_string).collect();
    let server = MockServer::start(options)?;
    let root = format!("http://{}", server.address());
    let wrong = if faults.is_empty() { String::new() } else { format!("Faults: {}\n", faults.join(" ")) };
    print(&format!(
        "Serving {} ({plays}: {})\n{wrong}Azure, Anthropic, Ollama and Gemini: {root}  Dollars: {root}/ledger  Ctrl-C ends it.",
        server.url(),
        models.join(", "),
    ))?;
    let runtime = small_runtime()?;
    runtime.block_on(tokio::signal::ctrl_c()).map_err(|e| Error::internal(format!("cannot wait for Ctrl-C: {e}")))?;
    let ledger = server.ledger();
    print(&format!(
        "\n{} requests, {} answered, {} lines of batches: ${} billed, ${} of it for what reached nobody",
        ledger.requests, ledger.answered, ledger.batch_lines, ledger.billed, ledger.unanswered.billed
    ))?;
    for (model, line) in &ledger.by_model {
        let (prompt, completion) = (line.prompt_tokens, line.completion_tokens);
        print(&format!(
            "{model}: {} bills, {prompt} input and {completion} output tokens, ${}",
            line.bills, line.billed
        ))?;
    }
    Ok(0)
}
