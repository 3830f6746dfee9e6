//! The scores of all configurations on all instances, a byte each, packed a few configurations at a time.

use serde_json::{Value, json};

use crate::report::page::details::Block;
use crate::report::run::Run;

/// What a byte says: not asked, missing, and from 2 on a level.
const MISSING: u8 = 1;
const FIRST: u8 = 2;

/// Levels that a byte can tell apart.
const LEVELS: usize = 250;

/// Configurations of one packed part.
const ROWS: usize = 32;

/// The scores for the page.
pub struct Matrix {
    /// The trials that are in it.
    pub trials: Vec<usize>,
    /// For the page's document.
    pub index: Value,
    /// The packed rows.
    pub blocks: Vec<Block>,
}

/// The values that occur, or, where they are too many, evenly spaced ones between the least and the greatest.
fn levels(run: &Run) -> (Vec<f64>, bool) {
    let mut values: Vec<f64> = Vec::new();
    for score in run.evaluations.iter().filter_map(|done| done.score) {
        if let Err(place) = values.binary_search_by(|value| value.total_cmp(&score)) {
            values.insert(place, score);
            if values.len() > LEVELS {
                break;
            }
        }
    }
    if values.len() <= LEVELS {
        return (values, true);
    }
    let scores = || run.evaluations.iter().filter_map(|done| done.score);
    let (low, high) = (scores().fold(f64::MAX, f64::min), scores().fold(f64::MIN, f64::max));
    let at = |level: usize| low + (high / 2.0 - low / 2.0) * (level as f64 / (LEVELS - 1) as f64) * 2.0;
    ((0..LEVELS).map(at).collect(), false)
}

/// Packs as many configurations, the best first, as fit into `most` bytes of a page, where naming each takes so many.
pub fn matrix(run: &Run, most: usize, naming: &dyn Fn(usize) -> usize) -> Matrix {
    let (levels, exact) = levels(run);
    let level = |score: f64| {
        let place = match levels.binary_search_by(|value| value.total_cmp(&score)) {
            Ok(place) => place,
            Err(place) => {
                let nearer = |at: usize| (levels[at] - score).abs();
                match (place.checked_sub(1), place < levels.len()) {
                    (Some(below), true) if nearer(below) <= nearer(place) => below,
                    (_, true) => place,
                    (below, false) => below.unwrap_or(0),
                }
            }
        };
        FIRST + place.min(LEVELS) as u8
    };
    let by_trial = run.by_trial();
    let trials: Vec<usize> = run
        .rows
        .iter()
        .filter(|row| row.asked())
        .map(|row| row.trial)
        .filter(|trial| *trial < by_trial.len())
        .collect();
    let (mut blocks, mut used, mut shown) = (Vec::new(), 0, Vec::new());
    for (number, part) in trials.chunks(ROWS).enumerate() {
        let mut cells = vec![0; part.len() * run.instances.len()];
        for (row, trial) in part.iter().enumerate() {
            for done in &by_trial[*trial] {
                cells[row * run.instances.len() + done.instance as usize] = done.score.map_or(MISSING, level);
            }
        }
        let block = Block::pack(format!("m{number}"), &cells);
        used += block.size() + part.iter().map(|&trial| naming(trial) + 6).sum::<usize>();
        if used > most && number > 0 {
            break;
        }
        shown.extend_from_slice(part);
        blocks.push(block);
    }
    let names = Block::pack("names", json!(run.instances).to_string().as_bytes());
    let index = json!({
        "trials": shown, "rows": ROWS, "parts": blocks.len(), "instances": run.instances.len(), "levels": levels,
        "exact": exact, "left": trials.len() - shown.len(),
    });
    blocks.push(names);
    Matrix { trials: shown, index, blocks }
}
