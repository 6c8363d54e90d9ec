//! From the latents of a request to the latents that a model decodes: layout first ([`arrange`]), then values
//! ([`Scaling::apply`]). Both restate what diffusers' pipelines do just before `vae.decode`. [`Scaling::undo`] is what
//! they do just after `vae.encode`.

use crate::{HostTensor, VaeError, VaeInfo};

/// Brings latents into the layout that [`Vae::decode`](crate::Vae::decode) takes.
///
/// Image models take `[B, C, h, w]`, `[C, h, w]`, or packed latents as in Flux, `[B, tokens, 4C]`; video models take
/// `[B, C, f, h, w]` or `[C, f, h, w]`. The result always has its batch axis.
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
        Layout::Whole => Ok(latents),
        Layout::OneItem => {
            latents.shape.insert(0, 1);
            Ok(latents)
        }
        Layout::Packed { rows, columns } => Ok(unpack(&latents, rows, columns)),
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
        Layout::Whole => shape.to_vec(),
        Layout::OneItem => [&[1], shape].concat(),
        Layout::Packed { rows, columns } => vec![shape[0], info.latent_channels, 2 * rows, 2 * columns],
    })
}

/// How a tensor holds latents.
enum Layout {
    /// As the model takes them.
    Whole,
    /// Without the batch axis.
    OneItem,
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
        return Ok(Layout::Whole);
    }
    if let (4, &[first, tokens, last]) = (rank, shape) {
        return layout_3d([first, tokens, last], info, height.zip(width));
    }
    if shape.len() == rank - 1 && shape[0] == channels {
        return Ok(Layout::OneItem);
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
        return Ok(Layout::OneItem);
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
    /// When `latents` has not the `C` that `info` says; [`arrange`] makes sure of it.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn info(latent_channels: usize) -> VaeInfo {
        VaeInfo {
            class_name: "AutoencoderKL".into(),
            engine: String::new(),
            latent_channels,
            out_channels: 3,
            spatial_factor: 8,
            can_encode: false,
            temporal_factor: None,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
        }
    }

    /// Values that say where they are.
    fn counted(shape: &[usize]) -> HostTensor {
        HostTensor::new(shape.to_vec(), (0..shape.iter().product()).map(|i: usize| i as f32).collect())
    }

    fn shape_after(
        shape: &[usize],
        channels: usize,
        size: Option<(usize, usize)>,
    ) -> Result<Vec<usize>, String> {
        let (height, width) = size.unzip();
        let told = arranged_shape(shape, &info(channels), height, width).map_err(|error| error.to_string());
        let arranged = arrange(counted(shape), &info(channels), height, width)
            .map(|latents| latents.shape)
            .map_err(|error| error.to_string());
        assert_eq!(arranged, told, "the shape is known before the values are there");
        arranged
    }

    #[test]
    fn a_batch_is_taken_as_it_is_whatever_size_is_sent_along() {
        assert_eq!(shape_after(&[2, 4, 5, 7], 4, None).unwrap(), [2, 4, 5, 7]);
        assert_eq!(shape_after(&[2, 4, 5, 7], 4, Some((1, 999))).unwrap(), [2, 4, 5, 7]);
    }

    #[test]
    fn one_image_gains_its_batch_axis() {
        assert_eq!(shape_after(&[4, 5, 7], 4, None).unwrap(), [1, 4, 5, 7]);
        // As SD.Next sends Flux latents: 3-D, with the picture's size.
        assert_eq!(shape_after(&[16, 128, 64], 16, Some((1024, 512))).unwrap(), [1, 16, 128, 64]);
    }

    #[test]
    fn packed_latents_are_unpacked_as_diffusers_does() {
        // torch: x.view(1, 1, 2, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 4, 2, 4) of arange(32), the first
        // two channels written out.
        let out = arrange(counted(&[1, 2, 16]), &info(4), Some(16), Some(32)).unwrap();
        assert_eq!(out.shape, [1, 4, 2, 4]);
        assert_eq!(out.data[..8], [0., 1., 16., 17., 2., 3., 18., 19.]);
        assert_eq!(out.data[8..16], [4., 5., 20., 21., 6., 7., 22., 23.]);
        // Sizes round down to whole pairs of latents, and the batch comes first.
        assert_eq!(shape_after(&[3, 6, 64], 16, Some((47, 33))).unwrap_err().matches("2 x 2").count(), 1);
        assert_eq!(shape_after(&[3, 6, 64], 16, Some((47, 48))).unwrap(), [3, 16, 4, 6]);
    }

    #[test]
    fn a_3d_tensor_that_could_be_both_is_what_its_token_count_says() {
        assert_eq!(shape_after(&[16, 64, 64], 16, Some((128, 128))).unwrap(), [16, 16, 16, 16]);
        assert_eq!(shape_after(&[16, 64, 64], 16, Some((512, 512))).unwrap(), [1, 16, 64, 64]);
        assert_eq!(shape_after(&[16, 64, 64], 16, None).unwrap(), [1, 16, 64, 64]);
    }

    #[test]
    fn a_3d_tensor_that_fits_nothing_is_told_both_readings() {
        let error = shape_after(&[1, 4096, 64], 16, None).unwrap_err();
        assert!(error.contains("`height` and `width`") && error.contains("[16, h, w]"), "{error}");
        let error = shape_after(&[1, 4096, 64], 16, Some((512, 512))).unwrap_err();
        assert!(error.contains("32 x 32 tokens") && error.contains("there are 4096"), "{error}");
        let error = shape_after(&[1, 4096, 64], 4, Some((1024, 1024))).unwrap_err();
        assert!(error.contains("its last axis is 64") && error.contains("its first axis is 1"), "{error}");
    }

    #[test]
    fn sizes_no_picture_can_have_are_errors_and_never_overflow() {
        for size in [(0, 0), (usize::MAX, usize::MAX), (15, 1024)] {
            assert!(shape_after(&[1, 4096, 64], 16, Some(size)).is_err());
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for shape in [&[4][..], &[5, 7], &[1, 3, 5, 7], &[1, 4, 1, 5, 7], &[1, 4, 0, 7], &[4, 0, 7], &[]] {
            let error = shape_after(shape, 4, None).unwrap_err();
            assert!(error.contains(&format!("{shape:?}")), "{error}");
        }
    }

    #[test]
    fn video_latents_keep_their_frames() {
        let video = VaeInfo { temporal_factor: Some(4), ..info(16) };
        let shape = |shape: &[usize]| arrange(counted(shape), &video, Some(1), Some(1)).map(|x| x.shape);
        assert_eq!(shape(&[1, 16, 3, 4, 5]).unwrap(), [1, 16, 3, 4, 5]);
        assert_eq!(shape(&[16, 3, 4, 5]).unwrap(), [1, 16, 3, 4, 5]);
        assert!(shape(&[1, 16, 4, 5]).is_err());
        assert!(shape(&[16, 4, 5]).is_err());
    }

    #[test]
    fn scaling_is_the_pipelines_arithmetic() {
        let scaled = |scaling: Scaling, info: &VaeInfo| {
            let mut latents = HostTensor::new(vec![1, 2, 1, 2], vec![0.7, -1.3, 2.9, -0.0]);
            scaling.apply(&mut latents, info).unwrap();
            latents.data
        };
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let plain = info(2);
        let shifted = VaeInfo { scaling_factor: 0.3611, shift_factor: Some(0.1159), ..info(2) };
        let standardised = VaeInfo {
            latents_mean: Some(vec![0.5, -0.25]),
            latents_std: Some(vec![2.0, 3.0]),
            ..shifted.clone()
        };

        let x = [0.7f32, -1.3, 2.9, -0.0];
        assert_eq!(bits(&scaled(Scaling::Unchanged, &standardised)), bits(&x));
        assert_eq!(bits(&scaled(Scaling::Model, &plain)), bits(&x.map(|x| x / 0.18215)));
        assert_eq!(scaled(Scaling::Model, &shifted), x.map(|x| x / 0.3611 + 0.1159));
        let expected = [
            x[0] * 2.0 / 0.3611 + 0.5,
            x[1] * 2.0 / 0.3611 + 0.5,
            x[2] * 3.0 / 0.3611 - 0.25,
            x[3] * 3.0 / 0.3611 - 0.25,
        ];
        assert_eq!(scaled(Scaling::Model, &standardised), expected);
        let factors = Scaling::Factors { scaling_factor: 0.13025, shift_factor: None };
        assert_eq!(bits(&scaled(factors, &standardised)), bits(&x.map(|x| x / 0.13025)));
    }

    #[test]
    fn what_was_scaled_can_be_scaled_back() {
        let shifted = VaeInfo { scaling_factor: 0.3611, shift_factor: Some(0.1159), ..info(2) };
        let standardised = VaeInfo {
            latents_mean: Some(vec![0.5, -0.25]),
            latents_std: Some(vec![2.0, 3.0]),
            ..shifted.clone()
        };
        let factors = Scaling::Factors { scaling_factor: -2.0, shift_factor: Some(0.5) };
        let expected = counted(&[2, 2, 1, 3]);
        for (scaling, info) in [
            (Scaling::Unchanged, &shifted),
            (Scaling::Model, &shifted),
            (Scaling::Model, &standardised),
            (factors, &shifted),
        ] {
            let mut latents = expected.clone();
            scaling.apply(&mut latents, info).unwrap();
            assert_eq!(latents == expected, scaling == Scaling::Unchanged);
            scaling.undo(&mut latents, info).unwrap();
            for (found, expected) in latents.data.iter().zip(&expected.data) {
                assert!((found - expected).abs() < 1e-5, "{scaling:?}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn factors_that_make_no_sense_are_refused() {
        let mut latents = counted(&[1, 2, 1, 2]);
        for scaling_factor in [0.0, f32::NAN, f32::INFINITY] {
            let scaling = Scaling::Factors { scaling_factor, shift_factor: None };
            assert!(matches!(scaling.apply(&mut latents, &info(2)), Err(VaeError::Input(_))));
            assert!(matches!(scaling.undo(&mut latents, &info(2)), Err(VaeError::Input(_))));
        }
        let scaling = Scaling::Factors { scaling_factor: 1.0, shift_factor: Some(f32::NAN) };
        assert!(matches!(scaling.apply(&mut latents, &info(2)), Err(VaeError::Input(_))));
    }
}
