//! `report.html`: one page that needs nothing from outside, runs no script, and escapes everything.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value as View};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::prompt::Body;
use crate::provider::{FailureKind, Input};
use crate::report::plots::{self, Frame};
use crate::report::rows::RankingRow;
use crate::report::words;
use crate::study::{Outcome, Scored, Standing, Summary};
use crate::task::Direction;

/// Rows of the ranking that the page shows.
const ROWS: usize = 1000;

/// Longest value of a parameter in the ranking, and anywhere else.
const SHORT: usize = 60;
const LONG: usize = 2_000;

/// Longest prompt or response.
const TEXT: usize = 20_000;

/// What the page shows beside the summary and the ranking. All of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Examples {
    /// The winner's prompt as it was written: (role, template).
    pub prompt: Vec<(String, String)>,
    /// Evaluations of the winner.
    pub examples: Vec<Example>,
    /// What failed, by why.
    pub failures: Vec<FailureGroup>,
    /// More settings: (name, value), like the files that were read.
    pub settings: Vec<(String, String)>,
}

/// One evaluation of the winner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The instance's id.
    pub instance: String,
    /// The objective.
    pub score: Option<f64>,
    /// Why there is none.
    pub failure: Option<String>,
    /// What was sent: (role, text).
    pub messages: Vec<(String, String)>,
    /// What came back; may be left out.
    pub responses: Vec<String>,
}

/// Failures of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureGroup {
    /// The class, in words.
    pub kind: String,
    /// How many evaluations.
    pub evaluations: usize,
    /// Of how many configurations.
    pub configurations: usize,
    /// The words of the first.
    pub message: String,
}

impl Examples {
    /// The winner's prompt, its first `count` evaluations with the lowest gain, and what failed.
    pub fn of(outcome: &Outcome, count: usize) -> Examples {
        let mut all = Examples { failures: failures(outcome), ..Examples::default() };
        let Some(best) = outcome.best() else { return all };
        all.prompt = match &best.plan.prompt.body {
            Body::Messages(messages) => {
                messages.iter().map(|(role, template)| (role.clone(), template.text().to_owned())).collect()
            }
            Body::Template(template) => vec![("user".to_owned(), template.text().to_owned())],
            Body::Text(template) => vec![("prompt".to_owned(), template.text().to_owned())],
        };
        let objective = &outcome.workload.task.objective;
        let gain = |score: &Option<f64>| score.map_or(f64::MIN, |score| objective.direction.gain(score));
        let score = |done: &crate::study::pipeline::Finished| {
            done.result.as_ref().ok().and_then(|all| all.get(&objective.metric)).copied()
        };
        let mut evaluations: Vec<_> = best.evaluations.iter().map(|done| (score(done), done)).collect();
        evaluations.sort_by(|a, b| gain(&a.0).total_cmp(&gain(&b.0)));
        all.examples = evaluations
            .into_iter()
            .take(count)
            .map(|(score, done)| {
                let instance = &outcome.workload.task.tune[done.instance];
                let messages = match best.plan.request(instance).map(|request| request.input) {
                    Ok(Input::Messages(messages)) => {
                        messages.into_iter().map(|message| (message.role, message.content)).collect()
                    }
                    Ok(Input::Text(text)) => vec![("prompt".to_owned(), text)],
                    Err(_) => Vec::new(),
                };
                let failure = done.result.as_ref().err().map(|failure| failure.message.clone());
                Example { instance: instance.id.clone(), score, failure, messages, responses: Vec::new() }
            })
            .collect();
        all
    }
}

/// The failures of a study by class, the most frequent first.
pub fn failures(outcome: &Outcome) -> Vec<FailureGroup> {
    let mut groups: Vec<(FailureKind, FailureGroup, usize)> = Vec::new();
    for trial in &outcome.trials {
        for failure in trial.evaluations.iter().filter_map(|done| done.result.as_ref().err()) {
            let at = groups.iter().position(|(kind, ..)| *kind == failure.kind).unwrap_or_else(|| {
                let (kind, message) = (failure.kind.to_string(), failure.message.clone());
                groups.push((
                    failure.kind,
                    FailureGroup { kind, evaluations: 0, configurations: 0, message },
                    usize::MAX,
                ));
                groups.len() - 1
            });
            let (_, group, last) = &mut groups[at];
            group.evaluations += 1;
            group.configurations += usize::from(*last != trial.number);
            *last = trial.number;
        }
    }
    groups.sort_by(|a, b| b.1.evaluations.cmp(&a.1.evaluations).then(a.0.cmp(&b.0)));
    groups.into_iter().map(|(_, group, _)| group).collect()
}

/// The page.
pub fn page(summary: &Summary, rows: &[RankingRow], examples: &Examples) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    let broken = |error: minijinja::Error| Error::internal(format!("the report's template: {error:#}"));
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).build().map_err(broken)?);
    environment.add_template("page", include_str!("page.html")).map_err(broken)?;
    let mut view = view(summary, rows, examples);
    cleaned(&mut view);
    let plot = |size| {
        let frame = Frame {
            metric: &summary.metric,
            direction: summary.direction,
            inference_budget: summary.inference_budget_usd,
            size,
        };
        // Plots escape their texts themselves.
        plots::score_against_cost(rows, frame).map(View::from_safe_string)
    };
    let view = minijinja::context! { plot => plot((960, 420)), plot_narrow => plot((380, 380)), ..Serde(&view) };
    environment.get_template("page").and_then(|template| template.render(view)).map_err(broken)
}

/// Replaces every unsafe character of every text.
fn cleaned(value: &mut Value) {
    match value {
        Value::String(text) if text.chars().any(words::is_unsafe) => *text = words::clean(text),
        Value::Array(items) => items.iter_mut().for_each(cleaned),
        Value::Object(fields) => fields.values_mut().for_each(cleaned),
        _ => {}
    }
}

/// Everything that the template shows, as texts.
fn view(summary: &Summary, rows: &[RankingRow], examples: &Examples) -> Value {
    let shown: Vec<&RankingRow> = rows.iter().take(ROWS).collect();
    let varying = words::varying(&shown);
    let track = Track::of(&shown);
    let metric = words::cut(&summary.metric, SHORT);
    let mut sentences: Vec<String> = Vec::new();
    if let Some(holdout) = &summary.holdout {
        sentences.push(words::held_out(holdout, &summary.metric));
        sentences.extend(holdout.versus_baseline.as_ref().map(|versus| words::versus(versus, summary.direction)));
    } else {
        sentences.extend(words::baseline(summary));
        if summary.best.is_some() {
            sentences
                .push("The instances that chose it flatter it: farthing test scores it on held-out ones.".to_owned());
        }
    }
    sentences.extend(words::claims(summary));
    sentences.push(words::stopped(summary));
    let messages = |messages: &[(String, String)]| -> Vec<Value> {
        messages.iter().map(|(role, text)| json!([words::cut(role, SHORT), words::cut(text, TEXT)])).collect()
    };
    let example = |example: &Example| {
        json!({
            "instance": words::cut(&example.instance, SHORT),
            "score": example.score.map(words::number),
            "failure": example.failure.as_ref().map(|text| words::cut(text, LONG)),
            "messages": messages(&example.messages),
            "responses": example.responses.iter().map(|text| words::cut(text, TEXT)).collect::<Vec<_>>(),
        })
    };
    let failure = |group: &FailureGroup| {
        json!({
            "kind": words::cut(&group.kind, SHORT),
            "evaluations": words::count(group.evaluations as u64),
            "configurations": words::count(group.configurations as u64),
            "message": words::cut(&group.message, LONG),
        })
    };
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
    json!({
        "task": words::cut(&summary.task, 200),
        "metric": metric,
        "made_up": words::made_up(summary),
        "answer": words::answer(summary),
        "best": summary.best.as_ref().map(best),
        "holdout": summary.holdout.as_ref().map(|holdout| json!({
            "score": words::scored(holdout.score, None),
            "interval": interval(holdout.ci95, holdout.instances),
        })),
        "inference_budget": summary.inference_budget_usd.map(|budget| format!("${budget}")),
        "sentences": sentences,
        // The banner says that the models are made up.
        "notes": summary.notes.iter().filter(|note| !words::says_made_up(note)).map(|note| words::cut(note, LONG)).collect::<Vec<_>>(),
        "intervals_left_out": plots::leaves_out_intervals(rows),
        "rows": shown.iter().map(|row| table_row(row, &varying, &track)).collect::<Vec<_>>(),
        "same": same,
        "more": (rows.len() > ROWS).then(|| words::count((rows.len() - ROWS) as u64)),
        "prompt": messages(&examples.prompt),
        "examples": examples.examples.iter().map(example).collect::<Vec<_>>(),
        "money": money(summary),
        "failures": examples.failures.iter().map(failure).collect::<Vec<_>>(),
        "settings": settings(summary, examples),
        "method": method(summary),
        "version": env!("CARGO_PKG_VERSION"),
    })
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

fn table_row(row: &RankingRow, varying: &[usize], track: &Track) -> Value {
    let eligible = row.standing == Standing::Eligible;
    let winner = eligible && row.rank == 1;
    let class = match (winner, eligible, row.baseline) {
        (true, ..) => "winner",
        (_, false, _) => "barred",
        (_, _, true) => "baseline",
        _ => "",
    };
    let pair = |&at: &usize| {
        let (name, value) = row.configuration.get(at)?;
        Some(json!([words::cut(name, SHORT), words::value(value.as_ref()?, SHORT)]))
    };
    let missing =
        if row.missing > 0 { format!(" + {} missing", words::count(row.missing as u64)) } else { String::new() };
    let reason = (!eligible).then(|| match &row.reason {
        Some(reason) => words::cut(reason, LONG),
        None => words::standing(row.standing).to_owned(),
    });
    json!({
        "class": class,
        "rank": if eligible { row.rank.to_string() } else { "–".to_owned() },
        "score": words::scored(row.score, row.ci95()),
        "track": track.view(row),
        "instances": format!("{}{missing}", words::count(row.instances as u64)),
        "price": row.production_cost_usd_per_instance.map_or("-".to_owned(), words::dollars),
        "cost": words::dollars(row.study_cost_usd),
        "p_best": row.p_best.map_or("–".to_owned(), words::probability),
        "pareto": row.pareto,
        "best": winner,
        "baseline": row.baseline,
        "config": varying.iter().filter_map(pair).collect::<Vec<_>>(),
        "reason": reason,
    })
}

fn money(summary: &Summary) -> Value {
    let amount = |usd: Usd| format!("${usd}");
    let mut pairs = vec![
        ("budget", summary.budget_usd.map_or("none".to_owned(), amount)),
        ("spent", amount(summary.spent_usd)),
        ("study cost", amount(summary.study_cost_usd)),
        ("of it, search", amount(summary.search_cost_usd)),
        ("of it, held-out test", amount(summary.holdout_cost_usd)),
    ];
    if summary.lost_usd > Usd::ZERO {
        pairs.insert(2, ("of it, requests that were lost (worst case)", amount(summary.lost_usd)));
    }
    let meter = summary.budget_usd.filter(|budget| *budget > Usd::ZERO).map(|budget| {
        let share = |part: Usd| ((part.as_f64() / budget.as_f64()).clamp(0.0, 1.0) * 1000.0).round() / 10.0;
        let search = share(summary.search_cost_usd);
        json!({"search": search, "holdout": share(summary.holdout_cost_usd).min(100.0 - search)})
    });
    json!({
        "spent": words::dollars(summary.spent_usd),
        "of": summary.budget_usd.map_or("without a cap".to_owned(), |budget| format!("of ${budget}")),
        "sentence": words::spent(summary),
        "pairs": pairs,
        "meter": meter,
    })
}

fn settings(summary: &Summary, examples: &Examples) -> Vec<Value> {
    let direction = match summary.direction {
        Direction::Maximize => "more is better",
        Direction::Minimize => "less is better",
    };
    let optional = |budget: Option<Usd>| budget.map_or("none".to_owned(), |budget| format!("${budget}"));
    let own = [
        ("task", words::cut(&summary.task, 200)),
        ("objective", format!("{} ({direction})", words::cut(&summary.metric, SHORT))),
        ("strategy", words::cut(&summary.strategy, SHORT)),
        ("seed", summary.seed.to_string()),
        ("budget", optional(summary.budget_usd)),
        ("inference budget, an instance", optional(summary.inference_budget_usd)),
        ("tuning instances", words::count(summary.tuning_instances as u64)),
        ("configurations tried", words::count(summary.trials as u64)),
        ("evaluations", words::count(summary.evaluations)),
        ("of them from the store", words::count(summary.cache_hits)),
        ("of them failed", words::count(summary.failed_evaluations)),
        ("did not fit the budget", words::count(summary.refused_evaluations)),
        ("requests sent", words::count(summary.requests)),
    ];
    let more = examples.settings.iter().map(|(name, value)| json!([words::cut(name, SHORT), words::cut(value, LONG)]));
    own.into_iter().map(|pair| json!(pair)).chain(more).collect()
}

/// How it was done, in words.
fn method(summary: &Summary) -> Vec<String> {
    let mut texts = vec![
        format!(
            "The strategy {} chose what to try next, with the seed {}. The same seed over the same data gives the same answer, at any number of requests in flight.",
            words::cut(&summary.strategy, SHORT), summary.seed
        ),
        "All configurations look at the instances in the same order, so any two are compared on the same ones.".to_owned(),
        "The score is the mean over the instances that a configuration was judged on. Its interval holds the true mean 95 times in 100: Wilson's score interval where every value is 0 or 1, else Student's t interval.".to_owned(),
        "The ranking goes by the posterior mean over all tuning instances: a model in which a configuration and an instance each add their part, so that one that saw harder instances than others is not at a loss, and a few lucky instances count for little. That is why the order may differ from that of the scores.".to_owned(),
        "The price of an instance in production counts every response as if none were cached: the prompt once, and each completion. It is the mean over the instances that were answered.".to_owned(),
    ];
    if summary.inference_budget_usd.is_some() {
        texts.push("Only a configuration whose expected price over all tuning instances is within the inference budget can be best.".to_owned());
    }
    if !summary.claims.may_be_best.is_empty() {
        texts.push("P(best) is the probability that a configuration is the best of those tried, on further instances like these: the share of draws from that model in which it leads. Those that may still be best together hold the best one with 95 %.".to_owned());
    }
    if summary.claims.method.as_deref() == Some("bootstrap_oob") {
        texts.push("The best of many looks better than it is. The corrected score draws the tuning instances anew 500 times: those drawn choose a configuration, those left out score it.".to_owned());
    }
    if summary.claims.versus_baseline.is_some() {
        texts.push("The winner and the baseline are compared on the tuning instances by betting on their difference (Waudby-Smith & Ramdas 2024): evidence of 20 is what is claimed at, whenever one looks, and for all configurations that could have won.".to_owned());
    }
    if summary.holdout.is_some() {
        texts.push("The held-out instances were not looked at before the best configuration was chosen. It and the baseline answered the same of them, and their difference is tested in pairs.".to_owned());
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;
    use crate::space::Configuration;

    /// The tags of a page with their attributes, outside of texts; the style sheet is left out.
    fn tags(page: &str) -> Vec<String> {
        let body = page.split_once("</style>").unwrap().1;
        body.split('<').skip(1).map(|part| part.split('>').next().unwrap().to_owned()).collect()
    }

    fn is_sound(page: &str) {
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        assert!(page.contains("default-src 'none'"));
        assert!(
            !page.to_lowercase().contains("<script")
                && !page.contains("http://") | page.contains("http://www.w3.org/2000/svg")
        );
        assert!(!page.chars().any(words::is_unsafe));
        let known = [
            "main", "h1", "bdi", "section", "p", "dl", "div", "dt", "dd", "small", "h2", "table", "thead", "tr", "th",
            "tbody", "td", "span", "i", "b", "pre", "footer", "body", "html", "head", "svg", "text", "line",
            "polyline", "circle", "rect",
        ];
        for tag in tags(page) {
            let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
            assert!(known.contains(&name), "<{tag}>");
            for attribute in tag.split('"').step_by(2).filter(|part| part.contains('=')) {
                let attribute = attribute.trim().trim_end_matches('=');
                assert!(!attribute.starts_with("on") && attribute != "src" && attribute != "href", "<{tag}>");
            }
        }
    }

    #[test]
    fn the_page_of_a_study() {
        let outcome = testing::outcome();
        let rows = crate::report::rows(&outcome);
        let examples = Examples::of(&outcome, 2);
        assert!(
            !examples.prompt.is_empty() && examples.examples.len() == 2 && !examples.examples[0].messages.is_empty()
        );
        let page = page(&outcome.summary, &rows, &examples).unwrap();
        is_sound(&page);
        for wanted in [
            "The models are made up",
            "class=\"banner\"",
            "Score against price",
            "held out",
            "Wilson",
            "the seed 1",
            "<svg ",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        assert_eq!(page.matches("<td class=\"score\">").count(), rows.len());
        assert_eq!(page, super::page(&outcome.summary, &rows, &Examples::of(&testing::outcome(), 2)).unwrap());
    }

    #[test]
    fn real_models_get_no_banner() {
        let mut summary = testing::outcome().summary;
        summary.notes.clear();
        let page = page(&summary, &testing::some_rows(30), &Examples::default()).unwrap();
        is_sound(&page);
        assert!(!page.contains("made up") && !page.contains("class=\"banner\""));
    }

    #[test]
    fn an_empty_study_has_a_page() {
        let mut summary = testing::outcome().summary;
        (summary.best, summary.baseline, summary.holdout, summary.budget_usd) = (None, None, None, None);
        let page = page(&summary, &[], &Examples::default()).unwrap();
        is_sound(&page);
        assert!(page.contains("There is no answer") && page.contains("without a cap") && !page.contains("<table"));
    }

    #[test]
    fn only_a_thousand_rows_are_shown() {
        let summary = testing::outcome().summary;
        let page = page(&summary, &testing::some_rows(1234), &Examples::default()).unwrap();
        assert_eq!(page.matches("<td class=\"score\">").count(), 1000);
        assert!(page.contains("234 more are in ranking.csv") && page.len() < 2_000_000, "{}", page.len());
    }

    #[test]
    fn hostile_values_come_through_as_text() {
        let hostile = [
            "<script>alert(1)</script>".to_owned(),
            "</pre></td></style><script src=//x>".to_owned(),
            "\" onmouseover=\"alert(1)\" x=\"' onload='x".to_owned(),
            "a\u{0}b\u{1b}[2J\u{202e}gnp.exe\u{2066}\u{200f}\u{85}".to_owned(),
            "{{ 1234 * 4321 }}{% raw %}&lt;script&gt;&#60;script".to_owned(),
            "<ScRiPt\n>".repeat(10_000),
            "語".repeat(33_000),
            "x".repeat(100_000),
        ];
        for text in hostile {
            let mut summary = testing::outcome().summary;
            (summary.task, summary.metric, summary.strategy) = (text.clone(), text.clone(), text.clone());
            summary.notes.push(text.clone());
            let config = Configuration(
                [(text.clone(), Value::from(text.as_str())), ("stop".into(), json!([text.as_str()]))].into(),
            );
            let best = summary.best.as_mut().unwrap();
            (best.config, best.id) = (config, text.clone());
            if let Some(versus) = summary.holdout.as_mut().and_then(|holdout| holdout.versus_baseline.as_mut()) {
                versus.test = text.clone();
            }
            let mut rows = testing::some_rows(6);
            for row in &mut rows {
                row.id = text.clone();
                row.configuration[0] = (text.clone(), Some(json!({text.as_str(): [text.as_str(), row.rank]})));
                row.configuration[1].1 = Some(Value::from(format!("{text}{}", row.rank)));
            }
            rows[1].standing = Standing::Infeasible;
            rows[1].reason = Some(text.clone());
            let pair = vec![(text.clone(), text.clone())];
            let examples = Examples {
                prompt: pair.clone(),
                examples: vec![Example {
                    instance: text.clone(),
                    score: Some(1.0),
                    failure: Some(text.clone()),
                    messages: pair.clone(),
                    responses: vec![text.clone()],
                }],
                failures: vec![FailureGroup {
                    kind: text.clone(),
                    evaluations: 1,
                    configurations: 1,
                    message: text.clone(),
                }],
                settings: pair,
            };
            let page = page(&summary, &rows, &examples).unwrap();
            is_sound(&page);
            assert!(!page.contains("5332114"), "a value was run as a template");
            assert!(page.len() < 400_000, "{}", page.len());
        }
    }
}
