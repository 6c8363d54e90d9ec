//! Requests that wait: a full queue, clients that leave, memory that is given back.

use std::time::Duration;

use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::fake::{Handle, info, model};
use super::{Reply, TestServer, tensor_request};
use crate::Config;
use service::Client;

const URI: &str = "/?dtype=uint8&shape=[1,4,1,1]&output_type=pt";

/// A server whose model is busy with a request, and that request.
async fn busy(max_queue: usize) -> (TestServer, Handle, JoinHandle<Reply>) {
    let (model, handle) = model("fake", info());
    let server = TestServer::open(
        Config {
            service: service::Config { max_queue: Some(max_queue), ..service::Config::default() },
            ..Config::default()
        },
        vec![model],
    )
    .await;
    handle.hold();
    let running = request(&server);
    server.until(|_| handle.started() == 1).await;
    (server, handle, running)
}

/// Sends a request in the background. Aborting it is what hyper does when a client leaves.
fn request(server: &TestServer) -> JoinHandle<Reply> {
    let service = server.router.clone();
    tokio::spawn(async move {
        Reply::read(service.oneshot(tensor_request(URI, "", vec![0; 4])).await.unwrap()).await
    })
}

async fn ok(request: JoinHandle<Reply>) {
    tokio::time::timeout(super::PATIENCE, request).await.unwrap().unwrap().content("tensor/binary");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let (server, handle, running) = busy(1).await;
    let waiting = request(&server);
    server.until(|app| app.service().check(Client::Unknown).is_err()).await;
    let error = server.post(URI, "", vec![0; 4]).await.error(429);
    assert!(error.contains("queue is full (--max-queue 1)"), "{error}");
    // The process still lives, and could take work later.
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.get("/ready").await.status, 200);

    handle.let_go();
    ok(running).await;
    ok(waiting).await;
    server.post(URI, "", vec![0; 4]).await.content("tensor/binary");
}

#[tokio::test]
async fn a_client_that_leaves_the_line_costs_no_work() {
    let (server, handle, running) = busy(1).await;
    let waiting = request(&server);
    server.until(|app| app.service().check(Client::Unknown).is_err()).await;
    waiting.abort();
    // Its place is free at once, long before its turn.
    server.until(|app| app.service().check(Client::Unknown).is_ok()).await;
    handle.let_go();
    ok(running).await;
    server.until(|app| app.service().is_idle()).await;
    assert_eq!(handle.started(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_during_the_work_ends_it() {
    let (server, handle, running) = busy(1).await;
    running.abort();
    // The model is still held: nothing but the cancellation can end the work.
    server.until(|app| app.service().is_idle()).await;
    assert_eq!((handle.started(), handle.finished()), (1, 0));
    handle.let_go();
    server.post(URI, "", vec![0; 4]).await.content("tensor/binary");
}

#[tokio::test]
async fn bodies_find_room_or_are_sent_away() {
    let (model, handle) = model("fake", info());
    let limits = wire::Limits { max_body_bytes: 4096, ..wire::Limits::default() };
    // Room for one JSON body of the largest size, whatever is configured.
    let config = Config {
        service: service::Config { limits, max_pending_bytes: 0, ..service::Config::default() },
        ..Config::default()
    };
    let server = TestServer::open(config, vec![model]).await;
    handle.hold();
    let running = request(&server);
    server.until(|_| handle.started() == 1).await;
    let json = axum::http::Request::post("/").header("content-type", "application/json");
    let error = server.send(json.body(" ".repeat(70_000).into()).unwrap()).await.error(429);
    assert!(error.contains("--max-pending"), "{error}");
    handle.let_go();
    ok(running).await;
    // Now there is room, and the body is looked at.
    let json = axum::http::Request::post("/").header("content-type", "application/json");
    server.send(json.body("{}".into()).unwrap()).await.error(400);
}

#[tokio::test]
async fn an_idle_model_gives_back_its_memory_once() {
    let (model, handle) = model("fake", info());
    let config = Config {
        service: service::Config { idle_release: Duration::from_millis(5), ..service::Config::default() },
        ..Config::default()
    };
    let server = TestServer::open(config, vec![model]).await;
    server.until(|_| handle.released() == 1).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(handle.released(), 1, "there was no work in between");
    server.post(URI, "", vec![0; 4]).await.content("tensor/binary");
    server.until(|_| handle.released() == 2).await;
}

#[tokio::test]
async fn a_request_is_dropped_at_its_deadline() {
    let (server, handle, running) = busy(1).await;
    let send = async |timeout: &str| {
        let mut request = tensor_request(URI, "", vec![0; 4]);
        request.headers_mut().insert("x-request-timeout", timeout.parse().unwrap());
        server.send(request).await
    };
    for nonsense in ["0", "-1", "soon", "nan"] {
        assert!(send(nonsense).await.error(400).contains("x-request-timeout"), "{nonsense}");
    }
    // In the line.
    let error = send("0.02").await.error(503);
    assert!(error.contains("within 0.02 seconds, as long as it may take (x-request-timeout)"), "{error}");
    server.until(|app| app.service().check(Client::Unknown).is_ok()).await;
    handle.let_go();
    ok(running).await;
    // During the work, which only its cancellation can end.
    handle.hold();
    send("0.02").await.error(503);
    server.until(|app| app.service().is_idle()).await;
    assert_eq!((handle.started(), handle.finished()), (2, 1));
    // The server's own limit holds for those who ask for more.
    handle.let_go();
    send("1e300").await.content("tensor/binary");
}

#[tokio::test]
async fn the_servers_own_time_limit() {
    let (model, handle) = model("fake", info());
    let config = Config { timeout: Duration::from_millis(20), ..Config::default() };
    let server = TestServer::open(config, vec![model]).await;
    handle.hold();
    let error = server.post(URI, "", vec![0; 4]).await.error(503);
    assert!(error.contains("(--timeout)"), "{error}");
    server.until(|app| app.service().is_idle()).await;
}

#[tokio::test]
async fn a_client_with_the_whole_queue_makes_room_for_another() {
    let (server, handle, running) = busy(2).await;
    let from = |client: u8| {
        let service = server.router.clone();
        tokio::spawn(async move {
            let mut request = tensor_request(URI, "", vec![0; 4]);
            request.extensions_mut().insert(Client::at([10, 0, 0, client].into()));
            Reply::read(service.oneshot(request).await.unwrap()).await
        })
    };
    let first = from(1);
    server.until(|app| app.service().waiting() == 1).await;
    let second = from(1);
    server.until(|app| app.service().waiting() == 2).await;
    let third = from(2);
    // The second is told at once; nothing has moved.
    let error = second.await.unwrap().error(429);
    assert!(error.contains("(--max-queue 2)") && error.contains("others have fewer"), "{error}");
    handle.let_go();
    for request in [running, first, third] {
        ok(request).await;
    }
}

#[tokio::test]
async fn many_small_requests_of_many_clients_are_all_answered() {
    let (model, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![model]).await;
    handle.hold();
    // All of them wait together, more than a short queue would take.
    let requests: Vec<_> = (0..600).map(|_| request(&server)).collect();
    server.until(|app| app.service().waiting() == 599 || app.service().waiting() == 600).await;
    handle.let_go();
    for request in requests {
        ok(request).await;
    }
    assert_eq!(handle.finished(), 600);
}
