//! `choice`: which option of a multiple-choice question an answer means.

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

/// Options of `choice`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChoiceOptions {
    /// The right option's label: a template over the instance. "B", "(B)" and "B. Paris" are the same.
    #[schemars(with = "String")]
    expected: Spanned<String>,
    /// The labels there are, like ["A", "B", "C", "D"] or ["yes", "no"], made of letters and digits; A to Z if not given.
    #[schemars(with = "Option<Vec<String>>")]
    choices: Option<Spanned<Vec<Spanned<String>>>>,
}

/// `choice`.
///
/// Looked for in this order, and of several the last: "the answer is B" and `\boxed{B}`; a label at the beginning
/// ("B", "(B)", "B. because"); "option B", "I choose B"; a label in brackets or bold; a label standing alone.
pub struct Choice {
    expected: Template,
    labels: Vec<String>,
    /// From the surest sign to the least sure; group 1 is the label.
    signs: Vec<Regex>,
}

/// What may stand around a label: white space, brackets, quotes, Markdown, LaTeX.
const DRESS: &str = r#"[\s(\[{*_`"'“‘$\\]*"#;
/// `\text{` and the like.
const LATEX: &str = r"(?:\\?(?:text|textbf|mathrm|mathbf)\s*\{\s*)?";

impl Choice {
    fn with(expected: Template, labels: Vec<String>) -> Result<Choice, regex::Error> {
        let mut longest_first: Vec<&String> = labels.iter().collect();
        longest_first.sort_by_key(|label| std::cmp::Reverse(label.chars().count()));
        let any = longest_first.iter().map(|label| regex::escape(label)).collect::<Vec<_>>().join("|");
        let glue =
            r#"(?:[\s:=*_`"'>—–-]|\b(?:is|was|be|would|should|must|option|choice|letter|the|correct|final|answer)\b)*"#;
        let signs = [
            format!(r"(?i)(?:\banswers?\b{glue}|\\boxed\s*\{{\s*){DRESS}{LATEX}\(?({any})"),
            format!(r"(?i)^[\s(\[{{*_`#>-]*({any})"),
            format!(
                r"(?i)\b(?:option|choice|choose|chose|select|pick|going\s+with|go\s+with)\b{glue}{DRESS}{LATEX}\(?({any})"
            ),
            format!(r"(?i)[(\[{{]\s*({any})\s*[)\]}}]"),
            format!(r"(?i)\*\*\s*\(?({any})[).:]*\s*\*\*"),
            format!(r"(?i)(?:^|[^\pL\pN])({any})"),
        ];
        let signs = signs.iter().map(|sign| Regex::new(sign)).collect::<Result<_, _>>()?;
        Ok(Choice { expected, labels, signs })
    }

    /// The index of the label that a text means.
    fn find(&self, text: &str) -> Option<usize> {
        let beginning = 1;
        let alone = self.signs.len() - 1;
        self.signs.iter().enumerate().find_map(|(rank, sign)| {
            let mut last = None;
            let mut at = 0;
            while let Some(label) = sign.captures_at(text, at).and_then(|found| found.get(1)) {
                let found = self.accept(text, label.range(), rank == beginning, rank == alone);
                last = found.or(last);
                // What was refused may have swallowed the beginning of the next one.
                at = label.start() + text[label.start()..].chars().next().map_or(1, char::len_utf8);
                if at > text.len() {
                    break;
                }
            }
            last
        })
    }

    /// The index of the label that stands at `range`, unless it is part of something else there.
    fn accept(&self, text: &str, range: std::ops::Range<usize>, ends: bool, alone: bool) -> Option<usize> {
        let word = &text[range.clone()];
        let (before, after) = (text[..range.start].chars().next_back(), &text[range.end..]);
        let mut following = after.chars();
        let (next, second) = (following.next(), following.next());
        if before.is_some_and(char::is_alphanumeric) || next.is_some_and(char::is_alphanumeric) {
            return None;
        }
        // "I'm", "A-level", "1.5" and "1,000" are no labels; nor is the 5 of "1.5".
        let joined = |c: char| {
            matches!(c, '\'' | '’' | '-') || word.ends_with(|c: char| c.is_ascii_digit()) && matches!(c, '.' | ',')
        };
        if next.is_some_and(joined) && second.is_some_and(char::is_alphanumeric) {
            return None;
        }
        let mut backwards = text[..range.start].chars().rev();
        if matches!(backwards.next(), Some('.' | ',' | '-')) && backwards.next().is_some_and(char::is_alphanumeric) {
            return None;
        }
        let same_case = self.labels.iter().position(|label| label == word);
        let found =
            same_case.or_else(|| self.labels.iter().position(|label| label.to_lowercase() == word.to_lowercase()))?;
        // Nothing but white space up to the next word, so that it reads on like a sentence.
        let line = after.trim_start_matches([' ', '\t', '\u{a0}']);
        let reads_on = line.len() < after.len() && line.starts_with(char::is_alphanumeric);
        let letter = word.chars().count() == 1 && word.chars().all(char::is_alphabetic);
        let sentence = letter
            && reads_on
            && (same_case.is_none() || line.starts_with(char::is_lowercase) && matches!(word, "A" | "I"));
        let refused = if alone {
            letter && same_case.is_none() || sentence
        } else if ends {
            reads_on && letter
        } else {
            letter && same_case.is_none() && reads_on
        };
        (!refused).then_some(found)
    }
}

impl Judge for Choice {
    const NAME: &'static str = "choice";
    const SUMMARY: &'static str = "1 where the answer picks the expected option of a multiple-choice question, else 0";
    const VOTES: &'static [Vote] = Vote::ALL;
    type Options = ChoiceOptions;
    type Expected = usize;
    type Answer = usize;

    fn new(options: ChoiceOptions, building: &mut Building<'_>) -> Result<Choice> {
        let expected = building.template(&options.expected)?;
        let mut labels: Vec<String> = Vec::new();
        if let Some(choices) = options.choices {
            if choices.get_ref().len() < 2 {
                return Err(building.error("`choices` holds two labels or more", choices.span(), "too few"));
            }
            for choice in choices.into_inner() {
                let (span, label) = (choice.span(), choice.into_inner());
                if label.is_empty() || label.chars().count() > 64 || !label.chars().all(char::is_alphanumeric) {
                    let error = building.error("a label is made of letters and digits alone", span, "this label");
                    return Err(error.help("for longer texts use `exact_match` or `contains`"));
                }
                if labels.iter().any(|known| known.to_lowercase() == label.to_lowercase()) {
                    return Err(building.error(format!("the label `{label}` stands here twice"), span, "again"));
                }
                labels.push(label);
            }
        } else {
            labels.extend(('A'..='Z').map(String::from));
        }
        let span = building.table().span.clone();
        Choice::with(expected, labels).map_err(|error| {
            building.error(format!("these labels are too many or too long: {error}"), span, "this metric")
        })
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<usize, String> {
        let text = render(&self.expected, instance)?;
        self.find(&normalize.apply(&text)).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            format!("what is expected, `{shown}`, is none of the choices")
        })
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<usize> {
        self.find(&normalize.apply(text))
    }

    fn score(&self, expected: &usize, answer: &usize) -> f64 {
        f64::from(u8::from(expected == answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::text::tests::{refused, score, try_score};
    use serde_json::json;

    fn among(labels: &[&str], text: &str) -> Option<String> {
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        let choice = Choice::with(Template::compile("x").unwrap(), labels).unwrap();
        choice.find(text).map(|at| choice.labels[at].clone())
    }

    #[test]
    fn labels_are_found() {
        for (text, label) in [
            ("B", "B"),
            (" (B) ", "B"),
            ("b", "B"),
            ("B.", "B"),
            ("**B**", "B"),
            ("B) Paris", "B"),
            ("B: Paris, as A is wrong", "B"),
            ("(b) Paris", "B"),
            ("The answer is B", "B"),
            ("The answer is (B).", "B"),
            ("The answer is **B**.", "B"),
            ("the correct answer would be option B because A is not", "B"),
            ("**Answer:** C", "C"),
            ("Answer: \n\n**D) Rome**", "D"),
            ("Final answer: $\\boxed{\\text{C}}$", "C"),
            ("So \\boxed{D} it is", "D"),
            ("answer: c", "C"),
            ("A. First, note that A is tempting.\nThe answer is D.", "D"),
            ("The answer is A. Wait, no: the answer is B", "B"),
            ("I think it's C", "C"),
            ("A look at the facts shows that C", "C"),
            ("I choose option (D) here", "D"),
            ("Considering all, option C is right", "C"),
            ("It must be [A]", "A"),
            ("It has to be **A**, clearly", "A"),
            ("The answer is a dog, so C", "C"),
            ("The answer is not A but B", "B"),
            ("\"B\"", "B"),
            ("Ответ: B", "B"),
        ] {
            assert_eq!(among(&["A", "B", "C", "D"], text).as_deref(), Some(label), "{text}");
        }
        for text in ["", "none of them", "A dog", "I do not know", "Because", "A-levels", "E", "(E)", "é", "Answer:"] {
            assert_eq!(among(&["A", "B", "C", "D"], text), None, "{text}");
        }
        assert_eq!(among(&["A", "I"], "I'm sure that I think it is A"), Some("A".into()));
    }

    #[test]
    fn labels_of_other_kinds() {
        assert_eq!(among(&["1", "2", "10"], "The answer is 10").as_deref(), Some("10"));
        assert_eq!(among(&["1", "5"], "It costs 1.5 or 5,000, so 1").as_deref(), Some("1"));
        assert_eq!(among(&["yes", "no"], "Yes, because there is no other way.").as_deref(), Some("yes"));
        assert_eq!(among(&["yes", "no"], "I would say NO").as_deref(), Some("no"));
        assert_eq!(among(&["对", "错"], "对").as_deref(), Some("对"));
    }

    #[test]
    fn scores_and_errors() {
        let lines = "type = \"choice\"\nexpected = \"{{ a }}\"\n";
        assert_eq!(score(lines, json!({"a": "(B)"}), &["The answer is b."]), 1.0);
        assert_eq!(score(lines, json!({"a": "B. Paris"}), &["A"]), 0.0);
        assert_eq!(
            score(&format!("{lines}vote = \"majority\""), json!({"a": "B"}), &["A", "?", "B", "(b)", "?", "?"]),
            1.0
        );
        assert!(try_score(&format!("{lines}choices = [\"A\", \"B\"]"), json!({"a": "E"}), &["A"]).is_err());
        assert_eq!(refused(&format!("{lines}choices = [\"A\", \"a\"]")).location().as_deref(), Some("task.toml:4:17"));
        assert_eq!(
            refused(&format!("{lines}choices = [\"A\", \"(B)\"]")).location().as_deref(),
            Some("task.toml:4:17")
        );
        refused(&format!("{lines}choices = [\"A\"]"));
    }
}
