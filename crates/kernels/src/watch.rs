//! Long kernels: told how far they are, and stopped on the way.

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

/// Asked between the parts of a kernel, on the thread that called it.
pub struct Watched<'a> {
    /// Takes the share of the work that is done, from 0 to 1; the kernel ends soon after `false`.
    go_on: &'a mut dyn FnMut(f64) -> bool,
}

/// Multiplications between two questions: a tenth of a second or so of two cores.
const WORK: usize = 10_000_000_000;

impl<'a> Watched<'a> {
    /// Asks this.
    pub fn new(go_on: &'a mut dyn FnMut(f64) -> bool) -> Self {
        Self { go_on }
    }

    /// Runs `count` tasks of about `work` multiplications in all, as [`Pool::run`] does, and asks now and then.
    pub(crate) fn run(
        &mut self,
        pool: &Pool,
        count: usize,
        work: usize,
        task: impl Fn(usize, usize) + Sync,
    ) -> Result<(), Stopped> {
        let together = (WORK / work.max(1)).max(1).next_multiple_of(pool.threads());
        for begin in (0..count).step_by(together) {
            let end = count.min(begin + together);
            pool.run(end - begin, |worker, index| task(worker, begin + index));
            if !(self.go_on)(end as f64 / count as f64) {
                return Err(Stopped::Cancelled);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_task_runs_once_until_it_is_stopped() {
        let pool = Pool::new(2).expect("threads");
        let ran = Mutex::new(Vec::new());
        let mut shares = Vec::new();
        let mut go_on = |share: f64| {
            shares.push(share);
            share < 0.5
        };
        let stopped = Watched::new(&mut go_on).run(&pool, 10, WORK, |_, index| {
            ran.lock().expect("no panic").push(index);
        });
        assert_eq!(stopped, Err(Stopped::Cancelled));
        assert_eq!(shares, [0.2, 0.4, 0.6]);
        let mut ran = ran.into_inner().expect("no panic");
        ran.sort_unstable();
        assert_eq!(ran, (0..6).collect::<Vec<_>>());
        // Small tasks are not asked about one by one.
        let mut asked = 0;
        let mut count = |_| {
            asked += 1;
            true
        };
        assert_eq!(Watched::new(&mut count).run(&pool, 1000, 1, |_, _| {}), Ok(()));
        assert_eq!(asked, 1);
    }
}
