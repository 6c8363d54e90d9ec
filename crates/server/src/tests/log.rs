//! The log: one line a request, at the level that it deserves, and never what a client wrote.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

use super::fake::{FAIL, PANIC, info, model};
use super::{TestServer, tensor_request};
use crate::{AccessConfig, Config};

const ONE: &str = "/?dtype=uint8&shape=[1,4,1,1]&output_type=pt";

/// What this thread logs, from `info` on.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn open() -> (Self, DefaultGuard) {
        let log = Self::default();
        let lines = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).with_target(false);
        let guard = tracing::subscriber::set_default(lines.without_time().finish());
        (log, guard)
    }

    /// The lines since the last call.
    fn lines(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The only line since the last call.
    #[track_caller]
    fn line(&self) -> String {
        let lines = self.lines();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines[0].clone()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_request_is_one_line() {
    let server = TestServer::open(Config::default(), vec![model("fake", info()).0]).await;
    let (log, _guard) = Log::open();
    server.post(ONE, "", vec![0; 4]).await.content("tensor/binary");
    let line = log.line();
    assert!(line.starts_with("INFO request{id="), "{line}");
    for part in [
        "answered",
        "method=POST",
        "path=\"/\"",
        "status=200",
        "model=\"fake\"",
        "task=\"decode\"",
        "pixels=4",
        "output=\"tensor/binary\"",
        "mode=\"exact\"",
        "queue_ms=",
        "work_ms=",
    ] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    // Probes come every few seconds.
    server.get("/health").await;
    server.get("/ready").await;
    assert_eq!(log.lines(), [""; 0]);
}

#[tokio::test]
async fn a_fault_of_ours_is_an_error_with_its_cause() {
    let server = TestServer::open(Config::default(), vec![model("fake", info()).0]).await;
    let (log, _guard) = Log::open();
    let uri = "/?dtype=float32&shape=[1,4,1,1]&output_type=pt";
    for (value, cause) in [(FAIL, "12345 bytes"), (PANIC, "as the test wants it")] {
        let body: Vec<u8> = [value; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let told = server.post(uri, "", body).await.error(500);
        let line = log.line();
        assert!(line.starts_with("ERROR request{id=") && line.contains("status=500"), "{line}");
        assert!(line.contains(&told) && line.contains(cause), "{line}");
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_named_with_its_cause() {
    let load = |_| Err("/secret/path is not there".into());
    let broken = super::fake::from("broken", "a test", Box::new(load));
    let server = TestServer::open(
        Config { service: service::Config { lazy: true, ..service::Config::default() }, ..Config::default() },
        vec![broken],
    )
    .await;
    let (log, _guard) = Log::open();
    server.post(ONE, "", vec![0; 4]).await.error(503);
    let line = log.line();
    assert!(line.starts_with("WARN ") && line.contains("/secret/path is not there"), "{line}");
}

#[tokio::test]
async fn a_limit_that_is_reached_is_a_warning_with_its_flag() {
    let (model, handle) = model("fake", info());
    let limits = wire::Limits { max_body_bytes: 4096, max_batch: 2, ..wire::Limits::default() };
    let config = Config {
        service: service::Config {
            max_queue: Some(1),
            max_pending_bytes: 0,
            limits,
            ..service::Config::default()
        },
        ..Config::default()
    };
    let server = TestServer::open(config, vec![model]).await;
    let (log, _guard) = Log::open();

    server.post("/?dtype=uint8&shape=[3,4,1,1]&output_type=pt", "", vec![0; 12]).await.error(413);
    let line = log.line();
    assert!(line.starts_with("WARN ") && line.contains("2 at most (--max-batch)"), "{line}");

    handle.hold();
    let send = || {
        tokio::spawn(tower::ServiceExt::oneshot(server.router.clone(), tensor_request(ONE, "", vec![0; 4])))
    };
    let running = send();
    server.until(|app| app.service().running().is_some()).await;
    let waiting = [running, send()];
    server.until(|app| app.service().waiting() == 1).await;
    let told = server.post(ONE, "", vec![0; 4]).await.error(429);
    let line = log.line();
    assert!(line.starts_with("WARN ") && line.contains(&told) && line.contains("--max-queue 1"), "{line}");
    handle.let_go();
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn what_a_client_got_wrong_is_nobodys_alarm() {
    let keys = vec!["alice:0123456789abcdef".parse().unwrap()];
    let access = AccessConfig { keys, rate_limit: Some("5/h".parse().unwrap()), ..AccessConfig::default() };
    let server =
        TestServer::open(Config { access, ..Config::default() }, vec![model("fake", info()).0]).await;
    let (log, _guard) = Log::open();
    let key = "&api_key=0123456789abcdef";
    for (uri, status) in [
        (format!("/?dtype=private&shape=[1,4,1,1]{key}"), 400),
        (format!("/?dtype=uint8&shape=[1,5,1,1]&private{key}"), 413),
        (format!("/?model=private{key}"), 404),
        ("/?dtype=private&api_key=private-private-private".to_owned(), 401),
    ] {
        let length = if status == 413 { 6 } else { 4 };
        let reply = server.post(&uri, "", vec![0; length]).await;
        assert!(reply.status.is_client_error(), "{uri}: {reply:?}");
        let line = log.line();
        assert!(line.starts_with("INFO ") && line.contains(" refused "), "{uri}: {line}");
        assert!(!line.contains("private") && !line.contains("0123"), "{uri}: {line}");
        assert_eq!(line.contains("key=\"alice\""), status != 401, "{uri}: {line}");
    }
    // A rule that the operator made; its reason is worth a word.
    for _ in 0..2 {
        server.post(&format!("/?dtype=private{key}"), "", vec![0; 4]).await.error(400);
    }
    log.lines();
    server.post(&format!("{ONE}{key}"), "", vec![0; 4]).await.error(429);
    let line = log.line();
    assert!(line.starts_with("INFO ") && line.contains("--rate-limit 5/h"), "{line}");
}
