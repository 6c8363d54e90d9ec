//! Reading feature maps: from f32 or f16, normalised and activated on the way.

use crate::arena::Region;
use crate::features::{Features, Storage};
use crate::norm::Affine;
use crate::simd::{Op, Simd};

/// What a convolution reads: an image, and what becomes of its values before they are used.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) x: &'a Features,
    /// Norm and units; `None` only for f32 without a norm.
    pub(crate) affine: Option<&'a Affine>,
    pub(crate) silu: bool,
    pub(crate) edge: Edge,
}

/// What is read around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Zeros.
    Zero,
    /// The nearest pixel of the image.
    Replicate,
}

impl Edge {
    /// The position that is read in place of `i`, along an axis of this length.
    #[inline(always)]
    fn brought_in(self, i: isize, length: isize) -> isize {
        match self {
            Self::Zero => i,
            Self::Replicate => i.clamp(0, length - 1),
        }
    }
}

/// How values are read, known when the kernel is compiled.
trait Read: Copy + Send + Sync + 'static {
    const STORAGE: Storage;
    const AFFINE: bool;
    const SILU: bool;
}

macro_rules! readers {
    ($($name:ident $storage:ident $affine:literal $silu:literal)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Read for $name {
            const STORAGE: Storage = Storage::$storage;
            const AFFINE: bool = $affine;
            const SILU: bool = $silu;
        }
    )*};
}
readers! {
    Plain32 F32 false false
    Norm32 F32 true false
    NormSilu32 F32 true true
    Norm16 F16 true false
    NormSilu16 F16 true true
}

/// One image of a source, which many workers may read at once.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    storage: Storage,
    silu: bool,
    edge: Edge,
    /// `[height][width][stride]`
    data: Region<'a>,
    /// `[stride]` each; both empty for none.
    scale: &'a [f32],
    shift: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl<'a> Source<'a> {
    pub(crate) fn view(&self, image: usize) -> View<'a> {
        let stride = self.x.stride;
        let channels = |values: &'a [f32]| &values[image * stride..][..stride];
        let (scale, shift) = match self.affine {
            Some(affine) => (channels(&affine.scale), channels(&affine.shift)),
            None => (&[][..], &[][..]),
        };
        View {
            storage: self.x.storage,
            silu: self.silu,
            edge: self.edge,
            data: self.x.buffer.region().nth(image, self.x.image_bytes()),
            scale,
            shift,
            stride: self.x.stride,
            height: self.x.height,
            width: self.x.width,
        }
    }
}

/// How many pixels ahead a window's lines are prefetched.
const AHEAD: usize = 10;

/// A window of an image, ready for a convolution: which pixels, and which channels of them.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// First row and column; may lie outside the image, where the source's [`Edge`] says what is read.
    pub(crate) top: isize,
    pub(crate) left: isize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// First channel, and how many: multiples of 16.
    pub(crate) first: usize,
    pub(crate) channels: usize,
    /// Values from one staged pixel to the next.
    pub(crate) pitch: usize,
}

/// [`View::stage`]: one copy of its loops for each instruction set.
struct Stage<'a> {
    view: &'a View<'a>,
    window: Window,
    to: *mut f32,
}

impl Op for Stage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { view, window, to } = self;
        // SAFETY: only `View::stage` makes one, whose caller promises what `stage_with` wants; each reader is the one for
        // this storage, and takes scale and shift only where there are some (f16 always has them).
        unsafe {
            match (view.storage, view.scale.is_empty(), view.silu) {
                (Storage::F32, true, _) => view.stage_with::<S, Plain32>(simd, window, to),
                (Storage::F32, false, false) => view.stage_with::<S, Norm32>(simd, window, to),
                (Storage::F32, false, true) => view.stage_with::<S, NormSilu32>(simd, window, to),
                (Storage::F16, _, false) => view.stage_with::<S, Norm16>(simd, window, to),
                (Storage::F16, _, true) => view.stage_with::<S, NormSilu16>(simd, window, to),
            }
        }
    }
}

impl View<'_> {
    /// The image as one row of all its pixels.
    pub(crate) fn flat(self) -> Self {
        Self { height: 1, width: self.height * self.width, ..self }
    }

    /// Copies a window as `[rows][columns][pitch]`, normalised and activated.
    ///
    /// # Safety
    /// `window.first + window.channels <= self.stride`, both multiples of 16. From `to` on, `window.channels` values are
    /// writable every `window.pitch` values, for `rows * columns` pixels, by this thread alone. Nobody writes to the image
    /// meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn stage<S: Simd>(&self, simd: S, window: Window, to: *mut f32) {
        simd.apart(Stage { view: self, window, to });
    }

    /// # Safety
    /// As for [`View::stage`], and `R` is the reader that fits the source.
    #[inline(always)]
    unsafe fn stage_with<S: Simd, R: Read>(&self, simd: S, window: Window, to: *mut f32) {
        let (height, width) = (self.height as isize, self.width as isize);
        let mut to = to;
        // The address of a pixel of the window's first channel, whether or not the pixel is inside the image.
        let address = |row: usize, column: usize| {
            let pixel = (window.top + row as isize) * width + window.left + column as isize;
            let index = (pixel as usize).wrapping_mul(self.stride).wrapping_add(window.first);
            self.data.ptr().wrapping_add(index.wrapping_mul(R::STORAGE.size()))
        };
        let pixel_size = self.stride * R::STORAGE.size();
        for row in 0..window.rows {
            let y = self.edge.brought_in(window.top + row as isize, height);
            // What follows this row: the next one, or the same window's next channels, or the window to the right.
            let this = address(row, 0);
            let next = if row + 1 < window.rows {
                address(row + 1, 0)
            } else if window.first + window.channels < self.stride {
                address(0, 0).wrapping_add(window.channels * R::STORAGE.size())
            } else {
                address(0, window.columns)
            };
            for column in 0..window.columns {
                let x = self.edge.brought_in(window.left + column as isize, width);
                let inside = y >= 0 && y < height && x >= 0 && x < width;
                // A window takes a few lines out of each pixel, which the hardware does not foresee.
                let ahead = match (column + AHEAD).checked_sub(window.columns) {
                    None => this.wrapping_add((column + AHEAD) * pixel_size),
                    Some(column) => next.wrapping_add(column * pixel_size),
                };
                for line in (0..window.channels * R::STORAGE.size()).step_by(64) {
                    simd.prefetch(ahead.wrapping_add(line).cast());
                }
                for c in (0..window.channels).step_by(S::LANES) {
                    // SAFETY: `y` and `x` are inside the image where the pixel is read, and the vector ends before
                    // `first + channels`; `to` is the target's row for this pixel, by the caller's promise.
                    unsafe {
                        let v = if inside {
                            self.load::<S, R>(simd, (y * width + x) as usize, window.first + c)
                        } else {
                            simd.zero()
                        };
                        simd.store(to.add(c), v);
                    }
                }
                to = to.wrapping_add(window.pitch);
            }
        }
    }

    /// The vector of channels from `c` on of pixel `pixel`, normalised and activated.
    ///
    /// # Safety
    /// `pixel < height * width` and `c + LANES <= stride`; nobody writes to the image meanwhile; `R` is the reader that fits
    /// the source.
    #[inline(always)]
    unsafe fn load<S: Simd, R: Read>(&self, simd: S, pixel: usize, c: usize) -> S::V {
        // SAFETY: `data` holds `height * width * stride` values of the storage that `R` names, and `scale` and `shift` hold
        // `stride` values each where `R` uses them; the vector lies inside by the caller's promise.
        unsafe {
            let index = pixel * self.stride + c;
            let mut v = match R::STORAGE {
                Storage::F32 => simd.load(self.data.values().cast_const().add(index)),
                Storage::F16 => simd.load_f16(self.data.ptr().cast_const().cast::<u16>().add(index)),
            };
            if R::AFFINE {
                v = simd.fma(v, simd.load(self.scale.as_ptr().add(c)), simd.load(self.shift.as_ptr().add(c)));
            }
            if R::SILU {
                v = simd.silu(v);
            }
            v
        }
    }
}
