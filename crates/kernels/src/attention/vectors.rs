//! Attention in f32: blocks, and what all of them share.

use super::block::{KeysAndValues, Queries, Work};
use super::{Attention, Image};
use crate::arena::{Buffer, OutOfMemory};
use crate::context::Context;
use crate::direct::pack_panel;
use crate::features::{ChannelStats, Features};
use crate::sink::Partials;
use crate::watch::{Stopped, Watched};

/// Queries of a block, and positions of a block of keys.
const QUERIES: usize = 96;
pub(super) const KEYS: usize = 256;

/// Weights, keys, values and scratch.
pub(super) struct Vectors {
    tokens: usize,
    panels: usize,
    key_rows: usize,
    /// Positions from one panel of values to the next.
    padded: usize,
    queries: usize,
    key_weights: Vec<f32>,
    /// Panels of the query's, the value's and the output's weights.
    packed: Buffer,
    /// `[panel of nr positions][channel][nr]`
    keys: Buffer,
    /// `[panel of nr channels][position][nr]`
    values: Buffer,
    scratch: Vec<Buffer>,
}

impl Vectors {
    /// Memory for images of `x`, with the weights packed.
    pub(super) fn new(
        context: &Context,
        attention: &Attention<'_>,
        x: &Features,
    ) -> Result<Self, OutOfMemory> {
        let (mr, nr) = context.isa.tile_shape();
        let (channels, stride) = (x.channels, x.stride);
        let tokens = x.height * x.width;

        // Weights: panels for products over positions, plain rows for the keys, which are made transposed.
        let panels = stride.div_ceil(nr);
        let panel_size = stride * nr;
        let packed = context.arena.take(3 * panels * panel_size * 4)?;
        let panels_of_weights = packed.region();
        let sources = [attention.to_q.0, attention.to_v.0, attention.to_out.0];
        context.pool.run(3 * panels, |_, index| {
            // SAFETY: the panel is this task's alone.
            let out = unsafe { panels_of_weights.nth(index, panel_size * 4).values_mut() };
            let first = index % panels * nr;
            pack_panel(sources[index / panels], [channels, channels, 1], first, nr, stride, &[&[0]], out);
        });
        let key_rows = stride.next_multiple_of(mr);
        let mut key_weights = vec![0.0f32; key_rows * stride];
        for (c, row) in key_weights.chunks_exact_mut(stride).enumerate().take(channels) {
            attention.to_k.0.read(c * channels, &mut row[..channels]);
        }

        let token_panels = tokens.div_ceil(nr);
        let padded = (token_panels * nr).next_multiple_of(mr) + mr;
        let keys = context.arena.take(token_panels * key_rows * nr * 4)?;
        let values = context.arena.take(panels * padded * nr * 4)?;
        let queries = QUERIES.next_multiple_of(mr).next_multiple_of(nr);
        let scratch_size = 2 * queries * panels * nr + queries * KEYS + queries * nr + queries * 2;
        let scratch = context.scratch(scratch_size * 4)?;
        Ok(Self { tokens, panels, key_rows, padded, queries, key_weights, packed, keys, values, scratch })
    }

    /// Does one image.
    pub(super) fn image(
        &self,
        context: &Context,
        image: &Image<'_>,
        watched: &mut Watched<'_>,
    ) -> Result<ChannelStats, Stopped> {
        let blocks = self.tokens.div_ceil(self.queries);
        let stride = image.sink.stride;
        let mut partials = Partials::new(blocks, stride);
        let writer = partials.writer();
        let stop = watched.stop();
        let work = |worker: usize, block: usize| Work {
            stop: &stop,
            view: image.view,
            sink: image.sink,
            first: block * self.queries,
            count: self.queries.min(self.tokens - block * self.queries),
            tokens: self.tokens,
            area: image.area,
            padded: self.padded,
            queries: self.queries,
            stride,
            panels: self.panels,
            key_rows: self.key_rows,
            key_weights: &self.key_weights,
            packed: self.packed.region(),
            bias_q: image.bias_q,
            factor: image.factor,
            keys: self.keys.region(),
            values: self.values.region(),
            scratch: self.scratch[worker].region(),
            partials: writer,
            part: block,
        };
        let begin = image.share.start;
        watched.run(&context.pool, begin..begin, blocks, |worker, block| {
            context.isa.run(KeysAndValues(work(worker, block)));
        })?;
        watched.run(&context.pool, image.share.clone(), blocks, |worker, block| {
            context.isa.run(Queries(work(worker, block)));
        })?;
        Ok(partials.merge(0..blocks))
    }
}
