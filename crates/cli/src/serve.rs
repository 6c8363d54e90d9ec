//! `remote-vae serve`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::builder::styling::Style;
use clap::parser::ValueSource;
use clap::{ArgMatches, ValueHint};
use server::{Config, Model, ServeError, Server};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::warn;
use vae::engine::cpu::CpuEngine;
use vae::{LoadMode, VaeInfo};

use crate::args::doors::DoorArgs;
use crate::args::engine::EngineArgs;
use crate::args::limits::LimitArgs;
use crate::source::{ModelArg, ModelArgs};

/// Serve models over HTTP
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The first model answers at /, and each one at /NAME. Ctrl-C and SIGTERM stop the server \
    when the requests that it has accepted are answered.\n\nExamples:\n  \
    remote-vae serve\n      \
      the embedded demonstration model\n  \
    remote-vae serve sdxl flux=./ae.safetensors\n      \
      two models: sdxl, from the hub, at / and /sdxl; flux, from a file, at /flux\n  \
    REMOTE_VAE_HOST=0.0.0.0 REMOTE_VAE_MODEL=sd=/models/sd,sdxl=/models/sdxl remote-vae serve\n      \
      the same by environment, for containers"
)]
pub(crate) struct ServeArgs {
    /// Models to serve, as --model takes them
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) sources: Vec<ModelArgs>,
    /// A model to serve, as often as wanted; in the variable, separated by commas. SOURCE is a name that `remote-vae
    /// models` lists; a folder as diffusers saves it, of an autoencoder or of a pipeline; a .safetensors file, of an
    /// autoencoder or of a full checkpoint; or OWNER/NAME[:PATH][@REVISION] on the Hugging Face hub. Factors may follow:
    /// SOURCE,scaling_factor=0.13025,shift_factor=0
    #[arg(
        long = "model",
        value_name = "NAME=SOURCE",
        default_value = "demo=demo",
        value_hint = ValueHint::AnyPath
    )]
    pub(crate) models: Vec<ModelArgs>,
    /// Load each model when it is first asked for, and put those away that were not used for longest where memory gets
    /// short, instead of loading all at the start
    #[arg(long)]
    pub(crate) lazy: bool,
    /// Name or address to listen on; 0.0.0.0 is reachable from other machines
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// File with settings, in TOML: the flags here without their dashes, such as max-queue = 64. The command line and the
    /// environment go before it; `remote-vae config` shows what is in force
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) doors: DoorArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

impl ServeArgs {
    /// Makes one list of the models that are named with and without `--model`. Like every argument of the command line,
    /// those without go before what the environment or a file says.
    pub(crate) fn settle(&mut self, matches: &ArgMatches) {
        if self.sources.is_empty() {
            return;
        }
        let mut models = std::mem::take(&mut self.sources);
        if matches.value_source("models") == Some(ValueSource::CommandLine) {
            models.append(&mut self.models);
        }
        self.models = models;
    }
}

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    let (loaded, to_come) = unbounded_channel();
    let engine = args.engine.engine()?;
    let models = args
        .models
        .iter()
        .flat_map(|models| &models.0)
        .map(|model| served(model, engine.clone(), args.engine.load_mode(), loaded.clone()))
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
    mode: Option<LoadMode>,
    loaded: UnboundedSender<Loaded>,
) -> anyhow::Result<Model> {
    model.source.check()?;
    let name = model.name()?;
    let source = model.source.clone();
    Ok(Model {
        name: name.clone(),
        source: source.to_string(),
        origin: source.origin(),
        license: source.license(),
        example: source.example(),
        load: Box::new(move || {
            let vae = source.clone().load(engine.clone(), mode)?;
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
