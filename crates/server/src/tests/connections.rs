//! Connections on a real port: how many there may be, how long they may do nothing, and what each may say.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::PATIENCE;
use super::live::{DECODE, Live, ask, everything, large_answer, until};
use crate::{AccessConfig, Config};

#[tokio::test]
async fn slow_clients_are_let_go() {
    let brief = Duration::from_millis(50);
    let config = Config { header_timeout: brief, body_timeout: brief, ..Config::default() };
    let (mut live, _) = Live::ready(config).await;
    // Half a head: the connection is closed.
    let (half, _) = DECODE.split_at(30);
    everything(live.connect(half).await).await;
    // Half a body: told so, then closed.
    let answer = everything(live.connect(DECODE.strip_suffix("34").unwrap()).await).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("{\"error\":"), "{answer}");

    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_thrown_away() {
    let config = Config { write_timeout: Duration::from_millis(50), max_connections: 1, ..Config::default() };
    let (mut live, handle) = Live::ready(config).await;
    let stream = live.connect(&large_answer()).await;
    until(async || handle.finished() == 1).await;
    // There is room for one connection, so this is answered only when the other one is gone.
    assert!(live.ask("GET /health HTTP/1.1\r\n\r\n").await.ends_with("Ok"));
    // And the other one did not get everything.
    assert!(everything(stream).await.len() < 12 << 20);
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_read_byte_by_byte_is_thrown_away() {
    let config = Config { write_timeout: Duration::from_millis(300), ..Config::default() };
    let (mut live, _) = Live::ready(config).await;
    let mut slow = live.connect(&large_answer()).await;
    let begun = Instant::now();
    let mut part = vec![0; 1 << 10];
    // What is in buffers on the way comes all the same; each byte is less than what the time for a mebibyte asks for.
    let mut length = 0;
    while let Ok(read @ 1..) = slow.read(&mut part).await {
        length += read;
        tokio::time::sleep(Duration::from_millis(if length < 100 << 10 { 20 } else { 0 })).await;
    }
    assert!(length < 12 << 20, "it got everything");
    assert!(begun.elapsed() < PATIENCE);
    // Who takes its time, but comes on, gets everything.
    let mut stream = live.connect(&large_answer()).await;
    let mut part = vec![0; 2 << 20];
    let mut length = 0;
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        length += read;
        tokio::time::sleep(Duration::from_millis(1)).await;
        if length > 12 << 20 {
            break;
        }
    }
    assert!(length > 12 << 20, "{length}");
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn what_is_not_http_is_refused_in_json_too() {
    let (mut live, _) = Live::ready(Config::default()).await;
    let long = "x".repeat(70_000);
    for (request, status) in [
        ("hello\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)), 431),
    ] {
        let answer = everything(live.connect(&request).await).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {status}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(body.starts_with("{\"error\":\"the "), "{body}");
    }
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_refused_body_is_taken_off_the_line() {
    // A client that sends everything before it listens must still get to hear why it was refused.
    let (mut live, _) = Live::ready(Config::default()).await;
    let large = DECODE.replacen("/?", "/other?", 1).replace("[1,4,1,1]", "[1,4,1024,4096]");
    let large = large.replace("Length: 4", "Length: 16777216").replace("1234", &"1".repeat(16 << 20));
    let answer = live.ask(&large).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("there is no model"), "{answer}");
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_refused_body_is_not_waited_for() {
    let keys = vec!["0123456789abcdef".parse().unwrap()];
    let access = AccessConfig { keys, ..AccessConfig::default() };
    let (mut live, _) = Live::ready(Config { access, ..Config::default() }).await;
    // Half a body, whose other half never comes.
    for (path, status) in [("/?", 401), ("/other?api_key=0123456789abcdef&", 404)] {
        let request = DECODE.replacen("/?", path, 1);
        let mut stream = live.connect(request.strip_suffix("34").unwrap()).await;
        let mut begin = [0; 12];
        let answer = timeout(Duration::from_secs(5), stream.read_exact(&mut begin)).await;
        answer.expect("it waits for the body").unwrap();
        assert_eq!(String::from_utf8_lossy(&begin), format!("HTTP/1.1 {status}"));
    }
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_connection_is_kept_between_requests_for_longer_than_a_head_may_take() {
    let (keep_alive, header_timeout) = (Duration::from_millis(600), Duration::from_millis(100));
    let (mut live, _) = Live::ready(Config { keep_alive, header_timeout, ..Config::default() }).await;
    let mut stream = live.connect("").await;
    let mut ask = async || {
        stream.write_all(b"GET /health HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"Ok") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
        }
    };
    for _ in 0..3 {
        ask().await;
        tokio::time::sleep(2 * header_timeout).await;
    }
    ask().await;
    let idle = Instant::now();
    assert_eq!(everything(stream).await, "");
    assert!(idle.elapsed() >= keep_alive, "{:?}", idle.elapsed());

    // A head that stops in the middle is not idle, not even after a request.
    let mut stream = live.connect("GET /health HTTP/1.1\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"Ok") {
        stream.read_buf(&mut answer).await.unwrap();
    }
    stream.write_all(b"GET /hea").await.unwrap();
    let begun = Instant::now();
    assert_eq!(everything(stream).await, "");
    assert!((header_timeout..keep_alive).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_connection_whose_body_nobody_wanted_is_idle_after_it() {
    let (keep_alive, header_timeout) = (Duration::from_millis(100), Duration::from_millis(50));
    let (mut live, _) = Live::ready(Config { keep_alive, header_timeout, ..Config::default() }).await;
    // The second half comes after the refusal, and later than a head may.
    let (first, second) = DECODE.split_at(DECODE.len() - 2);
    let mut stream = live.connect(&first.replacen("/?", "/other?", 1)).await;
    tokio::time::sleep(4 * header_timeout).await;
    stream.write_all(second.as_bytes()).await.unwrap();
    let answer = everything(stream).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn who_reads_slowly_is_not_idle() {
    let config = Config { keep_alive: Duration::from_millis(30), ..Config::default() };
    let (mut live, _) = Live::ready(config).await;
    let mut stream = live.connect(&large_answer()).await;
    let mut answer = Vec::new();
    // Twelve MiB and a head, in about a hundred pieces.
    while stream.read_buf(&mut answer).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(4)).await;
        answer.reserve(128 << 10);
    }
    assert!(answer.len() > 12 << 20, "only {} bytes came", answer.len());
    live.stop();
    live.end().await.unwrap();
}

/// Connects from another address of this machine.
#[cfg(target_os = "linux")]
async fn from_elsewhere(address: SocketAddr, request: &str) -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(request.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).await.unwrap();
    everything(stream).await
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_connections_of_one_client_do_not_keep_others_out() {
    let config = Config { max_connections: 50, admin_port: Some(0), ..Config::default() };
    let (mut live, _) = Live::ready(config).await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(live.connect("").await);
    }
    let health = "GET /health HTTP/1.1\r\n\r\n";
    assert!(from_elsewhere(live.address, health).await.ends_with("Ok"));
    // The client itself is told why.
    let mut refused = String::new();
    // Not while too many others are being told.
    until(async || {
        refused = live.ask(health).await;
        !refused.is_empty()
    })
    .await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(
        refused.contains("12 connections") && refused.contains("--max-connections-per-client"),
        "{refused}"
    );
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    // Probes have a port of their own.
    assert!(ask(live.admin.unwrap(), health).await.ends_with("Ok"));
    drop(idle);
    until(async || live.ask(health).await.ends_with("Ok")).await;
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn the_port_for_probes_has_nothing_else() {
    let keys = vec!["0123456789abcdef".parse().unwrap()];
    let access = AccessConfig { keys, ..AccessConfig::default() };
    let (mut live, handle) = Live::ready(Config { access, admin_port: Some(0), ..Config::default() }).await;
    let admin = live.admin.unwrap();
    let get = async |path: &str| ask(admin, &format!("GET {path} HTTP/1.1\r\n\r\n")).await;
    for path in ["/health", "/ready", "/ready/"] {
        assert!(get(path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    assert!(get("/metrics").await.starts_with("HTTP/1.1 401"), "figures are for those who have a key");
    assert!(get("/metrics?api_key=0123456789abcdef").await.contains("remote_vae_ready 1\n"));
    assert!(get("/models?api_key=0123456789abcdef").await.starts_with("HTTP/1.1 404"));
    let work = ask(admin, &DECODE.replacen("/?", "/?api_key=0123456789abcdef&", 1)).await;
    assert!(work.starts_with("HTTP/1.1 404") && work.contains("the other one"), "{work}");
    // It answers as long as there is something to answer for.
    handle.hold();
    let running = live.connect(&DECODE.replacen("/?", "/?api_key=0123456789abcdef&", 1)).await;
    until(async || handle.started() == 1).await;
    live.stop();
    until(async || get("/ready").await.starts_with("HTTP/1.1 503")).await;
    assert!(get("/health").await.starts_with("HTTP/1.1 200"));
    handle.let_go();
    assert!(everything(running).await.starts_with("HTTP/1.1 200"));
    live.end().await.unwrap();
}
