//! What `farthing estimate` says, and the line that `farthing tune` begins with.

use super::{Buys, Report};
use crate::money::Usd;
use crate::report::table::{plain_table, wrapped};
use crate::report::words::{self, plural};
use crate::study::estimate::{Basis, Counted, Estimate, Priced, Purchase, Span};

/// The whole answer; at most `limit` configurations.
pub fn text(report: &Report, limit: usize) -> String {
    let estimate = &report.estimate;
    let mut text = wrapped(&format!(
        "{}: {}, {}. Nothing was sent.",
        words::line(&report.task),
        plural(estimate.instances as u64, "tuning instance"),
        size(estimate)
    ));
    text.push('\n');
    text += &table(estimate, limit);
    text += &counted(estimate);
    if estimate.by_batch {
        text += &wrapped("Prices: of batch APIs, as tune --batch pays them.");
    }
    if let Some(grid) = &estimate.grid
        && estimate.configurations.len() > 1
    {
        text += &wrapped(&format!(
            "All {} on all instances: {}.",
            plural(estimate.configurations.len() as u64, "configuration"),
            span(grid)
        ));
    }
    if let Some(buys) = &report.buys {
        text += &bought(buys);
    }
    text
}

fn size(estimate: &Estimate) -> String {
    let priced = estimate.configurations.len();
    match estimate.space_size {
        Some(size) if size == priced => plural(size as u64, "configuration"),
        Some(size) => {
            format!("{} of at most {} priced", plural(priced as u64, "configuration"), words::count(size as u64))
        }
        None => format!("{} of an endless space priced", plural(priced as u64, "configuration")),
    }
}

fn table(estimate: &Estimate, limit: usize) -> String {
    let rows = &estimate.configurations;
    let all = format!("all {}", words::count(estimate.instances as u64));
    let mut table = plain_table(["input", "output", "$/instance", &all, "configuration"], 0);
    // Where there are more than fit, the cheapest and the dearest.
    let limit = limit.max(2);
    let hidden = rows.len().saturating_sub(limit);
    let (head, tail) = if hidden == 0 { (rows.len(), rows.len()) } else { (limit.div_ceil(2), rows.len() - limit / 2) };
    let shown = rows[..head].iter().chain(&rows[tail..]).collect::<Vec<_>>();
    let varying = varying(rows);
    for (at, row) in shown.iter().enumerate() {
        if hidden > 0 && at == head {
            table.add_row([
                "…".to_owned(),
                String::new(),
                String::new(),
                String::new(),
                format!("{} more", words::count(hidden as u64)),
            ]);
        }
        table.add_row([
            format!("{}{:.0}", if row.counted == Counted::Bytes { "~" } else { "" }, row.input_tokens),
            output(row),
            short_span(&row.per_instance),
            short_span(&row.evaluation),
            about(row, &varying),
        ]);
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The parameters that tell the configurations apart; all where there is one.
fn varying(rows: &[Priced]) -> Vec<String> {
    let mut names: Vec<String> = rows.iter().flat_map(|row| row.config.0.keys().cloned()).collect();
    names.sort_by_key(|name| (words::place(name), name.clone()));
    names.dedup();
    names.retain(|name| rows.len() == 1 || rows.iter().any(|row| row.config.get(name) != rows[0].config.get(name)));
    names
}

fn about(row: &Priced, varying: &[String]) -> String {
    let value = |name: &String| Some(format!("{}={}", words::line(name), words::value(row.config.get(name)?, 32)));
    varying.iter().filter_map(value).collect::<Vec<_>>().join(" ")
}

/// Output tokens of a completion, and how many there are.
fn output(row: &Priced) -> String {
    let times = if row.n == 1 { String::new() } else { format!(" ×{}", row.n) };
    let most = row.output_limit.map_or("?".to_owned(), words::count);
    match row.output_tokens {
        Some(expected) => format!("~{expected:.0}, ≤{most}{times}"),
        None => format!("≤{most}{times}"),
    }
}

/// `$0.001 to $0.02` or, where the middle is known, `~$0.01, ≤$0.02`.
fn short_span(span: &Span) -> String {
    let dollars = |amount: Usd| words::dollars(amount);
    match (span.expected, span.high) {
        (Some(expected), Some(high)) if expected == high => dollars(high),
        (Some(expected), Some(high)) => format!("~{}, ≤{}", dollars(expected), dollars(high)),
        (None, Some(high)) => format!("{} to {}", dollars(span.low), dollars(high)),
        (Some(expected), None) => format!("~{}", dollars(expected)),
        (None, None) => format!("≥{}", dollars(span.low)),
    }
}

fn span(span: &Span) -> String {
    let most = |high: Usd| format!("at most {}", words::dollars(high));
    match (span.expected, span.high) {
        (Some(expected), Some(high)) if expected == high => words::dollars(high),
        (Some(expected), Some(high)) => format!("about {}, {}", words::dollars(expected), most(high)),
        (None, Some(high)) => format!("{} to {}", words::dollars(span.low), words::dollars(high)),
        (Some(expected), None) => format!("about {}, without a bound", words::dollars(expected)),
        (None, None) => format!("at least {}, without a bound: set max_tokens", words::dollars(span.low)),
    }
}

/// How input was counted, and where the length of completions comes from.
fn counted(estimate: &Estimate) -> String {
    let rows = &estimate.configurations;
    let how = match rows.iter().map(|row| row.counted).max() {
        Some(Counted::Billed) => "as billed before",
        Some(Counted::Tokenizer) => "counted by the model's tokenizer",
        _ => "a quarter of the bytes where no tokenizer is known (~; [models.NAME] tokenizer = FILE gives one)",
    };
    let sample = match estimate.sampled_instances == estimate.instances {
        true => "all instances".to_owned(),
        false => format!("a sample of {}", plural(estimate.sampled_instances as u64, "instance")),
    };
    let mut text = wrapped(&format!("Input tokens: {how}, on {sample}."));
    let based = rows.iter().filter(|row| row.basis != Basis::Limit).count();
    text += &wrapped(&match based {
        0 => "Output tokens: at most max_tokens or the model's limit; no earlier answer tells how many are used."
            .to_owned(),
        _ => format!(
            "Output tokens: ~ as in earlier answers ({}), at most max_tokens or the model's limit.",
            basis(rows)
        ),
    });
    let unanswerable: usize = rows.iter().map(|row| row.unanswerable).sum();
    if unanswerable > 0 {
        text += &wrapped(&format!(
            "{} of the sample cannot be answered (no recorded answer, or a prompt that cannot be rendered) and cost nothing.",
            plural(unanswerable as u64, "request")
        ));
    }
    text
}

fn basis(rows: &[Priced]) -> String {
    let of = |basis: Basis| rows.iter().filter(|row| row.basis == basis).count();
    let parts = [
        (of(Basis::Own), "to their own requests"),
        (of(Basis::SamePrompt), "to the same prompt under other settings"),
        (of(Basis::SameModel), "of the same model to other prompts"),
        (of(Basis::Limit), "none"),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}")).collect();
    parts.join(", ")
}

fn bought(buys: &Buys) -> String {
    let purchase = |purchase: &Purchase| {
        let all = if purchase.everything { ", which is all that it asks for" } else { "" };
        format!(
            "{} of {}{all}, for {}",
            plural(purchase.evaluations as u64, "evaluation"),
            plural(purchase.configurations as u64, "configuration"),
            words::dollars(purchase.cost)
        )
    };
    let mut lines = Vec::new();
    match (&buys.at_least, &buys.expected) {
        (None, None) => lines.push(format!(
            "What ${} buys cannot be told: nothing bounds the completions, or it is more than can be gone through.",
            buys.budget_usd
        )),
        (Some(least), None) => {
            lines.push(format!("${} with `{}` buys at least {}.", buys.budget_usd, buys.strategy, purchase(least)))
        }
        (least, Some(expected)) => {
            lines.push(format!("${} with `{}` buys about {}.", buys.budget_usd, buys.strategy, purchase(expected)));
            if let Some(least) = least.as_ref().filter(|least| *least != expected) {
                lines.push(format!("Were every completion as long as it may be: {}.", purchase(least)));
            }
        }
    }
    lines.push("Gone through with made-up scores: a real search stops at other points.".to_owned());
    lines.iter().map(|line| wrapped(line)).collect()
}

/// One line for `farthing tune`.
pub fn line(estimate: &Estimate, budget: Usd) -> String {
    let evaluations = || estimate.configurations.iter().map(|one| &one.evaluation);
    let low = evaluations().map(|span| span.expected.unwrap_or(span.low)).min().unwrap_or_default();
    let high = evaluations().map(|span| span.expected.or(span.high)).max().flatten();
    let about = if evaluations().all(|span| span.expected.is_some()) { "about " } else { "" };
    let one = match high {
        Some(high) if high != low => format!("{about}{} to {}", words::dollars(low), words::dollars(high)),
        Some(high) => format!("{about}{}", words::dollars(high)),
        None => format!("{} and more", words::dollars(low)),
    };
    let all = match &estimate.grid {
        Some(grid) => {
            format!("; all {}: {}", plural(estimate.configurations.len() as u64, "configuration"), span(grid))
        }
        None => String::new(),
    };
    let how = if estimate.by_batch { " by batch" } else { "" };
    format!(
        "Estimate: one configuration on all {} costs {one}{how}{all}; the budget is ${budget}.",
        plural(estimate.instances as u64, "instance")
    )
}
