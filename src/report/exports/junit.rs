//! A run as JUnit XML, which build servers read.
//!
//! Two suites a run. *Gates* are what a build should stand or fall by: a configuration can be best; the winner answers
//! reliably; it is not worse than the baseline; it scores at least what was asked for. *Instances* has a test case for each
//! instance of the winner, so that the server shows which ones changed from build to build: an evaluation that failed is an
//! error; a score is kept as a property and fails nothing, since no model is right on every instance.

use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use crate::diagnostic::{Error, Result};
use crate::report::run::Run;
use crate::report::words;
use crate::stats;
use crate::study::{Summary, compare};

/// The XML of some runs. `least` is the score that the winner must reach (at most it, where less is better): on held-out
/// instances where there are any.
pub fn junit(runs: &[Run], least: Option<f64>) -> Result<String> {
    let mut report = Report::new("farthing");
    for run in runs {
        let name = format!("{} {}", words::line(&run.summary.task), words::line(&run.name()));
        let mut gates = TestSuite::new(format!("{name}: gates"));
        gates.add_property(Property::new("spent_usd", run.summary.spent_usd.to_string()));
        gates.add_property(Property::new("seed", run.summary.seed.to_string()));
        gates.add_property(Property::new("task_hash", run.file.hashes.task.as_str()));
        for (what, verdict) in verdicts(run, least) {
            let status = match verdict {
                Verdict::Holds => TestCaseStatus::success(),
                Verdict::Fails(why) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(words::line(&why));
                    status
                }
                Verdict::Unknown(why) => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(words::line(&why));
                    status
                }
            };
            let mut case = TestCase::new(what, status);
            case.set_classname(name.as_str());
            gates.add_test_case(case);
        }
        report.add_test_suite(gates);
        if let Some(instances) = instances(run, &name) {
            report.add_test_suite(instances);
        }
    }
    report.to_string().map_err(|error| Error::internal(format!("the JUnit report cannot be written: {error}")))
}

enum Verdict {
    Holds,
    Fails(String),
    Unknown(String),
}

fn verdicts(run: &Run, least: Option<f64>) -> Vec<(&'static str, Verdict)> {
    let summary = &run.summary;
    let Some(best) = &summary.best else {
        return vec![("a configuration can be best", Verdict::Fails(words::answer(summary)))];
    };
    let ended = match run.ended {
        true => Verdict::Holds,
        false => Verdict::Fails("the run has not ended".to_owned()),
    };
    let mut all = vec![("the run has ended", ended), ("a configuration can be best", Verdict::Holds)];
    let asked = best.instances + best.missing;
    all.push((
        "the winner answers reliably",
        match stats::too_much_missing(best.missing, asked) {
            true => Verdict::Fails(format!("{} of {asked} evaluations are missing", best.missing)),
            false => Verdict::Holds,
        },
    ));
    all.push(("the winner is not worse than the baseline", against_baseline(summary)));
    if let Some(least) = least {
        let (score, on) = match summary.held_out().and_then(|holdout| holdout.score) {
            Some(score) => (Some(score), "held-out instances"),
            None => (best.score, "tuning instances"),
        };
        let gain = |value: f64| summary.direction.gain(value);
        all.push((
            "the winner scores what was asked for",
            match score {
                Some(score) if gain(score) >= gain(least) => Verdict::Holds,
                Some(score) => Verdict::Fails(format!("{} {score} on {on}, not {least}", words::line(&summary.metric))),
                None => Verdict::Fails("it has no score".to_owned()),
            },
        ));
    }
    all
}

fn against_baseline(summary: &Summary) -> Verdict {
    let same = |best: &crate::study::Scored| summary.baseline.as_ref().is_some_and(|baseline| baseline.id == best.id);
    if summary.best.as_ref().is_some_and(same) {
        return Verdict::Holds;
    }
    if let Some(versus) = summary.held_out().and_then(|holdout| holdout.versus_baseline.as_ref()) {
        return match versus.verdict(summary.direction) {
            compare::Verdict::Worse => Verdict::Fails(words::versus(versus, summary.direction)),
            _ => Verdict::Holds,
        };
    }
    match &summary.claims.versus_baseline {
        Some(against) if against.claim == "worse" => Verdict::Fails(words::claims(summary).join(" ")),
        Some(_) => Verdict::Holds,
        None if summary.baseline.is_none() => Verdict::Unknown("there is no baseline".to_owned()),
        None => Verdict::Unknown("the two were not compared".to_owned()),
    }
}

fn instances(run: &Run, name: &str) -> Option<TestSuite> {
    let trial = u32::try_from(run.summary.best.as_ref()?.trial).ok()?;
    let mut own: Vec<_> = run.evaluations.iter().filter(|done| done.trial == trial).collect();
    own.sort_by_key(|done| done.instance);
    let mut suite = TestSuite::new(format!("{name}: instances of the winner"));
    for done in &own {
        let status = match done.failure.and_then(|at| run.failures.get(at as usize)) {
            None => TestCaseStatus::success(),
            Some(failure) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
                status.set_type(failure.kind.word());
                status.set_message(words::line(&words::cut(&failure.message, 500)));
                status
            }
        };
        let id = run.instances.get(done.instance as usize).map_or("", String::as_str);
        let mut case = TestCase::new(words::line(&words::cut(id, 200)), status);
        case.set_classname(name);
        if let Some(score) = done.score {
            case.add_property(Property::new(words::line(&run.summary.metric), score.to_string()));
        }
        suite.add_test_case(case);
    }
    (!own.is_empty()).then_some(suite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Versus;

    #[test]
    fn only_what_is_shown_to_be_worse_fails_a_build() {
        let mut summary = crate::report::testing::outcome().summary;
        let mut versus = Versus {
            difference: -0.25,
            ci95: [-0.488, -0.030],
            p_value: 0.0625,
            test: "mcnemar_exact".into(),
            pairs: 20,
            baseline_score: 0.9,
        };
        summary.baseline = summary.best.clone();
        summary.baseline.as_mut().unwrap().id = "another".into();
        for (p_value, fails) in [(0.0625, false), (0.04, true)] {
            versus.p_value = p_value;
            summary.holdout.as_mut().unwrap().versus_baseline = Some(versus.clone());
            match against_baseline(&summary) {
                Verdict::Fails(why) => assert!(fails && why.contains("is worse than the baseline"), "{why}"),
                Verdict::Holds => assert!(!fails),
                Verdict::Unknown(why) => panic!("{why}"),
            }
        }
    }
}
