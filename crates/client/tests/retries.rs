//! Endpoints that fail, are full, or come back: what the client does about them.

#[path = "../examples/decode_queue.rs"]
mod example;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::blocking::{self, DecodeQueue};
use client::{Counters, DType, DecodeOptions, Error, OutputType, QueueOptions, RemoteVae, Retry, Tensor};

/// What a server does with a request.
enum Does {
    /// Answers with a tensor.
    Good,
    /// Refuses with this status line, and perhaps another header.
    Refuses(&'static str, &'static str),
    /// Answers with a JPEG file.
    Picture,
    /// Begins an answer and hangs up.
    Breaks,
}

use Does::{Breaks, Good, Picture, Refuses};

/// A JPEG file.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/jpeg/tiny.3x5.q75.jpg");

/// A server that treats its `n`th request as `plan(n)` says, each on a connection of its own.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(plan: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        Self::on(listener, url, plan)
    }

    fn on(listener: TcpListener, url: String, plan: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = requests.clone();
        let plan = Arc::new(plan);
        let count = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, seen) = (stream.unwrap(), seen.clone());
                let (plan, count) = (plan.clone(), count.clone());
                std::thread::spawn(move || {
                    let mut request = Vec::new();
                    let mut byte = [0];
                    while !request.ends_with(b"\r\n\r\n") {
                        stream.read_exact(&mut byte).unwrap();
                        request.push(byte[0]);
                    }
                    let request = String::from_utf8(request).unwrap();
                    let length =
                        request.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                    let mut body = vec![0; length.parse().unwrap()];
                    stream.read_exact(&mut body).unwrap();
                    seen.lock().unwrap().push(request);
                    let answer = match plan(count.fetch_add(1, Ordering::SeqCst)) {
                        // The answer is the first byte of what came, so that results can be told apart.
                        Good => {
                            let head =
                                "HTTP/1.1 200 OK\r\nshape: [1]\r\ndtype: uint8\r\nconnection: close\r\n";
                            [format!("{head}content-length: 1\r\n\r\n").as_bytes(), &body[..1]].concat()
                        }
                        Refuses(status, header) => {
                            let head = format!("HTTP/1.1 {status}\r\n{header}connection: close\r\n");
                            format!("{head}content-length: 0\r\n\r\n").into_bytes()
                        }
                        Picture => {
                            let file = std::fs::read(PICTURE).unwrap();
                            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
                            [format!("{head}content-length: {}\r\n\r\n", file.len()).as_bytes(), &file]
                                .concat()
                        }
                        Breaks => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nno".to_vec(),
                    };
                    stream.write_all(&answer).unwrap();
                });
            }
        });
        Self { url, requests }
    }

    fn seen(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn latents(first: u8) -> Tensor {
    let mut bytes = vec![0; 48];
    bytes[0] = first;
    Tensor::new(DType::Float16, vec![1, 4, 2, 3], bytes.into()).unwrap()
}

fn options() -> DecodeOptions {
    DecodeOptions::new().output_type(OutputType::Pt)
}

fn decode(vae: &blocking::RemoteVae) -> Result<u8, Error> {
    vae.decode(&latents(9), &options()).map(|decoded| decoded.bytes()[0])
}

/// A client of the server, and the pauses that it will have made.
fn patient(server: &Server) -> (blocking::RemoteVae, Arc<Mutex<Vec<Duration>>>) {
    let pauses = Arc::<Mutex<Vec<Duration>>>::default();
    let noted = pauses.clone();
    let vae = blocking::RemoteVae::builder(&server.url)
        .on_retry(move |_, pause| noted.lock().unwrap().push(pause))
        .build()
        .unwrap();
    (vae, pauses)
}

/// An address at which nobody listens: the port was given back.
fn nowhere() -> String {
    format!("http://{}/", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

#[test]
fn a_full_server_is_asked_again_when_it_says_so() {
    let server = Server::start(|n| match n {
        0 => Refuses("429 Too Many Requests", "Retry-After: 1\r\n"),
        1 => Refuses("503 Service Unavailable", "Retry-After: 0\r\n"),
        2 => Refuses("503 Service Unavailable", ""),
        _ => Good,
    });
    let (vae, pauses) = patient(&server);
    let start = Instant::now();
    assert_eq!(decode(&vae), Ok(9));
    assert_eq!(server.seen(), 4);
    let pauses = pauses.lock().unwrap();
    assert_eq!(pauses.len(), 3);
    assert!(pauses[0] >= Duration::from_secs(1) && start.elapsed() >= pauses.iter().sum());
    assert!(pauses[1] >= Duration::from_millis(100), "even `at once` is not without end");
}

#[test]
fn broken_answers_are_asked_for_again_but_not_without_end() {
    let server = Server::start(|n| if n < 2 { Breaks } else { Good });
    assert_eq!(decode(&patient(&server).0), Ok(9));
    assert_eq!(server.seen(), 3);

    let server = Server::start(|_| Breaks);
    let error = decode(&patient(&server).0).unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    assert_eq!(server.seen(), 5);
}

#[test]
fn what_would_fail_again_is_not_repeated() {
    for status in ["400 Bad Request", "404 Not Found", "413 Payload Too Large", "500 Internal Server Error"] {
        let server = Server::start(move |_| Refuses(status, ""));
        let error = decode(&patient(&server).0).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert_eq!(server.seen(), 1, "{status}");
    }
    let server = Server::start(|_| Refuses("503 Service Unavailable", ""));
    let hasty = blocking::RemoteVae::builder(&server.url).retry(Retry::never()).build().unwrap();
    assert!(decode(&hasty).is_err());
    assert_eq!(server.seen(), 1);
}

#[test]
fn patience_ends() {
    let server = Server::start(|_| Refuses("429 Too Many Requests", "Retry-After: 30\r\n"));
    let retry = Retry::default().busy_patience(Duration::from_secs(10));
    let vae = blocking::RemoteVae::builder(&server.url).retry(retry).build().unwrap();
    let error = decode(&vae).unwrap_err();
    assert!(matches!(error, Error::Refused { status: 429, .. }), "told at once: {error}");
    assert_eq!(server.seen(), 1);

    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let vae = blocking::RemoteVae::builder(&nowhere()).on_retry(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    assert!(matches!(decode(&vae.build().unwrap()), Err(Error::Connect { .. })));
    assert!(tries.load(Ordering::SeqCst) >= 1, "even a wrong address is tried twice");
}

/// As in a batch: a worker whose request was still answered meets the outage later than the others.
#[test]
fn requests_of_one_outage_give_up_together() {
    let patience = Duration::from_secs(3);
    let vae =
        blocking::RemoteVae::builder(&nowhere()).retry(Retry::default().patience(patience)).build().unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for late in [0, 2500] {
            let vae = &vae;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(late));
                assert!(matches!(decode(vae), Err(Error::Connect { .. })));
            });
        }
    });
    let waited = start.elapsed();
    assert!(waited < Duration::from_millis(5300), "{waited:?}");
}

/// A server that is full by turns with being away is not waited for longer than either alone.
#[test]
fn being_full_and_being_away_share_the_time() {
    let server = Server::start(|n| match n % 2 {
        0 => Refuses("503 Service Unavailable", ""),
        _ => Refuses("502 Bad Gateway", ""),
    });
    let retry = Retry::default().patience(Duration::from_secs(2)).busy_patience(Duration::from_secs(2));
    let vae = blocking::RemoteVae::builder(&server.url).retry(retry).build().unwrap();
    let start = Instant::now();
    assert!(matches!(decode(&vae), Err(Error::Refused { .. })));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn a_server_that_comes_back_is_waited_for() {
    let url = nowhere();
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let (sender, tried) = std::sync::mpsc::channel();
    let vae = blocking::RemoteVae::builder(&url)
        .retry(Retry::default().patience(Duration::from_secs(60)))
        .on_retry(move |_, _| sender.send(()).unwrap_or(()))
        .build()
        .unwrap();
    let waiting = std::thread::spawn(move || decode(&vae));
    // It has been in vain at least twice when the server starts.
    tried.recv().unwrap();
    tried.recv().unwrap();
    let server = Server::on(TcpListener::bind(address).unwrap(), url, |_| Good);
    assert_eq!(waiting.join().unwrap(), Ok(9));
    assert_eq!(server.seen(), 1);
}

#[test]
fn one_of_two_endpoints_is_enough() {
    for failing in [
        nowhere(),
        Server::start(|_| Breaks).url,
        Server::start(|_| Refuses("502 Bad Gateway", "")).url,
        Server::start(|_| Refuses("503 Service Unavailable", "Retry-After: 30\r\n")).url,
    ] {
        let good = Server::start(|_| Good);
        let vae = blocking::RemoteVae::builder(&failing).endpoint(&good.url).build().unwrap();
        for _ in 0..5 {
            assert_eq!(decode(&vae), Ok(9), "{failing}");
        }
        assert_eq!(good.seen(), 5);
    }
}

#[test]
fn two_endpoints_share_the_work() {
    let servers = [Server::start(|_| Good), Server::start(|_| Good)];
    let vae = blocking::RemoteVae::builder(&servers[0].url).endpoint(&servers[1].url).build().unwrap();
    for _ in 0..10 {
        assert_eq!(decode(&vae), Ok(9));
    }
    assert_eq!([servers[0].seen(), servers[1].seen()], [5, 5]);
}

#[test]
fn keys_go_where_they_belong() {
    let server = Server::start(|_| Good);
    let sent = |url: &str| {
        let vae = blocking::RemoteVae::builder(url).api_key("SECRET").build().unwrap();
        assert!(!format!("{vae:?}").contains("SECRET"));
        assert_eq!(decode(&vae), Ok(9));
        let request = server.requests.lock().unwrap().pop().unwrap();
        let values = request.lines().filter_map(|line| line.strip_prefix("authorization: "));
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sent(&server.url), ["Bearer SECRET"]);
    // base64 of user:KEY
    assert_eq!(sent(&server.url.replace("://", "://user:KEY@")), ["Basic dXNlcjpLRVk="]);
    let error = blocking::RemoteVae::builder(&server.url).api_key("two\nlines").build().unwrap_err();
    assert!(matches!(error, Error::Options(_)), "{error}");
}

/// The third request is refused; everything else comes out, in order.
#[test]
fn a_queue_loses_nothing() {
    let server = Server::start(|n| if n == 2 { Refuses("422 No", "") } else { Good });
    let vae = RemoteVae::new(&server.url).unwrap();
    let (queue, decodes) = DecodeQueue::new(vae, QueueOptions::new().in_flight(1).capacity(2)).unwrap();
    let producer = std::thread::spawn(move || {
        for number in 0..20 {
            queue.submit(number, latents(number), options()).unwrap();
        }
        queue.counters()
    });
    let mut numbers = Vec::new();
    let mut decodes = decodes;
    for finished in decodes.by_ref() {
        match finished.result {
            Ok(decoded) => assert_eq!(decoded.bytes()[0], finished.tag),
            Err(error) => assert!(matches!(error, Error::Refused { status: 422, .. }), "{error}"),
        }
        numbers.push(finished.tag);
    }
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    assert_eq!(producer.join().unwrap().submitted, 20);
    let Counters { submitted, waiting, in_flight, succeeded, failed, .. } = decodes.counters();
    assert_eq!((submitted, waiting, in_flight, succeeded, failed), (20, 0, 0, 19, 1));
    assert_eq!(server.seen(), 20);
}

#[test]
fn the_example_writes_its_pictures() {
    let server = Server::start(|_| Picture);
    let folder = tempfile::tempdir().unwrap();
    example::six_pictures(&server.url, folder.path()).unwrap();
    let picture = std::fs::read(PICTURE).unwrap();
    for number in 0..6 {
        assert_eq!(std::fs::read(folder.path().join(format!("{number}.jpg"))).unwrap(), picture);
    }
    assert_eq!(server.seen(), 6);
}

#[tokio::test]
async fn the_queue_for_threads_says_where_it_does_not_belong() {
    let vae = RemoteVae::new("http://127.0.0.1:9/").unwrap();
    let error = DecodeQueue::<()>::new(vae, QueueOptions::new()).unwrap_err();
    assert_eq!(error, Error::BlockingInAsync);
}
