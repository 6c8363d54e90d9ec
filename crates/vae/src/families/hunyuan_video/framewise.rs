//! Frame-wise decoding, as diffusers does it by default: a few latent frames at a time, blended where they meet.
//!
//! It bounds the memory whatever the length of the video, but gives slightly other frames than one pass over all of
//! them: each part starts anew, with norms and attention of its own.

use crate::HostTensor;

/// Latent frames that a part has besides the one it begins with: diffusers' `tile_latent_min_num_frames`.
const TILE_LATENT_MIN_NUM_FRAMES: usize = 4;
/// Latent frames from one part to the next: diffusers' `tile_latent_stride_num_frames`.
const TILE_LATENT_STRIDE_NUM_FRAMES: usize = 3;

/// Whether so many latent frames are cut at all.
pub(super) fn cuts(frames: usize) -> bool {
    frames > TILE_LATENT_MIN_NUM_FRAMES
}

/// First latent frame and length of each part, in order. A part begins with the last frame that the part before it adds,
/// whose own pictures are left out again; one of that frame alone would add nothing.
pub(super) fn parts(frames: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..frames)
        .step_by(TILE_LATENT_STRIDE_NUM_FRAMES)
        .map(move |first| (first, (TILE_LATENT_MIN_NUM_FRAMES + 1).min(frames - first)))
        .filter(|&(first, length)| first == 0 || length > 1)
}

/// Puts decoded parts together.
pub(super) struct Joiner {
    /// Pictures for each latent frame.
    temporal_factor: usize,
    joined: HostTensor,
    /// Pictures that are there already.
    frames: usize,
    /// The last pictures of the part before, over which the next one is blended in.
    tail: Option<HostTensor>,
}

impl Joiner {
    /// For a video of so many latent frames, whose decoded shape will be `[1, C, F, H, W]`.
    pub(super) fn new(temporal_factor: usize, shape: [usize; 5]) -> Self {
        let joined = HostTensor::new(shape.to_vec(), vec![0.0; shape.iter().product()]);
        Self { temporal_factor, joined, frames: 0, tail: None }
    }

    /// Adds the next part, `[1, C, F, H, W]`: diffusers' `_temporal_tiled_decode`.
    pub(super) fn add(&mut self, part: HostTensor) {
        // 16 and 12 pictures in diffusers.
        let blend = (TILE_LATENT_MIN_NUM_FRAMES - TILE_LATENT_STRIDE_NUM_FRAMES) * self.temporal_factor;
        let stride = TILE_LATENT_STRIDE_NUM_FRAMES * self.temporal_factor;
        // The first part keeps the picture it begins with.
        let (mut part, kept) = match self.tail {
            None => (part, stride + 1),
            Some(_) => (frames(&part, 1, part.shape[2] - 1), stride),
        };
        if let Some(tail) = &self.tail {
            blend_t(tail, &mut part, blend);
        }
        let length = part.shape[2];
        let kept = kept.min(length).min(self.joined.shape[2] - self.frames);
        copy(&part, &mut self.joined, self.frames, kept);
        self.frames += kept;
        let tail = blend.min(length);
        self.tail = Some(frames(&part, length - tail, tail));
    }

    /// The whole video.
    pub(super) fn finish(self) -> HostTensor {
        assert_eq!(self.frames, self.joined.shape[2], "the parts make the whole");
        self.joined
    }
}

/// `count` frames from `first` on.
pub(super) fn frames(x: &HostTensor, first: usize, count: usize) -> HostTensor {
    let (frames, area) = (x.shape[2], x.shape[3] * x.shape[4]);
    let mut shape = x.shape.clone();
    shape[2] = count;
    let channels = x.data.chunks_exact(frames * area);
    HostTensor::new(shape, channels.flat_map(|c| &c[first * area..][..count * area]).copied().collect())
}

/// Writes the first `count` frames of `x` into `y`, from its frame `at` on.
fn copy(x: &HostTensor, y: &mut HostTensor, at: usize, count: usize) {
    let area = x.shape[3] * x.shape[4];
    let from = x.data.chunks_exact(x.shape[2] * area);
    for (x, y) in from.zip(y.data.chunks_exact_mut(y.shape[2] * area)) {
        y[at * area..(at + count) * area].copy_from_slice(&x[..count * area]);
    }
}

/// diffusers' `blend_t`: the first frames of `b` become a fade from the last frames of `a`, which is before it.
fn blend_t(a: &HostTensor, b: &mut HostTensor, blend_extent: usize) {
    let area = b.shape[3] * b.shape[4];
    let (before, after) = (a.shape[2], b.shape[2]);
    let extent = blend_extent.min(before).min(after);
    let channels = a.data.chunks_exact(before * area).zip(b.data.chunks_exact_mut(after * area));
    for (a, b) in channels {
        let a = a[(before - extent) * area..].chunks_exact(area);
        for (step, (a, b)) in a.zip(b.chunks_exact_mut(area)).enumerate() {
            let share = step as f64 / extent as f64;
            let (of_a, of_b) = ((1.0 - share) as f32, share as f32);
            for (b, &a) in b.iter_mut().zip(a) {
                *b = a * of_a + *b * of_b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_diffusers() {
        assert!(!cuts(4) && cuts(5));
        let parts = |frames| parts(frames).collect::<Vec<_>>();
        assert_eq!(parts(5), [(0, 5), (3, 2)]);
        assert_eq!(parts(6), [(0, 5), (3, 3)]);
        // diffusers decodes the seventh frame once more and drops what comes of it.
        assert_eq!(parts(7), [(0, 5), (3, 4)]);
        assert_eq!(parts(11), [(0, 5), (3, 5), (6, 5), (9, 2)]);
    }

    #[test]
    fn every_length_comes_out_whole() {
        for frames in 5..40 {
            let pictures = (frames - 1) * 4 + 1;
            let mut joiner = Joiner::new(4, [1, 1, pictures, 1, 1]);
            for (first, length) in parts(frames) {
                // Each picture says its own index, so that blending equal ones changes nothing.
                let count = (length - 1) * 4 + 1;
                let data = (0..count).map(|i| (first * 4 + i) as f32).collect();
                joiner.add(HostTensor::new(vec![1, 1, count, 1, 1], data));
            }
            let expected: Vec<f32> = (0..pictures).map(|i| i as f32).collect();
            assert_eq!(joiner.finish().data, expected, "{frames} latent frames");
        }
    }
}
