//! `farthing plot`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::print;
use crate::diagnostic::{Error, Result};
use crate::files;
use crate::report::matters;
use crate::report::page::{course, frame};
use crate::report::plots::{self, Figure, progress};
use crate::report::run::{self, Run};

const EXAMPLES: &str = "Examples:
  farthing plot results/exam-1
  farthing plot results/exam-1 --kind pareto --out pareto.svg
  farthing plot results/exam-1 results/exam-2 --kind progress --out progress.png";

/// Arguments of `farthing plot`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct PlotArguments {
    /// Folders of runs; only `progress` takes several
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// What to draw
    #[arg(long, value_enum, default_value_t = Kind::Pareto)]
    kind: Kind,
    /// Where it goes: a file that ends in .svg or .png [default: KIND.svg in the first run's folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How large, in pixels; a PNG has two for one [default: 960x480; importance as high as its bars]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size)]
    size: Option<(u32, u32)>,
}

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Score against the price of production, with the frontier
    Pareto,
    /// The best so far against what the search had cost
    Progress,
    /// The share of the differences that each parameter explains
    Importance,
    /// The score against n, the responses to one instance
    N,
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match parsed {
        Some((width, height)) if (200..=4000).contains(&width) && (160..=4000).contains(&height) => Ok((width, height)),
        _ => Err("a size is like 960x480, from 200x160 to 4000x4000".to_owned()),
    }
}

/// Draws a run.
pub fn run(arguments: &PlotArguments) -> Result<u8> {
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => {
            let kind = arguments.kind.to_possible_value();
            arguments.runs[0].join(format!("{}.svg", kind.as_ref().map_or("plot", |kind| kind.get_name())))
        }
    };
    let ending = out.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    let png = match ending.as_deref() {
        Some("svg") => false,
        Some("png") => true,
        _ => {
            return Err(Error::usage(format!("{} is neither an .svg nor a .png", out.display()))
                .help("give --out a name that ends in .svg or .png"));
        }
    };
    if arguments.runs.len() > 1 && arguments.kind != Kind::Progress {
        return Err(Error::usage("only --kind progress draws several runs").help("give one run"));
    }
    let runs: Vec<Run> = arguments.runs.iter().map(|path| Run::read(path)).collect::<Result<_>>()?;
    let first = &runs[0];
    if !run::alike(&runs) {
        return Err(Error::usage("the runs have different metrics, or directions, which do not go on one axis"));
    }
    let frame = frame(first, arguments.size.unwrap_or((960, 480)));
    let figure: Option<Figure> = match arguments.kind {
        Kind::Pareto => plots::pareto::figure(&first.rows, frame),
        Kind::Progress => {
            let named = runs.iter().zip(run::names(&runs));
            let courses: Vec<progress::Course> =
                named.map(|(run, name)| progress::Course { name, ..course(run).0 }).collect();
            let (baseline, budget) = match runs.len() {
                1 => (course(first).1, first.summary.budget_usd),
                _ => (None, None),
            };
            progress::figure(&courses, baseline, budget, frame)
        }
        Kind::Importance => {
            let figure = matters::matters(&first.rows).and_then(|matters| plots::importance::figure(&matters, 960));
            figure.map(|figure| match arguments.size {
                Some(size) => figure.sized(size),
                None => figure,
            })
        }
        Kind::N => plots::importance::along(&first.rows, "n", frame),
    };
    let nothing = |why: &str| Error::usage(format!("there is nothing to draw: {why}"));
    let figure = figure.ok_or_else(|| match arguments.kind {
        Kind::Pareto => nothing("no configuration was judged and has a price"),
        Kind::Progress => nothing("no configuration has led yet"),
        Kind::Importance => nothing("too few configurations were judged, or all score the same"),
        Kind::N => nothing("fewer than two values of n were judged"),
    })?;
    let drawn = if png { figure.png() } else { figure.svg().map(String::into_bytes) };
    let bytes = drawn.ok_or_else(|| Error::internal("the plot could not be drawn"))?;
    files::replace(&out, &bytes)?;
    print(&out.display().to_string())?;
    Ok(0)
}
