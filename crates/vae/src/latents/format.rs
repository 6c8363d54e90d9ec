//! What latents of a model look like when clients send them.

use super::Scaling;

/// How pipelines hand over the latents of a model, beside `[B, C, h, w]` or `[B, C, f, h, w]`, and by which numbers they
/// normalise them. It is data: a family makes it of its configuration and its weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatentFormat {
    /// How latents are packed into tokens, `[B, tokens, channels of a token]`.
    pub tokens: Tokens,
    /// What lies between latents as a pipeline works with them and as the model takes them.
    pub normalization: Normalization,
    /// Whether the frames of latents are layers of one picture: the first is the picture that the others were made from
    /// and is left out, and each of the others is a picture (`QwenImageLayeredPipeline`).
    pub layers: bool,
}

/// How latents are packed into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokens {
    /// Patches of 2×2 latents each, the values of a token in the order channel, row, column: `FluxPipeline`.
    #[default]
    Patches,
    /// The same in the order row, column, channel: `Ideogram4Pipeline`.
    PatchesChannelsLast,
    /// One latent each: `QwenImage21Pipeline`.
    Single,
}

/// What lies between latents as a pipeline works with them and as the model takes them.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalization {
    /// `latents / scaling_factor + shift_factor`.
    Factors {
        /// Divides the latents.
        scaling_factor: f32,
        /// Added after the division.
        shift_factor: Option<f32>,
    },
    /// `latents * std / scaling_factor + mean`, by channel.
    MeanStd {
        /// `latents_mean` of the configuration.
        mean: Vec<f32>,
        /// `latents_std` of the configuration.
        std: Vec<f32>,
        /// `scaling_factor` of the configuration; 1 for models that have none.
        scaling_factor: f32,
    },
    /// `latents * sqrt(running_var + eps) + running_mean`, by channel of 2×2 patches, with statistics of the weights
    /// (`Flux2Pipeline`). Latents that come in patches, as tokens or as `[B, 4C, h, w]`, are normalised; those of `C`
    /// channels are as the model takes them.
    BatchNorm {
        /// `bn.running_mean` of the weights, `4C` values.
        running_mean: Vec<f32>,
        /// `bn.running_var` of the weights.
        running_var: Vec<f32>,
        /// Added to the variance.
        eps: f32,
        /// Whether latents of `C` channels are normalised too (`BriaFibo2Pipeline`).
        plain_is_normalized: bool,
    },
    /// None: the model takes latents as the pipeline has them.
    Identity,
}

impl Default for Normalization {
    fn default() -> Self {
        Self::Factors { scaling_factor: 1.0, shift_factor: None }
    }
}

impl Normalization {
    /// Of a configuration with these entries.
    pub fn of_config(
        scaling_factor: f32,
        shift_factor: Option<f32>,
        mean: Option<Vec<f32>>,
        std: Option<Vec<f32>>,
    ) -> Self {
        match (mean, std) {
            (Some(mean), Some(std)) => Self::MeanStd { mean, std, scaling_factor },
            _ => Self::Factors { scaling_factor, shift_factor },
        }
    }

    /// `scaling_factor` and `shift_factor`, for a model that has no other numbers.
    pub fn factors(&self) -> Option<(f32, Option<f32>)> {
        match *self {
            Self::Factors { scaling_factor, shift_factor } => Some((scaling_factor, shift_factor)),
            _ => None,
        }
    }

    /// `scaling_factor`, for a model that has one.
    pub fn scaling_factor(&self) -> Option<f32> {
        match *self {
            Self::Factors { scaling_factor, .. } | Self::MeanStd { scaling_factor, .. } => {
                Some(scaling_factor)
            }
            _ => None,
        }
    }

    /// What is done to latents, where a client asks for `asked`: some models know from the shape what is to be done, and
    /// some have no factors. `is_patched` says whether latents come in patches. The second is what is odd about it, in one
    /// sentence.
    pub(super) fn settle(&self, asked: Scaling, is_patched: bool) -> (Scaling, Option<String>) {
        let is_factors = matches!(asked, Scaling::Factors { .. });
        match self {
            Self::Factors { .. } => (asked, None),
            Self::MeanStd { .. } => {
                let warning = "the latents were scaled by the `scaling_factor` of the request, but this model has a mean \
                               and a deviation for each channel: leave it out and send do_scaling=true";
                (asked, is_factors.then(|| warning.to_owned()))
            }
            Self::BatchNorm { plain_is_normalized, .. } => {
                let scaling =
                    if is_patched || *plain_is_normalized { Scaling::Model } else { Scaling::Unchanged };
                let warning = "`scaling_factor` is left out of account: this model normalises latents by statistics of its \
                               own";
                (scaling, is_factors.then(|| warning.to_owned()))
            }
            Self::Identity => {
                let warning = "`scaling_factor` is left out of account: this model takes latents as the pipeline has them";
                (Scaling::Unchanged, is_factors.then(|| warning.to_owned()))
            }
        }
    }
}

impl Tokens {
    /// Latents of a token along each side.
    pub(super) fn side(self) -> usize {
        match self {
            Self::Patches | Self::PatchesChannelsLast => 2,
            Self::Single => 1,
        }
    }

    /// Where in a token of `4C` values, or in the statistics of patches, the value of a channel is that is at this row and
    /// column of its patch.
    pub(super) fn index(self, channel: usize, channels: usize, [row, column]: [usize; 2]) -> usize {
        match self {
            Self::Patches => channel * 4 + row * 2 + column,
            Self::PatchesChannelsLast => (row * 2 + column) * channels + channel,
            Self::Single => channel,
        }
    }
}

/// Pipelines that share FLUX.2's autoencoder and hand over its latents in ways of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    /// `Flux2Pipeline` and `Flux2KleinPipeline`.
    Flux2,
    /// `ErnieImagePipeline`: it adds 1e-5 to the variance, whatever the configuration says.
    ErnieImage,
    /// `Ideogram4Pipeline`: the values of a patch are in the order row, column, channel.
    Ideogram4,
    /// `BriaFibo2Pipeline`: latents of 32 channels are normalised too.
    BriaFibo2,
}

impl Pipeline {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Flux2, Self::ErnieImage, Self::Ideogram4, Self::BriaFibo2];

    /// Its name, as diffusers' folder of it has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flux2 => "flux2",
            Self::ErnieImage => "ernie_image",
            Self::Ideogram4 => "ideogram4",
            Self::BriaFibo2 => "bria_fibo2",
        }
    }
}

impl LatentFormat {
    /// Takes latents as this pipeline has them.
    ///
    /// # Errors
    /// A model that normalises by other numbers; in one sentence.
    pub(crate) fn set_pipeline(&mut self, pipeline: Pipeline) -> Result<(), String> {
        let Normalization::BatchNorm { eps, plain_is_normalized, .. } = &mut self.normalization else {
            let names = Pipeline::ALL.map(Pipeline::name).join(", ");
            return Err(format!("only FLUX.2's autoencoder is shared by several pipelines ({names})"));
        };
        match pipeline {
            Pipeline::Flux2 => {}
            Pipeline::ErnieImage => *eps = 1e-5,
            Pipeline::Ideogram4 => self.tokens = Tokens::PatchesChannelsLast,
            Pipeline::BriaFibo2 => *plain_is_normalized = true,
        }
        Ok(())
    }
}
