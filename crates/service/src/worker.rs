//! The threads that run the models, each with its own instance of every model and its own engine.
//!
//! Jobs and these threads meet at a lock that is held for moments only. A job whose client has left gives up its slot in the
//! queue, or, when it runs already, is cancelled at the model's next progress report; a batch ends early only when all its
//! clients have left.

mod batch;
mod thread;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{Span, info};

use self::batch::Queued;
pub(crate) use self::batch::{Assignment, Done, Input, Read};
use self::thread::Worker;
use crate::client::Client;
use crate::config::Config;
use crate::failure::{Failure, StartError};
use crate::job::Event;
use crate::ledger::{Ledger, Pool, Token};
use crate::registry::Registry;
use crate::scheduler::{Admitted, Cost, Full, JobId, Scheduler, Started};
use crate::stages::{Stage, guarded};

/// How often work that waits for memory looks whether there is some: answers are read by clients, who tell nobody.
const LOOK: Duration = Duration::from_millis(10);

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    registry: Arc<Registry>,
    ledger: Ledger,
    /// Reads what could not be read before its turn.
    reading: Arc<Stage>,
    lazy: bool,
    idle_release: Duration,
    /// Of each worker, what its engine holds or keeps for the next work; locked while it works.
    engines: Vec<Arc<Mutex<Token>>>,
    /// What runs is to end at once.
    stopping: AtomicBool,
}

struct State {
    scheduler: Scheduler<Queued>,
    closed: bool,
}

/// The threads that run the models, as all others see them.
pub(crate) struct Workers(Arc<Shared>);

/// A job in the queue or at work. Dropping it takes it out of the queue or cancels the work.
pub(crate) struct Ticket {
    id: JobId,
    abandoned: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        // What it held is dropped outside of the lock.
        let left = self.shared.lock().scheduler.abandon(self.id);
        drop(left);
    }
}

impl Workers {
    pub(crate) fn new(config: &Config, registry: Arc<Registry>, ledger: Ledger, reading: Arc<Stage>) -> Self {
        let workers = config.workers.get();
        let scheduler = Scheduler::new(config.max_queue, registry.len(), workers);
        Self(Arc::new(Shared {
            state: Mutex::new(State { scheduler, closed: false }),
            wake: Condvar::new(),
            registry,
            engines: (0..workers).map(|_| Arc::new(Mutex::new(ledger.token(Pool::Work)))).collect(),
            ledger,
            reading,
            lazy: config.lazy,
            idle_release: config.idle_release,
            stopping: AtomicBool::new(false),
        }))
    }

    /// Starts the threads, which call `ready` once they can work. The receiver learns how they ended; when it is told
    /// nothing, one of them panicked.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        &self,
        ready: impl FnOnce() + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<(), Arc<StartError>>>, StartError> {
        let shared = Arc::clone(&self.0);
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("models".to_owned())
            // Nobody listens only when the service is gone already.
            .spawn(move || drop(ended.send(shared.run(ready))))
            .map_err(|error| StartError::Worker(format!("it cannot be started: {error}")))?;
        Ok(end)
    }

    /// Whether a job of this client would be admitted now.
    pub(crate) fn check(&self, client: Client) -> Result<(), Full> {
        self.0.lock().scheduler.check(client, Instant::now())
    }

    /// Puts a job into the queue, and tells of it.
    ///
    /// # Errors
    /// [`FailureKind::Busy`] when the queue is full, or its turn would come after its deadline.
    pub(crate) fn admit(
        &self,
        client: Client,
        cost: Cost,
        assignment: Assignment,
    ) -> Result<Ticket, Failure> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let waits = assignment.spans.queue();
        let (events, outline) = (assignment.events.clone(), assignment.outline);
        let deadline = assignment.deadline;
        let queued = Queued {
            model: cost.model,
            assignment,
            abandoned: Arc::clone(&abandoned),
            span: Span::current(),
            waits,
        };
        let mut state = self.0.lock();
        let now = Instant::now();
        let eta = state.scheduler.eta(client, &cost, now);
        if let (Some(eta), Some(deadline)) = (eta, deadline) {
            let left = deadline.saturating_duration_since(now);
            if eta.starts > left {
                drop(state);
                return Err(too_late(eta.starts, left));
            }
        }
        let ahead = state.scheduler.waiting();
        let Admitted { id, displaced } = state.scheduler.admit(client, cost, queued, now)?;
        // Nothing can start before this is told.
        let _ = events.send(Event::Queued { outline, ahead, eta: eta.map(|eta| eta.ends) });
        drop(state);
        if let Some((queued, full)) = displaced {
            let what = format!(
                "the queue is full (--max-queue {}), and others have fewer requests in it",
                full.capacity
            );
            let failure = Failure::busy(format!("{what}: try again later"), full.retry_after);
            (queued.assignment.outcome)(Err(failure));
        }
        self.0.wake.notify_all();
        Ok(Ticket { id, abandoned, shared: Arc::clone(&self.0) })
    }

    /// Of the work that is being done, how many frames are done and how many there will be.
    pub(crate) fn running(&self) -> Option<[usize; 2]> {
        self.0.lock().scheduler.running()
    }

    /// Whether nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.lock().scheduler.is_idle()
    }

    /// How many jobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().scheduler.waiting()
    }

    /// Lets the threads end once nothing waits.
    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }

    /// Ends what runs, and lets the threads end.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
        self.close();
    }
}

impl From<Full> for Failure {
    fn from(full: Full) -> Self {
        let message = format!("the queue is full (--max-queue {}): try again later", full.capacity);
        Self::busy(message, full.retry_after)
    }
}

/// A job that would wait for longer than its client does.
fn too_late(wait: Duration, left: Duration) -> Failure {
    let message = format!(
        "so much is waiting that the turn of this request would come in {} seconds, and it may take {} (x-request-timeout, \
         --timeout): try again later",
        wait.as_secs_f64().ceil(),
        left.as_secs_f64().floor()
    );
    Failure::busy(message, wait.saturating_sub(left))
}

/// What a thread shall do next.
enum Next {
    Work(Vec<Started<Queued>>),
    /// There has been no work for a while.
    Rest,
    End,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads all models side by side; the first that cannot be loaded ends it.
    fn load_all(&self) -> Result<(), Arc<StartError>> {
        let (done, results) = mpsc::channel();
        for model in 0..self.registry.len() {
            let done = done.clone();
            self.registry.load(model, Box::new(move |outcome| drop(done.send(outcome.map(drop)))));
        }
        drop(done);
        results.iter().collect()
    }

    fn run(self: &Arc<Self>, ready: impl FnOnce()) -> Result<(), Arc<StartError>> {
        if !self.lazy {
            self.load_all()?;
        }
        for (worker, engine) in self.engines.iter().enumerate() {
            self.release(worker);
            lock(engine).set(self.registry.reserve(worker));
        }
        ready();
        info!(models = self.registry.all_loaded().count(), "ready");
        let (ended, ends) = mpsc::channel();
        for (index, engine) in self.engines.iter().enumerate() {
            let worker = Worker { shared: Arc::clone(self), index, engine: Arc::clone(engine) };
            let ended = ended.clone();
            std::thread::Builder::new()
                .name(format!("model-{index}"))
                .spawn(move || drop(ended.send(guarded(|| worker.run()))))
                .map_err(|error| Arc::new(StartError::Worker(format!("it cannot be started: {error}"))))?;
        }
        drop(ended);
        // The first that panics ends it.
        let end: Result<(), String> = ends.iter().collect();
        end.map_err(|panic| Arc::new(StartError::Worker(format!("it panicked: {panic}"))))
    }

    /// Has a worker that does nothing give back memory that its engine keeps for the next work.
    fn release(&self, worker: usize) {
        let Some(Ok(mut engine)) = self.engines.get(worker).map(|engine| engine.try_lock()) else { return };
        self.registry.release(worker);
        engine.set(0);
    }

    /// [`Self::release`] of all workers but one.
    fn release_idle(&self, but: usize) {
        (0..self.engines.len()).filter(|&worker| worker != but).for_each(|worker| self.release(worker));
    }

    fn next(&self, worker: usize, rested: bool) -> Next {
        let mut state = self.lock();
        loop {
            let started = state.scheduler.start(worker, Instant::now());
            if !started.is_empty() {
                return Next::Work(started);
            }
            if state.closed {
                return Next::End;
            }
            let timed_out;
            (state, timed_out) = if rested {
                (self.wake.wait(state).unwrap_or_else(PoisonError::into_inner), false)
            } else {
                let (state, wait) =
                    self.wake.wait_timeout(state, self.idle_release).unwrap_or_else(PoisonError::into_inner);
                (state, wait.timed_out())
            };
            if timed_out && state.scheduler.is_idle() && !state.closed {
                return Next::Rest;
            }
        }
    }
}

/// What an engine holds; waits for the worker.
fn lock(engine: &Mutex<Token>) -> MutexGuard<'_, Token> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}
