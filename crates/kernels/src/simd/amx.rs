//! x86-64 with AMX: products of bf16 matrices in tile registers, summed up in f32. Everything else is AVX-512's.
//!
//! A value is taken apart into two bf16 of 8 bits each, `x = high + low`, which hold 16 bits of it. Of the four products of such
//! parts the one of the two lows is no larger than what rounding has left out, and is left out too; the other three are exact
//! in f32. So a multiply-add loses 2⁻¹⁸ of its product in the mean and 2⁻¹⁵ at most, and is five times faster than AVX-512's.
//!
//! The intrinsics are not in stable Rust yet, so the instructions are written out. The compiler itself uses no tile registers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::avx512::Avx512;

/// The proof that the processor has AMX for bf16, and that the system lets this process use it.
#[derive(Clone, Copy)]
pub(crate) struct Amx(Avx512);

/// A computation with tile registers, or with the instructions on bf16 that come with them; `run` is marked
/// `#[inline(always)]`.
pub(crate) trait TileOp {
    fn run(self, amx: Amx);
}

/// Rows and columns of a product's result.
pub(crate) const ROWS: usize = 32;
pub(crate) const COLUMNS: usize = 32;
/// Values of a row that one step multiplies: with both their parts 128 bytes, the 32 high ones first.
pub(crate) const DEPTH: usize = 32;
/// Bytes of the parts of [`DEPTH`] values.
pub(crate) const PARTS: usize = DEPTH * 4;
/// Bytes of the right-hand side of one step: for high and low in turn, for each half of the columns, `[k / 2][column][k % 2]`.
pub(crate) const STEP: usize = DEPTH * COLUMNS * 4;
/// Bytes of a tile register.
const TILE: usize = 1024;
/// Bytes that each step brings into the second-level cache.
const AHEAD: usize = STEP / 8;

/// `C[32 × 32] = Σ A · B`, over `starts`, then over `chunks` of [`DEPTH`] values, then over `taps`.
///
/// # Safety contract of whoever runs it
/// * for each start `s`, chunk `c`, tap `t` and each of the 16 rows `r` of both halves `h` of the rows, the
///   [`PARTS`] bytes at `s + c * PARTS + t * tap + h * second + r * row` are readable;
/// * `b` is readable for [`STEP`] bytes for each of these steps;
/// * `c` is writable for 32 rows of 32 values, by this thread alone.
pub(crate) struct Product<'a> {
    chunks: usize,
    taps: usize,
    tap: usize,
    second: isize,
    starts: &'a [*const u8],
    /// Behind the last of them.
    end: *const *const u8,
    row: usize,
}

impl<'a> Product<'a> {
    /// All strides in bytes: from a row to the next, from a tap to the next, from the first 16 rows to the others.
    pub(crate) fn new(
        starts: &'a [*const u8],
        [chunks, taps]: [usize; 2],
        [row, tap]: [usize; 2],
        second: isize,
    ) -> Self {
        assert!(!starts.is_empty() && chunks > 0 && taps > 0);
        Self { chunks, taps, tap, second, starts, end: starts.as_ptr_range().end, row }
    }

    /// Bytes of its right-hand side, a panel.
    #[inline(always)]
    fn panel(&self) -> usize {
        self.starts.len() * self.chunks * self.taps * STEP
    }

    /// What the `number`th product with the same panel `b` brings into the cache: its share of the panel behind it, so that
    /// the first few products bring in all of it.
    #[inline(always)]
    pub(crate) fn ahead(&self, b: *const u8, number: usize) -> *const u8 {
        const SHARES: usize = STEP / AHEAD;
        b.wrapping_add(self.panel() + number % SHARES * (self.panel() / SHARES))
    }
}

impl Amx {
    pub(crate) fn new() -> Option<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        let vectors = Avx512::new()?;
        USABLE
            .get_or_init(|| is_x86_feature_detected!("avx512bf16") && has_tiles() && may_use_tiles())
            .then_some(Self(vectors))
    }

    /// For everything but products.
    #[inline(always)]
    pub(crate) fn vectors(self) -> Avx512 {
        self.0
    }

    /// Runs an op with tile registers of full size.
    pub(crate) fn run(self, op: impl TileOp) {
        // SAFETY: self proves the features.
        unsafe { shell(self, op) }
    }

    /// Takes 32 values apart: their high parts go to `to`, their low ones behind them.
    ///
    /// # Safety
    /// [`PARTS`] bytes are writable at `to`.
    #[inline(always)]
    pub(crate) unsafe fn split(self, [first, second]: [__m512; 2], to: *mut u8) {
        // SAFETY: self proves the features; the rest by the caller's promise.
        unsafe {
            let high: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to.cast(), high);
            let first = _mm512_sub_ps(first, widened(_mm512_castsi512_si256(high)));
            let second = _mm512_sub_ps(second, widened(_mm512_extracti64x4_epi64::<1>(high)));
            let low: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to.add(PARTS / 2).cast(), low);
        }
    }

    /// Takes 16 pairs of values apart: their high parts go to `to`, pair by pair, their low ones `low` bytes behind them.
    ///
    /// # Safety
    /// 64 bytes are writable at `to` and `low` bytes behind it.
    #[inline(always)]
    pub(crate) unsafe fn split_pairs(self, pair: [__m512; 2], to: *mut u8, low: usize) {
        // SAFETY: self proves the features; the rest by the caller's promise.
        unsafe {
            let [a, b] = pair;
            let (high_a, high_b) = (rounded(a), rounded(b));
            _mm512_storeu_si512(to.cast(), _mm512_or_si512(_mm512_srli_epi32::<16>(high_a), high_b));
            let low_a = rounded(_mm512_sub_ps(a, _mm512_castsi512_ps(high_a)));
            let low_b = rounded(_mm512_sub_ps(b, _mm512_castsi512_ps(high_b)));
            _mm512_storeu_si512(to.add(low).cast(), _mm512_or_si512(_mm512_srli_epi32::<16>(low_a), low_b));
        }
    }

    /// Computes a product, and meanwhile brings [`AHEAD`] bytes a step from `ahead` on into the second-level cache: any
    /// address will do.
    ///
    /// # Safety
    /// As [`Product`] says; inside [`Amx::run`].
    #[inline(always)]
    pub(crate) unsafe fn product(self, product: &Product<'_>, b: *const u8, c: *mut f32, ahead: *const u8) {
        // SAFETY: the caller keeps Product's contract; a prefetch never faults. The four tiles of C stay in tmm0 to tmm3,
        // and each part of A and B that is loaded is multiplied with both of the other's that are there.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:", // starts
                "mov {chunk}, [{starts}]",
                "add {starts}, 8",
                "mov {chunks}, [{product} + {CHUNKS}]",
                "3:", // chunks
                "mov {a0}, {chunk}",
                "mov {taps}, [{product} + {TAPS}]",
                "4:", // taps
                "mov {a1}, {a0}",
                "add {a1}, [{product} + {SECOND}]",
                "tileloadd tmm4, [{a0} + {row} * 1]",
                "tileloadd tmm6, [{b} + {line} * 1]",
                "tileloadd tmm5, [{a1} + {row} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line} * 1 + {TILE}]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {line} * 1 + 2 * {TILE}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line} * 1 + 3 * {TILE}]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {row} * 1 + {PARTS} / 2]",
                "tileloadd tmm6, [{b} + {line} * 1]",
                "tileloadd tmm5, [{a1} + {row} * 1 + {PARTS} / 2]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line} * 1 + {TILE}]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "prefetcht1 [{ahead} + 128]",
                "prefetcht1 [{ahead} + 192]",
                "prefetcht1 [{ahead} + 256]",
                "prefetcht1 [{ahead} + 320]",
                "prefetcht1 [{ahead} + 384]",
                "prefetcht1 [{ahead} + 448]",
                "add {ahead}, {AHEAD}",
                "add {b}, {STEP}",
                "add {a0}, [{product} + {TAP}]",
                "dec {taps}",
                "jnz 4b",
                "add {chunk}, {PARTS}",
                "dec {chunks}",
                "jnz 3b",
                "cmp {starts}, [{product} + {END}]",
                "jne 2b",
                "shl {line}, 1",
                "tilestored [{c} + {line} * 1], tmm0",
                "tilestored [{c} + {line} * 1 + 64], tmm2",
                "tilestored [{c} + {line} * 1 + 2 * {TILE}], tmm1",
                "tilestored [{c} + {line} * 1 + 2 * {TILE} + 64], tmm3",
                product = in(reg) product,
                starts = inout(reg) product.starts.as_ptr() => _,
                row = in(reg) product.row,
                b = inout(reg) b => _,
                c = in(reg) c,
                ahead = inout(reg) ahead => _,
                line = inout(reg) 64usize => _,
                chunk = out(reg) _,
                chunks = out(reg) _,
                a0 = out(reg) _,
                a1 = out(reg) _,
                taps = out(reg) _,
                out("tmm0") _,
                out("tmm1") _,
                out("tmm2") _,
                out("tmm3") _,
                out("tmm4") _,
                out("tmm5") _,
                out("tmm6") _,
                out("tmm7") _,
                END = const std::mem::offset_of!(Product<'_>, end),
                CHUNKS = const std::mem::offset_of!(Product<'_>, chunks),
                TAPS = const std::mem::offset_of!(Product<'_>, taps),
                TAP = const std::mem::offset_of!(Product<'_>, tap),
                SECOND = const std::mem::offset_of!(Product<'_>, second),
                TILE = const TILE,
                PARTS = const PARTS,
                STEP = const STEP,
                AHEAD = const AHEAD,
                options(nostack),
            );
        }
    }
}

/// The f32 values of 16 bf16.
#[inline(always)]
unsafe fn widened(v: __m256i) -> __m512 {
    // SAFETY: whoever calls this has an [`Amx`].
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) }
}

/// The bits of f32 values that are rounded to bf16.
#[inline(always)]
unsafe fn rounded(v: __m512) -> __m512i {
    // SAFETY: whoever calls this has an [`Amx`].
    unsafe { _mm512_castps_si512(widened(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)))) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn shell(amx: Amx, op: impl TileOp) {
    /// What LDTILECFG reads ("Intel 64 and IA-32 Architectures Software Developer's Manual", volume 2).
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes_per_row: [u16; 16],
        rows: [u8; 16],
    }
    let mut whole =
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
    whole.bytes_per_row[..8].fill(64);
    whole.rows[..8].fill(16);
    // SAFETY: `amx` proves that there are tile registers; the configuration is one of palette 1, all of 16 rows of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &whole, options(nostack, readonly)) };
    op.run(amx);
    // So that the system need not keep them while other work runs.
    // SAFETY: as above.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Whether the processor has tiles, and products of bf16 in them.
fn has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
}

/// Asks Linux for the tile registers, which it gives to those that ask: they would make every process's state 8 KB larger.
/// All threads of the process may use them then.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers, and changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}
