//! https: which certificates are accepted, and what is said of those that are not.
#![cfg(feature = "tls")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use client::{DType, DecodeOptions, Error, OutputType, Retry, Tensor, blocking::RemoteVae};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A certificate for `localhost`, with its key.
struct Shown {
    pem: String,
    key: String,
}

/// What `openssl req -x509` makes: a certificate that is its own authority. `change` makes it another.
fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Shown {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Shown { pem: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// A server that answers every request over TLS with a tensor, and the end of its URL.
fn server(shown: &Shown) -> u16 {
    let certificates = CertificateDer::pem_slice_iter(shown.pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let config = Arc::new(config);
    on_each_connection(move |stream| {
        let connection = ServerConnection::new(config.clone()).unwrap();
        answer(&mut StreamOwned::new(connection, stream))
    })
}

/// A server that knows no TLS.
fn plain_server() -> u16 {
    on_each_connection(|mut stream| answer(&mut stream))
}

fn on_each_connection(serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that refuses the certificate hangs up.
            let _ = serve(stream.unwrap());
        }
    });
    port
}

fn answer(stream: &mut (impl Read + Write)) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
        if request.len() == 5 && !request.starts_with(b"POST ") {
            return stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    }
    stream.read_exact(&mut [0; 48])?;
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nshape: [1]\r\ndtype: uint8\r\nconnection: close\r\ncontent-length: 1\r\n\r\n\x07",
    )?;
    stream.flush()
}

fn decode(url: &str, trusted: Option<&str>) -> Result<u8, Error> {
    let builder = RemoteVae::builder(url).retry(Retry::never());
    let builder = match trusted {
        Some(pem) => builder.trust(pem.as_bytes()),
        None => builder,
    };
    let latents = Tensor::new(DType::Float16, vec![1, 4, 2, 3], vec![0; 48].into()).unwrap();
    let options = DecodeOptions::new().output_type(OutputType::Pt);
    builder.build()?.decode(&latents, &options).map(|decoded| decoded.bytes()[0])
}

fn refused(url: &str, trusted: Option<&str>, words: &str) {
    let error = decode(url, trusted).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(words), "{words:?} is missing in {text}");
    assert!(!text.contains("OtherError") && !text.contains("InvalidContentType"), "{text}");
}

#[test]
fn a_certificate_that_signed_itself_is_accepted_where_it_is_named() {
    for is_ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::ExplicitNoCa, IsCa::NoCa] {
        let shown = self_signed(|params| params.is_ca = is_ca);
        let url = format!("https://localhost:{}/", server(&shown));
        assert_eq!(decode(&url, Some(&shown.pem)), Ok(7));
        // Others of the same name are none of it.
        let other = self_signed(|_| {});
        refused(&url, Some(&other.pem), "--ca FILE");
        refused(&url, None, "--ca FILE");
        let both = format!("{}{}", other.pem, shown.pem);
        assert_eq!(decode(&url, Some(&both)), Ok(7), "one of several");
    }
}

#[test]
fn a_named_authority_speaks_for_its_servers() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let shown = Shown { pem: certificate.pem(), key: key.serialize_pem() };
    let url = format!("https://localhost:{}/", server(&shown));
    assert_eq!(decode(&url, Some(&authority.pem())), Ok(7));
    assert_eq!(decode(&url, Some(&shown.pem)), Ok(7), "the very certificate");
    refused(&url, None, "from an authority that is not trusted here");
}

/// To be named makes a certificate no better otherwise.
#[test]
fn a_named_certificate_has_its_dates_and_names() {
    let expired = self_signed(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let url = format!("https://localhost:{}/", server(&expired));
    refused(&url, Some(&expired.pem), "its certificate has expired");
    let early = self_signed(|params| params.not_before = date_time_ymd(4000, 1, 1));
    let url = format!("https://localhost:{}/", server(&early));
    refused(&url, Some(&early.pem), "is not valid yet");
    let shown = self_signed(|_| {});
    let url = format!("https://127.0.0.1:{}/", server(&shown));
    refused(&url, Some(&shown.pem), "its certificate is not for 127.0.0.1, but for localhost: use that name");
}

#[test]
fn what_is_no_certificate_is_said() {
    for (pem, words) in
        [("", "there is none"), ("no PEM", "there is none"), ("-----BEGIN CERTIFICATE-----\n!\n", "no PEM")]
    {
        let error = decode("https://localhost:9/", Some(pem)).unwrap_err();
        assert!(matches!(error, Error::Options(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn the_other_protocol_is_recognised() {
    let shown = self_signed(|_| {});
    let (encrypted, plain) = (server(&shown), plain_server());
    refused(
        &format!("http://user:KEY@localhost:{encrypted}/"),
        None,
        &format!("speaks no http; try https://localhost:{encrypted}/"),
    );
    refused(
        &format!("https://localhost:{plain}/"),
        Some(&shown.pem),
        &format!("speaks no https; try http://localhost:{plain}/"),
    );
}
