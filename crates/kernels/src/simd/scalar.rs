//! Plain Rust: the fallback, and the other half of every comparison in the tests.

use super::{Op, Simd};
use crate::gemm::{Tile, microkernel};

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const LANES: usize = 4;

#[inline(always)]
fn map(a: [f32; LANES], f: impl Fn(f32) -> f32) -> [f32; LANES] {
    a.map(f)
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: plain Rust runs everywhere.
unsafe impl Simd for Scalar {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const MR: usize = 4;
    const NR: usize = 8;

    // A shell as the others have one: wherever an instruction set is chosen, this is the last resort several times.
    #[inline(never)]
    fn run<O: Op>(self, op: O) -> O::Output {
        op.run(self)
    }
    #[inline(never)]
    fn apart<O: Op>(self, op: O) -> O::Output {
        op.run(self)
    }
    #[inline(always)]
    unsafe fn tile(self, tile: &Tile) {
        // SAFETY: the caller keeps Tile's contract.
        unsafe { microkernel::<Self, 4, 2>(self, tile) }
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction it is a slow library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2i(self, a: Self::V) -> Self::V {
        map(a, |x| f32::from_bits(((x as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller says LANES values are readable.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller says LANES values are writable.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: the caller says LANES values are readable.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|b| half::f16::from_bits(b).to_f32_const())
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::V) {
        let bits = v.map(|x| half::f16::from_f32_const(x).to_bits());
        // SAFETY: the caller says LANES values are writable.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
}
