//! What a server is doing, for whoever waits for it.

use std::time::Duration;

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
    /// A server that cannot be reached or does not answer within two seconds, or has no such figures.
    pub async fn activity(&self) -> Result<Activity, Error> {
        let Some(connection) = self.connections.first() else { return Err(Error::Closed) };
        let figures = tokio::time::timeout(PATIENCE, connection.document(wire::routes::METRICS))
            .await
            .map_err(|_| Error::Answer("it came too late".to_owned()))??;
        figures
            .and_then(|figures| Activity::read(&String::from_utf8_lossy(&figures)))
            .ok_or_else(|| Error::Answer("it has no figures of a remote-vae server".to_owned()))
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
