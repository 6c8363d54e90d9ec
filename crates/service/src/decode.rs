//! From the latents of a request to the work of decoding them.

use media::IsWanted;
use vae::latents::Scaling;
use vae::{DecodeOptions, HostTensor, VaeError, VaeInfo};
use wire::{Answer, DecodeRequest, Limits, Params, Task, Tensor, TensorHead};

use crate::admission::Granted;
use crate::answer::{self, Reply};
use crate::failure::Failure;
use crate::job::{Context, Prepared, values_memory};
use crate::scheduler::Options;
use crate::tensors::{host_tensor, scaling};
use crate::values::{self, Kind};

/// What a model has to do for a decode.
///
/// # Errors
/// Latents that do not fit the model, more than the limits or the memory allow, or an answer that this model cannot give.
pub(crate) fn prepare(request: DecodeRequest, context: &Context<'_>) -> Result<Prepared, Failure> {
    let DecodeRequest { mut latents, params } = request;
    let &Context { info, limits, non_finite, .. } = context;
    // The model whose pipelines the latents come from.
    let of = context.latents_of.unwrap_or(info);
    if (of.latent_channels, of.spatial_factor, of.temporal_factor)
        != (info.latent_channels, info.spatial_factor, info.temporal_factor)
    {
        return Err(Failure::unprocessable(format!(
            "the preview of this model takes other latents than it: {} channels for {} pixels, where the model has {} for {}",
            info.latent_channels, info.spatial_factor, of.latent_channels, of.spatial_factor
        )));
    }
    limits.check_tensor(&latents.head)?;
    let mut warnings = Vec::new();
    if params.first_picture && matches!(params.answer, Answer::Image(_)) {
        latents = first_of_batch(latents, &params, of, &mut warnings)?;
    }
    let [frames, pixels] = check(&latents, &params, info, of, limits)?;
    let shape = vae::latents::arranged_shape(&latents.head.shape, of, params.height, params.width)?;
    let options =
        DecodeOptions { tiling: params.tiling, framewise: params.framewise, ..DecodeOptions::default() };
    // Shapes cost nothing to check, values a pass over them.
    let survey = values::check(&latents, Kind::Latents, non_finite, &mut warnings)?;
    let scaling = scaling(params.scaling);
    let (settled, warning) =
        vae::latents::settle(scaling, &latents.head.shape, of, params.height, params.width)?;
    if context.latents_of.is_none() {
        warnings.extend(warning);
        values::check_scaled(&survey, settled, info, non_finite)?;
    }
    let Granted { options, mode, forecast } = context.admission.decode(context.forecasts, &shape, options)?;
    let reply = Reply::Pictures(params.answer);
    let reading = values_memory(&shape);
    let of_another = context.latents_of.is_some();
    let of = of.clone();
    let read = Box::new(move |_: &IsWanted<'_>| {
        if of_another {
            let latents = host_tensor(latents)?;
            return vae::latents::of_pipeline(scaling, latents, &of, params.height, params.width);
        }
        for_model(latents, &params, settled, &of)
    });
    let options = Options::Decode(options);
    Ok(Prepared { options, shape, read, reading, frames, pixels, mode, forecast, reply, warnings })
}

/// The first item of a batch, for a client that reads one picture from an answer.
fn first_of_batch(
    latents: Tensor,
    params: &Params,
    info: &VaeInfo,
    warnings: &mut Vec<String>,
) -> Result<Tensor, Failure> {
    let shape = &latents.head.shape;
    let arranged = vae::latents::arranged_shape(shape, info, params.height, params.width)?;
    // Latents that have no batch axis are one item.
    let (Some(&batch @ 2..), Some(&length)) = (arranged.first(), shape.first()) else { return Ok(latents) };
    if length != batch {
        return Ok(latents);
    }
    warnings.push(format!(
        "the batch has {batch} pictures and this is the first: send them one by one, or use output_type=pt, or accept \
         multipart/mixed or application/zip"
    ));
    let one: Vec<_> = std::iter::once(1).chain(shape.iter().skip(1).copied()).collect();
    let head = TensorHead::new(latents.head.dtype, one)?;
    let bytes = latents.bytes.slice(..head.byte_len());
    Ok(Tensor::from_head(head, bytes)?)
}

/// Checks by the shape alone that the model can decode the latents to such an answer, and gives the number of frames and
/// of pixels that they decode to.
fn check(
    latents: &Tensor,
    params: &Params,
    info: &VaeInfo,
    of: &VaeInfo,
    limits: &Limits,
) -> Result<[usize; 2], Failure> {
    let shape = vae::latents::arranged_shape(&latents.head.shape, of, params.height, params.width)?;
    let [batch, frames, height, width] = decoded_size(&shape, info);
    limits.check_pictures(Task::Decode, batch, frames, height, width)?;
    answer::check(params.answer, info, [batch, frames], [height, width])?;
    Ok([batch * frames, batch * frames * height * width])
}

/// The latents as the model takes them, in its layout and scaled.
fn for_model(
    latents: Tensor,
    params: &Params,
    scaling: Scaling,
    info: &VaeInfo,
) -> Result<HostTensor, VaeError> {
    let mut latents = vae::latents::arrange(host_tensor(latents)?, info, params.height, params.width)?;
    scaling.apply(&mut latents, info)?;
    Ok(latents)
}

/// Batch, frames, height and width of what latents `[B, C, h, w]` or `[B, C, f, h, w]` decode to. Sizes that no
/// memory could hold come out as very large instead of wrong.
fn decoded_size(latents: &[usize], info: &VaeInfo) -> [usize; 4] {
    let (batch, frames, height, width) = match *latents {
        [batch, _, height, width] => (batch, 1, height, width),
        [batch, _, frames, height, width] => {
            let factor = info.temporal_factor.unwrap_or(1);
            (batch, (frames - 1).saturating_mul(factor).saturating_add(1), height, width)
        }
        _ => (0, 0, 0, 0),
    };
    [batch, frames, height.saturating_mul(info.spatial_factor), width.saturating_mul(info.spatial_factor)]
}

#[cfg(test)]
mod tests {
    use vae::VaeInfo;
    use wire::{Answer, DType, VideoFormat};

    use super::*;
    use crate::admission::Admission;
    use crate::config::Config;
    use crate::failure::FailureKind;
    use crate::values::NonFinite;

    #[test]
    fn usual_videos_fit_the_default_limits() {
        let info = VaeInfo {
            class_name: "Fake".to_owned(),
            engine: "none".to_owned(),
            latent_channels: 16,
            out_channels: 3,
            spatial_factor: 8,
            can_encode: true,
            temporal_factor: Some(4),
            latents: vae::latents::LatentFormat::default(),
            concluded: None,
        };
        let config = Config::default();
        let pixels_of = |[width, height, frames]: [usize; 3]| {
            let shape = vec![1, 16, (frames - 1) / 4 + 1, height / 8, width / 8];
            let bytes = vec![0; shape.iter().product()];
            let latents = Tensor::new(DType::UInt8, shape, bytes.into()).unwrap();
            let answer = Answer::Video(VideoFormat::default());
            let request = DecodeRequest { latents, params: Params::new(answer) };
            let context = Context {
                info: &info,
                latents_of: None,
                limits: &config.video_limits,
                admission: &Admission::new(&config),
                forecasts: None,
                non_finite: NonFinite::Refused,
            };
            prepare(request, &context).map(|prepared| prepared.pixels)
        };
        for [width, height, frames] in [[848, 480, 73], [960, 544, 49], [1280, 720, 129]] {
            assert_eq!(pixels_of([width, height, frames]), Ok(width * height * frames));
        }
        let error = pixels_of([1280, 720, 149]).unwrap_err();
        assert_eq!(error.kind, FailureKind::TooLarge);
        assert!(
            error.message.ends_with("allows 134217728 at most (--max-total-pixels)"),
            "{}",
            error.message
        );
    }
}
