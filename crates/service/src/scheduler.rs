//! The order of the jobs that wait for the models: a pure state machine, told the time by its caller.
//!
//! One job runs at a time, and the next is chosen by self-clocked fair queueing (Golestani, "A self-clocked fair
//! queueing scheme for broadband applications", 1994): a job gets a tag, the virtual time at which it would be done if
//! all clients were served side by side, and the smallest tag runs first. So clients share the models equally however
//! much each of them sends, short work overtakes long work, and as virtual time goes on with every job, long work is
//! never overtaken for ever. Jobs of one client run in the order in which they came.
//!
//! When all slots are in use, a client that holds more of them than the newcomer's has to give up its newest.
//!
//! It knows nothing of threads, so that its rules can be tested one by one.

mod lines;
mod pace;

use std::time::{Duration, Instant};

use self::lines::{Lines, Waiting};
use self::pace::Pace;
use crate::client::Client;

/// Told to a client when nothing is known yet.
const NO_IDEA: Duration = Duration::from_secs(1);

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
pub(crate) struct JobId {
    client: Client,
    number: u64,
}

/// There is no free slot among the `capacity` that there are; another try makes sense after `retry_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) capacity: usize,
    pub(crate) retry_after: Duration,
}

/// A job that has got a slot.
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

struct Running {
    cost: Cost,
    since: Instant,
    /// Which part of the work is done, from 0 to 1.
    done: f64,
    /// How many seconds it is going to take in all: by its progress where it has shown some, else by its model's pace.
    seconds: Option<f64>,
}

/// The jobs that wait and the one that runs. `T` is what has to be done.
pub(crate) struct Scheduler<T> {
    capacity: usize,
    next_number: u64,
    lines: Lines<T>,
    running: Option<Running>,
    pace: Pace,
}

/// Where a newcomer would go.
enum Slot {
    Free,
    /// That of the newest job of this client.
    Of(Client),
}

impl<T> Scheduler<T> {
    /// A queue in which at most `capacity` jobs wait, besides the one that runs.
    pub(crate) fn new(capacity: usize, models: usize) -> Self {
        Self { capacity, next_number: 0, lines: Lines::new(), running: None, pace: Pace::new(models) }
    }

    /// Whether a job of this client would be admitted now.
    pub(crate) fn check(&self, client: Client, now: Instant) -> Result<(), Full> {
        self.slot(client, now).map(|_| ())
    }

    /// Puts a job into the queue.
    pub(crate) fn admit(
        &mut self,
        client: Client,
        cost: Cost,
        job: T,
        now: Instant,
    ) -> Result<Admitted<T>, Full> {
        let displaced = match self.slot(client, now)? {
            Slot::Free => None,
            Slot::Of(greediest) => {
                let full = self.full(now);
                self.lines.remove_newest(greediest).map(|waiting| (waiting.job, full))
            }
        };
        let number = self.next_number;
        self.next_number += 1;
        let pace = self.pace.of(cost.model).unwrap_or(FIRST_GUESS);
        let seconds = pace * cost.work as f64;
        self.lines.push(client, number, Waiting { cost, seconds, since: now, job });
        Ok(Admitted { id: JobId { client, number }, displaced })
    }

    /// Takes the next job to be run, if none is running.
    pub(crate) fn start(&mut self, now: Instant) -> Option<Started<T>> {
        if self.running.is_some() {
            return None;
        }
        let next = self.lines.pop()?;
        let seconds = self.pace.of(next.cost.model).map(|pace| pace * next.cost.work as f64);
        self.running = Some(Running { cost: next.cost, since: now, done: 0.0, seconds });
        Some(Started { job: next.job, waited: now.saturating_duration_since(next.since) })
    }

    /// `done` of `total` units of the running job's work are finished.
    pub(crate) fn progress(&mut self, done: usize, total: usize, now: Instant) {
        if let (Some(running), true) = (&mut self.running, total > 0) {
            running.done = (done as f64 / total as f64).min(1.0);
            if done > 0 {
                let elapsed = now.saturating_duration_since(running.since).as_secs_f64();
                running.seconds = Some(elapsed / running.done);
            }
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
        self.pace.learn(running.cost.model, took / running.cost.work as f64);
    }

    /// Nobody waits for this job any more. Gives it back if it still waited, and forgets it then.
    pub(crate) fn abandon(&mut self, id: JobId) -> Option<T> {
        self.lines.remove(id.client, id.number).map(|waiting| waiting.job)
    }

    /// Whether nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting() == 0
    }

    /// How many jobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lines.len()
    }

    /// The slot for a newcomer of this client.
    fn slot(&self, client: Client, now: Instant) -> Result<Slot, Full> {
        // An idle queue takes a job whatever its capacity, as that job will not wait.
        if self.is_idle() || self.waiting() < self.capacity {
            return Ok(Slot::Free);
        }
        match self.lines.greediest() {
            // With the slot they would not merely change roles.
            Some((greediest, held)) if held > self.lines.held(client) + 1 => Ok(Slot::Of(greediest)),
            _ => Err(self.full(now)),
        }
    }

    /// A slot becomes free when the next job may start.
    fn full(&self, now: Instant) -> Full {
        Full { capacity: self.capacity, retry_after: self.remaining(now).unwrap_or(NO_IDEA) }
    }

    /// How long the running job will take yet.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        let running = self.running.as_ref()?;
        let elapsed = now.saturating_duration_since(running.since).as_secs_f64();
        Duration::try_from_secs_f64((running.seconds? - elapsed).max(0.0)).ok()
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
