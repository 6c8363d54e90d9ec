//! 1×1 convolutions: a matrix product over pixels, in place where the output is not larger than the input.
//!
//! In place, pixel `p`'s output lies where an earlier pixel's input lay. Blocks of pixels are therefore done in
//! levels: a level only overwrites inputs of levels before it, and within a level all workers are free.

use crate::arena::Region;
use crate::column::WriteColumn;
use crate::context::Context;
use crate::conv::Kernel;
use crate::direct::pack_panel;
use crate::features::{Features, Storage, Target};
use crate::gemm::{NO_PREFETCH, Tile};
use crate::norm::Affine;
use crate::simd::amx::{Amx, COLUMNS, DEPTH, Product, ROWS, TileOp};
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{PaddingMode, Source, View, Window};
use crate::tiles::{self, RUN, line_size, panel_size, row_size, stage_row};
use crate::watch::{Stopped, Watched};

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
    conv: &Kernel<'_>,
    amx: Option<Amx>,
    x: Features,
    bias: &[f32],
    unit: Vec<f32>,
    watched: &mut Watched<'_>,
) -> Result<Features, Stopped> {
    let (mr, nr) = if amx.is_some() { (ROWS, COLUMNS) } else { context.isa.tile_shape() };
    let out_stride = unit.len();
    let (depth, panels) = (x.stride, out_stride.div_ceil(nr));
    let chunks = depth.div_ceil(DEPTH);
    let size = if amx.is_some() { panel_size(chunks, 1) } else { depth * nr * 4 };
    let packed = context.arena.take(panels * size)?;
    let packed = packed.region();
    context.pool.run(panels, |_, panel| {
        let shape = [conv.out_channels, conv.in_channels, 1];
        let out = packed.nth(panel, size);
        // SAFETY: the panel is this task's alone.
        unsafe {
            if amx.is_some() {
                tiles::pack_panel(conv.weight, shape, panel * nr, &[&[0]], 1, out.bytes_mut());
            } else {
                pack_panel(conv, panel * nr, nr, [0, depth], &[&[0]], out.values_mut());
            }
        }
    });
    let rows = PIXELS.next_multiple_of(mr);
    let staged =
        if amx.is_some() { rows * row_size(chunks) / 4 + line_size(PIXELS, chunks) } else { rows * depth };
    let scratch = context.scratch((staged + rows * nr) * 4)?;

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
    let units = (x.storage == Storage::F16).then(|| Affine::units(&x));
    let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();
    let mut partials = Partials::new(blocks.len(), out_stride);
    let writer = partials.writer();
    let fresh = if in_place {
        None
    } else {
        let shape = [x.batch, x.height, x.width, conv.out_channels];
        Some(Features::new(&context.arena, shape, context.storage, unit.clone())?)
    };
    // In place the input is only read as far as no level has overwritten it.
    let target = match &fresh {
        Some(y) => y.target(),
        None => Target { stride: out_stride, ..x.target() },
    };
    let source = Source { x: &x, affine: units.as_ref(), activation: None, mode: PaddingMode::Zeros };
    // In place, images of the output lie closer together than those of the input, from the same byte on.
    let sinks: Vec<Sink<'_>> =
        (0..x.batch).map(|image| Sink::new(target, image, bias, None, &inverse_unit)).collect();

    let work = PIXELS * depth * out_stride;
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
        let share = [begin, end].map(|block| block as f64 / blocks.len() as f64);
        watched.run(&context.pool, share[0]..share[1], end - begin, work, |worker, index| {
            let block = blocks[begin + index];
            let work = Work {
                view: source.view(block.image).flat(),
                sink: sinks[block.image],
                block,
                depth,
                panels,
                packed,
                scratch: scratch[worker].region(),
                rows,
                partials: writer,
                part: begin + index,
            };
            match amx {
                Some(amx) => amx.run(InTiles(work)),
                None => context.isa.run(work),
            }
        })?;
        begin = end;
    }
    let stats = (0..x.batch).map(|i| partials.merge(i * per_image..(i + 1) * per_image)).collect();
    Ok(match fresh {
        Some(y) => Features { stats, ..y },
        None => {
            let mut y = Features { channels: conv.out_channels, stride: out_stride, unit, stats, ..x };
            y.buffer.shrink(y.batch * y.image_bytes());
            y
        }
    })
}

struct Work<'a> {
    view: View<'a>,
    sink: Sink<'a>,
    block: Block,
    depth: usize,
    panels: usize,
    packed: Region<'a>,
    scratch: Region<'a>,
    rows: usize,
    partials: PartialsWriter<'a>,
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
            let staged = w.scratch.values();
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
                        b: w.packed.values().add(panel * w.depth * S::NR).cast_const(),
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
            let staged = w.scratch.ptr();
            let line = staged.add(w.rows * row_size(chunks)).cast::<f32>();
            let results = line.add(line_size(PIXELS, chunks));
            stage_row(amx, &w.view, [0, first as isize], count, line, staged);
            for panel in 0..w.panels {
                let b = w.packed.ptr().add(panel * panel_size(chunks, 1)).cast_const();
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
            simd.apart(WriteColumn {
                sink: &self.sink,
                results: results.wrapping_add(c - begin),
                ld: columns,
                count,
                first,
                step: 1,
                c,
                partials: &self.partials,
                part: self.part,
                seen: 0,
            });
        }
    }
}
