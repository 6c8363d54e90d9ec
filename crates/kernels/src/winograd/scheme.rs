//! The transforms of Winograd's minimal filtering `F(M, R)`, in one dimension.
//!
//! `M` outputs of a filter with `R` taps from `N = M + R - 1` inputs, with `N` multiplications:
//! `y = Aᵀ [(G g) ⊙ (Bᵀ d)]` (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
//! The points are 0, ±1, ±2, ±1/2, ∞ for `N = 8` and 0, ±1, ±2, ∞ for `N = 6`, or 0, ±5/8, ±3/2, ∞. `Bᵀ` depends on the
//! points only, so `F(6, 3)` and `F(7, 2)` share it.

use crate::simd::Simd;

/// The largest `N`.
pub(crate) const MAX: usize = 8;

/// One `F(M, R)`; arrays have room for `MAX`, of which the first `N` or `M` are used.
pub(crate) trait Scheme: Copy + Send + Sync + 'static {
    const N: usize;
    const M: usize;
    const R: usize;
    /// `G`, `[N][R]`.
    const G: [[f32; 3]; MAX];
    /// `Bᵀ d`.
    fn input<S: Simd>(simd: S, d: [S::V; MAX]) -> [S::V; MAX];
    /// `Aᵀ m`.
    fn output<S: Simd>(simd: S, m: [S::V; MAX]) -> [S::V; MAX];
}

/// Shorthand for the arithmetic below: `a * k + b`.
#[inline(always)]
fn mad<S: Simd>(simd: S, a: S::V, k: f32, b: S::V) -> S::V {
    simd.fma(a, simd.splat(k), b)
}

#[inline(always)]
fn input8<S: Simd>(s: S, d: [S::V; MAX], _: [f32; 2]) -> [S::V; MAX] {
    let r0 = mad(s, s.sub(d[4], d[2]), 5.25, s.sub(d[0], d[6]));
    let r7 = mad(s, s.sub(d[3], d[5]), 5.25, s.sub(d[7], d[1]));
    let t1 = mad(s, d[4], -4.25, s.add(d[2], d[6]));
    let t2 = mad(s, d[3], -4.25, s.add(d[1], d[5]));
    let t3 = mad(s, d[4], -1.25, mad(s, d[2], 0.25, d[6]));
    let t4 = mad(s, d[1], 0.5, mad(s, d[3], -2.5, s.add(d[5], d[5])));
    let t5 = mad(s, d[4], -5.0, mad(s, d[2], 4.0, d[6]));
    let t6 = mad(s, d[5], 0.5, mad(s, d[3], -2.5, s.add(d[1], d[1])));
    [r0, s.add(t1, t2), s.sub(t1, t2), s.add(t3, t4), s.sub(t3, t4), s.add(t5, t6), s.sub(t5, t6), r7]
}

/// `Σ point^i m` for i up to 6, without the point at infinity.
#[inline(always)]
fn output8<S: Simd>(s: S, m: [S::V; MAX], _: [f32; 2]) -> [S::V; MAX] {
    let (a, b) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (c, d) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    let (e, f) = (s.add(m[5], m[6]), s.sub(m[5], m[6]));
    [
        s.add(s.add(m[0], a), s.add(c, e)),
        mad(s, d, 2.0, mad(s, f, 0.5, b)),
        mad(s, c, 4.0, mad(s, e, 0.25, a)),
        mad(s, d, 8.0, mad(s, f, 0.125, b)),
        mad(s, c, 16.0, mad(s, e, 0.0625, a)),
        mad(s, d, 32.0, mad(s, f, 0.031_25, b)),
        mad(s, c, 64.0, mad(s, e, 0.015_625, a)),
        s.zero(),
    ]
}

/// For the points 0, ±a, ±b, ∞.
#[inline(always)]
fn input6<S: Simd>(s: S, d: [S::V; MAX], [a, b]: [f32; 2]) -> [S::V; MAX] {
    let (sum, product) = (a * a + b * b, a * a * b * b);
    let r0 = mad(s, d[0], product, mad(s, d[2], -sum, d[4]));
    let r5 = mad(s, d[1], product, mad(s, d[3], -sum, d[5]));
    let t1 = mad(s, d[2], -b * b, d[4]);
    let t2 = s.mul(mad(s, d[1], -b * b, d[3]), s.splat(a));
    let t3 = mad(s, d[2], -a * a, d[4]);
    let t4 = s.mul(mad(s, d[1], -a * a, d[3]), s.splat(b));
    [r0, s.add(t1, t2), s.sub(t1, t2), s.add(t3, t4), s.sub(t3, t4), r5, s.zero(), s.zero()]
}

#[inline(always)]
fn output6<S: Simd>(s: S, m: [S::V; MAX], [a, b]: [f32; 2]) -> [S::V; MAX] {
    let (p, q) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (u, v) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    let odd = |power: f32, other: f32| mad(s, v, other, s.mul(q, s.splat(power)));
    [
        s.add(m[0], s.add(p, u)),
        odd(a, b),
        mad(s, u, b * b, s.mul(p, s.splat(a * a))),
        odd(a * a * a, b * b * b),
        mad(s, u, b * b * b * b, s.mul(p, s.splat(a * a * a * a))),
        s.zero(),
        s.zero(),
        s.zero(),
    ]
}

const fn filter8(taps: usize, _: [f32; 2]) -> [[f32; 3]; MAX] {
    let rows = [(1.0, 0.0), (-2.0 / 9.0, 1.0), (-2.0 / 9.0, -1.0), (1.0 / 90.0, 2.0), (1.0 / 90.0, -2.0)];
    let halves = [(32.0 / 45.0, 0.5), (32.0 / 45.0, -0.5)];
    let all = [rows[0], rows[1], rows[2], rows[3], rows[4], halves[0], halves[1]];
    filter(all.as_slice(), taps)
}

const fn filter6(taps: usize, [a, b]: [f32; 2]) -> [[f32; 3]; MAX] {
    let (a, b) = (a as f64, b as f64);
    let (of_a, of_b) = (0.5 / (a * a * (a * a - b * b)), 0.5 / (b * b * (b * b - a * a)));
    let rows = [(1.0 / (a * a * b * b), 0.0), (of_a, a), (of_a, -a), (of_b, b), (of_b, -b)];
    filter(rows.as_slice(), taps)
}

/// Rows `factor * [1, point, point²]` and, for infinity, the last tap alone.
const fn filter(rows: &[(f64, f64)], taps: usize) -> [[f32; 3]; MAX] {
    let mut g = [[0.0; 3]; MAX];
    let mut i = 0;
    while i < rows.len() {
        let (factor, point) = rows[i];
        let mut power = factor;
        let mut t = 0;
        while t < taps {
            g[i][t] = power as f32;
            power *= point;
            t += 1;
        }
        i += 1;
    }
    g[rows.len()][taps - 1] = 1.0;
    g
}

macro_rules! scheme {
    ($(#[$doc:meta])* $name:ident $n:literal $m:literal $r:literal $filter:ident $input:ident $output:ident $points:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;
        impl Scheme for $name {
            const N: usize = $n;
            const M: usize = $m;
            const R: usize = $r;
            const G: [[f32; 3]; MAX] = $filter($r, $points);
            #[inline(always)]
            fn input<S: Simd>(simd: S, d: [S::V; MAX]) -> [S::V; MAX] {
                $input(simd, d, $points)
            }
            #[inline(always)]
            fn output<S: Simd>(simd: S, m: [S::V; MAX]) -> [S::V; MAX] {
                let mut y = $output(simd, m, $points);
                y[$m - 1] = simd.add(y[$m - 1], m[$n - 1]);
                y
            }
        }
    };
}
scheme!(/// 3 taps, 6 outputs: 5.06 times fewer multiplications in two dimensions.
    F6x3 8 6 3 filter8 input8 output8 [0.0; 2]);
scheme!(/// 2 taps, 7 outputs: 3.06 times fewer.
    F7x2 8 7 2 filter8 input8 output8 [0.0; 2]);
scheme!(/// 3 taps, 4 outputs: 4 times fewer, with an eighth of the rounding error of `F6x3`.
    F4x3 6 4 3 filter6 input6 output6 [1.0, 2.0]);
scheme!(/// 2 taps, 5 outputs: 2.78 times fewer.
    F5x2 6 5 2 filter6 input6 output6 [1.0, 2.0]);

/// Points for values of fewer bits: where each transformed input and filter is off by the same share of itself, outputs are
/// off by `sqrt(Σ A² |G|² |B|²)` over the points, which these make half as large as ±1, ±2 do (2.9 instead of 5.6 for
/// `F(4, 3)`) and few others with as few bits less. Phases share no products at them.
const NEAR: [f32; 2] = [0.625, 1.5];
scheme!(/// `F4x3` with the points of [`NEAR`].
    Near4x3 6 4 3 filter6 input6 output6 NEAR);
scheme!(/// `F5x2` with the points of [`NEAR`].
    Near5x2 6 5 2 filter6 input6 output6 NEAR);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Op};

    /// `F(M, R)` of every scheme against the sum it stands for.
    struct Check<C: Scheme>(C);
    impl<C: Scheme> Op for Check<C> {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            let value = |i: usize, k: usize| ((i * 7919 + k * 104_729) % 1000) as f32 / 500.0 - 1.0;
            let first = |v: S::V| {
                let mut lanes = [0.0f32; 16];
                // SAFETY: LANES is at most 16.
                unsafe { s.store(lanes.as_mut_ptr(), v) };
                lanes[0]
            };
            let d: [f32; MAX] = std::array::from_fn(|i| value(i, 1));
            let g: [f32; 3] = std::array::from_fn(|i| value(i, 2));
            let v = C::input(s, d.map(|x| s.splat(x)));
            let m = std::array::from_fn(|i| {
                let u: f32 = if i < C::N { (0..C::R).map(|t| C::G[i][t] * g[t]).sum() } else { 0.0 };
                s.mul(v[i], s.splat(u))
            });
            let y = C::output(s, m);
            (0..C::M)
                .map(|i| {
                    let exact: f32 = (0..C::R).map(|t| g[t] * d[i + t]).sum();
                    (first(y[i]) - exact).abs()
                })
                .fold(0.0, f32::max)
        }
    }

    #[test]
    fn every_scheme_is_the_filter_it_stands_for() {
        for isa in Isa::available() {
            assert!(isa.run(Check(F6x3)) < 2e-5, "F6x3 on {isa:?}");
            assert!(isa.run(Check(F7x2)) < 2e-5, "F7x2 on {isa:?}");
            assert!(isa.run(Check(F4x3)) < 5e-6, "F4x3 on {isa:?}");
            assert!(isa.run(Check(F5x2)) < 5e-6, "F5x2 on {isa:?}");
            assert!(isa.run(Check(Near4x3)) < 3e-6, "Near4x3 on {isa:?}");
            assert!(isa.run(Check(Near5x2)) < 3e-6, "Near5x2 on {isa:?}");
        }
    }
}
