//! Frame-wise decoding and encoding, as diffusers does them by default: a few latent frames, or the pictures of a few, at
//! a time, blended where they meet.
//!
//! It bounds the memory whatever the length of the video, but gives slightly other frames than one pass over all of
//! them: each part starts anew, with norms and attention of its own.

use crate::HostTensor;

/// How a clip is cut in time. Lengths are in latent frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framewise {
    /// What a part has besides the frame it begins with: diffusers' `tile_latent_min_num_frames`.
    pub(crate) min_num_frames: usize,
    /// From one part to the next: diffusers' `tile_latent_stride_num_frames`.
    pub(crate) stride_num_frames: usize,
    /// Frames that go in, and frames that come out, for each latent frame but the first.
    pub(crate) units: [usize; 2],
}

impl Framewise {
    /// Whether so many frames are cut at all.
    pub(super) fn cuts(&self, frames: usize) -> bool {
        frames > self.min_num_frames * self.units[0]
    }

    /// First frame and length of each part, in order. A part begins with the last frame that the part before it adds, of which
    /// what comes out is left out again; one that is too short for more would add nothing.
    pub(super) fn parts(self, frames: usize) -> impl Iterator<Item = (usize, usize)> {
        let [unit, _] = self.units;
        (0..frames)
            .step_by(self.stride_num_frames * unit)
            .map(move |first| (first, (self.min_num_frames * unit + 1).min(frames - first)))
            .filter(move |&(first, length)| first == 0 || length > unit)
    }
}

/// Puts together what becomes of the parts.
pub(super) struct Joiner {
    framewise: Framewise,
    /// How many frames come out in all.
    total: usize,
    /// None before the first part.
    joined: Option<HostTensor>,
    /// Frames that are there already.
    frames: usize,
    /// The last frames of the part before, over which the next one is blended in.
    tail: Option<HostTensor>,
}

impl Joiner {
    /// For a clip of so many frames that go in.
    pub(super) fn new(framewise: Framewise, frames: usize) -> Self {
        let [from, to] = framewise.units;
        Self { framewise, total: (frames - 1) / from * to + 1, joined: None, frames: 0, tail: None }
    }

    /// Adds the next part, `[1, C, F, H, W]`: diffusers' `_temporal_tiled_decode` and `_temporal_tiled_encode`.
    pub(super) fn add(&mut self, part: HostTensor) {
        let Framewise { min_num_frames, stride_num_frames, units: [_, unit] } = self.framewise;
        let blend = (min_num_frames - stride_num_frames) * unit;
        let stride = stride_num_frames * unit;
        let total = self.total;
        let joined = self.joined.get_or_insert_with(|| {
            let mut shape = part.shape.clone();
            shape[2] = total;
            let size = shape.iter().product();
            HostTensor::new(shape, vec![0.0; size])
        });
        // The first part keeps the frame it begins with.
        let (mut part, kept) = match self.tail {
            None => (part, stride + 1),
            Some(_) => (frames(&part, 1, part.shape[2] - 1), stride),
        };
        if let Some(tail) = &self.tail {
            blend_t(tail, &mut part, blend);
        }
        let length = part.shape[2];
        let kept = kept.min(length).min(total - self.frames);
        copy(&part, joined, self.frames, kept);
        self.frames += kept;
        let tail = blend.min(length);
        self.tail = Some(frames(&part, length - tail, tail));
    }

    /// All of them.
    ///
    /// # Panics
    /// When no part was added, or too few.
    pub(super) fn finish(self) -> HostTensor {
        assert_eq!(self.frames, self.total, "the parts make the whole");
        self.joined.expect("a clip has a first part")
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
        let cuts = |frames, units| framewise(units).cuts(frames);
        assert!(!cuts(4, [1, 4]) && cuts(5, [1, 4]) && !cuts(16, [4, 1]) && cuts(17, [4, 1]));
        let encoded = |frames| framewise([4, 1]).parts(frames).collect::<Vec<_>>();
        assert_eq!(encoded(17), [(0, 17), (12, 5)]);
        // The four frames from 24 on make no latent frame besides the one that is left out.
        assert_eq!(encoded(28), [(0, 17), (12, 16)]);
        assert_eq!(encoded(29), [(0, 17), (12, 17), (24, 5)]);
        let parts = |frames| framewise([1, 4]).parts(frames).collect::<Vec<_>>();
        assert_eq!(parts(5), [(0, 5), (3, 2)]);
        assert_eq!(parts(6), [(0, 5), (3, 3)]);
        // diffusers decodes the seventh frame once more and drops what comes of it.
        assert_eq!(parts(7), [(0, 5), (3, 4)]);
        assert_eq!(parts(11), [(0, 5), (3, 5), (6, 5), (9, 2)]);
    }

    /// HunyuanVideo's.
    fn framewise(units: [usize; 2]) -> Framewise {
        Framewise { min_num_frames: 4, stride_num_frames: 3, units }
    }

    #[test]
    fn every_length_comes_out_whole() {
        for frames in 5..40 {
            let pictures = (frames - 1) * 4 + 1;
            let mut joiner = Joiner::new(framewise([1, 4]), frames);
            for (first, length) in framewise([1, 4]).parts(frames) {
                // Each picture says its own index, so that blending equal ones changes nothing.
                let count = (length - 1) * 4 + 1;
                let data = (0..count).map(|i| (first * 4 + i) as f32).collect();
                joiner.add(HostTensor::new(vec![1, 1, count, 1, 1], data));
            }
            let expected: Vec<f32> = (0..pictures).map(|i| i as f32).collect();
            assert_eq!(joiner.finish().data, expected, "{frames} latent frames");
        }
        for pictures in 17..100 {
            let frames = (pictures - 1) / 4 + 1;
            let mut joiner = Joiner::new(framewise([4, 1]), pictures);
            for (first, length) in framewise([4, 1]).parts(pictures) {
                let count = (length - 1) / 4 + 1;
                let data = (0..count).map(|i| (first / 4 + i) as f32).collect();
                joiner.add(HostTensor::new(vec![1, 1, count, 1, 1], data));
            }
            let expected: Vec<f32> = (0..frames).map(|i| i as f32).collect();
            assert_eq!(joiner.finish().data, expected, "{pictures} pictures");
        }
    }
}
