//! The three steps of a block of tiles: input, product, output.

use super::layout::{Layout, Patch};
use super::phases::{Phase, phases, products};
use super::scheme::{MAX, Scheme};
use super::{STAGED, STAGED_CHANNELS};
use crate::arena::Region;
use crate::gemm::{Tile, prefetched};
use crate::simd::{LINE, Simd};
use crate::sink::{PartialsWriter, Sink};
use crate::source::{View, Window};

/// Some tiles of an image, and what is done with them.
#[derive(Clone)]
pub(super) struct Block<'a, C: Scheme> {
    pub(super) scheme: C,
    pub(super) view: View<'a>,
    pub(super) sink: Sink<'a>,
    pub(super) u: Region<'a>,
    pub(super) scratch: Region<'a>,
    /// What `V` lies in: the worker's scratch, or memory that all workers share.
    pub(super) v: Region<'a>,
    pub(super) layout: Layout,
    pub(super) tiles: Patch,
    /// Which of the tiles the products and outputs are of; the inputs are of all.
    pub(super) range: std::ops::Range<usize>,
    /// The panel that U begins with, and how many there are in all.
    pub(super) first_panel: usize,
    pub(super) panels: usize,
    /// Which chunks of output channels.
    pub(super) chunks: std::ops::Range<usize>,
    pub(super) partials: PartialsWriter<'a>,
    /// The part of the statistics that phase 0 of this block writes.
    pub(super) part: usize,
}

impl<C: Scheme> Block<'_, C> {
    /// How many windows the inputs are staged in.
    pub(super) fn windows(&self) -> usize {
        self.tiles.height.div_ceil(STAGED[0]) * self.tiles.width.div_ceil(STAGED[1])
    }

    /// Step 1, for some windows.
    ///
    /// # Safety
    /// The scratch and `V` hold what `layout` says, in f32 values, for the block's tiles rounded up to MR; nobody else uses
    /// the scratch, or these windows' rows of V, meanwhile.
    #[inline(always)]
    pub(super) unsafe fn input<S: Simd>(&self, simd: S, windows: std::ops::Range<usize>) {
        let block = self.tiles;
        let staged = self.scratch.values();
        // Made once: clearing it for every tile would be a fifth of the transform.
        let mut half = [[simd.zero(); MAX]; MAX];
        let across = block.width.div_ceil(STAGED[1]);
        for window in windows {
            let (top, left) = (window / across * STAGED[0], window % across * STAGED[1]);
            {
                let height = STAGED[0].min(block.height - top);
                let width = STAGED[1].min(block.width - left);
                for first in (0..self.layout.depth).step_by(STAGED_CHANNELS) {
                    let channels = STAGED_CHANNELS.min(self.layout.depth - first);
                    let window = Window {
                        top: ((block.top + top) * C::M) as isize - 1,
                        left: ((block.left + left) * C::M) as isize - 1,
                        rows: height * C::M + C::N - C::M,
                        columns: width * C::M + C::N - C::M,
                        first,
                        channels,
                        pitch: channels,
                    };
                    // SAFETY: the scratch begins with room for the largest window.
                    unsafe { self.view.stage(simd, window, staged) };
                    for tile in 0..height * width {
                        let (y, x) = (tile / width, tile % width);
                        let corner = (y * C::M * window.columns + x * C::M) * channels;
                        let row = (top + y) * block.width + left + x;
                        // SAFETY: the tile lies inside the window, its row inside V.
                        unsafe {
                            let from = staged.add(corner).cast_const();
                            let to = self.v.values().add(self.layout.v + row * self.layout.depth + first);
                            self.transform(simd, &mut half, from, window.columns, channels, to);
                        }
                    }
                }
            }
        }
    }

    /// `Bᵀ d B` of one tile, channel by channel, by way of `half`.
    ///
    /// # Safety
    /// `from` is readable for `N` rows of `N` pixels of `channels` values, rows `columns` pixels apart; `to` is writable
    /// for `channels` values in each plane of V.
    #[inline(always)]
    unsafe fn transform<S: Simd>(
        &self,
        simd: S,
        half: &mut [[S::V; MAX]; MAX],
        from: *const f32,
        columns: usize,
        channels: usize,
        to: *mut f32,
    ) {
        for c in (0..channels).step_by(S::LANES) {
            for (y, row) in half.iter_mut().enumerate().take(C::N) {
                let mut d = [simd.zero(); MAX];
                for (x, d) in d.iter_mut().enumerate().take(C::N) {
                    // SAFETY: by the caller's promise.
                    *d = unsafe { simd.load(from.add((y * columns + x) * channels + c)) };
                }
                *row = C::input(simd, d);
            }
            for x in 0..C::N {
                let column = C::input(simd, std::array::from_fn(|y| half[y][x]));
                for (y, &value) in column.iter().enumerate().take(C::N) {
                    // SAFETY: by the caller's promise.
                    unsafe { simd.store(to.add((y * C::N + x) * self.layout.v_plane + c), value) };
                }
            }
        }
    }

    /// The first panel of a chunk, and how many it has.
    #[inline(always)]
    pub(super) fn chunk_panels(&self, chunk: usize, nr: usize) -> (usize, usize) {
        let per_chunk = self.layout.chunk / nr;
        let first = chunk * per_chunk;
        (first, per_chunk.min(self.panels - first))
    }

    /// Where U has the filters of a chunk for a phase, whose panels are of `panel_size` values.
    #[inline(always)]
    pub(super) fn filters(&self, chunk: usize, phase: Phase, nr: usize, panel_size: usize) -> *const f32 {
        let (first, count) = self.chunk_panels(chunk, nr);
        let before = (first - self.first_panel) * products::<C>() + phase.before::<C>() * count;
        self.u.values().wrapping_add(before * panel_size).cast_const()
    }

    /// Step 2.
    ///
    /// # Safety
    /// The scratch holds what `layout` says, and nobody else uses it meanwhile; V is written for the tiles of the range, and has
    /// room up to the next multiple of MR; U holds the chunk's panels from `first_panel` on, `depth * NR` values each.
    #[inline(always)]
    pub(super) unsafe fn product<S: Simd>(&self, simd: S, chunk: usize, phase: Phase) {
        let (_, count) = self.chunk_panels(chunk, S::NR);
        let tiles = self.range.len();
        let depth = self.layout.depth;
        let panel_size = depth * S::NR;
        let u = self.filters(chunk, phase, S::NR, panel_size);
        // Values that one tile prefetches.
        let ahead = prefetched::<S>(depth);
        let v_of = |plane: usize| {
            let at = self.layout.v + plane * self.layout.v_plane + self.range.start * depth;
            self.v.values().wrapping_add(at).cast_const()
        };
        let own = phase.own::<C>();
        let own = own.as_slice();
        for (index, &plane) in own.iter().enumerate() {
            let u = u.wrapping_add(index * count * panel_size);
            let v = v_of(plane);
            let m = self.layout.m + phase.place::<C>(plane / C::N, plane % C::N) * self.layout.m_plane;
            let m = self.scratch.values().wrapping_add(m);
            // What the next plane needs comes in while this one is computed: its panels follow this one's.
            let following = own.get(index + 1).copied().unwrap_or(0);
            let mut next = [v_of(following), u.wrapping_add(count * panel_size)];
            for row in (0..tiles).step_by(S::MR) {
                for panel in 0..count {
                    // SAFETY: V has MR rows from `row` on (its tiles are rounded up to MR), M too; the panel is
                    // one of U's.
                    unsafe {
                        simd.tile(&Tile {
                            segments: &[v.add(row * depth)],
                            lda: depth,
                            k: depth,
                            b: u.add(panel * panel_size),
                            c: m.add(row * self.layout.chunk + panel * S::NR),
                            ldc: self.layout.chunk,
                            rows: (tiles - row).min(S::MR),
                            accumulate: false,
                            prefetch: next,
                        });
                    }
                    next = next.map(|p| p.wrapping_add(ahead));
                }
            }
        }
    }

    /// Step 3.
    ///
    /// # Safety
    /// The scratch holds what `layout` says, and nobody else uses it meanwhile; M is written for the tiles of the range; the
    /// sink's image is the one that the block's tiles are of, and nobody else writes the chunk's channels of their pixels.
    #[inline(always)]
    pub(super) unsafe fn output<S: Simd>(&self, simd: S, chunk: usize, phase: Phase) {
        let (first_panel, count) = self.chunk_panels(chunk, S::NR);
        // The image's rows and columns that this phase writes: every one, or every second.
        let step = if phases::<C>() == 4 { 2 } else { 1 };
        let Phase { py, px } = phase;
        let part = self.part + phase.index();
        let begin = first_panel * S::NR;
        let end = (begin + count * S::NR).min(self.sink.stride);
        // Where the outputs of a tile lie: the first row and column, and which of them are inside the image.
        let place = |tile: usize| {
            let (tile_y, tile_x) = self.tiles.tile(tile);
            // An odd phase's first output comes before the image.
            let top = (tile_y * C::M) as isize - py as isize;
            let left = (tile_x * C::M) as isize - px as isize;
            (top, left, inside(top, C::M, self.view.height), inside(left, C::M, self.view.width))
        };
        let line_of = |top: isize, y: usize| (top + y as isize) as usize * step + py;
        let pixel_of = |line: usize, left: isize, x: usize| {
            line * self.sink.width + (left + x as isize) as usize * step + px
        };
        let past = self.sink.takes_whole_lines::<S>();
        let mut tmp = [[simd.zero(); MAX]; MAX];
        let mut seen = 0u32;
        let mut following = place(self.range.start);
        for tile in self.range.clone() {
            let (top, left, ys, xs) = following;
            following = if tile + 1 < self.range.end { place(tile + 1) } else { (0, 0, 0..0, 0..0) };
            let pixels = (ys.len() * xs.len()) as u32;
            if pixels == 0 {
                continue;
            }
            let row = (tile - self.range.start) * self.layout.chunk;
            for c in (begin..end).step_by(S::LANES) {
                if c % LINE == 0 {
                    // The lines read and written next: this tile's next channels; of M, or else those of the tile after.
                    let m = self.layout.m
                        + row
                        + if c + LINE < end { c + LINE - begin } else { self.layout.chunk };
                    for y in 0..C::N {
                        for x in 0..C::N {
                            let m = m + phase.place::<C>(y, x) * self.layout.m_plane;
                            simd.prefetch(self.scratch.values().wrapping_add(m));
                        }
                    }
                    // ... of the image likewise, if it is read or written by way of the caches.
                    let (channel, (top, left, ys, xs)) = if c + LINE < end {
                        (c + LINE, (top, left, ys.clone(), xs.clone()))
                    } else {
                        (begin, following.clone())
                    };
                    for y in if past { 0..0 } else { ys } {
                        let line = line_of(top, y);
                        for x in xs.clone() {
                            self.sink.prefetch(simd, pixel_of(line, left, x), channel);
                        }
                    }
                }
                for x in 0..C::N {
                    let column = std::array::from_fn(|y| {
                        if y < C::N {
                            let place = phase.place::<C>(y, x);
                            let at = self.layout.m + place * self.layout.m_plane + row + c - begin;
                            // SAFETY: inside M.
                            unsafe { simd.load(self.scratch.values().add(at)) }
                        } else {
                            simd.zero()
                        }
                    });
                    let column = C::output(simd, column);
                    for y in 0..C::M {
                        tmp[y][x] = column[y];
                    }
                }
                let mut sum = simd.zero();
                let mut abs_max = simd.zero();
                for y in ys.clone() {
                    let values = C::output(simd, tmp[y]);
                    tmp[y] = values;
                    let line = line_of(top, y);
                    for x in xs.clone() {
                        let pixel = pixel_of(line, left, x);
                        // SAFETY: inside the output image; this block alone writes this pixel's channels.
                        let v = unsafe {
                            if past {
                                self.sink.put_past(simd, pixel, c, values[x])
                            } else {
                                self.sink.put(simd, pixel, c, values[x])
                            }
                        };
                        tmp[y][x] = v;
                        sum = simd.add(sum, v);
                        abs_max = simd.max(abs_max, simd.abs(v));
                    }
                }
                let mean = simd.mul(sum, simd.splat(1.0 / pixels as f32));
                let mut m2 = simd.zero();
                for y in ys.clone() {
                    for x in xs.clone() {
                        let d = simd.sub(tmp[y][x], mean);
                        m2 = simd.fma(d, d, m2);
                    }
                }
                // SAFETY: this block's part and this chunk's channels.
                unsafe { self.partials.merge(simd, part, c, seen, pixels, [mean, m2, abs_max]) };
            }
            seen += pixels;
        }
        if past {
            simd.publish();
        }
        // Every chunk of the phase states the same number.
        self.partials.set_count(part, seen);
    }
}

/// Which of `count` positions from `start` on lie in `0..size`.
#[inline(always)]
pub(super) fn inside(start: isize, count: usize, size: usize) -> std::ops::Range<usize> {
    let begin = (-start).clamp(0, count as isize) as usize;
    let end = (size as isize - start).clamp(begin as isize, count as isize) as usize;
    begin..end
}
