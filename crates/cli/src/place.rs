//! Where the work is done: by a server, or by a model on this machine to the very bytes that a server would answer
//! with.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use client::blocking::RemoteVae;
use client::{DecodeOptions, Decoded, EncodeOptions, Image, Picture, Tensor};
use vae::{Observer, Vae};
use wire::{DecodeRequest, EncodeRequest, Limits};

use crate::args::place::PlaceArgs;
use crate::misuse;
use crate::progress::Work;
use crate::source::Preset;

/// Told of pauses before a request is sent again.
pub(crate) type OnRetry = Box<dyn Fn(&client::Error, Duration) + Send + Sync>;

/// Who does it. It may be shared by threads.
pub(crate) enum Place {
    There { vae: RemoteVae, model: Option<String>, single: bool },
    Here { vae: Mutex<Box<dyn Vae>>, name: String, model: Option<String> },
}

/// Whoever works on their own machine sets their own limits.
const NO_LIMITS: Limits = Limits {
    max_body_bytes: usize::MAX,
    max_batch: usize::MAX,
    max_pixels: usize::MAX,
    max_total_pixels: usize::MAX,
};

/// How the embedded model is called.
const DEMO: &str = "demo";

/// A server's answer, with what its words leave out for somebody at a command line.
fn of_server(error: client::Error, allow_non_finite: bool) -> anyhow::Error {
    /// How values are called in refusals that are no numbers, and those that become none.
    const NON_FINITE: [&str; 2] = ["NaN or infinite", "become infinite"];
    let is_refused = match &error {
        client::Error::Refused { status: 422, message, .. } => {
            NON_FINITE.iter().any(|words| message.contains(words))
        }
        _ => false,
    };
    if !(is_refused && allow_non_finite) {
        return error.into();
    }
    let text =
        format!("{error}; this was sent with --allow-non-finite, and the server must be started with it too");
    anyhow::Error::new(error).context(text)
}

impl Place {
    /// Loads the model, or makes the client of the server, which is not yet asked anything.
    pub(crate) fn open(args: &PlaceArgs, on_retry: OnRetry) -> anyhow::Result<Self> {
        if let Some(source) = args.source()? {
            let name = source.to_string();
            // The name of a preset, or the last part of a path: the rest is nobody's business.
            let path = if Path::new(&name).exists() {
                name.as_str()
            } else {
                name.split(' ').next().unwrap_or_default()
            };
            let model = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
            let fetched = source.fetch()?;
            let loading = Work::begin(format!("loading {name}"));
            let vae = fetched.load(args.engine.engine()?, args.engine.load_mode())?;
            drop(loading);
            return Ok(Self::Here { vae: Mutex::new(vae), name, model });
        }
        let [first, others @ ..] = args.endpoint.as_slice() else { anyhow::bail!("there is no endpoint") };
        let builder = args.server.client(first, others)?.on_retry(on_retry);
        let builder = builder.on_warning(|sentence| tracing::warn!("the server says: {sentence}"));
        let vae = builder.build().map_err(misuse::of_client)?;
        let model =
            first.split(['?', '#']).next().and_then(|url| url.split_once("://")).and_then(|(_, rest)| {
                let (_, path) = rest.split_once('/')?;
                path.split('/').find(|part| !part.is_empty() && *part != "predict").map(str::to_owned)
            });
        Ok(Self::There { vae, model, single: others.is_empty() })
    }

    /// The server that does it, where there is one and no choice of several.
    pub(crate) fn server(&self) -> Option<&RemoteVae> {
        match self {
            Self::There { vae, single: true, .. } => Some(vae),
            Self::There { .. } | Self::Here { .. } => None,
        }
    }

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

    /// Whether the model is one of videos. `None` where a server does not tell.
    pub(crate) fn is_video(&self) -> Option<bool> {
        match self {
            Self::There { vae, .. } => vae.model().ok()?.map(|model| model.temporal_factor.is_some()),
            Self::Here { vae, .. } => {
                let vae = vae.lock().unwrap_or_else(PoisonError::into_inner);
                Some(vae.info().temporal_factor.is_some())
            }
        }
    }

    /// What is decoded here, `observer` watches.
    pub(crate) fn decode(
        &self,
        latents: &Tensor,
        options: &DecodeOptions,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Decoded> {
        let vae = match self {
            Self::There { vae, .. } => {
                let decoded = vae.decode(latents, options);
                return decoded.map_err(|error| of_server(error, options.allow_non_finite));
            }
            Self::Here { vae, .. } => vae,
        };
        let request = DecodeRequest { latents: latents.clone(), params: options.params()? };
        let mut vae = vae.lock().unwrap_or_else(PoisonError::into_inner);
        let decoded = service::decode(vae.as_mut(), request, &NO_LIMITS, options.allow_non_finite, observer);
        let channels = vae.info().latent_channels;
        let decoded =
            decoded.map_err(|refused| anyhow!("{refused}{}", self.misfit(channels, &latents.head.shape)))?;
        Ok(match decoded {
            service::Decoded::Tensor(tensor) => Decoded::Tensor(tensor),
            service::Decoded::Video(file) => Decoded::Video(file),
            service::Decoded::Image(file) => Decoded::Image(Image::from_bytes(file)?),
        })
    }

    /// What is added to a refusal of latents of another number of channels than the model here takes: which model it is, and
    /// which would take them.
    fn misfit(&self, channels: usize, shape: &[usize]) -> String {
        let found = match *shape {
            [found, _, _] | [_, found, _, _] | [_, found, _, _, _] if found != channels => found,
            _ => return String::new(),
        };
        let name = self.name();
        let model = if name == DEMO { "`demo`, the embedded one".to_owned() } else { name };
        let fitting: Vec<_> = Preset::of_latents(shape).map(|preset| preset.name).collect();
        match fitting.as_slice() {
            [] => format!("; this model is {model}"),
            names => {
                format!(
                    "; this model is {model}: for latents of {found} channels, --model {}",
                    names.join(" or ")
                )
            }
        }
    }

    /// The latents, and the seed that they were sampled with, if they were and it is known. What is encoded here,
    /// `observer` watches.
    pub(crate) fn encode(
        &self,
        picture: &Picture,
        options: &EncodeOptions,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<(Tensor, Option<u64>)> {
        let vae = match self {
            Self::There { vae, .. } => {
                let encoded = vae.encode(picture, options);
                let encoded = encoded.map_err(|error| of_server(error, options.allow_non_finite))?;
                return Ok((encoded.latents, encoded.seed));
            }
            Self::Here { vae, .. } => vae,
        };
        let request = EncodeRequest { picture: picture.clone(), params: options.params()? };
        let mut vae = vae.lock().unwrap_or_else(PoisonError::into_inner);
        let encoded = service::encode(vae.as_mut(), request, &NO_LIMITS, options.allow_non_finite, observer)?;
        Ok((encoded.latents, encoded.seed))
    }
}
