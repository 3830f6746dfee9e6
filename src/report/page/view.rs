//! The texts of a run's page, in the order of its markup.

use serde_json::{Value, json};

use crate::money::Usd;
use crate::report::matters::Matters;
use crate::report::page::copy;
use crate::report::rows::RankingRow;
use crate::report::run::Run;
use crate::report::words;
use crate::study::{Scored, Standing, Summary};
use crate::task::Direction;

/// Longest value of a parameter in the ranking, and anywhere else.
const SHORT: usize = 60;
const LONG: usize = 2_000;

/// Longest of the winner's prompts.
const TEXT: usize = 20_000;

/// Everything that the markup shows, as texts, with at most so many rows of the ranking.
pub fn view(run: &Run, matters: Option<&Matters>, most: usize) -> Value {
    let (summary, rows) = (&run.summary, &run.rows);
    let asked = || rows.iter().filter(|row| row.asked());
    let (count, shown) = (asked().count(), asked().take(most).collect::<Vec<&RankingRow>>());
    let varying = words::varying(&shown);
    let track = Track::of(&shown);
    let same: Vec<Value> = match shown.len() {
        0 | 1 => Vec::new(),
        _ => shown[0]
            .configuration
            .iter()
            .enumerate()
            .filter(|(at, _)| !varying.contains(at))
            .filter_map(|(_, (name, value))| {
                Some(json!([words::cut(name, SHORT), words::value(value.as_ref()?, SHORT)]))
            })
            .collect(),
    };
    let form = |form: copy::Form| json!({"name": form.name, "about": form.about, "text": form.text});
    json!({
        "task": words::cut(&summary.task, 200),
        "run": words::cut(&run.name(), 200),
        "metric": words::cut(&summary.metric, SHORT),
        "made_up": words::made_up(summary),
        "less": summary.direction == Direction::Minimize,
        "running": !run.ended,
        "answer": answer(run),
        "best": summary.best.as_ref().map(best),
        "holdout": summary.held_out().map(|holdout| json!({
            "score": words::scored(holdout.score, None),
            "interval": interval(holdout.ci95, holdout.instances),
        })),
        "inference_budget": summary.inference_budget_usd.map(|budget| format!("${budget}")),
        "sentences": sentences(run),
        "versus": versus(summary),
        // The banner says that the models are made up.
        "notes": summary.notes.iter().filter(|note| !words::says_made_up(note)).map(|note| words::cut(note, LONG)).collect::<Vec<_>>(),
        "intervals_left_out": crate::report::plots::pareto::leaves_out_intervals(rows),
        "rows": shown.iter().map(|row| table_row(row, &varying, &track)).collect::<Vec<_>>(),
        "same": same,
        "baseline_line": rows.iter().any(|row| row.baseline && row.posterior_mean.is_some()),
        "more": (count > most).then(|| words::count((count - most) as u64)),
        "never_asked": (rows.len() > count).then(|| words::plural((rows.len() - count) as u64, "more configuration")),
        "matters": matters.map(self::matters),
        "money": money(summary),
        "failures": failures(run),
        "forms": copy::forms(run).into_iter().map(form).collect::<Vec<_>>(),
        "prompt": prompt(run),
        "settings": settings(run),
        "method": method(run),
        "gaps": run.gaps,
        // Said when it is known.
        "left_out": null,
        "evaluations": !run.evaluations.is_empty(),
    })
}

/// The answer in a sentence: by instances that did not choose it, where there are any.
fn answer(run: &Run) -> String {
    let held_out = run.summary.best.as_ref().and(run.summary.held_out()).filter(|_| run.ended);
    if let Some((holdout, score)) = held_out.and_then(|holdout| Some((holdout, holdout.score?))) {
        let price =
            holdout.production_cost_usd_per_instance.map(|cost| format!(", at {} an instance", words::dollars(cost)));
        return format!(
            "The best of {} has {} {} on {}{}.",
            words::plural(run.summary.chosen_among(), "configuration"),
            words::line(&words::cut(&run.summary.metric, 60)),
            words::scored(Some(score), holdout.ci95),
            words::plural(holdout.instances as u64, "held-out instance"),
            price.unwrap_or_default()
        );
    }
    if run.ended {
        return words::answer(&run.summary);
    }
    match &run.summary.best {
        None => "The run goes on: no configuration can be best yet.".to_owned(),
        Some(_) => words::answer(&run.summary).replacen("The best of", "The run goes on. So far the best of", 1),
    }
}

fn sentences(run: &Run) -> Vec<String> {
    let summary = &run.summary;
    let mut sentences: Vec<String> = Vec::new();
    if let Some(holdout) = &summary.holdout {
        sentences.push(words::held_out(holdout, &summary.metric));
        sentences.extend(words::tested_against_baseline(holdout, summary.direction));
    } else {
        sentences.extend(words::baseline(summary));
    }
    if summary.best.is_some() && summary.held_out().is_none() {
        sentences.push("The instances that chose it flatter it: farthing test scores it on held-out ones.".to_owned());
    }
    if run.ended {
        sentences.extend(words::claims(summary));
        sentences.extend(words::cheaper(summary));
        sentences.push(words::stopped(summary));
    }
    sentences
}

/// Winner against baseline as a table: on tuning and on held-out instances.
fn versus(summary: &Summary) -> Value {
    let (Some(best), Some(baseline)) = (&summary.best, &summary.baseline) else { return Value::Null };
    if best.id == baseline.id {
        return Value::Null;
    }
    let row = |name: &str, of: &Scored| {
        json!([
            name,
            words::scored(of.score, of.ci95),
            words::count(of.instances as u64),
            of.production_cost_usd_per_instance.map_or("-".to_owned(), words::dollars),
        ])
    };
    let mut lines = Vec::new();
    let held_out = summary.held_out().and_then(|holdout| holdout.versus_baseline.as_ref());
    if let Some(against) = summary.claims.versus_baseline.as_ref().filter(|_| held_out.is_none()) {
        let [low, high] = against.confidence_sequence;
        lines.push(json!([
            "tuning",
            format!("{} [{}, {}]", words::signed(against.difference), words::number(low), words::number(high)),
            words::count(against.pairs as u64),
            match against.claim.as_str() {
                "better" => "shown to be better",
                "worse" => "shown to be worse",
                _ => "not shown",
            },
        ]));
    }
    if let Some(versus) = held_out {
        let [low, high] = versus.ci95;
        lines.push(json!([
            "held out",
            format!("{} [{}, {}]", words::signed(versus.difference), words::number(low), words::number(high)),
            words::count(versus.pairs as u64),
            words::p_value(versus.p_value),
        ]));
    }
    let ratio = match (best.production_cost_usd_per_instance, baseline.production_cost_usd_per_instance) {
        (Some(best), Some(base)) if base > Usd::ZERO => {
            let share = best.as_f64() / base.as_f64();
            Some(match share {
                _ if share < 0.995 => format!("The best costs {:.0} % of the baseline an instance.", 100.0 * share),
                _ if share > 1.005 => format!("The best costs {share:.2} times the baseline an instance."),
                _ => "Both cost the same an instance.".to_owned(),
            })
        }
        _ => None,
    };
    json!({"rows": [row("best", best), row("baseline", baseline)], "lines": lines, "ratio": ratio})
}

fn best(best: &Scored) -> Value {
    let mut config: Vec<(&String, &Value)> = best.config.0.iter().collect();
    config.sort_by_key(|(name, _)| words::place(name));
    let pair = |(name, value): &(&String, &Value)| json!([words::cut(name, SHORT), words::value(value, LONG)]);
    json!({
        "score": words::scored(best.score, None),
        "interval": interval(best.ci95, best.instances),
        "price": best.production_cost_usd_per_instance.map_or("-".to_owned(), words::dollars),
        "config": config.iter().map(pair).collect::<Vec<_>>(),
    })
}

fn interval(ci95: Option<[f64; 2]>, instances: usize) -> String {
    let on = words::plural(instances as u64, "instance");
    match ci95 {
        Some([low, high]) => format!("{} to {} on {on}", words::number(low), words::number(high)),
        None => format!("on {on}"),
    }
}

/// The common scale of the little intervals in the table.
struct Track {
    low: f64,
    high: f64,
}

impl Track {
    fn of(rows: &[&RankingRow]) -> Track {
        let values = rows
            .iter()
            .flat_map(|row| [row.score, row.ci_low, row.ci_high])
            .flatten()
            .filter(|value| value.is_finite());
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        Track { low, high }
    }

    /// Where a value stands, in percent with one decimal.
    fn percent(&self, value: f64) -> f64 {
        let span = self.high / 2.0 - self.low / 2.0;
        let at = if span > 0.0 { (value / 2.0 - self.low / 2.0) / span } else { 0.5 };
        if at.is_finite() { (at.clamp(0.0, 1.0) * 1000.0).round() / 10.0 } else { 50.0 }
    }

    fn view(&self, row: &RankingRow) -> Option<Value> {
        let at = self.percent(row.score?);
        let (left, right) = row.ci95().map_or((at, at), |[low, high]| (self.percent(low), self.percent(high)));
        let width = ((right - left).max(0.0) * 10.0).round() / 10.0;
        Some(json!({"at": at, "left": left, "width": width, "bar": row.ci_low.is_some()}))
    }
}

/// A number to sort by: the fewest digits that tell it.
fn sorted(value: Option<f64>) -> Value {
    value.filter(|value| value.is_finite()).map_or(Value::from(""), |value| Value::from(format!("{value}")))
}

fn table_row(row: &RankingRow, varying: &[usize], track: &Track) -> Value {
    let eligible = row.standing == Standing::Eligible;
    let winner = eligible && row.rank == 1;
    let class = match (winner, eligible, row.baseline) {
        (true, ..) => "winner",
        (_, false, _) => "barred",
        (_, _, true) => "baseline",
        _ => "",
    };
    let missing =
        if row.missing > 0 { format!(" + {} missing", words::count(row.missing as u64)) } else { String::new() };
    let reason = (!eligible).then(|| match &row.reason {
        Some(reason) => words::cut(reason, LONG),
        None => words::standing(row.standing).to_owned(),
    });
    json!({
        "class": class,
        "trial": row.trial,
        "id": words::cut(&row.id, 40),
        "rank": row.rank,
        "place": if eligible { row.rank.to_string() } else { "–".to_owned() },
        "score": words::scored(row.score, row.ci95()),
        "score_v": sorted(row.score),
        "track": track.view(row),
        "instances": format!("{}{missing}", words::count(row.instances as u64)),
        "instances_v": row.instances,
        "price": row.production_cost_usd_per_instance.map_or("-".to_owned(), words::dollars),
        "price_v": sorted(row.production_cost_usd_per_instance.map(Usd::as_f64)),
        "cost": words::dollars(row.study_cost_usd),
        "cost_v": sorted(Some(row.study_cost_usd.as_f64())),
        "p_best": row.p_best.map_or("–".to_owned(), words::probability),
        "p_best_v": sorted(row.p_best),
        "standing": row.standing.word(),
        "pareto": row.pareto,
        "best": winner,
        "baseline": row.baseline,
        "config": row.settings(varying, SHORT),
        "reason": reason,
    })
}

fn matters(matters: &Matters) -> Value {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let parameter = |of: &crate::report::matters::Matter| {
        let spread = of.curve.iter().flat_map(|at| at.ci95);
        let (low, high) = spread.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        let track = Track { low, high };
        let at = |at: &crate::report::matters::At| {
            let (left, right) = (track.percent(at.ci95[0]), track.percent(at.ci95[1]));
            json!({
                "label": words::cut(&at.label, SHORT),
                "score": words::scored(Some(at.score), Some(at.ci95)),
                "count": words::count(at.count as u64),
                "track": {"at": track.percent(at.score), "left": left, "width": ((right - left).max(0.0) * 10.0).round() / 10.0, "bar": true},
            })
        };
        json!({
            "name": words::cut(&of.name, SHORT),
            "share": percent(of.share),
            "interval": format!("{} to {}", percent(of.ci95[0]), percent(of.ci95[1])),
            "curve": of.curve.iter().map(at).collect::<Vec<_>>(),
        })
    };
    json!({
        "verdict": matters.verdict(),
        "together": percent(matters.interactions),
        "parameters": matters.parameters.iter().take(20).map(parameter).collect::<Vec<_>>(),
    })
}

fn money(summary: &Summary) -> Value {
    let amount = |usd: Usd| format!("${usd}");
    let mut pairs = vec![
        ("budget", summary.budget_usd.map_or("none".to_owned(), amount)),
        ("spent", amount(summary.spent_usd)),
        ("study cost", amount(summary.study_cost_usd)),
        ("of it, search", amount(summary.search_cost_usd)),
    ];
    let later = summary.later_test();
    if later.is_none() || summary.test_within() > Usd::ZERO {
        pairs.push(("of it, held-out test", amount(summary.test_within())));
    }
    pairs.extend(later.map(|cost| ("later test, outside the budget", amount(cost))));
    if summary.lost_usd > Usd::ZERO {
        pairs.insert(2, ("of it, requests that were lost (worst case)", amount(summary.lost_usd)));
    }
    let meter = summary.budget_usd.filter(|budget| *budget > Usd::ZERO).map(|budget| {
        let share = |part: Usd| ((part.as_f64() / budget.as_f64()).clamp(0.0, 1.0) * 1000.0).round() / 10.0;
        let search = share(summary.search_cost_usd);
        json!({"search": search, "holdout": share(summary.test_within()).min(100.0 - search)})
    });
    json!({
        "spent": words::dollars(summary.spent_usd),
        "of": summary.budget_usd.map_or("without a cap".to_owned(), |budget| format!("of ${budget}")),
        "sentence": words::spent(summary),
        "pairs": pairs,
        "meter": meter,
    })
}

/// Failures by class: how many, of how many configurations, the words that came most, and where to look.
fn failures(run: &Run) -> Value {
    struct Group {
        kind: crate::provider::FailureKind,
        evaluations: usize,
        trials: std::collections::BTreeSet<u32>,
        messages: std::collections::BTreeMap<u32, usize>,
        places: Vec<(u32, u32)>,
    }
    let mut groups: Vec<Group> = Vec::new();
    for done in &run.evaluations {
        let Some(failure) = done.failure else { continue };
        let kind = run.failures[failure as usize].kind;
        let at = groups.iter().position(|group| group.kind == kind).unwrap_or_else(|| {
            groups.push(Group {
                kind,
                evaluations: 0,
                trials: Default::default(),
                messages: Default::default(),
                places: Vec::new(),
            });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.evaluations += 1;
        group.trials.insert(done.trial);
        *group.messages.entry(failure).or_default() += 1;
        if group.places.len() < 5 {
            group.places.push((done.trial, done.instance));
        }
    }
    groups.sort_by(|a, b| b.evaluations.cmp(&a.evaluations).then(a.kind.cmp(&b.kind)));
    let group = |group: &Group| {
        let mut messages: Vec<(&u32, &usize)> = group.messages.iter().collect();
        messages.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let message = |(at, count): &(&u32, &usize)| {
            json!([words::cut(&run.failures[**at as usize].message, LONG), words::count(**count as u64)])
        };
        let place = |(trial, instance): &(u32, u32)| {
            json!({
                "trial": trial, "instance": instance,
                "name": words::cut(run.instances.get(*instance as usize).map_or("", String::as_str), 40),
                "id": run.trials.get(*trial as usize).map(crate::space::Configuration::short_id),
            })
        };
        json!({
            "kind": group.kind.to_string(),
            "own": group.kind.own(),
            "evaluations": words::count(group.evaluations as u64),
            "configurations": words::count(group.trials.len() as u64),
            "messages": messages.iter().take(5).map(message).collect::<Vec<_>>(),
            "more": messages.len().saturating_sub(5),
            "places": group.places.iter().map(place).collect::<Vec<_>>(),
        })
    };
    Value::Array(groups.iter().map(group).collect())
}

/// The winner's prompt as it was written.
fn prompt(run: &Run) -> Value {
    let Some(request) = run.served.as_ref().map(|served| &served.request) else { return Value::Array(Vec::new()) };
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match (request.get("messages").and_then(Value::as_array), request.get("prompt").and_then(Value::as_str)) {
        (Some(messages), _) => messages
            .iter()
            .map(|message| {
                json!([words::cut(&text(message, "role"), SHORT), words::cut(&text(message, "content"), TEXT)])
            })
            .collect(),
        (None, Some(prompt)) => json!([["prompt", words::cut(prompt, TEXT)]]),
        (None, None) => Value::Array(Vec::new()),
    }
}

fn settings(run: &Run) -> Vec<Value> {
    let (summary, file) = (&run.summary, &run.file);
    let direction = match summary.direction {
        Direction::Maximize => "more is better",
        Direction::Minimize => "less is better",
    };
    let optional = |budget: Option<Usd>| budget.map_or("none".to_owned(), |budget| format!("${budget}"));
    let mut pairs = vec![
        ("task", words::cut(&summary.task, 200)),
        ("objective", format!("{} ({direction})", words::cut(&summary.metric, SHORT))),
        ("strategy", words::cut(&summary.strategy, SHORT)),
        ("seed", summary.seed.to_string()),
        ("budget", optional(summary.budget_usd)),
        ("inference budget, an instance", optional(summary.inference_budget_usd)),
        ("test share", file.settings.test_share.to_string()),
        (
            "most configurations",
            file.settings.max_trials.map_or("no limit".to_owned(), |most| words::count(most as u64)),
        ),
        ("tuning instances", words::count(summary.tuning_instances as u64)),
        ("configurations judged", words::count(summary.chosen_among())),
        ("configurations drawn", words::count(summary.trials as u64)),
        ("evaluations", words::count(summary.evaluations)),
        ("of them from the store", words::count(summary.cache_hits)),
        ("of them failed", words::count(summary.failed_evaluations)),
        ("did not fit the budget", words::count(summary.refused_evaluations)),
        ("requests sent", words::count(summary.requests)),
        ("begun with farthing", words::cut(&file.farthing, SHORT)),
        ("look-ahead", words::count(file.look_ahead as u64)),
        ("hash of the task", file.hashes.task.clone()),
        ("hash of the space", file.hashes.space.clone()),
        ("hash of models, prices and recorded answers", file.hashes.endpoints.clone()),
    ];
    if let Some(margin) = file.settings.margin {
        pairs.push(("margin", margin.to_string()));
    }
    pairs.into_iter().map(|pair| json!(pair)).collect()
}

/// How it was done, in words.
fn method(run: &Run) -> Vec<String> {
    let summary = &run.summary;
    let mut texts = vec![
        format!(
            "The strategy {} chose what to try next, with the seed {}. The same seed over the same data gives the same answer, at any number of requests in flight.",
            words::cut(&summary.strategy, SHORT), summary.seed
        ),
        "All configurations look at the instances in the same order, so any two are compared on the same ones.".to_owned(),
        "The score is the mean over the instances that a configuration was judged on. Its interval holds the true mean 95 times in 100: Wilson's score interval where every value is 0 or 1, else Student's t interval.".to_owned(),
        "The ranking goes by the score that is expected over the tuning instances and as many further ones, in a model in which configurations with settings in common are related, instances differ in difficulty, and several n share their samples: one that saw harder instances than others is not at a loss, and luck counts for little. That is why the order may differ from that of the scores.".to_owned(),
        "The price of an instance in production counts every response as if none were cached: the prompt once, and each completion. It is the mean over the instances that were answered.".to_owned(),
        "The best so far over time: at 200 times of the search, who would have been chosen then by the mean so far, drawn to the mean of all by ten instances' worth. It is shown with the score that is known of it in the end; pale points show what it seemed to score then.".to_owned(),
        "What matters is a functional analysis of variance (Hutter, Hoos and Leyton-Brown 2014) on regression trees: the share of the differences between configurations that each parameter explains alone, averaged over all values of the others. Its intervals come from 60 draws of the configurations, each score moved by as much as it is not known.".to_owned(),
    ];
    if summary.inference_budget_usd.is_some() {
        texts.push("Only a configuration whose expected price over all tuning instances is within the inference budget can be best.".to_owned());
    }
    if !summary.claims.may_be_best.is_empty() {
        texts.push("P(best) is the probability that a configuration is the best of those tried, on further instances like these: the share of draws from that model in which it leads. Those that may still be best together hold the best one with 95 %.".to_owned());
    }
    if summary.claims.method.as_deref() == Some("bootstrap_oob") {
        texts.push("The best of many looks better than it is. The corrected score draws the tuning instances anew 500 times: those drawn choose a configuration, by a simpler model in which a configuration and an instance each add their part; those left out score it.".to_owned());
    }
    if summary.claims.versus_baseline.is_some() {
        texts.push("The winner and the baseline are compared on the tuning instances by betting on their difference (Waudby-Smith & Ramdas 2024): evidence of 20 is what is claimed at, whenever one looks, and for all configurations that could have won.".to_owned());
    }
    if summary.held_out().is_some() {
        texts.push("The held-out instances were not looked at before the best configuration was chosen. It and the baseline answered the same of them, and their difference is tested in pairs.".to_owned());
    }
    texts.push("A failed evaluation is missing: it is never counted as a score of 0. Times of single requests are not kept, since nothing is decided by them.".to_owned());
    texts
}
