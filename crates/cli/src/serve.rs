//! `remote-vae serve`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, bail};
use clap::builder::styling::Style;
use server::{Config, Model, ServeError, Server};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::warn;
use vae::VaeInfo;
use vae::engine::cpu::CpuEngine;

use crate::args::ServeArgs;
use crate::source::ModelArg;

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    let (loaded, to_come) = unbounded_channel();
    let engine = args.engine.engine()?;
    let models = args
        .models
        .iter()
        .flat_map(|models| &models.0)
        .map(|model| served(model, engine.clone(), loaded.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let config = args.limits.apply(Config {
        host: args.host,
        port: args.port,
        lazy: args.lazy,
        access: args.doors.access(),
        #[cfg(feature = "tls")]
        tls: args.doors.tls(),
        ..Config::default()
    });
    let (doors, lazy) = (args.doors, args.lazy);
    let names: Vec<_> = models.iter().map(|model| model.name.clone()).collect();

    let runtime = tokio::runtime::Runtime::new().context("cannot start the event loop")?;
    let result = runtime.block_on(async {
        let server = match Server::bind(config, models).await {
            Err(error @ ServeError::Bind { .. }) if is_taken(&error) => {
                bail!("{error}; stop the program that listens there, or choose another --port")
            }
            server => server?,
        };
        let address = server.local_addr();
        if doors.is_open() && !address.ip().is_loopback() {
            warn!(
                "anybody who reaches {address} can use this server: --api-key-file lets in only who has a key"
            );
        }
        let mut url = url(address);
        if doors.is_encrypted() {
            url = url.replacen("http:", "https:", 1);
        }
        if lazy {
            say!(
                "remote-vae {} on {url}; models are loaded when they are asked for",
                env!("CARGO_PKG_VERSION")
            );
        } else {
            tokio::spawn(greet(url, to_come, names));
        }
        server.run(stop_signal()?).await?;
        Ok(())
    });
    // What the server has left behind when its time to stop was over is not waited for.
    runtime.shutdown_background();
    result
}

/// A model that has been loaded.
pub(crate) struct Loaded {
    name: String,
    pub(crate) info: VaeInfo,
}

/// What the server needs to serve `model`; `loaded` hears of it when it is there.
pub(crate) fn served(
    model: &ModelArg,
    engine: CpuEngine,
    loaded: UnboundedSender<Loaded>,
) -> anyhow::Result<Model> {
    let name = model.name()?;
    let source = model.source.clone();
    Ok(Model {
        name: name.clone(),
        source: source.to_string(),
        origin: source.origin(),
        license: source.license(),
        example: source.example(),
        load: Box::new(move || {
            let vae = source.clone().load(engine.clone())?;
            let (name, info) = (name.clone(), vae.info().clone());
            // Nobody may be listening any more, and that is fine.
            let _ = loaded.send(Loaded { name, info });
            Ok(vae)
        }),
    })
}

/// Tells a person at a terminal what there is and how to use it, once all models are there.
async fn greet(url: String, mut to_come: UnboundedReceiver<Loaded>, names: Vec<String>) {
    let mut models = Vec::with_capacity(names.len());
    while models.len() < names.len() {
        match to_come.recv().await {
            Some(model) => models.push(model),
            // One could not be loaded, and the server says so.
            None => return,
        }
    }
    // They come as they get ready; the first one named is the default.
    models.sort_by_key(|model| names.iter().position(|name| *name == model.name));
    let bold = Style::new().bold();
    say!("{bold}remote-vae {}{bold:#} on {bold}{url}{bold:#}", env!("CARGO_PKG_VERSION"));
    for (index, Loaded { name, info }) in models.iter().enumerate() {
        let default = if index == 0 { " and /" } else { "" };
        say!(
            "  at /{name}{default}: {} with {} latent channels, on {}",
            info.class_name,
            info.latent_channels,
            info.engine
        );
    }
    if let Some(Loaded { info, .. }) = models.first() {
        let call = snippet(&url, "latents", info);
        say!("\nFrom Python, with diffusers:\n\n    {IMPORT}\n    image = {call}\n\nStop with Ctrl-C.");
    }
}

/// Python that decodes `latents`, an expression, with the model at `url`.
pub(crate) fn snippet(url: &str, latents: &str, info: &VaeInfo) -> String {
    let shift = info.shift_factor.map(|shift| format!(", shift_factor={shift}")).unwrap_or_default();
    format!("remote_decode(\"{url}\", {latents}, scaling_factor={}{shift})", info.scaling_factor)
}

/// The line of Python that must come before a [`snippet`].
pub(crate) const IMPORT: &str = "from diffusers.utils.remote_utils import remote_decode";

/// The address for people: one that can be opened on this machine.
pub(crate) fn url(mut address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{address}/")
}

/// Whether a port could not be had because somebody else has it.
fn is_taken(error: &ServeError) -> bool {
    matches!(error, ServeError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
}

/// Ready when the process is asked to stop: Ctrl-C, or on Unix SIGTERM. A second time ends it at once.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            anstream::eprintln!("stopped at once; requests were cut off");
            std::process::exit(130);
        });
    })
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_for_people() {
        for (address, expected) in [
            ("127.0.0.1:80", "http://127.0.0.1:80/"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080/"),
            ("[::]:8080", "http://[::1]:8080/"),
            ("10.1.2.3:1", "http://10.1.2.3:1/"),
        ] {
            assert_eq!(url(address.parse().unwrap()), expected);
        }
    }
}
