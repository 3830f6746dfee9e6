//! What the commands print on standard output: the ranking as a table, and the answer in sentences.
//!
//! Nothing is wider than [`WIDTH`] columns, and nothing that a user, a model or a file wrote reaches the terminal with a
//! control character in it. Colour is the caller's to decide (NO_COLOR, no terminal: none); it only repeats what the
//! text says.

use std::io::IsTerminal;

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, TableComponent, Width};

use crate::money::Usd;
use crate::report::rows::{self, RankingRow, Shown};
use crate::report::words;
use crate::space::Configuration;
use crate::study::{Holdout, Standing, StopReason, Summary};

/// The most columns that anything takes.
pub const WIDTH: u16 = 100;

/// The columns there are: of the terminal, where standard output is one and it is narrower; else [`WIDTH`].
pub(crate) fn width() -> u16 {
    let terminal = || ratatui::crossterm::terminal::size().ok().map(|(columns, _)| columns);
    let columns = std::io::stdout().is_terminal().then(terminal).flatten();
    columns.filter(|columns| *columns > 0).unwrap_or(WIDTH).clamp(40, WIDTH)
}

/// The longest stretch of one parameter's value that is shown.
const VALUE: usize = 32;

/// How a row is painted.
#[derive(Clone, Copy, PartialEq)]
enum Paint {
    None,
    Winner,
    Barred,
}

/// The ranking, best first: at most `limit` rows, and a line that says how many more there are. The baseline is always
/// among them, in place of the last one if need be. `metric` is the objective's name.
pub fn ranking(rows: &[RankingRow], metric: &str, limit: usize, color: bool) -> String {
    ranking_in(width(), rows, metric, limit, color)
}

/// Columns of the ranking that are left out where there is no room for them, the least needed first.
const DISPENSABLE: [&str; 3] = ["cost", "P(best)", "judged"];

fn ranking_in(width: u16, rows: &[RankingRow], metric: &str, limit: usize, color: bool) -> String {
    let Shown { rows: shown, more, never } = rows::shown(rows, limit);
    if shown.is_empty() {
        return "No configuration was tried.\n".to_owned();
    }
    let varying = words::varying(&shown);
    let metric = words::line(&words::cut(metric, 24));
    let header = ["", &metric, "P(best)", "judged", "$/instance", "cost", "configuration"];
    let (mut lines, mut paints) = (Vec::new(), Vec::new());
    for row in &shown {
        let eligible = row.standing == Standing::Eligible;
        lines.push([
            if eligible { row.rank.to_string() } else { "-".to_owned() },
            words::scored(row.score, row.ci95()),
            row.p_best.map_or("-".to_owned(), words::probability),
            row.instances.to_string(),
            row.production_cost_usd_per_instance.map_or("-".to_owned(), words::dollars)
                + if row.pareto { " *" } else { "" },
            words::dollars(row.study_cost_usd),
            about(row, &varying),
        ]);
        paints.push(match (eligible, row.rank) {
            (true, 1) => Paint::Winner,
            (true, _) => Paint::None,
            (false, _) => Paint::Barred,
        });
    }
    let mut text = painted(&laid_out(width, header, lines, 6, &DISPENSABLE), &paints, color);
    if more > 0 {
        text += &format!("and {} more in ranking.csv\n", words::count(more as u64));
    }
    if never > 0 {
        let never = words::plural(never as u64, "more configuration");
        text += &wrapped_in(width, &format!("{never} drawn but never asked."));
    }
    if shown.iter().any(|row| row.pareto) {
        text += &wrapped_in(width, "* No other has both a better expected score and a lower price.");
    }
    if shown.iter().any(|row| row.instances != shown[0].instances) {
        text += &wrapped_in(
            width,
            "Ordered by the score expected here and on as many further instances, which allows for luck.",
        );
    }
    text
}

/// The last cell of a row: what it is, and why it cannot be best.
fn about(row: &RankingRow, varying: &[usize]) -> String {
    let setting = |(name, value): &(String, String)| format!("{}={value}", words::line(name));
    let mut text = row.settings(varying, VALUE).iter().map(setting).collect::<Vec<_>>().join(" ");
    if row.baseline {
        text = format!("baseline: {text}");
    }
    let reason = match (row.standing, &row.reason) {
        (Standing::Eligible, _) => None,
        (_, Some(reason)) => Some(words::line(&words::cut(reason, 160))),
        (standing, None) => Some(words::standing(standing).to_owned()),
    };
    if row.missing > 0 {
        text += &format!("\n{} missing", words::are(row.missing as u64));
    }
    if let Some(reason) = reason {
        text += &format!("\ncannot be best: {reason}");
    }
    text
}

/// A table without borders whose last column takes what width is left.
pub(crate) fn plain_table<const N: usize>(header: [&str; N], numbers_until: usize) -> Table {
    plain_table_in(width(), &header, numbers_until)
}

fn plain_table_in(width: u16, header: &[&str], numbers_until: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.remove_style(TableComponent::VerticalLines);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width);
    table.set_header(header.iter().map(Cell::new));
    for (at, column) in table.column_iter_mut().enumerate() {
        // One column more is between them anyway: the line of intersections under the header.
        column.set_padding((0, u16::from(at + 1 < header.len())));
        if at + 1 < header.len() {
            column.set_constraint(ColumnConstraint::ContentWidth);
        } else if width < WIDTH {
            // Rather wider than the terminal than one letter a line.
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(20)));
        }
        if at < numbers_until && at != 1 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The last column stands beside the others where it has so many columns at least.
const BESIDE: usize = 28;

/// What stands before a line of a last column that is under its row.
const UNDER: &str = "    ";

/// The lines of the header and those of each row. The last column stands beside the others where there is room for it,
/// else on lines of its own under its row, broken between words; then columns that are `dispensable` are left out, the
/// first first, until the rest fits.
pub(crate) fn laid_out<const N: usize>(
    width: u16,
    header: [&str; N],
    rows: Vec<[String; N]>,
    numbers_until: usize,
    dispensable: &[&str],
) -> Vec<Vec<String>> {
    let lines = |table: &Table| table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    let numbers = |kept: &[usize]| {
        let names: Vec<&str> = kept.iter().map(|&at| header[at]).collect();
        // As wide as it wants to be: the last column of a table would be broken else.
        let mut table = plain_table_in(u16::MAX, &names, numbers_until.min(kept.len()));
        for row in &rows {
            table.add_row(kept.iter().map(|&at| row[at].as_str()));
        }
        let columns: usize = table.column_max_content_widths().iter().map(|&columns| columns as usize).sum();
        (columns + 2 * kept.len().saturating_sub(1), table)
    };
    let mut kept: Vec<usize> = (0..N - 1).collect();
    let longest_word = rows.iter().flat_map(|row| row[N - 1].split_whitespace()).map(|word| word.chars().count()).max();
    let (mut taken, mut table) = numbers(&kept);
    if taken + 2 + BESIDE.max(longest_word.unwrap_or(0).min(BESIDE + 10)) <= width as usize {
        let mut table = plain_table_in(width, &header, numbers_until);
        let mut groups: Vec<Vec<String>> = vec![Vec::new()];
        for row in rows {
            table.add_row(row);
        }
        // The first cell of a row is never empty and never wraps: where it begins, a row begins.
        let first = table.column_max_content_widths().first().copied().unwrap_or(0) as usize;
        for (at, line) in lines(&table).into_iter().enumerate() {
            if at > 1 && line.chars().take(first).any(|c| c != ' ') {
                groups.push(Vec::new());
            }
            groups.extend(groups.is_empty().then(Vec::new));
            if let Some(group) = groups.last_mut() {
                group.push(line);
            }
        }
        return groups;
    }
    for name in dispensable {
        if taken <= width as usize {
            break;
        }
        kept.retain(|&at| header[at] != *name);
        (taken, table) = numbers(&kept);
    }
    let mut all = lines(&table).into_iter();
    let mut groups: Vec<Vec<String>> = vec![all.by_ref().take(2).collect()];
    for (line, row) in all.zip(&rows) {
        let mut group = vec![line];
        for paragraph in row[N - 1].lines() {
            group.extend(wrapped_in(width, &format!("{UNDER}{paragraph}")).lines().map(str::to_owned));
        }
        groups.push(group);
    }
    groups
}

/// The lines of a table that was laid out, each row in its paint.
fn painted(groups: &[Vec<String>], paints: &[Paint], color: bool) -> String {
    let mut text = String::new();
    for (row, group) in groups.iter().enumerate() {
        let paint = row.checked_sub(1).and_then(|row| paints.get(row)).copied().unwrap_or(Paint::None);
        for line in group {
            match paint {
                Paint::Winner if color => text += &format!("\u{1b}[1;32m{line}\u{1b}[0m"),
                Paint::Barred if color => text += &format!("\u{1b}[2m{line}\u{1b}[0m"),
                _ => text += line,
            }
            text.push('\n');
        }
    }
    text
}

/// The answer of a study in a few sentences: the winner, why it stopped, the money, the baseline, notes, and what to run
/// next. `folder` is the run's folder, where there is one.
pub fn answer(summary: &Summary, folder: Option<&str>) -> String {
    let folder = folder.map_or("DIR".to_owned(), shell_word);
    let mut lines = vec![words::answer(summary)];
    if let Some(best) = &summary.best {
        lines.push(format!("  {}", words::configuration(&best.config, 80)));
    }
    match &summary.holdout {
        Some(holdout) => {
            lines.push(words::held_out(holdout, &summary.metric));
            lines.extend(words::tested_against_baseline(holdout, summary.direction));
        }
        None => lines.extend(words::baseline(summary)),
    }
    lines.extend(words::claims(summary));
    lines.extend(words::cheaper(summary));
    lines.push(format!("{} {}", words::stopped(summary), words::spent(summary)));
    lines.extend(summary.notes.iter().map(|note| format!("Note: {}", words::line(&words::cut(note, 600)))));
    if summary.stop_reason == StopReason::Interrupted {
        lines.push("Go on with it:".to_owned());
        lines.push(format!("  farthing tune --resume {folder}"));
    } else if summary.best.is_some() && summary.held_out().is_none() {
        lines.push("The instances that chose it flatter it. Score it on held-out ones:".to_owned());
        lines.push(format!("  farthing test {folder}"));
    }
    lines.iter().map(|line| wrapped(line)).collect()
}

/// A configuration on the test split, for `test`. `summary` is its run's, where it is a run's winner.
pub fn holdout_text(
    holdout: &Holdout,
    metric: &str,
    configuration: &Configuration,
    summary: Option<&Summary>,
) -> String {
    let mut lines = vec![words::configuration(configuration, 80), words::held_out(holdout, metric)];
    let Some(summary) = summary else { return lines.iter().map(|line| wrapped(line)).collect() };
    lines.extend(words::tested_against_baseline(holdout, summary.direction));
    if let Some(best) = summary.best.as_ref().filter(|best| best.score.is_some()) {
        lines.push(format!(
            "While tuning, on instances that chose it, it had {}.",
            words::scored(best.score, best.ci95)
        ));
    }
    lines.push(format!("The test cost {}.", words::dollars(summary.holdout_cost_usd)));
    lines.extend(summary.notes.iter().map(|note| format!("Note: {}", words::line(&words::cut(note, 600)))));
    lines.iter().map(|line| wrapped(line)).collect()
}

/// One configuration on a whole split, for `evaluate`.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// The configuration.
    pub configuration: Configuration,
    /// The name, the mean and the 95 % interval of every metric; the objective first.
    pub metrics: Vec<(String, Option<f64>, Option<[f64; 2]>)>,
    /// Instances that were judged.
    pub instances: usize,
    /// Instances that are missing.
    pub missing: usize,
    /// Why they are missing: a class of failure in words, how many, and the words of one of them.
    pub failures: Vec<(String, usize, String)>,
    /// What production would pay an instance.
    pub production_cost: Option<Usd>,
    /// What was billed.
    pub spent: Usd,
    /// What the cap was.
    pub budget: Option<Usd>,
}

/// The table of `evaluate`, and what it cost.
pub fn evaluate_table(of: &Evaluated, color: bool) -> String {
    let rows = of
        .metrics
        .iter()
        .map(|(name, mean, ci95)| [words::line(&words::cut(name, 40)), words::scored(*mean, *ci95), String::new()]);
    let table = laid_out(width(), ["metric", "mean [95 % interval]", ""], rows.collect(), 0, &[]);
    let paints: Vec<Paint> =
        (0..of.metrics.len()).map(|at| if at == 0 { Paint::Winner } else { Paint::None }).collect();
    let mut text = wrapped(&words::configuration(&of.configuration, 80));
    text += &painted(&table, &paints, color);
    let mut lines = vec![format!("{} judged.", words::plural(of.instances as u64, "instance"))];
    lines.extend(of.failures.iter().map(|(kind, count, example)| {
        format!(
            "{} missing: {} ({})",
            words::count(*count as u64),
            words::line(kind),
            words::line(&words::cut(example, 200))
        )
    }));
    let cap = of.budget.map_or(" without a cap".to_owned(), |budget| format!(" of ${budget}"));
    let production =
        of.production_cost.map(|cost| format!("Production would pay {} an instance. ", words::dollars(cost)));
    lines.push(format!("{}Spent {}{cap}.", production.unwrap_or_default(), words::dollars(of.spent)));
    text += &lines.iter().map(|line| wrapped(line)).collect::<String>();
    text
}

/// A word as a shell reads it back.
pub(crate) fn shell_word(word: &str) -> String {
    let word = words::line(word);
    match word.chars().all(|c| c.is_alphanumeric() || "-_./+:@%".contains(c)) && !word.is_empty() {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A paragraph broken at spaces to [`WIDTH`] columns; its indent is kept on every line.
pub(crate) fn wrapped(paragraph: &str) -> String {
    wrapped_in(width(), paragraph)
}

fn wrapped_in(width: u16, paragraph: &str) -> String {
    let indent = paragraph.len() - paragraph.trim_start_matches(' ').len();
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    let width = width.saturating_sub(indent as u16).max(20);
    table.set_width(width);
    table.add_row([&paragraph[indent..]]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 0));
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(width)));
    }
    table.lines().map(|line| format!("{}{}\n", " ".repeat(indent), line.trim_end())).collect()
}

/// A line for standard error: broken between words where that is a terminal, whole in a log.
pub(crate) fn told(line: &str) -> String {
    let terminal = || ratatui::crossterm::terminal::size().ok().map(|(columns, _)| columns);
    match std::io::stderr().is_terminal().then(terminal).flatten() {
        Some(columns) if columns > 0 => wrapped_in(columns.max(40), line).trim_end().to_owned(),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;
    use serde_json::{Value, json};

    /// Columns that a line takes: wide characters take two.
    fn columns(line: &str) -> usize {
        line.chars()
            .map(
                |c| if ('\u{1100}'..'\u{fff0}').contains(&c) && !('\u{2000}'..'\u{2e7f}').contains(&c) { 2 } else { 1 },
            )
            .sum()
    }

    fn fits(text: &str) {
        for line in text.lines() {
            assert!(columns(line) <= WIDTH as usize, "{} columns: {line}", columns(line));
            assert!(!line.chars().any(words::is_unsafe), "{line:?}");
        }
    }

    #[test]
    fn the_table_is_what_people_read() {
        let mut rows = testing::some_rows(9);
        rows[7].standing = Standing::Infeasible;
        (rows[7].p_best, rows[8].p_best) = (None, None);
        rows[7].reason = Some("about $0.0009 an instance in production, over the inference budget of $0.0005".into());
        rows[8].standing = Standing::Unjudged;
        (rows[8].score, rows[8].ci_low, rows[8].ci_high, rows[8].instances, rows[8].missing) = (None, None, None, 0, 4);
        rows[8].production_cost_usd_per_instance = None;
        let table = ranking(&rows, "accuracy", 20, false);
        fits(&table);
        insta::assert_snapshot!(table, @r#"
           accuracy              P(best)  judged  $/instance      cost  configuration
        ────────────────────────────────────────────────────────────────────────────────────────────────────
        1  0.800 [0.740, 0.850]     0.50     250  $0.00002 *  $0.00123  prompt=cot model=gpt-4o-mini
                                                                        temperature=0.0 trigger="Let's think
                                                                        step by step."
        2  0.790 [0.730, 0.840]     0.25     249    $0.00016  $0.00123  prompt=direct model=gpt-4o
                                                                        temperature=0.1
        3  0.780 [0.720, 0.830]     0.12     248     $0.0003  $0.00123  prompt=direct model=gpt-4o-mini
                                                                        temperature=0.2
        4  0.770 [0.710, 0.820]     0.06     247     $0.0001  $0.00123  baseline: prompt=cot model=gpt-4o
                                                                        temperature=0.3 trigger="Let's think
                                                                        step by step."
        5  0.760 [0.700, 0.810]     0.03     246    $0.00024  $0.00123  prompt=direct model=gpt-4o-mini
                                                                        temperature=0.4
        6  0.750 [0.690, 0.800]     0.02     245    $0.00004  $0.00123  prompt=direct model=gpt-4o
                                                                        temperature=0.5
        7  0.740 [0.680, 0.790]    <0.01     244    $0.00018  $0.00123  prompt=cot model=gpt-4o-mini
                                                                        temperature=0.6 trigger="Let's think
                                                                        step by step."
        -  0.730 [0.670, 0.780]        -     243    $0.00032  $0.00123  prompt=direct model=gpt-4o
                                                                        temperature=0.7
                                                                        cannot be best: about $0.0009 an
                                                                        instance in production, over the
                                                                        inference budget of $0.0005
        -  -                           -       0           -  $0.00123  prompt=direct model=gpt-4o-mini
                                                                        temperature=0.8
                                                                        4 instances are missing
                                                                        cannot be best: no instance was
                                                                        judged
        * No other has both a better expected score and a lower price.
        Ordered by the score expected here and on as many further instances, which allows for luck.
        "#);
        let short = ranking(&rows, "accuracy", 3, false);
        assert!(short.contains("baseline: ") && short.contains("\nand 6 more in ranking.csv\n"), "{short}");
        assert_eq!(short.lines().filter(|line| line.contains("prompt=")).count(), 3, "{short}");
    }

    #[test]
    fn a_narrow_terminal_has_configurations_on_lines_of_their_own() {
        let mut rows = testing::some_rows(5);
        rows.push(testing::row(5, None, None, None));
        (rows[5].instances, rows[5].standing) = (0, Standing::Unjudged);
        let narrow = ranking_in(80, &rows, "accuracy", 20, false);
        assert!(narrow.lines().all(|line| columns(line) <= 80), "{narrow}");
        insta::assert_snapshot!(narrow.lines().take(5).collect::<Vec<_>>().join("\n"));
        assert!(narrow.contains("1 more configuration drawn but never asked"), "{narrow}");
        let narrower = ranking_in(60, &rows, "accuracy", 20, false);
        assert!(narrower.lines().all(|line| columns(line) <= 60), "{narrower}");
        assert!(!narrower.contains("cost") && narrower.contains("$/instance"), "{narrower}");
        // At the full width a long name gets lines of its own rather than a break in its middle.
        rows[0].configuration[2].1 = Some(Value::from("a_prompt_with_quite_a_long_name"));
        let wide = ranking_in(WIDTH, &rows, "accuracy", 20, false);
        assert!(wide.contains("prompt=a_prompt_with_quite_a_long_name"), "{wide}");
    }

    #[test]
    fn colour_changes_nothing_but_the_colour() {
        let mut rows = testing::some_rows(5);
        rows[4].standing = Standing::Unreliable;
        let painted = ranking(&rows, "accuracy", 20, true);
        let first = painted.lines().find(|line| line.contains("0.800")).unwrap();
        assert!(first.starts_with("\u{1b}[1;32m") && first.ends_with("\u{1b}[0m"), "{first:?}");
        let green =
            painted.lines().take_while(|line| !line.starts_with('2')).filter(|line| line.starts_with("\u{1b}[1;32m"));
        assert_eq!(green.count(), painted.matches("\u{1b}[1;32m").count(), "only the winner's lines are green");
        assert!(painted.lines().any(|line| line.starts_with("\u{1b}[2m")));
        let bare = ["\u{1b}[1;32m", "\u{1b}[2m", "\u{1b}[0m"].iter().fold(painted, |text, code| text.replace(code, ""));
        assert_eq!(bare, ranking(&rows, "accuracy", 20, false));
    }

    #[test]
    fn whatever_the_space_has_it_fits() {
        let mut rows = testing::some_rows(40);
        for (at, row) in rows.iter_mut().enumerate() {
            row.rank = at + 99_961;
            row.score = Some(-f64::MAX);
            (row.ci_low, row.ci_high) = (Some(-f64::MAX), Some(-1e-300));
            row.instances = 10_000_000;
            row.missing = 100_000;
            row.study_cost_usd = Usd::MAX;
            row.production_cost_usd_per_instance = Some(Usd::from_pico(1));
            row.reason = Some("语".repeat(500));
            row.standing = if at % 2 == 0 { Standing::Infeasible } else { Standing::Eligible };
            row.configuration = (0..30)
                .map(|p| {
                    (
                        format!("p{p}\u{1b}[2J{}", "x".repeat(p * 9)),
                        (p % 7 != at % 7).then(|| match (at + p) % 5 {
                            0 => Value::from("长".repeat(60)),
                            1 => Value::from("a\nb\u{0}\u{202e}"),
                            2 => json!({"k": [1, "\u{1b}"]}),
                            3 => Value::from("word ".repeat(20_000)),
                            _ => Value::from(1e-300),
                        }),
                    )
                })
                .collect();
        }
        for limit in [0, 1, 7, 1000] {
            fits(&ranking(&rows, &"metric\u{7}".repeat(30), limit, false));
        }
        assert_eq!(ranking(&[], "accuracy", 10, false), "No configuration was tried.\n");
    }

    #[test]
    fn the_answer_is_in_sentences() {
        let mut summary = testing::outcome().summary;
        let with_test = answer(&summary, Some("results/doubles 1"));
        fits(&with_test);
        assert!(with_test.starts_with("The best of "), "{with_test}");
        assert!(
            with_test.contains("held-out") && with_test.contains("made up") && !with_test.contains("farthing test"),
            "{with_test}"
        );
        summary.holdout = None;
        summary.study_cost_usd += Usd::from_pico(1_000_000_000);
        let without = answer(&summary, Some("results/doubles 1"));
        assert!(without.contains("  farthing test 'results/doubles 1'\n"), "{without}");
        assert!(without.contains("with an empty store the study would have cost"), "{without}");
        summary.best = None;
        assert!(answer(&summary, None).starts_with("There is no answer: none of"), "{}", answer(&summary, None));
        summary.notes = vec!["x\u{1b}[2J\u{202e} ".repeat(500)];
        summary.metric = "语".repeat(300);
        fits(&answer(&summary, None));
    }

    #[test]
    fn a_test_is_told_from_its_numbers() {
        let summary = testing::outcome().summary;
        let mut holdout = summary.holdout.clone().unwrap();
        holdout.versus_baseline = Some(crate::study::Versus {
            difference: -0.1,
            ci95: [-0.15, -0.05],
            p_value: 0.0001,
            test: "mcnemar_exact".into(),
            pairs: 249,
            baseline_score: 0.7,
        });
        let configuration = summary.best.as_ref().unwrap().config.clone();
        let told = |summary: &Summary| holdout_text(&holdout, &summary.metric, &configuration, Some(summary));
        let text = told(&summary);
        fits(&text);
        let text = text.replace('\n', " ");
        assert!(
            text.contains("is worse than the baseline: -0.100 [-0.150, -0.050], p < 0.001 (McNemar's exact"),
            "{text}"
        );
        let less = Summary { direction: crate::task::Direction::Minimize, ..summary };
        assert!(told(&less).replace('\n', " ").contains("is better than the baseline"));
    }

    #[test]
    fn an_evaluation_is_a_small_table() {
        let of = Evaluated {
            configuration: testing::some_rows(1)[0].parameters(),
            metrics: vec![("accuracy".into(), Some(0.5), Some([0.4, 0.6])), ("letters".into(), None, None)],
            instances: 98,
            missing: 2,
            failures: vec![("timeout".into(), 2, "no answer in 60 s".into())],
            production_cost: Some(Usd::from_pico(579_000_000)),
            spent: Usd::from_pico(57_900_000_000),
            budget: None,
        };
        insta::assert_snapshot!(evaluate_table(&of, false), @r#"
        prompt=cot model=gpt-4o-mini max_tokens=256 temperature=0.0 trigger="Let's think step by step."
        metric    mean [95 % interval]
        ─────────────────────────────────
        accuracy  0.500 [0.400, 0.600]
        letters   -
        98 instances judged.
        2 missing: timeout (no answer in 60 s)
        Production would pay $0.000579 an instance. Spent $0.0579 without a cap.
        "#);
    }
}
