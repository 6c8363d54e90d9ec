//! The threads that kernels run on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A fixed set of worker threads. Work is cut into numbered tasks that the workers take in order as they get free.
/// Cloning shares them.
#[derive(Clone)]
pub struct Pool(Workers);

#[derive(Clone)]
enum Workers {
    Threads(Arc<rayon::ThreadPool>),
    /// So many, of which none does anything.
    Absent(usize),
}

impl Pool {
    /// Starts `threads` workers (at least one).
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("kernels-{i}"))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self(Workers::Threads(Arc::new(threads))))
    }

    /// As many workers as `like` has, who leave every task undone: kernels run with them take the memory that they would
    /// take, and touch none of it.
    pub(crate) fn absent(like: &Self) -> Self {
        Self(Workers::Absent(like.threads()))
    }

    /// The number of workers.
    pub fn threads(&self) -> usize {
        match &self.0 {
            Workers::Threads(threads) => threads.current_num_threads(),
            Workers::Absent(count) => *count,
        }
    }

    /// Runs `task(worker, index)` for every index below `count` and waits for all. `worker` is below
    /// [`Pool::threads`], and no two tasks run with the same worker at the same time.
    pub(crate) fn run(&self, count: usize, task: impl Fn(usize, usize) + Sync) {
        let Workers::Threads(threads) = &self.0 else { return };
        let next = AtomicUsize::new(0);
        let drain = |worker: usize| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                task(worker, index);
            }
        };
        threads.broadcast(|context| drain(context.index()));
    }
}

/// A pointer to memory that workers share; each writes its own part of what it points to.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: every use of the pointer says which part of the memory is its own.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(pointer: *mut f32) -> Self {
        Self(pointer)
    }

    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}
