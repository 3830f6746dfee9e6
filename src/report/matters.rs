//! What matters: the parameters of a study as factors of [`importance`], and back as words and numbers.

use serde::Serialize;
use serde_json::Value;

use crate::report::rows::RankingRow;
use crate::report::words;
use crate::stats::importance::{self, Factor, MOST_CELLS};

/// Numbers that each have a cell; more are sorted into ranges.
const MOST_VALUES: usize = 12;
const RANGES: usize = 8;

/// Configurations that are looked at; of more, evenly many of the ranking.
const MOST_ROWS: usize = 500;

/// Ranges are even on the scale of logarithms where the greatest is so many times the least.
const LOG_SPREAD: f64 = 20.0;

/// One parameter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Matter {
    /// Its name.
    pub name: String,
    /// The share of the differences that it explains alone.
    pub share: f64,
    /// The 95 % interval.
    pub ci95: [f64; 2],
    /// Its values, in their order.
    pub curve: Vec<At>,
}

/// One value of a parameter, or a range of values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct At {
    /// The value.
    pub label: String,
    /// The score that is expected there, over all values of the other parameters.
    pub score: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// Configurations that were tried there.
    pub count: usize,
}

/// What matters in a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Matters {
    /// The parameters, the most important first.
    pub parameters: Vec<Matter>,
    /// The share that is of no parameter alone.
    pub interactions: f64,
    /// How well configurations are predicted that were not looked at.
    pub fit: f64,
    /// Configurations that it rests on.
    pub count: usize,
}

impl Matters {
    /// What may be said of it, in a sentence.
    pub fn verdict(&self) -> String {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        if self.fit <= 0.05 {
            return format!(
                "From {} the parameters do not predict the score of others: what is below says little.",
                words::plural(self.count as u64, "configuration")
            );
        }
        let Some(first) = self.parameters.first() else { return String::new() };
        format!(
            "{} alone explains {} of the differences between configurations ({} to {}); {} are of parameters acting together. \
             Scores of configurations that were left out are predicted with an R² of {:.2}.",
            words::line(&words::cut(&first.name, 40)),
            percent(first.share),
            percent(first.ci95[0]),
            percent(first.ci95[1]),
            percent(self.interactions),
            self.fit
        )
    }
}

/// A parameter's values as cells.
struct Cells {
    ordered: bool,
    labels: Vec<String>,
    /// The cell of each row.
    of: Vec<usize>,
}

/// Says at which of a parameter's labels a value stands.
type Place = Box<dyn Fn(&Value) -> usize>;

fn cells(values: &[Option<&Value>]) -> Option<Cells> {
    let active: Vec<&Value> = values.iter().copied().flatten().collect();
    let mut distinct: Vec<&Value> = Vec::new();
    for value in &active {
        if !distinct.contains(value) {
            distinct.push(value);
        }
        if distinct.len() > 400 {
            break;
        }
    }
    let mut numbers: Vec<f64> = active.iter().filter_map(|value| value.as_f64()).filter(|n| n.is_finite()).collect();
    let ordered = !active.is_empty() && numbers.len() == active.len();
    numbers.sort_by(f64::total_cmp);
    numbers.dedup();
    let off = "not used".to_owned();
    let (mut labels, place): (Vec<String>, Place) = match ordered {
        true if numbers.len() <= MOST_VALUES => {
            // Of whole numbers no decimals are shown.
            let whole = numbers.iter().all(|number| number.fract() == 0.0 && number.abs() < 1e15);
            let label = |number: &f64| match whole {
                true => format!("{number:.0}"),
                false => words::value(&Value::from(*number), 20),
            };
            let labels = numbers.iter().map(label).collect();
            (
                labels,
                Box::new(move |value: &Value| {
                    let number = value.as_f64().unwrap_or_default();
                    numbers.iter().position(|known| *known == number).unwrap_or(0)
                }),
            )
        }
        true => {
            let (low, high) = (numbers[0], numbers[numbers.len() - 1]);
            let log = low > 0.0 && high / low > LOG_SPREAD;
            let map = move |number: f64| if log { number.ln() } else { number };
            let edge = move |at: usize| {
                let mapped = map(low) + (map(high) - map(low)) * at as f64 / RANGES as f64;
                if log { mapped.exp() } else { mapped }
            };
            let label = |at: usize| format!("{} to {}", short(edge(at)), short(edge(at + 1)));
            (
                (0..RANGES).map(label).collect(),
                Box::new(move |value: &Value| {
                    let share = (map(value.as_f64().unwrap_or(low)) - map(low)) / (map(high) - map(low));
                    ((share * RANGES as f64) as usize).min(RANGES - 1)
                }),
            )
        }
        false => {
            let known: Vec<Value> = distinct.iter().take(MOST_CELLS - 2).map(|value| (*value).clone()).collect();
            let mut labels: Vec<String> = known.iter().map(|value| words::value(value, 40)).collect();
            if distinct.len() > known.len() {
                labels.push("others".to_owned());
            }
            (
                labels,
                Box::new(move |value: &Value| known.iter().position(|other| other == value).unwrap_or(known.len())),
            )
        }
    };
    let inactive = labels.len();
    if active.len() < values.len() {
        labels.push(off);
    }
    let of: Vec<usize> = values.iter().map(|value| value.map_or(inactive, &place)).collect();
    (of.iter().any(|cell| *cell != of[0])).then_some(Cells { ordered, labels, of })
}

fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 0.01 => format!("{number:.2}"),
        _ => format!("{number:.1e}"),
    }
}

/// What matters among these configurations; `None` where they are too few, or alike.
pub fn matters(rows: &[RankingRow]) -> Option<Matters> {
    let judged: Vec<&RankingRow> = rows.iter().filter(|row| row.posterior_mean.is_some()).collect();
    let every = judged.len().div_ceil(MOST_ROWS).max(1);
    let rows: Vec<&RankingRow> = judged.into_iter().step_by(every).collect();
    let names: Vec<&String> = rows.first()?.configuration.iter().map(|(name, _)| name).collect();
    let mut found: Vec<(&String, Cells)> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let values: Vec<Option<&Value>> =
            rows.iter().map(|row| row.configuration.get(at).and_then(|(_, value)| value.as_ref())).collect();
        found.extend(cells(&values).map(|cells| (*name, cells)));
    }
    let factors: Vec<Factor> = found.iter().map(|(_, cells)| factor(cells)).collect();
    let table: Vec<Vec<usize>> =
        (0..rows.len()).map(|row| found.iter().map(|(_, cells)| cells.of[row]).collect()).collect();
    let values: Vec<f64> = rows.iter().filter_map(|row| row.posterior_mean).collect();
    let sds: Vec<f64> = rows.iter().map(|row| row.posterior_sd.unwrap_or(0.0)).collect();
    let analysis = importance::importance(&factors, &table, &values, &sds, 0)?;
    let mut parameters: Vec<Matter> = found
        .iter()
        .zip(analysis.parameters)
        .map(|((name, cells), said)| {
            let at = |(cell, (score, ci95)): (usize, (f64, [f64; 2]))| At {
                label: cells.labels[cell].clone(),
                score,
                ci95,
                count: cells.of.iter().filter(|of| **of == cell).count(),
            };
            // Nothing is known where nothing was tried.
            let curve = said.curve.into_iter().enumerate().map(at).filter(|at| at.count > 0).collect();
            Matter { name: (*name).clone(), share: said.share, ci95: said.ci95, curve }
        })
        .collect();
    parameters.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.name.cmp(&b.name)));
    Some(Matters { parameters, interactions: analysis.interactions, fit: analysis.fit, count: analysis.count })
}

/// Every value weighs the same, except "not used", which weighs what it is of those tried.
fn factor(cells: &Cells) -> Factor {
    let count = cells.labels.len();
    let off = match cells.labels.last() {
        Some(last) if last == "not used" => {
            cells.of.iter().filter(|cell| **cell == count - 1).count() as f64 / cells.of.len() as f64
        }
        _ => 0.0,
    };
    let own = if off > 0.0 { count - 1 } else { count };
    let mut weights = vec![(1.0 - off) / own.max(1) as f64; own];
    weights.extend((off > 0.0).then_some(off));
    Factor { ordered: cells.ordered, weights }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;
    use serde_json::json;

    #[test]
    fn what_was_made_to_matter_matters() {
        let mut rows = testing::some_rows(40);
        for (at, row) in rows.iter_mut().enumerate() {
            let (temperature, cot) = ((at * 7 % 40) as f64 / 40.0, at % 3 == 0);
            row.configuration[0].1 = Some(json!(temperature));
            row.posterior_mean = Some(0.5 + 0.2 * f64::from(u8::from(cot)) + 0.05 * temperature);
            row.posterior_sd = Some(0.01);
        }
        let all = matters(&rows).unwrap();
        let names: Vec<&str> = all.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        println!("{all:#?}");
        // Whether there is a trigger and which prompt it is are the same thing in these rows.
        assert!(["prompt", "trigger"].contains(&names[0]) && !names.contains(&"max_tokens"), "{names:?}");
        assert!(all.fit > 0.5 && all.verdict().contains("alone explains"), "{}", all.verdict());
        let temperature = all.parameters.iter().find(|parameter| parameter.name == "temperature").unwrap();
        assert_eq!(temperature.curve.len(), RANGES);
        let trigger = all.parameters.iter().find(|parameter| parameter.name == "trigger").unwrap();
        assert_eq!(trigger.curve.iter().map(|at| at.label.as_str()).collect::<Vec<_>>().len(), 2);
        assert!(trigger.curve.iter().any(|at| at.label == "not used"));
    }

    #[test]
    fn little_says_nothing() {
        assert_eq!(matters(&[]), None);
        assert_eq!(matters(&testing::some_rows(3)), None);
    }
}
