//! How a tensor holds latents, and the one layout that models take.

use crate::{HostTensor, VaeError, VaeInfo};

/// Brings latents into the layout that [`Vae::decode`](crate::Vae::decode) takes.
///
/// Image models take `[B, C, h, w]`, `[C, h, w]`, the same with an axis for one frame, `[B, C, 1, h, w]` and
/// `[C, 1, h, w]`, or packed latents as in Flux, `[B, tokens, 4C]`; video models take `[B, C, f, h, w]` or
/// `[C, f, h, w]`. The result always has its batch axis, and the one of frames for video models only.
///
/// `height` and `width` are the picture's size in pixels. Packed latents need both; other layouts say their own size,
/// and there both are ignored, because clients send wrong ones.
///
/// A 3-D tensor is packed when its last axis is `4C` and `height` and `width` ask for as many tokens as it has;
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
    match layout(&latents.shape, info, height, width)? {
        Layout::Packed { rows, columns } => Ok(unpack(&latents, rows, columns)),
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
    Ok(match layout(shape, info, height, width)? {
        Layout::Plain { shape } => shape,
        Layout::Packed { rows, columns } => vec![shape[0], info.latent_channels, 2 * rows, 2 * columns],
    })
}

/// How a tensor holds latents.
enum Layout {
    /// In the model's order: only axes of length 1 are missing or too many, and the shape is this one.
    Plain { shape: Vec<usize> },
    /// Tokens of 2×2 latents each.
    Packed { rows: usize, columns: usize },
}

fn layout(
    shape: &[usize],
    info: &VaeInfo,
    height: Option<usize>,
    width: Option<usize>,
) -> Result<Layout, VaeError> {
    let channels = info.latent_channels;
    let (rank, expected) = match info.temporal_factor {
        None => (4, format!("[B, {channels}, h, w]")),
        Some(_) => (5, format!("[B, {channels}, f, h, w]")),
    };
    if shape.contains(&0) {
        return Err(VaeError::Input(format!("the latents are empty: their shape is {shape:?}")));
    }
    if shape.len() == rank && shape[1] == channels {
        return Ok(Layout::Plain { shape: shape.to_vec() });
    }
    match (rank, shape) {
        (4, &[first, tokens, last]) => return layout_3d([first, tokens, last], info, height.zip(width)),
        // One frame of a video is a picture.
        (4, &[batch, c, 1, height, width]) if c == channels => {
            return Ok(Layout::Plain { shape: vec![batch, c, height, width] });
        }
        (4, &[c, 1, height, width]) if c == channels => {
            return Ok(Layout::Plain { shape: vec![1, c, height, width] });
        }
        (5, &[c, frames, height, width]) if c == channels => {
            return Ok(Layout::Plain { shape: vec![1, c, frames, height, width] });
        }
        _ => {}
    }
    Err(VaeError::Input(format!("latents of shape {shape:?} do not fit this model, which takes {expected}")))
}

/// The two readings of a 3-D tensor for an image model; `size` is the picture's height and width in pixels.
fn layout_3d(
    [first, tokens, last]: [usize; 3],
    info: &VaeInfo,
    size: Option<(usize, usize)>,
) -> Result<Layout, VaeError> {
    let channels = info.latent_channels;
    // The latent grid, as in FluxPipeline._unpack_latents: whole pairs of latents only.
    let pair = 2 * info.spatial_factor;
    let grid = size.map(|(height, width)| (height / pair, width / pair));
    let packed = match grid {
        _ if last != 4 * channels => {
            format!("packed latents [B, tokens, {}], but its last axis is {last}", 4 * channels)
        }
        None => format!("packed latents [B, tokens, {last}], but these need `height` and `width` in pixels"),
        Some((rows, columns)) if rows.checked_mul(columns) == Some(tokens) => {
            return Ok(Layout::Packed { rows, columns });
        }
        Some((rows, columns)) => format!(
            "packed latents [B, tokens, {last}], but `height` and `width` ask for {rows} x {columns} tokens and there \
             are {tokens}"
        ),
    };
    if first == channels {
        return Ok(Layout::Plain { shape: vec![1, first, tokens, last] });
    }
    Err(VaeError::Input(format!(
        "latents of shape {:?} can be read in two ways and fit neither: {packed}; or one image [{channels}, h, w], \
         but its first axis is {first}",
        [first, tokens, last]
    )))
}

/// `[B, rows * columns, 4C]` to `[B, C, 2 * rows, 2 * columns]`: each token holds, for each channel, a 2×2 patch.
/// `FluxPipeline._unpack_latents`.
fn unpack(packed: &HostTensor, rows: usize, columns: usize) -> HostTensor {
    let (batch, channels) = (packed.shape[0], packed.shape[2] / 4);
    let (height, width) = (2 * rows, 2 * columns);
    let mut data = vec![0.0; packed.data.len()];
    for (index, token) in packed.data.chunks_exact(4 * channels).enumerate() {
        let (image, row, column) = (index / (rows * columns), index / columns % rows, index % columns);
        for (channel, patch) in token.chunks_exact(4).enumerate() {
            let top = ((image * channels + channel) * height + 2 * row) * width + 2 * column;
            data[top..top + 2].copy_from_slice(&patch[..2]);
            data[top + width..top + width + 2].copy_from_slice(&patch[2..]);
        }
    }
    HostTensor::new(vec![batch, channels, height, width], data)
}
