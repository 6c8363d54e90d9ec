//! How an input is cut before it goes through a graph: in time, and each part in tiles.

use super::framewise::{self, Framewise, Joiner};
use super::tiling::Tiling;
use crate::graph::Shape;
use crate::{HostTensor, VaeError};

/// The cuts of one item, or of some that go through together. Each piece goes through the graph by itself.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    /// Of the whole.
    shape: Shape,
    framewise: Option<Framewise>,
    tiling: Option<Tiling>,
}

impl Pieces {
    /// The cuts of an input of this shape, where it is large enough for them.
    pub(super) fn new(shape: Shape, framewise: Option<Framewise>, tiling: Option<Tiling>) -> Self {
        let [frames, height, width] = shape.space();
        Self {
            shape,
            framewise: framewise.filter(|framewise| framewise.cuts(frames)),
            tiling: tiling.filter(|tiling| tiling.cuts(height, width)),
        }
    }

    /// Whether it is cut in tiles.
    pub(super) fn is_tiled(&self) -> bool {
        self.tiling.is_some()
    }

    /// Whether it is cut at all.
    pub(super) fn is_cut(&self) -> bool {
        self.is_tiled() || self.framewise.is_some()
    }

    /// The shape of the whole.
    pub(super) fn whole(&self) -> Shape {
        self.shape
    }

    /// The shape of each piece, in the order in which [`Pieces::run`] comes to them.
    pub(super) fn shapes(&self) -> impl Iterator<Item = Shape> + use<> {
        let Self { shape, framewise, tiling } = *self;
        let [frames, height, width] = shape.space();
        let whole = framewise.is_none().then_some(frames);
        let parts = framewise.map(|framewise| framewise.parts(frames).map(|(_, frames)| frames));
        whole.into_iter().chain(parts.into_iter().flatten()).flat_map(move |frames| {
            let one = tiling.is_none().then_some((height, width));
            let tiles = tiling.map(|tiling| tiling.tiles(height, width));
            let tiles = one.into_iter().chain(tiles.into_iter().flatten());
            tiles.map(move |(height, width)| shape.with_space([frames, height, width]))
        })
    }

    /// Bytes that [`Pieces::run`] has on the host at its peak, besides the input and the whole result; `of_piece` gives
    /// those of the result of a piece.
    pub(super) fn memory(&self, of_piece: impl Fn(Shape) -> usize) -> usize {
        let [_, height, width] = self.shape.space();
        let frames = self.shapes().map(|piece| piece.space()[0]).max().unwrap_or(1);
        let part = self.shape.with_space([frames, height, width]);
        let result = of_piece(part);
        let tiles = self.tiling.map_or(0, |tiling| {
            tiling.memory([height, width], result, |height, width| {
                of_piece(part.with_space([frames, height, width]))
            })
        });
        // The only part is the whole result; others are copied into it.
        if self.framewise.is_some() { result.saturating_add(tiles) } else { tiles }
    }

    /// Runs every piece of `input`, `[N, C, F, H, W]`, and puts the results together.
    pub(super) fn run(
        &self,
        input: &HostTensor,
        mut run: impl FnMut(&HostTensor) -> Result<HostTensor, VaeError>,
    ) -> Result<HostTensor, VaeError> {
        let mut part = |part: &HostTensor| match &self.tiling {
            Some(tiling) => tiling.run(part, &mut run),
            None => run(part),
        };
        let Some(framewise) = self.framewise else { return part(input) };
        let [frames, ..] = self.shape.space();
        let mut joiner = Joiner::new(framewise, frames);
        for (first, length) in framewise.parts(frames) {
            joiner.add(part(&framewise::frames(input, first, length))?);
        }
        Ok(joiner.finish())
    }
}
