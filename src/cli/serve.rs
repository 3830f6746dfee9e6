//! `farthing serve`: a run's report in the browser, kept up to date while the run goes on.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::{print, with_runtime};
use crate::diagnostic::Result;
use crate::serve::live::LivePage;
use crate::study::{Stop, folder};

const EXAMPLES: &str = "\
It listens on this machine alone, under an address with a random token that it prints; who does not know it finds nothing. It \
reads the run's folder, so the run does not notice. Ctrl-C ends it.

Examples:
  farthing serve results/exam-1
  farthing serve results/exam-1 --port 8090";

/// Arguments of `farthing serve`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ServeArguments {
    /// The run's folder
    run: PathBuf,
    /// The port on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
}

/// Serves it until Ctrl-C.
pub fn run(arguments: &ServeArguments) -> Result<u8> {
    folder::load(&arguments.run)?;
    let stop = Arc::new(Stop::default());
    let pressed = stop.clone();
    with_runtime(
        true,
        async {
            let page = LivePage::bind(&arguments.run, arguments.port).await?;
            print(&page.url())?;
            tokio::select! {
                served = page.serve() => served,
                () = pressed.until_asked() => Ok(()),
            }
        },
        stop,
    )?;
    Ok(0)
}
