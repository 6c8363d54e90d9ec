//! How a clip is cut before it goes through the model: in time, and each part in tiles.

use super::framewise::{self, Joiner};
use super::workload::Size;
use crate::families::tiling::Tiling;
use crate::{HostTensor, VaeError};

/// The cuts of one clip. Each piece goes through the model by itself.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    size: Size,
    /// Frames that go in, and frames that come out, for each latent frame.
    units: [usize; 2],
    framewise: bool,
    tiling: Option<Tiling>,
}

impl Pieces {
    /// The cuts of a clip of this size, if it is to be cut and large enough.
    pub(super) fn new(size: Size, units: [usize; 2], framewise: bool, tiling: Option<Tiling>) -> Self {
        Self {
            size,
            units,
            framewise: framewise && framewise::cuts(size.frames, units[0]),
            tiling: tiling.filter(|tiling| tiling.cuts(size.height, size.width)),
        }
    }

    /// Whether the clip is cut in tiles.
    pub(super) fn tiled(&self) -> bool {
        self.tiling.is_some()
    }

    /// The size of each piece, in the order in which [`Pieces::run`] comes to them.
    pub(super) fn sizes(&self) -> impl Iterator<Item = Size> + use<> {
        let Self { size, units, framewise, tiling } = *self;
        let whole = (!framewise).then_some(size.frames);
        let parts = framewise.then(|| framewise::parts(size.frames, units[0]).map(|(_, frames)| frames));
        whole.into_iter().chain(parts.into_iter().flatten()).flat_map(move |frames| {
            let one = tiling.is_none().then_some((size.height, size.width));
            let tiles = tiling.map(|tiling| tiling.tiles(size.height, size.width));
            let tiles = one.into_iter().chain(tiles.into_iter().flatten());
            tiles.map(move |(height, width)| Size { frames, height, width })
        })
    }

    /// The size of the clip.
    pub(super) fn whole(&self) -> Size {
        self.size
    }

    /// The shape of each piece, `[1, C, F, H, W]`, as [`Pieces::sizes`].
    pub(super) fn shapes(&self, channels: usize) -> impl Iterator<Item = Vec<usize>> + use<> {
        self.sizes().map(move |Size { frames, height, width }| vec![1, channels, frames, height, width])
    }

    /// Bytes that [`Pieces::run`] has on the host at its peak, besides the clip and the whole result; `of_piece` gives
    /// those of the result of a piece.
    pub(super) fn memory(&self, of_piece: impl Fn(Size) -> usize) -> usize {
        let frames = self.sizes().map(|piece| piece.frames).max().unwrap_or(self.size.frames);
        let part = Size { frames, ..self.size };
        let result = of_piece(part);
        let beside = match &self.tiling {
            Some(tiling) => tiling.memory([part.height, part.width], result, |height, width| {
                of_piece(Size { frames, height, width })
            }),
            // What comes from the engine is copied once, frame by frame.
            None => result,
        };
        // The only part is the whole result; others are copied into it.
        if self.framewise { result.saturating_add(beside) } else { beside }
    }

    /// Runs every piece of `clip`, `[1, C, F, H, W]`, and puts the results together.
    pub(super) fn run(
        &self,
        clip: &HostTensor,
        mut run: impl FnMut(&HostTensor) -> Result<HostTensor, VaeError>,
    ) -> Result<HostTensor, VaeError> {
        let mut part = |part: &HostTensor| match &self.tiling {
            Some(tiling) => tiling.run_on_clip(part, &mut run),
            None => run(part),
        };
        if !self.framewise {
            return part(clip);
        }
        let frames = self.size.frames;
        let [from, to] = self.units;
        let mut joiner = Joiner::new(to, (frames - 1) / from * to + 1);
        for (first, length) in framewise::parts(frames, from) {
            joiner.add(part(&framewise::frames(clip, first, length))?);
        }
        Ok(joiner.finish())
    }
}
