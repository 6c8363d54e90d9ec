//! TLS, with a certificate that may be renewed while the server runs.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::error::ServeError;
use crate::text;

/// Where the certificate and its key are, as PEM. Both are read again when they change.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// The certificate, followed by those that lead to a known authority.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What takes connections in under TLS.
pub(crate) struct Tls {
    files: TlsConfig,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// # Errors
    /// Files that cannot be read or do not fit together.
    pub(crate) fn new(files: TlsConfig) -> Result<Self, ServeError> {
        let config = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { files, config })
    }

    /// The files that [`Tls::reload`] reads.
    pub(crate) fn files(&self) -> &TlsConfig {
        &self.files
    }

    /// Reads the files again. Where that fails, the certificate stays as it is.
    pub(crate) fn reload(&self) {
        match read(&self.files) {
            Ok(config) => {
                info!("TLS certificate read again");
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(error) => warn!(%error, "the TLS certificate stays as it was"),
        }
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(files: &TlsConfig) -> Result<ServerConfig, ServeError> {
    let wrong = |path: &PathBuf, error: String| ServeError::Config(format!("{}: {error}", path.display()));
    let certificates = text::read(&files.cert).map_err(|error| error.to_string()).and_then(|text| {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes());
        certificates.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
    });
    let certificates = certificates
        .map_err(|error| wrong(&files.cert, format!("the certificate cannot be read: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong(&files.cert, "there is no certificate in PEM format".to_owned()));
    }
    let key = text::read(&files.key)
        .map_err(|error| error.to_string())
        .and_then(|text| PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string()))
        .map_err(|error| wrong(&files.key, format!("the private key cannot be read: {error}")))?;
    let unusable = |error: rustls::Error| wrong(&files.cert, format!("cannot be used with its key: {error}"));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
