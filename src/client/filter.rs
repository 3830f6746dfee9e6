//! What an answer must be like to be taken, as a declaration: a metric with a threshold, where a closure would be too much.

use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use super::{Completion, Create};
use crate::diagnostic::{Error, Result, Source};
use crate::metric::{self, Metric};
use crate::task::{Instance, MetricTable};

/// A filter for [`Client::create_any`](super::Client::create_any): a metric's score over the request's context and all of
/// its completions must be above a threshold (0, if nothing else is said).
///
/// ```
/// use farthing::client::Filter;
/// let filter = Filter::declared("type = \"regex\"\npattern = '^\\d+$'\nvote = \"any\"")?;
/// # let _ = filter;
/// # Ok::<(), farthing::diagnostic::Error>(())
/// ```
#[derive(Clone)]
pub struct Filter {
    metric: Arc<dyn Metric>,
    /// The value that counts, where the metric gives several.
    value: Option<String>,
    above: f64,
}

impl Filter {
    /// From the keys of a `[metrics.NAME]` table of a task (`farthing metrics` lists them), and `above`, the threshold.
    /// Templates like `{{ answer }}` read the request's [context](Create::context). Programs (`type = "command"`) are
    /// refused: they would hold up whoever waits for the answer.
    ///
    /// The error is a usage error that points at what is wrong in the text.
    pub fn declared(text: &str) -> Result<Filter> {
        let source = Source::new("filter", text);
        let broken = |error: toml::de::Error| {
            Error::usage(error.message().to_owned()).at(&source, error.span().unwrap_or(0..0), "here")
        };
        let document = DeTable::parse(text).map_err(broken)?.into_inner();
        let mut above = 0.0;
        let mut rest = text.to_owned();
        if let Some((key, value)) = document.iter().find(|(key, _)| &**key.get_ref() == "above") {
            let number = crate::declaration::json(&source, value)?.as_f64();
            above = number.ok_or_else(|| Error::usage("`above` is a number").at(&source, value.span(), "here"))?;
            // What is left keeps its places.
            let (from, to) = (key.span().start, value.span().end);
            rest.replace_range(from..to, &" ".repeat(to - from));
        }
        let table = MetricTable {
            name: "filter".to_owned(),
            source: Source::new("filter", rest),
            span: 0..0,
            path: Vec::new(),
            folder: Path::new(".").to_owned(),
        };
        if metric::runs_a_program(&table) {
            let place = document.get("type").map_or(0..0, toml::Spanned::span);
            return Err(Error::usage("a program cannot be a filter")
                .at(&source, place, "here")
                .help("write a closure"));
        }
        let built = metric::build(&table)?;
        Ok(Filter { metric: built.metric, value: built.output, above })
    }

    /// Any metric; where it gives several values, all of them must be above the threshold.
    pub fn metric(metric: impl Metric + 'static) -> Filter {
        Filter { metric: Arc::new(metric), value: None, above: 0.0 }
    }

    /// The score must be above this number; one that is no number lets nothing pass.
    #[must_use]
    pub fn above(mut self, above: f64) -> Filter {
        self.above = above;
        self
    }

    /// Whether an answer passes; an error where the metric cannot tell.
    pub fn judge(&self, create: &Create, completion: &Completion) -> Result<bool, String> {
        let instance = Instance::new("request", create.context.clone().unwrap_or_default());
        let values = metric::judge(&*self.metric, &instance, &completion.samples)?;
        let passes = |value: f64| value > self.above;
        match &self.value {
            Some(name) => values.get(name).copied().map(passes).ok_or_else(|| format!("the metric gave no `{name}`")),
            None => Ok(values.values().copied().all(passes)),
        }
    }

    /// The same as a function, as [`Client::create_any`](super::Client::create_any) takes it. Where the metric cannot
    /// tell, the answer does not pass, and the log says why.
    pub fn as_fn(&self) -> impl Fn(&Create, &Completion) -> bool + '_ {
        |create, completion| {
            self.judge(create, completion).unwrap_or_else(|reason| {
                tracing::warn!(model = %create.model, %reason, "the filter could not judge an answer: it does not pass");
                false
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metric::FnMetric;
    use crate::money::Usd;
    use crate::provider::{FinishReason, Sample};
    use crate::store::Fingerprint;

    fn answered(texts: &[&str]) -> Completion {
        Completion {
            samples: texts.iter().map(|text| Sample::new(*text, FinishReason::STOP, 1)).collect(),
            model: "m".into(),
            replied_model: None,
            endpoint: None,
            prompt_tokens: 1,
            completion_tokens: 1,
            cost: Usd::ZERO,
            full_cost: Usd::ZERO,
            cached: false,
            requests: 1,
            estimated: false,
            fingerprint: Fingerprint([0; 32]),
            tried: 0,
            passed: true,
        }
    }

    #[test]
    fn a_metric_and_a_threshold_decide() {
        let ask = Create::chat("m").user("x");
        let mean = "type = \"regex\"\npattern = '^\\d+$'\nvote = \"mean\"\n";
        let half = Filter::declared(&format!("above = 0.5\n{mean}")).unwrap();
        let any = Filter::declared(mean).unwrap();
        for (texts, some, most) in
            [(&["1", "x"][..], true, false), (&["1", "2", "x"], true, true), (&["x"], false, false)]
        {
            let done = answered(texts);
            assert_eq!((any.judge(&ask, &done), half.judge(&ask, &done)), (Ok(some), Ok(most)), "{texts:?}");
            assert_eq!((half.as_fn())(&ask, &done), most);
        }
        assert_eq!(any.clone().above(f64::NAN).judge(&ask, &answered(&["1"])), Ok(false));
    }

    #[test]
    fn the_context_is_what_templates_read() {
        let filter = Filter::declared("type = \"exact_match\"\nexpected = \"{{ answer }}\"").unwrap();
        let ask = Create::chat("m").user("x");
        let with = ask.clone().context(json!({"answer": 4}).as_object().unwrap().clone());
        assert_eq!(filter.judge(&with, &answered(&["4"])), Ok(true));
        assert_eq!(filter.judge(&with, &answered(&["5"])), Ok(false));
        assert!(filter.judge(&ask, &answered(&["4"])).is_err(), "there is no answer to compare with");
        assert!(!(filter.as_fn())(&ask, &answered(&["4"])));
    }

    #[test]
    fn a_metric_of_ones_own_may_filter() {
        let brief = FnMetric::new("brief", |_: &Instance, samples: &[Sample]| 10.0 - samples[0].text.len() as f64);
        let filter = Filter::metric(brief);
        let ask = Create::chat("m").user("x");
        assert_eq!(filter.judge(&ask, &answered(&["short"])), Ok(true));
        assert_eq!(filter.judge(&ask, &answered(&["much too long"])), Ok(false));
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        for (text, message, place) in [
            ("type = \"regx\"", "there is no metric of type `regx`", "1:8"),
            ("above = \"x\"\ntype = \"length\"", "`above` is a number", "1:9"),
            ("above = 1\ntype = \"regex\"\npattern = \"(\"", "this regex cannot be read", "3:11"),
            ("type = \"command\"\ncommand = [\"x\"]", "a program cannot be a filter", "1:8"),
            ("type = ", "", "1:"),
        ] {
            let error = Filter::declared(text).err().unwrap();
            assert!(error.message().starts_with(message), "{text}: {error}");
            assert!(
                error.location().unwrap().starts_with(&format!("filter:{place}")),
                "{text}: {:?}",
                error.location()
            );
        }
    }
}
