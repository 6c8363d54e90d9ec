//! The flags that say where the work is done: by a server, or by a model on this machine.

#[cfg(feature = "tls")]
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "tls")]
use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, ValueHint};
use client::Retry;
use client::blocking::{Builder, RemoteVae};

use super::engine::{EngineArgs, FLAGS as ENGINE_FLAGS};
use super::heading;
use super::limits::time;
use crate::source::{ModelArgs, Source};

/// The flags that say where.
#[derive(Debug, clap::Args)]
pub(crate) struct PlaceArgs {
    /// Work here, without a server: a SOURCE as in `remote-vae serve --help` [default: demo, if no --endpoint]
    #[arg(long, value_name = "SOURCE", help_heading = None::<&str>, display_order = 2, value_hint = ValueHint::AnyPath)]
    pub(crate) model: Option<ModelArgs>,
    /// URL of a server, ours or any other that diffusers' client works with; of several, each file goes to the least
    /// busy one
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        help_heading = None::<&str>,
        display_order = 3,
        value_hint = ValueHint::Url
    )]
    pub(crate) endpoint: Vec<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// How a server is reached.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = heading::SERVER)]
pub(crate) struct ServerArgs {
    /// Key for the server, sent as a Bearer token; a key in the URL (https://user:KEY@host/) goes first
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// How long to wait for one answer, such as 90s or 10m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time)]
    pub(crate) timeout: Duration,
    /// How long to try again when a server is away or full [default: 1m when away, 10m when full, 1s when it was
    /// never there]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) retry_for: Option<Duration>,
}

/// Whom https is trusted to.
#[cfg(feature = "tls")]
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustArgs {
    /// Certificates that https is trusted to, as PEM: of authorities, or the very one that the server shows [default:
    /// those of the system, or of the file that SSL_CERT_FILE names]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,
}

#[cfg(feature = "tls")]
impl TrustArgs {
    /// Tells a client of it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn apply(&self, builder: Builder) -> anyhow::Result<Builder> {
        let Some(file) = &self.ca else { return Ok(builder) };
        let pem = std::fs::read(file).with_context(|| format!("cannot read {} (--ca)", file.display()))?;
        Ok(builder.trust(&pem))
    }
}

impl ServerArgs {
    /// A client of these servers, as the flags say, before it is built.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn client(&self, first: &str, others: &[String]) -> anyhow::Result<Builder> {
        let builder =
            others.iter().fold(RemoteVae::builder(first), |builder, endpoint| builder.endpoint(endpoint));
        let builder = builder.timeout(self.timeout).retry(self.retry());
        #[cfg(feature = "tls")]
        let builder = self.trust.apply(builder)?;
        Ok(match &self.api_key {
            Some(key) => builder.api_key(key),
            None => builder,
        })
    }

    /// For the client.
    fn retry(&self) -> Retry {
        match self.retry_for {
            Some(time) => Retry::default().patience(time).busy_patience(time),
            None => Retry::default(),
        }
    }
}

impl PlaceArgs {
    /// A server and a model exclude each other. Said in one place, that is an error; said in both, the command line
    /// goes before the environment, which may be meant for other commands.
    ///
    /// # Errors
    /// What contradicts what.
    pub(crate) fn settle(&mut self, matches: &ArgMatches) -> Result<(), String> {
        if let Some(models) = &mut self.model {
            models.settle(matches);
        }
        let said = |id: &str| matches.value_source(id);
        match (said("endpoint"), said("model")) {
            (Some(ValueSource::CommandLine), Some(ValueSource::EnvVariable)) => self.model = None,
            (Some(ValueSource::EnvVariable), Some(ValueSource::CommandLine)) => self.endpoint.clear(),
            (Some(_), Some(_)) => {
                return Err(
                    "--endpoint (REMOTE_VAE_ENDPOINT) works with a server, --model (REMOTE_VAE_MODEL) without one; \
                     drop one of them"
                        .to_owned(),
                );
            }
            _ => {}
        }
        #[cfg(feature = "tls")]
        if said("ca") == Some(ValueSource::CommandLine)
            && !self.endpoint.iter().any(|url| url.starts_with("https:"))
        {
            return Err(
                "--ca is for https, and no --endpoint begins with https://; drop it, or change the URL"
                    .to_owned(),
            );
        }
        let by_server = !self.endpoint.is_empty() && self.model.is_none();
        match ENGINE_FLAGS.iter().find(|flag| by_server && said(flag) == Some(ValueSource::CommandLine)) {
            Some(flag) => Err(format!(
                "--{flag} is for work on this machine, but --endpoint works with a server; drop one of them"
            )),
            None => Ok(()),
        }
    }

    /// Whether nobody has said where: the embedded model does it.
    pub(crate) fn is_unsaid(&self) -> bool {
        self.model.is_none() && self.endpoint.is_empty()
    }

    /// The model to work with here, `None` when a server does it.
    pub(crate) fn source(&self) -> anyhow::Result<Option<Source>> {
        match &self.model {
            Some(ModelArgs(models)) => match models.as_slice() {
                [model] => Ok(Some(model.source.clone())),
                models => misuse!("--model names {} models, but one works", models.len()),
            },
            None if self.is_unsaid() => Ok(Some(Source::demo())),
            None => Ok(None),
        }
    }
}
