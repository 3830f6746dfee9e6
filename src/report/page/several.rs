//! Several runs on one page: winners, dollars and courses side by side, and the configurations that were tried in more
//! than one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::diagnostic::Result;
use crate::report::page::{Page, course, frame, written};
use crate::report::plots::{Frame, progress};
use crate::report::rows::RankingRow;
use crate::report::run::{self, Run};
use crate::report::words;
use crate::study::Standing;

/// Rows of each ranking, and configurations that are in several runs.
const TOP: usize = 10;
const SHARED: usize = 200;

/// The page of several runs.
pub fn data(runs: &[Run]) -> Page {
    let names = run::names(runs);
    let first = &runs[0].summary;
    let alike = run::alike(runs);
    let same_task = runs.iter().all(|run| run.file.hashes.task == runs[0].file.hashes.task);
    let mut plots = Vec::new();
    if alike {
        let courses: Vec<progress::Course> = runs
            .iter()
            .zip(&names)
            .map(|(run, name)| progress::Course { name: name.clone(), ..course(run).0 })
            .collect();
        for (name, size) in [("progress", (960, 380)), ("progress_narrow", (380, 380))] {
            let figure = progress::figure(&courses, None, None, Frame { size, ..frame(&runs[0], size) });
            plots.extend(figure.and_then(|figure| figure.svg()).map(|svg| (name.to_owned(), svg)));
        }
    }
    let metric = if alike { words::cut(&first.metric, 60) } else { "score".to_owned() };
    let view = json!({
        "title": names.iter().map(|name| words::cut(name, 60)).collect::<Vec<_>>().join(", "),
        "metric": metric,
        "answer": answer(runs, &names, alike && same_task),
        "alike": alike,
        "same_task": same_task,
        "made_up": runs.iter().any(|run| words::made_up(&run.summary)),
        "runs": runs.iter().zip(&names).map(|(run, name)| row(run, name)).collect::<Vec<_>>(),
        "names": names.iter().map(|name| words::cut(name, 60)).collect::<Vec<_>>(),
        "winners": winners(runs),
        "tops": runs.iter().zip(&names).map(|(run, name)| top(run, name)).collect::<Vec<_>>(),
        "shared": shared(runs),
    });
    Page { view, document: json!({}), blocks: Vec::new(), plots }
}

/// The file of several runs' page.
///
/// # Errors
/// A fault of ours where the template is broken.
pub fn render(page: &Page) -> Result<String> {
    written(page, include_str!("several.html"), None)
}

/// Which of the winners is ahead, and whether that is more than the intervals leave open.
fn answer(runs: &[Run], names: &[String], comparable: bool) -> String {
    let count = words::plural(runs.len() as u64, "run");
    if !comparable {
        return format!("{count}. Their tasks or metrics differ, so their scores are not comparable.");
    }
    let direction = runs[0].summary.direction;
    // Held-out scores where every run has one, else those on tuning instances.
    let held = runs.iter().all(|run| run.summary.held_out().is_some_and(|holdout| holdout.score.is_some()));
    let of = |run: &Run| match held {
        true => run.summary.held_out().and_then(|holdout| Some((holdout.score?, holdout.ci95))),
        false => run.summary.best.as_ref().and_then(|best| Some((best.score?, best.ci95))),
    };
    let scored: Vec<(usize, f64, Option<[f64; 2]>)> =
        runs.iter().enumerate().filter_map(|(at, run)| of(run).map(|(score, ci)| (at, score, ci))).collect();
    let ahead = scored.iter().max_by(|a, b| direction.gain(a.1).total_cmp(&direction.gain(b.1)).then(b.0.cmp(&a.0)));
    let Some(&(at, score, ci)) = ahead else { return format!("{count}. None has a winner.") };
    let on = if held { "held-out" } else { "tuning" };
    let metric = words::line(&words::cut(&runs[0].summary.metric, 60));
    let clear = scored.iter().filter(|other| other.0 != at).all(|other| match (ci, other.2) {
        (Some([low, high]), Some([less, more])) => low > more || high < less,
        _ => false,
    });
    let verdict = match clear {
        _ if scored.len() < 2 => "",
        true => " No other interval reaches it.",
        false => " Its interval overlaps with others': farthing compare tests two winners on the same instances.",
    };
    let level = scored.iter().filter(|other| other.1 == score).count();
    if level > 1 {
        let who = if level == runs.len() { "All winners".to_owned() } else { format!("The winners of {level}") };
        return format!(
            "{count}. {who} score the same on {on} instances, {metric} {}, so none is ahead.",
            words::number(score)
        );
    }
    format!(
        "{count}. The winner of {} is ahead on {on} instances: {metric} {}.{verdict}",
        words::line(&words::cut(&names[at], 60)),
        words::scored(Some(score), ci)
    )
}

fn row(run: &Run, name: &str) -> Value {
    let summary = &run.summary;
    let best = summary.best.as_ref();
    json!({
        "name": words::cut(name, 60),
        "task": words::cut(&summary.task, 60),
        "ended": run.ended,
        "strategy": words::cut(&summary.strategy, 40),
        "seed": summary.seed.to_string(),
        "score": best.map_or("-".to_owned(), |best| words::scored(best.score, best.ci95)),
        "score_v": best.and_then(|best| best.score).map_or(String::new(), |score| score.to_string()),
        "held": summary.held_out().map_or("-".to_owned(), |holdout| words::scored(holdout.score, holdout.ci95)),
        "held_v": summary.held_out().and_then(|holdout| holdout.score).map_or(String::new(), |score| score.to_string()),
        "price": best.and_then(|best| best.production_cost_usd_per_instance).map_or("-".to_owned(), words::dollars),
        "price_v": best.and_then(|best| best.production_cost_usd_per_instance).map_or(String::new(), |cost| cost.to_string()),
        "budget": summary.budget_usd.map_or("none".to_owned(), |budget| format!("${budget}")),
        "spent": words::dollars(summary.spent_usd),
        "spent_v": summary.spent_usd.to_string(),
        "cost": words::dollars(summary.study_cost_usd),
        "cost_v": summary.study_cost_usd.to_string(),
        "trials": words::count(summary.chosen_among()),
        "trials_v": summary.chosen_among(),
        "evaluations": words::count(summary.evaluations),
        "evaluations_v": summary.evaluations,
    })
}

/// The winners' parameters: a row a parameter, a cell a run.
fn winners(runs: &[Run]) -> Vec<Value> {
    let mut names: Vec<&String> = Vec::new();
    for run in runs {
        for (name, _) in run.rows.first().iter().flat_map(|row| &row.configuration) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.sort_by_key(|name| words::place(name));
    names
        .into_iter()
        .map(|name| {
            let cells: Vec<String> = runs
                .iter()
                .map(|run| {
                    let value = run.summary.best.as_ref().and_then(|best| best.config.get(name));
                    value.map_or("-".to_owned(), |value| words::value(value, 80))
                })
                .collect();
            let differ = cells.iter().any(|cell| *cell != cells[0]);
            json!({"name": words::cut(name, 60), "cells": cells, "differ": differ})
        })
        .collect()
}

fn top(run: &Run, name: &str) -> Value {
    let asked = || run.rows.iter().filter(|row| row.asked());
    let shown: Vec<&RankingRow> = asked().take(TOP).collect();
    let varying = words::varying(&shown);
    let line = |row: &&RankingRow| {
        json!({
            "rank": if row.standing == Standing::Eligible { row.rank.to_string() } else { "–".to_owned() },
            "score": words::scored(row.score, row.ci95()),
            "price": row.production_cost_usd_per_instance.map_or("-".to_owned(), words::dollars),
            "config": row.settings(&varying, 40),
            "baseline": row.baseline,
        })
    };
    json!({"name": words::cut(name, 60), "rows": shown.iter().map(line).collect::<Vec<_>>(), "more": asked().count().saturating_sub(TOP)})
}

/// Configurations that were tried in more than one run, the best of any first.
fn shared(runs: &[Run]) -> Value {
    let mut all: BTreeMap<&str, Vec<Option<&RankingRow>>> = BTreeMap::new();
    for (at, run) in runs.iter().enumerate() {
        for row in &run.rows {
            all.entry(&row.id).or_insert_with(|| vec![None; runs.len()])[at] = Some(row);
        }
    }
    let mut several: Vec<(&str, Vec<Option<&RankingRow>>)> =
        all.into_iter().filter(|(_, own)| own.iter().flatten().count() > 1).collect();
    let place = |own: &[Option<&RankingRow>]| own.iter().flatten().map(|row| row.rank).min().unwrap_or(usize::MAX);
    several.sort_by(|a, b| place(&a.1).cmp(&place(&b.1)).then(a.0.cmp(b.0)));
    let total = several.len();
    let rows: Vec<&RankingRow> =
        several.iter().take(SHARED).filter_map(|(_, own)| own.iter().flatten().next().copied()).collect();
    let varying = words::varying(&rows);
    let line = |(id, own): &(&str, Vec<Option<&RankingRow>>)| {
        let config = own.iter().flatten().next().map_or_else(Vec::new, |row| row.settings(&varying, 40));
        let cell = |row: &Option<&RankingRow>| match row {
            None => json!({"score": "-", "v": "", "instances": ""}),
            Some(row) => json!({
                "score": words::scored(row.score, row.ci95()),
                "v": row.score.map_or(String::new(), |score| score.to_string()),
                "instances": words::plural(row.instances as u64, "instance"),
            }),
        };
        json!({"id": words::cut(id, 40), "config": config, "cells": own.iter().map(cell).collect::<Vec<_>>()})
    };
    json!({"rows": several.iter().take(SHARED).map(line).collect::<Vec<_>>(), "total": words::count(total as u64), "left": total.saturating_sub(SHARED)})
}
