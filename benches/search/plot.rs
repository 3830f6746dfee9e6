//! The results as a CSV file and a plot for every group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use plotters::prelude::*;

use super::{Cell, Runs, summary};

/// Points of a plot, by strategy: the share of the price, the mean, and its standard error.
type Lines<'a> = BTreeMap<&'a str, Vec<(f64, f64, f64)>>;

/// Colours of the strategies in the order of their names, the race's first.
const COLORS: [RGBColor; 9] = [
    RGBColor(0x23, 0xa0, 0x5a),
    RGBColor(0x4c, 0x8b, 0xd9),
    RGBColor(0xd9, 0x7a, 0x1e),
    RGBColor(0x8e, 0x5b, 0xb5),
    RGBColor(0xc9, 0x3c, 0x4e),
    RGBColor(0x3f, 0xa7, 0xa4),
    RGBColor(0x8a, 0x6d, 0x3b),
    RGBColor(0x5f, 0x6b, 0x7a),
    RGBColor(0xb0, 0x4f, 0x8f),
];

/// Writes `regret.csv` and `GROUP.svg`.
pub fn write(results: &BTreeMap<Cell, Runs>, budgets: &[f64], folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    farthing::report::plots::fonts();
    std::fs::create_dir_all(folder)?;
    let mut text =
        String::from("group,strategy,budget_share,on,runs,regret_points,standard_error,over_inference_budget\n");
    let mut groups: BTreeMap<&str, Lines> = BTreeMap::new();
    for ((group, name, budget), found) in results {
        let over = found.iter().filter(|(_, found)| found.over).count() as f64 / found.len() as f64;
        let mut line = |on: &str, values: &[f64]| {
            let (mean, error) = summary(values);
            let share = budgets[*budget];
            _ = writeln!(text, "{group},{name},{share},{on},{},{mean:.4},{error:.4},{over:.4}", values.len());
            (mean, error)
        };
        let (mean, error) = line("tuning", &found.iter().map(|(_, found)| found.tune).collect::<Vec<_>>());
        groups.entry(group).or_default().entry(name).or_default().push((100.0 * budgets[*budget], mean, error));
        if let Some(values) = found.iter().map(|(_, found)| found.unseen).collect::<Option<Vec<_>>>() {
            line("unseen", &values);
        }
    }
    std::fs::write(folder.join("regret.csv"), text)?;
    let names: BTreeSet<&str> = groups.values().flat_map(|lines| lines.keys().copied()).collect();
    for (group, lines) in &groups {
        let path = folder.join(format!("{group}.svg"));
        let area = SVGBackend::new(&path, (720, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let most = lines.values().flatten().map(|(_, mean, error)| mean + error).fold(1.0, f64::max);
        let (first, last) = (100.0 * budgets[0], 100.0 * budgets[budgets.len() - 1]);
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{group}: mean regret on the tuning instances"), ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(
                (first..last.max(first * 1.1))
                    .log_scale()
                    .with_key_points(budgets.iter().map(|at| 100.0 * at).collect()),
                0.0..most * 1.05,
            )?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .x_label_formatter(&|share| format!("{share:.0} %"))
            .x_desc("budget: share of the price of evaluating everything")
            .y_desc("points, with standard error")
            .draw()?;
        for (name, line) in lines {
            let place = names.iter().filter(|other| **other != "race" && *other < name).count() + 1;
            let color = if *name == "race" { COLORS[0] } else { COLORS[1 + (place - 1) % (COLORS.len() - 1)] };
            let bars = line.iter().map(|&(at, mean, error)| {
                PathElement::new([(at, (mean - error).max(0.0)), (at, mean + error)], color.stroke_width(1))
            });
            chart.draw_series(bars)?;
            chart
                .draw_series(LineSeries::new(line.iter().map(|&(at, mean, _)| (at, mean)), color.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .border_style(BLACK.mix(0.3))
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
    }
    Ok(())
}
