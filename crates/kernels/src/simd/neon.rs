//! AArch64 Advanced SIMD: 32 registers of 4 lanes, a register tile of 6 × 16.
//!
//! Compiled, but not yet run on such a machine.

use std::arch::aarch64::*;

use super::{Op, Simd};
use crate::gemm::{Tile, microkernel};

/// The proof that the processor has Advanced SIMD.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

#[target_feature(enable = "neon")]
fn shell<O: Op>(simd: Neon, op: O) -> O::Output {
    op.run(simd)
}

#[inline(never)]
#[target_feature(enable = "neon")]
fn shell_apart<O: Op>(simd: Neon, op: O) -> O::Output {
    op.run(simd)
}

#[target_feature(enable = "neon")]
unsafe fn tile_shell(simd: Neon, tile: &Tile) {
    // SAFETY: the caller keeps Tile's contract.
    unsafe {
        match tile.rows {
            ..=2 => microkernel::<Neon, 2, 4>(simd, tile),
            3..=4 => microkernel::<Neon, 4, 4>(simd, tile),
            _ => microkernel::<Neon, 6, 4>(simd, tile),
        }
    }
}

// SAFETY: a value of Neon exists only where the feature was detected, which is all that the arithmetic intrinsics
// ask for; loads and stores forward the caller's promise about the pointer.
unsafe impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const MR: usize = 6;
    const NR: usize = 16;

    #[inline(always)]
    fn run<O: Op>(self, op: O) -> O::Output {
        // SAFETY: self proves the feature.
        unsafe { shell(self, op) }
    }
    #[inline(always)]
    fn apart<O: Op>(self, op: O) -> O::Output {
        // SAFETY: self proves the feature.
        unsafe { shell_apart(self, op) }
    }
    #[inline(always)]
    unsafe fn tile(self, tile: &Tile) {
        // SAFETY: self proves the feature; the caller keeps Tile's contract.
        unsafe { tile_shell(self, tile) }
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vabsq_f32(a) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn exp2i(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the feature.
        unsafe {
            let n = vaddq_s32(vcvtnq_s32_f32(a), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(n))
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: self proves the feature; the caller says the pointer is good.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: self proves the feature; the caller says the pointer is good.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: the caller says the pointer is good.
        let bits = unsafe { p.cast::<[u16; 4]>().read_unaligned() };
        let values = bits.map(|b| half::f16::from_bits(b).to_f32());
        // SAFETY: self proves the feature; the array has four values.
        unsafe { vld1q_f32(values.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::V) {
        let mut values = [0.0f32; 4];
        // SAFETY: self proves the feature; the array has four values.
        unsafe { vst1q_f32(values.as_mut_ptr(), v) };
        let bits = values.map(|x| half::f16::from_f32(x).to_bits());
        // SAFETY: the caller says the pointer is good.
        unsafe { p.cast::<[u16; 4]>().write_unaligned(bits) }
    }
}
