//! `farthing report`, and writing what a run's folder shows.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::print;
use crate::declaration;
use crate::diagnostic::{Error, Result, Source};
use crate::report::page::{self, Examples};
use crate::report::rows::{self, RankingRow};
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
        let (summary, rows) = (summary_of(path)?, rows_of(path)?);
        let folder = RunFolder::open(path)?;
        folder.write("report.html", page::page(&summary, &rows, &examples_of(path))?)?;
        print(&folder.path.join("report.html").display().to_string())?;
    }
    Ok(0)
}

/// The `summary.json` of a run's folder.
pub fn summary_of(path: &Path) -> Result<Summary> {
    let file = path.join("summary.json");
    if !file.is_file() {
        return Err(Error::usage(format!("the run in {} has not ended: it holds no summary.json", path.display()))
            .help(format!("farthing tune --resume {} goes on with it", path.display())));
    }
    let source = Source::read(&file)?;
    serde_json::from_str(source.text()).map_err(|error| {
        let (line, column) = (error.line().saturating_sub(1), error.column().saturating_sub(1));
        let text = source.text().lines().nth(line).unwrap_or_default();
        let error = declaration::plain(&error.to_string());
        Error::usage(format!("{} cannot be read: {error}", source.name())).at_line(
            source.name(),
            line,
            text,
            column..column + 1,
            "here",
        )
    })
}

/// The `ranking.csv` of a run's folder.
pub fn rows_of(path: &Path) -> Result<Vec<RankingRow>> {
    let source = Source::read(&path.join("ranking.csv"))?;
    rows::read_csv(source.text()).map_err(|error| {
        let advice = error.advice().map(str::to_owned);
        Error::usage(format!("{} cannot be read: {error}", source.name())).help_if(advice)
    })
}

/// What the report shows beside summary and ranking, as the search left it; nothing where it is not there.
pub fn examples_of(path: &Path) -> Examples {
    let kept = std::fs::read(path.join(EXAMPLES)).ok();
    kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Where the examples of a report are kept, so that it can be written anew.
const EXAMPLES: &str = ".report.json";

/// Writes ranking, report and summary; the summary last, since it says that a run has ended.
pub fn write(folder: &RunFolder, summary: &Summary, rows: &[RankingRow], examples: &Examples) -> Result<()> {
    let kept = serde_json::to_string(examples).map_err(|error| Error::internal(error.to_string()))?;
    folder.write(EXAMPLES, kept)?;
    folder.write("ranking.csv", rows::write_csv(rows))?;
    folder.write("report.html", page::page(summary, rows, examples)?)?;
    let json = serde_json::to_string_pretty(summary).map_err(|error| Error::internal(error.to_string()))?;
    folder.write("summary.json", json + "\n")
}
