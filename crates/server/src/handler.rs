//! The handler of decode and encode requests, which go the same way.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use service::{Answer, Client, Event, Events, FailureKind, Job, Spans};
use tracing::{Span, warn};
use wire::routes::{self, Target};
use wire::{BodyFormat, EncodeRequest, Metadata, Picture, RequestHead};

use crate::app::App;
use crate::body::Upload;
use crate::deadline::Deadline;
use crate::error::ApiError;
use crate::metrics::RequestMetrics;
use crate::{body, deadline, preview, respond};

/// `POST` of every path that names a model or none.
pub(crate) async fn handle(State(app): State<App>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let slips = Metadata::from_query(head.uri.query().unwrap_or_default()).slips();
    let mut response = answer_in_time(&app, head, body).await;
    respond::warn(&mut response, &slips);
    response
}

/// The answer, or what there is to say when its time is over.
async fn answer_in_time(app: &App, head: Parts, body: Body) -> Response {
    let mut upload = Some(body);
    let deadline = match deadline::of(&head.headers, app.timeout()) {
        Ok(deadline) => deadline,
        Err(error) => return error.into_response(),
    };
    match deadline.hold(answer(app, &head, &mut upload, deadline)).await {
        Ok(response) => response,
        Err(error) => {
            // Who was too slow has had enough time.
            if error.status != StatusCode::REQUEST_TIMEOUT {
                body::discard(&head, upload);
            }
            error.into_response()
        }
    }
}

async fn answer(
    app: &App,
    parts: &Parts,
    upload: &mut Upload,
    deadline: Deadline,
) -> Result<Response, ApiError> {
    let target = routes::target(parts.uri.path())
        .ok_or_else(|| ApiError::not_found(format!("there is nothing at {}", parts.uri.path())))?
        .into_owned();
    let query = parts.uri.query().unwrap_or_default();
    let client = parts.extensions.get().copied().unwrap_or(Client::Unknown);
    let content_type = joined(&parts.headers, CONTENT_TYPE)?;
    let accept = joined(&parts.headers, ACCEPT)?;
    if let Some(encoding) = joined(&parts.headers, CONTENT_ENCODING)?.filter(|name| name != "identity") {
        let message = format!("`Content-Encoding` is {encoding:?}, but bodies must come uncompressed");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let head = RequestHead::read(query, content_type.as_deref(), accept.as_deref())?;

    // What can be known before the body is there is checked before it is taken in.
    let request_metrics = parts.extensions.get::<RequestMetrics>().cloned().unwrap_or_default();
    let model = app.model(&target, head.model()?)?;
    let params = head.params()?;
    // A JSON body may name another model, and a tensor that nothing names may be of another task.
    if head.task.is_some() || target != Target::Default {
        request_metrics.set_model(model);
    }
    if let (Some(task), Some(params), false) = (head.task, params, head.may_be_rgba) {
        request_metrics.set_task(task);
        request_metrics.set_output(params.media_type());
    }
    let limits = app.service().first_limits(model);
    let limit = head.max_body_bytes(limits)?.min(app.service().max_bodies());
    let announced = body::announced_length(&parts.headers);
    if let Some(length) = announced {
        head.check_body_length(length, limits)?;
    }
    let _accepted = app.accept()?;
    app.service().check(client)?;
    let mut held = app.service().request_memory();
    held.grow(announced.unwrap_or(0))?;
    let limit = announced.map_or(limit, |length| length.min(limit));
    let flag = if announced.is_some() || head.has_length() { None } else { Some("--max-body") };
    let bytes = body::read(upload, limit, flag, app.body_timeout(), &mut held).await?;
    app.until_ready().await?;

    // The memory counts as long as there are bytes, whether anybody waits for them or not.
    let read = move || {
        if matches!(head.body, BodyFormat::Json | BodyFormat::Base64) {
            // The tensor in it has three quarters of its length.
            held.set(bytes.len().saturating_add(bytes.len() / 4 * 3));
        }
        let (request, slips) = head.request_with_slips(bytes)?;
        held.set(match &request {
            wire::Request::Decode(request) => request.latents.bytes.len(),
            wire::Request::Encode(EncodeRequest { picture: Picture::Tensor(tensor), .. }) => {
                tensor.bytes.len()
            }
            wire::Request::Encode(EncodeRequest { picture: Picture::File(file), .. }) => file.len(),
        });
        Ok((head, request, slips, held))
    };
    let (head, request, slips, held) = app.service().read(read).await?;
    // A JSON body may name the model.
    let named = match &request {
        wire::Request::Decode(request) => request.params.model.as_deref(),
        wire::Request::Encode(request) => request.params.model.as_deref(),
    };
    let model = app.model(&target, named)?;
    let spans = parts.extensions.get().cloned().unwrap_or_else(|| Spans::within(Span::none()));
    let job =
        Job { model, request, head, client, deadline: Some(deadline.at()), latents_of: None, held, spans };
    let wants_preview = matches!(&job.request, wire::Request::Decode(request) if request.params.preview);
    let mut response = if wants_preview {
        preview::respond(app, job, deadline, request_metrics).await?
    } else {
        let mut events = app.service().submit(job).await?;
        respond::respond(outcome(app, model, &mut events, deadline, &request_metrics).await?)?
    };
    respond::warn(&mut response, &slips);
    Ok(response)
}

/// What comes of a job.
pub(crate) async fn outcome(
    app: &App,
    model: usize,
    events: &mut Events,
    deadline: Deadline,
    request_metrics: &RequestMetrics,
) -> Result<Answer, ApiError> {
    let answer = loop {
        match events.next().await {
            Event::Queued { outline, .. } => {
                request_metrics.set_model(model);
                request_metrics.set_outline(outline);
            }
            Event::Started | Event::Progress { .. } => {}
            Event::Done(answer) => break *answer,
            Event::Failed(failure) if failure.kind == FailureKind::Deadline => return Err(deadline.passed()),
            Event::Failed(failure) => return Err(failure.into()),
        }
    };
    for warning in &answer.warnings {
        warn!("{warning}");
    }
    let name = app.names().get(model).map_or("", String::as_str);
    app.metrics().worked(name, &answer.report);
    request_metrics.set_report(answer.report);
    Ok(answer)
}

/// The value of a header; one that is there several times is a list.
fn joined(headers: &HeaderMap, name: HeaderName) -> Result<Option<String>, ApiError> {
    let values: Result<Vec<_>, _> = headers.get_all(&name).iter().map(|value| value.to_str()).collect();
    match values {
        Ok(values) if values.is_empty() => Ok(None),
        Ok(values) => Ok(Some(values.join(", "))),
        Err(_) => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            format!("the header `{name}` has characters beyond ASCII"),
        )),
    }
}
