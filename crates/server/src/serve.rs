//! The life of the server: take the port, load the models, accept connections, stop in good order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::alarm;
use crate::app::App;
use crate::client::Client;
use crate::error::ServeError;
use crate::router::router;
use crate::socket::Socket;
use crate::stream::{Stream, Transport};
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::watch::Watched;
use crate::{Config, Model};

/// How often a server that is being stopped looks whether it is done.
const DRAIN_TICK: Duration = Duration::from_millis(50);

/// How often files that may change are looked at.
const FILES_TICK: Duration = Duration::from_secs(5);

/// Pause after the system could not hand over a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Bytes that a connection keeps at most of what it has read or is to write. No head can be longer.
const MAX_BUFFER: usize = 128 << 10;

/// A server that has its port.
pub struct Server {
    config: Config,
    listener: TcpListener,
    local_addr: SocketAddr,
    app: App,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Checks the configuration and takes the port. The first of `models` is the default one.
    ///
    /// # Errors
    /// No model, a name that cannot stand in a URL or is there twice, or a port that cannot be had.
    pub async fn bind(config: Config, models: Vec<Model>) -> Result<Self, ServeError> {
        let app = App::new(&config, models)?;
        #[cfg(feature = "tls")]
        let tls = config.tls.clone().map(|files| Tls::new(files).map(Arc::new)).transpose()?;
        let bind_error = |source| ServeError::Bind { host: config.host.clone(), port: config.port, source };
        let listener = TcpListener::bind((config.host.as_str(), config.port)).await.map_err(bind_error)?;
        let local_addr = listener.local_addr().map_err(bind_error)?;
        Ok(Self {
            listener,
            local_addr,
            app,
            config,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// The address that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers `/health` at once, loads the models, and serves until `shutdown` is there. Then `/ready` says 503, new
    /// work is refused, and the requests that were accepted are answered, in [`Config::drain_timeout`] at most.
    ///
    /// # Errors
    /// A model that cannot be loaded or does not work.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let Self { config, listener, local_addr, app, .. } = self;
        let mut executor = app.executor().spawn()?;
        info!(address = %local_addr, "listening");

        let connections = Connections::new(&config, &app);
        #[cfg(feature = "tls")]
        let connections = Connections { tls: self.tls, ..connections };
        tokio::select! {
            () = shutdown => {}
            () = connections.follow_files(&app) => {}
            () = alarm::watch(&app) => {}
            () = connections.accept(&listener) => {}
            // The executor ends by itself only when a model does not load, or by a bug.
            end = &mut executor => return executor_end(end),
        }
        info!("stopping: accepted requests are finished first");
        app.drain();
        let drained = async {
            // Whoever asks meanwhile is told that the server stops, and probes see it.
            tokio::select! {
                () = connections.accept(&listener) => {}
                () = nothing_to_do(&app) => {}
            }
            drop(listener);
            connections.graceful.shutdown().await;
        };
        let done = tokio::select! {
            done = timeout(config.drain_timeout, drained) => done.is_ok(),
            end = &mut executor => return executor_end(end),
        };
        app.executor().close();
        if !done {
            warn!(requests = app.in_flight(), "the time to stop is over: what is not finished is cut off");
            return Ok(());
        }
        // A model that is still being loaded is not waited for: nobody asked it anything.
        if app.executor().is_ready() { executor_end(executor.await) } else { Ok(()) }
    }
}

/// Ready when no request is worked on any more; answers may still be on their way.
async fn nothing_to_do(app: &App) {
    while app.in_flight() > 0 {
        sleep(DRAIN_TICK).await;
    }
}

fn executor_end(end: Result<Result<(), ServeError>, oneshot::error::RecvError>) -> Result<(), ServeError> {
    end.unwrap_or_else(|_| Err(ServeError::Executor("it panicked".to_owned())))
}

/// The open connections.
struct Connections {
    http: http1::Builder,
    service: TowerToHyperService<axum::Router>,
    graceful: GracefulShutdown,
    places: Arc<Semaphore>,
    #[cfg(feature = "tls")]
    header_timeout: Duration,
    write_timeout: Duration,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

impl Connections {
    fn new(config: &Config, app: &App) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(config.header_timeout);
        // Whether a client that has closed its side still reads its answer is asked of the socket.
        http.half_close(true);
        // A head may fill it, and there may be very many connections.
        http.max_buf_size(MAX_BUFFER);
        Self {
            http,
            service: TowerToHyperService::new(router(app.clone())),
            graceful: GracefulShutdown::new(),
            #[cfg(feature = "tls")]
            header_timeout: config.header_timeout,
            write_timeout: config.write_timeout,
            #[cfg(feature = "tls")]
            tls: None,
            places: Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }

    /// Accepts connections for ever.
    async fn accept(&self, listener: &TcpListener) {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    warn!(%error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let socket = Socket::new(stream);
            let (http, service) = (self.http.clone(), self.service.clone());
            let (watcher, write_timeout) = (self.graceful.watcher(), self.write_timeout);
            let transport = self.transport(socket.clone());
            let is_plain = self.is_plain();
            tokio::spawn(async move {
                let Some(transport) = transport.await else { return };
                let client = Client::at(address.ip());
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(client);
                    // HTTP/1.0 knows no answer before the answer.
                    let may_probe = is_plain && request.version() == Version::HTTP_11;
                    let (answer, socket) = (service.call(request), socket.clone());
                    async move {
                        tokio::select! {
                            biased;
                            answer = answer => answer.map_err(|never| match never {}),
                            // The work for the request ends with the future that waits for it.
                            () = socket.left(may_probe) => Err(Left),
                        }
                    }
                });
                let stream = TokioIo::new(Stream::new(transport, write_timeout));
                if let Err(error) = watcher.watch(http.serve_connection(stream, service)).await {
                    debug!(%error, "a connection broke");
                }
                drop(place);
            });
        }
    }

    /// The connection itself, or with TLS what comes out of it; `None` if the client does not manage that.
    #[cfg_attr(
        not(feature = "tls"),
        allow(clippy::unused_self, clippy::manual_async_fn, reason = "TLS is a feature")
    )]
    fn transport(&self, socket: Socket) -> impl Future<Output = Option<Box<dyn Transport>>> + Send + 'static {
        #[cfg(feature = "tls")]
        let (acceptor, time) = (self.tls.as_ref().map(|tls| tls.acceptor()), self.header_timeout);
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

    /// Reads keys and certificates again whenever their files change, for ever.
    async fn follow_files(&self, app: &App) {
        let mut keys = Watched::new(app.access().key_file());
        #[cfg(feature = "tls")]
        let mut certificates =
            self.tls.iter().map(|tls| (tls, Watched::new([&tls.files().cert, &tls.files().key]))).next();
        loop {
            sleep(FILES_TICK).await;
            if keys.have_changed() {
                app.access().reload();
            }
            #[cfg(feature = "tls")]
            if let Some((tls, files)) = &mut certificates
                && files.have_changed()
            {
                tls.reload();
            }
        }
    }
}

/// The client has left before its answer.
#[derive(Debug, thiserror::Error)]
#[error("the client has left")]
struct Left;

/// Whether an error of `accept` tells of one connection that ended before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
