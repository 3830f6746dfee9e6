//! Numbers, amounts, texts and settings as people read them, and what a run came to in sentences; shared by the terminal and
//! the page.

mod told;

use std::time::Duration;

use serde_json::Value;

use crate::money::Usd;
use crate::report::rows::RankingRow;
use crate::space::Configuration;
use crate::study::Standing;
use crate::study::trial::short;

pub use told::{
    answer, baseline, cheaper, claims, held_out, made_up, says_made_up, spent, stopped, tested_against_baseline, versus,
};

/// A score or a metric with about three digits: `0.792`, `12.35`, `1.20e-7`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size == 0.0 => "0.000".to_owned(),
        _ if !(0.0005..1e6).contains(&size) => format!("{value:.2e}"),
        _ if size >= 1000.0 => format!("{value:.0}"),
        _ if size >= 100.0 => format!("{value:.1}"),
        _ if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A score with its interval: `0.792 [0.737, 0.838]`; `-` where there is none.
pub fn scored(score: Option<f64>, ci95: Option<[f64; 2]>) -> String {
    match (score, ci95) {
        (None, _) => "-".to_owned(),
        (Some(score), None) => number(score),
        (Some(score), Some([low, high])) => format!("{} [{}, {}]", number(score), number(low), number(high)),
    }
}

/// A difference with its sign: `+0.100`.
pub fn signed(value: f64) -> String {
    let sign = if value > 0.0 { "+" } else { "" };
    format!("{sign}{}", number(value))
}

/// An amount with three digits: `$0.0579`.
pub fn dollars(amount: Usd) -> String {
    match amount < Usd::ZERO {
        true => format!("-${}", short(-amount.as_f64())),
        false => format!("${}", short(amount.as_f64())),
    }
}

/// A count with thousands set apart: `12,345`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 instance`, `250 instances`.
pub fn plural(value: u64, what: &str) -> String {
    format!("{} {what}{}", count(value), if value == 1 { "" } else { "s" })
}

/// A length of time.
pub fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds.div_ceil(60)),
        seconds @ 3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// True for characters that could hide, reorder or command: controls (but the newline and the tab), and the marks that
/// turn the direction of writing.
pub fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// A text of a user, a model or a file with every unsafe character replaced; newlines and tabs stay.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) { '\u{fffd}' } else { c }).collect()
}

/// The same with every unsafe character shown as what it is: `␀`, `⟨U+202E⟩`.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if !is_unsafe(c) => shown.push(c),
            '\u{0}'..='\u{1f}' => shown.extend(char::from_u32(0x2400 + c as u32)),
            '\u{7f}' => shown.push('␡'),
            _ => shown += &format!("⟨U+{:04X}⟩", c as u32),
        }
    }
    shown
}

/// The same on one line.
pub fn line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

/// At most `most` characters, the last an ellipsis where something was cut.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A parameter's value on one line: words bare, other texts in quotes, anything else as JSON.
pub fn value(value: &Value, most: usize) -> String {
    match value {
        Value::String(text) => {
            let bare = !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"');
            // What is not shown need not be escaped: texts may be long.
            let start: String = text.chars().take(most + 1).collect();
            let shown = cut(&if bare { start } else { Value::from(start).to_string() }, most);
            line(&shown)
        }
        other => line(&cut(&other.to_string(), most)),
    }
}

/// `model=gpt-4o prompt=cot n=3` with the prompt and the model first.
pub fn configuration(configuration: &Configuration, most: usize) -> String {
    let mut parts: Vec<(&String, &Value)> = configuration.0.iter().collect();
    parts.sort_by_key(|(name, _)| place(name));
    let parts: Vec<String> =
        parts.iter().map(|(name, of)| format!("{}={}", line(&cut(name, most)), value(of, most))).collect();
    parts.join(" ")
}

/// Where a parameter stands among the others: the prompt first, then the model.
pub fn place(name: &str) -> u8 {
    match name {
        "prompt" => 0,
        "model" => 1,
        _ => 2,
    }
}

/// The indices of the parameters that tell these rows apart, the prompt first, then the model; all of the first row's
/// active ones where nothing does.
pub fn varying(rows: &[&RankingRow]) -> Vec<usize> {
    let Some(first) = rows.first() else { return Vec::new() };
    let differs = |&at: &usize| rows.iter().any(|row| row.configuration.get(at) != first.configuration.get(at));
    let mut at: Vec<usize> = (0..first.configuration.len()).filter(differs).collect();
    if at.is_empty() {
        at = (0..first.configuration.len()).filter(|&at| first.configuration[at].1.is_some()).collect();
    }
    at.sort_by_key(|&at| place(&first.configuration[at].0));
    at
}

/// A probability with two digits: `0.41`, `<0.01`, `>0.99`.
pub fn probability(p: f64) -> String {
    match p {
        _ if p <= 0.0 => "0".to_owned(),
        _ if p >= 1.0 => "1".to_owned(),
        _ if p < 0.01 => "<0.01".to_owned(),
        _ if p > 0.99 => ">0.99".to_owned(),
        _ => format!("{p:.2}"),
    }
}

/// A share with about two digits: `40 %`, `5.9 %`, `0.0312 %`.
pub fn percent(share: f64) -> String {
    match 100.0 * share {
        percent @ 9.95.. => format!("{percent:.0} %"),
        percent @ 0.995..9.95 => format!("{percent:.1} %"),
        percent => format!("{} %", short(percent)),
    }
}

/// `1 instance is`, `3 instances are`.
pub fn are(value: u64) -> String {
    format!("{} {}", plural(value, "instance"), if value == 1 { "is" } else { "are" })
}

/// `p = 0.012`.
pub fn p_value(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") }
}

/// Why a configuration of this standing cannot be best, where nothing more is known.
pub fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Eligible => "nothing stands against it",
        Standing::Unsure => "it may be over the inference budget",
        Standing::Unreliable => "too many instances are missing",
        Standing::Infeasible => "it is over the inference budget",
        Standing::Unjudged => "no instance was judged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_have_about_three_digits() {
        let table = [
            (0.0, "0.000"),
            (-0.0, "0.000"),
            (0.79249, "0.792"),
            (-1.5, "-1.500"),
            (12.3456, "12.35"),
            (123.456, "123.5"),
            (54321.0, "54321"),
            (1.2e-7, "1.20e-7"),
            (f64::MAX, "1.80e308"),
            (f64::MIN_POSITIVE, "2.23e-308"),
        ];
        for (value, wanted) in table {
            assert_eq!(number(value), wanted);
        }
        assert_eq!(signed(0.1), "+0.100");
        assert_eq!(scored(Some(0.5), Some([0.4, 0.6])), "0.500 [0.400, 0.600]");
        assert_eq!(scored(None, None), "-");
        assert_eq!((count(999), count(1000), count(1234567)), ("999".into(), "1,000".into(), "1,234,567".into()));
        assert_eq!(dollars(Usd::from_pico(57_912_345_678)), "$0.0579");
        let shares = [0.3958, 0.0593, 0.0999, 0.00996, 0.000312, 0.0].map(percent);
        assert_eq!(shares, ["40 %", "5.9 %", "10 %", "1.0 %", "0.0312 %", "0 %"]);
    }

    #[test]
    fn what_cannot_be_seen_is_shown() {
        assert_eq!(visible("a\u{0}b\u{1b}[2J\nc\u{202e}d\u{7f}\u{85}"), "a␀b␛[2J\nc⟨U+202E⟩d␡⟨U+0085⟩");
    }

    #[test]
    fn values_are_one_safe_line() {
        let table = [
            (json!("gpt-4o"), "gpt-4o"),
            (json!("Let's think"), "\"Let's think\""),
            (json!(""), "\"\""),
            (json!(["\n\n", 1]), "[\"\\n\\n\",1]"),
            (json!(0.5), "0.5"),
            (json!("\u{1b}[31mred"), "\"\\u001b[31mred\""),
            (json!("a\u{202e}b\u{9b}c"), "\"a\u{fffd}b\u{fffd}c\""),
            (json!("x".repeat(100_000)), "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"),
        ];
        for (given, wanted) in table {
            assert_eq!(value(&given, 32), wanted);
        }
    }

    #[test]
    fn times_are_short() {
        let table = [(59, "59 s"), (61, "2 min"), (7260, "2 h 1 min"), (172_799, "47 h 59 min"), (260_000, "3 days")];
        for (seconds, wanted) in table {
            assert_eq!(span(Duration::from_secs(seconds)), wanted);
        }
    }
}
