//! What matters as bars with their intervals, and the score along one number of the space.

use std::collections::BTreeMap;

use crate::report::matters::Matters;
use crate::report::plots::colours::{BARRED, GRID, POINT, TEXT, WINNER};
use crate::report::plots::{Anchor, Axes, Figure, Frame, Ink, Scale};
use crate::report::rows::RankingRow;
use crate::report::words;
use crate::study::Standing;
use crate::study::trial::short;

/// Bars that are drawn.
const MOST: usize = 20;

/// What the axis takes of the height, and what a bar takes: as wished, and at least.
const AXIS: i32 = 56;
const BAR: i32 = 30;
const LEAST: i32 = 18;

/// A bar a parameter, and one for what they explain together. In another size bars are apart as the height allows, and what
/// does not fit is left out, the least first.
pub fn figure(matters: &Matters, width: u32) -> Option<Figure> {
    let mut bars: Vec<(String, f64, Option<[f64; 2]>)> =
        matters.parameters.iter().take(MOST).map(|of| (of.name.clone(), of.share, Some(of.ci95))).collect();
    if bars.is_empty() {
        return None;
    }
    bars.push(("together".to_owned(), matters.interactions, None));
    let said: Vec<String> = bars
        .iter()
        .take(8)
        .map(|(name, share, _)| format!("{} {:.0} %", words::line(&words::cut(name, 30)), 100.0 * share))
        .collect();
    let about = format!("Share of the differences that each parameter explains: {}", said.join(", "));
    let height = (AXIS + BAR * bars.len() as i32) as u32;
    Some(Figure::new((width, height), about, move |ink: &dyn Ink, (width, height)| {
        let left = (width / 4).clamp(96, 200);
        let x = Scale::new(&[0.0, 1.0], false, (left, width - 24));
        let at = |share: f64| left + (share.clamp(0.0, 1.0) * f64::from(width - 24 - left)).round() as i32;
        let bottom = height - 34;
        for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
            ink.line(&[(at(tick), 8), (at(tick), bottom)], GRID, 0.35, 1)?;
            ink.text((at(tick), bottom + 16), &format!("{:.0} %", 100.0 * tick), TEXT, Anchor::Middle, 16)?;
        }
        let apart = ((height - AXIS) / bars.len() as i32).clamp(LEAST, 2 * BAR);
        let fit = ((height - AXIS) / apart).max(1) as usize;
        // What they explain together has the last place.
        let shown = bars.iter().take(fit.min(bars.len()) - 1).chain(bars.last());
        for (row, (name, share, ci95)) in shown.enumerate() {
            let y = 9 + apart / 2 + apart * row as i32;
            let letters = (left / 9) as usize;
            ink.text((x.pixels.0 - 10, y), &words::line(&words::cut(name, letters)), TEXT, Anchor::End, 17)?;
            let color = if ci95.is_some() { POINT } else { BARRED };
            ink.square((left, y - 8), (at(*share).max(left + 1), y + 8), color, 0.75)?;
            if let Some([low, high]) = ci95 {
                ink.line(&[(at(*low), y), (at(*high), y)], TEXT, 1.0, 2)?;
                for end in [*low, *high] {
                    ink.line(&[(at(end), y - 5), (at(end), y + 5)], TEXT, 1.0, 2)?;
                }
            }
        }
        Ok(())
    }))
}

/// The score against a parameter that is a number, like n: a point a configuration; those that differ in it alone are
/// joined. `None` where fewer than two values of it were judged.
pub fn along(rows: &[RankingRow], parameter: &str, frame: Frame<'_>) -> Option<Figure> {
    struct Point {
        x: f64,
        y: f64,
        winner: bool,
        eligible: bool,
        interval: Option<[f64; 2]>,
    }
    let mut families: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for row in rows {
        let value = row.configuration.iter().find(|(name, _)| name == parameter).and_then(|(_, value)| value.as_ref());
        let (Some(x), Some(y)) = (value.and_then(serde_json::Value::as_f64), row.score) else { continue };
        if !(x.is_finite() && y.is_finite()) {
            continue;
        }
        let others: Vec<_> = row.configuration.iter().filter(|(name, _)| name != parameter).collect();
        let eligible = row.standing == Standing::Eligible;
        families.entry(serde_json::to_string(&others).unwrap_or_default()).or_default().push(Point {
            x,
            y,
            winner: eligible && row.rank == 1,
            eligible,
            interval: row.ci95().filter(|[low, high]| low.is_finite() && high.is_finite()),
        });
    }
    let mut values: Vec<f64> = families.values().flatten().map(|point| point.x).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    if values.len() < 2 {
        return None;
    }
    let mut scores: Vec<f64> = families.values().flatten().map(|point| point.y).collect();
    let winners = || families.values().flatten().filter(|point| point.winner);
    scores.extend(winners().filter_map(|point| point.interval).flatten());
    let count: usize = families.values().map(Vec::len).sum();
    let joined = families.values().filter(|family| family.len() > 1).count();
    let best = winners().next().map_or(String::new(), |point| format!("; the best has {}", short(point.x)));
    let about = format!(
        "Score against {} of {}, {joined} of them in families that differ in it alone{best}",
        words::line(&words::cut(parameter, 40)),
        words::plural(count as u64, "configuration")
    );
    let (metric, direction, parameter) = (frame.metric.to_owned(), frame.direction, parameter.to_owned());
    for family in families.values_mut() {
        family.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    Some(Figure::new(frame.size, about, move |ink: &dyn Ink, (width, height)| {
        let log = values[0] > 0.0 && values[values.len() - 1] / values[0] >= 8.0;
        let whole = values.iter().all(|value| value.fract() == 0.0);
        let x = Scale::new(&values, log, (64, width - 16)).of_whole_numbers(whole);
        let y = Scale::new(&scores, false, (height - 52, 26));
        let axes = Axes { x: &x, y: &y, metric: &metric, direction, narrow: width < 500 };
        axes.draw(ink, &words::line(&words::cut(&parameter, 40)), &short)?;
        for family in families.values() {
            let path: Vec<(i32, i32)> = family.iter().map(|point| (x.pixel(point.x), y.pixel(point.y))).collect();
            let leads = family.iter().any(|point| point.winner);
            let color = if leads { WINNER } else { POINT };
            if path.len() > 1 {
                ink.line(&path, color, if leads { 0.9 } else { 0.3 }, if leads { 2 } else { 1 })?;
            }
            for (point, at) in family.iter().zip(&path) {
                if let Some([low, high]) = point.interval.filter(|_| point.winner) {
                    ink.line(&[(at.0, y.pixel(low)), (at.0, y.pixel(high))], WINNER, 0.8, 2)?;
                }
                let color = if point.eligible { color } else { BARRED };
                ink.circle(*at, if point.winner { 7 } else { 4 }, color, if leads { 1.0 } else { 0.6 })?;
            }
        }
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;
    use crate::task::Direction;

    #[test]
    fn bars_and_curves_are_drawn() {
        let mut rows = testing::some_rows(24);
        for (at, row) in rows.iter_mut().enumerate() {
            row.configuration = vec![
                ("n".into(), Some(serde_json::json!([1, 3, 10][at % 3]))),
                ("model".into(), Some(serde_json::json!(if at % 2 == 0 { "a<b" } else { "c" }))),
            ];
        }
        let matters = crate::report::matters::matters(&rows).unwrap();
        let bars = figure(&matters, 700).unwrap();
        assert!(bars.about.contains('%'), "{}", bars.about);
        assert!(bars.svg().unwrap().matches("<rect").count() >= 3 && bars.png().is_some());
        let high = bars.sized((960, 1600)).svg().unwrap();
        assert!(high.contains("height=\"1600\"") && high.matches("<rect").count() >= 3, "{high}");
        let frame = Frame { metric: "m", direction: Direction::Maximize, inference_budget: None, size: (700, 400) };
        let svg = along(&rows, "n", frame).unwrap().svg().unwrap();
        assert!(!svg.contains("1.5") && !svg.contains("2.5"), "n is a whole number");
        assert!(svg.contains("<polyline") && svg.matches("<circle").count() == 24);
        assert!(along(&rows, "model", frame).is_none() && along(&rows, "nothing", frame).is_none());
    }
}
