//! The open connections: how many there may be, in all and from one client, and how each is served.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Request, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use service::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use wire::ErrorBody;

use crate::Config;
use crate::app::App;
use crate::idle::{During, Exchanges, Idle};
use crate::socket::Socket;
use crate::stream::{Stream, Transport};
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// Pause after the system could not hand over a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Bytes that a connection keeps at most of what it has read or is to write. No head can be longer.
const MAX_BUFFER: usize = 128 << 10;

/// Longer than any connection is kept.
const UNLIMITED: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often the log says that a limit of connections is reached.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Connections that may be open at the port for probes, in all and from one client, and the time for a head there.
const ADMIN_CONNECTIONS: usize = 64;
const ADMIN_CONNECTIONS_PER_CLIENT: usize = 16;
const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that are being refused at a time. Without a moment to read the refusal, a client sees a reset only.
const REFUSALS: usize = 32;
const REFUSAL_TIME: Duration = Duration::from_millis(250);

/// How many connections there may be, and for how long they may do nothing.
#[derive(Clone, Copy)]
struct Limits {
    all: usize,
    per_client: usize,
    header_timeout: Duration,
    write_timeout: Duration,
    keep_alive: Duration,
}

/// The open connections.
pub(crate) struct Connections {
    http: http1::Builder,
    service: TowerToHyperService<axum::Router>,
    app: App,
    graceful: GracefulShutdown,
    limits: Limits,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    clients: Clients,
    all_taken: Seldom,
    many_of_one: Seldom,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

impl Connections {
    /// Those of clients.
    pub(crate) fn new(config: &Config, app: &App) -> Self {
        let all = config.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        // What comes from a proxy comes from one address.
        let share = if config.access.forwarding.is_some() { all } else { (all / 4).max(1) };
        let limits = Limits {
            all,
            per_client: config.max_connections_per_client.unwrap_or(share).clamp(1, all),
            header_timeout: config.header_timeout,
            write_timeout: config.write_timeout,
            keep_alive: config.keep_alive,
        };
        Self::with(limits, crate::router::router(app.clone()), app)
    }

    /// Those for probes and figures, which no client's connections keep out.
    pub(crate) fn admin(config: &Config, app: &App) -> Self {
        let limits = Limits {
            all: ADMIN_CONNECTIONS,
            per_client: ADMIN_CONNECTIONS_PER_CLIENT,
            header_timeout: ADMIN_HEADER_TIMEOUT,
            write_timeout: config.write_timeout,
            keep_alive: config.keep_alive,
        };
        Self::with(limits, crate::router::admin(app.clone()), app)
    }

    /// The same under TLS, if there is a certificate.
    #[cfg(feature = "tls")]
    pub(crate) fn encrypted(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    fn with(limits: Limits, router: axum::Router, app: &App) -> Self {
        let mut http = http1::Builder::new();
        // `Idle` counts the time. It must be looked at when a connection gets idle, which hyper does for a limit of its own.
        http.timer(TokioTimer::new()).header_read_timeout(UNLIMITED);
        // Whether a client that has closed its side still reads its answer is asked of the socket.
        http.half_close(true);
        // A head may fill it, and there may be very many connections.
        http.max_buf_size(MAX_BUFFER);
        Self {
            http,
            service: TowerToHyperService::new(router),
            app: app.clone(),
            graceful: GracefulShutdown::new(),
            limits,
            places: Arc::new(Semaphore::new(limits.all)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            clients: Clients::default(),
            all_taken: Seldom::default(),
            many_of_one: Seldom::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Accepts connections for ever.
    pub(crate) async fn accept(&self, listener: &TcpListener) {
        loop {
            let Some(place) = self.place().await else { return };
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    warn!(%error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (socket, client) = (Socket::new(stream), Client::at(address.ip()));
            match self.clients.enter(client, self.limits.per_client) {
                Some(own) => self.serve(socket, client, (place, own)),
                None => self.refuse(socket),
            }
        }
    }

    /// A place for one more connection; waits for one if it must.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        if self.all_taken.is_due() {
            let all = self.limits.all;
            warn!("all {all} connections are taken, and more wait: --max-connections allows others");
        }
        // The semaphore is never closed.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Serves a connection, which holds its places until it ends.
    fn serve(&self, socket: Socket, client: Client, places: (OwnedSemaphorePermit, Place)) {
        let (http, service, app) = (self.http.clone(), self.service.clone(), self.app.clone());
        let (watcher, limits) = (self.graceful.watcher(), self.limits);
        let (transport, is_plain) = (self.transport(socket.clone()), self.is_plain());
        tokio::spawn(async move {
            let Some(transport) = transport.await else { return };
            let exchanges = Exchanges::default();
            let idle = Idle::new(exchanges.clone(), limits.keep_alive, limits.header_timeout);
            let service = service_fn(move |request: Request<Incoming>| {
                let open = exchanges.begin();
                let mut request = request.map(|body| During::new(body, open.clone()));
                request.extensions_mut().insert(client);
                // HTTP/1.0 knows no answer before the answer.
                let may_probe = is_plain && request.version() == Version::HTTP_11;
                let (answer, socket, app) = (service.call(request), socket.clone(), app.clone());
                async move {
                    let mut response = tokio::select! {
                        biased;
                        answer = answer => answer.unwrap_or_else(|never| match never {}),
                        // The work for the request ends with the future that waits for it.
                        () = socket.left(may_probe) => return Err(Left),
                    };
                    // The client's next request shall find another server.
                    if app.is_stopping() {
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok(response.map(|body| During::new(body, open)))
                }
            });
            let stream = TokioIo::new(Stream::new(transport, limits.write_timeout, idle));
            if let Err(error) = watcher.watch(http.serve_connection(stream, service)).await {
                debug!(%error, "a connection broke");
            }
            drop(places);
        });
    }

    /// Tells a client that it has too many connections, if it can be told.
    fn refuse(&self, mut stream: Socket) {
        let limit = self.limits.per_client;
        if self.many_of_one.is_due() {
            warn!(
                "a client has {limit} connections open, and more are refused: --max-connections-per-client allows \
                 others"
            );
        }
        if !self.is_plain() {
            return;
        }
        let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let answer = refusal(limit);
        tokio::spawn(async move {
            let telling = async {
                stream.write_all(&answer).await?;
                stream.shutdown().await?;
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            };
            // Who does not listen misses it.
            let _ = timeout(REFUSAL_TIME, telling).await;
            drop(place);
        });
    }

    /// Lets idle connections go, and waits for the others.
    pub(crate) async fn shutdown(self) {
        self.graceful.shutdown().await;
    }

    /// The connection itself, or with TLS what comes out of it; `None` if the client does not manage that.
    #[cfg_attr(
        not(feature = "tls"),
        allow(clippy::unused_self, clippy::manual_async_fn, reason = "TLS is a feature")
    )]
    fn transport(&self, socket: Socket) -> impl Future<Output = Option<Box<dyn Transport>>> + Send + 'static {
        #[cfg(feature = "tls")]
        let (acceptor, time) = (self.tls.as_ref().map(|tls| tls.acceptor()), self.limits.header_timeout);
        async move {
            #[cfg(feature = "tls")]
            if let Some(acceptor) = acceptor {
                return match timeout(time, acceptor.accept(socket)).await {
                    Ok(Ok(stream)) => Some(Box::new(stream) as Box<dyn Transport>),
                    Ok(Err(error)) => {
                        debug!(%error, "a client does not manage TLS");
                        None
                    }
                    Err(_) => None,
                };
            }
            Some(Box::new(socket) as Box<dyn Transport>)
        }
    }

    /// Whether connections are not encrypted.
    #[cfg_attr(not(feature = "tls"), allow(clippy::unused_self, reason = "TLS is a feature"))]
    fn is_plain(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_none();
        #[cfg(not(feature = "tls"))]
        true
    }
}

/// The client has left before its answer.
#[derive(Debug, thiserror::Error)]
#[error("the client has left")]
struct Left;

/// The answer to a connection beyond the limit.
fn refusal(limit: usize) -> Vec<u8> {
    let error = format!(
        "{limit} connections of your address are open, as many as it may have (--max-connections-per-client): close some, \
         or send several requests over one"
    );
    let json = ErrorBody { error }.to_json();
    format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: {}\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{json}",
        wire::JSON,
        json.len()
    )
    .into_bytes()
}

/// How many connections each client has.
#[derive(Clone, Default)]
struct Clients(Arc<Mutex<HashMap<Client, usize>>>);

/// One of a client's connections.
struct Place {
    clients: Clients,
    client: Client,
}

impl Clients {
    /// One more connection of a client, unless it has `limit` of them.
    fn enter(&self, client: Client, limit: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { clients: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// What is said now and then, however often there is cause.
struct Seldom {
    start: Instant,
    /// Milliseconds after `start` at which it may be said again.
    next: AtomicU64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self { start: Instant::now(), next: AtomicU64::new(0) }
    }
}

impl Seldom {
    fn is_due(&self) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        let later = now.saturating_add(u64::try_from(SAY_EVERY.as_millis()).unwrap_or(u64::MAX));
        now >= next && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Whether an error of `accept` tells of one connection that ended before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_places() {
        let clients = Clients::default();
        let client = |last: u8| Client::at([10, 0, 0, last].into());
        let (first, second) = (clients.enter(client(1), 2).unwrap(), clients.enter(client(1), 2).unwrap());
        assert!(clients.enter(client(1), 2).is_none());
        assert!(clients.enter(client(2), 2).is_some());
        drop(first);
        assert!(clients.enter(client(1), 2).is_some());
        drop(second);
        assert!(clients.0.lock().unwrap().is_empty(), "who has left is forgotten");
    }
}
