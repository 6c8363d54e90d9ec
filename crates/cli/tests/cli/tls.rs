//! https, from the command line's end.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::program::{Serving, run, run_with, write_latents};

/// As `openssl req -x509` makes it for a server, an authority's in its own right or not.
fn certificate(is_ca: IsCa) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = is_ca;
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_certificate_of_ones_own_is_trusted_where_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let latents = write_latents(folder.path(), "a.safetensors", &["latents"]);
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images/rgb.png");
    for (is_ca, by_the_system) in
        [(IsCa::Ca(BasicConstraints::Unconstrained), false), (IsCa::ExplicitNoCa, true)]
    {
        let (cert, key) = certificate(is_ca);
        fs::write(path("cert.pem"), cert).unwrap();
        fs::write(path("key.pem"), key).unwrap();
        let (cert, key) = (path("cert.pem"), path("key.pem"));
        let server = Serving::start_encrypted(&["--tls-cert", &cert, "--tls-key", &key], &cert);
        let url = server.url.clone();
        assert!(
            url.starts_with("https://localhost:"),
            "the name that the certificate is for: {}",
            server.greeting
        );
        assert!(server.greeting.contains(&format!("remote_decode(\"{url}\"")), "{}", server.greeting);

        let decode = ["decode", &latents, "-o", &path("a.png"), "--endpoint", &url];
        run(&[&decode[..], &["--ca", &cert]].concat()).ok();
        run_with(&decode, &[("REMOTE_VAE_CA", &cert)]).ok();
        run(&["encode", photo, "-o", &path("a.npy"), "--endpoint", &url, "--ca", &cert]).ok();
        run(&["roundtrip", photo, "-o", &path("b.png"), "--endpoint", &url, "--ca", &cert]).ok();
        run(&["health", &url, "--ca", &cert]).ok();
        for arguments in [&decode[..], &["health", &url]] {
            run(arguments).fails(1, "--ca FILE");
            let by_variable = run_with(arguments, &[("SSL_CERT_FILE", &cert)]);
            if by_the_system { drop(by_variable.ok()) } else { by_variable.fails(1, "--ca FILE") }
        }
        let plain = url.replace("https:", "http:");
        run(&["health", &plain]).fails(1, &format!("speaks no http; try {url}"));
    }
}

#[test]
fn what_cannot_be_trusted_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "a.safetensors", &["latents"]);
    let decode =
        |url: &str, ca: &str| run(&["decode", &latents, "-o", "/dev/null", "--endpoint", url, "--ca", ca]);
    decode("https://localhost:9/", "missing.pem").fails(1, "cannot read missing.pem (--ca)");
    decode("https://localhost:9/", &latents).fails(2, "the certificates to trust cannot be used");
    decode("http://localhost:9/", "cert.pem").fails(2, "--ca is for https");
}
