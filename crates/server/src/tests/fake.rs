//! A model that is easy to predict: every pixel is the latent under it, and every latent the pixel at its corner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use vae::latents::{LatentFormat, Normalization};
use vae::{DecodeOptions, DeviceError, EncodeOptions, HostTensor, Observer, Vae, VaeError, VaeInfo};

use crate::{Load, Model};

/// A first latent of this value makes the model panic.
pub(super) const PANIC: f32 = 1000.0;
/// A first latent of this value makes the model fail.
pub(super) const FAIL: f32 = 2000.0;

/// What tests see and steer while the model belongs to the executor.
#[derive(Clone, Default)]
pub(super) struct Handle(Arc<State>);

#[derive(Default)]
struct State {
    held: AtomicBool,
    started: AtomicUsize,
    finished: AtomicUsize,
    released: AtomicUsize,
    loads: AtomicUsize,
    weights: AtomicUsize,
    deaf_ms: AtomicUsize,
}

impl State {
    /// Works until it may end, or nobody waits for it any more.
    fn work(&self, observer: &mut dyn Observer) -> Result<(), VaeError> {
        std::thread::sleep(Duration::from_millis(self.deaf_ms.load(Ordering::SeqCst) as u64));
        loop {
            observer.progress(1, 2)?;
            if !self.held.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
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

    /// From now on decodes begin with so long a time in which nothing can cancel them.
    pub(super) fn be_deaf(&self, time: Duration) {
        self.0.deaf_ms.store(time.as_millis() as usize, Ordering::SeqCst);
    }

    /// Decodes that have begun, the warm-up apart.
    pub(super) fn started(&self) -> usize {
        self.0.started.load(Ordering::SeqCst) - 1
    }

    /// Decodes that have come to their end, the warm-up apart.
    pub(super) fn finished(&self) -> usize {
        self.0.finished.load(Ordering::SeqCst) - 1
    }

    /// How often it was loaded.
    pub(super) fn loads(&self) -> usize {
        self.0.loads.load(Ordering::SeqCst)
    }

    /// Bytes that its weights take.
    pub(super) fn set_weights(&self, bytes: usize) {
        self.0.weights.store(bytes, Ordering::SeqCst);
    }

    /// How often memory was given back, after the warm-up apart.
    pub(super) fn released(&self) -> usize {
        self.0.released.load(Ordering::SeqCst).saturating_sub(1)
    }
}

#[derive(Clone)]
struct FakeVae {
    info: VaeInfo,
    handle: Handle,
}

impl Vae for FakeVae {
    fn info(&self) -> &VaeInfo {
        &self.info
    }

    fn decode(
        &mut self,
        latents: HostTensor,
        _options: &DecodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let state = &self.handle.0;
        state.started.fetch_add(1, Ordering::SeqCst);
        match latents.data[0] {
            PANIC => panic!("as the test wants it"),
            FAIL => return Err(DeviceError::OutOfMemory(12345).into()),
            _ => {}
        }
        state.work(observer)?;
        Ok(enlarged(&latents, &self.info))
    }

    fn weights_memory(&self) -> usize {
        self.handle.0.weights.load(Ordering::SeqCst)
    }

    fn encode(
        &mut self,
        pixels: HostTensor,
        _options: &EncodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let state = &self.handle.0;
        state.started.fetch_add(1, Ordering::SeqCst);
        state.work(observer)?;
        Ok(moments(&pixels, &self.info))
    }

    fn release(&mut self) {
        self.handle.0.released.fetch_add(1, Ordering::SeqCst);
    }
}

/// The first channels of `latents`, each value repeated for all pixels and frames that it stands for.
pub(super) fn enlarged(latents: &HostTensor, info: &VaeInfo) -> HostTensor {
    let (batch, frames, height, width) = match *latents.shape.as_slice() {
        [batch, _, frames, height, width] => (batch, frames, height, width),
        [batch, _, height, width] => (batch, 1, height, width),
        ref other => panic!("{other:?} is no shape for a decode"),
    };
    assert_eq!(latents.shape[1], info.latent_channels);
    let (spatial, temporal) = (info.spatial_factor, info.temporal_factor.unwrap_or(1));
    let decoded_frames = (frames - 1) * temporal + 1;
    let mut data = Vec::new();
    for item in 0..batch {
        for channel in 0..info.out_channels {
            for frame in 0..decoded_frames {
                for y in 0..height * spatial {
                    for x in 0..width * spatial {
                        let plane =
                            (item * info.latent_channels + channel) * frames + frame.div_ceil(temporal);
                        data.push(latents.data[(plane * height + y / spatial) * width + x / spatial]);
                    }
                }
            }
        }
    }
    let mut shape = vec![batch, info.out_channels, height * spatial, width * spatial];
    if info.temporal_factor.is_some() {
        shape.insert(2, decoded_frames);
    }
    HostTensor::new(shape, data)
}

/// Means and the logarithms of variances, in this order, of what `pixels` are encoded to: each mean is the pixel at the
/// corner of those that it stands for (of each channel, and of the first ones again), each variance is 1.
pub(super) fn moments(pixels: &HostTensor, info: &VaeInfo) -> HostTensor {
    let (batch, channels, frames, height, width) = match *pixels.shape.as_slice() {
        [batch, channels, frames, height, width] => (batch, channels, frames, height, width),
        [batch, channels, height, width] => (batch, channels, 1, height, width),
        ref other => panic!("{other:?} is no shape for an encode"),
    };
    assert_eq!(channels, info.out_channels);
    let (spatial, temporal) = (info.spatial_factor, info.temporal_factor.unwrap_or(1));
    assert!(height % spatial == 0 && width % spatial == 0, "{:?}", pixels.shape);
    let latent_frames = (frames - 1) / temporal + 1;
    let mut data = Vec::new();
    for item in 0..batch {
        for channel in 0..2 * info.latent_channels {
            for frame in 0..latent_frames {
                for y in 0..height / spatial {
                    for x in 0..width / spatial {
                        let plane = (item * channels + channel % channels) * frames + frame * temporal;
                        let mean = pixels.data[(plane * height + y * spatial) * width + x * spatial];
                        data.push(if channel < info.latent_channels { mean } else { 0.0 });
                    }
                }
            }
        }
    }
    let mut shape = vec![batch, 2 * info.latent_channels, height / spatial, width / spatial];
    if info.temporal_factor.is_some() {
        shape.insert(2, latent_frames);
    }
    HostTensor::new(shape, data)
}

/// An image model of four latent channels and two pixels a latent.
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
            normalization: Normalization::Factors { scaling_factor: 0.5, shift_factor: Some(0.125) },
            ..LatentFormat::default()
        },
        concluded: None,
    }
}

pub(super) fn model(name: &str, info: VaeInfo) -> (Model, Handle) {
    let handle = Handle::default();
    let fake = FakeVae { info, handle: handle.clone() };
    let load = move |_| {
        fake.handle.0.loads.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(fake.clone()) as Box<dyn Vae>)
    };
    (from(name, "a test", Box::new(load)), handle)
}

/// A model that `load` makes.
pub(super) fn from(name: &str, source: &str, load: Box<Load>) -> Model {
    Model {
        preview: None,
        name: name.to_owned(),
        source: source.to_owned(),
        origin: None,
        license: None,
        example: None,
        weights: Box::new(|| None),
        load,
    }
}
