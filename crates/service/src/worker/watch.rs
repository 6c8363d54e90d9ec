//! What a model is told and tells while it works.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::info;
use vae::{Cancelled, Observer};

use super::batch::Member;
use super::thread::Worker;
use crate::job::Event;

/// When the log first says how far the work on a video is; from then on after twice as long each time, but not less often
/// than each minute.
const SAY_FIRST: Duration = Duration::from_secs(5);
const SAY_EACH: Duration = Duration::from_secs(60);

/// Tells the scheduler and the clients how far the work is, and the work whether anybody still waits for it.
pub(super) struct Watch<'a> {
    worker: &'a Worker,
    members: &'a [Member],
    /// How far the clients know it to be.
    percent: usize,
    /// When the log was last told how far it is.
    said: Instant,
    /// After how long it is told again.
    pause: Duration,
}

impl<'a> Watch<'a> {
    pub(super) fn new(worker: &'a Worker, members: &'a [Member]) -> Self {
        Self { worker, members, percent: 0, said: Instant::now(), pause: SAY_FIRST }
    }
}

impl Observer for Watch<'_> {
    fn progress(&mut self, done: usize, total: usize) -> Result<(), Cancelled> {
        let (shared, now) = (&self.worker.shared, Instant::now());
        let all_left = self.members.iter().all(|member| member.has_left(now));
        if all_left || shared.stopping.load(Ordering::Relaxed) {
            return Err(Cancelled);
        }
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
        if percent > self.percent {
            self.percent = percent;
            for member in self.members {
                let _ = member.events.send(Event::Progress { done, total });
            }
        }
        let running = {
            let mut state = shared.lock();
            state.scheduler.progress(self.worker.index, done, total, now);
            state.scheduler.running()
        };
        if let Some([done, frames]) =
            running.filter(|[_, frames]| *frames > 1 && self.said.elapsed() >= self.pause)
        {
            self.said = now;
            self.pause = (2 * self.pause).min(SAY_EACH);
            info!(done, frames, "working");
        }
        Ok(())
    }
}
