//! The models: loaded side by side when the server starts, or each at its first use, and put away again when others
//! need the memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use tracing::info;
use vae::{DecodeOptions, Forecaster, HostTensor, Silent, Vae, VaeInfo};

use crate::Model;
use crate::admission::{Admission, Granted};
use crate::error::ServeError;

/// Width and height of a usual picture, in pixels.
const PICTURE: usize = 512;

/// What handlers know of a loaded model, while the model itself may be at work.
pub(crate) struct Known {
    pub(crate) info: VaeInfo,
    /// Tells what work will take.
    pub(crate) forecaster: Option<Arc<Forecaster>>,
    /// Bytes of its weights.
    weights: usize,
    /// Those of them that are copied into memory.
    copied: usize,
}

/// All models, in the order in which they were given.
pub(crate) struct Shelf {
    slots: Vec<Slot>,
    admission: Admission,
    /// Counts uses, to know which was the last.
    uses: AtomicU64,
}

struct Slot {
    model: Model,
    /// Held by whoever works with the model, or loads it.
    vae: Mutex<Option<Box<dyn Vae>>>,
    known: RwLock<Option<Arc<Known>>>,
    last_used: AtomicU64,
}

/// A loaded model that nobody else works with meanwhile.
pub(crate) struct Taken<'a>(MutexGuard<'a, Option<Box<dyn Vae>>>);

impl Shelf {
    pub(crate) fn new(models: Vec<Model>, admission: Admission) -> Self {
        let slot = |model| Slot {
            model,
            vae: Mutex::new(None),
            known: RwLock::new(None),
            last_used: AtomicU64::new(0),
        };
        Self { slots: models.into_iter().map(slot).collect(), admission, uses: AtomicU64::new(0) }
    }

    /// What is known of a model; `None` while it is not loaded.
    pub(crate) fn known(&self, model: usize) -> Option<Arc<Known>> {
        self.slots.get(model)?.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of weights that are copied into memory: of one model, or of all that are loaded.
    pub(crate) fn copied(&self, only: Option<usize>) -> usize {
        let models = 0..self.slots.len();
        let counted = models.filter(|model| only.is_none_or(|only| only == *model));
        counted.filter_map(|model| Some(self.known(model)?.copied)).fold(0, usize::saturating_add)
    }

    /// How many models there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether all models are loaded.
    pub(crate) fn is_full(&self) -> bool {
        (0..self.slots.len()).all(|model| self.known(model).is_some())
    }

    /// How many models are loaded.
    pub(crate) fn loaded(&self) -> usize {
        (0..self.slots.len()).filter(|&model| self.known(model).is_some()).count()
    }

    /// A model, loaded if it is not. Waits for whoever has it.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub(crate) fn take(&self, model: usize) -> Result<Taken<'_>, ServeError> {
        let slot =
            self.slots.get(model).ok_or_else(|| ServeError::Executor("a model is missing".to_owned()))?;
        // A panic during work is caught, and one in between leaves no model half done.
        let mut place = slot.vae.lock().unwrap_or_else(PoisonError::into_inner);
        slot.last_used.store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        if place.is_none() {
            let vae = load(&slot.model, &self.admission)?;
            let known = Known {
                info: vae.info().clone(),
                forecaster: vae.forecaster(),
                weights: vae.weights_memory(),
                copied: vae.copied_weights_memory(),
            };
            *place = Some(vae);
            *slot.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(known));
        }
        Ok(Taken(place))
    }

    /// What is known of a model, which is loaded if it is not.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub(crate) fn load(&self, model: usize) -> Result<Arc<Known>, ServeError> {
        loop {
            if let Some(known) = self.known(model) {
                return Ok(known);
            }
            drop(self.take(model)?);
        }
    }

    /// Puts models away, those first that were not used for longest, until the weights and `needed` bytes more fit into
    /// `room`. The model `kept` stays.
    pub(crate) fn make_room(&self, room: Option<usize>, needed: usize, kept: usize) {
        let Some(room) = room else { return };
        loop {
            let loaded = || (0..self.slots.len()).filter_map(|model| Some((model, self.known(model)?)));
            let weights = loaded().fold(0usize, |sum, (_, known)| sum.saturating_add(known.weights));
            if weights.saturating_add(needed) <= room {
                return;
            }
            let used =
                |model: usize| self.slots.get(model).map_or(0, |slot| slot.last_used.load(Ordering::Relaxed));
            let others = loaded().map(|(model, _)| model).filter(|&model| model != kept);
            let Some(oldest) = others.min_by_key(|&model| used(model)) else { return };
            self.put_away(oldest);
        }
    }

    fn put_away(&self, model: usize) {
        let Some(slot) = self.slots.get(model) else { return };
        let mut place = slot.vae.lock().unwrap_or_else(PoisonError::into_inner);
        *slot.known.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(mut vae) = place.take() {
            vae.release();
            info!(name = slot.model.name, "model put away: others need the memory");
        }
    }

    /// Lets all models give back memory that they keep for the next decode.
    pub(crate) fn rest(&self) {
        for slot in &self.slots {
            if let Some(vae) = slot.vae.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                vae.release();
            }
        }
    }

    /// Has the memory of a usual picture at hand, for each loaded model that decodes pictures, so that the first request
    /// takes no longer than those after it.
    pub(crate) fn reserve(&self, admission: &Admission) {
        let admission = admission.beside(self.copied(None));
        for (model, slot) in self.slots.iter().enumerate() {
            // A video takes too long for its pages to matter.
            let Some(known) = self.known(model).filter(|known| known.info.temporal_factor.is_none()) else {
                continue;
            };
            let side = PICTURE / known.info.spatial_factor;
            let shape = [1, known.info.latent_channels, side, side];
            let options = DecodeOptions::default();
            let granted = admission.decode(known.forecaster.as_deref(), &shape, options);
            let Ok(Granted { forecast: Some(forecast), .. }) = granted else { continue };
            // It may go over the limit where a request may.
            if admission.budget.work().is_none_or(|room| forecast.memory() <= room)
                && let Some(vae) = slot.vae.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            {
                vae.reserve(forecast.engine_memory);
            }
        }
    }
}

impl Taken<'_> {
    /// The model.
    pub(crate) fn vae(&mut self) -> Option<&mut dyn Vae> {
        // Not `map`, which would ask for a model that lives for ever.
        match self.0.as_mut() {
            Some(vae) => Some(vae.as_mut()),
            None => None,
        }
    }
}

/// Loads a model and lets it decode something tiny, so that the first request meets nothing new.
///
/// # Errors
/// Why it cannot be loaded, does not work, or has no room to do so.
fn load(model: &Model, admission: &Admission) -> Result<Box<dyn Vae>, ServeError> {
    let Model { name, source: origin, load, .. } = model;
    let start = Instant::now();
    let crashed =
        |panic| ServeError::Executor(format!("model {name:?} panicked while it was loaded: {panic}"));
    let mut vae = match guarded(load).map_err(crashed)? {
        Ok(vae) => vae,
        Err(source) => {
            return Err(ServeError::Load { name: name.clone(), origin: origin.clone(), source });
        }
    };
    let loaded = start.elapsed();
    let info = vae.info();
    let shape = match info.temporal_factor {
        None => vec![1, info.latent_channels, 2, 2],
        Some(_) => vec![1, info.latent_channels, 1, 2, 2],
    };
    if let Err(message) = admission.check_smallest(vae.forecaster().as_deref(), &shape, info) {
        return Err(ServeError::Load { name: name.clone(), origin: origin.clone(), source: message.into() });
    }
    let latents = HostTensor::new(shape.clone(), vec![0.0; shape.iter().product()]);
    let warm = guarded(|| vae.decode(latents, &DecodeOptions::default(), &mut Silent)).map_err(crashed)?;
    if let Err(source) = warm {
        return Err(ServeError::WarmUp { name: name.clone(), origin: origin.clone(), source });
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

/// Runs `work`; a panic comes back as its message.
pub(crate) fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
    })
}
