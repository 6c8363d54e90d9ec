//! Attention in AMX's tile registers (see [`crate::simd::amx`]).
//!
//! As its parent does it, with every operand of a product taken apart into two bf16. What that leaves out of a score is
//! `Σ e_i q_i k_i / sqrt(C)` with `|e_i|` up to 2⁻¹⁵, 2⁻¹⁸ in the mean, and signs that have nothing to do with each other: hardly
//! ever more than 2⁻¹⁵ `max |q_i| |k| / sqrt(C)`, whether the channels are alike, where that is some twenty deviations, or
//! one stands out, where it is the most that there can be. An exponential is off by as much as a factor. The first pass over
//! the positions finds the largest `q_i` and the longest `k`, and where the bound is not small, the image is done in f32.
//! So it is, by the planner's rule, where the projections' inputs have spots or offsets.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use super::tile_scratch::Scratch;
use super::{Attention, Image};
use crate::arena::{Buffer, OutOfMemory};
use crate::column::WriteColumn;
use crate::context::Context;
use crate::features::{ChannelStats, Features};
use crate::simd::Simd;
use crate::simd::amx::{Amx, COLUMNS, DEPTH, Product, ROWS, STEP, TileOp};
use crate::sink::{Partials, PartialsWriter};
use crate::tiles::{RUN, pack_panel, panel_size, place, row_size, stage_row};
use crate::watch::{Stop, Stopped, Watched};

/// Positions of a block, and of a block of keys.
pub(super) const BLOCK: usize = 128;
pub(super) const KEYS: usize = 256;
/// What may be left out of a score.
const TOLERANCE: f32 = 1e-3;
// One panel of output channels is one chunk of the next product's depth.
const _: () = assert!(COLUMNS == DEPTH);

/// Weights, keys, values and scratch.
pub(super) struct Tiles {
    amx: Amx,
    /// Channels, padded, in chunks of [`DEPTH`]; a panel of output channels is as wide.
    chunks: usize,
    tokens: usize,
    /// Panels of the query's, the key's, the value's and the output's weights.
    weights: Buffer,
    /// Steps `[32 positions][chunk of channels]`.
    keys: Buffer,
    /// Steps `[32 channels][chunk of positions]`.
    values: Buffer,
    scratch: Vec<Buffer>,
}

impl Tiles {
    /// Memory for images of `x`, with the weights packed.
    pub(super) fn new(
        amx: Amx,
        context: &Context,
        attention: &Attention<'_>,
        x: &Features,
    ) -> Result<Self, OutOfMemory> {
        let chunks = x.stride.div_ceil(DEPTH);
        let tokens = x.height * x.width;
        let size = panel_size(chunks, 1);
        let weights = context.arena.take(4 * chunks * size)?;
        let panels = weights.region();
        let layers = [attention.to_q.0, attention.to_k.0, attention.to_v.0, attention.to_out.0];
        context.pool.run(4 * chunks, |_, index| {
            // SAFETY: the panel is this task's alone.
            let out = unsafe { panels.nth(index, size).bytes_mut() };
            let first = index % chunks * COLUMNS;
            pack_panel(layers[index / chunks], [x.channels, x.channels, 1], first, &[&[0]], 1, out);
        });
        let padded = tokens.next_multiple_of(BLOCK);
        let keys = context.arena.take(padded * chunks * DEPTH * 4)?;
        let values = context.arena.take(padded * chunks * DEPTH * 4)?;
        let scratch = context.scratch(Scratch::size(chunks))?;
        Ok(Self { amx, chunks, tokens, weights, keys, values, scratch })
    }

    /// Does one image; none if its scores would not be exact enough. Nothing of it is written then.
    pub(super) fn image(
        &self,
        context: &Context,
        image: &Image<'_>,
        watched: &mut Watched<'_>,
    ) -> Result<Option<ChannelStats>, Stopped> {
        let blocks = self.tokens.div_ceil(BLOCK);
        let stride = image.sink.stride;
        let mut partials = Partials::new(blocks, stride);
        let writer = partials.writer();
        // As bits, which for positive numbers are in the order of the numbers.
        let largest = [AtomicU32::new(0), AtomicU32::new(0)];
        let stop = watched.stop();
        let work = |worker: usize, block: usize| Work {
            stop: &stop,
            tiles: self,
            image,
            scratch: Scratch::new(self.scratch[worker].region(), self.chunks),
            first: block * BLOCK,
            count: BLOCK.min(self.tokens - block * BLOCK),
            partials: writer,
            part: block,
            largest: &largest,
        };
        let begin = image.share.start;
        watched.run(&context.pool, begin..begin, blocks, BLOCK * stride * stride, |worker, block| {
            self.amx.run(KeysAndValues(work(worker, block)));
        })?;
        let [query, key] = [0, 1].map(|i| f32::from_bits(largest[i].load(Ordering::Relaxed)));
        let left_out = query * key.sqrt() * image.factor / 32768.0;
        if left_out.is_nan() || left_out > TOLERANCE {
            return Ok(None);
        }
        watched.run(
            &context.pool,
            image.share.clone(),
            blocks,
            2 * BLOCK * self.tokens * stride,
            |worker, block| {
                self.amx.run(Queries(work(worker, block)));
            },
        )?;
        Ok(Some(partials.merge(0..blocks)))
    }

    /// The packed weights of panel `panel` of the query's (0), the key's (1), the value's (2) or the output's (3) layer.
    fn weights(&self, which: usize, panel: usize) -> *const u8 {
        let at = (which * self.chunks + panel) * panel_size(self.chunks, 1);
        self.weights.ptr().wrapping_add(at).cast_const()
    }

    /// Steps of the keys from position `first` on.
    fn keys(&self, first: usize) -> *mut u8 {
        self.keys.ptr().wrapping_add(first / COLUMNS * self.chunks * STEP)
    }

    /// Steps of a panel of the values from position `first` on.
    fn values(&self, panel: usize, first: usize) -> *mut u8 {
        let per_panel = self.tokens.next_multiple_of(BLOCK) / DEPTH;
        self.values.ptr().wrapping_add((panel * per_panel + first / DEPTH) * STEP)
    }
}

/// A block of positions.
struct Work<'a> {
    stop: &'a Stop,
    tiles: &'a Tiles,
    image: &'a Image<'a>,
    scratch: Scratch,
    first: usize,
    count: usize,
    partials: PartialsWriter<'a>,
    part: usize,
    /// The largest magnitude in a query, and the largest squared length of a key.
    largest: &'a [AtomicU32; 2],
}

/// The first pass: keys and values of a block, and how large queries and keys are.
struct KeysAndValues<'a>(Work<'a>);
/// The second pass: everything else.
struct Queries<'a>(Work<'a>);

impl Work<'_> {
    /// All positions of the block, up to whole products.
    #[inline(always)]
    fn rows(&self) -> usize {
        self.count.next_multiple_of(ROWS)
    }

    /// Stages the normalised input; rows past the image are zero.
    ///
    /// # Safety
    /// The scratch is this task's own.
    #[inline(always)]
    unsafe fn stage(&self, amx: Amx) {
        let s = &self.scratch;
        // SAFETY: there is room for the block.
        unsafe { stage_row(amx, &self.image.view, [0, self.first as isize], BLOCK, s.line, s.staged) };
    }

    /// `to[BLOCK][32] = rows · b` with rows of `chunks` chunks.
    ///
    /// # Safety
    /// The rows are staged, `b` is a panel of as many steps, and `to` has room for them.
    #[inline(always)]
    unsafe fn multiply(
        &self,
        amx: Amx,
        rows: *const u8,
        row: usize,
        chunks: usize,
        b: *const u8,
        to: *mut f32,
    ) {
        for first in (0..self.rows()).step_by(ROWS) {
            let starts = [rows.wrapping_add(first * row)];
            let product = Product::new(&starts, [chunks, 1], [row, 0], (RUN * row) as isize);
            // SAFETY: by the caller's promise.
            unsafe { amx.product(&product, b, to.add(first * COLUMNS), product.ahead(b, first / ROWS)) };
        }
    }

    /// The queries' (0), keys' (1) or values' (2) channels of a panel, in `results`.
    ///
    /// # Safety
    /// The input is staged.
    #[inline(always)]
    unsafe fn project(&self, amx: Amx, which: usize, panel: usize) {
        let (s, chunks) = (&self.scratch, self.tiles.chunks);
        let b = self.tiles.weights(which, panel);
        // SAFETY: the scratch and the weights have this layout.
        unsafe { self.multiply(amx, s.staged, row_size(chunks), chunks, b, s.results) };
    }

    /// The two vectors of row `row` of `results`, for the queries with the bias.
    ///
    /// # Safety
    /// They were computed.
    #[inline(always)]
    unsafe fn row<S: Simd>(&self, simd: S, row: usize, bias: Option<usize>) -> [S::V; 2] {
        let mut vectors = [simd.zero(); 2];
        for (half, v) in vectors.iter_mut().enumerate() {
            let at = half * DEPTH / 2;
            // SAFETY: inside the results and the bias, which is padded as the sink's channels are.
            unsafe {
                *v = simd.load(self.scratch.results.add(row * COLUMNS + at));
                if let Some(panel) = bias
                    && panel * COLUMNS + at < self.image.sink.stride
                {
                    *v = simd.add(*v, simd.load(self.image.bias_q.as_ptr().add(panel * COLUMNS + at)));
                }
            }
        }
        vectors
    }
}

impl TileOp for KeysAndValues<'_> {
    #[inline(always)]
    fn run(self, amx: Amx) {
        let (w, simd) = (&self.0, amx.vectors());
        let (s, tiles) = (&w.scratch, w.tiles);
        // SAFETY: scratch, keys and values were taken for these layouts, with room for whole blocks; each block writes
        // its own positions.
        unsafe {
            w.stage(amx);
            let mut largest = simd.zero();
            for panel in 0..tiles.chunks {
                w.project(amx, 0, panel);
                for row in 0..w.count {
                    let v = w.row(simd, row, Some(panel));
                    largest = simd.max(largest, simd.max(simd.abs(v[0]), simd.abs(v[1])));
                }
                w.project(amx, 1, panel);
                for row in 0..w.rows() {
                    let v = w.row(simd, row, None);
                    let squares = s.squares.add(row * DEPTH / 2);
                    let before = if panel == 0 { simd.zero() } else { simd.load(squares) };
                    simd.store(squares, simd.fma(v[1], v[1], simd.fma(v[0], v[0], before)));
                    // Pairs of channels, which the product wants below each other.
                    let mut pairs = [0u32; 2 * DEPTH / 2];
                    amx.split(v, pairs.as_mut_ptr().cast());
                    let step = tiles.keys(w.first + row).add(panel * STEP);
                    for (pair, &parts) in pairs.iter().enumerate() {
                        let (part, pair) = (pair / (DEPTH / 2), pair % (DEPTH / 2));
                        let to = step.add(part * STEP / 2 + place(2 * pair, row % COLUMNS));
                        to.cast::<u32>().write(parts);
                    }
                }
                w.project(amx, 2, panel);
                for row in (0..w.rows()).step_by(2) {
                    let (v, below) = (w.row(simd, row, None), w.row(simd, row + 1, None));
                    let to = tiles.values(panel, w.first + row).add(place(row % DEPTH, 0));
                    amx.split_pairs([v[0], below[0]], to, STEP / 2);
                    amx.split_pairs([v[1], below[1]], to.add(place(0, DEPTH / 2)), STEP / 2);
                }
            }
            let mut longest = 0.0f32;
            for row in 0..w.count {
                let length = simd.sum(simd.load(s.squares.add(row * DEPTH / 2)));
                // A NaN must not get lost: where there is one in a query, there is one in its key.
                longest = if length > longest || length.is_nan() { length } else { longest };
            }
            for (all, this) in w.largest.iter().zip([simd.max_lane(largest), longest]) {
                all.fetch_max(this.to_bits(), Ordering::Relaxed);
            }
        }
    }
}

impl TileOp for Queries<'_> {
    #[inline(always)]
    fn run(self, amx: Amx) {
        let (w, simd) = (&self.0, amx.vectors());
        let (s, tiles) = (&w.scratch, w.tiles);
        let chunks = tiles.chunks;
        let lanes = DEPTH / 2;
        let [largest, total, shrink] = s.state;
        // SAFETY: scratch, keys and values were taken for these layouts; the block's pixels are its own.
        unsafe {
            w.stage(amx);
            let factor = simd.splat(w.image.factor);
            for panel in 0..chunks {
                w.project(amx, 0, panel);
                for row in 0..w.rows() {
                    let [a, b] = w.row(simd, row, Some(panel));
                    let to = s.queries.add(row * row_size(chunks) + panel * DEPTH * 4);
                    amx.split([simd.mul(a, factor), simd.mul(b, factor)], to);
                }
            }
            s.sums.write_bytes(0, chunks * BLOCK * COLUMNS);
            for row in 0..w.rows() {
                *largest.add(row) = f32::NEG_INFINITY;
                *total.add(row) = 0.0;
            }
            // How many positions the one at `row` of this block sees.
            let seen = |row: usize| ((w.first + row) / w.image.area + 1) * w.image.area;
            let most = seen(w.count - 1);
            for first in (0..most).step_by(KEYS) {
                if w.stop.is_set() {
                    return;
                }
                let count = KEYS.min(most - first);
                let panels = count.div_ceil(COLUMNS);
                for panel in 0..panels {
                    let b = tiles.keys(first + panel * COLUMNS).cast_const();
                    let to = s.scores.add(panel * BLOCK * COLUMNS);
                    w.multiply(amx, s.queries, row_size(chunks), chunks, b, to);
                }
                for row in 0..w.rows() {
                    let seen = if row < w.count { seen(row).saturating_sub(first).min(count) } else { 0 };
                    *shrink.add(row) = w.softmax(amx, row, 0..seen, panels);
                }
                for panel in 0..chunks {
                    let b = tiles.values(panel, first).cast_const();
                    w.multiply(amx, s.softmax, row_size(KEYS / DEPTH), panels, b, s.results);
                    for row in 0..w.rows() {
                        let shrink = simd.splat(*shrink.add(row));
                        for at in [row * COLUMNS, row * COLUMNS + lanes] {
                            let p = s.sums.add(panel * BLOCK * COLUMNS + at);
                            simd.store(p, simd.fma(simd.load(p), shrink, simd.load(s.results.add(at))));
                        }
                    }
                }
            }
            for row in 0..w.rows() {
                let inverse = simd.splat(if row < w.count { 1.0 / *total.add(row) } else { 0.0 });
                for panel in 0..chunks {
                    let p = s.sums.add((panel * BLOCK + row) * COLUMNS);
                    let [a, b] = [simd.load(p), simd.load(p.add(lanes))];
                    let to = s.staged.add(row * row_size(chunks) + panel * DEPTH * 4);
                    amx.split([simd.mul(a, inverse), simd.mul(b, inverse)], to);
                }
            }
            for panel in 0..chunks {
                w.project(amx, 3, panel);
                let begin = panel * COLUMNS;
                for c in (begin..(begin + COLUMNS).min(w.image.sink.stride)).step_by(lanes) {
                    simd.apart(WriteColumn {
                        sink: &w.image.sink,
                        results: s.results.add(c - begin),
                        ld: COLUMNS,
                        count: w.count,
                        first: w.first,
                        step: 1,
                        c,
                        partials: &w.partials,
                        part: w.part,
                        seen: 0,
                    });
                }
            }
            w.partials.set_count(w.part, w.count as u32);
        }
    }
}

impl Work<'_> {
    /// Turns a row's scores of the `seen` ones of a block of keys into exponentials relative to the largest so far, taken
    /// apart, and those of all others of its panels into next to nothing, 1e-38; brings the row's state up to date. Returns
    /// what sums so far are to be multiplied with.
    ///
    /// # Safety
    /// The row's scores were computed.
    #[inline(always)]
    unsafe fn softmax(&self, amx: Amx, row: usize, seen: Range<usize>, panels: usize) -> f32 {
        let simd = amx.vectors();
        let s = &self.scratch;
        let [largest, total, _] = s.state;
        // SAFETY: by the caller's promise.
        unsafe {
            let of_panel = |panel: usize| s.scores.add((panel * BLOCK + row) * COLUMNS);
            let before = *largest.add(row);
            let mut most = simd.splat(before);
            for panel in 0..panels {
                let p = of_panel(panel);
                for at in seen.end.saturating_sub(panel * COLUMNS)..COLUMNS {
                    *p.add(at) = f32::NEG_INFINITY;
                }
                most = simd.max(most, simd.max(simd.load(p), simd.load(p.add(COLUMNS / 2))));
            }
            let now = simd.max_lane(most);
            let to = s.softmax.add(row * row_size(KEYS / DEPTH));
            if now == f32::NEG_INFINITY {
                to.write_bytes(0, panels * DEPTH * 4);
                return 1.0;
            }
            let offset = simd.splat(now);
            let mut sum = simd.zero();
            for panel in 0..panels {
                let p = of_panel(panel);
                // `exp` is clamped to about 1e-38, which is nothing beside the largest term, which is 1.
                let a = simd.exp(simd.sub(simd.load(p), offset));
                let b = simd.exp(simd.sub(simd.load(p.add(COLUMNS / 2)), offset));
                sum = simd.add(sum, simd.add(a, b));
                amx.split([a, b], to.add(panel * DEPTH * 4));
            }
            let shrink = (before - now).exp();
            *largest.add(row) = now;
            *total.add(row) = *total.add(row) * shrink + simd.sum(sum);
            shrink
        }
    }
}
