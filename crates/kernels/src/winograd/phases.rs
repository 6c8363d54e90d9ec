//! What the four output phases of an upsampling convolution share.
//!
//! In one dimension, a filter `[a, b, c]` behind a nearest 2× upsampling is `[a, b + c]` for even outputs and `[a + b, c]`
//! for odd ones. At the point 1 a transformed filter is the sum of its taps, so there both are the same, and both see the
//! same transformed input: one product does for both. In two dimensions that leaves `(2 N - 1)²` products of the
//! `(2 N)²` that four separate convolutions make, 225 of 256.
//!
//! A convolution without an upsampling is phase 0 and makes all its products itself.

use super::scheme::{MAX, Scheme};

/// Where the point 1 stands among the points of every scheme.
const ONE: usize = 1;

/// How many phases a scheme's convolutions have: schemes of two taps are for those behind an upsampling.
pub(super) const fn phases<C: Scheme>() -> usize {
    if C::R == 2 { 4 } else { 1 }
}

/// One of the phases: the rows (`py`) and columns (`px`) of the output that are `2 i + py`, `2 j + px`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Phase {
    pub(super) py: usize,
    pub(super) px: usize,
}

/// Some of the `N * N` planes, in order.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    planes: [usize; MAX * MAX],
    count: usize,
}

impl Planes {
    pub(super) fn as_slice(&self) -> &[usize] {
        &self.planes[..self.count]
    }
}

impl Phase {
    /// All of them, in the order in which they must be computed.
    pub(super) fn all<C: Scheme>() -> impl Iterator<Item = Self> {
        (0..phases::<C>()).map(Self::nth)
    }

    /// The one at this place of [`Phase::all`].
    pub(super) fn nth(index: usize) -> Self {
        Self { py: index / 2, px: index % 2 }
    }

    /// Its place in [`Phase::all`].
    pub(super) fn index(self) -> usize {
        self.py * 2 + self.px
    }

    /// The planes that it makes itself; an earlier phase has made the others.
    pub(super) fn own<C: Scheme>(self) -> Planes {
        let mut own = Planes { planes: [0; MAX * MAX], count: 0 };
        for plane in 0..C::N * C::N {
            let (y, x) = (plane / C::N, plane % C::N);
            let made_before = (self.py == 1 && y == ONE) || (self.px == 1 && x == ONE);
            if !made_before {
                own.planes[own.count] = plane;
                own.count += 1;
            }
        }
        own
    }

    /// How many planes the phases before it make.
    pub(super) fn before<C: Scheme>(self) -> usize {
        Self::all::<C>().take(self.index()).map(|phase| phase.own::<C>().count).sum()
    }

    /// The plane of `M` that holds the product at `y`, `x`. Phase (0, 1) must not overwrite what phase (1, 0) needs of
    /// phase (0, 0), and keeps its row of the point 1 behind the others.
    #[inline(always)]
    pub(super) fn place<C: Scheme>(self, y: usize, x: usize) -> usize {
        if self.px == 1 && y == ONE && x != ONE { C::N * C::N + x } else { y * C::N + x }
    }
}

/// Products that all phases together make for a tile and a pair of channels.
pub(super) fn products<C: Scheme>() -> usize {
    Phase::all::<C>().map(|phase| phase.own::<C>().count).sum()
}

/// Planes of `M`.
pub(super) fn places<C: Scheme>() -> usize {
    C::N * C::N + if C::R == 2 { C::N } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::scheme::{F5x2, F6x3, F7x2};
    use super::*;

    /// Goes through the phases as the kernel does: every product is there when it is needed, and is the one that the phase
    /// would have made.
    fn check<C: Scheme>(expected: usize) {
        // What a product is made of: at the point 1 the two phases of an axis are one.
        let name = |phase: Phase, y: usize, x: usize| {
            [(y, if y == ONE { 0 } else { phase.py }), (x, if x == ONE { 0 } else { phase.px })]
        };
        let mut m = vec![None; places::<C>()];
        let mut made = 0;
        for phase in Phase::all::<C>() {
            assert_eq!(phase.before::<C>(), made);
            for &plane in phase.own::<C>().as_slice() {
                let (y, x) = (plane / C::N, plane % C::N);
                m[phase.place::<C>(y, x)] = Some(name(phase, y, x));
                made += 1;
            }
            for (y, x) in (0..C::N).flat_map(|y| (0..C::N).map(move |x| (y, x))) {
                assert_eq!(m[phase.place::<C>(y, x)], Some(name(phase, y, x)), "{phase:?} at {y}, {x}");
            }
        }
        assert_eq!((made, products::<C>()), (expected, expected));
    }

    #[test]
    fn every_phase_finds_its_products() {
        check::<F6x3>(64);
        check::<F7x2>(225);
        check::<F5x2>(121);
    }

    #[test]
    fn the_point_one_adds_up_a_filters_taps() {
        fn sums<C: Scheme>() -> bool {
            (1..C::R).all(|tap| C::G[ONE][tap] == C::G[ONE][0])
        }
        assert!(sums::<F6x3>() && sums::<F7x2>() && sums::<F5x2>());
        // No other point does.
        assert!((0..F7x2::N).filter(|&point| F7x2::G[point][1] == F7x2::G[point][0]).eq([ONE]));
    }
}
