//! Tiled decoding and encoding, exactly as diffusers does them after `AutoencoderKL.enable_tiling()`.
//!
//! Large latents, or pixels, are cut into overlapping tiles, each is decoded (encoded) by itself, and where two tiles
//! meet they are blended linearly. It bounds the memory, but it is not the same result: every tile has norms and
//! attention of its own. This crate does not need it for memory; it is here to compare with.

use crate::HostTensor;

/// `tile_overlap_factor` of diffusers is a quarter.
const OVERLAP_DIVISOR: usize = 4;

/// How tiles lie: for decoding, the input is latents and the output pixels; for encoding, the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    /// `tile_latent_min_size` or `tile_sample_min_size`: the side of a tile of the input.
    pub(super) tile_min_size: usize,
    /// What is not larger stays whole; the side of a tile but for Wan 2.2's encoder.
    limit: usize,
    /// The smallest side of an input that gives any output.
    unit: usize,
    /// `overlap_size`: steps in the input from one tile to the next.
    overlap_size: usize,
    /// Rows and columns of the output over which a tile is blended into the one before it.
    blend_extent: usize,
    /// Rows and columns that are kept of a tile's output.
    row_limit: usize,
    /// The end of the graph that is not for tiles, where there is one.
    pub(super) end: Option<End>,
}

/// The end of a graph that tiles do not go through one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// How many nodes that is.
    pub(crate) nodes: usize,
    /// Whether tiles go through it once they are put together.
    pub(crate) is_done: bool,
}

/// One tile: rows and columns of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Tiling {
    /// How this model decodes in tiles. `None` where diffusers' arithmetic leaves gaps or overlaps between the tiles
    /// that it keeps, because `sample_size`, in pixels, is too small or odd: the picture would have the wrong size.
    pub(crate) fn of_decoder(sample_size: usize, spatial_factor: usize) -> Option<Self> {
        let tile_sample_min_size = sample_size;
        let tile_latent_min_size = tile_sample_min_size / spatial_factor;
        let overlap_size = tile_latent_min_size - tile_latent_min_size.div_ceil(OVERLAP_DIVISOR);
        let blend_extent = tile_sample_min_size / OVERLAP_DIVISOR;
        let row_limit = tile_sample_min_size - blend_extent;
        (overlap_size > 0 && overlap_size * spatial_factor == row_limit).then_some(Self {
            tile_min_size: tile_latent_min_size,
            limit: tile_latent_min_size,
            unit: 1,
            overlap_size,
            blend_extent,
            row_limit,
            end: None,
        })
    }

    /// How this model encodes in tiles; `None` as for [`Tiling::of_decoder`].
    pub(crate) fn of_encoder(sample_size: usize, spatial_factor: usize) -> Option<Self> {
        let unit = spatial_factor;
        let tile_sample_min_size = sample_size;
        let tile_latent_min_size = tile_sample_min_size / unit;
        let overlap_size = tile_sample_min_size - tile_sample_min_size.div_ceil(OVERLAP_DIVISOR);
        let blend_extent = tile_latent_min_size / OVERLAP_DIVISOR;
        let row_limit = tile_latent_min_size - blend_extent;
        (overlap_size > 0 && overlap_size == row_limit * unit).then_some(Self {
            tile_min_size: tile_sample_min_size,
            limit: tile_sample_min_size,
            unit,
            overlap_size,
            blend_extent,
            row_limit,
            end: None,
        })
    }

    /// How HunyuanVideo decodes in tiles: `tile_sample_min_size` pixels each, one every `tile_sample_stride` pixels. Both
    /// are multiples of `spatial_factor`, the pixels of a latent.
    pub(crate) fn of_strides(
        tile_sample_min_size: usize,
        tile_sample_stride: usize,
        spatial_factor: usize,
    ) -> Self {
        Self {
            tile_min_size: tile_sample_min_size / spatial_factor,
            limit: tile_sample_min_size / spatial_factor,
            unit: 1,
            overlap_size: tile_sample_stride / spatial_factor,
            blend_extent: tile_sample_min_size - tile_sample_stride,
            row_limit: tile_sample_stride,
            end: None,
        }
    }

    /// How HunyuanVideo encodes in such tiles.
    pub(crate) fn of_encoder_strides(
        tile_sample_min_size: usize,
        tile_sample_stride: usize,
        spatial_factor: usize,
    ) -> Self {
        Self {
            tile_min_size: tile_sample_min_size,
            limit: tile_sample_min_size,
            // Its encoder rounds up.
            unit: 1,
            overlap_size: tile_sample_stride,
            blend_extent: (tile_sample_min_size - tile_sample_stride) / spatial_factor,
            row_limit: tile_sample_stride / spatial_factor,
            end: None,
        }
    }

    /// The same for an encoder that rounds down: a tile of fewer than `unit` pixels gives nothing. `limit` is the side of a
    /// picture that stays whole.
    pub(crate) fn rounding_down(self, unit: usize, limit: usize) -> Self {
        Self { unit, limit, ..self }
    }

    /// The same without the end of the graph.
    pub(crate) fn without(self, end: End) -> Self {
        Self { end: Some(end), ..self }
    }

    /// The side of the largest input that stays whole.
    pub(super) fn limit(self) -> usize {
        self.limit
    }

    /// Whether an input of this size is cut at all.
    pub(super) fn cuts(&self, height: usize, width: usize) -> bool {
        height.max(width) > self.limit
    }

    /// Height and width of each tile of an input of this size, in the order in which [`Tiling::run`] comes to them.
    pub(super) fn tiles(&self, height: usize, width: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let this = *self;
        this.starts(height)
            .flat_map(move |top| this.starts(width).map(move |left| this.tile(top, left, height, width)))
            .map(|tile| (tile.height, tile.width))
    }

    /// Bytes that [`Tiling::run`] has on the host at its peak, besides its input and output, for an input of this size whose
    /// output takes `output` bytes; `of_tile` gives those of a tile's output.
    pub(super) fn memory(
        &self,
        [height, width]: [usize; 2],
        output: usize,
        of_tile: impl Fn(usize, usize) -> usize,
    ) -> usize {
        let row = self
            .starts(width)
            .map(|left| self.tile(0, left, height, width))
            .fold(0, |bytes, tile| of_tile(tile.height, tile.width).saturating_add(bytes));
        // A whole row of tiles is kept for the next one; besides it there is the next row, or at the end all rows, which
        // are then put together.
        row.saturating_add(row.max(output))
    }

    /// Decodes or encodes `input`, whose last two axes are rows and columns, tile by tile with `run`.
    pub(super) fn run<E>(
        &self,
        input: &HostTensor,
        mut run: impl FnMut(&HostTensor) -> Result<HostTensor, E>,
    ) -> Result<HostTensor, E> {
        let [height, width] = sides(input);
        let mut rows: Vec<HostTensor> = Vec::new();
        let mut above: Vec<HostTensor> = Vec::new();
        for top in self.starts(height) {
            let mut row: Vec<HostTensor> = Vec::new();
            for left in self.starts(width) {
                let Tile { height, width, .. } = self.tile(top, left, height, width);
                let mut tile = run(&crop(input, [top, left], [height, width]))?;
                // What a tile is blended with is blended already, as diffusers does it in place.
                if let Some(above) = above.get(row.len()) {
                    blend_v(above, &mut tile, self.blend_extent);
                }
                if let Some(left) = row.last() {
                    blend_h(left, &mut tile, self.blend_extent);
                }
                row.push(tile);
            }
            let kept: Vec<_> = row
                .iter()
                .map(|tile| {
                    let size = sides(tile).map(|side| side.min(self.row_limit));
                    crop(tile, [0, 0], size)
                })
                .collect();
            rows.push(concatenate(&kept, input.shape.len() - 1));
            above = row;
        }
        Ok(concatenate(&rows, input.shape.len() - 2))
    }

    /// Where tiles start along an axis of this length. A tile that is too small to give anything is left out.
    fn starts(&self, length: usize) -> impl Iterator<Item = usize> + use<> {
        (0..(length + 1).saturating_sub(self.unit)).step_by(self.overlap_size)
    }

    /// The tile that starts here in an input of this size.
    fn tile(&self, top: usize, left: usize, height: usize, width: usize) -> Tile {
        let side = self.tile_min_size;
        Tile { top, left, height: side.min(height - top), width: side.min(width - left) }
    }
}

/// Rows and columns of each plane.
fn sides(x: &HostTensor) -> [usize; 2] {
    [x.shape[x.shape.len() - 2], x.shape[x.shape.len() - 1]]
}

/// The number of planes.
fn planes(x: &HostTensor) -> usize {
    x.shape[..x.shape.len() - 2].iter().product()
}

/// The part of each plane that begins at `[top, left]` and has `[height, width]`.
pub(super) fn crop(x: &HostTensor, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> HostTensor {
    let (planes, [rows, columns]) = (planes(x), sides(x));
    let mut data = Vec::with_capacity(planes * height * width);
    for row in (0..planes).flat_map(|plane| (top..top + height).map(move |y| plane * rows + y)) {
        data.extend_from_slice(&x.data[row * columns + left..][..width]);
    }
    HostTensor::new([&x.shape[..x.shape.len() - 2], &[height, width]].concat(), data)
}

/// `torch.cat` along `axis`; `parts` is not empty, and their other axes are equal.
fn concatenate(parts: &[HostTensor], axis: usize) -> HostTensor {
    let mut shape = parts[0].shape.clone();
    shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
    let mut data = Vec::with_capacity(shape.iter().product());
    for outer in 0..shape[..axis].iter().product() {
        for part in parts {
            let length: usize = part.shape[axis..].iter().product();
            data.extend_from_slice(&part.data[outer * length..][..length]);
        }
    }
    HostTensor::new(shape, data)
}

/// diffusers' `blend_v`: the first rows of `b` become a fade from the last rows of `a`, which is above it.
fn blend_v(a: &HostTensor, b: &mut HostTensor, blend_extent: usize) {
    let planes = planes(b);
    let ([above, _], [below, width]) = (sides(a), sides(b));
    let extent = blend_extent.min(above).min(below);
    for plane in 0..planes {
        for y in 0..extent {
            let a = &a.data[(plane * above + above - extent + y) * width..][..width];
            let b = &mut b.data[(plane * below + y) * width..][..width];
            for (b, &a) in b.iter_mut().zip(a) {
                *b = fade(a, *b, y, extent);
            }
        }
    }
}

/// diffusers' `blend_h`: the first columns of `b` become a fade from the last columns of `a`, which is left of it.
fn blend_h(a: &HostTensor, b: &mut HostTensor, blend_extent: usize) {
    let ([_, left], [_, right]) = (sides(a), sides(b));
    let extent = blend_extent.min(left).min(right);
    for (a, b) in a.data.chunks_exact(left).zip(b.data.chunks_exact_mut(right)) {
        for x in 0..extent {
            b[x] = fade(a[left - extent + x], b[x], x, extent);
        }
    }
}

/// From `a` at step 0 towards `b`, which would be reached at step `extent`.
fn fade(a: f32, b: f32, step: usize, extent: usize) -> f32 {
    let share = step as f64 / extent as f64;
    a * (1.0 - share) as f32 + b * share as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_models_have_the_tiles_of_diffusers() {
        let sd = Tiling::of_decoder(512, 8).unwrap();
        let expected = Tiling {
            tile_min_size: 64,
            limit: 64,
            unit: 1,
            overlap_size: 48,
            blend_extent: 128,
            row_limit: 384,
            end: None,
        };
        assert_eq!(sd, expected);
        assert!(!sd.cuts(64, 64) && sd.cuts(1, 65) && sd.cuts(65, 1));
        assert_eq!(sd.tiles(65, 48).collect::<Vec<_>>(), [(64, 48), (17, 48)]);

        let sd = Tiling::of_encoder(512, 8).unwrap();
        let expected = Tiling {
            tile_min_size: 512,
            limit: 512,
            unit: 8,
            overlap_size: 384,
            blend_extent: 16,
            row_limit: 48,
            end: None,
        };
        assert_eq!(sd, expected);
        // Seven pixels make no latent, eight make one.
        assert_eq!(sd.tiles(768 + 7, 9).collect::<Vec<_>>(), [(512, 9), (391, 9)]);
        assert_eq!(sd.tiles(768 + 8, 9).count(), 3);
    }

    #[test]
    fn tiles_that_do_not_fit_together_are_not_laid() {
        // Tiles of 6 latents start every 4, which is 32 pixels, but 36 would be kept of each.
        assert_eq!(Tiling::of_decoder(48, 8), None);
        // A tile of one latent would start where the one before it does; one of none is none.
        for too_small in [8, 7, 1] {
            assert_eq!(Tiling::of_decoder(too_small, 8), None, "{too_small}");
            assert_eq!(Tiling::of_encoder(too_small, 8), None, "{too_small}");
        }
    }
}
