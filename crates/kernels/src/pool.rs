//! The threads that kernels run on.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A fixed set of worker threads. Work is cut into numbered tasks that the workers take in order as they get free.
pub struct Pool {
    threads: rayon::ThreadPool,
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
        Ok(Self { threads })
    }

    /// The number of workers.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `task(worker, index)` for every index below `count` and waits for all. `worker` is below
    /// [`Pool::threads`], and no two tasks run with the same worker at the same time.
    pub(crate) fn run(&self, count: usize, task: impl Fn(usize, usize) + Sync) {
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
        self.threads.broadcast(|context| drain(context.index()));
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
