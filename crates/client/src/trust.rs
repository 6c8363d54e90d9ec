//! Which certificates of servers are accepted, where the user names them instead of the system.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::verify_server_name,
};

use crate::Error;

/// The settings of TLS that accept the certificates in `pem` and what they have signed, and nothing else.
///
/// # Errors
/// [`Error::Options`]: `pem` holds no certificate, or one that cannot be read.
pub(crate) fn only(pem: &[u8]) -> Result<ClientConfig, Error> {
    let wrong = |what: String| Error::Options(format!("the certificates to trust cannot be used: {what}"));
    let named: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("they are no PEM: {error}")))?;
    if named.is_empty() {
        return Err(wrong(
            "there is none, expected PEM, which begins with -----BEGIN CERTIFICATE-----".to_owned(),
        ));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &named {
        roots.add(certificate.clone()).map_err(|error| wrong(error.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let ordinary = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Named { named, ordinary }));
    Ok(config.with_no_client_auth())
}

/// The ordinary checks, with the named certificates as authorities. A server may also show one of them itself, which the
/// ordinary checks refuse of an authority's: `openssl req -x509` makes such certificates for servers.
#[derive(Debug)]
struct Named {
    named: Vec<CertificateDer<'static>>,
    ordinary: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ordinary = &self.ordinary;
        match ordinary.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Its dates are good: they are looked at before who has signed it.
            Err(error) if lacks_authority(&error) && self.named.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.ordinary.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.ordinary.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.ordinary.supported_verify_schemes()
    }
}

/// Whether all that speaks against a certificate is who has signed it.
fn lacks_authority(error: &rustls::Error) -> bool {
    match error {
        // A bad signature is one of an authority that has the issuer's name and another key.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => true,
        rustls::Error::InvalidCertificate(error) => is_authority_itself(error),
        _ => false,
    }
}

/// Whether a server shows a certificate that is meant for an authority.
fn is_authority_itself(error: &CertificateError) -> bool {
    match error {
        CertificateError::Other(other) => {
            matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

/// Makes sure that there is an implementation of TLS' algorithms.
pub(crate) fn install_provider() {
    // Fails only when the program has chosen one already, which is as good.
    if CryptoProvider::get_default().is_none() {
        let _ = ring::default_provider().install_default();
    }
}

/// What TLS has against a server, and what to do, if that is why a connection failed.
pub(crate) fn reason(error: &(dyn std::error::Error + 'static), host: &str) -> Option<String> {
    const NAME_IT: &str =
        "name a certificate to trust with `Builder::trust` (--ca FILE), or with the variable SSL_CERT_FILE";
    match find(error)? {
        rustls::Error::InvalidCertificate(error) => Some(match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("its certificate is from an authority that is not trusted here: {NAME_IT}")
            }
            error if is_authority_itself(error) => {
                "it shows a certificate that it has signed itself, which is trusted only when it is named: give this \
                 very certificate to `Builder::trust` (--ca FILE)"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: the server needs a new one".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: is the clock of this machine right?".to_owned()
            }
            CertificateError::NotValidForName => not_for(host, &[]),
            CertificateError::NotValidForNameContext { presented, .. } => not_for(host, presented),
            other => format!("its certificate cannot be accepted: {other}"),
        }),
        rustls::Error::InvalidMessage(_) => None,
        other => Some(format!("no TLS connection came about: {other}")),
    }
}

/// Of a certificate for other names, each written as `DnsName("localhost")` or `IpAddress(127.0.0.1)`.
fn not_for(host: &str, presented: &[String]) -> String {
    let inside = |name: &String| {
        let from = name.find('(').map_or(0, |at| at + 1);
        name[from..].trim_end_matches(')').trim_matches('"').to_owned()
    };
    match presented {
        [] => format!("its certificate is not for {host}: use a name that it is for"),
        names => {
            let names: Vec<_> = names.iter().map(inside).collect();
            format!(
                "its certificate is not for {host}, but for {}: use that name in the URL",
                names.join(", ")
            )
        }
    }
}

/// Whether what answered is not TLS.
pub(crate) fn is_not_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(find(error), Some(rustls::Error::InvalidMessage(_)))
}

/// The error of TLS among the causes of another.
fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What is inside an error of input and output is not its source: that is the source of what is inside.
        cause = match error.downcast_ref().and_then(std::io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}
