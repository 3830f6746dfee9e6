//! `farthing models`: the models that are known, with their prices, and what `farthing.toml` says of them.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::backend::endpoints::ModelKind;
use crate::backend::{Endpoints, Model, mock};
use crate::cli::{print, print_json};
use crate::diagnostic::{Error, Result, nearest};
use crate::models::{self, Capabilities, KnownModel};
use crate::money::Usd;
use crate::price::Price;

/// Arguments of `farthing models`.
#[derive(Args, Clone, Debug)]
pub struct ModelsArguments {
    /// Only models of this provider, or with this in their name
    pattern: Option<String>,
    /// Endpoints, models and prices [default: farthing.toml in the working folder]
    #[arg(long, value_name = "FILE")]
    endpoints: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// One model as listed: a JSON object, whose fields are the columns too.
type Row = Map<String, Value>;

/// The columns of the table: field, heading.
const COLUMNS: [(&str, &str); 10] = [
    ("provider", "provider"),
    ("name", "model"),
    ("kind", "kind"),
    ("context_window", "context"),
    ("max_output_tokens", "output limit"),
    ("input", "input"),
    ("cached_input", "cached"),
    ("output", "output"),
    ("batch_input", "batch in"),
    ("batch_output", "batch out"),
];

/// Lists the models.
pub fn run(arguments: &ModelsArguments) -> Result<u8> {
    let file = arguments.endpoints.clone().or_else(|| Endpoints::find(Path::new(".")));
    let endpoints = file.as_deref().map(Endpoints::load).transpose()?;
    let rows = rows(endpoints.as_ref());
    let wanted: Vec<&Row> = match &arguments.pattern {
        None => rows.iter().collect(),
        Some(pattern) => rows.iter().filter(|row| matches(row, pattern)).collect(),
    };
    if let (true, Some(pattern)) = (wanted.is_empty(), &arguments.pattern) {
        let names = rows.iter().flat_map(|row| [text(row, "name"), text(row, "provider")]).collect::<Vec<_>>();
        let near = nearest(pattern, names.iter().map(String::as_str));
        return Err(Error::usage(format!("no known model is like `{pattern}`")).help(match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`farthing models` lists them all; any other model can be given in farthing.toml".to_owned(),
        }));
    }
    if arguments.json {
        print_json(&wanted)?;
        return Ok(0);
    }
    let mut shown = comfy_table::Table::new();
    shown.load_preset(comfy_table::presets::NOTHING);
    shown.set_header(COLUMNS.map(|(_, heading)| heading));
    for column in shown.column_iter_mut().skip(3) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    for row in &wanted {
        let mark = if overridden(row) { " *" } else { "" };
        shown.add_row(COLUMNS.map(|(field, _)| match field {
            "name" => text(row, field) + mark,
            _ => text(row, field),
        }));
    }
    let mut notes = format!(
        "Dollars per million tokens, standard tier, as of {}, from {}. farthing.toml overrides them.",
        models::as_of(),
        models::source()
    );
    if wanted.iter().any(|row| row.contains_key("long_over")) {
        notes += "\nSome models charge more for long prompts, which budgets count: --json has those prices.";
    }
    if let Some(file) = file.filter(|_| wanted.iter().any(|row| overridden(row))) {
        notes += &format!("\n* as {} says.", file.display());
    }
    print(&format!("{}\n\n{notes}", shown.trim_fmt()))?;
    Ok(0)
}

fn overridden(row: &Row) -> bool {
    row.get("overridden") == Some(&Value::Bool(true))
}

fn text(row: &Row, field: &str) -> String {
    match row.get(field) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn matches(row: &Row, pattern: &str) -> bool {
    let pattern = pattern.to_lowercase();
    let (provider, name) = (text(row, "provider"), text(row, "name").to_lowercase());
    provider == pattern || name.contains(&pattern) || format!("{provider}/{name}").contains(&pattern)
}

/// Every model: the table's, the made-up ones, and those that only the file knows.
fn rows(endpoints: Option<&Endpoints>) -> Vec<Row> {
    let named: Vec<(&Model, &str)> = endpoints
        .map(|all| {
            let of = |model: &Model| all.list.get(model.endpoints[0]).map_or("", |endpoint| endpoint.provider.word());
            all.named().map(|model| (model, of(model))).collect()
        })
        .unwrap_or_default();
    let mut rows: Vec<Row> = models::all().iter().map(known).chain(mock::MODELS.iter().map(made_up)).collect();
    #[cfg(feature = "local")]
    rows.extend(in_the_box());
    for (model, provider) in named {
        let own = own(model, provider);
        match rows.iter_mut().find(|row| text(row, "name") == model.name && text(row, "provider") == provider) {
            Some(row) => {
                let differs = own.iter().any(|(field, value)| row.get(field) != Some(value));
                if differs {
                    row.retain(|field, _| !field.starts_with("long_") && !PRICES.contains(&field.as_str()));
                    row.remove("as_of");
                    row.extend(own);
                    row.insert("overridden".to_owned(), Value::Bool(true));
                }
            }
            None => {
                let mut row = own;
                row.insert("overridden".to_owned(), Value::Bool(true));
                rows.push(row);
            }
        }
    }
    rows
}

const PRICES: [&str; 6] = ["input", "cached_input", "cache_write", "output", "batch_input", "batch_output"];

/// A token's price in picodollars is the price of a million tokens in millionths of a dollar.
fn dollars(price: Usd) -> Value {
    Value::from(price.times(1_000_000).to_string())
}

fn put_prices(row: &mut Row, price: Option<Price>, batch: Option<Price>) {
    if let Some(price) = price {
        let all = [price.input, price.cached_input, price.cache_write, price.output];
        row.extend(PRICES.iter().zip(all).map(|(name, price)| ((*name).to_owned(), dollars(price))));
        if let Some(long) = price.long {
            row.insert("long_over".to_owned(), Value::from(long.over));
            row.insert("long_input".to_owned(), dollars(long.input));
            row.insert("long_cached_input".to_owned(), dollars(long.cached_input));
            row.insert("long_output".to_owned(), dollars(long.output));
        }
    }
    if let Some(batch) = batch {
        row.insert("batch_input".to_owned(), dollars(batch.input));
        row.insert("batch_output".to_owned(), dollars(batch.output));
    }
}

fn fields(value: Value) -> Row {
    match value {
        Value::Object(fields) => fields,
        _ => Row::new(),
    }
}

fn known(model: &KnownModel) -> Row {
    let mut row = fields(json!({
        "provider": model.provider, "name": model.name, "kind": model.kind.word(),
        "context_window": model.context_window, "max_output_tokens": model.max_output_tokens,
        "reasoning": model.reasoning, "vision": model.vision, "tools": model.tools,
        "refuses": Capabilities::of(&model.provider, &model.name).list(), "as_of": models::as_of(),
    }));
    put_prices(&mut row, Some(model.price), model.batch_price);
    row
}

fn made_up(model: &mock::Model) -> Row {
    let price = |text: &str| crate::money::per_million(text).unwrap_or_default();
    let mut row = fields(json!({
        "provider": "mock", "name": model.name, "kind": "chat", "about": model.about,
        "context_window": model.context_window, "max_output_tokens": model.max_output_tokens,
    }));
    put_prices(&mut row, Some(Price::flat(price(model.input_price), price(model.output_price))), None);
    row
}

/// The language model that comes with farthing.
#[cfg(feature = "local")]
fn in_the_box() -> Option<Row> {
    let model = Endpoints::local().model(crate::backend::local::IN_THE_BOX).ok()?;
    let mut row = fields(json!({
        "provider": "local", "name": model.name, "kind": "chat",
        "about": "a real, very small language model in this program; docs/local.md has more of its kind",
        "context_window": model.context_window, "max_output_tokens": model.context_window,
    }));
    put_prices(&mut row, model.price, None);
    Some(row)
}

/// A model of `farthing.toml`, with what the table fills in.
fn own(model: &Model, provider: &str) -> Row {
    let mut row = fields(json!({
        "provider": provider, "name": model.name,
        "context_window": model.context_window, "max_output_tokens": model.max_output_tokens,
    }));
    if let Some(kind) = model.kind {
        row.insert("kind".to_owned(), Value::from(if kind == ModelKind::Text { "text" } else { "chat" }));
    }
    put_prices(&mut row, model.price, model.batch_price);
    row
}
