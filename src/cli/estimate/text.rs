//! What `farthing estimate` says, and the line that `farthing tune` begins with.

use super::Buys;
use crate::money::Usd;
use crate::report::table::{laid_out, width, wrapped};
use crate::report::words::{self, plural};
use crate::study::estimate::{Basis, Counted, Estimate, Priced, Purchase, Span};

/// What configurations cost; at most `limit` of them.
pub fn prices(task: &str, estimate: &Estimate, limit: usize) -> String {
    let mut text = wrapped(&format!(
        "{}: {}, {}. Nothing was sent.",
        words::line(task),
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
    let rows = &grouped(&estimate.configurations);
    let all = format!("all {}", words::count(estimate.instances as u64));
    // Where there are more than fit, the cheapest and the dearest.
    let limit = limit.max(2);
    let hidden = rows.len().saturating_sub(limit);
    let (head, tail) = if hidden == 0 { (rows.len(), rows.len()) } else { (limit.div_ceil(2), rows.len() - limit / 2) };
    let shown = rows[..head].iter().chain(&rows[tail..]).collect::<Vec<_>>();
    let one = rows.len() == 1 && estimate.configurations.len() == 1;
    let varying = varying(rows, one);
    let mut lines = Vec::new();
    for (at, row) in shown.iter().enumerate() {
        if hidden > 0 && at == head {
            lines.push([
                "…".to_owned(),
                String::new(),
                String::new(),
                String::new(),
                format!("{} more", words::count(rows[head..tail].iter().map(Vec::len).sum::<usize>() as u64)),
            ]);
        }
        let (group, row) = (*row, row[0]);
        let mut about = about(row, &varying);
        if group.len() > 1 {
            about = format!("{about} ({}\u{a0}alike)", words::count(group.len() as u64)).trim_start().to_owned();
        }
        lines.push([
            format!("{}{:.0}", if row.counted == Counted::Bytes { "~" } else { "" }, row.input_tokens),
            output(row),
            short_span(&row.per_instance),
            short_span(&row.evaluation),
            about,
        ]);
    }
    let header = ["input", "output", "$/instance", &all, "configuration"];
    let lines = laid_out(width(), header, lines, 0, &["output", "input"]);
    lines.iter().flatten().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Configurations that cost the same and look alike to the bill: they differ in what has no price, like the temperature.
fn grouped(rows: &[Priced]) -> Vec<Vec<&Priced>> {
    let mut groups: Vec<Vec<&Priced>> = Vec::new();
    for row in rows {
        let priced = |other: &Priced| {
            let named = |name: &str| row.config.get(name) == other.config.get(name);
            (named("prompt") && named("model") && row.n == other.n)
                && (row.output_limit, row.per_instance, row.evaluation)
                    == (other.output_limit, other.per_instance, other.evaluation)
                && row.input_tokens == other.input_tokens
        };
        match groups.iter_mut().find(|group| priced(group[0])) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// The parameters that tell the groups apart and are the same within each; all where there is one configuration.
fn varying(groups: &[Vec<&Priced>], one: bool) -> Vec<String> {
    let mut names: Vec<String> = groups.iter().flatten().flat_map(|row| row.config.0.keys().cloned()).collect();
    names.sort_by_key(|name| (words::place(name), name.clone()));
    names.dedup();
    names.retain(|name| {
        let differs = |row: &Priced, from: &Priced| row.config.get(name) != from.config.get(name);
        let within = groups.iter().any(|group| group.iter().any(|row| differs(row, group[0])));
        one || (!within && groups.iter().any(|group| differs(group[0], groups[0][0])))
    });
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

/// What a budget buys.
pub fn bought(buys: &Buys) -> String {
    let purchase = |purchase: &Purchase| {
        let all = match (purchase.everything, purchase.in_proportion) {
            (true, _) => ", which is all that it asks for",
            (_, true) => " or more",
            _ => "",
        };
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
            "What ${} buys cannot be told: nothing bounds the completions, or all is free.",
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
    let cut = [&buys.at_least, &buys.expected].iter().any(|one| one.as_ref().is_some_and(|one| one.in_proportion));
    let far = if cut { ", as far as 1,000 evaluations and in proportion beyond" } else { "" };
    lines.push(format!("Gone through with made-up scores{far}: a real search stops at other points."));
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

/// One line for `farthing test` without a budget: the winner and, where there is one, the baseline.
pub fn test_line(estimates: &[Estimate]) -> String {
    let priced = || estimates.iter().flat_map(|estimate| &estimate.configurations).map(|one| one.evaluation);
    let all = Span {
        low: priced().map(|span| span.low).sum(),
        expected: priced().map(|span| span.expected).sum(),
        high: priced().map(|span| span.high).sum(),
    };
    let (who, cost) = if estimates.len() > 1 { ("the winner and the baseline", "cost") } else { ("it", "costs") };
    let instances = estimates.first().map_or(0, |estimate| estimate.instances);
    format!(
        "Estimate: {who} on all {} {cost} {}. No --budget is given: this test is not capped.",
        plural(instances as u64, "test instance"),
        span(&all)
    )
}
