//! Feature maps: batches of images with many channels, channels last.

use crate::arena::{Arena, Buffer, OutOfMemory, Region};
use crate::context::Context;
use crate::conv::unit_for;

/// How the values of feature maps lie in memory. Arithmetic is always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// Four bytes a value.
    #[default]
    F32,
    /// Two bytes a value, with a power of two for each channel that keeps every value in range.
    F16,
}

impl Storage {
    /// Bytes a value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// What is known of one image's channels without looking at it again: gathered while it was written.
#[derive(Clone, Debug, Default)]
pub struct ChannelStats {
    /// The mean of each channel.
    pub mean: Vec<f64>,
    /// The sum of squared differences from the mean of each channel.
    pub m2: Vec<f64>,
    /// The largest magnitude of each channel.
    pub abs_max: Vec<f32>,
}

impl ChannelStats {
    /// Of an image that was not looked at.
    fn unknown(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], m2: vec![0.0; channels], abs_max: vec![0.0; channels] }
    }

    /// Of several images of `pixels` pixels each, together.
    pub(crate) fn merged(images: &[Self], pixels: usize) -> Self {
        let channels = images[0].mean.len();
        let mut all = Self::unknown(channels);
        for c in 0..channels {
            all.mean[c] = images.iter().map(|s| s.mean[c]).sum::<f64>() / images.len() as f64;
            let apart = |s: &Self| s.m2[c] + pixels as f64 * (s.mean[c] - all.mean[c]).powi(2);
            all.m2[c] = images.iter().map(apart).sum();
            all.abs_max[c] = images.iter().fold(0.0, |most, s| most.max(s.abs_max[c]));
        }
        all
    }
}

/// A batch of feature maps, `[batch, height, width, channels]` with each pixel padded to `stride` channels.
pub struct Features {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    /// Channels from one pixel to the next: a multiple of 16; those past `channels` are zero.
    pub(crate) stride: usize,
    pub(crate) storage: Storage,
    /// For each channel, true value / stored value; powers of two, and 1 for f32.
    pub(crate) unit: Vec<f32>,
    /// One for each image.
    pub(crate) stats: Vec<ChannelStats>,
    pub(crate) buffer: Buffer,
}

/// Channels are padded to a multiple of the widest vector.
pub(crate) const PAD: usize = 16;

/// Memory that a kernel writes images to, and how they lie in it: of feature maps, or of what feature maps that are used up
/// become in place.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// `[batch][height][width][stride]`
    pub(crate) memory: Region<'a>,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
    pub(crate) storage: Storage,
}

impl Target<'_> {
    /// Bytes of one image.
    pub(crate) fn image_bytes(&self) -> usize {
        self.height * self.width * self.stride * self.storage.size()
    }
}

/// The product of sizes, which must be at least 1 each, or nothing if it is more than there are addresses.
pub(crate) fn product(sizes: &[usize]) -> Option<usize> {
    assert!(sizes.iter().all(|&size| size > 0), "feature maps of {sizes:?}: every size must be at least 1");
    let bytes = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    bytes.filter(|&bytes| bytes <= isize::MAX as usize)
}

impl Features {
    /// An empty batch: its values are unspecified until written.
    pub(crate) fn new(
        arena: &Arena,
        shape: [usize; 4],
        storage: Storage,
        unit: Vec<f32>,
    ) -> Result<Self, OutOfMemory> {
        let [batch, height, width, channels] = shape;
        let too_many = OutOfMemory(usize::MAX);
        let stride = channels.checked_next_multiple_of(PAD).ok_or(too_many)?;
        let buffer = arena.take(product(&[batch, height, width, stride, storage.size()]).ok_or(too_many)?)?;
        assert_eq!(unit.len(), stride, "a unit for each channel");
        Ok(Self { batch, height, width, channels, stride, storage, unit, stats: Vec::new(), buffer })
    }

    /// From `[B, C, H, W]` values in C order, stored as f32.
    ///
    /// # Errors
    /// When there is not enough memory.
    ///
    /// # Panics
    /// When the shape is not that of as many values as there are, or has none.
    pub fn from_nchw(arena: &Arena, shape: [usize; 4], data: &[f32]) -> Result<Self, OutOfMemory> {
        let [batch, channels, height, width] = shape;
        assert_eq!(product(&shape), Some(data.len()), "{} values for the shape {shape:?}", data.len());
        let stride = channels.checked_next_multiple_of(PAD).ok_or(OutOfMemory(usize::MAX))?;
        let mut features =
            Self::new(arena, [batch, height, width, channels], Storage::F32, vec![1.0; stride])?;
        let pixels = height * width;
        if arena.is_rehearsal() {
            features.stats = vec![ChannelStats::unknown(stride); batch];
            return Ok(features);
        }
        for image in 0..batch {
            // SAFETY: nobody else knows of the buffer yet, and it begins with a page; images are whole f32.
            let out = unsafe { features.buffer.region().nth(image, features.image_bytes()).values_mut() };
            let planes = &data[image * channels * pixels..(image + 1) * channels * pixels];
            for (pixel, out) in out.chunks_exact_mut(stride).enumerate() {
                for (c, out) in out.iter_mut().enumerate() {
                    *out = if c < channels { planes[c * pixels + pixel] } else { 0.0 };
                }
            }
            let mut stats = ChannelStats::default();
            for c in 0..stride {
                let plane = planes.get(c * pixels..(c + 1) * pixels).unwrap_or(&[]);
                let mean = plane.iter().map(|&x| f64::from(x)).sum::<f64>() / pixels as f64;
                stats.mean.push(mean);
                stats.m2.push(plane.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum());
                stats.abs_max.push(plane.iter().fold(0.0, |m, x| x.abs().max(m)));
            }
            features.stats.push(stats);
        }
        Ok(features)
    }

    /// To `[B, C, H, W]` values in C order.
    pub fn to_nchw(&self) -> Vec<f32> {
        let pixels = self.height * self.width;
        // Zeros that the system has promised take no memory before they are touched.
        let mut out = vec![0.0; self.batch * self.channels * pixels];
        if self.buffer.is_rehearsal() {
            return out;
        }
        for image in 0..self.batch {
            let planes = &mut out[image * self.channels * pixels..(image + 1) * self.channels * pixels];
            for pixel in 0..pixels {
                for c in 0..self.channels {
                    planes[c * pixels + pixel] =
                        self.get((image * pixels + pixel) * self.stride + c) * self.unit[c];
                }
            }
        }
        out
    }

    /// The stored value at `index`, not yet multiplied by its unit.
    fn get(&self, index: usize) -> f32 {
        let value = self.buffer.region().nth(index, self.storage.size());
        // SAFETY: the region is one value of this storage at a multiple of its size, initialised as all of a buffer is; no
        // kernel writes while the feature maps are borrowed.
        unsafe {
            match self.storage {
                Storage::F32 => *value.values(),
                Storage::F16 => half::f16::from_bits(*value.ptr().cast::<u16>()).to_f32(),
            }
        }
    }

    /// `[B, C, H, W]`.
    pub fn shape(&self) -> [usize; 4] {
        [self.batch, self.channels, self.height, self.width]
    }

    /// The statistics of each image's channels.
    pub fn stats(&self) -> &[ChannelStats] {
        &self.stats
    }

    /// The same values in the context's storage.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn stored(self, context: &Context) -> Result<Self, OutOfMemory> {
        if self.storage == context.storage {
            return Ok(self);
        }
        let mut unit = vec![1.0f32; self.stride];
        for stats in &self.stats {
            for (u, &bound) in unit.iter_mut().zip(&stats.abs_max) {
                *u = u.max(unit_for(f64::from(bound)));
            }
        }
        let shape = [self.batch, self.height, self.width, self.channels];
        let mut out = Self::new(&context.arena, shape, context.storage, unit)?;
        if context.is_rehearsal() {
            out.stats = self.stats;
            return Ok(out);
        }
        for index in 0..self.batch * self.height * self.width * self.stride {
            let c = index % self.stride;
            let value = self.get(index) * self.unit[c] / out.unit[c];
            let to = out.buffer.region().nth(index, out.storage.size());
            // SAFETY: the region is one value of this storage at a multiple of its size, of a buffer that nobody else knows of.
            unsafe {
                match out.storage {
                    Storage::F32 => *to.values() = value,
                    Storage::F16 => *to.ptr().cast::<u16>() = half::f16::from_f32(value).to_bits(),
                }
            }
        }
        out.stats = self.stats;
        Ok(out)
    }

    /// Bytes of one image.
    pub(crate) fn image_bytes(&self) -> usize {
        self.height * self.width * self.stride * self.storage.size()
    }

    /// Its memory, to write to.
    pub(crate) fn target(&self) -> Target<'_> {
        let Self { height, width, stride, storage, .. } = *self;
        Target { memory: self.buffer.region(), height, width, stride, storage }
    }
}
