//! `bleu`: BLEU of one answer (Papineni et al. 2002), smoothed as in Chen & Cherry (2014).

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::Vote;
use super::declare::Building;
use super::overlap::stands_alone;
use super::text::{Judge, Normalize, render};
use crate::diagnostic::Result;
use crate::prompt::Template;
use crate::provider::Sample;
use crate::task::Instance;

/// What is done about n-gram lengths without a match, which would make the whole score 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Smoothing {
    /// Halves the share for each further length without a match (Chen & Cherry's method 3, sacrebleu's default).
    Exponential,
    /// Adds one to matches and total of every length above 1 (their method 2).
    AddOne,
    /// Nothing.
    None,
}

/// Options of `bleu`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BleuOptions {
    /// The reference text: a template over the instance.
    #[schemars(with = "String")]
    expected: Spanned<String>,
    /// The longest n-grams that count.
    #[schemars(with = "Option<u8>", range(min = 1, max = 9), extend("default" = 4))]
    max_order: Option<Spanned<u8>>,
    /// What is done about n-gram lengths without a match.
    #[serde(default = "exponential")]
    #[schemars(extend("default" = "exponential"))]
    smoothing: Smoothing,
}

fn exponential() -> Smoothing {
    Smoothing::Exponential
}

/// `bleu`. Lengths that the answer is too short for are left out (the "effective order").
pub struct Bleu {
    expected: Template,
    max_order: usize,
    smoothing: Smoothing,
}

impl Judge for Bleu {
    const NAME: &'static str = "bleu";
    const SUMMARY: &'static str = "sentence BLEU, smoothed, from 0 to 1; tokens as in mteval-v13a";
    const QUICK: bool = false;
    const VOTES: &'static [Vote] = Vote::GRADED;
    type Options = BleuOptions;
    type Expected = Vec<String>;
    type Answer = Vec<String>;

    fn new(options: BleuOptions, building: &mut Building<'_>) -> Result<Bleu> {
        let max_order = match options.max_order {
            None => 4,
            Some(order) if (1..=9).contains(order.get_ref()) => usize::from(*order.get_ref()),
            Some(order) => return Err(building.error("`max_order` is from 1 to 9", order.span(), "out of range")),
        };
        Ok(Bleu { expected: building.template(&options.expected)?, max_order, smoothing: options.smoothing })
    }

    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<Vec<String>, String> {
        Ok(tokens(&normalize.apply(&render(&self.expected, instance)?)))
    }

    fn read(&self, text: &str, _: &Sample, normalize: &Normalize) -> Option<Vec<String>> {
        Some(tokens(&normalize.apply(text)))
    }

    fn score(&self, expected: &Vec<String>, answer: &Vec<String>) -> f64 {
        bleu(answer, expected, self.max_order, self.smoothing)
    }
}

/// BLEU of one text against one reference, from 0 to 1.
fn bleu(answer: &[String], expected: &[String], max_order: usize, smoothing: Smoothing) -> f64 {
    if answer.is_empty() || expected.is_empty() {
        return 0.0;
    }
    let mut logs = 0.0;
    let mut unmatched = 0;
    let orders = max_order.min(answer.len());
    for order in 1..=orders {
        let (matches, total) = (common_ngrams(answer, expected, order) as f64, (answer.len() + 1 - order) as f64);
        if order == 1 && matches == 0.0 {
            // Without a common word there is no common n-gram of any length.
            return 0.0;
        }
        let precision = match smoothing {
            Smoothing::AddOne if order > 1 => (matches + 1.0) / (total + 1.0),
            Smoothing::Exponential if matches == 0.0 => {
                unmatched += 1;
                0.5f64.powi(unmatched) / total
            }
            _ => matches / total,
        };
        if precision == 0.0 {
            return 0.0;
        }
        logs += precision.ln();
    }
    let brevity = (1.0 - expected.len() as f64 / answer.len() as f64).min(0.0);
    (logs / orders as f64 + brevity).exp().clamp(0.0, 1.0)
}

/// How many n-grams of the answer are in the reference, each at most as often as there.
fn common_ngrams(answer: &[String], expected: &[String], order: usize) -> usize {
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for gram in expected.windows(order) {
        *left.entry(gram).or_default() += 1;
    }
    let mut common = 0;
    for gram in answer.windows(order) {
        if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    common
}

/// Words and marks: marks are tokens of their own, but for an apostrophe, a full stop or comma between digits, and a
/// hyphen that does not follow a digit. These are the rules of NIST's mteval-v13a (which, going over the text with regexes,
/// keeps the second mark of `..5` with the 5); case counts.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let digit = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
    let mut tokens = Vec::new();
    let mut run = String::new();
    for (at, &c) in chars.iter().enumerate() {
        let alone = match c {
            '\'' => false,
            '.' | ',' => !(digit(at.checked_sub(1)) && digit(Some(at + 1))),
            '-' => digit(at.checked_sub(1)),
            c => c.is_ascii_punctuation() || stands_alone(c),
        };
        if (alone || c.is_whitespace()) && !run.is_empty() {
            tokens.push(std::mem::take(&mut run));
        }
        if alone {
            tokens.push(c.to_string());
        } else if !c.is_whitespace() {
            run.push(c);
        }
    }
    if !run.is_empty() {
        tokens.push(run);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::text::tests::{refused, score};
    use serde_json::json;

    #[test]
    fn tokens_are_those_of_mteval() {
        assert_eq!(
            tokens("Hello, world! It's 3.5% (1,000)."),
            ["Hello", ",", "world", "!", "It's", "3.5", "%", "(", "1,000", ")", "."]
        );
        assert_eq!(tokens("well-known 10-year a.b"), ["well-known", "10", "-", "year", "a", ".", "b"]);
        assert_eq!(tokens(" \n"), Vec::<String>::new());
    }

    /// Answer, reference, and the values of sacrebleu 2.6.0: smoothing exp, add-k with k = 1, none; effective order. Its
    /// add-k also counts lengths that the answer is too short for, as matched; ours leaves them out for every smoothing.
    #[rustfmt::skip]
    const SACREBLEU: &[(&str, &str, f64, f64, f64)] = &[
        ("The cat is on the mat.", "The cat sat on the mat.", 0.488_923_022_434_900_9, 0.591_546_368_522_267_8, 0.488_923_022_434_900_9),
        ("the the the the the the the", "the cat is on the mat", 0.078_098_498_423_006_37, 0.192_056_126_374_989_3, 0.0),
        ("It's 3.5% of 1,000 - well-known", "It's 3.5% of 1,000, a well-known figure", 0.483_544_740_474_373_07, 0.528_642_595_784_529_3, 0.483_544_740_474_373_07),
        ("a b", "a b c d e f", 0.135_335_283_236_612_76, 0.135_335_283_236_612_76, 0.135_335_283_236_612_76),
        ("Paris", "Paris, France", 0.135_335_283_236_612_76, 0.135_335_283_236_612_76, 0.135_335_283_236_612_76),
        ("no match here", "something else entirely", 0.0, 0.0, 0.0),
        ("one two three four five six seven", "one two three five four six seven eight", 0.289_858_095_528_128_4, 0.382_979_567_374_380_3, 0.0),
        ("Zürich ist schön", "Zürich ist sehr schön", 0.451_386_440_550_339_05, 0.544_446_059_660_67, 0.0),
    ];

    #[test]
    fn values_are_those_of_sacrebleu() {
        for (answer, expected, exponential, add_one, none) in SACREBLEU {
            for (smoothing, value) in
                [(Smoothing::Exponential, exponential), (Smoothing::AddOne, add_one), (Smoothing::None, none)]
            {
                let ours = bleu(&tokens(answer), &tokens(expected), 4, smoothing);
                if smoothing == Smoothing::AddOne && tokens(answer).len() < 4 {
                    continue;
                }
                assert!((ours - value).abs() < 1e-12, "{answer} {smoothing:?}: {ours} {value}");
            }
        }
    }

    #[test]
    fn options() {
        let lines = "type = \"bleu\"\nexpected = \"{{ a }}\"\n";
        assert_eq!(score(lines, json!({"a": "a b c d e"}), &["a b c d e"]), 1.0);
        assert_eq!(score(lines, json!({"a": "a b c d e"}), &[""]), 0.0);
        assert_eq!(score(&format!("{lines}smoothing = \"none\""), json!({"a": "a b c d"}), &["a c b d"]), 0.0);
        assert_eq!(
            score(&format!("{lines}max_order = 1\nvote = \"any\""), json!({"a": "a b c d"}), &["x", "a c b d"]),
            1.0
        );
        assert_eq!(refused(&format!("{lines}max_order = 10")).location().as_deref(), Some("task.toml:4:13"));
        assert_eq!(refused(&format!("{lines}smoothing = \"add_ones\"")).advice(), Some("did you mean `add_one`?"));
    }
}
