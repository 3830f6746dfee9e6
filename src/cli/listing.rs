//! `farthing metrics|strategies|schema`: what there is, from the declarations.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::backend::endpoints::ConfigFile;
use crate::cli::{print, print_json};
use crate::diagnostic::Result;
use crate::metric;
use crate::search::STRATEGIES;
use crate::space::file::SpaceSchema;
use crate::task::file::TaskFile;

/// Arguments of the listing commands.
#[derive(Args, Clone, Debug)]
pub struct ListArguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `farthing schema`.
#[derive(Args, Clone, Debug)]
pub struct SchemaArguments {
    /// Of which file: task.toml, a space, or farthing.toml
    file: SchemaOf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaOf {
    Task,
    Space,
    Config,
}

/// Lists the built-in metrics.
pub fn metrics(arguments: &ListArguments) -> Result<u8> {
    let rows = metric::rows();
    if arguments.json {
        let option =
            |option: &metric::OptionRow| json!({"name": option.name, "doc": option.doc, "default": option.default});
        let row = |row: &metric::Row| {
            json!({"name": row.name, "summary": row.summary, "range": row.range,
            "options": row.options.iter().map(option).collect::<Vec<_>>()})
        };
        print_json(&rows.iter().map(row).collect::<Vec<_>>())?;
        return Ok(0);
    }
    let mut text = String::new();
    for row in rows {
        text += &format!("{}\n  {}\n  gives: {}\n", row.name, row.summary, row.range);
        for option in row.options {
            let default = option.default.map_or(String::new(), |default| format!(" [{default}]"));
            text += &format!("    {}{default}: {}\n", option.name, option.doc);
        }
        text.push('\n');
    }
    print(&text)?;
    Ok(0)
}

/// Lists the search strategies.
pub fn strategies(arguments: &ListArguments) -> Result<u8> {
    if arguments.json {
        let row = |s: &crate::search::Declaration| json!({"name": s.name, "summary": s.summary, "when": s.when, "source": s.source, "default": s.default});
        print_json(&STRATEGIES.iter().map(row).collect::<Vec<_>>())?;
        return Ok(0);
    }
    let mut text = String::new();
    for strategy in STRATEGIES {
        let default = if strategy.default { " (default)" } else { "" };
        text += &format!(
            "{}{default}\n  {}\n  when: {}\n  source: {}\n\n",
            strategy.name, strategy.summary, strategy.when, strategy.source
        );
    }
    print(&text)?;
    Ok(0)
}

/// Prints the JSON schema of a file.
pub fn schema(arguments: &SchemaArguments) -> Result<u8> {
    let schema = match arguments.file {
        SchemaOf::Task => {
            let mut schema = serde_json::to_value(schemars::schema_for!(TaskFile)).unwrap_or_default();
            schema["properties"]["metrics"] = json!({
                "type": "object",
                "description": "The metrics, by name; `farthing metrics` explains them.",
                "minProperties": 1,
                "additionalProperties": metric::schema(),
            });
            if let Some(required) = schema["required"].as_array_mut() {
                required.push(json!("metrics"));
            }
            schema
        }
        SchemaOf::Space => serde_json::to_value(schemars::schema_for!(SpaceSchema)).unwrap_or_default(),
        SchemaOf::Config => serde_json::to_value(schemars::schema_for!(ConfigFile)).unwrap_or_default(),
    };
    print_json(&schema)?;
    Ok(0)
}
