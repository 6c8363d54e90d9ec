//! `remote-vae serve`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, ValueHint};
use server::{Config, Model, ServeError, Server};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tracing::{info, warn};
use vae::device::cpu::Cpu;
use vae::{LoadMode, VaeInfo};

use crate::args::doors::DoorArgs;
use crate::args::engine::EngineArgs;
use crate::args::heading;
use crate::args::limits::LimitArgs;
use crate::args::number::{PORTS, whole};
use crate::banner::Banner;
use crate::signals::Signals;
use crate::source::{ModelArg, ModelArgs, in_order};

/// Each worker has threads and memory of its own; more than processors have cores help nobody.
const MOST_WORKERS: u64 = 256;

/// Serve models over HTTP
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The first model answers at /, and each one at /NAME. Ctrl-C and SIGTERM stop the server \
    when the requests that it has accepted are answered.\n\nExamples:\n  \
    remote-vae serve\n      \
      the embedded demonstration model\n  \
    remote-vae serve sdxl flux=./ae.safetensors\n      \
      two models: sdxl, from the hub, at / and /sdxl; flux, from a file, at /flux\n  \
    REMOTE_VAE_MODEL=sdxl,flux=./ae.safetensors REMOTE_VAE_HOST=0.0.0.0 remote-vae serve\n      \
      the same two by environment, and for other machines too, as containers want it"
)]
pub(crate) struct ServeArgs {
    /// Models to serve, as --model takes them
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) sources: Vec<ModelArgs>,
    /// A model to serve, as often as wanted; in the variable, separated by commas. SOURCE is a name that `remote-vae
    /// models` lists; a folder as diffusers saves it, of an autoencoder or of a pipeline; a file of weights (.safetensors,
    /// .ckpt, .pt, .bin), of an autoencoder or of a full checkpoint; or OWNER/NAME[:PATH][@REVISION] on the Hugging Face hub. Factors may follow:
    /// SOURCE,scaling_factor=0.13025,shift_factor=0
    #[arg(
        long = "model",
        value_name = "NAME=SOURCE",
        default_value = "demo=demo",
        value_hint = ValueHint::AnyPath
    )]
    pub(crate) models: Vec<ModelArgs>,
    /// The model TINY, which is served too, makes previews for the model NAME: its picture comes at once where a request says
    /// preview=tiny, and the exact one after it. A tiny autoencoder of the same latents, as taesdxl for sdxl
    #[arg(long = "preview", value_name = "NAME=TINY", value_delimiter = ',', value_parser = preview)]
    pub(crate) previews: Vec<[String; 2]>,
    /// Load each model when it is first asked for, and unload those that were not used for longest where memory gets
    /// short, instead of loading all at the start
    #[arg(long)]
    pub(crate) lazy: bool,
    /// Name or address to listen on; 0.0.0.0 is reachable from other machines
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080, value_parser = whole::<u16>(PORTS))]
    pub(crate) port: u16,
    /// One more port, for /health, /ready and /metrics alone, where they answer whatever happens at the other one. It has
    /// no TLS: keep it to your own network [default: none]
    #[arg(long, value_name = "PORT", value_parser = whole::<u16>(PORTS))]
    pub(crate) admin_port: Option<u16>,
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
    /// Requests that are worked on side by side, each by its own share of the threads: more of them make small pictures
    /// faster together, and each one slower
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = workers,
        help_heading = heading::ENGINE
    )]
    pub(crate) workers: NonZeroUsize,
}

impl ServeArgs {
    /// Makes one list of the models that are named with and without `--model`, in their order. Like every argument of the
    /// command line, those without go before what the environment or a file says.
    pub(crate) fn settle(&mut self, matches: &ArgMatches) {
        if self.sources.is_empty() {
            return;
        }
        let with_flag = matches.value_source("models") == Some(ValueSource::CommandLine);
        let ids: &[&str] = if with_flag { &["sources", "models"] } else { &["sources"] };
        let values = |id: &str| matches.get_many::<ModelArgs>(id).into_iter().flatten().cloned().collect();
        self.models = in_order(matches, values, ids);
        self.sources.clear();
    }
}

/// Reads `--preview`.
fn preview(text: &str) -> Result<[String; 2], String> {
    let names = text.split_once('=').filter(|(name, tiny)| !name.is_empty() && !tiny.is_empty());
    let (name, tiny) = names.ok_or("expected the names of two models, such as sdxl=taesdxl")?;
    Ok([name.to_owned(), tiny.to_owned()])
}

/// Lets models have previews by others.
fn with_previews(models: &mut [Model], previews: &[[String; 2]]) -> anyhow::Result<()> {
    for [name, tiny] in previews {
        for wanted in [name, tiny] {
            if !models.iter().any(|model| model.name == *wanted) {
                bail!("--preview {name}={tiny}: no model called {wanted} is served");
            }
        }
        if let Some(model) = models.iter_mut().find(|model| model.name == *name) {
            model.preview = Some(tiny.clone());
        }
    }
    Ok(())
}

/// Reads `--workers`.
fn workers(text: &str) -> Result<NonZeroUsize, String> {
    Ok(NonZeroUsize::new(whole(1..=MOST_WORKERS)(text)?).unwrap_or(NonZeroUsize::MIN))
}

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    let (loaded, to_come) = unbounded_channel();
    let engines: Arc<[Cpu]> = args.engine.engines(args.workers)?.into();
    let mut models = args
        .models
        .iter()
        .flat_map(|models| &models.0)
        .map(|model| served(model, Arc::clone(&engines), args.engine.load_mode(), loaded.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    with_previews(&mut models, &args.previews)?;
    let config = args.limits.apply(Config {
        host: args.host,
        port: args.port,
        admin_port: args.admin_port,
        access: args.doors.access(),
        #[cfg(feature = "tls")]
        tls: args.doors.tls(),
        service: service::Config { lazy: args.lazy, workers: args.workers, ..service::Config::default() },
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
        let banner = Banner::new(address, doors.is_encrypted(), !doors.is_open()).admin(server.admin_addr());
        let banner = banner.name(doors.certified_name());
        if !lazy {
            Banner::loading(&names);
        }
        let ready = server.ready();
        tokio::spawn(async move {
            ready.await;
            banner.ready(to_come, &names);
        });
        let signals = Signals::new().context("cannot listen for signals")?;
        let reload = server.reload();
        let reload = move || {
            info!("told to read keys and certificates again");
            reload.now();
        };
        server.run(signals.stop(reload)).await?;
        Ok(())
    });
    // What the server has left behind when its time to stop was over is not waited for.
    runtime.shutdown_background();
    result
}

/// A model that has been loaded.
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) info: VaeInfo,
}

/// What the server needs to serve `model`, with an engine for each worker; `loaded` hears of it when it is there.
pub(crate) fn served(
    model: &ModelArg,
    engines: Arc<[Cpu]>,
    mode: Option<LoadMode>,
    loaded: UnboundedSender<Loaded>,
) -> anyhow::Result<Model> {
    model.source.check()?;
    let name = model.name()?;
    let source = model.source.clone();
    Ok(Model {
        preview: None,
        name: name.clone(),
        source: source.to_string(),
        origin: source.origin(),
        license: source.license(),
        example: source.example(),
        weights: {
            let source = source.clone();
            Box::new(move || source.weights_size())
        },
        load: Box::new(move |worker| {
            let engine = engines.get(worker).context("there is no engine for a worker")?;
            let vae = source.clone().load(engine.clone(), mode)?;
            let (name, info) = (name.clone(), vae.info().clone());
            // Nobody may be listening any more, and that is fine.
            if worker == 0 {
                let _ = loaded.send(Loaded { name, info });
            }
            Ok(vae)
        }),
    })
}

/// Whether a port could not be had because somebody else has it.
fn is_taken(error: &ServeError) -> bool {
    matches!(error, ServeError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
}
