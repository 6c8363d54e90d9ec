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
}

/// How values are read, known when the kernel is compiled.
pub(crate) trait Read: Copy + Send + Sync + 'static {
    const STORAGE: Storage;
    const AFFINE: bool;
    const SILU: bool;
}

macro_rules! readers {
    ($($name:ident $storage:ident $affine:literal $silu:literal)*) => {$(
        #[derive(Clone, Copy)]
        pub(crate) struct $name;
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

/// Calls a generic function with the reader that fits a source.
macro_rules! with_reader {
    ($source:expr, $reader:ident => $body:expr) => {
        match ($source.x.storage, $source.affine.is_some(), $source.silu) {
            (crate::features::Storage::F32, false, _) => {
                type $reader = crate::source::Plain32;
                $body
            }
            (crate::features::Storage::F32, true, false) => {
                type $reader = crate::source::Norm32;
                $body
            }
            (crate::features::Storage::F32, true, true) => {
                type $reader = crate::source::NormSilu32;
                $body
            }
            (crate::features::Storage::F16, _, false) => {
                type $reader = crate::source::Norm16;
                $body
            }
            (crate::features::Storage::F16, _, true) => {
                type $reader = crate::source::NormSilu16;
                $body
            }
        }
    };
}
pub(crate) use with_reader;

/// One image of a source, as raw parts that many workers may read at once.
#[derive(Clone, Copy)]
pub(crate) struct View {
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
        View { data, scale, shift, stride: self.x.stride, height: self.x.height, width: self.x.width }
    }
}

impl View {
    /// The vector of channels from `c` on of pixel `pixel`, normalised and activated.
    ///
    /// # Safety
    /// `pixel < height * width`, `c + LANES <= stride`, and `R` is the reader that fits the source.
    #[inline(always)]
    pub(crate) unsafe fn load<S: Simd, R: Read>(&self, simd: S, pixel: usize, c: usize) -> S::V {
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
