//! x86-64 with AVX2, FMA and F16C: 16 registers of 8 lanes, a register tile of 6 × 16.

use std::arch::x86_64::*;

use super::{Op, Simd};
use crate::gemm::{Tile, microkernel};

/// The proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn shell<O: Op>(simd: Avx2, op: O) -> O::Output {
    op.run(simd)
}

#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn shell_apart<O: Op>(simd: Avx2, op: O) -> O::Output {
    op.run(simd)
}

// Not inlined: the loop is long, and one copy is enough for all kernels.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_shell(simd: Avx2, tile: &Tile) {
    // SAFETY: the caller keeps Tile's contract.
    unsafe {
        match tile.rows {
            ..=2 => microkernel::<Avx2, 2, 2>(simd, tile),
            3..=4 => microkernel::<Avx2, 4, 2>(simd, tile),
            _ => microkernel::<Avx2, 6, 2>(simd, tile),
        }
    }
}

// SAFETY: (all of this block) a value of Avx2 exists only where its features were detected, which is all that the
// arithmetic intrinsics ask for; loads and stores forward the caller's promise about the pointer.
unsafe impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const MR: usize = 6;
    const NR: usize = 16;

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
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn exp2i(self, a: Self::V) -> Self::V {
        // SAFETY: self proves the features.
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: self proves the features; the caller says the pointer is good.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: self proves the features; the caller says the pointer is good.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_past(self, p: *mut f32, v: Self::V) {
        // SAFETY: self proves the features; the caller says the pointer is good and aligned.
        unsafe { _mm256_stream_ps(p, v) }
    }
    #[inline(always)]
    fn publish(self) {
        // SAFETY: every processor with these features has SSE.
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: self proves the features; the caller says the pointer is good.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::V) {
        // SAFETY: self proves the features; the caller says the pointer is good.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
}
