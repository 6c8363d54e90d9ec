//! Single-head self-attention over the positions of an image, in blocks with a running softmax.
//!
//! The matrix of scores never exists: a worker takes a block of queries, goes over the keys block by block, and
//! keeps for each query the largest score so far, the sum of exponentials, and the weighted sum of values, rescaled
//! when the largest grows (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
//!
//! Two biases cost nothing: that of the keys adds the same number to all scores of a query, which the softmax takes
//! away again; that of the values passes through it unchanged, as its weights sum to one, and joins the output's.

mod block;

use crate::arena::{Buffer, OutOfMemory};
use crate::context::Context;
use crate::conv::unit_for;
use crate::direct::pack_panel;
use crate::features::{Features, Storage};
use crate::norm::{Affine, GroupNorm};
use crate::pool::Shared;
use crate::sink::{Partials, Sink};
use crate::source::{Edge, Source};
use crate::watch::{Stopped, Watched};
use crate::weights::WeightView;
use block::{KeysAndValues, Queries, Work};

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
