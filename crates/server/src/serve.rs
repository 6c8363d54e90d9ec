//! The life of the server: take the ports, load the models, accept connections, stop in good order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use service::{Model, StartError};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::Config;
use crate::alarm;
use crate::app::App;
use crate::connections::Connections;
use crate::error::ServeError;
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::watch::Watched;

/// How often a server that is being stopped looks whether it is done.
const DRAIN_TICK: Duration = Duration::from_millis(50);

/// How often files that may change are looked at.
const FILES_TICK: Duration = Duration::from_secs(5);

/// A server that has its ports.
pub struct Server {
    config: Config,
    listener: TcpListener,
    local_addr: SocketAddr,
    admin: Option<TcpListener>,
    app: App,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Checks the configuration and takes the ports. The first of `models` is the default one.
    ///
    /// # Errors
    /// No model, a name that cannot stand in a URL or is there twice, or a port that cannot be had.
    pub async fn bind(config: Config, models: Vec<Model>) -> Result<Self, ServeError> {
        let app = App::new(&config, models)?;
        #[cfg(feature = "tls")]
        let tls = config.tls.clone().map(|files| Tls::new(files).map(Arc::new)).transpose()?;
        let listener = listen(&config.host, config.port).await?;
        let local_addr = listener.local_addr().map_err(|source| ServeError::Bind {
            host: config.host.clone(),
            port: config.port,
            source,
        })?;
        let admin = match config.admin_port {
            Some(port) if port != 0 && port == local_addr.port() => {
                return Err(ServeError::Config(format!(
                    "--admin-port is {port}, and so is --port: give the probes a port of their own"
                )));
            }
            Some(port) => Some(listen(&config.host, port).await?),
            None => None,
        };
        Ok(Self {
            listener,
            local_addr,
            admin,
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

    /// The address for probes and figures alone, if there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Waits until `/ready` says so for the first time.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let app = self.app.clone();
        async move { app.service().until_ready().await }
    }

    /// Reads files again while the server runs.
    pub fn reload(&self) -> Reload {
        Reload {
            app: self.app.clone(),
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
        }
    }

    /// Answers `/health` at once, loads the models, and serves until `shutdown` is there. Then `/ready` says 503; work is
    /// taken for [`Config::drain_delay`] yet, after that new work is refused, and the requests that were accepted are
    /// answered, in [`Config::drain_timeout`] at most.
    ///
    /// # Errors
    /// A model that cannot be loaded or does not work.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let (reload, admin_addr) = (self.reload(), self.admin_addr());
        let Self { config, listener, local_addr, admin, app, .. } = self;
        let mut workers = app.service().start()?;
        info!(address = %local_addr, admin = admin_addr.map(tracing::field::display), "listening");

        let connections = Connections::new(&config, &app);
        #[cfg(feature = "tls")]
        let connections = connections.encrypted(reload.tls.clone());
        let probes = async {
            match &admin {
                Some(listener) => Connections::admin(&config, &app).accept(listener).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(probes);
        tokio::select! {
            () = shutdown => {}
            () = reload.follow() => {}
            () = alarm::watch(&app) => {}
            () = connections.accept(&listener) => {}
            () = &mut probes => {}
            // The workers end by themselves only when a model does not load, or by a bug.
            end = &mut workers => return workers_end(end),
        }
        app.leave();
        if !config.drain_delay.is_zero() {
            info!(
                seconds = config.drain_delay.as_secs_f64(),
                "stopping: /ready says so, and work is still taken"
            );
            tokio::select! {
                () = sleep(config.drain_delay) => {}
                () = connections.accept(&listener) => {}
                () = &mut probes => {}
                end = &mut workers => return workers_end(end),
            }
        }
        app.drain();
        let until = Instant::now() + config.drain_timeout;
        match app.in_flight() {
            0 => info!("stopping: no request is being worked on"),
            requests => info!(
                "stopping: {requests} request{} finished first, for at most {:?} (--drain-timeout); a second Ctrl-C ends it \
                 at once",
                if requests == 1 { " is" } else { "s are" },
                config.drain_timeout
            ),
        }
        let drained = async {
            // Whoever asks meanwhile is told that the server stops, and probes see it.
            tokio::select! {
                () = connections.accept(&listener) => {}
                () = nothing_to_do(&app) => {}
            }
            drop(listener);
            connections.shutdown().await;
        };
        let done = tokio::select! {
            done = timeout_at(until, drained) => done.is_ok(),
            () = &mut probes => false,
            end = &mut workers => return workers_end(end),
        };
        if !done {
            app.service().stop();
            warn!(
                requests = app.in_flight(),
                "stopped: the time for it is over (--drain-timeout), and what is not finished is cut off"
            );
            return Ok(());
        }
        info!("stopped: every accepted request is answered");
        app.service().close();
        if !app.service().is_ready() {
            // A model that is still being loaded is not waited for: no request needs it.
            return Ok(());
        }
        // Work that nobody waits for any more may take a while to notice.
        match timeout_at(until, workers).await {
            Ok(end) => workers_end(end),
            Err(_) => Ok(()),
        }
    }
}

async fn listen(host: &str, port: u16) -> Result<TcpListener, ServeError> {
    let error = |source| ServeError::Bind { host: host.to_owned(), port, source };
    TcpListener::bind((host, port)).await.map_err(error)
}

/// Reads keys and certificates again.
#[derive(Clone)]
pub struct Reload {
    app: App,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

impl Reload {
    /// Reads them now, whether they have changed or not.
    pub fn now(&self) {
        self.app.access().reload();
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// Reads them whenever their files change, for ever.
    async fn follow(&self) {
        let mut keys = Watched::new(self.app.access().key_file());
        #[cfg(feature = "tls")]
        let mut certificates =
            self.tls.iter().map(|tls| (tls, Watched::new([&tls.files().cert, &tls.files().key]))).next();
        loop {
            sleep(FILES_TICK).await;
            if keys.have_changed() {
                self.app.access().reload();
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

/// Ready when no request is worked on any more; answers may still be on their way.
async fn nothing_to_do(app: &App) {
    while app.in_flight() > 0 {
        sleep(DRAIN_TICK).await;
    }
}

/// How the threads that run the models ended.
fn workers_end(
    end: Result<Result<(), Arc<StartError>>, oneshot::error::RecvError>,
) -> Result<(), ServeError> {
    end.unwrap_or_else(|_| Err(Arc::new(StartError::Worker("it panicked".to_owned()))))
        .map_err(ServeError::Service)
}
