//! `report.html`: one file that needs nothing from outside and escapes everything.
//!
//! What is shown and how are apart: [`data`] makes a [`Page`] of a run (texts for the markup, one JSON document for the
//! script, packed pieces that are unpacked where somebody looks), [`render`] makes the file of it. The content security
//! policy lets run the page's own script and style, by their hashes, and nothing else; [`render_live`] also lets it listen
//! to the server that it came from.

pub mod copy;
pub mod details;
pub mod matrix;
pub mod several;
pub mod view;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value as View};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::diagnostic::{Error, Result};
use crate::report::matters;
use crate::report::plots::{self, Figure, Frame, progress};
use crate::report::run::Run;
use crate::report::words;
use details::Block;

/// A page may be as large as this, in bytes, unless it is to be complete.
const MOST: usize = 4_800_000;

/// Rows of the ranking that a page shows.
pub const ROWS: usize = 1000;

/// A page, ready to be written.
pub struct Page {
    /// The texts of the markup.
    pub view: Value,
    /// What the script works with.
    pub document: Value,
    /// Packed pieces of it.
    pub blocks: Vec<Block>,
    /// Plots as SVG, by the name that the markup has for them.
    pub plots: Vec<(String, String)>,
}

/// What a page is to hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    /// Everything, however large the page gets.
    pub full: bool,
}

/// The page of a run.
pub fn data(run: &Run, extent: Extent) -> Page {
    let matters = matters::matters(&run.rows);
    let shown = run.rows.len().min(ROWS);
    // What the page is without its packed pieces, about.
    let room = match extent.full {
        true => usize::MAX,
        false => (MOST.saturating_sub(260_000 + 1_300 * shown)) / 4 * 3,
    };
    let matrix = matrix::matrix(run, room / 2);
    let used: usize = matrix.blocks.iter().map(|block| block.bytes.len()).sum();
    let first: Vec<usize> = [&run.summary.best, &run.summary.baseline]
        .into_iter()
        .flatten()
        .map(|scored| scored.trial)
        .filter(|trial| *trial < run.trials.len())
        .collect();
    let details = details::details(run, &first, room.saturating_sub(used), extent.full);
    let mut page = Page {
        view: view::view(run, matters.as_ref(), details.left_out.as_deref()),
        document: document(run, &matrix.index, &details.index),
        blocks: matrix.blocks.into_iter().chain(details.blocks).collect(),
        plots: Vec::new(),
    };
    for (name, figure, narrow) in figures(run, matters.as_ref()) {
        page.plots.extend(figure.svg().map(|svg| (name.to_owned(), svg)));
        page.plots.extend(figure.sized(narrow).svg().map(|svg| (format!("{name}_narrow"), svg)));
    }
    page
}

/// The plots of a page with the size that they have on a phone.
fn figures(run: &Run, matters: Option<&matters::Matters>) -> Vec<(&'static str, Figure, (u32, u32))> {
    let frame = frame(run, (960, 420));
    let mut all = Vec::new();
    all.extend(plots::pareto::figure(&run.rows, frame).map(|figure| ("pareto", figure, (380, 380))));
    let (courses, baseline) = course(run);
    let budget = run.summary.budget_usd;
    all.extend(
        progress::figure(&[courses], baseline, budget, Frame { size: (960, 360), ..frame })
            .map(|figure| ("progress", figure, (380, 340))),
    );
    if let Some(figure) = matters.and_then(|matters| plots::importance::figure(matters, 960)) {
        let height = 56 + 30 * (matters.map_or(0, |matters| matters.parameters.len().min(20)) as u32 + 1);
        all.push(("importance", figure, (380, height)));
    }
    all.extend(
        plots::importance::along(&run.rows, "n", Frame { size: (960, 360), ..frame })
            .map(|figure| ("completions", figure, (380, 340))),
    );
    all
}

/// What plots of a run share.
pub fn frame(run: &Run, size: (u32, u32)) -> Frame<'_> {
    Frame {
        metric: &run.summary.metric,
        direction: run.summary.direction,
        inference_budget: run.summary.inference_budget_usd,
        size,
    }
}

/// Times at which a run's leader is looked for, and how many instances' worth of everybody's mean a mean so far is drawn
/// to: a few lucky instances do not make a leader.
const LOOKS: usize = 200;
const DRAWN: f64 = 10.0;

/// How a run went: who would have been chosen when, with the score that is known of it now; and the baseline's score.
pub fn course(run: &Run) -> (progress::Course, Option<f64>) {
    let mut known: Vec<Option<f64>> = vec![None; run.trials.len()];
    for row in run.rows.iter().filter(|row| row.trial < run.trials.len()) {
        known[row.trial] = row.posterior_mean;
    }
    let direction = run.summary.direction;
    let mut course =
        progress::Course { name: run.name(), end: run.summary.search_cost_usd.as_f64(), ..Default::default() };
    let mut sums = vec![(0.0, 0.0); run.trials.len()];
    let (mut all, mut cost, mut leader) = ((0.0, 0.0), crate::money::Usd::ZERO, None);
    let every = run.evaluations.len().div_ceil(LOOKS).max(1);
    for (number, done) in run.evaluations.iter().enumerate() {
        cost += done.cost;
        if let Some(score) = done.score.filter(|score| score.is_finite()) {
            let own = &mut sums[done.trial as usize];
            (*own, all) = ((own.0 + score, own.1 + 1.0), (all.0 + score, all.1 + 1.0));
        }
        if (number + 1) % every != 0 && number + 1 != run.evaluations.len() {
            continue;
        }
        let middle = if all.1 > 0.0 { all.0 / all.1 } else { 0.0 };
        let drawn = |(sum, count): (f64, f64)| direction.gain((sum + DRAWN * middle) / (count + DRAWN));
        let leads = (0..sums.len())
            .filter(|&trial| sums[trial].1 > 0.0 && known[trial].is_some())
            .max_by(|&a, &b| drawn(sums[a]).total_cmp(&drawn(sums[b])).then(b.cmp(&a)));
        if let Some(trial) = leads.filter(|trial| leader != Some(*trial)) {
            leader = Some(trial);
            course.steps.extend(known[trial].map(|score| (cost.as_f64(), score)));
            course.seemed.push((cost.as_f64(), sums[trial].0 / sums[trial].1));
        }
    }
    // In the end the ranking decides, which makes up for who saw harder instances.
    if let Some(best) = run.summary.best.as_ref().filter(|best| leader.is_some_and(|leader| leader != best.trial)) {
        course.steps.extend(known.get(best.trial).copied().flatten().map(|score| (course.end, score)));
    }
    let baseline = run.rows.iter().find(|row| row.baseline).and_then(|row| row.posterior_mean);
    (course, baseline)
}

/// What the script works with.
fn document(run: &Run, matrix: &Value, details: &Value) -> Value {
    let mut trials = Map::new();
    let shown: Vec<&_> = run.rows.iter().collect();
    let varying = words::varying(&shown);
    for row in &run.rows {
        let label: Vec<String> = varying
            .iter()
            .filter_map(|&at| {
                let (name, value) = row.configuration.get(at)?;
                Some(format!("{}={}", words::cut(name, 40), words::value(value.as_ref()?, 40)))
            })
            .collect();
        let config: Map<String, Value> = row
            .configuration
            .iter()
            .filter_map(|(name, value)| Some((words::cut(name, 60), short(value.as_ref()?))))
            .collect();
        let of = json!({
            "id": words::cut(&row.id, 40), "rank": row.rank, "label": words::cut(&label.join(" "), 200), "score": row.score, "config": config,
        });
        trials.insert(row.trial.to_string(), of);
    }
    let failures: Vec<Value> = run
        .failures
        .iter()
        .take(2000)
        .map(|failure| json!([failure.kind.to_string(), words::cut(&failure.message, 2000)]))
        .collect();
    json!({
        "metric": words::cut(&run.summary.metric, 60),
        "less": run.summary.direction == crate::task::Direction::Minimize,
        "best": run.summary.best.as_ref().map(|best| best.trial),
        "baseline": run.summary.baseline.as_ref().map(|baseline| baseline.trial),
        "trials": trials,
        "order": run.rows.iter().map(|row| row.trial).collect::<Vec<_>>(),
        "failures": failures,
        "matrix": matrix,
        "details": details,
    })
}

/// A value of a parameter, cut where it is long.
fn short(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(words::cut(text, 2000)),
        Value::Array(_) | Value::Object(_) if value.to_string().len() > 2000 => {
            Value::from(words::cut(&value.to_string(), 2000))
        }
        other => other.clone(),
    }
}

/// The file of a page.
pub fn render(page: &Page) -> Result<String> {
    written(page, include_str!("page.html"), None)
}

/// The page while its run goes on: at each message of the event stream at `events` (a path on the same server) it fetches
/// itself anew and takes over what changed; what the reader sorted, filtered or opened stays.
pub fn render_live(page: &Page, events: &str) -> Result<String> {
    written(page, include_str!("page.html"), Some(events))
}

fn written(page: &Page, template: &str, live: Option<&str>) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    let broken = |error: minijinja::Error| Error::internal(format!("the report's template: {error:#}"));
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(broken)?;
    environment.set_syntax(syntax);
    environment.add_template("page", template).map_err(broken)?;
    let mut view = page.view.clone();
    made_visible(&mut view);
    // These are ours, or escape their texts themselves.
    let (style, script) = (include_str!("page.css"), include_str!("page.js"));
    let plots: std::collections::BTreeMap<&str, View> =
        page.plots.iter().map(|(name, svg)| (name.as_str(), View::from_safe_string(svg.clone()))).collect();
    let blocks: Vec<View> = page
        .blocks
        .iter()
        .map(|block| minijinja::context! { name => block.name.as_str(), packed => View::from_safe_string(BASE64.encode(&block.bytes)) })
        .collect();
    let view = minijinja::context! {
        style => View::from_safe_string(style.to_owned()),
        script => View::from_safe_string(script.to_owned()),
        style_hash => hash(style),
        script_hash => hash(script),
        live => live,
        plots => plots,
        blocks => blocks,
        document => View::from_safe_string(embedded(&page.document)),
        version => env!("CARGO_PKG_VERSION"),
        ..Serde(&view)
    };
    environment.get_template("page").and_then(|template| template.render(view)).map_err(broken)
}

/// What the content security policy names a text by.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(Sha256::digest(text.as_bytes())))
}

/// JSON that may stand in a script element: nothing in it ends the element, begins a comment or breaks a line, and what
/// cannot be seen is escaped.
pub fn embedded(value: &Value) -> String {
    use std::fmt::Write as _;
    let json = value.to_string();
    let mut text = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        if matches!(c, '<' | '>' | '&') || words::is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text
}

/// Makes every character that cannot be seen visible, in every text.
fn made_visible(value: &mut Value) {
    match value {
        Value::String(text) if text.chars().any(words::is_unsafe) => *text = words::visible(text),
        Value::Array(items) => items.iter_mut().for_each(made_visible),
        Value::Object(fields) => fields.values_mut().for_each(made_visible),
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests;
