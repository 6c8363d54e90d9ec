//! From the picture of a request to the work of encoding it, with the steps of diffusers' `VaeImageProcessor`: RGB, or RGBA for
//! models of pictures with alpha, sides that are whole latents, values in [-1, 1].

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use media::{Channels, ImageFile, IsWanted, MediaError};
use vae::{EncodeOptions, HostTensor, VaeError, VaeInfo};
use wire::{DType, EncodeRequest, Picture, SampleMode, Task, Tensor, WireError};

use crate::admission::Granted;
use crate::answer::Reply;
use crate::failure::Failure;
use crate::job::{Context, Prepared, values_memory};
use crate::scheduler::Options;
use crate::tensors::{self, host_tensor};
use crate::values::{self, Kind};

/// What a model has to do for an encode.
///
/// # Errors
/// A picture that does not fit the model or has more than the limits or the memory allow, a file that is none, or a
/// model without an encoder.
pub(crate) fn prepare(request: EncodeRequest, context: &Context<'_>) -> Result<Prepared, Failure> {
    let EncodeRequest { picture, params } = request;
    let &Context { info, limits, non_finite, .. } = context;
    if !info.can_encode {
        return Err(Failure::unprocessable("this model cannot encode: its checkpoint holds a decoder only"));
    }
    let size = match &picture {
        Picture::Tensor(tensor) => {
            limits.check_tensor(&tensor.head)?;
            tensor_size(&tensor.head.shape, info)?
        }
        Picture::File(file) => file_size(file, info)?,
    };
    // Before the file is decoded: a small file may have very many pixels.
    limits.check_pictures(Task::Encode, size.batch, size.frames, size.height, size.width)?;
    let mut warnings = Vec::new();
    if let Picture::Tensor(tensor) = &picture {
        values::check(tensor, Kind::Pixels, non_finite, &mut warnings)?;
        if size.alpha == Alpha::LeftOut {
            warnings.push("the tensor is taken for RGBA, and its fourth channel is left out".to_owned());
        }
    }

    let sample_mode = match params.sample_mode {
        SampleMode::Argmax => Some(vae::SampleMode::Argmax),
        SampleMode::Sample { seed } => {
            Some(vae::SampleMode::Sample { seed: seed.unwrap_or_else(random_seed) })
        }
        SampleMode::Moments => None,
    };
    // Moments are not scaled, and only scaling makes patches.
    let patch = sample_mode.map_or(1, |_| tensors::scaling(params.scaling).patch_side(info));
    let (height, width) = size.whole_latents(info.spatial_factor, patch)?;
    let frames = size.batch * size.frames;
    let pixels = frames * height * width;
    let is_raw = sample_mode.is_none() && matches!(picture, Picture::Tensor(_));
    if is_raw && (height, width) != (size.height, size.width) {
        return Err(Failure::unprocessable(format!(
            "with `sample_mode` moments a tensor is encoded as it is, so its sides must be multiples of {}, but they are \
             {} x {}",
            info.spatial_factor, size.height, size.width
        )));
    }
    let options =
        EncodeOptions { tiling: params.tiling, framewise: params.framewise, ..EncodeOptions::default() };
    let shape = size.shape((height, width), info);
    let Granted { options, mode, forecast } = context.admission.encode(context.forecasts, &shape, options)?;
    // Of a file, its pixels in their first size and in the other, and on the way between two formats.
    let reading = match &picture {
        Picture::Tensor(_) => values_memory(&shape).saturating_mul(2),
        Picture::File(_) => {
            let bytes = size.height.saturating_mul(size.width).saturating_mul(info.out_channels);
            values_memory(&shape).saturating_add(bytes.saturating_mul(4))
        }
    };
    let read = Box::new({
        let shape = shape.clone();
        move |is_wanted: &IsWanted<'_>| for_model(picture, size, (height, width), shape, is_raw, is_wanted)
    });
    let options = Options::Encode(options);
    let reply = Reply::Latents {
        dtype: params.dtype,
        transfer: params.transfer,
        sample_mode,
        scaling: params.scaling,
    };
    Ok(Prepared { options, shape, read, reading, frames, pixels, mode, forecast, reply, warnings })
}

/// What a request wants encoded.
#[derive(Clone, Copy)]
struct Size {
    batch: usize,
    frames: usize,
    height: usize,
    width: usize,
    alpha: Alpha,
}

/// What is done with alpha.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alpha {
    /// The channels are those of the model.
    AsItIs,
    /// There is a fourth channel that the model has not, left out as Pillow's `convert("RGB")` leaves it out.
    LeftOut,
    /// The model has a fourth channel, which is opaque as Pillow's `convert("RGBA")` makes it.
    Opaque,
}

impl Size {
    /// The shape of the pixels that the model gets, of this height and width.
    fn shape(self, (height, width): (usize, usize), info: &VaeInfo) -> Vec<usize> {
        match info.temporal_factor {
            None => vec![self.batch, info.out_channels, height, width],
            Some(_) => vec![self.batch, info.out_channels, self.frames, height, width],
        }
    }

    /// Height and width, each rounded down to whole latents of so many pixels, or to whole patches of `patch` × `patch` of them.
    fn whole_latents(self, spatial_factor: usize, patch: usize) -> Result<(usize, usize), Failure> {
        let Self { height, width, .. } = self;
        let factor = spatial_factor * patch;
        if height < factor || width < factor {
            let what =
                if patch == 1 { "latent".to_owned() } else { format!("patch of {patch} x {patch} latents") };
            return Err(Failure::unprocessable(format!(
                "a picture of {width} x {height} pixels has no whole {what}, which stands for {factor} x {factor}"
            )));
        }
        Ok((height - height % factor, width - width % factor))
    }
}

fn tensor_size(shape: &[usize], info: &VaeInfo) -> Result<Size, Failure> {
    let channels = info.out_channels;
    let video = info.temporal_factor.is_some();
    let read = |channels| match *shape {
        [batch, c, frames, height, width] if video && c == channels => Some((batch, frames, height, width)),
        [c, frames, height, width] if video && c == channels => Some((1, frames, height, width)),
        // Stills, for a video model too.
        [batch, c, height, width] if c == channels => Some((batch, 1, height, width)),
        [c, height, width] if c == channels => Some((1, 1, height, width)),
        _ => None,
    };
    let other = || match Channels::new(channels)? {
        Channels::Rgb => Some((read(4)?, Alpha::LeftOut)),
        Channels::Rgba => Some((read(3)?, Alpha::Opaque)),
    };
    let (size, alpha) = match read(channels).map(|size| (size, Alpha::AsItIs)).or_else(other) {
        Some(found) => found,
        None => {
            let video = if video { format!(", [B, {channels}, F, H, W]") } else { String::new() };
            return Err(Failure::unprocessable(format!(
                "pixels of shape {shape:?} do not fit this model, which encodes [B, {channels}, H, W], \
                 [{channels}, H, W]{video}"
            )));
        }
    };
    let (batch, frames, height, width) = size;
    Ok(Size { batch, frames, height, width, alpha })
}

fn file_size(file: &Bytes, info: &VaeInfo) -> Result<Size, Failure> {
    if Channels::new(info.out_channels).is_none() {
        return Err(Failure::unprocessable(format!(
            "this model encodes {} channels, and a picture file has 3, or 4 with alpha: send a tensor",
            info.out_channels
        )));
    }
    let image = ImageFile::open(file).map_err(|error| match error {
        MediaError::UnknownFormat => {
            WireError::Body(format!("{error}, or a tensor with its `shape` and `dtype`")).into()
        }
        error => Failure::unprocessable(error.to_string()),
    })?;
    let (width, height) = image.size();
    Ok(Size { batch: 1, frames: 1, height, width, alpha: Alpha::AsItIs })
}

/// The pixels as the model takes them: `[B, C, H, W]`, or `[B, C, F, H, W]`, of height and width `to`, in [-1, 1]. The
/// values of a tensor that `is_raw` are so already, but for bytes.
fn for_model(
    picture: Picture,
    size: Size,
    to: (usize, usize),
    shape: Vec<usize>,
    is_raw: bool,
    is_wanted: &IsWanted<'_>,
) -> Result<HostTensor, VaeError> {
    let from = (size.height, size.width);
    let data = match picture {
        Picture::File(file) => {
            let input = |error: MediaError| match error {
                MediaError::Cancelled => VaeError::Cancelled,
                error => VaeError::Input(error.to_string()),
            };
            let channels = shape.get(1).and_then(|&count| Channels::new(count));
            let channels = channels.ok_or_else(|| VaeError::Input(format!("{shape:?} is no picture")))?;
            let image = ImageFile::open(&file)
                .and_then(|image| image.decode_while(channels, is_wanted))
                .map_err(input)?;
            media::planes_from_pixels(&media::resize_lanczos(image, to.1, to.0).pixels, channels)
        }
        Picture::Tensor(tensor) => {
            let is_bytes = tensor.head.dtype == DType::UInt8;
            let mut values = pixel_values(tensor)?;
            if size.alpha == Alpha::LeftOut {
                values = without_alpha(&values, size.frames * size.height * size.width);
            }
            if from != to {
                values = media::resize_nearest(&values, from, to);
            }
            if !is_raw || is_bytes {
                media::model_range(&mut values);
            }
            if size.alpha == Alpha::Opaque {
                values = with_alpha(&values, size.frames * to.0 * to.1);
            }
            values
        }
    };
    Ok(HostTensor::new(shape, data))
}

/// The values of a tensor of pixels; bytes go from 0 to 255 where other types go from 0 to 1.
fn pixel_values(tensor: Tensor) -> Result<Vec<f32>, VaeError> {
    let bytes = tensor.head.dtype == DType::UInt8;
    let mut values = host_tensor(tensor)?.data;
    if bytes {
        values.iter_mut().for_each(|value| *value /= 255.0);
    }
    Ok(values)
}

/// The first three of each four channels, of `plane` values each.
fn without_alpha(values: &[f32], plane: usize) -> Vec<f32> {
    values.chunks_exact(4 * plane).flat_map(|item| item.iter().take(3 * plane)).copied().collect()
}

/// Three channels of `plane` values each, and a fourth one that is opaque: 1, as all is in [-1, 1].
fn with_alpha(values: &[f32], plane: usize) -> Vec<f32> {
    let opaque = || std::iter::repeat_n(1.0, plane);
    values.chunks_exact(3 * plane).flat_map(|item| item.iter().copied().chain(opaque())).collect()
}

/// A seed that nobody could guess, short enough to be written down.
fn random_seed() -> u64 {
    RandomState::new().hash_one(0) >> 32
}
