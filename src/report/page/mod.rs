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

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value as View};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::diagnostic::{Error, Result};
use crate::provider::Failure;
use crate::report::matters;
use crate::report::plots::{self, Figure, Frame, progress};
use crate::report::rows::RankingRow;
use crate::report::run::Run;
use crate::report::words;
use details::Block;

/// A page may be as large as this, in bytes, unless it is to be complete.
const MOST: usize = 4_800_000;

/// Rows of the ranking that a page shows at most, and that it shows however long their values are.
const ROWS: usize = 1000;
const LEAST_ROWS: usize = 50;

/// The longest value of a parameter and the longest text of a failure, in characters; and what all of them may take of the
/// page together, in bytes.
const LONGEST: usize = 2000;
const NAMES: usize = 1_200_000;
const FAILURES: usize = 300_000;

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
    let names = names(run);
    // Long values make rows large: then fewer of them are shown.
    let mut rows = ROWS;
    let (mut page, bare) = loop {
        let page = without_pieces(run, matters.as_ref(), &names, rows, extent);
        let size = render(&page).map_or(0, |text| text.len());
        if extent.full || rows <= LEAST_ROWS || size <= MOST / 4 * 3 {
            break (page, size);
        }
        rows /= 2;
    };
    // The document also says to which group of prompts each configuration belongs.
    let room = match extent.full {
        true => usize::MAX,
        false => MOST.saturating_sub(bare + 7 * run.trials.len()),
    };
    let mut named = named(&page);
    let size = |trial: usize| match (named.contains(&trial), names.get(&trial)) {
        (false, Some(name)) => embedded(name).len() + 12,
        _ => 0,
    };
    let matrix = matrix::matrix(run, room / 2, &size);
    let used: usize = matrix.blocks.iter().map(Block::size).sum::<usize>()
        + matrix.trials.iter().map(|&trial| size(trial)).sum::<usize>()
        + matrix.index.to_string().len();
    named.extend(&matrix.trials);
    let first: Vec<usize> = [&run.summary.best, &run.summary.baseline]
        .into_iter()
        .flatten()
        .map(|scored| scored.trial)
        .filter(|trial| *trial < run.trials.len())
        .collect();
    let details = details::details(run, &first, &named, room.saturating_sub(used), extent.full);
    page.view["left_out"] = json!(details.left_out);
    for trial in matrix.trials {
        page.document["trials"][trial.to_string()] = names.get(&trial).cloned().unwrap_or_default();
    }
    page.document["matrix"] = matrix.index;
    page.document["details"] = details.index;
    page.blocks = matrix.blocks.into_iter().chain(details.blocks).collect();
    page
}

/// A page but for its packed pieces, with so many rows of the ranking.
fn without_pieces(
    run: &Run,
    matters: Option<&matters::Matters>,
    names: &BTreeMap<usize, Value>,
    rows: usize,
    extent: Extent,
) -> Page {
    let view = view::view(run, matters, rows);
    let shown: Vec<RankingRow> = run.rows.iter().filter(|row| row.asked()).take(rows).cloned().collect();
    let mut page =
        Page { document: document(run, &view, &shown, names, extent), view, blocks: Vec::new(), plots: Vec::new() };
    for (name, figure, narrow) in figures(run, &shown, matters) {
        page.plots.extend(figure.svg().map(|svg| (name.to_owned(), svg)));
        page.plots.extend(figure.sized(narrow).svg().map(|svg| (format!("{name}_narrow"), svg)));
    }
    page
}

/// The trials that a page's document names.
fn named(page: &Page) -> BTreeSet<usize> {
    let trials = page.document["trials"].as_object();
    trials.into_iter().flat_map(Map::keys).filter_map(|trial| trial.parse().ok()).collect()
}

/// The plots of a page with the size that they have on a phone.
fn figures(
    run: &Run,
    rows: &[RankingRow],
    matters: Option<&matters::Matters>,
) -> Vec<(&'static str, Figure, (u32, u32))> {
    let frame = frame(run, (960, 420));
    let mut all = Vec::new();
    all.extend(plots::pareto::figure(rows, frame).map(|figure| ("pareto", figure, (380, 380))));
    let (courses, baseline) = course(run);
    let budget = run.summary.budget_usd;
    all.extend(
        progress::figure(&[courses], baseline, budget, Frame { size: (960, 360), ..frame })
            .map(|figure| ("progress", figure, (380, 340))),
    );
    if let Some(figure) = matters.and_then(|matters| plots::importance::figure(matters, 960)) {
        let height = figure.size.1;
        all.push(("importance", figure, (380, height)));
    }
    all.extend(
        plots::importance::along(rows, "n", Frame { size: (960, 360), ..frame })
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

/// What the script calls each trial, and its settings, their values as long as all of them leave room for.
fn names(run: &Run) -> BTreeMap<usize, Value> {
    let shown: Vec<&_> = run.rows.iter().collect();
    let varying = words::varying(&shown);
    let name = |row: &RankingRow, longest: usize| {
        let label: Vec<String> =
            row.settings(&varying, 40).iter().map(|(name, value)| format!("{name}={value}")).collect();
        let config: Map<String, Value> = row
            .configuration
            .iter()
            .filter_map(|(name, value)| Some((words::cut(name, 60), short(value.as_ref()?, longest))))
            .collect();
        json!({
            "id": words::cut(&row.id, 40), "rank": row.rank, "label": words::cut(&label.join(" "), 200), "score": row.score, "config": config,
        })
    };
    let mut longest = LONGEST;
    'shorter: loop {
        let (mut size, mut names) = (0, BTreeMap::new());
        for (at, row) in run.rows.iter().enumerate() {
            let name = name(row, longest);
            // Of the rest only those are taken up that there is room for.
            size += if at < ROWS { embedded(&name).len() } else { 0 };
            if size > NAMES && longest >= 100 {
                longest /= 4;
                continue 'shorter;
            }
            names.insert(row.trial, name);
        }
        return names;
    }
}

/// The failures by their numbers, their texts cut and the last of them left out where they take too much room.
fn failures(run: &Run, extent: Extent) -> Vec<Value> {
    let told =
        |failure: &Failure, longest: usize| json!([failure.kind.to_string(), words::cut(&failure.message, longest)]);
    if extent.full {
        return run.failures.iter().map(|failure| told(failure, LONGEST)).collect();
    }
    let mut longest = LONGEST;
    loop {
        let (mut size, mut texts) = (0, Vec::new());
        for failure in &run.failures {
            let text = told(failure, longest);
            size += embedded(&text).len() + 1;
            if size > FAILURES {
                break;
            }
            texts.push(text);
        }
        if texts.len() == run.failures.len() || longest < 100 {
            return texts;
        }
        longest /= 4;
    }
}

/// What the script works with, but for the packed pieces: it names those that the page shows, and those that its failures
/// lead to.
fn document(run: &Run, view: &Value, shown: &[RankingRow], names: &BTreeMap<usize, Value>, extent: Extent) -> Value {
    let mut trials: BTreeSet<usize> = shown.iter().map(|row| row.trial).collect();
    let groups = view["failures"].as_array().into_iter().flatten();
    let places = groups.flat_map(|group| group["places"].as_array().into_iter().flatten());
    trials.extend(places.filter_map(|place| Some(place["trial"].as_u64()? as usize)));
    let (best, baseline) = (run.summary.best.as_ref(), run.summary.baseline.as_ref());
    trials.extend([best, baseline].into_iter().flatten().map(|scored| scored.trial));
    let trials: Map<String, Value> =
        trials.iter().filter_map(|trial| Some((trial.to_string(), names.get(trial)?.clone()))).collect();
    json!({
        "metric": words::cut(&run.summary.metric, 60),
        "less": run.summary.direction == crate::task::Direction::Minimize,
        "best": best.map(|best| best.trial),
        "baseline": baseline.map(|baseline| baseline.trial),
        "trials": trials,
        "failures": failures(run, extent),
    })
}

/// A value of a parameter, cut where it is long.
fn short(value: &Value, longest: usize) -> Value {
    match value {
        Value::String(text) => Value::from(words::cut(text, longest)),
        Value::Array(_) | Value::Object(_) if value.to_string().len() > longest => {
            Value::from(words::cut(&value.to_string(), longest))
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
    let plots: BTreeMap<&str, View> =
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
