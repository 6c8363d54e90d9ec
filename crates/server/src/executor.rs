//! The one OS thread that owns all models and does one request after another.
//!
//! Handlers and this thread meet at a lock that is held for moments only. A request whose client has left gives up its
//! place in the line, or, when it runs already, is cancelled at the model's next progress report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tracing::{Span, debug, error, info};
use vae::{Cancelled, HostTensor, Observer, Vae, VaeError};

use crate::admission::Admission;
use crate::client::Client;
use crate::error::{ApiError, ServeError};
use crate::queue::{Admitted, Cost, Full, JobId, Queue, Started};
use crate::shelf::{Shelf, guarded};
use crate::steps::Steps;
use crate::{Config, Model};

/// When the log first says how far the work on a video is; from then on after twice as long each time, but not less often
/// than each minute.
const SAY_FIRST: Duration = Duration::from_secs(5);
const SAY_EACH: Duration = Duration::from_secs(60);

/// A request that is done.
#[derive(Debug)]
pub(crate) struct Done {
    /// Of a decode, what the model gave: `[B, 3, H, W]` or `[B, 3, F, H, W]`, nominally in [-1, 1]. Of an encode, the
    /// latents.
    pub(crate) output: HostTensor,
    /// Time in the line.
    pub(crate) queued: Duration,
    /// Time in the model.
    pub(crate) worked: Duration,
    /// The most bytes that the engine had in use meanwhile, if it can tell.
    pub(crate) memory: Option<usize>,
}

/// What a request wants done, once it is its turn. Until then it holds the bytes as they came, which take half of the
/// memory or less.
pub(crate) type Work =
    Box<dyn FnOnce(&mut dyn Vae, &mut dyn Observer) -> Result<HostTensor, VaeError> + Send>;

struct Job {
    model: usize,
    /// Bytes that the work is going to take.
    memory: usize,
    work: Work,
    abandoned: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<Done, ApiError>>,
    /// Of the request, so that what is logged of the work carries its id.
    span: Span,
    steps: Option<Steps>,
    /// Lasts as long as it waits.
    in_line: Option<Span>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    shelf: Shelf,
    /// Models are loaded at their first use, and put away for others.
    lazy: bool,
    admission: Admission,
    /// Work can be taken.
    ready: watch::Sender<bool>,
    idle_release: Duration,
}

struct State {
    queue: Queue<Job>,
    closed: bool,
}

/// The handlers' side of the thread.
#[derive(Clone)]
pub(crate) struct Executor(Arc<Shared>);

/// A place in the line. Dropping it gives the place up or cancels the work.
pub(crate) struct Ticket {
    id: JobId,
    abandoned: Arc<AtomicBool>,
    reply: oneshot::Receiver<Result<Done, ApiError>>,
    shared: Arc<Shared>,
}

impl Executor {
    pub(crate) fn new(config: &Config, models: Vec<Model>) -> Self {
        let state = State { queue: Queue::new(config.max_queue, models.len()), closed: false };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            wake: Condvar::new(),
            shelf: Shelf::new(models, Admission::new(config)),
            lazy: config.lazy,
            admission: Admission::new(config),
            ready: watch::Sender::new(config.lazy),
            idle_release: config.idle_release,
        }))
    }

    /// Starts the thread. The receiver learns how it ended; when it is told nothing, the thread panicked.
    pub(crate) fn spawn(&self) -> Result<oneshot::Receiver<Result<(), ServeError>>, ServeError> {
        let shared = Arc::clone(&self.0);
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("models".to_owned())
            // Nobody listens only when the server is gone already.
            .spawn(move || drop(ended.send(shared.run())))
            .map_err(|error| ServeError::Executor(format!("it cannot be started: {error}")))?;
        Ok(end)
    }

    /// Bytes of copied weights that are in memory while `model` works: where models are loaded when they are asked for,
    /// others are put away for it.
    pub(crate) fn copied_weights(&self, model: usize) -> usize {
        self.0.shelf.copied(self.0.lazy.then_some(model))
    }

    /// The models.
    pub(crate) fn shelf(&self) -> &Shelf {
        &self.0.shelf
    }

    /// Whether work can be taken: all models are loaded and memory is at hand, or models are loaded when they are needed.
    pub(crate) fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    /// Waits until work can be taken.
    pub(crate) async fn until_ready(&self) {
        // The sender lives as long as this does.
        let _ = self.0.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Whether a request of this client would be admitted now.
    pub(crate) fn check(&self, client: Client) -> Result<(), Full> {
        self.0.lock().queue.check(client, Instant::now())
    }

    /// Takes a place in the line.
    pub(crate) fn admit(
        &self,
        client: Client,
        cost: Cost,
        memory: usize,
        work: Work,
        steps: Option<Steps>,
    ) -> Result<Ticket, Full> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let (reply, receiver) = oneshot::channel();
        let span = Span::current();
        let in_line = steps.as_ref().map(Steps::queue);
        let job = Job {
            model: cost.model,
            memory,
            work,
            abandoned: Arc::clone(&abandoned),
            reply,
            span,
            steps,
            in_line,
        };
        let Admitted { id, displaced } = self.0.lock().queue.admit(client, cost, job, Instant::now())?;
        if let Some((job, full)) = displaced {
            let what = format!(
                "the queue is full (--max-queue {}), and others have fewer requests in it",
                full.capacity
            );
            let refusal = ApiError::too_many(format!("{what}: try again later"), full.retry_after);
            let _ = job.reply.send(Err(refusal.at_limit()));
        }
        self.0.wake.notify_one();
        Ok(Ticket { id, abandoned, reply: receiver, shared: Arc::clone(&self.0) })
    }

    /// Of the work that is being done, how many frames are done and how many there will be.
    pub(crate) fn running(&self) -> Option<[usize; 2]> {
        self.0.lock().queue.running()
    }

    /// Whether nothing runs and nothing waits.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.0.lock().queue.is_idle()
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().queue.waiting()
    }

    /// Lets the thread end once the line is empty.
    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

impl Ticket {
    /// Waits for the turn and the work.
    pub(crate) async fn done(mut self) -> Result<Done, ApiError> {
        (&mut self.reply)
            .await
            .unwrap_or_else(|_| Err(ApiError::internal("the thread that runs the models has ended")))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.shared.lock().queue.abandon(self.id);
    }
}

/// What the thread shall do next.
enum Next {
    Work(Started<Job>),
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
    fn load_all(self: &Arc<Self>) -> Result<(), ServeError> {
        let (done, results) = mpsc::channel();
        for model in 0..self.shelf.len() {
            let (shared, done) = (Arc::clone(self), done.clone());
            std::thread::Builder::new()
                .name(format!("load-{model}"))
                .spawn(move || drop(done.send(shared.shelf.load(model).map(drop))))
                .map_err(|error| ServeError::Executor(format!("a model cannot be loaded: {error}")))?;
        }
        drop(done);
        results.iter().collect::<Result<(), _>>()?;
        if self.shelf.is_full() {
            return Ok(());
        }
        Err(ServeError::Executor("a thread that loads a model panicked".to_owned()))
    }

    fn run(self: &Arc<Self>) -> Result<(), ServeError> {
        if !self.lazy {
            self.load_all()?;
        }
        self.shelf.rest();
        self.shelf.reserve(&self.admission);
        self.ready.send_replace(true);
        info!(models = self.shelf.loaded(), "ready");

        let mut rested = false;
        loop {
            match self.next(rested) {
                Next::Work(started) => {
                    rested = false;
                    self.work(started);
                }
                Next::Rest => {
                    rested = true;
                    self.shelf.rest();
                }
                Next::End => return Ok(()),
            }
        }
    }

    fn next(&self, rested: bool) -> Next {
        let mut state = self.lock();
        loop {
            if let Some(started) = state.queue.start(Instant::now()) {
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
            if timed_out && state.queue.is_idle() && !state.closed {
                return Next::Rest;
            }
        }
    }

    fn work(&self, Started { job, waited }: Started<Job>) {
        let start = Instant::now();
        let Job { model, memory, work, abandoned, reply, span, steps, in_line } = job;
        drop(in_line);
        let _span = span.enter();
        let step = steps.as_ref().map(Steps::work);
        if self.lazy {
            self.shelf.make_room(self.admission.budget.work(), memory, model);
        }
        let mut taken = match self.shelf.take(model) {
            Ok(taken) => taken,
            Err(error) => {
                self.lock().queue.finish(false, Instant::now());
                let _ = reply.send(Err(ApiError::not_loaded(&error)));
                return;
            }
        };
        let Some(vae) = taken.vae() else { return };
        let mut observer = Watch { shared: self, abandoned: &abandoned, said: start, pause: SAY_FIRST };
        let result = guarded(|| {
            // The first look at whether anybody still waits, in case the client left just now.
            observer.progress(0, 1).map_err(VaeError::from)?;
            work(vae, &mut observer)
        });
        drop(step);
        let now = Instant::now();
        self.lock().queue.finish(matches!(result, Ok(Ok(_))), now);
        let outcome = match result {
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
                Err(ApiError::internal(message).because(panic))
            }
        };
        // Who has left misses nothing, but the log would.
        if let Err(Err(error)) = reply.send(outcome) {
            error.log();
        }
    }
}

/// Tells the queue how far the work is, and the work whether anybody still waits for it.
struct Watch<'a> {
    shared: &'a Shared,
    abandoned: &'a AtomicBool,
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
        let running = {
            let mut state = self.shared.lock();
            state.queue.progress(done, total, Instant::now());
            state.queue.running()
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
