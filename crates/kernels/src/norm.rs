//! Normalisation as a multiplication and an addition for each channel, or for each position and channel.
//!
//! The statistics that a group norm needs were gathered while the image was written (see [`crate::sink`]), so it never reads
//! it: it becomes `x * scale[c] + shift[c]`, applied by whoever reads the image next. A norm over the channels of each position
//! reads the image once before, for two factors a position.

mod position;

use crate::arena::OutOfMemory;
use crate::context::Context;
use crate::features::{ChannelStats, Features};
pub(crate) use position::Positions;

/// Group normalisation weights.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// Groups; divides the number of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// One a channel.
    pub weight: Vec<f32>,
    /// One a channel.
    pub bias: Vec<f32>,
}

/// Normalisation over the channels of each position.
#[derive(Clone, Debug)]
pub struct ChannelNorm {
    /// What becomes of the values of a position.
    pub kind: ChannelNormKind,
    /// One a channel, or empty for ones.
    pub weight: Vec<f32>,
    /// One a channel, or empty for zeros.
    pub bias: Vec<f32>,
}

/// How the values `x` of a position are normalised, before weight and bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChannelNormKind {
    /// `x / max(‖x‖₂, eps) * sqrt(C)`: diffusers' `WanRMS_norm`, and its copies in other families.
    Length {
        /// The least length.
        eps: f64,
    },
    /// `x / sqrt(mean(x²) + eps)`: PyTorch's `RMSNorm`, and diffusers' `PerChannelRMSNorm` of LTX-Video.
    RootMeanSquare {
        /// Added to the mean of the squares.
        eps: f64,
    },
    /// `(x - mean) / sqrt(variance + eps)`: PyTorch's `LayerNorm` over the channels.
    Layer {
        /// Added to the variance.
        eps: f64,
    },
}

/// A normalisation of the input.
#[derive(Clone, Copy)]
pub enum Norm<'a> {
    /// Over groups of channels of an image or a clip.
    Group(&'a GroupNorm),
    /// Over the channels of each position.
    Channel(&'a ChannelNorm),
}

impl<'a> From<&'a GroupNorm> for Norm<'a> {
    fn from(norm: &'a GroupNorm) -> Self {
        Self::Group(norm)
    }
}

impl<'a> From<&'a ChannelNorm> for Norm<'a> {
    fn from(norm: &'a ChannelNorm) -> Self {
        Self::Channel(norm)
    }
}

/// `value * scale + shift` for each image and channel, `[batch][stride]`, of stored values or of what `positions` makes of
/// them.
pub(crate) struct Affine {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
    /// The largest magnitude that each channel of any image can have afterwards, `[stride]`.
    pub(crate) bound: Vec<f32>,
    /// Whether it normalises; otherwise it only turns stored values into true ones.
    pub(crate) normed: bool,
    /// What becomes of the true values of each position before.
    pub(crate) positions: Option<Positions>,
}

impl Affine {
    /// Turns stored values into true ones.
    pub(crate) fn units(x: &Features) -> Self {
        let mut bound = vec![0.0f32; x.stride];
        for stats in &x.stats {
            for (b, &m) in bound.iter_mut().zip(&stats.abs_max) {
                *b = b.max(m);
            }
        }
        let scale = x.unit.repeat(x.batch);
        Self { scale, shift: vec![0.0; x.batch * x.stride], bound, normed: false, positions: None }
    }

    /// The same for each of `images` images as for the first.
    fn for_each_of(mut self, images: usize) -> Self {
        for values in [&mut self.scale, &mut self.shift] {
            values.truncate(values.len() / images);
            *values = values.repeat(images);
        }
        self
    }

    /// A normalisation of `x`.
    ///
    /// # Errors
    /// When there is not enough memory for the factors of all positions.
    pub(crate) fn norm(context: &Context, x: &Features, norm: Norm<'_>) -> Result<Self, OutOfMemory> {
        match norm {
            Norm::Group(norm) => Ok(Self::group_norm(x, norm)),
            Norm::Channel(norm) => Self::channel_norm(context, x, norm),
        }
    }

    /// Group normalisation of `x`: `(x - mean) / sqrt(var + eps) * weight + bias`, variance over `H * W * C / groups`
    /// values without Bessel's correction, as PyTorch's `GroupNorm`. A clip's frames, which have statistics in common, are
    /// normalised together.
    fn group_norm(x: &Features, norm: &GroupNorm) -> Self {
        let (mut scale, mut shift) = (vec![0.0; x.batch * x.stride], vec![0.0; x.batch * x.stride]);
        let mut bound = vec![0.0f32; x.stride];
        let GroupNorm { groups, weight, bias, .. } = norm;
        assert!(
            *groups > 0 && x.channels.is_multiple_of(*groups),
            "{groups} groups of {} channels",
            x.channels
        );
        let parameters = [weight.len(), bias.len()];
        assert_eq!(parameters, [x.channels; 2], "a weight and a bias of the norm for each channel");
        let per_group = x.channels / norm.groups;
        let pixels = (x.batch * x.height * x.width / x.stats.len()) as f64;
        for (image, stats) in x.stats.iter().enumerate() {
            for group in 0..norm.groups {
                let range = group * per_group..(group + 1) * per_group;
                let mean = stats.mean[range.clone()].iter().sum::<f64>() / per_group as f64;
                let m2: f64 = range
                    .clone()
                    .map(|c| stats.m2[c] + pixels * (stats.mean[c] - mean) * (stats.mean[c] - mean))
                    .sum();
                let inverse = 1.0 / (m2 / (pixels * per_group as f64) + norm.eps).sqrt();
                for c in range {
                    let weight = f64::from(norm.weight[c]) * inverse;
                    let offset = f64::from(norm.bias[c]) - mean * weight;
                    scale[image * x.stride + c] = (weight * f64::from(x.unit[c])) as f32;
                    shift[image * x.stride + c] = offset as f32;
                    let largest = (f64::from(stats.abs_max[c]) + mean.abs()) * weight.abs()
                        + f64::from(norm.bias[c]).abs();
                    bound[c] = bound[c].max(largest as f32);
                }
            }
        }
        let affine = Self { scale, shift, bound, normed: true, positions: None };
        if x.stats.len() == x.batch { affine } else { affine.for_each_of(x.batch) }
    }

    /// Normalisation of each position of `x`.
    fn channel_norm(context: &Context, x: &Features, norm: &ChannelNorm) -> Result<Self, OutOfMemory> {
        for parameters in [&norm.weight, &norm.bias] {
            let fits = parameters.is_empty() || parameters.len() == x.channels;
            assert!(fits, "{} weights or biases of a norm of {} channels", parameters.len(), x.channels);
        }
        let padded = |values: &[f32], default: f32| {
            let mut values = if values.is_empty() { vec![default; x.channels] } else { values.to_vec() };
            values.resize(x.stride, 0.0);
            values
        };
        let (scale, shift) = (padded(&norm.weight, 1.0), padded(&norm.bias, 0.0));
        let positions = Positions::new(context, x, norm.kind)?;
        let largest = |c: usize| positions.stats.iter().fold(0.0f32, |most, s| most.max(s.abs_max[c]));
        let bound = (0..x.stride).map(|c| largest(c) * scale[c].abs() + shift[c].abs()).collect();
        let [scale, shift] = [scale, shift].map(|values| values.repeat(x.batch));
        Ok(Self { scale, shift, bound, normed: true, positions: Some(positions) })
    }

    /// The statistics of what scale and shift are applied to, and what it has to be multiplied with to be one of them.
    pub(crate) fn input<'a>(&'a self, x: &'a Features, c: usize) -> (&'a [ChannelStats], f32) {
        match &self.positions {
            Some(positions) => (&positions.stats, 1.0),
            None => (&x.stats, x.unit[c]),
        }
    }
}
