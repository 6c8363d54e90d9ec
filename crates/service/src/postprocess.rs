//! From what a model gave to what a client asked for.

use media::Channels;
use vae::HostTensor;
use wire::{DType, Tensor, Values, WireError};

use crate::tensors::floats;

/// A decoded tensor as the client wants it. `pixels` is `[B, C, H, W]`, or `[1, C, F, H, W]`, nominally in [-1, 1], with alpha if
/// `C` is 4; [`Values`] says what comes out.
///
/// # Errors
/// None that a request can cause: the shapes fit.
pub(crate) fn tensor(pixels: HostTensor, values: Values, dtype: DType) -> Result<Tensor, WireError> {
    match values {
        Values::Raw => Tensor::new(dtype, pixels.shape, floats(&pixels.data, dtype)),
        Values::Unit => {
            let mut pixels = frames_first(pixels);
            media::unit_range(&mut pixels.data);
            Tensor::new(dtype, pixels.shape, floats(&pixels.data, dtype))
        }
        Values::Round8 => {
            let Pictures { height, width, channels, pictures } = pictures(pixels)?;
            let shape = vec![pictures.len(), height, width, channels.count()];
            Tensor::new(DType::UInt8, shape, pictures.concat().into())
        }
    }
}

/// Pictures, or the frames of a video, as bytes.
pub(crate) struct Pictures {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: Channels,
    /// Each `[height, width, channels]`.
    pub(crate) pictures: Vec<Vec<u8>>,
}

/// Every picture or frame as bytes.
///
/// # Errors
/// Values that are neither RGB nor RGBA; [`answer::check`](crate::answer::check) has refused these.
pub(crate) fn pictures(pixels: HostTensor) -> Result<Pictures, WireError> {
    let pixels = frames_first(pixels);
    let none = || WireError::Body(format!("values of shape {:?} make no picture", pixels.shape));
    let &[_, count, height, width] = pixels.shape.as_slice() else { return Err(none()) };
    let channels = Channels::new(count).ok_or_else(none)?;
    let planes = pixels.data.chunks_exact(count * height * width);
    let pictures = planes.map(|planes| media::pixels_from_planes(planes, channels)).collect();
    Ok(Pictures { height, width, channels, pictures })
}

/// `[1, C, F, H, W]` to `[F, C, H, W]`; pictures are in this order already.
fn frames_first(pixels: HostTensor) -> HostTensor {
    let &[batch, channels, frames, height, width] = pixels.shape.as_slice() else { return pixels };
    let plane = height * width;
    let planes: Vec<_> = pixels.data.chunks_exact(plane).collect();
    let mut data = Vec::with_capacity(pixels.data.len());
    for item in planes.chunks_exact(channels * frames) {
        for frame in 0..frames {
            item.iter().skip(frame).step_by(frames).for_each(|plane| data.extend_from_slice(plane));
        }
    }
    HostTensor::new(vec![batch * frames, channels, height, width], data)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn counted(shape: &[usize]) -> HostTensor {
        let count = shape.iter().product::<usize>();
        HostTensor::new(shape.to_vec(), (0..count).map(|i| i as f32 / count as f32 * 4.0 - 2.0).collect())
    }

    #[test]
    fn the_frames_of_a_video_become_pictures() {
        // numpy: arange(1*3*2*1*2).reshape(1, 3, 2, 1, 2)[0].transpose(1, 0, 2, 3).ravel()
        let video = HostTensor::new(vec![1, 3, 2, 1, 2], (0..12).map(|i| i as f32).collect());
        let frames = frames_first(video);
        assert_eq!(frames.shape, [2, 3, 1, 2]);
        assert_eq!(frames.data, [0., 1., 4., 5., 8., 9., 2., 3., 6., 7., 10., 11.]);
    }

    #[test]
    fn every_kind_of_values() {
        let pixels = counted(&[2, 3, 2, 5]);
        let raw = tensor(pixels.clone(), Values::Raw, DType::Float32).unwrap();
        assert_eq!(raw.head.shape, [2, 3, 2, 5]);
        let back: Vec<_> =
            raw.bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert_eq!(back, pixels.data, "nothing is clamped");

        let unit = tensor(pixels.clone(), Values::Unit, DType::BFloat16).unwrap();
        assert_eq!((unit.head.shape.as_slice(), unit.bytes.len()), (&[2, 3, 2, 5][..], 120));
        for (bytes, &value) in unit.bytes.as_chunks::<2>().0.iter().zip(&pixels.data) {
            let expected = bf16::from_f32((value / 2.0 + 0.5).clamp(0.0, 1.0));
            assert_eq!(bf16::from_le_bytes(*bytes), expected);
        }

        let bytes = tensor(pixels.clone(), Values::Round8, DType::UInt8).unwrap();
        assert_eq!((bytes.head.dtype, bytes.head.shape.as_slice()), (DType::UInt8, &[2, 2, 5, 3][..]));
        for (index, &byte) in bytes.bytes.iter().enumerate() {
            let (picture, pixel, channel) = (index / 30, index % 30 / 3, index % 3);
            assert_eq!(byte, media::round8(pixels.data[picture * 30 + channel * 10 + pixel]));
        }
    }

    #[test]
    fn alpha_is_a_channel_like_the_others() {
        let pixels = counted(&[2, 4, 2, 5]);
        let bytes = tensor(pixels.clone(), Values::Round8, DType::UInt8).unwrap();
        assert_eq!(bytes.head.shape, [2, 2, 5, 4]);
        for (index, &byte) in bytes.bytes.iter().enumerate() {
            let (picture, pixel, channel) = (index / 40, index % 40 / 4, index % 4);
            assert_eq!(byte, media::round8(pixels.data[picture * 40 + channel * 10 + pixel]));
        }
        let unit = tensor(pixels, Values::Unit, DType::Float32).unwrap();
        assert_eq!(unit.head.shape, [2, 4, 2, 5]);
        assert!(tensor(counted(&[1, 1, 2, 5]), Values::Round8, DType::UInt8).is_err());
    }

    #[test]
    fn values_of_a_broken_model_break_nothing() {
        let mut pixels = counted(&[1, 3, 1, 1]);
        pixels.data = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        assert_eq!(*tensor(pixels, Values::Round8, DType::UInt8).unwrap().bytes, [0, 255, 0]);
    }
}
