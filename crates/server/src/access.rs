//! Who may come in, and how often.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use service::{Client, Severity};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::{Span, info, warn};
use wire::routes::{DOCS, HEALTH, OPENAPI, READY, is_model_name};

use crate::app::App;
use crate::body;
use crate::error::{ApiError, ServeError};
use crate::forwarded::Forwarding;
use crate::page;
use crate::rate::{RateLimit, Rates};
use crate::text;

/// The shortest secret: 16 random letters cannot be guessed over a network.
const MIN_SECRET: usize = 16;

/// A key that lets a client in. Only a digest of its secret is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    name: Option<Arc<str>>,
    digest: [u8; 32],
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({})", self.name.as_deref().unwrap_or("unnamed"))
    }
}

impl FromStr for ApiKey {
    type Err = String;

    /// `SECRET` or `NAME:SECRET`; the name is for the log. The error does not repeat the secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, secret) = match text.split_once(':') {
            Some((name, secret)) => (Some(name), secret),
            None => (None, text),
        };
        if name.is_some_and(|name| {
            name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }) {
            return Err(
                "the name of an API key must have only ASCII letters, digits, '.', '_' and '-'".to_owned()
            );
        }
        // What RFC 6750 lets a bearer token have.
        if !secret.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b)) {
            return Err("an API key must have only ASCII letters, digits and -._~+/=".to_owned());
        }
        if secret.len() < MIN_SECRET {
            return Err(format!(
                "an API key has {} characters, expected {MIN_SECRET} or more: `openssl rand -hex 24` makes a good one",
                secret.len()
            ));
        }
        Ok(Self { name: name.map(Arc::from), digest: digest(secret) })
    }
}

/// All digests are of one length, so that comparing them tells nothing, not even how long a secret is.
fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Who may come in.
#[derive(Clone, Debug, Default)]
pub struct AccessConfig {
    /// Keys that let a client in. Without any, here or in the file, everybody is let in.
    pub keys: Vec<ApiKey>,
    /// A file with more keys, one a line, `#` before comments. It is read again when it changes.
    pub key_file: Option<PathBuf>,
    /// How many requests for work a client may send: each key, or without keys each address.
    pub rate_limit: Option<RateLimit>,
    /// By which header of the proxy in front, which must write it, clients are told apart; `None` for the addresses of
    /// connections.
    pub forwarding: Option<Forwarding>,
    /// Origins whose pages browsers let call this server; `*` is every one. None by default.
    pub cors_origins: Vec<String>,
}

/// The doorkeeper.
pub(crate) struct Access {
    config: AccessConfig,
    keys: RwLock<Arc<[ApiKey]>>,
    rate: Option<Rates>,
}

impl Access {
    /// # Errors
    /// A key file that cannot be read, has a line that is no key, or has none.
    pub(crate) fn new(config: AccessConfig) -> Result<Self, ServeError> {
        let keys = RwLock::new(read_keys(&config)?);
        if let Some(odd) = config.cors_origins.iter().find(|origin| !is_origin(origin)) {
            return Err(ServeError::Config(format!(
                "{odd:?} is no origin of web pages, expected one such as https://example.org, or * for every one"
            )));
        }
        let rate = config.rate_limit.map(Rates::new);
        Ok(Self { config, keys, rate })
    }

    /// The file that [`Access::reload`] reads.
    pub(crate) fn key_file(&self) -> Option<&Path> {
        self.config.key_file.as_deref()
    }

    pub(crate) fn cors_origins(&self) -> &[String] {
        &self.config.cors_origins
    }

    /// Reads the key file again. From then on a key of the file counts only if the file has it: one that was removed
    /// opens nothing, be it by a file that is gone or that cannot be read.
    pub(crate) fn reload(&self) {
        let Some(path) = &self.config.key_file else { return };
        let mut keys = self.config.keys.clone();
        match read_file(path) {
            Ok(KeyFile { keys: more, mistakes }) => {
                keys.extend(more);
                for mistake in mistakes {
                    warn!("{} {mistake}: this line opens nothing", path.display());
                }
            }
            Err(error) => warn!("the API keys in {} count no more: {error}", path.display()),
        }
        match keys.len() {
            0 => warn!("no API key is left: every request is refused until {} has one", path.display()),
            keys => info!(keys, "API keys read again"),
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
    }

    /// Whether only those who have a key are let in.
    pub(crate) fn wants_keys(&self) -> bool {
        !self.config.keys.is_empty() || self.config.key_file.is_some()
    }

    /// Who asks, if he may.
    ///
    /// # Errors
    /// 401 without a key that is known, 429 for more requests than a client may send.
    fn admit(&self, request: &Request) -> Result<Client, ApiError> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let client = if self.wants_keys() { keyed(&keys, request)? } else { self.address(request) };
        if let (Some(rate), Some(limit), &Method::POST) =
            (&self.rate, self.config.rate_limit, request.method())
        {
            rate.count(client).map_err(|wait| {
                let message = format!(
                    "you have sent more requests than you may for now (--rate-limit {limit}): wait for as long as \
                     `Retry-After` says"
                );
                ApiError::too_many(message, wait).noted(Severity::Info)
            })?;
        }
        Ok(client)
    }

    fn address(&self, request: &Request) -> Client {
        let peer = request.extensions().get().copied().unwrap_or(Client::Unknown);
        self.config.forwarding.and_then(|header| header.client(request.headers())).unwrap_or(peer)
    }
}

/// Whether this is what browsers send as `Origin`: scheme, host and port, without a path.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    text == "*"
        || host
            .is_some_and(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/'))
}

/// What a key file says.
#[derive(Default)]
struct KeyFile {
    keys: Vec<ApiKey>,
    /// What is wrong with lines that are no keys.
    mistakes: Vec<String>,
}

fn read_file(path: &Path) -> std::io::Result<KeyFile> {
    let mut file = KeyFile::default();
    for (index, line) in text::read(path)?.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match line.parse() {
            Ok(key) => file.keys.push(key),
            Err(error) => file.mistakes.push(format!("line {}: {error}", index + 1)),
        }
    }
    Ok(file)
}

/// The keys at the start, when a mistake is told rather than lived with.
fn read_keys(config: &AccessConfig) -> Result<Arc<[ApiKey]>, ServeError> {
    let mut keys = config.keys.clone();
    if let Some(path) = &config.key_file {
        let wrong = |what: String| ServeError::Config(format!("the API keys in {}: {what}", path.display()));
        let file = read_file(path).map_err(|error| wrong(error.to_string()))?;
        if let Some(mistake) = file.mistakes.into_iter().next() {
            return Err(wrong(mistake));
        }
        keys.extend(file.keys);
        // Who names a file wants to let in only some.
        if keys.is_empty() {
            return Err(wrong("there is none".to_owned()));
        }
    }
    Ok(keys.into())
}

/// The client whose key the request has.
fn keyed(keys: &[ApiKey], request: &Request) -> Result<Client, ApiError> {
    let refuse = |message: &str| Err(ApiError::new(StatusCode::UNAUTHORIZED, message));
    let Some(secrets) = secrets(request.headers(), request.uri().query()) else {
        return refuse(
            "this server wants an API key: `Authorization: Bearer KEY`, https://user:KEY@host/, or ?api_key=KEY",
        );
    };
    let mut found = None;
    for secret in secrets {
        let digest = digest(&secret);
        // All keys are looked at, whichever fits.
        for key in keys {
            if bool::from(key.digest.ct_eq(&digest)) {
                found = Some(key);
            }
        }
    }
    let Some(key) = found else { return refuse("this API key is not known here") };
    if let Some(name) = &key.name {
        Span::current().record("key", name.as_ref());
    }
    let [a, b, c, d, e, f, g, h, ..] = key.digest;
    Ok(Client::Key(u64::from_le_bytes([a, b, c, d, e, f, g, h])))
}

/// What a request gives as its key, if anything. A URL may have it as its user or as its password.
fn secrets(headers: &HeaderMap, query: Option<&str>) -> Option<Vec<String>> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().unwrap_or_default();
        let (scheme, rest) = value.split_once(' ').unwrap_or_default();
        let basic = || {
            let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            Some(vec![password.to_owned(), user.to_owned()])
        };
        return Some(if scheme.eq_ignore_ascii_case("bearer") {
            vec![rest.trim().to_owned()]
        } else if scheme.eq_ignore_ascii_case("basic") {
            basic().unwrap_or_default()
        } else {
            Vec::new()
        });
    }
    let mut pairs = form_urlencoded::parse(query?.as_bytes());
    let (_, secret) = pairs.find(|(name, _)| name == "api_key")?;
    Some(vec![secret.into_owned()])
}

/// Whether everybody may ask for this: probes, the page (whose scripts then ask for the key) and what describes the API.
/// None of them knows anything of this server.
fn is_public(request: &Request) -> bool {
    let path = request.uri().path();
    let page = path.strip_suffix('/').unwrap_or(path);
    let is_of_model = || page.strip_prefix('/').is_some_and(is_model_name);
    matches!(*request.method(), Method::GET | Method::HEAD)
        && (["", HEALTH, READY, OPENAPI, DOCS].contains(&page)
            || path.starts_with("/page/")
            || is_of_model() && page::is_for_browser(request.headers()))
}

/// Lets a request in, or answers it.
pub(crate) async fn middleware(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if is_public(&request) {
        return next.run(request).await;
    }
    match app.access().admit(&request) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(error) => {
            let (head, body) = request.into_parts();
            body::discard(&head, Some(body));
            let is_unknown = error.status == StatusCode::UNAUTHORIZED;
            let mut response = error.into_response();
            if is_unknown {
                let basic = HeaderValue::from_static("Basic realm=\"remote-vae\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_and_never_shown() {
        let key: ApiKey = "alice:0123456789abcdef".parse().unwrap();
        assert_eq!(format!("{key:?}"), "ApiKey(alice)");
        assert_eq!(format!("{:?}", "0123456789abcdef".parse::<ApiKey>().unwrap()), "ApiKey(unnamed)");
        for wrong in [
            "",
            "short",
            "a b:0123456789abcdef",
            ":0123456789abcdef",
            "0123456789abcde\u{fc}",
            "a:0123456789abcd,f",
        ] {
            let error = wrong.parse::<ApiKey>().unwrap_err();
            assert!(!error.contains("0123"), "{error}");
        }
    }

    #[test]
    fn a_key_file_is_read_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let config = AccessConfig { key_file: Some(path.clone()), ..AccessConfig::default() };
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_keys(&config).map_err(|error| error.to_string())
        };
        let keys = read("# ours\nalice:0123456789abcdef # hers\n\n  fedcba9876543210  \n").unwrap();
        assert_eq!(format!("{keys:?}"), "[ApiKey(alice), ApiKey(unnamed)]");
        // As editors of Windows write it.
        let keys = read("\u{feff}alice:0123456789abcdef\r\nfedcba9876543210\r\n").unwrap();
        assert_eq!(format!("{keys:?}"), "[ApiKey(alice), ApiKey(unnamed)]");
        assert!(read("# nobody\n").unwrap_err().contains("there is none"));
        let error = read("0123456789abcdef\nsecret\n").unwrap_err();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(read_keys(&config).unwrap_err().to_string().contains("keys"));
    }
}
