//! Values that are no latents and no pixels: refused, or told of, before any work.

use vae::VaeInfo;
use wire::{Survey, Tensor};

use crate::failure::Failure;

/// What is done with values that are NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonFinite {
    /// They are taken as they are.
    Allowed,
    /// They are refused.
    Refused,
    /// They are refused, and as they came over HTTP, how they came about is said where it is known.
    RefusedOverHttp,
}

/// What a tensor of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Latents,
    Pixels,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Latents => "the latents",
            Self::Pixels => "the pixels",
        }
    }

    /// The magnitude that such values may have in any case.
    fn usual(self) -> f32 {
        match self {
            Self::Latents => 0.0,
            Self::Pixels => 1.0,
        }
    }

    /// How the first values of a body come to be nonsense, and what helps.
    fn advice(self) -> &'static str {
        match self {
            Self::Latents => {
                "most likely they are memory that was already freed, as diffusers 0.39.0 to 0.42.1 sends it for latents \
                 on a graphics card: keep `latents = latents.cpu().contiguous()` in a variable and send that, or use \
                 remote-vae's own client"
            }
            Self::Pixels => {
                "most likely they are memory that was already freed, as diffusers 0.39.0 to 0.42.1 sends it for pictures \
                 on a graphics card and for those that are not contiguous: keep `image = image.cpu().contiguous()` in a \
                 variable and send that, or use remote-vae's own client"
            }
        }
    }
}

/// Looks at the values of a tensor. What is odd but possible is told in `warnings`.
///
/// # Errors
/// [`Unprocessable`](crate::FailureKind::Unprocessable) for values that are NaN or infinite, with how many there are and where.
pub(crate) fn check(
    tensor: &Tensor,
    kind: Kind,
    non_finite: NonFinite,
    warnings: &mut Vec<String>,
) -> Result<Survey, Failure> {
    let survey = Survey::of(tensor);
    if let Some(found) = survey.non_finite(kind.name()).filter(|_| non_finite != NonFinite::Allowed) {
        let advice = if survey.starts_non_finite() && non_finite == NonFinite::RefusedOverHttp {
            kind.advice()
        } else {
            "the option --allow-non-finite lets them through"
        };
        return Err(Failure::unprocessable(format!("{found}; {advice}")));
    }
    if let Some(found) = survey.impossible_start(kind.name(), kind.usual()) {
        warnings.push(format!("{found}; {}", kind.advice()));
    }
    Ok(survey)
}

/// Checks that finite latents stay finite when they are scaled.
///
/// # Errors
/// [`Unprocessable`](crate::FailureKind::Unprocessable) that names the factor.
pub(crate) fn check_scaled(
    survey: &Survey,
    scaling: vae::latents::Scaling,
    info: &VaeInfo,
    non_finite: NonFinite,
) -> Result<(), Failure> {
    if non_finite == NonFinite::Allowed || !scaling.overflows(survey.largest(), info) {
        return Ok(());
    }
    let factor = match scaling {
        vae::latents::Scaling::Factors { scaling_factor, .. } => Some(scaling_factor),
        _ => info.latents.normalization.factors().map(|(scaling_factor, _)| scaling_factor),
    };
    let by = match factor {
        Some(factor) => format!("`scaling_factor` {factor:e}"),
        None => "the numbers of this model".to_owned(),
    };
    Err(Failure::unprocessable(format!(
        "the latents go up to {:e} and become infinite when they are scaled with {by}; the option --allow-non-finite lets \
         them through",
        survey.largest()
    )))
}
