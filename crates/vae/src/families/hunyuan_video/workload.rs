//! How much each layer has to do for a clip, known from shapes alone.

use super::Costs;
use super::pieces::Pieces;
use crate::HostTensor;
use crate::engine::{Stride, Upsampling};

/// How far a pass through the decoder or the encoder has got: what has become of the clip that went in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The decoder has made latents larger.
    Grown {
        /// Frames for each latent frame; the first frame stays one.
        time: usize,
        /// Positions for each position of a latent frame.
        area: usize,
    },
    /// The encoder has made pictures smaller.
    Shrunk {
        /// Frames that have become one; the first stays one.
        time: usize,
        /// Rows, and columns, that have become one. What is left over at the end becomes one too.
        side: usize,
    },
}

impl Stage {
    /// After an upsampling.
    pub(super) fn after_upsampling(self, Upsampling { time: twice, space }: Upsampling) -> Self {
        match self {
            Self::Grown { time, area } => {
                Self::Grown { time: time << usize::from(twice), area: area << (2 * usize::from(space)) }
            }
            Self::Shrunk { .. } => unreachable!("an encoder does not upsample"),
        }
    }

    /// After a convolution with a stride.
    pub(super) fn after_stride(self, stride: Stride) -> Self {
        match self {
            Self::Shrunk { time, side } => {
                Self::Shrunk { time: time * stride.time, side: side * stride.space }
            }
            Self::Grown { .. } => unreachable!("a decoder has no strides"),
        }
    }
}

/// Frames, height and width of a clip: of latents to decode, or of pictures to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) frames: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Size {
    /// Of a clip `[1, C, F, H, W]`.
    pub(super) fn of(clip: &HostTensor) -> Self {
        let [frames, height, width] = [2, 3, 4].map(|axis| clip.shape[axis]);
        Self { frames, height, width }
    }

    /// Frames at `stage`, and the positions of each.
    pub(super) fn at(self, stage: Stage) -> (usize, usize) {
        match stage {
            Stage::Grown { time, area } => {
                let frames = (self.frames - 1).saturating_mul(time).saturating_add(1);
                (frames, self.height.saturating_mul(self.width).saturating_mul(area))
            }
            Stage::Shrunk { time, side } => {
                let positions = self.height.div_ceil(side).saturating_mul(self.width.div_ceil(side));
                (self.frames.div_ceil(time), positions)
            }
        }
    }
}

/// The multiply-adds of a layer: the unit of progress, as equal costs take roughly equal times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    stage: Stage,
    /// For each output position.
    per_position: usize,
    /// For each pair of positions of which one sees the other.
    per_pair: usize,
    /// Values that the layer puts out for each position.
    channels: usize,
}

impl Cost {
    /// Of a convolution whose output is at `stage`.
    pub(super) fn of_convolution(stage: Stage, in_channels: usize, out_channels: usize, taps: usize) -> Self {
        Self { stage, per_position: in_channels * out_channels * taps, per_pair: 0, channels: out_channels }
    }

    /// Of causal attention: four linear layers, the logits and the weighted sum.
    pub(super) fn of_attention(stage: Stage, channels: usize) -> Self {
        Self { stage, per_position: 4 * channels * channels, per_pair: 2 * channels, channels }
    }

    /// For a clip that goes in with this size.
    pub(super) fn of(self, size: Size) -> usize {
        let (frames, positions) = size.at(self.stage);
        // Half of all pairs of frames, and each frame with itself.
        let seen = positions.saturating_mul(frames.saturating_add(1)) / 2;
        self.per_pair
            .saturating_mul(seen)
            .saturating_add(self.per_position)
            .saturating_mul(frames.saturating_mul(positions))
    }

    /// Values that the layer puts out for such a clip; `None` for more than can be counted.
    pub(super) fn values(self, size: Size) -> Option<usize> {
        let (frames, positions) = size.at(self.stage);
        frames.checked_mul(positions)?.checked_mul(self.channels)
    }
}

/// What the layers of one half cost.
pub(super) struct Workload(Vec<Cost>);

impl Workload {
    /// Of layers that were loaded.
    pub(super) fn new(costs: Costs) -> Self {
        Self(costs.into_inner())
    }

    /// All layers for all pieces of a clip.
    pub(super) fn of(&self, pieces: &Pieces) -> usize {
        let cost = |size| self.0.iter().map(|cost| cost.of(size)).fold(0, usize::saturating_add);
        pieces.sizes().map(cost).fold(0, usize::saturating_add)
    }

    /// Whether no layer puts out more than `limit` bytes for a piece of a clip of this size.
    pub(super) fn fits(&self, size: Size, pieces: &Pieces, limit: usize) -> bool {
        let fits = |part: Size| {
            let mut largest = self.0.iter().map(|cost| cost.values(part)?.checked_mul(size_of::<f32>()));
            largest.all(|bytes| bytes.is_some_and(|bytes| bytes <= limit))
        };
        // The clip as a whole first: its values must be countable before its pieces are counted.
        self.0.iter().all(|cost| cost.values(size).is_some()) && pieces.sizes().all(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_follow_frames_and_positions_and_never_overflow() {
        let size = Size { frames: 3, height: 2, width: 5 };
        let stage = Stage::Grown { time: 4, area: 64 };
        assert_eq!(size.at(stage), (9, 640));
        assert_eq!(Cost::of_convolution(stage, 2, 3, 27).of(size), 9 * 640 * 2 * 3 * 27);
        assert_eq!(Cost::of_convolution(stage, 2, 3, 27).values(size), Some(9 * 640 * 3));
        let latents = Stage::Grown { time: 1, area: 1 };
        // Three frames of ten positions see 10, 20 and 30.
        let expected = 30 * 4 * 8 * 8 + 10 * (10 + 20 + 30) * 2 * 8;
        assert_eq!(Cost::of_attention(latents, 8).of(size), expected);
        let pixels = Size { frames: 7, height: 17, width: 8 };
        assert_eq!(pixels.at(Stage::Shrunk { time: 4, side: 8 }), (2, 3));
        assert_eq!(pixels.at(Stage::Shrunk { time: 1, side: 2 }), (7, 9 * 4));
        let huge = Size { frames: usize::MAX, height: usize::MAX, width: 7 };
        assert_eq!(Cost::of_attention(stage, 8).of(huge), usize::MAX);
        assert_eq!(Cost::of_attention(stage, 8).values(huge), None);
    }
}
