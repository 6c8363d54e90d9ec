//! The span of a whole request, for OpenTelemetry traces; the service opens those of its parts in it. Without the feature
//! `otel` there are none.

use axum::extract::Request;
use service::Spans;
use tracing::Span;

use crate::metrics::Labels;

/// Of a request that sends work, as part of the trace that its client names by `traceparent`. Others, such as probes,
/// come every few seconds for ever, and leave none.
#[cfg(feature = "otel")]
pub(crate) fn of(request: &Request, id: &str) -> Spans {
    use opentelemetry_http::HeaderExtractor;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    if request.method() != axum::http::Method::POST {
        return Spans::within(Span::none());
    }
    let path = request.uri().path();
    let span = tracing::info_span!(
        target: service::SPANS,
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
    Spans::within(span)
}

/// Notes what is known of the request at its end.
#[cfg(feature = "otel")]
pub(crate) fn ended(spans: &Spans, labels: &Labels, status: u16) {
    use opentelemetry::trace::Status;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    let span = spans.request();
    span.set_attribute("http.response.status_code", i64::from(status));
    span.set_attribute("model", labels.model.clone());
    span.set_attribute("task", labels.task);
    span.set_attribute("output", labels.output);
    span.set_attribute("mode", labels.mode);
    if status >= 500 {
        span.set_status(Status::error("the server failed, see its log"));
    }
}

#[cfg(not(feature = "otel"))]
pub(crate) fn of(_: &Request, _: &str) -> Spans {
    Spans::within(Span::none())
}

#[cfg(not(feature = "otel"))]
pub(crate) fn ended(_: &Spans, _: &Labels, _: u16) {}
