//! x86-64 with AVX-512F: 32 registers of 16 lanes, a register tile of 12 × 32.
//!
//! Compiled everywhere, tested only on machines that have it.

use std::arch::x86_64::*;

use super::{Op, Simd};
use crate::gemm::{Tile, microkernel};

/// The proof that the processor has AVX-512F.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

#[target_feature(enable = "avx512f")]
fn shell<O: Op>(simd: Avx512, op: O) -> O::Output {
    op.run(simd)
}

#[inline(never)]
#[target_feature(enable = "avx512f")]
fn shell_apart<O: Op>(simd: Avx512, op: O) -> O::Output {
    op.run(simd)
}

// Not inlined: the loop is long, and one copy is enough for all kernels.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn tile_shell(simd: Avx512, tile: &Tile) {
    // SAFETY: the caller keeps Tile's contract.
    unsafe {
        match tile.rows {
            ..=2 => microkernel::<Avx512, 2, 2>(simd, tile),
            3..=4 => microkernel::<Avx512, 4, 2>(simd, tile),
            5..=6 => microkernel::<Avx512, 6, 2>(simd, tile),
            7..=8 => microkernel::<Avx512, 8, 2>(simd, tile),
            9..=10 => microkernel::<Avx512, 10, 2>(simd, tile),
            _ => microkernel::<Avx512, 12, 2>(simd, tile),
        }
    }
}

// SAFETY: (all of this block) a value of Avx512 exists only where its features were detected, which is all that the
// arithmetic intrinsics ask for; loads and stores forward the caller's promise about the pointer.
unsafe impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const MR: usize = 12;
    const NR: usize = 32;

    #[inline(always)]
    fn run<O: Op>(self, op: O) -> O::Output {
        // SAFETY: self proves the features.
        unsafe { shell(self, op) }
    }
    #[inline(always)]
    fn apart<O: Op>(self, op: O) -> O::Output {
        // SAFETY: self proves the features.
        unsafe { shell_apart(self, op) }
    }
    #[inline(always)]
    unsafe fn tile(self, tile: &Tile) {
        // SAFETY: self proves the features; the caller keeps Tile's contract.
        unsafe { tile_shell(self, tile) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm512_roundscale_ps::<0>(a) }
    }
    #[inline(always)]
    fn exp2i(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: self proves the features; the caller says the pointer is good.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: self proves the features; the caller says the pointer is good.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_past(self, p: *mut f32, v: Self::V) {
        // SAFETY: self proves the features; the caller says the pointer is good and aligned.
        unsafe { _mm512_stream_ps(p, v) }
    }
    #[inline(always)]
    fn publish(self) {
        // SAFETY: every processor with these features has SSE.
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: self proves the features; the caller says the pointer is good.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::V) {
        // SAFETY: self proves the features; the caller says the pointer is good.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    /// A division takes as long as the rest of it, so an estimate of the reciprocal is refined instead: one step makes
    /// its 14 bits 28.
    #[inline(always)]
    fn silu(self, x: Self::V) -> Self::V {
        let t = self.min(self.mul(x, self.splat(-std::f32::consts::LOG2_E)), self.splat(126.0));
        let n = self.round(t);
        let p = self.exp2_fraction(self.sub(t, n));
        let one = self.splat(1.0);
        // SAFETY: self proves the features.
        unsafe {
            let d = _mm512_add_ps(_mm512_scalef_ps(p, n), one);
            let r = _mm512_rcp14_ps(d);
            let r = _mm512_fmadd_ps(_mm512_fnmadd_ps(d, r, one), r, r);
            _mm512_mul_ps(x, r)
        }
    }
}
