//! Groups of rows and what may be sent for each: prompto's queries a minute, by group and by model within it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::{Endpoints, Rates};
use crate::diagnostic::{Error, Result, Source};

/// Queries a minute, by group and by model within it, in the form of prompto's `max_queries_dict`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxQueries {
    /// For groups that are not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<u32>,
    /// By group.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, GroupQueries>,
}

/// Queries a minute of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupQueries {
    /// For models that are not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<u32>,
    /// By model: these go past the group's own limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, u32>,
}

impl MaxQueries {
    /// A number for all groups, or the path of a JSON file: `{"GROUP": 60, "GROUP": {"default": 60, "MODEL": 20}}`.
    pub fn parse(text: &str) -> Result<MaxQueries> {
        if let Ok(number) = text.trim().parse::<i64>() {
            let wrong = || Error::usage(format!("--max-queries {number} is no number of queries a minute"));
            let all = u32::try_from(number).ok().filter(|number| *number > 0).ok_or_else(wrong)?;
            return Ok(MaxQueries { all: Some(all), groups: BTreeMap::new() });
        }
        let source = Source::read(Path::new(text))?;
        let form = "write {\"GROUP\": 60} or {\"GROUP\": {\"default\": 60, \"MODEL\": 20}}, in queries a minute";
        let wrong = |what: String| Error::usage(format!("{}: {what}", source.name())).help(form);
        let value: Value = serde_json::from_str(source.text()).map_err(|error| wrong(error.to_string()))?;
        let Value::Object(map) = value else { return Err(wrong("this is no JSON object".into())) };
        let number = |place: &str, value: &Value| match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(number) if number > 0 => Ok(number),
            _ => Err(wrong(format!("`{place}` is a whole number of queries a minute above 0, not {value}"))),
        };
        let mut groups = BTreeMap::new();
        for (group, value) in &map {
            let mut queries = GroupQueries::default();
            match value {
                Value::Object(models) => {
                    for (model, value) in models {
                        let number = number(&format!("{group}.{model}"), value)?;
                        match model.as_str() {
                            "default" => queries.default = Some(number),
                            _ => drop(queries.models.insert(model.clone(), number)),
                        }
                    }
                }
                other => queries.default = Some(number(group, other)?),
            }
            groups.insert(group.clone(), queries);
        }
        Ok(MaxQueries { all: None, groups })
    }

    /// What no row is limited by, in words: groups (and models within them) that no row has. Files of prompto may name more
    /// than one experiment's, so that is no fault; but a name that is nobody's and a slip away from one that has no limit
    /// here is one, for its rows would go out at full speed. `used` are the rows' models by group, `known` the names that
    /// groups have of themselves, and `is_model` knows the models.
    pub fn unused(
        &self,
        used: &BTreeMap<String, BTreeSet<String>>,
        known: &[&str],
        is_model: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let mut unused = Vec::new();
        let meant = |name: &str, near: &str, what: String| {
            Error::usage(format!("--max-queries limits {what}"))
                .help(format!("did you mean `{near}` in place of `{name}`?"))
        };
        for (group, queries) in &self.groups {
            let Some(models) = used.get(group) else {
                let what = format!("the group `{group}`, and no row is of it");
                let others = used.keys().map(String::as_str).chain(known.iter().copied());
                let mut others = others.filter(|other| !self.groups.contains_key(*other));
                if !known.contains(&group.as_str())
                    && let Some(near) = others.find(|other| is_slip(group, other))
                {
                    return Err(meant(group, near, what));
                }
                unused.push(what);
                continue;
            };
            for model in queries.models.keys().filter(|model| !models.contains(*model)) {
                let what = format!("the model `{model}` in the group `{group}`, and no row is of both");
                let mut others = models.iter().filter(|other| !queries.models.contains_key(*other));
                if !is_model(model)
                    && let Some(near) = others.find(|other| is_slip(model, other))
                {
                    return Err(meant(model, near, what));
                }
                unused.push(what);
            }
        }
        Ok(unused)
    }

    /// The queue that a row of a group and a model waits in, and what may be sent from it. A model with a limit of its own
    /// in the group has a queue of its own, as in prompto. What `--max-queries` does not say, `[limits]` may.
    pub fn queue(&self, group: &str, model: &str, endpoints: &Endpoints) -> (String, Option<Rates>) {
        let minute = |number: u32| Rates { requests_per_minute: Some(number), ..Rates::default() };
        let own = format!("{group}-{model}");
        let named = self.groups.get(group);
        if let Some(number) = named.and_then(|queries| queries.models.get(model)) {
            return (own, Some(minute(*number)));
        }
        if let Some(rates) = endpoints.groups.get(&own).filter(|_| named.is_none()) {
            return (own, Some(*rates));
        }
        let number = named.and_then(|queries| queries.default);
        let rates = number.map(minute).or_else(|| endpoints.groups.get(group).copied()).or(self.all.map(minute));
        (group.to_owned(), rates)
    }
}

/// One name is another one with a slip of the hand or two. Names that differ in their numbers are siblings.
fn is_slip(typed: &str, name: &str) -> bool {
    let (typed, name) = (typed.trim().to_lowercase(), name.to_lowercase());
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let slips = if name.chars().count() < 6 { 1 } else { 2 };
    digits(&typed) == digits(&name) && strsim::damerau_levenshtein(&typed, &name) <= slips
}

/// One queue of rows, as it is shown before anything is sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Queued {
    /// Rows to be asked.
    pub queries: usize,
    /// Queries a minute, where that is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    /// Rows by model.
    pub models: BTreeMap<String, usize>,
}

impl Queued {
    /// In words: how many queries at which rate.
    pub fn words(&self, name: &str) -> String {
        let queries = if self.queries == 1 { "1 query".to_owned() } else { format!("{} queries", self.queries) };
        let models: Vec<String> = self.models.iter().map(|(model, count)| format!("{model} {count}")).collect();
        match self.per_minute {
            Some(rate) => {
                let minutes = self.queries as f64 / f64::from(rate);
                let least = if minutes >= 1.0 { format!("; at least {:.0} min", minutes) } else { String::new() };
                format!("{name}: {queries} at {rate} queries a minute ({}){least}", models.join(", "))
            }
            None => format!("{name}: {queries}, no limit of the group ({})", models.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<MaxQueries> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.json");
        std::fs::write(&path, text).unwrap();
        MaxQueries::parse(path.to_str().unwrap())
    }

    fn queue(queries: &MaxQueries, group: &str, model: &str) -> (String, Option<u32>) {
        let file = "[limits.file]\nrequests_per_minute = 7\n[limits.\"file-m\"]\nrequests_per_minute = 8\n";
        let endpoints = Endpoints::read(&Source::new("f", file), Path::new(".")).unwrap();
        let (name, rates) = queries.queue(group, model, &endpoints);
        (name, rates.and_then(|rates| rates.requests_per_minute))
    }

    #[test]
    fn groups_and_models_have_the_rates_of_prompto() {
        let queries = parsed(r#"{"a": 5, "b": {"default": 20, "m": 10}, "c": {"m": 3}}"#).unwrap();
        assert_eq!(queue(&queries, "a", "m"), ("a".into(), Some(5)));
        assert_eq!(queue(&queries, "b", "m"), ("b-m".into(), Some(10)));
        assert_eq!(queue(&queries, "b", "x"), ("b".into(), Some(20)));
        assert_eq!(queue(&queries, "c", "x"), ("c".into(), None));
        assert_eq!(queue(&queries, "file", "x"), ("file".into(), Some(7)));
        assert_eq!(queue(&queries, "file", "m"), ("file-m".into(), Some(8)));
        assert_eq!(queue(&MaxQueries::parse("9").unwrap(), "z", "m"), ("z".into(), Some(9)));
    }

    #[test]
    fn a_limit_that_no_row_has_is_told_and_a_misspelt_one_refused() {
        let models = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let used = BTreeMap::from([
            ("openai".to_owned(), models(&["gpt-4o", "mock-small"])),
            ("group3".to_owned(), models(&["m"])),
        ]);
        let unused = |text: &str| {
            let is_model = |name: &str| ["gpt-4", "gpt-4o"].contains(&name);
            parsed(text).unwrap().unused(&used, &["openai", "gemini"], is_model)
        };
        assert_eq!(unused(r#"{"openai": {"default": 5, "gpt-4o": 2}, "group3": 9}"#).unwrap(), [""; 0]);
        for (text, near) in [
            (r#"{"opanai": {"default": 10}}"#, "did you mean `openai` in place of `opanai`?"),
            (r#"{"OpenAI": 10}"#, "`openai`"),
            (r#"{"gemnii": 10, "openai": 3}"#, "`gemini`"),
            (r#"{"openai": {"default": 5, "mock-smal": 2}}"#, "`mock-small`"),
        ] {
            let error = unused(text).unwrap_err();
            assert!(error.advice().unwrap().contains(near), "{error}");
        }
        // A file for several experiments: other groups, other models.
        let told = unused(r#"{"gemini": 5, "group1": 5, "vision": 5, "openai": {"gpt-4": 3}}"#).unwrap();
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(told[2], "the model `gpt-4` in the group `openai`, and no row is of both");
        assert_eq!(unused(r#"{"openai": 5, "opanai": 5}"#).unwrap().len(), 1, "that one has its limit");
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["[]", "{", r#"{"a": 0}"#, r#"{"a": true}"#, r#"{"a": {"m": 1.5}}"#, r#"{"a": -1}"#] {
            assert!(parsed(text).is_err(), "{text}");
        }
        assert!(
            MaxQueries::parse("0").is_err()
                && MaxQueries::parse("-3").is_err()
                && MaxQueries::parse("none.json").is_err()
        );
    }
}
