//! What holds for every metric on text, whatever the models write.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::text::tests::{built, instance, samples, try_score};
use super::{Built, judge, rows};

static BUILT: LazyLock<Vec<Built>> = LazyLock::new(|| TABLES.iter().map(|table| built(table)).collect());

/// One table of each kind, with and without what changes its ways.
const TABLES: &[&str] = &[
    "type = \"exact_match\"\nexpected = \"{{ a }}\"\nnormalize = [\"first_line\", \"strip_punctuation\", \"strip_articles\"]",
    "type = \"exact_match\"\nexpected = \"{{ a }}\"\nextract = '=(.)?'\nextract_from = \"last\"\nvote = \"majority\"",
    "type = \"contains\"\nexpected = \"{{ a }}\"\nignore_case = true\nvote = \"any\"",
    "type = \"starts_with\"\nexpected = \"{{ a }}\"\nvote = \"expected_success\"",
    "type = \"regex\"\npattern = '\\d+'\nvote = \"majority\"",
    "type = \"numeric\"\nexpected = \"{{ a }} 3\"\nvote = \"majority\"\nrelative_tolerance = 0.1",
    "type = \"numeric\"\nexpected = \"{{ a }}\"\nvote = \"expected_success\"\ntake = \"first\"",
    "type = \"choice\"\nexpected = \"B\"\nvote = \"mean\"",
    "type = \"choice\"\nexpected = \"{{ a }}\"\nchoices = [\"A\", \"b\", \"1\", \"10\", \"yes\", \"é\"]\nvote = \"majority\"",
    "type = \"token_f1\"\nexpected = \"{{ a }}\"\nvote = \"mean\"",
    "type = \"rouge_l\"\nexpected = \"{{ a }}\"\nvote = \"any\"",
    "type = \"bleu\"\nexpected = \"{{ a }}\"\nvote = \"mean\"",
    "type = \"bleu\"\nexpected = \"{{ a }}\"\nsmoothing = \"add_one\"\nmax_order = 9",
    "type = \"json\"\nfence = true\nequals = { a = \"{{ a }}\" }\nvote = \"expected_success\"",
    "type = \"length\"\nunit = \"words\"\nvote = \"mean\"",
    "type = \"length\"\nmax = 5\nunit = \"lines\"\nvote = \"expected_success\"",
];

/// Text of all sorts, and text that looks like answers.
fn text() -> impl Strategy<Value = String> {
    let answerlike = "(the answer is|answer:|\\\\boxed\\{|option|=|```|\\{\"a\":|B|a|yes|é|1|10|½|-|,|\\.|/|\\*\\*|\\(|\\)|\\}|\n| ){0,12}";
    prop_oneof!["\\PC{0,30}", answerlike, ".{0,20}"]
}

#[test]
fn every_metric_on_text_is_tried() {
    for row in rows().iter().filter(|row| row.name != "command") {
        let kind = format!("type = \"{}\"", row.name);
        assert!(TABLES.iter().any(|table| table.starts_with(&kind)), "{kind}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_text_leaves_the_range(expected in text(), texts in prop::collection::vec(text(), 1..6), which in 0..TABLES.len()) {
        let built = &BUILT[which];
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let instance = instance(json!({"a": expected}));
        let result = judge(&*built.metric, &instance, &samples(&texts));
        if let Err(reason) = &result {
            // The only reason there may be is an expected value that says nothing, and `check` finds it beforehand.
            prop_assert!(!reason.contains("panicked"), "{}: {reason}", TABLES[which]);
            prop_assert_eq!(built.check(&instance).unwrap_err(), reason.clone());
        } else {
            let (low, high) = built.range.unwrap();
            let value = result.unwrap()["m"];
            prop_assert!(low <= value && value <= high, "{}: {value}", TABLES[which]);
            prop_assert!(built.check(&instance).is_ok());
        }
    }

    #[test]
    fn majority_does_not_see_what_does_not_parse(
        texts in prop::collection::vec(prop::sample::select(vec!["=a", "=b", "=c", "= 1", "=1.0", "=3"]), 0..9),
        noise in prop::collection::vec((0usize..10, prop::sample::select(vec!["", "none", "a", "é\n", "?"])), 0..9),
        expected in prop::sample::select(vec!["a", "b", "1", "3"]),
        numeric in any::<bool>(),
    ) {
        let table = if numeric { "type = \"numeric\"\nexpected = \"{{ a }} 1\"\ntake = \"first\"\n" } else { "type = \"exact_match\"\nexpected = \"{{ a }}\"\n" };
        let table = format!("{table}extract = '=(.*)'\nvote = \"majority\"");
        let mut noisy = texts.clone();
        for (at, text) in noise {
            noisy.insert(at.min(noisy.len()), text);
        }
        let value = |texts: &[&str]| if texts.is_empty() { Ok(0.0) } else { try_score(&table, json!({"a": expected}), texts) };
        prop_assert_eq!(value(&texts), value(&noisy));
    }

    #[test]
    fn votes_are_in_order(texts in prop::collection::vec("[ab]", 1..12)) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let value = |vote: &str| try_score(&format!("type = \"exact_match\"\nexpected = \"a\"\nvote = \"{vote}\""), json!({}), &texts).unwrap();
        let (any, mean, expected) = (value("any"), value("mean"), value("expected_success"));
        prop_assert!(mean <= expected + 1e-12 && expected <= any);
        prop_assert_eq!(value("majority") == 1.0, mean > 0.5 || mean == 0.5 && texts[0] == "a");
    }
}
