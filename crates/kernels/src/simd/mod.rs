//! A small vector abstraction: kernels are written once over [`Simd`], and compiled once per instruction set.
//!
//! A value of a type that implements [`Simd`] is the proof that the processor has that instruction set: it can only
//! be had from [`Isa`]. A kernel is an [`Op`]: a struct whose `run` is generic over `Simd` and inlined into a thin
//! shell compiled with the right target features.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(not(target_arch = "x86_64"))]
#[path = "amx_absent.rs"]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub use isa::Isa;

use crate::gemm::Tile;

/// f32 values in a line of the cache.
pub(crate) const LINE: usize = 16;

/// A computation written once for all instruction sets.
///
/// Implementations mark `run` `#[inline(always)]`, so that it is compiled inside the shell of each instruction set.
pub(crate) trait Op {
    /// What `run` returns.
    type Output;
    /// Does the work with the vectors of `S`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Vectors of f32 of one instruction set.
///
/// # Safety
/// An implementation's values must only exist where the processor has the instruction set.
/// Pointers given to the methods need no alignment, but `LANES` elements behind them must be valid.
pub(crate) unsafe trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type V: Copy;
    /// f32 values in a vector.
    const LANES: usize;
    /// Rows of the matrix product's register tile.
    const MR: usize;
    /// Columns of the register tile, a multiple of `LANES`; also the width of packed weight panels.
    const NR: usize;

    /// Runs an op inside this instruction set's shell.
    fn run<O: Op>(self, op: O) -> O::Output;
    /// As [`Simd::run`], in a function of its own that is never inlined: for steps that several ops share and that take
    /// long beside a call, of which one copy is enough.
    fn apart<O: Op>(self, op: O) -> O::Output;
    /// The register tile of a matrix product: see [`Tile`].
    ///
    /// # Safety
    /// As [`Tile`] says.
    unsafe fn tile(self, tile: &Tile);

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the hardware can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// To the nearest integer.
    fn round(self, a: Self::V) -> Self::V;
    /// 2 to the power of an integer-valued vector in [-126, 127].
    fn exp2i(self, a: Self::V) -> Self::V;

    /// # Safety
    /// `LANES` values must be readable at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` values must be writable at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Stores past the caches, for what is read only much later. [`Simd::publish`] must follow before other threads
    /// may read it.
    ///
    /// # Safety
    /// `LANES` values must be writable at `p`, which must be aligned to a vector.
    #[inline(always)]
    unsafe fn store_past(self, p: *mut f32, v: Self::V) {
        // SAFETY: by the caller's promise.
        unsafe { self.store(p, v) }
    }
    /// Makes what [`Simd::store_past`] wrote visible to threads that synchronise with this one later.
    #[inline(always)]
    fn publish(self) {}
    /// Loads f16 bit patterns.
    ///
    /// # Safety
    /// `LANES` values must be readable at `p`.
    unsafe fn load_f16(self, p: *const u16) -> Self::V;
    /// Stores as f16, rounding to nearest even.
    ///
    /// # Safety
    /// `LANES` values must be writable at `p`.
    unsafe fn store_f16(self, p: *mut u16, v: Self::V);

    /// Brings the line at `p` into the second-level cache. Any address will do.
    fn prefetch(self, p: *const f32);

    /// All zeros.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// The sum of the lanes.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0f32; 16];
        // SAFETY: LANES is at most 16.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES].iter().sum()
    }

    /// The largest lane.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        // SAFETY: LANES is at most 16.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// `e^x` within 2 units in the last place for x in [-87.3, 88.3]; x is clamped to that range.
    ///
    /// Reduction to `2^n * e^r`, `|r| <= ln 2 / 2`, with the minimax polynomial of Cephes' `expf`.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let x = self.min(self.max(x, self.splat(-87.3)), self.splat(88.3));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, so that the reduction loses nothing.
        let r = self.fma(n, self.splat(-0.693_359_4), x);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_2e-4);
        p = self.fma(p, r, self.splat(1.398_2e-3));
        p = self.fma(p, r, self.splat(8.333_452e-3));
        p = self.fma(p, r, self.splat(4.166_579_6e-2));
        p = self.fma(p, r, self.splat(1.666_666_5e-1));
        p = self.fma(p, r, self.splat(0.5));
        let r2 = self.mul(r, r);
        let p = self.add(self.fma(p, r2, r), self.splat(1.0));
        self.mul(p, self.exp2i(n))
    }

    /// `x * sigmoid(x)`, within 2e-6 of itself for `|x| <= 20`, and next to 0 or `x` beyond.
    ///
    /// `x / (1 + 2^t)` with `t = -x log2 e` in [-126, 126] and `2^t` as `2^n 2^f`, `|f| <= 1/2`.
    #[inline(always)]
    fn silu(self, x: Self::V) -> Self::V {
        let t = self.mul(x, self.splat(-std::f32::consts::LOG2_E));
        let t = self.min(self.max(t, self.splat(-126.0)), self.splat(126.0));
        let n = self.round(t);
        let p = self.exp2_fraction(self.sub(t, n));
        self.div(x, self.fma(p, self.exp2i(n), self.splat(1.0)))
    }

    /// 0 for what is below it.
    #[inline(always)]
    fn relu(self, x: Self::V) -> Self::V {
        // In this order a NaN stays one.
        self.max(self.zero(), x)
    }

    /// The hyperbolic tangent, within 3e-7.
    #[inline(always)]
    fn tanh(self, x: Self::V) -> Self::V {
        // Beyond 10 it is 1 in f32. In this order a NaN stays one, and is added at the end, as `exp` makes it a number.
        let x = self.min(self.splat(10.0), self.max(self.splat(-10.0), x));
        let e = self.exp(self.add(x, x));
        let y = self.div(self.sub(e, self.splat(1.0)), self.add(e, self.splat(1.0)));
        self.fma(x, self.zero(), y)
    }

    /// `x Φ(x)`, with the error function within 2e-7: PyTorch's `gelu`.
    ///
    /// Φ by formula 7.1.26 of Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964.
    #[inline(always)]
    fn gelu(self, x: Self::V) -> Self::V {
        let z = self.mul(self.abs(x), self.splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = self.div(self.splat(1.0), self.fma(z, self.splat(0.327_591_1), self.splat(1.0)));
        let mut p = self.splat(1.061_405_4);
        for factor in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
            p = self.fma(p, t, self.splat(factor));
        }
        // 1 - erf(z), halved: what lies beyond |x| on one side.
        let beyond = self.mul(self.mul(p, t), self.exp(self.sub(self.zero(), self.mul(z, z))));
        let beyond = self.mul(beyond, self.splat(0.5));
        // x Φ(x) = max(x, 0) - |x| beyond.
        self.sub(self.relu(x), self.mul(self.abs(x), beyond))
    }

    /// `x (1 + tanh(sqrt(2 / π) (x + 0.044715 x³))) / 2`: PyTorch's `gelu` with `approximate="tanh"`.
    #[inline(always)]
    fn gelu_tanh(self, x: Self::V) -> Self::V {
        let cubic = self.fma(self.mul(x, x), self.splat(0.044_715), self.splat(1.0));
        let inner = self.mul(self.mul(x, cubic), self.splat(0.797_884_6));
        let half = self.mul(x, self.splat(0.5));
        self.fma(half, self.tanh(inner), half)
    }

    /// `2^f` for `|f| <= 1/2`: the Taylor series up to degree 6, whose next term is below 1.2e-7.
    #[inline(always)]
    fn exp2_fraction(self, f: Self::V) -> Self::V {
        let mut p = self.splat(1.540_353e-4);
        p = self.fma(p, f, self.splat(1.333_355_8e-3));
        p = self.fma(p, f, self.splat(9.618_129e-3));
        p = self.fma(p, f, self.splat(5.550_411e-2));
        p = self.fma(p, f, self.splat(2.402_265e-1));
        p = self.fma(p, f, self.splat(std::f32::consts::LN_2));
        self.fma(p, f, self.splat(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest errors of `silu` and `exp`, relative to their value, over `|x| <= 20`; and what `silu` makes of values
    /// far outside.
    struct Errors;
    impl Op for Errors {
        type Output = ([f64; 2], Vec<f32>);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let first = |v: S::V| {
                let mut lanes = [0.0f32; 16];
                // SAFETY: LANES is at most 16.
                unsafe { s.store(lanes.as_mut_ptr(), v) };
                lanes[0]
            };
            let mut errors = [0.0f64; 2];
            for i in -40_000..=40_000 {
                let x = i as f32 / 2000.0 + 1e-4;
                let exact = f64::from(x).exp();
                let pairs =
                    [(s.silu(s.splat(x)), f64::from(x) / (1.0 + 1.0 / exact)), (s.exp(s.splat(x)), exact)];
                for (error, (got, exact)) in errors.iter_mut().zip(pairs) {
                    *error = error.max((f64::from(first(got)) / exact - 1.0).abs());
                }
            }
            let far = [0.0, 1e3, -1e3, f32::MAX, f32::MIN, f32::INFINITY, f32::NAN];
            (errors, far.iter().map(|&x| first(s.silu(s.splat(x)))).collect())
        }
    }

    #[test]
    fn silu_and_exp_are_as_exact_as_they_say() {
        for isa in Isa::available() {
            let ([silu, exp], far) = isa.run(Errors);
            assert!(silu < 2e-6, "{isa:?}: silu is off by {silu:e}");
            assert!(exp < 2.0 * f64::from(f32::EPSILON), "{isa:?}: exp is off by {exp:e}");
            let [zero, large, small, max, min, infinite, nan] = far[..] else { unreachable!() };
            assert_eq!((zero, large, max, infinite), (0.0, 1e3, f32::MAX, f32::INFINITY), "{isa:?}");
            // Exactly, 0; a clamped exponent leaves what is nothing beside the value.
            assert!(small.abs() < 1e-30 && min.abs() <= 8.0, "{isa:?}: {small:e}, {min:e}");
            assert!(nan.is_nan(), "{isa:?}: a NaN must not become a number");
        }
    }

    /// The largest errors of the other activations over `|x| <= 20`, and what they make of a NaN.
    struct Activations;
    impl Op for Activations {
        type Output = ([f64; 4], [f32; 4]);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let first = |v: S::V| {
                let mut lanes = [0.0f32; 16];
                // SAFETY: LANES is at most 16.
                unsafe { s.store(lanes.as_mut_ptr(), v) };
                lanes[0]
            };
            let all = |x: f32| {
                let x = s.splat(x);
                [s.relu(x), s.tanh(x), s.gelu(x), s.gelu_tanh(x)].map(first)
            };
            let mut errors = [0.0f64; 4];
            for i in -4000..=4000 {
                let x = i as f32 / 200.0 + 1e-4;
                let exact = crate::reference::Activation::ALL.map(|activation| activation.of(f64::from(x)));
                for ((error, got), exact) in errors.iter_mut().zip(all(x)).zip(exact) {
                    *error = error.max((f64::from(got) - exact).abs());
                }
            }
            (errors, all(f32::NAN))
        }
    }

    #[test]
    fn activations_are_as_exact_as_they_say() {
        for isa in Isa::available() {
            let ([relu, tanh, gelu, gelu_tanh], nans) = isa.run(Activations);
            assert!(relu == 0.0, "{isa:?}: relu is off by {relu:e}");
            assert!(tanh < 3e-7, "{isa:?}: tanh is off by {tanh:e}");
            // Of values up to 20, in f32.
            assert!(gelu < 3e-6, "{isa:?}: gelu is off by {gelu:e}");
            assert!(gelu_tanh < 3e-6, "{isa:?}: gelu_tanh is off by {gelu_tanh:e}");
            assert!(nans.iter().all(|y| y.is_nan()), "{isa:?}: a NaN must not become a number: {nans:?}");
        }
    }
}
