//! Traces for OpenTelemetry: where they go, as the environment says in the variables that all OpenTelemetry SDKs know.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, global};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

/// The collector, for traces alone or for everything. Without one of them nothing is collected.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// How the collector is spoken to, if somebody says so.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// As long as the specification lets an export take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What collects spans and sends them, in a thread of its own.
pub(crate) struct Traces(SdkTracerProvider);

impl Traces {
    /// `None` where the environment names no collector.
    ///
    /// # Errors
    /// Variables that make no sense, or a protocol that this build does not speak.
    pub(crate) fn from_environment() -> anyhow::Result<Option<Self>> {
        let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let Some(endpoint) = ENDPOINTS.into_iter().find_map(variable).filter(|_| !disabled) else {
            return Ok(None);
        };
        if let Some(protocol) = PROTOCOLS.into_iter().find_map(variable)
            && protocol != "http/protobuf"
        {
            anyhow::bail!(
                "OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}, but traces are sent as http/protobuf only, to port 4318 of \
                 most collectors"
            );
        }
        // Fails only when the program has chosen a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::blocking::Client::builder().timeout(TIMEOUT);
        if !endpoint.starts_with("https:") {
            // Without this, a system that has no certificates installed could not even speak http.
            http = http.tls_certs_only([]);
        }
        let http = http.build().context("cannot make a client for OpenTelemetry traces")?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(http)
            .build()
            .with_context(|| format!("cannot send OpenTelemetry traces to {endpoint}"))?;
        let mut resource = Resource::builder();
        let said = resource_name(&Resource::builder().build());
        if said.is_none_or(|name| name.starts_with("unknown_service")) {
            resource = resource.with_service_name("remote-vae");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Some(Self(provider)))
    }

    /// What takes the spans.
    pub(crate) fn layer<S>(&self) -> impl Layer<S>
    where
        S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("remote-vae"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(service::SPANS, LevelFilter::INFO))
    }

    /// Sends what is left.
    pub(crate) fn end(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// A variable that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn resource_name(resource: &Resource) -> Option<String> {
    resource.get(&Key::from_static_str("service.name")).map(|name| name.to_string())
}
