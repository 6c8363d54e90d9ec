//! `remote-vae serve` with the feature `otel`, and a stand-in for the collector that its traces are sent to.
#![allow(clippy::unwrap_used, missing_docs, reason = "this is a test")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message;

const PATIENCE: Duration = Duration::from_secs(60);

/// As a client would send it that is part of a trace.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Takes what is exported, on a port of its own; every message with its path.
fn collector() -> (u16, Receiver<(String, ExportTraceServiceRequest)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, exported) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (first, headers, body) = message(&mut stream);
            assert_eq!(headers["content-type"], "application/x-protobuf");
            assert_eq!(headers["x-tenant"], "seven");
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            let path = first.split(' ').nth(1).unwrap().to_owned();
            if sender.send((path, ExportTraceServiceRequest::decode(body.as_slice()).unwrap())).is_err() {
                return;
            }
        }
    });
    (port, exported)
}

/// The first line, the headers and the body of an HTTP message.
fn message(stream: &mut TcpStream) -> (String, HashMap<String, String>, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let split = |line: &String| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let headers: HashMap<_, _> = lines.iter().skip(1).map(split).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (lines.into_iter().next().unwrap_or_default(), headers, body)
}

/// A running server; ended with the test.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(environment: &[(&str, String)]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_remote-vae"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REMOTE_VAE") || name.to_string_lossy().starts_with("OTEL")
            {
                command.env_remove(name);
            }
        }
        let process = command
            .args(["serve", "--threads=2", "--port", &port.to_string()])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Self { process, port };
        let start = Instant::now();
        while !TcpStream::connect(("127.0.0.1", port))
            .is_ok_and(|_| server.ask("GET", "/ready", "", b"") == 200)
        {
            assert!(start.elapsed() < PATIENCE, "the server is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Sends a request and gives the status of its answer.
    fn ask(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> u16 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        stream.write_all(body).unwrap();
        message(&mut stream).0.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Stops it as an operator does, and gives its log.
    fn stop(mut self) -> String {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(self.process.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

fn attributes(list: &[KeyValue]) -> HashMap<&str, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    list.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TENSOR: &str = "Content-Type: tensor/binary\r\nAccept: image/png\r\n";
const DECODE: &str = "/demo?shape=[1,16,8,8]&dtype=float16&do_scaling=True&secret=swordfish";

#[test]
fn a_request_is_a_trace() {
    let (port, exported) = collector();
    let server = Server::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=seven".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test".to_owned()),
    ]);
    let traced = format!("{TENSOR}traceparent: 00-{TRACE}-{PARENT}-01\r\nx-request-id: mine-1\r\n");
    assert_eq!(server.ask("POST", DECODE, &traced, &[0; 2048]), 200);
    assert_eq!(server.ask("POST", DECODE, TENSOR, &[0; 7]), 400);
    assert_eq!(server.ask("POST", "/nothing?shape=[1]&dtype=uint8", TENSOR, &[0; 1]), 404);
    assert_eq!(server.ask("GET", "/models", "", b""), 200);
    let log = server.stop();

    let (mut spans, mut services) = (Vec::<Span>::new(), Vec::new());
    while let Ok((path, request)) = exported.try_recv() {
        assert_eq!(path, "/v1/traces");
        let whole = format!("{request:?}");
        assert!(!whole.contains("swordfish") && !whole.contains("shape"), "a query is in {whole}");
        for resource in request.resource_spans {
            services.push(resource.resource.unwrap().attributes);
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let service = attributes(services.first().unwrap());
    assert_eq!(
        (service["service.name"].as_str(), service["deployment.environment.name"].as_str()),
        ("remote-vae", "test")
    );

    // The decode: its steps lie in it, one after the other, and it lies in the trace of its client.
    let of_client: Vec<_> = spans.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    let named = |name: &str| {
        let found: Vec<_> = of_client.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "{name} in {of_client:?}");
        *found[0]
    };
    assert_eq!(of_client.len(), 4, "{of_client:?}");
    let request = named("request");
    assert_eq!(hex(&request.parent_span_id), PARENT);
    assert_eq!(request.kind(), SpanKind::Server);
    assert_eq!(request.events.len(), 0);
    let said = attributes(&request.attributes);
    for (name, value) in [
        ("request.id", "mine-1"),
        ("http.request.method", "POST"),
        ("url.path", "/demo"),
        ("http.response.status_code", "200"),
        ("model", "demo"),
        ("task", "decode"),
        ("output", "image/png"),
        ("mode", "exact"),
    ] {
        assert_eq!(said.get(name).map(String::as_str), Some(value), "{name} in {said:?}");
    }
    let mut before = request.start_time_unix_nano;
    for name in ["queue", "work", "answer"] {
        let step = named(name);
        assert_eq!(step.parent_span_id, request.span_id, "{name}");
        assert!(before <= step.start_time_unix_nano, "{name} begins too early");
        assert!(step.start_time_unix_nano < step.end_time_unix_nano, "{name} takes no time");
        before = step.end_time_unix_nano;
    }
    assert!(before <= request.end_time_unix_nano);

    // The refused ones: traces of their own, of one span each. Who only looks makes none.
    let others: Vec<_> = spans.iter().filter(|span| hex(&span.trace_id) != TRACE).collect();
    let mut statuses = Vec::new();
    for span in &others {
        assert_eq!((span.name.as_str(), span.parent_span_id.len()), ("request", 0));
        assert_ne!(
            span.status.as_ref().map(|status| status.code()),
            Some(StatusCode::Error),
            "it was not the server's fault"
        );
        statuses.push(attributes(&span.attributes)["http.response.status_code"].clone());
    }
    statuses.sort();
    assert_eq!(statuses, ["400", "404"]);

    // Log lines are as they are without traces.
    let line = log.lines().find(|line| line.contains("mine-1") && line.contains("work_ms")).unwrap();
    assert!(line.contains("INFO request{id=\"mine-1\"}: "), "{line}");
}

#[test]
fn nothing_is_sent_unless_the_environment_names_a_collector() {
    let (port, exported) = collector();
    let endpoint = format!("http://127.0.0.1:{port}");
    let disabled = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_SDK_DISABLED", "true".to_owned())];
    for environment in [&disabled[..], &disabled[1..1]] {
        let server = Server::start(environment);
        assert_eq!(server.ask("POST", DECODE, TENSOR, &[0; 2048]), 200);
        server.stop();
    }
    assert!(exported.try_recv().is_err());
}

#[test]
fn a_collector_that_is_away_disturbs_nobody() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::start(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("http://127.0.0.1:{gone}/v1/traces")),
        ("OTEL_BSP_SCHEDULE_DELAY", "10".to_owned()),
    ]);
    for _ in 0..3 {
        assert_eq!(server.ask("POST", DECODE, TENSOR, &[0; 2048]), 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = server.stop();
    assert!(log.contains("opentelemetry"), "nothing tells the operator: {log}");
}

#[test]
fn another_protocol_is_refused_with_a_sentence() {
    let result = Command::new(env!("CARGO_BIN_EXE_remote-vae"))
        .args(["serve", "--port=0"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .output()
        .unwrap();
    let said = String::from_utf8(result.stderr).unwrap();
    assert!(!result.status.success());
    assert!(said.contains("http/protobuf"), "{said}");
}
