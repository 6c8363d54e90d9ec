//! Who may come in, and how often; and what is counted.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;

use super::fake::{info, model};
use super::{Reply, TestServer, tensor_request};
use crate::{AccessConfig, Config, Forwarding};
use service::Client;

const ONE: &str = "/?dtype=uint8&shape=[1,4,1,1]&output_type=pt";
const KEY: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210";

async fn server(access: AccessConfig) -> TestServer {
    TestServer::open(Config { access, ..Config::default() }, vec![model("fake", info()).0]).await
}

async fn with_keys() -> TestServer {
    let keys = vec![format!("alice:{KEY}").parse().unwrap(), OTHER.parse().unwrap()];
    server(AccessConfig { keys, ..AccessConfig::default() }).await
}

async fn post(server: &TestServer, uri: &str, headers: &[(&'static str, &str)]) -> Reply {
    let mut request = tensor_request(uri, "", vec![0; 4]);
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    server.send(request).await
}

#[tokio::test]
async fn a_key_opens_the_door_however_it_is_given() {
    let server = with_keys().await;
    // base64 of alice:KEY, KEY: and :OTHER.
    let basic = ["YWxpY2U6MDEyMzQ1Njc4OWFiY2RlZg==", "MDEyMzQ1Njc4OWFiY2RlZjo=", "OmZlZGNiYTk4NzY1NDMyMTA="];
    let mut headers = vec![format!("Bearer {KEY}"), format!("bearer  {OTHER}")];
    headers.extend(basic.map(|text| format!("Basic {text}")));
    for value in headers {
        post(&server, ONE, &[("authorization", &value)]).await.content("tensor/binary");
    }
    post(&server, &format!("{ONE}&api_key={KEY}"), &[]).await.content("tensor/binary");
    assert_eq!(server.get(&format!("/models?api_key={OTHER}")).await.status, 200);
}

#[tokio::test]
async fn without_a_key_no_work_is_done_and_nothing_is_told() {
    let server = with_keys().await;
    for value in ["", "Bearer", "Bearer 0123456789abcdee", "Basic !", "Basic MDEy", "Digest 0123456789abcdef"]
    {
        let reply = post(&server, ONE, &[("authorization", value)]).await;
        assert!(!reply.error(401).contains("0123"), "the key is not repeated");
        assert_eq!(reply.header("www-authenticate"), "Basic realm=\"remote-vae\"");
    }
    post(&server, ONE, &[]).await.error(401);
    post(&server, &format!("{ONE}&api_key="), &[]).await.error(401);
    // A wrong header is not made good by the query.
    post(&server, &format!("{ONE}&api_key={KEY}"), &[("authorization", "Bearer x")]).await.error(401);
    for path in ["/models", "/metrics", "/nothing"] {
        server.get(path).await.error(401);
    }
    for path in ["/health", "/health/", "/ready"] {
        assert_eq!(server.get(path).await.status, 200);
    }
}

#[tokio::test]
async fn a_key_file_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, KEY).unwrap();
    let server = server(AccessConfig { key_file: Some(path.clone()), ..AccessConfig::default() }).await;
    let status = async |key: &str| post(&server, &format!("{ONE}&api_key={key}"), &[]).await.status.as_u16();
    assert_eq!((status(KEY).await, status(OTHER).await), (200, 401));
    std::fs::write(&path, OTHER).unwrap();
    server.app.access().reload();
    assert_eq!((status(KEY).await, status(OTHER).await), (401, 200));
    // A key counts only while the file has it: nobody is let in by a file that is empty, gone or no text.
    for content in [Some(&b""[..]), None, Some(b"# nobody\n"), Some(b"\xFF\xFF"), Some(b"short\n")] {
        std::fs::write(&path, KEY).unwrap();
        server.app.access().reload();
        assert_eq!((status(KEY).await, status(OTHER).await), (200, 401));
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        server.app.access().reload();
        assert_eq!((status(KEY).await, status(OTHER).await), (401, 401), "{content:?}");
        assert_eq!(server.get("/models").await.status, 401, "{content:?}");
        assert_eq!(server.get("/health").await.status, 200, "{content:?}");
    }
    // A line with a mistake takes no other key away.
    std::fs::write(&path, format!("{KEY}\nshort\n\u{feff}{OTHER}")).unwrap();
    server.app.access().reload();
    assert_eq!((status(KEY).await, status(OTHER).await), (200, 401));
}

#[tokio::test]
async fn keys_that_are_no_file_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, KEY).unwrap();
    let keys = vec![OTHER.parse().unwrap()];
    let access = AccessConfig { keys, key_file: Some(path.clone()), ..AccessConfig::default() };
    let server = server(access).await;
    let status = async |key: &str| post(&server, &format!("{ONE}&api_key={key}"), &[]).await.status.as_u16();
    assert_eq!((status(KEY).await, status(OTHER).await), (200, 200));
    std::fs::remove_file(&path).unwrap();
    server.app.access().reload();
    assert_eq!((status(KEY).await, status(OTHER).await), (401, 200));
}

#[tokio::test]
async fn who_has_no_key_is_told_before_his_body_is_there() {
    let server = with_keys().await;
    let (mut sender, body) = http_body_util::channel::Channel::<bytes::Bytes>::new(1);
    sender.send_data(bytes::Bytes::from_static(b"12")).await.unwrap();
    let answer = server.post(ONE, "", Body::new(body));
    let reply = tokio::time::timeout(Duration::from_secs(5), answer).await.expect("it waits for the body");
    reply.error(401);
    // And whoever sends it all the same is not cut off while he does.
    sender.send_data(bytes::Bytes::from_static(b"34")).await.unwrap();
}

#[tokio::test]
async fn each_client_has_its_own_rate() {
    let rate_limit = Some("2/h".parse().unwrap());
    let server = server(AccessConfig {
        rate_limit,
        forwarding: Some(Forwarding::XForwardedFor),
        ..AccessConfig::default()
    })
    .await;
    for address in ["10.0.0.1", "1.2.3.4, 10.0.0.2", "10.0.0.3:50000"] {
        for _ in 0..2 {
            post(&server, ONE, &[("x-forwarded-for", address)]).await.content("tensor/binary");
        }
        let reply = post(&server, ONE, &[("x-forwarded-for", address)]).await;
        reply.error(429);
        let wait: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1700..=1800).contains(&wait), "the next of two an hour is in half an hour, not in {wait} s");
    }
    // What the client itself wrote before the proxy's entry counts for nothing.
    post(&server, ONE, &[("x-forwarded-for", "9.9.9.9, 10.0.0.2")]).await.error(429);
    // Nor does its port, which is another one with each connection.
    post(&server, ONE, &[("x-forwarded-for", "10.0.0.3:50001")]).await.error(429);
    // A header that this proxy does not write is the client's own.
    let own = [("x-forwarded-for", "10.0.0.3"), ("forwarded", "for=10.9.9.9")];
    post(&server, ONE, &own).await.error(429);
    assert_eq!(server.get("/models").await.status, 200, "only work is counted");
}

#[tokio::test]
async fn clients_behind_a_proxy_that_speaks_rfc_7239() {
    let access = AccessConfig {
        rate_limit: Some("1/h".parse().unwrap()),
        forwarding: Some(Forwarding::Forwarded),
        ..AccessConfig::default()
    };
    let server = server(access).await;
    for (forwarded, status) in [
        ("for=192.0.2.1;proto=https", 200),
        ("for=192.0.2.9, for=\"192.0.2.1:4711\"", 429),
        ("for=\"[2001:db8:cafe::17]:4711\"", 200),
        // The same network of IPv6.
        ("for=\"[2001:db8:cafe::18]\"", 429),
        ("for=_hidden", 200),
        ("for=\"_hidden:_port\"", 429),
        ("for=_other", 200),
    ] {
        assert_eq!(post(&server, ONE, &[("forwarded", forwarded)]).await.status, status, "{forwarded}");
    }
    let own = [("x-forwarded-for", "10.9.9.9"), ("forwarded", "for=192.0.2.1")];
    post(&server, ONE, &own).await.error(429);
}

#[tokio::test]
async fn without_trust_addresses_are_those_of_connections() {
    let rate_limit = Some("1/h".parse().unwrap());
    let server = server(AccessConfig { rate_limit, ..AccessConfig::default() }).await;
    let from = async |address: [u8; 4], forwarded: &str| {
        let mut request = tensor_request(ONE, "", vec![0; 4]);
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        request.extensions_mut().insert(Client::at(address.into()));
        server.send(request).await.status.as_u16()
    };
    assert_eq!(from([10, 0, 0, 1], "1.1.1.1").await, 200);
    assert_eq!(from([10, 0, 0, 1], "2.2.2.2").await, 429);
    assert_eq!(from([10, 0, 0, 2], "1.1.1.1").await, 200);
}

#[tokio::test]
async fn pages_of_other_sites() {
    let ask = async |server: &TestServer, method: &str, origin: &str| {
        let request = Request::builder().method(method).uri("/models").header("origin", origin);
        server
            .send(request.header("access-control-request-method", "POST").body(Body::empty()).unwrap())
            .await
    };
    let closed = server(AccessConfig::default()).await;
    let reply = ask(&closed, "GET", "https://example.org").await;
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
    ask(&closed, "OPTIONS", "https://example.org").await.error(405);

    let cors_origins = vec!["https://example.org".to_owned()];
    let keys = vec![KEY.parse().unwrap()];
    let open = server(AccessConfig { keys, cors_origins, ..AccessConfig::default() }).await;
    // The question comes without a key.
    let reply = ask(&open, "OPTIONS", "https://example.org").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("access-control-allow-origin")),
        (200, "https://example.org")
    );
    let reply = ask(&open, "OPTIONS", "https://example.com").await;
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn pages_of_other_sites_read_every_header() {
    let (model, handle) = model("fake", info());
    let access = AccessConfig {
        cors_origins: vec!["https://example.org".to_owned()],
        rate_limit: Some("4/h".parse().unwrap()),
        ..AccessConfig::default()
    };
    let server = TestServer::open(Config { access, ..Config::default() }, vec![model]).await;
    // What answers have, and what a page may read of it at once (https://fetch.spec.whatwg.org/, "CORS-safelisted
    // response-header name").
    let always = [
        "cache-control",
        "content-language",
        "content-length",
        "content-type",
        "expires",
        "last-modified",
        "pragma",
    ];
    let mut seen = std::collections::BTreeSet::new();
    let mut look = |reply: &Reply| {
        let exposed = reply.header("access-control-expose-headers").to_lowercase();
        let exposed: Vec<_> = exposed.split(',').map(str::trim).collect();
        for name in reply.headers.keys().map(|name| name.as_str()) {
            let is_of_cors = name.starts_with("access-control-") || name == "vary";
            assert!(
                is_of_cors || always.contains(&name) || exposed.contains(&name) || exposed == ["*"],
                "{name} is hidden: {reply:?}"
            );
            seen.insert(name.to_owned());
        }
    };
    let origin = [("origin", "https://example.org")];
    look(&post(&server, &format!("{ONE}&do_scalin=False"), &origin).await);
    let mut encode = tensor_request("/?dtype=uint8&shape=[1,3,2,2]&task=encode&seed=7", "", vec![0; 12]);
    encode.headers_mut().insert("origin", origin[0].1.parse().unwrap());
    look(&server.send(encode).await);
    look(&post(&server, "/other", &origin).await);
    // Beyond the time that it has.
    handle.hold();
    look(&post(&server, ONE, &[origin[0], ("x-request-timeout", "0.01")]).await);
    handle.let_go();
    let refused = post(&server, ONE, &origin).await;
    refused.error(429);
    look(&refused);
    for name in [
        "shape",
        "dtype",
        "seed",
        "server-timing",
        "x-decode-mode",
        "x-request-id",
        "x-warning",
        "retry-after",
    ] {
        assert!(seen.contains(name), "no answer has {name}: {seen:?}");
    }
}

#[tokio::test]
async fn figures_come_in_the_format_that_is_asked_for() {
    let server = TestServer::open(Config::default(), vec![model("fake", info()).0]).await;
    server.post(ONE, "", vec![0; 4]).await.content("tensor/binary");
    let ask = async |accept: Option<&str>| {
        let mut request = Request::get("/metrics");
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        server.send(request.body(Body::empty()).unwrap()).await
    };
    for accept in [None, Some("*/*"), Some("text/plain;version=0.0.4")] {
        let reply = ask(accept).await;
        let text =
            String::from_utf8(reply.content("text/plain; version=0.0.4; charset=utf-8").to_vec()).unwrap();
        assert!(text.contains("# TYPE remote_vae_requests_total counter\n"), "{text}");
        assert!(text.contains("# TYPE remote_vae_build_info gauge\n"), "{text}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }
    let reply = ask(Some("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")).await;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(reply.content(media_type).ends_with(b"# EOF\n"));
}

#[tokio::test]
async fn what_has_been_done_is_counted() {
    let (model, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![model]).await;
    let line = async |line: &str| {
        let text = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
        text.lines().any(|found| found == line)
    };
    assert!(line("remote_vae_queue_length 0").await && line("remote_vae_ready 1").await);
    for _ in 0..2 {
        server.post(ONE, "", vec![0; 4]).await.content("tensor/binary");
    }
    server.post(ONE, "", vec![0; 3]).await.error(400);
    server.post("/other", "", vec![0; 3]).await.error(400);
    let requests = "remote_vae_requests_total{model=";
    assert!(
        line(&format!(
            "{requests}\"fake\",task=\"decode\",output=\"tensor/binary\",mode=\"exact\",status=\"200\"}} 2"
        ))
        .await
    );
    assert!(
        line(&format!(
            "{requests}\"fake\",task=\"decode\",output=\"tensor/binary\",mode=\"none\",status=\"400\"}} 1"
        ))
        .await
    );
    assert!(
        line(&format!(
            "{requests}\"none\",task=\"unknown\",output=\"unknown\",mode=\"none\",status=\"400\"}} 1"
        ))
        .await
    );
    assert!(line("remote_vae_pixels_total{model=\"fake\",task=\"decode\"} 8").await);
    assert!(line("remote_vae_work_seconds_count{model=\"fake\",task=\"decode\"} 2").await);

    handle.hold();
    let waiting = [(); 3].map(|()| {
        let router = server.router.clone();
        tokio::spawn(tower::ServiceExt::oneshot(router, tensor_request(ONE, "", vec![0; 4])))
    });
    server.until(|app| app.service().waiting() == 2).await;
    assert!(line("remote_vae_queue_length 2").await && line("remote_vae_in_flight 3").await);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    server.until(|app| app.in_flight() == 0).await;
    assert!(
        line(&format!(
            "{requests}\"fake\",task=\"decode\",output=\"tensor/binary\",mode=\"exact\",status=\"499\"}} 3"
        ))
        .await
    );
    handle.let_go();
    tokio::time::sleep(Duration::from_millis(1)).await;
}
