//! `remote-vae health`: whether a server is well, for containers that have no shell and no curl.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use client::{Error, blocking::RemoteVae};
use wire::routes::{HEALTH, READY};

use crate::args::limits::time;
use crate::args::number::{PORTS, whole};
#[cfg(feature = "tls")]
use crate::args::place::TrustArgs;
use crate::misuse;

/// Ask a server whether it is well: exit code 0 if so, else 1, and one sentence
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a URL it asks the server of this machine or container, by the variables that `serve` has \
    too: REMOTE_VAE_ADMIN_PORT if there is one, else REMOTE_VAE_PORT.\n\nExamples:\n  \
    remote-vae health\n  \
    remote-vae health --ready https://vae.example.org/\n\n\
    In a Dockerfile: HEALTHCHECK CMD [\"remote-vae\", \"health\"]"
)]
pub(crate) struct HealthArgs {
    /// URL of the server; one with a path, such as http://host/ready, is asked at that path
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Ask whether it takes work (/ready), not only whether it lives (/health)
    #[arg(long)]
    ready: bool,
    /// How long it may take to answer
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s")]
    within: Duration,
    /// Without a URL: what the server listens on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Without a URL: the server's port
    #[arg(long, default_value_t = 8080, value_parser = whole::<u16>(PORTS))]
    port: u16,
    /// Without a URL: the server's port for probes, if it has one
    #[arg(long, value_name = "PORT", value_parser = whole::<u16>(PORTS))]
    admin_port: Option<u16>,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    trust: TrustArgs,
}

pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let (url, path) = args.target();
    let start = Instant::now();
    let client = RemoteVae::builder(&url).timeout(args.within).connect_timeout(args.within);
    #[cfg(feature = "tls")]
    let client = args.trust.apply(client)?;
    let client = client.build().map_err(misuse::of_client)?;
    let asked = format!("{}{path}", client.endpoint().trim_end_matches('/'));
    match client.probe(&path) {
        Ok(()) => {
            say!("{asked} says yes, after {} ms", start.elapsed().as_millis());
            Ok(())
        }
        Err(Error::Refused { status, message, .. }) => {
            bail!("{asked} says no, with status {status}: {message}")
        }
        Err(error) => Err(error.into()),
    }
}

impl HealthArgs {
    /// The server, and the path to ask it at.
    fn target(&self) -> (String, String) {
        let probe = if self.ready { READY } else { HEALTH };
        let Some(url) = &self.url else {
            let port = self.admin_port.unwrap_or(self.port);
            return (format!("http://{}:{port}/", reachable(&self.host)), probe.to_owned());
        };
        let begin = url.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = url.split_at(begin);
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        match rest.split_once('/') {
            Some((host, path)) if !path.is_empty() => (format!("{scheme}{host}/"), format!("/{path}")),
            _ => (url.clone(), probe.to_owned()),
        }
    }
}

/// Where to reach what listens on `host`, as a URL has it.
fn reachable(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) if v4.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(v6)) if v6.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(v6)) => format!("[{v6}]"),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches};

    use super::*;

    #[test]
    fn what_is_asked() {
        let target = |flags: &[&str]| {
            let command = HealthArgs::augment_args(clap::Command::new("test"));
            let matches = command.get_matches_from([&["test"], flags].concat());
            let (url, path) = HealthArgs::from_arg_matches(&matches).unwrap().target();
            format!("{} {path}", url.trim_end_matches('/'))
        };
        for (flags, expected) in [
            (&[][..], "http://127.0.0.1:8080 /health"),
            (&["--ready", "--port=9000"], "http://127.0.0.1:9000 /ready"),
            (&["--port=9000", "--admin-port=9001", "--host=0.0.0.0"], "http://127.0.0.1:9001 /health"),
            (&["--host=::"], "http://[::1]:8080 /health"),
            (&["--host=fd00::1"], "http://[fd00::1]:8080 /health"),
            (&["--host=vae.internal"], "http://vae.internal:8080 /health"),
            (&["https://user:KEY@host:1"], "https://user:KEY@host:1 /health"),
            (&["http://host/", "--ready"], "http://host /ready"),
            (&["http://host/vae/ready?x=1"], "http://host /vae/ready"),
        ] {
            assert_eq!(target(flags), expected, "{flags:?}");
        }
    }
}
