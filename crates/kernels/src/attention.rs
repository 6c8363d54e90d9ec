//! Single-head self-attention over the positions of an image, in blocks with a running softmax.
//!
//! The matrix of scores never exists: a worker takes a block of queries, goes over the keys block by block, and
//! keeps for each query the largest score so far, the sum of exponentials, and the weighted sum of values, rescaled
//! when the largest grows (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
//!
//! Two biases cost nothing: that of the keys adds the same number to all scores of a query, which the softmax takes
//! away again; that of the values passes through it unchanged, as its weights sum to one, and joins the output's.

use crate::arena::{Buffer, OutOfMemory};
use crate::context::Context;
use crate::conv::unit_for;
use crate::direct::{pack_panel, write_column};
use crate::features::{Features, Storage};
use crate::gemm::{NO_PREFETCH, Tile};
use crate::norm::{Affine, GroupNorm};
use crate::pool::Shared;
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{Edge, Source, View, Window};
use crate::watch::{Stopped, Watched};
use crate::weights::WeightView;

/// Queries of a block, and positions of a block of keys.
const QUERIES: usize = 96;
const KEYS: usize = 256;

/// The weights of an attention block: linear layers `[C, C]` with biases `[C]` or empty.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Normalises the input of all three projections.
    pub norm: &'a GroupNorm,
    /// Query weights.
    pub to_q: (WeightView<'a>, &'a [f32]),
    /// Key weights.
    pub to_k: (WeightView<'a>, &'a [f32]),
    /// Value weights.
    pub to_v: (WeightView<'a>, &'a [f32]),
    /// Output weights.
    pub to_out: (WeightView<'a>, &'a [f32]),
}

impl Attention<'_> {
    /// `x + to_out(softmax(q kᵀ / sqrt(C)) v)`, each image on its own, in the memory of `x`.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn run(&self, context: &Context, x: Features) -> Result<Features, OutOfMemory> {
        let tokens = x.height * x.width;
        match self.run_seeing(context, x, tokens, &mut Watched::new(&mut |_| true)) {
            Ok(y) => Ok(y),
            Err(Stopped::OutOfMemory(error)) => Err(error),
            Err(Stopped::Cancelled) => unreachable!("nobody stops it"),
        }
    }

    /// [`Attention::run`] where each position sees those of its own `area` positions and of all areas before it.
    pub(crate) fn run_seeing(
        &self,
        context: &Context,
        x: Features,
        area: usize,
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        let (mr, nr) = context.isa.tile_shape();
        let channels = x.channels;
        let stride = x.stride;
        let tokens = x.height * x.width;
        let affine = Affine::group_norm(&x, self.norm);

        // Weights: panels for products over positions, plain rows for the keys, which are made transposed.
        let panels = stride.div_ceil(nr);
        let panel_size = stride * nr;
        let packed = context.arena.take(3 * panels * panel_size * 4)?;
        let packed_ptr = Shared::new(packed.ptr().cast());
        let sources = [self.to_q.0, self.to_v.0, self.to_out.0];
        context.pool.run(3 * panels, |_, index| {
            // SAFETY: the buffer has room for every panel, and each task writes its own.
            let out = unsafe {
                std::slice::from_raw_parts_mut(packed_ptr.get().add(index * panel_size), panel_size)
            };
            let first = index % panels * nr;
            pack_panel(sources[index / panels], [channels, channels, 1], first, nr, stride, &[&[0]], out);
        });
        let key_rows = stride.next_multiple_of(mr);
        let mut key_weights = vec![0.0f32; key_rows * stride];
        for (c, row) in key_weights.chunks_exact_mut(stride).enumerate().take(channels) {
            self.to_k.0.read(c * channels, &mut row[..channels]);
        }
        let (bias_q, bias_out) = self.biases(channels, stride);
        let unit = self.unit(context, &x, &affine, &bias_out);
        let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();

        // Keys as [panel of nr positions][channel][nr], values as [panel of nr channels][position][nr].
        let token_panels = tokens.div_ceil(nr);
        let padded = (token_panels * nr).next_multiple_of(mr) + mr;
        let keys = context.arena.take(token_panels * key_rows * nr * 4)?;
        let values = context.arena.take(panels * padded * nr * 4)?;
        let queries = QUERIES.next_multiple_of(mr).next_multiple_of(nr);
        let scratch_size = 2 * queries * panels * nr + queries * KEYS + queries * nr + queries * 2;
        let scratch = (0..context.pool.threads())
            .map(|_| context.arena.take(scratch_size * 4))
            .collect::<Result<Vec<_>, _>>()?;
        let scratch: Vec<Shared> = scratch.iter().map(|b| Shared::new(b.ptr().cast())).collect();
        let blocks = tokens.div_ceil(queries);

        let mut y = Features {
            batch: x.batch,
            height: x.height,
            width: x.width,
            channels,
            stride,
            storage: x.storage,
            unit,
            stats: Vec::new(),
            buffer: Buffer::alias(&x.buffer),
        };
        let source = Source { x: &x, affine: Some(&affine), silu: false, edge: Edge::Zero };
        for image in 0..x.batch {
            let mut partials = Partials::new(blocks, stride);
            let writer = partials.writer();
            let sink = Sink::new(&y, image, &bias_out, Some(&x.unit), &inverse_unit);
            let work = |worker: usize, block: usize| Work {
                view: source.view(image).flat(),
                sink,
                first: block * queries,
                count: queries.min(tokens - block * queries),
                tokens,
                area,
                padded,
                queries,
                stride,
                panels,
                key_rows,
                key_weights: &key_weights,
                packed: packed_ptr,
                bias_q: &bias_q,
                factor: 1.0 / (channels as f32).sqrt(),
                keys: Shared::new(keys.ptr().cast()),
                values: Shared::new(values.ptr().cast()),
                scratch: scratch[worker],
                partials: writer,
                part: block,
            };
            context.pool.run(blocks, |worker, block| {
                context.isa.run(KeysAndValues(work(worker, block)));
            });
            let per_block = 2 * queries * tokens * stride;
            watched.run(&context.pool, blocks, per_block, |worker, block| {
                context.isa.run(Queries(work(worker, block)));
            })?;
            y.stats.push(partials.merge(0..blocks));
        }
        y.buffer = x.buffer;
        Ok(y)
    }

    /// The query's bias, and the output's with the value's passed through the output layer; both padded.
    fn biases(&self, channels: usize, stride: usize) -> (Vec<f32>, Vec<f32>) {
        let mut query = self.to_q.1.to_vec();
        query.resize(stride, 0.0);
        let mut out = self.to_out.1.to_vec();
        out.resize(stride, 0.0);
        let mut row = vec![0.0; channels];
        for (c, out) in out.iter_mut().enumerate().take(channels) {
            self.to_out.0.read(c * channels, &mut row);
            let sum: f64 = row.iter().zip(self.to_v.1).map(|(&w, &b)| f64::from(w) * f64::from(b)).sum();
            *out = (f64::from(*out) + sum) as f32;
        }
        (query, out)
    }

    /// Units in which no output can overflow: attention weights sum to one, so no output of the softmax is larger
    /// than the largest value.
    fn unit(&self, context: &Context, x: &Features, affine: &Affine, bias_out: &[f32]) -> Vec<f32> {
        if context.storage == Storage::F32 {
            return vec![1.0; x.stride];
        }
        let channels = x.channels;
        let absolute = |weight: WeightView<'_>, bounds: &[f32]| -> Vec<f32> {
            let mut row = vec![0.0; channels];
            (0..channels)
                .map(|c| {
                    weight.read(c * channels, &mut row);
                    row.iter().zip(bounds).map(|(w, b)| w.abs() * b).sum()
                })
                .collect()
        };
        let out = absolute(self.to_out.0, &absolute(self.to_v.0, &affine.bound));
        let mut unit = vec![1.0; x.stride];
        for c in 0..channels {
            let residual = x.stats.iter().fold(0.0f32, |m, s| m.max(s.abs_max[c]));
            unit[c] = unit_for(f64::from(out[c] + bias_out[c].abs() + residual));
        }
        unit
    }
}

/// A block of positions.
struct Work<'a> {
    view: View,
    sink: Sink<'a>,
    first: usize,
    count: usize,
    tokens: usize,
    /// Positions that see each other; they see those before them too.
    area: usize,
    /// Positions from one panel of values to the next.
    padded: usize,
    /// Rows of every matrix in the scratch.
    queries: usize,
    /// Channels, padded.
    stride: usize,
    panels: usize,
    key_rows: usize,
    key_weights: &'a [f32],
    /// Panels of the query's, the value's and the output's weights.
    packed: Shared,
    bias_q: &'a [f32],
    factor: f32,
    keys: Shared,
    values: Shared,
    scratch: Shared,
    partials: PartialsWriter,
    part: usize,
}

/// The first pass: keys and values of a block.
struct KeysAndValues<'a>(Work<'a>);
/// The second pass: everything else.
struct Queries<'a>(Work<'a>);

impl Work<'_> {
    /// Where the scratch's matrices begin: staged input and sums (`[queries][columns]`), queries, scores, results of
    /// one panel, and for each query its largest score and its sum.
    #[inline(always)]
    fn scratch(&self, nr: usize) -> [*mut f32; 5] {
        let square = self.queries * self.panels * nr;
        let p = self.scratch.get();
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

    #[inline(always)]
    fn columns<S: Simd>(&self) -> usize {
        self.panels * S::NR
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
        // SAFETY: the buffer holds three layers of panels.
        unsafe { self.packed.get().add((which * self.panels + panel) * self.stride * S::NR).cast_const() }
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
            for panel in 0..w.panels {
                for row in (0..w.count).step_by(S::MR) {
                    // The tile's rows past the block would fall on the next block's, so they go elsewhere.
                    let whole = row + S::MR <= w.count || w.first + w.count == w.tokens;
                    let target = w.values.get().add((panel * w.padded + w.first + row) * S::NR);
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
                        c: w.keys.get().add((panel * w.key_rows + row) * S::NR),
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
        let (largest, total) = (state, state.wrapping_add(w.queries));
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
                *largest.add(i) = f32::NEG_INFINITY;
                *total.add(i) = 0.0;
            }
            // How many positions the one at `i` of this block sees.
            let seen = |i: usize| ((w.first + i) / w.area + 1) * w.area;
            let most = seen(w.count - 1);
            for first in (0..most).step_by(KEYS) {
                let count = KEYS.min(most - first);
                for panel in 0..count.div_ceil(S::NR) {
                    for row in (0..w.count).step_by(S::MR) {
                        simd.tile(&Tile {
                            segments: &[queries.add(row * columns).cast_const()],
                            lda: columns,
                            k: w.stride,
                            b: w.keys.get().add((first / S::NR + panel) * w.key_rows * S::NR).cast_const(),
                            c: scores.add(row * KEYS + panel * S::NR),
                            ldc: KEYS,
                            rows: S::MR,
                            accumulate: false,
                            prefetch: NO_PREFETCH,
                        });
                    }
                }
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
                        for c in (0..columns).step_by(S::LANES) {
                            let p = sums.add(i * columns + c);
                            simd.store(p, simd.mul(simd.load(p), shrink));
                        }
                    }
                }
                for panel in 0..w.panels {
                    for row in (0..w.count).step_by(S::MR) {
                        simd.tile(&Tile {
                            segments: &[scores.add(row * KEYS).cast_const()],
                            lda: KEYS,
                            k: count,
                            b: w.values.get().add((panel * w.padded + first) * S::NR).cast_const(),
                            c: sums.add(row * columns + panel * S::NR),
                            ldc: columns,
                            rows: S::MR,
                            accumulate: true,
                            prefetch: NO_PREFETCH,
                        });
                    }
                }
            }
            for i in 0..w.count {
                let inverse = simd.splat(1.0 / *total.add(i));
                for c in (0..columns).step_by(S::LANES) {
                    let p = sums.add(i * columns + c);
                    simd.store(p, simd.mul(simd.load(p), inverse));
                }
            }
            for panel in 0..w.panels {
                for row in (0..w.count).step_by(S::MR) {
                    simd.tile(&Tile {
                        segments: &[sums.add(row * columns).cast_const()],
                        lda: columns,
                        k: w.stride,
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
                    write_column(
                        simd,
                        &w.sink,
                        results.add(c - begin),
                        S::NR,
                        w.count,
                        |i| w.first + i,
                        c,
                        (&w.partials, w.part, 0),
                    );
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
