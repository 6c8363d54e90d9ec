//! Reading feature maps: from f32 or f16, normalised and activated on the way.

use crate::features::{Features, Storage};
use crate::norm::Affine;
use crate::simd::Simd;

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

/// One image of a source, as raw parts that many workers may read at once.
#[derive(Clone, Copy)]
pub(crate) struct View {
    storage: Storage,
    silu: bool,
    edge: Edge,
    data: *const u8,
    scale: *const f32,
    shift: *const f32,
    pub(crate) stride: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

// SAFETY: only reads, of memory that nobody writes while a kernel holds the Source's borrow.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl Source<'_> {
    pub(crate) fn view(&self, image: usize) -> View {
        assert!(image < self.x.batch);
        let row = image * self.x.stride;
        let (scale, shift) = match self.affine {
            Some(affine) => (affine.scale[row..].as_ptr(), affine.shift[row..].as_ptr()),
            None => (std::ptr::null(), std::ptr::null()),
        };
        // SAFETY: the buffer holds `batch` images of that size.
        let data = unsafe { self.x.buffer.ptr().cast_const().add(image * self.x.image_bytes()) };
        View {
            storage: self.x.storage,
            silu: self.silu,
            edge: self.edge,
            data,
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

impl View {
    /// The image as one row of all its pixels.
    pub(crate) fn flat(self) -> Self {
        Self { height: 1, width: self.height * self.width, ..self }
    }

    /// Copies a window as `[rows][columns][pitch]`, normalised and activated.
    ///
    /// # Safety
    /// `to` has room for the window, whose channels lie inside the image's stride.
    #[inline(always)]
    pub(crate) unsafe fn stage<S: Simd>(&self, simd: S, window: Window, to: *mut f32) {
        // SAFETY: by the caller's promise; each reader is the one that fits.
        unsafe {
            match (self.storage, self.scale.is_null(), self.silu) {
                (Storage::F32, true, _) => self.stage_with::<S, Plain32>(simd, window, to),
                (Storage::F32, false, false) => self.stage_with::<S, Norm32>(simd, window, to),
                (Storage::F32, false, true) => self.stage_with::<S, NormSilu32>(simd, window, to),
                (Storage::F16, _, false) => self.stage_with::<S, Norm16>(simd, window, to),
                (Storage::F16, _, true) => self.stage_with::<S, NormSilu16>(simd, window, to),
            }
        }
    }

    /// # Safety
    /// As for `stage`, and `R` is the reader that fits the source.
    #[inline(always)]
    unsafe fn stage_with<S: Simd, R: Read>(&self, simd: S, window: Window, to: *mut f32) {
        let (height, width) = (self.height as isize, self.width as isize);
        let mut to = to;
        // The address of a pixel of the window's first channel, whether or not the pixel is inside the image.
        let address = |row: usize, column: usize| {
            let pixel = (window.top + row as isize) * width + window.left + column as isize;
            let index = (pixel as usize).wrapping_mul(self.stride).wrapping_add(window.first);
            self.data.wrapping_add(index.wrapping_mul(R::STORAGE.size()))
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
                    // SAFETY: the pixel lies inside the image where it is read; the target inside the window.
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
    /// `pixel < height * width`, `c + LANES <= stride`, and `R` is the reader that fits the source.
    #[inline(always)]
    unsafe fn load<S: Simd, R: Read>(&self, simd: S, pixel: usize, c: usize) -> S::V {
        // SAFETY: inside the image by the caller's promise; scale and shift hold `stride` values when AFFINE.
        unsafe {
            let index = pixel * self.stride + c;
            let mut v = match R::STORAGE {
                Storage::F32 => simd.load(self.data.cast::<f32>().add(index)),
                Storage::F16 => simd.load_f16(self.data.cast::<u16>().add(index)),
            };
            if R::AFFINE {
                v = simd.fma(v, simd.load(self.scale.add(c)), simd.load(self.shift.add(c)));
            }
            if R::SILU {
                v = simd.silu(v);
            }
            v
        }
    }
}
