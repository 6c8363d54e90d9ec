//! Long kernels: told how far they are, and stopped on the way.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::arena::OutOfMemory;
use crate::pool::Pool;

/// Why a kernel gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Not enough memory.
    OutOfMemory(OutOfMemory),
    /// It was told not to go on.
    Cancelled,
}

impl From<OutOfMemory> for Stopped {
    fn from(error: OutOfMemory) -> Self {
        Self::OutOfMemory(error)
    }
}

/// Multiplications between two questions: some hundredths of a second of two cores.
const WORK: usize = 2_500_000_000;

/// Asks, while a kernel runs, whether it should go on, each time that another part of its work has begun and once at its end, on
/// the thread that called the kernel. How often, and with which shares, does not depend on the time that it takes.
pub struct Watched<'a> {
    /// Takes the share of the work that is done, from 0 to 1; the kernel ends soon after `false`.
    go_on: Option<&'a mut dyn FnMut(f64) -> bool>,
    stop: Stop,
}

/// Says within a long task that nobody wants its result any more.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether the task should end now, whatever it leaves undone.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<'a> Watched<'a> {
    /// Asks this.
    pub fn new(go_on: &'a mut dyn FnMut(f64) -> bool) -> Self {
        Self { go_on: Some(go_on), stop: Stop::default() }
    }

    /// Asks nobody: the kernel runs to its end.
    pub fn unwatched() -> Self {
        Self { go_on: None, stop: Stop::default() }
    }

    /// For tasks that are long themselves: set when the kernel is told to stop.
    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Runs `count` tasks of about `work` multiplications each as [`Pool::run`] does. They are the part `share` of the kernel's
    /// work.
    pub(crate) fn run(
        &mut self,
        pool: &Pool,
        share: Range<f64>,
        count: usize,
        work: usize,
        task: impl Fn(usize, usize) + Sync,
    ) -> Result<(), Stopped> {
        let Some(go_on) = &mut self.go_on else {
            pool.run(count, task);
            return Ok(());
        };
        let stop = &self.stop.0;
        let together = (WORK / work.max(1)).max(1);
        // How many tasks the last question was about.
        let mut asked = 0;
        let went_on = pool.run_asking(count, task, &mut |begun| {
            while asked < count && (begun == count || begun > asked + together) {
                asked = count.min(asked + together);
                let done = asked as f64 / count as f64;
                if !go_on(share.start + done * (share.end - share.start)) {
                    stop.store(true, Ordering::Relaxed);
                    return false;
                }
            }
            true
        });
        if went_on { Ok(()) } else { Err(Stopped::Cancelled) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_task_runs_once() {
        let pool = Pool::new(2).expect("threads");
        let ran = Mutex::new(Vec::new());
        let mut shares = Vec::new();
        let mut go_on = |share: f64| {
            shares.push(share);
            true
        };
        let mut watched = Watched::new(&mut go_on);
        let task = |_, index: usize| ran.lock().expect("no panic").push(index);
        assert_eq!(watched.run(&pool, 0.0..0.5, 100, 1, task), Ok(()));
        assert_eq!(watched.run(&pool, 0.5..1.0, 100, WORK / 40, |_, index| task(0, 100 + index)), Ok(()));
        let mut ran = ran.into_inner().expect("no panic");
        ran.sort_unstable();
        assert_eq!(ran, (0..200).collect::<Vec<_>>());
        // Small tasks are not asked about one by one.
        assert_eq!(shares, [0.5, 0.7, 0.9, 1.0]);
    }

    #[test]
    fn a_stop_is_seen_between_tasks_and_within_them() {
        let pool = Pool::new(2).expect("threads");
        let ran = AtomicBool::new(false);
        let mut go_on = |_| false;
        let mut watched = Watched::new(&mut go_on);
        let stop = watched.stop();
        // Neither of the first tasks ends by itself, and the third must not begin.
        let stopped = watched.run(&pool, 0.0..1.0, 3, WORK, |_, index| {
            ran.fetch_or(index == 2, Ordering::Relaxed);
            while !stop.is_set() {
                std::thread::yield_now();
            }
        });
        assert_eq!(stopped, Err(Stopped::Cancelled));
        assert!(!ran.into_inner());
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller() {
        let pool = Pool::new(2).expect("threads");
        let mut go_on = |_| true;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Watched::new(&mut go_on).run(&pool, 0.0..1.0, 4, 1, |_, index| assert_ne!(index, 1, "the panic"))
        }));
        assert!(caught.is_err());
    }
}
