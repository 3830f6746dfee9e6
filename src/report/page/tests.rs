//! The page as a file: sound whatever is in it, and holding what it should.

use serde_json::json;

use super::*;
use crate::report::run::Evaluation;
use crate::report::testing;
use crate::space::Configuration;
use crate::study::folder::{Hashes, Inputs, StudyFile};
use crate::study::{Outcome, Settings};

/// A run as its folder would give it, made of an outcome in memory. Its store is gone.
pub(crate) fn run_of(outcome: &Outcome) -> Run {
    let instances: Vec<String> = outcome.workload.task.tune.iter().map(|instance| instance.id.clone()).collect();
    let mut failures = Vec::new();
    let mut evaluations = Vec::new();
    for trial in &outcome.trials {
        for done in &trial.evaluations {
            let failure = done.result.as_ref().err().map(|failure| {
                failures.push(crate::provider::Failure::clone(failure));
                failures.len() as u32 - 1
            });
            evaluations.push(Evaluation {
                trial: trial.number as u32,
                instance: done.instance() as u32,
                score: done.result.as_ref().ok().and_then(|all| all.get("exact")).copied(),
                failure,
                cost: done.cost,
                production: done.production(),
                tokens: Some([done.prompt_tokens(), done.completion_tokens()]),
                requests: done.requests(),
                metrics: Default::default(),
                fingerprint: None,
            });
        }
    }
    let file = StudyFile {
        farthing: "0.1.0".into(),
        study: "study-1".into(),
        look_ahead: 64,
        inputs: Inputs { name: "doubles".into(), ..Inputs::default() },
        settings: Settings::default(),
        hashes: Hashes::default(),
    };
    Run {
        path: "/nowhere/doubles-1".into(),
        file,
        summary: outcome.summary.clone(),
        ended: true,
        rows: crate::report::rows(outcome),
        trials: outcome.trials.iter().map(|trial| trial.configuration.clone()).collect(),
        dropped: Default::default(),
        instances,
        evaluations,
        failures,
        task: None,
        space: None,
        store: None,
        best_toml: None,
        served: None,
        gaps: Vec::new(),
    }
}

/// The tags of a page with their attributes, outside of style and scripts.
fn tags(page: &str) -> Vec<String> {
    let mut body = page.split_once("</style>").unwrap().1.to_owned();
    while let Some(begin) = body.find("<script") {
        let end = begin + body[begin..].find("</script>").expect("every script ends");
        body.replace_range(begin..end + "</script>".len(), "");
    }
    body.split('<').skip(1).map(|part| part.split('>').next().unwrap().to_owned()).collect()
}

/// What a page must be whatever is in it.
fn is_sound(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    let policy = page.split_once("Content-Security-Policy\" content=\"").unwrap().1.split_once('"').unwrap().0;
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    // The script and the style that it allows are those that are there.
    let own = |open: &str, close: &str| page.rsplit_once(open).unwrap().1.split_once(close).unwrap().0.to_owned();
    for (text, directive) in [(own("<script>", "</script>"), "script-src"), (own("<style>", "</style>"), "style-src")] {
        let allowed = policy.split(&format!("{directive} '")).nth(1).unwrap().split('\'').next().unwrap();
        let unescaped = allowed.replace("&#x2f;", "/").replace("&#x3d;", "=");
        assert_eq!(unescaped, hash(&text), "{directive}");
    }
    assert!(!page.chars().any(words::is_unsafe), "{:?}", page.chars().find(|c| words::is_unsafe(*c)));
    for tag in tags(page) {
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        let known = "main h1 h2 h3 bdi section p dl div dt dd small table caption thead tr th tbody td span pre footer body html \
                     head header nav ul li a button label input select option dialog details summary canvas svg text line \
                     polyline circle rect";
        assert!(known.split_whitespace().any(|known| known == name), "<{tag}>");
        for attribute in tag.split('"').step_by(2).filter(|part| part.contains('=')) {
            let attribute = attribute.trim().trim_end_matches('=').rsplit(' ').next().unwrap();
            assert!(!attribute.starts_with("on") && attribute != "src" && attribute != "style", "<{tag}>");
        }
        if let Some((_, link)) = tag.split_once("href=\"") {
            assert!(link.starts_with('#'), "<{tag}>");
        }
    }
}

#[test]
fn the_page_of_a_run() {
    let run = run_of(testing::shared());
    let page = render(&data(&run, Extent::default())).unwrap();
    is_sound(&page);
    for wanted in
        ["The models are made up", "Score against price", "held out", "Wilson", "the seed 1", "<svg ", "aria-sort"]
    {
        assert!(page.contains(wanted), "{wanted}");
    }
    assert_eq!(page.matches("<td class=\"score\" data-v=").count(), run.rows.len());
    assert_eq!(page, render(&data(&run_of(&testing::outcome()), Extent::default())).unwrap(), "the same every time");
    assert!(!page.contains("connect-src"));
    assert!(
        page.contains("settings in common") && !page.contains("each add their part"),
        "held out, nothing is corrected"
    );
    let live = render_live(&data(&run, Extent::default()), "/events?token=a\"b").unwrap();
    is_sound(&live);
    assert!(
        live.contains("connect-src 'self'") && live.contains("data-live=\"&#x2f;events?token&#x3d;a&quot;b\"")
            || live.contains("token=a&quot;b\"")
    );
}

#[test]
fn real_models_get_no_banner() {
    let mut run = run_of(testing::shared());
    run.summary.notes.clear();
    let page = render(&data(&run, Extent::default())).unwrap();
    assert!(!page.contains("made up") && !page.contains("class=\"banner\""));
}

#[test]
fn an_empty_study_has_a_page() {
    let mut run = run_of(testing::shared());
    let summary = &mut run.summary;
    (summary.best, summary.baseline, summary.holdout, summary.budget_usd) = (None, None, None, None);
    (run.rows, run.trials, run.evaluations, run.instances) = Default::default();
    let page = render(&data(&run, Extent::default())).unwrap();
    is_sound(&page);
    assert!(page.contains("There is no answer") && page.contains("without a cap") && !page.contains("<table"));
}

#[test]
fn a_later_test_is_no_part_of_the_study_and_what_was_never_asked_is_not_shown() {
    let mut run = run_of(testing::shared());
    let summary = &mut run.summary;
    (summary.search_cost_usd, summary.study_cost_usd) = ("0.04".parse().unwrap(), "0.05".parse().unwrap());
    summary.holdout_cost_usd = "0.01".parse().unwrap();
    let page = render(&data(&run, Extent::default())).unwrap();
    assert!(page.contains("<dt>of it, held-out test</dt><dd>$0.01</dd>") && !page.contains("later test"));
    run.summary.study_cost_usd = "0.04".parse().unwrap();
    run.summary.holdout_cost_usd = "0.0782".parse().unwrap();
    let mut never = testing::row(500, None, None, None);
    (never.instances, never.standing, never.id) = (0, crate::study::Standing::Unjudged, "neverasked".into());
    run.rows.push(never);
    let page = render(&data(&run, Extent::default())).unwrap();
    assert!(page.contains("<dt>later test, outside the budget</dt><dd>$0.0782</dd>"));
    assert!(!page.contains("of it, held-out test"));
    assert!(page.contains("Drawn but never asked anything: 1 more configuration, in ranking.csv."));
    assert!(!page.contains("Look into neverasked"));
}

#[test]
fn equal_winners_are_no_lead() {
    let outcome = testing::shared();
    let (first, mut second) = (run_of(outcome), run_of(outcome));
    let text = |runs: &[Run]| several::data(runs).view["answer"].as_str().unwrap().to_owned();
    second.path = "/nowhere/doubles-2".into();
    let tie = text(&[run_of(outcome), second]);
    assert!(tie.contains("All winners score the same on held-out instances") && !tie.contains("ahead on"), "{tie}");
    let mut better = run_of(outcome);
    better.path = "/nowhere/doubles-3".into();
    let score = &mut better.summary.holdout.as_mut().unwrap().score;
    *score = score.map(|score| score / 2.0);
    let lead = text(&[first, better]);
    assert!(lead.contains("The winner of doubles-1 is ahead"), "{lead}");
}

#[test]
fn a_run_that_goes_on_says_so() {
    let mut run = run_of(testing::shared());
    run.ended = false;
    let page = render(&data(&run, Extent::default())).unwrap();
    is_sound(&page);
    assert!(page.contains("The run goes on. So far the best of") && !page.contains("It stopped because"));
}

#[test]
fn only_a_thousand_rows_are_shown() {
    let mut run = run_of(testing::shared());
    run.rows = testing::some_rows(1234);
    let page = render(&data(&run, Extent::default())).unwrap();
    assert_eq!(page.matches("<td class=\"score\" data-v=").count(), 1000);
    assert!(page.contains("234 more are in ranking.csv") && page.len() < 3_000_000, "{}", page.len());
}

#[test]
fn the_matrix_is_read_back() {
    let run = run_of(testing::shared());
    let page = data(&run, Extent::default());
    let matrix = &page.document["matrix"];
    let block = page.blocks.iter().find(|block| block.name == "m0").unwrap();
    let mut cells = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::DeflateDecoder::new(&block.bytes[..]), &mut cells).unwrap();
    let (width, levels) = (run.instances.len(), matrix["levels"].as_array().unwrap());
    let trials: Vec<u64> = matrix["trials"].as_array().unwrap().iter().map(|trial| trial.as_u64().unwrap()).collect();
    let mut seen = 0;
    for (row, trial) in trials.iter().enumerate().take(matrix["rows"].as_u64().unwrap() as usize) {
        for done in run.evaluations.iter().filter(|done| u64::from(done.trial) == *trial) {
            let cell = cells[row * width + done.instance as usize] as usize;
            assert_eq!(done.score, Some(levels[cell - 2].as_f64().unwrap()));
            seen += 1;
        }
    }
    assert_eq!(cells.iter().filter(|cell| **cell > 0).count(), seen);
}

#[test]
fn json_cannot_leave_its_script() {
    let nasty = json!({"</script><!--": "<!-- <script> ]]> \u{2028}\u{2029}\u{0}\u{7f}\u{202e}&amp;\u{1f600}\u{feff}"});
    let text = embedded(&nasty);
    assert!(!text.contains(['<', '>', '&']) && !text.chars().any(words::is_unsafe), "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), nasty);
}

#[test]
fn several_runs_on_one_page() {
    let runs = [run_of(testing::shared()), run_of(testing::shared())];
    let page = several::render(&several::data(&runs)).unwrap();
    is_sound(&page);
    let shared = format!("{} of the configurations were tried in more than one run", runs[0].rows.len());
    assert!(page.contains("2 runs. All winners score the same") && page.contains(&shared), "{page}");
}

#[test]
fn hostile_values_come_through_as_text() {
    let hostile = [
        "<script>alert(1)</script>".to_owned(),
        "</pre></td></style><script src=//x>".to_owned(),
        "\" onmouseover=\"alert(1)\" x=\"' onload='x".to_owned(),
        "a\u{0}b\u{1b}[2J\u{202e}gnp.exe\u{2066}\u{200f}\u{85}\u{2028}".to_owned(),
        "{{ 1234 * 4321 }}{% raw %}&lt;script&gt;&#60;script <!-- --> ]]>".to_owned(),
        "<ScRiPt\n>".repeat(10_000),
        "語".repeat(33_000),
        "x".repeat(100_000),
    ];
    for text in hostile {
        let mut run = run_of(testing::shared());
        let summary = &mut run.summary;
        (summary.task, summary.metric, summary.strategy) = (text.clone(), text.clone(), text.clone());
        summary.notes.push(text.clone());
        let config =
            Configuration([(text.clone(), Value::from(text.as_str())), ("stop".into(), json!([text.as_str()]))].into());
        let best = summary.best.as_mut().unwrap();
        (best.config, best.id) = (config.clone(), text.clone());
        if let Some(versus) = summary.holdout.as_mut().and_then(|holdout| holdout.versus_baseline.as_mut()) {
            versus.test = text.clone();
        }
        run.rows = testing::some_rows(run.trials.len().max(6));
        for row in &mut run.rows {
            row.id = text.clone();
            row.configuration[0] = (text.clone(), Some(json!({text.as_str(): [text.as_str(), row.rank]})));
            row.configuration[1].1 = Some(Value::from(format!("{text}{}", row.rank)));
        }
        run.rows[1].standing = crate::study::Standing::Infeasible;
        run.rows[1].reason = Some(text.clone());
        run.trials.iter_mut().for_each(|trial| *trial = config.clone());
        run.instances.iter_mut().enumerate().for_each(|(at, name)| *name = format!("{text}{at}"));
        run.failures = vec![crate::provider::Failure::new(crate::provider::FailureKind::Server, text.clone())];
        run.evaluations[0].failure = Some(0);
        run.evaluations[0].score = None;
        run.gaps = vec![words::cut(&text, 300)];
        let made = data(&run, Extent::default());
        let page = render(&made).unwrap();
        is_sound(&page);
        assert!(!page.contains("5332114"), "a value was run as a template");
        assert!(page.len() < 1_500_000, "{}", page.len());
        is_sound(&several::render(&several::data(&[run_of(testing::shared()), run])).unwrap());
    }
}

/// A made-up run of so many configurations on so many instances, of which each was asked `share`; with responses in a store
/// where `answered`.
fn large(configurations: usize, instances: usize, share: f64, answered: bool) -> Run {
    use crate::provider::{FinishReason, Response, Sample};
    use crate::store::{Bought, Cache, Fingerprint, MemoryStore, RequestRecord, Store as _};
    let mut run = run_of(testing::shared());
    run.rows = testing::some_rows(configurations);
    run.trials = run.rows.iter().map(crate::report::RankingRow::parameters).collect();
    run.instances = (0..instances).map(|at| format!("instance-{at}")).collect();
    run.evaluations.clear();
    let store = MemoryStore::new();
    let mut state = 7_u64;
    let mut draw = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let words: Vec<String> =
        (0..3000).map(|_| (0..2 + draw() % 9).map(|_| char::from(b'a' + (draw() % 26) as u8)).collect()).collect();
    let text = |count: usize, draw: &mut dyn FnMut() -> usize| {
        let rank = |draw: &mut dyn FnMut() -> usize| (draw() % 3000) * (draw() % 3000) / 3000;
        (0..count).map(|_| words[rank(draw)].as_str()).collect::<Vec<_>>().join(" ")
    };
    let problems: Vec<String> =
        (0..instances).map(|_| if answered { text(60, &mut draw) } else { String::new() }).collect();
    for trial in 0..configurations {
        for (instance, problem) in problems.iter().enumerate() {
            if draw() % 1000 >= (share * 1000.0) as usize {
                continue;
            }
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&((trial * instances + instance) as u64).to_be_bytes());
            let print = Fingerprint(bytes);
            if answered {
                let body = json!({"messages": [{"role": "system", "content": format!("Answer carefully, as in style {}.", trial % 3)}, {"role": "user", "content": problem}], "params": {}});
                let request = RequestRecord { model: "m".into(), source: "http".into(), body: body.to_string() };
                let samples = vec![Sample::new(text(25, &mut draw), FinishReason::STOP, 40)];
                let response = Response { samples, prompt_tokens: 120, ..Response::default() };
                let bought = Bought {
                    scope: "s",
                    fingerprint: &print,
                    request: &request,
                    response,
                    bill: crate::money::Usd::from_pico(1),
                    entry: None,
                };
                drop(store.record_as(Cache::Use, bought));
            }
            run.evaluations.push(Evaluation {
                trial: trial as u32,
                instance: instance as u32,
                score: Some(f64::from(u8::from(draw() % 100 < 60))),
                failure: None,
                cost: crate::money::Usd::from_pico(12_345_678),
                production: Some(crate::money::Usd::from_pico(12_345_678)),
                tokens: Some([120, 40]),
                requests: 1,
                metrics: Default::default(),
                fingerprint: answered.then_some(print),
            });
        }
    }
    run.store = answered.then_some(store as crate::store::SharedStore);
    run
}

#[test]
fn a_page_takes_up_what_fits_and_says_what_is_left() {
    let run = large(12, 600, 1.0, true);
    let all = data(&run, Extent { full: true });
    assert_eq!(all.view["left_out"], Value::Null);
    let pieces = |page: &Page| page.blocks.iter().filter(|block| block.name.starts_with('d')).count();
    assert_eq!(pieces(&all), 12 * 3);
    // Prompts are shared: the rows' prompt and trigger make few groups.
    let prompts = all.blocks.iter().filter(|block| block.name.starts_with('p')).count();
    assert!(prompts < 12 * 3 && !all.blocks.iter().any(|block| block.name.starts_with('q')), "{prompts}");
    let size = |page: &Page| page.blocks.iter().map(Block::size).sum::<usize>();
    // Half of the room is the winner's, and it needs less than a third of all.
    let room = size(&all) * 2 / 3;
    let little = details::details(&run, &[0], &(0..12).collect(), room, false);
    let packed: usize = little.blocks.iter().map(Block::size).sum();
    let names: Vec<&str> = little.blocks.iter().map(|block| block.name.as_str()).collect();
    assert!(packed <= room && names.contains(&"d0.2"), "the winner comes first: {names:?}, {packed} of {room}");
    assert!(little.left_out.unwrap().contains("--full"));
}

#[test]
fn a_page_stays_below_its_size_whatever_there_is_of() {
    let message = |at: usize| format!("{at} {}", "<&>".repeat(700));
    let fail = |run: &mut Run, failures: usize| {
        let server = crate::provider::FailureKind::Server;
        run.failures = (0..failures).map(|at| crate::provider::Failure::new(server, message(at))).collect();
        let every = (run.evaluations.len() / failures).max(1);
        for (at, done) in run.evaluations.iter_mut().step_by(every).take(failures).enumerate() {
            (done.score, done.failure) = (None, Some(at as u32));
        }
    };
    // Many configurations, and many failures with long texts.
    let mut run = large(8_000, 2, 0.5, false);
    fail(&mut run, 1_500);
    let page = data(&run, Extent::default());
    let text = render(&page).unwrap();
    assert!(text.len() < 5_000_000, "{}", text.len());
    // Whatever the script is led to has a name.
    let named = named(&page);
    let matrix: Vec<usize> = serde_json::from_value(page.document["matrix"]["trials"].clone()).unwrap();
    assert!(matrix.len() >= 1000 && matrix.iter().all(|trial| named.contains(trial)), "{}", matrix.len());
    assert!(page.document["matrix"]["left"].as_u64().unwrap() as usize + matrix.len() >= 7_000);
    let failures = page.document["failures"].as_array().unwrap();
    assert!(failures.len() > 500 && failures.len() <= 1_500, "{}", failures.len());
    // Values so long that a thousand rows would not fit.
    let mut run = large(1_000, 2, 0.5, false);
    for row in &mut run.rows {
        let long = |name: usize| (format!("p{name}"), Some(json!(format!("{}{}", row.rank, "<long>".repeat(60)))));
        row.configuration = (0..24).map(long).collect();
    }
    let text = render(&data(&run, Extent::default())).unwrap();
    assert!(text.len() < 5_000_000 && text.len() > 1_000_000, "{}", text.len());
    assert!(text.contains("more are in ranking.csv"));
}

/// Writes large pages into the folder that FARTHING_LARGE names, and says how long that took.
#[test]
#[ignore = "takes minutes; run by hand"]
fn large_pages() {
    let folder = std::path::PathBuf::from(std::env::var("FARTHING_LARGE").unwrap_or("/tmp".into()));
    for (name, configurations, instances, share, answered) in
        [("100x1000", 100, 1000, 1.0, true), ("1000x10000", 1000, 10_000, 0.1, false)]
    {
        let run = large(configurations, instances, share, answered);
        let begin = std::time::Instant::now();
        let made = data(&run, Extent::default());
        let page = render(&made).unwrap();
        println!(
            "{name}: {} evaluations, {} bytes in {:?}; left out: {}",
            run.evaluations.len(),
            page.len(),
            begin.elapsed(),
            made.view["left_out"]
        );
        assert!(page.len() < 5_000_000, "{name}: {}", page.len());
        std::fs::write(folder.join(format!("{name}.html")), page).unwrap();
    }
}
