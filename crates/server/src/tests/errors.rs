//! Every failure is a JSON object with one sentence, whoever raised it.

use axum::body::Body;
use axum::http::{Method, Request};
use bytes::Bytes;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vae::VaeInfo;
use wire::Limits;

use super::fake::{FAIL, PANIC, info, model};
use super::{TestServer, tensor_request};
use crate::{Config, ServeError, Server};

const ONE: &str = "/?dtype=uint8&shape=[1,4,1,1]&output_type=pt";

async fn server() -> TestServer {
    TestServer::open(Config::default(), vec![model("fake", info()).0]).await
}

#[tokio::test]
async fn requests_that_make_no_sense() {
    let server = server().await;
    for (uri, accept, body, status, word) in [
        ("/", "", 4, 400, "`shape` and `dtype`"),
        ("/?shape=[1,4,1,1]", "", 4, 400, "`dtype`"),
        ("/?dtype=uint8", "", 4, 400, "`shape`"),
        ("/?dtype=int8&shape=[1,4,1,1]", "", 4, 400, "int8"),
        ("/?dtype=uint8&shape=[1,4,1,1", "", 4, 400, "`shape`"),
        ("/?dtype=uint8&shape=[1,4,1,1]", "", 3, 400, "3 bytes"),
        ("/?dtype=uint8&shape=[1,4,1,1]", "", 5, 400, "5 bytes"),
        ("/?dtype=uint8&shape=[1,4,1,1]", "", 0, 400, "0 bytes"),
        ("/?dtype=float16&shape=[1,4,1,1]&output_type=np", "", 8, 400, "output_type"),
        ("/?dtype=uint8&shape=[1,4,1,1]&scaling_factor=0", "", 4, 400, "scaling_factor"),
        ("/?dtype=uint8&shape=[1,4,1,1]&partial_postprocess=2", "", 4, 400, "partial_postprocess"),
        ("/?dtype=uint8&shape=[1,4,1,1]&image_format=gif", "", 4, 400, "image_format"),
        ("/?dtype=uint8&shape=[1,4,1,1]", "audio/mp3", 4, 400, "audio/mp3"),
        ("/?dtype=uint8&shape=[1,4,1,1]&task=sing", "", 4, 400, "task"),
        // Read, but not possible with this model.
        ("/?dtype=uint8&shape=[1,5,1,1]", "", 5, 422, "[1, 5, 1, 1]"),
        ("/?dtype=uint8&shape=4", "", 4, 422, "[4]"),
        ("/?dtype=uint8&shape=[1,4,2,1,1]", "", 8, 422, "[1, 4, 2, 1, 1]"),
        ("/?dtype=uint8&shape=[2,4,1,1]&output_type=pil", "image/png", 8, 422, "output_type=pt"),
        ("/?dtype=uint8&shape=[1,4,1,1]&output_type=mp4", "text/plain", 4, 422, "video"),
        ("/?dtype=uint8&shape=[1,5,1,1]&task=encode", "", 5, 422, "[B, 3, H, W]"),
        // Names.
        ("/other?dtype=uint8&shape=[1,4,1,1]", "", 4, 404, "\"other\""),
        ("/other/predict?dtype=uint8&shape=[1,4,1,1]", "", 4, 404, "fake"),
        ("/?model=other&dtype=uint8&shape=[1,4,1,1]", "", 4, 404, "\"other\""),
        ("/fake?model=other&dtype=uint8&shape=[1,4,1,1]", "", 4, 400, "path"),
        ("/%FF%00?dtype=uint8&shape=[1,4,1,1]", "", 4, 404, "there is no model"),
        ("/fake/other?dtype=uint8&shape=[1,4,1,1]", "", 4, 404, "/fake/other"),
    ] {
        let reply = server.post(uri, accept, vec![0; body]).await;
        let error = reply.error(status);
        assert!(error.contains(word), "{uri}: {error}");
    }
    server.post(ONE, "", vec![0; 4]).await.content("tensor/binary");
}

#[tokio::test]
async fn other_content_types() {
    let server = server().await;
    let query = "/?dtype=uint8&shape=[1,4,1,1]";
    let send = async |content_type: Option<&str>, uri: &str| {
        let mut request = Request::post(uri);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        server.send(request.body(vec![0; 4].into()).unwrap()).await
    };
    send(Some("application/x-www-form-urlencoded"), query).await.error(415);
    send(Some("multipart/form-data; boundary=x"), query).await.error(415);
    // Pictures, if these bytes were some.
    send(Some("image/png"), query).await.error(400);
    send(None, "/").await.error(400);
    // This one has a byte too many.
    send(None, "/?dtype=uint8&shape=[1,3,1,1]").await.error(413);
    send(Some("application/json"), query).await.error(400);
    send(Some("tensor/base64"), query).await.error(400);
    send(None, query).await.content("image/jpeg");
    send(Some("application/octet-stream"), query).await.content("image/jpeg");

    let mut request = tensor_request(query, "", vec![0; 4]);
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert!(server.send(request).await.error(415).contains("gzip"));
    let mut request = tensor_request(query, "", vec![0; 4]);
    request.headers_mut().insert("content-encoding", "identity".parse().unwrap());
    server.send(request).await.content("image/jpeg");

    let mut request = tensor_request(query, "", vec![0; 4]);
    let odd = axum::http::HeaderValue::from_bytes(b"tensor/bin\xe4ry").unwrap();
    request.headers_mut().insert("content-type", odd);
    assert!(server.send(request).await.error(400).contains("content-type"));
}

#[tokio::test]
async fn methods_and_paths_that_are_not_there() {
    let server = server().await;
    for (method, path, status, allowed) in [
        (Method::GET, "/fake", 405, Some("POST")),
        (Method::GET, "/predict", 405, Some("POST")),
        (Method::PUT, "/", 405, Some("GET, HEAD, POST")),
        (Method::DELETE, "/fake/predict/", 405, Some("POST")),
        (Method::OPTIONS, "/", 405, Some("GET, HEAD, POST")),
        (Method::POST, "/health", 405, Some("GET, HEAD")),
        (Method::POST, "/models/", 405, Some("GET, HEAD")),
        (Method::GET, "/other", 404, None),
        (Method::GET, "/%00", 404, None),
        (Method::PUT, "/other/predict", 404, None),
        (Method::GET, "/a/b/c", 404, None),
        (Method::GET, "/a/b", 404, None),
        (Method::POST, "/a/b/c", 404, None),
    ] {
        let request = Request::builder().method(method.clone()).uri(path).body(Body::from("body")).unwrap();
        let reply = server.send(request).await;
        let error = reply.error(status);
        if let Some(allowed) = allowed {
            assert!(error.starts_with(method.as_str()), "{error}");
            assert_eq!(reply.header("allow"), allowed, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn limits_hold_before_memory_is_taken() {
    let limits = Limits { max_body_bytes: 64, max_batch: 2, max_pixels: 16, max_total_pixels: 24 };
    let config = Config {
        service: service::Config { limits: limits.clone(), ..service::Config::default() },
        ..Config::default()
    };
    let server = TestServer::open(config, vec![model("fake", info()).0]).await;
    for (shape, elements, flag) in [
        ("[1,4,5,5]", 100, "64 at most (--max-body)"),
        ("[3,4,1,1]", 12, "2 at most (--max-batch)"),
        ("[1,4,1,5]", 20, "16 at most (--max-pixels)"),
        ("[2,4,2,2]", 32, "24 at most (--max-total-pixels)"),
        ("[1,4,99999,99999]", 0, "64 at most (--max-body)"), // with none sent
    ] {
        let uri = format!("/?dtype=uint8&output_type=pt&shape={shape}");
        let error = server.post(&uri, "", vec![0; elements]).await.error(413);
        assert!(error.contains(flag), "{error}");
    }
    server
        .post("/?dtype=uint8&output_type=pt&shape=[1,4,2,2]", "", vec![0; 16])
        .await
        .content("tensor/binary");

    // JSON says only inside how large it is, so the body has a limit of its own, with and without a length.
    let long = Bytes::from(vec![b' '; limits.max_base64_body_bytes() + 1]);
    let json = || Request::post("/").header("content-type", "application/json");
    let announced = json().header("content-length", long.len()).body(long.clone().into()).unwrap();
    let error = server.send(announced).await.error(413);
    assert!(error.contains("(--max-body 64, in base64)"), "{error}");
    let error = server.send(json().body(long.into()).unwrap()).await.error(413);
    assert!(error.contains("(--max-body)"), "{error}");
    let large = r#"{"inputs": "", "parameters": {"shape": [1, 4, 999999, 999999], "dtype": "float32"}}"#;
    server.send(json().body(large.into()).unwrap()).await.error(400);
}

/// A picture that its format cannot hold is refused before the model decodes it. The sides are those of libjpeg
/// (`JPEG_MAX_DIMENSION`) and libwebp (`WEBP_MAX_DIMENSION`), above which Pillow raises.
#[tokio::test]
async fn pictures_that_no_file_of_their_format_can_hold() {
    let (model, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![model]).await;
    let post = async |height: usize, width: usize, query: &str, accept: &str| {
        let uri = format!("/?dtype=uint8&shape=[1,4,{height},{width}]&{query}");
        server.post(&uri, accept, vec![0; 4 * height * width]).await
    };
    for (height, width, query, accept, says) in [
        (1, 8192, "image_format=webp", "", "16383 x 16383 pixels, and this one is 16384 x 2"),
        (8192, 1, "output_type=pil", "image/webp", "this one is 2 x 16384"),
        (1, 32_751, "", "image/jpeg", "65500 x 65500 pixels, and this one is 65502 x 2"),
        (32_751, 1, "", "", "image_format=png"),
        (1, 8192, "image_format=webp", "application/zip", "16383"),
        (1, 32_751, "", "multipart/mixed", "65500"),
    ] {
        let error = post(height, width, query, accept).await.error(422);
        assert!(error.contains(says), "{query} {accept}: {error}");
    }
    assert_eq!(handle.started(), 0, "nothing was decoded");
    post(1, 8191, "", "image/webp").await.content("image/webp");
    post(1, 32_750, "", "").await.content("image/jpeg");
    post(1, 32_751, "", "image/png").await.content("image/png");
    post(1, 32_751, "output_type=pt", "").await.content("tensor/binary");
}

#[tokio::test]
async fn bodies_in_pieces_are_measured_as_they_come() {
    let server = server().await;
    let pieces = async |count| {
        let (mut sender, body) = http_body_util::channel::Channel::<Bytes>::new(count);
        for _ in 0..count {
            sender.send_data(Bytes::from_static(&[0; 2])).await.unwrap();
        }
        Body::new(body)
    };
    server.post(ONE, "", pieces(2).await).await.content("tensor/binary");
    server.post(ONE, "", pieces(1).await).await.error(400);
    server.post(ONE, "", pieces(3).await).await.error(413);
}

#[tokio::test]
async fn a_body_that_does_not_come() {
    let config = Config { body_timeout: Duration::from_millis(20), ..Config::default() };
    let server = TestServer::open(config, vec![model("fake", info()).0]).await;
    let (_sender, body) = http_body_util::channel::Channel::<Bytes>::new(1);
    let error = server.post(ONE, "", Body::new(body)).await.error(408);
    assert!(error.contains("0.02 seconds (--body-timeout)"), "{error}");
}

#[tokio::test]
async fn a_model_that_fails_or_panics_does_not_end_the_server() {
    let (model, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![model]).await;
    let uri = "/?dtype=float32&shape=[1,4,1,1]&output_type=pt";
    for (value, word) in [(FAIL, "12345 bytes"), (PANIC, "bug")] {
        let body: Vec<u8> = [value; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let error = server.post(uri, "", body).await.error(500);
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(handle.released(), 1, "what a panic left behind is given back");
    server.post(uri, "", vec![0; 16]).await.content("tensor/binary");
}

/// Where log lines go.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn failures_of_ours_are_logged_with_their_cause() {
    let log = Log::default();
    let (lines, writer) = (log.clone(), move || log.clone());
    let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let server = server().await;
    let uri = "/?dtype=float32&shape=[1,4,1,1]&output_type=pt";
    for (value, cause) in [(FAIL, "12345 bytes"), (PANIC, "as the test wants it")] {
        lines.0.lock().unwrap().clear();
        let body: Vec<u8> = [value; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let reply = server.post(uri, "", body).await;
        reply.error(500);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let loud: Vec<_> = text.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(loud.len() == 1 && loud[0].contains(cause), "{text}");
        assert!(loud[0].contains(reply.header("x-request-id")), "{text}");
    }
    // What clients do wrong is not our failure.
    lines.0.lock().unwrap().clear();
    server.post("/", "", vec![0; 4]).await.error(400);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("ERROR") && text.contains("status=400"), "{text}");
}

#[tokio::test]
async fn only_three_channels_make_a_picture() {
    let gray = VaeInfo { out_channels: 1, ..info() };
    let server = TestServer::open(Config::default(), vec![model("gray", gray).0]).await;
    server.post(ONE, "", vec![0; 4]).await.content("tensor/binary");
    for query in ["&partial_postprocess=True", ""] {
        let uri = format!("/?dtype=uint8&shape=[1,4,1,1]{query}");
        assert!(server.post(&uri, "", vec![0; 4]).await.error(422).contains("1 channels"));
    }
}

#[tokio::test]
async fn configurations_that_make_no_sense() {
    let bind = async |names: &[&str]| {
        let config = Config { port: 0, ..Config::default() };
        Server::bind(config, names.iter().map(|name| model(name, info()).0).collect()).await.map(|_| ())
    };
    for names in [&[][..], &["a b"], &["health"], &[""], &["a", "b", "a"]] {
        assert!(matches!(bind(names).await, Err(ServeError::Config(_))), "{names:?}");
    }
    assert!(bind(&["a", "b"]).await.is_ok());

    let first =
        Server::bind(Config { port: 0, ..Config::default() }, vec![model("a", info()).0]).await.unwrap();
    let config = Config { port: first.local_addr().port(), ..Config::default() };
    let second = Server::bind(config, vec![model("a", info()).0]).await;
    assert!(matches!(second.err(), Some(ServeError::Bind { .. })));
}
