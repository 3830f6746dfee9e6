//! Faults by name, and rules that say when they strike: `503:rate=0.1`, `429:first=3:model=mock-small`.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::faults::{Fault, Lie};
use super::ledger::label;
use crate::diagnostic::{Error, Result};

/// The names of faults, and what each does.
pub const NAMES: &[(&str, &str)] = &[
    ("400", "a request that is wrong; so do 401, 403, 404, 408, 409, 413, 422, 500, 502, 503, 504, 529"),
    ("context_length_exceeded", "400: the prompt is longer than the context window"),
    ("429", "too many requests; says nothing about when to come back"),
    ("rate_limit", "429 with Retry-After in seconds (seconds=1)"),
    ("rate_limit_date", "429 with Retry-After as a date (seconds=1)"),
    ("rate_limit_headers", "429 with x-ratelimit headers only (seconds=1)"),
    ("insufficient_quota", "429: the account is empty"),
    ("redirect", "307 to another host (location=http://elsewhere.invalid/)"),
    ("close", "the connection is closed before the answer"),
    ("reset", "the connection is reset before the answer"),
    ("cut", "the connection ends in the middle of the body; billed"),
    ("reset_body", "the connection is reset in the middle of the body; billed"),
    ("hang", "never any answer; billed"),
    ("slow_body", "a good answer that comes in drops (seconds=1); billed"),
    ("cut_json", "200 with JSON that breaks off; billed"),
    ("malformed", "200 with a body that is no JSON; billed"),
    ("html", "200 with an HTML page"),
    ("no_choices", "200 without completions; billed"),
    ("fewer_choices", "200 with one completion less than n; billed"),
    ("no_usage", "200 without usage; billed"),
    ("usage_negative", "200 with token counts below zero; billed truthfully"),
    ("usage_huge", "200 with token counts above any integer; billed truthfully"),
    ("usage_text", "200 with token counts that are texts; billed truthfully"),
    ("other_model", "200 from a model of another name (name=another-model); billed"),
    ("content_filter", "a completion cut short by the content filter; billed"),
    ("prompt_filtered", "the content filter does not let the prompt in"),
    ("refusal", "the model refuses; billed"),
];

/// The conditions of a rule, in words.
pub const CONDITIONS: &str = "rate=0.1 (a share of them, always the same ones; seed=1), first=3, every=7, from=10, to=20; \
     model=NAME, key=KEY, text=WORDS (in the prompt), path=/v1/files (the other routes), batch=true (lines of batches)";

/// A fault, and when it strikes. All conditions must hold. Counts are of the requests that the conditions on model, key,
/// text, path and batch let through.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    fault: Fault,
    /// As written, without the key.
    text: String,
    rate: Option<f64>,
    seed: u64,
    first: Option<u64>,
    every: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    model: Option<String>,
    key: Option<String>,
    prompt: Option<String>,
    path: Option<String>,
    batch: bool,
}

/// What a rule is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) model: &'a str,
    pub(super) key: &'a str,
    pub(super) prompt: &'a str,
    /// Empty for requests for completions.
    pub(super) path: &'a str,
    pub(super) batch: bool,
}

impl Rule {
    /// Strikes always.
    pub fn always(fault: Fault) -> Rule {
        let text = format!("{:?}", fault.kind);
        Rule {
            fault,
            text,
            rate: None,
            seed: 1,
            first: None,
            every: None,
            from: None,
            to: None,
            model: None,
            key: None,
            prompt: None,
            path: None,
            batch: false,
        }
    }

    /// Strikes this share of requests (0 to 1), by a hash of the seed and the request's number: the same ones each time.
    pub fn rate(self, rate: f64, seed: u64) -> Rule {
        Rule { rate: Some(rate), seed, ..self }
    }

    /// Strikes the first so many requests.
    pub fn first(self, count: u64) -> Rule {
        Rule { first: Some(count), ..self }
    }

    /// Strikes every so manieth request.
    pub fn every(self, period: u64) -> Rule {
        Rule { every: Some(period.max(1)), ..self }
    }

    /// Strikes the requests of these numbers, from 1, both ends included.
    pub fn between(self, from: u64, to: u64) -> Rule {
        Rule { from: Some(from), to: Some(to), ..self }
    }

    /// Strikes requests to this model.
    pub fn model(self, name: &str) -> Rule {
        Rule { model: Some(name.to_owned()), ..self }
    }

    /// Strikes requests with this key.
    pub fn key(self, key: &str) -> Rule {
        Rule { key: Some(label(key)), ..self }
    }

    /// Strikes requests whose prompt has this text.
    pub fn text(self, text: &str) -> Rule {
        Rule { prompt: Some(text.to_owned()), ..self }
    }

    /// Strikes requests of files, batches and models whose path begins like this, and no others.
    pub fn path(self, path: &str) -> Rule {
        Rule { path: Some(path.to_owned()), ..self }
    }

    fn concerns(&self, case: &Case) -> bool {
        let is = |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|wanted| wanted == given);
        let place = match &self.path {
            Some(path) => !case.path.is_empty() && case.path.starts_with(path.as_str()),
            None => case.path.is_empty(),
        };
        place
            && self.batch == case.batch
            && is(&self.model, case.model)
            && is(&self.key, case.key)
            && self.prompt.as_deref().is_none_or(|text| case.prompt.contains(text))
    }

    /// Whether it strikes the request of this number.
    fn strikes(&self, number: u64) -> bool {
        let drawn = self.rate.is_none_or(|rate| {
            let hash = blake3::hash(&[self.seed.to_le_bytes(), number.to_le_bytes()].concat());
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&hash.as_bytes()[..8]);
            ((u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64) < rate
        });
        drawn
            && self.first.is_none_or(|first| number <= first)
            && self.every.is_none_or(|every| number.is_multiple_of(every))
            && self.from.is_none_or(|from| number >= from)
            && self.to.is_none_or(|to| number <= to)
    }
}

/// The fault of a name; `seconds` and `word` fill in what some of them need.
fn named(name: &str, seconds: Option<f64>, word: Option<&str>) -> Option<Fault> {
    let whole = seconds.unwrap_or(1.0).ceil() as u64;
    let fault = match name {
        "context_length_exceeded" => Fault::context_too_long(),
        "rate_limit" => Fault::rate_limited(&whole.to_string()),
        "rate_limit_date" => Fault::rate_limited_until(whole),
        "rate_limit_headers" => Fault::rate_limited_by_headers(whole),
        "insufficient_quota" => Fault::quota(),
        "redirect" => Fault::redirect(word.unwrap_or("http://elsewhere.invalid/")),
        "close" => Fault::close(),
        "reset" => Fault::reset(),
        "cut" => Fault::cut(),
        "reset_body" => Fault::reset_body(),
        "hang" => Fault::hang(),
        "slow_body" => Fault::slow(Duration::try_from_secs_f64(seconds.unwrap_or(1.0)).ok()?),
        "cut_json" => Fault::malformed(),
        "malformed" => Fault::garbled(),
        "html" => Fault::html(),
        "no_choices" => Fault::no_choices(),
        "fewer_choices" => Fault::fewer(),
        "no_usage" => Fault::no_usage(),
        "usage_negative" => Fault::bad_usage(Lie::Negative),
        "usage_huge" => Fault::bad_usage(Lie::Huge),
        "usage_text" => Fault::bad_usage(Lie::Text),
        "other_model" => Fault::other_model(word.unwrap_or("another-model")),
        "content_filter" => Fault::content_filter(),
        "prompt_filtered" => Fault::prompt_filtered(),
        "refusal" => Fault::refusal(),
        status => Fault::status(status.parse().ok().filter(|code| (400..600).contains(code))?),
    };
    Some(fault)
}

impl FromStr for Rule {
    type Err = Error;

    /// Reads `NAME[:CONDITION=VALUE]...`.
    fn from_str(text: &str) -> Result<Rule> {
        let mut parts: Vec<String> = Vec::new();
        for part in text.split(':') {
            match parts.last_mut() {
                // A colon within a value: an address, say.
                Some(last) if !part.contains('=') || part.starts_with("//") => *last = format!("{last}:{part}"),
                _ => parts.push(part.to_owned()),
            }
        }
        let mut parts = parts.into_iter();
        let name = parts.next().unwrap_or_default().trim().to_owned();
        let names = || NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let (mut seconds, mut word, mut billed, mut at_once) = (None, None, None, false);
        // What stands there for now is replaced when all is read.
        let mut rule = Rule::always(Fault::status(500));
        let mut shown = vec![name.clone()];
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((&part, ""));
            let wrong = |what: &str| {
                let more = "for some faults seconds=, location=, name=; billed= and at_once=";
                let there = format!("there are {CONDITIONS}; {more}");
                Error::usage(format!("the fault `{name}` has `{key}={value}`, but it must be {what}; {there}"))
            };
            let count = || value.parse::<u64>().map_err(|_| wrong("a whole number"));
            let flag = || value.parse::<bool>().map_err(|_| wrong("true or false"));
            let share = |most: f64| value.parse().ok().filter(|share: &f64| (0.0..=most).contains(share));
            match key {
                "rate" => rule.rate = Some(share(1.0).ok_or_else(|| wrong("a share from 0 to 1"))?),
                "seed" => rule.seed = count()?,
                "first" => rule.first = Some(count()?),
                "every" => rule.every = Some(count()?.max(1)),
                "from" => rule.from = Some(count()?),
                "to" => rule.to = Some(count()?),
                "model" => rule.model = Some(value.to_owned()),
                "key" => rule.key = Some(label(value)),
                "text" => rule.prompt = Some(value.to_owned()),
                "path" => rule.path = Some(value.to_owned()),
                "batch" => rule.batch = flag()?,
                "seconds" => seconds = Some(share(1e6).ok_or_else(|| wrong("seconds from 0 to a million"))?),
                "location" | "name" => word = Some(value.to_owned()),
                "billed" => billed = Some(flag()?),
                "at_once" => at_once = flag()?,
                _ => return Err(wrong("something that there is")),
            }
            shown.push(if key == "key" { format!("key={}", label(value)) } else { part.clone() });
        }
        let fault = named(&name, seconds, word.as_deref())
            .ok_or_else(|| Error::usage(format!("there is no fault `{name}`; there are {}", names())))?;
        rule.fault = fault;
        rule.fault.billed = billed.unwrap_or(rule.fault.billed);
        rule.fault.late &= !at_once;
        rule.text = shown.join(":");
        Ok(rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Rules with their counts.
#[derive(Debug, Default)]
pub(super) struct Armed(Vec<(Rule, AtomicU64)>);

impl Armed {
    pub(super) fn new(rules: impl IntoIterator<Item = Rule>) -> Armed {
        Armed(rules.into_iter().map(|rule| (rule, AtomicU64::new(0))).collect())
    }

    /// What strikes a request, if anything: the first rule that does. The others count it all the same.
    pub(super) fn strike(&self, case: &Case) -> Option<Fault> {
        let mut fault = None;
        for (rule, count) in &self.0 {
            if rule.concerns(case) {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                if fault.is_none() && rule.strikes(number) {
                    fault = Some(rule.fault.clone());
                }
            }
        }
        fault
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules as they are written.
    pub(super) fn texts(&self) -> Vec<String> {
        self.0.iter().map(|(rule, _)| rule.to_string()).collect()
    }

    /// The rules.
    pub(super) fn rules(&self) -> Vec<Rule> {
        self.0.iter().map(|(rule, _)| rule.clone()).collect()
    }
}

/// The fault that the header `x-mock-fault` asks for.
pub(super) fn on_demand(text: &str) -> Result<Fault> {
    Ok(text.parse::<Rule>()?.fault)
}

#[cfg(test)]
mod tests {
    use super::super::faults::Kind;
    use super::*;

    fn struck(rule: &str, count: u64) -> Vec<u64> {
        let armed = Armed::new([rule.parse().unwrap()]);
        let case = Case { model: "m", key: "", prompt: "the beads", path: "", batch: false };
        (1..=count).filter(|_| armed.strike(&case).is_some()).collect()
    }

    #[test]
    fn rules_strike_by_count_by_rate_and_by_what_is_asked() {
        assert_eq!(struck("503", 3), [1, 2, 3]);
        assert_eq!(struck("503:first=2", 5), [1, 2]);
        assert_eq!(struck("503:every=3", 9), [3, 6, 9]);
        assert_eq!(struck("503:from=4:to=5", 9), [4, 5]);
        assert_eq!(struck("503:every=2:from=4:to=8", 20), [4, 6, 8]);
        assert_eq!(struck("503:text=beads", 2), [1, 2]);
        assert!(struck("503:text=shells", 9).is_empty() && struck("503:model=other", 9).is_empty());
        assert!(struck("503:path=/v1/files", 9).is_empty() && struck("503:batch=true", 9).is_empty());
        assert!(struck("503:rate=0", 99).is_empty());
        let some = struck("503:rate=0.3", 1000);
        assert!((200..400).contains(&some.len()), "{}", some.len());
        assert_eq!(some, struck("503:rate=0.3", 1000));
        assert_ne!(some, struck("503:rate=0.3:seed=2", 1000));
    }

    #[test]
    fn every_name_is_known_and_every_mistake_is_told() {
        for (name, _) in NAMES {
            let rule: Rule = name.parse().unwrap();
            assert_eq!(rule.to_string(), *name);
        }
        let rule: Rule = "redirect:location=http://x.invalid:1/y:first=1".parse().unwrap();
        let Kind::Status { headers, .. } = &rule.fault.kind else { panic!("{rule:?}") };
        assert_eq!((headers[0].1.as_str(), rule.first), ("http://x.invalid:1/y", Some(1)));
        assert_eq!("slow_body:seconds=0.5".parse::<Rule>().unwrap().fault, Fault::slow(Duration::from_millis(500)));
        assert!("hang:billed=false".parse::<Rule>().is_ok_and(|rule| !rule.fault.billed));
        assert_eq!("503:key=sk-a-very-secret-key".parse::<Rule>().unwrap().to_string().find("secret"), None);
        for wrong in ["", "teapot", "200", "503:rate=2", "503:rate=x", "503:first=-1", "503:colour=red", "503:rate=NaN"]
        {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }
}
