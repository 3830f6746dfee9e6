//! A judge's reply as a number: one of some words, or a number within a range.

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diagnostic::{Error, Result};

/// What a judge may say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// One of these words, each with what it counts.
    Choices(Vec<(String, f64)>),
    /// A number from .. to.
    Range(f64, f64),
}

impl Scale {
    /// Words with a comma between them: `no,yes` counts 0 and 1, `bad=-1,good=1` what is said.
    pub fn choices(text: &str) -> Result<Scale> {
        let wrong = |what: String| Error::usage(what).help("like --choices no,yes or --choices bad=-1,good=1");
        let mut choices: Vec<(String, f64)> = Vec::new();
        for (at, piece) in text.split(',').enumerate() {
            let (word, value) = match piece.split_once('=') {
                None => (piece.trim(), at as f64),
                Some((word, value)) => match value.trim().parse::<f64>() {
                    Ok(value) if value.is_finite() => (word.trim(), value),
                    _ => return Err(wrong(format!("`{}` is no number", value.trim()))),
                },
            };
            if word.is_empty() || choices.iter().any(|(known, _)| known.eq_ignore_ascii_case(word)) {
                return Err(wrong(format!("choices are words, each once; `{word}` is not")));
            }
            choices.push((word.to_owned(), value));
        }
        if choices.len() < 2 {
            return Err(wrong("a scale has at least two choices".to_owned()));
        }
        Ok(Scale::Choices(choices))
    }

    /// Two numbers: `1..10` (or `1-10`).
    pub fn range(text: &str) -> Result<Scale> {
        let parts =
            text.split_once("..").or_else(|| text.get(1..)?.find('-').map(|at| (&text[..at + 1], &text[at + 2..])));
        let numbers =
            parts.and_then(|(low, high)| Some((low.trim().parse::<f64>().ok()?, high.trim().parse::<f64>().ok()?)));
        match numbers {
            Some((low, high)) if low.is_finite() && high.is_finite() && low < high => Ok(Scale::Range(low, high)),
            _ => Err(Error::usage(format!("`{text}` is no range")).help("like --scale 1..10")),
        }
    }

    /// The number that a reply means, or why it means none.
    pub fn read(&self, reply: &str, extract: Option<&Regex>) -> Result<f64, String> {
        let text = match extract {
            None => reply,
            Some(regex) => {
                let found = regex.captures_iter(reply).last().and_then(|found| found.get(1).or(found.get(0)));
                found.ok_or("the pattern is not in the judge's reply")?.as_str()
            }
        };
        match self {
            Scale::Choices(choices) => chosen(choices, text),
            Scale::Range(low, high) => number(*low, *high, text),
        }
    }
}

/// The last of the words that stands in a text by itself.
fn chosen(choices: &[(String, f64)], text: &str) -> Result<f64, String> {
    let lower = text.to_lowercase();
    let mut best: Option<(usize, usize, f64)> = None;
    for (word, value) in choices {
        let word = word.to_lowercase();
        for (at, _) in lower.match_indices(&word) {
            let end = at + word.len();
            let inner = |c: char| c.is_alphanumeric() || c == '_';
            let alone =
                !lower[..at].chars().next_back().is_some_and(inner) && !lower[end..].chars().next().is_some_and(inner);
            // Of two that end at one place the longer is meant: "not good" rather than "good".
            if alone && best.is_none_or(|(known, begin, _)| end > known || (end == known && at < begin)) {
                best = Some((end, at, *value));
            }
        }
    }
    best.map(|(_, _, value)| value).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| word.as_str()).collect();
        format!("the judge's reply has none of {}", words.join(", "))
    })
}

/// The score in a text: a JSON object's `score`, what follows a word like "score", else the last number within the range.
fn number(low: f64, high: f64, text: &str) -> Result<f64, String> {
    let within = |number: f64| (low..=high).contains(&number);
    let object = text.find('{').zip(text.rfind('}')).and_then(|(from, to)| text.get(from..=to));
    if let Some(Value::Object(object)) = object.and_then(|object| serde_json::from_str(object).ok()) {
        let said = ["score", "rating", "grade"].iter().find_map(|name| object.get(*name));
        let said = said.and_then(|said| said.as_f64().or_else(|| said.as_str()?.trim().parse().ok()));
        if let Some(said) = said {
            return match within(said) {
                true => Ok(said),
                false => Err(format!("the judge says {said}, which is not within {low}..{high}")),
            };
        }
    }
    let numbers = numbers(text);
    let named = |&(at, _, _): &(usize, usize, f64)| {
        let before = text[..at].trim_end_matches([' ', ':', '=', '*', '"', '[', '(', '\n']).to_lowercase();
        ["score", "rating", "grade", "score is", "rating is", "grade is"].iter().any(|word| before.ends_with(word))
    };
    // "7/10" and "7 out of 10" are a seven.
    let over = |&&(at, _, _): &&(usize, usize, f64)| {
        let before = text[..at].trim_end();
        before.ends_with('/') || before.to_lowercase().ends_with("out of")
    };
    let last = numbers.iter().rfind(|number| named(number)).or_else(|| {
        let mut plain = numbers.iter().filter(|number| !over(number) && within(number.2));
        plain.next_back()
    });
    match last {
        Some(&(_, _, number)) if within(number) => Ok(number),
        Some(&(_, _, number)) => Err(format!("the judge says {number}, which is not within {low}..{high}")),
        None => Err(format!("the judge's reply has no number within {low}..{high}")),
    }
}

/// The numbers in a text, each with its place.
fn numbers(text: &str) -> Vec<(usize, usize, f64)> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() || text[..at].chars().next_back().is_some_and(|c| c.is_alphabetic() || c == '_')
        {
            at += 1;
            continue;
        }
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut end = at + digits(at);
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
            end += 1 + digits(end + 1);
        }
        // A minus that follows a digit or a letter is a dash.
        let minus =
            at > 0 && bytes[at - 1] == b'-' && !text[..at - 1].chars().next_back().is_some_and(char::is_alphanumeric);
        let from = if minus { at - 1 } else { at };
        if let Ok(number) = text[from..end].parse() {
            found.push((from, end, number));
        }
        at = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_one_of_the_words() {
        let scale = Scale::choices("no,yes").unwrap();
        for (reply, value) in
            [("Yes", 1.0), ("**no**.", 0.0), ("At first no, but then: YES!", 1.0), ("I know nothing. No", 0.0)]
        {
            assert_eq!(scale.read(reply, None), Ok(value), "{reply}");
        }
        assert!(scale.read("I know nothing, yesterday", None).is_err());
        let scale = Scale::choices("good=1,not good=-1").unwrap();
        assert_eq!((scale.read("this is not good", None), scale.read("good", None)), (Ok(-1.0), Ok(1.0)));
        for wrong in ["one", "a,a", "a,", "a=x,b"] {
            assert!(Scale::choices(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reply_is_a_number() {
        let scale = Scale::range("1..10").unwrap();
        for (reply, value) in [
            ("7", 7.0),
            ("7/10", 7.0),
            ("I give it 8 out of 10.", 8.0),
            ("Score: 3\nThere are 5 reasons.", 3.0),
            ("{\"reason\": \"2 faults\", \"score\": \"6.5\"}", 6.5),
            ("Of 300 words, gpt4 and v2 get a **9**", 9.0),
        ] {
            assert_eq!(scale.read(reply, None), Ok(value), "{reply}");
        }
        assert!(scale.read("score: 11", None).unwrap_err().contains("not within 1..10"));
        assert!(scale.read("none", None).is_err() && scale.read("{\"score\": 0}", None).is_err());
        assert_eq!(Scale::range("-1-1").unwrap(), Scale::Range(-1.0, 1.0));
        assert_eq!(Scale::range("-1..1").unwrap().read("I say -0.5", None), Ok(-0.5));
        assert_eq!(Scale::range("0-5").unwrap().read("range 2-4", None), Ok(4.0));
        assert!(Scale::range("5..1").is_err() && Scale::range("x").is_err());
        let regex = Regex::new(r"<s>(.*?)</s>").unwrap();
        assert_eq!(scale.read("9 <s>4</s> 8", Some(&regex)), Ok(4.0));
    }
}
