//! `farthing init`: a task, a space and a farthing.toml with comments, which run at once.

mod questions;

use std::path::{Component, Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cli::{ask, inputs, print};
use crate::diagnostic::{Error, Result, suggestion};
use crate::files::{cannot_write, write_new};
use crate::models;
use crate::report::table::{shell_word, wrapped};
use crate::task::{self, Instance};

/// The model that a new task asks where none is named: in this process, without a key and without a cent.
pub const MODEL: &str = "mite";

/// The endpoint that it needs in farthing.toml; empty where it is known without.
const MODEL_ENDPOINT: &str = "
# mite needs no endpoint: it is a very small language model that comes with farthing. Its prices are play money.
";

/// Prompts that any model of language follows. `@INPUT@` is a column, `@ANSWER@` what is asked for.
const PROMPTS: &str = r#"  { name = "direct", template = "{{ @INPUT@ }}\nAnswer with @ANSWER@ only." },
  { name = "steps", template = "{{ @INPUT@ }}\nLet's think step by step, and end with @ANSWER@." },
  { name = "work", messages = [
    { role = "system", content = "Show your work, check the result, and end with @ANSWER@." },
    { role = "user", content = "{{ @INPUT@ }}" },
  ] },"#;

/// The same for `mite`, which knows some wordings only and goes on where the prompt ends.
const MODEL_PROMPTS: &str = r#"  { name = "direct", messages = [
    { role = "system", content = "Answer with the number only." },
    { role = "user", content = "{{ @INPUT@ }}\n" },
  ] },
  { name = "steps", template = "{{ @INPUT@ }}\nLet's think step by step." },
  { name = "work", messages = [
    { role = "system", content = "Show your work." },
    { role = "user", content = "{{ @INPUT@ }}\n" },
  ] },"#;

/// What else `mite` needs.
const MODEL_STOP: &str = r#"
# mite goes on with a problem of its own after an empty line. Other models need no stop: take this out for them.
[params.stop]
value = ["\n\n"]
"#;

/// The sample data: the first rows of this repository's own task.
const SAMPLE: &str = include_str!("../../../tasks/arithmetic/tune.jsonl");
const SAMPLE_ROWS: usize = 80;

const EXAMPLES: &str = "\
On a terminal it asks for what was not given. Nothing that is there is overwritten.

Examples:
  farthing init exam                                     with sample data and a model in this process
  farthing init exam --data exam.csv --input question --answer label --model gpt-4o-mini
  farthing tune exam --budget 0.10";

/// Arguments of `farthing init`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct InitArguments {
    /// The folder to make; its name is the task's
    name: PathBuf,
    /// Your data: .jsonl, .csv or .parquet [default: sample data]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The column that prompts show [default: the first that is called like one]
    #[arg(long, value_name = "COLUMN")]
    input: Option<String>,
    /// The column with the right answer [default: the first that is called like one]
    #[arg(long, value_name = "COLUMN")]
    answer: Option<String>,
    /// How answers are judged [default: as the answers look]
    #[arg(long, value_enum)]
    metric: Option<Judged>,
    /// The model to begin with [default: one in this process]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// How answers are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Judged {
    /// The last number of the response
    Numeric,
    /// The label that is picked
    Choice,
    /// The same text, but for case and blanks at the ends
    ExactMatch,
    /// The text is in the response
    Contains,
}

impl Judged {
    fn word(self) -> &'static str {
        match self {
            Judged::Numeric => "numeric",
            Judged::Choice => "choice",
            Judged::ExactMatch => "exact_match",
            Judged::Contains => "contains",
        }
    }
}

/// What is to be written.
pub struct Plan {
    name: String,
    /// The data as task.toml names it.
    data: String,
    /// They are the sample rows, which are to be written.
    sample: bool,
    id: Option<String>,
    input: String,
    answer: String,
    metric: Judged,
    labels: Vec<String>,
    model: String,
}

/// Columns that usually are the input, and the answer.
const INPUTS: [&str; 7] = ["problem", "question", "input", "text", "query", "sentence", "content"];
const ANSWERS: [&str; 8] = ["answer", "label", "target", "expected", "output", "solution", "completion", "class"];

/// What the space that is written varies or sets: a column cannot be called so.
const PARAMETERS: [&str; 6] = ["prompt", "model", "temperature", "n", "max_tokens", "stop"];

/// Runs it.
pub fn run(arguments: &InitArguments) -> Result<u8> {
    let folder = &arguments.name;
    let Some(Component::Normal(name)) = folder.components().next_back() else {
        return Err(Error::usage(format!("{} is no name for a task", folder.display())));
    };
    let name = name.to_string_lossy().into_owned();
    let files = ["task.toml", "space.toml", "farthing.toml", "data.jsonl"].map(|file| folder.join(file));
    if let Some(there) = files.iter().find(|file| file.exists()) {
        return Err(Error::usage(format!("{} is there already, and nothing is overwritten", there.display()))
            .help("give another name, or take it away first"));
    }
    let mut arguments = arguments.clone();
    if ask::possible() && !arguments.yes {
        questions::ask(&mut arguments)?;
    }
    let plan = plan(&arguments, name)?;
    let mut written = vec![
        ("task.toml", task_toml(&plan)),
        ("space.toml", space_toml(&plan)),
        ("farthing.toml", include_str!("farthing.toml").replace("@ENDPOINT@", &endpoint(&plan.model))),
    ];
    if arguments.data.is_none() {
        let rows: String = SAMPLE.lines().take(SAMPLE_ROWS).map(|line| format!("{line}\n")).collect();
        written.push(("data.jsonl", rows));
    }
    let made = !folder.exists();
    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
    let mut shown = String::new();
    for (at, (file, text)) in written.iter().enumerate() {
        let path = folder.join(file);
        write_new(&path, text).map_err(|error| {
            // Half a task would be in the way of the next try.
            written[..at].iter().for_each(|(file, _)| drop(std::fs::remove_file(folder.join(file))));
            if made {
                drop(std::fs::remove_dir(folder));
            }
            cannot_write(&path, &error)
        })?;
        shown += &format!("  {}\n", path.display());
    }
    let folder = shell_word(&folder.display().to_string());
    let hint = match !plan.sample && plan.model == MODEL {
        true => {
            let hint = "mite, which answers for now, knows arithmetic and nothing else: put the model that you mean into space.toml.";
            format!("\n{}", wrapped(hint))
        }
        false => String::new(),
    };
    let next = wrapped("What it would cost, and then find the best configuration for at most 10 cents:");
    // A command that is to be copied is not broken.
    print(&format!(
        "Written:\n{shown}{hint}\n{next}  farthing estimate {folder}\n  farthing tune {folder} --budget 0.10"
    ))?;
    Ok(0)
}

fn plan(arguments: &InitArguments, name: String) -> Result<Plan> {
    let model = arguments.model.clone().unwrap_or_else(|| MODEL.to_owned());
    let Some(data) = &arguments.data else {
        let column = |given: &Option<String>, own: &str| given.clone().unwrap_or_else(|| own.to_owned());
        let plan = Plan {
            name,
            data: "data.jsonl".to_owned(),
            sample: true,
            id: Some("id".to_owned()),
            input: column(&arguments.input, "problem"),
            answer: column(&arguments.answer, "answer"),
            metric: arguments.metric.unwrap_or(Judged::Numeric),
            labels: Vec::new(),
            model,
        };
        check_columns(&plan, &["problem", "answer", "kind", "id"])?;
        return Ok(plan);
    };
    let rows = task::data::load(data, None)?;
    let columns = columns(&rows);
    let found = |given: &Option<String>, usual: &[&str], what: &str, flag: &str, taken: Option<&str>| {
        let known: Vec<&str> = columns.iter().map(String::as_str).filter(|column| Some(*column) != taken).collect();
        if let Some(given) = given {
            return match known.contains(&given.as_str()) {
                true => Ok(given.clone()),
                false => Err(Error::usage(format!("{} has no column `{given}`", data.display()))
                    .help(suggestion(given, known.iter().copied()))),
            };
        }
        let usual = usual.iter().find_map(|usual| known.iter().find(|column| column.eq_ignore_ascii_case(usual)));
        usual.map(|column| (*column).to_owned()).ok_or_else(|| {
            Error::usage(format!("which column of {} is {what}?", data.display()))
                .help(format!("give {flag}: there are {}", known.join(", ")))
        })
    };
    if let Some(column) = columns.iter().find(|column| PARAMETERS.contains(&column.as_str())) {
        return Err(Error::usage(format!(
            "{} has a column `{column}`, and that is a parameter of every space",
            data.display()
        ))
        .help("rename the column in the data: templates could not tell which is meant"));
    }
    let answer = found(&arguments.answer, &ANSWERS, "the right answer", "--answer", None)?;
    let input = found(&arguments.input, &INPUTS, "what prompts show", "--input", Some(&answer))?;
    let answers: Vec<String> = rows.iter().filter_map(|row| row.text(&answer)).collect();
    let (metric, labels) = judged(arguments.metric, &answers);
    let id = columns.iter().find(|column| column.eq_ignore_ascii_case("id")).filter(|id| unique(&rows, id)).cloned();
    let data = seen_from(&arguments.name, data);
    let plan = Plan { name, data, sample: false, id, input, answer, metric, labels, model };
    check_columns(&plan, &columns.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(plan)
}

/// Templates name columns, so they must be names.
fn check_columns(plan: &Plan, columns: &[&str]) -> Result<()> {
    for column in [&plan.input, &plan.answer] {
        if !columns.contains(&column.as_str()) {
            return Err(Error::usage(format!("the data has no column `{column}`"))
                .help(suggestion(column, columns.iter().copied())));
        }
        let name =
            column.chars().all(|c| c.is_alphanumeric() || c == '_') && !column.starts_with(|c: char| c.is_numeric());
        if !name {
            return Err(Error::usage(format!("the column `{column}` is no name that a template can use"))
                .help("rename it: letters, digits and _, and no digit first"));
        }
    }
    Ok(())
}

/// All columns, in the order of the first row.
fn columns(rows: &[Instance]) -> Vec<String> {
    rows.first().map(|row| row.fields.keys().cloned().collect()).unwrap_or_default()
}

fn unique(rows: &[Instance], column: &str) -> bool {
    let values: std::collections::HashSet<String> = rows.iter().filter_map(|row| row.text(column)).collect();
    values.len() == rows.len()
}

/// How answers are judged: as they look, where nothing is said. With it the labels, where there are few.
fn judged(given: Option<Judged>, answers: &[String]) -> (Judged, Vec<String>) {
    let mut labels: Vec<String> = answers.to_vec();
    labels.sort();
    labels.dedup();
    let label = |text: &String| !text.is_empty() && text.len() <= 24 && text.chars().all(char::is_alphanumeric);
    let few = labels.len() <= 12 && labels.len() * 2 <= answers.len() && labels.iter().all(label);
    let number = |text: &String| text.trim().parse::<f64>().is_ok();
    let metric = given.unwrap_or_else(|| match () {
        () if !answers.is_empty() && answers.iter().all(number) => Judged::Numeric,
        () if few => Judged::Choice,
        () => Judged::ExactMatch,
    });
    (metric, if few { labels } else { Vec::new() })
}

/// The path of the data as it is seen from the task's folder.
fn seen_from(folder: &Path, data: &Path) -> String {
    let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    let shown = match plain(folder) && plain(data) {
        true => folder.components().map(|_| "..").collect::<PathBuf>().join(data),
        false => inputs::absolute(data),
    };
    shown.display().to_string()
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn task_toml(plan: &Plan) -> String {
    let id = plan
        .id
        .as_ref()
        .map_or(String::new(), |id| format!("id = {}                     # the column that names a row\n", quoted(id)));
    let labels = plan.labels.iter().map(|label| quoted(label)).collect::<Vec<_>>().join(", ");
    let options = match plan.metric {
        Judged::Numeric => "vote = \"majority\"             # of n completions, the most frequent number counts".to_owned(),
        Judged::Choice if plan.labels.is_empty() => "vote = \"majority\"             # of n completions, the most frequent pick counts".to_owned(),
        Judged::Choice => format!("choices = [{labels}]\nvote = \"majority\"             # of n completions, the most frequent pick counts"),
        Judged::ExactMatch => {
            "normalize = [\"trim\", \"lowercase\"]\nvote = \"majority\"             # of n completions, the most frequent answer counts".to_owned()
        }
        Judged::Contains => "ignore_case = true".to_owned(),
    };
    include_str!("task.toml")
        .replace("@NAME@", &quoted(&plan.name))
        .replace("@DATA@", &quoted(&plan.data))
        .replace("@ID@", &id)
        .replace("@METRIC@", &quoted(plan.metric.word()))
        .replace("@EXPECTED@", &quoted(&format!("{{{{ {} }}}}", plan.answer)))
        .replace("@OPTIONS@", &options)
}

fn space_toml(plan: &Plan) -> String {
    let answer = match plan.metric {
        Judged::Numeric => "the number",
        Judged::Choice if !plan.labels.is_empty() => "one of the labels",
        Judged::Choice => "the letter",
        Judged::ExactMatch | Judged::Contains => "the answer",
    };
    let named = match plan.metric {
        Judged::Choice if !plan.labels.is_empty() => format!("one of: {}", plan.labels.join(", ")),
        _ => answer.to_owned(),
    };
    let own = plan.model == MODEL;
    include_str!("space.toml")
        .replace("@PROMPTS@", if own && plan.sample { MODEL_PROMPTS } else { PROMPTS })
        .replace("@STOP@", if own { MODEL_STOP } else { "" })
        .replace("@NAME@", &quoted(&plan.name))
        .replace("@INPUT@", &plan.input)
        .replace("@ANSWER@", &named)
        .replace("@MODEL@", &quoted(&plan.model))
        .replace("@MAX_TOKENS@", if own { "96" } else { "256" })
}

/// What farthing.toml has to say of a model.
fn endpoint(model: &str) -> String {
    if model == MODEL {
        return MODEL_ENDPOINT.trim_start_matches('\n').to_owned();
    }
    if let Some(known) = models::known(None, model) {
        return format!("[endpoints.{0}]\nprovider = {1}\n", known.provider, quoted(&known.provider));
    }
    format!(
        "[endpoints.mine]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:8000/v1\"   # where is it?\n\n\
         [models.{}]\nendpoint = \"mine\"\nprice = {{ input = 0, output = 0 }}          # dollars per million tokens\n",
        Value::from(model)
    )
}
