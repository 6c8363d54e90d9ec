//! The way of a job from its submission to its answer.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use vae::VaeInfo;
use wire::{Limits, Request};

use crate::admission::Admission;
use crate::answer;
use crate::bodies::Bodies;
use crate::budget::size;
use crate::client::Client;
use crate::config::Config;
use crate::failure::{Failure, FailureKind, StartError};
use crate::job::{Context, Event, Events, Job, Outline, Prepared, Report, prepare};
use crate::registry::{Details, Loaded, Model, Registry};
use crate::rgba;
use crate::scheduler::Cost;
use crate::stages::{Stage, crashed, guarded};
use crate::values::NonFinite;
use crate::worker::{Assignment, Workers};

/// Models, and all that wait for them. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    config: Config,
    admission: Admission,
    bodies: Bodies,
    registry: Arc<Registry>,
    workers: Workers,
    /// Reads requests.
    reading: Stage,
    /// Writes answers.
    writing: Stage,
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
        let registry = Arc::new(Registry::new(models, admission, config.lazy));
        Ok(Self(Arc::new(Inner {
            admission,
            bodies: Bodies::new(admission.budget),
            workers: Workers::new(&config, Arc::clone(&registry)),
            registry,
            reading: Stage::new("read")?,
            writing: Stage::new("write")?,
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

    /// The memory of all bodies.
    pub fn bodies(&self) -> &Bodies {
        &self.0.bodies
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

    /// Does what takes the processor for a while before a job can be submitted, on the threads for it.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.0.reading.run(work).await
    }

    /// Takes a job. Its model is loaded first if it must; dropping the future gives the job up.
    ///
    /// # Errors
    /// A model that cannot be loaded, a request that does not fit its model or the memory, or a full queue.
    pub async fn submit(&self, job: Job) -> Result<Events, Failure> {
        let loaded = self.0.registry.get(job.model).await;
        let loaded = loaded.map_err(|error| Failure::not_loaded(&error))?;
        let Job { model, request, head, client, spans } = job;
        let service = self.clone();
        let context = Arc::clone(&loaded);
        let prepare = move || service.prepare(model, &context, request, &head);
        let (outline, prepared) = self.0.reading.run(prepare).await?;
        let Prepared { work, frames, forecast, reply, warnings, .. } = prepared;
        let cost =
            Cost { model, work: forecast.map_or(outline.pixels, |forecast| forecast.work) as u64, frames };
        let (sender, events) = mpsc::unbounded_channel();
        let (service, teller, answering) = (self.clone(), sender.clone(), spans.clone());
        let outcome = Box::new(move |outcome: Result<crate::worker::Done, Failure>| {
            let done = match outcome {
                Ok(done) => done,
                Err(failure) => return tell(&sender, Event::Failed(failure)),
            };
            service.0.writing.push(move || {
                if sender.is_closed() {
                    return;
                }
                let _span = answering.answer();
                let report = Report {
                    outline,
                    forecast,
                    memory: done.memory,
                    queued: done.queued,
                    worked: done.worked,
                    written: std::time::Duration::ZERO,
                };
                let written = guarded(|| answer::write(done.output, reply, report, warnings));
                let event = match written.unwrap_or_else(|panic| Err(crashed(&panic))) {
                    Ok(answer) => Event::Done(Box::new(answer)),
                    Err(failure) => Event::Failed(failure),
                };
                tell(&sender, event);
            });
        });
        let memory = forecast.map_or(0, |forecast| forecast.memory());
        let assignment = Assignment { loaded, memory, work, outcome, spans, events: teller, outline };
        let ticket = self.0.workers.admit(client, cost, assignment)?;
        Ok(Events { events, _ticket: ticket })
    }

    fn prepare(
        &self,
        model: usize,
        loaded: &Loaded,
        request: Request,
        head: &wire::RequestHead,
    ) -> Result<(Outline, Prepared), Failure> {
        let Details { info, forecaster, .. } = &loaded.details;
        let request = match request {
            Request::Decode(latents) => rgba::settle(latents, head, info)?,
            request @ Request::Encode(_) => request,
        };
        let admission = self.0.admission.beside(self.0.registry.copied(model));
        let context = Context {
            info,
            limits: self.limits(info),
            admission: &admission,
            forecaster: forecaster.as_ref(),
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

/// Tells of the end of a job. Who has left misses nothing, but the log would.
fn tell(events: &mpsc::UnboundedSender<Event>, event: Event) {
    if let Err(mpsc::error::SendError(Event::Failed(failure))) = events.send(event)
        && failure.kind != FailureKind::Cancelled
    {
        failure.log();
    }
}
