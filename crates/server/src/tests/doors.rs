//! Who may come in, and how often; and what is counted.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;

use super::fake::{info, model};
use super::{House, Reply, tensor_request};
use crate::client::Client;
use crate::{AccessConfig, Config};

const ONE: &str = "/?dtype=uint8&shape=[1,4,1,1]&output_type=pt";
const KEY: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210";

async fn house(access: AccessConfig) -> House {
    House::open(Config { access, ..Config::default() }, vec![model("fake", info()).0]).await
}

async fn with_keys() -> House {
    let keys = vec![format!("alice:{KEY}").parse().unwrap(), OTHER.parse().unwrap()];
    house(AccessConfig { keys, ..AccessConfig::default() }).await
}

async fn post(house: &House, uri: &str, headers: &[(&'static str, &str)]) -> Reply {
    let mut request = tensor_request(uri, "", vec![0; 4]);
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    house.send(request).await
}

#[tokio::test]
async fn a_key_opens_the_door_however_it_is_given() {
    let house = with_keys().await;
    // base64 of alice:KEY, KEY: and :OTHER.
    let basic = ["YWxpY2U6MDEyMzQ1Njc4OWFiY2RlZg==", "MDEyMzQ1Njc4OWFiY2RlZjo=", "OmZlZGNiYTk4NzY1NDMyMTA="];
    let mut headers = vec![format!("Bearer {KEY}"), format!("bearer  {OTHER}")];
    headers.extend(basic.map(|text| format!("Basic {text}")));
    for value in headers {
        post(&house, ONE, &[("authorization", &value)]).await.content("tensor/binary");
    }
    post(&house, &format!("{ONE}&api_key={KEY}"), &[]).await.content("tensor/binary");
    assert_eq!(house.get(&format!("/models?api_key={OTHER}")).await.status, 200);
}

#[tokio::test]
async fn without_a_key_no_work_is_done_and_nothing_is_told() {
    let house = with_keys().await;
    for value in ["", "Bearer", "Bearer 0123456789abcdee", "Basic !", "Basic MDEy", "Digest 0123456789abcdef"]
    {
        let reply = post(&house, ONE, &[("authorization", value)]).await;
        assert!(!reply.error(401).contains("0123"), "the key is not repeated");
        assert_eq!(reply.header("www-authenticate"), "Basic realm=\"remote-vae\"");
    }
    post(&house, ONE, &[]).await.error(401);
    post(&house, &format!("{ONE}&api_key="), &[]).await.error(401);
    // A wrong header is not made good by the query.
    post(&house, &format!("{ONE}&api_key={KEY}"), &[("authorization", "Bearer x")]).await.error(401);
    for path in ["/models", "/metrics", "/nothing"] {
        house.get(path).await.error(401);
    }
    for path in ["/health", "/health/", "/ready"] {
        assert_eq!(house.get(path).await.status, 200);
    }
}

#[tokio::test]
async fn a_key_file_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, KEY).unwrap();
    let house = house(AccessConfig { key_file: Some(path.clone()), ..AccessConfig::default() }).await;
    let status = async |key: &str| post(&house, &format!("{ONE}&api_key={key}"), &[]).await.status.as_u16();
    assert_eq!((status(KEY).await, status(OTHER).await), (200, 401));
    std::fs::write(&path, OTHER).unwrap();
    house.app.access().reload();
    assert_eq!((status(KEY).await, status(OTHER).await), (401, 200));
    // A file that makes no sense opens no door and closes none.
    std::fs::write(&path, "").unwrap();
    house.app.access().reload();
    assert_eq!((status(KEY).await, status(OTHER).await), (401, 200));
}

#[tokio::test]
async fn each_client_has_its_own_rate() {
    let rate_limit = Some("2/h".parse().unwrap());
    let house =
        house(AccessConfig { rate_limit, trust_forwarded_for: true, ..AccessConfig::default() }).await;
    for address in ["10.0.0.1", "1.2.3.4, 10.0.0.2"] {
        for _ in 0..2 {
            post(&house, ONE, &[("x-forwarded-for", address)]).await.content("tensor/binary");
        }
        let reply = post(&house, ONE, &[("x-forwarded-for", address)]).await;
        reply.error(429);
        let wait: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1700..=1800).contains(&wait), "the next of two an hour is in half an hour, not in {wait} s");
    }
    // What the client itself wrote before the proxy's entry counts for nothing.
    post(&house, ONE, &[("x-forwarded-for", "9.9.9.9, 10.0.0.2")]).await.error(429);
    assert_eq!(house.get("/models").await.status, 200, "only work is counted");
}

#[tokio::test]
async fn without_trust_addresses_are_those_of_connections() {
    let rate_limit = Some("1/h".parse().unwrap());
    let house = house(AccessConfig { rate_limit, ..AccessConfig::default() }).await;
    let from = async |address: [u8; 4], forwarded: &str| {
        let mut request = tensor_request(ONE, "", vec![0; 4]);
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        request.extensions_mut().insert(Client::at(address.into()));
        house.send(request).await.status.as_u16()
    };
    assert_eq!(from([10, 0, 0, 1], "1.1.1.1").await, 200);
    assert_eq!(from([10, 0, 0, 1], "2.2.2.2").await, 429);
    assert_eq!(from([10, 0, 0, 2], "1.1.1.1").await, 200);
}

#[tokio::test]
async fn pages_of_other_sites() {
    let ask = async |house: &House, method: &str, origin: &str| {
        let request = Request::builder().method(method).uri("/models").header("origin", origin);
        house.send(request.header("access-control-request-method", "POST").body(Body::empty()).unwrap()).await
    };
    let closed = house(AccessConfig::default()).await;
    let reply = ask(&closed, "GET", "https://example.org").await;
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
    ask(&closed, "OPTIONS", "https://example.org").await.error(405);

    let cors_origins = vec!["https://example.org".to_owned()];
    let keys = vec![KEY.parse().unwrap()];
    let open = house(AccessConfig { keys, cors_origins, ..AccessConfig::default() }).await;
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
async fn what_has_been_done_is_counted() {
    let (model, handle) = model("fake", info());
    let house = House::open(Config::default(), vec![model]).await;
    let line = async |line: &str| {
        let text = String::from_utf8(house.get("/metrics").await.body.to_vec()).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        text.lines().any(|found| found == line)
    };
    assert!(line("remote_vae_queue_length 0").await && line("remote_vae_ready 1").await);
    for _ in 0..2 {
        house.post(ONE, "", vec![0; 4]).await.content("tensor/binary");
    }
    house.post(ONE, "", vec![0; 3]).await.error(400);
    house.post("/other", "", vec![0; 3]).await.error(400);
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
        let router = house.router.clone();
        tokio::spawn(tower::ServiceExt::oneshot(router, tensor_request(ONE, "", vec![0; 4])))
    });
    house.until(|app| app.executor().waiting() == 2).await;
    assert!(line("remote_vae_queue_length 2").await && line("remote_vae_in_flight 3").await);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    house.until(|app| app.in_flight() == 0).await;
    assert!(
        line(&format!(
            "{requests}\"fake\",task=\"decode\",output=\"tensor/binary\",mode=\"exact\",status=\"499\"}} 3"
        ))
        .await
    );
    handle.let_go();
    tokio::time::sleep(Duration::from_millis(1)).await;
}
