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
