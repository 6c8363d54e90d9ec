//! Which instruction sets there are, and the choice among them at run time.

use super::{Op, Simd, scalar::Scalar};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, on every machine.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
    /// x86-64 with AVX-512F and, for products, AMX's tiles of bf16.
    Amx,
    /// AArch64's Advanced SIMD.
    Neon,
}

impl Isa {
    /// Every instruction set that this machine has, the best last.
    pub fn available() -> Vec<Isa> {
        [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Amx]
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// The best that this machine has.
    pub fn best() -> Isa {
        *Self::available().last().unwrap_or(&Isa::Scalar)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::avx512::Avx512::new().is_some(),
            Isa::Amx => super::amx::Amx::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => super::neon::Neon::new().is_some(),
            #[allow(unreachable_patterns, reason = "which arms are reachable depends on the architecture")]
            _ => false,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "AVX2+FMA",
            Isa::Avx512 => "AVX-512",
            Isa::Amx => "AMX",
            Isa::Neon => "NEON",
        }
    }

    /// Runs an op with this instruction set, or with plain Rust where the machine has it not.
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => match super::avx2::Avx2::new() {
                Some(simd) => simd.run(op),
                None => Scalar.run(op),
            },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => match super::avx512::Avx512::new() {
                Some(simd) => simd.run(op),
                None => Scalar.run(op),
            },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => match super::neon::Neon::new() {
                Some(simd) => simd.run(op),
                None => Scalar.run(op),
            },
            _ => Scalar.run(op),
        }
    }

    /// Rows and columns of the register tile.
    pub(crate) fn tile_shape(self) -> (usize, usize) {
        struct Shape;
        impl Op for Shape {
            type Output = (usize, usize);
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> (usize, usize) {
                (S::MR, S::NR)
            }
        }
        self.run(Shape)
    }
}
