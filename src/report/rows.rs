//! The ranking as rows: one a configuration, best first, as `ranking.csv` keeps them.
//!
//! Nothing in a row depends on time, on the cache or on where the study was run, so the file of two equal studies is the
//! same, byte for byte.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diagnostic::{Error, Result, suggestion};
use crate::money::Usd;
use crate::report::words;
use crate::space::Configuration;
use crate::study::{Outcome, Ranked, Standing};

/// One configuration and what it came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankingRow {
    /// Its place, from 1.
    pub rank: usize,
    /// Its trial's number, from 0 in the order of trying.
    pub trial: usize,
    /// Its short name, the same in every run.
    pub id: String,
    /// What stands between it and being best.
    pub standing: Standing,
    /// The user's baseline.
    pub baseline: bool,
    /// The mean of the objective over the instances it was judged on.
    pub score: Option<f64>,
    /// The lower end of the mean's 95 % interval.
    pub ci_low: Option<f64>,
    /// The upper end.
    pub ci_high: Option<f64>,
    /// What the mean over the tuning instances and as many further ones is expected to be: the order is by it.
    pub posterior_mean: Option<f64>,
    /// How sure that is.
    pub posterior_sd: Option<f64>,
    /// Instances that were judged.
    pub instances: usize,
    /// Instances that are missing.
    pub missing: usize,
    /// What production would pay an instance, on the average of those answered.
    pub production_cost_usd_per_instance: Option<Usd>,
    /// What trying it cost the study.
    pub study_cost_usd: Usd,
    /// Why it cannot be best.
    pub reason: Option<String>,
    /// Every parameter of the space, in the space's order; `None` where it is inactive.
    pub configuration: Vec<(String, Option<Value>)>,
    /// The probability that it is the best of those tried; `None` where it cannot be.
    #[serde(default)]
    pub p_best: Option<f64>,
    /// True where no other beats it in both expected score and production cost.
    #[serde(default)]
    pub pareto: bool,
}

impl RankingRow {
    /// The 95 % interval of the score.
    pub fn ci95(&self) -> Option<[f64; 2]> {
        Some([self.ci_low?, self.ci_high?])
    }

    /// Something was asked of it, or something stands against it: else there is nothing to show of it.
    pub fn asked(&self) -> bool {
        self.instances + self.missing > 0 || self.reason.is_some()
    }

    /// Some of the parameters, by their places, as (name, value): those that are active, both cut.
    pub fn settings(&self, at: &[usize], most: usize) -> Vec<(String, String)> {
        let pair = |&at: &usize| {
            let (name, value) = self.configuration.get(at)?;
            Some((words::cut(name, most), words::value(value.as_ref()?, most)))
        };
        at.iter().filter_map(pair).collect()
    }

    /// The active parameters.
    pub fn parameters(&self) -> Configuration {
        let active = self.configuration.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        Configuration(active.collect())
    }
}

/// The rows of a study, best first.
pub fn rows(outcome: &Outcome) -> Vec<RankingRow> {
    let names: Vec<&String> = outcome.space.parameters.iter().map(|parameter| &parameter.name).collect();
    let row = |ranked: &Ranked| {
        let trial = &outcome.trials[ranked.trial];
        RankingRow {
            trial: trial.number,
            baseline: trial.is_baseline,
            missing: trial.missing(),
            production_cost_usd_per_instance: trial.production_cost(),
            study_cost_usd: trial.cost(),
            pareto: outcome.summary.pareto.iter().any(|point| point.trial == trial.number),
            ..placed(ranked, &trial.configuration, &names)
        }
    };
    outcome.ranking.iter().map(row).collect()
}

/// What a ranking alone says of a configuration, as a row with these parameters.
pub(super) fn placed(ranked: &Ranked, configuration: &Configuration, names: &[&String]) -> RankingRow {
    let interval = ranked.estimate.and_then(|estimate| estimate.ci95);
    RankingRow {
        rank: ranked.rank,
        trial: ranked.trial,
        id: configuration.short_id(),
        standing: ranked.standing,
        baseline: false,
        score: ranked.estimate.map(|estimate| estimate.mean),
        ci_low: interval.map(|interval| interval.0),
        ci_high: interval.map(|interval| interval.1),
        posterior_mean: ranked.posterior.map(|posterior| posterior.0),
        posterior_sd: ranked.posterior.map(|posterior| posterior.1),
        instances: ranked.estimate.map_or(0, |estimate| estimate.count),
        missing: 0,
        production_cost_usd_per_instance: None,
        study_cost_usd: Usd::ZERO,
        reason: ranked.reason.clone(),
        configuration: names.iter().map(|name| ((*name).clone(), configuration.get(name).cloned())).collect(),
        p_best: ranked.probability.filter(|_| ranked.standing == Standing::Eligible),
        pareto: false,
    }
}

/// The rows that are shown where there is no room for all.
pub struct Shown<'a> {
    /// Those, best first.
    pub rows: Vec<&'a RankingRow>,
    /// How many more were asked something.
    pub more: usize,
    /// How many were never asked anything.
    pub never: usize,
}

/// At most `limit` of the rows that were asked something. The baseline is always among them, in place of the last one if
/// need be.
pub fn shown(rows: &[RankingRow], limit: usize) -> Shown<'_> {
    let asked: Vec<&RankingRow> = rows.iter().filter(|row| row.asked()).collect();
    let mut shown: Vec<&RankingRow> = asked.iter().take(limit.max(1)).copied().collect();
    if let Some(baseline) = asked.iter().skip(shown.len()).find(|row| row.baseline) {
        if shown.len() > 1 {
            shown.pop();
        }
        shown.push(baseline);
    }
    Shown { more: asked.len() - shown.len(), never: rows.len() - asked.len(), rows: shown }
}

/// The columns before those of the parameters.
const COLUMNS: [&str; 15] = [
    "rank",
    "trial",
    "id",
    "standing",
    "baseline",
    "score",
    "ci_low",
    "ci_high",
    "posterior_mean",
    "posterior_sd",
    "instances",
    "missing",
    "production_cost_usd_per_instance",
    "study_cost_usd",
    "reason",
];

/// The columns after those of the parameters; runs of earlier versions lack them.
const LAST: [&str; 2] = ["p_best", "pareto"];

/// What stands before a parameter's name.
const PREFIX: &str = "config.";

/// A text as a cell: bare, unless it would be taken for something else. A text that is empty, reads as JSON, begins like
/// a spreadsheet's formula or holds control characters is written as a JSON string, so no cell runs as a formula and
/// every cell can be read back.
fn text_cell(text: &str) -> String {
    let plain = !text.is_empty()
        && !text.starts_with(['=', '+', '-', '@', '\t'])
        && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
        && serde_json::from_str::<Value>(text).is_err();
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

fn value_cell(value: &Value) -> String {
    match value {
        Value::String(text) => text_cell(text),
        other => other.to_string(),
    }
}

fn cell_value(cell: &str) -> Option<Value> {
    match cell {
        "" => None,
        _ => Some(serde_json::from_str(cell).unwrap_or_else(|_| Value::from(cell))),
    }
}

/// `ranking.csv`: the rows under a header. Numbers have the fewest digits that give the same number back, dollars are
/// exact; a column `config.NAME` a parameter, texts bare where that is unambiguous, anything else as JSON, empty where
/// the parameter is inactive. [`read_csv`] reads it back.
pub fn write_csv(rows: &[RankingRow]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.configuration) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let own = |columns: &[&str]| columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>();
    let header = own(&COLUMNS).into_iter().chain(names.iter().map(|name| format!("{PREFIX}{name}"))).chain(own(&LAST));
    // Writing to memory cannot fail, and every record has the header's length.
    let _ = writer.write_record(header);
    for row in rows {
        let float = |value: Option<f64>| {
            value.filter(|value| value.is_finite()).map_or(String::new(), |value| format!("{value:?}"))
        };
        let fixed = [
            row.rank.to_string(),
            row.trial.to_string(),
            row.id.clone(),
            row.standing.word().to_owned(),
            row.baseline.to_string(),
            float(row.score),
            float(row.ci_low),
            float(row.ci_high),
            float(row.posterior_mean),
            float(row.posterior_sd),
            row.instances.to_string(),
            row.missing.to_string(),
            row.production_cost_usd_per_instance.map_or(String::new(), |cost| cost.to_string()),
            row.study_cost_usd.to_string(),
            row.reason.as_deref().map_or(String::new(), text_cell),
        ];
        let parameter = |name: &&str| {
            let value = row.configuration.iter().find(|(own, _)| own == name).and_then(|(_, value)| value.as_ref());
            value.map_or(String::new(), value_cell)
        };
        let last = [float(row.p_best), row.pareto.to_string()];
        let _ = writer.write_record(fixed.into_iter().chain(names.iter().map(parameter)).chain(last));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads what [`write_csv`] wrote. An error names the line and the column.
pub fn read_csv(text: &str) -> Result<Vec<RankingRow>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let broken = |error: csv::Error| Error::usage(format!("the ranking is no CSV file: {error}"));
    let headers = reader.headers().map_err(broken)?.clone();
    let mut places = Vec::with_capacity(COLUMNS.len());
    for column in COLUMNS {
        let place = headers.iter().position(|header| header == column);
        places.push(place.ok_or_else(|| {
            Error::usage(format!("the ranking has no column `{column}`")).help(suggestion(column, headers.iter()))
        })?);
    }
    let last = LAST.map(|column| headers.iter().position(|header| header == column));
    let parameters: Vec<(usize, &str)> =
        headers.iter().enumerate().filter_map(|(at, header)| Some((at, header.strip_prefix(PREFIX)?))).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |column: usize| record.get(places[column]).unwrap_or_default();
        let wrong = |column: usize| {
            Error::usage(format!(
                "line {line} of the ranking: `{}` is no {}",
                cell(column).escape_debug(),
                COLUMNS[column]
            ))
        };
        let whole = |column: usize| cell(column).parse::<usize>().map_err(|_| wrong(column));
        let float = |column: usize| match cell(column) {
            "" => Ok(None),
            text => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Some(value)),
                _ => Err(wrong(column)),
            },
        };
        let usd = |column: usize| cell(column).parse::<Usd>().map_err(|_| wrong(column));
        rows.push(RankingRow {
            rank: whole(0)?,
            trial: whole(1)?,
            id: cell(2).to_owned(),
            standing: Standing::of(cell(3)).ok_or_else(|| wrong(3))?,
            baseline: cell(4).parse().map_err(|_| wrong(4))?,
            score: float(5)?,
            ci_low: float(6)?,
            ci_high: float(7)?,
            posterior_mean: float(8)?,
            posterior_sd: float(9)?,
            instances: whole(10)?,
            missing: whole(11)?,
            production_cost_usd_per_instance: if cell(12).is_empty() { None } else { Some(usd(12)?) },
            study_cost_usd: usd(13)?,
            reason: cell_value(cell(14)).map(|value| match value {
                Value::String(text) => text,
                other => other.to_string(),
            }),
            configuration: parameters
                .iter()
                .map(|(at, name)| ((*name).to_owned(), record.get(*at).and_then(cell_value)))
                .collect(),
            p_best: last[0].and_then(|at| record.get(at)?.parse().ok()).filter(|p: &f64| p.is_finite()),
            pareto: last[1].and_then(|at| record.get(at)) == Some("true"),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_study_becomes_rows() {
        let outcome = testing::outcome();
        let rows = rows(&outcome);
        assert_eq!(rows.len(), outcome.summary.trials);
        assert_eq!(rows.iter().map(|row| row.rank).collect::<Vec<_>>(), (1..=rows.len()).collect::<Vec<_>>());
        assert_eq!(rows.iter().filter(|row| row.baseline).count(), 1);
        let best = outcome.summary.best.as_ref().unwrap();
        assert_eq!(
            (rows[0].id.as_str(), rows[0].score, rows[0].instances),
            (best.id.as_str(), best.score, best.instances)
        );
        assert_eq!(rows[0].parameters(), best.config);
        assert_eq!(rows.iter().map(|row| row.study_cost_usd).sum::<Usd>(), outcome.summary.search_cost_usd);
        let text = write_csv(&rows);
        assert_eq!(
            text.lines().next().unwrap(),
            "rank,trial,id,standing,baseline,score,ci_low,ci_high,posterior_mean,posterior_sd,instances,missing,production_cost_usd_per_instance,study_cost_usd,reason,config.prompt,config.trigger,config.model,config.temperature,config.max_tokens,p_best,pareto"
        );
        assert_eq!(read_csv(&text).unwrap(), rows);
        assert_eq!(write_csv(&super::rows(&testing::outcome())), text);
    }

    #[test]
    fn what_is_shown_holds_the_baseline_and_what_was_never_asked_is_not() {
        let mut rows = testing::some_rows(83);
        (rows[3].baseline, rows[40].baseline) = (false, true);
        for row in &mut rows[80..] {
            row.instances = 0;
        }
        let places = |limit: usize| {
            let shown = shown(&rows, limit);
            (shown.rows.iter().map(|row| row.rank).collect::<Vec<_>>(), shown.more, shown.never)
        };
        assert_eq!(places(4), (vec![1, 2, 3, 41], 76, 3));
        assert_eq!(places(1), (vec![1, 41], 78, 3));
        assert_eq!((places(100).0.len(), places(100).1), (80, 0));
    }

    #[test]
    fn cells_are_bare_where_that_is_clear() {
        for (value, cell) in [
            (json!("plain"), "plain"),
            (json!("two words\nand a line"), "two words\nand a line"),
            (json!("3"), "\"3\""),
            (json!(3), "3"),
            (json!(3.0), "3.0"),
            (json!(""), "\"\""),
            (json!("=1+2"), "\"=1+2\""),
            (json!("-x"), "\"-x\""),
            (json!("null"), "\"null\""),
            (json!("a\u{0}b"), "\"a\\u0000b\""),
            (json!(["\n"]), "[\"\\n\"]"),
            (json!({"a": 1}), "{\"a\":1}"),
        ] {
            assert_eq!(value_cell(&value), cell);
            assert_eq!(cell_value(cell).unwrap(), value);
        }
    }

    #[test]
    fn what_is_no_ranking_is_refused() {
        let good = write_csv(&testing::some_rows(2));
        for (text, wanted) in [
            ("", "has no column `rank`"),
            (&good.replacen("standing", "stending", 1)[..], "has no column `standing`"),
            (&good.replacen("eligible", "eligble", 1), "line 2 of the ranking: `eligble` is no standing"),
            (&good.replacen("0.8", "NaN", 1), "is no score"),
            (&format!("{good}1,2\n"), "no CSV file"),
        ] {
            let error = read_csv(text).unwrap_err();
            assert!(error.message().contains(wanted), "{error}");
        }
    }

    fn value() -> impl Strategy<Value = Option<Value>> {
        prop_oneof![
            Just(None),
            any::<String>().prop_map(|text| Some(Value::from(text))),
            "[=+@\"', 0-9\\[\\]\r\n\t-]{0,6}".prop_map(|text| Some(Value::from(text))),
            any::<i64>().prop_map(|number| Some(Value::from(number))),
            any::<f64>().prop_map(|number| Some(json!([number.is_finite().then_some(number)]))),
            any::<bool>().prop_map(|flag| Some(Value::from(flag))),
            proptest::collection::vec(any::<String>(), 0..3).prop_map(|texts| Some(Value::from(texts))),
        ]
    }

    proptest! {
        #[test]
        fn any_row_comes_back(
            values in proptest::collection::vec((value(), value()), 1..4),
            names in ("[a-z ,\"\n]{1,4}", "[A-Z]{1,4}"),
            numbers in proptest::collection::vec(proptest::option::of(any::<f64>().prop_filter("finite", |x| x.is_finite())), 5),
            reason in proptest::option::of(any::<String>()),
            cost in any::<i64>(),
        ) {
            let row = |(at, (a, b)): (usize, &(Option<Value>, Option<Value>))| RankingRow {
                rank: at + 1, trial: at, id: "0123abcd".into(), standing: Standing::Infeasible, baseline: at == 0,
                score: numbers[0], ci_low: numbers[1], ci_high: numbers[2], posterior_mean: numbers[3], posterior_sd: numbers[4],
                instances: at, missing: 2 * at, production_cost_usd_per_instance: (at > 0).then_some(Usd::from_pico(cost)),
                study_cost_usd: Usd::from_pico(cost), reason: reason.clone(),
                configuration: vec![(names.0.clone(), a.clone()), (names.1.clone(), b.clone())],
                p_best: numbers[0], pareto: at == 1,
            };
            let rows: Vec<RankingRow> = values.iter().enumerate().map(row).collect();
            let text = write_csv(&rows);
            let back = read_csv(&text).unwrap();
            prop_assert_eq!(&back, &rows);
            prop_assert_eq!(write_csv(&back), text);
            let json = serde_json::to_string(&rows).unwrap();
            prop_assert_eq!(serde_json::from_str::<Vec<RankingRow>>(&json).unwrap(), rows);
        }
    }
}
