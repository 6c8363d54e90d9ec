//! Which algorithm does a convolution, and why.

use crate::context::{Context, Numerics};
use crate::conv::Conv2d;
use crate::features::Features;
use crate::norm::Affine;

/// How a 3×3 convolution is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Winograd with tiles of 8 × 8: `F(6×6, 3×3)`, or `F(7×7, 2×2)` behind an upsampling.
    Winograd6,
    /// Winograd with tiles of 6 × 6: `F(4×4, 3×3)`, or `F(5×5, 2×2)` behind an upsampling.
    Winograd4,
    /// Direct.
    Direct,
}

/// A choice and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The choice.
    pub algorithm: Algorithm,
    /// One sentence.
    pub reason: &'static str,
}

/// Fewer output channels than this leave most of a register tile idle in the Winograd domain, where only the
/// transforms would be left.
const FEW_CHANNELS: usize = 16;

pub(crate) fn choose(
    context: &Context,
    conv: &Conv2d<'_>,
    x: &Features,
    affine: Option<&Affine>,
    upsampled: bool,
) -> Plan {
    let _ = (x, affine, upsampled);
    if context.numerics == Numerics::Strict {
        return Plan { algorithm: Algorithm::Direct, reason: "strict numerics were asked for" };
    }
    if conv.out_channels < FEW_CHANNELS || conv.in_channels < FEW_CHANNELS {
        return Plan {
            algorithm: Algorithm::Direct,
            reason: "too few channels to gain from fewer multiplications",
        };
    }
    Plan { algorithm: Algorithm::Winograd6, reason: "the fewest multiplications" }
}
