//! The threads that kernels run on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often the caller of a long run of tasks is asked whether to go on.
const ASK: Duration = Duration::from_millis(25);

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
        threads.broadcast(|context| drain(&next, count, context.index(), &task));
    }

    /// As [`Pool::run`], and asks on this thread every now and then, and at the end, whether to go on, with the number of
    /// tasks that have begun, which is `count` only at the end. After `false` no task begins any more. Returns the last answer.
    pub(crate) fn run_asking(
        &self,
        count: usize,
        task: impl Fn(usize, usize) + Sync,
        ask: &mut dyn FnMut(usize) -> bool,
    ) -> bool {
        let Workers::Threads(threads) = &self.0 else { return ask(count) };
        let next = AtomicUsize::new(0);
        let finished = Finished::default();
        let going_on = threads.in_place_scope(|scope| {
            scope.spawn_broadcast(|_, context| {
                let _finished = finished.at_the_end();
                drain(&next, count, context.index(), &task);
            });
            while !finished.all(threads.current_num_threads(), ASK) {
                if !ask(next.load(Ordering::Relaxed).min(count.saturating_sub(1))) {
                    next.store(count, Ordering::Relaxed);
                    return false;
                }
            }
            true
        });
        going_on && ask(count)
    }
}

/// Runs tasks as `worker`, the next one each time, until none is left.
fn drain(next: &AtomicUsize, count: usize, worker: usize, task: impl Fn(usize, usize)) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= count {
            break;
        }
        task(worker, index);
    }
}

/// How many workers have no task left.
#[derive(Default)]
struct Finished(Mutex<usize>, Condvar);

impl Finished {
    /// Counts this worker when it is dropped, so also after a panic.
    fn at_the_end(&self) -> CountOnDrop<'_> {
        CountOnDrop(self)
    }

    /// Waits until all `workers` have finished, at most for so long; whether they have.
    fn all(&self, workers: usize, wait: Duration) -> bool {
        let finished = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (finished, _) = self
            .1
            .wait_timeout_while(finished, wait, |finished| *finished < workers)
            .unwrap_or_else(PoisonError::into_inner);
        *finished >= workers
    }
}

struct CountOnDrop<'a>(&'a Finished);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        let Finished(finished, changed) = self.0;
        *finished.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        changed.notify_one();
    }
}
