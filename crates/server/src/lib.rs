//! The HTTP server of remote-vae: the wire protocol in front of models.
//!
//! A request goes this way: `connections` → `router` → `trace` and `access` → `handler` (read) → [`service`] (the rest) →
//! `respond`. Only `error` says which HTTP status a failure of the service has.
//!
//! [`Server::bind`] takes the port, [`Server::run`] loads the models and serves until it is told to stop.
#![forbid(unsafe_code)]
// What arrives here is untrusted input: nothing in it may end the process.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod access;
mod alarm;
mod app;
mod body;
mod connections;
mod cors;
mod deadline;
mod error;
mod exposition;
mod forwarded;
mod handler;
mod idle;
mod metrics;
mod openapi;
mod page;
mod preview;
mod rate;
mod respond;
mod router;
mod serve;
mod socket;
mod spans;
mod stream;
#[cfg(test)]
mod tests;
mod text;
#[cfg(feature = "tls")]
mod tls;
mod trace;
mod watch;

use std::time::Duration;

pub use access::{AccessConfig, ApiKey};
pub use error::ServeError;
pub use forwarded::Forwarding;
pub use rate::RateLimit;
pub use serve::{Reload, Server};
pub use service::{Load, Model, OnLarge};
#[cfg(feature = "tls")]
pub use tls::TlsConfig;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name or address to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// One more port, without TLS, for probes and figures alone; they have connections of their own there.
    pub admin_port: Option<u16>,
    /// Who may come in.
    pub access: AccessConfig,
    /// The certificate for TLS; without one, connections are not encrypted.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsConfig>,
    /// How much the models take on.
    pub service: service::Config,
    /// Connections that may be open together; more wait to be accepted.
    pub max_connections: usize,
    /// Connections that may be open from one address; one more is refused. `None` is a quarter of all, or all of them
    /// where a proxy in front of the server tells who its clients are.
    pub max_connections_per_client: Option<usize>,
    /// How long a connection may be idle between two requests.
    pub keep_alive: Duration,
    /// How long a request may take, from its head to the last step of its work. Clients may ask for less.
    pub timeout: Duration,
    /// How long a client may take to send the head of a request.
    pub header_timeout: Duration,
    /// How long a client may take to send the body of a request.
    pub body_timeout: Duration,
    /// How long a client may take for each mebibyte of its answer before the connection is closed.
    pub write_timeout: Duration,
    /// How long work is still taken once the server was told to stop, while `/ready` says so already.
    pub drain_delay: Duration,
    /// How long accepted requests may take to be finished once the server was told to stop.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            admin_port: None,
            access: AccessConfig::default(),
            #[cfg(feature = "tls")]
            tls: None,
            service: service::Config::default(),
            max_connections: 1024,
            max_connections_per_client: None,
            keep_alive: Duration::from_secs(75),
            timeout: Duration::from_secs(3600),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(300),
        }
    }
}
