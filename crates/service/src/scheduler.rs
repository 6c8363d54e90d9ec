//! The order of the jobs that wait for the models: a pure state machine, told the time by its caller.
//!
//! Each worker runs one batch at a time. Its first job is chosen by self-clocked fair queueing (Golestani, "A self-clocked
//! fair queueing scheme for broadband applications", 1994): a job gets a tag, the virtual time at which it would be done
//! if all clients were served side by side, and the smallest tag runs first. So clients share the models equally however
//! much each of them sends, short work overtakes long work, and as virtual time goes on with every job, long work is
//! never overtaken for ever. Jobs of one client start in the order in which they came.
//!
//! Jobs of the same kind that wait together run together: those whose tags lie within the time of the batch itself join its
//! first job, up to what is useful. Each is charged to its client as if it had run alone, so that nobody gets more by it
//! than one batch.
//!
//! Where the number of jobs that may wait is bounded and all slots are in use, a client that holds more of them than the
//! newcomer's has to give up its newest.
//!
//! It knows nothing of threads, so that its rules can be tested one by one.

mod lines;
mod pace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use vae::{DecodeOptions, EncodeOptions};

use self::lines::{Lines, Waiting};
use self::pace::Pace;
use crate::client::Client;

/// Told to a client when nothing is known yet.
const NO_IDEA: Duration = Duration::from_secs(1);

/// The part of a job's work from which on its progress tells how long it will take.
const TELLING: f64 = 0.05;

/// Seconds for a unit of work when no model has finished anything yet. All models have the same then, so that only their
/// amounts of work matter.
const FIRST_GUESS: f64 = 1e-11;

/// What jobs have in common that can run together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// Which model they need, by index.
    pub(crate) model: usize,
    /// The shape of one item, without the axis of the batch.
    pub(crate) shape: Vec<usize>,
    /// How they are done.
    pub(crate) options: Options,
}

/// How a job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Options {
    Decode(DecodeOptions),
    Encode(EncodeOptions),
}

impl std::hash::Hash for Options {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match *self {
            Self::Decode(DecodeOptions { tiling, framewise, lean, memory }) => {
                (0, tiling, framewise, lean, memory).hash(state);
            }
            Self::Encode(EncodeOptions { tiling, framewise, memory }) => {
                (1, tiling, framewise, false, memory).hash(state);
            }
        }
    }
}

/// What a job is to the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Which model it needs, by index.
    pub(crate) model: usize,
    /// How much work it is, in units that are about equal in time for one model.
    pub(crate) work: u64,
    /// How many pictures or frames come of it, for people who watch it.
    pub(crate) frames: usize,
    /// What it can run together with; `None` for a job that runs alone.
    pub(crate) kind: Option<Arc<Kind>>,
    /// How many items it has.
    pub(crate) items: usize,
    /// How many items of its kind may run together.
    pub(crate) together: usize,
}

/// Names a job in its scheduler.
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

/// After how long a job can be expected to start and to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Eta {
    pub(crate) starts: Duration,
    pub(crate) ends: Duration,
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

/// What a worker does.
struct Running {
    model: usize,
    /// Of all jobs of the batch.
    work: u64,
    frames: usize,
    since: Instant,
    /// Which part of the work is done, from 0 to 1.
    done: f64,
    /// How many seconds it is going to take in all: by its progress where it has shown some, else by its model's pace.
    seconds: Option<f64>,
}

/// The jobs that wait and those that run. `T` is what has to be done.
pub(crate) struct Scheduler<T> {
    capacity: Option<usize>,
    next_number: u64,
    lines: Lines<T>,
    /// By worker.
    running: Vec<Option<Running>>,
    pace: Pace,
}

/// Where a newcomer would go.
enum Slot {
    Free,
    /// That of the newest job of this client.
    Of(Client),
}

impl<T> Scheduler<T> {
    /// One with so many workers, in which at most `capacity` jobs wait, besides those that run.
    pub(crate) fn new(capacity: Option<usize>, models: usize, workers: usize) -> Self {
        Self {
            capacity,
            next_number: 0,
            lines: Lines::new(models),
            running: (0..workers).map(|_| None).collect(),
            pace: Pace::new(models),
        }
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
                let full = self.full(self.capacity.unwrap_or(usize::MAX), now);
                self.lines.remove_newest(greediest).map(|waiting| (waiting.job, full))
            }
        };
        let number = self.next_number;
        self.next_number += 1;
        let seconds = self.pace.of(cost.model).unwrap_or(FIRST_GUESS) * cost.work as f64;
        self.lines.push(client, number, Waiting { cost, seconds, since: now, job });
        Ok(Admitted { id: JobId { client, number }, displaced })
    }

    /// Takes the next jobs for a worker, if it runs none: one, and those that run together with it.
    pub(crate) fn start(&mut self, worker: usize, now: Instant) -> Vec<Started<T>> {
        let mut started = Vec::new();
        let Some(slot) = self.running.get_mut(worker).filter(|slot| slot.is_none()) else { return started };
        let Some(first) = self.lines.pop() else { return started };
        let Cost { model, mut work, mut frames, kind, mut items, together } = first.cost.clone();
        let mut seconds = first.seconds;
        let begin = |waiting: Waiting<T>| Started {
            waited: now.saturating_duration_since(waiting.since),
            job: waiting.job,
        };
        started.push(begin(first));
        if let Some(kind) = kind {
            let fits = |items: usize| move |other: &Cost| items + other.items <= together.min(other.together);
            while let Some(other) = self.lines.pop_kind(&kind, seconds, fits(items)) {
                work = work.saturating_add(other.cost.work);
                frames += other.cost.frames;
                items += other.cost.items;
                seconds += other.seconds;
                started.push(begin(other));
            }
        }
        let seconds = self.pace.of(model).map(|pace| pace * work as f64);
        *slot = Some(Running { model, work, frames, since: now, done: 0.0, seconds });
        started
    }

    /// A worker has what its jobs need and begins to work: what it had to wait for tells nothing of how long work takes.
    pub(crate) fn begin(&mut self, worker: usize, now: Instant) {
        if let Some(Some(running)) = self.running.get_mut(worker) {
            running.since = now;
        }
    }

    /// `done` of `total` units of a worker's work are finished.
    pub(crate) fn progress(&mut self, worker: usize, done: usize, total: usize, now: Instant) {
        if let (Some(Some(running)), true) = (self.running.get_mut(worker), total > 0) {
            running.done = (done as f64 / total as f64).min(1.0);
            // The first parts of a layer tell nothing: their share is tiny, and what comes before them is not in it.
            if running.done >= TELLING {
                let elapsed = now.saturating_duration_since(running.since).as_secs_f64();
                running.seconds = Some(elapsed / running.done);
            }
        }
    }

    /// Of the running jobs, how many frames are done, going by the work, and how many there will be.
    pub(crate) fn running(&self) -> Option<[usize; 2]> {
        let each = || self.running.iter().flatten();
        each().next()?;
        Some([
            each().map(|running| (running.done * running.frames as f64) as usize).sum(),
            each().map(|running| running.frames).sum(),
        ])
    }

    /// A worker's jobs have ended. Only such that were `completed` teach the model's pace.
    pub(crate) fn finish(&mut self, worker: usize, completed: bool, now: Instant) {
        let Some(running) = self.running.get_mut(worker).and_then(Option::take) else { return };
        if !completed || running.work == 0 {
            return;
        }
        let took = now.saturating_duration_since(running.since).as_secs_f64();
        self.pace.learn(running.model, took / running.work as f64);
    }

    /// Nobody waits for this job any more. Gives it back if it still waited, and forgets it then.
    pub(crate) fn abandon(&mut self, id: JobId) -> Option<T> {
        self.lines.remove(id.client, id.number).map(|waiting| waiting.job)
    }

    /// Whether nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.free_workers() == self.running.len() && self.waiting() == 0
    }

    /// How many jobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lines.len()
    }

    /// How long it will take until one more job of this client starts and ends, as far as that is known: what runs comes
    /// first, then its share of what waits, or all of it if that is less.
    pub(crate) fn eta(&self, client: Client, cost: &Cost, now: Instant) -> Option<Eta> {
        let seconds = |model, work: u64| Some(self.pace.of(model)? * work as f64);
        let own = seconds(cost.model, cost.work)?;
        let all: Option<f64> =
            self.lines.work().iter().enumerate().map(|(model, &work)| seconds(model, work)).sum();
        let clients = self.lines.clients() + usize::from(self.lines.held(client) == 0);
        let share = (self.lines.seconds(client) + own) * clients as f64;
        let waiting = (share.min(all? + own) - own) / self.running.len().max(1) as f64;
        let starts = self.next_end(now).unwrap_or_default().as_secs_f64() + waiting.max(0.0);
        let after = |seconds| Duration::try_from_secs_f64(seconds).ok();
        Some(Eta { starts: after(starts)?, ends: after(starts + own)? })
    }

    fn free_workers(&self) -> usize {
        self.running.iter().filter(|running| running.is_none()).count()
    }

    /// The slot for a newcomer of this client.
    fn slot(&self, client: Client, now: Instant) -> Result<Slot, Full> {
        let Some(capacity) = self.capacity else { return Ok(Slot::Free) };
        // A worker that does nothing takes a job whatever the capacity, as that job will not wait.
        if self.waiting() < capacity.max(self.free_workers()) {
            return Ok(Slot::Free);
        }
        match self.lines.greediest() {
            // With the slot they would not merely change roles.
            Some((greediest, held)) if held > self.lines.held(client) + 1 => Ok(Slot::Of(greediest)),
            _ => Err(self.full(capacity, now)),
        }
    }

    /// A slot becomes free when the next job may start.
    fn full(&self, capacity: usize, now: Instant) -> Full {
        Full { capacity, retry_after: self.next_end(now).unwrap_or(NO_IDEA) }
    }

    /// How long it takes until the next worker is free; `None` if one is, or nobody knows.
    fn next_end(&self, now: Instant) -> Option<Duration> {
        if self.free_workers() > 0 {
            return None;
        }
        self.running.iter().flatten().filter_map(|running| running.remaining(now)).min()
    }
}

impl Running {
    /// How long it will take yet.
    fn remaining(&self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        Duration::try_from_secs_f64((self.seconds? - elapsed).max(0.0)).ok()
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
