//! How to reach a remote VAE.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::balance::Balance;
use crate::endpoint::Endpoint;
use crate::exchange::{Connection, OnRetry, OnWarning};
#[cfg(feature = "tls")]
use crate::trust;
use crate::{Error, RemoteVae, Retry, error};

/// How long to wait for a connection when nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for an answer when nothing else is said: a large decode may wait behind others.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How to reach a remote VAE; made by [`RemoteVae::builder`].
#[derive(Clone)]
pub struct Builder {
    endpoints: Vec<String>,
    connect_timeout: Duration,
    timeout: Duration,
    retry: Retry,
    api_key: Option<String>,
    #[cfg(feature = "tls")]
    trusted: Option<Vec<u8>>,
    on_retry: Option<OnRetry>,
    on_warning: Option<OnWarning>,
}

impl Builder {
    pub(crate) fn new(endpoint: &str) -> Self {
        Self {
            endpoints: vec![endpoint.to_owned()],
            connect_timeout: CONNECT_TIMEOUT,
            timeout: TIMEOUT,
            retry: Retry::default(),
            api_key: None,
            #[cfg(feature = "tls")]
            trusted: None,
            on_retry: None,
            on_warning: None,
        }
    }

    /// One more server with the same model. Each request goes to the one that has the fewest requests of this client;
    /// one that cannot be reached is left out for a while, and its requests go to the others.
    pub fn endpoint(mut self, endpoint: &str) -> Self {
        self.endpoints.push(endpoint.to_owned());
        self
    }

    /// How long to wait for a connection; 10 seconds when not set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one try of a request may take, from the first byte sent to the last byte read; 5 minutes when not set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What to do when an endpoint cannot be reached or has no place; see [`Retry`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// A key for the server, sent as `Authorization: Bearer KEY` to each endpoint whose URL has no user of its own.
    pub fn api_key(mut self, key: &str) -> Self {
        self.api_key = Some(key.to_owned());
        self
    }

    /// The certificates of https to trust, one or more as PEM, instead of those that the system trusts: of authorities, or
    /// the very certificate that the server shows.
    #[cfg(feature = "tls")]
    pub fn trust(mut self, pem: &[u8]) -> Self {
        self.trusted = Some(pem.to_vec());
        self
    }

    /// Called before each pause, with what went wrong and how long the pause is: for a log.
    pub fn on_retry(mut self, notice: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(Arc::new(notice));
        self
    }

    /// Called with each sentence that a server says of a request that it answered all the same (`x-warning`), such as a
    /// parameter whose name is nearly a known one.
    pub fn on_warning(mut self, notice: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_warning = Some(Arc::new(notice));
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when an endpoint is no URL that this client can use, [`Error::Options`] when the key
    /// cannot be sent, or there is no certificate in what is to be trusted.
    pub fn build(self) -> Result<RemoteVae, Error> {
        let connections: Arc<[_]> =
            self.endpoints.iter().map(|text| self.connection(text)).collect::<Result<_, _>>()?;
        let balance = Arc::new(Balance::new(connections.len()));
        let Self { retry, on_retry, on_warning, .. } = self;
        Ok(RemoteVae { connections, balance, retry, on_retry, on_warning })
    }

    fn connection(&self, endpoint: &str) -> Result<Connection, Error> {
        let endpoint = Endpoint::parse(endpoint)?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("remote-vae/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .timeout(self.timeout)
            // Most redirects turn a POST into a GET without a body. The error names the new address instead.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(key) = self.api_key.as_ref().filter(|_| !endpoint.has_user()) {
            http = http.default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer(key)?)]));
        }
        if endpoint.is_loopback() {
            // What HTTP_PROXY says is never meant for this machine.
            http = http.no_proxy();
        }
        #[cfg(feature = "tls")]
        {
            trust::install_provider();
            let trusted = self.trusted.as_deref().map(trust::only).transpose()?;
            http = match trusted {
                // Without this, a system that has no certificates installed could not even speak http.
                _ if !endpoint.is_https() => http.tls_certs_only([]),
                Some(config) => http.tls_backend_preconfigured(config),
                None => http,
            };
        }
        let http = http.build().map_err(|error| Error::endpoint(&endpoint, error::innermost(&error)))?;
        Ok(Connection { http, endpoint })
    }
}

impl std::fmt::Debug for Builder {
    /// Without what may hold a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// The value of `Authorization`, which no log shows.
fn bearer(key: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| {
        Error::Options(
            "the API key has characters that cannot be sent: a key is of printable ASCII characters"
                .to_owned(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}
