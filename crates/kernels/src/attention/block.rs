//! The two passes over a block of positions: its keys and values; its queries and everything else.

use super::vectors::{KEYS, Sizes};
use crate::arena::Region;
use crate::column::WriteColumn;
use crate::gemm::{NO_PREFETCH, Tile};
use crate::simd::{Op, Simd};
use crate::sink::{PartialsWriter, Sink};
use crate::source::{View, Window};
use crate::watch::Stop;

/// A block of positions.
pub(super) struct Work<'a> {
    pub(super) stop: &'a Stop,
    pub(super) view: View<'a>,
    pub(super) sink: Sink<'a>,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) tokens: usize,
    /// Positions that see each other; they see those before them too.
    pub(super) area: usize,
    /// Positions from one panel of values to the next.
    pub(super) padded: usize,
    /// Rows of every matrix in the scratch.
    pub(super) queries: usize,
    /// Channels, padded.
    pub(super) stride: usize,
    /// Channels of a head, and how many heads there are.
    pub(super) head: usize,
    pub(super) heads: usize,
    /// Panels of the query's and the output's channels, and of the values of one head.
    pub(super) panels: usize,
    pub(super) head_panels: usize,
    pub(super) key_rows: usize,
    pub(super) key_weights: &'a [f32],
    /// Panels of the query's, the value's and the output's weights.
    pub(super) packed: Region<'a>,
    pub(super) bias_q: &'a [f32],
    pub(super) factor: f32,
    pub(super) keys: Region<'a>,
    pub(super) values: Region<'a>,
    pub(super) scratch: Region<'a>,
    pub(super) partials: PartialsWriter<'a>,
    pub(super) part: usize,
}

/// The first pass: keys and values of a block.
pub(super) struct KeysAndValues<'a>(pub(super) Work<'a>);
/// The second pass: everything else.
pub(super) struct Queries<'a>(pub(super) Work<'a>);

impl Work<'_> {
    /// Where the scratch's matrices begin: staged input and sums (`[queries][columns]`), queries, scores, results of
    /// one panel, and for each head and query its largest score and its sum.
    #[inline(always)]
    fn scratch(&self, nr: usize) -> [*mut f32; 5] {
        let square = self.queries * self.panels.max(self.heads * self.head_panels) * nr;
        let p = self.scratch.values();
        let sizes = [0, square, 2 * square, 2 * square + self.queries * KEYS];
        // SAFETY: the scratch was taken for just these matrices.
        unsafe {
            [
                p.add(sizes[0]),
                p.add(sizes[1]),
                p.add(sizes[2]),
                p.add(sizes[3]),
                p.add(sizes[3] + self.queries * nr),
            ]
        }
    }

    /// From a row of staged input, queries or sums to the next.
    #[inline(always)]
    fn columns<S: Simd>(&self) -> usize {
        self.panels.max(self.heads * self.head_panels) * S::NR
    }

    /// Channels of all heads' values, each head's padded to whole panels: the depth of the output's layer.
    #[inline(always)]
    fn mixed<S: Simd>(&self) -> usize {
        self.heads * self.head_panels * S::NR
    }

    /// Stages the normalised input, rows `columns` values apart; rows past the image are zero.
    ///
    /// # Safety
    /// `to` has room for `queries * columns` values.
    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, simd: S, to: *mut f32) {
        let window = Window {
            top: 0,
            left: self.first as isize,
            rows: 1,
            columns: self.queries,
            first: 0,
            channels: self.stride,
            pitch: self.columns::<S>(),
        };
        // SAFETY: by the caller's promise.
        unsafe { self.view.stage(simd, window, to) };
    }

    /// The packed weights of panel `panel` of the query's (0), the value's (1) or the output's (2) layer.
    #[inline(always)]
    fn weights<S: Simd>(&self, which: usize, panel: usize) -> *const f32 {
        let sizes = Sizes::new(self.stride, self.mixed::<S>(), S::NR);
        self.packed.values().wrapping_add(sizes.at(which, panel, self.panels)).cast_const()
    }
}

impl Op for KeysAndValues<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let w = self.0;
        let columns = w.columns::<S>();
        let [staged, transposed, ..] = w.scratch(S::NR);
        // SAFETY: scratch, keys and values were taken for these layouts; each block writes its own positions.
        // `queries` is a multiple of MR and NR, so register tiles stay inside scratch and, with the padding of
        // `values` and `key_rows`, inside the outputs, where rows past the end are this block's alone.
        unsafe {
            w.stage(simd, staged);
            for panel in 0..w.heads * w.head_panels {
                for row in (0..w.count).step_by(S::MR) {
                    // The tile's rows past the block would fall on the next block's, so they go elsewhere.
                    let whole = row + S::MR <= w.count || w.first + w.count == w.tokens;
                    let target = w.values.values().add((panel * w.padded + w.first + row) * S::NR);
                    let spare = transposed;
                    simd.tile(&Tile {
                        segments: &[staged.add(row * columns).cast_const()],
                        lda: columns,
                        k: w.stride,
                        b: w.weights::<S>(1, panel),
                        c: if whole { target } else { spare },
                        ldc: S::NR,
                        rows: S::MR,
                        accumulate: false,
                        prefetch: NO_PREFETCH,
                    });
                    if !whole {
                        std::ptr::copy_nonoverlapping(spare.cast_const(), target, (w.count - row) * S::NR);
                    }
                }
            }
            for begin in (0..w.count).step_by(S::NR) {
                for c in 0..w.stride {
                    for t in 0..S::NR {
                        *transposed.add(c * S::NR + t) = *staged.add((begin + t) * columns + c);
                    }
                }
                let panel = (w.first + begin) / S::NR;
                for row in (0..w.stride).step_by(S::MR) {
                    simd.tile(&Tile {
                        segments: &[w.key_weights.as_ptr().add(row * w.stride)],
                        lda: w.stride,
                        k: w.stride,
                        b: transposed.cast_const(),
                        c: w.keys.values().add((panel * w.key_rows + row) * S::NR),
                        ldc: S::NR,
                        rows: S::MR,
                        accumulate: false,
                        prefetch: NO_PREFETCH,
                    });
                }
            }
        }
    }
}

impl Op for Queries<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let w = self.0;
        let columns = w.columns::<S>();
        // The sums take the place of the staged input once the queries are made.
        let [sums, queries, scores, results, state] = w.scratch(S::NR);
        let (largest, total) = (state, state.wrapping_add(w.queries * w.heads));
        // SAFETY: scratch, keys and values were taken for these layouts; the block's pixels are its own, and
        // `queries` is a multiple of MR.
        unsafe {
            w.stage(simd, sums);
            for panel in 0..w.panels {
                for row in (0..w.count).step_by(S::MR) {
                    simd.tile(&Tile {
                        segments: &[sums.add(row * columns).cast_const()],
                        lda: columns,
                        k: w.stride,
                        b: w.weights::<S>(0, panel),
                        c: queries.add(row * columns + panel * S::NR),
                        ldc: columns,
                        rows: S::MR,
                        accumulate: false,
                        prefetch: NO_PREFETCH,
                    });
                }
            }
            for i in 0..w.queries {
                for c in (0..w.stride).step_by(S::LANES) {
                    let p = queries.add(i * columns + c);
                    let v = simd.add(simd.load(p), simd.load(w.bias_q.as_ptr().add(c)));
                    simd.store(p, simd.mul(v, simd.splat(w.factor)));
                }
                for c in (0..columns).step_by(S::LANES) {
                    simd.store(sums.add(i * columns + c), simd.zero());
                }
            }
            for i in 0..w.queries * w.heads {
                *largest.add(i) = f32::NEG_INFINITY;
                *total.add(i) = 0.0;
            }
            // How many positions the one at `i` of this block sees.
            let seen = |i: usize| ((w.first + i) / w.area + 1) * w.area;
            let most = seen(w.count - 1);
            let keys = (0..most).step_by(KEYS);
            for (first, head) in keys.flat_map(|first| (0..w.heads).map(move |head| (first, head))) {
                if w.stop.is_set() {
                    return;
                }
                let count = KEYS.min(most - first);
                // Whole rows for a single head: what follows its channels is zero, and the depth a multiple of eight.
                let depth = if w.heads == 1 { w.stride } else { w.head };
                for panel in 0..count.div_ceil(S::NR) {
                    let keys = (first / S::NR + panel) * w.key_rows + head * w.head;
                    for row in (0..w.count).step_by(S::MR) {
                        simd.tile(&Tile {
                            segments: &[queries.add(row * columns + head * w.head).cast_const()],
                            lda: columns,
                            k: depth,
                            b: w.keys.values().add(keys * S::NR).cast_const(),
                            c: scores.add(row * KEYS + panel * S::NR),
                            ldc: KEYS,
                            rows: S::MR,
                            accumulate: false,
                            prefetch: NO_PREFETCH,
                        });
                    }
                }
                let (largest, total) = (largest.add(head * w.queries), total.add(head * w.queries));
                let own = head * w.head_panels * S::NR..(head + 1) * w.head_panels * S::NR;
                for i in 0..w.count {
                    let row = std::slice::from_raw_parts_mut(scores.add(i * KEYS), KEYS);
                    let seen = seen(i).saturating_sub(first).min(count);
                    if seen == 0 {
                        row[..count].fill(0.0);
                        continue;
                    }
                    let before = *largest.add(i);
                    let now = softmax_step(simd, row, seen, before, &mut *total.add(i));
                    row[seen..count].fill(0.0);
                    if now > before {
                        *largest.add(i) = now;
                        let shrink = simd.splat((before - now).exp());
                        for c in own.clone().step_by(S::LANES) {
                            let p = sums.add(i * columns + c);
                            simd.store(p, simd.mul(simd.load(p), shrink));
                        }
                    }
                }
                for panel in head * w.head_panels..(head + 1) * w.head_panels {
                    for row in (0..w.count).step_by(S::MR) {
                        simd.tile(&Tile {
                            segments: &[scores.add(row * KEYS).cast_const()],
                            lda: KEYS,
                            k: count,
                            b: w.values.values().add((panel * w.padded + first) * S::NR).cast_const(),
                            c: sums.add(row * columns + panel * S::NR),
                            ldc: columns,
                            rows: S::MR,
                            accumulate: true,
                            prefetch: NO_PREFETCH,
                        });
                    }
                }
            }
            for (i, head) in (0..w.count).flat_map(|i| (0..w.heads).map(move |head| (i, head))) {
                let inverse = simd.splat(1.0 / *total.add(head * w.queries + i));
                for c in (head * w.head_panels * S::NR..(head + 1) * w.head_panels * S::NR).step_by(S::LANES)
                {
                    let p = sums.add(i * columns + c);
                    simd.store(p, simd.mul(simd.load(p), inverse));
                }
            }
            for panel in 0..w.panels {
                for row in (0..w.count).step_by(S::MR) {
                    simd.tile(&Tile {
                        segments: &[sums.add(row * columns).cast_const()],
                        lda: columns,
                        k: w.mixed::<S>(),
                        b: w.weights::<S>(2, panel),
                        c: results.add(row * S::NR),
                        ldc: S::NR,
                        rows: S::MR,
                        accumulate: false,
                        prefetch: NO_PREFETCH,
                    });
                }
                let begin = panel * S::NR;
                for c in (begin..(begin + S::NR).min(w.stride)).step_by(S::LANES) {
                    simd.apart(WriteColumn {
                        sink: &w.sink,
                        results: results.add(c - begin),
                        ld: S::NR,
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

/// Turns `count` scores into exponentials relative to the largest so far, which is returned, and brings the
/// running sum up to date.
///
/// # Safety
/// `row` has room for `count` rounded up to `LANES`.
#[inline(always)]
unsafe fn softmax_step<S: Simd>(simd: S, row: &mut [f32], count: usize, before: f32, total: &mut f32) -> f32 {
    let padded = count.next_multiple_of(S::LANES);
    assert!(padded <= row.len());
    row[count..padded].fill(f32::NEG_INFINITY);
    // SAFETY: `padded` values are in the row.
    unsafe {
        let p = row.as_mut_ptr();
        let mut largest = simd.splat(before);
        for i in (0..padded).step_by(S::LANES) {
            largest = simd.max(largest, simd.load(p.add(i)));
        }
        let largest = simd.max_lane(largest);
        let offset = simd.splat(largest);
        let mut sum = simd.zero();
        for i in (0..padded).step_by(S::LANES) {
            let e = simd.exp(simd.sub(simd.load(p.add(i)), offset));
            simd.store(p.add(i), e);
            sum = simd.add(sum, e);
        }
        // `exp` is clamped to about 1e-38, which the padding adds too: nothing beside the largest term, which is 1.
        *total = *total * (before - largest).exp() + simd.sum(sum);
        largest
    }
}
