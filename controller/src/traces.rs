//! Traces: what the time of a sync, an unsealing or a new key went into, sent by OTLP to where `--otlp-endpoint` says.
//! Without it no span is made. A span holds names, revisions, counts and outcomes, as the log does; it must never hold a
//! value of a Secret, nor a URL or what somebody else said, in which one may stand.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{SdkTracerProvider, SpanData},
};
use tracing::{Level, Span, Subscriber};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};
use url::Url;

use crate::{args::LogArgs, exit::StartError};

mod variables;

/// What tells a span from a line of the log.
pub const TARGET: &str = "traces";

/// Longest wait, at the end, for the last spans to be taken.
pub const FLUSH: Duration = Duration::from_secs(1);

/// Length of a `traceparent`.
const TRACEPARENT: usize = 55;

/// A span, with room for [`ended`].
macro_rules! span {
    ($name:literal $(, $($fields:tt)+)?) => {
        tracing::info_span!(
            target: $crate::traces::TARGET,
            $name,
            outcome = tracing::field::Empty,
            otel.status_code = tracing::field::Empty
            $(, $($fields)+)?
        )
    };
}
pub(crate) use span;

/// Whether anybody wants them.
pub fn are_on() -> bool {
    tracing::span_enabled!(target: TARGET, Level::INFO)
}

/// Says of a span what came of it, in one word.
pub fn ended(span: &Span, outcome: &str, failed: bool) {
    span.record("outcome", outcome);
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}

/// As spans have numbers.
pub fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The span of another program, from the header `traceparent` that it sent; none where that is not as W3C has it.
pub fn caller(traceparent: &str) -> Option<Context> {
    // The library takes shorter numbers too.
    if traceparent.len() != TRACEPARENT {
        return None;
    }
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    let is_valid = context.span().span_context().is_valid();
    is_valid.then_some(context)
}

/// The way of spans to whom they are for.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// To the collector that the flags name; none without one, or where the variables `OTEL_…` switch them off.
    pub fn of(flags: &LogArgs) -> Result<Option<Self>, StartError> {
        let url = match (&flags.otlp_traces_endpoint, &flags.otlp_endpoint) {
            (Some(url), _) => address("--otlp-traces-endpoint", url)?,
            (None, Some(endpoint)) => below(address("--otlp-endpoint", endpoint)?),
            (None, None) => return Ok(None),
        };
        let wanted = variables::are_wanted(|name| std::env::var(name).ok()).map_err(StartError::Usage)?;
        wanted.then(|| Self::new(url)).transpose()
    }

    /// Sends to a collector. It reads the variables `OTEL_…` that are about how.
    fn new(url: Url) -> Result<Self, StartError> {
        let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        let exporter = exporter.with_endpoint(url.as_str()).build().map_err(|error| {
            StartError::Usage(format!(
                "cannot send traces to {url}: {error}; correct that address, or the variables OTEL_EXPORTER_OTLP_… that are set"
            ))
        })?;
        let sender = Sender { exporter, url, fails: AtomicBool::new(false) };
        let provider = SdkTracerProvider::builder().with_batch_exporter(sender).with_resource(resource());
        Ok(Self(provider.build()))
    }

    /// Takes up what [`span!`] makes, and nothing else.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let layer = tracing_opentelemetry::layer().with_tracer(self.0.tracer("signet"));
        let bare = layer.with_location(false).with_threads(false).with_level(false).with_target(false);
        let bare = bare.with_tracked_inactivity(false).with_context_activation(false);
        bare.with_filter(Targets::new().with_target(TARGET, Level::INFO))
    }

    /// Sends what is left, if that is taken soon.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            tracing::warn!(%error, "the last traces may be lost");
        }
    }
}

/// What a flag says. Credentials stand in URLs only to be seen by others.
fn address(flag: &str, endpoint: &str) -> Result<Url, StartError> {
    let wrong = |why: &str| StartError::Usage(format!("{flag} {why}"));
    let url = Url::parse(endpoint).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(
            "must begin with http:// or https://; OTLP by gRPC is not spoken, collectors take HTTP on port 4318",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(
            "must be without credentials and without a query: put tokens into OTEL_EXPORTER_OTLP_HEADERS",
        ));
    }
    Ok(url)
}

/// Where traces go at an endpoint, as the specification has it.
fn below(mut endpoint: Url) -> Url {
    if let Ok(mut path) = endpoint.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "traces"]);
    }
    endpoint
}

/// What sends them.
fn resource() -> Resource {
    let own = [("service.name", "signet-controller"), ("service.version", env!("CARGO_PKG_VERSION"))];
    let resource = Resource::builder_empty()
        .with_attributes(own.map(|(key, value)| KeyValue::new(key, value)))
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name),
        _ => resource,
    }
    .build()
}

/// Says once that nobody takes them, and once that somebody does again. Runs on a thread of its own: nobody waits for it.
#[derive(Debug)]
struct Sender {
    exporter: SpanExporter,
    url: Url,
    fails: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Sender {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        match (&sent, self.fails.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(url = %self.url, %error, "cannot send traces: these are lost; trying again with the next");
            }
            (Ok(()), true) => tracing::info!(url = %self.url, "traces are taken again"),
            _ => {}
        }
        sent
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_below_which_traces_go() {
        for (endpoint, to) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("https://example.com/otlp/", "https://example.com/otlp/v1/traces"),
        ] {
            assert_eq!(below(address("--otlp-endpoint", endpoint).unwrap()).as_str(), to);
        }
        for (endpoint, why) in [
            ("collector", "is not a URL"),
            ("collector:4317", "gRPC is not spoken"),
            ("http://ada:hunter2@collector:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("http://hunter2@collector:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("http://collector:4318?token=hunter2", "OTEL_EXPORTER_OTLP_HEADERS"),
        ] {
            let refusal = address("--otlp-endpoint", endpoint).unwrap_err().to_string();
            assert!(refusal.starts_with("--otlp-endpoint ") && refusal.contains(why));
            assert!(!refusal.contains("hunter2"), "{endpoint}: {refusal}");
        }
    }

    #[test]
    fn a_caller_is_known_by_what_w3c_says() {
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = caller(sent).unwrap();
        assert_eq!(context.span().span_context().trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        for sent in [
            "",
            "now",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7-b7ad-01",
            &format!("{sent}-more"),
        ] {
            assert!(caller(sent).is_none(), "{sent}");
        }
    }
}
