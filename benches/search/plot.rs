//! The results as a CSV file and a plot for every group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use plotters::prelude::*;

use super::{Cell, Runs, summary};

/// Points of a plot, by strategy.
type Lines<'a> = BTreeMap<&'a str, Vec<(f64, f64)>>;

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
            mean
        };
        let mean = line("tuning", &found.iter().map(|(_, found)| found.tune).collect::<Vec<_>>());
        groups.entry(group).or_default().entry(name).or_default().push((100.0 * budgets[*budget], mean));
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
        let most = lines.values().flatten().map(|(_, mean)| *mean).fold(1.0, f64::max);
        let (first, last) = (100.0 * budgets[0], 100.0 * budgets[budgets.len() - 1]);
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{group}: mean regret on the tuning instances"), ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d((first..last.max(first * 1.1)).log_scale(), 0.0..most * 1.05)?;
        chart.configure_mesh().x_desc("budget, % of the price of everything").y_desc("points").draw()?;
        for (name, line) in lines {
            let color = Palette99::pick(names.iter().position(|other| other == name).unwrap_or(0)).to_rgba();
            chart
                .draw_series(LineSeries::new(line.iter().copied(), color.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE.mix(0.8)).draw()?;
        area.present()?;
    }
    Ok(())
}
