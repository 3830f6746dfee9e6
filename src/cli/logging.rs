//! The log on standard error: what is said (`--log`, else `RUST_LOG`, else warnings) and how (`--log-format`); and, built
//! with the feature `otlp`, the spans of requests on their way to an OpenTelemetry collector.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::diagnostic::{Error, Result};

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// What must happen at the end of the program: spans that were not sent yet are sent when this is dropped.
#[must_use]
pub struct Logging {
    #[cfg(feature = "otlp")]
    spans: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

/// What is logged where nothing was said: what the user should know of, and what gigabytes are downloaded.
const WARNINGS: &str = "farthing=warn,farthing::backend::local::hub=info";

type Layered = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts the log of this process. Where nothing asks for a log, warnings are shown: `--quiet` is about progress.
pub fn start(filter: Option<&str>, format: LogFormat) -> Result<Logging> {
    let variable = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let asked = filter.map(str::to_owned).or(variable);
    let text = asked.as_deref().unwrap_or(WARNINGS);
    let filter = EnvFilter::try_new(text).map_err(|error| {
        let whose = if filter.is_some() { "" } else { " (RUST_LOG)" };
        Error::usage(format!("`{text}` is no log filter{whose}: {error}")).help("like `info` or `farthing=debug`")
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Lines)
        .log_internal_errors(false)
        .with_ansi(super::colour(&std::io::stderr()));
    let lines: Layered = match (format, asked.is_some()) {
        // Spans by name and fields: tools find the attempt that an event belongs to.
        (LogFormat::Json, _) => lines.json().with_span_list(false).with_filter(filter).boxed(),
        (LogFormat::Text, true) => lines.with_filter(filter).boxed(),
        (LogFormat::Text, false) => lines.without_time().with_target(false).compact().with_filter(filter).boxed(),
    };
    #[cfg(feature = "otlp")]
    let (layers, logging) = match otlp::layer()? {
        Some((layer, spans)) => (vec![lines, layer], Logging { spans: Some(spans) }),
        None => (vec![lines], Logging { spans: None }),
    };
    #[cfg(not(feature = "otlp"))]
    let (layers, logging) = (vec![lines], Logging {});
    // A program that embeds farthing may have a subscriber of its own: then that one serves.
    drop(tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layers)));
    Ok(logging)
}

impl Drop for Logging {
    fn drop(&mut self) {
        #[cfg(feature = "otlp")]
        if let Some(Err(error)) = self.spans.take().map(|spans| spans.shutdown()) {
            tracing::warn!(%error, "not all spans reached the collector");
        }
    }
}

/// Standard error; on a terminal the progress bar's line is cleared first.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = std::io::Stderr;

    fn make_writer(&'a self) -> std::io::Stderr {
        let stderr = std::io::stderr();
        if stderr.is_terminal() && super::colour(&stderr) {
            drop(std::io::Write::write_all(&mut &stderr, b"\r\x1b[2K"));
        }
        stderr
    }
}

#[cfg(feature = "otlp")]
mod otlp {
    //! Spans to a collector. The address and all else come from OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT,
    //! OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, ...); without an address nothing is done.

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_otlp::SpanExporter;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::filter::{LevelFilter, Targets};

    use super::{Error, Layer, Layered, Result};

    fn given(variable: &str) -> bool {
        std::env::var(variable).is_ok_and(|value| !value.trim().is_empty())
    }

    /// The layer that hands spans on, and what sends them in a thread of its own.
    pub(super) fn layer() -> Result<Option<(Layered, SdkTracerProvider)>> {
        let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        if disabled || !(given("OTEL_EXPORTER_OTLP_ENDPOINT") || given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")) {
            return Ok(None);
        }
        drop(rustls::crypto::ring::default_provider().install_default());
        let exporter = SpanExporter::builder().with_http().build().map_err(|error| {
            Error::usage(format!("spans cannot be sent: {error}"))
                .help("OTEL_EXPORTER_OTLP_ENDPOINT is an address like http://localhost:4318")
        })?;
        let mut resource = Resource::builder();
        if !given("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name("farthing");
        }
        let spans = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        // Only farthing's own: the sender's HTTP client has spans too.
        let own = Targets::new().with_target("farthing", LevelFilter::DEBUG);
        let layer = tracing_opentelemetry::layer().with_tracer(spans.tracer("farthing")).with_filter(own);
        Ok(Some((layer.boxed(), spans)))
    }
}
