//! In place of AMX where the architecture has nothing of the kind: the same names, and no way to get an [`Amx`].

use super::Simd;
use super::scalar::Scalar;

/// Nobody has one.
#[derive(Clone, Copy)]
pub(crate) enum Amx {}

/// A computation with tile registers.
pub(crate) trait TileOp {
    fn run(self, amx: Amx);
}

pub(crate) const ROWS: usize = 32;
pub(crate) const COLUMNS: usize = 32;
pub(crate) const DEPTH: usize = 32;
pub(crate) const PARTS: usize = DEPTH * 4;
pub(crate) const STEP: usize = DEPTH * COLUMNS * 4;

/// See the x86-64 module.
pub(crate) struct Product;

impl Product {
    pub(crate) fn new(_: &[*const u8], _: [usize; 2], _: [usize; 2], _: isize) -> Self {
        Self
    }
    pub(crate) fn ahead(&self, b: *const u8, _: usize) -> *const u8 {
        b
    }
}

impl Amx {
    pub(crate) fn new() -> Option<Self> {
        None
    }
    pub(crate) fn vectors(self) -> Scalar {
        match self {}
    }
    pub(crate) fn run(self, op: impl TileOp) {
        op.run(self)
    }
    pub(crate) unsafe fn split(self, _: [<Scalar as Simd>::V; 2], _: *mut u8) {
        match self {}
    }
    pub(crate) unsafe fn split_pairs(self, _: [<Scalar as Simd>::V; 2], _: *mut u8, _: usize) {
        match self {}
    }
    pub(crate) unsafe fn product(self, _: &Product, _: *const u8, _: *mut f32, _: *const u8) {
        match self {}
    }
}
