//! How the steps of a block of tiles are put together: a whole block by one worker, or a block that all workers share, step by
//! step.

use super::block::Block;
use super::phases::Phase;
use super::scheme::Scheme;
use crate::simd::{Op, Simd};

impl<C: Scheme> Op for Block<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let _ = self.scheme;
        simd.apart(InputStep { block: &self, windows: 0..self.windows() });
        for chunk in self.chunks.clone() {
            self.chunk(simd, chunk);
        }
    }
}

/// [`Block::input`] in a function of its own: for images and clips there is one copy for each scheme. It works on a copy of the
/// block, which the compiler knows that no store changes.
pub(super) struct InputStep<'a, 'b, C: Scheme> {
    pub(super) block: &'a Block<'b, C>,
    pub(super) windows: std::ops::Range<usize>,
}

impl<C: Scheme> Op for InputStep<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: whoever makes a block gives it scratch and V as `layout` says, and lets no other task write these
        // windows' rows of V.
        unsafe { self.block.clone().input(simd, self.windows) }
    }
}

/// [`Block::product`], likewise.
struct ProductStep<'a, 'b, C: Scheme> {
    block: &'a Block<'b, C>,
    chunk: usize,
    phase: Phase,
}

impl<C: Scheme> Op for ProductStep<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: as for `InputStep`; V was written before, and U holds the panels of the block's chunks.
        unsafe { self.block.clone().product(simd, self.chunk, self.phase) }
    }
}

/// [`Block::output`], likewise.
pub(super) struct OutputStep<'a, 'b, C: Scheme> {
    pub(super) block: &'a Block<'b, C>,
    pub(super) chunk: usize,
    pub(super) phase: Phase,
}

impl<C: Scheme> Op for OutputStep<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: as for `InputStep`; M was written before, and no other task writes this chunk's channels of the range's
        // tiles.
        unsafe { self.block.clone().output(simd, self.chunk, self.phase) }
    }
}

/// Step 1 for one window of a shared block.
pub(super) struct Input<'a, C: Scheme> {
    pub(super) block: Block<'a, C>,
    pub(super) window: usize,
}

impl<C: Scheme> Op for Input<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        simd.apart(InputStep { block: &self.block, windows: self.window..self.window + 1 });
    }
}

/// Steps 2 and 3 for one chunk of a shared block's run.
pub(super) struct Output<'a, C: Scheme> {
    pub(super) block: Block<'a, C>,
    pub(super) chunk: usize,
}

impl<C: Scheme> Op for Output<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.block.chunk(simd, self.chunk);
    }
}

impl<C: Scheme> Block<'_, C> {
    /// Steps 2 and 3 for one chunk.
    #[inline(always)]
    fn chunk<S: Simd>(&self, simd: S, chunk: usize) {
        for phase in Phase::all::<C>() {
            simd.apart(ProductStep { block: self, chunk, phase });
            simd.apart(OutputStep { block: self, chunk, phase });
        }
    }
}
