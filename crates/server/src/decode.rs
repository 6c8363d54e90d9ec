//! The handler of decode requests.

use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tracing::{error, info};
use vae::{DecodeOptions, Forecast, HostTensor, VaeError, VaeInfo};
use wire::routes::{self, Target};
use wire::{Answer, DecodeRequest, Limits, Params, RequestHead, Task, Tensor};

use crate::admission::{Granted, MODE, Mode};
use crate::app::App;
use crate::body::Upload;
use crate::client::Client;
use crate::error::ApiError;
use crate::executor::Work;
use crate::metrics::Asked;
use crate::queue::Cost;
use crate::{body, deadline, respond};

/// `POST` of every path that names a model or none.
pub(crate) async fn handle(State(app): State<App>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut upload = Some(body);
    let deadline = match deadline::of(&head.headers, app.timeout()) {
        Ok(deadline) => deadline,
        Err(error) => return error.into_response(),
    };
    match deadline.hold(decode(&app, &head, &mut upload)).await {
        Ok(response) => response,
        Err(error) => {
            // Who was too slow has had enough time.
            if error.status != StatusCode::REQUEST_TIMEOUT {
                body::discard(&head, upload).await;
            }
            error.into_response()
        }
    }
}

async fn decode(app: &App, parts: &Parts, upload: &mut Upload) -> Result<Response, ApiError> {
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
    asked.set_model(app.model(&target, head.model()?)?);
    if head.task == Task::Encode {
        return Err(ApiError::unprocessable(
            "this server decodes only: send latents as tensor/binary with `shape` and `dtype`",
        ));
    }
    if let Some(params) = head.params()? {
        asked.set_answer(&params.answer);
    }
    let limit = head.max_body_bytes(app.limits())?;
    let announced = body::announced_length(&parts.headers);
    if let Some(length) = announced {
        head.check_body_length(length, app.limits())?;
    }
    let _accepted = app.accept()?;
    app.executor().check(client)?;
    let _room = app.room(announced.unwrap_or(limit), client)?;
    let bytes = body::read(upload, limit, app.body_timeout()).await?;

    let prepared = blocking({
        let app = app.clone();
        move || prepare(&app, &target, &head, bytes)
    })
    .await?;
    let Prepared { work, cost, pixels, answer, mode, forecast } = prepared;
    asked.set_mode(mode);
    let memory = forecast.map_or(0, |forecast| forecast.memory());
    let decoded = app.executor().admit(client, cost, memory, work)?.decoded().await?;
    asked.set_answer(&answer);
    let model = app.names().get(cost.model).map_or("", String::as_str);
    app.metrics().worked(model, &decoded, forecast, pixels);
    info!(
        model,
        pixels,
        ?answer,
        mode = mode.name(),
        memory_mib = decoded.memory.map(|bytes| bytes >> 20),
        queue_ms = decoded.queued.as_millis() as u64,
        work_ms = decoded.worked.as_millis() as u64,
        "decoded"
    );
    let mut response = blocking(move || respond::decoded(decoded, answer)).await?;
    response.headers_mut().insert(MODE, HeaderValue::from_static(mode.name()));
    Ok(response)
}

/// A request that is ready for the model.
struct Prepared {
    work: Work,
    cost: Cost,
    pixels: usize,
    answer: Answer,
    mode: Mode,
    forecast: Option<Forecast>,
}

fn prepare(app: &App, target: &Target<'_>, head: &RequestHead, body: Bytes) -> Result<Prepared, ApiError> {
    let DecodeRequest { latents, params } = head.decode_request(body)?;
    // A JSON body may name the model, and only now says how large the tensor is.
    let model = app.model(target, params.model.as_deref())?;
    app.limits().check_tensor(&latents.head)?;
    let known = app.load(model)?;
    let info = &known.info;
    let [frames, pixels] = check(&latents, &params, info, app.limits())?;
    let shape = vae::latents::arranged_shape(&latents.head.shape, info, params.height, params.width)?;
    let at_rest = app.executor().shelf().at_rest();
    let Granted { options, mode, forecast } =
        app.admission().decode(known.forecaster.as_deref(), &shape, options(&params), at_rest)?;
    let answer = params.answer;
    let work: Work = Box::new(move |vae, observer| {
        let latents = for_model(latents, &params, vae.info())?;
        vae.decode(latents, &options, observer)
    });
    let cost = Cost { model, work: forecast.map_or(pixels, |forecast| forecast.work) as u64, frames };
    Ok(Prepared { work, cost, pixels, answer, mode, forecast })
}

/// Checks by the shape alone that the model can decode the latents to such an answer, and gives the number of frames and
/// of pixels that they decode to.
///
/// # Errors
/// Latents that do not fit the model, more than the limits allow, or an answer that this model cannot give.
pub(crate) fn check(
    latents: &Tensor,
    params: &Params,
    info: &VaeInfo,
    limits: &Limits,
) -> Result<[usize; 2], ApiError> {
    let shape = vae::latents::arranged_shape(&latents.head.shape, info, params.height, params.width)?;
    let [batch, frames, height, width] = decoded_size(&shape, info);
    limits.check_decoded(batch, frames, height, width)?;
    respond::check(params.answer, info, batch, [height, width])?;
    Ok([batch * frames, batch * frames * height * width])
}

/// The latents as the model takes them, in its layout and scaled.
///
/// # Errors
/// What [`check`] finds, and factors that no latents can be scaled with.
pub(crate) fn for_model(latents: Tensor, params: &Params, info: &VaeInfo) -> Result<HostTensor, VaeError> {
    let mut latents = vae::latents::arrange(host_tensor(latents)?, info, params.height, params.width)?;
    scaling(params.scaling).apply(&mut latents, info)?;
    Ok(latents)
}

/// How the model shall decode.
pub(crate) fn options(params: &Params) -> DecodeOptions {
    DecodeOptions { tiling: params.tiling, framewise: params.framewise, ..DecodeOptions::default() }
}

/// The values as f32, whatever type they came in.
fn host_tensor(Tensor { head, bytes }: Tensor) -> Result<HostTensor, VaeError> {
    let dtype = match head.dtype {
        wire::DType::Float16 => vae::DType::F16,
        wire::DType::BFloat16 => vae::DType::Bf16,
        wire::DType::Float32 => vae::DType::F32,
        wire::DType::UInt8 => {
            return Ok(HostTensor::new(head.shape, bytes.iter().map(|&byte| f32::from(byte)).collect()));
        }
    };
    HostTensor::from_le_bytes(head.shape, dtype, &bytes)
}

fn scaling(scaling: wire::Scaling) -> vae::latents::Scaling {
    match scaling {
        wire::Scaling::None => vae::latents::Scaling::Unchanged,
        wire::Scaling::Model => vae::latents::Scaling::Model,
        wire::Scaling::Factors { scaling_factor, shift_factor } => {
            vae::latents::Scaling::Factors { scaling_factor, shift_factor }
        }
    }
}

/// Batch, frames, height and width of what latents `[B, C, h, w]` or `[B, C, f, h, w]` decode to. Sizes that no
/// memory could hold come out as very large instead of wrong.
fn decoded_size(latents: &[usize], info: &VaeInfo) -> [usize; 4] {
    let (batch, frames, height, width) = match *latents {
        [batch, _, height, width] => (batch, 1, height, width),
        [batch, _, frames, height, width] => {
            let factor = info.temporal_factor.unwrap_or(1);
            (batch, (frames - 1).saturating_mul(factor).saturating_add(1), height, width)
        }
        _ => (0, 0, 0, 0),
    };
    [batch, frames, height.saturating_mul(info.spatial_factor), width.saturating_mul(info.spatial_factor)]
}

/// Runs what takes the processor for a while away from the threads that serve connections.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        error!(%error, "a request crashed");
        Err(ApiError::internal("the server crashed on this request, which is a bug"))
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
