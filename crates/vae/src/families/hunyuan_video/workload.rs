//! How much each layer has to do for a clip, known from shapes alone.

/// How far the decoder has got: what has become of the latents' frames and positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// Frames for each latent frame; the first frame stays one.
    pub(super) time: usize,
    /// Positions for each position of a latent frame.
    pub(super) area: usize,
}

/// Frames, height and width of a clip of latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) frames: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Size {
    /// Frames at `stage`, and the positions of each.
    pub(super) fn at(self, stage: Stage) -> (usize, usize) {
        let frames = (self.frames - 1).saturating_mul(stage.time).saturating_add(1);
        (frames, self.height.saturating_mul(self.width).saturating_mul(stage.area))
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

    /// For a clip of latents.
    pub(super) fn of(self, size: Size) -> usize {
        let (frames, positions) = size.at(self.stage);
        // Half of all pairs of frames, and each frame with itself.
        let seen = positions.saturating_mul(frames.saturating_add(1)) / 2;
        self.per_pair
            .saturating_mul(seen)
            .saturating_add(self.per_position)
            .saturating_mul(frames.saturating_mul(positions))
    }

    /// Values that the layer puts out for a clip of latents; `None` for more than can be counted.
    pub(super) fn values(self, size: Size) -> Option<usize> {
        let (frames, positions) = size.at(self.stage);
        frames.checked_mul(positions)?.checked_mul(self.channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_follow_frames_and_positions_and_never_overflow() {
        let size = Size { frames: 3, height: 2, width: 5 };
        let stage = Stage { time: 4, area: 64 };
        assert_eq!(size.at(stage), (9, 640));
        assert_eq!(Cost::of_convolution(stage, 2, 3, 27).of(size), 9 * 640 * 2 * 3 * 27);
        assert_eq!(Cost::of_convolution(stage, 2, 3, 27).values(size), Some(9 * 640 * 3));
        let latents = Stage { time: 1, area: 1 };
        // Three frames of ten positions see 10, 20 and 30.
        let expected = 30 * 4 * 8 * 8 + 10 * (10 + 20 + 30) * 2 * 8;
        assert_eq!(Cost::of_attention(latents, 8).of(size), expected);
        let huge = Size { frames: usize::MAX, height: usize::MAX, width: 7 };
        assert_eq!(Cost::of_attention(stage, 8).of(huge), usize::MAX);
        assert_eq!(Cost::of_attention(stage, 8).values(huge), None);
    }
}
