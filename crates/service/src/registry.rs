//! The models: unloaded, being loaded, or loaded. Each is loaded on a thread of its own and outside of locks, once for
//! all that wait for it, and is unloaded again when others need the memory.

mod weights;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::info;
use vae::{DecodeOptions, HostTensor, Silent, Vae, VaeInfo};

use self::weights::{HeldWeights, Weights};
use crate::admission::{Admission, Granted};
use crate::config::Config;
use crate::failure::StartError;
use crate::forecasts::Forecasts;
use crate::stages::guarded;

/// Width and height of a usual picture, in pixels.
const PICTURE: usize = 512;

/// Loads a model for a worker, by its index, and fetches it first if it must; the error says why it could not.
///
/// Each worker calls it for an instance of its own, so that each has its own engine with its own threads and memory, and
/// none waits for another. Weights that are mapped are in memory once, whoever maps them.
pub type Load = dyn Fn(usize) -> Result<Box<dyn Vae>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync;

/// Bytes of a model's weights, before they are loaded; `None` where it is not known.
pub type WeightsSize = dyn Fn() -> Option<usize> + Send + Sync;

/// A model to serve.
pub struct Model {
    /// Its name in URLs: ASCII letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Where it comes from, for the log: a path, an id of the hub, or `demo`.
    pub source: String,
    /// Where it comes from, for clients; `None` where that is private, as with a path on this machine.
    pub origin: Option<String>,
    /// Under which licence its weights are, as far as that is known.
    pub license: Option<String>,
    /// The name of the model that makes previews of its latents.
    pub preview: Option<String>,
    /// Latents to try it with: a safetensors file with one tensor, as a pipeline hands them over.
    pub example: Option<&'static [u8]>,
    /// What its weights will take. Called before `load` where memory may have to be made for them.
    pub weights: Box<WeightsSize>,
    /// Loads it. Called at the start, or with [`Config::lazy`](crate::Config::lazy) whenever it is needed and not there.
    pub load: Box<Load>,
}

/// What is known of a loaded model, while the model itself may be at work.
pub(crate) struct Details {
    /// What it is.
    pub(crate) info: VaeInfo,
    /// Tells what work will take.
    pub(crate) forecasts: Option<Forecasts>,
    /// Bytes of its weights.
    weights: usize,
    /// Those of them that are copied into memory.
    copied: usize,
}

/// A loaded model. Jobs hold it as long as they need it: one that is unloaded meanwhile ends with the last of them.
pub(crate) struct Loaded {
    pub(crate) details: Details,
    /// By worker; each is held by whoever works with it.
    instances: Vec<Mutex<Box<dyn Vae>>>,
    _weights: Weights,
}

/// What came of a load.
type Outcome = Result<Arc<Loaded>, Arc<StartError>>;

/// Called with what came of a load.
type Waiter = Box<dyn FnOnce(Outcome) + Send>;

enum State {
    Unloaded,
    /// It is being loaded, for all of these.
    Loading(Vec<Waiter>),
    Loaded(Arc<Loaded>),
}

struct Slot {
    model: Model,
    state: Mutex<State>,
    last_used: AtomicU64,
}

/// All models, in the order in which they were given.
pub(crate) struct Registry {
    slots: Vec<Slot>,
    admission: Admission,
    lazy: bool,
    workers: usize,
    /// Counts uses, to know which was the last.
    uses: AtomicU64,
    held: Arc<HeldWeights>,
}

impl Loaded {
    /// The instance of a worker; waits for whoever holds it.
    pub(crate) fn vae(&self, worker: usize) -> Option<MutexGuard<'_, Box<dyn Vae>>> {
        // A panic during work is caught, and its memory is released.
        Some(self.instances.get(worker)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Registry {
    pub(crate) fn new(models: Vec<Model>, admission: Admission, config: &Config) -> Self {
        let slot = |model| Slot { model, state: Mutex::new(State::Unloaded), last_used: AtomicU64::new(0) };
        Self {
            slots: models.into_iter().map(slot).collect(),
            admission,
            lazy: config.lazy,
            workers: config.workers.get(),
            uses: AtomicU64::new(0),
            held: Arc::default(),
        }
    }

    /// A model, if it is loaded.
    pub(crate) fn loaded(&self, model: usize) -> Option<Arc<Loaded>> {
        match &*self.slots.get(model)?.state() {
            State::Loaded(loaded) => Some(Arc::clone(loaded)),
            State::Unloaded | State::Loading(_) => None,
        }
    }

    /// Bytes of copied weights that are in memory while `model` works: where models are loaded at their first use, others
    /// are unloaded for it.
    pub(crate) fn copied(&self, model: usize) -> usize {
        let models = 0..self.slots.len();
        let counted = models.filter(|&other| !self.lazy || other == model);
        counted.filter_map(|model| Some(self.loaded(model)?.details.copied)).fold(0, usize::saturating_add)
    }

    /// Bytes of copied weights of all loaded models.
    pub(crate) fn copied_weights(&self) -> usize {
        self.all_loaded().fold(0, |sum, (_, loaded)| sum.saturating_add(loaded.details.copied))
    }

    /// How many models there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All models that are loaded.
    pub(crate) fn all_loaded(&self) -> impl Iterator<Item = (usize, Arc<Loaded>)> {
        (0..self.slots.len()).filter_map(|model| Some((model, self.loaded(model)?)))
    }

    /// A model, loaded if it is not. Dropping the future gives up the wait, not the load.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub(crate) async fn get(self: &Arc<Self>, model: usize) -> Outcome {
        if let Some(loaded) = self.touched(model) {
            return Ok(loaded);
        }
        let (sender, receiver) = oneshot::channel();
        self.load(model, Box::new(move |outcome| drop(sender.send(outcome))));
        let lost = || Err(Arc::new(StartError::Worker("the load did not end".to_owned())));
        receiver.await.unwrap_or_else(|_| lost())
    }

    /// A model, if it is loaded, as the one that was used last.
    fn touched(&self, model: usize) -> Option<Arc<Loaded>> {
        let slot = self.slots.get(model)?;
        slot.last_used.store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.loaded(model)
    }

    /// Has a model loaded if it is not, and calls `waiter` when it is there or cannot be had.
    pub(crate) fn load(self: &Arc<Self>, model: usize, waiter: Waiter) {
        let failed = |reason: String| Err(Arc::new(StartError::Worker(reason)));
        let Some(slot) = self.slots.get(model) else {
            return waiter(failed("a model is missing".to_owned()));
        };
        {
            let mut state = slot.state();
            match &mut *state {
                State::Loaded(loaded) => {
                    let loaded = Arc::clone(loaded);
                    drop(state);
                    return waiter(Ok(loaded));
                }
                State::Loading(waiters) => return waiters.push(waiter),
                State::Unloaded => *state = State::Loading(vec![waiter]),
            }
        }
        let registry = Arc::clone(self);
        let thread = std::thread::Builder::new().name(format!("load-{model}")).spawn(move || {
            let outcome = guarded(|| registry.load_now(model)).unwrap_or_else(failed);
            registry.settle(model, outcome);
        });
        if let Err(error) = thread {
            self.settle(model, failed(format!("a model cannot be loaded: {error}")));
        }
    }

    /// A load has ended: all who wait for it hear of it.
    fn settle(&self, model: usize, outcome: Outcome) {
        let Some(slot) = self.slots.get(model) else { return };
        let state = match &outcome {
            Ok(loaded) => State::Loaded(Arc::clone(loaded)),
            Err(_) => State::Unloaded,
        };
        let before = std::mem::replace(&mut *slot.state(), state);
        if let State::Loading(waiters) = before {
            waiters.into_iter().for_each(|waiter| waiter(outcome.clone()));
        }
    }

    /// Loads a model, on the thread that calls.
    fn load_now(&self, model: usize) -> Outcome {
        let failed = |reason: &str| Arc::new(StartError::Worker(reason.to_owned()));
        let slot = self.slots.get(model).ok_or_else(|| failed("a model is missing"))?;
        let expected = if self.lazy { (slot.model.weights)().unwrap_or(0) } else { 0 };
        let expected = self.wait_for_room(model, expected);
        let first = load(&slot.model, &self.admission, 0)?;
        let mut details = Details {
            info: first.info().clone(),
            forecasts: first.forecaster().map(Forecasts::new),
            weights: first.weights_memory(),
            copied: first.copied_weights_memory(),
        };
        let mut instances = vec![Mutex::new(first)];
        for worker in 1..self.workers {
            let vae = load(&slot.model, &self.admission, worker)?;
            // What is mapped is in memory once.
            let copied = vae.copied_weights_memory();
            details.weights = details.weights.saturating_add(copied);
            details.copied = details.copied.saturating_add(copied);
            instances.push(Mutex::new(vae));
        }
        let weights = Weights::hold(&self.held, details.weights);
        drop(expected);
        Ok(Arc::new(Loaded { details, instances, _weights: weights }))
    }

    /// Unloads others until weights of `bytes` more fit, and counts them from now on. Weights of unloaded models are
    /// waited for as long as jobs need them, and those that are about to be loaded until they are.
    fn wait_for_room(&self, model: usize, bytes: usize) -> Weights {
        let room = self.admission.budget.work().unwrap_or(usize::MAX);
        loop {
            if let Some(weights) = Weights::hold_within(&self.held, bytes, room) {
                return weights;
            }
            self.make_room(bytes, model);
            let held = self.held.bytes();
            // What could not be unloaded is not waited for.
            if held.saturating_add(bytes) > room && held <= self.weights() {
                return Weights::hold(&self.held, bytes);
            }
            self.held.wait();
        }
    }

    /// Bytes of the weights of all loaded models.
    fn weights(&self) -> usize {
        self.all_loaded().fold(0, |sum, (_, loaded)| sum.saturating_add(loaded.details.weights))
    }

    /// Unloads models, those first that were not used for longest, until all weights and `needed` bytes more fit into
    /// the memory for work. The model `kept` stays. Returns whether any was unloaded.
    pub(crate) fn make_room(&self, needed: usize, kept: usize) -> bool {
        let Some(room) = self.admission.budget.work().filter(|_| self.lazy) else { return false };
        let mut unloaded = false;
        loop {
            if self.weights().saturating_add(needed) <= room {
                return unloaded;
            }
            let used =
                |model: usize| self.slots.get(model).map_or(0, |slot| slot.last_used.load(Ordering::Relaxed));
            let others = self.all_loaded().map(|(model, _)| model).filter(|&model| model != kept);
            let Some(oldest) = others.min_by_key(|&model| used(model)) else { return unloaded };
            self.unload(oldest);
            unloaded = true;
        }
    }

    fn unload(&self, model: usize) {
        let Some(slot) = self.slots.get(model) else { return };
        let before = {
            let mut state = slot.state();
            if !matches!(&*state, State::Loaded(_)) {
                return;
            }
            std::mem::replace(&mut *state, State::Unloaded)
        };
        // Unmapping takes a while, so it is done outside of the lock.
        drop(before);
        info!(name = slot.model.name, "model unloaded: others need the memory");
    }

    /// Lets the instances of a worker that does not work give back memory that its engine keeps for the next work.
    pub(crate) fn release(&self, worker: usize) {
        for (_, loaded) in self.all_loaded() {
            if let Some(Ok(mut vae)) = loaded.instances.get(worker).map(|vae| vae.try_lock()) {
                vae.release();
            }
        }
    }

    /// Has the memory of a usual picture at hand on a worker's engine, for each loaded model that decodes pictures, so that
    /// the first request takes no longer than those after it. Gives the bytes.
    pub(crate) fn reserve(&self, worker: usize) -> usize {
        let mut reserved = 0;
        for (model, loaded) in self.all_loaded() {
            let Details { info, forecasts, .. } = &loaded.details;
            // A video takes too long for its pages to matter.
            if info.temporal_factor.is_some() {
                continue;
            }
            let admission = self.admission.beside(self.copied(model));
            let side = PICTURE / info.spatial_factor;
            let shape = [1, info.latent_channels, side, side];
            let granted = admission.decode(forecasts.as_ref(), &shape, DecodeOptions::default());
            let Ok(Granted { forecast: Some(forecast), .. }) = granted else { continue };
            // It may go over the limit where a request may.
            if admission.budget.work().is_none_or(|room| forecast.memory() <= room)
                && let Some(mut vae) = loaded.vae(worker)
            {
                vae.reserve(forecast.engine_memory);
                reserved = reserved.max(forecast.engine_memory);
            }
        }
        reserved
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads a model and lets it decode something tiny, so that the first request meets nothing new.
///
/// # Errors
/// Why it cannot be loaded, does not work, or has no room to do so.
fn load(model: &Model, admission: &Admission, worker: usize) -> Result<Box<dyn Vae>, StartError> {
    let Model { name, source: origin, load, .. } = model;
    let start = Instant::now();
    let crashed = |panic| StartError::Worker(format!("model {name:?} panicked while it was loaded: {panic}"));
    let mut vae = match guarded(|| load(worker)).map_err(crashed)? {
        Ok(vae) => vae,
        Err(source) => {
            return Err(StartError::Load { name: name.clone(), origin: origin.clone(), source });
        }
    };
    let loaded = start.elapsed();
    let info = vae.info();
    let shape = match info.temporal_factor {
        None => vec![1, info.latent_channels, 2, 2],
        Some(_) => vec![1, info.latent_channels, 1, 2, 2],
    };
    if let Err(message) =
        admission.check_smallest(vae.forecaster().map(Forecasts::new).as_ref(), &shape, info)
    {
        return Err(StartError::Load { name: name.clone(), origin: origin.clone(), source: message.into() });
    }
    let latents = HostTensor::new(shape.clone(), vec![0.0; shape.iter().product()]);
    let warm = guarded(|| vae.decode(latents, &DecodeOptions::default(), &mut Silent)).map_err(crashed)?;
    if let Err(source) = warm {
        return Err(StartError::WarmUp { name: name.clone(), origin: origin.clone(), source });
    }
    info!(
        name,
        origin,
        class = vae.info().class_name,
        engine = vae.info().engine,
        load_ms = loaded.as_millis() as u64,
        warm_up_ms = start.elapsed().saturating_sub(loaded).as_millis() as u64,
        "model loaded"
    );
    Ok(vae)
}
