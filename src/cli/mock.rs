//! `farthing mock`: an OpenAI-compatible endpoint on loopback.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cli::print;
use crate::diagnostic::{Error, Result};
use crate::serve::mock::{Answers, Cassette, Latency, MockServer, Options};

/// Arguments of `farthing mock`.
#[derive(Args, Clone, Debug)]
pub struct MockArguments {
    /// Answer from recorded samples in place of the made-up models
    #[arg(long, value_name = "FILE")]
    cassette: Option<PathBuf>,
    /// The port on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 8089)]
    port: u16,
    /// Milliseconds before each answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
}

/// Serves until Ctrl-C.
pub fn run(arguments: &MockArguments) -> Result<u8> {
    let mut options = Options { port: arguments.port, ..Options::default() };
    if let Some(path) = &arguments.cassette {
        options.answers = Answers::Cassette(Arc::new(Cassette::read(path)?));
        options.models.clear();
    }
    options.latency = Latency::Fixed(Duration::from_millis(arguments.latency));
    let server = MockServer::start(options)?;
    print(&format!(
        "Serving {} (made up or recorded; its own account of the dollars: {}/ledger). Ctrl-C ends it.",
        server.url(),
        server.url().trim_end_matches("/v1")
    ))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal(e.to_string()))?;
    drop(runtime.block_on(tokio::signal::ctrl_c()));
    print(&format!("{:?}", server.ledger()))?;
    Ok(0)
}
