//! The server's life on a real port: loading, leaving clients, stopping.

use std::path::PathBuf;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake::{from, info, model};
use super::live::{DECODE, Live, ask, everything, large_answer, until};
use crate::{AccessConfig, Config};

#[tokio::test]
async fn it_lives_before_it_is_ready() {
    let (may_load, loading) = mpsc::channel::<()>();
    let (ready, _) = model("late", info());
    let loading = Mutex::new(loading);
    let load = Box::new(move |_| {
        loading.lock().unwrap().recv().unwrap();
        (ready.load)(0)
    });
    let late = from("late", "a test", load);
    let mut live = Live::open(Config::default(), vec![late]).await;

    assert!(live.ask("GET /health HTTP/1.1\r\n\r\n").await.ends_with("Ok"));
    let answer = live.ask("GET /ready HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: ") && answer.contains("being loaded"), "{answer}");
    // Work that comes early waits, as long as its client will.
    let early = live.connect(DECODE).await;
    let answer = live.ask(&DECODE.replacen("\r\n", "\r\nx-request-timeout: 0.05\r\n", 1)).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("0.05 seconds"), "{answer}");
    let models = live.ask("GET /models HTTP/1.1\r\n\r\n").await;
    assert!(
        models.ends_with(r#"{"models":[{"name":"late","default":true,"has_example":false}]}"#),
        "{models}"
    );

    may_load.send(()).unwrap();
    until(async || live.ask("GET /ready HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200")).await;
    assert!(live.ask(DECODE).await.starts_with("HTTP/1.1 200"));
    live.stop();
    let answer = everything(early).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("shape: [1, 3, 2, 2]"), "{answer}");
    live.end().await.unwrap();
}

/// A server whose model is loaded when the sender says so, or is gone.
async fn loading(config: Config) -> (Live, mpsc::Sender<()>) {
    let (may_load, loading) = mpsc::channel::<()>();
    let loading = Mutex::new(loading);
    let load = Box::new(move |_| {
        let _ = loading.lock().unwrap().recv();
        (model("late", info()).0.load)(0)
    });
    (Live::open(config, vec![from("late", "a test", load)]).await, may_load)
}

#[tokio::test]
async fn as_many_come_early_as_can_be_queued() {
    let (mut live, may_load) = loading(Config {
        service: service::Config { max_queue: Some(2), ..service::Config::default() },
        ..Config::default()
    })
    .await;
    let early = [live.connect(DECODE).await, live.connect(DECODE).await];
    until(async || {
        let figures = live.ask("GET /metrics HTTP/1.1\r\n\r\n").await;
        figures.contains("\nremote_vae_in_flight 2\n")
    })
    .await;
    // Their bodies are there, so that both wait by now or will before anything that comes later.
    let answer = live.ask(DECODE).await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("--max-queue 2"), "{answer}");
    drop(may_load);
    for stream in early {
        let mut stream = stream;
        let mut begin = [0; 15];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
    }
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_models_is_told_of_a_stop() {
    let (mut live, _may_load) = loading(Config::default()).await;
    let early = live.connect(DECODE).await;
    until(async || live.ask("GET /metrics HTTP/1.1\r\n\r\n").await.contains("_in_flight 1\n")).await;
    live.stop();
    let answer = everything(early).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("being stopped"), "{answer}");
    live.end().await.unwrap();
}

#[tokio::test]
async fn it_can_be_stopped_while_it_loads() {
    let (_never, loading) = mpsc::channel::<()>();
    let loading = Mutex::new(loading);
    let load = Box::new(move |_| {
        let _ = loading.lock().unwrap().recv();
        (model("late", info()).0.load)(0)
    });
    let late = from("late", "a test", load);
    let mut live = Live::open(Config::default(), vec![late]).await;
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_model_that_does_not_load_ends_it() {
    let load = Box::new(|_| {
        Err(vae::LoadError::Config {
            path: PathBuf::from("config.json"),
            message: "no such class".to_owned(),
        }
        .into())
    });
    let broken = from("broken", "nowhere", load);
    let error = Live::open(Config::default(), vec![broken]).await.end().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot load model \"broken\" from nowhere: config.json: no such class");

    // A path that the reason names already is not said twice.
    let load = Box::new(|_| {
        Err(vae::LoadError::Weights { path: PathBuf::from("/a/b.ckpt"), message: "it is empty".to_owned() }
            .into())
    });
    let broken = from("broken", "/a/b.ckpt", load);
    let error = Live::open(Config::default(), vec![broken]).await.end().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot load model \"broken\": /a/b.ckpt: it is empty");

    let panics = from("b", "c", Box::new(|_| panic!("ouch")));
    let error = Live::open(Config::default(), vec![panics]).await.end().await.unwrap_err();
    assert!(error.to_string().contains("ouch"), "{error}");
}

#[tokio::test]
async fn a_stop_lets_accepted_requests_finish() {
    let (mut live, handle) = Live::ready(Config::default()).await;
    handle.hold();
    let running = live.connect(DECODE).await;
    let waiting = live.connect(DECODE).await;
    // A connection without a request holds up nothing.
    let silent = live.connect("").await;
    until(async || handle.started() == 1).await;
    // The second is in the line once the server has said nothing to a third that came after it.
    until(async || live.ask("GET /health HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200")).await;

    live.stop();
    until(async || live.ask("GET /ready HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503")).await;
    assert!(live.ask("GET /health HTTP/1.1\r\n\r\n").await.ends_with("Ok"));
    let refused = live.ask(DECODE).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("being stopped"), "{refused}");
    assert!(!live.running.is_finished());
    handle.let_go();
    for stream in [running, waiting] {
        let answer = everything(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("shape: [1, 3, 2, 2]"), "{answer}");
    }
    live.end().await.unwrap();
    assert_eq!(everything(silent).await, "");
    assert_eq!(handle.finished(), 2);
}

#[tokio::test]
async fn a_connection_that_is_closed_ends_its_work() {
    let (mut live, handle) = Live::ready(Config::default()).await;
    handle.hold();
    let first = live.connect(DECODE).await;
    until(async || handle.started() == 1).await;
    drop(first);
    // Only the cancellation can end the first, which is held.
    let second = live.connect(DECODE).await;
    until(async || handle.started() == 2).await;
    assert_eq!(handle.finished(), 0);
    handle.let_go();
    live.stop();
    assert!(everything(second).await.starts_with("HTTP/1.1 200"));
    live.end().await.unwrap();
}

#[tokio::test]
async fn who_does_not_fetch_an_answer_holds_up_a_stop_for_a_while_only() {
    let config = Config { drain_timeout: Duration::from_millis(50), ..Config::default() };
    let (mut live, handle) = Live::ready(config).await;
    let stream = live.connect(&large_answer()).await;
    until(async || handle.finished() == 1).await;
    live.stop();
    live.end().await.unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_stop_ends_when_its_time_is_over() {
    let config = Config { drain_timeout: Duration::from_millis(50), ..Config::default() };
    let (mut live, handle) = Live::ready(config).await;
    handle.hold();
    let running = live.connect(DECODE).await;
    until(async || handle.started() == 1).await;
    live.stop();
    live.end().await.unwrap();
    assert_eq!(handle.finished(), 0);
    drop(running);
    handle.let_go();
}

#[tokio::test]
async fn a_rolling_update_loses_nothing() {
    let config = Config { drain_delay: Duration::from_millis(400), ..Config::default() };
    let (mut live, _) = Live::ready(config).await;
    // A connection that a load balancer keeps.
    let mut kept = live.connect("GET /health HTTP/1.1\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"Ok") {
        kept.read_buf(&mut answer).await.unwrap();
    }
    let address = live.address;
    live.stop();
    let begun = Instant::now();
    until(async || live.ask("GET /ready HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503")).await;
    // It has not heard of that yet, and sends on: over the connection that it has, and over new ones.
    kept.write_all(DECODE.as_bytes()).await.unwrap();
    let answer = everything(kept).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "its next request is to go elsewhere: {answer}");
    assert!(ask(address, DECODE).await.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_millis(400), "this machine is too slow for this test");
    live.end().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(400));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn keys_are_read_again_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "0123456789abcdef").unwrap();
    let access = AccessConfig { key_file: Some(path.clone()), ..AccessConfig::default() };
    let (mut live, _) = Live::ready(Config { access, ..Config::default() }).await;
    let models = async |key: &str| live.ask(&format!("GET /models?api_key={key} HTTP/1.1\r\n\r\n")).await;
    assert!(models("0123456789abcdef").await.starts_with("HTTP/1.1 200"));
    std::fs::write(&path, "fedcba9876543210").unwrap();
    live.reload.now();
    assert!(models("fedcba9876543210").await.starts_with("HTTP/1.1 200"));
    assert!(models("0123456789abcdef").await.starts_with("HTTP/1.1 401"));
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn work_that_nobody_waits_for_holds_up_a_stop_for_a_while_only() {
    let config = Config { drain_timeout: Duration::from_millis(100), ..Config::default() };
    let (mut live, handle) = Live::ready(config).await;
    handle.be_deaf(Duration::from_secs(5));
    let answer = live.ask(&DECODE.replacen("\r\n", "\r\nx-request-timeout: 0.05\r\n", 1)).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let begun = Instant::now();
    live.stop();
    live.end().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
