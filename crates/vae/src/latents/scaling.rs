//! How latents are scaled.

use super::{Normalization, layout};
use crate::{HostTensor, VaeError, VaeInfo};

/// How latents become what the decoder was trained on. Which of these a request asks for is the caller's to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all: the caller has done it.
    Unchanged,
    /// By the model's own configuration.
    Model,
    /// By the caller's factors.
    Factors {
        /// Divides the latents.
        scaling_factor: f32,
        /// Added after the division.
        shift_factor: Option<f32>,
    },
}

impl Scaling {
    /// Scales latents `[B, C, ...]` in place, with the operations of diffusers' pipelines in their order, in f32: what
    /// [`Normalization`] says, or with the caller's factors `latents / scaling_factor + shift_factor`.
    ///
    /// # Errors
    /// [`VaeError::Input`] when the caller's factors are no finite numbers or the first is zero.
    ///
    /// # Panics
    /// When `latents` has not the `C` that `info` says; `arrange` makes sure of it.
    pub fn apply(self, latents: &mut HostTensor, info: &VaeInfo) -> Result<(), VaeError> {
        match self {
            Self::Unchanged => {}
            Self::Model => match &info.latents.normalization {
                Normalization::Factors { scaling_factor, shift_factor } => {
                    divide_and_shift(latents, *scaling_factor, *shift_factor);
                }
                Normalization::MeanStd { mean, std, scaling_factor } => {
                    by_channel(latents, mean, std, |x, mean, std| x * std / scaling_factor + mean);
                }
                Normalization::BatchNorm { running_mean, running_var, eps, .. } => {
                    let std: Vec<_> = running_var.iter().map(|variance| (variance + eps).sqrt()).collect();
                    by_patch(latents, info, running_mean, &std, |x, mean, std| x * std + mean);
                }
                Normalization::Identity => {}
            },
            Self::Factors { scaling_factor, shift_factor } => {
                check_factors(scaling_factor, shift_factor, info)?;
                divide_and_shift(latents, scaling_factor, shift_factor);
            }
        }
        Ok(())
    }

    /// The way back: scales encoded latents `[B, C, ...]` to what pipelines work with, with their operations
    /// in their order, in f32: `(latents - shift_factor) * scaling_factor` (`FluxImg2ImgPipeline`), for a
    /// configuration that has `latents_mean` and `latents_std` `(latents - latents_mean) * scaling_factor /
    /// latents_std` (`StableDiffusionXLImg2ImgPipeline`), and with statistics of patches
    /// `(latents - running_mean) / sqrt(running_var + eps)`, which gives patches `[B, 4C, h / 2, w / 2]`
    /// (`Flux2Pipeline._encode_vae_image`; a last row or column that makes no patch is left out).
    ///
    /// # Errors
    /// As for [`Scaling::apply`].
    ///
    /// # Panics
    /// When `latents` has not the `C` that `info` says.
    pub fn undo(self, latents: &mut HostTensor, info: &VaeInfo) -> Result<(), VaeError> {
        match self {
            Self::Unchanged => {}
            Self::Model => match &info.latents.normalization {
                Normalization::Factors { scaling_factor, shift_factor } => {
                    shift_and_multiply(latents, *scaling_factor, *shift_factor);
                }
                Normalization::MeanStd { mean, std, scaling_factor } => {
                    by_channel(latents, mean, std, |x, mean, std| (x - mean) * scaling_factor / std);
                }
                Normalization::BatchNorm { running_mean, running_var, eps, plain_is_normalized } => {
                    let std: Vec<_> = running_var.iter().map(|variance| (variance + eps).sqrt()).collect();
                    by_patch(latents, info, running_mean, &std, |x, mean, std| (x - mean) / std);
                    if !plain_is_normalized {
                        *latents = layout::patch(latents, info);
                    }
                }
                Normalization::Identity => {}
            },
            Self::Factors { scaling_factor, shift_factor } => {
                check_factors(scaling_factor, shift_factor, info)?;
                shift_and_multiply(latents, scaling_factor, shift_factor);
            }
        }
        Ok(())
    }

    /// Latents along a side of what [`Scaling::undo`] makes one of: 2 where it gives patches.
    pub fn patch_side(self, info: &VaeInfo) -> usize {
        match (self, &info.latents.normalization) {
            (Self::Model, Normalization::BatchNorm { plain_is_normalized: false, .. }) => 2,
            _ => 1,
        }
    }

    /// Whether [`Scaling::apply`] makes a latent of this magnitude larger than any number.
    pub fn overflows(self, largest: f32, info: &VaeInfo) -> bool {
        let most = |values: &[f32]| values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let factors = |scaling_factor: f32, shift_factor: Option<f32>| {
            largest / scaling_factor.abs() + shift_factor.unwrap_or(0.0).abs()
        };
        let scaled = match (self, &info.latents.normalization) {
            (Self::Unchanged, _) | (Self::Model, Normalization::Identity) => return false,
            (Self::Factors { scaling_factor, shift_factor }, _)
            | (Self::Model, &Normalization::Factors { scaling_factor, shift_factor }) => {
                factors(scaling_factor, shift_factor)
            }
            (Self::Model, Normalization::MeanStd { mean, std, scaling_factor }) => {
                largest * most(std) / scaling_factor.abs() + most(mean)
            }
            (Self::Model, Normalization::BatchNorm { running_mean, running_var, eps, .. }) => {
                largest * (most(running_var) + eps).sqrt() + most(running_mean)
            }
        };
        !scaled.is_finite()
    }
}

/// `change(x, mean, std)` with those of the channel, for each value of `[B, C, ...]`.
fn by_channel(latents: &mut HostTensor, mean: &[f32], std: &[f32], change: impl Fn(f32, f32, f32) -> f32) {
    assert_eq!(latents.shape[1], mean.len(), "latents are arranged before they are scaled");
    let plane = latents.shape[2..].iter().product::<usize>().max(1);
    for (index, values) in latents.data.chunks_exact_mut(plane).enumerate() {
        let (mean, std) = (mean[index % mean.len()], std[index % std.len()]);
        for x in values {
            *x = change(*x, mean, std);
        }
    }
}

/// `change(x, mean, std)` with those of the channel of a 2×2 patch, for each value of `[B, C, h, w]`.
fn by_patch(
    latents: &mut HostTensor,
    info: &VaeInfo,
    mean: &[f32],
    std: &[f32],
    change: impl Fn(f32, f32, f32) -> f32,
) {
    let channels = info.latent_channels;
    assert_eq!((latents.shape[1], mean.len()), (channels, 4 * channels), "latents are arranged before");
    let (height, width) = (latents.shape[2], latents.shape[3]);
    for (index, row) in latents.data.chunks_exact_mut(width).enumerate() {
        let (channel, y) = (index / height % channels, index % height);
        let of = [0, 1].map(|x| info.latents.tokens.index(channel, channels, [y % 2, x]));
        for (x, value) in row.iter_mut().enumerate() {
            *value = change(*value, mean[of[x % 2]], std[of[x % 2]]);
        }
    }
}

fn check_factors(scaling_factor: f32, shift_factor: Option<f32>, info: &VaeInfo) -> Result<(), VaeError> {
    if !scaling_factor.is_finite() || scaling_factor == 0.0 {
        return Err(VaeError::Input(format!(
            "`scaling_factor` is {scaling_factor}, but latents are divided by it: send a finite number other than \
             zero{}",
            info.latents
                .normalization
                .scaling_factor()
                .map_or_else(String::new, |factor| format!(", such as this model's {factor}"))
        )));
    }
    match shift_factor.filter(|shift| !shift.is_finite()) {
        Some(shift) => Err(VaeError::Input(format!("`shift_factor` is {shift}: send a finite number"))),
        None => Ok(()),
    }
}

fn shift_and_multiply(latents: &mut HostTensor, scaling_factor: f32, shift_factor: Option<f32>) {
    for x in &mut latents.data {
        *x = (*x - shift_factor.unwrap_or(0.0)) * scaling_factor;
    }
}

fn divide_and_shift(latents: &mut HostTensor, scaling_factor: f32, shift_factor: Option<f32>) {
    for x in &mut latents.data {
        *x /= scaling_factor;
        // Not `+ 0.0` when there is none: that would turn -0.0 into 0.0.
        if let Some(shift) = shift_factor {
            *x += shift;
        }
    }
}
