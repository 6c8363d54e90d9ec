//! 1×1 convolutions: a matrix product over pixels, in place where the output is not larger than the input.
//!
//! In place, pixel `p`'s output lies where an earlier pixel's input lay. Blocks of pixels are therefore done in
//! levels: a level only overwrites inputs of levels before it, and within a level all workers are free.

use crate::arena::OutOfMemory;
use crate::context::Context;
use crate::conv::Conv2d;
use crate::direct::{pack_panel, write_column};
use crate::features::Features;
use crate::gemm::{NO_PREFETCH, Tile};
use crate::norm::Affine;
use crate::pool::Shared;
use crate::simd::amx::{Amx, COLUMNS, DEPTH, Product, ROWS, TileOp};
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{Edge, Source, View, Window};
use crate::tiles::{self, RUN, line_size, panel_size, row_size, stage_row};

/// Pixels of a block.
const PIXELS: usize = 96;

/// Some pixels of one image.
#[derive(Clone, Copy)]
struct Block {
    image: usize,
    first: usize,
    count: usize,
    /// Pixels of all images before this block.
    offset: usize,
}

/// Runs a 1×1 convolution, in bf16 tiles if there is an `amx`; `bias` and `unit` are the output's, padded.
pub(crate) fn run(
    context: &Context,
    conv: &Conv2d<'_>,
    amx: Option<Amx>,
    x: Features,
    bias: &[f32],
    unit: Vec<f32>,
) -> Result<Features, OutOfMemory> {
    let (mr, nr) = if amx.is_some() { (ROWS, COLUMNS) } else { context.isa.tile_shape() };
    let out_stride = unit.len();
    let (depth, panels) = (x.stride, out_stride.div_ceil(nr));
    let chunks = depth.div_ceil(DEPTH);
    let size = if amx.is_some() { panel_size(chunks, 1) / 4 } else { depth * nr };
    let packed = context.arena.take(panels * size * 4)?;
    let packed_ptr = Shared::new(packed.ptr().cast::<f32>());
    context.pool.run(panels, |_, panel| {
        let shape = [conv.out_channels, conv.in_channels, 1];
        // SAFETY: the buffer has room for every panel, and each task writes its own.
        let out = unsafe { std::slice::from_raw_parts_mut(packed_ptr.get().add(panel * size), size) };
        if amx.is_some() {
            // SAFETY: the same bytes.
            let out = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), size * 4) };
            tiles::pack_panel(conv.weight, shape, panel * nr, &[&[0]], 1, out);
        } else {
            pack_panel(conv.weight, shape, panel * nr, nr, depth, &[&[0]], out);
        }
    });
    let rows = PIXELS.next_multiple_of(mr);
    let staged =
        if amx.is_some() { rows * row_size(chunks) / 4 + line_size(PIXELS, chunks) } else { rows * depth };
    let scratch = (0..context.pool.threads())
        .map(|_| context.arena.take((staged + rows * nr) * 4))
        .collect::<Result<Vec<_>, _>>()?;
    let scratch: Vec<Shared> = scratch.iter().map(|b| Shared::new(b.ptr().cast())).collect();

    let pixels = x.height * x.width;
    let per_image = pixels.div_ceil(PIXELS);
    let blocks: Vec<Block> = (0..x.batch)
        .flat_map(|image| {
            (0..per_image).map(move |b| Block {
                image,
                first: b * PIXELS,
                count: PIXELS.min(pixels - b * PIXELS),
                offset: image * pixels + b * PIXELS,
            })
        })
        .collect();

    let in_place = out_stride <= x.stride && x.storage == context.storage;
    let units = (x.storage == crate::features::Storage::F16).then(|| Affine::units(&x));
    let shape = [x.batch, x.height, x.width, conv.out_channels];
    let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();
    let mut partials = Partials::new(blocks.len(), out_stride);
    let writer = partials.writer();
    let (y, old) = if in_place {
        // Two names for one memory: `old` is only read, as far as a level has not overwritten it.
        let alias = Features {
            batch: x.batch,
            height: x.height,
            width: x.width,
            channels: conv.out_channels,
            stride: out_stride,
            storage: x.storage,
            unit,
            stats: Vec::new(),
            buffer: crate::arena::Buffer::alias(&x.buffer),
        };
        (alias, x)
    } else {
        (Features::new(&context.arena, shape, context.storage, unit)?, x)
    };
    let source = Source { x: &old, affine: units.as_ref(), silu: false, edge: Edge::Zero };
    let sinks: Vec<Sink<'_>> =
        (0..shape[0]).map(|image| Sink::new(&y, image, bias, None, &inverse_unit)).collect();

    let mut begin = 0;
    while begin < blocks.len() {
        let end = if in_place {
            // Outputs up to the end of the level stay before the level's first input.
            let limit = blocks[begin].offset * depth / out_stride;
            let fits = blocks[begin..].iter().take_while(|b| b.offset + b.count <= limit).count();
            begin + fits.max(1)
        } else {
            blocks.len()
        };
        context.pool.run(end - begin, |worker, index| {
            let block = blocks[begin + index];
            let work = Work {
                view: source.view(block.image).flat(),
                sink: sinks[block.image],
                block,
                depth,
                panels,
                packed: packed_ptr,
                scratch: scratch[worker],
                rows,
                partials: writer,
                part: begin + index,
            };
            match amx {
                Some(amx) => amx.run(InTiles(work)),
                None => context.isa.run(work),
            }
        });
        begin = end;
    }
    let stats = (0..shape[0]).map(|i| partials.merge(i * per_image..(i + 1) * per_image)).collect();
    drop(sinks);
    let mut y = y;
    y.stats = stats;
    if in_place {
        y.buffer = old.buffer;
        y.buffer.shrink(y.batch * y.image_bytes());
    }
    Ok(y)
}

struct Work<'a> {
    view: View,
    sink: Sink<'a>,
    block: Block,
    depth: usize,
    panels: usize,
    packed: Shared,
    scratch: Shared,
    rows: usize,
    partials: PartialsWriter,
    part: usize,
}

impl Op for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let w = &self;
        let Block { first, count, .. } = w.block;
        // SAFETY: the scratch holds `rows * (depth + NR)` values; the block's pixels lie inside the image, and
        // the whole block is staged before any of its outputs is written.
        unsafe {
            let staged = w.scratch.get();
            let results = staged.add(w.rows * w.depth);
            let window = Window {
                top: 0,
                left: first as isize,
                rows: 1,
                columns: count,
                first: 0,
                channels: w.depth,
                pitch: w.depth,
            };
            w.view.stage(simd, window, staged);
            for panel in 0..w.panels {
                for row in (0..count).step_by(S::MR) {
                    simd.tile(&Tile {
                        segments: &[staged.add(row * w.depth).cast_const()],
                        lda: w.depth,
                        k: w.depth,
                        b: w.packed.get().add(panel * w.depth * S::NR).cast_const(),
                        c: results.add(row * S::NR),
                        ldc: S::NR,
                        rows: S::MR,
                        accumulate: false,
                        prefetch: NO_PREFETCH,
                    });
                }
                w.write(simd, panel * S::NR, S::NR, results);
            }
            w.partials.set_count(w.part, count as u32);
        }
    }
}

/// The same in bf16 tiles.
struct InTiles<'a>(Work<'a>);

impl TileOp for InTiles<'_> {
    #[inline(always)]
    fn run(self, amx: Amx) {
        let w = &self.0;
        let Block { first, count, .. } = w.block;
        let chunks = w.depth.div_ceil(DEPTH);
        // SAFETY: the scratch holds the block's rows, taken apart, a line and the results; the block's pixels lie inside
        // the image, and the whole block is staged before any of its outputs is written.
        unsafe {
            let staged = w.scratch.get().cast::<u8>();
            let line = staged.add(w.rows * row_size(chunks)).cast::<f32>();
            let results = line.add(line_size(PIXELS, chunks));
            stage_row(amx, &w.view, [0, first as isize], count, line, staged);
            for panel in 0..w.panels {
                let b = w.packed.get().cast::<u8>().add(panel * panel_size(chunks, 1)).cast_const();
                for (number, row) in (0..count).step_by(ROWS).enumerate() {
                    let starts = [staged.add(row * row_size(chunks)).cast_const()];
                    let second = (RUN * row_size(chunks)) as isize;
                    let product = Product::new(&starts, [chunks, 1], [row_size(chunks), 0], second);
                    amx.product(&product, b, results.add(row * COLUMNS), product.ahead(b, number));
                }
                w.write(amx.vectors(), panel * COLUMNS, COLUMNS, results);
            }
            w.partials.set_count(w.part, count as u32);
        }
    }
}

impl Work<'_> {
    /// Writes the results of a panel of `columns` channels from `begin` on.
    ///
    /// # Safety
    /// `results` holds them for all pixels, `columns` values apart; the channels are this task's own.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, simd: S, begin: usize, columns: usize, results: *mut f32) {
        let Block { first, count, .. } = self.block;
        for c in (begin..(begin + columns).min(self.sink.stride)).step_by(S::LANES) {
            let results = results.wrapping_add(c - begin);
            // SAFETY: by the caller's promise.
            unsafe {
                write_column(
                    simd,
                    &self.sink,
                    results,
                    columns,
                    count,
                    |i| first + i,
                    c,
                    (&self.partials, self.part, 0),
                );
            }
        }
    }
}
