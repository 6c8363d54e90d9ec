//! Where the work is done: by a server, or by a model on this machine to the very bytes that a server would answer
//! with.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};
use client::blocking::RemoteVae;
use client::{DecodeOptions, Decoded, EncodeOptions, Image, Picture, Tensor};
use vae::Vae;
use wire::{DecodeRequest, EncodeRequest, Limits};

use crate::args::Args;
use crate::batch::args::ServerArgs;
use crate::engine::{EngineArgs, FLAGS as ENGINE_FLAGS};
use crate::source::{ModelArgs, Source};

/// The flags that say where.
#[derive(Debug, clap::Args)]
pub(crate) struct PlaceArgs {
    /// URL of a server, ours or any other that diffusers' client works with; of several, each file goes to the least
    /// busy one
    #[arg(
        long,
        env = "REMOTE_VAE_ENDPOINT",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ','
    )]
    pub(crate) endpoint: Vec<String>,
    /// Work here, without a server: a SOURCE as in `remote-vae serve --help` [default: demo, if no --endpoint]
    #[arg(long, env = "REMOTE_VAE_MODEL", hide_env_values = true, value_name = "SOURCE")]
    pub(crate) model: Option<ModelArgs>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Told of pauses before a request is sent again.
pub(crate) type OnRetry = Box<dyn Fn(&client::Error, Duration) + Send + Sync>;

impl PlaceArgs {
    /// A server and a model exclude each other. Said in one place, that is an error; said in both, the command line
    /// goes before the environment, which may be meant for other commands.
    pub(crate) fn settle(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let said = |id: &str| matches.value_source(id);
        let conflict = |message: String| Err(Args::command().error(ErrorKind::ArgumentConflict, message));
        match (said("endpoint"), said("model")) {
            (Some(ValueSource::CommandLine), Some(ValueSource::EnvVariable)) => self.model = None,
            (Some(ValueSource::EnvVariable), Some(ValueSource::CommandLine)) => self.endpoint.clear(),
            (Some(_), Some(_)) => {
                return conflict(
                    "--endpoint (REMOTE_VAE_ENDPOINT) works with a server, --model (REMOTE_VAE_MODEL) without one; \
                     drop one of them"
                        .to_owned(),
                );
            }
            _ => {}
        }
        let by_server = !self.endpoint.is_empty() && self.model.is_none();
        match ENGINE_FLAGS.iter().find(|flag| by_server && said(flag) == Some(ValueSource::CommandLine)) {
            Some(flag) => conflict(format!(
                "--{flag} is for work on this machine, but --endpoint works with a server; drop one of them"
            )),
            None => Ok(()),
        }
    }

    /// The model to work with here, `None` when a server does it.
    fn source(&self) -> anyhow::Result<Option<Source>> {
        match &self.model {
            Some(ModelArgs(models)) => match models.as_slice() {
                [model] => Ok(Some(model.source.clone())),
                models => anyhow::bail!("--model names {} models, but one works", models.len()),
            },
            None if self.endpoint.is_empty() => Ok(Some(Source::demo())),
            None => Ok(None),
        }
    }

    /// Loads the model, or makes the client of the server, which is not yet asked anything.
    pub(crate) fn open(&self, on_retry: OnRetry) -> anyhow::Result<Place> {
        if let Some(source) = self.source()? {
            let name = source.to_string();
            // The name of a preset, or the last part of a path: the rest is nobody's business.
            let path = if Path::new(&name).exists() {
                name.as_str()
            } else {
                name.split(' ').next().unwrap_or_default()
            };
            let model = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
            let vae = source.load(self.engine.engine()?)?;
            return Ok(Place::Here { vae: Mutex::new(vae), name, model });
        }
        let [first, others @ ..] = self.endpoint.as_slice() else { anyhow::bail!("there is no endpoint") };
        let builder = RemoteVae::builder(first)
            .timeout(self.server.timeout)
            .retry(self.server.retry())
            .on_retry(on_retry);
        let builder = others.iter().fold(builder, |builder, endpoint| builder.endpoint(endpoint));
        let builder = match &self.server.api_key {
            Some(key) => builder.api_key(key),
            None => builder,
        };
        let vae = builder.build()?;
        let model =
            first.split(['?', '#']).next().and_then(|url| url.split_once("://")).and_then(|(_, rest)| {
                let (_, path) = rest.split_once('/')?;
                path.split('/').find(|part| !part.is_empty() && *part != "predict").map(str::to_owned)
            });
        Ok(Place::There { vae, model })
    }
}

/// Who does it. It may be shared by threads.
pub(crate) enum Place {
    There { vae: RemoteVae, model: Option<String> },
    Here { vae: Mutex<Box<dyn Vae>>, name: String, model: Option<String> },
}

/// Whoever works on their own machine sets their own limits.
const NO_LIMITS: Limits = Limits {
    max_body_bytes: usize::MAX,
    max_batch: usize::MAX,
    max_pixels: usize::MAX,
    max_total_pixels: usize::MAX,
};

impl Place {
    /// For people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::There { vae, .. } => vae.endpoint(),
            Self::Here { name, .. } => name.clone(),
        }
    }

    /// The name of the model, without the way to it, if it has one.
    pub(crate) fn model(&self) -> Option<&str> {
        let (Self::There { model, .. } | Self::Here { model, .. }) = self;
        model.as_deref()
    }

    pub(crate) fn decode(&self, latents: &Tensor, options: &DecodeOptions) -> anyhow::Result<Decoded> {
        let vae = match self {
            Self::There { vae, .. } => return Ok(vae.decode(latents, options)?),
            Self::Here { vae, .. } => vae,
        };
        let request = DecodeRequest { latents: latents.clone(), params: options.params()? };
        let mut vae = vae.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match server::decode(vae.as_mut(), request, &NO_LIMITS)? {
            server::Decoded::Tensor(tensor) => Decoded::Tensor(tensor),
            server::Decoded::Video(file) => Decoded::Video(file),
            server::Decoded::Image(file) => Decoded::Image(Image::from_bytes(file)?),
        })
    }

    /// The latents, and the seed that they were sampled with, if they were and it is known.
    pub(crate) fn encode(
        &self,
        picture: &Picture,
        options: &EncodeOptions,
    ) -> anyhow::Result<(Tensor, Option<u64>)> {
        let vae = match self {
            Self::There { vae, .. } => {
                let encoded = vae.encode(picture, options)?;
                return Ok((encoded.latents, encoded.seed));
            }
            Self::Here { vae, .. } => vae,
        };
        let request = EncodeRequest { picture: picture.clone(), params: options.params()? };
        let mut vae = vae.lock().unwrap_or_else(PoisonError::into_inner);
        let encoded = server::encode(vae.as_mut(), request, &NO_LIMITS)?;
        Ok((encoded.latents, encoded.seed))
    }
}
