//! What the processor can do at best: the yardstick of the benchmarks.

use std::hint::black_box;
use std::time::Instant;

use crate::context::Context;
use crate::simd::{Op, Simd};

/// Independent sums, more than any of our processors needs to keep its multipliers busy (latency × units: 8 to 10), and
/// few enough for 16 registers.
const CHAINS: usize = 12;

/// Multiply-adds of each chain in one measurement: a few milliseconds.
const STEPS: usize = 1 << 21;

/// Nothing but multiply-adds in registers.
struct MultiplyAdds;

impl Op for MultiplyAdds {
    /// Operations done.
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let (factor, term) = (simd.splat(black_box(0.5)), simd.splat(black_box(1.0)));
        let mut sums = [simd.zero(); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.fma(*sum, factor, term);
            }
        }
        black_box(simd.sum(sums.into_iter().fold(simd.zero(), |a, b| simd.add(a, b))));
        (2 * CHAINS * STEPS * S::LANES) as f64
    }
}

impl Context {
    /// The most f32 operations a second that all threads together reach with this instruction set, measured now: a
    /// multiply-add counts as two, and no memory is touched.
    pub fn multiply_add_peak(&self) -> f64 {
        let threads = self.pool.threads();
        let measure = || {
            let done = std::sync::Mutex::new(0.0);
            let start = Instant::now();
            self.pool.run(threads, |_, _| {
                let operations = self.isa.run(MultiplyAdds);
                *done.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += operations;
            });
            let seconds = start.elapsed().as_secs_f64();
            done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) / seconds
        };
        (0..10).map(|_| measure()).fold(0.0, f64::max)
    }
}
