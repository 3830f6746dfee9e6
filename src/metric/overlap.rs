//! How far two texts share their words: `token_f1` and `rouge_l`.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::Vote;
use super::declare::Building;
use super::text::{Judge, Normalize, Normalizer, render};
use crate::diagnostic::Result;
use crate::prompt::Template;
use crate::provider::Sample;
use crate::task::Instance;

/// Options of `token_f1` and `rouge_l`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OverlapOptions {
    /// The reference text: a template over the instance.
    #[schemars(with = "String")]
    expected: Spanned<String>,
}

/// True for characters of scripts that put no space between words: each is a token of its own.
pub(super) fn stands_alone(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{323af}')
}

/// Runs of characters that belong to tokens; each character that stands alone is one token.
fn tokens(text: &str, belongs: impl Fn(char) -> bool) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut run = String::new();
    for c in text.chars() {
        let alone = stands_alone(c);
        if (alone || !belongs(c)) && !run.is_empty() {
            tokens.push(std::mem::take(&mut run));
        }
        if alone {
            tokens.push(c.to_string());
        } else if belongs(c) {
            run.push(c);
        }
    }
    if !run.is_empty() {
        tokens.push(run);
    }
    tokens
}

/// The harmonic mean of precision and recall.
fn f_measure(common: usize, answer: usize, expected: usize) -> f64 {
    if common == 0 { 0.0 } else { 2.0 * common as f64 / (answer + expected) as f64 }
}

/// `token_f1`, as the SQuAD data set defines it (Rajpurkar et al. 2016).
pub struct TokenF1(Template);

impl Judge for TokenF1 {
    const NAME: &'static str = "token_f1";
    const SUMMARY: &'static str = "F1 of the words that the answer and the expected text share, as for SQuAD";
    const VOTES: &'static [Vote] = Vote::GRADED;
    const NORMALIZE: &'static [Normalizer] = &[
        Normalizer::Lowercase,
        Normalizer::StripPunctuation,
        Normalizer::StripArticles,
        Normalizer::CollapseWhitespace,
    ];
    type Options = OverlapOptions;
    type Expected = Vec<String>;
    type Answer = Vec<String>;

    fn new(options: OverlapOptions, building: &mut Building<'_>) -> Result<TokenF1> {
        building.template(&options.expected).map(TokenF1)
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<Vec<String>, String> {
        Ok(tokens(&normalize.apply(&render(&self.0, instance)?), |c| !c.is_whitespace()))
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<Vec<String>> {
        Some(tokens(&normalize.apply(text), |c| !c.is_whitespace()))
    }

    fn score(&self, expected: &Vec<String>, answer: &Vec<String>) -> f64 {
        if expected.is_empty() && answer.is_empty() {
            return 1.0;
        }
        let mut left: HashMap<&str, usize> = HashMap::new();
        for token in expected {
            *left.entry(token).or_default() += 1;
        }
        let mut common = 0;
        for token in answer {
            if let Some(count) = left.get_mut(token.as_str()).filter(|count| **count > 0) {
                *count -= 1;
                common += 1;
            }
        }
        f_measure(common, answer.len(), expected.len())
    }
}

/// `rouge_l`: F-measure of the longest common subsequence of words (Lin 2004), precision and recall alike.
pub struct RougeL(Template);

impl RougeL {
    fn words(text: &str) -> Vec<String> {
        tokens(&text.to_lowercase(), char::is_alphanumeric)
    }
}

impl Judge for RougeL {
    const NAME: &'static str = "rouge_l";
    const SUMMARY: &'static str =
        "ROUGE-L: F-measure of the longest common subsequence of words, case and punctuation aside";
    const QUICK: bool = false;
    const VOTES: &'static [Vote] = Vote::GRADED;
    type Options = OverlapOptions;
    type Expected = Vec<String>;
    type Answer = Vec<String>;

    fn new(options: OverlapOptions, building: &mut Building<'_>) -> Result<RougeL> {
        building.template(&options.expected).map(RougeL)
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<Vec<String>, String> {
        Ok(RougeL::words(&normalize.apply(&render(&self.0, instance)?)))
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<Vec<String>> {
        Some(RougeL::words(&normalize.apply(text)))
    }

    fn score(&self, expected: &Vec<String>, answer: &Vec<String>) -> f64 {
        f_measure(common_subsequence(expected, answer), answer.len(), expected.len())
    }
}

/// The length of the longest common subsequence. Words become numbers first, so the inner loop compares integers; its
/// memory is one row.
fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    for token in b {
        let next = numbers.len() as u32;
        numbers.entry(token).or_insert(next);
    }
    let b: Vec<u32> = b.iter().map(|token| numbers[token.as_str()]).collect();
    let mut row = vec![0usize; b.len() + 1];
    for word in a.iter().filter_map(|token| numbers.get(token.as_str())) {
        let mut diagonal = 0;
        for (at, other) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if other == word { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use crate::metric::text::tests::{refused, score};
    use serde_json::json;

    fn compare(kind: &str, expected: &str, answer: &str) -> f64 {
        score(&format!("type = \"{kind}\"\nexpected = \"{{{{ a }}}}\""), json!({"a": expected}), &[answer])
    }

    #[test]
    fn token_f1_is_squads() {
        assert_eq!(compare("token_f1", "the Eiffel Tower", "Eiffel tower!"), 1.0);
        assert_eq!(compare("token_f1", "Eiffel Tower", "in Paris, the Eiffel Tower"), 2.0 * 0.5 / 1.5);
        assert_eq!(compare("token_f1", "b b c", "b c c c"), 4.0 / 7.0);
        assert_eq!(compare("token_f1", "x", ""), 0.0);
        assert_eq!(compare("token_f1", "", "the"), 1.0);
        assert_eq!(compare("token_f1", "東京都", "京都"), 0.8);
    }

    /// Values of rouge-score 0.1.2 (rougeL, no stemming).
    #[test]
    fn rouge_l_is_lins() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(
            compare("rouge_l", "The quick brown fox jumps over the lazy dog", "The quick brown dog jumps on the log."),
            0.588_235_294_117_647,
        );
        near(compare("rouge_l", "police killed the gunman", "police kill the gunman"), 0.75);
        near(compare("rouge_l", "police killed the gunman", "the gunman kill police"), 0.5);
        near(compare("rouge_l", "a b c d e", "e d c b a"), 0.2);
        assert_eq!(compare("rouge_l", "", ""), 0.0);
        assert_eq!(compare("rouge_l", "Ähre!", "ähre"), 1.0);
    }

    #[test]
    fn graded_scores_have_no_majority() {
        for vote in ["majority", "expected_success"] {
            let error = refused(&format!("type = \"rouge_l\"\nexpected = \"x\"\nvote = \"{vote}\""));
            assert_eq!(error.location().as_deref(), Some("task.toml:4:8"));
            assert!(error.advice().unwrap().contains("first, any, mean"));
        }
    }
}
