//! Which algorithm does a convolution, and why.
//!
//! Winograd's transforms spread a tile's largest value over the whole tile, so their rounding error goes with the
//! largest input where a direct convolution's goes with the inputs under the filter. Against a signal of a certain
//! deviation, the error of one layer is at most about
//!
//! `coefficient * sqrt(Σ n_c max_c²  /  Σ n_c var_c)`
//!
//! of the output's deviation, with `n_c` the squared norm of the weights that read channel `c`, `max_c` the largest
//! magnitude in it and `var_c` its variance. All of this is known before the layer runs: the layer before has gathered
//! it. Images with single bright spots or with channels far from zero step down to smaller tiles, then to direct
//! convolution. What two bf16 leave out of each value (see [`mod@crate::simd::amx`]) is a share of it too, so the same bound
//! holds for convolutions in tile registers, with coefficients of their own.

use crate::context::{Context, Numerics};
use crate::conv::Kernel;
use crate::features::Features;
use crate::norm::Affine;
use crate::simd::Isa;
use crate::simd::amx::Amx;

/// How a convolution is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Winograd with tiles of 8 × 8: `F(6×6, 3×3)`, or `F(7×7, 2×2)` behind an upsampling.
    Winograd6,
    /// Winograd with tiles of 6 × 6: `F(4×4, 3×3)`, or `F(5×5, 2×2)` behind an upsampling.
    Winograd4,
    /// Winograd along columns, `F(4, 3)` or `F(5, 2)`, in tiles of bf16: each value as the sum of two of them.
    WinogradTiles,
    /// Direct, in tiles of bf16: each value as the sum of two of them.
    Tiles,
    /// Direct.
    Direct,
}

impl Algorithm {
    /// For people. Behind a nearest 2× upsampling a 3×3 convolution is four of 2×2, one for each phase of the output.
    pub fn name(self, upsampled: bool) -> &'static str {
        match (self, upsampled) {
            (Self::Winograd6, false) => "Winograd F(6×6, 3×3)",
            (Self::Winograd6, true) => "4 × Winograd F(7×7, 2×2)",
            (Self::Winograd4, false) => "Winograd F(4×4, 3×3)",
            (Self::Winograd4, true) => "4 × Winograd F(5×5, 2×2)",
            (Self::WinogradTiles, false) => "Winograd F(4, 3), in bf16 tiles",
            (Self::WinogradTiles, true) => "4 × Winograd F(5, 2), in bf16 tiles",
            (Self::Tiles, false) => "direct, in bf16 tiles",
            (Self::Tiles, true) => "4 × direct 2×2, in bf16 tiles",
            (Self::Direct, _) => "direct",
        }
    }
}

/// A choice and its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The choice.
    pub algorithm: Algorithm,
    /// One sentence.
    pub reason: &'static str,
}

impl Plan {
    /// Of a convolution that will not run.
    pub(crate) fn without_memory() -> Self {
        Self { algorithm: Algorithm::Direct, reason: "there is not enough memory to look at the input" }
    }
}

/// Fewer channels than this leave most of a register tile idle in the Winograd domain, where only the transforms
/// would be left.
const FEW_CHANNELS: usize = 16;

/// The error of one layer that is allowed, in deviations of its output.
const TOLERANCE: f64 = 1e-3;

/// Largest errors seen, in deviations of the output, for inputs whose largest magnitude is one deviation; the tests
/// hold them.
const COEFFICIENT_6: f64 = 4.5e-5;
const COEFFICIENT_4: f64 = 1e-5;

/// The same in bf16 tiles.
const COEFFICIENT_WINOGRAD_TILES: f64 = 6e-5;
const COEFFICIENT_TILES: f64 = 2.5e-5;

/// Which algorithms there are for a kind of convolution, besides a direct one.
#[derive(Clone, Copy)]
pub(crate) struct Kinds {
    /// Winograd's filtering: for 3×3 kernels with stride 1 that keep the size.
    pub(crate) winograd: bool,
    /// bf16 tiles, on a processor with AMX.
    pub(crate) tiles: bool,
}

/// Chooses for an input: images, or the frames of a clip, which have statistics in common.
pub(crate) fn choose(
    context: &Context,
    conv: &Kernel<'_>,
    kinds: Kinds,
    x: &Features,
    affine: Option<&Affine>,
) -> Plan {
    let plan = |algorithm, reason| Plan { algorithm, reason };
    if context.numerics == Numerics::Strict {
        return plan(Algorithm::Direct, "strict numerics were asked for");
    }
    if conv.out_channels < FEW_CHANNELS || conv.in_channels < FEW_CHANNELS {
        return plan(Algorithm::Direct, "too few channels to gain from fewer multiplications");
    }
    if conv.groups > 1 {
        return plan(
            Algorithm::Direct,
            "groups of channels: each sees too few to gain from fewer multiplications",
        );
    }
    let tiles = kinds.tiles && has_tiles(context);
    if !kinds.winograd && !tiles {
        return plan(Algorithm::Direct, "Winograd's filtering is for 3×3 kernels with stride 1");
    }
    let most = if tiles { COEFFICIENT_WINOGRAD_TILES } else { COEFFICIENT_6 };
    let peak = peak(x, affine, most, || squared_norms(context, conv));
    if tiles && kinds.winograd && COEFFICIENT_WINOGRAD_TILES * peak <= TOLERANCE {
        return plan(Algorithm::WinogradTiles, "two bf16 for each value are exact enough, and the fastest");
    }
    if tiles && COEFFICIENT_TILES * peak <= TOLERANCE {
        let reason = if kinds.winograd {
            "bright spots or offsets in the input: no filtering, but two bf16 for each value are exact enough"
        } else {
            "two bf16 for each value are exact enough, and the fastest"
        };
        return plan(Algorithm::Tiles, reason);
    }
    if !kinds.winograd {
        return plan(
            Algorithm::Direct,
            "bright spots or offsets in the input: two bf16 would not be exact enough",
        );
    }
    if COEFFICIENT_6 * peak <= TOLERANCE {
        plan(Algorithm::Winograd6, "the fewest multiplications")
    } else if COEFFICIENT_4 * peak <= TOLERANCE {
        plan(Algorithm::Winograd4, "bright spots or offsets in the input: smaller tiles lose fewer bits")
    } else {
        plan(
            Algorithm::Direct,
            "extreme spots or offsets in the input: only a direct convolution keeps the bits",
        )
    }
}

/// Whether this machine and these numerics have bf16 tiles.
fn has_tiles(context: &Context) -> bool {
    context.isa == Isa::Amx && context.numerics == Numerics::Fast && Amx::new().is_some()
}

/// Whether projections of all channels of `x`, normalised, are exact enough in bf16 tiles.
pub(crate) fn tiles_are_exact(context: &Context, x: &Features, affine: &Affine) -> bool {
    let alike = || vec![1.0; x.channels];
    has_tiles(context) && COEFFICIENT_TILES * peak(x, Some(affine), COEFFICIENT_TILES, alike) <= TOLERANCE
}

/// `sqrt(Σ n_c max_c² / Σ n_c var_c)` of the input as the convolution sees it, for the worst image.
///
/// Where `coefficient` times it is within the tolerance for weights that read all channels alike, that is the answer: most layers
/// are far from the limit whatever their weights are, which saves reading them.
///
/// SiLU is left out: it makes nothing larger, and takes from the deviation at most about as much as from the peak.
fn peak(x: &Features, affine: Option<&Affine>, coefficient: f64, norms: impl FnOnce() -> Vec<f64>) -> f64 {
    let statistics = affine.map_or(x.stats.as_slice(), |affine| affine.input(x, 0).0);
    // Values of each channel that each of them is of.
    let pixels = (x.batch * x.height * x.width / statistics.len()) as f64;
    let normed = affine.filter(|a| a.normed);
    let ratio = |norms: &dyn Fn(usize) -> f64| {
        let mut worst = 0.0f64;
        for (image, stats) in statistics.iter().enumerate() {
            let (mut largest, mut variance) = (0.0, 0.0);
            for c in 0..x.channels {
                let deviation = (stats.m2[c] / pixels).sqrt();
                let max = f64::from(stats.abs_max[c]);
                let (max, deviation) = match normed {
                    Some(affine) => {
                        let at = image * x.stride + c;
                        let scale = f64::from(affine.scale[at] / affine.input(x, c).1);
                        let shift = f64::from(affine.shift[at]);
                        // The value furthest from zero has one sign or the other; the mean says which is likelier.
                        let sign = if stats.mean[c] < 0.0 { -1.0 } else { 1.0 };
                        ((sign * max * scale + shift).abs(), deviation * scale.abs())
                    }
                    None => (max, deviation),
                };
                largest += norms(c) * max * max;
                variance += norms(c) * deviation * deviation;
            }
            // A constant image has no signal to lose.
            if variance > 0.0 {
                worst = worst.max((largest / variance).sqrt());
            }
        }
        worst
    };
    let unweighted = ratio(&|_| 1.0);
    if coefficient * unweighted <= TOLERANCE {
        return unweighted;
    }
    let norms = norms();
    ratio(&|c| norms[c])
}

/// The squared norm of the weights that read each input channel.
fn squared_norms(context: &Context, conv: &Kernel<'_>) -> Vec<f64> {
    let taps = conv.taps;
    let total = std::sync::Mutex::new(vec![0.0; conv.in_channels]);
    const ROWS: usize = 32;
    context.pool.run(conv.out_channels.div_ceil(ROWS), |_, block| {
        let mut row = vec![0.0f32; conv.in_channels * taps];
        let mut sums = vec![0.0; conv.in_channels];
        for out in block * ROWS..((block + 1) * ROWS).min(conv.out_channels) {
            conv.weight.read(out * row.len(), &mut row);
            for (sum, weights) in sums.iter_mut().zip(row.chunks_exact(taps)) {
                *sum += weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
            }
        }
        let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        total.iter_mut().zip(&sums).for_each(|(t, s)| *t += s);
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
