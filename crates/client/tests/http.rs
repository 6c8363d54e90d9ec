//! The client against a server that plays back answers, and keeps what it was sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use client::{
    DType, DecodeOptions, EncodeOptions, Error, ImageFormat, OutputType, Picture, Retry, SampleMode, Tensor,
    blocking,
};
use wire::{Request, RequestHead, Scaling};

/// A request as it came over the wire.
struct Received {
    /// Path and query.
    target: String,
    /// Lines of the head, in lower case.
    head: Vec<String>,
    body: Vec<u8>,
}

impl Received {
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        let text = String::from_utf8(bytes).unwrap();
        let mut lines = text.lines();
        let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let mut received = Self { target, head: lines.map(str::to_lowercase).collect(), body: Vec::new() };
        received
            .body
            .resize(received.header("content-length").map_or(0, |length| length.parse().unwrap()), 0);
        stream.read_exact(&mut received.body).unwrap();
        received
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Answers each request, all on one connection, with the next of `answers`.
fn server(answers: Vec<Vec<u8>>) -> (SocketAddr, JoinHandle<Vec<Received>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        answers.into_iter().map(|answer| exchange(&mut stream, &answer)).collect()
    });
    (address, thread)
}

fn exchange(stream: &mut TcpStream, answer: &[u8]) -> Received {
    let received = Received::read(stream);
    stream.write_all(answer).unwrap();
    received
}

fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for header in headers {
        answer.push_str(&format!("{header}\r\n"));
    }
    answer.push_str("\r\n");
    [answer.as_bytes(), body].concat()
}

fn latents() -> Tensor {
    Tensor::new(DType::Float16, vec![1, 4, 2, 3], (0..48).collect::<Vec<u8>>().into()).unwrap()
}

/// A JPEG file of 72 x 53 pixels.
fn picture() -> Vec<u8> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    std::fs::read(fixtures.join("jpeg/photo.72x53.q75.jpg")).unwrap()
}

/// What the client makes of one answer.
fn decode(options: &DecodeOptions, answer: Vec<u8>) -> Result<client::Decoded, Error> {
    let (address, thread) = server(vec![answer]);
    let vae = blocking::RemoteVae::builder(&format!("http://{address}/")).retry(Retry::never());
    let decoded = vae.build().unwrap().decode(&latents(), options);
    thread.join().unwrap();
    decoded
}

#[test]
fn two_requests_on_one_connection_say_what_was_asked() {
    let tensor = ["shape: [1, 2, 2, 3]", "dtype: uint8"];
    let (address, thread) =
        server(vec![answer("200 OK", &[], &picture()), answer("200 OK", &tensor, &[7; 12])]);
    let vae = blocking::RemoteVae::new(&format!("http://user:KEY@{address}/sdxl?x=1")).unwrap();
    let options = DecodeOptions::new().scaling_factor(0.13025).height(16).width(24);
    let image = vae.decode(&latents(), &options).unwrap().into_image().unwrap();
    assert_eq!((image.width, image.height, image.format), (72, 53, ImageFormat::Jpeg { quality: None }));
    assert_eq!(image.bytes, picture());

    let options =
        DecodeOptions::new().do_scaling(false).output_type(OutputType::Pt).partial_postprocess(true);
    let tensor = vae.decode(&latents(), &options).unwrap().into_tensor().unwrap();
    assert_eq!(tensor, Tensor::new(DType::UInt8, vec![1, 2, 2, 3], vec![7; 12].into()).unwrap());

    let received = thread.join().unwrap();
    for (request, scaling) in
        received.iter().zip([Scaling::Factors { scaling_factor: 0.13025, shift_factor: None }, Scaling::None])
    {
        let (path, query) = request.target.split_once('?').unwrap();
        assert_eq!((path, &query[..4]), ("/sdxl", "x=1&"));
        let head =
            RequestHead::read(query, request.header("content-type"), request.header("accept")).unwrap();
        let Request::Decode(decode) = head.request(request.body.clone().into()).unwrap() else { panic!() };
        assert_eq!((decode.latents, decode.params.scaling), (latents(), scaling));
        assert_eq!(request.header("accept-encoding"), None, "pictures and latents do not compress");
        // base64 of user:KEY, in lower case like every head here.
        assert_eq!(request.header("authorization"), Some("basic dxnlcjplrvk="));
    }
    assert_eq!(received[0].header("accept"), Some("image/jpeg"));
    assert_eq!(received[1].header("accept"), Some("tensor/binary"));
}

/// What a server says of a request that it answers all the same is not lost.
#[test]
fn warnings_of_a_server_are_told() {
    let warnings = ["x-warning: the first", "X-Warning: the second"];
    let (address, thread) = server(vec![answer("200 OK", &warnings, &picture())]);
    let told = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&told);
    let vae = blocking::RemoteVae::builder(&format!("http://{address}/"))
        .on_warning(move |sentence| noted.lock().unwrap().push(sentence.to_owned()));
    vae.build().unwrap().decode(&latents(), &DecodeOptions::new()).unwrap();
    thread.join().unwrap();
    assert_eq!(*told.lock().unwrap(), ["the first", "the second"]);
}

/// What holds NaN or infinity is not sent, unless that is wanted.
#[test]
fn values_that_are_no_numbers_are_not_sent() {
    let odd = |shape| {
        Tensor::new(DType::Float32, shape, [f32::NAN; 12].map(f32::to_le_bytes).concat().into()).unwrap()
    };
    let (latents, pixels) = (odd(vec![1, 4, 1, 3]), odd(vec![1, 3, 2, 2]));
    // Nothing listens there.
    let nowhere = blocking::RemoteVae::builder("http://127.0.0.1:9/").retry(Retry::never()).build().unwrap();
    let error = nowhere.decode(&latents, &DecodeOptions::new()).unwrap_err();
    assert!(
        matches!(&error, Error::NonFinite(text) if text.starts_with("12 of the 12 values of the latents")),
        "{error}"
    );
    let error = nowhere.encode(&Picture::Tensor(pixels), &EncodeOptions::new()).unwrap_err();
    assert!(matches!(&error, Error::NonFinite(text) if text.contains("the pixels")), "{error}");

    let (address, thread) = server(vec![answer("200 OK", &[], &picture())]);
    let vae = blocking::RemoteVae::new(&format!("http://{address}/")).unwrap();
    vae.decode(&latents, &DecodeOptions::new().allow_non_finite(true)).unwrap();
    assert_eq!(thread.join().unwrap()[0].body, *latents.bytes);
}

#[test]
fn an_encode_asks_for_what_its_options_say() {
    let headers = ["shape: [1, 4, 2, 3]", "dtype: float16", "seed: 18446744073709551615"];
    let (address, thread) = server(vec![
        answer("200 OK", &headers, &latents().bytes),
        answer("200 OK", &headers[..2], &latents().bytes),
        answer("200 OK", &headers[..2], b"too short"),
    ]);
    let vae = blocking::RemoteVae::new(&format!("http://{address}/sdxl")).unwrap();
    let file = Picture::File(picture().into());
    let encoded = vae.encode(&file, &EncodeOptions::new()).unwrap();
    assert_eq!((encoded.latents, encoded.seed), (latents(), Some(u64::MAX)));
    let pixels = Tensor::new(DType::UInt8, vec![3, 2, 2], vec![7; 12].into()).unwrap();
    let pixels = Picture::Tensor(pixels);
    let asked = EncodeOptions::new().do_scaling(false).sample_mode(SampleMode::Argmax);
    let encoded = vae.encode(&pixels, &asked).unwrap();
    assert_eq!((encoded.latents, encoded.seed), (latents(), None));
    assert!(matches!(vae.encode(&pixels, &asked), Err(Error::Answer(_))));

    let received = thread.join().unwrap();
    for (request, picture, options) in
        [(&received[0], file, EncodeOptions::new()), (&received[1], pixels, asked)]
    {
        let (path, query) = request.target.split_once('?').unwrap();
        assert_eq!(path, "/sdxl");
        let head =
            RequestHead::read(query, request.header("content-type"), request.header("accept")).unwrap();
        let Request::Encode(encode) = head.request(request.body.clone().into()).unwrap() else { panic!() };
        assert_eq!((encode.picture, encode.params), (picture, options.params().unwrap()));
    }
}

#[test]
fn the_servers_sentence_reaches_the_caller() {
    let refusal = |status, headers: &[&str], body: &[u8]| {
        decode(&DecodeOptions::new(), answer(status, headers, body)).unwrap_err()
    };
    let json = br#"{"error": "the queue is full; try again"}"#;
    let error = refusal("429 Too Many Requests", &["Retry-After: 7"], json);
    assert_eq!(error.to_string(), "the server refused with status 429: the queue is full; try again");
    let Error::Refused { status: 429, retry_after: Some(after), .. } = error else { panic!("{error:?}") };
    assert_eq!(after, Duration::from_secs(7));

    // A date, by the server's own clock.
    let dates = ["Date: Sun, 06 Nov 1994 08:49:30 GMT", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT"];
    let Error::Refused { retry_after, .. } = refusal("503 Service Unavailable", &dates, json) else {
        panic!()
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));

    let error = refusal("502 Bad Gateway", &[], b"upstream is down");
    assert_eq!(error.to_string(), "the server refused with status 502: upstream is down");
    let error = refusal("301 Moved Permanently", &["Location: https://new.example/"], b"");
    assert!(error.to_string().ends_with("moved to https://new.example/; use that address"), "{error}");
}

#[test]
fn answers_that_are_not_what_was_asked_for() {
    let image = DecodeOptions::new();
    let tensor = DecodeOptions::new().output_type(OutputType::Pt);
    let heads = |shape| [shape, "dtype: float16"];
    for (options, answer, word) in [
        (&image, answer("200 OK", &[], b"<html>"), "no JPEG, PNG or WebP"),
        (&image, answer("200 OK", &[], b""), "no JPEG, PNG or WebP"),
        (&image, answer("200 OK", &[], &picture()[..20]), "broken"),
        (&tensor, answer("200 OK", &[], &[0; 24]), "does not say of what shape"),
        (&tensor, answer("200 OK", &heads("shape: [1, 3, 2, 2]"), &[0; 23]), "23 bytes"),
        (&tensor, answer("200 OK", &heads("shape: nonsense"), &[0; 24]), "of shape \"nonsense\""),
    ] {
        let error = decode(options, answer).unwrap_err();
        assert!(matches!(&error, Error::Answer(message) if message.contains(word)), "{error}");
    }
    let decoded = decode(&image, answer("200 OK", &[], &picture())).unwrap();
    assert!(matches!(decoded.into_tensor(), Err(Error::Options(_))));
}

/// A server that sends without end: what it has announced, and what it has not.
#[test]
fn an_answer_is_read_no_further_than_what_was_requested_can_be() {
    // 24 values of latents become 24 * 256 bytes of a picture at most, beside a free MiB.
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n".to_vec();
    let error = decode(&DecodeOptions::new(), announced).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server's answer cannot be used: it has more than 1 MiB, which is more than anything that was requested \
         can be"
    );
    for status in ["200 OK", "500 Internal Server Error"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            Received::read(&mut stream);
            write!(stream, "HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
            let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
            // Until the client hangs up; a client that reads on would keep this going.
            let mut sent = 0usize;
            while sent < 1 << 30 && stream.write_all(&chunk).is_ok() {
                sent += 0x10000;
            }
            sent
        });
        let vae = blocking::RemoteVae::builder(&format!("http://{address}/")).retry(Retry::never());
        let vae = vae.build().unwrap();
        let error = vae.decode(&latents(), &DecodeOptions::new()).unwrap_err();
        drop(vae);
        let is_expected = match &error {
            Error::Answer(message) => message.contains("more than 1 MiB"),
            Error::Refused { status: 500, message, .. } => message.starts_with("xxx") && message.len() == 200,
            _ => false,
        };
        assert!(is_expected, "{error:?}");
        // What lies in the buffers of both sides comes on top.
        let sent = thread.join().unwrap();
        assert!(sent < 64 << 20, "{sent} bytes were taken");
    }
}

#[test]
fn connections_that_fail() {
    let vae = |address: SocketAddr, timeout| {
        blocking::RemoteVae::builder(&format!("http://key@{address}/")).timeout(timeout).build().unwrap()
    };
    let long = Duration::from_secs(60);

    // Nobody listens: the port was given back.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = vae(address, long).decode(&latents(), &DecodeOptions::new()).unwrap_err();
    assert!(matches!(&error, Error::Connect { endpoint, .. } if *endpoint == format!("http://{address}/")));
    assert!(error.to_string().ends_with("is a server running there?"), "{error}");

    // Somebody listens and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let vae_of_silent = vae(silent.local_addr().unwrap(), Duration::from_millis(50));
    let error = vae_of_silent.decode(&latents(), &DecodeOptions::new()).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");

    // Somebody hangs up in the middle of the answer.
    let mut cut = answer("200 OK", &[], &picture());
    cut.truncate(cut.len() - 100);
    let error = decode(&DecodeOptions::new(), cut).unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error:?}");
}

#[tokio::test]
async fn the_async_client_and_the_blocking_one_in_async_code() {
    let (address, thread) = server(vec![answer("200 OK", &[], &picture())]);
    let endpoint = format!("http://{address}/");
    let blocking = blocking::RemoteVae::new(&endpoint).unwrap();
    let error = blocking.decode(&latents(), &DecodeOptions::new()).unwrap_err();
    assert_eq!(error, Error::BlockingInAsync);
    drop(blocking);

    let decoded = client::remote_decode(&endpoint, &latents(), &DecodeOptions::new()).await.unwrap();
    assert_eq!(*decoded.bytes(), picture());
    assert_eq!(thread.join().unwrap().len(), 1);
}

#[test]
fn readiness() {
    let (address, thread) = server(vec![
        answer("503 Service Unavailable", &[], b"{}"),
        answer("200 OK", &[], b"Ok"),
        answer("404 Not Found", &[], br#"{"error": "there is nothing here"}"#),
    ]);
    let vae = blocking::RemoteVae::new(&format!("http://{address}/sdxl")).unwrap();
    assert_eq!((vae.is_ready(), vae.is_ready()), (Ok(false), Ok(true)));
    let error = vae.is_ready().unwrap_err().to_string();
    assert_eq!(error, "the server refused with status 404: there is nothing here");
    assert!(thread.join().unwrap().iter().all(|request| request.target == "/ready"));
}
