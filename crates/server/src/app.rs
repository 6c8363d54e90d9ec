//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use service::{Failure, Model, Service};
use tokio::sync::{Semaphore, watch};
use wire::routes::{Target, is_model_name};

use crate::Config;
use crate::access::Access;
use crate::error::{ApiError, ServeError};
use crate::metrics::Metrics;

/// Nobody knows how long models take to load.
const WHILE_LOADING: Duration = Duration::from_secs(5);

/// What all handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    names: Vec<String>,
    origins: Vec<Origin>,
    service: Service,
    access: Access,
    metrics: Metrics,
    body_timeout: Duration,
    timeout: Duration,
    /// Slots for requests that come before the models are loaded: as many as can be queued then.
    early: Option<Early>,
    life: watch::Sender<Life>,
    in_flight: AtomicUsize,
}

/// Slots for requests that come before the models are loaded.
struct Early {
    free: Semaphore,
    slots: usize,
}

impl Early {
    fn new(max_queue: usize) -> Self {
        Self { free: Semaphore::new(max_queue.clamp(1, Semaphore::MAX_PERMITS)), slots: max_queue }
    }
}

/// Whether the server goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It does.
    Serving,
    /// It says at `/ready` that it does not, and takes work as long as clients do not know.
    Leaving,
    /// It only finishes what it has.
    Draining,
}

/// A request that is worked on, from its head to its answer.
pub(crate) struct InFlight(App);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Where a model comes from, as far as clients may know.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Origin {
    /// A name or an id that says where the model comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// Licence of its weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<String>,
    /// Whether there are latents to try it with, at `/models/{model}/example`.
    has_example: bool,
    /// The model that makes its previews, if there is one: see the parameter `preview`.
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<String>,
    #[serde(skip)]
    example: Option<&'static [u8]>,
}

impl Origin {
    fn of(model: &Model) -> Self {
        Self {
            source: model.origin.clone(),
            license: model.license.clone(),
            has_example: model.example.is_some(),
            preview: model.preview.clone(),
            example: model.example,
        }
    }

    /// Latents to try the model with.
    pub(crate) fn example(&self) -> Option<&'static [u8]> {
        self.example
    }
}

impl App {
    /// # Errors
    /// No model, or a name that cannot stand in a URL or is there twice.
    pub(crate) fn new(config: &Config, models: Vec<Model>) -> Result<Self, ServeError> {
        let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
        if names.is_empty() {
            return Err(ServeError::Config("there is no model to serve".to_owned()));
        }
        for (index, name) in names.iter().enumerate() {
            if !is_model_name(name) {
                return Err(ServeError::Config(format!(
                    "{name:?} cannot be the name of a model: it must have only ASCII letters, digits, '.', '_' and \
                     '-', and be no route of the server"
                )));
            }
            if names.iter().take(index).any(|other| other == name) {
                return Err(ServeError::Config(format!("two models are named {name:?}")));
            }
        }
        for model in &models {
            let Some(preview) = &model.preview else { continue };
            if *preview == model.name || !names.contains(preview) {
                return Err(ServeError::Config(format!(
                    "the previews of {:?} cannot come from {preview:?}, which is no other model that is served",
                    model.name
                )));
            }
        }
        let origins = models.iter().map(Origin::of).collect();
        let service = Service::new(config.service.clone(), models)?;
        Ok(Self(Arc::new(Inner {
            names,
            origins,
            service,
            access: Access::new(config.access.clone())?,
            metrics: Metrics::new(),
            body_timeout: config.body_timeout,
            timeout: config.timeout,
            // No more than can wait: the queue may get them all before any is started.
            early: config.service.max_queue.map(Early::new),
            life: watch::Sender::new(Life::Serving),
            in_flight: AtomicUsize::new(0),
        })))
    }

    /// The models, and all that wait for them.
    pub(crate) fn service(&self) -> &Service {
        &self.0.service
    }

    /// Who may come in.
    pub(crate) fn access(&self) -> &Access {
        &self.0.access
    }

    /// What has been done.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn body_timeout(&self) -> Duration {
        self.0.body_timeout
    }

    /// How long a request may take, from its head to the last step of its work.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Where the models come from, in the order of their names.
    pub(crate) fn origins(&self) -> &[Origin] {
        &self.0.origins
    }

    /// The names of all models, the default one first.
    pub(crate) fn names(&self) -> &[String] {
        &self.0.names
    }

    /// The model that makes previews for another, by their indices.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn preview(&self, model: usize) -> Result<usize, ApiError> {
        let name = self.0.names.get(model).map_or("", String::as_str);
        let preview = self.0.origins.get(model).and_then(|origin| origin.preview.as_deref());
        let index = preview.and_then(|preview| self.0.names.iter().position(|name| name == preview));
        index.ok_or_else(|| {
            ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!(
                    "model {name:?} has no preview: leave `preview` out, or start the server with --preview"
                ),
            )
        })
    }

    /// From now on the server says that it stops, and still takes work.
    pub(crate) fn leave(&self) {
        self.0.life.send_replace(Life::Leaving);
    }

    /// From now on the server only finishes what it has.
    pub(crate) fn drain(&self) {
        self.0.life.send_replace(Life::Draining);
    }

    /// Whether the server has been told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.0.life.borrow() != Life::Serving
    }

    /// Accepts a request: the server does not end before it is answered, unless that takes too long.
    ///
    /// # Errors
    /// 503 once the server only finishes what it has.
    pub(crate) fn accept(&self) -> Result<InFlight, ApiError> {
        // Counted first, so that a server that begins to drain sees it or is seen by it.
        self.0.in_flight.fetch_add(1, Ordering::SeqCst);
        let accepted = InFlight(self.clone());
        if *self.0.life.borrow() == Life::Draining {
            return Err(stopping());
        }
        Ok(accepted)
    }

    /// Waits until the models are loaded.
    ///
    /// # Errors
    /// 429 when more requests wait for that than can be queued, 503 when the server is told to stop meanwhile.
    pub(crate) async fn until_ready(&self) -> Result<(), ApiError> {
        if self.0.service.is_ready() {
            return Ok(());
        }
        let mut slot = None;
        if let Some(Early { free, slots }) = &self.0.early {
            slot = free.try_acquire().ok();
            if slot.is_none() {
                let message = format!("the queue is full (--max-queue {slots}): try again later");
                return Err(Failure::busy(message, WHILE_LOADING).into());
            }
        }
        let mut life = self.0.life.subscribe();
        let ready = tokio::select! {
            () = self.0.service.until_ready() => Ok(()),
            _ = life.wait_for(|life| *life == Life::Draining) => Err(stopping()),
        };
        drop(slot);
        ready
    }

    /// How many requests are worked on.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::SeqCst)
    }

    /// Whether the server takes work at once, and will for a while.
    ///
    /// # Errors
    /// 503 that says why not: it is being stopped, or its models are still being loaded.
    pub(crate) fn ready(&self) -> Result<(), ApiError> {
        if self.is_stopping() {
            return Err(stopping());
        }
        if !self.0.service.is_ready() {
            return Err(ApiError::unavailable("the models are still being loaded", WHILE_LOADING));
        }
        Ok(())
    }

    /// The index of the model that a request names by its path, by `?model=`, or not at all.
    ///
    /// # Errors
    /// 404 for a name that is not served, 400 for two different ones.
    pub(crate) fn model(&self, target: &Target<'_>, query: Option<&str>) -> Result<usize, ApiError> {
        let name = match (target, query) {
            (Target::Default, None) => return Ok(0),
            (Target::Default, Some(name)) => name,
            (Target::Model(path), Some(name)) if path != name => {
                return Err(wire::WireError::Parameter(format!(
                    "the path names model {path:?} and the query model {name:?}: give one of the two"
                ))
                .into());
            }
            (Target::Model(path), _) => path.as_ref(),
        };
        self.0.names.iter().position(|served| served == name).ok_or_else(|| {
            ApiError::not_found(format!(
                "there is no model {name:?} here; this server has {}",
                self.0.names.join(", ")
            ))
        })
    }
}

fn stopping() -> ApiError {
    Failure::shutting_down().into()
}
