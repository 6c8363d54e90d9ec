//! The waiting line in front of the models: a pure state machine, told the time by its caller.
//!
//! One job runs at a time, and the next is chosen by self-clocked fair queueing (Golestani, "A self-clocked fair
//! queueing scheme for broadband applications", 1994): a job gets a tag, the virtual time at which it would be done if
//! all clients were served side by side, and the smallest tag runs first. So clients share the models equally however
//! much each of them sends, short work overtakes long work, and as virtual time goes on with every job, long work is
//! never overtaken for ever. Jobs of one client run in the order in which they came.
//!
//! When all places are taken, a client that holds more of them than the newcomer's has to give up its newest.
//!
//! It knows nothing of threads or HTTP, so that its rules can be tested one by one.

use std::time::{Duration, Instant};

use crate::client::Client;

/// Told to a client when nothing is known yet.
const NO_IDEA: Duration = Duration::from_secs(1);

/// How much weight the newest job has in what is remembered of a model's pace.
const NEWEST: f64 = 0.5;

/// Seconds for a unit of work when no model has finished anything yet. All models have the same then, so that only their
/// amounts of work matter.
const FIRST_GUESS: f64 = 1e-11;

/// What a job is to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Which model it needs, by index.
    pub(crate) model: usize,
    /// How much work it is, in units that are about equal in time for one model.
    pub(crate) work: u64,
    /// How many pictures or frames come of it, for people who watch it.
    pub(crate) frames: usize,
}

/// Names a job in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JobId(u64);

/// There is no place; another try makes sense after `retry_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) retry_after: Duration,
}

/// A job that has got a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted<T> {
    pub(crate) id: JobId,
    /// The job that had to make room for it.
    pub(crate) displaced: Option<(T, Full)>,
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
    client: Client,
    cost: Cost,
    /// How long it was expected to take when it came.
    seconds: f64,
    /// The virtual time at which it would be done if all clients were served side by side.
    tag: f64,
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
    /// In the order in which they came.
    waiting: Vec<Waiting<T>>,
    running: Option<Running>,
    /// Virtual time: the tag of the job that was started last.
    clock: f64,
    /// Seconds a unit of work by model, as far as they are known.
    pace: Vec<Option<f64>>,
}

/// Where a newcomer would go.
enum Place {
    Free,
    /// That of the waiting job at this index.
    Of(usize),
}

impl<T> Queue<T> {
    /// A line in which at most `capacity` jobs wait, besides the one that runs.
    pub(crate) fn new(capacity: usize, models: usize) -> Self {
        Self {
            capacity,
            next_id: 0,
            waiting: Vec::new(),
            running: None,
            clock: 0.0,
            pace: vec![None; models],
        }
    }

    /// Whether a job of this client would be admitted now.
    pub(crate) fn check(&self, client: Client, now: Instant) -> Result<(), Full> {
        self.place(client, now).map(|_| ())
    }

    /// Takes a place in the line.
    pub(crate) fn admit(
        &mut self,
        client: Client,
        cost: Cost,
        job: T,
        now: Instant,
    ) -> Result<Admitted<T>, Full> {
        let displaced = match self.place(client, now)? {
            Place::Free => None,
            Place::Of(index) => {
                let full = self.full(now);
                self.remove(index).map(|waiting| (waiting.job, full))
            }
        };
        let id = JobId(self.next_id);
        self.next_id += 1;
        let pace = self.pace(cost.model).unwrap_or(FIRST_GUESS);
        let seconds = pace * cost.work as f64;
        let own = self.waiting.iter().filter(|waiting| waiting.client == client).map(|waiting| waiting.tag);
        let tag = own.fold(self.clock, f64::max) + seconds;
        self.waiting.push(Waiting { id, client, cost, seconds, tag, since: now, job });
        Ok(Admitted { id, displaced })
    }

    /// Takes the next job to be run, if none is running.
    pub(crate) fn start(&mut self, now: Instant) -> Option<Started<T>> {
        if self.running.is_some() {
            return None;
        }
        // The first of equals is the oldest.
        let (index, _) =
            self.waiting.iter().enumerate().min_by(|(_, one), (_, other)| one.tag.total_cmp(&other.tag))?;
        let next = self.waiting.remove(index);
        self.clock = next.tag;
        self.running = Some(Running { cost: next.cost, since: now, done: 0.0 });
        Some(Started { job: next.job, waited: now.saturating_duration_since(next.since) })
    }

    /// `done` of `total` units of the running job's work are finished.
    pub(crate) fn progress(&mut self, done: usize, total: usize) {
        if let (Some(running), true) = (&mut self.running, total > 0) {
            running.done = (done as f64 / total as f64).min(1.0);
        }
    }

    /// Of the running job, how many frames are done, going by the work, and how many there will be.
    pub(crate) fn running(&self) -> Option<[usize; 2]> {
        let running = self.running.as_ref()?;
        let frames = running.cost.frames;
        Some([(running.done * frames as f64) as usize, frames])
    }

    /// The running job has ended. Only one that was `completed` teaches the model's pace.
    pub(crate) fn finish(&mut self, completed: bool, now: Instant) {
        let Some(running) = self.running.take() else { return };
        if !completed || running.cost.work == 0 {
            return;
        }
        let took = now.saturating_duration_since(running.since).as_secs_f64();
        let newest = took / running.cost.work as f64;
        if let Some(pace) = self.pace.get_mut(running.cost.model) {
            *pace = Some(pace.map_or(newest, |known| known + NEWEST * (newest - known)));
        }
    }

    /// Nobody waits for this job any more. Returns whether it still waited, and forgets it then.
    pub(crate) fn abandon(&mut self, id: JobId) -> bool {
        let index = self.waiting.iter().position(|waiting| waiting.id == id);
        index.and_then(|index| self.remove(index)).is_some()
    }

    /// Whether nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// How many jobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The place for a newcomer of this client.
    fn place(&self, client: Client, now: Instant) -> Result<Place, Full> {
        // An idle queue takes a job whatever its capacity, as that job will not wait.
        if self.is_idle() || self.waiting.len() < self.capacity {
            return Ok(Place::Free);
        }
        let held = |client| self.waiting.iter().filter(|waiting| waiting.client == client).count();
        // The newest job of the client that holds the most.
        let greediest = self.waiting.iter().enumerate().max_by_key(|(_, waiting)| held(waiting.client));
        match greediest {
            // With the place they would not merely change roles.
            Some((_, greedy)) if held(greedy.client) > held(client) + 1 => {
                let newest = self.waiting.iter().rposition(|waiting| waiting.client == greedy.client);
                newest.map(Place::Of).ok_or_else(|| self.full(now))
            }
            _ => Err(self.full(now)),
        }
    }

    /// A place becomes free when the next job may start.
    fn full(&self, now: Instant) -> Full {
        Full { retry_after: self.remaining(now).unwrap_or(NO_IDEA) }
    }

    /// Takes a job out of the line; those of its client that came later move up.
    fn remove(&mut self, index: usize) -> Option<Waiting<T>> {
        if index >= self.waiting.len() {
            return None;
        }
        let gone = self.waiting.remove(index);
        let later = self.waiting.iter_mut().skip(index).filter(|waiting| waiting.client == gone.client);
        later.for_each(|waiting| waiting.tag -= gone.seconds);
        Some(gone)
    }

    /// Seconds for a unit of work of this model: as measured, or until then as it is for the others, if it is known.
    fn pace(&self, model: usize) -> Option<f64> {
        let own = self.pace.get(model).copied().flatten();
        own.or_else(|| {
            let known = || self.pace.iter().flatten();
            let count = known().count();
            (count > 0).then(|| known().sum::<f64>() / count as f64)
        })
    }

    /// How long the running job will take yet: by its progress where it has shown some, else by its model's pace.
    fn remaining(&self, now: Instant) -> Option<Duration> {
        let running = self.running.as_ref()?;
        let elapsed = now.saturating_duration_since(running.since).as_secs_f64();
        let seconds = if running.done > 0.0 {
            elapsed * (1.0 - running.done) / running.done
        } else {
            let pace = self.pace(running.cost.model)?;
            (pace * running.cost.work as f64 - elapsed).max(0.0)
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Cost = Cost { model: 0, work: 100, frames: 1 };
    const LARGE: Cost = Cost { model: 0, work: 10_000, frames: 9 };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A client by its number.
    fn client(number: u8) -> Client {
        Client::Address([10, 0, 0, number].into())
    }

    /// A job of client 1 that finds a free place.
    fn admit<T: std::fmt::Debug>(queue: &mut Queue<T>, job: T, now: Instant) -> JobId {
        let Admitted { id, displaced } = queue.admit(client(1), SMALL, job, now).unwrap();
        assert!(displaced.is_none());
        id
    }

    /// All jobs that wait, in the order in which they are run.
    fn order<T>(queue: &mut Queue<T>, now: Instant) -> Vec<T> {
        let mut jobs = Vec::new();
        while let Some(started) = queue.start(now) {
            jobs.push(started.job);
            queue.finish(false, now);
        }
        jobs
    }

    #[test]
    fn jobs_run_one_by_one_in_order() {
        let start = Instant::now();
        let mut queue = Queue::new(2, 1);
        admit(&mut queue, "a", start);
        admit(&mut queue, "b", start);
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
    fn a_client_with_many_jobs_waits_for_its_own() {
        let now = Instant::now();
        let mut queue = Queue::new(9, 1);
        for job in ["1a", "1b", "1c"] {
            queue.admit(client(1), SMALL, job, now).unwrap();
        }
        for job in ["2a", "2b"] {
            queue.admit(client(2), SMALL, job, now).unwrap();
        }
        assert_eq!(order(&mut queue, now), ["1a", "2a", "1b", "2b", "1c"]);
    }

    #[test]
    fn short_work_overtakes_long_work_but_not_for_ever() {
        let now = Instant::now();
        let mut queue = Queue::new(999, 1);
        queue.admit(client(1), LARGE, "large", now).unwrap();
        let mut overtaken = 0;
        loop {
            // A client that always has one more.
            queue.admit(client(2), SMALL, "small", now).unwrap();
            let started = queue.start(now).unwrap();
            queue.finish(false, now);
            if started.job == "large" {
                break;
            }
            overtaken += 1;
        }
        // The large one is a hundred times the work; the last is a matter of rounding.
        assert!((99..=100).contains(&overtaken), "{overtaken}");
        // One client's own short work does not overtake its long work.
        let mut queue = Queue::new(9, 1);
        queue.admit(client(1), LARGE, "large", now).unwrap();
        queue.admit(client(1), SMALL, "small", now).unwrap();
        assert_eq!(order(&mut queue, now), ["large", "small"]);
    }

    #[test]
    fn who_has_waited_for_nothing_has_saved_nothing() {
        let now = Instant::now();
        let mut queue = Queue::new(9, 1);
        for _ in 0..5 {
            queue.admit(client(1), LARGE, "before", now).unwrap();
        }
        assert_eq!(order(&mut queue, now).len(), 5);
        // Client 2 asked for nothing so far, and gets its share from now on, not more.
        for job in ["1a", "1b"] {
            queue.admit(client(1), SMALL, job, now).unwrap();
        }
        for job in ["2a", "2b"] {
            queue.admit(client(2), SMALL, job, now).unwrap();
        }
        assert_eq!(order(&mut queue, now), ["1a", "2a", "1b", "2b"]);
    }

    #[test]
    fn a_job_that_is_given_up_costs_its_client_nothing() {
        let now = Instant::now();
        let mut queue = Queue::new(9, 1);
        let large = queue.admit(client(1), LARGE, "large", now).unwrap().id;
        queue.admit(client(1), SMALL, "1", now).unwrap();
        queue.admit(client(2), SMALL, "2", now).unwrap();
        assert!(queue.abandon(large));
        assert_eq!(order(&mut queue, now), ["1", "2"]);
    }

    #[test]
    fn a_full_queue_takes_nobody_until_one_starts_or_leaves() {
        let now = Instant::now();
        let mut queue = Queue::new(1, 1);
        admit(&mut queue, 0, now);
        let second = queue.admit(client(1), SMALL, 1, now);
        assert!(second.is_err(), "one waits, and the executor has not come for it");
        queue.start(now).unwrap();
        let second = admit(&mut queue, 2, now);
        assert!(queue.check(client(1), now).is_err());
        assert!(queue.abandon(second));
        assert!(!queue.abandon(second), "it is gone");
        admit(&mut queue, 3, now);
        queue.finish(true, now);
        assert_eq!(queue.start(now).unwrap().job, 3);
    }

    #[test]
    fn the_greediest_client_makes_room() {
        let now = Instant::now();
        let mut queue = Queue::new(3, 1);
        admit(&mut queue, "running", now);
        queue.start(now).unwrap();
        for job in ["1a", "1b", "1c"] {
            admit(&mut queue, job, now);
        }
        assert!(queue.check(client(1), now).is_err(), "nobody displaces himself");
        assert!(queue.check(client(2), now).is_ok());
        let admitted = queue.admit(client(2), SMALL, "2a", now).unwrap();
        assert_eq!(admitted.displaced, Some(("1c", Full { retry_after: NO_IDEA })));
        // Two and one: the roles would only be changed.
        assert!(queue.check(client(2), now).is_err());
        // Client 3 has none, client 1 has two.
        let admitted = queue.admit(client(3), SMALL, "3a", now).unwrap();
        assert_eq!(admitted.displaced.map(|(job, _)| job), Some("1b"));
        assert!(queue.check(client(4), now).is_err(), "everybody has one");
        queue.finish(true, now);
        assert_eq!(order(&mut queue, now), ["1a", "2a", "3a"]);
    }

    #[test]
    fn without_places_one_job_may_still_run() {
        let now = Instant::now();
        let mut queue = Queue::new(0, 1);
        admit(&mut queue, (), now);
        assert!(queue.check(client(2), now).is_err());
        queue.start(now).unwrap();
        assert!(queue.check(client(2), now).is_err());
        queue.finish(true, now);
        admit(&mut queue, (), now);
    }

    #[test]
    fn what_is_told_to_those_who_find_it_full() {
        let start = Instant::now();
        let mut queue = Queue::new(0, 2);
        let told = |queue: &Queue<()>, after| {
            queue.check(client(1), start + seconds(after)).unwrap_err().retry_after
        };

        admit(&mut queue, (), start);
        queue.start(start).unwrap();
        assert_eq!(told(&queue, 3), NO_IDEA, "no job has been finished yet");
        queue.progress(1, 4);
        assert_eq!(told(&queue, 3), seconds(9), "a quarter took three seconds");
        queue.finish(true, start + seconds(10));

        // Twice the work, so twice the ten seconds, by the pace alone.
        queue.admit(client(1), Cost { work: 200, ..SMALL }, (), start + seconds(10)).unwrap();
        queue.start(start + seconds(10)).unwrap();
        assert_eq!(told(&queue, 15), seconds(15));
        assert_eq!(told(&queue, 99), seconds(0), "late, but never negative");
        queue.finish(false, start + seconds(99));

        // A cancelled job taught nothing, and a model that has done nothing yet is taken for one like the others.
        admit(&mut queue, (), start + seconds(100));
        queue.start(start + seconds(100)).unwrap();
        assert_eq!(told(&queue, 100), seconds(10));
        queue.finish(false, start + seconds(100));
        queue.admit(client(1), Cost { model: 1, ..SMALL }, (), start + seconds(100)).unwrap();
        queue.start(start + seconds(100)).unwrap();
        assert_eq!(told(&queue, 100), seconds(10));
        queue.finish(true, start + seconds(140));
        // From then on it has its own pace.
        queue.admit(client(1), Cost { model: 1, ..SMALL }, (), start + seconds(140)).unwrap();
        queue.start(start + seconds(140)).unwrap();
        assert_eq!(told(&queue, 140), seconds(40));
    }

    #[test]
    fn the_pace_follows_the_newest_jobs() {
        let mut now = Instant::now();
        let mut queue = Queue::new(0, 1);
        for _ in 0..20 {
            for took in [1, 3] {
                admit(&mut queue, (), now);
                queue.start(now).unwrap();
                now += seconds(took);
                queue.finish(true, now);
            }
        }
        admit(&mut queue, (), now);
        queue.start(now).unwrap();
        let told = queue.check(client(1), now).unwrap_err().retry_after;
        assert!(seconds(2) < told && told < seconds(3), "{told:?}");
    }

    #[test]
    fn progress_is_counted_in_frames() {
        let (mut queue, start) = (Queue::new(1, 1), Instant::now());
        assert_eq!(queue.running(), None);
        queue.admit(client(0), LARGE, (), start).unwrap();
        assert_eq!(queue.running(), None, "it waits");
        queue.start(start).unwrap();
        for (done, frames) in [(0, 0), (10, 0), (12, 1), (99, 8), (100, 9), (120, 9)] {
            queue.progress(done, 100);
            assert_eq!(queue.running(), Some([frames, 9]));
        }
        queue.finish(true, start);
        assert_eq!(queue.running(), None);
    }
}
