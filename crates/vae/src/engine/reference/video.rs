//! The steps over clips. A clip's norm and attention are those of an image as high as all its frames together.

use super::{Attention, GroupNorm, Reference, Tensor, activate, add, attend, normalise};
use crate::engine::{Activation, CausalConv3dSpec, Stride, Upsampling, VideoEngine, Watch};
use crate::{EngineError, HostTensor, Weight};

/// `[1, C, F, H, W]` in C order, as an image of `F * H` rows.
pub struct Clip {
    image: Tensor,
    frames: usize,
}

/// A convolution's weights `[out, in, k, k, k]` and bias.
pub struct CausalConv3d {
    spec: CausalConv3dSpec,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl VideoEngine for Reference {
    type Clip = Clip;
    type CausalConv3d = CausalConv3d;

    fn causal_conv3d(
        &self,
        spec: CausalConv3dSpec,
        weight: Weight,
        bias: Weight,
    ) -> Result<CausalConv3d, EngineError> {
        Ok(CausalConv3d { spec, weight: weight.to_f32(), bias: bias.to_f32() })
    }

    fn upload_clip(&self, host: &HostTensor) -> Result<Clip, EngineError> {
        let &[1, channels, frames, height, width] = host.shape.as_slice() else {
            return Err(EngineError::Unsupported(format!(
                "a tensor of shape {:?}, expected [1, C, F, H, W]",
                host.shape
            )));
        };
        let image = Tensor { batch: 1, channels, height: frames * height, width, data: host.data.clone() };
        Ok(Clip { image, frames })
    }

    fn download_clip(&self, clip: &Clip) -> Result<HostTensor, EngineError> {
        let Tensor { channels, width, .. } = clip.image;
        let shape = vec![1, channels, clip.frames, clip.height(), width];
        Ok(HostTensor::new(shape, clip.image.data.clone()))
    }

    fn run_causal_conv3d(
        &self,
        x: Clip,
        conv: &CausalConv3d,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        convolve(&x, conv, watch)
    }

    fn run_norm_act_causal_conv3d(
        &self,
        x: &Clip,
        norm: &GroupNorm,
        activation: Activation,
        conv: &CausalConv3d,
        residual: Option<Clip>,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        let mut image = normalise(&x.image, norm);
        activate(&mut image.data, activation);
        let mut y = convolve(&Clip { image, frames: x.frames }, conv, watch)?;
        if let Some(residual) = residual {
            add(&mut y.image, &residual.image);
        }
        Ok(y)
    }

    fn run_upsample_causal_conv3d(
        &self,
        x: Clip,
        Upsampling { time, space }: Upsampling,
        conv: &CausalConv3d,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        let frames = if time { 2 * x.frames - 1 } else { x.frames };
        let scale = if space { 2 } else { 1 };
        let (height, width) = (scale * x.height(), scale * x.image.width);
        let image = x.image.with_planes(x.image.channels, (frames * height, width), |_, channel| {
            let plane = x.image.plane(0, channel);
            let value = |row: usize, column: usize| {
                // The first frame stays alone, each other one is there twice.
                let frame = if time { (row / height).div_ceil(2) } else { row / height };
                let row = frame * x.height() + row % height / scale;
                f64::from(plane[row * x.image.width + column / scale])
            };
            (0..frames * height)
                .flat_map(|row| (0..width).map(move |c| (row, c)))
                .map(|(r, c)| value(r, c))
                .collect()
        });
        convolve(&Clip { image, frames }, conv, watch)
    }

    fn run_causal_attention(
        &self,
        x: Clip,
        attention: &Attention,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        let area = x.height() * x.image.width;
        let seen = |position: usize| (position / area + 1) * area;
        let mut image = attend(&normalise(&x.image, &attention.norm), attention, seen);
        add(&mut image, &x.image);
        watch(1.0)?;
        Ok(Clip { image, frames: x.frames })
    }
}

impl Clip {
    /// Of one frame.
    fn height(&self) -> usize {
        self.image.height / self.frames
    }
}

/// `out[o, t, y, x] = bias[o] + Σ weight[o, i, kt, ky, kx] · in[i, s t + kt - 2, r y + ky - 1, r x + kx - 1]` with strides
/// `s` and `r`, for a kernel of 1 without the offsets; indices outside the clip are brought to its border.
fn convolve(x: &Clip, conv: &CausalConv3d, watch: &mut Watch<'_>) -> Result<Clip, EngineError> {
    let CausalConv3dSpec { in_channels, out_channels, kernel, stride: Stride { time, space } } = conv.spec;
    assert_eq!(x.image.channels, in_channels, "a convolution has the input channels it was made for");
    let input = [x.frames, x.height(), x.image.width];
    let [frames, height, width] =
        [(input[0] - 1) / time + 1, (input[1] - 1) / space + 1, (input[2] - 1) / space + 1];
    // Where tap `k` of output `i` reads, along an axis with `before` repeated values before its beginning.
    let clamp =
        |i: usize, k: usize, before: usize, length: usize| (i + k).saturating_sub(before).min(length - 1);
    let mut cancelled = None;
    let image = x.image.with_planes(out_channels, (frames * height, width), |_, o| {
        let mut sums = vec![f64::from(conv.bias[o]); frames * height * width];
        if cancelled.is_some() {
            return sums;
        }
        for i in 0..in_channels {
            let plane = x.image.plane(0, i);
            for tap in 0..kernel * kernel * kernel {
                let (kt, ky, kx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
                let weight = f64::from(conv.weight[(o * in_channels + i) * kernel * kernel * kernel + tap]);
                for (line, sums) in sums.chunks_exact_mut(width).enumerate() {
                    let frame = clamp(line / height * time, kt, kernel - 1, input[0]);
                    let row = clamp(line % height * space, ky, kernel / 2, input[1]);
                    let row = &plane[(frame * input[1] + row) * input[2]..][..input[2]];
                    for (column, sum) in sums.iter_mut().enumerate() {
                        *sum += weight * f64::from(row[clamp(column * space, kx, kernel / 2, input[2])]);
                    }
                }
            }
        }
        cancelled = watch((o + 1) as f64 / out_channels as f64).err();
        sums
    });
    match cancelled {
        Some(cancelled) => Err(cancelled.into()),
        None => Ok(Clip { image, frames }),
    }
}
