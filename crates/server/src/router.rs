//! Which path leads where.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::Serialize;
use vae::VaeInfo;
use wire::routes::{self, HEALTH, METRICS, MODELS, PREDICT, READY};

use crate::app::{App, Origin};
use crate::error::ApiError;
use crate::{access, body, cors, handler, metrics, trace};

/// The whole HTTP surface.
pub(crate) fn router(app: App) -> Router {
    let mut router = Router::new().route("/", get(ok).post(handler::handle));
    let routes: [(&str, MethodRouter<App>); 7] = [
        (HEALTH, get(ok)),
        (READY, get(ready)),
        (MODELS, get(models)),
        (METRICS, get(metrics)),
        (PREDICT, axum::routing::post(handler::handle)),
        ("/{model}", axum::routing::post(handler::handle)),
        ("/{model}/predict", axum::routing::post(handler::handle)),
    ];
    for (path, handlers) in routes {
        router = router.route(&format!("{path}/"), handlers.clone()).route(path, handlers);
    }
    router = router
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(app.clone(), access::middleware));
    // Outside of the keys: a browser asks without one whether it may ask with one.
    if let Some(cors) = cors::layer(app.access().cors_origins()) {
        router = router.layer(cors);
    }
    router.layer(from_fn_with_state(app.clone(), trace::middleware)).with_state(app)
}

async fn ok() -> &'static str {
    "Ok"
}

async fn ready(State(app): State<App>) -> Result<&'static str, ApiError> {
    app.ready().map(|()| "Ok")
}

/// Figures for Prometheus.
async fn metrics(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], app.metrics().text(&app)).into_response()
}

/// What is served, the default model first.
async fn models(State(app): State<App>) -> Result<Response, ApiError> {
    let known: Vec<_> = (0..app.names().len()).map(|model| app.known(model)).collect();
    let models = app
        .names()
        .iter()
        .zip(app.origins())
        .enumerate()
        .map(|(index, (name, origin))| ModelEntry {
            name,
            default: index == 0,
            origin,
            info: known.get(index).and_then(Option::as_ref).map(|known| ModelDetails::from(&known.info)),
        })
        .collect();
    let json = serde_json::to_string(&ModelList { models })
        .map_err(|error| ApiError::internal(format!("the list of models could not be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, wire::JSON)], json).into_response())
}

#[derive(Serialize)]
struct ModelList<'a> {
    models: Vec<ModelEntry<'a>>,
}

#[derive(Serialize)]
struct ModelEntry<'a> {
    name: &'a str,
    /// Whether requests that name no model get this one.
    default: bool,
    #[serde(flatten)]
    origin: &'a Origin,
    /// Absent while it is not loaded.
    #[serde(flatten)]
    info: Option<ModelDetails<'a>>,
}

#[derive(Serialize)]
struct ModelDetails<'a> {
    class_name: &'a str,
    engine: &'a str,
    latent_channels: usize,
    spatial_factor: usize,
    temporal_factor: Option<usize>,
    /// Whether it has an encoder.
    can_encode: bool,
    scaling_factor: f32,
    shift_factor: Option<f32>,
    latents_mean: Option<&'a [f32]>,
    latents_std: Option<&'a [f32]>,
}

impl<'a> From<&'a VaeInfo> for ModelDetails<'a> {
    fn from(info: &'a VaeInfo) -> Self {
        Self {
            class_name: &info.class_name,
            engine: &info.engine,
            latent_channels: info.latent_channels,
            spatial_factor: info.spatial_factor,
            temporal_factor: info.temporal_factor,
            can_encode: info.can_encode,
            scaling_factor: info.scaling_factor,
            shift_factor: info.shift_factor,
            latents_mean: info.latents_mean.as_deref(),
            latents_std: info.latents_std.as_deref(),
        }
    }
}

async fn nothing_here(request: Request) -> ApiError {
    let (head, body) = request.into_parts();
    body::discard(&head, Some(body)).await;
    ApiError::not_found(format!(
        "there is nothing at {}; latents and pictures go to /, /predict, /<model> or /<model>/predict",
        head.uri.path()
    ))
}

async fn other_method(State(app): State<App>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    body::discard(&head, Some(body)).await;
    let path = head.uri.path();
    let page = path.strip_suffix('/').unwrap_or(path);
    let allowed = if page.is_empty() {
        "GET, HEAD, POST"
    } else if [HEALTH, READY, MODELS, METRICS].contains(&page) {
        "GET, HEAD"
    } else {
        // A path with the name of a model; whether there is one comes before what can be done with it.
        if let Some(Err(unknown)) = routes::target(path).map(|target| app.model(&target, None)) {
            return unknown.into_response();
        }
        "POST"
    };
    let message = format!("{} is not possible at {path}: use {allowed}", head.method);
    let mut response = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}
