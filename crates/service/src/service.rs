//! The way of a job from its submission to its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use media::IsWanted;
use tokio::sync::{mpsc, oneshot, watch};
use vae::{Forecast, VaeInfo};
use wire::{Limits, Request, RequestHead};

use crate::admission::Admission;
use crate::answer::{self, Reply};
use crate::budget::size;
use crate::client::Client;
use crate::config::Config;
use crate::failure::{Failure, FailureKind, StartError};
use crate::job::{Context, Event, Events, Job, Outline, Prepared, Report, prepare, values_memory};
use crate::ledger::{Counted, Ledger, Pool, Token};
use crate::registry::{Details, Loaded, Model, Registry};
use crate::rgba;
use crate::scheduler::{Cost, Kind, Options};
use crate::spans::Spans;
use crate::stages::{Stage, crashed, guarded};
use crate::values::NonFinite;
use crate::worker::{Assignment, Done, Input, Workers};

/// Latent positions of pictures that run together at most, those of one picture of 512 x 512 pixels: with more, the
/// models of `vae` take a batch apart themselves.
const BATCH_POSITIONS: usize = 64 * 64;

/// Models, and all that wait for them. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    config: Config,
    admission: Admission,
    ledger: Ledger,
    registry: Arc<Registry>,
    workers: Workers,
    /// Reads requests.
    reading: Arc<Stage>,
    /// Writes answers.
    writing: Stage,
    /// Writes videos, which take so long that pictures must not wait for them.
    filming: Stage,
    ready: watch::Sender<bool>,
}

impl Service {
    /// A service whose models are not loaded yet.
    ///
    /// # Errors
    /// A memory limit that leaves nothing for work, or a system that gives no threads.
    pub fn new(config: Config, models: Vec<Model>) -> Result<Self, StartError> {
        let admission = Admission::new(&config);
        if let (Some(0), Some(limit)) = (admission.room(), admission.budget.limit) {
            return Err(StartError::Config(format!(
                "--memory-limit {} leaves nothing for work: the server itself and the bodies of requests take as much; raise \
                 the limit",
                size(limit)
            )));
        }
        let registry = Arc::new(Registry::new(models, admission, &config));
        let ledger = Ledger::new(&admission);
        let reading = Arc::new(Stage::new("read")?);
        let workers = Workers::new(&config, Arc::clone(&registry), ledger.clone(), Arc::clone(&reading));
        Ok(Self(Arc::new(Inner {
            admission,
            ledger,
            registry,
            workers,
            reading,
            writing: Stage::new("write")?,
            filming: Stage::new("film")?,
            ready: watch::Sender::new(false),
            config,
        })))
    }

    /// Loads the models, unless that is left to their first use, and starts the threads that run them. The receiver learns
    /// how they ended; when it is told nothing, a thread panicked.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&self) -> Result<oneshot::Receiver<Result<(), Arc<StartError>>>, StartError> {
        if self.0.config.lazy {
            self.0.ready.send_replace(true);
        }
        let service = self.clone();
        self.0.workers.start(move || {
            service.0.ready.send_replace(true);
        })
    }

    /// Whether work can be taken: all models are loaded and memory is at hand, or models are loaded when they are needed.
    pub fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    /// Waits until work can be taken.
    pub async fn until_ready(&self) {
        // The sender lives as long as this does.
        let _ = self.0.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// What is known of a model; `None` while it is not loaded.
    pub fn model(&self, model: usize) -> Option<VaeInfo> {
        Some(self.0.registry.loaded(model)?.details.info.clone())
    }

    /// How many models are loaded.
    pub fn loaded(&self) -> usize {
        self.0.registry.all_loaded().count()
    }

    /// How much one job may ask for from a model of this kind.
    fn limits(&self, info: &VaeInfo) -> &Limits {
        if info.temporal_factor.is_some() { &self.0.config.video_limits } else { &self.0.config.limits }
    }

    /// How much one job for a model may ask for. Of one that is not loaded it is not known yet, and looked at again.
    pub fn first_limits(&self, model: usize) -> &Limits {
        let loaded = self.0.registry.loaded(model);
        loaded.map_or(&self.0.config.video_limits, |loaded| self.limits(&loaded.details.info))
    }

    /// The memory of a request that has just come: none yet.
    pub fn request_memory(&self) -> Token {
        self.0.ledger.token(Pool::Requests)
    }

    /// Bytes that a pool holds now.
    pub fn held(&self, pool: Pool) -> usize {
        self.0.ledger.bytes(pool)
    }

    /// Bytes that all bodies may have together.
    pub fn max_bodies(&self) -> usize {
        self.0.admission.budget.bodies
    }

    /// Bytes that the process may have; `None` for no limit.
    pub fn memory_limit(&self) -> Option<usize> {
        self.0.admission.budget.limit
    }

    /// Whether a job of this client would be admitted now.
    ///
    /// # Errors
    /// [`FailureKind::Busy`] when the queue is full.
    pub fn check(&self, client: Client) -> Result<(), Failure> {
        Ok(self.0.workers.check(client)?)
    }

    /// Of the work that is being done, how many frames are done and how many there will be.
    pub fn running(&self) -> Option<[usize; 2]> {
        self.0.workers.running()
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.0.workers.is_idle()
    }

    /// How many jobs wait.
    pub fn waiting(&self) -> usize {
        self.0.workers.waiting()
    }

    /// Lets the threads that run the models end once nothing waits.
    pub fn close(&self) {
        self.0.workers.close();
    }

    /// Ends what runs, and lets the threads end.
    pub fn stop(&self) {
        self.0.workers.stop();
    }

    /// The threads that write such an answer.
    fn writing(&self, reply: &Reply) -> &Stage {
        match reply {
            Reply::Pictures(wire::Answer::Video(_)) => &self.0.filming,
            Reply::Pictures(_) | Reply::Latents { .. } => &self.0.writing,
        }
    }

    /// Does what takes the processor for a while before a job can be submitted, on the threads for it.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.0.reading.run(|_| work()).await
    }

    /// Takes a job. Its model is loaded first if it must; dropping the future gives the job up.
    ///
    /// # Errors
    /// A model that cannot be loaded, a request that does not fit its model or the memory, or no capacity for it before its
    /// deadline.
    pub async fn submit(&self, job: Job) -> Result<Events, Failure> {
        let loaded = self.0.registry.get(job.model).await;
        let loaded = loaded.map_err(|error| Failure::not_loaded(&error))?;
        let latents_of = match job.latents_of {
            None => None,
            Some(other) => {
                let other = self.0.registry.get(other).await;
                Some(other.map_err(|error| Failure::not_loaded(&error))?.details.info.clone())
            }
        };
        let Job { model, request, head, client, deadline, mut held, spans, .. } = job;
        let service = self.clone();
        let context = Arc::clone(&loaded);
        let read = move |is_wanted: &IsWanted<'_>| {
            let (outline, prepared) =
                service.prepare(model, &context, request, &head, latents_of.as_ref())?;
            let cost = service.cost(model, &context.details, &outline, &prepared);
            let Prepared { options, read, reading, forecast, reply, warnings, .. } = prepared;
            let input = if held.try_grow(held.bytes().saturating_add(reading)) {
                let input = read(is_wanted)?;
                // What it was read from is gone by now.
                held.set(values_memory(&input.shape));
                Input::Ready(input)
            } else {
                Input::Unread(read)
            };
            Ok(Ready { outline, cost, options, input, held, forecast, reply, warnings })
        };
        let Ready { outline, cost, options, input, held, forecast, reply, warnings } =
            self.0.reading.run(read).await?;
        let (events, receiver) = mpsc::unbounded_channel();
        let answering = Answering {
            service: self.clone(),
            events: events.clone(),
            spans: spans.clone(),
            info: loaded.details.info.clone(),
            outline,
            forecast,
            reply,
            warnings,
        };
        let memory = forecast.map_or([0; 2], |forecast| [forecast.engine_memory, forecast.host_memory]);
        let outcome = Box::new(move |result| answering.end(result));
        let assignment =
            Assignment { loaded, options, input, held, memory, deadline, outcome, spans, events, outline };
        let ticket = self.0.workers.admit(client, cost, assignment)?;
        Ok(Events { events: receiver, _ticket: ticket })
    }

    /// What a job is to the scheduler. Where jobs may run together, pictures that are small enough do so with others of their
    /// kind, as far as it is useful and all of them fit into memory together.
    fn cost(&self, model: usize, details: &Details, outline: &Outline, prepared: &Prepared) -> Cost {
        let Prepared { options, shape, frames, forecast, .. } = prepared;
        let (items, rest) = shape.split_first().map_or((1, [].as_slice()), |(&items, rest)| (items, rest));
        let (factor, is_tiled) = match options {
            Options::Decode(options) => (1, options.tiling),
            Options::Encode(options) => (details.info.spatial_factor.max(1), options.tiling),
        };
        let positions = match *rest {
            [_, height, width] => (height / factor).saturating_mul(width / factor).max(1),
            // Videos are long enough alone.
            _ => usize::MAX,
        };
        let memory = forecast.map_or(0, |forecast| forecast.memory()).div_ceil(items.max(1));
        let room = self.0.admission.beside(self.0.registry.copied(model)).room().unwrap_or(usize::MAX);
        let together = (BATCH_POSITIONS / positions).min(room.checked_div(memory).unwrap_or(usize::MAX));
        let batches = self.0.config.batch_requests && details.info.temporal_factor.is_none();
        let kind = (batches && together > items && !is_tiled)
            .then(|| Arc::new(Kind { model, shape: rest.to_vec(), options: *options }));
        Cost {
            model,
            work: forecast.map_or(outline.pixels, |forecast| forecast.work) as u64,
            frames: *frames,
            kind,
            items,
            together,
        }
    }

    /// Memory of answers, as if clients had not read them yet.
    #[cfg(test)]
    pub(crate) fn unread_answers(&self) -> Token {
        self.0.ledger.token(Pool::Answers)
    }

    fn prepare(
        &self,
        model: usize,
        loaded: &Loaded,
        request: Request,
        head: &RequestHead,
        latents_of: Option<&VaeInfo>,
    ) -> Result<(Outline, Prepared), Failure> {
        let Details { info, forecasts, .. } = &loaded.details;
        let request = match request {
            Request::Decode(latents) if latents_of.is_none() => rgba::settle(latents, head, info)?,
            request @ Request::Decode(_) => request,
            request @ Request::Encode(_) => request,
        };
        let admission = self.0.admission.beside(self.0.registry.copied(model));
        let context = Context {
            info,
            latents_of,
            limits: self.limits(info),
            admission: &admission,
            forecasts: forecasts.as_ref(),
            non_finite: self.non_finite(),
        };
        let (task, prepared) =
            prepare(request, &context).map_err(|failure| rgba::with_other_reading(failure, head))?;
        let outline = Outline {
            task,
            media_type: prepared.reply.media_type(),
            mode: prepared.mode,
            pixels: prepared.pixels,
        };
        Ok((outline, prepared))
    }

    /// What is done with values that are NaN or infinite.
    fn non_finite(&self) -> NonFinite {
        if self.0.config.allow_non_finite { NonFinite::Allowed } else { NonFinite::RefusedOverHttp }
    }
}

/// A job that can wait for its turn.
struct Ready {
    outline: Outline,
    cost: Cost,
    options: Options,
    input: Input,
    held: Token,
    forecast: Option<Forecast>,
    reply: Reply,
    warnings: Vec<String>,
}

/// What is needed to answer a job once its work is done.
struct Answering {
    service: Service,
    events: mpsc::UnboundedSender<Event>,
    spans: Spans,
    info: VaeInfo,
    outline: Outline,
    forecast: Option<Forecast>,
    reply: Reply,
    warnings: Vec<String>,
}

impl Answering {
    /// Has the answer written, unless there is none, and tells of it.
    fn end(self, result: Result<Done, Failure>) {
        match result {
            Ok(done) => self.service.clone().writing(&self.reply).push(move || self.write(done)),
            Err(failure) => tell(&self.events, Event::Failed(failure)),
        }
    }

    fn write(self, done: Done) {
        let Self { events, spans, info, outline, forecast, reply, warnings, .. } = self;
        let Done { output, mut held, queued, worked, memory } = done;
        let is_wanted = || !events.is_closed();
        if !is_wanted() {
            return;
        }
        let _span = spans.answer();
        let report = Report { outline, forecast, memory, queued, worked, written: Duration::ZERO };
        let written =
            guarded(|| answer::write(output.into_tensor(), reply, &info, report, warnings, &is_wanted));
        let event = match written.unwrap_or_else(|panic| Err(crashed(&panic))) {
            Ok(mut answer) => {
                held.set(answer.body.len());
                answer.body = Bytes::from_owner(Counted { bytes: answer.body, _token: held });
                Event::Done(Box::new(answer))
            }
            Err(failure) => Event::Failed(failure),
        };
        tell(&events, event);
    }
}

/// Tells of the end of a job. Who has left misses nothing, but the log would.
fn tell(events: &mpsc::UnboundedSender<Event>, event: Event) {
    if let Err(mpsc::error::SendError(Event::Failed(failure))) = events.send(event)
        && failure.kind != FailureKind::Cancelled
    {
        failure.log();
    }
}
