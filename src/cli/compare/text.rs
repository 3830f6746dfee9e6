//! What `farthing compare` says.

use std::fmt::Write;

use super::{Report, Side};
use crate::money::Usd;
use crate::report::table::{plain_table, wrapped};
use crate::report::words;
use crate::study::compare::{Changed, Difference, Verdict};
use crate::task::Direction;

/// The most subgroups that are shown.
const GROUPS: usize = 20;

/// The whole answer; at most `limit` changed instances of a kind.
pub fn text(report: &Report, limit: usize, colour: bool) -> String {
    let mut text = sides(report);
    text += &changed_parameters(report);
    text.push('\n');
    text += &verdict(report, colour);
    text += &cost(report);
    text += &groups(report);
    text += &changed(report, limit);
    text += &ending(report);
    text
}

fn sides(report: &Report) -> String {
    let mut table =
        plain_table(["", &words::line(&report.metric), "judged", "missing", "$/instance", "configuration"], 5);
    for (name, side) in [("A", &report.a), ("B", &report.b)] {
        let scored = &side.scored;
        table.add_row([
            name.to_owned(),
            words::scored(scored.score, scored.ci95),
            words::count(scored.instances as u64),
            words::count(scored.missing as u64),
            scored.production_cost_usd_per_instance.map_or("-".to_owned(), words::dollars),
            words::line(&side.path),
        ]);
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn changed_parameters(report: &Report) -> String {
    if report.changes.is_empty() {
        return "Both are the same configuration by name.\n".to_owned();
    }
    let mut names: Vec<&String> = report.changes.keys().collect();
    names.sort_by_key(|name| words::place(name));
    let change = |name: &&String| {
        let [a, b] = &report.changes[*name];
        let value = |of: &serde_json::Value| if of.is_null() { "(none)".to_owned() } else { words::value(of, 40) };
        format!("{}: {} -> {}", words::line(&words::cut(name, 40)), value(a), value(b))
    };
    wrapped(&names.iter().map(change).collect::<Vec<_>>().join("; "))
}

fn verdict(report: &Report, colour: bool) -> String {
    let Some(known) = &report.compared.difference else {
        return "Nothing could be compared: no instance was answered by both.\n".to_owned();
    };
    let (words, code) = match report.compared.verdict {
        Verdict::Better => ("B is better than A.", "1;32"),
        Verdict::Worse => ("B is worse than A.", "1;31"),
        Verdict::NotToldApart => ("The data do not tell B from A.", "1"),
    };
    let mut text = match colour {
        true => format!("\u{1b}[{code}m{words}\u{1b}[0m\n"),
        false => format!("{words}\n"),
    };
    text += &wrapped(&format!(
        "On the {} that both answered, B less A is {} [{}, {}], {} ({}).",
        crate::report::words::plural(known.pairs as u64, "instance"),
        crate::report::words::signed(known.difference),
        crate::report::words::signed(known.ci95[0]),
        crate::report::words::signed(known.ci95[1]),
        words::p_value(known.p_value),
        test(known)
    ));
    if report.direction == Direction::Minimize {
        text += "Less is better.\n";
    }
    text
}

fn test(known: &Difference) -> &'static str {
    match known.test.as_str() {
        "mcnemar_exact" => "McNemar's exact test; Tango's interval",
        _ => "paired permutation test; Student's t interval",
    }
}

fn cost(report: &Report) -> String {
    let Some(cost) = &report.compared.production else { return String::new() };
    let difference = cost.difference_usd_per_instance;
    let words = match difference {
        _ if difference == Usd::ZERO => "In production both cost the same".to_owned(),
        _ => format!(
            "In production B costs {} an instance {} than A",
            words::dollars(if difference < Usd::ZERO { Usd::ZERO - difference } else { difference }),
            if difference < Usd::ZERO { "less" } else { "more" }
        ),
    };
    let ratio = cost.ratio.filter(|_| difference != Usd::ZERO);
    wrapped(&format!(
        "{words} ({} against {}{}).",
        words::dollars(cost.b_usd_per_instance),
        words::dollars(cost.a_usd_per_instance),
        ratio.map_or(String::new(), |ratio| format!(", {} times", words::number(ratio)))
    ))
}

fn groups(report: &Report) -> String {
    let (groups, Some(by)) = (&report.compared.groups, &report.by) else { return String::new() };
    let by = words::line(&words::cut(by, 24));
    let mut table = plain_table([&by, "pairs", "A", "B", "B less A [95 % interval]", "adjusted p"], 0);
    for group in groups.iter().take(GROUPS) {
        let known = group.difference.as_ref();
        let number = |of: fn(&Difference) -> f64| known.map_or("-".to_owned(), |known| words::number(of(known)));
        let difference = known.map(|known| {
            let [low, high] = known.ci95.map(words::signed);
            format!("{} [{low}, {high}]", words::signed(known.difference))
        });
        table.add_row([
            words::line(&words::cut(&group.value, 40)),
            words::count(group.pairs as u64),
            number(|known| known.a),
            number(|known| known.b),
            difference.unwrap_or_else(|| "-".to_owned()),
            group.p_adjusted.map_or("-".to_owned(), |p| words::p_value(p).trim_start_matches("p = ").replace("p ", "")),
        ]);
    }
    let mut text: String = "\n".to_owned();
    text.extend(table.lines().map(|line| format!("{}\n", line.trim_end())));
    if groups.len() > GROUPS {
        text += &format!("and {} more (--json has them)\n", words::plural((groups.len() - GROUPS) as u64, "subgroup"));
    }
    text += &wrapped(&format!(
        "{} looked at: the p-values are corrected for that (Holm), the intervals are not, so some may miss 0 by luck.",
        match groups.len() {
            1 => "One subgroup was".to_owned(),
            many => format!("{} were", words::plural(many as u64, "subgroup")),
        }
    ));
    text
}

fn changed(report: &Report, limit: usize) -> String {
    let known = report.compared.difference.as_ref();
    let binary = known.is_some_and(|known| known.test == "mcnemar_exact") && report.direction == Direction::Maximize;
    let titles = match binary {
        true => ["Only B is right", "Only A is right"],
        false => ["B is better", "B is worse"],
    };
    let mut text = String::from("\n");
    for (title, list) in titles.into_iter().zip([&report.compared.improved, &report.compared.worsened]) {
        let one = |changed: &Changed| {
            let id = words::line(&words::cut(&changed.id, 40));
            match binary {
                true => id,
                false => format!("{id} ({} -> {})", words::number(changed.a), words::number(changed.b)),
            }
        };
        let ids: Vec<String> = list.iter().take(limit).map(one).collect();
        let more = match list.len() > limit {
            true => format!("{}and {} more", if ids.is_empty() { "" } else { ", " }, list.len() - limit),
            false => String::new(),
        };
        let shown = if list.is_empty() { "-".to_owned() } else { format!("{}{more}", ids.join(", ")) };
        text += &wrapped(&format!("{title} ({}): {shown}", list.len()));
    }
    text
}

fn ending(report: &Report) -> String {
    let mut text = String::new();
    for (name, side) in [("A", &report.a), ("B", &report.b)] {
        text += &missing(name, side);
    }
    if report.not_reached > 0 {
        let _ = writeln!(
            text,
            "{} not reached: the budget ended before, or the run was stopped.",
            words::are(report.not_reached as u64)
        );
    }
    text += &report.notes.iter().map(|note| wrapped(&format!("Note: {}", words::line(note)))).collect::<String>();
    let free = report.cache_hits;
    let _ = writeln!(text, "${} spent; {} from the store.", report.spent_usd, words::plural(free, "evaluation"));
    if let Some(gate) = &report.gate {
        text += &wrapped(&match &gate.reason {
            Some(reason) => format!("The gate failed: {reason}."),
            None => "The gate is passed.".to_owned(),
        });
    }
    text
}

fn missing(name: &str, side: &Side) -> String {
    if side.failures.is_empty() {
        return String::new();
    }
    let reasons: Vec<String> =
        side.failures.iter().map(|(reason, count)| format!("{} ({count})", reason.replace('_', " "))).collect();
    wrapped(&format!(
        "{name} is missing {}: {}.",
        words::plural(side.scored.missing as u64, "instance"),
        reasons.join(", ")
    ))
}
