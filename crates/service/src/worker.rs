//! The thread that runs the models and does one job after another.
//!
//! Jobs and this thread meet at a lock that is held for moments only. A job whose client has left gives up its slot in the
//! queue, or, when it runs already, is cancelled at the model's next progress report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::{Span, debug, error, info};
use vae::{Cancelled, HostTensor, Observer, VaeError};

use crate::client::Client;
use crate::config::Config;
use crate::failure::{Failure, StartError};
use crate::job::{Event, Outline, Work};
use crate::registry::{Loaded, Registry};
use crate::scheduler::{Admitted, Cost, Full, JobId, Scheduler, Started};
use crate::spans::Spans;
use crate::stages::guarded;

/// When the log first says how far the work on a video is; from then on after twice as long each time, but not less often
/// than each minute.
const SAY_FIRST: Duration = Duration::from_secs(5);
const SAY_EACH: Duration = Duration::from_secs(60);

/// Work that is done.
#[derive(Debug)]
pub(crate) struct Done {
    /// Of a decode, what the model gave: `[B, 3, H, W]` or `[B, 3, F, H, W]`, nominally in [-1, 1]. Of an encode, the
    /// latents.
    pub(crate) output: HostTensor,
    /// Time in the queue.
    pub(crate) queued: Duration,
    /// Time in the model.
    pub(crate) worked: Duration,
    /// The most bytes that the engine had in use meanwhile, if it can tell.
    pub(crate) memory: Option<usize>,
}

/// Called with what came of the work.
pub(crate) type Outcome = Box<dyn FnOnce(Result<Done, Failure>) + Send>;

/// A job for a worker.
pub(crate) struct Assignment {
    pub(crate) loaded: Arc<Loaded>,
    /// Bytes that the work is going to take.
    pub(crate) memory: usize,
    pub(crate) work: Work,
    pub(crate) outcome: Outcome,
    pub(crate) spans: Spans,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) outline: Outline,
}

/// An assignment in the queue.
struct Queued {
    model: usize,
    assignment: Assignment,
    abandoned: Arc<AtomicBool>,
    /// Of the request, so that what is logged of the work carries its id.
    span: Span,
    /// Lasts as long as it waits.
    waits: Span,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    registry: Arc<Registry>,
    lazy: bool,
    idle_release: Duration,
}

struct State {
    scheduler: Scheduler<Queued>,
    closed: bool,
}

/// The thread that runs the models, as all others see it.
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
    pub(crate) fn new(config: &Config, registry: Arc<Registry>) -> Self {
        let scheduler = Scheduler::new(config.max_queue, registry.len());
        Self(Arc::new(Shared {
            state: Mutex::new(State { scheduler, closed: false }),
            wake: Condvar::new(),
            registry,
            lazy: config.lazy,
            idle_release: config.idle_release,
        }))
    }

    /// Starts the thread, which calls `ready` once it can work. The receiver learns how it ended; when it is told nothing,
    /// the thread panicked.
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
    pub(crate) fn admit(&self, client: Client, cost: Cost, assignment: Assignment) -> Result<Ticket, Full> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let waits = assignment.spans.queue();
        let (events, outline) = (assignment.events.clone(), assignment.outline);
        let queued = Queued {
            model: cost.model,
            assignment,
            abandoned: Arc::clone(&abandoned),
            span: Span::current(),
            waits,
        };
        let mut state = self.0.lock();
        let now = Instant::now();
        let Admitted { id, displaced } = state.scheduler.admit(client, cost, queued, now)?;
        let ahead = state.scheduler.waiting().saturating_sub(1);
        // Nothing can start before this is told.
        let _ = events.send(Event::Queued { outline, ahead, eta: state.scheduler.remaining(now) });
        drop(state);
        if let Some((queued, full)) = displaced {
            let what = format!(
                "the queue is full (--max-queue {}), and others have fewer requests in it",
                full.capacity
            );
            let failure = Failure::busy(format!("{what}: try again later"), full.retry_after);
            (queued.assignment.outcome)(Err(failure));
        }
        self.0.wake.notify_one();
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

    /// Lets the thread end once nothing waits.
    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

impl From<Full> for Failure {
    fn from(full: Full) -> Self {
        let message = format!("the queue is full (--max-queue {}): try again later", full.capacity);
        Self::busy(message, full.retry_after)
    }
}

/// What the thread shall do next.
enum Next {
    Work(Box<Started<Queued>>),
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

    fn run(&self, ready: impl FnOnce()) -> Result<(), Arc<StartError>> {
        if !self.lazy {
            self.load_all()?;
        }
        self.registry.release();
        self.registry.reserve();
        ready();
        info!(models = self.registry.all_loaded().count(), "ready");

        let mut rested = false;
        loop {
            match self.next(rested) {
                Next::Work(started) => {
                    rested = false;
                    self.work(*started);
                }
                Next::Rest => {
                    rested = true;
                    self.registry.release();
                }
                Next::End => return Ok(()),
            }
        }
    }

    fn next(&self, rested: bool) -> Next {
        let mut state = self.lock();
        loop {
            if let Some(started) = state.scheduler.start(Instant::now()) {
                return Next::Work(Box::new(started));
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

    fn work(&self, Started { job, waited }: Started<Queued>) {
        let start = Instant::now();
        let Queued { model, assignment, abandoned, span, waits } = job;
        let Assignment { loaded, memory, work, outcome, spans, events, .. } = assignment;
        drop(waits);
        let _span = span.enter();
        let part = spans.work();
        let _ = events.send(Event::Started);
        let mut vae = loaded.vae();
        if self.registry.make_room(memory, model) {
            // What was unloaded shares the engine's memory, which it may have left behind.
            vae.release();
        }
        let mut observer = Watch {
            shared: self,
            abandoned: &abandoned,
            events: &events,
            percent: 0,
            said: start,
            pause: SAY_FIRST,
        };
        let result = guarded(|| {
            // The first look at whether anybody still waits, in case the client left just now.
            observer.progress(0, 1).map_err(VaeError::from)?;
            work(vae.as_mut(), &mut observer)
        });
        drop(part);
        let now = Instant::now();
        self.lock().scheduler.finish(matches!(result, Ok(Ok(_))), now);
        let result = match result {
            Ok(Ok(output)) => Ok(Done {
                output,
                queued: waited,
                worked: now.saturating_duration_since(start),
                memory: vae.peak_memory(),
            }),
            Ok(Err(VaeError::Cancelled)) => {
                debug!("the client left; its work was cancelled");
                Err(VaeError::Cancelled.into())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => {
                // What it kept may be half done.
                if let Err(panic) = guarded(|| vae.release()) {
                    error!(panic, "a model that panicked did so again while it gave back its memory");
                }
                let message = "the model crashed on this request, which is a bug of the server";
                Err(Failure::internal(message).because(panic))
            }
        };
        drop(vae);
        outcome(result);
    }
}

/// Tells the scheduler and the client how far the work is, and the work whether anybody still waits for it.
struct Watch<'a> {
    shared: &'a Shared,
    abandoned: &'a AtomicBool,
    events: &'a UnboundedSender<Event>,
    /// How far the client knows it to be.
    percent: usize,
    /// When the log was last told how far it is.
    said: Instant,
    /// After how long it is told again.
    pause: Duration,
}

impl Observer for Watch<'_> {
    fn progress(&mut self, done: usize, total: usize) -> Result<(), Cancelled> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(Cancelled);
        }
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
        if percent > self.percent {
            self.percent = percent;
            let _ = self.events.send(Event::Progress { done, total });
        }
        let running = {
            let mut state = self.shared.lock();
            state.scheduler.progress(done, total, Instant::now());
            state.scheduler.running()
        };
        if let Some([done, frames]) =
            running.filter(|[_, frames]| *frames > 1 && self.said.elapsed() >= self.pause)
        {
            self.said = Instant::now();
            self.pause = (2 * self.pause).min(SAY_EACH);
            info!(done, frames, "working");
        }
        Ok(())
    }
}
