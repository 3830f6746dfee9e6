//! `farthing judge` and `farthing rephrase`: experiments that are made of others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Map, Value};

use crate::backend::Endpoints;
use crate::cli::arguments::{BESIDE, Common, UNUSED_SEED};
use crate::cli::print;
use crate::cli::run::{WhatArguments, begun, execute, finish};
use crate::diagnostic::{Error, Result};
use crate::experiment::asked::{self, Asking, Made, Member};
use crate::experiment::judge;
use crate::experiment::rephrase::{self, Finish};
use crate::experiment::{Experiment, Outcome, Scale, Settings, input};
use crate::files::cannot_write;
use crate::study::Stop;

/// Who is asked.
#[derive(Args, Clone, Debug)]
struct MemberArguments {
    /// Models in a JSON file of prompto's form: {NAME: {"api", "model_name", "parameters"}}, or "model" in place of the first two
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

impl MemberArguments {
    /// The models of the settings file, or the one of --model with the parameters of --set.
    fn members(&self, folder: Option<&Path>, names: &[String], what: &WhatArguments) -> Result<Vec<Member>> {
        let settings = self.settings.clone().or_else(|| folder.map(|folder| folder.join("settings.json")));
        match (settings, &what.model) {
            (Some(_), Some(_)) => {
                Err(Error::usage("--model and a settings file both say who is asked").help("give one of them"))
            }
            (Some(path), None) => Member::load(&path, names),
            (None, Some(model)) => {
                let params: Map<String, Value> = what.settings(None)?.params.into_iter().collect();
                Ok(vec![Member::of(model, params)])
            }
            (None, None) => Err(Error::usage("who is asked? Give --model NAME or --settings FILE")),
        }
    }
}

/// Arguments of `farthing judge`.
#[derive(Args, Clone, Debug)]
#[command(
    mut_arg("seed", |seed| seed.help(UNUSED_SEED)),
    mut_arg("endpoints", |endpoints| endpoints.help(BESIDE))
)]
pub struct JudgeArguments {
    /// What is judged: an experiment's folder, or a file with a column `response`
    answers: PathBuf,
    /// How the judge is asked: a template over each row ({{ prompt }}, {{ response }}, every column), or one with prompto's
    /// {INPUT_PROMPT} and {OUTPUT_RESPONSE} (repeatable)
    #[arg(long, value_name = "FILE")]
    template: Vec<PathBuf>,
    /// The same as a text
    #[arg(long, value_name = "TEXT", conflicts_with = "template")]
    ask: Option<String>,
    /// prompto's folder of judges: settings.json and templates, each a .txt file
    #[arg(long, value_name = "DIR")]
    judge_folder: Option<PathBuf>,
    /// Judges of the settings file, with commas between them [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    judge: Vec<String>,
    /// The judge says one of these words, like no,yes (0 and 1) or bad=-1,good=1
    #[arg(long, value_name = "WORDS")]
    choices: Option<String>,
    /// The judge says a number within this range, like 1..10
    #[arg(long, value_name = "LOW..HIGH", conflicts_with = "choices", allow_hyphen_values = true)]
    scale: Option<String>,
    /// Where the score stands in the reply: group 1, or the whole match, of the last one
    #[arg(long, value_name = "REGEX")]
    extract: Option<String>,
    #[command(flatten)]
    members: MemberArguments,
    #[command(flatten)]
    what: WhatArguments,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `farthing rephrase`.
#[derive(Args, Clone, Debug)]
#[command(
    mut_arg("seed", |seed| seed.help(UNUSED_SEED)),
    mut_arg("endpoints", |endpoints| endpoints.help(BESIDE))
)]
pub struct RephraseArguments {
    /// The experiment whose prompts are paraphrased
    experiment: PathBuf,
    /// Where the new experiment is written [default: rephrased-NAME.jsonl beside the old one]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Paraphrases of each prompt, by each model and template
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    times: u32,
    /// How a model is asked: a .jinja file, or (prompto's form) a file with one template a line [default: one of farthing's]
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// prompto's folder: settings.json and template.txt
    #[arg(long, value_name = "DIR")]
    rephrase_folder: Option<PathBuf>,
    /// Models of the settings file, with commas between them [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    rephraser: Vec<String>,
    /// A reply is a numbered list: each item is a prompt
    #[arg(long)]
    split_list: bool,
    /// Leave the rows out that were paraphrased
    #[arg(long)]
    remove_original: bool,
    #[command(flatten)]
    members: MemberArguments,
    #[command(flatten)]
    what: WhatArguments,
    #[command(flatten)]
    common: Common,
}

/// A file for the experiment that is made, removed at the end: its copy is in the output folder.
struct Draft(PathBuf);

impl Draft {
    fn new(name: &str) -> Result<Draft> {
        let folder = std::env::temp_dir().join(crate::store::fresh_name("farthing"));
        std::fs::create_dir(&folder).map_err(|error| cannot_write(&folder, &error))?;
        Ok(Draft(folder.join(format!("{name}.jsonl"))))
    }

    /// Runs it as the experiment `name`, which is about the file or folder `about`: endpoints are found from there.
    fn run(
        &self,
        name: &str,
        about: &Path,
        what: &WhatArguments,
        common: &Common,
        change: impl FnOnce(&mut Settings),
    ) -> Result<Outcome> {
        let mut settings = what.settings(None)?;
        // They say who is asked, and every row says it already.
        (settings.model, settings.params) = (None, Default::default());
        change(&mut settings);
        let mut builder =
            begun(Experiment::builder(&self.0), what, common)?.settings(settings).name(name).move_input(false);
        if let Some(out) = what.folder()? {
            builder = builder.out(out);
        }
        if common.place.endpoints.is_none() {
            let folder = if about.is_dir() { about } else { about.parent().unwrap_or(Path::new(".")) };
            builder = builder.endpoints(Endpoints::near(folder)?);
        }
        execute(builder, common, Arc::new(Stop::default()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(folder) = self.0.parent() {
            drop(std::fs::remove_dir_all(folder));
        }
    }
}

/// The name of what is judged or paraphrased.
fn name_of(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = input::stem(&whole);
    match whole.is_dir() {
        true => whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or(name),
        false => name.strip_prefix("completed-").map(str::to_owned).unwrap_or(name),
    }
}

fn nothing(path: &Path, made: Made, what: &str) -> Result<()> {
    match made.rows {
        0 => Err(Error::usage(format!("{} has no row with {what}", path.display()))),
        _ => Ok(()),
    }
}

/// Runs `farthing judge`.
pub fn run(arguments: JudgeArguments) -> Result<u8> {
    let (what, common) = (&arguments.what, &arguments.common);
    let folder = arguments.judge_folder.as_deref();
    let judges = arguments.members.members(folder, &arguments.judge, what)?;
    let templates = match (&arguments.ask, folder) {
        (Some(text), _) => vec![Asking::new("template", text)?],
        (None, Some(folder)) if arguments.template.is_empty() => {
            let entries = std::fs::read_dir(folder)
                .map_err(|error| Error::usage(format!("cannot read {}: {error}", folder.display())))?;
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.retain(|path| path.extension().is_some_and(|ending| ending == "txt"));
            paths.sort();
            paths.iter().map(|path| Asking::load(path)).collect::<Result<Vec<_>>>()?
        }
        (None, folder) => arguments
            .template
            .iter()
            .map(|path| match folder.map(|folder| folder.join(path)).filter(|path| path.is_file()) {
                Some(path) => Asking::load(&path),
                None => Asking::load(path),
            })
            .collect::<Result<Vec<_>>>()?,
    };
    if templates.is_empty() {
        return Err(Error::usage("how is the judge asked? Give --template FILE or --ask TEXT")
            .help("like: Is this answer right? Question: {{ prompt }} Answer: {{ response }}"));
    }
    if let Some(twice) =
        (1..templates.len()).find(|&at| templates[..at].iter().any(|other| other.name == templates[at].name))
    {
        return Err(Error::usage(format!("two templates are called `{}`", templates[twice].name)));
    }
    let scale = match (&arguments.choices, &arguments.scale) {
        (Some(words), _) => Some(Scale::choices(words)?),
        (None, Some(range)) => Some(Scale::range(range)?),
        (None, None) if arguments.extract.is_some() => {
            return Err(Error::usage("--extract needs --choices or --scale"));
        }
        (None, None) => None,
    };
    let name = format!("judge-{}", name_of(&arguments.answers));
    let draft = Draft::new(&name)?;
    let made = judge::write(&asked::answers(&arguments.answers)?, &judges, &templates, &draft.0)?;
    nothing(&arguments.answers, made, "an answer")?;
    if made.skipped > 0 && !common.output.quiet {
        say!("{} rows without an answer are not judged.", made.skipped);
    }
    let outcome = draft.run(&name, &arguments.answers, what, common, |settings| {
        (settings.scale, settings.extract) = (scale, arguments.extract.clone());
    })?;
    finish(&outcome, common)
}

/// Runs `farthing rephrase`.
pub fn rephrase(arguments: RephraseArguments) -> Result<u8> {
    let (what, common) = (&arguments.what, &arguments.common);
    let folder = arguments.rephrase_folder.as_deref();
    let members = arguments.members.members(folder, &arguments.rephraser, what)?;
    let template = arguments.template.clone().or_else(|| folder.map(|folder| folder.join("template.txt")));
    let templates = match template {
        Some(path) => rephrase::templates(&path)?,
        None => vec![Asking::new("0", rephrase::TEMPLATE)?],
    };
    let stem = input::stem(&arguments.experiment);
    let to =
        arguments.to.clone().unwrap_or_else(|| arguments.experiment.with_file_name(format!("rephrased-{stem}.jsonl")));
    if to.extension().is_none_or(|ending| ending != "jsonl") {
        return Err(Error::usage(format!("--to {}: the new experiment is a .jsonl file", to.display())));
    }
    let name = format!("rephrase-{stem}");
    let draft = Draft::new(&name)?;
    let made = rephrase::write(&arguments.experiment, &members, &templates, arguments.times, &draft.0)?;
    nothing(&arguments.experiment, made, "a prompt that is one text")?;
    let outcome = draft.run(&name, &arguments.experiment, what, common, |_| ())?;
    let how = Finish { split: arguments.split_list, remove_original: arguments.remove_original };
    if outcome.summary.answered > 0 && outcome.summary.stop_reason != "interrupted" {
        let replies = asked::answers(&outcome.summary.folder)?;
        let made = rephrase::finish(&replies, &arguments.experiment, how, &to)?;
        if !common.output.json {
            print(&format!("{} paraphrased prompts: {}", made.rows, to.display()))?;
        }
    }
    finish(&outcome, common)
}
