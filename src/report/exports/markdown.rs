//! A run as Markdown, short enough for a comment on a pull request.

use crate::report::matters;
use crate::report::rows::{self, RankingRow, Shown};
use crate::report::run::Run;
use crate::report::words;
use crate::study::Standing;

/// Rows of the ranking that are shown.
const ROWS: usize = 10;

/// A text of a user, a model or a file that Markdown shows as it is: on one line, nothing of it is markup.
fn plain(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for c in words::line(&words::visible(&words::cut(text, most))).chars() {
        match c {
            '<' => shown += "&lt;",
            '>' => shown += "&gt;",
            '&' => shown += "&amp;",
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '|' | '~' | '!' | '@' => shown.extend(['\\', c]),
            _ => shown.push(c),
        }
    }
    shown
}

/// The run: the answer, the first of the ranking, what matters, what it cost.
pub fn markdown(run: &Run) -> String {
    let summary = &run.summary;
    let mut text = format!("## {}: {}\n\n", plain(&summary.task, 100), plain(&run.name(), 100));
    if words::made_up(summary) {
        text += "> **The models are made up:** these numbers say nothing about any real model.\n\n";
    }
    if !run.ended {
        text += "> The run goes on: this is what is known so far.\n\n";
    }
    text += &format!("**{}**\n\n", plain(&words::answer(summary), 500));
    if let Some(holdout) = &summary.holdout {
        text += &format!("- {}\n", plain(&words::held_out(holdout, &summary.metric), 500));
        if let Some(versus) = words::tested_against_baseline(holdout, summary.direction) {
            text += &format!("- {}\n", plain(&versus, 500));
        }
    } else if let Some(baseline) = words::baseline(summary) {
        text += &format!("- {}\n", plain(&baseline, 500));
    }
    if run.ended {
        for claim in words::claims(summary) {
            text += &format!("- {}\n", plain(&claim, 500));
        }
        text += &format!("- {}\n", plain(&words::stopped(summary), 500));
    }
    text += &format!("- {}\n", plain(&words::spent(summary), 500));
    if !run.rows.is_empty() {
        let Shown { rows: shown, more, never } = rows::shown(&run.rows, ROWS);
        let varying = words::varying(&shown);
        text += &format!(
            "\n| # | {} | P(best) | instances | $ an instance | spent on it | configuration |\n|--:|---|--:|--:|--:|--:|---|\n",
            plain(&summary.metric, 60)
        );
        for row in shown {
            text += &line(row, &varying);
        }
        if more > 0 {
            text += &format!("\n{} more in ranking.csv.\n", words::count(more as u64));
        }
        if never > 0 {
            text += &format!("\nDrawn but never asked: {}.\n", words::plural(never as u64, "configuration"));
        }
    }
    if let Some(matters) = matters::matters(&run.rows) {
        text += &format!("\n{}\n", plain(&matters.verdict(), 500));
    }
    for note in summary.notes.iter().filter(|note| !words::says_made_up(note)) {
        text += &format!("\n{}\n", plain(note, 500));
    }
    text
}

fn line(row: &RankingRow, varying: &[usize]) -> String {
    let place = if row.standing == Standing::Eligible { row.rank.to_string() } else { "–".to_owned() };
    let mark = match (row.rank == 1 && row.standing == Standing::Eligible, row.baseline) {
        (true, true) => "**best, baseline** ",
        (true, false) => "**best** ",
        (false, true) => "**baseline** ",
        _ => "",
    };
    let pair = |(name, value): &(String, String)| format!("{}={}", plain(name, 40), plain(value, 40));
    let mut config: Vec<String> = row.settings(varying, 40).iter().map(pair).collect();
    config.extend(row.reason.as_ref().map(|reason| format!("(cannot be best: {})", plain(reason, 120))));
    format!(
        "| {place} | {} | {} | {} | {} | {} | {mark}{} |\n",
        plain(&words::scored(row.score, row.ci95()), 60),
        row.p_best.map_or("–".to_owned(), |p| plain(&words::probability(p), 10)),
        words::count(row.instances as u64),
        row.production_cost_usd_per_instance.map_or("-".to_owned(), words::dollars),
        words::dollars(row.study_cost_usd),
        config.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        assert_eq!(
            plain("a|b\n`c` <img src=x> [d](e) @user\u{202e}\u{0}", 99),
            "a\\|b \\`c\\` &lt;img src=x&gt; \\[d\\](e) \\@user⟨U+202E⟩␀"
        );
    }
}
