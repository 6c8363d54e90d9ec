//! The web page at `/` and at the models' addresses, the viewer of the API at `/docs`, and their files. They are part of the program, and load
//! nothing from anywhere else.

use std::hash::Hasher;
use std::sync::LazyLock;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use wire::{Accept, routes};

use crate::app::App;
use crate::error::ApiError;
use crate::router;

/// Where the files are.
pub(crate) const FILES: &str = "/page/{file}";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the page may do: run its own scripts, ask its own server, and show what it has in memory.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct File {
    name: &'static str,
    media_type: &'static str,
    content: &'static [u8],
}

macro_rules! file {
    ($name:literal, $media_type:expr) => {
        File { name: $name, media_type: $media_type, content: include_bytes!(concat!("page/", $name)) }
    };
}

static INDEX: File = file!("index.html", HTML);
static DOCUMENTATION: File = file!("docs.html", HTML);

static ALL: [File; 29] = [
    file!("style.css", CSS),
    file!("app.css", CSS),
    file!("docs.css", CSS),
    file!("app.js", SCRIPT),
    file!("code.js", SCRIPT),
    file!("compare.js", SCRIPT),
    file!("docs.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("error.js", SCRIPT),
    file!("files.js", SCRIPT),
    file!("fit.js", SCRIPT),
    file!("kinds.js", SCRIPT),
    file!("latents.js", SCRIPT),
    file!("layout.js", SCRIPT),
    file!("live.js", SCRIPT),
    file!("options.js", SCRIPT),
    file!("parts.js", SCRIPT),
    file!("pickle.js", SCRIPT),
    file!("ready.js", SCRIPT),
    file!("results.js", SCRIPT),
    file!("say.js", SCRIPT),
    file!("server.js", SCRIPT),
    file!("snippets.js", SCRIPT),
    file!("state.js", SCRIPT),
    file!("torch.js", SCRIPT),
    file!("types.js", SCRIPT),
    file!("work.js", SCRIPT),
    file!("zip.js", SCRIPT),
    file!("icon.svg", "image/svg+xml"),
];

/// `GET /`: the page for browsers, `Ok` for everybody else.
pub(crate) async fn root(headers: HeaderMap) -> Response {
    if is_for_browser(&headers) { index(&headers) } else { by_accept("Ok".into_response()) }
}

/// `GET /{model}`: the page for browsers, which reads from its address which model to choose. Everybody else is told
/// that work comes by `POST`.
pub(crate) async fn of_model(State(app): State<App>, request: Request) -> Response {
    if !is_for_browser(request.headers()) {
        return by_accept(router::other_method(State(app), request).await);
    }
    // Only those who have a key learn which models there are; the page says it when it has the key.
    if !app.access().wants_keys()
        && let Some(target) = routes::target(request.uri().path())
        && let Err(unknown) = app.model(&target, None)
    {
        return by_accept(unknown.into_response());
    }
    // The page's files are named relative to it, so that it works below any path.
    let path = request.uri().path();
    if let Some(name) = path.strip_suffix('/').and_then(|path| path.strip_prefix('/')) {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let location = [(header::LOCATION, format!("../{name}{query}"))];
        return by_accept((StatusCode::PERMANENT_REDIRECT, location).into_response());
    }
    index(request.headers())
}

/// Whether a page is wanted.
pub(crate) fn is_for_browser(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    Accept::read(accept).media_types().any(|name| name == "text/html")
}

fn index(headers: &HeaderMap) -> Response {
    by_accept(respond(&INDEX, headers))
}

/// Says to caches that other clients get something else.
fn by_accept(mut response: Response) -> Response {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// The API for people.
pub(crate) async fn docs(uri: Uri, headers: HeaderMap) -> Response {
    // Its files are named relative to it, so that it works below any path.
    if uri.path().ends_with('/') {
        return (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "../docs")]).into_response();
    }
    respond(&DOCUMENTATION, &headers)
}

/// A file that the pages need.
pub(crate) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    match ALL.iter().find(|file| file.name == name) {
        Some(file) => Ok(respond(file, &headers)),
        None => Err(ApiError::not_found(format!("the page has no file {name:?}"))),
    }
}

fn respond(file: &'static File, asked: &HeaderMap) -> Response {
    // Another program may be here tomorrow: browsers keep the files, and ask whether they are still the same.
    static TAG: LazyLock<String> = LazyLock::new(tag);
    let tag = TAG.as_str();
    let is_known = asked.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag);
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, file.media_type)], file.content).into_response()
    };
    let fixed: [(HeaderName, &'static str); 5] = [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Changes with any of the files.
fn tag() -> String {
    // Always the same hash, in all processes of one program.
    let mut hasher = std::hash::DefaultHasher::new();
    for file in [&INDEX, &DOCUMENTATION].into_iter().chain(&ALL) {
        hasher.write(file.content);
    }
    format!("\"{:016x}\"", hasher.finish())
}
