//! An id and one log line for every request. Neither query nor content is logged: both may be private.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use service::{Note, Severity, Spans};
use tracing::{Instrument, Level, event, field, info_span};

use crate::app::App;
use crate::metrics::{LEFT, RequestMetrics};
use crate::spans;

/// Names a request, for people who look for it in logs. A client or a proxy may give one.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a client.
const MAX_ID: usize = 64;

/// Gives the request an id, and logs how it ended.
pub(crate) async fn middleware(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = request.headers().get(&REQUEST_ID).filter(|id| is_sound(id)).cloned().unwrap_or_else(new_id);
    let request_metrics = RequestMetrics::default();
    let said = id.to_str().unwrap_or_default();
    let spans = spans::of(&request, said);
    let span = info_span!("request", id = said, key = field::Empty);
    request.extensions_mut().insert(request_metrics.clone());
    request.extensions_mut().insert(spans.clone());
    let end = End {
        app,
        request_metrics,
        start: Instant::now(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        status: None,
        note: None,
        spans,
    };
    async move {
        let mut end = end;
        let mut response = next.run(request).await;
        end.status = Some(response.status().as_u16());
        end.note = response.extensions_mut().remove();
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }
    .instrument(span)
    .await
}

/// Logs when it is dropped, which is also what happens to a request whose client leaves.
struct End {
    app: App,
    request_metrics: RequestMetrics,
    start: Instant,
    method: Method,
    path: String,
    status: Option<u16>,
    /// What the log says of a refusal.
    note: Option<Note>,
    spans: Spans,
}

impl Drop for End {
    fn drop(&mut self) {
        let Self { app, request_metrics, start, method, path, status, note, spans } = self;
        let (labels, report) = (request_metrics.labels(app), request_metrics.report());
        let known =
            |text: &str| Some(text.to_owned()).filter(|text| !matches!(text.as_str(), "none" | "unknown"));
        let [model, task, output, mode] =
            [labels.model.as_str(), labels.task, labels.output, labels.mode].map(known);
        let (path, status) = (path.as_str(), *status);
        if *method == Method::POST {
            let status = status.unwrap_or(LEFT);
            spans::ended(spans, &labels, status);
            app.metrics().ended(labels, status, start.elapsed());
        }
        let ms = milliseconds(start.elapsed());
        let reason = note.as_ref().map(|note| note.reason.as_str());
        let pixels = report.map(|report| report.outline.pixels);
        let memory_mib = report.and_then(|report| report.memory).map(|bytes| bytes >> 20);
        let queue_ms = report.map(|report| milliseconds(report.queued));
        let work_ms = report.map(|report| milliseconds(report.worked));
        // What is not known is left out.
        macro_rules! line {
            ($level:ident, $what:literal) => {
                event!(
                    Level::$level, %method, path, status, ms, reason, model, task, pixels, output, mode, memory_mib,
                    queue_ms, work_ms, $what
                )
            };
        }
        match (note.as_ref().map(|note| note.severity), status) {
            (_, None) => line!(INFO, "the client left"),
            (Some(Severity::Error), _) => line!(ERROR, "failed"),
            (Some(Severity::Warn), _) => line!(WARN, "refused"),
            (Some(Severity::Info), _) => line!(INFO, "refused"),
            // Probes come every few seconds, for ever.
            (None, Some(_)) if *method == Method::GET => line!(DEBUG, "answered"),
            (None, Some(400..)) => line!(INFO, "refused"),
            (None, Some(_)) => line!(INFO, "answered"),
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether an id can stand in a log line without harm.
fn is_sound(id: &HeaderValue) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    (1..=MAX_ID).contains(&id.len()) && id.as_bytes().iter().all(is_plain)
}

/// An id that no other request has: a count, mixed with what is random for this process.
fn new_id() -> HeaderValue {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static RANDOM: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let id = RANDOM.hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
    HeaderValue::from_str(&format!("{id:016x}")).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
