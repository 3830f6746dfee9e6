//! What all metrics on text have in common: extract, normalise both sides, vote.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use regex::Regex;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::declare::{Building, Scorer};
use super::{Metric, Metrics, Vote};
use crate::diagnostic::Result;
use crate::prompt::{Context, Fields, Template};
use crate::provider::Sample;
use crate::task::Instance;

/// One way of reading and scoring an answer; its constants are the declaration of a built-in metric.
pub trait Judge: Send + Sync + Sized + 'static {
    /// The `type` in the table.
    const NAME: &'static str;
    /// One line that says what it measures.
    const SUMMARY: &'static str;
    /// The lowest and the highest score.
    const RANGE: (f64, f64) = (0.0, 1.0);
    /// The votes that make sense for it.
    const VOTES: &'static [Vote];
    /// What `normalize` is where it is not given.
    const NORMALIZE: &'static [Normalizer] = &[];
    /// It takes a few microseconds for an answer of usual length (see [`Metric::quick`]).
    const QUICK: bool = true;
    /// Its own options; the fields' docs are the help.
    type Options: DeserializeOwned + JsonSchema;
    /// What responses are compared with.
    type Expected;
    /// A response as understood. Equal ones are one answer to a majority.
    type Answer: PartialEq;

    /// Reads the options.
    fn new(options: Self::Options, building: &mut Building<'_>) -> Result<Self>;
    /// What is expected for an instance, normalised. An error here fails the evaluation, it is no score.
    fn expect(&self, instance: &Instance, normalize: &Normalize) -> Result<Self::Expected, String>;
    /// Understands what was extracted; `None` where it cannot.
    fn read(&self, text: &str, sample: &Sample, normalize: &Normalize) -> Option<Self::Answer>;
    /// The score, within the range.
    fn score(&self, expected: &Self::Expected, answer: &Self::Answer) -> f64;

    /// The range with these options, where it is narrower than [`Judge::RANGE`].
    fn range(&self) -> (f64, f64) {
        Self::RANGE
    }
    /// The votes with these options, where there are more than in [`Judge::VOTES`] or fewer.
    fn votes(&self) -> &'static [Vote] {
        Self::VOTES
    }
}

/// One step of normalising a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalizer {
    /// Takes white space off both ends.
    Trim,
    /// To lower case.
    Lowercase,
    /// To upper case.
    Uppercase,
    /// Every run of white space becomes one space, and none stays at the ends.
    CollapseWhitespace,
    /// Takes out all white space.
    RemoveWhitespace,
    /// Takes out punctuation (Unicode's, and ASCII's symbols such as $ and +).
    StripPunctuation,
    /// Takes out the words a, an and the.
    StripArticles,
    /// Keeps the first line that is not blank.
    FirstLine,
    /// Keeps the last line that is not blank.
    LastLine,
}

impl Normalizer {
    /// The word used in files.
    pub fn word(self) -> &'static str {
        match self {
            Normalizer::Trim => "trim",
            Normalizer::Lowercase => "lowercase",
            Normalizer::Uppercase => "uppercase",
            Normalizer::CollapseWhitespace => "collapse_whitespace",
            Normalizer::RemoveWhitespace => "remove_whitespace",
            Normalizer::StripPunctuation => "strip_punctuation",
            Normalizer::StripArticles => "strip_articles",
            Normalizer::FirstLine => "first_line",
            Normalizer::LastLine => "last_line",
        }
    }

    fn apply(self, text: &str) -> String {
        static PUNCTUATION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{P}$+<=>^`|~]").expect("a valid regex"));
        static ARTICLES: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(?i)\b(?:a|an|the)\b").expect("a valid regex"));
        let blank = |line: &&str| !line.trim().is_empty();
        match self {
            Normalizer::Trim => text.trim().to_owned(),
            Normalizer::Lowercase => text.to_lowercase(),
            Normalizer::Uppercase => text.to_uppercase(),
            Normalizer::CollapseWhitespace => text.split_whitespace().collect::<Vec<_>>().join(" "),
            Normalizer::RemoveWhitespace => text.split_whitespace().collect(),
            Normalizer::StripPunctuation => PUNCTUATION.replace_all(text, "").into_owned(),
            Normalizer::StripArticles => ARTICLES.replace_all(text, " ").into_owned(),
            Normalizer::FirstLine => text.lines().find(blank).unwrap_or("").to_owned(),
            Normalizer::LastLine => text.lines().rev().find(blank).unwrap_or("").to_owned(),
        }
    }
}

/// The steps that both the response and what is expected go through, in their order.
#[derive(Clone, Debug, Default)]
pub struct Normalize(pub Vec<Normalizer>);

impl Normalize {
    /// The normalised text.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0.iter().fold(Cow::Borrowed(text), |text, step| Cow::Owned(step.apply(&text)))
    }
}

/// Which of several is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// The first one in the text.
    First,
    /// The last one in the text.
    Last,
}

/// The options that every metric on text has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// A regex that finds the answer in a response: its group 1, or the whole match where it has none. Where it finds
    /// nothing, the response scores 0 and has no vote. Without it the whole response is the answer.
    #[schemars(with = "Option<String>")]
    pub extract: Option<Spanned<String>>,
    /// Whether the first or the last match of `extract` counts.
    #[schemars(with = "Option<Take>", extend("default" = "first"))]
    pub extract_from: Option<Spanned<Take>>,
    /// What is done to the extracted text and to the expected one before they are compared, in this order.
    #[schemars(with = "Option<Vec<Normalizer>>")]
    pub normalize: Option<Spanned<Vec<Normalizer>>>,
    /// How n responses become one number.
    #[schemars(with = "Option<Vote>", extend("default" = "first"))]
    pub vote: Option<Spanned<Vote>>,
}

/// Finds the answer in a response.
#[derive(Clone, Debug)]
pub struct Extract {
    pattern: Option<Regex>,
    take: Take,
}

impl Extract {
    /// By a regex, or the whole text.
    pub fn new(pattern: Option<Regex>, take: Take) -> Extract {
        Extract { pattern, take }
    }

    /// Group 1 (where it took part, else the whole match) of the first or last match.
    pub fn apply<'t>(&self, text: &'t str) -> Option<&'t str> {
        let Some(pattern) = &self.pattern else {
            return Some(text);
        };
        let found = match self.take {
            Take::First => pattern.captures(text),
            Take::Last => pattern.captures_iter(text).last(),
        }?;
        found.get(1).or_else(|| found.get(0)).map(|part| part.as_str())
    }
}

/// A metric on text.
pub(super) struct TextMetric<J> {
    name: String,
    extract: Extract,
    normalize: Normalize,
    vote: Vote,
    judge: J,
}

impl<J: Judge> Metric for TextMetric<J> {
    fn score(&self, instance: &Instance, responses: &[Sample]) -> Result<Metrics, String> {
        if responses.is_empty() {
            return Err("there is no response to judge".to_owned());
        }
        let expected = self.judge.expect(instance, &self.normalize)?;
        // The first response is all that `first` looks at.
        let looked_at = if self.vote == Vote::First { &responses[..1] } else { responses };
        let answers: Vec<Option<J::Answer>> = looked_at
            .iter()
            .map(|sample| self.judge.read(self.extract.apply(&sample.text)?, sample, &self.normalize))
            .collect();
        let value = self.vote.combine(&answers, |answer| self.judge.score(&expected, answer));
        Ok(Metrics::from([(self.name.clone(), value)]))
    }

    fn quick(&self) -> bool {
        J::QUICK
    }
}

impl<J: Judge> Scorer for TextMetric<J> {
    fn check(&self, instance: &Instance) -> Result<(), String> {
        self.judge.expect(instance, &self.normalize).map(|_| ())
    }

    fn range(&self) -> Option<(f64, f64)> {
        Some(self.judge.range())
    }

    fn output(&self) -> Option<&str> {
        Some(&self.name)
    }
}

/// Builds a metric on text from its table.
pub(super) fn build<J: Judge>(building: &mut Building<'_>) -> Result<Arc<dyn Scorer>> {
    let common: Common = building.options()?;
    let judge = J::new(building.options()?, building)?;
    let pattern = common.extract.as_ref().map(|pattern| building.regex(pattern)).transpose()?;
    if let (None, Some(take)) = (&pattern, &common.extract_from) {
        return Err(building.error("`extract_from` needs `extract`", take.span(), "from what?"));
    }
    let vote = match &common.vote {
        None => Vote::First,
        Some(vote) if judge.votes().contains(vote.get_ref()) => *vote.get_ref(),
        Some(vote) => {
            let words: Vec<&str> = judge.votes().iter().map(|vote| vote.word()).collect();
            let message = format!("`{}` cannot be voted on by {} as set up here", J::NAME, vote.get_ref().word());
            let why = match vote.get_ref() {
                Vote::Majority => "its answers are rarely the same twice, so there is nothing to count",
                _ => "its scores are no successes and failures",
            };
            let error = building.error(message, vote.span(), why);
            return Err(error.help(format!("it can be one of {}", words.join(", "))));
        }
    };
    let normalize = common.normalize.map_or_else(|| J::NORMALIZE.to_vec(), Spanned::into_inner);
    let take = common.extract_from.map_or(Take::First, Spanned::into_inner);
    let (name, extract) = (building.name().to_owned(), Extract::new(pattern, take));
    Ok(Arc::new(TextMetric { name, extract, normalize: Normalize(normalize), vote, judge }))
}

/// A template over an instance; the error says what it was for.
pub(super) fn render(template: &Template, instance: &Instance) -> Result<String, String> {
    static NONE: LazyLock<Arc<Fields>> = LazyLock::new(|| Fields::new([]));
    template
        .render(&Context::new(&instance.rendered, &NONE))
        .map_err(|problem| format!("what is expected (`{}`) cannot be rendered: {problem}", template.text()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::diagnostic::{Error, Source};
    use crate::metric::{Built, build, judge};
    use crate::provider::FinishReason;
    use crate::task::MetricTable;

    pub fn instance(fields: serde_json::Value) -> Instance {
        Instance::new("1", fields.as_object().unwrap().clone())
    }

    pub fn samples(texts: &[&str]) -> Vec<Sample> {
        let sample = |text: &&str| Sample::new(*text, FinishReason::STOP, 7);
        texts.iter().map(sample).collect()
    }

    pub fn table(lines: &str) -> MetricTable {
        let source = Source::new("task.toml", format!("[metrics.m]\n{lines}\n"));
        let document = toml::de::DeTable::parse(source.text()).unwrap();
        let mut all = MetricTable::all(&source, document.get_ref(), std::path::Path::new("")).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    pub fn built(lines: &str) -> Built {
        build(&table(lines)).unwrap_or_else(|error| panic!("{lines}: {error:?}"))
    }

    pub fn refused(lines: &str) -> Error {
        build(&table(lines)).err().unwrap_or_else(|| panic!("{lines} is accepted"))
    }

    pub fn try_score(lines: &str, fields: serde_json::Value, texts: &[&str]) -> Result<f64, String> {
        let built = built(lines);
        let metrics = judge(&*built.metric, &instance(fields), &samples(texts))?;
        assert_eq!(metrics.len(), 1);
        Ok(metrics["m"])
    }

    pub fn score(lines: &str, fields: serde_json::Value, texts: &[&str]) -> f64 {
        try_score(lines, fields, texts).unwrap_or_else(|error| panic!("{lines}: {error}"))
    }

    fn normalized(steps: &[Normalizer], text: &str) -> String {
        Normalize(steps.to_vec()).apply(text).into_owned()
    }

    #[test]
    fn normalisers() {
        use Normalizer::*;
        assert_eq!(normalized(&[], " A  b\n"), " A  b\n");
        assert_eq!(normalized(&[Trim, Uppercase], "\u{a0} straße\t"), "STRASSE");
        assert_eq!(normalized(&[CollapseWhitespace], " a \n\n b\u{3000}c "), "a b c");
        assert_eq!(normalized(&[RemoveWhitespace], " a \n b "), "ab");
        assert_eq!(normalized(&[StripPunctuation], "¿«A.b»? $1+2 — c_d|e"), "Ab 12  cde");
        assert_eq!(normalized(&[StripArticles, CollapseWhitespace], "The cat, an ant, a theatre"), "cat, ant, theatre");
        assert_eq!(normalized(&[FirstLine], "\n  \r\n x \r\ny\n"), " x ");
        assert_eq!(normalized(&[LastLine, Trim], "\n x\n y \n\n"), "y");
        assert_eq!(normalized(&[FirstLine, LastLine, Trim, StripArticles], ""), "");
    }

    #[test]
    fn nothing_is_expected_where_the_answer_is_null_and_truth_is_as_in_json() {
        let exact = "type = \"exact_match\"\nexpected = \"{{ answer }}\"";
        let problem = try_score(exact, serde_json::json!({"answer": null}), &["None"]).unwrap_err();
        assert_eq!(problem, "what is expected (`{{ answer }}`) cannot be rendered: `answer` is null");
        assert_eq!(score(exact, serde_json::json!({"answer": true}), &["true"]), 1.0);
        let equals = "type = \"json\"\nequals = { a = \"{{ answer }}\" }";
        assert_eq!(score(equals, serde_json::json!({"answer": null}), &["{\"a\": null}"]), 1.0);
    }

    #[test]
    fn extraction_takes_group_1_or_the_whole_match() {
        let apply = |pattern: &str, take: Take, text: &'static str| {
            Extract::new(Some(Regex::new(pattern).unwrap()), take).apply(text)
        };
        assert_eq!(apply(r"=(\d)", Take::First, "=1 =2"), Some("1"));
        assert_eq!(apply(r"=(\d)", Take::Last, "=1 =2"), Some("2"));
        assert_eq!(apply(r"=\d", Take::Last, "=1 =2"), Some("=2"));
        assert_eq!(apply(r"=(\d)|none", Take::First, "none"), Some("none"));
        assert_eq!(apply(r"=(\d?)", Take::First, "="), Some(""));
        assert_eq!(apply(r"=(\d)", Take::First, "no"), None);
        assert_eq!(Extract::new(None, Take::First).apply(" é\n"), Some(" é\n"));
    }

    #[test]
    fn words_in_files_are_those_of_the_code() {
        for vote in Vote::ALL {
            assert_eq!(serde_json::to_value(vote).unwrap(), vote.word());
        }
        for step in [Normalizer::RemoveWhitespace, Normalizer::StripArticles, Normalizer::Trim, Normalizer::LastLine] {
            assert_eq!(serde_json::to_value(step).unwrap(), step.word());
        }
    }
}
