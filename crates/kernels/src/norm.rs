//! Group normalisation as a multiplication and an addition for each channel.
//!
//! The statistics were gathered while the image was written (see [`crate::sink`]), so a norm never reads it: it
//! becomes `x * scale[c] + shift[c]`, applied by whoever reads the image next.

use crate::features::Features;

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

/// `stored value * scale + shift` for each image and channel, `[batch][stride]`.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
    /// The largest magnitude that each channel of any image can have afterwards, `[stride]`.
    pub(crate) bound: Vec<f32>,
    /// Whether it normalises; otherwise it only turns stored values into true ones.
    pub(crate) normed: bool,
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
        Self { scale: x.unit.repeat(x.batch), shift: vec![0.0; x.batch * x.stride], bound, normed: false }
    }

    /// The same for each of `images` images as for the first.
    pub(crate) fn for_each_of(mut self, images: usize) -> Self {
        for values in [&mut self.scale, &mut self.shift] {
            values.truncate(values.len() / images);
            *values = values.repeat(images);
        }
        self
    }

    /// Group normalisation of `x`: `(x - mean) / sqrt(var + eps) * weight + bias`, variance over `H * W * C / groups`
    /// values without Bessel's correction, as PyTorch's `GroupNorm`.
    pub(crate) fn group_norm(x: &Features, norm: &GroupNorm) -> Self {
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
        // A clip's frames have statistics in common.
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
        Self { scale, shift, bound, normed: true }
    }
}
