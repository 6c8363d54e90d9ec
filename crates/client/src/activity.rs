//! What a server is doing, for whoever waits for it.

use std::time::Duration;

use wire::ErrorBody;

use crate::exchange::Connection;
use crate::{Error, RemoteVae};

/// Whoever is asked what it is doing answers at once, or not.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a server is doing, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activity {
    /// Requests that wait for their turn.
    pub waiting: usize,
    /// Pictures or frames of the request that is being worked on; 0 when there is none.
    pub frames: usize,
    /// Those of them that are done.
    pub frames_done: usize,
}

impl Activity {
    /// From the figures that our server has for Prometheus.
    fn read(text: &str) -> Option<Self> {
        let figure = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            value.trim().parse().ok()
        };
        Some(Self {
            waiting: figure("remote_vae_queue_length")?,
            frames: figure("remote_vae_running_frames")?,
            frames_done: figure("remote_vae_running_frames_done")?,
        })
    }
}

impl RemoteVae {
    /// What the server is doing now: what it says at `/metrics`, asked once and not again. Of several endpoints, the first.
    /// Other servers than ours may have no such route, which is an error.
    ///
    /// # Errors
    /// A server that cannot be reached or does not answer within two seconds, its refusal, or other figures.
    pub async fn activity(&self) -> Result<Activity, Error> {
        let Some(connection) = self.connections.first() else { return Err(Error::Closed) };
        let text = tokio::time::timeout(PATIENCE, connection.metrics())
            .await
            .map_err(|_| Error::Answer("it came too late".to_owned()))??;
        Activity::read(&text)
            .ok_or_else(|| Error::Answer("it has no figures of a remote-vae server".to_owned()))
    }
}

impl Connection {
    /// What the server says at `/metrics`.
    async fn metrics(&self) -> Result<String, Error> {
        let transport = |error: reqwest::Error| Error::transport(&self.endpoint, &error);
        let response =
            self.http.get(self.endpoint.at(wire::routes::METRICS)).send().await.map_err(transport)?;
        let status = response.status();
        let body = response.bytes().await.map_err(transport)?;
        if status.is_success() {
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
        let message = ErrorBody::read(&body).error;
        Err(Error::Refused { status: status.as_u16(), message, retry_after: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_figures_of_all_are_read() {
        let text = "# TYPE remote_vae_queue_length gauge\nremote_vae_queue_length 3\nremote_vae_in_flight 9\n\
                    remote_vae_running_frames 129\nremote_vae_running_frames_done 40\n# EOF\n";
        assert_eq!(Activity::read(text), Some(Activity { waiting: 3, frames: 129, frames_done: 40 }));
        assert_eq!(Activity::read("go_goroutines 7\n"), None);
        assert_eq!(Activity::read(&text.replace(" 129", " many")), None);
    }
}
