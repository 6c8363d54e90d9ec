//! What the memory limit is divided into: the process itself, the bodies of requests, and the work.
//!
//! The parts are fixed when the server starts. They follow from the settings alone and never from what the process has at
//! some moment, so nothing that a client sends or holds can make the part for the work smaller, now or later.

use crate::config::Config;

const MIB: usize = 1 << 20;

/// The process itself: threads, connections and their heads. Measured: 1 MiB with the demonstration model at rest, 14 MiB with
/// a thousand open connections.
const PROCESS: usize = 16 * MIB;

/// The parts of the memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Bytes that the process may have; `None` for no limit.
    pub(crate) limit: Option<usize>,
    /// Bytes that the bodies of all requests may have together.
    pub(crate) bodies: usize,
    /// Bytes of weights that are copied into memory, where the system cannot take them back.
    pub(crate) copied: usize,
}

impl Budget {
    pub(crate) fn new(config: &Config) -> Self {
        // The largest body of a picture must find room when there is no other, one of a video if the memory allows.
        let largest = config.limits.max_base64_body_bytes();
        let wanted = config.max_pending_bytes.max(largest);
        let bodies = match config.memory_limit {
            None => wanted,
            // An eighth, or up to a quarter where the largest body needs it.
            Some(limit) => wanted.min(largest.min(limit / 4).max(limit / 8)),
        };
        Self { limit: config.memory_limit, bodies, copied: 0 }
    }

    /// No limit, for whoever works on their own machine and knows what it has.
    pub(crate) fn unlimited() -> Self {
        Self { limit: None, bodies: usize::MAX, copied: 0 }
    }

    /// The same beside so many bytes of copied weights.
    pub(crate) fn beside(self, copied: usize) -> Self {
        Self { copied, ..self }
    }

    /// Bytes that the work and the models' own memory may take; `None` for no limit.
    pub(crate) fn work(&self) -> Option<usize> {
        let taken = PROCESS.saturating_add(self.bodies).saturating_add(self.copied);
        self.limit.map(|limit| limit.saturating_sub(taken))
    }
}

/// Bytes for people.
pub fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 10 << 30 => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        bytes => format!("{} MiB", bytes.div_ceil(MIB)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: Option<usize>, max_body: usize, max_pending: usize) -> Budget {
        let limits = wire::Limits { max_body_bytes: max_body * MIB, ..wire::Limits::default() };
        let (memory_limit, max_pending_bytes) = (limit.map(|mib| mib * MIB), max_pending * MIB);
        Budget::new(&Config { memory_limit, max_pending_bytes, limits, ..Config::default() })
    }

    #[test]
    fn the_parts_are_the_limit() {
        for limit in [1, 20, 64, 300, 1024, 1 << 20] {
            for (max_body, max_pending) in [(1, 0), (64, 512), (64, 1 << 20), (4096, 1)] {
                let budget = budget(Some(limit), max_body, max_pending);
                let parts = budget.bodies + budget.work().unwrap();
                assert!(parts + PROCESS == limit * MIB || budget.work() == Some(0), "{limit}: {budget:?}");
                assert!(budget.bodies <= limit * MIB / 4, "{limit}: {budget:?}");
            }
        }
    }

    #[test]
    fn copied_weights_leave_less_for_the_work() {
        let budget = budget(Some(1024), 64, 512);
        let room = budget.work().unwrap();
        assert_eq!(budget.beside(100 * MIB).work(), Some(room - 100 * MIB));
        assert_eq!(budget.beside(usize::MAX).work(), Some(0));
        assert_eq!(Budget::unlimited().beside(MIB).work(), None);
    }

    #[test]
    fn bodies_get_what_they_need_and_no_more() {
        let base64 =
            |mib| wire::Limits { max_body_bytes: mib * MIB, ..Default::default() }.max_base64_body_bytes();
        assert_eq!(budget(None, 64, 512).bodies, 512 * MIB);
        assert_eq!(budget(None, 64, 0).bodies, base64(64));
        assert_eq!(budget(Some(8192), 64, 512).bodies, 512 * MIB);
        assert_eq!(budget(Some(1024), 64, 512).bodies, 128 * MIB);
        assert_eq!(budget(Some(600), 64, 512).bodies, base64(64));
        assert_eq!(budget(Some(300), 64, 512).bodies, 75 * MIB);
        assert_eq!(budget(Some(300), 64, 0).bodies, 75 * MIB);
        assert_eq!(budget(Some(8192), 64, 100).bodies, 100 * MIB);
        assert_eq!(Budget::unlimited().work(), None);
    }

    #[test]
    fn sizes_are_rounded_up_for_people() {
        assert_eq!([size(1), size(3 * MIB), size(20 << 30)], ["1 MiB", "3 MiB", "20.0 GiB"]);
    }
}
