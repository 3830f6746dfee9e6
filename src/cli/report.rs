//! `farthing report`, and writing what a run's folder shows.

use std::path::PathBuf;

use clap::Args;

use crate::cli::print;
use crate::diagnostic::{Error, Result};
use crate::report::page::{self, Extent};
use crate::report::rows::{self, RankingRow};
use crate::report::run::Run;
pub use crate::report::run::{rows_of, summary_of};
use crate::study::Summary;
use crate::study::folder::RunFolder;

/// Arguments of `farthing report`.
#[derive(Args, Clone, Debug)]
pub struct ReportArguments {
    /// Folders of runs
    #[arg(required = true)]
    runs: Vec<PathBuf>,
}

/// Writes the report of each run anew, from its summary and its ranking.
pub fn run(arguments: &ReportArguments) -> Result<u8> {
    for path in &arguments.runs {
        let folder = RunFolder::open(path)?;
        folder.write("report.html", page::render(&page::data(&Run::read(path)?, Extent::default()))?)?;
        print(&folder.path.join("report.html").display().to_string())?;
    }
    Ok(0)
}

/// Writes ranking, report and summary; the summary last, since it says that a run has ended.
pub fn write(folder: &RunFolder, summary: &Summary, rows: &[RankingRow]) -> Result<()> {
    folder.write("ranking.csv", rows::write_csv(rows))?;
    let run = Run::with(&folder.path, summary.clone(), rows.to_vec())?;
    folder.write("report.html", page::render(&page::data(&run, Extent::default()))?)?;
    let json = serde_json::to_string_pretty(summary).map_err(|error| Error::internal(error.to_string()))?;
    folder.write("summary.json", json + "\n")
}
