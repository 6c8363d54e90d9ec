//! How much the service takes on.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::admission::OnLarge;
use crate::budget::Budget;
use crate::memory::default_memory_limit;

/// How much the service takes on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that run models side by side, each with its own instance of every model: one a device.
    pub workers: NonZeroUsize,
    /// Whether small pictures of the same shape that wait together are worked on together: more of them a second, and values
    /// that may differ from those of a lone job by rounding, far less than what eight bits show.
    pub batch_requests: bool,
    /// Jobs that may wait for the models while others are worked on; one more is told to come back later. `None` bounds
    /// them by their memory and their deadlines alone.
    pub max_queue: Option<usize>,
    /// How much one job for a model of pictures may ask for.
    pub limits: wire::Limits,
    /// How much one job for a model of videos may ask for.
    pub video_limits: wire::Limits,
    /// Whether latents and pixels may be NaN or infinite, which makes pictures black or grey.
    pub allow_non_finite: bool,
    /// Bytes of memory that the process may have while it works; `None` for no limit.
    pub memory_limit: Option<usize>,
    /// What is done with jobs that do not fit into it.
    pub on_large: OnLarge,
    /// Load models at their first use, and unload those that were not used for longest where their weights and the
    /// work together go over the memory limit.
    pub lazy: bool,
    /// Bytes of request bodies that may be held together, on their way or waiting.
    pub max_pending_bytes: usize,
    /// After how long without work the models give back memory that they keep for the next decode.
    pub idle_release: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: NonZeroUsize::MIN,
            batch_requests: false,
            max_queue: None,
            limits: wire::Limits::default(),
            video_limits: wire::Limits::for_videos(),
            allow_non_finite: false,
            memory_limit: default_memory_limit(),
            on_large: OnLarge::default(),
            lazy: false,
            max_pending_bytes: 512 << 20,
            idle_release: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// Bytes that the work may take, beside the process itself and the bodies of requests; `None` for no limit.
    pub fn work_memory(&self) -> Option<usize> {
        Budget::new(self).work()
    }
}
