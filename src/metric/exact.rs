//! Metrics that look for a text in the answer: `exact_match`, `contains`, `starts_with`, `regex`. Each gives 1 or 0.

use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::Vote;
use super::declare::Building;
use super::text::{Judge, Normalize, render};
use crate::diagnostic::Result;
use crate::prompt::Template;
use crate::provider::Sample;
use crate::task::Instance;

fn one_if(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Options of `exact_match`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExactMatchOptions {
    /// The right answer: a template over the instance, like "{{ answer }}".
    #[schemars(with = "String")]
    expected: Spanned<String>,
}

/// `exact_match`.
pub struct ExactMatch {
    expected: Template,
}

impl Judge for ExactMatch {
    const NAME: &'static str = "exact_match";
    const SUMMARY: &'static str = "1 where the answer is the expected text, character by character, else 0";
    const VOTES: &'static [Vote] = Vote::ALL;
    type Options = ExactMatchOptions;
    type Expected = String;
    type Answer = String;

    fn new(options: ExactMatchOptions, building: &mut Building<'_>) -> Result<ExactMatch> {
        Ok(ExactMatch { expected: building.template(&options.expected)? })
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<String, String> {
        Ok(normalize.apply(&render(&self.expected, instance)?).into_owned())
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<String> {
        Some(normalize.apply(text).into_owned())
    }

    fn score(&self, expected: &String, answer: &String) -> f64 {
        one_if(expected == answer)
    }
}

/// Options of `contains` and `starts_with`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartOptions {
    /// The text to look for: a template over the instance. It must not come out empty, as every answer holds that.
    #[schemars(with = "String")]
    expected: Spanned<String>,
    /// Whether upper and lower case are the same.
    #[serde(default)]
    ignore_case: bool,
}

/// A text that is looked for in the answer.
struct Part {
    expected: Template,
    ignore_case: bool,
}

impl Part {
    fn new(options: PartOptions, building: &mut Building<'_>) -> Result<Part> {
        Ok(Part { expected: building.template(&options.expected)?, ignore_case: options.ignore_case })
    }

    fn read(&self, text: &str, normalize: &Normalize) -> String {
        let text = normalize.apply(text);
        if self.ignore_case { text.to_lowercase() } else { text.into_owned() }
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<String, String> {
        let expected = self.read(&render(&self.expected, instance)?, normalize);
        if expected.is_empty() {
            return Err("the expected text is empty, which every response would hold".to_owned());
        }
        Ok(expected)
    }
}

/// `contains`.
pub struct Contains(Part);

impl Judge for Contains {
    const NAME: &'static str = "contains";
    const SUMMARY: &'static str = "1 where the answer holds the expected text anywhere, else 0";
    const VOTES: &'static [Vote] = Vote::BINARY;
    type Options = PartOptions;
    type Expected = String;
    type Answer = String;

    fn new(options: PartOptions, building: &mut Building<'_>) -> Result<Contains> {
        Part::new(options, building).map(Contains)
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<String, String> {
        self.0.expect(instance, normalize)
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<String> {
        Some(self.0.read(text, normalize))
    }

    fn score(&self, expected: &String, answer: &String) -> f64 {
        one_if(answer.contains(expected.as_str()))
    }
}

/// `starts_with`.
pub struct StartsWith(Part);

impl Judge for StartsWith {
    const NAME: &'static str = "starts_with";
    const SUMMARY: &'static str = "1 where the answer begins with the expected text, else 0";
    const VOTES: &'static [Vote] = Vote::BINARY;
    type Options = PartOptions;
    type Expected = String;
    type Answer = String;

    fn new(options: PartOptions, building: &mut Building<'_>) -> Result<StartsWith> {
        Part::new(options, building).map(StartsWith)
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<String, String> {
        self.0.expect(instance, normalize)
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<String> {
        Some(self.0.read(text, normalize))
    }

    fn score(&self, expected: &String, answer: &String) -> f64 {
        one_if(answer.starts_with(expected.as_str()))
    }
}

/// Options of `regex`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegexOptions {
    /// The regex to find (not a template). ^ and $ tie it to the ends, (?i) makes case not matter, (?s) lets . match
    /// a line break.
    #[schemars(with = "String")]
    pattern: Spanned<String>,
}

/// `regex`.
pub struct Matches(Regex);

/// What a pattern made of an answer.
#[derive(PartialEq)]
pub struct Found {
    matched: bool,
    /// What was matched; where nothing was, the answer.
    text: String,
}

impl Judge for Matches {
    const NAME: &'static str = "regex";
    const SUMMARY: &'static str = "1 where a regex matches in the answer, else 0";
    const VOTES: &'static [Vote] = Vote::ALL;
    type Options = RegexOptions;
    type Expected = ();
    /// Answers in which the same text matched are one answer to a majority.
    type Answer = Found;

    fn new(options: RegexOptions, building: &mut Building<'_>) -> Result<Matches> {
        building.regex(&options.pattern).map(Matches)
    }

    fn expect(&self, _: &Instance, _: &Normalize) -> Result<(), String> {
        Ok(())
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<Found> {
        let text = normalize.apply(text);
        Some(match self.0.find(&text) {
            Some(found) => Found { matched: true, text: found.as_str().to_owned() },
            None => Found { matched: false, text: text.into_owned() },
        })
    }

    fn score(&self, (): &(), answer: &Found) -> f64 {
        one_if(answer.matched)
    }
}

#[cfg(test)]
mod tests {
    use crate::metric::text::tests::{refused, score, try_score};
    use serde_json::json;

    const EXACT: &str = "type = \"exact_match\"\nexpected = \"{{ answer }}\"\n";

    #[test]
    fn exact_match_is_exact_until_told_otherwise() {
        assert_eq!(score(EXACT, json!({"answer": "Zürich"}), &["Zürich"]), 1.0);
        assert_eq!(score(EXACT, json!({"answer": "Zürich"}), &["Zürich\n"]), 0.0);
        assert_eq!(score(EXACT, json!({"answer": ""}), &[""]), 1.0);
        assert_eq!(score(EXACT, json!({"answer": 42}), &["42"]), 1.0);
        let both = format!("{EXACT}normalize = [\"trim\", \"lowercase\"]");
        assert_eq!(score(&both, json!({"answer": " ZÜRICH"}), &["zürich\n"]), 1.0);
    }

    #[test]
    fn the_example_of_the_formats_page() {
        let lines = "type = \"exact_match\"\nexpected = \"{{ answer }}\"\nextract = 'Answer\\(\"\\s*([^\"])'\n\
                     normalize = [\"trim\", \"uppercase\"]\nvote = \"majority\"";
        let answer = json!({"answer": "b"});
        assert_eq!(score(lines, answer.clone(), &["x Answer(\" B\")"]), 1.0);
        assert_eq!(score(lines, answer.clone(), &["Answer(\"a\")", "Answer(\"b\")", "none", "Answer(\"B\")"]), 1.0);
        assert_eq!(score(lines, answer.clone(), &["Answer(\"a\")", "Answer(\"b\")"]), 0.0);
        assert_eq!(score(lines, answer, &["none", "b"]), 0.0);
    }

    #[test]
    fn votes_over_many_responses() {
        let vote = |vote: &str| format!("{EXACT}vote = \"{vote}\"");
        let texts: Vec<String> = (0..200).map(|i| if i % 4 == 1 { "y".into() } else { format!("n{i}") }).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let answer = json!({"answer": "y"});
        assert_eq!(score(&vote("first"), answer.clone(), &texts), 0.0);
        assert_eq!(score(&vote("any"), answer.clone(), &texts), 1.0);
        assert_eq!(score(&vote("mean"), answer.clone(), &texts), 0.25);
        assert_eq!(score(&vote("majority"), answer.clone(), &texts), 1.0);
        assert!(score(&vote("expected_success"), answer, &texts) > 0.999_999);
    }

    #[test]
    fn contains_and_starts_with() {
        let lines = |kind: &str, more: &str| format!("type = \"{kind}\"\nexpected = \"{{{{ a }}}}\"\n{more}");
        let a = || json!({"a": "Ö1"});
        assert_eq!(score(&lines("contains", ""), a(), &["an Ö1 here"]), 1.0);
        assert_eq!(score(&lines("contains", ""), a(), &["an ö1 here"]), 0.0);
        assert_eq!(score(&lines("contains", "ignore_case = true"), a(), &["an ö1 here"]), 1.0);
        assert_eq!(score(&lines("starts_with", ""), a(), &["Ö1 here"]), 1.0);
        assert_eq!(score(&lines("starts_with", ""), a(), &[" Ö1 here"]), 0.0);
        assert_eq!(score(&lines("starts_with", "normalize = [\"trim\"]"), a(), &[" Ö1 here"]), 1.0);
        assert!(try_score(&lines("contains", ""), json!({"a": ""}), &["x"]).unwrap_err().contains("empty"));
        assert!(refused(&lines("contains", "vote = \"majority\"")).message().contains("majority"));
    }

    #[test]
    fn regex_votes_by_what_was_matched() {
        let lines = "type = \"regex\"\npattern = '(?i)yes|yep'\n";
        assert_eq!(score(lines, json!({}), &["well, YES"]), 1.0);
        assert_eq!(score(lines, json!({}), &["no"]), 0.0);
        let majority = format!("{lines}vote = \"majority\"");
        assert_eq!(score(&majority, json!({}), &["no", "so yes", "oh yes"]), 1.0);
        assert_eq!(score(&majority, json!({}), &["no", "yes", "no"]), 0.0);
        assert_eq!(score(&majority, json!({}), &["no", "yes", "yep"]), 0.0);
    }

    #[test]
    fn a_missing_field_is_no_score() {
        assert_eq!(
            try_score(EXACT, json!({"b": 1}), &["x"]).unwrap_err(),
            "what is expected (`{{ answer }}`) cannot be rendered: `answer` is undefined"
        );
    }
}
