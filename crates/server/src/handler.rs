//! The handler of decode and encode requests, which go the same way.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tracing::warn;
use vae::{Forecast, Forecaster, VaeInfo};
use wire::routes::{self, Target};
use wire::{Limits, Metadata, RequestHead, Task};

use crate::admission::{Admission, MODE, Mode};
use crate::app::App;
use crate::body::Upload;
use crate::client::Client;
use crate::error::ApiError;
use crate::executor::Work;
use crate::metrics::{self, Asked};
use crate::queue::Cost;
use crate::respond::Reply;
use crate::steps::Steps;
use crate::values::NonFinite;
use crate::{body, deadline, decode, encode, respond, rgba};

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
    match deadline.hold(answer(app, &head, &mut upload)).await {
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

async fn answer(app: &App, parts: &Parts, upload: &mut Upload) -> Result<Response, ApiError> {
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
    let asked = parts.extensions.get::<Asked>().cloned().unwrap_or_default();
    let model = app.model(&target, head.model()?)?;
    let params = head.params()?;
    // A JSON body may name another model, and a tensor that nothing names may be of another task.
    if head.task.is_some() || target != Target::Default {
        asked.set_model(model);
    }
    if let (Some(task), Some(params), false) = (head.task, params, head.may_be_rgba) {
        asked.set_task(task);
        asked.set_output(params.media_type());
    }
    let limits = app.first_limits(model);
    let limit = head.max_body_bytes(limits)?.min(app.admission().budget.bodies);
    let announced = body::announced_length(&parts.headers);
    if let Some(length) = announced {
        head.check_body_length(length, limits)?;
    }
    let _accepted = app.accept()?;
    app.executor().check(client)?;
    let mut held = app.bodies().begin();
    held.grow(announced.unwrap_or(0))?;
    let limit = announced.map_or(limit, |length| length.min(limit));
    let flag = if announced.is_some() || head.has_length() { None } else { Some("--max-body") };
    let bytes = body::read(upload, limit, flag, app.body_timeout(), &mut held).await?;
    app.until_ready().await?;

    let prepared = blocking({
        let app = app.clone();
        move || prepare(&app, &target, &head, bytes)
    })
    .await?;
    let Prepared { model, task, job, slips } = prepared;
    let Job { work, frames, pixels, mode, forecast, reply, warnings } = job;
    for warning in &warnings {
        warn!("{warning}");
    }
    asked.set_model(model);
    asked.set_task(task);
    asked.set_output(reply.media_type());
    asked.set_mode(mode);
    let cost = Cost { model, work: forecast.map_or(pixels, |forecast| forecast.work) as u64, frames };
    let memory = forecast.map_or(0, |forecast| forecast.memory());
    let steps = parts.extensions.get::<Steps>();
    let done = app.executor().admit(client, cost, memory, work, steps.cloned())?.done().await?;
    let model = app.names().get(model).map_or("", String::as_str);
    app.metrics().worked(model, task, &done, forecast, pixels);
    asked.set_work(metrics::Work { pixels, memory: done.memory, queued: done.queued, worked: done.worked });
    let step = steps.map(Steps::answer);
    let mut response = blocking(move || respond::answer(done, reply)).await?;
    drop(step);
    response.headers_mut().insert(MODE, HeaderValue::from_static(mode.name()));
    respond::warn(&mut response, &warnings);
    respond::warn(&mut response, &slips);
    Ok(response)
}

/// A request that is ready for the model.
struct Prepared {
    model: usize,
    task: Task,
    job: Job,
    /// Keys of a JSON body that have no meaning but nearly have one.
    slips: Vec<String>,
}

/// What one of the tasks makes of its request.
pub(crate) struct Job {
    pub(crate) work: Work,
    /// Pictures, or frames of videos, that are decoded or encoded.
    pub(crate) frames: usize,
    /// Their pixels.
    pub(crate) pixels: usize,
    pub(crate) mode: Mode,
    /// What it will take; `None` for a model that cannot tell.
    pub(crate) forecast: Option<Forecast>,
    pub(crate) reply: Reply,
    /// What is odd, in sentences for the client and the log.
    pub(crate) warnings: Vec<String>,
}

/// What a request meets: the model that it is for, and what there is room for.
pub(crate) struct House<'a> {
    pub(crate) info: &'a VaeInfo,
    pub(crate) limits: &'a Limits,
    pub(crate) admission: &'a Admission,
    pub(crate) forecaster: Option<&'a Forecaster>,
    pub(crate) non_finite: NonFinite,
}

fn prepare(app: &App, target: &Target<'_>, head: &RequestHead, body: Bytes) -> Result<Prepared, ApiError> {
    let (mut request, slips) = head.request_with_slips(body)?;
    // A JSON body may name the model, and only now says how large its tensor is.
    let named = match &request {
        wire::Request::Decode(request) => request.params.model.as_deref(),
        wire::Request::Encode(request) => request.params.model.as_deref(),
    };
    let model = app.model(target, named)?;
    let known = app.load(model)?;
    if let wire::Request::Decode(latents) = request {
        request = rgba::settle(latents, head, &known.info)?;
    }
    let admission = app.admission().beside(app.copied_weights(model));
    let house = House {
        info: &known.info,
        limits: app.limits(&known.info),
        admission: &admission,
        forecaster: known.forecaster.as_deref(),
        non_finite: app.non_finite(),
    };
    let (task, job) = job(request, &house).map_err(|error| rgba::with_other_reading(error, head))?;
    Ok(Prepared { model, task, job, slips })
}

/// What a model has to do for a request.
///
/// # Errors
/// Whatever the shapes alone show: a request that does not fit the model, is too large, or cannot be answered.
pub(crate) fn job(request: wire::Request, house: &House<'_>) -> Result<(Task, Job), ApiError> {
    Ok(match request {
        wire::Request::Decode(request) => (Task::Decode, decode::job(request, house)?),
        wire::Request::Encode(request) => (Task::Encode, encode::job(request, house)?),
    })
}

/// Runs what takes the processor for a while away from the threads that serve connections.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(ApiError::internal("the server crashed on this request, which is a bug").because(error))
    })
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
