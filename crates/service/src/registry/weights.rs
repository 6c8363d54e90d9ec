//! What the weights of all models take in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often a load that waits for memory looks whether there is some.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes of all weights that are in memory or about to be, those of unloaded models that are still in use among them.
#[derive(Default)]
pub(super) struct HeldWeights {
    bytes: AtomicUsize,
    lock: Mutex<()>,
    freed: Condvar,
}

impl HeldWeights {
    /// Bytes that are held now.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Waits until some are freed, but not for long: what others free meanwhile may be enough.
    pub(super) fn wait(&self) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.freed.wait_timeout(guard, LOOK));
    }
}

/// The bytes of one model's weights, until this is dropped.
pub(super) struct Weights {
    held: Arc<HeldWeights>,
    bytes: usize,
}

impl Weights {
    pub(super) fn hold(held: &Arc<HeldWeights>, bytes: usize) -> Self {
        held.bytes.fetch_add(bytes, Ordering::SeqCst);
        Self { held: Arc::clone(held), bytes }
    }

    /// Holds them if all together are not more than `room`.
    pub(super) fn hold_within(held: &Arc<HeldWeights>, bytes: usize, room: usize) -> Option<Self> {
        let more = |all: usize| all.checked_add(bytes).filter(|&all| all <= room);
        held.bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Self { held: Arc::clone(held), bytes })
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
        self.held.freed.notify_all();
    }
}
