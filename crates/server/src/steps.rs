//! The steps of a request as spans, for OpenTelemetry traces: `request`, and in it `queue`, `work` and `answer`.
//!
//! They are not the span that log lines carry, so that a trace has nothing but what is set here: no query, no content.
//! Without the feature `otel` there are none.

use axum::extract::Request;
use tracing::Span;

use crate::metrics::Labels;

/// Target of the spans: what collects traces takes these alone, and log lines leave them out.
pub const STEPS: &str = "remote_vae_steps";

/// The whole way of a request. It is over when the last of its clones is gone.
#[derive(Clone)]
pub(crate) struct Steps(Span);

#[cfg(feature = "otel")]
impl Steps {
    /// Of a request that sends work, as part of the trace that its client names by `traceparent`. Others, such as probes,
    /// come every few seconds for ever, and leave none.
    pub(crate) fn of(request: &Request, id: &str) -> Self {
        use opentelemetry_http::HeaderExtractor;
        use tracing_opentelemetry::OpenTelemetrySpanExt;

        if request.method() != axum::http::Method::POST {
            return Self(Span::none());
        }
        let path = request.uri().path();
        let span = tracing::info_span!(
            target: STEPS,
            parent: None,
            "request",
            otel.kind = "server",
            http.request.method = "POST",
            url.path = path,
            request.id = id,
        );
        let client = opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.extract(&HeaderExtractor(request.headers()))
        });
        // It fails where nobody collects traces.
        let _ = span.set_parent(client);
        Self(span)
    }

    /// What is known of the request at its end.
    pub(crate) fn ended(&self, labels: &Labels, status: u16) {
        use opentelemetry::trace::Status;
        use tracing_opentelemetry::OpenTelemetrySpanExt;

        let Self(span) = self;
        span.set_attribute("http.response.status_code", i64::from(status));
        span.set_attribute("model", labels.model.clone());
        span.set_attribute("task", labels.task);
        span.set_attribute("output", labels.output);
        span.set_attribute("mode", labels.mode);
        if status >= 500 {
            span.set_status(Status::error("the server failed, see its log"));
        }
    }

    /// Its time in the line, until the span is dropped.
    pub(crate) fn queue(&self) -> Span {
        tracing::info_span!(target: STEPS, parent: &self.0, "queue")
    }

    /// Its time in the model.
    pub(crate) fn work(&self) -> Span {
        tracing::info_span!(target: STEPS, parent: &self.0, "work")
    }

    /// Making the file or the tensor that is sent.
    pub(crate) fn answer(&self) -> Span {
        tracing::info_span!(target: STEPS, parent: &self.0, "answer")
    }
}

#[cfg(not(feature = "otel"))]
#[allow(clippy::unused_self, reason = "traces are a feature")]
impl Steps {
    pub(crate) fn of(_: &Request, _: &str) -> Self {
        Self(Span::none())
    }

    pub(crate) fn ended(&self, _: &Labels, _: u16) {}

    pub(crate) fn queue(&self) -> Span {
        self.0.clone()
    }

    pub(crate) fn work(&self) -> Span {
        self.0.clone()
    }

    pub(crate) fn answer(&self) -> Span {
        self.0.clone()
    }
}
