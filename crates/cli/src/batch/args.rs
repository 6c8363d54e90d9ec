//! The flags of commands that work through many files.

use std::time::Duration;

use clap::builder::BoolishValueParser;
use client::Retry;

use crate::preview::Terminal;
use crate::service::time;

/// How many files are worked through.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Many files")]
pub(crate) struct BatchArgs {
    /// Files at a time: 2 keep a server busy while answers travel, more help with several servers
    #[arg(long, env = "REMOTE_VAE_JOBS", hide_env_values = true, value_name = "N", default_value = "4", value_parser = jobs)]
    pub(crate) jobs: usize,
    /// Leave alone what an earlier run has written; files are written whole or not at all
    #[arg(long, env = "REMOTE_VAE_RESUME", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) resume: bool,
    /// Show each picture in the terminal: as such where it speaks kitty's or iTerm2's protocol, else in coloured blocks
    #[arg(long, env = "REMOTE_VAE_PREVIEW", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) preview: bool,
    /// Print one JSON object a line on stdout: each file as it is done, and a summary
    #[arg(long, env = "REMOTE_VAE_JSON", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
}

impl BatchArgs {
    /// The terminal that shall show pictures, if one shall and can.
    pub(crate) fn terminal(&self) -> Option<Terminal> {
        self.preview.then(Terminal::find).flatten()
    }
}

/// How a server is reached.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// Key for the server, sent as a Bearer token; a key in the URL (https://user:KEY@host/) goes first
    #[arg(long, env = "REMOTE_VAE_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// How long to wait for one answer, such as 90s or 10m
    #[arg(long, env = "REMOTE_VAE_TIMEOUT", hide_env_values = true, value_name = "TIME", default_value = "5m", value_parser = time)]
    pub(crate) timeout: Duration,
    /// How long to try again when a server is away or full [default: 1m when away, 10m when full, 1s when it was
    /// never there]
    #[arg(long, env = "REMOTE_VAE_RETRY_FOR", hide_env_values = true, value_name = "TIME", value_parser = time)]
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

/// `--jobs`.
fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs @ 1..=256) => Ok(jobs),
        _ => Err("expected a whole number from 1 to 256".to_owned()),
    }
}
