//! A model that is easy to predict: every pixel is the latent under it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vae::latents::{LatentFormat, Normalization};
use vae::{DecodeOptions, EncodeOptions, HostTensor, Observer, Vae, VaeError, VaeInfo};

use crate::{Load, Model};

/// A latent of this value makes the model panic.
pub(super) const PANIC: f32 = 1000.0;
/// A latent of this value makes the model fail.
pub(super) const FAIL: f32 = 2000.0;

/// What tests see and steer while the model belongs to the workers.
#[derive(Clone, Default)]
pub(super) struct Handle(Arc<State>);

#[derive(Default)]
struct State {
    held: AtomicBool,
    takes_ms: AtomicUsize,
    started: AtomicUsize,
    finished: AtomicUsize,
    loads: AtomicUsize,
    weights: AtomicUsize,
    /// How many items each decode had.
    batches: Mutex<Vec<usize>>,
}

impl Handle {
    /// From now on decodes do not end.
    pub(super) fn hold(&self) {
        self.0.held.store(true, Ordering::SeqCst);
    }

    /// Decodes may end.
    pub(super) fn let_go(&self) {
        self.0.held.store(false, Ordering::SeqCst);
    }

    /// How long a decode takes.
    pub(super) fn take(&self, time: Duration) {
        self.0.takes_ms.store(time.as_millis() as usize, Ordering::SeqCst);
    }

    /// Decodes that have begun, the warm-ups apart.
    pub(super) fn started(&self) -> usize {
        self.0.started.load(Ordering::SeqCst) - self.loads()
    }

    /// Decodes that have come to their end, the warm-ups apart.
    pub(super) fn finished(&self) -> usize {
        self.0.finished.load(Ordering::SeqCst) - self.loads()
    }

    /// How often it was loaded.
    pub(super) fn loads(&self) -> usize {
        self.0.loads.load(Ordering::SeqCst)
    }

    /// Bytes that its weights take.
    pub(super) fn set_weights(&self, bytes: usize) {
        self.0.weights.store(bytes, Ordering::SeqCst);
    }

    pub(super) fn weights(&self) -> usize {
        self.0.weights.load(Ordering::SeqCst)
    }

    /// How many items each decode had, the first warm-up apart.
    pub(super) fn batches(&self) -> Vec<usize> {
        self.0.batches.lock().unwrap().iter().skip(1).copied().collect()
    }
}

struct Fake {
    info: VaeInfo,
    handle: Handle,
}

impl Vae for Fake {
    fn info(&self) -> &VaeInfo {
        &self.info
    }

    fn decode(
        &mut self,
        latents: HostTensor,
        _: &DecodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let state = &self.handle.0;
        let [batch, 4, height, width] = *latents.shape.as_slice() else { panic!("{:?}", latents.shape) };
        state.batches.lock().unwrap().push(batch);
        state.started.fetch_add(1, Ordering::SeqCst);
        let begun = Instant::now();
        loop {
            observer.progress(1, 2)?;
            let takes = Duration::from_millis(state.takes_ms.load(Ordering::SeqCst) as u64);
            if !state.held.load(Ordering::SeqCst) && begun.elapsed() >= takes {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!latents.data.contains(&PANIC), "as the test wants it");
        if latents.data.contains(&FAIL) {
            return Err(VaeError::Input("as the test wants it".to_owned()));
        }
        state.finished.fetch_add(1, Ordering::SeqCst);
        // Two pixels a side for each latent.
        let plane = height * width;
        let pixels = latents.data.chunks_exact(4 * plane).flat_map(|item| {
            let values = item[..plane].iter().flat_map(|&value| [value; 4]);
            values.clone().chain(values.clone()).chain(values)
        });
        Ok(HostTensor::new(vec![batch, 3, 2 * height, 2 * width], pixels.collect()))
    }

    fn encode(
        &mut self,
        pixels: HostTensor,
        _: &EncodeOptions,
        _: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let shape = vec![pixels.shape[0], 8, pixels.shape[2] / 2, pixels.shape[3] / 2];
        let count = shape.iter().product();
        Ok(HostTensor::new(shape, vec![0.0; count]))
    }

    fn weights_memory(&self) -> usize {
        self.handle.weights()
    }

    fn release(&mut self) {}
}

pub(super) fn info() -> VaeInfo {
    VaeInfo {
        class_name: "Fake".to_owned(),
        engine: "none".to_owned(),
        latent_channels: 4,
        out_channels: 3,
        spatial_factor: 2,
        can_encode: true,
        temporal_factor: None,
        latents: LatentFormat {
            normalization: Normalization::Factors { scaling_factor: 1.0, shift_factor: None },
            ..LatentFormat::default()
        },
        concluded: None,
    }
}

pub(super) fn model(name: &str) -> (Model, Handle) {
    let handle = Handle::default();
    let (loads, weights) = (handle.clone(), handle.clone());
    let load = move |_| {
        loads.0.loads.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Fake { info: info(), handle: loads.clone() }) as Box<dyn Vae>)
    };
    let mut model = from(name, Box::new(load));
    model.weights = Box::new(move || Some(weights.weights()));
    (model, handle)
}

/// A model that `load` makes.
pub(super) fn from(name: &str, load: Box<Load>) -> Model {
    Model {
        preview: None,
        name: name.to_owned(),
        source: "a test".to_owned(),
        origin: None,
        license: None,
        example: None,
        weights: Box::new(|| None),
        load,
    }
}
