//! Clients that leave, or that only send no more, on a real port; and what is told to those who are still sending.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::PATIENCE;
use super::live::{DECODE, Live, everything, until};
use crate::Config;

/// The value of a figure.
async fn figure(live: &Live, name: &str) -> usize {
    let figures = live.ask("GET /metrics HTTP/1.1\r\n\r\n").await;
    let line = figures.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no {name}: {figures}"))
}

#[tokio::test]
async fn clients_that_leave_are_noticed_whatever_they_have_sent_behind_their_request() {
    let (mut live, handle) = Live::ready(Config {
        service: service::Config { max_queue: Some(32), ..service::Config::default() },
        ..Config::default()
    })
    .await;
    handle.hold();
    // A byte, another request, and more than the server reads together with the request.
    let behind = ["x".to_owned(), DECODE.to_owned(), "x".repeat(20_000)];
    let mut clients = Vec::new();
    // As many as there are: one is worked on, and the queue is full.
    for number in 0..33 {
        clients.push(live.connect(&format!("{DECODE}{}", behind[number % behind.len()])).await);
    }
    until(async || figure(&live, "remote_vae_queue_length").await == 32).await;
    assert!(live.ask(DECODE).await.starts_with("HTTP/1.1 429"));
    drop(clients);
    // Nothing ends of itself: the model is held.
    until(async || figure(&live, "remote_vae_in_flight").await == 0).await;
    assert_eq!(handle.finished(), 0);
    handle.let_go();
    assert!(live.ask(DECODE).await.starts_with("HTTP/1.1 200"));
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_client_that_only_sends_no_more_gets_its_answer() {
    let (mut live, handle) = Live::ready(Config::default()).await;
    // At once, where the answer is quick.
    let mut stream = live.connect(DECODE).await;
    stream.shutdown().await.unwrap();
    let answer = everything(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // And after any time. To learn that somebody still listens, the server says something that goes before answers.
    for behind in ["", "x"] {
        handle.hold();
        let started = handle.started();
        let mut stream = live.connect(&format!("{DECODE}{behind}")).await;
        stream.shutdown().await.unwrap();
        until(async || handle.started() == started + 1).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        handle.let_go();
        let answer = everything(stream).await;
        let answer =
            answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("shape: [1, 3, 2, 2]"), "{answer}");
    }
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_client_that_sends_no_more_and_leaves_later_is_noticed() {
    let (mut live, handle) = Live::ready(Config::default()).await;
    handle.hold();
    let mut stream = live.connect(DECODE).await;
    stream.shutdown().await.unwrap();
    until(async || handle.started() == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(figure(&live, "remote_vae_in_flight").await, 1);
    drop(stream);
    until(async || figure(&live, "remote_vae_in_flight").await == 0).await;
    // HTTP/1.0 has nothing that goes before an answer: there a client that closes its side counts as gone.
    let mut old = live.connect(&DECODE.replace("HTTP/1.1", "HTTP/1.0")).await;
    until(async || handle.started() == 2).await;
    old.shutdown().await.unwrap();
    until(async || figure(&live, "remote_vae_in_flight").await == 0).await;
    assert_eq!((everything(old).await, handle.finished()), (String::new(), 0));
    handle.let_go();
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn who_is_refused_is_told_before_the_body_has_come() {
    let (mut live, _) = Live::ready(Config::default()).await;
    let (unfinished, _) = DECODE.split_at(DECODE.len() - 2);
    for (request, status, word) in [
        // Its time is over while the body is on its way.
        (unfinished.replace("Host", "X-Request-Timeout: 0.1\r\nHost"), 503, "within 0.1 seconds"),
        (unfinished.replace("/?", "/other?"), 404, "there is no model"),
        (unfinished.replace("/?", "/no/such/path?"), 404, "there is nothing at"),
        (unfinished.replace("POST", "PUT"), 405, "use GET, HEAD, POST"),
        (unfinished.replace("Host", "Content-Encoding: zstd\r\nHost"), 415, "uncompressed"),
    ] {
        let begun = Instant::now();
        let mut stream = live.connect(&request).await;
        let mut answer = String::new();
        while !answer.ends_with('}') {
            let mut part = [0; 4096];
            let length = timeout(PATIENCE, stream.read(&mut part)).await.expect("no answer").unwrap();
            assert!(length > 0, "{status}: {answer}");
            answer += str::from_utf8(&part[..length]).unwrap();
        }
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(word), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{status} after {:?}", begun.elapsed());
    }
    live.stop();
    live.end().await.unwrap();
}
