//! Which other sites' pages a browser lets call this server.

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Headers of answers that a page may read besides the usual ones.
const EXPOSED: [HeaderName; 7] = [
    HeaderName::from_static("shape"),
    HeaderName::from_static("dtype"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("x-request-id"),
    crate::admission::MODE,
    crate::respond::WARNING,
    header::RETRY_AFTER,
];

/// `None` while there are no origins.
pub(crate) fn layer(origins: &[String]) -> Option<CorsLayer> {
    let origin = match origins {
        [] => return None,
        origins if origins.iter().any(|origin| origin == "*") => AllowOrigin::any(),
        origins => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let cors = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED);
    Some(cors)
}
