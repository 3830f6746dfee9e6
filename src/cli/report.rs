//! `farthing report`, and writing what a run's folder shows.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::arguments::number;
use crate::cli::{print, print_json};
use crate::diagnostic::{Error, Result};
use crate::files;
use crate::report::exports;
use crate::report::page::{self, Extent, several};
use crate::report::rows::{self, RankingRow};
use crate::report::run::Run;
pub use crate::report::run::{rows_of, summary_of};
use crate::study::Summary;
use crate::study::folder::RunFolder;

const EXAMPLES: &str = "Examples:
  farthing report results/exam-1 --open                 write its report.html anew, and show it
  farthing report results/exam-1 results/exam-2         one page that compares them: comparison.html
  farthing report results/exam-1 --markdown             for a comment on a pull request
  farthing report results/exam-1 --junit report.xml --min-score 0.8";

/// Arguments of `farthing report`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ReportArguments {
    /// Folders of runs, ended or not; several give one page that compares them
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Where the page goes [default: report.html in the run's folder; comparison.html for several runs]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Take up every prompt and response, however large the page gets
    #[arg(long)]
    full: bool,
    /// Show the page in the browser
    #[arg(long)]
    open: bool,
    /// Print the runs as JSON; no page is written
    #[arg(long, group = "printed")]
    json: bool,
    /// Print the runs as Markdown; no page is written
    #[arg(long, group = "printed")]
    markdown: bool,
    /// Print the ranking as CSV, also of a run that goes on; no page is written
    #[arg(long, group = "printed")]
    csv: bool,
    /// Write the runs as JUnit XML for a build server; no page is written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["printed", "open"])]
    junit: Option<PathBuf>,
    /// The score that a winner must reach in the JUnit report; on held-out instances where there are any
    #[arg(long, value_name = "SCORE", requires = "junit", value_parser = number, allow_hyphen_values = true)]
    min_score: Option<f64>,
}

/// Writes the page of a run, or of several, or gives them to other programs.
pub fn run(arguments: &ReportArguments) -> Result<u8> {
    let printed = arguments.json || arguments.markdown || arguments.csv;
    if printed && (arguments.out.is_some() || arguments.full || arguments.open) {
        return Err(Error::usage("--out, --full and --open are for the page, and none is written here")
            .help("leave out --json, --markdown or --csv, or send what is printed into a file: > FILE"));
    }
    if arguments.junit.is_some() && (arguments.out.is_some() || arguments.full) {
        return Err(Error::usage("--out and --full are for the page, and --junit writes none"));
    }
    if arguments.csv && arguments.runs.len() > 1 {
        return Err(Error::usage("--csv prints one ranking: give one run"));
    }
    let runs: Vec<Run> = arguments.runs.iter().map(|path| Run::read(path)).collect::<Result<_>>()?;
    if let Some(path) = &arguments.junit {
        files::replace(path, exports::junit(&runs, arguments.min_score)?.as_bytes())?;
        print(&path.display().to_string())?;
        return Ok(0);
    }
    if arguments.json {
        return match runs.as_slice() {
            [run] => print_json(&exports::json(run)),
            several => print_json(&several.iter().map(exports::json).collect::<Vec<_>>()),
        }
        .map(|()| 0);
    }
    if arguments.markdown {
        print(&runs.iter().map(exports::markdown).collect::<Vec<_>>().join("\n"))?;
        return Ok(0);
    }
    if arguments.csv {
        print(&rows::write_csv(&runs[0].rows))?;
        return Ok(0);
    }
    let extent = Extent { full: arguments.full };
    let path = match (runs.as_slice(), &arguments.out) {
        ([run], out) => {
            let path = out.clone().unwrap_or_else(|| run.path.join("report.html"));
            files::replace(&path, page::render(&page::data(run, extent))?.as_bytes())?;
            // A run that ended meanwhile has written its own page, which this one must not stand in for.
            if !run.ended && run.path.join("summary.json").is_file() {
                files::replace(&path, page::render(&page::data(&Run::read(&run.path)?, extent))?.as_bytes())?;
            }
            path
        }
        (_, out) => {
            let path = out.clone().unwrap_or_else(|| PathBuf::from("comparison.html"));
            files::replace(&path, several::render(&several::data(&runs))?.as_bytes())?;
            path
        }
    };
    print(&path.display().to_string())?;
    for gap in runs.iter().flat_map(|run| &run.gaps) {
        say!("{gap}");
    }
    if arguments.open {
        open(&path)?;
    }
    Ok(0)
}

/// Shows a file in the user's browser.
fn open(path: &Path) -> Result<()> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (program, first): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/C", "start", ""]),
        _ => ("xdg-open", &[]),
    };
    let started =
        std::process::Command::new(program).args(first).arg(&path).stdout(std::process::Stdio::null()).spawn();
    started.map(drop).map_err(|error| {
        Error::usage(format!("{program} cannot show the page: {error}"))
            .help(format!("open {} in a browser", path.display()))
    })
}

/// Writes ranking, report and summary; the summary last, since it says that a run has ended.
pub fn write(folder: &RunFolder, summary: &Summary, rows: &[RankingRow]) -> Result<()> {
    folder.write("ranking.csv", rows::write_csv(rows))?;
    let run = Run::with(&folder.path, summary.clone(), rows.to_vec())?;
    folder.write("report.html", page::render(&page::data(&run, Extent::default()))?)?;
    let json = serde_json::to_string_pretty(summary).map_err(|error| Error::internal(error.to_string()))?;
    folder.write("summary.json", json + "\n")
}
