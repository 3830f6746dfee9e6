//! Tests of the declarations: mistakes in tables, the listing, the schema.

use super::*;
use crate::metric::text::tests::{built, refused};

#[test]
fn mistakes_are_shown_where_they_are() {
    for (lines, message, place, advice) in [
        ("type = \"exact_mach\"", "there is no metric of type `exact_mach`", "2:8", "did you mean `exact_match`?"),
        ("expected = \"x\"", "the metric `m` has no `type`", "1:1", "there are `exact_match`, `contains`"),
        ("", "the metric `m` has no `type`", "1:10", "there are `exact_match`"),
        ("type = 3", "`type` is a text", "2:8", "there are"),
        ("type = \"bleu\"\nexpect = \"x\"", "`bleu` has no option `expect`", "3:1", "did you mean `expected`?"),
        ("type = \"bleu\"", "the metric `m` of type `bleu` needs `expected`", "1:10", "`expected`: The reference text"),
        (
            "type = \"bleu\"\nexpected = \"x\"\nnormalize = [\"trim\", \"lowercse\"]",
            "unknown word `lowercse`",
            "4:22",
            "did you mean `lowercase`?",
        ),
        (
            "type = \"bleu\"\nexpected = \"x\"\nvote = \"most\"",
            "unknown word `most`",
            "4:8",
            "there are `first`, `any`, `mean`",
        ),
        ("type = \"length\"\nextract_from = \"last\"", "`extract_from` needs `extract`", "3:16", ""),
        ("type = \"length\"\nextract = \"(\"", "this regex cannot be read: unclosed group", "3:11", ""),
        ("type = \"regex\"\npattern = \"a{99999999}\"", "this regex cannot be read: ", "3:11", ""),
        ("type = \"contains\"\nexpected = \"{{ a\"", "this template cannot be read: ", "3:12", ""),
        ("type = \"contains\"\nexpected = 3", "`expected`: invalid type: integer `3`, expected a string", "3:12", ""),
        ("type = \"contains\"\nexpected = \"x\"\nignore_case = 1", "`ignore_case`: invalid type", "4:15", ""),
        (
            "type = \"contains\"\nexpected = \"x\"\nvote = \"majority\"",
            "`contains` cannot be voted on by majority",
            "4:8",
            "",
        ),
    ] {
        let error = refused(lines);
        assert!(error.message().starts_with(message), "{lines}: {error}");
        assert_eq!(error.location().unwrap(), format!("task.toml:{place}"), "{lines}");
        assert!(error.advice().unwrap_or("").starts_with(advice), "{lines}: {:?}", error.advice());
        assert_eq!(error.fault().exit_code(), 2);
    }
}

#[test]
fn what_is_built_knows_its_columns_values_and_range() {
    let built = built("type = \"exact_match\"\nexpected = \"{{ a }}{{ b.c }}\"");
    assert_eq!(built.variables().into_iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(built.fields["a"].start, "[metrics.m]\ntype = \"exact_match\"\nexpected = ".len());
    assert_eq!((built.output.as_deref(), built.range), (Some("m"), Some((0.0, 1.0))));
    assert!(built.prepare().is_ok());
}

#[test]
fn the_listing_has_every_option() {
    let rows = rows();
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "exact_match",
            "contains",
            "starts_with",
            "regex",
            "numeric",
            "choice",
            "token_f1",
            "rouge_l",
            "bleu",
            "json",
            "length",
            "command"
        ]
    );
    for row in &rows {
        assert!(!row.summary.is_empty() && !row.summary.ends_with('.'), "{}", row.name);
        for option in &row.options {
            assert!(option.doc.len() > 10 && !option.doc.contains('\n'), "{}: {option:?}", row.name);
            assert!(
                option.required || option.default.is_some() || !matches!(option.kind, Kind::Word(_)),
                "{}: {option:?}",
                row.name
            );
        }
    }
    let find = |row: &str, option: &str| {
        let row = rows.iter().find(|known| known.name == row).unwrap();
        row.options.iter().find(|known| known.name == option).unwrap_or_else(|| panic!("{option}")).clone()
    };
    let vote = find("rouge_l", "vote");
    assert_eq!(
        (vote.kind.to_string().as_str(), vote.default.as_deref()),
        ("one of first, any, mean", Some("\"first\""))
    );
    assert_eq!(find("exact_match", "vote").kind.to_string(), "one of first, any, mean, majority, expected_success");
    assert_eq!(
        find("token_f1", "normalize").default.unwrap(),
        r#"["lowercase","strip_punctuation","strip_articles","collapse_whitespace"]"#
    );
    assert_eq!(find("exact_match", "normalize").default.unwrap(), "[]");
    let expected = find("numeric", "expected");
    assert_eq!((expected.kind.to_string().as_str(), expected.required, &rows[4].options[0]), ("text", true, &expected));
    assert_eq!(
        (find("command", "timeout_seconds").default.as_deref(), find("command", "restart").kind.to_string().as_str()),
        (Some("30"), "true or false")
    );
    assert_eq!(
        (find("bleu", "max_order").kind.to_string().as_str(), find("command", "command").kind.to_string().as_str()),
        ("whole number", "list of: text")
    );
}

#[test]
fn the_schema_is_closed_and_says_what_the_parser_takes() {
    let schema = schema();
    let ways = schema["oneOf"].as_array().unwrap();
    assert_eq!(ways.len(), declarations().len());
    for way in ways {
        assert_eq!(way["additionalProperties"], false);
        assert_eq!(way["required"][0], "type");
        assert!(!way.to_string().contains("null"), "{way:#}");
        assert!(!way.to_string().contains("$ref"), "{way:#}");
    }
    let bleu = ways.iter().find(|way| way["properties"]["type"]["const"] == "bleu").unwrap();
    assert_eq!(bleu["properties"]["smoothing"]["oneOf"].as_array().unwrap().len(), 3, "{bleu:#}");
    assert_eq!(bleu["properties"]["vote"]["oneOf"].as_array().unwrap().len(), 3, "{bleu:#}");
    assert_eq!(bleu["properties"]["max_order"]["maximum"], 9, "{bleu:#}");
}
