//! What `farthing init` asks on a terminal.

use std::path::PathBuf;

use clap::ValueEnum;
use dialoguer::{Input, Select};

use super::{ANSWERS, INPUTS, InitArguments, Judged, MODEL, columns, judged};
use crate::diagnostic::{Error, Fault, Result};
use crate::task;

/// Asks for what was not given. An empty answer takes the default.
pub fn ask(arguments: &mut InitArguments) -> Result<()> {
    if arguments.data.is_none() {
        let path: String = Input::new()
            .with_prompt("Your data, a .jsonl, .csv or .parquet file (empty: sample data)")
            .allow_empty(true)
            .interact_text()
            .map_err(gone)?;
        arguments.data = Some(path.trim()).filter(|path| !path.is_empty()).map(PathBuf::from);
    }
    if let Some(data) = &arguments.data {
        let rows = task::data::load(data, None)?;
        let columns = columns(&rows);
        let choose = |prompt: &str, usual: &[&str]| {
            let default =
                usual.iter().find_map(|usual| columns.iter().position(|column| column.eq_ignore_ascii_case(usual)));
            let chosen = Select::new().with_prompt(prompt).items(&columns).default(default.unwrap_or(0)).interact();
            chosen.map(|at| columns[at].clone()).map_err(gone)
        };
        if arguments.input.is_none() {
            arguments.input = Some(choose("Which column do prompts show?", &INPUTS)?);
        }
        if arguments.answer.is_none() {
            arguments.answer = Some(choose("Which column is the right answer?", &ANSWERS)?);
        }
        if arguments.metric.is_none() {
            let answer = arguments.answer.as_deref().unwrap_or_default();
            let answers: Vec<String> = rows.iter().filter_map(|row| row.text(answer)).collect();
            let (likely, _) = judged(None, &answers);
            let kinds = Judged::value_variants();
            let names: Vec<String> = kinds.iter().map(|kind| kind.word().replace('_', " ")).collect();
            let default = kinds.iter().position(|kind| *kind == likely).unwrap_or(0);
            let chosen = Select::new().with_prompt("How are answers judged?").items(&names).default(default).interact();
            arguments.metric = Some(kinds[chosen.map_err(gone)?]);
        }
    }
    if arguments.model.is_none() {
        let model: String = Input::new()
            .with_prompt("The model to begin with (`farthing models` lists them)")
            .default(MODEL.to_owned())
            .interact_text()
            .map_err(gone)?;
        arguments.model = Some(model.trim().to_owned());
    }
    Ok(())
}

/// The terminal is gone, or Ctrl-C was pressed.
fn gone(error: dialoguer::Error) -> Error {
    Error::new(Fault::Interrupted, format!("nothing was written: {error}"))
}
