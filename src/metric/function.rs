//! Closures as metrics, and the one place where any metric is called: [`judge`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Metric, Metrics};
use crate::provider::Sample;
use crate::task::Instance;

/// Calls a metric so that nothing it does harms the run: a panic, no value at all and a number that is not finite
/// are errors that name what was wrong.
pub fn judge(metric: &dyn Metric, instance: &Instance, responses: &[Sample]) -> Result<Metrics, String> {
    let metrics = catch_unwind(AssertUnwindSafe(|| metric.score(instance, responses))).map_err(|panic| {
        let reason = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let reason = reason.or_else(|| panic.downcast_ref::<String>().cloned());
        format!("the metric panicked: {}", reason.as_deref().unwrap_or("no reason given"))
    })??;
    if metrics.is_empty() {
        return Err("the metric gave no value".to_owned());
    }
    match metrics.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, value)) => Err(format!("the metric gave {name} = {value}, which is not a finite number")),
        None => Ok(metrics),
    }
}

/// What a closure may return to be a metric: named numbers, one number or truth value (it gets the metric's name), or
/// a `Result` of these.
pub trait IntoMetrics {
    /// The named values; `name` is for a value that has none.
    fn into_metrics(self, name: &str) -> Result<Metrics, String>;
}

impl IntoMetrics for Metrics {
    fn into_metrics(self, _: &str) -> Result<Metrics, String> {
        Ok(self)
    }
}

impl IntoMetrics for f64 {
    fn into_metrics(self, name: &str) -> Result<Metrics, String> {
        Ok(BTreeMap::from([(name.to_owned(), self)]))
    }
}

impl IntoMetrics for bool {
    fn into_metrics(self, name: &str) -> Result<Metrics, String> {
        f64::from(u8::from(self)).into_metrics(name)
    }
}

impl<const N: usize> IntoMetrics for [(&str, f64); N] {
    fn into_metrics(self, _: &str) -> Result<Metrics, String> {
        let metrics: Metrics = self.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        if metrics.len() < N { Err("the metric gave two values of one name".to_owned()) } else { Ok(metrics) }
    }
}

impl<T: IntoMetrics, E: Display> IntoMetrics for Result<T, E> {
    fn into_metrics(self, name: &str) -> Result<Metrics, String> {
        self.map_err(|error| error.to_string())?.into_metrics(name)
    }
}

/// A closure as a metric.
///
/// ```
/// use farthing::metric::FnMetric;
///
/// let short = FnMetric::new("short", |_, responses| responses.iter().all(|response| response.text.len() < 100));
/// let two = FnMetric::new("", |_, responses| [("n", responses.len() as f64), ("first", responses[0].text.len() as f64)]);
/// ```
#[derive(Clone, Debug)]
pub struct FnMetric<F> {
    name: String,
    function: F,
}

impl<F, R> FnMetric<F>
where
    F: Fn(&Instance, &[Sample]) -> R + Send + Sync,
    R: IntoMetrics,
{
    /// A metric from a closure; `name` is what a value without one is called.
    pub fn new(name: impl Into<String>, function: F) -> FnMetric<F> {
        FnMetric { name: name.into(), function }
    }
}

impl<F, R> Metric for FnMetric<F>
where
    F: Fn(&Instance, &[Sample]) -> R + Send + Sync,
    R: IntoMetrics,
{
    fn score(&self, instance: &Instance, responses: &[Sample]) -> Result<Metrics, String> {
        (self.function)(instance, responses).into_metrics(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::text::tests::{instance, samples};

    fn call<R: IntoMetrics>(function: impl Fn(&Instance, &[Sample]) -> R + Send + Sync) -> Result<Metrics, String> {
        judge(&FnMetric::new("m", function), &instance(serde_json::json!({"a": "x"})), &samples(&["x", "y"]))
    }

    #[test]
    fn closures_of_many_kinds_are_metrics() {
        let one = |value: f64| Ok(BTreeMap::from([("m".to_owned(), value)]));
        assert_eq!(call(|instance, samples| instance.text("a").as_deref() == Some(&samples[0].text)), one(1.0));
        assert_eq!(call(|_, samples| samples.len() as f64), one(2.0));
        assert_eq!(call(|_, samples| samples[1].text.parse::<f64>()), Err("invalid float literal".into()));
        assert_eq!(call(|_, _| [("m", 0.5)]), one(0.5));
        assert_eq!(call(|_, _| Ok::<_, String>(Metrics::from([("m".to_owned(), 3.0)]))), one(3.0));
        assert!(call(|_, _| [("m", 0.5), ("m", 0.6)]).is_err());
    }

    #[test]
    fn what_a_metric_does_wrong_is_a_reason() {
        assert_eq!(
            call(|_, samples| samples[7].text.is_empty()).unwrap_err().split(':').next(),
            Some("the metric panicked")
        );
        assert!(call(|_, _| -> f64 { panic!("no {}", 7) }).unwrap_err().ends_with("no 7"));
        assert_eq!(call(|_, _| f64::NAN).unwrap_err(), "the metric gave m = NaN, which is not a finite number");
        assert!(call(|_, _| [("a", 1.0), ("b", f64::INFINITY)]).unwrap_err().contains("b = inf"));
        assert_eq!(call(|_, _| Metrics::new()).unwrap_err(), "the metric gave no value");
    }
}
