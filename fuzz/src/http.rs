//! Whole requests, against a server that runs.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use server::{AccessConfig, Config, Model, Server};
use vae::Source;
use vae::device::cpu::{Cpu, CpuOptions};

use crate::sentence;

const KEY: &str = "correct-horse-battery";

/// An answer that takes longer has been forgotten.
const PATIENCE: Duration = Duration::from_secs(20);

/// The text of a request: `POST /path?query`, headers, an empty line, the body. It is sent with the length of its body and
/// in a connection of its own; who speaks of keys goes to a server that wants one.
pub fn http(input: &[u8]) {
    let (head, body) = match input.windows(2).position(|two| two == b"\n\n") {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &[][..]),
    };
    let mut lines = head.split(|&byte| byte == b'\n');
    let start = lines.next().unwrap_or_default();
    let mut request = [start, b" HTTP/1.1\r\nhost: fuzz\r\nconnection: close\r\n"].concat();
    request.extend(format!("content-length: {}\r\n", body.len()).as_bytes());
    // These say where a request ends. What else they do is for hyper, which has fuzz targets of its own.
    let framing = ["content-length", "transfer-encoding", "connection", "expect", "upgrade"];
    for line in lines {
        let name = String::from_utf8_lossy(line.split(|&byte| byte == b':').next().unwrap_or_default());
        if !framing.contains(&name.trim().to_ascii_lowercase().as_str()) {
            request.extend_from_slice(line);
            request.extend_from_slice(b"\r\n");
        }
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);

    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let wants_key = ["authorization", "api_key"].iter().any(|word| head.contains(word));
    let answer = exchange(servers()[usize::from(wants_key)], &request);
    check(&answer, start.starts_with(b"HEAD "));
}

fn exchange(server: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut connection = TcpStream::connect(server).expect("the server takes connections");
    connection.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    // A server that refuses by the head alone need not take the rest.
    let sent = connection.write_all(request);
    let mut answer = Vec::new();
    match connection.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset && sent.is_err() => {}
        Err(error) => assert!(!answer.is_empty(), "no answer: {error}"),
    }
    answer
}

fn check(answer: &[u8], has_no_body: bool) {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer with a head");
    let (head, body) = (str::from_utf8(&answer[..end]).expect("a head in ASCII"), &answer[end + 4..]);
    let status = head.get(9..12).expect("a status");
    if status.starts_with('2') || has_no_body {
        return;
    }
    assert!(status.starts_with('4') || status == "503", "{head}");
    assert!(head.to_ascii_lowercase().contains("\r\ncontent-type: application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    let object = body.as_object().expect("an object");
    assert_eq!(object.keys().collect::<Vec<_>>(), ["error"]);
    sentence(object["error"].as_str().expect("a text"));
}

/// Where the server without keys listens, and the one with a key.
fn servers() -> [SocketAddr; 2] {
    static SERVERS: OnceLock<[SocketAddr; 2]> = OnceLock::new();
    *SERVERS.get_or_init(|| [AccessConfig::default(), locked()].map(serve))
}

fn locked() -> AccessConfig {
    AccessConfig { keys: vec![KEY.parse().expect("a key")], ..AccessConfig::default() }
}

/// Starts a server with a model of pictures and one of videos, the smallest there are.
fn serve(access: AccessConfig) -> SocketAddr {
    let limits = wire::Limits {
        max_body_bytes: 64 << 10,
        max_batch: 2,
        max_pixels: 32 * 32,
        max_total_pixels: 4 * 32 * 32,
    };
    let config = Config {
        port: 0,
        access,
        body_timeout: PATIENCE / 2,
        service: service::Config { limits, ..service::Config::default() },
        ..Config::default()
    };
    let (started, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("an event loop").block_on(async {
            let models = ["one-block", "video-batch"].map(model).into_iter().collect();
            let server = Server::bind(config, models).await.expect("a free port");
            started.send(server.local_addr()).expect("somebody waits");
            server.run(std::future::pending()).await.expect("a server that runs");
        });
    });
    let address = address.recv().expect("an address");
    while !exchange(address, b"GET /ready HTTP/1.1\r\nhost: fuzz\r\nconnection: close\r\n\r\n")
        .starts_with(b"HTTP/1.1 200")
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    address
}

fn model(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/vae").join(name);
    Model {
        preview: None,
        name: name.to_owned(),
        source: name.to_owned(),
        origin: None,
        license: None,
        example: Some(b"latents"),
        weights: Box::new(|| None),
        load: Box::new(move |_| {
            let engine = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() })?;
            Ok(vae::load(Source::Folder(folder.clone()), engine)?)
        }),
    }
}
