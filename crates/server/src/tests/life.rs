//! The server's life on a real port: loading, leaving clients, stopping.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use super::fake::{Handle, from, info, model};
use crate::{Config, Model, ServeError, Server};

const DECODE: &str = "POST /?dtype=uint8&shape=[1,4,1,1]&output_type=pt HTTP/1.1\r\nHost: test\r\n\
                      Content-Type: tensor/binary\r\nContent-Length: 4\r\n\r\n1234";

/// A server on a port.
pub(super) struct Live {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), ServeError>>,
}

impl Live {
    pub(super) async fn open(config: Config, models: Vec<Model>) -> Self {
        let server = Server::bind(Config { port: 0, ..config }, models).await.unwrap();
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        Self { address, stop: Some(stop), running }
    }

    /// A server with a loaded model.
    async fn ready(config: Config) -> (Self, Handle) {
        let (model, handle) = model("fake", info());
        let live = Self::open(config, vec![model]).await;
        live.until_ready().await;
        (live, handle)
    }

    pub(super) async fn until_ready(&self) {
        until(async || self.ask("GET /ready HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200")).await;
    }

    pub(super) async fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Everything the server says to a request, after which it is asked to close the connection.
    pub(super) async fn ask(&self, request: &str) -> String {
        let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        everything(self.connect(&request).await).await
    }

    pub(super) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(super) async fn end(self) -> Result<(), ServeError> {
        timeout(PATIENCE, self.running).await.expect("the server did not stop").unwrap()
    }
}

async fn everything(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A server that closes before it has read everything resets the connection, after its answer.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it never came true");
}

#[tokio::test]
async fn it_lives_before_it_is_ready() {
    let (may_load, loading) = mpsc::channel::<()>();
    let (ready, _) = model("late", info());
    let loading = Mutex::new(loading);
    let load = Box::new(move || {
        loading.lock().unwrap().recv().unwrap();
        (ready.load)()
    });
    let late = from("late", "a test", load);
    let mut live = Live::open(Config::default(), vec![late]).await;

    assert!(live.ask("GET /health HTTP/1.1\r\n\r\n").await.ends_with("Ok"));
    for request in ["GET /ready HTTP/1.1\r\n\r\n", DECODE] {
        let answer = live.ask(request).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("retry-after: ") && answer.contains("being loaded"), "{answer}");
    }
    let models = live.ask("GET /models HTTP/1.1\r\n\r\n").await;
    assert!(
        models.ends_with(r#"{"models":[{"name":"late","default":true,"has_example":false}]}"#),
        "{models}"
    );

    may_load.send(()).unwrap();
    until(async || live.ask("GET /ready HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200")).await;
    assert!(live.ask(DECODE).await.starts_with("HTTP/1.1 200"));
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn it_can_be_stopped_while_it_loads() {
    let (_never, loading) = mpsc::channel::<()>();
    let loading = Mutex::new(loading);
    let load = Box::new(move || {
        let _ = loading.lock().unwrap().recv();
        (model("late", info()).0.load)()
    });
    let late = from("late", "a test", load);
    let mut live = Live::open(Config::default(), vec![late]).await;
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_model_that_does_not_load_ends_it() {
    let load = Box::new(|| {
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
    let load = Box::new(|| {
        Err(vae::LoadError::Weights { path: PathBuf::from("/a/b.ckpt"), message: "it is empty".to_owned() }
            .into())
    });
    let broken = from("broken", "/a/b.ckpt", load);
    let error = Live::open(Config::default(), vec![broken]).await.end().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot load model \"broken\": /a/b.ckpt: it is empty");

    let panics = from("b", "c", Box::new(|| panic!("ouch")));
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

/// A request whose answer is larger than what sockets buffer.
fn large_answer() -> String {
    let request = DECODE.replace("[1,4,1,1]", "[1,4,512,512]&out_dtype=float32");
    request.replace("Length: 4", "Length: 1048576").replace("1234", &"1".repeat(1 << 20))
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

/// The value of a figure.
async fn figure(live: &Live, name: &str) -> usize {
    let figures = live.ask("GET /metrics HTTP/1.1\r\n\r\n").await;
    let line = figures.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no {name}: {figures}"))
}

#[tokio::test]
async fn clients_that_leave_are_noticed_whatever_they_have_sent_behind_their_request() {
    let (mut live, handle) = Live::ready(Config::default()).await;
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
        let begun = std::time::Instant::now();
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
