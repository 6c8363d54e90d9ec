//! Clips of frames.

use crate::arena::OutOfMemory;
use crate::context::Context;
use crate::features::{ChannelStats, Features, product};

/// The feature maps of one clip.
pub struct Clip {
    /// Its images are the frames; its statistics have one entry, of all frames together.
    pub(crate) frames: Features,
}

impl Clip {
    /// From `[C, F, H, W]` values in C order, in the context's storage.
    ///
    /// # Errors
    /// When there is not enough memory.
    ///
    /// # Panics
    /// When the shape is not that of as many values as there are, or has none.
    pub fn from_cfhw(context: &Context, shape: [usize; 4], data: &[f32]) -> Result<Self, OutOfMemory> {
        let [channels, frames, height, width] = shape;
        assert_eq!(product(&shape), Some(data.len()), "{} values for the shape {shape:?}", data.len());
        if context.is_rehearsal() {
            let frames = Features::from_nchw(&context.arena, [frames, channels, height, width], data)?;
            return Ok(Self::of(frames.stored(context)?));
        }
        let data = swapped(data, [channels, frames], height * width);
        let frames = Features::from_nchw(&context.arena, [frames, channels, height, width], &data)?;
        Ok(Self::of(frames.stored(context)?))
    }

    /// To `[C, F, H, W]` values in C order.
    pub fn to_cfhw(&self) -> Vec<f32> {
        let [frames, channels, height, width] = self.frames.shape();
        if self.frames.buffer.is_rehearsal() {
            return self.frames.to_nchw();
        }
        swapped(&self.frames.to_nchw(), [frames, channels], height * width)
    }

    /// `[C, F, H, W]`.
    pub fn shape(&self) -> [usize; 4] {
        let [frames, channels, height, width] = self.frames.shape();
        [channels, frames, height, width]
    }

    /// The statistics of its channels.
    pub fn stats(&self) -> &ChannelStats {
        &self.frames.stats[0]
    }

    /// A clip of frames that have statistics one by one.
    pub(crate) fn of(mut frames: Features) -> Self {
        let merged = ChannelStats::merged(&frames.stats, frames.height * frames.width);
        frames.stats = vec![merged];
        Self { frames }
    }

    /// The same memory as one image, frame below frame, and back.
    pub(crate) fn stacked(mut self) -> (Features, usize) {
        let frames = self.frames.batch;
        self.frames.batch = 1;
        self.frames.height *= frames;
        (self.frames, frames)
    }

    pub(crate) fn unstacked(mut image: Features, frames: usize) -> Self {
        image.height /= frames;
        image.batch = frames;
        Self { frames: image }
    }
}

/// `[a, b, size]` values to `[b, a, size]`.
fn swapped(data: &[f32], [a, b]: [usize; 2], size: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&data[(i * b + j) * size..][..size]);
        }
    }
    out
}
