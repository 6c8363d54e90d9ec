//! The flags that say where the work is done: by a server, or by a model on this machine.

use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, ValueHint};
use client::Retry;

use super::Args;
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
    /// How long to wait for one answer, such as 90s or 10m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time)]
    pub(crate) timeout: Duration,
    /// How long to try again when a server is away or full [default: 1m when away, 10m when full, 1s when it was
    /// never there]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) retry_for: Option<Duration>,
}

impl ServerArgs {
    /// For the client.
    pub(crate) fn retry(&self) -> Retry {
        match self.retry_for {
            Some(time) => Retry::default().patience(time).busy_patience(time),
            None => Retry::default(),
        }
    }
}

impl PlaceArgs {
    /// A server and a model exclude each other. Said in one place, that is an error; said in both, the command line
    /// goes before the environment, which may be meant for other commands.
    pub(crate) fn settle(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(models) = &mut self.model {
            models.settle(matches);
        }
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
    pub(crate) fn source(&self) -> anyhow::Result<Option<Source>> {
        match &self.model {
            Some(ModelArgs(models)) => match models.as_slice() {
                [model] => Ok(Some(model.source.clone())),
                models => anyhow::bail!("--model names {} models, but one works", models.len()),
            },
            None if self.endpoint.is_empty() => Ok(Some(Source::demo())),
            None => Ok(None),
        }
    }
}
