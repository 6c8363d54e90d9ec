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
    pub(crate) activation: Option<Activation>,
    pub(crate) mode: PaddingMode,
}

/// What is read around an image, or before and after a clip: PyTorch's `padding_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingMode {
    /// Zeros.
    #[default]
    Zeros,
    /// The nearest position of the image.
    Replicate,
    /// The image mirrored at its outermost positions, which are not repeated: one more along that axis than the padding.
    Reflect,
}

impl PaddingMode {
    /// The position that is read in place of `i`, along an axis of this length. It lies inside, but for zeros.
    #[inline(always)]
    pub(crate) fn brought_in(self, i: isize, length: isize) -> isize {
        match self {
            Self::Zeros => i,
            Self::Replicate => i.clamp(0, length - 1),
            Self::Reflect => {
                let mirrored = if i < 0 { -i } else { i.min(2 * (length - 1) - i) };
                // Further away than the image is long are only positions that nobody wants.
                mirrored.clamp(0, length - 1)
            }
        }
    }
}

/// What becomes of each value after a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// `x Φ(x)` by the error function.
    Gelu,
    /// PyTorch's `gelu` with `approximate="tanh"`.
    GeluTanh,
}

impl Activation {
    /// Of the lanes of a vector.
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::V) -> S::V {
        match self {
            Self::Silu => simd.silu(x),
            Self::Relu => simd.relu(x),
            Self::Tanh => simd.tanh(x),
            Self::Gelu => simd.gelu(x),
            Self::GeluTanh => simd.gelu_tanh(x),
        }
    }
}

/// How values are read, known when the kernel is compiled.
trait Read: Copy + Send + Sync + 'static {
    const STORAGE: Storage;
    const AFFINE: bool;
    const SILU: bool;
    /// Whether norms over the channels and all activations are looked for while reading, instead of the above.
    const ANY: bool;
}

macro_rules! readers {
    ($($name:ident $storage:ident $affine:literal $silu:literal $any:literal)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Read for $name {
            const STORAGE: Storage = Storage::$storage;
            const AFFINE: bool = $affine;
            const SILU: bool = $silu;
            const ANY: bool = $any;
        }
    )*};
}
readers! {
    Plain32 F32 false false false
    Norm32 F32 true false false
    NormSilu32 F32 true true false
    Norm16 F16 true false false
    NormSilu16 F16 true true false
    Any32 F32 true false true
    Any16 F16 true false true
}

/// One image of a source, which many workers may read at once.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    storage: Storage,
    activation: Option<Activation>,
    mode: PaddingMode,
    /// `[height][width][stride]`
    data: Region<'a>,
    /// `[height][width][2]`: what each position's true values are multiplied with and what is added to them.
    positions: Option<Region<'a>>,
    /// `[stride]`: what makes stored values true; empty where there are no `positions`.
    unit: &'a [f32],
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
        let positions = self.affine.and_then(|affine| affine.positions.as_ref());
        View {
            storage: self.x.storage,
            activation: self.activation,
            mode: self.mode,
            positions: positions.map(|p| p.of_image(image, self.x.height * self.x.width)),
            unit: if positions.is_some() { &self.x.unit } else { &[] },
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
    /// First row and column; may lie outside the image, where the source's [`PaddingMode`] says what is read.
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
        // A copy, which the compiler knows that no store changes.
        let (view, window, to) = (*self.view, self.window, self.to);
        // SAFETY: only `View::stage` makes one, whose caller promises what `stage_with` wants; each reader is the one for
        // this storage, and takes scale and shift only where there are some: f16 and whatever is activated always have them.
        unsafe {
            let (plain, silu) = match view.activation {
                _ if view.positions.is_some() => (false, false),
                None => (true, false),
                Some(Activation::Silu) => (false, true),
                Some(_) => (false, false),
            };
            match (view.storage, view.scale.is_empty()) {
                (Storage::F32, true) if plain => view.stage_with::<S, Plain32>(simd, window, to),
                (Storage::F32, _) if plain => view.stage_with::<S, Norm32>(simd, window, to),
                (Storage::F32, _) if silu => view.stage_with::<S, NormSilu32>(simd, window, to),
                (Storage::F32, _) => view.stage_with::<S, Any32>(simd, window, to),
                (Storage::F16, _) if plain => view.stage_with::<S, Norm16>(simd, window, to),
                (Storage::F16, _) if silu => view.stage_with::<S, NormSilu16>(simd, window, to),
                (Storage::F16, _) => view.stage_with::<S, Any16>(simd, window, to),
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
            let y = self.mode.brought_in(window.top + row as isize, height);
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
                let x = self.mode.brought_in(window.left + column as isize, width);
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
            if R::ANY
                && let Some(positions) = self.positions
            {
                // Two factors for each pixel of the image, and a unit for each channel.
                let factors = positions.values().cast_const().add(pixel * 2);
                v = simd.mul(v, simd.load(self.unit.as_ptr().add(c)));
                v = simd.fma(v, simd.splat(*factors), simd.splat(*factors.add(1)));
            }
            if R::AFFINE {
                v = simd.fma(v, simd.load(self.scale.as_ptr().add(c)), simd.load(self.shift.as_ptr().add(c)));
            }
            match self.activation {
                _ if R::SILU => simd.silu(v),
                Some(activation) if R::ANY => activation.of(simd, v),
                _ => v,
            }
        }
    }
}
