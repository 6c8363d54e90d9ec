//! TLS on a real port, with certificates made for the occasion.

use std::path::Path;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use super::fake::{info, model};
use crate::tls::Tls;
use crate::{Config, ServeError, Server, TlsConfig};

/// A new certificate for `localhost` in this folder.
fn certificate(folder: &Path) -> (TlsConfig, CertificateDer<'static>) {
    let made = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsConfig { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.der().clone())
}

async fn ask(port: u16, trusted: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_certificate_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (files, trusted) = certificate(folder.path());
    let config = Config { port: 0, tls: Some(files.clone()), ..Config::default() };
    let server = Server::bind(config, vec![model("fake", info()).0]).await.unwrap();
    let port = server.local_addr().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));

    assert!(ask(port, &trusted).await.unwrap().ends_with("Ok"));
    let (_, other) = certificate(tempfile::tempdir().unwrap().path());
    assert!(ask(port, &other).await.is_err(), "it is not the certificate that is trusted");
    // Who speaks no TLS gets no answer, and harms nobody.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"));
    assert!(ask(port, &trusted).await.unwrap().ends_with("Ok"));

    drop(stop);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_certificate_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = certificate(folder.path());
    let tls = Tls::new(files.clone()).unwrap();
    let before = tls.acceptor();
    certificate(folder.path());
    tls.reload();
    assert!(!Arc::ptr_eq(before.config(), tls.acceptor().config()));
    // A certificate without its key stays outside.
    let between = tls.acceptor();
    std::fs::write(&files.key, "nothing").unwrap();
    tls.reload();
    assert!(Arc::ptr_eq(between.config(), tls.acceptor().config()));
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = certificate(folder.path());
    for file in [&files.cert, &files.key] {
        let text = std::fs::read_to_string(file).unwrap();
        std::fs::write(file, format!("\u{feff}{text}")).unwrap();
    }
    assert!(Tls::new(files).is_ok());
}

#[test]
fn files_that_are_no_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = certificate(folder.path());
    let error = |files: TlsConfig| match Tls::new(files) {
        Err(ServeError::Config(message)) => message,
        _ => panic!("it was taken"),
    };
    let nowhere = folder.path().join("nowhere");
    assert!(error(TlsConfig { cert: nowhere.clone(), ..files.clone() }).contains("nowhere"));
    assert!(error(TlsConfig { key: nowhere, ..files.clone() }).contains("private key"));
    assert!(error(TlsConfig { cert: files.key.clone(), ..files.clone() }).contains("no certificate"));
    let other = tempfile::tempdir().unwrap();
    let (others, _) = certificate(other.path());
    assert!(error(TlsConfig { key: others.key, ..files }).contains("its key"));
}
