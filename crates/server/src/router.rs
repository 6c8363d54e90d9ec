//! Which path leads where.

use std::borrow::Cow;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use schemars::JsonSchema;
use serde::Serialize;
use tower::ServiceExt;
use vae::VaeInfo;
use vae::latents::{Normalization, Tokens};
use wire::routes::{self, DOCS, HEALTH, METRICS, MODELS, OPENAPI, PREDICT, READY};

use crate::app::{App, Origin};
use crate::error::ApiError;
use crate::{access, body, cors, exposition, handler, openapi, page, trace};

/// The whole HTTP surface.
pub(crate) fn router(app: App) -> Router {
    // Layers of a router come after its choice of a route; what changes paths must come before.
    Router::new().fallback(without_empty_segments).with_state(routed(app))
}

/// Answers a request whose path has `//` as if it had not.
async fn without_empty_segments(State(routed): State<Router>, mut request: Request) -> Response {
    let mut parts = request.uri().clone().into_parts();
    let path = routes::without_empty_segments(request.uri().path());
    if let Cow::Owned(path) = path {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        parts.path_and_query = format!("{path}{query}").parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    routed.oneshot(request).await.into_response()
}

fn routed(app: App) -> Router {
    let mut router = Router::new().route(ROOT, get(page::root).post(handler::handle));
    for (path, handlers) in routes() {
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

/// What is answered at [`crate::Config::admin_port`]: probes and figures.
pub(crate) fn admin(app: App) -> Router {
    let mut router = Router::new();
    for (path, handlers) in [(HEALTH, get(ok)), (READY, get(ready)), (METRICS, get(metrics))] {
        router = router.route(&format!("{path}/"), handlers.clone()).route(path, handlers);
    }
    let message = "this port has /health, /ready and /metrics alone: requests for work go to the other one";
    router
        .fallback(async move || ApiError::not_found(message))
        .layer(from_fn_with_state(app.clone(), access::middleware))
        .layer(from_fn_with_state(app.clone(), trace::middleware))
        .with_state(app)
}

/// The route that has no other name, which no slash can follow.
pub(crate) const ROOT: &str = "/";

/// All others. `openapi` describes each of them.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        (HEALTH, get(ok)),
        (READY, get(ready)),
        (MODELS, get(models)),
        (EXAMPLE, get(example)),
        (METRICS, get(metrics)),
        (OPENAPI, get(openapi::serve)),
        (DOCS, get(page::docs)),
        (page::FILES, get(page::file)),
        (PREDICT, axum::routing::post(handler::handle)),
        ("/{model}", get(page::of_model).post(handler::handle)),
        ("/{model}/predict", axum::routing::post(handler::handle)),
    ]
}

/// Latents to try a model with, where there are any.
pub(crate) const EXAMPLE: &str = "/models/{model}/example";

async fn ok() -> &'static str {
    "Ok"
}

async fn ready(State(app): State<App>) -> Result<&'static str, ApiError> {
    app.ready().map(|()| "Ok")
}

/// Figures for Prometheus.
async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let text = app.metrics().text(&app);
    let (media_type, text) = if exposition::wants_openmetrics(accept) {
        (exposition::OPENMETRICS, text)
    } else {
        (exposition::PROMETHEUS, exposition::prometheus(&text))
    };
    ([(header::CONTENT_TYPE, media_type), (header::VARY, "accept")], text).into_response()
}

/// What is served, the default model first.
async fn models(State(app): State<App>) -> Result<Response, ApiError> {
    let loaded: Vec<_> = (0..app.names().len()).map(|model| app.service().model(model)).collect();
    let models = app
        .names()
        .iter()
        .zip(app.origins())
        .enumerate()
        .map(|(index, (name, origin))| ModelEntry {
            name,
            default: index == 0,
            origin,
            info: loaded.get(index).and_then(Option::as_ref).map(ModelDetails::from),
        })
        .collect();
    let json = serde_json::to_string(&ModelList { models })
        .map_err(|error| ApiError::internal(format!("the list of models could not be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, wire::JSON)], json).into_response())
}

/// Latents to try the model with: a safetensors file with one tensor, as a pipeline hands them over.
async fn example(State(app): State<App>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let model = app.model(&routes::Target::Model(name.as_str().into()), None)?;
    let example = app.origins().get(model).and_then(|origin| origin.example());
    let example =
        example.ok_or_else(|| ApiError::not_found(format!("there is no example for model {name:?}")))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], example).into_response())
}

/// What is served.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelList<'a> {
    models: Vec<ModelEntry<'a>>,
}

/// A model.
#[derive(Serialize, JsonSchema)]
struct ModelEntry<'a> {
    /// Its name in URLs.
    name: &'a str,
    /// Whether requests that name no model get this one.
    default: bool,
    #[serde(flatten)]
    origin: &'a Origin,
    /// Absent while it is not loaded.
    #[serde(flatten)]
    info: Option<ModelDetails<'a>>,
}

/// What a loaded model is.
#[derive(Serialize, JsonSchema)]
struct ModelDetails<'a> {
    /// Its class in diffusers.
    class_name: &'a str,
    /// What it runs on.
    engine: &'a str,
    /// Channels of its latents.
    latent_channels: usize,
    /// Pixels of a side that one latent stands for.
    spatial_factor: usize,
    /// Frames that one latent frame stands for; null for models of pictures.
    temporal_factor: Option<usize>,
    /// Whether it has an encoder.
    can_encode: bool,
    /// Channels of its pictures: 3, or 4 with alpha.
    out_channels: usize,
    /// What pipelines multiply latents with; null for a model that has no such factor.
    scaling_factor: Option<f32>,
    /// What pipelines subtract from latents before that.
    shift_factor: Option<f32>,
    /// Mean of each channel, where it is set apart from the factors.
    latents_mean: Option<&'a [f32]>,
    /// Standard deviation of each channel.
    latents_std: Option<&'a [f32]>,
    /// By what latents are normalised in patches of 2x2; absent for models that do not do so.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_norm: Option<BatchNorm<'a>>,
    /// How latents are packed into tokens: `patches` of 2x2 in the order channel, row, column, `patches_channels_last` in the
    /// order row, column, channel, or `single` latents; null for models of videos.
    tokens: Option<&'static str>,
    /// What neither its configuration nor the server's owner has said and was concluded from its tensors, such as its
    /// factors; absent where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    concluded: Option<&'a str>,
}

/// Statistics of packed latents, from the weights: `latents * sqrt(running_var + eps) + running_mean` is what the model takes.
#[derive(Serialize, JsonSchema)]
struct BatchNorm<'a> {
    /// A mean for each of the `4 * latent_channels` channels of a patch.
    running_mean: &'a [f32],
    /// A variance for each.
    running_var: &'a [f32],
    /// Added to the variance.
    eps: f32,
}

impl<'a> From<&'a VaeInfo> for ModelDetails<'a> {
    fn from(info: &'a VaeInfo) -> Self {
        let (mut latents_mean, mut latents_std, mut batch_norm) = (None, None, None);
        match &info.latents.normalization {
            Normalization::MeanStd { mean, std, .. } => {
                (latents_mean, latents_std) = (Some(mean.as_slice()), Some(std.as_slice()));
            }
            Normalization::BatchNorm { running_mean, running_var, eps, .. } => {
                batch_norm = Some(BatchNorm { running_mean, running_var, eps: *eps });
            }
            Normalization::Factors { .. } | Normalization::Identity => {}
        }
        Self {
            class_name: &info.class_name,
            engine: &info.engine,
            latent_channels: info.latent_channels,
            spatial_factor: info.spatial_factor,
            temporal_factor: info.temporal_factor,
            can_encode: info.can_encode,
            scaling_factor: info.latents.normalization.scaling_factor(),
            shift_factor: info.latents.normalization.factors().and_then(|(_, shift_factor)| shift_factor),
            latents_mean,
            latents_std,
            batch_norm,
            tokens: match info.latents.tokens {
                _ if info.temporal_factor.is_some() => None,
                Tokens::Patches => Some("patches"),
                Tokens::PatchesChannelsLast => Some("patches_channels_last"),
                Tokens::Single => Some("single"),
            },
            out_channels: info.out_channels,
            concluded: info.concluded.as_deref(),
        }
    }
}

async fn nothing_here(request: Request) -> ApiError {
    let (head, body) = request.into_parts();
    body::discard(&head, Some(body));
    ApiError::not_found(format!(
        "there is nothing at {}; latents and pictures go to /, /predict, /<model> or /<model>/predict",
        head.uri.path()
    ))
}

/// What is said to a method that a path does not have.
pub(crate) async fn other_method(State(app): State<App>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    body::discard(&head, Some(body));
    let path = head.uri.path();
    let page = path.strip_suffix('/').unwrap_or(path);
    let allowed = if page.is_empty() {
        "GET, HEAD, POST"
    } else if [HEALTH, READY, MODELS, METRICS, OPENAPI, DOCS].contains(&page)
        || page.starts_with("/page/")
        || page.starts_with("/models/")
    {
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
