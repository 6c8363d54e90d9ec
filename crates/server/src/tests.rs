//! In-process tests of the whole HTTP surface with a model that is easy to predict. Only [`live`] takes a port.

mod access;
mod alpha;
mod answers;
mod connections;
mod encode;
mod errors;
mod face;
mod fake;
mod lazy;
mod leaving;
mod life;
mod line;
mod live;
mod log;
mod memory;
mod preview;
mod spellings;
#[cfg(feature = "tls")]
mod tls;
mod values;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use tower::ServiceExt;
use wire::ErrorBody;

use crate::app::App;
use crate::router::router;
use crate::{Config, Model};

/// Nothing here takes long; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server without a port.
struct TestServer {
    app: App,
    router: Router,
}

impl TestServer {
    /// A server whose models are loaded.
    async fn open(config: Config, models: Vec<Model>) -> Self {
        let app = App::new(&config, models).unwrap();
        let mut end = app.service().start().unwrap();
        let router = router(app.clone());
        let server = Self { app, router };
        server
            .until(|app| {
                if let Ok(end) = end.try_recv() {
                    panic!("the workers ended: {end:?}");
                }
                app.service().is_ready()
            })
            .await;
        server
    }

    /// Waits until something is true.
    async fn until(&self, mut condition: impl FnMut(&App) -> bool) {
        let waiting = async {
            while !condition(&self.app) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("it never came true");
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = tokio::time::timeout(PATIENCE, self.router.clone().oneshot(request)).await;
        Reply::read(response.expect("there is no answer").unwrap()).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// Sends `body` as a raw tensor.
    async fn post(&self, uri: &str, accept: &str, body: impl Into<Body>) -> Reply {
        self.send(tensor_request(uri, accept, body)).await
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.app.service().close();
    }
}

fn tensor_request(uri: &str, accept: &str, body: impl Into<Body>) -> Request<Body> {
    let body = body.into();
    let mut request = Request::post(uri).header("content-type", "tensor/binary").header("accept", accept);
    // As every client does that knows it.
    if let Some(length) = body.size_hint().exact() {
        request = request.header("content-length", length);
    }
    request.body(body).unwrap()
}

/// A whole answer.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    async fn read(response: Response) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {self:?}")).to_str().unwrap()
    }

    /// The message of an answer that must be a failure in the form that clients rely on.
    #[track_caller]
    fn error(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json");
        let object: serde_json::Map<_, _> = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), ["error"]);
        if matches!(status, 429 | 503) {
            assert!(self.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
        ErrorBody::read(&self.body).error
    }

    /// The body of an answer that must be a success.
    #[track_caller]
    fn content(&self, content_type: &str) -> &[u8] {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), content_type);
        &self.body
    }
}
