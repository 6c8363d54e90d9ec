//! Attention in f32: blocks, and what all of them share.

use super::block::{KeysAndValues, Queries, Work};
use super::{Attention, Image};
use crate::arena::{Buffer, OutOfMemory};
use crate::context::Context;
use crate::conv::Kernel;
use crate::direct::pack_panel;
use crate::features::{ChannelStats, Features};
use crate::sink::Partials;
use crate::watch::{Stopped, Watched};

/// Queries of a block, and positions of a block of keys.
const QUERIES: usize = 96;
pub(super) const KEYS: usize = 256;

/// Where the packed weights lie: the query's panels, the values', the output's.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Values of one panel of the query's and the values' layers, and of the output's.
    panel: usize,
    out_panel: usize,
    /// Panels of the values' layer.
    of_values: usize,
}

impl Sizes {
    /// For a depth of `stride` channels, and of `mixed` channels of all heads' values.
    pub(super) fn new(stride: usize, mixed: usize, nr: usize) -> Self {
        Self { panel: stride * nr, out_panel: mixed * nr, of_values: mixed / nr }
    }

    /// Where panel `index` of the query's (0), the values' (1) or the output's (2) layer begins.
    #[inline(always)]
    pub(super) fn at(&self, layer: usize, index: usize, panels: usize) -> usize {
        match layer {
            0 => index * self.panel,
            1 => (panels + index) * self.panel,
            _ => (panels + self.of_values) * self.panel + index * self.out_panel,
        }
    }

    /// Values of all of them.
    pub(super) fn end(&self, panels: usize) -> usize {
        self.at(2, panels, panels)
    }
}

/// Weights, keys, values and scratch.
pub(super) struct Vectors {
    tokens: usize,
    /// Channels of a head, and how many heads there are.
    head: usize,
    heads: usize,
    /// Panels of the query's and the output's channels, and of the values of one head.
    panels: usize,
    head_panels: usize,
    key_rows: usize,
    /// Positions from one panel of values to the next.
    padded: usize,
    queries: usize,
    key_weights: Vec<f32>,
    /// Panels of the query's, the value's and the output's weights.
    packed: Buffer,
    /// `[panel of nr positions][channel][nr]`
    keys: Buffer,
    /// `[head][panel of nr of its channels][position][nr]`
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
        // Each head's channels of the values begin a panel, so that its scores multiply no other head's; the output's layer
        // reads them where they are then.
        let (heads, head) = (attention.heads, channels / attention.heads);
        let panels = stride.div_ceil(nr);
        let head_panels = head.div_ceil(nr);
        let mixed = heads * head_panels * nr;
        let sizes = Sizes::new(stride, mixed, nr);
        let packed = context.arena.take(sizes.end(panels) * 4)?;
        let panels_of_weights = packed.region();
        let layer = |weight| Kernel {
            weight,
            bias: &[],
            in_channels: channels,
            out_channels: channels,
            taps: 1,
            groups: 1,
        };
        context.pool.run(3 * panels.max(heads * head_panels), |_, index| {
            let (layer_index, index) = (index % 3, index / 3);
            if index >= if layer_index == 1 { heads * head_panels } else { panels } {
                return;
            }
            let size = if layer_index == 2 { mixed * nr } else { stride * nr };
            // SAFETY: the panel is this task's alone.
            let out = unsafe {
                panels_of_weights.part(sizes.at(layer_index, index, panels) * 4, size * 4).values_mut()
            };
            match layer_index {
                0 => pack_panel(&layer(attention.to_q.0), index * nr, nr, [0, stride], &[&[0]], out),
                1 => {
                    let (which, panel) = (index / head_panels, index % head_panels);
                    let first = which * head + panel * nr;
                    // What follows the head's last channel is another head's.
                    let last = Kernel { out_channels: (which + 1) * head, ..layer(attention.to_v.0) };
                    pack_panel(&last, first, nr, [0, stride], &[&[0]], out);
                }
                _ => {
                    let mut rows = vec![0.0; channels * nr];
                    pack_panel(&layer(attention.to_out.0), index * nr, nr, [0, channels], &[&[0]], &mut rows);
                    out.fill(0.0);
                    for (c, row) in rows.chunks_exact(nr).enumerate() {
                        let at = c / head * head_panels * nr + c % head;
                        out[at * nr..][..nr].copy_from_slice(row);
                    }
                }
            }
        });
        let key_rows = stride.next_multiple_of(mr);
        let mut key_weights = vec![0.0f32; key_rows * stride];
        for (c, row) in key_weights.chunks_exact_mut(stride).enumerate().take(channels) {
            attention.to_k.0.read(c * channels, &mut row[..channels]);
        }

        let token_panels = tokens.div_ceil(nr);
        let padded = (token_panels * nr).next_multiple_of(mr) + mr;
        let keys = context.arena.take(token_panels * key_rows * nr * 4)?;
        let values = context.arena.take(heads * head_panels * padded * nr * 4)?;
        let queries = QUERIES.next_multiple_of(mr).next_multiple_of(nr);
        let columns = panels.max(heads * head_panels) * nr;
        let scratch_size = 2 * queries * columns + queries * KEYS + queries * nr + queries * heads * 2;
        let scratch = context.scratch(scratch_size * 4)?;
        Ok(Self {
            tokens,
            head,
            heads,
            panels,
            head_panels,
            key_rows,
            padded,
            queries,
            key_weights,
            packed,
            keys,
            values,
            scratch,
        })
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
            head: self.head,
            heads: self.heads,
            panels: self.panels,
            head_panels: self.head_panels,
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
        watched.run(
            &context.pool,
            begin..begin,
            blocks,
            self.queries * stride * stride,
            |worker, block| {
                context.isa.run(KeysAndValues(work(worker, block)));
            },
        )?;
        watched.run(
            &context.pool,
            image.share.clone(),
            blocks,
            2 * self.queries * self.tokens * stride,
            |worker, block| {
                context.isa.run(Queries(work(worker, block)));
            },
        )?;
        Ok(partials.merge(0..blocks))
    }
}
