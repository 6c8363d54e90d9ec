//! How a tensor holds latents, and the one layout that models take.

use super::{Normalization, Scaling};
use crate::{HostTensor, VaeError, VaeInfo};

/// Brings latents into the layout that [`Vae::decode`](crate::Vae::decode) takes.
///
/// Image models take `[B, C, h, w]`, `[C, h, w]`, the same with an axis for one frame, `[B, C, 1, h, w]` and
/// `[C, 1, h, w]`, or packed latents, `[B, tokens, 4C]` as of Flux or `[B, tokens, C]` as of Qwen-Image 2.1
/// ([`Tokens`](super::Tokens)); models that normalise patches take these as `[B, 4C, h, w]` and `[4C, h, w]` too; models of
/// layers take `[B, C, layers + 1, h, w]` and as many tokens. Video models take `[B, C, f, h, w]`, `[C, f, h, w]` or the latents
/// of a picture, `[B, C, h, w]`. The result always has its batch axis, and the one of frames for video models only.
///
/// `height` and `width` are the picture's size in pixels. Packed latents need both; other layouts say their own size,
/// and there both are ignored, because clients send wrong ones.
///
/// A 3-D tensor is packed when its last axis is that of a token and `height` and `width` ask for as many tokens as it has;
/// otherwise it is an image latent without its batch axis when its first axis is `C`.
///
/// # Errors
/// [`VaeError::Input`] when the shape fits no layout; the message names every possible reading.
pub fn arrange(
    mut latents: HostTensor,
    info: &VaeInfo,
    height: Option<usize>,
    width: Option<usize>,
) -> Result<HostTensor, VaeError> {
    let layout = layout(&latents.shape, info, height, width)?;
    match layout {
        Layout::Packed { layers, grid } => {
            let unpacked = unpack(&latents, info, layers, grid);
            Ok(if layers > 1 { without_first(unpacked) } else { unpacked })
        }
        Layout::Patched { .. } => Ok(unpatch(&latents, info)),
        Layout::Layers { .. } => Ok(without_first(latents)),
        Layout::Plain { shape } => {
            latents.shape = shape;
            Ok(latents)
        }
    }
}

/// The shape that [`arrange`] gives to latents of `shape`, known before their values are there.
///
/// # Errors
/// As for [`arrange`].
pub fn arranged_shape(
    shape: &[usize],
    info: &VaeInfo,
    height: Option<usize>,
    width: Option<usize>,
) -> Result<Vec<usize>, VaeError> {
    let channels = info.latent_channels;
    Ok(match layout(shape, info, height, width)? {
        Layout::Plain { shape } => shape,
        Layout::Packed { layers, grid: [rows, columns] } => {
            let side = info.latents.tokens.side();
            let pictures = shape[0].saturating_mul(layers.saturating_sub(1).max(1));
            vec![pictures, channels, side * rows, side * columns]
        }
        Layout::Patched { batch, size: [rows, columns] } => vec![batch, channels, 2 * rows, 2 * columns],
        Layout::Layers { batch, layers, size: [height, width] } => {
            vec![batch.saturating_mul(layers - 1), channels, height, width]
        }
    })
}

/// What is done to the values of latents of `shape` where a client asks for `asked`: of some models the shape tells, and some
/// have no factors. The second is what is odd about the request, in one sentence.
///
/// # Errors
/// As for [`arrange`].
pub fn settle(
    asked: Scaling,
    shape: &[usize],
    info: &VaeInfo,
    height: Option<usize>,
    width: Option<usize>,
) -> Result<(Scaling, Option<String>), VaeError> {
    let is_patched =
        matches!(layout(shape, info, height, width)?, Layout::Packed { .. } | Layout::Patched { .. });
    Ok(info.latents.normalization.settle(asked, is_patched))
}

/// Latents as the pipelines of a model work with them, in the layout that [`arrange`] gives: what other models of the same
/// latents take that have no normalisation of their own, as tiny autoencoders. `asked` is what a client asks for.
///
/// # Errors
/// As for [`arrange`].
pub fn of_pipeline(
    asked: Scaling,
    latents: HostTensor,
    info: &VaeInfo,
    height: Option<usize>,
    width: Option<usize>,
) -> Result<HostTensor, VaeError> {
    let (scaling, _) = settle(asked, &latents.shape, info, height, width)?;
    let mut latents = arrange(latents, info, height, width)?;
    // Who does not want them scaled sends what the model takes.
    if scaling == Scaling::Unchanged {
        Scaling::Model.undo(&mut latents, info)?;
        if latents.shape[1] != info.latent_channels {
            latents = unpatch(&latents, info);
        }
    }
    Ok(latents)
}

/// How a tensor holds latents.
enum Layout {
    /// In the model's order: only axes of length 1 are missing or too many, and the shape is this one.
    Plain { shape: Vec<usize> },
    /// Rows and columns of tokens, for each of so many layers; one where there are none.
    Packed { layers: usize, grid: [usize; 2] },
    /// Patches of 2×2 latents as channels.
    Patched { batch: usize, size: [usize; 2] },
    /// Pictures, one behind the other as frames, after one that is none of them.
    Layers { batch: usize, layers: usize, size: [usize; 2] },
}

fn layout(
    shape: &[usize],
    info: &VaeInfo,
    height: Option<usize>,
    width: Option<usize>,
) -> Result<Layout, VaeError> {
    let channels = info.latent_channels;
    let is_video = info.temporal_factor.is_some();
    if shape.contains(&0) {
        return Err(VaeError::Input(format!("the latents are empty: their shape is {shape:?}")));
    }
    let plain = |shape: &[usize]| Ok(Layout::Plain { shape: shape.to_vec() });
    let patches = patches(info);
    match (is_video, shape) {
        (false, &[_, c, _, _]) | (true, &[_, c, _, _, _]) if c == channels => return plain(shape),
        (false, &[batch, c, h, w] | &[batch, c, 1, h, w]) if c == patches => {
            return Ok(Layout::Patched { batch, size: [h, w] });
        }
        (false, &[first, tokens, last]) => return layout_3d([first, tokens, last], info, height.zip(width)),
        // One frame of a video is a picture.
        (false, &[batch, c, 1, height, width]) if c == channels => {
            return plain(&[batch, c, height, width]);
        }
        (false, &[c, 1, height, width]) if c == channels => return plain(&[1, c, height, width]),
        (false, &[batch, c, layers, height, width]) if c == channels && info.latents.layers => {
            return Ok(Layout::Layers { batch, layers, size: [height, width] });
        }
        (false, &[c, layers, height, width]) if c == channels && info.latents.layers => {
            return Ok(Layout::Layers { batch: 1, layers, size: [height, width] });
        }
        (true, &[c, frames, height, width]) if c == channels => {
            return plain(&[1, c, frames, height, width]);
        }
        // A picture is a video of one frame.
        (true, &[batch, c, height, width]) if c == channels => return plain(&[batch, c, 1, height, width]),
        _ => {}
    }
    let expected = match (is_video, patches) {
        (true, _) => format!("[B, {channels}, f, h, w]"),
        (false, 0) => format!("[B, {channels}, h, w]"),
        (false, patches) => {
            format!(
                "[B, {channels}, h, w], or normalised patches, [B, {patches}, h, w] or [B, tokens, {patches}]"
            )
        }
    };
    Err(VaeError::Input(format!("latents of shape {shape:?} do not fit this model, which takes {expected}")))
}

/// Channels of latents that come in patches; 0 for a model that takes none.
fn patches(info: &VaeInfo) -> usize {
    match info.latents.normalization {
        Normalization::BatchNorm { .. } => 4 * info.latent_channels,
        _ => 0,
    }
}

/// The two readings of a 3-D tensor for an image model; `size` is the picture's height and width in pixels.
fn layout_3d(
    [first, tokens, last]: [usize; 3],
    info: &VaeInfo,
    size: Option<(usize, usize)>,
) -> Result<Layout, VaeError> {
    let channels = info.latent_channels;
    let side = info.latents.tokens.side();
    let of_token = side * side * channels;
    // The latent grid, as in FluxPipeline._unpack_latents and in QwenImage21Pipeline's: whole pairs of latents only.
    let pair = 2 * info.spatial_factor;
    let grid = size.map(|(height, width)| [height / pair * (2 / side), width / pair * (2 / side)]);
    let packed = match grid {
        _ if last != of_token => {
            format!("packed latents [B, tokens, {of_token}], but its last axis is {last}")
        }
        None => format!("packed latents [B, tokens, {last}], but these need `height` and `width` in pixels"),
        Some([rows, columns]) => {
            let of_layer = rows.checked_mul(columns).filter(|&count| count > 0);
            match of_layer.map(|count| (tokens / count, tokens % count)) {
                Some((1, 0)) => return Ok(Layout::Packed { layers: 1, grid: [rows, columns] }),
                Some((layers, 0)) if info.latents.layers => {
                    return Ok(Layout::Packed { layers, grid: [rows, columns] });
                }
                _ => format!(
                    "packed latents [B, tokens, {last}], but `height` and `width` ask for {rows} x {columns} tokens and \
                     there are {tokens}"
                ),
            }
        }
    };
    if first == channels {
        return Ok(Layout::Plain { shape: vec![1, first, tokens, last] });
    }
    if first == patches(info) {
        return Ok(Layout::Patched { batch: 1, size: [tokens, last] });
    }
    Err(VaeError::Input(format!(
        "latents of shape {:?} can be read in two ways and fit neither: {packed}; or one image [{channels}, h, w], \
         but its first axis is {first}",
        [first, tokens, last]
    )))
}

/// `[B, layers * rows * columns, values of a token]` to `[B, C, layers, height, width]`, without the axis of layers where there
/// is one: `FluxPipeline._unpack_latents`, and what other pipelines have for it.
fn unpack(packed: &HostTensor, info: &VaeInfo, layers: usize, [rows, columns]: [usize; 2]) -> HostTensor {
    let (tokens, channels) = (info.latents.tokens, info.latent_channels);
    let side = tokens.side();
    let (batch, [height, width]) = (packed.shape[0], [side * rows, side * columns]);
    let mut data = vec![0.0; packed.data.len()];
    for (index, token) in packed.data.chunks_exact(packed.shape[2]).enumerate() {
        let (picture, row, column) = (index / (rows * columns), index / columns % rows, index % columns);
        let (image, layer) = (picture / layers, picture % layers);
        for channel in 0..channels {
            let plane = (image * channels + channel) * layers + layer;
            for y in 0..side {
                let start = (plane * height + side * row + y) * width + side * column;
                for x in 0..side {
                    data[start + x] = token[tokens.index(channel, channels, [y, x])];
                }
            }
        }
    }
    let shape = match layers {
        1 => vec![batch, channels, height, width],
        _ => vec![batch, channels, layers, height, width],
    };
    HostTensor::new(shape, data)
}

/// `[B, 4C, h, w]` to `[B, C, 2h, 2w]`: `Flux2Pipeline._unpatchify_latents`.
fn unpatch(patched: &HostTensor, info: &VaeInfo) -> HostTensor {
    let (tokens, channels) = (info.latents.tokens, info.latent_channels);
    let [.., rows, columns] = patched.shape[..] else { return patched.clone() };
    let batch = patched.data.len() / (4 * channels * rows * columns);
    let mut data = vec![0.0; patched.data.len()];
    for (image, channel, y) in positions(batch, channels, 2 * rows) {
        let start = ((image * channels + channel) * 2 * rows + y) * 2 * columns;
        for x in 0..2 * columns {
            let from = tokens.index(channel, channels, [y % 2, x % 2]);
            data[start + x] = patched.data[((image * 4 * channels + from) * rows + y / 2) * columns + x / 2];
        }
    }
    HostTensor::new(vec![batch, channels, 2 * rows, 2 * columns], data)
}

/// The way back: `[B, C, 2h, 2w]` to `[B, 4C, h, w]`, `Flux2Pipeline._patchify_latents`.
pub(super) fn patch(latents: &HostTensor, info: &VaeInfo) -> HostTensor {
    let (tokens, channels) = (info.latents.tokens, info.latent_channels);
    let [batch, _, height, width] = latents.shape[..] else { return latents.clone() };
    let (rows, columns) = (height / 2, width / 2);
    let mut data = vec![0.0; batch * 4 * channels * rows * columns];
    for (image, channel, y) in positions(batch, channels, 2 * rows) {
        let start = ((image * channels + channel) * height + y) * width;
        for x in 0..2 * columns {
            let to = tokens.index(channel, channels, [y % 2, x % 2]);
            data[((image * 4 * channels + to) * rows + y / 2) * columns + x / 2] = latents.data[start + x];
        }
    }
    HostTensor::new(vec![batch, 4 * channels, rows, columns], data)
}

fn positions(batch: usize, channels: usize, height: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..batch).flat_map(move |image| {
        (0..channels).flat_map(move |channel| (0..height).map(move |y| (image, channel, y)))
    })
}

/// `[B, C, layers, h, w]`, or without `B`, to `[B * (layers - 1), C, h, w]`: each layer but the first as a picture.
fn without_first(latents: HostTensor) -> HostTensor {
    let (batch, [channels, layers, height, width]) = match latents.shape[..] {
        [batch, channels, layers, height, width] => (batch, [channels, layers, height, width]),
        [channels, layers, height, width] => (1, [channels, layers, height, width]),
        _ => return latents,
    };
    let plane = height * width;
    let mut data = Vec::with_capacity(latents.data.len());
    for image in latents.data.chunks_exact(channels * layers * plane) {
        for layer in 1..layers {
            for channel in image.chunks_exact(layers * plane) {
                data.extend_from_slice(&channel[layer * plane..(layer + 1) * plane]);
            }
        }
    }
    HostTensor::new(vec![batch * (layers - 1), channels, height, width], data)
}
