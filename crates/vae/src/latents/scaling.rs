//! How latents are scaled.

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
    /// Scales latents `[B, C, ...]` in place, with the operations of diffusers' pipelines in their order, in f32:
    /// `latents / scaling_factor + shift_factor`, or for a configuration that has `latents_mean` and `latents_std`,
    /// `latents * latents_std / scaling_factor + latents_mean` (`StableDiffusionXLPipeline`).
    ///
    /// # Errors
    /// [`VaeError::Input`] when the caller's factors are no finite numbers or the first is zero.
    ///
    /// # Panics
    /// When `latents` has not the `C` that `info` says; `arrange` makes sure of it.
    pub fn apply(self, latents: &mut HostTensor, info: &VaeInfo) -> Result<(), VaeError> {
        match self {
            Self::Unchanged => {}
            Self::Model => match (&info.latents_mean, &info.latents_std) {
                (Some(mean), Some(std)) => {
                    assert_eq!(latents.shape[1], mean.len(), "latents are arranged before they are scaled");
                    let plane = latents.shape[2..].iter().product::<usize>().max(1);
                    for (index, values) in latents.data.chunks_exact_mut(plane).enumerate() {
                        let (mean, std) = (mean[index % mean.len()], std[index % std.len()]);
                        for x in values {
                            *x = *x * std / info.scaling_factor + mean;
                        }
                    }
                }
                _ => divide_and_shift(latents, info.scaling_factor, info.shift_factor),
            },
            Self::Factors { scaling_factor, shift_factor } => {
                check_factors(scaling_factor, shift_factor, info)?;
                divide_and_shift(latents, scaling_factor, shift_factor);
            }
        }
        Ok(())
    }

    /// The way back: scales encoded latents `[B, C, ...]` in place to what pipelines work with, with their operations
    /// in their order, in f32: `(latents - shift_factor) * scaling_factor` (`FluxImg2ImgPipeline`), or for a
    /// configuration that has `latents_mean` and `latents_std`, `(latents - latents_mean) * scaling_factor /
    /// latents_std` (`StableDiffusionXLImg2ImgPipeline`).
    ///
    /// # Errors
    /// As for [`Scaling::apply`].
    ///
    /// # Panics
    /// When `latents` has not the `C` that `info` says.
    pub fn undo(self, latents: &mut HostTensor, info: &VaeInfo) -> Result<(), VaeError> {
        match self {
            Self::Unchanged => {}
            Self::Model => match (&info.latents_mean, &info.latents_std) {
                (Some(mean), Some(std)) => {
                    assert_eq!(latents.shape[1], mean.len(), "the model gave other latents than it says");
                    let plane = latents.shape[2..].iter().product::<usize>().max(1);
                    for (index, values) in latents.data.chunks_exact_mut(plane).enumerate() {
                        let (mean, std) = (mean[index % mean.len()], std[index % std.len()]);
                        for x in values {
                            *x = (*x - mean) * info.scaling_factor / std;
                        }
                    }
                }
                _ => shift_and_multiply(latents, info.scaling_factor, info.shift_factor),
            },
            Self::Factors { scaling_factor, shift_factor } => {
                check_factors(scaling_factor, shift_factor, info)?;
                shift_and_multiply(latents, scaling_factor, shift_factor);
            }
        }
        Ok(())
    }
}

impl Scaling {
    /// Whether [`Scaling::apply`] makes a latent of this magnitude larger than any number.
    pub fn overflows(self, largest: f32, info: &VaeInfo) -> bool {
        let spread = |values: &Option<Vec<f32>>| {
            values.iter().flatten().fold(0.0_f32, |most, value| most.max(value.abs()))
        };
        let scaled = match self {
            Self::Unchanged => return false,
            Self::Factors { scaling_factor, shift_factor } => {
                largest / scaling_factor.abs() + shift_factor.unwrap_or(0.0).abs()
            }
            Self::Model => match (&info.latents_mean, &info.latents_std) {
                (mean @ Some(_), std @ Some(_)) => {
                    largest * spread(std) / info.scaling_factor.abs() + spread(mean)
                }
                _ => largest / info.scaling_factor.abs() + info.shift_factor.unwrap_or(0.0).abs(),
            },
        };
        !scaled.is_finite()
    }
}

fn check_factors(scaling_factor: f32, shift_factor: Option<f32>, info: &VaeInfo) -> Result<(), VaeError> {
    if !scaling_factor.is_finite() || scaling_factor == 0.0 {
        return Err(VaeError::Input(format!(
            "`scaling_factor` is {scaling_factor}, but latents are divided by it: send a finite number other than \
             zero, such as this model's {}",
            info.scaling_factor
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
