//! Whether the process stays within its memory limit. It is only looked at and said: what requests may take follows from
//! the budget, never from this.

use std::time::Duration;

use service::{memory, size};
use tokio::time::sleep;
use tracing::warn;

use crate::app::App;

/// How often the process's memory is looked at.
const TICK: Duration = Duration::from_secs(5);

/// Looks at the process's memory, for ever.
pub(crate) async fn watch(app: &App) {
    // Where there is no limit or the system does not say, there is nothing to look at.
    let Some(limit) = app.service().memory_limit() else { return std::future::pending().await };
    let mut alarm = Alarm { limit, is_raised: false };
    loop {
        sleep(TICK).await;
        if let Some(own) = memory::anonymous().filter(|&own| alarm.look(own)) {
            let (own, limit) = (size(own), size(limit));
            warn!(
                "the process has {own} of memory, more than the {limit} of --memory-limit, and the system may end it: raise \
                 --memory-limit if the machine has more, or lower --max-pending, --max-connections and --max-total-pixels"
            );
        }
    }
}

/// Says once that the limit is passed, and again only after the process was clearly below it.
struct Alarm {
    limit: usize,
    is_raised: bool,
}

impl Alarm {
    /// Whether it is to be said now that the process has `own` bytes.
    fn look(&mut self, own: usize) -> bool {
        if own > self.limit {
            return !std::mem::replace(&mut self.is_raised, true);
        }
        if own < self.limit / 10 * 9 {
            self.is_raised = false;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_each_time() {
        let mut alarm = Alarm { limit: 100, is_raised: false };
        let said: Vec<_> = [50, 100, 101, 150, 99, 101, 89, 100, 120].map(|own| alarm.look(own)).into();
        assert_eq!(said, [false, false, true, false, false, false, false, false, true]);
    }
}
