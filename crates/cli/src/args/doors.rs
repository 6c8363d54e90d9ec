//! The flags of `serve` that say who may come in.

use std::path::PathBuf;

#[cfg(feature = "tls")]
use rustls::pki_types::{CertificateDer, pem::PemObject};
use server::{AccessConfig, ApiKey, Forwarding, RateLimit};
#[cfg(feature = "tls")]
use webpki::EndEntityCert;

use super::heading;

/// Who may come in.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = heading::ACCESS)]
pub(crate) struct DoorArgs {
    /// Keys that let clients in, SECRET or NAME:SECRET, separated by commas. Without keys everybody is let in. Rather
    /// the variable or the file than the flag: everybody on this machine can read command lines
    #[arg(long, value_name = "KEY,KEY", value_delimiter = ',')]
    api_keys: Vec<ApiKey>,
    /// File with keys, one a line, # before comments; read again when it changes
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Requests that each key, or without keys each address, may send: 10/s, 60/m, 500/h [default: as many as they like]
    #[arg(long, value_name = "N/TIME")]
    rate_limit: Option<RateLimit>,
    /// Tell clients apart by the last entry of X-Forwarded-For: only behind a proxy that writes it
    #[arg(long)]
    trust_forwarded_for: bool,
    /// The same by Forwarded (RFC 7239), where the proxy writes that one
    #[arg(long, conflicts_with = "trust_forwarded_for")]
    trust_forwarded: bool,
    /// Origins, such as https://example.org, whose pages browsers let call this server; * for all [default: none]
    #[arg(long, value_name = "ORIGIN,ORIGIN", value_delimiter = ',')]
    cors_origins: Vec<String>,
    /// Certificate for https, with those that lead to an authority, as PEM; read again when it changes
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, as PEM
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl DoorArgs {
    /// Who may come in.
    pub(crate) fn access(&self) -> AccessConfig {
        AccessConfig {
            keys: self.api_keys.clone(),
            key_file: self.api_key_file.clone(),
            rate_limit: self.rate_limit,
            forwarding: match (self.trust_forwarded_for, self.trust_forwarded) {
                (true, _) => Some(Forwarding::XForwardedFor),
                (_, true) => Some(Forwarding::Forwarded),
                _ => None,
            },
            cors_origins: self.cors_origins.clone(),
        }
    }

    /// The certificate.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<server::TlsConfig> {
        let (cert, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(server::TlsConfig { cert, key })
    }

    /// A name that the certificate is for, if it can be read and has one.
    #[cfg(feature = "tls")]
    pub(crate) fn certified_name(&self) -> Option<String> {
        let pem = std::fs::read(self.tls_cert.as_ref()?).ok()?;
        let certificate = CertificateDer::from_pem_slice(&pem).ok()?;
        let certificate = EndEntityCert::try_from(&certificate).ok()?;
        certificate.valid_dns_names().find(|name| !name.contains('*')).map(str::to_owned)
    }

    /// There is no certificate.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn certified_name(&self) -> Option<String> {
        None
    }

    /// Whether connections are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls_cert.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Whether everybody is let in.
    pub(crate) fn is_open(&self) -> bool {
        self.api_keys.is_empty() && self.api_key_file.is_none()
    }
}
