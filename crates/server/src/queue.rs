//! The waiting line in front of the models: a pure state machine, told the time by its caller.
//!
//! One job runs at a time, the others wait in the order in which they came. It knows nothing of threads or HTTP, so
//! that its rules can be tested one by one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Told to a client when nothing is known yet.
const NO_IDEA: Duration = Duration::from_secs(1);

/// How much weight the newest job has in what is remembered of a model's pace.
const NEWEST: f64 = 0.5;

/// What a job is to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Which model it needs, by index.
    pub(crate) model: usize,
    /// How much work it is, in pixels to decode.
    pub(crate) pixels: usize,
}

/// Names a job in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JobId(u64);

/// There is no place; another try makes sense after `retry_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) retry_after: Duration,
}

/// A job that may run now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Started<T> {
    pub(crate) job: T,
    /// How long it has waited.
    pub(crate) waited: Duration,
}

struct Waiting<T> {
    id: JobId,
    cost: Cost,
    since: Instant,
    job: T,
}

struct Running {
    cost: Cost,
    since: Instant,
    /// Which part of the work is done, from 0 to 1.
    done: f64,
}

/// The line. `T` is what has to be done.
pub(crate) struct Queue<T> {
    capacity: usize,
    next_id: u64,
    waiting: VecDeque<Waiting<T>>,
    running: Option<Running>,
    /// Seconds a pixel by model, as far as they are known.
    pace: Vec<Option<f64>>,
}

impl<T> Queue<T> {
    /// A line in which at most `capacity` jobs wait, besides the one that runs.
    pub(crate) fn new(capacity: usize, models: usize) -> Self {
        Self { capacity, next_id: 0, waiting: VecDeque::new(), running: None, pace: vec![None; models] }
    }

    /// Whether a job would be admitted now.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Full> {
        // An idle queue takes a job whatever its capacity, as that job will not wait.
        let idle = self.running.is_none() && self.waiting.is_empty();
        if idle || self.waiting.len() < self.capacity {
            return Ok(());
        }
        // A place becomes free when the next job may start.
        Err(Full { retry_after: self.remaining(now).unwrap_or(NO_IDEA) })
    }

    /// Takes a place in the line.
    pub(crate) fn admit(&mut self, cost: Cost, job: T, now: Instant) -> Result<JobId, Full> {
        self.check(now)?;
        let id = JobId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Waiting { id, cost, since: now, job });
        Ok(id)
    }

    /// Takes the next job to be run, if none is running.
    pub(crate) fn start(&mut self, now: Instant) -> Option<Started<T>> {
        if self.running.is_some() {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.running = Some(Running { cost: next.cost, since: now, done: 0.0 });
        Some(Started { job: next.job, waited: now.saturating_duration_since(next.since) })
    }

    /// `done` of `total` units of the running job's work are finished.
    pub(crate) fn progress(&mut self, done: usize, total: usize) {
        if let (Some(running), true) = (&mut self.running, total > 0) {
            running.done = (done as f64 / total as f64).min(1.0);
        }
    }

    /// The running job has ended. Only one that was `completed` teaches the model's pace.
    pub(crate) fn finish(&mut self, completed: bool, now: Instant) {
        let Some(running) = self.running.take() else { return };
        if !completed || running.cost.pixels == 0 {
            return;
        }
        let took = now.saturating_duration_since(running.since).as_secs_f64();
        let newest = took / running.cost.pixels as f64;
        if let Some(pace) = self.pace.get_mut(running.cost.model) {
            *pace = Some(pace.map_or(newest, |known| known + NEWEST * (newest - known)));
        }
    }

    /// Nobody waits for this job any more. Returns whether it still waited, and forgets it then.
    pub(crate) fn abandon(&mut self, id: JobId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.id != id);
        self.waiting.len() < before
    }

    /// Whether nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// How long the running job will take yet: by its progress where it has shown some, else by its model's pace.
    fn remaining(&self, now: Instant) -> Option<Duration> {
        let running = self.running.as_ref()?;
        let elapsed = now.saturating_duration_since(running.since).as_secs_f64();
        let seconds = if running.done > 0.0 {
            elapsed * (1.0 - running.done) / running.done
        } else {
            let pace = (*self.pace.get(running.cost.model)?)?;
            (pace * running.cost.pixels as f64 - elapsed).max(0.0)
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Cost = Cost { model: 0, pixels: 100 };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn jobs_run_one_by_one_in_order() {
        let start = Instant::now();
        let mut queue = Queue::new(2, 1);
        queue.admit(SMALL, "a", start).unwrap();
        queue.admit(SMALL, "b", start).unwrap();
        assert_eq!(queue.start(start + seconds(1)), Some(Started { job: "a", waited: seconds(1) }));
        assert_eq!(queue.start(start + seconds(1)), None, "one runs already");
        queue.finish(true, start + seconds(4));
        assert_eq!(queue.start(start + seconds(4)), Some(Started { job: "b", waited: seconds(4) }));
        assert!(!queue.is_idle());
        queue.finish(true, start + seconds(5));
        assert!(queue.is_idle());
        assert_eq!(queue.start(start + seconds(5)), None);
    }

    #[test]
    fn a_full_queue_takes_nobody_until_one_starts_or_leaves() {
        let now = Instant::now();
        let mut queue = Queue::new(1, 1);
        queue.admit(SMALL, 0, now).unwrap();
        assert!(queue.admit(SMALL, 1, now).is_err(), "one waits, and the executor has not come for it");
        queue.start(now).unwrap();
        let second = queue.admit(SMALL, 2, now).unwrap();
        assert!(queue.check(now).is_err());
        assert!(queue.abandon(second));
        assert!(!queue.abandon(second), "it is gone");
        queue.admit(SMALL, 3, now).unwrap();
        queue.finish(true, now);
        assert_eq!(queue.start(now).unwrap().job, 3);
    }

    #[test]
    fn without_places_one_job_may_still_run() {
        let now = Instant::now();
        let mut queue = Queue::new(0, 1);
        queue.admit(SMALL, (), now).unwrap();
        assert!(queue.admit(SMALL, (), now).is_err());
        queue.start(now).unwrap();
        assert!(queue.admit(SMALL, (), now).is_err());
        queue.finish(true, now);
        queue.admit(SMALL, (), now).unwrap();
    }

    #[test]
    fn what_is_told_to_those_who_find_it_full() {
        let start = Instant::now();
        let mut queue = Queue::new(0, 2);
        let told = |queue: &Queue<()>, after| queue.check(start + seconds(after)).unwrap_err().retry_after;

        queue.admit(SMALL, (), start).unwrap();
        queue.start(start).unwrap();
        assert_eq!(told(&queue, 3), NO_IDEA, "no job has been finished yet");
        queue.progress(1, 4);
        assert_eq!(told(&queue, 3), seconds(9), "a quarter took three seconds");
        queue.finish(true, start + seconds(10));

        // Twice the pixels, so twice the ten seconds, by the pace alone.
        queue.admit(Cost { pixels: 200, ..SMALL }, (), start + seconds(10)).unwrap();
        queue.start(start + seconds(10)).unwrap();
        assert_eq!(told(&queue, 15), seconds(15));
        assert_eq!(told(&queue, 99), seconds(0), "late, but never negative");
        queue.finish(false, start + seconds(99));

        // A cancelled job taught nothing, and another model has its own pace.
        queue.admit(SMALL, (), start + seconds(100)).unwrap();
        queue.start(start + seconds(100)).unwrap();
        assert_eq!(told(&queue, 100), seconds(10));
        queue.finish(false, start + seconds(100));
        queue.admit(Cost { model: 1, pixels: 100 }, (), start + seconds(100)).unwrap();
        queue.start(start + seconds(100)).unwrap();
        assert_eq!(told(&queue, 100), NO_IDEA);
    }

    #[test]
    fn the_pace_follows_the_newest_jobs() {
        let mut now = Instant::now();
        let mut queue = Queue::new(0, 1);
        for _ in 0..20 {
            for took in [1, 3] {
                queue.admit(SMALL, (), now).unwrap();
                queue.start(now).unwrap();
                now += seconds(took);
                queue.finish(true, now);
            }
        }
        queue.admit(SMALL, (), now).unwrap();
        queue.start(now).unwrap();
        let told = queue.check(now).unwrap_err().retry_after;
        assert!(seconds(2) < told && told < seconds(3), "{told:?}");
    }
}
